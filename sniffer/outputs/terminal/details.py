"""Heads and bodies of an exchange, below its line.

All of it comes from the records, so it is redacted as they are. Every text passes `printable`, and how much of a body
is shown is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_plus

from rich.segment import Segment
from rich.style import Style

from sniffer.logs import printable
from sniffer.outputs.terminal.lines import BOLD, DIM, MARK, PLAIN

if TYPE_CHECKING:
    from sniffer.exchanges import Exchange
    from sniffer.record.message import HttpMessage

MOST_LINES: Final = 40
"""Lines of a body that are shown."""
MOST_BODY: Final = 32 << 10
"""Characters of a body that are looked at."""
DEEPEST: Final = 20
"""Levels of indentation: what is nested deeper is not moved further."""
NAME: Final = Style(color="cyan")
TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"?|[{}\[\],:]|[^\s"{}\[\],:]+')
"""A token of JSON: a text, which may be cut, a mark of the grammar, or anything else between those."""


def details(exchange: Exchange, width: int, *, bodies: bool, more: str = "…") -> Iterator[list[Segment]]:
    """The lines of both messages: start line and fields, and with `bodies` the bodies, each no longer than `width`.

    `more` marks what was cut.
    """
    for message in exchange:
        if message is None:
            continue
        arrow = ">" if message.direction == "request" else "<"
        yield _line(arrow, [(_start_line(message), BOLD)], width, more)
        for fields in (message.headers, message.trailers or {}):
            for name, value in fields.items():
                for each in (value,) if isinstance(value, str) else value:
                    yield _line(arrow, [(f"{name}: ", NAME), (each, PLAIN)], width, more)
        if bodies:
            for text, style in _body(message, more):
                yield _line(arrow, [(text, style)], width, more)
    yield []


def _line(arrow: str, parts: list[tuple[str, Style]], width: int, more: str) -> list[Segment]:
    line = [Segment(f"  {arrow} ", DIM)]
    left = width - 4
    for text, style in parts:
        shown = printable(text[: left + 1])
        if len(shown) > left:
            shown = (shown[: max(left - len(more), 0)] + more)[: max(left, 0)]
        left -= len(shown)
        line.append(Segment(shown, style))
    return line


def _start_line(message: HttpMessage) -> str:
    version = f"HTTP/{message.http_version}"
    if message.direction == "request":
        return f"{message.method} {message.path} {version}"
    return f"{version} {message.status_code} {message.reason or ''}".rstrip()


def _body(message: HttpMessage, more: str) -> Iterator[tuple[str, Style]]:
    """The lines of a body, and what is to be said of it."""
    if message.body is None:
        if message.body_size:
            why = "left out: it cannot be redacted safely" if message.body_redacted == "all" else "not kept"
            yield f"{message.body_size:,} bytes, {why}", MARK
        return
    yield "", PLAIN
    if message.body_encoding is not None:
        kind = message.headers.get("content-type")
        yield f"{kind if isinstance(kind, str) else 'binary'}, {message.body_size:,} bytes", DIM
    else:
        rest = 0
        lines = _pretty(message)
        for line in islice(lines, MOST_LINES):
            yield line, PLAIN
        rest = sum(1 for _ in lines)
        if rest:
            yield f"{more} {rest:,} more lines", MARK
        if len(message.body) > MOST_BODY:
            yield f"{more} {len(message.body) - MOST_BODY:,} more characters", MARK
    if message.body_truncated:
        yield f"{more} cut by the capture: {message.body_size:,} bytes were sent", MARK


def _pretty(message: HttpMessage) -> Iterator[str]:
    text = (message.body or "")[:MOST_BODY]
    kind = message.headers.get("content-type", "")
    kind = (kind if isinstance(kind, str) else "").partition(";")[0].strip().lower()
    if kind.endswith("json") or (not kind and text[:1] in ("{", "[")):
        return pretty_json(text)
    if kind == "application/x-www-form-urlencoded":
        return (f"{unquote_plus(name)} = {unquote_plus(value)}" for name, _, value in _pairs(text))
    return iter(text.splitlines())


def _pairs(text: str) -> Iterator[tuple[str, str, str]]:
    return (pair.partition("=") for pair in text.split("&"))


def pretty_json(text: str) -> Iterator[str]:
    """The lines of a JSON text, indented by its marks alone.

    Nothing is parsed: numbers, doubled keys and escapes stay as they were sent, and a text that was cut, or is no JSON,
    is shown as far as it goes. Several values behind each other (JSON lines) each begin a line.
    """
    line, depth, before = "", 0, ""
    for match in TOKEN.finditer(text):
        part = match[0]
        ends = part in ("}", "]")
        if ends:
            depth = max(depth - 1, 0)
        beside = before in ("{", "[") if ends else before not in ("{", "[", ",")
        if not ends and not depth and before and before != ":" and part not in (",", ":"):
            beside = False  # another value behind the first
        if before and not beside:
            yield line
            line = "  " * min(depth, DEEPEST)
        line += ": " if part == ":" else part
        depth += part in ("{", "[")
        before = part
    if line:
        yield line
