"""A line protocol, to show what a protocol needs: "TOY" and a line feed from the client, then lines from both sides.

It knows the core by sniffer_core/protocol.pxd alone. What it is told it writes down for the test, in `told()`.
"""

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t, uint8_t
from libc.stdio cimport snprintf
from libc.string cimport memchr, memcmp, strlen

from sniffer_core.protocol cimport (
    RECOGNISED_CLIENT, RECOGNISED_MORE, RECOGNISED_NOT, Counter, Incomplete, Protocol, Recognised, Run, Session, Side,
    consume, free_session, new_session)

cdef Protocol TOY
cdef char[4096] notes


cdef void write(const char* what, Side side, int64_t number) noexcept nogil:
    snprintf(notes + strlen(notes), sizeof(notes) - strlen(notes), b"%s %d %lld\n", what, side, number)


cdef Recognised recognise(const uint8_t* data, int64_t size) noexcept nogil:
    if memcmp(data, b"TOY\n", min(size, 4)) != 0:
        return RECOGNISED_NOT
    return RECOGNISED_CLIENT if size >= 4 else RECOGNISED_MORE


cdef Session* open_toy(const Session* blank) noexcept nogil:
    return <Session*>new_session(blank, &TOY, sizeof(Session))


cdef void data(Session* session, Side side, Run* run) noexcept nogil:
    cdef const uint8_t* end = <const uint8_t*>memchr(run.data, 10, run.size)
    while end != NULL:
        write(b"line", side, end - run.data)
        consume(session, run, end + 1 - run.data, Counter.BYTES_USED)
        end = <const uint8_t*>memchr(run.data, 10, run.size)
    consume(session, run, run.size, Counter.BYTES_USED)


cdef void gap(Session* session, Side side, int64_t start, int64_t size) noexcept nogil:
    write(b"gap", side, size)


cdef void end(Session* session, Side side, Incomplete reason) noexcept nogil:
    write(b"end", side, reason)


cdef void close(Session* session) noexcept nogil:
    free_session(session, sizeof(Session))


TOY.name = b"toy"
TOY.recognise = &recognise
TOY.open = &open_toy
TOY.data = &data
TOY.gap = &gap
TOY.end = &end
TOY.close = &close


def protocol():
    """What detect.register() takes."""
    return PyCapsule_New(&TOY, b"sniffer_core.Protocol", NULL)


def told():
    """What the sessions were told since the last call: (what, side, number)."""
    lines = [line.split() for line in (<bytes>notes).decode().splitlines()]
    notes[0] = 0
    return [(what, int(side), int(number)) for what, side, number in lines]
