"""At a terminal: exchanges as they happen, a last line that is kept up to date, a summary.

    TerminalSink -- lines --> Screen (`sniffer.screen`) --> the terminal

Every text from the wire passes `printable`: nothing that was captured can steer the terminal.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from rich.console import Group, RenderableType
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from sniffer.delivery.sink import Cut, Record, SinkClosed
from sniffer.exchanges import Exchange, ExchangeSink, exchange_lane, exchanges, marks
from sniffer.logs import printable
from sniffer.outputs import Context
from sniffer.screen import REFRESH_SECONDS, Bar, Display, Facts, Screen

if TYPE_CHECKING:
    from sniffer.delivery.lane import Lane
    from sniffer.record.message import Endpoint, HttpMessage

LEAST_PATH: Final = 20
"""Method and path get at least this many columns, unless nothing else can be left out."""
MOST_ENDS: Final = 50
SLOWEST: Final = 5
LONG_PATH: Final = 200
"""Characters of a path that are kept for the summary."""

DIM: Final = Style(dim=True)
PLAIN: Final = Style()
BOLD: Final = Style(bold=True)
MARK: Final = Style(color="yellow")
STATUS: Final = {
    1: Style(color="magenta"),
    2: Style(color="green"),
    3: Style(color="cyan"),
    4: Style(color="yellow"),
    5: Style(color="red", bold=True),
}
NO_STATUS: Final = "---"


# One line for each exchange


class Columns(NamedTuple):
    """The columns of a line, depending on the terminal's width."""

    milliseconds: bool = True
    server: bool = True
    sizes: bool = True
    ends: bool = True
    latency: bool = True
    time: bool = True

    def fixed(self, ends: int) -> int:
        """Width of all columns but method and path, where both ends take `ends`."""
        width = 1 + len(NO_STATUS)
        if self.time:
            width += 9 + 4 * self.milliseconds
        if self.ends:
            width += 1 + ends
        if self.latency:
            width += 10
        if self.sizes:
            width += 12
        return width


LAYOUTS: Final = (
    Columns(),
    Columns(server=False),
    Columns(server=False, milliseconds=False),
    Columns(server=False, milliseconds=False, sizes=False),
    Columns(server=False, milliseconds=False, sizes=False, ends=False),
    Columns(server=False, milliseconds=False, sizes=False, ends=False, latency=False),
    Columns(server=False, milliseconds=False, sizes=False, ends=False, latency=False, time=False),
)
"""Layouts from the widest terminal to the narrowest."""


class Lines:
    """Makes the line of an exchange, which is never wider than the terminal."""

    def __init__(self, *, ascii_only: bool = False) -> None:
        self._arrow, self._up, self._down, self._more = ("->", "^", "v", "...") if ascii_only else ("→", "↑", "↓", "…")
        self._ends = {True: 0, False: 0}

    def line(self, exchange: Exchange, width: int, *, lossy: bool = False) -> list[Segment]:
        """The line without its end. `lossy`: messages were dropped, so a missing one may have been captured."""
        request, response = exchange
        message = request if request is not None else response
        assert message is not None  # noqa: S101 - an exchange of nothing is none
        ends = {
            full: f"{_end(message.destination)} {self._arrow} "
            + (_end(message.receiver) if full else f":{message.receiver.port}")
            for full in (True, False)
        }
        for full, text in ends.items():
            self._ends[full] = max(self._ends[full], min(len(text), MOST_ENDS))
        for columns in LAYOUTS:
            rest = width - columns.fixed(self._ends[columns.server])
            if rest >= LEAST_PATH:
                break
        line: list[Segment] = []
        if columns.time:
            clock = _clock(message.timestamp[:19]) + message.timestamp[19 : 23 if columns.milliseconds else 19]
            line.append(Segment(clock + " ", DIM))
        if columns.ends:
            size = self._ends[columns.server]
            line.append(Segment(f"{self._crop(ends[columns.server], size):<{size}} ", PLAIN))
        found = marks(exchange, lossy=lossy)
        line += self._target(message, f"! {', '.join(found)}" if found else "", max(rest, 1))
        status = response.status_code if response is not None else None
        style = MARK if status is None else STATUS.get(status // 100, PLAIN)
        line.append(Segment(f" {NO_STATUS if status is None else status:>3}", style))
        if columns.latency:
            latency = response.latency_ms if response is not None else None
            line.append(Segment(f" {'' if latency is None else duration(latency):>9}", PLAIN))
        if columns.sizes:
            up, down = (NO_STATUS if part is None else amount(part.body_size) for part in exchange)
            line.append(Segment(f" {self._up}{up:>4} {self._down}{down:>4}", DIM))
        return line

    def _target(self, message: HttpMessage, marks: str, width: int) -> list[Segment]:
        method = printable(message.method or "?")
        path = printable((message.path or "?")[: width + 1])
        shown = (
            self._crop(marks, max(width - 1 - min(len(method) + 1 + len(path), LEAST_PATH // 2), 1)) if marks else ""
        )
        rest = width - (len(shown) + 1 if shown else 0)
        target = self._crop(f"{method} {path}", max(rest, 1))
        method, blank, path = target.partition(" ")
        line = [Segment(method, BOLD), Segment(blank + path + " " * (rest - len(target)), PLAIN)]
        if shown:
            line.append(Segment(" " + shown, MARK))
        return line

    def _crop(self, text: str, width: int) -> str:
        if len(text) <= width:
            return text
        return text[: width - len(self._more)] + self._more if width > len(self._more) else text[:width]


def _end(end: Endpoint) -> str:
    return f"[{end.ip}]:{end.port}" if ":" in end.ip else f"{end.ip}:{end.port}"


@lru_cache(maxsize=64)
def _clock(second: str) -> str:
    """A record's time, cut to seconds, in local time."""
    return datetime.fromisoformat(second + "+00:00").astimezone().strftime("%H:%M:%S")


def duration(milliseconds: float) -> str:
    """A latency in at most nine characters."""
    if milliseconds < 9999.95:
        return f"{milliseconds:.1f} ms"
    seconds = milliseconds / 1000
    return f"{seconds:.1f} s" if seconds < 99_999.95 else f"{min(seconds, 9_999_999):.0f} s"


def amount(size: int) -> str:
    """A number of bytes in at most four characters."""
    value, unit = float(size), ""
    for bigger in ("k", "M", "G", "T", "P"):
        if value < 999.5:
            break
        value, unit = value / 1000, bigger
    return f"{value:.1f}{unit}" if unit and value < 9.95 else f"{min(value, 999):.0f}{unit}"


# The summary


class Summary:
    """Statistics of all exchanges for the end of a run, in bounded memory."""

    RATIO: Final = math.log(1.01)
    """Latencies are counted in classes; the bounds of each are one percent apart."""

    def __init__(self) -> None:
        self.exchanges = 0
        self.classes: Counter[str] = Counter()
        self.incomplete = 0
        self._latencies: Counter[int] = Counter()
        self._least, self._most = math.inf, 0.0
        self._slowest: list[tuple[float, int, str]] = []

    def add(self, exchange: Exchange) -> None:
        """Counts an exchange."""
        response = exchange.response
        self.exchanges += 1
        self.incomplete += any(part is not None and part.incomplete is not None for part in exchange)
        if response is None:
            self.classes["no response"] += 1
            return
        self.classes[f"{(response.status_code or 0) // 100}xx"] += 1
        if response.method is None:
            self.classes["no request"] += 1
        latency = response.latency_ms
        if latency is None:
            return
        self._latencies[round(math.log(max(latency, 0.001)) / self.RATIO)] += 1
        self._least, self._most = min(self._least, latency), max(self._most, latency)
        if len(self._slowest) < SLOWEST or latency > self._slowest[0][0]:
            what = f"{response.method} {printable((response.path or '')[:LONG_PATH])} {response.status_code}"
            heapq.heappush(self._slowest, (latency, -self.exchanges, what))
            if len(self._slowest) > SLOWEST:
                heapq.heappop(self._slowest)

    def percentile(self, share: float) -> float:
        """The percentile of the latency, within one percent; 0 without latencies."""
        rank = math.ceil(share * self._latencies.total())
        for number in sorted(self._latencies):
            rank -= self._latencies[number]
            if rank <= 0:
                return min(max(math.exp(number * self.RATIO), self._least), self._most)
        return 0.0

    def table(self, drops: Mapping[str, int]) -> RenderableType:
        """The statistics as a table, with the drops."""
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
        if self._latencies:
            shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
            table.add_row(
                "latency", "  ".join(f"{name} {duration(self.percentile(share))}" for name, share in shares.items())
            )
            for number, (latency, _, what) in enumerate(sorted(self._slowest, reverse=True)):
                text = Text(f"{duration(latency):>9}  {what}", no_wrap=True, overflow="ellipsis")
                table.add_row("" if number else "slowest", text)
        lost = "  ".join(f"{name} {count:,}" for name, count in drops.items())
        table.add_row("drops", Text(lost, "bold red") if lost else "none")
        return table


# What stands below, and at the end


class View:
    """The view without its screen: its summary and its last line."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.summary = Summary()
        self._clock = clock
        self._counts: deque[tuple[float, int]] = deque(maxlen=round(2 / REFRESH_SECONDS))
        self._bar = Bar()

    def last_line(self, facts: Facts) -> RenderableType:
        """The line below the exchanges."""
        now, count = self._clock(), self.summary.exchanges
        self._counts.append((now, count))
        seconds = now - self._counts[0][0]
        rate = (count - self._counts[0][1]) / seconds if seconds else 0.0
        dropped = sum(facts.drops.values())
        unread = facts.snapshot["flows_tls"] + facts.snapshot["flows_http2"]
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"{printable(facts.where)}  ", "bold")
        line.append(f"{rate:,.1f} exchanges/s  {facts.snapshot['flows']:,} connections  ")
        line.append(f"{dropped:,} drops  ", "bold red" if dropped else "")
        if unread:
            line.append(f"{unread:,} unread (TLS, HTTP/2)  ", "yellow")
        line.append(f"{count:,} in all  Ctrl-C ends", "dim")
        return line if facts.progress is None else Group(line, self._bar.last_line(facts))

    def end(self, facts: Facts) -> RenderableType:
        """The summary."""
        return self.summary.table(facts.drops)


# The output


class TerminalSink(ExchangeSink):
    """Shows exchanges on a screen."""

    name = "terminal"

    def __init__(self, screen: Screen, view: View) -> None:
        self._screen = screen
        self._view = view
        self._lines = Lines(ascii_only=screen.ascii_only)

    async def deliver(self, batch: Sequence[Record]) -> None:
        """Prints a line for each exchange."""
        shown = list(exchanges(batch))
        lossy = self.lossy()
        try:
            await self._screen.print(
                lambda width: (self._lines.line(exchange, width, lossy=lossy) for exchange in shown)
            )
        except asyncio.CancelledError:
            raise Cut("the terminal is held") from None
        except OSError as error:
            raise SinkClosed(os.strerror(error.errno or 0)) from None
        for exchange in shown:
            self._view.summary.add(exchange)


class Shown(Display):
    """The view on its screen."""

    has_lane = True

    def __init__(self) -> None:
        self._view = View()
        super().__init__(1, self._view.last_line)

    def lane(self, context: Context) -> Lane:
        """The lane of what is shown."""
        sink = TerminalSink(self.screen, self._view)
        return exchange_lane(sink, share=context.share, live=context.live, dropped=context.dropped)

    def summary(self, facts: Facts) -> RenderableType:
        """The summary of the run."""
        return self._view.end(facts)
