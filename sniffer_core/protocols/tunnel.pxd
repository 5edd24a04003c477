# A connection that carries what is not read, by agreement: behind a 101, or a 2xx to CONNECT.

from sniffer_core.protocol cimport Session

cdef Session* tunnel_open(const Session* blank) noexcept nogil
