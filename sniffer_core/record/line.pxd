# One message as one JSON object: the fields in the order of docs/RECORD.md, and the object shortened to fit a line.
#
# Nothing here touches a Python object. Who renders a message sets up a RecordView first, with the GIL, and then writes
# any number of them without it.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from sniffer_core.base.ascii cimport ascii_same
from sniffer_core.message cimport Exchange, Field, Message
from sniffer_core.record.redact cimport Names
from sniffer_core.record.writer cimport Buffer, Span

cdef enum:
    FOLD_MAX = 64           # fields that put_record() joins by name; a message with more has them joined in Python

cdef enum BodyForm:
    BODY_NONE = 0           # there is none to show
    BODY_RAW = 1            # bytes: put_record() finds out whether they are text
    BODY_TEXT = 2           # UTF-8
    BODY_BASE64 = 3

cdef struct RecordView:     # a message about to be written; it owns nothing of what it points to
    const Message* message
    const Exchange* exchange
    const Names* listed     # header fields that must not be shown, or not in full
    const Names* query      # parameters of URLs that must not be shown
    const char* id          # connectionId
    int64_t latency         # µs, or -1
    int64_t duration        # µs, or -1
    Span opening            # JSON up to the direction
    Span placement          # JSON with a comma before it, or empty
    Span proxied            # the same
    Span path               # UTF-8, where marks have a key; else put_record() writes it from the exchange
    Span headers            # JSON, where put_record() cannot write them
    Span trailers           # the same
    Span removed            # the content codings that were removed, UTF-8
    const uint8_t* body
    size_t body_size
    BodyForm form
    bint truncated          # bodyTruncated
    bint cut                # the body ends before its end: its last UTF-8 sequence may be cut


cdef inline bint is_named(const Field* field, const uint8_t* text, const char* name, uint32_t size) noexcept nogil:
    """Whether a field has this name, which is in lower case."""
    return field.name.size == size and ascii_same(text + field.name.at, <const uint8_t*>name, size)


cdef void put_record(Buffer* out, const RecordView* view) noexcept nogil

cdef void fit(Buffer* out, size_t begun, size_t most) noexcept nogil
    # Shortens the record that begins at `begun` and ends the buffer to `most` bytes.
