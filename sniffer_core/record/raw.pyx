"""A message as a Python object. core.pyi documents the interface.

A RawMessage owns the core's Message. Its JSON (line.pyx) and its attributes are made only when they are asked for. The
same Redaction redacts both.
"""

from binascii import b2a_base64

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem, PyDict_SetItem
from cpython.ref cimport PyObject, Py_INCREF
from cpython.unicode cimport PyUnicode_DecodeLatin1, PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from sniffer_core.base.memory cimport Pool
from sniffer_core.base.marks cimport WHOLE
from sniffer_core.connection cimport Conn
from sniffer_core.message cimport HTTP_2, REQUEST, Exchange, Field, Message, exchange_release, fields_of, text_of
from sniffer_core.record.bodies cimport (
    FAILED, SHAPE_FORM, SHAPE_NONE, VALUE, Found, Search, Value, list_keys, next_value, unescaped)
from sniffer_core.record.line cimport (
    BODY_BASE64, BODY_RAW, BODY_TEXT, FOLD_MAX, REDACTED_ALL, RESET_SPACE, RecordView, is_named, put_record, reset_text)
from sniffer_core.record.naming cimport name_conn, name_proxied
from sniffer_core.record.plain cimport (
    begin_hiding, duration_of, latency_of, note_body, put_hidden, show, text_of_message)
from sniffer_core.record.redact cimport LINK, SECRET, TARGET, URL, Redaction, free_names, is_exempt, kind_of
from sniffer_core.record.writer cimport Buffer, Span, begin, measure_utf8, put, put_dict, put_str, written

from sniffer_core.base.marks import ANOMALIES, INCOMPLETE
from sniffer_core.record.redact import ends_in_mark, is_mark

cdef extern from "Python.h":
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    int PyUnicode_KIND(object text)
    bint PyUnicode_IS_ASCII(object text)
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef enum:
    NAMES = 1024        # slots of the cache of header names
    NAME_MAX = 48       # longer names are not cached
    FREE_FROM = 8192    # bytes of a body from which on its search gives up the GIL
    MARK_MAX = 80       # most bytes of a mark

cdef struct Name:
    uint32_t size
    uint8_t sent[NAME_MAX]
    PyObject* lower     # owned, and never released

cdef Name names[NAMES]
cdef Buffer buffer      # of render() and json_of(), used with the GIL; its memory is kept

cdef tuple INCOMPLETE_WORDS = (None, *INCOMPLETE)
cdef tuple ANOMALY_WORDS = tuple(ANOMALIES)
cdef str SET_COOKIE = "set-cookie"
cdef str COOKIE = "cookie"


cdef inline str latin1(const uint8_t* data, Py_ssize_t size):
    return PyUnicode_DecodeLatin1(<char*>data, size, NULL)


# ---- header fields ---------------------------------------------------------------------------------------------------

cdef str lower_name(const uint8_t* sent, uint32_t size):
    """The header name in lower case, from a cache, as most traffic uses few names."""
    cdef uint32_t hashed = 2166136261 ^ size
    cdef uint32_t i
    cdef Name* slot
    cdef str lowered
    if size > NAME_MAX:
        return latin1(sent, size).lower()
    for i in range(size):
        hashed = (hashed ^ sent[i]) * 16777619
    slot = &names[(hashed ^ (hashed >> 15)) & (NAMES - 1)]
    if slot.lower != NULL and slot.size == size and memcmp(slot.sent, sent, size) == 0:
        return <str>slot.lower
    lowered = latin1(sent, size).lower()
    if slot.lower == NULL:      # the first name keeps its slot, so no traffic makes the cache replace entries
        slot.size = size
        memcpy(slot.sent, sent, size)
        Py_INCREF(lowered)
        slot.lower = <PyObject*>lowered
    return lowered


cdef set hidden_names(const Field* fields, uint32_t count, const uint8_t* text, const uint8_t* never):
    """The names of the fields that their sender declares secrets."""
    cdef set hidden = set()
    cdef uint32_t i
    for i in range(count):
        if never[i] and not is_exempt(text + fields[i].name.at, fields[i].name.size):
            hidden.add(lower_name(text + fields[i].name.at, fields[i].name.size))
    return hidden


cdef dict build_fields(
        const Field* fields, uint32_t count, const uint8_t* text, const uint8_t* never, Redaction redaction):
    """Returns the redacted fields, see RawMessage.headers in core.pyi. put_fields() must write the same as JSON."""
    cdef dict headers = {}
    cdef dict repeated = None
    cdef uint32_t i
    cdef str name
    cdef object value
    cdef PyObject* old
    cdef uint8_t kind
    cdef bint secret
    cdef set hidden = None
    cdef list marked = []       # redacted names whose values are joined and then replaced by a mark with the key
    if never != NULL and redaction.headers.hides:
        hidden = hidden_names(fields, count, text, never)
    for i in range(count):
        name = lower_name(text + fields[i].name.at, fields[i].name.size)
        kind = kind_of(&redaction.headers, text + fields[i].name.at, fields[i].name.size)
        if hidden is not None and name in hidden:
            kind = SECRET
        secret = kind == SECRET
        if secret and redaction.key is not None:
            marked.append(name)
            secret = False
        if secret:
            value = redaction.mark("")
        elif kind == URL or kind == LINK:
            value = redaction.url(text + fields[i].value.at, fields[i].value.size, kind)
        else:
            value = latin1(text + fields[i].value.at, fields[i].value.size)
        old = PyDict_GetItem(headers, name)
        if name == SET_COOKIE:
            if old == NULL:
                headers[name] = [value]
            else:
                (<list>old).append(value)
        elif old == NULL:
            PyDict_SetItem(headers, name, value)
        elif not secret:
            if repeated is None:
                repeated = {}
            if name in repeated:
                (<list>repeated[name]).append(value)
            else:
                repeated[name] = [<object>old, value]
    if repeated is not None:
        for name, values in repeated.items():
            headers[name] = ("; " if name == COOKIE else ", ").join(values)
    for name in dict.fromkeys(marked):
        value = headers[name]
        headers[name] = redaction.mark(value) if isinstance(value, str) else [redaction.mark(each) for each in value]
    return headers


# ---- messages --------------------------------------------------------------------------------------------------------

@cython.final
cdef class Rules:
    """See raw.pxd, and the arguments of FlowTable in core.pyi."""

    def __cinit__(
            self, *, redact_headers, redact_query, redact_body, bytes redact_key, placement, decode, max_body,
            carry_count, bint again=False, tuple placed=None):
        self.redaction = Redaction(redact_headers, redact_query, redact_key, again)
        self.placed = placed
        self.key_names = list_keys(redact_body, &self.keys)
        self.decode = decode
        self.max_body = max_body
        self.carry_count = carry_count
        self.placement = b""
        self._set_placement(placement)
        self.style.listed = &self.redaction.headers
        self.style.query = &self.redaction.query
        self.style.keys = &self.keys
        self.style.decodes = decode is not None
        span(&self.style.placement, self.placement)

    cdef int _set_placement(self, placement) except -1:
        cdef Buffer out
        if placement is not None and any(placement):
            memset(&out, 0, sizeof(Buffer))
            try:
                for name, value in zip(("pod", "namespace", "node"), placement):
                    if value is not None:
                        put(&out, b',"placement":{' if out.size == 0 else b",")
                        put_str(&out, name)
                        put(&out, b":")
                        put_str(&out, value)
                put(&out, b"}")
                self.placement = written(&out)
            finally:
                free(out.data)

        return 0

    def __dealloc__(self):
        free_names(&self.keys)


@cython.final
@cython.no_gc
cdef class RawMessage:
    """See core.pyi."""

    def __init__(self):
        raise TypeError("a RawMessage is made by a FlowTable alone")

    def __dealloc__(self):
        if self.source != NULL:
            free(self.source.body)
            free(self.source.trailers)
            free(self.source)
        free(self.exchanged)

    @property
    def direction(self):
        return "request" if self.source.kind == REQUEST else "response"

    @property
    def timestamp(self):
        return self.source.stamp

    @property
    def headers(self):
        return build_fields(
            self.source.fields, self.source.count, self.source.text, self.source.never, self.rules.redaction)

    @property
    def trailers(self):
        if self.source.trailers == NULL:
            return None
        return build_fields(
            fields_of(self.source.trailers), self.source.trailers.count, text_of(self.source.trailers),
            self.source.trailers.never, self.rules.redaction)

    @property
    def exchange(self):
        return self.exchanged.number

    @property
    def http_version(self):
        return "2" if self.source.minor == HTTP_2 else "1.1" if self.source.minor else "1.0"

    @property
    def method(self):
        if self.exchanged.method.size == 0:
            return None
        return latin1(self.exchanged.text + self.exchanged.method.at, self.exchanged.method.size)

    @property
    def path(self):
        if self.exchanged.target.size == 0:
            return None
        return self.rules.redaction.url(
            self.exchanged.text + self.exchanged.target.at, self.exchanged.target.size, TARGET,
            self.exchanged.path_secret and self.rules.redaction.headers.hides)

    @property
    def status_code(self):
        return None if self.source.kind == REQUEST or self.source.status == 0 else self.source.status

    @property
    def reason(self):
        if self.source.kind == REQUEST or self.source.http2 != NULL:
            return None
        return latin1(self.source.text + self.source.reason.at, self.source.reason.size)

    @property
    def informational(self):
        cdef uint32_t i
        if self.source.kind == REQUEST:
            return ()
        return tuple([self.exchanged.informational[i] for i in range(self.exchanged.informational_count)])

    @property
    def latency_us(self):
        cdef int64_t latency = latency_of(self.source, self.exchanged)
        return None if latency < 0 else latency

    @property
    def end_timestamp(self):
        return self.source.stamp_end

    @property
    def duration_us(self):
        cdef int64_t duration = duration_of(self.source, self.exchanged)
        return None if duration < 0 else duration

    @property
    def authority(self):
        if self.exchanged.authority.size == 0:
            return None
        return latin1(self.exchanged.text + self.exchanged.authority.at, self.exchanged.authority.size)

    @property
    def body(self):
        return PyBytes_FromStringAndSize(<char*>self.source.body, <Py_ssize_t>self.source.body_kept)

    @property
    def body_size(self):
        return self.source.body_size

    @property
    def body_truncated(self):
        return self.source.truncated

    cdef str coding(self):
        """The value of Content-Encoding, the field being present."""
        cdef const Field* field = NULL
        cdef uint32_t i
        for i in range(self.source.count):
            if is_named(&self.source.fields[i], self.source.text, b"content-encoding", 16):
                if field != NULL:       # repeated: build_fields() joins the values
                    return self.headers["content-encoding"]
                field = &self.source.fields[i]
        if field == NULL or kind_of(
                &self.rules.redaction.headers, self.source.text + field.name.at, field.name.size) == SECRET:
            return "[REDACTED]"     # no coding has this name, so the body stays as sent
        return latin1(self.source.text + field.value.at, field.value.size)

    def decode(self):
        """See core.pyi."""
        cdef bytes body
        cdef str removed
        cdef bint full
        cdef bint broken
        if not self.coded:
            return None
        body, removed, full, broken, left = self.rules.decode(self.body, self.coding(), self.rules.max_body)
        if not self.coded:      # another thread has set the members meanwhile, and they may be in use
            return left
        self.coded = False
        self.closed = left != ""
        if removed:
            self.plain = body
            self.removed = removed
            self.full = full
            self.broken = broken
        return left

    cdef bint truncated(self):
        """Whether bytes of the body, as sent or as decoded, are not kept because of a limit."""
        return self.source.truncated or self.full

    cdef bint cut(self):
        """Whether what is kept of the body may end before its true end."""
        return self.truncated() or self.broken or self.source.incomplete != WHOLE

    cdef bytes hide(self, const uint8_t* body, size_t size, int64_t* redacted):
        """Redacts a body without its codings. Returns None if it stays as it is, which costs no copy.

        `redacted` becomes the number of values, or REDACTED_ALL: then the body must not be shown. Where the body was
        redacted before it was read back, the values of then count as well, and their marks not again.
        """
        cdef Search search
        cdef Value value
        cdef Found found
        redacted[0] = self.hidden
        if self.shape == SHAPE_NONE or size == 0 or redacted[0] == REDACTED_ALL:
            return None
        if self.closed and self.shape >= SHAPE_FORM:
            redacted[0] = REDACTED_ALL
            return None
        begin_hiding(&search, self.source, self.shape, body, size, &self.rules.keys)
        if size < FREE_FROM:
            found = next_value(&search, &value)
        else:
            with nogil:
                found = next_value(&search, &value)
        if found == VALUE:
            return self.replace(body, size, redacted, &search, &value)
        if found == FAILED:
            redacted[0] = REDACTED_ALL
        return None

    cdef bytes replace(self, const uint8_t* body, size_t size, int64_t* redacted, Search* search, Value* value):
        """Returns the body with marks in place of `value` and all values behind it; None if the search fails."""
        cdef Redaction redaction = self.rules.redaction
        cdef Found found = VALUE
        cdef list parts = []
        cdef size_t shown = 0
        cdef bytes mark = b"[REDACTED]"
        cdef bytes secret = None
        if redaction.key is None and not redaction.again:
            begin(&buffer)
            redacted[0] = put_hidden(&buffer, body, size, search, value)
            return None if redacted[0] == REDACTED_ALL else written(&buffer)
        while found == VALUE:
            parts.append(PyBytes_FromStringAndSize(<char*>body + shown, <Py_ssize_t>(value.at - shown)))
            secret = (
                unescaped(body + value.at, value.end - value.at) if value.json
                else PyBytes_FromStringAndSize(<char*>body + value.at, <Py_ssize_t>(value.end - value.at)))
            if redaction.again and value.at == value.end and ends_in_mark(parts[-1][-MARK_MAX:]) is not None:
                shown = value.end       # the mark of a part that was cut within its head stands there already
                found = next_value(search, value)
                continue
            if redaction.key is not None:
                mark = redaction.mark_bytes(secret)
            parts.append(b'"%s"' % mark if value.json else mark)
            shown = value.end
            if not redaction.again or is_mark(secret) is None:
                redacted[0] += 1
            found = next_value(search, value)
        if found == FAILED:
            redacted[0] = REDACTED_ALL
            return None
        parts.append(PyBytes_FromStringAndSize(<char*>body + shown, <Py_ssize_t>(size - shown)))
        return b"".join(parts)

    cdef tuple readable(self):
        """Makes the value of `content`, and keeps it.

        The body is decoded from the bytes before the first missing one. It has at most max_body bytes before and after.
        """
        cdef bytes body
        cdef bytes hidden
        cdef int64_t redacted = 0
        cdef int64_t size
        self.decode()
        body = self.plain if self.plain is not None else self.body
        hidden = self.hide(<const uint8_t*>PyBytes_AS_STRING(body), <size_t>PyBytes_GET_SIZE(body), &redacted)
        if redacted == REDACTED_ALL or self.bodiless or (not body and self.removed is None):
            self.made = (None, None, self.truncated(), self.removed,
                         "all" if redacted == REDACTED_ALL else redacted or None)
            return self.made
        if hidden is not None:
            body = hidden
        # As the line has it: if the body is cut, an incomplete UTF-8 sequence at its end is left out. Python's own
        # decoder takes the beginning of a surrogate for one.
        size = measure_utf8(<const uint8_t*>PyBytes_AS_STRING(body), <size_t>PyBytes_GET_SIZE(body))
        if size == PyBytes_GET_SIZE(body) or (size >= 0 and self.cut()):
            self.made = (
                PyUnicode_DecodeUTF8(PyBytes_AS_STRING(body), <Py_ssize_t>size, NULL), None, self.truncated(),
                self.removed, redacted or None)
        else:
            self.made = (b2a_base64(body, newline=False).decode("ascii"), "base64", self.truncated(), self.removed,
                         redacted or None)
        return self.made

    @property
    def content(self):
        return self.made if self.made is not None else self.readable()

    @property
    def incomplete(self):
        return INCOMPLETE_WORDS[self.source.incomplete]

    @property
    def missing_bytes(self):
        return self.source.missing if self.source.incomplete != WHOLE and self.source.missing > 0 else None

    @property
    def resynced(self):
        return self.source.resynced

    @property
    def anomalies(self):
        cdef uint32_t bits = self.source.anomalies
        return tuple([word for i, word in enumerate(ANOMALY_WORDS) if bits >> i & 1]) if bits else ()

    @property
    def trace_id(self):
        return latin1(self.exchanged.trace, 32) if self.exchanged.traced else None

    @property
    def span_id(self):
        return latin1(self.exchanged.trace + 32, 16) if self.exchanged.traced else None

    @property
    def stream_id(self):
        return None if self.source.http2 == NULL else self.source.http2.stream_id

    @property
    def headers_unknown(self):
        return None if self.source.http2 == NULL or not self.source.http2.unknown else self.source.http2.unknown

    @property
    def route_id(self):
        if self.exchanged.route.size == 0:
            return None
        return latin1(self.exchanged.text + self.exchanged.route.at, self.exchanged.route.size)

    @property
    def reset(self):
        cdef char name[RESET_SPACE]
        if self.source.http2 == NULL or not self.source.http2.is_reset:
            return None
        return latin1(<uint8_t*>name, <Py_ssize_t>reset_text(self.source.http2.reset, name))

    @property
    def pushed(self):
        return self.source.http2 != NULL and self.source.http2.pushed

    @property
    def headers_truncated(self):
        return self.shortened

    @property
    def placed(self):
        return self.rules.placed

    @property
    def proxied(self):
        return None if self.behind is None else self.behind[:2]

    @property
    def carried(self):
        cdef uint32_t i
        if not self.exchanged.known or not self.rules.carry_count:
            return None
        return tuple([
            latin1(self.exchanged.text + self.exchanged.carried[i].at, self.exchanged.carried[i].size)
            if self.exchanged.carried_present & (1 << i) else None
            for i in range(self.rules.carry_count)])

    @property
    def idempotency_key(self):
        return f"{self.connection_id}-{self.exchanged.number}-{self.direction}"

    cdef size_t text(self):
        return text_of_message(self.source, self.exchanged)

    cdef size_t body_text(self):
        """Bytes of the body after decoding; before it an estimate, as most bodies grow less than eight times."""
        cdef size_t body = self.source.body_kept
        if self.plain is not None:
            body = <size_t>PyBytes_GET_SIZE(self.plain)
        elif self.coded:
            body = max(body, min(8 * body, <size_t>self.rules.max_body))
        return body

    cdef size_t foreseen(self):
        """Estimated bytes of the JSON."""
        return RECORD_FIXED + self.text() + 2 * self.body_text()

    @property
    def weight(self):
        return self.weigh()

    cdef size_t weigh(self):
        cdef size_t size = sizeof(Message) + sizeof(Exchange) + 256 + self.source.size + self.exchanged.size
        cdef size_t text = self.text()
        cdef size_t body = self.body_text()
        size += self.source.body_space
        if self.source.trailers != NULL:
            size += self.source.trailers.size
        if self.json is not None:
            size += len(self.json)
        else:
            size += RECORD_FIXED + text + 2 * body
        if self.message is not None:
            size += 1024 + 96 * self.source.count + text
            size += max(body + body // 3, 0 if self.made is None else text_size(self.made[0]))      # base64, or text
        if self.plain is not None:
            size += body
        return size

    def to_json(self):
        cdef bytes json = self.json
        if json is None:
            json = self.render()
            # The JSON is kept for the next output, unless it is longer than `weight` has counted: a body of control
            # characters takes six times its size. `made` is not needed again.
            if <size_t>len(json) <= self.foreseen():
                self.json = json
            self.made = None
        return json

    cdef int prepare(self, RecordView* view, list kept) except -1:
        """Sets up a view. Adds to `kept` the objects made here that the view points to."""
        cdef Message* message = self.source
        cdef Exchange* exchange = self.exchanged
        cdef bytes hidden
        cdef str path
        show(view, message, exchange, &self.rules.style)
        span(&view.opening, self.opening)
        if self.behind is not None:
            span(&view.proxied, <bytes>self.behind[2])
        view.shortened = self.shortened
        view.id = PyUnicode_AsUTF8AndSize(self.connection_id, NULL)
        if exchange.target.size and self.rules.redaction.key is not None:
            path = self.path
            kept.append(path)
            view.path.data = PyUnicode_AsUTF8AndSize(path, &view.path.size)
        if self.rules.redaction.key is not None or message.count > FOLD_MAX:
            span(&view.headers, json_of(self.headers, kept))
        if message.trailers != NULL and message.trailers.count and (
                self.rules.redaction.key is not None or message.trailers.count > FOLD_MAX):
            span(&view.trailers, json_of(self.trailers, kept))
        if self.made is not None:
            self.show_made(view)
            return 0
        if self.coded:
            self.decode()
        if self.plain is not None:
            view.truncated = self.truncated()
            view.cut = self.cut()
            view.body = <const uint8_t*>PyBytes_AS_STRING(self.plain)
            view.body_size = <size_t>PyBytes_GET_SIZE(self.plain)
            view.removed.data = PyUnicode_AsUTF8AndSize(self.removed, &view.removed.size)
        if self.shape != SHAPE_NONE or self.hidden:
            hidden = self.hide(view.body, view.body_size, &view.redacted)
            if hidden is not None:
                kept.append(hidden)
                view.body = <const uint8_t*>PyBytes_AS_STRING(hidden)
                view.body_size = <size_t>PyBytes_GET_SIZE(hidden)
        if view.redacted != REDACTED_ALL and (view.body_size or view.removed.size) and not self.bodiless:
            view.form = BODY_RAW
        return 0

    cdef int show_made(self, RecordView* view) except -1:
        """Sets up the body of a view from `made`."""
        cdef Py_ssize_t size
        text, encoding, view.truncated, removed, redacted = self.made
        if redacted is not None:
            view.redacted = REDACTED_ALL if redacted == "all" else <int64_t>redacted
        if removed is not None:
            view.removed.data = PyUnicode_AsUTF8AndSize(removed, &view.removed.size)
        if text is not None:
            view.body = <const uint8_t*>PyUnicode_AsUTF8AndSize(text, &size)
            view.body_size = <size_t>size
            view.form = BODY_TEXT if encoding is None else BODY_BASE64
        return 0

    cdef bytes render(self):
        """Returns the record as JSON."""
        cdef RecordView view
        cdef list kept = []
        self.prepare(&view, kept)
        begin(&buffer)
        put_record(&buffer, &view)
        return written(&buffer)


cdef size_t text_size(str text):
    """Estimated bytes of memory of a string.

    A string that is not ASCII takes 1, 2 or 4 bytes for each character, and Python keeps its UTF-8 as a second copy.
    """
    cdef size_t length
    if text is None:
        return 0
    length = <size_t>PyUnicode_GET_LENGTH(text)
    return length if PyUnicode_IS_ASCII(text) else length * <size_t>(PyUnicode_KIND(text) + 3)


cdef inline void span(Span* at, bytes text):
    at.data = PyBytes_AS_STRING(text)
    at.size = PyBytes_GET_SIZE(text)


cdef bytes json_of(dict fields, list kept):
    """Returns the fields as a JSON object, and adds it to `kept`."""
    cdef bytes json
    begin(&buffer)
    put_dict(&buffer, fields)
    json = written(&buffer)
    kept.append(json)
    return json


cdef void note_kind(RawMessage raw):
    raw.shape = note_body(raw.source, &raw.rules.keys, &raw.coded)
    raw.closed = raw.coded and not raw.rules.style.decodes
    raw.coded = raw.coded and raw.rules.style.decodes


cdef RawMessage build_message(Message* message, Pool* pool, Rules rules):
    cdef RawMessage raw = RawMessage.__new__(RawMessage)
    cdef Exchange* exchange = message.exchange
    cdef Conn* conn = exchange.conn
    if conn.id == NULL:
        name_conn(conn)
    raw.rules = rules
    raw.connection_id = <str>conn.id
    raw.receiver = <tuple>conn.server
    raw.destination = <tuple>conn.client
    raw.opening = <bytes>conn.opening
    if conn.proxied != NULL:
        if conn.behind == NULL:
            name_proxied(conn)
        raw.behind = <tuple>conn.behind
    # The message gets a copy of the exchange: the protocol still uses its own, and other threads may use the message.
    raw.exchanged = <Exchange*>malloc(sizeof(Exchange) + exchange.text_size)
    if raw.exchanged == NULL:
        raise MemoryError
    raw.exchanged[0] = exchange[0]
    raw.exchanged.size = sizeof(Exchange) + exchange.text_size
    raw.exchanged.text = <uint8_t*>raw.exchanged + sizeof(Exchange)
    memcpy(raw.exchanged.text, exchange.text, exchange.text_size)
    exchange_release(exchange, pool)
    pool.bytes -= <int64_t>(message.size + message.body_space)
    pool.blocks -= 2 if message.body != NULL else 1
    if message.trailers != NULL:
        pool.bytes -= <int64_t>message.trailers.size
        pool.blocks -= 1
    raw.source = message
    if message.body_kept != 0:
        note_kind(raw)
    return raw
