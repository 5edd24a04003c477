"""Small captures of plain exchanges, as packets and as files, for the tests above the core."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from sniffer_core.core import RawMessage
from tests import conversations
from tests.conversations import Dialogue
from tests.laws import Table
from tests.packets import ACK, ETHERNET, PSH, START, Packet, pcap

CLIENT, SERVER = "192.0.2.2", "192.0.2.1"


def get(path: str = "/", **fields: str) -> bytes:
    """A request without body; `user_agent` is written `user-agent`."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"GET {path} HTTP/1.1\r\nhost: example.test\r\n{lines}\r\n".encode("latin-1")


def ok(body: bytes = b"hello", **fields: str) -> bytes:
    """A response of known length."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 200 OK\r\n{lines}content-length: {len(body)}\r\n\r\n".encode("latin-1") + body


def connection(
    exchanges: Sequence[tuple[bytes, bytes]],
    *,
    client_port: int = 40000,
    server_port: int = 8080,
    linktype: int = ETHERNET,
    start: int = START,
) -> list[Packet]:
    """A whole connection: handshake, each request and its response in one segment each, FIN from both sides."""
    dialogue = Dialogue(
        client=(CLIENT, client_port), server=(SERVER, server_port), isn=(1000, 9000), start=start, linktype=linktype
    )
    for request, response in exchanges:
        dialogue.client(request, flags=ACK | PSH)
        if response:
            dialogue.server(response, flags=ACK | PSH)
    dialogue.close(first=conversations.CLIENT)
    return dialogue.packets


def exchanges(count: int) -> list[tuple[bytes, bytes]]:
    """`count` exchanges that can be told apart."""
    return [(get(f"/{number}"), ok(f"answer {number}".encode())) for number in range(count)]


def write(path: Path, packets: Iterable[Packet], linktype: int = ETHERNET) -> str:
    """A pcap file; returns its path as text."""
    path.write_bytes(pcap(packets, linktype))
    return str(path)


def read(path: Path, ports: Iterable[int]) -> tuple[Table, list[RawMessage]]:
    """All messages of a capture file, through libpcap, unredacted and undecoded; ValueError where it cannot be read."""
    import pcapy

    try:
        capture = pcapy.open_offline(str(path))
        table = Table(linktype=capture.datalink(), ports=ports, max_body=1 << 26, memory_limit=1 << 30)
        messages: list[RawMessage] = []
        while True:
            data, index = capture.next_batch(4096)
            if not index:
                return table, messages + table.flush()
            messages += table.feed_raw(data, index)
    except pcapy.PcapError as error:
        raise ValueError(str(error)) from error
