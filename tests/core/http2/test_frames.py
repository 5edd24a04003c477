"""protocols/http2/frames: what a frame is, wherever it is cut; what is none."""

from __future__ import annotations

import struct

import pytest

from tests import http2 as h
from tests.conversations import CLIENT, Dialogue
from tests.core.http2.test_session import exchange, seen, talk
from tests.laws import Table

BLOCK = h.literal(h.REQUEST)


def body_of(*frames: bytes) -> tuple[bytes, str | None]:
    """The request's body after its head and these frames on stream 1."""
    (message,) = Table().run(talk((CLIENT, h.headers(1, h.REQUEST) + b"".join(frames))).packets)
    return message.body, message.incomplete


@pytest.mark.parametrize("pad", [0, 1, 255])
def test_padding(pad: int) -> None:
    """Padding is neither body nor field block."""
    padded = bytes([pad]) + b"body" + bytes(pad)
    assert body_of(h.frame(h.DATA, h.PADDED | h.END_STREAM, 1, padded)) == (b"body", None)
    flags = h.PADDED | h.WITH_PRIORITY | h.END_HEADERS | h.END_STREAM
    block = bytes([pad]) + struct.pack("!IB", 0, 15) + BLOCK + bytes(pad)
    assert seen(Table().run(talk((CLIENT, h.frame(h.HEADERS, flags, 1, block))).packets)) == [
        (1, "request", "/", None, None)
    ]


@pytest.mark.parametrize("payload", [b"\1", b"\5body", b""])
def test_padding_that_is_too_long(payload: bytes) -> None:
    """Padding of the frame's size or more breaks the framing: what is open is malformed (section 6.1)."""
    assert body_of(h.data(1, b"x"), h.frame(h.DATA, h.PADDED, 1, payload)) == (b"x", "malformed")


def test_empty_frames() -> None:
    """Frames without content are nothing, and END_STREAM on one of them counts."""
    assert body_of(*[h.data(1, b"")] * 1000, h.data(1, b"x"), h.data(1, b"", end=True)) == (b"x", None)


@pytest.mark.parametrize(
    "between",
    [
        h.frame(h.PING, 0, 0, bytes(8)) * 50,
        h.settings() * 50 + h.settings((1, 100), (0xFFFF, 1)),
        h.frame(h.WINDOW, 0, 1, b"\0\0\1\0") + h.frame(h.WINDOW, 0, 0, b"\0\0\1\0"),
        h.frame(h.PRIORITY, 0, 9, bytes(5)),
        h.frame(h.GOAWAY, 0, 0, bytes(8) + b"debug"),
        h.frame(0xA, 0, 0, b"altsvc") + h.frame(0x10, 0, 0, b"\0\0\0\1u=1") + h.frame(0xFF, 0xFF, 1, b"grease"),
    ],
)
def test_frames_that_say_nothing(between: bytes) -> None:
    """Other frames, unknown ones among them, change nothing of a stream (section 5.5)."""
    assert body_of(h.data(1, b"a"), between, h.data(1, b"b", end=True)) == (b"ab", None)


@pytest.mark.parametrize(
    "bad",
    [
        h.frame(h.SETTINGS, 0, 0, b"12345"),
        h.frame(h.SETTINGS, 0, 1, b""),
        h.frame(h.PING, 0, 0, b"short"),
        h.frame(h.PING, 0, 1, bytes(8)),
        h.frame(h.RST, 0, 1, b"123"),
        h.frame(h.RST, 0, 0, bytes(4)),
        h.frame(h.GOAWAY, 0, 0, b"short"),
        h.frame(h.WINDOW, 0, 1, b"123"),
        h.frame(h.DATA, 0, 0, b"x"),
        h.frame(h.HEADERS, h.END_HEADERS, 0, BLOCK),
        h.frame(h.CONTINUATION, h.END_HEADERS, 1, BLOCK),
        h.frame(h.PUSH, h.END_HEADERS, 1, bytes(4) + BLOCK),
        h.frame(h.HEADERS, 0, 3, BLOCK) + h.data(1, b"y"),
        h.frame(h.HEADERS, 0, 3, BLOCK) + h.frame(h.CONTINUATION, h.END_HEADERS, 5, b""),
    ],
)
def test_errors_of_the_connection(bad: bytes) -> None:
    """A frame that RFC 9113 takes for an error of the connection cuts what is open in its direction."""
    assert body_of(h.data(1, b"x"), bad, h.data(1, b"z", end=True)) == (b"x", "malformed")


def test_large_frames() -> None:
    """Frames beyond the first limit of 16 KiB are read: the other side may have raised it."""
    assert body_of(h.data(1, b"x" * 40_000, end=True)) == (b"x" * 40_000, None)


def test_every_cut() -> None:
    """Two segments, cut at every byte, give the same as one."""
    asked, answered = exchange(1)
    push = h.frame(h.PUSH, h.END_HEADERS | h.PADDED, 1, b"\2\0\0\0\2" + BLOCK + b"\0\0")
    sent = push + h.reset(2, 8) + h.settings((1, 0)) + answered[1]
    for cut in range(1, len(sent)):
        dialogue = talk(asked)
        dialogue.server(sent[:cut])
        dialogue.server(sent[cut:])
        assert seen(Table().run(dialogue.packets)) == [
            (1, "request", "/1", None, None), (2, "request", "/", None, None), (1, "response", "/1", 200, None),
        ]  # fmt: skip


def test_work_of_a_flood() -> None:
    """A flood of frames that say nothing keeps no memory."""
    table = Table()
    dialogue = Dialogue()
    dialogue.client(h.PREFACE + h.settings())
    for _ in range(50):
        dialogue.client(h.frame(h.PING, 0, 0, bytes(8)) * 1000)
    table.feed(dialogue.take())
    assert table.gauge("memory_bytes") < 10_000
    table.flush()
