# Characters of ASCII, and the one comparison that ignores case. Bytes above 127 and the locale play no part.

from libc.stdint cimport uint8_t

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


cdef inline bint ascii_same(const uint8_t* text, const uint8_t* lower, size_t size) noexcept nogil:
    """Whether `text` and `lower`, which holds no capital letter, are the same `size` bytes but for case."""
    cdef size_t i
    for i in range(size):
        if ascii_lower(text[i]) != lower[i]:
            return False
    return True


cdef inline bint is_digit(uint8_t c) noexcept nogil:
    return 0x30 <= c <= 0x39


cdef inline bint is_blank(uint8_t c) noexcept nogil:
    """Whether `c` is optional white space within a line (OWS, RFC 9110 section 5.6.3)."""
    return c == SP or c == HTAB
