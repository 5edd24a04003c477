# A record shortened to a line of bounded length. It works on the JSON text, whoever wrote it.

from libc.stdint cimport uint8_t

cdef enum:
    SHORTEN_ROOM = 64       # bytes that the marks of what was cut can add

cdef size_t shorten(const uint8_t* json, size_t size, size_t most, uint8_t* to) noexcept nogil
    # Writes the record to `to`, which has room for `size` + SHORTEN_ROOM bytes, with at most `most` bytes. Returns how
    # many were written; 0 if the record is short enough, or is not one that the core wrote.
