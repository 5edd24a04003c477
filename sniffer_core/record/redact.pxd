# Decides which parts of a message are redacted: whole values of named header fields, and parts of URLs. Both forms of a
# message, the JSON (line.pyx) and the Python attributes (raw.pyx), use this module.
#
# A URL is a request target, or the value of a header field that holds URLs. Two parts of it are redacted:
#
# - The value of a listed parameter. A parameter's name begins at the start of the URL or behind `?`, `&`, `;`, `#` or
#   `=`, and ends at `=`. Parts of a name are also compared on their own: those that `[`, `]` (PHP, Rails) or a NUL
#   separate, and behind a `?` or `#` those that `/` or `!` separate. Names are compared after percent-decoding, without
#   surrounding blanks and without case. In the path a value ends at `/`, `?` or `#`, behind a `?` or `#` it ends at
#   `&`; otherwise it ends with the URL.
# - User info: everything before the last `@` of an authority.
#
# A URL inside a URL is percent-encoded once for each URL around it. So each character is decoded as often as it was
# encoded; that number is its depth. A part that begins at one depth ends at the same or a smaller depth, because
# deeper characters belong to a URL inside it.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from sniffer_core.base.ascii cimport ascii_lower as lower

cdef enum Kind:             # how the value of a field or parameter is redacted
    SHOWN = 0               # it is not
    SECRET = 1              # as a whole
    URL = 2                 # as a URL
    LINK = 3                # as URLs between < and > (RFC 8288)
    TARGET = 4              # as a URL; not a field, but the request target

cdef struct Names:          # listed names in lower case, and filters that rule out most others
    uint32_t count
    uint64_t bits           # name_bit() of each
    uint64_t sizes          # bit n < 63: one of them has n bytes; bit 63: one has 63 or more
    uint16_t first[64]      # by size: where the names of it begin, which stand together; the last: 63 bytes or more
    uint64_t ends           # end_bit() of the last two characters of each
    bint ascii              # True: all names are ASCII
    bint hides              # True: one of them is SECRET
    uint32_t* size
    const uint8_t** name
    uint8_t* kind

cdef struct Scan:           # the state of a search through a URL
    const Names* listed
    const uint8_t* text
    size_t size
    size_t at               # the next character to look at
    size_t name             # where the current parameter's name begins
    size_t url              # where a URL inside this one may begin
    size_t colon            # where the last colon begins
    size_t colon_end        # ... and ends: it may be percent-encoded
    bint odd                # True: the current name may have other than plain characters, so it must be decoded
    bint queried            # True: a `?` or `#` was seen
    bint all                # True: behind a `?` or `#` every value is redacted, and a parameter without a name too
    uint8_t kind            # Kind

cdef struct Cut:            # a part to redact
    size_t at
    size_t end
    bint marked             # True: a mark takes its place; False: it is left out


cdef inline uint64_t name_bit(const uint8_t* name, uint32_t size) noexcept nogil:
    """One of 64 bits, which does not depend on the name's case. `size` must not be 0."""
    return <uint64_t>1 << ((size * 7 + lower(name[0]) * 5 + lower(name[size - 1])) & 63)


cdef tuple fill(kinds, Names* names)
    # Fills `names` from a dict of names (bytes in lower case) and their kinds; returns what the next function does.
cdef tuple list_fields(redacted, Names* names)
    # Fills `names` with the redacted header fields and those that hold URLs. Returns the bytes objects that `names`
    # points into; the caller keeps them. MemoryError: no memory.
cdef tuple list_parameters(redacted, Names* names)
    # The same for the redacted parameters of URLs.
cdef void free_names(Names* names) noexcept nogil
cdef uint8_t kind_of(const Names* names, const uint8_t* name, uint32_t size) noexcept nogil
    # The Kind of the field or parameter with this name, in any case.
cdef bint is_plain(const uint8_t* text, size_t size, const Names* listed) noexcept nogil
    # A quick test. True: next_cut() would find nothing in this URL. False: it may.
cdef void begin_scan(Scan* scan, const uint8_t* text, size_t size, uint8_t kind, const Names* listed) noexcept nogil
cdef bint is_exempt(const uint8_t* name, uint32_t size) noexcept nogil
    # Whether a field is shown although its sender holds it for a secret: framing and gRPC need it.
cdef bint next_cut(Scan* scan, Cut* cut) noexcept nogil
    # Finds the next part to redact, in order. False: there is none.

cdef class Redaction:       # what a FlowTable redacts
    cdef tuple header_names     # the bytes objects that `headers` points into
    cdef tuple parameter_names  # the bytes objects that `query` points into
    cdef Names headers
    cdef Names query
    cdef bytes key              # the key of the marks, or None
    cdef bint again             # True: what is redacted was written by a sniffer before, so a mark stays as it is
    cdef str mark(self, str value)
    cdef bytes mark_bytes(self, bytes value)
    cdef str url(self, const uint8_t* text, size_t size, uint8_t kind, bint all=*)
