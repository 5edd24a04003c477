# Emits the messages of a session, holds them back until they are proven, or drops them.

from sniffer_core.base.marks cimport INCOMPLETE_GAP_
from sniffer_core.message cimport Message
from sniffer_core.protocol cimport Context
from sniffer_core.protocols.http1.sides cimport Half, Http1, Responses


cdef inline void message_opened(Http1* http, Half* half) noexcept nogil:
    """Counts the open message that the half has from now on."""
    http.base.context.messages_open += 1
    half.opened = http.base.context.now


cdef inline void message_closed(Http1* http, Half* half) noexcept nogil:
    """The reverse of message_opened()."""
    http.base.context.messages_open -= 1
    if half.long_open:
        half.long_open = False
        http.base.context.messages_long -= 1


cdef inline void append(Responses* responses, Message* message) noexcept nogil:
    message.next = NULL
    if responses.head == NULL:
        responses.head = message
    else:
        responses.tail.next = message
    responses.tail = message
    responses.count += 1


cdef inline Message* pop(Responses* responses) noexcept nogil:
    """Removes and returns the first; NULL: there is none."""
    cdef Message* message = responses.head
    if message != NULL:
        responses.head = message.next
        responses.count -= 1
    return message


cdef inline void mark_body_unknown(Message* message) noexcept nogil:
    """Marks a message whose head is proven, but of whose body nothing is known."""
    message.incomplete = INCOMPLETE_GAP_
    message.missing = -1


cdef void emit_message(Context* context, Message* message) noexcept nogil
    # Counts an ended message, of any version of HTTP, and publishes it.
cdef void emit(Http1* http, Message* message) noexcept nogil
    # Counts an ended message and publishes it, so that the current call of FlowTable returns it.
cdef void discard(Http1* http, Message* message) noexcept nogil
    # Frees a message that will not be emitted, and releases its exchange.
cdef void emit_proven(Http1* http) noexcept nogil
    # Emits the ended requests of all exchanges that are not tentative any more.
cdef void drop_open(Http1* http, Half* half) noexcept nogil
    # Releases the exchange of the open message. Call it before the parser frees that message.
cdef void drop_tentative(Http1* http) noexcept nogil
    # Drops the tentative responses that are unpaired. Emits the others, with a body that is not known.
