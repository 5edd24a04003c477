"""`FlowTable`: packets in, messages out. core.pyi documents the interface.

The code between feed() and the building of Python objects runs without the GIL and raises nothing.
"""

import os
from socket import AF_INET, AF_INET6, inet_pton

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memmove

from sniffer_core.base.counters cimport Counter
from sniffer_core.connection cimport Conn
from sniffer_core.base.marks cimport INCOMPLETE_STOPPED_
from sniffer_core.message cimport Message
from sniffer_core.net.fragment cimport fragments_free, fragments_init
from sniffer_core.net.wire cimport wire_link_known
from sniffer_core.protocol cimport CARRY_MAX, Noted
from sniffer_core.protocols.detect cimport detect_detector
from sniffer_core.record.naming cimport forget_conn, name_end
from sniffer_core.record.lines cimport Writer
from sniffer_core.record.raw cimport Rules, build_message
from sniffer_core.record.redact cimport SECRET, kind_of
from sniffer_core.tcp.evict cimport relieve
from sniffer_core.tcp.feed cimport CLOCK_SLACK, expire, on_batch, read_ahead
from sniffer_core.tcp.flow cimport end_flow
from sniffer_core.tcp.table cimport (
    CREATED, MODE_CLOSED, OWN_MAX, RECENT, STAGE, Flow, Own, Table, leave, used)

from sniffer_core.base.counters import NAMES
from sniffer_core.record.lines import LineBlock, Lines, coded, latencies, weigh, weights  # no-cython-lint: for others
from sniffer_core.record.raw import RawMessage  # no-cython-lint: for others
from sniffer_core.record.recorded import Recorded, connection_hash  # no-cython-lint: for others

COUNTERS = NAMES
LINK_TYPES = frozenset(link for link in range(512) if wire_link_known(link))

cdef enum:
    WRITER_PART = 32        # lines that are being made may take one part in so many of the memory limit

# Names of the kinds of events, in the order of Notice (protocol.pxd).
cdef tuple NOTICES = ("tls", "http2", "other-protocol", "undecided", "tunnel", "snapped", "long-message")


@cython.final
cdef class FlowTable:
    """Every flow of one capture. Belongs to one thread; not locked. Never raises on traffic. See core.pyi."""

    def __cinit__(self, *, int linktype, ports, max_body=65536, max_head=65536, max_flows=10_000,
                  idle_timeout_us=300_000_000, memory_limit=67_108_864, sample_rate=1.0, tuple carry=(),
                  redact_headers=(), redact_query=(), redact_body=(), bytes redact_key=None, placement=None,
                  decode=None, bint lines=False):
        cdef Table* table
        cdef int port
        cdef bytes secret = os.urandom(16)
        if not wire_link_known(linktype):
            raise ValueError(f"unknown link type {linktype}")
        if len(carry) > CARRY_MAX:
            raise ValueError(f"carry takes at most {CARRY_MAX} names")
        self.carried = tuple([name.encode("ascii") for name in carry])
        self.rules = Rules(redact_headers=redact_headers, redact_query=redact_query, redact_body=redact_body,
                           redact_key=redact_key, placement=placement, decode=decode, max_body=max_body,
                           carry_count=len(carry))
        if lines:
            self.writer = Writer(self.rules, max(1, memory_limit // WRITER_PART))
        table = <Table*>calloc(1, sizeof(Table))
        if table == NULL:
            raise MemoryError
        self.table = table
        table.linktype = linktype
        table.context.limits.body = max_body
        table.context.limits.head = max_head
        table.max_flows = max_flows
        table.idle_timeout = idle_timeout_us
        table.memory_limit = memory_limit
        table.sample_rate = sample_rate
        for port in ports:
            if not 0 < port < 65536:
                raise ValueError(f"port {port} is not in 1-65535")
            table.ports[port >> 3] |= <uint8_t>(1 << (port & 7))
        table.context.carry.no_host = kind_of(&self.rules.redaction.headers, b"host", 4) == SECRET
        table.context.carry.count = <uint32_t>len(carry)
        for i, name in enumerate(self.carried):
            table.context.carry.name[<int>i] = <const uint8_t*><char*><bytes>name
            table.context.carry.size[<int>i] = <uint32_t>len(name)
        memcpy(table.secret, <char*>secret, 16)
        table.mask = 1023
        table.buckets = <Flow**>calloc(table.mask + 1, sizeof(Flow*))
        if table.buckets == NULL:
            raise MemoryError
        table.created.which = CREATED
        table.recent.which = RECENT
        table.silent.which = STAGE
        table.closed.which = STAGE
        table.clock = -1
        table.due = 1 << 62
        table.detector = detect_detector()
        fragments_init(&table.fragments, &table.context.pool)

    def __dealloc__(self):
        if self.table == NULL:
            return
        if self.table.buckets != NULL:
            self._end_all()
            self._take()
            free(self.table.buckets)
        global blocks_leaked
        blocks_leaked += self.table.context.pool.blocks
        free(self.table)

    cdef object _take(self):
        """Returns the ended messages as a list or a block, and frees connections whose release needed the GIL."""
        cdef Table* table = self.table
        cdef Message* message = table.context.ready
        cdef Message* following
        cdef Conn* conn
        cdef uint32_t count = table.context.ready_count
        cdef object messages
        table.context.ready = NULL
        table.context.ready_tail = NULL
        table.context.ready_count = 0
        table.context.ready_bytes = 0
        if self.writer is not None:
            messages = self.writer.write(message, count, &table.context.pool)
        else:
            messages = []
            while message != NULL:
                following = message.next
                (<list>messages).append(build_message(message, &table.context.pool, self.rules))
                message = following
        while table.dead != NULL:
            conn = table.dead
            table.dead = conn.next_dead
            forget_conn(conn)
        return messages

    cdef void _end_all(self):
        if self.table.ahead != NULL:
            read_ahead(self.table, False)
        while self.table.created.head != NULL:
            if self.table.created.head.mode == MODE_CLOSED:
                leave(self.table, self.table.created.head)
            else:
                end_flow(self.table, self.table.created.head, INCOMPLETE_STOPPED_, <int>Counter.FLOWS_STOPPED)
        fragments_free(&self.table.fragments)

    def feed(self, bytes packets, bytes index, Py_ssize_t first=0, clock_us=None):
        """See core.pyi."""
        cdef Table* table = self.table
        cdef const uint8_t* data = <const uint8_t*><char*>packets
        cdef const uint32_t* entries = <const uint32_t*><char*>index
        cdef Py_ssize_t count = len(index) // 16
        cdef uint64_t size = <uint64_t>len(packets)
        cdef object messages
        if first < 0:
            raise ValueError("first is negative")
        if clock_us is not None:
            if table.clock < 0 and first < count:
                table.context.now = <int64_t>entries[4 * first] * 1_000_000 + entries[4 * first + 1]
            self._clock(clock_us)
        with nogil:
            first = on_batch(table, data, size, entries, count, first)
        messages = self._take()
        if table.pressed:
            table.pressed = False
            if used(table) > table.memory_limit:
                with nogil:
                    relieve(table)
                messages = messages + self._take()
        return messages, first

    cdef int64_t _clock(self, int64_t clock):
        """Moves the limit of core time on by the monotonic time (µs) since the last call, and returns that time.

        The limit is the time of the first packet, plus the monotonic time since then, plus CLOCK_SLACK.
        """
        cdef Table* table = self.table
        cdef int64_t elapsed
        if table.clock < 0:
            table.clock = clock
            table.clock_limit = table.context.now + CLOCK_SLACK
            return 0
        elapsed = max(0, clock - table.clock)
        table.clock += elapsed
        table.clock_limit += elapsed
        return elapsed

    def tick(self, int64_t clock_us):
        """See core.pyi."""
        cdef Table* table = self.table
        cdef int64_t now
        if table.clock < 0:
            return self._take()     # none; core time begins with the first batch of a live capture
        now = table.context.now + self._clock(clock_us)
        with nogil:
            expire(table, now)
        return self._take()

    def flush(self):
        """See core.pyi."""
        self._end_all()
        return self._take()

    def exclude(self, str address, int port):
        """See core.pyi."""
        cdef bytes packed = inet_pton(AF_INET6 if ":" in address else AF_INET, address)
        cdef Own* own
        if self.table.own_count == OWN_MAX:     # no room: the first entry is dropped
            self.table.own_count -= 1
            memmove(self.table.own, self.table.own + 1, self.table.own_count * sizeof(Own))
        own = &self.table.own[self.table.own_count]
        own.size = <uint8_t>len(packed)
        memcpy(own.address, <char*>packed, len(packed))
        own.port = <uint16_t>port
        self.table.own_count += 1

    def readmit(self, str address, int port):
        """See core.pyi."""
        cdef bytes packed = inet_pton(AF_INET6 if ":" in address else AF_INET, address)
        cdef uint32_t i
        cdef Own* own
        for i in range(self.table.own_count):
            own = &self.table.own[i]
            if own.size == len(packed) and own.port == port and memcmp(own.address, <char*>packed, own.size) == 0:
                self.table.own_count -= 1
                own[0] = self.table.own[self.table.own_count]
                return

    def counters(self):
        """See core.pyi."""
        return {name: self.table.context.counters[i] for i, name in enumerate(COUNTERS)}

    def gauges(self):
        """See core.pyi."""
        return {
            "flows": self.table.live,
            "held_bytes": self.table.context.pool.held,
            "memory_bytes": self.table.context.pool.bytes,
            "memory_blocks": self.table.context.pool.blocks,
            "messages_open": self.table.context.messages_open,
            "messages_long": self.table.context.messages_long,
            "packets_waiting": 1 if self.table.ahead != NULL else 0,
        }

    def events(self):
        """See core.pyi."""
        cdef list events = []
        cdef uint32_t i
        cdef Noted* noted
        for i in range(self.table.context.noted_count):
            noted = &self.table.context.noted[i]
            events.append((
                NOTICES[noted.kind],
                name_end(noted.server, noted.address_size, noted.server_port),
                name_end(noted.client, noted.address_size, noted.client_port)))
        self.table.context.noted_count = 0
        return events
