"""The functions of writer.pxd that are long or rarely called."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL


# ---- the buffer ------------------------------------------------------------------------------------------------------

cdef uint8_t* grow(Buffer* out, size_t size) noexcept nogil:
    cdef size_t space = max(out.space * 2, out.size + size + 4096)
    cdef uint8_t* data = <uint8_t*>realloc(out.data, space)
    if data == NULL:
        out.failed = True
        out.size = 0        # later writes overwrite the text, which is not valid any more
        return NULL if size > out.space else out.data
    out.data = data
    out.space = space
    return data + out.size


cdef bytes written(Buffer* out):
    if out.failed:
        raise MemoryError
    return PyBytes_FromStringAndSize(<char*>out.data, <Py_ssize_t>out.size)


# ---- times -----------------------------------------------------------------------------------------------------------

cdef void put_second(Buffer* out, int64_t second) noexcept nogil:
    """The days are counted as in Howard Hinnant's civil_from_days."""
    cdef int64_t era, day, year, rest
    cdef int64_t part[6]
    cdef int i
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


# ---- strings ---------------------------------------------------------------------------------------------------------

cdef int64_t measure_utf8(const uint8_t* data, size_t size) noexcept nogil:
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


cdef uint8_t base64[8192]       # two digits for each 12 bits


cdef void init_base64():
    cdef bytes digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    cdef int i
    for i in range(4096):
        base64[2 * i] = digits[i >> 6]
        base64[2 * i + 1] = digits[i & 63]


init_base64()


cdef void put_base64(Buffer* out, const uint8_t* data, size_t size) noexcept nogil:
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


# ---- Python objects --------------------------------------------------------------------------------------------------

cdef int put_str(Buffer* out, str text) except -1:
    cdef Py_ssize_t size
    cdef const char* utf8 = PyUnicode_AsUTF8AndSize(text, &size)
    put(out, b'"')
    put_text(out, <const uint8_t*>utf8, <size_t>size, False)
    put(out, b'"')
    return 0


cdef int put_dict(Buffer* out, dict fields) except -1:
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
