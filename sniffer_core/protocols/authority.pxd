# The authority of a request: its host, and the port if it names one (RFC 9110 section 7.2, RFC 9112 section 3.3).
#
# Records show an authority without further redaction. So a text is accepted only if its characters are those of a host
# with an optional port: a registered name of letters, digits and `-._~`, an IPv4 address, or an IPv6 address in
# brackets. A text with a percent sign, a sub-delimiter (RFC 3986 section 2.2) or user info may hold a secret.

from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    AUTHORITY_MAX = 261     # bytes: 255 of a registered name (RFC 3986 section 3.2.2), a colon, 5 digits of a port

cdef bint find_in_target(
    const uint8_t* target, uint32_t size, bint connect, const uint8_t** found, uint32_t* found_size) noexcept nogil
    # Whether a request target is in absolute form. With `connect` (the method is CONNECT) it is taken for authority
    # form. If True, `found` is the target's authority without user info, and the Host field does not count (RFC 9112
    # sections 3.2.2 and 3.2.3).

cdef uint32_t write_authority(const uint8_t* text, uint32_t size, uint8_t* to) noexcept nogil
    # Writes the authority `text` in lower case, without the colon of an empty port. `to` must have room for `size`
    # bytes. Returns the number of bytes written; 0 if `text` is not accepted.
