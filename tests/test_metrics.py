"""sniffer.metrics: the ledger for Prometheus, probes, and a histogram of latencies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, cast

import pytest
from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families

from sniffer.errors import SnifferError
from sniffer.ledger import DECLARED, LANE, Ledger
from sniffer.metrics import Endpoint
from tests.daemon import free_port

if TYPE_CHECKING:
    from sniffer_core.core import RawMessage


class Watched:
    """A sniffer as the endpoint sees it."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.ready = True
        self.healthy = True
        self.left_out: dict[str, dict[str, dict[str, int]]] = {}
        self.observe: Callable[[Sequence[RawMessage]], None] | None = None


class Message:
    """A message as the histogram sees it."""

    def __init__(self, latency_us: int | None) -> None:
        self.latency_us = latency_us


@pytest.fixture
async def served() -> AsyncIterator[tuple[Watched, str]]:
    """A sniffer that is watched, and where its endpoint listens."""
    watched, port = Watched(), free_port()
    endpoint = Endpoint(watched, "127.0.0.1", port)
    await endpoint.open()
    yield watched, f"http://127.0.0.1:{port}"
    await endpoint.close()


async def get(url: str) -> tuple[int, str]:
    """Status and text of an answer."""
    async with ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


async def samples(base: str) -> dict[tuple[str, str], float]:
    """The samples of /metrics by name and lane (or bucket)."""
    status, text = await get(f"{base}/metrics")
    assert status == 200
    return {
        (sample.name, sample.labels.get("lane") or sample.labels.get("le") or ""): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_every_counter_is_a_metric(served: tuple[Watched, str]) -> None:
    """Counters end in _total, gauges do not, and lanes are told apart by a label."""
    watched, base = served
    watched.ledger.add("messages_offered", 7)
    watched.ledger.lane("stdout", lambda: {"offered": 7, "waiting": 2})
    found = await samples(base)
    assert found["tcp_sniffer_messages_offered_total", ""] == 7
    assert found["tcp_sniffer_pump_waiting", ""] == 0
    assert found["tcp_sniffer_lane_offered_total", "stdout"] == 7
    assert found["tcp_sniffer_lane_waiting", "stdout"] == 2
    for prefix, counters, label in (("", DECLARED.values(), ""), ("lane_", LANE, "stdout")):
        for counter in counters:
            name = f"tcp_sniffer_{prefix}{counter.name}{'' if counter.gauge else '_total'}"
            assert (name, label) in found
    assert found["process_resident_memory_bytes", ""] > 0


async def test_latencies(served: tuple[Watched, str]) -> None:
    """Each response with a latency is in the histogram, in seconds; other messages are not."""
    watched, base = served
    assert watched.observe is not None
    watched.observe(cast("Sequence[RawMessage]", [Message(None), Message(4_000), Message(2_000_000)]))
    found = await samples(base)
    assert found["tcp_sniffer_exchange_latency_seconds_count", ""] == 2
    assert found["tcp_sniffer_exchange_latency_seconds_bucket", "0.005"] == 1
    assert found["tcp_sniffer_exchange_latency_seconds_sum", ""] == pytest.approx(2.004)


async def test_probes(served: tuple[Watched, str]) -> None:
    """/healthz and /readyz answer 200 or 503, each for itself."""
    watched, base = served
    assert [(await get(f"{base}/{path}"))[0] for path in ("healthz", "readyz", "else")] == [200, 200, 404]
    watched.ready = False
    assert [(await get(f"{base}/{path}"))[0] for path in ("healthz", "readyz")] == [200, 503]
    watched.ready, watched.healthy = True, False
    assert [(await get(f"{base}/{path}"))[0] for path in ("healthz", "readyz")] == [503, 200]


async def test_busy_port_is_a_clear_error(served: tuple[Watched, str]) -> None:
    """An address that cannot be listened on is one typed error that names the option."""
    _, base = served
    with pytest.raises(SnifferError, match="metrics_port: cannot listen on"):
        await Endpoint(Watched(), "127.0.0.1", int(base.rsplit(":", 1)[1])).open()


async def test_what_expressions_leave_out_is_exported(served: tuple[Watched, str]) -> None:
    """Exchanges that were left out are counted by option, method and status class; without an option there is none."""
    watched, base = served
    name = "tcp_sniffer_exchanges_left_out_total"
    assert name not in (await get(f"{base}/metrics"))[1]
    watched.left_out = {"keep": {"GET": {"2xx": 7, "none": 1}}, "where": {"other": {"5xx": 2}}}
    lines = (await get(f"{base}/metrics"))[1].splitlines()
    assert [line for line in lines if line.startswith(name)] == [
        name + '{method="GET",option="keep",status="2xx"} 7.0',
        name + '{method="GET",option="keep",status="none"} 1.0',
        name + '{method="other",option="where",status="5xx"} 2.0',
    ]
