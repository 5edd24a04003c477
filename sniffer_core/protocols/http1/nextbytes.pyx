"""What the next bytes of a client are; see nextbytes.pxd."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp

from sniffer_core.message cimport REQUEST, RESPONSE
from sniffer_core.protocols.http1.head cimport as_http1, http1_head, http1_starts
from sniffer_core.protocols.http1.pairing cimport PROVEN, Entry, entry_of
from sniffer_core.protocols.http1.sides cimport Half, Http1, at_rest
from sniffer_core.protocols.http1.state cimport BODY_CLOSE, BODY_LENGTH, Parser
from sniffer_core.tcp.stream cimport Held, Run, stream_copy, stream_front

cdef enum:
    LOOKS_MAX = 16              # at the client's next bytes, while pieces of them come late
    WINDOW = 64 << 20           # bytes of a body that are looked for among those that wait


cdef bint may_be_next(const Http1* http, const Entry* entry, const Run* run) noexcept nogil:
    cdef const Half* server = &http.server
    if entry == NULL or entry.sends or run.ack < 0:
        return False
    if entry.answered == 0:
        if not server.stream.seen:
            return entry.expect
        if http.early.head != NULL and http.exchanges.head == entry:
            return True     # it may have been answered before its first byte
        return run.ack > server.stream.next or is_unsure(http, entry, run.ack)
    return refuses(entry) and run.ack >= entry.answer_end


cdef bint replies(const Half* server) noexcept nogil:
    cdef uint8_t line[12]       # up to its code
    cdef const Held* front = stream_front(server.stream)
    return at_rest(&server.parser) and front != NULL and front.offset == server.stream.next and \
        http1_starts(RESPONSE, line, stream_copy(server.stream, front.offset, line, sizeof(line))) == 1 and \
        memcmp(line + 9, b"408", 3) != 0    # a server may say that to nobody


cdef int64_t reply_ack(const Http1* http) noexcept nogil:
    cdef const Half* server = &http.server
    if not replies(server):
        return -1
    return stream_front(server.stream).ack - http.client.stream.next


cdef Reading weigh_body(Http1* http, bint last) noexcept nogil:
    cdef Half* half = &http.client
    cdef const Half* server = &http.server
    cdef const Parser* parser = &half.parser
    cdef const Entry* entry = entry_of(parser.message)
    cdef Held* front = stream_front(half.stream)
    cdef int64_t announced = <int64_t>min(parser.remaining, <uint64_t>WINDOW) if parser.state == BODY_LENGTH else WINDOW
    cdef int64_t answered_to
    cdef int64_t acked = -1         # what a later response acknowledges, from the first of the bytes
    cdef uint8_t* bytes
    cdef uint32_t size
    cdef uint32_t head
    cdef bint filled                # they may be the announced body, behind which nothing has come yet
    cdef bint followed              # ... or a request
    cdef bint other                 # what stands there begins no request: they are not the body
    cdef Reading verdict = UNDECIDED
    if front == NULL or front.offset != half.stream.next:
        return BODY
    last = last or server.stream.ended or server.stream.absent
    if not last and front.ack > server.stream.next:
        return UNDECIDED            # until all is read that the client had read
    if entry.answered == 0 and server.stream.seen and not is_unsure(http, entry, front.ack) and \
            front.ack <= server.stream.next + (1 if server.stream.ended else 0) and http.early.head == NULL:
        return BODY                 # the client sends it, asked or not
    if entry.answered:
        # An answer that ends with the connection is acknowledged with its head.
        answered_to = entry.answer_end
        if answered_to < 0 and server.parser.state == BODY_CLOSE and server.parser.message != NULL:
            answered_to = as_http1(server.parser.message).head_end
        if not refuses(entry) or answered_to < 0 or front.ack < answered_to:
            return BODY
        if entry.answer_end < 0 and not last:
            return UNDECIDED
    if entry.answered:
        acked = reply_ack(http)
    half.stream.hurried = acked > 0
    if not last:
        if acked <= 0 and half.stream.top - half.stream.next < 2 * half.weighed:
            return UNDECIDED
        if acked > 0 and half.looks == LOOKS_MAX:
            return UNDECIDED        # until the grace is over
    half.weighed = half.stream.top - half.stream.next
    half.looks += 1 if acked > 0 else 0
    bytes = <uint8_t*>malloc(http.base.context.limits.head)
    if bytes == NULL:
        return REFUSED_BODY
    size = stream_copy(half.stream, front.offset + announced, bytes, http.base.context.limits.head)
    filled = size == 0 and half.stream.top - half.stream.next >= announced
    followed = size > 0 and http1_starts(REQUEST, bytes, size) == 1
    other = size > 0 and http1_starts(REQUEST, bytes, size) < 0
    size = stream_copy(half.stream, front.offset, bytes, http.base.context.limits.head)
    head = http1_head(REQUEST, bytes, size)
    if http1_starts(REQUEST, bytes, size) < 0 or (entry.answered and followed):
        verdict = BODY
    elif acked >= announced and not other:      # as much was sent as announced
        if filled and (last or acked == announced):
            verdict = BODY
        elif last:
            verdict = REFUSED_BODY              # else what is missing may come late
    elif acked > 0:
        if head and head <= acked:
            verdict = NEXT_REQUEST
        elif last or size >= acked or size == http.base.context.limits.head:
            verdict = REFUSED_BODY
    elif last:
        verdict = BODY if filled else REFUSED_BODY
    elif head and entry.answered == 0 and http.early.head == NULL:
        verdict = REFUSED_BODY
    free(bytes)
    return verdict


cdef Reading weigh_trailers(const Http1* http, int64_t acked, bint last) noexcept nogil:
    cdef const Half* half = &http.client
    cdef const Half* server = &http.server
    cdef const Entry* entry = entry_of(half.parser.message)
    cdef uint8_t* bytes
    cdef uint32_t head = 0
    if acked <= 0:
        return REFUSED_BODY if last or server.stream.ended or server.stream.absent else UNDECIDED
    bytes = <uint8_t*>malloc(http.base.context.limits.head)
    if bytes != NULL and entry.answered and entry.proof == PROVEN:
        head = http1_head(REQUEST, bytes, stream_copy(half.stream, half.stream.next, bytes, http.base.context.limits.head))
    free(bytes)
    return NEXT_REQUEST if 0 < head <= acked else REFUSED_BODY
