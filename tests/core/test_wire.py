"""wire.pxd: from the link header to the TCP payload, with every length checked."""

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer_core.testing import parse_packet
from tests import packets as p
from tests.laws import Table

A4, B4, A6, B6 = "192.0.2.1", "198.51.100.7", "2001:db8::1", "2001:db8::2"
SEGMENT = p.tcp(40000, 80, 0xFFFFFFF0, 77, p.ACK | p.PSH, b"GET / HTTP/1.1\r\n\r\n", options=b"\x01" * 12)
V4 = p.ipv4(A4, B4, SEGMENT)
V6 = p.ipv6(A6, B6, SEGMENT)


def assert_read(linktype: int, data: bytes, *, payload: bytes = SEGMENT[32:], missing: int = 0) -> dict[str, Any]:
    """The packet is SEGMENT, or what was captured of it."""
    verdict, view = parse_packet(linktype, data)
    assert verdict == "tcp"
    assert view["payload"] == payload
    assert view["missing"] == missing
    assert (view["ports"], view["seq"], view["ack"], view["flags"]) == ((40000, 80), 0xFFFFFFF0, 77, p.ACK | p.PSH)
    assert view["source"] in (ip_address(A4).packed, ip_address(A6).packed)
    assert view["destination"] in (ip_address(B4).packed, ip_address(B6).packed)
    return view


def verdict(linktype: int, data: bytes) -> str:
    return parse_packet(linktype, data)[0]


@pytest.mark.parametrize("packet", [V4, V6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("linktype", p.LINK_TYPES)
def test_link_types(linktype: int, packet: bytes) -> None:
    """TCP is found behind the header of every link type, in the IP version that it can carry."""
    if (linktype, packet) in ((p.IPV4, V6), (p.IPV6, V4)):
        assert verdict(linktype, packet) == "malformed"
    else:
        assert_read(linktype, p.link(linktype, packet))


@pytest.mark.parametrize("packet", [V4, V6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("linktype", [p.ETHERNET, p.SLL, p.SLL2])
@pytest.mark.parametrize(
    "tags",
    [(p.VLAN,), (p.QINQ, p.VLAN), (p.QINQ_OLD, p.VLAN), (p.VLAN, p.VLAN), (p.QINQ, p.QINQ, p.VLAN), (p.VLAN,) * 8],
    ids=str,
)
def test_vlan_tags(linktype: int, packet: bytes, tags: tuple[int, ...]) -> None:
    """802.1Q, 802.1ad and the old 0x9100 tags are passed over, nested too, on Ethernet and both cooked types."""
    assert_read(linktype, p.link(linktype, packet, tags=tags))


def test_vlan_bound() -> None:
    """More than 8 tags are no network's: the packet is not read."""
    assert verdict(p.ETHERNET, p.ethernet(V4, tags=(p.VLAN,) * 9)) == "not_ip"


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("packet", [V4, V6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("tags", [(), (p.QINQ, p.VLAN)], ids=["untagged", "QinQ"])
def test_pppoe(packet: bytes, compressed: bool, tags: tuple[int, ...]) -> None:
    """PPPoE sessions are read, with PPP's protocol field in two bytes and in one, behind VLAN tags too."""
    assert_read(p.ETHERNET, p.ethernet(p.pppoe(packet, compressed=compressed), tags=tags, protocol=p.PPPOE))


@pytest.mark.parametrize(
    "frame",
    [p.pppoe(V4, code=9), b"\x21" + p.pppoe(V4)[1:], p.pppoe(V4)[:6] + b"\xc0\x21" + bytes(40)],
    ids=["discovery code", "version", "LCP"],
)
def test_pppoe_other(frame: bytes) -> None:
    """PPPoE that is no session of version 1, or carries no IP, is not IP."""
    assert verdict(p.ETHERNET, p.ethernet(frame, protocol=p.PPPOE)) == "not_ip"


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize(("family", "packet"), [(2, V4), (10, V6), (24, V6), (28, V6), (30, V6)])
def test_null_family(order: Any, family: int, packet: bytes) -> None:
    """The NULL link's address family is in the capturing host's byte order, and its own number for IPv6."""
    assert_read(p.NULL, family.to_bytes(4, order) + packet)


@pytest.mark.parametrize(("family", "packet"), [(2, V4), (24, V6), (28, V6), (30, V6)])
def test_loop_family(family: int, packet: bytes) -> None:
    """LOOP is NULL in network byte order, and in no other."""
    assert_read(p.LOOP, family.to_bytes(4, "big") + packet)
    assert verdict(p.LOOP, family.to_bytes(4, "little") + packet) == "not_ip"


@pytest.mark.parametrize(
    ("linktype", "data"),
    [
        (p.ETHERNET, p.ethernet(bytes(46), protocol=p.ARP)),
        (p.ETHERNET, p.ethernet(bytes(46), protocol=38)),
        (p.SLL, p.link(p.SLL, V4)[:14] + b"\x00\x04" + V4),
        (p.SLL2, b"\x08\x06" + p.link(p.SLL2, V4)[2:]),
        (p.NULL, (7).to_bytes(4, "little") + V4),
        (p.LOOP, (7).to_bytes(4, "big") + V4),
        (147, V4),
    ],
    ids=["ARP", "802.3", "SLL", "SLL2", "NULL", "LOOP", "unknown link type"],
)
def test_not_ip(linktype: int, data: bytes) -> None:
    """What is no IP by its link header is called so."""
    assert verdict(linktype, data) == "not_ip"


FRAME = p.ethernet(V4)


def over_udp(port: int, payload: bytes) -> bytes:
    return p.ipv4(A4, B4, p.udp(40000, port, payload), protocol=p.UDP)


TUNNELS = {
    "vxlan": over_udp(4789, p.vxlan(FRAME)),
    "vxlan, Linux's old port": over_udp(8472, p.vxlan(FRAME)),
    "vxlan, GPE": over_udp(4790, p.vxlan(V4, flags=0x0C)),
    "vxlan, IPv6": p.ipv6(A6, B6, p.udp(40000, 4789, p.vxlan(FRAME)), next_header=p.UDP),
    "vxlan, its first fragment": p.ipv4(A4, B4, p.udp(1, 4789, p.vxlan(FRAME))[:48], protocol=p.UDP, more=True),
    "geneve": over_udp(6081, p.geneve(FRAME, p.BRIDGE)),
    "geneve, IP": over_udp(6081, p.geneve(V4, 0x0800)),
    "gre": p.ipv4(A4, B4, p.gre(V4, 0x0800), protocol=47),
    "gre, IPv6": p.ipv6(A6, B6, p.gre(FRAME, p.BRIDGE), next_header=47),
    "gre, cut": p.ipv4(A4, B4, p.gre(V4, 0x0800), protocol=47)[:22],
    "erspan": p.ipv4(A4, B4, p.gre(bytes(8) + FRAME, 0x88BE), protocol=47),
    "erspan, type III": p.ipv4(A4, B4, p.gre(bytes(12) + FRAME, 0x22EB), protocol=47),
    "ipip": p.ipv4(A4, B4, V4, protocol=4),
    "ipip, in IPv6": p.ipv6(A6, B6, V4, next_header=4),
    "ipip, behind extension headers": p.ipv6(A6, B6, p.extension(4) + V4, next_header=p.DESTINATION),
    "6in4": p.ipv4(A4, B4, V6, protocol=41),
    "6in4, in IPv6": p.ipv6(A6, B6, V6, next_header=41),
    "mpls, UDP": over_udp(6635, b"\0\x01\x01\x40" + V4),
    "mpls, IP": p.ipv4(A4, B4, b"\0\x01\x01\x40" + V4, protocol=137),
    "gtp": over_udp(2152, b"\x30\xff\0\x40\0\0\0\x01" + V4),
    "l2tp": over_udp(1701, b"\0\x02\0\x01\0\x01\xff\x03\0\x21" + V4),
    "l2tp, IP": p.ipv4(A4, B4, bytes(8) + V4, protocol=115),
    "esp": p.ipv4(A4, B4, bytes(40), protocol=50),
}
FRAMES = {
    "mpls": p.ethernet(b"\0\x01\x01\x40" + V4, protocol=p.MPLS),
    "mpls, behind a VLAN tag": p.ethernet(b"\0\x01\x01\x40" + V4, tags=(p.VLAN,), protocol=p.MPLS),
    "mpls, multicast": p.ethernet(b"\0\x01\x01\x40" + V4, protocol=0x8848),
    "mpls, PPPoE": p.ethernet(p.pppoe(V4)[:6] + b"\x02\x81\0\x01\x01\x40" + V4, protocol=p.PPPOE),
    "snap": p.ethernet(p.snap(V4), protocol=len(V4) + 8),
    "snap, IPv6, behind a VLAN tag": p.ethernet(p.snap(V6), tags=(p.VLAN,), protocol=len(V6) + 8),
    "vlan_9200": p.ethernet(V4, tags=(0x9200,)),
    "vlan_9200, above a tag": p.ethernet(V4, tags=(0x9300, p.VLAN)),
    "pbb": p.ethernet(bytes(4) + FRAME, protocol=0x88E7),
}


@pytest.mark.parametrize("kind", TUNNELS)
def test_tunnels(kind: str) -> None:
    """What is inside of a tunnel is named, and counted under the tunnel's name, whatever link it came over."""
    packet = TUNNELS[kind]
    name = kind.partition(",")[0]
    assert parse_packet(p.RAW, packet) == ("tunnel", {"tunnel": name})
    assert parse_packet(p.ETHERNET, p.ethernet(packet, tags=(p.VLAN,))) == ("tunnel", {"tunnel": name})
    table = Table(linktype=p.SLL)
    assert table.run([p.Packet(0, p.link(p.SLL, packet))]) == []
    assert table.counted() == {"packets_seen": 1, f"packets_tunnel_{name}": 1}


@pytest.mark.parametrize("kind", FRAMES)
def test_tunnels_of_a_link(kind: str) -> None:
    """So are tunnels and tags that stand right behind the link header."""
    assert parse_packet(p.ETHERNET, FRAMES[kind]) == ("tunnel", {"tunnel": kind.partition(",")[0]})


def test_snap_on_a_cooked_link() -> None:
    """The cooked link types say 4 where LLC follows."""
    sll = p.link(p.SLL, V4)[:14] + b"\0\x04" + p.snap(V4)
    sll2 = b"\0\x04" + p.link(p.SLL2, V4)[2:20] + p.snap(V4)
    assert [parse_packet(p.SLL, sll), parse_packet(p.SLL2, sll2)] == [("tunnel", {"tunnel": "snap"})] * 2


@pytest.mark.parametrize(
    "packet",
    [
        over_udp(4788, p.vxlan(FRAME)),
        over_udp(4789, p.vxlan(FRAME, flags=0)),
        over_udp(4789, b"\x08"),
        over_udp(6081, p.geneve(FRAME, p.BRIDGE, version=1)),
        over_udp(6081, p.geneve(FRAME, 0x1234)),
        over_udp(2152, b"\x32\x01\0\x04\0\0\0\0" + bytes(8)),
        over_udp(1701, b"\xc8\x02" + bytes(20)),
        p.ipv4(A4, B4, p.udp(1, 4789, p.vxlan(FRAME)), protocol=p.UDP, offset=8),
        p.ipv4(A4, B4, V4, protocol=4)[:19],
    ],
    ids=[
        "port",
        "no I flag",
        "short",
        "GENEVE version",
        "GENEVE protocol",
        "GTP echo",
        "L2TP control",
        "fragment",
        "cut",
    ],
)
def test_no_tunnel(packet: bytes) -> None:
    """A port alone makes no tunnel: where the header behind it does not fit, the packet is what it was before."""
    assert verdict(p.RAW, packet) in ("not_tcp", "cut")


def test_llc_that_is_no_ip() -> None:
    """LLC without SNAP (spanning tree), or with another protocol, is no IP and no tunnel."""
    for frame in (b"\x42\x42\x03" + bytes(35), p.snap(V4, protocol=0x2000), p.snap(V4)[:7]):
        assert verdict(p.ETHERNET, p.ethernet(frame, protocol=38)) == "not_ip"


def test_ipv4_options() -> None:
    """IPv4 options are passed over."""
    assert_read(p.RAW, p.ipv4(A4, B4, SEGMENT, options=b"\x01" * 40))


def test_padding() -> None:
    """Ethernet padding beyond the IP total length is no payload."""
    empty = p.tcp(40000, 80, 1)
    for packet in (p.ipv4(A4, B4, empty), p.ipv6(A6, B6, empty)):
        assert parse_packet(p.ETHERNET, p.ethernet(packet) + b"\xee" * 6)[1]["payload"] == b""
    assert_read(p.ETHERNET, p.ethernet(V4) + b"\xee" * 30)


def test_total_length_zero() -> None:
    """An IP length of 0 (segmentation offload, jumbograms) means the captured length, above 64 KiB too."""
    big = p.tcp(1, 2, 3, payload=b"x" * 100_000)
    for packet in (p.ipv4(A4, B4, big, total_length=0), p.ipv6(A6, B6, big, payload_length=0)):
        seen, view = parse_packet(p.ETHERNET, p.ethernet(packet))
        assert (seen, len(view["payload"]), view["missing"]) == ("tcp", 100_000, 0)


@pytest.mark.parametrize("packet", [V4, V6], ids=["IPv4", "IPv6"])
def test_snaplen(packet: bytes) -> None:
    """Cut in the payload: the captured bytes, and how many are missing. Cut in a header: nothing."""
    header = len(packet) - len(SEGMENT[32:])
    for size in range(len(packet)):
        if size < header:
            assert verdict(p.RAW, packet[:size]) == "cut"
        else:
            assert_read(p.RAW, packet[:size], payload=packet[header:size], missing=len(packet) - size)


@pytest.mark.parametrize("linktype", p.LINK_TYPES)
def test_cut_anywhere(linktype: int) -> None:
    """However short the capture, the verdict is that a header is cut or the segment as far as it goes."""
    whole = p.link(linktype, V6 if linktype == p.IPV6 else V4)
    for size in range(len(whole)):
        assert verdict(linktype, whole[:size]) in ("cut", "tcp")


@pytest.mark.parametrize(
    ("first", "headers"),
    [
        (p.HOP_BY_HOP, p.extension(p.TCP)),
        (p.ROUTING, p.extension(p.TCP, 24)),
        (p.DESTINATION, p.extension(p.TCP, 2048)),
        (p.AUTHENTICATION, p.authentication(p.TCP, 24)),
        (
            p.HOP_BY_HOP,
            p.extension(p.DESTINATION)
            + p.extension(p.ROUTING)
            + p.extension(p.AUTHENTICATION, 16)
            + p.authentication(p.DESTINATION)
            + p.extension(p.TCP),
        ),
        (p.FRAGMENT, p.fragment_header(p.TCP, 0, False, 9)),
        (p.HOP_BY_HOP, p.extension(p.FRAGMENT) + p.fragment_header(p.DESTINATION, 0, False, 9) + p.extension(p.TCP)),
    ],
    ids=["hop-by-hop", "routing", "destination", "AH", "all", "atomic fragment", "atomic fragment, then more"],
)
def test_ipv6_extension_headers(first: int, headers: bytes) -> None:
    """Extension headers before TCP are passed over; an atomic fragment (RFC 6946) is whole."""
    packet = p.ipv6(A6, B6, headers + SEGMENT, next_header=first)
    assert_read(p.RAW, packet)
    for size in range(40, 40 + len(headers)):
        assert verdict(p.RAW, packet[:size]) == "cut"


@pytest.mark.parametrize(
    "packet",
    [
        p.ipv4(A4, B4, bytes(8), protocol=p.UDP),
        p.ipv4(A4, B4, bytes(8), protocol=p.UDP, more=True),
        p.ipv6(A6, B6, bytes(8), next_header=p.ICMPV6),
        p.ipv6(A6, B6, p.extension(p.UDP) + bytes(8), next_header=p.HOP_BY_HOP),
        p.ipv6(A6, B6, b"", next_header=59),
        p.ipv6(A6, B6, p.fragment_header(p.UDP, 0, True, 1) + bytes(8), next_header=p.FRAGMENT),
    ],
    ids=["UDP", "UDP fragment", "ICMPv6", "UDP after hop-by-hop", "no next header", "UDP fragment, IPv6"],
)
def test_not_tcp(packet: bytes) -> None:
    """IP that carries something else is called so, fragments too."""
    assert verdict(p.RAW, packet) == "not_tcp"


@pytest.mark.parametrize(
    "packet",
    [
        b"\x50" + V4[1:],
        b"\x44" + V4[1:],
        p.ipv4(A4, B4, SEGMENT, total_length=19),
        p.ipv4(A4, B4, SEGMENT, total_length=30),
        p.ipv4(A4, B4, p.tcp(1, 2, 3, data_offset=4)),
        p.ipv4(A4, B4, p.tcp(1, 2, 3, data_offset=6)),
        p.ipv6(A6, B6, p.tcp(1, 2, 3)[:19]),
        p.ipv6(A6, B6, bytes([p.TCP, 9]) + bytes(30), next_header=p.DESTINATION),
        p.ipv6(A6, B6, bytes(4), next_header=p.ROUTING),
        p.ipv4(A4, B4, bytes(12), more=True),
        p.ipv4(A4, B4, b"", offset=8),
        p.ipv4(A4, B4, bytes(16), offset=65528),
        p.ipv6(A6, B6, p.fragment_header(p.TCP, 65528, False, 1) + bytes(8), next_header=p.FRAGMENT),
    ],
    ids=[
        "IP version 5",
        "IPv4 header of 16 bytes",
        "total length below the header",
        "total length within TCP's header",
        "TCP data offset below 5",
        "TCP data offset beyond the segment",
        "IPv6 payload within TCP's header",
        "extension header beyond the payload",
        "extension header of 4 bytes",
        "fragment not of 8s",
        "empty fragment",
        "fragment beyond 64 KiB, IPv4",
        "fragment beyond 64 KiB, IPv6",
    ],
)
def test_malformed(packet: bytes) -> None:
    """Lengths that contradict each other make the packet malformed."""
    assert verdict(p.RAW, packet) == "malformed"


def test_fragments_are_recognised() -> None:
    """A fragment is shown with its offset, id, more-bit and protocol; one that the snaplen cut is no use."""
    packet = p.ipv4(A4, B4, bytes(range(24)), identification=513, offset=16, more=True)
    assert parse_packet(p.RAW, packet) == (
        "fragment",
        {
            "source": ip_address(A4).packed,
            "destination": ip_address(B4).packed,
            "fragment": bytes(range(24)),
            "offset": 16,
            "id": 513,
            "more": True,
            "protocol": p.TCP,
        },
    )
    assert verdict(p.RAW, packet[:-1]) == "cut"
    headers = p.extension(p.FRAGMENT) + p.fragment_header(p.DESTINATION, 8, False, 2**32 - 1)
    verdict6, view = parse_packet(p.RAW, p.ipv6(A6, B6, headers + b"abc", next_header=p.HOP_BY_HOP))
    assert verdict6 == "fragment"
    assert (view["fragment"], view["offset"], view["id"]) == (b"abc", 8, 2**32 - 1)
    assert (view["more"], view["protocol"]) == (False, p.DESTINATION)


@given(st.sampled_from(p.LINK_TYPES), st.binary(max_size=120))
def test_any_bytes(linktype: int, data: bytes) -> None:
    """Any bytes get a verdict, and what is viewed lies within them."""
    seen, view = parse_packet(linktype, data)
    if seen == "tcp":
        assert view["payload"] in data
        assert view["missing"] <= 65535


@given(
    st.sampled_from(p.LINK_TYPES),
    st.sampled_from([V4, V6, p.ipv6(A6, B6, p.extension(p.FRAGMENT) + p.fragment_header(6, 0, False, 1) + SEGMENT)]),
    st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=4),
    st.integers(0, 150),
)
def test_any_damage(linktype: int, packet: bytes, damage: list[tuple[int, int]], size: int) -> None:
    """A packet with some bytes changed and its end cut off gets a verdict, and what is viewed lies within it."""
    data = bytearray(p.link(linktype, packet))
    for at, value in damage:
        data[at % len(data)] = value
    seen, view = parse_packet(linktype, bytes(data[:size]))
    if seen in ("tcp", "fragment"):
        assert view["payload" if seen == "tcp" else "fragment"] in bytes(data[:size])
