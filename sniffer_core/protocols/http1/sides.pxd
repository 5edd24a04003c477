# The state of an HTTP/1 session, shared by its modules. Each direction of the connection has a Half.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from sniffer_core.message cimport Message
from sniffer_core.protocol cimport Session, Side, may_read
from sniffer_core.protocols.http1.pairing cimport Exchanges
from sniffer_core.protocols.http1.parser cimport http1_tunnel
from sniffer_core.protocols.http1.state cimport DONE, START, Parser
from sniffer_core.tcp.stream cimport Stream

cdef enum Wait:                 # stream.waits: why the client's next bytes must not be read yet
    WAIT_NONE = 0
    WAIT_OFFER = 1              # after an Upgrade or CONNECT: the response decides whether the bytes are HTTP
    WAIT_BODY = 2               # a body is due that may not be sent: the bytes are the body or the next request
    WAIT_CRLF = 3               # after the last chunk: the bytes are trailers or the next request

cdef struct Half:               # one direction
    Http1* http
    Half* other
    Stream* stream
    int64_t opened              # core time at which the open message began, µs
    int64_t compared            # WAIT_BODY: bytes waiting when weigh_body() last compared them; 0: not yet
    uint8_t comparisons         # WAIT_BODY: comparisons by weigh_body() made while a later response was next
    uint8_t answer_unread       # True: the response to an Upgrade or CONNECT will not be read, so the next bytes must
                                # show whether they are HTTP
    uint8_t tunnel_next         # True: a tunnel follows the open request
    uint8_t long_open           # True: the open message was reported with NOTICE_LONG
    uint8_t tentative           # True: the responses that are read are tentative (see pairing.pxd)
    uint8_t gapping             # True during skip_gap()
    uint8_t in_step             # True: when the direction ended, the parser was between two messages
    Parser parser

cdef struct Responses:          # a list of complete responses that wait, in stream order
    Message* head
    Message* tail
    uint32_t count

cdef struct Http1:
    Session base
    Half client
    Half server
    Exchanges exchanges
    Responses tentative         # found after a loss: each may be text inside a body
    Responses early             # their requests have not come yet
    uint32_t offer              # number of the latest exchange with an Upgrade or CONNECT
    uint8_t tunnels             # True: the response that is being read ends HTTP in both directions
    uint8_t leaving             # True: a direction is a tunnel, or not HTTP: leave() checks both


cdef inline bint at_rest(const Parser* parser) noexcept nogil:
    """Whether the parser is between two messages, and no message boundary was lost."""
    return not parser.lost and (
        parser.state == START or (parser.state == DONE and parser.after == START and parser.message == NULL))


cdef inline bint is_readable(const Half* half, int64_t ack) noexcept nogil:
    """Whether the direction's next bytes may be read now. `ack`: the ACK that they were sent with."""
    return may_read(half.stream, half.other.stream, <Side>half.parser.kind, &half.http.base, ack)


cdef inline void start_tunnel(Half* half) noexcept nogil:
    half.http.leaving = True
    http1_tunnel(&half.parser)
