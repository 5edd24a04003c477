"""Records out of HAR entries: the reverse of `sniffer.har`, as far as HAR tells.

Entries of other programs are read too. What they do not say is left out, or has the value that stands for nothing: the
address 0.0.0.0, the port 0.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

from sniffer.record.message import SCHEMA, Endpoint, Fields, HttpMessage, Placement

UNKNOWN: Final = "0.0.0.0"  # noqa: S104 - an address that no end has
VERSIONS: Final = {"http/1.0": "1.0", "http/1.1": "1.1"}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_is_id = re.compile(r"[0-9a-f]{32}").fullmatch
_is_authority = re.compile(r"(?:\[[0-9a-f:.]+\]|[a-z0-9._~-]+)(?::[0-9]{1,5})?").fullmatch


class OtherVersionError(ValueError):
    """The entry is of a version of HTTP that records do not have."""


class _Pair(msgspec.Struct):
    name: str
    value: str


class _Data(msgspec.Struct, rename={"encoding": "_encoding"}):
    text: str | None = None
    encoding: str | None = None


class _Content(msgspec.Struct):
    text: str | None = None
    encoding: str | None = None
    compression: float | None = None


class _Part(msgspec.Struct, rename="camel"):
    """What a request and a response have in common."""

    http_version: str
    headers: list[_Pair] = []
    body_size: int = -1
    incomplete: str | None = msgspec.field(default=None, name="_incomplete")
    missing_bytes: int | None = msgspec.field(default=None, name="_missingBytes")
    body_truncated: bool = msgspec.field(default=False, name="_bodyTruncated")
    body_redacted: int | Literal["all"] | None = msgspec.field(default=None, name="_bodyRedacted")
    resynced: bool = msgspec.field(default=False, name="_resynced")
    anomalies: list[str] = msgspec.field(default=[], name="_anomalies")
    informational: list[int] = msgspec.field(default=[], name="_informational")
    trailers: list[_Pair] = msgspec.field(default=[], name="_trailers")


class _Request(_Part, rename="camel"):
    method: str = ""
    url: str = ""
    post_data: _Data | None = None


class _Response(_Part, rename="camel"):
    status: int = 0
    status_text: str = ""
    content: _Content = msgspec.field(default_factory=_Content)


class _Timings(msgspec.Struct):
    send: float | None = -1
    wait: float | None = -1
    receive: float | None = -1


class _Entry(msgspec.Struct, rename="camel"):
    started_date_time: str
    request: _Request
    response: _Response
    timings: _Timings = msgspec.field(default_factory=_Timings)
    server_ip_address: str = msgspec.field(default="", name="serverIPAddress")
    connection: str = ""
    server_port: int | None = msgspec.field(default=None, name="_serverPort")
    client_ip: str | None = msgspec.field(default=None, name="_clientIPAddress")
    client_port: int | None = msgspec.field(default=None, name="_clientPort")
    exchange: int = msgspec.field(default=0, name="_exchange")
    trace_id: str | None = msgspec.field(default=None, name="_traceId")
    span_id: str | None = msgspec.field(default=None, name="_spanId")
    placement: Placement | None = msgspec.field(default=None, name="_placement")


_decode = msgspec.json.Decoder(_Entry).decode


def messages_of(entry: bytes) -> list[HttpMessage]:
    """The request and the response of an entry, as far as it has them. ValueError where it is no entry of HTTP/1.x."""
    try:
        read = _decode(entry)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
    request, response = read.request, read.response
    ours = read.client_port is not None
    has_request = not ours or request.body_size >= 0 or bool(request.headers)
    has_response = response.status > 0
    start = _micros(read.started_date_time)
    sent, waited, received = (_span(each) for each in (read.timings.send, read.timings.wait, read.timings.receive))
    shared = _shared(read, entry)
    made = []
    if has_request:
        end = start + (sent or 0)
        made.append(
            HttpMessage(
                direction="request",
                timestamp=_stamp(start),
                end_timestamp=_stamp(end),
                **shared,
                **_part(request, _posted(request)),
            )
        )
    if has_response:
        known = bool(request.method)
        begin = start + (sent or 0) + (waited or 0) if has_request else start
        whole = None not in (sent, waited, received)
        made.append(
            HttpMessage(
                direction="response",
                timestamp=_stamp(begin),
                end_timestamp=_stamp(begin + (received or 0)),
                status_code=response.status,
                reason=response.status_text,
                informational=tuple(response.informational) or None,
                latency_ms=waited / 1000 if known and waited is not None else None,
                duration_ms=(sent + waited + received) / 1000 if known and whole else None,  # type: ignore[operator]
                **shared,
                **_part(response, _answered(response)),
            )
        )
    if not made:
        raise ValueError("neither a request nor a response")
    return made


def _shared(read: _Entry, entry: bytes) -> dict[str, Any]:
    """The fields that both messages have."""
    parts = urlsplit(read.request.url)
    port = read.server_port
    if port is None:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    ip = read.server_ip_address.strip("[]")
    authority = parts.netloc.rpartition("@")[2].lower()
    path = read.request.url[len(parts.scheme) + 3 + len(parts.netloc) :].partition("#")[0]
    ours = _is_id(read.connection) is not None
    return {
        "schema": SCHEMA,
        "receiver": Endpoint(ip or UNKNOWN, port),
        "destination": Endpoint(read.client_ip or UNKNOWN, read.client_port or 0),
        "connection_id": read.connection if ours else blake2b(entry, digest_size=16).hexdigest(),
        "exchange": read.exchange if ours else 0,
        "method": read.request.method or None,
        "path": (path if path.startswith("/") else f"/{path}") if read.request.method else None,
        "authority": authority if _is_authority(authority) else None,
        "trace_id": read.trace_id,
        "span_id": read.span_id,
        "placement": read.placement,
    }


Body = tuple[str | None, str | None, bool]
"""Its text, the encoding of the text, and whether its content codings were removed."""


def _posted(request: _Request) -> Body:
    data = request.post_data
    if data is None or data.text is None:
        return None, None, False
    return data.text, data.encoding, data.encoding is None


def _answered(response: _Response) -> Body:
    content = response.content
    return content.text, content.encoding, content.encoding is None or content.compression is not None


def _part(part: _Part, body: Body) -> dict[str, Any]:
    """The fields that a request and a response have each for itself."""
    version = VERSIONS.get(part.http_version.lower())
    if version is None:
        raise OtherVersionError(part.http_version)
    text, encoding, decoded = body
    if encoding not in (None, "base64"):
        raise ValueError("an encoding that HAR does not have")
    headers = _fields(part.headers)
    coding = headers.get("content-encoding") if decoded and text is not None else None
    size = part.body_size if part.body_size >= 0 else len((text or "").encode())
    return {
        "http_version": version,
        "headers": headers,
        "body": text or None,
        "body_encoding": encoding if text else None,
        "body_size": size,
        "body_truncated": part.body_truncated,
        "body_decoded": _removed(coding) if isinstance(coding, str) and text else None,
        "body_redacted": part.body_redacted,
        "trailers": _fields(part.trailers) or None,
        "incomplete": part.incomplete,
        "missing_bytes": part.missing_bytes,
        "resynced": part.resynced,
        "anomalies": tuple(part.anomalies) or None,
    }


def _removed(coding: str) -> str | None:
    """The codings of a Content-Encoding as `bodyDecoded` names them."""
    names = [name.strip().lower().removeprefix("x-") for name in coding.split(",")]
    return ", ".join(name for name in names if name not in ("identity", "")) or None


def _fields(pairs: list[_Pair]) -> Fields:
    """Header fields as a record has them: RFC 9110 section 5.3."""
    found: dict[str, list[str]] = {}
    for pair in pairs:
        found.setdefault(pair.name.lower(), []).append(pair.value)
    return Fields(
        {
            name: tuple(values) if name == "set-cookie" else ("; " if name == "cookie" else ", ").join(values)
            for name, values in found.items()
        }
    )


def _micros(stamp: str) -> int:
    """A time of HAR in microseconds since 1970; ValueError where it is none."""
    time = datetime.fromisoformat(stamp)
    if time.tzinfo is None:
        raise ValueError("a time without its zone")
    return (time - _EPOCH) // timedelta(microseconds=1)


def _stamp(micros: int) -> str:
    return f"{_EPOCH + timedelta(microseconds=micros):%Y-%m-%dT%H:%M:%S.%f}Z"


def _span(milliseconds: float | None) -> int | None:
    """A time of a phase in microseconds; None where HAR says that it is not known."""
    return None if milliseconds is None or milliseconds < 0 else round(milliseconds * 1000)
