# Reads one connection: passes the bytes of its two streams in order to its session, and gives up holes in time.
#
# The table's detector opens the session (protocol.pxd) with the first payload. ends.pxd handles SYN, FIN and RST.

from libc.stdint cimport int64_t, uint64_t

from sniffer_core.base.marks cimport Incomplete
from sniffer_core.net.wire cimport Packet
from sniffer_core.tcp.stream cimport Stream
from sniffer_core.tcp.table cimport Flow, Half, Key, Table

cdef Flow* new_flow(
    Table* table, const Packet* packet, const Key* key, uint64_t hashed, int d, int64_t stamp) noexcept nogil
    # Returns a flow for the packet's connection, which is not in the table yet. `d`: direction of the packet. NULL: no
    # memory.
cdef bint on_segment(Table* table, Flow* flow, const Packet* packet, int d, int64_t stamp) noexcept nogil
    # Handles a segment of direction `d` of a flow in MODE_READ or MODE_UNDECIDED. Returns False and does nothing if
    # is_beyond_window().
cdef void on_closed(Table* table, Flow* flow, const Packet* packet, int d, int64_t stamp) noexcept nogil
    # Handles a packet of a tombstone. It may show that the peers have ignored the end; then the flow is read on.
    # Otherwise its bytes are late.
cdef bint is_beyond_window(const Stream* stream, int64_t offset, int64_t size) noexcept nogil
    # Whether `size` bytes at an offset are more than WINDOW (flow.pyx) away from the bytes seen and acknowledged.
cdef void settle(Table* table, Flow* flow) noexcept nogil
    # Call it after every change: reads both directions as far as possible, closes the flow if both have ended, and
    # starts or stops the timers.
cdef void fire(Table* table, Half* half) noexcept nogil
    # Handles the timer of a half that is due.
cdef void relieve_half(Table* table, Flow* flow, Half* half, int64_t goal) noexcept nogil
    # Gives up holes of a half, lowest first, until it holds at most `goal` bytes, counted with their cost.
cdef void end_flow(Table* table, Flow* flow, Incomplete reason, int why) noexcept nogil
    # Ends a flow before its peers do: reads what is held, with the holes as gaps, ends both sides for `reason` and
    # frees the flow. `why`: the Counter of flows to add to.
