"""http1/session: offers of another protocol, refused bodies and early answers: each costs no more than itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from sniffer_core.core import RawMessage
from tests import packets as p
from tests.conversations import Dialogue
from tests.laws import Table

H2C = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
WEBSOCKET = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
SECRET = "Authorization: Bearer TOPSECRET\r\nCookie: a=TOPSECRET\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"


def ask(path: str, fields: str = "", *, method: str = "GET", body: bytes = b"") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: h\r\n{fields}\r\n".encode() + body


def answer(name: str, status: int = 200, fields: str = "") -> bytes:
    body = f"answer {name}"
    return f"HTTP/1.1 {status} {name}\r\nSet-Cookie: s=1\r\n{fields}Content-Length: {len(body)}\r\n\r\n{body}".encode()


CONNECT = ask("db:1", method="CONNECT")


def run(dialogue: Dialogue) -> list[RawMessage]:
    return Table().run(dialogue.packets)


def pairs(messages: list[RawMessage]) -> dict[str | None, str | None]:
    """The path that each response answers, by its reason; and what each says is its own."""
    for message in messages:
        if message.direction == "response" and message.body:
            assert message.body == f"answer {message.reason}".encode()
        assert b"TOPSECRET" not in (message.body or b"")
    return {m.reason: m.path for m in messages if m.direction == "response"}


def asked(messages: list[RawMessage]) -> list[Any]:
    """(path, body, incomplete) of each request."""
    return [(m.path, m.body or b"", m.incomplete) for m in messages if m.direction == "request"]


def plain(*paths: str) -> list[Any]:
    return [(path, b"", None) for path in paths]


Ending = Callable[[Dialogue], object]


def reset(dialogue: Dialogue) -> None:
    dialogue.client(flags=p.RST | p.ACK)


def nothing(_: Dialogue) -> None:
    """The capture ends."""


def half(dialogue: Dialogue) -> None:
    """The server alone says that it has no more."""
    dialogue.server(flags=p.FIN | p.ACK)


ENDINGS = (Dialogue.close, reset, nothing, half)
OFFERS = (ask("/up", H2C), ask("/up", WEBSOCKET), ask("/up", method="CONNECT"))


# ---- offers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("together", [1, 2, 3])
def test_requests_behind_a_refused_offer(offer: bytes, together: int) -> None:
    """Requests pipelined behind a refused offer keep their own answers, however the answers share segments."""
    dialogue = Dialogue()
    dialogue.client(offer + ask("/1") + ask("/2"))
    answers = [answer("up", 405), answer("1"), answer("2")]
    for at in range(0, 3, together):
        dialogue.server(b"".join(answers[at : at + together]))
    for number in (3, 4):
        dialogue.client(ask(f"/{number}"))
        dialogue.server(answer(str(number)))
    path = "/up"
    assert pairs(run(dialogue)) == {"up": path, "1": "/1", "2": "/2", "3": "/3", "4": "/4"}


def test_an_offer_on_every_request() -> None:
    """Offers that are pipelined and all refused are ordinary requests."""
    dialogue = Dialogue()
    dialogue.client(b"".join(ask(f"/{number}", H2C) for number in range(5)))
    dialogue.server(b"".join(answer(str(number)) for number in range(5)))
    messages = run(dialogue)
    assert pairs(messages) == {str(number): f"/{number}" for number in range(5)}
    assert Table().run(dialogue.packets)  # the laws hold


def test_an_answer_to_an_earlier_request_says_nothing() -> None:
    """Behind a pipelined offer, the answer to the request before it decides nothing: a tunnel may still follow."""
    dialogue = Dialogue()
    dialogue.client(ask("/1") + CONNECT + b"\x16\x03\x01 hello")
    dialogue.server(answer("1"))
    dialogue.server(b"HTTP/1.1 200 Go\r\n\r\n")
    dialogue.client(b"GET /inside HTTP/1.1\r\n\r\n")
    messages = run(dialogue)
    assert asked(messages) == plain("/1", "db:1")
    assert pairs(messages) == {"1": "/1", "Go": "db:1"}


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("end", ENDINGS)
def test_an_offer_that_is_never_answered(offer: bytes, end: Ending) -> None:
    """What waits behind an offer is read as HTTP when its answer cannot come any more."""
    dialogue = Dialogue()
    dialogue.client(offer)
    dialogue.client(ask("/1"))
    dialogue.client(ask("/2", H2C))
    dialogue.client(ask("/3"))
    end(dialogue)
    assert asked(run(dialogue)) == plain("/up", "/1", "/2", "/3")


@pytest.mark.parametrize(
    "inside", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x81\x85abcd\x01\x02\x03\x04\x05", b"SSH-2.0-x\r\n"]
)
@pytest.mark.parametrize("end", ENDINGS)
def test_a_tunnel_whose_answer_was_lost(inside: bytes, end: Ending) -> None:
    """Where the answer to an offer was lost, what does not begin as a request is a tunnel, and not read."""
    dialogue = Dialogue()
    dialogue.client(OFFERS[0])
    dialogue.server(SWITCH, lost=True)
    dialogue.client(inside)
    dialogue.client(ask("/inside"))
    dialogue.server(answer("inside"))
    end(dialogue)
    table = Table()
    messages = table.run(dialogue.packets)
    assert [(m.direction, m.path) for m in messages] == [("request", "/up")]
    assert table.counted("flows_tunnel") == {"flows_tunnel": 1}


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("wait", [0, 200_000])
def test_the_answer_to_an_offer_was_lost(offer: bytes, wait: int) -> None:
    """A lost answer costs itself alone: the requests behind it are read, and keep their answers."""
    dialogue = Dialogue()
    dialogue.client(offer)
    dialogue.server(answer("up"), lost=True)
    for number in range(1, 5):
        dialogue.wait(wait)
        dialogue.client(ask(f"/{number}", H2C))
        dialogue.server(answer(str(number)))
    messages = run(dialogue)
    assert asked(messages) == plain("/up", *(f"/{number}" for number in range(1, 5)))
    assert pairs(messages) == {str(number): f"/{number}" for number in range(1, 5)}
    assert [m.reason for m in messages if m.resynced] == ["1"]


def test_offers_seen_from_one_side() -> None:
    """With the client's side alone every request is read, at once after the first second."""
    dialogue = Dialogue()
    dialogue.packets.clear()
    dialogue.client(flags=p.SYN, offset=-1)
    for number in range(50):
        dialogue.client(ask(f"/{number}", H2C))
        dialogue.wait(200_000)
    dialogue.client(flags=p.FIN | p.ACK)
    table = Table()
    messages = table.feed(dialogue.packets)
    assert len(messages) > 40  # it does not all wait for the end
    assert asked(messages + table.flush()) == plain(*(f"/{number}" for number in range(50)))


def test_offers_beyond_the_cap() -> None:
    """At the cap on what a direction may hold the requests behind an offer are read, not dropped."""
    dialogue = Dialogue()
    dialogue.client(OFFERS[0])
    for number in range(3000):
        dialogue.client(ask(f"/{number}", f"X: {'x' * 1000}\r\n"))
    table = Table()
    assert len(table.feed(dialogue.take())) > 1000
    assert len(table.flush()) + table.handed_out["messages_request"] >= 3001


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ("Content-Length: 5\r\n", b"hello"),
        ("Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
    ],
)
def test_switched_before_the_body(fields: str, body: bytes) -> None:
    """RFC 9110 section 7.8: an Upgrade's request is read to its end, though its 101 comes first."""
    for sent in (len(body), 3, 0):
        dialogue = Dialogue()
        dialogue.client(ask("/exec", WEBSOCKET + fields, method="POST"))
        dialogue.server(SWITCH)
        dialogue.client(body[:sent])
        if sent == len(body):
            dialogue.client(b"\x81\x85inside")
        dialogue.close()
        messages = run(dialogue)
        assert pairs(messages) == {"Switching": "/exec"}
        ((path, got, incomplete),) = asked(messages)
        assert path == "/exec"
        assert got == (b"hello" if sent == len(body) else b"hello"[: len(got)])
        assert incomplete == (None if sent == len(body) else "closed")


def test_connected_before_the_content() -> None:
    """RFC 9110 section 9.3.6: a CONNECT has no content, whatever it announces, once it is answered."""
    dialogue = Dialogue()
    dialogue.client(ask("h:1", "Content-Length: 5\r\n", method="CONNECT"))
    dialogue.server(b"HTTP/1.1 200 Go\r\n\r\n")
    dialogue.client(b"\x16\x03\x01 inside")
    messages = run(dialogue)
    assert asked(messages) == plain("h:1")
    assert pairs(messages) == {"Go": "h:1"}


def test_an_offer_refused_before_its_body() -> None:
    """An offer that is answered before its body has been sent holds up nothing behind it."""
    dialogue = Dialogue()
    dialogue.client(ask("/up", H2C + "Content-Length: 2\r\n", method="POST"))
    dialogue.server(answer("up", 500))
    dialogue.client(b"ab" + ask("/1"))
    dialogue.server(answer("1"))
    messages = run(dialogue)
    assert asked(messages) == [("/up", b"ab", None), ("/1", b"", None)]
    assert pairs(messages) == {"up": "/up", "1": "/1"}


# ---- refused bodies --------------------------------------------------------------------------------------------------

REFUSALS = [
    ("Expect: 100-continue\r\n", 413),
    ("Expect: 100-Continue\r\n", 417),
    ("Expect: 100-continue\r\n", 200),
    ("Expect: 100-continue\r\n", 500),
    ("", 302),
    ("", 307),
    ("", 401),
    ("", 413),
    ("", 417),
]
LENGTHS = ("Content-Length: 100000\r\n", "Content-Length: 10\r\n", "Transfer-Encoding: chunked\r\n")


def put(fields: str, length: str) -> bytes:
    return ask("/put", SECRET + length + fields, method="PUT")


@pytest.mark.parametrize(("fields", "status"), REFUSALS)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("cut", [0, 3, 60])
def test_a_refused_body_that_is_not_sent(fields: str, status: int, length: str, cut: int) -> None:
    """Requests that follow in place of a refused body are requests; the refused one is whole, empty and marked."""
    dialogue = Dialogue()
    dialogue.client(put(fields, length))
    dialogue.server(answer("put", status))
    for number in range(3):
        request = ask(f"/{number}", SECRET)
        for piece in (request[:cut], request[cut:]) if cut else (request,):
            dialogue.client(piece)
        dialogue.server(answer(str(number)))
    messages = run(dialogue)
    assert asked(messages) == plain("/put", "/0", "/1", "/2")
    assert pairs(messages) == {"put": "/put", "0": "/0", "1": "/1", "2": "/2"}
    assert [m.path for m in messages if "body-not-sent" in m.anomalies] == ["/put"]
    assert not any(m.resynced for m in messages)


@pytest.mark.parametrize(("fields", "status"), REFUSALS)
def test_a_refused_body_that_is_sent_all_the_same(fields: str, status: int) -> None:
    """A client may send the body that was refused: also one that holds requests is the body, by its length."""
    for body in (b"x" * 300, ask("/in") * 8, b"GET / HTTP/1.1\r\n" * 10):
        dialogue = Dialogue()
        dialogue.client(put(fields, f"Content-Length: {len(body)}\r\n"))
        dialogue.server(answer("put", status))
        for at in range(0, len(body), 100):
            dialogue.client(body[at : at + 100])
        dialogue.client(ask("/1"))
        dialogue.server(answer("1"))
        messages = run(dialogue)
        assert asked(messages) == [("/put", body, None), ("/1", b"", None)]
        assert pairs(messages) == {"put": "/put", "1": "/1"}


@pytest.mark.parametrize("end", ENDINGS)
def test_a_refusal_that_stays_undecided(end: Ending) -> None:
    """Where nothing tells whether a head is the refused body or a request, it is neither: no secret stands in clear."""
    dialogue = Dialogue()
    dialogue.client(put("Expect: 100-continue\r\n", LENGTHS[0]))
    dialogue.server(answer("put", 413))
    dialogue.client(ask("/1", SECRET))
    end(dialogue)
    assert asked(run(dialogue)) == [("/put", b"", "malformed")]


def test_a_body_that_was_asked_for() -> None:
    """After 100 the body is read whatever it holds."""
    body = ask("/in", SECRET)
    dialogue = Dialogue()
    dialogue.client(ask("/put", f"Expect: 100-continue\r\nContent-Length: {len(body)}\r\n", method="PUT"))
    dialogue.server(CONTINUE)
    dialogue.client(body)
    dialogue.server(answer("put"))
    assert [m.body for m in run(dialogue) if m.direction == "request"] == [body]


def test_a_body_that_nobody_refused() -> None:
    """A body that comes before any answer is the body, expected or not."""
    for fields in ("Expect: 100-continue\r\n", ""):
        body = ask("/in")
        dialogue = Dialogue()
        dialogue.client(ask("/put", f"{fields}Content-Length: {len(body)}\r\n", method="PUT"))
        dialogue.client(body)
        dialogue.server(answer("put", 413))
        dialogue.client(ask("/1"))
        dialogue.server(answer("1"))
        messages = run(dialogue)
        assert asked(messages) == [("/put", body, None), ("/1", b"", None)]
        assert pairs(messages) == {"put": "/put", "1": "/1"}


def test_a_refusal_that_is_captured_late() -> None:
    """The refusal may be captured after what the client sent on account of it."""
    dialogue = Dialogue()
    dialogue.client(put("Expect: 100-continue\r\n", LENGTHS[0]))
    before = dialogue.take()
    dialogue.server(answer("put", 413))
    (refusal,) = dialogue.take()
    dialogue.client(ask("/1", SECRET))
    dialogue.server(answer("1"))
    after = dialogue.take()
    late = p.Packet(after[0].stamp + 500, refusal.data)
    messages = Table().run([*before, after[0], late, *after[1:]])
    assert asked(messages) == plain("/put", "/1")
    assert pairs(messages) == {"put": "/put", "1": "/1"}


def test_a_refusal_that_was_lost() -> None:
    """Where the refusal itself was lost, a head where the body was due never stands in a body in clear."""
    dialogue = Dialogue()
    dialogue.client(put("Expect: 100-continue\r\n", LENGTHS[0]))
    dialogue.server(answer("put", 413), lost=True)
    for number in (1, 2):
        dialogue.client(ask(f"/{number}", SECRET))
        dialogue.server(answer(str(number)))
    messages = run(dialogue)
    assert asked(messages)[0] == ("/put", b"", "malformed")
    assert asked(messages)[1:] == plain("/1", "/2")
    assert pairs(messages) == {"1": None, "2": "/2"}


def test_the_first_bytes_behind_a_refusal_were_lost() -> None:
    """Bytes lost where a refused body was due may have been a request: reading goes on at the next sure place."""
    dialogue = Dialogue()
    dialogue.client(put("Expect: 100-continue\r\n", LENGTHS[0]))
    dialogue.server(answer("put", 413))
    dialogue.client(ask("/1", SECRET), lost=True)
    dialogue.server(answer("1"))
    for number in (2, 3):
        dialogue.client(ask(f"/{number}", SECRET))
        dialogue.server(answer(str(number)))
    messages = run(dialogue)
    assert asked(messages) == [("/put", b"", "gap"), *plain("/2", "/3")]
    assert pairs(messages) == {"put": "/put", "1": None, "2": "/2", "3": "/3"}


# ---- early answers ---------------------------------------------------------------------------------------------------

HEAD = ask("/0", SECRET)
CUTS = [1, 5, len(HEAD) // 2, len(HEAD) - 1]


@pytest.mark.parametrize("status", [400, 403, 408, 414, 431, 503])
@pytest.mark.parametrize("cut", CUTS)
def test_an_answer_within_the_head(status: int, cut: int) -> None:
    """An answer that comes while the head is unfinished belongs to it, has no latency, and shifts no pair."""
    dialogue = Dialogue()
    dialogue.client(HEAD[:cut])
    dialogue.server(answer("0", status))
    dialogue.client(HEAD[cut:])
    for number in (1, 2, 3):
        dialogue.client(ask(f"/{number}"))
        dialogue.server(answer(str(number)))
    messages = run(dialogue)
    assert asked(messages) == plain("/0", "/1", "/2", "/3")
    assert pairs(messages) == {"0": "/0", "1": "/1", "2": "/2", "3": "/3"}
    assert [m.exchange for m in messages if m.direction == "response"] == [0, 1, 2, 3]
    early = next(m for m in messages if m.reason == "0")
    assert early.latency_us is None


@pytest.mark.parametrize("number", [0, 2])
def test_an_answer_before_the_first_byte(number: int) -> None:
    """An answer that comes before its request's first byte belongs to it, when further answers follow."""
    dialogue = Dialogue()
    for before in range(number):
        dialogue.client(ask(f"/{before}"))
        dialogue.server(answer(str(before)))
    dialogue.server(answer(str(number), 503))
    dialogue.client(ask(f"/{number}"))
    for after in range(number + 1, number + 4):
        dialogue.client(ask(f"/{after}"))
        dialogue.server(answer(str(after)))
    messages = run(dialogue)
    assert pairs(messages) == {str(each): f"/{each}" for each in range(number + 4)}
    assert next(m for m in messages if m.reason == str(number)).latency_us is None


def test_several_answers_before_their_requests() -> None:
    """They are matched first in, first out."""
    dialogue = Dialogue()
    dialogue.server(answer("0") + answer("1"))
    dialogue.client(ask("/0") + ask("/1") + ask("/2"))
    dialogue.server(answer("2"))
    assert pairs(run(dialogue)) == {"0": "/0", "1": "/1", "2": "/2"}


@pytest.mark.parametrize("end", [Dialogue.close, half, reset])
def test_an_idle_timeout(end: Ending) -> None:
    """A 408 that acknowledges no byte, and with which the connection ends, answers nothing."""
    dialogue = Dialogue()
    dialogue.client(ask("/0"))
    dialogue.server(answer("0"))
    dialogue.server(answer("idle", 408))
    end(dialogue)
    messages = run(dialogue)
    assert pairs(messages) == {"0": "/0", "idle": None}
    assert [m.exchange for m in messages] == [0, 0, 1]


@pytest.mark.parametrize("end", [Dialogue.close, half, reset, nothing])
def test_an_idle_timeout_that_crosses_a_request(end: Ending) -> None:
    """A request that crosses the 408 on its way stays unanswered."""
    for first in ("client", "server"):
        dialogue = Dialogue()
        dialogue.client(ask("/0"))
        dialogue.server(answer("0"))
        seen = dialogue.sent[0]
        if first == "client":
            dialogue.client(ask("/1"))
        dialogue.server(answer("idle", 408), ack=seen)
        if first == "server":
            dialogue.client(ask("/1"))
        end(dialogue)
        table = Table()
        messages = table.run(dialogue.packets)
        assert pairs(messages) == {"0": "/0", "idle": None}
        assert asked(messages) == plain("/0", "/1")
        assert table.counted("requests_unanswered") == {"requests_unanswered": 1}


@pytest.mark.parametrize("end", [Dialogue.close, half, reset, nothing])
def test_a_head_that_is_never_finished(end: Ending) -> None:
    """A 408 to a client that stops within its head is one exchange with what came of the head."""
    dialogue = Dialogue()
    dialogue.client(b"GET /slow HTTP/1.1\r\nHost: h\r\nX-A")
    dialogue.server(answer("slow", 408))
    end(dialogue)
    messages = run(dialogue)
    assert pairs(messages) == {"slow": "/slow"}
    assert {m.exchange for m in messages} == {0}
    ((_, _, incomplete),) = asked(messages)
    assert incomplete == ("stopped" if end in (nothing, half) else "closed")


def test_an_early_answer_to_a_start_line_that_is_never_finished() -> None:
    """Without a start line there is no request to show: the answer is unpaired, in the exchange of the lost head."""
    dialogue = Dialogue()
    dialogue.client(b"GET /slo")
    dialogue.server(answer("slow", 408))
    dialogue.close()
    table = Table()
    (message,) = table.run(dialogue.packets)
    assert (message.exchange, message.path, message.reason) == (0, None, "slow")
    assert table.counted("heads_cut") == {"heads_cut": 1}


def test_an_early_answer_to_head() -> None:
    """What answers HEAD has no body, as soon as the method is known."""
    dialogue = Dialogue()
    head = ask("/0", method="HEAD")
    dialogue.client(head[:20])
    dialogue.server(b"HTTP/1.1 400 0\r\nContent-Length: 100\r\n\r\n")
    dialogue.client(head[20:])
    dialogue.client(ask("/1"))
    dialogue.server(answer("1"))
    assert pairs(run(dialogue)) == {"0": "/0", "1": "/1"}


def test_early_answers_are_bounded() -> None:
    """A server that answers what nobody asks keeps no more than a few of its answers waiting."""
    dialogue = Dialogue()
    for number in range(200):
        dialogue.server(answer(str(number)))
    table = Table()
    assert len(table.feed(dialogue.take())) >= 180
    assert len(table.flush()) <= 20


# ---- others ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "kind"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60), "tls"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", "http2"),
    ],
)
@pytest.mark.parametrize("handshake", [True, False])
def test_what_answers_another_protocol(first: bytes, kind: str, handshake: bool) -> None:
    """A 400 in plain text to what is no HTTP/1 is emitted; the connection counts as what the client spoke."""
    dialogue = Dialogue(handshake=handshake)
    dialogue.client(first)
    dialogue.server(answer("no", 400))
    dialogue.close()
    table = Table()
    messages = table.run(dialogue.packets)
    assert [(m.reason, m.path, m.body) for m in messages] == [("no", None, b"answer no")]
    read = kind == "http2" and handshake
    assert [event[0] for event in table.core.events()] == ([] if read else [kind])
    counter = "flows_http2_read" if read else f"flows_{kind}"
    assert table.counted(counter) == {counter: 1}


@pytest.mark.parametrize("count", [1024, 1025, 1500, 4000])
def test_more_requests_than_the_queue_keeps(count: int) -> None:
    """Beyond the queue the numbers of requests are kept: each answer gets its exchange, none another's path."""
    dialogue = Dialogue()
    for number in range(count):
        dialogue.client(ask(f"/{number}"))
    for number in range(count):
        dialogue.server(answer(str(number)))
    dialogue.client(ask("/last"))
    dialogue.server(answer("last"))
    messages = run(dialogue)
    responses = {m.reason: m for m in messages if m.direction == "response"}
    assert all(responses[str(number)].exchange == number for number in range(count))
    assert all(responses[str(number)].path == (f"/{number}" if number < 1024 else None) for number in range(count))
    assert responses["last"].path == "/last"


@pytest.mark.parametrize("size", [100, 1400, 60000])
def test_what_frames_the_answers_beyond_the_queue(size: int) -> None:
    """Beyond the queue an answer to HEAD still has no body, wherever its segments begin, and none takes another's."""
    count = 4000
    methods = ["HEAD" if number % 5 in (1, 2) else "GET" for number in range(count)]
    dialogue = Dialogue()
    requests = b"".join(ask(f"/{number}", method=method) for number, method in enumerate(methods))
    answers = b"".join(
        b"HTTP/1.1 200 %d\r\nSet-Cookie: s=1\r\nContent-Length: 300\r\n\r\n" % number
        if method == "HEAD"
        else answer(str(number))
        for number, method in enumerate(methods)
    )
    half = len(requests) // 2
    for at in range(0, half, size):
        dialogue.client(requests[at : min(half, at + size)])
    early = answers.index(b" 200 1500\r")
    for at in range(0, early, size):
        dialogue.server(answers[at : min(early, at + size)])
    for at in range(half, len(requests), size):
        dialogue.client(requests[at : at + size])
    for at in range(early, len(answers), size):
        dialogue.server(answers[at : at + size])
    dialogue.client(ask("/last"))
    dialogue.server(answer("last"))
    messages = run(dialogue)
    assert pairs(messages)["last"] == "/last"
    responses = {m.reason: m for m in messages if m.direction == "response"}
    assert [responses[str(number)].exchange for number in range(count)] == list(range(count))
    assert all(m.path in (None, f"/{m.reason}") for m in responses.values())
    assert not any(m.resynced or m.incomplete for m in messages)


def test_a_tunnel_beyond_the_queue() -> None:
    """A 2xx to a CONNECT that stands behind more requests than the queue keeps ends HTTP all the same."""
    dialogue = Dialogue()
    for number in range(1100):
        dialogue.client(ask(f"/{number}"))
    dialogue.client(CONNECT)
    for number in range(1100):
        dialogue.server(answer(str(number)))
    dialogue.server(b"HTTP/1.1 200 Go\r\nContent-Length: 3\r\n\r\n")
    dialogue.client(b"\x16\x03\x01" + ask("/inside"))
    dialogue.server(answer("inside"))
    table = Table()
    messages = table.run(dialogue.packets)
    assert [(m.reason, m.exchange, m.body) for m in messages][-1] == ("Go", 1100, b"")
    assert len(messages) == 2202
    assert table.counted("flows_tunnel") == {"flows_tunnel": 1}


@pytest.mark.parametrize("answered", [1023, 1024, 1050, 1100])
def test_a_request_behind_those_beyond_the_queue(answered: int) -> None:
    """A request that follows while the queue is empty, and of those beyond some wait, keeps its turn."""
    dialogue = Dialogue()
    for number in range(1100):
        dialogue.client(ask(f"/{number}"))
    for number in range(answered):
        dialogue.server(answer(str(number)))
    dialogue.client(ask("/1100"))
    for number in range(answered, 1101):
        dialogue.server(answer(str(number)))
    dialogue.client(ask("/last"))
    dialogue.server(answer("last"))
    responses = [m for m in run(dialogue) if m.direction == "response"]
    assert [m.exchange for m in responses] == list(range(1102))
    assert [m.reason for m in responses] == [*map(str, range(1101)), "last"]
    assert responses[-1].path == "/last"


@pytest.mark.parametrize(
    "odd", ["GET /1 HTTP/1.1 ", "GET /1 http/1.1", "\r\nGET /1 HTTP/1.1", "GET  /1 HTTP/1.1", "GET /1"]
)
@pytest.mark.parametrize("cut", [0, 3, 18, 40])
@pytest.mark.parametrize("length", [LENGTHS[0], LENGTHS[2]])
def test_what_is_answered_in_place_of_a_refused_body(odd: str, cut: int, length: str) -> None:
    """What stands in place of a refused body, and is answered before that is whole, is in no body in clear."""
    dialogue = Dialogue()
    dialogue.client(put("Expect: 100-continue\r\n", length))
    dialogue.server(answer("put", 413))
    request = f"{odd}\r\n{SECRET}\r\n".encode()
    for piece in (request[:cut], request[cut:]) if cut else (request,):
        dialogue.client(piece)
    dialogue.server(answer("1"))
    for number in (2, 3):
        dialogue.client(ask(f"/{number}"))
        dialogue.server(answer(str(number)))
    messages = run(dialogue)
    assert asked(messages) == [("/put", b"", "malformed"), *plain("/2", "/3")]
    assert pairs(messages) == {"put": "/put", "1": None, "2": "/2", "3": "/3"}


def test_what_is_weighed_is_not_weighed_again() -> None:
    """Bytes that may be a refused body cost what they are, however small their segments."""

    def seconds(count: int) -> float:
        dialogue = Dialogue()
        dialogue.client(put("Expect: 100-continue\r\n", LENGTHS[2]))
        dialogue.server(answer("put", 413))
        for byte in b"GET /1 HTTP/1.1\r\nX: " + b"x" * count:
            dialogue.client(bytes([byte]))
        batch = p.to_feed(dialogue.packets)
        table = Table()
        start = time.process_time()
        table.feed_raw(*batch)
        return time.process_time() - start

    assert seconds(20_000) < 10 * min(seconds(4000) for _ in range(3)) + 0.05


def test_a_full_queue_in_doubt() -> None:
    """Requests that may be none are not counted beyond the queue: all memory comes back, no answer gets another's."""
    dialogue = Dialogue()
    for number in range(1200):
        dialogue.client(ask(f"/{number}"), lost=number == 600)
        if number == 600:
            dialogue.server()
            dialogue.wait(200_000)
    for number in range(1200):
        dialogue.server(answer(str(number)))
    messages = run(dialogue)
    assert len([m for m in messages if m.direction == "response"]) == 1200
    assert all(m.path in (None, f"/{m.reason}") for m in messages if m.direction == "response")


@pytest.mark.parametrize("end", ENDINGS)
def test_a_refusal_that_ends_with_the_connection(end: Ending) -> None:
    """A head that follows a refusal without a length is in no body in clear."""
    dialogue = Dialogue()
    dialogue.client(put("Expect: 100-continue\r\n", LENGTHS[0]))
    dialogue.server(b"HTTP/1.1 413 put\r\nConnection: close\r\n\r\nanswer put")
    dialogue.client(ask("/1", SECRET))
    dialogue.server(b", more of it", ack=0)
    end(dialogue)
    messages = run(dialogue)
    assert asked(messages) == [("/put", b"", "malformed")]
    assert [(m.path, m.body) for m in messages if m.direction == "response"] == [("/put", b"answer put, more of it")]


def test_the_answer_behind_a_refusal_was_lost() -> None:
    """A lost answer behind a refused body costs no more than the requests that are in doubt for it."""
    dialogue = Dialogue()
    dialogue.client(put("Expect: 100-continue\r\n", LENGTHS[0]))
    dialogue.server(answer("put", 413))
    for number in range(1, 6):
        dialogue.client(ask(f"/{number}", SECRET))
        dialogue.server(answer(str(number)), lost=number == 1)
    messages = run(dialogue)
    assert asked(messages)[0] == ("/put", b"", "malformed")
    assert asked(messages)[-3:] == plain("/3", "/4", "/5")
    got = pairs(messages)
    assert {name: got[name] for name in "345"} == {"3": "/3", "4": "/4", "5": "/5"}
    assert all(path in (None, f"/{name}") for name, path in got.items())


# ---- early answers behind lost bytes ---------------------------------------------------------------------------------


def own_or_none(messages: list[RawMessage]) -> dict[str | None, str | None]:
    """pairs(), after a check that none is wrong: the response named N answers /N."""
    found = pairs(messages)
    assert all(path in (None, f"/{name}") for name, path in found.items()), found
    return found


@pytest.mark.parametrize("lost", ["request", "answer", "early"])
def test_an_early_answer_behind_lost_bytes(lost: str) -> None:
    """An early answer that is not recognised shifts no pair; first in, first out comes back behind it."""
    dialogue = Dialogue()
    dialogue.client(ask("/0"), lost=lost == "request")
    dialogue.server(answer("0"), lost=lost == "answer")
    dialogue.server(answer("1", 400), lost=lost == "early")
    dialogue.client(flags=p.ACK)
    dialogue.wait(300_000)
    dialogue.client(ask("/1") + ask("/2"))
    dialogue.server(answer("2"))
    for number in range(3, 6):
        dialogue.client(ask(f"/{number}"))
        dialogue.server(answer(str(number)))
    dialogue.client(ask("/6") + ask("/7"))
    dialogue.server(answer("6") + answer("7"))
    found = own_or_none(run(dialogue))
    assert found["2"] is None
    assert {name: found[name] for name in "34567"} == {name: f"/{name}" for name in "34567"}


@pytest.mark.parametrize("status", [408, 400])
def test_an_answer_within_a_head_behind_a_lost_answer(status: int) -> None:
    """Behind lost answers, one that acknowledges a part of a head is not the answer to the request before it."""
    dialogue = Dialogue()
    dialogue.client(ask("/0") + ask("/1"))
    dialogue.server(b"HTTP/1.1 200 0\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nanswer 0\r\n")
    dialogue.server(b"0\r\n\r\n" + answer("1"), lost=True)
    dialogue.client(ask("/2")[:5])
    dialogue.wait(300_000)
    dialogue.server(answer("2", status))
    dialogue.client(ask("/2")[5:] + ask("/3"))
    dialogue.server(answer("3"))
    assert own_or_none(run(dialogue))["2"] is None


def test_an_early_answer_behind_a_body_that_is_not_sent() -> None:
    """A server that refused a body may answer the next request early: the answer waits for that one."""
    dialogue = Dialogue()
    dialogue.client(put("", "Transfer-Encoding: chunked\r\n"))
    dialogue.server(answer("put", 413))
    dialogue.server(answer("1", 400))
    dialogue.client(ask("/1", SECRET))
    dialogue.client(ask("/2", SECRET))
    dialogue.server(answer("2"))
    messages = run(dialogue)
    assert pairs(messages) == {"put": "/put", "1": "/1", "2": "/2"}
    assert asked(messages) == plain("/put", "/1", "/2")


def test_an_early_answer_whose_body_begins_like_a_response() -> None:
    """A server that has read no method cannot mean a HEAD: what it says has the body that its head announces."""
    body = answer("inner")
    dialogue = Dialogue()
    dialogue.client(ask("/0"))
    dialogue.server(answer("0"))
    dialogue.server(f"HTTP/1.1 408 idle\r\nContent-Length: {len(body)}\r\n\r\n".encode())
    dialogue.server(body)
    dialogue.close()
    last = [m for m in run(dialogue) if m.direction == "response"][-1]
    assert (last.reason, last.body, last.incomplete) == ("idle", body, None)


def test_a_request_whose_end_was_sent_with_the_next() -> None:
    """Two requests are pipelined, too, where only the end of the first was sent with the second."""
    dialogue = Dialogue()
    dialogue.client(ask("/0") + ask("/1")[:8])
    dialogue.server(answer("0"), lost=True)
    dialogue.client(ask("/1")[8:] + ask("/2"))
    dialogue.wait(300_000)
    dialogue.server(answer("1"))
    dialogue.server(answer("2"))
    found = own_or_none(run(dialogue))
    assert found["1"] is None


def test_many_requests_before_the_syn_ack() -> None:
    """A SYN-ACK that is captured late leaves pipelined requests their places: not yet seen is not one-sided."""
    dialogue = Dialogue()
    dialogue.client(b"".join(ask(f"/{number}") for number in range(60)))
    dialogue.server(b"".join(answer(str(number)) for number in range(60)))
    at = next(n for n, packet in enumerate(dialogue.packets) if len(packet.data) > 1000)
    late = dialogue.packets.pop(1)
    dialogue.packets.insert(at, late)
    assert pairs(run(dialogue)) == {str(number): f"/{number}" for number in range(60)}


def test_a_request_behind_a_refused_body_that_comes_late() -> None:
    """What acknowledged bytes are is not judged before the pieces of them that are late had their time."""
    request = ask("/1", SECRET)
    dialogue = Dialogue()
    dialogue.client(put("", "Content-Length: 100000\r\n"))
    dialogue.server(answer("put", 413))
    dialogue.client(request[:20])
    dialogue.client(request[20:40])
    late = dialogue.packets.pop()
    dialogue.client(request[40:])
    dialogue.server(answer("1"))
    dialogue.packets.append(p.Packet(dialogue.packets[-1].stamp + 1000, late.data))
    messages = run(dialogue)
    assert asked(messages) == plain("/put", "/1")
    assert pairs(messages) == {"put": "/put", "1": "/1"}


# ---- what two conversations leave alike ------------------------------------------------------------------------------


def padded(head: str, size: int) -> bytes:
    """A head of that size."""
    return (head + "X: ").encode() + b"x" * (size - len(head) - 7) + b"\r\n\r\n"


def test_a_body_that_lost_bytes_cut_from_its_head() -> None:
    """Two requests, and one whose body was cut from its head, leave the same packets: the body counts as a request."""
    inner = ask("/2")
    told = []
    for lost in (
        (padded("GET /1 HTTP/1.1\r\n", 120), padded("HTTP/1.1 204 1\r\n", 90)),
        (padded(f"POST /1 HTTP/1.1\r\nContent-Length: {len(inner)}\r\n", 120), padded("HTTP/1.1 100 C\r\n", 90)),
    ):
        dialogue = Dialogue()
        dialogue.client(lost[0], lost=True)
        dialogue.server(lost[1], lost=True)
        dialogue.client(inner)
        dialogue.server(answer("last"))
        told.append([packet.data for packet in dialogue.packets])
    assert told[0] == told[1]
    assert asked(run(dialogue)) == plain("/2")


def test_a_body_that_begins_like_a_response() -> None:
    """An answer to a lost HEAD with the next, and one to a lost GET with a body, leave the same packets."""
    inner = answer("2")
    told = []
    for lost in (b"HEAD /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n", padded("GET /1 HTTP/1.1\r\n", 39)):
        dialogue = Dialogue()
        dialogue.client(lost, lost=True)
        dialogue.server(f"HTTP/1.1 200 1\r\nContent-Length: {len(inner)}\r\n\r\n".encode())
        dialogue.server(inner)
        told.append([packet.data for packet in dialogue.packets])
    assert told[0] == told[1]
    assert pairs(run(dialogue)) == {"1": None, "2": None}


# ---- kinds that the generator found ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 40])
def test_a_body_that_may_be_the_next_response(size: int) -> None:
    """A response whose request was lost keeps no byte of what goes on as a status line: the next response."""
    dialogue = Dialogue(handshake=False)
    line = b"HTTP/1.1 200 next\r\nSet-Cookie: s=TOPSECRET\r\nContent-Length: 0\r\n\r\n"
    dialogue.server(f"HTTP/1.1 200 first\r\nContent-Length: {size}\r\n\r\n".encode())
    dialogue.server(line[:1])
    dialogue.server(line[1:])
    first = next(message for message in run(dialogue) if message.reason == "first")
    assert (first.body, first.incomplete) == (b"", "gap")


def test_a_start_line_in_a_body_does_not_take_all_that_follows() -> None:
    """A start line that is found behind a loss, with no length and no close, does not take the rest for its body."""
    dialogue = Dialogue()
    dialogue.packets = dialogue.packets[1:2]
    dialogue.server(b"lost", lost=True)
    dialogue.server(b"HTTP/1.1 200 inside\r\n\r\npiece\r\n")
    dialogue.server(b"0\r\n\r\n" + answer("1").replace(b"s=1", b"s=TOPSECRET"))
    dialogue.server(answer("2"))
    messages = run(dialogue)
    assert "2" in pairs(messages)


@pytest.mark.parametrize("cut", [b"ET", b"bGET"])
def test_a_method_that_lost_bytes_cut(cut: bytes) -> None:
    """Behind lost bytes, "ET" and "bGET" are no methods, though an ACK marks where they begin."""
    dialogue = Dialogue()
    dialogue.client(ask("/1") + b"G", lost=True)
    dialogue.server(answer("1"))
    dialogue.client(cut + b" /2 HTTP/1.1\r\nHost: h\r\n\r\n")
    dialogue.server(answer("2"))
    messages = run(dialogue)
    assert asked(messages) == []
    assert own_or_none(messages)["2"] is None


def test_an_answer_to_head_behind_an_early_answer() -> None:
    """In a capture of the server alone, an answer behind an early one may be to HEAD: its body is the next response."""
    dialogue = Dialogue()
    dialogue.packets = dialogue.packets[1:2]
    dialogue.server(answer("0", 400))
    dialogue.client(ask("/0") + ask("/1"), lost=True)
    dialogue.server()
    dialogue.server(answer("1"))
    dialogue.client(ask("/2") + ask("/3", method="HEAD"), lost=True)
    dialogue.server()
    dialogue.server(answer("2") + b"HTTP/1.1 200 3\r\nContent-Length: 20\r\n\r\n")
    dialogue.client(ask("/4"), lost=True)
    dialogue.server()
    dialogue.server(answer("4"))
    dialogue.server(flags=p.RST | p.ACK)
    found = {m.reason: m.body or b"" for m in run(dialogue)}
    assert found == {"0": b"answer 0", "1": b"answer 1", "2": b"answer 2", "3": b"", "4": b"answer 4"}


def test_a_refused_body_whose_end_is_followed_by_lost_bytes() -> None:
    """Requests behind a refusal, as long as the body that was refused, are not taken for it where their end is lost."""
    dialogue = Dialogue()
    dialogue.client(put("", "Content-Length: 3000\r\n"))
    dialogue.server(answer("put", 413))
    dialogue.client(ask("/1", SECRET))
    dialogue.server(answer("1"), lost=True)
    dialogue.client(ask("/2", SECRET, method="POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 5000\r\n\r\n"))
    dialogue.client(b"b" * (2600), lost=False)
    dialogue.client(b"b" * 1000, lost=True)
    dialogue.client(b"b" * 1400)
    dialogue.server(answer("2"))
    assert all(b"TOPSECRET" not in (message.body or b"") for message in run(dialogue))


def test_an_offer_behind_a_refused_body_waits_as_long_as_any_other() -> None:
    """Only the wait for a refused body is short. The answer to a CONNECT that follows it may come later."""
    dialogue = Dialogue()
    dialogue.client(b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n")
    dialogue.server(b"HTTP/1.1 413 R1\r\nContent-Length: 0\r\n\r\n")
    dialogue.client(b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
    dialogue.server(b"HTTP/1.1 200 R2\r\nContent-Length: 0\r\n\r\n")
    dialogue.client(b"CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\nthe tunnel's bytes")
    dialogue.wait(300_000)
    dialogue.server(b"HTTP/1.1 200 R3\r\n\r\n")
    answers = [(m.path, m.reason) for m in run(dialogue) if m.direction == "response"]
    assert answers == [("/1", "R1"), ("/2", "R2"), ("b:443", "R3")]


@pytest.mark.parametrize("cut", [1, 2, 12, 24, 30])
def test_a_request_sent_within_a_response_does_not_prove_an_earlier_answer(cut: int) -> None:
    """After a loss, a request that was sent within a response does not prove that those before it were answered."""
    response = b"HTTP/1.1 103 Interim\r\n\r\nHTTP/1.1 204 R3\r\n\r\n"
    dialogue = Dialogue()
    dialogue.client(ask("/1"))
    dialogue.server(answer("R1"), lost=True)
    dialogue.client(ask("/2"))
    dialogue.client(b"H")
    received = dialogue.sent[1]
    dialogue.server(answer("R2"))
    dialogue.client(b"EAD /3 HTTP/1.1\r\nHost: h\r\n\r\n", ack=received)
    dialogue.server(response[:cut])
    dialogue.client(ask("/4"))
    dialogue.server(response[cut:])
    dialogue.server(answer("R4"))
    for path, reason in ((m.path, m.reason) for m in run(dialogue) if m.direction == "response"):
        assert path is None or (reason or "")[1:] == path[1:]
