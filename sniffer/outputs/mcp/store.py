"""What an MCP client can ask for: the newest exchanges, within bounds, and counts of all."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sniffer.exchanges import ExchangeSink, marks
from sniffer.times import Times

if TYPE_CHECKING:
    from sniffer.delivery.sink import Record
    from sniffer.exchanges import Exchange, Pair

MOST_EXCHANGES: Final = 10_000
OVERHEAD: Final = 800
"""Bytes that Python's own objects take for each exchange."""
LONG: Final = 2_000
"""Characters of a path in a row; the records have the whole path."""
LONG_NAME: Final = 200
"""Characters of a method or host in a row."""
MOST_METHODS: Final = 20
"""Methods that are counted by name."""
SHARES: Final = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))


class Row(msgspec.Struct, omit_defaults=True, rename="camel"):
    """An exchange in a list."""

    id: int
    time: str
    method: str
    host: str | None
    path: str
    status: int | None = None
    latency_ms: float | None = None
    duration_ms: float | None = None
    request_bytes: int | None = None
    response_bytes: int | None = None
    notes: list[str] = []
    """What is wrong with it; see `marks`."""


class Kept:
    """The newest exchanges, numbered from 1 in the order of arrival, and counts of all. Belongs to the loop."""

    def __init__(self, *, max_bytes: int, most: int = MOST_EXCHANGES) -> None:
        self.count = 0
        """Exchanges that came."""
        self.methods: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self._max_bytes = max_bytes
        self._most = most
        self._bytes = 0
        self._rows: OrderedDict[int, tuple[Row, tuple[bytes | None, bytes | None], int]] = OrderedDict()
        self._durations = Times(1.1)  # within five percent

    def add(self, pair: Pair, *, lossy: bool = False) -> None:
        """Keeps an exchange, and forgets the oldest ones if there is no room."""
        self.count += 1
        exchange = pair.exchange
        row = _row(self.count, exchange, lossy=lossy)
        records = (_json(pair.request, self._max_bytes // 8), _json(pair.response, self._max_bytes // 8))
        self._note(exchange)
        size = OVERHEAD + 2 * (len(row.path) + len(row.host or "")) + sum(len(each or b"") for each in records)
        self._rows[self.count] = (row, records, size)
        self._bytes += size
        while self._bytes > self._max_bytes or len(self._rows) > self._most:
            self._bytes -= self._rows.popitem(last=False)[1][2]

    def _note(self, exchange: Exchange) -> None:
        method = exchange.message.method or "unknown"
        self.methods[method if method in self.methods or len(self.methods) < MOST_METHODS else "other"] += 1
        response = exchange.response
        status = None if response is None else response.status_code
        self.statuses["none" if status is None else f"{status // 100}xx"] += 1
        if response is not None and response.duration_ms is not None:
            self._durations.add(response.duration_ms)

    @property
    def first(self) -> int:
        """The number of the oldest exchange that is kept; one more than `count` if none is."""
        return next(iter(self._rows), self.count + 1)

    def newest(self, before: int | None = None) -> Iterator[tuple[Row, tuple[bytes | None, bytes | None]]]:
        """Rows and records, the newest first, of exchanges whose number is below `before`."""
        for number in range(min(before or self.count + 1, self.count + 1) - 1, self.first - 1, -1):
            row, records, _ = self._rows[number]
            yield row, records

    def records(self, number: int) -> tuple[bytes | None, bytes | None] | None:
        """The JSON of the request and of the response; None if the exchange is not kept."""
        found = self._rows.get(number)
        return None if found is None else found[1]

    def durations(self) -> dict[str, float]:
        """Percentiles of `durationMs` over all exchanges that had one, within five percent; empty without any."""
        shares = SHARES if self._durations.count else ()
        return {name: float(f"{self._durations.percentile(share):.3g}") for name, share in shares}


class AskedSink(ExchangeSink):
    """Puts exchanges into what is kept."""

    name = "mcp"

    def __init__(self, *, max_bytes: int) -> None:
        """`max_bytes`: bytes that may be kept."""
        self.kept = Kept(max_bytes=max_bytes)

    async def show(self, pairs: Sequence[Pair]) -> None:
        """Keeps exchanges."""
        lossy = self.lossy()
        with self.working():
            for pair in pairs:
                self.kept.add(pair, lossy=lossy)


def _json(record: Record | None, most: int) -> bytes | None:
    """The JSON of a message, without its body if it would take more than `most` bytes."""
    if record is None:
        return None
    json = record.to_json()
    if len(json) <= most:
        return json
    return msgspec.json.encode(
        msgspec.structs.replace(record.message, body=None, body_encoding=None, body_truncated=True)
    )


def _row(number: int, exchange: Exchange, *, lossy: bool) -> Row:
    request, response = exchange
    message = exchange.message
    path = message.path or "?"
    known: dict[str, Any] = {}
    if response is not None:
        known = {
            "status": response.status_code,
            "latency_ms": response.latency_ms,
            "duration_ms": response.duration_ms,
            "response_bytes": response.body_size,
        }
    return Row(
        id=number,
        time=message.timestamp,
        method=(message.method or "?")[:LONG_NAME],
        host=None if message.authority is None else message.authority[:LONG_NAME],
        path=path if len(path) <= LONG else path[:LONG] + "…",
        request_bytes=None if request is None else request.body_size,
        notes=marks(exchange, lossy=lossy),
        **known,
    )
