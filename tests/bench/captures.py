"""Captures for measurements, the same bytes each time: `python -m tests.bench.captures small FILE [MESSAGES]`."""

from __future__ import annotations

import gzip
import sys
from collections import deque
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from itertools import islice
from pathlib import Path
from random import Random
from struct import Struct, pack
from typing import Final

import brotli
import zstandard

from tests.conversations import Segment
from tests.endpoints import Capture, Choices, Talk, frame
from tests.packets import ACK, ETHERNET, FIN, PSH, START, SYN, framed, ip, link, tcp

BLOCK: Final = 1 << 20
SERVER: Final = "192.0.2.1"

_header = Struct("<IHHiIII").pack
_packet = Struct("<IIII").pack
MSS: Final = 1448

REQUEST: Final = (
    "GET /api/items/{number}?page={connection} HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: bench/1.0\r\n"
    "Accept: application/json\r\nAuthorization: Bearer 0123456789abcdef\r\nAccept-Encoding: identity\r\n\r\n"
)
RESPONSE: Final = (
    "HTTP/1.1 200 OK\r\nServer: bench\r\nDate: Tue, 14 Nov 2023 22:13:20 GMT\r\nContent-Type: application/json\r\n"
    'Content-Length: 28\r\nConnection: keep-alive\r\n\r\n{{"item":{number:08d},"left":123}}'
)


def small(*, messages: int = 200_000, connections: int = 200) -> Iterator[bytes]:
    """Keep-alive connections that take turns. Each message is one segment."""
    ends = [(f"198.51.100.{1 + number % 250}", 20_000 + number) for number in range(connections)]
    seq = [[1000, 5000] for _ in ends]
    for at, (address, port) in enumerate(ends):
        yield link(ETHERNET, ip(address, SERVER, tcp(port, 80, seq[at][0] - 1, 0, SYN)))
        yield link(ETHERNET, ip(SERVER, address, tcp(80, port, seq[at][1] - 1, seq[at][0], SYN | ACK)))
    for number in range(messages // 2 // connections):
        for at, (address, port) in enumerate(ends):
            request = REQUEST.format(number=number, connection=at).encode()
            response = RESPONSE.format(number=number).encode()
            up, down = seq[at]
            yield link(ETHERNET, ip(address, SERVER, tcp(port, 80, up, down, ACK | PSH, request)))
            seq[at][0] = up = up + len(request)
            yield link(ETHERNET, ip(SERVER, address, tcp(80, port, down, up, ACK | PSH, response)))
            seq[at][1] = down + len(response)


class Link:
    """The packets of one connection to the server, made fast by packets.framed()."""

    def __init__(self, number: int) -> None:
        client, port = pack("!I", 0x0A000001 + number), 1024 + number % 60_000
        server = ip_address(SERVER).packed
        self.ends = client + server + pack("!HH", port, 80), server + client + pack("!HH", 80, port)
        self.sent = 1000
        self.received = 5000

    def up(self, payload: bytes = b"", flags: int = ACK | PSH) -> bytes:
        """The client's next segment."""
        packet = framed(self.ends[0], self.sent, self.received, flags, payload)
        self.sent += len(payload) + (flags & (SYN | FIN) != 0)
        return packet

    def down(self, payload: bytes = b"", flags: int = ACK | PSH) -> bytes:
        """The server's next segment."""
        packet = framed(self.ends[1], self.received, self.sent, flags, payload)
        self.received += len(payload) + (flags & (SYN | FIN) != 0)
        return packet

    def down_at(self, seq: int, payload: bytes) -> bytes:
        """A segment of the server's with this sequence number."""
        return framed(self.ends[1], seq, self.sent, ACK, payload)

    def segment(self, segment: Segment) -> bytes:
        """The packet of a segment of a generated conversation."""
        return frame(segment, 1000, 1000, self.ends)

    def open(self) -> Iterator[bytes]:
        """The handshake."""
        yield self.up(flags=SYN)
        yield self.down(flags=SYN | ACK)
        yield self.up(flags=ACK)

    def close(self) -> Iterator[bytes]:
        """Both ends close."""
        yield self.up(flags=FIN | ACK)
        yield self.down(flags=FIN | ACK)
        yield self.up(flags=ACK)


def request(number: int, connection: int = 0) -> bytes:
    """A small GET."""
    return REQUEST.format(number=number, connection=connection).encode()


def response(number: int) -> bytes:
    """A small answer."""
    return RESPONSE.format(number=number).encode()


def split(payload: bytes, size: int = MSS) -> list[bytes]:
    """The payload in segments."""
    return [payload[at : at + size] for at in range(0, len(payload), size)]


def answers() -> list[bytes]:
    """64 responses with JSON bodies of 2 to 30 KB: 44 in gzip, 6 in br, 6 in zstd, 8 plain."""
    random = Random(5)
    codings = ["gzip"] * 44 + ["br"] * 6 + ["zstd"] * 6 + [""] * 8
    found = []
    for number, coding in enumerate(codings):
        size = 2_000 + number * 28_000 // 63 * 37 % 28_001
        items: list[str] = []
        while sum(map(len, items)) < size:
            name = "".join(random.choices("etaoinshrdlu ", k=24))
            items.append(f'{{"id":{random.randrange(10**9)},"name":"{name}","price":{random.random():.4f},"ok":true}},')
        body = ("[" + "".join(items))[: size - 1].encode() + b"]"
        if coding == "gzip":
            body = gzip.compress(body, 6, mtime=0)
        elif coding == "br":
            body = brotli.compress(body, quality=5)
        elif coding == "zstd":
            body = zstandard.compress(body)
        head = f"HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        found.append((head + (f"Content-Encoding: {coding}\r\n" if coding else "") + "\r\n").encode() + body)
    random.shuffle(found)
    return found


def mixed(*, messages: int = 60_000, connections: int = 100) -> Iterator[bytes]:
    """Keep-alive connections that take turns; bodies of 2 to 30 KB, most of them compressed."""
    bodies = [split(answer) for answer in answers()]
    links = [Link(number) for number in range(connections)]
    for one in links:
        yield from one.open()
    for number in range(messages // 2):
        one = links[number % connections]
        yield one.up(request(number))
        for segment in bodies[number % 64]:
            yield one.down(segment)
        yield one.up(flags=ACK)


def short(*, messages: int = 60_000) -> Iterator[bytes]:
    """A connection for each exchange; 16 are open at a time."""
    for first in range(0, messages // 2, 16):
        links = [Link(number) for number in range(first, min(first + 16, messages // 2))]
        for one in links:
            yield from one.open()
        for number, one in enumerate(links, first):
            yield one.up(request(number))
        for number, one in enumerate(links, first):
            yield one.down(response(number))
            yield from one.close()


def large(*, messages: int = 40) -> Iterator[bytes]:
    """Downloads of 10 MB, two connections at a time."""
    size = 10_000_000
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n".encode()
    segments = split(head + Random(7).randbytes(size))
    for first in range(0, messages // 2, 2):
        links = [Link(number) for number in range(first, min(first + 2, messages // 2))]
        for one in links:
            yield from one.open()
            yield one.up(request(first))
        for number, segment in enumerate(segments):
            for one in links:
                yield one.down(segment)
                if number & 1:
                    yield one.up(flags=ACK)
        for one in links:
            yield from one.close()


def talks(messages: int) -> Iterator[tuple[int, Talk, list[Segment]]]:
    """Generated conversations of at least `messages` messages, numbered, each with the segments that were captured.

    Their endpoints offer Upgrade, some with every request, use Expect and CONNECT, and refuse or accept. 1 in 100
    segments of any kind is lost; in 3 of 10 connections some segments come late and some twice.
    """
    number = count = 0
    while count < messages:
        choices = Choices(Random(f"lossy-{number}"))
        number += 1
        talk = Talk(choices)
        if talk.slid:
            continue  # here a lost request leaves no trace: not even the ACKs show which pair it belongs to
        count += len(talk.asks) + len(talk.answers)
        yield number, talk, Capture(talk, choices, loss="lossy", percent=1).segments


def lossy(*, messages: int = 60_000, connections: int = 100) -> Iterator[bytes]:
    """The conversations of talks(), `connections` at a time in turn. tests/bench/pairs.py judges their pairs."""
    following = (map(Link(number).segment, segments) for number, _, segments in talks(messages))
    going = deque(islice(following, connections))
    while going:
        one = going.popleft()
        if (packet := next(one, None)) is not None:
            yield packet
            going.append(one)
        else:
            going.extend(islice(following, 1))


def spread(connections: int, *, messages: int) -> Iterator[bytes]:
    """Connections that are all opened first and stay open. They take turns with small exchanges."""
    links = [Link(number) for number in range(connections)]
    for one in links:
        yield from one.open()
    for number in range(messages // 2):
        one = links[number * 7919 % connections]
        yield one.up(request(number))
        yield one.down(response(number))


def few(*, messages: int = 400_000) -> Iterator[bytes]:
    """10 connections."""
    return spread(10, messages=messages)


def many(*, messages: int = 400_000) -> Iterator[bytes]:
    """100,000 connections."""
    return spread(100_000, messages=messages)


def onebyte(*, messages: int = 4_000) -> Iterator[bytes]:
    """Each byte in a segment of its own."""
    one = Link(0)
    yield from one.open()
    for number in range(messages // 2):
        for segment in split(request(number), 1):
            yield one.up(segment)
        for segment in split(response(number), 1):
            yield one.down(segment)


CAPTURES: Final[dict[str, Callable[..., Iterator[bytes]]]] = {
    "small": small,
    "mixed": mixed,
    "short": short,
    "large": large,
    "lossy": lossy,
    "onebyte": onebyte,
    "few": few,
    "many": many,
}


def write(path: Path, packets: Iterator[bytes], *, step_us: int = 5) -> None:
    """A pcap file in which the packets are `step_us` apart."""
    stamp = START
    block = bytearray(_header(0xA1B2C3D4, 2, 4, 0, 0, 262_144, ETHERNET))
    with path.open("wb") as file:
        for packet in packets:
            block += _packet(*divmod(stamp, 1_000_000), len(packet), len(packet)) + packet
            stamp += step_us
            if len(block) >= BLOCK:
                file.write(block)
                block.clear()
        file.write(block)


if __name__ == "__main__":
    name, target, *count = sys.argv[1:]
    write(Path(target), CAPTURES[name](**({"messages": int(count[0])} if count else {})), step_us=50)
