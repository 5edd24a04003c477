"""Threads: calls that may block, and how long a thread has worked."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Working:
    """Adds up the processor time that a thread spends for something."""

    worked: float = 0.0
    """Seconds of processor time, so far."""

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Adds the processor time of the block to `worked`. Any thread may use it, but only one at a time."""
        before = time.thread_time()
        try:
            yield
        finally:
            self.worked += time.thread_time() - before


class CallThread:
    """A daemon thread that makes calls one after the other.

    It is no pool of `concurrent.futures`: the interpreter joins the threads of a pool at exit, however stuck they are.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], object], asyncio.Future[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def end(self) -> None:
        """Lets the thread end after the calls it was given. Does not wait for that."""
        self._calls.put(None)

    async def call(self, function: Callable[[], T]) -> T:
        """Makes a call on the thread. Returns what it returns, and raises what it raises."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._calls.put((function, done))
        try:
            return await done
        finally:
            del done  # the exception in it refers to this frame: without `del` a cycle would hold the batch

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            function, done = call
            result: object = None
            error: BaseException | None = None
            try:
                result = function()
            except BaseException as raised:  # the thread goes on; the caller gets the exception
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop may have ended without this thread
                done.get_loop().call_soon_threadsafe(_resolve, done, result, error)
            # While the thread waits for the next call it must not hold anything of the last one.
            del call, function, done, result, error


def _resolve(done: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
