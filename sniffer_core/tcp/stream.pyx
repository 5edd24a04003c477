"""One direction's byte stream; see stream.pxd for the interface and the invariant."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove, memset

from sniffer_core.base.counters cimport Counter
from sniffer_core.base.memory cimport Pool, pool_give, pool_resize, pool_take


cdef void stream_init(Stream* stream, Pool* pool, uint64_t* counters) noexcept nogil:
    memset(stream, 0, sizeof(Stream))
    stream.pool = pool
    stream.counters = counters
    stream.start = -1
    stream.next = ORIGIN
    stream.top = ORIGIN
    stream.acked = -1
    stream.acked_at = -1
    stream.end = -1


cdef int64_t stream_free(Stream* stream) noexcept nogil:
    cdef int64_t bytes = stream.held_bytes
    while stream.count:
        stream_take(stream, stream_front(stream).size)
    pool_give(stream.pool, stream.held, stream.space * sizeof(Held*))
    stream.held = NULL
    stream.space = 0
    stream.first = 0
    return bytes


cdef uint32_t search(const Stream* stream, int64_t offset) noexcept nogil:
    """Index of the first held piece that ends beyond `offset` (stream.first + stream.count if there is none)."""
    cdef uint32_t low = stream.first
    cdef uint32_t high = stream.first + stream.count
    cdef uint32_t middle
    if stream.count and stream.held[high - 1].offset + stream.held[high - 1].size <= offset:
        return high     # the usual case: behind all held pieces
    while low < high:
        middle = (low + high) // 2
        if stream.held[middle].offset + stream.held[middle].size <= offset:
            low = middle + 1
        else:
            high = middle
    return low


cdef bint insert(Stream* stream, uint32_t at, const uint8_t* data, int64_t size, int64_t offset,
                 bint segment_start, const Run* run) noexcept nogil:
    cdef Held* held
    cdef Held** grown
    cdef uint32_t space
    if stream.first + stream.count == stream.space:
        if stream.first > stream.space // 2:    # moving down costs less than the removals that made the room in front
            memmove(stream.held, stream.held + stream.first, stream.count * sizeof(Held*))
            at -= stream.first
            stream.first = 0
        else:
            space = stream.space * 2 if stream.space else 8
            if stream.held == NULL:
                grown = <Held**>pool_take(stream.pool, space * sizeof(Held*))
            else:
                grown = <Held**>pool_resize(
                    stream.pool, stream.held, stream.space * sizeof(Held*), space * sizeof(Held*))
            if grown == NULL:
                return False
            stream.held = grown
            stream.space = space
    held = <Held*>pool_take(stream.pool, sizeof(Held) + <size_t>size)
    if held == NULL:
        return False
    held.offset = offset
    held.size = <uint32_t>size
    held.taken = 0
    held.stamp = run.stamp
    held.ack = run.ack
    held.acked_at = stream.acked_at if stream.acked >= offset else -1
    if held.acked_at < 0:
        stream.unacked = True
    held.segment_start = segment_start
    held.conflict = run.conflict
    memcpy(held_data(held), data, <size_t>size)
    memmove(stream.held + at + 1, stream.held + at, (stream.first + stream.count - at) * sizeof(Held*))
    stream.held[at] = held
    stream.count += 1
    stream.held_bytes += size
    stream.pool.held += size
    stream.held_memory += size + <int64_t>sizeof(Held)
    return True


cdef void stream_mark(Stream* stream) noexcept nogil:
    cdef uint32_t at = stream.first + stream.count
    stream.unacked = stream.count > 0 and stream.held[at - 1].offset > stream.acked
    while at > stream.first and stream.held[at - 1].acked_at < 0:
        at -= 1
        if stream.held[at].offset <= stream.acked:
            stream.held[at].acked_at = stream.acked_at


cdef void stream_buffer(Stream* stream, const Run* run) noexcept nogil:
    cdef const uint8_t* data = run.data
    cdef int64_t offset = run.offset
    cdef int64_t end = run.offset + run.size
    cdef int64_t piece
    cdef uint32_t at
    cdef Held* held
    cdef bint fresh = False
    while offset < end:
        at = search(stream, offset)
        held = stream.held[at] if at < stream.first + stream.count else NULL
        if held != NULL and held.offset <= offset:      # held already: the bytes that came first are kept
            piece = min(end, held.offset + held.size) - offset
            if memcmp(data, held_data(held) + (offset - held.offset), <size_t>piece) != 0:
                held.conflict = True
                stream.counters[<int>Counter.OVERLAP_CONFLICTS] += 1
            stream.counters[<int>Counter.BYTES_DUPLICATE] += <uint64_t>piece
        else:
            piece = (end if held == NULL else min(end, held.offset)) - offset
            fresh = True
            if not insert(stream, at, data, piece, offset, run.segment_start and offset == run.offset, run):
                stream.counters[<int>Counter.BYTES_ABANDONED_EVICTED] += <uint64_t>piece    # the allocation failed
        offset += piece
        data += piece
    if not fresh:
        stream.counters[<int>Counter.SEGMENTS_RETRANSMITTED] += 1


cdef bint stream_differs(const Stream* stream, const uint8_t* data, int64_t size, int64_t offset) noexcept nogil:
    cdef uint32_t at = search(stream, offset)
    cdef Held* held
    cdef int64_t start
    cdef int64_t end
    while at < stream.first + stream.count and stream.held[at].offset < offset + size:
        held = stream.held[at]
        start = max(offset, held.offset)
        end = min(offset + size, held.offset + held.size)
        if memcmp(data + (start - offset), held_data(held) + (start - held.offset), <size_t>(end - start)) != 0:
            return True
        at += 1
    return False


cdef void stream_read(const Stream* stream, Run* run) noexcept nogil:
    cdef Held* front = stream_front(stream)
    run.data = held_data(front)
    run.size = front.size
    run.offset = front.offset
    run.stamp = front.stamp
    run.ack = front.ack
    run.segment_start = front.segment_start
    run.conflict = front.conflict


cdef void stream_take(Stream* stream, int64_t size) noexcept nogil:
    cdef Held* front = stream_front(stream)
    stream.held_bytes -= size
    stream.pool.held -= size
    if size < front.size:
        front.taken += <uint32_t>size
        front.offset += size
        front.size -= <uint32_t>size
        if size:
            front.segment_start = False
        return
    stream.held_memory -= <int64_t>sizeof(Held) + front.taken + front.size
    pool_give(stream.pool, front, sizeof(Held) + front.taken + front.size)
    stream.count -= 1
    stream.first = stream.first + 1 if stream.count else 0


cdef uint32_t stream_copy(const Stream* stream, int64_t offset, uint8_t* bytes, uint32_t most) noexcept nogil:
    cdef uint32_t size = 0
    cdef uint32_t piece
    cdef int64_t skip
    cdef uint32_t at = stream.first
    cdef Held* held
    while at < stream.first + stream.count and size < most:
        held = stream.held[at]
        skip = offset + size - held.offset
        if skip < 0:
            break
        if skip < held.size:
            piece = min(held.size - <uint32_t>skip, most - size)
            memcpy(bytes + size, held_data(held) + skip, piece)
            size += piece
        at += 1
    return size
