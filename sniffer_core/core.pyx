"""The flow table: packets in, HTTP messages out.

core.pyi describes the interface, docs/internals/ARCHITECTURE.md the way of a packet.

A flow is one TCP connection: two halves (a stream and a parser each) and the queue of exchanges between them. Time is
packet time. Everything between feed() and the building of Python objects is nogil; nothing in it raises.

Lists. Every flow stands in `created` (order of creation: flush and eviction never go in hash order), in `recent` (by
last packet: idle expiry and eviction), and in one of `silent` (no payload yet: first to go), `closed` (tombstones, by
closing time), or none. Every half may stand in one of two timer lists; each has one constant delay, so that they are
sorted by themselves.
"""

import os
from hashlib import blake2b
from socket import AF_INET, AF_INET6, inet_pton

cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memchr, memcmp, memcpy, memmove, memset

from sniffer_core.base.counters cimport Counter
from sniffer_core.protocols.http1.pairing cimport (
    CARRY_MAX, CONN_OBJECTS, MATCH_ACKS, MATCH_NONE, MATCH_OLDEST, OPEN_MAX, OPEN_MAX_ONE_SIDED, REFUTED, SURE, TENTATIVE,
    Carry, Conn, Exchange, Exchanges, Match, conn_release, exchange_release, exchanges_answer, exchanges_count,
    exchanges_by_acks, exchanges_doubt, exchanges_fifo, exchanges_free, exchanges_informational, exchanges_init,
    exchanges_lost_request, exchanges_lost_responses, exchanges_mark, exchanges_no_head, exchanges_pick, exchanges_plausible,
    exchanges_quiet, exchanges_refute, exchanges_request, exchanges_settle, exchanges_unpaired)
from sniffer_core.net.fragment cimport Fragments, fragments_add, fragments_free, fragments_init
from sniffer_core.message cimport (
    BIT_BAD_HEADER_LINE, BIT_BODY_NOT_SENT, BIT_LAST_CRLF_MISSING, BIT_ODD_START_LINE, INCOMPLETE_CLOSED_,
    INCOMPLETE_EVICTED_, INCOMPLETE_GAP_, INCOMPLETE_IDLE_, INCOMPLETE_MALFORMED_, INCOMPLETE_STOPPED_, REQUEST, RESPONSE,
    WHOLE, Incomplete, Kind, Limits, Message, message_free)
from sniffer_core.protocols.http1.head cimport METHOD_LONGEST, as_http1, http1_head, http1_starts
from sniffer_core.protocols.http1.parser cimport (
    http1_cease, http1_crlf_due, http1_data, http1_discard, http1_drop_body, http1_end, http1_frame, http1_free,
    http1_gap, http1_init, http1_kill, http1_reject, http1_skip, http1_tunnel)
from sniffer_core.protocols.http1.state cimport (
    BODY_CLOSE, BODY_LENGTH, CHUNK_SIZE, DEAD, DONE, EVENT_CUT, EVENT_END, EVENT_HEAD, EVENT_HEAD_LOST, EVENT_MORE,
    EVENT_NOT_HTTP, HEAD, SKIP, START, TRAILERS, TUNNEL, Event, Parser)
from sniffer_core.protocols.signature cimport PROTOCOL_HTTP2, PROTOCOL_OTHER, PROTOCOL_TLS
from sniffer_core.base.memory cimport Pool, pool_give, pool_resize, pool_take
from sniffer_core.protocols.proxy cimport PROXY_MORE, PROXY_MOST, PROXY_NONE, Proxied, proxy_parse
from sniffer_core.record.message cimport Rules, build_message, forget_conn, name_end
from sniffer_core.record.redact cimport SECRET, kind_of
from sniffer_core.tcp.stream cimport (
    BASE_KNOWN, BASE_NONE, BASE_PROVISIONAL, ORIGIN, REACH_BACK, Held, Run, Stream, held_data, stream_acknowledge,
    stream_differs, stream_free, stream_front, stream_hold, stream_init, stream_map, stream_offset, stream_read, stream_take)
from sniffer_core.net.wire cimport (
    TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, WIRE_CUT, WIRE_FRAGMENT, WIRE_MALFORMED, WIRE_NOT_IP, WIRE_NOT_TCP, WIRE_TCP,
    WIRE_TUNNEL, Packet, Verdict, wire_link_known, wire_parse)

from sniffer_core.base.counters import NAMES
from sniffer_core.record.message import Lines, RawMessage, coded, weights

COUNTERS = NAMES
LINK_TYPES = frozenset(link for link in range(512) if wire_link_known(link))

cdef enum:
    GRACE = 100_000             # µs from the moment a hole is known to be one until it is given up
    GRACE_ONE_SIDED = 1_000_000     # ... where the other direction, whose ACKs would tell, was never seen
    TOMBSTONE = 2_000_000       # µs that a closed flow keeps its place, for what comes late
    IDLE_ENOUGH = 60_000_000    # µs after which a new SYN is believed at once
    LONG = 60_000_000           # µs after which an open message is reported
    WINDOW = 64 << 20           # bytes beyond everything seen and acknowledged that a segment may stand
    HOLD_LIMIT = 2 << 20        # bytes (with their cost) that one direction may hold out of order
    UNDECIDED_LIMIT = 64 << 10  # bytes after which the question who is the server is given up
    PEEK = 256                  # bytes looked at to answer it
    READY_COUNT = 32768         # messages after which feed() returns early
    READY_BYTES = 8 << 20
    STAMP_REFUSED = 0xFFFFFFFF  # in place of microseconds: the stamp does not fit into the index
    CLOCK_SLACK = 1_000_000     # µs that the stamps may run ahead of the monotonic clock, and one behind the others
    DOUBTED_MAX = 16            # responses in a row that may wait for what tells whether they are any
    LOOKS_MAX = 16              # at the client's next bytes, while pieces of them come late
    EARLY_MAX = 16              # responses in a row that may wait for the requests that they answer
    EVENTS = 256
    OWN_MAX = 256
    RECENT_BYTES = 1024         # of each direction, to be compared with what comes by another way

cdef enum Mode:
    MODE_HTTP = 0
    MODE_UNDECIDED = 1          # both ports are captured and no SYN was seen
    MODE_IGNORED = 2            # flow.reason says why; costs a lookup
    MODE_CLOSED = 3             # a tombstone

cdef enum Wait:                 # why the client's next bytes are not read yet
    WAIT_NONE = 0
    WAIT_OFFER = 1              # an Upgrade or CONNECT: its answer says whether they are HTTP
    WAIT_BODY = 2               # of a refused request: they are its body, or the next request
    WAIT_PROXY = 3              # too few bytes to say whether they begin a PROXY protocol header
    WAIT_CRLF = 4               # of a chunked body: they are its trailers, or the next request

cdef enum EventKind:
    EVENT_TLS = 0
    EVENT_HTTP2 = 1
    EVENT_OTHER = 2
    EVENT_UNDECIDED = 3
    EVENT_TUNNEL = 4
    EVENT_SNAPPED = 5
    EVENT_LONG = 6

cdef tuple EVENT_NAMES = ("tls", "http2", "other-protocol", "undecided", "tunnel", "snapped", "long-message")

cdef struct Key:
    uint64_t word[5]            # low address (2), high address (2), ports and family

cdef struct Half:
    Flow* flow
    Half* timer_next
    Half* timer_previous
    Timers* timers              # the list it stands in, or NULL
    int64_t due
    int64_t hole                # the offset of the hole that the timer is for
    bint seen                   # a packet of this direction was seen
    uint8_t waits               # Wait
    bint unjudged               # the answer to an Upgrade or CONNECT was lost: the next bytes tell whether they are HTTP
    int64_t weighed             # bytes that told nothing when weigh_body() looked; 0: it has not looked
    uint8_t looks               # .. how often it has since a later response came
    bint tunnel_next            # the answer was yes: what follows the open request is a tunnel
    bint past_proxy             # no PROXY protocol header begins here, or it was read
    uint32_t proxy_left         # bytes of it that are still to come
    bint eof                    # its end was handed over
    bint absent                 # known by the other side only: nothing waits for it
    bint long_open
    int64_t opened              # core time at which its open message began
    bint doubtful               # what is read is in step with a response that may be a start line in a body
    bint gapping                # inside skip_gap()
    uint8_t end_reason          # Incomplete: WHOLE for FIN, INCOMPLETE_CLOSED_ for RST
    bint in_step                # at its end the parser stood between two messages
    uint8_t* recent             # its last bytes, a block of RECENT_BYTES, where they may come by several ways; or NULL
    uint32_t recent_size
    int64_t recent_end          # their offset
    int64_t heard               # the other side's highest ACK since its end
    Stream* late                # holds the bytes beyond its end, at the same offsets: the peers may ignore that end; or NULL
    Stream stream
    Parser parser

cdef struct Responses:          # that have ended and wait, in order
    Message* head
    Message* tail
    uint32_t count

cdef struct Timers:             # sorted, since all have the same delay
    Half* head
    Half* tail

cdef struct Links:
    Flow* next
    Flow* previous

cdef struct Flows:              # a list; `which` of flow.links
    Flow* head
    Flow* tail
    int which

cdef enum:
    CREATED = 0
    RECENT = 1
    STAGE = 2                   # silent or closed
    LISTS = 3

cdef struct Flow:
    Key key
    uint64_t hashed
    Flow* chained
    Links links[LISTS]
    Flows* stage                # the list that links[STAGE] stands in, or NULL
    Conn* conn
    Flow* successor             # a SYN on the same ports that nobody has answered yet; not in the table
    uint8_t mode                # Mode
    uint8_t server              # direction of the server: 0 is low to high; valid in MODE_HTTP
    uint8_t fins                # bit d: direction d ended (MODE_IGNORED)
    bint handshake              # made by a SYN or SYN-ACK
    bint tunnels                # the response that is read ends HTTP on both directions
    bint pending                # a successor: nothing of it is read yet
    bint resumable              # a tombstone of HTTP
    bint shared                 # another flow has the same ends, in another place
    uint64_t place              # of its first packet
    uint16_t reason             # Counter of abandoned bytes, MODE_IGNORED
    int64_t last                # core time of the last packet
    int64_t closed              # core time, MODE_CLOSED
    Half half[2]
    Exchanges exchanges
    Responses doubted           # which may be none
    Responses early             # whose requests have not come yet
    uint32_t offer              # number of the latest exchange with an Upgrade or CONNECT

cdef struct Noted:              # an event, until events() takes it
    int kind
    uint8_t address_size
    uint8_t server[16]
    uint8_t client[16]
    uint16_t server_port
    uint16_t client_port

cdef struct Own:
    uint8_t size
    uint8_t address[16]
    uint16_t port

cdef struct Ahead:              # its bytes follow the struct in the same block
    int64_t stamp
    uint32_t size

cdef struct Table:
    Pool pool
    uint64_t counters[<int>Counter.COUNTERS_END]
    Limits limits
    Carry carry
    int linktype
    uint8_t ports[8192]         # a bit for each captured port
    uint64_t secret[2]
    Flow** buckets
    uint64_t mask
    uint32_t live               # flows in the table and not closed
    uint32_t total              # tombstones included
    uint32_t max_flows
    int64_t idle_timeout
    int64_t memory_limit
    Flows created
    Flows recent
    Flows silent
    Flows closed
    Timers soon                 # GRACE
    Timers later                # GRACE_ONE_SIDED
    Fragments fragments
    int64_t now                 # core time, µs; 0 before the first packet
    int64_t skew                # live: from stamps to core time; changes only when the clock of the stamps jumps
    int64_t clock               # monotonic at the last batch; -1 for a file
    int64_t clock_limit         # core time may not pass this: the monotonic clock since the first packet, and the slack
    Ahead* ahead                # a file's packet that waits for the stamp of the next, or NULL
    int64_t due                 # nothing expires before this core time
    Message* ready
    Message* ready_tail
    uint32_t ready_count
    int64_t ready_bytes
    Conn* dead
    uint32_t late               # halves that hold bytes beyond their end
    uint32_t placed             # flows in the table whose ends another one had first, in another place
    bint places                 # a packet in a VLAN or of a named interface was seen
    bint pressed                # the limit is passed: what waits for the GIL is freed first, then it is looked at again
    uint32_t messages_open
    uint32_t messages_long
    bint snapped                # told once
    uint32_t noted_count
    Noted noted[EVENTS]
    uint32_t own_count
    Own own[OWN_MAX]
    double sample_rate
    void* object                # the FlowTable, for the rare call that needs the GIL


# ---- lists -----------------------------------------------------------------------------------------------------------

cdef inline void list_append(Flows* flows, Flow* flow) noexcept nogil:
    cdef Links* links = &flow.links[flows.which]
    links.next = NULL
    links.previous = flows.tail
    if flows.tail == NULL:
        flows.head = flow
    else:
        flows.tail.links[flows.which].next = flow
    flows.tail = flow


cdef inline void list_remove(Flows* flows, Flow* flow) noexcept nogil:
    cdef Links* links = &flow.links[flows.which]
    if links.previous == NULL:
        flows.head = links.next
    else:
        links.previous.links[flows.which].next = links.next
    if links.next == NULL:
        flows.tail = links.previous
    else:
        links.next.links[flows.which].previous = links.previous


cdef inline void stage(Flow* flow, Flows* flows) noexcept nogil:
    """Moves a flow to the silent list, the closed list, or (NULL) neither."""
    if flow.stage != NULL:
        list_remove(flow.stage, flow)
    flow.stage = flows
    if flows != NULL:
        list_append(flows, flow)


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


# ---- the table -------------------------------------------------------------------------------------------------------

cdef inline uint64_t rotate(uint64_t word, int bits) noexcept nogil:
    return (word << bits) | (word >> (64 - bits))


cdef uint64_t keyed_hash(const uint64_t* secret, const Key* key) noexcept nogil:
    """SipHash-1-3 of the 40 bytes of a key: nobody who lacks the secret can choose flows that collide."""
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


cdef inline bint is_placed(const Key* key) noexcept nogil:
    return key.word[4] >> 40 != 0


cdef inline void place_key(Key* key, uint64_t place) noexcept nogil:
    """Makes the key one of a flow in this place, beside the one that had its ends first."""
    key.word[4] |= ((place ^ place >> 20 ^ place >> 40) & 0xFFFFF | 0x800000) << 40


cdef inline bint captured(const Table* table, uint16_t port) noexcept nogil:
    return table.ports[port >> 3] >> (port & 7) & 1


cdef Flow* lookup(const Table* table, const Key* key, uint64_t hashed) noexcept nogil:
    cdef Flow* flow = table.buckets[hashed & table.mask]
    while flow != NULL and not (flow.hashed == hashed and memcmp(&flow.key, key, sizeof(Key)) == 0):
        flow = flow.chained
    return flow


cdef void grow(Table* table) noexcept nogil:
    cdef uint64_t size = (table.mask + 1) * 2
    cdef Flow** buckets = <Flow**>calloc(size, sizeof(Flow*))
    cdef Flow* flow = table.created.head
    if buckets == NULL:
        return      # longer chains, nothing worse
    free(table.buckets)
    table.buckets = buckets
    table.mask = size - 1
    while flow != NULL:
        flow.chained = buckets[flow.hashed & table.mask]
        buckets[flow.hashed & table.mask] = flow
        flow = flow.links[CREATED].next


cdef void enter(Table* table, Flow* flow) noexcept nogil:
    """Puts a flow into the table and its lists."""
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
    table.counters[<int>Counter.FLOWS_OPENED] += 1
    flow.last = table.now
    if table.now + table.idle_timeout < table.due:
        table.due = table.now + table.idle_timeout


cdef void leave(Table* table, Flow* flow) noexcept nogil:
    """Takes a flow out of the table and frees it; close_flow() came first."""
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
    drop_ends(table, flow)
    conn_release(flow.conn)
    pool_give(&table.pool, flow, sizeof(Flow))


cdef void discard(Table* table, Flow* flow) noexcept nogil:
    """Frees a successor that never came to be."""
    strip(table, flow, <int>Counter.BYTES_ABANDONED_EVICTED)
    drop_ends(table, flow)
    conn_release(flow.conn)
    pool_give(&table.pool, flow, sizeof(Flow))


cdef void drop_late(Table* table, Half* half) noexcept nogil:
    """Gives up the bytes beyond the end of a direction."""
    if half.late == NULL:
        return
    table.counters[<int>Counter.BYTES_ABANDONED_LATE] += <uint64_t>stream_free(half.late)
    pool_give(&table.pool, half.late, sizeof(Stream))
    half.late = NULL
    table.late -= 1


cdef void drop_ends(Table* table, Flow* flow) noexcept nogil:
    """Gives up what a flow keeps beyond its end: late bytes, and requests that wait for an answer."""
    drop_late(table, &flow.half[0])
    drop_late(table, &flow.half[1])
    exchanges_free(&flow.exchanges)


cdef void strip(Table* table, Flow* flow, int reason) noexcept nogil:
    """Frees the streams and parsers of a flow. Held bytes are counted under `reason`."""
    cdef Half* half
    cdef int d
    for d in range(2):
        half = &flow.half[d]
        timer_stop(half)
        table.counters[reason] += <uint64_t>stream_free(&half.stream)
        pool_give(&table.pool, half.recent, RECENT_BYTES)
        half.recent = NULL
        if flow.mode == MODE_HTTP:
            drop_open(table, half)
            http1_free(&half.parser)
    drop_doubted(table, flow)
    drop_early(table, flow)


cdef void note(Table* table, Flow* flow, int kind) noexcept nogil:
    """Leaves word of something worth a log line."""
    cdef Noted* noted
    cdef Conn* conn = flow.conn
    if table.noted_count == EVENTS:
        table.counters[<int>Counter.EVENTS_DROPPED] += 1
        return
    noted = &table.noted[table.noted_count]
    table.noted_count += 1
    noted.kind = kind
    noted.address_size = conn.address_size
    memcpy(noted.server, &conn.high[0] if conn.server_is_high else &conn.low[0], 16)
    memcpy(noted.client, &conn.low[0] if conn.server_is_high else &conn.high[0], 16)
    noted.server_port = conn.high_port if conn.server_is_high else conn.low_port
    noted.client_port = conn.low_port if conn.server_is_high else conn.high_port


cdef void ignore(Table* table, Flow* flow, int reason) noexcept nogil:
    """From now on the flow costs a lookup; its bytes are counted under `reason`."""
    if flow.mode == MODE_IGNORED:
        return
    strip(table, flow, reason)
    drop_ends(table, flow)
    flow.mode = MODE_IGNORED
    flow.reason = <uint16_t>reason


cdef void close_flow(Table* table, Flow* flow, int why) noexcept nogil:
    """Ends a flow, counted under `why`; it stays as a tombstone until leave(), with the requests that wait for an answer."""
    if flow.mode == MODE_CLOSED:
        return
    strip(table, flow, <int>Counter.BYTES_ABANDONED_EVICTED)
    flow.resumable = flow.mode == MODE_HTTP
    flow.mode = MODE_CLOSED
    flow.closed = table.now
    table.live -= 1
    table.counters[why] += 1
    stage(flow, &table.closed)
    if table.now + TOMBSTONE < table.due:
        table.due = table.now + TOMBSTONE


# ---- messages --------------------------------------------------------------------------------------------------------

cdef void emit(Table* table, Message* message) noexcept nogil:
    """A message has ended: it joins those that the present call returns."""
    cdef int bit
    cdef int counter = <int>Counter.MESSAGES_REQUEST if message.kind == REQUEST else <int>Counter.MESSAGES_RESPONSE
    table.counters[counter] += 1
    if message.kind == RESPONSE and not (<Exchange*>message.exchange).known:
        table.counters[<int>Counter.RESPONSES_UNPAIRED] += 1
    if message.incomplete != WHOLE:
        table.counters[<int>Counter.INCOMPLETE_GAP + message.incomplete - 1] += 1
    if message.resynced:
        table.counters[<int>Counter.MESSAGES_RESYNCED] += 1
    if message.anomalies:
        for bit in range(32):
            if message.anomalies >> bit & 1:
                table.counters[<int>Counter.ANOMALY_TE_AND_CL + bit] += 1
    message.next = NULL
    if table.ready == NULL:
        table.ready = message
    else:
        table.ready_tail.next = message
    table.ready_tail = message
    table.ready_count += 1
    table.ready_bytes += message.size + message.body_space


cdef void let_go(Table* table, Message* message) noexcept nogil:
    """Frees a message that will not be emitted."""
    if message.exchange != NULL:
        exchange_release(<Exchange*>message.exchange, &table.pool, 1)
    message_free(message, &table.pool)


cdef void emit_waiting(Table* table, Flow* flow) noexcept nogil:
    """Emits the requests that are in doubt no more."""
    cdef Exchange* exchange = flow.exchanges.head
    flow.exchanges.doubted = False
    while exchange != NULL:
        if exchange.doubt == TENTATIVE:
            flow.exchanges.doubted = True
        elif exchange.waiting != NULL:
            emit(table, exchange.waiting)
            exchange.waiting = NULL
        exchange = exchange.next


cdef void opened(Table* table, Half* half) noexcept nogil:
    """The half has an open message from now on."""
    table.messages_open += 1
    half.opened = table.now


cdef void shut(Table* table, Half* half) noexcept nogil:
    """The half's open message is one no more."""
    table.messages_open -= 1
    if half.long_open:
        half.long_open = False
        table.messages_long -= 1


cdef void drop_open(Table* table, Half* half) noexcept nogil:
    """Before the parser frees its open message: lets go of its exchange."""
    cdef Message* message = half.parser.message
    if message == NULL or message.exchange == NULL:
        return
    exchange_release(<Exchange*>message.exchange, &table.pool, 1)
    message.exchange = NULL
    shut(table, half)


cdef void let_wait(Responses* responses, Message* message) noexcept nogil:
    message.next = NULL
    if responses.head == NULL:
        responses.head = message
    else:
        responses.tail.next = message
    responses.tail = message
    responses.count += 1


cdef Message* next_of(Responses* responses) noexcept nogil:
    """Takes the first out; NULL: there is none."""
    cdef Message* message = responses.head
    if message != NULL:
        responses.head = message.next
        responses.count -= 1
    return message


cdef void unsettle(Message* message) noexcept nogil:
    """The head is sure; that there is no body is not."""
    message.incomplete = INCOMPLETE_GAP_
    message.missing = -1


cdef void drop_doubted(Table* table, Flow* flow) noexcept nogil:
    cdef Message* message = next_of(&flow.doubted)
    while message != NULL:
        if (<Exchange*>message.exchange).unasked:
            table.counters[<int>Counter.MESSAGES_TENTATIVE_DROPPED] += 1
            let_go(table, message)
        else:
            unsettle(message)
            emit(table, message)
        message = next_of(&flow.doubted)


cdef void disbelieve(Table* table, Flow* flow, Half* half) noexcept nogil:
    """The responses in doubt were none, nor is what is read."""
    half.doubtful = False
    drop_doubted(table, flow)
    if half.parser.message != NULL:
        table.counters[<int>Counter.MESSAGES_TENTATIVE_DROPPED] += 1
        drop_open(table, half)
    http1_skip(&half.parser)


cdef void believe(Table* table, Flow* flow, Half* half, bint proved) noexcept nogil:
    """The responses in doubt are taken for responses, and so is what is read; `proved`: they must be."""
    cdef Message* message = next_of(&flow.doubted)
    half.doubtful = False
    while message != NULL:
        if as_http1(message).assumed and not proved and flow.half[1 - flow.server].seen:
            unsettle(message)
        if not (<Exchange*>message.exchange).unasked or answer(table, flow, message, MATCH_ACKS):
            emit(table, message)
        else:
            message_free(message, &table.pool)
        message = next_of(&flow.doubted)
    message = half.parser.message
    if message != NULL and message.exchange != NULL and (<Exchange*>message.exchange).unasked and \
            not answer(table, flow, message, MATCH_ACKS):
        shut(table, half)


cdef bint contradicted(const Flow* flow, const Half* half, const Message* message, const Run* run) noexcept nogil:
    """Whether a message in doubt is none: it does not end where one does that has its segments to itself."""
    cdef int64_t mark = half.parser.boundary
    if half.parser.kind == RESPONSE:
        mark = exchanges_mark(&flow.exchanges, as_http1(message).start + 1, mark)
    if message.incomplete == INCOMPLETE_MALFORMED_ or as_http1(message).start < mark < as_http1(message).end or \
            message.anomalies & (BIT_BAD_HEADER_LINE | BIT_ODD_START_LINE):
        return True
    return run != NULL and run.size > 0 and not run.segment_start and as_http1(message).end != mark


cdef inline bint at_rest(const Parser* parser) noexcept nogil:
    """Whether the parser stands between two messages, in step."""
    return not parser.lost and (
        parser.state == START or (parser.state == DONE and parser.after == START and parser.message == NULL))


cdef inline bint is_quiet(const Exchanges* exchanges, const Half* client, const Half* server,
                          const Message* request) noexcept nogil:
    """Whether a request begins when nothing is in flight: its sender has read all that was sent, and all was answered.

    Where first in, first out is certain, and requests are open, it is not asked.
    """
    cdef const Exchange* tail = exchanges.tail
    if exchanges.sliding or not at_rest(&server.parser) or exchanges.informational_count:
        return False
    if tail == NULL:
        return exchanges.beyond == 0 and (as_http1(request).ack < 0 or as_http1(request).ack == server.stream.next)
    if (exchanges.from_start or exchanges.in_step) and not exchanges.responses_lost and \
            exchanges.head.doubt == SURE and not exchanges.head.counted:
        return False        # no response was lost, and the first of the requests has none
    return (tail.doubt != SURE or not exchanges_fifo(exchanges)) and as_http1(request).start == client.parser.boundary and \
        as_http1(request).ack > tail.ack and as_http1(request).ack == server.stream.next


cdef inline bint has_begun(const Parser* client, const Message* response) noexcept nogil:
    """Whether a response acknowledges a part of a request's head that is not whole yet."""
    return client.state == HEAD and client.first_offset < as_http1(response).ack


cdef inline bint is_beyond(const Half* client, const Message* response) noexcept nogil:
    """Whether a response acknowledges bytes that were not read: they wait behind an offer, or the end came before them."""
    return as_http1(response).ack > client.stream.next + (1 if client.eof else 0)


cdef void on_request(Table* table, Flow* flow, Half* half, bint cut) noexcept nogil:
    """A request's head, whole or cut: it takes its place in the queue."""
    cdef Message* message = half.parser.message
    cdef Half* other = &flow.half[flow.server]      # direction of the server's bytes
    cdef Exchanges* exchanges = &flow.exchanges
    cdef Exchange* tail
    cdef Exchange* exchange
    if other.doubtful and at_rest(&other.parser) and as_http1(message).ack == other.stream.next:
        believe(table, flow, other, True)       # they end where this request's sender had read to
    tail = exchanges.tail
    if is_quiet(exchanges, half, other, message):
        exchanges_settle(exchanges)
        exchanges_quiet(exchanges, other.parser.spoke)
        tail = NULL
    exchange = exchanges_request(
        exchanges, flow.conn, message, &table.carry, OPEN_MAX_ONE_SIDED if other.absent else OPEN_MAX)
    if exchange != NULL and tail != NULL and exchanges.head != exchange and not exchanges.responses_lost and \
            not tail.lost and 0 <= tail.ack < as_http1(message).ack <= other.stream.next:
        exchanges.sliding = True    # all that it acknowledges was read, and did not answer the one before
        if not (exchanges.from_start or exchanges.in_step):
            exchanges_doubt(exchanges)      # or its answer was taken for something else
    if exchange == NULL:
        return      # no memory: http1_frame() reads on, on_end() lets the message go
    opened(table, half)
    if other.seen and (
            (message.resynced and not as_http1(message).sure)
            or (tail != NULL and tail.doubt == TENTATIVE and exchanges.head != exchange and
                as_http1(message).start != half.parser.boundary)):
        exchange.doubt = TENTATIVE      # or it follows one that is, and nothing else says that it is one
        exchanges.doubted = True
    if as_http1(message).ack >= 0:
        other.parser.boundary = as_http1(message).ack
    if not cut:
        http1_frame(&half.parser, False, True)
    if flow.early.head != NULL or other.parser.message != NULL:
        match_early(table, flow, False)


cdef bint answer(Table* table, Flow* flow, Message* message, Match match) noexcept nogil:
    """A final response finds its request. False: no memory; the message has no exchange then."""
    cdef Half* client = &flow.half[1 - flow.server]
    cdef Exchange* exchange = <Exchange*>message.exchange
    if exchange != NULL:    # while it was in doubt
        exchange_release(exchange, &table.pool, 1)
        message.exchange = NULL
    exchanges_count(&flow.exchanges, as_http1(message).ack)
    if flow.exchanges.doubted:
        emit_waiting(table, flow)
    if match == MATCH_ACKS and exchanges_by_acks(&flow.exchanges) and (
            has_begun(&client.parser, message) or is_beyond(client, message)):
        match = MATCH_NONE      # it may answer what was not read
        exchanges_doubt(&flow.exchanges)
    exchange = exchanges_answer(&flow.exchanges, flow.conn, message, match)
    if exchange == NULL:
        return False
    if client.waits == WAIT_OFFER and exchange.number >= flow.offer and not switches(message, exchange):
        client.waits = WAIT_NONE        # refused, or given up for what was asked after it
    if exchange.waiting != NULL:
        emit(table, exchange.waiting)
        exchange.waiting = NULL
    if flow.exchanges.responses_lost and exchange.known and flow.exchanges.head == NULL and \
            as_http1(message).ack == client.stream.next and at_rest(&client.parser) and not flow.exchanges.sliding:
        flow.exchanges.lost_since = False           # it answers the last of all: nothing is in flight
        exchanges_quiet(&flow.exchanges, False)
    exchange.answer_end = as_http1(message).end
    message.latency = -1
    if exchange.end_read and exchange.stamp_end <= message.stamp and match == MATCH_ACKS and (
            not exchange.end_unsure or exchange.end == as_http1(message).ack):    # nothing came that may belong to it
        message.latency = message.stamp - exchange.stamp_end
    if as_http1(message).ack >= 0:
        flow.half[1 - flow.server].parser.boundary = as_http1(message).ack
    return True


cdef void on_doubtful(Table* table, Flow* flow, Half* half, bint cut) noexcept nogil:
    """A response's head, away from a sure boundary: it takes no request before it is believed."""
    cdef Message* message = half.parser.message
    cdef const Exchange* exchange = exchanges_pick(&flow.exchanges, as_http1(message).ack, as_http1(message).start)
    if message.status == 101 or (exchange != NULL and exchange.connect):
        disbelieve(table, flow, half)       # too much would follow from it
        return
    flow.tunnels = False
    if exchanges_unpaired(&flow.exchanges, flow.conn, message):
        opened(table, half)
    if as_http1(message).ack >= 0:
        flow.half[1 - flow.server].parser.boundary = as_http1(message).ack
    if not cut:
        http1_frame(&half.parser, exchange != NULL and exchange.head, exchange != NULL or
                    exchanges_no_head(&flow.exchanges, as_http1(message).ack, as_http1(message).start))


cdef void on_response(Table* table, Flow* flow, Half* half, bint cut) noexcept nogil:
    """A response's head, whole or cut: it finds its request."""
    cdef Message* message = half.parser.message
    cdef const Half* other = &flow.half[1 - flow.server]
    cdef const Parser* client = &other.parser
    cdef Exchange* exchange
    cdef bint unasked       # it answers no request that was read, or that is to come: none of them can be a HEAD
    cdef bint interim = 100 <= message.status < 200 and message.status != 101
    if half.doubtful and as_http1(message).start == half.parser.boundary:
        believe(table, flow, half, True)
    if not interim and not message.resynced and other.parser.message != NULL:
        disprove_body(table, flow, &flow.half[1 - flow.server], message)
    if message.resynced and not as_http1(message).sure and other.seen and as_http1(message).ack >= 0 and not cut:
        if interim or not exchanges_plausible(&flow.exchanges, as_http1(message).ack, as_http1(message).start):
            if flow.exchanges.uncounted and flow.exchanges.doubted:
                exchanges_count(&flow.exchanges, as_http1(message).ack)   # what was lost may have answered them, all the same
                flow.exchanges.uncounted = True
                emit_waiting(table, flow)
            http1_reject(&half.parser)      # nobody asked: a start line inside a body
            return
        half.doubtful = True
    if interim:
        if not half.doubtful:
            exchanges_informational(&flow.exchanges, message.status)
        if cut:
            half.parser.message = NULL
            let_go(table, message)
        else:
            http1_discard(&half.parser)
        return
    if half.doubtful:
        on_doubtful(table, flow, half, cut)
        return
    if comes_early(flow, half, message):
        on_early(table, flow, half, cut)
        return
    unasked = other.seen and not other.absent and exchanges_fifo(&flow.exchanges) and flow.exchanges.head == NULL and \
        not has_begun(client, message) and not is_beyond(other, message)
    if not answer(table, flow, message, MATCH_ACKS):
        http1_frame(&half.parser, False, False)
        return
    exchange = <Exchange*>message.exchange
    if not (exchange.known or exchange.beyond) and has_begun(client, message):
        exchanges_doubt(&flow.exchanges)        # it may be the answer to the request that has begun
    opened(table, half)
    flow.tunnels = switches(message, exchange)
    if flow.tunnels:
        table.counters[<int>Counter.FLOWS_TUNNEL] += 1
        note(table, flow, EVENT_TUNNEL)
    if not cut:
        http1_frame(&half.parser, exchange.head or flow.tunnels, exchange.known or exchange.beyond or unasked or (
            not is_beyond(other, message) and
            exchanges_no_head(&flow.exchanges, as_http1(message).ack, as_http1(message).start)))


cdef void disprove_body(Table* table, Flow* flow, Half* client, const Message* response) noexcept nogil:
    """A response comes while the body of a request that is answered already is read: if that refused the body, the bytes
    are something else that was answered. They stand in no record, for a head may be among them."""
    cdef Message* message = client.parser.message
    cdef int64_t start = as_http1(message).head_end
    if message.exchange == NULL or message.body_size == 0 or as_http1(response).ack <= start or \
            not is_refusal(<Exchange*>message.exchange):
        return
    http1_drop_body(&client.parser)
    http1_cease(&client.parser, INCOMPLETE_MALFORMED_, 0)
    on_end(table, flow, client, NULL)
    on_lost(table, flow, client, start, False, -1)


cdef inline bint switches(const Message* message, const Exchange* exchange) noexcept nogil:
    """RFC 9110 sections 9.3.6 and 15.2.2: HTTP ends with this response's head, whatever length fields it has."""
    return message.status == 101 or (exchange.connect and 200 <= message.status < 300)


# Early responses. A server may answer before the request's head is whole (400, 408, 414, 431), even before its first
# byte. Such a response belongs to the request that has begun or comes next, and waits for its head. One that
# acknowledges no byte of it may also say that the connection was idle for too long (408): then the connection ends with
# it. So it is paired only when a further response follows.

cdef bint comes_early(const Flow* flow, const Half* half, const Message* message) noexcept nogil:
    """Whether a final response in step has no request yet, and may get one."""
    cdef const Half* client = &flow.half[1 - flow.server]
    cdef const Exchanges* queue = &flow.exchanges
    if as_http1(message).ack < 0 or message.resynced or message.status == 101 or not exchanges_fifo(queue) or \
            queue.beyond or client.absent or flow.early.count >= EARLY_MAX:
        return False
    if flow.early.head != NULL:
        return True
    if queue.head != NULL:
        return queue.head.start >= as_http1(message).ack      # read late: behind a hole, its request has come since
    if client.eof:
        return False
    if client.parser.message != NULL and client.parser.message.exchange != NULL and is_body_due(&client.parser):
        return refuses(<const Exchange*>client.parser.message.exchange)     # its body may never be sent
    return at_rest(&client.parser) or (client.parser.state == HEAD and not client.parser.candidate)


cdef void on_early(Table* table, Flow* flow, Half* half, bint cut) noexcept nogil:
    """A response's head, before that of its request."""
    cdef const Parser* client = &flow.half[1 - flow.server].parser
    cdef bint named = client.state == HEAD and client.buffer_size >= 5 and flow.early.head == NULL and \
        flow.exchanges.head == NULL
    table.counters[<int>Counter.RESPONSES_EARLY] += 1
    flow.tunnels = False
    if exchanges_unpaired(&flow.exchanges, flow.conn, half.parser.message):
        opened(table, half)
    if not cut:     # who has read no method cannot mean a HEAD
        http1_frame(&half.parser, named and memcmp(client.buffer, b"HEAD ", 5) == 0, True)


cdef void match_early(Table* table, Flow* flow, bint further) noexcept nogil:
    """Requests have come: the early responses get theirs. `further`: another response follows them."""
    cdef Half* half = &flow.half[flow.server]
    cdef Message* message
    cdef Exchange* exchange
    if not exchanges_fifo(&flow.exchanges):
        drop_early(table, flow)
    while flow.early.head != NULL and flow.exchanges.head != NULL:
        message = flow.early.head
        if not further and message.next == NULL and half.parser.message == NULL and \
                as_http1(message).ack <= flow.exchanges.head.start:
            return
        message = next_of(&flow.early)
        if answer(table, flow, message, MATCH_OLDEST):
            emit(table, message)
        else:
            message_free(message, &table.pool)
    message = half.parser.message
    if further or message == NULL or message.exchange == NULL or half.doubtful or flow.early.head != NULL or \
            not exchanges_fifo(&flow.exchanges):
        return
    exchange = <Exchange*>message.exchange
    if exchange.unasked and flow.exchanges.head != NULL and as_http1(message).ack > flow.exchanges.head.start and \
            not answer(table, flow, message, MATCH_OLDEST):
        shut(table, half)


cdef void end_early(Table* table, Flow* flow) noexcept nogil:
    """The server says no more: only the response to a request that has begun is still paired."""
    cdef const Parser* client = &flow.half[1 - flow.server].parser
    cdef const Message* first = flow.early.head
    if first != NULL and (flow.exchanges.head != NULL or first.next != NULL or client.state != HEAD or
                          client.candidate or client.first_offset >= as_http1(first).ack):
        drop_early(table, flow)


cdef void drop_early(Table* table, Flow* flow) noexcept nogil:
    """No request comes for the early responses: they stay unpaired."""
    cdef Message* message = next_of(&flow.early)
    while message != NULL:
        if answer(table, flow, message, MATCH_NONE):
            emit(table, message)
        else:
            message_free(message, &table.pool)
        message = next_of(&flow.early)


cdef void on_end(Table* table, Flow* flow, Half* half, const Run* run) noexcept nogil:
    """The parser's message has ended: it is emitted, or waits, or is none. `run`: what is left of its segment."""
    cdef Parser* parser = &half.parser
    cdef Message* message = parser.message
    cdef Exchange* exchange = <Exchange*>message.exchange
    cdef Half* other
    cdef int64_t start
    parser.message = NULL
    if exchange == NULL:
        message_free(message, &table.pool)
        return
    shut(table, half)
    if message.kind == REQUEST:
        other = &flow.half[flow.server]
        exchange.end = as_http1(message).end
        exchange.end_ack = run.ack if run != NULL else exchange.ack
        exchange.stamp_end = message.stamp_end
        exchange.end_read = message.incomplete == WHOLE or message.incomplete == INCOMPLETE_MALFORMED_ or (
            message.incomplete == INCOMPLETE_GAP_ and not half.gapping)
        exchange.end_unsure = message.incomplete == INCOMPLETE_MALFORMED_ and message.missing < 0
        if exchange.doubt == REFUTED:
            let_go(table, message)
            return
        if exchange.doubt == TENTATIVE:
            exchange.waiting = message
            if contradicted(flow, half, message, run):
                start = as_http1(message).start
                exchanges_refute(&flow.exchanges)       # the message is one of those that it frees
                http1_skip(parser)
                on_lost(table, flow, half, start, False, -1)
            return
        if message.incomplete == INCOMPLETE_MALFORMED_ and message.anomalies & BIT_BAD_HEADER_LINE and \
                parser.framing.transfer and parser.framing.chunked and message.missing < 0:
            on_lost(table, flow, half, as_http1(message).end - 1, False, -1)      # the next request stands among its trailers
        emit(table, message)
        if half.tunnel_next:
            half.tunnel_next = False
            http1_tunnel(parser)
        elif (exchange.connect or exchange.upgrade) and message.incomplete == WHOLE and not exchange.answered:
            flow.offer = exchange.number
            if other.eof or other.absent or other.parser.lost:
                half.unjudged = True
            else:
                half.waits = WAIT_OFFER     # what follows is HTTP only if the answer says so
        return
    if as_http1(message).assumed:
        half.doubtful = True
    if half.doubtful:
        if contradicted(flow, half, message, run):
            table.counters[<int>Counter.MESSAGES_TENTATIVE_DROPPED] += 1
            start = as_http1(message).start
            let_go(table, message)
            disbelieve(table, flow, half)
            on_lost(table, flow, half, start, False, -1)
            return
        let_wait(&flow.doubted, message)
        if flow.doubted.count == DOUBTED_MAX:
            believe(table, flow, half, True)
        return
    if exchange.unasked:
        let_wait(&flow.early, message)
        match_early(table, flow, False)
        return
    exchange.answer_end = as_http1(message).head_end if half.eof else as_http1(message).end
    emit(table, message)
    if flow.tunnels:
        flow.tunnels = False
        http1_tunnel(parser)
        switch_client(table, flow, exchange)


cdef void switch_client(Table* table, Flow* flow, const Exchange* exchange) noexcept nogil:
    """The server has switched to a tunnel: so does the client, behind the request that it may still be sending.

    RFC 9110 section 7.8: an Upgrade's request is sent to its end. Section 9.3.6: a CONNECT has no content.
    """
    cdef Half* half = &flow.half[1 - flow.server]
    cdef Message* message = half.parser.message
    half.waits = WAIT_NONE
    half.unjudged = False
    if message == NULL or message.exchange == NULL:
        http1_tunnel(&half.parser)
        return
    half.tunnel_next = True
    if exchange.connect:
        http1_cease(&half.parser, WHOLE if message.body_size == 0 else INCOMPLETE_MALFORMED_, 0)
        on_end(table, flow, half, NULL)


cdef void on_lost(Table* table, Flow* flow, Half* half, int64_t start, bint between, int64_t acked) noexcept nogil:
    """The parser lost its place at offset `start`; `between`: between two messages, so that one at least is lost whole.

    `acked`: who sent what was lost had received no more of the other direction than up to there; -1: unknown.
    """
    cdef Half* other
    if half.parser.kind == REQUEST:
        exchanges_lost_request(&flow.exchanges, flow.conn, start, half.stream.next, acked, between)
    else:
        exchanges_lost_responses(&flow.exchanges, between)
        other = &flow.half[1 - flow.server]
        if other.parser.message != NULL and other.parser.message.exchange != NULL:
            (<Exchange*>other.parser.message.exchange).answer_lost = True
        give_up_offer(other)
        if other.waits == WAIT_BODY or other.waits == WAIT_CRLF:
            judge_body(table, flow, True)   # what was lost may have answered the bytes that it waits with
    drop_early(table, flow)


cdef void give_up_offer(Half* client) noexcept nogil:
    """The answer to an Upgrade or CONNECT will not be read: the bytes behind it must tell what they are."""
    if client.waits == WAIT_OFFER:
        client.waits = WAIT_NONE
        client.unjudged = True


cdef void on_not_http(Table* table, Flow* flow, Half* half) noexcept nogil:
    """The direction began with something else than HTTP/1."""
    cdef Half* other = &flow.half[1 - (half - flow.half)]
    cdef int protocol = half.parser.protocol
    if protocol == PROTOCOL_OTHER and other.parser.spoke:
        http1_skip(&half.parser)        # the other side speaks HTTP: the middle of a long body, most likely
        return
    if other.parser.state == DEAD:
        pass        # counted when the other side spoke
    elif protocol == PROTOCOL_TLS:
        table.counters[<int>Counter.FLOWS_TLS] += 1
        note(table, flow, EVENT_TLS)
    elif protocol == PROTOCOL_HTTP2:
        table.counters[<int>Counter.FLOWS_HTTP2] += 1
        note(table, flow, EVENT_HTTP2)
    else:
        table.counters[<int>Counter.FLOWS_OTHER_PROTOCOL] += 1
        note(table, flow, EVENT_OTHER)
    http1_kill(&half.parser)
    if half.parser.kind == REQUEST and protocol != PROTOCOL_OTHER:
        return      # the server may answer in HTTP/1 all the same: 400 to what it does not understand
    drop_open(table, other)
    http1_kill(&other.parser)


cdef void act(Table* table, Flow* flow, Half* half, Event event, const Run* run) noexcept nogil:
    """Does what an event of the parser asks for."""
    if event == EVENT_HEAD:
        if half.parser.kind == REQUEST:
            on_request(table, flow, half, False)
        else:
            on_response(table, flow, half, False)
    elif event == EVENT_END:
        on_end(table, flow, half, run)
    elif event == EVENT_CUT:
        if half.parser.kind == REQUEST:
            on_request(table, flow, half, True)
        else:
            on_response(table, flow, half, True)
        if half.parser.message != NULL:
            on_end(table, flow, half, run)
    elif event == EVENT_HEAD_LOST and half.parser.kind == REQUEST:
        if flow.early.head == NULL:     # else its answer takes the number
            flow.exchanges.next_number += 1
    elif event == EVENT_NOT_HTTP:
        on_not_http(table, flow, half)


# ---- reading a stream ------------------------------------------------------------------------------------------------

cdef inline bint readable(const Flow* flow, const Half* half, int64_t ack) noexcept nogil:
    """Whether bytes that are next in order may be read now.

    A response waits until the request stream has been read, or given up, as far as the ACK on it: only then is it known
    what it answers.
    """
    cdef const Half* other
    cdef const Stream* requests
    if half.waits or flow.pending or flow.mode != MODE_HTTP:
        return False
    if half.parser.kind == REQUEST or ack < 0:
        return True
    other = &flow.half[1 - flow.server]
    requests = &other.stream
    if other.eof or other.absent or requests.base == BASE_NONE:
        return True
    if other.waits == WAIT_OFFER or (other.waits and not at_rest(&half.parser)):    # for this side's answer
        return True
    if requests.base == BASE_PROVISIONAL:
        return False        # for the grace: earlier requests may come late
    return ack <= requests.next or (requests.end >= 0 and requests.next >= requests.end)


cdef void read_run(Table* table, Flow* flow, Half* half, Run* run) noexcept nogil:
    """Lets the parser read a run that starts at stream.next; what must wait stays in `run`."""
    cdef Parser* parser = &half.parser
    cdef Stream* stream = &half.stream
    cdef Event event
    cdef uint8_t state
    cdef int64_t offset
    cdef Exchange* exchange
    if parser.kind == REQUEST and not parser.begun and not half.past_proxy and not read_proxy(table, flow, half, run):
        return
    if half.unjudged or half.tunnel_next:
        judge_offer(table, flow, half, run)
    if parser.kind == REQUEST and parser.message != NULL and run.segment_start and is_body_due(parser) and \
            http1_starts(REQUEST, run.data, run.size) >= 0 and may_be_next(flow, <Exchange*>parser.message.exchange, run):
        half.waits = WAIT_BODY
        half.weighed = 0
        half.looks = 0
        return
    if parser.state == TRAILERS and run.segment_start and ends_without_crlf(table, flow, half, run):
        half.waits = WAIT_CRLF
        return
    if parser.kind == RESPONSE:
        if parser.state == SKIP or parser.candidate or half.doubtful:
            parser.boundary = exchanges_mark(&flow.exchanges, run.offset, parser.boundary)
    elif run.offset == parser.boundary:
        exchange = flow.exchanges.tail
        if parser.message != NULL and as_http1(parser.message).start < run.offset:
            exchange = <Exchange*>parser.message.exchange
            if exchange != NULL and exchange.doubt == TENTATIVE:
                drop_open(table, half)      # a sure boundary inside of it: it was none
                http1_skip(parser)
        elif parser.state == HEAD and parser.first_offset < run.offset and exchange != NULL and \
                exchange.doubt == TENTATIVE:
            exchanges_refute(&flow.exchanges)       # ... or inside of what would follow it
            http1_skip(parser)
            on_lost(table, flow, half, parser.first_offset, False, -1)
    while True:
        if flow.early.head != NULL and parser.kind == RESPONSE and run.size and at_rest(parser) and \
                http1_starts(RESPONSE, run.data, run.size) >= 0:
            match_early(table, flow, True)
            if not readable(flow, half, run.ack):
                return
        state = parser.state
        offset = run.offset
        event = http1_data(parser, run)
        stream.next = run.offset
        if parser.state == SKIP and state != SKIP and parser.lost:
            if parser.kind == REQUEST:
                exchanges_refute(&flow.exchanges)   # no message follows what was taken for one
            elif half.doubtful:
                disbelieve(table, flow, half)
            on_lost(table, flow, half, offset, False, -1)
        if event == EVENT_MORE:
            break
        act(table, flow, half, event, run)
        if run.size and not readable(flow, half, run.ack):
            break
    if parser.message != NULL and not half.long_open and parser.message.exchange != NULL and \
            table.now - half.opened >= LONG:
        half.long_open = True
        table.messages_long += 1
        table.counters[<int>Counter.MESSAGES_LONG] += 1
        note(table, flow, EVENT_LONG)


cdef void skip_gap(Table* table, Flow* flow, Half* half, int64_t size) noexcept nogil:
    """`size` bytes at stream.next are missing for good."""
    cdef Parser* parser = &half.parser
    cdef Stream* stream = &half.stream
    cdef Event event
    cdef uint8_t state = parser.state
    cdef int64_t start = stream.next
    cdef uint32_t proxy = <uint32_t>min(size, <int64_t>half.proxy_left)
    cdef int64_t acked = -1
    cdef int64_t mark = parser.boundary if parser.kind == REQUEST else exchanges_mark(&flow.exchanges, start, -1)
    cdef bint refused = parser.kind == REQUEST and parser.message != NULL and parser.message.exchange != NULL and \
        is_body_due(parser) and refuses(<Exchange*>parser.message.exchange)
    cdef bint between = refused or at_rest(parser) or start <= mark < start + size or (    # or a head with it
        parser.state == HEAD and parser.candidate and (parser.first_sure or parser.line_end > 0))
    table.counters[<int>Counter.GAPS] += 1
    table.counters[<int>Counter.GAP_BYTES] += <uint64_t>size
    stream.next += size
    if stream.top < stream.next:
        stream.top = stream.next
    if stream.count and stream_front(stream).offset == stream.next:
        acked = stream_front(stream).acked_at
    elif stream.acked >= stream.next:
        acked = stream.acked_at
    half.proxy_left -= proxy
    size -= proxy
    if size == 0:
        return
    half.gapping = True
    if refused:         # the body, or the next request
        http1_cease(parser, INCOMPLETE_GAP_, 0)
        on_end(table, flow, half, NULL)
    while True:
        event = http1_gap(parser, &size)
        if event == EVENT_MORE:
            break
        if event == EVENT_HEAD_LOST or (event == EVENT_END and size > 0 and parser.state == DONE and parser.after == START):
            between = True      # or the gap goes on behind a body of known length
        act(table, flow, half, event, NULL)
    half.gapping = False
    if half.doubtful and parser.message == NULL:
        believe(table, flow, half, False)
    if parser.state == SKIP and (state != SKIP or between or not parser.spoke):
        on_lost(table, flow, half, start, between, acked)


cdef inline bint is_ahead_of_all(const Half* half) noexcept nogil:
    """Whether a FIN stands beyond all bytes that were seen or acknowledged: they may have been lost, or it is none."""
    cdef const Stream* stream = &half.stream
    return not half.eof and half.end_reason == WHOLE and stream.end > max(stream.top, stream.acked)


cdef int64_t hole(const Flow* flow, const Half* half, bint forced) noexcept nogil:
    """Size of the hole at stream.next that is known to be one (`forced`: that can be one), or 0."""
    cdef const Stream* stream = &half.stream
    cdef const Half* other = &flow.half[1 - (half - flow.half)]
    cdef Held* front = stream_front(stream)
    cdef int64_t limit
    if stream.base != BASE_KNOWN or half.eof or (front != NULL and front.offset <= stream.next):
        return 0
    if forced or not other.seen:
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
    """Reads the piece that is held and next in order; what must wait of it stays."""
    cdef Run run
    cdef int64_t size
    stream_read(&half.stream, &run)
    size = run.size
    read_run(table, flow, half, &run)
    stream_take(&half.stream, size - run.size)


cdef bint step(Table* table, Flow* flow, Half* half) noexcept nogil:
    """Reads one piece that is held and may be read, or the end; returns whether there was one."""
    cdef Stream* stream = &half.stream
    cdef Held* front = stream_front(stream)
    if stream.base != BASE_KNOWN:
        return False
    if front != NULL and front.offset <= stream.next:
        if not readable(flow, half, front.ack):
            return False
        read_front(table, flow, half)
        return True
    if stream.end < 0 or stream.next < stream.end or half.eof:
        return False
    half.eof = True
    finish_half(table, flow, half, <Incomplete>half.end_reason)
    return True


cdef void read_on(Table* table, Flow* flow) noexcept nogil:
    """Reads in both directions until neither can, what was sent first first: a request after what it acknowledges."""
    cdef Half* client = &flow.half[1 - flow.server]
    cdef Half* server = &flow.half[flow.server]
    cdef Held* front
    while True:
        front = stream_front(&client.stream)
        if front != NULL and front.ack > server.stream.next and step(table, flow, server):
            continue
        if client.waits > WAIT_OFFER and judge(table, flow, False):
            continue
        if not step(table, flow, client) and not step(table, flow, server):
            break


cdef bint force(Table* table, Flow* flow, Half* half) noexcept nogil:
    """Nothing waits any longer: gives up the hole at the front of a half, or reads what waits there."""
    cdef Held* front = stream_front(&half.stream)
    cdef int64_t size
    if half.stream.base != BASE_KNOWN or half.waits:
        return False
    if front != NULL and front.offset <= half.stream.next:
        read_front(table, flow, half)
        return True
    size = hole(flow, half, True)
    if size:
        skip_gap(table, flow, half, size)
    return size > 0


cdef bint force_on(Table* table, Flow* flow) noexcept nogil:
    """Forces the half that the other one waits for, then reads on; returns whether anything was left to force."""
    cdef Half* client = &flow.half[1 - flow.server]
    cdef Half* server = &flow.half[flow.server]
    cdef Held* request = stream_front(&client.stream)
    cdef Held* response = stream_front(&server.stream)
    cdef bint any
    if client.waits > WAIT_OFFER and hole(flow, server, True) == 0:
        any = judge(table, flow, True)
    elif request != NULL and request.ack > server.stream.next and \
            (response == NULL or response.ack <= client.stream.next):
        any = force(table, flow, server) or force(table, flow, client)
    else:
        any = force(table, flow, client) or force(table, flow, server)
    if not any and client.waits:
        any = True
        give_up_wait(table, flow)
    if any:
        read_on(table, flow)
    return any


# What the client's next bytes are, where HTTP alone does not say it.

cdef enum Reading:
    UNDECIDED = 0
    BODY = 1
    NEXT_REQUEST = 2            # the body was never sent
    REFUSED_BODY = 3            # it cannot be known: the bytes are neither


cdef void give_up_wait(Table* table, Flow* flow) noexcept nogil:
    """Nothing more will tell what the client waits for: its bytes alone must."""
    cdef Half* client = &flow.half[1 - flow.server]
    give_up_offer(client)
    if client.waits:
        judge(table, flow, True)


cdef bint judge(Table* table, Flow* flow, bint last) noexcept nogil:
    """Returns whether it was decided what the bytes are. `last`: nothing more will tell."""
    if flow.half[1 - flow.server].waits == WAIT_PROXY:
        return judge_proxy(&flow.half[1 - flow.server], last)
    return judge_body(table, flow, last)


cdef int parse_proxy(const Half* half, const Run* run, Proxied* said) noexcept nogil:
    """proxy_parse() of what is held at the front of the stream, or of `run`."""
    cdef uint8_t bytes[PROXY_MOST]
    cdef Held* front = stream_front(&half.stream)
    if front != NULL and front.offset == half.stream.next:
        return proxy_parse(bytes, <int>copy_held(&half.stream, half.stream.next, bytes, PROXY_MOST), said)
    return proxy_parse(run.data, <int>min(run.size, <int64_t>PROXY_MOST), said)


cdef bint judge_proxy(Half* half, bint last) noexcept nogil:
    """The client waits (WAIT_PROXY): whether its bytes tell by now."""
    cdef Proxied said
    cdef Held* front = stream_front(&half.stream)
    if front != NULL and front.offset == half.stream.next and not last and parse_proxy(half, NULL, &said) == PROXY_MORE:
        return False
    half.past_proxy = last
    half.waits = WAIT_NONE
    return True


cdef bint read_proxy(Table* table, Flow* flow, Half* half, Run* run) noexcept nogil:
    """Before the client's first byte: reads a PROXY protocol header. False: nothing of the run is to be read now."""
    cdef Proxied said
    cdef int size
    if half.proxy_left == 0:
        if run.size == 0:
            return True
        size = parse_proxy(half, run, &said)
        if size == PROXY_MORE:
            half.waits = WAIT_PROXY
            return False
        if size == PROXY_NONE:
            half.past_proxy = True
            return True
        table.counters[<int>Counter.FLOWS_PROXIED] += 1
        half.proxy_left = <uint32_t>size
        if said.address_size:
            flow.conn.proxied = <Proxied*>pool_take(&table.pool, sizeof(Proxied))
            if flow.conn.proxied != NULL:
                flow.conn.proxied[0] = said
    size = <int>min(run.size, <int64_t>half.proxy_left)
    run.data += size
    run.size -= size
    run.offset += size
    run.segment_start = True    # as if it were: the first message begins behind the header
    half.stream.next = run.offset
    half.proxy_left -= <uint32_t>size
    table.counters[<int>Counter.BYTES_PROXY] += <uint64_t>size
    if half.proxy_left:
        return False
    half.past_proxy = True
    half.parser.at_stream_start = True
    flow.exchanges.from_start = True
    return True


cdef void judge_offer(Table* table, Flow* flow, Half* half, const Run* run) noexcept nogil:
    """The client's bytes behind an Upgrade or CONNECT: a tunnel, or, where they begin as a request does, HTTP/1."""
    cdef Half* other = &flow.half[flow.server]
    if half.tunnel_next:
        if half.parser.message == NULL:
            half.tunnel_next = False
            http1_tunnel(&half.parser)
        return
    if run.size == 0:
        return
    half.unjudged = False
    if not at_rest(&half.parser) or run.data[0] == 13 or run.data[0] == 10 or \
            http1_starts(REQUEST, run.data, run.size) >= 0:
        return
    table.counters[<int>Counter.FLOWS_TUNNEL] += 1
    note(table, flow, EVENT_TUNNEL)
    http1_tunnel(&half.parser)
    finish_half(table, flow, other, INCOMPLETE_MALFORMED_)
    http1_tunnel(&other.parser)


cdef inline bint is_body_due(const Parser* parser) noexcept nogil:
    """Whether the open message's body has not begun."""
    return parser.message.body_size == 0 and parser.message.missing == 0 and (
        (parser.state == BODY_LENGTH and parser.remaining > 0) or (parser.state == CHUNK_SIZE and parser.line_size == 0))


cdef inline bint is_refusal(const Exchange* exchange) noexcept nogil:
    """Whether a final response that came before the request's body tells its client not to send it.

    Any does where the client waits for a 100 (RFC 9110 section 10.1.1), else those that make the body pointless.
    """
    cdef uint16_t status = exchange.answered
    return status != 0 and (
        exchange.expect or 300 <= status < 400 or status == 401 or status == 413 or status == 417)


cdef inline bint is_unsure(const Flow* flow, const Exchange* exchange, int64_t ack) noexcept nogil:
    """Whether a request may have been answered though no answer is known to be its own: behind a loss.

    `ack`: how far the sender of its next bytes had read.
    """
    return not exchange.continued and (
        exchange.answer_lost or (
            exchange.doubt == SURE and ack > exchange.ack and not exchanges_fifo(&flow.exchanges)))


cdef inline bint refuses(const Exchange* exchange) noexcept nogil:
    """Whether the body was refused, and nothing tells that it comes all the same."""
    return not exchange.sends and is_refusal(exchange)


cdef bint may_be_next(const Flow* flow, const Exchange* exchange, const Run* run) noexcept nogil:
    """Whether `run`, where a body is due, may be the next request: the body was refused, or that may be unknown."""
    cdef const Half* server = &flow.half[flow.server]
    if exchange == NULL or exchange.sends or run.ack < 0:
        return False
    if exchange.answered == 0:
        if not server.seen:
            return exchange.expect
        if flow.early.head != NULL and flow.exchanges.head == exchange:
            return True     # it may have been answered before its first byte
        return run.ack > server.stream.next or is_unsure(flow, exchange, run.ack)
    return refuses(exchange) and run.ack >= exchange.answer_end


cdef uint32_t copy_held(const Stream* stream, int64_t offset, uint8_t* bytes, uint32_t most) noexcept nogil:
    """Copies what is held from `offset` on, up to the first hole; returns how much that is."""
    cdef uint32_t size = 0
    cdef uint32_t piece
    cdef int64_t skip
    cdef uint32_t at = stream.first
    cdef Held* held
    while at < stream.first + stream.count and size < most:
        held = stream.held[at]
        skip = offset + size - held.offset
        if skip < 0:
            break
        if skip < held.size:
            piece = min(held.size - <uint32_t>skip, most - size)
            memcpy(bytes + size, held_data(held) + skip, piece)
            size += piece
        at += 1
    return size


cdef bint replies(const Half* server) noexcept nogil:
    """Whether another response is next on the server's direction."""
    cdef uint8_t line[12]       # up to its code
    cdef const Held* front = stream_front(&server.stream)
    return at_rest(&server.parser) and front != NULL and front.offset == server.stream.next and \
        http1_starts(RESPONSE, line, copy_held(&server.stream, front.offset, line, sizeof(line))) == 1 and \
        memcmp(line + 9, b"408", 3) != 0    # a server may say that to nobody


cdef int64_t reply_ack(const Flow* flow) noexcept nogil:
    """How many of the client's next bytes are acknowledged by a response that is next to be read; -1: there is none."""
    cdef const Half* server = &flow.half[flow.server]
    if not replies(server):
        return -1
    return stream_front(&server.stream).ack - flow.half[1 - flow.server].stream.next


cdef Reading weigh_body(const Table* table, Flow* flow, bint last) noexcept nogil:
    """What the client's next bytes are, where a body is due that was refused.

    They are the next request if a later response acknowledges a whole head of it: the server did not wait for the body.
    They are the body if the client sends as much as it had announced. `last`: nothing more will tell.
    Until a response tells, they are looked at again only when they are twice as many: all looks cost what the bytes do.
    """
    cdef Half* half = &flow.half[1 - flow.server]
    cdef const Half* server = &flow.half[flow.server]
    cdef const Parser* parser = &half.parser
    cdef const Exchange* exchange = <const Exchange*>parser.message.exchange
    cdef Held* front = stream_front(&half.stream)
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
    last = last or server.eof or server.absent
    if not last and front.ack > server.stream.next:
        return UNDECIDED            # until all is read that the client had read
    if exchange.answered == 0 and server.seen and not is_unsure(flow, exchange, front.ack) and \
            front.ack <= server.stream.next + (1 if server.eof else 0) and flow.early.head == NULL:
        return BODY                 # the client sends it, asked or not
    if exchange.answered:
        # An answer that ends with the connection is acknowledged with its head.
        answered_to = exchange.answer_end
        if answered_to < 0 and server.parser.state == BODY_CLOSE and server.parser.message != NULL:
            answered_to = as_http1(server.parser.message).head_end
        if not refuses(exchange) or answered_to < 0 or front.ack < answered_to:
            return BODY
        if exchange.answer_end < 0 and not last:
            return UNDECIDED
    if exchange.answered:
        acked = reply_ack(flow)
    if not last:
        if acked <= 0 and half.stream.top - half.stream.next < 2 * half.weighed:
            return UNDECIDED
        if acked > 0 and half.looks == LOOKS_MAX:
            return UNDECIDED        # until the grace is over
    half.weighed = half.stream.top - half.stream.next
    half.looks += 1 if acked > 0 else 0
    bytes = <uint8_t*>malloc(table.limits.head)
    if bytes == NULL:
        return REFUSED_BODY
    size = copy_held(&half.stream, front.offset + announced, bytes, table.limits.head)
    filled = size == 0 and half.stream.top - half.stream.next >= announced
    followed = size > 0 and http1_starts(REQUEST, bytes, size) == 1
    other = size > 0 and http1_starts(REQUEST, bytes, size) < 0
    size = copy_held(&half.stream, front.offset, bytes, table.limits.head)
    head = http1_head(REQUEST, bytes, size)
    if http1_starts(REQUEST, bytes, size) < 0 or (exchange.answered and followed):
        verdict = BODY
    elif acked >= announced and not other:      # as much was sent as announced
        if filled and (last or acked == announced):
            verdict = BODY
        elif last:
            verdict = REFUSED_BODY              # else what is missing may come late
    elif acked > 0:
        if head and head <= acked:
            verdict = NEXT_REQUEST
        elif last or size >= acked or size == table.limits.head:
            verdict = REFUSED_BODY
    elif last:
        verdict = BODY if filled else REFUSED_BODY
    elif head and exchange.answered == 0 and flow.early.head == NULL:
        verdict = REFUSED_BODY
    free(bytes)
    return verdict


cdef bint ends_without_crlf(Table* table, Flow* flow, Half* half, const Run* run) noexcept nogil:
    """Where trailers may begin, or the last CRLF is due: whether the client must wait, for its run may be a request.

    A response ends here if its run begins with another: whole, where a request waits for that one.
    """
    cdef Parser* parser = &half.parser
    cdef Half* client = &flow.half[1 - flow.server]
    cdef int64_t start = run.offset
    cdef int starts
    cdef bint whole
    if parser.message.exchange == NULL or not http1_crlf_due(parser):
        return False
    starts = http1_starts(<Kind>parser.kind, run.data, run.size)
    if parser.kind == REQUEST:
        return starts == 1 or (starts == 0 and run.size > METHOD_LONGEST)   # a method, and a part of a target
    if starts != 1:
        return False
    if client.waits == WAIT_CRLF and run.ack > client.stream.next:      # the later response that it waits for
        read_as(table, flow, weigh_trailers(table, flow, run.ack - client.stream.next, True))
        while client.stream.next < run.ack and step(table, flow, client):
            pass
    whole = not half.doubtful and (not client.seen or exchanges_pick(&flow.exchanges, run.ack, start) != NULL)
    http1_cease(parser, WHOLE if whole else INCOMPLETE_MALFORMED_, BIT_LAST_CRLF_MISSING if whole else 0)
    on_end(table, flow, half, NULL)
    if not whole:
        on_lost(table, flow, half, start, False, -1)
    return False


cdef Reading weigh_trailers(const Table* table, const Flow* flow, int64_t acked, bint last) noexcept nogil:
    """What the client's next bytes are, where the last CRLF of a chunked body is due and they begin as a request does.

    They are the next request if the open one was answered, and a later response acknowledges a whole head of them: that
    is `acked` bytes. Otherwise nobody can tell, for a server that waits for the CRLF takes them for trailers.
    """
    cdef const Half* half = &flow.half[1 - flow.server]
    cdef const Half* server = &flow.half[flow.server]
    cdef const Exchange* exchange = <const Exchange*>half.parser.message.exchange
    cdef uint8_t* bytes
    cdef uint32_t head = 0
    if acked <= 0:
        return REFUSED_BODY if last or server.eof or server.absent else UNDECIDED
    bytes = <uint8_t*>malloc(table.limits.head)
    if bytes != NULL and exchange.answered and exchange.doubt == SURE:
        head = http1_head(REQUEST, bytes, copy_held(&half.stream, half.stream.next, bytes, table.limits.head))
    free(bytes)
    return NEXT_REQUEST if 0 < head <= acked else REFUSED_BODY


cdef bint judge_body(Table* table, Flow* flow, bint last) noexcept nogil:
    """The client waits (WAIT_BODY or WAIT_CRLF): returns whether it was decided what its next bytes are."""
    cdef Reading verdict
    if flow.early.head != NULL and replies(&flow.half[flow.server]):
        match_early(table, flow, True)
    if flow.half[1 - flow.server].waits == WAIT_CRLF:
        verdict = weigh_trailers(table, flow, reply_ack(flow), last)
    else:
        verdict = weigh_body(table, flow, last)
    if verdict != UNDECIDED:
        read_as(table, flow, verdict)
    return verdict != UNDECIDED


cdef void read_as(Table* table, Flow* flow, Reading verdict) noexcept nogil:
    """The client waits no longer: its next bytes are what `verdict` says."""
    cdef Half* half = &flow.half[1 - flow.server]
    cdef Parser* parser = &half.parser
    cdef int64_t start = half.stream.next
    cdef uint32_t anomaly = BIT_LAST_CRLF_MISSING if half.waits == WAIT_CRLF else BIT_BODY_NOT_SENT
    half.waits = WAIT_NONE
    if verdict == BODY:
        (<Exchange*>parser.message.exchange).sends = True
        return
    parser.boundary = -1
    if verdict == NEXT_REQUEST:
        http1_cease(parser, WHOLE, anomaly)
    else:
        http1_cease(parser, INCOMPLETE_MALFORMED_, 0)
    on_end(table, flow, half, NULL)
    if verdict == REFUSED_BODY:     # nobody can tell: a head in it must not stand in a body in clear
        on_lost(table, flow, half, start, False, -1)


cdef void finish_half(Table* table, Flow* flow, Half* half, Incomplete reason) noexcept nogil:
    cdef Event event
    half.in_step = at_rest(&half.parser)
    while True:
        event = http1_end(&half.parser, reason)
        if event == EVENT_MORE:
            break
        if event == EVENT_HEAD_LOST and half.parser.kind == REQUEST and exchanges_by_acks(&flow.exchanges):
            on_lost(table, flow, half, half.parser.first_offset, True, -1)      # what comes may answer that head
        act(table, flow, half, event, NULL)
    if half.doubtful:
        believe(table, flow, half, False)
    if half.parser.kind == RESPONSE:
        give_up_offer(&flow.half[1 - flow.server])
        end_early(table, flow)


cdef void settle(Table* table, Flow* flow) noexcept nogil:
    """After anything changed: reads on in both directions until neither can, closes what has ended, arms the timers."""
    cdef Half* half
    cdef int d
    if flow.pending:
        return
    if flow.mode == MODE_UNDECIDED:
        decide(table, flow)
    if flow.mode == MODE_HTTP:
        read_on(table, flow)
        for d in range(2):
            half = &flow.half[d]
            if half.stream.held_memory > HOLD_LIMIT:
                relieve_half(table, flow, half, HOLD_LIMIT // 2)
        if flow.half[0].parser.state == TUNNEL and flow.half[1].parser.state == TUNNEL:
            turn(table, flow, <int>Counter.BYTES_ABANDONED_TUNNEL)
        elif is_dead(&flow.half[0].parser, &flow.half[1].parser) or is_dead(&flow.half[1].parser, &flow.half[0].parser):
            turn(table, flow, <int>Counter.BYTES_ABANDONED_NOT_HTTP)
        elif flow.half[0].eof and flow.half[1].eof:
            close_flow(table, flow, <int>Counter.FLOWS_CLOSED)
            return
    if flow.mode <= MODE_UNDECIDED:
        arm(table, flow, &flow.half[0])
        arm(table, flow, &flow.half[1])


cdef inline bint is_dead(const Parser* one, const Parser* other) noexcept nogil:
    """Whether one side does not speak HTTP/1, and the other has not answered it in HTTP/1."""
    return one.state == DEAD and (other.state == DEAD or other.state == SKIP)


cdef void turn(Table* table, Flow* flow, int reason) noexcept nogil:
    """HTTP has ended on this flow: from now on it costs a lookup."""
    cdef int d
    for d in range(2):
        flow.fins |= <uint8_t>((1 if flow.half[d].eof else 0) << d)
    ignore(table, flow, reason)


cdef inline void arm(Table* table, Flow* flow, Half* half) noexcept nogil:
    """Starts, keeps or stops the timer of a half."""
    cdef bint told          # whether the other direction's ACKs are there to tell
    if half.stream.base == BASE_PROVISIONAL:
        if half.timers == NULL:
            timer_start(table, half, &table.soon, table.now + GRACE)
        return
    if half.eof and not flow.half[1 - (half - flow.half)].seen:     # one-sided, and the one side has ended
        if half.timers == NULL:
            timer_start(table, half, &table.later, table.now + GRACE_ONE_SIDED)
        return
    if half.waits and not flow.half[1 - (half - flow.half)].seen:   # the answer may come, or be on the unseen side
        if half.timers == NULL or half.hole != half.stream.next:
            half.hole = half.stream.next
            timer_start(table, half, &table.later, table.now + GRACE_ONE_SIDED)
        return
    if half.waits == WAIT_BODY and reply_ack(flow) > 0:     # pieces are missing of what the reply acknowledges
        if half.timers == NULL or half.hole != half.stream.next:
            half.hole = half.stream.next
            timer_start(table, half, &table.soon, table.now + GRACE)
        return
    if half.stream.count == 0 and half.stream.acked <= half.stream.next and half.stream.end < 0:
        if half.timers != NULL:
            timer_stop(half)
        return
    if hole(flow, half, False) == 0:
        timer_stop(half)
        return
    told = flow.half[1 - (half - flow.half)].seen
    if half.timers != NULL and half.hole == half.stream.next and (half.timers == &table.soon) == told:
        return
    half.hole = half.stream.next
    if told:
        timer_start(table, half, &table.soon, table.now + GRACE)
    else:
        timer_start(table, half, &table.later, table.now + GRACE_ONE_SIDED)


cdef void release(Half* half) noexcept nogil:
    """The grace of a direction first seen mid-stream is over: the lowest offset seen is where it begins."""
    cdef Held* front = stream_front(&half.stream)
    cdef const Exchange* exchange
    if half.stream.base == BASE_PROVISIONAL:
        half.stream.base = BASE_KNOWN
        half.stream.next = half.stream.top if front == NULL else front.offset
        if 0 <= half.stream.start < half.stream.next:
            half.stream.next = half.stream.start
        half.stream.start = half.stream.next
        exchange = half.flow.exchanges.head
        if half.parser.kind == RESPONSE and exchange != NULL and 0 <= exchange.ack < half.stream.next:
            exchanges_doubt(&half.flow.exchanges)       # what was sent to it in between is not in the capture


cdef void fire(Table* table, Half* half) noexcept nogil:
    """A half's timer is due."""
    cdef Flow* flow = half.flow
    cdef int64_t size
    timer_stop(half)
    if half.eof and not flow.half[1 - (half - flow.half)].seen:
        close_flow(table, flow, <int>Counter.FLOWS_CLOSED)
        return
    if half.stream.base == BASE_PROVISIONAL:
        release(half)
    elif half.waits and not flow.half[1 - (half - flow.half)].seen:
        flow.half[flow.server].absent = True
        give_up_wait(table, flow)
    elif half.waits == WAIT_BODY:
        judge(table, flow, True)
    elif flow.mode == MODE_HTTP:
        size = hole(flow, half, False)
        if size:
            if not half.seen:
                half.absent = True      # the capture sees one side only: nothing waits for this one again
                half.stream.next += size
            else:
                skip_gap(table, flow, half, size)
    settle(table, flow)


cdef void relieve_half(Table* table, Flow* flow, Half* half, int64_t goal) noexcept nogil:
    """A cap is reached: holes become gaps until no more than `goal` bytes are held."""
    cdef Half* other = &flow.half[1 - (half - flow.half)]
    if half.waits:
        give_up_wait(table, flow)
    release(half)
    if half.parser.kind == RESPONSE:
        release(other)
    read_on(table, flow)
    while half.stream.held_memory > goal and force_on(table, flow):
        pass


# ---- who is the server -----------------------------------------------------------------------------------------------

cdef bint speaks(const Stream* stream, int* kind) noexcept nogil:
    """Whether the held bytes that are next begin with a start line, and of which kind."""
    cdef uint8_t bytes[PEEK]
    cdef int size = 0
    cdef int piece
    cdef int i
    cdef uint32_t at = stream.first
    cdef int64_t offset = stream.next
    cdef const uint8_t* line
    while at < stream.first + stream.count and stream.held[at].offset == offset and size < PEEK:
        piece = min(<int>stream.held[at].size, PEEK - size)
        memcpy(bytes + size, held_data(stream.held[at]), piece)
        size += piece
        offset += stream.held[at].size
        at += 1
    if size >= 9 and memcmp(bytes, b"HTTP/1.", 7) == 0:
        kind[0] = RESPONSE
        return True
    line = <const uint8_t*>memchr(bytes, 10, size)
    if line != NULL:
        size = <int>(line - bytes)
        if size and bytes[size - 1] == 13:
            size -= 1
    elif size < PEEK:
        return False
    for i in range(size):
        if bytes[i] == 32:
            kind[0] = REQUEST
            return i > 0 and (line == NULL or (size >= i + 10 and memcmp(bytes + size - 9, b" HTTP/1.", 8) == 0))
        if not (65 <= bytes[i] <= 90 or 97 <= bytes[i] <= 122 or bytes[i] == 45 or bytes[i] == 95):
            return False
    return False


cdef void decide(Table* table, Flow* flow) noexcept nogil:
    """Both ports are captured and no SYN was seen: whoever speaks a start line tells who is the server."""
    cdef int d
    cdef int kind = 0
    for d in range(2):
        if flow.half[d].stream.base == BASE_KNOWN and flow.half[d].stream.count and \
                speaks(&flow.half[d].stream, &kind):
            set_server(table, flow, d if kind == RESPONSE else 1 - d)
            return
    if flow.half[0].stream.held_bytes + flow.half[1].stream.held_bytes > UNDECIDED_LIMIT:
        table.counters[<int>Counter.FLOWS_UNDECIDED] += 1
        note(table, flow, EVENT_UNDECIDED)
        ignore(table, flow, <int>Counter.BYTES_ABANDONED_UNDECIDED)


cdef void set_server(Table* table, Flow* flow, int server) noexcept nogil:
    """`server`: the direction (0 is low to high) in which the server sends."""
    cdef int d
    flow.mode = MODE_HTTP
    flow.server = <uint8_t>server
    flow.exchanges.from_start = flow.handshake
    flow.conn.server_is_high = server == 1
    for d in range(2):
        http1_init(&flow.half[d].parser, RESPONSE if d == server else REQUEST, &table.pool, table.counters, &table.limits)
        flow.half[d].parser.at_stream_start = flow.handshake


# ---- a segment -------------------------------------------------------------------------------------------------------

cdef Flow* new_flow(Table* table, const Packet* packet, const Key* key, uint64_t hashed, int d, int64_t stamp) noexcept nogil:
    """A flow for the packet's connection, not yet in the table. NULL without memory."""
    cdef Flow* flow = <Flow*>pool_take(&table.pool, sizeof(Flow))
    cdef Conn* conn
    cdef bint from_captured = captured(table, packet.source_port)
    cdef bint to_captured = captured(table, packet.destination_port)
    cdef int i
    if flow == NULL:
        return NULL
    conn = <Conn*>pool_take(&table.pool, sizeof(Conn))
    if conn == NULL:
        pool_give(&table.pool, flow, sizeof(Flow))
        return NULL
    memset(flow, 0, sizeof(Flow))
    memset(conn, 0, sizeof(Conn))
    conn.pool = &table.pool
    conn.pool.bytes += CONN_OBJECTS     # made with its first message, but eviction must not come after the fact
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
    flow.last = table.now
    for i in range(2):
        flow.half[i].flow = flow
        stream_init(&flow.half[i].stream, &table.pool, table.counters)
    exchanges_init(&flow.exchanges, &table.pool, table.counters)
    flow.mode = MODE_UNDECIDED
    flow.handshake = packet.flags & TCP_SYN != 0
    if table.own_count and is_own(table, conn):
        table.counters[<int>Counter.FLOWS_OWN] += 1
        ignore(table, flow, <int>Counter.BYTES_ABANDONED_OWN)
        return flow
    if flow.handshake:
        i = d if packet.flags & TCP_ACK else 1 - d
        if not (from_captured if i == d else to_captured):
            table.counters[<int>Counter.FLOWS_OTHER_SERVER] += 1
            ignore(table, flow, <int>Counter.BYTES_ABANDONED_OTHER_PORT)
            return flow
    elif from_captured != to_captured:
        i = d if from_captured else 1 - d
    else:
        i = -1
    if table.sample_rate < 1 and not sampled(table, conn):
        table.counters[<int>Counter.FLOWS_SAMPLED_OUT] += 1
        ignore(table, flow, <int>Counter.BYTES_ABANDONED_SAMPLED_OUT)
        return flow
    if i >= 0:
        set_server(table, flow, i)
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
    """RULINGS: the first 64 bits of BLAKE2b over the sorted ends, below the rate."""
    cdef bytes ends = (
        conn.low[:conn.address_size] + (<int>conn.low_port).to_bytes(2, "big")
        + conn.high[:conn.address_size] + (<int>conn.high_port).to_bytes(2, "big"))
    return int.from_bytes(blake2b(ends).digest()[:8], "big") < table.sample_rate * 2.0 ** 64


cdef void make_room(Table* table) noexcept nogil:
    """One more flow is about to come: keeps the number of flows below its cap."""
    while table.total >= table.max_flows and table.closed.head != NULL:
        leave(table, table.closed.head)
    while table.live >= table.max_flows:
        if table.silent.head != NULL:
            end_flow(table, table.silent.head, INCOMPLETE_EVICTED_, <int>Counter.FLOWS_EVICTED_SILENT)
        else:
            end_flow(table, table.recent.head, INCOMPLETE_EVICTED_, <int>Counter.FLOWS_EVICTED_CAPACITY)


cdef void end_flow(Table* table, Flow* flow, Incomplete reason, int why) noexcept nogil:
    """Ends a flow from outside: reads what is held with its holes as gaps, emits what is open, frees it."""
    cdef Half* half
    cdef int i
    if flow.mode <= MODE_UNDECIDED:
        release(&flow.half[0])
        release(&flow.half[1])
        if flow.mode == MODE_UNDECIDED:
            decide(table, flow)
        if flow.mode == MODE_HTTP:
            read_on(table, flow)
            while force_on(table, flow):
                pass
            for i in range(2):      # the client's direction first
                half = &flow.half[flow.server if i else 1 - flow.server]
                if not half.eof:
                    finish_half(table, flow, half, reason)
    close_flow(table, flow, why)
    leave(table, flow)


cdef void on_ignored(Table* table, Flow* flow, const Packet* packet, int d) noexcept nogil:
    table.counters[<int>Counter.BYTES_PAYLOAD] += packet.payload_size
    table.counters[flow.reason] += packet.payload_size
    if flow.reason == <int>Counter.BYTES_ABANDONED_SAMPLED_OUT:
        table.counters[<int>Counter.SEGMENTS_SAMPLED_OUT] += 1
    elif flow.reason == <int>Counter.BYTES_ABANDONED_OTHER_PORT:
        table.counters[<int>Counter.SEGMENTS_OTHER_PORT] += 1
    elif flow.reason == <int>Counter.BYTES_ABANDONED_OWN:
        table.counters[<int>Counter.SEGMENTS_OWN] += 1
    if packet.payload_size and flow.stage == &table.silent:
        stage(flow, NULL)
    if packet.flags & TCP_FIN:
        flow.fins |= <uint8_t>(1 << d)
    if packet.flags & TCP_RST:
        flow.fins = 3
    if flow.fins == 3:
        close_flow(table, flow, <int>Counter.FLOWS_CLOSED)


cdef bint begin_at(Half* half, uint32_t seq) noexcept nogil:
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
        half.parser.at_stream_start = True
    return True


cdef bint on_syn(Table* table, Flow* flow, const Packet* packet, int d) noexcept nogil:
    """A SYN on a known flow: True when it belongs to it, False when it is of another connection."""
    if flow.mode > MODE_UNDECIDED or not begin_at(&flow.half[d], packet.seq + 1):
        return False
    if packet.flags & TCP_ACK:
        begin_at(&flow.half[1 - d], packet.ack)
    flow.exchanges.from_start = True
    if flow.mode == MODE_UNDECIDED:
        flow.handshake = True
        set_server(table, flow, d if packet.flags & TCP_ACK else 1 - d)
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


cdef void on_reset(Table* table, Flow* flow, const Packet* packet, int d) noexcept nogil:
    """A RST. It carries no stream data (RFC 9293 section 3.5.3), and of its numbers only the place counts.

    It counts only at the next expected byte (by us or by the other side's ACK) or at bytes already seen (RFC 5961
    section 3), before any number of its side is known only with the ACK of the SYN (RFC 9293 section 3.10.7.3).
    """
    cdef const Stream* stream = &flow.half[d].stream
    cdef const Stream* other = &flow.half[1 - d].stream
    cdef int64_t offset
    table.counters[<int>Counter.BYTES_PAYLOAD] += packet.payload_size
    table.counters[<int>Counter.BYTES_ABANDONED_RST] += packet.payload_size
    if flow.pending:
        return      # whoever refuses a SYN changes nothing for the connection that it came upon
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


cdef void on_late(Table* table, Half* half, const Run* run) noexcept nogil:
    """Bytes beyond the end of their direction: they wait for what says that the peers ignore this end."""
    if half.late == NULL:
        half.late = <Stream*>pool_take(&table.pool, sizeof(Stream))
        if half.late != NULL:
            stream_init(half.late, &table.pool, table.counters)
            table.late += 1
    if half.late == NULL or run.offset + run.size > half.stream.end + HOLD_LIMIT or \
            half.late.held_memory + run.size > HOLD_LIMIT:
        table.counters[<int>Counter.BYTES_ABANDONED_LATE] += <uint64_t>run.size
    else:
        stream_hold(half.late, run)


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
        stream_hold(stream, &run)
        stream_take(half.late, run.size)
    drop_late(table, half)
    if not half.eof:
        return
    half.eof = False
    if not half.in_step and half.parser.state != TUNNEL and half.parser.state != DEAD:
        http1_skip(&half.parser)    # what was cut was emitted: its rest belongs to nothing
        half.parser.lost = True
        on_lost(table, flow, half, stream.next, False, -1)


cdef bint resume(Table* table, Flow* flow) noexcept nogil:
    """Reads on where the peers have ignored a FIN or RST; returns whether they have."""
    cdef Half* half
    cdef int d
    cdef bint ignored[2]
    ignored[0] = end_ignored(&flow.half[0])
    ignored[1] = end_ignored(&flow.half[1])
    if not ignored[0] and not ignored[1]:
        return False
    table.counters[<int>Counter.ENDS_IGNORED] += 1
    if flow.mode == MODE_CLOSED:
        stage(flow, NULL)
        list_remove(&table.recent, flow)
        list_append(&table.recent, flow)
        flow.mode = MODE_HTTP
        flow.last = table.now
        table.live += 1
        table.counters[<int>Counter.FLOWS_RESUMED] += 1
    for d in range(2):
        half = &flow.half[d]
        if ignored[d] or (half.stream.end >= 0 and half.end_reason != WHOLE):   # a RST had ended both
            reopen(table, flow, half)
    return True


cdef void on_closed(Table* table, Flow* flow, const Packet* packet, int d, int64_t stamp) noexcept nogil:
    """A packet of a closed flow: it is late, unless it shows that the peers have not closed."""
    cdef Half* half = &flow.half[d]
    cdef Half* other = &flow.half[1 - d]
    cdef Run run
    cdef int64_t size = packet.payload_size
    cdef int64_t early
    cdef uint32_t seq = packet.seq + (1 if packet.flags & TCP_SYN else 0)
    table.counters[<int>Counter.BYTES_PAYLOAD] += <uint64_t>size
    if packet.flags & TCP_RST:
        table.counters[<int>Counter.BYTES_ABANDONED_RST] += <uint64_t>size
        return
    if not half.stream.mapped and half.stream.end >= 0:
        stream_map(&half.stream, seq)
    if not flow.resumable or half.stream.end < 0:
        table.counters[<int>Counter.BYTES_ABANDONED_LATE] += <uint64_t>size
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
        table.counters[<int>Counter.BYTES_ABANDONED_LATE] += <uint64_t>early
        run.data += early
        run.size -= early
        run.offset += early
        run.segment_start = False
    if run.size:
        on_late(table, half, &run)
        flow.closed = table.now         # for as long as there is reason to doubt
        stage(flow, &table.closed)
    if resume(table, flow):
        settle(table, flow)


cdef bint has_left(const Stream* stream, uint32_t number) noexcept nogil:
    """Whether a sequence number is far from where a stream that has ended stands."""
    return stream.mapped and not (-REACH_BACK <= stream_offset(stream, number) - stream.next <= REACH_BACK)


cdef int64_t on_beyond(Table* table, Flow* flow, Half* half, Run* run) noexcept nogil:
    """A segment runs beyond the end of its direction; returns how many of its bytes are to be read now."""
    cdef Stream* stream = &half.stream
    cdef int64_t size = run.size
    cdef int64_t before = max(<int64_t>0, stream.end - run.offset)
    if is_ahead_of_all(half):
        stream.end = -1     # nobody knows of it, and these bytes contradict it
        return size
    if before:
        run.data += before
        run.size -= before
        run.offset += before
        run.segment_start = False
    on_late(table, half, run)
    resume(table, flow)
    return before


cdef bint is_beyond_window(const Stream* stream, int64_t offset, int64_t size) noexcept nogil:
    """Whether `size` bytes at an offset are too far from everything that was seen and acknowledged."""
    return offset > max(stream.top, stream.acked) + WINDOW or offset < 0 or \
        (stream.base == BASE_KNOWN and offset + size < stream.next - WINDOW)


cdef bint is_of_another(const Flow* flow, const Packet* packet, int d) noexcept nogil:
    """Whether the numbers of both sides say that the port is used again, by a connection whose SYN was lost."""
    cdef const Stream* other = &flow.half[1 - d].stream
    return packet.payload_size > 0 and packet.flags & (TCP_ACK | TCP_SYN | TCP_RST) == TCP_ACK and other.mapped and \
        is_beyond_window(other, stream_offset(other, packet.ack), 0)


cdef void on_segment(Table* table, Flow* flow, const Packet* packet, int d, int64_t stamp) noexcept nogil:
    """A segment of a flow that is read (or whose server is not known yet)."""
    cdef Half* half = &flow.half[d]
    cdef Half* other = &flow.half[1 - d]
    cdef Stream* stream = &half.stream
    cdef Run run
    cdef int64_t size = packet.payload_size
    cdef int64_t offset
    cdef int64_t old
    cdef int64_t ack = -1
    cdef Held* front
    cdef uint32_t seq = packet.seq + (1 if packet.flags & TCP_SYN else 0)
    if packet.flags & TCP_RST:
        on_reset(table, flow, packet, d)
        return
    if not stream.mapped:
        stream_map(stream, seq)
    offset = stream_offset(stream, seq)
    if is_beyond_window(stream, offset, size):
        on_beyond_window(table, flow, packet, d, stamp)
        return
    table.counters[<int>Counter.BYTES_PAYLOAD] += <uint64_t>size
    if not half.seen:
        half.seen = True
        if half.absent:                 # it comes late after all: as if first seen mid-stream
            half.absent = False
            stream.base = BASE_NONE
            http1_skip(&half.parser)
    if packet.flags & TCP_ACK:
        if not other.stream.mapped:
            stream_map(&other.stream, packet.ack)
            other.stream.start = ORIGIN     # it is heard of: bytes from here on are missed if they do not come
        ack = stream_offset(&other.stream, packet.ack)
        if ack > other.stream.acked and ack <= other.stream.top + WINDOW:
            stream_acknowledge(&other.stream, ack, max(offset, stream.top))      # a retransmission tells nothing new
        elif ack < 0 or ack > other.stream.top + WINDOW:
            ack = -1
        if other.stream.end >= 0 and ack > other.heard:
            other.heard = ack
            if other.late != NULL:
                resume(table, flow)
        if other.stream.base != BASE_KNOWN and size and other.stream.start - REACH_BACK <= ack < other.stream.start:
            other.stream.start = ack    # what a sender of data had read, it is heard of
    if size or packet.missing:
        if flow.stage == &table.silent:
            stage(flow, NULL)
        run.data = packet.payload
        run.size = size
        run.offset = offset
        run.stamp = stamp
        run.ack = ack
        run.segment_start = True
        run.conflict = False
        if 0 <= stream.end < offset + size:     # beyond its own end
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
        front = stream_front(stream)
        if stream.base == BASE_PROVISIONAL:
            if front != NULL and offset < front.offset - REACH_BACK:
                table.counters[<int>Counter.BYTES_ABANDONED_OUT_OF_WINDOW] += <uint64_t>size
            else:
                stream_hold(stream, &run)
                if packet.missing:
                    table.counters[<int>Counter.SEGMENTS_SNAPPED] += 1
        else:
            if offset < stream.next and size:
                old = min(size, stream.next - offset)
                table.counters[<int>Counter.BYTES_DUPLICATE] += <uint64_t>old
                if old == size:
                    table.counters[<int>Counter.SEGMENTS_RETRANSMITTED] += 1
                run.data += old
                run.size -= old
                run.offset += old
                run.segment_start = False
            if run.size:
                if run.offset == stream.next and (front == NULL or run.offset + run.size <= front.offset) and \
                        flow.mode == MODE_HTTP and readable(flow, half, ack):
                    if stream.top < offset + size:
                        stream.top = offset + size
                    read_run(table, flow, half, &run)
                    if run.size:
                        stream_hold(stream, &run)
                else:
                    if run.offset > stream.next:
                        table.counters[<int>Counter.SEGMENTS_OUT_OF_ORDER] += 1
                    stream_hold(stream, &run)
            if packet.missing:
                table.counters[<int>Counter.SEGMENTS_SNAPPED] += 1
                if not table.snapped:
                    table.snapped = True
                    note(table, flow, EVENT_SNAPPED)
                if stream.next == offset + size and flow.mode == MODE_HTTP and stream.end < 0:
                    skip_gap(table, flow, half, packet.missing)
        if stream.top < offset + size:
            stream.top = offset + size
    if packet.flags & TCP_FIN and (stream.end < 0 or is_ahead_of_all(half)):
        offset += packet.payload_size + packet.missing
        if stream.base != BASE_KNOWN or offset >= stream.next:
            end_at(half, offset, WHOLE)
    settle(table, flow)


cdef void on_successor(Table* table, Flow* flow, const Packet* packet, const Key* key, uint64_t hashed, int d,
                       int64_t stamp) noexcept nogil:
    """The first packet of another connection on a live flow: it waits for its SYN-ACK, or data from both sides."""
    if flow.successor != NULL:
        discard(table, flow.successor)
    flow.successor = new_flow(table, packet, key, hashed, d, stamp)
    if flow.successor != NULL:
        flow.successor.pending = True
        if packet.flags & TCP_SYN:
            on_syn(table, flow.successor, packet, d)


cdef void give_to_successor(Table* table, Flow* flow, const Packet* packet, int d, int64_t stamp) noexcept nogil:
    """What the first packet of another connection, or its SYN-ACK, carries: data as any other."""
    if flow.successor != NULL and flow.successor.mode <= MODE_UNDECIDED and packet.payload_size:
        on_segment(table, flow.successor, packet, d, stamp)
    else:
        table.counters[<int>Counter.BYTES_PAYLOAD] += packet.payload_size
        table.counters[<int>Counter.BYTES_ABANDONED_OUT_OF_WINDOW] += packet.payload_size


cdef void on_beyond_window(Table* table, Flow* flow, const Packet* packet, int d, int64_t stamp) noexcept nogil:
    """A segment too far from all that was seen: a bogus number, or, if both sides' are, another connection."""
    if flow.pending or not is_of_another(flow, packet, d):
        table.counters[<int>Counter.BYTES_PAYLOAD] += packet.payload_size
        table.counters[<int>Counter.BYTES_ABANDONED_OUT_OF_WINDOW] += packet.payload_size
        return
    on_successor(table, flow, packet, &flow.key, flow.hashed, d, stamp)
    give_to_successor(table, flow, packet, d, stamp)
    if flow.successor != NULL and not flow.half[1 - d].seen:
        succeed(table, flow)    # the capture sees one side only


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
    """The successor has proved itself: the old connection is over."""
    cdef Flow* successor = flow.successor
    flow.successor = NULL
    successor.pending = False
    end_flow(table, flow, INCOMPLETE_CLOSED_, <int>Counter.FLOWS_REPLACED)
    make_room(table)
    enter(table, successor)
    settle(table, successor)
    if successor.half[0].stream.count or successor.half[1].stream.count or successor.exchanges.next_number:
        if successor.stage == &table.silent:
            stage(successor, NULL)


# The same two ends in several places (VLANs, interfaces). Most often it is one connection that is captured more than once,
# or each direction of it elsewhere; but networks may use the same addresses. It is another connection where its SYN has
# another number, or the same numbers carry other bytes; the flow that came first keeps the plain key, the other one is
# told by its place.

cdef void remember(Table* table, Half* half, const Run* run) noexcept nogil:
    """Keeps the last bytes of a direction."""
    cdef const uint8_t* data = run.data
    cdef int64_t size = run.size
    cdef int64_t kept
    if half.recent == NULL:
        half.recent = <uint8_t*>pool_take(&table.pool, RECENT_BYTES)
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


cdef bint differs(const Half* half, int64_t offset, const uint8_t* data, int64_t size) noexcept nogil:
    """Whether other bytes were seen at these offsets."""
    cdef int64_t start = max(offset, half.recent_end - half.recent_size)
    cdef int64_t end = min(offset + size, half.recent_end)
    if half.recent != NULL and start < end and memcmp(
            half.recent + (start - (half.recent_end - half.recent_size)), data + (start - offset), <size_t>(end - start)) != 0:
        return True
    return stream_differs(&half.stream, data, size, offset)


cdef bint is_syn_of(const Flow* flow, const Packet* packet, int d) noexcept nogil:
    """Whether a SYN can be that of the flow, as far as its numbers are known."""
    cdef const Stream* stream = &flow.half[d].stream
    cdef int64_t offset
    if stream.syn_seen:
        return stream.syn_seq == <uint32_t>(packet.seq + 1)
    if not stream.mapped:
        return True
    offset = stream_offset(stream, packet.seq + 1)
    return stream.top - REACH_BACK <= offset <= stream.top


cdef bint is_elsewhere(const Flow* flow, const Packet* packet, int d) noexcept nogil:
    """Whether a packet that came by another way than the flow's first is of another connection."""
    cdef const Half* half = &flow.half[d]
    if flow.mode > MODE_UNDECIDED or packet.flags & TCP_RST:
        return False
    if packet.flags & TCP_SYN:
        return not is_syn_of(flow, packet, d) and (flow.successor == NULL or not is_syn_of(flow.successor, packet, d))
    return packet.payload_size > 0 and half.stream.mapped and differs(
        half, stream_offset(&half.stream, packet.seq), packet.payload, packet.payload_size)


cdef Flow* find_place(Table* table, Flow* first, const Packet* packet, Key* key, uint64_t* hashed, int d) noexcept nogil:
    """The flow of a packet in another place than `first` (NULL: there is none); NULL: none yet, with `key` its key."""
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


cdef void on_tcp(Table* table, const Packet* packet, int64_t stamp) noexcept nogil:
    cdef Key key
    cdef int d = memcmp(packet.source, packet.destination, packet.address_size)
    cdef uint64_t hashed
    cdef Flow* flow
    cdef bint syn = packet.flags & TCP_SYN != 0
    cdef bint bare = (packet.payload_size == 0 and packet.missing == 0) or packet.flags & TCP_RST != 0
    if not captured(table, packet.source_port) and not captured(table, packet.destination_port):
        table.counters[<int>Counter.SEGMENTS_OTHER_PORT] += 1
        table.counters[<int>Counter.BYTES_PAYLOAD] += packet.payload_size
        table.counters[<int>Counter.BYTES_ABANDONED_OTHER_PORT] += packet.payload_size
        return
    if d == 0:
        d = <int>packet.source_port - <int>packet.destination_port
    d = 1 if d > 0 else 0
    memset(&key, 0, sizeof(Key))
    if d == 0:
        memcpy(&key.word[0], packet.source, packet.address_size)
        memcpy(&key.word[2], packet.destination, packet.address_size)
        key.word[4] = <uint64_t>packet.source_port << 16 | packet.destination_port
    else:
        memcpy(&key.word[0], packet.destination, packet.address_size)
        memcpy(&key.word[2], packet.source, packet.address_size)
        key.word[4] = <uint64_t>packet.destination_port << 16 | packet.source_port
    key.word[4] |= <uint64_t>packet.address_size << 32
    hashed = keyed_hash(table.secret, &key)
    flow = lookup(table, &key, hashed)
    if packet.place:
        table.places = True
    if (flow == NULL and table.placed > 0) or (flow != NULL and flow.place != packet.place):
        flow = find_place(table, flow, packet, &key, &hashed, d)
    if flow != NULL:
        if flow.mode == MODE_CLOSED:
            if same_connection(flow, packet, d):
                on_closed(table, flow, packet, d, stamp)
                return
            leave(table, flow)
            flow = NULL
        else:
            if flow != table.recent.tail:
                list_remove(&table.recent, flow)
                list_append(&table.recent, flow)
            if flow.mode == MODE_IGNORED and syn and packet.flags & TCP_ACK == 0 and \
                    flow.half[d].stream.syn_seq != <uint32_t>(packet.seq + 1) and \
                    flow.reason != <int>Counter.BYTES_ABANDONED_OWN:
                end_flow(table, flow, INCOMPLETE_CLOSED_, <int>Counter.FLOWS_REPLACED)
                flow = NULL
            elif flow.mode == MODE_IGNORED:
                flow.last = table.now
                on_ignored(table, flow, packet, d)
                return
    if flow == NULL:
        if bare and not syn:
            table.counters[<int>Counter.SEGMENTS_NO_FLOW] += 1
            table.counters[<int>Counter.BYTES_PAYLOAD] += packet.payload_size
            table.counters[<int>Counter.BYTES_ABANDONED_RST] += packet.payload_size     # of nothing else
            return
        make_room(table)
        flow = new_flow(table, packet, &key, hashed, d, stamp)
        if flow == NULL:
            table.counters[<int>Counter.BYTES_PAYLOAD] += packet.payload_size
            table.counters[<int>Counter.BYTES_ABANDONED_EVICTED] += packet.payload_size
            return
        enter(table, flow)
        if flow.mode == MODE_IGNORED:
            flow.half[d].stream.syn_seq = packet.seq + 1
            on_ignored(table, flow, packet, d)
            return
        if syn:
            on_syn(table, flow, packet, d)
        on_segment(table, flow, packet, d, stamp)
        return
    if syn and not on_syn(table, flow, packet, d):
        if table.now - flow.last >= IDLE_ENOUGH or flow.half[d].eof:
            end_flow(table, flow, INCOMPLETE_CLOSED_, <int>Counter.FLOWS_REPLACED)
            on_tcp(table, packet, stamp)
            return
        if flow.successor != NULL and on_syn(table, flow.successor, packet, d):
            give_to_successor(table, flow, packet, d, stamp)
            if packet.flags & TCP_ACK:
                succeed(table, flow)
            return
        on_successor(table, flow, packet, &key, hashed, d, stamp)
        give_to_successor(table, flow, packet, d, stamp)
        flow.last = table.now
        return
    flow.last = table.now
    if flow.successor != NULL and belongs(flow, packet, d):
        on_segment(table, flow.successor, packet, d, stamp)
        if flow.successor.half[0].seen and flow.successor.half[1].seen:
            succeed(table, flow)
        elif flow.successor.half[0].stream.held_memory + flow.successor.half[1].stream.held_memory > HOLD_LIMIT:
            discard(table, flow.successor)
            flow.successor = NULL
        return
    on_segment(table, flow, packet, d, stamp)


# ---- time and memory -------------------------------------------------------------------------------------------------

cdef void expire(Table* table, int64_t until) noexcept nogil:
    """Lets time pass: does all that is due up to `until`, each at its own moment and in order."""
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
        table.now = max(table.now, due)
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
    table.now = until


cdef struct Weighed:
    int64_t weight
    Half* half


cdef int heavier(const void* left, const void* right) noexcept nogil:
    cdef int64_t a = (<const Weighed*>left).weight
    cdef int64_t b = (<const Weighed*>right).weight
    return -1 if a > b else (1 if a < b else 0)


cdef inline int64_t used(const Table* table) noexcept nogil:
    return table.pool.bytes - table.ready_bytes


cdef void relieve_heaviest(Table* table, int64_t goal, bint bodies) noexcept nogil:
    """Gives back out-of-order bytes, or kept bodies, of the halves that hold most, until `goal` is reached."""
    cdef Weighed* weighed
    cdef Flow* flow = table.created.head
    cdef size_t count = 0
    cdef size_t i
    cdef int d
    cdef int64_t weight
    cdef Half* half
    weighed = <Weighed*>calloc(2 * table.total + 1, sizeof(Weighed))
    if weighed == NULL:
        return
    while flow != NULL:
        if flow.mode == MODE_HTTP or (flow.mode == MODE_UNDECIDED and not bodies):
            for d in range(2):
                half = &flow.half[d]
                if bodies:
                    weight = <int64_t>half.parser.message.body_space if half.parser.message != NULL else 0
                else:
                    weight = half.stream.held_memory
                if weight:
                    weighed[count].weight = weight
                    weighed[count].half = half
                    count += 1
        flow = flow.links[CREATED].next
    qsort(weighed, count, sizeof(Weighed), &heavier)
    for i in range(count):
        if used(table) <= goal:
            break
        half = weighed[i].half
        flow = half.flow
        if bodies:
            if http1_drop_body(&half.parser):
                table.counters[<int>Counter.BODIES_EVICTED] += 1
        elif half.stream.count:
            table.counters[<int>Counter.HOLDS_EVICTED] += 1
            if flow.mode == MODE_UNDECIDED:
                table.counters[<int>Counter.FLOWS_UNDECIDED] += 1
                ignore(table, flow, <int>Counter.BYTES_ABANDONED_UNDECIDED)
            else:
                relieve_half(table, flow, half, 0)
    free(weighed)


cdef void relieve(Table* table) noexcept nogil:
    """The memory limit is passed: evicts in the documented order, to an eighth below it, so that it is done rarely."""
    cdef int64_t goal = table.memory_limit - table.memory_limit // 8
    cdef Flow* flow
    while used(table) > goal and table.closed.head != NULL:
        leave(table, table.closed.head)
    flow = table.created.head
    while used(table) > goal and table.late and flow != NULL:
        drop_late(table, &flow.half[0])
        drop_late(table, &flow.half[1])
        flow = flow.links[CREATED].next
    while used(table) > goal and table.silent.head != NULL:
        end_flow(table, table.silent.head, INCOMPLETE_EVICTED_, <int>Counter.FLOWS_EVICTED_SILENT)
    if used(table) > goal:
        relieve_heaviest(table, goal, False)
    if used(table) > goal:
        relieve_heaviest(table, goal, True)
    while used(table) > goal and table.recent.head != NULL:
        end_flow(table, table.recent.head, INCOMPLETE_EVICTED_, <int>Counter.FLOWS_EVICTED_MEMORY)


cdef inline void pass_time(Table* table, int64_t now) noexcept nogil:
    """Lets time pass up to `now`, which may be earlier than what it is already."""
    if now >= table.due:
        expire(table, max(now, table.now))
    elif now > table.now:
        table.now = now


cdef inline int64_t live_time(Table* table, int64_t stamp) noexcept nogil:
    """Core time at a live packet's stamp.

    It is the stamp and a constant, so that neither the time that tick() let pass nor a stamp behind the others counts
    twice. The constant changes where the clock of the stamps was set: forward, beyond what has really passed, or back.
    """
    cdef int64_t now = stamp + table.skew
    if now > table.clock_limit:
        table.skew -= now - table.clock_limit
        return table.clock_limit
    if now < table.now - CLOCK_SLACK:
        table.skew += table.now - now
        return table.now
    return now


cdef void read_ahead(Table* table, bint believed) noexcept nogil:
    """Reads the packet that waited for the stamp of the next: at its own time if that `believed` it, else now."""
    cdef Ahead* ahead = table.ahead
    table.ahead = NULL
    if believed:
        pass_time(table, ahead.stamp)
    else:
        table.counters[<int>Counter.STAMPS_AHEAD] += 1
    read_packet(table, <const uint8_t*>ahead + sizeof(Ahead), ahead.size, ahead.stamp)
    pool_give(&table.pool, ahead, sizeof(Ahead) + ahead.size)


cdef bint is_ahead(Table* table, const uint8_t* data, uint32_t size, int64_t stamp) noexcept nogil:
    """Whether a file's packet must wait for the next one, since its stamp would let every flow expire.

    One wrong stamp is not believed: only the next packet, within the idle timeout of it, shows that time has passed.
    """
    cdef Ahead* ahead = table.ahead
    if ahead != NULL:
        read_ahead(table, -table.idle_timeout <= stamp - ahead.stamp <= table.idle_timeout)
    if table.now == 0 or stamp - table.now <= table.idle_timeout:
        return False
    ahead = <Ahead*>pool_take(&table.pool, sizeof(Ahead) + size)
    if ahead == NULL:
        return False
    ahead.stamp = stamp
    ahead.size = size
    memcpy(<uint8_t*>ahead + sizeof(Ahead), data, size)
    table.ahead = ahead
    return True


cdef inline void on_packet(Table* table, const uint8_t* data, uint32_t size, int64_t stamp) noexcept nogil:
    table.counters[<int>Counter.PACKETS_SEEN] += 1
    if table.clock >= 0:
        pass_time(table, live_time(table, stamp))
    elif (stamp - table.now > table.idle_timeout or table.ahead != NULL) and is_ahead(table, data, size, stamp):
        return
    else:
        pass_time(table, stamp)
    read_packet(table, data, size, stamp)


cdef void read_packet(Table* table, const uint8_t* data, uint32_t size, int64_t stamp) noexcept nogil:
    cdef Packet packet
    cdef Verdict verdict
    verdict = wire_parse(table.linktype, data, size, &packet)
    if verdict == WIRE_FRAGMENT:
        verdict = fragments_add(&table.fragments, &packet, table.now)
        table.counters[<int>Counter.DATAGRAMS_GIVEN_UP] = table.fragments.given_up
        if verdict == WIRE_MALFORMED:
            table.counters[<int>Counter.PACKETS_FRAGMENT_DROPPED] += 1
            return
    if verdict == WIRE_TCP:
        table.counters[<int>Counter.PACKETS_PARSED] += 1
        on_tcp(table, &packet, stamp)
        if used(table) > table.memory_limit:
            if table.ready != NULL or table.dead != NULL:
                table.pressed = True    # so that how much waits, which is the batch's doing, decides nothing
            else:
                relieve(table)
    elif verdict == WIRE_FRAGMENT:
        table.counters[<int>Counter.PACKETS_FRAGMENT] += 1
    elif verdict == WIRE_NOT_IP:
        table.counters[<int>Counter.PACKETS_NOT_IP] += 1
    elif verdict == WIRE_NOT_TCP:
        table.counters[<int>Counter.PACKETS_NOT_TCP] += 1
    elif verdict == WIRE_TUNNEL:
        table.counters[<int>Counter.PACKETS_TUNNEL_VXLAN + packet.tunnel] += 1
    elif verdict == WIRE_CUT:
        table.counters[<int>Counter.PACKETS_CUT] += 1
    else:
        table.counters[<int>Counter.PACKETS_MALFORMED] += 1


cdef Py_ssize_t on_batch(Table* table, const uint8_t* packets, uint64_t size, const uint32_t* index, Py_ssize_t count,
                         Py_ssize_t at) noexcept nogil:
    """Feeds packets `at` .. `count`; returns the number of the next."""
    cdef const uint32_t* entry
    while at < count and table.ready_count < READY_COUNT and table.ready_bytes < READY_BYTES and not table.pressed:
        entry = index + 4 * at
        at += 1
        if <uint64_t>entry[2] + entry[3] > size:
            table.counters[<int>Counter.PACKETS_SEEN] += 1
            table.counters[<int>Counter.PACKETS_MALFORMED] += 1
            continue
        if entry[1] == STAMP_REFUSED:
            table.counters[<int>Counter.PACKETS_SEEN] += 1
            table.counters[<int>Counter.PACKETS_STAMP_REFUSED] += 1
            continue
        on_packet(table, packets + entry[2], entry[3], <int64_t>entry[0] * 1_000_000 + entry[1])
    return at


# ---- the Python face -------------------------------------------------------------------------------------------------

cdef int64_t blocks_leaked = 0      # that tables still had when they were freed: an error of ours


@cython.final
cdef class FlowTable:
    """Every flow of one capture. Belongs to one thread; not locked. Never raises on traffic. See flow.pyi."""

    cdef Table* table
    cdef tuple carried      # keeps table.carry's names alive
    cdef Rules rules

    def __cinit__(self, *, int linktype, ports, max_body=65536, max_head=65536, max_flows=10_000,
                  idle_timeout_us=300_000_000, memory_limit=67_108_864, sample_rate=1.0, tuple carry=(),
                  redact_headers=(), redact_query=(), bytes redact_key=None, placement=None, decode=None):
        cdef Table* table
        cdef int port
        cdef bytes secret = os.urandom(16)
        if not wire_link_known(linktype):
            raise ValueError(f"unknown link type {linktype}")
        if len(carry) > CARRY_MAX:
            raise ValueError(f"carry takes at most {CARRY_MAX} names")
        self.carried = tuple([name.encode("ascii") for name in carry])
        self.rules = Rules(redact_headers=redact_headers, redact_query=redact_query, redact_key=redact_key,
                           placement=placement,
                           decode=decode, max_body=max_body, carry_count=len(carry))
        table = <Table*>calloc(1, sizeof(Table))
        if table == NULL:
            raise MemoryError
        self.table = table
        table.linktype = linktype
        table.limits.body = max_body
        table.limits.head = max_head
        table.max_flows = max_flows
        table.idle_timeout = idle_timeout_us
        table.memory_limit = memory_limit
        table.sample_rate = sample_rate
        for port in ports:
            if not 0 < port < 65536:
                raise ValueError(f"port {port} is not in 1-65535")
            table.ports[port >> 3] |= <uint8_t>(1 << (port & 7))
        table.carry.no_host = kind_of(&self.rules.headers, b"host", 4) == SECRET
        table.carry.count = <uint32_t>len(carry)
        for i, name in enumerate(self.carried):
            table.carry.name[<int>i] = <const uint8_t*><char*><bytes>name
            table.carry.size[<int>i] = <uint32_t>len(name)
        memcpy(table.secret, <char*>secret, 16)
        table.mask = 1023
        table.buckets = <Flow**>calloc(table.mask + 1, sizeof(Flow*))
        if table.buckets == NULL:
            raise MemoryError
        table.created.which = CREATED
        table.recent.which = RECENT
        table.silent.which = STAGE
        table.closed.which = STAGE
        table.clock = -1
        table.due = 1 << 62
        fragments_init(&table.fragments, &table.pool)

    def __dealloc__(self):
        if self.table == NULL:
            return
        if self.table.buckets != NULL:
            self._end_all()
            self._take()
            free(self.table.buckets)
        global blocks_leaked
        blocks_leaked += self.table.pool.blocks
        free(self.table)

    cdef list _take(self):
        """Builds the ended messages, and frees what waited for the GIL."""
        cdef Table* table = self.table
        cdef Message* message = table.ready
        cdef Message* following
        cdef Conn* conn
        cdef list messages = []
        table.ready = NULL
        table.ready_tail = NULL
        table.ready_count = 0
        table.ready_bytes = 0
        while message != NULL:
            following = message.next
            messages.append(build_message(message, &table.pool, self.rules))
            message = following
        while table.dead != NULL:
            conn = table.dead
            table.dead = conn.next_dead
            forget_conn(conn)
        return messages

    cdef void _end_all(self):
        if self.table.ahead != NULL:
            read_ahead(self.table, False)
        while self.table.created.head != NULL:
            if self.table.created.head.mode == MODE_CLOSED:
                leave(self.table, self.table.created.head)
            else:
                end_flow(self.table, self.table.created.head, INCOMPLETE_STOPPED_, <int>Counter.FLOWS_STOPPED)
        fragments_free(&self.table.fragments)

    def feed(self, bytes packets, bytes index, Py_ssize_t first=0, clock_us=None):
        """See flow.pyi."""
        cdef Table* table = self.table
        cdef const uint8_t* data = <const uint8_t*><char*>packets
        cdef const uint32_t* entries = <const uint32_t*><char*>index
        cdef Py_ssize_t count = len(index) // 16
        cdef uint64_t size = <uint64_t>len(packets)
        cdef list messages
        if first < 0:
            raise ValueError("first is negative")
        if clock_us is not None:
            if table.clock < 0 and first < count:
                table.now = <int64_t>entries[4 * first] * 1_000_000 + entries[4 * first + 1]
            self._clock(clock_us)
        with nogil:
            first = on_batch(table, data, size, entries, count, first)
        messages = self._take()
        if table.pressed:
            table.pressed = False
            if used(table) > table.memory_limit:
                with nogil:
                    relieve(table)
                messages += self._take()
        return messages, first

    cdef int64_t _clock(self, int64_t clock):
        """Lets core time pass by at most what has really passed since the first packet, and a second; returns what has
        since the last call."""
        cdef Table* table = self.table
        cdef int64_t elapsed
        if table.clock < 0:
            table.clock = clock
            table.clock_limit = table.now + CLOCK_SLACK
            return 0
        elapsed = max(0, clock - table.clock)
        table.clock += elapsed
        table.clock_limit += elapsed
        return elapsed

    def tick(self, int64_t clock_us):
        """See flow.pyi."""
        cdef Table* table = self.table
        cdef int64_t now
        if table.clock < 0:
            return []       # no packet yet: no time either
        now = table.now + self._clock(clock_us)
        with nogil:
            expire(table, now)
        return self._take()

    def flush(self):
        """See flow.pyi."""
        self._end_all()
        return self._take()

    def exclude(self, str address, int port):
        """See flow.pyi."""
        cdef bytes packed = inet_pton(AF_INET6 if ":" in address else AF_INET, address)
        cdef Own* own
        if self.table.own_count == OWN_MAX:     # the oldest makes room
            self.table.own_count -= 1
            memmove(self.table.own, self.table.own + 1, self.table.own_count * sizeof(Own))
        own = &self.table.own[self.table.own_count]
        own.size = <uint8_t>len(packed)
        memcpy(own.address, <char*>packed, len(packed))
        own.port = <uint16_t>port
        self.table.own_count += 1

    def readmit(self, str address, int port):
        """See flow.pyi."""
        cdef bytes packed = inet_pton(AF_INET6 if ":" in address else AF_INET, address)
        cdef uint32_t i
        cdef Own* own
        for i in range(self.table.own_count):
            own = &self.table.own[i]
            if own.size == len(packed) and own.port == port and memcmp(own.address, <char*>packed, own.size) == 0:
                self.table.own_count -= 1
                own[0] = self.table.own[self.table.own_count]
                return

    def counters(self):
        """See flow.pyi."""
        return {name: self.table.counters[i] for i, name in enumerate(COUNTERS)}

    def gauges(self):
        """See flow.pyi."""
        return {
            "flows": self.table.live,
            "held_bytes": self.table.pool.held,
            "memory_bytes": self.table.pool.bytes,
            "memory_blocks": self.table.pool.blocks,
            "messages_open": self.table.messages_open,
            "messages_long": self.table.messages_long,
            "packets_waiting": 1 if self.table.ahead != NULL else 0,
        }

    def events(self):
        """See flow.pyi."""
        cdef list events = []
        cdef uint32_t i
        cdef Noted* noted
        for i in range(self.table.noted_count):
            noted = &self.table.noted[i]
            events.append((
                EVENT_NAMES[noted.kind],
                name_end(noted.server, noted.address_size, noted.server_port),
                name_end(noted.client, noted.address_size, noted.client_port)))
        self.table.noted_count = 0
        return events


def _leaked():
    """See flow.pyi."""
    return blocks_leaked


def _starve(FlowTable table, int64_t number):
    """See flow.pyi."""
    cdef int64_t before = table.table.pool.spare
    table.table.pool.spare = number
    return before


def _hash(FlowTable table, bytes key, bytes secret=None):
    """See flow.pyi."""
    cdef Key copied
    cdef uint64_t[2] chosen
    assert len(key) == sizeof(Key)
    memcpy(&copied, <char*>key, sizeof(Key))
    if secret is None:
        return keyed_hash(table.table.secret, &copied)
    assert len(secret) == sizeof(chosen)
    memcpy(chosen, <char*>secret, sizeof(chosen))
    return keyed_hash(chosen, &copied)
