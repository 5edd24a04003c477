# ONE direction's byte stream: order, duplicates, overlap, holes, byte caps. Never looks into the bytes.
#
# Offsets are int64 positions in the stream; sequence numbers are mapped to them on entry, so nothing after that wraps.
# The first byte seen (or the first after a SYN) stands at ORIGIN: there is room below it for earlier segments, and no
# offset is negative, so -1 can say "none".
#
# Zero copy: flow hands a segment that is next in order straight to its reader; only what must wait is copied (Held).
# Invariant: held[first .. first + count) is sorted by offset, its pieces do not overlap, none is empty, and while the
# base is known none lies below `next`.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from sniffer_core.base.memory cimport Pool

cdef enum:
    ORIGIN = 1 << 20
    REACH_BACK = 1 << 16        # a provisional base moves back by at most this for an earlier segment

cdef enum Base:
    BASE_NONE = 0               # no byte and no SYN of this direction seen
    BASE_PROVISIONAL = 1        # first seen mid-stream: all is held for a grace, and the lowest offset will be `next`
    BASE_KNOWN = 2

cdef struct Run:
    # A piece of a stream handed to its reader: bytes of ONE segment (or the part of it that was not seen before).
    const uint8_t* data
    int64_t size
    int64_t offset          # of data[0] in the stream
    int64_t stamp           # packet time of the segment, µs since the epoch
    int64_t ack             # the segment's ACK, as an offset in the other direction; -1: it has none, or it is unknown
    bint segment_start      # data[0] is the first byte of its segment
    bint conflict           # other bytes were seen for a part of it; these came first

cdef struct Held:           # a Run that waits; its bytes follow the struct in the same block
    int64_t offset
    int64_t stamp
    int64_t ack
    int64_t acked_at        # offset in the other direction of the first segment that acknowledges all before it, or -1
    uint32_t size
    uint32_t taken          # bytes before these that the reader took already
    bint segment_start
    bint conflict

cdef struct Stream:
    Pool* pool
    uint64_t* counters
    uint8_t base            # Base
    uint8_t mapped          # `anchor` is valid: sequence numbers can be turned into offsets
    uint8_t syn_seen        # a SYN (or the other side's ACK of it) said where the stream begins
    uint8_t unacked         # the last of the held pieces (all whose acked_at is -1) wait for an ACK
    uint8_t seen            # a packet of this direction was seen
    uint8_t absent          # it is known by the other side only: nothing waits for it
    uint8_t ended           # its end was handed over
    uint8_t from_start      # what is read first is its true first byte
    uint8_t waits           # not 0: its reader does not read on; the reader's own code says why
    uint8_t hurried         # ... and only late pieces could still tell: its reader decides once the grace is over
    uint32_t anchor         # the sequence number of offset ORIGIN
    uint32_t syn_seq        # the sequence number of its first byte, where syn_seen
    int64_t start           # where the stream begins (base known), or is heard of first by an ACK; -1
    int64_t next            # the next byte to hand over (base known)
    int64_t top             # one past the highest byte seen
    int64_t acked           # the other side's highest ACK; -1 none
    int64_t acked_at        # ... and the offset, in the other direction, of the first segment that had it
    int64_t end             # where FIN or RST stands; -1 not seen
    Held** held
    uint32_t first
    uint32_t count
    uint32_t space
    int64_t held_bytes      # payload bytes held
    int64_t held_memory     # what they cost

cdef inline int64_t stream_offset(const Stream* stream, uint32_t seq) noexcept nogil:
    """The offset of `seq`, the nearest to what was handed over or seen last; the stream must be mapped."""
    cdef int64_t near = stream.next if stream.base == BASE_KNOWN else stream.top
    return near + <int32_t>(seq - <uint32_t>(stream.anchor + <uint32_t>(near - ORIGIN)))

cdef inline void stream_map(Stream* stream, uint32_t seq) noexcept nogil:
    """Says that `seq` is at ORIGIN: from the first segment, or from an ACK before any was seen."""
    stream.mapped = True
    stream.anchor = seq

cdef inline Held* stream_front(const Stream* stream) noexcept nogil:
    """The held piece with the lowest offset, or NULL."""
    return stream.held[stream.first] if stream.count else NULL

cdef inline uint8_t* held_data(Held* held) noexcept nogil:
    return <uint8_t*>held + sizeof(Held) + held.taken

cdef inline void stream_acknowledge(Stream* stream, int64_t ack, int64_t at) noexcept nogil:
    """A segment that stands at offset `at` of the other direction is the first that acknowledges all before `ack`."""
    stream.acked = ack
    stream.acked_at = at
    if stream.unacked:
        stream_mark(stream)

cdef void stream_mark(Stream* stream) noexcept nogil
cdef void stream_init(Stream* stream, Pool* pool, uint64_t* counters) noexcept nogil
cdef int64_t stream_free(Stream* stream) noexcept nogil
    # Drops everything held; returns its payload bytes (the caller counts them).
cdef void stream_buffer(Stream* stream, const Run* run) noexcept nogil
    # Copies the parts of `run` that are not held yet; first bytes win, what was there already is counted as duplicate,
    # and as a conflict where it differs.
cdef bint stream_differs(const Stream* stream, const uint8_t* data, int64_t size, int64_t offset) noexcept nogil
    # Whether other bytes than these are held at these offsets.
cdef void stream_read(const Stream* stream, Run* run) noexcept nogil
    # Makes `run` the front piece (there must be one); it stays held until taken.
cdef uint32_t stream_copy(const Stream* stream, int64_t offset, uint8_t* bytes, uint32_t most) noexcept nogil
    # Copies what is held from `offset` on, up to the first hole; returns how many bytes that is.
cdef void stream_take(Stream* stream, int64_t size) noexcept nogil
    # The reader took `size` bytes of the front piece, which is given back when it is empty.
