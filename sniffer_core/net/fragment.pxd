# IPv4 and IPv6 datagrams that come in fragments, put together again within bounds. Only those that carry TCP: wire.pxd
# lets no other fragment through. First bytes win: a fragment that contradicts what came before it is refused.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from sniffer_core.base.memory cimport Pool
from sniffer_core.net.wire cimport Packet, Verdict

cdef enum:
    FRAGMENT_DATAGRAMS = 64             # in progress; Linux gives them 4 MiB for a whole host, a tap sees far fewer
    FRAGMENT_BYTES = 1 << 20            # of all of them together
    FRAGMENT_TIME = 30_000_000          # µs from a datagram's first fragment, as Linux's ipfrag_time

cdef struct Datagram:                   # one block; `data` is another
    Datagram* next                      # in order of creation
    int64_t started                     # packet time of its first fragment, µs
    uint8_t addresses[32]               # source, destination
    uint8_t address_size
    uint8_t protocol                    # of the fragment with offset 0; what counts, RFC 8200 section 4.5
    uint32_t id
    uint32_t length                     # of the whole; 0 until the last fragment came
    uint32_t reach                      # the end of the farthest fragment
    uint32_t units                      # of 8 bytes that are there
    uint64_t covered[128]               # a bit for each of the 8192 units of the largest datagram
    uint8_t* data
    uint32_t space                      # bytes of `data`

cdef struct Fragments:
    Pool* pool
    Datagram* oldest
    Datagram* complete                  # handed out by the last fragments_add(), given back by the next
    uint32_t count
    uint32_t bytes
    uint64_t given_up                   # datagrams that the bounds or the time ended

cdef void fragments_init(Fragments* fragments, Pool* pool) noexcept nogil

cdef void fragments_free(Fragments* fragments) noexcept nogil
    # Gives back everything; can be used on as after fragments_init().

cdef Verdict fragments_add(Fragments* fragments, Packet* packet, int64_t now) noexcept nogil
    # Takes a packet that wire_parse() called WIRE_FRAGMENT; `now` is packet time in µs. Returns WIRE_FRAGMENT when it
    # was kept, WIRE_TCP when it completed a datagram (packet views its TCP segment until the next call), WIRE_NOT_TCP
    # when that held something else after all, WIRE_MALFORMED when the fragment or the whole was refused.
