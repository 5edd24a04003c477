# The streams of a connection that have state, and the messages that are open on them.
#
# A request and its response have the same stream, so pairing needs no order: a loss costs its own streams alone.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from sniffer_core.base.marks cimport Incomplete
from sniffer_core.connection cimport Conn
from sniffer_core.message cimport Exchange, Message
from sniffer_core.protocol cimport Context, Side
from sniffer_core.protocols.http2.fields cimport Collected

cdef enum:
    STREAMS_MAX = 1024          # streams with state; beyond, the oldest one is given up

cdef enum PartState:
    PART_IDLE = 0               # no final head of this side was read
    PART_OPEN = 1
    PART_ENDED = 2

cdef struct Part:               # what one side sends on a stream
    Message* message            # open; or NULL
    int64_t opened              # core time at which it began, µs
    uint8_t state               # PartState
    uint8_t long_open           # True: it was reported with NOTICE_LONG

cdef struct Lane:               # a stream of HTTP/2
    uint32_t id
    Lane* chained               # the next one in its bucket
    Lane* next                  # by age
    Lane* previous
    Exchange* exchange
    Part part[2]                # by Side
    int64_t request_end         # packet time of the request's last byte; -1: not known
    bint head                   # the request is HEAD
    bint pushed

cdef struct Streams:
    Context* context
    Conn* conn
    Lane** buckets              # `space` of them, a power of 2; or NULL
    uint32_t space
    uint32_t count
    uint32_t next_number        # of the next exchange
    Lane* first                 # the oldest
    Lane* last

cdef Lane* streams_find(const Streams* streams, uint32_t id) noexcept nogil
    # NULL: the stream has no state.
cdef Lane* streams_add(Streams* streams, uint32_t id) noexcept nogil
    # A new stream, and the next number of an exchange for it. NULL: there is no memory.
cdef void streams_free(Streams* streams) noexcept nogil
    # Frees all streams. Open messages are dropped.
cdef void lane_remove(Streams* streams, Lane* lane) noexcept nogil
    # Frees a stream, without emitting what is open.
cdef bint lane_begin(
    Streams* streams, Lane* lane, Side side, const Collected* collected, int64_t stamp,
    int64_t stamp_end) noexcept nogil
    # Opens a message: the request or the final response of a stream. `stamp`: of its first byte. False: no memory.
cdef void lane_interim(Streams* streams, Lane* lane, const Collected* collected) noexcept nogil
    # Notes an interim response (1xx).
cdef void lane_trailers(Streams* streams, Lane* lane, Side side, const Collected* collected) noexcept nogil
cdef void lane_data(Streams* streams, Lane* lane, Side side, const uint8_t* data, uint32_t size) noexcept nogil
    # Counts and keeps a piece of a body.
cdef void lane_lose(Lane* lane, Side side, uint32_t size) noexcept nogil
    # `size` bytes of the open message's body are missing.
cdef void lane_doubt(Lane* lane, Side side) noexcept nogil
    # Bytes were lost that may have been of the open message.
cdef void lane_drop(Streams* streams, Lane* lane, Side side) noexcept nogil
    # Drops the open message, which was none: the side has not begun.
cdef void lane_end(Streams* streams, Lane* lane, Side side, Incomplete reason) noexcept nogil
    # Emits the open message, which ends with the last byte that was read of it. `reason`: WHOLE, or what cut it.
cdef void lane_close(Streams* streams, Lane* lane, Incomplete reason) noexcept nogil
    # Emits what is open and frees the stream.
cdef void lane_tidy(Streams* streams, Lane* lane) noexcept nogil
    # Frees the stream if nothing more can come on it.
cdef void lane_reset(Streams* streams, Lane* lane, uint32_t code) noexcept nogil
    # RST_STREAM: what is open ends, and the stream is freed.
