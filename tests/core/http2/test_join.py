"""HTTP/2 that is joined in mid-stream: what was said since is exact, what came before is unknown and never guessed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer_core.core import RawMessage
from tests import http2 as h
from tests.conversations import CLIENT, SERVER, Dialogue, Segment
from tests.laws import Table

RECORDINGS = Path(__file__).parents[4] / "shared/http2/grpc"
seeds = st.integers(0, 2**32)


def frames(data: bytes) -> list[tuple[int, bool, bytes]]:
    """(stream, END_STREAM, bytes) of each frame of a direction, the preface with the first one."""
    found = []
    at = begun = len(h.PREFACE) if data.startswith(h.PREFACE) else 0
    while at + 9 <= len(data):
        end = at + 9 + int.from_bytes(data[at : at + 3], "big")
        last = data[at + 3] in (h.DATA, h.HEADERS) and bool(data[at + 4] & h.END_STREAM)
        found.append((int.from_bytes(data[at + 5 : at + 9], "big"), last, data[0 if at == begun else at : end]))
        at = end
    return found


def recorded(name: str) -> list[tuple[int, bytes]]:
    """A recording as a sequence of writes: each request, and behind it the server's frames up to its answer's end."""
    answers = iter(frames((RECORDINGS / f"{name}.s2c").read_bytes()))
    writes = []
    request = b""
    for stream, last, sent in frames((RECORDINGS / f"{name}.c2s").read_bytes()):
        request += sent
        if not last:
            continue
        writes.append((CLIENT, request))
        request = b""
        answer = b""
        for answered, done, part in answers:
            answer += part
            if done and answered == stream:
                break
        writes.append((SERVER, answer))
    return writes


def joined(writes: list[tuple[int, bytes]], place: int) -> list[RawMessage]:
    """The messages of a capture that begins with this write."""
    dialogue = Dialogue(handshake=place == 0)
    for side, sent in writes[place:]:
        (dialogue.client if side == CLIENT else dialogue.server)(sent)
    dialogue.close()
    return Table().run(dialogue.packets)


def check(messages: list[RawMessage], truth: Mapping[tuple[int | None, Any], RawMessage]) -> None:
    """Each value is that of the true message, or unknown."""
    for message in messages:
        true = truth[message.stream_id, message.direction]
        assert message.path in (None, true.path)
        assert message.status_code in (None, true.status_code)
        assert message.headers.items() <= true.headers.items()
        assert (message.trailers or {}).items() <= (true.trailers or {}).items()
        assert (message.body, message.incomplete) == (true.body, None)
        if not message.headers_unknown:
            assert message.headers == true.headers


NAMES = ("core-plain", "core-deadline", "go-n", "go-t", "java-n", "java-d", "js-n", "js-t", "pycli-jssrv")


@pytest.mark.skipif(not RECORDINGS.exists(), reason="no recordings of gRPC here")
@pytest.mark.parametrize("name", NAMES)
def test_recorded_grpc(name: str) -> None:
    """Real gRPC, joined after each of some calls: every later call is there; requests of one route have one path."""
    writes = recorded(name)
    truth = {(m.stream_id, m.direction): m for m in joined(writes, 0)}
    assert len(truth) == len(writes) == 600
    for calls in (1, 2, 5, 50, 200):
        messages = joined(writes, 2 * calls)
        assert len(messages) == len(writes) - 2 * calls
        check(messages, truth)
        routes = defaultdict(set)
        for message in messages:
            assert (message.path is None) == (message.route_id is not None)
            if message.route_id is not None:
                routes[message.route_id].add(truth[message.stream_id, "request"].path)
        assert all(len(paths) == 1 for paths in routes.values())


@given(seeds, st.integers(2, 12), st.booleans())
def test_any_conversation(seed: int, count: int, whole: bool) -> None:
    """Wherever a conversation is joined, no value, body or pair is another's."""
    random = Random(seed)
    conversation = h.Talk(h.calls(random, count), random)
    said = {(r["stream_id"], r["direction"]): r for r in conversation.expected()}
    segments: list[Segment] = conversation.segments(0 if whole else 100)
    place = random.randrange(3, len(segments))
    for message in Table().run(conversation.packets(segments[place:])):
        if message.http_version != "2":
            continue
        record = said[message.stream_id, message.direction]
        assert message.path in (None, record["path"])
        assert message.status_code in (None, record["status_code"])
        assert record["body"].startswith(message.body)
        assert message.headers_unknown or message.headers == record["headers"]
        assert message.incomplete is not None or message.body == record["body"]


def test_a_chain_or_a_whole_segment() -> None:
    """What begins with a frame header by chance is not HTTP/2: the segment must end with a frame, or have three."""
    for sent, read in (
        (h.headers(5, h.REQUEST, end=True), True),
        (h.frame(h.WINDOW, 0, 0, b"\0\0\1\0"), True),
        (h.headers(5, h.REQUEST, end=True)[:-1], False),
        (h.frame(h.PING, 0, 0, bytes(8)) * 2 + h.data(1, b"x" * 100)[:50], True),
        (b"\0\0\0\0\0\0\0\0\0" * 3, False),
        (h.frame(h.PING, 0, 0, bytes(8)) + b"GET / HTTP/1.1\r\n\r\n", False),
    ):
        dialogue = Dialogue(handshake=False)
        dialogue.client(sent)
        dialogue.wait(300_000)
        dialogue.client(b"x" * 59 if sent.endswith(b"xx") else b"")
        dialogue.client(h.headers(7, h.REQUEST, end=True))
        dialogue.server(h.headers(7, h.RESPONSE, end=True))
        table = Table()
        messages = table.run(dialogue.packets)
        assert table.counted("flows_http2_read") == {"flows_http2_read": int(read)}
        assert [(m.direction, m.path) for m in messages if m.stream_id == 7] == (
            [("request", "/"), ("response", "/")] if read else []
        )
