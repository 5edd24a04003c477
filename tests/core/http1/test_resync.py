"""protocols/http1/resync: finding a message after lost bytes, and start lines in several segments."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.http1.reading import NEXT, REQUEST, RESPONSE, Cut, Event, Gap, Odd, Piece, Rest, read, reading
from tests.core.http1.sent import Sent, as_sent, conversations, cut_at, cuts


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


def test_reject() -> None:
    """The session may say that a candidate was none: it is skipped, and the next boundary decides."""
    with reading(REQUEST) as reader:
        reader.accept = lambda message: message["target"] != b"/no"
        reader.feed(Gap(1), b"GET /no HTTP/1.1\r\n\r\nGET /inside HTTP/1.1\r\n\r\n", NEXT)
        assert (reader.one["target"], reader.one["resynced"]) == (b"/next", True)
    with reading(REQUEST, at_start=False) as reader:
        reader.accept = lambda message: message["target"] != b"/no"
        reader.feed(b"GET /no HTTP/1.1\r\n\r\n", NEXT)
        assert (reader.one["target"], reader.one["resynced"]) == (b"/next", False)


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
