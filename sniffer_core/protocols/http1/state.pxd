# The state of one direction's parser, and the functions that its modules share: head, body, resync (finds the next
# message) and parser (chooses which of them reads next).

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from sniffer_core.base.counters cimport BYTES_USED, Counter
from sniffer_core.base.memory cimport Pool, pool_give, pool_resize, pool_take
from sniffer_core.base.marks cimport BIT_CONFLICTING_OVERLAP, INCOMPLETE_MALFORMED_, WHOLE, Incomplete
from sniffer_core.message cimport Limits, Message, message_free
from sniffer_core.protocols.http1.head cimport METHOD_LONGEST, Framing, as_http1
from sniffer_core.tcp.stream cimport Run

cdef enum Event:            # what the session must decide or know
    EVENT_MORE = 0          # nothing: all input is consumed
    EVENT_HEAD = 1          # parser.message has a whole head. The session pairs it and calls http1_frame(), or it calls
                            # http1_reject(), http1_discard() or http1_tunnel()
    EVENT_CUT = 2           # parser.message has a start line, but not its whole head: the session pairs and takes it
    EVENT_END = 3           # parser.message has ended, whole or `incomplete`: the session takes it
    EVENT_HEAD_LOST = 4     # a head has ended before its start line did: an exchange without a message
    EVENT_NOT_HTTP = 5      # the direction carries parser.protocol, and the state is DEAD

cdef enum State:
    START = 0               # between two messages: after any blank lines the next one begins
    HEAD = 1                # inside a head that was not whole in one run: parser.buffer holds it
    FRAME = 2               # EVENT_HEAD was returned: waits for the session's answer
    BODY_LENGTH = 3         # in a body of known length
    BODY_CLOSE = 4          # in a body that ends with the stream
    CHUNK_SIZE = 5
    CHUNK_EXTENSION = 6
    CHUNK_DATA = 7
    CHUNK_END = 8           # at the CRLF after a chunk's data
    TRAILERS = 9            # in the trailers: parser.buffer holds them
    DONE = 10               # EVENT_CUT or EVENT_END was returned: waits for the session to take the message
    SKIP = 11               # looking for a message, after a loss or malformed bytes
    TUNNEL = 12             # after 101, or a 2xx to CONNECT: bytes are counted and not read
    DEAD = 13               # not HTTP: bytes are counted and not read

cdef enum:
    PIECE = 4096            # bytes of a slice that is gathered at once: few bytes behind the head are copied needlessly
    BUFFER_FIRST = 512      # least bytes of parser.buffer
    STAGES = 3              # number of stages of an opening, see resync.Stage
    LATER_SPACE = METHOD_LONGEST + 1    # entries of Openings.later

cdef struct Opening:        # a place in parser.buffer where a start line may begin
    int64_t stamp           # of its first byte
    int64_t ack             # Run.ack of its first byte
    uint32_t at             # its index in the buffer
    uint8_t alive           # True: this entry is used
    uint8_t sure            # Http1Message.sure

cdef struct Openings:
    Opening stage[STAGES]           # by resync.Stage
    Opening later[LATER_SPACE]      # further openings in STAGE_FIRST
    uint32_t later_count

cdef struct Parser:
    Pool* pool
    uint64_t* counters      # by counters.Counter
    const Limits* limits
    Message* message        # the open message; the parser owns it until the session takes it by setting this to NULL
    int64_t boundary        # set by the session: offset where, by the other side's ACK, a message ends; -1 none
    int64_t position        # stream offset of the next byte
    int64_t last_stamp      # packet time of the last byte consumed

    uint8_t kind            # Kind of its messages
    uint8_t state           # State
    uint8_t after           # DONE: the state that follows, START or SKIP
    uint8_t protocol        # signature.Spoken, with EVENT_NOT_HTTP
    uint8_t at_stream_start     # True: the stream is read from its true first byte, and no head was read yet
    uint8_t begun           # True: there was input
    uint8_t spoke           # True: a message was built, so the direction speaks HTTP
    uint8_t strange         # True: the direction began with neither a start line nor TLS nor HTTP/2
    uint8_t lost            # True: the next message will be `resynced`

    # A head, or trailers, that are not whole in one run
    uint8_t candidate       # True: it is not sure that this is a head; if not, the parser returns to SKIP
    uint8_t first_sure      # Http1Message.sure of the message
    uint8_t* buffer
    uint32_t buffer_size    # bytes gathered
    uint32_t buffer_space   # bytes of the block
    uint32_t scanned        # see find_head_end()
    uint32_t lines          # see find_head_end()
    uint32_t line_end       # size of the start line; 0: it is not whole
    uint32_t method_end     # index of the SP behind its method; 0: there is none yet
    uint32_t seen           # Anomaly bits of the gathered bytes
    int64_t first_offset    # of the first byte gathered
    int64_t first_stamp     # of the same byte
    int64_t first_ack       # Run.ack of the same byte
    Openings* openings      # where a start line that is not whole may begin; or NULL
    uint64_t skipped        # SKIP: bytes since it began

    # The body of the open message
    Framing framing
    uint64_t remaining      # BODY_LENGTH, CHUNK_DATA: bytes still to come
    uint32_t line_size      # bytes read of the current chunk's size and extensions
    uint8_t chunk_digits    # digits read of its size
    uint8_t chunk_phase     # body.Phase
    uint8_t body_gap        # True: nothing more of the body is kept, because bytes of it are missing
    uint8_t probing         # True: the request is not known, so the next bytes are compared with a status line: they
                            # may be the next response instead of a body
    uint8_t probed          # probing: number of bytes that match so far
    uint8_t ambiguous       # True: it is not known if there is a body, so the message is reported as not whole


cdef inline void break_off(Message* message, Incomplete reason) noexcept nogil:
    """Marks a message as not whole. Only the first reason is kept."""
    if message.incomplete == WHOLE:
        message.incomplete = reason


cdef inline void consume(Parser* parser, Run* run, int64_t size, Counter counter) noexcept nogil:
    """Takes `size` bytes from the front of the run, and counts them under `counter`."""
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
    """Appends bytes to the buffer. False: no memory."""
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
    """Begins to look for a message, whose position is not known."""
    drop_buffer(parser)
    parser.state = SKIP
    parser.skipped = 0
    parser.lost = True


cdef inline void return_to_skip(Parser* parser) noexcept nogil:
    """Continues to look for a message behind a candidate that was none. `lost` stays as it was."""
    drop_buffer(parser)
    parser.state = SKIP


cdef inline Event finish(Parser* parser, State after) noexcept nogil:
    """Ends the open message with the last byte consumed. `after`: START or SKIP, the state that follows DONE."""
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
    """Ends the open message as not whole; where the next one begins is not known."""
    break_off(parser.message, reason)
    parser.message.missing = -1
    return finish(parser, SKIP)
