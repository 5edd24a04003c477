"""What the next bytes of a client are; see nextbytes.pxd."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp

from sniffer_core.message cimport REQUEST, RESPONSE
from sniffer_core.protocols.http1.head cimport as_http1, http1_head, http1_starts
from sniffer_core.protocols.http1.pairing cimport PROVEN, Entry, entry_of
from sniffer_core.protocols.http1.sides cimport Half, Http1, at_rest
from sniffer_core.protocols.http1.state cimport BODY_CLOSE, BODY_LENGTH, Parser
from sniffer_core.tcp.stream cimport Held, Run, Stream, stream_copy, stream_front

cdef enum:
    COMPARISONS_MAX = 16        # comparisons of the client's next bytes once a later response came
    WINDOW = 64 << 20           # announced bytes of a body that are considered at most


cdef bint may_be_next(const Http1* http, const Entry* entry, const Run* run) noexcept nogil:
    cdef const Half* server = &http.server
    if entry == NULL or entry.sends or run.ack < 0:
        return False
    if entry.answered == 0:
        if not server.stream.seen:
            return entry.expect
        if http.early.head != NULL and http.exchanges.head == entry:
            return True     # an early response may answer it
        return run.ack > server.stream.next or is_unsure(http, entry, run.ack)
    return refuses(entry) and run.ack >= entry.answer_end


cdef bint replies(const Half* server) noexcept nogil:
    cdef uint8_t line[12]       # version, SP and status code
    cdef const Held* front = stream_front(server.stream)
    return at_rest(&server.parser) and front != NULL and front.offset == server.stream.next and \
        http1_starts(RESPONSE, line, stream_copy(server.stream, front.offset, line, sizeof(line))) == 1 and \
        memcmp(line + 9, b"408", 3) != 0    # 408 may answer no request


cdef int64_t reply_ack(const Http1* http) noexcept nogil:
    cdef const Half* server = &http.server
    if not replies(server):
        return -1
    return stream_front(server.stream).ack - http.client.stream.next


cdef Reading compare(const Http1* http, const Entry* entry, int64_t announced, int64_t acked, bint last,
                     uint8_t* bytes) noexcept nogil:
    """Whether the waiting bytes look like a body of `announced` bytes or a request.

    A later response acknowledges `acked` of them. `bytes` is scratch space for limits.head bytes.
    """
    cdef const Stream* stream = http.client.stream
    cdef const Held* front = stream_front(stream)
    cdef uint32_t limit = http.base.context.limits.head
    cdef uint32_t size = stream_copy(stream, front.offset + announced, bytes, limit)
    cdef bint filled = size == 0 and stream.top - stream.next == announced  # as many as announced
    cdef int begins = http1_starts(REQUEST, bytes, size) if size else 0
    cdef uint32_t head
    size = stream_copy(stream, front.offset, bytes, limit)
    head = http1_head(REQUEST, bytes, size)
    if http1_starts(REQUEST, bytes, size) < 0 or (entry.answered and begins == 1):
        return BODY             # no request, or a request begins right behind the announced bytes
    if acked >= announced and begins >= 0:      # as many as announced were sent: maybe the body
        if filled and (last or acked == announced):
            return BODY
        return REFUSED_BODY if last else UNDECIDED      # missing bytes may still come
    if acked > 0:
        if head and head <= acked:
            return NEXT_REQUEST
        return REFUSED_BODY if last or size >= acked or size == limit else UNDECIDED
    if last:
        return BODY if filled else REFUSED_BODY
    return REFUSED_BODY if head and entry.answered == 0 and http.early.head == NULL else UNDECIDED


cdef Reading weigh_body(Http1* http, bint last) noexcept nogil:
    cdef Half* half = &http.client
    cdef const Half* server = &http.server
    cdef const Parser* parser = &half.parser
    cdef const Entry* entry = entry_of(parser.message)
    cdef Held* front = stream_front(half.stream)
    cdef int64_t announced = <int64_t>min(parser.remaining, <uint64_t>WINDOW) if parser.state == BODY_LENGTH else WINDOW
    cdef int64_t answered_to
    cdef int64_t acked = -1         # how many of the bytes a later response acknowledges
    cdef uint8_t* bytes
    cdef Reading verdict
    cdef bint missing
    if front == NULL or front.offset != half.stream.next:
        return BODY
    missing = half.stream.held_bytes < max(half.stream.top, half.stream.end) - half.stream.next     # may still come
    last = last or ((server.stream.ended or server.stream.absent) and not missing)
    if not last and front.ack > server.stream.next:
        return UNDECIDED            # until all responses that the client had received are read
    if entry.answered == 0 and server.stream.seen and not is_unsure(http, entry, front.ack) and \
            front.ack <= server.stream.next + (1 if server.stream.ended else 0) and http.early.head == NULL:
        return BODY                 # no response can have refused it
    if entry.answered:
        # A response that lasts until the connection ends is taken as received with its head.
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
        if acked <= 0 and half.stream.top - half.stream.next < 2 * half.compared:
            return UNDECIDED
        if acked > 0 and half.comparisons == COMPARISONS_MAX:
            return UNDECIDED        # until the grace period ends
    half.compared = half.stream.top - half.stream.next
    half.comparisons += 1 if acked > 0 else 0
    bytes = <uint8_t*>malloc(http.base.context.limits.head)
    if bytes == NULL:
        return REFUSED_BODY
    verdict = compare(http, entry, announced, acked, last, bytes)
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
        head = http1_head(
            REQUEST, bytes, stream_copy(half.stream, half.stream.next, bytes, http.base.context.limits.head))
    free(bytes)
    return NEXT_REQUEST if 0 < head <= acked else REFUSED_BODY
