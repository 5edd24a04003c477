# What of a message must not be shown: whole values of named header fields, and parts of URLs. This module alone decides
# it. Both forms of a message, the JSON (line.pyx) and the Python attributes (raw.pyx), ask here and write what they are
# told.
#
# A URL is a request target, or the value of a header field that holds URLs. Two parts of it are not shown:
#
# - The value of a listed parameter. A parameter's name begins at the start of the URL or behind `?`, `&`, `;`, `#` or
#   `=`. Parts of a name are also compared on their own: the part in brackets (PHP, Rails), the part before a NUL, and,
#   in a query or fragment, the part behind a slash. Names are compared after percent-decoding, without surrounding
#   blanks and without case. A value ends at `&` or at the end of the URL; in the path also at `/`, `?` or `#`.
# - User info: everything before the last `@` of an authority.
#
# A URL inside a URL is percent-encoded, once for each URL around it. So each character is decoded as often as it was
# encoded; that number is its depth. What begins at one depth ends at the same or at a smaller one, because deeper
# characters belong to a URL inside it.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sniffer_core.base.ascii cimport ascii_lower as lower

cdef enum Kind:             # how a field, or a text, is treated
    SHOWN = 0
    SECRET = 1              # its value must not be shown
    URL = 2                 # parts of its value must not be
    LINK = 3                # the same; its URLs stand between < and > (RFC 8288)
    TARGET = 4              # not a field: the request target, which is treated as a URL

cdef struct Names:          # the names to compare with, in lower case, and filters that rule most others out
    uint32_t count
    uint64_t bits           # name_bit() of each
    uint64_t sizes          # bit n: one of them has n bytes (n < 64); bit 63: one is longer
    uint64_t ends           # a bit for the last two characters of each
    bint ascii              # all names are ASCII
    uint32_t* size
    const uint8_t** name
    uint8_t* kind

cdef struct Scan:           # where the search through a URL stands
    const Names* listed
    const uint8_t* text
    size_t size
    size_t at               # the next character to look at
    size_t name             # where the current parameter's name begins
    size_t url              # where a URL inside this one may begin
    size_t colon            # the last colon
    size_t colon_end        # the character behind it
    bint odd                # the current name has other than plain characters
    bint queried            # a `?` or `#` was seen
    uint8_t kind

cdef struct Cut:            # a part that must not be shown
    size_t at
    size_t end
    bint marked             # True: a mark takes its place; False: nothing does


cdef inline uint64_t name_bit(const uint8_t* name, uint32_t size) noexcept nogil:
    """One bit of 64, the same for the same name in any case. `size` > 0."""
    return <uint64_t>1 << ((size * 7 + lower(name[0]) * 5 + lower(name[size - 1])) & 63)


cdef tuple list_fields(redacted, Names* names)
    # Fills `names` with header fields; returns the bytes that it points into.
cdef tuple list_parameters(redacted, Names* names)
    # The same with query parameters.
cdef void free_names(Names* names) noexcept nogil
cdef uint8_t kind_of(const Names* names, const uint8_t* name, uint32_t size) noexcept nogil
    # What is to be done with the field or parameter of this name, in any case.
cdef bint is_plain(const uint8_t* text, size_t size, const Names* listed) noexcept nogil
    # A quick look. True: the URL certainly has nothing that must not be shown.
cdef void begin_scan(Scan* scan, const uint8_t* text, size_t size, uint8_t kind, const Names* listed) noexcept nogil
cdef bint next_cut(Scan* scan, Cut* cut) noexcept nogil
    # The next part that must not be shown, in order; False at the end.

cdef class Redaction:       # what one FlowTable must not show
    cdef tuple header_names     # keep the bytes alive that the Names point to
    cdef tuple parameter_names
    cdef Names headers
    cdef Names query
    cdef bytes key              # of the marks of redacted values, or None
    cdef str mark(self, str value)
    cdef str url(self, const uint8_t* text, size_t size, uint8_t kind)
