"""Reads the bodies of HTTP/1 messages; see body.pxd."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memchr, memcpy

from sniffer_core.base.ascii cimport CR, HTAB, LF, SEMICOLON, SP, ascii_same, is_digit
from sniffer_core.base.counters cimport RESPONSES_TAKEN_BODYLESS
from sniffer_core.base.memory cimport pool_give, pool_resize, pool_take
from sniffer_core.base.marks cimport (
    BIT_BARE_LF, INCOMPLETE_CLOSED_, INCOMPLETE_EVICTED_, INCOMPLETE_GAP_, INCOMPLETE_LIMIT_, INCOMPLETE_MALFORMED_,
    WHOLE,
)
from sniffer_core.message cimport RESPONSE, Field, Message
from sniffer_core.protocols.http1.head cimport (
    LENGTH_INVALID, STATUS_LINE, TRAILERS_NONE, TRAILERS_READ, Trailers, as_http1, blank_line,
    build_trailers, count_lines, find_head_end, is_status_byte,
)
from sniffer_core.protocols.http1.state cimport (
    BODY_CLOSE, BODY_LENGTH, CHUNK_DATA, CHUNK_END, CHUNK_EXTENSION, CHUNK_SIZE, EVENT_MORE, PIECE, SKIP, START,
    TRAILERS, break_off, consume_message, finish, finish_incomplete, gather,
)

cdef enum:
    LINE_LIMIT = 16384      # most bytes of a chunk's size and extensions
    DIGITS_LIMIT = 16       # most digits of a chunk's size, which has 64 bits
    BODY_FIRST = 1024       # least bytes of the first block for a body, unless it is known to be shorter

cdef enum Phase:            # parser.chunk_phase: the position in a line of chunked framing
    PHASE_START = 0
    PHASE_BLANK = 1         # behind white space that follows a chunk's size
    PHASE_CR = 2            # behind a CR


cdef void begin_body(Parser* parser, bint bodyless, bint paired) noexcept nogil:
    cdef Message* message = parser.message
    cdef bint response = parser.kind == RESPONSE
    parser.state = BODY_LENGTH
    parser.remaining = 0
    # RFC 9112 section 6.3, in its order. Item 2, a 2xx to CONNECT, is decided by the session: http1_tunnel().
    if response and (bodyless or 100 <= message.status < 200 or message.status == 204 or message.status == 304):
        as_http1(message).bodyless = True  # item 1
    elif parser.framing.transfer and parser.framing.chunked:
        start_chunk(parser)  # items 3 and 4: beside a Content-Length too
    elif parser.framing.transfer and response:
        parser.state = BODY_CLOSE  # item 4
    elif parser.framing.transfer or parser.framing.length == LENGTH_INVALID:
        break_off(message, INCOMPLETE_MALFORMED_)  # items 4 and 5: the end of the body is not known
        message.missing = -1
    elif parser.framing.length >= 0:
        parser.remaining = <uint64_t>parser.framing.length  # item 6
    elif response:
        parser.state = BODY_CLOSE  # item 8
    # item 7: a request with neither field has no body
    parser.probed = 0
    parser.probing = response and not paired and (parser.remaining > 0 or parser.state != BODY_LENGTH)


cdef Event read_body(Parser* parser, Run* run) noexcept nogil:
    cdef Event event
    while True:
        if parser.state == BODY_LENGTH:
            event = read_length(parser, run)
        elif parser.state == BODY_CLOSE:
            event = read_close(parser, run)
        elif parser.state == CHUNK_DATA:
            event = read_chunk_data(parser, run)
        elif parser.state == CHUNK_SIZE:
            event = read_chunk_size(parser, run)
        elif parser.state == CHUNK_END:
            event = read_chunk_end(parser, run)
        elif parser.state == CHUNK_EXTENSION:
            event = read_chunk_extension(parser, run)
        else:
            event = read_trailers(parser, run)
        if event != EVENT_MORE or run.size == 0:
            return event


cdef Event lose_body(Parser* parser, int64_t* size) noexcept nogil:
    cdef Message* message = parser.message
    cdef int64_t known = size[0]
    if parser.probing and parser.probed:
        withhold_body(parser)
    parser.probing = False
    if parser.state == BODY_LENGTH and parser.remaining == 0:
        return finish(parser, SKIP if message.missing < 0 else START)
    message.end_lost = True
    if parser.state != BODY_LENGTH and parser.state != CHUNK_DATA and parser.state != BODY_CLOSE:
        return finish_incomplete(parser, INCOMPLETE_GAP_)   # the gap is in the framing of chunks
    break_off(message, INCOMPLETE_GAP_)
    parser.body_gap = True
    if parser.state == CHUNK_DATA and <uint64_t>known > parser.remaining:
        return finish_incomplete(parser, INCOMPLETE_GAP_)
    if parser.state != BODY_CLOSE:
        if <uint64_t>known > parser.remaining:
            known = <int64_t>parser.remaining
        parser.remaining -= known
    message.missing += known
    parser.position += known
    size[0] -= known
    if parser.remaining == 0 and parser.state == BODY_LENGTH:
        return finish(parser, START)
    if parser.remaining == 0 and parser.state == CHUNK_DATA:
        parser.state = CHUNK_END
        parser.chunk_phase = PHASE_START
    return EVENT_MORE


cdef Event end_body(Parser* parser, Incomplete reason) noexcept nogil:
    cdef Message* message = parser.message
    cdef Incomplete why = INCOMPLETE_CLOSED_ if reason == WHOLE else reason
    if parser.probing and parser.probed and parser.state == BODY_LENGTH and parser.remaining:
        withhold_body(parser)
    if parser.state == BODY_LENGTH:
        if parser.remaining:
            break_off(message, why)
            if message.missing >= 0:
                message.missing += <int64_t>parser.remaining
    elif parser.state != BODY_CLOSE or reason != WHOLE:
        break_off(message, why)
        message.missing = -1
    return finish(parser, SKIP if message.missing < 0 else START)


# -- what is kept -----------------------------------------------------------------------------------------------------

cdef void keep(Parser* parser, const uint8_t* data, uint64_t size) noexcept nogil:
    """Counts bytes of the body, and keeps those that are within the limit and before the first missing byte."""
    cdef Message* message = parser.message
    cdef size_t room, need, most, space
    cdef uint8_t* body
    message.body_size += size
    if message.truncated or parser.body_gap:
        return
    room = parser.limits.body - message.body_kept
    if size > room:
        message.truncated = True
        size = room
    if size == 0:
        return
    need = message.body_kept + size
    if need > message.body_space:
        most = parser.limits.body
        if parser.state == BODY_LENGTH and parser.remaining < most - message.body_kept:
            most = message.body_kept + parser.remaining
        space = max(need, min(most, max(<size_t>BODY_FIRST, 2 * message.body_space)))
        if message.body == NULL:
            body = <uint8_t*>pool_take(parser.pool, space)
        else:
            body = <uint8_t*>pool_resize(parser.pool, message.body, message.body_space, space)
        if body == NULL:
            message.truncated = True
            return
        message.body = body
        message.body_space = space
    memcpy(message.body + message.body_kept, data, size)
    message.body_kept = need


cdef size_t drop_body(Parser* parser) noexcept nogil:
    cdef Message* message = parser.message
    cdef size_t space
    if message == NULL or message.body == NULL:
        return 0
    space = message.body_space
    pool_give(parser.pool, message.body, space)
    message.body = NULL
    message.body_kept = message.body_space = 0
    message.truncated = True
    return space


# -- bodies of known length, and those that end with the stream -------------------------------------------------------

cdef bint next_response_instead(Parser* parser, Run* run, Event* event) noexcept nogil:
    """Tests if the body of an unpaired response begins like a status line, as its request may have been HEAD.

    True: a whole status line begins the segment, so it is taken for the next response, and the message has ended with
    `event`. If the bytes are like a status line but it is not sure, the message is marked as not whole, and none of its
    body is kept.
    """
    cdef int64_t size = min(run.size, <int64_t>(STATUS_LINE - parser.probed))
    cdef int64_t i
    for i in range(size):
        if not is_status_byte(<uint32_t>(parser.probed + i), run.data[i]):
            # Bytes behind the body decide nothing that they would not decide in a run of their own.
            if parser.state == BODY_LENGTH and (<uint64_t>i > parser.remaining or (
                    <uint64_t>i == parser.remaining and parser.probed + i >= 7)):
                withhold_body(parser)
            parser.probing = False
            return False
    if size == STATUS_LINE and run.segment_start:
        parser.counters[<int>RESPONSES_TAKEN_BODYLESS] += 1
        as_http1(parser.message).bodyless = as_http1(parser.message).assumed = True
        parser.probing = False
        event[0] = finish(parser, START)
        return True
    parser.probed += <uint8_t>size
    if parser.probed == STATUS_LINE or (parser.state == BODY_LENGTH and (
            parser.remaining < <uint64_t>size or (parser.remaining == <uint64_t>size and parser.probed >= 7))):
        withhold_body(parser)
    return False


cdef void withhold_body(Parser* parser) noexcept nogil:
    """All there is of an unpaired response's body may be the beginning of the next response. It is not kept."""
    break_off(parser.message, INCOMPLETE_GAP_)
    parser.message.body_kept = 0
    parser.message.truncated = False    # no body is kept, so none was cut by the limit
    parser.body_gap = True
    parser.ambiguous = True
    parser.probing = False


cdef Event read_length(Parser* parser, Run* run) noexcept nogil:
    cdef int64_t size = run.size
    cdef Event event = EVENT_MORE
    if size and parser.probing and next_response_instead(parser, run, &event):
        return event
    if parser.remaining and size:
        if <uint64_t>size > parser.remaining:
            size = <int64_t>parser.remaining
        keep(parser, run.data, size)
        parser.remaining -= size
        consume_message(parser, run, size)
    if parser.remaining or (parser.probing and parser.probed):      # the next byte decides if "H" was the whole body
        return EVENT_MORE
    return finish(parser, SKIP if parser.message.missing < 0 else START)


cdef bint says_close(const Message* message) noexcept nogil:
    """Whether a head says that the connection ends behind its message, RFC 9112 section 9.3."""
    cdef const Field* field
    cdef uint32_t i
    for i in range(message.count):
        field = message.fields + i
        if field.name.size == 10 and field.value.size == 5 and \
                ascii_same(message.text + field.name.at, b"connection", 10) and \
                ascii_same(message.text + field.value.at, b"close", 5):
            return True
    return message.minor == 0


cdef Event read_close(Parser* parser, Run* run) noexcept nogil:
    cdef Event event = EVENT_MORE
    cdef const Message* message = parser.message
    if parser.probing and run.size:
        if message.resynced and not as_http1(message).sure and not says_close(message):
            # A start line inside a body, most likely. All that follows on the connection would be taken for this body.
            return finish_incomplete(parser, INCOMPLETE_GAP_)
        if next_response_instead(parser, run, &event):
            return event
    keep(parser, run.data, run.size)
    consume_message(parser, run, run.size)
    return EVENT_MORE


# -- chunks -----------------------------------------------------------------------------------------------------------

cdef void start_chunk(Parser* parser) noexcept nogil:
    parser.state = CHUNK_SIZE
    parser.remaining = 0
    parser.chunk_digits = 0
    parser.line_size = 0
    parser.chunk_phase = PHASE_START


cdef void end_chunk_line(Parser* parser) noexcept nogil:
    """Handles the end of a chunk's size and extensions. A size of 0 is the last chunk (RFC 9112 section 7.1)."""
    if parser.chunk_phase != PHASE_CR:
        parser.message.anomalies |= BIT_BARE_LF
    parser.state = CHUNK_DATA if parser.remaining else TRAILERS
    parser.chunk_phase = PHASE_START


cdef Event read_chunk_size(Parser* parser, Run* run) noexcept nogil:
    cdef int64_t i = 0
    cdef uint8_t c, digit
    cdef Event event = EVENT_MORE
    if parser.probing and run.size and next_response_instead(parser, run, &event):
        return event
    while i < run.size and parser.state == CHUNK_SIZE:
        c = run.data[i]
        digit = 255
        if is_digit(c):
            digit = c - 0x30
        elif 0x61 <= c | 0x20 <= 0x66:
            digit = (c | 0x20) - 0x61 + 10
        if digit < 16 and parser.chunk_phase == PHASE_START and parser.chunk_digits < DIGITS_LIMIT:
            parser.remaining = parser.remaining << 4 | digit
            parser.chunk_digits += 1
        elif parser.chunk_digits == 0:
            break
        elif c == LF:
            end_chunk_line(parser)
        elif parser.chunk_phase == PHASE_CR:
            break
        elif c == CR:
            parser.chunk_phase = PHASE_CR
        elif c == SEMICOLON:
            parser.state = CHUNK_EXTENSION
            parser.chunk_phase = PHASE_START
        elif (c == SP or c == HTAB) and parser.line_size < LINE_LIMIT:
            parser.chunk_phase = PHASE_BLANK
        else:
            break
        i += 1
        parser.line_size += 1
    consume_message(parser, run, i)
    if parser.state == CHUNK_SIZE and run.size:
        return finish_incomplete(parser, INCOMPLETE_MALFORMED_)
    return EVENT_MORE


cdef Event read_chunk_extension(Parser* parser, Run* run) noexcept nogil:
    cdef int64_t window = min(run.size, <int64_t>LINE_LIMIT - parser.line_size)
    cdef const uint8_t* found
    cdef int64_t size
    if run.size == 0:
        return EVENT_MORE
    if window <= 0:
        return finish_incomplete(parser, INCOMPLETE_MALFORMED_)
    found = <const uint8_t*>memchr(run.data, LF, window)
    size = window if found == NULL else found - run.data
    if size:
        parser.chunk_phase = PHASE_CR if run.data[size - 1] == CR else PHASE_START
    if found == NULL:
        parser.line_size += <uint32_t>size
        consume_message(parser, run, size)
        return EVENT_MORE
    consume_message(parser, run, size + 1)
    end_chunk_line(parser)
    return EVENT_MORE


cdef Event read_chunk_data(Parser* parser, Run* run) noexcept nogil:
    cdef int64_t size = run.size
    if <uint64_t>size > parser.remaining:
        size = <int64_t>parser.remaining
    keep(parser, run.data, size)
    parser.remaining -= size
    consume_message(parser, run, size)
    if parser.remaining == 0:
        parser.state = CHUNK_END
        parser.chunk_phase = PHASE_START
    return EVENT_MORE


cdef Event read_chunk_end(Parser* parser, Run* run) noexcept nogil:
    cdef uint8_t c
    while run.size:
        c = run.data[0]
        if c == LF:
            if parser.chunk_phase != PHASE_CR:
                parser.message.anomalies |= BIT_BARE_LF
            consume_message(parser, run, 1)
            start_chunk(parser)
            return EVENT_MORE
        if c != CR or parser.chunk_phase == PHASE_CR:
            return finish_incomplete(parser, INCOMPLETE_MALFORMED_)
        parser.chunk_phase = PHASE_CR
        consume_message(parser, run, 1)
    return EVENT_MORE


# -- trailers ---------------------------------------------------------------------------------------------------------

cdef uint32_t find_trailers_end(
    const uint8_t* data, uint32_t size, uint32_t* scanned, uint32_t* lines
) noexcept nogil:
    """As find_head_end(), but without trailers the blank line comes first."""
    if size and data[0] == LF:
        return 1
    if size >= 2 and data[0] == CR and data[1] == LF:
        return 2
    return find_head_end(data, size, scanned, lines)


cdef Event trailers_whole(Parser* parser, const uint8_t* data, uint32_t end, uint32_t lines) noexcept nogil:
    """Ends the body with data[:end], its trailers and a blank line. `lines`: as find_head_end() counts them."""
    cdef uint32_t blank = blank_line(data, end)
    cdef Trailers read = TRAILERS_READ
    if blank == 1:
        parser.message.anomalies |= BIT_BARE_LF
    if end > blank:
        read = build_trailers(parser.pool, parser.kind, data, end - blank, lines + 1, parser.message)
        if read != TRAILERS_READ:
            break_off(parser.message, INCOMPLETE_MALFORMED_)
        if read == TRAILERS_NONE:
            return finish_incomplete(parser, INCOMPLETE_MALFORMED_)
    return finish(parser, START)


cdef void take_trailers(Parser* parser) noexcept nogil:
    cdef uint32_t lines
    if parser.buffer_size:
        lines = count_lines(parser.buffer, parser.buffer_size)
        if build_trailers(parser.pool, parser.kind, parser.buffer, parser.buffer_size, lines,
                          parser.message) != TRAILERS_READ:
            break_off(parser.message, INCOMPLETE_MALFORMED_)


cdef Event read_trailers(Parser* parser, Run* run) noexcept nogil:
    cdef uint32_t size, end, scanned = 0, lines = 0, limit = parser.limits.head
    cdef const uint8_t* data
    if run.size == 0:
        return EVENT_MORE
    if parser.buffer_size == 0:
        data = run.data
        end = find_trailers_end(data, <uint32_t>min(run.size, <int64_t>limit), &scanned, &lines)
        if end:
            consume_message(parser, run, end)
            return trailers_whole(parser, data, end, lines)
    if parser.buffer_size == limit:
        return finish_incomplete(parser, INCOMPLETE_LIMIT_)
    size = <uint32_t>min(run.size, <int64_t>min(<uint32_t>PIECE, limit - parser.buffer_size))
    if not gather(parser, run.data, size):
        return finish_incomplete(parser, INCOMPLETE_EVICTED_)
    end = find_trailers_end(parser.buffer, parser.buffer_size, &parser.scanned, &parser.lines)
    if end == 0:
        consume_message(parser, run, size)
        return EVENT_MORE
    consume_message(parser, run, size - (parser.buffer_size - end))
    return trailers_whole(parser, parser.buffer, end, parser.lines)
