# What the bytes that begin a segment are, where they are not HTTP/1: TLS, HTTP/2, or nothing that is known by name.

from libc.stdint cimport int64_t, uint8_t

cdef enum Spoken:
    PROTOCOL_HTTP1 = 0      # or too few bytes to say
    PROTOCOL_TLS = 1
    PROTOCOL_HTTP2 = 2
    PROTOCOL_OTHER = 3

cdef Spoken signature(const uint8_t* data, int64_t size, bint first) noexcept nogil
    # `first`: the bytes begin the stream, where TLS has a handshake record; elsewhere any record header counts (RFC
    # 8446 section 5.1). HTTP/2 is told by the client's preface (RFC 9113 section 3.4).
