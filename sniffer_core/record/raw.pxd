# A message as Python sees it, and many of them as lines.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from sniffer_core.protocols.http1.pairing cimport CARRY_MAX, Carry, Conn, Exchange
from sniffer_core.base.memory cimport Pool
from sniffer_core.message cimport Message
from sniffer_core.record.line cimport RecordView
from sniffer_core.record.redact cimport Redaction
from sniffer_core.record.writer cimport Buffer

cdef enum:
    VIEWS = 512             # records that are written in one go

cdef class Rules:
    # How records are made: what is redacted, decoded, carried and added. Shared by all messages of a table.
    cdef Redaction redaction
    cdef object decode
    cdef Py_ssize_t max_body
    cdef bytes placement        # JSON, with a comma before it; or empty
    cdef uint32_t carry_count

cdef class RawMessage:
    cdef Message* source        # both blocks are this object's own
    cdef Exchange* exchanged
    cdef Rules rules
    cdef readonly str connection_id
    cdef readonly tuple receiver
    cdef readonly tuple destination
    cdef bytes opening          # the JSON up to the direction, the same for all messages of a connection
    cdef tuple behind           # (source, destination, their JSON), where a PROXY protocol header named them
    cdef bytes json
    cdef bint coded             # the body has a content coding that nobody has tried to remove yet
    cdef bytes plain            # the body without it, once removed
    cdef str removed            # the codings removed
    cdef bint full              # there was more than the cap
    cdef bint broken            # a coding was broken, or ended early
    cdef tuple made             # `content`, once made
    cdef public object message
    cdef int64_t latency(self)
    cdef int64_t duration(self)
    cdef str coding(self)
    cdef bint truncated(self)
    cdef bint cut(self)
    cdef tuple readable(self)
    cdef size_t text(self)
    cdef size_t body_text(self)
    cdef size_t foreseen(self)
    cdef size_t weigh(self)
    cdef int prepare(self, RecordView* view, list kept) except -1
    cdef int show_made(self, RecordView* view) except -1
    cdef bytes render(self)

cdef class Lines:
    cdef bint keep
    cdef size_t most            # bytes of a line; 0: any
    cdef Buffer out
    cdef RecordView views[VIEWS]

cdef RawMessage build_message(Message* message, Pool* pool, Rules rules)
    # Takes the message over: out of the pool, into the object.

cdef void forget_conn(Conn* conn)
    # Gives back a connection that nobody refers to any more, with its Python objects.

cdef tuple name_end(const uint8_t* address, int size, int port)
    # (address as text, port); `size` is 4 or 16.
