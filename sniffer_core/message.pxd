# The Python face of a message: built once, from http1's Message and exchange's Exchange, with the GIL. Nowhere before.

from libc.stdint cimport uint8_t

from sniffer_core.exchange cimport Carry, Conn
from sniffer_core.http1 cimport Message

cdef class RawMessage:
    cdef readonly str direction
    cdef readonly tuple receiver
    cdef readonly tuple destination
    cdef readonly object timestamp
    cdef readonly dict headers
    cdef readonly str connection_id
    cdef readonly object exchange
    cdef readonly str http_version
    cdef readonly str method
    cdef readonly str path
    cdef readonly object status_code
    cdef readonly str reason
    cdef readonly tuple informational
    cdef readonly object latency_us
    cdef readonly bytes body
    cdef readonly object body_size
    cdef readonly bint body_truncated
    cdef readonly dict trailers
    cdef readonly str incomplete
    cdef readonly object missing_bytes
    cdef readonly bint resynced
    cdef readonly tuple anomalies
    cdef readonly str trace_id
    cdef readonly str span_id
    cdef readonly tuple carried

cdef RawMessage build_message(Message* message, const Carry* carry)
    # The C message stays the caller's to free.

cdef void forget_conn(Conn* conn)
    # Gives back a connection that nobody refers to any more, with its Python objects.

cdef tuple name_end(const uint8_t* address, int size, int port)
    # (address as text, port); `size` is 4 or 16.
