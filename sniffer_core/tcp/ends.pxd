# How SYN, FIN and RST begin and end the directions of a connection, and how ends are undone that the peers ignore.
#
# Bytes beyond an end are held. Once the other side acknowledges some of them, the end is undone and they are read.

from libc.stdint cimport int64_t

from sniffer_core.base.marks cimport WHOLE, Incomplete
from sniffer_core.net.wire cimport Packet
from sniffer_core.tcp.stream cimport Run, Stream
from sniffer_core.tcp.table cimport Flow, Half, Table

cdef enum:
    HOLD_LIMIT = 2 << 20        # bytes of memory that one direction may hold


cdef inline bint is_ahead_of_all(const Half* half) noexcept nogil:
    """Whether a FIN is beyond all bytes seen and acknowledged, so that bytes before it were lost, or it is bogus."""
    cdef const Stream* stream = &half.stream
    return not stream.ended and half.end_reason == WHOLE and stream.end > max(stream.top, stream.acked)


cdef void set_server(Flow* flow, int server) noexcept nogil
    # Puts the flow into MODE_READ. `server`: the direction in which the server sends (0 is low to high).
cdef bint on_syn(Flow* flow, const Packet* packet, int d) noexcept nogil
    # Handles a SYN on a flow. Returns True if it belongs to the flow, False if it is of another connection.
cdef void end_at(Half* half, int64_t offset, Incomplete reason) noexcept nogil
    # Ends a direction at `offset`, because of a FIN (WHOLE) or RST (INCOMPLETE_CLOSED_).
cdef void cut_off(Half* half) noexcept nogil
    # Ends a direction because of a RST, behind the highest byte seen. An earlier end stays, unless is_ahead_of_all().
cdef int64_t on_beyond(Table* table, Flow* flow, Half* half, Run* run) noexcept nogil
    # Handles a segment with bytes beyond the end of its direction. Returns how many of its first bytes are to be read
    # now; the others wait.
cdef void on_late(Table* table, Half* half, const Run* run) noexcept nogil
    # Holds bytes beyond the end of their direction until resume(); counts them as late if they are too many or too far.
cdef bint resume(Table* table, Flow* flow) noexcept nogil
    # Undoes the ends that the peers have ignored. Returns whether there are any.
