"""`end_timestamp` and `duration_us`: when a message ended, and how long an exchange took, in packet time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from sniffer_core.core import RawMessage
from tests import packets as p
from tests.conversations import START, Dialogue
from tests.laws import Table

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /up HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\n"
FIRST = 3000
"""The handshake takes three packets, a millisecond each."""


def run(dialogue: Dialogue, **options: Any) -> list[RawMessage]:
    return Table(**options).run(dialogue.packets)


def times(messages: Sequence[RawMessage]) -> list[tuple[str, int, int, int | None]]:
    """(direction, begin, end, duration) of each, begin and end in µs since the first packet."""
    found: list[tuple[str, int, int, int | None]] = []
    for message in messages:
        fields = json.loads(message.to_json())
        duration = message.duration_us
        assert fields.get("durationMs") == (None if duration is None else duration / 1000)
        found.append((message.direction, message.timestamp - START, message.end_timestamp - START, duration))
    return found


def test_one_segment_each() -> None:
    """A message in one segment ends when it begins; the duration is from request to response."""
    dialogue = Dialogue()
    dialogue.client(GET)
    dialogue.wait(4500)
    dialogue.server(OK + b"0123456789")
    assert times(run(dialogue)) == [("request", 3000, 3000, None), ("response", 8500, 8500, 5500)]


def test_in_pieces() -> None:
    """Heads and bodies in several segments: from the first byte of the request to the last of the response."""
    dialogue = Dialogue()
    for part in (POST[:5], POST[5:], b"01234", b"56789"):
        dialogue.client(part)
    for part in (OK[:5], OK[5:], b"01234", b"56789"):
        dialogue.server(part)
    request, response = run(dialogue)
    assert times([request, response]) == [("request", 3000, 6000, None), ("response", 7000, 10_000, 7000)]
    assert response.latency_us == 1000


def test_pipelined() -> None:
    """Pipelined messages in shared segments each have the times of their own first and last byte."""
    dialogue = Dialogue()
    dialogue.client(GET + GET[:7])
    dialogue.client(GET[7:] + GET)
    whole = OK + b"0123456789"
    dialogue.server(whole + whole[:20])
    dialogue.server(whole[20:] + whole[:-1])
    dialogue.server(whole[-1:])
    assert sorted(times(run(dialogue))) == [
        ("request", 3000, 3000, None),
        ("request", 3000, 4000, None),
        ("request", 4000, 4000, None),
        ("response", 5000, 5000, 2000),
        ("response", 5000, 6000, 3000),
        ("response", 6000, 7000, 3000),
    ]


def test_chunked() -> None:
    """A chunked message ends with its last chunk, or with the trailers behind it."""
    dialogue = Dialogue()
    dialogue.client(GET)
    for part in (CHUNKED, b"5\r\n01234\r\n", b"0\r\n", b"X: 1\r\n", b"\r\n"):
        dialogue.server(part)
    assert times(run(dialogue)) == [("request", 3000, 3000, None), ("response", 4000, 8000, 5000)]


@pytest.mark.parametrize("cap", [0, 3, 10])
def test_a_body_beyond_the_cap(cap: int) -> None:
    """The end is that of the message, however little of the body is kept."""
    dialogue = Dialogue()
    dialogue.client(GET)
    for part in (OK, b"01234", b"56789"):
        dialogue.server(part)
    assert times(run(dialogue, max_body=cap)) == [("request", 3000, 3000, None), ("response", 4000, 6000, 3000)]


def test_until_the_connection_ends() -> None:
    """A body that the end of the connection ends: its last byte counts, not the FIN."""
    dialogue = Dialogue()
    dialogue.client(GET)
    dialogue.server(UNTIL_CLOSE + b"0123")
    dialogue.server(b"4567")
    dialogue.wait(500_000)
    dialogue.close()
    assert times(run(dialogue)) == [("request", 3000, 3000, None), ("response", 4000, 5000, 2000)]


def test_head() -> None:
    """An answer to HEAD ends with its head."""
    dialogue = Dialogue()
    dialogue.client(b"HEAD" + GET[3:])
    dialogue.server(OK[:20])
    dialogue.server(OK[20:])
    assert times(run(dialogue)) == [("request", 3000, 3000, None), ("response", 4000, 5000, 2000)]


def test_interim_responses() -> None:
    """An interim response changes no time of the final one."""
    dialogue = Dialogue()
    dialogue.client(POST.replace(b"Host", b"Expect: 100-continue\r\nHost"))
    dialogue.server(b"HTTP/1.1 100 Continue\r\n\r\n")
    dialogue.client(b"0123456789")
    dialogue.server(OK + b"0123456789")
    request, response = run(dialogue)
    assert times([request, response]) == [("request", 3000, 5000, None), ("response", 6000, 6000, 3000)]
    assert response.informational == (100,)


@pytest.mark.parametrize("head", [b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", OK])
def test_tunnels(head: bytes) -> None:
    """An answer that begins a tunnel ends with its head, whatever follows."""
    dialogue = Dialogue()
    dialogue.client(GET.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n") if b"101" in head else
                    b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n")  # fmt: skip
    dialogue.server(head)
    dialogue.server(b"0123456789")
    assert times(run(dialogue)) == [("request", 3000, 3000, None), ("response", 4000, 4000, 1000)]


def test_an_early_answer() -> None:
    """An answer that comes while its request is sent has a duration, though no latency."""
    dialogue = Dialogue()
    dialogue.client(POST + b"01234")
    dialogue.server(b"HTTP/1.1 413 Too large\r\nContent-Length: 0\r\n\r\n")
    dialogue.client(b"56789")
    response, request = run(dialogue)
    assert times([request, response]) == [("request", 3000, 5000, None), ("response", 4000, 4000, 1000)]
    assert response.latency_us is None


def test_an_answer_before_its_request() -> None:
    """An answer that ended before the first byte of its request has no duration."""
    dialogue = Dialogue()
    for _ in range(2):
        dialogue.server(OK + b"0123456789")
    for _ in range(2):
        dialogue.client(GET)
    dialogue.server(OK + b"0123456789")
    durations = [(m.path, m.duration_us) for m in run(dialogue) if m.direction == "response"]
    assert durations[0] == ("/", None)


def test_unpaired() -> None:
    """A response whose request was not seen has its times and no duration."""
    dialogue = Dialogue()
    dialogue.server(OK + b"01234")
    dialogue.server(b"56789")
    assert times(run(dialogue)) == [("response", 3000, 4000, None)]


@pytest.mark.parametrize("end", [b"", b"789"])
def test_a_gap_in_the_request(end: bytes) -> None:
    """Bytes lost from a request's body change nothing: its first byte, from which the duration counts, was read."""
    dialogue = Dialogue()
    dialogue.client(POST + b"012")
    dialogue.client(b"3456789" if not end else b"3456", lost=True)
    if end:
        dialogue.client(end)
    dialogue.server(OK + b"0123456789")
    dialogue.wait(2_000_000)
    dialogue.close()
    request, response = run(dialogue)
    last = FIRST + (2000 if end else 0)
    answered = FIRST + (3000 if end else 2000)
    assert times([request, response]) == [
        ("request", FIRST, last, None),
        ("response", answered, answered, answered - FIRST),
    ]
    assert request.incomplete == "gap"
    assert (response.latency_us is None) == (not end)


def test_a_gap_inside_the_response() -> None:
    """Bytes lost from within a response leave the duration: its last byte was read."""
    dialogue = Dialogue()
    dialogue.client(GET)
    dialogue.server(OK + b"012")
    dialogue.server(b"3456", lost=True)
    dialogue.server(b"789")
    dialogue.client()
    dialogue.wait(2_000_000)
    dialogue.close()
    request, response = run(dialogue)
    assert times([request, response]) == [("request", 3000, 3000, None), ("response", 4000, 6000, 3000)]
    assert (response.incomplete, response.missing_bytes) == ("gap", 4)


@pytest.mark.parametrize(
    ("head", "kept", "lost"),
    [
        (OK[:20], b"", OK[20:] + b"0123456789"),
        (OK, b"", b"0123456789"),
        (OK, b"012", b"3456789"),
        (CHUNKED, b"a\r\n012", b"3456789\r\n0\r\n\r\n"),
        (CHUNKED, b"3\r\n012\r\n", b"0\r\n\r\n"),
        (UNTIL_CLOSE, b"012", b"3456789"),
    ],
)
def test_a_gap_at_the_end_of_the_response(head: bytes, kept: bytes, lost: bytes) -> None:
    """Where lost bytes follow the last one that was read, nobody knows how long the exchange took."""
    dialogue = Dialogue()
    dialogue.client(GET)
    dialogue.server(head)
    if kept:
        dialogue.server(kept)
    dialogue.server(lost, lost=True)
    dialogue.client()
    dialogue.wait(2_000_000)
    dialogue.close()
    request, response = run(dialogue)
    last = 5000 if kept else 4000
    assert times([request, response]) == [("request", 3000, 3000, None), ("response", 4000, last, None)]
    assert (response.path, response.incomplete) == ("/", "gap")


def test_a_chunk_whose_end_is_lost() -> None:
    """A gap to the very end of a chunk is not the end of the response: what was read behind it is."""
    dialogue = Dialogue()
    dialogue.client(GET)
    dialogue.server(CHUNKED + b"5\r\n012")
    dialogue.server(b"34", lost=True)
    dialogue.server(b"\r\n0\r\n\r\n")
    dialogue.client()
    dialogue.wait(2_000_000)
    dialogue.close()
    request, response = run(dialogue)
    assert times([request, response]) == [("request", 3000, 3000, None), ("response", 4000, 6000, 3000)]
    assert response.incomplete == "gap"


def test_a_response_cut_by_the_end() -> None:
    """A response that the end of the connection cut: up to the last byte that was read."""
    dialogue = Dialogue()
    dialogue.client(GET)
    dialogue.server(OK + b"012")
    dialogue.server(b"345")
    dialogue.close()
    request, response = run(dialogue)
    assert times([request, response]) == [("request", 3000, 3000, None), ("response", 4000, 5000, 2000)]
    assert response.incomplete == "closed"


@pytest.mark.parametrize("size", [5, 10])
def test_a_head_that_is_cut(size: int) -> None:
    """A head that the end of the capture cut ends with its last byte, even one of a line that is not shown."""
    dialogue = Dialogue()
    dialogue.client(b"GET / HTTP/1.1\r\n" + GET[16 : 16 + size])
    dialogue.client(b"X")
    assert times(run(dialogue)) == [("request", 3000, 4000, None)]


def test_resynced() -> None:
    """After a loss whose extent is unknown the messages that are found have their own times."""
    dialogue = Dialogue()
    for lost in (False, True, False):
        dialogue.client(GET, lost=lost)
        dialogue.server(OK + b"0123456789")
        dialogue.wait(300_000)
    messages = run(dialogue)
    assert [m.resynced for m in messages if m.direction == "request"] == [False, True]
    assert sorted(times(messages)) == [
        ("request", 3000, 3000, None),
        ("request", 607_000, 607_000, None),
        ("response", 4000, 4000, 1000),
        ("response", 306_000, 306_000, None),
        ("response", 608_000, 608_000, 1000),
    ]


def test_out_of_order() -> None:
    """Each byte has the time of its own packet: where the last byte came first, the end is before the beginning."""
    dialogue = Dialogue()
    dialogue.client(GET)
    late = dialogue.server(OK + b"01234")
    dialogue.server(b"56789")
    dialogue.packets.remove(late)
    dialogue.packets.append(p.Packet(dialogue.now, late.data))
    assert times(run(dialogue)) == [("request", 3000, 3000, None), ("response", 6000, 5000, 2000)]
