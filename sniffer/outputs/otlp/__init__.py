"""An OpenTelemetry collector: exchanges as log records and spans, by OTLP over HTTP."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from sniffer.checks import File, check_file, check_url
from sniffer.errors import Problem
from sniffer.options import LONGEST_MS, MaybeText, Option, OptionGroup, Secret, Text, Whole, choice, text, whole
from sniffer.outputs import OUTPUT, Context, Output, Place

if TYPE_CHECKING:
    from sniffer.config import SnifferConfig
    from sniffer.delivery.lane import Lane

ENDPOINT = "output_otlp_endpoint"
PATHS = ("/v1/logs", "/v1/traces")


def pairs_of(given: str) -> dict[str, str]:
    """The pairs of `key=value,key=value`, percent-decoded, as OpenTelemetry's variables hold them. ValueError."""
    found = {}
    for entry in filter(None, map(str.strip, given.split(","))):
        key, equals, value = (unquote(part.strip()) for part in entry.partition("="))
        if not equals or not key:
            raise ValueError("must be a list of KEY=VALUE")
        found[key] = value
    return found


def check_headers(value: object) -> Secret | None:
    """Header fields, `name=value,name=value`; None is allowed. Never quoted: the values are secrets."""
    if value is None:
        return None
    shown = value.reveal() if isinstance(value, Secret) else value
    if not isinstance(shown, str):
        raise ValueError("must be a list of NAME=VALUE")
    for name, field in pairs_of(shown).items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or not re.fullmatch(r"[\x20-\x7e]*", field):
            raise ValueError("must be a list of NAME=VALUE: header names, and values of visible ASCII characters")
    return Secret(shown)


def check_attributes(value: object) -> str | None:
    """Attributes of the resource, `key=value,key=value`; None is allowed."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError("must be a list of KEY=VALUE")
    pairs_of(value)
    return value


class OtlpOptions(OptionGroup):
    """Options of the OpenTelemetry collector. Those with the prefix `otel_` are OpenTelemetry's own variables.

    The watched application may have the same ones in its environment: they are read only where there is an endpoint.
    """

    # fmt: off
    output_otlp_endpoint: MaybeText = Option(
        check_url, group=OUTPUT, metavar="URL",
        help="send exchanges to this OpenTelemetry collector, by OTLP over HTTP (`http://HOST:4318`)",
    )
    output_otlp_signals: Text = choice(
        "auto", ("auto", "logs", "spans", "both"), group=OUTPUT,
        help="what an exchange becomes; `auto`: a log record if it carries a `traceparent`, else a span",
    )
    output_otlp_body: Whole = whole(
        0, 0, 256 << 10, unit="bytes", group=OUTPUT, help="bytes of each body to put into a log record",
    )
    otel_exporter_otlp_headers: Option[Secret | str | None, Secret | None] = Option(
        check_headers, group=OUTPUT, only_with=ENDPOINT, flag="", secret=True,
        help="header fields for OUTPUT_OTLP_ENDPOINT, as `name=value,name=value`",
    )
    otel_exporter_otlp_timeout: Whole = whole(
        10_000, 1, LONGEST_MS, unit="milliseconds", group=OUTPUT, only_with=ENDPOINT,
        help="time limit of each try to send to it",
    )
    otel_exporter_otlp_compression: Text = choice(
        "gzip", ("gzip", "none"), group=OUTPUT, only_with=ENDPOINT, help="compression of what is sent to it",
    )
    otel_exporter_otlp_certificate: File = Option(
        check_file, group=OUTPUT, only_with=ENDPOINT, metavar="FILE", shown="the system's certificate authorities",
        help="certificate authorities (PEM) to trust for it",
    )
    otel_service_name: MaybeText = text(
        None, group=OUTPUT, only_with=ENDPOINT, shown="unknown_service:tcp-sniffer",
        help="`service.name` of what is sent to it",
    )
    otel_resource_attributes: MaybeText = Option(
        check_attributes, group=OUTPUT, only_with=ENDPOINT, metavar="KEY=VALUE,...",
        help="resource attributes of what is sent to it",
    )
    # fmt: on


class Otlp(Output):
    """Sends exchanges to an OpenTelemetry collector."""

    name = "otlp"
    options = OtlpOptions
    switch = ENDPOINT
    does = "sends them to an OpenTelemetry collector"
    working = 4 << 20
    renders_json = False

    def rules(self, config: SnifferConfig) -> Iterable[Problem]:
        """Production sends by HTTPS."""
        if config.production and (config.output_otlp_endpoint or "").startswith("http:"):
            yield Problem("output_otlp_endpoint", "output_otlp_endpoint must use HTTPS in production")

    def warnings(self, config: SnifferConfig) -> Iterable[str]:
        """What can be read on the way."""
        if config.otel_exporter_otlp_headers is not None and (config.output_otlp_endpoint or "").startswith("http:"):
            yield "output_otlp_endpoint is plain http: the header fields and the messages can be read on the way"

    def load(self) -> None:
        """Imports the client, and with it TLS."""
        from sniffer.outputs.otlp import sink  # noqa: F401

    def posts_to(self, config: SnifferConfig) -> Sequence[Place]:
        """The collector: what another sniffer sends to it is left out."""
        from yarl import URL

        if config.output_otlp_endpoint is None:
            return ()
        url = URL(config.output_otlp_endpoint)
        host = str(url.host_subcomponent)
        hosts = frozenset((host, f"{host}:{url.port}"))
        return [Place(hosts, url.raw_path.rstrip("/") + path) for path in PATHS]

    def lane(self, config: SnifferConfig, context: Context) -> Lane:
        """A lane of exchanges that tries again, and gives way to the other outputs of a live capture."""
        from uuid import uuid4

        from sniffer import __version__
        from sniffer.delivery.lane import Lane
        from sniffer.delivery.retry import Retries
        from sniffer.exchanges import PATIENCE_SECONDS, ByExchange
        from sniffer.filters import INSTANCE_HEADER
        from sniffer.outputs.otlp.mapping import Mapping
        from sniffer.outputs.otlp.sink import OtlpSink

        assert config.output_otlp_endpoint is not None  # noqa: S101 - it is wanted
        headers = config.otel_exporter_otlp_headers
        mapping = Mapping(
            _resource(config),
            version=__version__,
            signals=config.output_otlp_signals,
            body=config.output_otlp_body,
            local=_local_addresses() if context.live else frozenset(),
        )
        sink = OtlpSink(
            config.output_otlp_endpoint,
            mapping,
            fields={
                "User-Agent": f"tcp-sniffer/{__version__}",
                INSTANCE_HEADER: uuid4().hex,
                **(pairs_of(headers.reveal()) if headers is not None else {}),
            },
            timeout=config.otel_exporter_otlp_timeout / 1000,
            gzip=config.otel_exporter_otlp_compression == "gzip",
            ca_file=config.otel_exporter_otlp_certificate,
            on_socket=context.own_socket,
        )
        queue = ByExchange(max_bytes=context.share // 4, patience=PATIENCE_SECONDS if context.live else None)
        # Python objects are made of every message, on the event loop: what costs so much gives way to the others.
        return Lane(sink, share=context.share, queue=queue, retries=Retries(), gives_way=context.live)


def _resource(config: SnifferConfig) -> dict[str, Any]:
    """The attributes of the resource. What the user names comes before what is known otherwise."""
    found: dict[str, Any] = {"service.name": "unknown_service:tcp-sniffer"}
    places = {"pod": config.pod_name, "namespace": config.namespace, "node": config.node_name}
    found |= {f"k8s.{kind}.name": name for kind, name in places.items() if name is not None}
    found |= pairs_of(config.otel_resource_attributes or "")
    if config.otel_service_name is not None:
        found["service.name"] = config.otel_service_name
    return found


def _local_addresses() -> frozenset[str]:
    """The addresses of this host, or pod."""
    from sniffer.capture.interfaces import addresses, interfaces

    return frozenset(address for name in interfaces() for address in addresses(name))
