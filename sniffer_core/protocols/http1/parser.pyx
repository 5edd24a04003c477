"""ONE direction's HTTP/1.x messages; see http1.pxd for the states and events.

A head that lies whole in one run is read where it is; one that comes in pieces is gathered in parser.buffer first. Both
end in build(), which makes the Message: one block, the text copied once. Every byte is looked at a bounded number of
times however the runs are cut, and decisions fall at the same byte: `limits.head` counts bytes of the head, not of runs.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport INT64_MAX, uint16_t
from libc.string cimport memchr, memcmp, memcpy, memmove, memset, strstr

from sniffer_core.base.counters cimport (
    BYTES_ABANDONED_NOT_HTTP, BYTES_ABANDONED_SKIPPED, BYTES_ABANDONED_TUNNEL, BYTES_USED,
    HEADS_CUT, HEADS_FAST, HEADS_H11, HEADS_REFUSED, RESPONSES_TAKEN_BODYLESS, START_LINES_MALFORMED,
    Counter,
)
from sniffer_core.base.memory cimport pool_give, pool_resize, pool_take
from sniffer_core.base.marks cimport (
    BIT_BAD_HEADER_LINE, BIT_BARE_LF, BIT_CL_CONFLICTING, BIT_CL_INVALID, BIT_CL_REPEATED, BIT_CL_ZERO_PADDED,
    BIT_CONFLICTING_OVERLAP, BIT_OBS_FOLD, BIT_ODD_START_LINE, BIT_SPACE_BEFORE_COLON, BIT_SPACE_IN_TARGET,
    BIT_TE_AND_CL, BIT_TE_FOLDED, BIT_TE_IDENTITY, BIT_TE_IN_HTTP10, BIT_TE_NOT_CHUNKED, INCOMPLETE_CLOSED_,
    INCOMPLETE_EVICTED_, INCOMPLETE_GAP_, INCOMPLETE_LIMIT_, INCOMPLETE_MALFORMED_, WHOLE)
from sniffer_core.message cimport REQUEST, RESPONSE, Field, Fields, Text, fields_of, message_free

from sniffer_core.protocols.http1.heads import parse as parse_declined

cdef enum:
    PIECE = 4096                # a head in pieces is gathered in slices of this, so that little of a run is copied in vain
    LINE_LIMIT = 16384          # of a line of chunked framing; extensions are rare and short
    DIGITS_LIMIT = 16           # of a chunk size: more than 64 bits
    STRANGE_LIMIT = 65536       # bytes after which a direction that never spoke HTTP is given up
    BODY_FIRST = 1024           # the first block for a body that comes in pieces
    BUFFER_FIRST = 512
    STATUS_LINE = 12            # bytes of "HTTP/1.1 200"
    ODD_STATUS_LINE = 64        # most bytes of an odd status line up to its code
    FRAMING_LONGEST = 17        # Transfer-Encoding

cdef enum:
    HTAB = 0x09
    LF = 0x0A
    CR = 0x0D
    VT = 0x0B
    FF = 0x0C
    SP = 0x20
    DEL = 0x7F
    COMMA = 0x2C
    POINT = 0x2E
    SLASH = 0x2F
    COLON = 0x3A
    SEMICOLON = 0x3B

cdef enum:                      # bits of CLASS
    TOKEN = 1                   # tchar, RFC 9110 section 5.6.2
    PLAIN = 2                   # visible ASCII, SP and HTAB: field values of the fast path
    TARGET = 4                  # no control character: request targets, as sent
    REASON = 8                  # no control character but HTAB

cdef uint8_t[256] CLASS


cdef void _fill_class() noexcept:
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


_fill_class()


cdef struct StartLine:
    uint8_t minor
    uint16_t status
    uint32_t anomalies
    Text method
    Text target
    Text reason

cdef struct Facts:              # what a header block says about framing, while it is read
    uint32_t anomalies
    bint transfer
    bint chunked
    uint8_t coded               # Transfer-Encoding names a coding other than identity
    uint8_t identity            # .. and identity
    uint8_t broken              # a line that is no field may frame the body; in trailers, begin the next message
    int64_t length
    bint connection_upgrade     # Connection names it
    bint upgrade
    bint upgrade_other          # to anything but h2c
    bint expect                 # 100-continue


# -- words ------------------------------------------------------------------------------------------------------------

cdef inline bint is_digit(uint8_t c) noexcept nogil:
    return 0x30 <= c <= 0x39


cdef inline bint is_blank(uint8_t c) noexcept nogil:
    return c == SP or c == HTAB


cdef inline bint same(const uint8_t* text, const char* lower, uint32_t size) noexcept nogil:
    """Case-insensitive; `lower` holds lower-case letters, digits and '-' alone, `text` no controls."""
    cdef uint32_t i
    for i in range(size):
        if (text[i] | 0x20) != <uint8_t>lower[i]:
            return False
    return True


cdef inline bint is_space(const uint8_t* at, const uint8_t* end) noexcept nogil:
    """OWS, or the line end of a fold (which is always followed by some)."""
    return at[0] == SP or at[0] == HTAB or at[0] == LF or (at[0] == CR and at + 1 < end and at[1] == LF)


cdef bint next_element(const uint8_t** at, const uint8_t* end, const uint8_t** element, uint32_t* size) noexcept nogil:
    """The next element of a comma-separated list, trimmed, maybe empty; `at` becomes NULL after the last."""
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
    """`size` bytes before the LF. RFC 9112 sections 3 and 4; the target is split off at the first and the last SP.

    It may hold others between: its sender did not encode them.
    """
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
    return data[line.target.at] != SP and data[last - 1] != SP     # else there are several blanks between two parts


cdef bint parse_odd_line(uint8_t kind, const uint8_t* data, uint32_t size, StartLine* line) noexcept nogil:
    """A start line that parse_start_line() refuses and that servers or clients take; `size` bytes before the LF.

    A version in small letters or with leading zeros, several blanks between the parts, blanks and tabs behind a request
    line (RFC 9112 section 3) or around a status; in a status line a later major version, and a version without a point.
    It is asked only where a message is due: such a line tells neither a protocol nor a place where a message may begin.
    """
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
    """Size of the version that `data` begins with, in any case, of any digits, maybe without a minor one.

    0: it begins with none; `more` says whether more bytes could make it one.
    """
    cdef uint32_t i = 0, start
    more[0] = False
    while i < size and i < 5:
        if (data[i] | 0x20) != <uint8_t>(<const char*>b"http/")[i]:
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
    """Size of the version, the blanks and the code that `data` begins with, in at most ODD_STATUS_LINE bytes.

    0: it begins with nothing of the kind; `more` says whether more bytes could make it so.
    """
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


cdef inline bint is_status_line(const uint8_t* data, int64_t size) noexcept nogil:
    """Whether `data` begins with "HTTP/1.d ddd"."""
    return (size >= STATUS_LINE and memcmp(data, b"HTTP/1.", 7) == 0 and is_digit(data[7]) and data[8] == SP
            and is_digit(data[9]) and is_digit(data[10]) and is_digit(data[11]))


cdef inline bint is_status_byte(uint32_t i, uint8_t c) noexcept nogil:
    """Whether `c` may be byte `i` < STATUS_LINE of a status line."""
    if i < 7:
        return c == <uint8_t>(<const char*>b"HTTP/1.")[i]
    return c == SP if i == 8 else is_digit(c)


cdef Protocol recognise(const uint8_t* data, int64_t size, bint first) noexcept nogil:
    """What the bytes that begin a segment are, if not HTTP/1. PROTOCOL_HTTP1: too few bytes to say.

    `first`: they begin the stream, where TLS has a handshake record; else any record header, RFC 8446 section 5.1.
    """
    cdef uint32_t length
    if size >= 1 and 0x14 <= data[0] <= 0x17 and (not first or data[0] == 0x16):
        if size < 2:
            return PROTOCOL_HTTP1
        if data[1] != 0x03:
            return PROTOCOL_OTHER
        if first:
            return PROTOCOL_TLS
        if size < 5:
            return PROTOCOL_HTTP1
        length = (<uint32_t>data[3] << 8) | data[4]
        return PROTOCOL_TLS if data[2] <= 4 and length <= 16384 + 2048 else PROTOCOL_OTHER
    if memcmp(data, b"PRI * HTTP/2.0\r\n", min(size, 16)) == 0:  # RFC 9113 section 3.4
        return PROTOCOL_HTTP2 if size >= 16 else PROTOCOL_HTTP1
    return PROTOCOL_OTHER


# -- header lines -----------------------------------------------------------------------------------------------------

cdef uint32_t find_end(const uint8_t* data, uint32_t size, uint32_t* scanned, uint32_t* lines) noexcept nogil:
    """One past the blank line that ends a head, 0 if it is not there; never looks before `scanned` again."""
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


cdef inline uint32_t blank_line(const uint8_t* data, uint32_t end) noexcept nogil:
    """Size of the blank line that ends a block at `end`."""
    return 2 if end >= 2 and data[end - 2] == CR else 1


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
    """Content-Length, RFC 9110 section 8.6: digits; the same number several times is one number."""
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
    """Transfer-Encoding, RFC 9112 section 6.1: the last coding of all lines counts; empty elements do not.

    The coding identity, of RFC 2616, is none: where no other is named the field says nothing.
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
        facts.chunked = element_size == 7 and same(element, b"chunked", 7)
        if element_size == 8 and same(element, b"identity", 8):
            facts.identity = True
            facts.anomalies |= BIT_TE_IDENTITY
        else:
            facts.coded = True
    facts.transfer = facts.coded or not facts.identity


cdef void learn(
    Facts* facts, const uint8_t* name, uint32_t name_size, const uint8_t* value, uint32_t value_size
) noexcept nogil:
    """Takes what a header line says about framing."""
    cdef const uint8_t* at = value
    cdef const uint8_t* element = NULL
    cdef uint32_t size = 0
    if name_size == 14:
        if same(name, b"content-length", 14):
            learn_length(facts, value, value_size)
    elif name_size == 17:
        if same(name, b"transfer-encoding", 17):
            learn_transfer(facts, value, value_size)
    elif name_size == 10:
        if same(name, b"connection", 10):
            while next_element(&at, value + value_size, &element, &size):
                if size == 7 and same(element, b"upgrade", 7):
                    facts.connection_upgrade = True
    elif name_size == 6:
        if same(name, b"expect", 6):
            while next_element(&at, value + value_size, &element, &size):
                if size == 12 and same(element, b"100-continue", 12):
                    facts.expect = True
    elif name_size == 7:
        if same(name, b"upgrade", 7):
            while next_element(&at, value + value_size, &element, &size):
                if size:
                    facts.upgrade = True
                    if not (size == 3 and same(element, b"h2c", 3)):
                        facts.upgrade_other = True


cdef bint parse_lines(const uint8_t* data, uint32_t at, uint32_t stop, Field* field, Facts* facts) noexcept nogil:
    """The fast path: fills one Field for each header line in data[at:stop]. False: it declines the block.

    `facts` is NULL for trailers, except for their anomalies: nothing in a trailer changes the framing.
    """
    cdef uint64_t word = 0
    cdef uint32_t start, end
    cdef bint trailers = facts.length == LENGTH_INVALID
    while at < stop:
        start = at
        while CLASS[data[at]] & TOKEN:  # every line ends in LF, which is none
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
            # Eight bytes at once: none below SP, above '~' or HTAB. A borrow or carry can only follow one that is.
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
    """Whether these `size` bytes, a line and those that continue it, are a field as h11 reads it.

    Its first `name` bytes stand before the colon and the blanks in front of that.
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
    """Whether another reader may find a framing field in a line that is no field.

    Its name counts without blanks and controls (without all that is not ASCII, as U+00A0 is). Some readers end lines at
    a bare CR, so what follows one is looked at as a line too.
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
        if not named and (length == 14 and same(name, b"content-length", 14)
                          or length == 17 and same(name, b"transfer-encoding", 17)):
            return True
        named = i < size and line[i] == COLON
        length = 0
    return False


cdef uint32_t sift_lines(
    uint8_t kind, const uint8_t* data, uint32_t at, uint32_t stop, uint8_t* kept, Facts* facts
) noexcept nogil:
    """Reads framing and anomalies from a block that the fast path declined, folds joined: h11 does not see those.

    Copies the lines to `kept`, and returns their size: all but those that are no fields, and what continues them.
    """
    cdef bint trailers = facts.length == LENGTH_INVALID
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
        if folded and name == 17 and same(data + start, b"transfer-encoding", 17):
            facts.anomalies |= BIT_TE_FOLDED
    return size


cdef void* judge(
    Pool* pool, size_t struct_size, const uint8_t* prefix, uint32_t prefix_size, const uint8_t* lines, uint32_t size,
    size_t* block_size, uint32_t* count, uint32_t* text_size,
) noexcept with gil:
    """The lines of a block that the fast path declined, given to h11. NULL: they are refused.

    Returns what the fast path would have made: struct_size bytes for the caller, Field[count], the text, which begins
    with `prefix`.
    """
    cdef list fields
    cdef bytes name, value
    cdef uint8_t* block
    cdef uint8_t* text
    cdef Field* field
    cdef uint32_t at = prefix_size
    try:
        fields = parse_declined(lines[:size])
    except Exception:  # never on account of traffic; a defect here must not end the capture
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


# -- messages ---------------------------------------------------------------------------------------------------------

cdef Message* build(
    Parser* parser, const uint8_t* head, uint32_t line_end, uint32_t stop, uint32_t lines, StartLine* line,
    uint32_t anomalies, bint candidate,
) noexcept nogil:
    """The message whose start line is head[:line_end] and whose `lines` header lines are head[line_end:stop].

    Leaves the framing in `parser`. NULL: no memory, or a candidate with lines that are no fields.
    """
    cdef Message* message
    cdef size_t size = sizeof(Http1Message) + lines * sizeof(Field) + stop
    cdef uint32_t count = lines, text_size = stop
    cdef bint refused = False, declined
    cdef uint8_t* kept
    cdef Facts facts
    memset(&facts, 0, sizeof(Facts))
    facts.length = LENGTH_NONE
    message = <Message*>pool_take(parser.pool, size)
    if message == NULL:
        return NULL
    declined = not parse_lines(head, line_end, stop, <Field*>(as_http1(message) + 1), &facts)
    if declined:
        pool_give(parser.pool, message, size)
        memset(&facts, 0, sizeof(Facts))
        facts.length = LENGTH_NONE
        kept = <uint8_t*>pool_take(parser.pool, stop - line_end)
        if kept == NULL:
            return NULL
        text_size = sift_lines(parser.kind, head, line_end, stop, kept, &facts)
        message = NULL
        if not candidate or not facts.anomalies & BIT_BAD_HEADER_LINE:
            message = <Message*>judge(parser.pool, sizeof(Http1Message), head, line_end, kept, text_size, &size, &count,
                                      &text_size)
        pool_give(parser.pool, kept, stop - line_end)
        if message == NULL and candidate:
            return NULL
        refused = facts.broken
        if message == NULL:
            refused = True
            count = 0
            text_size = line_end
            size = sizeof(Http1Message) + line_end
            message = <Message*>pool_take(parser.pool, size)
            if message == NULL:
                return NULL
            memcpy(<uint8_t*>(as_http1(message) + 1), head, line_end)
    parser.counters[<int>(HEADS_H11 if declined else HEADS_FAST)] += 1

    memset(message, 0, sizeof(Http1Message))
    message.size = size
    message.count = count
    message.fields = <Field*>(as_http1(message) + 1)
    message.text = <uint8_t*>(message.fields + count)
    message.text_size = text_size
    if not declined:
        memcpy(message.text, head, text_size)
    if refused:
        message.incomplete = INCOMPLETE_MALFORMED_
        parser.counters[<int>HEADS_REFUSED] += 1
        if facts.broken:
            facts.transfer = False
            facts.length = LENGTH_INVALID
    message.kind = parser.kind
    message.minor = line.minor
    message.status = line.status
    message.method = line.method
    message.target = line.target
    message.reason = line.reason
    message.resynced = parser.lost
    message.latency = -1
    as_http1(message).end = -1
    if parser.kind == REQUEST:
        as_http1(message).upgrade = facts.upgrade and facts.connection_upgrade
        as_http1(message).upgrade_h2c = as_http1(message).upgrade and not facts.upgrade_other
        as_http1(message).expect = facts.expect

    anomalies |= facts.anomalies
    anomalies |= line.anomalies
    if line_end < 2 or head[line_end - 2] != CR:
        anomalies |= BIT_BARE_LF
    if facts.transfer:
        if facts.length != LENGTH_NONE:
            anomalies |= BIT_TE_AND_CL
        if line.minor == 0:
            anomalies |= BIT_TE_IN_HTTP10
        if not facts.chunked:
            anomalies |= BIT_TE_NOT_CHUNKED
    message.anomalies |= anomalies

    parser.transfer = facts.transfer
    parser.chunked = facts.chunked
    parser.length = facts.length
    parser.message = message
    parser.refused = refused
    parser.body_gap = False
    parser.lost = False
    parser.spoke = True
    return message


cdef bint build_trailers(Parser* parser, const uint8_t* data, uint32_t stop, uint32_t lines) noexcept nogil:
    """Gives the open message the trailers in data[:stop]. False: one of their lines begins a message instead."""
    cdef size_t size = sizeof(Fields) + lines * sizeof(Field) + stop
    cdef Fields* fields = <Fields*>pool_take(parser.pool, size)
    cdef uint32_t count = lines, text_size = stop
    cdef uint8_t* kept
    cdef Facts facts
    if fields == NULL:
        return True
    memset(&facts, 0, sizeof(Facts))
    facts.length = LENGTH_INVALID
    if parse_lines(data, 0, stop, <Field*>(fields + 1), &facts):
        memcpy(<uint8_t*>(<Field*>(fields + 1) + count), data, stop)
    else:
        pool_give(parser.pool, fields, size)
        kept = <uint8_t*>pool_take(parser.pool, stop)
        if kept == NULL:
            return True
        text_size = sift_lines(parser.kind, data, 0, stop, kept, &facts)
        fields = NULL
        count = 0
        if text_size and not facts.broken:
            fields = <Fields*>judge(parser.pool, sizeof(Fields), data, 0, kept, text_size, &size, &count, &text_size)
            if fields == NULL:
                break_off(parser.message, INCOMPLETE_MALFORMED_)
        pool_give(parser.pool, kept, stop)
    parser.message.anomalies |= facts.anomalies
    parser.message.trailers = fields
    if fields != NULL:
        fields.size = size
        fields.count = count
    return not facts.broken


cdef inline void break_off(Message* message, Incomplete reason) noexcept nogil:
    """Says why the message is not whole; the first reason stands."""
    if message.incomplete == WHOLE:
        message.incomplete = reason


cdef void keep(Parser* parser, const uint8_t* data, uint64_t size) noexcept nogil:
    """Takes bytes of the body: counts all, keeps those under the cap and before the first missing one."""
    cdef Message* message = parser.message
    cdef size_t room, need, most, space
    cdef uint8_t* body
    message.body_size += size
    if message.truncated or parser.body_gap:
        return
    room = parser.limits.body - message.body_kept
    if size > room:
        message.truncated = True
        size = room
    if size == 0:
        return
    need = message.body_kept + size
    if need > message.body_space:
        most = parser.limits.body
        if parser.state == BODY_LENGTH and parser.remaining < most - message.body_kept:
            most = message.body_kept + parser.remaining
        space = max(need, min(most, max(<size_t>BODY_FIRST, 2 * message.body_space)))
        if message.body == NULL:
            body = <uint8_t*>pool_take(parser.pool, space)
        else:
            body = <uint8_t*>pool_resize(parser.pool, message.body, message.body_space, space)
        if body == NULL:
            message.truncated = True
            return
        message.body = body
        message.body_space = space
    memcpy(message.body + message.body_kept, data, size)
    message.body_kept = need


# -- the buffer -------------------------------------------------------------------------------------------------------

cdef bint gather(Parser* parser, const uint8_t* data, uint32_t size) noexcept nogil:
    """Appends to the buffer. False: no memory."""
    cdef uint32_t need = parser.buffer_size + size, space
    cdef uint8_t* buffer
    if need > parser.buffer_space:
        space = max(need, max(<uint32_t>BUFFER_FIRST, 2 * parser.buffer_space))
        if parser.buffer == NULL:
            buffer = <uint8_t*>pool_take(parser.pool, space)
        else:
            buffer = <uint8_t*>pool_resize(parser.pool, parser.buffer, parser.buffer_space, space)
        if buffer == NULL:
            return False
        parser.buffer = buffer
        parser.buffer_space = space
    memcpy(parser.buffer + parser.buffer_size, data, size)
    parser.buffer_size = need
    return True


cdef void drop_buffer(Parser* parser) noexcept nogil:
    pool_give(parser.pool, parser.buffer, parser.buffer_space)
    parser.buffer = NULL
    parser.buffer_size = parser.buffer_space = parser.scanned = parser.line_end = parser.lines = parser.seen = 0
    memset(parser.openings, 0, sizeof(parser.openings))
    if parser.later != NULL:
        pool_give(parser.pool, parser.later, LATER_SPACE * sizeof(Opening))
        parser.later = NULL
    parser.later_count = parser.method_end = 0


cdef void drop_message(Parser* parser) noexcept nogil:
    message_free(parser.message, parser.pool)
    parser.message = NULL


# -- moving on --------------------------------------------------------------------------------------------------------

cdef inline void take(Parser* parser, Run* run, int64_t size, Counter counter) noexcept nogil:
    """Consumes from the front of the run."""
    if size:
        run.data += size
        run.size -= size
        run.offset += size
        run.segment_start = False
        parser.counters[<int>counter] += size
        parser.position = run.offset
        parser.last_stamp = run.stamp


cdef inline void use(Parser* parser, Run* run, int64_t size) noexcept nogil:
    """Consumes bytes of the open message."""
    take(parser, run, size, BYTES_USED)
    if size:
        parser.message.stamp_end = run.stamp
        parser.message.end_lost = False
        if run.conflict:
            parser.message.anomalies |= BIT_CONFLICTING_OVERLAP


cdef void start_skip(Parser* parser) noexcept nogil:
    drop_buffer(parser)
    parser.state = SKIP
    parser.skipped = 0
    parser.lost = True


cdef void back_to_skip(Parser* parser) noexcept nogil:
    """A candidate was none: the bytes lost so far are still lost, and nothing else is."""
    drop_buffer(parser)
    parser.state = SKIP


cdef Event finish(Parser* parser, State after) noexcept nogil:
    as_http1(parser.message).end = parser.position
    if parser.unclear:
        parser.unclear = False
        parser.message.missing = -1
        parser.message.end_lost = True
    parser.state = DONE
    parser.after = after
    drop_buffer(parser)
    if after == SKIP:
        parser.skipped = 0
        parser.lost = True
    return EVENT_END


cdef Event malformed(Parser* parser) noexcept nogil:
    """Framing that cannot be read on."""
    break_off(parser.message, INCOMPLETE_MALFORMED_)
    parser.message.missing = -1
    return finish(parser, SKIP)


cdef void begin(Parser* parser) noexcept nogil:
    """Before the first input: without the true first byte, reading begins at a boundary."""
    if not parser.begun:
        parser.begun = True
        if not parser.at_stream_start and parser.state == START:
            parser.state = SKIP


cdef void leave_done(Parser* parser) noexcept nogil:
    if parser.state == DONE:
        drop_message(parser)  # NULL when flow took it
        parser.state = parser.after


cdef Event not_http(Parser* parser, Protocol protocol) noexcept nogil:
    drop_buffer(parser)
    parser.protocol = protocol
    parser.state = DEAD
    return EVENT_NOT_HTTP


# -- heads ------------------------------------------------------------------------------------------------------------

cdef Event head_built(
    Parser* parser, Message* message, int64_t start, int64_t stamp, int64_t ack, bint sure
) noexcept nogil:
    """The head is read; parser.position is its end."""
    as_http1(message).start = start
    as_http1(message).head_end = parser.position
    message.stamp = stamp
    message.stamp_end = parser.last_stamp
    as_http1(message).ack = ack
    as_http1(message).sure = sure
    parser.at_stream_start = False
    parser.state = FRAME
    drop_buffer(parser)
    return EVENT_HEAD


cdef Event no_start_line(Parser* parser, const uint8_t* data, int64_t size) noexcept nogil:
    """`data` stands where a message had to begin, and is none. EVENT_MORE: skipping now."""
    cdef Protocol protocol
    if not parser.spoke:
        protocol = recognise(data, size, True)
        if protocol == PROTOCOL_TLS or protocol == PROTOCOL_HTTP2:
            return not_http(parser, protocol)
        parser.strange = True
    parser.counters[<int>START_LINES_MALFORMED] += 1
    parser.at_stream_start = False
    start_skip(parser)
    return EVENT_MORE


cdef void start_gathering(Parser* parser, Run* run, bint candidate, bint sure) noexcept nogil:
    """A head begins at the front of the run and does not end in it."""
    parser.state = HEAD
    parser.candidate = candidate
    parser.first_offset = run.offset
    parser.first_stamp = run.stamp
    parser.first_ack = run.ack
    parser.first_sure = sure


cdef void open_at(Parser* parser, Run* run, bint sure) noexcept nogil:
    """A start line may begin at the front of the run, behind what the buffer holds."""
    cdef Opening* opening = &parser.openings[<int>STAGE_FIRST]
    cdef uint32_t i, kept = 0
    if parser.kind == REQUEST and not CLASS[run.data[0]] & TOKEN or parser.kind == RESPONSE and run.data[0] != 0x48:
        return
    if opening.alive and parser.kind == REQUEST:
        if parser.later == NULL:
            parser.later = <Opening*>pool_take(parser.pool, LATER_SPACE * sizeof(Opening))
            if parser.later == NULL:
                return
        if parser.later_count == LATER_SPACE:
            for i in range(LATER_SPACE):  # those too far back for any method we know
                if parser.later[i].at + LATER_SPACE > parser.buffer_size:
                    parser.later[kept] = parser.later[i]
                    kept += 1
            parser.later_count = kept
        opening = &parser.later[parser.later_count]
        parser.later_count += 1
    opening.alive = True
    opening.sure = sure
    opening.at = parser.buffer_size
    opening.stamp = run.stamp
    opening.ack = run.ack


cdef Event read_start(Parser* parser, Run* run) noexcept nogil:
    """Between messages. RFC 9112 section 2.2: blank lines before a start line are passed over."""
    cdef int64_t blank = 0
    cdef uint32_t window, line_end, end, scanned, lines = 0
    cdef const uint8_t* found
    cdef StartLine line
    cdef Message* message
    cdef int64_t start, ack
    while blank < run.size and (run.data[blank] == CR or run.data[blank] == LF):
        blank += 1
    take(parser, run, blank, BYTES_USED)
    if run.size == 0:
        return EVENT_MORE
    window = <uint32_t>min(run.size, <int64_t>parser.limits.head)
    found = <const uint8_t*>memchr(run.data, LF, window)
    if found == NULL:
        start_gathering(parser, run, False, True)
        open_at(parser, run, True)
        return EVENT_MORE
    line_end = <uint32_t>(found - run.data) + 1
    if not parse_start_line(parser.kind, run.data, line_end - 1, &line) and \
            not parse_odd_line(parser.kind, run.data, line_end - 1, &line):
        return no_start_line(parser, run.data, run.size)
    scanned = line_end - 1
    end = find_end(run.data, window, &scanned, &lines)
    if end == 0:
        start_gathering(parser, run, False, True)
        parser.line_end = line_end
        parser.scanned = line_end - 1
        return EVENT_MORE
    return read_whole_head(parser, run, &line, line_end, end, lines, False, True)


cdef Event read_whole_head(
    Parser* parser, Run* run, StartLine* line, uint32_t line_end, uint32_t end, uint32_t lines, bint candidate,
    bint sure,
) noexcept nogil:
    """The head is run.data[:end]. EVENT_MORE: it was none after all, and SKIP."""
    cdef int64_t start = run.offset
    cdef uint32_t blank = blank_line(run.data, end)
    cdef uint32_t anomalies = BIT_CONFLICTING_OVERLAP if run.conflict else 0
    if blank == 1:
        anomalies |= BIT_BARE_LF
    cdef Message* message = build(parser, run.data, line_end, end - blank, lines, line, anomalies, candidate)
    if message == NULL:
        if candidate:
            back_to_skip(parser)
        else:
            start_skip(parser)
        return EVENT_MORE
    take(parser, run, end, BYTES_USED)
    return head_built(parser, message, start, run.stamp, run.ack, sure)


cdef bint try_candidate(Parser* parser, Run* run, bint sure, Event* event) noexcept nogil:
    """Whether a head may begin at the front of the run, which is at a boundary."""
    cdef uint32_t window = <uint32_t>min(run.size, <int64_t>parser.limits.head)
    cdef uint32_t line_end, end, scanned, lines = 0
    cdef const uint8_t* found
    cdef StartLine line
    event[0] = EVENT_MORE
    if run.offset < parser.boundary < run.offset + window:
        window = <uint32_t>(parser.boundary - run.offset)
    found = <const uint8_t*>memchr(run.data, LF, window)
    if found == NULL:
        start_gathering(parser, run, True, sure)
        open_at(parser, run, sure)
        return True
    line_end = <uint32_t>(found - run.data) + 1
    if not parse_start_line(parser.kind, run.data, line_end - 1, &line):
        return False
    if parser.kind == REQUEST and not sure and not is_method(run.data, line.method.size):
        return False
    scanned = line_end - 1
    end = find_end(run.data, window, &scanned, &lines)
    if end:
        event[0] = read_whole_head(parser, run, &line, line_end, end, lines, not sure, sure)
        return parser.state != SKIP
    if window == parser.limits.head and not sure:
        return False
    start_gathering(parser, run, not sure, sure)
    parser.line_end = line_end
    parser.scanned = line_end - 1
    return True


cdef Event read_skip(Parser* parser, Run* run) noexcept nogil:
    cdef Event event = EVENT_MORE
    cdef Protocol protocol
    cdef bint sure
    cdef int64_t size
    while True:
        if parser.strange and not parser.spoke and parser.skipped >= STRANGE_LIMIT:
            return not_http(parser, PROTOCOL_OTHER)
        if run.size == 0:
            return EVENT_MORE
        sure = run.offset == parser.boundary
        if sure or run.segment_start:
            if run.segment_start and not parser.spoke and not parser.strange and parser.skipped < STRANGE_LIMIT:
                protocol = recognise(run.data, run.size, False)
                if protocol == PROTOCOL_TLS or protocol == PROTOCOL_HTTP2:
                    return not_http(parser, protocol)
            if try_candidate(parser, run, sure, &event):
                return event
        size = run.size
        if run.offset < parser.boundary < run.offset + size:
            size = parser.boundary - run.offset
        parser.skipped += size
        take(parser, run, size, BYTES_ABANDONED_SKIPPED)


cdef enum Scan:
    SCAN_MORE = 0
    SCAN_FOUND = 1              # the buffer begins with a start line
    SCAN_DEAD = 2               # nothing in the buffer can begin one

cdef enum Stage:                # of an opening
    STAGE_FIRST = 0             # no SP yet; of a status line: not yet its code
    STAGE_NAMED = 1             # method, SP
    STAGE_LINED = 2             # method, SP, target, SP; or a status line up to its code
    STAGES = 3

# The registered methods, and some that are not. Away from a sure boundary no other begins a message: behind lost bytes a
# segment may begin inside a method ("ET / HTTP/1.1"), and text in a body, the next request behind it, looks like one.
cdef const char* METHODS = (
    b" GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK SEARCH "
    b"REPORT ACL BASELINE-CONTROL BIND CHECKIN CHECKOUT LABEL LINK MERGE MKACTIVITY MKCALENDAR MKREDIRECTREF "
    b"MKWORKSPACE ORDERPATCH REBIND UNBIND UNCHECKOUT UNLINK UPDATE UPDATEREDIRECTREF VERSION-CONTROL "
    b"QUERY PURGE M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE "
)

cdef enum:
    LATER_SPACE = METHOD_LONGEST + 1


cdef bint is_method(const uint8_t* data, uint32_t size) noexcept nogil:
    cdef char[METHOD_LONGEST + 3] word
    if size > METHOD_LONGEST:
        return False
    word[0] = word[size + 1] = SP
    word[size + 2] = 0
    memcpy(word + 1, data, size)
    return strstr(METHODS, word) != NULL


cdef bint any_open(Parser* parser) noexcept nogil:
    cdef int i
    for i in range(STAGES):
        if parser.openings[i].alive:
            return True
    return parser.later_count > 0


cdef Scan scan_line(Parser* parser, uint32_t at) noexcept nogil:
    """Reads buffer[at:], the newest bytes of a start line that is not whole yet.

    After lost bytes several places may begin it: the first byte of each segment. Where two lead to a valid line, the
    later one is right: the earlier has the other in its target.
    """
    cdef Opening* first = &parser.openings[<int>STAGE_FIRST]
    cdef Opening* named = &parser.openings[<int>STAGE_NAMED]
    cdef Opening* lined = &parser.openings[<int>STAGE_LINED]
    cdef uint8_t* data = parser.buffer
    cdef uint32_t i
    cdef uint8_t c
    for i in range(at, parser.buffer_size):
        c = data[i]
        if c == LF:
            return found_line(parser, i)
        if i and data[i - 1] == CR:  # a bare CR
            lined.alive = named.alive = False
        if parser.kind == RESPONSE:
            if lined.alive and c != CR:
                lined.alive = c == SP if i - lined.at == STATUS_LINE else CLASS[c] & REASON != 0
            if first.alive:
                first.alive = is_status_byte(i - first.at, c)
                if first.alive and i - first.at == STATUS_LINE - 1:
                    lined[0] = first[0]
                    first.alive = False
        elif c == SP:
            token_ended(parser, i)
        elif not CLASS[c] & TOKEN:
            first.alive = False
            parser.later_count = 0
            if not CLASS[c] & TARGET and c != CR:
                lined.alive = named.alive = False
        if not any_open(parser):
            return SCAN_DEAD
    return SCAN_MORE


cdef void token_ended(Parser* parser, uint32_t space) noexcept nogil:
    """buffer[space] is an SP: what has a method and a target may be a line now, what had neither may have a method."""
    cdef Opening* openings = parser.openings
    cdef Opening* opening
    cdef uint32_t i
    if openings[<int>STAGE_NAMED].alive and parser.method_end + 1 < space:
        openings[<int>STAGE_LINED] = openings[<int>STAGE_NAMED]
        openings[<int>STAGE_NAMED].alive = False
    for i in range(parser.later_count + 1):
        opening = &openings[<int>STAGE_FIRST] if i == 0 else &parser.later[i - 1]
        if opening.alive and (opening.sure or is_method(parser.buffer + opening.at, space - opening.at)):
            openings[<int>STAGE_NAMED] = opening[0]
            parser.method_end = space
            break
    openings[<int>STAGE_FIRST].alive = False
    parser.later_count = 0


cdef Scan found_line(Parser* parser, uint32_t lf) noexcept nogil:
    """The buffer's first LF is at `lf`."""
    cdef Opening opening = parser.openings[<int>STAGE_LINED]
    cdef StartLine line
    if not opening.alive or not parse_start_line(parser.kind, parser.buffer + opening.at, lf - opening.at, &line):
        return SCAN_DEAD
    parser.line_end = lf + 1
    move_to(parser, opening)
    parser.scanned = parser.line_end - 1
    if opening.sure:
        parser.candidate = False
    return SCAN_FOUND


cdef Scan scan_odd(Parser* parser, uint32_t at) noexcept nogil:
    """As scan_line(), which found none: for an odd start line, at the front of the buffer, where a message is due."""
    cdef const uint8_t* data = parser.buffer
    cdef const uint8_t* found = <const uint8_t*>memchr(data + at, LF, parser.buffer_size - at)
    cdef uint32_t stop = parser.buffer_size if found == NULL else <uint32_t>(found - data)
    cdef uint32_t i
    cdef bint more = False
    cdef StartLine line
    for i in range(at, stop):
        if (i and data[i - 1] == CR) or not (CLASS[data[i]] & REASON or data[i] == CR):
            return SCAN_DEAD
    if parser.kind == RESPONSE:
        memset(&line, 0, sizeof(StartLine))
        i = odd_status(data, stop, &line, &more)
        if i == 0 and not more or 0 < i < stop and not (is_blank(data[i]) or data[i] == CR):
            return SCAN_DEAD
    elif parser.method_end == 0:
        i = 0
        while i < stop and CLASS[data[i]] & TOKEN:
            i += 1
        if i < stop:
            if i == 0 or data[i] != SP:
                return SCAN_DEAD
            parser.method_end = i
    if found == NULL:
        return SCAN_MORE
    if not parse_odd_line(parser.kind, data, stop, &line):
        return SCAN_DEAD
    parser.line_end = stop + 1
    parser.scanned = stop
    return SCAN_FOUND


cdef void read_line(const Parser* parser, StartLine* line) noexcept nogil:
    """The start line that begins the buffer: one of the two accepts it."""
    if not parse_start_line(parser.kind, parser.buffer, parser.line_end - 1, line):
        parse_odd_line(parser.kind, parser.buffer, parser.line_end - 1, line)


cdef void move_to(Parser* parser, Opening opening) noexcept nogil:
    """Makes the buffer begin at `opening`."""
    cdef uint32_t at = opening.at, i
    parser.first_offset += at
    parser.first_stamp = opening.stamp
    parser.first_ack = opening.ack
    parser.first_sure = opening.sure
    if at:
        parser.buffer_size -= at
        memmove(parser.buffer, parser.buffer + at, parser.buffer_size)
        if parser.line_end:
            parser.line_end -= at
        if parser.method_end:
            parser.method_end -= at
        for i in range(STAGES):
            parser.openings[i].at -= at
        for i in range(parser.later_count):
            parser.later[i].at -= at


cdef bint make_room(Parser* parser) noexcept nogil:
    """The buffer is full and holds no whole start line: gives up what began first. False: there is nothing else."""
    cdef Opening* earliest = NULL
    cdef Opening* opening
    cdef uint32_t i
    for i in range(STAGES + parser.later_count):
        opening = &parser.openings[i] if i < STAGES else &parser.later[i - STAGES]
        if opening.at == 0:
            opening.alive = False
        if opening.alive and (earliest == NULL or opening.at < earliest.at):
            earliest = opening
    if earliest == NULL:
        return False
    move_to(parser, earliest[0])
    return True


cdef Event read_head(Parser* parser, Run* run) noexcept nogil:
    """A head that comes in pieces. Each turn takes a slice of the run that holds no boundary but at its front."""
    cdef uint32_t size, before, end, limit = parser.limits.head
    cdef bint boundary
    cdef Event event
    cdef Scan scan
    if run.size == 0:
        return EVENT_MORE
    if parser.buffer_size == limit:
        if parser.candidate:
            if parser.line_end or not make_room(parser):
                back_to_skip(parser)
            return EVENT_MORE
        if parser.line_end:
            return cut(parser, INCOMPLETE_LIMIT_)
        return no_start_line(parser, parser.buffer, parser.buffer_size)
    boundary = run.offset == parser.boundary
    if parser.candidate and run.offset > parser.first_offset:
        if parser.line_end and boundary:  # another message begins here
            back_to_skip(parser)
            return EVENT_MORE
        if not parser.line_end and (boundary or run.segment_start):
            open_at(parser, run, boundary)
    size = <uint32_t>min(run.size, <int64_t>min(<uint32_t>PIECE, limit - parser.buffer_size))
    if run.offset < parser.boundary < run.offset + size:
        size = <uint32_t>(parser.boundary - run.offset)
    before = parser.buffer_size
    if not gather(parser, run.data, size):
        if parser.candidate:
            back_to_skip(parser)
        else:
            start_skip(parser)
        take(parser, run, size, BYTES_ABANDONED_SKIPPED)
        return EVENT_MORE
    if run.conflict:
        parser.seen |= BIT_CONFLICTING_OVERLAP
    if parser.line_end == 0:
        scan = scan_line(parser, before)
        if scan == SCAN_DEAD and not parser.candidate:
            scan = scan_odd(parser, before)
        if scan == SCAN_DEAD and not parser.candidate:
            if not parser.spoke and recognise(parser.buffer, parser.buffer_size, True) == PROTOCOL_HTTP1:
                take(parser, run, size, BYTES_USED)  # the second byte will tell
                return EVENT_MORE
            event = no_start_line(parser, parser.buffer, parser.buffer_size)
            parser.skipped += size
            take(parser, run, size, BYTES_ABANDONED_NOT_HTTP if event == EVENT_NOT_HTTP else BYTES_ABANDONED_SKIPPED)
            return event
        if scan == SCAN_DEAD or scan == SCAN_MORE:
            if scan == SCAN_DEAD:
                back_to_skip(parser)
            if parser.candidate:
                parser.skipped += size
            take(parser, run, size, BYTES_ABANDONED_SKIPPED if parser.candidate else BYTES_USED)
            return EVENT_MORE
    end = 0
    if parser.buffer_size >= parser.line_end:  # else the run has the rest of the start line
        end = find_end(parser.buffer, parser.buffer_size, &parser.scanned, &parser.lines)
    if end == 0:
        take(parser, run, size, BYTES_USED)
        return EVENT_MORE
    take(parser, run, size - (parser.buffer_size - end), BYTES_USED)
    return read_gathered_head(parser, end)


cdef Event read_gathered_head(Parser* parser, uint32_t end) noexcept nogil:
    """The head is buffer[:end]."""
    cdef StartLine line
    cdef Message* message
    cdef uint32_t blank = blank_line(parser.buffer, end)
    if blank == 1:
        parser.seen |= BIT_BARE_LF
    read_line(parser, &line)
    message = build(parser, parser.buffer, parser.line_end, end - blank, parser.lines, &line, parser.seen,
                    parser.candidate)
    if message == NULL:
        if parser.candidate:
            back_to_skip(parser)
        else:
            start_skip(parser)
        return EVENT_MORE
    return head_built(parser, message, parser.first_offset, parser.first_stamp, parser.first_ack, parser.first_sure)


cdef Event cut(Parser* parser, Incomplete reason) noexcept nogil:
    """The head in the buffer ends here. RULINGS: with a whole start line it is a message with the lines it has."""
    cdef StartLine line
    cdef Message* message
    cdef uint32_t stop
    if parser.candidate:
        back_to_skip(parser)
        return EVENT_MORE
    if parser.line_end == 0:
        parser.counters[<int>HEADS_CUT] += 1
        start_skip(parser)
        return EVENT_HEAD_LOST
    stop = parser.buffer_size
    while parser.buffer[stop - 1] != LF:
        stop -= 1
    read_line(parser, &line)
    message = build(parser, parser.buffer, parser.line_end, stop,
                    count_lines(parser.buffer + parser.line_end, stop - parser.line_end), &line, parser.seen, False)
    if message == NULL:
        start_skip(parser)
        return EVENT_MORE
    head_built(parser, message, parser.first_offset, parser.first_stamp, parser.first_ack, parser.first_sure)
    break_off(message, reason)
    message.missing = -1
    finish(parser, SKIP)
    return EVENT_CUT


# -- bodies -----------------------------------------------------------------------------------------------------------

cdef bint next_response_instead(Parser* parser, Run* run, Event* event) noexcept nogil:
    """Whether the body of an unpaired response begins as a status line: then its request may have been HEAD.

    On a segment of its own that is the next response; elsewhere nobody can say, and the message is not whole.
    """
    cdef int64_t size = min(run.size, <int64_t>(STATUS_LINE - parser.doubted))
    cdef int64_t i
    for i in range(size):
        if not is_status_byte(<uint32_t>(parser.doubted + i), run.data[i]):
            parser.doubt = False
            return False
    if size == STATUS_LINE and run.segment_start:
        parser.counters[<int>RESPONSES_TAKEN_BODYLESS] += 1
        as_http1(parser.message).bodyless = as_http1(parser.message).assumed = True
        parser.doubt = False
        event[0] = finish(parser, START)
        return True
    parser.doubted += <uint8_t>size
    if parser.doubted < STATUS_LINE and (
            parser.doubted < 7 or parser.state != BODY_LENGTH or parser.remaining > <uint64_t>size):
        return False
    break_off(parser.message, INCOMPLETE_GAP_)
    parser.message.body_kept = 0
    parser.message.truncated = False    # whatever the cap has cut of it before: none of it is kept
    parser.body_gap = True
    parser.unclear = True
    parser.doubt = False
    return False


cdef Event read_length(Parser* parser, Run* run) noexcept nogil:
    cdef int64_t size = run.size
    cdef Event event = EVENT_MORE
    if parser.remaining and size:
        if parser.doubt and next_response_instead(parser, run, &event):
            return event
        if <uint64_t>size > parser.remaining:
            size = <int64_t>parser.remaining
        keep(parser, run.data, size)
        parser.remaining -= size
        use(parser, run, size)
    if parser.remaining:
        return EVENT_MORE
    return finish(parser, SKIP if parser.message.missing < 0 else START)


cdef Event read_close(Parser* parser, Run* run) noexcept nogil:
    cdef Event event = EVENT_MORE
    if parser.doubt and run.size and next_response_instead(parser, run, &event):
        return event
    keep(parser, run.data, run.size)
    use(parser, run, run.size)
    return EVENT_MORE


cdef enum Phase:            # parser.chunk_phase
    PHASE_START = 0
    PHASE_BLANK = 1         # white space after a chunk's size
    PHASE_CR = 2            # after a CR


cdef void chunk_line_ended(Parser* parser, bint bare) noexcept nogil:
    """RFC 9112 section 7.1: a size of zero is the last chunk."""
    if bare:
        parser.message.anomalies |= BIT_BARE_LF
    parser.state = CHUNK_DATA if parser.remaining else TRAILERS
    parser.chunk_phase = PHASE_START


cdef void start_chunk(Parser* parser) noexcept nogil:
    parser.state = CHUNK_SIZE
    parser.remaining = 0
    parser.chunk_digits = 0
    parser.line_size = 0
    parser.chunk_phase = PHASE_START


cdef Event read_chunk_size(Parser* parser, Run* run) noexcept nogil:
    cdef int64_t i = 0
    cdef uint8_t c, digit
    cdef Event event = EVENT_MORE
    if parser.doubt and run.size and next_response_instead(parser, run, &event):
        return event
    while i < run.size and parser.state == CHUNK_SIZE:
        c = run.data[i]
        digit = 255
        if is_digit(c):
            digit = c - 0x30
        elif 0x61 <= c | 0x20 <= 0x66:
            digit = (c | 0x20) - 0x61 + 10
        if digit < 16 and parser.chunk_phase == PHASE_START and parser.chunk_digits < DIGITS_LIMIT:
            parser.remaining = parser.remaining << 4 | digit
            parser.chunk_digits += 1
        elif parser.chunk_digits == 0:
            break
        elif c == LF:
            chunk_line_ended(parser, parser.chunk_phase != PHASE_CR)
        elif parser.chunk_phase == PHASE_CR:
            break
        elif c == CR:
            parser.chunk_phase = PHASE_CR
        elif c == SEMICOLON:
            parser.state = CHUNK_EXTENSION
            parser.chunk_phase = PHASE_START
        elif (c == SP or c == HTAB) and parser.line_size < LINE_LIMIT:
            parser.chunk_phase = PHASE_BLANK
        else:
            break
        i += 1
        parser.line_size += 1
    use(parser, run, i)
    if parser.state == CHUNK_SIZE and run.size:
        return malformed(parser)
    return EVENT_MORE


cdef Event read_chunk_extension(Parser* parser, Run* run) noexcept nogil:
    cdef int64_t window = min(run.size, <int64_t>LINE_LIMIT - parser.line_size)
    cdef const uint8_t* found
    cdef int64_t size
    if run.size == 0:
        return EVENT_MORE
    if window <= 0:
        return malformed(parser)
    found = <const uint8_t*>memchr(run.data, LF, window)
    size = window if found == NULL else found - run.data
    if size:
        parser.chunk_phase = PHASE_CR if run.data[size - 1] == CR else PHASE_START
    if found == NULL:
        parser.line_size += <uint32_t>size
        use(parser, run, size)
        return EVENT_MORE
    use(parser, run, size + 1)
    chunk_line_ended(parser, parser.chunk_phase != PHASE_CR)
    return EVENT_MORE


cdef Event read_chunk_data(Parser* parser, Run* run) noexcept nogil:
    cdef int64_t size = run.size
    if <uint64_t>size > parser.remaining:
        size = <int64_t>parser.remaining
    keep(parser, run.data, size)
    parser.remaining -= size
    use(parser, run, size)
    if parser.remaining == 0:
        parser.state = CHUNK_END
        parser.chunk_phase = PHASE_START
    return EVENT_MORE


cdef Event read_chunk_end(Parser* parser, Run* run) noexcept nogil:
    cdef uint8_t c
    while run.size:
        c = run.data[0]
        if c == LF:
            if parser.chunk_phase != PHASE_CR:
                parser.message.anomalies |= BIT_BARE_LF
            use(parser, run, 1)
            start_chunk(parser)
            return EVENT_MORE
        if c != CR or parser.chunk_phase == PHASE_CR:
            return malformed(parser)
        parser.chunk_phase = PHASE_CR
        use(parser, run, 1)
    return EVENT_MORE


cdef uint32_t find_trailers_end(
    const uint8_t* data, uint32_t size, uint32_t* scanned, uint32_t* lines
) noexcept nogil:
    """As find_end(), but the blank line may stand first."""
    if size and data[0] == LF:
        return 1
    if size >= 2 and data[0] == CR and data[1] == LF:
        return 2
    return find_end(data, size, scanned, lines)


cdef Event trailers_whole(Parser* parser, const uint8_t* data, uint32_t end, uint32_t lines) noexcept nogil:
    cdef uint32_t blank = blank_line(data, end)
    if blank == 1:
        parser.message.anomalies |= BIT_BARE_LF
    if end > blank:  # find_end() counts the LF of every line but the last
        if not build_trailers(parser, data, end - blank, lines + 1):
            return malformed(parser)
    return finish(parser, START)


cdef Event read_trailers(Parser* parser, Run* run) noexcept nogil:
    cdef uint32_t size, end, scanned = 0, lines = 0, limit = parser.limits.head
    cdef const uint8_t* data
    if run.size == 0:
        return EVENT_MORE
    if parser.buffer_size == 0:
        data = run.data
        end = find_trailers_end(data, <uint32_t>min(run.size, <int64_t>limit), &scanned, &lines)
        if end:
            use(parser, run, end)
            return trailers_whole(parser, data, end, lines)
    if parser.buffer_size == limit:
        break_off(parser.message, INCOMPLETE_LIMIT_)
        parser.message.missing = -1
        return finish(parser, SKIP)
    size = <uint32_t>min(run.size, <int64_t>min(<uint32_t>PIECE, limit - parser.buffer_size))
    if not gather(parser, run.data, size):
        break_off(parser.message, INCOMPLETE_EVICTED_)
        parser.message.missing = -1
        return finish(parser, SKIP)
    end = find_trailers_end(parser.buffer, parser.buffer_size, &parser.scanned, &parser.lines)
    if end == 0:
        use(parser, run, size)
        return EVENT_MORE
    use(parser, run, size - (parser.buffer_size - end))
    return trailers_whole(parser, parser.buffer, end, parser.lines)


# -- inputs -----------------------------------------------------------------------------------------------------------

cdef void http1_init(Parser* parser, Kind kind, Pool* pool, uint64_t* counters, const Limits* limits) noexcept nogil:
    memset(parser, 0, sizeof(Parser))
    parser.kind = kind
    parser.state = START
    parser.pool = pool
    parser.counters = counters
    parser.limits = limits
    parser.boundary = -1


cdef void http1_free(Parser* parser) noexcept nogil:
    drop_buffer(parser)
    drop_message(parser)


cdef Event http1_data(Parser* parser, Run* run) noexcept nogil:
    cdef Event event = EVENT_MORE
    if run.size:
        parser.position = run.offset
    begin(parser)
    leave_done(parser)
    while True:
        if parser.state == BODY_LENGTH:
            event = read_length(parser, run)
        elif parser.state == START:
            event = read_start(parser, run)
        elif parser.state == BODY_CLOSE:
            event = read_close(parser, run)
        elif parser.state == CHUNK_DATA:
            event = read_chunk_data(parser, run)
        elif parser.state == CHUNK_SIZE:
            event = read_chunk_size(parser, run)
        elif parser.state == CHUNK_END:
            event = read_chunk_end(parser, run)
        elif parser.state == CHUNK_EXTENSION:
            event = read_chunk_extension(parser, run)
        elif parser.state == TRAILERS:
            event = read_trailers(parser, run)
        elif parser.state == HEAD:
            event = read_head(parser, run)
        elif parser.state == SKIP:
            event = read_skip(parser, run)
        elif parser.state == TUNNEL:
            take(parser, run, run.size, BYTES_ABANDONED_TUNNEL)
        elif parser.state == DEAD:
            take(parser, run, run.size, BYTES_ABANDONED_NOT_HTTP)
        else:  # FRAME: flow has not said what the message is
            return EVENT_HEAD
        if event != EVENT_MORE or run.size == 0:
            return event


cdef Event http1_gap(Parser* parser, int64_t* size) noexcept nogil:
    cdef Message* message
    cdef Event event
    cdef int64_t known
    begin(parser)
    leave_done(parser)
    if size[0] == 0:
        return EVENT_MORE
    message = parser.message
    parser.doubt = False
    if parser.state == HEAD:
        event = cut(parser, INCOMPLETE_GAP_)
        if event == EVENT_CUT:
            parser.message.end_lost = True
        if event != EVENT_MORE:
            return event
    elif parser.state == BODY_LENGTH or parser.state == CHUNK_DATA:
        if parser.state == BODY_LENGTH and parser.remaining == 0:
            return finish(parser, SKIP if message.missing < 0 else START)
        break_off(message, INCOMPLETE_GAP_)
        parser.body_gap = message.end_lost = True
        if parser.state == CHUNK_DATA and <uint64_t>size[0] > parser.remaining:
            message.missing = -1
            return finish(parser, SKIP)
        known = size[0]
        if <uint64_t>known > parser.remaining:
            known = <int64_t>parser.remaining
        message.missing += known
        parser.remaining -= known
        parser.position += known
        size[0] -= known
        if parser.remaining == 0:
            if parser.state == BODY_LENGTH:
                return finish(parser, START)
            parser.state = CHUNK_END
            parser.chunk_phase = PHASE_START
        return EVENT_MORE
    elif parser.state == BODY_CLOSE:
        break_off(message, INCOMPLETE_GAP_)
        parser.body_gap = message.end_lost = True
        message.missing += size[0]
    elif message != NULL:  # in the framing of chunks, or in FRAME
        break_off(message, INCOMPLETE_GAP_)
        message.missing = -1
        message.end_lost = True
        return finish(parser, SKIP)
    if parser.state == START:
        parser.at_stream_start = False
        start_skip(parser)
    elif parser.state == SKIP:
        parser.lost = True
    parser.position += size[0]
    size[0] = 0
    return EVENT_MORE


cdef Event http1_end(Parser* parser, Incomplete reason) noexcept nogil:
    cdef Incomplete why = INCOMPLETE_CLOSED_ if reason == WHOLE else reason
    cdef Message* message
    begin(parser)
    leave_done(parser)
    message = parser.message
    if parser.state == HEAD:
        return cut(parser, why)
    if message == NULL:
        return EVENT_MORE
    if parser.state == BODY_LENGTH:
        if parser.remaining:
            break_off(message, why)
            if message.missing >= 0:
                message.missing += <int64_t>parser.remaining
    elif parser.state != BODY_CLOSE or reason != WHOLE:
        break_off(message, why)
        message.missing = -1
    return finish(parser, SKIP if message.missing < 0 else START)


cdef void http1_frame(Parser* parser, bint bodyless, bint paired) noexcept nogil:
    """RFC 9112 section 6.3, in its order."""
    cdef Message* message = parser.message
    cdef bint response = parser.kind == RESPONSE
    if parser.state != FRAME or message == NULL:
        return
    parser.state = BODY_LENGTH
    parser.remaining = 0
    if response and (bodyless or 100 <= message.status < 200 or message.status == 204 or message.status == 304):
        as_http1(message).bodyless = True  # 6.3 item 1
    # item 2, a 2xx to CONNECT: http1_tunnel()
    elif parser.transfer and parser.chunked:
        start_chunk(parser)  # items 3 and 4: beside a Content-Length too
    elif parser.transfer and response:
        parser.state = BODY_CLOSE  # item 4
    elif parser.transfer or parser.length == LENGTH_INVALID:
        break_off(message, INCOMPLETE_MALFORMED_)  # items 4 and 5: where the body ends nobody knows
        message.missing = -1
    elif parser.length >= 0:
        parser.remaining = <uint64_t>parser.length  # item 6
    elif response:
        parser.state = BODY_CLOSE  # item 8
    # item 7: a request without either has no body
    parser.doubted = 0
    parser.doubt = response and not paired and (parser.remaining > 0 or parser.state != BODY_LENGTH)


cdef void http1_reject(Parser* parser) noexcept nogil:
    cdef Message* message = parser.message
    cdef bint lost = message == NULL or as_http1(message).sure or message.resynced
    drop_message(parser)
    start_skip(parser)
    parser.lost = lost


cdef void http1_discard(Parser* parser) noexcept nogil:
    if parser.message != NULL:
        parser.lost = parser.message.resynced
    drop_message(parser)
    parser.state = START


cdef void http1_skip(Parser* parser) noexcept nogil:
    drop_message(parser)
    start_skip(parser)
    parser.strange = False


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
    return find_end(data, size, &scanned, &lines) if http1_starts(kind, data, size) == 1 else 0


cdef void http1_cease(Parser* parser, Incomplete why, uint32_t anomalies) noexcept nogil:
    parser.message.anomalies |= anomalies
    if why != WHOLE:
        break_off(parser.message, why)
        parser.message.missing = -1
    elif parser.state == TRAILERS and parser.buffer_size and not build_trailers(
            parser, parser.buffer, parser.buffer_size, count_lines(parser.buffer, parser.buffer_size)):
        break_off(parser.message, INCOMPLETE_MALFORMED_)
    finish(parser, START if why == WHOLE else SKIP)


cdef void http1_tunnel(Parser* parser) noexcept nogil:
    drop_message(parser)
    drop_buffer(parser)
    parser.state = TUNNEL


cdef void http1_kill(Parser* parser) noexcept nogil:
    drop_message(parser)
    drop_buffer(parser)
    parser.state = DEAD


cdef size_t http1_drop_body(Parser* parser) noexcept nogil:
    cdef Message* message = parser.message
    cdef size_t space
    if message == NULL or message.body == NULL:
        return 0
    space = message.body_space
    pool_give(parser.pool, message.body, space)
    message.body = NULL
    message.body_kept = message.body_space = 0
    message.truncated = True
    return space
