"""What a record can say of a message that is not whole, or odd: each word is declared here, and nowhere else.

Everything else is made from the two tables: the enums of marks.pxd (`python -m sniffer_core.base.marks >
sniffer_core/base/marks.pxd`), the counters, the words in a record, its JSON Schema, the tables of the documents. A word
keeps its place: its number is compiled into the core.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import chain
from typing import Final

INCOMPLETE: Final[dict[str, str]] = {
    "gap": "bytes that were not captured",
    "closed": "the end of the connection",
    "evicted": "a limit on connections or memory",
    "idle": "`CONNECTION_IDLE_TIMEOUT_MS`",
    "stopped": "the end of the capture",
    "malformed": "framing that cannot be read: an invalid length, a broken chunk, a bad line that may be a framing "
    "field, a start line among trailers",
    "limit": "a head or trailers beyond 64 KiB",
    "reset": "RST_STREAM, which ends a stream of HTTP/2",
}
"""`incomplete`: what cuts a message. Counted as `incomplete_<word>`."""

ANOMALIES: Final[dict[str, str]] = {
    "te-and-cl": "Transfer-Encoding beside Content-Length: read as chunked (RFC 9112 §6.1)",
    "te-in-http10": "Transfer-Encoding in HTTP/1.0",
    "te-not-chunked": "Transfer-Encoding that does not end in chunked",
    "te-folded": "Transfer-Encoding continued on a folded line",
    "cl-repeated": "the same Content-Length more than once",
    "cl-zero-padded": "Content-Length with leading zeros",
    "cl-conflicting": "Content-Lengths that differ",
    "cl-invalid": "Content-Length that is no number, has a sign or is too large",
    "space-before-colon": "white space between a header's name and its colon",
    "space-in-target": "spaces inside the request target",
    "conflicting-overlap": "bytes that were sent twice, with different content; the first were kept",
    "bare-lf": "lines that end in LF alone",
    "obs-fold": "folded header lines",
    "body-not-sent": "a request whose body was refused before it was sent, so that the next request follows its head",
    "bad-header-line": "header or trailer lines that are no fields (no colon, an invalid name, a NUL or a bare CR)."
    " They are left out, with the lines that continue them. If the name without blanks and controls is that of a "
    "framing field, the message is `malformed`",
    "te-identity": "Transfer-Encoding that names `identity`, which is no coding. If it is the only one, it is "
    "ignored, and the other length decides",
    "odd-start-line": "a start line that RFC 9112 does not allow, and that servers or clients accept: `http/1.1`, "
    "`HTTP/1.01`, several blanks between its parts, blanks behind a request line (not part of `path`), `HTTP/2.0 "
    "200` in text (read as 1.1)",
    "last-crlf-missing": "a chunked body without its last CRLF. The next message began in a segment of its own, and"
    " the other direction proves that it was a message",
    "pseudo-header": "HTTP/2: a pseudo-header field that is missing, repeated, unknown or behind other fields (RFC 9113"
    " §8.3). The first of a name is used",
    "connection-field": "HTTP/2: a field of a connection, which HTTP/2 does not have (RFC 9113 §8.2.2), such as "
    "`transfer-encoding`",
    "bad-field": "HTTP/2: fields whose name or value is invalid (RFC 9113 §8.2.1). They are left out",
    "length-mismatch": "HTTP/2: Content-Length differs from the size of the body (RFC 9113 §8.1.1)",
    "stream-state": "HTTP/2: a frame that its stream's state does not allow, such as DATA behind END_STREAM",
}
"""`anomalies`: what is odd about a message. Counted as `anomaly_<word>`."""

MOST: Final = 32
"""Anomalies that there can be: a message has a bit for each."""


def constant(prefix: str, word: str) -> str:
    """The enumerator for a word: `BIT_TE_AND_CL` for `te-and-cl`."""
    return prefix + word.upper().replace("-", "_")


def counter(prefix: str, word: str) -> str:
    """The counter for a word: `anomaly_te_and_cl` for `te-and-cl`."""
    return prefix + word.replace("-", "_")


def brief(meaning: str) -> str:
    """The first sentence of a meaning."""
    return meaning.partition(". ")[0]


def tables() -> Iterator[list[str]]:
    """The lines of the two Markdown tables of docs/RECORD.md."""
    for title, marks in (("| `incomplete` | cut by |", INCOMPLETE), ("| name | what was seen |", ANOMALIES)):
        yield [title, "|---|---|", *(f"| `{word}` | {meaning} |" for word, meaning in marks.items())]


def declarations(incomplete: dict[str, str] = INCOMPLETE, anomalies: dict[str, str] = ANOMALIES) -> Iterator[str]:
    """The lines of marks.pxd."""
    if len(anomalies) > MOST:
        raise ValueError(f"there are more than {MOST} anomalies")
    yield "# Generated from marks.py: `python -m sniffer_core.base.marks > sniffer_core/base/marks.pxd`."
    yield ""
    yield "cdef enum Incomplete:       # why a message is not whole"
    yield "    WHOLE = 0"
    for number, word in enumerate(incomplete, 1):
        yield f"    {constant('INCOMPLETE_', word)}_ = {number}"
    yield ""
    yield "cdef enum Anomaly:          # bits of Message.anomalies"
    for number, word in enumerate(anomalies):
        yield f"    {constant('BIT_', word)} = 1 << {number}"
    yield ""
    yield "cdef enum:"
    yield f"    INCOMPLETE_COUNT = {len(incomplete)}"
    yield f"    ANOMALY_COUNT = {len(anomalies)}"


if __name__ == "__main__":
    shown = chain.from_iterable(tables()) if "tables" in sys.argv else declarations()
    sys.stdout.writelines(f"{line}\n" for line in shown)
