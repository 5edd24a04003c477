"""Finds frames again; see search.pxd."""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memmove

from sniffer_core.base.memory cimport Pool, pool_give, pool_resize, pool_take
from sniffer_core.protocols.http2.frames cimport (
    CONTINUATION, END_HEADERS, END_STREAM, FRAME_HEADER, HAS_PRIORITY, HEADERS, PADDED, PUSH_PROMISE, frame_is_legal,
)
from sniffer_core.protocols.http2.hpack cimport (
    HPACK_DEFAULT, HPACK_OK, HpackField, HpackTable, hpack_close, hpack_decode, hpack_open,
)
from sniffer_core.tcp.stream cimport Run

cdef enum:
    SPACE_FIRST = 2048
    BLOCK_MOST = 65536          # bytes of fields, see hpack_decode()

cdef enum Verdict:
    NO = -1
    MORE = 0
    YES = 1

cdef struct Looked:             # what a block begins with
    bint any
    bint pseudo                 # its first field is a pseudo-header field, or not known


cdef void look(void* user, const HpackField* field) noexcept nogil:
    cdef Looked* looked = <Looked*>user
    if not looked.any:
        looked.any = True
        looked.pseudo = field.name == NULL or (field.name_size > 0 and field.name[0] == 58)


cdef bint parses(Pool* pool, const uint8_t* frame, uint32_t size) noexcept nogil:
    """Whether the whole HEADERS frame of `size` bytes has a block that a decoder can read which has just come."""
    cdef uint32_t begin = FRAME_HEADER
    cdef uint32_t end = size
    cdef HpackTable table
    cdef Looked looked
    cdef int result
    if frame[4] & PADDED:
        end -= min(end, <uint32_t>frame[FRAME_HEADER])
        begin += 1
    if frame[4] & HAS_PRIORITY:
        begin += 5
    if end < begin:
        return False
    looked.any = looked.pseudo = False
    hpack_open(&table, pool, HPACK_DEFAULT, True)
    result = hpack_decode(&table, frame + begin, end - begin, &look, &looked, BLOCK_MOST)
    hpack_close(&table)
    return result == HPACK_OK and (looked.pseudo or frame[4] & END_STREAM != 0)


cdef Verdict check(Pool* pool, const uint8_t* data, uint32_t size, bint from_server, bint whole) noexcept nogil:
    """Whether frames begin with the first byte. `whole`: the last byte ends a segment."""
    cdef uint32_t at = 0
    cdef uint32_t frames = 0
    cdef uint32_t length
    cdef bint continues = False     # a field block has begun
    while size - at >= FRAME_HEADER:
        if not frame_is_legal(data + at, from_server, True) or (data[at + 3] == CONTINUATION) != continues:
            return NO
        frames += 1
        if frames == CHAIN:
            return YES
        length = FRAME_HEADER + (<uint32_t>data[at] << 16 | <uint32_t>data[at + 1] << 8 | data[at + 2])
        if length > size - at:
            return MORE
        if data[at + 3] == HEADERS and data[at + 4] & END_HEADERS and not parses(pool, data + at, length):
            return NO
        if data[at + 3] == HEADERS or data[at + 3] == CONTINUATION or data[at + 3] == PUSH_PROMISE:
            continues = not data[at + 4] & END_HEADERS
        at += length
    return YES if whole and at == size and frames and not continues else MORE


cdef void search_init(Search* search, Pool* pool) noexcept nogil:
    search.pool = pool
    search.data = NULL
    search.size = search.space = search.count = 0


cdef int64_t search_free(Search* search) noexcept nogil:
    cdef int64_t size = search.size
    pool_give(search.pool, search.data, search.space)
    search.pool.held -= size
    search_init(search, search.pool)
    return size


cdef int64_t drop_first(Search* search) noexcept nogil:
    """Gives up the bytes before the next segment's first byte. Returns how many."""
    cdef uint32_t next = 1
    cdef uint32_t i, size
    while next < search.count and not search.piece[next].segment_start:
        next += 1
    if next == search.count:
        return search_free(search)
    size = search.piece[next].at
    search.size -= size
    search.count -= next
    search.pool.held -= size
    memmove(search.data, search.data + size, search.size)
    memmove(search.piece, search.piece + next, search.count * sizeof(Piece))
    for i in range(search.count):
        search.piece[i].at -= size
    return size


cdef bint make_space(Search* search, uint32_t size) noexcept nogil:
    cdef uint32_t need = search.size + size
    cdef uint32_t space = max(need, max(<uint32_t>SPACE_FIRST, 2 * search.space))
    cdef uint8_t* data
    if need <= search.space:
        return True
    if search.data == NULL:
        data = <uint8_t*>pool_take(search.pool, space)
    else:
        data = <uint8_t*>pool_resize(search.pool, search.data, search.space, space)
    if data == NULL:
        return False
    search.data = data
    search.space = space
    return True


cdef int64_t search_add(Search* search, const Run* run) noexcept nogil:
    cdef Piece* piece
    cdef int64_t dropped = 0
    if search.count == 0 and not run.segment_start:
        return run.size
    while search.count and (search.size + run.size > SEARCH_MAX or search.count == SEARCH_PIECES):
        dropped += drop_first(search)
    if (search.count == 0 and not run.segment_start) or run.size > SEARCH_MAX or \
            not make_space(search, <uint32_t>run.size):
        return dropped + search_free(search) + run.size
    piece = &search.piece[search.count]
    piece.at = search.size
    piece.offset = run.offset
    piece.stamp = run.stamp
    piece.ack = run.ack
    piece.segment_start = run.segment_start
    piece.conflict = run.conflict
    memcpy(search.data + search.size, run.data, run.size)
    search.size += <uint32_t>run.size
    search.count += 1
    search.pool.held += run.size
    return dropped


cdef bint search_found(Search* search, bint from_server, int64_t* dropped) noexcept nogil:
    cdef Verdict verdict
    dropped[0] = 0
    while search.count:
        verdict = check(search.pool, search.data, search.size, from_server, True)
        if verdict != NO:
            return verdict == YES
        dropped[0] += drop_first(search)
    return False


cdef bint search_fits(Pool* pool, const uint8_t* data, uint32_t size, bint from_server) noexcept nogil:
    return check(pool, data, size, from_server, True) == YES
