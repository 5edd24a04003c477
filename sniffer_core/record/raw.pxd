# A message as Python sees it, and many of them as lines.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from sniffer_core.base.memory cimport Pool
from sniffer_core.connection cimport Conn
from sniffer_core.message cimport Exchange, Message
from sniffer_core.record.line cimport RecordView
from sniffer_core.record.redact cimport Redaction
from sniffer_core.record.writer cimport Buffer

cdef enum:
    VIEWS = 512             # records that are written in one go

cdef class Rules:
    # How records are made: what is redacted, decoded, carried and added. All messages of a table share it.
    cdef Redaction redaction
    cdef object decode
    cdef Py_ssize_t max_body
    cdef bytes placement        # JSON, with a comma before it; or empty
    cdef uint32_t carry_count

cdef class RawMessage:
    cdef Message* source        # owned
    cdef Exchange* exchanged    # owned: a copy, since the protocol keeps its own
    cdef Rules rules
    cdef readonly str connection_id
    cdef readonly tuple receiver
    cdef readonly tuple destination
    cdef bytes opening          # JSON up to the direction, the same for all messages of a connection
    cdef tuple behind           # (source, destination, their JSON), if a PROXY protocol header named them
    cdef bytes json             # the record, if it was rendered and is kept
    cdef bint coded             # the body has content codings, and nobody has tried to remove them yet
    cdef bytes plain            # the body without the codings that could be removed
    cdef str removed            # the names of these
    cdef bint full              # the decoded body is longer than the cap
    cdef bint broken            # a coding was broken, or ended early
    cdef tuple made             # the value of `content`, once it was asked for
    cdef public object message  # its owner's: sniffer keeps the HttpMessage here
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
    # Makes the object, which owns the message from now on: the pool no longer counts it.

cdef void forget_conn(Conn* conn)
    # Frees a connection that nobody refers to any more, and its Python objects.

cdef tuple name_end(const uint8_t* address, int size, int port)
    # (address as text, port); `size` is 4 or 16.
