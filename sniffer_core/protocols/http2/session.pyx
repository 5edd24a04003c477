"""One connection's HTTP/2; see session.pxd. Section numbers without a document are those of RFC 9113."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp

from sniffer_core.base.counters cimport Counter
from sniffer_core.base.marks cimport (
    BIT_CONFLICTING_OVERLAP, BIT_STREAM_STATE, INCOMPLETE_CLOSED_, INCOMPLETE_EVICTED_, INCOMPLETE_LIMIT_,
    INCOMPLETE_MALFORMED_, WHOLE, Incomplete,
)
from sniffer_core.base.memory cimport pool_give
from sniffer_core.message cimport Message
from sniffer_core.protocol cimport (
    CLIENT, RECOGNISED_CLIENT, RECOGNISED_MORE, RECOGNISED_NOT, RECOGNISED_SERVER, SERVER, Protocol, Recognised,
    Session, Side, consume, free_session, new_session,
)
from sniffer_core.protocols.http1.session cimport http1_open_for_server
from sniffer_core.protocols.http1.sides cimport Http1
from sniffer_core.protocols.http2.fields cimport (
    Collected, as_http2, check_request, check_response, check_trailers, collect, collect_free, collect_init,
    may_be_head,
)
from sniffer_core.protocols.http2.frames cimport (
    FRAMED_BAD, FRAMED_BLOCK, FRAMED_DATA, FRAMED_MORE, FRAMED_RESET, Frame, Framed, Frames,
    frame_is_legal, frames_free, frames_init, frames_read, frames_restart, frames_skip,
)
from sniffer_core.protocols.http2.hpack cimport (
    HPACK_BOUND, HPACK_DEFAULT, HPACK_ERROR, HPACK_OK, HpackTable, hpack_close, hpack_decode,
    hpack_forget, hpack_limit, hpack_open,
)
from sniffer_core.protocols.http2.search cimport (
    SEARCH_MAX, Search, search_add, search_fits, search_found, search_free, search_init,
)
from sniffer_core.protocols.http2.streams cimport (
    PART_ENDED, PART_IDLE, PART_OPEN, Lane, Streams, lane_begin, lane_data, lane_doubt, lane_end, lane_interim,
    lane_drop, lane_lose, lane_reset, lane_tidy, lane_trailers, streams_add, streams_find, streams_free,
)
from sniffer_core.tcp.stream cimport Run

cdef enum:
    PREFACE = 24                # bytes of the client's preface (section 3.4)
    TABLE_SIZE = 1              # SETTINGS_HEADER_TABLE_SIZE (section 6.5.2)
    TABLE_MOST = 1 << 30        # a limit that no encoder exceeds, where SETTINGS may have been lost

cdef const char* PREFACE_TEXT = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

cdef struct Way:                # one direction
    Frames frames
    HpackTable table            # of the blocks that this side sends
    Search search
    uint32_t highest            # the highest stream that this side has opened
    uint8_t preface             # bytes of the preface that are still to come
    uint8_t begun               # True: there was input
    uint8_t proven              # see session.pxd
    uint8_t searching
    uint8_t lost                # True: the next message is `resynced`

cdef struct Http2Session:
    Session base
    Streams streams
    Way way[2]                  # by Side

cdef Protocol HTTP2


# ---- losses ----------------------------------------------------------------------------------------------------------

cdef void count_skipped(Http2Session* http, int64_t size) noexcept nogil:
    http.base.context.counters[<int>Counter.BYTES_ABANDONED_SKIPPED] += <uint32_t>size


cdef void lose(Http2Session* http, Side side) noexcept nogil:
    """Bytes of a side are lost, and nothing is known of them: frames are searched for."""
    cdef Way* way = &http.way[<int>side]
    cdef Lane* lane = http.streams.first
    hpack_forget(&way.table)
    hpack_limit(&http.way[1 - <int>side].table, TABLE_MOST)     # a change of it may be among them
    frames_restart(&way.frames)
    count_skipped(http, search_free(&way.search))
    way.proven = False
    way.searching = True
    way.lost = True
    way.preface = 0
    while lane != NULL:
        if lane.part[<int>side].message != NULL:
            lane_doubt(lane, side)
        lane = lane.next


cdef void break_off(Http2Session* http, Side side) noexcept nogil:
    """The framing of a side is broken by what its sender wrote: its open messages are malformed."""
    cdef Lane* lane = http.streams.first
    cdef Lane* next
    if http.way[<int>side].proven:
        while lane != NULL:
            next = lane.next
            if lane.part[<int>side].message != NULL:
                lane_end(&http.streams, lane, side, INCOMPLETE_MALFORMED_)
                lane_tidy(&http.streams, lane)
            lane = next
    lose(http, side)


# ---- header blocks ---------------------------------------------------------------------------------------------------

cdef void touch(Message* message, const Run* run) noexcept nogil:
    """Notes that bytes of an open message were read."""
    message.stamp_end = run.stamp
    message.end_lost = False
    if run.conflict:
        message.anomalies |= BIT_CONFLICTING_OVERLAP


cdef void mark_result(Message* message, int result) noexcept nogil:
    """Marks a message by what the decoder said of its block."""
    if message.incomplete != WHOLE or result == HPACK_OK:
        return
    if result == HPACK_ERROR:
        message.incomplete = INCOMPLETE_MALFORMED_
    elif result == HPACK_BOUND:
        message.incomplete = INCOMPLETE_LIMIT_
    else:
        message.incomplete = INCOMPLETE_EVICTED_


cdef bint begin(Http2Session* http, Lane* lane, Side side, Collected* collected, int result, const Frame* frame,
                const Run* run) noexcept nogil:
    """Opens the message whose head a block is. False: there is no memory, or nothing to show."""
    cdef Way* way = &http.way[<int>side]
    cdef Message* message
    if (collected.method.size == 0 if side == CLIENT or lane.pushed and lane.part[<int>CLIENT].state == PART_IDLE
            else collected.status == 0) and collected.unknown == 0:
        http.base.context.counters[<int>Counter.HEADS_CUT] += 1
        return False
    if not lane_begin(&http.streams, lane, side, collected, frame.stamp, run.stamp):
        return False
    message = lane.part[<int>side].message
    mark_result(message, result)
    if collected.repeated and not way.proven and message.incomplete == WHOLE:
        message.incomplete = INCOMPLETE_MALFORMED_
    message.resynced = way.lost
    way.lost = False
    touch(message, run)
    return True


cdef void end_stream(Http2Session* http, Lane* lane, Side side) noexcept nogil:
    lane_end(&http.streams, lane, side, WHOLE)
    lane_tidy(&http.streams, lane)


cdef void on_request(Http2Session* http, Lane* lane, Collected* collected, int result, const Frame* frame,
                     const Run* run) noexcept nogil:
    check_request(collected)
    if not begin(http, lane, CLIENT, collected, result, frame, run):
        lane.part[<int>CLIENT].state = PART_ENDED
        return
    if frame.end_stream:
        end_stream(http, lane, CLIENT)


cdef void on_response(Http2Session* http, Lane* lane, Collected* collected, int result, const Frame* frame,
                      const Run* run) noexcept nogil:
    check_response(collected)
    if 100 <= collected.status < 200 and not frame.end_stream:
        lane_interim(&http.streams, lane, collected)
        return
    if not begin(http, lane, SERVER, collected, result, frame, run):
        lane.part[<int>SERVER].state = PART_ENDED
        lane_tidy(&http.streams, lane)
    elif frame.end_stream:
        end_stream(http, lane, SERVER)


cdef void on_trailers(Http2Session* http, Lane* lane, Side side, Collected* collected, int result,
                      const Frame* frame, const Run* run) noexcept nogil:
    cdef Message* message = lane.part[<int>side].message
    check_trailers(collected)
    if message.status == 0 and side == SERVER and message.body_size == 0:
        lane_doubt(lane, SERVER)        # it may be the final response to an interim one
    else:
        lane_trailers(&http.streams, lane, side, collected)
    mark_result(message, result)
    touch(message, run)
    if frame.end_stream:
        end_stream(http, lane, side)
    else:
        message.anomalies |= BIT_STREAM_STATE       # section 8.1: only the last block may follow the body


cdef void on_push(Http2Session* http, Collected* collected, int result, const Frame* frame,
                  const Run* run) noexcept nogil:
    """PUSH_PROMISE: the server says which request it will answer (section 8.4)."""
    cdef Way* way = &http.way[<int>SERVER]
    cdef Lane* lane
    if frame.promised & 1 or frame.promised <= way.highest:
        return
    way.highest = frame.promised
    lane = streams_add(&http.streams, frame.promised)
    if lane == NULL:
        return
    lane.pushed = True
    check_request(collected)
    if begin(http, lane, CLIENT, collected, result, frame, run):
        lane_end(&http.streams, lane, CLIENT, WHOLE)
    else:
        lane.part[<int>CLIENT].state = PART_ENDED


cdef Lane* lane_of(Http2Session* http, Side side, uint32_t id) noexcept nogil:
    """The stream that a block is for; NULL: it is closed, cannot be opened, or there is no memory."""
    cdef Way* way = &http.way[<int>CLIENT]
    cdef Lane* lane = streams_find(&http.streams, id)
    if lane != NULL:
        return lane
    if side == CLIENT:
        if id <= way.highest or not id & 1:
            return NULL
        way.highest = id
    elif not id & 1 or (way.proven and id <= way.highest):
        return NULL         # a stream that was reset
    return streams_add(&http.streams, id)


cdef bint was_interim(const Lane* lane, const Collected* collected, bint end_stream) noexcept nogil:
    """Whether the open response, whose status is not known, was an interim one, since this is a head too."""
    cdef const Message* message = lane.part[<int>SERVER].message
    return message != NULL and message.status == 0 and message.body_size == 0 and (
        collected.pseudo != 0 or not end_stream)


cdef void give_block(Http2Session* http, Side side, Collected* collected, int result, const Frame* frame,
                     const Run* run) noexcept nogil:
    """Gives the block of a HEADERS frame to its stream."""
    cdef bint head = may_be_head(collected, frame.end_stream)
    cdef Lane* lane = streams_find(&http.streams, frame.stream)
    if lane == NULL and head:
        lane = lane_of(http, side, frame.stream)
    if lane == NULL:
        return
    if side == SERVER and was_interim(lane, collected, frame.end_stream):
        lane_drop(&http.streams, lane, SERVER)
    if lane.part[<int>side].state == PART_OPEN:
        on_trailers(http, lane, side, collected, result, frame, run)
    elif lane.part[<int>side].state == PART_IDLE and head and side == CLIENT:
        on_request(http, lane, collected, result, frame, run)
    elif lane.part[<int>side].state == PART_IDLE and head:
        on_response(http, lane, collected, result, frame, run)
    elif lane.part[<int>side].state == PART_IDLE:       # the head was lost
        http.base.context.counters[<int>Counter.HEADS_CUT] += 1
        lane.part[<int>side].state = PART_ENDED
        lane_tidy(&http.streams, lane)


cdef bint contradicts(const Http2Session* http, Side side, const Collected* collected, int result,
                      uint32_t id) noexcept nogil:
    """Whether a block shows that what is taken for frames is none, or the table not what it should be."""
    cdef const Way* way = &http.way[<int>side]
    cdef const Lane* lane = streams_find(&http.streams, id)
    if way.proven:
        return False
    if result == HPACK_ERROR or collected.repeated:
        return True
    return side == CLIENT and collected.method.size != 0 and (not id & 1 or (
        id <= way.highest and (lane == NULL or lane.part[<int>CLIENT].state != PART_IDLE)))


cdef void on_block(Http2Session* http, Side side, const Frame* frame, const Run* run) noexcept nogil:
    cdef Way* way = &http.way[<int>side]
    cdef Collected collected
    cdef bint wrong
    cdef int result = HPACK_BOUND
    collect_init(&collected, &http.base.context.pool)
    if frame.over:
        hpack_forget(&way.table)    # what it inserts is not known
    else:
        result = hpack_decode(
            &way.table, frame.data, frame.size, collect, &collected, http.base.context.limits.head)
    wrong = contradicts(http, side, &collected, result, frame.stream)
    if frame.promised:
        on_push(http, &collected, result, frame, run)
    else:
        give_block(http, side, &collected, result, frame, run)
    collect_free(&collected)
    if wrong:
        lose(http, side)


# ---- frames ----------------------------------------------------------------------------------------------------------

cdef void on_data_frame(Http2Session* http, Side side, const Frame* frame, const Run* run) noexcept nogil:
    cdef Lane* lane = streams_find(&http.streams, frame.stream)
    cdef Message* message
    if lane == NULL:
        return
    message = lane.part[<int>side].message
    if message == NULL:
        if lane.part[1 - <int>side].message != NULL:
            lane.part[1 - <int>side].message.anomalies |= BIT_STREAM_STATE
        return
    lane_data(&http.streams, lane, side, frame.data, frame.size)
    touch(message, run)
    if frame.end_stream:
        end_stream(http, lane, side)


cdef void on_reset(Http2Session* http, const Frame* frame) noexcept nogil:
    cdef Lane* lane = streams_find(&http.streams, frame.stream)
    if lane != NULL:
        lane_reset(&http.streams, lane, frame.code)


cdef void read_frames(Http2Session* http, Side side, Run* run) noexcept nogil:
    """Reads frames until the run is consumed, or the side is to be searched."""
    cdef Way* way = &http.way[<int>side]
    cdef Framed framed
    cdef Frame frame
    cdef int64_t begun
    while not way.searching:
        begun = run.size
        framed = frames_read(&way.frames, run, &frame)
        http.base.context.counters[<int>Counter.BYTES_USED] += <uint32_t>(begun - run.size)
        if framed == FRAMED_MORE:
            return
        if framed == FRAMED_DATA:
            on_data_frame(http, side, &frame, run)
        elif framed == FRAMED_BLOCK:
            on_block(http, side, &frame, run)
        elif framed == FRAMED_RESET:
            on_reset(http, &frame)
        elif framed == FRAMED_BAD:
            break_off(http, side)
        elif frame.code == TABLE_SIZE:
            # Binding once it is acknowledged (section 6.5.3). A larger limit than is in force refuses less, no more.
            hpack_limit(&http.way[1 - <int>side].table,
                        max(frame.value, http.way[1 - <int>side].table.limit))


cdef void read_found(Http2Session* http, Side side) noexcept nogil:
    """Frames were found: reads the bytes that were kept, as the segments that they came in."""
    cdef Way* way = &http.way[<int>side]
    cdef Search found = way.search
    cdef Run run
    cdef uint32_t i
    search_init(&way.search, found.pool)
    way.searching = False
    found.pool.held -= found.size
    for i in range(found.count):
        run.data = found.data + found.piece[i].at
        run.size = (found.piece[i + 1].at if i + 1 < found.count else found.size) - found.piece[i].at
        run.offset = found.piece[i].offset
        run.stamp = found.piece[i].stamp
        run.ack = found.piece[i].ack
        run.segment_start = found.piece[i].segment_start
        run.conflict = found.piece[i].conflict
        read_frames(http, side, &run)
        if run.size:            # a contradiction among them
            count_skipped(http, run.size)
    pool_give(found.pool, found.data, found.space)


cdef void search_on(Http2Session* http, Side side, Run* run) noexcept nogil:
    cdef Way* way = &http.way[<int>side]
    cdef int64_t dropped
    count_skipped(http, search_add(&way.search, run))
    run.data += run.size
    run.offset += run.size
    run.size = 0
    run.segment_start = False
    if search_found(&way.search, side == SERVER, &dropped):
        read_found(http, side)
    count_skipped(http, dropped)


cdef bint read_preface(Http2Session* http, Run* run) noexcept nogil:
    """Consumes the client's preface. False: these bytes are none."""
    cdef Way* way = &http.way[<int>CLIENT]
    cdef int64_t size = min(run.size, <int64_t>way.preface)
    if memcmp(run.data, PREFACE_TEXT + PREFACE - way.preface, size) != 0:
        return False
    way.preface -= <uint8_t>size
    consume(&http.base, run, size, Counter.BYTES_USED)
    return True


# ---- the interface ---------------------------------------------------------------------------------------------------

cdef Session* http2_open(const Session* blank, bint late) noexcept nogil:
    cdef Http2Session* http = <Http2Session*>new_session(blank, &HTTP2, sizeof(Http2Session))
    cdef Way* way
    cdef int side
    if http == NULL:
        return NULL
    http.streams.context = http.base.context
    http.streams.conn = http.base.conn
    for side in range(2):
        way = &http.way[side]
        frames_init(&way.frames, &http.base.context.pool, side == SERVER)
        hpack_open(&way.table, &http.base.context.pool, HPACK_DEFAULT, late)
        search_init(&way.search, &http.base.context.pool)
        way.proven = not late
        way.searching = late
        if late:
            hpack_limit(&way.table, TABLE_MOST)     # the SETTINGS were not seen
    http.way[<int>CLIENT].preface = 0 if late else PREFACE
    http.base.context.counters[<int>Counter.FLOWS_HTTP2_READ] += 1
    return &http.base


cdef bint http2_joins(const Session* blank, Side side, const Run* run) noexcept nogil:
    return search_fits(&blank.context.pool, run.data, <uint32_t>min(run.size, <int64_t>SEARCH_MAX), side == SERVER)


cdef Recognised http2_recognise(const uint8_t* data, int64_t size) noexcept nogil:
    cdef int64_t known = min(size, <int64_t>PREFACE)
    if memcmp(data, PREFACE_TEXT, known) == 0:
        return RECOGNISED_CLIENT if known == PREFACE else RECOGNISED_MORE
    # SETTINGS of a server (section 3.4): its size is a multiple of 6, and its stream 0.
    if size >= 9 and data[3] == 4 and data[0] == 0 and data[1] == 0 and memcmp(data + 4, b"\0\0\0\0\0", 5) == 0 and \
            frame_is_legal(data, True, True):
        return RECOGNISED_SERVER
    return RECOGNISED_NOT


cdef void give_to_http1(Http2Session* http) noexcept nogil:
    """The server does not speak HTTP/2: what it sends is read as HTTP/1, such as a 400."""
    end_side(http, CLIENT, INCOMPLETE_CLOSED_)
    http.base.heir = http1_open_for_server(&http.base)
    if http.base.heir == NULL:
        http.base.reason = <uint16_t>Counter.BYTES_ABANDONED_NOT_HTTP
    else:
        (<Http1*>http.base.heir).exchanges.next_number = http.streams.next_number


cdef void on_data(Session* session, Side side, Run* run) noexcept nogil:
    cdef Http2Session* http = <Http2Session*>session
    cdef Way* way = &http.way[<int>side]
    if not way.begun:
        way.begun = True
        if side == SERVER and not way.searching and run.data[0] != 0 and session.stream[<int>SERVER].from_start:
            give_to_http1(http)
            return
    if way.preface and not read_preface(http, run):
        lose(http, side)
    if way.searching:
        search_on(http, side, run)
        return
    read_frames(http, side, run)
    if run.size:
        search_on(http, side, run)      # the framing broke in the middle of a segment


cdef void on_gap(Session* session, Side side, int64_t start, int64_t size) noexcept nogil:
    cdef Http2Session* http = <Http2Session*>session
    cdef Way* way = &http.way[<int>side]
    cdef Frame frame
    cdef Lane* lane
    cdef uint32_t lost = 0
    way.begun = True
    if way.searching or way.preface or size == 0 or not frames_skip(&way.frames, size, &frame, &lost):
        lose(http, side)
        return
    lane = streams_find(&http.streams, frame.stream)
    if lane == NULL or lane.part[<int>side].message == NULL:
        return
    if lost:
        lane_lose(lane, side, lost)
    if frame.end_stream:
        end_stream(http, lane, side)


cdef void end_side(Http2Session* http, Side side, Incomplete reason) noexcept nogil:
    cdef Lane* lane = http.streams.first
    cdef Lane* next
    while lane != NULL:
        next = lane.next
        if lane.part[<int>side].message != NULL:
            lane_end(&http.streams, lane, side, INCOMPLETE_CLOSED_ if reason == WHOLE else reason)
            lane_tidy(&http.streams, lane)
        lane = next


cdef void on_end(Session* session, Side side, Incomplete reason) noexcept nogil:
    cdef Http2Session* http = <Http2Session*>session
    count_skipped(http, search_free(&http.way[<int>side].search))
    end_side(http, side, reason)


cdef int64_t weight(const Session* session, Side side) noexcept nogil:
    cdef const Lane* lane = (<const Http2Session*>session).streams.first
    cdef int64_t bytes = 0
    while lane != NULL:
        if lane.part[<int>side].message != NULL:
            bytes += <int64_t>lane.part[<int>side].message.body_space
        lane = lane.next
    return bytes


cdef void relieve(Session* session, Side side) noexcept nogil:
    """Gives back the kept bodies of a side, all of them: its weight is their sum."""
    cdef Lane* lane = (<Http2Session*>session).streams.first
    cdef Message* message
    while lane != NULL:
        message = lane.part[<int>side].message
        if message != NULL and message.body != NULL:
            pool_give(&session.context.pool, message.body, message.body_space)
            message.body = NULL
            message.body_kept = message.body_space = 0
            as_http2(message).sure = 0
            message.truncated = True
            session.context.counters[<int>Counter.BODIES_EVICTED] += 1
        lane = lane.next


cdef void on_closed(Session* session) noexcept nogil:
    cdef Http2Session* http = <Http2Session*>session
    cdef int side
    streams_free(&http.streams)
    for side in range(2):
        lose(http, <Side>side)      # if the peers ignore the end, what follows is found as after a loss
        frames_free(&http.way[side].frames)
        hpack_close(&http.way[side].table)


cdef void on_close(Session* session) noexcept nogil:
    cdef Http2Session* http = <Http2Session*>session
    cdef int side
    for side in range(2):
        count_skipped(http, search_free(&http.way[side].search))
        frames_free(&http.way[side].frames)
        hpack_close(&http.way[side].table)
    streams_free(&http.streams)
    free_session(session, sizeof(Http2Session))


HTTP2.name = b"http/2"
HTTP2.ordered = True
HTTP2.recognise = &http2_recognise
HTTP2.data = &on_data
HTTP2.gap = &on_gap
HTTP2.end = &on_end
HTTP2.weight = &weight
HTTP2.relieve = &relieve
HTTP2.closed = &on_closed
HTTP2.close = &on_close
