"""Finds the values in a body that must not be shown; see bodies.pxd."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memset

from sniffer_core.base.ascii cimport ascii_lower as lower
from sniffer_core.record.redact cimport SECRET, Names, fill, kind_of

cdef enum Expects:
    A_VALUE = 0             # at the top: or the end
    A_KEY = 1
    A_COLON = 2
    A_COMMA = 3

cdef extern from "string.h" nogil:
    void* memmem(const void* text, size_t size, const void* word, size_t word_size)


cdef extern from *:
    """
    /* Where the first quote or backslash of a text is; its size if there is none. */
    #ifdef __SSE2__
    #include <emmintrin.h>
    static inline size_t plain_text(const unsigned char *text, size_t size) {
        size_t at = 0;
        for (; at + 16 <= size; at += 16) {
            __m128i block = _mm_loadu_si128((const __m128i *)(text + at));
            unsigned bits = _mm_movemask_epi8(_mm_or_si128(
                _mm_cmpeq_epi8(block, _mm_set1_epi8('"')), _mm_cmpeq_epi8(block, _mm_set1_epi8('\\\\'))));
            if (bits)
                return at + __builtin_ctz(bits);
        }
        while (at < size && text[at] != '"' && text[at] != '\\\\')
            at++;
        return at;
    }
    #else
    static inline size_t plain_text(const unsigned char *text, size_t size) {
        size_t at = 0;
        while (at < size && text[at] != '"' && text[at] != '\\\\')
            at++;
        return at;
    }
    #endif
    """
    size_t plain_text(const uint8_t* text, size_t size) noexcept nogil


# ---- keys ------------------------------------------------------------------------------------------------------------

cdef tuple list_keys(redacted, Names* names):
    cdef dict kinds = {}
    for name in redacted:
        for form in (name, name.lower(), name.upper(), name.title()):
            kinds[form.replace("_", "").replace("-", "").replace(" ", "").encode("utf-8", "surrogatepass").lower()] = \
                SECRET
    return fill(kinds, names)


cdef inline int digit(uint8_t c) noexcept nogil:
    """The value of a hexadecimal digit, or -1."""
    if 48 <= c <= 57:
        return c - 48
    c |= 32
    return c - 87 if 97 <= c <= 102 else -1


cdef struct Key:            # a key as it is compared
    uint8_t text[KEY_MAX]
    uint32_t size
    bint long               # True: it is longer than any that is listed


cdef inline void add(Key* key, uint8_t c) noexcept nogil:
    if c == 95 or c == 45 or c <= 32:       # _ - and blanks
        return
    if key.size < KEY_MAX:
        key.text[key.size] = lower(c)
        key.size += 1
    else:
        key.long = True


cdef inline bint is_key(const Names* listed, Key* key) noexcept nogil:
    """Whether the key is listed. It is empty afterwards."""
    cdef bint found = not key.long and key.size != 0 and kind_of(listed, key.text, key.size) == SECRET
    key.size = 0
    key.long = False
    return found


cdef uint32_t add_escape(Key* key, const uint8_t* text, size_t at, size_t end) noexcept nogil:
    """Adds the character of a JSON escape, the index of whose backslash is `at`. Returns the size of the escape."""
    cdef uint32_t code = 0
    cdef size_t i
    if at + 1 >= end:
        return 1
    if text[at + 1] != 117:                 # \n and others are blanks, and \" \\ \/ stand for themselves
        add(key, 0 if 97 <= text[at + 1] <= 122 else text[at + 1])
        return 2
    if at + 6 > end:
        return 2
    for i in range(at + 2, at + 6):
        if digit(text[i]) < 0:
            return 2
        code = code << 4 | <uint32_t>digit(text[i])
    if code < 0x80:
        add(key, <uint8_t>code)
    elif code < 0x800:
        add(key, <uint8_t>(0xC0 | code >> 6))
        add(key, <uint8_t>(0x80 | (code & 63)))
    else:                                   # no listed key has a surrogate
        add(key, <uint8_t>(0xE0 | code >> 12))
        add(key, <uint8_t>(0x80 | (code >> 6 & 63)))
        add(key, <uint8_t>(0x80 | (code & 63)))
    return 6


cdef inline uint8_t decoded(const uint8_t* text, size_t at, size_t end, size_t* next) noexcept nogil:
    """The character at `at`, decoded as often as it was percent-encoded; `next` becomes the index behind it."""
    cdef size_t i = at + 1
    next[0] = at + 1
    if text[at] == 43:
        return 32
    if text[at] != 37:
        return text[at]
    while i + 2 <= end and text[i] == 50 and text[i + 1] == 53:
        i += 2
    if i + 2 > end or digit(text[i]) < 0 or digit(text[i + 1]) < 0:
        return 37
    next[0] = i + 2
    return <uint8_t>(digit(text[i]) << 4 | digit(text[i + 1]))


cdef bint is_listed(const Names* listed, const uint8_t* text, size_t at, size_t end, bint json) noexcept nogil:
    """Whether a key is listed, or a part of it is: the text of a JSON string, or else the name of a form's field."""
    cdef Key key
    cdef size_t next = at
    cdef uint8_t c
    key.size = 0
    key.long = False
    while at < end:
        c = text[at]
        next = at + 1
        if json and c == 92:
            at += add_escape(&key, text, at, end)
            continue
        if not json:
            c = decoded(text, at, end, &next)
        if c == 46 or c == 91 or c == 93:   # . [ ]
            if is_key(listed, &key):
                return True
        else:
            add(&key, c)
        at = next
    return is_key(listed, &key)


cdef size_t embedded(const Names* listed, const uint8_t* text, size_t at, size_t end, bint coded) noexcept nogil:
    """Index behind the colon of the next `"key":` with a listed key in any text; 0 if there is none.

    Quotes and keys may be escaped, as in JSON within JSON, and with `coded` percent-encoded too. Every quote ends one
    text and begins another, so a quote that belongs to no string leads nothing astray.
    """
    cdef Key key
    cdef size_t next = at
    cdef bint found = False     # True: a listed key has ended, and its colon must follow
    cdef bint hit = False       # True: a part of the key is listed
    cdef uint8_t c
    key.size = 0
    key.long = False
    while at < end:
        if coded:
            c = decoded(text, at, end, &next)
        else:
            c = text[at]
            next = at + 1
        if c == 34:
            found = is_key(listed, &key) or hit
            hit = False
        elif found and c == 58:
            return next
        elif found and (c <= 32 or c == 92):
            pass
        else:
            found = False
            if c == 92:
                while next < end and text[next] == 92:
                    next += 1
                if end - next >= 5 and memcmp(text + next, b"u0022", 5) == 0:     # a quote, as some encoders write it
                    next += 5
                    found = is_key(listed, &key) or hit
                    hit = False
                elif next < end and text[next] == 117:
                    next = next - 1 + add_escape(&key, text, next - 1, end)
            elif c == 46 or c == 91 or c == 93:
                hit = hit or is_key(listed, &key)
            else:
                add(&key, c)
        at = next
    return 0


# ---- JSON ------------------------------------------------------------------------------------------------------------

cdef inline bint is_object(const Json* json) noexcept nogil:
    return json.depth != 0 and json.levels[(json.depth - 1) >> 6] >> ((json.depth - 1) & 63) & 1


cdef inline bint open_level(Json* json, bint object) noexcept nogil:
    cdef uint64_t bit
    if json.depth == DEPTH_MAX:
        return False
    bit = <uint64_t>1 << (json.depth & 63)
    if object:
        json.levels[json.depth >> 6] |= bit
    else:
        json.levels[json.depth >> 6] &= ~bit
    json.depth += 1
    json.expects = A_KEY if object else A_VALUE
    return True


cdef inline void value_done(Json* json) noexcept nogil:
    json.expects = A_COMMA if json.depth else A_VALUE
    json.secret = False


cdef inline size_t string_end(const uint8_t* text, size_t at, size_t size, bint* escaped) noexcept nogil:
    """Index of the quote that ends the string whose text begins at `at`, or `size`."""
    while True:
        at += plain_text(text + at, size - at)
        if at >= size:
            return size
        if text[at] == 34:
            return at
        escaped[0] = True
        at += 2
        if at > size:
            return size


cdef bint is_word(const uint8_t* text, size_t size, bint last) noexcept nogil:
    """Whether this is a number or one of the words of JSON; with `last` it may be cut."""
    cdef const char* word
    cdef size_t word_size
    if 48 <= text[0] <= 57 or text[0] == 45:
        return True
    if text[0] == 116:
        word, word_size = b"true", 4
    elif text[0] == 102:
        word, word_size = b"false", 5
    elif text[0] == 110:
        word, word_size = b"null", 4
    elif text[0] == 78:
        word, word_size = b"NaN", 3
    elif text[0] == 73:
        word, word_size = b"Infinity", 8
    else:
        return False
    return (size == word_size or (last and size < word_size)) and memcmp(text, word, size) == 0


cdef inline bint is_scalar(uint8_t c) noexcept nogil:
    return 48 <= c <= 57 or 97 <= c | 32 <= 122 or c == 43 or c == 45 or c == 46


cdef Found on_string(Search* search, size_t size, Value* value) noexcept nogil:
    """Takes the string that begins at search.at."""
    cdef Json* json = &search.json
    cdef const uint8_t* text = search.text
    cdef size_t at = search.at
    cdef bint escaped = False
    cdef bint secret
    cdef size_t end = string_end(text, at + 1, size, &escaped)
    if json.expects != A_KEY and json.expects != A_VALUE:
        return FAILED
    search.at = min(end + 1, size)
    if json.expects == A_KEY:
        json.secret = not json.hiding and is_listed(search.listed, text, at + 1, end, True)
        json.expects = A_COLON
        return NOTHING
    value.at = at
    value.end = search.at
    value.json = True
    secret = not json.hiding and (json.secret or (
        escaped and embedded(search.listed, text, at + 1, end, False) != 0))
    value_done(json)
    return VALUE if secret else NOTHING


cdef Found on_scalar(Search* search, size_t size, Value* value) noexcept nogil:
    """Takes the number or word that begins at search.at."""
    cdef Json* json = &search.json
    cdef size_t at = search.at
    cdef bint secret = json.secret and not json.hiding
    while search.at < size and is_scalar(search.text[search.at]):
        search.at += 1
    if json.expects != A_VALUE or search.at == at or not is_word(search.text + at, search.at - at, search.at == size):
        search.at = at
        return FAILED
    value_done(json)
    value.at = at
    value.end = search.at
    value.json = True
    return VALUE if secret else NOTHING


cdef Found on_close(Search* search, bint object, Value* value) noexcept nogil:
    """Takes the closing bracket at search.at."""
    cdef Json* json = &search.json
    if json.depth == 0 or is_object(json) != object or json.expects == A_COLON or (
            json.expects == A_VALUE and object):
        return FAILED
    search.at += 1
    json.depth -= 1
    value_done(json)
    if json.hiding and json.depth == json.hidden_depth:
        json.hiding = False
        value.at = json.hidden_at
        value.end = search.at
        value.json = True
        return VALUE
    return NOTHING


cdef Found next_json(Search* search, size_t size, Value* value) noexcept nogil:
    """The next value in JSON that ends at `size`; values may follow one another (NDJSON)."""
    cdef Json* json = &search.json
    cdef const uint8_t* text = search.text
    cdef Found found
    cdef uint8_t c
    while search.at < size:
        c = text[search.at]
        if c == 34:
            found = on_string(search, size, value)
        elif c == 32 or c == 10 or c == 13 or c == 9 or (c == 30 and json.depth == 0):
            search.at += 1
            continue
        elif c == 58 and json.expects == A_COLON:
            json.expects = A_VALUE
            search.at += 1
            continue
        elif c == 44 and json.expects == A_COMMA:
            json.expects = A_KEY if is_object(json) else A_VALUE
            search.at += 1
            continue
        elif c == 123 or c == 91:
            if json.expects != A_VALUE:
                return FAILED
            if json.secret and not json.hiding:
                json.hiding = True
                json.hidden_depth = json.depth
                json.hidden_at = search.at
            json.secret = False
            if not open_level(json, c == 123):
                return FAILED
            search.at += 1
            continue
        elif c == 125 or c == 93:
            found = on_close(search, c == 125, value)
        else:
            found = on_scalar(search, size, value)
        if found != NOTHING:
            return found
    if json.hiding:                         # cut within a container with a listed key
        json.hiding = False
        value.at = json.hidden_at
        value.end = size
        value.json = True
        return VALUE
    return NOTHING


cdef size_t loose_end(const uint8_t* text, size_t at, size_t size, bint string) noexcept nogil:
    """Where a container, or a number or word, ends that begins at `at` of any text."""
    cdef size_t depth = 0
    cdef bint escaped = False
    cdef uint8_t c
    while at < size:
        c = text[at]
        if c == 34 and string:
            at = string_end(text, at + 1, size, &escaped)
        elif c == 123 or c == 91:
            depth += 1
        elif c == 125 or c == 93:
            if depth <= 1:
                return at + 1 if depth else at
            depth -= 1
        elif depth == 0 and (c == 44 or c == 10 or c == 13):
            return at
        at += 1
    return size


cdef Found next_text(Search* search, size_t size, Value* value) noexcept nogil:
    """The next value in any text: what follows `"key":`."""
    cdef const uint8_t* text = search.text
    cdef size_t at
    cdef size_t slashes = 0
    cdef size_t here = 0        # backslashes before `at`
    cdef bint escaped = False
    at = embedded(search.listed, text, search.at, size, False)
    if at == 0:
        search.at = size
        return NOTHING
    while at < size and (text[at] == 32 or text[at] == 9 or text[at] == 10 or text[at] == 13):
        at += 1
    value.at = at
    value.json = True
    if at < size and text[at] == 34:
        at = min(string_end(text, at + 1, size, &escaped) + 1, size)
    elif at < size and text[at] != 92:
        at = loose_end(text, at, size, True)
    else:
        value.json = False
        while at < size and text[at] == 92:
            slashes += 1
            at += 1
        if at < size and text[at] == 34:
            at += 1
            value.at = at
            while at < size and not (text[at] == 34 and here <= slashes):
                here = here + 1 if text[at] == 92 else 0
                at += 1
            if at < size:       # a quote that is escaped no further than the one that begins the value
                at -= here
        else:
            at = loose_end(text, at, size, False)
    value.end = at
    search.at = at
    return VALUE


# ---- forms -----------------------------------------------------------------------------------------------------------

cdef Found next_field(Search* search, size_t size, Value* value) noexcept nogil:
    """The next field of an urlencoded form. A value ends at `&`; what is between two `;` may be a field too."""
    cdef const uint8_t* text = search.text
    cdef const uint8_t* found
    cdef size_t at
    cdef size_t end
    cdef size_t name
    cdef bint whole             # True: no `=` was seen yet, so JSON in the value is looked for
    while search.at < size:
        found = <const uint8_t*>memchr(text + search.at, 38, size - search.at)
        end = <size_t>(found - text) if found != NULL else size
        name = search.at
        at = name
        whole = True
        search.at = min(end + 1, size)
        while at < end:
            if text[at] == 59:
                name = at + 1
            elif text[at] == 61:
                if is_listed(search.listed, text, name, at, False) or (
                        whole and embedded(search.listed, text, at + 1, end, True)):
                    value.at = at + 1
                    value.end = end
                    value.json = False
                    return VALUE
                whole = False
                found = <const uint8_t*>memchr(text + at, 59, end - at)
                if found == NULL:
                    break
                at = <size_t>(found - text)
                name = at + 1
            at += 1
    return NOTHING


cdef bint is_delimiter(const Search* search, size_t at) noexcept nogil:
    """Whether the boundary at `at` follows two hyphens that begin a line (RFC 2046 section 5.1)."""
    cdef const uint8_t* text = search.text
    cdef size_t end = at + search.boundary_size
    if at < 2 or text[at - 1] != 45 or text[at - 2] != 45 or (at > 2 and text[at - 3] != 10):
        return False
    return end >= search.size or text[end] <= 32 or text[end] == 45


cdef size_t delimiter(const Search* search, size_t at) noexcept nogil:
    """Index of the next delimiter of a multipart form, or the size of the text."""
    cdef const uint8_t* found
    while at < search.size:
        found = <const uint8_t*>memmem(search.text + at, search.size - at, search.boundary, search.boundary_size)
        if found == NULL:
            break
        at = <size_t>(found - search.text)
        if is_delimiter(search, at):
            return at - 2
        at += 1
    return search.size


cdef size_t head_end(const uint8_t* text, size_t at, size_t size) noexcept nogil:
    """Index behind the empty line that ends the head of a part; `size` if there is none."""
    cdef const uint8_t* found
    cdef size_t line = at
    while line < size:
        if text[line] == 10:
            return line + 1
        if text[line] == 13 and line + 1 < size and text[line + 1] == 10:
            return line + 2
        found = <const uint8_t*>memchr(text + line, 10, size - line)
        if found == NULL:
            return size
        line = <size_t>(found - text) + 1
    return size


cdef bint has_name(const Search* search, size_t at, size_t end) noexcept nogil:
    """Whether a parameter `name` in the head of a part is a listed key."""
    cdef const uint8_t* text = search.text
    cdef size_t first
    while at + 5 < end:
        if not (lower(text[at]) == 110 and lower(text[at + 1]) == 97 and lower(text[at + 2]) == 109
                and lower(text[at + 3]) == 101) or not (text[at - 1] <= 32 or text[at - 1] == 59):
            at += 1
            continue
        at += 4
        while at < end and (text[at] == 42 or text[at] == 48 or text[at] == 32 or text[at] == 9):   # name*0*=
            at += 1
        if at == end or text[at] != 61:
            continue
        at += 1
        while at < end and (text[at] == 32 or text[at] == 9):
            at += 1
        first = at
        if at < end and text[at] == 34:
            first = at + 1
            at = first
            while at < end and text[at] != 34 and text[at] != 10:
                at += 1
        else:
            while at < end and text[at] > 32 and text[at] != 59:
                if text[at] == 39:      # charset'language'value (RFC 8187)
                    first = at + 1
                at += 1
        if is_listed(search.listed, text, first, at, False):
            return True
    return False


cdef bint claims_json(const Search* search, size_t at, size_t end) noexcept nogil:
    """Whether the head of a part has the word `json` in it."""
    while at + 4 <= end:
        if lower(search.text[at]) == 106 and lower(search.text[at + 1]) == 115 and \
                lower(search.text[at + 2]) == 111 and lower(search.text[at + 3]) == 110:
            return True
        at += 1
    return False


cdef Found part_value(Search* search, Value* value) noexcept nogil:
    """The next value within the current part."""
    cdef Found found
    if search.inner == SHAPE_TEXT:
        return next_text(search, search.part_end, value)
    found = next_json(search, search.part_end, value)
    if found == FAILED:
        # What came before stands. A container that is being hidden is hidden to its end, as is a part that claims JSON.
        if search.json.hiding or search.inner == SHAPE_JSON:
            value.at = search.json.hidden_at if search.json.hiding else search.last
            value.end = search.part_end
            value.json = False
            search.json.hiding = False
            search.at = search.part_end
            return VALUE
        search.inner = SHAPE_TEXT
        search.at = search.last
        return next_text(search, search.part_end, value)
    return found


cdef Found next_part(Search* search, Value* value) noexcept nogil:
    """The next value of a multipart form."""
    cdef const uint8_t* text = search.text
    cdef Found found
    cdef size_t head
    cdef size_t start
    while True:
        if search.in_part:
            found = part_value(search, value)
            if found != NOTHING:
                return found
            search.in_part = False
            search.at = search.part_end
        head = delimiter(search, search.at)
        if head == search.size:
            search.at = head
            return NOTHING
        head += 2 + search.boundary_size
        search.part_end = delimiter(search, head)
        while head < search.part_end and text[head] != 10:
            head += 1
        start = head_end(text, min(head + 1, search.part_end), search.part_end)
        if search.part_end < search.size:           # the line end before a delimiter belongs to it
            if search.part_end > start and text[search.part_end - 1] == 10:
                search.part_end -= 1
            if search.part_end > start and text[search.part_end - 1] == 13:
                search.part_end -= 1
        search.at = start
        if has_name(search, head, start):
            value.at = start
            value.end = max(start, search.part_end)
            value.json = False
            search.at = value.end
            return VALUE
        while search.at < search.part_end and text[search.at] <= 32:
            search.at += 1
        search.inner = SHAPE_JSON if claims_json(search, head, start) else SHAPE_GUESS
        if search.at < search.part_end and (
                search.inner == SHAPE_JSON or text[search.at] == 123 or text[search.at] == 91):
            memset(&search.json, 0, sizeof(Json))
            search.last = search.at
            search.in_part = True
        else:
            search.at = max(start, search.part_end)


# ---- types -----------------------------------------------------------------------------------------------------------

cdef bint begins(const uint8_t* text, size_t size, const char* word, size_t word_size) noexcept nogil:
    cdef size_t i
    if size < word_size:
        return False
    for i in range(word_size):
        if lower(text[i]) != <uint8_t>word[i]:
            return False
    return True


cdef uint8_t shape_of(const uint8_t* type, size_t size) noexcept nogil:
    cdef size_t i
    cdef size_t end = 0
    while end < size and type[end] != 59 and type[end] != 44:
        end += 1
    if begins(type, end, b"image/", 6):
        return SHAPE_GUESS if end >= 9 and begins(type + 6, end - 6, b"svg", 3) else SHAPE_NONE
    if begins(type, end, b"video/", 6) or begins(type, end, b"audio/", 6) or begins(type, end, b"font/", 5):
        return SHAPE_NONE
    if begins(type, end, b"multipart/form-data", 19):
        return SHAPE_PARTS
    if begins(type, end, b"application/x-www-form-urlencoded", 33):
        return SHAPE_FORM
    if begins(type, end, b"text/event-stream", 17):
        return SHAPE_TEXT
    for i in range(4, end):
        if lower(type[i]) == 106 and begins(type + i, end - i, b"json", 4):
            return SHAPE_JSON
    return SHAPE_GUESS


cdef void find_boundary(Search* search, const uint8_t* type, size_t size) noexcept nogil:
    """Sets the boundary: the one that the type names, or, if no delimiter has it, that of the first line."""
    cdef size_t at = 0
    cdef size_t end
    while at + 9 < size and not begins(type + at, size - at, b"boundary=", 9):
        at += 1
    at += 9
    if at < size:
        if type[at] == 34:
            at += 1
        end = at
        while end < size and type[end] >= 32 and type[end] != 34 and type[end] != 59:
            end += 1
        search.boundary = type + at
        search.boundary_size = end - at
        if end > at and delimiter(search, 0) < search.size:
            return
    at = search.at
    search.boundary_size = 0
    if at + 2 < search.size and search.text[at] == 45 and search.text[at + 1] == 45:
        end = at + 2
        while end < search.size and search.text[end] > 32:
            end += 1
        search.boundary = search.text + at + 2
        search.boundary_size = end - at - 2


cdef bint looks_like_form(const uint8_t* text, size_t at, size_t size) noexcept nogil:
    """Whether a name and an equals sign come first."""
    cdef size_t end = min(size, at + 200)
    cdef size_t begun = at
    cdef uint8_t c
    while at < end:
        c = text[at]
        if c == 61:
            return at > begun
        if not (48 <= c <= 57 or 97 <= c | 32 <= 122 or c >= 128 or c == 95 or c == 45 or c == 46 or c == 37 or c == 43
                or c == 91 or c == 93 or c == 42 or c == 126 or c == 38 or c == 59):
            return False
        at += 1
    return False


cdef uint8_t guess(const Search* search) noexcept nogil:
    """The shape that the body of another type looks like."""
    cdef const uint8_t* text = search.text
    cdef size_t at = search.at
    if at >= search.size:
        return SHAPE_NONE
    if text[at] == 123 or text[at] == 91:
        return SHAPE_JSON
    if text[at] == 34:
        return SHAPE_TEXT
    if search.size - at > 2 and text[at] == 45 and text[at + 1] == 45 and text[at + 2] > 32:
        return SHAPE_PARTS
    return SHAPE_FORM if looks_like_form(text, at, search.size) else SHAPE_NONE


cdef bint is_wide(const uint8_t* text, size_t size) noexcept nogil:
    """Whether a text looks like JSON in UTF-16 or UTF-32."""
    cdef size_t at = 0
    cdef uint32_t zeros = 0
    if size > 1 and ((text[0] == 255 and text[1] == 254) or (text[0] == 254 and text[1] == 255)):
        at = 2
    while at < size and text[at] == 0 and zeros < 5:
        at += 1
        zeros += 1
    return at < size and (text[at] == 123 or text[at] == 91) and (zeros > 0 or (at + 1 < size and text[at + 1] == 0))


cdef void begin_search(
        Search* search, const uint8_t* text, size_t size, uint8_t shape, const uint8_t* type, size_t type_size,
        const Names* listed) noexcept nogil:
    memset(search, 0, sizeof(Search))
    search.listed = listed
    search.text = text
    search.size = size
    search.shape = shape
    search.claimed = shape >= SHAPE_FORM
    if begins(text, size, b"\xef\xbb\xbf", 3):
        search.at = 3
    while search.at < size and text[search.at] <= 32 and text[search.at] != 0:
        search.at += 1
    if is_wide(text, size):
        search.shape = SHAPE_JSON           # it is not: its zero bytes make the search fail
        search.claimed = True
    elif shape == SHAPE_GUESS:
        search.shape = guess(search)
    elif shape == SHAPE_FORM and search.at < size and (text[search.at] == 123 or text[search.at] == 91):
        search.shape = SHAPE_JSON           # curl -d names a form whatever it sends
    elif shape == SHAPE_JSON and begins(text + search.at, size - search.at, b")]}'", 4):
        while search.at < size and text[search.at] != 10:   # a prefix against inclusion by other sites
            search.at += 1
    if search.shape == SHAPE_PARTS:
        find_boundary(search, type, type_size)


cdef Found next_value(Search* search, Value* value) noexcept nogil:
    cdef Found found = NOTHING
    if search.shape == SHAPE_JSON:
        found = next_json(search, search.size, value)
        if found == FAILED and not search.claimed:
            search.shape = SHAPE_TEXT
            search.at = search.last
            if search.json.hiding:
                value.at = search.json.hidden_at
                value.end = search.size
                value.json = False
                search.at = search.size
                return VALUE
            found = next_text(search, search.size, value)
    elif search.shape == SHAPE_TEXT:
        found = next_text(search, search.size, value)
    elif search.shape == SHAPE_FORM:
        found = next_field(search, search.size, value)
    elif search.shape == SHAPE_PARTS:
        if search.boundary_size == 0:
            return FAILED if search.claimed and search.size else NOTHING
        found = next_part(search, value)
    if found == VALUE:
        search.last = value.end
    return found


cdef bytes unescaped(const uint8_t* text, size_t size):
    cdef bytes value = PyBytes_FromStringAndSize(<const char*>text, <Py_ssize_t>size)
    if not value.startswith(b'"'):
        return value
    if b"\\" in value:
        from json import loads      # only with a key, and for few values
        try:
            return loads(value, strict=False).encode("utf-8", "surrogatepass")
        except ValueError:
            pass
    return value[1:-1] if size > 1 and value.endswith(b'"') else value[1:]
