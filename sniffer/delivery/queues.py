"""What waits in a lane, and in which batches it is taken."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

from sniffer.delivery.sink import Record

Taken = tuple[Sequence[Record], int]
"""A batch and its weight."""


class Queue(Protocol):
    """What waits in a lane, and in which batches it is taken."""

    workers: int
    """How many batches may be under way at the same time."""
    wait: float
    """Seconds from when something is `ripening` to the call of `ripen`."""

    def put(self, batch: Sequence[Record], size: int) -> None:
        """Adds messages whose weight is `size`."""

    def take(self) -> Taken | None:
        """The next batch to deliver, if there is one."""

    def done(self, batch: Sequence[Record]) -> None:
        """A batch that was taken is settled."""

    @property
    def ripening(self) -> bool:
        """There is something that only `ripen` makes ready."""

    def ripen(self, *, last: bool = False) -> None:
        """Time has passed; with `last` no more will come."""

    def clear(self) -> int:
        """Forgets what is queued; returns how many messages that was."""


class Batches:
    """A lane's queue of batches, in the order and the shape in which they were offered. One worker."""

    workers = 1
    wait = 0.0
    ripening = False

    def __init__(self) -> None:
        self._batches: deque[Taken] = deque()

    def put(self, batch: Sequence[Record], size: int) -> None:
        """Adds messages whose weight is `size`."""
        self._batches.append((batch, size))

    def take(self) -> Taken | None:
        """The next batch to deliver."""
        return self._batches.popleft() if self._batches else None

    def done(self, batch: Sequence[Record]) -> None:
        """A batch that was taken is settled."""

    def ripen(self, *, last: bool = False) -> None:
        """What waits for company waits no longer."""

    def clear(self) -> int:
        """Forgets what is queued; returns how many messages that was."""
        count = sum(len(batch) for batch, _ in self._batches)
        self._batches.clear()
        return count


class ByConnection:
    """A lane's queue for several workers: in order within a connection, concurrent across connections.

    Makes batches of up to `size` messages and about `max_bytes`; one that is smaller waits `wait` seconds for company.
    Messages of a connection stand together in a batch, and none is taken while earlier ones of it are under way.
    """

    def __init__(self, *, workers: int, size: int = 1, wait: float = 0.0, max_bytes: int = 1 << 20) -> None:
        self.workers = workers
        self.wait = wait
        self._size = size
        self._max_bytes = max_bytes
        # The weights too: a record that another lane has rendered in the meantime may weigh otherwise.
        self._connections: dict[str, deque[tuple[Record, int]]] = {}  # those with messages waiting or under way
        self._ready: deque[str] = deque()  # of these, the ones with messages waiting and none under way
        self._ripe = False

    def put(self, batch: Sequence[Record], size: int) -> None:  # noqa: ARG002 - each is weighed
        """Adds messages whose weight is `size`."""
        for record in batch:
            connection = record.connection_id
            waiting = self._connections.get(connection)
            if waiting is None:
                waiting = self._connections[connection] = deque()
                self._ready.append(connection)
            waiting.append((record, record.weight))

    @property
    def ripening(self) -> bool:
        """There are messages that wait for nothing but company."""
        return bool(self._ready) and not self._ripe

    def ripen(self, *, last: bool = False) -> None:  # noqa: ARG002 - once is enough
        """What waits for company waits no longer."""
        self._ripe = bool(self._ready)

    def take(self) -> Taken | None:
        """The next batch to deliver: a full one, or what there is once that is ripe."""
        if not self._ready or not (self._ripe or self._full()):
            return None
        batch: list[Record] = []
        size = 0
        while self._ready and len(batch) < self._size and size < self._max_bytes:
            waiting = self._connections[self._ready.popleft()]
            while waiting and len(batch) < self._size and size < self._max_bytes:
                record, weight = waiting.popleft()
                batch.append(record)
                size += weight
        self._ripe = self._ripe and bool(self._ready)
        return batch, size

    def done(self, batch: Sequence[Record]) -> None:
        """A batch that was taken is settled: its connections may go on."""
        for connection in dict.fromkeys([record.connection_id for record in batch]):
            if self._connections[connection]:
                self._ready.append(connection)
            else:
                del self._connections[connection]

    def clear(self) -> int:
        """Forgets what is queued; returns how many messages that was."""
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
    """The weight of a batch."""
    return sum([record.weight for record in batch])
