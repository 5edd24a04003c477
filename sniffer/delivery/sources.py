"""Sources: where the messages of a lane wait, and where the flights come from that it delivers.

The lane is the same with and without a disk; the source makes the difference. `Memory` keeps messages in a queue, and
what cannot be delivered is lost. `sniffer.delivery.spool.Spool` writes messages to disk first, and deletes them there
when they are settled.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from sniffer.delivery.queues import Queue, Ripening
from sniffer.delivery.sink import Reason, Record

if TYPE_CHECKING:
    import asyncio

    from sniffer.delivery.account import Account, Outcome
    from sniffer.delivery.lane import Lane
    from sniffer.delivery.retry import Again

CUT_SECONDS: Final = 0.25
"""What is cancelled at the deadline of a drain, a delivery or a transaction, gets this long to end."""

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Flight(ABC):
    """A batch under way, from when it is taken from its source until all of it is settled, or it is abandoned.

    The lane tries one part of it at a time: all of it at first, and its halves where that is too large for the sink.
    """

    records: Sequence[Record] | None
    """The records of the part. None if they are to be loaded each time."""
    tries: int = field(default=0, init=False)
    """Failed tries of the part."""
    successes: int = field(default=0, init=False)
    """How often the sink had answered anything when the first of these tries failed."""
    wait: asyncio.Future[object] | None = field(default=None, init=False)
    """The wait for the next try, while there is one. Cancelling it makes the next try happen now."""

    async def load(self) -> Sequence[Record] | Again:
        """Loads the records of the part, and leaves out those that are settled already. `Again`: not possible now."""
        return self.records or ()

    @abstractmethod
    def settle(self, outcome: Outcome, cause: str = "", first: int = 0, last: int | None = None) -> None:
        """Ends messages of the part: those from index `first` up to `last`."""

    @abstractmethod
    def halve(self) -> None:
        """Divides the part: its first half is the part now."""

    @abstractmethod
    def go_on(self) -> bool:
        """The part is settled: goes on to the next one. False if there is none."""

    @abstractmethod
    def give_up(self, reason: Reason, cause: str) -> bool:
        """There is no further try of the part. True if it is settled by that, False if the source keeps it."""

    @abstractmethod
    def hold_back(self) -> None:
        """A try has failed: the flight gives back the memory that it does not need until the next one."""

    @abstractmethod
    def release(self) -> None:
        """All of it is settled: later messages of its connections may be taken."""

    @abstractmethod
    def abandon(self) -> None:
        """Nothing more is tried. Late results of an abandoned delivery are ignored."""


@dataclass(slots=True, eq=False)
class FlightOf(Flight, Generic[T]):
    """A flight of records, or of what a source knows of them, with its parts."""

    part: Sequence[T]
    _later: Sequence[Sequence[T]] = field(default=(), init=False)
    """The parts behind this one, in order."""

    def halve(self) -> None:
        """Divides the part."""
        middle = len(self.part) // 2
        self._later = (self.part[middle:], *self._later)
        self.part = self.part[:middle]

    def go_on(self) -> bool:
        """Goes on to the next part."""
        if not self._later:
            return False
        self.part, *self._later = self._later
        self.tries = 0
        return True


class Source(Protocol):
    """Where messages of a lane wait. Belongs to the event loop."""

    queue: Ripening
    """The queue from which flights are taken."""

    def attach(self, lane: Lane) -> None:
        """Called once, by the lane that it belongs to."""

    async def open(self) -> None:
        """Called once, before the first message. An exception ends the start."""

    def room(self, share: int) -> int:
        """How much of the lane's share of memory, in bytes, is for messages that wait in memory."""

    def put(self, batch: Sequence[Record], size: int) -> None:
        """Takes messages in. The lane has counted them as waiting, and their weight, `size`."""

    def take(self) -> Flight | None:
        """The next flight; None if none is ready."""

    def clear(self) -> int:
        """Forgets what waits and is not kept by the source. Returns how many messages that was."""

    def drained(self) -> bool:
        """Asked in a drain, after each change: whether there is nothing left to wait for.

        Messages that cannot be delivered any more may be ended here.
        """

    async def cut(self) -> None:
        """The deadline of the drain: no message that is not kept by the source may wait any longer."""

    async def close(self) -> None:
        """Called once, after the drain."""

    def report(self) -> None:
        """Called at every statistics interval: logs what is still wrong."""


class Memory(Source):
    """Messages wait in memory alone, in a queue."""

    def __init__(self, queue: Queue) -> None:
        self.queue = self._queue = queue

    def attach(self, lane: Lane) -> None:
        """Settles into the account of this lane."""
        self._account = lane.account

    async def open(self) -> None:
        """Needs nothing."""

    def room(self, share: int) -> int:
        """All of the share."""
        return share

    def put(self, batch: Sequence[Record], size: int) -> None:
        """Queues messages."""
        self._queue.put(batch, size)

    def take(self) -> Flight | None:
        """The next flight."""
        taken = self._queue.take()
        if taken is None:
            return None
        batch, size = taken
        return _InMemory(batch, batch, size, len(batch), self._account, self._queue)

    def clear(self) -> int:
        """Forgets what is queued."""
        return self._queue.clear()

    def drained(self) -> bool:
        """Whether nothing waits."""
        return not self._account.counters.waiting

    async def cut(self) -> None:
        """Keeps nothing."""

    async def close(self) -> None:
        """Has nothing open."""

    def report(self) -> None:
        """Cannot fail."""


@dataclass(slots=True, eq=False)
class _InMemory(FlightOf[Record]):
    """A flight of messages that are in memory alone."""

    _size: int
    _open: int
    """Messages that are not settled yet."""
    _account: Account
    _queue: Queue
    _batch: Sequence[Record] = field(default=(), init=False)
    """All of it, once it is divided."""
    _released: bool = field(default=False, init=False)

    def settle(self, outcome: Outcome, cause: str = "", first: int = 0, last: int | None = None) -> None:
        """Ends messages, at most as many as are open."""
        size = len(self.part)
        count = min((size if last is None else min(last, size)) - first, self._open)
        if count <= 0:
            return
        self._open -= count
        counters = self._account.counters
        counters.waiting -= count
        if outcome == "delivered":  # the common case
            counters.delivered += count
        else:
            self._account.end(outcome, count, cause)

    def halve(self) -> None:
        """Divides the part."""
        self._batch = self._batch or self.part
        super(_InMemory, self).halve()
        self.records = self.part

    def go_on(self) -> bool:
        """Goes on to the next part."""
        more = super(_InMemory, self).go_on()
        self.records = self.part
        return more

    def give_up(self, reason: Reason, cause: str) -> bool:
        """What cannot be delivered is lost."""
        self.settle(reason, cause)
        return True

    def hold_back(self) -> None:
        """Memory is all that there is."""

    def release(self) -> None:
        """Gives back the bytes and the connections."""
        if not self._released:
            self._released = True
            self._account.bytes -= self._size
            self._queue.done(self._batch or self.part)

    def abandon(self) -> None:
        """Nothing keeps the messages: what is open is dropped."""
        count, self._open = self._open, 0
        self._account.counters.waiting -= count
        self._account.end("deadline", count)
        self.release()
