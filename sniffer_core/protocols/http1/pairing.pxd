# Decides which request a response answers. Each connection has one queue of open requests, in stream order.
#
# Responses come in the order of their requests (RFC 9112 section 9.3). So while nothing was lost, a response answers
# the oldest entry: first in, first out. Bytes lost from the request stream leave a *lost* entry. Bytes of unknown
# extent lost from the response stream set `responses_lost`. From there on the ACKs decide, and a response stays
# unpaired if they leave a doubt. A request that begins when nothing is in flight settles every doubt about earlier
# requests.
#
# A request that is found at the start of a segment behind a gap may be a piece of a body that contains a start line. It
# is *tentative* until as many responses came as there must be if it is a request. It is dropped if the doubt is settled
# before. If responses were lost they cannot be counted; then the next response that acknowledges the request is enough.
# Tentative responses are not in this queue: the session keeps them until they are believed.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from sniffer_core.base.memory cimport Pool
from sniffer_core.connection cimport Conn
from sniffer_core.message cimport INFORMATIONAL_MAX, Exchange, Message
from sniffer_core.protocol cimport Carry

cdef enum:
    OPEN_MAX = 1024         # entries of one queue; of requests beyond, only the number and BEYOND_... are kept
    OPEN_MAX_ONE_SIDED = 16     # the same while no packet of the response direction was seen

cdef enum Proof:            # of a request
    PROVEN = 0
    TENTATIVE = 1           # it may be no request; once complete, its message is kept in `waiting`
    REFUTED = 2             # it was no request; its message is freed when it ends

cdef enum Match:
    MATCH_ACKS = 0          # the request that the ACKs point to
    MATCH_OLDEST = 1        # the oldest one, whatever the ACKs say
    MATCH_NONE = 2          # none: the response stays unpaired

cdef enum:                  # flags of a request beyond OPEN_MAX
    BEYOND_HEAD = 1
    BEYOND_CONNECT = 2

cdef struct Entry:          # of the queue
    Exchange exchange       # must be the first member: entry_of() casts
    Entry* next
    Message* waiting        # the complete request while it is tentative, or NULL
    int64_t start           # stream offset of the request's first byte
    int64_t end             # stream offset behind its last byte; -1: it has not ended
    int64_t ack             # Run.ack of its first byte; for a lost entry an upper bound; -1: unknown
    int64_t end_ack         # Run.ack at its end, if known, or `ack`; -1: it has not ended
    int64_t stamp_end       # packet time of its last byte
    int64_t answer_end      # offset where its final response ended (its head, if the connection ended it); -1: not yet
    uint16_t answered       # status of its final response; 0: not yet
    uint8_t end_read        # its last byte was read, so `stamp_end` is valid
    uint8_t end_unsure      # it is malformed, so `end` may be wrong
    uint8_t lost            # stands for lost bytes of the request stream, not for a request that was seen
    uint8_t beyond          # a request beyond OPEN_MAX: only its number and whether it is CONNECT or HEAD are known
    uint8_t unpaired        # made by exchanges_unpaired()
    uint8_t counted         # a response was counted for it, or it is lost bytes that may need none
    uint8_t connect
    uint8_t head
    uint8_t upgrade
    uint8_t expect          # it has `Expect: 100-continue`
    uint8_t continued       # a 100 came for it
    uint8_t sends           # its body is sent, although it may have been refused
    uint8_t answer_lost     # its response may have been lost, or left unpaired, while it was being sent
    uint8_t proof           # Proof

cdef inline Entry* entry_of(const Message* message) noexcept nogil:
    """The entry that a message refers to, or NULL."""
    return <Entry*>message.exchange

cdef struct Exchanges:
    Pool* pool
    uint64_t* counters
    Entry* head
    Entry* tail
    uint32_t count
    uint32_t next_number
    uint32_t beyond         # how many requests follow beyond OPEN_MAX
    uint32_t beyond_number  # number of the first of them
    uint8_t* methods        # BEYOND_... flags, one byte for each of them; or NULL
    uint32_t methods_space
    uint32_t methods_first  # index of the first of them in `methods`
    Conn* conn
    bint in_step            # a request began when nothing was in flight, and the server had sent a message
    bint responses_lost     # bytes of unknown extent were lost from the response stream, or a request may have been
                            # answered already
    bint lost_since         # `responses_lost` was set since the latest request that began when nothing was in flight
    bint lost_between       # the lost bytes began between two responses: at least one response is lost whole
    bint uncounted          # no response was counted since the loss: how many were lost is unknown
    bint tentative          # an entry may be TENTATIVE, or one that is no longer may still have its message waiting
    bint sliding            # a client sent a request on new data while the one before was unanswered, so new data
                            # does not prove that earlier requests were answered
    uint8_t informational_count
    uint16_t informational[INFORMATIONAL_MAX]   # interim statuses since the last final response
    int64_t interim_start   # stream offset of the first of these responses

cdef void read_traceparent(Exchange* exchange, const uint8_t* value, uint32_t size) noexcept nogil
    # Reads version-traceid-parentid-flags (W3C Trace Context, section 3.2). Versions after 00 may add more.
cdef void exchanges_init(Exchanges* queue, Conn* conn, Pool* pool, uint64_t* counters) noexcept nogil
cdef void exchanges_free(Exchanges* queue) noexcept nogil
cdef void exchanges_settle(Exchanges* queue) noexcept nogil
    # Empties the queue when nothing is in flight: open requests stay unanswered, and tentative ones are dropped.
cdef void exchanges_doubt(Exchanges* queue) noexcept nogil
    # Lets the ACKs decide from here on, for a request may have been answered already.
cdef void exchanges_quiet(Exchanges* queue, bint in_step) noexcept nogil
    # Notes that a request begins when nothing is in flight. First in, first out applies again, unless a doubt arose
    # since the last such request: its cause may have been an early response to the new one. `in_step`: see Exchanges.
cdef Entry* exchanges_request(
    Exchanges* queue, Conn* conn, Message* message, const Carry* carry, uint32_t most) noexcept nogil
    # Adds an entry for a request at the tail; `message` refers to it then. Returns NULL without memory.
cdef void exchanges_lost_request(Exchanges* queue, Conn* conn, int64_t start, int64_t end, int64_t ack,
                                 bint whole) noexcept nogil
    # Notes that bytes of unknown extent were lost from the request stream at `start`. `whole`: at least one whole
    # request is among them. Reading continues at `end`. The sender of the lost bytes had received at most `ack` (-1:
    # unknown).
cdef void exchanges_lost_responses(Exchanges* queue, bint whole) noexcept nogil
    # Notes that bytes of unknown extent were lost from the response stream. `whole`: at least one whole response is
    # among them.
cdef void exchanges_refute(Exchanges* queue) noexcept nogil
    # Drops the tentative requests at the tail: what follows them is no message, so they were none either.
cdef void exchanges_informational(Exchanges* queue, uint16_t status) noexcept nogil
cdef bint exchanges_plausible(const Exchanges* queue, int64_t ack, int64_t start) noexcept nogil
    # Whether a request can wait for a response that was found after a gap.
cdef void exchanges_count(Exchanges* queue, int64_t ack) noexcept nogil
    # Counts a final response for the oldest entry that has none, which proves that entry. After a loss, the first
    # response proves every request that it acknowledges.
cdef Entry* exchanges_pick(Exchanges* queue, int64_t ack, int64_t start) noexcept nogil
    # The entry that a final response answers; NULL if there is none or it is in doubt.
cdef bint exchanges_unpaired(Exchanges* queue, Conn* conn, Message* message) noexcept nogil
    # Gives a tentative or early response an entry outside the queue, without a number. Returns False without memory.
cdef bint exchanges_no_head(const Exchanges* queue, int64_t ack, int64_t start) noexcept nogil
    # Whether the response fits a request, and none of the requests that it fits can be a HEAD.
cdef int64_t exchanges_mark(const Exchanges* queue, int64_t offset, int64_t otherwise) noexcept nogil
    # The first offset of the response stream, from `offset` on, that an open request's ACK marks as a message's end;
    # `otherwise` if there is none.
cdef bint exchanges_fifo(const Exchanges* queue) noexcept nogil
    # Whether first in, first out is certain: no loss, and no start in mid-stream, puts it in doubt.
cdef bint exchanges_by_acks(const Exchanges* queue) noexcept nogil
    # Whether the ACKs decide which request the next response answers.
cdef Entry* exchanges_answer(Exchanges* queue, Conn* conn, Message* message, Match match) noexcept nogil
    # Pairs a final response: takes the entry that it answers out of the queue, or makes a new one without a request.
    # `message` refers to it then. Returns NULL without memory.
