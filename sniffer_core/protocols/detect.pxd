# Decides by the first bytes of a connection which protocol it carries.
#
# In this order: a PROXY protocol header before the client's first byte; a registered protocol; HTTP/2, and TLS, which
# is recognised but not read, at the true beginning of a stream; HTTP/2 frames in the first segment of a stream that is
# joined in mid-stream; otherwise HTTP/1, whose session then looks for a message and recognises TLS itself.

from sniffer_core.protocol cimport Detector

cdef const Detector* detect_detector() noexcept nogil
    # The detector of all tables. It is static.
