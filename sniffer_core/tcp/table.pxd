# Every connection of a capture: how it is found, the lists and timers that it stands in, how it comes and goes.
#
# A flow is one TCP connection: two halves (a stream each) and the session that reads both, once there is payload to
# read.
#
# Lists. Every flow stands in `created` (order of creation: flush and eviction never follow the order of the hash), in
# `recent` (by last packet: idle expiry and eviction), and in one of `silent` (no payload yet: first to go), `closed`
# (tombstones, by closing time) or neither. A half may stand in one of two timer lists. All timers of a list have the
# same delay, so the list is sorted without any work.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

from sniffer_core.connection cimport Conn
from sniffer_core.net.fragment cimport Fragments
from sniffer_core.protocol cimport CLIENT, SERVER, Context, Detector, Session, Side
from sniffer_core.tcp.stream cimport Stream

cdef enum:
    TOMBSTONE = 2_000_000       # µs that a closed flow keeps its place, for what comes late
    RECENT_BYTES = 1024         # of each direction, to be compared with what comes by another way
    OWN_MAX = 256

cdef enum Mode:
    MODE_READ = 0
    MODE_UNDECIDED = 1          # both ports are captured and no SYN was seen: nobody knows who the server is
    MODE_IGNORED = 2            # costs a lookup; flow.reason says why
    MODE_CLOSED = 3             # a tombstone

cdef struct Key:
    uint64_t word[5]            # low address (2), high address (2), ports and family

cdef struct Half:
    Flow* flow
    Half* timer_next
    Half* timer_previous
    Timers* timers              # the list it stands in, or NULL
    int64_t due
    int64_t hole                # the offset of the hole that the timer is for
    int64_t heard               # the other side's highest ACK since this side's end
    Stream* late                # the bytes beyond its end, at the same offsets: the peers may ignore that end; or NULL
    uint8_t* recent             # its last bytes, a block of RECENT_BYTES, where they may come by several ways; or NULL
    int64_t recent_end          # their offset
    uint32_t recent_size
    uint8_t direction           # 0: from the low end to the high one
    uint8_t end_reason          # Incomplete: WHOLE for FIN, INCOMPLETE_CLOSED_ for RST
    Stream stream

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
    Session* session            # reads it; NULL before the first payload is read
    Flow* successor             # a SYN on the same ports that no SYN-ACK has confirmed yet; not in the table
    uint64_t place              # of its first packet
    int64_t last                # core time of the last packet
    int64_t closed              # core time, MODE_CLOSED
    uint32_t preamble           # bytes of what stands before the protocol that are still to come
    uint16_t reason             # Counter of abandoned bytes, MODE_IGNORED
    uint8_t mode                # Mode
    uint8_t server              # direction of the server: 0 is low to high; valid in MODE_READ
    uint8_t fins                # bit d: direction d ended (MODE_IGNORED)
    uint8_t handshake           # made by a SYN or SYN-ACK
    uint8_t begun               # the client's first byte was read, or given up: no preamble comes any more
    uint8_t pending             # a successor: nothing of it is read yet
    uint8_t resumable           # a tombstone of a flow that was read
    uint8_t shared              # another flow has the same ends, in another place
    Half half[2]

cdef struct Own:
    uint8_t size
    uint8_t address[16]
    uint16_t port

cdef struct Ahead:              # a packet; its bytes follow the struct in the same block
    int64_t stamp
    uint32_t size

cdef struct Table:
    Context context
    const Detector* detector
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
    int64_t skew                # live: from stamps to core time; changes only when the clock of the stamps jumps
    int64_t clock               # monotonic at the last batch; -1 for a file
    int64_t clock_limit         # core time may not pass this: the monotonic clock since the first packet, and the slack
    Ahead* ahead                # a file's packet that waits for the stamp of the next, or NULL
    int64_t due                 # nothing expires before this core time
    Conn* dead                  # connections whose Python objects wait for the GIL
    uint32_t late               # halves that hold bytes beyond their end
    uint32_t placed             # flows in the table whose ends another one had first, in another place
    bint places                 # a packet in a VLAN or of a named interface was seen
    bint pressed                # the limit is passed: what waits for the GIL is freed first, then it is looked at again
    bint snapped                # told once
    uint32_t own_count
    Own own[OWN_MAX]
    double sample_rate


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


cdef inline bint is_placed(const Key* key) noexcept nogil:
    """Whether the key is one of place_key()."""
    return key.word[4] >> 40 != 0


cdef inline void place_key(Key* key, uint64_t place) noexcept nogil:
    """Makes the key one of a flow in this place, beside the one that had its ends first."""
    key.word[4] |= ((place ^ place >> 20 ^ place >> 40) & 0xFFFFF | 0x800000) << 40


cdef inline bint captured(const Table* table, uint16_t port) noexcept nogil:
    return table.ports[port >> 3] >> (port & 7) & 1


cdef inline Flow* lookup(const Table* table, const Key* key, uint64_t hashed) noexcept nogil:
    cdef Flow* flow = table.buckets[hashed & table.mask]
    while flow != NULL and not (flow.hashed == hashed and memcmp(&flow.key, key, sizeof(Key)) == 0):
        flow = flow.chained
    return flow


cdef inline Side side_of(const Flow* flow, const Half* half) noexcept nogil:
    return SERVER if half.direction == flow.server else CLIENT


cdef inline int64_t used(const Table* table) noexcept nogil:
    """Bytes that count towards the memory limit: without the messages that the present call returns."""
    return table.context.pool.bytes - table.context.ready_bytes


cdef void timer_stop(Half* half) noexcept nogil
cdef void timer_start(Table* table, Half* half, Timers* timers, int64_t due) noexcept nogil
cdef uint64_t keyed_hash(const uint64_t* secret, const Key* key) noexcept nogil
    # SipHash-1-3 of the 40 bytes of a key: nobody who lacks the secret can choose flows that collide.
cdef void enter(Table* table, Flow* flow) noexcept nogil
    # Puts a flow into the table and its lists.
cdef void leave(Table* table, Flow* flow) noexcept nogil
    # Takes a flow out of the table and frees it; close_flow() came first.
cdef void discard(Table* table, Flow* flow) noexcept nogil
    # Frees a successor that never came to be.
cdef void drop_late(Table* table, Half* half) noexcept nogil
    # Gives up the bytes beyond the end of a direction.
cdef void close_session(Flow* flow) noexcept nogil
    # Frees the flow's session, if it has one.
cdef void ignore(Table* table, Flow* flow, int reason) noexcept nogil
    # From now on the flow costs a lookup; its bytes are counted under `reason`.
cdef void close_flow(Table* table, Flow* flow, int why) noexcept nogil
    # Ends a flow, counted under `why`. It stays as a tombstone until leave(), and with it its session.
