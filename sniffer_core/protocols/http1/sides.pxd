# Both sides of a connection that speaks HTTP/1: what the session and its parts share.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from sniffer_core.message cimport Message
from sniffer_core.protocol cimport Session, Side, may_read
from sniffer_core.protocols.http1.pairing cimport Exchanges
from sniffer_core.protocols.http1.parser cimport http1_tunnel
from sniffer_core.protocols.http1.state cimport DONE, START, Parser
from sniffer_core.tcp.stream cimport Stream

cdef enum Wait:                 # stream.waits: why the client's next bytes are not read yet
    WAIT_NONE = 0
    WAIT_OFFER = 1              # an Upgrade or CONNECT: its answer says whether they are HTTP
    WAIT_BODY = 2               # of a refused request: they are its body, or the next request
    WAIT_CRLF = 3               # of a chunked body: they are its trailers, or the next request

cdef struct Half:               # one direction
    Http1* http
    Half* other
    Stream* stream
    int64_t opened              # core time at which its open message began
    int64_t weighed             # bytes that told nothing when weigh_body() looked; 0: it has not looked
    uint8_t looks               # how often it has looked since a later response came
    uint8_t unjudged            # the answer to an Upgrade or CONNECT was lost: the next bytes tell if they are HTTP
    uint8_t tunnel_next         # the answer was yes: what follows the open request is a tunnel
    uint8_t long_open           # its open message was reported for being open so long
    uint8_t tentative           # what is read follows a response that is not proven
    uint8_t gapping             # inside skip_gap()
    uint8_t in_step             # at its end the parser stood between two messages
    Parser parser

cdef struct Responses:          # that have ended and wait, in order
    Message* head
    Message* tail
    uint32_t count

cdef struct Http1:
    Session base
    Half client
    Half server
    Exchanges exchanges
    Responses tentative         # found behind a loss: each may be a start line inside a body
    Responses early             # whose requests have not come yet
    uint32_t offer              # number of the latest exchange with an Upgrade or CONNECT
    uint8_t tunnels             # the response that is read ends HTTP on both directions
    uint8_t leaving             # a direction is a tunnel, or not HTTP


cdef inline bint at_rest(const Parser* parser) noexcept nogil:
    """Whether the parser stands between two messages, in step."""
    return not parser.lost and (
        parser.state == START or (parser.state == DONE and parser.after == START and parser.message == NULL))


cdef inline bint is_readable(const Half* half, int64_t ack) noexcept nogil:
    """Whether bytes that are next in order may be read on."""
    return may_read(half.stream, half.other.stream, <Side>half.parser.kind, &half.http.base, ack)


cdef inline void start_tunnel(Half* half) noexcept nogil:
    half.http.leaving = True
    http1_tunnel(&half.parser)
