"""tcp/feed: core time, of a live capture from stamps and the monotonic clock, of a file from stamps alone."""

import struct
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer_core.core import RawMessage
from tests import packets as p
from tests.conversations import START, Dialogue
from tests.laws import Table

SECOND = 1_000_000
IDLE = 300 * SECOND
YEAR = 365 * 86_400 * SECOND
GET = b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
OPEN = b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"
TIMEOUT = 20 * SECOND
STEP = 200_000
LATE = 560_000


def paths(messages: Sequence[RawMessage]) -> list[tuple[str, int, str | None]]:
    return [(m.direction, m.exchange, m.path) for m in messages]


# ---- live ------------------------------------------------------------------------------------------------------------


def upload(port: int, start: int) -> list[p.Packet]:
    """An open request, all of it at `start`."""
    dialogue = Dialogue(client=("192.0.2.9", port), start=start)
    dialogue.client(OPEN)
    return [p.Packet(start, packet.data) for packet in dialogue.packets]


@pytest.mark.parametrize("every", [1, 2])
def test_quiet_capture(every: int) -> None:
    """With a packet each second or two and ticks between them, a connection is idle after 300 s and not before."""
    table = Table()
    table.feed(upload(1, START), clock_us=0)
    ended = []
    for tenth in range(1, 3200):
        clock = tenth * SECOND // 10
        if tenth % (10 * every) == 0:
            messages = table.feed([p.Packet(START + clock, p.ethernet(b"\x45", protocol=p.ARP))], clock_us=clock)
        else:
            messages = table.tick(clock)
        ended += [tenth / 10 for _ in messages]
    assert ended == [300.0]
    assert table.counted("messages_long") == {"messages_long": 0}


def test_messages_are_not_long_for_a_clock_that_was_set() -> None:
    """A message is long after 60 s of core time, though the clock of its stamps was set meanwhile."""
    table = Table()
    clock = 0
    for number, jump in enumerate((0, 3600 * SECOND, -7200 * SECOND, 0)):
        for packet in upload(number, START + clock + jump):
            table.feed([packet], clock_us=clock)
        clock += SECOND
        table.tick(clock)
    assert table.counted("messages_long") == {"messages_long": 0}
    table.flush()


@st.composite
def schedules(draw: st.DrawFn) -> tuple[int, list[int]]:
    """A seed, and by how much the clock of the stamps is set, now and then."""
    jumps = draw(st.lists(st.sampled_from((-3600, -5, -1, 1, 5, 3600)), max_size=6))
    return draw(st.integers(0, 2**32 - 1)), [jump * SECOND for jump in jumps]


@given(schedules(), st.sampled_from((0.1, 0.5, 0.9)))
def test_packets_and_ticks_in_any_order(schedule: tuple[int, list[int]], share: float) -> None:
    """Core time keeps up with real time, and is never ahead of it by more than the slack, whatever the clock does.

    `real` is the monotonic clock. Packets come late, some so late that they are out of order. Connections that say
    nothing more tell the time: each ends `idle` by it.
    """
    seed, jumps = schedule
    random = Random(seed)
    slack = SECOND * (sum(jump < 0 for jump in jumps) + 1 if jumps else 0)  # a clock set back costs less than that
    table = Table(idle_timeout_us=TIMEOUT)
    table.feed([p.Packet(START, p.ethernet(b"", protocol=p.ARP))], clock_us=0)
    real, skew, begun = 0, START, {}
    jump_at = {random.randrange(600): jump for jump in jumps}
    for number in range(600):
        real += random.randrange(STEP)
        skew += jump_at.get(number, 0)
        messages = []
        if random.random() < share:
            late = random.randrange(60_000) + (random.randrange(500_000) if random.random() < 0.2 else 0)
            packets = [p.Packet(max(0, real + skew - late), p.ethernet(b"", protocol=p.ARP))]
            if number % 100 == 0:
                packets = upload(number, packets[0].stamp)
                begun[number] = real
            messages = table.feed(packets, clock_us=real)
        else:
            messages = table.tick(real)
        for message in messages:
            assert message.incomplete == "idle"
            lasted = real - begun.pop(message.destination[1])
            assert lasted >= TIMEOUT - LATE - slack
            if not jumps:
                assert lasted <= TIMEOUT + LATE + STEP
    if not jumps:
        assert all(real - at <= TIMEOUT + LATE + STEP for at in begun.values())
    table.flush()


# ---- a file ----------------------------------------------------------------------------------------------------------


def two_connections() -> list[p.Packet]:
    """Two connections of two exchanges each, a packet each millisecond, by turns."""
    both = [Dialogue(client=("192.0.2.1", port), start=START) for port in (40000, 40001)]
    for dialogue in both:
        for number in range(2):
            dialogue.client(GET % number)
            dialogue.server(OK)
        dialogue.close()
    by_turns = (packet for pair in zip(*(d.packets for d in both), strict=True) for packet in pair)
    return [p.Packet(START + place * 1000, packet.data) for place, packet in enumerate(by_turns)]


def stamped(packets: Sequence[p.Packet], stamps: dict[int, int]) -> list[p.Packet]:
    """With other stamps for the packets of these places."""
    return [p.Packet(stamps.get(place, packet.stamp), packet.data) for place, packet in enumerate(packets)]


EXPECTED = sorted([("request", n, f"/{n}") for n in range(2)] + [("response", n, f"/{n}") for n in range(2)]) * 2


@pytest.mark.parametrize("far", [IDLE + SECOND, YEAR, 80 * YEAR])
@pytest.mark.parametrize(
    "places",
    [(1,), (7,), (12,), (19,), (3, 9, 15), (6, 8), (2, 4, 6, 8, 10)],
    ids=str,
)
def test_stamps_in_the_future(places: tuple[int, ...], far: int) -> None:
    """A stamp far ahead of the others, of whichever packet, changes nothing but a counter."""
    packets = two_connections()
    table = Table()
    messages = table.run(stamped(packets, {place: START + far + place * IDLE for place in places}))
    assert sorted(paths(messages)) == sorted(EXPECTED)
    assert len({m.connection_id for m in messages}) == 2
    assert {m.incomplete for m in messages} == {None}
    assert table.counted("stamps_ahead", "flows_opened") == {"stamps_ahead": len(places), "flows_opened": 2}


def test_a_stamp_in_the_future_of_another_protocol() -> None:
    """The packet with that stamp need not be TCP."""
    packets = two_connections()
    datagram = p.ipv4("192.0.2.1", "192.0.2.2", bytes(8), protocol=p.UDP)
    packets.insert(9, p.Packet(START + 40 * YEAR, p.ethernet(datagram)))
    table = Table()
    assert sorted(paths(table.run(packets))) == sorted(EXPECTED)
    assert table.counted("stamps_ahead") == {"stamps_ahead": 1}


def test_different_stamps_in_the_future_in_a_row() -> None:
    """Two stamps far ahead that do not agree with each other are both wrong."""
    packets = two_connections()
    table = Table()
    messages = table.run(stamped(packets, {8: START + YEAR, 9: START + 3 * YEAR}))
    assert sorted(paths(messages)) == sorted(EXPECTED)
    assert table.counted("stamps_ahead") == {"stamps_ahead": 2}


@pytest.mark.parametrize("quiet", [IDLE - SECOND, IDLE + SECOND, YEAR])
def test_a_quiet_time(quiet: int) -> None:
    """Time that has passed is believed with the second packet after it: the idle connections end before the first."""
    dialogue = Dialogue()
    dialogue.client(OPEN)
    dialogue.wait(quiet)
    other = Dialogue(client=("192.0.2.9", 1), start=dialogue.now)
    other.client(GET % 1)
    table = Table()
    messages = table.feed(dialogue.packets + other.packets)
    ended = [("POST", "idle"), ("GET", None)] if quiet > IDLE else [("GET", None)]
    assert [(m.method, m.incomplete) for m in messages] == ended
    assert table.counted("stamps_ahead") == {"stamps_ahead": 0}
    table.flush()


def test_the_packet_that_waits() -> None:
    """It is counted while it waits, whichever batch has the next one, and read at the end of the file at the latest."""
    dialogue = Dialogue()
    dialogue.client(GET % 1)
    table = Table()
    for packet in dialogue.packets[:-1]:
        assert table.feed([packet]) == []
    assert table.feed([p.Packet(START + YEAR, dialogue.packets[-1].data)]) == []
    assert table.gauge("packets_waiting") == 1
    assert [m.path for m in table.flush()] == ["/1"]
    assert table.counted("stamps_ahead", "packets_seen", "packets_parsed") == {
        "stamps_ahead": 1,
        "packets_seen": 4,
        "packets_parsed": 4,
    }


def test_a_stamp_that_does_not_fit() -> None:
    """A packet whose stamp is marked as one that does not fit is counted, not read, and changes no time."""
    dialogue = Dialogue()
    dialogue.client(GET % 1)
    data, index = p.to_feed(dialogue.packets)
    marked = index[:16] + struct.pack("=IIII", 0, 2**32 - 1, 0, 60) + index[16:]
    table = Table()
    messages = table.feed_raw(data, marked) + table.flush()
    assert [m.path for m in messages] == ["/1"]
    assert table.counted("packets_stamp_refused", "packets_parsed", "stamps_ahead") == {
        "packets_stamp_refused": 1,
        "packets_parsed": 4,
        "stamps_ahead": 0,
    }
