# One connection's HTTP/2 (RFC 9113): frames, header blocks and streams of both sides.
#
# A side is *proven* while it was read from its first byte without a loss. Bytes lost inside a DATA frame cut its stream
# alone. After any other loss, or on a connection that is joined late, frames are searched for (search.pxd), the HPACK
# table is forgotten, and open messages are doubted: they are whole only if their length says so. On a side that is not
# proven a contradiction starts the search anew.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from sniffer_core.protocol cimport Recognised, Session, Side
from sniffer_core.tcp.stream cimport Run

cdef Session* http2_open(const Session* blank, bint late) noexcept nogil
    # Opens a session. `late`: the connection is joined in mid-stream. NULL: no memory.

cdef bint http2_joins(const Session* blank, Side side, const Run* run) noexcept nogil
    # Whether a segment with which a connection is joined in mid-stream is frames.

cdef Recognised http2_recognise(const uint8_t* data, int64_t size) noexcept nogil
    # Judges the first bytes of a direction: by the client's preface, or by SETTINGS of a server that speaks first.
