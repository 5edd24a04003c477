# Every allocation that traffic causes goes through a Pool. Its `bytes` are what the memory budget is compared with; its
# `blocks` are 0 after FlowTable.flush(), or something leaked. Each block has one owner, which gives it back.

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc, realloc


cdef struct Pool:
    int64_t bytes       # allocated now, without what malloc adds
    int64_t blocks      # allocated now
    int64_t held        # payload bytes that wait in the streams that use this pool
    int64_t spare       # for tests: the allocation that gets no memory, counted from the next one, which is 1; 0: none


cdef inline bint pool_starves(Pool* pool) noexcept nogil:
    """Whether a test wants this allocation to get no memory."""
    if pool.spare == 0:
        return False
    pool.spare -= 1
    return pool.spare == 0


cdef inline void* pool_take(Pool* pool, size_t size) noexcept nogil:
    """A new block of `size` > 0 bytes; NULL: there is no memory."""
    cdef void* block = NULL if pool_starves(pool) else malloc(size)
    if block != NULL:
        pool.bytes += <int64_t>size
        pool.blocks += 1
    return block


cdef inline void* pool_resize(Pool* pool, void* block, size_t old, size_t new) noexcept nogil:
    """Resizes `block` from `old` to `new` bytes and returns where it is now. NULL: no memory, `block` is as before."""
    cdef void* moved = NULL if pool_starves(pool) else realloc(block, new)
    if moved != NULL:
        pool.bytes += <int64_t>new - <int64_t>old
    return moved


cdef inline void pool_give(Pool* pool, void* block, size_t size) noexcept nogil:
    """Gives back a block of `size` bytes. NULL is ignored."""
    if block != NULL:
        pool.bytes -= <int64_t>size
        pool.blocks -= 1
        free(block)


# ---- slabs -----------------------------------------------------------------------------------------------------------
#
# Blocks of one size that live long stand together in slabs. If they were scattered among the blocks of messages, which
# live for microseconds, malloc would merge and split the free memory between them all the time, and the processor's
# caches would miss: a third of the time of a message on 100,000 connections.

cdef enum:
    SLAB_BYTES = 1 << 18
    SLAB_HEADER = 16        # bytes before a block, which hold a pointer to its slab; blocks are aligned to as many
    SLAB_SIZES = 4          # sizes that have slabs; blocks of further sizes come from pool_take()

cdef struct Slab:           # its blocks follow in the same memory
    Slab* next              # of those with a free block
    Slab* previous
    void* given_back        # the last block that was given back; it holds a pointer to the one before
    uint32_t used           # blocks that are in use
    uint32_t fresh          # offset of the first block that was never used, header included

cdef struct Slabs:          # of one size; `size` 0: of none yet
    size_t size
    Slab* first             # of those with a free block


cdef inline Slabs* slabs_of(Slabs* all_sizes, size_t size) noexcept nogil:
    """The slabs for blocks of that size; NULL: it has none."""
    cdef int i
    for i in range(SLAB_SIZES):
        if all_sizes[i].size == 0:
            all_sizes[i].size = size
        if all_sizes[i].size == size:
            return &all_sizes[i]
    return NULL


cdef inline bint slab_is_full(const Slab* slab, size_t size) noexcept nogil:
    return slab.given_back == NULL and slab.fresh + SLAB_HEADER + size > SLAB_BYTES


cdef inline void slab_link(Slabs* slabs, Slab* slab) noexcept nogil:
    slab.previous = NULL
    slab.next = slabs.first
    if slab.next != NULL:
        slab.next.previous = slab
    slabs.first = slab


cdef inline void slab_unlink(Slabs* slabs, Slab* slab) noexcept nogil:
    if slab.previous == NULL:
        slabs.first = slab.next
    else:
        slab.previous.next = slab.next
    if slab.next != NULL:
        slab.next.previous = slab.previous


cdef inline void* slab_take(Pool* pool, Slabs* all_sizes, size_t size) noexcept nogil:
    """A new block of `size` bytes, far less than a slab; NULL: there is no memory."""
    cdef Slabs* slabs
    cdef Slab* slab
    cdef void* block
    size = (size + 15) & ~<size_t>15
    slabs = slabs_of(all_sizes, size)
    if slabs == NULL:
        return pool_take(pool, size)
    if pool_starves(pool):
        return NULL
    slab = slabs.first
    if slab == NULL:
        slab = <Slab*>malloc(SLAB_BYTES)
        if slab == NULL:
            return NULL
        slab.given_back = NULL
        slab.used = 0
        slab.fresh = <uint32_t>((sizeof(Slab) + 15) & ~<size_t>15)
        slab_link(slabs, slab)
    block = slab.given_back
    if block != NULL:
        slab.given_back = (<void**>block)[0]
    else:
        block = <uint8_t*>slab + slab.fresh + SLAB_HEADER
        (<Slab**>(<uint8_t*>block - SLAB_HEADER))[0] = slab
        slab.fresh += <uint32_t>(SLAB_HEADER + size)
    slab.used += 1
    if slab_is_full(slab, size):
        slab_unlink(slabs, slab)
    pool.bytes += <int64_t>size
    pool.blocks += 1
    return block


cdef inline void slab_give(Pool* pool, Slabs* all_sizes, void* block, size_t size) noexcept nogil:
    """Gives back a block of slab_take()."""
    cdef Slabs* slabs
    cdef Slab* slab
    size = (size + 15) & ~<size_t>15
    slabs = slabs_of(all_sizes, size)
    if slabs == NULL:
        pool_give(pool, block, size)
        return
    slab = (<Slab**>(<uint8_t*>block - SLAB_HEADER))[0]
    if slab_is_full(slab, size):
        slab_link(slabs, slab)
    (<void**>block)[0] = slab.given_back
    slab.given_back = block
    slab.used -= 1
    if slab.used == 0:
        slab_unlink(slabs, slab)
        free(slab)
    pool.bytes -= <int64_t>size
    pool.blocks -= 1
