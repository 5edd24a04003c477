# Every allocation that traffic causes goes through a Pool. Its `bytes` are what the memory budget is compared with; its
# `blocks` are 0 after FlowTable.flush(), or something leaked. Each block has one owner, which gives it back.

from libc.stdint cimport int64_t
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
