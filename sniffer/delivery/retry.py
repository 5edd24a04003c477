"""When a batch that a sink did not take is tried again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from sniffer.delivery.sink import Cut, Record, Retry, Sink

RETRY_DELAYS: Final = (1.0, 2.0, 4.0)
"""Seconds before each further try."""
LONGEST_RETRY_AFTER: Final = 60.0
"""Seconds; a receiver that asks for more is asked again after this."""


class Retrying(Sink):
    """Tries another sink's `Retry` again after 1 s, 2 s and 4 s, or what the receiver asked for where that is longer.

    In a drain a wait that is under way ends at once, and one that would pass the deadline is not begun.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.name = sink.name
        self.wants_messages = sink.wants_messages
        self._sink = sink
        self._clock = clock
        self._sleep = sleep
        self._deadline: float | None = None
        self._waits: set[asyncio.Future[object]] = set()

    async def open(self) -> None:
        """Opens the wrapped sink."""
        await self._sink.open()

    async def close(self) -> None:
        """Closes the wrapped sink."""
        await self._sink.close()

    def drain(self, deadline: float) -> None:
        """From now on no wait passes the deadline; those under way at the first call end at once."""
        if self._deadline is None:
            for wait in self._waits:
                wait.cancel()
        self._deadline = deadline
        self._sink.drain(deadline)

    async def deliver(self, batch: Sequence[Record]) -> None:
        """Delivers a batch, in as many tries as it may take. The members stay the same over them."""
        for delay in RETRY_DELAYS:
            try:
                await self._sink.deliver(batch)
            except Retry as answer:
                await self._wait(max(delay, min(answer.after or 0.0, LONGEST_RETRY_AFTER)), answer.cause)
            else:
                return
        await self._sink.deliver(batch)

    async def _wait(self, seconds: float, cause: str) -> None:
        if self._deadline is not None and self._clock() + seconds > self._deadline:
            raise Cut(cause)
        wait = asyncio.ensure_future(self._sleep(seconds))
        self._waits.add(wait)
        try:
            await asyncio.wait((wait,))  # unlike awaiting it, this outlives its being cancelled by `drain`
        finally:
            self._waits.discard(wait)
            wait.cancel()
