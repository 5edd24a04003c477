"""Packets made by hand: TCP in IPv4 or IPv6 in every link type that the core reads, fragments, feeds, capture files."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

NULL, ETHERNET, RAW_BSD, RAW_OPENBSD, RAW, LOOP, SLL, IPV4, IPV6, SLL2 = 0, 1, 12, 14, 101, 108, 113, 228, 229, 276
LINK_TYPES = (NULL, ETHERNET, RAW_BSD, RAW_OPENBSD, RAW, LOOP, SLL, IPV4, IPV6, SLL2)

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10

START = 1_700_000_000_000_000
"""The stamp with which captures begin, µs since the epoch."""

HOP_BY_HOP, TCP, UDP, ROUTING, FRAGMENT, AUTHENTICATION, ICMPV6, DESTINATION = 0, 6, 17, 43, 44, 51, 58, 60

VLAN, QINQ, QINQ_OLD, PPPOE, ARP = 0x8100, 0x88A8, 0x9100, 0x8864, 0x0806
MPLS, BRIDGE = 0x8847, 0x6558


@dataclass(frozen=True, slots=True)
class Packet:
    """A captured packet: stamp in µs since the epoch, bytes, and its length on the wire where they are fewer."""

    stamp: int
    data: bytes
    wire_length: int = 0

    def cut(self, snaplen: int) -> "Packet":
        """The same packet as a capture with this snaplen has it."""
        return Packet(self.stamp, self.data[:snaplen], max(self.wire_length, len(self.data)))


def tcp(
    source: int,
    destination: int,
    seq: int,
    ack: int = 0,
    flags: int = ACK,
    payload: bytes = b"",
    *,
    options: bytes = b"",
    data_offset: int | None = None,
) -> bytes:
    """A TCP segment (RFC 9293 section 3.1), its checksum 0; `data_offset` in words, if it is to be a wrong one."""
    options += bytes(-len(options) % 4)
    words = 5 + len(options) // 4 if data_offset is None else data_offset
    header = struct.pack("!HHIIBBHHH", source, destination, seq % 2**32, ack % 2**32, words << 4, flags, 65535, 0, 0)
    return header + options + payload


def ipv4(
    source: str,
    destination: str,
    payload: bytes,
    *,
    protocol: int = TCP,
    options: bytes = b"",
    identification: int = 0,
    offset: int = 0,
    more: bool = False,
    total_length: int | None = None,
) -> bytes:
    """An IPv4 packet (RFC 791 section 3.1); `offset` in bytes, `total_length` if it is not to be the true one."""
    options += bytes(-len(options) % 4)
    words = 5 + len(options) // 4
    length = words * 4 + len(payload) if total_length is None else total_length
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x40 | words,
        0,
        length,
        identification,
        (0x2000 if more else 0) | offset // 8,
        64,
        protocol,
        0,
        ip_address(source).packed,
        ip_address(destination).packed,
    )
    return header + options + payload


def extension(next_header: int, size: int = 8) -> bytes:
    """A hop-by-hop, routing or destination header of `size` bytes, a multiple of 8 (RFC 8200 section 4)."""
    return bytes([next_header, size // 8 - 1]) + bytes(size - 2)


def authentication(next_header: int, size: int = 16) -> bytes:
    """An authentication header of `size` bytes, a multiple of 4 (RFC 4302 section 2)."""
    return bytes([next_header, size // 4 - 2]) + bytes(size - 2)


def fragment_header(next_header: int, offset: int, more: bool, identification: int) -> bytes:
    """RFC 8200 section 4.5; `offset` in bytes."""
    return struct.pack("!BBHI", next_header, 0, offset | more, identification)


def ipv6(
    source: str,
    destination: str,
    payload: bytes,
    *,
    next_header: int = TCP,
    payload_length: int | None = None,
) -> bytes:
    """An IPv6 packet (RFC 8200 section 3); extension headers are the beginning of the payload."""
    length = len(payload) if payload_length is None else payload_length
    header = struct.pack("!IHBB", 0x60000000, length, next_header, 64)
    return header + ip_address(source).packed + ip_address(destination).packed + payload


def ip(source: str, destination: str, payload: bytes) -> bytes:
    """TCP in whichever IP the addresses are of."""
    return (ipv4 if ip_address(source).version == 4 else ipv6)(source, destination, payload)


def ether_type(packet: bytes) -> int:
    """0x0800 or 0x86DD, by the version in the packet."""
    return 0x0800 if packet[0] >> 4 == 4 else 0x86DD


def tagged(packet: bytes, tags: Sequence[int], protocol: int | None = None) -> tuple[int, bytes]:
    """(EtherType, what follows it) with these VLAN tags in front, outermost first."""
    kind = ether_type(packet) if protocol is None else protocol
    for tag in reversed(tags):
        packet = struct.pack("!HH", 0x2064, kind) + packet
        kind = tag
    return kind, packet


def pppoe(packet: bytes, *, compressed: bool = False, code: int = 0) -> bytes:
    """A PPPoE session frame (RFC 2516 section 4), PPP's protocol in two bytes or compressed into one."""
    protocol = 0x21 if packet[0] >> 4 == 4 else 0x57
    ppp = bytes([protocol]) if compressed else bytes([0, protocol])
    return struct.pack("!BBHH", 0x11, code, 7, len(ppp) + len(packet)) + ppp + packet


def udp(source: int, destination: int, payload: bytes) -> bytes:
    """A datagram (RFC 768), its checksum 0."""
    return struct.pack("!HHHH", source, destination, 8 + len(payload), 0) + payload


def vxlan(frame: bytes, *, flags: int = 0x08) -> bytes:
    """An Ethernet frame behind the header of VXLAN (RFC 7348 section 5)."""
    return struct.pack("!B3xI", flags, 77 << 8) + frame


def geneve(packet: bytes, protocol: int, *, version: int = 0) -> bytes:
    """A packet behind the header of GENEVE (RFC 8926 section 3.4)."""
    return struct.pack("!BBHI", version << 6, 0, protocol, 77 << 8) + packet


def gre(packet: bytes, protocol: int) -> bytes:
    """A packet behind the plain header of GRE (RFC 2784)."""
    return struct.pack("!HH", 0, protocol) + packet


def snap(packet: bytes, protocol: int | None = None) -> bytes:
    """A packet behind LLC and SNAP (RFC 1042); the EtherType before it is its length."""
    return b"\xaa\xaa\x03\0\0\0" + struct.pack("!H", ether_type(packet) if protocol is None else protocol) + packet


def ethernet(packet: bytes, *, tags: Sequence[int] = (), protocol: int | None = None, padding: bool = False) -> bytes:
    """An Ethernet frame; `padding` to 60 bytes as a short one has it."""
    kind, rest = tagged(packet, tags, protocol)
    frame = b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01" + struct.pack("!H", kind) + rest
    return frame + b"\xee" * (60 - len(frame)) if padding else frame


def link(linktype: int, packet: bytes, *, tags: Sequence[int] = ()) -> bytes:
    """An IP packet behind the header of this link type; VLAN tags where it can have them."""
    kind, rest = tagged(packet, tags)
    family = 2 if packet[0] >> 4 == 4 else 10
    if linktype == ETHERNET:
        return ethernet(packet, tags=tags)
    if linktype == SLL:
        return struct.pack("!HHH8sH", 0, 1, 6, bytes(8), kind) + rest
    if linktype == SLL2:
        return struct.pack("!HHIHBB8s", kind, 0, 2, 1, 0, 6, bytes(8)) + rest
    if linktype == NULL:
        return struct.pack("<I", family) + packet
    if linktype == LOOP:
        return struct.pack("!I", 24 if family == 10 else 2) + packet
    return packet


def fragments_ipv4(
    source: str, destination: str, segment: bytes, size: int, *, identification: int = 7, protocol: int = TCP
) -> list[bytes]:
    """The segment in IPv4 fragments of `size` bytes, a multiple of 8."""
    return [
        ipv4(
            source,
            destination,
            segment[at : at + size],
            identification=identification,
            offset=at,
            more=at + size < len(segment),
            protocol=protocol,
        )
        for at in range(0, len(segment), size)
    ]


def fragments_ipv6(
    source: str,
    destination: str,
    segment: bytes,
    size: int,
    *,
    identification: int = 7,
    next_header: int = TCP,
    before: bytes = b"",
    first: int = FRAGMENT,
) -> list[bytes]:
    """The segment in IPv6 fragments, behind the extension headers `before`, the first of which is of type `first`."""
    return [
        ipv6(
            source,
            destination,
            before
            + fragment_header(next_header, at, at + size < len(segment), identification)
            + segment[at : at + size],
            next_header=first,
        )
        for at in range(0, len(segment), size)
    ]


def framed(ends: bytes, seq: int, ack: int, flags: int, payload: bytes) -> bytes:
    """Ethernet, IPv4 and TCP around a payload, faster than ethernet(ipv4(tcp())); both checksums are 0.

    `ends`: source and destination address, source and destination port, in network order.
    """
    return _framed(_FRONT, 40 + len(payload), _TO_ENDS, ends, seq % 2**32, ack % 2**32, 0x50, flags, 65535, 0) + payload


_framed = struct.Struct("!16sH8s12sIIBBHI").pack
_FRONT = b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x08\0\x45\0"
"""Ethernet, and IPv4 up to the total length."""
_TO_ENDS = b"\0\0\0\0\x40\x06\0\0"
"""IPv4 from the identification to the checksum."""


def to_feed(packets: Iterable[Packet]) -> tuple[bytes, bytes]:
    """What pcapy-ng's next_batch() gives: the bytes, and native u32 {sec, usec, offset, caplen} of each packet."""
    index = bytearray()
    data = bytearray()
    for packet in packets:
        index += struct.pack("=IIII", packet.stamp // 1_000_000, packet.stamp % 1_000_000, len(data), len(packet.data))
        data += packet.data
    return bytes(data), bytes(index)


def pcap(packets: Iterable[Packet], linktype: int = ETHERNET, *, order: str = "<", nanoseconds: bool = False) -> bytes:
    """A pcap file (draft-ietf-opsawg-pcap); `order` is struct's, of the host that wrote it."""
    scale = 1000 if nanoseconds else 1
    out = [struct.pack(order + "IHHiIII", 0xA1B23C4D if nanoseconds else 0xA1B2C3D4, 2, 4, 0, 0, 262144, linktype)]
    for packet in packets:
        seconds, rest = divmod(packet.stamp, 1_000_000)
        length = packet.wire_length or len(packet.data)
        out.append(struct.pack(order + "IIII", seconds, rest * scale, len(packet.data), length) + packet.data)
    return b"".join(out)


def pcapng(packets: Iterable[Packet], linktype: int = ETHERNET, *, order: str = "<") -> bytes:
    """A pcapng file (draft-ietf-opsawg-pcapng): section header, one interface, enhanced packet blocks."""

    def block(kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        size = struct.pack(order + "I", len(body) + 12)
        return struct.pack(order + "I", kind) + size + body + size

    out = [
        block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1)),
        block(1, struct.pack(order + "HHI", linktype, 0, 262144)),
    ]
    for packet in packets:
        length = packet.wire_length or len(packet.data)
        stamp = packet.stamp >> 32, packet.stamp & 0xFFFFFFFF
        head = struct.pack(order + "IIIII", 0, *stamp, len(packet.data), length)
        out.append(block(6, head + packet.data))
    return b"".join(out)
