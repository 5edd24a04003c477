# Every block that traffic can make the core allocate is taken from and given back to a Pool, so that one number says
# what the table holds (the budget) and another that nothing leaked (blocks is 0 after flush()).
#
# One owner per allocation: stream owns its held segments, http1 its buffers and the open message, flow owns both.

from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc, realloc


cdef struct Pool:
    int64_t bytes       # live bytes, as asked for
    int64_t blocks      # live blocks
    int64_t held        # payload bytes that wait in streams, of all that use this pool
    int64_t spare       # for tests: the number of the next allocation that gets no memory, from 1; 0 none


cdef inline bint pool_starves(Pool* pool) noexcept nogil:
    """Whether this allocation is the one that gets no memory."""
    if pool.spare == 0:
        return False
    pool.spare -= 1
    return pool.spare == 0


cdef inline void* pool_take(Pool* pool, size_t size) noexcept nogil:
    """A new block of `size` > 0 bytes, or NULL when the system has none."""
    cdef void* block = NULL if pool_starves(pool) else malloc(size)
    if block != NULL:
        pool.bytes += <int64_t>size
        pool.blocks += 1
    return block


cdef inline void* pool_resize(Pool* pool, void* block, size_t old, size_t new) noexcept nogil:
    """`block` grown or shrunk from `old` to `new` bytes; NULL (block unchanged) when the system has none."""
    cdef void* moved = NULL if pool_starves(pool) else realloc(block, new)
    if moved != NULL:
        pool.bytes += <int64_t>new - <int64_t>old
    return moved


cdef inline void pool_give(Pool* pool, void* block, size_t size) noexcept nogil:
    """Gives back a block of `size` bytes; NULL is nothing."""
    if block != NULL:
        pool.bytes -= <int64_t>size
        pool.blocks -= 1
        free(block)
