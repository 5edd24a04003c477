"""The sink that posts messages to `OUTPUT_URL`."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Final

from yarl import URL

from sniffer.delivery.sink import Record, Rejected, Retry, Sink, TooLarge
from sniffer.errors import SnifferError
from sniffer.filters import INSTANCE_HEADER
from sniffer.outputs.client import Client, NoAnswer, OnSocket, is_passing, retry_after

log = logging.getLogger("sniffer.sinks")

ANSWER_BYTES: Final = 64 * 1024
"""Bytes of an answer that are read so that the connection can be used again; a longer answer ends the connection."""
THREAD_BYTES: Final = 32 * 1024
"""Bodies of this size or more are compressed on a thread."""


class UrlSink(Sink):
    """Posts messages to a collector. It tries once; its lane makes further tries.

    A message is posted as `application/json`; where `batches` is set, each batch as `application/x-ndjson`, however
    small. 2xx is delivered. `Retry` is raised for 5xx, 408 and 429, for a connection that is refused or breaks before
    the status line was read, and for a try that takes longer than `timeout` seconds. 413 for several messages is
    `TooLarge`; every other status is `Rejected`. Redirects are not followed, and the proxy variables of the environment
    are not used. TLS is 1.2 or later, and certificates are verified.
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
        self._client: Client | None = None

    @property
    def target(self) -> str:
        """The URL as it may be logged: without its query, which may hold a secret."""
        return str(self._url.with_user(None).with_query(None).with_fragment(None))

    async def open(self) -> None:
        """Reads the CA file; connects nowhere yet. SnifferError where the file cannot be used."""
        self._client = Client(
            self._url,
            self._headers,
            timeout=self._timeout,
            connections=self._concurrency,
            answer_bytes=ANSWER_BYTES,
            tls=self._tls(),
            on_socket=self._on_socket,
        )
        log.info("posting to a collector", extra={"fields": {"sink": self.name, "url": self.target}})

    async def close(self) -> None:
        """Closes every connection."""
        if self._client is not None:
            await self._client.close()

    async def deliver(self, batch: Sequence[Record]) -> None:
        """Posts a batch, once."""
        if self._client is None:
            raise RuntimeError("deliver before open")
        failed = ""
        try:
            answer = await self._client.post(await self._body(batch), self._key(batch))
        except NoAnswer as error:
            failed = error.cause
        if failed:  # raised outside of the handler, so that it holds no reference to the first error
            raise Retry(failed)
        status = answer.status
        if 200 <= status < 300:
            return
        cause = f"status {status}"
        if is_passing(status):
            raise Retry(cause, after=retry_after(answer.retry_after, self._now()))
        if status == 413:
            raise TooLarge(cause)
        raise Rejected(cause)

    async def _body(self, batch: Sequence[Record]) -> bytes:
        if self._batches:
            data = b"\n".join([record.to_json() for record in batch]) + b"\n"
        else:
            (record,) = batch
            data = record.to_json()
        if self._gzip:
            data = await asyncio.to_thread(_gzip, data) if len(data) >= THREAD_BYTES else _gzip(data)
        return data

    def _key(self, batch: Sequence[Record]) -> str:
        key = batch[0].idempotency_key
        return f"{key}+{len(batch)}" if self._batches else key

    def _tls(self) -> ssl.SSLContext | None:
        if self._url.scheme != "https":
            return None
        try:
            context = ssl.create_default_context(cafile=self._ca_file)
        except (OSError, ssl.SSLError) as error:
            raise SnifferError(f"output_ca_file {self._ca_file} cannot be used: {error}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


def _gzip(data: bytes) -> bytes:
    return zlib.compress(data, 1, 31)
