"""Every option of the injector, declared once: keyword, flag, INJECTOR_ variable and key of the YAML file.

Flags beat variables, variables beat the file, the file beats the defaults. The keys of the file are the keywords in
camelCase (`default_ports` is `defaultPorts`, `INJECTOR_DEFAULT_PORTS`, `--default-ports`). Annotations of a pod go
through the same checks: `InjectorOptions.for_pod`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, Self

import yaml

from sniffer.checks import check_file
from sniffer.config import SnifferConfig, check_ports, read_ports
from sniffer.errors import Problem, SnifferError, ValidationError
from sniffer.flags import NO_VALUE, FlagParser
from sniffer.injector.values import (
    STDOUT_BODY_SIZE,
    STDOUT_MAX_LINE,
    Resources,
    SecretKey,
    Variable,
    check_container_name,
    check_image,
    check_interface,
    check_label_key,
    check_label_value,
    check_output_url,
    check_secret_key,
    check_variables,
    contradictions,
    read_pairs,
    read_resources,
    read_variables,
    scalar,
)
from sniffer.options import (
    FALSE,
    LONGEST_MS,
    TRUE,
    MaybeText,
    MaybeWhole,
    Option,
    Options,
    Switch,
    Text,
    Whole,
    Wholes,
    choice,
    quote,
    read_small,
    switch,
    whole,
)

NATIVE_ANNOTATION: Final = "tcp-sniffer/native-sidecar"
ANNOTATIONS: Final = {
    "tcp-sniffer/ports": "default_ports",
    "tcp-sniffer/interface": "default_interface",
    "tcp-sniffer/output-url": "output_url",
    "tcp-sniffer/resources": "resources",
    NATIVE_ANNOTATION: "native_sidecar",
    "tcp-sniffer/run-as-root": "run_as_root",
    "tcp-sniffer/spool": "spool_size",
}
"""The annotations of pods, and the options that they override."""

MOST_CONFIG_FILE: Final = 1 << 20
"""Largest YAML file, in bytes."""

NEVER: Final = "never"
JOBS: Final = "jobs"
ALWAYS: Final = "always"

CONTAINER: Final = "Container"
SELECTION: Final = "Selection"
SERVER: Final = "Server"
GROUPS: Final = (CONTAINER, SELECTION, SERVER)


def read_native(value: str) -> str:
    """Reads one of the option's words, or yes (always) or no (never), which an annotation may say."""
    return {True: ALWAYS, False: NEVER}[_SWITCH.read(value)] if value.lower() not in (NEVER, JOBS, ALWAYS) else value


_SWITCH: Final[Any] = switch(False, group="", help="")
_SPOOL: Final[Any] = SnifferConfig.options()["spool_size"]


def check_spool_size(value: object) -> int | None:
    """A size that the sniffer accepts as SPOOL_SIZE; None means no spool."""
    return None if value is None else _SPOOL.check(value)


def read_spool_size(value: str) -> object:
    """Reads a size as the sniffer does; `none` or no means no spool, yes the sniffer's default."""
    if value.lower() in ("none", *FALSE):
        return None
    return _SPOOL.default if value.lower() in TRUE else _SPOOL.read(value)


class InjectorOptions(Options):
    """What is injected, into which pods, and how the webhook is served. Immutable; checked when it is made.

    Raises `ValidationError` with all problems. The constructor takes keywords only; `load()` reads environment and
    file.
    """

    PREFIX: ClassVar[str] = "INJECTOR_"

    sniffer_image: Text = Option(
        check_image,
        default="tcp-sniffer:latest",
        group=CONTAINER,
        metavar="IMAGE",
        help="image of the container",
    )
    sniffer_container_name: Text = Option(
        check_container_name,
        default="tcp-sniffer",
        group=CONTAINER,
        metavar="NAME",
        help="name of the container",
    )
    default_ports: Wholes = Option(
        check_ports,
        read_ports,
        default=(8080,),
        group=CONTAINER,
        metavar="PORT,PORT",
        shown="8080",
        help="PORTS of the container, where annotation tcp-sniffer/ports does not say otherwise",
    )
    default_interface: Text = Option(
        check_interface,
        default="eth0",
        group=CONTAINER,
        metavar="NAME",
        help="INTERFACE of the container, where annotation tcp-sniffer/interface does not say otherwise",
    )
    output_url: MaybeText = Option(
        check_output_url,
        group=CONTAINER,
        metavar="URL",
        shown="none: messages go to the container's standard output",
        help="OUTPUT_URL of the container, where annotation tcp-sniffer/output-url does not say otherwise",
    )
    output_url_auth_token_secret: Option[SecretKey | Mapping[str, str] | None, SecretKey | None] = Option(
        check_secret_key,
        read_pairs,
        group=CONTAINER,
        metavar="name=NAME,key=KEY",
        shown="none",
        help="Secret in each pod's namespace that holds the token for OUTPUT_URL",
    )
    resources: Option[Resources | Mapping[str, Mapping[str, str | None]], Resources] = Option(
        Resources().changed,
        read_resources,
        default=Resources(),
        group=CONTAINER,
        metavar="requests.memory=QUANTITY,...",
        shown="requests 256Mi and 100m, limits 512Mi and 500m",
        help="each of requests.memory, requests.cpu, limits.memory and limits.cpu on its own; `none` leaves one out",
    )
    termination_grace_period_seconds: Whole = whole(
        30,
        1,
        LONGEST_MS // 1000,
        unit="seconds",
        group=CONTAINER,
        metavar="S",
        help="grace period for pods that have none",
    )
    production: Switch = switch(
        False,
        group=CONTAINER,
        help="production rules apply here and in every container; TCP_SNIFFER_PRODUCTION says the same",
    )
    native_sidecar: Text = Option(
        choice(JOBS, (NEVER, JOBS, ALWAYS), group="", help="").check,
        read_native,
        default=JOBS,
        group=CONTAINER,
        metavar=f"{NEVER}|{JOBS}|{ALWAYS}",
        help="inject as a native sidecar (Kubernetes 1.29 or later): never, for Jobs and workflows, always",
    )
    run_as_root: Switch = switch(
        False,
        group=CONTAINER,
        help="run the container as uid 0, for runtimes that take NET_RAW from other users (Docker with cri-dockerd)",
    )
    on_capture_error: Text = choice(
        "hold",
        ("exit", "hold"),
        group=CONTAINER,
        help="ON_CAPTURE_ERROR of the container",
    )
    spool_size: MaybeWhole = Option(
        check_spool_size,
        read_spool_size,
        group=CONTAINER,
        metavar="BYTES",
        shown="none",
        help="SPOOL_SIZE of the container, on an emptyDir of its own, where there is an OUTPUT_URL",
    )
    sniffer_env: Option[Iterable[Variable | Mapping[str, object]], tuple[Variable, ...]] = Option(
        check_variables,
        read_variables,
        default=(),
        group=CONTAINER,
        metavar="'[{name: NAME, value: VALUE}, ...]'",
        shown="none",
        help="further variables of the container: options of the sniffer, as a container's env lists them",
    )

    inject_label_key: Text = Option(
        check_label_key,
        default="tcp-sniffer/inject",
        group=SELECTION,
        metavar="KEY",
        help="label that opts in or out",
    )
    inject_label_value: Text = Option(
        check_label_value,
        default="true",
        group=SELECTION,
        metavar="VALUE",
        help="value of that label that opts in",
    )

    port: Whole = whole(8443, 1, 65_535, group=SERVER, metavar="PORT", help="port to serve on")
    address: MaybeText = Option(
        lambda value: None if value is None else SnifferConfig.options()["metrics_address"].check(value),
        group=SERVER,
        metavar="ADDRESS",
        shown="all",
        help="address to serve on",
    )
    tls_cert_file: MaybeText = Option(
        check_file,
        default="/etc/tcp-sniffer/tls/tls.crt",
        group=SERVER,
        metavar="FILE",
        help="certificate chain (PEM), read again when it changes",
    )
    tls_key_file: MaybeText = Option(
        check_file,
        default="/etc/tcp-sniffer/tls/tls.key",
        group=SERVER,
        metavar="FILE",
        help="its key (PEM)",
    )
    stop_delay_ms: Whole = whole(
        10_000,
        0,
        LONGEST_MS,
        unit="milliseconds",
        group=SERVER,
        help="after the signal to stop the server goes on answering for this long, while API servers turn away",
    )
    log_level: Text = choice("info", ("debug", "info", "warning", "error"), group=SERVER, help="least level to log")
    log_format: MaybeText = choice(
        None,
        ("console", "json"),
        group=SERVER,
        shown="console when stderr is a terminal, else json",
        help="form of the log on stderr",
    )

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences to log at start about what is allowed but unwise."""
        found = [
            f"resources: {name.replace('_', '.')} is left out; a HorizontalPodAutoscaler or a ResourceQuota may need it"
            for name, given in self.resources._asdict().items()
            if given is None
        ]
        body_size: Any = SnifferConfig.options()["max_body_size"]
        sizes = [body_size.read(one.value) for one in self.sniffer_env if one.name == "MAX_BODY_SIZE" and one.value]
        if self.output_url is None and sizes and sizes[0] > STDOUT_BODY_SIZE:
            found.append(
                f"sniffer_env: with a MAX_BODY_SIZE above {STDOUT_BODY_SIZE} and no output_url, bodies are cut all the"
                f" same, to what fits into a line of {STDOUT_MAX_LINE} bytes"
            )
        return tuple(found)

    def _rules(self) -> Iterable[Problem]:
        """The sniffer's rules too: a configuration that breaks one would end the sniffer in every pod."""
        if self.production and self.output_url is not None and self.output_url.startswith("http:"):
            yield Problem("output_url", "output_url must use HTTPS in production")
        for problem in contradictions(self.sniffer_env, self.default_ports) if self.sniffer_env else ():
            yield Problem("default_ports", f"default_ports does not go with sniffer_env: {problem}")

    @classmethod
    def texts_of(cls, environ: Mapping[str, str]) -> dict[str, str]:
        """The texts of the variables. Production rules apply if either of their two variables says so."""
        texts = super().texts_of(environ)
        production = environ.get("TCP_SNIFFER_PRODUCTION", "").strip()
        if production and texts.get("production", "no").lower() in ("0", "false", "no", "off"):
            texts["production"] = production
        return texts

    @classmethod
    def load(cls, arguments: Sequence[str], environ: Mapping[str, str]) -> Self:
        """Reads flags, variables and the YAML file. ValidationError has all problems; `--help` raises SystemExit."""
        flags, problems = _parser().texts(arguments)
        file = flags.pop("config", environ.get("INJECTOR_CONFIG", "").strip())
        texts = cls.texts_of(environ) | flags
        keywords: dict[str, Any] = {}
        if file:
            scalars, keywords = cls._read_file(file, problems)
            keywords = {name: value for name, value in keywords.items() if name not in texts}
            texts = scalars | texts
        return cls.from_texts(texts, problems, **keywords)

    @classmethod
    def _read_file(cls, file: str, problems: list[Problem]) -> tuple[dict[str, str], dict[str, Any]]:
        """Texts and structured values by keyword. Adds errors of the file itself to `problems`."""
        try:
            content = yaml.safe_load(read_small(file, MOST_CONFIG_FILE).decode("utf-8"))
        except OSError as error:
            raise SnifferError(f"config {file!a} cannot be read: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            line = f", line {mark.line + 1}" if mark else ""
            problems.append(Problem("config", f"config {file!a} is no YAML{line}"))
            return {}, {}
        if content is None:
            return {}, {}
        if not isinstance(content, dict):
            problems.append(Problem("config", f"config {file!a} must be a mapping"))
            return {}, {}
        known = {camel(name): name for name in cls.options()}
        texts: dict[str, str] = {}
        keywords: dict[str, Any] = {}
        for key, value in content.items():
            if key not in known:
                problems.append(Problem(str(key), f"{quote(key)} in config is not an option"))
            elif isinstance(value, dict | list):
                keywords[known[key]] = value
            elif value is not None:
                texts[known[key]] = scalar(value)
        return texts, keywords

    def for_pod(self, annotations: Mapping[str, Any]) -> Self:
        """These options with the values of a pod's annotations; an empty annotation counts as none.

        Raises ValidationError, whose problems name the annotations.
        """
        given = {
            keyword: annotations[name]
            for name, keyword in ANNOTATIONS.items()
            if name in annotations and annotations[name] not in ("", None)
        }
        if not given:
            return self
        problems: list[Problem] = []
        keywords = {name: self.__dict__[name] for name in self.options()}
        for keyword, value in given.items():
            try:
                if not isinstance(value, str):
                    raise ValueError("must be a text")
                option = self.options()[keyword]
                read: Any = option.read(value.strip()) if value.strip() else keywords[keyword]
                keywords[keyword] = self.resources.changed(read) if keyword == "resources" else option.check(read)
            except ValueError as error:
                problems.append(Problem(keyword, f"{keyword} {error}"))
        spools = str(given.get("spool_size", "")).strip() and keywords["spool_size"] is not None
        if spools and keywords["output_url"] is None:
            problems.append(Problem("spool_size", "spool_size needs an output URL"))
        try:
            return self.from_texts({}, problems, **keywords)
        except ValidationError as error:
            names = {keyword: name for name, keyword in ANNOTATIONS.items()}
            raise ValidationError(
                Problem(names[problem.field], problem.message.replace(problem.field, names[problem.field], 1))
                for problem in error.problems
            ) from None


def camel(keyword: str) -> str:
    """The key of an option in the YAML file: `defaultPorts` for `default_ports`."""
    first, *rest = keyword.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _parser() -> FlagParser:
    parser = FlagParser(
        InjectorOptions,
        GROUPS,
        prog="python -m sniffer.injector",
        usage="python -m sniffer.injector [--config FILE] [options]",
        description="Serves the admission webhook that adds the sniffer to pods that opt in.",
        epilog="exit codes: 0 a clean stop, 1 wrong configuration, 2 everything else",
    )
    parser.help_group.add_argument(
        "--config", nargs="?", const=NO_VALUE, metavar="FILE", help="options as YAML, in camelCase [INJECTOR_CONFIG]"
    )
    return parser
