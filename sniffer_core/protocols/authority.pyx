"""The authority of a request; see authority.pxd."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memset

cdef enum:
    PORT_MAX = 5            # digits

cdef uint8_t lower_host[256]        # characters of a registered name in lower case; 0: not allowed in one
cdef uint8_t lower_address[256]     # the same for the text in the brackets of an IPv6 address


cdef void fill_tables():
    cdef int c
    memset(lower_host, 0, sizeof(lower_host))
    memset(lower_address, 0, sizeof(lower_address))
    for c in b"abcdefghijklmnopqrstuvwxyz0123456789-._~":
        lower_host[c] = <uint8_t>c
    for c in range(65, 91):
        lower_host[c] = <uint8_t>(c + 32)
    for c in b"abcdef0123456789:.":
        lower_address[c] = <uint8_t>c
    for c in range(65, 71):
        lower_address[c] = <uint8_t>(c + 32)


fill_tables()


cdef inline bint is_alpha(uint8_t c) noexcept nogil:
    return 97 <= c | 32 <= 122


cdef bint find_in_target(
        const uint8_t* target, uint32_t size, bint connect, const uint8_t** found, uint32_t* found_size) noexcept nogil:
    cdef uint32_t at = 0
    cdef uint32_t i
    cdef uint8_t c
    if not connect:
        # RFC 3986 section 3.1: scheme = ALPHA *( ALPHA / DIGIT / "+" / "-" / "." ), then ":" and, section 3.2, "//"
        while at < size and (is_alpha(target[at]) or (at and (48 <= target[at] <= 57 or target[at] in (43, 45, 46)))):
            at += 1
        if at == 0 or size - at < 3 or target[at] != 58 or target[at + 1] != 47 or target[at + 2] != 47:
            return False
        at += 3
    i = at
    while i < size:
        c = target[i]
        if c == 47 or c == 63 or c == 35:       # / ? #
            break
        if c == 92:         # browsers read a backslash as a slash, so that what follows is a path and may be a secret
            i = at
            break
        i += 1
        if c == 64:                             # @ ends the user info
            at = i
    found[0] = target + at
    found_size[0] = i - at
    return True


cdef bint is_port(const uint8_t* text, uint32_t size) noexcept nogil:
    cdef uint32_t i
    for i in range(size):
        if not 48 <= text[i] <= 57:
            return False
    return size <= PORT_MAX


cdef uint32_t write_address(const uint8_t* text, uint32_t size, uint8_t* to) noexcept nogil:
    """Writes the IPv6 address in brackets that `text` begins with; returns its size, 0 if there is none."""
    cdef uint32_t i
    for i in range(1, size):
        if text[i] == 93 and i > 2:
            to[0] = 91
            to[i] = 93
            return i + 1
        to[i] = lower_address[text[i]]
        if to[i] == 0:
            return 0
    return 0


cdef uint32_t write_authority(const uint8_t* text, uint32_t size, uint8_t* to) noexcept nogil:
    cdef uint32_t at = 0
    cdef uint32_t port
    if size == 0 or size > AUTHORITY_MAX:
        return 0
    if text[0] == 91:
        at = write_address(text, size, to)
    else:
        while at < size:
            to[at] = lower_host[text[at]]
            if to[at] == 0:
                break
            at += 1
    if at == size or at == 0:
        return at
    port = size - at - 1
    if text[at] != 58 or not is_port(text + at + 1, port):
        return 0
    if port == 0:
        return at
    while at < size:
        to[at] = text[at]
        at += 1
    return size
