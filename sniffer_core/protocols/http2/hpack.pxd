# HPACK (RFC 7541), read by an observer who may have come late and may have lost bytes.
#
# Index i of the dynamic table is the i-th newest insertion, whatever was evicted (section 2.3.2). So a table that holds
# only the insertions since it was opened or forgotten gives each index up to their number exactly. What lies beyond is
# unknown, and never guessed; such an entry has a number by which it is told apart from others.
#
# A table is exact while everything that the encoder's table holds is known, else partial. In an exact table an index
# beyond the entries is an error.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from sniffer_core.base.memory cimport Pool

cdef enum:
    HPACK_OK = 0
    HPACK_ERROR = -1        # the block contradicts RFC 7541 or the table; the table is forgotten
    HPACK_MEMORY = -2       # there was no memory: the sink missed fields, the table stays right
    HPACK_BOUND = -3        # the fields exceed max_bytes: the sink missed the later ones, the table stays right

cdef enum:
    HPACK_DEFAULT = 4096    # SETTINGS_HEADER_TABLE_SIZE unless it is set (RFC 9113 section 6.5.2)
    HPACK_KEPT = 65536      # most of a table that is kept, by the size of section 4.1; a larger one becomes partial

cdef struct HpackEntry:
    uint32_t at             # where its name begins, counted as `base`; its value follows
    uint32_t name_size
    uint32_t value_size
    int64_t unknown_name    # as in HpackField

cdef struct HpackTable:     # of one direction
    Pool* pool
    HpackEntry* entries     # a ring; the i-th newest is entries[(head - i) % slots]
    uint8_t* text           # names and values, oldest first
    uint32_t slots          # 0 or a power of 2
    uint32_t head           # insertions that were kept, ever
    uint32_t count          # entries that are kept: the newest ones
    uint32_t base           # position of text[0]
    uint32_t end            # position behind the newest entry
    uint32_t space          # bytes of `text`
    uint32_t used           # size of the kept entries (section 4.1)
    uint32_t size           # what the encoder's table may hold; a guess unless `measured`
    uint32_t limit          # SETTINGS_HEADER_TABLE_SIZE in force
    uint32_t epoch          # how often it was forgotten
    int64_t inserted        # insertions since it was opened or forgotten
    bint measured           # `size` is known
    bint partial            # the encoder's table may hold more than is kept

cdef struct HpackField:
    # A field of a block. Its bytes are valid in the call of the sink alone. An unknown name or value is NULL and has a
    # number > 0, else the number is 0. The same number means the same entry; the n-th insertion before a table that was
    # joined late has n, so that the numbers of a connection that lost nothing are small.
    const uint8_t* name
    const uint8_t* value
    uint32_t name_size
    uint32_t value_size
    int64_t unknown_name
    int64_t unknown_value
    bint never_indexed      # section 6.2.3: its sender holds it for a secret

ctypedef void (*HpackSink)(void* user, const HpackField* field) noexcept nogil

cdef int hpack_open(HpackTable* table, Pool* pool, uint32_t table_size, bint joined_late) noexcept nogil
    # Opens a table that is at the start of its connection, with the size that both ends begin with; `joined_late`: at
    # another place, with a size that is not known. Takes no memory yet. Always HPACK_OK.

cdef void hpack_close(HpackTable* table) noexcept nogil
    # Gives back the memory. May be called again.

cdef void hpack_forget(HpackTable* table) noexcept nogil
    # Blocks were lost: no earlier entry can be known any more.

cdef void hpack_limit(HpackTable* table, uint32_t settings_size) noexcept nogil
    # SETTINGS_HEADER_TABLE_SIZE that the receiver of this direction has set and the sender has acknowledged.

cdef int hpack_decode(
    HpackTable* table, const uint8_t* block, size_t size, HpackSink sink, void* user, size_t max_bytes
) noexcept nogil
    # Reads one whole field block and gives each field to the sink, in order. Each field counts with its name, its value
    # and 32 bytes towards `max_bytes`, as for SETTINGS_MAX_HEADER_LIST_SIZE (RFC 9113 section 6.5.2).
