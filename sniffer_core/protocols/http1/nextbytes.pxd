# Decides what a client's next bytes are where HTTP alone does not tell: after a refused body or after a last chunk.

from libc.stdint cimport int64_t, uint16_t

from sniffer_core.protocols.http1.pairing cimport PROVEN, Entry, exchanges_fifo
from sniffer_core.protocols.http1.sides cimport Half, Http1
from sniffer_core.protocols.http1.state cimport BODY_LENGTH, CHUNK_SIZE, Parser
from sniffer_core.tcp.stream cimport Run

cdef enum Reading:              # what the client's next bytes are
    UNDECIDED = 0
    BODY = 1
    NEXT_REQUEST = 2            # the body was never sent
    REFUSED_BODY = 3            # undecidable: the bytes are read as neither


cdef inline bint is_body_due(const Parser* parser) noexcept nogil:
    """Whether a body of the open message is due, and none of it came yet."""
    return parser.message.body_size == 0 and parser.message.missing == 0 and (
        (parser.state == BODY_LENGTH and parser.remaining > 0) or
        (parser.state == CHUNK_SIZE and parser.line_size == 0))


cdef inline bint is_refusal(const Entry* entry) noexcept nogil:
    """Whether the entry's final response, sent before the request's body, lets the client omit that body.

    Any final response does if the client waits for a 100 (RFC 9110 section 10.1.1). Otherwise a 3xx, 401, 413 or 417.
    """
    cdef uint16_t status = entry.answered
    return status != 0 and (
        entry.expect or 300 <= status < 400 or status == 401 or status == 413 or status == 417)


cdef inline bint is_unsure(const Http1* http, const Entry* entry, int64_t ack) noexcept nogil:
    """Whether, because of a loss, a request may have been answered by a response that was not paired with it.

    `ack`: how far the client had received the server's stream when it sent the next bytes.
    """
    return not entry.continued and (
        entry.answer_lost or (
            entry.proof == PROVEN and ack > entry.ack and not exchanges_fifo(&http.exchanges)))


cdef inline bint refuses(const Entry* entry) noexcept nogil:
    """Whether the body was refused, and was not found to be sent nevertheless."""
    return not entry.sends and is_refusal(entry)


cdef bint may_be_next(const Http1* http, const Entry* entry, const Run* run) noexcept nogil
    # Whether `run`, where a body is due, may be the next request: the body was refused, or may have been.
cdef bint replies(const Half* server) noexcept nogil
    # Whether the server's next bytes are held and begin a response (other than a 408).
cdef int64_t reply_ack(const Http1* http) noexcept nogil
    # How many of the client's next bytes the server's next response acknowledges. 0 or less: none, or no response is
    # next.
cdef Reading weigh_body(Http1* http, bint last) noexcept nogil
    # Decides what the client's next bytes are where a refused body is due. They are the next request if a later
    # response acknowledges a whole head of it: the server did not wait for the body. They are the body if the client
    # sends as many bytes as it announced, and behind them comes nothing or another request. `last`: nothing more will
    # tell. Until a later response comes, the bytes are compared again only when their number has doubled, so that the
    # total cost stays linear.
cdef Reading weigh_trailers(const Http1* http, int64_t acked, bint last) noexcept nogil
    # Decides what the client's next bytes are where the last CRLF of a chunked body is due and they look like a
    # request. They are the next request if the open request was answered and a later response acknowledges a whole head
    # of them. `acked`: how many of them it acknowledges. Otherwise they are undecidable, for a server that waits for
    # the CRLF reads them as trailers. `last`: nothing more will tell.
