"""Shortens the JSON text of a record; see shorten.pxd.

There are three steps: find the members that may be long, decide how much of each is left, and write. Each step looks
at every byte a bounded number of times.
"""

from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy, memset

cdef enum:
    VALUE_LEAST = 64        # no header or trailer value is cut to fewer bytes
    START_LEAST = 256       # neither the method, nor the path, nor the reason is cut to fewer bytes
    STARTS = 3
    NOWHERE = 0             # Member.begin: the record does not have this member

cdef struct Member:         # indices into the JSON
    size_t begin            # of the comma before its name
    size_t at               # where its value begins, and ends: without quotes or braces
    size_t end

cdef struct Record:         # members in the order in which they are written
    const uint8_t* json
    size_t size
    Member headers
    Member start[STARTS]    # method, path, reason
    Member body
    Member encoding
    Member body_size
    Member truncated
    Member trailers

cdef struct Plan:           # how much of a record is left
    size_t body             # bytes of the body's text
    bint no_body            # True: the members `body` and `bodyEncoding` are left out
    bint mark_body          # True: bodyTruncated is added
    bint mark_headers       # True: headersTruncated is added
    size_t value            # most bytes of each header value
    size_t start            # most bytes of each of `start`
    size_t headers          # most bytes of all header fields, and of all trailer fields
    size_t trailers

cdef struct Out:
    uint8_t* to
    size_t size

cdef const char* BODY_MARK = b',"bodyTruncated":true'
cdef const char* HEADERS_MARK = b',"headersTruncated":true'
cdef size_t BODY_MARK_SIZE = 21
cdef size_t HEADERS_MARK_SIZE = 24


# ---- reading ---------------------------------------------------------------------------------------------------------

cdef size_t string_end(const uint8_t* json, size_t size, size_t at) noexcept nogil:
    """Index of the closing quote of a string whose text begins at `at`; `size` if it has none."""
    cdef const uint8_t* quote
    cdef size_t end = at
    cdef size_t slashes
    while end < size:
        quote = <const uint8_t*>memchr(json + end, 34, size - end)
        if quote == NULL:
            return size
        end = <size_t>(quote - json)
        slashes = end
        while slashes > at and json[slashes - 1] == 92:
            slashes -= 1
        if (end - slashes) % 2 == 0:
            return end
        at = end + 1
        end = at
    return size


cdef size_t value_end(const uint8_t* json, size_t size, size_t at) noexcept nogil:
    """Index behind the value that begins at `at`; `size` if it does not end."""
    cdef size_t depth = 0
    cdef uint8_t c
    while at < size:
        c = json[at]
        if c == 34:
            at = string_end(json, size, at + 1)
        elif c == 123 or c == 91:                       # { [
            depth += 1
        elif depth == 0 and (c == 44 or c == 125 or c == 93):
            return at                                   # behind a number, true, false or null
        elif c == 125 or c == 93:                       # } ]
            depth -= 1
        if depth == 0 and (c == 34 or c == 125 or c == 93):
            return min(at + 1, size)
        at += 1
    return size


cdef inline bint named(const uint8_t* json, size_t at, size_t end, const char* name, size_t size) noexcept nogil:
    return end - at == size and memcmp(json + at, name, size) == 0


cdef Member* member_of(Record* record, size_t at, size_t end) noexcept nogil:
    cdef const uint8_t* json = record.json
    if named(json, at, end, b"headers", 7):
        return &record.headers
    if named(json, at, end, b"method", 6):
        return &record.start[0]
    if named(json, at, end, b"path", 4):
        return &record.start[1]
    if named(json, at, end, b"reason", 6):
        return &record.start[2]
    if named(json, at, end, b"body", 4):
        return &record.body
    if named(json, at, end, b"bodyEncoding", 12):
        return &record.encoding
    if named(json, at, end, b"bodySize", 8):
        return &record.body_size
    if named(json, at, end, b"bodyTruncated", 13):
        return &record.truncated
    if named(json, at, end, b"trailers", 8):
        return &record.trailers
    return NULL


cdef bint read_record(Record* record) noexcept nogil:
    """Finds the members of a record. False: it does not have the form that the core writes."""
    cdef const uint8_t* json = record.json
    cdef size_t size = record.size
    cdef size_t begin = 0
    cdef size_t at
    cdef size_t end
    cdef Member* member
    cdef Member* last = NULL
    while begin + 1 < size and json[begin] == (44 if begin else 123) and json[begin + 1] == 34:
        at = begin + 2
        end = string_end(json, size, at)
        if end + 2 >= size or json[end + 1] != 58:
            return False
        member = member_of(record, at, end)
        at = end + 2
        end = value_end(json, size, at)
        if end >= size:
            return False
        if member != NULL:
            if last != NULL and member <= last:
                return False
            last = member
            member.begin = begin
            member.at = at
            member.end = end
            if json[at] == 34 or json[at] == 123:       # leave out the quotes or braces
                member.at += 1
                member.end -= 1
        begin = end
    return begin + 1 == size and json[begin] == 125 and record.body_size.begin != NOWHERE


cdef size_t cut(const uint8_t* json, size_t at, size_t end, size_t most) noexcept nogil:
    """Index where to cut the text [at:end] of a string so that at most `most` bytes are left.

    A character or an escape is not split.
    """
    cdef size_t last = at + most
    cdef size_t step
    cdef uint8_t c
    if end - at <= most:
        return end
    while True:
        c = json[at]
        if c == 92:
            step = 6 if json[at + 1] == 117 else 2
        else:
            step = 1 if c < 0xC0 else 2 if c < 0xE0 else 3 if c < 0xF0 else 4
        if at + step > last:
            return at
        at += step


# ---- deciding --------------------------------------------------------------------------------------------------------

cdef bint next_text(const uint8_t* json, const Member* fields, size_t* at, size_t* end) noexcept nogil:
    """Finds the next string value at or behind `at`. `fields` is an object of strings and arrays of strings."""
    while at[0] < fields.end:
        if json[at[0]] != 34:
            at[0] += 1      # a comma or a bracket
            continue
        at[0] += 1
        end[0] = string_end(json, fields.end, at[0])
        if json[end[0] + 1] != 58 or end[0] + 1 >= fields.end:
            return True
        at[0] = end[0] + 2  # it was a name
    return False


cdef size_t cap(const size_t* sizes, size_t count, size_t least, size_t excess) noexcept nogil:
    """Returns the highest limit for the sizes with which they lose `excess` bytes in all, but at least `least`."""
    cdef size_t low = least
    cdef size_t high = least
    cdef size_t middle
    cdef size_t lost
    cdef size_t i
    for i in range(count):
        high = max(high, sizes[i])
    while low < high:
        middle = high - (high - low) // 2
        lost = 0
        for i in range(count):
            if sizes[i] > middle:
                lost += sizes[i] - middle
        if lost >= excess:
            low = middle
        else:
            high = middle - 1
    return low


cdef size_t cap_values(const Record* record, size_t excess) noexcept nogil:
    """Returns cap() of all header and trailer values, at least VALUE_LEAST."""
    cdef size_t* sizes
    cdef size_t count = 0
    cdef size_t at = record.headers.at
    cdef size_t end = 0
    cdef size_t most
    while next_text(record.json, &record.headers, &at, &end):
        count += 1
        at = end + 1
    at = record.trailers.at
    while next_text(record.json, &record.trailers, &at, &end):
        count += 1
        at = end + 1
    sizes = <size_t*>malloc((count + 1) * sizeof(size_t))
    if sizes == NULL:
        return VALUE_LEAST
    count = 0
    at = record.headers.at
    while next_text(record.json, &record.headers, &at, &end):
        sizes[count] = end - at
        count += 1
        at = end + 1
    at = record.trailers.at
    while next_text(record.json, &record.trailers, &at, &end):
        sizes[count] = end - at
        count += 1
        at = end + 1
    most = cap(sizes, count, VALUE_LEAST, excess)
    free(sizes)
    return most


cdef size_t fields_size(const Record* record, const Member* fields, const Plan* plan, size_t room) noexcept nogil:
    """Returns how many bytes put_fields() writes."""
    cdef Out out
    out.to = NULL
    out.size = 0
    put_fields(&out, record, fields, plan, room)
    return out.size


cdef void decide(const Record* record, size_t most, Plan* plan) noexcept nogil:
    cdef size_t excess = record.size - most
    cdef size_t size = record.body.end - record.body.at
    cdef size_t mark = 0 if record.truncated.begin else BODY_MARK_SIZE
    cdef size_t sizes[STARTS]
    cdef size_t saved
    cdef size_t i
    plan.body = size
    plan.no_body = plan.mark_body = plan.mark_headers = False
    plan.value = plan.start = plan.headers = plan.trailers = record.size
    if size:
        plan.mark_body = mark != 0
        plan.body = 0
        if size > excess + mark:
            plan.body = size - excess - mark
            if record.encoding.begin:
                plan.body -= plan.body % 4
            else:
                plan.body = cut(record.json, record.body.at, record.body.end, plan.body) - record.body.at
        if plan.body:
            return
        plan.no_body = True
        saved = record.body.end + 1 - record.body.begin
        if record.encoding.begin:
            saved += record.encoding.end + 1 - record.encoding.begin
        if saved >= excess + mark:
            return
        excess = excess + mark - saved
    plan.mark_headers = True
    excess += HEADERS_MARK_SIZE
    plan.value = cap_values(record, excess)
    saved = record.headers.end - record.headers.at - fields_size(record, &record.headers, plan, plan.headers)
    saved += record.trailers.end - record.trailers.at - fields_size(record, &record.trailers, plan, plan.trailers)
    if saved >= excess:
        return
    excess -= saved
    for i in range(STARTS):
        sizes[i] = record.start[i].end - record.start[i].at
    plan.start = cap(sizes, STARTS, START_LEAST, excess)
    for i in range(STARTS):
        saved = record.start[i].end - cut(record.json, record.start[i].at, record.start[i].end, plan.start)
        excess -= min(excess, saved)
    if excess == 0:
        return
    size = fields_size(record, &record.trailers, plan, plan.trailers)
    plan.trailers = size - min(size, excess)
    excess -= min(excess, size - fields_size(record, &record.trailers, plan, plan.trailers))
    size = fields_size(record, &record.headers, plan, plan.headers)
    plan.headers = size - min(size, excess)


# ---- writing ---------------------------------------------------------------------------------------------------------

cdef inline void put(Out* out, const uint8_t* json, size_t at, size_t end) noexcept nogil:
    if out.to != NULL:      # NULL: the text is only measured
        memcpy(out.to + out.size, json + at, end - at)
    out.size += end - at


cdef void put_fields(
        Out* out, const Record* record, const Member* fields, const Plan* plan, size_t room) noexcept nogil:
    """Writes the fields of an object with their values cut. Fields that do not fit into `room` bytes are left out."""
    cdef const uint8_t* json = record.json
    cdef size_t first = out.size
    cdef size_t before
    cdef size_t begin = fields.at
    cdef size_t at
    cdef size_t end = 0
    cdef size_t until
    cdef size_t done
    while begin < fields.end:
        before = out.size
        at = string_end(json, fields.end, begin + 1) + 2
        until = value_end(json, fields.end, at)
        if out.size > first:
            put(out, b",", 0, 1)
        done = begin
        while next_text(json, fields, &at, &end) and at < until:
            put(out, json, done, cut(json, at, end, plan.value))
            done = end
            at = end + 1
        put(out, json, done, until)
        if out.size - first > room:
            out.size = before
        begin = until + 1


cdef size_t put_start(Out* out, const Record* record, const Plan* plan, size_t done) noexcept nogil:
    """Writes the record from `done` up to the end of the last of method, path and reason; returns that index."""
    cdef const uint8_t* json = record.json
    cdef const Member* start
    cdef size_t i
    for i in range(STARTS):
        start = &record.start[i]
        if start.begin:
            put(out, json, done, cut(json, start.at, start.end, plan.start))
            done = start.end
    return done


cdef void put_size(Out* out, const Record* record, const Plan* plan, size_t* done) noexcept nogil:
    """Writes the record up to the end of `bodySize` and `bodyTruncated`, and then the marks of what was cut."""
    cdef size_t end = record.truncated.end if record.truncated.begin else record.body_size.end
    put(out, record.json, done[0], end)
    if plan.mark_body:
        put(out, <const uint8_t*>BODY_MARK, 0, BODY_MARK_SIZE)
    if plan.mark_headers and not (     # a record that was read back may have the mark already
            end + HEADERS_MARK_SIZE <= record.size
            and memcmp(record.json + end, HEADERS_MARK, HEADERS_MARK_SIZE) == 0):
        put(out, <const uint8_t*>HEADERS_MARK, 0, HEADERS_MARK_SIZE)
    done[0] = end


cdef size_t shorten(const uint8_t* json, size_t size, size_t most, uint8_t* to) noexcept nogil:
    cdef Record record
    cdef Plan plan
    cdef Out out
    cdef size_t done
    memset(&record, 0, sizeof(Record))
    record.json = json
    record.size = size
    if not read_record(&record) or size <= most:
        return 0
    decide(&record, most, &plan)
    out.to = to
    out.size = 0
    put(&out, json, 0, record.headers.at)
    put_fields(&out, &record, &record.headers, &plan, plan.headers)
    done = put_start(&out, &record, &plan, record.headers.end)
    if plan.no_body:
        put(&out, json, done, record.body.begin)
        done = record.encoding.end + 1 if record.encoding.begin else record.body.end + 1
    elif record.body.begin:
        put(&out, json, done, record.body.at + plan.body)
        done = record.body.end
    put_size(&out, &record, &plan, &done)
    if record.trailers.begin:
        put(&out, json, done, record.trailers.at)
        put_fields(&out, &record, &record.trailers, &plan, plan.trailers)
        done = record.trailers.end
    put(&out, json, done, size)
    return out.size
