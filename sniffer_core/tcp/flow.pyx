"""Reads one connection; see flow.pxd."""

from hashlib import blake2b

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove, memset

from sniffer_core.base.counters cimport Counter
from sniffer_core.base.memory cimport pool_give, pool_take
from sniffer_core.connection cimport CONN_OBJECTS, Conn
from sniffer_core.base.marks cimport WHOLE, Incomplete
from sniffer_core.net.wire cimport TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, Packet
from sniffer_core.protocol cimport (
    CLIENT, NOTICE_SNAPPED, NOTICE_UNDECIDED, SERVER, Session, Side, may_read, note)
from sniffer_core.tcp.ends cimport (
    HOLD_LIMIT, cut_off, end_at, is_ahead_of_all, on_beyond, on_late, resume, set_server)
from sniffer_core.tcp.stream cimport (
    BASE_KNOWN, BASE_NONE, BASE_PROVISIONAL, ORIGIN, REACH_BACK, Held, Run, Stream, stream_acknowledge, stream_buffer,
    stream_front, stream_init, stream_map, stream_offset, stream_read, stream_take, stream_wait)
from sniffer_core.tcp.table cimport (
    MODE_READ, MODE_UNDECIDED, RECENT_BYTES, Flow, Half, Key, Own, Table, captured, close_flow, ignore, is_placed,
    leave, side_of, stage, timer_start, timer_stop)

cdef enum:
    GRACE = 100_000             # µs from the moment a hole is known until it is given up
    GRACE_ONE_SIDED = 1_000_000     # the same if the other direction was never seen, so that no ACK tells of holes
    WINDOW = 64 << 20           # bytes that a segment may be away from the bytes seen and acknowledged
    UNDECIDED_LIMIT = 64 << 10  # held bytes after which a flow is ignored if its server is still not known
    WAITS_PREAMBLE = 255        # stream.waits: too few bytes to say whether a PROXY protocol header comes first


# ---- handing over to the session -------------------------------------------------------------------------------------

cdef inline bint is_readable(const Flow* flow, const Half* half, int64_t ack) noexcept nogil:
    """Whether bytes that are next in order, with the acknowledgement `ack`, may be passed to the session now."""
    return flow.mode == MODE_READ and not flow.pending and may_read(
        &half.stream, &flow.half[1 - half.direction].stream, side_of(flow, half), flow.session, ack)


cdef bint open_session(Table* table, Flow* flow, Half* half, const Run* run) noexcept nogil:
    """Opens the session with the first payload, or with the first gap if `run` is NULL. False: no memory."""
    cdef Session blank
    memset(&blank, 0, sizeof(Session))
    blank.context = &table.context
    blank.conn = flow.conn
    blank.stream[<int>CLIENT] = &flow.half[1 - flow.server].stream
    blank.stream[<int>SERVER] = &flow.half[flow.server].stream
    flow.session = table.detector.open(&blank, side_of(flow, half), run)
    if flow.session == NULL:
        return False
    tell_end(flow, &flow.half[1 - flow.server])
    tell_end(flow, &flow.half[flow.server])
    return True


cdef inline void tell_end(Flow* flow, const Half* half) noexcept nogil:
    """Tells a new session of a side that ended before there was a session."""
    if half.stream.ended:
        flow.session.protocol.end(flow.session, side_of(flow, half), <Incomplete>half.end_reason)
        follow_heir(flow)


cdef inline void follow_heir(Flow* flow) noexcept nogil:
    """Replaces the session by its heir, if it has named one."""
    if flow.session.heir != NULL:
        inherit(flow)


cdef void inherit(Flow* flow) noexcept nogil:
    cdef Session* session = flow.session
    flow.session = session.heir
    session.heir = NULL
    flow.half[0].stream.waits = 0
    flow.half[1].stream.waits = 0
    if session.protocol.closed != NULL:
        session.protocol.closed(session)
    session.protocol.close(session)


cdef void deliver(Table* table, Flow* flow, Half* half, Run* run) noexcept nogil:
    """Passes a run that starts at stream.next to the session; bytes that must wait stay in `run`."""
    cdef Side side = side_of(flow, half)
    cdef Session* session
    if side == CLIENT and not flow.begun and not read_preamble(table, flow, half, run):
        return
    if flow.session == NULL and not open_session(table, flow, half, run):
        table.context.counters[<int>Counter.BYTES_ABANDONED_EVICTED] += <uint64_t>run.size
        run.offset += run.size
        run.size = 0
        half.stream.next = run.offset
        half.stream.from_start = False
        return
    while True:
        session = flow.session
        session.protocol.data(session, side, run)
        half.stream.next = run.offset
        if session.heir == NULL:
            return
        inherit(flow)
        if run.size == 0 or not is_readable(flow, half, run.ack):
            return


cdef bint read_preamble(Table* table, Flow* flow, Half* half, Run* run) noexcept nogil:
    """Consumes a PROXY protocol header before the client's first byte. Returns whether the run has bytes to read now.

    False: the run is consumed, or the client's stream waits for more bytes of a possible header.
    """
    cdef int64_t size
    if flow.preamble == 0:
        size = table.detector.preamble(&table.context, flow.conn, &half.stream, run)
        if size < 0:
            stream_wait(&half.stream, WAITS_PREAMBLE)
            return False
        if size == 0:
            flow.begun = True
            return True
        flow.preamble = <uint32_t>size
    size = min(run.size, <int64_t>flow.preamble)
    run.data += size
    run.size -= size
    run.offset += size
    run.segment_start = True    # the first message begins behind the preamble, as it would in a segment of its own
    half.stream.next = run.offset
    flow.preamble -= <uint32_t>size
    table.context.counters[<int>Counter.BYTES_PROXY] += <uint64_t>size
    if flow.preamble:
        return False
    flow.begun = True
    half.stream.from_start = True
    flow.conn.from_start = True
    return run.size > 0


cdef bint resolve(Table* table, Flow* flow, Half* half, bint last) noexcept nogil:
    """Asks whether a half that waits may be read on. `last`: it must not wait any longer; see Protocol.resolve."""
    cdef Held* front
    cdef bint done
    if half.stream.waits != WAITS_PREAMBLE:
        done = flow.session.protocol.resolve(flow.session, side_of(flow, half), last)
        follow_heir(flow)
        return done
    front = stream_front(&half.stream)
    if front != NULL and front.offset == half.stream.next and not last and \
            table.detector.preamble(&table.context, flow.conn, &half.stream, NULL) < 0:
        return False
    flow.begun = last
    half.stream.waits = 0
    return True


cdef void tell_gap(Table* table, Flow* flow, Half* half, int64_t start, int64_t size) noexcept nogil:
    if flow.mode != MODE_READ or (flow.session == NULL and not open_session(table, flow, half, NULL)):
        return
    flow.session.protocol.gap(flow.session, side_of(flow, half), start, size)
    follow_heir(flow)


cdef void skip_gap(Table* table, Flow* flow, Half* half, int64_t size) noexcept nogil:
    """Gives up `size` missing bytes at stream.next: the session is told of a gap."""
    cdef Stream* stream = &half.stream
    cdef int64_t start = stream.next
    cdef int64_t preamble
    table.context.counters[<int>Counter.GAPS] += 1
    table.context.counters[<int>Counter.GAP_BYTES] += <uint64_t>size
    stream.next += size
    if stream.top < stream.next:
        stream.top = stream.next
    if side_of(flow, half) == CLIENT:
        preamble = min(size, <int64_t>flow.preamble)
        flow.preamble -= <uint32_t>preamble
        start += preamble
        size -= preamble
        if size == 0:
            return
        flow.begun = True
    tell_gap(table, flow, half, start, size)


cdef void end_side(Table* table, Flow* flow, Half* half, Incomplete reason) noexcept nogil:
    """Tells the session that a direction has ended."""
    cdef Side side = side_of(flow, half)
    if side == CLIENT:
        flow.begun = True
    if flow.session != NULL:
        flow.session.protocol.end(flow.session, side, reason)
        follow_heir(flow)


# ---- order and holes -------------------------------------------------------------------------------------------------

cdef int64_t hole(const Flow* flow, const Half* half, bint forced) noexcept nogil:
    """Size in bytes of the hole at stream.next; 0 if there is none.

    Bytes are taken for missing if the other side has acknowledged them, or if a FIN or RST that is believed stands
    behind them. With `forced`, or if the other side was never seen, held bytes or any end behind them are enough.
    """
    cdef const Stream* stream = &half.stream
    cdef const Half* other = &flow.half[1 - half.direction]
    cdef Held* front = stream_front(stream)
    cdef int64_t limit
    if stream.base != BASE_KNOWN or half.stream.ended or (front != NULL and front.offset <= stream.next):
        return 0
    if forced or not other.stream.seen:
        limit = front.offset if front != NULL else max(stream.end, stream.acked)
    else:
        limit = stream.acked
        if front != NULL and front.offset < limit:
            limit = front.offset
        if stream.end >= 0 and not is_ahead_of_all(half):
            limit = stream.end if front == NULL else front.offset
    if 0 <= stream.end < limit:
        limit = stream.end
    return limit - stream.next if limit > stream.next else 0


cdef void read_front(Table* table, Flow* flow, Half* half) noexcept nogil:
    """Passes the front held piece to the session; bytes of it that must wait stay held."""
    cdef Run run
    cdef int64_t size
    stream_read(&half.stream, &run)
    size = run.size
    deliver(table, flow, half, &run)
    stream_take(&half.stream, size - run.size)


cdef bint step(Table* table, Flow* flow, Half* half) noexcept nogil:
    """Reads one held piece, or the end of the stream, if it may be read now; returns whether there was one."""
    cdef Stream* stream = &half.stream
    cdef Held* front = stream_front(stream)
    if stream.base != BASE_KNOWN:
        return False
    if front != NULL and front.offset <= stream.next:
        if not is_readable(flow, half, front.ack):
            return False
        read_front(table, flow, half)
        return True
    if stream.end < 0 or stream.next < stream.end or half.stream.ended:
        return False
    half.stream.ended = True
    end_side(table, flow, half, <Incomplete>half.end_reason)
    return True


cdef void read_on(Table* table, Flow* flow) noexcept nogil:
    """Reads both directions until neither can be read on. Bytes are read after those that they acknowledge."""
    cdef Half* client = &flow.half[1 - flow.server]
    cdef Half* server = &flow.half[flow.server]
    cdef Held* front
    while True:
        front = stream_front(&client.stream)
        if front != NULL and front.ack > server.stream.next and step(table, flow, server):
            continue
        if client.stream.waits and resolve(table, flow, client, False):
            continue
        if server.stream.waits and resolve(table, flow, server, False):
            continue
        if not step(table, flow, client) and not step(table, flow, server):
            break


cdef bint force(Table* table, Flow* flow, Half* half) noexcept nogil:
    """Reads the front held piece of a half even if it should wait, or gives up the hole there.

    Returns whether there was either.
    """
    cdef Held* front = stream_front(&half.stream)
    cdef int64_t size
    if half.stream.base != BASE_KNOWN or half.stream.waits:
        return False
    if front != NULL and front.offset <= half.stream.next:
        read_front(table, flow, half)
        return True
    size = hole(flow, half, True)
    if size:
        skip_gap(table, flow, half, size)
    return size > 0


cdef bint force_on(Table* table, Flow* flow) noexcept nogil:
    """Forces the half that the other one waits for, then reads on; returns whether there was anything to force."""
    cdef Half* client = &flow.half[1 - flow.server]
    cdef Half* server = &flow.half[flow.server]
    cdef Held* asked = stream_front(&client.stream)
    cdef Held* told = stream_front(&server.stream)
    cdef bint any
    if client.stream.waits and hole(flow, server, True) == 0:
        any = resolve(table, flow, client, True)
    elif server.stream.waits and hole(flow, client, True) == 0:
        any = resolve(table, flow, server, True)
    elif asked != NULL and asked.ack > server.stream.next and \
            (told == NULL or told.ack <= client.stream.next):
        any = force(table, flow, server) or force(table, flow, client)
    else:
        any = force(table, flow, client) or force(table, flow, server)
    if not any and client.stream.waits:
        any = resolve(table, flow, client, True)
    if not any and server.stream.waits:
        any = resolve(table, flow, server, True)
    if any:
        read_on(table, flow)
    return any


cdef void settle(Table* table, Flow* flow) noexcept nogil:
    cdef Half* half
    cdef int d
    if flow.pending:
        return
    if flow.mode == MODE_UNDECIDED:
        decide(table, flow)
    if flow.mode == MODE_READ:
        read_on(table, flow)
        for d in range(2):
            half = &flow.half[d]
            if half.stream.held_memory > HOLD_LIMIT:
                relieve_half(table, flow, half, HOLD_LIMIT // 2)
        if flow.session != NULL and flow.session.reason:
            give_up(table, flow)
        elif flow.half[0].stream.ended and flow.half[1].stream.ended:
            close_flow(table, flow, <int>Counter.FLOWS_CLOSED)
            return
    if flow.mode <= MODE_UNDECIDED:
        arm(table, flow, &flow.half[0])
        arm(table, flow, &flow.half[1])


cdef void give_up(Table* table, Flow* flow) noexcept nogil:
    """Ignores the flow, since its session has set `reason`."""
    cdef int d
    for d in range(2):
        flow.fins |= <uint8_t>((1 if flow.half[d].stream.ended else 0) << d)
    ignore(table, flow, flow.session.reason)


cdef inline void arm(Table* table, Flow* flow, Half* half) noexcept nogil:
    """Starts, keeps or stops the timer of a half."""
    cdef bint told          # the other direction was seen, so its ACKs tell of holes
    if half.stream.base == BASE_PROVISIONAL:
        if half.timers == NULL:
            timer_start(table, half, &table.soon, table.context.now + GRACE)
        return
    if half.stream.ended and not flow.half[1 - half.direction].stream.seen:     # the only side seen has ended
        if half.timers == NULL:
            timer_start(table, half, &table.later, table.context.now + GRACE_ONE_SIDED)
        return
    if half.stream.waits and not flow.half[1 - half.direction].stream.seen:     # the other side may never be seen
        if half.timers == NULL or half.hole != half.stream.next:
            half.hole = half.stream.next
            timer_start(table, half, &table.later, table.context.now + GRACE_ONE_SIDED)
        return
    if half.stream.waits and half.stream.hurried:
        if half.timers == NULL or half.hole != half.stream.next:
            half.hole = half.stream.next
            timer_start(table, half, &table.soon, table.context.now + GRACE)
        return
    if half.stream.count == 0 and half.stream.acked <= half.stream.next and half.stream.end < 0:
        if half.timers != NULL:
            timer_stop(half)
        return
    if hole(flow, half, False) == 0:
        timer_stop(half)
        return
    told = flow.half[1 - half.direction].stream.seen
    if half.timers != NULL and half.hole == half.stream.next and (half.timers == &table.soon) == told:
        return
    half.hole = half.stream.next
    if told:
        timer_start(table, half, &table.soon, table.context.now + GRACE)
    else:
        timer_start(table, half, &table.later, table.context.now + GRACE_ONE_SIDED)


cdef void fix_base(Half* half) noexcept nogil:
    """Ends the grace of a direction joined in mid-stream: it begins at the lowest offset seen or heard of by an ACK."""
    cdef Held* front = stream_front(&half.stream)
    if half.stream.base == BASE_PROVISIONAL:
        half.stream.base = BASE_KNOWN
        half.stream.next = half.stream.top if front == NULL else front.offset
        if 0 <= half.stream.start < half.stream.next:
            half.stream.next = half.stream.start
        half.stream.start = half.stream.next


cdef void fire(Table* table, Half* half) noexcept nogil:
    cdef Flow* flow = half.flow
    cdef int64_t size
    timer_stop(half)
    if half.stream.ended and not flow.half[1 - half.direction].stream.seen:
        close_flow(table, flow, <int>Counter.FLOWS_CLOSED)
        return
    if half.stream.base == BASE_PROVISIONAL:
        fix_base(half)
    elif half.stream.waits and not flow.half[1 - half.direction].stream.seen:
        flow.half[1 - half.direction].stream.absent = True
        resolve(table, flow, half, True)
    elif half.stream.waits and half.stream.hurried:
        resolve(table, flow, half, True)
    elif flow.mode == MODE_READ:
        size = hole(flow, half, False)
        if size:
            if not half.stream.seen:
                half.stream.absent = True      # the capture sees one side only: the other must not wait for this one
                half.stream.next += size
            else:
                skip_gap(table, flow, half, size)
    settle(table, flow)


cdef void relieve_half(Table* table, Flow* flow, Half* half, int64_t goal) noexcept nogil:
    cdef Half* other = &flow.half[1 - half.direction]
    if half.stream.waits:
        resolve(table, flow, half, True)
    fix_base(half)
    if side_of(flow, half) == SERVER:
        fix_base(other)
    read_on(table, flow)
    while half.stream.held_memory > goal and force_on(table, flow):
        pass


# ---- who is the server -----------------------------------------------------------------------------------------------

cdef void decide(Table* table, Flow* flow) noexcept nogil:
    """Finds the server of a flow in MODE_UNDECIDED by the first bytes of either side."""
    cdef int d, side
    for d in range(2):
        if flow.half[d].stream.base == BASE_KNOWN and flow.half[d].stream.count:
            side = table.detector.speaker(&flow.half[d].stream)
            if side >= 0:
                set_server(flow, d if side == SERVER else 1 - d)
                return
    if flow.half[0].stream.held_bytes + flow.half[1].stream.held_bytes > UNDECIDED_LIMIT:
        table.context.counters[<int>Counter.FLOWS_UNDECIDED] += 1
        note(&table.context, flow.conn, NOTICE_UNDECIDED)
        ignore(table, flow, <int>Counter.BYTES_ABANDONED_UNDECIDED)


cdef Flow* new_flow(
        Table* table, const Packet* packet, const Key* key, uint64_t hashed, int d, int64_t stamp) noexcept nogil:
    cdef Flow* flow = <Flow*>pool_take(&table.context.pool, sizeof(Flow))
    cdef Conn* conn
    cdef bint from_captured = captured(table, packet.source_port)
    cdef bint to_captured = captured(table, packet.destination_port)
    cdef int i
    if flow == NULL:
        return NULL
    conn = <Conn*>pool_take(&table.context.pool, sizeof(Conn))
    if conn == NULL:
        pool_give(&table.context.pool, flow, sizeof(Flow))
        return NULL
    memset(flow, 0, sizeof(Flow))
    memset(conn, 0, sizeof(Conn))
    conn.pool = &table.context.pool
    conn.pool.bytes += CONN_OBJECTS     # made with the first message, but counted now so that eviction comes in time
    conn.dead = &table.dead
    conn.references = 1
    conn.first_stamp = stamp
    conn.place = packet.place if is_placed(key) else 0
    flow.place = packet.place
    conn.address_size = packet.address_size
    memcpy(conn.low, packet.source if d == 0 else packet.destination, packet.address_size)
    memcpy(conn.high, packet.destination if d == 0 else packet.source, packet.address_size)
    conn.low_port = packet.source_port if d == 0 else packet.destination_port
    conn.high_port = packet.destination_port if d == 0 else packet.source_port
    flow.conn = conn
    flow.key = key[0]
    flow.hashed = hashed
    flow.last = table.context.now
    for i in range(2):
        flow.half[i].flow = flow
        flow.half[i].direction = <uint8_t>i
        stream_init(&flow.half[i].stream, &table.context.pool, table.context.counters)
    flow.mode = MODE_UNDECIDED
    flow.handshake = packet.flags & TCP_SYN != 0
    if table.own_count and is_own(table, conn):
        table.context.counters[<int>Counter.FLOWS_OWN] += 1
        ignore(table, flow, <int>Counter.BYTES_ABANDONED_OWN)
        return flow
    if flow.handshake:
        i = d if packet.flags & TCP_ACK else 1 - d
        if not (from_captured if i == d else to_captured):
            table.context.counters[<int>Counter.FLOWS_OTHER_SERVER] += 1
            ignore(table, flow, <int>Counter.BYTES_ABANDONED_OTHER_PORT)
            return flow
    elif from_captured != to_captured:
        i = d if from_captured else 1 - d
    else:
        i = -1
    if table.sample_rate < 1 and not sampled(table, conn):
        table.context.counters[<int>Counter.FLOWS_SAMPLED_OUT] += 1
        ignore(table, flow, <int>Counter.BYTES_ABANDONED_SAMPLED_OUT)
        return flow
    if i >= 0:
        set_server(flow, i)
    return flow


cdef bint is_own(const Table* table, const Conn* conn) noexcept nogil:
    cdef uint32_t i
    cdef const Own* own
    for i in range(table.own_count):
        own = &table.own[i]
        if own.size == conn.address_size and (
                (own.port == conn.low_port and memcmp(own.address, conn.low, own.size) == 0)
                or (own.port == conn.high_port and memcmp(own.address, conn.high, own.size) == 0)):
            return True
    return False


cdef bint sampled(const Table* table, const Conn* conn) noexcept with gil:
    """Whether the connection is in the sample: the first 64 bits of BLAKE2b of its sorted ends are below the rate."""
    cdef bytes ends = (
        conn.low[:conn.address_size] + (<int>conn.low_port).to_bytes(2, "big")
        + conn.high[:conn.address_size] + (<int>conn.high_port).to_bytes(2, "big"))
    return int.from_bytes(blake2b(ends).digest()[:8], "big") < table.sample_rate * 2.0 ** 64


cdef void end_flow(Table* table, Flow* flow, Incomplete reason, int why) noexcept nogil:
    cdef Half* half
    cdef int i
    if flow.mode <= MODE_UNDECIDED:
        fix_base(&flow.half[0])
        fix_base(&flow.half[1])
        if flow.mode == MODE_UNDECIDED:
            decide(table, flow)
        if flow.mode == MODE_READ:
            read_on(table, flow)
            while force_on(table, flow):
                pass
            for i in range(2):      # the client's direction first
                half = &flow.half[flow.server if i else 1 - flow.server]
                if not half.stream.ended:
                    end_side(table, flow, half, reason)
    close_flow(table, flow, why)
    leave(table, flow)


# ---- begin and end ---------------------------------------------------------------------------------------------------

cdef void on_reset(Table* table, Flow* flow, const Packet* packet, int d) noexcept nogil:
    """Handles a RST. Its payload is not stream data (RFC 9293 section 3.5.3).

    It is ignored if its sequence number is above the bytes seen and acknowledged, or more than WINDOW below the next
    byte to read (RFC 5961 section 3 is stricter). If no sequence number of its direction is known, its ACK must lie
    within the bytes seen of the other direction (RFC 9293 section 3.10.7.3). A RST without ACK is then ignored if the
    other side's SYN was seen.
    """
    cdef const Stream* stream = &flow.half[d].stream
    cdef const Stream* other = &flow.half[1 - d].stream
    cdef int64_t offset
    table.context.counters[<int>Counter.BYTES_PAYLOAD] += packet.payload_size
    table.context.counters[<int>Counter.BYTES_ABANDONED_RST] += packet.payload_size
    if flow.pending:
        return      # it refuses the SYN of a successor, which changes nothing for the flow
    if stream.mapped:
        offset = stream_offset(stream, packet.seq)
        if offset > max(stream.top, stream.acked) or offset < stream.next - WINDOW:
            return
    elif other.mapped and packet.flags & TCP_ACK:
        offset = stream_offset(other, packet.ack)
        if offset > other.top or offset < other.start:
            return
    elif other.syn_seen:
        return
    cut_off(&flow.half[d])
    cut_off(&flow.half[1 - d])
    settle(table, flow)


cdef void on_closed(Table* table, Flow* flow, const Packet* packet, int d, int64_t stamp) noexcept nogil:
    cdef Half* half = &flow.half[d]
    cdef Half* other = &flow.half[1 - d]
    cdef Run run
    cdef int64_t size = packet.payload_size
    cdef int64_t early
    cdef uint32_t seq = packet.seq + (1 if packet.flags & TCP_SYN else 0)
    table.context.counters[<int>Counter.BYTES_PAYLOAD] += <uint64_t>size
    if packet.flags & TCP_RST:
        table.context.counters[<int>Counter.BYTES_ABANDONED_RST] += <uint64_t>size
        return
    if not half.stream.mapped and half.stream.end >= 0:
        stream_map(&half.stream, seq)
    if not flow.resumable or half.stream.end < 0:
        table.context.counters[<int>Counter.BYTES_ABANDONED_LATE] += <uint64_t>size
        return
    run.data = packet.payload
    run.size = size
    run.offset = stream_offset(&half.stream, seq)
    run.stamp = stamp
    run.ack = -1
    run.segment_start = True
    run.conflict = False
    if packet.flags & TCP_ACK and other.stream.mapped:
        run.ack = stream_offset(&other.stream, packet.ack)
        if other.heard < run.ack <= other.stream.end + HOLD_LIMIT:
            other.heard = run.ack
    early = min(run.size, max(<int64_t>0, half.stream.end - run.offset))
    if early:
        table.context.counters[<int>Counter.BYTES_ABANDONED_LATE] += <uint64_t>early
        run.data += early
        run.size -= early
        run.offset += early
        run.segment_start = False
    if run.size:
        on_late(table, half, &run)
        flow.closed = table.context.now         # the tombstone stays longer, as the peers may have ignored the end
        stage(flow, &table.closed)
    if resume(table, flow):
        settle(table, flow)


cdef bint is_beyond_window(const Stream* stream, int64_t offset, int64_t size) noexcept nogil:
    return offset > max(stream.top, stream.acked) + WINDOW or offset < 0 or \
        (stream.base == BASE_KNOWN and offset + size < stream.next - WINDOW)


cdef void remember(Table* table, Half* half, const Run* run) noexcept nogil:
    """Adds a run to half.recent, which keeps the last RECENT_BYTES in sequence."""
    cdef const uint8_t* data = run.data
    cdef int64_t size = run.size
    cdef int64_t kept
    if half.recent == NULL:
        half.recent = <uint8_t*>pool_take(&table.context.pool, RECENT_BYTES)
        half.recent_size = 0
        if half.recent == NULL:
            return
    if size > RECENT_BYTES:
        data += size - RECENT_BYTES
        size = RECENT_BYTES
    kept = min(<int64_t>half.recent_size, RECENT_BYTES - size) if run.offset == half.recent_end else 0
    memmove(half.recent, half.recent + half.recent_size - kept, <size_t>kept)
    memcpy(half.recent + kept, data, <size_t>size)
    half.recent_size = <uint32_t>(kept + size)
    half.recent_end = run.offset + run.size


# ---- a segment -------------------------------------------------------------------------------------------------------

cdef inline int64_t take_ack(Table* table, Flow* flow, Half* half, const Packet* packet, int64_t offset) noexcept nogil:
    """Notes the ACK of a segment, and returns it as an offset in the other direction.

    -1: the segment has no ACK, or one that is out of range. `offset` is that of the segment.
    """
    cdef Half* other = &flow.half[1 - half.direction]
    cdef int64_t ack
    if not packet.flags & TCP_ACK:
        return -1
    if not other.stream.mapped:
        stream_map(&other.stream, packet.ack)
        other.stream.start = ORIGIN     # bytes from here on count as missing if they never come
    ack = stream_offset(&other.stream, packet.ack)
    if ack > other.stream.acked and ack <= other.stream.top + WINDOW:
        stream_acknowledge(&other.stream, ack, max(offset, half.stream.top))     # a retransmission was sent after `top`
    elif ack < 0 or ack > other.stream.top + WINDOW:
        ack = -1
    if other.stream.end >= 0 and ack > other.heard:
        other.heard = ack
        if other.late != NULL:
            resume(table, flow)
    if other.stream.base != BASE_KNOWN and packet.payload_size and \
            other.stream.start - REACH_BACK <= ack < other.stream.start:
        other.stream.start = ack        # a sender of data had read up to here, so bytes from here on are expected
    return ack


cdef inline void take_in_order(Table* table, Flow* flow, Half* half, Run* run) noexcept nogil:
    """Passes bytes of a stream whose base is known to the session without a copy, or holds them."""
    cdef Stream* stream = &half.stream
    cdef Held* front = stream_front(stream)
    cdef int64_t end = run.offset + run.size
    cdef int64_t old
    if run.offset < stream.next and run.size:
        old = min(run.size, stream.next - run.offset)
        table.context.counters[<int>Counter.BYTES_DUPLICATE] += <uint64_t>old
        if old == run.size:
            table.context.counters[<int>Counter.SEGMENTS_RETRANSMITTED] += 1
        run.data += old
        run.size -= old
        run.offset += old
        run.segment_start = False
    if run.size == 0:
        return
    if run.offset == stream.next and (front == NULL or end <= front.offset) and is_readable(flow, half, run.ack):
        if stream.top < end:
            stream.top = end
        deliver(table, flow, half, run)
        if run.size:
            stream_buffer(stream, run)
        return
    if run.offset > stream.next:
        table.context.counters[<int>Counter.SEGMENTS_OUT_OF_ORDER] += 1
    stream_buffer(stream, run)


cdef void take_cut(Table* table, Flow* flow, Half* half, int64_t missing, int64_t end) noexcept nogil:
    """Handles a segment that the snaplen has cut: `missing` bytes behind offset `end` were not captured."""
    cdef Stream* stream = &half.stream
    table.context.counters[<int>Counter.SEGMENTS_SNAPPED] += 1
    if stream.base == BASE_PROVISIONAL:
        return
    if not table.snapped:
        table.snapped = True
        note(&table.context, flow.conn, NOTICE_SNAPPED)
    if stream.next == end and flow.mode == MODE_READ and stream.end < 0:
        skip_gap(table, flow, half, missing)


cdef inline void take_payload(Table* table, Flow* flow, Half* half, const Packet* packet, int64_t offset, int64_t ack,
                              int64_t stamp) noexcept nogil:
    cdef Stream* stream = &half.stream
    cdef Held* front
    cdef Run run
    cdef int64_t size = packet.payload_size
    if flow.stage == &table.silent:
        stage(flow, NULL)
    run.data = packet.payload
    run.size = size
    run.offset = offset
    run.stamp = stamp
    run.ack = ack
    run.segment_start = True
    run.conflict = False
    if 0 <= stream.end < offset + size:
        size = on_beyond(table, flow, half, &run)
        run.data = packet.payload
        run.size = size
        run.offset = offset
        run.segment_start = True
    if stream.base == BASE_NONE:
        stream.base = BASE_PROVISIONAL
        stream.top = offset
        if stream.start < 0:
            stream.start = offset
    if table.places and offset + size > stream.next:
        remember(table, half, &run)
    if stream.base == BASE_PROVISIONAL:
        front = stream_front(stream)
        if front != NULL and offset < front.offset - REACH_BACK:
            table.context.counters[<int>Counter.BYTES_ABANDONED_OUT_OF_WINDOW] += <uint64_t>size
        else:
            stream_buffer(stream, &run)
            if packet.missing:
                take_cut(table, flow, half, packet.missing, offset + size)
    else:
        take_in_order(table, flow, half, &run)
        if packet.missing:
            take_cut(table, flow, half, packet.missing, offset + size)
    if stream.top < offset + size:
        stream.top = offset + size


cdef bint on_segment(Table* table, Flow* flow, const Packet* packet, int d, int64_t stamp) noexcept nogil:
    cdef Half* half = &flow.half[d]
    cdef Stream* stream = &half.stream
    cdef int64_t offset
    cdef int64_t ack
    cdef uint32_t seq = packet.seq + (1 if packet.flags & TCP_SYN else 0)
    if packet.flags & TCP_RST:
        on_reset(table, flow, packet, d)
        return True
    if not stream.mapped:
        stream_map(stream, seq)
    offset = stream_offset(stream, seq)
    if is_beyond_window(stream, offset, packet.payload_size):
        return False
    table.context.counters[<int>Counter.BYTES_PAYLOAD] += <uint64_t>packet.payload_size
    if not stream.seen:
        stream.seen = True
        if stream.absent:               # the direction is seen after all: treated as joined in mid-stream
            stream.absent = False
            stream.base = BASE_NONE
            stream.from_start = False
            tell_gap(table, flow, half, stream.next, 0)
    ack = take_ack(table, flow, half, packet, offset)
    if packet.payload_size or packet.missing:
        take_payload(table, flow, half, packet, offset, ack, stamp)
    if packet.flags & TCP_FIN and (stream.end < 0 or is_ahead_of_all(half)):
        offset += packet.payload_size + packet.missing
        if stream.base != BASE_KNOWN or offset >= stream.next:
            end_at(half, offset, WHOLE)
    settle(table, flow)
    return True
