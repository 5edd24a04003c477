# A message as a Python object.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from sniffer_core.base.memory cimport Pool
from sniffer_core.message cimport Exchange, Message
from sniffer_core.record.line cimport RecordView
from sniffer_core.record.bodies cimport Search, Value
from sniffer_core.record.plain cimport Style
from sniffer_core.record.redact cimport Names, Redaction
from sniffer_core.record.writer cimport Buffer, Span

cdef enum:
    RECORD_FIXED = 600      # estimated bytes of a record without the texts of its message

cdef class Rules:
    # What the records of a table have in common: what is redacted, decoded, carried and added.
    cdef Redaction redaction
    cdef tuple key_names        # the bytes objects that `keys` points into
    cdef Names keys             # keys of bodies whose values are redacted
    cdef object decode          # see Decode in core.pyi; or None
    cdef Py_ssize_t max_body    # bytes
    cdef bytes placement        # JSON, with a comma before it; or empty
    cdef tuple placed           # what a record that was read back says of its placement; or None
    cdef uint32_t carry_count
    cdef Style style            # points into this object
    cdef int _set_placement(self, placement) except -1

cdef class RawMessage:
    cdef Message* source        # owned
    cdef Exchange* exchanged    # owned: a copy, as the protocol still uses its own
    cdef Rules rules
    cdef readonly str connection_id
    cdef readonly tuple receiver
    cdef readonly tuple destination
    cdef bytes opening          # JSON up to the direction, shared by all messages of a connection
    cdef tuple behind           # (source, destination, their JSON) from a PROXY protocol header; or None
    cdef bytes json             # the record, if it was rendered and is kept; or None
    cdef uint8_t shape          # how the body is searched for secrets (bodies.Shape)
    cdef bint closed            # True: a content coding is left, so the body cannot be searched
    cdef bint coded             # True: the body has content codings that decode() has not tried to remove
    cdef bytes plain            # the body without the codings that could be removed; None: as sent
    cdef str removed            # the names of these codings; or None
    cdef bint full              # True: the decoded body is longer than max_body
    cdef bint broken            # True: a coding was broken, or ended early
    cdef tuple made             # the value of `content`, once it was read; or None
    cdef int64_t hidden         # values of the body that were redacted before it was read back; or REDACTED_ALL
    cdef bint bodiless          # True: it was read back without the body that it once had
    cdef bint shortened         # True: values of the head were cut before it was read back
    cdef public object message  # see core.pyi
    cdef str coding(self)
    cdef bint truncated(self)
    cdef bint cut(self)
    cdef bytes hide(self, const uint8_t* body, size_t size, int64_t* redacted)
    cdef bytes replace(self, const uint8_t* body, size_t size, int64_t* redacted, Search* search, Value* value)
    cdef tuple readable(self)
    cdef size_t text(self)
    cdef size_t body_text(self)
    cdef size_t foreseen(self)
    cdef size_t weigh(self)
    cdef int prepare(self, RecordView* view, list kept) except -1
    cdef int show_made(self, RecordView* view) except -1
    cdef bytes render(self)

cdef RawMessage build_message(Message* message, Pool* pool, Rules rules)
    # Makes the object, which owns the message from now on; the pool no longer counts it. MemoryError: no memory.

cdef void note_kind(RawMessage raw)
    # Sets what the head of its message says of the body: whether it is coded, and how it is searched.
