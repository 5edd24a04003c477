# Finds the values in a body that must not be shown, by their keys: in JSON, urlencoded forms and multipart forms.
#
# It is a tokeniser: it takes a body that is cut anywhere, keeps no tree, and looks at each byte a bounded number of
# times. Keys are compared decoded, without case, `_`, `-` and blanks; parts of a key that `.`, `[` or `]` separate are
# compared on their own. A value is redacted as a whole, of whatever type it is.
#
# A type that claims JSON or a form must be kept to: a body that does not is not shown (FAILED). A body of another type
# that looks like one of them is searched as far as it does, and from there on as text, for `"key":` alone.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sniffer_core.record.redact cimport Names

cdef enum:
    KEY_MAX = 64            # bytes of the longest key that can be listed, without `_`, `-` and blanks
    LEVEL_WORDS = 16
    DEPTH_MAX = 1024        # 64 * LEVEL_WORDS: levels of JSON; a body with more is not searched

cdef enum Shape:            # how a body is searched, in ascending order of precedence
    SHAPE_NONE = 0          # not at all
    SHAPE_GUESS = 1         # by what it looks like
    SHAPE_TEXT = 2          # as text that may hold JSON (text/event-stream)
    SHAPE_FORM = 3          # application/x-www-form-urlencoded
    SHAPE_PARTS = 4         # multipart/form-data
    SHAPE_JSON = 5

cdef enum Found:
    NOTHING = 0             # no further value
    VALUE = 1
    FAILED = 2              # the body cannot be searched to its end

cdef struct Value:          # a value to redact
    size_t at
    size_t end
    bint json               # True: a JSON value, its quotes included; a mark in quotes takes its place

cdef struct Json:           # the state of the JSON tokeniser
    uint64_t levels[LEVEL_WORDS]    # a bit for each open container; 1: an object
    uint32_t depth
    uint8_t expects         # Expects
    bint secret             # True: the next value has a listed key
    bint hiding             # True: within a container with a listed key
    uint32_t hidden_depth   # the depth outside of that container
    size_t hidden_at        # where it begins

cdef struct Search:
    const Names* listed
    const uint8_t* text
    size_t size
    size_t at               # the next byte to look at
    uint8_t shape           # Shape
    bint claimed            # True: the type claims this shape
    const uint8_t* boundary     # of a multipart form
    size_t boundary_size
    size_t part_end         # multipart: where the current part's value ends
    bint in_part            # True: within the value of a part, which is searched as `inner`
    uint8_t inner
    size_t inner_at
    size_t last             # index behind the last value given out
    Json json


cdef tuple list_keys(redacted, Names* names)
    # Fills `names` with the redacted keys, as list_fields() does.
cdef uint8_t shape_of(const uint8_t* type, size_t size) noexcept nogil
    # The Shape that a Content-Type claims.
cdef void begin_search(
    Search* search, const uint8_t* text, size_t size, uint8_t shape, const uint8_t* type, size_t type_size,
    const Names* listed) noexcept nogil
    # `type`: the value of Content-Type, for the boundary.
cdef Found next_value(Search* search, Value* value) noexcept nogil
    # Finds the next value to redact, in order. After FAILED those before do not count either.
cdef bytes unescaped(const uint8_t* text, size_t size)
    # What a JSON value stands for: of a string its text in UTF-8, of any other value the bytes as they are.
