"""A HAR file that is valid at all times.

    {"log": {"version": "1.2", "creator": {...}, "entries": [
    {...},
    {...}
    ]}}

Entries are written over the `TAIL` of the file, with a new tail behind them, about `WRITE_BYTES` of them in a call. So
the file is always valid JSON. Only SIGKILL in the middle of that call can tear its entries.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import threading
from collections.abc import Sequence
from functools import partial
from typing import Final

import msgspec

from sniffer.delivery.sink import Cut, Failed
from sniffer.delivery.threads import CallThread
from sniffer.errors import SnifferError
from sniffer.exchanges import Exchange, ExchangeSink, Pair
from sniffer.har import entry_of

SEPARATOR: Final = b",\n"
TAIL: Final = b"\n]}}\n"
MODE: Final = 0o600
"""The mode of a new file, which only its owner may read: not all of a body is redacted."""
WRITE_BYTES: Final = 1 << 16
"""Bytes of entries that are gathered for a write. Writing each on its own costs as much as making it."""
WRITING: Final = threading.Lock()
"""Held during each write. Whoever ends the process at once takes it first, so that no entry is cut."""

_encode = msgspec.json.Encoder().encode


class HarSink(ExchangeSink):
    """Writes exchanges to a HAR file, from a thread of its own."""

    name = "har"
    batch_messages = 1024

    def __init__(self, path: str, *, version: str) -> None:
        self._path = path
        self._version = version
        self._thread = CallThread("sniffer har")
        self._fd = -1
        self._end = 0
        """The offset at which the tail begins."""
        self._first = True

    async def open(self) -> None:
        """Makes the file, which is valid from then on. Raises SnifferError if it cannot be written."""
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, MODE)
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise SnifferError(f"har: {self._path} is no regular file")
            creator = {"name": "TCP Sniffer", "version": self._version}
            head = b'{"log":{"version":"1.2","creator":' + _encode(creator) + b',"entries":[\n'
            os.ftruncate(self._fd, 0)
            self._write(head)
        except OSError as error:
            raise SnifferError(f"har: {self._path} cannot be written: {error.strerror}") from error
        self._thread.start()

    async def close(self) -> None:
        """Closes the file, unless its thread is stuck in a write."""
        if self._fd >= 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._thread.call(self._close), 1.0)
        self._thread.end()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def show(self, pairs: Sequence[Pair]) -> None:
        """Adds exchanges."""
        done = _Done()
        try:
            await self._thread.call(partial(self._add, [pair.exchange for pair in pairs], done, lossy=self.lossy()))
        except asyncio.CancelledError:
            done.cut = True
            raise Cut("blocked", delivered=done.messages) from None
        except OSError as error:
            raise Failed(os.strerror(error.errno or 0), delivered=done.messages) from None

    def _add(self, exchanges: Sequence[Exchange], done: _Done, *, lossy: bool) -> None:
        with self.working():
            self._add_each(exchanges, done, lossy=lossy)

    def _add_each(self, exchanges: Sequence[Exchange], done: _Done, *, lossy: bool) -> None:
        part: list[tuple[bytes, int]] = []
        size = 0
        for exchange in exchanges:
            if done.cut:
                return
            entry = _encode(entry_of(exchange, lossy=lossy))
            part.append((entry, exchange.messages))
            size += len(entry)
            if size >= WRITE_BYTES:
                self._add_part(part, done)
                part, size = [], 0
        if part and not done.cut:
            self._add_part(part, done)

    def _add_part(self, part: Sequence[tuple[bytes, int]], done: _Done) -> None:
        """Adds entries, each with its number of messages, in one write. If that fails, as many as fit."""
        entries = SEPARATOR.join([entry for entry, _ in part])
        try:
            self._write(entries if self._first else SEPARATOR + entries)
        except OSError:
            if len(part) == 1:
                raise
            for one in part:
                self._add_part([one], done)
            return
        self._first = False
        done.messages += sum([messages for _, messages in part])

    def _write(self, data: bytes) -> None:
        """Adds to the file. If that fails, the file stays as it was."""
        with WRITING:
            try:
                self._write_at(data + TAIL, self._end)
            except OSError:
                with contextlib.suppress(OSError):  # the disk had room for a tail before
                    self._write_at(TAIL, self._end)
                    os.ftruncate(self._fd, self._end + len(TAIL))
                raise
            self._end += len(data)

    def _write_at(self, data: bytes, place: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, place)
            view, place = view[written:], place + written


class _Done:
    """How far a delivery has come."""

    messages = 0
    """Messages whose entry is in the file."""
    cut = False
    """No further entry is written."""
