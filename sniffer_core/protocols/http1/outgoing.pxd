# Messages on their way out of a session: emitted, held back until they are proven, or dropped.

from sniffer_core.message cimport INCOMPLETE_GAP_, Message
from sniffer_core.protocols.http1.sides cimport Half, Http1, Responses


cdef inline void message_opened(Http1* http, Half* half) noexcept nogil:
    """The half has an open message from now on."""
    http.base.context.messages_open += 1
    half.opened = http.base.context.now


cdef inline void message_closed(Http1* http, Half* half) noexcept nogil:
    """The half's open message is one no more."""
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
    """Takes the first out; NULL: there is none."""
    cdef Message* message = responses.head
    if message != NULL:
        responses.head = message.next
        responses.count -= 1
    return message


cdef inline void mark_body_unknown(Message* message) noexcept nogil:
    """The head is proven; that no body belongs to it is not."""
    message.incomplete = INCOMPLETE_GAP_
    message.missing = -1


cdef void emit(Http1* http, Message* message) noexcept nogil
    # A message has ended: it joins those that the present call returns.
cdef void discard(Http1* http, Message* message) noexcept nogil
    # Frees a message that will not be emitted.
cdef void emit_proven(Http1* http) noexcept nogil
    # Emits the requests that have ended and are proven by now.
cdef void drop_open(Http1* http, Half* half) noexcept nogil
    # Before the parser frees its open message: lets go of its entry.
cdef void drop_tentative(Http1* http) noexcept nogil
    # The tentative responses are none: those that were found where one had to be are emitted without a sure body.
