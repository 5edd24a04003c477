# The interface between TCP and the protocols that it carries. Neither knows more of the other than this file says.
#
# tcp/flow reads a connection's two streams in order and passes data, gaps and ends to one Session, which reads both
# sides. The Detector (protocols/detect) chooses that session. A session calls nothing of tcp/ but the functions that
# look at a Stream. It appends finished messages to `context.ready`, and tells the flow what it needs by these fields:
#
#   stream[side].waits      not 0: this side's next bytes must not be read yet, because the other side's bytes decide
#                           how to read them (after an Upgrade, or a refused body). The session sets and clears it, in a
#                           call for either side. With stream[side].hurried it waits no longer than the grace of a hole
#   heir                    the session that replaces this one on both sides (CONNECT, 101, TLS within a tunnel)
#   reason                  not 0: the flow is given up once everything that can be read was read. From then on a packet
#                           of it costs one lookup, and its bytes are counted under this Counter
#
# data() does not return them, because a call for one side may change them for the other.
#
# A session sees its connection through two Streams: how far each was read, acknowledged and seen, whether it has ended,
# and the bytes that wait. A protocol that carries another (TLS) must give its inner session Streams of the decoded
# bytes, and runs whose `ack` counts in those.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from sniffer_core.base.counters cimport Counter
from sniffer_core.base.memory cimport SLAB_SIZES, Pool, Slabs, slab_give, slab_take
from sniffer_core.connection cimport Conn
from sniffer_core.base.marks cimport Incomplete
from sniffer_core.message cimport CARRY_MAX, Limits, Message
from sniffer_core.tcp.stream cimport BASE_KNOWN, BASE_NONE, BASE_PROVISIONAL, Run, Stream

cdef enum Side:             # who sends
    CLIENT = 0
    SERVER = 1

cdef enum Notice:           # kinds of events that are logged, in the order of NOTICES (core.pyx)
    NOTICE_TLS = 0
    NOTICE_HTTP2 = 1
    NOTICE_OTHER = 2        # an unknown protocol
    NOTICE_UNDECIDED = 3    # it is not known which end is the server
    NOTICE_TUNNEL = 4
    NOTICE_SNAPPED = 5      # the snaplen of the capture cuts packets short
    NOTICE_LONG = 6         # a message has been open for long

cdef enum:
    NOTICES_MAX = 256       # events kept between two calls of FlowTable.events()

cdef struct Noted:          # an event
    int kind                # Notice
    uint8_t address_size
    uint8_t server[16]
    uint8_t client[16]
    uint16_t server_port
    uint16_t client_port

cdef struct Carry:          # request fields whose values are kept for the response too
    bint no_host            # True: the Host field is redacted, so it must not give an authority
    uint32_t count
    uint32_t size[CARRY_MAX]
    const uint8_t* name[CARRY_MAX]

cdef struct Context:        # what a table shares with its sessions
    Pool pool               # counts the memory of both
    Slabs slabs[SLAB_SIZES]     # of sessions
    int64_t now             # core time: packet time in µs, see FlowTable in core.pyi
    Message* ready          # ended messages, which the current call of FlowTable returns
    Message* ready_tail
    int64_t ready_bytes     # of memory
    uint32_t ready_count
    uint32_t messages_open
    uint32_t messages_long  # of these, reported with NOTICE_LONG
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
    Session* heir           # see above; NULL: this session reads on
    uint16_t reason         # see above, a Counter; 0: this session reads on

cdef enum Recognised:       # what the first bytes of a direction are
    RECOGNISED_NOT = -1     # of another protocol
    RECOGNISED_MORE = 0     # too few to say
    RECOGNISED_CLIENT = 1   # sent by a client of the protocol
    RECOGNISED_SERVER = 2   # sent by a server

cdef struct Protocol:       # one static instance for each protocol; a member is not NULL unless its comment allows it
    const char* name
    bint ordered            # True: a server's bytes are read only after the client's bytes that they acknowledge

    Recognised (*recognise)(const uint8_t* data, int64_t size) noexcept nogil
    # Looks at the first bytes of a direction. Only HTTP/1 and registered protocols need it.

    Session* (*open)(const Session* blank) noexcept nogil
    # Returns a new session, made with new_session(). NULL: no memory. Only a registered protocol needs it.

    void (*data)(Session* session, Side side, Run* run) noexcept nogil
    # Reads bytes that are next in order. The session moves `run` past the bytes that it consumes (data, size, offset).
    # Bytes that it leaves are passed again, perhaps cut differently, once `waits` is 0 and the other side was read as
    # far as `run.ack`.

    void (*gap)(Session* session, Side side, int64_t start, int64_t size) noexcept nogil
    # `size` bytes from offset `start` on will never be read. 0: their number is not known, as the side is joined in
    # mid-stream.

    void (*end)(Session* session, Side side, Incomplete reason) noexcept nogil
    # The side has ended: WHOLE means by a FIN, any other value is the reason.

    void (*resume)(Session* session, Side side) noexcept nogil
    # After end(): the peers ignored that end, so the side is read on. May be NULL.

    bint (*resolve)(Session* session, Side side, bint last) noexcept nogil
    # The side waits. Returns whether it stops waiting, given what was read or held since. `last`: nothing more can come
    # that would decide it, so it must stop. May be NULL if the session never waits.

    bint (*overtakes)(const Session* session, Side side) noexcept nogil
    # The other side waits. Returns whether `side` is read on even if its bytes acknowledge unread bytes of the other.
    # May be NULL.

    int64_t (*weight)(const Session* session, Side side) noexcept nogil
    # Bytes of memory that relieve() can give back. NULL: none, and relieve() may be NULL too.

    void (*relieve)(Session* session, Side side) noexcept nogil
    # The memory limit is reached: gives those bytes back.

    void (*closed)(Session* session) noexcept nogil
    # The connection has ended: frees what is open. The session itself is kept for a while, because the peers may ignore
    # the end, see resume(). May be NULL.

    void (*close)(Session* session) noexcept nogil
    # Frees the session.

cdef struct Detector:       # how a table finds out what a connection carries; protocols/detect has the only one
    int (*speaker)(const Stream* stream) noexcept nogil
    # Returns the Side that sends a stream, judged by the held bytes at its front; -1: they do not show it.

    int64_t (*preamble)(Context* context, Conn* conn, const Stream* stream, const Run* run) noexcept nogil
    # Returns the size in bytes of a PROXY protocol header at the front of the client's stream. 0: there is none; -1:
    # too few bytes to say what stands there. It looks at the bytes held at the front, or else at `run`. If `run` is not
    # NULL, it notes in `conn` the ends that the header names.

    Session* (*open)(const Session* blank, Side side, const Run* run) noexcept nogil
    # Returns a session for a connection whose first bytes are those of `run`, sent by `side`. `run` is NULL if the
    # first bytes are missing. Returns NULL without memory.


# ---- for protocols ---------------------------------------------------------------------------------------------------

cdef inline void* new_session(const Session* blank, const Protocol* protocol, size_t size) noexcept nogil:
    """Returns a session of `size` bytes with the base members of `blank` and zeros after them. NULL: no memory."""
    cdef Session* session = <Session*>slab_take(&blank.context.pool, blank.context.slabs, size)
    if session == NULL:
        return NULL
    memset(session, 0, size)
    session[0] = blank[0]
    session.protocol = protocol
    session.heir = NULL
    session.reason = 0
    return session


cdef inline void free_session(Session* session, size_t size) noexcept nogil:
    slab_give(&session.context.pool, session.context.slabs, session, size)


cdef inline void consume(const Session* session, Run* run, int64_t size, Counter counter) noexcept nogil:
    """Takes `size` bytes from the front of a run and counts them: each byte of payload counts once, as BYTES_USED or
    under the reason why it was not used."""
    run.data += size
    run.size -= size
    run.offset += size
    run.segment_start = False
    session.context.counters[<int>counter] += <uint64_t>size


cdef inline bint may_read(const Stream* stream, const Stream* other, Side side, const Session* session,
                          int64_t ack) noexcept nogil:
    """Whether the bytes of `stream` that are next in order, with the acknowledgement `ack`, may be read now.

    A server's bytes wait until the client's stream was read, or given up, as far as `ack`, because they may answer a
    request in it. `session` may be NULL.
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
        return False        # earlier bytes of the client may still come
    return other.end >= 0 and other.next >= other.end


cdef inline void note(Context* context, Conn* conn, Notice kind) noexcept nogil:
    """Keeps an event for FlowTable.events(); without room for it, counts it as dropped."""
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
    """Adds an ended message to those that the current call of FlowTable returns."""
    message.next = NULL
    if context.ready == NULL:
        context.ready = message
    else:
        context.ready_tail.next = message
    context.ready_tail = message
    context.ready_count += 1
    context.ready_bytes += <int64_t>(message.size + message.body_space)
