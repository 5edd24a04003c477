"""The state machine of one direction's HTTP/1.x messages; see parser.pxd for its inputs, state.pxd for its states.

A head that is whole in one run is read there, without a copy. Other heads are gathered in parser.buffer first. The
result does not depend on how the stream is cut into runs; `limits.head` counts bytes of the head.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memchr, memset

from sniffer_core.base.ascii cimport CR, LF
from sniffer_core.base.counters cimport (
    BYTES_ABANDONED_NOT_HTTP, BYTES_ABANDONED_SKIPPED, BYTES_ABANDONED_TUNNEL, BYTES_USED, HEADS_CUT,
    START_LINES_MALFORMED,
)
from sniffer_core.base.marks cimport (
    BIT_BARE_LF, BIT_CONFLICTING_OVERLAP, INCOMPLETE_CLOSED_, INCOMPLETE_GAP_, INCOMPLETE_LIMIT_, WHOLE,
)
from sniffer_core.message cimport Message
from sniffer_core.protocols.http1.body cimport begin_body, drop_body, end_body, lose_body, read_body, take_trailers
from sniffer_core.protocols.http1.head cimport (
    Head, as_http1, blank_line, build_message, count_lines, find_head_end, parse_odd_line, parse_start_line,
)
from sniffer_core.protocols.http1.resync cimport (
    FOUND_LINE, FOUND_NOTHING, FOUND_PROTOCOL, FOUND_START, SCAN_FOUND, SCAN_NONE, Found, Scan, drop_first_opening,
    find_message, open_at, scan_line, scan_odd_line, skip_on,
)
from sniffer_core.protocols.http1.state cimport (
    BODY_LENGTH, DEAD, DONE, EVENT_CUT, EVENT_HEAD, EVENT_HEAD_LOST, EVENT_MORE, EVENT_NOT_HTTP, FRAME, HEAD, PIECE,
    SKIP, START, TRAILERS, TUNNEL, consume, drop_buffer, drop_message, finish, finish_incomplete, gather,
    return_to_skip, start_skip,
)
from sniffer_core.protocols.signature cimport PROTOCOL_HTTP1, PROTOCOL_HTTP2, PROTOCOL_TLS, Spoken, signature


# -- heads ------------------------------------------------------------------------------------------------------------

cdef inline bint build(Parser* parser, const Head* head, bint candidate) noexcept nogil:
    """Makes a message of this head. False: it is no head, or there is no memory; the state is then SKIP."""
    cdef Message* message = build_message(parser.pool, parser.counters, parser.kind, head, candidate, &parser.framing)
    if message == NULL:
        if candidate:
            return_to_skip(parser)
        else:
            start_skip(parser)
        return False
    message.resynced = parser.lost
    parser.message = message
    parser.body_gap = False
    parser.lost = False
    parser.spoke = True
    return True


cdef inline Event head_read(Parser* parser, int64_t start, int64_t stamp, int64_t ack, bint sure) noexcept nogil:
    """Completes a message that build() has made. parser.position must be the end of its head."""
    cdef Message* message = parser.message
    as_http1(message).start = start
    as_http1(message).head_end = parser.position
    as_http1(message).ack = ack
    as_http1(message).sure = sure
    message.stamp = stamp
    message.stamp_end = parser.last_stamp
    parser.at_stream_start = False
    parser.state = FRAME
    drop_buffer(parser)
    return EVENT_HEAD


cdef inline Event read_whole_head(Parser* parser, Run* run, Head* head, bint candidate, bint sure) noexcept nogil:
    """Reads the head run.data[:head.end]. EVENT_MORE: it is no head, or there is no memory; the state is then SKIP."""
    cdef int64_t start = run.offset
    cdef uint32_t blank = blank_line(run.data, head.end)
    head.data = run.data
    head.stop = head.end - blank
    head.anomalies = BIT_CONFLICTING_OVERLAP if run.conflict else 0
    if blank == 1:
        head.anomalies |= BIT_BARE_LF
    if not build(parser, head, candidate):
        return EVENT_MORE
    consume(parser, run, head.end, BYTES_USED)
    return head_read(parser, start, run.stamp, run.ack, sure)


cdef Event read_start(Parser* parser, Run* run) noexcept nogil:
    """Reads between two messages. Blank lines before a start line are ignored (RFC 9112 section 2.2)."""
    cdef int64_t blank = 0
    cdef uint32_t window, scanned
    cdef const uint8_t* found
    cdef Head head
    while blank < run.size and (run.data[blank] == CR or run.data[blank] == LF):
        blank += 1
    consume(parser, run, blank, BYTES_USED)
    if run.size == 0:
        return EVENT_MORE
    window = <uint32_t>min(run.size, <int64_t>parser.limits.head)
    found = <const uint8_t*>memchr(run.data, LF, window)
    if found == NULL:
        start_gathering(parser, run, 0, False, True)
        return EVENT_MORE
    head.line_end = <uint32_t>(found - run.data) + 1
    if not parse_start_line(parser.kind, run.data, head.line_end - 1, &head.line) and \
            not parse_odd_line(parser.kind, run.data, head.line_end - 1, &head.line):
        return no_start_line(parser, run.data, run.size)
    scanned = head.line_end - 1
    head.lines = 0
    head.end = find_head_end(run.data, window, &scanned, &head.lines)
    if head.end:
        return read_whole_head(parser, run, &head, False, True)
    start_gathering(parser, run, head.line_end, False, True)
    return EVENT_MORE


cdef Event no_start_line(Parser* parser, const uint8_t* data, int64_t size) noexcept nogil:
    """Handles bytes that are no start line where a message must begin. EVENT_MORE: the state is then SKIP."""
    cdef Spoken protocol
    if not parser.spoke:
        protocol = signature(data, size, True)
        if protocol == PROTOCOL_TLS or protocol == PROTOCOL_HTTP2:
            drop_buffer(parser)
            parser.protocol = protocol
            parser.state = DEAD
            return EVENT_NOT_HTTP
        parser.strange = True
    parser.counters[<int>START_LINES_MALFORMED] += 1
    parser.at_stream_start = False
    start_skip(parser)
    return EVENT_MORE


cdef Event read_skip(Parser* parser, Run* run) noexcept nogil:
    """Looks for the beginning of a message."""
    cdef Head head
    cdef Event event
    cdef Found found
    cdef bint sure = False
    while True:
        found = find_message(parser, run, &head, &sure)
        if found == FOUND_NOTHING:
            return EVENT_MORE
        if found == FOUND_PROTOCOL:
            return EVENT_NOT_HTTP
        if found == FOUND_START:
            start_gathering(parser, run, 0, True, sure)
            return EVENT_MORE
        if found == FOUND_LINE:
            start_gathering(parser, run, head.line_end, not sure, sure)
            return EVENT_MORE
        event = read_whole_head(parser, run, &head, not sure, sure)
        if parser.state != SKIP:
            return event
        skip_on(parser, run)    # it is no head


# -- heads in pieces --------------------------------------------------------------------------------------------------

cdef void start_gathering(Parser* parser, Run* run, uint32_t line_end, bint candidate, bint sure) noexcept nogil:
    """Begins to gather a head that starts with the run and does not end in it.

    `line_end`: size of its start line; 0: that does not end in the run either.
    """
    parser.state = HEAD
    parser.candidate = candidate
    parser.first_offset = run.offset
    parser.first_stamp = run.stamp
    parser.first_ack = run.ack
    parser.first_sure = sure
    if line_end == 0:
        open_at(parser, run, sure)
        return
    parser.line_end = line_end
    parser.scanned = line_end - 1


cdef Event read_head(Parser* parser, Run* run) noexcept nogil:
    """Adds a slice of the run to the buffer and looks for the end of the head. No slice goes beyond parser.boundary."""
    cdef uint32_t size, before, end = 0, limit = parser.limits.head
    cdef bint boundary
    cdef Scan scan
    if run.size == 0:
        return EVENT_MORE
    if parser.buffer_size == limit:
        return limit_reached(parser)
    boundary = run.offset == parser.boundary
    if parser.candidate and run.offset > parser.first_offset:
        if parser.line_end and boundary:  # a message begins here, so the candidate is none
            return_to_skip(parser)
            return EVENT_MORE
        if not parser.line_end and (boundary or run.segment_start):
            open_at(parser, run, boundary)
    size = <uint32_t>min(run.size, <int64_t>min(<uint32_t>PIECE, limit - parser.buffer_size))
    if run.offset < parser.boundary < run.offset + size:
        size = <uint32_t>(parser.boundary - run.offset)
    before = parser.buffer_size
    if not gather(parser, run.data, size):
        if parser.candidate:
            return_to_skip(parser)
        else:
            start_skip(parser)
        consume(parser, run, size, BYTES_ABANDONED_SKIPPED)
        return EVENT_MORE
    if run.conflict:
        parser.seen |= BIT_CONFLICTING_OVERLAP
    if parser.line_end == 0:
        scan = scan_line(parser, before)
        if scan == SCAN_NONE and not parser.candidate:
            scan = scan_odd_line(parser, before)
        if scan != SCAN_FOUND:
            return line_not_read(parser, run, size, scan)
    if parser.buffer_size >= parser.line_end:  # otherwise the rest of the start line is still in the run
        end = find_head_end(parser.buffer, parser.buffer_size, &parser.scanned, &parser.lines)
    if end == 0:
        consume(parser, run, size, BYTES_USED)
        return EVENT_MORE
    consume(parser, run, size - (parser.buffer_size - end), BYTES_USED)
    return read_gathered_head(parser, end)


cdef Event limit_reached(Parser* parser) noexcept nogil:
    """Handles a head that is longer than `limits.head`."""
    if parser.candidate:
        if parser.line_end or not drop_first_opening(parser):
            return_to_skip(parser)
        return EVENT_MORE
    if parser.line_end:
        return cut(parser, INCOMPLETE_LIMIT_)
    return no_start_line(parser, parser.buffer, parser.buffer_size)


cdef Event line_not_read(Parser* parser, Run* run, uint32_t size, Scan scan) noexcept nogil:
    """Handles a slice that has not completed a start line: the first `size` bytes of the run, already in the buffer."""
    cdef Event event
    if scan == SCAN_NONE and not parser.candidate:
        if not parser.spoke and signature(parser.buffer, parser.buffer_size, True) == PROTOCOL_HTTP1:
            consume(parser, run, size, BYTES_USED)  # too few bytes to recognise TLS or HTTP/2
            return EVENT_MORE
        event = no_start_line(parser, parser.buffer, parser.buffer_size)
        parser.skipped += size
        consume(parser, run, size, BYTES_ABANDONED_NOT_HTTP if event == EVENT_NOT_HTTP else BYTES_ABANDONED_SKIPPED)
        return event
    if scan == SCAN_NONE:
        return_to_skip(parser)
    if parser.candidate:
        parser.skipped += size
    consume(parser, run, size, BYTES_ABANDONED_SKIPPED if parser.candidate else BYTES_USED)
    return EVENT_MORE


cdef inline void describe_gathered(Parser* parser, Head* head) noexcept nogil:
    """Reads the start line that begins the buffer and that one of the two functions accepts."""
    head.data = parser.buffer
    head.line_end = parser.line_end
    if not parse_start_line(parser.kind, parser.buffer, parser.line_end - 1, &head.line):
        parse_odd_line(parser.kind, parser.buffer, parser.line_end - 1, &head.line)


cdef inline Event gathered_head_read(Parser* parser) noexcept nogil:
    return head_read(parser, parser.first_offset, parser.first_stamp, parser.first_ack, parser.first_sure)


cdef Event read_gathered_head(Parser* parser, uint32_t end) noexcept nogil:
    """Reads the head buffer[:end]."""
    cdef Head head
    cdef uint32_t blank = blank_line(parser.buffer, end)
    describe_gathered(parser, &head)
    head.stop = end - blank
    head.lines = parser.lines
    head.anomalies = parser.seen
    if blank == 1:
        head.anomalies |= BIT_BARE_LF
    return gathered_head_read(parser) if build(parser, &head, parser.candidate) else EVENT_MORE


cdef Event cut(Parser* parser, Incomplete reason) noexcept nogil:
    """Ends the head in the buffer. With a whole start line it becomes a message, with its whole header lines."""
    cdef Head head
    cdef uint32_t stop = parser.buffer_size
    if parser.candidate:
        return_to_skip(parser)
        return EVENT_MORE
    if parser.line_end == 0:
        parser.counters[<int>HEADS_CUT] += 1
        start_skip(parser)
        return EVENT_HEAD_LOST
    while parser.buffer[stop - 1] != LF:
        stop -= 1
    describe_gathered(parser, &head)
    head.stop = stop
    head.lines = count_lines(parser.buffer + parser.line_end, stop - parser.line_end)
    head.anomalies = parser.seen
    if not build(parser, &head, False):
        return EVENT_MORE
    gathered_head_read(parser)
    finish_incomplete(parser, reason)
    return EVENT_CUT


# -- inputs -----------------------------------------------------------------------------------------------------------

cdef inline void begin(Parser* parser) noexcept nogil:
    """At the first input: if it may not be the first byte of the stream, a message must be looked for."""
    if not parser.begun:
        parser.begun = True
        if not parser.at_stream_start and parser.state == START:
            parser.state = SKIP


cdef inline void leave_done(Parser* parser) noexcept nogil:
    """Leaves the state DONE, so that the parser reads on behind a message that has ended."""
    if parser.state == DONE:
        drop_message(parser)  # it is NULL if the session has taken it
        parser.state = parser.after


cdef void http1_init(Parser* parser, Kind kind, Pool* pool, uint64_t* counters, const Limits* limits) noexcept nogil:
    memset(parser, 0, sizeof(Parser))
    parser.kind = kind
    parser.state = START
    parser.pool = pool
    parser.counters = counters
    parser.limits = limits
    parser.boundary = -1


cdef void http1_free(Parser* parser) noexcept nogil:
    drop_buffer(parser)
    drop_message(parser)


cdef Event http1_data(Parser* parser, Run* run) noexcept nogil:
    cdef Event event = EVENT_MORE
    if run.size:
        parser.position = run.offset
    begin(parser)
    leave_done(parser)
    while True:
        if BODY_LENGTH <= parser.state <= TRAILERS:
            event = read_body(parser, run)
        elif parser.state == START:
            event = read_start(parser, run)
        elif parser.state == HEAD:
            event = read_head(parser, run)
        elif parser.state == SKIP:
            event = read_skip(parser, run)
        elif parser.state == TUNNEL:
            consume(parser, run, run.size, BYTES_ABANDONED_TUNNEL)
        elif parser.state == DEAD:
            consume(parser, run, run.size, BYTES_ABANDONED_NOT_HTTP)
        else:  # FRAME: the session has not answered EVENT_HEAD
            return EVENT_HEAD
        if event != EVENT_MORE or run.size == 0:
            return event


cdef Event http1_gap(Parser* parser, int64_t* size) noexcept nogil:
    cdef Event event = EVENT_MORE
    begin(parser)
    leave_done(parser)
    if size[0] == 0:
        return EVENT_MORE
    if parser.state == HEAD:
        event = cut(parser, INCOMPLETE_GAP_)
        if event == EVENT_CUT:
            parser.message.end_lost = True
    elif parser.message != NULL:
        event = lose_body(parser, size)
    if event != EVENT_MORE or size[0] == 0:
        return event
    if parser.state == START:
        parser.at_stream_start = False
        start_skip(parser)
    elif parser.state == SKIP:
        parser.lost = True
    parser.position += size[0]
    size[0] = 0
    return EVENT_MORE


cdef Event http1_end(Parser* parser, Incomplete reason) noexcept nogil:
    begin(parser)
    leave_done(parser)
    if parser.state == HEAD:
        return cut(parser, INCOMPLETE_CLOSED_ if reason == WHOLE else reason)
    return EVENT_MORE if parser.message == NULL else end_body(parser, reason)


# -- what the session decides -----------------------------------------------------------------------------------------

cdef void http1_frame(Parser* parser, bint bodyless, bint paired) noexcept nogil:
    if parser.state == FRAME and parser.message != NULL:
        begin_body(parser, bodyless, paired)


cdef void http1_reject(Parser* parser) noexcept nogil:
    cdef Message* message = parser.message
    cdef bint lost = message == NULL or as_http1(message).sure or message.resynced
    drop_message(parser)
    start_skip(parser)
    parser.lost = lost


cdef void http1_discard(Parser* parser) noexcept nogil:
    if parser.message != NULL:
        parser.lost = parser.message.resynced
    drop_message(parser)
    parser.state = START


cdef void http1_skip(Parser* parser) noexcept nogil:
    drop_message(parser)
    start_skip(parser)
    parser.strange = False


cdef void http1_cease(Parser* parser, Incomplete why, uint32_t anomalies) noexcept nogil:
    parser.message.anomalies |= anomalies
    if why != WHOLE:
        finish_incomplete(parser, why)
        return
    if parser.state == TRAILERS:
        take_trailers(parser)
    finish(parser, START)


cdef void http1_tunnel(Parser* parser) noexcept nogil:
    drop_message(parser)
    drop_buffer(parser)
    parser.state = TUNNEL


cdef void http1_kill(Parser* parser) noexcept nogil:
    drop_message(parser)
    drop_buffer(parser)
    parser.state = DEAD


cdef size_t http1_drop_body(Parser* parser) noexcept nogil:
    return drop_body(parser)
