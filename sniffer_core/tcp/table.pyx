"""The table of a capture's connections; see table.pxd."""

from libc.stdlib cimport calloc, free

from sniffer_core.base.counters cimport Counter
from sniffer_core.base.memory cimport pool_give
from sniffer_core.connection cimport conn_release
from sniffer_core.tcp.stream cimport stream_free


cdef void timer_stop(Half* half) noexcept nogil:
    cdef Timers* timers = half.timers
    if timers == NULL:
        return
    if half.timer_previous == NULL:
        timers.head = half.timer_next
    else:
        half.timer_previous.timer_next = half.timer_next
    if half.timer_next == NULL:
        timers.tail = half.timer_previous
    else:
        half.timer_next.timer_previous = half.timer_previous
    half.timers = NULL


cdef void timer_start(Table* table, Half* half, Timers* timers, int64_t due) noexcept nogil:
    timer_stop(half)
    half.timers = timers
    half.due = due
    half.timer_next = NULL
    half.timer_previous = timers.tail
    if timers.tail == NULL:
        timers.head = half
    else:
        timers.tail.timer_next = half
    timers.tail = half
    if due < table.due:
        table.due = due


cdef inline uint64_t rotate(uint64_t word, int bits) noexcept nogil:
    return (word << bits) | (word >> (64 - bits))


cdef uint64_t keyed_hash(const uint64_t* secret, const Key* key) noexcept nogil:
    cdef uint64_t a = secret[0] ^ 0x736F6D6570736575ull
    cdef uint64_t b = secret[1] ^ 0x646F72616E646F6Dull
    cdef uint64_t c = secret[0] ^ 0x6C7967656E657261ull
    cdef uint64_t d = secret[1] ^ 0x7465646279746573ull
    cdef uint64_t word
    cdef int i
    for i in range(9):      # five words, the length, three rounds to finish
        word = key.word[i] if i < 5 else (<uint64_t>40 << 56 if i == 5 else 0)
        if i == 6:
            c ^= 0xFF
        d ^= word
        a += b
        b = rotate(b, 13) ^ a
        a = rotate(a, 32)
        c += d
        d = rotate(d, 16) ^ c
        a += d
        d = rotate(d, 21) ^ a
        c += b
        b = rotate(b, 17) ^ c
        c = rotate(c, 32)
        a ^= word
    return a ^ b ^ c ^ d


cdef void grow(Table* table) noexcept nogil:
    cdef uint64_t size = (table.mask + 1) * 2
    cdef Flow** buckets = <Flow**>calloc(size, sizeof(Flow*))
    cdef Flow* flow = table.created.head
    if buckets == NULL:
        return      # the chains become longer
    free(table.buckets)
    table.buckets = buckets
    table.mask = size - 1
    while flow != NULL:
        flow.chained = buckets[flow.hashed & table.mask]
        buckets[flow.hashed & table.mask] = flow
        flow = flow.links[CREATED].next


cdef void enter(Table* table, Flow* flow) noexcept nogil:
    cdef Flow** bucket
    if table.total > table.mask:
        grow(table)
    bucket = &table.buckets[flow.hashed & table.mask]
    flow.chained = bucket[0]
    bucket[0] = flow
    list_append(&table.created, flow)
    list_append(&table.recent, flow)
    stage(flow, &table.silent)
    table.placed += 1 if is_placed(&flow.key) else 0
    table.total += 1
    table.live += 1
    table.context.counters[<int>Counter.FLOWS_OPENED] += 1
    flow.last = table.context.now
    if table.context.now + table.idle_timeout < table.due:
        table.due = table.context.now + table.idle_timeout


cdef void leave(Table* table, Flow* flow) noexcept nogil:
    cdef Flow** link = &table.buckets[flow.hashed & table.mask]
    while link[0] != flow:
        link = &link[0].chained
    link[0] = flow.chained
    list_remove(&table.created, flow)
    list_remove(&table.recent, flow)
    stage(flow, NULL)
    table.placed -= 1 if is_placed(&flow.key) else 0
    table.total -= 1
    if flow.successor != NULL:
        discard(table, flow.successor)
    free_flow(table, flow)


cdef void discard(Table* table, Flow* flow) noexcept nogil:
    free_contents(table, flow, <int>Counter.BYTES_ABANDONED_EVICTED)
    free_flow(table, flow)


cdef void free_flow(Table* table, Flow* flow) noexcept nogil:
    """Frees a flow whose streams hold nothing."""
    drop_late(table, &flow.half[0])
    drop_late(table, &flow.half[1])
    close_session(flow)
    conn_release(flow.conn)
    pool_give(&table.context.pool, flow, sizeof(Flow))


cdef void drop_late(Table* table, Half* half) noexcept nogil:
    if half.late == NULL:
        return
    table.context.counters[<int>Counter.BYTES_ABANDONED_LATE] += <uint64_t>stream_free(half.late)
    pool_give(&table.context.pool, half.late, sizeof(Stream))
    half.late = NULL
    table.late -= 1


cdef void close_session(Flow* flow) noexcept nogil:
    cdef Session* session = flow.session
    flow.session = NULL
    if session != NULL:
        session.protocol.close(session)


cdef void free_contents(Table* table, Flow* flow, int reason) noexcept nogil:
    """Frees the bytes that the streams of a flow hold, counted under `reason`, and what its session has open."""
    cdef Half* half
    cdef int d
    for d in range(2):
        half = &flow.half[d]
        timer_stop(half)
        table.context.counters[reason] += <uint64_t>stream_free(&half.stream)
        pool_give(&table.context.pool, half.recent, RECENT_BYTES)
        half.recent = NULL
    if flow.session != NULL and flow.session.protocol.closed != NULL:
        flow.session.protocol.closed(flow.session)


cdef void ignore(Table* table, Flow* flow, int reason) noexcept nogil:
    if flow.mode == MODE_IGNORED:
        return
    free_contents(table, flow, reason)
    drop_late(table, &flow.half[0])
    drop_late(table, &flow.half[1])
    close_session(flow)
    flow.mode = MODE_IGNORED
    flow.reason = <uint16_t>reason


cdef void close_flow(Table* table, Flow* flow, int why) noexcept nogil:
    if flow.mode == MODE_CLOSED:
        return
    free_contents(table, flow, <int>Counter.BYTES_ABANDONED_EVICTED)
    flow.resumable = flow.mode == MODE_READ
    flow.mode = MODE_CLOSED
    flow.closed = table.context.now
    table.live -= 1
    table.context.counters[why] += 1
    stage(flow, &table.closed)
    if table.context.now + TOMBSTONE < table.due:
        table.due = table.context.now + TOMBSTONE
