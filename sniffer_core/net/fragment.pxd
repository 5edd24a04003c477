# Puts IPv4 and IPv6 datagrams together from their fragments, within bounds of number, memory and time. Only datagrams
# that carry TCP come here (net/wire). A fragment that contradicts an earlier one of its datagram is refused.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from sniffer_core.base.memory cimport Pool
from sniffer_core.net.wire cimport Packet, Verdict

cdef enum:
    FRAGMENT_DATAGRAMS = 64             # datagrams in progress: TCP in fragments is rare
    FRAGMENT_BYTES = 1 << 20            # bytes of all of them together; Linux allows a whole host 4 MiB
    FRAGMENT_TIME = 30_000_000          # µs from a datagram's first fragment, as Linux's ipfrag_time

cdef struct Datagram:                   # in progress; `data` is a block of its own
    Datagram* next                      # the next younger one
    int64_t started                     # packet time of the first fragment seen, µs
    uint8_t addresses[32]               # source, destination
    uint8_t address_size
    uint8_t protocol                    # of the fragment with offset 0, which counts (RFC 8200 section 4.5)
    uint32_t id
    uint32_t length                     # bytes of the datagram; 0 until its last fragment came
    uint32_t reach                      # where the fragment with the highest offset ends
    uint32_t units                      # number of units of 8 bytes that are there
    uint64_t covered[128]               # a bit for each unit; the largest datagram has 8192
    uint8_t* data
    uint32_t space                      # bytes of `data`

cdef struct Fragments:
    Pool* pool
    Datagram* oldest
    Datagram* complete                  # what the last fragments_add() completed; the next call gives it back
    uint32_t count
    uint32_t bytes
    uint64_t given_up                   # datagrams dropped for one of the bounds

cdef void fragments_init(Fragments* fragments, Pool* pool) noexcept nogil

cdef void fragments_free(Fragments* fragments) noexcept nogil
    # Gives back everything. `fragments` is then as after fragments_init().

cdef Verdict fragments_add(Fragments* fragments, Packet* packet, int64_t now) noexcept nogil
    # Takes a packet that wire_parse() called WIRE_FRAGMENT; `now` is packet time in µs. Returns
    # WIRE_FRAGMENT: it is kept, and completes nothing yet.
    # WIRE_TCP: it completes a datagram. `packet` views the TCP segment in it, until the next call.
    # WIRE_NOT_TCP or WIRE_TUNNEL: it completes a datagram that holds something else.
    # WIRE_MALFORMED: the fragment, or the datagram that it completes, is refused.
