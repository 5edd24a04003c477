"""Many messages at once, as lines. core.pyi documents the interface.

Writer renders messages where they end, on the thread that captures, without an object for each. Messages that need
Python stand between the lines as RawMessages. Lines renders these, or any batch of records, on the thread that writes.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from sniffer_core.base.memory cimport Pool
from sniffer_core.message cimport Message, exchange_release, message_free
from sniffer_core.record.line cimport FOLD_MAX, RecordView, fit, put_record
from sniffer_core.record.naming cimport name_conn, name_proxied
from sniffer_core.record.plain cimport latency_of, note_body, put_plain, text_of_message
from sniffer_core.record.raw cimport RECORD_FIXED, RawMessage, Rules, build_message
from sniffer_core.record.writer cimport Buffer, Span, begin, put, put_span, written

cdef extern from "Python.h":
    char* PyBytes_AS_STRING(bytes text)
    Py_ssize_t PyBytes_GET_SIZE(bytes text)
    bytes PyBytes_FromStringAndSize(const char* text, Py_ssize_t size)

cdef enum:                  # bits of Writer.kinds; the others hold the Shape
    CLOSED = 1 << 6         # the body has content codings, which stay
    OBJECT = 1 << 7         # the message becomes an object

cdef enum:
    ONE_OF = 16             # a message whose line may take more than one part in so many of a block becomes an object


# ---- blocks ----------------------------------------------------------------------------------------------------------

@cython.final
cdef class OneLine:
    """A line as a record: for what looks at the messages of a block one by one."""

    cdef bytes json
    cdef readonly Py_ssize_t weight

    def to_json(self):
        """The record, without the line end."""
        return self.json

    def decode(self):
        """See RawMessage: there is nothing to decode."""
        return None


cdef LineBlock new_block(Py_ssize_t count, size_t size):
    """A block of so many messages, for so many bytes of lines."""
    cdef LineBlock block = LineBlock.__new__(LineBlock)
    block.lines = <Line*>calloc(count + 1, sizeof(Line))
    if block.lines == NULL:
        raise MemoryError
    if size:
        block.text = <uint8_t*>malloc(size)
        if block.text == NULL:
            raise MemoryError
    block.count = count
    return block


@cython.final
cdef class LineBlock:
    """See core.pyi."""

    def __init__(self):
        raise TypeError("a LineBlock is made by a FlowTable alone")

    def __dealloc__(self):
        free(self.lines)
        free(self.text)

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.text, <Py_ssize_t>start_of(self, self.count), True, flags)

    def __len__(self):
        return self.count

    def __getitem__(self, at):
        cdef OneLine line
        cdef Py_ssize_t first
        cdef Py_ssize_t end
        cdef Py_ssize_t step
        cdef Py_ssize_t i
        cdef size_t begun
        if isinstance(at, slice):
            first, end, step = at.indices(self.count)
            if step != 1:
                raise ValueError("a block has no steps")
            return self if first == 0 and end == self.count else part_of(self, first, max(first, end))
        i = at
        if not -self.count <= i < self.count:
            raise IndexError("block index out of range")
        i = i % self.count if i < 0 else i
        if self.objects is not None and self.objects[i] is not None:
            return self.objects[i]
        begun = start_of(self, i)
        line = OneLine.__new__(OneLine)
        line.json = PyBytes_FromStringAndSize(<char*>self.text + begun, <Py_ssize_t>(self.lines[i].end - begun) - 1)
        line.weight = weight_of(self, i)
        return line

    def __add__(self, LineBlock behind):
        return joined(self, behind)


cdef inline size_t start_of(LineBlock block, Py_ssize_t at):
    return block.lines[at - 1].end if at else 0


cdef inline Py_ssize_t weight_of(LineBlock block, Py_ssize_t at):
    if block.objects is not None and block.objects[at] is not None:
        return <Py_ssize_t>(<RawMessage>block.objects[at]).weigh()
    return <Py_ssize_t>(block.lines[at].end - start_of(block, at) + sizeof(Line))


cdef Py_ssize_t lines_in(LineBlock block, Py_ssize_t first, size_t size):
    """The number of lines, from number `first` on, until they have `size` bytes; fewer if there are no more."""
    cdef size_t least = start_of(block, first) + size
    cdef Py_ssize_t low = first
    cdef Py_ssize_t high = block.count
    cdef Py_ssize_t middle
    while low < high:
        middle = (low + high) // 2
        if block.lines[middle].end < least:
            low = middle + 1
        else:
            high = middle
    return min(low + 1, block.count) - first


cdef LineBlock part_of(LineBlock block, Py_ssize_t first, Py_ssize_t end):
    """A copy of a part, so that no part keeps more memory than it weighs."""
    cdef size_t begun = start_of(block, first)
    cdef size_t size = start_of(block, end) - begun
    cdef LineBlock part = new_block(end - first, size)
    cdef Py_ssize_t i
    for i in range(end - first):
        part.lines[i] = block.lines[first + i]
        part.lines[i].end -= begun
    if size:
        memcpy(part.text, block.text + begun, size)
    if block.objects is not None:
        part.objects = block.objects[first:end]
    return part


cdef LineBlock joined(LineBlock block, LineBlock behind):
    """A block with the messages of both."""
    cdef size_t size = start_of(block, block.count)
    cdef size_t more = start_of(behind, behind.count)
    cdef LineBlock whole = new_block(block.count + behind.count, size + more)
    cdef Py_ssize_t i
    memcpy(whole.lines, block.lines, block.count * sizeof(Line))
    for i in range(behind.count):
        whole.lines[block.count + i] = behind.lines[i]
        whole.lines[block.count + i].end += size
    if size:
        memcpy(whole.text, block.text, size)
    if more:
        memcpy(whole.text + size, behind.text, more)
    if block.objects is not None or behind.objects is not None:
        whole.objects = (block.objects or [None] * block.count) + (behind.objects or [None] * behind.count)
    return whole


# ---- messages into blocks --------------------------------------------------------------------------------------------

@cython.final
cdef class Writer:
    """Makes the ended messages of a table into blocks."""

    def __cinit__(self, Rules rules, size_t most):
        if rules.redaction.key is not None:
            raise ValueError("marks with a key are made in Python: there are no lines")
        self.rules = rules
        self.most = min(most, BLOCK_BYTES)

    def __dealloc__(self):
        free(self.out.data)
        free(self.hidden.data)
        free(self.kinds)

    cdef LineBlock write(self, Message* message, uint32_t count, Pool* pool):
        """Makes a block of a list of `count` messages, and frees them. MemoryError: there is none."""
        cdef LineBlock block = new_block(count, 0)
        cdef Message* left = self._sort(message, count, pool, block)
        cdef Line* line = block.lines
        cdef const uint8_t* kind = self.kinds
        cdef uint32_t i
        begin(&self.out)
        with nogil:
            for i in range(count):
                if not kind[i] & OBJECT:
                    line.latency = latency_of(left, left.exchange)
                    put_plain(
                        &self.out, &self.hidden, left, &self.rules.style, kind[i] & (CLOSED - 1), kind[i] & CLOSED)
                    message = left
                    left = left.next
                    exchange_release(message.exchange, pool)
                    message_free(message, pool)
                line.end = self.out.size
                line += 1
        if self.out.failed:
            raise MemoryError
        if self.out.size:
            block.text = <uint8_t*>malloc(self.out.size)
            if block.text == NULL:
                raise MemoryError
            memcpy(block.text, self.out.data, self.out.size)
        if self.out.space > 4 * self.most:      # large bodies have made it grow
            free(self.out.data)
            memset(&self.out, 0, sizeof(Buffer))
        return block

    cdef Message* _sort(self, Message* message, uint32_t count, Pool* pool, LineBlock block) except? NULL:
        """Sets `kinds`, names connections, and makes objects of the messages that cannot be lines.

        Returns the list of the others.
        """
        cdef Message* first = NULL
        cdef Message** behind = &first
        cdef Message* following
        cdef size_t foreseen = 0
        cdef uint32_t i
        if count > self.space:
            free(self.kinds)
            self.space = 0
            self.kinds = <uint8_t*>malloc(count)
            if self.kinds == NULL:
                raise MemoryError
            self.space = count
        for i in range(count):
            following = message.next
            self.kinds[i] = kind_of_line(message, self.rules, self.most, &foreseen)
            if self.kinds[i] & OBJECT:
                if block.objects is None:
                    block.objects = [None] * count
                block.objects[i] = build_message(message, pool, self.rules)
            else:
                if message.exchange.conn.id == NULL:
                    name_conn(message.exchange.conn)
                if message.exchange.conn.proxied != NULL and message.exchange.conn.behind == NULL:
                    name_proxied(message.exchange.conn)
                behind[0] = message
                behind = &message.next
            message = following
        behind[0] = NULL
        return first


cdef uint8_t kind_of_line(const Message* message, Rules rules, size_t most, size_t* foreseen) noexcept nogil:
    """Returns the entry of Writer.kinds. Adds to `foreseen` the estimated bytes of the line."""
    cdef size_t size = RECORD_FIXED + text_of_message(message, message.exchange) + message.body_kept
    cdef bint coded = False
    cdef uint8_t kind = 0
    if size > most // ONE_OF or foreseen[0] + size > most or message.count > FOLD_MAX:
        return OBJECT
    if message.trailers != NULL and message.trailers.count > FOLD_MAX:
        return OBJECT
    if message.body_kept:
        kind = note_body(message, &rules.keys, &coded)
        if coded:
            if rules.style.decodes:
                return OBJECT
            kind |= CLOSED
    foreseen[0] += size
    return kind


# ---- many at a time --------------------------------------------------------------------------------------------------

def coded(messages):
    """See core.pyi."""
    if type(messages) is LineBlock:
        messages = (<LineBlock>messages).objects or ()
    return [raw for raw in messages if type(raw) is RawMessage and (<RawMessage>raw).coded]


def weights(messages):
    """See core.pyi."""
    cdef Py_ssize_t i
    if type(messages) is LineBlock:
        return [weight_of(<LineBlock>messages, i) for i in range((<LineBlock>messages).count)]
    return [(<RawMessage>raw).weigh() if type(raw) is RawMessage else raw.weight for raw in messages]


def weigh(messages):
    """See core.pyi."""
    cdef LineBlock block
    cdef size_t size = 0
    if type(messages) is LineBlock:
        block = <LineBlock>messages
        size = start_of(block, block.count) + <size_t>block.count * sizeof(Line)
        for raw in block.objects or ():
            if raw is not None:
                size += (<RawMessage>raw).weigh() - sizeof(Line)
        return size
    for raw in messages:
        if type(raw) is RawMessage:
            size += (<RawMessage>raw).weigh()
        else:
            size += <size_t>raw.weight
    return size


def latencies(messages):
    """See core.pyi."""
    cdef LineBlock block
    cdef Py_ssize_t i
    if type(messages) is not LineBlock:
        return [raw.latency_us for raw in messages if raw.latency_us is not None]
    block = <LineBlock>messages
    found = [] if block.objects is None else [
        raw.latency_us for raw in block.objects if raw is not None and raw.latency_us is not None]
    for i in range(block.count):
        if (block.objects is None or block.objects[i] is None) and block.lines[i].latency >= 0:
            found.append(block.lines[i].latency)
    return found


cdef inline void span(Span* at, bytes text):
    at.data = PyBytes_AS_STRING(text)
    at.size = PyBytes_GET_SIZE(text)


@cython.final
@cython.no_gc
cdef class Lines:
    """See core.pyi."""

    def __cinit__(self, *, bint keep=False, size_t most=0):
        self.keep = keep
        self.most = most

    def __dealloc__(self):
        free(self.out.data)

    def take(self, batch, Py_ssize_t first, size_t size):
        """See core.pyi."""
        cdef LineBlock block = <LineBlock>batch if type(batch) is LineBlock else None
        cdef object records         # keeps alive what the views point to
        cdef list kept = []
        cdef Buffer* out = &self.out
        cdef RecordView* view
        cdef size_t foreseen = 0
        cdef size_t begun
        cdef Py_ssize_t count = 0
        cdef Py_ssize_t done = 0
        if block is not None and block.objects is None and not self.most:
            count = lines_in(block, first, size)
            return count, memoryview(block)[start_of(block, first):start_of(block, first + count)]
        if out.space > 4 * size:    # a large message has made it grow
            free(out.data)
            memset(out, 0, sizeof(Buffer))
        if block is None:
            records = batch[first:first + VIEWS]
        else:
            records = range(first, min(first + VIEWS, block.count))
        for record in records:
            foreseen += self._look(&self.views[count], record, block, kept)
            count += 1
            if foreseen >= size:
                break
        begin(out)
        with nogil:
            while done < count and (done == 0 or out.size < size):
                view = &self.views[done]
                begun = out.size
                if view.message == NULL:
                    put_span(out, &view.opening)
                else:
                    put_record(out, view)
                if self.most and out.size - begun >= self.most:
                    fit(out, begun, self.most - 1)
                put(out, b"\n")
                done += 1
        return done, written(out)

    cdef size_t _look(self, RecordView* view, object record, LineBlock block, list kept) except? 0:
        """Sets up the view of a record, or of the message of that number in a block. Returns the estimated bytes."""
        cdef RawMessage raw
        cdef bytes json
        cdef size_t begun
        cdef Py_ssize_t at
        if block is not None:
            at = record
            record = None if block.objects is None else block.objects[at]
            if record is None:
                begun = start_of(block, at)
                view.message = NULL
                view.opening.data = <char*>block.text + begun
                view.opening.size = <Py_ssize_t>(block.lines[at].end - begun) - 1
                return <size_t>view.opening.size
        if type(record) is RawMessage and (<RawMessage>record).json is None and not self.keep:
            raw = <RawMessage>record
            raw.prepare(view, kept)
            return RECORD_FIXED + raw.text() + view.body_size + view.body_size // 3
        json = record.to_json()
        kept.append(json)
        view.message = NULL
        span(&view.opening, json)
        return <size_t>len(json)
