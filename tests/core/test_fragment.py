"""fragment.pyx: datagrams from their fragments, within bounds."""

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer_core.testing import PyFragments
from tests import packets as p

A4, B4, A6, B6 = "192.0.2.1", "198.51.100.7", "2001:db8::1", "2001:db8::2"
PAYLOAD = bytes(range(256)) * 4
SEGMENT = p.tcp(40000, 80, 1000, 77, p.ACK, PAYLOAD)


def add_all(fragments: PyFragments, datagram: Sequence[bytes], now: int = 0) -> list[str]:
    """The verdict on each; the payload of a datagram that was completed is PAYLOAD."""
    verdicts = []
    for packet in datagram:
        verdict, view = fragments.add(p.RAW, packet, now)
        verdicts.append(verdict)
        if verdict == "tcp":
            assert_whole(view)
    return verdicts


def assert_whole(view: dict[str, Any], payload: bytes = PAYLOAD) -> None:
    assert view["payload"] == payload
    assert (view["ports"], view["seq"], view["ack"], view["missing"]) == ((40000, 80), 1000, 77, 0)


def kept(count: int) -> list[str]:
    """The verdicts on a datagram of `count` fragments whose last completes it."""
    return ["kept"] * (count - 1) + ["tcp"]


V4 = p.fragments_ipv4(A4, B4, SEGMENT, 200)
V6 = p.fragments_ipv6(A6, B6, SEGMENT, 200)


@pytest.mark.parametrize("datagram", [V4, V6], ids=["IPv4", "IPv6"])
def test_in_order(datagram: list[bytes]) -> None:
    """The last fragment completes the datagram, and nothing is left of it after the next packet."""
    fragments = PyFragments()
    assert add_all(fragments, datagram) == kept(len(datagram))
    assert fragments.state[0] == 0
    fragments.free()
    assert fragments.state == (0, 0, 0, 0)


@pytest.mark.parametrize("datagram", [V4, V6], ids=["IPv4", "IPv6"])
@given(seed=st.integers(0, 2**32))
def test_any_order_with_duplicates(datagram: list[bytes], seed: int) -> None:
    """Fragments may come in any order and more than once; what comes after the whole begins another."""
    fragments = PyFragments()
    random = Random(seed)
    arrivals = datagram + random.choices(datagram[:-1], k=random.randrange(4))
    random.shuffle(arrivals)
    verdicts = add_all(fragments, arrivals)
    assert verdicts.count("tcp") == 1
    assert set(verdicts[: verdicts.index("tcp")]) == {"kept"}
    fragments.free()
    assert fragments.state == (0, 0, 0, 0)


def test_families_are_told_apart() -> None:
    """An IPv4 datagram does not take pieces of an IPv6 one whose addresses begin with the same bytes."""
    fragments = PyFragments()
    alike = p.fragments_ipv6("c000:201::", "c633:6407::", SEGMENT, 200)
    assert add_all(fragments, [alike[0], *V4[1:]]) == ["kept"] * len(V4)
    assert fragments.state[0] == 2
    assert add_all(fragments, [V4[0], *alike[1:]]) == ["tcp", *kept(len(alike))[1:]]
    fragments.free()


@given(seed=st.integers(0, 2**32))
def test_overlapping_pieces(seed: int) -> None:
    """Pieces that overlap and agree make the datagram, however it was cut."""
    random = Random(seed)
    fragments = PyFragments()
    pieces = []
    at = 0
    while at < len(SEGMENT):
        size = 8 * random.randrange(1, 40)
        pieces.append((max(0, at - 8 * random.randrange(5)), min(len(SEGMENT), at + size)))
        at += size
    random.shuffle(pieces)
    verdicts = [
        fragments.add(
            p.RAW, p.ipv4(A4, B4, SEGMENT[start:end], identification=1, offset=start, more=end < len(SEGMENT))
        )
        for start, end in pieces
    ]
    whole = [view for verdict, view in verdicts if verdict == "tcp"]
    assert_whole(whole[0])


def test_interleaved_datagrams() -> None:
    """Datagrams are told apart by addresses, id and IP version."""
    fragments = PyFragments()
    datagrams = [
        V4,
        V6,
        p.fragments_ipv4(A4, B4, SEGMENT, 200, identification=8),
        p.fragments_ipv4(B4, A4, SEGMENT, 200),
        p.fragments_ipv6(A6, B6, SEGMENT, 200, identification=8),
        p.fragments_ipv6(A6, A6, SEGMENT, 200),
    ]
    verdicts = [add_all(fragments, packets) for packets in zip(*datagrams, strict=True)]
    assert verdicts == [["kept"] * 6] * (len(V4) - 1) + [["tcp"] * 6]


def test_extension_headers() -> None:
    """Extension headers may stand before the fragment header, and inside of the datagram before TCP."""
    fragments = PyFragments()
    inside = p.extension(p.TCP, 16) + SEGMENT
    datagram = p.fragments_ipv6(
        A6, B6, inside, 160, next_header=p.DESTINATION, before=p.extension(p.FRAGMENT), first=p.HOP_BY_HOP
    )
    assert add_all(fragments, datagram[::-1]) == kept(len(datagram))


def test_not_tcp_inside() -> None:
    """A datagram that holds no TCP behind its extension headers is said to hold none."""
    fragments = PyFragments()
    datagram = p.fragments_ipv6(A6, B6, p.extension(p.UDP) + bytes(80), 40, next_header=p.DESTINATION)
    assert add_all(fragments, datagram) == ["kept", "kept", "not_tcp"]


def test_fragments_within_fragments() -> None:
    """A fragment header inside of a reassembled datagram is refused."""
    fragments = PyFragments()
    inside = p.extension(p.FRAGMENT) + p.fragment_header(p.TCP, 8, True, 5) + bytes(64)
    datagram = p.fragments_ipv6(A6, B6, inside, 40, next_header=p.DESTINATION)
    assert add_all(fragments, datagram) == ["kept", "malformed"]


def test_truncated_segment() -> None:
    """A whole datagram with less than a TCP header in it is malformed."""
    fragments = PyFragments()
    assert add_all(fragments, p.fragments_ipv4(A4, B4, SEGMENT[:16], 8)) == ["kept", "malformed"]
    assert fragments.state[0] == 0


def piece(offset: int, data: bytes, *, more: bool = True) -> bytes:
    return p.ipv4(A4, B4, data, identification=3, offset=offset, more=more)


@pytest.mark.parametrize(
    ("before", "refused"),
    [
        (piece(8, b"a" * 8), piece(8, b"b" * 8)),
        (piece(8, b"a" * 16), piece(0, b"a" * 15 + b"b", more=True)),
        (piece(64, bytes(3), more=False), piece(72, bytes(8))),
        (piece(64, bytes(8), more=False), piece(64, bytes(8), more=True)),
        (piece(64, bytes(8), more=False), piece(72, bytes(8), more=False)),
        (piece(64, bytes(8), more=True), piece(64, bytes(4), more=False)),
    ],
    ids=[
        "other bytes",
        "other byte in an overlap",
        "beyond the end",
        "not the end after all",
        "another end",
        "an end before what came",
    ],
)
def test_contradictions(before: bytes, refused: bytes) -> None:
    """First bytes win: a fragment that contradicts an earlier one is refused, and changes nothing."""
    fragments = PyFragments()
    assert add_all(fragments, [before]) == ["kept"]
    state = fragments.state
    assert add_all(fragments, [refused]) == ["malformed"]
    assert fragments.state == state
    assert add_all(fragments, [before]) == ["kept"]


def test_first_bytes_win() -> None:
    """What completes a datagram after a contradiction is what came first."""
    fragments = PyFragments()
    forged = p.ipv4(A4, B4, bytes(200), identification=7, offset=200, more=True)
    assert add_all(fragments, [V4[1], forged, V4[0], *V4[2:]]) == ["kept", "malformed", *kept(len(V4))[1:]]


def test_datagrams_bound() -> None:
    """At most 64 datagrams are in progress: the oldest is given up for the next."""
    fragments = PyFragments()
    datagrams = [p.fragments_ipv4(A4, B4, SEGMENT, 528, identification=n) for n in range(65)]
    assert add_all(fragments, [first for first, _ in datagrams]) == ["kept"] * 65
    assert fragments.state[:2] == (64, 1)
    assert add_all(fragments, [datagrams[64][1], datagrams[1][1], datagrams[0][1]]) == ["tcp", "tcp", "kept"]


def test_bytes_bound() -> None:
    """All of them together hold at most 1 MiB, whatever the offsets say; the oldest is given up, never the present."""
    fragments = PyFragments()
    for number in range(64):
        packet = p.ipv4(A4, B4, bytes(8), identification=number, offset=65520 - 8, more=True)
        assert add_all(fragments, [packet]) == ["kept"]
        assert fragments.state[2] <= 1 << 20
    count, given_up, size, _ = fragments.state
    assert (count + given_up, size > 900_000) == (64, True)


def test_growth_spares_the_present() -> None:
    """The oldest datagram may grow while others are given up for it."""
    fragments = PyFragments()
    numbers = range(1, 16)
    assert add_all(fragments, [V4[0]]) == ["kept"]
    for number in numbers:
        add_all(fragments, [p.ipv4(A4, B4, bytes(8), identification=100 + number, offset=65000, more=True)])
    assert add_all(fragments, [p.ipv4(A4, B4, bytes(8), identification=7, offset=65000, more=True)]) == ["kept"]
    assert fragments.state[1] == 1


def test_largest_datagram() -> None:
    """A datagram of 64 KiB is put together."""
    fragments = PyFragments()
    payload = Random(1).randbytes(65535 - 20)
    datagram = p.fragments_ipv4(A4, B4, p.tcp(40000, 80, 1000, 77, p.ACK, payload), 1480)
    views = [fragments.add(p.RAW, packet) for packet in reversed(datagram)]
    assert [verdict for verdict, _ in views] == kept(len(datagram))
    assert_whole(views[-1][1], payload)


def test_time_bound() -> None:
    """A datagram is given up 30 s of packet time after its first fragment."""
    fragments = PyFragments()
    assert add_all(fragments, V4[:-1], now=5_000_000) == ["kept"] * (len(V4) - 1)
    assert add_all(fragments, V4[-1:], now=35_000_000) == ["tcp"]
    assert add_all(fragments, V4[:-1], now=40_000_000) == ["kept"] * (len(V4) - 1)
    assert add_all(fragments, V4[-1:], now=70_000_001) == ["kept"]
    assert fragments.state[:2] == (1, 1)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8191), st.binary(max_size=40), st.booleans())))
def test_any_fragments(arrivals: list[tuple[int, int, bytes, bool]]) -> None:
    """Whatever fragments come, the bounds hold and everything is given back."""
    fragments = PyFragments()
    for number, unit, data, more in arrivals:
        fragments.add(p.RAW, p.ipv4(A4, B4, data, identification=number, offset=unit * 8, more=more))
        assert fragments.state[0] <= 4
        assert fragments.state[2] <= (1 << 20) + 70_000
    fragments.free()
    assert fragments.state[2:] == (0, 0)
