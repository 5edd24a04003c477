"""Which request a response answers; see pairing.pxd."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from sniffer_core.base.counters cimport Counter
from sniffer_core.message cimport CARRY_MAX, Exchange, Field, Message, Text, exchange_release, message_free
from sniffer_core.protocols.http1.head cimport as_http1
from sniffer_core.base.memory cimport Pool, pool_give, pool_take
from sniffer_core.connection cimport Conn
from sniffer_core.protocol cimport Carry
from sniffer_core.protocols.authority cimport AUTHORITY_MAX, find_in_target, write_authority

cdef enum:
    METHODS_LEAST = 64


cdef void exchanges_init(Exchanges* queue, Conn* conn, Pool* pool, uint64_t* counters) noexcept nogil:
    memset(queue, 0, sizeof(Exchanges))
    queue.conn = conn
    queue.pool = pool
    queue.counters = counters


cdef void pop(Exchanges* queue) noexcept nogil:
    """Removes the head. If it is still tentative, its message is dropped."""
    cdef Entry* entry = queue.head
    queue.head = entry.next
    if queue.head == NULL:
        queue.tail = NULL
    queue.count -= 1
    entry.next = NULL
    if entry.proof == TENTATIVE:
        refute(queue, entry)
    exchange_release(&entry.exchange, queue.pool)


cdef void give_up(Exchanges* queue) noexcept nogil:
    """Removes the head and counts it as unanswered if it is a proven request."""
    if queue.head.exchange.known and queue.head.proof == PROVEN:
        queue.counters[<int>Counter.REQUESTS_UNANSWERED] += 1
    pop(queue)


cdef void forget_informational(Exchanges* queue) noexcept nogil:
    queue.counters[<int>Counter.INFORMATIONAL_ORPHANED] += queue.informational_count
    queue.informational_count = 0


cdef void exchanges_free(Exchanges* queue) noexcept nogil:
    exchanges_settle(queue)
    forget_informational(queue)


cdef void give_up_beyond(Exchanges* queue) noexcept nogil:
    """Forgets the requests beyond OPEN_MAX: only pairing by count could use their numbers."""
    queue.counters[<int>Counter.REQUESTS_UNANSWERED] += queue.beyond
    queue.beyond = 0
    forget_methods(queue)


cdef void forget_methods(Exchanges* queue) noexcept nogil:
    pool_give(queue.pool, queue.methods, queue.methods_space)
    queue.methods = NULL
    queue.methods_space = 0
    queue.methods_first = 0


cdef bint push_beyond(Exchanges* queue, const Entry* entry) noexcept nogil:
    """Keeps what a request's response needs: its number, and whether it is CONNECT or HEAD. False without memory."""
    cdef uint32_t end = queue.methods_first + queue.beyond
    cdef uint32_t space
    cdef uint8_t* methods
    if end == queue.methods_space:
        space = max(<uint32_t>METHODS_LEAST, 2 * queue.beyond)
        methods = <uint8_t*>pool_take(queue.pool, space)
        if methods == NULL:
            return False
        if queue.beyond:
            memcpy(methods, queue.methods + queue.methods_first, queue.beyond)
        forget_methods(queue)
        queue.methods = methods
        queue.methods_space = space
        end = queue.beyond
    queue.methods[end] = <uint8_t>((BEYOND_HEAD if entry.head else 0) | (BEYOND_CONNECT if entry.connect else 0))
    if queue.beyond == 0:
        queue.beyond_number = entry.exchange.number
    queue.beyond += 1
    return True


cdef void pop_beyond(Exchanges* queue, Entry* entry) noexcept nogil:
    """Makes `entry` the first request beyond OPEN_MAX."""
    cdef uint8_t method = queue.methods[queue.methods_first]
    entry.beyond = True
    entry.exchange.number = queue.beyond_number
    entry.head = method & BEYOND_HEAD != 0
    entry.connect = method & BEYOND_CONNECT != 0
    queue.beyond_number += 1
    queue.methods_first += 1
    queue.beyond -= 1
    if queue.beyond == 0:
        forget_methods(queue)


cdef void exchanges_settle(Exchanges* queue) noexcept nogil:
    while queue.head != NULL:
        give_up(queue)
    give_up_beyond(queue)
    queue.lost_between = False
    queue.uncounted = False


cdef void exchanges_doubt(Exchanges* queue) noexcept nogil:
    queue.responses_lost = True
    queue.lost_since = True


cdef void exchanges_quiet(Exchanges* queue, bint in_step) noexcept nogil:
    queue.responses_lost = queue.lost_since
    queue.lost_since = False
    queue.in_step = queue.in_step or in_step


cdef bint exchanges_by_acks(const Exchanges* queue) noexcept nogil:
    return queue.responses_lost or (queue.head != NULL and queue.head.lost)


cdef bint exchanges_fifo(const Exchanges* queue) noexcept nogil:
    return not queue.responses_lost and (queue.head == NULL or not (queue.head.lost or queue.tail.lost)) and \
        (queue.conn.from_start or queue.in_step)


cdef bint is_sure(const Exchanges* queue) noexcept nogil:
    """Whether each entry is exactly one request: none is lost bytes or tentative."""
    cdef const Entry* entry = queue.head
    while entry != NULL and not entry.lost and entry.proof == PROVEN:
        entry = entry.next
    return entry == NULL


cdef void push(Exchanges* queue, Entry* entry, uint32_t most, bint sure) noexcept nogil:
    """Adds an entry at the tail, which may drop the oldest.

    `most`: the queue's limit. Only an entry that is surely a request (`sure`) can be kept by its number beyond it.
    """
    if sure and most == OPEN_MAX and (queue.beyond or (queue.count >= most and is_sure(queue))) and \
            exchanges_fifo(queue) and push_beyond(queue, entry):
        return
    give_up_beyond(queue)
    while queue.count >= most:
        give_up(queue)
        exchanges_doubt(queue)      # the dropped entry's response would be paired with the next request
    entry.exchange.references += 1
    if queue.tail == NULL:
        queue.head = entry
    else:
        if queue.tail.lost and queue.tail.end != entry.start:
            queue.tail.ack = -1     # bytes between them were skipped, which may hold requests
        queue.tail.next = entry
    queue.tail = entry
    queue.count += 1


cdef Entry* new_exchange(Exchanges* queue, Conn* conn, size_t text) noexcept nogil:
    cdef size_t size = sizeof(Entry) + text
    cdef Entry* entry = <Entry*>pool_take(queue.pool, size)
    if entry == NULL:
        return NULL
    memset(entry, 0, sizeof(Entry))
    entry.exchange.size = size
    entry.exchange.text = <uint8_t*>entry + sizeof(Entry)
    entry.exchange.text_size = text
    entry.exchange.conn = conn
    conn.references += 1
    entry.exchange.number = queue.next_number
    queue.next_number += 1
    entry.end = -1
    entry.ack = -1
    entry.answer_end = -1
    entry.end_ack = -1
    return entry


cdef inline bint same_name(const uint8_t* name, const uint8_t* lower, uint32_t size) noexcept nogil:
    cdef uint32_t i
    cdef uint8_t c
    for i in range(size):
        c = name[i]
        if c != lower[i] and not (65 <= c <= 90 and c + 32 == lower[i]):
            return False
    return True


cdef inline bint hex_lower(const uint8_t* text, uint32_t size) noexcept nogil:
    """Whether `text` is lower-case hex and not all zeros."""
    cdef uint32_t i
    cdef bint zeros = True
    for i in range(size):
        if not (48 <= text[i] <= 57 or 97 <= text[i] <= 102):
            return False
        if text[i] != 48:
            zeros = False
    return not zeros


cdef void read_traceparent(Exchange* exchange, const uint8_t* value, uint32_t size) noexcept nogil:
    if size < 55 or value[2] != 45 or value[35] != 45 or value[52] != 45:
        return
    if memcmp(value, b"00", 2) == 0:
        if size != 55:
            return
    elif not hex_lower(value, 2) or memcmp(value, b"ff", 2) == 0 or (size > 55 and value[55] != 45):
        return
    if not hex_lower(value + 3, 32) or not hex_lower(value + 36, 16):
        return
    if not (memcmp(value + 53, b"00", 2) == 0 or hex_lower(value + 53, 2)):
        return
    memcpy(exchange.trace, value + 3, 32)
    memcpy(exchange.trace + 32, value + 36, 16)
    exchange.traced = True


cdef inline const uint8_t* find_authority(const Message* message, const Field* host, bint connect,
                                          uint32_t* size) noexcept nogil:
    """The text that names the requested host: from the target, or else from the field `host`, which may be NULL."""
    cdef const uint8_t* asked = NULL
    if not find_in_target(message.text + message.target.at, message.target.size, connect, &asked, size) and \
            host != NULL:
        asked = message.text + host.value.at
        size[0] = host.value.size
    if size[0] > AUTHORITY_MAX:
        size[0] = 0
    return asked


cdef Entry* exchanges_request(
        Exchanges* queue, Conn* conn, Message* message, const Carry* carry, uint32_t most) noexcept nogil:
    cdef Field* carried[CARRY_MAX]
    cdef Field* field
    cdef Field* trace = NULL
    cdef Field* host = NULL
    cdef Entry* entry
    cdef size_t text = message.method.size + message.target.size
    cdef const uint8_t* asked
    cdef uint32_t asked_size = 0
    cdef uint32_t at = 0
    cdef uint32_t i, k, size
    cdef uint32_t traces = 0
    cdef uint32_t hosts = 0
    cdef bint connect
    for k in range(carry.count):
        carried[k] = NULL
    for i in range(message.count):
        field = message.fields + i
        for k in range(carry.count):
            if field.name.size == carry.size[k] and carried[k] == NULL and \
                    same_name(message.text + field.name.at, carry.name[k], carry.size[k]):
                carried[k] = field
                text += field.value.size
        size = field.name.size
        if size == 4:
            if same_name(message.text + field.name.at, b"host", 4):
                host = field
                hosts += 1
        elif size == 11 and same_name(message.text + field.name.at, b"traceparent", 11):
            trace = field
            traces += 1
    connect = message.method.size == 7 and memcmp(message.text + message.method.at, b"CONNECT", 7) == 0
    # Several Host fields are an error (RFC 9112 section 3.2), so none is used.
    asked = find_authority(message, host if hosts == 1 and not carry.no_host else NULL, connect, &asked_size)
    entry = new_exchange(queue, conn, text + asked_size)
    if entry == NULL:
        return NULL
    entry.exchange.known = True
    entry.start = as_http1(message).start
    entry.exchange.stamp = message.stamp
    entry.ack = as_http1(message).ack
    entry.upgrade = as_http1(message).upgrade
    entry.expect = as_http1(message).expect
    entry.exchange.method = put(entry, &at, message.text, message.method)
    entry.exchange.target = put(entry, &at, message.text, message.target)
    entry.connect = connect
    entry.head = message.method.size == 4 and memcmp(entry.exchange.text, b"HEAD", 4) == 0
    for k in range(carry.count):
        if carried[k] != NULL:
            entry.exchange.carried[k] = put(entry, &at, message.text, carried[k].value)
            entry.exchange.carried_present |= <uint8_t>(1 << k)
    entry.exchange.authority.at = at
    entry.exchange.authority.size = write_authority(asked, asked_size, entry.exchange.text + at)
    if traces == 1:     # W3C Trace Context, section 4.3: if there are several, none is valid
        read_traceparent(&entry.exchange, message.text + trace.value.at, trace.value.size)
    push(queue, entry, most, as_http1(message).sure or not message.resynced)
    entry.exchange.references += 1
    message.exchange = &entry.exchange
    return entry


cdef Text put(Entry* entry, uint32_t* at, const uint8_t* source, Text text) noexcept nogil:
    """Copies a slice of `source` to the entry's text at `at`, and advances `at`."""
    cdef Text copy
    copy.at = at[0]
    copy.size = text.size
    memcpy(entry.exchange.text + copy.at, source + text.at, text.size)
    at[0] += text.size
    return copy


cdef void refute(Exchanges* queue, Entry* entry) noexcept nogil:
    """Marks a tentative entry as no request and frees its message. The entry stays in the queue."""
    queue.counters[<int>Counter.MESSAGES_TENTATIVE_DROPPED] += 1
    entry.proof = REFUTED
    if entry.waiting != NULL:
        message_free(entry.waiting, queue.pool)
        entry.waiting = NULL
        entry.exchange.references -= 1       # that of the message; the queue keeps its own


cdef void exchanges_refute(Exchanges* queue) noexcept nogil:
    cdef Entry* entry = queue.head
    cdef Entry* first = NULL
    while entry != NULL:
        if entry.lost or entry.proof != TENTATIVE:
            first = NULL
        elif first == NULL:
            first = entry
        entry = entry.next
    while first != NULL:
        refute(queue, first)
        first = first.next


cdef void exchanges_lost_request(Exchanges* queue, Conn* conn, int64_t start, int64_t end, int64_t ack,
                                 bint whole) noexcept nogil:
    cdef Entry* entry
    if queue.tail != NULL and queue.tail.lost:
        if whole:
            queue.tail.counted = False
        queue.tail.ack = ack if start == queue.tail.end and 0 <= queue.tail.ack <= ack else -1
        queue.tail.end = end
        return      # no request between the losses: one entry stands for both
    entry = new_exchange(queue, conn, 0)
    if entry == NULL:
        return
    queue.next_number -= 1      # how many were lost is unknown, so none gets a number
    entry.lost = True
    entry.counted = not whole
    entry.start = start
    entry.end = end
    entry.ack = ack
    push(queue, entry, OPEN_MAX, False)


cdef void exchanges_lost_responses(Exchanges* queue, bint whole) noexcept nogil:
    give_up_beyond(queue)
    exchanges_doubt(queue)
    queue.uncounted = True
    if whole:
        queue.lost_between = True
    forget_informational(queue)


cdef void exchanges_informational(Exchanges* queue, uint16_t status) noexcept nogil:
    queue.counters[<int>Counter.RESPONSES_INFORMATIONAL] += 1
    if status == 100 and queue.head != NULL:
        queue.head.continued = True
    if queue.informational_count < INFORMATIONAL_MAX:
        queue.informational[queue.informational_count] = status
        queue.informational_count += 1


cdef inline bint fits(const Entry* entry, int64_t ack, int64_t start) noexcept nogil:
    """Whether a response that starts at `start` and acknowledges `ack` may answer the entry."""
    if entry.proof == REFUTED:
        return False
    if entry.lost:
        return entry.start < ack
    return 0 <= entry.end <= ack and entry.ack <= start


cdef bint exchanges_plausible(const Exchanges* queue, int64_t ack, int64_t start) noexcept nogil:
    cdef const Entry* entry = queue.head
    cdef const Entry* before = NULL
    cdef bint lost = False
    cdef uint32_t waiting = 0
    while entry != NULL:
        if fits(entry, ack, start):
            if entry.lost:
                lost = True
            else:
                if before != NULL and not queue.sliding:
                    # The client had received more when it sent this entry than when it sent the one before: that one
                    # was answered, as in exchanges_pick().
                    if before.lost:
                        waiting = 0
                        lost = lost and not 0 <= before.ack < entry.ack
                    elif before.ack < entry.ack:
                        waiting = 0
                        lost = False
                waiting += 1
            before = entry
        entry = entry.next
    return lost or waiting >= <uint32_t>(2 if queue.lost_between else 1)


cdef bint exchanges_no_head(const Exchanges* queue, int64_t ack, int64_t start) noexcept nogil:
    cdef const Entry* entry = queue.head
    cdef bint any = False
    while entry != NULL:
        if fits(entry, ack, start):
            if entry.lost or entry.head:
                return False
            any = True
        entry = entry.next
    return any


cdef void exchanges_count(Exchanges* queue, int64_t ack) noexcept nogil:
    cdef Entry* entry = queue.head
    while queue.tentative and entry != NULL:      # this response's ACK marks a sure boundary
        if entry.proof == TENTATIVE and entry.start == ack:
            entry.proof = PROVEN
        entry = entry.next
    entry = queue.head
    if queue.uncounted:
        # Unknown how many responses were lost: each request that this one acknowledges may have been answered.
        queue.uncounted = False
        while entry != NULL:
            if entry.proof == TENTATIVE and 0 <= entry.end <= ack:
                entry.proof = PROVEN
            if entry.proof == PROVEN and (entry.start < ack or ack < 0):
                entry.counted = True
            entry = entry.next
        return
    while entry != NULL and (entry.counted or entry.proof == REFUTED):
        entry = entry.next
    if entry == NULL or (entry.proof == TENTATIVE and not (0 <= entry.end <= ack or ack < 0)):
        return
    entry.counted = True
    entry.proof = PROVEN


cdef Entry* exchanges_pick(Exchanges* queue, int64_t ack, int64_t start) noexcept nogil:
    cdef Entry* entry
    cdef Entry* latest = NULL
    cdef bint doubt = False
    cdef bint begun
    cdef uint32_t waiting = 0
    while queue.head != NULL and queue.head.proof == REFUTED:
        pop(queue)
    entry = queue.head
    if entry == NULL:
        return NULL
    if not queue.responses_lost and not entry.lost:
        # Nothing was lost before it: first in, first out. But a response that acknowledges no byte of the request is an
        # early response (see session.pyx), or, if the capture began in mid-stream, answers an earlier request.
        return entry if ack < 0 or entry.start < ack else NULL
    if ack < 0:
        return NULL
    while entry != NULL:
        if entry.ack > start and 0 <= entry.end <= ack and not entry.lost:
            return NULL         # the ACKs contradict each other: one is from a retransmission
        begun = entry.exchange.known and entry.proof != REFUTED and entry.start < ack and entry.ack <= start
        if begun or fits(entry, ack, start):    # begun: a response may come before the request's end
            # In doubt if it was pipelined with the entry before it (its client had received nothing in between), or may
            # have been pipelined with a lost one. Otherwise the data received in between answered all entries before.
            doubt = latest != NULL and (
                entry.ack <= max(latest.ack, latest.end_ack) or (latest.lost and latest.ack < 0) or queue.sliding)
            doubt = doubt or (entry.proof == TENTATIVE and not fits(entry, ack, start))
            latest = entry
            waiting += 1
        elif latest != NULL and entry.exchange.known and entry.proof == PROVEN and not queue.sliding and \
                max(latest.ack, latest.end_ack) < entry.ack <= start:
            return NULL         # its client had received all earlier responses: this one may be its early response
        entry = entry.next
    if queue.lost_between and waiting < 2:
        return NULL             # the response that was lost whole may have answered it
    return NULL if latest == NULL or latest.lost or doubt else latest


cdef bint exchanges_unpaired(Exchanges* queue, Conn* conn, Message* message) noexcept nogil:
    cdef Entry* entry = new_exchange(queue, conn, 0)
    if entry == NULL:
        return False
    entry.exchange.references = 1
    entry.unpaired = True
    queue.next_number -= 1
    message.exchange = &entry.exchange
    return True


cdef int64_t exchanges_mark(const Exchanges* queue, int64_t offset, int64_t otherwise) noexcept nogil:
    cdef const Entry* entry = queue.head
    while entry != NULL:
        if entry.exchange.known and entry.ack >= offset:
            return entry.ack
        entry = entry.next
    return otherwise


cdef inline bint may_be_early(const Exchanges* queue, uint16_t status) noexcept nogil:
    """Whether, after lost responses, a response may answer a later request, or none (408).

    A server can send these statuses before it has read a request.
    """
    if not queue.responses_lost:
        return False
    return status == 408 or (queue.lost_since and (
        status == 400 or status == 403 or status == 413 or status == 414 or status == 429 or status == 431 or
        status == 503))


cdef Entry* exchanges_answer(Exchanges* queue, Conn* conn, Message* message, Match match) noexcept nogil:
    cdef Entry* entry = NULL
    if match == MATCH_ACKS and not may_be_early(queue, message.status):
        entry = exchanges_pick(queue, as_http1(message).ack, as_http1(message).start)
    elif match == MATCH_OLDEST:
        entry = queue.head
    if entry != NULL:
        while queue.head != entry:
            give_up(queue)
        entry.exchange.references += 1
        if entry.proof == TENTATIVE:
            entry.proof = PROVEN
        pop(queue)
    else:
        entry = new_exchange(queue, conn, 0)
        if entry == NULL:
            return NULL
        entry.exchange.references = 1
        if match != MATCH_NONE and queue.head == NULL and queue.beyond:
            queue.next_number -= 1
            pop_beyond(queue, entry)
        elif message.status >= 300:
            exchanges_doubt(queue)      # it may be an early response to the next request, or refuse a body
    entry.answered = message.status
    entry.exchange.informational_count = queue.informational_count
    memcpy(entry.exchange.informational, queue.informational, queue.informational_count * sizeof(uint16_t))
    queue.informational_count = 0
    queue.lost_between = False
    message.exchange = &entry.exchange
    return entry
