# A connection whose first bytes are of a protocol that is known by name and not read (TLS, HTTP/2).
#
# A server that does not speak it may answer in HTTP/1 all the same (400 to what it does not understand). So where the
# client spoke first, its bytes are counted until the server speaks; only then is the connection given up, or read.

from sniffer_core.protocol cimport Session, Side
from sniffer_core.protocols.signature cimport Spoken

cdef Session* ignored_open(const Session* blank, Side side, Spoken spoken) noexcept nogil
    # `side` spoke first, and `spoken` is what it spoke.
