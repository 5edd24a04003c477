# The fields of one block, as HPACK gives them: pseudo-header fields apart, invalid ones left out, unknown ones counted.
#
# What they are collected in lies on the stack, unless there are many. So a block costs one allocation: its message.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from sniffer_core.base.memory cimport Pool
from sniffer_core.connection cimport Conn
from sniffer_core.message cimport Exchange, Field, Fields, Http2, Message, Text
from sniffer_core.protocol cimport Carry
from sniffer_core.protocols.http2.hpack cimport HpackField

cdef enum Pseudo:               # bits of Collected.pseudo
    PSEUDO_METHOD = 1
    PSEUDO_PATH = 2
    PSEUDO_AUTHORITY = 4
    PSEUDO_STATUS = 8
    PSEUDO_SCHEME = 16
    PSEUDO_PROTOCOL = 32        # RFC 8441 section 4

cdef enum:
    FIELDS_NEAR = 48            # fields that need no memory
    TEXT_NEAR = 4096            # bytes of their texts that need none
    ROUTE_MAX = 4               # pseudo-header fields of a request

cdef struct Http2Message:
    Message base
    Http2 facts
    int64_t length              # Content-Length; -1: none, or not valid
    bint doubted                # bytes of it may have been lost
    size_t sure                 # with `doubted`: bytes of the body that were kept before
    bint body_gap               # bytes of its body are missing

cdef inline Http2Message* as_http2(const Message* message) noexcept nogil:
    return <Http2Message*>message

cdef struct Collected:
    Pool* pool
    Field* fields
    uint8_t* never              # a byte for each field, see Message.never
    uint8_t* text
    uint32_t count
    uint32_t space              # fields that there is room for
    uint32_t size               # bytes of text
    uint32_t text_space
    bint starved                # True: there was no memory for a field
    bint hidden                 # True: a byte of `never` is 1
    uint32_t place              # fields of the block so far
    bint regular                # True: a field that is no pseudo-header field was read
    bint veiled                 # True: the name of the first field is not known
    uint8_t pseudo              # Pseudo bits: which came
    bint repeated               # True: one of them came twice
    bint path_secret            # see Exchange
    Text method
    Text path
    Text authority
    uint16_t status             # 0: none, or not valid
    uint32_t unknown            # fields that are not known
    uint32_t routes             # numbers in `route`
    int64_t route[ROUTE_MAX]    # of unknown entries where pseudo-header fields stand
    int64_t length              # see Http2Message
    uint32_t anomalies          # marks.Anomaly bits
    Field fields_near[FIELDS_NEAR]
    uint8_t never_near[FIELDS_NEAR]
    uint8_t text_near[TEXT_NEAR]

cdef void collect_init(Collected* collected, Pool* pool) noexcept nogil
cdef void collect_free(Collected* collected) noexcept nogil
cdef void collect(void* user, const HpackField* field) noexcept nogil
    # An HpackSink: `user` is a Collected.
cdef bint may_be_head(const Collected* collected, bint end_stream) noexcept nogil
    # Whether a block is the head of a message. If nothing tells it from trailers, it is taken for these.
cdef void check_request(Collected* collected) noexcept nogil
    # Marks a request's block that lacks pseudo-header fields, or has those of a response (RFC 9113 section 8.3.1).
cdef void check_response(Collected* collected) noexcept nogil
cdef void check_trailers(Collected* collected) noexcept nogil
cdef Message* collect_message(const Collected* collected, uint8_t kind) noexcept nogil
    # Makes a message of the fields. NULL: there is no memory.
cdef Fields* collect_trailers(const Collected* collected) noexcept nogil
    # The same for trailers.
cdef Exchange* collect_exchange(
    const Collected* collected, const Message* message, Conn* conn, const Carry* carry) noexcept nogil
    # Makes the exchange of a request, with one reference and without a number. NULL: there is no memory.
