# Heads of HTTP/1 messages: start lines, header lines, what they say about framing (RFC 9112 sections 2 to 6).
#
# These functions look at bytes that are there and know nothing of how they arrived. The plain grammar (token names,
# visible values, no folds) is read here. A block of lines that it declines goes to h11 (heads.py), which decides
# whether its fields are accepted; what such a block says about framing is read here all the same.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

from sniffer_core.base.ascii cimport SP, is_digit
from sniffer_core.base.memory cimport Pool
from sniffer_core.message cimport Kind, Message, Text

cdef enum:
    METHOD_LONGEST = 17     # bytes of UPDATEREDIRECTREF, the longest method that is_method() knows
    STATUS_LINE = 12        # bytes of "HTTP/1.1 200"
    LENGTH_NONE = -1        # Framing.length: there is no Content-Length
    LENGTH_INVALID = -2     # Framing.length: there is one, and nobody can say what it means

cdef enum:                  # bits of CLASS
    TOKEN = 1               # tchar, RFC 9110 section 5.6.2
    PLAIN = 2               # visible ASCII, SP and HTAB: field values of the plain grammar
    TARGET = 4              # no control character: request targets, as sent
    REASON = 8              # no control character but HTAB

cdef uint8_t[256] CLASS

cdef struct Http1Message:
    # A message, and what its connection must know of it until it is emitted. Every Message* of HTTP/1 points to one.
    Message message         # the first member: as_http1()
    int64_t start           # stream offset of the first byte
    int64_t head_end        # stream offset after the head; for one that http1_tunnel() ends, its `end`
    int64_t end             # stream offset after the last byte; -1 until it has ended
    int64_t ack             # Run.ack of the first byte
    uint8_t sure            # True: the head stood where one had to, in step or at Parser.boundary. False: it was found
                            # at the first byte of a segment after bytes were lost, and may be part of a body
    uint8_t bodyless        # True: framed as without a body (HEAD, 204, 304), whatever its fields say
    uint8_t assumed         # True: bodyless because a status line followed, its request being unknown
    uint8_t upgrade         # request: has an Upgrade field, and Connection names it
    uint8_t upgrade_h2c     # request: that upgrade is to h2c alone
    uint8_t expect          # request: waits for a 100 before it sends its body

cdef inline Http1Message* as_http1(const Message* message) noexcept nogil:
    return <Http1Message*>message

cdef struct StartLine:
    uint8_t minor           # of the version
    uint16_t status         # of a status line
    uint32_t anomalies      # Anomaly bits
    Text method             # counted from the first byte of the line
    Text target
    Text reason

cdef struct Head:           # a head, or what there is of one
    const uint8_t* data
    uint32_t line_end       # size of the start line, LF included
    uint32_t stop           # where the header lines end: behind them stands the blank line
    uint32_t end            # after the blank line; 0: there is none
    uint32_t lines          # number of header lines
    uint32_t anomalies      # Anomaly bits of its bytes
    StartLine line

cdef struct Framing:        # what a head says about the extent of its body
    int64_t length          # Content-Length; or LENGTH_NONE, LENGTH_INVALID
    uint8_t transfer        # there is a Transfer-Encoding other than identity
    uint8_t chunked         # .. and its last coding is chunked
    uint8_t refused         # a line that is no field may frame the body, or h11 refused the lines: malformed

cdef enum Trailers:         # what build_trailers() made of them
    TRAILERS_READ = 0
    TRAILERS_REFUSED = 1    # h11 refused a line
    TRAILERS_NONE = 2       # a line begins a message, so the body ended without its blank line

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
    # Whether `size` bytes before an LF are a start line, RFC 9112 sections 3 and 4. The target is split off at the
    # first and the last SP: it may hold others, which its sender did not encode.

cdef bint parse_odd_line(uint8_t kind, const uint8_t* data, uint32_t size, StartLine* line) noexcept nogil
    # Whether `size` bytes before an LF are a start line that parse_start_line() refuses and that servers or clients
    # accept: a version in small letters or with leading zeros, several blanks between the parts, blanks and tabs behind
    # a request line (RFC 9112 section 3) or around a status; in a status line a later major version, and a version
    # without a point. Only for a place where a message is due: such a line is no evidence that a message begins.

cdef uint32_t odd_status(const uint8_t* data, uint32_t size, StartLine* line, bint* more) noexcept nogil
    # Size of the version, the blanks and the code that an odd status line begins with. 0: `data` begins with nothing of
    # the kind; `more` says whether further bytes could make it so.

cdef bint is_method(const uint8_t* data, uint32_t size) noexcept nogil
    # Whether these bytes are a method in use. Where it is not sure that a message begins, no other begins one: behind
    # lost bytes a segment may begin inside a method ("ET / HTTP/1.1"), and text in a body that the next request follows
    # looks like one.

cdef bint is_cut_method(const uint8_t* data, uint32_t size) noexcept nogil
    # Whether these bytes are no method in use, but the rest of one ("ET") or one behind other letters ("bGET"). Behind
    # lost bytes they begin no request, even where an ACK says that a message begins: the ACK may stand within a line.

cdef uint32_t find_head_end(const uint8_t* data, uint32_t size, uint32_t* scanned, uint32_t* lines) noexcept nogil
    # One past the blank line that ends a head; 0: there is none. `scanned` is where the search goes on, so that it
    # stays linear when bytes are added, `lines` the number of LFs before it.

cdef inline uint32_t blank_line(const uint8_t* data, uint32_t end) noexcept nogil:
    """Size of the blank line that ends at `end`."""
    return 2 if end >= 2 and data[end - 2] == 0x0D else 1

cdef uint32_t count_lines(const uint8_t* data, uint32_t size) noexcept nogil

cdef Message* build_message(Pool* pool, uint64_t* counters, uint8_t kind, const Head* head, bint candidate,
                            Framing* framing) noexcept nogil
    # A message with the start line and the header lines of a head, and what they say about its body. NULL: no memory,
    # or `candidate` and a line is no field.

cdef Trailers build_trailers(Pool* pool, uint8_t kind, const uint8_t* data, uint32_t stop, uint32_t lines,
                             Message* message) noexcept nogil
    # Gives `message` the trailers in data[:stop], as far as there is memory.

cdef int http1_starts(Kind kind, const uint8_t* data, int64_t size) noexcept nogil
    # Whether `data` begins with a start line: 1 yes, -1 no, 0 there are too few bytes to say.

cdef uint32_t http1_head(Kind kind, const uint8_t* data, uint32_t size) noexcept nogil
    # Size of the whole head that `data` begins with; 0 where there is none.
