# The record of a message, as far as it needs no Python object: what all that render a message share.

from libc.stdint cimport int64_t, uint8_t

from sniffer_core.message cimport Exchange, Message
from sniffer_core.record.bodies cimport Search, Value
from sniffer_core.record.line cimport RecordView
from sniffer_core.record.redact cimport Names
from sniffer_core.record.writer cimport Buffer, Span

cdef struct Style:          # the part of Rules that put_plain() needs
    const Names* listed
    const Names* query
    const Names* keys
    Span placement
    bint decodes            # True: content codings are removed

cdef int64_t latency_of(const Message* message, const Exchange* exchange) noexcept nogil
    # µs, or -1.

cdef int64_t duration_of(const Message* message, const Exchange* exchange) noexcept nogil
    # µs, or -1.

cdef size_t text_of_message(const Message* message, const Exchange* exchange) noexcept nogil
    # Bytes of the texts of a record, without its body.

cdef uint8_t note_body(const Message* message, const Names* keys, bint* coded) noexcept nogil
    # How the body is searched for secrets (bodies.Shape), by the head. Sets whether it has content codings.

cdef void put_plain(
    Buffer* out, Buffer* hidden, const Message* message, const Style* style, uint8_t shape, bint closed) noexcept nogil
    # Writes the record of a message that was not made an object, and a line end. Its connection is named, it has at
    # most FOLD_MAX fields and trailers, no coding has to be removed and marks have no key. `hidden` is for its body.
    # `closed`: the body has content codings.

cdef void show(
    RecordView* view, const Message* message, const Exchange* exchange, const Style* style) noexcept nogil
    # Sets up what does not need Python, with the body as it was sent.

cdef void begin_hiding(
    Search* search, const Message* message, uint8_t shape, const uint8_t* body, size_t size,
    const Names* keys) noexcept nogil
    # Begins to search a body, from the message of that Shape, for values that must not be shown.

cdef int64_t put_hidden(
    Buffer* out, const uint8_t* body, size_t size, Search* search, Value* value) noexcept nogil
    # Writes a body with `[REDACTED]` in place of `value` and all values behind it, and returns their number.
    # REDACTED_ALL: the search fails, so that the body must not be shown.
