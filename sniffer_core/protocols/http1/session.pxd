# One connection's HTTP/1.x: both directions' parsers, and the queue of exchanges between them.
#
# A parser returns an event where something must be decided that one direction cannot know; this module decides it:
# which request a response answers, whether a body follows, whether what follows is still HTTP.

from libc.stdint cimport int64_t, uint8_t

from sniffer_core.protocol cimport Recognised, Session

cdef Recognised http1_recognise(const uint8_t* data, int64_t size) noexcept nogil
    # Whether a direction's bytes begin with a start line, and of whom.
cdef Session* http1_open(const Session* blank) noexcept nogil
cdef Session* http1_open_for_server(const Session* blank) noexcept nogil
    # The client speaks another protocol; the server may answer in HTTP/1 all the same: 400 to what it does not
    # understand.
