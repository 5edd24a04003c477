# One connection: its two streams read in order, its holes given up in time, its ends believed or not.
#
# What is read goes to the flow's session (protocol.pxd), which the table's detector opens with the first payload.

from libc.stdint cimport int64_t, uint64_t

from sniffer_core.base.marks cimport Incomplete
from sniffer_core.net.wire cimport Packet
from sniffer_core.tcp.stream cimport Stream
from sniffer_core.tcp.table cimport Flow, Half, Key, Table

cdef Flow* new_flow(
    Table* table, const Packet* packet, const Key* key, uint64_t hashed, int d, int64_t stamp) noexcept nogil
    # A flow for the packet's connection, not yet in the table. NULL without memory.
cdef bint on_segment(Table* table, Flow* flow, const Packet* packet, int d, int64_t stamp) noexcept nogil
    # A segment of direction `d` of a flow that is read, or whose server is not known yet. False: it stands too far from
    # everything that was seen, and nothing was done.
cdef void on_closed(Table* table, Flow* flow, const Packet* packet, int d, int64_t stamp) noexcept nogil
    # A packet of a closed flow: it is late, unless it shows that the peers have not closed.
cdef bint is_beyond_window(const Stream* stream, int64_t offset, int64_t size) noexcept nogil
    # Whether `size` bytes at an offset are too far from everything that was seen and acknowledged.
cdef void settle(Table* table, Flow* flow) noexcept nogil
    # After anything changed: reads on in both directions until neither can, closes what has ended, arms the timers.
cdef void fire(Table* table, Half* half) noexcept nogil
    # A half's timer is due.
cdef void relieve_half(Table* table, Flow* flow, Half* half, int64_t goal) noexcept nogil
    # A limit is reached: holes become gaps until no more than `goal` bytes are held.
cdef void end_flow(Table* table, Flow* flow, Incomplete reason, int why) noexcept nogil
    # Ends a flow from outside: reads what is held with its holes as gaps, ends both sides for `reason`, frees it. It is
    # counted under `why`.
