# How a connection begins and ends, by what TCP says: SYN, FIN, RST, and ends that the peers ignore.
#
# An end is believed until the peers go on: bytes beyond it are held, and read once the other side acknowledges them.

from libc.stdint cimport int64_t

from sniffer_core.message cimport WHOLE, Incomplete
from sniffer_core.net.wire cimport Packet
from sniffer_core.tcp.stream cimport Run, Stream
from sniffer_core.tcp.table cimport Flow, Half, Table

cdef enum:
    HOLD_LIMIT = 2 << 20        # bytes (with their cost) that one direction may hold out of order


cdef inline bint is_ahead_of_all(const Half* half) noexcept nogil:
    """Whether a FIN stands beyond all bytes that were seen or acknowledged: they may have been lost, or it is none."""
    cdef const Stream* stream = &half.stream
    return not stream.ended and half.end_reason == WHOLE and stream.end > max(stream.top, stream.acked)


cdef void set_server(Flow* flow, int server) noexcept nogil
    # The flow is read from now on. `server`: the direction (0 is low to high) in which the server sends.
cdef bint on_syn(Flow* flow, const Packet* packet, int d) noexcept nogil
    # A SYN on a known flow: True when it belongs to it, False when it is of another connection.
cdef void end_at(Half* half, int64_t offset, Incomplete reason) noexcept nogil
    # A FIN or RST says that the direction ends at `offset`.
cdef void cut_off(Half* half) noexcept nogil
    # A RST: the direction ends where it was seen to.
cdef int64_t on_beyond(Table* table, Flow* flow, Half* half, Run* run) noexcept nogil
    # A segment runs beyond the end of its direction; returns how many of its bytes are to be read now.
cdef void on_late(Table* table, Half* half, const Run* run) noexcept nogil
    # Bytes beyond the end of their direction: they wait for what says that the peers ignore this end.
cdef bint resume(Table* table, Flow* flow) noexcept nogil
    # Reads on where the peers have ignored a FIN or RST; returns whether they have.
