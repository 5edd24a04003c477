"""Builders of HTTP/2: frames by hand, and conversations whose header blocks the `hpack` package encodes."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import hpack
from hpack.struct import NeverIndexedHeaderTuple

from tests import packets as p
from tests.conversations import CLIENT, SERVER, Conversation, Segment, random_sizes, whole

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 1, 1, 4, 8, 32

Field = tuple[str, str]
REQUEST: tuple[Field, ...] = ((":method", "GET"), (":scheme", "http"), (":authority", "example.test"), (":path", "/"))
RESPONSE: tuple[Field, ...] = ((":status", "200"),)


def frame(type_: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """RFC 9113 section 4.1."""
    return struct.pack("!I", len(payload))[1:] + bytes([type_, flags]) + struct.pack("!I", stream) + payload


def settings(*entries: tuple[int, int], ack: bool = False) -> bytes:
    return frame(SETTINGS, ACK if ack else 0, 0, b"".join(struct.pack("!HI", *entry) for entry in entries))


def reset(stream: int, code: int) -> bytes:
    return frame(RST, 0, stream, struct.pack("!I", code))


def literal(fields: Iterable[Field], never: Iterable[str] = ()) -> bytes:
    """A block of literals without indexing, which needs no table."""
    block = b""
    hidden = set(never)
    for name, value in fields:
        block += b"\x10" if name in hidden else b"\0"
        for text in (name.encode("latin-1"), value.encode("latin-1")):
            size = len(text)
            block += bytes([size]) if size < 127 else b"\x7f" + _rest(size - 127)
            block += text
    return block


def _rest(size: int) -> bytes:
    out = []
    while size >= 128:
        out.append(size & 127 | 128)
        size >>= 7
    return bytes([*out, size])


def headers(stream: int, fields: Iterable[Field], *, end: bool = False, never: Iterable[str] = ()) -> bytes:
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, literal(fields, never))


def data(stream: int, body: bytes, *, end: bool = False) -> bytes:
    return frame(DATA, END_STREAM if end else 0, stream, body)


def request(path: str, *more: Field, method: str = "GET") -> tuple[Field, ...]:
    return ((":method", method), (":scheme", "http"), (":authority", "example.test"), (":path", path), *more)


@dataclass
class Call:
    """What one stream says, and what its records must be."""

    stream: int
    request: Sequence[Field]
    response: Sequence[Field]
    asked: bytes = b""
    answered: bytes = b""
    trailers: Sequence[Field] = ()
    interim: Sequence[int] = ()


def plain(fields: Iterable[Field]) -> dict[str, Any]:
    """Fields as a record has them."""
    shown: dict[str, Any] = {}
    for name, value in fields:
        if not name.startswith(":"):
            shown[name] = f"{shown[name]}{'; ' if name == 'cookie' else ', '}{value}" if name in shown else value
    return shown


@dataclass
class Talk:
    """A connection of several streams, as its two ends write it."""

    calls: Sequence[Call]
    random: Random
    writes: list[tuple[int, bytes]] = field(default_factory=list)
    indexed: bool = True

    def __post_init__(self) -> None:
        self.encoders = [hpack.Encoder(), hpack.Encoder()]
        self.writes.append((CLIENT, PREFACE + settings((3, 100))))
        self.writes.append((SERVER, settings((4, 65535)) + settings(ack=True)))
        self.writes.append((CLIENT, settings(ack=True)))
        for start in range(0, len(self.calls), 4):
            group = self.calls[start : start + 4]
            self.mix([self.sent(CLIENT, call) for call in group], CLIENT)
            self.mix([self.sent(SERVER, call) for call in group], SERVER)

    def block(self, side: int, stream: int, fields: Sequence[Field], *, end: bool) -> bytes:
        """HEADERS, at times padded, with a priority, or continued."""
        made = [NeverIndexedHeaderTuple(*each) if each[0] == "x-secret" else each for each in fields]
        encoded = self.encoders[side].encode(made, huffman=self.random.random() < 0.7)
        flags = END_STREAM if end else 0
        cut = self.random.randint(1, len(encoded)) if self.random.random() < 0.2 else len(encoded)
        first, rest = encoded[:cut], encoded[cut:]
        if self.random.random() < 0.2:
            first = struct.pack("!IB", self.random.choice((0, 1)), 15) + first
            flags |= WITH_PRIORITY
        if self.random.random() < 0.2:
            first = b"\x05" + first + bytes(5)
            flags |= PADDED
        if not rest:
            return frame(HEADERS, flags | END_HEADERS, stream, first)
        return frame(HEADERS, flags, stream, first) + frame(CONTINUATION, END_HEADERS, stream, rest)

    def sent(self, side: int, call: Call) -> list[Any]:
        """What a side sends on a stream. Header blocks are functions, as they are encoded in the order of sending."""
        fields, body = (call.request, call.asked) if side == CLIENT else (call.response, call.answered)
        trailers = call.trailers if side == SERVER else ()
        parts: list[Any] = []
        if side == SERVER:
            parts += [
                partial(self.block, side, call.stream, [(":status", str(one))], end=False) for one in call.interim
            ]
        parts.append(lambda: self.block(side, call.stream, fields, end=not body and not trailers))
        at = 0
        while at < len(body):
            size = self.random.randint(1, max(1, len(body)))
            piece, at = body[at : at + size], at + size
            end = at >= len(body) and not trailers
            if self.random.random() < 0.2:
                parts.append(frame(DATA, PADDED | (END_STREAM if end else 0), call.stream, b"\3" + piece + bytes(3)))
            else:
                parts.append(data(call.stream, piece, end=end))
        if trailers:
            parts.append(lambda: self.block(side, call.stream, trailers, end=True))
        return parts

    def mix(self, streams: list[list[Any]], side: int) -> None:
        """Writes the frames of several streams, those of each in their order."""
        begun = 0
        while any(streams):
            # A client opens its streams in the order of their numbers (RFC 9113 section 5.1.1).
            place = self.random.choice([at for at, each in enumerate(streams) if each and at <= begun])
            begun = max(begun, place + 1)
            part = streams[place].pop(0)
            self.writes.append((side, part() if callable(part) else part))
            if self.random.random() < 0.1:
                other = self.random.choice((frame(PING, 0, 0, bytes(8)), frame(0xB0, 7, 3, b"grease")))
                self.writes.append((side, other))

    def segments(self, most: int = 0) -> list[Segment]:
        """A segment for each write, or pieces of at most `most` bytes, cut at random."""
        cut = random_sizes(self.random, most) if most else whole
        return Wire(exchanges=(), said=tuple(self.writes)).segments(cut)

    def packets(self, segments: Sequence[Segment]) -> list[p.Packet]:
        return Wire(exchanges=()).packets(segments)

    def expected(self) -> list[dict[str, Any]]:
        """The records of all calls, by stream, the request first."""
        records = []
        for call in self.calls:
            pseudo = dict(call.request)
            common = {"stream_id": call.stream, "method": pseudo[":method"], "path": pseudo[":path"]}
            records.append(
                common
                | {"direction": "request", "headers": plain(call.request), "body": call.asked, "status_code": None}
                | {"trailers": None, "informational": ()}
            )
            records.append(
                common
                | {"direction": "response", "headers": plain(call.response), "body": call.answered}
                | {"status_code": int(dict(call.response)[":status"]), "informational": tuple(call.interim)}
                | {"trailers": plain(call.trailers) if call.trailers else None}
            )
        return records


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire(Conversation):
    """Writes as a Conversation, which makes segments and packets of them."""

    said: tuple[tuple[int, bytes], ...] = ()

    def writes(self) -> Iterator[tuple[int, bytes]]:
        return iter(self.said)


def shown(message: Any) -> dict[str, Any]:
    """What Talk.expected() says of a message, from one that came out."""
    names = (
        "stream_id", "method", "path", "direction", "headers", "body", "status_code", "trailers", "informational",
    )  # fmt: skip
    return {name: getattr(message, name) for name in names}


def by_stream(messages: Iterable[Any]) -> list[dict[str, Any]]:
    return sorted(map(shown, messages), key=lambda record: (record["stream_id"], record["direction"]))


def calls(random: Random, count: int) -> list[Call]:
    """Calls that can be told apart: everything that a record shows has the stream's number."""
    made = []
    for number in range(count):
        stream = 2 * number + 1
        body = random.randbytes(random.choice((0, 1, 40, 3000)))
        answer = b"%d:" % stream + random.randbytes(random.choice((0, 40, 3000)))
        lengths = random.random() < 0.5
        fields = [("content-length", str(len(body)))] if lengths else []
        made.append(
            Call(
                stream=stream,
                request=request(
                    f"/{random.choice('abc')}/{stream}", *fields, ("cookie", "a=1"), ("cookie", f"b={stream}"),
                    ("x-secret", f"s{stream}"), ("x-kind", random.choice(("one", "two"))), method="POST",
                ),
                response=[
                    (":status", random.choice(("200", "404"))), ("x-stream", str(stream)), ("server", "x"),
                    *([("content-length", str(len(answer)))] if lengths else []),
                ],
                asked=body,
                answered=answer,
                trailers=[("grpc-status", "0"), ("x-last", str(stream))] if random.random() < 0.5 else [],
                interim=random.choice(((), (), (103,))),
            )
        )  # fmt: skip
    return made
