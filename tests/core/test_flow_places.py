"""tcp/feed: the same two ends in several VLANs, and on several interfaces."""

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer_core.core import RawMessage
from tests import packets as p
from tests.conversations import SERVER, START, Conversation, Dialogue, conversations, cuts
from tests.core.test_flow_properties import assert_exact, step_within_grace
from tests.laws import Table

TEN, TWENTY = (10,), (20,)
PLACES = {
    "VLAN 10 and VLAN 20": (TEN, TWENTY),
    "tagged, then not": (TEN, ()),
    "not tagged, then tagged": ((), TEN),
    "QinQ, the outer tag": ((10, 5), (20, 5)),
    "QinQ, the inner tag": ((5, 10), (5, 20)),
}


def tagged(packet: p.Packet, tags: Sequence[int]) -> p.Packet:
    """The Ethernet frame with 802.1Q tags, the outermost first."""
    header = b"".join(b"\x81\0" + (0x6000 | tag).to_bytes(2, "big") for tag in tags)
    return p.Packet(packet.stamp, packet.data[:12] + header + packet.data[12:])


def cooked(packet: p.Packet, interface: int) -> p.Packet:
    """The frame's IP packet as seen on this interface of `any` (SLL2)."""
    data = bytearray(p.link(p.SLL2, packet.data[14:]))
    data[4:8] = interface.to_bytes(4, "big")
    return p.Packet(packet.stamp, bytes(data))


def get(path: str) -> bytes:
    return f"GET /{path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()


def ok(body: str) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body.encode()


def talk(name: str, isn: tuple[int, int], *, count: int = 3, handshake: bool = True, close: bool = True) -> Dialogue:
    dialogue = Dialogue(isn=isn, handshake=handshake)
    for number in range(count):
        dialogue.client(get(f"{name}/{number}"))
        dialogue.server(ok(f"{name} {number}"))
    if close:
        dialogue.close()
    return dialogue


def by_turns(*several: Sequence[p.Packet]) -> list[p.Packet]:
    """A packet of each, again and again, one each millisecond."""
    mixed = [packet for turn in zip(*several, strict=True) for packet in turn]
    return [p.Packet(START + place * 1000, packet.data) for place, packet in enumerate(mixed)]


def pairs(messages: Sequence[RawMessage]) -> list[tuple[str, int, str]]:
    """(path, exchange, body) of the responses."""
    return sorted((str(m.path), m.exchange, m.body.decode()) for m in messages if m.direction == "response")


def expected(*names: str, count: int = 3) -> list[tuple[str, int, str]]:
    return sorted((f"/{name}/{n}", n, f"{name} {n}") for name in names for n in range(count))


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("handshake", [True, False])
def test_other_numbers(places: tuple[Sequence[int], Sequence[int]], handshake: bool) -> None:
    """The same ends with other numbers in another VLAN are another connection, with an id of its own."""
    one = [tagged(x, places[0]) for x in talk("a", (1000, 5000)).packets]
    two = [tagged(x, places[1]) for x in talk("bb", (770_000, 880_000)).packets]
    if not handshake:
        one = one[3:] + [one[-1]] * 3
    table = Table()
    messages = table.run(by_turns(one, two))
    assert pairs(messages) == expected("a", "bb")
    assert len({m.connection_id for m in messages}) == 2
    assert {m.incomplete for m in messages} == {None}
    assert table.counted("flows_opened", "bytes_duplicate", "overlap_conflicts") == {
        "flows_opened": 2,
        "bytes_duplicate": 0,
        "overlap_conflicts": 0,
    }


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("handshake", [True, False])
@pytest.mark.parametrize("names", [("a", "b"), ("a", "bb"), ("bb", "a")], ids=str)
def test_other_bytes(places: tuple[Sequence[int], Sequence[int]], handshake: bool, names: tuple[str, str]) -> None:
    """The same numbers with other bytes are another connection, from the first byte that differs."""
    one, two = (talk(name, (1000, 5000), handshake=handshake) for name in names)
    first = [tagged(x, places[0]) for x in one.packets]
    second = [tagged(x, places[1]) for x in two.packets]
    table = Table()
    messages = table.run(by_turns(first, second))
    assert pairs(messages) == expected(*names)
    assert len({m.connection_id for m in messages}) == 2
    assert table.counted("flows_opened", "overlap_conflicts") == {"flows_opened": 2, "overlap_conflicts": 0}


def test_the_id_names_the_place() -> None:
    """Two connections that begin at the same microsecond have two ids all the same."""
    first, second = talk("a", (1000, 5000)), talk("b", (770_000, 880_000))
    packets = [
        p.Packet(START, packet.data) for packet in by_turns(first.packets, [tagged(x, TEN) for x in second.packets])
    ]
    messages = Table().run(packets)
    assert pairs(messages) == expected("a", "b")
    assert len({m.connection_id for m in messages}) == 2
    assert [m.connection_id for m in messages] == [m.connection_id for m in Table().run(packets)]


def test_one_connection_after_another() -> None:
    """A connection of a VLAN is found again when the other one has ended, and when a port is used again."""
    first, second = talk("a", (1000, 5000), close=False), talk("b", (770_000, 880_000), close=False)
    table = Table()
    messages = table.feed(
        by_turns([tagged(x, TEN) for x in first.packets], [tagged(x, TWENTY) for x in second.packets])
    )
    first.close()
    messages += table.feed([tagged(x, TEN) for x in first.packets[-3:]])
    second.now = first.now + 5_000_000
    second.packets.clear()
    second.client(get("b/3"))
    second.server(ok("b 3"))
    second.close()
    messages += table.feed([tagged(x, TWENTY) for x in second.take()])
    third = talk("c", (5_000_000, 6_000_000))
    later = [p.Packet(second.now + n, tagged(x, TWENTY).data) for n, x in enumerate(third.packets)]
    messages += table.feed(later) + table.flush()
    assert pairs(messages) == sorted([*expected("a", "c"), *expected("b", count=4)])
    assert len({m.connection_id for m in messages}) == 3
    assert table.counted("flows_opened", "bytes_abandoned_late") == {"flows_opened": 3, "bytes_abandoned_late": 0}


@given(conversations(), st.integers(0, 2**32 - 1), st.sampled_from(list(PLACES.values())))
def test_copies(conversation: Conversation, seed: int, places: tuple[Sequence[int], Sequence[int]]) -> None:
    """One connection of which each packet is seen in two VLANs, the copies late or not, is one connection."""
    random = Random(seed)
    segments = conversation.segments(cuts(random, conversation))
    packets = []
    for place, packet in enumerate(conversation.packets(segments, step=step_within_grace(segments))):
        packets.append((place, tagged(packet, places[0])))
        packets.append((place + random.choice((0, 0, 1, 3)), tagged(packet, places[1])))
    ordered = [packet for _, packet in sorted(packets, key=lambda pair: pair[0])]
    table = Table()
    assert_exact(conversation, table.run(ordered))
    assert table.counted("flows_opened") == {"flows_opened": 1}


@given(conversations(), st.integers(0, 2**32 - 1))
def test_a_direction_in_each_place(conversation: Conversation, seed: int) -> None:
    """One connection whose directions take different VLANs is one connection."""
    segments = conversation.segments(cuts(Random(seed), conversation))
    packets = conversation.packets(segments, step=step_within_grace(segments))
    table = Table()
    sides = zip(segments, packets, strict=True)
    assert_exact(conversation, table.run(tagged(x, TEN if s.side == SERVER else TWENTY) for s, x in sides))
    assert table.counted("flows_opened") == {"flows_opened": 1}


def test_routed_copies_of_a_port_used_again() -> None:
    """A port that is used again, each packet seen in two VLANs, gives two connections and not three."""
    first = talk("a", (1000, 5000), close=False)
    second = talk("b", (770_000, 880_000))
    packets = [copy for x in [*first.packets, *second.packets] for copy in (tagged(x, TEN), tagged(x, TWENTY))]
    table = Table()
    messages = table.run(p.Packet(START + n * 1000, x.data) for n, x in enumerate(packets))
    assert pairs(messages) == expected("a", "b")
    assert len({m.connection_id for m in messages}) == 2
    assert table.counted("flows_opened", "flows_replaced") == {"flows_opened": 2, "flows_replaced": 1}


def test_interfaces() -> None:
    """What is said of VLANs holds for the interfaces of a capture on all of them."""
    dialogue = talk("a", (1000, 5000))
    copies = [cooked(x, interface) for x in dialogue.packets for interface in (2, 3, 4)]
    table = Table(linktype=p.SLL2)
    assert pairs(table.run(copies)) == expected("a")
    assert table.counted("flows_opened") == {"flows_opened": 1}
    other = talk("b", (1000, 5000))
    packets = by_turns([cooked(x, 2) for x in dialogue.packets], [cooked(x, 3) for x in other.packets])
    assert pairs(Table(linktype=p.SLL2).run(packets)) == expected("a", "b")


def test_memory_of_places() -> None:
    """What is kept to compare places with is in the budget, and costs captures without places nothing."""
    plain, vlan = Table(), Table()
    dialogue = talk("a", (1000, 5000), close=False)
    plain.feed(dialogue.packets)
    vlan.feed([tagged(packet, TEN) for packet in dialogue.packets])
    assert vlan.gauge("memory_bytes") == plain.gauge("memory_bytes") + 2 * 1024
    assert len(plain.flush() + vlan.flush()) == 0
