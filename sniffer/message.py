"""The public record: one HTTP message as a Python object, its JSON Schema, and the decoding of bodies.

The definition of `HttpMessage` is the only one: the schema in docs/ is made from it (`json_schema`), and the core's
renderer (`RawMessage.to_json`) writes byte for byte what it encodes to; tests/test_render.py holds the core to that.

Rules of the JSON: fields in the order of `HttpMessage`, absent ones left out, no white space, UTF-8, time stamps with
six digits and `Z`, milliseconds as the shortest decimal number with at least one and at most three digits after the
point.

Nothing is redacted here: what the core hands out is redacted already.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain, repeat
from time import gmtime, strftime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple, NoReturn, cast

import brotli
import msgspec
import zstandard
from isal import isal_zlib
from msgspec import Meta

if TYPE_CHECKING:
    from sniffer_core.core import RawMessage

SCHEMA: Final = 1
MAX_CODINGS: Final = 4
ZSTD_WINDOW: Final = 8 << 20  # RFC 9659: what a decoder must support, and may refuse more than

_STAMP: Final = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$"

Incomplete = Literal["gap", "closed", "evicted", "idle", "stopped", "malformed", "limit"]


class Endpoint(msgspec.Struct, frozen=True, order=True):
    """One end of a connection."""

    ip: Annotated[str, Meta(description="IPv4 or IPv6 address.")]
    port: Annotated[int, Meta(description="TCP port.", ge=0, le=65535)]


class Placement(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the sniffer runs, from the downward API."""

    pod: Annotated[str | None, Meta(description="POD_NAME.")] = None
    namespace: Annotated[str | None, Meta(description="NAMESPACE.")] = None
    node: Annotated[str | None, Meta(description="NODE_NAME.")] = None


class Proxied(msgspec.Struct, frozen=True):
    """The ends that a PROXY protocol header names: whose connection a load balancer carries on."""

    source: Annotated[Endpoint, Meta(description="The client that the load balancer speaks for.")]
    destination: Annotated[Endpoint, Meta(description="What that client connected to.")]


class Fields(dict[str, "str | tuple[str, ...]"]):
    """Header or trailer fields of one message. Cannot be changed: every sink gets the same object."""

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("the fields of a message cannot be changed; dict(fields) is a copy")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> Any:
        return type(self), (dict(self),)


FieldValues = Mapping[str, str | tuple[str, ...]]


class HttpMessage(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel", dict=True):
    """One HTTP/1.x message (request or final response). Attributes that do not apply are None (or False)."""

    schema: Annotated[Literal[1], Meta(description="Version of this record.")]
    receiver: Annotated[Endpoint, Meta(description="The server: the end whose port is one of the captured ports.")]
    destination: Annotated[Endpoint, Meta(description="The other end: the client.")]
    direction: Annotated[Literal["request", "response"], Meta(description="Which of the two it is.")]
    timestamp: Annotated[
        str,
        Meta(
            description="Packet time of the message's first byte: ISO 8601, UTC, microseconds.",
            pattern=_STAMP,
        ),
    ]
    headers: Annotated[
        FieldValues,
        Meta(
            description="Names in lower case, in order of first appearance; a repeated name is joined with ', ' "
            "(cookie with '; '); set-cookie is always an array. Values named in REDACT_HEADERS are [REDACTED], "
            "URLs redacted as path is.",
        ),
    ]
    connection_id: Annotated[
        str, Meta(description="The same for every message of one TCP connection.", pattern="^[0-9a-f]{32}$")
    ]
    exchange: Annotated[
        int,
        Meta(description="Number of the exchange within the connection; a request and its response share it.", ge=0),
    ]
    http_version: Annotated[Literal["1.0", "1.1"], Meta(description="Of its start line.")]
    method: Annotated[str | None, Meta(description="Requests, and responses whose request was seen.")] = None
    path: Annotated[
        str | None,
        Meta(description="The request target as sent, query included, without user info, parameters redacted."),
    ] = None
    status_code: Annotated[int | None, Meta(description="Responses.")] = None
    reason: Annotated[str | None, Meta(description="Responses.")] = None
    informational: Annotated[tuple[int, ...] | None, Meta(description="The 1xx that came before this response.")] = None
    latency_ms: Annotated[
        float | None, Meta(description="Last byte of the request to first byte of the response, milliseconds.")
    ] = None
    body: Annotated[str | None, Meta(description="Text where it is valid UTF-8, else base64.")] = None
    body_encoding: Annotated[Literal["base64"] | None, Meta(description="Present when the body is base64.")] = None
    body_size: Annotated[
        int, Meta(description="Bytes of body seen on the wire, after de-chunking; exact past the cap.", ge=0)
    ] = -1  # a default that no message has: always written, as a field without one, which cannot stand here
    body_truncated: Annotated[
        bool, Meta(description="The body was cut, by MAX_BODY_SIZE, the memory budget or OUTPUT_STDOUT_MAX_LINE.")
    ] = False
    headers_truncated: Annotated[
        bool,
        Meta(description="Header values, or more of the head, were cut to fit a line (OUTPUT_STDOUT_MAX_LINE)."),
    ] = False
    body_decoded: Annotated[str | None, Meta(description="The content codings that were removed.")] = None
    trailers: Annotated[FieldValues | None, Meta(description="Fields after a chunked body.")] = None
    incomplete: Annotated[Incomplete | None, Meta(description="What cut a message that is not whole.")] = None
    missing_bytes: Annotated[Annotated[int, Meta(ge=0)] | None, Meta(description="Bytes known to be missing.")] = None
    resynced: Annotated[
        bool, Meta(description="First message of its direction after bytes were lost whose extent is unknown.")
    ] = False
    anomalies: Annotated[tuple[str, ...] | None, Meta(description="Oddities, by name.")] = None
    trace_id: Annotated[str | None, Meta(description="Of the request's valid traceparent (W3C Trace Context).")] = None
    span_id: Annotated[str | None, Meta(description="Of the request's valid traceparent (W3C Trace Context).")] = None
    placement: Annotated[Placement | None, Meta(description="Pod, namespace and node of the sniffer.")] = None
    end_timestamp: Annotated[
        str,
        Meta(
            description="Packet time of the last byte that was read of the message: ISO 8601, UTC, microseconds.",
            pattern=_STAMP,
        ),
    ] = ""  # as with body_size: always written
    duration_ms: Annotated[
        float | None,
        Meta(description="First byte of the request to the last byte that was read of the response, milliseconds."),
    ] = None
    authority: Annotated[
        str | None,
        Meta(description="The host that was asked, with its port if it was named, in lower case, without user info."),
    ] = None
    proxied: Annotated[
        Proxied | None,
        Meta(description="Connections that begin with a PROXY protocol header: the ends that it names."),
    ] = None

    def to_json(self) -> bytes:
        """This record as JSON, without a line end. Rendered once: every sink gets the same bytes."""
        kept: dict[str, bytes] = self.__dict__
        json = kept.get("json")
        if json is None:
            json = kept["json"] = _encode(self)
        return json

    @property
    def timestamp_us(self) -> int:
        """`timestamp` in microseconds since 1970, UTC."""
        kept: dict[str, int] = self.__dict__
        micros = kept.get("timestamp")
        return _micros(self.timestamp) if micros is None else micros

    @property
    def end_timestamp_us(self) -> int:
        """`end_timestamp` in microseconds since 1970, UTC."""
        kept: dict[str, int] = self.__dict__
        micros = kept.get("end_timestamp")
        return _micros(self.end_timestamp) if micros is None else micros

    @property
    def idempotency_key(self) -> str:
        """The same each time that this message is sent, and different for any other message."""
        return f"{self.connection_id}-{self.exchange}-{self.direction}"


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_encode = msgspec.json.Encoder().encode


def from_raw(raw: RawMessage, placement: Placement | None = None) -> HttpMessage:
    """The public form of `raw`."""
    body, encoding, truncated, decoded = raw.content
    latency = raw.latency_us
    duration = raw.duration_us
    trailers = raw.trailers
    # By position, in the order of the definition: by keyword it takes several times as long.
    message = HttpMessage(
        SCHEMA,
        _endpoint(raw.receiver),
        _endpoint(raw.destination),
        raw.direction,
        _stamp(raw.timestamp),
        _freeze(raw.headers),
        raw.connection_id,
        raw.exchange,
        raw.http_version,
        raw.method,
        raw.path,
        raw.status_code,
        raw.reason,
        raw.informational or None,
        None if latency is None else latency / 1000,
        body,
        encoding,
        raw.body_size,
        truncated,
        False,  # of no message, only of the line that is made of it
        decoded,
        _freeze(trailers) if trailers else None,
        raw.incomplete,
        raw.missing_bytes,
        raw.resynced,
        raw.anomalies or None,
        raw.trace_id,
        raw.span_id,
        placement,
        _stamp(raw.end_timestamp),
        None if duration is None else duration / 1000,
        raw.authority,
        None if raw.proxied is None else Proxied(*map(_endpoint, raw.proxied)),
    )
    kept: dict[str, int] = message.__dict__
    kept["timestamp"] = raw.timestamp
    kept["end_timestamp"] = raw.end_timestamp
    return message


@lru_cache(maxsize=1024)
def _endpoint(address: tuple[str, int]) -> Endpoint:
    return Endpoint(*address)


@lru_cache(maxsize=64)
def _second(second: int) -> str:
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(second))


def _stamp(micros: int) -> str:
    second, micro = divmod(micros, 1_000_000)
    return f"{_second(second)}.{micro:06d}Z"


def _micros(stamp: str) -> int:
    """The reverse of `_stamp`, for messages that were not made of a RawMessage."""
    return (datetime.fromisoformat(stamp) - _EPOCH) // _MICROSECOND


def _freeze(fields: dict[str, str | list[str]]) -> Fields:
    if "set-cookie" in fields:
        fields["set-cookie"] = tuple(fields["set-cookie"])  # type: ignore[assignment]
    return Fields(fields)  # type: ignore[arg-type]


# Bodies
#
# What a decoder takes, in time and in memory, is bounded by its input, by the room for its output and by one window,
# and what it gives depends on the bytes alone. So input goes in by steps: what a decoder has not used of one is copied
# over and over (a gzip body of empty members would cost the square of its size).


IsalError: Final = cast("type[Exception]", isal_zlib.error)  # declared as an instance

STEPS: Final = (4096, 64, 1)
"""Bytes to decode at a time. A decoder gives nothing of a step that holds an error: smaller ones find its place."""
BROTLI_WINDOW: Final = 22
"""Bits of the largest window that is decoded: what an encoder takes unless it is told otherwise. A decoder fills its
window before it gives a byte, and 14 bytes make it do so."""
BROTLI_RESERVED: Final = 16
"""Bytes of a brotli window that no distance reaches (RFC 7932 section 9.1)."""
SKIPPABLE: Final = b"\x2a\x4d\x18"
"""The end of the magic number of a zstd frame that holds no data (RFC 8878 section 3.1.2)."""

Left = Literal["", "window", "broken", "unknown"]
"""Why a coding was left: nothing was, its window is too large, it gave nothing, it is not known (or one too many)."""


class Decoded(NamedTuple):
    """A body without the content codings that could be removed."""

    body: bytes
    removed: str
    """Their names, "" for none."""
    full: bool
    """There is more than the cap."""
    broken: bool
    """A coding was broken, or ended early."""
    left: Left
    """Why a coding was left."""


def decode(body: bytes, content_encoding: str, room: int) -> Decoded:
    """Removes content codings, from the last to the first, at most MAX_CODINGS; keeps at most `room` bytes of each."""
    codings = [name.strip().lower() for name in content_encoding.split(",")]
    removed: list[str] = []
    full = broken = False
    left: Left = ""
    while codings and not left:
        name = codings.pop().removeprefix("x-")
        if name in ("identity", ""):
            continue
        decoder = _DECODERS.get(name)
        if decoder is None or len(removed) == MAX_CODINGS:
            left = "unknown"
            break
        try:
            decoded, good = _run(decoder, body, room)
        except _WindowError:
            left = "window"
            break
        if not good and not decoded:
            left = "broken"
            break
        full = full or len(decoded) > room
        broken = broken or not good
        body = decoded[:room]
        removed.append(name)
    return Decoded(body, ", ".join(reversed(removed)), full, broken, left)


def decoder_bytes(room: int) -> int:
    """The most that one `decode` takes: the decoder's tables, a window as far as it is filled, its output twice."""
    return (512 << 10) + min(max(256 << 10, 2 * room), ZSTD_WINDOW) + 2 * room


Steps = Iterator[int]
"""How many bytes to decode at a time, for ever."""
Decoder = Callable[[bytes, Steps, int], Iterator[bytes]]
"""Gives what each step decodes to, and no more once that is more than `room` bytes in all."""


def _run(decoder: Decoder, body: bytes, room: int) -> tuple[bytes, bool]:
    """What the decoder gives, at most `room` + 1 bytes, and whether it came to its end, or to more than `room`."""
    if decoder is _gzip and (whole := _gzip_whole(body, room)) is not None:
        return whole, True
    steps: list[int] = []  # those before the error
    parts: list[bytes] = []
    for size in STEPS:
        taken: list[int] = []
        parts = []
        left = room + 1
        try:
            for part in decoder(body, _noted(chain(steps, repeat(size)), taken), room):
                parts.append(part)
                left -= len(part)
                if left <= 0:
                    break
            return b"".join(parts)[: room + 1], True
        except _EndsEarlyError:
            break
        except (zlib.error, brotli.error, zstandard.ZstdError, MemoryError):
            steps = taken[:-1]
    return b"".join(parts)[: room + 1], False


def _noted(steps: Steps, taken: list[int]) -> Steps:
    for step in steps:
        taken.append(step)
        yield step


class _EndsEarlyError(Exception):
    """A coding that does not reach its end."""


class _WindowError(Exception):
    """A coding that wants a larger window than it gets."""


def _inflate(body: bytes, steps: Steps, room: int, window: int) -> Iterator[bytes]:
    inflater = zlib.decompressobj(window)
    at, left = 0, room + 1
    for step in steps:
        if at >= len(body):
            raise _EndsEarlyError
        rest = body[at : at + step]
        at += len(rest)
        parts = []
        while rest and left:
            parts.append(inflater.decompress(rest, left))
            left -= len(parts[-1])
            rest = inflater.unconsumed_tail
            if inflater.eof:
                rest = inflater.unused_data
                if window != 31 or not (rest or at < len(body)):
                    yield b"".join(parts)
                    return
                inflater = zlib.decompressobj(window)  # gzip may have further members, RFC 1952 section 2.2
        yield b"".join(parts)


def _gzip(body: bytes, steps: Steps, room: int) -> Iterator[bytes]:
    return _inflate(body, steps, room, 31)


def _gzip_whole(body: bytes, room: int) -> bytes | None:
    """What a sound body decodes to, by a decoder that takes half the time of zlib; None where zlib has to say it.

    The two differ on what is broken. So this takes only what has one member with a plain header, is not longer than
    `room` by its own account (RFC 1952 section 2.3.1), and proves to be so by its check sum.
    """
    if body[:4] != b"\x1f\x8b\x08\0" or int.from_bytes(body[-4:], "little") > room:
        return None
    inflater = isal_zlib.decompressobj(31)
    try:
        decoded: bytes = inflater.decompress(body, room + 1)
    except IsalError:
        return None
    return decoded if inflater.eof and not inflater.unused_data else None


def _deflate(body: bytes, steps: Steps, room: int) -> Iterator[bytes]:
    # RFC 9110 section 8.4.1.2: some send the deflate data without the zlib wrapper
    zlib_wrapper = len(body) >= 2 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    return _inflate(body, steps, room, 15 if zlib_wrapper else -15)


def _brotli(body: bytes, steps: Steps, room: int) -> Iterator[bytes]:
    bits = _brotli_window(body[0])
    if bits > BROTLI_WINDOW:
        raise _WindowError
    # No distance reaches back beyond the first byte, so up to the length of a window the windows of all sizes give the
    # same. The decoder gets the smallest one that the room fits into, and that is all that it fills.
    if bits > 17 and (least := max(18, (room + 1 + BROTLI_RESERVED).bit_length())) < bits:
        body = bytes([body[0] & 0xF0 | (least - 17) << 1 | 1]) + body[1:]
    decompressor = brotli.Decompressor()
    at, left = 0, room + 1
    for step in steps:
        if at >= len(body):
            raise _EndsEarlyError
        part = decompressor.process(body[at : at + step], output_buffer_limit=left)
        at += step
        parts = [part]
        left -= len(part)
        while left > 0 and not decompressor.can_accept_more_data():
            parts.append(decompressor.process(b"", output_buffer_limit=left))
            left -= len(parts[-1])
        yield b"".join(parts)
        if decompressor.is_finished():
            return


def _brotli_window(first: int) -> int:
    """Bits of the window, by the first byte of the stream (RFC 7932 section 9.1); 30 for a large-window stream."""
    if not first & 1:
        return 16
    if first >> 1 & 7:
        return 17 + (first >> 1 & 7)
    rest = first >> 4 & 7
    return 17 if rest == 0 else 30 if rest == 1 else 8 + rest


def _zstd(body: bytes, steps: Steps, room: int) -> Iterator[bytes]:
    # Its reader counts what comes out: steps of that, which serve as well. It takes an early end for the end.
    frame = zstandard.get_frame_parameters(body)
    skippable = body[1:4] == SKIPPABLE
    if frame.window_size > ZSTD_WINDOW and not skippable:
        raise _WindowError
    due = 1 if skippable or frame.content_size == zstandard.CONTENTSIZE_UNKNOWN else frame.content_size
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
    with decompressor.stream_reader(body, read_across_frames=True) as reader:
        for step in steps:
            part = reader.read(min(step, room + 1))
            if not part:
                break
            due -= len(part)
            yield part
    if due > 0:
        raise _EndsEarlyError


_DECODERS: Final[dict[str, Decoder]] = {"gzip": _gzip, "deflate": _deflate, "br": _brotli, "zstd": _zstd}


# Schema


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of one record, made from HttpMessage."""
    (reference,), components = msgspec.json.schema_components([HttpMessage], ref_template="#/$defs/{name}")
    definitions = {name: _without_null(component) for name, component in components.items()}
    record: dict[str, Any] = definitions.pop(reference["$ref"].rpartition("/")[2])
    record["title"] = "HTTP message"
    record["required"] += ["bodySize", "endTimestamp"]
    del record["properties"]["bodySize"]["default"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **record, "$defs": definitions}


def _without_null(schema: Any) -> Any:
    # A field that does not apply is left out of the JSON; null is never written.
    if isinstance(schema, list):
        return [_without_null(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: _without_null(part) for key, part in schema.items() if not (key == "default" and not part)}
    if "anyOf" in schema:
        kept = [part for part in schema.pop("anyOf") if part != {"type": "null"}]
        schema |= kept[0] if len(kept) == 1 else {"anyOf": kept}
    if None in schema.get("enum", ()):
        schema["enum"] = [value for value in schema["enum"] if value is not None]
    return schema


if __name__ == "__main__":
    print(msgspec.json.format(msgspec.json.encode(json_schema()), indent=2).decode())
