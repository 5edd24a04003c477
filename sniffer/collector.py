"""The sink that posts messages to `OUTPUT_URL`."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import socket
import ssl
import time
import traceback
import zlib
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, Final

import aiohttp
from yarl import URL

from sniffer.errors import SnifferError
from sniffer.sinks import INSTANCE_HEADER, Record, Rejected, Retry, Sink, TooLarge

log = logging.getLogger("sniffer.sinks")

ANSWER_BYTES: Final = 64 * 1024
"""How much of an answer's body is read, so that the connection can be used again; a longer one ends the connection."""
THREAD_BYTES: Final = 32 * 1024
"""From this size on, compression is done on a thread."""

OnSocket = Callable[[str, int, bool], None]
"""Told of each socket of ours: its address, its port, and True before it connects, False after it is closed."""


class UrlSink(Sink):
    """Posts messages to a collector. One try; wrap it in `Retrying`.

    A message is posted as `application/json`; where `batches` is set, each batch as `application/x-ndjson`, however
    small. 2xx is delivered; 5xx, 408, 429, a connection refused or broken and a try longer than `timeout` seconds are
    `Retry`; 413 for several messages is `TooLarge`; every other status is `Rejected`. Redirects are not followed and
    the proxy variables of the environment are not used. TLS is 1.2 or later, and verified.
    """

    name = "url"

    def __init__(
        self,
        url: str,
        *,
        instance: str,
        token: str | None = None,
        timeout: float = 10.0,
        concurrency: int = 8,
        batches: bool = False,
        gzip: bool = False,
        ca_file: str | None = None,
        user_agent: str = "tcp-sniffer",
        on_socket: OnSocket | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._url = URL(url)
        self._ca_file = ca_file
        self._timeout = timeout
        self._concurrency = concurrency
        self._batches = batches
        self._gzip = gzip
        self._on_socket = on_socket
        self._now = now
        self._headers = {
            "Content-Type": "application/x-ndjson" if batches else "application/json",
            "User-Agent": user_agent,
            INSTANCE_HEADER: instance,
        }
        if gzip:
            self._headers["Content-Encoding"] = "gzip"
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._session: aiohttp.ClientSession | None = None

    @property
    def target(self) -> str:
        """The URL as it may be logged: without its query, which may hold a secret."""
        return str(self._url.with_user(None).with_query(None).with_fragment(None))

    async def open(self) -> None:
        """Makes the session; connects nowhere yet. SnifferError where the CA file cannot be used."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._concurrency, ssl=self._tls(), socket_factory=self._socket, ttl_dns_cache=30
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            trust_env=False,
            auto_decompress=False,
        )
        log.info("posting to a collector", extra={"fields": {"sink": self.name, "url": self.target}})

    async def close(self) -> None:
        """Closes every connection."""
        if self._session is not None:
            await self._session.close()
            await asyncio.sleep(0)  # the transports close their sockets in the next round of the loop

    async def deliver(self, batch: Sequence[Record]) -> None:
        """Posts a batch, once."""
        if self._session is None:
            raise RuntimeError("deliver before open")
        failed = ""
        body = await self._body(batch)
        try:
            async with self._session.post(
                self._url,
                data=body,
                headers={"Idempotency-Key": self._key(batch)},
                allow_redirects=False,
            ) as answer:
                status = answer.status
                after = answer.headers.get("Retry-After")
                await _discard(answer)
        except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError
            failed = _cause(error)
            _let_go(error)
        finally:
            body.truncate(0)  # aiohttp's own objects refer to each other, and to it
        if failed:  # raised out here, so that it does not hold the error that it is about
            raise Retry(failed)
        if 200 <= status < 300:
            return
        cause = f"status {status}"
        if status >= 500 or status in (408, 429):
            raise Retry(cause, after=retry_after(after, self._now()))
        if status == 413:
            raise TooLarge(cause)
        raise Rejected(cause)

    async def _body(self, batch: Sequence[Record]) -> io.BytesIO:
        if self._batches:
            data = b"\n".join([record.to_json() for record in batch]) + b"\n"
        else:
            (record,) = batch
            data = record.to_json()
        if self._gzip:
            data = await asyncio.to_thread(_gzip, data) if len(data) >= THREAD_BYTES else _gzip(data)
        return io.BytesIO(data)  # of plain bytes, aiohttp warns when they are many

    def _key(self, batch: Sequence[Record]) -> str:
        key = batch[0].idempotency_key
        return f"{key}+{len(batch)}" if self._batches else key

    def _tls(self) -> ssl.SSLContext | bool:
        if self._url.scheme != "https":
            return True
        try:
            context = ssl.create_default_context(cafile=self._ca_file)
        except (OSError, ssl.SSLError) as error:
            raise SnifferError(f"output_ca_file {self._ca_file} cannot be used: {error}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def _socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        """A socket that is bound, and made known, before it connects."""
        family, kind, protocol, _, target = address
        made = _OwnSocket(family, kind, protocol)
        if self._on_socket is not None:
            try:
                # The route to the target says which address a connection will come from; no packet is sent for that.
                with socket.socket(family, socket.SOCK_DGRAM) as probe:
                    probe.connect(target)
                    local = probe.getsockname()
                made.bind((local[0], 0, *local[2:]))
                made.tell(self._on_socket)
            except BaseException:
                made.close()
                raise
        return made


class _OwnSocket(socket.socket):
    """A socket that tells of its closing."""

    _on_socket: OnSocket | None = None
    _local: tuple[str, int] = ("", 0)

    def tell(self, on_socket: OnSocket) -> None:
        ip, port = self.getsockname()[:2]
        # A zone is no part of the address on the wire, and an IPv4 address mapped into IPv6 travels as IPv4.
        self._local = ip.partition("%")[0].removeprefix("::ffff:") if "." in ip else ip.partition("%")[0], port
        self._on_socket = on_socket
        on_socket(*self._local, True)

    def close(self) -> None:
        super().close()
        on_socket, self._on_socket = self._on_socket, None
        if on_socket is not None:
            on_socket(*self._local, False)


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds that a `Retry-After` field asks for: a number or a date (RFC 9110 section 10.2.3); None for neither."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        date = parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):  # no date, or none that there is
        return None
    return max(0.0, date - now)


async def _discard(answer: aiohttp.ClientResponse) -> None:
    """Reads an answer's body. The status is the answer, whatever becomes of that."""
    left = ANSWER_BYTES
    try:
        while left > 0 and (part := await answer.content.read(left)):
            left -= len(part)
    except (aiohttp.ClientError, OSError) as error:
        _let_go(error)


def _gzip(data: bytes) -> bytes:
    return zlib.compress(data, 1, 31)


def _let_go(error: BaseException) -> None:
    """Breaks the cycles between an error and the frames that it went through, which hold what was posted.

    They would keep it until a full collection, and those are rare.
    """
    links: BaseException | None = error
    while links is not None:
        traceback.clear_frames(links.__traceback__)
        links.__traceback__ = None
        links = links.__context__


def _cause(error: BaseException) -> str:
    """What is wrong with a connection, in words that hold nothing of the request."""
    if isinstance(error, TimeoutError):
        return "timeout"
    system: Any = getattr(error, "os_error", error)
    number = getattr(system, "errno", None)
    if isinstance(system, ssl.SSLError):
        return f"TLS: {getattr(system, 'verify_message', '') or system.reason}"
    if isinstance(system, socket.gaierror):
        return str(system.strerror)
    return os.strerror(number) if isinstance(number, int) and number > 0 else type(system).__name__
