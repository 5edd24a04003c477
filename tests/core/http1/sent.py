"""Messages as their senders meant them, for the properties of the HTTP/1 parser."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from tests.core.http1.reading import REQUEST, RESPONSE

names = st.sampled_from([b"A", b"Host", b"X-Long-Name", b"cookie", b"Set-Cookie", b"!#$%&'*+-.^_`|~09azAZ"])


plain_values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40).map(
    lambda text: text.strip().encode()
)


values = st.one_of(plain_values, st.sampled_from([b"\xc3\xa4", b"a\tb", b"a" * 300, b"\x01"]))


fields_of = st.lists(st.tuples(names, values), max_size=6)


targets = st.sampled_from([b"/", b"/a?b=c", b"*", b"http://h/p", b"/a b", b"/\xe4", b"/" + b"x" * 200])


chunk_lists = st.lists(st.binary(min_size=1, max_size=60), max_size=5)


@dataclass(frozen=True)
class Sent:
    """A message as its sender meant it, and its bytes."""

    data: bytes
    fields: Sequence[tuple[bytes, bytes]]
    body: bytes
    trailers: Sequence[tuple[bytes, bytes]] | None
    start: tuple[Any, ...]


def lines_of(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(name + b": " + value + b"\r\n" for name, value in fields)


bad_lines = st.sampled_from([b"no colon", b": 1", b"A b: secret", b"A: a\rb", b"A: \x00\r\n continued", b"A: \x0c"])


odd_requests = st.tuples(
    st.sampled_from([b" ", b"  "]),
    st.sampled_from([b" HTTP/1.1", b"  http/1.1", b" HTTP/01.01"]),
    st.sampled_from([b"", b" ", b"\t"]),
)


odd_versions = st.sampled_from([b"HTTP/1.1 ", b"HTTP/1.1  ", b"http/1.1\t", b"HTTP/2.0 ", b"HTTP/2 ", b"HTTP/1.01 "])


@st.composite
def sent_messages(draw: st.DrawFn, kind: int, methods: Sequence[bytes], odd: bool = False) -> Sent:
    """A valid message of self-evident length; `odd`: as servers and clients take it, all the same."""
    fields = draw(fields_of)
    bad = draw(st.lists(bad_lines, max_size=2)) if odd else []
    trailers: list[tuple[bytes, bytes]] | None = None
    status = 200
    start: tuple[Any, ...]
    if kind == REQUEST:
        method, target = draw(st.sampled_from(methods)), draw(targets)
        before, between, after = draw(odd_requests) if odd else (b" ", b" HTTP/1.1", b"")
        line, start = method + before + target + between + after + b"\r\n", (method, target)
    else:
        status, reason = (
            draw(st.sampled_from([200, 204, 304, 404, 599])),
            draw(st.sampled_from([b"", b"OK", b"\xe4 b"])),
        )
        version = draw(odd_versions) if odd else b"HTTP/1.1 "
        line, start = version + b"%d %s\r\n" % (status, reason), (status, reason)
    shape = draw(st.sampled_from(["none", "length", "chunked"]))
    body = payload = b""
    if status in (204, 304):
        shape = "none"
    elif shape == "none" and kind == RESPONSE:
        shape = "length"
    if shape == "length":
        body = payload = draw(st.binary(max_size=100))
        fields = [*fields, (b"Content-Length", b"%d" % len(body))]
    elif shape == "chunked":
        chunks = draw(chunk_lists)
        body = b"".join(chunks)
        extension = draw(st.sampled_from([b"", b";a", b' ; b="c"']))
        trailers = draw(fields_of) or None
        payload = b"".join(b"%x%s\r\n%s\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
        payload += b"0\r\n" + lines_of(trailers or ()) + b"\r\n"
        fields = [(b"Transfer-Encoding", b"chunked"), *fields]
    lines = lines_of(fields[:1]) + b"".join(line + b"\r\n" for line in bad) + lines_of(fields[1:])
    return Sent(line + lines + b"\r\n" + payload, fields, body, trailers, start)


KNOWN = (b"GET", b"POST", b"PURGE")


def conversations(kind: int, methods: Sequence[bytes] = KNOWN, odd: bool = False) -> st.SearchStrategy[list[Sent]]:
    return st.lists(sent_messages(kind, methods, odd), min_size=1, max_size=5)


def cut_at(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(places)]


cuts = st.lists(st.integers(0, 5000), max_size=40)


def as_sent(kind: int, message: dict[str, Any]) -> tuple[Any, ...]:
    start = (message["method"], message["target"]) if kind == REQUEST else (message["status"], message["reason"])
    return (start, message["fields"], message["body"], message["trailers"])
