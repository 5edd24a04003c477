# What of a message must not be shown: whole values of named header fields, and parts of URLs. This module alone decides
# it. Both forms of a message, the JSON (line.pyx) and the Python attributes (raw.pyx), ask here and write what they are
# told.
#
# A URL is the request target or the value of a header field that holds one. Two things of it are not shown:
#
# - the value of a listed parameter. A name begins at the start or behind `?`, `&`, `;`, `#` or `=`; what PHP and Rails
#   put in brackets, what a NUL cuts off, and what stands behind a slash in a query or a fragment, is looked at as a
#   name of its own. Names are compared decoded, without blanks around them, in any case. A value ends at `&`, or at the
#   end of the URL; before the first `?` or `#`, where it belongs to a segment of the path, at one of them or at `/`;
# - user info: what stands before the last `@` of an authority.
#
# A URL within a URL is percent-encoded, once for each URL around it. So whatever is encoded counts as what it stands
# for, however often it is encoded, and the number of times is its depth: what was begun at one depth is ended there or
# at a lesser one, since deeper ones are within it.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum Kind:             # what is to be done with a named field
    SHOWN = 0
    SECRET = 1              # its value must not be shown
    URL = 2                 # parts of its value must not be
    LINK = 3                # the same, of URLs between < and > (RFC 8288)
    TARGET = 4              # a request target: no field, but looked at as a URL

cdef struct Names:          # names to compare with, in lower case
    uint32_t count
    uint64_t bits           # name_bit() of each
    uint64_t sizes          # bit n: one of them has n bytes (n < 64); bit 63: one is longer
    uint64_t ends           # a bit for the last two characters of each
    bint ascii              # all of them are
    uint32_t* size
    const uint8_t** name
    uint8_t* kind

cdef struct Scan:           # of a URL
    const Names* listed
    const uint8_t* text
    size_t size
    size_t at
    size_t name             # where the name of a parameter may begin
    size_t url              # where a URL may begin
    size_t colon            # where the last one stands
    size_t colon_end
    bint odd                # the name has more than plain characters
    bint queried            # a `?` or `#` was seen
    uint8_t kind

cdef struct Cut:            # what must not be shown
    size_t at
    size_t end
    bint marked             # a mark stands for it; else nothing does


cdef inline uint8_t lower(uint8_t c) noexcept nogil:
    return c + 32 if 65 <= c <= 90 else c


cdef inline uint64_t name_bit(const uint8_t* name, uint32_t size) noexcept nogil:
    """One bit of 64, the same for the same name in any case. `size` > 0."""
    return <uint64_t>1 << ((size * 7 + lower(name[0]) * 5 + lower(name[size - 1])) & 63)


cdef tuple list_fields(redacted, Names* names)
    # Fills `names` with header fields; returns the bytes that it points into.
cdef tuple list_parameters(redacted, Names* names)
    # The same with query parameters.
cdef void free_names(Names* names) noexcept nogil
cdef uint8_t kind_of(const Names* names, const uint8_t* name, uint32_t size) noexcept nogil
    # The kind of a name, in any case.
cdef bint is_plain(const uint8_t* text, size_t size, const Names* listed) noexcept nogil
    # Whether a URL surely has nothing to cut. Quick.
cdef void begin_scan(Scan* scan, const uint8_t* text, size_t size, uint8_t kind, const Names* listed) noexcept nogil
cdef bint next_cut(Scan* scan, Cut* cut) noexcept nogil
    # The next part that must not be shown, in order; False at the end.

cdef class Redaction:       # what a table was told not to show
    cdef tuple header_names     # keep the bytes alive that the Names point to
    cdef tuple parameter_names
    cdef Names headers
    cdef Names query
    cdef bytes key              # of the marks of redacted values, or None
    cdef str mark(self, str value)
    cdef str url(self, const uint8_t* text, size_t size, uint8_t kind)
