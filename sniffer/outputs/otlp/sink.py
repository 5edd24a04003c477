"""The sink that sends exchanges to an OpenTelemetry collector by OTLP over HTTP."""

from __future__ import annotations

import logging
import ssl
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Final

from yarl import URL

from sniffer.delivery.sink import Rejected, Retry
from sniffer.errors import SnifferError
from sniffer.exchanges import ExchangeSink, Pair
from sniffer.outputs.client import Client, NoAnswer, OnSocket, retry_after
from sniffer.outputs.otlp.encoding import rejected
from sniffer.outputs.otlp.mapping import Mapping

log = logging.getLogger("sniffer.sinks")

ANSWER_BYTES: Final = 64 * 1024
RETRIED: Final = (429, 502, 503, 504)
"""The statuses after which the specification allows another try."""


class OtlpSink(ExchangeSink):
    """Sends log records to `/v1/logs` and spans to `/v1/traces` below an endpoint. It tries once; its lane tries again.

    2xx is delivered, less what the answer says was rejected (`partial_success`). `Retry` is raised for 429, 502, 503,
    504, and where no status line comes in time. Every other status is `Rejected`.
    """

    name = "otlp"

    def __init__(
        self,
        endpoint: str,
        mapping: Mapping,
        *,
        fields: dict[str, str],
        timeout: float,
        gzip: bool = True,
        ca_file: str | None = None,
        on_socket: OnSocket | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._endpoint = URL(endpoint)
        self._mapping = mapping
        self._fields = fields | {"Content-Type": "application/x-protobuf"}
        if gzip:
            self._fields["Content-Encoding"] = "gzip"
        self._timeout = timeout
        self._gzip = gzip
        self._ca_file = ca_file
        self._on_socket = on_socket
        self._now = now
        self._clients: list[Client] = []
        self._sent: tuple[str, int] | None = None
        """The batch whose log records are delivered, while its spans are not."""
        self._refused = 0

    async def open(self) -> None:
        """Reads the CA file; connects nowhere yet. SnifferError where the file cannot be used."""
        tls = self._tls()
        for path in ("v1/logs", "v1/traces"):
            client = Client(
                self._endpoint / path,
                self._fields,
                timeout=self._timeout,
                connections=1,
                answer_bytes=ANSWER_BYTES,
                tls=tls,
                on_socket=self._on_socket,
                keeps=True,
            )
            self._clients.append(client)
        shown = str(self._endpoint.with_query(None).with_fragment(None))
        log.info("posting to a collector", extra={"fields": {"sink": self.name, "url": shown}})

    async def close(self) -> None:
        """Closes every connection."""
        for client in self._clients:
            await client.close()

    async def show(self, pairs: Sequence[Pair]) -> None:
        """Sends exchanges, once."""
        with self.working():
            made = [self._mapping.make(pair.exchange) for pair in pairs]
        logs = [one.log for one in made if one.log]
        spans = [one.span for one in made if one.span]
        first = next(record for record in pairs[0] if record is not None).idempotency_key
        batch = (first, len(pairs))
        logs_client, spans_client = self._clients
        if self._sent != batch:
            self._refused = 0
        if logs and self._sent != batch:
            self._refused = await self._post(logs_client, logs, first)
        self._sent = batch  # another try need send the spans alone
        refused = self._refused + (await self._post(spans_client, spans, first) if spans else 0)
        self._sent = None
        if refused:
            lost = sum(pair.messages for pair in pairs[-refused:])
            raise Rejected("partial success", delivered=sum(pair.messages for pair in pairs) - lost)

    async def _post(self, client: Client, items: Sequence[bytes], key: str) -> int:
        """Posts items. Returns how many of them the collector has rejected."""
        with self.working():
            body = self._mapping.request(items)
            if self._gzip:
                body = zlib.compress(body, 1, 31)
        failed = ""
        try:
            answer = await client.post(body, f"{key}+{len(items)}")
        except NoAnswer as error:
            failed = error.cause
        if failed:  # raised outside of the handler, so that it holds no reference to the first error
            raise Retry(failed)
        if 200 <= answer.status < 300:
            return min(rejected(answer.content), len(items))
        cause = f"status {answer.status}"
        if answer.status in RETRIED:
            raise Retry(cause, after=retry_after(answer.retry_after, self._now()))
        raise Rejected(cause)

    def _tls(self) -> ssl.SSLContext | None:
        if self._endpoint.scheme != "https":
            return None
        try:
            context = ssl.create_default_context(cafile=self._ca_file)
        except (OSError, ssl.SSLError) as error:
            raise SnifferError(f"otel_exporter_otlp_certificate cannot be used: {error}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context
