# From packets to flows: finds the connection of each packet, and lets time pass between packets.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from sniffer_core.tcp.table cimport Table

cdef enum:
    CLOCK_SLACK = 1_000_000     # µs that live stamps may be ahead of the monotonic clock, or behind core time

cdef Py_ssize_t on_batch(Table* table, const uint8_t* packets, uint64_t size, const uint32_t* index, Py_ssize_t count,
                         Py_ssize_t at) noexcept nogil
    # Reads the packets from number `at` up to `count`, and returns the number of the next packet to read. It stops
    # early when many messages are ready, or when memory can only be freed with the GIL.
cdef void expire(Table* table, int64_t until) noexcept nogil
    # Moves core time to `until`. Does all that is due by then in order, with core time set to the moment it was due.
cdef void read_ahead(Table* table, bint believed) noexcept nogil
    # Reads table.ahead, which must not be NULL. `believed`: core time moves to its stamp first; otherwise it stays.
