# ONE direction's HTTP/1.x messages: heads, body framing (length, chunked + trailers, until close), cut and resync.
#
# flow drives it: http1_data() consumes a Run (stream.pxd) until something happens that only flow can decide, and says
# what (Event); flow acts and calls again until MORE. http1_gap() and http1_end() are the other two inputs. The parser
# does no pairing and knows nothing of the other direction, except what flow tells it between two calls.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from sniffer_core.base.memory cimport Pool
from sniffer_core.base.marks cimport Incomplete
from sniffer_core.message cimport Kind, Message
from sniffer_core.tcp.stream cimport Run

cdef enum Event:
    EVENT_MORE = 0          # the run is consumed; nothing to decide
    EVENT_HEAD = 1          # parser.message has a whole head. flow pairs it, then calls http1_frame() (or _reject/_tunnel)
    EVENT_CUT = 2           # parser.message has a start line, and its head ended too early: flow pairs it, then takes it
    EVENT_END = 3           # parser.message has ended (whole, or incomplete says why): flow takes it
    EVENT_HEAD_LOST = 4     # a head ended before its start line did: nothing to emit, but it keeps an exchange
    EVENT_NOT_HTTP = 5      # parser.protocol says what the first bytes of the direction were; the parser is DEAD now

cdef enum Protocol:
    PROTOCOL_HTTP1 = 0
    PROTOCOL_TLS = 1
    PROTOCOL_HTTP2 = 2
    PROTOCOL_OTHER = 3

cdef enum State:
    START = 0               # between messages: the next byte begins one (blank lines are passed over)
    HEAD = 1                # inside a head that did not arrive whole in one run: parser.buffer holds it
    FRAME = 2               # EVENT_HEAD was returned: waits for http1_frame(), _reject() or _tunnel()
    BODY_LENGTH = 3
    BODY_CLOSE = 4          # until the stream ends
    CHUNK_SIZE = 5
    CHUNK_EXTENSION = 6
    CHUNK_DATA = 7
    CHUNK_END = 8           # the CRLF after a chunk's data
    TRAILERS = 9            # parser.buffer holds them
    DONE = 10               # EVENT_END was returned: waits for flow to take the message
    SKIP = 11               # bytes of unknown extent were lost, or were malformed: looking for a sure boundary
    TUNNEL = 12             # after 101 or a 2xx to CONNECT: counted, never read
    DEAD = 13               # not HTTP

cdef struct Http1Message:
    # A message, and what its connection must know of it until it is emitted. A Message* made here points to one.
    Message message         # the first member: as_http1()
    int64_t start           # stream offset of the first byte
    int64_t head_end        # stream offset after the head; for one that http1_tunnel() ends, its `end`
    int64_t end             # stream offset after the last byte, once EVENT_END (-1 before)
    int64_t ack             # Run.ack of the first byte
    uint8_t sure            # True: the head stood where one had to, in step or at parser.boundary. False: it was found
                            # at the first byte of a segment after bytes were lost, and may be part of a body (such a
                            # request has one of the METHODS that parser.pyx knows)
    uint8_t bodyless        # True: framed as without a body (HEAD, 204, 304), whatever its fields say
    uint8_t assumed         # True: bodyless because a status line followed, its request being unknown
    uint8_t upgrade         # request: has an Upgrade field, and Connection names it
    uint8_t upgrade_h2c     # request: that upgrade is to h2c alone
    uint8_t expect          # request: waits for a 100 before it sends its body

cdef inline Http1Message* as_http1(const Message* message) noexcept nogil:
    return <Http1Message*>message

cdef struct Limits:
    uint32_t head           # bytes of a head, and of a chunked body's trailers; also header lines cannot exceed it
    uint32_t body           # bytes of body kept

cdef enum:
    LENGTH_NONE = -1
    LENGTH_INVALID = -2

cdef enum:
    METHOD_LONGEST = 17     # UPDATEREDIRECTREF; of the methods that begin a message where none is due

cdef struct Opening:        # a place in parser.buffer where a start line may begin
    bint alive
    bint sure
    uint32_t at
    int64_t stamp
    int64_t ack

cdef struct Parser:
    uint8_t kind            # Kind
    uint8_t state           # State
    uint8_t protocol        # Protocol, with EVENT_NOT_HTTP
    bint lost               # the next message is `resynced`
    bint spoke              # a valid start line was read in this direction
    bint at_stream_start    # nothing was consumed yet and the stream's true first byte is known (SYN seen)
    Pool* pool
    uint64_t* counters      # counters.Counter
    const Limits* limits
    Message* message        # the open message, owned by the parser until flow takes it; flow sets it to NULL
    int64_t boundary        # set by flow: an offset that the other side's ACK marks as a message's end; -1 none
    uint64_t remaining      # BODY_LENGTH, CHUNK_DATA: bytes still to come
    uint64_t skipped        # SKIP: bytes since it began
    # head and trailers that came in pieces
    uint8_t* buffer
    uint32_t buffer_size
    uint32_t buffer_space
    uint32_t scanned        # of the buffer, known to hold no end of head: rescans stay linear
    # of the first byte of the message in the buffer
    int64_t first_offset
    int64_t first_stamp
    int64_t first_ack
    bint candidate          # the head in the buffer is a resync candidate: a refusal of it leads back to SKIP
    uint8_t chunk_digits
    uint32_t line_size      # bytes of the present chunk-size line

    int64_t position        # stream offset of the next byte
    int64_t last_stamp      # packet time of the last byte consumed
    uint8_t after           # DONE: the State that follows, START or SKIP
    bint begun              # anything was fed
    bint strange            # the first bytes of the direction were no start line, and no protocol that is known by name
    bint doubt              # the body of an unpaired response is about to begin: it may be the next response
    uint8_t doubted         # ... and so many bytes of it could be
    bint unclear            # ... and it is not known whether it is
    uint8_t chunk_phase     # within a line of chunked framing
    uint8_t refused         # the open message is malformed: a line that is no field may frame its body, or h11 refused it
    uint8_t body_gap        # bytes of its body are missing: nothing more of it is kept
    # framing of the open message, as its head says
    bint transfer           # a Transfer-Encoding ..
    bint chunked            # .. that ends in chunked
    int64_t length          # Content-Length; LENGTH_NONE, LENGTH_INVALID
    # a head in the buffer
    Opening[3] openings     # places where its start line may begin, by Stage (http1.pyx)
    Opening* later          # further ones of STAGE_FIRST, in a block of LATER_SPACE, or NULL
    uint32_t later_count
    uint32_t method_end     # index of the SP after the method of STAGE_NAMED
    uint32_t line_end       # size of its start line; 0 while that is not whole
    uint32_t lines          # LFs before `scanned`
    uint32_t seen           # Anomaly bits of its bytes
    bint first_sure

cdef void http1_init(Parser* parser, Kind kind, Pool* pool, uint64_t* counters, const Limits* limits) noexcept nogil
cdef void http1_free(Parser* parser) noexcept nogil
    # Gives back everything, the open message included.

cdef Event http1_data(Parser* parser, Run* run) noexcept nogil
    # Consumes from the front of `run` (data, size, offset, segment_start move on) and stops where flow must decide.

cdef Event http1_gap(Parser* parser, int64_t* size) noexcept nogil
    # `size` > 0 bytes are missing; consumes from it. Returns EVENT_MORE when all of it is dealt with.

cdef Event http1_end(Parser* parser, Incomplete reason) noexcept nogil
    # The stream ended: reason WHOLE is a FIN (an until-close body is whole, anything else open is
    # INCOMPLETE_CLOSED_); otherwise the reason goes into the message.

cdef void http1_frame(Parser* parser, bint bodyless, bint paired) noexcept nogil
    # After EVENT_HEAD: sets the body framing, RFC 9112 section 6. `bodyless`: the response answers HEAD.
    # `paired`: otherwise it does not (an unpaired response whose body would begin with a status line at a segment
    # start is taken as bodyless; at another place that ends it, INCOMPLETE_GAP_). A message without a body makes the next http1_data() return EVENT_END at once,
    # even with an empty run.

cdef void http1_reject(Parser* parser) noexcept nogil
    # After EVENT_HEAD, or with a message open: it is none after all (a start line inside a body). Frees it; SKIP.

cdef void http1_discard(Parser* parser) noexcept nogil
    # After EVENT_HEAD: an interim response (1xx but 101). Frees it; START.

cdef void http1_skip(Parser* parser) noexcept nogil
    # Frees what is open, SKIP: the next boundary decides.

cdef inline bint http1_crlf_due(const Parser* parser) noexcept nogil:
    """Whether the open message lacks nothing but the CRLF behind its last chunk, or behind the trailers so far."""
    return parser.state == TRAILERS and (parser.buffer_size == 0 or parser.buffer[parser.buffer_size - 1] == 10)

cdef void http1_cease(Parser* parser, Incomplete why, uint32_t anomalies) noexcept nogil
    # The open message ends here, before the end that its head announced. WHOLE: its sender meant no more, and the next
    # message follows. Otherwise nobody can tell what the next bytes are: SKIP.

cdef void http1_tunnel(Parser* parser) noexcept nogil
    # Frees what is open; every further byte is counted as tunnel.

cdef void http1_kill(Parser* parser) noexcept nogil
    # Frees what is open; every further byte is counted as not HTTP.

cdef size_t http1_drop_body(Parser* parser) noexcept nogil
    # Memory cap: gives back the kept body of the open message, which is `truncated` from now on; returns the bytes.

cdef int http1_starts(Kind kind, const uint8_t* data, int64_t size) noexcept nogil
    # Whether `data` begins with a start line: 1 yes, -1 no, 0 there are too few bytes to say.

cdef uint32_t http1_head(Kind kind, const uint8_t* data, uint32_t size) noexcept nogil
    # Size of the whole head that `data` begins with; 0 where there is none.
