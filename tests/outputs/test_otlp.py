"""OTLP over HTTP: what an exchange becomes, and what follows from each answer of a collector.

The encoding is read by the `opentelemetry-proto` package. A real collector takes part where it is found: the variable
TCP_SNIFFER_OTELCOL names its program, or `otelcol` is on the path.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from sniffer.config import SnifferConfig
from sniffer.delivery.lane import Lane
from sniffer.delivery.retry import Retries
from sniffer.errors import SnifferError, ValidationError
from sniffer.exchanges import ByExchange, Exchange
from sniffer.outputs.otlp import Otlp, encoding
from sniffer.outputs.otlp.mapping import SCHEMA_URL, Mapping
from sniffer.outputs.otlp.sink import OtlpSink
from sniffer.record.message import Endpoint, Fields, Proxied
from tests.daemon import DEMO, ROOT, Daemon, exchanges, free_port, needs_capture, web_server
from tests.deliveries import Sent, Time, answer, message, running, settled
from tests.waiting import wait_until

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def a_mapping(*, signals: str = "both", body: int = 0, local: frozenset[str] = frozenset()) -> Mapping:
    return Mapping({"service.name": "shop"}, version="1", signals=signals, body=body, local=local)


def plain(value: Any) -> Any:
    """An AnyValue as a Python object."""
    kind = value.WhichOneof("value")
    return [plain(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, kind)


def values(of: Any) -> dict[str, Any]:
    return {one.key: plain(one.value) for one in of.attributes}


def span_of(exchange: Exchange, mapping: Mapping | None = None) -> Any:
    """The one span of an exchange, as another implementation reads it."""
    mapping = mapping or a_mapping()
    request = ExportTraceServiceRequest.FromString(mapping.request([mapping.make(exchange).span]))
    (resource,) = request.resource_spans
    (scope,) = resource.scope_spans
    assert resource.schema_url == scope.schema_url == SCHEMA_URL
    assert values(resource.resource) == {"service.name": "shop"}
    (span,) = scope.spans
    return span


def log_of(exchange: Exchange, mapping: Mapping | None = None) -> Any:
    """The one log record of an exchange, as another implementation reads it."""
    mapping = mapping or a_mapping()
    request = ExportLogsServiceRequest.FromString(mapping.request([mapping.make(exchange).log]))
    return request.resource_logs[0].scope_logs[0].log_records[0]


def changed(one: Sent, **fields: Any) -> Sent:
    return msgspec.structs.replace(one, **fields)


def traced(number: int = 0) -> Exchange:
    return Exchange(*(changed(one, trace_id=TRACE, span_id=SPAN) for one in (message(number), answer(number))))


# What an exchange becomes


def test_span() -> None:
    """A span has the attributes of the conventions, the times of both messages, and the method as its name."""
    request = changed(
        message(3, body="hello"),
        headers=Fields({"user-agent": "curl/8"}),
        path="/a/b?x=1&y",
        authority="[2001:db8::1]:81",
    )
    response = changed(answer(3), end_timestamp="2026-01-02T03:04:05.500006Z", latency_ms=1.5, duration_ms=500.0)
    span = span_of(Exchange(request, response))
    assert (span.name, span.kind, span.status.code) == ("GET", encoding.SERVER, 0)
    assert (span.end_time_unix_nano - span.start_time_unix_nano) == 500_000_000
    assert span.start_time_unix_nano == request.timestamp_us * 1000
    assert (len(span.trace_id), len(span.span_id), span.parent_span_id) == (16, 8, b"")
    assert values(span) == {
        "http.request.method": "GET",
        "url.path": "/a/b",
        "url.query": "x=1&y",
        "url.scheme": "http",
        "http.response.status_code": 200,
        "server.address": "2001:db8::1",
        "server.port": 81,
        "network.local.address": "192.0.2.1",
        "network.local.port": 8080,
        "network.peer.address": "192.0.2.2",
        "network.peer.port": 40000,
        "client.address": "192.0.2.2",
        "client.port": 40000,
        "network.protocol.name": "http",
        "network.protocol.version": "1.1",
        "user_agent.original": "curl/8",
        "http.request.body.size": 5,
        "http.response.body.size": 0,
        "tcp_sniffer.connection_id": "0" * 32,
        "tcp_sniffer.exchange": 3,
        "tcp_sniffer.response.reason": "OK",
        "tcp_sniffer.latency_ms": 1.5,
    }


def test_ids_are_the_same_each_time() -> None:
    """A span that is sent again has its ids again; another exchange has others."""
    first, again, other = (span_of(Exchange(message(number), answer(number))) for number in (0, 0, 1))
    assert (first.trace_id, first.span_id) == (again.trace_id, again.span_id)
    assert first.trace_id != other.trace_id
    assert first.span_id != other.span_id


def test_callers_span_is_the_parent() -> None:
    """With a traceparent the trace is the caller's and its span the parent, never the span itself."""
    span = span_of(traced())
    assert span.trace_id.hex() == TRACE
    assert span.parent_span_id.hex() == SPAN
    assert span.span_id.hex() != SPAN
    log = log_of(traced(), a_mapping(signals="auto"))
    assert (log.trace_id.hex(), log.span_id.hex()) == (TRACE, SPAN)


@pytest.mark.parametrize(
    ("signals", "with_parent", "made"),
    [
        *(("auto", True, (True, False)), ("auto", False, (False, True)), ("logs", False, (True, False))),
        *(("spans", True, (False, True)), ("both", True, (True, True))),
    ],
)
def test_signals(signals: str, with_parent: bool, made: tuple[bool, bool]) -> None:
    """An exchange becomes what is asked for; by default a log record where an SDK makes the span."""
    exchange = traced() if with_parent else Exchange(message(), answer())
    assert tuple(map(bool, a_mapping(signals=signals).make(exchange))) == made


@pytest.mark.parametrize(
    ("status", "local", "error"),
    [(404, "192.0.2.1", ""), (404, "192.0.2.2", "404"), (500, "192.0.2.1", "500"), (503, "192.0.2.2", "503")],
)
def test_status_and_kind(status: int, local: str, error: str) -> None:
    """Where the client is local the span is a client's, and a 4xx is its error; a server's error begins at 500."""
    exchange = Exchange(message(), changed(answer(), status_code=status))
    span = span_of(exchange, a_mapping(local=frozenset((local,))))
    assert span.kind == (encoding.CLIENT if local == "192.0.2.2" else encoding.SERVER)
    assert values(span).get("error.type", "") == error
    assert span.status.code == (encoding.ERROR if error else 0)
    assert values(span)["network.local.address"] == local


def test_exchanges_that_are_not_whole() -> None:
    """A missing or incomplete message makes a span all the same, with its cause as the error; nothing is guessed."""
    alone = span_of(Exchange(changed(message(), incomplete="gap", method="BREW"), None))
    assert alone.name == "HTTP"
    assert values(alone)["error.type"] == "gap"
    assert values(alone)["http.request.method"] == "_OTHER"
    assert values(alone)["http.request.method_original"] == "BREW"
    assert "http.response.status_code" not in values(alone)
    orphan = values(span_of(Exchange(None, answer(alone=True))))
    assert orphan["server.address"] == "192.0.2.1"
    assert not {"url.path", "http.request.method"} & set(orphan)
    behind = changed(message(), proxied=Proxied(Endpoint("198.51.100.7", 9), Endpoint("198.51.100.8", 80)))
    assert values(span_of(Exchange(behind, None)))["client.address"] == "198.51.100.7"


def test_log_record() -> None:
    """A log record holds no body unless it is asked for, and then no more than so many bytes, cut at a character."""
    exchange = Exchange(message(body="aé" * 10), changed(answer(body="ok"), status_code=500))
    log = log_of(exchange)
    assert plain(log.body) == "GET /0/0 500"
    assert (log.severity_number, log.severity_text, log.event_name) == (17, "ERROR", "tcp_sniffer.exchange")
    assert not [key for key in values(log) if key.endswith(".body")]
    kept = values(log_of(exchange, a_mapping(body=5)))
    assert kept["tcp_sniffer.request.body"] == "aéa"
    assert kept["tcp_sniffer.request.body_truncated"] is True
    assert kept["tcp_sniffer.response.body"] == "ok"


def test_page_and_code_agree() -> None:
    """Every attribute of the conventions that is sent has a row in docs/OPENTELEMETRY.md."""
    page = (ROOT / "docs" / "OPENTELEMETRY.md").read_text()
    code = (ROOT / "sniffer/outputs/otlp/mapping.py").read_text()
    names = set(re.findall(r'"((?:http|url|server|client|network|user_agent|error)\.[a-z_.]+)"', code))
    assert len(names) > 15
    assert [name for name in names if f"`{name}`" not in page] == []
    assert SCHEMA_URL.rpartition("/")[2].removesuffix(".0") in page


def test_numbers_of_any_size() -> None:
    """Whole numbers, negative ones too, and text that UTF-8 cannot hold are read back by another implementation."""
    odd: dict[str, encoding.Value] = {"a": -1, "b": 2**62, "c": 0.5, "d": ["x", "y"], "e": "\ud800", "f": False}
    request = ExportLogsServiceRequest.FromString(encoding.export(encoding.resource(odd), b"", "", []))
    found = values(request.resource_logs[0].resource)
    assert found == {"a": -1, "b": 2**62, "c": 0.5, "d": ["x", "y"], "e": "?", "f": False}


@pytest.mark.parametrize("answered", [b"", b"\x00", b"\xff" * 30, b"{}", b"\x0a\xff", os.urandom(40)])
def test_answers_that_cannot_be_read(answered: bytes) -> None:
    """What is no answer of OTLP says nothing of rejected items, and raises nothing."""
    assert encoding.rejected(answered) >= 0


# Answers


class Collector:
    """A collector that answers as it is told, and keeps what it gets."""

    def __init__(self, *answers: tuple[int, bytes] | tuple[int, bytes, dict[str, str]]) -> None:
        self.answers = list(answers)
        self.paths: list[str] = []
        self.logs: list[Any] = []
        self.spans: list[Any] = []
        self.fields: list[Any] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()  # aiohttp has removed the gzip
        self.paths.append(request.path)
        self.fields.append(request.headers)
        status, content, fields = (*(self.answers.pop(0) if self.answers else (200, b"")), {})[:3]
        if status == 200 and request.path.endswith("logs"):
            self.logs += ExportLogsServiceRequest.FromString(body).resource_logs[0].scope_logs[0].log_records
        elif status == 200:
            self.spans += ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans[0].spans
        return web.Response(status=status, body=content, headers=fields)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        application = web.Application()
        application.router.add_post("/{path:.*}", self.handle)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/base"
        try:
            yield
        finally:
            await runner.cleanup()


async def sent(collector: Collector, *exchanges: Exchange, signals: str = "auto") -> tuple[Lane, Time]:
    """Sends exchanges to a collector; the lane afterwards, and the time that was slept."""
    time = Time()
    async with collector.serving():
        sink = OtlpSink(collector.url, a_mapping(signals=signals), fields={"x-tenant": "t"}, timeout=5.0)
        retries = Retries(clock=time.clock, sleep=time.sleep)
        lane = Lane(sink, share=1 << 24, queue=ByExchange(max_bytes=1 << 22), retries=retries)
        async with running(lane):
            lane.offer([one for exchange in exchanges for one in exchange if isinstance(one, Sent)])
            await settled(lane)
    return lane, time


async def test_delivered() -> None:
    """Log records and spans go to their paths below the endpoint, with the fields that were given."""
    collector = Collector()
    lane, _ = await sent(collector, traced(0), Exchange(message(1), answer(1)))
    assert lane.counters.delivered == 4
    assert collector.paths == ["/base/v1/logs", "/base/v1/traces"]
    assert (len(collector.logs), len(collector.spans)) == (1, 1)
    assert collector.fields[0]["x-tenant"] == "t"
    assert collector.fields[0]["Content-Type"] == "application/x-protobuf"


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_retried(status: int) -> None:
    """The four statuses of the specification are tried again, after Retry-After where that is longer."""
    collector = Collector((status, b"", {"Retry-After": "7"}), (status, b""))
    lane, time = await sent(collector, Exchange(message(), answer()))
    assert (lane.counters.delivered, len(collector.spans)) == (2, 1)
    assert time.slept == [7.0, 2.0]


@pytest.mark.parametrize("status", [400, 404, 408, 413, 415, 500, 501, 301])
async def test_rejected(status: int) -> None:
    """Every other status is final, 500 and 408 too."""
    lane, time = await sent(Collector((status, b"")), Exchange(message(), answer()))
    assert (lane.counters.rejected, lane.counters.delivered, time.slept) == (2, 0, [])


async def test_partial_success() -> None:
    """What the collector says it rejected is counted, and not sent again."""
    response = ExportLogsServiceResponse()
    response.partial_success.rejected_log_records = 1
    collector = Collector((200, response.SerializeToString()))
    lane, _ = await sent(collector, *(traced(number) for number in range(3)))
    assert (lane.counters.delivered, lane.counters.rejected) == (4, 2)
    assert len(collector.paths) == 1


async def test_another_try_sends_what_is_missing() -> None:
    """Where the log records were taken and the spans were not, the spans alone are sent again."""
    collector = Collector((200, b""), (503, b""))
    lane, _ = await sent(collector, traced(), signals="both")
    assert lane.counters.delivered == 2
    assert collector.paths == ["/base/v1/logs", "/base/v1/traces", "/base/v1/traces"]
    assert (len(collector.logs), len(collector.spans)) == (1, 1)


async def test_nobody_answers() -> None:
    """A collector that is not there is tried as often as one that is busy."""
    sink = OtlpSink(f"http://127.0.0.1:{free_port()}", a_mapping(), fields={}, timeout=1.0)
    time = Time()
    lane = Lane(
        sink, share=1 << 24, queue=ByExchange(max_bytes=1 << 22), retries=Retries(clock=time.clock, sleep=time.sleep)
    )
    async with running(lane):
        lane.offer([message(), answer()])
        await settled(lane)
    assert (lane.counters.dropped_retries, time.slept) == (2, [1.0, 2.0, 4.0])


async def test_authorities_that_cannot_be_read(tmp_path: Path) -> None:
    """A file without a certificate is one clear error."""
    (tmp_path / "ca.pem").write_text("no")
    sink = OtlpSink("https://h", a_mapping(), fields={}, timeout=1.0, ca_file=str(tmp_path / "ca.pem"))
    with pytest.raises(SnifferError, match="otel_exporter_otlp_certificate cannot be used"):
        await sink.open()


def test_rules() -> None:
    """Production needs https; header fields are shown nowhere; both paths are known as deliveries."""
    with pytest.raises(ValidationError, match="output_otlp_endpoint must use HTTPS"):
        SnifferConfig(ports=[80], production=True, output_otlp_endpoint="http://h:4318")
    config = SnifferConfig(ports=[80], output_otlp_endpoint="http://h:4318", otel_exporter_otlp_headers="a=s3cret")
    assert "s3cret" not in repr(config)
    assert any("plain http" in warning for warning in config.warnings)
    assert [place.path for place in Otlp().posts_to(config)] == ["/v1/logs", "/v1/traces"]


# A real collector


class RealCollector:
    """An OpenTelemetry Collector that can be stopped and started again, and the file in which it keeps what it got."""

    def __init__(self, program: str, folder: Path) -> None:
        self.port, self.file = free_port(), folder / "got.jsonl"
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [program, "--config", str(folder / "config.yaml")]
        self._process: subprocess.Popen[bytes] | None = None
        both = "{receivers: [otlp], exporters: [file]}"
        (folder / "config.yaml").write_text(
            f"receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{self.port}'}}}}}}}}\n"
            f"exporters: {{file: {{path: '{self.file}', append: true, flush_interval: 100ms}}}}\n"
            f"service:\n  telemetry: {{metrics: {{level: none}}}}\n  pipelines: {{traces: {both}, logs: {both}}}\n"
        )

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
        wait_until(self._listens, "the collector listens", seconds=30)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def ids(self, kind: str, scope: str, items: str) -> list[tuple[str, str]]:
        """The connection and the exchange of each item that has come, from whole lines."""
        found = []
        for line in self.file.read_text().rpartition("\n")[0].splitlines() if self.file.exists() else ():
            for resource in json.loads(line).get(kind, []):
                for item in resource[scope][0][items]:
                    own = {one["key"]: one["value"] for one in item["attributes"]}
                    number = own["tcp_sniffer.exchange"]["intValue"]
                    found.append((own["tcp_sniffer.connection_id"]["stringValue"], number))
        return sorted(found)

    def spans(self) -> list[tuple[str, str]]:
        return self.ids("resourceSpans", "scopeSpans", "spans")

    def logs(self) -> list[tuple[str, str]]:
        return self.ids("resourceLogs", "scopeLogs", "logRecords")


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[RealCollector]:
    """A collector that runs."""
    program = os.environ.get("TCP_SNIFFER_OTELCOL") or shutil.which("otelcol")
    if program is None:
        pytest.skip("no OpenTelemetry Collector: TCP_SNIFFER_OTELCOL names none, and otelcol is not on the path")
    real = RealCollector(program, tmp_path)
    try:
        real.start()
        yield real
    finally:
        real.stop()


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_real_collector(collector: RealCollector, compression: str) -> None:
    """A real collector takes every exchange of a capture once, as a log record and as a span."""
    environ = {
        "OUTPUT_OTLP_ENDPOINT": collector.url,
        "OUTPUT_OTLP_SIGNALS": "both",
        "OTEL_EXPORTER_OTLP_COMPRESSION": compression,
        "OTEL_SERVICE_NAME": "shop",
    }
    with Daemon("--ports", "8080", "--read", str(DEMO), "--stdout", environ=environ) as daemon:
        assert daemon.end() == 0
    lane = daemon.log("stopped")["lanes"]["otlp"]
    assert (lane["delivered"], lane["offered"]) == (14, 14)
    expected = sorted({(row["connectionId"], str(row["exchange"])) for row in daemon.messages})
    wait_until(lambda: len(collector.spans()) == len(collector.logs()) == len(expected), "all arrive", seconds=30)
    assert collector.spans() == collector.logs() == expected


@needs_capture
@pytest.mark.live
@pytest.mark.slow
def test_real_collector_is_started_again(collector: RealCollector) -> None:
    """A short outage loses no exchange, and the sniffer's own deliveries are not among them."""
    with web_server() as port:
        arguments = ("--ports", f"{port},{collector.port}", "--interface", "lo")
        with Daemon(*arguments, environ={"OUTPUT_OTLP_ENDPOINT": collector.url}) as daemon:
            daemon.log("started")
            exchanges(port, 20)
            wait_until(lambda: len(collector.spans()) == 20, "the first arrive", seconds=30)
            collector.stop()
            exchanges(port, 20)
            daemon.offered("otlp", 80)
            collector.start()
            wait_until(lambda: len(set(collector.spans())) == 40, "the others arrive", seconds=30)
            assert daemon.stop() == 0
        lane = daemon.log("stopped")["lanes"]["otlp"]
        assert (lane["offered"], lane["delivered"]) == (80, 80)
