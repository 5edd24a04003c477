"""protocols/http2/search: after a loss frames are found again, and nothing else is taken for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sniffer_core.core import RawMessage
from tests import http2 as h
from tests.conversations import CLIENT
from tests.core.http2.test_session import exchange, talk
from tests.laws import Table

CAPTURES = Path(__file__).parents[4] / "shared/http2/captures"


def after_loss(*turns: tuple[int, bytes]) -> list[RawMessage]:
    """The messages of what follows a lost segment of the client."""
    dialogue = talk(*exchange(1))
    dialogue.client(h.headers(3, h.request("/lost"), end=True), lost=True)
    dialogue.server()
    dialogue.wait(300_000)
    for side, sent in turns:
        (dialogue.client if side == CLIENT else dialogue.server)(sent)
    return Table().run(dialogue.packets)[2:]


def test_one_request_is_enough() -> None:
    """A whole head that fills its segment is believed at once, so its response finds it."""
    messages = after_loss(*exchange(5))
    assert [(m.stream_id, m.direction, m.path, m.resynced) for m in messages] == [
        (5, "request", "/5", True), (5, "response", "/5", False),
    ]  # fmt: skip


def test_frames_inside_a_body() -> None:
    """Frames that begin inside a segment are not looked for: a body may hold them."""
    assert after_loss((CLIENT, b"x" * 40 + h.headers(5, h.request("/inside"), end=True))) == []


@pytest.mark.parametrize(
    "block", [b"\x80", b"\x7f\xff\xff\xff\xff\xff", h.literal([("a", "b")])[:-1], h.literal([("a", "b")])]
)
def test_a_block_must_parse(block: bytes) -> None:
    """What looks like HEADERS and has no header block is none."""
    frame = h.frame(h.HEADERS, h.END_HEADERS, 5, block)
    assert [m.stream_id for m in after_loss((CLIENT, frame), *exchange(7))] in ([7, 7], [])


def test_a_chain_is_enough() -> None:
    """Three legal headers in a row are believed though the last frame is not whole."""
    sent = h.frame(h.WINDOW, 0, 0, b"\0\0\1\0") + h.headers(5, h.request("/5", method="POST")) + h.data(5, b"x" * 5000)
    messages = after_loss((CLIENT, sent[:1000]), (CLIENT, sent[1000:]), (CLIENT, h.data(5, b"", end=True)))
    assert [(m.path, m.body_size, m.incomplete) for m in messages] == [("/5", 5000, None)]


def test_a_contradiction_begins_the_search_anew() -> None:
    """After a loss a repeated pseudo-header shows that something is wrong: that message is not presented as whole."""
    twice = h.headers(5, (*h.request("/5"), (":path", "/other")), end=True)
    messages = after_loss((CLIENT, twice), *exchange(7))
    assert [(m.stream_id, m.direction, m.incomplete, m.resynced) for m in messages] == [
        (5, "request", "malformed", True), (7, "request", None, True), (7, "response", None, False),
    ]  # fmt: skip


def test_open_messages_are_doubted() -> None:
    """A message that was open at the loss is whole only if its length says so."""
    long = h.request("/long", ("content-length", "2"), method="POST")
    dialogue = talk((CLIENT, h.headers(1, long) + h.headers(3, h.request("/other", method="POST"))))
    dialogue.client(h.data(1, b"ab") + h.data(3, b"ab"))
    dialogue.client(h.frame(h.PING, 0, 0, bytes(8)), lost=True)
    dialogue.server()
    dialogue.wait(300_000)
    dialogue.client(h.data(1, b"", end=True) + h.data(3, b"", end=True))
    messages = Table().run(dialogue.packets)
    assert [(m.path, m.body, m.incomplete) for m in messages] == [("/long", b"ab", None), ("/other", b"ab", "gap")]


def test_what_is_not_found_is_given_up() -> None:
    """Bytes among which no frame is found are bounded in memory, and counted."""
    table = Table()
    dialogue = talk()
    dialogue.client(b"lost", lost=True)
    dialogue.server()
    dialogue.wait(300_000)
    for _ in range(300):
        dialogue.client(h.data(1, bytes(9))[:9] + b"\0" * 1391)
    table.feed(dialogue.take())
    assert table.gauge("memory_bytes") < 300_000
    table.flush()


def packets(path: Path) -> tuple[int, list[tuple[bytes, Any]]]:
    """The packets of a capture, one by one."""
    pcapy = pytest.importorskip("pcapy")
    capture = pcapy.open_offline(str(path))
    found = []
    while (batch := capture.next_batch(1))[1]:
        found.append(batch)
    return capture.datalink(), found


@pytest.mark.skipif(not CAPTURES.exists(), reason="no captures of real gRPC here")
@pytest.mark.parametrize("step", [range(4, 60, 3)])
def test_real_grpc_with_each_packet_lost(step: range) -> None:
    """gRPC of C-core, 40 methods: whichever packet is lost, each path that is shown is that of its stream."""
    linktype, sent = packets(CAPTURES / "h2loss.pcap")
    whole = Table(linktype=linktype, ports=[15501])
    truth = {}
    said = [message for data, index in sent for message in whole.feed_raw(data, index)] + whole.flush()
    for message in said:
        truth[message.connection_id, message.stream_id, message.direction] = message
        assert message.incomplete is None
    for lost in step:
        table = Table(linktype=linktype, ports=[15501])
        messages = []
        for number, (data, index) in enumerate(sent):
            if number != lost:
                messages += table.feed_raw(data, index)
        messages += table.flush()
        assert len(messages) >= len(said) - 8
        for message in messages:
            true = truth[message.connection_id, message.stream_id, message.direction]
            assert message.path in (None, true.path)
            assert message.headers.items() <= true.headers.items()
            if message.incomplete is None:
                assert message.body == true.body


def test_server_side() -> None:
    """The same for responses."""
    dialogue = talk(exchange(1)[0], exchange(3)[0], exchange(5)[0])
    dialogue.server(exchange(1)[1][1], lost=True)
    dialogue.client()
    dialogue.wait(300_000)
    dialogue.server(exchange(3)[1][1])
    dialogue.server(exchange(5)[1][1])
    messages = [m for m in Table().run(dialogue.packets) if m.direction == "response"]
    assert [(m.stream_id, m.path, m.resynced) for m in messages] == [(3, "/3", True), (5, "/5", False)]
