"""Messages made of records that a sniffer wrote before. core.pyi documents the interface.

A record is put back into the structs that a parser makes, so that all that follows is the same code: redaction,
decoding and rendering. What the renderer writes without looking at it (names, addresses, ids) is checked here.
"""

import re
from binascii import a2b_base64
from hashlib import blake2b
from ipaddress import ip_address

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy

from sniffer_core.message cimport (
    CARRY_MAX, HTTP_2, INFORMATIONAL_MAX, REQUEST, RESPONSE, Exchange, Field, Fields, Http2, Message, Text, fields_of,
    text_of)
from sniffer_core.record.line cimport REDACTED_ALL, RESETS, RESET_SPACE, reset_text
from sniffer_core.record.naming cimport behind_of
from sniffer_core.record.raw cimport RawMessage, Rules, note_kind

from sniffer_core.base.marks import ANOMALIES, INCOMPLETE

cdef enum:
    RULES_MAX = 256         # placements whose rules are kept
    PLACED_MAX = 4096       # most characters of a placement
    MARK_MAX = 80           # most bytes of a mark with its quotes
    TEXT_MAX = 1 << 30      # most bytes of the texts of a head
    HTTP2_SPACE = 24        # bytes of an Http2, which the fields stand behind

cdef int64_t LAST_STAMP = ((<int64_t>1 << 32) - 1) * 1_000_000 + 999_999    # as for packets: 32 bits of seconds
cdef int64_t LONGEST = <int64_t>1 << 52                                     # µs

is_name = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+").fullmatch
is_id = re.compile(r"[0-9a-f]{32}").fullmatch
is_span = re.compile(r"[0-9a-f]{16}").fullmatch
is_authority = re.compile(r"(?:\[[0-9a-f:.]+\]|[a-z0-9._~-]+)(?::[0-9]{1,5})?").fullmatch
marks_joined = re.compile(r"\[REDACTED(?::[0-9a-f]{32}:[0-9]{1,20})?\], ").finditer
is_route = re.compile(r"[a-z0-9.-]{1,200}").fullmatch
is_reset_code = re.compile(r"0x[0-9a-f]{1,8}").fullmatch
is_address = re.compile(r"[0-9a-f:.]{2,45}").fullmatch
cdef dict INCOMPLETE_NUMBERS = {word: i + 1 for i, word in enumerate(INCOMPLETE)}
cdef dict ANOMALY_BITS = {word: 1 << i for i, word in enumerate(ANOMALIES)}


cdef dict reset_codes():
    """The error codes of RST_STREAM that have a name, by it."""
    cdef char name[RESET_SPACE]
    cdef uint32_t code
    cdef uint32_t size
    cdef dict codes = {}
    for code in range(RESETS):
        size = reset_text(code, name)
        codes[name[:size].decode("ascii")] = code
    return codes


cdef dict RESET_CODES = reset_codes()


cdef void refuse(str what) except *:
    raise ValueError(f"not a record: {what}")


cdef object within(object number, object least, object most, str what):
    """The number, if it is within these limits."""
    if not least <= number <= most:
        refuse(what)
    return number


cdef tuple end_of(object said):
    """An end as (address, port)."""
    cdef str ip = said.ip
    if is_address(ip) is None:
        refuse("an address is none")
    ip_address(ip)
    return ip, within(said.port, 0, 65535, "a port is none")


cdef bytes opening_of(tuple receiver, tuple destination):
    """The JSON up to the direction, as record.naming writes it."""
    return (
        f'{{"schema":1,"receiver":{{"ip":"{receiver[0]}","port":{receiver[1]}}},'
        f'"destination":{{"ip":"{destination[0]}","port":{destination[1]}}},"direction":"').encode("ascii")


cdef int64_t micros(object milliseconds, str what) except -2:
    """Milliseconds as µs; -1 if there are none."""
    if milliseconds is None:
        return -1
    return within(round(within(milliseconds, 0, LONGEST, what) * 1000), 0, LONGEST, what)


cdef list pairs_of(object fields):
    """Names and values of fields, as bytes. Several values of `set-cookie` are several fields."""
    cdef list pairs = []
    for name, values in fields.items():
        if is_name(name) is None or isinstance(values, str) == (name == "set-cookie"):
            refuse("a field")
        for value in parted(values) if isinstance(values, str) else values:
            pairs += ((<str>name).encode("ascii"), (<str>value).encode("latin-1"))
    return pairs


cdef list parted(str value):
    """The value, or where it was joined of several URLs, parts of it which give it again when they are joined.

    In a URL a redacted value goes to the end: of each part, and not of the whole.
    """
    cdef list parts = []
    cdef Py_ssize_t begin = 0
    if "[REDACTED" in value:
        for mark in marks_joined(value):
            parts.append(value[begin:mark.end() - 2])
            begin = mark.end()
    parts.append(value[begin:])
    return parts


cdef Text add(uint8_t* text, uint32_t* used, bytes what):
    """Puts a text behind those that `text` has."""
    cdef Text at
    at.at = used[0]
    at.size = <uint32_t>PyBytes_GET_SIZE(what)
    memcpy(text + used[0], PyBytes_AS_STRING(what), at.size)
    used[0] += at.size
    return at


cdef size_t size_of(list texts) except 0:
    """Bytes of these texts together, plus one."""
    cdef size_t size = 1
    for each in texts:
        size += <size_t>len(<bytes>each)
    within(size, 1, TEXT_MAX, "the head is too long")
    return size


cdef void put_pairs(Field* fields, uint8_t* text, uint32_t* used, list pairs):
    cdef Py_ssize_t i
    for i in range(len(pairs) // 2):
        fields[i].name = add(text, used, <bytes>pairs[2 * i])
        fields[i].value = add(text, used, <bytes>pairs[2 * i + 1])


cdef Fields* trailers_of(object said) except? NULL:
    """The trailers, or NULL."""
    cdef list pairs
    cdef Fields* made
    cdef size_t size
    cdef uint32_t used = 0
    if not said:
        return NULL
    pairs = pairs_of(said)
    size = sizeof(Fields) + (len(pairs) // 2) * sizeof(Field) + size_of(pairs)
    made = <Fields*>calloc(1, size)
    if made == NULL:
        raise MemoryError
    made.size = size
    made.count = <uint32_t>(len(pairs) // 2)
    put_pairs(fields_of(made), text_of(made), &used, pairs)
    return made


cdef int put_bytes(Message* message, bytes body) except -1:
    """Gives a message the kept bytes of its body."""
    cdef size_t size = <size_t>len(body)
    if size:
        message.body = <uint8_t*>calloc(1, size)
        if message.body == NULL:
            raise MemoryError
        memcpy(message.body, PyBytes_AS_STRING(body), size)
        message.body_kept = message.body_space = size
    return 0


@cython.final
cdef class Recorded:
    """See core.pyi."""
    cdef dict given             # the arguments of Rules
    cdef dict rules             # Rules by placement
    cdef tuple carry            # names of the fields that are carried
    cdef Py_ssize_t max_body

    def __cinit__(
            self, *, max_body=65536, tuple carry=(), redact_headers=(), redact_query=(), redact_body=(),
            bytes redact_key=None, placement=None, decode=None):
        if len(carry) > CARRY_MAX:
            raise ValueError(f"carry takes at most {CARRY_MAX} names")
        self.given = dict(
            redact_headers=tuple(redact_headers), redact_query=tuple(redact_query), redact_body=tuple(redact_body),
            redact_key=redact_key, placement=placement, decode=decode, max_body=max_body, carry_count=len(carry),
            again=True)
        self.rules = {}
        self.carry = carry
        self.max_body = max_body

    cdef Rules rules_of(self, object placement):
        """The rules of records with this placement, None being that of the arguments."""
        cdef tuple key = None
        if placement is not None:
            key = (placement.pod, placement.namespace, placement.node)
            within(sum([len(each) for each in key if each is not None]), 0, PLACED_MAX, "placement")
        rules = self.rules.get(key)
        if rules is None:
            if len(self.rules) >= RULES_MAX:
                self.rules.clear()
            given = self.given if key is None else {**self.given, "placement": key, "placed": key}
            rules = self.rules[key] = Rules(**given)
        return <Rules>rules

    def message(self, record, carried=None):
        """See core.pyi."""
        cdef RawMessage raw = RawMessage.__new__(RawMessage)
        raw.rules = self.rules_of(record.placement)
        raw.receiver = end_of(record.receiver)
        raw.destination = end_of(record.destination)
        raw.opening = opening_of(raw.receiver, raw.destination)
        raw.connection_id = record.connection_id
        if is_id(raw.connection_id) is None:
            refuse("connectionId")
        if record.proxied is not None:
            raw.behind = behind_of(end_of(record.proxied.source), end_of(record.proxied.destination))
        self.put_message(raw, record)
        self.put_marks(raw.source, record)
        self.put_exchange(raw, record, carried)
        raw.shortened = record.headers_truncated
        self.put_body(raw, record)
        return raw

    cdef int put_message(self, RawMessage raw, object record) except -1:
        """Makes the message, with its head and its trailers."""
        cdef bint request = record.direction == "request"
        cdef list pairs = pairs_of(record.headers)
        cdef bytes reason = b"" if request or record.reason is None else (<str>record.reason).encode("latin-1")
        cdef size_t count = <size_t>(len(pairs) // 2)
        cdef size_t texts = size_of([*pairs, reason])
        cdef bint http2 = record.http_version == "2"
        cdef size_t before = sizeof(Message) + (HTTP2_SPACE if http2 else 0)
        cdef size_t size = before + count * sizeof(Field) + texts
        cdef Message* message = <Message*>calloc(1, size)
        if message == NULL:
            raise MemoryError
        raw.source = message        # which frees it
        message.size = size
        message.count = <uint32_t>count
        message.fields = <Field*>(<uint8_t*>message + before)
        message.text = <uint8_t*>message.fields + count * sizeof(Field)
        put_pairs(message.fields, message.text, &message.text_size, pairs)
        message.kind = REQUEST if request else RESPONSE
        if http2:
            message.minor = HTTP_2
            message.http2 = <Http2*>(<uint8_t*>message + sizeof(Message))
            self.put_http2(message.http2, record)
        else:
            message.minor = 1 if record.http_version == "1.1" else 0
        message.latency = -1
        if not request:
            if record.status_code is not None:
                message.status = <uint16_t>within(record.status_code, 0, 999, "statusCode")
            elif not http2:
                refuse("a response without statusCode")
            message.reason = add(message.text, &message.text_size, reason)
            message.latency = micros(record.latency_ms, "latencyMs")
        message.stamp = within(record.timestamp_us, 0, LAST_STAMP, "timestamp")
        message.stamp_end = within(record.end_timestamp_us, 0, LAST_STAMP, "endTimestamp")
        message.body_size = <uint64_t>within(record.body_size, 0, 1 << 62, "bodySize")
        message.trailers = trailers_of(record.trailers)
        return 0

    cdef int put_http2(self, Http2* http2, object record) except -1:
        """Makes what only a message of HTTP/2 has."""
        if record.stream_id is None:
            refuse("HTTP/2 without streamId")
        http2.stream_id = <uint32_t>within(record.stream_id, 1, 0x7FFFFFFF, "streamId")
        http2.unknown = <uint32_t>within(record.headers_unknown or 0, 0, 0xFFFFFFFF, "headersUnknown")
        http2.pushed = record.pushed
        if record.reset is not None:
            if record.reset not in RESET_CODES and is_reset_code(record.reset) is None:
                refuse("reset")
            http2.is_reset = True
            named = RESET_CODES.get(record.reset)
            http2.reset = <uint32_t>(int(record.reset, 16) if named is None else named)
        return 0

    cdef int put_marks(self, Message* message, object record) except -1:
        message.missing = -1
        if record.incomplete is not None:
            if record.incomplete not in INCOMPLETE_NUMBERS:
                refuse("incomplete")
            message.incomplete = <uint8_t>INCOMPLETE_NUMBERS[record.incomplete]
            if record.missing_bytes is not None:
                message.missing = within(record.missing_bytes, 0, 1 << 62, "missingBytes")
        message.resynced = record.resynced
        for word in record.anomalies or ():     # a later version may write more of them: those are not shown
            message.anomalies |= <uint32_t>ANOMALY_BITS.get(word, 0)
        return 0

    cdef int put_exchange(self, RawMessage raw, object record, object carried) except -1:
        """Makes what the message shows of its exchange."""
        cdef Message* message = raw.source
        cdef bytes method = b"" if record.method is None else (<str>record.method).encode("latin-1")
        cdef bytes target = b"" if record.path is None else (<str>record.path).encode("latin-1")
        cdef bytes route = b"" if record.route_id is None else (<str>record.route_id).encode("latin-1")
        cdef bint known = bool(method or target or route)
        cdef bytes authority = b"" if record.authority is None else (<str>record.authority).encode("latin-1")
        cdef list shown = [None if value is None else (<str>value).encode("latin-1") for value in carried or ()]
        cdef Exchange* exchange
        cdef size_t texts
        cdef int64_t duration
        cdef uint32_t used = 0
        cdef uint32_t i
        if message.http2 == NULL:
            if bool(method) != bool(target) or route or (message.kind == REQUEST and not known):
                refuse("method and path")
        elif route and is_route(record.route_id) is None:
            refuse("routeId")
        known = known or message.kind == REQUEST
        if record.authority is not None and is_authority(record.authority) is None:
            refuse("authority")
        texts = size_of([method, target, authority, route, *[value for value in shown if value is not None]])
        exchange = <Exchange*>calloc(1, sizeof(Exchange) + texts)
        if exchange == NULL:
            raise MemoryError
        raw.exchanged = exchange        # which frees it
        exchange.size = sizeof(Exchange) + texts
        exchange.text_size = texts
        exchange.text = <uint8_t*>exchange + sizeof(Exchange)
        exchange.number = <uint32_t>within(record.exchange, 0, 0xFFFFFFFF, "exchange")
        exchange.known = known
        exchange.method = add(exchange.text, &used, method)
        exchange.target = add(exchange.text, &used, target)
        exchange.authority = add(exchange.text, &used, authority)
        exchange.route = add(exchange.text, &used, route)
        for i in range(<uint32_t>min(len(shown), len(self.carry))):
            if shown[i] is not None:
                exchange.carried[i] = add(exchange.text, &used, <bytes>shown[i])
                exchange.carried_present |= <uint8_t>(1 << i)
        duration = micros(record.duration_ms, "durationMs")
        exchange.stamp = message.stamp_end - duration if duration >= 0 else message.stamp
        message.end_lost = duration < 0
        if record.trace_id is not None:
            self.put_trace(exchange, record.trace_id, record.span_id)
        if message.kind == RESPONSE:
            for status in record.informational or ():
                if exchange.informational_count == INFORMATIONAL_MAX:
                    refuse("informational")
                exchange.informational[exchange.informational_count] = <uint16_t>within(
                    status, 0, 999, "informational")
                exchange.informational_count += 1
        return 0

    cdef int put_trace(self, Exchange* exchange, str trace, str span) except -1:
        cdef bytes digits
        if is_id(trace) is None or span is None or is_span(span) is None:
            refuse("traceId and spanId")
        digits = (trace + span).encode("ascii")
        memcpy(exchange.trace, PyBytes_AS_STRING(digits), 48)
        exchange.traced = True
        return 0

    cdef int put_body(self, RawMessage raw, object record) except -1:
        """Gives a message its body, cut to `max_body`. Marks, which may be longer than what they hide, do not count."""
        cdef Message* message = raw.source
        cdef bytes body
        cdef Py_ssize_t room = self.max_body
        message.truncated = record.body_truncated
        if record.body_redacted == "all":
            raw.hidden = REDACTED_ALL
        elif record.body_redacted is not None and self.max_body:
            raw.hidden = within(record.body_redacted, 1, 1 << 40, "bodyRedacted")
        if record.body is None or self.max_body == 0:
            message.truncated = message.truncated or record.body is not None
            raw.bodiless = True
            raw.removed = record.body_decoded if self.max_body else None
            raw.plain = None if raw.removed is None else b""
            return 0
        body = (<str>record.body).encode() if record.body_encoding is None else a2b_base64(
            record.body, strict_mode=True)
        if raw.hidden > 0:
            room += <Py_ssize_t>min(len(body), raw.hidden * MARK_MAX)
        if len(body) > room:
            body = body[:room]
            message.truncated = True
        if record.body_decoded is None:
            if not body and (message.truncated or message.incomplete):
                # What was kept was the beginning of one character, which is shown as an empty text: it is again.
                body = b"\xc3"
            put_bytes(message, body)
            if body:
                note_kind(raw)
            return 0
        note_kind(raw)
        if raw.coded or raw.closed:
            codings = [name.strip().lower().removeprefix("x-") for name in raw.coding().split(",")]
            raw.closed = ", ".join([name for name in codings if name not in ("identity", "")]) != record.body_decoded
        raw.coded = False
        raw.plain = body
        raw.removed = record.body_decoded
        return 0


def connection_hash(receiver, destination):
    """See core.pyi."""
    ends = sorted((ip_address(ip).packed, port) for ip, port in (receiver, destination))
    packed = b"".join([address + port.to_bytes(2, "big") for address, port in ends])
    return int.from_bytes(blake2b(packed).digest()[:8], "big") / 2.0 ** 64
