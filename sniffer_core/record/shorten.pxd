# Shortens the JSON text of a record to a line of bounded length; docs/DELIVERY.md says what is cut, in which order.

from libc.stdint cimport uint8_t

cdef enum:
    SHORTEN_ROOM = 64       # most bytes that the marks (bodyTruncated, headersTruncated) add

cdef size_t shorten(const uint8_t* json, size_t size, size_t most, uint8_t* to) noexcept nogil
    # Writes the record, shortened to `most` bytes, to `to`, which must have room for `size` + SHORTEN_ROOM bytes.
    # Returns the number of bytes written. 0: the record is short enough, or it has not the form that the core writes.
