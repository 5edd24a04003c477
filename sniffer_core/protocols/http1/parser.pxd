# Parses the HTTP/1.x messages of one direction.
#
# The session passes the direction's input to http1_data(), http1_gap() and http1_end(). Each consumes input until the
# session must decide something, and returns that Event. The session acts on it and calls again, until EVENT_MORE. The
# parser does not pair messages. It knows of the other direction only what the session tells it between two calls.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from sniffer_core.base.memory cimport Pool
from sniffer_core.base.marks cimport Incomplete
from sniffer_core.message cimport Kind, Limits
from sniffer_core.protocols.http1.state cimport TRAILERS, Event, Parser
from sniffer_core.tcp.stream cimport Run

cdef void http1_init(Parser* parser, Kind kind, Pool* pool, uint64_t* counters, const Limits* limits) noexcept nogil
cdef void http1_free(Parser* parser) noexcept nogil
    # Frees the parser's memory, including the open message.

cdef Event http1_data(Parser* parser, Run* run) noexcept nogil
    # Consumes `run` from its front (data, size, offset, segment_start) up to where the session must decide.

cdef Event http1_gap(Parser* parser, int64_t* size) noexcept nogil
    # `size` bytes are missing; takes off those that it has handled. EVENT_MORE: none are left.

cdef Event http1_end(Parser* parser, Incomplete reason) noexcept nogil
    # The stream has ended. WHOLE means by a FIN: a body that ends with the stream is whole, and any other open message
    # is INCOMPLETE_CLOSED_. Any other value is the reason why the open message is not whole.

cdef void http1_frame(Parser* parser, bint bodyless, bint paired) noexcept nogil
    # After EVENT_HEAD: decides how the body is framed (RFC 9112 section 6.3). `bodyless`: the response answers HEAD.
    # `paired`: its request is known. If it is not, a response whose body would begin with a status line is taken as
    # bodyless if that line begins a segment, and otherwise reported as INCOMPLETE_GAP_. After a message without a body
    # the next http1_data() returns EVENT_END at once, even with an empty run.

cdef void http1_reject(Parser* parser) noexcept nogil
    # After EVENT_HEAD, or with a message open: frees it, as it was text inside a body. The state becomes SKIP.

cdef void http1_discard(Parser* parser) noexcept nogil
    # After EVENT_HEAD: frees the message, an interim response (1xx other than 101). The state becomes START.

cdef void http1_skip(Parser* parser) noexcept nogil
    # Frees the open message and head. The state becomes SKIP.

cdef inline bint http1_crlf_due(const Parser* parser) noexcept nogil:
    """Whether the open message lacks only a blank line: all its chunks and only whole trailer lines were read."""
    return parser.state == TRAILERS and (parser.buffer_size == 0 or parser.buffer[parser.buffer_size - 1] == 10)

cdef void http1_cease(Parser* parser, Incomplete why, uint32_t anomalies) noexcept nogil
    # Ends the open message before the end that its head announces. WHOLE: its sender sends no more of it, and the next
    # message follows. Any other value is the reason, and the state becomes SKIP, as the next bytes may be anything.

cdef void http1_tunnel(Parser* parser) noexcept nogil
    # Frees the open message and head. All later bytes are counted as those of a tunnel.

cdef void http1_kill(Parser* parser) noexcept nogil
    # Frees the open message and head. All later bytes are counted as not HTTP.

cdef size_t http1_drop_body(Parser* parser) noexcept nogil
    # Frees the kept body of the open message, which is `truncated` from now on. Returns the bytes of memory freed.
