"""The session of a tunnel; see tunnel.pxd."""

from libc.stdint cimport int64_t, uint16_t

from sniffer_core.base.counters cimport Counter
from sniffer_core.base.marks cimport Incomplete
from sniffer_core.protocol cimport Protocol, Session, Side, consume, free_session, new_session
from sniffer_core.tcp.stream cimport Run

cdef Protocol TUNNEL


cdef Session* tunnel_open(const Session* blank) noexcept nogil:
    cdef Session* session = <Session*>new_session(blank, &TUNNEL, sizeof(Session))
    if session != NULL:
        session.reason = <uint16_t>Counter.BYTES_ABANDONED_TUNNEL
    return session


cdef void on_data(Session* session, Side side, Run* run) noexcept nogil:
    consume(session, run, run.size, Counter.BYTES_ABANDONED_TUNNEL)


cdef void on_gap(Session* session, Side side, int64_t start, int64_t size) noexcept nogil:
    pass


cdef void on_end(Session* session, Side side, Incomplete reason) noexcept nogil:
    pass


cdef void on_close(Session* session) noexcept nogil:
    free_session(session, sizeof(Session))


TUNNEL.name = b"tunnel"
TUNNEL.open = &tunnel_open
TUNNEL.data = &on_data
TUNNEL.gap = &on_gap
TUNNEL.end = &on_end
TUNNEL.close = &on_close
