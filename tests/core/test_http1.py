"""http1.pyx: one direction's messages."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    """Plays flow: pairs nothing, frames every head (`heads` answers to HEAD first), collects what ends."""

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
        """What flow does; whether the parser wants to be called again."""
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


# -- start lines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "method", "target", "minor", "odd"),
    [
        (b"GET / HTTP/1.1\r\n", b"GET", b"/", 1, 0),
        (b"get / HTTP/1.0\r\n", b"get", b"/", 0, 0),
        (b"M-SEARCH * HTTP/1.9\r\n", b"M-SEARCH", b"*", 1, 0),
        (b"GET http://a/b?c=\xe4 HTTP/1.1\r\n", b"GET", b"http://a/b?c=\xe4", 1, 0),
        (b"GET /a b  c HTTP/1.1\r\n", b"GET", b"/a b  c", 1, Odd.SPACE_IN_TARGET),
        (b"GET /a HTTP/1.1 HTTP/1.0\r\n", b"GET", b"/a HTTP/1.1", 0, Odd.SPACE_IN_TARGET),
        (b"CONNECT a:443 HTTP/1.1\n", b"CONNECT", b"a:443", 1, Odd.BARE_LF),
        (b"\r\n\n\r\nGET / HTTP/1.1\r\n", b"GET", b"/", 1, 0),
    ],
)
def test_request_line(line: bytes, method: bytes, target: bytes, minor: int, odd: int) -> None:
    """METHOD SP target SP HTTP/1.x, split at the first and the last SP; blank lines before it are passed over."""
    for pieces in ([line + b"\r\n"], [bytes([c]) for c in line + b"\r\n"]):
        message = read(REQUEST, *pieces).one
        assert (message["method"], message["target"], message["minor"]) == (method, target, minor)
        assert message["anomalies"] == odd
        assert not message["incomplete"]


@pytest.mark.parametrize(
    ("line", "status", "reason", "minor"),
    [
        (b"HTTP/1.1 200 OK\r\n", 200, b"OK", 1),
        (b"HTTP/1.0 404\r\n", 404, b"", 0),
        (b"HTTP/1.2 599 \r\n", 599, b"", 1),
        (b"HTTP/1.1 200 \tNicht \xfcbel \r\n", 200, b"\tNicht \xfcbel ", 1),
    ],
)
def test_status_line(line: bytes, status: int, reason: bytes, minor: int) -> None:
    """HTTP/1.x SP 3DIGIT, with or without a reason."""
    for pieces in ([line + b"\r\n"], [bytes([c]) for c in line + b"\r\n"]):
        message = read(RESPONSE, *pieces).one
        assert (message["status"], message["reason"], message["minor"]) == (status, reason, minor)


@pytest.mark.parametrize(
    "line",
    [
        b"GET /\r\n",
        b"GET  HTTP/1.1\r\n",
        b"GET   HTTP/1.1\r\n",
        b"GET / HTTP/2.0\r\n",
        b"GET / HTTP/1\r\n",
        b"GET / HTTP/1.\r\n",
        b"GET / HTTP/.1\r\n",
        b"GET / HTTP/11.1\r\n",
        b"GET / HTTPS/1.1\r\n",
        b"GET / HTTP 1.1\r\n",
        b"GET / HTTP/1.1 x\r\n",
        b"GET / HTTP/1.x\r\n",
        b"G@T / HTTP/1.1\r\n",
        b" GET / HTTP/1.1\r\n",
        b"GET /\x00 HTTP/1.1\r\n",
        b"GET /\x7f HTTP/1.1\r\n",
        b"GET /\t HTTP/1.1\r\n",
        b"GET /\r HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\r\n",
        b"GET / HTTP/1.1 \r \r\n",
        b"GET / HTTP/1.1\x0b\r\n",
        b"GET\t/ HTTP/1.1\r\n",
        b"/ HTTP/1.1\r\n",
        b"HTTP/1.1\r\n",
    ],
)
def test_malformed_request_line(line: bytes) -> None:
    """A line that is no request line is counted and skipped, and the next segment that begins a head is read."""
    for pieces in ([line + b"\r\n"], [line[:1], *(Rest(bytes([c])) for c in line[1:] + b"\r\n")]):
        reader = read(REQUEST, *pieces, b"GET /next HTTP/1.1\r\n\r\n")
        assert reader.one["target"] == b"/next"
        assert reader.one["resynced"]
        assert reader.counted["start_lines_malformed"] == 1


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1 20 OK\r\n",
        b"HTTP/1.1 2000 OK\r\n",
        b"HTTP/1.1200 OK\r\n",
        b"HTTP/1.1  2000 OK\r\n",
        b"HTTP/1.1 200OK\r\n",
        b"HTTP/1. 200 OK\r\n",
        b"HTTP/0.9 200 OK\r\n",
        b"HTTP/4.0 200 OK\r\n",
        b"HTTP/1.1" + b" " * 60 + b"200 OK\r\n",
        b"HTTP/1.1\x0b200 OK\r\n",
        b"HTTP 200 OK\r\n",
        b"http/1.1  200 O\x00K\r\n",
        b"HTTP/1.1 200 O\x00K\r\n",
        b"ICY 200 OK\r\n",
    ],
)
def test_malformed_status_line(line: bytes) -> None:
    """The same for responses."""
    for pieces in ([line + b"\r\n"], [line[:1], *(Rest(bytes([c])) for c in line[1:] + b"\r\n")]):
        reader = read(RESPONSE, *pieces, b"HTTP/1.1 204 Next\r\n\r\n")
        assert reader.one["status"] == 204
        assert reader.counted["start_lines_malformed"] == 1


@pytest.mark.parametrize(
    ("line", "method", "target", "minor", "odd"),
    [
        (b"GET / http/1.1\r\n", b"GET", b"/", 1, 0),
        (b"GET / Http/1.0\r\n", b"GET", b"/", 0, 0),
        (b"GET / HTTP/1.01\r\n", b"GET", b"/", 1, 0),
        (b"GET / HTTP/01.00\r\n", b"GET", b"/", 0, 0),
        (b"GET / HTTP/1.10\r\n", b"GET", b"/", 1, 0),
        (b"GET / HTTP/1.1 \r\n", b"GET", b"/", 1, 0),
        (b"GET / HTTP/1.1 \t \n", b"GET", b"/", 1, Odd.BARE_LF),
        (b"GET / HTTP/1.1\t\r\n", b"GET", b"/", 1, 0),
        (b"GET  / HTTP/1.1\r\n", b"GET", b"/", 1, 0),
        (b"GET /   HTTP/1.0\r\n", b"GET", b"/", 0, 0),
        (b"frob  *  http/1.1  \r\n", b"frob", b"*", 1, 0),
        (b"GET /a b  http/1.1\r\n", b"GET", b"/a b", 1, Odd.SPACE_IN_TARGET),
        (b"GET  /a HTTP/1.1 HTTP/1.0\r\n", b"GET", b"/a HTTP/1.1", 0, Odd.SPACE_IN_TARGET),
    ],
)
def test_odd_request_line(line: bytes, method: bytes, target: bytes, minor: int, odd: int) -> None:
    """Where a request is due, the first or a later one, an odd line that servers take is one, and is marked."""
    data = line + b"A: 1\r\n\r\n"
    for pieces in ([data], [bytes([c]) for c in data]):
        for before in (b"", b"POST /before HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"\r\n"):
            message = read(REQUEST, *([before] if before else []), *pieces, b"GET /next HTTP/1.1\r\n\r\n").messages[-2]
            assert (message["method"], message["target"], message["minor"]) == (method, target, minor)
            assert message["fields"] == [(b"A", b"1")]
            assert message["anomalies"] == odd | Odd.ODD_START_LINE
            assert (message["incomplete"], message["resynced"]) == (Cut.WHOLE, False)


@pytest.mark.parametrize(
    ("line", "status", "reason", "minor"),
    [
        (b"HTTP/1.1  200 OK\r\n", 200, b"OK", 1),
        (b"HTTP/1.1\t200 OK\r\n", 200, b"OK", 1),
        (b"HTTP/1.1 200\tOK\r\n", 200, b"OK", 1),
        (b"HTTP/1.1   404\r\n", 404, b"", 1),
        (b"http/1.0 200 OK\n", 200, b"OK", 0),
        (b"HTTP/1.01 200 OK\r\n", 200, b"OK", 1),
        (b"HTTP/01.0 200 OK\r\n", 200, b"OK", 0),
        (b"HTTP/2.0 200 OK\r\n", 200, b"OK", 1),
        (b"HTTP/2 200\r\n", 200, b"", 1),
        (b"HTTP/3 204 \r\n", 204, b"", 1),
        (b"HTTP/1 200 OK\r\n", 200, b"OK", 0),
    ],
)
def test_odd_status_line(line: bytes, status: int, reason: bytes, minor: int) -> None:
    """The same for responses; a later major version in text is read as 1.1."""
    data = line + b"Content-Length: 0\r\n\r\n"
    for pieces in ([data], [bytes([c]) for c in data], [data[:9], data[9:]]):
        for before in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"):
            messages = read(RESPONSE, *([before] if before else []), *pieces, b"HTTP/1.1 204 Next\r\n\r\n").messages
            assert messages[-1]["reason"] == b"Next"
            assert not messages[-1]["resynced"]
            message = messages[-2]
            assert (message["status"], message["reason"], message["minor"]) == (status, reason, minor)
            assert message["anomalies"] & ~Odd.BARE_LF == Odd.ODD_START_LINE
            assert message["fields"] == [(b"Content-Length", b"0")]


@pytest.mark.parametrize("at_start", [True, False])
@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (REQUEST, b"GET / http/1.1"),
        (REQUEST, b"GET / HTTP/1.1 "),
        (REQUEST, b"GET / HTTP/1.01"),
        (REQUEST, b"GET  / HTTP/1.1"),
        (RESPONSE, b"HTTP/1.1  200 OK"),
        (RESPONSE, b"http/1.1 200 OK"),
        (RESPONSE, b"HTTP/2.0 200 OK"),
    ],
)
def test_no_odd_line_after_a_loss(kind: int, line: bytes, at_start: bool) -> None:
    """After lost bytes, or mid-stream, no odd line begins a message, not even where the other side marks an end."""
    following = NEXT if kind == REQUEST else b"HTTP/1.1 204 Next\r\n\r\n"
    for pieces in ([line + b"\r\n\r\n"], [line[:5], *(Rest(bytes([c])) for c in line[5:] + b"\r\n\r\n")]):
        for boundary in (-1, 7 * at_start):
            with reading(kind, at_start=at_start) as reader:
                if at_start:
                    reader.feed(Gap(7))
                reader.parser.boundary(boundary)
                reader.feed(*pieces, following)
                assert reader.one["start"] == 7 * at_start + len(line) + 4


def test_odd_line_of_many_pieces() -> None:
    """An odd start line as long as a head may be, in one-byte runs, is read in time that grows with its size alone."""
    target = b"/" + b"a" * 60_000
    data = b"GET  " + target + b"\xe4 http/1.1 \r\n\r\n"
    message = read(REQUEST, *(bytes([c]) for c in data)).one
    assert (message["target"], message["anomalies"]) == (target + b"\xe4", Odd.ODD_START_LINE)
    method = b"M" * 30_000
    assert not read(REQUEST, *(bytes([c]) for c in method + b" \t" + method)).messages


def test_start_line_over_the_limit() -> None:
    """A start line that does not end within the limit of a head is malformed, and holds bounded memory."""
    with reading(REQUEST, head=1000) as reader:
        for _ in range(100):
            reader.feed(b"GET /" + b"a" * 95)
            assert reader.parser.held <= 2000
        reader.feed(b"GET / HTTP/1.1\r\n\r\n")
        assert reader.one["target"] == b"/"
        assert reader.counters["start_lines_malformed"] == 1


# -- what is no HTTP/1 ------------------------------------------------------------------------------------------------

TLS_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.mark.parametrize("kind", [REQUEST, RESPONSE])
@pytest.mark.parametrize(("first", "protocol"), [(TLS_HELLO, Protocol.TLS), (PREFACE, Protocol.HTTP2)])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_other_protocols(kind: int, first: bytes, protocol: Protocol, size: int) -> None:
    """TLS and HTTP/2 are recognised by the first bytes of the stream, however they are cut; the rest is not read."""
    with reading(kind) as reader:
        reader.feed(*(first[i : i + size] for i in range(0, len(first), size)), b"GET / HTTP/1.1\r\n\r\n")
        assert reader.events == [Event.NOT_HTTP]
        assert reader.parser.protocol == protocol
        assert not reader.messages


@pytest.mark.parametrize(("first", "protocol"), [(b"\x17\x03\x03\x40\x10abc", Protocol.TLS), (PREFACE, Protocol.HTTP2)])
def test_other_protocols_mid_stream(first: bytes, protocol: Protocol) -> None:
    """Mid-stream, a TLS record header or the preface at the first byte of a segment says the same."""
    with reading(REQUEST, at_start=False) as reader:
        reader.feed(first, b"more")
        assert reader.events == [Event.NOT_HTTP]
        assert reader.parser.protocol == protocol


@pytest.mark.parametrize("first", [b"\x17\x03\x09\x00\x10abc", b"\x17\x03\x03\xff\xffabc", b"\x18\x03\x03\x00\x10abc"])
def test_not_quite_tls(first: bytes) -> None:
    """Other bytes are skipped until a head begins. That is not `resynced`: nothing was lost since then."""
    with reading(REQUEST, at_start=False) as reader:
        reader.feed(first, b"more", b"GET / HTTP/1.1\r\n\r\n")
        assert not reader.one["resynced"]
        assert not reader.one["sure"]


def test_strange_direction_is_given_up() -> None:
    """A direction that begins with garbage and never speaks HTTP is given up after 64 KiB."""
    with reading(REQUEST) as reader:
        reader.feed(*[b"\x00" * 1000] * 65)
        assert not reader.events
        reader.feed(b"\x00" * 1000, b"\x00")
        assert reader.events == [Event.NOT_HTTP]
        assert reader.parser.protocol == Protocol.OTHER


def test_mid_stream_is_never_given_up() -> None:
    """A direction first seen in the middle of a body of any length is not given up."""
    with reading(REQUEST, at_start=False) as reader:
        reader.feed(*[b"\x00" * 1000] * 100, b"GET / HTTP/1.1\r\n\r\n")
        assert reader.one["target"] == b"/"


# -- header blocks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "fields", "odd"),
    [
        (b"", [], 0),
        (b"A: 1\r\nb:2\r\nC:\t 3 \t \r\nD:\r\n", [(b"A", b"1"), (b"b", b"2"), (b"C", b"3"), (b"D", b"")], 0),
        (b"A: 1\nB: 2\r\n", [(b"A", b"1"), (b"B", b"2")], Odd.BARE_LF),
        (b"A \t: 1\r\n", [(b"A", b"1")], Odd.SPACE_BEFORE_COLON),
        (b"A: " + bytes(range(0x21, 0x7F)) + b"\t \x21\r\n", [(b"A", bytes(range(0x21, 0x7F)) + b"\t \x21")], 0),
        (b"!#$%&'*+-.^_`|~09azAZ: 1\r\n", [(b"!#$%&'*+-.^_`|~09azAZ", b"1")], 0),
        (b"Host: a\r\nHost: b\r\n", [(b"Host", b"a"), (b"Host", b"b")], 0),
    ],
)
def test_plain_header_lines(lines: bytes, fields: list[tuple[bytes, bytes]], odd: int) -> None:
    """The plain grammar is the fast path's alone: values trimmed, order and case kept."""
    reader = read(REQUEST, b"GET / HTTP/1.1\r\n" + lines + b"\r\n")
    assert reader.one["fields"] == fields
    assert reader.one["anomalies"] == odd
    assert reader.counted["heads_fast"] == 1
    assert "heads_h11" not in reader.counted


@pytest.mark.parametrize(
    ("lines", "fields", "odd"),
    [
        (b"A: 1\r\n 2\r\n", [(b"A", b"1 2")], Odd.OBS_FOLD),
        (b"A: 1\n\t2\r\nB: 3\r\n", [(b"A", b"1 2"), (b"B", b"3")], Odd.OBS_FOLD | Odd.BARE_LF),
        (b"A: \xe4\r\n", [(b"A", b"\xe4")], 0),
        (b"A: \x01\r\n", [(b"A", b"\x01")], 0),
        (b"Host: \xe4\r\nHOST : b\r\n", [(b"Host", b"\xe4"), (b"HOST", b"b")], Odd.SPACE_BEFORE_COLON),
        (b"A: \xe4\r\nContent-Length: 0\r\nB: c\r\n", [(b"A", b"\xe4"), (b"Content-Length", b"0"), (b"B", b"c")], 0),
    ],
)
def test_declined_header_lines(lines: bytes, fields: list[tuple[bytes, bytes]], odd: int) -> None:
    """What h11 accepts is used, in order, framing fields and several Host lines included."""
    reader = read(REQUEST, b"GET /x HTTP/1.1\r\n" + lines + b"\r\n")
    assert reader.one["fields"] == fields
    assert reader.one["target"] == b"/x"
    assert reader.one["anomalies"] == odd
    assert reader.counted["heads_h11"] == 1
    assert not reader.one["incomplete"]


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


@pytest.mark.parametrize("line", BAD_LINES)
@pytest.mark.parametrize("kind", [REQUEST, RESPONSE])
def test_bad_header_lines(kind: int, line: bytes) -> None:
    """A line that is no field is left out with what continues it; the message is whole, with its other fields."""
    start = b"POST /x HTTP/1.1\r\n" if kind == REQUEST else b"HTTP/1.1 200 OK\r\n"
    data = start + b"A: 1\r\n" + line + b"\r\nContent-Length: 3\r\n" + line + b"\r\nB: 2\r\n\r\nabc"
    next_one = NEXT if kind == REQUEST else b"HTTP/1.1 204 Next\r\n\r\n"
    for pieces in ([data + next_one], [bytes([c]) for c in data + next_one]):
        reader = read(kind, *pieces)
        first, second = reader.messages
        assert first["fields"] == [(b"A", b"1"), (b"Content-Length", b"3"), (b"B", b"2")]
        assert (first["incomplete"], first["refused"]) == (Cut.WHOLE, False)
        assert first["anomalies"] & ~(Odd.BARE_LF | Odd.OBS_FOLD) == Odd.BAD_HEADER_LINE
        assert (first["body"], first["missing"], first["end"]) == (b"abc", 0, len(data))
        assert not second["resynced"]
        assert "heads_refused" not in reader.counted


def test_bad_lines_alone() -> None:
    """A block may begin with a continuation of nothing, and hold nothing but bad lines."""
    for block in (b" A: 1\r\n", b" : 1\r\n", b" A: 1\r\n\tB: 2\r\n", b"no colon\r\n", b": 1\r\n" * 3):
        message = read(REQUEST, b"GET / HTTP/1.1\r\n" + block + b"\r\n").one
        assert (message["fields"], message["incomplete"]) == ([], Cut.WHOLE)
        assert message["anomalies"] & Odd.BAD_HEADER_LINE
    message = read(REQUEST, b"GET / HTTP/1.1\r\n A: 1\r\n b\r\nC: 3\r\n\r\n").one
    assert message["fields"] == [(b"C", b"3")]


@pytest.mark.parametrize(
    "line",
    [
        b"Content -Length: 3",
        b"Content-Length\x00: 3",
        b"\x0bcontent-length: 3",
        b"Content-Length\xa0: 3",
        b"\xef\xbb\xbfContent-Length: 3",
        b"Content-Length",
        b"Content-Length\r\n : 3",
        b"Content-Length: 3\x00",
        b"Transfer-Encoding: \x0bchunked",
        b"Transfer-Encoding: chunked\r",
        b"Transfer-Encoding:\r\n chunked\x00",
        b"T ransfer-Encoding : chunked",
        b"X: a\rContent-Length: 3",
        b"X: a\r\x01Transfer-Encoding\t: chunked",
    ],
)
@pytest.mark.parametrize("kind", [REQUEST, RESPONSE])
def test_bad_framing_lines(kind: int, line: bytes) -> None:
    """A bad line that other readers may take for a framing field: malformed, since where the body ends nobody knows."""
    start = b"POST /x HTTP/1.1\r\n" if kind == REQUEST else b"HTTP/1.1 200 OK\r\n"
    data = start + b"A: 1\r\n" + line + b"\r\nContent-Length: 3\r\n\r\n"
    following = NEXT if kind == REQUEST else b"HTTP/1.1 204 Next\r\n\r\n"
    for pieces in ([data], [data[:1], *(Rest(bytes([c])) for c in data[1:])]):
        reader = read(kind, *pieces, b"abc", following)
        first, second = reader.messages
        assert (first["incomplete"], first["missing"], first["refused"]) == (Cut.MALFORMED, -1, True)
        assert first["fields"] == [(b"A", b"1"), (b"Content-Length", b"3")]
        assert first["anomalies"] & Odd.BAD_HEADER_LINE
        assert second["resynced"]
        assert reader.counted["heads_refused"] == 1


def test_bad_lines_that_frame_nothing() -> None:
    """An answer without a body ends with its head all the same; what continues a bad line is no line of its own."""
    data = b"HTTP/1.1 204 No\r\nContent- Length: 3\r\n\r\nHTTP/1.1 204 Next\r\n\r\n"
    first, second = read(RESPONSE, data).messages
    assert (first["incomplete"], first["missing"], second["resynced"]) == (Cut.MALFORMED, 0, False)
    message = read(REQUEST, request(b"no colon\r\n Content-Length: 3\r\nX Y: Content-Length: 3\r\n")).one
    assert (message["incomplete"], message["fields"]) == (Cut.WHOLE, [])


def test_bad_lines_offer_nothing() -> None:
    """An Upgrade or Connection line that is no field is not listened to."""
    lines = b"Connection: upgrade\x00\r\nUpgrade: websocket\r\n"
    assert not read(REQUEST, b"GET / HTTP/1.1\r\n" + lines + b"\r\n").one["upgrade"]


def test_a_head_of_bad_lines() -> None:
    """64 KiB of bad lines, in one run or byte by byte, are left out in time that grows with their size alone."""
    for line in (b":\r\n", b"\r:\n", b"a\n", b"a:\x00\n", b"content-length\x01a\n"):
        lines = line * (65_000 // len(line))
        data = b"GET / HTTP/1.1\r\n" + lines + b"A: \xe4\r\n\r\n"
        for pieces in ([data], [bytes([c]) for c in data] if line == b"a\n" else []):
            for message in read(REQUEST, *pieces).messages:
                assert message["fields"] == [(b"A", b"\xe4")]


def test_head_over_the_limit() -> None:
    """A head over the limit is cut with the header lines that were whole, however it came; the next one resyncs."""
    data = b"GET / HTTP/1.1\r\n" + b"".join(b"A%02d: 1\r\n" % i for i in range(50)) + b"\r\n"
    for pieces in ([data], [data[:1], *(Rest(bytes([c])) for c in data[1:])]):
        reader = read(REQUEST, *pieces, b"GET /next HTTP/1.1\r\n\r\n", head=100)
        first, second = reader.messages
        assert reader.events[0] == Event.CUT
        assert first["incomplete"] == Cut.LIMIT
        assert len(first["fields"]) == (100 - 16) // 8
        assert (first["start"], first["end"], first["missing"]) == (0, 100, -1)
        assert second["resynced"]


def test_head_of_exactly_the_limit() -> None:
    """The limit itself is allowed."""
    data = b"GET / HTTP/1.1\r\nA: " + b"b" * 77 + b"\r\n\r\n"
    assert len(data) == 100
    for pieces in ([data], [bytes([c]) for c in data]):
        assert not read(REQUEST, *pieces, head=100).one["incomplete"]
        assert read(REQUEST, *pieces, head=99).messages[0]["incomplete"] == Cut.LIMIT


def test_big_head_byte_by_byte() -> None:
    """64 KiB of header lines in one-byte runs are read in time that grows with their size alone."""
    lines = [(b"A%05d" % i, b"b") for i in range(5900)]
    data = b"GET / HTTP/1.1\r\n" + b"".join(name + b": " + value + b"\r\n" for name, value in lines) + b"\r\n"
    assert 64000 < len(data) <= 65536
    assert read(REQUEST, *(data[i : i + 1] for i in range(len(data)))).one["fields"] == lines


@pytest.mark.parametrize(
    ("lines", "upgrade", "h2c"),
    [
        (b"Connection: upgrade\r\nUpgrade: websocket\r\n", True, False),
        (b"Connection: keep-alive, UPGRADE\r\nUpgrade: H2C\r\n", True, True),
        (b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c, websocket\r\n", True, False),
        (b"Connection: upgrade\r\n", False, False),
        (b"Upgrade: websocket\r\n", False, False),
        (b"Connection: upgrades\r\nUpgrade: websocket\r\n", False, False),
        (b"X: \xe4\r\nConnection: upgrade\r\nUpgrade: websocket\r\n", True, False),
    ],
)
def test_upgrade(lines: bytes, upgrade: bool, h2c: bool) -> None:
    """An upgrade is offered by an Upgrade field that Connection names."""
    message = read(REQUEST, b"GET / HTTP/1.1\r\n" + lines + b"\r\n").one
    assert (message["upgrade"], message["upgrade_h2c"]) == (upgrade, h2c)


# -- framing, RFC 9112 section 6 --------------------------------------------------------------------------------------

CHUNKED = b"3\r\nabc\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("lines", "body", "kept", "odd"),
    [
        (b"", b"", b"", 0),
        (b"Content-Length: 3\r\n", b"abc", b"abc", 0),
        (b"content-length:3\r\n", b"abc", b"abc", 0),
        (b"Content-Length: 3, 3\r\n", b"abc", b"abc", Odd.CL_REPEATED),
        (b"Content-Length: 3\r\nContent-Length: 3\r\n", b"abc", b"abc", Odd.CL_REPEATED),
        (b"Content-Length: 003\r\n", b"abc", b"abc", Odd.CL_ZERO_PADDED),
        (b"Content-Length:\r\n 3\r\n", b"abc", b"abc", Odd.OBS_FOLD),
        (b"Content-Length : 3\r\n", b"abc", b"abc", Odd.SPACE_BEFORE_COLON),
        (b"Transfer-Encoding: chunked\r\n", CHUNKED, b"abc", 0),
        (b"Transfer-Encoding: Chunked ; a=b\r\n", CHUNKED, b"abc", 0),
        (b"Transfer-Encoding:\tgzip ,, chunked, \r\n", CHUNKED, b"abc", 0),
        (b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", CHUNKED, b"abc", 0),
        (b"Transfer-Encoding:\r\n\tchunked\r\n", CHUNKED, b"abc", Odd.OBS_FOLD | Odd.TE_FOLDED),
        (b"Transfer-Encoding: gzip,\r\n chunked\r\n", CHUNKED, b"abc", Odd.OBS_FOLD | Odd.TE_FOLDED),
        (b"X: a\r\n b\r\nTransfer-Encoding: chunked\r\n", CHUNKED, b"abc", Odd.OBS_FOLD),
        (b"Content-Length: 3\r\nX: a\r\n b\n", b"abc", b"abc", Odd.OBS_FOLD | Odd.BARE_LF),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 99\r\n", CHUNKED, b"abc", Odd.TE_AND_CL),
        (b"Content-Length: x\r\nTransfer-Encoding: chunked\r\n", CHUNKED, b"abc", Odd.TE_AND_CL | Odd.CL_INVALID),
        (b"Transfer-Encoding: identity\r\n", b"", b"", Odd.TE_IDENTITY),
        (b"Transfer-Encoding: Identity\r\nContent-Length: 3\r\n", b"abc", b"abc", Odd.TE_IDENTITY),
        (b"Content-Length: 3\r\nTransfer-Encoding: , IDENTITY;q=1 ,\r\n", b"abc", b"abc", Odd.TE_IDENTITY),
        (b"Content-Length: 3\r\n" + b"Transfer-Encoding: identity\r\n" * 2, b"abc", b"abc", Odd.TE_IDENTITY),
        (b"Content-Length: 3\r\nTransfer-Encoding: identity,identity\r\n", b"abc", b"abc", Odd.TE_IDENTITY),
        (b"Transfer-Encoding: identity\r\nTransfer-Encoding:\r\n", b"", b"", Odd.TE_IDENTITY),
        (b"Transfer-Encoding: identity, chunked\r\n", CHUNKED, b"abc", Odd.TE_IDENTITY),
        (b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", CHUNKED, b"abc", Odd.TE_IDENTITY),
    ],
)
def test_framing(lines: bytes, body: bytes, kept: bytes, odd: int) -> None:
    """The length of a request's body; chunked wins over Content-Length."""
    data = request(lines, body) + request(b"")
    for pieces in ([data], [bytes([c]) for c in data]):
        reader = read(REQUEST, *pieces)
        first, second = reader.messages
        assert (first["body"], first["body_size"], first["anomalies"]) == (kept, len(kept), odd)
        assert not first["incomplete"]
        assert first["end"] == second["start"] == len(request(lines, body))
        assert not second["resynced"]


@pytest.mark.parametrize(
    ("lines", "odd"),
    [
        (b"Content-Length: 3\r\nContent-Length: 4\r\n", Odd.CL_CONFLICTING),
        (b"Content-Length: 3, 4\r\n", Odd.CL_CONFLICTING),
        (b"Content-Length: -3\r\n", Odd.CL_INVALID),
        (b"Content-Length: +3\r\n", Odd.CL_INVALID),
        (b"Content-Length: 3 4\r\n", Odd.CL_INVALID),
        (b"Content-Length: 3,\r\n", Odd.CL_INVALID),
        (b"Content-Length: 0x3\r\n", Odd.CL_INVALID),
        (b"Content-Length:\r\n", Odd.CL_INVALID),
        (b"Content-Length: 9223372036854775808\r\n", Odd.CL_INVALID),
        (b"Content-Length: 99999999999999999999999999\r\n", Odd.CL_INVALID),
        (b"Transfer-Encoding: gzip\r\n", Odd.TE_NOT_CHUNKED),
        (b"Transfer-Encoding: chunked, gzip\r\n", Odd.TE_NOT_CHUNKED),
        (b"Transfer-Encoding: xchunked\r\n", Odd.TE_NOT_CHUNKED),
        (b"Transfer-Encoding: chunked, identity\r\n", Odd.TE_NOT_CHUNKED | Odd.TE_IDENTITY),
        (b"Transfer-Encoding: identity, gzip\r\n", Odd.TE_NOT_CHUNKED | Odd.TE_IDENTITY),
        (b"Transfer-Encoding: identityx\r\n", Odd.TE_NOT_CHUNKED),
        (b"Transfer-Encoding:\r\n", Odd.TE_NOT_CHUNKED),
        (b'Transfer-Encoding: a;b="c, chunked"\r\n', Odd.TE_NOT_CHUNKED),
    ],
)
def test_malformed_framing(lines: bytes, odd: int) -> None:
    """A request whose end nobody knows is emitted as malformed; reading resumes at the next boundary, `resynced`."""
    reader = read(REQUEST, request(lines), b"abc", b"GET /next HTTP/1.1\r\n\r\n")
    first, second = reader.messages
    assert first["incomplete"] == Cut.MALFORMED
    assert first["missing"] == -1
    assert first["anomalies"] == odd
    assert second["target"] == b"/next"
    assert second["resynced"]


def test_largest_length() -> None:
    """2^63 - 1 is a valid length, and claiming it allocates nothing."""
    with reading(REQUEST) as reader:
        reader.feed(request(b"Content-Length: 9223372036854775807\r\n"), b"abc")
        assert reader.parser.held < 4096
        reader.feed(Gap(1000)).end()
        assert reader.one["missing"] == 9223372036854775807 - 3


@pytest.mark.parametrize(
    ("line", "heads"), [(b"204 No Content", 0), (b"304 Not Modified", 0), (b"101 Switch", 0), (b"200 OK", 1)]
)
@pytest.mark.parametrize(
    "framing", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"", b"Content-Length: x\r\n"]
)
def test_bodyless_responses(line: bytes, heads: int, framing: bytes) -> None:
    """204, 304, 101 and answers to HEAD have no body, whatever they say."""
    data = b"HTTP/1.1 " + line + b"\r\n" + framing + b"\r\n"
    first, second = read(RESPONSE, data + b"HTTP/1.1 204 Next\r\n\r\n", heads=heads).messages
    assert first["bodyless"]
    assert not first["incomplete"]
    assert first["end"] == len(data)
    assert second["reason"] == b"Next"


def test_response_until_close() -> None:
    """A response without a length ends with the stream: whole at FIN, `closed` at RST; so does one not chunked last."""
    for lines, odd in ((b"", 0), (b"Transfer-Encoding: gzip\r\n", Odd.TE_NOT_CHUNKED)):
        for end, incomplete in ((Cut.WHOLE, Cut.WHOLE), (Cut.CLOSED, Cut.CLOSED), (Cut.STOPPED, Cut.STOPPED)):
            message = read(RESPONSE, response(lines, b"abc"), b"def", end=end).one
            assert (message["body"], message["incomplete"], message["anomalies"]) == (b"abcdef", incomplete, odd)


def test_identity_in_a_response() -> None:
    """The coding identity is none: Content-Length decides, without one the end of the stream, and in HTTP/1.0 too."""
    for version in (b"1.0", b"1.1"):
        start = b"HTTP/" + version + b" 200 OK\r\nTransfer-Encoding: identity\r\n"
        first, second = read(RESPONSE, start + b"Content-Length: 3\r\n\r\nabcHTTP/1.1 204 Next\r\n\r\n").messages
        assert (first["body"], first["anomalies"], second["status"]) == (b"abc", Odd.TE_IDENTITY, 204)
        message = read(RESPONSE, start + b"\r\nabc", b"def").one
        assert (message["body"], message["anomalies"], message["incomplete"]) == (b"abcdef", Odd.TE_IDENTITY, Cut.WHOLE)


def test_chunked_in_http10() -> None:
    """Transfer-Encoding in HTTP/1.0 is followed, and named."""
    message = read(RESPONSE, b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED).one
    assert (message["body"], message["anomalies"]) == (b"abc", Odd.TE_IN_HTTP10)


def test_long_start_line() -> None:
    """A start line of many KiB whose head does not end in its run."""
    target = b"/" + b"a" * 10_000
    data = b"GET " + target + b" HTTP/1.1\r\nA: 1\r\n\r\n"
    for split in (9_000, 10_016, 10_017, 10_020):
        assert read(REQUEST, data[:split], data[split:]).one["target"] == target
    assert read(REQUEST, Gap(1), data[:10_017], data[10_017:]).one["target"] == target


def test_interim_responses() -> None:
    """A discarded 1xx leaves no trace, and hands its `resynced` on."""
    data = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 N\r\n\r\n"
    assert read(RESPONSE, data).one["status"] == 204
    resynced = read(RESPONSE, b"HTTP/1.1 204 N\r\n\r\n", Gap(10), data)
    assert [message["resynced"] for message in resynced.messages] == [False, True]


def test_unpaired_response_that_answers_head() -> None:
    """An unpaired response whose body would begin, on a segment of its own, with a status line is bodyless."""
    for framing in (b"Content-Length: 500\r\n", b"Transfer-Encoding: chunked\r\n", b""):
        reader = read(RESPONSE, response(framing), b"HTTP/1.1 204 Next\r\n\r\n", paired=False)
        first, second = reader.messages
        assert first["bodyless"]
        assert second["status"] == 204
        assert reader.counted["responses_taken_bodyless"] == 1


def test_unpaired_response_that_may_answer_head() -> None:
    """An unpaired response whose body begins with a status line elsewhere may answer a HEAD: it is not whole."""
    head, body = response(b"Content-Length: 21\r\n"), b"HTTP/1.1 204 Next\r\n\r\n"
    dribbled = [Rest(body[at : at + 3]) for at in range(0, len(body), 3)]
    for pieces in ([head + body], [head, Rest(body)], [head, *dribbled]):
        message = read(RESPONSE, *pieces, paired=False).one
        assert (message["incomplete"], message["missing"], message["body"]) == (Cut.GAP, -1, b"")
        assert message["end"] == len(head + body)
        for cap in (0, 2):  # nor does it matter to what the cap had cut when it showed
            assert not read(RESPONSE, *pieces, paired=False, body=cap).one["truncated"]
    assert read(RESPONSE, head, body).one["body"] == body
    for plain in (b"HTTP/1.x is no status", b"H", b"HTTP/2 is not either."):
        message = read(RESPONSE, response(b"Content-Length: %d\r\n" % len(plain)), plain, paired=False).one
        assert (message["incomplete"], message["body"]) == (Cut.WHOLE, plain)
    short = read(RESPONSE, response(b"Content-Length: 9\r\n"), b"HTTP/1.1 ", paired=False).one
    assert short["incomplete"] == Cut.GAP


# -- chunked bodies, RFC 9112 section 7.1 -----------------------------------------------------------------------------

CHUNKY = b"Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    ("body", "kept", "odd"),
    [
        (b"0\r\n\r\n", b"", 0),
        (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789", 0),
        (b"a\r\n0123456789\r\n000\r\n\r\n", b"0123456789", 0),
        (b'3;a="b;c"\r\nabc\r\n2 ;x\r\nde\r\n0;y\r\n\r\n', b"abcde", 0),
        (b"3 \t\r\nabc\r\n0\r\n\r\n", b"abc", 0),
        (b"0000000000000003\r\nabc\r\n0\r\n\r\n", b"abc", 0),
        (b"3;" + b"x" * 16000 + b"\r\nabc\r\n0\r\n\r\n", b"abc", 0),
        (b"3\nabc\r\n0\r\n\r\n", b"abc", Odd.BARE_LF),
        (b"3;a\nabc\r\n0\r\n\r\n", b"abc", Odd.BARE_LF),
        (b"3\r\nabc\n0\r\n\r\n", b"abc", Odd.BARE_LF),
        (b"3\r\nabc\r\n0\r\n\n", b"abc", Odd.BARE_LF),
    ],
)
def test_chunks(body: bytes, kept: bytes, odd: int) -> None:
    """Sizes are hexadecimal, extensions are passed over, lines may end in a bare LF."""
    data = request(CHUNKY, body) + request(b"")
    for pieces in ([data], [bytes([c]) for c in data], [data[i : i + 7] for i in range(0, len(data), 7)]):
        first, second = read(REQUEST, *pieces).messages
        assert (first["body"], first["body_size"], first["anomalies"]) == (kept, len(kept), odd)
        assert not first["incomplete"]
        assert first["end"] == second["start"]


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n",
        b"x\r\n",
        b";a\r\n",
        b" 3\r\nabc\r\n",
        b"-3\r\nabc\r\n",
        b"0x3\r\nabc\r\n",
        b"3 a\r\nabc\r\n",
        b"3\rabc",
        b"3\r\nabcd",
        b"3\r\nabc\rd",
        b"00000000000000003\r\nabc\r\n",
        b"3" + b" " * 17000 + b"\r\n",
        b"3;" + b"x" * 17000 + b"\r\n",
    ],
)
def test_malformed_chunks(body: bytes) -> None:
    """Chunked framing that cannot be read on ends the message as malformed, and the direction resyncs."""
    data = request(CHUNKY, body)
    for pieces in ([data], [data[:1], *(Rest(bytes([c])) for c in data[1:])]):
        first, second = read(REQUEST, *pieces, b"GET /next HTTP/1.1\r\n\r\n").messages
        assert first["incomplete"] == Cut.MALFORMED
        assert first["missing"] == -1
        assert second["target"] == b"/next"
        assert second["resynced"]


def test_huge_chunk() -> None:
    """Sixteen digits are a valid size, and claiming them allocates nothing."""
    with reading(REQUEST) as reader:
        reader.feed(request(CHUNKY, b"ffffffffffffffff\r\nabc"), Gap(5), b"def").end()
        assert (reader.one["body"], reader.one["body_size"]) == (b"abc", 6)
        assert reader.one["incomplete"] == Cut.GAP


@pytest.mark.parametrize(
    ("lines", "fields", "odd"),
    [
        (b"A: 1\r\nB: 2\r\n", [(b"A", b"1"), (b"B", b"2")], 0),
        (b"A: 1\r\nContent-Length: 5\r\n", [(b"A", b"1"), (b"Content-Length", b"5")], 0),
        (b"A : 1\n", [(b"A", b"1")], Odd.SPACE_BEFORE_COLON | Odd.BARE_LF),
        (b"A: 1\r\n 2\r\n", [(b"A", b"1 2")], Odd.OBS_FOLD),
        (b"Content-Length: \xe4\r\n", [(b"Content-Length", b"\xe4")], 0),
    ],
)
def test_trailers(lines: bytes, fields: list[tuple[bytes, bytes]], odd: int) -> None:
    """Trailers are read like header lines, and change no framing."""
    data = request(CHUNKY, b"1\r\na\r\n0\r\n" + lines + b"\r\n") + request(b"")
    for pieces in ([data], [bytes([c]) for c in data]):
        first, second = read(REQUEST, *pieces).messages
        assert (first["trailers"], first["anomalies"]) == (fields, odd)
        assert not first["incomplete"]
        assert second["trailers"] is None


@pytest.mark.parametrize("line", [*BAD_LINES, b"Content- Length: 3", b"Content-Length: \x00"])
def test_bad_trailers(line: bytes) -> None:
    """A trailer line that is no field is left out, whatever its name, and the next message is in step."""
    for good in ([], [(b"A", b"1")]):
        trailers = line + b"\r\n" + lines_of(good)
        data = request(CHUNKY, b"0\r\n" + trailers + b"\r\n") + request(b"")
        for pieces in ([data], [bytes([c]) for c in data]):
            first, second = read(REQUEST, *pieces).messages
            assert (first["incomplete"], first["trailers"]) == (Cut.WHOLE, good or None)
            assert first["anomalies"] & Odd.BAD_HEADER_LINE
            assert not second["resynced"]


@pytest.mark.parametrize("kind", [REQUEST, RESPONSE])
def test_a_start_line_among_trailers(kind: int) -> None:
    """Where the last CRLF is missing, the next message is no trailers: malformed, and reading resumes at a boundary."""
    for line in [b"GET /a HTTP/1.1", b"GET /a http/1.1 "] if kind == REQUEST else [b"HTTP/1.1 200 OK", b"HTTP/2 200"]:
        start = b"POST / HTTP/1.1\r\n" if kind == REQUEST else b"HTTP/1.1 200 OK\r\n"
        data = start + CHUNKY + b"\r\n1\r\na\r\n0\r\nT: 1\r\n" + line + b"\r\nHost: h\r\n\r\nbody"
        following = NEXT if kind == REQUEST else b"HTTP/1.1 204 Next\r\n\r\n"
        for pieces in ([data], [data[:1], *(Rest(bytes([c])) for c in data[1:])]):
            first, second = read(kind, *pieces, following).messages
            assert (first["incomplete"], first["missing"], first["trailers"]) == (Cut.MALFORMED, -1, None)
            assert (first["body"], second["resynced"]) == (b"a", True)


def test_trailers_over_the_limit() -> None:
    """Trailers over the limit of a head end the message, at the same byte however they came."""
    data = request(CHUNKY, b"0\r\n" + b"A: 1\r\n" * 50 + b"\r\n")
    for pieces in ([data], [data[:1], *(Rest(bytes([c])) for c in data[1:])]):
        first, second = read(REQUEST, *pieces, b"GET /next HTTP/1.1\r\n\r\n", head=100).messages
        assert first["incomplete"] == Cut.LIMIT
        assert first["end"] == len(request(CHUNKY, b"0\r\n")) + 100
        assert second["resynced"]


# -- what is kept -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 1, 5, 9, 10, 11])
@pytest.mark.parametrize("size", [1, 4, 10])
@pytest.mark.parametrize("chunked", [False, True])
def test_body_limit(limit: int, size: int, chunked: bool) -> None:
    """At most the limit is kept; the size stays exact, and memory is bounded by what arrived and by the limit."""
    body = b"0123456789"
    head = CHUNKY if chunked else b"Content-Length: 10\r\n"
    with reading(REQUEST, body=limit) as reader:
        reader.feed(request(head, b"a\r\n" if chunked else b""))
        reader.feed(*(body[i : i + size] for i in range(0, 10, size)))
        reader.feed(b"\r\n0\r\n\r\n" if chunked else b"")
        assert (reader.one["body"], reader.one["body_size"]) == (body[:limit], 10)
        assert reader.one["truncated"] == (limit < 10)


def test_drop_body() -> None:
    """The memory cap takes the kept body of an open message; nothing more is kept, the size stays exact."""
    with reading(REQUEST) as reader:
        assert reader.parser.drop_body() == 0
        reader.feed(request(b"Content-Length: 6\r\n", b"abc"))
        held = reader.parser.held
        freed = reader.parser.drop_body()
        assert freed >= 3
        assert reader.parser.held == held - freed
        assert reader.parser.drop_body() == 0
        reader.feed(b"def")
        assert (reader.one["body"], reader.one["body_size"], reader.one["truncated"]) == (b"", 6, True)


def test_memory_follows_the_bytes_that_arrived() -> None:
    """A block for a body that is whole in its run is exact; one that grows is at most twice what arrived + 1 KiB."""
    with reading(REQUEST) as reader:
        reader.feed(request(b"Content-Length: 60000\r\n"))
        head = reader.parser.held
        for arrived in range(100, 60000, 100):
            reader.feed(b"x" * 100)
            assert arrived <= reader.parser.held - head <= max(1024, 2 * arrived)


def test_offsets_and_stamps() -> None:
    """start, head_end, end, both stamps and the ACK are those of the message's own bytes."""
    with reading(REQUEST) as reader:
        reader.feed(b"\r\n", ack=1).feed(b"POST / HTTP/1.1\r\nContent-", ack=2)
        reader.feed(b"Length: 5\r\n\r\nab", ack=3).feed(b"cdeGET / HTTP/1.1\r\n\r\n", ack=4)
        first, second = reader.messages
        keys = ("start", "head_end", "end", "stamp", "stamp_end", "ack")
        assert [first[key] for key in keys] == [2, 40, 45, 2, 4, 2]
        assert [second[key] for key in keys] == [45, 63, 63, 4, 4, 4]


def test_conflicting_overlap() -> None:
    """A run with conflicting bytes marks the message that it is part of."""
    for number in range(3):
        with reading(REQUEST) as reader:
            for i, piece in enumerate((b"POST / HTTP/1.1\r\n", b"Content-Length: 2\r\n\r\n", b"ab")):
                reader.feed(piece, conflict=i == number)
            reader.feed(b"GET / HTTP/1.1\r\n\r\n")
            assert [m["anomalies"] for m in reader.messages] == [Odd.CONFLICTING_OVERLAP, 0]


# -- lost bytes -------------------------------------------------------------------------------------------------------

NEXT = b"GET /next HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize(
    ("arrived", "gap", "then", "body", "missing", "resynced"),
    [
        (b"abc", 4, b"hij" + NEXT, b"abc", 4, False),
        (b"", 4, b"efghij" + NEXT, b"", 4, False),
        (b"abc", 7, NEXT, b"abc", 7, False),
        (b"abc", 8, NEXT, b"abc", 7, True),
    ],
)
def test_gap_in_a_body_of_known_length(
    arrived: bytes, gap: int, then: bytes, body: bytes, missing: int, resynced: bool
) -> None:
    """A gap within the known length costs its bytes alone; one that passes the end loses the place."""
    first, second = read(REQUEST, request(b"Content-Length: 10\r\n", arrived), Gap(gap), then).messages
    assert (first["body"], first["missing"], first["incomplete"]) == (body, missing, Cut.GAP)
    assert first["body_size"] == 10 - missing
    assert not first["truncated"]
    assert second["target"] == b"/next"
    assert second["resynced"] == resynced


@pytest.mark.parametrize(
    ("arrived", "gap", "then", "missing", "resynced"),
    [
        (b"a\r\nabc", 4, b"hij\r\n0\r\n\r\n" + NEXT, 4, False),
        (b"a\r\nabc", 7, b"\r\n0\r\n\r\n" + NEXT, 7, False),
        (b"a\r\nabc", 8, NEXT, -1, True),
        (b"a\r", 2, NEXT, -1, True),
        (b"a;b", 2, NEXT, -1, True),
        (b"3\r\nabc", 2, NEXT, -1, True),
        (b"3\r\nabc\r\n0\r\n", 2, NEXT, -1, True),
        (b"3\r\nabc\r\n0\r\nA: 1\r\n", 2, NEXT, -1, True),
    ],
)
def test_gap_in_a_chunked_body(arrived: bytes, gap: int, then: bytes, missing: int, resynced: bool) -> None:
    """A gap within a chunk's data costs its bytes alone; one that touches the framing loses the place."""
    first, second = read(REQUEST, request(CHUNKY, arrived), Gap(gap), then).messages
    assert (first["missing"], first["incomplete"]) == (missing, Cut.GAP)
    assert second["target"] == b"/next"
    assert second["resynced"] == resynced


def test_gap_in_a_body_until_close() -> None:
    """It is known in extent, and reading goes on; the bytes behind it are counted and not kept."""
    message = read(RESPONSE, response(b"", b"abc"), Gap(5), b"def").one
    assert (message["body"], message["body_size"], message["missing"]) == (b"abc", 6, 5)
    assert message["incomplete"] == Cut.GAP


def test_gap_in_a_head() -> None:
    """A head that a gap ends is emitted with its start line and its whole header lines; before that it is lost."""
    first, second = read(REQUEST, b"GET /a HTTP/1.1\r\nA: 1\r\nB: 2\r\nC: ", Gap(5), NEXT).messages
    assert (first["target"], first["fields"]) == (b"/a", [(b"A", b"1"), (b"B", b"2")])
    assert (first["incomplete"], first["missing"], first["end"]) == (Cut.GAP, -1, 32)
    assert second["resynced"]
    reader = read(REQUEST, b"GET /a HT", Gap(5), NEXT)
    assert reader.events[0] == Event.HEAD_LOST
    assert reader.one["resynced"]
    assert reader.counted["heads_cut"] == 1
    cut = read(REQUEST, b"GET /a HTTP/1.1\r\nbad\r\nA: 1\r\nB", Gap(5)).one
    assert (cut["fields"], cut["anomalies"]) == ([(b"A", b"1")], Odd.BAD_HEADER_LINE)


def test_gap_between_messages() -> None:
    """What was lost may have been messages: the next is found at the first byte of a segment, and `resynced`."""
    data = b"GET /x HTTP/1.1\r\n\r\n"
    reader = read(REQUEST, data, Gap(5), b"zz" + data, data, Gap(1), b"yy")
    assert [(m["resynced"], m["sure"]) for m in reader.messages] == [(False, True), (True, False)]
    assert reader.counted["bytes_abandoned_skipped"] == 2 + len(data) + 2


def test_gap_at_the_start() -> None:
    """The same when the first bytes of the stream are lost."""
    assert read(REQUEST, Gap(7), NEXT).one["resynced"]


def test_boundary_of_the_other_side() -> None:
    """Reading resumes in the middle of a segment where the other side's ACK marks the end of a message."""
    data = b"xx" + b"GET /a HTTP/1.1\r\nA: 1\r\n\r\n"
    for pieces in ([data], [data[:1], *(Rest(bytes([c])) for c in data[1:])]):
        with reading(REQUEST) as reader:
            reader.feed(Gap(10))
            reader.parser.boundary(12)
            reader.feed(*pieces)
            assert (reader.one["start"], reader.one["sure"], reader.one["resynced"]) == (12, True, True)


def test_boundary_where_no_message_begins() -> None:
    """A boundary is a place to look, no promise."""
    with reading(REQUEST) as reader:
        reader.feed(Gap(10))
        reader.parser.boundary(12)
        reader.feed(b"xxyy\r\nGET /a HTTP/1.1\r\n\r\n")
        assert not reader.messages


def test_bad_line_at_a_boundary() -> None:
    """At a sure boundary a start line is enough: what its lines are makes no difference there."""
    with reading(REQUEST) as reader:
        reader.feed(Gap(10))
        reader.parser.boundary(10)
        reader.feed(b"GET /a HTTP/1.1\r\nno colon\r\n\r\n")
        assert (reader.one["sure"], reader.one["anomalies"]) == (True, Odd.BAD_HEADER_LINE)


@pytest.mark.parametrize(
    "false",
    [
        b"GET /a HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /a HTTP/1.1\r\nA: 1\r\nB: \x00\r\n\r\n",
        b"GET /a HTTP/1.1 \r\nA: 1\r\n\r\n",
        b"GET  /a HTTP/1.1\r\nA: 1\r\n\r\n",
        b"GET /a HTTP/1.1\r\nA: " + b"b" * 2000,
        b"GET /a HTTP/1.1\r\nA: ",
        b"word " + b"b" * 2000,
    ],
)
def test_candidate_that_is_none(false: bytes) -> None:
    """After lost bytes only a complete and valid head is a message: others are skipped, and cut ones not reported."""
    for pieces in ([false], [false[:1], *(Rest(bytes([c])) for c in false[1:])]):
        reader = read(REQUEST, Gap(1), *pieces, Gap(1), NEXT, head=1000)
        assert reader.one["target"] == b"/next"
        assert Event.HEAD_LOST not in reader.events


@pytest.mark.parametrize(
    "body", [b"text", b"some text", b"some more text ", b"a b HTTP/1.", b"some\r", b"\xe4\xf6 ", b"x " * 900]
)
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_text_before_a_boundary(body: bytes, size: int) -> None:
    """Text without a start line in it never becomes a part of the one that follows on its own segment."""
    pieces = [NEXT[i : i + size] for i in range(0, len(NEXT), size)]
    reader = read(REQUEST, Gap(1), body, *pieces, head=1000)
    assert (reader.one["method"], reader.one["target"]) == (b"GET", b"/next")
    assert reader.one["start"] == 1 + len(body)
    assert reader.one["stamp"] == 2


@pytest.mark.parametrize("body", [b"text", b"HTTP", b"HTTP/1.1 20", b"HTTP/1.1 200", b"HTTP/1.1 200 O", b"HTTP/1.1 "])
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_text_before_a_response(body: bytes, size: int) -> None:
    """The same for responses."""
    data = b"HTTP/1.1 204 Next\r\n\r\n"
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    reader = read(RESPONSE, Gap(1), body, *pieces)
    assert (reader.one["status"], reader.one["start"]) == (204, 1 + len(body))


def test_dribbled_text_before_a_boundary() -> None:
    """Segments of one byte are each a place where a message may begin: the longest method that is known begins it."""
    for method in (b"GET", b"UNLOCK", b"UPDATEREDIRECTREF"):
        data = method + b" / HTTP/1.1\r\n\r\n"
        for before in (b"", b"x" * 40, b"x y " + b"z" * 40, b"P", b"GE"):
            reader = read(REQUEST, Gap(1), *(bytes([c]) for c in before + data))
            assert (reader.one["method"], reader.one["start"]) == (method, 1 + len(before))


@pytest.mark.parametrize("rest", [b"ET / HTTP/1.1\r\n\r\n", b"x y HTTP/1.1\r\n\r\n"])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_rest_of_a_start_line(rest: bytes, size: int) -> None:
    """What is left of a start line whose first bytes were lost is no message: its method is none that is known."""
    assert not read(REQUEST, Gap(1), *(rest[i : i + size] for i in range(0, len(rest), size))).messages


def test_unknown_method_at_a_boundary() -> None:
    """Where the other side's ACK marks a message's end, any method will do."""
    with reading(REQUEST) as reader:
        reader.feed(Gap(10))
        reader.parser.boundary(13)
        reader.feed(b"tex", b"FRO", b"B / HTTP/1.1\r\n\r\n")
        assert (reader.one["method"], reader.one["sure"]) == (b"FROB", True)


def test_boundary_inside_a_candidate() -> None:
    """A boundary ends the head that a body seemed to begin, and a message begins there."""
    with reading(REQUEST) as reader:
        reader.feed(Gap(10), b"GET /false HTTP/1.1\r\nA: ")
        reader.parser.boundary(reader.offset)
        reader.feed(NEXT)
        assert (reader.one["target"], reader.one["sure"]) == (b"/next", True)


def test_bare_line_feeds_in_pieces() -> None:
    """Heads and trailers that end in bare LFs are read, and say so, however they come."""
    data = b"POST / HTTP/1.1\nTransfer-Encoding: chunked\n\n0\nA: 1\n 2\n\n"
    for pieces in ([data], [bytes([c]) for c in data]):
        message = read(REQUEST, *pieces).one
        assert (message["trailers"], message["anomalies"]) == ([(b"A", b"1 2")], Odd.BARE_LF | Odd.OBS_FOLD)


def test_reject() -> None:
    """Flow may say that a candidate was none: it is skipped, and the next boundary decides."""
    with reading(REQUEST) as reader:
        reader.accept = lambda message: message["target"] != b"/no"
        reader.feed(Gap(1), b"GET /no HTTP/1.1\r\n\r\nGET /inside HTTP/1.1\r\n\r\n", NEXT)
        assert (reader.one["target"], reader.one["resynced"]) == (b"/next", True)
    with reading(REQUEST, at_start=False) as reader:
        reader.accept = lambda message: message["target"] != b"/no"
        reader.feed(b"GET /no HTTP/1.1\r\n\r\n", NEXT)
        assert (reader.one["target"], reader.one["resynced"]) == (b"/next", False)


# -- ends and orders of flow ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "missing"),
    [
        (request(b"Content-Length: 10\r\n", b"abc"), 7),
        (request(CHUNKY, b"a\r\nabc"), -1),
        (request(CHUNKY, b"a"), -1),
        (request(CHUNKY, b"3\r\nabc\r\n0\r\n"), -1),
    ],
)
@pytest.mark.parametrize("reason", [Cut.WHOLE, Cut.CLOSED, Cut.EVICTED, Cut.IDLE, Cut.STOPPED])
def test_end_in_a_body(data: bytes, missing: int, reason: Cut) -> None:
    """A body that the end cuts says why; a FIN is `closed`."""
    message = read(REQUEST, data, end=reason).one
    assert (message["incomplete"], message["missing"]) == (reason or Cut.CLOSED, missing)
    assert message["end"] == len(data)


def test_end_in_a_head() -> None:
    """A head that the end cuts is emitted if its start line is whole, else counted; between messages nothing is."""
    reader = read(REQUEST, b"GET /a HTTP/1.1\r\nA: 1\r\nB", end=Cut.IDLE)
    assert (reader.one["incomplete"], reader.one["fields"]) == (Cut.IDLE, [(b"A", b"1")])
    assert reader.events == [Event.CUT]
    assert read(REQUEST, b"GET /a", end=Cut.WHOLE).events == [Event.HEAD_LOST]
    assert read(REQUEST, NEXT + b"\r\n").events == [Event.HEAD, Event.END]
    assert read(REQUEST, end=Cut.WHOLE).events == []


def test_end_after_a_gap() -> None:
    """The first reason stands, and known missing bytes add up."""
    message = read(REQUEST, request(b"Content-Length: 10\r\n", b"abc"), Gap(2), b"f").one
    assert (message["incomplete"], message["missing"], message["body_size"]) == (Cut.GAP, 6, 4)


def test_orders() -> None:
    """Tunnel, kill and skip free what is open and count the rest by kind."""
    for order, counter in (
        (PyParser.tunnel, "bytes_abandoned_tunnel"),
        (PyParser.kill, "bytes_abandoned_not_http"),
        (PyParser.skip, "bytes_abandoned_skipped"),
    ):
        for data in (request(b"Content-Length: 10\r\n", b"abc"), b"GET / HT"):
            with reading(REQUEST) as reader:
                reader.feed(data)
                order(reader.parser)
                reader.feed(b"\x01\x02\x03", Gap(3)).end()
                assert reader.counters[counter] == 3
                assert not reader.messages


def test_empty_run_ends_a_message_without_body() -> None:
    """After http1_frame() the end of a bodyless message does not wait for bytes."""
    with reading(REQUEST) as reader:
        assert reader.parser.data(NEXT, 100)[0] == Event.HEAD
        reader.fed += len(NEXT)
        assert reader.parser.data(b"", 0)[0] == Event.HEAD
        reader.parser.frame()
        assert reader.parser.data(b"", 0)[0] == Event.END
        assert reader.parser.take()["end"] == 100 + len(NEXT)


@pytest.mark.parametrize("how", ["gap", "end"])
def test_framed_but_not_ended(how: str) -> None:
    """A gap or the end right after http1_frame() ends a message without body as whole."""
    for framed in (True, False):
        with reading(REQUEST) as reader:
            assert reader.parser.data(NEXT, 0)[0] == Event.HEAD
            reader.fed += len(NEXT)
            if framed:
                reader.parser.frame()
            event = reader.parser.gap(5)[0] if how == "gap" else reader.parser.end()
            assert event == Event.END
            expected = Cut.WHOLE if framed else Cut.GAP if how == "gap" else Cut.CLOSED
            assert reader.parser.take()["incomplete"] == expected


# -- properties -------------------------------------------------------------------------------------------------------

names = st.sampled_from([b"A", b"Host", b"X-Long-Name", b"cookie", b"Set-Cookie", b"!#$%&'*+-.^_`|~09azAZ"])
plain_values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40).map(
    lambda text: text.strip().encode()
)
values = st.one_of(plain_values, st.sampled_from([b"\xc3\xa4", b"a\tb", b"a" * 300, b"\x01"]))
fields_of = st.lists(st.tuples(names, values), max_size=6)
targets = st.sampled_from([b"/", b"/a?b=c", b"*", b"http://h/p", b"/a b", b"/\xe4", b"/" + b"x" * 200])
chunk_lists = st.lists(st.binary(min_size=1, max_size=60), max_size=5)


@dataclass(frozen=True)
class Sent:
    """A message as its sender meant it, and its bytes."""

    data: bytes
    fields: Sequence[tuple[bytes, bytes]]
    body: bytes
    trailers: Sequence[tuple[bytes, bytes]] | None
    start: tuple[Any, ...]


def lines_of(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(name + b": " + value + b"\r\n" for name, value in fields)


bad_lines = st.sampled_from([b"no colon", b": 1", b"A b: secret", b"A: a\rb", b"A: \x00\r\n continued", b"A: \x0c"])


odd_requests = st.tuples(
    st.sampled_from([b" ", b"  "]),
    st.sampled_from([b" HTTP/1.1", b"  http/1.1", b" HTTP/01.01"]),
    st.sampled_from([b"", b" ", b"\t"]),
)
odd_versions = st.sampled_from([b"HTTP/1.1 ", b"HTTP/1.1  ", b"http/1.1\t", b"HTTP/2.0 ", b"HTTP/2 ", b"HTTP/1.01 "])


@st.composite
def sent_messages(draw: st.DrawFn, kind: int, methods: Sequence[bytes], odd: bool = False) -> Sent:
    """A valid message of self-evident length; `odd`: as servers and clients take it, all the same."""
    fields = draw(fields_of)
    bad = draw(st.lists(bad_lines, max_size=2)) if odd else []
    trailers: list[tuple[bytes, bytes]] | None = None
    status = 200
    start: tuple[Any, ...]
    if kind == REQUEST:
        method, target = draw(st.sampled_from(methods)), draw(targets)
        before, between, after = draw(odd_requests) if odd else (b" ", b" HTTP/1.1", b"")
        line, start = method + before + target + between + after + b"\r\n", (method, target)
    else:
        status, reason = (
            draw(st.sampled_from([200, 204, 304, 404, 599])),
            draw(st.sampled_from([b"", b"OK", b"\xe4 b"])),
        )
        version = draw(odd_versions) if odd else b"HTTP/1.1 "
        line, start = version + b"%d %s\r\n" % (status, reason), (status, reason)
    shape = draw(st.sampled_from(["none", "length", "chunked"]))
    body = payload = b""
    if status in (204, 304):
        shape = "none"
    elif shape == "none" and kind == RESPONSE:
        shape = "length"
    if shape == "length":
        body = payload = draw(st.binary(max_size=100))
        fields = [*fields, (b"Content-Length", b"%d" % len(body))]
    elif shape == "chunked":
        chunks = draw(chunk_lists)
        body = b"".join(chunks)
        extension = draw(st.sampled_from([b"", b";a", b' ; b="c"']))
        trailers = draw(fields_of) or None
        payload = b"".join(b"%x%s\r\n%s\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
        payload += b"0\r\n" + lines_of(trailers or ()) + b"\r\n"
        fields = [(b"Transfer-Encoding", b"chunked"), *fields]
    lines = lines_of(fields[:1]) + b"".join(line + b"\r\n" for line in bad) + lines_of(fields[1:])
    return Sent(line + lines + b"\r\n" + payload, fields, body, trailers, start)


KNOWN = (b"GET", b"POST", b"PURGE")


def conversations(kind: int, methods: Sequence[bytes] = KNOWN, odd: bool = False) -> st.SearchStrategy[list[Sent]]:
    return st.lists(sent_messages(kind, methods, odd), min_size=1, max_size=5)


def cut_at(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(places)]


cuts = st.lists(st.integers(0, 5000), max_size=40)


def as_sent(kind: int, message: dict[str, Any]) -> tuple[Any, ...]:
    start = (message["method"], message["target"]) if kind == REQUEST else (message["status"], message["reason"])
    return (start, message["fields"], message["body"], message["trailers"])


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("kind", [REQUEST, RESPONSE])
@given(data=st.data())
def test_conversations(kind: int, odd: bool, data: st.DataObject) -> None:
    """Any conversation, cut anywhere, parses back to exactly what was sent; odd ones too, without their bad lines."""
    sent = data.draw(conversations(kind, (b"GET", b"POST", b"M-SEARCH", b"x"), odd))
    stream = b"".join(message.data for message in sent)
    reader = read(kind, *cut_at(stream, data.draw(cuts)))
    assert [as_sent(kind, m) for m in reader.messages] == [(s.start, list(s.fields), s.body, s.trailers) for s in sent]
    ends = 0
    for message, source in zip(reader.messages, sent, strict=True):
        assert (message["start"], message["incomplete"], message["resynced"]) == (ends, Cut.WHOLE, False)
        ends += len(source.data)
        assert message["end"] == ends


def comparable(reader: Reader) -> list[dict[str, Any]]:
    """Everything but when the last bytes of what was cut came."""
    return [{k: v for k, v in m.items() if k != "stamp_end"} for m in reader.messages]


snippets = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"\r\n",
        b"\n",
        b"A: b\r\n",
        b" fold\r\n",
        b"0\r\n",
        b"5\r\nhello\r\n",
        b"no colon\r\n",
        b"\x16\x03",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"\x00",
        b"a b ",
        b"GET  / http/1.1 \r\n",
        b"HTTP/2.0  200\tOK\r\n",
        b"http/1",
        b"\t",
        b"Transfer-Encoding: identity\r\n",
        b"A: \x00\r\n",
        b"Content- Length: 5\r\n",
    ]
)
junk = st.lists(st.one_of(snippets, st.binary(max_size=5)), max_size=25).map(b"".join)


@pytest.mark.parametrize("kind", [REQUEST, RESPONSE])
@given(
    segments=st.lists(st.one_of(st.tuples(junk, cuts), st.integers(1, 20).map(Gap)), max_size=7),
    head=st.integers(20, 200),
    boundary=st.integers(-1, 100),
)
def test_any_split_gives_the_same(
    kind: int, segments: list[tuple[bytes, list[int]] | Gap], head: int, boundary: int
) -> None:
    """However the bytes of segments are cut into runs, malformed ones too: the same messages and events."""
    whole: list[Piece] = []
    split: list[Piece] = []
    for segment in segments:
        if isinstance(segment, Gap):
            whole.append(segment)
            split.append(segment)
        elif segment[0]:
            whole.append(segment[0])
            first, *rest = cut_at(*segment)
            split += [first, *(Rest(piece) for piece in rest)]
    if recognised(whole):
        whole = [piece for piece in whole if not isinstance(piece, Gap)]
        split = [piece for piece in split if not isinstance(piece, Gap)]
    results = []
    for pieces in (whole, split):
        with reading(kind, head=head) as reader:
            reader.parser.boundary(boundary)
            reader.feed(*pieces).end()
            results.append((reader.events, comparable(reader)))
    assert results[0] == results[1]


def recognised(pieces: Sequence[Piece]) -> bool:
    """Whether TLS or HTTP/2 could be recognised mid-stream, which takes the first bytes of a segment in one run."""
    return any(isinstance(p, bytes) and (p[0] in range(0x14, 0x18) or p[:3] == b"PRI") for p in pieces)


@pytest.mark.parametrize("kind", [REQUEST, RESPONSE])
@given(pieces=st.lists(st.one_of(junk, st.integers(1, 30).map(Gap)), max_size=20), head=st.integers(1, 200))
def test_anything_goes(kind: int, pieces: list[Piece], head: int) -> None:
    """No bytes and gaps crash the parser; every byte is counted once; all memory comes back."""
    for end in (Cut.WHOLE, None):
        read(kind, *pieces, end=end, head=head, body=50, paired=False)


@pytest.mark.parametrize("kind", [REQUEST, RESPONSE])
@given(data=st.data())
def test_lost_bytes(kind: int, data: st.DataObject) -> None:
    """A message with bytes missing is never presented as whole, and none is invented."""
    sent = data.draw(conversations(kind))
    stream = b"".join(message.data for message in sent)
    pieces: list[Piece] = []
    position = 0
    lost: list[tuple[int, int]] = []
    for piece in cut_at(stream, data.draw(cuts)):
        if data.draw(st.integers(0, 3)) == 0:
            lost.append((position, position + len(piece)))
            pieces.append(Gap(len(piece)))
        else:
            pieces.append(piece)
        position += len(piece)
    reader = read(kind, *pieces)
    known: dict[int, Sent] = {}
    position = 0
    for source in sent:
        known[position] = source
        position += len(source.data)
    for message in reader.messages:
        source = known[message["start"]]  # else it is invented
        touched = any(a < message["start"] + len(source.data) and message["start"] < b for a, b in lost)
        if not message["incomplete"]:
            assert not touched
            assert as_sent(kind, message) == (source.start, list(source.fields), source.body, source.trailers)
        else:
            assert touched
            assert source.body.startswith(message["body"])
            assert set(message["fields"]) <= set(source.fields)


@pytest.mark.parametrize("kind", [REQUEST, RESPONSE])
@given(data=st.data())
def test_recovery(kind: int, data: st.DataObject) -> None:
    """Where each message starts on its own segment, every message whose bytes all arrived is there, whole."""
    sent = data.draw(conversations(kind))
    pieces: list[Piece] = []
    arrived: list[Sent] = []
    for message in sent:
        segments: list[Piece] = list(cut_at(message.data, data.draw(cuts)))
        lost = data.draw(st.one_of(st.none(), st.integers(0, len(segments) - 1)))
        if lost is None:
            arrived.append(message)
        else:
            gone = segments[lost]
            assert isinstance(gone, bytes)
            segments[lost] = Gap(len(gone))
        pieces += segments
    whole = [as_sent(kind, m) for m in read(kind, *pieces).messages if not m["incomplete"]]
    assert whole == [(s.start, list(s.fields), s.body, s.trailers) for s in arrived]


odd_bytes = st.sampled_from([b"\x00", b"\t", b"\r", b"\n", b"\r\n", b" ", b":", b"\x7f", b"\x80", b",", b"\x0b"])


@given(fields=fields_of, edits=st.lists(st.tuples(st.integers(0, 400), odd_bytes, st.booleans()), max_size=4))
def test_fast_path_agrees_with_h11(fields: list[tuple[bytes, bytes]], edits: list[tuple[int, bytes, bool]]) -> None:
    """Of mutated header blocks the fields that h11 accepts are read, alike on the fast path, and no others."""
    block = lines_of(fields)
    for place, insert, over in edits:
        at = place % (len(block) + 1)
        block = block[:at] + insert + block[at + over :]
    end = min((i for i in (block.find(b"\n\n") + 1, block.find(b"\n\r\n") + 1) if i), default=len(block))
    block = block[:end]
    if not block.endswith(b"\n"):
        block += b"\r\n"
    if block.startswith((b"\r\n", b"\n")):
        return
    agree_on(block)


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
