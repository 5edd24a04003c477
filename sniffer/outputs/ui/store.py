"""What the live view shows: the newest exchanges, within bounds, and the plot of the last minutes.

An exchange is kept in two parts: its row, a few hundred bytes that every browser gets, and the JSON of its messages,
for the browser that selects it. If memory does not suffice for all, the oldest messages are forgotten first; rows stay.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from sniffer.exchanges import Exchange, ExchangeSink, Pair, marks
from sniffer.record.message import HttpMessage

if TYPE_CHECKING:
    from sniffer.delivery.sink import Record
    from sniffer.record.message import Endpoint

MOST_ROWS: Final = 10_000
OVERHEAD: Final = 400
"""Bytes that Python's own objects take for each exchange."""
LONG: Final = 500
"""Characters of a path in a row; the messages have the whole path."""
LONG_NAME: Final = 100
"""Characters of a method, a host or a media type in a row."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(HttpMessage).decode


class Messages(NamedTuple):
    """The JSON of a request and of its response. One of them may be missing."""

    request: bytes | None
    response: bytes | None

    @property
    def size(self) -> int:
        """Bytes of both messages."""
        return len(self.request or b"") + len(self.response or b"")

    def exchange(self) -> Exchange:
        """The messages, decoded."""
        return Exchange(*(None if json is None else _decode(json) for json in self))


class Store:
    """The newest exchanges, numbered from 1 in the order of arrival. Belongs to the loop."""

    def __init__(self, *, max_bytes: int, max_rows: int = MOST_ROWS) -> None:
        self.next = 1
        """The number of the next exchange."""
        self._max_bytes = max_bytes
        self._max_rows = max_rows
        self._rows: dict[int, bytes] = {}
        self._messages: dict[int, Messages] = {}
        self._bytes = 0

    @property
    def first(self) -> int:
        """The number of the oldest exchange that is kept; `next` if none is."""
        return self.next - len(self._rows)

    @property
    def first_whole(self) -> int:
        """The number of the oldest exchange whose messages are kept."""
        return self.next - len(self._messages)

    @property
    def size(self) -> int:
        """Bytes that everything takes."""
        return self._bytes

    def add(self, pair: Pair, *, lossy: bool = False) -> None:
        """Keeps an exchange, and forgets the oldest ones if there is no room."""
        most = self._max_bytes // 8
        messages = Messages(*(None if part is None else _json(part, most) for part in pair))
        row = _row(self.next, pair.exchange, lossy=lossy)
        self._rows[self.next] = row
        self._messages[self.next] = messages
        self.next += 1
        self._bytes += len(row) + messages.size + OVERHEAD
        while self._bytes > self._max_bytes and self._messages:
            self._forget_messages()
        while self._bytes > self._max_bytes or len(self._rows) > self._max_rows:
            self._forget_row()

    def _forget_messages(self) -> None:
        self._bytes -= self._messages.pop(self.first_whole).size

    def _forget_row(self) -> None:
        if self.first == self.first_whole:
            self._forget_messages()
        self._bytes -= len(self._rows.pop(self.first)) + OVERHEAD

    def rows(self, number: int, most: int) -> list[bytes]:
        """At most `most` rows, from `number` or from the oldest row on."""
        number = max(number, self.first)
        return [self._rows[each] for each in range(number, min(number + most, self.next))]

    def searched(self, words: Sequence[str]) -> Callable[[int], bool]:
        """Whether each of the words, which are in lower case, is in the row, a header or a body of an exchange."""

        def holds(number: int) -> bool:
            texts = [self._rows[number].decode().lower()] if number in self._rows else []
            for json in self._messages.get(number, ()):
                texts += [] if json is None else _texts(json)
            return bool(texts) and all(any(word in text for text in texts) for word in words)

        return holds

    def judged(self, text: str) -> Callable[[int], bool]:
        """Whether an expression holds for an exchange. It holds for none whose messages are not kept. Raises
        ExpressionError.
        """
        from sniffer.expressions.fields import of_json  # not needed before somebody types an expression
        from sniffer.expressions.language import Expression

        expression = Expression(text, of_json)

        def holds(number: int) -> bool:
            messages = self._messages.get(number)
            if messages is None:
                return False
            return expression(*(None if json is None else msgspec.json.decode(json) for json in messages))

        return holds

    def messages(self, number: int) -> Messages | None:
        """The messages of an exchange; None if they are not kept."""
        return self._messages.get(number)


class _Searched(msgspec.Struct):
    """What is searched of a message. Bodies in base64 are not."""

    headers: dict[str, str | list[str]]
    trailers: dict[str, str | list[str]] | None = None
    body: str | None = None
    body_encoding: str | None = msgspec.field(default=None, name="bodyEncoding")


_decode_searched = msgspec.json.Decoder(_Searched).decode


def _texts(json: bytes) -> list[str]:
    message = _decode_searched(json)
    found = [] if message.body is None or message.body_encoding is not None else [message.body.lower()]
    for name, value in chain(message.headers.items(), (message.trailers or {}).items()):
        found.append(f"{name}: {value if isinstance(value, str) else ', '.join(value)}".lower())
    return found


def _json(record: Record, most: int) -> bytes:
    """The JSON of a message, without its body if it would take more than `most` bytes."""
    message = record.message
    if len(message.body or "") <= most:
        json = record.to_json()
        if len(json) <= most:
            return json
    return _encode(msgspec.structs.replace(message, body=None, body_encoding=None, body_truncated=True))


def _row(number: int, exchange: Exchange, *, lossy: bool) -> bytes:
    """What a browser gets of every exchange: a JSON array, in the order of `page/table.js`. Times are microseconds."""
    request, response = exchange
    message = exchange.message
    return _encode(
        (
            number,
            message.timestamp_us,
            (message.method or "?")[:LONG_NAME],
            (message.authority or "")[:LONG_NAME],
            _cut(message.path or message.route_id or "?"),
            response.status_code if response is not None else None,
            response.latency_ms if response is not None else None,
            response.duration_ms if response is not None else None,
            exchange.end_us,
            request.body_size if request is not None else None,
            response.body_size if response is not None else None,
            _end(message.destination),
            _end(message.receiver),
            _media_type(response) if response is not None else "",
            marks(exchange, lossy=lossy),
        )
    )


def _cut(path: str) -> str:
    return path if len(path) <= LONG else path[:LONG] + "…"


def _media_type(message: HttpMessage) -> str:
    value = message.headers.get("content-type", "")
    text = value if isinstance(value, str) else ", ".join(value)
    return text.partition(";")[0].strip()[:LONG_NAME]


@lru_cache(maxsize=1024)
def _end(end: Endpoint) -> str:
    return f"[{end.ip}]:{end.port}" if ":" in end.ip else f"{end.ip}:{end.port}"


# The plot

BINS: Final = 300
"""Steps of the plot. In a live capture each is a second."""
STEP: Final = 1.1
"""Latencies are counted in classes; the bounds of each have this ratio."""
LEAST_MS: Final = 0.01
CLASSES: Final = math.ceil(math.log(10_000_000 / LEAST_MS, STEP)) + 1
SHARES: Final = (0.5, 0.9, 0.99)
STATUSES: Final = 6
"""Classes of status: no response, 1xx to 5xx."""


class _Bin:
    """One step: the number of exchanges by status class, and of latencies by class."""

    __slots__ = ("latencies", "statuses")

    def __init__(self) -> None:
        self.statuses = [0] * STATUSES
        self.latencies = array("L", [0]) * CLASSES

    def add(self, status: int | None, latency: float | None) -> None:
        group = 0 if status is None else status // 100
        self.statuses[group if group < STATUSES else 0] += 1
        if latency is not None:
            number = math.log(max(latency, LEAST_MS) / LEAST_MS, STEP)
            self.latencies[min(round(number), CLASSES - 1)] += 1

    def merge(self, other: _Bin) -> None:
        for number, count in enumerate(other.statuses):
            self.statuses[number] += count
        for number, count in enumerate(other.latencies):
            self.latencies[number] += count

    def percentiles(self) -> list[float | None]:
        """The percentiles of SHARES, within five percent; None if no latency was measured."""
        total = sum(self.latencies)
        if not total:
            return [None] * len(SHARES)
        found: list[float | None] = []
        seen, number = 0, -1
        for share in SHARES:
            while seen < share * total:
                number += 1
                seen += self.latencies[number]
            found.append(float(f"{LEAST_MS * STEP**number:.3g}"))
        return found


class Plot:
    """Rate and latencies in steps of time.

    In a live capture steps are seconds of the clock, and the last BINS are kept. In a file packets give the time, and
    steps widen until the whole file fits.
    """

    def __init__(self, *, live: bool, clock: Callable[[], float] = time.time) -> None:
        self.width = 1
        """Seconds in a step."""
        self._live = live
        self._clock = clock
        self._bins: dict[int, _Bin] = {}
        self._changed: set[int] = set()

    def add(self, exchange: Exchange) -> None:
        """Counts an exchange."""
        response = exchange.response
        message = response if response is not None else exchange.message
        second = int(self._clock()) if self._live else message.timestamp_us // 1_000_000
        step = second // self.width
        if step not in self._bins:
            step = self._make_room(second)
            if step not in self._bins:
                return
        self._changed.add(step)
        self._bins[step].add(
            response.status_code if response is not None else None,
            response.latency_ms if response is not None else None,
        )

    def _make_room(self, second: int) -> int:
        """The step of this second. It has a bin afterwards, unless it is too old."""
        steps = [second // self.width, *self._bins]
        while not self._live and max(steps) - min(steps) >= BINS:
            self._widen()
            steps = [second // self.width, *self._bins]
        step = steps[0]
        oldest = max(steps) - BINS + 1
        for old in [old for old in self._bins if old < oldest]:
            del self._bins[old]
            self._changed.discard(old)
        if step >= oldest:
            self._bins.setdefault(step, _Bin())
        return step

    def _widen(self) -> None:
        bins, self._bins, self.width = self._bins, {}, self.width * 2
        for step, each in bins.items():
            if step // 2 in self._bins:
                self._bins[step // 2].merge(each)
            else:
                self._bins[step // 2] = each
        self._changed = set(self._bins)

    def points(self) -> list[list[float | None]]:
        """Every step: second, exchanges by status class, percentiles of latency."""
        return [self._point(step) for step in sorted(self._bins)]

    def changed(self) -> list[list[float | None]]:
        """The points that are new, or have changed since the last call."""
        changed, self._changed = self._changed, set()
        return [self._point(step) for step in sorted(changed)]

    def _point(self, step: int) -> list[float | None]:
        found = self._bins[step]
        return [step * self.width, *found.statuses, *found.percentiles()]


# The sink


class LiveSink(ExchangeSink):
    """Puts exchanges into a store and a plot, and calls the listeners."""

    name = "ui"

    def __init__(self, *, max_bytes: int, live: bool) -> None:
        """`max_bytes`: bytes that the store may take."""
        self.store = Store(max_bytes=max_bytes)
        self.plot = Plot(live=live)
        self.listeners: set[Callable[[], None]] = set()

    async def show(self, pairs: Sequence[Pair]) -> None:
        """Keeps exchanges."""
        lossy = self.lossy()
        with self.working():
            for pair in pairs:
                self.store.add(pair, lossy=lossy)
                self.plot.add(pair.exchange)
        for listener in self.listeners:
            listener()

    def exchanges(self, numbers: Iterator[int]) -> Iterator[Exchange | None]:
        """Exchanges by number, one at a time. None stands for an exchange whose messages are not kept."""
        for number in numbers:
            messages = self.store.messages(number)
            yield None if messages is None else messages.exchange()
