# JSON text, written into a buffer that grows. The functions are inline, since every record calls them dozens of times
# and a call into another Cython module goes through a pointer that the C compiler cannot see through.
#
# None of them returns an error: a buffer without memory is marked `failed`, and written() raises MemoryError.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy, strlen

cdef enum:
    STAMP_SIZE = 27         # bytes of a time stamp: 2026-01-02T03:04:05.678901Z

cdef struct Buffer:
    uint8_t* data
    size_t size             # bytes written
    size_t space            # bytes allocated
    bint failed             # there was no memory: what was written is worthless
    bint dated              # `date` is the text of the second `stamped`
    int64_t stamped         # seconds since 1970, UTC
    char date[20]           # up to and with the point before the microseconds

cdef struct Span:           # bytes that somebody else owns
    const char* data
    Py_ssize_t size


cdef extern from *:
    """
    #include <string.h>

    /* How JSON escapes a character inside a string: 0 means as it is, 'u' as six characters with its number, anything
       else is the letter behind a backslash (RFC 8259 section 7). */
    static const unsigned char json_escape[256] = {
        'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'b', 't', 'n', 'u', 'f', 'r', 'u', 'u',
        'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u',
        ['"'] = '"', ['\\\\'] = '\\\\',
    };

    static const char digit_pairs[201] =
        "0001020304050607080910111213141516171819202122232425262728293031323334353637383940414243444546474849"
        "5051525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";

    /* Copies 8 bytes; returns how many of them, from the first, JSON writes as they are: not those below 0x20, quotes
       and backslashes, nor, where `latin`, those above 0x7f. A borrow reaches only bytes behind the first that is
       found, which is the lowest: the machine is little-endian, or the bytes are swapped. */
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

    /* 8 ASCII letters at once: 'A' to 'Z' become small, all other bytes stay. The two sums set a byte's high bit where
       its low seven bits are at least 'A', and where they are above 'Z'. */
    static inline unsigned long long lower_word(unsigned long long word) {
        const unsigned long long ones = 0x0101010101010101ull, high = 0x8080808080808080ull;
        unsigned long long low = word & ~high;
        unsigned long long capital = ((low + (0x80 - 'A') * ones) & ~(low + (0x7f - 'Z') * ones)) & ~word & high;
        return word | capital >> 2;
    }

    /* Copies `size` bytes, capitals made small. From 8 bytes on it takes 8 at a time, the last of them once more. */
    static inline void copy_lower(unsigned char *to, const unsigned char *from, size_t size) {
        unsigned long long word;
        size_t i;
        if (size < 8) {
            for (i = 0; i < size; i++)
                to[i] = from[i] >= 'A' && from[i] <= 'Z' ? from[i] + 32 : from[i];
            return;
        }
        for (i = 0; i + 8 < size; i += 8) {
            memcpy(&word, from + i, 8);
            word = lower_word(word);
            memcpy(to + i, &word, 8);
        }
        memcpy(&word, from + size - 8, 8);
        word = lower_word(word);
        memcpy(to + size - 8, &word, 8);
    }
    """
    const uint8_t json_escape[256]
    const char digit_pairs[201]
    unsigned plain8(uint8_t* to, const uint8_t* text, bint latin) noexcept nogil
    unsigned plain16(uint8_t* to, const uint8_t* text, bint latin) noexcept nogil
    void copy_lower(uint8_t* to, const uint8_t* text, size_t size) noexcept nogil


# ---- the buffer ------------------------------------------------------------------------------------------------------

cdef inline void begin(Buffer* out) noexcept nogil:
    """Begins anew; the memory stays."""
    out.size = 0
    out.failed = False


cdef inline uint8_t* room(Buffer* out, size_t size) noexcept nogil:
    """Where `size` more bytes can be written, or NULL; the caller adds to out.size what it wrote."""
    if out.size + size > out.space:
        return grow(out, size)
    return out.data + out.size


cdef uint8_t* grow(Buffer* out, size_t size) noexcept nogil
    # room(), where the buffer is too small.


cdef inline void write(Buffer* out, const void* data, size_t size) noexcept nogil:
    cdef uint8_t* to = room(out, size)
    if to != NULL:
        memcpy(to, data, size)
        out.size += size


cdef inline void put(Buffer* out, const char* text) noexcept nogil:
    """Writes a constant. Only a literal is cheap: the C compiler knows its length."""
    write(out, text, strlen(text))


cdef inline void put_span(Buffer* out, const Span* text) noexcept nogil:
    write(out, text.data, <size_t>text.size)


cdef inline void put_again(Buffer* out, size_t at, size_t size) noexcept nogil:
    """Writes the `size` bytes that stand at `at` once more."""
    cdef uint8_t* to = room(out, size)
    if to != NULL and not out.failed:
        memcpy(to, out.data + at, size)
        out.size += size


cdef bytes written(Buffer* out)
    # What was written since begin(). MemoryError if the buffer has failed.


# ---- numbers and times -----------------------------------------------------------------------------------------------

cdef inline void put_number(Buffer* out, uint64_t number) noexcept nogil:
    cdef uint8_t digits[20]
    cdef uint32_t at = 20
    cdef uint8_t* to
    if number < 10:
        to = room(out, 1)
        if to != NULL:
            to[0] = <uint8_t>(48 + number)
            out.size += 1
        return
    while number >= 100:
        at -= 2
        memcpy(digits + at, digit_pairs + 2 * (number % 100), 2)
        number = number // 100
    if number >= 10:
        at -= 2
        memcpy(digits + at, digit_pairs + 2 * number, 2)
    else:
        at -= 1
        digits[at] = <uint8_t>(48 + number)
    write(out, digits + at, 20 - at)


cdef inline void put_milliseconds(Buffer* out, uint64_t micros) noexcept nogil:
    """Milliseconds from microseconds, as the shortest decimal number with a point: 1.5, 0.372, 2.0."""
    cdef uint32_t rest = <uint32_t>(micros % 1000)
    cdef uint8_t* to
    put_number(out, micros // 1000)
    to = room(out, 4)
    if to == NULL:
        return
    to[0] = 46
    to[1] = <uint8_t>(48 + rest // 100)
    memcpy(to + 2, digit_pairs + 2 * (rest % 100), 2)
    out.size += 4 if to[3] != 48 else 3 if to[2] != 48 else 2


cdef void put_second(Buffer* out, int64_t second) noexcept nogil
    # Sets `date` to the text of a second.


cdef inline void put_stamp(Buffer* out, int64_t micros) noexcept nogil:
    """Writes µs since 1970 as ISO 8601, UTC, microseconds. The text of the last second is kept."""
    cdef int64_t second = <int64_t>(<uint64_t>micros // 1_000_000)     # packet times are not negative
    cdef uint32_t rest = <uint32_t>(micros - second * 1_000_000)
    cdef uint8_t* to
    if second != out.stamped or not out.dated:
        put_second(out, second)
    to = room(out, STAMP_SIZE)
    if to == NULL:
        return
    memcpy(to, out.date, 20)
    memcpy(to + 20, digit_pairs + 2 * (rest // 10_000), 2)
    memcpy(to + 22, digit_pairs + 2 * (rest // 100 % 100), 2)
    memcpy(to + 24, digit_pairs + 2 * (rest % 100), 2)
    to[26] = 90
    out.size += STAMP_SIZE


# ---- strings ---------------------------------------------------------------------------------------------------------

cdef inline uint8_t* escape_text(uint8_t* to, const uint8_t* text, size_t size, bint latin) noexcept nogil:
    """Writes text as the inside of a JSON string to `to`, which has room for 6 * `size` bytes; returns its end.

    `latin`: the text is ISO-8859-1, else UTF-8.
    """
    cdef size_t i = 0
    cdef unsigned plain
    cdef uint8_t c
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
        if json_escape[c]:
            to[0] = 92
            to[1] = json_escape[c]
            to += 2
            if json_escape[c] == 117:
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
    return to


cdef inline void put_text(Buffer* out, const uint8_t* text, size_t size, bint latin) noexcept nogil:
    """Writes text as the inside of a JSON string; `latin`: it is ISO-8859-1, else UTF-8."""
    cdef uint8_t* to = room(out, size * 6)
    if to != NULL:
        out.size = <size_t>(escape_text(to, text, size, latin) - out.data)


cdef inline void put_latin(Buffer* out, const uint8_t* text, size_t size) noexcept nogil:
    """Writes ISO-8859-1 as a JSON string."""
    put(out, b'"')
    put_text(out, text, size, True)
    put(out, b'"')


cdef int64_t measure_utf8(const uint8_t* data, size_t size) noexcept nogil
    # How many bytes are whole UTF-8 sequences: `size`, or less where only the last sequence is cut; -1: it is no UTF-8.

cdef void put_base64(Buffer* out, const uint8_t* data, size_t size) noexcept nogil
    # RFC 4648 section 4.


# ---- Python objects --------------------------------------------------------------------------------------------------

cdef int put_str(Buffer* out, str text) except -1
    # A JSON string.

cdef int put_dict(Buffer* out, dict fields) except -1
    # A JSON object of fields: each value is a str or a list of str.
