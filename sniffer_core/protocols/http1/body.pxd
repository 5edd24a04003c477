# Bodies of HTTP/1 messages: their extent (RFC 9112 section 6.3), chunks and trailers (section 7.1), what is kept of
# them.

from libc.stdint cimport int64_t, uint8_t

from sniffer_core.message cimport Incomplete
from sniffer_core.protocols.http1.state cimport Event, Parser
from sniffer_core.tcp.stream cimport Run

cdef void begin_body(Parser* parser, bint bodyless, bint paired) noexcept nogil
    # The head of the open message is read; see http1_frame().

cdef Event read_body(Parser* parser, Run* run) noexcept nogil
    # Reads on, up to the end of the body or of the run.

cdef Event lose_body(Parser* parser, int64_t* size) noexcept nogil
    # `size` bytes of the stream are missing: consumes those of the body, as far as its extent is known.

cdef Event end_body(Parser* parser, Incomplete reason) noexcept nogil
    # The stream ends: WHOLE by FIN, else for this reason.

cdef void take_trailers(Parser* parser) noexcept nogil
    # The trailers end with the buffer, which lacks the blank line.

cdef size_t drop_body(Parser* parser) noexcept nogil
    # Gives back the kept body of the open message, which is `truncated` from now on. Returns its bytes of memory.
