from libc.stdint cimport int64_t

from sniffer_core.record.message cimport Rules
from sniffer_core.tcp.table cimport Table

cdef int64_t blocks_leaked      # that tables still had when they were freed: an error of ours

cdef class FlowTable:
    cdef Table* table
    cdef tuple carried          # keeps the names in table.context.carry alive
    cdef Rules rules
    cdef list _take(self)
    cdef void _end_all(self)
    cdef int64_t _clock(self, int64_t clock)
