"""The Python face of a message: redaction, the record as JSON, the attributes. See flow.pyi for the interface.

What must not be shown is for redact.pxd to say. Both forms ask it before either is made, field by field and of the path;
where a value is marked with a key, both take what Python makes of it.
"""

from binascii import b2a_base64
from codecs import utf_8_decode
from hashlib import blake2b
from hmac import digest as hmac_digest
from socket import AF_INET, AF_INET6, inet_ntop

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem, PyDict_SetItem
from cpython.ref cimport PyObject, Py_INCREF, Py_XDECREF
from cpython.unicode cimport PyUnicode_DecodeLatin1
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memmove, memset, strlen

from sniffer_core.connection cimport Conn, Proxied, conn_free
from sniffer_core.base.memory cimport Pool
from sniffer_core.message cimport REQUEST, WHOLE, Exchange, Field, Message, exchange_release, fields_of, text_of
from sniffer_core.record.redact cimport (
    LINK, SECRET, SHOWN, TARGET, URL, Cut, Scan, begin_scan, free_names, is_plain, kind_of, list_fields, list_parameters,
    lower, name_bit, next_cut)
from sniffer_core.record.shorten cimport SHORTEN_ROOM, shorten

cdef extern from "Python.h":
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    int PyUnicode_KIND(object text)
    bint PyUnicode_IS_ASCII(object text)
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef enum:
    NAMES = 1024        # slots of the cache of header names
    NAME_MAX = 48       # longer names are not cached
    STAMP_SIZE = 27     # bytes of a time stamp
    RECORD_FIXED = 600  # bytes of a record beside the texts of its message: names of fields, numbers
    FOLD_MAX = 64       # header lines that are folded in C; more (an oddity, or an attack) go through a dict

cdef struct Name:
    uint32_t size
    uint8_t sent[NAME_MAX]
    PyObject* lower     # owned; lives as long as the process, as interned strings do

cdef Name names[NAMES]

cdef tuple INCOMPLETE = (None, "gap", "closed", "evicted", "idle", "stopped", "malformed", "limit")
cdef tuple ANOMALIES = (
    "te-and-cl", "te-in-http10", "te-not-chunked", "te-folded", "cl-repeated", "cl-zero-padded", "cl-conflicting",
    "cl-invalid", "space-before-colon", "space-in-target", "conflicting-overlap", "bare-lf", "obs-fold", "body-not-sent",
    "bad-header-line", "te-identity", "odd-start-line", "last-crlf-missing")
cdef str SET_COOKIE = "set-cookie"
cdef str COOKIE = "cookie"
cdef str REDACTED = "[REDACTED]"
ANOMALY_NAMES = ANOMALIES
cdef const char* incomplete_words[8]        # the same as JSON, for where no Python object may be touched
cdef const char* anomaly_words[18]
cdef tuple WORDS = tuple([f'"{word}"'.encode("ascii") for word in INCOMPLETE + ANOMALIES])


cdef void init_words():
    cdef Py_ssize_t i
    for i in range(len(INCOMPLETE)):
        incomplete_words[i] = <bytes>WORDS[i]
    for i in range(len(ANOMALIES)):
        anomaly_words[i] = <bytes>WORDS[len(INCOMPLETE) + i]


init_words()


# ---- names -----------------------------------------------------------------------------------------------------------

cdef inline str latin1(const uint8_t* data, Py_ssize_t size):
    return PyUnicode_DecodeLatin1(<char*>data, size, NULL)


cdef str mark(Rules rules, str value):
    """What stands for a value that must not leave the core: with a key, the same for the same value."""
    cdef bytes sent
    if rules.key is None:
        return REDACTED
    sent = value.encode("latin-1")
    return f"[REDACTED:{hmac_digest(rules.key, sent, 'sha256')[:16].hex()}:{len(sent)}]"


cdef str show_url(const uint8_t* text, size_t size, uint8_t kind, Rules rules):
    """A URL without what must not be shown; put_url() writes the same where marks have no key."""
    cdef Scan scan
    cdef Cut cut
    cdef size_t shown = 0
    cdef list parts = []
    if is_plain(text, size, &rules.query):
        return latin1(text, <Py_ssize_t>size)
    begin_scan(&scan, text, size, kind, &rules.query)
    while next_cut(&scan, &cut):
        parts.append(latin1(text + shown, <Py_ssize_t>(cut.at - shown)))
        if cut.marked:
            parts.append(mark(rules, latin1(text + cut.at, <Py_ssize_t>(cut.end - cut.at))))
        shown = cut.end
    parts.append(latin1(text + shown, <Py_ssize_t>(size - shown)))
    return "".join(parts)


cdef str lower_name(const uint8_t* sent, uint32_t size):
    """The header name in lower case, from a cache: the same few names come again and again."""
    cdef uint32_t hashed = 2166136261 ^ size
    cdef uint32_t i
    cdef Name* slot
    cdef str lowered
    if size > NAME_MAX:
        return latin1(sent, size).lower()
    for i in range(size):
        hashed = (hashed ^ sent[i]) * 16777619
    slot = &names[(hashed ^ (hashed >> 15)) & (NAMES - 1)]
    if slot.lower != NULL and slot.size == size and memcmp(slot.sent, sent, size) == 0:
        return <str>slot.lower
    lowered = latin1(sent, size).lower()
    if slot.lower == NULL:      # the first to come keeps the slot: traffic cannot make it churn
        slot.size = size
        memcpy(slot.sent, sent, size)
        Py_INCREF(lowered)
        slot.lower = <PyObject*>lowered
    return lowered


cdef dict build_fields(const Field* fields, uint32_t count, const uint8_t* text, Rules rules):
    """Lower-case names in order of first appearance, repeated ones joined, set-cookie always a list."""
    cdef dict headers = {}
    cdef dict repeated = None
    cdef uint32_t i
    cdef str name
    cdef object value
    cdef PyObject* old
    cdef uint8_t kind
    cdef bint secret
    cdef list marked = []       # names of values that are joined first and marked then
    for i in range(count):
        name = lower_name(text + fields[i].name.at, fields[i].name.size)
        kind = kind_of(&rules.headers, text + fields[i].name.at, fields[i].name.size)
        secret = kind == SECRET
        if secret and rules.key is not None:
            marked.append(name)
            secret = False
        if secret:
            value = REDACTED
        elif kind == URL or kind == LINK:
            value = show_url(text + fields[i].value.at, fields[i].value.size, kind, rules)
        else:
            value = latin1(text + fields[i].value.at, fields[i].value.size)
        old = PyDict_GetItem(headers, name)
        if name == SET_COOKIE:
            if old == NULL:
                headers[name] = [value]
            else:
                (<list>old).append(value)
        elif old == NULL:
            PyDict_SetItem(headers, name, value)
        elif not secret:
            if repeated is None:
                repeated = {}
            if name in repeated:
                (<list>repeated[name]).append(value)
            else:
                repeated[name] = [<object>old, value]
    if repeated is not None:
        for name, values in repeated.items():
            headers[name] = ("; " if name == COOKIE else ", ").join(values)
    for name in dict.fromkeys(marked):
        value = headers[name]
        headers[name] = mark(rules, value) if isinstance(value, str) else [mark(rules, each) for each in value]
    return headers


# ---- connections -----------------------------------------------------------------------------------------------------

cdef tuple name_end(const uint8_t* address, int size, int port):
    cdef bytes packed = PyBytes_FromStringAndSize(<char*>address, size)
    return inet_ntop(AF_INET if size == 4 else AF_INET6, packed), port


cdef void name_conn(Conn* conn):
    """Gives a connection its id (RULINGS: BLAKE2b-128 of a version, the sorted ends and the first stamp) and its ends."""
    cdef bytes low = PyBytes_FromStringAndSize(<char*>conn.low, conn.address_size)
    cdef bytes high = PyBytes_FromStringAndSize(<char*>conn.high, conn.address_size)
    cdef tuple low_end = name_end(conn.low, conn.address_size, conn.low_port)
    cdef tuple high_end = name_end(conn.high, conn.address_size, conn.high_port)
    cdef str id = blake2b(
        b"\x01" + low + (<int>conn.low_port).to_bytes(2, "big") + high + (<int>conn.high_port).to_bytes(2, "big")
        + conn.first_stamp.to_bytes(8, "big") + (conn.place.to_bytes(8, "big") if conn.place else b""),
        digest_size=16).hexdigest()
    cdef tuple server = high_end if conn.server_is_high else low_end
    cdef tuple client = low_end if conn.server_is_high else high_end
    cdef bytes opening = (
        f'{{"schema":1,"receiver":{{"ip":"{server[0]}","port":{server[1]}}},'
        f'"destination":{{"ip":"{client[0]}","port":{client[1]}}},"direction":"').encode("ascii")
    Py_INCREF(id)
    Py_INCREF(server)
    Py_INCREF(client)
    Py_INCREF(opening)
    conn.id = <PyObject*>id
    conn.server = <PyObject*>server
    conn.client = <PyObject*>client
    conn.opening = <PyObject*>opening


cdef void name_proxied(Conn* conn):
    """Gives a connection the ends that a PROXY protocol header names."""
    cdef const Proxied* said = conn.proxied
    cdef tuple source = name_end(said.source, said.address_size, said.source_port)
    cdef tuple destination = name_end(said.destination, said.address_size, said.destination_port)
    cdef bytes json = (
        f',"proxied":{{"source":{{"ip":"{source[0]}","port":{source[1]}}},'
        f'"destination":{{"ip":"{destination[0]}","port":{destination[1]}}}}}').encode("ascii")
    cdef tuple behind = (source, destination, json)
    Py_INCREF(behind)
    conn.behind = <PyObject*>behind


cdef void forget_conn(Conn* conn):
    Py_XDECREF(conn.id)
    Py_XDECREF(conn.server)
    Py_XDECREF(conn.client)
    Py_XDECREF(conn.opening)
    Py_XDECREF(conn.behind)
    conn_free(conn)


# ---- JSON ------------------------------------------------------------------------------------------------------------

cdef Buffer buffer      # of to_json(), kept from message to message: it does not let go of the GIL while it writes
cdef uint8_t escape[256]        # 0 as it is; else what stands behind the backslash ("u": six characters)


cdef void init_escape():
    cdef int c
    memset(escape, 0, sizeof(escape))
    for c in range(32):
        escape[c] = 117
    escape[8] = 98
    escape[9] = 116
    escape[10] = 110
    escape[12] = 102
    escape[13] = 114
    escape[34] = 34
    escape[92] = 92


init_escape()


cdef inline uint8_t* room(Buffer* out, size_t size) noexcept nogil:
    """Where `size` more bytes can be written; the caller adds to out.size what it wrote."""
    cdef size_t space
    cdef uint8_t* data
    if out.size + size > out.space:
        space = max(out.space * 2, out.size + size + 4096)
        data = <uint8_t*>realloc(out.data, space)
        if data == NULL:
            out.failed = True
            out.size = 0
            if size > out.space:
                return NULL
            return out.data
        out.data = data
        out.space = space
    return out.data + out.size


cdef inline void begin(Buffer* out) noexcept nogil:
    out.size = 0
    out.failed = False


cdef bytes written(Buffer* out):
    """What was written since begin()."""
    if out.failed:
        raise MemoryError
    return PyBytes_FromStringAndSize(<char*>out.data, <Py_ssize_t>out.size)


cdef inline void write(Buffer* out, const void* data, size_t size) noexcept nogil:
    cdef uint8_t* to = room(out, size)
    if to != NULL:
        memcpy(to, data, size)
        out.size += size


cdef inline void put(Buffer* out, const char* text) noexcept nogil:
    write(out, text, strlen(text))


cdef inline void copy(Buffer* out, size_t at, size_t size) noexcept nogil:
    """Writes again the `size` bytes that were written at `at`."""
    cdef uint8_t* to = room(out, size)
    if to != NULL and not out.failed:
        memcpy(to, out.data + at, size)
        out.size += size


cdef void put_number(Buffer* out, uint64_t number) noexcept nogil:
    cdef uint8_t digits[20]
    cdef int at = 20
    while True:
        at -= 1
        digits[at] = <uint8_t>(48 + number % 10)
        number //= 10
        if number == 0:
            break
    write(out, digits + at, 20 - at)


cdef extern from *:
    """
    #include <string.h>

    /* Copies 8 bytes; returns how many of them, from the first, JSON writes as they are: not those below 0x20, quotes
       and backslashes, nor, where `latin`, those above 0x7f. A borrow reaches only bytes behind the first that is
       found (which is the lowest: the machine is little-endian, or the bytes are swapped). */
    static inline unsigned plain8(unsigned char *to, const unsigned char *from, int latin) {
        const unsigned long long ones = 0x0101010101010101ull, high = 0x8080808080808080ull;
        unsigned long long word, quote, slash, odd;
        memcpy(&word, from, 8);
        memcpy(to, &word, 8);
    #if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        word = __builtin_bswap64(word);
    #endif
        quote = word ^ '"' * ones;
        slash = word ^ '\\\\' * ones;
        odd = ((word - 0x20 * ones) & ~word) | ((quote - ones) & ~quote) | ((slash - ones) & ~slash);
        odd = (latin ? odd | word : odd) & high;
        return odd ? __builtin_ctzll(odd) / 8 : 8;
    }

    /* The same for 16 bytes. */
    #ifdef __SSE2__
    #include <emmintrin.h>
    static inline unsigned plain16(unsigned char *to, const unsigned char *from, int latin) {
        __m128i block = _mm_loadu_si128((const __m128i *)from);
        __m128i control = _mm_cmpeq_epi8(_mm_min_epu8(block, _mm_set1_epi8(0x1f)), block);
        __m128i quote = _mm_cmpeq_epi8(block, _mm_set1_epi8('"'));
        __m128i slash = _mm_cmpeq_epi8(block, _mm_set1_epi8('\\\\'));
        __m128i odd = _mm_or_si128(control, _mm_or_si128(quote, slash));
        unsigned bits = _mm_movemask_epi8(latin ? _mm_or_si128(odd, block) : odd);
        _mm_storeu_si128((__m128i *)to, block);
        return bits ? __builtin_ctz(bits) : 16;
    }
    #else
    static inline unsigned plain16(unsigned char *to, const unsigned char *from, int latin) {
        unsigned plain = plain8(to, from, latin);
        return plain < 8 ? plain : 8 + plain8(to + 8, from + 8, latin);
    }
    #endif
    """
    unsigned plain8(uint8_t* to, const uint8_t* text, bint latin) noexcept nogil
    unsigned plain16(uint8_t* to, const uint8_t* text, bint latin) noexcept nogil


cdef void put_text(Buffer* out, const uint8_t* text, size_t size, bint latin) noexcept nogil:
    """Writes text as the inside of a JSON string; `latin`: it is ISO-8859-1, else UTF-8."""
    cdef uint8_t* to = room(out, size * 6)
    cdef uint8_t* start = to
    cdef size_t i = 0
    cdef unsigned plain
    cdef uint8_t c
    if to == NULL:
        return
    while i < size:
        if size - i >= 16:
            plain = plain16(to, text + i, latin)
            to += plain
            i += plain
            if plain == 16:
                continue
        elif size - i >= 8:
            plain = plain8(to, text + i, latin)
            to += plain
            i += plain
            if plain == 8:
                continue
        c = text[i]
        i += 1
        if escape[c]:
            to[0] = 92
            to[1] = escape[c]
            to += 2
            if escape[c] == 117:
                to[0] = 48
                to[1] = 48
                to[2] = 48 + (c >> 4)
                to[3] = 48 + (c & 15) if (c & 15) < 10 else 87 + (c & 15)
                to += 4
        elif latin and c >= 0x80:
            to[0] = 0xC0 | (c >> 6)
            to[1] = 0x80 | (c & 0x3F)
            to += 2
        else:
            to[0] = c
            to += 1
    out.size += <size_t>(to - start)


cdef inline void put_latin(Buffer* out, const uint8_t* text, size_t size) noexcept nogil:
    put(out, b'"')
    put_text(out, text, size, True)
    put(out, b'"')


cdef int put_str(Buffer* out, str text) except -1:
    """Writes a Python string as JSON."""
    cdef Py_ssize_t size
    cdef const char* utf8 = PyUnicode_AsUTF8AndSize(text, &size)
    put(out, b'"')
    put_text(out, <const uint8_t*>utf8, <size_t>size, False)
    put(out, b'"')
    return 0


cdef int put_dict(Buffer* out, dict fields) except -1:
    """Writes what build_fields() gave."""
    cdef bint first = True
    put(out, b"{")
    for name, value in fields.items():
        if not first:
            put(out, b",")
        first = False
        put_str(out, name)
        put(out, b":")
        if isinstance(value, str):
            put_str(out, value)
            continue
        put(out, b"[")
        for i, each in enumerate(value):
            if i:
                put(out, b",")
            put_str(out, each)
        put(out, b"]")
    put(out, b"}")
    return 0


cdef inline bint same(const Field* a, const Field* b, const uint8_t* text) noexcept nogil:
    """Whether two fields have the same name, in any case."""
    cdef uint32_t i
    if a.name.size != b.name.size:
        return False
    for i in range(a.name.size):
        if lower(text[a.name.at + i]) != lower(text[b.name.at + i]):
            return False
    return True


cdef inline bint is_named(const Field* field, const uint8_t* text, const char* name, uint32_t size) noexcept nogil:
    cdef uint32_t i
    if field.name.size != size:
        return False
    for i in range(size):
        if lower(text[field.name.at + i]) != <uint8_t>name[i]:
            return False
    return True


cdef void put_url(Buffer* out, const uint8_t* text, size_t size, uint8_t kind, const Names* query) noexcept nogil:
    """Writes a URL without what must not be shown, as the inside of a JSON string."""
    cdef Scan scan
    cdef Cut cut
    cdef size_t shown = 0
    if not is_plain(text, size, query):
        begin_scan(&scan, text, size, kind, query)
        while next_cut(&scan, &cut):
            put_text(out, text + shown, cut.at - shown, True)
            if cut.marked:
                put(out, b"[REDACTED]")
            shown = cut.end
    put_text(out, text + shown, size - shown, True)


cdef inline void put_value(
    Buffer* out, const Field* field, const uint8_t* text, uint8_t kind, const Names* query) noexcept nogil:
    if kind == SHOWN:
        put_text(out, text + field.value.at, field.value.size, True)
    elif kind == SECRET:
        put(out, b"[REDACTED]")
    else:
        put_url(out, text + field.value.at, field.value.size, kind, query)


cdef void put_fields(
    Buffer* out, const Field* fields, uint32_t count, const uint8_t* text, const Names* listed,
    const Names* query) noexcept nogil:
    """Writes header fields, FOLD_MAX at most, as build_fields() and put_dict() would, without a Python object."""
    cdef uint64_t done = 0      # fields written with an earlier one of the same name
    cdef uint64_t seen = 0      # hashes of the names so far: most repeat none
    cdef uint64_t bit
    cdef uint32_t i
    cdef uint32_t k
    cdef uint8_t* name
    cdef uint64_t odd = 0       # fields that may be listed
    cdef uint8_t kind
    cdef bint array
    cdef bint repeats = False
    for i in range(count):
        if fields[i].name.size == 0:
            continue
        bit = name_bit(text + fields[i].name.at, fields[i].name.size)
        if seen & bit:
            repeats = True
        seen |= bit
        if listed.bits & bit:
            odd |= <uint64_t>1 << i
    put(out, b"{")
    for i in range(count):
        if done >> i & 1:
            continue
        if i:
            put(out, b",")
        put(out, b'"')
        name = room(out, fields[i].name.size)
        if name == NULL:
            return
        for k in range(fields[i].name.size):
            name[k] = lower(text[fields[i].name.at + k])
        out.size += fields[i].name.size
        kind = SHOWN
        if odd >> i & 1:
            kind = kind_of(listed, text + fields[i].name.at, fields[i].name.size)
        array = is_named(&fields[i], text, b"set-cookie", 10)
        put(out, b'":["' if array else b'":"')
        put_value(out, &fields[i], text, kind, query)
        if repeats:
            for k in range(i + 1, count):
                if not done >> k & 1 and same(&fields[i], &fields[k], text):
                    done |= <uint64_t>1 << k
                    if array:
                        put(out, b'","')
                    elif kind == SECRET:
                        continue    # a joined header becomes one [REDACTED]
                    else:
                        put(out, b"; " if is_named(&fields[i], text, b"cookie", 6) else b", ")
                    put_value(out, &fields[k], text, kind, query)
        put(out, b'"]' if array else b'"')
    put(out, b"}")


cdef void put_stamp(Buffer* out, int64_t stamp) noexcept nogil:
    """ISO 8601, UTC, microseconds. The days are counted as in Howard Hinnant's civil_from_days."""
    cdef int64_t second = stamp // 1_000_000
    cdef int64_t micro = stamp % 1_000_000
    cdef int64_t era, day, year, rest
    cdef int64_t part[6]
    cdef int i
    cdef uint8_t* to
    if not out.dated or second != out.stamped:
        out.dated = True
        out.stamped = second
        day = second // 86400 + 719468
        rest = second % 86400
        part[3] = rest // 3600
        part[4] = rest // 60 % 60
        part[5] = rest % 60
        era = day // 146097
        day -= era * 146097
        year = (day - day // 1460 + day // 36524 - day // 146096) // 365
        day -= 365 * year + year // 4 - year // 100
        rest = (5 * day + 2) // 153
        part[2] = day - (153 * rest + 2) // 5 + 1
        part[1] = rest + 3 if rest < 10 else rest - 9
        part[0] = year + era * 400 + (1 if part[1] <= 2 else 0)
        memcpy(out.date, b"0000-00-00T00:00:00.", 20)
        for i in range(4):
            out.date[3 - i] = <char>(48 + part[0] % 10)
            part[0] //= 10
        for i in range(1, 6):
            out.date[3 * i + 2] = <char>(48 + part[i] // 10)
            out.date[3 * i + 3] = <char>(48 + part[i] % 10)
    to = room(out, STAMP_SIZE)
    if to == NULL:
        return
    memcpy(to, out.date, 20)
    for i in range(6):
        to[25 - i] = <uint8_t>(48 + micro % 10)
        micro //= 10
    to[26] = 90
    out.size += STAMP_SIZE


cdef void put_latency(Buffer* out, int64_t latency) noexcept nogil:
    """Milliseconds from microseconds, as the shortest decimal: 1.5, 0.372, 2.0."""
    cdef int64_t rest = latency % 1000
    cdef uint8_t digits[3]
    cdef int size = 3
    put_number(out, <uint64_t>(latency // 1000))
    put(out, b".")
    digits[0] = <uint8_t>(48 + rest // 100)
    digits[1] = <uint8_t>(48 + rest // 10 % 10)
    digits[2] = <uint8_t>(48 + rest % 10)
    while size > 1 and digits[size - 1] == 48:
        size -= 1
    write(out, digits, size)


cdef int64_t measure_utf8(const uint8_t* data, size_t size) noexcept nogil:
    """How many bytes are whole UTF-8 sequences, less than `size` only where the last is cut; -1: it is no UTF-8.

    The ranges are those of RFC 3629 section 4.
    """
    cdef size_t i = 0
    cdef size_t k
    cdef size_t more
    cdef uint64_t word
    cdef uint8_t c
    cdef uint8_t low
    cdef uint8_t high
    while i < size:
        if i + 8 <= size:
            memcpy(&word, data + i, 8)
            if word & 0x8080808080808080ull == 0:
                i += 8
                continue
        c = data[i]
        if c < 0x80:
            i += 1
            continue
        if c < 0xC2 or c > 0xF4:
            return -1
        more = 1 if c < 0xE0 else 2 if c < 0xF0 else 3
        low = 0xA0 if c == 0xE0 else 0x90 if c == 0xF0 else 0x80
        high = 0x9F if c == 0xED else 0x8F if c == 0xF4 else 0xBF
        for k in range(1, more + 1):
            if i + k == size:
                return <int64_t>i
            if not low <= data[i + k] <= high:
                return -1
            low, high = 0x80, 0xBF
        i += more + 1
    return <int64_t>size


cdef uint8_t base64[8192]       # what each 12 bits become


cdef void init_base64():
    cdef bytes digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    cdef int i
    for i in range(4096):
        base64[2 * i] = digits[i >> 6]
        base64[2 * i + 1] = digits[i & 63]


init_base64()


cdef void put_base64(Buffer* out, const uint8_t* data, size_t size) noexcept nogil:
    """RFC 4648 section 4."""
    cdef uint8_t* to = room(out, (size + 2) // 3 * 4)
    cdef size_t i
    cdef uint32_t bits
    if to == NULL:
        return
    out.size += (size + 2) // 3 * 4
    for i in range(0, size - size % 3, 3):
        bits = <uint32_t>data[i] << 16 | <uint32_t>data[i + 1] << 8 | data[i + 2]
        memcpy(to, base64 + 2 * (bits >> 12), 2)
        memcpy(to + 2, base64 + 2 * (bits & 0xFFF), 2)
        to += 4
    i = size - size % 3
    if i < size:
        bits = <uint32_t>data[i] << 16 | (<uint32_t>data[i + 1] << 8 if i + 1 < size else 0)
        memcpy(to, base64 + 2 * (bits >> 12), 2)
        to[2] = base64[2 * (bits & 0xFFF)] if i + 1 < size else 61
        to[3] = 61


# ---- the object ------------------------------------------------------------------------------------------------------

@cython.final
cdef class Rules:
    """How records are made; see FlowTable's arguments."""

    def __cinit__(self, *, redact_headers, redact_query, bytes redact_key, placement, decode, max_body, carry_count):
        cdef Buffer out
        self.header_names = list_fields(redact_headers, &self.headers)
        self.query_names = list_parameters(redact_query, &self.query)
        self.key = redact_key
        self.decode = decode
        self.max_body = max_body
        self.carry_count = carry_count
        self.placement = b""
        if placement is not None and any(placement):
            memset(&out, 0, sizeof(Buffer))
            try:
                for name, value in zip(("pod", "namespace", "node"), placement):
                    if value is not None:
                        put(&out, b',"placement":{' if out.size == 0 else b",")
                        put_str(&out, name)
                        put(&out, b":")
                        put_str(&out, value)
                put(&out, b"}")
                self.placement = PyBytes_FromStringAndSize(<char*>out.data, <Py_ssize_t>out.size)
            finally:
                free(out.data)

    def __dealloc__(self):
        free_names(&self.headers)
        free_names(&self.query)


@cython.final
@cython.no_gc
cdef class RawMessage:
    """One HTTP/1.x message as the core read it, redacted. Made by FlowTable alone."""

    def __init__(self):
        raise TypeError("a RawMessage is made by a FlowTable alone")

    def __dealloc__(self):
        if self.source != NULL:
            free(self.source.body)
            free(self.source.trailers)
            free(self.source)
        free(self.exchanged)

    @property
    def direction(self):
        return "request" if self.source.kind == REQUEST else "response"

    @property
    def timestamp(self):
        return self.source.stamp

    @property
    def headers(self):
        return build_fields(self.source.fields, self.source.count, self.source.text, self.rules)

    @property
    def trailers(self):
        if self.source.trailers == NULL:
            return None
        return build_fields(
            fields_of(self.source.trailers), self.source.trailers.count, text_of(self.source.trailers), self.rules)

    @property
    def exchange(self):
        return self.exchanged.number

    @property
    def http_version(self):
        return "1.1" if self.source.minor else "1.0"

    @property
    def method(self):
        if not self.exchanged.known:
            return None
        return latin1(self.exchanged.text + self.exchanged.method.at, self.exchanged.method.size)

    @property
    def path(self):
        if not self.exchanged.known:
            return None
        return show_url(
            self.exchanged.text + self.exchanged.target.at, self.exchanged.target.size, TARGET, self.rules)

    @property
    def status_code(self):
        return None if self.source.kind == REQUEST else self.source.status

    @property
    def reason(self):
        if self.source.kind == REQUEST:
            return None
        return latin1(self.source.text + self.source.reason.at, self.source.reason.size)

    @property
    def informational(self):
        cdef uint32_t i
        if self.source.kind == REQUEST:
            return ()
        return tuple([self.exchanged.informational[i] for i in range(self.exchanged.informational_count)])

    cdef int64_t latency(self):
        """µs, or -1."""
        return self.source.latency if self.source.kind != REQUEST and self.exchanged.known else -1

    @property
    def latency_us(self):
        cdef int64_t latency = self.latency()
        return None if latency < 0 else latency

    @property
    def end_timestamp(self):
        return self.source.stamp_end

    cdef int64_t duration(self):
        """µs, or -1."""
        if self.source.kind == REQUEST or not self.exchanged.known or self.source.end_lost:
            return -1
        return max(-1, self.source.stamp_end - self.exchanged.stamp)

    @property
    def duration_us(self):
        cdef int64_t duration = self.duration()
        return None if duration < 0 else duration

    @property
    def authority(self):
        if self.exchanged.authority.size == 0:
            return None
        return latin1(self.exchanged.text + self.exchanged.authority.at, self.exchanged.authority.size)

    @property
    def body(self):
        return PyBytes_FromStringAndSize(<char*>self.source.body, <Py_ssize_t>self.source.body_kept)

    @property
    def body_size(self):
        return self.source.body_size

    @property
    def body_truncated(self):
        return bool(self.source.truncated)

    cdef str coding(self):
        """The Content-Encoding."""
        cdef const Field* field = NULL
        cdef uint32_t i
        for i in range(self.source.count):
            if is_named(&self.source.fields[i], self.source.text, b"content-encoding", 16):
                if field != NULL:       # repeated: joined, as elsewhere
                    return build_fields(
                        self.source.fields, self.source.count, self.source.text, self.rules)["content-encoding"]
                field = &self.source.fields[i]
        if field == NULL or kind_of(
                &self.rules.headers, self.source.text + field.name.at, field.name.size) == SECRET:
            return REDACTED
        return latin1(self.source.text + field.value.at, field.value.size)

    def decode(self):
        """See flow.pyi."""
        cdef bytes body
        cdef str removed
        cdef bint full
        cdef bint broken
        if not self.coded:
            return None
        body, removed, full, broken, left = self.rules.decode(self.body, self.coding(), self.rules.max_body)
        if not self.coded:      # another thread was faster: what it has put in place may be in use
            return left
        self.coded = False
        if removed:
            self.plain = body
            self.removed = removed
            self.full = full
            self.broken = broken
        return left

    cdef bint truncated(self):
        """Whether the body is shown up to the cap only."""
        return self.source.truncated or self.full

    cdef bint cut(self):
        """Whether the body ends before its end."""
        return self.truncated() or self.broken or self.source.incomplete != WHOLE

    cdef tuple readable(self):
        """`content`, which is kept.

        The bytes before the first missing one, at most the cap as sent, then decoded to at most the cap.
        """
        cdef bytes body
        self.decode()
        body = self.plain if self.plain is not None else self.body
        if not body and self.removed is None:
            self.made = (None, None, self.truncated(), None)
            return self.made
        try:
            # Not final: a last UTF-8 sequence that is incomplete is left out.
            text = utf_8_decode(body, "strict", False)[0] if self.cut() else body.decode()
        except UnicodeDecodeError:
            self.made = (b2a_base64(body, newline=False).decode("ascii"), "base64", self.truncated(), self.removed)
        else:
            self.made = (text, None, self.truncated(), self.removed)
        return self.made

    @property
    def content(self):
        return self.made if self.made is not None else self.readable()

    @property
    def incomplete(self):
        return INCOMPLETE[self.source.incomplete]

    @property
    def missing_bytes(self):
        return self.source.missing if self.source.incomplete != WHOLE and self.source.missing > 0 else None

    @property
    def resynced(self):
        return bool(self.source.resynced)

    @property
    def anomalies(self):
        cdef uint32_t bits = self.source.anomalies
        return tuple([ANOMALIES[i] for i in range(len(ANOMALIES)) if bits >> i & 1]) if bits else ()

    @property
    def trace_id(self):
        return latin1(self.exchanged.trace, 32) if self.exchanged.traced else None

    @property
    def span_id(self):
        return latin1(self.exchanged.trace + 32, 16) if self.exchanged.traced else None

    @property
    def proxied(self):
        return None if self.behind is None else self.behind[:2]

    @property
    def carried(self):
        cdef uint32_t i
        if not self.exchanged.known or not self.rules.carry_count:
            return None
        return tuple([
            latin1(self.exchanged.text + self.exchanged.carried[i].at, self.exchanged.carried[i].size)
            if self.exchanged.carried_present & (1 << i) else None
            for i in range(self.rules.carry_count)])

    @property
    def idempotency_key(self):
        return f"{self.connection_id}-{self.exchanged.number}-{self.direction}"

    cdef size_t text(self):
        cdef size_t text = self.source.text_size + self.exchanged.size - sizeof(Exchange)
        return text if self.source.trailers == NULL else text + self.source.trailers.size

    cdef size_t body_text(self):
        """How long the body is. Before it is decoded that is not known; eight times is more than usual."""
        cdef size_t body = self.source.body_kept
        if self.plain is not None:
            body = <size_t>PyBytes_GET_SIZE(self.plain)
        elif self.coded:
            body = max(body, min(8 * body, <size_t>self.rules.max_body))
        return body

    cdef size_t foreseen(self):
        """About how long the JSON is at most."""
        return RECORD_FIXED + self.text() + 2 * self.body_text()

    @property
    def weight(self):
        return self.weigh()

    cdef size_t weigh(self):
        cdef size_t size = sizeof(Message) + sizeof(Exchange) + 256 + self.source.size + self.exchanged.size
        cdef size_t text = self.text()
        cdef size_t body = self.body_text()
        size += self.source.body_space
        if self.source.trailers != NULL:
            size += self.source.trailers.size
        if self.json is not None:
            size += len(self.json)
        else:
            size += RECORD_FIXED + text + 2 * body
        if self.message is not None:
            size += 1024 + 96 * self.source.count + text
            size += max(body + body // 3, 0 if self.made is None else text_size(self.made[0]))     # of base64; as it is
        if self.plain is not None:
            size += body
        return size

    def to_json(self):
        cdef bytes json = self.json
        if json is None:
            json = self.render()
            # Kept for the next lane, but not where it is far more than `weight` foresaw: a body of control characters
            # takes six times its size. What was made for it is not needed again.
            if <size_t>len(json) <= self.foreseen():
                self.json = json
            self.made = None
        return json

    cdef int prepare(self, Face* face, list kept) except -1:
        """Sets up a face. All that takes Python is done here; `kept` gets the objects made that the face points into."""
        cdef Message* message = self.source
        cdef Exchange* exchange = self.exchanged
        cdef str path
        memset(face, 0, sizeof(Face))
        face.message = message
        face.exchange = exchange
        face.listed = &self.rules.headers
        face.query = &self.rules.query
        face.latency = self.latency()
        face.duration = self.duration()
        span(&face.opening, self.opening)
        span(&face.placement, self.rules.placement)
        if self.behind is not None:
            span(&face.proxied, <bytes>self.behind[2])
        face.id = PyUnicode_AsUTF8AndSize(self.connection_id, NULL)
        if exchange.known and self.rules.key is not None:
            path = self.path
            kept.append(path)
            face.path.data = PyUnicode_AsUTF8AndSize(path, &face.path.size)
        if self.rules.key is not None or message.count > FOLD_MAX:
            span(&face.headers, json_of(self.headers, kept))
        if message.trailers != NULL and message.trailers.count and (
                self.rules.key is not None or message.trailers.count > FOLD_MAX):
            span(&face.trailers, json_of(self.trailers, kept))
        if self.made is not None:
            self.show_made(face)
            return 0
        if self.coded:
            self.decode()
        face.truncated = self.truncated()
        face.cut = self.cut()
        face.data = message.body
        face.size = message.body_kept
        if self.plain is not None:
            face.data = <const uint8_t*>PyBytes_AS_STRING(self.plain)
            face.size = <size_t>PyBytes_GET_SIZE(self.plain)
            face.removed.data = PyUnicode_AsUTF8AndSize(self.removed, &face.removed.size)
        face.form = RAW if face.size or face.removed.size else NONE
        return 0

    cdef int show_made(self, Face* face) except -1:
        """Sets up the body from `made`, which the message keeps."""
        cdef Py_ssize_t size
        text, encoding, face.truncated, removed = self.made
        if removed is not None:
            face.removed.data = PyUnicode_AsUTF8AndSize(removed, &face.removed.size)
        if text is not None:
            face.data = <const uint8_t*>PyUnicode_AsUTF8AndSize(text, &size)
            face.size = <size_t>size
            face.form = TEXT if encoding is None else BASE64
        return 0

    cdef bytes render(self):
        """The record, fields in the order of sniffer.message.HttpMessage."""
        cdef Face face
        cdef list kept = []
        self.prepare(&face, kept)
        begin(&buffer)
        put_record(&buffer, &face)
        return written(&buffer)


cdef size_t text_size(str text):
    """Bytes of a string: one emoji makes each character take four, and as UTF-8 it keeps a second copy."""
    cdef size_t length
    if text is None:
        return 0
    length = <size_t>PyUnicode_GET_LENGTH(text)
    return length if PyUnicode_IS_ASCII(text) else length * <size_t>(PyUnicode_KIND(text) + 3)


def coded(messages):
    """See flow.pyi."""
    return [raw for raw in messages if type(raw) is RawMessage and (<RawMessage>raw).coded]


def weights(messages):
    """See flow.pyi."""
    return [(<RawMessage>raw).weigh() if type(raw) is RawMessage else raw.weight for raw in messages]


cdef inline void span(Span* at, bytes text):
    at.data = PyBytes_AS_STRING(text)
    at.size = PyBytes_GET_SIZE(text)


cdef bytes json_of(dict fields, list kept):
    """What put_dict() writes; `kept` gets it."""
    cdef bytes json
    begin(&buffer)
    put_dict(&buffer, fields)
    json = written(&buffer)
    kept.append(json)
    return json


cdef void put_span(Buffer* out, const Span* text) noexcept nogil:
    write(out, text.data, <size_t>text.size)


cdef void put_body(Buffer* out, const Face* face) noexcept nogil:
    """The body, as text where it is UTF-8, else in base64."""
    cdef int64_t text
    if face.form == NONE:
        return
    put(out, b',"body":"')
    if face.form == TEXT:
        put_text(out, face.data, face.size, False)
        put(out, b'"')
    elif face.form == BASE64:
        write(out, face.data, face.size)
        put(out, b'","bodyEncoding":"base64"')
    else:
        text = measure_utf8(face.data, face.size)
        if text < 0 or (text < <int64_t>face.size and not face.cut):
            put_base64(out, face.data, face.size)
            put(out, b'","bodyEncoding":"base64"')
        else:
            put_text(out, face.data, <size_t>text, False)
            put(out, b'"')


cdef void put_record(Buffer* out, const Face* face) noexcept nogil:
    """Writes a record."""
    cdef const Message* message = face.message
    cdef const Exchange* exchange = face.exchange
    cdef size_t stamp_at
    cdef uint32_t i
    cdef uint32_t rest
    cdef bint first
    put_span(out, &face.opening)
    put(out, b'request","timestamp":"' if message.kind == REQUEST else b'response","timestamp":"')
    stamp_at = out.size
    put_stamp(out, message.stamp)
    put(out, b'","headers":')
    if face.headers.data != NULL:
        put_span(out, &face.headers)
    else:
        put_fields(out, message.fields, message.count, message.text, face.listed, face.query)
    put(out, b',"connectionId":"')
    put(out, face.id)
    put(out, b'","exchange":')
    put_number(out, exchange.number)
    put(out, b',"httpVersion":"1.1"' if message.minor else b',"httpVersion":"1.0"')
    if exchange.known:
        put(out, b',"method":')
        put_latin(out, exchange.text + exchange.method.at, exchange.method.size)
        put(out, b',"path":')
        if face.path.data == NULL:
            put(out, b'"')
            put_url(out, exchange.text + exchange.target.at, exchange.target.size, TARGET, face.query)
            put(out, b'"')
        else:
            put(out, b'"')
            put_text(out, <const uint8_t*>face.path.data, <size_t>face.path.size, False)
            put(out, b'"')
    if message.kind != REQUEST:
        put(out, b',"statusCode":')
        put_number(out, message.status)
        put(out, b',"reason":')
        put_latin(out, message.text + message.reason.at, message.reason.size)
        if exchange.informational_count:
            put(out, b',"informational":[')
            for i in range(exchange.informational_count):
                if i:
                    put(out, b",")
                put_number(out, exchange.informational[i])
            put(out, b"]")
        if face.latency >= 0:
            put(out, b',"latencyMs":')
            put_latency(out, face.latency)
    put_body(out, face)
    put(out, b',"bodySize":')
    put_number(out, message.body_size)
    if face.truncated:
        put(out, b',"bodyTruncated":true')
    if face.removed.size:
        put(out, b',"bodyDecoded":"')
        put_text(out, <const uint8_t*>face.removed.data, <size_t>face.removed.size, False)
        put(out, b'"')
    if message.trailers != NULL and message.trailers.count:
        put(out, b',"trailers":')
        if face.trailers.data != NULL:
            put_span(out, &face.trailers)
        else:
            put_fields(
                out, fields_of(message.trailers), message.trailers.count, text_of(message.trailers), face.listed,
                face.query)
    if message.incomplete != WHOLE:
        put(out, b',"incomplete":')
        put(out, incomplete_words[message.incomplete])
        if message.missing > 0:
            put(out, b',"missingBytes":')
            put_number(out, <uint64_t>message.missing)
    if message.resynced:
        put(out, b',"resynced":true')
    if message.anomalies:
        put(out, b',"anomalies":[')
        first = True
        rest = message.anomalies
        i = 0
        while rest:
            if rest & 1:
                if not first:
                    put(out, b",")
                first = False
                put(out, anomaly_words[i])
            rest >>= 1
            i += 1
        put(out, b"]")
    if exchange.traced:
        put(out, b',"traceId":')
        put_latin(out, exchange.trace, 32)
        put(out, b',"spanId":')
        put_latin(out, exchange.trace + 32, 16)
    put_span(out, &face.placement)
    put(out, b',"endTimestamp":"')
    if message.stamp_end == message.stamp:
        copy(out, stamp_at, STAMP_SIZE)
    else:
        put_stamp(out, message.stamp_end)
    put(out, b'"')
    if face.duration >= 0:
        put(out, b',"durationMs":')
        put_latency(out, face.duration)
    if exchange.authority.size:
        put(out, b',"authority":"')
        write(out, exchange.text + exchange.authority.at, exchange.authority.size)
        put(out, b'"')
    if face.proxied.size:
        put_span(out, &face.proxied)
    put(out, b"}")


cdef void fit(Buffer* out, size_t begun, size_t most) noexcept nogil:
    """Makes the record that begins at `begun` and ends the buffer fit into `most` bytes."""
    cdef size_t size = out.size - begun
    cdef uint8_t* to = room(out, size + SHORTEN_ROOM)
    if to == NULL or out.failed:
        return
    size = shorten(out.data + begun, size, most, to)
    if size:
        memmove(out.data + begun, to, size)
        out.size = begun + size


@cython.final
@cython.no_gc
cdef class Lines:
    """See flow.pyi."""

    def __cinit__(self, *, bint keep=False, size_t most=0):
        self.keep = keep
        self.most = most

    def __dealloc__(self):
        free(self.out.data)

    def take(self, batch, Py_ssize_t first, size_t size):
        """See flow.pyi."""
        cdef object records = batch[first:first + FACES]    # kept: the faces point into them
        cdef list kept = []
        cdef Buffer* out = &self.out
        cdef Face* face
        cdef RawMessage raw
        cdef bytes json
        cdef size_t foreseen = 0
        cdef size_t begun
        cdef Py_ssize_t count = 0
        cdef Py_ssize_t done = 0
        if out.space > 4 * size:    # a large message was here
            free(out.data)
            memset(out, 0, sizeof(Buffer))
        for record in records:
            face = &self.faces[count]
            if type(record) is RawMessage and (<RawMessage>record).json is None and not self.keep:
                raw = <RawMessage>record
                raw.prepare(face, kept)
                foreseen += RECORD_FIXED + raw.text() + face.size + face.size // 3
            else:
                json = record.to_json()
                kept.append(json)
                face.message = NULL
                span(&face.opening, json)
                foreseen += <size_t>len(json)
            count += 1
            if foreseen >= size:
                break
        begin(out)
        with nogil:
            while done < count and (done == 0 or out.size < size):
                face = &self.faces[done]
                begun = out.size
                if face.message == NULL:
                    put_span(out, &face.opening)
                else:
                    put_record(out, face)
                if self.most and out.size - begun >= self.most:
                    fit(out, begun, self.most - 1)
                put(out, b"\n")
                done += 1
        return done, written(out)


cdef bint is_coded(const Message* message) noexcept nogil:
    cdef uint32_t i
    for i in range(message.count):
        if is_named(&message.fields[i], message.text, b"content-encoding", 16):
            return True
    return False


cdef RawMessage build_message(Message* message, Pool* pool, Rules rules):
    cdef RawMessage raw = RawMessage.__new__(RawMessage)
    cdef Exchange* exchange = message.exchange
    cdef Conn* conn = exchange.conn
    if conn.id == NULL:
        name_conn(conn)
    raw.rules = rules
    raw.connection_id = <str>conn.id
    raw.receiver = <tuple>conn.server
    raw.destination = <tuple>conn.client
    raw.opening = <bytes>conn.opening
    if conn.proxied != NULL:
        if conn.behind == NULL:
            name_proxied(conn)
        raw.behind = <tuple>conn.behind
    # The protocol still needs the exchange, in another thread soon: the message gets a copy.
    raw.exchanged = <Exchange*>malloc(sizeof(Exchange) + exchange.text_size)
    if raw.exchanged == NULL:
        raise MemoryError
    raw.exchanged[0] = exchange[0]
    raw.exchanged.size = sizeof(Exchange) + exchange.text_size
    raw.exchanged.text = <uint8_t*>raw.exchanged + sizeof(Exchange)
    memcpy(raw.exchanged.text, exchange.text, exchange.text_size)
    exchange_release(exchange, pool)
    pool.bytes -= <int64_t>(message.size + message.body_space)
    pool.blocks -= 2 if message.body != NULL else 1
    if message.trailers != NULL:
        pool.bytes -= <int64_t>message.trailers.size
        pool.blocks -= 1
    raw.source = message
    raw.coded = message.body_kept != 0 and rules.decode is not None and is_coded(message)
    return raw
