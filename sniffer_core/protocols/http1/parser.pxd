# One direction's HTTP/1.x messages: which part reads next, and what the session decides in between.
#
# The session feeds the direction by http1_data(), http1_gap() and http1_end(). Each consumes input until something
# happens that only the session can decide, and returns that Event; the session acts, and calls again until EVENT_MORE.
# The parser pairs nothing and knows nothing of the other direction but what the session tells it between two calls.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from sniffer_core.base.memory cimport Pool
from sniffer_core.message cimport Incomplete, Kind, Limits
from sniffer_core.protocols.http1.state cimport TRAILERS, Event, Parser
from sniffer_core.tcp.stream cimport Run

cdef void http1_init(Parser* parser, Kind kind, Pool* pool, uint64_t* counters, const Limits* limits) noexcept nogil
cdef void http1_free(Parser* parser) noexcept nogil
    # Gives back everything, the open message included.

cdef Event http1_data(Parser* parser, Run* run) noexcept nogil
    # Consumes from the front of `run` (data, size, offset, segment_start move on) up to where the session must decide.

cdef Event http1_gap(Parser* parser, int64_t* size) noexcept nogil
    # `size` > 0 bytes are missing; consumes from it. EVENT_MORE: all of it is dealt with.

cdef Event http1_end(Parser* parser, Incomplete reason) noexcept nogil
    # The stream has ended. WHOLE: by a FIN, so that a body without a known end is whole, and anything else that is open
    # is INCOMPLETE_CLOSED_. Another reason goes into the message.

cdef void http1_frame(Parser* parser, bint bodyless, bint paired) noexcept nogil
    # After EVENT_HEAD: sets how the body is framed, RFC 9112 section 6.3. `bodyless`: the response answers HEAD.
    # `paired`: its request is known. Where it is not, a response whose body would begin with a status line is taken as
    # bodyless if that begins a segment, and else reported as INCOMPLETE_GAP_. Behind a message without a body the next
    # http1_data() returns EVENT_END at once, even with an empty run.

cdef void http1_reject(Parser* parser) noexcept nogil
    # After EVENT_HEAD, or with a message open: it is none after all (a start line inside a body). Frees it; SKIP.

cdef void http1_discard(Parser* parser) noexcept nogil
    # After EVENT_HEAD: it is an interim response (1xx but 101). Frees it; START.

cdef void http1_skip(Parser* parser) noexcept nogil
    # Frees what is open; SKIP: a message is looked for anew.

cdef inline bint http1_crlf_due(const Parser* parser) noexcept nogil:
    """Whether the open message lacks nothing but the CRLF behind its last chunk, or behind the trailers so far."""
    return parser.state == TRAILERS and (parser.buffer_size == 0 or parser.buffer[parser.buffer_size - 1] == 10)

cdef void http1_cease(Parser* parser, Incomplete why, uint32_t anomalies) noexcept nogil
    # The open message ends here, before the end that its head announced. WHOLE: its sender meant no more, and the next
    # message follows. Otherwise nobody can tell what the next bytes are: SKIP.

cdef void http1_tunnel(Parser* parser) noexcept nogil
    # Frees what is open; every further byte is counted as tunnel.

cdef void http1_kill(Parser* parser) noexcept nogil
    # Frees what is open; every further byte is counted as not HTTP.

cdef size_t http1_drop_body(Parser* parser) noexcept nogil
    # The memory limit is passed: gives back the kept body of the open message, which is `truncated` from now on.
    # Returns the bytes.
