# The PROXY protocol, versions 1 and 2 (haproxy's proxy-protocol.txt, sections 2.1 and 2.2): what a load balancer writes
# before a client's first byte, to say whose connection it carries on.

from libc.stdint cimport uint8_t

from sniffer_core.connection cimport Proxied

cdef enum:
    PROXY_MOST = 107        # bytes that decide: a whole line of version 1, or the addresses of version 2
    PROXY_MORE = 0          # proxy_parse(): there are too few bytes to say
    PROXY_NONE = -1         # ... they begin something else

cdef int proxy_parse(const uint8_t* data, int size, Proxied* said) noexcept nogil
    # Reads the header that `data` begins with. Returns its size (of version 2 up to 65,551 bytes, more than need be
    # there), PROXY_MORE or PROXY_NONE.
