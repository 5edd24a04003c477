# The byte stream of one direction: order, duplicates, overlaps and holes. It does not interpret the bytes.
#
# An offset is an int64 position in the stream. Sequence numbers become offsets on entry, so later code need not handle
# their wrapping. The first byte seen (or the first after a SYN) is at ORIGIN, which leaves room for earlier segments.
# Valid offsets are not negative, so -1 means "none".
#
# The flow passes a segment that is next in order to its reader without a copy. Only bytes that must wait are copied
# (Held). Invariant: held[first .. first + count) is sorted by offset; its pieces do not overlap and are not empty; and
# while the base is known none is below `next`.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from sniffer_core.base.memory cimport Pool

cdef enum:
    ORIGIN = 1 << 20
    REACH_BACK = 1 << 16        # bytes that a SYN or an early segment may be below the bytes first seen of a stream

cdef enum Base:                 # what is known of where the stream begins
    BASE_NONE = 0               # no byte and no SYN of this direction was seen
    BASE_PROVISIONAL = 1        # joined in mid-stream: bytes are held for a grace; then the lowest offset is `next`
    BASE_KNOWN = 2              # `start` and `next` are valid

cdef struct Run:
    # Bytes of a stream for its reader. All are of one segment; those that were seen before are left out.
    const uint8_t* data
    int64_t size
    int64_t offset          # of data[0] in the stream
    int64_t stamp           # packet time of the segment, µs since the epoch
    int64_t ack             # the segment's ACK as an offset in the other direction; -1: none, or out of range
    bint segment_start      # True: data[0] is the first byte of its segment
    bint conflict           # True: a later segment had other bytes for a part of it

cdef struct Held:           # a Run that waits; its bytes follow the struct in the same block
    int64_t offset
    int64_t stamp
    int64_t ack
    int64_t acked_at        # offset, in the other direction, of the first segment whose ACK is at least `offset`; or -1
    uint32_t size
    uint32_t taken          # bytes in the block before these, which the reader has taken
    bint segment_start
    bint conflict

cdef struct Stream:
    Pool* pool
    uint64_t* counters
    uint8_t base            # Base
    uint8_t mapped          # `anchor` is valid: sequence numbers can be turned into offsets
    uint8_t syn_seen        # a SYN, or the ACK of a SYN-ACK, gave the sequence number of the first byte
    uint8_t unacked         # held pieces (the last ones) have an acked_at of -1
    uint8_t seen            # a packet of this direction was seen
    uint8_t absent          # it is known by the other side only: nothing waits for it
    uint8_t ended           # its end was handed over
    uint8_t from_start      # what is read first is its true first byte
    uint8_t waits           # not 0: the reader must not read on; a code of the reader's own says why
    uint8_t hurried         # with `waits`: only late segments could decide it, so the wait ends after a hole's grace
    uint32_t anchor         # the sequence number of offset ORIGIN
    uint32_t syn_seq        # the sequence number of the first byte, valid with syn_seen
    int64_t start           # base known: the offset where the stream begins; else the first offset heard of, or -1
    int64_t next            # base known: the offset of the next byte to read
    int64_t top             # one past the highest byte seen
    int64_t acked           # the other side's highest ACK; -1 none
    int64_t acked_at        # the offset, in the other direction, of the first segment with that ACK; -1 unknown
    int64_t end             # the offset of a FIN or RST; -1 none
    Held** held             # an array of `space` pointers, of which `count` from `first` on are used
    uint32_t first
    uint32_t count
    uint32_t space
    int64_t held_bytes      # bytes of payload held
    int64_t held_memory     # bytes of memory of the held pieces

cdef inline int64_t stream_offset(const Stream* stream, uint32_t seq) noexcept nogil:
    """The offset of `seq` that is nearest to `next` (base known) or `top`. The stream must be mapped."""
    cdef int64_t near = stream.next if stream.base == BASE_KNOWN else stream.top
    return near + <int32_t>(seq - <uint32_t>(stream.anchor + <uint32_t>(near - ORIGIN)))

cdef inline void stream_map(Stream* stream, uint32_t seq) noexcept nogil:
    """Maps `seq` to ORIGIN: the number of the first segment, or of an ACK that came before any segment."""
    stream.mapped = True
    stream.anchor = seq

cdef inline Held* stream_front(const Stream* stream) noexcept nogil:
    """The held piece with the lowest offset, or NULL."""
    return stream.held[stream.first] if stream.count else NULL

cdef inline void stream_wait(Stream* stream, uint8_t reason) noexcept nogil:
    """The stream's bytes wait, from now on and in no hurry, until its reader clears `waits`. `reason` is not 0."""
    stream.waits = reason
    stream.hurried = False


cdef inline uint8_t* held_data(Held* held) noexcept nogil:
    return <uint8_t*>held + sizeof(Held) + held.taken

cdef inline void stream_acknowledge(Stream* stream, int64_t ack, int64_t at) noexcept nogil:
    """Notes a new highest ACK. `at`: offset, in the other direction, of the segment that has it."""
    stream.acked = ack
    stream.acked_at = at
    if stream.unacked:
        stream_mark(stream)

cdef void stream_mark(Stream* stream) noexcept nogil
    # Sets acked_at of the held pieces that the highest ACK covers.
cdef void stream_init(Stream* stream, Pool* pool, uint64_t* counters) noexcept nogil
cdef int64_t stream_free(Stream* stream) noexcept nogil
    # Frees everything held. Returns how many bytes of payload that was; the caller counts them.
cdef void stream_buffer(Stream* stream, const Run* run) noexcept nogil
    # Holds a copy of the parts of `run` that are not held yet. Parts that are held stay as they are: the new ones are
    # counted as duplicate, and as a conflict if their bytes differ.
cdef bint stream_differs(const Stream* stream, const uint8_t* data, int64_t size, int64_t offset) noexcept nogil
    # Whether bytes are held at these offsets that differ from `data`.
cdef void stream_read(const Stream* stream, Run* run) noexcept nogil
    # Sets `run` to the front held piece, which must exist and stays held until it is taken.
cdef uint32_t stream_copy(const Stream* stream, int64_t offset, uint8_t* bytes, uint32_t most) noexcept nogil
    # Copies at most `most` held bytes from `offset` on, up to the first hole. Returns how many.
cdef void stream_take(Stream* stream, int64_t size) noexcept nogil
    # Removes `size` bytes, which the reader has taken, from the front held piece; frees the piece if it is empty.
