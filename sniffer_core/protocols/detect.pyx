"""Decides which protocol a connection carries; see detect.pxd."""

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memmove

from sniffer_core.base.counters cimport Counter
from sniffer_core.base.memory cimport pool_take
from sniffer_core.connection cimport Conn, Proxied
from sniffer_core.protocol cimport (
    CLIENT, RECOGNISED_CLIENT, RECOGNISED_MORE, RECOGNISED_SERVER, SERVER, Context, Detector, Protocol, Recognised,
    Session, Side)
from sniffer_core.protocols.http1.session cimport http1_open, http1_recognise
from sniffer_core.protocols.http2.session cimport http2_joins, http2_open, http2_recognise
from sniffer_core.protocols.ignored cimport ignored_open
from sniffer_core.protocols.proxy cimport PROXY_MORE, PROXY_MOST, PROXY_NONE, proxy_parse
from sniffer_core.protocols.signature cimport PROTOCOL_HTTP2, PROTOCOL_TLS, Spoken, signature
from sniffer_core.tcp.stream cimport Run, Stream, stream_copy, stream_front

cdef enum:
    PEEK = 256                  # most bytes that are passed to `recognise`
    REGISTERED_MAX = 16

cdef const Protocol* registered[REGISTERED_MAX]
cdef int registered_count = 0

cdef Detector DETECTOR


def register(capsule):
    """See detect.pyi."""
    global registered_count
    cdef const Protocol* protocol = <const Protocol*>PyCapsule_GetPointer(capsule, b"sniffer_core.Protocol")
    if registered_count == REGISTERED_MAX:
        raise ValueError(f"no more than {REGISTERED_MAX} protocols can be registered")
    memmove(&registered[1], &registered[0], registered_count * sizeof(const Protocol*))
    registered[0] = protocol
    registered_count += 1


def unregister(capsule):
    """See detect.pyi."""
    global registered_count
    cdef const Protocol* protocol = <const Protocol*>PyCapsule_GetPointer(capsule, b"sniffer_core.Protocol")
    cdef int i
    for i in range(registered_count):
        if registered[i] == protocol:
            registered_count -= 1
            memmove(&registered[i], &registered[i + 1], (registered_count - i) * sizeof(const Protocol*))
            return
    raise ValueError("the protocol is not registered")


cdef int speaker(const Stream* stream) noexcept nogil:
    cdef uint8_t bytes[PEEK]
    cdef int64_t size = stream_copy(stream, stream.next, bytes, PEEK)
    cdef Recognised recognised
    cdef int i
    for i in range(registered_count + 1):
        if i < registered_count:
            recognised = registered[i].recognise(bytes, size)
        else:
            recognised = http1_recognise(bytes, size)
        if recognised == RECOGNISED_CLIENT:
            return CLIENT
        if recognised == RECOGNISED_SERVER:
            return SERVER
    return -1


cdef bint may_be_registered(const uint8_t* data, int64_t size) noexcept nogil:
    """Whether a registered protocol needs more bytes to say whether it begins here."""
    cdef int i
    for i in range(registered_count):
        if registered[i].recognise(data, size) == RECOGNISED_MORE:
            return True
    return False


cdef bint begins_preface(const Stream* stream, const uint8_t* data, int64_t size) noexcept nogil:
    """Whether these bytes of the client are a part of HTTP/2's preface, which may come in several segments."""
    return stream.from_start and size > 0 and http2_recognise(data, size) == RECOGNISED_MORE


cdef const uint8_t* front_of(const Stream* stream, const Run* run, uint8_t* bytes, int64_t* size) noexcept nogil:
    """Returns the next bytes of a stream, at most PEEK: a copy in `bytes` if they are held, else those of `run`."""
    if stream_front(stream) != NULL and stream_front(stream).offset == stream.next:
        size[0] = stream_copy(stream, stream.next, bytes, PEEK)
        return bytes
    size[0] = min(run.size, <int64_t>PEEK)
    return run.data


cdef int64_t preamble(Context* context, Conn* conn, const Stream* stream, const Run* run) noexcept nogil:
    cdef Proxied said
    cdef uint8_t bytes[PEEK]
    cdef int64_t available
    cdef const uint8_t* data = front_of(stream, run, bytes, &available)
    cdef int size = proxy_parse(data, <int>min(available, <int64_t>PROXY_MOST), &said)
    if size == PROXY_MORE:
        return -1
    if size == PROXY_NONE:
        return -1 if may_be_registered(data, available) or begins_preface(stream, data, available) else 0
    if run != NULL:
        context.counters[<int>Counter.FLOWS_PROXIED] += 1
        if said.address_size:
            conn.proxied = <Proxied*>pool_take(&context.pool, sizeof(Proxied))
            if conn.proxied != NULL:
                conn.proxied[0] = said
    return size


cdef const Protocol* find_registered(const Stream* stream, Side side, const Run* run) noexcept nogil:
    cdef Recognised wanted = RECOGNISED_CLIENT if side == CLIENT else RECOGNISED_SERVER
    cdef uint8_t bytes[PEEK]
    cdef int64_t size
    cdef const uint8_t* data = front_of(stream, run, bytes, &size)
    cdef int i
    for i in range(registered_count):
        if registered[i].recognise(data, size) == wanted:
            return registered[i]
    return NULL


cdef Session* open(const Session* blank, Side side, const Run* run) noexcept nogil:
    cdef const Protocol* protocol
    cdef const uint8_t* data
    cdef uint8_t bytes[PEEK]
    cdef int64_t size
    cdef Spoken spoken
    if run == NULL:
        return http1_open(blank)
    if registered_count:
        protocol = find_registered(blank.stream[<int>side], side, run)
        if protocol != NULL:
            return protocol.open(blank)
    if blank.stream[<int>side].from_start:
        spoken = signature(run.data, run.size, True)
        data = front_of(blank.stream[<int>side], run, bytes, &size)
        if http2_recognise(data, size) == (RECOGNISED_CLIENT if side == CLIENT else RECOGNISED_SERVER):
            return http2_open(blank, False)
        if spoken == PROTOCOL_TLS or spoken == PROTOCOL_HTTP2:
            return ignored_open(blank, side, spoken)
    elif run.segment_start and http2_joins(blank, side, run):
        return http2_open(blank, True)
    return http1_open(blank)


cdef const Detector* detect_detector() noexcept nogil:
    return &DETECTOR


DETECTOR.speaker = &speaker
DETECTOR.preamble = &preamble
DETECTOR.open = &open
