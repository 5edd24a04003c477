"""The webhook: AdmissionReview v1 over TLS. It reads no secrets, calls no API and needs no RBAC.

It fails open. Whatever goes wrong while a pod is judged, the answer allows it unchanged: the failure policy of the
webhook configuration covers a server that does not answer, but not one that answers wrongly.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sniffer.errors import SnifferError
from sniffer.injector.options import InjectorOptions
from sniffer.injector.patch import Decision, OptedInBy, Reason, build_patch
from sniffer.options import read_small

log: Final = logging.getLogger("sniffer.injector")

API_VERSION: Final = "admission.k8s.io/v1"
BODY_LIMIT: Final = 6 << 20
"""Bytes of a request: twice what an API server takes for an object, since a review may hold two."""
MOST_PAIR_FILE: Final = 1 << 20
"""Bytes of a certificate or a key."""
KEEPALIVE_S: Final = 150
"""Above the 90 s after which an API server closes an idle connection itself, so that no request meets a closed one."""
CERTIFICATE_POLL_S: Final = 5.0
SHORT_GRACE_S: Final = 5
LONGEST_WARNING: Final = 120
"""Characters: API servers may cut longer warnings, and more than 4 KiB of all together."""

PATHS: Final[Mapping[str, OptedInBy]] = {"/mutate/namespace": "namespace", "/mutate": "pod", "/": "pod"}
"""What the API server has matched, by path: the request carries no labels of the namespace."""

QUIET: Final = frozenset({Reason.NOT_OPTED_IN, Reason.OPTED_OUT, Reason.ALREADY_INJECTED, Reason.NOT_A_POD_CREATE})
"""Skips that nobody has to be told of: what was asked for is what happens."""

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
    """The server's certificate, replaced while it serves whenever its files change to another good pair.

    Each pair gets a context of its own, and each handshake is given the current one. A new pair is tried first, in a
    handshake in memory: one that does not match, has expired or cannot be read never replaces the pair in use.
    """

    def __init__(self, cert_file: str, key_file: str) -> None:
        """Raises SnifferError where the files hold no usable pair."""
        self._files = (cert_file, key_file)
        self._seen: tuple[bytes, ...] | None = None
        self.changes = -1
        """How often the pair was replaced."""
        self.not_after = 0.0
        """When the certificate in use expires, in seconds since 1970."""
        if error := self.reload():
            raise SnifferError(f"no usable certificate in tls_cert_file and tls_key_file: {error}")

    @property
    def context(self) -> ssl.SSLContext:
        """For the listening socket; it stays the same for as long as the server runs."""
        return self._entry

    @property
    def usable(self) -> bool:
        """Whether the certificate in use has not expired."""
        return time.time() < self.not_after

    def reload(self) -> str | None:
        """Takes over a changed pair. None: the pair in use is that of the files; else why it was not replaced."""
        try:
            seen = tuple(read_small(file, MOST_PAIR_FILE, pipe=False) for file in self._files)
            if seen == self._seen:
                return None
            context = _server_context()
            context.load_cert_chain(*self._files, password=lambda: b"")  # never asks at a terminal
            not_after = _try_out(context, seen[0])
        except ssl.SSLError as error:
            return str(error)
        except OSError as error:  # without the path: what was given may be the key itself
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
    """When the certificate that `server` shows expires, in seconds since 1970.

    Raises ssl.SSLError unless a client that trusts just this certificate completes a handshake with it.
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


class Metrics:
    """What is counted, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reviews = Counter(
            "tcp_sniffer_injector_reviews",
            "Admission reviews answered, by result and reason",
            ["result", "reason"],
            registry=self.registry,
        )
        self.bad_requests = Counter(
            "tcp_sniffer_injector_bad_requests",
            "Requests that were no admission review, by status",
            ["status"],
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


def result_of(reason: Reason) -> str:
    """`injected`, `skipped` or `failed`."""
    return {Reason.INJECTED: "injected", Reason.INTERNAL_ERROR: "failed"}.get(reason, "skipped")


def read_review(body: bytes) -> dict[str, Any]:
    """The `request` of an AdmissionReview v1; BadReview says what is wrong with anything else."""
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
    if not isinstance(request.get("uid"), str) or not request["uid"]:
        raise BadReview("no request.uid")
    return request


def decide(request: Mapping[str, Any], opted_in_by: OptedInBy, options: InjectorOptions) -> Decision:
    """The decision for a request, never an exception: an internal error is a reason too."""
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
    """The AdmissionReview that answers `request`: always allowed; without `patch` and `patchType` where none is."""
    response: dict[str, Any] = {
        "uid": request["uid"],
        "allowed": True,
        "auditAnnotations": {"result": result_of(decision.reason), "reason": str(decision.reason)},
    }
    if decision.detail:
        response["auditAnnotations"]["detail"] = decision.detail
    if decision.patch:
        rendered = json.dumps(decision.patch, separators=(",", ":")).encode("ascii")
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(rendered).decode("ascii")
    if warning := warning_for(request, decision):
        response["warnings"] = [warning]
    return {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}


def warning_for(request: Mapping[str, Any], decision: Decision) -> str:
    """One short line for whoever creates the pod, where what happens may not be what was asked for; else ""."""
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

    def application(self) -> web.Application:
        """The routes; anything else is 404, another method 405."""
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
        """Looks at the certificate's files, for ever. The same problem is logged once."""
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
        """Counts refused requests, and turns clients away gently while the server drains."""
        try:
            response = await handler(request)
        except web.HTTPException as error:
            self.metrics.bad_requests.labels(error.status).inc()
            response = web.Response(status=error.status, text=error.text, headers=_kept(error.headers))
        if self.draining:
            response.force_close()
        return response

    async def _mutate(self, request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(text="the content type must be application/json")
        try:
            async with asyncio.timeout(_deadline(request)):
                body = await request.read()
        except TimeoutError:
            raise web.HTTPRequestTimeout(text="the request did not arrive in time") from None
        except web.RequestPayloadError as error:
            raise web.HTTPBadRequest(text=f"the body cannot be read: {error}") from None
        started = time.perf_counter()
        try:
            review = read_review(body)
        except BadReview as error:
            log.warning("bad request", extra={"fields": {"error": str(error)}})
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
        self.metrics.reviews.labels(result_of(decision.reason), decision.reason).inc()
        self.metrics.seconds.observe(elapsed)
        _log_decision(review, opted_in_by, decision, elapsed)
        return web.Response(body=rendered, content_type="application/json")

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


def _in_one_line(record: logging.LogRecord) -> bool:
    """What is no HTTP (a port scan, plain text) is one line without a traceback, like a request that is no review."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.msg, record.args, record.exc_info = "bad request", (), None
        record.fields = {"error": " ".join(error.message.split())[:LONGEST_WARNING]}
    return True


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """What an error's answer says beyond its text: the methods that are allowed."""
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
        "namespace": request.get("namespace"),
        "pod": request.get("name") or metadata.get("name") or metadata.get("generateName"),
        "optedInBy": opted_in_by,
        "dryRun": request.get("dryRun") is True,
        "result": result_of(decision.reason),
        "reason": str(decision.reason),
        "durationMs": round(elapsed * 1000, 3),
    }
    if decision.detail:
        fields["detail"] = decision.detail
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
    """Serves until `stop` is set, and then for `stop_delay_ms` more, in which it is not ready and closes connections.

    API servers keep using connections and endpoints for a while after a pod is told to stop. Raises SnifferError where
    the certificate or the port cannot be used. `port` takes the place of the option's, 0 is any that is free;
    `on_listening` gets it.
    """
    port = options.port if port is None else port
    webhook = Webhook(options, Certificate(str(options.tls_cert_file), str(options.tls_key_file)))
    http_log = logging.getLogger("sniffer.injector.http")
    http_log.addFilter(_in_one_line)
    runner = web.AppRunner(
        webhook.application(), access_log=None, keepalive_timeout=KEEPALIVE_S, shutdown_timeout=5.0, logger=http_log
    )
    await runner.setup()
    watch = asyncio.create_task(webhook.watch_certificate(certificate_poll_s))
    try:
        site = web.TCPSite(runner, options.address, port, ssl_context=webhook.certificate.context)
        try:
            await site.start()
        except OSError as error:
            raise SnifferError(f"cannot listen on port {port}: {error.strerror or error}") from error
        port = runner.addresses[0][1]
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
        await runner.cleanup()
    log.info("stopped")
