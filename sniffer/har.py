"""Exchanges as entries of HAR 1.2 (http://www.softwareishard.com/blog/har-12-spec/), which browsers' tools open.

This module knows the format alone. Outputs write or serve the entries.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import parse_qsl, quote

import msgspec

from sniffer.exchanges import Alone, Exchange, Incomplete, Missing, facts
from sniffer.record.message import FieldValues, HttpMessage

URL_BYTES: Final = "!#$%&'()*+,-./:;=?@[]_~|"
"""Characters of a request target that need no percent-encoding, beside letters and digits."""
_plain = re.compile(f"[A-Za-z0-9{re.escape(URL_BYTES)}]*").fullmatch
_absolute = re.compile(r"https?://", re.IGNORECASE).match
UNKNOWN: Final = -1
"""HAR's value of a time that is not known or does not apply."""
ALONE: Final[dict[Missing, str]] = {
    "response": "no response was captured",
    "response or dropped": "no response was captured, or it was dropped",
    "request": "the request was not captured",
    "request of before": "the request was written before, without this response",
    "request dropped": "the request was dropped",
}


def entry_of(exchange: Exchange, *, lossy: bool = False) -> dict[str, Any]:
    """The HAR entry of an exchange. A field that HAR does not define begins with an underscore.

    `lossy`: messages were dropped on the way here, so a missing message may have been captured.
    """
    request, response = exchange
    message = exchange.message
    receiver, destination = message.receiver, message.destination
    timings = _timings(exchange)
    known = [time for time in (timings["send"], timings["wait"], timings["receive"]) if time >= 0]
    comments = [] if _whole(exchange) else [*_comments(exchange, lossy=lossy)]
    entry: dict[str, Any] = {
        "startedDateTime": message.timestamp,
        "time": round(sum(known), 3),
        "request": _request(request, message),
        "response": _response(response, comments[0] if response is None else ""),
        "cache": {},
        "timings": timings,
        "serverIPAddress": receiver.ip,
        "connection": message.connection_id,
        "_resourceType": "other",  # a capture does not tell; without it browsers call every entry a script
        "_serverPort": receiver.port,
        "_clientIPAddress": destination.ip,
        "_clientPort": destination.port,
        "_exchange": message.exchange,
    }
    if message.trace_id is not None:
        entry |= {"_traceId": message.trace_id, "_spanId": message.span_id}
    if message.placement is not None:
        entry["_placement"] = msgspec.to_builtins(message.placement)
    if comments:
        entry["comment"] = "; ".join(comments)
    return entry


def _whole(exchange: Exchange) -> bool:
    """Whether nothing is missing: then there are no comments, and looking for them would only take time."""
    request, response = exchange
    return (
        request is not None
        and response is not None
        and response.method is not None
        and request.incomplete is None
        and response.incomplete is None
    )


def _comments(exchange: Exchange, *, lossy: bool) -> Iterator[str]:
    """What is missing. The rest of the facts are fields of the entry (`_add_oddities`)."""
    for fact in facts(exchange, lossy=lossy):
        match fact:
            case Alone(missing):
                yield ALONE[missing]
            case Incomplete(direction, reason, missing_bytes):
                missing_part = "" if missing_bytes is None else f", {missing_bytes} bytes are missing"
                yield f"the {direction} is incomplete: {reason}{missing_part}"


def _timings(exchange: Exchange) -> dict[str, float]:
    """Milliseconds of each phase, UNKNOWN where the packets do not tell.

    `send` and `receive` are the times from the first to the last byte of the request and of the response. `wait` is the
    time between the two messages, `latencyMs`. If all three are known, they add up to `durationMs`.
    """
    request, response = exchange
    waited = response is not None and response.latency_ms is not None
    ended = response is not None and response.duration_ms is not None
    return {
        "blocked": UNKNOWN,
        "dns": UNKNOWN,
        "connect": UNKNOWN,
        "ssl": UNKNOWN,
        # The record has a latency only if the last byte of the request was captured, and a duration only if that of the
        # response was. Without them, a message that is not whole may have ended later than its last byte that was read.
        "send": _span(request, end_known=waited),
        "wait": response.latency_ms if response is not None and response.latency_ms is not None else UNKNOWN,
        "receive": _span(response, end_known=ended),
    }


def _span(message: HttpMessage | None, *, end_known: bool) -> float:
    """Milliseconds from the first to the last byte of a message."""
    if message is None or not (end_known or message.incomplete is None):
        return UNKNOWN
    span = message.end_timestamp_us - message.timestamp_us
    return span / 1000 if span >= 0 else UNKNOWN  # negative if the first byte came out of order, after the last


def _request(request: HttpMessage | None, message: HttpMessage) -> dict[str, Any]:
    """The request, or what its response tells about it."""
    made: dict[str, Any] = {
        "method": message.method or "",
        "url": _url(message),
        "httpVersion": _version(message),
        "cookies": [] if request is None else _cookies(request.headers.get("cookie")),
        "headers": [] if request is None else _list(request.headers),
        "queryString": _query((message.path or "").partition("?")[2]),
        "headersSize": -1,
        "bodySize": -1 if request is None else request.body_size,
    }
    if request is None:
        return made
    if request.body is not None:
        made["postData"] = {"mimeType": _field(request, "content-type"), "text": request.body}
        if request.body_encoding is not None:  # HAR defines `encoding` for responses only
            made["postData"] |= {"_encoding": request.body_encoding, "comment": "the text is base64"}
    _add_oddities(request, made)
    return made


def _version(message: HttpMessage) -> str:
    return "HTTP/2.0" if message.http_version == "2" else f"HTTP/{message.http_version}"


def _query(query: str) -> list[dict[str, str]]:
    """The parameters of a query."""
    if "%" in query or "+" in query:
        return [{"name": name, "value": value} for name, value in parse_qsl(query, keep_blank_values=True)]
    # Nothing is encoded, so this is what parse_qsl does, in a third of its time.
    pairs = [part.partition("=") for part in query.split("&") if part]
    return [{"name": name, "value": value} for name, _, value in pairs]


def _response(response: HttpMessage | None, missing: str) -> dict[str, Any]:
    if response is None:
        return {
            "status": 0,
            "statusText": "",
            "httpVersion": "",
            "cookies": [],
            "headers": [],
            "content": {"size": 0, "mimeType": ""},
            "redirectURL": "",
            "headersSize": -1,
            "bodySize": -1,
            "_error": missing,
        }
    made: dict[str, Any] = {
        "status": response.status_code or 0,
        "statusText": response.reason or "",
        "httpVersion": _version(response),
        "cookies": _cookies(response.headers.get("set-cookie")),
        "headers": _list(response.headers),
        "content": _content(response),
        "redirectURL": _field(response, "location"),
        "headersSize": -1,
        "bodySize": response.body_size,
    }
    _add_oddities(response, made)
    return made


def _content(response: HttpMessage) -> dict[str, Any]:
    content: dict[str, Any] = {"size": response.body_size, "mimeType": _field(response, "content-type")}
    if response.body is None:
        return content
    content["text"] = response.body
    if response.body_encoding is not None:
        content["encoding"] = response.body_encoding
    if response.body_decoded is not None and not response.body_truncated and response.incomplete is None:
        if response.body_encoding is None:
            size = len(response.body.encode())
        else:
            size = len(response.body) * 3 // 4 - response.body[-2:].count("=")
        content["size"] = size
        content["compression"] = size - response.body_size
    if response.body_truncated:
        content["comment"] = "the text is cut"
    return content


def _add_oddities(message: HttpMessage, made: dict[str, Any]) -> None:
    """Adds what HAR does not define."""
    if message.incomplete is not None:
        made["_incomplete"] = message.incomplete
        made["comment"] = f"incomplete: {message.incomplete}"
    if message.missing_bytes is not None:
        made["_missingBytes"] = message.missing_bytes
    if message.body_truncated:
        made["_bodyTruncated"] = True
    if message.body_redacted is not None:
        made["_bodyRedacted"] = message.body_redacted
    if message.resynced:
        made["_resynced"] = True
    if message.anomalies:
        made["_anomalies"] = list(message.anomalies)
    if message.stream_id is not None:
        _add_http2(message, made)
    if message.informational:
        made["_informational"] = list(message.informational)
    if message.trailers:
        made["_trailers"] = _list(message.trailers)


def _add_http2(message: HttpMessage, made: dict[str, Any]) -> None:
    made["_streamId"] = message.stream_id
    if message.headers_unknown is not None:
        made["_headersUnknown"] = message.headers_unknown
    if message.route_id is not None:
        made["_routeId"] = message.route_id
    if message.reset is not None:
        made["_reset"] = message.reset
    if message.pushed:
        made["_pushed"] = True


def _list(fields: FieldValues) -> list[dict[str, str]]:
    if tuple not in map(type, fields.values()):  # nearly always
        return [{"name": name, "value": value} for name, value in fields.items()]  # type: ignore[dict-item]
    return [
        {"name": name, "value": value}
        for name, values in fields.items()
        for value in (values if isinstance(values, tuple) else (values,))
    ]


def _field(message: HttpMessage, name: str) -> str:
    value = message.headers.get(name, "")
    return value if isinstance(value, str) else ", ".join(value)


def _cookies(field: str | tuple[str, ...] | None) -> list[dict[str, Any]]:
    """The cookies of a Cookie field, or of the Set-Cookie fields. Redacted values have none."""
    if isinstance(field, str):
        pairs = (part.strip().partition("=") for part in field.split(";"))
        return [{"name": name, "value": value} for name, equals, value in pairs if equals]
    cookies = []
    for line in field or ():
        first, *rest = (part.strip().partition("=") for part in line.split(";"))
        if not first[1]:
            continue
        cookie: dict[str, Any] = {"name": first[0], "value": first[2]}
        for name, _, value in rest:
            attribute = name.lower()
            if attribute in ("path", "domain"):
                cookie[attribute] = value
            elif attribute in ("httponly", "secure"):
                cookie["httpOnly" if attribute == "httponly" else "secure"] = True
        cookies.append(cookie)
    return cookies


def _url(message: HttpMessage) -> str:
    """The absolute URL: with the authority if it is known, else with the server's address."""
    target = message.path or "/"
    if not target.startswith("/") and _absolute(target):
        return _quoted(target)
    end = message.receiver
    host = message.authority or (f"[{end.ip}]:{end.port}" if ":" in end.ip else f"{end.ip}:{end.port}")
    if message.method == "CONNECT":  # its target is an authority, not a path
        return _quoted(f"http://{host}/")
    return _quoted(f"http://{host}" + (target if target.startswith("/") else f"/{target}"))


def _quoted(url: str) -> str:
    return url if _plain(url) else quote(url, safe=URL_BYTES, encoding="latin-1", errors="replace")
