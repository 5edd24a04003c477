# Parses the heads of HTTP/1 messages: start lines, header lines, and what these say about framing (RFC 9112 sections 2
# to 6).
#
# The functions work on bytes in memory and do not know how they arrived. Header lines of the plain grammar (token
# names, visible values, no folds) are parsed here. Other blocks of lines go to h11 (heads.py), which accepts or refuses
# their fields. What they say about framing is read here in any case.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

from sniffer_core.base.ascii cimport SP, is_digit
from sniffer_core.base.memory cimport Pool
from sniffer_core.message cimport Kind, Message, Text

cdef enum:
    METHOD_LONGEST = 17     # bytes of UPDATEREDIRECTREF, the longest method that is_method() accepts
    STATUS_LINE = 12        # bytes of "HTTP/1.1 200"
    LENGTH_NONE = -1        # Framing.length: there is no Content-Length
    LENGTH_INVALID = -2     # Framing.length: the extent of the body is not known (RFC 9112 section 6.3 item 5)

cdef enum:                  # bits of CLASS: where a byte is allowed
    TOKEN = 1               # in a token: tchar, RFC 9110 section 5.6.2
    PLAIN = 2               # in a field value of the plain grammar: visible ASCII, SP and HTAB
    TARGET = 4              # in a request target as sent: all but control characters
    REASON = 8              # in a reason phrase: all but control characters other than HTAB

cdef uint8_t[256] CLASS

cdef struct Http1Message:
    # A message, and what its session needs until it is emitted. Every Message* of HTTP/1 points to one of these.
    Message message         # the first member, for as_http1()
    int64_t start           # stream offset of the first byte
    int64_t head_end        # stream offset behind the head; the `end` of a message that http1_tunnel() ends
    int64_t end             # stream offset behind the last byte; -1 until it has ended
    int64_t ack             # Run.ack of the first byte
    uint8_t sure            # True: the head was where one must be, behind a message or at Parser.boundary. False: it
                            # was found at the first byte of a segment after a loss, and may be part of a body
    uint8_t bodyless        # True: it has no body whatever its fields say (RFC 9112 section 6.3 item 1), or `assumed`
    uint8_t assumed         # True: its request is not known, and a status line where its body would begin shows this
    uint8_t upgrade         # request: True if it has an Upgrade field that Connection names
    uint8_t upgrade_h2c     # request: True if that field names h2c only
    uint8_t expect          # request: True if it has Expect: 100-continue

cdef inline Http1Message* as_http1(const Message* message) noexcept nogil:
    return <Http1Message*>message

cdef struct StartLine:      # every Text counts from the first byte of the line
    uint8_t minor           # of the version; any minor version above 0 is 1
    uint16_t status         # of a status line
    uint32_t anomalies      # Anomaly bits
    Text method
    Text target
    Text reason

cdef struct Head:           # a head, or the part of one that has arrived
    const uint8_t* data
    uint32_t line_end       # size of the start line, LF included
    uint32_t stop           # index behind the header lines, where the blank line begins
    uint32_t end            # index behind the blank line; 0: there is none
    uint32_t lines          # number of header lines
    uint32_t anomalies      # Anomaly bits
    StartLine line

cdef struct Framing:        # what a head says about the extent of its body
    int64_t length          # Content-Length, or LENGTH_NONE or LENGTH_INVALID
    uint8_t transfer        # True: there is a Transfer-Encoding that names a coding other than identity, or none
    uint8_t chunked         # True: the last coding of Transfer-Encoding is chunked
    uint8_t refused         # True: malformed: h11 refused the lines, or one that is no field may frame the body

cdef enum Trailers:         # results of build_trailers()
    TRAILERS_READ = 0
    TRAILERS_REFUSED = 1    # h11 refused the lines
    TRAILERS_NONE = 2       # a line begins the next message, so the body ended without its blank line

cdef inline bint is_status_line(const uint8_t* data, int64_t size) noexcept nogil:
    """Whether `data` begins with "HTTP/1.d ddd"."""
    return (size >= STATUS_LINE and memcmp(data, b"HTTP/1.", 7) == 0 and is_digit(data[7]) and data[8] == SP
            and is_digit(data[9]) and is_digit(data[10]) and is_digit(data[11]))

cdef inline bint is_status_byte(uint32_t i, uint8_t c) noexcept nogil:
    """Whether `c` may be byte `i` < STATUS_LINE of a status line."""
    if i < 7:
        return c == <uint8_t>(<const char*>b"HTTP/1.")[i]
    return c == SP if i == 8 else is_digit(c)

cdef bint parse_start_line(uint8_t kind, const uint8_t* data, uint32_t size, StartLine* line) noexcept nogil
    # Parses the `size` bytes before an LF as a start line (RFC 9112 sections 3 and 4). False: they are none. The target
    # of a request is between the first and the last SP, as it may contain SPs that its sender should have encoded.

cdef bint parse_odd_line(uint8_t kind, const uint8_t* data, uint32_t size, StartLine* line) noexcept nogil
    # The same for a start line that parse_start_line() refuses but that servers or clients accept: a version in small
    # letters or with leading zeros, several blanks between the parts, blanks behind a request line (RFC 9112 section 3)
    # or around a status; in a status line also major version 2 or 3, and a version without a point. Use it only where a
    # message must begin: such a line is no evidence that one does.

cdef uint32_t odd_status(const uint8_t* data, uint32_t size, StartLine* line, bint* more) noexcept nogil
    # Returns the size of the version, blanks and status code that an odd status line begins with. 0: `data` does not
    # begin with these; `more` becomes True if further bytes could complete them.

cdef bint is_method(const uint8_t* data, uint32_t size) noexcept nogil
    # Whether these bytes are a method in use. Where a message need not begin, only these methods are accepted: after a
    # loss a segment may begin inside a method ("ET / HTTP/1.1"), or text of a body may look like a request line.

cdef bint is_cut_method(const uint8_t* data, uint32_t size) noexcept nogil
    # Whether these bytes are the end of a method in use but none ("ET"), or end with another one ("bGET", but also
    # UNLINK). After a loss such bytes begin no message, even at a boundary by an ACK: the ACK may lie inside a method.

cdef uint32_t find_head_end(const uint8_t* data, uint32_t size, uint32_t* scanned, uint32_t* lines) noexcept nogil
    # Returns the index behind the blank line that ends a head; 0: there is none. The search begins at `scanned`, and
    # sets it to where the next one must begin, which keeps the total work linear. `lines` grows by the LFs passed.

cdef inline uint32_t blank_line(const uint8_t* data, uint32_t end) noexcept nogil:
    """Size of the blank line that ends at index `end`."""
    return 2 if end >= 2 and data[end - 2] == 0x0D else 1

cdef uint32_t count_lines(const uint8_t* data, uint32_t size) noexcept nogil

cdef Message* build_message(Pool* pool, uint64_t* counters, uint8_t kind, const Head* head, bint candidate,
                            Framing* framing) noexcept nogil
    # Makes a message of a head, and sets `framing`. `candidate`: it is not sure that a message begins here, so a line
    # that is no field disproves it. NULL: that, or no memory.

cdef Trailers build_trailers(Pool* pool, uint8_t kind, const uint8_t* data, uint32_t stop, uint32_t lines,
                             Message* message) noexcept nogil
    # Sets message.trailers to the trailers in data[:stop], which has `lines` lines. Without memory it stays NULL.

cdef int http1_starts(Kind kind, const uint8_t* data, int64_t size) noexcept nogil
    # Whether `data` begins with a start line. 1: yes, -1: no, 0: there are too few bytes to say.

cdef uint32_t http1_head(Kind kind, const uint8_t* data, uint32_t size) noexcept nogil
    # Size of the whole head that `data` begins with; 0: it begins with none.
