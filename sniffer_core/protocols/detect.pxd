# What a connection carries, decided in one place: by its first bytes.
#
# In this order: a PROXY protocol header before the client's first byte; a protocol that registered itself; at the true
# beginning of a stream what is known by name and not read (TLS, HTTP/2); else HTTP/1, which looks for a message where
# the stream is joined in mid-stream, and recognises TLS and HTTP/2 there by itself.

from sniffer_core.protocol cimport Detector

cdef const Detector* detect_detector() noexcept nogil
