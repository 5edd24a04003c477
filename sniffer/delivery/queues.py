"""Queues: the order in which what waits in a lane is taken, and in which batches.

A queue keeps no bound of its own: its lane does. What stands in it is a record, or, in a lane with a spool, what the
lane knows of a record on disk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from sniffer.delivery.sink import Record


class Queued(Protocol):
    """What a queue must know of each thing in it."""

    @property
    def connection_id(self) -> str:
        """The same for every message of one TCP connection."""

    @property
    def weight(self) -> int:
        """About how many bytes it takes."""


Item = TypeVar("Item", bound=Queued)
Some = TypeVar("Some")


class Ripening(Protocol):
    """What a lane must know of a queue to have its batches made in time."""

    workers: int
    """How many batches may be under way at the same time."""
    wait: float
    """Seconds from when something is `ripening` to the call of `ripen`."""

    @property
    def ripening(self) -> bool:
        """Whether something waits that only `ripen` makes ready."""

    def ripen(self, *, last: bool = False) -> None:
        """Time has passed. `last`: nothing more will come."""


class QueueOf(Ripening, Protocol[Some]):
    """What waits in a lane, and in which batches it is taken."""

    def put(self, batch: Sequence[Some], size: int) -> None:
        """Adds a batch whose weight is `size`."""

    def take(self) -> tuple[Sequence[Some], int] | None:
        """The next batch to deliver and its weight; None if there is none."""

    def done(self, batch: Sequence[Some]) -> None:
        """A batch that was taken is settled."""

    def clear(self) -> int:
        """Forgets what is queued. Returns how much that was."""


Queue = QueueOf[Record]
"""A queue of records: what a lane without a spool is given."""


class Batches(Generic[Item]):
    """A queue that gives batches in the order and the shape in which they came. One worker."""

    workers = 1
    wait = 0.0
    ripening = False

    def __init__(self) -> None:
        self._batches: deque[tuple[Sequence[Item], int]] = deque()

    def put(self, batch: Sequence[Item], size: int) -> None:
        """Adds a batch whose weight is `size`."""
        self._batches.append((batch, size))

    def take(self) -> tuple[Sequence[Item], int] | None:
        """The next batch and its weight."""
        return self._batches.popleft() if self._batches else None

    def done(self, batch: Sequence[Item]) -> None:
        """A batch that was taken is settled."""

    def ripen(self, *, last: bool = False) -> None:
        """Changes nothing: every batch is ready when it comes."""

    def clear(self) -> int:
        """Forgets what is queued. Returns how much that was."""
        count = sum(len(batch) for batch, _ in self._batches)
        self._batches.clear()
        return count


class Merging(Batches[Item]):
    """A queue that gives batches of about `size` bytes: small ones are joined, large ones divided."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def put(self, batch: Sequence[Item], size: int) -> None:
        """Adds a batch whose weight is `size`, in parts."""
        first = part = 0
        for number, record in enumerate(batch if size > self._size else ()):
            weight = record.weight
            if number > first and part + weight > self._size:
                super().put(batch[first:number], part)
                size -= part
                first, part = number, 0
            part += weight
        super().put(batch[first:], size)

    def take(self) -> tuple[Sequence[Item], int] | None:
        """The next batches, joined, and their weight."""
        taken = super().take()
        if taken is None:
            return None
        batch, size = taken
        merged = list(batch)
        while self._batches and size + self._batches[0][1] <= self._size:
            more, weight = self._batches.popleft()
            merged += more
            size += weight
        return merged, size


class ByConnection(Generic[Item]):
    """A queue for several workers: in order within a connection, concurrent across connections.

    It makes batches of up to `size` messages and about `max_bytes`. A smaller one waits `wait` seconds for more
    messages. The messages of a connection stand together in a batch, and none is taken while earlier ones of it are
    under way.
    """

    def __init__(self, *, workers: int, size: int = 1, wait: float = 0.0, max_bytes: int = 1 << 20) -> None:
        self.workers = workers
        self.wait = wait
        self._size = size
        self._max_bytes = max_bytes
        # The connections with messages waiting or under way. The weight of a message is noted when it comes: another
        # lane may render it in the meantime, which changes its weight.
        self._connections: dict[str, deque[tuple[Item, int]]] = {}
        self._ready: deque[str] = deque()  # of these, the ones with messages waiting and none under way
        self._ripe = False

    def put(self, batch: Sequence[Item], size: int) -> None:  # noqa: ARG002 - each is weighed
        """Adds a batch."""
        for record in batch:
            connection = record.connection_id
            waiting = self._connections.get(connection)
            if waiting is None:
                waiting = self._connections[connection] = deque()
                self._ready.append(connection)
            waiting.append((record, record.weight))

    @property
    def ripening(self) -> bool:
        """Whether messages wait for nothing but more messages."""
        return bool(self._ready) and not self._ripe

    def ripen(self, *, last: bool = False) -> None:  # noqa: ARG002 - once is enough
        """What is here now waits for no more messages."""
        self._ripe = bool(self._ready)

    def take(self) -> tuple[Sequence[Item], int] | None:
        """The next batch and its weight: a full one, or what there is if that has waited long enough."""
        if not self._ready or not (self._ripe or self._full()):
            return None
        batch: list[Item] = []
        size = 0
        while self._ready and len(batch) < self._size and size < self._max_bytes:
            waiting = self._connections[self._ready.popleft()]
            while waiting and len(batch) < self._size and size < self._max_bytes:
                record, weight = waiting.popleft()
                batch.append(record)
                size += weight
        self._ripe = self._ripe and bool(self._ready)
        return batch, size

    def done(self, batch: Sequence[Item]) -> None:
        """A batch that was taken is settled: the next messages of its connections may be taken."""
        for connection in dict.fromkeys([record.connection_id for record in batch]):
            if self._connections[connection]:
                self._ready.append(connection)
            else:
                del self._connections[connection]

    def clear(self) -> int:
        """Forgets what is queued. Returns how much that was."""
        count = sum(map(len, self._connections.values()))
        for waiting in self._connections.values():
            waiting.clear()
        for connection in self._ready:
            del self._connections[connection]
        self._ready.clear()
        return count

    def _full(self) -> bool:
        count = 0
        for connection in self._ready:
            count += len(self._connections[connection])
            if count >= self._size:
                return True
        return False


def weigh(batch: Iterable[Record]) -> int:
    """The weight of a batch of records, in bytes."""
    return sum([record.weight for record in batch])
