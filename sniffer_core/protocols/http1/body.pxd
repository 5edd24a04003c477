# Reads the bodies of HTTP/1 messages: their extent (RFC 9112 section 6.3), chunks and trailers (section 7.1).

from libc.stdint cimport int64_t, uint8_t

from sniffer_core.base.marks cimport Incomplete
from sniffer_core.protocols.http1.state cimport Event, Parser
from sniffer_core.tcp.stream cimport Run

cdef void begin_body(Parser* parser, bint bodyless, bint paired) noexcept nogil
    # Decides how the body of the open message is framed; see http1_frame().

cdef Event read_body(Parser* parser, Run* run) noexcept nogil
    # Consumes the run up to the end of the body, or all of it.

cdef Event lose_body(Parser* parser, int64_t* size) noexcept nogil
    # `size` bytes of the stream are missing. Takes off `size` those that belong to the body, if that is known.

cdef Event end_body(Parser* parser, Incomplete reason) noexcept nogil
    # The stream ends inside a message: WHOLE means by a FIN, any other value is the reason.

cdef void take_trailers(Parser* parser) noexcept nogil
    # Reads the trailers in the buffer, which end without a blank line.

cdef size_t drop_body(Parser* parser) noexcept nogil
    # See http1_drop_body().
