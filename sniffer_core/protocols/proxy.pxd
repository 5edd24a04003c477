# The PROXY protocol, versions 1 and 2 (haproxy's proxy-protocol.txt, sections 2.1 and 2.2). A load balancer sends its
# header before the client's first byte. It names the ends of the connection between the client and the load balancer.

from libc.stdint cimport uint8_t

from sniffer_core.connection cimport Proxied

cdef enum:
    PROXY_MOST = 107        # most bytes that proxy_parse() looks at: the longest line of version 1
    PROXY_MORE = 0          # result of proxy_parse(): too few bytes to say
    PROXY_NONE = -1         # result of proxy_parse(): there is no valid header

cdef int proxy_parse(const uint8_t* data, int size, Proxied* said) noexcept nogil
    # Reads the header that `data` begins with. Returns its size in bytes, PROXY_MORE or PROXY_NONE. A header of version
    # 2 may have up to 65,551 bytes; only its addresses need to be in `data`.
