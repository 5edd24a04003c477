"""How a connection begins and ends, by what TCP says: see ends.pxd."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from sniffer_core.base.counters cimport Counter
from sniffer_core.base.memory cimport pool_take
from sniffer_core.message cimport INCOMPLETE_CLOSED_, WHOLE, Incomplete
from sniffer_core.net.wire cimport TCP_ACK, Packet
from sniffer_core.tcp.stream cimport (
    BASE_KNOWN, BASE_NONE, BASE_PROVISIONAL, REACH_BACK, Held, Run, Stream, stream_buffer, stream_front, stream_init,
    stream_map, stream_offset, stream_read, stream_take)
from sniffer_core.tcp.table cimport (
    MODE_CLOSED, MODE_READ, MODE_UNDECIDED, Flow, Half, Table, drop_late, list_append, list_remove, side_of, stage)


cdef void set_server(Flow* flow, int server) noexcept nogil:
    """`server`: the direction (0 is low to high) in which the server sends."""
    flow.mode = MODE_READ
    flow.server = <uint8_t>server
    flow.conn.from_start = flow.handshake
    flow.conn.server_is_high = server == 1
    flow.half[0].stream.from_start = flow.handshake
    flow.half[1].stream.from_start = flow.handshake


cdef bint set_isn(Half* half, uint32_t seq) noexcept nogil:
    """The half's first byte has sequence number `seq`, a SYN (or the ACK of one) says: whether that can be true."""
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
        heard = max(stream.acked, offset)   # by the other side's ACKs, or not at all
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
    """A SYN on a known flow: True when it belongs to it, False when it is of another connection."""
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
    """A FIN or RST says that the direction ends at `offset`."""
    half.stream.end = offset
    half.end_reason = reason
    half.heard = -1
    if half.stream.base == BASE_NONE:   # earlier bytes may come late
        half.stream.base = BASE_PROVISIONAL
        half.stream.top = offset


cdef void cut_off(Half* half) noexcept nogil:
    """A RST: the direction ends where it was seen to."""
    if half.stream.end < 0 or is_ahead_of_all(half):
        end_at(half, half.stream.top, INCOMPLETE_CLOSED_)


cdef void on_late(Table* table, Half* half, const Run* run) noexcept nogil:
    """Bytes beyond the end of their direction: they wait for what says that the peers ignore this end."""
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
    """Whether the other side has taken bytes from beyond the end: an ACK of a FIN is one more, RFC 9293 section 3.4."""
    cdef int64_t end = half.stream.end + 1 if half.end_reason == WHOLE else half.stream.end
    return half.late != NULL and half.late.count > 0 and half.heard > max(end, stream_front(half.late).offset)


cdef void reopen(Table* table, Flow* flow, Half* half) noexcept nogil:
    """The end of a direction was none: it is read on, with what came since."""
    cdef Stream* stream = &half.stream
    cdef Run run
    stream.end = -1
    half.end_reason = WHOLE
    if stream.acked < half.heard:
        stream.acked = half.heard
        stream.acked_at = -1    # how far its sender had read is not known
    while half.late != NULL and half.late.count:
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
    """Reads on where the peers have ignored a FIN or RST; returns whether they have."""
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
        if ignored[d] or (half.stream.end >= 0 and half.end_reason != WHOLE):   # a RST had ended both
            reopen(table, flow, half)
    return True


cdef int64_t on_beyond(Table* table, Flow* flow, Half* half, Run* run) noexcept nogil:
    """A segment runs beyond the end of its direction; returns how many of its bytes are to be read now."""
    cdef Stream* stream = &half.stream
    cdef int64_t size = run.size
    cdef int64_t before = max(<int64_t>0, stream.end - run.offset)
    if is_ahead_of_all(half):
        stream.end = -1     # no one knows of it, and these bytes contradict it
        return size
    if before:
        run.data += before
        run.size -= before
        run.offset += before
        run.segment_start = False
    on_late(table, half, run)
    resume(table, flow)
    return before
