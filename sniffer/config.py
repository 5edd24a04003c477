"""Every option of the sniffer, declared once.

The declaration of an option is its keyword, its environment variable, its flag, its row in docs/CONFIGURATION.md and
its line in `--help`. Those of the outputs are declared by the outputs (`sniffer.outputs`), the others here. How an
option is read and checked: `sniffer.options`.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from sniffer import budget
from sniffer.checks import MOST_SECRET_FILE, File, check_address, check_file, check_secret_file
from sniffer.errors import Problem
from sniffer.manual import CONFIGURATION
from sniffer.options import (
    LONGEST_MS,
    MaybeText,
    MaybeWhole,
    Names,
    Number,
    Option,
    OptionGroup,
    Options,
    Secret,
    Switch,
    Text,
    Whole,
    Wholes,
    choice,
    fill_in,
    names,
    number,
    quote,
    read_small,
    split,
    switch,
    table,
    text,
    whole,
)
from sniffer.outputs import OUTPUT, Output, registry
from sniffer.outputs.registry import BuiltInOptions, FromOutside

Group = TypeVar("Group", bound=Options)

REDACT_HEADERS: Final = (
    *("authorization", "proxy-authorization", "authentication-info", "proxy-authentication-info", "dpop"),
    *("cookie", "set-cookie", "cookie2", "set-cookie2", "x-session-token"),
    *("x-csrf-token", "x-xsrf-token", "x-csrftoken"),
    *("x-api-key", "api-key", "apikey", "x-goog-api-key", "x-functions-key", "ocp-apim-subscription-key"),
    *("x-auth-token", "x-access-token", "private-token", "job-token", "x-gitlab-token"),
    *("x-amz-security-token", "x-vault-token", "x-consul-token", "x-forwarded-access-token"),
    *("x-goog-iap-jwt-assertion", "cf-access-jwt-assertion", "cf-access-client-secret"),
    *("x-amzn-oidc-data", "x-amzn-oidc-accesstoken", "x-forwarded-client-cert"),
)
REDACT_QUERY: Final = (
    *("AWSAccessKeyId", "Signature", "sig", "X-Goog-Signature", "X-Goog-Credential"),
    *("X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token", "access_token", "api_key", "token"),
    *("apikey", "refresh_token", "id_token", "client_secret", "password", "code"),
)

REDACT_BODY: Final = (
    *("password", "passwd", "pwd", "passphrase", "secret", "clientsecret", "token", "accesstoken", "refreshtoken"),
    *("idtoken", "sessiontoken", "apikey", "apisecret", "accesskey", "secretkey", "privatekey", "authorization"),
    *("cookie", "credential", "credentials", "ssn", "cardnumber", "cvv", "cvc", "pin", "otp"),
)

MOST_NAME: Final = 64
"""Bytes of the longest key of a body that can be redacted."""
LEAST_KEY: Final = 16
MOST_KEY: Final = 4096
"""Bytes of a redaction key. A shorter one could be guessed; a longer file is not a key."""

MOST_IN_RANGE: Final = 1024
"""Ports of a range. More would be a mistake, or ask for every port of a host."""

HELD: Final = (
    *("metrics_port", "metrics_address", "stats_interval_ms", "drain_timeout_ms", "log_level", "log_format"),
    *("pod_name", "namespace", "node_name"),
)
"""The options of a daemon that captures nothing and waits to be stopped."""

CAPTURE: Final = "Capture"
RECORD: Final = "Record"
LIMITS: Final = "Limits"
DAEMON: Final = "Daemon"
GROUPS: Final = (CAPTURE, OUTPUT, RECORD, LIMITS, DAEMON)


def check_port(value: object) -> int:
    """A TCP port, 1 to 65535."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
        raise ValueError(f"must be whole numbers from 1 to 65535, not {quote(value)}")
    return value


def check_ports(value: object) -> tuple[int, ...]:
    """TCP ports: at least one, none twice."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise ValueError(f"must be a list of whole numbers from 1 to 65535, not {quote(value)}")
    ports = tuple(check_port(port) for port in value)
    if not ports:
        raise ValueError("must name at least one port")
    twice = sorted(port for port, times in Counter(ports).items() if times > 1)
    if twice:
        raise ValueError(f"must not name a port twice: {', '.join(map(str, twice))}")
    return ports


def read_ports(value: str) -> list[object]:
    """Ports and ranges of ports (`8000-8100`) from a comma-separated text. Other entries are left to `check_ports`."""
    ports: list[object] = []
    for part in split(value):
        limits = re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", part)
        if limits is not None:
            ports += _range(int(limits[1]), int(limits[2]))
        else:
            ports.append(int(part) if re.fullmatch(r"-?[0-9]{1,9}", part) else part)
    return ports


def _range(first: int, last: int) -> range:
    if not 1 <= first < last <= 65535:
        raise ValueError(f"must have ranges from a lower to a higher port of 1 to 65535: {first}-{last} is none")
    if last - first >= MOST_IN_RANGE:
        raise ValueError(f"must have ranges of at most {MOST_IN_RANGE} ports, not {first}-{last}")
    return range(first, last + 1)


def _names_port(value: str, port: str) -> bool:
    """Whether the text of ports, which may be wrong, names `port`, by itself or in a range."""
    ranges = re.findall(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", value)
    return any(int(first) <= int(port) <= int(last or first) for first, last in ranges)


def check_captures(value: object) -> tuple[str, ...]:
    """Paths of capture files, one or a list of them, standard input (`-`) at most once; None is none."""
    if value is None:
        return ()
    values = [value] if isinstance(value, str | os.PathLike) else value
    if isinstance(values, bytes | Mapping) or not isinstance(values, Iterable):
        raise ValueError(f"must be the path of a file or a list of them, not {quote(value)}")
    files = tuple(file for entry in values if (file := check_file(entry)) is not None)
    if not files:
        raise ValueError("must name at least one file")
    if files.count("-") > 1:
        raise ValueError("must name standard input once")
    return files


def header_name(entry: str) -> str:
    """A field name (RFC 9110 §5.1) in lower case."""
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", entry):
        raise ValueError(f"must be a list of header names: {quote(entry)} is none")
    return entry.lower()


def redacted_header(entry: str) -> str:
    """A field name to redact, in lower case."""
    return header_name(_redacted(entry))


def redacted_parameter(entry: str) -> str:
    """The name of a query parameter to redact, as it is after decoding."""
    if re.search(r"[=&;?#%]", entry):
        raise ValueError(f"must be a list of names of parameters, without values, decoded: {quote(entry)} is none")
    return _redacted(entry)


def redacted_key(entry: str) -> str:
    """The key of a value in a body to redact."""
    if re.search(r"[./\\[\]\"=&;%]", entry):
        raise ValueError(f"must be a list of keys, each without path or value: {quote(entry)} is none")
    if len(entry.encode()) > MOST_NAME or not re.search(r"[^-_\s]", entry):
        raise ValueError(f"must be a list of keys of 1 to {MOST_NAME} bytes: {quote(entry)} is none")
    return _redacted(entry)


def _redacted(entry: str) -> str:
    if entry.lower() == "none":
        raise ValueError("must be either names or `none` alone: beside names, or in a list, `none` turns nothing off")
    if "*" in entry:
        raise ValueError(f"must be a list of whole names: {quote(entry)} would match nothing")
    return entry


def read_redacted(value: str) -> list[str]:
    """The names of a redaction list; the word `none` turns it off."""
    return [] if value.lower() == "none" else split(value)


def check_expression(value: object) -> str | None:
    """An expression of docs/FILTERS.md; None is none."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"must be an expression, not {quote(value)}")
    from sniffer.expressions.fields import of_json  # not needed by those who give no expression
    from sniffer.expressions.language import Expression, ExpressionError

    try:
        Expression(value, of_json)
    except ExpressionError as error:
        raise ValueError(f"is no expression: {error}") from None
    return value


def path_glob(entry: str) -> str:
    """A glob that a request target can match: targets are paths, absolute URLs, `HOST:PORT` or `*`."""
    if entry[0] not in "/*?[" and ":" not in entry:
        raise ValueError(f"must be a list of globs of paths, which begin with /: {quote(entry)} matches none")
    return entry


Files = Option[str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None, tuple[str, ...]]


class CaptureOptions(OptionGroup):
    """What to capture."""

    # fmt: off
    ports: Wholes = Option(
        check_ports, read_ports, default=(), required=True, spared_by="read", group=CAPTURE, short="-p",
        metavar="PORT,PORT",
        help="TCP ports of the servers to watch; a range is FIRST-LAST, of at most 1024 ports;"
        " JSON lines and HAR are read without",
    )
    interface: MaybeText = text(
        None, group=CAPTURE, short="-i", metavar="NAME",
        shown="the first that is up, has an address and is no pseudo device",
        help="network interface to capture on; `any` is all of them",
    )
    read: Files = Option(
        check_captures, lambda text: text.split("\0"), default=(), repeats=True, group=CAPTURE, variable="",
        short="-r", metavar="FILE",
        help="read files, one after the other, in place of an interface: pcap, pcapng, JSON lines or HAR;"
        " `-` is standard input",
    )
    stop_after: MaybeWhole = whole(
        None, 1, 1 << 53, group=CAPTURE, variable="", short="-c",
        help="stop after so many responses; what comes behind the last is left out",
    )
    capture_buffer_size: Whole = whole(
        16 << 20, 64 << 10, 2_147_483_647, unit="bytes", group=CAPTURE, shown="16 MiB",
        help="the kernel's buffer for captured packets",
    )
    sample_rate: Number = number(
        1.0, 0, 1, group=CAPTURE, shown="1",
        help="fraction of connections to capture; a connection is captured whole or not at all",
    )
    # fmt: on


class SnifferConfig(CaptureOptions, BuiltInOptions):
    """What to capture, what to make of it and where to send it. Immutable; checked when it is made.

    Raises `ValidationError` with every problem at once. Of the environment it reads only TCP_SNIFFER_PRODUCTION and
    OUTPUT_URL_AUTH_TOKEN, and those only where their keywords are not given; `from_env` reads the rest.
    """

    # fmt: off
    max_body_size: Whole = whole(
        65_536, 0, 1 << 30, unit="bytes", group=RECORD, help="bytes of each body to keep; 0 keeps none",
    )
    decode_bodies: Switch = switch(True, group=RECORD, help="remove gzip, deflate, br and zstd from kept bodies")
    redact_headers: Names = names(
        REDACT_HEADERS, each=redacted_header, read=read_redacted, group=RECORD,
        help="headers whose values are replaced by [REDACTED]; a list replaces the default, `none` turns it off",
    )
    redact_query: Names = names(
        REDACT_QUERY, each=redacted_parameter, read=read_redacted, group=RECORD,
        help="parameters of URLs whose values are replaced by [REDACTED]; `none` turns it off",
    )
    redact_body: Names = names(
        REDACT_BODY, each=redacted_key, read=read_redacted, group=RECORD,
        help="keys in JSON and forms whose values are replaced by [REDACTED]; `none` turns it off",
    )
    redact_key_file: File = Option(
        check_secret_file, group=RECORD, metavar="FILE", is_read=True,
        help="file that holds a key: a redacted value becomes `[REDACTED:HMAC:LENGTH]`, the same for the same value",
    )
    exclude_paths: Names = names(
        (), each=path_glob, group=RECORD, metavar="GLOB,GLOB",
        help="leave out exchanges whose path matches, with its query or without",
    )
    exclude_user_agents: Names = names(
        (), group=RECORD, metavar="GLOB,GLOB", help="leave out exchanges whose User-Agent matches",
    )
    where: MaybeText = Option(
        check_expression, group=RECORD, metavar="EXPRESSION", help="leave out exchanges for which this does not hold",
    )
    keep: MaybeText = Option(
        check_expression, group=RECORD, metavar="EXPRESSION",
        help="sample: keep each exchange for which this holds, and KEEP_OTHERS of the others",
    )
    keep_others: Number = number(
        1.0, 0, 1, group=RECORD, shown="1", help="fraction of the exchanges to keep for which KEEP does not hold",
    )
    pod_name: MaybeText = text(None, group=RECORD, help="`placement.pod` of each message")
    namespace: MaybeText = text(None, group=RECORD, help="`placement.namespace` of each message")
    node_name: MaybeText = text(None, group=RECORD, help="`placement.node` of each message")

    max_concurrent_connections: Whole = whole(
        10_000, 1, 10_000_000, group=LIMITS, help="connections followed at the same time",
    )
    connection_idle_timeout_ms: Whole = whole(
        300_000, 1, LONGEST_MS, unit="milliseconds", group=LIMITS,
        help="a connection silent for this long is given up",
    )
    memory_budget: Option[int | None, int] = whole(
        None, 1, 1 << 50, unit="bytes", group=LIMITS,
        shown="half of the container's memory limit, 128 MiB where there is none",
        help="memory that traffic may fill",
    )

    production: Switch = switch(
        False, group=DAEMON, variable="TCP_SNIFFER_PRODUCTION", ambient_without=(),
        help="production rules apply: OUTPUT_URL must be https",
    )
    drain_timeout_ms: Whole = whole(
        25_000, 1, LONGEST_MS, unit="milliseconds", group=DAEMON, help="time limit for delivering the rest at stop",
    )
    stop_delay_ms: Whole = whole(
        0, 0, LONGEST_MS, unit="milliseconds", group=DAEMON,
        help="capture goes on this long after the signal to stop, within the drain timeout",
    )
    on_capture_error: Text = choice(
        "exit", ("exit", "hold"), group=DAEMON,
        help="`hold` reports what keeps it from capturing, a wrong configuration too, and waits to be stopped;"
        " a spool that fails is done without",
    )
    stats_interval_ms: Whole = whole(
        60_000, 0, LONGEST_MS, unit="milliseconds", group=DAEMON,
        help="between statistics in the log; 0 is only at stop",
    )
    metrics_port: MaybeWhole = whole(
        None, 1, 65_535, group=DAEMON, metavar="PORT", shown="off",
        help="serve /metrics, /healthz and /readyz on this port",
    )
    metrics_address: Text = Option(
        check_address, default="127.0.0.1", group=DAEMON, metavar="ADDRESS", help="address to serve them on",
    )
    log_level: Text = choice("info", ("debug", "info", "warning", "error"), group=DAEMON, help="least level to log")
    log_format: MaybeText = choice(
        None, ("console", "json"), group=DAEMON, shown="console when stderr is a terminal, else json",
        help="form of the log on stderr",
    )
    # fmt: on

    if not TYPE_CHECKING:  # for the type checker the base class makes it from the declarations above

        def __init__(self, **keywords: Any) -> None:
            ambient = {
                keyword
                for keyword, option in self.options().items()
                if option.ambient_without is not None
                and all(keywords.get(other) is None for other in option.ambient_without)
            }
            texts = {key: value for key, value in self.texts_of(os.environ).items() if key in ambient}
            self._fill(keywords, texts, outside().problems)

    @classmethod
    def options(cls) -> dict[str, Option[Any, Any]]:
        """Every option by its keyword, those of outputs from outside behind those of the others."""
        return CaptureOptions.options() | BuiltInOptions.options() | outside().options | super().options()

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **keywords: Any) -> Self:
        """Everything from environment variables (`environ`, else the process's); `keywords` beat them."""
        texts = cls.texts_of(os.environ if environ is None else environ)
        return cls.from_texts(texts, outside().problems, **keywords)

    def of(self, group: type[Group]) -> Group:
        """The options that a class declares, as an instance of it: how an output from outside reads its own."""
        options = group.__new__(group)
        options.__dict__.update({keyword: self.__dict__[keyword] for keyword in group.options()})
        return options

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences to log at start: settings that are allowed but unwise, and values that were changed."""
        found: tuple[str, ...] = self.__dict__["_warnings"]
        return found

    @property
    def holds(self) -> bool:
        """Whether an error that prevents the capture makes the process wait to be stopped. Never so for a file."""
        return self.on_capture_error == "hold" and not self.read

    @classmethod
    def to_hold(cls, texts: Mapping[str, str]) -> Self | None:
        """The configuration of a process that waits to be stopped because `texts` are wrong; None if it is not to wait.

        It takes from `texts` the options of `HELD`, each if its value is valid.
        """
        if texts.get("on_capture_error", "").strip().lower() != "hold" or "read" in texts:
            return None
        kept = {}
        for keyword in HELD:
            option, text = cls.options()[keyword], texts.get(keyword, "").strip()
            with contextlib.suppress(ValueError):
                option.check(option.read(text))
                kept[keyword] = text
        if "metrics_port" in kept and _names_port(texts.get("ports", ""), kept["metrics_port"]):
            del kept["metrics_port"]  # the application listens there
        return cls.from_texts(kept, ports=[2 if kept.get("metrics_port") == "1" else 1], on_capture_error="hold")

    @property
    def redact_key(self) -> bytes | None:
        """The key of `redact_key_file`, blanks around it removed."""
        key: bytes | None = self.__dict__["_redact_key"]
        return key

    def of_tables(self) -> dict[str, Any]:
        """What tables of packets and of records take alike: keywords of the core's FlowTable and Recorded."""
        return {
            "sample_rate": self.sample_rate,
            "max_body": self.max_body_size,
            "redact_headers": self.redact_headers,
            "redact_query": self.redact_query,
            "redact_body": self.redact_body,
            "redact_key": self.redact_key,
            "placement": (self.pod_name, self.namespace, self.node_name),
        }

    @property
    def has_output(self) -> bool:
        """Whether a message leaves the process by itself."""
        return any(output.counts for output in wanted(self))

    def _rules(self) -> Iterable[Problem]:
        warnings: list[str] = []
        if not self.ports and not (self.read and self._reads_records()):
            yield Problem("ports", "ports is required")
        for output in outputs():
            yield from output.rules(self)
            warnings += output.warnings(self)
        if self.metrics_port is not None and self.ports and self.metrics_port in self.ports:
            yield Problem("metrics_port", "metrics_port must not be one of ports")
        yield from self._read_redact_key()
        if self.keep is None and self.keep_others != 1:
            yield Problem("keep_others", "keep_others needs keep, which says what the others are")
        if self.keep is not None and self.keep_others == 1:
            warnings.append("keep leaves nothing out while keep_others is 1")
        if not self.redact_headers:
            warnings.append("redact_headers is off: credentials in headers leave the process as they are")
        if not self.redact_query:
            warnings.append("redact_query is off: credentials in query parameters leave the process as they are")
        if not self.redact_body and self.max_body_size:
            warnings.append("redact_body is off: credentials in bodies leave the process as they are")
        rss = max(budget.resident(), budget.PROCESS)
        fitting, more = budget.fit_budget(self.memory_budget, budget.memory_limit(), rss)
        fill_in(self, "memory_budget", fitting)
        self.__dict__["_warnings"] = (*warnings, *more)

    def _reads_records(self) -> bool:
        """Whether every file that is read holds records, as far as it can be told before a pipe is opened."""
        from sniffer.capture.file import holds_records

        return all(map(holds_records, self.read))

    def _read_redact_key(self) -> Iterable[Problem]:
        file = self.redact_key_file
        self.__dict__["_redact_key"] = None
        if file is None:
            return
        name = "redact_key_file"
        try:
            key = read_small(file, MOST_SECRET_FILE).strip()
        except OSError as error:  # as above
            yield Problem(name, f"{name} cannot be read: {error.strerror}")
            return
        if not LEAST_KEY <= len(key) <= MOST_KEY:
            yield Problem(name, f"{name} must hold a key of {LEAST_KEY} to {MOST_KEY} bytes")
        self.__dict__["_redact_key"] = key


@cache
def outside() -> FromOutside:
    """The outputs that installed packages add, looked for once."""
    return registry.from_outside(SnifferConfig)


def outputs() -> tuple[Output, ...]:
    """Every output, in the order in which lanes are made."""
    return (*registry.BUILT_IN, *outside().outputs)


def wanted(config: SnifferConfig) -> list[Output]:
    """The outputs that a configuration asks for."""
    return [output for output in outputs() if output.wanted(config)]


def secrets(config: SnifferConfig) -> list[str]:
    """Every secret that an option holds, to keep it out of the log."""
    return [value.reveal() for value in vars(config).values() if isinstance(value, Secret)]


def groups() -> tuple[str, ...]:
    """The groups of options, in the order of the documents; outputs from outside may add some."""
    return tuple(dict.fromkeys((*GROUPS, *(option.group for option in outside().options.values()))))


def document() -> str:
    """docs/CONFIGURATION.md."""
    return CONFIGURATION + "".join(f"\n## {group}\n\n{table(SnifferConfig, group)}" for group in GROUPS)


if __name__ == "__main__":
    print(document(), end="")
