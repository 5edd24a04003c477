# Many messages at once: as lines that were written before they crossed a thread, or as objects that are rendered later.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from sniffer_core.base.memory cimport Pool
from sniffer_core.message cimport Message
from sniffer_core.record.line cimport RecordView
from sniffer_core.record.raw cimport Rules
from sniffer_core.record.writer cimport Buffer

cdef enum:
    VIEWS = 512             # most records that Lines.take() writes at once
    BLOCK_BYTES = 2 << 20   # most bytes that a block's lines are estimated to take; further messages become objects

cdef struct Line:
    size_t end              # where it ends in the text of its block
    int64_t latency         # µs, or -1

cdef class LineBlock:
    cdef uint8_t* text      # the lines, in a block of malloc
    cdef Line* lines
    cdef Py_ssize_t count
    cdef list objects       # for each message its RawMessage, or None if it has a line; None: all have lines

cdef class Lines:
    cdef bint keep
    cdef size_t most            # most bytes of a line; 0: no limit
    cdef Buffer out
    cdef RecordView views[VIEWS]
    cdef size_t _look(self, RecordView* view, object record, LineBlock block, list kept) except? 0

cdef class Writer:
    cdef Rules rules
    cdef size_t most            # bytes, as BLOCK_BYTES
    cdef Buffer out
    cdef Buffer hidden
    cdef uint8_t* kinds         # for each message of a block: its Shape, and further bits
    cdef uint32_t space         # of `kinds`
    cdef LineBlock write(self, Message* message, uint32_t count, Pool* pool)
    cdef Message* _sort(self, Message* message, uint32_t count, Pool* pool, LineBlock block) except? NULL
