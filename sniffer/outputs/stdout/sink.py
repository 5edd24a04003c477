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
"""Bytes of JSON that are rendered at a time, about: the JSON of a message may be many times its weight."""
WRITE_BYTES: Final = 1 << 16
"""The capacity of a pipe. With a longer write it would not be known how much a slow reader has taken."""


class StdoutSink(Sink):
    """Writes JSON lines to a file descriptor, a batch at a time, on a thread of its own that may block."""

    name = "stdout"

    def __init__(self, fd: int = 1, *, shared: bool = False, max_line: int = 0) -> None:
        """`shared`: another output renders the JSON too, so each message keeps it. `max_line`: bytes of a line at the
        most; 0 is no limit.
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
        """Lets the thread end. A thread that is stuck in a write is abandoned."""
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
    """The writing of one batch."""

    def __init__(self, fd: int, lines: Lines, batch: Sequence[Record], *, after_torn_line: bool) -> None:
        self.cut = False
        self._fd = fd
        self._lines = lines
        self._batch = batch
        self._start = b"\n" if after_torn_line else b""  # ends a line that was cut by a full disk
        self._at: tuple[int, bytes | memoryview, int] = (0, b"", 0)
        """Lines in the parts before, the current part, and how many of its bytes are written. One object, since another
        thread reads it.
        """

    def run(self) -> None:
        lines = 0
        while lines < len(self._batch):
            count, part = self._lines.take(
                self._batch, lines, PART_BYTES
            )  # the count comes with the part: counting line ends would be slow
            self._at = (lines, part, 0)
            self._write(lines, part)
            if self.cut:
                return
            lines += count

    def _write(self, lines: int, part: bytes | memoryview) -> None:
        view = memoryview(part)
        written = 0
        while (self._start or written < len(part)) and not self.cut:
            try:
                if self._start:
                    os.write(self._fd, self._start)
                    self._start = b""
                    continue
                written += os.write(self._fd, view[written : written + WRITE_BYTES])
            except BlockingIOError:  # another process that shares this pipe or terminal made it non-blocking
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()
            self._at = (lines, part, written)

    def lines(self) -> int:
        """The number of lines that are written completely."""
        lines, part, written = self._at
        return lines + bytes(part[:written]).count(b"\n")

    def torn(self) -> bool:
        """Whether the output ends in the middle of a line."""
        _, part, written = self._at
        return part[written - 1] != 0x0A if written else bool(self._start)
