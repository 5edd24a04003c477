"""A function of the program that uses the library, called with each message."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from sniffer.delivery.sink import Cut, Failed, Record, Sink, trail, where
from sniffer.delivery.threads import CallThread

if TYPE_CHECKING:
    from sniffer.record.message import HttpMessage


class CallbackSink(Sink):
    """Calls a function with each message: a plain one on a thread of its own, an async one on the loop.

    A message for which it raises is counted as `dropped{error}`; the exception's type and place are logged.
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
        """Starts the thread of a plain function."""
        self._loop = asyncio.get_running_loop()
        if not self._async:
            self._thread.start()

    async def close(self) -> None:
        """Lets the thread end. A thread that is stuck in the function is abandoned."""
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
            failure = Failed(calls.cause, delivered=calls.returned)
            failure.trail = calls.trail
            raise failure

    def _call_each(self, batch: Iterable[Record], calls: _Calls) -> None:
        callback = self._callback
        for record in batch:
            if calls.cut:
                return
            try:
                result = callback(record.message)
                if result is not None and inspect.isawaitable(result):  # a lambda around an async function
                    self._finish(result)
            except BaseException as error:  # SystemExit too: a callback cannot end the process
                calls.failed(error)
            else:
                calls.returned += 1

    def _finish(self, result: Awaitable[Any]) -> None:
        async def wait() -> BaseException | None:
            try:
                await result
            except SystemExit as error:  # raised in a task it would end the loop
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
                calls.failed(error)  # raised by the callback itself, not by the deadline
            except (Exception, SystemExit) as error:  # whatever it raises, the capture goes on
                calls.failed(error)
            else:
                calls.returned += 1


class _Calls:
    """Progress of the calls for one batch, shared between the thread and the loop."""

    def __init__(self) -> None:
        self.returned = 0
        self.raised = 0
        self.cause = ""
        self.trail: tuple[str, ...] = ()
        self.cut = False

    def failed(self, error: BaseException) -> None:
        self.raised += 1
        self.cause = where(error)
        self.trail = trail(error)
