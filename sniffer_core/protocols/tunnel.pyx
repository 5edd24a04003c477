"""What is not read, by agreement; see tunnel.pxd."""

from libc.stdint cimport int64_t, uint16_t, uint64_t

from sniffer_core.base.counters cimport Counter
from sniffer_core.base.memory cimport pool_give, pool_take
from sniffer_core.message cimport Incomplete
from sniffer_core.protocol cimport Protocol, Session, Side
from sniffer_core.tcp.stream cimport Run

cdef Protocol PASSED_OVER


cdef Session* tunnel_open(const Session* blank) noexcept nogil:
    cdef Session* session = <Session*>pool_take(&blank.context.pool, sizeof(Session))
    if session == NULL:
        return NULL
    session[0] = blank[0]
    session.protocol = &PASSED_OVER
    session.heir = NULL
    session.reason = <uint16_t>Counter.BYTES_ABANDONED_TUNNEL
    return session


cdef void on_data(Session* session, Side side, Run* run) noexcept nogil:
    session.context.counters[session.reason] += <uint64_t>run.size
    run.data += run.size
    run.offset += run.size
    run.size = 0


cdef void on_gap(Session* session, Side side, int64_t start, int64_t size) noexcept nogil:
    pass


cdef void on_end(Session* session, Side side, Incomplete reason) noexcept nogil:
    pass


cdef void on_close(Session* session) noexcept nogil:
    pool_give(&session.context.pool, session, sizeof(Session))


PASSED_OVER.name = b"tunnel"
PASSED_OVER.open = &tunnel_open
PASSED_OVER.data = &on_data
PASSED_OVER.gap = &on_gap
PASSED_OVER.end = &on_end
PASSED_OVER.close = &on_close
