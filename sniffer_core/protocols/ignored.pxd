# The session of a connection that begins with TLS or HTTP/2, which are recognised but not read.
#
# A server that does not understand them may answer in HTTP/1, for example with status 400. So if the client has sent
# the first bytes, the session counts its bytes until the server sends something. Then it gives the connection up, or
# opens an HTTP/1 session for what the server sends.

from sniffer_core.protocol cimport Session, Side
from sniffer_core.protocols.signature cimport Spoken

cdef Session* ignored_open(const Session* blank, Side side, Spoken spoken) noexcept nogil
    # `side` has sent the first bytes, and `spoken` is their protocol: PROTOCOL_TLS or PROTOCOL_HTTP2. NULL: no memory.
