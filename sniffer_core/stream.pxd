# ONE direction's byte stream: order, duplicates, overlap, holes, byte caps. Never looks into the bytes.
#
# Offsets are int64 positions in the stream, 0 = the first byte after the SYN (or the first byte first seen, which
# earlier segments may move below 0 while the base is provisional). Sequence numbers are mapped to offsets on entry,
# so nothing after that wraps.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from sniffer_core.memory cimport Pool

cdef struct Run:
    # A piece of a stream handed to its reader: bytes of ONE segment (or the part of it that was not seen before).
    const uint8_t* data
    int64_t size
    int64_t offset          # of data[0] in the stream
    int64_t stamp           # packet time of the segment, µs since the epoch
    int64_t ack             # the segment's ACK, as an offset in the other direction; -1 when it has none or it is unknown
    bint segment_start      # data[0] is the first byte of its segment
    bint conflict           # other bytes were seen for a part of it; these came first
