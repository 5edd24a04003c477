"""One connection's HTTP/1.x: see session.pxd.

Longer than most: its handlers call each other, since the head, the end or the loss of a message on one side can
trigger any handler of the other side. Code that calls none of the handlers is in outgoing, nextbytes and sides.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memchr, memcmp

from sniffer_core.base.counters cimport Counter
from sniffer_core.base.marks cimport (
    BIT_BAD_HEADER_LINE, BIT_BODY_NOT_SENT, BIT_LAST_CRLF_MISSING, BIT_ODD_START_LINE, INCOMPLETE_GAP_,
    INCOMPLETE_MALFORMED_, WHOLE, Incomplete,
)
from sniffer_core.message cimport REQUEST, RESPONSE, Kind, Message, exchange_release, message_free
from sniffer_core.protocol cimport (
    CLIENT, NOTICE_HTTP2, NOTICE_LONG, NOTICE_OTHER, NOTICE_TLS, NOTICE_TUNNEL, RECOGNISED_CLIENT, RECOGNISED_NOT,
    RECOGNISED_SERVER, Protocol, Recognised, Session, Side, free_session, new_session, note)
from sniffer_core.protocols.http1.head cimport METHOD_LONGEST, as_http1, http1_starts
from sniffer_core.protocols.http1.nextbytes cimport (
    BODY, NEXT_REQUEST, REFUSED_BODY, UNDECIDED, Reading, is_body_due, is_refusal, may_be_next, refuses, replies,
    reply_ack, weigh_body, weigh_trailers)
from sniffer_core.protocols.http1.outgoing cimport (
    append, discard, drop_open, drop_tentative, emit, emit_proven, mark_body_unknown, message_closed, message_opened,
    pop)
from sniffer_core.protocols.http1.pairing cimport (
    MATCH_ACKS, MATCH_NONE, MATCH_OLDEST, OPEN_MAX, OPEN_MAX_ONE_SIDED, PROVEN, REFUTED, TENTATIVE, Entry, Exchanges,
    Match, entry_of, exchanges_answer, exchanges_by_acks, exchanges_count, exchanges_doubt, exchanges_fifo,
    exchanges_free, exchanges_informational, exchanges_init, exchanges_lost_request, exchanges_lost_responses,
    exchanges_mark, exchanges_no_head, exchanges_pick, exchanges_plausible, exchanges_quiet, exchanges_refute,
    exchanges_request, exchanges_settle, exchanges_unpaired)
from sniffer_core.protocols.http1.parser cimport (
    http1_cease, http1_crlf_due, http1_data, http1_discard, http1_drop_body, http1_end, http1_frame, http1_free,
    http1_gap, http1_init, http1_kill, http1_reject, http1_skip)
from sniffer_core.protocols.http1.sides cimport (
    WAIT_BODY, WAIT_CRLF, WAIT_NONE, WAIT_OFFER, Half, Http1, at_rest, is_readable, start_tunnel)
from sniffer_core.protocols.http1.state cimport (
    DEAD, DONE, EVENT_CUT, EVENT_END, EVENT_HEAD, EVENT_HEAD_LOST, EVENT_MORE, EVENT_NOT_HTTP, HEAD, SKIP, START,
    TRAILERS, TUNNEL, Event, Parser)
from sniffer_core.protocols.signature cimport PROTOCOL_HTTP2, PROTOCOL_OTHER, PROTOCOL_TLS
from sniffer_core.protocols.tunnel cimport tunnel_open
from sniffer_core.tcp.stream cimport Run, Stream, stream_front, stream_wait

cdef enum:
    LONG = 60_000_000           # µs after which an open message is reported
    PEEK = 256                  # bytes looked at to tell who is the server
    TENTATIVE_MAX = 16          # tentative responses kept in a row
    EARLY_MAX = 16              # early responses kept until their requests come

cdef Protocol HTTP1


# ---- messages --------------------------------------------------------------------------------------------------------

cdef void reject_tentative(Http1* http, Half* half) noexcept nogil:
    """Drops the tentative responses and the one that is being read: none of them is a message."""
    half.tentative = False
    drop_tentative(http)
    if half.parser.message != NULL:
        http.base.context.counters[<int>Counter.MESSAGES_TENTATIVE_DROPPED] += 1
        drop_open(http, half)
    http1_skip(&half.parser)


cdef void accept_tentative(Http1* http, Half* half, bint proved) noexcept nogil:
    """Emits the tentative responses and believes the one that is being read.

    If not `proved` and the client was seen, the body of each response that was assumed to have
    none is marked unknown.
    """
    cdef Message* message = pop(&http.tentative)
    half.tentative = False
    while message != NULL:
        if as_http1(message).assumed and not proved and http.client.stream.seen:
            mark_body_unknown(message)
        if not entry_of(message).unpaired or answer(http, message, MATCH_ACKS):
            emit(http, message)
        else:
            message_free(message, &http.base.context.pool)
        message = pop(&http.tentative)
    message = half.parser.message
    if message != NULL and message.exchange != NULL and entry_of(message).unpaired and \
            not answer(http, message, MATCH_ACKS):
        message_closed(http, half)


cdef bint contradicted(const Http1* http, const Half* half, const Message* message, const Run* run) noexcept nogil:
    """True if a tentative message ends neither at a segment boundary nor at an acknowledged message end."""
    cdef int64_t mark = half.parser.boundary
    if half.parser.kind == RESPONSE:
        mark = exchanges_mark(&http.exchanges, as_http1(message).start + 1, mark)
    if message.incomplete == INCOMPLETE_MALFORMED_ or as_http1(message).start < mark < as_http1(message).end or \
            message.anomalies & (BIT_BAD_HEADER_LINE | BIT_ODD_START_LINE):
        return True
    return run != NULL and run.size > 0 and not run.segment_start and as_http1(message).end != mark


# ---- requests and responses ------------------------------------------------------------------------------------------

cdef inline bint is_quiet(const Exchanges* exchanges, const Half* client, const Half* server,
                          const Message* request) noexcept nogil:
    """Whether a request begins when nothing is in flight: its sender has received all that the server sent.

    Always False while the latest open request is proven and first in, first out is certain: nothing needs settling.
    """
    cdef const Entry* tail = exchanges.tail
    cdef int64_t ack = as_http1(request).ack
    if exchanges.sliding or not at_rest(&server.parser) or exchanges.informational_count:
        return False
    if tail == NULL:
        return exchanges.beyond == 0 and (ack < 0 or ack == server.stream.next)
    if (exchanges.conn.from_start or exchanges.in_step) and not exchanges.responses_lost and \
            exchanges.head.proof == PROVEN and not exchanges.head.counted:
        return False        # no response was lost, so the oldest request is still unanswered
    return (tail.proof != PROVEN or not exchanges_fifo(exchanges)) and \
        as_http1(request).start == client.parser.boundary and ack > tail.ack and ack == server.stream.next


cdef void note_sliding(Exchanges* exchanges, int64_t start, int64_t end) noexcept nogil:
    """After a loss: notes a request that was sent between `start` and `end` of a response, so before that was received.

    The data that its client had received by then does not prove that the request before it was answered.
    """
    cdef const Entry* entry = exchanges.head
    if not exchanges.responses_lost or exchanges.sliding or entry == NULL:
        return
    while entry.next != NULL:
        if entry.next.exchange.known and start < entry.next.ack < end and not entry.lost and entry.ack < entry.next.ack:
            exchanges.sliding = True
            return
        entry = entry.next


cdef inline bint has_begun(const Parser* client, const Message* response) noexcept nogil:
    """Whether a response acknowledges a part of the unfinished head that the client's parser is reading."""
    return client.state == HEAD and client.first_offset < as_http1(response).ack


cdef inline bint is_beyond(const Half* client, const Message* response) noexcept nogil:
    """Whether a response acknowledges client bytes that were not read.

    They wait for the response to an Upgrade or CONNECT, or the stream was ended before them.
    """
    return as_http1(response).ack > client.stream.next + (1 if client.stream.ended else 0)


cdef void on_request(Http1* http, Half* half, bint cut) noexcept nogil:
    """Adds a request to the queue when its head was read. `cut`: the head is incomplete."""
    cdef Message* message = half.parser.message
    cdef Half* other = &http.server
    cdef Exchanges* exchanges = &http.exchanges
    cdef Entry* tail
    cdef Entry* entry
    if other.tentative and at_rest(&other.parser) and as_http1(message).ack == other.stream.next:
        accept_tentative(http, other, True)       # they end where this request's ACK marks an end
    tail = exchanges.tail
    if is_quiet(exchanges, half, other, message):
        exchanges_settle(exchanges)
        exchanges_quiet(exchanges, other.parser.spoke)
        tail = NULL
    entry = exchanges_request(
        exchanges, http.base.conn, message, &http.base.context.carry,
        OPEN_MAX_ONE_SIDED if other.stream.absent else OPEN_MAX)
    if entry != NULL and tail != NULL and exchanges.head != entry and not exchanges.responses_lost and \
            not tail.lost and 0 <= tail.ack < as_http1(message).ack <= other.stream.next:
        exchanges.sliding = True    # the client received new data, yet the request before is unanswered
        if not (exchanges.conn.from_start or exchanges.in_step):
            exchanges_doubt(exchanges)      # or its response was taken for something else
    if entry == NULL:
        return      # no memory: http1_frame() reads on, on_end() frees the message
    message_opened(http, half)
    if other.stream.seen and (
            (message.resynced and not as_http1(message).sure)
            or (tail != NULL and tail.proof == TENTATIVE and exchanges.head != entry and
                as_http1(message).start != half.parser.boundary)):
        entry.proof = TENTATIVE      # at no sure boundary, and behind lost bytes or a tentative request
        exchanges.tentative = True
    if as_http1(message).ack >= 0:
        other.parser.boundary = as_http1(message).ack
    if not cut:
        http1_frame(&half.parser, False, True)
    if http.early.head != NULL or other.parser.message != NULL:
        match_early(http, False)


cdef bint answer(Http1* http, Message* message, Match match) noexcept nogil:
    """Pairs a final response with its request.

    Returns False without memory: the message then has no exchange.
    """
    cdef Half* client = &http.client
    cdef Entry* entry = entry_of(message)
    cdef Entry* asking      # the request that is being read
    if entry != NULL:    # the placeholder of a tentative or early response
        exchange_release(&entry.exchange, &http.base.context.pool)
        message.exchange = NULL
    exchanges_count(&http.exchanges, as_http1(message).ack)
    if http.exchanges.tentative:
        emit_proven(http)
    if match == MATCH_ACKS and exchanges_by_acks(&http.exchanges) and (
            has_begun(&client.parser, message) or is_beyond(client, message)):
        match = MATCH_NONE      # it may answer a request that was not read whole
        exchanges_doubt(&http.exchanges)
    entry = exchanges_answer(&http.exchanges, http.base.conn, message, match)
    if entry == NULL:
        return False
    asking = NULL if client.parser.message == NULL else entry_of(client.parser.message)
    if asking != NULL and asking.proof == PROVEN and not (entry.exchange.known or entry.beyond) and \
            as_http1(message).ack > as_http1(client.parser.message).start:
        asking.answer_lost = True       # this response may be its answer
        asking.continued = False
    if client.stream.waits == WAIT_OFFER and entry.exchange.number >= http.offer and not switches(message, entry):
        client.stream.waits = WAIT_NONE        # refused, or a later request was answered
    if entry.waiting != NULL:
        emit(http, entry.waiting)
        entry.waiting = NULL
    if http.exchanges.responses_lost and entry.exchange.known and http.exchanges.head == NULL and \
            as_http1(message).ack == client.stream.next and at_rest(&client.parser) and not http.exchanges.sliding:
        http.exchanges.lost_since = False           # it answers the last request: nothing is in flight
        exchanges_quiet(&http.exchanges, False)
    entry.answer_end = as_http1(message).end
    message.latency = -1
    if entry.end_read and entry.stamp_end <= message.stamp and match == MATCH_ACKS and (
            not entry.end_unsure or entry.end == as_http1(message).ack):    # no bytes behind `end` were acknowledged
        message.latency = message.stamp - entry.stamp_end
    if as_http1(message).ack >= 0:
        http.client.parser.boundary = as_http1(message).ack
    return True


cdef void on_tentative(Http1* http, Half* half, bint cut) noexcept nogil:
    """Handles the head of a tentative response: it is paired only when it is believed."""
    cdef Message* message = half.parser.message
    cdef const Entry* entry = exchanges_pick(&http.exchanges, as_http1(message).ack, as_http1(message).start)
    if message.status == 101 or (entry != NULL and entry.connect):
        reject_tentative(http, half)       # if believed, it could end HTTP on the connection
        return
    http.tunnels = False
    if exchanges_unpaired(&http.exchanges, http.base.conn, message):
        message_opened(http, half)
    if as_http1(message).ack >= 0:
        http.client.parser.boundary = as_http1(message).ack
    if not cut:
        http1_frame(&half.parser, entry != NULL and entry.head, entry != NULL or
                    exchanges_no_head(&http.exchanges, as_http1(message).ack, as_http1(message).start))


cdef void on_response(Http1* http, Half* half, bint cut) noexcept nogil:
    """Handles a response's head: decides which request it answers. `cut`: the head is incomplete."""
    cdef Message* message = half.parser.message
    cdef const Half* other = &http.client
    cdef const Parser* client = &other.parser
    cdef Entry* entry
    cdef bint unasked       # True: no request is open, begun or unread, so it cannot answer a HEAD
    cdef bint interim = 100 <= message.status < 200 and message.status != 101
    if half.tentative and as_http1(message).start == half.parser.boundary:
        accept_tentative(http, half, True)
    if not half.tentative:
        note_sliding(
            &http.exchanges,
            http.exchanges.interim_start if http.exchanges.informational_count else as_http1(message).start,
            as_http1(message).head_end)
    if not interim and not message.resynced and other.parser.message != NULL:
        disprove_body(http, &http.client, message)
    if message.resynced and not as_http1(message).sure and other.stream.seen and as_http1(message).ack >= 0 and not cut:
        if interim or not exchanges_plausible(&http.exchanges, as_http1(message).ack, as_http1(message).start):
            if http.exchanges.uncounted and http.exchanges.tentative:
                exchanges_count(&http.exchanges, as_http1(message).ack)     # lost responses may have answered these
                http.exchanges.uncounted = True
                emit_proven(http)
            http1_reject(&half.parser)      # no request can wait for it: a start line inside a body
            return
        half.tentative = True
    if interim:
        if not half.tentative:
            if http.exchanges.informational_count == 0:
                http.exchanges.interim_start = as_http1(message).start
            exchanges_informational(&http.exchanges, message.status)
        if cut:
            half.parser.message = NULL
            discard(http, message)
        else:
            http1_discard(&half.parser)
        return
    if half.tentative:
        on_tentative(http, half, cut)
        return
    if comes_early(http, half, message):
        on_early(http, half, cut)
        return
    unasked = other.stream.seen and not other.stream.absent and exchanges_fifo(&http.exchanges) and \
        http.exchanges.head == NULL and not has_begun(client, message) and not is_beyond(other, message)
    if not answer(http, message, MATCH_ACKS):
        http1_frame(&half.parser, False, False)
        return
    entry = entry_of(message)
    if not (entry.exchange.known or entry.beyond) and has_begun(client, message):
        exchanges_doubt(&http.exchanges)        # it may be the answer to the request that has begun
    message_opened(http, half)
    http.tunnels = switches(message, entry)
    if http.tunnels:
        http.base.context.counters[<int>Counter.FLOWS_TUNNEL] += 1
        note(http.base.context, http.base.conn, NOTICE_TUNNEL)
    if not cut:
        http1_frame(&half.parser, entry.head or http.tunnels, entry.exchange.known or entry.beyond or unasked or (
            not is_beyond(other, message) and
            exchanges_no_head(&http.exchanges, as_http1(message).ack, as_http1(message).start)))


cdef void disprove_body(Http1* http, Half* client, const Message* response) noexcept nogil:
    """Ends the open request as malformed if its body was refused and `response` acknowledges bytes of that "body".

    The bytes may then be another request, which `response` answers. They appear in no record: they may hold a head with
    credentials.
    """
    cdef Message* message = client.parser.message
    cdef int64_t start = as_http1(message).head_end
    if message.exchange == NULL or message.body_size == 0 or as_http1(response).ack <= start or \
            not is_refusal(entry_of(message)):
        return
    http1_drop_body(&client.parser)
    http1_cease(&client.parser, INCOMPLETE_MALFORMED_, 0)
    on_end(http, client, NULL)
    on_lost(http, client, start, False, -1)


cdef inline bint switches(const Message* message, const Entry* entry) noexcept nogil:
    """Whether HTTP ends with this response's head, whatever its length fields (RFC 9110 sections 9.3.6, 15.2.2)."""
    return message.status == 101 or (entry.connect and 200 <= message.status < 300)


# ---- early responses -------------------------------------------------------------------------------------------------

# A server may answer before the request's head is whole (400, 408, 414, 431), even before its first byte. Such a
# response belongs to the request that has begun or comes next, and waits for its head. A response that acknowledges no
# byte of the request may belong to none: 408 also ends an idle connection. So it is paired only when a further response
# follows.

cdef bint comes_early(const Http1* http, const Half* half, const Message* message) noexcept nogil:
    """Whether a final response may have been sent before its request's head was complete."""
    cdef const Half* client = &http.client
    cdef const Exchanges* queue = &http.exchanges
    if as_http1(message).ack < 0 or message.resynced or message.status == 101 or not exchanges_fifo(queue) or \
            queue.beyond or client.stream.absent or http.early.count >= EARLY_MAX:
        return False
    if http.early.head != NULL:
        return True
    if queue.head != NULL:
        return queue.head.start >= as_http1(message).ack      # the request came before this response was read
    if client.stream.ended:
        return False
    if client.parser.message != NULL and client.parser.message.exchange != NULL and is_body_due(&client.parser):
        return refuses(entry_of(client.parser.message))     # its body may never be sent
    return at_rest(&client.parser) or (client.parser.state == HEAD and not client.parser.candidate)


cdef void on_early(Http1* http, Half* half, bint cut) noexcept nogil:
    """Handles the head of an early response: one sent before its request's head was complete."""
    cdef const Parser* client = &http.client.parser
    cdef bint named = client.state == HEAD and client.buffer_size >= 5 and http.early.head == NULL and \
        http.exchanges.head == NULL
    http.base.context.counters[<int>Counter.RESPONSES_EARLY] += 1
    http.tunnels = False
    if exchanges_unpaired(&http.exchanges, http.base.conn, half.parser.message):
        message_opened(http, half)
    # A server that has read no method answers no HEAD, unless the response acknowledges bytes that were not read.
    if not cut:
        http1_frame(&half.parser, named and memcmp(client.buffer, b"HEAD ", 5) == 0,
                    not is_beyond(&http.client, half.parser.message))


cdef void match_early(Http1* http, bint further) noexcept nogil:
    """Pairs the early responses with the requests that have come. `further`: another response follows them."""
    cdef Half* half = &http.server
    cdef Message* message
    cdef Entry* entry
    if not exchanges_fifo(&http.exchanges):
        drop_early(http)
    while http.early.head != NULL and http.exchanges.head != NULL:
        message = http.early.head
        if not further and message.next == NULL and half.parser.message == NULL and \
                as_http1(message).ack <= http.exchanges.head.start:
            return
        message = pop(&http.early)
        if answer(http, message, MATCH_OLDEST):
            emit(http, message)
        else:
            message_free(message, &http.base.context.pool)
    message = half.parser.message
    if further or message == NULL or message.exchange == NULL or half.tentative or http.early.head != NULL or \
            not exchanges_fifo(&http.exchanges):
        return
    entry = entry_of(message)
    if entry.unpaired and http.exchanges.head != NULL and as_http1(message).ack > http.exchanges.head.start and \
            not answer(http, message, MATCH_OLDEST):
        message_closed(http, half)


cdef void end_early(Http1* http) noexcept nogil:
    """Called at the end of the server's direction: drops the early responses.

    A single one is kept if it acknowledges a part of a head that is still being read.
    """
    cdef const Parser* client = &http.client.parser
    cdef const Message* first = http.early.head
    if first != NULL and (http.exchanges.head != NULL or first.next != NULL or client.state != HEAD or
                          client.candidate or client.first_offset >= as_http1(first).ack):
        drop_early(http)


cdef void drop_early(Http1* http) noexcept nogil:
    """Emits the early responses unpaired."""
    cdef Message* message = pop(&http.early)
    while message != NULL:
        if answer(http, message, MATCH_NONE):
            emit(http, message)
        else:
            message_free(message, &http.base.context.pool)
        message = pop(&http.early)


# ---- ends and losses -------------------------------------------------------------------------------------------------

cdef void on_end(Http1* http, Half* half, const Run* run) noexcept nogil:
    """Handles the end of the parser's message: emits, keeps or drops it.

    `run`: the rest of the run that it ended in, or NULL.
    """
    cdef Message* message = half.parser.message
    half.parser.message = NULL
    if message.exchange == NULL:
        message_free(message, &http.base.context.pool)
        return
    message_closed(http, half)
    if message.kind == REQUEST:
        on_request_end(http, half, message, run)
    else:
        on_response_end(http, half, message, run)


cdef void on_request_end(Http1* http, Half* half, Message* message, const Run* run) noexcept nogil:
    cdef Entry* entry = entry_of(message)
    cdef const Half* server = &http.server
    cdef int64_t start = as_http1(message).start
    entry.end = as_http1(message).end
    entry.end_ack = run.ack if run != NULL else entry.ack
    entry.stamp_end = message.stamp_end
    entry.end_read = message.incomplete == WHOLE or message.incomplete == INCOMPLETE_MALFORMED_ or (
        message.incomplete == INCOMPLETE_GAP_ and not half.gapping)
    entry.end_unsure = message.incomplete == INCOMPLETE_MALFORMED_ and message.missing < 0
    if entry.proof == REFUTED:
        discard(http, message)
        return
    if entry.proof == TENTATIVE:
        entry.waiting = message
        if contradicted(http, half, message, run):
            exchanges_refute(&http.exchanges)       # frees the message too
            http1_skip(&half.parser)
            on_lost(http, half, start, False, -1)
        return
    if message.incomplete == INCOMPLETE_MALFORMED_ and message.anomalies & BIT_BAD_HEADER_LINE and \
            half.parser.framing.transfer and half.parser.framing.chunked and message.missing < 0:
        on_lost(http, half, as_http1(message).end - 1, False, -1)   # a request may have been read as its trailers
    emit(http, message)
    if half.tunnel_next:
        half.tunnel_next = False
        start_tunnel(half)
    elif (entry.connect or entry.upgrade) and message.incomplete == WHOLE and not entry.answered:
        http.offer = entry.exchange.number
        if server.stream.ended or server.stream.absent or server.parser.lost:
            half.answer_unread = True
        else:
            stream_wait(half.stream, WAIT_OFFER)    # only the response says whether HTTP follows


cdef void on_response_end(Http1* http, Half* half, Message* message, const Run* run) noexcept nogil:
    cdef Entry* entry = entry_of(message)
    cdef int64_t start
    if as_http1(message).assumed:
        half.tentative = True
    if half.tentative:
        if contradicted(http, half, message, run):
            http.base.context.counters[<int>Counter.MESSAGES_TENTATIVE_DROPPED] += 1
            start = as_http1(message).start
            discard(http, message)
            reject_tentative(http, half)
            on_lost(http, half, start, False, -1)
            return
        append(&http.tentative, message)
        if http.tentative.count == TENTATIVE_MAX:
            accept_tentative(http, half, True)
        return
    if entry.unpaired:
        append(&http.early, message)
        match_early(http, False)
        return
    note_sliding(&http.exchanges, as_http1(message).start, as_http1(message).end)
    entry.answer_end = as_http1(message).head_end if half.stream.ended else as_http1(message).end
    emit(http, message)
    if http.tunnels:
        http.tunnels = False
        start_tunnel(half)
        switch_client(http, entry)


cdef void switch_client(Http1* http, const Entry* entry) noexcept nogil:
    """Switches the client's direction to a tunnel after the server's: at once, or behind the request being sent.

    RFC 9110 section 7.8: an Upgrade's request is sent to its end. Section 9.3.6: a CONNECT has no content.
    """
    cdef Half* half = &http.client
    cdef Message* message = half.parser.message
    half.stream.waits = WAIT_NONE
    half.answer_unread = False
    if message == NULL or message.exchange == NULL:
        start_tunnel(half)
        return
    half.tunnel_next = True
    if entry.connect:
        http1_cease(&half.parser, WHOLE if message.body_size == 0 else INCOMPLETE_MALFORMED_, 0)
        on_end(http, half, NULL)


cdef void on_lost(Http1* http, Half* half, int64_t start, bint between, int64_t acked) noexcept nogil:
    """Notes that a parser lost its place at offset `start`.

    `between`: it was between two messages, so at least one whole message is taken as lost.
    `acked`: the most that the sender of the lost bytes had received of the other direction (an offset); -1: unknown.
    """
    cdef Half* other
    if half.parser.kind == REQUEST:
        exchanges_lost_request(&http.exchanges, http.base.conn, start, half.stream.next, acked, between)
    else:
        exchanges_lost_responses(&http.exchanges, between)
        other = &http.client
        if other.parser.message != NULL and other.parser.message.exchange != NULL:
            entry_of(other.parser.message).answer_lost = True
        give_up_offer(other)
        if other.stream.waits == WAIT_BODY or other.stream.waits == WAIT_CRLF:
            judge_body(http, True)   # the response that would decide may be lost
    drop_early(http)


cdef void give_up_offer(Half* client) noexcept nogil:
    """Stops waiting for the response to an Upgrade or CONNECT: the client's next bytes decide what they are."""
    if client.stream.waits == WAIT_OFFER:
        client.stream.waits = WAIT_NONE
        client.answer_unread = True


cdef void on_not_http(Http1* http, Half* half) noexcept nogil:
    """Handles a direction that began with something other than HTTP/1."""
    cdef Half* other = half.other
    cdef int protocol = half.parser.protocol
    if protocol == PROTOCOL_OTHER and other.parser.spoke:
        http1_skip(&half.parser)        # the other side speaks HTTP, so this is most likely a long body
        return
    if other.parser.state == DEAD:
        pass        # the connection was counted with the other direction
    elif protocol == PROTOCOL_TLS:
        http.base.context.counters[<int>Counter.FLOWS_TLS] += 1
        note(http.base.context, http.base.conn, NOTICE_TLS)
    elif protocol == PROTOCOL_HTTP2:
        http.base.context.counters[<int>Counter.FLOWS_HTTP2] += 1
        note(http.base.context, http.base.conn, NOTICE_HTTP2)
    else:
        http.base.context.counters[<int>Counter.FLOWS_OTHER_PROTOCOL] += 1
        note(http.base.context, http.base.conn, NOTICE_OTHER)
    http.leaving = True
    http1_kill(&half.parser)
    if half.parser.kind == REQUEST and protocol != PROTOCOL_OTHER:
        return      # the server may still answer in HTTP/1, such as with a 400
    drop_open(http, other)
    http1_kill(&other.parser)


cdef void act(Http1* http, Half* half, Event event, const Run* run) noexcept nogil:
    """Calls the handler of a parser's event."""
    if event == EVENT_HEAD:
        if half.parser.kind == REQUEST:
            on_request(http, half, False)
        else:
            on_response(http, half, False)
    elif event == EVENT_END:
        on_end(http, half, run)
    elif event == EVENT_CUT:
        if half.parser.kind == REQUEST:
            on_request(http, half, True)
        else:
            on_response(http, half, True)
        if half.parser.message != NULL:
            on_end(http, half, run)
    elif event == EVENT_HEAD_LOST and half.parser.kind == REQUEST:
        if http.early.head == NULL:     # otherwise an early response takes the number
            http.exchanges.next_number += 1
    elif event == EVENT_NOT_HTTP:
        on_not_http(http, half)


# ---- reading ---------------------------------------------------------------------------------------------------------

cdef inline void report_long(Http1* http, Half* half) noexcept nogil:
    """Reports the open message, once, when it has been open for LONG."""
    cdef const Message* message = half.parser.message
    if message == NULL or half.long_open or message.exchange == NULL or http.base.context.now - half.opened < LONG:
        return
    half.long_open = True
    http.base.context.messages_long += 1
    http.base.context.counters[<int>Counter.MESSAGES_LONG] += 1
    note(http.base.context, http.base.conn, NOTICE_LONG)


cdef void read_run(Http1* http, Half* half, Run* run) noexcept nogil:
    """Parses a run that starts at stream.next. Bytes that must wait stay in `run`."""
    cdef Parser* parser = &half.parser
    cdef Stream* stream = half.stream
    cdef Event event
    cdef uint8_t state
    cdef int64_t offset
    cdef Entry* entry
    if half.answer_unread or half.tunnel_next:
        judge_offer(http, half, run)
    if parser.kind == REQUEST and parser.message != NULL and run.segment_start and is_body_due(parser) and \
            http1_starts(REQUEST, run.data, run.size) >= 0 and may_be_next(http, entry_of(parser.message), run):
        stream_wait(half.stream, WAIT_BODY)
        half.compared = 0
        half.comparisons = 0
        return
    if parser.state == TRAILERS and run.segment_start and ends_without_crlf(http, half, run):
        return
    if parser.kind == RESPONSE:
        if parser.state == SKIP or parser.candidate or half.tentative:
            parser.boundary = exchanges_mark(&http.exchanges, run.offset, parser.boundary)
    elif run.offset == parser.boundary:
        entry = http.exchanges.tail
        if parser.message != NULL and as_http1(parser.message).start < run.offset:
            entry = entry_of(parser.message)
            if entry != NULL and entry.proof == TENTATIVE:
                drop_open(http, half)      # a sure boundary lies inside it, so it is no message
                http1_skip(parser)
        elif parser.state == HEAD and parser.first_offset < run.offset and entry != NULL and \
                entry.proof == TENTATIVE:
            exchanges_refute(&http.exchanges)       # a sure boundary lies inside the next head
            http1_skip(parser)
            on_lost(http, half, parser.first_offset, False, -1)
    while True:
        if http.early.head != NULL and parser.kind == RESPONSE and run.size and at_rest(parser) and \
                http1_starts(RESPONSE, run.data, run.size) >= 0:
            match_early(http, True)
            if not is_readable(half, run.ack):
                return
        state = parser.state
        offset = run.offset
        event = http1_data(parser, run)
        stream.next = run.offset
        if parser.state == SKIP and state != SKIP and parser.lost:
            if parser.kind == REQUEST:
                exchanges_refute(&http.exchanges)   # no message follows the tentative ones
            elif half.tentative:
                reject_tentative(http, half)
            on_lost(http, half, offset, False, -1)
        if event == EVENT_MORE:
            break
        act(http, half, event, run)
        if run.size and not is_readable(half, run.ack):
            break
    report_long(http, half)


cdef void skip_gap(Http1* http, Half* half, int64_t start, int64_t size) noexcept nogil:
    """Handles `size` lost bytes at offset `start`; stream.next is already behind them."""
    cdef Parser* parser = &half.parser
    cdef Stream* stream = half.stream
    cdef Event event
    cdef uint8_t state = parser.state
    cdef int64_t acked = -1
    cdef int64_t mark = parser.boundary if parser.kind == REQUEST else exchanges_mark(&http.exchanges, start, -1)
    cdef bint refused = parser.kind == REQUEST and parser.message != NULL and parser.message.exchange != NULL and \
        is_body_due(parser) and refuses(entry_of(parser.message))
    cdef bint between = refused or at_rest(parser) or start <= mark < start + size or (    # or a head is lost
        parser.state == HEAD and parser.candidate and (parser.first_sure or parser.line_end > 0))
    if stream.count and stream_front(stream).offset == stream.next:
        acked = stream_front(stream).acked_at
    elif stream.acked >= stream.next:
        acked = stream.acked_at
    half.gapping = True
    if refused:         # the lost bytes may be the body or the next request
        http1_cease(parser, INCOMPLETE_GAP_, 0)
        on_end(http, half, NULL)
    while True:
        event = http1_gap(parser, &size)
        if event == EVENT_MORE:
            break
        if event == EVENT_HEAD_LOST or (
                event == EVENT_END and size > 0 and parser.state == DONE and parser.after == START):
            between = True      # a head is lost, or the gap extends past a body of known length
        act(http, half, event, NULL)
    half.gapping = False
    if half.tentative and parser.message == NULL:
        accept_tentative(http, half, False)
    if parser.state == SKIP and (state != SKIP or between or not parser.spoke):
        on_lost(http, half, start, between, acked)


# ---- what the client's next bytes are, where HTTP alone does not say it ----------------------------------------------

cdef void judge_offer(Http1* http, Half* half, const Run* run) noexcept nogil:
    """Decides whether the client's bytes behind an Upgrade or CONNECT are HTTP/1 or a tunnel."""
    cdef Half* other = &http.server
    if half.tunnel_next:
        if half.parser.message == NULL:
            half.tunnel_next = False
            start_tunnel(half)
        return
    if run.size == 0:
        return
    half.answer_unread = False
    if not at_rest(&half.parser) or run.data[0] == 13 or run.data[0] == 10 or \
            http1_starts(REQUEST, run.data, run.size) >= 0:
        return
    http.base.context.counters[<int>Counter.FLOWS_TUNNEL] += 1
    note(http.base.context, http.base.conn, NOTICE_TUNNEL)
    start_tunnel(half)
    finish_half(http, other, INCOMPLETE_MALFORMED_)
    start_tunnel(other)


cdef bint ends_without_crlf(Http1* http, Half* half, const Run* run) noexcept nogil:
    """Handles a start line where trailers or the last CRLF of a chunked body are due. True: the run must wait.

    An open request waits, for the run may be the next request. An open response ends if the run begins another one. It
    is whole if it is not tentative and a request waits for the other one, or the client was never seen. Otherwise it is
    malformed.
    """
    cdef Parser* parser = &half.parser
    cdef Half* client = &http.client
    cdef int64_t start = run.offset
    cdef int starts
    cdef bint whole
    if parser.message.exchange == NULL or not http1_crlf_due(parser):
        return False
    starts = http1_starts(<Kind>parser.kind, run.data, run.size)
    if parser.kind == REQUEST:
        if starts == 1 or (starts == 0 and run.size > METHOD_LONGEST):      # a method and a part of a target
            stream_wait(half.stream, WAIT_CRLF)
        return half.stream.waits != WAIT_NONE
    if starts != 1:
        return False
    if client.stream.waits == WAIT_CRLF and run.ack > client.stream.next:      # the response that decides
        read_as(http, weigh_trailers(http, run.ack - client.stream.next, True))
        if not is_readable(half, run.ack):
            return True
    whole = not half.tentative and (not client.stream.seen or exchanges_pick(&http.exchanges, run.ack, start) != NULL)
    http1_cease(parser, WHOLE if whole else INCOMPLETE_MALFORMED_, BIT_LAST_CRLF_MISSING if whole else 0)
    on_end(http, half, NULL)
    if not whole:
        on_lost(http, half, start, False, -1)
    return False


cdef bint judge_body(Http1* http, bint last) noexcept nogil:
    """Tries to decide what the bytes of a waiting client (WAIT_BODY or WAIT_CRLF) are. True: they were decided.

    `last`: nothing more will tell.
    """
    cdef Reading verdict
    if http.early.head != NULL and replies(&http.server):
        match_early(http, True)
    if http.client.stream.waits == WAIT_CRLF:
        verdict = weigh_trailers(http, reply_ack(http), last)
    else:
        verdict = weigh_body(http, last)
    if verdict != UNDECIDED:
        read_as(http, verdict)
    return verdict != UNDECIDED


cdef void read_as(Http1* http, Reading verdict) noexcept nogil:
    """Ends the client's wait and reads its next bytes as `verdict` says."""
    cdef Half* half = &http.client
    cdef Parser* parser = &half.parser
    cdef int64_t start = half.stream.next
    cdef uint32_t anomaly = BIT_LAST_CRLF_MISSING if half.stream.waits == WAIT_CRLF else BIT_BODY_NOT_SENT
    half.stream.waits = WAIT_NONE
    if verdict == BODY:
        entry_of(parser.message).sends = True
        return
    parser.boundary = -1
    if verdict == NEXT_REQUEST:
        http1_cease(parser, WHOLE, anomaly)
    else:
        http1_cease(parser, INCOMPLETE_MALFORMED_, 0)
    on_end(http, half, NULL)
    if verdict == REFUSED_BODY:     # undecidable: read as a body, the bytes could show a head's credentials
        on_lost(http, half, start, False, -1)


cdef void finish_half(Http1* http, Half* half, Incomplete reason) noexcept nogil:
    cdef Event event
    half.in_step = at_rest(&half.parser)
    while True:
        event = http1_end(&half.parser, reason)
        if event == EVENT_MORE:
            break
        if event == EVENT_HEAD_LOST and half.parser.kind == REQUEST and exchanges_by_acks(&http.exchanges):
            on_lost(http, half, half.parser.first_offset, True, -1)     # a response may still answer that head
        act(http, half, event, NULL)
    if half.tentative:
        accept_tentative(http, half, False)
    if half.parser.kind == RESPONSE:
        give_up_offer(&http.client)
        end_early(http)


cdef inline bint is_dead(const Parser* one, const Parser* other) noexcept nogil:
    """Whether `one` does not speak HTTP/1, and `other` does not either or is skipping bytes."""
    return one.state == DEAD and (other.state == DEAD or other.state == SKIP)


# ---- the interface ---------------------------------------------------------------------------------------------------

cdef inline Half* half_of(Session* session, Side side) noexcept nogil:
    cdef Http1* http = <Http1*>session
    return &http.client if side == CLIENT else &http.server


cdef void leave(Http1* http) noexcept nogil:
    """Tells the flow, by `heir` or `reason`, if neither direction has HTTP to read any more."""
    cdef const Parser* client = &http.client.parser
    cdef const Parser* server = &http.server.parser
    http.base.reason = 0
    if client.state == TUNNEL and server.state == TUNNEL:
        http.base.heir = tunnel_open(&http.base)
        if http.base.heir == NULL:
            http.base.reason = <uint16_t>Counter.BYTES_ABANDONED_TUNNEL
    elif is_dead(client, server) or is_dead(server, client):
        http.base.reason = <uint16_t>Counter.BYTES_ABANDONED_NOT_HTTP


cdef Recognised http1_recognise(const uint8_t* data, int64_t size) noexcept nogil:
    cdef const uint8_t* line
    cdef int64_t i
    if size >= 9 and memcmp(data, b"HTTP/1.", 7) == 0:
        return RECOGNISED_SERVER
    line = <const uint8_t*>memchr(data, 10, size)
    if line != NULL:
        size = line - data
        if size and data[size - 1] == 13:
            size -= 1
    elif size < PEEK:
        return RECOGNISED_NOT
    for i in range(size):
        if data[i] == 32:
            if i > 0 and (line == NULL or (size >= i + 10 and memcmp(data + size - 9, b" HTTP/1.", 8) == 0)):
                return RECOGNISED_CLIENT
            return RECOGNISED_NOT
        if not (65 <= data[i] <= 90 or 97 <= data[i] <= 122 or data[i] == 45 or data[i] == 95):
            return RECOGNISED_NOT
    return RECOGNISED_NOT


cdef void init_half(Http1* http, Half* half, Kind kind) noexcept nogil:
    # Clients send requests, servers responses: Kind and Side have the same numbers.
    half.http = http
    half.other = &http.server if kind == REQUEST else &http.client
    half.stream = http.base.stream[<int>kind]
    http1_init(&half.parser, kind, &http.base.context.pool, http.base.context.counters, &http.base.context.limits)


cdef Session* http1_open(const Session* blank) noexcept nogil:
    cdef Http1* http = <Http1*>new_session(blank, &HTTP1, sizeof(Http1))
    if http == NULL:
        return NULL
    init_half(http, &http.client, REQUEST)
    init_half(http, &http.server, RESPONSE)
    exchanges_init(&http.exchanges, http.base.conn, &http.base.context.pool, http.base.context.counters)
    return &http.base


cdef Session* http1_open_for_server(const Session* blank) noexcept nogil:
    cdef Http1* http = <Http1*>http1_open(blank)
    if http == NULL:
        return NULL
    http.client.parser.begun = True
    http1_kill(&http.client.parser)
    http.leaving = True
    return &http.base


cdef inline void begin(Half* half) noexcept nogil:
    if not half.parser.begun:
        half.parser.at_stream_start = half.stream.from_start


cdef void on_data(Session* session, Side side, Run* run) noexcept nogil:
    cdef Half* half = half_of(session, side)
    cdef const Entry* first = half.http.exchanges.head
    if side != CLIENT and not half.parser.begun and first != NULL and 0 <= first.ack < run.offset:
        exchanges_doubt(&half.http.exchanges)   # an earlier response may be missing from the capture
    begin(half)
    read_run(half.http, half, run)
    if half.http.leaving:
        leave(half.http)


cdef void on_gap(Session* session, Side side, int64_t start, int64_t size) noexcept nogil:
    cdef Half* half = half_of(session, side)
    if size == 0:
        drop_open(half.http, half)
        http1_skip(&half.parser)
    else:
        begin(half)
        skip_gap(half.http, half, start, size)
    if half.http.leaving:
        leave(half.http)


cdef void on_side_end(Session* session, Side side, Incomplete reason) noexcept nogil:
    cdef Half* half = half_of(session, side)
    begin(half)
    finish_half(half.http, half, reason)
    if half.http.leaving:
        leave(half.http)


cdef void on_resume(Session* session, Side side) noexcept nogil:
    cdef Half* half = half_of(session, side)
    if not half.in_step and half.parser.state != TUNNEL and half.parser.state != DEAD:
        http1_skip(&half.parser)    # the cut message was emitted already: skip its rest
        half.parser.lost = True
        on_lost(half.http, half, half.stream.next, False, -1)


cdef bint resolve(Session* session, Side side, bint last) noexcept nogil:
    cdef Half* half = half_of(session, side)
    cdef bint done = last
    if half.stream.waits != WAIT_OFFER:
        done = judge_body(half.http, last)
    elif last:
        give_up_offer(half)
    if half.http.leaving:
        leave(half.http)
    return done


cdef bint overtakes(const Session* session, Side side) noexcept nogil:
    """Whether the server's bytes are read before the waiting client's.

    They are if the client waits for the response to an Upgrade or CONNECT, or a response is still being read.
    """
    cdef const Http1* http = <const Http1*>session
    return http.client.stream.waits == WAIT_OFFER or not at_rest(&http.server.parser)


cdef int64_t weight(const Session* session, Side side) noexcept nogil:
    cdef const Half* half = half_of(<Session*>session, side)
    return <int64_t>half.parser.message.body_space if half.parser.message != NULL else 0


cdef void relieve(Session* session, Side side) noexcept nogil:
    if http1_drop_body(&half_of(session, side).parser):
        session.context.counters[<int>Counter.BODIES_EVICTED] += 1


cdef void on_closed(Session* session) noexcept nogil:
    cdef Http1* http = <Http1*>session
    drop_open(http, &http.client)
    http1_free(&http.client.parser)
    drop_open(http, &http.server)
    http1_free(&http.server.parser)
    drop_tentative(http)
    drop_early(http)


cdef void on_close(Session* session) noexcept nogil:
    exchanges_free(&(<Http1*>session).exchanges)
    free_session(session, sizeof(Http1))


HTTP1.name = b"http/1"
HTTP1.ordered = True
HTTP1.recognise = &http1_recognise
HTTP1.open = &http1_open
HTTP1.data = &on_data
HTTP1.gap = &on_gap
HTTP1.end = &on_side_end
HTTP1.resume = &on_resume
HTTP1.resolve = &resolve
HTTP1.overtakes = &overtakes
HTTP1.weight = &weight
HTTP1.relieve = &relieve
HTTP1.closed = &on_closed
HTTP1.close = &on_close
