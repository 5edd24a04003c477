"""Finding a message after bytes were lost; see resync.pxd."""

from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memchr, memmove, memset

from sniffer_core.base.ascii cimport CR, LF, SP, is_blank
from sniffer_core.base.counters cimport BYTES_ABANDONED_SKIPPED
from sniffer_core.base.memory cimport pool_take
from sniffer_core.message cimport REQUEST, RESPONSE
from sniffer_core.protocols.http1.head cimport (
    CLASS, REASON, STATUS_LINE, TARGET, TOKEN, StartLine, find_head_end, is_cut_method, is_method, is_status_byte,
    odd_status, parse_odd_line, parse_start_line,
)
from sniffer_core.protocols.http1.state cimport (
    DEAD, LATER_SPACE, STAGES, Opening, Openings, consume, drop_buffer, drop_openings,
)
from sniffer_core.protocols.signature cimport PROTOCOL_HTTP2, PROTOCOL_OTHER, PROTOCOL_TLS, Spoken, signature

cdef enum:
    STRANGE_LIMIT = 65536       # skipped bytes after which a direction that never spoke HTTP is given up

cdef enum Stage:                # how much of an opening's start line was read
    STAGE_FIRST = 0             # no SP yet; in a status line: not the whole code yet
    STAGE_NAMED = 1             # method, SP
    STAGE_LINED = 2             # method, SP, target, SP; or a status line up to its code


# -- candidates -------------------------------------------------------------------------------------------------------

cdef inline bint begins_method(const uint8_t* data, uint32_t size, bint sure) noexcept nogil:
    return is_method(data, size) or (sure and not is_cut_method(data, size))


cdef Found begins_message(Parser* parser, Run* run, Head* head, bint sure) noexcept nogil:
    """What begins at the front of the run; FOUND_NOTHING if no message can."""
    cdef uint32_t window = <uint32_t>min(run.size, <int64_t>parser.limits.head)
    cdef uint32_t scanned
    cdef const uint8_t* found
    if run.offset < parser.boundary < run.offset + window:
        window = <uint32_t>(parser.boundary - run.offset)
    found = <const uint8_t*>memchr(run.data, LF, window)
    if found == NULL:
        return FOUND_START
    head.line_end = <uint32_t>(found - run.data) + 1
    if not parse_start_line(parser.kind, run.data, head.line_end - 1, &head.line):
        return FOUND_NOTHING
    if parser.kind == REQUEST and not begins_method(run.data, head.line.method.size, sure):
        return FOUND_NOTHING
    scanned = head.line_end - 1
    head.lines = 0
    head.end = find_head_end(run.data, window, &scanned, &head.lines)
    if head.end:
        return FOUND_HEAD
    return FOUND_NOTHING if window == parser.limits.head and not sure else FOUND_LINE


cdef Found find_message(Parser* parser, Run* run, Head* head, bint* sure) noexcept nogil:
    cdef Spoken protocol
    cdef Found found
    while True:
        if parser.strange and not parser.spoke and parser.skipped >= STRANGE_LIMIT:
            return give_up(parser, PROTOCOL_OTHER)
        if run.size == 0:
            return FOUND_NOTHING
        sure[0] = run.offset == parser.boundary
        if sure[0] or run.segment_start:
            if run.segment_start and not parser.spoke and not parser.strange and parser.skipped < STRANGE_LIMIT:
                protocol = signature(run.data, run.size, False)
                if protocol == PROTOCOL_TLS or protocol == PROTOCOL_HTTP2:
                    return give_up(parser, protocol)
            found = begins_message(parser, run, head, sure[0])
            if found != FOUND_NOTHING:
                return found
        skip_on(parser, run)


cdef inline Found give_up(Parser* parser, Spoken protocol) noexcept nogil:
    drop_buffer(parser)
    parser.protocol = protocol
    parser.state = DEAD
    return FOUND_PROTOCOL


cdef void skip_on(Parser* parser, Run* run) noexcept nogil:
    cdef int64_t size = run.size
    if run.offset < parser.boundary < run.offset + size:
        size = parser.boundary - run.offset
    parser.skipped += size
    consume(parser, run, size, BYTES_ABANDONED_SKIPPED)


# -- start lines in several segments ----------------------------------------------------------------------------------

cdef void open_at(Parser* parser, Run* run, bint sure) noexcept nogil:
    cdef Openings* openings = parser.openings
    cdef Opening* opening
    cdef uint32_t i, kept = 0
    if (not CLASS[run.data[0]] & TOKEN) if parser.kind == REQUEST else (run.data[0] != 0x48):     # H
        return
    if openings == NULL:
        openings = <Openings*>pool_take(parser.pool, sizeof(Openings))
        if openings == NULL:
            return
        memset(openings, 0, sizeof(Openings))
        parser.openings = openings
    opening = &openings.stage[<int>STAGE_FIRST]
    if opening.alive and parser.kind == REQUEST:
        if openings.later_count == LATER_SPACE:
            for i in range(LATER_SPACE):  # keep those that a known method can still reach
                if openings.later[i].at + LATER_SPACE > parser.buffer_size:
                    openings.later[kept] = openings.later[i]
                    kept += 1
            openings.later_count = kept
        opening = &openings.later[openings.later_count]
        openings.later_count += 1
    opening.alive = True
    opening.sure = sure
    opening.at = parser.buffer_size
    opening.stamp = run.stamp
    opening.ack = run.ack


cdef inline bint any_open(const Openings* openings) noexcept nogil:
    cdef int i
    for i in range(STAGES):
        if openings.stage[i].alive:
            return True
    return openings.later_count > 0


cdef Scan scan_line(Parser* parser, uint32_t at) noexcept nogil:
    """If several openings lead to a valid line, the latest is right: otherwise it would be part of another's target."""
    cdef Openings* openings = parser.openings
    cdef Opening* first
    cdef Opening* named
    cdef Opening* lined
    cdef uint8_t* data = parser.buffer
    cdef uint32_t i
    cdef uint8_t c
    if openings == NULL:
        return SCAN_NONE
    first = &openings.stage[<int>STAGE_FIRST]
    named = &openings.stage[<int>STAGE_NAMED]
    lined = &openings.stage[<int>STAGE_LINED]
    for i in range(at, parser.buffer_size):
        c = data[i]
        if c == LF:
            return line_ended(parser, i)
        if i and data[i - 1] == CR:  # a bare CR
            lined.alive = named.alive = False
        if parser.kind == RESPONSE:
            if lined.alive and c != CR:
                lined.alive = c == SP if i - lined.at == STATUS_LINE else CLASS[c] & REASON != 0
            if first.alive:
                first.alive = is_status_byte(i - first.at, c)
                if first.alive and i - first.at == STATUS_LINE - 1:
                    lined[0] = first[0]
                    first.alive = False
        elif c == SP:
            token_ended(parser, i)
        elif not CLASS[c] & TOKEN:
            first.alive = False
            openings.later_count = 0
            if not CLASS[c] & TARGET and c != CR:
                lined.alive = named.alive = False
        if not any_open(openings):
            return SCAN_NONE
    return SCAN_MORE


cdef void token_ended(Parser* parser, uint32_t space) noexcept nogil:
    """Advances the openings at the SP buffer[space], which may end a method or a target."""
    cdef Openings* openings = parser.openings
    cdef Opening* first = &openings.stage[<int>STAGE_FIRST]
    cdef Opening* named = &openings.stage[<int>STAGE_NAMED]
    cdef Opening* opening
    cdef uint32_t i
    if named.alive and parser.method_end + 1 < space:
        openings.stage[<int>STAGE_LINED] = named[0]
        named.alive = False
    for i in range(openings.later_count + 1):
        opening = first if i == 0 else &openings.later[i - 1]
        if opening.alive and begins_method(parser.buffer + opening.at, space - opening.at, opening.sure):
            named[0] = opening[0]
            parser.method_end = space
            break
    first.alive = False
    openings.later_count = 0


cdef Scan line_ended(Parser* parser, uint32_t lf) noexcept nogil:
    """Decides whether a valid start line ends at buffer[lf], the first LF."""
    cdef Opening opening = parser.openings.stage[<int>STAGE_LINED]
    cdef StartLine line
    if not opening.alive or not parse_start_line(parser.kind, parser.buffer + opening.at, lf - opening.at, &line):
        return SCAN_NONE
    parser.line_end = lf + 1
    move_to(parser, opening)
    parser.scanned = parser.line_end - 1
    if opening.sure:
        parser.candidate = False
    drop_openings(parser)
    return SCAN_FOUND


cdef Scan scan_odd_line(Parser* parser, uint32_t at) noexcept nogil:
    cdef const uint8_t* data = parser.buffer
    cdef const uint8_t* found = <const uint8_t*>memchr(data + at, LF, parser.buffer_size - at)
    cdef uint32_t stop = parser.buffer_size if found == NULL else <uint32_t>(found - data)
    cdef uint32_t i
    cdef bint more = False
    cdef StartLine line
    for i in range(at, stop):
        if (i and data[i - 1] == CR) or not (CLASS[data[i]] & REASON or data[i] == CR):
            return SCAN_NONE
    if parser.kind == RESPONSE:
        memset(&line, 0, sizeof(StartLine))
        i = odd_status(data, stop, &line, &more)
        if i == 0 and not more or 0 < i < stop and not (is_blank(data[i]) or data[i] == CR):
            return SCAN_NONE
    elif parser.method_end == 0:
        i = 0
        while i < stop and CLASS[data[i]] & TOKEN:
            i += 1
        if i < stop:
            if i == 0 or data[i] != SP:
                return SCAN_NONE
            parser.method_end = i
    if found == NULL:
        return SCAN_MORE
    if not parse_odd_line(parser.kind, data, stop, &line):
        return SCAN_NONE
    parser.line_end = stop + 1
    parser.scanned = stop
    return SCAN_FOUND


cdef void move_to(Parser* parser, Opening opening) noexcept nogil:
    """Discards the buffered bytes before `opening`."""
    cdef Openings* openings = parser.openings
    cdef uint32_t at = opening.at, i
    parser.first_offset += at
    parser.first_stamp = opening.stamp
    parser.first_ack = opening.ack
    parser.first_sure = opening.sure
    if at:
        parser.buffer_size -= at
        memmove(parser.buffer, parser.buffer + at, parser.buffer_size)
        if parser.line_end:
            parser.line_end -= at
        if parser.method_end:
            parser.method_end -= at
        for i in range(STAGES):
            openings.stage[i].at -= at
        for i in range(openings.later_count):
            openings.later[i].at -= at


cdef bint drop_first_opening(Parser* parser) noexcept nogil:
    cdef Openings* openings = parser.openings
    cdef Opening* earliest = NULL
    cdef Opening* opening
    cdef uint32_t i
    if openings == NULL:
        return False
    for i in range(STAGES + openings.later_count):
        opening = &openings.stage[i] if i < STAGES else &openings.later[i - STAGES]
        if opening.at == 0:
            opening.alive = False
        if opening.alive and (earliest == NULL or opening.at < earliest.at):
            earliest = opening
    if earliest == NULL:
        return False
    move_to(parser, earliest[0])
    return True
