"""A terminal that is drawn on: a last line that is kept up to date, and whatever stands above it.

    lines --> Screen -- its own thread --> the terminal
    log   ------^

`Screen` owns the terminal while it is open: whatever else writes there goes through it (`Screen.log` for the log),
so that nothing is garbled. All of it is written by one thread, which alone waits when the terminal is held (Ctrl-S).
Imported only where there is a terminal to draw on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.segment import Segment
from rich.text import Text

from sniffer.budget import Budget
from sniffer.companion import Companion, Watched
from sniffer.delivery.threads import CallThread
from sniffer.ledger import losses

REFRESH_SECONDS: Final = 0.25
CLOSE_SECONDS: Final = 1.0
"""A terminal that accepts no output for this long at the end is abandoned."""
LOG_LINES: Final = 1000
"""Lines of the log that may wait for the terminal; older ones are dropped."""
LEAST_WIDTH: Final = 20
BAR_AFTER_SECONDS: Final = 1.0
"""A file that is read faster than this has no progress bar."""


class Facts(NamedTuple):
    """The state of a run, as it is shown."""

    where: str
    """The interface, or the file."""
    snapshot: Mapping[str, Any]
    """The ledger's snapshot."""
    progress: tuple[int, int] | None = None
    """Bytes of the file that are read, and its size."""

    @property
    def drops(self) -> dict[str, int]:
        """Messages and packets that were lost, by where."""
        return losses(self.snapshot)


class Bar:
    """A progress bar for the reading of files, with rate and remaining time."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("reading"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            auto_refresh=False,
            expand=True,
        )
        self._task = self._progress.add_task("")

    def last_line(self, facts: Facts) -> RenderableType:
        """The bar; empty if the amount to read is unknown."""
        if facts.progress is None:
            return Text()
        done, total = facts.progress
        self._progress.update(self._task, completed=done, total=total)
        return self._progress.get_renderable()


class Screen:
    """A terminal whose last line is redrawn several times a second. Opened and closed on the loop."""

    def __init__(self, fd: int, *, log: TextIO, encoding: str = "utf-8") -> None:
        """Draws on `fd`; `log` is where the log goes while this is not open."""
        file = cast("TextIO", _Terminal(fd, encoding))
        self.console = Console(file=file, highlight=False, markup=False, emoji=False)
        self._log = _Log(log)
        self._thread = CallThread("sniffer terminal")
        self._live: Live | None = None
        self._last_line: RenderableType = Text()
        self._refresher: asyncio.Task[None] | None = None

    @property
    def log(self) -> TextIO:
        """A stream for the log: its lines stand above the last line."""
        return cast("TextIO", self._log)

    @property
    def ascii_only(self) -> bool:
        """This terminal can show nothing else."""
        return self.console.options.ascii_only

    async def open(self, last_line: Callable[[], RenderableType], *, after: float = 0.0) -> None:
        """Takes the terminal, to draw on it from `after` seconds on.

        `last_line` is called on the loop, now and then, for what stands at the bottom.
        """
        self._thread.start()
        self._live = Live(
            console=self.console,
            get_renderable=lambda: _Narrow(self._last_line),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._refresher = asyncio.create_task(self._refresh(last_line, after))

    async def _refresh(self, last_line: Callable[[], RenderableType], after: float) -> None:
        await asyncio.sleep(after)
        self._log.lines = deque(maxlen=LOG_LINES)
        while True:
            self._last_line = last_line()
            try:
                await self._thread.call(self._draw)
            except OSError:  # the terminal is gone; the lane finds out with the next exchange
                return
            await asyncio.sleep(REFRESH_SECONDS)

    async def print(self, make: Callable[[int], Iterable[list[Segment]]]) -> None:
        """Prints the lines that `make`, called with the width of the terminal, gives."""
        await self._thread.call(lambda: self._print(make))

    async def close(self, last: RenderableType | None = None) -> None:
        """Gives the terminal back, with the log that waits, and prints `last`."""
        if self._live is None:
            return
        if self._refresher is not None:
            self._refresher.cancel()
        held = False
        with contextlib.suppress(OSError):
            try:
                await asyncio.wait_for(self._thread.call(lambda: self._end(last)), CLOSE_SECONDS)
            except TimeoutError:
                held = self._log.isatty()
        self._log.end(forget=held)
        self._live = None
        self._thread.end()

    # On the thread

    def _draw(self) -> None:
        if self._live is None:
            return
        if not self._live.is_started:
            self._live.start()
            self.console.show_cursor()  # so that the cursor is visible however the process ends
        self._print_log()
        self._live.refresh()

    def _print(self, make: Callable[[int], Iterable[list[Segment]]]) -> None:
        self._print_log()
        self.console.print(_Ready(make(max(self.console.width, LEAST_WIDTH))), crop=False)

    def _print_log(self) -> None:
        for line in self._log.take():
            self.console.print(Text.from_ansi(line), soft_wrap=True)

    def _end(self, last: RenderableType | None) -> None:
        self._print_log()
        if self._live is not None:
            self._live.stop()
        if last is not None:
            self.console.print(last)


class _Narrow:
    """Leaves room at the end of the line for the `^C` that the terminal echoes."""

    def __init__(self, inner: RenderableType) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self._inner, options.update(width=max(options.max_width - 3, 1)))


class _Ready:
    """Lines that are rendered already."""

    def __init__(self, lines: Iterable[list[Segment]]) -> None:
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self._lines:
            yield from line
            yield Segment.line()


class _Terminal:
    """Writes text to a terminal without a buffer: what fails is not written later, and what blocks does so here."""

    def __init__(self, fd: int, encoding: str) -> None:
        self.encoding = encoding
        self._fd = fd

    def fileno(self) -> int:
        """The file descriptor."""
        return self._fd

    def isatty(self) -> bool:
        """It is a terminal."""
        return True

    def flush(self) -> None:
        """Nothing waits."""

    def write(self, text: str) -> int:
        """Writes all of it."""
        data = memoryview(text.encode(self.encoding, "backslashreplace"))
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:  # another process at this terminal made it non-blocking
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()
        return len(text)


class _Log:
    """The stream of the log: the screen while it is open, otherwise the stream behind it."""

    def __init__(self, behind: TextIO) -> None:
        self.lines: deque[str] | None = None
        self._behind = behind
        self._forget = False

    def isatty(self) -> bool:
        """Whether the stream behind is a terminal."""
        return self._behind.isatty()

    def write(self, text: str) -> int:
        """Takes a line of the log, from any thread; never waits for the screen."""
        lines = self.lines
        if lines is not None:
            lines.append(text.rstrip("\n"))
        elif not self._forget:
            self._behind.write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes the stream behind."""
        self._behind.flush()

    def take(self) -> list[str]:
        """The lines that wait."""
        taken: list[str] = []
        lines = self.lines
        while lines:
            taken.append(lines.popleft())
        return taken

    def end(self, *, forget: bool) -> None:
        """From now on writes to the stream behind, first the lines that the screen did not show. With `forget` writes
        nowhere: that stream would block as well.
        """
        left, self.lines = self.take(), None
        self._forget = forget
        for line in left:
            self.write(line + "\n")


class Display(Companion):
    """A screen that shows one line of a run: its progress, or what stands below a view."""

    has_lane = False

    def __init__(self, number: int, line: Callable[[Facts], RenderableType], *, after: float = 0.0) -> None:
        """Draws on standard output (`number` 1) or standard error (2), from `after` seconds on."""
        self.screen = Screen(number, log=sys.stderr, encoding=(sys.stdout if number == 1 else sys.stderr).encoding)
        self.log = self.screen.log
        self._line = line
        self._after = after
        self._sniffer: Watched | None = None

    async def open(self, sniffer: Watched, budget: Budget) -> None:  # noqa: ARG002 - it keeps nothing
        """Begins to draw."""
        self._sniffer = sniffer
        await self.screen.open(lambda: self._last_line(sniffer), after=self._after)

    async def close(self) -> None:
        """Ends drawing, with what there is to say of a run that had begun."""
        sniffer = self._sniffer
        await self.screen.close(self.summary(facts_of(sniffer)) if sniffer is not None and sniffer.began else None)

    def summary(self, facts: Facts) -> RenderableType | None:  # noqa: ARG002 - a default
        """What is said at the end."""
        return None

    def _last_line(self, sniffer: Watched) -> RenderableType:
        if not sniffer.began:  # what is sent before the capture is open is not seen: nothing may say so yet
            return ""
        return self._line(facts_of(sniffer))


def facts_of(sniffer: Watched) -> Facts:
    """What a run says of itself now."""
    return Facts(sniffer.where, sniffer.ledger.snapshot(), sniffer.progress())


def progress_bar() -> Display:
    """On standard error: how far the reading of files has come."""
    return Display(2, Bar().last_line, after=BAR_AFTER_SECONDS)
