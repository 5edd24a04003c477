"""HPACK; see hpack.pxd. Section numbers without a document are those of RFC 7541."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from sniffer_core.base.memory cimport Pool, pool_give, pool_take

cdef enum:
    STATIC_COUNT = 61
    OVERHEAD = 32               # of an entry (section 4.1)
    INTEGER_MOST = 1 << 28      # nothing that is real comes near
    INDEX_MOST = 1 << 16        # of a partial table; one of more entries would hold 2 MiB at least
    EVICTED = 0x80000000          # marks the number of an insertion that was seen and is not kept
    SCRATCH = 4096
    TEXT_FIRST = 512            # least bytes of a table's text
    SLOTS_FIRST = 16

cdef enum:                      # the Huffman code (appendix B)
    EOS = 256
    SHORT = 12                  # bits that one look-up decides
    LONGEST = 30

# The number of bits of each symbol's code, EOS at the end. The code is canonical: codes of one length follow each other
# in the order of their symbols, and those of the next length continue there. So the lengths are all of it.
cdef bytes LENGTHS = bytes((
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28,
    28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6,
    12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5,
    6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22,
    22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21,
    20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22,
    23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26,
    28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27,
    28, 27, 27, 27, 27, 27, 26, 30,
))

# The static table (appendix A), in its order.
cdef bytes ENTRIES = b"""\
:authority
:method GET
:method POST
:path /
:path /index.html
:scheme http
:scheme https
:status 200
:status 204
:status 206
:status 304
:status 400
:status 404
:status 500
accept-charset
accept-encoding gzip, deflate
accept-language
accept-ranges
accept
access-control-allow-origin
age
allow
authorization
cache-control
content-disposition
content-encoding
content-language
content-length
content-location
content-range
content-type
cookie
date
etag
expect
expires
from
host
if-match
if-modified-since
if-none-match
if-range
if-unmodified-since
last-modified
link
location
max-forwards
proxy-authenticate
proxy-authorization
range
referer
refresh
retry-after
server
set-cookie
strict-transport-security
transfer-encoding
user-agent
vary
via
www-authenticate
"""

cdef struct Short:              # what the next SHORT bits begin with
    uint8_t first
    uint8_t second              # also whole, if `symbols` is 2
    uint8_t symbols             # 0: a code longer than SHORT
    uint8_t bits                # of all its symbols
    uint8_t bits_first          # of the first

cdef HpackField[STATIC_COUNT + 1] static_table
cdef Short[1 << SHORT] shorts
cdef uint16_t[EOS + 1] symbols_in_order     # by their codes
cdef uint32_t[LONGEST + 1] first_code       # of each length
cdef uint32_t[LONGEST + 1] codes_behind     # the code behind the last one of each length
cdef uint32_t[LONGEST + 1] first_symbol     # of each length, in symbols_in_order


cdef void make_tables(const uint8_t* lengths, const uint8_t* entries):
    cdef uint32_t code = 0, place = 0, length, symbol, at, rest, begun
    cdef HpackField* field
    for length in range(1, LONGEST + 1):
        code <<= 1
        first_code[length] = code
        first_symbol[length] = place
        for symbol in range(EOS + 1):
            if lengths[symbol] == length:
                symbols_in_order[place] = <uint16_t>symbol
                place += 1
                code += 1
        codes_behind[length] = code
    for at in range(1 << SHORT):
        length = code_length(at, SHORT)
        if length == 0:
            continue
        shorts[at].first = <uint8_t>symbol_of(at, SHORT, length)
        shorts[at].bits_first = shorts[at].bits = <uint8_t>length
        shorts[at].symbols = 1
        rest = SHORT - length
        length = code_length(at & ((1 << rest) - 1), rest)
        if length > 0:
            shorts[at].second = <uint8_t>symbol_of(at & ((1 << rest) - 1), rest, length)
            shorts[at].bits += <uint8_t>length
            shorts[at].symbols = 2
    begun = at = 0
    for place in range(1, STATIC_COUNT + 1):
        field = &static_table[place]
        while entries[at] > 32:
            at += 1
        field.name, field.name_size = entries + begun, at - begun
        begun = at + (entries[at] == 32)
        while entries[at] != 10:
            at += 1
        field.value, field.value_size = entries + begun, at - begun
        at += 1
        begun = at


cdef uint32_t code_length(uint32_t bits, uint32_t count) noexcept nogil:
    """How many of these `count` bits are the code that they begin with; 0: the code is longer."""
    cdef uint32_t length
    for length in range(1, count + 1):
        if (bits >> (count - length)) < codes_behind[length]:
            return length
    return 0


cdef uint32_t symbol_of(uint32_t bits, uint32_t count, uint32_t length) noexcept nogil:
    return symbols_in_order[first_symbol[length] + (bits >> (count - length)) - first_code[length]]


cdef int64_t huffman(const uint8_t* data, size_t size, uint8_t* out) noexcept nogil:
    """Writes the text of a Huffman string to `out`, which has two bytes to spare. Returns its size; -1: malformed."""
    cdef uint64_t window = 0    # its lowest `have` bits are not yet read
    cdef uint32_t have = 0, bits, length, symbol
    cdef size_t at = 0
    cdef uint8_t* begin = out
    cdef const Short* found
    while True:
        while have <= 56 and at < size:
            window = (window << 8) | data[at]
            have += 8
            at += 1
        if have < SHORT:
            break
        found = &shorts[(window >> (have - SHORT)) & ((1 << SHORT) - 1)]
        if found.symbols != 0:
            out[0] = found.first
            out[1] = found.second
            out += found.symbols
            have -= found.bits
            continue
        bits = <uint32_t>(window >> (have - LONGEST) if have >= LONGEST else window << (LONGEST - have))
        bits &= (1 << LONGEST) - 1
        length = code_length(bits, LONGEST)
        if length == 0 or length > have:
            return -1
        symbol = symbol_of(bits, LONGEST, length)
        if symbol == EOS:       # section 5.2: an error
            return -1
        out[0] = <uint8_t>symbol
        out += 1
        have -= length
    while have >= 5:            # fewer bits than one look-up wants, filled up with ones
        bits = <uint32_t>(((window << (SHORT - have)) | ((1 << (SHORT - have)) - 1)) & ((1 << SHORT) - 1))
        found = &shorts[bits]
        if found.symbols == 0 or found.bits_first > have:
            break
        out[0] = found.first
        out += 1
        have -= found.bits_first
    bits = (1 << have) - 1
    if have > 7 or (window & bits) != bits:     # section 5.2: padding is less than a byte, of ones
        return -1
    return out - begin


# ---- the dynamic table -----------------------------------------------------------------------------------------------

cdef int hpack_open(HpackTable* table, Pool* pool, uint32_t table_size, bint joined_late) noexcept nogil:
    table.pool = pool
    table.entries = NULL
    table.text = NULL
    table.slots = table.head = table.count = table.base = table.end = table.space = table.used = 0
    table.size = max(table_size, <uint32_t>HPACK_DEFAULT) if joined_late else table_size
    table.limit = table_size
    table.epoch = 0
    table.inserted = 0
    table.measured = not joined_late
    table.partial = joined_late
    return HPACK_OK


cdef void hpack_close(HpackTable* table) noexcept nogil:
    pool_give(table.pool, table.entries, table.slots * sizeof(HpackEntry))
    pool_give(table.pool, table.text, table.space)
    table.entries = NULL
    table.text = NULL
    table.slots = table.count = table.space = table.used = 0


cdef void hpack_forget(HpackTable* table) noexcept nogil:
    drop_all(table)
    table.inserted = 0
    table.epoch += 1
    table.partial = True
    table.measured = False
    table.size = max(table.size, max(table.limit, <uint32_t>HPACK_DEFAULT))


cdef void hpack_limit(HpackTable* table, uint32_t settings_size) noexcept nogil:
    # An encoder that must shrink says so in its next block (section 4.2). One that does not, and evicts nevertheless,
    # only makes entries unreachable: what it still refers to is right.
    table.limit = settings_size
    if not table.measured:
        table.size = max(table.size, settings_size)


cdef void drop_all(HpackTable* table) noexcept nogil:
    table.count = table.used = 0


cdef inline uint32_t room_of(const HpackTable* table) noexcept nogil:
    return min(table.size, <uint32_t>HPACK_KEPT)


cdef inline HpackEntry* newest(const HpackTable* table, uint32_t i) noexcept nogil:
    return &table.entries[(table.head - i) & (table.slots - 1)]


cdef void evict(HpackTable* table, uint32_t cost) noexcept nogil:
    """Makes room for an entry of that size (section 4.4)."""
    cdef HpackEntry* entry
    while table.count > 0 and table.used + cost > room_of(table):
        if table.used + cost <= table.size:
            table.partial = True    # the encoder still has it
        entry = newest(table, table.count)
        table.used -= OVERHEAD + entry.name_size + entry.value_size
        table.count -= 1


cdef void insert_unkept(HpackTable* table) noexcept nogil:
    """An insertion of which nothing is kept, so nothing older can be either: kept are always the newest."""
    drop_all(table)
    table.inserted += 1
    table.partial = True


cdef bint make_slot(HpackTable* table) noexcept nogil:
    """Makes the ring larger if it is full. False: there is no memory."""
    cdef HpackEntry* wider
    cdef uint32_t slots, i
    if table.count < table.slots:
        return True
    slots = 2 * table.slots if table.slots > 0 else SLOTS_FIRST
    wider = <HpackEntry*>pool_take(table.pool, slots * sizeof(HpackEntry))
    if wider == NULL:
        return False
    for i in range(1, table.count + 1):
        wider[(table.head - i) & (slots - 1)] = newest(table, i)[0]
    pool_give(table.pool, table.entries, table.slots * sizeof(HpackEntry))
    table.entries = wider
    table.slots = slots
    return True


cdef bint keep(HpackTable* table, const HpackField* field) noexcept nogil:
    """Puts an entry in front. False: there is no memory. The name may lie in the table's own text."""
    cdef uint32_t size = field.name_size + field.value_size
    cdef uint32_t begin = newest(table, table.count).at if table.count > 0 else table.end
    cdef uint32_t live = table.end - begin
    cdef uint32_t space
    cdef uint8_t* text = table.text
    cdef uint8_t* old = NULL
    cdef uint32_t old_space = table.space
    cdef HpackEntry* entry
    if not make_slot(table):
        return False
    if table.text == NULL or table.end - table.base + size > table.space:   # an empty text is not an unknown one
        space = max(2 * (live + size), <uint32_t>TEXT_FIRST)
        text = <uint8_t*>pool_take(table.pool, space)
        if text == NULL:
            return False
        old = table.text
        if live > 0:
            memcpy(text, old + (begin - table.base), live)
        table.text = text
        table.space = space
        table.base = begin
    text += table.end - table.base
    if field.name_size > 0:
        memcpy(text, field.name, field.name_size)
    if field.value_size > 0:
        memcpy(text + field.name_size, field.value, field.value_size)
    pool_give(table.pool, old, old_space)
    entry = newest(table, 0)
    entry.at = table.end
    entry.name_size = field.name_size
    entry.value_size = field.value_size
    entry.unknown_name = field.unknown_name
    table.end += size
    table.head += 1
    table.count += 1
    table.used += OVERHEAD + size
    return True


cdef bint insert(HpackTable* table, const HpackField* field) noexcept nogil:
    """Inserts a field (section 4.4). False: there is no memory, so it is not kept."""
    cdef uint32_t cost = OVERHEAD + field.name_size + field.value_size
    if cost > room_of(table):
        if table.measured and cost > table.size:    # it empties the table and is not inserted
            drop_all(table)
            table.partial = False
        else:
            insert_unkept(table)
        return True
    evict(table, cost)
    if not keep(table, field):
        insert_unkept(table)
        return False
    table.inserted += 1
    return True


cdef bint look_up(const HpackTable* table, uint32_t index, HpackField* field) noexcept nogil:
    """Sets the names and values of `field` to those of an entry (section 2.3.3). False: there is no such entry."""
    cdef const HpackEntry* entry
    cdef const uint8_t* text
    cdef uint32_t place
    if index <= STATIC_COUNT:
        field[0] = static_table[index]
        return index != 0
    index -= STATIC_COUNT
    field.unknown_value = 0
    if index <= table.count:
        entry = newest(table, index)
        text = table.text + (entry.at - table.base)
        field.name = text if entry.unknown_name == 0 else NULL
        field.name_size = entry.name_size
        field.unknown_name = entry.unknown_name
        field.value = text + entry.name_size
        field.value_size = entry.value_size
        return True
    if not table.partial or index > INDEX_MOST:
        return False
    if index > table.inserted:
        place = <uint32_t>(index - table.inserted)
    else:
        place = EVICTED | <uint32_t>(table.inserted - index) & 0x7FFFFFFF
    field.name = field.value = NULL
    field.name_size = field.value_size = 0
    field.unknown_name = field.unknown_value = (<int64_t>table.epoch << 32) | place
    return True


# ---- blocks ----------------------------------------------------------------------------------------------------------

cdef struct Block:
    HpackTable* table
    const uint8_t* at
    const uint8_t* end
    HpackSink sink
    void* user
    size_t left                 # bytes of fields that may still come
    int result                  # not HPACK_OK: fields are still read, so that the table stays right, and not given
    uint8_t* scratch            # SCRATCH bytes, for the texts of one field
    size_t scratch_used
    uint8_t* long_name          # texts that the scratch is too small for
    uint8_t* long_value
    size_t long_name_space
    size_t long_value_space


cdef int64_t read_integer(Block* block, int prefix) noexcept nogil:
    """An integer whose first byte is the next one (section 5.1); -1: cut or too large."""
    cdef uint32_t most = (1 << prefix) - 1
    cdef uint32_t shift = 0
    cdef int64_t value
    cdef uint8_t byte
    if block.at == block.end:
        return -1
    value = block.at[0] & most
    block.at += 1
    if value < most:
        return value
    while block.at < block.end and shift <= 28:
        byte = block.at[0]
        block.at += 1
        value += <int64_t>(byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value if value <= INTEGER_MOST else -1
    return -1


cdef uint8_t* text_space(Block* block, size_t size, bint value) noexcept nogil:
    """Where a decoded text of that size can be put; NULL: there is no memory."""
    cdef uint8_t* space
    if block.scratch_used + size <= SCRATCH:
        space = block.scratch + block.scratch_used
        block.scratch_used += size
        return space
    space = <uint8_t*>pool_take(block.table.pool, size)
    if space == NULL:
        return NULL
    if value:
        block.long_value = space
        block.long_value_space = size
    else:
        block.long_name = space
        block.long_name_space = size
    return space


cdef bint read_string(Block* block, HpackField* field, bint value) noexcept nogil:
    """A string literal (section 5.2), the name or value of `field`. False: malformed."""
    cdef bint coded = block.at < block.end and block.at[0] & 0x80
    cdef int64_t size = read_integer(block, 7)
    cdef const uint8_t* text = block.at
    cdef uint8_t* space
    if size < 0 or size > block.end - block.at:
        return False
    block.at += size
    if block.result != HPACK_OK:
        return True
    if coded and size > 0:
        space = text_space(block, <size_t>(size * 8 // 5 + 2), value)
        if space == NULL:
            block.result = HPACK_MEMORY
            return True
        size = huffman(text, <size_t>size, space)
        if size < 0:
            return False
        text = space
    if value:
        field.value = text
        field.value_size = <uint32_t>size
    else:
        field.name = text
        field.name_size = <uint32_t>size
    return True


cdef void give(Block* block, const HpackField* field) noexcept nogil:
    """Gives a field to the sink, unless it exceeds the bound."""
    cdef size_t size = <size_t>field.name_size + field.value_size + OVERHEAD
    if block.result != HPACK_OK:
        return
    if size > block.left:
        block.result = HPACK_BOUND
        return
    block.left -= size
    block.sink(block.user, field)


cdef void end_literal(Block* block, const HpackField* field, bint inserted) noexcept nogil:
    """A literal was read: gives and inserts it."""
    give(block, field)
    if inserted:
        # Beyond the bound texts are not copied any more: a short block could make much work of it.
        if block.result != HPACK_OK:
            insert_unkept(block.table)
        elif not insert(block.table, field):
            block.result = HPACK_MEMORY
    if block.long_name != NULL:
        pool_give(block.table.pool, block.long_name, block.long_name_space)
        block.long_name = NULL
    if block.long_value != NULL:
        pool_give(block.table.pool, block.long_value, block.long_value_space)
        block.long_value = NULL


cdef bint read_literal(Block* block) noexcept nogil:
    """A literal field (section 6.2). False: malformed."""
    cdef HpackField field
    cdef uint8_t first = block.at[0]
    cdef bint inserted = (first & 0xC0) == 0x40
    cdef int64_t index = read_integer(block, 6 if inserted else 4)
    cdef bint good
    block.scratch_used = 0
    field.unknown_name = 0
    if index > 0:
        good = look_up(block.table, <uint32_t>index, &field)
    else:
        good = index == 0 and read_string(block, &field, False)
    field.unknown_value = 0
    field.never_indexed = (first & 0xF0) == 0x10
    good = good and read_string(block, &field, True)
    if good:
        end_literal(block, &field, inserted)
    else:
        pool_give(block.table.pool, block.long_name, block.long_name_space)
        pool_give(block.table.pool, block.long_value, block.long_value_space)
    return good


cdef bint read_updates(Block* block) noexcept nogil:
    """The size updates at the start of a block, at most two (sections 4.2 and 6.3). False: malformed."""
    cdef HpackTable* table = block.table
    cdef int64_t size
    cdef int updates = 0
    while block.at < block.end and (block.at[0] & 0xE0) == 0x20:
        size = read_integer(block, 5)
        updates += 1
        # The limit is sure only if every SETTINGS frame of the other side was seen.
        if size < 0 or updates > 2 or (size > table.limit and not table.partial):
            return False
        table.size = <uint32_t>size
        table.measured = True
        evict(table, 0)
        if size == 0:
            drop_all(table)
            table.partial = False
    return True


cdef bint read_fields(Block* block) noexcept nogil:
    """All fields of a block. False: malformed."""
    cdef HpackField field
    cdef int64_t index
    field.never_indexed = False
    while block.at < block.end:
        if block.at[0] & 0x80:      # section 6.1
            index = read_integer(block, 7)
            if index < 0 or not look_up(block.table, <uint32_t>index, &field):
                return False
            give(block, &field)
        elif (block.at[0] & 0xE0) == 0x20 or not read_literal(block):
            return False
    return True


cdef int hpack_decode(
    HpackTable* table, const uint8_t* block, size_t size, HpackSink sink, void* user, size_t max_bytes
) noexcept nogil:
    cdef uint8_t[SCRATCH] scratch
    cdef Block reading
    reading.table = table
    reading.at = block
    reading.end = block + size
    reading.sink = sink
    reading.user = user
    reading.left = max_bytes
    reading.result = HPACK_OK
    reading.scratch = scratch
    reading.long_name = reading.long_value = NULL
    reading.long_name_space = reading.long_value_space = 0
    if not read_updates(&reading) or not read_fields(&reading):
        hpack_forget(table)
        return HPACK_ERROR
    return reading.result


make_tables(LENGTHS, ENTRIES)
