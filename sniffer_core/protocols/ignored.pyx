"""The session of a connection that begins with TLS or HTTP/2; see ignored.pxd."""

from libc.stdint cimport int64_t, uint16_t

from sniffer_core.base.counters cimport Counter
from sniffer_core.base.marks cimport Incomplete
from sniffer_core.protocol cimport (
    CLIENT, NOTICE_HTTP2, NOTICE_TLS, SERVER, Protocol, Session, Side, consume, free_session, new_session, note)
from sniffer_core.protocols.http1.session cimport http1_open_for_server
from sniffer_core.protocols.signature cimport PROTOCOL_HTTP2, PROTOCOL_TLS, Spoken, signature
from sniffer_core.tcp.stream cimport Run

cdef Protocol IGNORED


cdef Session* ignored_open(const Session* blank, Side side, Spoken spoken) noexcept nogil:
    cdef Session* session = <Session*>new_session(blank, &IGNORED, sizeof(Session))
    if session == NULL:
        return NULL
    if spoken == PROTOCOL_TLS:
        session.context.counters[<int>Counter.FLOWS_TLS] += 1
        note(session.context, session.conn, NOTICE_TLS)
    else:
        session.context.counters[<int>Counter.FLOWS_HTTP2] += 1
        note(session.context, session.conn, NOTICE_HTTP2)
    if side == SERVER:
        give_up(session)
    return session


cdef void give_up(Session* session) noexcept nogil:
    session.reason = <uint16_t>Counter.BYTES_ABANDONED_NOT_HTTP


cdef void ask_http1(Session* session) noexcept nogil:
    """Opens an HTTP/1 session, as the server's bytes are neither TLS nor HTTP/2; without memory, gives up."""
    session.heir = http1_open_for_server(session)
    if session.heir == NULL:
        give_up(session)


cdef void on_data(Session* session, Side side, Run* run) noexcept nogil:
    cdef Spoken spoken
    if side == SERVER and session.reason == 0:
        spoken = signature(run.data, run.size, session.stream[<int>SERVER].from_start)
        if run.segment_start and (spoken == PROTOCOL_TLS or spoken == PROTOCOL_HTTP2):
            give_up(session)
        else:
            ask_http1(session)
            if session.heir != NULL:
                return
    consume(session, run, run.size, Counter.BYTES_ABANDONED_NOT_HTTP)


cdef void on_gap(Session* session, Side side, int64_t start, int64_t size) noexcept nogil:
    if side == CLIENT or session.reason:
        return
    ask_http1(session)
    if session.heir != NULL:
        session.heir.protocol.gap(session.heir, side, start, size)


cdef void on_end(Session* session, Side side, Incomplete reason) noexcept nogil:
    if side == SERVER and not session.stream[<int>SERVER].from_start:
        give_up(session)        # the server was joined in mid-stream and sends nothing more


cdef void on_close(Session* session) noexcept nogil:
    free_session(session, sizeof(Session))


IGNORED.name = b"ignored"
IGNORED.ordered = True
IGNORED.data = &on_data
IGNORED.gap = &on_gap
IGNORED.end = &on_end
IGNORED.close = &on_close
