# Reads one packet, from the link header to the TCP payload. What is found are views into the captured bytes; each
# length is checked against them once, here, so that no later access can fail. Nothing is kept between packets: IP
# fragments are recognised here and put together in net/fragment.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum Verdict:
    WIRE_TCP = 0        # a TCP segment: the members of Packet up to `missing` are valid
    WIRE_FRAGMENT = 1   # an IP fragment: the addresses and fragment_* are valid, nothing of TCP is
    WIRE_NOT_IP = 2     # ARP, LLDP and the like
    WIRE_NOT_TCP = 3    # UDP, ICMP and the like
    WIRE_MALFORMED = 4  # lengths contradict each other
    WIRE_CUT = 5        # a header runs past the captured bytes
    WIRE_TUNNEL = 6     # it is inside of packet.tunnel, which is recognised and not read

cdef enum Tunnel:       # the order of PACKETS_TUNNEL_* in counters.pxd
    TUNNEL_VXLAN = 0
    TUNNEL_GENEVE = 1
    TUNNEL_GRE = 2
    TUNNEL_ERSPAN = 3
    TUNNEL_IPIP = 4
    TUNNEL_6IN4 = 5
    TUNNEL_MPLS = 6
    TUNNEL_SNAP = 7
    TUNNEL_VLAN_9200 = 8
    TUNNEL_PBB = 9
    TUNNEL_GTP = 10
    TUNNEL_L2TP = 11
    TUNNEL_ESP = 12

cdef enum:
    TCP_FIN = 0x01
    TCP_SYN = 0x02
    TCP_RST = 0x04
    TCP_ACK = 0x10

cdef struct Packet:
    # Its pointers go into the captured bytes, or into the buffer of net/fragment, and are valid only while those are.
    const uint8_t* source           # address_size bytes
    const uint8_t* destination
    uint8_t address_size            # 4 or 16
    uint8_t flags                   # TCP_*
    uint64_t place                  # VLAN tags of 12 bits, the innermost lowest, and an interface's number; 0: none
    uint16_t source_port            # in host order, as all numbers here
    uint16_t destination_port
    uint32_t seq
    uint32_t ack
    const uint8_t* payload
    uint32_t payload_size           # captured bytes of the payload
    uint32_t missing                # bytes of the payload that the snaplen cut
    # Of fragments only
    const uint8_t* fragment         # the IP payload of this fragment
    uint32_t fragment_size
    uint32_t fragment_offset        # in bytes
    uint32_t fragment_id
    uint8_t fragment_more           # True: it is not the last one
    uint8_t fragment_protocol       # IPPROTO_*: of IPv6, the next header that the fragment header names
    # Of tunnels only
    uint8_t tunnel                  # Tunnel


cdef enum:
    LINK_NULL = 0
    LINK_ETHERNET = 1
    LINK_RAW_BSD = 12
    LINK_RAW_OPENBSD = 14
    LINK_RAW = 101
    LINK_LOOP = 108
    LINK_SLL = 113
    LINK_IPV4 = 228
    LINK_IPV6 = 229
    LINK_SLL2 = 276

cdef enum:
    ETHER_IPV4 = 0x0800
    ETHER_VLAN = 0x8100         # IEEE 802.1Q
    ETHER_IPV6 = 0x86DD
    ETHER_PPPOE = 0x8864        # RFC 2516, session stage
    ETHER_QINQ = 0x88A8         # IEEE 802.1ad
    ETHER_QINQ_OLD = 0x9100
    ETHER_LENGTH = 1500         # up to here it is no type but a length, or on cooked links the sign of LLC (IEEE 802.3)
    ETHER_BRIDGE = 0x6558       # an Ethernet frame, in tunnels
    ETHER_MPLS = 0x8847         # RFC 5332
    ETHER_MPLS_UPSTREAM = 0x8848
    ETHER_PBB = 0x88E7          # IEEE 802.1ah
    ETHER_VLAN_9200 = 0x9200    # tags of old switches
    ETHER_VLAN_9300 = 0x9300
    ETHER_ERSPAN = 0x88BE       # ERSPAN types I and II, in GRE
    ETHER_ERSPAN_3 = 0x22EB     # ERSPAN type III
    VLAN_TAGS = 8               # most tags of a frame that is read: no network nests as many

cdef enum:                      # IANA's protocol numbers
    IPPROTO_HOP_BY_HOP = 0
    IPPROTO_IPV4 = 4
    IPPROTO_TCP = 6
    IPPROTO_UDP = 17
    IPPROTO_IPV6 = 41
    IPPROTO_ROUTING = 43
    IPPROTO_FRAGMENT = 44
    IPPROTO_GRE = 47
    IPPROTO_ESP = 50
    IPPROTO_AUTHENTICATION = 51
    IPPROTO_DESTINATION = 60
    IPPROTO_L2TP = 115
    IPPROTO_MPLS = 137

cdef enum:
    PORT_L2TP = 1701
    PORT_GTP = 2152
    PORT_VXLAN = 4789
    PORT_VXLAN_GPE = 4790
    PORT_GENEVE = 6081
    PORT_MPLS = 6635
    PORT_VXLAN_LINUX = 8472     # Linux's default before 4789 was assigned; some overlays still use it


cdef inline uint32_t wire_u16(const uint8_t* data) noexcept nogil:
    return (<uint32_t>data[0] << 8) | data[1]


cdef inline uint32_t wire_u32(const uint8_t* data) noexcept nogil:
    return (<uint32_t>data[0] << 24) | (<uint32_t>data[1] << 16) | (<uint32_t>data[2] << 8) | data[3]


cdef inline int wire_link_known(int linktype) noexcept nogil:
    """Whether packets of this libpcap link type can be read."""
    return linktype in (
        LINK_NULL, LINK_ETHERNET, LINK_RAW_BSD, LINK_RAW_OPENBSD, LINK_RAW, LINK_LOOP, LINK_SLL, LINK_IPV4, LINK_IPV6,
        LINK_SLL2,
    )


cdef inline Verdict wire_inside(Tunnel tunnel, Packet* packet) noexcept nogil:
    """Names the tunnel that the packet is inside of: it is not read."""
    packet.tunnel = tunnel
    return WIRE_TUNNEL


cdef inline Verdict wire_inside_udp(const uint8_t* data, uint32_t captured, Packet* packet) noexcept nogil:
    """A UDP datagram (RFC 768): a tunnel's if its port is assigned to one and the header behind it is of that kind."""
    cdef uint32_t port
    if captured < 16:
        return WIRE_NOT_TCP
    port = wire_u16(data + 2)
    data += 8
    if port in (PORT_VXLAN, PORT_VXLAN_GPE, PORT_VXLAN_LINUX):
        if data[0] & 0x08:                                          # RFC 7348 section 5: the I flag
            return wire_inside(TUNNEL_VXLAN, packet)
    elif port == PORT_GENEVE:
        if data[0] >> 6 == 0 and wire_u16(data + 2) in (ETHER_BRIDGE, ETHER_IPV4, ETHER_IPV6):  # RFC 8926 section 3.4
            return wire_inside(TUNNEL_GENEVE, packet)
    elif port == PORT_GTP:
        if data[0] >> 5 == 1 and data[1] == 255:                    # 3GPP TS 29.281 section 5.1: version 1, G-PDU
            return wire_inside(TUNNEL_GTP, packet)
    elif port == PORT_L2TP:
        if data[0] >> 7 == 0 and data[1] & 0x0F == 2:               # RFC 2661 section 3.1: a data message of version 2
            return wire_inside(TUNNEL_L2TP, packet)
    elif port == PORT_MPLS:                                         # RFC 7510
        return wire_inside(TUNNEL_MPLS, packet)
    return WIRE_NOT_TCP


cdef inline Verdict wire_inside_ip(
    uint8_t protocol, const uint8_t* data, uint32_t captured, Packet* packet
) noexcept nogil:
    """An IP packet that carries something else than TCP: a tunnel or not."""
    if protocol == IPPROTO_UDP:
        return wire_inside_udp(data, captured, packet)
    if protocol == IPPROTO_GRE:
        if captured >= 4 and wire_u16(data + 2) in (ETHER_ERSPAN, ETHER_ERSPAN_3):
            return wire_inside(TUNNEL_ERSPAN, packet)
        return wire_inside(TUNNEL_GRE, packet)
    if protocol == IPPROTO_IPV4:
        return wire_inside(TUNNEL_IPIP, packet)
    if protocol == IPPROTO_IPV6:
        return wire_inside(TUNNEL_6IN4, packet)
    if protocol == IPPROTO_MPLS:
        return wire_inside(TUNNEL_MPLS, packet)
    if protocol == IPPROTO_L2TP:
        return wire_inside(TUNNEL_L2TP, packet)
    if protocol == IPPROTO_ESP:
        return wire_inside(TUNNEL_ESP, packet)
    return WIRE_NOT_TCP


cdef inline Verdict wire_parse_tcp(
    const uint8_t* data, uint32_t captured, uint32_t length, Packet* packet
) noexcept nogil:
    """A TCP segment of `length` bytes, the first `captured` <= `length` of which are there (RFC 9293 section 3.1).

    Returns WIRE_TCP, WIRE_MALFORMED or WIRE_CUT.
    """
    cdef uint32_t header
    if length < 20:
        return WIRE_MALFORMED
    if captured < 20:
        return WIRE_CUT
    header = (data[12] >> 4) * 4  # with the options, which are not read
    if header < 20 or header > length:
        return WIRE_MALFORMED
    if header > captured:
        return WIRE_CUT
    packet.source_port = <uint16_t>wire_u16(data)
    packet.destination_port = <uint16_t>wire_u16(data + 2)
    packet.seq = wire_u32(data + 4)
    packet.ack = wire_u32(data + 8)
    packet.flags = data[13]
    packet.payload = data + header
    packet.payload_size = captured - header
    packet.missing = length - captured
    return WIRE_TCP


cdef inline Verdict wire_take_fragment(
    const uint8_t* data, uint32_t captured, uint32_t length, Packet* packet
) noexcept nogil:
    """Notes the bytes of a fragment whose offset, id, protocol and more-bit stand in `packet` already.

    Every fragment but the last is a multiple of 8 bytes; none ends beyond 65535 (RFC 791 section 3.2, RFC 8200 section
    4.5).
    """
    if length == 0 or (packet.fragment_more and length % 8) or packet.fragment_offset + length > 65535:
        return WIRE_MALFORMED
    if captured < length:
        return WIRE_CUT
    packet.fragment = data
    packet.fragment_size = length
    return WIRE_FRAGMENT


cdef inline Verdict wire_parse_headers(
    uint8_t protocol, const uint8_t* data, uint32_t captured, uint32_t length, Packet* packet
) noexcept nogil:
    """Reads what follows the IPv6 header, or a datagram put together from fragments: extension headers, then TCP.

    RFC 8200 section 4. `protocol` is the type of the first header. Each header has 8 bytes or more, so the loop ends.
    """
    cdef uint32_t size
    while protocol != IPPROTO_TCP:
        if protocol not in (IPPROTO_HOP_BY_HOP, IPPROTO_ROUTING, IPPROTO_FRAGMENT, IPPROTO_AUTHENTICATION,
                            IPPROTO_DESTINATION):
            return wire_inside_ip(protocol, data, captured, packet)
        if length < 8:
            return WIRE_MALFORMED
        if captured < 8:
            return WIRE_CUT
        if protocol == IPPROTO_FRAGMENT:
            size = 8
            packet.fragment_protocol = data[0]
            packet.fragment_offset = wire_u16(data + 2) & 0xFFF8
            packet.fragment_more = data[3] & 1
            packet.fragment_id = wire_u32(data + 4)
            if packet.fragment_offset or packet.fragment_more:  # else it is whole: an atomic fragment, RFC 6946
                if packet.fragment_protocol not in (IPPROTO_TCP, IPPROTO_ROUTING, IPPROTO_AUTHENTICATION,
                                                    IPPROTO_DESTINATION):
                    return WIRE_NOT_TCP
                return wire_take_fragment(data + size, captured - size, length - size, packet)
        elif protocol == IPPROTO_AUTHENTICATION:
            size = (<uint32_t>data[1] + 2) * 4  # RFC 4302 section 2.2 counts words of 32 bits
        else:
            size = (<uint32_t>data[1] + 1) * 8
        if size > length:
            return WIRE_MALFORMED
        if size > captured:
            return WIRE_CUT
        protocol = data[0]
        data += size
        captured -= size
        length -= size
    return wire_parse_tcp(data, captured, length, packet)


cdef inline Verdict wire_parse_ipv4(const uint8_t* data, uint32_t captured, Packet* packet) noexcept nogil:
    """An IPv4 packet, RFC 791 section 3.1."""
    cdef uint32_t header, length
    if captured == 0:
        return WIRE_CUT
    header = (data[0] & 0x0F) * 4
    if data[0] >> 4 != 4 or header < 20:
        return WIRE_MALFORMED
    if captured < header:
        return WIRE_CUT
    length = wire_u16(data + 2)
    if length == 0:  # segmentation offload: the kernel has not divided the packet yet
        length = captured
    if length < header:
        return WIRE_MALFORMED
    if captured > length:  # Ethernet pads short frames
        captured = length
    if data[9] != IPPROTO_TCP:
        if captured < header or wire_u16(data + 6) & 0x1FFF:    # a fragment but the first has no header to read
            return WIRE_NOT_TCP
        return wire_inside_ip(data[9], data + header, captured - header, packet)
    packet.source = data + 12
    packet.destination = data + 16
    packet.address_size = 4
    packet.fragment_offset = (wire_u16(data + 6) & 0x1FFF) * 8
    packet.fragment_more = (data[6] >> 5) & 1
    if packet.fragment_offset or packet.fragment_more:
        packet.fragment_protocol = data[9]
        packet.fragment_id = wire_u16(data + 4)
        return wire_take_fragment(data + header, captured - header, length - header, packet)
    return wire_parse_tcp(data + header, captured - header, length - header, packet)


cdef inline Verdict wire_parse_ipv6(const uint8_t* data, uint32_t captured, Packet* packet) noexcept nogil:
    """An IPv6 packet, RFC 8200 section 3."""
    cdef uint32_t length
    if captured == 0:
        return WIRE_CUT
    if data[0] >> 4 != 6:
        return WIRE_MALFORMED
    if captured < 40:
        return WIRE_CUT
    captured -= 40
    length = wire_u16(data + 4)
    if length == 0:  # a jumbogram (RFC 2675) or segmentation offload
        length = captured
    if captured > length:
        captured = length
    packet.source = data + 8
    packet.destination = data + 24
    packet.address_size = 16
    return wire_parse_headers(data[6], data + 40, captured, length, packet)


cdef inline Verdict wire_parse_ip(const uint8_t* data, uint32_t captured, Packet* packet) noexcept nogil:
    """An IP packet without a link header: its first four bits are the version."""
    if captured == 0:
        return WIRE_CUT
    if data[0] >> 4 == 4:
        return wire_parse_ipv4(data, captured, packet)
    return wire_parse_ipv6(data, captured, packet)


cdef inline Verdict wire_parse_pppoe(const uint8_t* data, uint32_t captured, Packet* packet) noexcept nogil:
    """PPPoE: 6 bytes (RFC 2516 section 4), then PPP's protocol in 2 bytes, or in 1 (RFC 1661 section 6.5)."""
    cdef uint32_t header = 7, protocol
    if captured < 7:
        return WIRE_CUT
    if data[0] != 0x11 or data[1] != 0:
        return WIRE_NOT_IP
    protocol = data[6]
    if not protocol & 1:
        if captured < 8:
            return WIRE_CUT
        header = 8
        protocol = wire_u16(data + 6)
    if protocol == 0x0021:
        return wire_parse_ipv4(data + header, captured - header, packet)
    if protocol == 0x0057:
        return wire_parse_ipv6(data + header, captured - header, packet)
    if protocol in (0x0281, 0x0283):  # MPLS, RFC 3032 section 4.3
        return wire_inside(TUNNEL_MPLS, packet)
    return WIRE_NOT_IP


cdef inline Verdict wire_parse_ether(
    uint32_t protocol, const uint8_t* data, uint32_t captured, Packet* packet
) noexcept nogil:
    """Reads what an EtherType announces, VLAN tags first."""
    cdef int tags = 0
    while protocol in (ETHER_VLAN, ETHER_QINQ, ETHER_QINQ_OLD):
        if tags == VLAN_TAGS:
            return WIRE_NOT_IP
        if captured < 4:
            return WIRE_CUT
        packet.place = packet.place << 12 | (wire_u16(data) & 0x0FFF)
        protocol = wire_u16(data + 2)
        data += 4
        captured -= 4
        tags += 1
    if protocol == ETHER_IPV4:
        return wire_parse_ipv4(data, captured, packet)
    if protocol == ETHER_IPV6:
        return wire_parse_ipv6(data, captured, packet)
    if protocol == ETHER_PPPOE:
        return wire_parse_pppoe(data, captured, packet)
    if protocol in (ETHER_MPLS, ETHER_MPLS_UPSTREAM):
        return wire_inside(TUNNEL_MPLS, packet)
    if protocol in (ETHER_VLAN_9200, ETHER_VLAN_9300):
        return wire_inside(TUNNEL_VLAN_9200, packet)
    if protocol == ETHER_PBB:
        return wire_inside(TUNNEL_PBB, packet)
    if protocol <= ETHER_LENGTH and captured >= 8:      # RFC 1042: 6 bytes of LLC and SNAP, then the EtherType
        if wire_u16(data) == 0xAAAA and wire_u16(data + 2) == 0x0300 and wire_u16(data + 4) == 0 and \
                wire_u16(data + 6) in (ETHER_IPV4, ETHER_IPV6):
            return wire_inside(TUNNEL_SNAP, packet)
    return WIRE_NOT_IP


cdef inline Verdict wire_parse_family(
    uint32_t family, const uint8_t* data, uint32_t captured, Packet* packet
) noexcept nogil:
    """Reads what an address family announces: AF_INET, or AF_INET6 of Linux, NetBSD, FreeBSD or macOS."""
    if family == 2:
        return wire_parse_ipv4(data, captured, packet)
    if family in (10, 24, 28, 30):
        return wire_parse_ipv6(data, captured, packet)
    return WIRE_NOT_IP


cdef inline Verdict wire_parse(int linktype, const uint8_t* data, uint32_t size, Packet* packet) noexcept nogil:
    """Reads one packet of `size` captured bytes. The link types are those of https://www.tcpdump.org/linktypes.html.

    A link type that wire_link_known() does not know is WIRE_NOT_IP. Verdict says what `packet` holds.
    """
    cdef uint32_t family
    packet.place = 0
    if linktype == LINK_ETHERNET:
        if size < 14:
            return WIRE_CUT
        return wire_parse_ether(wire_u16(data + 12), data + 14, size - 14, packet)
    if linktype == LINK_SLL:
        if size < 16:
            return WIRE_CUT
        return wire_parse_ether(wire_u16(data + 14), data + 16, size - 16, packet)
    if linktype == LINK_SLL2:
        if size < 20:
            return WIRE_CUT
        packet.place = wire_u32(data + 4)
        return wire_parse_ether(wire_u16(data), data + 20, size - 20, packet)
    if linktype == LINK_NULL or linktype == LINK_LOOP:
        if size < 4:
            return WIRE_CUT
        family = wire_u32(data)
        if linktype == LINK_NULL and (family >> 16) != 0:  # in the byte order of the host that captured
            family = (<uint32_t>data[3] << 24) | (<uint32_t>data[2] << 16) | (<uint32_t>data[1] << 8) | data[0]
        return wire_parse_family(family, data + 4, size - 4, packet)
    if linktype == LINK_IPV4:
        return wire_parse_ipv4(data, size, packet)
    if linktype == LINK_IPV6:
        return wire_parse_ipv6(data, size, packet)
    if linktype in (LINK_RAW_BSD, LINK_RAW_OPENBSD, LINK_RAW):
        return wire_parse_ip(data, size, packet)
    return WIRE_NOT_IP
