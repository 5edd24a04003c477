"""Traffic made to exhaust the sniffer, one shape for each cap, with one honest connection in the midst of it."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address
from typing import Final, NamedTuple

import brotli
import zstandard

from tests.bench.captures import SERVER, Link
from tests.packets import ACK, START, SYN, Packet

HONEST: Final = 59_000_000
"""The number of the honest connection: no attack's."""
EVERY: Final = 200
"""Packets of the attack between two honest exchanges."""

POST: Final = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
CHUNKED: Final = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
SEGMENT: Final = 1400


def syn_flood(size: int) -> Iterator[bytes]:
    """SYNs, each from another client."""
    for number in range(size):
        yield Link(number).up(flags=SYN)


def half_open(size: int) -> Iterator[bytes]:
    """Handshakes, and never a request."""
    for number in range(size):
        yield from Link(number).open()


def holes(size: int) -> Iterator[bytes]:
    """Connections of which the first bytes never come: all that follows must wait for them."""
    for number in range(0, size, 50):
        link = Link(number // 50)
        yield from link.open()
        for place in range(50):
            yield link.down_at(link.received + 1_000 + place * (SEGMENT + 1), b"x" * SEGMENT)


def bogus_sequence(size: int) -> Iterator[bytes]:
    """Connections in which segments stand far from all that was seen."""
    for number in range(0, size, 20):
        link = Link(number // 20)
        yield from link.open()
        yield link.up(b"GET /x HTTP/1.1\r\n")
        for place in range(20):
            yield link.down_at(link.received + 100_000_000 * (1 + place), b"x" * SEGMENT)


def endless_heads(size: int) -> Iterator[bytes]:
    """Heads that never end, on ten connections at a time."""
    line = (b"X-Endless: " + b"y" * 100 + b"\r\n") * (SEGMENT // 113)
    links = _opened(10, b"GET /endless HTTP/1.1\r\n")
    yield from (packet for link, first in links for packet in first)
    for number in range(size):
        yield links[number % 10][0].up(line)


def refused_heads(size: int) -> Iterator[bytes]:
    """Heads as long as they may be, of lines that are no fields, one of which may frame a body to another reader."""
    line = (b"X-Refused: " + b"y" * 100 + b"\r\n") * (SEGMENT // 113)
    for number in range(0, size, 45):
        link = Link(number // 45)
        yield from link.open()
        yield link.up(b"GET /refused HTTP/1.1\r\nContent-Length\0: refused\r\n")
        for place in range(43):
            yield link.up(b":\n" * (len(line) // 2) if place % 2 else line)
        yield link.up(b"\r\n")


def chunk_extensions(size: int) -> Iterator[bytes]:
    """Chunk sizes followed by extensions without an end, on ten connections at a time, begun again when given up."""
    yield from _repeated(size, CHUNKED + b"5;", b"e" * SEGMENT, 20)


def trailers(size: int) -> Iterator[bytes]:
    """Trailers without an end."""
    yield from _repeated(size, CHUNKED + b"0\r\n", b"T: " + b"t" * (SEGMENT - 5) + b"\r\n", 60)


def _repeated(size: int, head: bytes, segment: bytes, each: int) -> Iterator[bytes]:
    """Connections of `each` such segments behind a head."""
    for number in range(0, size, each):
        link = Link(number // each)
        yield from link.open()
        yield link.up(head)
        for _ in range(each):
            yield link.up(segment)


def _opened(count: int, head: bytes) -> list[tuple[Link, list[bytes]]]:
    links = [Link(number) for number in range(count)]
    return [(link, [*link.open(), link.up(head)]) for link in links]


def _nested(data: bytes) -> bytes:
    return gzip.compress(gzip.compress(gzip.compress(data, mtime=0), mtime=0), mtime=0)


ZEROS: Final = bytes(20 << 20)
BOMBS: Final[dict[bytes, Callable[[bytes], bytes]]] = {
    b"gzip": lambda data: gzip.compress(data, mtime=0),
    b"deflate": zlib.compress,
    b"br": lambda data: brotli.compress(data, quality=4, lgwin=22),
    b"zstd": zstandard.compress,
    b"gzip, gzip, gzip": _nested,
}


def bombs(size: int) -> Iterator[bytes]:
    """Small bodies that would decode to 20 MiB, in each coding and nested."""
    yield from _answered(size, 25, [(coding, compress(ZEROS)) for coding, compress in BOMBS.items()])


COSTLY: Final = (
    (b"br", bytes.fromhex("cb ff ff 7f 00 24 00 e2 b1 40 72 ef ff 07")),  # one copy of 16 MiB fills a window of 4 MiB
    (b"gzip", gzip.compress(b"", mtime=0) * 3000),
    (b"zstd", bytes.fromhex("28b52ffd 00 68 010000 28b52ffd 00 00 010000") * 3000),  # empty frames, of other windows
    (b"zstd", bytes.fromhex("502a4d18 00000000") * 7000),  # frames to skip
    (b"deflate", b"\0\0\0\xff\xff" * 12_000),  # empty blocks
    (b"br", b"\x0c" + b"\x06" * 60_000),
)


def costly_codings(size: int) -> Iterator[bytes]:
    """Bodies that keep a decoder busy, or make it take a whole window, for next to nothing that comes out."""
    yield from _answered(size, 40, COSTLY)


def swelling_text(size: int) -> Iterator[bytes]:
    """Bodies that are many times their size in JSON (control characters), or as Python's strings (an emoji)."""
    yield from _answered(
        size, 50, [(b"identity", b"\x01" * 65_000), (b"identity", b"x" * 65_000 + b"\xf0\x9f\x98\x80")]
    )


def _answered(size: int, each: int, bodies: Sequence[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Exchanges whose responses have these coded bodies in turn, `each` packets or so for one."""
    for number in range(size // each):
        coding, body = bodies[number % len(bodies)]
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: %s\r\nContent-Length: %d\r\n\r\n" % (coding, len(body))
        link = Link(number)
        yield from link.open()
        yield link.up(b"GET /bomb HTTP/1.1\r\n\r\n")
        data = head + body
        for at in range(0, len(data), SEGMENT):
            yield link.down(data[at : at + SEGMENT])


def pipelined(size: int) -> Iterator[bytes]:
    """Requests, one behind the other, and never an answer."""
    link = Link(1)
    yield from link.open()
    for number in range(size):
        yield link.up(b"GET /pipelined/%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)


def header_flood(size: int) -> Iterator[bytes]:
    """Heads of as many header lines as they may have bytes for."""
    lines = b"".join(b"h%d:\r\n" % (number % 10) for number in range(230))
    link = Link(2)
    yield from link.open()
    for number in range(size):
        yield link.up(
            (b"GET /flood HTTP/1.1\r\n" if number % 40 == 0 else b"") + lines + (b"\r\n" * (number % 40 == 39))
        )


def dribble(size: int) -> Iterator[bytes]:
    """Up to 10,000 connections, each with an open request that goes on by a byte at a time."""
    links = [Link(number) for number in range(min(10_000, size // 10))]
    for link in links:
        yield from link.open()
        yield link.up(b"GET /dribble HTTP/1.1\r\nX: ")
    for number in range(size - 4 * len(links)):
        yield links[number % len(links)].up(b"z")


def open_bodies(size: int) -> Iterator[bytes]:
    """Uploads that never end, as many as there are packets for: kept up to the cap of a body."""
    for number in range(0, size, 50):
        link = Link(number // 50)
        yield from link.open()
        yield link.up(POST)
        for _ in range(50):
            yield link.up(b"u" * SEGMENT)


class Attack(NamedTuple):
    """A shape, how many packets it has in the suite and at full size, and what must count it."""

    make: Callable[[int], Iterator[bytes]]
    short: int
    full: int
    counted: tuple[str, ...]
    max_flows: int = 10_000


ATTACKS: Final = {
    "SYN flood": Attack(syn_flood, 6_000, 1_000_000, ("flows_evicted_silent",), 2_000),
    "half-open connections": Attack(half_open, 6_000, 1_000_000, ("flows_evicted_silent",), 10_000_000),
    "holes never filled": Attack(holes, 6_000, 300_000, ("holds_evicted",)),
    "bogus sequence numbers": Attack(bogus_sequence, 6_000, 300_000, ("bytes_abandoned_out_of_window",)),
    "endless heads": Attack(endless_heads, 6_000, 300_000, ("incomplete_limit",)),
    "refused heads": Attack(refused_heads, 6_000, 300_000, ("heads_refused", "anomaly_bad_header_line")),
    "endless chunk extensions": Attack(chunk_extensions, 6_000, 300_000, ("incomplete_malformed",)),
    "endless trailers": Attack(trailers, 6_000, 300_000, ("incomplete_limit",)),
    "decompression bombs": Attack(bombs, 1_000, 20_000, ("messages_response",)),
    "costly codings": Attack(costly_codings, 2_000, 40_000, ("messages_response",)),
    "text that swells": Attack(swelling_text, 2_000, 40_000, ("messages_response",)),
    "requests without answers": Attack(pipelined, 6_000, 1_000_000, ("requests_unanswered",)),
    "header floods": Attack(header_flood, 1_000, 40_000, ("messages_request",)),
    "dribble on many connections": Attack(dribble, 20_000, 1_000_000, ("messages_request",)),
    "uploads never finished": Attack(open_bodies, 12_000, 500_000, ("bodies_evicted",)),
}


def mixed(size: Callable[[Attack], int]) -> Iterator[bytes]:
    """All attacks at once, packet by packet in turn, each on a server of its own."""
    running = {number: attack.make(size(attack)) for number, attack in enumerate(ATTACKS.values())}
    server = ip_address(SERVER).packed
    while running:
        for number, attack in list(running.items()):
            packet = next(attack, None)
            if packet is None:
                del running[number]
            else:
                yield packet.replace(server, bytes([192, 0, 2, 100 + number]), 1)


def packets(attack: Iterator[bytes]) -> Iterator[Packet]:
    """The attack with an honest exchange after each 200 packets, 10 µs from packet to packet."""
    stamp = START
    honest = Link(HONEST)
    for packet in honest.open():
        yield Packet(stamp, packet)
    number = 0
    for place, packet in enumerate(attack):
        stamp += 10
        yield Packet(stamp, packet)
        if place % EVERY == 0:
            yield Packet(stamp, honest.up(b"GET /honest/%d HTTP/1.1\r\nHost: x\r\n\r\n" % number))
            yield Packet(stamp, honest.down(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n%05d" % (number % 100_000)))
            yield Packet(stamp, honest.up(flags=ACK))
            number += 1
