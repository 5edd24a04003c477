"""The local sinks: standard output, callbacks, iterators."""

from __future__ import annotations

import asyncio
import inspect
import os
import select
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from sniffer.delivery.sink import Cut, Failed, Record, Sink, SinkClosed, where
from sniffer.delivery.threads import CallThread

if TYPE_CHECKING:
    from sniffer.message import HttpMessage
    from sniffer_core.core import Lines

INSTANCE_HEADER: Final = "Tcp-Sniffer-Instance"
"""Names the sniffer that posts, so that another one can leave its deliveries out."""
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


class CallbackSink(Sink):
    """Calls a function with each message: a plain one on a thread of its own, an async one on the loop.

    What it raises is counted as `dropped{error}`; the type and place are logged.
    """

    name = "callback"
    wants_messages = True

    def __init__(self, callback: Callable[[HttpMessage], object]) -> None:
        self._callback = callback
        self._async = inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(
            getattr(callback, "__call__", None)  # noqa: B004 - an object whose __call__ is async
        )
        self._thread = CallThread("sniffer callback")
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> None:
        """Starts the thread where one is needed."""
        self._loop = asyncio.get_running_loop()
        if not self._async:
            self._thread.start()

    async def close(self) -> None:
        """Lets the thread end; one that is stuck is left behind."""
        if not self._async:
            self._thread.end()

    async def deliver(self, batch: Sequence[Record]) -> None:
        """Calls the function with each message in turn."""
        calls = _Calls()
        try:
            if self._async:
                await self._await_each(batch, calls)
            else:
                await self._thread.call(partial(self._call_each, batch, calls))
        except asyncio.CancelledError:
            calls.cut = True
            raise Cut("still running", delivered=calls.returned, failed=calls.raised) from None
        if calls.raised:
            raise Failed(calls.cause, delivered=calls.returned)

    def _call_each(self, batch: Iterable[Record], calls: _Calls) -> None:
        callback = self._callback
        for record in batch:
            if calls.cut:
                return
            try:
                result = callback(record.message)
                if result is not None and inspect.isawaitable(result):  # a lambda around an async function
                    self._finish(result)
            except BaseException as error:  # SystemExit too: the library never ends the process
                calls.failed(error)
            else:
                calls.returned += 1

    def _finish(self, result: Awaitable[Any]) -> None:
        async def wait() -> BaseException | None:
            try:
                await result
            except SystemExit as error:  # a task that raises it ends the loop
                return error
            return None

        loop = cast("asyncio.AbstractEventLoop", self._loop)
        error = asyncio.run_coroutine_threadsafe(wait(), loop).result()
        if error is not None:
            raise error

    async def _await_each(self, batch: Iterable[Record], calls: _Calls) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        callback = cast("Callable[[HttpMessage], Awaitable[object]]", self._callback)
        for record in batch:
            try:
                await callback(record.message)
            except asyncio.CancelledError as error:
                if task.cancelling():
                    raise
                calls.failed(error)  # the callback's own, not the deadline
            except (Exception, SystemExit) as error:  # whatever it raises, capture goes on, and the process too
                calls.failed(error)
            else:
                calls.returned += 1


class _Calls:
    """How far the calls for one batch have come."""

    def __init__(self) -> None:
        self.returned = 0
        self.raised = 0
        self.cause = ""
        self.cut = False

    def failed(self, error: BaseException) -> None:
        self.raised += 1
        self.cause = where(error)


class IteratorSink(Sink):
    """Hands messages to one `async for`, which sets the pace: a batch is delivered when the loop has had all of it.

    In a drain with a deadline the iterator takes over what is left, so that a loop that calls `stop()` itself does not
    wait for its own next step. Leaving the loop closes the sink.
    """

    name = "iterator"
    wants_messages = True

    def __init__(self) -> None:
        self.error: BaseException | None = None
        """Raised to the loop at the end, when set before `close`."""
        self._batches: deque[_Handed] = deque()
        self._news = asyncio.Event()
        self._takes_over = False
        self._ended = False
        self._left = False

    def drain(self, deadline: float) -> None:  # noqa: ARG002 - taking over takes no time
        """The iterator takes over what is left."""
        self._takes_over = True
        for handed in self._batches:
            handed.settle()

    async def close(self) -> None:
        """Ends the iteration, once all is taken."""
        self._ended = True
        self._news.set()

    async def deliver(self, batch: Sequence[Record]) -> None:
        """Hands a batch over and waits until all of it is taken."""
        if self._left:
            raise SinkClosed("left")
        handed = _Handed(batch, asyncio.get_running_loop().create_future())
        self._batches.append(handed)
        self._news.set()
        if not self._takes_over:
            await handed.settled
        if self._left:
            raise SinkClosed("left", delivered=handed.taken)

    async def messages(self) -> AsyncIterator[HttpMessage]:
        """The messages, for one `async for`. Ends after `close`, or raises `error`, when all are taken."""
        try:
            while True:
                while not self._batches:
                    if self._ended:
                        if self.error is not None:
                            raise self.error
                        return
                    self._news.clear()
                    await self._news.wait()
                handed = self._batches[0]
                for record in handed.batch:
                    handed.taken += 1
                    yield record.message
                self._batches.popleft()
                handed.settle()
        finally:
            self._left = True
            for handed in self._batches:
                handed.settle()
            self._batches.clear()


@dataclass(slots=True)
class _Handed:
    """A batch in the hands of an iterator."""

    batch: Sequence[Record]
    settled: asyncio.Future[None]
    taken: int = 0

    def settle(self) -> None:
        if not self.settled.done():
            self.settled.set_result(None)
