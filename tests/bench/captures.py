"""Captures to measure with, the same bytes each time: `python -m tests.bench.captures small FILE`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Final

from tests.packets import ACK, PSH, SYN, ip, link, tcp

START: Final = 1_700_000_000_000_000
"""Stamp of the first packet, µs."""
BLOCK: Final = 1 << 20
ETHERNET: Final = 1
SERVER: Final = "192.0.2.1"

_header = Struct("<IHHiIII").pack
_packet = Struct("<IIII").pack

REQUEST: Final = (
    "GET /api/items/{number}?page={connection} HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: bench/1.0\r\n"
    "Accept: application/json\r\nAuthorization: Bearer 0123456789abcdef\r\nAccept-Encoding: identity\r\n\r\n"
)
RESPONSE: Final = (
    "HTTP/1.1 200 OK\r\nServer: bench\r\nDate: Tue, 14 Nov 2023 22:13:20 GMT\r\nContent-Type: application/json\r\n"
    'Content-Length: 28\r\nConnection: keep-alive\r\n\r\n{{"item":{number:08d},"left":123}}'
)


def small(*, messages: int = 200_000, connections: int = 200) -> Iterator[bytes]:
    """Packets of keep-alive connections that take turns: each message is one segment, one exchange follows another."""
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


CAPTURES: Final = {"small": small}


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
    name, target = sys.argv[1:]
    write(Path(target), CAPTURES[name]())
