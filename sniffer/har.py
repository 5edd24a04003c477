"""Exchanges as entries of HAR 1.2 (http://www.softwareishard.com/blog/har-12-spec/), which browsers' tools open.

Of the format alone: what writes or serves it is an output.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final
from urllib.parse import parse_qsl, quote

import msgspec

from sniffer.exchanges import Exchange
from sniffer.record.message import HttpMessage

URL_BYTES: Final = "!#$%&'()*+,-./:;=?@[]_~|"
"""Characters of a request target that are not percent-encoded, beside letters and digits."""
HOST: Final = re.compile(r"[A-Za-z0-9._~\-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")

NO_RESPONSE: Final = {False: "no response was captured", True: "no response was captured, or it was dropped"}


def entry_of(exchange: Exchange, *, lossy: bool = False) -> dict[str, Any]:
    """The HAR entry of an exchange. Fields that HAR does not define begin with an underscore, as the format allows.

    `lossy`: messages were dropped before, so a missing request or response may have been captured.
    """
    request, response = exchange
    message = request if request is not None else response
    assert message is not None  # noqa: S101 - an exchange of nothing is none
    timings = _timings(request, response)
    entry: dict[str, Any] = {
        "startedDateTime": message.timestamp,
        "time": round(sum(time for time in timings.values() if time >= 0), 3),
        "request": _request(request, message),
        "response": _response(response, NO_RESPONSE[lossy]),
        "cache": {},
        "timings": timings,
        "serverIPAddress": message.receiver.ip,
        "connection": message.connection_id,
        "_resourceType": "other",  # nobody knows which; without it browsers call all of them scripts
        "_serverPort": message.receiver.port,
        "_clientIPAddress": message.destination.ip,
        "_clientPort": message.destination.port,
        "_exchange": message.exchange,
    }
    if message.trace_id is not None:
        entry |= {"_traceId": message.trace_id, "_spanId": message.span_id}
    if message.placement is not None:
        entry["_placement"] = msgspec.to_builtins(message.placement)
    comments = [*_comments(exchange, lossy=lossy)]
    if comments:
        entry["comment"] = "; ".join(comments)
    return entry


def _comments(exchange: Exchange, *, lossy: bool) -> Iterator[str]:
    request, response = exchange
    if response is None:
        yield NO_RESPONSE[lossy]
    elif response.method is None:
        yield "the request was not captured"
    elif request is None:
        yield "the request was dropped" if lossy else "the request was written before, without this response"
    for part in exchange:
        if part is not None and part.incomplete is not None:
            missing = "" if part.missing_bytes is None else f", {part.missing_bytes} bytes are missing"
            yield f"the {part.direction} is incomplete: {part.incomplete}{missing}"


def _timings(request: HttpMessage | None, response: HttpMessage | None) -> dict[str, float]:
    """Milliseconds of each phase; -1 for what a capture does not know. How long the body took is not in the record."""
    send = wait = 0.0  # which stands first below: max() gives its first argument of 0.0 and -0.0
    if response is not None:
        wait = response.latency_ms or 0.0
        if request is not None:
            whole = (_seconds(response.timestamp) - _seconds(request.timestamp)) * 1000
            send = max(0.0, round(whole - wait, 3)) if response.latency_ms is not None else 0.0
            wait = wait if response.latency_ms is not None else max(0.0, round(whole, 3))
    return {"blocked": -1, "dns": -1, "connect": -1, "ssl": -1, "send": send, "wait": wait, "receive": 0}


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


def _request(request: HttpMessage | None, message: HttpMessage) -> dict[str, Any]:
    """The `request` of an entry, made from the request or, without one, from what its response tells of it."""
    made: dict[str, Any] = {
        "method": message.method or "",
        "url": _url(request, message),
        "httpVersion": f"HTTP/{message.http_version}",
        "cookies": [],
        "headers": [],
        "queryString": [
            {"name": name, "value": value}
            for name, value in parse_qsl((message.path or "").partition("?")[2], keep_blank_values=True)
        ],
        "headersSize": -1,
        "bodySize": -1 if request is None else request.body_size,
    }
    if request is None:
        return made
    made["headers"] = _headers(request)
    made["cookies"] = _cookies(request.headers.get("cookie"))
    if request.body is not None:
        made["postData"] = {"mimeType": _field(request, "content-type"), "text": request.body}
        if request.body_encoding is not None:  # HAR knows it for responses only
            made["postData"] |= {"_encoding": request.body_encoding, "comment": "the text is base64"}
    return made | _oddities(request)


def _response(response: HttpMessage | None, missing: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "status": 0,
        "statusText": "",
        "httpVersion": "",
        "cookies": [],
        "headers": [],
        "content": {"size": 0, "mimeType": ""},
        "redirectURL": "",
        "headersSize": -1,
        "bodySize": -1,
    }
    if response is None:
        return made | {"_error": missing}
    made |= {
        "status": response.status_code or 0,
        "statusText": response.reason or "",
        "httpVersion": f"HTTP/{response.http_version}",
        "cookies": _cookies(response.headers.get("set-cookie")),
        "headers": _headers(response),
        "content": _content(response),
        "redirectURL": _field(response, "location"),
        "bodySize": response.body_size,
    }
    return made | _oddities(response)


def _content(response: HttpMessage) -> dict[str, Any]:
    content: dict[str, Any] = {"size": response.body_size, "mimeType": _field(response, "content-type")}
    if response.body is None:
        return content
    content["text"] = response.body
    size = len(response.body.encode())
    if response.body_encoding is not None:
        content["encoding"] = response.body_encoding
        size = len(response.body) * 3 // 4 - response.body[-2:].count("=")
    if response.body_decoded is not None and not response.body_truncated and response.incomplete is None:
        content["size"] = size
        content["compression"] = size - response.body_size
    if response.body_truncated:
        content["comment"] = "the text is cut"
    return content


def _oddities(message: HttpMessage) -> dict[str, Any]:
    """Fields of a message that HAR does not define."""
    made: dict[str, Any] = {}
    if message.incomplete is not None:
        made["_incomplete"] = message.incomplete
        made["comment"] = f"incomplete: {message.incomplete}"
    if message.missing_bytes is not None:
        made["_missingBytes"] = message.missing_bytes
    if message.body_truncated:
        made["_bodyTruncated"] = True
    if message.resynced:
        made["_resynced"] = True
    if message.anomalies:
        made["_anomalies"] = list(message.anomalies)
    if message.informational:
        made["_informational"] = list(message.informational)
    if message.trailers:
        made["_trailers"] = _list(message.trailers)
    return made


def _headers(message: HttpMessage) -> list[dict[str, str]]:
    return _list(message.headers)


def _list(fields: Any) -> list[dict[str, str]]:
    return [
        {"name": name, "value": value}
        for name, values in fields.items()
        for value in (values if isinstance(values, tuple) else (values,))
    ]


def _field(message: HttpMessage, name: str) -> str:
    value = message.headers.get(name, "")
    return value if isinstance(value, str) else ", ".join(value)


def _cookies(field: str | tuple[str, ...] | None) -> list[dict[str, Any]]:
    """The cookies of a Cookie field, or of the Set-Cookie fields; redacted ones cannot be read."""
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


def _url(request: HttpMessage | None, message: HttpMessage) -> str:
    """The absolute URL, with the host of the Host field if it is valid, else with the server's address."""
    end = message.receiver
    host = _field(request, "host") if request is not None else ""
    if not HOST.fullmatch(host):
        host = f"[{end.ip}]:{end.port}" if ":" in end.ip else f"{end.ip}:{end.port}"
    target = message.path or "/"
    if re.match(r"https?://", target, re.IGNORECASE):
        return _quoted(target)
    if message.method == "CONNECT":
        return _quoted(f"http://{target}/") if HOST.fullmatch(target) else f"http://{host}/"
    return _quoted(f"http://{host}" + (target if target.startswith("/") else f"/{target}"))


def _quoted(url: str) -> str:
    return quote(url, safe=URL_BYTES, encoding="latin-1", errors="replace")
