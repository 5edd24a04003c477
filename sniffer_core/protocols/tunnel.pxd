# The session of a tunnel, which counts bytes and reads nothing: after a 101, or a 2xx response to CONNECT.

from sniffer_core.protocol cimport Session

cdef Session* tunnel_open(const Session* blank) noexcept nogil
    # NULL: no memory.
