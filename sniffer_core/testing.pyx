"""C functions of the core with Python arguments, for tests alone; see testing.pyi. One section for each module."""

from cython cimport final
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from sniffer_core cimport core
from sniffer_core.base.ascii cimport ascii_same
from sniffer_core.base.counters cimport Counter
from sniffer_core.base.memory cimport SLAB_SIZES, Pool, Slab, Slabs, slab_give, slab_take
from sniffer_core.core cimport FlowTable
from sniffer_core.base.marks cimport Incomplete
from sniffer_core.message cimport Field, Fields, Kind, Limits, Message, Text, fields_of, message_free, text_of
from sniffer_core.net.fragment cimport Fragments, fragments_add, fragments_free, fragments_init
from sniffer_core.net.wire cimport WIRE_FRAGMENT, WIRE_TCP, WIRE_TUNNEL, Packet, Verdict, wire_parse
from sniffer_core.protocols.http1.head cimport Http1Message, as_http1
from sniffer_core.protocols.http1.parser cimport (
    http1_data, http1_discard, http1_drop_body, http1_end, http1_frame, http1_free, http1_gap, http1_init, http1_kill,
    http1_reject, http1_skip, http1_tunnel,
)
from sniffer_core.protocols.http1.state cimport Parser
from sniffer_core.protocols.http2.hpack cimport (
    HPACK_DEFAULT, HpackField, HpackTable, hpack_close, hpack_decode, hpack_forget, hpack_limit, hpack_open,
)
from sniffer_core.record.naming cimport ADDRESS_TEXT, ID_DIGITS, NAMED_MAX, address_text, digest_digits
from sniffer_core.tcp.stream cimport Run
from sniffer_core.tcp.table cimport Key, keyed_hash

from sniffer_core.base.counters import NAMES


# -- base/ascii -------------------------------------------------------------------------------------------------------

def same_but_for_case(const uint8_t[:] text, const uint8_t[:] lower):
    """See testing.pyi."""
    assert text.shape[0] == lower.shape[0] > 0
    return ascii_same(&text[0], &lower[0], <size_t>text.shape[0])


# -- net/wire and net/fragment ----------------------------------------------------------------------------------------

_VERDICTS = ("tcp", "fragment", "not_ip", "not_tcp", "malformed", "cut", "tunnel")
_TUNNELS = tuple(name.removeprefix("packets_tunnel_") for name in NAMES if name.startswith("packets_tunnel_"))


cdef object _view(Verdict verdict, const Packet* packet):
    if verdict == WIRE_TCP:
        return "tcp", {
            "source": packet.source[: packet.address_size],
            "destination": packet.destination[: packet.address_size],
            "ports": (packet.source_port, packet.destination_port),
            "seq": packet.seq,
            "ack": packet.ack,
            "flags": packet.flags,
            "payload": packet.payload[: packet.payload_size],
            "missing": packet.missing,
        }
    if verdict == WIRE_FRAGMENT:
        return "fragment", {
            "source": packet.source[: packet.address_size],
            "destination": packet.destination[: packet.address_size],
            "fragment": packet.fragment[: packet.fragment_size],
            "offset": packet.fragment_offset,
            "id": packet.fragment_id,
            "more": bool(packet.fragment_more),
            "protocol": packet.fragment_protocol,
        }
    if verdict == WIRE_TUNNEL:
        return "tunnel", {"tunnel": _TUNNELS[packet.tunnel]}
    return _VERDICTS[verdict], {}


# -- base/memory -------------------------------------------------------------------------------------------------------

@final
cdef class PySlabs:
    cdef Pool pool
    cdef Slabs all_sizes[SLAB_SIZES]

    def take(self, size_t size, uint8_t filling):
        """See testing.pyi."""
        cdef void* block = slab_take(&self.pool, self.all_sizes, size)
        if block != NULL:
            memset(block, filling, size)
        return <size_t>block

    def give(self, size_t address, size_t size):
        """See testing.pyi."""
        cdef set held = set((<uint8_t*>address)[:size])
        slab_give(&self.pool, self.all_sizes, <void*>address, size)
        return held

    def starve(self):
        """See testing.pyi."""
        self.pool.spare = 1

    @property
    def taken(self):
        return self.pool.bytes, self.pool.blocks

    @property
    def slabs(self):
        cdef int count = 0
        cdef int i
        cdef Slab* slab
        for i in range(SLAB_SIZES):
            slab = self.all_sizes[i].first
            while slab != NULL:
                count += 1
                slab = slab.next
        return count


def address_shown(bytes address):
    """See testing.pyi."""
    cdef char text[ADDRESS_TEXT]
    cdef uint32_t size = address_text(text, <const uint8_t*><char*>address, <uint32_t>len(address))
    return text[:size].decode("ascii")


def digest_shown(bytes data):
    """See testing.pyi."""
    cdef char digits[ID_DIGITS]
    if len(data) > NAMED_MAX:
        raise ValueError("more than a block")
    digest_digits(digits, <const uint8_t*><char*>data, <uint32_t>len(data))
    return digits[:ID_DIGITS].decode("ascii")


def parse_packet(int linktype, bytes data):
    """See testing.pyi."""
    cdef Packet packet
    cdef Verdict verdict = wire_parse(linktype, data, len(data), &packet)
    return _view(verdict, &packet)


@final
cdef class PyFragments:
    """See testing.pyi."""

    cdef Pool pool
    cdef Fragments fragments

    def __cinit__(self):
        memset(&self.pool, 0, sizeof(Pool))
        fragments_init(&self.fragments, &self.pool)

    def __dealloc__(self):
        fragments_free(&self.fragments)

    def add(self, int linktype, bytes data, int64_t now=0):
        """See testing.pyi."""
        cdef Packet packet
        cdef Verdict verdict = wire_parse(linktype, data, len(data), &packet)
        if verdict == WIRE_FRAGMENT:
            verdict = fragments_add(&self.fragments, &packet, now)
            if verdict == WIRE_FRAGMENT:
                return "kept", {}
        return _view(verdict, &packet)

    def free(self):
        fragments_free(&self.fragments)

    @property
    def state(self):
        """See testing.pyi."""
        return self.fragments.count, self.fragments.given_up, self.pool.bytes, self.pool.blocks


# -- tcp ---------------------------------------------------------------------------------------------------------------

def leaked():
    """See testing.pyi."""
    return core.blocks_leaked


def starve(FlowTable table, int64_t number):
    """See testing.pyi."""
    cdef int64_t before = table.table.context.pool.spare
    table.table.context.pool.spare = number
    return before


def hashed(FlowTable table, bytes key, bytes secret=None):
    """See testing.pyi."""
    cdef Key copied
    cdef uint64_t[2] chosen
    assert len(key) == sizeof(Key)
    memcpy(&copied, <char*>key, sizeof(Key))
    if secret is None:
        return keyed_hash(table.table.secret, &copied)
    assert len(secret) == sizeof(chosen)
    memcpy(chosen, <char*>secret, sizeof(chosen))
    return keyed_hash(chosen, &copied)


# -- protocols/http1 --------------------------------------------------------------------------------------------------

cdef dict _message(const Parser* parser):
    """The open message."""
    cdef const Message* message = parser.message
    cdef const Http1Message* http1 = as_http1(message)
    cdef const Fields* trailers = message.trailers
    return {
        "kind": message.kind, "minor": message.minor, "status": message.status,
        "method": _text(message.text, message.method), "target": _text(message.text, message.target),
        "reason": _text(message.text, message.reason),
        "fields": _pairs(message.text, message.fields, message.count),
        "trailers": None if trailers == NULL else _pairs(text_of(trailers), fields_of(trailers), trailers.count),
        "body": (<const uint8_t*>message.body)[:message.body_kept] if message.body_kept else b"",
        "body_size": message.body_size, "missing": message.missing, "incomplete": message.incomplete,
        "resynced": bool(message.resynced), "refused": bool(parser.framing.refused), "bodyless": bool(http1.bodyless),
        "truncated": bool(message.truncated), "upgrade": bool(http1.upgrade), "upgrade_h2c": bool(http1.upgrade_h2c),
        "expect": bool(http1.expect), "sure": bool(http1.sure), "anomalies": message.anomalies,
        "start": http1.start, "head_end": http1.head_end, "end": http1.end, "stamp": message.stamp,
        "stamp_end": message.stamp_end, "ack": http1.ack,
    }


cdef bytes _text(const uint8_t* text, Text slice):
    return text[slice.at:slice.at + slice.size]


cdef list _pairs(const uint8_t* text, const Field* fields, uint32_t count):
    cdef uint32_t i
    return [(_text(text, fields[i].name), _text(text, fields[i].value)) for i in range(count)]


@final
cdef class PyParser:
    """See testing.pyi."""

    cdef Parser parser
    cdef Pool pool
    cdef Limits limits
    cdef uint64_t[<int>Counter.COUNTERS_END] counts

    def __init__(self, int kind, *, int head=65536, int body=65536, bint at_start=True):
        self.limits.head = head
        self.limits.body = body
        http1_init(&self.parser, <Kind>kind, &self.pool, self.counts, &self.limits)
        self.parser.at_stream_start = at_start

    def data(
        self, const uint8_t[:] data, int64_t offset, int64_t stamp=0, int64_t ack=-1, bint segment_start=True,
        bint conflict=False,
    ):
        """See testing.pyi."""
        cdef Run run
        run.data = &data[0] if data.shape[0] else NULL
        run.size = data.shape[0]
        run.offset = offset
        run.stamp = stamp
        run.ack = ack
        run.segment_start = segment_start
        run.conflict = conflict
        return http1_data(&self.parser, &run), data.shape[0] - run.size

    def gap(self, int64_t size):
        """See testing.pyi."""
        return http1_gap(&self.parser, &size), size

    def end(self, int reason=0):
        return http1_end(&self.parser, <Incomplete>reason)

    def frame(self, bint bodyless=False, bint paired=True):
        http1_frame(&self.parser, bodyless, paired)

    def reject(self):
        http1_reject(&self.parser)

    def discard(self):
        http1_discard(&self.parser)

    def skip(self):
        http1_skip(&self.parser)

    def tunnel(self):
        http1_tunnel(&self.parser)

    def kill(self):
        http1_kill(&self.parser)

    def drop_body(self):
        return http1_drop_body(&self.parser)

    def peek(self):
        """See testing.pyi."""
        return None if self.parser.message == NULL else _message(&self.parser)

    def take(self):
        """See testing.pyi."""
        taken = self.peek()
        message_free(self.parser.message, &self.pool)
        self.parser.message = NULL
        return taken

    def boundary(self, int64_t offset):
        self.parser.boundary = offset

    @property
    def state(self):
        return self.parser.state

    @property
    def protocol(self):
        return self.parser.protocol

    @property
    def held(self):
        """See testing.pyi."""
        return self.pool.bytes

    def counters(self):
        """See testing.pyi."""
        return {name: self.counts[i] for i, name in enumerate(NAMES) if self.counts[i]}

    def close(self):
        """See testing.pyi."""
        http1_free(&self.parser)
        assert self.pool.bytes == 0 and self.pool.blocks == 0, (self.pool.bytes, self.pool.blocks)


# -- protocols/http2 --------------------------------------------------------------------------------------------------

cdef void collect(void* user, const HpackField* field) noexcept nogil:
    with gil:
        (<list>user).append((
            None if field.name == NULL else field.name[: field.name_size],
            None if field.value == NULL else field.value[: field.value_size],
            bool(field.never_indexed), field.unknown_name, field.unknown_value,
        ))


cdef void ignore(void* user, const HpackField* field) noexcept nogil:
    (<int64_t*>user)[0] += 1


@final
cdef class PyHpack:
    """See testing.pyi."""

    cdef Pool pool
    cdef HpackTable table

    def __cinit__(self, uint32_t size=HPACK_DEFAULT, bint late=False):
        memset(&self.pool, 0, sizeof(Pool))
        hpack_open(&self.table, &self.pool, size, late)

    def __dealloc__(self):
        hpack_close(&self.table)

    def decode(self, bytes block, size_t max_bytes=1 << 30):
        """See testing.pyi."""
        cdef list fields = []
        cdef int result = hpack_decode(&self.table, block, len(block), &collect, <void*>fields, max_bytes)
        return result, fields

    def repeat(self, list blocks, int times):
        """See testing.pyi."""
        cdef int64_t fields = 0
        cdef bytes block
        for _ in range(times):
            for block in blocks:
                hpack_decode(&self.table, block, len(block), &ignore, &fields, 1 << 30)
        return fields

    def forget(self):
        hpack_forget(&self.table)

    def limit(self, uint32_t size):
        hpack_limit(&self.table, size)

    def starve(self, int64_t number):
        """See testing.pyi."""
        self.pool.spare = number

    @property
    def state(self):
        """See testing.pyi."""
        return self.table.count, self.table.used, self.table.size, self.pool.bytes

    def close(self):
        """See testing.pyi."""
        hpack_close(&self.table)
        assert self.pool.bytes == 0 and self.pool.blocks == 0, (self.pool.bytes, self.pool.blocks)
