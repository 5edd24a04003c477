from libc.stdint cimport int64_t

from sniffer_core.record.lines cimport Writer
from sniffer_core.record.raw cimport Rules
from sniffer_core.tcp.table cimport Table

cdef int64_t blocks_leaked      # memory blocks that freed tables had not given back; more than 0 is a defect

cdef class FlowTable:
    cdef Table* table
    cdef tuple carried          # bytes objects: table.context.carry points into them
    cdef Rules rules
    cdef Writer writer          # or None: messages become objects
    cdef object _take(self)
    cdef void _end_all(self)
    cdef int64_t _clock(self, int64_t clock)
