"""The Python face of a message. See flow.pyi for its attributes."""

from hashlib import blake2b
from socket import AF_INET, AF_INET6, inet_ntop

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_GetItem, PyDict_SetItem
from cpython.ref cimport PyObject, Py_INCREF, Py_XDECREF
from cpython.unicode cimport PyUnicode_DecodeLatin1
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memcpy

from sniffer_core.exchange cimport Carry, Conn, Exchange
from sniffer_core.http1 cimport (
    REQUEST, WHOLE, Field, Message, fields_of, text_of)
from sniffer_core.memory cimport pool_give

cdef enum:
    NAMES = 1024        # slots of the cache of header names
    NAME_MAX = 48       # longer names are not cached

cdef struct Name:
    uint32_t size
    uint8_t sent[NAME_MAX]
    PyObject* lower     # owned; lives as long as the process, as interned strings do

cdef Name names[NAMES]

cdef tuple INCOMPLETE = (None, "gap", "closed", "evicted", "idle", "stopped", "malformed", "limit")
cdef tuple ANOMALIES = (
    "te-and-cl", "te-in-http10", "te-not-chunked", "te-folded", "cl-repeated", "cl-zero-padded", "cl-conflicting",
    "cl-invalid", "space-before-colon", "space-in-target", "conflicting-overlap", "bare-lf", "obs-fold")
cdef str SET_COOKIE = "set-cookie"
cdef str COOKIE = "cookie"
ANOMALY_NAMES = ANOMALIES


cdef inline str latin1(const uint8_t* data, Py_ssize_t size):
    return PyUnicode_DecodeLatin1(<char*>data, size, NULL)


cdef str lower_name(const uint8_t* sent, uint32_t size):
    """The header name in lower case, from a cache: the same few names come again and again."""
    cdef uint32_t hashed = 2166136261 ^ size
    cdef uint32_t i
    cdef Name* slot
    cdef str lower
    if size > NAME_MAX:
        return latin1(sent, size).lower()
    for i in range(size):
        hashed = (hashed ^ sent[i]) * 16777619
    slot = &names[(hashed ^ (hashed >> 15)) & (NAMES - 1)]
    if slot.lower != NULL and slot.size == size and memcmp(slot.sent, sent, size) == 0:
        return <str>slot.lower
    lower = latin1(sent, size).lower()
    if slot.lower == NULL:      # the first to come keeps the slot: traffic cannot make it churn
        slot.size = size
        memcpy(slot.sent, sent, size)
        Py_INCREF(lower)
        slot.lower = <PyObject*>lower
    return lower


cdef dict build_fields(const Field* fields, uint32_t count, const uint8_t* text):
    """CONTRACT: lower-case names in order of first appearance, repeated ones joined, set-cookie always a list."""
    cdef dict headers = {}
    cdef dict repeated = None
    cdef uint32_t i
    cdef str name
    cdef str value
    cdef PyObject* old
    for i in range(count):
        name = lower_name(text + fields[i].name.at, fields[i].name.size)
        value = latin1(text + fields[i].value.at, fields[i].value.size)
        old = PyDict_GetItem(headers, name)
        if name == SET_COOKIE:
            if old == NULL:
                headers[name] = [value]
            else:
                (<list>old).append(value)
        elif old == NULL:
            PyDict_SetItem(headers, name, value)
        else:
            if repeated is None:
                repeated = {}
            if name in repeated:
                (<list>repeated[name]).append(value)
            else:
                repeated[name] = [<object>old, value]
    if repeated is not None:
        for name, values in repeated.items():
            headers[name] = ("; " if name == COOKIE else ", ").join(values)
    return headers


cdef tuple name_end(const uint8_t* address, int size, int port):
    cdef bytes packed = PyBytes_FromStringAndSize(<char*>address, size)
    return inet_ntop(AF_INET if size == 4 else AF_INET6, packed), port


cdef void name_conn(Conn* conn):
    """Gives a connection its id (RULINGS: BLAKE2b-128 of a version, the sorted ends and the first stamp) and its ends."""
    cdef bytes low = PyBytes_FromStringAndSize(<char*>conn.low, conn.address_size)
    cdef bytes high = PyBytes_FromStringAndSize(<char*>conn.high, conn.address_size)
    cdef tuple low_end = name_end(conn.low, conn.address_size, conn.low_port)
    cdef tuple high_end = name_end(conn.high, conn.address_size, conn.high_port)
    cdef str id = blake2b(
        b"\x01" + low + (<int>conn.low_port).to_bytes(2, "big") + high + (<int>conn.high_port).to_bytes(2, "big")
        + conn.first_stamp.to_bytes(8, "big"),
        digest_size=16).hexdigest()
    cdef tuple server = high_end if conn.server_is_high else low_end
    cdef tuple client = low_end if conn.server_is_high else high_end
    Py_INCREF(id)
    Py_INCREF(server)
    Py_INCREF(client)
    conn.id = <PyObject*>id
    conn.server = <PyObject*>server
    conn.client = <PyObject*>client


cdef void forget_conn(Conn* conn):
    Py_XDECREF(conn.id)
    Py_XDECREF(conn.server)
    Py_XDECREF(conn.client)
    pool_give(conn.pool, conn, sizeof(Conn))


@cython.final
cdef class RawMessage:
    """One HTTP/1.x message as the core read it: nothing redacted, nothing decoded."""

    def __init__(self):
        raise TypeError("a RawMessage is made by a FlowTable alone")


cdef RawMessage build_message(Message* message, const Carry* carry):
    cdef RawMessage raw = RawMessage.__new__(RawMessage)
    cdef Exchange* exchange = <Exchange*>message.exchange
    cdef Conn* conn = exchange.conn
    cdef uint32_t i
    if conn.id == NULL:
        name_conn(conn)
    raw.connection_id = <str>conn.id
    raw.receiver = <tuple>conn.server
    raw.destination = <tuple>conn.client
    raw.timestamp = message.stamp
    raw.exchange = exchange.number
    raw.http_version = "1.1" if message.minor else "1.0"
    raw.headers = build_fields(message.fields, message.count, message.text)
    raw.informational = ()
    raw.anomalies = ()
    raw.latency_us = None
    if exchange.known:
        raw.method = latin1(exchange.text + exchange.method.at, exchange.method.size)
        raw.path = latin1(exchange.text + exchange.target.at, exchange.target.size)
        if carry.count:
            raw.carried = tuple([
                latin1(exchange.text + exchange.carried[i].at, exchange.carried[i].size)
                if exchange.carried_present & (1 << i) else None
                for i in range(carry.count)])
        if exchange.traced:
            raw.trace_id = latin1(exchange.trace, 32)
            raw.span_id = latin1(exchange.trace + 32, 16)
    if message.kind == REQUEST:
        raw.direction = "request"
        raw.status_code = None
    else:
        raw.direction = "response"
        raw.status_code = message.status
        raw.reason = latin1(message.text + message.reason.at, message.reason.size)
        if exchange.informational_count:
            raw.informational = tuple([exchange.informational[i] for i in range(exchange.informational_count)])
        if exchange.known and message.latency >= 0:
            raw.latency_us = message.latency
    raw.body = PyBytes_FromStringAndSize(<char*>message.body, <Py_ssize_t>message.body_kept)
    raw.body_size = message.body_size
    raw.body_truncated = message.truncated
    if message.trailers != NULL:
        raw.trailers = build_fields(fields_of(message.trailers), message.trailers.count, text_of(message.trailers))
    raw.incomplete = INCOMPLETE[message.incomplete]
    raw.missing_bytes = message.missing if message.incomplete != WHOLE and message.missing > 0 else None
    raw.resynced = message.resynced
    if message.anomalies:
        raw.anomalies = tuple([ANOMALIES[i] for i in range(len(ANOMALIES)) if message.anomalies & (1 << i)])
    return raw
