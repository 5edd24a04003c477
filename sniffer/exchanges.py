"""Exchanges for the outputs that show them (terminal, HAR, live view): a request joined with its response.

    lane -- ByExchange (the lane's queue, which joins) -- ExchangeBatch --> ExchangeSink.show

The core decides which response answers which request, and numbers both alike (`connectionId`, `exchange`). `ByExchange`
is the only place that joins the two records. It is the queue of a lane, so a message that waits for its partner counts
as waiting in that lane, in number and in bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from sniffer.delivery.lane import Lane
from sniffer.delivery.sink import Sink
from sniffer.delivery.threads import Working

if TYPE_CHECKING:
    from sniffer.delivery.sink import Record
    from sniffer.record.message import HttpMessage

PATIENCE_SECONDS: Final = 30.0
"""A request of a live capture is shown alone when it has waited so long for its response."""
BATCH_MESSAGES: Final = 128
"""Messages after which a batch ends: showing an exchange takes long, and the event loop has other work."""
BATCH_BYTES: Final = 1 << 20
GIVEN_UP: Final = 2_000
"""Connections for which the queue remembers that it gave out a request without its response."""


class Exchange(NamedTuple):
    """The messages of a request and of its final response. One of them may be missing, never both."""

    request: HttpMessage | None
    response: HttpMessage | None

    @property
    def message(self) -> HttpMessage:
        """The request, or the response if there is no request."""
        message = self.request if self.request is not None else self.response
        if message is None:
            raise ValueError("an exchange without any message")
        return message

    @property
    def messages(self) -> int:
        """The number of messages: 1 or 2."""
        return 2 - self.count(None)

    @property
    def end_us(self) -> int:
        """Packet time of the last byte that was read of either message, in microseconds since 1970, UTC."""
        return max(part.end_timestamp_us for part in self if part is not None)


class Pair(NamedTuple):
    """The records of an exchange. One of them may be missing, never both."""

    request: Record | None
    response: Record | None

    @property
    def exchange(self) -> Exchange:
        """The messages of the records."""
        request, response = self
        return Exchange(
            None if request is None else request.message,
            None if response is None else response.message,
        )

    @property
    def messages(self) -> int:
        """The number of messages: 1 or 2."""
        return 2 - self.count(None)


class ExchangeBatch(list["Record"]):
    """The records of whole exchanges, as any sink takes them, and how they are paired."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        super().__init__(record for pair in pairs for record in pair if record is not None)
        self.pairs = pairs


# What is wrong with an exchange. Each output has its own words for these facts.

Missing = Literal["response", "response or dropped", "request", "request of before", "request dropped"]


class Alone(NamedTuple):
    """One of the two messages is missing."""

    missing: Missing
    """`response`: no response was captured. `response or dropped`: none was captured, or it was dropped on the way to
    the output. `request`: the request of this response was not captured, or is not certain. `request of before`: the
    output had the request before, without this response. `request dropped`: the request was dropped on the way, or the
    output had it before."""


class Incomplete(NamedTuple):
    """A message is not whole."""

    direction: Literal["request", "response"]
    reason: str
    missing_bytes: int | None
    """None if the number is not known."""


class Resynced(NamedTuple):
    """A message is the first one after an unknown number of bytes was lost."""

    direction: Literal["request", "response"]


class Anomaly(NamedTuple):
    """A message has an oddity."""

    name: str


Fact = Alone | Incomplete | Resynced | Anomaly


def facts(exchange: Exchange, *, lossy: bool) -> Iterator[Fact]:
    """What is wrong with an exchange. First whether it is alone, then the request's facts, then the response's.

    `lossy`: messages were dropped on the way to the output, so a missing message may have been captured.
    """
    request, response = exchange
    if response is None:
        yield Alone("response or dropped" if lossy else "response")
    elif response.method is None:
        yield Alone("request")
    elif request is None:
        yield Alone("request dropped" if lossy else "request of before")
    for part in exchange:
        if part is not None:
            if part.incomplete is not None:
                yield Incomplete(part.direction, part.incomplete, part.missing_bytes)
            if part.resynced:
                yield Resynced(part.direction)
            for name in part.anomalies or ():
                yield Anomaly(name)


ALONE: Final[dict[Missing, str]] = {
    "response": "no response",
    "response or dropped": "response dropped?",
    "request": "no request",
    "request of before": "late response",
    "request dropped": "request dropped?",
}


def marks(exchange: Exchange, *, lossy: bool) -> list[str]:
    """The facts in the few words that fit into a line of the terminal or a row of the page. `lossy`: as in `facts`."""
    found = []
    for fact in facts(exchange, lossy=lossy):
        match fact:
            case Alone(missing):
                found.append(ALONE[missing])
            case Incomplete(direction, reason, missing_bytes):
                found.append(f"{direction} cut: {reason}" + (f" of {missing_bytes} B" if missing_bytes else ""))
            case Resynced(direction):
                found.append(f"{direction} resynced")
            case Anomaly(name):
                found.append(name)
    return list(dict.fromkeys(found))


class ExchangeSink(Working, Sink):
    """A sink of exchanges. Its lane must have the queue `ByExchange`; `exchange_lane` makes such a lane."""

    wants_messages = True
    batch_messages: int = BATCH_MESSAGES
    """Messages after which a batch ends. A sink that works in a thread of its own may take more."""
    lossy: Callable[[], bool] = staticmethod(lambda: False)
    """Whether messages were dropped on the way to this sink, so that a missing message may have been captured."""

    async def deliver(self, batch: Sequence[Record]) -> None:
        """Shows the exchanges of a batch."""
        if not isinstance(batch, ExchangeBatch):
            raise TypeError(f"{self.name} takes what the queue ByExchange gives")
        await self.show(batch.pairs)

    async def show(self, pairs: Sequence[Pair]) -> None:
        """Delivers exchanges. What it returns or raises means what it means for `Sink.deliver`."""
        raise NotImplementedError


class _Waiting(NamedTuple):
    record: Record
    weight: int
    age: int
    """How many times `ripen` had been called when the record came."""


@dataclass(slots=True)
class _Connection:
    """The messages of one connection that wait, by the number of their exchange, in order in each direction."""

    request: dict[int, _Waiting] = field(default_factory=dict)
    response: dict[int, _Waiting] = field(default_factory=dict)


class ByExchange:
    """A lane's queue for one worker that gives whole exchanges, in the order in which they become whole.

    A message waits for its partner. It is given out alone when

    - its partner can no longer come: a later message of the other direction has come, or nothing more will come;
    - more than `max_bytes` or `max_messages` wait, and it is the oldest;
    - it has waited for about `patience` seconds. None, as for a file, means that it waits without limit.

    A response whose request was not captured, or was given out alone before, is given out at once.
    """

    workers = 1

    def __init__(
        self,
        *,
        max_bytes: int,
        max_messages: int = 10_000,
        patience: float | None = None,
        batch_messages: int = BATCH_MESSAGES,
        has_request: Callable[[Record], bool] = lambda record: record.message.method is not None,
    ) -> None:
        """`has_request` says whether the request of a response was captured."""
        self.wait = (patience or 0.0) / 2  # seconds between calls of `ripen`; a message waits for two of them
        self._patient = patience is None
        self._max_bytes = max_bytes
        self._max_messages = max_messages
        self._batch_messages = batch_messages
        self._has_request = has_request
        self._ready: deque[tuple[Pair, int]] = deque()  # with the weight of both records
        self._connections: dict[str, _Connection] = {}
        self._order: dict[tuple[str, str, int], None] = {}  # all that wait, the oldest first
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
        if not is_request and not self._has_request(record):
            self._ready.append((Pair(None, record), weight))
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
            pair = Pair(record, partner.record) if is_request else Pair(partner.record, record)
            self._ready.append((pair, weight + partner.weight))
        elif not is_request and number <= self._given_up.get(identity, -1):
            self._ready.append((Pair(None, record), weight))
        else:
            if number in mine:  # a capture that is read twice has the same connection twice
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
        """Gives a message out alone."""
        record, weight, _ = self._remove(identity, direction, number)
        self._ready.append((Pair(record, None) if direction == "request" else Pair(None, record), weight))

    def _give_up_oldest(self) -> None:
        """Gives the oldest message out alone, though its partner may still come."""
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
        """The next exchanges to deliver, as an `ExchangeBatch`, and their weight; None if there is none."""
        if not self._ready:
            return None
        pairs: list[Pair] = []
        messages = size = 0
        while self._ready and messages < self._batch_messages and size < BATCH_BYTES:
            pair, weight = self._ready.popleft()
            pairs.append(pair)
            messages += pair.messages
            size += weight
        return ExchangeBatch(pairs), size

    def done(self, batch: Sequence[Record]) -> None:
        """A batch that was taken is settled."""

    @property
    def ripening(self) -> bool:
        """Whether messages wait for a partner, and only for a limited time."""
        return bool(self._order) and not self._patient

    def ripen(self, *, last: bool = False) -> None:
        """Gives out the messages that were here at the call before this one; with `last`, all of them."""
        while self._order:
            identity, direction, number = next(iter(self._order))
            waiting: _Waiting = getattr(self._connections[identity], direction)[number]
            if not last and waiting.age >= self._age:
                break
            self._give_up_oldest()
        self._age += 1

    def clear(self) -> int:
        """Forgets what is queued. Returns the number of messages."""
        count = len(self._order) + sum(pair.messages for pair, _ in self._ready)
        self._ready.clear()
        self._connections.clear()
        self._order.clear()
        self._bytes = 0
        return count


def exchange_lane(sink: ExchangeSink, *, share: int, live: bool, dropped: Callable[[], bool]) -> Lane:
    """The lane of an output of exchanges, which gives way to the other outputs of a live capture.

    `share` is the lane's memory in bytes; `dropped` says whether messages were dropped before they reached the lanes.
    """
    patience = PATIENCE_SECONDS if live else None
    queue = ByExchange(max_bytes=share // 4, patience=patience, batch_messages=sink.batch_messages)
    lane = Lane(sink, share=share, queue=queue, gives_way=live)
    counters = lane.counters
    sink.lossy = lambda: bool(counters.dropped_full or counters.dropped_yielded or dropped())
    return lane
