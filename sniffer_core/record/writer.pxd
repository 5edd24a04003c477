# Writes JSON text into a buffer that grows. Most functions are inline, because every record calls them dozens of times
# and the C compiler cannot optimise calls into another Cython module, which go through a pointer.
#
# Functions without the GIL return no errors: they mark a buffer without memory as `failed`, and written() raises
# MemoryError.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy, strlen

cdef enum:
    STAMP_SIZE = 27         # bytes of a time stamp: 2026-01-02T03:04:05.678901Z

cdef struct Buffer:
    uint8_t* data
    size_t size             # bytes written
    size_t space            # bytes allocated
    bint failed             # True: an allocation failed, and the text is not valid
    bint dated              # True: `date` is the text of the second `stamped`
    int64_t stamped         # seconds since 1970, UTC
    char date[20]           # the text of a time stamp up to the point before its microseconds

cdef struct Span:           # bytes that are not owned
    const char* data
    Py_ssize_t size


cdef extern from *:
    """
    #include <string.h>

    /* How JSON escapes a character in a string (RFC 8259 section 7). 0: not at all; 'u': as backslash, u and four hex
       digits; any other value: as a backslash and this character. */
    static const unsigned char json_escape[256] = {
        'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'b', 't', 'n', 'u', 'f', 'r', 'u', 'u',
        'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u',
        ['"'] = '"', ['\\\\'] = '\\\\',
    };

    static const char digit_pairs[201] =
        "0001020304050607080910111213141516171819202122232425262728293031323334353637383940414243444546474849"
        "5051525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";

    /* Copies 8 bytes. Returns how many of them come before the first that JSON cannot have as it is: below 0x20, a
       quote or a backslash, and, if `latin`, above 0x7f. A borrow of the subtractions reaches only bytes behind the
       first such byte, as the first byte is the lowest of the word: big-endian words are swapped. */
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

    /* Makes 8 bytes lower case: 'A' to 'Z' become small letters, all others stay. The two sums set the high bit of a
       byte whose low seven bits are at least 'A', and of one whose low seven bits are above 'Z'. */
    static inline unsigned long long lower_word(unsigned long long word) {
        const unsigned long long ones = 0x0101010101010101ull, high = 0x8080808080808080ull;
        unsigned long long low = word & ~high;
        unsigned long long capital = ((low + (0x80 - 'A') * ones) & ~(low + (0x7f - 'Z') * ones)) & ~word & high;
        return word | capital >> 2;
    }

    /* Copies `size` bytes in lower case. From 8 bytes on it copies 8 at a time; the last 8 may overlap others. */
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
    """Empties the buffer; its memory stays."""
    out.size = 0
    out.failed = False


cdef inline uint8_t* room(Buffer* out, size_t size) noexcept nogil:
    """Returns where `size` more bytes can be written, or NULL. The caller adds to out.size what it writes."""
    if out.size + size > out.space:
        return grow(out, size)
    return out.data + out.size


cdef uint8_t* grow(Buffer* out, size_t size) noexcept nogil
    # As room(), for a buffer that is too small.


cdef inline void write(Buffer* out, const void* data, size_t size) noexcept nogil:
    cdef uint8_t* to = room(out, size)
    if to != NULL:
        memcpy(to, data, size)
        out.size += size


cdef inline void put(Buffer* out, const char* text) noexcept nogil:
    """Writes a literal, whose length the C compiler knows."""
    write(out, text, strlen(text))


cdef inline void put_span(Buffer* out, const Span* text) noexcept nogil:
    write(out, text.data, <size_t>text.size)


cdef inline void put_again(Buffer* out, size_t at, size_t size) noexcept nogil:
    """Writes the `size` bytes from index `at` on once more."""
    cdef uint8_t* to = room(out, size)
    if to != NULL and not out.failed:
        memcpy(to, out.data + at, size)
        out.size += size


cdef bytes written(Buffer* out)
    # Returns what was written since begin(). MemoryError: the buffer has failed.


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
    """Writes µs as milliseconds, as the shortest decimal number with a point: 1.5, 0.372, 2.0."""
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
    # Sets `date` to the text of a second since 1970, UTC.


cdef inline void put_stamp(Buffer* out, int64_t micros) noexcept nogil:
    """Writes µs since 1970 (not negative) as an ISO 8601 time in UTC. The text of the last second is kept."""
    cdef int64_t second = <int64_t>(<uint64_t>micros // 1_000_000)     # unsigned: no rounding of negative numbers
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
    """Writes `text` as the inside of a JSON string to `to`, which must have room for 6 * `size` bytes; returns its end.

    `latin`: the text is ISO-8859-1; otherwise it is UTF-8.
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
    """Writes `text` as the inside of a JSON string. `latin`: the text is ISO-8859-1; otherwise it is UTF-8."""
    cdef uint8_t* to = room(out, size * 6)
    if to != NULL:
        out.size = <size_t>(escape_text(to, text, size, latin) - out.data)


cdef inline void put_latin(Buffer* out, const uint8_t* text, size_t size) noexcept nogil:
    """Writes ISO-8859-1 as a JSON string."""
    put(out, b'"')
    put_text(out, text, size, True)
    put(out, b'"')


cdef int64_t measure_utf8(const uint8_t* data, size_t size) noexcept nogil
    # Returns `size` if the bytes are UTF-8 (RFC 3629 section 4), less if only the last sequence is cut (then the bytes
    # before it), and -1 if they are not UTF-8.

cdef void put_base64(Buffer* out, const uint8_t* data, size_t size) noexcept nogil
    # Writes base64, RFC 4648 section 4.


# ---- Python objects --------------------------------------------------------------------------------------------------

cdef int put_str(Buffer* out, str text) except -1
    # Writes a JSON string. UnicodeEncodeError: a lone surrogate.

cdef int put_dict(Buffer* out, dict fields) except -1
    # Writes a JSON object; each value is a str or a list of str.
