"""The frames of one direction; see frames.pxd. Section numbers are those of RFC 9113."""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset

from sniffer_core.base.memory cimport Pool, pool_give, pool_resize, pool_take
from sniffer_core.tcp.stream cimport Run

cdef enum Phase:
    PHASE_HEADER = 0
    PHASE_PREFIX = 1        # padding length, priority, promised stream
    PHASE_CONTENT = 2
    PHASE_PADDING = 3       # of a frame whose content was given out

cdef enum:
    BLOCK_FIRST = 1024      # least bytes of a field block that is gathered
    SETTING = 6             # bytes of an entry of SETTINGS


cdef inline uint32_t read32(const uint8_t* at) noexcept nogil:
    return <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | at[3]


cdef void frames_init(Frames* frames, Pool* pool, bint from_server) noexcept nogil:
    memset(frames, 0, sizeof(Frames))
    frames.pool = pool
    frames.from_server = from_server


cdef void drop_block(Frames* frames) noexcept nogil:
    pool_give(frames.pool, frames.block, frames.block_space)
    frames.block = NULL
    frames.block_size = frames.block_space = 0


cdef void frames_free(Frames* frames) noexcept nogil:
    drop_block(frames)


cdef void frames_restart(Frames* frames) noexcept nogil:
    drop_block(frames)
    frames.phase = PHASE_HEADER
    frames.have = frames.left = frames.block_stream = 0


cdef bint frames_between(const Frames* frames) noexcept nogil:
    return frames.phase == PHASE_HEADER and frames.have == 0 and frames.block_stream == 0


cdef bint has_legal_size(uint8_t type, uint8_t flags, uint32_t size, uint32_t stream) noexcept nogil:
    """Whether a frame of that size is no error of the connection (section 6)."""
    if type == DATA or type == HEADERS or type == PUSH_PROMISE:
        return stream != 0 and size >= (1 if flags & PADDED else 0) + (4 if type == PUSH_PROMISE else 0) + (
            5 if type == HEADERS and flags & HAS_PRIORITY else 0)
    if type == RST_STREAM:
        return stream != 0 and size == 4
    if type == SETTINGS:
        return stream == 0 and size % SETTING == 0 and (size == 0 or not flags & 0x1)
    if type == PING:
        return stream == 0 and size == 8
    if type == GOAWAY:
        return stream == 0 and size >= 8
    if type == WINDOW_UPDATE:
        return size == 4
    return stream != 0 if type == CONTINUATION or type == PRIORITY else True


cdef bint frame_is_legal(const uint8_t* header, bint from_server, bint strict) noexcept nogil:
    cdef uint32_t size = read32(header) >> 8
    cdef uint8_t type = header[3]
    cdef uint8_t flags = header[4]
    cdef uint32_t stream = read32(header + 5) & 0x7FFFFFFF
    cdef uint8_t known
    if type == PUSH_PROMISE and not from_server:
        return False
    if not strict:
        return has_legal_size(type, flags, size, stream)
    if type > CONTINUATION or size > FRAME_LEAST_MAX or header[5] & 0x80 or \
            not has_legal_size(type, flags, size, stream):
        return False
    if type == DATA:
        known = END_STREAM | PADDED
    elif type == HEADERS:
        known = END_STREAM | END_HEADERS | PADDED | HAS_PRIORITY
    elif type == SETTINGS or type == PING:
        known = 0x1
    elif type == PUSH_PROMISE:
        known = END_HEADERS | PADDED
    elif type == CONTINUATION:
        known = END_HEADERS
    else:
        known = 0
    if flags & ~known or (type == PRIORITY and size != 5) or (type == SETTINGS and size > 16 * SETTING):
        return False
    # Clients open odd streams (section 5.1.1), and only a push is on an even one.
    return stream == 0 or stream & 1 or (from_server and type != PUSH_PROMISE) or type == WINDOW_UPDATE or \
        type == RST_STREAM or type == PRIORITY


# ---- one frame -------------------------------------------------------------------------------------------------------

cdef inline uint32_t prefix_size(const Frames* frames) noexcept nogil:
    cdef uint32_t size = 0
    if frames.type == DATA or frames.type == HEADERS or frames.type == PUSH_PROMISE:
        size = 1 if frames.flags & PADDED else 0
        if frames.type == PUSH_PROMISE:
            size += 4
        elif frames.type == HEADERS and frames.flags & HAS_PRIORITY:
            size += 5
    return size


cdef inline bint is_block(const Frames* frames) noexcept nogil:
    return frames.type == HEADERS or frames.type == CONTINUATION or frames.type == PUSH_PROMISE


cdef bint begin_frame(Frames* frames) noexcept nogil:
    """A frame header is whole. False: it cannot be one here."""
    cdef const uint8_t* header = frames.gathered
    if not frame_is_legal(header, frames.from_server, False):
        return False
    frames.left = read32(header) >> 8
    frames.type = header[3]
    frames.flags = header[4]
    frames.stream = read32(header + 5) & 0x7FFFFFFF
    frames.padding = 0
    frames.have = 0
    if frames.type == CONTINUATION:         # section 6.10: nothing may come between the frames of a block
        if frames.stream != frames.block_stream:
            return False
        frames.block_frames += 1
    elif frames.block_stream:
        return False
    elif is_block(frames):
        frames.block_stream = frames.stream
        frames.block_flags = frames.flags
        frames.block_frames = 1
        frames.block_over = False
        frames.promised = 0
        frames.stamp = frames.stamp_header
    frames.phase = PHASE_PREFIX if prefix_size(frames) else PHASE_CONTENT
    return True


cdef bint end_prefix(Frames* frames) noexcept nogil:
    """The prefix of a frame is whole. False: its padding is longer than the frame (section 6.1)."""
    cdef const uint8_t* at = frames.gathered
    if frames.flags & PADDED:
        frames.padding = at[0]
        at += 1
    if frames.type == PUSH_PROMISE:
        frames.promised = read32(at) & 0x7FFFFFFF
    frames.have = 0
    frames.phase = PHASE_CONTENT
    return frames.padding <= frames.left


cdef void take(Run* run, uint32_t size) noexcept nogil:
    run.data += size
    run.size -= size
    run.offset += size
    run.segment_start = False


cdef bint fill(Frames* frames, Run* run, uint32_t need) noexcept nogil:
    """Gathers up to `need` bytes; returns whether they are whole."""
    cdef uint32_t size = <uint32_t>min(<int64_t>(need - frames.have), run.size)
    memcpy(frames.gathered + frames.have, run.data, size)
    frames.have += size
    take(run, size)
    return frames.have == need


cdef void gather(Frames* frames, const uint8_t* data, uint32_t size) noexcept nogil:
    """Appends a piece of a field block, unless it exceeds the bounds."""
    cdef uint32_t need = frames.block_size + size
    cdef uint32_t space
    cdef uint8_t* block
    if need > BLOCK_MAX or frames.block_frames > BLOCK_FRAMES_MAX:
        frames.block_over = True
    if frames.block_over:
        drop_block(frames)
        return
    if need > frames.block_space:
        space = min(<uint32_t>BLOCK_MAX, max(need, max(<uint32_t>BLOCK_FIRST, 2 * frames.block_space)))
        if frames.block == NULL:
            block = <uint8_t*>pool_take(frames.pool, space)
        else:
            block = <uint8_t*>pool_resize(frames.pool, frames.block, frames.block_space, space)
        if block == NULL:
            frames.block_over = True
            drop_block(frames)
            return
        frames.block = block
        frames.block_space = space
    if size:
        memcpy(frames.block + frames.block_size, data, size)
    frames.block_size = need


cdef void end_content(Frames* frames) noexcept nogil:
    frames.phase = PHASE_PADDING if frames.padding else PHASE_HEADER
    frames.left = frames.padding
    frames.have = 0


cdef Framed read_block(Frames* frames, Run* run, Frame* found) noexcept nogil:
    """Reads the content of a frame with a part of a field block."""
    cdef uint32_t content = frames.left - frames.padding
    cdef uint32_t size = <uint32_t>min(<int64_t>content, run.size)
    cdef const uint8_t* data = run.data
    cdef bint whole = size == content
    cdef bint last = whole and frames.flags & END_HEADERS
    take(run, size)
    frames.left -= size
    if last and frames.block == NULL and not frames.block_over and frames.block_frames == 1 and content == size and \
            size <= BLOCK_MAX:
        found.data = data           # it lies in the run as a whole, as most do
        found.size = size
    else:
        gather(frames, data, size)
        found.data = frames.block
        found.size = frames.block_size
    if whole:
        end_content(frames)
    if not last:
        return FRAMED_MORE
    found.stream = frames.block_stream
    found.promised = frames.promised
    found.end_stream = frames.block_flags & END_STREAM and frames.promised == 0
    found.over = frames.block_over
    found.stamp = frames.stamp
    frames.block_stream = 0
    return FRAMED_BLOCK


cdef Framed read_data(Frames* frames, Run* run, Frame* found) noexcept nogil:
    cdef uint32_t content = frames.left - frames.padding
    found.size = <uint32_t>min(<int64_t>content, run.size)
    found.data = run.data
    found.stream = frames.stream
    found.last = found.size == content
    found.end_stream = found.last and frames.flags & END_STREAM
    found.stamp = frames.stamp_header
    take(run, found.size)
    frames.left -= found.size
    if found.last:
        end_content(frames)
    return FRAMED_DATA


cdef Framed read_small(Frames* frames, Run* run, Frame* found) noexcept nogil:
    """Reads RST_STREAM or an entry of SETTINGS."""
    cdef uint32_t need = 4 if frames.type == RST_STREAM else SETTING
    cdef uint32_t had = frames.have
    cdef bint whole = fill(frames, run, need)
    frames.left -= frames.have - had
    if not whole:
        return FRAMED_MORE
    frames.have = 0
    found.stream = frames.stream
    found.stamp = frames.stamp_header
    if frames.left == 0:
        end_content(frames)
    if frames.type == RST_STREAM:
        found.code = read32(frames.gathered)
        return FRAMED_RESET
    found.code = <uint32_t>frames.gathered[0] << 8 | frames.gathered[1]
    found.value = read32(frames.gathered + 2)
    return FRAMED_SETTING


cdef Framed read_content(Frames* frames, Run* run, Frame* found) noexcept nogil:
    cdef uint32_t size
    if frames.type == DATA:
        return read_data(frames, run, found)
    if is_block(frames):
        return read_block(frames, run, found)
    if (frames.type == RST_STREAM or frames.type == SETTINGS) and frames.left:
        return read_small(frames, run, found)
    size = <uint32_t>min(<int64_t>frames.left, run.size)
    take(run, size)
    frames.left -= size
    if frames.left == 0:
        end_content(frames)
    return FRAMED_MORE


cdef Framed frames_read(Frames* frames, Run* run, Frame* found) noexcept nogil:
    cdef Framed framed
    cdef uint32_t had
    cdef uint32_t size
    if frames.block_stream == 0 and frames.block != NULL:
        drop_block(frames)      # it was given out
    # A content of no bytes is read without waiting for a further byte.
    while run.size or (frames.phase == PHASE_CONTENT and frames.left == frames.padding):
        if frames.phase == PHASE_HEADER:
            if frames.have == 0:
                frames.stamp_header = run.stamp
            if fill(frames, run, FRAME_HEADER) and not begin_frame(frames):
                return FRAMED_BAD
        elif frames.phase == PHASE_PREFIX:
            had = frames.have
            if fill(frames, run, prefix_size(frames)):
                frames.left -= frames.have - had
                if not end_prefix(frames):
                    return FRAMED_BAD
            else:
                frames.left -= frames.have - had
        elif frames.phase == PHASE_PADDING:
            size = <uint32_t>min(<int64_t>frames.left, run.size)
            take(run, size)
            frames.left -= size
            if frames.left == 0:
                frames.phase = PHASE_HEADER
        else:
            framed = read_content(frames, run, found)
            if framed != FRAMED_MORE:
                return framed
    return FRAMED_MORE


cdef bint frames_skip(Frames* frames, int64_t size, Frame* found, uint32_t* lost) noexcept nogil:
    cdef uint32_t content
    if frames.type != DATA or size > <int64_t>frames.left or frames.left == 0 or (
            frames.phase != PHASE_CONTENT and frames.phase != PHASE_PADDING):
        return False
    content = frames.left - frames.padding if frames.phase == PHASE_CONTENT else 0
    lost[0] = <uint32_t>min(<int64_t>content, size)
    found.stream = frames.stream
    found.data = NULL
    found.size = 0
    found.last = frames.phase == PHASE_CONTENT and lost[0] == content
    found.end_stream = found.last and frames.flags & END_STREAM
    found.stamp = frames.stamp_header
    frames.left -= <uint32_t>size
    if frames.phase == PHASE_CONTENT and found.last:
        frames.phase = PHASE_PADDING
    if frames.left == 0:
        frames.phase = PHASE_HEADER
        frames.have = 0
    return True
