"""The streams of a connection and their messages; see streams.pxd."""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcmp, memcpy, memset

from sniffer_core.base.counters cimport Counter
from sniffer_core.base.marks cimport (
    BIT_LENGTH_MISMATCH, INCOMPLETE_EVICTED_, INCOMPLETE_GAP_, INCOMPLETE_RESET_, WHOLE, Incomplete,
)
from sniffer_core.base.memory cimport pool_give, pool_resize, pool_take
from sniffer_core.message cimport (
    INFORMATIONAL_MAX, REQUEST, RESPONSE, Exchange, Message, exchange_release, message_free,
)
from sniffer_core.protocol cimport CLIENT, NOTICE_LONG, SERVER, Side, note
from sniffer_core.protocols.http1.outgoing cimport emit_message
from sniffer_core.protocols.http2.fields cimport (
    Collected, Http2Message, as_http2, collect_exchange, collect_message, collect_trailers,
)

cdef enum:
    BUCKETS_FIRST = 16
    BODY_FIRST = 1024           # least bytes of the first block for a body, unless it is known to be shorter
    LONG = 60_000_000           # µs after which an open message is reported


# ---- the table -------------------------------------------------------------------------------------------------------

cdef inline Lane** bucket_of(const Streams* streams, uint32_t id) noexcept nogil:
    # Streams that are open at once have ids near each other, which this spreads evenly.
    return &streams.buckets[(id >> 1 ^ id << 9) & (streams.space - 1)]


cdef Lane* streams_find(const Streams* streams, uint32_t id) noexcept nogil:
    cdef Lane* lane
    if streams.count == 0:
        return NULL
    lane = bucket_of(streams, id)[0]
    while lane != NULL and lane.id != id:
        lane = lane.chained
    return lane


cdef bint widen(Streams* streams) noexcept nogil:
    """Makes the table larger. False: there is no memory."""
    cdef uint32_t space = 2 * streams.space if streams.space else BUCKETS_FIRST
    cdef Lane** buckets = <Lane**>pool_take(&streams.context.pool, space * sizeof(Lane*))
    cdef Lane** bucket
    cdef Lane* lane = streams.first
    if buckets == NULL:
        return False
    memset(buckets, 0, space * sizeof(Lane*))
    pool_give(&streams.context.pool, streams.buckets, streams.space * sizeof(Lane*))
    streams.buckets = buckets
    streams.space = space
    while lane != NULL:
        bucket = bucket_of(streams, lane.id)
        lane.chained = bucket[0]
        bucket[0] = lane
        lane = lane.next
    return True


cdef Lane* streams_add(Streams* streams, uint32_t id) noexcept nogil:
    cdef Lane** bucket
    cdef Lane* lane
    if streams.count == STREAMS_MAX:
        lane_close(streams, streams.first, INCOMPLETE_EVICTED_)
    if streams.count == streams.space and not widen(streams) and streams.space == 0:
        return NULL
    lane = <Lane*>pool_take(&streams.context.pool, sizeof(Lane))
    if lane == NULL:
        return NULL
    memset(lane, 0, sizeof(Lane))
    lane.exchange = <Exchange*>pool_take(&streams.context.pool, sizeof(Exchange))
    if lane.exchange == NULL:
        pool_give(&streams.context.pool, lane, sizeof(Lane))
        return NULL
    memset(lane.exchange, 0, sizeof(Exchange))
    lane.exchange.size = sizeof(Exchange)
    lane.exchange.text = <uint8_t*>(lane.exchange + 1)
    lane.exchange.references = 1
    lane.exchange.conn = streams.conn
    streams.conn.references += 1
    lane.exchange.number = streams.next_number
    streams.next_number += 1
    lane.id = id
    lane.request_end = -1
    bucket = bucket_of(streams, id)
    lane.chained = bucket[0]
    bucket[0] = lane
    lane.previous = streams.last
    if streams.last == NULL:
        streams.first = lane
    else:
        streams.last.next = lane
    streams.last = lane
    streams.count += 1
    return lane


cdef void lane_remove(Streams* streams, Lane* lane) noexcept nogil:
    cdef Lane** place = bucket_of(streams, lane.id)
    cdef int side
    while place[0] != lane:
        place = &place[0].chained
    place[0] = lane.chained
    if lane.previous == NULL:
        streams.first = lane.next
    else:
        lane.previous.next = lane.next
    if lane.next == NULL:
        streams.last = lane.previous
    else:
        lane.next.previous = lane.previous
    streams.count -= 1
    for side in range(2):
        if lane.part[side].message != NULL:
            close_part(streams, &lane.part[side])
            exchange_release(lane.part[side].message.exchange, &streams.context.pool)
            message_free(lane.part[side].message, &streams.context.pool)
    if lane.exchange.known and lane.part[<int>SERVER].state == PART_IDLE:
        streams.context.counters[<int>Counter.REQUESTS_UNANSWERED] += 1
    if lane.part[<int>SERVER].state == PART_IDLE:
        streams.context.counters[<int>Counter.INFORMATIONAL_ORPHANED] += lane.exchange.informational_count
    exchange_release(lane.exchange, &streams.context.pool)
    pool_give(&streams.context.pool, lane, sizeof(Lane))


cdef void streams_free(Streams* streams) noexcept nogil:
    while streams.first != NULL:
        lane_remove(streams, streams.first)
    pool_give(&streams.context.pool, streams.buckets, streams.space * sizeof(Lane*))
    streams.buckets = NULL
    streams.space = 0


# ---- messages --------------------------------------------------------------------------------------------------------

cdef void close_part(Streams* streams, Part* part) noexcept nogil:
    """The open message of a part is open no longer."""
    streams.context.messages_open -= 1
    if part.long_open:
        part.long_open = False
        streams.context.messages_long -= 1


cdef bint ask(Streams* streams, Lane* lane, const Collected* collected, Message* message) noexcept nogil:
    """Gives the stream the exchange of its request, in place of the one that stood for it. False: no memory."""
    cdef Exchange* exchange = collect_exchange(collected, message, streams.conn, &streams.context.carry)
    cdef Message* answer = lane.part[<int>SERVER].message
    if exchange == NULL:
        return False
    exchange.number = lane.exchange.number
    exchange.informational = lane.exchange.informational
    exchange.informational_count = lane.exchange.informational_count
    if answer != NULL:          # it was read before its request, which was found late
        exchange_release(answer.exchange, &streams.context.pool)
        answer.exchange = exchange
        exchange.references += 1
    exchange_release(lane.exchange, &streams.context.pool)
    lane.exchange = exchange
    lane.head = exchange.method.size == 4 and memcmp(exchange.text + exchange.method.at, b"HEAD", 4) == 0
    return True


cdef bint lane_begin(
        Streams* streams, Lane* lane, Side side, const Collected* collected, int64_t stamp,
        int64_t stamp_end) noexcept nogil:
    cdef Part* part = &lane.part[<int>side]
    cdef Message* message = collect_message(collected, REQUEST if side == CLIENT else RESPONSE)
    if message == NULL:
        return False
    message.stamp = stamp
    message.stamp_end = stamp_end
    message.http2.stream_id = lane.id
    message.http2.pushed = lane.pushed
    if collected.starved:
        message.incomplete = INCOMPLETE_EVICTED_
    if side == CLIENT and not ask(streams, lane, collected, message):
        message_free(message, &streams.context.pool)
        return False
    if side == SERVER and 0 <= lane.request_end <= stamp:
        message.latency = stamp - lane.request_end
    message.exchange = lane.exchange
    lane.exchange.references += 1
    part.message = message
    part.state = PART_OPEN
    part.opened = streams.context.now
    streams.context.messages_open += 1
    return True


cdef void lane_interim(Streams* streams, Lane* lane, const Collected* collected) noexcept nogil:
    cdef Exchange* exchange = lane.exchange
    streams.context.counters[<int>Counter.RESPONSES_INFORMATIONAL] += 1
    if exchange.informational_count < INFORMATIONAL_MAX:
        exchange.informational[exchange.informational_count] = collected.status
        exchange.informational_count += 1


cdef void lane_trailers(Streams* streams, Lane* lane, Side side, const Collected* collected) noexcept nogil:
    cdef Message* message = lane.part[<int>side].message
    message.anomalies |= collected.anomalies
    message.http2.unknown += collected.unknown
    if collected.count and message.trailers == NULL:
        message.trailers = collect_trailers(collected)
        if message.trailers == NULL and message.incomplete == WHOLE:
            message.incomplete = INCOMPLETE_EVICTED_


cdef void keep(Streams* streams, Message* message, const uint8_t* data, size_t size) noexcept nogil:
    """Keeps bytes of a body that are within the limit."""
    cdef size_t most = streams.context.limits.body
    cdef size_t need, space
    cdef int64_t length = as_http2(message).length
    cdef uint8_t* body
    if size > most - message.body_kept:
        message.truncated = True
        size = most - message.body_kept
    if size == 0:
        return
    need = message.body_kept + size
    if need > message.body_space:
        if <int64_t>need <= length < <int64_t>most:
            most = <size_t>length
        space = max(need, min(most, max(<size_t>BODY_FIRST, 2 * message.body_space)))
        if message.body == NULL:
            body = <uint8_t*>pool_take(&streams.context.pool, space)
        else:
            body = <uint8_t*>pool_resize(&streams.context.pool, message.body, message.body_space, space)
        if body == NULL:
            message.truncated = True
            return
        message.body = body
        message.body_space = space
    memcpy(message.body + message.body_kept, data, size)
    message.body_kept = need


cdef void lane_data(Streams* streams, Lane* lane, Side side, const uint8_t* data, uint32_t size) noexcept nogil:
    cdef Part* part = &lane.part[<int>side]
    cdef Message* message = part.message
    if not part.long_open and streams.context.now - part.opened >= LONG:
        part.long_open = True
        streams.context.messages_long += 1
        streams.context.counters[<int>Counter.MESSAGES_LONG] += 1
        note(streams.context, streams.conn, NOTICE_LONG)
    if size == 0:
        return
    message.body_size += size
    message.end_lost = False
    if not message.truncated and not as_http2(message).body_gap:
        keep(streams, message, data, size)


cdef void lane_lose(Lane* lane, Side side, uint32_t size) noexcept nogil:
    cdef Message* message = lane.part[<int>side].message
    as_http2(message).body_gap = True
    message.end_lost = True
    if message.incomplete == WHOLE:
        message.incomplete = INCOMPLETE_GAP_
    if message.missing >= 0:
        message.missing += size


cdef void lane_doubt(Lane* lane, Side side) noexcept nogil:
    cdef Message* message = lane.part[<int>side].message
    message.end_lost = True
    if not as_http2(message).doubted:
        as_http2(message).doubted = True
        as_http2(message).sure = message.body_kept


cdef void lane_drop(Streams* streams, Lane* lane, Side side) noexcept nogil:
    cdef Part* part = &lane.part[<int>side]
    close_part(streams, part)
    exchange_release(part.message.exchange, &streams.context.pool)
    message_free(part.message, &streams.context.pool)
    part.message = NULL
    part.state = PART_IDLE


cdef bint is_bodyless(const Lane* lane, const Message* message) noexcept nogil:
    """Whether Content-Length speaks of a body that is not there."""
    return message.kind == RESPONSE and (lane.head or message.status == 304 or not message.exchange.known)


cdef void judge(const Lane* lane, Message* message, Incomplete reason) noexcept nogil:
    """Says of a message that ends whether it is whole."""
    cdef Http2Message* http2 = as_http2(message)
    cdef bint fits = http2.length == <int64_t>message.body_size
    if http2.doubted and not (reason == WHOLE and fits):
        if message.incomplete == WHOLE:
            message.incomplete = INCOMPLETE_GAP_
        message.missing = -1
        message.end_lost = message.end_lost or reason != WHOLE
        message.body_kept = min(message.body_kept, http2.sure)
    if reason != WHOLE:
        if message.incomplete == WHOLE:
            message.incomplete = reason
            message.missing = max(<int64_t>0, http2.length - <int64_t>message.body_size)
    elif message.incomplete == WHOLE and http2.length >= 0 and not fits and not (
            message.body_size == 0 and is_bodyless(lane, message)):
        message.anomalies |= BIT_LENGTH_MISMATCH


cdef void lane_end(Streams* streams, Lane* lane, Side side, Incomplete reason) noexcept nogil:
    cdef Part* part = &lane.part[<int>side]
    cdef Message* message = part.message
    judge(lane, message, reason)
    if side == CLIENT and reason == WHOLE and not message.end_lost:
        lane.request_end = message.stamp_end
    close_part(streams, part)
    part.message = NULL
    part.state = PART_ENDED
    emit_message(streams.context, message)


cdef void lane_close(Streams* streams, Lane* lane, Incomplete reason) noexcept nogil:
    cdef int side
    for side in range(2):
        if lane.part[side].message != NULL:
            lane_end(streams, lane, <Side>side, reason)
    lane_remove(streams, lane)


cdef void lane_tidy(Streams* streams, Lane* lane) noexcept nogil:
    cdef Part* asking = &lane.part[<int>CLIENT]
    if lane.part[<int>SERVER].state != PART_ENDED:
        return
    if asking.message != NULL and as_http2(asking.message).doubted:
        lane_end(streams, lane, CLIENT, INCOMPLETE_GAP_)        # its end was probably lost
    if asking.message == NULL:
        lane_remove(streams, lane)


cdef void lane_reset(Streams* streams, Lane* lane, uint32_t code) noexcept nogil:
    cdef int side
    for side in range(2):
        if lane.part[side].message != NULL:
            lane.part[side].message.http2.reset = code
            lane.part[side].message.http2.is_reset = True
    lane_close(streams, lane, INCOMPLETE_RESET_)
