# The Python face of a message: made once, with the GIL, from http1's Message and exchange's Exchange. It renders its JSON
# and builds its attributes only when asked, from the same redacted fields.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from sniffer_core.connection cimport Conn
from sniffer_core.base.memory cimport Pool
from sniffer_core.message cimport Exchange, Message
from sniffer_core.record.redact cimport Names

cdef enum:
    FACES = 512             # records that are written in one go

cdef class Rules:
    # How records are made: what is redacted, decoded, carried and added. Shared by all messages of a table.
    cdef tuple header_names     # keep the Names' bytes alive
    cdef tuple query_names
    cdef Names headers
    cdef Names query
    cdef bytes key              # of the marks of redacted values, or None
    cdef object decode
    cdef Py_ssize_t max_body
    cdef bytes placement        # JSON, with a comma before it; or empty
    cdef uint32_t carry_count

cdef struct Buffer:
    uint8_t* data
    size_t size
    size_t space
    bint failed         # no memory: what was written is worthless
    bint dated          # `date` holds the second `stamped`
    int64_t stamped
    char date[20]

cdef struct Span:
    const char* data
    Py_ssize_t size

cdef enum Form:             # of a body
    NONE = 0                # there is none to show
    RAW = 1                 # text or not: to be found out
    TEXT = 2                # UTF-8
    BASE64 = 3

cdef struct Face:           # a message about to be written; what it points into is kept by whoever made it
    const Message* message
    const Exchange* exchange
    const Names* listed     # fields that must not be shown, or not in full
    const Names* query      # parameters that must not be
    const char* id
    int64_t latency         # µs, or -1
    int64_t duration        # µs, or -1
    Span opening
    Span placement
    Span proxied
    Span path               # where marks have a key
    Span headers            # JSON, where put_fields() cannot write them
    Span trailers           # JSON, the same
    Span removed            # the codings removed
    const uint8_t* data     # the body
    size_t size
    Form form
    bint truncated
    bint cut                # the body ends before its end

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
    cdef int prepare(self, Face* face, list kept) except -1
    cdef int show_made(self, Face* face) except -1
    cdef bytes render(self)

cdef class Lines:
    cdef bint keep
    cdef size_t most            # bytes of a line; 0: any
    cdef Buffer out
    cdef Face faces[FACES]

cdef RawMessage build_message(Message* message, Pool* pool, Rules rules)
    # Takes the message over: out of the pool, into the object.

cdef void forget_conn(Conn* conn)
    # Gives back a connection that nobody refers to any more, with its Python objects.

cdef tuple name_end(const uint8_t* address, int size, int port)
    # (address as text, port); `size` is 4 or 16.
