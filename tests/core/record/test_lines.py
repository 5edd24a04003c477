"""record/lines: messages rendered where they end give the lines that their objects give, in the same order."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer.config import REDACT_BODY, REDACT_HEADERS, REDACT_QUERY
from sniffer.record.codings import decode
from sniffer_core.core import FlowTable, LineBlock, Lines, RawMessage, coded, latencies, weigh, weights
from tests import http2 as h
from tests.captures import connection, exchanges, get, ok
from tests.conversations import CLIENT, Conversation, Dialogue, conversations, cuts, dropped, random_sizes
from tests.packets import Packet, to_feed
from tests.test_pcaps import CAPTURES, by_file, where_there

OPTIONS: dict[str, Any] = {
    "linktype": 1,
    "ports": (80, 8080),
    "redact_headers": REDACT_HEADERS,
    "redact_query": REDACT_QUERY,
    "redact_body": REDACT_BODY,
    "max_body": 1 << 20,
}
LINE = 16
"""What a block weighs for each message, beside the text."""


def batches(packets: Sequence[Packet], size: int, **options: Any) -> list[Sequence[RawMessage]]:
    """The messages of a capture as the core gives them, when it is fed `size` packets at a time."""
    table = FlowTable(**OPTIONS | options)
    found = []
    for at in range(0, len(packets), size):
        batch = to_feed(packets[at : at + size])
        first, count = 0, len(batch[1]) // 16
        while first < count:
            messages, first = table.feed(*batch, first)
            found.append(messages)
    found.append(table.flush())
    assert table.gauges()["memory_blocks"] == table.gauges()["memory_bytes"] == 0
    return found


def text(batch: Sequence[RawMessage], size: int = 1 << 18, most: int = 0) -> bytes:
    """The lines of a batch, taken in parts of about this size."""
    writer = Lines(most=most)
    done = 0
    parts = []
    while done < len(batch):
        count, taken = writer.take(batch, done, size)
        part = bytes(taken)
        assert part.count(b"\n") == count > 0
        done += count
        parts.append(part)
    return b"".join(parts)


def block(packets: Sequence[Packet], **options: Any) -> LineBlock:
    """All messages of a capture in one block."""
    (whole, rest) = batches(packets, 1 << 20, lines=True, **options)
    assert isinstance(whole, LineBlock)
    assert isinstance(rest, LineBlock)
    return whole + rest


def objects(batch: Sequence[RawMessage]) -> list[int]:
    """The numbers of the messages that are objects."""
    return [number for number, message in enumerate(batch) if hasattr(message, "headers")]


def assert_same(packets: Sequence[Packet], size: int = 1 << 20, **options: Any) -> None:
    """Lines from blocks are those from objects, however they are taken, cut into parts and joined."""
    plain = batches(packets, size, **options)
    drawn = batches(packets, size, lines=True, **options)
    assert list(map(len, plain)) == list(map(len, drawn))
    for one, other in zip(plain, drawn, strict=True):
        assert isinstance(other, LineBlock)
        assert weigh(other) == sum(weights(other)) == sum(message.weight for message in other)
        assert weigh(one) == sum(weights(one))
        assert sorted(latencies(other)) == sorted(latencies(one))
        lines = text(one)
        assert text(other) == text(other, 1) == lines
        assert b"".join(message.to_json() + b"\n" for message in other) == lines
        middle = len(other) // 3
        assert text(other[:middle]) + text(other[middle:]) == lines
        assert text(other[:middle] + other[middle:]) == lines
        assert text(other, most=4096) == text(one, most=4096)


def talk(said: Sequence[tuple[bytes, bytes]], port: int = 40000) -> list[Packet]:
    """A connection; long responses take several packets."""
    dialogue = Dialogue(client=("192.0.2.2", port), server=("192.0.2.1", 80))
    for request, response in said:
        dialogue.client(request)
        for at in range(0, len(response), 40_000):
            dialogue.server(response[at : at + 40_000])
    dialogue.close()
    return dialogue.packets


FIELDS = {f"x-{number}": "v" for number in range(65)}
TRAILERS = "".join(f"{name}: v\r\n" for name in FIELDS)
PLAIN = (get("/plain", cookie="a=1"), ok(b"plain"))
KINDS = {
    "coded": (get("/coded"), ok(gzip.compress(b"coded" * 50), content_encoding="gzip")),
    "fields": (get("/fields"), ok(b"few", **FIELDS)),
    "trailers": (get("/end"), f"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n{TRAILERS}\r\n".encode()),
    "long": (get("/long"), ok(b"\x01" * 200_000)),
}
"""Exchanges whose response cannot be a line, by the reason."""


@pytest.mark.parametrize("kind", KINDS)
def test_what_needs_python_stands_in_its_place(kind: str) -> None:
    """A message that cannot be a line is an object between the lines; all others are lines."""
    packets = talk([PLAIN, KINDS[kind], PLAIN] * 4)
    assert objects(block(packets, decode=decode)) == [3, 9, 15, 21]
    assert_same(packets, decode=decode)


def test_all_kinds_in_turn() -> None:
    """Lines and objects in any order, in batches of any size, with and without decoding."""
    packets = talk([exchange for kind in KINDS.values() for exchange in (kind, PLAIN, kind)] * 3)
    for size in (1, 7, 1 << 20):
        assert_same(packets, size, decode=decode)
        assert_same(packets, size)


@given(conversations(nasty=True), st.integers(0, 2**32), st.sampled_from((0, 1, 40, 1 << 20)), st.integers(1, 40))
def test_whole_conversations(conversation: Conversation, seed: int, max_body: int, size: int) -> None:
    """Whatever is said, and wherever bodies are cut and batches end."""
    packets = conversation.packets(conversation.segments(cuts(Random(seed), conversation)))
    assert_same(packets, size, max_body=max_body, decode=decode)


@given(conversations(methods=("GET", "POST")), st.integers(0, 2**32))
def test_lossy_conversations(conversation: Conversation, seed: int) -> None:
    """Messages with gaps, without their end, without their request."""
    random = Random(seed)
    segments = dropped(conversation.segments(random_sizes(random, 200)), random, 0.15)
    assert_same(conversation.packets(segments), 5)


@given(seed=st.integers(0, 2**32), lost=st.none() | st.integers(0, 40), secret=st.booleans(), size=st.integers(1, 30))
def test_http_2(seed: int, lost: int | None, secret: bool, size: int) -> None:
    """Messages of HTTP/2 too, with fields that their sender holds for secrets, and behind a loss."""
    random = Random(seed)
    talk = h.Talk(h.calls(random, 6), random)
    never = ("x-secret", ":path") if secret else ()
    talk.writes += [(CLIENT, h.headers(99, (*h.request("/a?b=c"), ("x-secret", "s")), end=True, never=never))]
    segments = [each for number, each in enumerate(talk.segments(300)) if number != lost]
    assert_same(talk.packets(segments), size)


@where_there
@by_file
def test_public_captures(expected: dict[str, Any]) -> None:
    """Every message of the public captures."""
    pcapy = pytest.importorskip("pcapy")
    found = []
    for lines in (False, True):
        capture = pcapy.open_offline(str(CAPTURES / expected["file"]))
        table = FlowTable(
            **OPTIONS | {"linktype": capture.datalink(), "ports": expected["ports"]}, decode=decode, lines=lines
        )
        parts = []
        while (batch := capture.next_batch(4096))[1]:
            first = 0
            while first < len(batch[1]) // 16:
                messages, first = table.feed(batch[0], batch[1], first)
                parts.append(text(messages))
        found.append(b"".join([*parts, text(table.flush())]))
    assert found[0] == found[1]


BODIES = [
    ("application/json", b'{"password": "s3cret", "b": [1, {"token": 5}]}'),
    ("application/json", b'{"password": "s3cret'),
    ("application/json", b'{"password" "s3cret"}'),
    ("application/json", b'{"a": 1}'),
    ("application/x-www-form-urlencoded", b"a=1&password=s3cret&b=2&token=s3cret"),
    ("text/event-stream", b'data: {"password": "s3cret"}\n\n'),
    ("application/octet-stream", b"\xff\xfe"),
]


@pytest.mark.parametrize(("kind", "body"), BODIES)
@pytest.mark.parametrize("coding", [None, "gzip"])
def test_secrets_of_bodies(kind: str, body: bytes, coding: str | None) -> None:
    """What is hidden in a body is hidden in a line; of a body that stays coded nothing is shown that claims a form."""
    fields = {"content_type": kind} | ({"content_encoding": coding} if coding else {})
    sent = gzip.compress(body) if coding else body
    packets = talk([(get("/"), ok(sent, **fields)), PLAIN])
    assert objects(block(packets)) == []
    assert b"s3cret" not in text(block(packets))
    assert_same(packets)
    assert_same(packets, decode=decode)


def test_a_keyed_mark_needs_python() -> None:
    """Marks with a key are made by Python, so lines are refused where there is a key."""
    with pytest.raises(ValueError, match="key"):
        FlowTable(**OPTIONS, redact_key=b"k" * 32, lines=True)


def test_what_is_rendered_in_advance_is_bounded() -> None:
    """Once the lines of a block would take more than their part of the memory limit, messages stay as they are."""
    packets = connection(exchanges(3000), server_port=80)
    drawn = block(packets, memory_limit=8 << 20)
    first = objects(drawn)[0]
    assert objects(drawn) == list(range(first, 6000))
    assert 0 < len(text(drawn[:first])) <= (8 << 20) // 32
    assert_same(packets, memory_limit=8 << 20)


def test_a_block_weighs_what_it_takes() -> None:
    """Its weight is that of its text and of its messages' places; a part holds nothing of the rest."""
    whole = block(connection(exchanges(500), server_port=80))
    assert objects(whole) == []
    assert weigh(whole) == len(text(whole)) + LINE * 1000
    part = whole[:3]
    assert weigh(part) == sum(weights(whole)[:3])
    assert sys.getsizeof(text(part)) < 10_000
    assert whole[:] is whole
    assert whole[0:1000] is whole


def test_a_block_is_a_sequence() -> None:
    """Its messages are counted from both ends; what is outside, or a step, is refused."""
    whole = block(connection(exchanges(5), server_port=80))
    assert len(whole) == 10
    assert whole[-1].to_json() == whole[9].to_json()
    assert len(whole[4:2]) == 0
    assert len(whole[8:99]) == 2
    assert text(whole[:0]) == b""
    for outside in (10, -11):
        with pytest.raises(IndexError):
            whole[outside]
    with pytest.raises(ValueError, match="steps"):
        whole[::2]
    with pytest.raises(TypeError):
        LineBlock()


def test_coded_bodies_of_a_block() -> None:
    """The objects that are to be decoded are found among the lines; decoded, they give the decoded body."""
    drawn = block(talk([PLAIN, KINDS["coded"], KINDS["fields"], PLAIN]), decode=decode)
    (message,) = coded(drawn)
    assert message is drawn[3]
    before = weigh(drawn)
    assert [each.decode() for each in drawn] == [None] * 3 + [""] + [None] * 4
    assert coded(drawn) == []
    assert weigh(drawn) != before
    assert b"codedcoded" in text(drawn)


def test_lines_of_a_block_come_in_parts() -> None:
    """A part has the bytes asked for, or one line more, without a copy of its own; none is left out."""
    whole = block(connection(exchanges(500), server_port=80))
    line = max(map(len, text(whole).splitlines(keepends=True)))
    writer = Lines()
    done = 0
    while done < len(whole):
        count, part = writer.take(whole, done, 10 * line)
        assert isinstance(part, memoryview)
        owner: object = part.obj
        assert owner is whole
        assert len(part) < 11 * line
        done += count
        assert done == len(whole) or len(part) >= 10 * line
    assert writer.take(whole, 0, 1)[0] == 1
    assert writer.take(whole, 1000, 1) == (0, b"")
