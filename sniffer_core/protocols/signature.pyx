"""Recognises TLS and HTTP/2; see signature.pxd."""

from libc.stdint cimport uint32_t
from libc.string cimport memcmp


cdef Spoken signature(const uint8_t* data, int64_t size, bint first) noexcept nogil:
    cdef uint32_t length
    if size >= 1 and 0x14 <= data[0] <= 0x17 and (not first or data[0] == 0x16):
        if size < 2:
            return PROTOCOL_HTTP1
        if data[1] != 0x03:
            return PROTOCOL_OTHER
        if first:
            return PROTOCOL_TLS
        if size < 5:
            return PROTOCOL_HTTP1
        length = (<uint32_t>data[3] << 8) | data[4]
        return PROTOCOL_TLS if data[2] <= 4 and length <= 16384 + 2048 else PROTOCOL_OTHER
    if memcmp(data, b"PRI * HTTP/2.0\r\n", min(size, 16)) == 0:  # RFC 9113 section 3.4
        return PROTOCOL_HTTP2 if size >= 16 else PROTOCOL_HTTP1
    return PROTOCOL_OTHER
