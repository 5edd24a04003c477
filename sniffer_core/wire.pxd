# One packet, from the link header to the TCP payload: views whose every length has been checked against the captured
# bytes, after which no access can fail. Stateless: fragments are only recognised here (fragment.pyx keeps them).

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t

cdef enum Verdict:
    WIRE_TCP = 0        # packet.payload .. are valid
    WIRE_FRAGMENT = 1   # packet.fragment_* are valid, nothing of TCP is
    WIRE_NOT_IP = 2
    WIRE_NOT_TCP = 3
    WIRE_MALFORMED = 4
    WIRE_CUT = 5        # a header runs past the captured bytes

cdef enum:
    TCP_FIN = 0x01
    TCP_SYN = 0x02
    TCP_RST = 0x04
    TCP_PSH = 0x08
    TCP_ACK = 0x10

cdef struct Packet:
    # Points into the captured bytes (or fragment.pyx's buffer): valid only while they are.
    const uint8_t* source           # address_size bytes
    const uint8_t* destination
    uint8_t address_size            # 4 or 16
    uint8_t flags                   # TCP_*
    uint16_t source_port            # host order, as everything below
    uint16_t destination_port
    uint32_t seq
    uint32_t ack
    const uint8_t* payload
    uint32_t payload_size           # captured bytes of it
    uint32_t missing                # bytes of the payload that the snaplen cut
    # fragments only
    const uint8_t* fragment         # the IP payload of this fragment
    uint32_t fragment_size
    uint32_t fragment_offset        # bytes
    uint32_t fragment_id
    uint8_t fragment_more           # bool
