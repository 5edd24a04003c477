"""Threads that deliveries use."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class CallThread:
    """A daemon thread that makes calls in turn. The threads of a pool are joined at exit, however stuck they are."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], object], asyncio.Future[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def end(self) -> None:
        """Lets the thread end when its calls are made. Does not wait for that."""
        self._calls.put(None)

    async def call(self, function: Callable[[], T]) -> T:
        """Makes a call on the thread. Returns what it returns, and raises what it raises."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._calls.put((function, done))
        try:
            return await done
        finally:
            del done  # what it raised refers to this frame: a cycle that would hold the batch

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            function, done = call
            result: object = None
            error: BaseException | None = None
            try:
                result = function()
            except BaseException as raised:  # the thread goes on, whoever called gets it
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop has ended without this thread
                done.get_loop().call_soon_threadsafe(_resolve, done, result, error)
            # While it waits for the next call the thread holds nothing of the last one.
            del call, function, done, result, error


def _resolve(done: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
