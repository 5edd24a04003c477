# The interface between TCP and the protocols that it carries: all that either knows of the other.
#
# tcp/flow reads a connection's two streams in order and feeds them to one Session for both sides: data, gaps, ends. Who
# opens which session is the Detector's business (protocols/detect). A session calls nothing of tcp/. What it finishes
# it appends to `context.ready`; what it wants of the flow stands in its own fields, which the flow looks at:
#
#   stream[side].waits      this side's next bytes are not read yet: set and cleared by the session, from either side's
#                           call, since it is the other side's bytes that tell (an Upgrade, a body that was refused).
#                           With stream[side].hurried it waits no longer than the grace of a hole
#   heir                    that session reads on, on both sides (CONNECT, 101, TLS within a tunnel)
#   reason                  the flow is given up once all that can be read was read: from then on it costs a lookup, and
#                           its bytes are counted under this Counter
#
# They are fields rather than values that data() returns, because each may change for the side that is not being read.
#
# A session sees its connection through two Streams: how far each was read, acknowledged and seen, whether it has ended,
# and the bytes that wait. A layer that decodes another (TLS) gives its inner session Streams of its own plain bytes,
# and runs whose `ack` counts in those.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from sniffer_core.base.counters cimport Counter
from sniffer_core.base.memory cimport Pool, pool_give, pool_take
from sniffer_core.connection cimport Conn
from sniffer_core.base.marks cimport Incomplete
from sniffer_core.message cimport CARRY_MAX, Limits, Message
from sniffer_core.tcp.stream cimport BASE_KNOWN, BASE_NONE, BASE_PROVISIONAL, Run, Stream

cdef enum Side:             # who sends
    CLIENT = 0
    SERVER = 1

cdef enum Notice:           # worth a line in the log; the order of NOTICES in core.pyx
    NOTICE_TLS = 0
    NOTICE_HTTP2 = 1
    NOTICE_OTHER = 2        # a protocol without a name
    NOTICE_UNDECIDED = 3    # nobody can say who the server is
    NOTICE_TUNNEL = 4
    NOTICE_SNAPPED = 5      # the capture cuts its packets short
    NOTICE_LONG = 6         # a message has been open for long

cdef enum:
    NOTICES_MAX = 256       # kept between two calls of FlowTable.events()

cdef struct Noted:
    int kind                # Notice
    uint8_t address_size
    uint8_t server[16]
    uint8_t client[16]
    uint16_t server_port
    uint16_t client_port

cdef struct Carry:          # request fields whose values a response carries too
    bint no_host            # the Host field must not be shown, so that it gives no authority
    uint32_t count
    uint32_t size[CARRY_MAX]
    const uint8_t* name[CARRY_MAX]

cdef struct Context:        # what the table shares with its sessions
    Pool pool               # every allocation of theirs
    int64_t now             # core time, µs
    Message* ready          # ended messages, which the present call of FlowTable returns
    Message* ready_tail
    int64_t ready_bytes
    uint32_t ready_count
    uint32_t messages_open
    uint32_t messages_long
    uint32_t noted_count
    Limits limits
    Carry carry
    uint64_t counters[<int>Counter.COUNTERS_END]
    Noted noted[NOTICES_MAX]

cdef struct Protocol        # below

cdef struct Session:        # the first member of every protocol's own struct
    const Protocol* protocol
    Context* context
    Conn* conn
    Stream* stream[2]       # by Side; read only, but for `waits`, `hurried` and `next`
    Session* heir
    uint16_t reason         # Counter; 0: read on

cdef enum Recognised:
    RECOGNISED_NOT = -1
    RECOGNISED_MORE = 0     # too few bytes to say
    RECOGNISED_CLIENT = 1   # this is what the protocol's client says first
    RECOGNISED_SERVER = 2

cdef struct Protocol:       # one static instance for each protocol. What may be NULL is marked so
    const char* name
    bint ordered            # the server's bytes wait until the client's were read as far as they acknowledge them

    Recognised (*recognise)(const uint8_t* data, int64_t size) noexcept nogil
    # What the first bytes of a direction are.

    Session* (*open)(const Session* blank) noexcept nogil
    # A new session, which begins as a copy of `blank`. NULL without memory.

    void (*data)(Session* session, Side side, Run* run) noexcept nogil
    # Bytes in order. The session moves the run on (data, size, offset) as it consumes it; what it leaves is handed over
    # again, maybe with a different cut, once `waits` is 0 and the other side was read as far as `run.ack`.

    void (*gap)(Session* session, Side side, int64_t start, int64_t size) noexcept nogil
    # `size` bytes at offset `start` are missing for good. 0: nobody knows how many; the side is joined in mid-stream.

    void (*end)(Session* session, Side side, Incomplete reason) noexcept nogil
    # The side has ended: WHOLE by FIN, else for this reason.

    void (*resume)(Session* session, Side side) noexcept nogil
    # The peers ignore the end of this side: it is read on. May be NULL.

    bint (*resolve)(Session* session, Side side, bint last) noexcept nogil
    # The side waits: whether it need not any more, as more was read or held since. `last`: nothing more will tell, so
    # that it must not wait any longer. May be NULL where a session never waits.

    bint (*overtakes)(const Session* session, Side side) noexcept nogil
    # The other side waits: whether this one is read on even beyond what its bytes acknowledge. May be NULL.

    int64_t (*weight)(const Session* session, Side side) noexcept nogil
    # Bytes that relieve() can give back. May be NULL, with relieve().

    void (*relieve)(Session* session, Side side) noexcept nogil
    # The memory limit is passed: gives those bytes back.

    void (*closed)(Session* session) noexcept nogil
    # The connection has ended: frees what is open. The session is kept for a while, as an end may be ignored; see
    # resume(). May be NULL.

    void (*close)(Session* session) noexcept nogil
    # Frees the session.

cdef struct Detector:       # how a table finds out what a connection carries; protocols/detect has the one
    int (*speaker)(const Stream* stream) noexcept nogil
    # Which Side sends what waits at the front of a stream, as its first bytes tell; -1: they do not.

    int64_t (*preamble)(Context* context, Conn* conn, const Stream* stream, const Run* run) noexcept nogil
    # Size of what stands before the protocol at the front of the client's stream, or of `run` (NULL: nothing is there
    # but what is held): 0 there is nothing, -1 too few bytes to say what begins there. With `run` what it says is noted
    # in `conn`.

    Session* (*open)(const Session* blank, Side side, const Run* run) noexcept nogil
    # The session that reads a connection whose first bytes are those of `run`; `run` is NULL where the first bytes are
    # missing. NULL without memory.


# ---- for protocols ---------------------------------------------------------------------------------------------------

cdef inline void* new_session(const Session* blank, const Protocol* protocol, size_t size) noexcept nogil:
    """A session of `size` bytes, zeros behind its first member. NULL without memory."""
    cdef Session* session = <Session*>pool_take(&blank.context.pool, size)
    if session == NULL:
        return NULL
    memset(session, 0, size)
    session[0] = blank[0]
    session.protocol = protocol
    session.heir = NULL
    session.reason = 0
    return session


cdef inline void free_session(Session* session, size_t size) noexcept nogil:
    pool_give(&session.context.pool, session, size)


cdef inline void consume(const Session* session, Run* run, int64_t size, Counter counter) noexcept nogil:
    """Takes bytes from the front of a run. Every byte of payload is counted once: BYTES_USED, or why it was
    not used."""
    run.data += size
    run.size -= size
    run.offset += size
    run.segment_start = False
    session.context.counters[<int>counter] += <uint64_t>size


cdef inline bint may_read(const Stream* stream, const Stream* other, Side side, const Session* session,
                          int64_t ack) noexcept nogil:
    """Whether bytes that are next in order may be read now; `ack` is theirs.

    What a server sends waits until the client's stream was read, or given up, as far as `ack`: only then is it known
    what it answers. `session` may be NULL.
    """
    if stream.waits:
        return False
    if side == CLIENT or ack < 0 or (ack <= other.next and other.base == BASE_KNOWN):
        return True
    if other.ended or other.absent or other.base == BASE_NONE or (session != NULL and not session.protocol.ordered):
        return True
    if other.waits and session != NULL and session.protocol.overtakes != NULL and \
            session.protocol.overtakes(session, side):
        return True
    if other.base == BASE_PROVISIONAL:
        return False        # for the grace: earlier bytes of the client may come late
    return other.end >= 0 and other.next >= other.end


cdef inline void note(Context* context, Conn* conn, Notice kind) noexcept nogil:
    """Keeps an event for FlowTable.events()."""
    cdef Noted* noted
    if context.noted_count == NOTICES_MAX:
        context.counters[<int>Counter.EVENTS_DROPPED] += 1
        return
    noted = &context.noted[context.noted_count]
    context.noted_count += 1
    noted.kind = kind
    noted.address_size = conn.address_size
    memcpy(noted.server, &conn.high[0] if conn.server_is_high else &conn.low[0], 16)
    memcpy(noted.client, &conn.low[0] if conn.server_is_high else &conn.high[0], 16)
    noted.server_port = conn.high_port if conn.server_is_high else conn.low_port
    noted.client_port = conn.low_port if conn.server_is_high else conn.high_port


cdef inline void publish(Context* context, Message* message) noexcept nogil:
    """A message has ended: the present call of FlowTable returns it."""
    message.next = NULL
    if context.ready == NULL:
        context.ready = message
    else:
        context.ready_tail.next = message
    context.ready_tail = message
    context.ready_count += 1
    context.ready_bytes += <int64_t>(message.size + message.body_space)
