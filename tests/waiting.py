"""Bounded waits for events that nobody announces. Tests wait here and poll nowhere else.

`until` is for coroutines, `wait_until` blocks the thread. Both return what the condition gave once it was true. Both
raise TimeoutError with `what` when the time is up.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, overload

T = TypeVar("T")

BOUND: Final = 20.0
"""Seconds that a wait may take. Long enough for a busy machine: only a failing test waits for so long."""


@overload
async def until(
    reached: Callable[[], Awaitable[T]], what: str = ..., *, seconds: float = ..., pause: float = ...
) -> T: ...
@overload
async def until(reached: Callable[[], T], what: str = ..., *, seconds: float = ..., pause: float = ...) -> T: ...
async def until(reached: Callable[[], Any], what: str = "", *, seconds: float = BOUND, pause: float = 0.001) -> Any:
    """Waits until `reached()` is true; a coroutine function is awaited. `pause`: seconds between two looks."""
    try:
        async with asyncio.timeout(seconds) as limit:
            while True:
                found = reached()
                if inspect.isawaitable(found):
                    found = await found
                if found:
                    return found
                await asyncio.sleep(pause)
    except TimeoutError:
        if limit.expired():
            raise TimeoutError(f"not within {seconds:g} s: {what or reached}") from None
        raise


def wait_until(reached: Callable[[], T], what: str = "", *, seconds: float = BOUND, pause: float = 0.02) -> T:
    """Blocks until `reached()` is true. `pause`: seconds between two looks."""
    end = time.monotonic() + seconds
    while not (found := reached()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s: {what or reached}")
        time.sleep(pause)
    return found


def listens(port: int) -> bool:
    """Whether a server accepts connections on this port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
