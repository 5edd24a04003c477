"""The summary of all exchanges that the view has shown. Its memory is bounded, however many there were.

Percentiles and sums are those of the exchanges whose time was measured. Where that are not all, their number is said.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from sniffer.exchanges import Exchange
from sniffer.logs import printable
from sniffer.outputs.terminal.lines import MARK, PLAIN, STATUS, address, duration
from sniffer.routes import Routes
from sniffer.times import Times

if TYPE_CHECKING:
    from sniffer.record.message import HttpMessage

SLOWEST: Final = 5
"""Exchanges, and endpoints, that are listed."""
MOST_ENDPOINTS: Final = 200
"""Endpoints that are told apart. All beyond are counted together."""
LONG_METHOD: Final = 20
LONG_PATH: Final = 200
"""Characters of a method and of a path that are kept."""
SHARES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


class _Endpoint:
    """What is known of one endpoint, or of all that are not told apart."""

    __slots__ = ("exchanges", "latencies", "total")

    def __init__(self) -> None:
        self.exchanges = 0
        self.latencies = Times(1.1)
        self.total = 0.0
        """Sum of the durations, in milliseconds."""

    def merge(self, other: _Endpoint) -> None:
        """Adds what is known of another endpoint."""
        self.exchanges += other.exchanges
        self.latencies.merge(other.latencies)
        self.total += other.total


class Summary:
    """What is said of all exchanges at the end."""

    def __init__(self) -> None:
        self.exchanges = 0
        self.classes: Counter[str] = Counter()
        self.incomplete = 0
        self.latencies = Times(1.01)
        self.durations = Times(1.01)
        self._routes = Routes(_Endpoint, most=MOST_ENDPOINTS)
        self.others = self._routes.others
        self._slowest: list[tuple[float, int, str]] = []

    def add(self, exchange: Exchange) -> None:
        """Counts an exchange."""
        response = exchange.response
        self.exchanges += 1
        self.incomplete += any(part is not None and part.incomplete is not None for part in exchange)
        message = exchange.message
        endpoint = None if message.method is None else self._routes.find(*endpoint_of(message))
        if endpoint is not None:
            endpoint.exchanges += 1
        if response is None:
            self.classes["no response"] += 1
            return
        self.classes[f"{(response.status_code or 0) // 100}xx"] += 1
        if response.method is None:
            self.classes["no request"] += 1
        if response.duration_ms is not None:
            self.durations.add(response.duration_ms)
            if endpoint is not None:
                endpoint.total += response.duration_ms
        if response.latency_ms is not None:
            self.latencies.add(response.latency_ms)
            if endpoint is not None:
                endpoint.latencies.add(response.latency_ms)
            self._rank(response, response.latency_ms)

    @property
    def endpoints(self) -> dict[str, _Endpoint]:
        """What is known of each endpoint, by its name."""
        return dict(self._routes)

    def _rank(self, response: HttpMessage, latency: float) -> None:
        if len(self._slowest) < SLOWEST or latency > self._slowest[0][0]:
            path = printable((response.path or response.route_id or "")[:LONG_PATH])
            what = f"{response.method} {path} {response.status_code}"
            heapq.heappush(self._slowest, (latency, -self.exchanges, what))
            if len(self._slowest) > SLOWEST:
                heapq.heappop(self._slowest)

    def percentile(self, share: float) -> float:
        """The latency in milliseconds that this share of the exchanges does not exceed; 0 if none was measured."""
        return self.latencies.percentile(share)

    def table(self, drops: Mapping[str, int]) -> RenderableType:
        """The whole summary. `drops`: what was lost, by who lost it."""
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column()
        incomplete = f", {self.incomplete:,} of them incomplete" if self.incomplete else ""
        table.add_row("exchanges", f"{self.exchanges:,}{incomplete}")
        if self.classes:
            parts = [
                Text(f"{name} {count:,}", STATUS.get(int(name[0]), PLAIN) if name[0].isdecimal() else MARK)
                for name, count in sorted(self.classes.items())
            ]
            table.add_row("status", Text("  ").join(parts))
        for name, times in (("latency", self.latencies), ("duration", self.durations)):
            if times.count:
                table.add_row(name, self._percentiles(times))
        slowest = [f"{duration(latency):>9}  {what}" for latency, _, what in sorted(self._slowest, reverse=True)]
        for name, lines in (("slowest", slowest), ("endpoints", self._by_latency()), ("most time", self._by_total())):
            for number, line in enumerate(lines):
                table.add_row("" if number else name, Text(line, no_wrap=True, overflow="ellipsis"))
        lost = "  ".join(f"{name} {count:,}" for name, count in drops.items())
        table.add_row("drops", Text(lost, "bold red") if lost else "none")
        return table

    def _percentiles(self, times: Times) -> str:
        measured = f"  measured {times.count:,} of {self.exchanges:,}" if times.count < self.exchanges else ""
        return "  ".join(f"{name} {duration(times.percentile(share))}" for name, share in SHARES.items()) + measured

    def _by_latency(self) -> list[str]:
        """The endpoints with the highest 90th percentile of latency."""
        found = {name: each for name, each in self.endpoints.items() if each.latencies.count}
        ranks = {name: each.latencies.percentile(0.9) for name, each in found.items()}
        slowest = heapq.nlargest(SLOWEST, ranks, key=ranks.__getitem__)
        listed = [(found[name], printable(name)) for name in slowest]
        if self.others.latencies.count:
            listed.append((self.others, "all other endpoints"))
        width = max((len(f"{each.exchanges:,}") for each, _ in listed), default=0)
        return [
            f"p90 {duration(each.latencies.percentile(0.9)):>9}"
            f"  measured {each.latencies.count:>{width},} of {each.exchanges:>{width},}  {name}"
            for each, name in listed
        ]

    def _by_total(self) -> list[str]:
        """The endpoints whose exchanges took most of the time that was measured."""
        found = {name: each for name, each in self.endpoints.items() if each.total}
        longest = heapq.nlargest(SLOWEST, found, key=lambda name: found[name].total)
        listed = [(found[name].total, printable(name)) for name in longest]
        if self.others.total:
            listed.append((self.others.total, "all other endpoints"))
        return [f"{duration(total):>9} {100 * total / self.durations.total:3.0f} %  {name}" for total, name in listed]


def endpoint_of(message: HttpMessage) -> tuple[str, str]:
    """Method and authority, and the path without the query. If the authority is not known, the server's address stands
    in.
    """
    target = (message.path or "").partition("?")[0]
    if message.route_id is not None:  # a path that is not known is counted apart
        target = f"/({message.route_id})"
    if message.method == "CONNECT":  # its target is the authority
        target = ""
    elif not target.startswith("/"):  # in absolute form (RFC 9112 section 3.2.2), or `*`
        target = "/" + (target.partition("://")[2].partition("/")[2] if "://" in target else target)
    host = message.authority or address(message.receiver)
    return f"{(message.method or '')[:LONG_METHOD]} {host}", target[:LONG_PATH]
