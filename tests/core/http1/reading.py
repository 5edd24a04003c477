"""Reads bytes with one HTTP/1 parser, playing the session that drives it."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Any

from sniffer_core.protocols.http1.heads import parse as parse_by_h11
from sniffer_core.testing import PyParser

REQUEST, RESPONSE = 0, 1


class Event(IntEnum):
    MORE, HEAD, CUT, END, HEAD_LOST, NOT_HTTP = range(6)


class Protocol(IntEnum):
    HTTP1, TLS, HTTP2, OTHER = range(4)


class Cut(IntEnum):
    WHOLE, GAP, CLOSED, EVICTED, IDLE, STOPPED, MALFORMED, LIMIT = range(8)


class Odd(IntFlag):
    TE_AND_CL = 1 << 0
    TE_IN_HTTP10 = 1 << 1
    TE_NOT_CHUNKED = 1 << 2
    TE_FOLDED = 1 << 3
    CL_REPEATED = 1 << 4
    CL_ZERO_PADDED = 1 << 5
    CL_CONFLICTING = 1 << 6
    CL_INVALID = 1 << 7
    SPACE_BEFORE_COLON = 1 << 8
    SPACE_IN_TARGET = 1 << 9
    CONFLICTING_OVERLAP = 1 << 10
    BARE_LF = 1 << 11
    OBS_FOLD = 1 << 12
    BODY_NOT_SENT = 1 << 13
    BAD_HEADER_LINE = 1 << 14
    TE_IDENTITY = 1 << 15
    ODD_START_LINE = 1 << 16
    LAST_CRLF_MISSING = 1 << 17


@dataclass(frozen=True)
class Gap:
    """Missing bytes, among the runs."""

    size: int


@dataclass(frozen=True)
class Rest:
    """Bytes of the segment that the run before began."""

    data: bytes


Piece = bytes | Gap | Rest


@dataclass
class Reader:
    """Plays the session: pairs nothing, frames every head (`heads` answers to HEAD first), collects what ends."""

    parser: PyParser
    kind: int
    heads: int = 0
    paired: bool = True
    messages: list[dict[str, Any]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    offset: int = 0
    fed: int = 0
    stamp: int = 0
    accept: Callable[[dict[str, Any]], bool] | None = None
    counted: dict[str, int] = field(default_factory=dict)

    def feed(self, *pieces: Piece, ack: int = -1, conflict: bool = False) -> "Reader":
        """Each bytes is a segment of its own, stamped 1, 2, 3 ... in order."""
        for piece in pieces:
            if isinstance(piece, Gap):
                left = piece.size
                while True:
                    event, left = self.parser.gap(left)
                    if not self.act(event):
                        break
                assert left == 0
                self.offset += piece.size
                continue
            data = piece.data if isinstance(piece, Rest) else piece
            self.stamp += isinstance(piece, bytes)
            self.fed += len(data)
            start = isinstance(piece, bytes)
            while True:
                event, used = self.parser.data(data, self.offset, self.stamp, ack, start, conflict)
                start = start and not used
                data = data[used:]
                self.offset += used
                if not self.act(event):
                    break
            assert not data
        return self

    def end(self, reason: int = Cut.WHOLE) -> "Reader":
        while self.act(self.parser.end(reason)):
            pass
        return self

    def act(self, number: int) -> bool:
        """What the session does; whether the parser wants to be called again."""
        event = Event(number)
        if event == Event.MORE:
            return False
        self.events.append(event)
        if event in (Event.CUT, Event.END):
            self.messages.append(self.parser.take())
        elif event == Event.HEAD:
            message = self.parser.peek()
            assert message is not None
            if self.accept and not self.accept(message):
                self.parser.reject()
            elif self.kind == RESPONSE and message["status"] // 100 == 1 and message["status"] != 101:
                self.parser.discard()
            else:
                self.parser.frame(self.heads > 0, self.paired)
                self.heads -= 1
        return True

    @property
    def one(self) -> dict[str, Any]:
        assert len(self.messages) == 1, self.messages
        return self.messages[0]

    @property
    def counters(self) -> dict[str, int]:
        return self.parser.counters()


@contextmanager
def reading(
    kind: int, *, head: int = 65536, body: int = 65536, at_start: bool = True, heads: int = 0, paired: bool = True
) -> Iterator[Reader]:
    """A reader whose bytes and memory balance at the end."""
    parser = PyParser(kind, head=head, body=body, at_start=at_start)
    reader = Reader(parser, kind, heads=heads, paired=paired)
    yield reader
    counted = parser.counters()
    assert reader.fed == sum(
        counted.get(name, 0)
        for name in ("bytes_used", "bytes_abandoned_skipped", "bytes_abandoned_not_http", "bytes_abandoned_tunnel")
    )
    parser.close()


def read(kind: int, *pieces: Piece, end: int | None = Cut.WHOLE, **options: Any) -> Reader:
    """What becomes of these segments."""
    with reading(kind, **options) as reader:
        reader.feed(*pieces)
        if end is not None:
            reader.end(end)
        reader.counted = reader.counters
    return reader


def request(head: bytes, body: bytes = b"") -> bytes:
    """A POST with these header lines."""
    return b"POST / HTTP/1.1\r\n" + head + b"\r\n" + body


def response(head: bytes, body: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + body


BAD_LINES = [
    b"no colon",
    b": no name",
    b"A b: 1",
    b"A: \x00",
    b"A: a\x0bb",
    b"A: a\x0cb",
    b"A: a\rb",
    b"A: 1\r",
    b"\rA: 1",
    b"\xe4: 1",
    b"A\x01: 1",
    b"A(: 1",
    b"no colon\r\n\tsecret: 1\n  more",
    b"A: 1\r\n \x00",
    b"A\r\n : 1",
    b"<b>Warning</b>: Undefined variable in <b>/x.php</b>",
    b"Content-Length 3",
    b"X: a\rB: 1",
    b"Content-Lengths\x00: 3",
]


CHUNKED = b"3\r\nabc\r\n0\r\n\r\n"


CHUNKY = b"Transfer-Encoding: chunked\r\n"


NEXT = b"GET /next HTTP/1.1\r\n\r\n"


def comparable(reader: Reader) -> list[dict[str, Any]]:
    """Everything but when the last bytes of what was cut came."""
    return [{k: v for k, v in m.items() if k != "stamp_end"} for m in reader.messages]


def recognised(pieces: Sequence[Piece]) -> bool:
    """Whether TLS or HTTP/2 could be recognised mid-stream, which takes the first bytes of a segment in one run."""
    return any(isinstance(p, bytes) and (p[0] in range(0x14, 0x18) or p[:3] == b"PRI") for p in pieces)


def agree_on(block: bytes) -> None:
    """What becomes of a header block is what h11 says of each of its fields."""
    reader = read(REQUEST, b"GET / HTTP/1.1\r\n" + block + b"\r\n")
    message = reader.messages[0]
    judged = [parse_by_h11(unframed(field)) for field in fields_in(block)]
    kept = [field for field, found in zip(fields_in(block), judged, strict=True) if found is not None]
    assert message["fields"] == parse_by_h11(b"".join(kept))
    assert bool(message["anomalies"] & Odd.BAD_HEADER_LINE) == (None in judged)
    assert not message["refused"] or None in judged
    assert "heads_fast" not in reader.counted or None not in judged


def fields_in(block: bytes) -> list[bytes]:
    """Its lines, each with those that continue it."""
    fields: list[bytes] = []
    for line in re.findall(rb"[^\n]*\n", block):
        if fields and line[:1] in (b" ", b"\t"):
            fields[-1] += line
        else:
            fields.append(line)
    return fields


def unframed(field: bytes) -> bytes:
    """The same under another name where h11 would not be asked."""
    name = field.partition(b":")[0].strip(b" \t").lower()
    return b"X-" + field if name in (b"content-length", b"transfer-encoding") else field
