"""protocols/http1/body: framing, chunks, trailers, what is kept, and what a gap leaves of it."""

import pytest

from tests.core.http1.reading import (
    BAD_LINES,
    CHUNKED,
    CHUNKY,
    NEXT,
    REQUEST,
    RESPONSE,
    Cut,
    Gap,
    Odd,
    Rest,
    read,
    reading,
    request,
    response,
)
from tests.core.http1.sent import lines_of


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


@pytest.mark.parametrize("length", range(1, 14))
@pytest.mark.parametrize("behind", [b"", b"x", b"HTTP/1.1 204 Next\r\n\r\n"])
def test_what_may_be_a_status_line_is_judged_alike_however_it_is_cut(length: int, behind: bytes) -> None:
    """Bytes behind a short body that begins like a status line do not change what the body is taken for."""
    line = b"HTTP/1.1 2x4 Next\r\n\r\n"
    for rest in (line[:length] + behind, line):
        whole = response(b"Content-Length: %d\r\n" % length) + rest
        results = []
        for step in (len(whole), 1, 2, 3, 5, 7):
            pieces = [Rest(whole[at : at + step]) for at in range(step, len(whole), step)]
            first = read(RESPONSE, whole[:step], *pieces, paired=False, end=None).messages
            results.append([(m["incomplete"], m["body"], m["end"]) for m in first[:1]])
        assert results == [results[0]] * len(results)


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
