"""The record of a message that is not made a Python object; see plain.pxd."""

from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memset

from sniffer_core.base.marks cimport WHOLE
from sniffer_core.connection cimport Conn
from sniffer_core.message cimport REQUEST, Exchange, Field, Message
from sniffer_core.record.bodies cimport (
    FAILED, SHAPE_FORM, SHAPE_GUESS, SHAPE_NONE, SHAPE_PARTS, VALUE, Found, Search, Value, begin_search, next_value,
    shape_of)
from sniffer_core.record.line cimport BODY_RAW, REDACTED_ALL, RecordView, is_named, put_record
from sniffer_core.record.redact cimport Names
from sniffer_core.record.writer cimport Buffer, begin, put, write

cdef extern from "Python.h":
    # Macros that only look at an object that nobody changes, so that they need no GIL.
    const char* bytes_text "PyBytes_AS_STRING"(PyObject* text) nogil
    Py_ssize_t bytes_length "PyBytes_GET_SIZE"(PyObject* text) nogil
    const char* ascii_text "(const char*)PyUnicode_1BYTE_DATA"(PyObject* text) nogil
    PyObject* tuple_item "PyTuple_GET_ITEM"(PyObject* items, Py_ssize_t index) nogil


cdef int64_t latency_of(const Message* message, const Exchange* exchange) noexcept nogil:
    """µs, or -1."""
    return message.latency if message.kind != REQUEST and exchange.known else -1


cdef int64_t duration_of(const Message* message, const Exchange* exchange) noexcept nogil:
    """µs, or -1."""
    if message.kind == REQUEST or not exchange.known or message.end_lost:
        return -1
    return max(-1, message.stamp_end - exchange.stamp)


cdef uint8_t note_body(const Message* message, const Names* keys, bint* coded) noexcept nogil:
    cdef const Field* field
    cdef uint8_t shape = SHAPE_NONE
    cdef uint32_t i
    cdef bint typed = False
    coded[0] = False
    for i in range(message.count):
        field = &message.fields[i]
        if is_named(field, message.text, b"content-encoding", 16):
            coded[0] = True
        elif is_named(field, message.text, b"content-type", 12):
            typed = True
            shape = max(shape, shape_of(message.text + field.value.at, field.value.size))
    if not typed:
        shape = SHAPE_GUESS
    return SHAPE_NONE if keys.count == 0 else shape


cdef void begin_hiding(
        Search* search, const Message* message, uint8_t shape, const uint8_t* body, size_t size,
        const Names* keys) noexcept nogil:
    """Begins to search a body, from the message of that Shape, for values that must not be shown."""
    cdef const Field* type = NULL
    cdef const Field* field
    cdef uint32_t i
    for i in range(message.count if shape == SHAPE_GUESS or shape == SHAPE_PARTS else 0):   # only a form has a boundary
        field = &message.fields[i]
        if is_named(field, message.text, b"content-type", 12) and shape == shape_of(
                message.text + field.value.at, field.value.size):
            type = field
            break
    begin_search(
        search, body, size, shape, NULL if type == NULL else message.text + type.value.at,
        0 if type == NULL else type.value.size, keys)


cdef int64_t put_hidden(
        Buffer* out, const uint8_t* body, size_t size, Search* search, Value* value) noexcept nogil:
    """Writes a body with `[REDACTED]` in place of `value` and all values behind it.

    Returns their number; REDACTED_ALL if the search fails, so that the body must not be shown.
    """
    cdef Found found = VALUE
    cdef size_t shown = 0
    cdef int64_t redacted = 0
    while found == VALUE:
        write(out, body + shown, value.at - shown)
        if value.json:
            put(out, b'"[REDACTED]"')
        else:
            put(out, b"[REDACTED]")
        shown = value.end
        redacted += 1
        found = next_value(search, value)
    if found == FAILED:
        return REDACTED_ALL
    write(out, body + shown, size - shown)
    return redacted


cdef void show(
        RecordView* view, const Message* message, const Exchange* exchange, const Style* style) noexcept nogil:
    """Sets up what does not need Python, with the body as it was sent."""
    memset(view, 0, sizeof(RecordView))
    view.message = message
    view.exchange = exchange
    view.listed = style.listed
    view.query = style.query
    view.placement = style.placement
    view.latency = latency_of(message, exchange)
    view.duration = duration_of(message, exchange)
    view.truncated = message.truncated
    view.cut = message.truncated or message.incomplete != WHOLE
    view.body = message.body
    view.body_size = message.body_kept


cdef size_t text_of_message(const Message* message, const Exchange* exchange) noexcept nogil:
    cdef size_t text = message.text_size + exchange.text_size
    return text if message.trailers == NULL else text + message.trailers.size


cdef void put_plain(
        Buffer* out, Buffer* hidden, const Message* message, const Style* style, uint8_t shape,
        bint closed) noexcept nogil:
    cdef const Exchange* exchange = message.exchange
    cdef const Conn* conn = exchange.conn
    cdef RecordView view
    cdef Search search
    cdef Value value
    cdef Found found
    show(&view, message, exchange, style)
    view.opening.data = bytes_text(conn.opening)
    view.opening.size = bytes_length(conn.opening)
    view.id = ascii_text(conn.id)
    if conn.behind != NULL:
        view.proxied.data = bytes_text(tuple_item(conn.behind, 2))
        view.proxied.size = bytes_length(tuple_item(conn.behind, 2))
    if shape != SHAPE_NONE and view.body_size:
        if closed and shape >= SHAPE_FORM:
            view.redacted = REDACTED_ALL
        else:
            begin_hiding(&search, message, shape, view.body, view.body_size, style.keys)
            found = next_value(&search, &value)
            if found == VALUE:
                begin(hidden)
                view.redacted = put_hidden(hidden, view.body, view.body_size, &search, &value)
                out.failed = out.failed or hidden.failed
                view.body = hidden.data
                view.body_size = hidden.size
            elif found == FAILED:
                view.redacted = REDACTED_ALL
    if view.redacted != REDACTED_ALL and view.body_size:
        view.form = BODY_RAW
    put_record(out, &view)
    put(out, b"\n")
