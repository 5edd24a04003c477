"""Emits the messages of a session, or drops them; see outgoing.pxd."""

from sniffer_core.base.counters cimport Counter
from sniffer_core.base.marks cimport WHOLE
from sniffer_core.message cimport REQUEST, RESPONSE, Message, exchange_release, message_free
from sniffer_core.protocol cimport Context, publish
from sniffer_core.protocols.http1.pairing cimport TENTATIVE, Entry, entry_of


cdef void emit_message(Context* context, Message* message) noexcept nogil:
    cdef int bit
    cdef int counter = <int>Counter.MESSAGES_REQUEST if message.kind == REQUEST else <int>Counter.MESSAGES_RESPONSE
    context.counters[counter] += 1
    if message.kind == RESPONSE and not message.exchange.known:
        context.counters[<int>Counter.RESPONSES_UNPAIRED] += 1
    if message.incomplete != WHOLE:
        context.counters[<int>Counter.INCOMPLETE_FIRST + message.incomplete - 1] += 1
    if message.resynced:
        context.counters[<int>Counter.MESSAGES_RESYNCED] += 1
    if message.anomalies:
        for bit in range(32):
            if message.anomalies >> bit & 1:
                context.counters[<int>Counter.ANOMALY_FIRST + bit] += 1
    publish(context, message)


cdef void emit(Http1* http, Message* message) noexcept nogil:
    emit_message(http.base.context, message)


cdef void discard(Http1* http, Message* message) noexcept nogil:
    if message.exchange != NULL:
        exchange_release(message.exchange, &http.base.context.pool)
    message_free(message, &http.base.context.pool)


cdef void emit_proven(Http1* http) noexcept nogil:
    cdef Entry* entry = http.exchanges.head
    http.exchanges.tentative = False
    while entry != NULL:
        if entry.proof == TENTATIVE:
            http.exchanges.tentative = True
        elif entry.waiting != NULL:
            emit(http, entry.waiting)
            entry.waiting = NULL
        entry = entry.next


cdef void drop_open(Http1* http, Half* half) noexcept nogil:
    cdef Message* message = half.parser.message
    if message == NULL or message.exchange == NULL:
        return
    exchange_release(message.exchange, &http.base.context.pool)
    message.exchange = NULL
    message_closed(http, half)


cdef void drop_tentative(Http1* http) noexcept nogil:
    cdef Message* message = pop(&http.tentative)
    while message != NULL:
        if entry_of(message).unpaired:
            http.base.context.counters[<int>Counter.MESSAGES_TENTATIVE_DROPPED] += 1
            discard(http, message)
        else:
            mark_body_unknown(message)
            emit(http, message)
        message = pop(&http.tentative)
