"""Writes a message as a JSON object; see line.pxd."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, strlen

from sniffer_core.base.ascii cimport ascii_lower
from sniffer_core.base.marks cimport ANOMALY_COUNT, INCOMPLETE_COUNT
from sniffer_core.base.marks cimport WHOLE
from sniffer_core.message cimport HTTP_2, REQUEST, Exchange, Field, Http2, Message, fields_of, text_of
from sniffer_core.record.naming cimport ID_DIGITS
from sniffer_core.record.redact cimport (
    SECRET, SHOWN, TARGET, Cut, Names, Scan, begin_scan, is_exempt, is_plain, kind_of, name_bit, next_cut)
from sniffer_core.record.shorten cimport SHORTEN_ROOM, shorten
from sniffer_core.record.writer cimport (
    STAMP_SIZE, Buffer, copy_lower, escape_text, measure_utf8, put, put_again, put_base64, put_latin,
    put_milliseconds, put_number, put_span, put_stamp, put_text, room, write)

from sniffer_core.base.marks import ANOMALIES, INCOMPLETE

cdef tuple RESET_WORDS = (
    b"NO_ERROR", b"PROTOCOL_ERROR", b"INTERNAL_ERROR", b"FLOW_CONTROL_ERROR", b"SETTINGS_TIMEOUT", b"STREAM_CLOSED",
    b"FRAME_SIZE_ERROR", b"REFUSED_STREAM", b"CANCEL", b"COMPRESSION_ERROR", b"CONNECT_ERROR", b"ENHANCE_YOUR_CALM",
    b"INADEQUATE_SECURITY", b"HTTP_1_1_REQUIRED")      # RFC 9113 section 7
cdef const char* reset_words[RESETS]        # they point into RESET_WORDS
cdef tuple QUOTED = tuple([f'"{word}"'.encode("ascii") for word in (*INCOMPLETE, *ANOMALIES)])
cdef const char* incomplete_json[INCOMPLETE_COUNT + 1]      # the words as JSON, by Incomplete; they point into QUOTED
cdef const char* anomaly_json[ANOMALY_COUNT]


cdef int fill_words() except -1:
    cdef int i
    if len(INCOMPLETE) != INCOMPLETE_COUNT or len(ANOMALIES) != ANOMALY_COUNT:
        raise ImportError("marks.pxd is older than marks.py")
    for i in range(INCOMPLETE_COUNT):
        incomplete_json[i + 1] = <bytes>QUOTED[i]
    for i in range(ANOMALY_COUNT):
        anomaly_json[i] = <bytes>QUOTED[INCOMPLETE_COUNT + i]
    for i in range(RESETS):
        reset_words[i] = <bytes>RESET_WORDS[i]
    return 0


fill_words()


cdef uint32_t digits_text(uint32_t number, uint32_t base, char* to) noexcept nogil:
    """Writes a number; returns its size. put_number() would be inlined no more if it had more callers."""
    cdef uint32_t size = 1
    cdef uint32_t rest = number // base
    cdef uint32_t i
    while rest:
        size += 1
        rest //= base
    for i in range(size):
        to[size - 1 - i] = <char>(48 + number % base + (39 if number % base > 9 else 0))
        number //= base
    return size


cdef uint32_t reset_text(uint32_t code, char* to) noexcept nogil:
    if code < RESETS:
        memcpy(to, reset_words[code], strlen(reset_words[code]))
        return <uint32_t>strlen(reset_words[code])
    to[0], to[1] = 48, 120      # 0x
    return 2 + digits_text(code, 16, to + 2)


# ---- fields ----------------------------------------------------------------------------------------------------------

cdef inline bint same(const Field* a, const Field* b, const uint8_t* text) noexcept nogil:
    """Whether two fields have the same name, in any case."""
    cdef uint32_t i
    if a.name.size != b.name.size:
        return False
    for i in range(a.name.size):
        if ascii_lower(text[a.name.at + i]) != ascii_lower(text[b.name.at + i]):
            return False
    return True


cdef void put_url(
        Buffer* out, const uint8_t* text, size_t size, uint8_t kind, const Names* query, bint all) noexcept nogil:
    """Writes a redacted URL as the inside of a JSON string. Without a key Redaction.url() must give the same."""
    cdef Scan scan
    cdef Cut cut
    cdef size_t shown = 0
    if all or not is_plain(text, size, query):
        begin_scan(&scan, text, size, kind, query)
        scan.all = all
        while next_cut(&scan, &cut):
            put_text(out, text + shown, cut.at - shown, True)
            if cut.marked:
                put(out, b"[REDACTED]")
            shown = cut.end
    put_text(out, text + shown, size - shown, True)


cdef inline void put_value(
        Buffer* out, const Field* field, const uint8_t* text, uint8_t kind, const Names* query) noexcept nogil:
    if kind == SHOWN:
        put_text(out, text + field.value.at, field.value.size, True)
    elif kind == SECRET:
        put(out, b"[REDACTED]")
    else:
        put_url(out, text + field.value.at, field.value.size, kind, query, False)


cdef void put_repeats(
        Buffer* out, const Field* fields, uint32_t count, const uint8_t* text, uint32_t first, uint8_t kind, bint array,
        const Names* query, uint64_t* done) noexcept nogil:
    """Writes the values of the later fields with the name of field `first`. Sets the bits of these fields in `done`."""
    cdef uint32_t k
    for k in range(first + 1, count):
        if done[0] >> k & 1 or not same(&fields[first], &fields[k], text):
            continue
        done[0] |= <uint64_t>1 << k
        if array:
            put(out, b'","')
        elif kind == SECRET:
            continue    # the joined value is one [REDACTED]
        elif is_named(&fields[first], text, b"cookie", 6):
            put(out, b"; ")
        else:
            put(out, b", ")
        put_value(out, &fields[k], text, kind, query)


cdef inline uint64_t survey(
        const Field* fields, uint32_t count, const uint8_t* text, const Names* listed, bint* repeats) noexcept nogil:
    """Returns a bit for each field whose name may be listed. Sets `repeats` if two fields may have the same name."""
    cdef uint64_t seen = 0      # name_bit() of the names so far
    cdef uint64_t odd = 0
    cdef uint64_t bit
    cdef uint32_t i
    repeats[0] = False
    for i in range(count):
        if fields[i].name.size == 0:
            continue
        bit = name_bit(text + fields[i].name.at, fields[i].name.size)
        if seen & bit:
            repeats[0] = True
        seen |= bit
        if listed.bits & bit:
            odd |= <uint64_t>1 << i
    return odd


cdef uint64_t hidden_fields(
        const Field* fields, uint32_t count, const uint8_t* text, const uint8_t* never) noexcept nogil:
    """A bit for each field that its sender, or another field of its name, declares a secret (RFC 7541 §6.2.3)."""
    cdef uint64_t hidden = 0
    cdef uint32_t i
    cdef uint32_t k
    for i in range(count):
        if not never[i] or is_exempt(text + fields[i].name.at, fields[i].name.size):
            continue
        for k in range(count):
            if same(&fields[i], &fields[k], text):
                hidden |= <uint64_t>1 << k
    return hidden


cdef void put_fields(
        Buffer* out, const Field* fields, uint32_t count, const uint8_t* text, const uint8_t* never,
        const Names* listed, const Names* query) noexcept nogil:
    """Writes at most FOLD_MAX fields as a JSON object. build_fields() and put_dict() together must give the same."""
    cdef uint64_t done = 0      # a bit for each field that was written with an earlier one of the same name
    cdef bint repeats = False
    cdef uint64_t odd = survey(fields, count, text, listed, &repeats)
    cdef uint64_t hidden = 0
    cdef uint32_t i
    cdef uint32_t size
    cdef uint8_t* to
    cdef uint8_t kind
    cdef bint array
    if never != NULL and listed.hides:
        hidden = hidden_fields(fields, count, text, never)
        odd |= hidden
    put(out, b"{")
    for i in range(count):
        if done >> i & 1:
            continue
        size = fields[i].name.size
        to = room(out, size + 6 * <size_t>fields[i].value.size + 8)
        if to == NULL:
            return
        if i:
            to[0] = 44
            to += 1
        to[0] = 34
        copy_lower(to + 1, text + fields[i].name.at, size)
        to += size + 1
        kind = SHOWN
        if odd >> i & 1:
            kind = SECRET if hidden >> i & 1 else kind_of(listed, text + fields[i].name.at, size)
        array = is_named(&fields[i], text, b"set-cookie", 10)
        if array:
            memcpy(to, b'":["', 4)
            to += 4
        else:
            memcpy(to, b'":"', 3)
            to += 3
        if kind == SHOWN:
            to = escape_text(to, text + fields[i].value.at, fields[i].value.size, True)
            out.size = <size_t>(to - out.data)
        else:
            out.size = <size_t>(to - out.data)
            put_value(out, &fields[i], text, kind, query)
        if repeats:
            put_repeats(out, fields, count, text, i, kind, array, query, &done)
        if array:
            put(out, b'"]')
        else:
            put(out, b'"')
    put(out, b"}")


# ---- the record ------------------------------------------------------------------------------------------------------

cdef void put_body(Buffer* out, const RecordView* view) noexcept nogil:
    """Writes `body`, as text if it is UTF-8 and else in base64, and `bodyEncoding`."""
    cdef int64_t text
    if view.form == BODY_NONE:
        return
    put(out, b',"body":"')
    if view.form == BODY_BASE64:
        write(out, view.body, view.body_size)
    elif view.form == BODY_TEXT:
        put_text(out, view.body, view.body_size, False)
        put(out, b'"')
        return
    else:
        text = measure_utf8(view.body, view.body_size)
        if text == <int64_t>view.body_size or (text >= 0 and view.cut):
            put_text(out, view.body, <size_t>text, False)
            put(out, b'"')
            return
        put_base64(out, view.body, view.body_size)
    put(out, b'","bodyEncoding":"base64"')


cdef inline void put_start(Buffer* out, const RecordView* view) noexcept nogil:
    """Writes the fields from `httpVersion` to `latencyMs`."""
    cdef const Message* message = view.message
    cdef const Exchange* exchange = view.exchange
    cdef uint32_t i
    if message.minor == 1:
        put(out, b',"httpVersion":"1.1"')
    elif message.minor == HTTP_2:
        put(out, b',"httpVersion":"2"')
    else:
        put(out, b',"httpVersion":"1.0"')
    if exchange.method.size:
        put(out, b',"method":')
        put_latin(out, exchange.text + exchange.method.at, exchange.method.size)
    if exchange.target.size:
        put(out, b',"path":"')
        if view.path.data == NULL:
            put_url(
                out, exchange.text + exchange.target.at, exchange.target.size, TARGET, view.query,
                exchange.path_secret and view.listed.hides)
        else:
            put_text(out, <const uint8_t*>view.path.data, <size_t>view.path.size, False)
        put(out, b'"')
    if message.kind == REQUEST:
        return
    if message.status:
        put(out, b',"statusCode":')
        put_number(out, message.status)
    if message.http2 == NULL:
        put(out, b',"reason":')
        put_latin(out, message.text + message.reason.at, message.reason.size)
    if exchange.informational_count:
        put(out, b',"informational":[')
        for i in range(exchange.informational_count):
            if i:
                put(out, b",")
            put_number(out, exchange.informational[i])
        put(out, b"]")
    if view.latency >= 0:
        put(out, b',"latencyMs":')
        put_milliseconds(out, <uint64_t>view.latency)


cdef void put_anomalies(Buffer* out, uint32_t anomalies) noexcept nogil:
    cdef uint32_t i = 0
    cdef bint first = True
    put(out, b',"anomalies":[')
    while anomalies:
        if anomalies & 1:
            if not first:
                put(out, b",")
            first = False
            put(out, anomaly_json[i])
        anomalies >>= 1
        i += 1
    put(out, b"]")


cdef inline void put_marks(Buffer* out, const Message* message) noexcept nogil:
    """Writes `incomplete`, `missingBytes`, `resynced` and `anomalies`."""
    if message.incomplete != WHOLE:
        put(out, b',"incomplete":')
        put(out, incomplete_json[message.incomplete])
        if message.missing > 0:
            put(out, b',"missingBytes":')
            put_number(out, <uint64_t>message.missing)
    if message.resynced:
        put(out, b',"resynced":true')
    if message.anomalies:
        put_anomalies(out, message.anomalies)


cdef void put_http2(Buffer* out, const Http2* http2, const Exchange* exchange) noexcept nogil:
    """Writes the fields from `streamId` to `pushed`."""
    cdef char name[RESET_SPACE]
    put(out, b',"streamId":')
    write(out, name, digits_text(http2.stream_id, 10, name))
    if http2.unknown:
        put(out, b',"headersUnknown":')
        write(out, name, digits_text(http2.unknown, 10, name))
    if exchange.route.size:
        put(out, b',"routeId":')
        put_latin(out, exchange.text + exchange.route.at, exchange.route.size)
    if http2.is_reset:
        put(out, b',"reset":"')
        write(out, name, reset_text(http2.reset, name))
        put(out, b'"')
    if http2.pushed:
        put(out, b',"pushed":true')


cdef inline void put_origin(Buffer* out, const RecordView* view, size_t stamp_at) noexcept nogil:
    """Writes the fields from `traceId` to the end. `stamp_at`: index of the text of `timestamp`, which is often
    `endTimestamp` too."""
    cdef const Message* message = view.message
    cdef const Exchange* exchange = view.exchange
    if exchange.traced:
        put(out, b',"traceId":')
        put_latin(out, exchange.trace, 32)
        put(out, b',"spanId":')
        put_latin(out, exchange.trace + 32, 16)
    if view.placement.size:
        put_span(out, &view.placement)
    put(out, b',"endTimestamp":"')
    if message.stamp_end == message.stamp:
        put_again(out, stamp_at, STAMP_SIZE)
    else:
        put_stamp(out, message.stamp_end)
    if view.duration >= 0:
        put(out, b'","durationMs":')
        put_milliseconds(out, <uint64_t>view.duration)
    else:
        put(out, b'"')
    if exchange.authority.size:
        put(out, b',"authority":"')
        write(out, exchange.text + exchange.authority.at, exchange.authority.size)
        put(out, b'"')
    if view.proxied.size:
        put_span(out, &view.proxied)
    if view.redacted > 0:
        put(out, b',"bodyRedacted":')
        put_number(out, <uint64_t>view.redacted)
    elif view.redacted == REDACTED_ALL:
        put(out, b',"bodyRedacted":"all"')
    if message.http2 != NULL:
        put_http2(out, message.http2, exchange)
    put(out, b"}")


cdef void put_record(Buffer* out, const RecordView* view) noexcept nogil:
    cdef const Message* message = view.message
    cdef size_t stamp_at
    put_span(out, &view.opening)
    if message.kind == REQUEST:
        put(out, b'request","timestamp":"')
    else:
        put(out, b'response","timestamp":"')
    stamp_at = out.size
    put_stamp(out, message.stamp)
    put(out, b'","headers":')
    if view.headers.data != NULL:
        put_span(out, &view.headers)
    else:
        put_fields(out, message.fields, message.count, message.text, message.never, view.listed, view.query)
    put(out, b',"connectionId":"')
    write(out, view.id, ID_DIGITS)
    put(out, b'","exchange":')
    put_number(out, view.exchange.number)
    put_start(out, view)
    put_body(out, view)
    put(out, b',"bodySize":')
    put_number(out, message.body_size)
    if view.truncated:
        put(out, b',"bodyTruncated":true')
    if view.shortened:
        put(out, b',"headersTruncated":true')
    if view.removed.size:
        put(out, b',"bodyDecoded":"')
        put_text(out, <const uint8_t*>view.removed.data, <size_t>view.removed.size, False)
        put(out, b'"')
    if message.trailers != NULL and message.trailers.count:
        put(out, b',"trailers":')
        if view.trailers.data != NULL:
            put_span(out, &view.trailers)
        else:
            put_fields(
                out, fields_of(message.trailers), message.trailers.count, text_of(message.trailers),
                message.trailers.never, view.listed, view.query)
    put_marks(out, message)
    put_origin(out, view, stamp_at)


cdef void fit(Buffer* out, size_t begun, size_t most) noexcept nogil:
    cdef size_t size = out.size - begun
    cdef uint8_t* to = room(out, size + SHORTEN_ROOM)
    if to == NULL or out.failed:
        return
    size = shorten(out.data + begun, size, most, to)
    if size:
        memmove(out.data + begun, to, size)
        out.size = begun + size
