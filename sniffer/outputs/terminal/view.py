"""The view at a terminal: exchanges as they happen, a last line that is kept up to date, a summary at the end.

TerminalSink -- lines (`lines.py`) --> Screen (`sniffer.screen`) --> the terminal
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.segment import Segment
from rich.text import Text

from sniffer.delivery.sink import Cut, SinkClosed
from sniffer.exchanges import Exchange, ExchangeSink, Pair, exchange_lane
from sniffer.logs import printable
from sniffer.outputs import Context
from sniffer.outputs.terminal.lines import Lines
from sniffer.outputs.terminal.summary import Summary
from sniffer.screen import REFRESH_SECONDS, Bar, Display, Facts, Screen

if TYPE_CHECKING:
    from sniffer.delivery.lane import Lane


class View:
    """The readable view without its screen: the exchanges that it has shown, its last line, its summary."""

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


class TerminalSink(ExchangeSink):
    """Shows exchanges on a screen."""

    name = "terminal"

    def __init__(self, screen: Screen, view: View, verbose: int = 0) -> None:
        """`verbose`: 1 shows heads, 2 bodies too."""
        self._screen = screen
        self._verbose = verbose
        self._view = view
        self._lines = Lines(ascii_only=screen.ascii_only)

    async def show(self, pairs: Sequence[Pair]) -> None:
        """Prints a line for each exchange."""
        shown = [pair.exchange for pair in pairs]
        lossy = self.lossy()
        try:
            await self._screen.print(lambda width: self._rendered(shown, width, lossy=lossy))
        except asyncio.CancelledError:
            raise Cut("the terminal is held") from None
        except OSError as error:
            raise SinkClosed(os.strerror(error.errno or 0)) from None
        for exchange in shown:
            self._view.summary.add(exchange)

    def _rendered(self, shown: Sequence[Exchange], width: int, *, lossy: bool) -> Iterator[list[Segment]]:
        for exchange in shown:
            yield self._lines.line(exchange, width, lossy=lossy)
            if self._verbose:
                from sniffer.outputs.terminal.details import details  # for those who ask

                more = "..." if self._screen.ascii_only else "…"
                yield from details(exchange, width, bodies=self._verbose > 1, more=more)


class Shown(Display):
    """The view on its screen."""

    has_lane = True

    def __init__(self, verbose: int = 0) -> None:
        self._view = View()
        self._verbose = verbose
        super().__init__(1, self._view.last_line)

    def lane(self, context: Context) -> Lane:
        """The lane of what is shown."""
        sink = TerminalSink(self.screen, self._view, self._verbose)
        return exchange_lane(sink, share=context.share, live=context.live, dropped=context.dropped)

    def summary(self, facts: Facts) -> RenderableType:
        """The summary of the run."""
        return self._view.end(facts)
