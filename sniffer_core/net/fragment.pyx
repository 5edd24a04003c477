"""Reassembly of IP fragments; see fragment.pxd."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from sniffer_core.base.memory cimport Pool, pool_give, pool_resize, pool_take
from sniffer_core.net.wire cimport (
    WIRE_FRAGMENT,
    WIRE_MALFORMED,
    Packet,
    Verdict,
    wire_parse_headers,
)


cdef void fragments_init(Fragments* fragments, Pool* pool) noexcept nogil:
    memset(fragments, 0, sizeof(Fragments))
    fragments.pool = pool


cdef void fragments_free(Fragments* fragments) noexcept nogil:
    release(fragments, &fragments.complete)
    while fragments.oldest != NULL:
        fragments.count -= 1
        release(fragments, &fragments.oldest)


cdef void release(Fragments* fragments, Datagram** link) noexcept nogil:
    """Takes the datagram at `link` out of its list and frees it."""
    cdef Datagram* datagram = link[0]
    if datagram == NULL:
        return
    link[0] = datagram.next
    fragments.bytes -= <uint32_t>sizeof(Datagram) + datagram.space
    pool_give(fragments.pool, datagram.data, datagram.space)
    pool_give(fragments.pool, datagram, sizeof(Datagram))


cdef void give_up(Fragments* fragments, Datagram** link) noexcept nogil:
    """Drops the datagram at `link`, which is not complete."""
    fragments.given_up += 1
    fragments.count -= 1
    release(fragments, link)


cdef void make_room(Fragments* fragments, uint32_t size, Datagram* keep) noexcept nogil:
    """Drops the oldest datagrams, but never `keep`, until `size` more bytes are within FRAGMENT_BYTES."""
    cdef Datagram** link = &fragments.oldest
    while link[0] != NULL and fragments.bytes + size > FRAGMENT_BYTES:
        if link[0] == keep:
            link = &keep.next
        else:
            give_up(fragments, link)


cdef bint same_datagram(const Datagram* datagram, const Packet* packet) noexcept nogil:
    """Whether the fragment is of this datagram: RFC 791 section 3.2 (its protocol is TCP), RFC 8200 section 4.5."""
    return (
        datagram.id == packet.fragment_id
        and datagram.address_size == packet.address_size
        and memcmp(datagram.addresses, packet.source, packet.address_size) == 0
        and memcmp(datagram.addresses + 16, packet.destination, packet.address_size) == 0
    )


cdef Datagram* open_datagram(Fragments* fragments, const Packet* packet, int64_t now) noexcept nogil:
    """A new datagram, which `packet` is the first fragment of; NULL: no memory."""
    cdef Datagram** link = &fragments.oldest
    cdef Datagram* datagram
    if fragments.count == FRAGMENT_DATAGRAMS:
        give_up(fragments, link)
    make_room(fragments, sizeof(Datagram), NULL)
    datagram = <Datagram*>pool_take(fragments.pool, sizeof(Datagram))
    if datagram == NULL:
        return NULL
    memset(datagram, 0, sizeof(Datagram))
    datagram.started = now
    datagram.address_size = packet.address_size
    datagram.id = packet.fragment_id
    memcpy(datagram.addresses, packet.source, packet.address_size)
    memcpy(datagram.addresses + 16, packet.destination, packet.address_size)
    while link[0] != NULL:
        link = &link[0].next
    link[0] = datagram
    fragments.count += 1
    fragments.bytes += <uint32_t>sizeof(Datagram)
    return datagram


cdef bint is_covered(const Datagram* datagram, uint32_t unit) noexcept nogil:
    return (datagram.covered[unit >> 6] >> (unit & 63)) & 1


cdef bint contradicts(const Datagram* datagram, const Packet* packet) noexcept nogil:
    """Whether the fragment disagrees with an earlier one about the end of the datagram, or about a byte of it."""
    cdef uint32_t end = packet.fragment_offset + packet.fragment_size
    cdef uint32_t at, size
    if packet.fragment_more:
        if datagram.length != 0 and end >= datagram.length:
            return True
    elif end < datagram.reach or (datagram.length != 0 and end != datagram.length):
        return True
    for at in range(0, packet.fragment_size, 8):
        if is_covered(datagram, (packet.fragment_offset + at) >> 3):
            size = min(<uint32_t>8, packet.fragment_size - at)
            if memcmp(datagram.data + packet.fragment_offset + at, packet.fragment + at, size) != 0:
                return True
    return False


cdef bint reserve(Fragments* fragments, Datagram* datagram, uint32_t size) noexcept nogil:
    """Makes the datagram's block hold `size` bytes. False: no memory."""
    cdef uint32_t space
    cdef uint8_t* data
    if size <= datagram.space:
        return True
    space = max(size, min(datagram.space * 2, <uint32_t>65535))
    make_room(fragments, space - datagram.space, datagram)
    if datagram.data == NULL:
        data = <uint8_t*>pool_take(fragments.pool, space)
    else:
        data = <uint8_t*>pool_resize(fragments.pool, datagram.data, datagram.space, space)
    if data == NULL:
        return False
    fragments.bytes += space - datagram.space
    datagram.data = data
    datagram.space = space
    return True


cdef bint keep(Fragments* fragments, Datagram* datagram, const Packet* packet) noexcept nogil:
    """Copies the fragment into the datagram. False: no memory."""
    cdef uint32_t end = packet.fragment_offset + packet.fragment_size
    cdef uint32_t unit
    if not reserve(fragments, datagram, end):
        return False
    # contradicts() has compared the bytes that are there already: all can be copied
    memcpy(datagram.data + packet.fragment_offset, packet.fragment, packet.fragment_size)
    for unit in range(packet.fragment_offset >> 3, (end + 7) >> 3):
        if not is_covered(datagram, unit):
            datagram.covered[unit >> 6] |= <uint64_t>1 << (unit & 63)
            datagram.units += 1
    if packet.fragment_offset == 0:
        datagram.protocol = packet.fragment_protocol
    if not packet.fragment_more:
        datagram.length = end
    datagram.reach = max(datagram.reach, end)
    return True


cdef Verdict fragments_add(Fragments* fragments, Packet* packet, int64_t now) noexcept nogil:
    cdef Datagram** link = &fragments.oldest
    cdef Datagram* datagram
    cdef Verdict verdict
    release(fragments, &fragments.complete)
    while link[0] != NULL:
        if now - link[0].started > FRAGMENT_TIME:
            give_up(fragments, link)
        else:
            link = &link[0].next

    link = &fragments.oldest
    while link[0] != NULL and not same_datagram(link[0], packet):
        link = &link[0].next
    datagram = link[0]
    if datagram == NULL:
        datagram = open_datagram(fragments, packet, now)
        if datagram == NULL:
            return WIRE_MALFORMED
    if contradicts(datagram, packet) or not keep(fragments, datagram, packet):
        return WIRE_MALFORMED
    if datagram.length == 0 or datagram.units < (datagram.length + 7) >> 3:
        return WIRE_FRAGMENT

    link = &fragments.oldest  # looked for again, as keep() may have dropped others
    while link[0] != datagram:
        link = &link[0].next
    link[0] = datagram.next
    datagram.next = NULL
    fragments.count -= 1
    fragments.complete = datagram
    verdict = wire_parse_headers(datagram.protocol, datagram.data, datagram.length, datagram.length, packet)
    return WIRE_MALFORMED if verdict == WIRE_FRAGMENT else verdict  # fragments within fragments
