# Decides by the first bytes of a connection which protocol it carries.
#
# In this order: a PROXY protocol header before the client's first byte; a registered protocol; TLS and HTTP/2, which
# are recognised but not read, at the true beginning of a stream; otherwise HTTP/1. If a stream is joined in mid-stream,
# the HTTP/1 session looks for a message and recognises TLS and HTTP/2 itself.

from sniffer_core.protocol cimport Detector

cdef const Detector* detect_detector() noexcept nogil
    # The detector of all tables. It is static.
