"""protocols/http1/parser: the state machine as its session drives it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer_core.testing import PyParser
from tests.core.http1.reading import (
    NEXT,
    REQUEST,
    RESPONSE,
    Cut,
    Event,
    Gap,
    Odd,
    Piece,
    Protocol,
    Rest,
    comparable,
    read,
    reading,
    recognised,
    request,
)
from tests.core.http1.sent import as_sent, conversations, cut_at, cuts

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


def test_interim_responses() -> None:
    """A discarded 1xx leaves no trace, and hands its `resynced` on."""
    data = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 N\r\n\r\n"
    assert read(RESPONSE, data).one["status"] == 204
    resynced = read(RESPONSE, b"HTTP/1.1 204 N\r\n\r\n", Gap(10), data)
    assert [message["resynced"] for message in resynced.messages] == [False, True]


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


def test_bare_line_feeds_in_pieces() -> None:
    """Heads and trailers that end in bare LFs are read, and say so, however they come."""
    data = b"POST / HTTP/1.1\nTransfer-Encoding: chunked\n\n0\nA: 1\n 2\n\n"
    for pieces in ([data], [bytes([c]) for c in data]):
        message = read(REQUEST, *pieces).one
        assert (message["trailers"], message["anomalies"]) == ([(b"A", b"1 2")], Odd.BARE_LF | Odd.OBS_FOLD)


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


@pytest.mark.parametrize("kind", [REQUEST, RESPONSE])
@given(pieces=st.lists(st.one_of(junk, st.integers(1, 30).map(Gap)), max_size=20), head=st.integers(1, 200))
def test_anything_goes(kind: int, pieces: list[Piece], head: int) -> None:
    """No bytes and gaps crash the parser; every byte is counted once; all memory comes back."""
    for end in (Cut.WHOLE, None):
        read(kind, *pieces, end=end, head=head, body=50, paired=False)
