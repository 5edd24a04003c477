"""protocols/http1/head: start lines, header lines, and what goes to h11."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.http1.reading import (
    BAD_LINES,
    NEXT,
    REQUEST,
    RESPONSE,
    Cut,
    Event,
    Gap,
    Odd,
    Rest,
    agree_on,
    read,
    reading,
    request,
)
from tests.core.http1.sent import fields_of, lines_of


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
    """The plain grammar is read without h11: values trimmed, order and case kept."""
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


def test_long_start_line() -> None:
    """A start line of many KiB whose head does not end in its run."""
    target = b"/" + b"a" * 10_000
    data = b"GET " + target + b" HTTP/1.1\r\nA: 1\r\n\r\n"
    for split in (9_000, 10_016, 10_017, 10_020):
        assert read(REQUEST, data[:split], data[split:]).one["target"] == target
    assert read(REQUEST, Gap(1), data[:10_017], data[10_017:]).one["target"] == target


odd_bytes = st.sampled_from([b"\x00", b"\t", b"\r", b"\n", b"\r\n", b" ", b":", b"\x7f", b"\x80", b",", b"\x0b"])


@given(fields=fields_of, edits=st.lists(st.tuples(st.integers(0, 400), odd_bytes, st.booleans()), max_size=4))
def test_fast_path_agrees_with_h11(fields: list[tuple[bytes, bytes]], edits: list[tuple[int, bytes, bool]]) -> None:
    """Of mutated header blocks the fields that h11 accepts are read, the same with and without h11, and no others."""
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
