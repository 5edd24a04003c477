# From packets to flows: which connection a packet belongs to, and how time passes from packet to packet.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from sniffer_core.tcp.table cimport Table

cdef enum:
    CLOCK_SLACK = 1_000_000     # µs that the stamps may run ahead of the monotonic clock, and one behind the others

cdef Py_ssize_t on_batch(Table* table, const uint8_t* packets, uint64_t size, const uint32_t* index, Py_ssize_t count,
                         Py_ssize_t at) noexcept nogil
    # Feeds packets `at` .. `count`; returns the number of the next. It stops early when many messages are ready, or the
    # memory limit is passed.
cdef void expire(Table* table, int64_t until) noexcept nogil
    # Lets time pass: does all that is due up to `until`, each at its own moment and in order.
cdef void read_ahead(Table* table, bint believed) noexcept nogil
    # Reads the packet that waited for the stamp of the next: at its own time if that `believed` it, else now.
