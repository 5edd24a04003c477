# The authority of a request: the host, and perhaps the port, that was asked (RFC 9110 section 7.2, RFC 9112 section
# 3.3).
#
# An authority is shown without further redaction, so only what is surely a host is taken for one: a registered name of
# letters, digits and `-._~`, an IPv4 address, or an IPv6 address in brackets, and then perhaps a port. A host with a
# percent sign, a sub-delimiter (RFC 3986 section 2.2) or user info names no authority: such a text may hold a secret.

from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    AUTHORITY_MAX = 261     # bytes: 255 of a registered name (RFC 3986 section 3.2.2), a colon, 5 digits of a port

cdef bint find_in_target(
    const uint8_t* target, uint32_t size, bint connect, const uint8_t** found, uint32_t* found_size) noexcept nogil
    # Whether a request target is in absolute form or, with `connect`, in authority form. If so, the Host field does not
    # count (RFC 9112 sections 3.2.2 and 3.2.3), and `found` is the target's authority without user info.

cdef uint32_t write_authority(const uint8_t* text, uint32_t size, uint8_t* to) noexcept nogil
    # Writes the authority that `text` is, in lower case and without the colon of an empty port. `to` has room for
    # `size` bytes. Returns how many were written; 0 if `text` is no authority.
