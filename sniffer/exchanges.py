"""Requests and responses put together again, for those outputs that show exchanges: the terminal view, HAR.

    lane -- ByExchange (a queue that holds a request until its response is there) -- batch --> sink -- `exchanges`

The queue is part of its lane: what it holds counts as waiting there, in number and in bytes, and is settled only when
the sink has had it. It decides nothing about pairing; the core did (`connectionId`, `exchange`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from sniffer.delivery.lane import Lane
from sniffer.delivery.sink import Sink
from sniffer.delivery.threads import Working

if TYPE_CHECKING:
    from sniffer.delivery.sink import Record
    from sniffer.record.message import HttpMessage

PATIENCE_SECONDS: Final = 30.0
"""A request of a live capture is shown alone when it has waited so long for its response."""
BATCH_MESSAGES: Final = 128
"""What is made of an exchange costs much: others have their turn after so many messages."""
BATCH_BYTES: Final = 1 << 20
GIVEN_UP: Final = 2_000
"""Connections of which it is remembered that a request was given out alone."""


class Exchange(NamedTuple):
    """A request and its final response; one of them may be missing."""

    request: HttpMessage | None
    response: HttpMessage | None

    @property
    def messages(self) -> int:
        """How many messages it is made of."""
        return (self.request is not None) + (self.response is not None)


def exchanges(batch: Iterable[Record]) -> Iterator[Exchange]:
    """The exchanges of a batch that `ByExchange` gave."""
    for request, response in pairs(batch):
        yield exchange_of(request, response)


def exchange_of(request: Record | None, response: Record | None) -> Exchange:
    """An exchange from its records."""
    return Exchange(
        None if request is None else request.message,
        None if response is None else response.message,
    )


def pairs(batch: Iterable[Record]) -> Iterator[tuple[Record | None, Record | None]]:
    """The same as records."""
    request: Record | None = None
    for record in batch:
        if record.direction == "response" and request is not None and _answers(record, request):
            yield request, record
            request = None
            continue
        if request is not None:
            yield request, None
            request = None
        if record.direction == "request":
            request = record
        else:
            yield None, record
    if request is not None:
        yield request, None


def _answers(response: Record, request: Record) -> bool:
    return (
        # Without a method the core has found it unpaired, and its number is only the next free one.
        response.message.method is not None
        and response.exchange == request.exchange
        and response.connection_id == request.connection_id
    )


def marks(exchange: Exchange, *, lossy: bool) -> list[str]:
    """What is to be known about an exchange that is not as it should be.

    `lossy`: messages were dropped on the way, so what is missing here may have been there.
    """
    request, response = exchange
    found = []
    if response is None:
        found.append("response dropped?" if lossy else "no response")
    elif response.method is None:
        found.append("no request")
    elif request is None:
        found.append("request dropped?" if lossy else "late response")
    for part in exchange:
        if part is not None:
            if part.incomplete is not None:
                missing = f" of {part.missing_bytes} B" if part.missing_bytes else ""
                found.append(f"{part.direction} cut: {part.incomplete}{missing}")
            if part.resynced:
                found.append(f"{part.direction} resynced")
            found += part.anomalies or ()
    return list(dict.fromkeys(found))


class ExchangeSink(Working, Sink):
    """A sink whose lane has the queue `ByExchange`."""

    wants_messages = True
    lossy: Callable[[], bool] = staticmethod(lambda: False)
    """Whether messages were dropped on the way to this sink: then what is alone may have had a partner."""


class _Waiting(NamedTuple):
    record: Record
    weight: int
    age: int
    """How many times `ripen` had been called when it came."""


@dataclass(slots=True)
class _Connection:
    """What waits of one connection, by its number; in each direction in order."""

    request: dict[int, _Waiting] = field(default_factory=dict)
    response: dict[int, _Waiting] = field(default_factory=dict)


class ByExchange:
    """A lane's queue for one worker that gives whole exchanges, in the order in which they become whole.

    A message waits for its partner until there can be none any more (a later one of the other direction has come, or
    the end), until more than `max_bytes` or `max_messages` wait (the oldest first), or for about `patience` seconds
    (None: for ever, as is right for a file). Then it is given out alone. A response whose request was not captured
    waits for nothing.
    """

    workers = 1

    def __init__(self, *, max_bytes: int, max_messages: int = 10_000, patience: float | None = None) -> None:
        self.wait = (patience or 0.0) / 2  # seconds between two calls of `ripen`, of which each message sees two
        self._patient = patience is None
        self._max_bytes = max_bytes
        self._max_messages = max_messages
        self._ready: deque[tuple[list[Record], int]] = deque()
        self._connections: dict[str, _Connection] = {}
        self._order: dict[tuple[str, str, int], None] = {}  # what waits, the oldest first
        self._bytes = 0
        self._age = 0
        self._given_up: dict[str, int] = {}

    def put(self, batch: Sequence[Record], size: int) -> None:  # noqa: ARG002 - each is weighed
        """Adds messages whose weight is `size`."""
        for record in batch:
            self._put(record)
        while self._bytes > self._max_bytes or len(self._order) > self._max_messages:
            self._give_up_oldest()

    def _put(self, record: Record) -> None:
        identity, number, weight = record.connection_id, record.exchange, record.weight
        is_request = record.direction == "request"
        if not is_request and record.message.method is None:
            self._ready.append(([record], weight))
            return
        connection = self._connections.get(identity)
        if connection is None:
            connection = self._connections[identity] = _Connection()
        mine, others = (
            (connection.request, connection.response) if is_request else (connection.response, connection.request)
        )
        other = "response" if is_request else "request"
        while others and (earlier := next(iter(others))) < number:
            self._release(identity, other, earlier)
        if number in others:
            partner = self._remove(identity, other, number)
            pair = [record, partner.record] if is_request else [partner.record, record]
            self._ready.append((pair, weight + partner.weight))
        elif not is_request and number <= self._given_up.get(identity, -1):
            self._ready.append(([record], weight))
        else:
            if number in mine:  # the same capture, read once more
                self._release(identity, record.direction, number)
            mine[number] = _Waiting(record, weight, self._age)
            self._order[identity, record.direction, number] = None
            self._bytes += weight
            return
        if not (connection.request or connection.response):
            del self._connections[identity]

    def _remove(self, identity: str, direction: str, number: int) -> _Waiting:
        connection = self._connections[identity]
        waiting: _Waiting = getattr(connection, direction).pop(number)
        del self._order[identity, direction, number]
        self._bytes -= waiting.weight
        return waiting

    def _release(self, identity: str, direction: str, number: int) -> None:
        """Gives one out alone."""
        waiting = self._remove(identity, direction, number)
        self._ready.append(([waiting.record], waiting.weight))

    def _give_up_oldest(self) -> None:
        """Gives the oldest out alone, though its partner may still come."""
        identity, direction, number = next(iter(self._order))
        self._release(identity, direction, number)
        connection = self._connections[identity]
        if not (connection.request or connection.response):
            del self._connections[identity]
        if direction == "request":
            self._given_up[identity] = max(number, self._given_up.pop(identity, -1))
            if len(self._given_up) > GIVEN_UP:
                del self._given_up[next(iter(self._given_up))]

    def take(self) -> tuple[Sequence[Record], int] | None:
        """The next exchanges to deliver; None when none is whole."""
        if not self._ready:
            return None
        batch: list[Record] = []
        size = 0
        while self._ready and len(batch) < BATCH_MESSAGES and size < BATCH_BYTES:
            records, weight = self._ready.popleft()
            batch += records
            size += weight
        return batch, size

    def done(self, batch: Sequence[Record]) -> None:
        """A batch that was taken is settled."""

    @property
    def ripening(self) -> bool:
        """There are messages that wait for a partner, but not for ever."""
        return bool(self._order) and not self._patient

    def ripen(self, *, last: bool = False) -> None:
        """Gives out what has waited since the call before this one; with `last` everything."""
        while self._order:
            identity, direction, number = next(iter(self._order))
            waiting: _Waiting = getattr(self._connections[identity], direction)[number]
            if not last and waiting.age >= self._age:
                break
            self._give_up_oldest()
        self._age += 1

    def clear(self) -> int:
        """Forgets what is queued; returns how many messages that was."""
        count = len(self._order) + sum(len(records) for records, _ in self._ready)
        self._ready.clear()
        self._connections.clear()
        self._order.clear()
        self._bytes = 0
        return count


def exchange_lane(sink: ExchangeSink, *, share: int, live: bool, dropped: Callable[[], bool]) -> Lane:
    """The lane of an output of exchanges, which gives way to the other outputs of a live capture.

    `share` is the lane's memory in bytes; `dropped` says whether messages were dropped before they reached the lanes.
    """
    queue = ByExchange(max_bytes=share // 4, patience=PATIENCE_SECONDS if live else None)
    lane = Lane(sink, share=share, queue=queue, gives_way=live)
    counters = lane.counters
    sink.lossy = lambda: bool(counters.dropped_full or counters.dropped_yielded or dropped())
    return lane
