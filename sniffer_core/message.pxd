# The Python face of a message: made once, with the GIL, from http1's Message and exchange's Exchange. It renders its JSON
# and builds its attributes only when asked, from the same redacted fields.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from sniffer_core.exchange cimport CARRY_MAX, Carry, Conn, Exchange
from sniffer_core.http1 cimport Message
from sniffer_core.memory cimport Pool

cdef struct Names:              # lower-case names to compare with, in one block
    uint32_t count
    uint64_t sizes              # bit n: one of them has n bytes (n < 64); bit 63: one is longer
    uint32_t* size
    const uint8_t** name

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

cdef class RawMessage:
    cdef Message* source        # both blocks are this object's own
    cdef Exchange* exchanged
    cdef Rules rules
    cdef readonly str connection_id
    cdef readonly tuple receiver
    cdef readonly tuple destination
    cdef bytes opening          # the JSON up to the direction, the same for all messages of a connection
    cdef bytes json
    cdef tuple made             # `content`, once made
    cdef public object message
    cdef bint plain_path(self)
    cdef int64_t latency(self)
    cdef str coding(self)
    cdef tuple decoded(self)
    cdef tuple readable(self, tuple decoded)
    cdef size_t text(self)
    cdef size_t body_text(self)
    cdef size_t foreseen(self)
    cdef bytes render(self)

cdef RawMessage build_message(Message* message, Pool* pool, Rules rules)
    # Takes the message over: out of the pool, into the object.

cdef void forget_conn(Conn* conn)
    # Gives back a connection that nobody refers to any more, with its Python objects.

cdef tuple name_end(const uint8_t* address, int size, int port)
    # (address as text, port); `size` is 4 or 16.
