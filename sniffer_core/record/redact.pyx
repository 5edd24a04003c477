"""Decides which parts of a message are redacted; see redact.pxd."""

import re
from hmac import digest as hmac_digest

cimport cython
from cpython.unicode cimport PyUnicode_DecodeLatin1
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from sniffer_core.base.ascii cimport ascii_lower as lower
from sniffer_core.base.ascii cimport ascii_same

cdef tuple URL_FIELDS = (
    "referer", "location", "content-location", "origin", "link", "refresh", "destination", "hx-current-url",
    "x-original-url", "x-original-uri", "x-rewrite-url", "x-forwarded-uri", "x-envoy-original-path")


# ---- names -----------------------------------------------------------------------------------------------------------

cdef inline uint64_t end_bit(uint8_t last_but_one, uint8_t last) noexcept nogil:
    return <uint64_t>1 << ((lower(last_but_one) * 5 + lower(last)) & 63)


cdef tuple fill(kinds, Names* names):
    """Fills `names` from a dict of names (bytes in lower case) and their kinds."""
    cdef tuple kept = tuple(sorted([name for name in kinds if name], key=len))
    cdef Py_ssize_t i
    memset(names, 0, sizeof(Names))
    names.size = <uint32_t*>calloc(len(kept) + 1, sizeof(uint32_t))
    names.name = <const uint8_t**>calloc(len(kept) + 1, sizeof(uint8_t*))
    names.kind = <uint8_t*>calloc(len(kept) + 1, 1)
    if names.size == NULL or names.name == NULL or names.kind == NULL:
        raise MemoryError
    names.count = <uint32_t>len(kept)
    names.hides = SECRET in kinds.values()
    names.ascii = all([name.isascii() for name in kept])
    for i in range(len(kept)):
        names.size[i] = <uint32_t>len(kept[i])
        names.name[i] = <const uint8_t*><char*><bytes>kept[i]
        names.kind[i] = <uint8_t>kinds[kept[i]]
        names.bits |= name_bit(names.name[i], names.size[i])
        if not names.sizes >> min(63, names.size[i]) & 1:
            names.first[min(63, names.size[i])] = <uint16_t>i
        names.sizes |= <uint64_t>1 << min(63, names.size[i])
        if names.size[i] == 1:      # any character may be before it
            names.ends = <uint64_t>-1
        else:
            names.ends |= end_bit(names.name[i][names.size[i] - 2], names.name[i][names.size[i] - 1])
    return kept


cdef tuple list_fields(redacted, Names* names):
    cdef dict kinds = {name.encode("ascii"): LINK if name == "link" else URL for name in URL_FIELDS}
    for name in redacted:
        kinds[name.lower().encode("latin-1")] = SECRET
    return fill(kinds, names)


cdef tuple list_parameters(redacted, Names* names):
    """A name that is not ASCII is listed in several forms.

    It may be sent as UTF-8 or as ISO-8859-1, and comparisons ignore case for ASCII letters only.
    """
    cdef dict kinds = {}
    for name in redacted:
        for form in (name, name.lower(), name.upper(), name.title()):
            kinds[form.encode("utf-8", "surrogatepass").lower()] = SECRET
            try:
                kinds[form.encode("latin-1").lower()] = SECRET
            except UnicodeEncodeError:
                pass
    return fill(kinds, names)


cdef void free_names(Names* names) noexcept nogil:
    free(names.size)
    free(names.name)
    free(names.kind)


cdef bint is_exempt(const uint8_t* name, uint32_t size) noexcept nogil:
    return (size == 14 and ascii_same(name, b"content-length", 14)) or \
        (size == 12 and ascii_same(name, b"content-type", 12)) or (size > 5 and ascii_same(name, b"grpc-", 5))


cdef uint8_t kind_of(const Names* names, const uint8_t* name, uint32_t size) noexcept nogil:
    cdef uint32_t i
    cdef uint32_t k
    if size == 0 or not names.bits & name_bit(name, size) or not names.sizes >> min(<uint32_t>63, size) & 1:
        return SHOWN
    for i in range(names.first[min(<uint32_t>63, size)], names.count):
        if names.size[i] != size:
            if size < 63:
                break
            continue
        for k in range(size):
            if lower(name[k]) != names.name[i][k]:
                break
        else:
            return names.kind[i]
    return SHOWN


# ---- URLs ------------------------------------------------------------------------------------------------------------

cdef extern from *:
    """
    #include <string.h>

    /* Whether one of 8 bytes is an equals sign, a percent sign or an at sign. A URL without them has neither parameters
       nor user info. A borrow of the subtractions reaches only bytes behind one that is such a sign. */
    static inline int marked8(const unsigned char *from) {
        const unsigned long long ones = 0x0101010101010101ull, high = 0x8080808080808080ull;
        unsigned long long word, equals, percent, at;
        memcpy(&word, from, 8);
        equals = word ^ '=' * ones;
        percent = word ^ '%' * ones;
        at = word ^ '@' * ones;
        return ((((equals - ones) & ~equals) | ((percent - ones) & ~percent) | ((at - ones) & ~at)) & high) != 0;
    }
    """
    bint marked8(const uint8_t* text) noexcept nogil


cdef uint8_t plain[256]     # 1: next_cut() passes over this character (letters, digits, some punctuation)


cdef void init_plain():
    cdef int c
    for c in range(33, 127):
        plain[c] = 1
    for c in b"%=&;?#:/\\[]!+<>\"',(":
        plain[c] = 0


init_plain()


cdef bint is_plain(const uint8_t* text, size_t size, const Names* listed) noexcept nogil:
    """Without a percent or at sign only a parameter can be redacted. So the last two characters before each `=` are
    compared: few names end like a listed name, or in a character that is not plain, such as a bracket."""
    cdef size_t i = 0
    cdef uint8_t c
    while i + 8 <= size and not marked8(text + i):
        i += 8
    while i < size:
        c = text[i]
        if c == 37 or c == 64:
            return False
        if c == 61 and i and (
                not plain[text[i - 1]] or listed.ends & end_bit(text[i - 2] if i > 1 else 0, text[i - 1])):
            return False
        i += 1
    return True


cdef inline int digit(uint8_t c) noexcept nogil:
    """The value of a hexadecimal digit, or -1."""
    if 48 <= c <= 57:
        return c - 48
    c |= 32
    return c - 87 if 97 <= c <= 102 else -1


cdef inline uint8_t decoded(const uint8_t* text, size_t at, size_t size, size_t* next, uint32_t* depth) noexcept nogil:
    """Returns the character at `at`, decoded as often as it was encoded: %3D and %25253D both give an equals sign.

    `next` becomes the index behind it, `depth` the number of times that it was encoded.
    """
    cdef size_t i = at + 1
    cdef uint32_t times = 1
    next[0] = at + 1
    depth[0] = 0
    if text[at] != 37:
        return text[at]
    while i + 2 <= size and text[i] == 50 and text[i + 1] == 53:
        i += 2
        times += 1
    if i + 2 > size or digit(text[i]) < 0 or digit(text[i + 1]) < 0:
        return 37
    next[0] = i + 2
    depth[0] = times
    return <uint8_t>(digit(text[i]) << 4 | digit(text[i + 1]))


cdef inline bint is_blank(const Names* listed, uint8_t c) noexcept nogil:
    """Whether a server may strip this character from the ends of a name."""
    return c <= 32 or c == 43 or c == 127 or (c >= 128 and listed.ascii)


cdef bint is_listed(const Names* listed, const uint8_t* text, size_t at, size_t end) noexcept nogil:
    """Whether text[at:end], decoded and without the blanks at its ends, is a listed name."""
    cdef size_t first = at
    cdef size_t next = 0
    cdef uint32_t depth = 0
    cdef uint32_t size = 0
    cdef uint32_t blanks = 0
    cdef uint32_t i
    cdef uint32_t k
    cdef uint8_t c
    while at < end:
        if not is_blank(listed, decoded(text, at, end, &next, &depth)):
            size += blanks + 1
            blanks = 0
        elif size:
            blanks += 1
        else:
            first = next
        at = next
    if size == 0 or not listed.sizes >> min(<uint32_t>63, size) & 1:
        return False
    for i in range(listed.count):
        if listed.size[i] != size:
            continue
        at = first
        for k in range(size):
            c = decoded(text, at, end, &next, &depth)
            if lower(c) != listed.name[i][k] and not (c == 43 and listed.name[i][k] == 32):
                break
            at = next
        else:
            return True
    return False


cdef bint is_secret(const Scan* scan, size_t end) noexcept nogil:
    """Whether the value of the parameter whose name ends at `end` is redacted."""
    cdef const Names* listed = scan.listed
    cdef size_t at = scan.name
    cdef size_t part = scan.name
    cdef size_t next = 0
    cdef uint32_t depth = 0
    cdef uint8_t c
    if not scan.odd:
        return kind_of(listed, scan.text + at, <uint32_t>(end - at)) == SECRET
    if is_listed(listed, scan.text, at, end):
        return True
    while at < end:
        c = decoded(scan.text, at, end, &next, &depth)
        if c == 0 or c == 91 or c == 93 or (scan.queried and (c == 47 or c == 33)):     # a NUL, [ ] / !
            if is_listed(listed, scan.text, part, at):
                return True
            part = next
        at = next
    return part > scan.name and is_listed(listed, scan.text, part, end)


cdef size_t value_end(const Scan* scan, size_t at, uint32_t begun) noexcept nogil:
    """Returns where the value ends that begins at `at`, at depth `begun`.

    A `;` does not end a value, so the value may go on behind the URL that it is in. Then it ends by the rules of the
    URL around that one.
    """
    cdef size_t next = 0
    cdef uint32_t depth = 0
    cdef uint8_t c
    while at < scan.size:
        c = decoded(scan.text, at, scan.size, &next, &depth)
        if depth <= begun and (c == 38 if scan.queried else c == 47 or c == 63 or c == 35):     # & / ? #
            return at
        if depth == 0 and c == 62 and scan.kind == LINK:
            return at
        if depth < begun and (c == 59 or c == 61 or c == 63 or c == 35):    # ; = ? #
            begun = depth
        at = next
    return at


cdef bint user_info(const Scan* scan, size_t at, uint32_t begun, bint sure, Cut* cut) noexcept nogil:
    """Whether an authority at `at` has user info; `cut` is then set to it.

    Without `sure` the text may also be a path, so user info counts only with a colon (a password) before its `@`.
    """
    cdef size_t next = 0
    cdef uint32_t depth = 0
    cdef bint colon = False
    cdef bint password = False
    cdef uint8_t c
    cut.at = at
    cut.end = at
    cut.marked = False
    while at < scan.size:
        c = decoded(scan.text, at, scan.size, &next, &depth)
        if depth <= begun and (c == 47 or c == 92 or c == 63 or c == 35):   # / \ ? #
            break
        if depth == 0 and ((c == 38 and scan.queried) or (c == 62 and scan.kind == LINK)):
            break
        if c == 58:
            colon = True
        elif c == 64:
            password = colon
            cut.end = next
        at = next
    return cut.end > cut.at and (sure or password)


cdef bint is_scheme(const uint8_t* text, size_t at, size_t end) noexcept nogil:
    """Whether text[at:end] has the form of a scheme (RFC 3986 section 3.1)."""
    cdef size_t i
    cdef uint8_t c
    for i in range(at, end):
        c = text[i]
        if not (97 <= c | 32 <= 122 or (i > at and (48 <= c <= 57 or c == 43 or c == 45 or c == 46))):
            return False
    return end > at


cdef bint at_slash(Scan* scan, size_t at, size_t next, uint32_t begun, Cut* cut) noexcept nogil:
    """Whether an authority with user info follows the slashes at `at`; `cut` is then set to the user info.

    Browsers take a backslash for a slash. Two slashes begin an authority behind a colon, whatever the scheme, and at
    the start of a URL in a header field. At the start of a request target they may be part of the path. Browsers also
    accept one slash behind a scheme, or more than two. In all doubtful cases only user info with a password counts.
    """
    cdef bint behind_scheme = at == scan.colon_end
    cdef size_t following = 0
    cdef uint32_t depth = 0
    cdef uint32_t slashes = 1
    cdef uint8_t c
    if not behind_scheme and at != scan.url:
        return False
    at = next
    while at < scan.size:
        c = decoded(scan.text, at, scan.size, &following, &depth)
        if c != 47 and c != 92:
            break
        slashes += 1
        begun = depth
        at = following
    scan.at = at
    if slashes == 1 and not (behind_scheme and is_scheme(scan.text, scan.url, scan.colon)):
        return False
    return user_info(
        scan, at, begun, slashes == 2 and (behind_scheme or (scan.kind != TARGET and not scan.queried)), cut)


cdef void begin_scan(Scan* scan, const uint8_t* text, size_t size, uint8_t kind, const Names* listed) noexcept nogil:
    memset(scan, 0, sizeof(Scan))
    scan.listed = listed
    scan.text = text
    scan.size = size
    scan.kind = kind
    scan.colon_end = size + 1


cdef inline void begin_name(Scan* scan, size_t at) noexcept nogil:
    scan.name = at
    scan.url = at
    scan.odd = False


cdef bint next_hidden(Scan* scan, Cut* cut) noexcept nogil:
    """The next value of a query whose values are all redacted."""
    cdef size_t at = scan.at
    cdef size_t end
    cdef size_t value
    while at < scan.size:
        end = value = at
        while end < scan.size and scan.text[end] != 38:         # &
            if scan.text[end] == 61 and value == at:            # =
                value = end + 1
            end += 1
        scan.at = end + 1
        if value < end:
            cut.at = value
            cut.end = end
            cut.marked = True
            return True
        at = end + 1
    return False


cdef bint next_cut(Scan* scan, Cut* cut) noexcept nogil:
    cdef const uint8_t* text = scan.text
    cdef size_t size = scan.size
    cdef size_t at
    cdef size_t next = 0
    cdef uint32_t depth = 0
    cdef uint8_t c
    if scan.at == 0 and scan.kind == TARGET and scan.size and scan.text[0] != 47:
        if user_info(scan, 0, 0, True, cut):    # authority-form, RFC 9112 section 3.2.3
            scan.at = cut.end
            begin_name(scan, cut.end)
            return True
    while True:
        if scan.all and scan.queried:
            return next_hidden(scan, cut)
        at = scan.at
        while at < size and plain[text[at]]:
            at += 1
        if at >= size:
            return False
        c = decoded(text, at, size, &next, &depth)
        scan.at = next
        if c == 61:                                             # =
            if scan.listed.count and is_secret(scan, at):
                cut.at = next
                cut.end = value_end(scan, next, depth)
                cut.marked = True
                scan.at = cut.end
                begin_name(scan, cut.end)
                return True
            begin_name(scan, next)
        elif c == 38 or c == 59:                                # & ;
            begin_name(scan, next)
        elif c == 63 or c == 35:                                # ? #
            scan.queried = True
            begin_name(scan, next)
        else:
            scan.odd = True
            if c == 58:                                         # :
                scan.colon = at
                scan.colon_end = next
            elif c == 47 or c == 92:                            # / \
                if at_slash(scan, at, next, depth, cut):
                    scan.at = cut.end
                    return True
            elif depth == 0 and (c == 60 or c == 62) and scan.kind == LINK:
                scan.queried = False
                begin_name(scan, next)
            elif c <= 32 or c == 34 or c == 39 or c == 40 or c == 44 or c == 60:    # blank " ' ( , <
                scan.url = next


# ---- in Python -------------------------------------------------------------------------------------------------------

cdef str REDACTED = "[REDACTED]"

is_mark = re.compile(rb"\[REDACTED(?::[0-9a-f]{32}:[0-9]{1,20})?\]").fullmatch
ends_in_mark = re.compile(rb"\[REDACTED(?::[0-9a-f]{32}:[0-9]{1,20})?\]\Z").search


@cython.final
cdef class Redaction:
    """The redacted names, and the marks that replace their values."""

    def __cinit__(self, headers, query, bytes key, bint again=False):
        self.header_names = list_fields(headers, &self.headers)
        self.parameter_names = list_parameters(query, &self.query)
        self.key = key
        self.again = again

    def __dealloc__(self):
        free_names(&self.headers)
        free_names(&self.query)

    cdef str mark(self, str value):
        """The mark that replaces a value. With a key equal values have equal marks: HMAC-SHA-256, and the length."""
        if self.key is None:
            return REDACTED
        return self.mark_bytes(value.encode("latin-1")).decode("ascii")

    cdef bytes mark_bytes(self, bytes value):
        """The mark of a value, with the key."""
        if self.again and is_mark(value) is not None:
            return value
        return f"[REDACTED:{hmac_digest(self.key, value, 'sha256')[:16].hex()}:{len(value)}]".encode("ascii")

    cdef str url(self, const uint8_t* text, size_t size, uint8_t kind, bint all=False):
        """Returns a redacted URL. Without a key put_url() must write the same."""
        cdef Scan scan
        cdef Cut cut
        cdef size_t shown = 0
        cdef list parts = []
        if not all and is_plain(text, size, &self.query):
            return PyUnicode_DecodeLatin1(<char*>text, <Py_ssize_t>size, NULL)
        begin_scan(&scan, text, size, kind, &self.query)
        scan.all = all
        while next_cut(&scan, &cut):
            parts.append(PyUnicode_DecodeLatin1(<char*>text + shown, <Py_ssize_t>(cut.at - shown), NULL))
            if cut.marked:
                parts.append(
                    self.mark(PyUnicode_DecodeLatin1(<char*>text + cut.at, <Py_ssize_t>(cut.end - cut.at), NULL)))
            shown = cut.end
        parts.append(PyUnicode_DecodeLatin1(<char*>text + shown, <Py_ssize_t>(size - shown), NULL))
        return "".join(parts)
