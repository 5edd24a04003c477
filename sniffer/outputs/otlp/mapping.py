"""What an exchange is in OpenTelemetry: docs/OPENTELEMETRY.md, in code."""

from __future__ import annotations

import re
from collections.abc import Collection
from hashlib import blake2b
from typing import Final, NamedTuple

from sniffer.exchanges import Exchange
from sniffer.outputs.otlp import encoding
from sniffer.outputs.otlp.encoding import Value
from sniffer.record.message import HttpMessage

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
METHODS: Final = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"))
INFO: Final = (9, "INFO")
FAILED: Final = (17, "ERROR")
"""Severities of a log record: number and text."""
EVENT: Final = "tcp_sniffer.exchange"
OWN: Final = (
    "reason",
    "informational",
    "incomplete",
    "missing_bytes",
    "resynced",
    "anomalies",
    "body_truncated",
    "stream_id",
    "headers_unknown",
    "route_id",
    "reset",
    "pushed",
)
"""Fields of the record that become attributes of our own, where they are set."""


class Made(NamedTuple):
    """What an exchange becomes: encoded, or empty."""

    log: bytes
    span: bytes


class Mapping:
    """Makes log records and spans of exchanges, and requests of these."""

    def __init__(
        self, resource: dict[str, Value], *, version: str, signals: str, body: int, local: Collection[str]
    ) -> None:
        """`signals`: `auto`, `logs`, `spans` or `both`. `body`: bytes of each body in a log record. `local`: the
        addresses of this host; where they are known they tell whether it is the server or the client.
        """
        self._resource = encoding.resource(resource)
        self._scope = encoding.scope("tcp-sniffer", version)
        self._signals = signals
        self._body = body
        self._local = local

    def request(self, items: Collection[bytes]) -> bytes:
        """The body of one request to the collector."""
        return encoding.export(self._resource, self._scope, SCHEMA_URL, items)

    def make(self, exchange: Exchange) -> Made:
        """The log record and the span of an exchange, as far as they are asked for."""
        message = exchange.message
        traced = message.trace_id is not None
        as_log = self._signals in ("logs", "both") or (self._signals == "auto" and traced)
        as_span = self._signals in ("spans", "both") or (self._signals == "auto" and not traced)
        kind = self._kind(message)
        values = self._values(exchange, kind)
        failed = "error.type" in values
        # A copy that is sent again has the same ids, and so has the same capture when it is read again.
        own = blake2b(f"{message.connection_id}-{message.exchange}".encode(), digest_size=24).digest()
        trace_id = bytes.fromhex(message.trace_id) if message.trace_id is not None else own[:16]
        parent = bytes.fromhex(message.span_id) if message.span_id is not None else b""
        start, end = _times(exchange)
        log = span = b""
        if as_span:
            span = encoding.span(
                trace_id=trace_id,
                span_id=own[16:],
                parent_id=parent,
                name=message.method if message.method in METHODS else "HTTP",  # never the path
                kind=kind,
                start_us=start,
                end_us=end,
                values=values,
                failed=failed,
            )
        if as_log:
            severity, text = FAILED if failed else INFO
            answer = exchange.response.status_code if exchange.response is not None else "-"
            log = encoding.log_record(
                time_us=start,
                observed_us=end,
                severity=severity,
                severity_text=text,
                body=f"{message.method or '-'} {message.path or '-'} {answer}",
                values=values | self._bodies(exchange),
                # The span of the record: the caller's, unless the exchange is a span itself.
                trace_id=trace_id if traced or as_span else b"",
                span_id=own[16:] if as_span else parent,
                event=EVENT,
            )
        return Made(log, span)

    def _kind(self, message: HttpMessage) -> int:
        here = message.destination.ip in self._local and message.receiver.ip not in self._local
        return encoding.CLIENT if here else encoding.SERVER

    def _values(self, exchange: Exchange, kind: int) -> dict[str, Value]:
        """The attributes of the conventions, then ours."""
        request, response = exchange
        message = exchange.message
        values: dict[str, Value] = {}
        if message.method is not None:
            values["http.request.method"] = message.method if message.method in METHODS else "_OTHER"
            if message.method not in METHODS:
                values["http.request.method_original"] = message.method
        if message.path is not None:
            path, mark, query = message.path.partition("?")
            values["url.path"] = path
            if mark:
                values["url.query"] = query
        values["url.scheme"] = "http"
        if response is not None and response.status_code is not None:
            values["http.response.status_code"] = response.status_code
        error = _error(exchange, kind)
        if error:
            values["error.type"] = error
        values["server.address"], values["server.port"] = _server(message)
        local, peer = message.receiver, message.destination
        if kind == encoding.CLIENT:
            local, peer = peer, local
        values |= {"network.local.address": local.ip, "network.local.port": local.port}
        values |= {"network.peer.address": peer.ip, "network.peer.port": peer.port}
        if kind == encoding.SERVER:
            client = message.destination if message.proxied is None else message.proxied.source
            values |= {"client.address": client.ip, "client.port": client.port}
        values |= {"network.protocol.name": "http", "network.protocol.version": message.http_version}
        if request is not None:
            agent = request.headers.get("user-agent")
            if isinstance(agent, str):
                values["user_agent.original"] = agent
        return values | _own(exchange)

    def _bodies(self, exchange: Exchange) -> dict[str, Value]:
        values: dict[str, Value] = {}
        for part in exchange:
            if part is not None and part.body is not None and self._body:
                kept = part.body.encode("utf-8", "replace")
                if len(kept) > self._body:
                    kept = kept[: self._body]
                    values[f"tcp_sniffer.{part.direction}.body_truncated"] = True
                values[f"tcp_sniffer.{part.direction}.body"] = kept.decode("utf-8", "ignore")
                if part.body_encoding is not None:
                    values[f"tcp_sniffer.{part.direction}.body_encoding"] = part.body_encoding
        return values


def _own(exchange: Exchange) -> dict[str, Value]:
    """Sizes, and the attributes that the conventions do not have."""
    message = exchange.message
    values: dict[str, Value] = {
        "tcp_sniffer.connection_id": message.connection_id,
        "tcp_sniffer.exchange": message.exchange,
    }
    for part in exchange:
        if part is None:
            continue
        values[f"http.{part.direction}.body.size"] = part.body_size
        for field in OWN:
            value = getattr(part, field)
            if value not in (None, False, ""):
                values[f"tcp_sniffer.{part.direction}.{field}"] = (
                    [str(one) for one in value] if isinstance(value, tuple) else value
                )
    if exchange.response is not None and exchange.response.latency_ms is not None:
        values["tcp_sniffer.latency_ms"] = exchange.response.latency_ms
    return values


def _error(exchange: Exchange, kind: int) -> str:
    """`error.type`: the status if it is one, else what cut a message; empty without an error."""
    status = exchange.response.status_code if exchange.response is not None else None
    if status is not None and status >= (400 if kind == encoding.CLIENT else 500):
        return str(status)
    return next((part.incomplete for part in exchange if part is not None and part.incomplete is not None), "")


def _server(message: HttpMessage) -> tuple[str, int]:
    """The server as the client named it; else its address. IPv6 addresses have no brackets."""
    match = re.fullmatch(r"\[?(.*?)\]?(?::([0-9]{1,5}))?", message.authority or "")
    if message.authority is None or match is None or not match[1]:
        return message.receiver.ip, message.receiver.port
    return match[1], int(match[2]) if match[2] else 80


def _times(exchange: Exchange) -> tuple[int, int]:
    """The first byte of the request and the last one of the response, in microseconds since 1970."""
    start = min(part.timestamp_us for part in exchange if part is not None)
    response = exchange.response
    if exchange.request is None and response is not None and response.duration_ms is not None:
        start = response.end_timestamp_us - round(response.duration_ms * 1000)
    return start, max(start, exchange.end_us)
