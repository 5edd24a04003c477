"""docs/DELIVERY.md: its example works, and its tables name what there is."""

from __future__ import annotations

import asyncio
import re
import sys
import types
from dataclasses import asdict
from pathlib import Path

import pytest

from sniffer.delivery.account import LaneCounters
from sniffer.delivery.lane import Lane
from sniffer.delivery.retry import Retries
from tests.daemon import ROOT
from tests.deliveries import balanced, messages, settled
from tests.waiting import BOUND

DOCS = ROOT / "docs" / "DELIVERY.md"


@pytest.fixture
def example() -> types.ModuleType:
    """What the page's Python defines."""
    page = DOCS.read_text()
    module = types.ModuleType("delivery_example")
    sys.modules["delivery_example"] = module
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, str(DOCS), "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("spooled", [False, True])
async def test_the_example_delivers(example: types.ModuleType, tmp_path: Path, spooled: bool) -> None:
    """The sink of the page delivers JSON lines to a real server, from memory and from a spool."""
    got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.set_result(await reader.read())
        writer.close()

    server = await asyncio.start_server(receive, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        address = f"{host}:{port}"
        lane: Lane = (
            example.spooled_tcp_lane(address, tmp_path, 8 << 20)
            if spooled
            else Lane(example.TcpSink(address), retries=Retries(), share=8 << 20)
        )
        await lane.open()
        lane.offer(messages(3))
        counters = await settled(lane)
        await lane.close()
        lines = await asyncio.wait_for(got, BOUND)
    assert lines == b"".join(m.to_json() + b"\n" for m in messages(3))
    assert counters.delivered == 3
    assert balanced(counters)


def test_every_counter_is_explained() -> None:
    """The page's table has a row for each counter of a lane."""
    page = DOCS.read_text()
    for name in asdict(LaneCounters()):
        if name != "offered":
            assert f"| `{name}` |" in page, name
