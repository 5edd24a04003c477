"""The public record: one HTTP message as a Python object.

The fields are defined here alone. The schema (`sniffer.record.schema`) is made from this definition, and the core
writes byte for byte what `HttpMessage` encodes to; tests/core/record/test_line.py holds it to that.

Rules of the JSON: fields in the order of `HttpMessage`, absent ones left out, no white space, UTF-8, time stamps with
six digits and `Z`, milliseconds as the shortest decimal number with at least one and at most three digits after the
point.

Nothing is redacted here: the core hands out redacted values only.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from time import gmtime, strftime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NoReturn

import msgspec
from msgspec import Meta

if TYPE_CHECKING:
    from sniffer_core.core import RawMessage

SCHEMA: Final = 1

_STAMP: Final = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$"


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
    """Header or trailer fields of one message, by name in any case; the names that it lists are in lower case.

    Cannot be changed: every sink gets the same object.
    """

    __slots__ = ()

    def __missing__(self, name: object) -> str | tuple[str, ...]:
        """Looks for the name in lower case (RFC 9110 section 5.1). Raises KeyError with the name as it was given."""
        lower = name.lower() if isinstance(name, str) else name
        if not super().__contains__(lower):
            raise KeyError(name)
        return self[lower]  # type: ignore[index]

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and super().__contains__(name.lower()))

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a field, else `default`."""
        try:
            return self[name]
        except KeyError:
            return default

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("the fields of a message cannot be changed; dict(fields) is a copy")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> Any:
        return type(self), (dict(self),)


FieldValues = Mapping[str, str | tuple[str, ...]]


class HttpMessage(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel", dict=True):
    """One HTTP message: a request or a final response. Attributes that do not apply are None (or False)."""

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
    http_version: Annotated[Literal["1.0", "1.1", "2"], Meta(description="Of HTTP.")]
    method: Annotated[str | None, Meta(description="Requests, and responses whose request was seen.")] = None
    path: Annotated[
        str | None,
        Meta(description="The request target as sent, query included, without user info, parameters redacted."),
    ] = None
    status_code: Annotated[int | None, Meta(description="Responses.")] = None
    reason: Annotated[str | None, Meta(description="Responses of HTTP/1.")] = None
    informational: Annotated[tuple[int, ...] | None, Meta(description="The 1xx that came before this response.")] = None
    latency_ms: Annotated[
        float | None, Meta(description="Last byte of the request to first byte of the response, milliseconds.")
    ] = None
    body: Annotated[str | None, Meta(description="Text where it is valid UTF-8, else base64.")] = None
    body_encoding: Annotated[Literal["base64"] | None, Meta(description="Present when the body is base64.")] = None
    body_size: Annotated[
        int, Meta(description="Bytes of body seen on the wire, after de-chunking; exact past the cap.", ge=0)
    ] = -1  # always written: a field behind optional ones must have a default, and no message has this value
    body_truncated: Annotated[
        bool, Meta(description="The body was cut, by MAX_BODY_SIZE, the memory budget or OUTPUT_STDOUT_MAX_LINE.")
    ] = False
    headers_truncated: Annotated[
        bool,
        Meta(description="Header values, or more of the head, were cut to fit a line (OUTPUT_STDOUT_MAX_LINE)."),
    ] = False
    body_decoded: Annotated[str | None, Meta(description="The content codings that were removed.")] = None
    trailers: Annotated[FieldValues | None, Meta(description="Fields after the body.")] = None
    incomplete: Annotated[str | None, Meta(description="What cut a message that is not whole.")] = None
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
    ] = ""  # always written, as body_size
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
    body_redacted: Annotated[
        Annotated[int, Meta(ge=1)] | Literal["all"] | None,
        Meta(description="Values of the body that were redacted; 'all': it could not be searched and is left out."),
    ] = None
    stream_id: Annotated[Annotated[int, Meta(ge=1)] | None, Meta(description="HTTP/2: the stream.")] = None
    headers_unknown: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="HTTP/2: fields that are left out because an earlier header block, which was not captured, has "
            "their name or value.",
        ),
    ] = None
    route_id: Annotated[
        str | None,
        Meta(
            description="HTTP/2: stands for a path that is not known; the same for requests of one connection that "
            "refer to the same earlier header block.",
        ),
    ] = None
    reset: Annotated[
        str | None, Meta(description="HTTP/2: the error code of the RST_STREAM that ended the message.")
    ] = None
    pushed: Annotated[bool, Meta(description="HTTP/2: the server has promised this request by itself.")] = False

    def __hash__(self) -> int:
        """Of what identifies the message (`idempotency_key`). Messages are equal where all of their fields are."""
        return hash((self.connection_id, self.exchange, self.direction))

    def to_json(self) -> bytes:
        """This record as JSON, without a line end. Rendered once: every sink gets the same bytes."""
        kept: dict[str, bytes] = self.__dict__
        json = kept.get("json")
        if json is None:
            json = kept["json"] = _encode(self)
        return json

    def to_dict(self) -> dict[str, Any]:
        """This record as a dict of its own: what `to_json` gives, read. It may be changed."""
        made: dict[str, Any] = msgspec.json.decode(self.to_json())
        return made

    @property
    def time(self) -> datetime:
        """`timestamp` as a datetime, UTC."""
        return _EPOCH + self.timestamp_us * _MICROSECOND

    @property
    def end_time(self) -> datetime:
        """`end_timestamp` as a datetime, UTC."""
        return _EPOCH + self.end_timestamp_us * _MICROSECOND

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
    body, encoding, truncated, decoded, redacted = raw.content
    latency = raw.latency_us
    duration = raw.duration_us
    trailers = raw.trailers
    start, end = raw.timestamp, raw.end_timestamp
    began = stamp(start)
    # By position, in the order of the definition: by keyword it takes several times as long.
    message = HttpMessage(
        SCHEMA,
        _endpoint(raw.receiver),
        _endpoint(raw.destination),
        raw.direction,
        began,
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
        raw.headers_truncated,  # of what was read back
        decoded,
        _freeze(trailers) if trailers else None,
        raw.incomplete,
        raw.missing_bytes,
        raw.resynced,
        raw.anomalies or None,
        raw.trace_id,
        raw.span_id,
        placement if raw.placed is None else _placement(*raw.placed),
        began if end == start else stamp(end),  # most messages are one packet
        None if duration is None else duration / 1000,
        raw.authority,
        None if raw.proxied is None else Proxied(*map(_endpoint, raw.proxied)),
        redacted,
        raw.stream_id,
        raw.headers_unknown,
        raw.route_id,
        raw.reset,
        raw.pushed,
    )
    kept: dict[str, int] = message.__dict__
    kept["timestamp"] = start
    kept["end_timestamp"] = end
    return message


@lru_cache(maxsize=1024)
def _endpoint(address: tuple[str, int]) -> Endpoint:
    return Endpoint(*address)


_placement = lru_cache(maxsize=64)(Placement)


@lru_cache(maxsize=64)
def _second(second: int) -> str:
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(second))


def stamp(micros: int) -> str:
    """Microseconds since 1970, UTC, as a record says them."""
    second, micro = divmod(micros, 1_000_000)
    return f"{_second(second)}.{micro:06d}Z"


def _micros(stamp: str) -> int:
    """The reverse of `stamp`, for messages that were not made of a RawMessage."""
    return (datetime.fromisoformat(stamp) - _EPOCH) // _MICROSECOND


def _freeze(fields: dict[str, str | list[str]]) -> Fields:
    if "set-cookie" in fields:
        fields["set-cookie"] = tuple(fields["set-cookie"])  # type: ignore[assignment]
    return Fields(fields)  # type: ignore[arg-type]
