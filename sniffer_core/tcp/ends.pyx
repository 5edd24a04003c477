"""How SYN, FIN and RST begin and end the directions of a connection; see ends.pxd."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from sniffer_core.base.counters cimport Counter
from sniffer_core.base.memory cimport pool_take
from sniffer_core.base.marks cimport INCOMPLETE_CLOSED_, WHOLE, Incomplete
from sniffer_core.net.wire cimport TCP_ACK, Packet
from sniffer_core.tcp.stream cimport (
    BASE_KNOWN, BASE_NONE, BASE_PROVISIONAL, REACH_BACK, Held, Run, Stream, stream_buffer, stream_front, stream_init,
    stream_map, stream_offset, stream_read, stream_take)
from sniffer_core.tcp.table cimport (
    MODE_CLOSED, MODE_READ, MODE_UNDECIDED, Flow, Half, Table, drop_late, list_append, list_remove, side_of, stage)


cdef void set_server(Flow* flow, int server) noexcept nogil:
    flow.mode = MODE_READ
    flow.server = <uint8_t>server
    flow.conn.from_start = flow.handshake
    flow.conn.server_is_high = server == 1
    flow.half[0].stream.from_start = flow.handshake
    flow.half[1].stream.from_start = flow.handshake


cdef bint set_isn(Half* half, uint32_t seq) noexcept nogil:
    """Notes that the half's first byte has sequence number `seq`, by a SYN or the ACK of one.

    Returns False, and notes nothing, if what was seen or acknowledged of the half contradicts it.
    """
    cdef Stream* stream = &half.stream
    cdef Held* front
    cdef int64_t offset
    cdef int64_t heard
    if stream.syn_seen:
        return stream.syn_seq == seq
    if not stream.mapped:
        stream_map(stream, seq)
    offset = stream_offset(stream, seq)
    if stream.base == BASE_KNOWN:
        heard = stream.start
    elif stream.base == BASE_PROVISIONAL:
        front = stream_front(stream)
        heard = front.offset if front != NULL else stream.top
    else:
        heard = max(stream.acked, offset)   # known by the other side's ACKs, if at all
    if offset < 0 or not (0 <= heard - offset <= REACH_BACK):
        return False
    stream.syn_seen = True
    stream.syn_seq = seq
    if stream.base != BASE_KNOWN:
        stream.base = BASE_KNOWN
        stream.start = offset
        stream.next = offset
        if stream.top < offset:
            stream.top = offset
        stream.from_start = True
    return True


cdef bint on_syn(Flow* flow, const Packet* packet, int d) noexcept nogil:
    if flow.mode > MODE_UNDECIDED or not set_isn(&flow.half[d], packet.seq + 1):
        return False
    if packet.flags & TCP_ACK:
        set_isn(&flow.half[1 - d], packet.ack)
    flow.conn.from_start = True
    if flow.mode == MODE_UNDECIDED:
        flow.handshake = True
        set_server(flow, d if packet.flags & TCP_ACK else 1 - d)
    return True


cdef void end_at(Half* half, int64_t offset, Incomplete reason) noexcept nogil:
    half.stream.end = offset
    half.end_reason = reason
    half.heard = -1
    if half.stream.base == BASE_NONE:   # earlier bytes may come late
        half.stream.base = BASE_PROVISIONAL
        half.stream.top = offset


cdef void cut_off(Half* half) noexcept nogil:
    if half.stream.end < 0 or is_ahead_of_all(half):
        end_at(half, half.stream.top, INCOMPLETE_CLOSED_)


cdef void on_late(Table* table, Half* half, const Run* run) noexcept nogil:
    if half.late == NULL:
        half.late = <Stream*>pool_take(&table.context.pool, sizeof(Stream))
        if half.late != NULL:
            stream_init(half.late, &table.context.pool, table.context.counters)
            table.late += 1
    if half.late == NULL or run.offset + run.size > half.stream.end + HOLD_LIMIT or \
            half.late.held_memory + run.size > HOLD_LIMIT:
        table.context.counters[<int>Counter.BYTES_ABANDONED_LATE] += <uint64_t>run.size
    else:
        stream_buffer(half.late, run)


cdef bint end_ignored(const Half* half) noexcept nogil:
    """Whether the other side has acknowledged bytes beyond the end. A FIN takes one number (RFC 9293 section 3.4)."""
    cdef int64_t end = half.stream.end + 1 if half.end_reason == WHOLE else half.stream.end
    return half.late != NULL and half.late.count > 0 and half.heard > max(end, stream_front(half.late).offset)


cdef void reopen(Table* table, Flow* flow, Half* half) noexcept nogil:
    """Undoes the end of a direction: its late bytes become part of the stream, and it is read on."""
    cdef Stream* stream = &half.stream
    cdef Run run
    stream.end = -1
    half.end_reason = WHOLE
    if stream.acked < half.heard:
        stream.acked = half.heard
        stream.acked_at = -1    # which segment had this ACK was not noted
    while half.late != NULL and half.late.count:
        stream.seen = True      # these may be the first bytes of a direction that was taken for absent
        stream.absent = False
        stream_read(half.late, &run)
        if stream.top < run.offset + run.size:
            stream.top = run.offset + run.size
        stream_buffer(stream, &run)
        stream_take(half.late, run.size)
    drop_late(table, half)
    if not half.stream.ended:
        return
    half.stream.ended = False
    if flow.session != NULL and flow.session.protocol.resume != NULL:
        flow.session.protocol.resume(flow.session, side_of(flow, half))


cdef bint resume(Table* table, Flow* flow) noexcept nogil:
    cdef Half* half
    cdef int d
    cdef bint ignored[2]
    ignored[0] = end_ignored(&flow.half[0])
    ignored[1] = end_ignored(&flow.half[1])
    if not ignored[0] and not ignored[1]:
        return False
    table.context.counters[<int>Counter.ENDS_IGNORED] += 1
    if flow.mode == MODE_CLOSED:
        stage(flow, NULL)
        list_remove(&table.recent, flow)
        list_append(&table.recent, flow)
        flow.mode = MODE_READ
        flow.last = table.context.now
        table.live += 1
        table.context.counters[<int>Counter.FLOWS_RESUMED] += 1
    for d in range(2):
        half = &flow.half[d]
        if ignored[d] or (half.stream.end >= 0 and half.end_reason != WHOLE):   # a RST ends both directions
            reopen(table, flow, half)
    return True


cdef int64_t on_beyond(Table* table, Flow* flow, Half* half, Run* run) noexcept nogil:
    cdef Stream* stream = &half.stream
    cdef int64_t size = run.size
    cdef int64_t before = max(<int64_t>0, stream.end - run.offset)
    if is_ahead_of_all(half):
        stream.end = -1     # nothing confirms this end, and these bytes contradict it
        return size
    if before:
        run.data += before
        run.size -= before
        run.offset += before
        run.segment_start = False
    on_late(table, half, run)
    resume(table, flow)
    return before
