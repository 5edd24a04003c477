# Generated from marks.py: `python -m sniffer_core.base.marks > sniffer_core/base/marks.pxd`.

cdef enum Incomplete:       # why a message is not whole
    WHOLE = 0
    INCOMPLETE_GAP_ = 1
    INCOMPLETE_CLOSED_ = 2
    INCOMPLETE_EVICTED_ = 3
    INCOMPLETE_IDLE_ = 4
    INCOMPLETE_STOPPED_ = 5
    INCOMPLETE_MALFORMED_ = 6
    INCOMPLETE_LIMIT_ = 7
    INCOMPLETE_RESET_ = 8

cdef enum Anomaly:          # bits of Message.anomalies
    BIT_TE_AND_CL = 1 << 0
    BIT_TE_IN_HTTP10 = 1 << 1
    BIT_TE_NOT_CHUNKED = 1 << 2
    BIT_TE_FOLDED = 1 << 3
    BIT_CL_REPEATED = 1 << 4
    BIT_CL_ZERO_PADDED = 1 << 5
    BIT_CL_CONFLICTING = 1 << 6
    BIT_CL_INVALID = 1 << 7
    BIT_SPACE_BEFORE_COLON = 1 << 8
    BIT_SPACE_IN_TARGET = 1 << 9
    BIT_CONFLICTING_OVERLAP = 1 << 10
    BIT_BARE_LF = 1 << 11
    BIT_OBS_FOLD = 1 << 12
    BIT_BODY_NOT_SENT = 1 << 13
    BIT_BAD_HEADER_LINE = 1 << 14
    BIT_TE_IDENTITY = 1 << 15
    BIT_ODD_START_LINE = 1 << 16
    BIT_LAST_CRLF_MISSING = 1 << 17
    BIT_PSEUDO_HEADER = 1 << 18
    BIT_CONNECTION_FIELD = 1 << 19
    BIT_BAD_FIELD = 1 << 20
    BIT_LENGTH_MISMATCH = 1 << 21
    BIT_STREAM_STATE = 1 << 22

cdef enum:
    INCOMPLETE_COUNT = 8
    ANOMALY_COUNT = 23
