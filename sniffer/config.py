"""Every option of the sniffer, declared once.

The declaration of an option in `SnifferConfig` is its keyword, its environment variable, its flag, its row in
docs/CONFIGURATION.md and its line in `--help`. How an option is read and checked: `sniffer.options`.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

from sniffer import memory
from sniffer.errors import Problem
from sniffer.options import (
    MaybeText,
    MaybeWhole,
    Names,
    Number,
    Option,
    Options,
    Secret,
    Switch,
    Text,
    Whole,
    Wholes,
    choice,
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

if TYPE_CHECKING:
    from sniffer.message import HttpMessage

REDACT_HEADERS: Final = ("authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key")
REDACT_QUERY: Final = (
    *("AWSAccessKeyId", "Signature", "sig", "X-Goog-Signature"),
    *("X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token", "access_token", "api_key", "token"),
)

LEAST_LINE: Final = 4096
"""Bytes into which a record without its body and its header fields fits, with a quarter left for the placement."""

LEAST_KEY: Final = 16
MOST_KEY: Final = 4096
"""Bytes of a redaction key: a short one is guessed, a longer file is none."""
MOST_SECRET_FILE: Final = 64 << 10
MOST_CA_FILE: Final = 16 << 20
"""Bytes of a file that holds a secret, and of one that holds certificates."""

LONGEST_MS: Final = 2_147_483_647
"""Milliseconds that every timer takes: 24 days."""

LOOPBACK: Final = "127.0.0.1"

HELD: Final = (
    *("metrics_port", "metrics_address", "stats_interval_ms", "drain_timeout_ms", "log_level", "log_format"),
    *("pod_name", "namespace", "node_name"),
)
"""What a daemon needs that waits to be stopped, and captures nothing."""

CAPTURE: Final = "Capture"
OUTPUT: Final = "Output"
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
    """Ports from a comma-separated text; what is no number is left for `check_ports`."""
    return [int(part) if re.fullmatch(r"-?[0-9]{1,9}", part) else part for part in split(value)]


def check_url(value: object) -> str | None:
    """An absolute http or https URL without user info, its scheme in lower case; None is allowed.

    Messages never quote the URL: what was mistyped may hold a password.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError("must be an absolute http or https URL")
    url = value.strip()
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        raise ValueError("must be an absolute http or https URL, without blanks or control characters")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("must be an absolute http or https URL: its host or port cannot be read") from None
    if parts.scheme not in ("http", "https"):  # urlsplit gives it in lower case
        raise ValueError("must be an absolute http or https URL")
    if not host:
        raise ValueError("must name a host")
    if not _is_host(host):
        raise ValueError("must name a valid host")
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError("must have a port from 1 to 65535, or none")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not contain user info: a token belongs in OUTPUT_URL_AUTH_TOKEN")
    return parts.scheme + url[len(parts.scheme) :]


def _is_host(host: str) -> bool:
    if ":" in host:  # an address in brackets, which urlsplit has taken off
        return _is_address(host)
    try:
        ascii_host = host.encode("idna").decode("ascii").removesuffix(".")
    except UnicodeError:
        return False
    return re.fullmatch(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", ascii_host, re.IGNORECASE) is not None


def _is_address(value: str) -> bool:
    from ipaddress import ip_address  # seldom needed

    try:
        ip_address(value)
    except ValueError:
        return False
    return True


def check_secret(value: object) -> Secret | None:
    """A token that an Authorization field can carry (RFC 9110 §5.5: visible ASCII); None is allowed."""
    if value is None:
        return None
    shown = value.reveal() if isinstance(value, Secret) else value
    if not isinstance(shown, str) or not re.fullmatch(r"[\x21-\x7e]+", shown.strip()):
        raise ValueError("must be a token of visible ASCII characters")
    return Secret(shown.strip())


def check_address(value: object) -> str:
    """An IP address to listen on."""
    if not isinstance(value, str) or not _is_address(value.strip()):
        raise ValueError(f"must be an IP address, not {quote(value)}")
    return value.strip()


def check_ui_address(value: object) -> str | None:
    """Where to serve a page: `ADDRESS:PORT`, or a port alone, on loopback; in its one form. Port 0 is a free one."""
    if value is None:
        return None
    wanted = re.fullmatch(r"(?:(\[[0-9A-Fa-f:.]+\]|[0-9.]+|localhost):)?([0-9]{1,5})", str(value).strip())
    host = wanted[1] or LOOPBACK if wanted is not None else ""
    host = {"localhost": LOOPBACK}.get(host, host)
    if wanted is None or not _is_address(host.strip("[]")) or int(wanted[2]) > 65535:
        raise ValueError(f"must be an IP address and a port ({LOOPBACK}:8090, [::1]:0), or a port, not {quote(value)}")
    return f"{host}:{int(wanted[2])}"


def split_address(address: str) -> tuple[str, int]:
    """The parts of what `check_ui_address` gives."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(address: str) -> bool:
    """Whether what `check_ui_address` gives is reached from this host alone."""
    from ipaddress import ip_address  # seldom needed

    return ip_address(split_address(address)[0]).is_loopback


def check_file(value: object) -> str | None:
    """A path as text; None is allowed."""
    if value is None:
        return None
    path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(path, str) or not path or "\0" in path or not _is_encodable(path):
        raise ValueError(f"must be the path of a file, not {quote(value)}")
    return path


def check_secret_file(value: object) -> str | None:
    """As `check_file`, but what is refused is not quoted: it may be the secret itself."""
    try:
        return check_file(value)
    except ValueError:
        raise ValueError("must be the path of a file") from None


def check_directory(value: object) -> str | None:
    """A path as text; None is allowed. What is there is looked at when it is used."""
    try:
        return check_file(value)
    except ValueError:
        raise ValueError(f"must be the path of a directory, not {quote(value)}") from None


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


def _is_encodable(path: str) -> bool:
    try:
        os.fsencode(path)
    except UnicodeError:
        return False
    return True


def check_callback(value: object) -> Callable[[HttpMessage], object] | None:
    """A function of one message; None is allowed."""
    if value is not None and not callable(value):
        raise ValueError("must be a function that takes one message")
    return value


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


def _redacted(entry: str) -> str:
    if entry.lower() == "none":
        raise ValueError("must be either names or `none` alone: beside names, or in a list, `none` turns nothing off")
    if "*" in entry:
        raise ValueError(f"must be a list of whole names: {quote(entry)} would match nothing")
    return entry


def read_redacted(value: str) -> list[str]:
    """The names of a redaction list; the word `none` turns it off."""
    return [] if value.lower() == "none" else split(value)


def path_glob(entry: str) -> str:
    """A glob that some request target may match: they are paths, absolute URLs, `HOST:PORT` or `*`."""
    if entry[0] not in "/*?[" and ":" not in entry:
        raise ValueError(f"must be a list of globs of paths, which begin with /: {quote(entry)} matches none")
    return entry


File = Option[str | os.PathLike[str] | None, str | None]
Files = Option[str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None, tuple[str, ...]]


class SnifferConfig(Options):
    """What to capture, what to make of it and where to send it. Immutable; checked when it is made.

    Raises `ValidationError` with every problem at once. Of the environment it reads only TCP_SNIFFER_PRODUCTION and
    OUTPUT_URL_AUTH_TOKEN, and those only where their keywords are not given; `from_env` reads the rest.
    """

    # fmt: off
    ports: Wholes = Option(
        check_ports, read_ports, required=True, group=CAPTURE, metavar="PORT,PORT",
        help="TCP ports of the servers to watch",
    )
    interface: MaybeText = text(
        None, group=CAPTURE, metavar="NAME", shown="the first that is up, has an address and is no pseudo device",
        help="network interface to capture on; `any` is all of them",
    )
    read: Files = Option(
        check_captures, lambda text: text.split("\0"), default=(), repeats=True, group=CAPTURE, variable="",
        metavar="FILE",
        help="read pcap or pcapng files, one after the other, in place of an interface; `-` is standard input",
    )
    capture_buffer_size: Whole = whole(
        16 << 20, 64 << 10, 2_147_483_647, unit="bytes", group=CAPTURE, shown="16 MiB",
        help="the kernel's buffer for captured packets",
    )
    sample_rate: Number = number(
        1.0, 0, 1, group=CAPTURE, shown="1",
        help="fraction of connections to capture; a connection is captured whole or not at all",
    )

    output_stdout: Switch = switch(
        False, group=OUTPUT, flag="--stdout", help="write each message to standard output, as one line of JSON",
    )
    output_stdout_max_line: Whole = whole(
        0, 0, 1 << 30, unit="bytes", group=OUTPUT, shown="0: any length",
        help=f"longest line on standard output, at least {LEAST_LINE}: the body is cut first, then header values",
    )
    output_url: MaybeText = Option(
        check_url, group=OUTPUT, metavar="URL",
        help="POST each message to this http or https URL; in production https only",
    )
    output_url_auth_token: Option[Secret | str | None, Secret | None] = Option(
        check_secret, group=OUTPUT, flag="",
        help="sent to OUTPUT_URL as `Authorization: Bearer ...`",
    )
    output_url_auth_token_file: File = Option(
        check_secret_file, group=OUTPUT, flag="", metavar="FILE",
        help="file that holds the token, in place of the variable",
    )
    output_timeout_ms: Whole = whole(
        10_000, 1, LONGEST_MS, unit="milliseconds", group=OUTPUT, help="time limit of each try to deliver",
    )
    output_concurrency: Whole = whole(
        8, 1, 1024, group=OUTPUT, help="deliveries at the same time; those of one connection stay in order",
    )
    output_batch_size: Whole = whole(
        1, 1, 100_000, group=OUTPUT, help="messages per POST; more than 1 sends `application/x-ndjson`",
    )
    output_batch_wait_ms: Whole = whole(
        200, 1, LONGEST_MS, unit="milliseconds", group=OUTPUT, help="longest wait for a batch to fill",
    )
    output_gzip: Switch = switch(False, group=OUTPUT, help="compress what is posted with gzip")
    output_ca_file: File = Option(
        check_file, group=OUTPUT, metavar="FILE", shown="the system's certificate authorities",
        help="certificate authorities (PEM) to trust for OUTPUT_URL",
    )
    spool_dir: File = Option(
        check_directory, group=OUTPUT, metavar="DIR", shown="off",
        help="keep what goes to OUTPUT_URL in this directory until it is delivered; bodies are kept as they are",
    )
    spool_size: Whole = whole(
        256 << 20, 1 << 20, 1 << 50, unit="bytes", group=OUTPUT, shown="256 MiB",
        help="size of the spool, all files together; when it is full, the oldest messages are dropped",
    )

    har: File = Option(
        check_file, group=OUTPUT, variable="", metavar="FILE",
        help="write exchanges to this file as HAR 1.2, which browsers' developer tools open; it is replaced",
    )

    ui_address: MaybeText = Option(
        check_ui_address, group=OUTPUT, flag="--ui", metavar="ADDRESS:PORT", bare=f"{LOOPBACK}:0", shown="off",
        help="serve the live view, a page for browsers; the flag alone takes a free port of loopback",
    )
    ui_remote: Switch = switch(
        False, group=OUTPUT, help="allow UI_ADDRESS to be another address than loopback; the page is plain http",
    )

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
    redact_key_file: File = Option(
        check_secret_file, group=RECORD, metavar="FILE",
        help="file that holds a key: a redacted value becomes `[REDACTED:HMAC:LENGTH]`, the same for the same value",
    )
    exclude_paths: Names = names(
        (), each=path_glob, group=RECORD, metavar="GLOB,GLOB",
        help="leave out exchanges whose path matches, with its query or without",
    )
    exclude_user_agents: Names = names(
        (), group=RECORD, metavar="GLOB,GLOB", help="leave out exchanges whose User-Agent matches",
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
        False, group=DAEMON, variable="TCP_SNIFFER_PRODUCTION", help="production rules apply: OUTPUT_URL must be https",
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

    on_http_message: Option[Callable[[HttpMessage], object] | None, Callable[[HttpMessage], object] | None] = Option(
        check_callback, group=OUTPUT, variable="", flag="", metavar="FUNCTION",
        help="function, plain or async, called with each message (library only)",
    )
    # fmt: on

    if not TYPE_CHECKING:  # for the type checker the base class makes it from the declarations above

        def __init__(self, **keywords: Any) -> None:
            ambient = {"production", "output_url_auth_token"}
            if keywords.get("output_url_auth_token_file") is not None:
                ambient.remove("output_url_auth_token")
            texts = {key: value for key, value in self.texts_of(os.environ).items() if key in ambient}
            self._fill(keywords, texts)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **keywords: Any) -> Self:
        """Everything from environment variables (`environ`, else the process's); `keywords` beat them."""
        return cls.from_texts(cls.texts_of(os.environ if environ is None else environ), **keywords)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences to log at start: what is allowed but unwise, and what was changed."""
        found: tuple[str, ...] = self.__dict__["_warnings"]
        return found

    @property
    def holds(self) -> bool:
        """Whether what keeps it from capturing is waited with, and does not end it: never where a file is read."""
        return self.on_capture_error == "hold" and not self.read

    @classmethod
    def to_hold(cls, texts: Mapping[str, str]) -> Self | None:
        """What to wait with where `texts` are no configuration; None where nothing is to be waited for.

        It has of the texts what says how to wait and how to tell of it, each where it is right.
        """
        if texts.get("on_capture_error", "").strip().lower() != "hold" or "read" in texts:
            return None
        kept = {}
        for keyword in HELD:
            option, text = cls.options()[keyword], texts.get(keyword, "").strip()
            with contextlib.suppress(ValueError):
                option.check(option.read(text))
                kept[keyword] = text
        if kept.get("metrics_port") in re.findall("[0-9]+", texts.get("ports", "")):
            del kept["metrics_port"]  # it is the application's
        return cls.from_texts(kept, ports=[2 if kept.get("metrics_port") == "1" else 1], on_capture_error="hold")

    @property
    def redact_key(self) -> bytes | None:
        """The key of `redact_key_file`, blanks around it removed."""
        key: bytes | None = self.__dict__["_redact_key"]
        return key

    @property
    def has_output(self) -> bool:
        """Whether a message leaves the process by itself."""
        return self.output_stdout or any(where is not None for where in (self.output_url, self.har, self.ui_address))

    def _rules(self) -> Iterable[Problem]:
        warnings: list[str] = []
        if self.production and self.output_url is not None and self.output_url.startswith("http:"):
            yield Problem("output_url", "output_url must use HTTPS in production")
        if self.metrics_port is not None and self.ports and self.metrics_port in self.ports:
            yield Problem("metrics_port", "metrics_port must not be one of ports")
        yield from self._check_ui()
        yield from self._check_max_line()
        if self.har is not None and Path(self.har).absolute() in map(Path.absolute, map(Path, self.read)):
            yield Problem("har", "har must not be a file that is read")
        yield from self._read_token()
        yield from self._read_redact_key()
        yield from self._check_ca_file()
        if self.output_url_auth_token is not None and (self.output_url or "").startswith("http:"):
            warnings.append("output_url is plain http: the token and the messages can be read on the way")
        if self.spool_dir is not None and self.output_url is None:
            warnings.append("spool_dir is set and output_url is not: nothing is spooled")
        if self.ui_remote and self.ui_address is None:
            warnings.append("ui_remote is set and ui_address is not: there is no live view")
        elif self.ui_remote:
            warnings.append("the live view is plain http: what it shows, and its token, can be read on the way")
        if not self.redact_headers:
            warnings.append("redact_headers is off: credentials in headers leave the process as they are")
        if not self.redact_query:
            warnings.append("redact_query is off: credentials in query parameters leave the process as they are")
        rss = max(memory.resident(), memory.PROCESS)
        budget, more = memory.fit_budget(self.memory_budget, memory.memory_limit(), rss)
        self.__dict__["memory_budget"] = budget
        self.__dict__["_warnings"] = (*warnings, *more)

    def _check_ui(self) -> Iterable[Problem]:
        if self.ui_address is None:
            return
        port = split_address(self.ui_address)[1]
        if not (self.ui_remote or is_loopback(self.ui_address)):
            yield Problem("ui_address", "ui_address must be on loopback, unless ui_remote is set")
        elif port in (self.ports or ()):
            yield Problem("ui_address", "ui_address must not have one of ports")
        elif port and port == self.metrics_port:
            yield Problem("ui_address", "ui_address must not have the port of metrics_port")

    def _check_max_line(self) -> Iterable[Problem]:
        placement = sum(len((name or "").encode()) for name in (self.pod_name, self.namespace, self.node_name))
        least = max(LEAST_LINE, 8 * placement)  # twice as long in JSON, if need be, and then a quarter of the line
        if 0 < self.output_stdout_max_line < least:
            name = "output_stdout_max_line"
            yield Problem(name, f"{name} must be 0 or at least {least} bytes")

    def _read_token(self) -> Iterable[Problem]:
        file = self.output_url_auth_token_file
        if file is None:
            return
        name = "output_url_auth_token_file"
        if self.output_url_auth_token is not None:
            yield Problem(name, f"{name} and the token itself are both given")
            return
        try:
            self.__dict__["output_url_auth_token"] = check_secret(read_small(file, MOST_SECRET_FILE).decode("ascii"))
        except OSError as error:  # the path is not shown: what was given may be the token itself
            yield Problem(name, f"{name} cannot be read: {error.strerror}")
        except ValueError:
            yield Problem(name, f"{name} must hold a token of visible ASCII characters")

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

    def _check_ca_file(self) -> Iterable[Problem]:
        if self.output_ca_file is None:
            return
        import ssl  # seldom needed

        try:
            read_small(self.output_ca_file, MOST_CA_FILE, pipe=False)  # OpenSSL would read it without an end
            ssl.create_default_context(cafile=self.output_ca_file)
        except OSError as error:  # SSLError is one
            reason = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
            yield Problem("output_ca_file", f"output_ca_file cannot be used: {reason}")


DOCUMENT: Final = """\
# Configuration

Generated: `python -m sniffer.config > docs/CONFIGURATION.md`; a test keeps it so.

Each option is an environment variable, a flag of `tcp-sniffer` and a keyword of `SnifferConfig`. Flags beat
variables, variables beat defaults. All problems are reported at once, each with the option's name; the exit code is
1.

- **Values.** An empty variable counts as unset. Blanks around values and commas are ignored. A switch takes `1`,
  `true`, `yes`, `on` or `0`, `false`, `no`, `off`, in any case; as a flag it may stand alone (`--stdout`). Sizes are
  bytes; `Ki`, `Mi` and `Gi` may follow the number (`MEMORY_BUDGET=64Mi`). Only `MAX_BODY_SIZE`, `SAMPLE_RATE`,
  `STATS_INTERVAL_MS`, `STOP_DELAY_MS` and `OUTPUT_STDOUT_MAX_LINE` take 0; for the last alone it means "no limit".
- **Outputs.** Without `--stdout`, `--output-url`, `--har` or `--ui` the daemon shows exchanges at a
  [terminal](TERMINAL.md#the-view), if there is one; otherwise the start fails. The library may run with a callback or
  an iterator alone.
- **Library.** It reads no variable but `TCP_SNIFFER_PRODUCTION` and `OUTPUT_URL_AUTH_TOKEN`, and those only where
  their keywords are not given. `SnifferConfig.from_env()` reads all of them.
- **Secrets.** The token and the key of `REDACT_KEY_FILE` are never shown. They have no flag, because command lines
  are public, and the key has no variable either.
- **Files.** An option that names a file takes a regular file; one with a token or a key may also be a pipe
  (`<(...)`). At most 64 KiB of a token or key are read, 16 MiB of certificates. A problem with a file names the
  option, not the path: the path may be the secret itself, put into the wrong variable.
- **Redaction** is described in [RECORD](RECORD.md#secrets). A list holds whole names, without values (`a=b`) and
  globs, and replaces the default. The word `none` (in the library an empty list) turns it off, with a warning at
  start.
- **Globs** of `EXCLUDE_PATHS` begin with `/`, `*`, `?` or `[`, except those for absolute URLs and `HOST:PORT`.
- **URLs.** `OUTPUT_URL` is an absolute http or https URL without user info. In production plain http is refused:
  `output_url must use HTTPS in production`.
- **Addresses.** `UI_ADDRESS` is an IP address and a port, or a port alone (on loopback): `127.0.0.1:8090`,
  `[::1]:8090`, `8090`. Port 0 takes a free one, never one of `PORTS`. Only the daemon serves the [live view](UI.md)
  and the metrics.
- **Memory.** `MEMORY_BUDGET` is one budget for everything that traffic can fill ([how it is divided, how much to
  give](deployment/DEPLOYMENT_GUIDE.md#memory)). The process's own buffers (a batch of packets, a decoder, records
  being written, 4 to 12 MiB by its outputs) have a quarter of the budget on top; if that is too little, the rest
  comes out of the budget. A budget that does not fit into the container's limit is lowered; one below 8 MiB is used
  as it is. Both are warned about.
"""


def document() -> str:
    """docs/CONFIGURATION.md."""
    return DOCUMENT + "".join(f"\n## {group}\n\n{table(SnifferConfig, group)}" for group in GROUPS)


if __name__ == "__main__":
    print(document(), end="")
