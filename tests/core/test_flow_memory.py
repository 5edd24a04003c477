"""What happens where the system has no memory: something is lost, and the observer goes on."""

import gc
import tracemalloc
from collections.abc import Iterator

import pytest

from sniffer_core.testing import starve
from tests import packets as p
from tests.conversations import START, Dialogue
from tests.laws import Table

FOLDED = b"GET /folded HTTP/1.1\r\nA: 1\r\n 2\r\n\r\n"
REFUSED = b"GET /refused HTTP/1.1\r\n: 1\r\n\r\n"
CHUNKS = b"HTTP/1.1 200 Chunks\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"


def dialogues() -> Iterator[Dialogue]:
    """Traffic that makes the core allocate wherever it can."""
    dialogue = Dialogue()
    dialogue.client(FOLDED + REFUSED + b"POST /body HTTP/1.1\r\nTraceparent: 1\r\nContent-Length: 3000\r\n\r\n")
    dialogue.client(b"x" * 1000)
    dialogue.client(b"x" * 2000)
    dialogue.server(CHUNKS + b"X-Sum: 1\r\n\r\n" + CHUNKS + b"X-Sum: 1\r\n 2\r\n\r\n" + CHUNKS)
    dialogue.server(b"X-Su")
    dialogue.server(b"m: 1\r\n")
    dialogue.server(b"\r\n")
    for at in range(0, len(FOLDED), 3):
        dialogue.client(FOLDED[at : at + 3])
    dialogue.client(b"GET /long HTTP/1.1\r\nA: " + b"a" * 600)
    dialogue.client(b"a" * 600 + b"\r\n\r\n")
    dialogue.server(b"HTTP/1.1 204 A\r\n\r\nHTTP/1.1 103 Early\r\n\r\nHTTP/1.1 204 B\r\n\r\n")
    dialogue.client(b"GET /cut HTTP/1.1\r\nA: 1\r\n")
    dialogue.close()
    yield dialogue

    dialogue = Dialogue(client=("192.0.2.1", 40001))
    for number in range(12):  # out of order
        dialogue.client(b"GET /%d HTTP/1.1\r\n\r\n" % number, lost=number == 5)
        dialogue.server(b"HTTP/1.1 204 %d\r\n\r\n" % number, lost=number in (2, 8))
    late = dialogue.packets[3::3]
    dialogue.packets = [packet for packet in dialogue.packets if packet not in late] + late
    dialogue.wait(300_000)
    for method in (b"GET", b"PO", b"ST"):  # candidates behind a loss
        dialogue.client(b"x" * 100, lost=True)
        dialogue.client(method + b" /cand")
        dialogue.client(b"idate HTTP/1.1\r\nA: 1\r\n")
        dialogue.client(b" 2\r\n\r\n")
        dialogue.server()
        dialogue.wait(300_000)
    dialogue.client(FOLDED)
    dialogue.server(b"HTTP/1.1 200 Cut\r\nA: 1")
    dialogue.client(flags=p.SYN, offset=1_000_000)  # the port is used again
    dialogue.client(b"GET /again HTTP/1.1\r\n\r\n", offset=1_000_001)
    dialogue.server(flags=p.SYN | p.ACK, offset=2_000_000, ack=1_000_001)
    yield dialogue


def traffic() -> list[p.Packet]:
    """All of it, the first segment of each dialogue in fragments too."""
    packets = []
    for number, dialogue in enumerate(dialogues()):
        segment = p.tcp(50000 + number, 80, 1000, 0, p.ACK, b"GET /fragments HTTP/1.1\r\n\r\n" + b"x" * 3000)
        pieces = p.fragments_ipv4("192.0.2.9", "198.51.100.7", segment, 800, identification=number)
        packets += [p.Packet(START, p.ethernet(piece)) for piece in pieces[::-1]]
        packets += dialogue.packets
    return packets


def test_no_memory_anywhere() -> None:
    """Whichever allocation gets no memory: nothing leaks, every law holds, and only a part of the messages is lost."""
    packets = traffic()
    most = len(Table().run(packets))
    lost = set()
    for number in range(1, 100_000):
        table = Table()
        starve(table.core, number)
        lost.add(most - len(table.run(packets)))
        if starve(table.core, 0):
            break
    assert number > 100
    assert most not in lost


@pytest.mark.parametrize("client", ["198.51.100.17", "2001:db8:1234:5678:9abc:def0:1234:5678"])
def test_open_connections_weigh_their_python_objects(client: str) -> None:
    """What the table keeps of Python's memory for each connection is in its count, beside what it allocates itself."""
    number = 500
    server = "192.0.2.1" if "." in client else "2001:db8::1"
    dialogues = [Dialogue(client=(client, 40000 + at), server=(server, 80)) for at in range(number)]
    for dialogue in dialogues:
        dialogue.client(b"GET / HTTP/1.1\r\n\r\n")
    packets = [packet for dialogue in dialogues for packet in dialogue.packets]
    table = Table()
    tracemalloc.start()
    try:
        table.feed(packets)
        gc.collect()
        objects = tracemalloc.get_traced_memory()[0] / number
    finally:
        tracemalloc.stop()
    assert 320 < objects < 640 * 1.1  # exchange.pxd: CONN_OBJECTS
    assert table.gauge("memory_bytes") / number > 640 + 1000
    table.flush()
