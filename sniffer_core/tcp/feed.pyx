"""From packets to flows; see feed.pxd."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from sniffer_core.base.counters cimport Counter
from sniffer_core.base.memory cimport pool_give, pool_take
from sniffer_core.base.marks cimport INCOMPLETE_CLOSED_, INCOMPLETE_IDLE_
from sniffer_core.net.fragment cimport fragments_add
from sniffer_core.net.wire cimport (
    TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, WIRE_CUT, WIRE_FRAGMENT, WIRE_MALFORMED, WIRE_NOT_IP, WIRE_NOT_TCP, WIRE_TCP,
    WIRE_TUNNEL, Packet, Verdict, wire_parse)
from sniffer_core.tcp.evict cimport make_room, relieve
from sniffer_core.tcp.ends cimport HOLD_LIMIT, on_syn
from sniffer_core.tcp.flow cimport (
    end_flow, fire, is_beyond_window, new_flow, on_closed, on_segment, settle)
from sniffer_core.tcp.stream cimport REACH_BACK, Stream, stream_differs, stream_offset
from sniffer_core.tcp.table cimport (
    MODE_CLOSED, MODE_IGNORED, MODE_UNDECIDED, TOMBSTONE, Ahead, Flow, Half, Key, Table, captured, close_flow,
    discard, enter, keyed_hash, leave, list_append, list_remove, lookup, place_key, stage, used)

cdef enum:
    IDLE_ENOUGH = 60_000_000    # µs of silence after which a SYN with another number replaces a flow at once
    READY_COUNT = 32768         # ended messages after which feed() returns early
    READY_BYTES = 8 << 20       # bytes of ended messages after which it does
    STAMP_REFUSED = 0xFFFFFFFF  # microseconds of a packet whose stamp does not fit into the index


# ---- another connection on the same ports ----------------------------------------------------------------------------

cdef void on_ignored(Table* table, Flow* flow, const Packet* packet, int d) noexcept nogil:
    table.context.counters[<int>Counter.BYTES_PAYLOAD] += packet.payload_size
    table.context.counters[flow.reason] += packet.payload_size
    if flow.reason == <int>Counter.BYTES_ABANDONED_SAMPLED_OUT:
        table.context.counters[<int>Counter.SEGMENTS_SAMPLED_OUT] += 1
    elif flow.reason == <int>Counter.BYTES_ABANDONED_OTHER_PORT:
        table.context.counters[<int>Counter.SEGMENTS_OTHER_PORT] += 1
    elif flow.reason == <int>Counter.BYTES_ABANDONED_OWN:
        table.context.counters[<int>Counter.SEGMENTS_OWN] += 1
    if packet.payload_size and flow.stage == &table.silent:
        stage(flow, NULL)
    if packet.flags & TCP_FIN:
        flow.fins |= <uint8_t>(1 << d)
    if packet.flags & TCP_RST:
        flow.fins = 3
    if flow.fins == 3:
        close_flow(table, flow, <int>Counter.FLOWS_CLOSED)


cdef void on_successor(Table* table, Flow* flow, const Packet* packet, const Key* key, uint64_t hashed, int d,
                       int64_t stamp) noexcept nogil:
    """Makes a successor for a packet of another connection on the ends of a live flow.

    The successor replaces the flow once its SYN-ACK or packets of both its sides were seen.
    """
    if flow.successor != NULL:
        discard(table, flow.successor)
    flow.successor = new_flow(table, packet, key, hashed, d, stamp)
    if flow.successor != NULL:
        flow.successor.pending = True
        if packet.flags & TCP_SYN:
            on_syn(flow.successor, packet, d)


cdef void give_to_successor(Table* table, Flow* flow, const Packet* packet, int d, int64_t stamp) noexcept nogil:
    """Passes the payload of a successor's first packet or SYN-ACK to the successor."""
    if flow.successor != NULL and flow.successor.mode <= MODE_UNDECIDED and packet.payload_size:
        take_segment(table, flow.successor, packet, d, stamp)
    else:
        table.context.counters[<int>Counter.BYTES_PAYLOAD] += packet.payload_size
        table.context.counters[<int>Counter.BYTES_ABANDONED_OUT_OF_WINDOW] += packet.payload_size


cdef void take_segment(Table* table, Flow* flow, const Packet* packet, int d, int64_t stamp) noexcept nogil:
    """Handles a segment of a flow that is not ignored."""
    if not on_segment(table, flow, packet, d, stamp):
        on_beyond_window(table, flow, packet, d, stamp)


cdef void on_beyond_window(Table* table, Flow* flow, const Packet* packet, int d, int64_t stamp) noexcept nogil:
    """Handles a segment whose sequence number is too far from everything seen.

    If its ACK is too far as well, it belongs to another connection. Otherwise its number is taken for bogus.
    """
    if flow.pending or not is_of_another(flow, packet, d):
        table.context.counters[<int>Counter.BYTES_PAYLOAD] += packet.payload_size
        table.context.counters[<int>Counter.BYTES_ABANDONED_OUT_OF_WINDOW] += packet.payload_size
        return
    on_successor(table, flow, packet, &flow.key, flow.hashed, d, stamp)
    give_to_successor(table, flow, packet, d, stamp)
    if flow.successor != NULL and not flow.half[1 - d].stream.seen:
        succeed(table, flow)    # the capture sees one side only


cdef bint is_of_another(const Flow* flow, const Packet* packet, int d) noexcept nogil:
    """Whether the ACK of a segment beyond the window is out of range too, so that it is of another connection.

    The SYN of that connection was not seen.
    """
    cdef const Stream* other = &flow.half[1 - d].stream
    return packet.payload_size > 0 and packet.flags & (TCP_ACK | TCP_SYN | TCP_RST) == TCP_ACK and other.mapped and \
        is_beyond_window(other, stream_offset(other, packet.ack), 0)


cdef bint belongs(const Flow* flow, const Packet* packet, int d) noexcept nogil:
    """Whether a segment is nearer to the successor's numbers than to the flow's own."""
    cdef const Stream* old = &flow.half[d].stream
    cdef const Stream* new = &flow.successor.half[d].stream
    cdef uint32_t number = packet.seq
    cdef int64_t near
    cdef int64_t far
    if not new.mapped:
        old = &flow.half[1 - d].stream
        new = &flow.successor.half[1 - d].stream
        number = packet.ack
        if not packet.flags & TCP_ACK or not new.mapped:
            return False
    if not old.mapped:
        return True
    near = stream_offset(new, number) - new.next
    far = stream_offset(old, number) - old.next
    return (near if near >= 0 else -near) < (far if far >= 0 else -far)


cdef void succeed(Table* table, Flow* flow) noexcept nogil:
    """Ends the flow and puts its successor, which is confirmed, in its place."""
    cdef Flow* successor = flow.successor
    flow.successor = NULL
    successor.pending = False
    end_flow(table, flow, INCOMPLETE_CLOSED_, <int>Counter.FLOWS_REPLACED)
    make_room(table)
    enter(table, successor)
    settle(table, successor)
    if successor.half[0].stream.count or successor.half[1].stream.count or successor.session != NULL:
        if successor.stage == &table.silent:
            stage(successor, NULL)


# ---- the same ends in several places ---------------------------------------------------------------------------------

# Packets with the same two ends may come from several places (VLANs, interfaces). Mostly they are of one connection
# that is captured more than once, or whose directions take different ways. But separate networks may use the same
# addresses. So a packet from another place is taken for another connection if it is a SYN with another sequence number,
# or if it carries other bytes at the same sequence numbers. The first flow keeps the plain key; the key of the other
# has its place.

cdef bint differs(const Half* half, int64_t offset, const uint8_t* data, int64_t size) noexcept nogil:
    """Whether other bytes were seen at these offsets."""
    cdef int64_t first = half.recent_end - half.recent_size
    cdef int64_t start = max(offset, first)
    cdef int64_t end = min(offset + size, half.recent_end)
    if half.recent != NULL and start < end and memcmp(
            half.recent + (start - first), data + (start - offset), <size_t>(end - start)) != 0:
        return True
    return stream_differs(&half.stream, data, size, offset)


cdef bint is_syn_of(const Flow* flow, const Packet* packet, int d) noexcept nogil:
    """Whether a SYN can be that of the flow, as far as the flow's sequence numbers are known."""
    cdef const Stream* stream = &flow.half[d].stream
    cdef int64_t offset
    if stream.syn_seen:
        return stream.syn_seq == <uint32_t>(packet.seq + 1)
    if not stream.mapped:
        return True
    offset = stream_offset(stream, packet.seq + 1)
    return stream.top - REACH_BACK <= offset <= stream.top


cdef bint is_elsewhere(const Flow* flow, const Packet* packet, int d) noexcept nogil:
    """Whether a packet from another place than the flow's first packet is of another connection."""
    cdef const Half* half = &flow.half[d]
    if flow.mode > MODE_UNDECIDED or packet.flags & TCP_RST:
        return False
    if packet.flags & TCP_SYN:
        return not is_syn_of(flow, packet, d) and (flow.successor == NULL or not is_syn_of(flow.successor, packet, d))
    return packet.payload_size > 0 and half.stream.mapped and differs(
        half, stream_offset(&half.stream, packet.seq), packet.payload, packet.payload_size)


cdef Flow* find_place(
        Table* table, Flow* first, const Packet* packet, Key* key, uint64_t* hashed, int d) noexcept nogil:
    """Finds the flow of a packet whose place is not that of `first`, the flow with the plain key (NULL: none).

    Returns NULL if the packet begins a new flow; `key` and `hashed` are then those to use for it.
    """
    cdef Key placed = key[0]
    cdef uint64_t placed_hash
    cdef Flow* flow = NULL
    place_key(&placed, packet.place)
    placed_hash = keyed_hash(table.secret, &placed)
    if first == NULL or first.shared:
        flow = lookup(table, &placed, placed_hash)
    if flow == NULL and (first == NULL or not is_elsewhere(first, packet, d)):
        return first
    if flow == NULL:
        first.shared = True
    key[0] = placed
    hashed[0] = placed_hash
    return flow


cdef bint has_left(const Stream* stream, uint32_t number) noexcept nogil:
    """Whether a sequence number is more than REACH_BACK away from the next byte of a stream that has ended."""
    return stream.mapped and not (-REACH_BACK <= stream_offset(stream, number) - stream.next <= REACH_BACK)


cdef bint same_connection(const Flow* flow, const Packet* packet, int d) noexcept nogil:
    """Whether a packet belongs to a closed flow, and not to another connection on its ports."""
    cdef const Stream* stream = &flow.half[d].stream
    cdef const Stream* other = &flow.half[1 - d].stream
    if packet.flags & TCP_SYN:
        if stream.syn_seen:
            return stream.syn_seq == <uint32_t>(packet.seq + 1)
        return packet.flags & TCP_ACK and other.syn_seen and other.syn_seq == packet.ack
    if packet.flags & TCP_RST or packet.payload_size == 0 or not packet.flags & TCP_ACK:
        return True
    return not (has_left(stream, packet.seq) and has_left(other, packet.ack))     # its SYN was lost


# ---- packets ---------------------------------------------------------------------------------------------------------

cdef inline int make_key(Key* key, const Packet* packet) noexcept nogil:
    """Makes the key of a packet's connection. Returns the packet's direction: 0 is from the low end to the high end."""
    cdef int d = memcmp(packet.source, packet.destination, packet.address_size)
    if d == 0:
        d = <int>packet.source_port - <int>packet.destination_port
    memset(key, 0, sizeof(Key))
    if d <= 0:
        memcpy(&key.word[0], packet.source, packet.address_size)
        memcpy(&key.word[2], packet.destination, packet.address_size)
        key.word[4] = <uint64_t>packet.source_port << 16 | packet.destination_port
    else:
        memcpy(&key.word[0], packet.destination, packet.address_size)
        memcpy(&key.word[2], packet.source, packet.address_size)
        key.word[4] = <uint64_t>packet.destination_port << 16 | packet.source_port
    key.word[4] |= <uint64_t>packet.address_size << 32
    return 1 if d > 0 else 0


cdef void abandon(Table* table, const Packet* packet, Counter reason) noexcept nogil:
    """Counts the payload of a packet that no flow takes."""
    table.context.counters[<int>Counter.BYTES_PAYLOAD] += packet.payload_size
    table.context.counters[<int>reason] += packet.payload_size


cdef void on_unknown(Table* table, const Packet* packet, const Key* key, uint64_t hashed, int d,
                     int64_t stamp) noexcept nogil:
    """Handles the first packet of a connection."""
    cdef Flow* flow
    cdef bint syn = packet.flags & TCP_SYN != 0
    if not syn and ((packet.payload_size == 0 and packet.missing == 0) or packet.flags & TCP_RST):
        table.context.counters[<int>Counter.SEGMENTS_NO_FLOW] += 1
        abandon(table, packet, Counter.BYTES_ABANDONED_RST)     # only a RST has payload here
        return
    make_room(table)
    flow = new_flow(table, packet, key, hashed, d, stamp)
    if flow == NULL:
        abandon(table, packet, Counter.BYTES_ABANDONED_EVICTED)
        return
    enter(table, flow)
    if flow.mode == MODE_IGNORED:
        flow.half[d].stream.syn_seq = packet.seq + 1
        on_ignored(table, flow, packet, d)
        return
    if syn:
        on_syn(flow, packet, d)
    take_segment(table, flow, packet, d, stamp)


cdef void on_other_syn(Table* table, Flow* flow, const Packet* packet, const Key* key, uint64_t hashed, int d,
                       int64_t stamp) noexcept nogil:
    """Handles a SYN of another connection on the ends of a flow that is read."""
    if table.context.now - flow.last >= IDLE_ENOUGH or flow.half[d].stream.ended:
        end_flow(table, flow, INCOMPLETE_CLOSED_, <int>Counter.FLOWS_REPLACED)
        on_tcp(table, packet, stamp)
        return
    if flow.successor != NULL and on_syn(flow.successor, packet, d):
        give_to_successor(table, flow, packet, d, stamp)
        if packet.flags & TCP_ACK:
            succeed(table, flow)
        return
    on_successor(table, flow, packet, key, hashed, d, stamp)
    give_to_successor(table, flow, packet, d, stamp)
    flow.last = table.context.now


cdef void take_as_successor(Table* table, Flow* flow, const Packet* packet, int d, int64_t stamp) noexcept nogil:
    """Handles a segment that belongs to the flow's successor."""
    cdef Flow* successor = flow.successor
    take_segment(table, successor, packet, d, stamp)
    if successor.half[0].stream.seen and successor.half[1].stream.seen:
        succeed(table, flow)
    elif successor.half[0].stream.held_memory + successor.half[1].stream.held_memory > HOLD_LIMIT:
        discard(table, successor)
        flow.successor = NULL


cdef bint replaces_ignored(const Flow* flow, const Packet* packet, int d) noexcept nogil:
    """Whether a SYN begins another connection on the ends of an ignored flow. Our own deliveries stay ignored."""
    return packet.flags & (TCP_SYN | TCP_ACK) == TCP_SYN and \
        flow.half[d].stream.syn_seq != <uint32_t>(packet.seq + 1) and flow.reason != <int>Counter.BYTES_ABANDONED_OWN


cdef void on_tcp(Table* table, const Packet* packet, int64_t stamp) noexcept nogil:
    cdef Key key
    cdef int d
    cdef uint64_t hashed
    cdef Flow* flow
    if not captured(table, packet.source_port) and not captured(table, packet.destination_port):
        table.context.counters[<int>Counter.SEGMENTS_OTHER_PORT] += 1
        abandon(table, packet, Counter.BYTES_ABANDONED_OTHER_PORT)
        return
    d = make_key(&key, packet)
    hashed = keyed_hash(table.secret, &key)
    flow = lookup(table, &key, hashed)
    if packet.place:
        table.places = True
    if (flow == NULL and table.placed > 0) or (flow != NULL and flow.place != packet.place):
        flow = find_place(table, flow, packet, &key, &hashed, d)
    if flow == NULL:
        on_unknown(table, packet, &key, hashed, d, stamp)
        return
    if flow.mode == MODE_CLOSED:
        if same_connection(flow, packet, d):
            on_closed(table, flow, packet, d, stamp)
            return
        leave(table, flow)
        on_unknown(table, packet, &key, hashed, d, stamp)
        return
    if flow != table.recent.tail:
        list_remove(&table.recent, flow)
        list_append(&table.recent, flow)
    if flow.mode == MODE_IGNORED:
        if replaces_ignored(flow, packet, d):
            end_flow(table, flow, INCOMPLETE_CLOSED_, <int>Counter.FLOWS_REPLACED)
            on_unknown(table, packet, &key, hashed, d, stamp)
            return
        flow.last = table.context.now
        on_ignored(table, flow, packet, d)
        return
    if packet.flags & TCP_SYN and not on_syn(flow, packet, d):
        on_other_syn(table, flow, packet, &key, hashed, d, stamp)
        return
    flow.last = table.context.now
    if flow.successor != NULL and belongs(flow, packet, d):
        take_as_successor(table, flow, packet, d, stamp)
        return
    take_segment(table, flow, packet, d, stamp)


# ---- time ------------------------------------------------------------------------------------------------------------

cdef void expire(Table* table, int64_t until) noexcept nogil:
    cdef Flow* closed
    cdef Flow* idle
    cdef Half* soon
    cdef Half* later
    cdef int64_t due
    while True:
        closed = table.closed.head
        idle = table.recent.head
        soon = table.soon.head
        later = table.later.head
        due = 1 << 62
        if soon != NULL:
            due = soon.due
        if later != NULL:
            due = min(due, later.due)
        if closed != NULL:
            due = min(due, closed.closed + TOMBSTONE)
        if idle != NULL:
            due = min(due, idle.last + table.idle_timeout)
        table.due = due
        if due > until:
            break
        table.context.now = max(table.context.now, due)
        if soon != NULL and soon.due == due:
            fire(table, soon)
        elif later != NULL and later.due == due:
            fire(table, later)
        elif closed != NULL and closed.closed + TOMBSTONE == due:
            leave(table, closed)
        elif idle.mode == MODE_CLOSED:
            leave(table, idle)
        else:
            end_flow(table, idle, INCOMPLETE_IDLE_, <int>Counter.FLOWS_IDLE)
    table.context.now = until


cdef inline void pass_time(Table* table, int64_t now) noexcept nogil:
    """Moves core time to `now`; core time stays if `now` is earlier."""
    if now >= table.due:
        expire(table, max(now, table.context.now))
    elif now > table.context.now:
        table.context.now = now


cdef inline int64_t live_time(Table* table, int64_t stamp) noexcept nogil:
    """Returns the core time (µs) of a live packet's stamp: the stamp plus table.skew.

    As the skew is constant, time that tick() has let pass is not counted again. It changes only if the clock of the
    stamps was set: forward beyond table.clock_limit, or back by more than CLOCK_SLACK.
    """
    cdef int64_t now = stamp + table.skew
    if now > table.clock_limit:
        table.skew -= now - table.clock_limit
        return table.clock_limit
    if now < table.context.now - CLOCK_SLACK:
        table.skew += table.context.now - now
        return table.context.now
    return now


cdef void read_ahead(Table* table, bint believed) noexcept nogil:
    cdef Ahead* ahead = table.ahead
    table.ahead = NULL
    if believed:
        pass_time(table, ahead.stamp)
    else:
        table.context.counters[<int>Counter.STAMPS_AHEAD] += 1
    read_packet(table, <const uint8_t*>ahead + sizeof(Ahead), ahead.size, ahead.stamp)
    pool_give(&table.context.pool, ahead, sizeof(Ahead) + ahead.size)


cdef bint is_ahead(Table* table, const uint8_t* data, uint32_t size, int64_t stamp) noexcept nogil:
    """Stores a file's packet until the next one if its stamp is further ahead than the idle timeout.

    A single wrong stamp must not expire every flow: time passes only if the next stamp is within the idle timeout of
    it. Returns whether the packet was stored; it is then read by read_ahead().
    """
    cdef Ahead* ahead = table.ahead
    if ahead != NULL:
        read_ahead(table, -table.idle_timeout <= stamp - ahead.stamp <= table.idle_timeout)
    if table.context.now == 0 or stamp - table.context.now <= table.idle_timeout:
        return False
    ahead = <Ahead*>pool_take(&table.context.pool, sizeof(Ahead) + size)
    if ahead == NULL:
        return False
    ahead.stamp = stamp
    ahead.size = size
    memcpy(<uint8_t*>ahead + sizeof(Ahead), data, size)
    table.ahead = ahead
    return True


cdef inline void on_packet(Table* table, const uint8_t* data, uint32_t size, int64_t stamp) noexcept nogil:
    table.context.counters[<int>Counter.PACKETS_SEEN] += 1
    if table.clock >= 0:
        pass_time(table, live_time(table, stamp))
    elif (stamp - table.context.now > table.idle_timeout or table.ahead != NULL) and is_ahead(table, data, size, stamp):
        return
    else:
        pass_time(table, stamp)
    read_packet(table, data, size, stamp)


cdef void read_packet(Table* table, const uint8_t* data, uint32_t size, int64_t stamp) noexcept nogil:
    cdef Packet packet
    cdef Verdict verdict
    verdict = wire_parse(table.linktype, data, size, &packet)
    if verdict == WIRE_FRAGMENT:
        verdict = fragments_add(&table.fragments, &packet, table.context.now)
        table.context.counters[<int>Counter.DATAGRAMS_GIVEN_UP] = table.fragments.given_up
        if verdict == WIRE_MALFORMED:
            table.context.counters[<int>Counter.PACKETS_FRAGMENT_DROPPED] += 1
            return
    if verdict == WIRE_TCP:
        table.context.counters[<int>Counter.PACKETS_PARSED] += 1
        on_tcp(table, &packet, stamp)
        if used(table) > table.memory_limit:
            if table.context.ready != NULL or table.dead != NULL:
                table.pressed = True    # what waits for the GIL depends on the batch size: it must not cause evictions
            else:
                relieve(table)
    elif verdict == WIRE_FRAGMENT:
        table.context.counters[<int>Counter.PACKETS_FRAGMENT] += 1
    elif verdict == WIRE_NOT_IP:
        table.context.counters[<int>Counter.PACKETS_NOT_IP] += 1
    elif verdict == WIRE_NOT_TCP:
        table.context.counters[<int>Counter.PACKETS_NOT_TCP] += 1
    elif verdict == WIRE_TUNNEL:
        table.context.counters[<int>Counter.PACKETS_TUNNEL_VXLAN + packet.tunnel] += 1
    elif verdict == WIRE_CUT:
        table.context.counters[<int>Counter.PACKETS_CUT] += 1
    else:
        table.context.counters[<int>Counter.PACKETS_MALFORMED] += 1


cdef Py_ssize_t on_batch(Table* table, const uint8_t* packets, uint64_t size, const uint32_t* index, Py_ssize_t count,
                         Py_ssize_t at) noexcept nogil:
    cdef const uint32_t* entry
    while at < count and table.context.ready_count < READY_COUNT and table.context.ready_bytes < READY_BYTES and \
            not table.pressed:
        entry = index + 4 * at
        at += 1
        if <uint64_t>entry[2] + entry[3] > size:
            table.context.counters[<int>Counter.PACKETS_SEEN] += 1
            table.context.counters[<int>Counter.PACKETS_MALFORMED] += 1
            continue
        if entry[1] == STAMP_REFUSED:
            table.context.counters[<int>Counter.PACKETS_SEEN] += 1
            table.context.counters[<int>Counter.PACKETS_STAMP_REFUSED] += 1
            continue
        on_packet(table, packets + entry[2], entry[3], <int64_t>entry[0] * 1_000_000 + entry[1])
    return at
