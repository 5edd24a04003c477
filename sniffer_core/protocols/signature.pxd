# Recognises TLS and HTTP/2 by the first bytes of a segment.

from libc.stdint cimport int64_t, uint8_t

cdef enum Spoken:
    PROTOCOL_HTTP1 = 0      # signature(): too few bytes to say
    PROTOCOL_TLS = 1
    PROTOCOL_HTTP2 = 2
    PROTOCOL_OTHER = 3      # neither TLS nor HTTP/2

cdef Spoken signature(const uint8_t* data, int64_t size, bint first) noexcept nogil
    # TLS is recognised by a record header (RFC 8446 section 5.1), HTTP/2 by the client's preface (RFC 9113 section
    # 3.4). `first`: the bytes begin the stream, so a TLS record must be a handshake.
