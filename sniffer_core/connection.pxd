# A connection's identity: its two ends, the time of its first packet, and the Python objects made from these. The flow
# and every exchange hold a reference, because messages outlive their flow.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from cpython.ref cimport PyObject

from sniffer_core.base.memory cimport Pool

cdef enum:
    CONN_OBJECTS = 640      # bytes counted for a connection's Python objects: they take 580 with IPv4, 660 with IPv6

cdef struct Proxied:        # the ends that a PROXY protocol header names
    uint8_t address_size    # 4 or 16; 0: it names none (UNKNOWN, LOCAL, a Unix socket)
    uint8_t source[16]
    uint8_t destination[16]
    uint16_t source_port
    uint16_t destination_port

cdef struct Conn:
    Pool* pool
    Conn** dead             # the table's list of connections whose Python objects wait for the GIL
    Conn* next_dead
    int64_t first_stamp     # packet time of the first packet seen, µs
    uint64_t place          # wire.Packet.place if an earlier connection has the same ends in another place; else 0
    uint32_t references     # by the flow and the exchanges
    uint16_t low_port
    uint16_t high_port
    uint8_t address_size    # 4 or 16
    uint8_t server_is_high  # True: the server is the end `high`
    uint8_t from_start      # True: the connection was seen to begin
    uint8_t low[16]         # the ends, ordered by packed address, then port
    uint8_t high[16]
    Proxied* proxied        # NULL: there was no PROXY protocol header, or it names no ends
    PyObject* id            # connectionId; it and the next three are made with the first message (record.naming)
    PyObject* server        # (address, port)
    PyObject* client        # (address, port)
    PyObject* opening       # bytes: the JSON of its messages up to the direction
    PyObject* behind        # (source, destination, their JSON), made with the first message if `proxied` is not NULL

cdef void conn_free(Conn* conn) noexcept nogil
    # Frees the struct. The caller has released the Python objects.
cdef void conn_release(Conn* conn) noexcept nogil
    # Gives up one reference. Without any left, the connection is freed, or put on `dead` if it has Python objects.
