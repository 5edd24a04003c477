"""The PROXY protocol; see proxy.pxd."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memchr, memcmp, memcpy, memset

cdef extern from "<arpa/inet.h>" nogil:
    int AF_INET
    int AF_INET6
    int inet_pton(int family, const char* text, void* address)

cdef enum:
    LINE_START = 6          # "PROXY "
    SIGNATURE = 12
    FIXED = 16              # bytes of version 2 before the addresses
    WORD_MOST = 40          # size of a buffer for an address as text

cdef const char* LINE = b"PROXY "
cdef const char* BINARY = b"\r\n\r\n\x00\r\nQUIT\n"


cdef bint next_word(const uint8_t** at, const uint8_t* end, char* word) noexcept nogil:
    """Copies the next of the words that single SPs separate, and moves `at` behind it. False: there is none."""
    cdef const uint8_t* start = at[0]
    cdef const uint8_t* stop
    if start >= end:
        return False
    stop = <const uint8_t*>memchr(start, 32, end - start)
    if stop == NULL:
        stop = end
    if stop == start or stop - start >= WORD_MOST:
        return False
    memcpy(word, start, stop - start)
    word[stop - start] = 0
    at[0] = stop + 1
    return True


cdef bint read_port(const char* word, uint16_t* port) noexcept nogil:
    cdef uint32_t number = 0
    cdef int i = 0
    while word[i]:
        if not 48 <= word[i] <= 57 or i == 5:
            return False
        number = number * 10 + <uint32_t>(word[i] - 48)
        i += 1
    port[0] = <uint16_t>number
    return number <= 65535


cdef bint parse_line(const uint8_t* at, const uint8_t* end, Proxied* said) noexcept nogil:
    """Reads the text between "PROXY " and CRLF. False: it is not valid."""
    cdef char word[WORD_MOST]
    cdef int family
    if not next_word(&at, end, word):
        return False
    if memcmp(word, b"UNKNOWN", 8) == 0:    # the rest of the line must be ignored (section 2.1)
        return True
    if memcmp(word, b"TCP4", 5) == 0:
        family = AF_INET
    elif memcmp(word, b"TCP6", 5) == 0:
        family = AF_INET6
    else:
        return False
    if not next_word(&at, end, word) or inet_pton(family, word, said.source) != 1:
        return False
    if not next_word(&at, end, word) or inet_pton(family, word, said.destination) != 1:
        return False
    if not next_word(&at, end, word) or not read_port(word, &said.source_port):
        return False
    if not next_word(&at, end, word) or not read_port(word, &said.destination_port) or at <= end:
        return False
    said.address_size = 4 if family == AF_INET else 16
    return True


cdef int proxy_parse(const uint8_t* data, int size, Proxied* said) noexcept nogil:
    cdef const uint8_t* found
    cdef int length
    cdef int need = 0
    memset(said, 0, sizeof(Proxied))
    if memcmp(data, LINE, min(size, <int>LINE_START)) == 0:
        if size < LINE_START:
            return PROXY_MORE
        found = <const uint8_t*>memchr(data, 10, min(size, <int>PROXY_MOST))
        if found == NULL:
            return PROXY_MORE if size < PROXY_MOST else PROXY_NONE
        if found[-1] != 13 or not parse_line(data + LINE_START, found - 1, said):
            return PROXY_NONE
        return <int>(found - data) + 1
    if memcmp(data, BINARY, min(size, <int>SIGNATURE)) != 0:
        return PROXY_NONE
    if size < FIXED:
        return PROXY_MORE
    if data[12] != 0x20 and data[12] != 0x21:
        return PROXY_NONE
    length = <int>data[14] << 8 | data[15]
    if data[12] == 0x21:        # PROXY; 0x20 is LOCAL, a connection of the load balancer's own
        if data[13] >> 4 == 1:
            need = 4
        elif data[13] >> 4 == 2:
            need = 16
    if need == 0:
        return FIXED + length
    if length < 2 * need + 4:
        return PROXY_NONE
    if size < FIXED + 2 * need + 4:
        return PROXY_MORE
    data += FIXED
    said.address_size = <uint8_t>need
    memcpy(said.source, data, need)
    memcpy(said.destination, data + need, need)
    data += 2 * need
    said.source_port = <uint16_t>(data[0] << 8 | data[1])
    said.destination_port = <uint16_t>(data[2] << 8 | data[3])
    return FIXED + length
