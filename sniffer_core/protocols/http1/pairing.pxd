# Which request a response answers. Each connection has one queue, in the order of its request stream.
#
# Responses come in the order of their requests (RFC 9112 section 9.3). So while nothing was lost, the oldest open entry
# is answered: first in, first out. Bytes lost from the request stream leave a *lost* entry; bytes of unknown extent
# lost from the response stream set `responses_lost`. From there on the ACKs decide, and a response stays unpaired where
# they leave a doubt. A request that begins when nothing is in flight settles every doubt before it.
#
# A request that is found at the start of a segment behind a gap may be a piece of a body that holds a start line. It is
# *tentative* until as many responses came as it takes for it to be a request, and is dropped where the doubt is settled
# without them. Where responses were lost they cannot be counted; the next one then stands for all before it. Tentative
# responses are not in this queue: the session keeps them until they are proven.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from sniffer_core.base.memory cimport Pool
from sniffer_core.connection cimport Conn
from sniffer_core.message cimport INFORMATIONAL_MAX, Exchange, Message
from sniffer_core.protocol cimport Carry

cdef enum:
    OPEN_MAX = 1024         # entries of one queue; of requests beyond only numbers are kept, and what frames answers
    OPEN_MAX_ONE_SIDED = 16     # where no packet of the response direction was ever seen

cdef enum Proof:            # of a request
    PROVEN = 0
    TENTATIVE = 1           # its message, once ended, waits in `waiting`
    REFUTED = 2             # it was no message: to be freed when it ends

cdef enum Match:
    MATCH_ACKS = 0          # the request that the ACKs point to
    MATCH_OLDEST = 1        # the oldest one, whatever the ACKs say
    MATCH_NONE = 2

cdef enum:                  # of a request behind the queue's OPEN_MAX
    BEYOND_HEAD = 1
    BEYOND_CONNECT = 2

cdef struct Entry:          # of the queue
    Exchange exchange       # the first member: entry_of()
    Entry* next
    Message* waiting        # the request, which has ended and is tentative
    int64_t start           # the request in its stream
    int64_t end             # -1: not ended
    int64_t ack             # Run.ack of its first byte; of lost ones at most this, -1 unknown
    int64_t end_ack         # Run.ack of its last byte, where that is known
    int64_t stamp_end       # packet time of its last byte
    int64_t answer_end      # where that response ended, or its head, where it ended with the connection; -1 before
    uint16_t answered       # status of its final response; 0 before
    uint8_t end_read        # the last byte was read, so that stamp_end is its stamp
    uint8_t end_unsure      # .. if `end` is where a malformed request ends
    uint8_t lost            # no request was seen: bytes of the request stream were lost here
    uint8_t beyond          # only its number is known, and whether it was CONNECT or HEAD
    uint8_t unpaired        # made by exchanges_unpaired()
    uint8_t counted         # a response (whichever) has come for it
    uint8_t connect
    uint8_t head
    uint8_t upgrade
    uint8_t expect          # it announced that it waits for a 100 before it sends its body
    uint8_t continued       # ... which came
    uint8_t sends           # its body comes, though it was refused
    uint8_t answer_lost     # bytes of unknown extent were lost from the responses while it was sent
    uint8_t proof           # Proof

cdef inline Entry* entry_of(const Message* message) noexcept nogil:
    """The entry that a message refers to; NULL: none."""
    return <Entry*>message.exchange

cdef struct Exchanges:
    Pool* pool
    uint64_t* counters
    Entry* head
    Entry* tail
    uint32_t count
    uint32_t next_number
    uint32_t beyond         # requests behind the queue's OPEN_MAX, of which only the numbers are kept
    uint32_t beyond_number  # ... the first of these
    uint8_t* methods        # ... whether they are CONNECT or HEAD (BEYOND_...), a byte each; or NULL
    uint32_t methods_space
    uint32_t methods_first  # the place of the first of these
    Conn* conn              # of the connection
    bint in_step            # a request began when nothing was in flight
    bint responses_lost     # bytes of unknown extent were lost from the response stream, or a request may be answered
    bint lost_since         # ... since the latest request that began when nothing was in flight
    bint lost_between       # ... and they began between two responses: one at least is lost whole
    bint uncounted          # ... and none was read since: how many were lost is unknown
    bint tentative          # an entry may be TENTATIVE, or its message may wait though it is no more
    bint sliding            # a request was seen to follow an unanswered one on new data: no bursts to rely on
    uint8_t informational_count
    uint16_t informational[INFORMATIONAL_MAX]   # since the last final response

cdef void exchanges_init(Exchanges* queue, Conn* conn, Pool* pool, uint64_t* counters) noexcept nogil
cdef void exchanges_free(Exchanges* queue) noexcept nogil
cdef void exchanges_settle(Exchanges* queue) noexcept nogil
    # Nothing is in flight: what is open was never seen answered, what is tentative was no message.
cdef void exchanges_doubt(Exchanges* queue) noexcept nogil
    # From here on the ACKs decide: a request may be answered already.
cdef void exchanges_quiet(Exchanges* queue, bint in_step) noexcept nogil
    # A request begins when nothing is in flight. First in, first out is certain again, unless there was a doubt since
    # this was so before: what gave rise to it may have been an early answer to the request that begins.
cdef Entry* exchanges_request(
    Exchanges* queue, Conn* conn, Message* message, const Carry* carry, uint32_t most) noexcept nogil
    # A request's head: a new entry at the tail, which `message` refers to. NULL without memory.
cdef void exchanges_lost_request(Exchanges* queue, Conn* conn, int64_t start, int64_t end, int64_t ack,
                                 bint whole) noexcept nogil
    # Bytes of unknown extent were lost from the request stream at `start`; `whole`: one request at least with them.
    # Reading goes on at `end`; who sent what was lost had read no further than `ack` (-1: unknown).
cdef void exchanges_lost_responses(Exchanges* queue, bint whole) noexcept nogil
    # Bytes of unknown extent were lost from the response stream; `whole`: one response at least with them.
cdef void exchanges_refute(Exchanges* queue) noexcept nogil
    # What follows the latest requests is no message: those of them that are tentative were none either.
cdef void exchanges_informational(Exchanges* queue, uint16_t status) noexcept nogil
cdef bint exchanges_plausible(const Exchanges* queue, int64_t ack, int64_t start) noexcept nogil
    # Whether a response found after a gap can be one: whether a request waits for it.
cdef void exchanges_count(Exchanges* queue, int64_t ack) noexcept nogil
    # One more final response: counts for the oldest entry not counted for, which ends its doubt.
cdef Entry* exchanges_pick(Exchanges* queue, int64_t ack, int64_t start) noexcept nogil
    # The entry that a final response answers; NULL where there is none, or a doubt.
cdef bint exchanges_unpaired(Exchanges* queue, Conn* conn, Message* message) noexcept nogil
    # An entry outside of the queue, and without a number, for a tentative response to refer to. False without memory.
cdef bint exchanges_no_head(const Exchanges* queue, int64_t ack, int64_t start) noexcept nogil
    # Whether a response answers no HEAD, whichever it answers.
cdef int64_t exchanges_mark(const Exchanges* queue, int64_t offset, int64_t otherwise) noexcept nogil
    # The first offset of the response stream, from `offset` on, that an open request marks as a message's end.
cdef bint exchanges_fifo(const Exchanges* queue) noexcept nogil
    # Whether responses still answer their requests first in, first out: nothing was lost that would change it.
cdef bint exchanges_by_acks(const Exchanges* queue) noexcept nogil
    # Whether the ACKs decide which request the next response answers.
cdef Entry* exchanges_answer(Exchanges* queue, Conn* conn, Message* message, Match match) noexcept nogil
    # A final response's head: the entry it answers (taken out) or a new one without a request, which `message` refers
    # to. NULL without memory.
