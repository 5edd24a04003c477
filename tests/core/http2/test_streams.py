"""protocols/http2/streams: bodies, trailers, interim responses and the states of a stream."""

from __future__ import annotations

from tests import http2 as h
from tests.conversations import CLIENT, SERVER
from tests.core.http2.test_session import exchange, seen, talk
from tests.laws import Table

ASKED = (CLIENT, h.headers(1, h.REQUEST, end=True))


def test_a_body_beyond_the_cap() -> None:
    """`body_size` is exact, and what is kept ends at the cap."""
    sent = h.headers(1, h.RESPONSE) + h.data(1, b"a" * 70) + h.data(1, b"b" * 70, end=True)
    (_, message) = Table(max_body=100).run(talk(ASKED, (SERVER, sent)).packets)
    assert (message.body, message.body_size, message.body_truncated) == (b"a" * 70 + b"b" * 30, 140, True)
    (_, message) = Table(max_body=0).run(talk(ASKED, (SERVER, sent)).packets)
    assert (message.body, message.body_size) == (b"", 140)


def test_trailers_and_interim_responses() -> None:
    """Interim responses are told by the final one; the last block is the trailers."""
    sent = (
        h.headers(1, [(":status", "100")])
        + h.headers(1, [(":status", "103"), ("link", "x")])
        + h.headers(1, h.RESPONSE)
        + h.data(1, b"x")
        + h.headers(1, [("grpc-status", "0")], end=True)
    )
    (_, message) = Table().run(talk(ASKED, (SERVER, sent)).packets)
    assert (message.informational, message.status_code, message.headers) == ((100, 103), 200, {})
    assert (message.body, message.trailers, message.anomalies) == (b"x", {"grpc-status": "0"}, ())


def test_odd_states() -> None:
    """Frames that a stream's state does not allow are marked or passed over, and cut nothing."""
    block = h.headers(1, [("x", "1")])
    sent = h.headers(1, h.RESPONSE) + block + h.data(1, b"x", end=True) + h.data(1, b"late")
    messages = Table().run(talk((CLIENT, h.data(5, b"never opened")), ASKED, (SERVER, sent), *exchange(3)).packets)
    assert seen(messages) == [
        (1, "request", "/", None, None), (1, "response", "/", 200, None), (3, "request", "/3", None, None),
        (3, "response", "/3", 200, None),
    ]  # fmt: skip
    assert [m.anomalies for m in messages] == [(), ("stream-state",), (), ()]


def test_data_behind_the_end() -> None:
    """DATA behind END_STREAM is no part of the request, and its response is marked."""
    late = (CLIENT, h.data(1, b"late"))
    messages = Table().run(
        talk(ASKED, (SERVER, h.headers(1, h.RESPONSE)), late, (SERVER, h.data(1, b"", end=True))).packets
    )
    assert [(m.body, m.anomalies) for m in messages] == [(b"", ()), (b"", ("stream-state",))]


def test_length_of_an_answer_to_head() -> None:
    """Content-Length speaks of a body that an answer to HEAD, or a 304, does not have."""
    for method, status in (("HEAD", "200"), ("GET", "304")):
        head = h.headers(1, [(":status", status), ("content-length", "10")], end=True)
        asked = (CLIENT, h.headers(1, h.request("/", method=method), end=True))
        (_, message) = Table().run(talk(asked, (SERVER, head)).packets)
        assert message.anomalies == ()


def test_a_stream_once_only() -> None:
    """A stream that has ended is not opened again (section 5.1.1)."""
    messages = Table().run(talk(*exchange(3), *exchange(3), *exchange(1)).packets)
    assert seen(messages) == [(3, "request", "/3", None, None), (3, "response", "/3", 200, None)]


def test_the_memory_limit() -> None:
    """At the memory limit kept bodies are given back, and the messages say that their bodies are cut."""
    table = Table(max_body=1 << 20, memory_limit=200_000)
    dialogue = talk()
    for stream in range(1, 41, 2):
        dialogue.client(h.headers(stream, h.request(f"/{stream}")))
        dialogue.client(h.data(stream, b"x" * 16_000))
        dialogue.client(h.data(stream, b"x" * 16_000))
    for stream in range(1, 41, 2):
        dialogue.client(h.data(stream, b"", end=True))
    messages = table.run(dialogue.packets)
    assert {(m.body_size, m.incomplete) for m in messages} == {(32_000, None)}
    assert any(m.body_truncated for m in messages)
    assert table.counted("bodies_evicted")["bodies_evicted"] > 0


def test_a_long_message() -> None:
    """A message that is open for a minute is reported once, and counted while it is open."""
    table = Table()
    dialogue = talk((CLIENT, h.headers(1, h.REQUEST)))
    dialogue.wait(61_000_000)
    dialogue.client(h.data(1, b"x"))
    dialogue.client(h.data(1, b"y"))
    assert table.feed(dialogue.take()) == []
    assert (table.gauge("messages_open"), table.gauge("messages_long")) == (1, 1)
    assert [event[0] for event in table.core.events()] == ["long-message"]
    dialogue.client(h.data(1, b"", end=True))
    assert len(table.feed(dialogue.take())) == 1
    assert (table.gauge("messages_open"), table.gauge("messages_long")) == (0, 0)
    table.flush()
