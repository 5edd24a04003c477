# A message of any protocol: everything that its record is made from.
#
# The parser of a protocol allocates a Message as one block. It may use a larger struct whose first member is a Message.
# `size` is that of the whole block, so freeing or measuring a Message needs no knowledge of the protocol.
# Times are packet times in µs since the epoch.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from sniffer_core.base.memory cimport Pool, pool_give
from sniffer_core.connection cimport Conn, conn_release

cdef enum Kind:
    REQUEST = 0
    RESPONSE = 1

cdef struct Text:           # a slice of a text; each use says which text `at` counts from
    uint32_t at
    uint32_t size

cdef struct Field:          # a header or trailer field
    Text name               # as sent, case kept
    Text value              # trimmed, folds replaced (RFC 9112 section 5.2)

cdef struct Fields:         # the trailers: one block of `size` bytes holds this struct, Field[count] and the text
    size_t size
    uint32_t count
    const uint8_t* never    # as in Message

cdef inline Field* fields_of(const Fields* fields) noexcept nogil:
    return <Field*>(<uint8_t*>fields + sizeof(Fields))

cdef inline uint8_t* text_of(const Fields* fields) noexcept nogil:
    """The text that the slices in `fields_of(fields)` count from."""
    return <uint8_t*>fields + sizeof(Fields) + fields.count * sizeof(Field)

cdef enum:
    CARRY_MAX = 4
    INFORMATIONAL_MAX = 16

cdef enum:
    HTTP_2 = 2              # Message.minor of HTTP/2

cdef struct Exchange:
    # A request and what its responses show of it. One block of `size` bytes: the protocol's struct, which begins with
    # this one, and the text. Each record gets a copy of this struct and of the text.
    Conn* conn
    size_t size
    size_t text_size
    uint8_t* text           # into the block; every Text of this struct counts from here
    uint32_t references     # holders of the block; exchange_release() gives up one
    uint32_t number         # within its connection
    int64_t stamp           # of the request's first byte
    Text method
    Text target             # as sent
    Text authority          # the host that was asked, as protocols/authority writes it; empty: not known
    Text carried[CARRY_MAX]     # values of the fields that Carry names
    uint16_t informational[INFORMATIONAL_MAX]   # status codes of its interim responses (1xx)
    uint8_t informational_count
    uint8_t carried_present  # bit i: carried[i] is valid
    uint8_t known           # True: the request was seen, so stamp, method, target and carried are valid
    uint8_t traced          # `trace` is valid
    uint8_t path_secret     # True: the sender holds the target for a secret, so nothing of its query is shown
    Text route              # HTTP/2: stands for a target that is not known; else empty
    uint8_t trace[48]       # trace id and parent id, 32 and 16 hex digits

cdef struct Http2:          # what only a message of HTTP/2 has
    uint32_t stream_id
    uint32_t unknown        # fields that are left out because their name or value is not known
    uint32_t reset          # the error code of RST_STREAM
    bint is_reset           # `reset` is valid
    bint pushed             # True: the server has promised the request

cdef struct Message:
    # One block of `size` bytes: the protocol's struct, which begins with this one, Field[count], the text of the head.
    size_t size
    uint32_t count
    Field* fields           # into the block
    uint8_t* text           # into the block; every Text of this struct and of `fields` counts from here
    uint32_t text_size

    uint8_t kind            # Kind
    uint8_t minor           # of the HTTP version: HTTP/1.minor, or HTTP_2
    uint8_t incomplete      # marks.Incomplete
    bint resynced           # True: the first message of its direction after an unknown number of bytes was lost
    bint truncated          # True: bytes of the body that were seen are not kept, because of a limit
    bint end_lost           # True: bytes are missing directly after the last one read
    uint16_t status         # of a response; 0: not known
    uint32_t anomalies      # marks.Anomaly bits
    Text method             # of a request
    Text target             # of a request, as sent
    Text reason             # of a response

    int64_t stamp           # of its first byte
    int64_t stamp_end       # of the last byte read so far
    int64_t latency         # response: µs from the end of its request to `stamp`; -1 unknown

    uint64_t body_size      # bytes of body seen, transfer coding removed
    int64_t missing         # bytes known to be missing; -1 unknown
    uint8_t* body           # a block with the kept bytes of the body, or NULL
    size_t body_kept        # bytes kept
    size_t body_space       # bytes of the block
    Fields* trailers        # or NULL

    Http2* http2            # into the block; NULL: HTTP/1
    const uint8_t* never    # a byte for each field, 1: its sender holds it for a secret. Into the block; NULL: none is
    Exchange* exchange      # NULL until it is paired
    Message* next           # in the list that holds it

cdef struct Limits:         # most bytes that are kept of a message
    uint32_t head           # of its head, and again of its trailers
    uint32_t body           # of its body


cdef inline void message_free(Message* message, Pool* pool) noexcept nogil:
    """Frees a message with its body and trailers, but does not release its exchange. NULL is allowed."""
    if message != NULL:
        pool_give(pool, message.body, message.body_space)
        if message.trailers != NULL:
            pool_give(pool, message.trailers, message.trailers.size)
        pool_give(pool, message, message.size)


cdef inline void exchange_release(Exchange* exchange, Pool* pool) noexcept nogil:
    """Gives up one reference, and frees the exchange if none is left."""
    exchange.references -= 1
    if exchange.references == 0:
        conn_release(exchange.conn)
        pool_give(pool, exchange, exchange.size)
