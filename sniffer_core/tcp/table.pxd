# The table of a capture's connections: its hash table, lists and timers, and how flows are entered and removed.
#
# A flow is one TCP connection: two halves (one stream each), and the session that reads both once there is payload.
#
# Lists: every flow is in `created` (by creation, so that flush and eviction do not depend on the hash) and in `recent`
# (by last packet, for idle expiry and eviction). It may also be in `silent` (no payload yet, evicted first) or in
# `closed` (tombstones, by closing time). A half may be in one of two timer lists. All timers of a list have the same
# delay, so appending keeps it sorted.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

from sniffer_core.connection cimport Conn
from sniffer_core.net.fragment cimport Fragments
from sniffer_core.protocol cimport CLIENT, SERVER, Context, Detector, Session, Side
from sniffer_core.tcp.stream cimport Stream

cdef enum:
    TOMBSTONE = 2_000_000       # µs that a closed flow stays in the table, for late packets
    RECENT_BYTES = 1024         # last bytes kept of a direction, to compare with packets from another place
    OWN_MAX = 256               # sockets that FlowTable.exclude() keeps

cdef enum Mode:
    MODE_READ = 0
    MODE_UNDECIDED = 1          # both ports are captured and no SYN was seen, so the server is not known
    MODE_IGNORED = 2            # its packets are looked up and counted under flow.reason, not read
    MODE_CLOSED = 3             # a tombstone

cdef struct Key:
    uint64_t word[5]            # low address (2), high address (2), ports with address size and place

cdef struct Half:               # one direction of a flow
    Flow* flow
    Half* timer_next
    Half* timer_previous
    Timers* timers              # the list of its timer; NULL: no timer runs
    int64_t due                 # core time, µs
    int64_t hole                # stream.next when the timer was started for a hole or a wait
    int64_t heard               # the other side's highest ACK since this side's end; -1 none
    Stream* late                # bytes beyond its end, at the offsets of `stream`, as the peers may ignore it; or NULL
    uint8_t* recent             # a block of RECENT_BYTES with its last bytes, kept once the table has places; or NULL
    int64_t recent_end          # offset behind the last of them
    uint32_t recent_size
    uint8_t direction           # 0: from the low end to the high end, 1: the other way
    uint8_t end_reason          # Incomplete: WHOLE for FIN, INCOMPLETE_CLOSED_ for RST
    Stream stream

cdef struct Timers:             # a list sorted by `due`
    Half* head
    Half* tail

cdef struct Links:
    Flow* next
    Flow* previous

cdef struct Flows:              # a list of flows
    Flow* head
    Flow* tail
    int which                   # index of its links in flow.links

cdef enum:
    CREATED = 0
    RECENT = 1
    STAGE = 2                   # silent or closed
    LISTS = 3

cdef struct Flow:
    Key key
    uint64_t hashed             # keyed_hash() of the key
    Flow* chained               # the next flow in its bucket
    Links links[LISTS]
    Flows* stage                # the list of links[STAGE]: `silent`, `closed` or NULL
    Conn* conn
    Session* session            # NULL before the first payload is read
    Flow* successor             # a newer connection on the same ends that is not confirmed yet; not in the table
    uint64_t place              # Packet.place of its first packet
    int64_t last                # core time of the last packet
    int64_t closed              # MODE_CLOSED: core time when it was closed, or of the last bytes held beyond its end
    uint32_t preamble           # bytes of the client's PROXY protocol header that are still to come
    uint16_t reason             # MODE_IGNORED: Counter of its bytes
    uint8_t mode                # Mode
    uint8_t server              # MODE_READ: direction in which the server sends
    uint8_t fins                # MODE_IGNORED: bit d is set if direction d has ended
    uint8_t handshake           # True: its first packet was a SYN or SYN-ACK
    uint8_t begun               # True: the client's first byte was read or given up, so no preamble can follow
    uint8_t pending             # True: it is a successor, so nothing of it is read yet
    uint8_t resumable           # MODE_CLOSED: True if the flow was in MODE_READ
    uint8_t shared              # True: another flow has the same ends, in another place
    Half half[2]                # by direction

cdef struct Own:                # a socket of our own deliveries, see FlowTable.exclude()
    uint8_t size                # 4 or 16
    uint8_t address[16]
    uint16_t port

cdef struct Ahead:              # a stored packet; its bytes follow the struct in the same block
    int64_t stamp
    uint32_t size

cdef struct Table:
    Context context
    const Detector* detector
    int linktype
    uint8_t ports[8192]         # a bit for each captured port
    uint64_t secret[2]          # of keyed_hash()
    Flow** buckets
    uint64_t mask               # number of buckets, a power of 2, minus 1
    uint32_t live               # flows in the table that are not closed
    uint32_t total              # flows in the table, tombstones included
    uint32_t max_flows
    int64_t idle_timeout        # µs
    int64_t memory_limit        # bytes
    Flows created
    Flows recent
    Flows silent
    Flows closed
    Timers soon                 # a delay of flow.GRACE
    Timers later                # a delay of flow.GRACE_ONE_SIDED
    Fragments fragments
    int64_t skew                # live: µs to add to a stamp; changes only when the clock of the stamps was set
    int64_t clock               # live: the monotonic clock at the last batch or tick, µs; -1: a file, or no batch yet
    int64_t clock_limit         # live: core time may not pass this, see FlowTable._clock()
    Ahead* ahead                # a file's packet that waits for the stamp of the next, or NULL
    int64_t due                 # nothing expires before this core time
    Conn* dead                  # connections without references, whose Python objects need the GIL to be freed
    uint32_t late               # number of halves with a `late` stream
    uint32_t placed             # flows in the table whose key is one of place_key()
    bint places                 # True: a packet with a place (a VLAN or a named interface) was seen
    bint pressed                # True: relieve() must wait until ended messages and `dead` were freed with the GIL
    bint snapped                # True: NOTICE_SNAPPED was noted
    uint32_t own_count
    Own own[OWN_MAX]
    double sample_rate          # share of the connections that is read, 0 to 1


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
    """Moves a flow to the silent or closed list; NULL: takes it out of both."""
    if flow.stage != NULL:
        list_remove(flow.stage, flow)
    flow.stage = flows
    if flows != NULL:
        list_append(flows, flow)


cdef inline bint is_placed(const Key* key) noexcept nogil:
    """Whether place_key() has made this key."""
    return key.word[4] >> 40 != 0


cdef inline void place_key(Key* key, uint64_t place) noexcept nogil:
    """Makes the key that of a flow in this place; the first flow with these ends has the key without a place."""
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
    """Bytes that count towards the memory limit: all but the messages that the current call returns."""
    return table.context.pool.bytes - table.context.ready_bytes


cdef void timer_stop(Half* half) noexcept nogil
cdef void timer_start(Table* table, Half* half, Timers* timers, int64_t due) noexcept nogil
cdef uint64_t keyed_hash(const uint64_t* secret, const Key* key) noexcept nogil
    # SipHash-1-3 of the 40 bytes of a key, so that nobody without the secret can choose flows that collide.
cdef void enter(Table* table, Flow* flow) noexcept nogil
    # Adds a flow to the table and its lists.
cdef void leave(Table* table, Flow* flow) noexcept nogil
    # Removes a flow from the table and frees it. close_flow() must come first.
cdef void discard(Table* table, Flow* flow) noexcept nogil
    # Frees a successor that was not confirmed.
cdef void drop_late(Table* table, Half* half) noexcept nogil
    # Frees the bytes beyond the end of a direction, counted as late.
cdef void close_session(Flow* flow) noexcept nogil
    # Frees the flow's session, if it has one.
cdef void ignore(Table* table, Flow* flow, int reason) noexcept nogil
    # Stops reading a flow, and frees its session and what it holds. `reason`: the Counter of its bytes from now on.
cdef void close_flow(Table* table, Flow* flow, int why) noexcept nogil
    # Turns a flow into a tombstone, which keeps its session until leave(). `why`: the Counter of flows to add to.
