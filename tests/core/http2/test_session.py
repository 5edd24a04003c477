"""protocols/http2/session: what a connection of HTTP/2 says comes out, whole, paired, and never invented."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer_core.core import RawMessage
from sniffer_core.testing import starve
from tests import http2 as h
from tests.conversations import CLIENT, SERVER, Dialogue, dropped, duplicated, shuffled
from tests.laws import Table

seeds = st.integers(0, 2**32)


def talk(*turns: tuple[int, bytes]) -> Dialogue:
    """A connection that begins with both prefaces."""
    dialogue = Dialogue()
    dialogue.client(h.PREFACE + h.settings())
    dialogue.server(h.settings())
    for side, sent in turns:
        (dialogue.client if side == CLIENT else dialogue.server)(sent)
    return dialogue


def seen(messages: list[RawMessage]) -> list[tuple[Any, ...]]:
    return [(m.stream_id, m.direction, m.path, m.status_code, m.incomplete) for m in messages]


def exchange(stream: int) -> tuple[tuple[int, bytes], tuple[int, bytes]]:
    return (CLIENT, h.headers(stream, h.request(f"/{stream}"), end=True)), (
        SERVER, h.headers(stream, h.RESPONSE) + h.data(stream, b"%d" % stream, end=True),
    )  # fmt: skip


# Whole conversations


@given(seeds, st.integers(1, 12), st.sampled_from((0, 1, 7, 300)))
def test_whole_conversations(seed: int, count: int, most: int) -> None:
    """Everything that was said is there, paired, however the streams are mixed and the segments cut."""
    random = Random(seed)
    conversation = h.Talk(h.calls(random, count), random)
    table = Table()
    messages = table.run(conversation.packets(conversation.segments(most)))
    assert h.by_stream(messages) == conversation.expected()
    assert {m.incomplete for m in messages} == {None}
    assert {m.exchange for m in messages if m.direction == "request"} == set(range(count))
    assert all(m.http_version == "2" and m.reason is None and m.authority == "example.test" for m in messages)
    assert table.counted("anomaly_stream_state", "heads_cut", "responses_unpaired") == {
        "anomaly_stream_state": 0, "heads_cut": 0, "responses_unpaired": 0,
    }  # fmt: skip


@given(seeds, st.integers(1, 8))
def test_order_and_duplicates(seed: int, count: int) -> None:
    """Segments that come in another order, or twice, change nothing."""
    random = Random(seed)
    conversation = h.Talk(h.calls(random, count), random)
    segments = duplicated(shuffled(conversation.segments(500), random, 3), random, 0.2)
    assert h.by_stream(Table().run(conversation.packets(segments))) == conversation.expected()


@given(seeds, st.integers(1, 16), st.sampled_from((0.02, 0.1, 0.3)), st.sampled_from((0, 200)))
def test_losses(seed: int, count: int, rate: float, most: int) -> None:
    """Whatever is lost, no field, body or pair is another's, and no message with missing bytes is shown as whole."""
    random = Random(seed)
    conversation = h.Talk(h.calls(random, count), random)
    segments = dropped(conversation.segments(most), random, rate)
    said = {(record["stream_id"], record["direction"]): record for record in conversation.expected()}
    messages = Table().run(conversation.packets(segments))
    assert len({(m.stream_id, m.direction) for m in messages}) == len(messages)
    for message in messages:
        record = said[message.stream_id, message.direction]
        got = h.shown(message)
        for name in ("method", "path", "status_code"):
            assert got[name] in (None, record[name]), name
        for name in ("headers", "trailers"):
            assert (got[name] or {}).items() <= (record[name] or {}).items() or message.headers_unknown
            for field, value in (got[name] or {}).items():
                assert value in (record[name][field], "a=1", record[name][field].rpartition("; ")[2])
        assert record["body"].startswith(got["body"])
        if message.incomplete is None:
            assert got["body"] == record["body"]
            if not message.headers_unknown:
                assert got["headers"] == record["headers"]


@pytest.mark.parametrize("seed", range(6))
def test_each_segment_lost(seed: int) -> None:
    """One lost segment costs nothing of a stream that ended before, or began after frames were found again."""
    random = Random(seed)
    conversation = h.Talk(h.calls(random, 6), random)
    segments = conversation.segments()
    whole = {(r["stream_id"], r["direction"]) for r in conversation.expected()}
    found = 0
    for place in range(3, len(segments)):
        if not segments[place].data:
            continue
        messages = Table().run(conversation.packets(segments[:place] + segments[place + 1 :]))
        assert {(m.stream_id, m.direction) for m in messages} <= whole
        found += sum(m.incomplete is None for m in messages)
    assert found > 0


# Frames


def test_server_speaks_first() -> None:
    """A server's SETTINGS may come before the client's preface."""
    dialogue = Dialogue()
    dialogue.server(h.settings((3, 100)))
    dialogue.client(h.PREFACE + h.settings())
    for side, sent in exchange(1):
        (dialogue.client if side == CLIENT else dialogue.server)(sent)
    assert seen(Table().run(dialogue.packets)) == [(1, "request", "/1", None, None), (1, "response", "/1", 200, None)]


def test_push() -> None:
    """A promised request is one of the client's; both messages say that they were pushed."""
    promised = h.frame(h.PUSH, h.END_HEADERS, 1, b"\0\0\0\2" + h.literal(h.request("/style")))
    asked, answered = exchange(1)
    pushed = h.headers(2, h.RESPONSE) + h.data(2, b"css", end=True)
    messages = Table().run(talk(asked, (SERVER, promised), answered, (SERVER, pushed)).packets)
    assert [(m.stream_id, m.direction, m.path, m.pushed, m.exchange) for m in messages] == [
        (1, "request", "/1", False, 0), (2, "request", "/style", True, 1), (1, "response", "/1", False, 0),
        (2, "response", "/style", True, 1),
    ]  # fmt: skip


@pytest.mark.parametrize(("code", "name"), [(8, "CANCEL"), (0, "NO_ERROR"), (13, "HTTP_1_1_REQUIRED"), (77, "0x4d")])
def test_reset(code: int, name: str) -> None:
    """RST_STREAM ends what is open on its stream, with the name of its code."""
    begun = h.headers(1, h.RESPONSE) + h.data(1, b"half")
    table = Table()
    asked, _ = exchange(1)
    messages = table.run(talk(asked, (SERVER, begun), (CLIENT, h.reset(1, code)), *exchange(3)).packets)
    assert [(m.stream_id, m.incomplete, m.reset, m.body) for m in messages] == [
        (1, None, None, b""), (1, "reset", name, b"half"), (3, None, None, b""), (3, None, None, b"3"),
    ]  # fmt: skip


def test_end_of_the_connection() -> None:
    """FIN cuts what is open; a request without an answer is counted."""
    dialogue = talk((CLIENT, h.headers(1, h.REQUEST, end=True) + h.headers(3, h.REQUEST) + h.data(3, b"x")))
    dialogue.close()
    table = Table()
    assert seen(table.run(dialogue.packets)) == [(1, "request", "/", None, None), (3, "request", "/", None, "closed")]
    assert table.counted("requests_unanswered") == {"requests_unanswered": 2}


def test_server_that_speaks_http1() -> None:
    """A server that answers the preface in HTTP/1 is read as HTTP/1, and its answer is no answer to a stream."""
    dialogue = Dialogue()
    dialogue.client(h.PREFACE + h.settings() + h.headers(1, h.REQUEST, end=True))
    dialogue.server(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno")
    dialogue.close()
    messages = Table().run(dialogue.packets)
    assert [(m.http_version, m.exchange, m.path, m.status_code) for m in messages] == [
        ("2", 0, "/", None), ("1.1", 1, None, 400),
    ]  # fmt: skip


@pytest.mark.parametrize("cut", range(1, 24))
def test_preface_in_two_segments(cut: int) -> None:
    """The preface is recognised however it is cut."""
    dialogue = Dialogue()
    dialogue.client(h.PREFACE[:cut])
    dialogue.client(h.PREFACE[cut:] + h.settings())
    dialogue.server(h.settings())
    for side, sent in exchange(1):
        (dialogue.client if side == CLIENT else dialogue.server)(sent)
    assert len(seen(Table().run(dialogue.packets))) == 2


def test_latency() -> None:
    """Latency is from the request's last byte to the response's first, and unknown if that came before."""
    upload = h.headers(1, h.request("/", method="POST")) + h.data(1, b"x")
    early = (SERVER, h.headers(1, h.RESPONSE) + h.data(1, b"y", end=True))
    messages = Table().run(talk((CLIENT, upload), early, (CLIENT, h.data(1, b"z", end=True)), *exchange(3)).packets)
    assert [(m.stream_id, m.direction, m.latency_us, m.duration_us) for m in messages] == [
        (1, "response", None, 1000), (1, "request", None, None), (3, "request", None, None),
        (3, "response", 1000, 1000),
    ]  # fmt: skip


# Losses


def test_loss_within_data() -> None:
    """Bytes lost within a DATA frame cut that stream alone; the table and the framing are untouched."""
    answer = h.headers(1, h.RESPONSE) + h.data(1, b"a" * 3000, end=True)
    dialogue = talk(exchange(1)[0])
    dialogue.server(answer[:1000])
    dialogue.server(answer[1000:2000], lost=True)
    dialogue.server(answer[2000:])
    dialogue.client()
    dialogue.wait(300_000)
    for side, sent in exchange(3):
        (dialogue.client if side == CLIENT else dialogue.server)(sent)
    table = Table()
    messages = table.run(dialogue.packets)
    assert seen(messages) == [
        (1, "request", "/1", None, None), (1, "response", "/1", 200, "gap"), (3, "request", "/3", None, None),
        (3, "response", "/3", 200, None),
    ]  # fmt: skip
    assert (messages[1].body_size, messages[1].missing_bytes) == (2000, 1000)
    assert not messages[3].resynced
    assert set(messages[1].body) == {97}


def test_loss_of_a_head() -> None:
    """After a lost header block no field of an earlier block is known, and later requests are told apart by number."""
    talked = h.Talk([], Random(1))
    dialogue = talk()
    paths = ["/a", "/b", "/a", "/b", "/b"]
    for number, path in enumerate(paths):
        stream = 2 * number + 1
        block = talked.encoders[CLIENT].encode(list(h.request(path, ("x-token", "one"))))
        dialogue.client(h.frame(h.HEADERS, h.END_HEADERS | h.END_STREAM, stream, block), lost=number == 1)
        if number == 1:
            dialogue.server()
            dialogue.wait(300_000)
        dialogue.server(h.headers(stream, h.RESPONSE, end=True))
    messages = Table().run(dialogue.packets)
    requests = [m for m in messages if m.direction == "request"]
    assert [(m.stream_id, m.path) for m in requests] == [(1, "/a"), (5, None), (7, None), (9, None)]
    assert requests[2].route_id == requests[3].route_id != requests[1].route_id
    assert requests[0].route_id is None
    assert all("x-token" not in m.headers and m.headers_unknown for m in requests[1:])
    assert [m.resynced for m in requests] == [False, True, False, False]
    answers = {m.stream_id: (m.path, m.route_id) for m in messages if m.direction == "response"}
    assert answers[5] == (None, requests[1].route_id)
    assert answers[3] == (None, None)


# Attacks


def test_rapid_reset() -> None:
    """A stream that is opened and reset leaves nothing behind (CVE-2023-44487)."""
    table = Table()
    dialogue = talk()
    for stream in range(1, 40_001, 2):
        dialogue.client(h.headers(stream, h.REQUEST, end=True) + h.reset(stream, 8))
    assert len(table.feed(dialogue.take())) == 20_000
    assert table.gauge("memory_bytes") < 20_000
    table.flush()


def test_many_open_streams() -> None:
    """Of more open streams than are kept the oldest is given up, and says so."""
    table = Table()
    dialogue = talk()
    for stream in range(1, 10_001, 2):
        dialogue.client(h.headers(stream, h.REQUEST))
    messages = table.feed(dialogue.take())
    assert {m.incomplete for m in messages} == {"evicted"}
    assert len(messages) == 5000 - 1024
    assert len(table.flush()) == 1024


@pytest.mark.parametrize("frames", [2, 40])
def test_continuation_flood(frames: int) -> None:
    """A field block beyond its bounds is read to its end, not kept, and later streams are read (CVE-2024-27316)."""
    piece = h.literal([("x-filler", "y" * 16000)])[:16000] if frames == 40 else bytes(0)
    flood = h.frame(h.HEADERS, 0, 1, h.literal(h.REQUEST))
    flood += b"".join(h.frame(h.CONTINUATION, 0, 1, piece) for _ in range(frames - 2))
    flood += h.frame(h.CONTINUATION, h.END_HEADERS, 1, b"")
    table = Table()
    dialogue = talk((CLIENT, flood[:50_000]))
    for at in range(50_000, len(flood), 50_000):
        dialogue.client(flood[at : at + 50_000])
    assert table.feed(dialogue.take()) == []
    assert table.gauge("memory_bytes") < 100_000
    for side, sent in exchange(3):
        (dialogue.client if side == CLIENT else dialogue.server)(sent)
    found = [m for m in table.feed(dialogue.take()) + table.flush() if m.stream_id == 3]
    assert seen(found) == [(3, "request", "/3", None, None), (3, "response", "/3", 200, None)]


def test_hpack_bomb() -> None:
    """A small block that stands for many bytes of fields gives one message of bounded size, marked."""
    block = h.literal(h.REQUEST) + b"\x40\x01a" + b"\x7f" + h._rest(4000 - 127) + b"b" * 4000 + b"\xbe" * 10_000
    table = Table()
    messages = table.run(talk((CLIENT, h.frame(h.HEADERS, h.END_HEADERS | h.END_STREAM, 1, block))).packets)
    assert [(m.path, m.incomplete) for m in messages] == [("/", "limit")]
    assert messages[0].weight < 500_000


@given(st.lists(st.tuples(st.sampled_from((CLIENT, SERVER)), st.binary(max_size=60)), max_size=12))
def test_any_bytes(turns: list[tuple[int, bytes]]) -> None:
    """No bytes behind the prefaces break anything: the laws hold and all memory is given back."""
    Table().run(talk(*turns).packets)


@given(seeds, st.integers(1, 6))
def test_mutated_conversations(seed: int, count: int) -> None:
    """A conversation with some bytes changed breaks nothing."""
    random = Random(seed)
    conversation = h.Talk(h.calls(random, count), random)
    writes = []
    for side, sent in conversation.writes:
        changed = bytearray(sent)
        for _ in range(random.choice((0, 0, 1, 3))):
            changed[random.randrange(len(changed))] = random.randrange(256)
        writes.append((side, bytes(changed)))
    conversation.writes = writes
    Table().run(conversation.packets(conversation.segments(random.choice((0, 100)))))


def test_memory() -> None:
    """Without memory for any one allocation nothing breaks, and what is shown as whole is whole."""
    random = Random(3)
    conversation = h.Talk(h.calls(random, 3), random)
    packets = conversation.packets(conversation.segments())
    said = {(r["stream_id"], r["direction"]): r for r in conversation.expected()}
    for number in range(1, 120):
        table = Table()
        table.feed(packets[:1])
        starve(table.core, number)
        messages = table.feed(packets[1:])
        left = starve(table.core, 0)
        messages += table.flush()
        for message in messages:
            if message.incomplete is None and message.http_version == "2" and not message.body_truncated:
                assert message.body == said[message.stream_id, message.direction]["body"]
        if left > 0:
            break
