"""What is left out of every output, and under which counter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sniffer.filters import INSTANCE_HEADER, make_filter
from sniffer.outputs import Place
from sniffer.pipeline import Sniffer, create_sniffer
from tests.captures import connection, get, ok, write
from tests.scripted import ScriptedSource, scripted
from tests.waiting import until

__all__ = ["scripted"]


def assert_balanced(sniffer: Sniffer) -> None:
    assert sniffer.ledger.check() == []


def traffic() -> list[Any]:
    """Probes and real requests, one of each on the same connection."""
    return connection(
        [
            (get("/healthz?verbose=1", user_agent="kube-probe/1.29"), ok()),
            (get("/shop", user_agent="curl/8"), ok()),
            (get("/ready", user_agent="curl/8"), ok()),
            (get("/shop", user_agent="kube-probe/1.29"), ok()),
        ]
    )


async def test_exchanges_are_left_out_whole(tmp_path: Path) -> None:
    """`EXCLUDE_PATHS` and `EXCLUDE_USER_AGENTS` leave out request and response, counted; a query is no hindrance."""
    sniffer = create_sniffer(
        ports=[8080],
        read=write(tmp_path / "file", traffic()),
        exclude_paths=["/healthz", "/rea*"],
        exclude_user_agents=["kube-probe/*"],
    )
    async with sniffer:
        left = [(message.path, message.direction, message.exchange) async for message in sniffer]
    assert left == [("/shop", "request", 1), ("/shop", "response", 1)]
    snapshot = sniffer.ledger.snapshot()
    assert snapshot["messages_excluded_path"] == 4
    assert snapshot["messages_excluded_user_agent"] == 2
    assert_balanced(sniffer)


@pytest.mark.parametrize(
    ("target", "glob", "left_out"),
    [
        ("http://h/healthz", "/healthz", True),
        ("HTTPS://u:p@h:8080/healthz?x=/y", "/healthz", True),
        ("http://[::1]:80/ready/1", "/ready/*", True),
        ("http://h", "/", True),
        ("http://h?x=1", "/", True),
        ("http://h/shop", "/healthz", False),
        ("http://healthz/", "/healthz", False),
        ("http://h/shop?to=/healthz", "/healthz", False),
        ("/proxy/http://h/healthz", "/healthz", False),
        ("http://h/healthz", "http://h/*", True),
        ("h:443", "h:*", True),
        ("h:443", "/*", False),
        ("*", "[*]", True),
        ("*", "/*", False),
    ],
)
async def test_excluded_paths_see_the_path_of_every_target(
    tmp_path: Path, target: str, glob: str, left_out: bool
) -> None:
    """`EXCLUDE_PATHS` sees the path of an absolute target, and the whole of what has no path."""
    request = f"OPTIONS {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
    file = write(tmp_path / "file", connection([(request, ok())]))
    sniffer = create_sniffer(ports=[8080], read=file, exclude_paths=[glob])
    async with sniffer:
        left = [message async for message in sniffer]
    assert len(left) == (0 if left_out else 2)
    assert_balanced(sniffer)


@pytest.mark.parametrize(
    ("method", "host", "target", "header", "foreign"),
    [
        ("POST", "Collector.test:9000", "/in?x=1", INSTANCE_HEADER, True),
        ("POST", "collector.test:9000", "/in", INSTANCE_HEADER.lower(), True),
        ("POST", "collector.test:9000", "http://collector.test:9000/in?x=1", INSTANCE_HEADER, True),
        ("PUT", "collector.test:9000", "/in", INSTANCE_HEADER, False),
        ("POST", "other.test:9000", "/in", INSTANCE_HEADER, False),
        ("POST", "collector.test:9000", "/out", INSTANCE_HEADER, False),
        ("POST", "collector.test:9000", "/in", "X-Other", False),
    ],
)
async def test_deliveries_of_other_sniffers_are_left_out(
    scripted: ScriptedSource, method: str, host: str, target: str, header: str, foreign: bool
) -> None:
    """Only a POST with the instance header to our own `OUTPUT_URL` is left out."""
    request = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{header}: abc\r\nContent-Length: 0\r\n\r\n".encode()
    scripted.say(connection([(request, ok())]))
    sniffer = create_sniffer(
        ports=[8080], interface="x", output_url="http://collector.test:9000/in", drain_timeout_ms=1
    )
    async with sniffer:
        await until(lambda: sniffer.ledger.snapshot()["messages_response"])
        await until(lambda: not sniffer.ledger.snapshot()["handoff_waiting"])
    assert sniffer.ledger.snapshot()["messages_foreign"] == (2 if foreign else 0)
    assert_balanced(sniffer)


def test_in_a_file_the_deliveries_of_sniffers_are_messages() -> None:
    """Only a live capture could feed back into itself: a file is reported as it is."""
    options: dict[str, Any] = {"ports": [80], "output_url": "http://collector.test/in"}
    assert create_sniffer(interface="x", **options)._leaves_out is not None
    assert create_sniffer(read="x.pcap", **options)._leaves_out is None


def test_nothing_to_leave_out_is_no_filter() -> None:
    """Where nothing is named no message is looked at."""
    assert make_filter() is None
    assert make_filter(places=[Place(frozenset(("h",)), "/in")]) is not None
