"""The fields of one block; see fields.pxd. Section numbers are those of RFC 9113."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from sniffer_core.base.ascii cimport ascii_same
from sniffer_core.base.marks cimport BIT_BAD_FIELD, BIT_CONNECTION_FIELD, BIT_PSEUDO_HEADER
from sniffer_core.base.memory cimport Pool, pool_give, pool_take
from sniffer_core.connection cimport Conn
from sniffer_core.message cimport CARRY_MAX, HTTP_2, Exchange, Field, Fields, Message, Text, fields_of, text_of
from sniffer_core.protocol cimport Carry
from sniffer_core.protocols.authority cimport AUTHORITY_MAX, find_in_target, write_authority
from sniffer_core.protocols.http1.pairing cimport read_traceparent
from sniffer_core.protocols.http2.hpack cimport HpackField

cdef enum:
    NUMBER_MAX = 20             # digits of a number
    LENGTH_DIGITS = 18          # most digits of a Content-Length that is believed

cdef uint8_t name_byte[256]     # 1: a byte of a field's name (section 8.2.1): a token without letters in upper case


cdef void fill_table():
    cdef int c
    for c in b"abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~":
        name_byte[c] = 1


fill_table()


cdef void collect_init(Collected* collected, Pool* pool) noexcept nogil:
    memset(collected, 0, sizeof(Collected) - sizeof(collected.fields_near) - sizeof(collected.never_near) -
           sizeof(collected.text_near))
    collected.pool = pool
    collected.fields = collected.fields_near
    collected.never = collected.never_near
    collected.text = collected.text_near
    collected.space = FIELDS_NEAR
    collected.text_space = TEXT_NEAR
    collected.length = -1


cdef void collect_free(Collected* collected) noexcept nogil:
    if collected.fields != collected.fields_near:
        pool_give(collected.pool, collected.fields, collected.space * (sizeof(Field) + 1))
    if collected.text != collected.text_near:
        pool_give(collected.pool, collected.text, collected.text_space)


cdef bint make_field(Collected* collected) noexcept nogil:
    """Makes room for one field more. False: there is no memory."""
    cdef uint32_t space = 4 * collected.space
    cdef Field* fields
    if collected.count < collected.space:
        return True
    fields = <Field*>pool_take(collected.pool, space * (sizeof(Field) + 1))
    if fields == NULL:
        return False
    memcpy(fields, collected.fields, collected.count * sizeof(Field))
    memcpy(<uint8_t*>(fields + space), collected.never, collected.count)
    if collected.fields != collected.fields_near:
        pool_give(collected.pool, collected.fields, collected.space * (sizeof(Field) + 1))
    collected.fields = fields
    collected.never = <uint8_t*>(fields + space)
    collected.space = space
    return True


cdef bint make_text(Collected* collected, uint32_t size) noexcept nogil:
    """Makes room for `size` bytes of text more. False: there is no memory."""
    cdef uint32_t space = max(4 * collected.text_space, collected.size + size)
    cdef uint8_t* text
    if collected.size + size <= collected.text_space:
        return True
    text = <uint8_t*>pool_take(collected.pool, space)
    if text == NULL:
        return False
    memcpy(text, collected.text, collected.size)
    if collected.text != collected.text_near:
        pool_give(collected.pool, collected.text, collected.text_space)
    collected.text = text
    collected.text_space = space
    return True


cdef inline Text put(Collected* collected, const uint8_t* from_, uint32_t size) noexcept nogil:
    cdef Text text
    text.at = collected.size
    text.size = size
    if size:
        memcpy(collected.text + collected.size, from_, size)
    collected.size += size
    return text


# ---- one field -------------------------------------------------------------------------------------------------------

cdef bint is_valid(const HpackField* field) noexcept nogil:
    """Section 8.2.1: a name is a token in lower case; a value has neither NUL, CR nor LF."""
    cdef uint32_t i
    cdef uint8_t c
    if field.name_size == 0:
        return False
    for i in range(field.name_size):
        if not name_byte[field.name[i]]:
            return False
    for i in range(field.value_size):
        c = field.value[i]
        if c == 0 or c == 10 or c == 13:
            return False
    return True


cdef bint is_of_connection(const HpackField* field) noexcept nogil:
    """Section 8.2.2: fields that belong to a connection; `te` may only say `trailers`."""
    cdef const uint8_t* name = field.name
    cdef uint32_t size = field.name_size
    if size == 2:
        return memcmp(name, b"te", 2) == 0 and not (field.value_size == 8 and memcmp(field.value, b"trailers", 8) == 0)
    return (size == 10 and (memcmp(name, b"connection", 10) == 0 or memcmp(name, b"keep-alive", 10) == 0)) or \
        (size == 16 and memcmp(name, b"proxy-connection", 16) == 0) or \
        (size == 17 and memcmp(name, b"transfer-encoding", 17) == 0) or \
        (size == 7 and memcmp(name, b"upgrade", 7) == 0)


cdef int64_t read_length(const uint8_t* text, uint32_t size) noexcept nogil:
    cdef int64_t length = 0
    cdef uint32_t i
    if size == 0 or size > LENGTH_DIGITS:
        return -1
    for i in range(size):
        if not 48 <= text[i] <= 57:
            return -1
        length = 10 * length + text[i] - 48
    return length


cdef void note_unknown(Collected* collected, int64_t number) noexcept nogil:
    """Counts a field that is not known. One of the first fields of a request may be its path."""
    collected.unknown += 1
    if not collected.regular and collected.place <= ROUTE_MAX and number and collected.routes < ROUTE_MAX:
        collected.route[collected.routes] = number
        collected.routes += 1


cdef uint8_t pseudo_of(const HpackField* field) noexcept nogil:
    """The Pseudo bit of a name that begins with a colon; 0: it has none."""
    cdef const uint8_t* name = field.name
    if field.name_size == 7:
        if memcmp(name, b":method", 7) == 0:
            return PSEUDO_METHOD
        if memcmp(name, b":status", 7) == 0:
            return PSEUDO_STATUS
        return PSEUDO_SCHEME if memcmp(name, b":scheme", 7) == 0 else 0
    if field.name_size == 5:
        return PSEUDO_PATH if memcmp(name, b":path", 5) == 0 else 0
    if field.name_size == 10:
        return PSEUDO_AUTHORITY if memcmp(name, b":authority", 10) == 0 else 0
    return PSEUDO_PROTOCOL if field.name_size == 9 and memcmp(name, b":protocol", 9) == 0 else 0


cdef void collect_pseudo(Collected* collected, const HpackField* field) noexcept nogil:
    cdef uint8_t pseudo = pseudo_of(field)
    if pseudo == 0 or collected.regular or collected.pseudo & pseudo:
        collected.anomalies |= BIT_PSEUDO_HEADER
        if collected.pseudo & pseudo:
            collected.repeated = True
        return
    collected.pseudo |= pseudo
    if field.value == NULL:
        note_unknown(collected, field.unknown_value if pseudo == PSEUDO_PATH else 0)
        return
    if not make_text(collected, field.value_size):
        collected.starved = True
        return
    if pseudo == PSEUDO_METHOD:
        collected.method = put(collected, field.value, field.value_size)
    elif pseudo == PSEUDO_PATH:
        collected.path = put(collected, field.value, field.value_size)
        collected.path_secret = field.never_indexed
    elif pseudo == PSEUDO_AUTHORITY:
        collected.authority = put(collected, field.value, field.value_size)
    elif pseudo == PSEUDO_STATUS and field.value_size == 3 and 49 <= field.value[0] <= 57:
        collected.status = <uint16_t>max(<int64_t>0, read_length(field.value, 3))


cdef void collect(void* user, const HpackField* field) noexcept nogil:
    cdef Collected* collected = <Collected*>user
    cdef Field* kept
    collected.place += 1
    if field.name == NULL:
        if collected.place == 1:
            collected.veiled = True
        note_unknown(collected, field.unknown_name)
        return
    if field.name_size and field.name[0] == 58:
        collect_pseudo(collected, field)
        return
    collected.regular = True
    if field.value == NULL:
        note_unknown(collected, 0)
        return
    if not is_valid(field):
        collected.anomalies |= BIT_BAD_FIELD
        return
    if is_of_connection(field):
        collected.anomalies |= BIT_CONNECTION_FIELD
    if field.name_size == 14 and memcmp(field.name, b"content-length", 14) == 0:
        collected.length = read_length(field.value, field.value_size)
    if not make_field(collected) or not make_text(collected, field.name_size + field.value_size):
        collected.starved = True
        return
    kept = &collected.fields[collected.count]
    kept.name = put(collected, field.name, field.name_size)
    kept.value = put(collected, field.value, field.value_size)
    collected.never[collected.count] = 1 if field.never_indexed else 0
    if field.never_indexed:
        collected.hidden = True
    collected.count += 1


# ---- a block ---------------------------------------------------------------------------------------------------------

cdef bint may_be_head(const Collected* collected, bint end_stream) noexcept nogil:
    return collected.pseudo != 0 or (collected.veiled and not end_stream)


cdef void check_request(Collected* collected) noexcept nogil:
    cdef uint8_t needed = PSEUDO_METHOD | PSEUDO_PATH | PSEUDO_SCHEME
    if collected.method.size == 7 and memcmp(collected.text + collected.method.at, b"CONNECT", 7) == 0 and \
            not collected.pseudo & PSEUDO_PROTOCOL:
        needed = PSEUDO_METHOD | PSEUDO_AUTHORITY       # section 8.5
    if collected.pseudo & PSEUDO_STATUS or (collected.pseudo & needed != needed and collected.unknown == 0):
        collected.anomalies |= BIT_PSEUDO_HEADER


cdef void check_response(Collected* collected) noexcept nogil:
    if collected.pseudo & ~PSEUDO_STATUS or (collected.status == 0 and collected.unknown == 0):
        collected.anomalies |= BIT_PSEUDO_HEADER


cdef void check_trailers(Collected* collected) noexcept nogil:
    if collected.pseudo:
        collected.anomalies |= BIT_PSEUDO_HEADER


cdef Message* collect_message(const Collected* collected, uint8_t kind) noexcept nogil:
    cdef size_t flags = collected.count if collected.hidden else 0
    cdef size_t size = sizeof(Http2Message) + collected.count * sizeof(Field) + flags + collected.size
    cdef Message* message = <Message*>pool_take(collected.pool, size)
    cdef Http2Message* http2 = as_http2(message)
    cdef uint8_t* at
    if message == NULL:
        return NULL
    memset(message, 0, sizeof(Http2Message))
    message.size = size
    message.kind = kind
    message.minor = HTTP_2
    message.count = collected.count
    message.fields = <Field*>(http2 + 1)
    at = <uint8_t*>(message.fields + collected.count)
    if flags:
        memcpy(at, collected.never, flags)
        message.never = at
    message.text = at + flags
    message.text_size = collected.size
    memcpy(message.fields, collected.fields, collected.count * sizeof(Field))
    memcpy(message.text, collected.text, collected.size)
    message.status = collected.status
    message.method = collected.method
    message.target = collected.path
    message.anomalies = collected.anomalies
    message.latency = -1
    message.http2 = &http2.facts
    http2.facts.unknown = collected.unknown
    http2.length = collected.length
    return message


cdef Fields* collect_trailers(const Collected* collected) noexcept nogil:
    cdef size_t flags = collected.count if collected.hidden else 0
    cdef size_t size = sizeof(Fields) + collected.count * sizeof(Field) + collected.size + flags
    cdef Fields* trailers = <Fields*>pool_take(collected.pool, size)
    if trailers == NULL:
        return NULL
    trailers.size = size
    trailers.count = collected.count
    trailers.never = NULL
    memcpy(fields_of(trailers), collected.fields, collected.count * sizeof(Field))
    memcpy(text_of(trailers), collected.text, collected.size)
    if flags:
        memcpy(text_of(trailers) + collected.size, collected.never, flags)
        trailers.never = text_of(trailers) + collected.size
    return trailers


# ---- the exchange of a request ---------------------------------------------------------------------------------------

cdef uint32_t write_number(uint8_t* to, uint64_t number) noexcept nogil:
    cdef uint8_t digits[NUMBER_MAX]
    cdef uint32_t size = 0
    cdef uint32_t i
    while size == 0 or number:
        digits[size] = <uint8_t>(48 + number % 10)
        number //= 10
        size += 1
    for i in range(size):
        to[i] = digits[size - 1 - i]
    return size


cdef uint32_t write_route(const Collected* collected, uint8_t* to) noexcept nogil:
    """Writes `u7`, or `u7-9` for several entries. Entries from before a loss have its number: `u1.7`."""
    cdef uint32_t size = 1
    cdef uint32_t i
    to[0] = 117
    for i in range(collected.routes):
        if i:
            to[size] = 45
            size += 1
        if collected.route[i] >> 32:
            size += write_number(to + size, <uint64_t>collected.route[i] >> 32)
            to[size] = 46
            size += 1
        size += write_number(to + size, <uint32_t>collected.route[i])
    return size


cdef Text copy(Exchange* exchange, uint32_t* at, const uint8_t* text, Text slice) noexcept nogil:
    cdef Text copied
    copied.at = at[0]
    copied.size = slice.size
    if slice.size:
        memcpy(exchange.text + at[0], text + slice.at, slice.size)
    at[0] += slice.size
    return copied


cdef void find_fields(
        const Message* message, const Carry* carry, const Field** carried, const Field** trace,
        const Field** host) noexcept nogil:
    """Finds the fields that an exchange needs. `traceparent` and `host` that come twice are not valid."""
    cdef const Field* field
    cdef uint32_t i, k
    cdef uint32_t traces = 0, hosts = 0
    for k in range(CARRY_MAX):
        carried[k] = NULL
    trace[0] = host[0] = NULL
    for i in range(message.count):
        field = &message.fields[i]
        for k in range(carry.count):
            if field.name.size == carry.size[k] and carried[k] == NULL and \
                    ascii_same(message.text + field.name.at, carry.name[k], carry.size[k]):
                carried[k] = field
        if field.name.size == 4 and memcmp(message.text + field.name.at, b"host", 4) == 0:
            hosts += 1
            host[0] = field if hosts == 1 else NULL
        elif field.name.size == 11 and memcmp(message.text + field.name.at, b"traceparent", 11) == 0:
            traces += 1
            trace[0] = field if traces == 1 else NULL


cdef Exchange* collect_exchange(
        const Collected* collected, const Message* message, Conn* conn, const Carry* carry) noexcept nogil:
    cdef const Field* carried[CARRY_MAX]
    cdef const Field* trace
    cdef const Field* host
    cdef const uint8_t* asked = NULL
    cdef uint8_t route[ROUTE_MAX * (2 * NUMBER_MAX + 2)]
    cdef Text target = collected.path
    cdef Text named
    cdef uint32_t asked_size = 0
    cdef uint32_t at = 0
    cdef uint32_t k
    cdef size_t size
    cdef Exchange* exchange
    find_fields(message, carry, carried, &trace, &host)
    named.at = 0
    named.size = 0
    if target.size == 0 and not collected.pseudo & PSEUDO_PATH and collected.routes == 0:
        target = collected.authority        # CONNECT: in HTTP/1 this is its target
    elif target.size == 0 and collected.routes:
        named.size = write_route(collected, route)
    if carry.no_host:
        pass
    elif collected.authority.size:
        asked = message.text + collected.authority.at
        asked_size = collected.authority.size
        find_in_target(asked, asked_size, True, &asked, &asked_size)
    elif host != NULL and (message.never == NULL or not message.never[host - message.fields]):
        asked = message.text + host.value.at
        asked_size = host.value.size
    if asked_size > AUTHORITY_MAX:
        asked_size = 0
    size = sizeof(Exchange) + collected.method.size + target.size + named.size + asked_size
    for k in range(CARRY_MAX):
        size += carried[k].value.size if carried[k] != NULL else 0
    exchange = <Exchange*>pool_take(collected.pool, size)
    if exchange == NULL:
        return NULL
    memset(exchange, 0, sizeof(Exchange))
    exchange.conn = conn
    conn.references += 1
    exchange.size = size
    exchange.text_size = size - sizeof(Exchange)
    exchange.text = <uint8_t*>(exchange + 1)
    exchange.references = 1
    exchange.known = True
    exchange.stamp = message.stamp
    exchange.path_secret = collected.path_secret
    exchange.method = copy(exchange, &at, message.text, collected.method)
    exchange.target = copy(exchange, &at, message.text, target)
    exchange.route = copy(exchange, &at, route, named)
    for k in range(CARRY_MAX):
        if carried[k] != NULL:
            exchange.carried[k] = copy(exchange, &at, message.text, carried[k].value)
            exchange.carried_present |= <uint8_t>(1 << k)
    exchange.authority.at = at
    exchange.authority.size = write_authority(asked, asked_size, exchange.text + at)
    if trace != NULL:
        read_traceparent(exchange, message.text + trace.value.at, trace.value.size)
    return exchange
