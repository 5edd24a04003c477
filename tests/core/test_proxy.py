"""sniffer_core.protocols.proxy: the PROXY protocol's header before a client's first byte."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer_core.core import RawMessage
from tests import packets as p
from tests.conversations import Dialogue
from tests.laws import Table

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LINE = b"PROXY TCP4 203.0.113.7 198.51.100.9 51234 443\r\n"
ENDS = (("203.0.113.7", 51234), ("198.51.100.9", 443))
SIX = (("2001:db8::1", 1), ("2001:db8::2", 65535))


def binary(
    source: tuple[str, int], destination: tuple[str, int], *, more: bytes = b"", command: int = 0x21, family: int = 1
) -> bytes:
    """A header of version 2; `more` stands behind the addresses (TLVs)."""
    four = ip_address(source[0]).version == 4
    said = ip_address(source[0]).packed + ip_address(destination[0]).packed
    said += struct.pack("!HH", source[1], destination[1]) + more
    kind = (0x10 if four else 0x20) | family
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", command, kind, len(said)) + said


def said(messages: list[RawMessage]) -> list[Any]:
    """(path, reason, proxied) of each."""
    return [(m.path, m.reason, m.proxied) for m in messages]


def conversation(*first: bytes) -> list[RawMessage]:
    """What comes of a connection whose client's first segments are these."""
    dialogue = Dialogue()
    for piece in first:
        dialogue.client(piece)
    dialogue.server(OK)
    dialogue.client(GET)
    dialogue.server(OK)
    table = Table()
    messages = table.run(dialogue.packets)
    assert all(m.receiver == ("198.51.100.7", 80) and m.destination == ("192.0.2.1", 40000) for m in messages)
    return messages


@pytest.mark.parametrize(
    ("header", "ends"),
    [
        (LINE, ENDS),
        (b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n", SIX),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN ffff::1 anything 1 2\r\n", None),
        (b"PROXY TCP6 " + b" ".join([b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] * 2) + b" 65535 65535\r\n", ...),
        (binary(*ENDS), ENDS),
        (binary(*SIX), SIX),
        (binary(*ENDS, more=b"\x03\x00\x04abcd"), ENDS),
        (binary(*ENDS, more=bytes(60_000)), ENDS),
        (binary(*ENDS, command=0x20), None),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x00\x00\x00", None),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x31\x00\xd8" + bytes(216), None),
    ],
)
def test_what_a_header_says(header: bytes, ends: Any) -> None:
    """Both versions are read wherever they are cut; `proxied` holds what they name, the ends stay those of TCP."""
    if ends is ...:
        full = ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535)
        ends = (full, full)
    for pieces in ((header + GET,), (header, GET), (header[:3], header[3:20], header[20:] + GET[:5], GET[5:])):
        expected = [("/a", None, ends), ("/a", "OK", ends)] * 2
        assert said(conversation(*filter(None, pieces))) == expected


@pytest.mark.parametrize(
    "first",
    [
        b"PROXY TCP4 203.0.113.7 198.51.100.9 51234\r\n",
        b"PROXY TCP4 203.0.113.7 198.51.100.9 51234 443 1\r\n",
        b"PROXY TCP4 203.0.113.7 198.51.100.9 51234 443 \r\n",
        b"PROXY TCP4 203.0.113.7 198.51.100.999 51234 443\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 51234 443\r\n",
        b"PROXY TCP4 203.0.113.7 198.51.100.9 51234 65536\r\n",
        b"PROXY TCP4 203.0.113.7 198.51.100.9 51234 443\n",
        b"PROXY UDP4 203.0.113.7 198.51.100.9 51234 443\r\n",
        b"PROXY UNKNOWN " + b"x" * 100 + b"\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\x00\x0c" + bytes(12),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0b" + bytes(11),
        b"\r\n\r\n\0\r\nQUIX\n\x21\x11\x00\x0c" + bytes(12),
    ],
)
def test_what_is_no_header(first: bytes) -> None:
    """What only looks like a header is left to HTTP, as any other bytes that are no request."""
    dialogue = Dialogue()
    dialogue.client(first)
    dialogue.client(GET)
    dialogue.server(OK)
    table = Table()
    messages = table.run(dialogue.packets)
    assert {m.proxied for m in messages} == {None}
    assert table.counted("flows_proxied", "bytes_proxy") == {"flows_proxied": 0, "bytes_proxy": 0}


@pytest.mark.parametrize("first", [b"PROPFIND /a HTTP/1.1\r\n\r\n", b"P /a HTTP/1.1\r\n\r\n", b"\r\n\r\n" + GET])
def test_requests_that_begin_alike(first: bytes) -> None:
    """A request whose first bytes are those of a header is read as one, wherever it is cut."""
    for at in range(1, 6):
        assert [m.path for m in conversation(first[:at], first[at:])] == ["/a"] * 4


def test_it_counts_once_and_at_the_beginning() -> None:
    """A header in the middle of a connection is no header, nor is one that the server sends."""
    dialogue = Dialogue()
    dialogue.client(LINE + GET)
    dialogue.server(OK)
    dialogue.client(LINE + GET)
    dialogue.server(LINE + OK)
    table = Table()
    table.run(dialogue.packets)
    assert table.counted("flows_proxied", "bytes_proxy") == {"flows_proxied": 1, "bytes_proxy": len(LINE)}


def test_behind_it_any_protocol_is_recognised() -> None:
    """What the connection speaks is judged behind the header."""
    dialogue = Dialogue()
    dialogue.client(LINE + b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60))
    table = Table()
    assert table.run(dialogue.packets) == []
    assert table.counted("flows_tls", "flows_proxied") == {"flows_tls": 1, "flows_proxied": 1}


def test_a_capture_that_begins_with_it() -> None:
    """A header at the first byte seen says that the stream begins there."""
    dialogue = Dialogue(handshake=False)
    dialogue.client(LINE + GET)
    dialogue.server(OK)
    assert said(Table().run(dialogue.packets)) == [("/a", None, ENDS), ("/a", "OK", ENDS)]


def test_a_header_that_never_ends() -> None:
    """A connection that ends within its header has no message, and every byte is counted."""
    for end in (lambda d: None, Dialogue.close):
        dialogue = Dialogue()
        dialogue.client(LINE[:20])
        end(dialogue)
        assert Table().run(dialogue.packets) == []


def test_bytes_lost_within_it() -> None:
    """Bytes lost from behind the addresses cost nothing but themselves."""
    header = binary(*ENDS, more=bytes(3000))
    dialogue = Dialogue()
    dialogue.client(header[:1000])
    dialogue.client(header[1000:2000], lost=True)
    dialogue.client(header[2000:] + GET)
    dialogue.server(OK)
    assert said(Table().run(dialogue.packets)) == [("/a", None, ENDS), ("/a", "OK", ENDS)]


@given(st.sampled_from((LINE, binary(*ENDS), binary(*SIX, more=b"x" * 40))), st.data())
def test_any_cut_gives_the_same(header: bytes, data: st.DataObject) -> None:
    """However the client's first bytes are cut, and in whichever order they come, the messages are the same."""
    whole = header + GET
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1), max_size=6)))
    dialogue = Dialogue()
    first = dialogue.take()
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        dialogue.client(whole[start:end])
    middle = data.draw(st.permutations(dialogue.take()))
    middle = [p.Packet(first[-1].stamp + 1000 + at, packet.data) for at, packet in enumerate(middle)]
    dialogue.server(OK)
    messages = Table().run(first + middle + dialogue.take())
    ends = ENDS if b"2001" not in header and header != binary(*SIX, more=b"x" * 40) else SIX
    assert said(messages) == [("/a", None, ends), ("/a", "OK", ends)]
