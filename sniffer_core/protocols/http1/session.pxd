# One connection's HTTP/1.x: both directions' parsers, and the queue of exchanges between them.
#
# A parser reads one direction. It returns an event where a decision needs both directions, and this module decides:
# which request a response answers, whether a body follows, and whether the next bytes are still HTTP.

from libc.stdint cimport int64_t, uint8_t

from sniffer_core.protocol cimport Recognised, Session

cdef Recognised http1_recognise(const uint8_t* data, int64_t size) noexcept nogil
    # Whether a direction's first bytes look like a start line: a client's, a server's, or none.
cdef Session* http1_open(const Session* blank) noexcept nogil
cdef Session* http1_open_for_server(const Session* blank) noexcept nogil
    # A session for a client that speaks another protocol: only the server's direction is read. The server may still
    # answer in HTTP/1, such as with a 400.
