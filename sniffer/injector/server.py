"""The webhook: AdmissionReview v1 over TLS. It reads no secrets, calls no API and needs no RBAC.

It fails open: whatever goes wrong while it decides about a pod, the answer allows the pod unchanged. The failure
policy of the webhook configuration covers a server that does not answer, but not one that answers wrongly.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import ssl
import time
import zlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext, suppress
from typing import Any, Final

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sniffer.errors import SnifferError
from sniffer.injector.limits import BODY_S, GOODBYE_S, Bodies, Door, Evicted, Seldom, short
from sniffer.injector.options import InjectorOptions
from sniffer.injector.patch import Decision, OptedInBy, Reason, build_patch
from sniffer.options import read_small

log: Final = logging.getLogger("sniffer.injector")

API_VERSION: Final = "admission.k8s.io/v1"
BODY_LIMIT: Final = 6 << 20
"""Largest request, in bytes: twice the limit of an API server for an object, since a review may hold two."""
BODIES_LIMIT: Final = 4 * BODY_LIMIT
"""Bytes of all requests that are being read at a time."""
KEPT_BODY: Final = 64 << 10
"""Bytes. aiohttp keeps a connection's last body until the next one, so a connection is closed after a larger body."""
VALUES_LIMIT: Final = 200_000
"""Most JSON values in a request. Each takes up to 72 bytes of memory; no Kubernetes object has so many values."""
LONGEST_UID: Final = 128
LONGEST_DETAIL: Final = 1024
HEAD_LIMITS: Final[Any] = {"max_line_size": 4096, "max_field_size": 8190, "max_headers": 32, "read_bufsize": 16384}
"""Bytes of a request line and of a field, number of fields, and bytes of a body that are read ahead."""
REPEAT_S: Final = 10.0
"""Seconds within which an API server calls again for the same pod, if at all."""
MOST_REMEMBERED: Final = 1024
MOST_PAIR_FILE: Final = 1 << 20
"""Largest certificate or key file, in bytes."""
KEEPALIVE_S: Final = 150
"""Seconds.

An API server closes idle connections after 90 s; so the server never closes one that a request is sent on.
"""
CERTIFICATE_POLL_S: Final = 5.0
SHORT_GRACE_S: Final = 5
LONGEST_WARNING: Final = 120
"""Characters. API servers may cut longer warnings, and warnings of more than 4 KiB in all."""

PATHS: Final[Mapping[str, OptedInBy]] = {"/mutate/namespace": "namespace", "/mutate": "pod", "/": "pod"}
"""The matched label, by path: the request does not carry the labels of the namespace."""

QUIET: Final = frozenset({Reason.NOT_OPTED_IN, Reason.OPTED_OUT, Reason.ALREADY_INJECTED, Reason.NOT_A_POD_CREATE})
"""Skips without a warning, since they do what was asked for."""

EXPLANATIONS: Final[Mapping[Reason, str]] = {
    Reason.SYSTEM_NAMESPACE: "namespaces of the system are left alone",
    Reason.MIRROR_POD: "it is a mirror pod",
    Reason.NO_SPEC: "the pod has no spec",
    Reason.NO_CONTAINERS: "the pod has no containers",
    Reason.HOST_NETWORK: "the pod uses the network of its node",
    Reason.WINDOWS: "the pod runs on Windows",
    Reason.JOB_WITHOUT_NATIVE_SIDECAR: "a regular container would keep its Job or workflow from completing",
    Reason.INTERNAL_ERROR: "the injector failed; its log says why",
}


class BadReview(Exception):
    """A request that is no AdmissionReview v1."""


class Certificate:
    """The server's certificate. While serving, it is replaced when its files change to another usable pair.

    Each pair has a context of its own, and each handshake uses the current one. A new pair is first tried in a
    handshake in memory. A pair that does not match, has expired or cannot be read never replaces the pair in use.
    """

    def __init__(self, cert_file: str, key_file: str) -> None:
        """Raises SnifferError if the files hold no usable pair."""
        self._files = (cert_file, key_file)
        self._seen: tuple[bytes, ...] | None = None
        self.changes = -1
        """Number of times that the pair was replaced."""
        self.not_after = 0.0
        """Expiry of the certificate in use, in seconds since 1970."""
        if error := self.reload():
            raise SnifferError(f"no usable certificate in tls_cert_file and tls_key_file: {error}")

    @property
    def context(self) -> ssl.SSLContext:
        """The context of the listening socket. It stays the same while the server runs."""
        return self._entry

    @property
    def usable(self) -> bool:
        """Whether the certificate in use has not expired."""
        return time.time() < self.not_after

    def reload(self) -> str | None:
        """Loads a changed pair. Returns None if the pair in use is that of the files, else why it was not replaced."""
        try:
            seen = tuple(read_small(file, MOST_PAIR_FILE, pipe=False) for file in self._files)
            if seen == self._seen:
                return None
            context = _server_context()
            context.load_cert_chain(*self._files, password=lambda: b"")  # never asks at a terminal
            not_after = _try_out(context, seen[0])
        except ssl.SSLError as error:
            return str(error)
        except OSError as error:  # without the path, which may be the key itself, set by mistake
            return error.strerror
        except ValueError as error:
            return str(error)
        if self._seen is None:
            self._entry = context
            context.sni_callback = self._choose
        self._current, self._seen, self.not_after = context, seen, not_after
        self.changes += 1
        return None

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, entry: ssl.SSLContext) -> None:  # noqa: ARG002
        connection.context = self._current


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _try_out(server: ssl.SSLContext, certificate: bytes) -> float:
    """Expiry of the certificate that `server` presents, in seconds since 1970.

    Raises ssl.SSLError unless a client that trusts only this certificate completes a handshake.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cadata=certificate.decode("ascii"))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)]
    for end in ends * 3:
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    shown = ends[0].getpeercert()
    if not shown:
        raise ssl.SSLError("no certificate was shown")
    return float(ssl.cert_time_to_seconds(str(shown["notAfter"])))


class _Sent(msgspec.Struct):
    """The fields of an object that API servers set before they call webhooks, as they stand in the request."""

    name: msgspec.Raw = msgspec.Raw()
    generateName: msgspec.Raw = msgspec.Raw()  # noqa: N815 - as the API has it
    managedFields: msgspec.Raw = msgspec.Raw()  # noqa: N815


class _SentObject(msgspec.Struct):
    metadata: _Sent


class _SentRequest(msgspec.Struct):
    object: msgspec.Raw
    namespace: msgspec.Raw = msgspec.Raw()


class _SentReview(msgspec.Struct):
    request: _SentRequest


class Decided:
    """Remembers the pods of the last seconds, to recognise a second call for a pod that another webhook has changed.

    A call has no mark for that. But before it calls the first webhook, an API server notes who sent the pod, and when.
    Both calls agree in these fields, and the pods differ in others.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[int, tuple[float, int, Reason]] = OrderedDict()

    def again(self, body: bytes, reason: Reason) -> bool:
        """Whether the decision for this pod has been reported before. Remembers the pod if not."""
        try:
            request = msgspec.json.decode(body, type=_SentReview).request
            sent = msgspec.json.decode(request.object, type=_SentObject).metadata
        except msgspec.DecodeError:  # no pod
            return False
        parts = (request.namespace, sent.name, sent.generateName, sent.managedFields)
        key, content, now = hash(tuple(map(bytes, parts))), hash(bytes(request.object)), time.monotonic()
        while self._known and (len(self._known) >= MOST_REMEMBERED or self._oldest() + REPEAT_S < now):
            self._known.popitem(last=False)
        first = self._known.get(key)
        if first is not None and content != first[1]:
            follows = Reason.ALREADY_INJECTED if first[2] is Reason.INJECTED else first[2]
            if reason is follows:
                return True
        self._known[key] = now, content, reason
        self._known.move_to_end(key)
        return False

    def _oldest(self) -> float:
        return next(iter(self._known.values()))[0]


class Metrics:
    """The metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reviews = Counter(
            "tcp_sniffer_injector_reviews",
            "Pods decided on, by result and reason",
            ["result", "reason"],
            registry=self.registry,
        )
        self.bad_requests = Counter(
            "tcp_sniffer_injector_bad_requests",
            "Requests that were no admission review, by status",
            ["status"],
            registry=self.registry,
        )
        self.connections_closed = Counter(
            "tcp_sniffer_injector_connections_closed",
            "Connections that had to make way, or sent no request in time, by reason",
            ["reason"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "tcp_sniffer_injector_review_seconds",
            "Time from the whole request to its answer",
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
            registry=self.registry,
        )
        self.reloads = Counter(
            "tcp_sniffer_injector_certificate_reloads",
            "Changes of the certificate files, by result",
            ["result"],
            registry=self.registry,
        )
        self.not_after = Gauge(
            "tcp_sniffer_injector_certificate_not_after_seconds",
            "When the certificate in use expires, in seconds since 1970",
            registry=self.registry,
        )
        for reason in Reason:
            self.reviews.labels(result_of(reason), reason)
        for result in ("replaced", "refused"):
            self.reloads.labels(result)
        for cause in ("limit", "late"):
            self.connections_closed.labels(cause)


def result_of(reason: Reason) -> str:
    """`injected`, `skipped` or `failed`."""
    return {Reason.INJECTED: "injected", Reason.INTERNAL_ERROR: "failed"}.get(reason, "skipped")


def read_review(body: bytes) -> dict[str, Any]:
    """The `request` of an AdmissionReview v1. Raises BadReview, with the error, for anything else."""
    if sum(map(body.count, (b",", b"[", b"{"))) > VALUES_LIMIT:
        raise BadReview(f"more than {VALUES_LIMIT} values")
    try:
        review = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadReview(f"not JSON: {error}") from None
    if not isinstance(review, dict):
        raise BadReview("not an object")
    kind, version = review.get("kind"), review.get("apiVersion")
    if kind != "AdmissionReview" or version != API_VERSION:
        raise BadReview(f"not an AdmissionReview of {API_VERSION}")
    request = review.get("request")
    if not isinstance(request, dict):
        raise BadReview("no request")
    if not isinstance(request.get("uid"), str) or not 0 < len(request["uid"]) <= LONGEST_UID:
        raise BadReview("no request.uid, or none that is one")
    return request


def decide(request: Mapping[str, Any], opted_in_by: OptedInBy, options: InjectorOptions) -> Decision:
    """The decision for a request. Never raises: an internal error is a reason too."""
    pod = request.get("object")
    kind = request.get("kind")
    try:
        is_create = request.get("operation") == "CREATE" and not request.get("subResource")
        if not is_create or kind != {"group": "", "version": "v1", "kind": "Pod"} or not isinstance(pod, dict):
            return Decision(None, Reason.NOT_A_POD_CREATE)
        return build_patch(pod, str(request.get("namespace") or ""), opted_in_by, options)
    except Exception as error:
        log.exception("internal error", extra={"fields": {"uid": request["uid"]}})
        return Decision(None, Reason.INTERNAL_ERROR, type(error).__name__)


def answer(request: Mapping[str, Any], decision: Decision) -> dict[str, Any]:
    """The AdmissionReview that answers `request`: always allowed; `patch` and `patchType` only with a patch."""
    response: dict[str, Any] = {
        "uid": request["uid"],
        "allowed": True,
        "auditAnnotations": {"result": result_of(decision.reason), "reason": str(decision.reason)},
    }
    if decision.detail:
        response["auditAnnotations"]["detail"] = short(decision.detail, LONGEST_DETAIL)
    if decision.patch:
        rendered = json.dumps(decision.patch, separators=(",", ":")).encode("ascii")
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(rendered).decode("ascii")
    if warning := warning_for(request, decision):
        response["warnings"] = [warning]
    return {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}


def warning_for(request: Mapping[str, Any], decision: Decision) -> str:
    """A short line for the creator of the pod if the result may not be what was asked for; else ""."""
    if decision.reason == Reason.INJECTED:
        grace = request["object"]["spec"].get("terminationGracePeriodSeconds")
        if grace is None or grace > SHORT_GRACE_S:
            return ""
        return f"tcp-sniffer: a grace period of {grace} s leaves 1 s for delivering what is left at the end"
    if decision.reason in QUIET:
        return ""
    why = EXPLANATIONS.get(decision.reason, decision.detail)
    line = f"tcp-sniffer not injected: {why}".encode("ascii", "replace").decode("ascii")
    return line if len(line) <= LONGEST_WARNING else line[: LONGEST_WARNING - 3] + "..."


class Webhook:
    """The application, and its state while it serves."""

    def __init__(self, options: InjectorOptions, certificate: Certificate) -> None:
        self.options = options
        self.certificate = certificate
        self.metrics = Metrics()
        self.metrics.not_after.set_function(lambda: certificate.not_after)
        self.draining = False
        self.door: Door | None = None
        self._bodies = Bodies(BODIES_LIMIT)
        self._decided = Decided()
        self._bad, self._closed = Seldom(), Seldom()

    def application(self) -> web.Application:
        """The aiohttp application. Other paths give 404, other methods 405."""
        app = web.Application(client_max_size=BODY_LIMIT, middlewares=[self._around])
        app.add_routes([web.post(path, self._mutate) for path in PATHS])
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )
        return app

    async def watch_certificate(self, every_s: float = CERTIFICATE_POLL_S) -> None:
        """Checks the certificate's files for ever. Logs the same problem once."""
        last: str | None = None
        while True:
            await asyncio.sleep(every_s)
            changes = self.certificate.changes
            error = self.certificate.reload()
            if error is not None and error != last:
                self.metrics.reloads.labels("refused").inc()
                log.error("certificate not replaced", extra={"fields": {"error": error}})
            elif self.certificate.changes != changes:
                self.metrics.reloads.labels("replaced").inc()
                log.info("certificate replaced", extra={"fields": {"notAfter": self.certificate.not_after}})
            last = error

    @web.middleware
    async def _around(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Counts refused requests, and closes each connection after its response while the server drains."""
        try:
            with self.door.request(request.transport) if self.door is not None else nullcontext():
                response = await handler(request)
        except web.HTTPException as error:
            self.metrics.bad_requests.labels(error.status).inc()
            response = web.Response(status=error.status, text=error.text, headers=_kept(error.headers))
        if self.draining or (request.content_length or 0) > KEPT_BODY or "Transfer-Encoding" in request.headers:
            response.force_close()
        return response

    async def _mutate(self, request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(text="the content type must be application/json")
        body = await self._read(request)
        started = time.perf_counter()
        try:
            review = read_review(body)
        except BadReview as error:
            self.bad_request(str(error))
            raise web.HTTPBadRequest(text=str(error)) from None
        opted_in_by = PATHS[request.path]
        decision = decide(review, opted_in_by, self.options)
        try:
            rendered = msgspec.json.encode(answer(review, decision))
        except Exception as error:
            log.exception("internal error", extra={"fields": {"uid": review["uid"]}})
            decision = Decision(None, Reason.INTERNAL_ERROR, type(error).__name__)
            rendered = msgspec.json.encode(answer(review, decision))
        elapsed = time.perf_counter() - started
        self.metrics.seconds.observe(elapsed)
        if not self._decided.again(body, decision.reason):
            self.metrics.reviews.labels(result_of(decision.reason), decision.reason).inc()
            _log_decision(review, opted_in_by, decision, elapsed)
        return web.Response(body=rendered, content_type="application/json")

    async def _read(self, request: web.Request) -> bytes:
        """The body without its content coding. Raises the HTTPException for a body that cannot be read."""
        announced = BODY_LIMIT if request.content_length is None else request.content_length
        if announced > BODY_LIMIT:
            raise web.HTTPRequestEntityTooLarge(BODY_LIMIT)
        try:
            async with self._bodies.room(announced, min(BODY_S, _deadline(request))):
                body = await request.read()
            return _decoded(body, request.headers.get("Content-Encoding", "identity").strip().lower())
        except TimeoutError:
            raise web.HTTPRequestTimeout(text="the request did not arrive in time") from None
        except Evicted:
            raise web.HTTPServiceUnavailable(text="too many requests are on their way") from None
        except (web.RequestPayloadError, ConnectionError, zlib.error) as error:
            raise web.HTTPBadRequest(text=f"the body cannot be read: {error}") from None

    def bad_request(self, error: str) -> None:
        """Logs an invalid request, with the number of those since the last line."""
        if (fields := self._bad.due()) is not None:
            log.warning("bad request", extra={"fields": {"error": short(error, LONGEST_WARNING), **fields}})

    def connection_closed(self, reason: str) -> None:
        """Counts and logs an evicted connection."""
        self.metrics.connections_closed.labels(reason).inc()
        if (fields := self._closed.due()) is not None:
            log.warning("connection closed", extra={"fields": {"reason": reason, **fields}})

    def in_one_line(self, record: logging.LogRecord) -> bool:
        """Logs input that is not HTTP (a port scan, plain text) as a bad request: one line without a traceback."""
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError):
            return True
        self.bad_request(" ".join(error.message.split()))
        return False

    async def _healthz(self, request: web.Request) -> web.Response:  # noqa: ARG002
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:  # noqa: ARG002
        if self.draining:
            return web.Response(status=503, text="stopping\n")
        if not self.certificate.usable:
            return web.Response(status=503, text="the certificate has expired\n")
        return web.Response(text="ok\n")

    async def _metrics(self, request: web.Request) -> web.Response:  # noqa: ARG002
        return web.Response(body=generate_latest(self.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _decoded(body: bytes, coding: str) -> bytes:
    """A body without its content coding, BODY_LIMIT bytes at most. Raises zlib.error if the coding does not fit."""
    if coding in ("", "identity"):
        return body
    if coding not in ("gzip", "deflate"):
        raise zlib.error("only gzip and deflate are understood")
    decoder = zlib.decompressobj(zlib.MAX_WBITS + (16 if coding == "gzip" else 0))
    made = decoder.decompress(body, BODY_LIMIT + 1)
    if len(made) > BODY_LIMIT:
        raise web.HTTPRequestEntityTooLarge(BODY_LIMIT)
    if not decoder.eof:
        raise zlib.error("it is cut")
    return made


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """The header fields that an error response keeps: the allowed methods."""
    return {"Allow": headers["Allow"]} if "Allow" in headers else {}


def _deadline(request: web.Request) -> float:
    """Seconds that the API server still waits for the answer: `?timeout=5s`, at most 30 s."""
    given = request.query.get("timeout", "").removesuffix("s")
    return min(30.0, max(1.0, float(given))) if given.isdecimal() and given.isascii() else 30.0


def _log_decision(request: Mapping[str, Any], opted_in_by: OptedInBy, decision: Decision, elapsed: float) -> None:
    pod = request.get("object")
    metadata = pod.get("metadata") if isinstance(pod, dict) else None
    metadata = metadata if isinstance(metadata, dict) else {}
    fields = {
        "uid": request["uid"],
        "namespace": short(request.get("namespace")),
        "pod": short(request.get("name") or metadata.get("name") or metadata.get("generateName")),
        "optedInBy": opted_in_by,
        "dryRun": request.get("dryRun") is True,
        "result": result_of(decision.reason),
        "reason": str(decision.reason),
        "durationMs": round(elapsed * 1000, 3),
    }
    if decision.detail:
        fields["detail"] = short(decision.detail, LONGEST_DETAIL)
    level = logging.INFO if decision.reason in QUIET or decision.patch else logging.WARNING
    log.log(level, "admission", extra={"fields": fields})


async def serve(
    options: InjectorOptions,
    stop: asyncio.Event,
    *,
    port: int | None = None,
    on_listening: Callable[[int], None] | None = None,
    certificate_poll_s: float = CERTIFICATE_POLL_S,
) -> None:
    """Serves until `stop` is set, and then for `stop_delay_ms` more, not ready and closing each connection.

    API servers keep using connections and endpoints for a while after a pod is told to stop. Raises SnifferError if
    the certificate or the port cannot be used. `port` replaces the option's; 0 is any free port. `on_listening` gets
    the port.
    """
    port = options.port if port is None else port
    webhook = Webhook(options, Certificate(str(options.tls_cert_file), str(options.tls_key_file)))
    http_log = logging.getLogger("sniffer.injector.http")
    http_log.addFilter(webhook.in_one_line)
    runner = web.AppRunner(
        webhook.application(),
        access_log=None,
        keepalive_timeout=KEEPALIVE_S,
        shutdown_timeout=5.0,
        logger=http_log,
        lingering_time=GOODBYE_S,
        auto_decompress=False,
        **HEAD_LIMITS,
    )
    await runner.setup()
    assert runner.server is not None  # noqa: S101 - made by setup
    webhook.door = door = Door(runner.server, webhook.certificate.context, closed=webhook.connection_closed)
    watch = asyncio.create_task(webhook.watch_certificate(certificate_poll_s))
    try:
        try:
            port = door.open(options.address, port)
        except OSError as error:
            raise SnifferError(f"cannot listen on port {port}: {error.strerror or error}") from error
        log.info("listening", extra={"fields": {"port": port, "notAfter": webhook.certificate.not_after}})
        if on_listening is not None:
            on_listening(port)
        await stop.wait()
        webhook.draining = True
        log.info("stopping", extra={"fields": {"delayMs": options.stop_delay_ms}})
        await asyncio.sleep(options.stop_delay_ms / 1000)
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
        await door.close()
        await runner.cleanup()
        http_log.removeFilter(webhook.in_one_line)
    log.info("stopped")
