"""Stand-ins for the core's RawMessage, which a FlowTable alone can make: what others use of it, given by keyword."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

import brotli
import zstandard

from sniffer_core.core import RawMessage

CODECS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.compress,
}
"""Every content coding that is removed."""


@dataclass(slots=True, kw_only=True)
class Raw:
    direction: str = "request"
    receiver: tuple[str, int] = ("192.0.2.1", 8080)
    destination: tuple[str, int] = ("192.0.2.2", 40000)
    timestamp: int = 1_700_000_000_000_042
    headers: dict[str, Any] = field(default_factory=lambda: {"host": "example.test"})
    connection_id: str = "0123456789abcdef" * 2
    exchange: int = 0
    http_version: str = "1.1"
    method: str | None = "GET"
    path: str | None = "/"
    status_code: int | None = None
    headers_truncated: bool = False
    placed: tuple[str | None, str | None, str | None] | None = None
    reason: str | None = None
    informational: tuple[int, ...] = ()
    latency_us: int | None = None
    content: tuple[str | None, str | None, bool, str | None, int | str | None] = (None, None, False, None, None)
    body_size: int = 0
    trailers: dict[str, Any] | None = None
    incomplete: str | None = None
    missing_bytes: int | None = None
    resynced: bool = False
    anomalies: tuple[str, ...] = ()
    trace_id: str | None = None
    span_id: str | None = None
    end_timestamp: int = 1_700_000_000_000_043
    duration_us: int | None = None
    authority: str | None = None
    proxied: tuple[tuple[str, int], tuple[str, int]] | None = None
    stream_id: int | None = None
    headers_unknown: int | None = None
    route_id: str | None = None
    reset: str | None = None
    pushed: bool = False
    weight: int = 1000


def request(**changes: Any) -> RawMessage:
    """A request."""
    return cast("RawMessage", Raw(**changes))


def response(**changes: Any) -> RawMessage:
    """A response."""
    return cast("RawMessage", Raw(**{"direction": "response", "status_code": 200, "reason": "OK", **changes}))


BROTLI_BOMB = bytes.fromhex("00 24 00 e2 b1 40 72 ef ff 07")
"""Fills the window with one copy of 16 MiB, behind the four bytes that say how large the window is."""


def brotli_bomb(window: int) -> bytes:
    """14 bytes that make a decoder fill a window of so many bits, 18 to 24, before it gives a byte."""
    return bytes([0xC0 | (window - 17) << 1 | 1]) + bytes.fromhex("ff ff 7f") + BROTLI_BOMB
