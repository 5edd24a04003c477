"""Parses the heads of HTTP/1 messages; see head.pxd. Every byte is looked at a bounded number of times."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport INT64_MAX
from libc.string cimport memchr, memcmp, memcpy, memset, strstr

from sniffer_core.base.ascii cimport (
    COLON, COMMA, CR, DEL, FF, HTAB, LF, POINT, SEMICOLON, SP, VT, ascii_lower, ascii_same, is_blank, is_digit,
)
from sniffer_core.base.counters cimport HEADS_FAST, HEADS_H11, HEADS_REFUSED
from sniffer_core.base.memory cimport pool_give, pool_take
from sniffer_core.base.marks cimport (
    BIT_BAD_HEADER_LINE, BIT_BARE_LF, BIT_CL_CONFLICTING, BIT_CL_INVALID, BIT_CL_REPEATED, BIT_CL_ZERO_PADDED,
    BIT_OBS_FOLD, BIT_ODD_START_LINE, BIT_SPACE_BEFORE_COLON, BIT_SPACE_IN_TARGET, BIT_TE_AND_CL, BIT_TE_FOLDED,
    BIT_TE_IDENTITY, BIT_TE_IN_HTTP10, BIT_TE_NOT_CHUNKED, INCOMPLETE_MALFORMED_,
)
from sniffer_core.message cimport REQUEST, RESPONSE, Field, Fields, fields_of

from sniffer_core.protocols.http1.heads import parse as parse_declined

cdef enum:
    ODD_STATUS_LINE = 64        # most bytes of an odd status line up to its code
    FRAMING_LONGEST = 17        # bytes of Transfer-Encoding

# The methods of the IANA registry, and others in use.
cdef const char* METHODS = (
    b" GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK SEARCH "
    b"REPORT ACL BASELINE-CONTROL BIND CHECKIN CHECKOUT LABEL LINK MERGE MKACTIVITY MKCALENDAR MKREDIRECTREF "
    b"MKWORKSPACE ORDERPATCH REBIND UNBIND UNCHECKOUT UNLINK UPDATE UPDATEREDIRECTREF VERSION-CONTROL "
    b"QUERY PURGE M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE "
)

cdef void fill_class() noexcept:
    cdef int c
    for c in range(256):
        CLASS[c] = 0
        if c >= 0x20 and c != 0x7F:
            CLASS[c] |= TARGET | REASON
            if c < 0x7F:
                CLASS[c] |= PLAIN
        if c == HTAB:
            CLASS[c] |= PLAIN | REASON
    for c in b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ":
        CLASS[c] |= TOKEN


fill_class()


cdef struct Facts:              # what a block of header lines says
    uint32_t anomalies          # Anomaly bits
    uint8_t trailers            # True: the lines are trailers, so they do not change the framing
    uint8_t coded               # True: Transfer-Encoding names a coding other than identity
    uint8_t identity            # True: Transfer-Encoding names identity
    uint8_t transfer            # as in Framing
    uint8_t chunked             # as in Framing
    uint8_t broken              # True: a line that is no field may frame the body; or, of trailers, begins a message
    uint8_t connection_upgrade  # True: Connection names Upgrade
    uint8_t upgrade             # True: Upgrade names a protocol
    uint8_t upgrade_other       # True: Upgrade names a protocol other than h2c
    uint8_t expect              # True: Expect names 100-continue
    int64_t length              # as in Framing


cdef inline void clear(Facts* facts, bint trailers) noexcept nogil:
    memset(facts, 0, sizeof(Facts))
    facts.length = LENGTH_NONE
    facts.trailers = trailers


# -- lists ------------------------------------------------------------------------------------------------------------

cdef inline bint is_space(const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Whether a blank or the line end of a fold is at `at`. A blank always follows such a line end."""
    return at[0] == SP or at[0] == HTAB or at[0] == LF or (at[0] == CR and at + 1 < end and at[1] == LF)


cdef bint next_element(const uint8_t** at, const uint8_t* end, const uint8_t** element, uint32_t* size) noexcept nogil:
    """Finds the next element of a comma-separated list, trimmed and maybe empty. `at` becomes NULL after the last."""
    cdef const uint8_t* start = at[0]
    cdef const uint8_t* stop
    if start == NULL:
        return False
    stop = <const uint8_t*>memchr(start, COMMA, end - start)
    if stop == NULL:
        stop = end
        at[0] = NULL
    else:
        at[0] = stop + 1
    while start < stop and is_space(start, stop):
        start += 1
    while stop > start and (stop[-1] == SP or stop[-1] == HTAB or stop[-1] == LF or
                            (stop[-1] == CR and stop < end and stop[0] == LF)):
        stop -= 1
    element[0] = start
    size[0] = <uint32_t>(stop - start)
    return True


# -- start lines ------------------------------------------------------------------------------------------------------

cdef bint parse_start_line(uint8_t kind, const uint8_t* data, uint32_t size, StartLine* line) noexcept nogil:
    cdef uint32_t i, last
    memset(line, 0, sizeof(StartLine))
    if size and data[size - 1] == CR:
        size -= 1
    if kind == RESPONSE:
        if not is_status_line(data, size) or (size > STATUS_LINE and data[STATUS_LINE] != SP):
            return False
        for i in range(STATUS_LINE, size):
            if not CLASS[data[i]] & REASON:
                return False
        line.minor = data[7] != 0x30
        line.status = (data[9] - 0x30) * 100 + (data[10] - 0x30) * 10 + (data[11] - 0x30)
        if size > STATUS_LINE + 1:
            line.reason.at = STATUS_LINE + 1
            line.reason.size = size - STATUS_LINE - 1
        return True
    if size < 12:  # "M T HTTP/1.1"
        return False
    last = size - 9
    if data[last] != SP or memcmp(data + last + 1, b"HTTP/1.", 7) != 0 or not is_digit(data[size - 1]):
        return False
    i = 0
    while CLASS[data[i]] & TOKEN:  # an SP stands at `last`
        i += 1
    if i == 0 or data[i] != SP or i + 1 >= last:
        return False
    line.method.size = i
    line.target.at = i + 1
    line.target.size = last - i - 1
    for i in range(line.target.at, last):
        if not CLASS[data[i]] & TARGET:
            return False
    line.minor = data[size - 1] != 0x30
    if memchr(data + line.target.at, SP, line.target.size) == NULL:
        return True
    line.anomalies = BIT_SPACE_IN_TARGET
    return data[line.target.at] != SP and data[last - 1] != SP     # several SPs between two parts: an odd line


cdef bint parse_odd_line(uint8_t kind, const uint8_t* data, uint32_t size, StartLine* line) noexcept nogil:
    cdef uint32_t i, version, target, major = 0
    cdef bint more = False
    memset(line, 0, sizeof(StartLine))
    line.anomalies = BIT_ODD_START_LINE
    if size and data[size - 1] == CR:
        size -= 1
    if kind == RESPONSE:
        i = odd_status(data, size, line, &more)
        if i == 0 or (i < size and not is_blank(data[i])):
            return False
        line.reason.at = min(i + 1, size)
        line.reason.size = size - line.reason.at
        for i in range(line.reason.at, size):
            if not CLASS[data[i]] & REASON:
                return False
        return True
    while size and is_blank(data[size - 1]):
        size -= 1
    version = size
    while version and data[version - 1] != SP:
        version -= 1
    if odd_version(data + version, size - version, &major, &line.minor, &more) != size - version or major != 1 or \
            memchr(data + version, POINT, size - version) == NULL:
        return False
    while version and data[version - 1] == SP:
        version -= 1
    while line.method.size < version and CLASS[data[line.method.size]] & TOKEN:
        line.method.size += 1
    target = line.method.size
    while target < version and data[target] == SP:
        target += 1
    if line.method.size == 0 or target == line.method.size or target == version:
        return False
    line.target.at = target
    line.target.size = version - target
    for i in range(target, version):
        if not CLASS[data[i]] & TARGET:
            return False
    if memchr(data + target, SP, line.target.size) != NULL:
        line.anomalies |= BIT_SPACE_IN_TARGET
    return True


cdef uint32_t odd_version(
    const uint8_t* data, uint32_t size, uint32_t* major, uint8_t* minor, bint* more
) noexcept nogil:
    """Returns the size of the version that `data` begins with.

    It may have letters in any case, any number of digits, and no minor version. 0: there is none; `more` becomes True
    if further bytes could complete one.
    """
    cdef uint32_t i = 0, start
    more[0] = False
    while i < size and i < 5:
        if ascii_lower(data[i]) != <uint8_t>(<const char*>b"http/")[i]:
            return 0
        i += 1
    start = i
    while i < size and is_digit(data[i]):
        major[0] = min(major[0] * 10 + (data[i] - 0x30), <uint32_t>99)
        i += 1
    if i < 5 or i == start:
        more[0] = i == size
        return 0
    if i < size and data[i] == POINT:
        start = i + 1
        i = start
        while i < size and is_digit(data[i]):
            minor[0] |= data[i] != 0x30
            i += 1
        if i == start:
            more[0] = i == size
            return 0
    return i


cdef uint32_t odd_status(const uint8_t* data, uint32_t size, StartLine* line, bint* more) noexcept nogil:
    cdef uint32_t at, start, major = 0
    cdef bint room = size < ODD_STATUS_LINE
    if not room:
        size = ODD_STATUS_LINE
    at = odd_version(data, size, &major, &line.minor, more)
    if at == 0:
        more[0] = more[0] and room
        return 0
    start = at
    while at < size and is_blank(data[at]):
        at += 1
    if at < size and (at == start or not 1 <= major <= 3):
        return 0
    start = at
    while at < size and at < start + 3:
        if not is_digit(data[at]):
            return 0
        line.status = line.status * 10 + (data[at] - 0x30)
        at += 1
    if at < start + 3:
        more[0] = room
        return 0
    if major > 1:
        line.minor = 1
    return at


cdef bint is_method(const uint8_t* data, uint32_t size) noexcept nogil:
    cdef char[METHOD_LONGEST + 3] word
    if size > METHOD_LONGEST:
        return False
    word[0] = word[size + 1] = SP
    word[size + 2] = 0
    memcpy(word + 1, data, size)
    return strstr(METHODS, word) != NULL


cdef bint is_cut_method(const uint8_t* data, uint32_t size) noexcept nogil:
    cdef char[METHOD_LONGEST + 2] word
    cdef uint32_t i
    for i in range(1, size):
        if is_method(data + i, size - i):
            return True
    if size >= METHOD_LONGEST or is_method(data, size):
        return False
    memcpy(word, data, size)
    word[size] = SP
    word[size + 1] = 0
    return strstr(METHODS, word) != NULL


cdef int http1_starts(Kind kind, const uint8_t* data, int64_t size) noexcept nogil:
    cdef const uint8_t* found = <const uint8_t*>memchr(data, LF, size)
    cdef StartLine line
    cdef int64_t i = 0
    if found != NULL:
        return 1 if parse_start_line(kind, data, <uint32_t>(found - data), &line) else -1
    if kind == RESPONSE:
        while i < size and i < STATUS_LINE:
            if not is_status_byte(<uint32_t>i, data[i]):
                return -1
            i += 1
        return 1 if i == STATUS_LINE else 0
    while i < size and CLASS[data[i]] & TOKEN:
        i += 1
    if i > METHOD_LONGEST or (i < size and (data[i] != SP or not is_method(data, <uint32_t>i))):
        return -1
    while i < size:
        if not CLASS[data[i]] & TARGET and data[i] != CR:
            return -1
        i += 1
    return 0


cdef uint32_t http1_head(Kind kind, const uint8_t* data, uint32_t size) noexcept nogil:
    cdef uint32_t scanned = 0, lines = 0
    return find_head_end(data, size, &scanned, &lines) if http1_starts(kind, data, size) == 1 else 0


# -- header lines -----------------------------------------------------------------------------------------------------

cdef uint32_t find_head_end(const uint8_t* data, uint32_t size, uint32_t* scanned, uint32_t* lines) noexcept nogil:
    cdef const uint8_t* found
    cdef uint32_t at
    while True:
        found = <const uint8_t*>memchr(data + scanned[0], LF, size - scanned[0])
        if found == NULL:
            scanned[0] = size
            return 0
        at = <uint32_t>(found - data)
        if at + 1 < size and data[at + 1] == LF:
            return at + 2
        if at + 1 == size or (data[at + 1] == CR and at + 2 == size):
            scanned[0] = at
            return 0
        if data[at + 1] == CR and data[at + 2] == LF:
            return at + 3
        lines[0] += 1
        scanned[0] = at + 1


cdef uint32_t count_lines(const uint8_t* data, uint32_t size) noexcept nogil:
    cdef const uint8_t* at = data
    cdef const uint8_t* end = data + size
    cdef uint32_t count = 0
    while True:
        at = <const uint8_t*>memchr(at, LF, end - at)
        if at == NULL:
            return count
        at += 1
        count += 1


cdef void learn_length(Facts* facts, const uint8_t* value, uint32_t size) noexcept nogil:
    """Reads a Content-Length field (RFC 9110 section 8.6). A list of equal numbers counts as one number."""
    cdef const uint8_t* at = value
    cdef const uint8_t* element = NULL
    cdef uint32_t element_size = 0, i
    cdef int64_t number
    cdef bint valid
    while next_element(&at, value + size, &element, &element_size):
        number = 0
        valid = element_size > 0
        for i in range(element_size):
            if not is_digit(element[i]) or number > (INT64_MAX - (element[i] - 0x30)) // 10:
                valid = False
                break
            number = number * 10 + (element[i] - 0x30)
        if not valid:
            facts.anomalies |= BIT_CL_INVALID
            facts.length = LENGTH_INVALID
            continue
        if element_size > 1 and element[0] == 0x30:
            facts.anomalies |= BIT_CL_ZERO_PADDED
        if facts.length == LENGTH_NONE:
            facts.length = number
        elif facts.length == number:
            facts.anomalies |= BIT_CL_REPEATED
        elif facts.length >= 0:
            facts.anomalies |= BIT_CL_CONFLICTING
            facts.length = LENGTH_INVALID


cdef void learn_transfer(Facts* facts, const uint8_t* value, uint32_t size) noexcept nogil:
    """Reads a Transfer-Encoding field (RFC 9112 section 6.1). The last coding of the last such field decides `chunked`.

    Empty elements do not count. If all codings are identity (RFC 2616 section 3.6), it is as if the field were absent.
    """
    cdef const uint8_t* at = value
    cdef const uint8_t* element = NULL
    cdef const uint8_t* parameter
    cdef uint32_t element_size = 0
    while next_element(&at, value + size, &element, &element_size):
        if element_size == 0:
            continue
        parameter = <const uint8_t*>memchr(element, SEMICOLON, element_size)
        if parameter != NULL:
            element_size = <uint32_t>(parameter - element)
            while element_size and is_space(element + element_size - 1, parameter):
                element_size -= 1
        facts.chunked = element_size == 7 and ascii_same(element, b"chunked", 7)
        if element_size == 8 and ascii_same(element, b"identity", 8):
            facts.identity = True
            facts.anomalies |= BIT_TE_IDENTITY
        else:
            facts.coded = True
    facts.transfer = facts.coded or not facts.identity


cdef void learn(
    Facts* facts, const uint8_t* name, uint32_t name_size, const uint8_t* value, uint32_t value_size
) noexcept nogil:
    """Notes what a header line says about framing, Upgrade and Expect."""
    cdef const uint8_t* at = value
    cdef const uint8_t* element = NULL
    cdef uint32_t size = 0
    if name_size == 14:
        if ascii_same(name, b"content-length", 14):
            learn_length(facts, value, value_size)
    elif name_size == 17:
        if ascii_same(name, b"transfer-encoding", 17):
            learn_transfer(facts, value, value_size)
    elif name_size == 10:
        if ascii_same(name, b"connection", 10):
            while next_element(&at, value + value_size, &element, &size):
                if size == 7 and ascii_same(element, b"upgrade", 7):
                    facts.connection_upgrade = True
    elif name_size == 6:
        if ascii_same(name, b"expect", 6):
            while next_element(&at, value + value_size, &element, &size):
                if size == 12 and ascii_same(element, b"100-continue", 12):
                    facts.expect = True
    elif name_size == 7:
        if ascii_same(name, b"upgrade", 7):
            while next_element(&at, value + value_size, &element, &size):
                if size:
                    facts.upgrade = True
                    if not (size == 3 and ascii_same(element, b"h2c", 3)):
                        facts.upgrade_other = True


cdef bint parse_lines(const uint8_t* data, uint32_t at, uint32_t stop, Field* field, Facts* facts) noexcept nogil:
    """Parses the header lines in data[at:stop] by the plain grammar, a Field for each. False: they do not match it."""
    cdef uint64_t word = 0
    cdef uint32_t start, end
    cdef bint trailers = facts.trailers
    while at < stop:
        start = at
        while CLASS[data[at]] & TOKEN:  # ends at the line's LF at the latest
            at += 1
        field.name.at = start
        field.name.size = at - start
        if at == start:
            return False
        if data[at] != COLON:
            while data[at] == SP or data[at] == HTAB:
                at += 1
            if data[at] != COLON:
                return False
            facts.anomalies |= BIT_SPACE_BEFORE_COLON
        at += 1
        while data[at] == SP or data[at] == HTAB:
            at += 1
        start = at
        while True:
            # Skips eight bytes at a time while all are from SP to '~'. Only other bytes can cause borrows or carries.
            while at + 8 <= stop:
                memcpy(&word, data + at, 8)
                if (word | (word + 0x0101010101010101ULL) | (word - 0x2020202020202020ULL)) & 0x8080808080808080ULL:
                    break
                at += 8
            while CLASS[data[at]] & PLAIN:
                at += 1
                if data[at - 1] == HTAB:
                    break
            else:
                break
        end = at
        if data[at] == CR and data[at + 1] == LF:  # the LF that ends the line is at or after `at`
            at += 2
        elif data[at] == LF:
            facts.anomalies |= BIT_BARE_LF
            at += 1
        else:
            return False
        while end > start and (data[end - 1] == SP or data[end - 1] == HTAB):
            end -= 1
        field.value.at = start
        field.value.size = end - start
        if not trailers:
            learn(facts, data + field.name.at, field.name.size, data + start, end - start)
        field += 1
    return True


cdef bint is_field(const uint8_t* data, uint32_t name, uint32_t size) noexcept nogil:
    """Whether h11 reads a line of `size` bytes, with the lines that continue it, as a field.

    `name`: number of bytes before the colon, without the blanks directly before it.
    """
    cdef uint32_t i
    cdef uint8_t c
    for i in range(name):
        if not CLASS[data[i]] & TOKEN:
            return False
    for i in range(name, size):
        c = data[i]
        if c == 0 or c == VT or c == FF or (c == CR and data[i + 1] != LF):     # the last byte is an LF
            return False
    return name > 0


cdef bint names_framing(const uint8_t* line, uint32_t size) noexcept nogil:
    """Whether another parser may find Content-Length or Transfer-Encoding in a line that is no field.

    Names are compared without blanks, control characters and bytes that are not ASCII (some parsers strip U+00A0). Some
    parsers end a line at a bare CR, so the text behind one is tested as a line too.
    """
    cdef uint8_t[FRAMING_LONGEST + 1] name
    cdef uint32_t i, length = 0
    cdef bint named = False
    for i in range(size + 1):
        if i < size and line[i] != CR and line[i] != COLON:
            if not named and SP < line[i] < DEL and length <= FRAMING_LONGEST:
                name[length] = line[i]
                length += 1
            continue
        if not named and (length == 14 and ascii_same(name, b"content-length", 14)
                          or length == 17 and ascii_same(name, b"transfer-encoding", 17)):
            return True
        named = i < size and line[i] == COLON
        length = 0
    return False


cdef uint32_t sift_lines(
    uint8_t kind, const uint8_t* data, uint32_t at, uint32_t stop, uint8_t* kept, Facts* facts
) noexcept nogil:
    """Reads framing and anomalies from a block of lines that parse_lines() declined, as h11 does not decide these.

    Copies every field, with the lines that continue it, to `kept`. Returns the number of bytes copied.
    """
    cdef bint trailers = facts.trailers
    cdef const uint8_t* found
    cdef uint32_t start, first_end, end, name, before, size = 0
    cdef StartLine line
    cdef bint folded
    while at < stop:
        start = at
        end = first_end = <uint32_t>(<const uint8_t*>memchr(data + at, LF, stop - at) - data)
        at = end + 1
        if end == start or data[end - 1] != CR:
            facts.anomalies |= BIT_BARE_LF
        folded = False
        while at < stop and (data[at] == SP or data[at] == HTAB):
            folded = True
            end = <uint32_t>(<const uint8_t*>memchr(data + at, LF, stop - at) - data)
            at = end + 1
            if data[end - 1] != CR:
                facts.anomalies |= BIT_BARE_LF
        if folded or data[start] == SP or data[start] == HTAB:
            facts.anomalies |= BIT_OBS_FOLD
        found = <const uint8_t*>memchr(data + start, COLON, first_end - start)
        before = name = 0 if found == NULL else <uint32_t>(found - data) - start
        while name and (data[start + name - 1] == SP or data[start + name - 1] == HTAB):
            name -= 1
        if not is_field(data + start, name, at - start):
            facts.anomalies |= BIT_BAD_HEADER_LINE
            if trailers and (parse_start_line(kind, data + start, first_end - start, &line) or
                             parse_odd_line(kind, data + start, first_end - start, &line)):
                facts.broken = True
            elif not trailers and names_framing(data + start, first_end - start):
                facts.broken = True
            continue
        if name < before:
            facts.anomalies |= BIT_SPACE_BEFORE_COLON
        memcpy(kept + size, data + start, at - start)
        size += at - start
        if trailers:
            continue
        if data[end - 1] == CR:
            end -= 1
        learn(facts, data + start, name, found + 1, end - <uint32_t>(found + 1 - data))
        if folded and name == 17 and ascii_same(data + start, b"transfer-encoding", 17):
            facts.anomalies |= BIT_TE_FOLDED
    return size


cdef void* parse_with_h11(
    Pool* pool, size_t struct_size, const uint8_t* prefix, uint32_t prefix_size, const uint8_t* lines, uint32_t size,
    size_t* block_size, uint32_t* count, uint32_t* text_size,
) noexcept with gil:
    """Lets h11 parse lines that parse_lines() declined.

    Returns a block with struct_size bytes for the caller, Field[count], and the text, which begins with `prefix`. NULL:
    h11 refuses the lines, or there is no memory.
    """
    cdef list fields
    cdef bytes name, value
    cdef uint8_t* block
    cdef uint8_t* text
    cdef Field* field
    cdef uint32_t at = prefix_size
    try:
        fields = parse_declined(lines[:size])
    except Exception:  # no traffic should make it raise, but a defect must not end the capture
        return NULL
    if fields is None:
        return NULL
    count[0] = <uint32_t>len(fields)
    text_size[0] = prefix_size
    for name, value in fields:
        text_size[0] += <uint32_t>(PyBytes_GET_SIZE(name) + PyBytes_GET_SIZE(value))
    block_size[0] = struct_size + count[0] * sizeof(Field) + text_size[0]
    block = <uint8_t*>pool_take(pool, block_size[0])
    if block == NULL:
        return NULL
    field = <Field*>(block + struct_size)
    text = <uint8_t*>(field + count[0])
    memcpy(text, prefix, prefix_size)
    for name, value in fields:
        field.name.at = at
        field.name.size = <uint32_t>PyBytes_GET_SIZE(name)
        memcpy(text + at, PyBytes_AS_STRING(name), field.name.size)
        at += field.name.size
        field.value.at = at
        field.value.size = <uint32_t>PyBytes_GET_SIZE(value)
        memcpy(text + at, PyBytes_AS_STRING(value), field.value.size)
        at += field.value.size
        field += 1
    return block


# -- messages and trailers --------------------------------------------------------------------------------------------


cdef Message* build_declined(
    Pool* pool, uint8_t kind, const Head* head, bint candidate, Facts* facts, bint* refused
) noexcept nogil:
    """As build_message(), for lines that parse_lines() declined. It sets size, count and text_size only.

    `refused`: see Framing.
    """
    cdef size_t size = 0
    cdef uint32_t count = 0, text_size
    cdef Message* message = NULL
    cdef uint8_t* kept = <uint8_t*>pool_take(pool, head.stop - head.line_end)
    if kept == NULL:
        return NULL
    text_size = sift_lines(kind, head.data, head.line_end, head.stop, kept, facts)
    if not candidate or not facts.anomalies & BIT_BAD_HEADER_LINE:
        message = <Message*>parse_with_h11(pool, sizeof(Http1Message), head.data, head.line_end, kept, text_size, &size,
                                           &count, &text_size)
    pool_give(pool, kept, head.stop - head.line_end)
    refused[0] = facts.broken
    if message == NULL:
        if candidate:
            return NULL
        refused[0] = True
        count = 0
        text_size = head.line_end
        size = sizeof(Http1Message) + text_size
        message = <Message*>pool_take(pool, size)
        if message == NULL:
            return NULL
        memcpy(<uint8_t*>(as_http1(message) + 1), head.data, text_size)
    memset(message, 0, sizeof(Http1Message))
    message.size = size
    message.count = count
    message.text_size = text_size
    return message


cdef Message* build_message(
    Pool* pool, uint64_t* counters, uint8_t kind, const Head* head, bint candidate, Framing* framing
) noexcept nogil:
    cdef size_t size = sizeof(Http1Message) + head.lines * sizeof(Field) + head.stop
    cdef Message* message = <Message*>pool_take(pool, size)
    cdef bint refused = False
    cdef Facts facts
    if message == NULL:
        return NULL
    clear(&facts, False)
    if parse_lines(head.data, head.line_end, head.stop, <Field*>(as_http1(message) + 1), &facts):
        memset(message, 0, sizeof(Http1Message))
        message.size = size
        message.count = head.lines
        message.text_size = head.stop
        message.fields = <Field*>(as_http1(message) + 1)
        message.text = <uint8_t*>(message.fields + head.lines)
        memcpy(message.text, head.data, head.stop)
        counters[<int>HEADS_FAST] += 1
    else:
        pool_give(pool, message, size)
        clear(&facts, False)
        message = build_declined(pool, kind, head, candidate, &facts, &refused)
        if message == NULL:
            return NULL
        message.fields = <Field*>(as_http1(message) + 1)
        message.text = <uint8_t*>(message.fields + message.count)
        counters[<int>HEADS_H11] += 1
        if refused:
            message.incomplete = INCOMPLETE_MALFORMED_
            counters[<int>HEADS_REFUSED] += 1
            if facts.broken:
                facts.transfer = False
                facts.length = LENGTH_INVALID
    message.kind = kind
    describe(message, head, &facts)
    framing.length = facts.length
    framing.transfer = facts.transfer
    framing.chunked = facts.chunked
    framing.refused = refused
    return message


cdef inline void describe(Message* message, const Head* head, const Facts* facts) noexcept nogil:
    """Sets the members of a message that its start line and header lines decide."""
    cdef Http1Message* http1 = as_http1(message)
    cdef uint32_t anomalies = head.anomalies | head.line.anomalies | facts.anomalies
    message.minor = head.line.minor
    message.status = head.line.status
    message.method = head.line.method
    message.target = head.line.target
    message.reason = head.line.reason
    message.latency = http1.end = -1
    if message.kind == REQUEST:
        http1.upgrade = facts.upgrade and facts.connection_upgrade
        http1.upgrade_h2c = http1.upgrade and not facts.upgrade_other
        http1.expect = facts.expect
    if head.line_end < 2 or head.data[head.line_end - 2] != CR:
        anomalies |= BIT_BARE_LF
    if facts.transfer:
        if facts.length != LENGTH_NONE:
            anomalies |= BIT_TE_AND_CL
        if message.minor == 0:
            anomalies |= BIT_TE_IN_HTTP10
        if not facts.chunked:
            anomalies |= BIT_TE_NOT_CHUNKED
    message.anomalies = anomalies


cdef Trailers build_trailers(
    Pool* pool, uint8_t kind, const uint8_t* data, uint32_t stop, uint32_t lines, Message* message
) noexcept nogil:
    cdef size_t size = sizeof(Fields) + lines * sizeof(Field) + stop
    cdef Fields* fields = <Fields*>pool_take(pool, size)
    cdef uint32_t count = lines, text_size = stop
    cdef Trailers read = TRAILERS_READ
    cdef uint8_t* kept
    cdef Facts facts
    if fields == NULL:
        return TRAILERS_READ
    clear(&facts, True)
    if parse_lines(data, 0, stop, fields_of(fields), &facts):
        memcpy(<uint8_t*>(fields_of(fields) + count), data, stop)
    else:
        pool_give(pool, fields, size)
        kept = <uint8_t*>pool_take(pool, stop)
        if kept == NULL:
            return TRAILERS_READ
        text_size = sift_lines(kind, data, 0, stop, kept, &facts)
        fields = NULL
        if facts.broken:
            read = TRAILERS_NONE
        elif text_size:
            fields = <Fields*>parse_with_h11(pool, sizeof(Fields), data, 0, kept, text_size, &size, &count, &text_size)
            if fields == NULL:
                read = TRAILERS_REFUSED
        pool_give(pool, kept, stop)
    message.anomalies |= facts.anomalies
    message.trailers = fields
    if fields != NULL:
        fields.size = size
        fields.count = count
        fields.never = NULL
    return read
