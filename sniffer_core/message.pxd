# A message of any protocol, as the record is made of it: what was sent, when, how much of it was seen.
#
# The parser of a protocol makes a Message in one block, and may put a struct of its own around it, with Message as the
# first member: `size` covers the whole block, so whoever frees or weighs a Message needs no knowledge of the protocol.
# Times are packet times in µs since the epoch.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from sniffer_core.base.memory cimport Pool, pool_give
from sniffer_core.connection cimport Conn, conn_release

cdef enum Kind:
    REQUEST = 0
    RESPONSE = 1

cdef struct Text:           # a slice of the text that its owner names
    uint32_t at
    uint32_t size

cdef struct Field:          # a header field, in order of arrival: value trimmed, folds resolved
    Text name               # as sent, case kept
    Text value

cdef struct Fields:         # the trailers: one block of `size` bytes holds this struct, Field[count] and their text
    size_t size
    uint32_t count

cdef inline Field* fields_of(const Fields* fields) noexcept nogil:
    return <Field*>(<uint8_t*>fields + sizeof(Fields))

cdef inline uint8_t* text_of(const Fields* fields) noexcept nogil:
    """The text that the slices of `fields_of(fields)` are counted from."""
    return <uint8_t*>fields + sizeof(Fields) + fields.count * sizeof(Field)

cdef enum:
    CARRY_MAX = 4
    INFORMATIONAL_MAX = 16

cdef struct Exchange:
    # A request, as its record and those of its responses show it. One block of `size` bytes: the protocol's struct that
    # begins with this one, and the text. A record gets a copy of this part and of the text.
    Conn* conn
    size_t size
    size_t text_size
    uint8_t* text           # into the block; every Text of this struct is counted from here
    uint32_t references     # who holds it; exchange_release()
    uint32_t number         # within its connection
    int64_t stamp           # packet time of its first byte
    Text method
    Text target
    Text authority          # the host that was asked, as protocols/authority writes it; empty: not known
    Text carried[CARRY_MAX]
    uint16_t informational[INFORMATIONAL_MAX]   # status codes of the 1xx that came for it
    uint8_t informational_count
    uint8_t carried_present  # bit mask
    uint8_t known           # the request was seen: method, target and carried are valid
    uint8_t traced          # `trace` is valid
    uint8_t trace[48]       # trace id and parent id, 32 and 16 hex digits

cdef struct Message:
    # One block of `size` bytes: the protocol's struct that begins with this one, Field[count], the text of the head.
    size_t size
    uint32_t count
    Field* fields           # into the block
    uint8_t* text           # into the block; every Text of this struct and of `fields` is counted from here
    uint32_t text_size

    uint8_t kind            # Kind
    uint8_t minor           # of the HTTP version: HTTP/1.minor
    uint8_t incomplete      # marks.Incomplete
    bint resynced           # True: the first message after bytes were lost whose extent is unknown
    bint truncated          # True: the kept body is not the whole of body_size
    bint end_lost           # True: the bytes behind the last one that was read are missing
    uint16_t status         # of a response
    uint32_t anomalies      # marks.Anomaly bits
    Text method             # of a request
    Text target             # of a request, as sent
    Text reason             # of a response

    int64_t stamp           # of its first byte
    int64_t stamp_end       # of the last byte read so far
    int64_t latency         # response: µs since its request ended; -1 unknown

    uint64_t body_size      # bytes of body seen, transfer coding removed
    int64_t missing         # bytes known to be missing; -1 unknown
    uint8_t* body           # the bytes of body kept, in a block of body_space bytes of its own; or NULL
    size_t body_kept
    size_t body_space
    Fields* trailers        # or NULL

    Exchange* exchange      # that it belongs to; NULL: none was found for it yet
    Message* next           # in the list that holds it

cdef struct Limits:         # what is kept of a message
    uint32_t head           # bytes of its head, and of its trailers
    uint32_t body           # bytes of its body


cdef inline void message_free(Message* message, Pool* pool) noexcept nogil:
    """Gives back a message with its body and trailers; NULL is nothing. Its exchange is released by its owner."""
    if message != NULL:
        pool_give(pool, message.body, message.body_space)
        if message.trailers != NULL:
            pool_give(pool, message.trailers, message.trailers.size)
        pool_give(pool, message, message.size)


cdef inline void exchange_release(Exchange* exchange, Pool* pool) noexcept nogil:
    """Gives up one reference; the last gives the block back."""
    exchange.references -= 1
    if exchange.references == 0:
        conn_release(exchange.conn)
        pool_give(pool, exchange, exchange.size)
