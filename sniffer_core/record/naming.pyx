"""What names a connection; see naming.pxd.

BLAKE2b stands here because hashlib takes longer to be called than to hash the one block that every connection gives.
"""

from cpython.ref cimport PyObject, Py_INCREF, Py_XDECREF
from cpython.unicode cimport PyUnicode_DecodeLatin1
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strlen

from sniffer_core.connection cimport Conn, Proxied, conn_free
from sniffer_core.record.writer cimport Buffer, begin, put, put_number, write, written

cdef enum:
    NAMED_WORDS = 16        # a block of NAMED_MAX bytes
    DIGEST_SIZE = 16        # bytes

cdef Buffer opening     # of opening_of(), used with the GIL; its memory is kept

cdef extern from "<arpa/inet.h>":
    const char* inet_ntop(int family, const void* address, char* to, uint32_t size) nogil

cdef extern from "<sys/socket.h>":
    int AF_INET6

cdef extern from *:
    """
    /* RFC 7693 sections 2.6, 2.7 and 3.1. */
    static const unsigned long long blake_iv[8] = {
        0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
        0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
    };
    static const unsigned char blake_sigma[10][16] = {
        {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
        {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
        {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
        {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
        {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
        {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
        {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
        {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
        {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
        {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
    };

    #define BLAKE_RIGHT(w, n) (((w) >> (n)) | ((w) << (64 - (n))))
    #define BLAKE_MIX(a, b, c, d, x, y) do { \\
        v[a] += v[b] + (x); v[d] = BLAKE_RIGHT(v[d] ^ v[a], 32); v[c] += v[d]; v[b] = BLAKE_RIGHT(v[b] ^ v[c], 24); \\
        v[a] += v[b] + (y); v[d] = BLAKE_RIGHT(v[d] ^ v[a], 16); v[c] += v[d]; v[b] = BLAKE_RIGHT(v[b] ^ v[c], 63); \\
    } while (0)

    /* The first two words of the hash of one block, which holds `size` bytes and zeros behind them. */
    static void blake_block(
        unsigned long long hash[2], const unsigned long long m[16], unsigned size, unsigned digest) {
        unsigned long long v[16];
        unsigned long long first = blake_iv[0] ^ 0x01010000ull ^ digest;
        const unsigned char *s;
        int i;
        for (i = 0; i < 8; i++)
            v[i] = v[i + 8] = blake_iv[i];
        v[0] = first;
        v[12] ^= size;
        v[14] = ~v[14];
        for (i = 0; i < 12; i++) {
            s = blake_sigma[i % 10];
            BLAKE_MIX(0, 4, 8, 12, m[s[0]], m[s[1]]);
            BLAKE_MIX(1, 5, 9, 13, m[s[2]], m[s[3]]);
            BLAKE_MIX(2, 6, 10, 14, m[s[4]], m[s[5]]);
            BLAKE_MIX(3, 7, 11, 15, m[s[6]], m[s[7]]);
            BLAKE_MIX(0, 5, 10, 15, m[s[8]], m[s[9]]);
            BLAKE_MIX(1, 6, 11, 12, m[s[10]], m[s[11]]);
            BLAKE_MIX(2, 7, 8, 13, m[s[12]], m[s[13]]);
            BLAKE_MIX(3, 4, 9, 14, m[s[14]], m[s[15]]);
        }
        hash[0] = first ^ v[0] ^ v[8];
        hash[1] = blake_iv[1] ^ v[1] ^ v[9];
    }
    """
    void blake_block(unsigned long long* hash, const unsigned long long* m, unsigned size, unsigned digest) nogil


cdef uint32_t address_text(char* to, const uint8_t* address, uint32_t size) noexcept nogil:
    cdef char* at = to
    cdef uint32_t i
    cdef uint32_t tens
    if size != 4:
        inet_ntop(AF_INET6, address, to, ADDRESS_TEXT)      # cannot fail: `to` has room
        return <uint32_t>strlen(to)
    for i in range(4):                  # inet_ntop() calls sprintf() for this
        tens = <uint32_t>(205 * address[i]) >> 11       # a tenth, for every byte
        if address[i] >= 100:
            at[0] = 50 if address[i] >= 200 else 49
            at += 1
        if address[i] >= 10:
            at[0] = <char>(48 + tens - (20 if tens >= 20 else 10 if tens >= 10 else 0))
            at += 1
        at[0] = <char>(48 + address[i] - 10 * tens)
        at[1] = 46 if i < 3 else 0
        at += 1 if i == 3 else 2
    return <uint32_t>(at - to)


cdef inline char hex_digit(uint32_t value) noexcept nogil:
    return <char>(value + 48 if value < 10 else value + 87)


cdef void digest_digits(char* to, const uint8_t* data, uint32_t size) noexcept nogil:
    cdef uint8_t block[NAMED_MAX]
    cdef unsigned long long words[NAMED_WORDS]
    cdef unsigned long long digest[2]
    cdef uint32_t i
    cdef uint32_t byte
    memset(block, 0, NAMED_MAX)
    memcpy(block, data, size)
    memset(words, 0, sizeof(words))
    for i in range(NAMED_MAX):          # words are little-endian on every machine
        words[i >> 3] |= <uint64_t>block[i] << (8 * (i & 7))
    blake_block(digest, words, size, DIGEST_SIZE)
    for i in range(DIGEST_SIZE):
        byte = <uint32_t>(digest[i >> 3] >> (8 * (i & 7))) & 0xFF
        to[2 * i] = hex_digit(byte >> 4)
        to[2 * i + 1] = hex_digit(byte & 15)


# ---- Python objects --------------------------------------------------------------------------------------------------

cdef tuple name_end(const uint8_t* address, int size, int port):
    cdef char text[ADDRESS_TEXT]
    cdef uint32_t length = address_text(text, address, <uint32_t>size)
    return PyUnicode_DecodeLatin1(text, <Py_ssize_t>length, NULL), port


cdef inline uint8_t* put_bytes(uint8_t* to, const void* data, size_t size) noexcept nogil:
    memcpy(to, data, size)
    return to + size


cdef inline uint8_t* put_big(uint8_t* to, uint64_t value, int size) noexcept nogil:
    """Writes the lowest `size` bytes of a number, the highest first."""
    cdef int i
    for i in range(size):
        to[i] = <uint8_t>(value >> (8 * (size - 1 - i)))
    return to + size


cdef str id_of(const Conn* conn):
    """The connectionId. docs/RECORD.md defines it: BLAKE2b-128 of a version, the sorted ends, the first stamp and the
    place, if it has one."""
    cdef uint8_t named[NAMED_MAX]       # at most 53 bytes are used
    cdef char digits[ID_DIGITS]
    cdef uint8_t* to = named
    to[0] = 1
    to = put_bytes(to + 1, conn.low, conn.address_size)
    to = put_big(to, conn.low_port, 2)
    to = put_bytes(to, conn.high, conn.address_size)
    to = put_big(to, conn.high_port, 2)
    to = put_big(to, <uint64_t>conn.first_stamp, 8)
    if conn.place:
        to = put_big(to, conn.place, 8)
    digest_digits(digits, named, <uint32_t>(to - named))
    return PyUnicode_DecodeLatin1(digits, ID_DIGITS, NULL)


cdef void put_end(Buffer* out, const Conn* conn, bint is_high) noexcept nogil:
    """Writes one end of a connection as JSON."""
    cdef char text[ADDRESS_TEXT]
    cdef uint32_t size
    if is_high:
        size = address_text(text, conn.high, conn.address_size)
    else:
        size = address_text(text, conn.low, conn.address_size)
    put(out, b'{"ip":"')
    write(out, <uint8_t*>text, size)
    put(out, b'","port":')
    put_number(out, conn.high_port if is_high else conn.low_port)
    put(out, b"}")


cdef bytes opening_of(const Conn* conn):
    """The JSON of a connection's messages up to the direction."""
    begin(&opening)
    put(&opening, b'{"schema":1,"receiver":')
    put_end(&opening, conn, conn.server_is_high)
    put(&opening, b',"destination":')
    put_end(&opening, conn, not conn.server_is_high)
    put(&opening, b',"direction":"')
    return written(&opening)


cdef void name_conn(Conn* conn):
    """Makes the Python objects of a connection."""
    cdef tuple low = name_end(conn.low, conn.address_size, conn.low_port)
    cdef tuple high = name_end(conn.high, conn.address_size, conn.high_port)
    cdef str id = id_of(conn)
    cdef tuple server = high if conn.server_is_high else low
    cdef tuple client = low if conn.server_is_high else high
    cdef bytes opening = opening_of(conn)
    Py_INCREF(id)
    Py_INCREF(server)
    Py_INCREF(client)
    Py_INCREF(opening)
    conn.id = <PyObject*>id
    conn.server = <PyObject*>server
    conn.client = <PyObject*>client
    conn.opening = <PyObject*>opening


cdef tuple behind_of(tuple source, tuple destination):
    return source, destination, (
        f',"proxied":{{"source":{{"ip":"{source[0]}","port":{source[1]}}},'
        f'"destination":{{"ip":"{destination[0]}","port":{destination[1]}}}}}').encode("ascii")


cdef void name_proxied(Conn* conn):
    """Makes the Python objects of the ends that a connection's PROXY protocol header names."""
    cdef const Proxied* said = conn.proxied
    cdef tuple source = name_end(said.source, said.address_size, said.source_port)
    cdef tuple destination = name_end(said.destination, said.address_size, said.destination_port)
    cdef tuple behind = behind_of(source, destination)
    Py_INCREF(behind)
    conn.behind = <PyObject*>behind


cdef void forget_conn(Conn* conn):
    Py_XDECREF(conn.id)
    Py_XDECREF(conn.server)
    Py_XDECREF(conn.client)
    Py_XDECREF(conn.opening)
    Py_XDECREF(conn.behind)
    conn_free(conn)
