"""An `async for` over a sniffer: the one output that no option asks for. `Sniffer.__aiter__` makes its lane."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sniffer.delivery.sink import Record, Sink, SinkClosed

if TYPE_CHECKING:
    from sniffer.record.message import HttpMessage


class IteratorSink(Sink):
    """Hands messages to one `async for`, which sets the pace: a batch is delivered when the loop has taken all of it.

    In a drain with a deadline the iterator takes over the remaining batches at once: a loop that calls `stop()` itself
    would otherwise wait for its own next step. Leaving the loop closes the sink.
    """

    name = "iterator"
    wants_messages = True

    def __init__(self) -> None:
        self.error: BaseException | None = None
        """Raised in the loop after the last message, if set before `close`."""
        self._batches: deque[_Handed] = deque()
        self._news = asyncio.Event()
        self._takes_over = False
        self._ended = False
        self._left = False

    def drain(self, deadline: float) -> None:  # noqa: ARG002 - taking over takes no time
        """Hands the remaining batches over to the iterator at once."""
        self._takes_over = True
        for handed in self._batches:
            handed.settle()

    async def close(self) -> None:
        """Ends the iteration after the last message."""
        self._ended = True
        self._news.set()

    async def deliver(self, batch: Sequence[Record]) -> None:
        """Hands a batch over and waits until the loop has taken all of it."""
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
        """The messages, for one `async for`. Ends after `close`, or raises `error`, when all messages are taken."""
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
    """A batch that an iterator is taking."""

    batch: Sequence[Record]
    settled: asyncio.Future[None]
    taken: int = 0

    def settle(self) -> None:
        if not self.settled.done():
            self.settled.set_result(None)
