"""FlowTable: input made to cost much is read to the exact end, in work that grows with its size."""

from random import Random

from tests import packets as p
from tests.conversations import START, Dialogue
from tests.laws import Table

POST = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n"


def test_single_bytes() -> None:
    """A body in 20,000 segments of one byte is whole, and costs memory by its bytes."""
    dialogue = Dialogue()
    dialogue.client(POST % 20_000)
    for _ in range(20_000):
        dialogue.client(b"x")
    (message,) = Table().run(dialogue.packets)
    assert (message.body, message.incomplete) == (b"x" * 20_000, None)


def test_holes_filled_in_any_order() -> None:
    """5,000 holes of one direction, filled in random order within the grace, leave every byte in its place."""
    dialogue = Dialogue()
    body = Random(1).randbytes(10_000)
    dialogue.client(POST % len(body))
    begin = dialogue.sent[0]
    places = list(range(1, len(body), 2)) + list(range(0, len(body), 2))
    Random(2).shuffle(places)
    for place in places:
        dialogue.client(body[place : place + 1], offset=begin + place)
    packets = [p.Packet(START + number, packet.data) for number, packet in enumerate(dialogue.packets)]
    table = Table()
    (message,) = table.run(packets)
    assert (message.body, message.incomplete) == (body, None)
    assert table.counted("bytes_duplicate", "gaps") == {"bytes_duplicate": 0, "gaps": 0}


def test_segments_that_overlap_all_others() -> None:
    """1,000 segments, each over all before it, behind a hole: each byte is kept once."""
    dialogue = Dialogue()
    body = Random(3).randbytes(2_000)
    dialogue.client(POST % len(body))
    begin = dialogue.sent[0]
    for size in range(1, 1001):
        dialogue.client(body[1000 - size : 1000 + size], offset=begin + 1000 - size)
    packets = [p.Packet(START + number, packet.data) for number, packet in enumerate(dialogue.packets)]
    table = Table()
    (message,) = table.run(packets)
    assert (message.body, message.incomplete) == (body, None)
    assert table.counted("overlap_conflicts") == {"overlap_conflicts": 0}


def test_many_header_lines() -> None:
    """16,000 header lines in a head of 64 KiB, in small segments, are read; each is there once."""
    head = b"GET / HTTP/1.1\r\n" + b"".join(b"%c:\r\n" % (97 + n % 26) for n in range(16_000)) + b"\r\n"
    dialogue = Dialogue()
    for at in range(0, len(head), 7):
        dialogue.client(head[at : at + 7])
    (message,) = Table().run(dialogue.packets)
    assert message.incomplete is None
    assert len(message.headers) == 26
    assert sum(value.count(",") + 1 for value in message.headers.values()) == 16_000


def test_chunks_of_one_byte() -> None:
    """20,000 chunks of one byte make one body."""
    dialogue = Dialogue()
    dialogue.client(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    stream = b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"
    for at in range(0, len(stream), 1001):
        dialogue.client(stream[at : at + 1001])
    (message,) = Table().run(dialogue.packets)
    assert (message.body, message.incomplete) == (b"x" * 20_000, None)


def test_full_queue_behind_a_loss() -> None:
    """1,000 open requests and a response lost: the others are read, and none gets a request that it may not answer."""
    dialogue = Dialogue()
    dialogue.client(b"".join(b"GET /%d HTTP/1.1\r\n\r\n" % number for number in range(1000)))
    for number in range(1000):
        dialogue.server(b"HTTP/1.1 204 R%d\r\n\r\n" % number, lost=number == 3)
    dialogue.client()
    messages = Table().run(dialogue.packets)
    answers = [m for m in messages if m.direction == "response"]
    assert [m.reason for m in answers] == [f"R{number}" for number in range(1000) if number != 3]
    assert {(m.reason, m.path) for m in answers if m.path} == {(f"R{n}", f"/{n}") for n in range(3)}
