# Characters of ASCII, and the one comparison that ignores case. Bytes above 127 and the locale play no part.

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    HTAB = 0x09
    LF = 0x0A
    VT = 0x0B
    FF = 0x0C
    CR = 0x0D
    SP = 0x20
    COMMA = 0x2C
    POINT = 0x2E
    COLON = 0x3A
    SEMICOLON = 0x3B
    DEL = 0x7F


cdef inline uint8_t ascii_lower(uint8_t c) noexcept nogil:
    """`c`, as a small letter if it is a capital one."""
    return c + 32 if 65 <= c <= 90 else c


cdef inline uint64_t ascii_lower_word(uint64_t word) noexcept nogil:
    """As ascii_lower(), for eight characters."""
    cdef uint64_t low = word & 0x7F7F7F7F7F7F7F7FULL
    # Adding 0x3F sets the highest bit of a byte from 'A' on, adding 0x25 that of one beyond 'Z'.
    return word | ((low + 0x3F3F3F3F3F3F3F3FULL & ~(low + 0x2525252525252525ULL) & ~word & 0x8080808080808080ULL) >> 2)


cdef inline bint ascii_same(const uint8_t* text, const uint8_t* lower, size_t size) noexcept nogil:
    """Whether `text` and `lower`, which holds no capital letter, are the same `size` bytes but for case."""
    cdef uint64_t a = 0, b = 0
    cdef size_t i = 0
    if size >= 8:
        while i + 8 < size:
            memcpy(&a, text + i, 8)
            memcpy(&b, lower + i, 8)
            if ascii_lower_word(a) != b:
                return False
            i += 8
        memcpy(&a, text + size - 8, 8)
        memcpy(&b, lower + size - 8, 8)
        return ascii_lower_word(a) == b
    for i in range(size):
        if ascii_lower(text[i]) != lower[i]:
            return False
    return True


cdef inline bint is_digit(uint8_t c) noexcept nogil:
    return 0x30 <= c <= 0x39


cdef inline bint is_blank(uint8_t c) noexcept nogil:
    """Whether `c` is optional white space within a line (OWS, RFC 9110 section 5.6.3)."""
    return c == SP or c == HTAB
