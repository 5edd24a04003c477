"""The optional HTTP endpoint: /metrics for Prometheus, /healthz and /readyz for probes. Imported only when asked for.

Every counter of the ledger is `tcp_sniffer_<name>_total`, those of a lane `tcp_sniffer_lane_<name>_total{lane="..."}`;
gauges carry no `_total`. docs/internals/COUNTERS.md explains them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from aiohttp import web
from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from sniffer.errors import SnifferError
from sniffer.ledger import DECLARED, LANE, Ledger
from sniffer.serving import HttpServer, bind

if TYPE_CHECKING:
    from sniffer_core.core import RawMessage

PREFIX: Final = "tcp_sniffer_"
LATENCIES: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the histogram's buckets, in seconds."""
CLOSE_SECONDS: Final = 0.5


class Watched(Protocol):
    """The part of a sniffer that the endpoint uses."""

    observe: Callable[[Sequence[RawMessage]], None] | None

    @property
    def left_out(self) -> Mapping[str, Mapping[str, Mapping[str, int]]]:
        """Exchanges that expressions have left out, by option, method and status class."""

    @property
    def ledger(self) -> Ledger:
        """The counters; read at each request."""

    @property
    def ready(self) -> bool:
        """Whether /readyz answers 200."""

    @property
    def healthy(self) -> bool:
        """Whether /healthz answers 200."""


class Endpoint:
    """Serves the metrics and the health of `sniffer` until it is closed. Sets the sniffer's `observe`."""

    def __init__(self, sniffer: Watched, address: str, port: int) -> None:
        self._sniffer = sniffer
        self._address = address
        self._port = port
        self._registry = CollectorRegistry()
        self._registry.register(_Counters(sniffer))
        ProcessCollector(registry=self._registry)
        self._latency = Histogram(
            f"{PREFIX}exchange_latency_seconds",
            "last byte of a request to first byte of its response",
            buckets=LATENCIES,
            registry=self._registry,
        )
        sniffer.observe = self._observe
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        self._server = HttpServer(app, name="metrics", close_seconds=CLOSE_SECONDS)

    async def open(self) -> None:
        """Starts to serve. Raises SnifferError if it cannot listen on the address."""
        try:
            await self._server.open(bind(self._address, self._port))
        except OSError as error:
            raise SnifferError(
                f"metrics_port: cannot listen on {self._address} port {self._port}: {error.strerror}"
            ) from error

    def say_last(self) -> None:
        """Logs the counts of clients' errors for the last time. Serving goes on until `close()`."""
        self._server.said.end()

    async def close(self) -> None:
        """Ends serving."""
        await self._server.close()

    def _observe(self, messages: Sequence[RawMessage]) -> None:
        for message in messages:
            latency = message.latency_us
            if latency is not None:
                self._latency.observe(latency / 1_000_000)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async def _healthz(self, _: web.Request) -> web.Response:
        return _probe(self._sniffer.healthy)

    async def _readyz(self, _: web.Request) -> web.Response:
        return _probe(self._sniffer.ready)


def _probe(good: bool) -> web.Response:
    return web.Response(text="ok\n") if good else web.Response(text="not ok\n", status=503)


class _Counters:
    """The ledger's snapshot as metrics."""

    def __init__(self, sniffer: Watched) -> None:
        self._sniffer = sniffer

    def describe(self) -> Iterable[Metric]:
        """Returns no names, so that registration does not read the counters."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Yields a metric for each counter and gauge; those of lanes have the label `lane`."""
        snapshot = self._sniffer.ledger.snapshot()
        for counter in DECLARED.values():
            family = GaugeMetricFamily if counter.gauge else CounterMetricFamily
            yield family(PREFIX + counter.name, counter.meaning, value=snapshot[counter.name])
        for counter in LANE:
            family = GaugeMetricFamily if counter.gauge else CounterMetricFamily
            metric = family(f"{PREFIX}lane_{counter.name}", counter.meaning, labels=["lane"])
            for name, counters in snapshot["lanes"].items():
                metric.add_metric([name], counters[counter.name])
            yield metric
        if left_out := self._sniffer.left_out:
            labels = ["option", "method", "status"]
            metric = CounterMetricFamily(
                f"{PREFIX}exchanges_left_out", "exchanges left out by WHERE or KEEP", labels=labels
            )
            for option, by_method in left_out.items():
                for method, counts in by_method.items():
                    for status, count in counts.items():
                        metric.add_metric([option, method, status], count)
            yield metric
