# Finding frames again, after bytes were lost or where a connection is joined late. RFC 9113 has no mark for that.
#
# A frame is believed where a segment begins with one, since most senders write whole frames, if legal frames follow: up
# to the end of the segment, or two more. A field block among them must parse. Bytes are kept until that is decided.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from sniffer_core.base.memory cimport Pool
from sniffer_core.tcp.stream cimport Run

cdef enum:
    SEARCH_MAX = 65536          # bytes that are kept
    SEARCH_PIECES = 64          # segments that they come from
    CHAIN = 3                   # legal frame headers in a row that are enough

cdef struct Piece:              # of one segment
    uint32_t at                 # where it begins in the bytes that are kept
    int64_t offset              # in the stream
    int64_t stamp
    int64_t ack
    bint segment_start          # it begins its segment
    bint conflict

cdef struct Search:
    Pool* pool
    uint8_t* data               # a block of `space` bytes, or NULL
    uint32_t size
    uint32_t space
    uint32_t count
    Piece piece[SEARCH_PIECES]

cdef void search_init(Search* search, Pool* pool) noexcept nogil
cdef int64_t search_free(Search* search) noexcept nogil
    # Forgets the bytes. Returns how many there were.
cdef int64_t search_add(Search* search, const Run* run) noexcept nogil
    # Keeps the bytes of a run. Returns how many bytes are given up for it, its own included; frames do not begin there.
cdef bint search_found(Search* search, bint from_server, int64_t* dropped) noexcept nogil
    # Whether frames begin with the first byte that is kept. `dropped`: bytes before it that were given up.
cdef bint search_fits(Pool* pool, const uint8_t* data, uint32_t size, bint from_server) noexcept nogil
    # Whether the bytes of a segment are frames.
