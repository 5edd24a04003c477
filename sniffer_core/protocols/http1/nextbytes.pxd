# What the next bytes of a client are, where HTTP alone does not say it: behind a refused body, behind a last chunk.

from libc.stdint cimport int64_t, uint16_t

from sniffer_core.protocols.http1.pairing cimport PROVEN, Entry, exchanges_fifo
from sniffer_core.protocols.http1.sides cimport Half, Http1
from sniffer_core.protocols.http1.state cimport BODY_LENGTH, CHUNK_SIZE, Parser
from sniffer_core.tcp.stream cimport Run

cdef enum Reading:              # what the client's next bytes are, where HTTP alone does not say it
    UNDECIDED = 0
    BODY = 1
    NEXT_REQUEST = 2            # the body was never sent
    REFUSED_BODY = 3            # it cannot be known: the bytes are neither


cdef inline bint is_body_due(const Parser* parser) noexcept nogil:
    """Whether the open message's body has not begun."""
    return parser.message.body_size == 0 and parser.message.missing == 0 and (
        (parser.state == BODY_LENGTH and parser.remaining > 0) or
        (parser.state == CHUNK_SIZE and parser.line_size == 0))


cdef inline bint is_refusal(const Entry* entry) noexcept nogil:
    """Whether a final response that came before the request's body tells its client not to send it.

    Any does where the client waits for a 100 (RFC 9110 section 10.1.1), else those that make the body pointless.
    """
    cdef uint16_t status = entry.answered
    return status != 0 and (
        entry.expect or 300 <= status < 400 or status == 401 or status == 413 or status == 417)


cdef inline bint is_unsure(const Http1* http, const Entry* entry, int64_t ack) noexcept nogil:
    """Whether a request may have been answered though no answer is known to be its own: behind a loss.

    `ack`: how far the sender of its next bytes had read.
    """
    return not entry.continued and (
        entry.answer_lost or (
            entry.proof == PROVEN and ack > entry.ack and not exchanges_fifo(&http.exchanges)))


cdef inline bint refuses(const Entry* entry) noexcept nogil:
    """Whether the body was refused, and nothing tells that it comes all the same."""
    return not entry.sends and is_refusal(entry)


cdef bint may_be_next(const Http1* http, const Entry* entry, const Run* run) noexcept nogil
    # Whether `run`, where a body is due, may be the next request: the body was refused, or that may be unknown.
cdef bint replies(const Half* server) noexcept nogil
    # Whether another response is next on the server's direction.
cdef int64_t reply_ack(const Http1* http) noexcept nogil
    # How many of the client's next bytes are acknowledged by a response that is next to be read; -1: there is none.
cdef Reading weigh_body(Http1* http, bint last) noexcept nogil
    # What the client's next bytes are, where a body is due that was refused. They are the next request if a later
    # response acknowledges a whole head of it: the server did not wait for the body. They are the body if the client
    # sends as much as it had announced. `last`: nothing more will tell. Until a response tells, they are looked at
    # again only when they are twice as many: all looks cost what the bytes do.
cdef Reading weigh_trailers(const Http1* http, int64_t acked, bint last) noexcept nogil
    # What the client's next bytes are, where the last CRLF of a chunked body is due and they begin as a request does.
    # They are the next request if the open one was answered, and a later response acknowledges a whole head of them:
    # that is `acked` bytes. Otherwise nobody can tell, for a server that waits for the CRLF takes them for trailers.
