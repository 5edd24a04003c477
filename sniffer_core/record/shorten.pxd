# A record made shorter, for who reads lines of a bounded length. Works on the JSON itself, so that whatever has made it
# need not know.

from libc.stdint cimport uint8_t

cdef enum:
    SHORTEN_ROOM = 64       # bytes that the marks may take beside what is left out

cdef size_t shorten(const uint8_t* json, size_t size, size_t most, uint8_t* to) noexcept nogil
    # Writes the record to `to`, which has room for `size` + SHORTEN_ROOM bytes, so that it has `most` at most; returns
    # how many it has. 0: it is no record that the core has written.
