# Writes a message as a JSON object, with the fields in the order of docs/RECORD.md, and shortens it to fit a line.
#
# No function here uses a Python object. The caller sets up RecordViews with the GIL, and writes them without it.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from sniffer_core.base.ascii cimport ascii_same
from sniffer_core.message cimport Exchange, Field, Message
from sniffer_core.record.redact cimport Names
from sniffer_core.record.writer cimport Buffer, Span

cdef enum:
    FOLD_MAX = 64           # most fields that put_record() can join by name; more are joined in Python

cdef enum:
    REDACTED_ALL = -1
    RESETS = 14             # error codes of RST_STREAM that have a name
    RESET_SPACE = 20        # bytes that reset_text() writes at most

cdef enum BodyForm:         # what RecordView.body is
    BODY_NONE = 0           # nothing: the record has no body
    BODY_RAW = 1            # bytes: put_record() writes them as text if they are UTF-8, else in base64
    BODY_TEXT = 2           # UTF-8
    BODY_BASE64 = 3         # digits of base64

cdef struct RecordView:     # all that put_record() needs; it owns nothing of what it points to
    const Message* message
    const Exchange* exchange
    const Names* listed     # header fields whose values are redacted, as a whole or in part
    const Names* query      # URL parameters whose values are redacted
    const char* id          # connectionId
    int64_t latency         # µs, or -1
    int64_t duration        # µs, or -1
    Span opening            # JSON up to the direction
    Span placement          # JSON with a comma before it, or empty
    Span proxied            # the same
    Span path               # redacted, UTF-8, if marks have a key; empty: put_record() redacts the exchange's target
    Span headers            # redacted, JSON; empty: put_record() redacts those of the message
    Span trailers           # the same
    Span removed            # names of the content codings that were removed, UTF-8
    const uint8_t* body
    size_t body_size
    BodyForm form
    bint truncated          # the value of bodyTruncated
    bint shortened          # the value of headersTruncated
    int64_t redacted        # values of the body that are redacted; REDACTED_ALL: it is left out
    bint cut                # True: the body is not whole, so its last UTF-8 sequence may be cut


cdef inline bint is_named(const Field* field, const uint8_t* text, const char* name, uint32_t size) noexcept nogil:
    """Whether a field has this name in any case; `name` is in lower case."""
    return field.name.size == size and ascii_same(text + field.name.at, <const uint8_t*>name, size)


cdef uint32_t reset_text(uint32_t code, char* to) noexcept nogil
    # Writes the name of an error code of RST_STREAM, in hex if it has none; returns its size.
cdef void put_record(Buffer* out, const RecordView* view) noexcept nogil

cdef void fit(Buffer* out, size_t begun, size_t most) noexcept nogil
    # Shortens the record from `begun` to the end of the buffer, see shorten(). `most`: bytes it may have.
