"""Exchanges as HAR 1.2, which browsers' developer tools open (http://www.softwareishard.com/blog/har-12-spec/).

    {"log": {"version": "1.2", "creator": {...}, "entries": [
    {...},
    {...}
    ]}}

The file ends in `TAIL` at all times: each entry is written over the last tail, with a new one behind it, in one call.
So it is valid after whatever ends the process but a signal that cannot be caught, in the middle of that call.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import stat
import threading
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qsl, quote

import msgspec

from sniffer.delivery.sink import Cut, Failed, Record
from sniffer.delivery.threads import CallThread
from sniffer.errors import SnifferError
from sniffer.exchanges import Exchange, ExchangeSink, exchanges
from sniffer.message import HttpMessage

SEPARATOR: Final = b",\n"
TAIL: Final = b"\n]}}\n"
MODE: Final = 0o600
"""Of a new file: bodies are not redacted."""
URL_BYTES: Final = "!#$%&'()*+,-./:;=?@[]_~|"
"""Characters of a request target that stay as they are beside letters and digits."""
HOST: Final = re.compile(r"[A-Za-z0-9._~\-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")

NO_RESPONSE: Final = {False: "no response was captured", True: "no response was captured, or it was dropped"}

WRITING: Final = threading.Lock()
"""Held while a HAR file is written: who ends the process on the spot takes it first, for a moment."""

_encode = msgspec.json.Encoder().encode


class HarSink(ExchangeSink):
    """Writes exchanges to a HAR file, from a thread of its own."""

    name = "har"

    def __init__(self, path: str, *, version: str) -> None:
        self._path = path
        self._version = version
        self._thread = CallThread("sniffer har")
        self._fd = -1
        self._end = 0
        """Where the tail begins."""
        self._first = True

    async def open(self) -> None:
        """Makes the file, which is valid from then on. SnifferError where that cannot be."""
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, MODE)
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise SnifferError(f"har: {self._path} is no regular file")
            creator = {"name": "TCP Sniffer", "version": self._version}
            head = b'{"log":{"version":"1.2","creator":' + _encode(creator) + b',"entries":[\n'
            os.ftruncate(self._fd, 0)
            self._write(head)
        except OSError as error:
            raise SnifferError(f"har: {self._path} cannot be written: {error.strerror}") from error
        self._thread.start()

    async def close(self) -> None:
        """Closes the file, unless its thread is stuck in it."""
        if self._fd >= 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._thread.call(self._close), 1.0)
        self._thread.end()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def deliver(self, batch: Sequence[Record]) -> None:
        """Adds the exchanges of a batch."""
        done = _Done()
        try:
            await self._thread.call(partial(self._add, list(exchanges(batch)), done, lossy=self.lossy()))
        except asyncio.CancelledError:
            done.cut = True
            raise Cut("blocked", delivered=done.messages) from None
        except OSError as error:
            raise Failed(os.strerror(error.errno or 0), delivered=done.messages) from None

    def _add(self, batch: list[Exchange], done: _Done, *, lossy: bool) -> None:
        with self.working():
            self._add_each(batch, done, lossy=lossy)

    def _add_each(self, batch: list[Exchange], done: _Done, *, lossy: bool) -> None:
        for exchange in batch:
            if done.cut:
                return
            entry = _encode(entry_of(exchange, lossy=lossy))
            self._write(entry if self._first else SEPARATOR + entry)
            self._first = False
            done.messages += exchange.messages

    def _write(self, data: bytes) -> None:
        """Adds to the file; where that fails the file is as before."""
        with WRITING:
            try:
                self._write_at(data + TAIL, self._end)
            except OSError:
                with contextlib.suppress(OSError):  # a tail was there before, so there is room for it
                    self._write_at(TAIL, self._end)
                    os.ftruncate(self._fd, self._end + len(TAIL))
                raise
            self._end += len(data)

    def _write_at(self, data: bytes, place: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, place)
            view, place = view[written:], place + written


class _Done:
    """How far a batch has come."""

    messages = 0
    cut = False


# One entry


def entry_of(exchange: Exchange, *, lossy: bool = False) -> dict[str, Any]:
    """The HAR entry of an exchange. What HAR has no name for has one with an underscore.

    `lossy`: messages were dropped, so what is missing here may have been there.
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
    """Of the request, or of what its response tells about it."""
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
    """What HAR has no name for."""
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
    """The absolute URL: of the Host field where that is one, else of the server's address."""
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
