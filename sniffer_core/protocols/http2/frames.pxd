# The frames of one direction (RFC 9113 section 4), read from a stream that is cut anywhere.
#
# A frame is its header, a prefix (the length of the padding, a priority, the number of a promised stream), its content,
# and padding. The content of DATA is given out piece by piece, that of other frames that matter as a whole. A field
# block is one content, however many CONTINUATION frames carry it.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from sniffer_core.base.memory cimport Pool
from sniffer_core.tcp.stream cimport Run

cdef enum:
    FRAME_HEADER = 9            # bytes
    FRAME_LEAST_MAX = 16384     # the size of a frame that SETTINGS_MAX_FRAME_SIZE always allows
    BLOCK_MAX = 65536           # bytes of a field block
    BLOCK_FRAMES_MAX = 32       # frames of a field block

cdef enum FrameType:            # section 6
    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9

cdef enum:                      # flags
    END_STREAM = 0x1
    ACK = 0x1
    END_HEADERS = 0x4
    PADDED = 0x8
    HAS_PRIORITY = 0x20

cdef enum Framed:               # what frames_read() has found
    FRAMED_MORE = 0             # nothing: the run is consumed
    FRAMED_DATA = 1             # a piece of a DATA frame's content; it may be empty at the frame's end
    FRAMED_BLOCK = 2            # a whole field block of HEADERS or PUSH_PROMISE
    FRAMED_RESET = 3            # RST_STREAM: `code`
    FRAMED_SETTING = 4          # an entry of SETTINGS: `code` is its identifier, `value` its value
    FRAMED_BAD = 5              # the bytes cannot be frames: nothing behind them can be read

cdef struct Frames:             # the state of one direction
    Pool* pool
    uint8_t phase               # frames.Phase
    uint8_t from_server         # True: the server's frames
    uint8_t type                # of the current frame: FrameType, or an unknown number
    uint8_t flags
    uint8_t gathered[FRAME_HEADER]  # of the header, the prefix or a small content
    uint32_t have               # bytes in `gathered`
    uint32_t stream
    uint32_t left               # bytes of the frame that are not yet read
    uint32_t padding            # bytes of these that are padding
    int64_t stamp               # packet time of the first byte of the frame, or of the field block's first frame
    int64_t stamp_header        # packet time of the current frame's first byte

    uint32_t block_stream       # the stream whose field block has begun; 0: none has
    uint32_t promised           # by the PUSH_PROMISE that began it; 0: it began with HEADERS
    uint32_t block_frames
    uint8_t block_flags         # of the frame that began it
    uint8_t block_over          # True: it is longer than the bounds, and not kept
    uint8_t* block              # a block of memory with the part of the field block that was gathered; or NULL
    uint32_t block_size
    uint32_t block_space

cdef struct Frame:              # what was found
    uint32_t stream
    uint32_t promised           # FRAMED_BLOCK: the promised stream; 0: HEADERS
    const uint8_t* data         # a piece or a field block; valid until the next call
    uint32_t size
    bint last                   # FRAMED_DATA: the frame ends here
    bint end_stream             # with FRAMED_BLOCK, or FRAMED_DATA and `last`: END_STREAM
    bint over                   # FRAMED_BLOCK: the block exceeds the bounds or the memory; it is empty
    uint32_t code
    uint32_t value
    int64_t stamp               # packet time of the first byte of the frame

cdef void frames_init(Frames* frames, Pool* pool, bint from_server) noexcept nogil
cdef void frames_free(Frames* frames) noexcept nogil
cdef Framed frames_read(Frames* frames, Run* run, Frame* found) noexcept nogil
    # Reads on until something is found or the run is consumed. The caller counts the bytes that it took.
cdef bint frames_skip(Frames* frames, int64_t size, Frame* found, uint32_t* lost) noexcept nogil
    # `size` bytes were lost. Returns whether they lie within the content and padding of a DATA frame. If so, `lost` of
    # its content are missing, and `found` says how the frame goes on, as with FRAMED_DATA. Otherwise nothing changes.
cdef void frames_restart(Frames* frames) noexcept nogil
    # The next byte is the first of a frame.
cdef bint frames_between(const Frames* frames) noexcept nogil
    # Whether the next byte is the first of a frame, and no field block has begun.
cdef bint frame_is_legal(const uint8_t* header, bint from_server, bint strict) noexcept nogil
    # Whether 9 bytes can be the header of a frame. `strict`: that is a guess, so nothing unusual counts.
