# The state of one direction's parser, and the steps that its parts share: head (what the bytes of a head say), body,
# resync (finding a message), parser (which of them reads next).

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from sniffer_core.base.counters cimport BYTES_USED, Counter
from sniffer_core.base.memory cimport Pool, pool_give, pool_resize, pool_take
from sniffer_core.message cimport (
    BIT_CONFLICTING_OVERLAP, INCOMPLETE_MALFORMED_, WHOLE, Incomplete, Limits, Message, message_free)
from sniffer_core.protocols.http1.head cimport METHOD_LONGEST, Framing, as_http1
from sniffer_core.tcp.stream cimport Run

cdef enum Event:            # what only the session can decide, or must know
    EVENT_MORE = 0          # nothing: the run is consumed
    EVENT_HEAD = 1          # parser.message has a whole head. The session pairs it and calls http1_frame(), or it calls
                            # http1_reject(), http1_discard() or http1_tunnel()
    EVENT_CUT = 2           # parser.message has a start line, but not its whole head: the session pairs and takes it
    EVENT_END = 3           # parser.message has ended, whole or `incomplete`: the session takes it
    EVENT_HEAD_LOST = 4     # a head ended before its start line did: there is no message, but an exchange all the same
    EVENT_NOT_HTTP = 5      # the direction carries parser.protocol; the parser is DEAD now

cdef enum State:
    START = 0               # between messages: the next byte begins one, blank lines are passed over
    HEAD = 1                # inside a head that did not arrive whole in one run: parser.buffer holds it
    FRAME = 2               # EVENT_HEAD was returned: waits for the session's answer
    BODY_LENGTH = 3         # in a body of known length
    BODY_CLOSE = 4          # in a body that ends with the stream
    CHUNK_SIZE = 5
    CHUNK_EXTENSION = 6
    CHUNK_DATA = 7
    CHUNK_END = 8           # at the CRLF after a chunk's data
    TRAILERS = 9            # in the trailers: parser.buffer holds them
    DONE = 10               # EVENT_END was returned: waits for the session to take the message
    SKIP = 11               # bytes of unknown extent were lost, or were malformed: looking for a message
    TUNNEL = 12             # after 101, or a 2xx to CONNECT: bytes are counted and not read
    DEAD = 13               # not HTTP: the same

cdef enum:
    PIECE = 4096            # a head in pieces is gathered in slices of this, so that little of a run is copied in vain
    BUFFER_FIRST = 512      # bytes of the first block for one
    STAGES = 3              # of an opening: resync.Stage
    LATER_SPACE = METHOD_LONGEST + 1

cdef struct Opening:        # a place in parser.buffer where a start line may begin
    int64_t stamp           # of its first byte
    int64_t ack
    uint32_t at
    uint8_t alive           # False: this place in the struct is not used
    uint8_t sure

cdef struct Openings:
    Opening stage[STAGES]
    Opening later[LATER_SPACE]      # further ones of STAGE_FIRST
    uint32_t later_count

cdef struct Parser:
    Pool* pool
    uint64_t* counters      # by counters.Counter
    const Limits* limits
    Message* message        # the open message; the parser owns it until the session takes it by setting this to NULL
    int64_t boundary        # set by the session: an offset that the other side's ACK marks as a message's end; -1 none
    int64_t position        # stream offset of the next byte
    int64_t last_stamp      # packet time of the last byte consumed

    uint8_t kind            # Kind of its messages
    uint8_t state           # State
    uint8_t after           # DONE: the state that follows, START or SKIP
    uint8_t protocol        # signature.Spoken, with EVENT_NOT_HTTP
    uint8_t at_stream_start # nothing was consumed yet, and the stream's true first byte is known (SYN seen)
    uint8_t begun           # there was input
    uint8_t spoke           # a valid start line was read
    uint8_t strange         # the first bytes were no start line, and no protocol that is known by name
    uint8_t lost            # the next message is `resynced`

    # A head or trailers that came in pieces
    uint8_t candidate       # the head may be none: then the parser returns to SKIP, and nothing is reported
    uint8_t first_sure
    uint8_t* buffer
    uint32_t buffer_size
    uint32_t buffer_space
    uint32_t scanned        # bytes of the buffer that hold no end of head: a search goes on there
    uint32_t lines          # LFs before `scanned`
    uint32_t line_end       # size of the start line; 0 while it is not whole
    uint32_t method_end     # index of the SP after its method; 0 while there is none
    uint32_t seen           # Anomaly bits of the buffer's bytes
    int64_t first_offset    # of the buffer's first byte
    int64_t first_stamp
    int64_t first_ack
    Openings* openings      # where a start line that is not whole may begin; or NULL
    uint64_t skipped        # SKIP: bytes since it began

    # The body of the open message
    Framing framing
    uint64_t remaining      # BODY_LENGTH, CHUNK_DATA: bytes still to come
    uint32_t line_size      # bytes of the present chunk-size line
    uint8_t chunk_digits    # .. of which are digits
    uint8_t chunk_phase     # body.Phase
    uint8_t body_gap        # bytes of it are missing: nothing more of it is kept
    uint8_t probing         # the request is unknown, so this may be no body but the next response: its first bytes are
                            # compared with a status line
    uint8_t probed          # .. and so many of them are alike
    uint8_t ambiguous       # nobody can say whether there is a body: the message is reported as not whole


cdef inline void break_off(Message* message, Incomplete reason) noexcept nogil:
    """Says why the message is not whole; the first reason stands."""
    if message.incomplete == WHOLE:
        message.incomplete = reason


cdef inline void consume(Parser* parser, Run* run, int64_t size, Counter counter) noexcept nogil:
    """Takes `size` bytes from the front of the run, counted under `counter`."""
    if size:
        run.data += size
        run.size -= size
        run.offset += size
        run.segment_start = False
        parser.counters[<int>counter] += size
        parser.position = run.offset
        parser.last_stamp = run.stamp


cdef inline void consume_message(Parser* parser, Run* run, int64_t size) noexcept nogil:
    """Takes `size` bytes of the open message from the front of the run."""
    consume(parser, run, size, BYTES_USED)
    if size:
        parser.message.stamp_end = run.stamp
        parser.message.end_lost = False
        if run.conflict:
            parser.message.anomalies |= BIT_CONFLICTING_OVERLAP


cdef inline bint gather(Parser* parser, const uint8_t* data, uint32_t size) noexcept nogil:
    """Appends to the buffer. False: no memory."""
    cdef uint32_t need = parser.buffer_size + size, space
    cdef uint8_t* buffer
    if need > parser.buffer_space:
        space = max(need, max(<uint32_t>BUFFER_FIRST, 2 * parser.buffer_space))
        if parser.buffer == NULL:
            buffer = <uint8_t*>pool_take(parser.pool, space)
        else:
            buffer = <uint8_t*>pool_resize(parser.pool, parser.buffer, parser.buffer_space, space)
        if buffer == NULL:
            return False
        parser.buffer = buffer
        parser.buffer_space = space
    memcpy(parser.buffer + parser.buffer_size, data, size)
    parser.buffer_size = need
    return True


cdef inline void drop_openings(Parser* parser) noexcept nogil:
    if parser.openings != NULL:
        pool_give(parser.pool, parser.openings, sizeof(Openings))
        parser.openings = NULL


cdef inline void drop_buffer(Parser* parser) noexcept nogil:
    pool_give(parser.pool, parser.buffer, parser.buffer_space)
    parser.buffer = NULL
    parser.buffer_size = parser.buffer_space = parser.scanned = parser.lines = 0
    parser.line_end = parser.method_end = parser.seen = 0
    drop_openings(parser)


cdef inline void drop_message(Parser* parser) noexcept nogil:
    message_free(parser.message, parser.pool)
    parser.message = NULL


cdef inline void start_skip(Parser* parser) noexcept nogil:
    """From here on nobody knows where a message begins."""
    drop_buffer(parser)
    parser.state = SKIP
    parser.skipped = 0
    parser.lost = True


cdef inline void return_to_skip(Parser* parser) noexcept nogil:
    """A candidate was no message: what was lost before it is still lost, and nothing else is."""
    drop_buffer(parser)
    parser.state = SKIP


cdef inline Event finish(Parser* parser, State after) noexcept nogil:
    """The open message ends with the last byte consumed."""
    as_http1(parser.message).end = parser.position
    if parser.ambiguous:
        parser.ambiguous = False
        parser.message.missing = -1
        parser.message.end_lost = True
    parser.state = DONE
    parser.after = after
    drop_buffer(parser)
    if after == SKIP:
        parser.skipped = 0
        parser.lost = True
    return EVENT_END


cdef inline Event finish_incomplete(Parser* parser, Incomplete reason) noexcept nogil:
    """The open message ends here, and where the next one begins is unknown."""
    break_off(parser.message, reason)
    parser.message.missing = -1
    return finish(parser, SKIP)
