"""Pairing: which request a response answers, where counting alone would say something wrong."""

from __future__ import annotations

import pytest

from tests import packets as p
from tests.conversations import Dialogue
from tests.laws import Table

OPEN = 1024
"""Requests of a connection that may wait for their answers."""


def get(path: str) -> bytes:
    return f"GET /{path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()


def answer(reason: str, body: bytes = b"") -> bytes:
    return f"HTTP/1.1 200 {reason}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def pairs(dialogue: Dialogue) -> dict[str | None, str | None]:
    """The path that each response answers, by its reason; every law holds."""
    return {m.reason: m.path for m in Table().run(dialogue.packets) if m.direction == "response"}


def test_an_answer_to_what_came_before_the_capture() -> None:
    """A capture that begins mid-stream: what acknowledges nothing of the first request does not answer it."""
    dialogue = Dialogue(handshake=False)
    dialogue.sent = [100, 500]
    dialogue.client(get("b"))
    dialogue.server(answer("A"), ack=100)
    dialogue.server(answer("B"))
    assert pairs(dialogue) == {"A": None, "B": "/b"}


def test_more_open_requests_than_are_kept() -> None:
    """The oldest requests are given up, and from then on no answer is paired by counting."""
    dialogue = Dialogue()
    for number in range(OPEN + 10):
        dialogue.client(get(str(number)), ack=0)
    for number in range(OPEN + 10):
        dialogue.server(answer(str(number)))
    found = pairs(dialogue)
    assert len(found) == OPEN + 10
    assert {path for reason, path in found.items() if path != f"/{reason}"} == {None}


def test_as_many_open_requests_as_are_kept() -> None:
    """One fewer, and all are paired."""
    dialogue = Dialogue()
    for number in range(OPEN):
        dialogue.client(get(str(number)), ack=0)
    for number in range(OPEN):
        dialogue.server(answer(str(number)))
    assert pairs(dialogue) == {str(number): f"/{number}" for number in range(OPEN)}


def test_a_start_line_in_the_body_of_a_lost_answer() -> None:
    """A response lost with its head took its request along: what follows in its body is no answer to it."""
    dialogue = Dialogue()
    dialogue.client(get("a"))
    body = answer("Fake") * 2
    dialogue.server(f"HTTP/1.1 200 A\r\nContent-Length: {len(body)}\r\n\r\n".encode(), lost=True)
    dialogue.server(body)
    dialogue.wait(300_000)
    dialogue.client(get("b"))
    dialogue.server(answer("B"))
    assert pairs(dialogue) == {"B": "/b"}


def test_acks_that_contradict_each_other() -> None:
    """After a loss: a response that acknowledges a request which acknowledges the response was sent again; no pair."""
    dialogue = Dialogue()
    dialogue.client(get("x"))
    dialogue.server(answer("X"), lost=True)
    dialogue.wait(300_000)
    dialogue.client(get("a"))
    at = dialogue.sent[1]
    dialogue.server(answer("A"), lost=True)
    dialogue.client(get("b"))
    dialogue.server(answer("A"), offset=at)
    dialogue.server(answer("B"))
    assert pairs(dialogue) == {"A": None, "B": "/b"}


def test_no_latency_below_zero() -> None:
    """A response whose stamp is before that of its request's end has no latency: one of the stamps is wrong."""
    dialogue = Dialogue()
    dialogue.client(get("late"))
    late = dialogue.packets.pop()
    dialogue.server(answer("A"))
    answered = dialogue.take()
    messages = Table().run([*answered, p.Packet(dialogue.now, late.data)])
    assert [(m.reason, m.path, m.latency_us) for m in messages if m.direction == "response"] == [("A", "/late", None)]
    in_step = Table().run([*answered[:-1], late, answered[-1]])
    assert [m.latency_us for m in in_step if m.direction == "response"] == [1000]


@pytest.mark.parametrize(("lost", "latency"), [(0, 1000), (1, None)], ids=["in the middle", "at the end"])
def test_no_latency_where_the_end_of_the_request_was_lost(lost: int, latency: int | None) -> None:
    """A gap inside the request leaves its last byte's time known; one that takes the last byte does not."""
    dialogue = Dialogue()
    dialogue.client(b"POST /a HTTP/1.1\r\nContent-Length: 10\r\n\r\n")
    for number, half in enumerate((b"01234", b"56789")):
        dialogue.client(half, lost=number == lost)
    dialogue.server(answer("A"))
    dialogue.wait(300_000)
    dialogue.client()
    messages = Table().run(dialogue.packets)
    assert [(m.direction, m.incomplete, m.latency_us) for m in messages] == [
        ("request", "gap", None),
        ("response", None, latency),
    ]


def test_an_open_request_whose_server_speaks_tls() -> None:
    """What is open when the other side turns out to be no HTTP is given up, with all that it held."""
    dialogue = Dialogue()
    dialogue.client(b"POST /a HTTP/1.1\r\nContent-Length: 10\r\n\r\n01234")
    dialogue.server(b"\x16\x03\x03\x00\x05hello")
    table = Table()
    assert table.feed(dialogue.take()) == []
    assert table.core.gauges()["messages_open"] == 0
    assert table.flush() == []
    assert table.counted("flows_tls") == {"flows_tls": 1}


def test_a_doubt_ends_when_nothing_is_in_flight() -> None:
    """A request that begins when all are answered is the first of a new count: bursts are paired again."""
    dialogue = Dialogue()
    dialogue.client(get("a"))
    dialogue.server(answer("A"), lost=True)
    dialogue.wait(300_000)
    dialogue.client(get("b"))
    dialogue.server(answer("B"))
    dialogue.wait(300_000)
    dialogue.client(get("c"))
    dialogue.client(get("d"))
    dialogue.server(answer("C"))
    dialogue.server(answer("D"))
    assert pairs(dialogue) == {"B": "/b", "C": "/c", "D": "/d"}


@pytest.mark.parametrize(
    ("count", "requests", "responses", "acks"),
    [
        (40, {9}, {9}, True),
        (120, {37}, {15, 23}, True),
        (40, {9}, {8}, False),
        (40, {9, 10}, {9, 10}, True),
    ],
)
def test_the_pair_behind_a_lost_one(count: int, requests: set[int], responses: set[int], acks: bool) -> None:
    """What acknowledged the lost request says how far its sender had read: a later request is not in doubt for it."""
    dialogue = Dialogue()
    for number in range(count):
        dialogue.client(get(str(number)), lost=number in requests)
        if acks:
            dialogue.server()
        dialogue.server(answer(str(number)), lost=number in responses)
        if acks:
            dialogue.client()
    expected: dict[str | None, str | None] = {
        str(n): None if n in requests else f"/{n}" for n in range(count) if n not in responses
    }
    assert pairs(dialogue) == expected


def test_a_request_that_may_be_pipelined_with_a_lost_one() -> None:
    """Where the lost bytes may hold a request of the same burst, the answer stays unpaired."""
    dialogue = Dialogue()
    dialogue.client(get("0"))
    dialogue.server(answer("0"))
    dialogue.client(get("1"), lost=True)
    dialogue.client(get("2"))
    dialogue.server(answer("1"), lost=True)
    dialogue.server(answer("2"))
    dialogue.client(get("3"))
    dialogue.server(answer("3"))
    assert pairs(dialogue) == {"0": "/0", "2": None, "3": "/3"}


def test_an_early_answer_that_is_read_late() -> None:
    """An answer before its request's first byte, held up by a hole until all requests were read, moves no other."""
    dialogue = Dialogue()
    said = answer("0", b"x" * 300)
    dialogue.client(get("0"))
    dialogue.server(said[:200])
    dialogue.server(said[200:250], lost=True)
    dialogue.server(said[250:])
    dialogue.client()
    dialogue.server(answer("1"))
    dialogue.client(get("1"))
    dialogue.client(get("2"))
    dialogue.server(answer("2"))
    dialogue.client(get("3"))
    dialogue.server(answer("3"))
    dialogue.close()
    assert pairs(dialogue) == {"0": "/0", "1": "/1", "2": "/2", "3": "/3"}


def test_an_answer_before_the_end_of_its_request_behind_a_lost_one() -> None:
    """An answer within its request's body is that request's, whose body has been read to its end since."""
    dialogue = Dialogue()
    dialogue.client(get("0"))
    dialogue.server(answer("0"), lost=True)
    dialogue.client(b"POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 300\r\n\r\n" + b"x" * 100)
    dialogue.server(answer("1"))
    dialogue.client(b"x" * 200)
    dialogue.client(get("2"))
    dialogue.server(answer("2"))
    dialogue.close()
    assert pairs(dialogue) == {"1": "/1", "2": "/2"}
