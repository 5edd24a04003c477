"""JSON lines on standard output."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from sniffer.delivery.sink import Cut, Failed, Record, Sink, SinkClosed
from sniffer.delivery.threads import CallThread

if TYPE_CHECKING:
    from sniffer_core.core import Lines

PART_BYTES: Final = 256 << 10
"""About how much is rendered at a time: what a message is in JSON may be many times its weight."""
WRITE_BYTES: Final = 1 << 16
"""What a pipe holds: more in one call would tell nothing of how far a slow reader has come."""


class StdoutSink(Sink):
    """JSON lines to a file descriptor, a whole batch at a time, from a thread of its own that may block."""

    name = "stdout"

    def __init__(self, fd: int = 1, *, shared: bool = False, max_line: int = 0) -> None:
        """`shared`: another sink wants the JSON too, so each message keeps its own. `max_line`: bytes of a line, 0 is
        any.
        """
        self._fd = fd
        self._max_line = max_line
        self._shared = shared
        self._lines: Lines | None = None
        self._thread = CallThread("sniffer stdout")
        self._torn = False

    async def open(self) -> None:
        """Starts the thread."""
        from sniffer_core.core import Lines  # `import sniffer` does without the core

        self._lines = Lines(keep=self._shared, most=self._max_line)
        self._thread.start()

    async def close(self) -> None:
        """Lets the thread end; one that is stuck is left behind."""
        self._thread.end()

    async def deliver(self, batch: Sequence[Record]) -> None:
        """Writes a batch."""
        if self._lines is None:
            raise RuntimeError("deliver before open")
        write = _Write(self._fd, self._lines, batch, after_torn_line=self._torn)
        try:
            await self._thread.call(write.run)
        except asyncio.CancelledError:
            write.cut = True
            raise Cut("blocked", delivered=write.lines()) from None
        except BrokenPipeError:
            raise SinkClosed("broken pipe", delivered=write.lines()) from None
        except OSError as error:
            raise Failed(os.strerror(error.errno or 0), delivered=write.lines()) from None
        finally:
            self._torn = write.torn()


class _Write:
    """One batch on its way to a file descriptor."""

    def __init__(self, fd: int, lines: Lines, batch: Sequence[Record], *, after_torn_line: bool) -> None:
        self.cut = False
        self._fd = fd
        self._lines = lines
        self._batch = batch
        self._start = b"\n" if after_torn_line else b""  # a line that a full disk has cut is ended first
        self._at = (0, b"", 0)
        """Lines in the parts before, the part, how much of it is written: one object, read by another thread."""

    def run(self) -> None:
        lines = 0
        while lines < len(self._batch):
            count, part = self._lines.take(self._batch, lines, PART_BYTES)  # counting them later would be slow
            self._at = (lines, part, 0)
            self._write(lines, part)
            if self.cut:
                return
            lines += count

    def _write(self, lines: int, part: bytes) -> None:
        view = memoryview(part)
        written = 0
        while (self._start or written < len(part)) and not self.cut:
            try:
                if self._start:
                    os.write(self._fd, self._start)
                    self._start = b""
                    continue
                written += os.write(self._fd, view[written : written + WRITE_BYTES])
            except BlockingIOError:  # somebody else who has this pipe or terminal made it non-blocking
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()
            self._at = (lines, part, written)

    def lines(self) -> int:
        """How many of the batch's lines are written whole."""
        lines, part, written = self._at
        return lines + part.count(b"\n", 0, written)

    def torn(self) -> bool:
        """Whether what is written ends within a line."""
        _, part, written = self._at
        return part[written - 1] != 0x0A if written else bool(self._start)
