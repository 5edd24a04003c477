"""stream.pyx: one direction's bytes against a model that is plainly right: a bytearray with a map of what has come.

The stream has no Python face, so the bytes are the body of a response, and the model is compared with what is kept.
"""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conversations import Dialogue
from tests.laws import Table

SIZE = 4000
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE


class Model:
    """First bytes win."""

    def __init__(self) -> None:
        self.data = bytearray(SIZE)
        self.there = bytearray(SIZE)
        self.payload = 0
        self.conflicts = 0

    def add(self, start: int, data: bytes) -> None:
        self.payload += len(data)
        for place, byte in enumerate(data, start):
            if self.there[place]:
                self.conflicts += self.data[place] != byte
            else:
                self.data[place], self.there[place] = byte, 1

    @property
    def arrived(self) -> int:
        return sum(self.there)

    @property
    def before_first_hole(self) -> bytes:
        hole = self.there.find(0)
        return bytes(self.data if hole < 0 else self.data[:hole])


ranges = st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(1, 900)), min_size=1, max_size=30)


@pytest.mark.parametrize("alike", [True, False], ids=["same bytes", "conflicting bytes"])
@given(ranges=ranges, isn=st.integers(0, 2**32 - 1) | st.integers(2**32 - SIZE, 2**32 - 1), seed=st.integers(0, 2**32))
def test_against_a_bytearray(alike: bool, ranges: list[tuple[int, int]], isn: int, seed: int) -> None:
    """Any segments in any order, across the wrap of the sequence space too, leave what a bytearray would hold."""
    random = Random(seed)
    truth = random.randbytes(SIZE)
    dialogue = Dialogue(isn=(7, isn))
    dialogue.client(b"GET / HTTP/1.1\r\n\r\n")
    dialogue.server(HEAD)
    model = Model()
    for start, size in ranges:
        data = truth[start : start + size] if alike else random.randbytes(min(size, SIZE - start))
        dialogue.server(data, offset=len(HEAD) + start)
        model.add(start, data)
    table = Table()
    response = next(m for m in table.run(dialogue.packets) if m.direction == "response")
    assert response.body == model.before_first_hole
    assert response.body_size == model.arrived
    assert response.missing_bytes == (SIZE - model.arrived or None)
    cut_by = "gap" if model.arrived > len(model.before_first_hole) else "stopped"
    assert response.incomplete == (None if model.arrived == SIZE else cut_by)
    counters = table.counted("bytes_used", "bytes_duplicate", "overlap_conflicts")
    others = len(b"GET / HTTP/1.1\r\n\r\n") + len(HEAD)
    assert counters["bytes_used"] == model.arrived + others
    assert counters["bytes_duplicate"] == model.payload - model.arrived
    assert bool(counters["overlap_conflicts"]) <= bool(model.conflicts)


@given(order=st.permutations(range(12)), isn=st.integers(0, 2**32 - 1))
def test_held_bytes(order: list[int], isn: int) -> None:
    """The gauge says how many bytes wait for others before them, after every packet."""
    dialogue = Dialogue(isn=(7, isn))
    dialogue.client(b"GET / HTTP/1.1\r\n\r\n")
    dialogue.server(HEAD)
    table = Table()
    table.feed(dialogue.take())
    there: set[int] = set()
    for place in order:
        dialogue.server(b"x" * 100, offset=len(HEAD) + place * 100)
        table.feed(dialogue.take())
        there.add(place)
        in_order = next(number for number in range(13) if number not in there)
        assert table.gauge("held_bytes") == 100 * (len(there) - in_order)
    table.flush()


def test_conflict_is_told() -> None:
    """Other bytes for what is held are counted, the first ones kept, and the message says so."""
    dialogue = Dialogue()
    dialogue.client(b"GET / HTTP/1.1\r\n\r\n")
    dialogue.server(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
    end = dialogue.sent[1]
    dialogue.server(b"def", offset=end + 3)
    dialogue.server(b"abcXYZ", offset=end)
    table = Table()
    response = table.run(dialogue.packets)[1]
    assert (response.body, response.incomplete, response.anomalies) == (b"abcdef", None, ("conflicting-overlap",))
    assert table.counted("overlap_conflicts")["overlap_conflicts"] == 1


@pytest.mark.parametrize("size", [0, 1])
def test_keep_alive_probe(size: int) -> None:
    """A keep-alive probe, empty or one byte just below the next one, is old data and no gap (RFC 9293 3.8.4)."""
    dialogue = Dialogue()
    for _ in range(2):
        dialogue.client(b"GET / HTTP/1.1\r\n\r\n")
        dialogue.server(b"HTTP/1.1 204 No Content\r\n\r\n")
        for _ in range(3):
            dialogue.wait(10_000_000)
            dialogue.client(b"\0" * size, offset=dialogue.sent[0] - 1)
            dialogue.server()
    table = Table()
    assert [m.incomplete for m in table.run(dialogue.packets)] == [None] * 4
    assert table.counted("gaps", "overlap_conflicts") == {"gaps": 0, "overlap_conflicts": 0}


def test_bogus_sequence_number() -> None:
    """Bytes too far from everything seen are counted and change nothing."""
    dialogue = Dialogue()
    dialogue.client(b"GET / HTTP/1.1\r\n\r\n")
    dialogue.client(b"x" * 10, offset=2**30)
    dialogue.sent[0] = 18
    dialogue.server(b"HTTP/1.1 204 No Content\r\n\r\n")
    table = Table()
    assert [m.incomplete for m in table.run(dialogue.packets)] == [None, None]
    assert table.counted("bytes_abandoned_out_of_window")["bytes_abandoned_out_of_window"] == 10


def test_snaplen_cut() -> None:
    """What the snaplen cut is a gap of known length: the body says what is missing, and reading goes on."""
    dialogue = Dialogue()
    dialogue.client(b"GET / HTTP/1.1\r\n\r\n")
    dialogue.server(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000)
    dialogue.client(b"GET /2 HTTP/1.1\r\n\r\n")
    dialogue.server(b"HTTP/1.1 204 No Content\r\n\r\n")
    table = Table()
    messages = table.run([packet.cut(150) for packet in dialogue.packets])
    kept = 150 - 54 - 41
    assert [(m.direction, m.incomplete, m.missing_bytes, m.body_size) for m in messages] == [
        ("request", None, None, 0),
        ("response", "gap", 1000 - kept, kept),
        ("request", None, None, 0),
        ("response", None, None, 0),
    ]
    assert table.counted("segments_snapped", "gap_bytes") == {"segments_snapped": 1, "gap_bytes": 1000 - kept}
    assert [kind for kind, *_ in table.core.events()] == ["snapped"]


@pytest.mark.parametrize("method", ["CONNECT", "Upgrade"])
@pytest.mark.parametrize("refused", [False, True])
def test_a_part_of_a_held_piece(method: str, refused: bool) -> None:
    """Of a piece that was held, only what may be read is: the bytes behind a CONNECT or Upgrade wait for its answer."""
    request = {
        "CONNECT": b"CONNECT db:1 HTTP/1.1\r\n\r\n",
        "Upgrade": b"GET /ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    }[method]
    rest = b"GET /next HTTP/1.1\r\n\r\n"
    dialogue = Dialogue()
    dialogue.client((request + rest)[4:], offset=4)
    dialogue.client(request[:4], offset=0)
    table = Table()
    assert len(table.feed(dialogue.take())) == 1
    assert table.gauge("held_bytes") == len(rest)
    assert table.counted("segments_out_of_order") == {"segments_out_of_order": 1}
    if refused:
        answer = b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"
    else:
        answer = b"HTTP/1.1 200 OK\r\n\r\n" if method == "CONNECT" else b"HTTP/1.1 101 Switching\r\n\r\n"
    dialogue.server(answer)
    paths = [m.path for m in table.feed(dialogue.take()) if m.direction == "request"]
    assert paths == (["/next"] if refused else [])
    assert table.gauge("held_bytes") == 0
    assert table.counted("bytes_used", "bytes_abandoned_tunnel") == {
        "bytes_used": len(request + answer) + (len(rest) if refused else 0),
        "bytes_abandoned_tunnel": 0 if refused else len(rest),
    }
    table.flush()


def test_a_held_piece_is_given_back_whole() -> None:
    """A piece read in two parts costs no memory afterwards, and what came of it twice is a duplicate once read."""
    request = b"GET /ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    dialogue = Dialogue()
    dialogue.client((request * 3)[4:], offset=4)
    dialogue.client(request[:4], offset=0)
    table = Table()
    table.feed(dialogue.take())
    for left in (1, 0):
        dialogue.server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ack=len(request) * (2 - left))
        table.feed(dialogue.take())
        assert table.gauge("held_bytes") == len(request) * left
    dialogue.client((request * 3)[4:], offset=4)
    table.feed(dialogue.take())
    assert table.counted("bytes_duplicate", "segments_retransmitted", "messages_request") == {
        "bytes_duplicate": len(request) * 3 - 4,
        "segments_retransmitted": 1,
        "messages_request": 3,
    }
    table.flush()
