# What names a connection: its texts, made without a Python object, and the objects that its messages share.

from libc.stdint cimport uint8_t, uint32_t

from sniffer_core.connection cimport Conn

cdef enum:
    ADDRESS_TEXT = 46       # bytes of the longest address as text, with a NUL
    NAMED_MAX = 128         # most bytes that digest_digits() takes: one block of BLAKE2b
    ID_DIGITS = 32          # hexadecimal digits of a connectionId

cdef uint32_t address_text(char* to, const uint8_t* address, uint32_t size) noexcept nogil
    # Writes an address of 4 or 16 bytes as inet_ntop() does, and returns its length. `to`: ADDRESS_TEXT bytes.

cdef void digest_digits(char* to, const uint8_t* data, uint32_t size) noexcept nogil
    # Writes the ID_DIGITS digits of the BLAKE2b-128 (RFC 7693) of at most NAMED_MAX bytes.

cdef void name_conn(Conn* conn)
    # Makes the Python objects of a connection: id, ends, opening.

cdef tuple behind_of(tuple source, tuple destination)
    # (source, destination, their JSON) of the ends that a PROXY protocol header names.

cdef void name_proxied(Conn* conn)
    # Makes the Python objects of the ends that a connection's PROXY protocol header names.

cdef void forget_conn(Conn* conn)
    # Frees a connection without references, and its Python objects.

cdef tuple name_end(const uint8_t* address, int size, int port)
    # Returns (address as text, port). `size` of the address: 4 or 16 bytes.
