"""Every option of the injector, declared once: keyword, flag, INJECTOR_ variable and key of the YAML file.

Flags beat variables, variables beat the file, the file beats the defaults. The keys of the file are the keywords in
camelCase (`default_ports` is `defaultPorts`, `INJECTOR_DEFAULT_PORTS`, `--default-ports`). Annotations of a pod go
through the same checks: `InjectorOptions.for_pod`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, NamedTuple, Self

import yaml

from sniffer.config import LONGEST_MS, SnifferConfig, check_file, check_ports, check_url, read_ports
from sniffer.errors import Problem, SnifferError, ValidationError
from sniffer.flags import NO_VALUE, FlagParser
from sniffer.options import (
    FALSE,
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
    likely,
    quote,
    split,
    switch,
    whole,
)

ANNOTATIONS: Final = {
    "tcp-sniffer/ports": "default_ports",
    "tcp-sniffer/interface": "default_interface",
    "tcp-sniffer/output-url": "output_url",
    "tcp-sniffer/resources": "resources",
    "tcp-sniffer/native-sidecar": "native_sidecar",
    "tcp-sniffer/run-as-root": "run_as_root",
    "tcp-sniffer/spool": "spool_size",
}
"""What a pod may override, and the option that it overrides there."""

SET_BY_INJECTOR: Final = frozenset(
    {
        "PORTS",
        "INTERFACE",
        "OUTPUT_URL",
        "OUTPUT_STDOUT",
        "OUTPUT_URL_AUTH_TOKEN",
        "OUTPUT_URL_AUTH_TOKEN_FILE",  # not both
        "POD_NAME",
        "NAMESPACE",
        "NODE_NAME",
        "TCP_SNIFFER_PRODUCTION",
        "DRAIN_TIMEOUT_MS",
        "STOP_DELAY_MS",
        "ON_CAPTURE_ERROR",
        "SPOOL_DIR",
        "SPOOL_SIZE",
    }
)
"""Variables of the container that follow from other options, from annotations and from the pod."""

Reference = Literal["secretKeyRef", "configMapKeyRef"]
REFERENCES: Final[Mapping[Reference, str]] = {"secretKeyRef": "Secret", "configMapKeyRef": "ConfigMap"}

STDOUT_BODY_SIZE: Final = 8192
"""MAX_BODY_SIZE with OUTPUT_STDOUT: container runtimes split lines at 16 KiB."""

NEVER: Final = "never"
JOBS: Final = "jobs"
ALWAYS: Final = "always"

CONTAINER: Final = "Container"
SELECTION: Final = "Selection"
SERVER: Final = "Server"
GROUPS: Final = (CONTAINER, SELECTION, SERVER)

_QUANTITY: Final = re.compile(
    r"([+-]?[0-9]{1,18}(?:\.[0-9]{0,18})?|[+-]?\.[0-9]{1,18})([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,2})?"
)
_DNS_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_SUFFIXES: Final = {"": 0, "n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY: Final = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


def quantity(value: str) -> Decimal:
    """The number that a Kubernetes quantity stands for (`512Mi`, `100m`, `1e3`); ValueError if it is none."""
    match = _QUANTITY.fullmatch(value)
    if match is None:
        raise ValueError(f"{quote(value)} is no quantity")
    digits, suffix = Decimal(match[1]), match[2] or ""
    if suffix in _BINARY:
        return digits * (1 << _BINARY[suffix])
    if suffix in _SUFFIXES:
        return digits.scaleb(_SUFFIXES[suffix])
    return digits.scaleb(int(suffix[1:]))


class Resources(NamedTuple):
    """Requests and limits of the container, as Kubernetes quantities; None is left out."""

    requests_memory: str | None = "256Mi"
    requests_cpu: str | None = "100m"
    limits_memory: str | None = "512Mi"
    limits_cpu: str | None = "500m"

    def changed(self, value: object) -> Resources:
        """These, with what `value` names instead of their own: `{"requests": {"memory": ..}}`, or Resources.

        ValueError with the rest of a sentence where a name, a quantity or its relation to the limit is wrong.
        """
        merged = value if isinstance(value, Resources) else self._replace(**_flat(value))
        for name, given in merged._asdict().items():
            _check_quantity(name, given)
        for kind in ("memory", "cpu"):
            request, limit = getattr(merged, f"requests_{kind}"), getattr(merged, f"limits_{kind}")
            if request is not None and limit is not None and quantity(request) > quantity(limit):
                raise ValueError(f"must not request more {kind} than the limit: {request} is more than {limit}")
        return merged

    def manifest(self) -> dict[str, dict[str, str]]:
        """As in a container: `{"requests": {...}, "limits": {...}}`, without what is left out."""
        found: dict[str, dict[str, str]] = {}
        for name, given in self._asdict().items():
            if given is not None:
                side, kind = name.split("_")
                found.setdefault(side, {})[kind] = given
        return found


def _flat(value: object) -> dict[str, str | None]:
    if not isinstance(value, Mapping):
        raise ValueError("must be a mapping of requests and limits")
    found: dict[str, str | None] = {}
    for side, kinds in value.items():
        if not isinstance(kinds, Mapping):
            raise ValueError(f"must map requests and limits to memory and cpu: {quote(side)} has none")
        for kind, given in kinds.items():
            name = f"{side}_{kind}"
            if name not in Resources._fields:
                wrong = quote(f"{side}.{kind}")
                raise ValueError(f"must name requests.memory, requests.cpu, limits.memory or limits.cpu, not {wrong}")
            found[name] = None if given is None or given == "none" else str(given)
    return found


def _check_quantity(name: str, given: object) -> None:
    if given is None:
        return
    shown = name.replace("_", ".")
    try:
        amount = quantity(given) if isinstance(given, str) else Decimal(-1)
    except ValueError:
        raise ValueError(f"must be quantities: {shown} is {quote(given)}") from None
    if amount <= 0:
        raise ValueError(f"must be more than 0: {shown} is {quote(given)}")
    if name.endswith("cpu") and amount * 1000 % 1:
        raise ValueError(f"must be whole millicores: {shown} is {quote(given)}")
    if name.endswith("memory") and amount < 1 << 20:
        raise ValueError(f"must be at least 1Mi of memory: {shown} is {quote(given)}")


def read_resources(value: str) -> dict[str, dict[str, str]]:
    """Resources from `requests.memory=256Mi,limits.cpu=none`."""
    found: dict[str, dict[str, str]] = {}
    for name, given in read_pairs(value).items():
        side, _, kind = name.partition(".")
        found.setdefault(side, {})[kind] = given
    return found


def read_pairs(value: str) -> dict[str, str]:
    """A mapping from `name=value,name=value`."""
    found: dict[str, str] = {}
    for part in split(value):
        name, equals, given = (piece.strip() for piece in part.partition("="))
        if not equals or not name or not given or name in found:
            raise ValueError(f"must be name=value pairs separated by commas, each name once, not {quote(part)}")
        found[name] = given
    return found


class SecretKey(NamedTuple):
    """Where a value is, in the namespace of each pod: the injector itself never reads it."""

    name: str
    key: str


def check_secret_key(value: object, kind: str = "Secret") -> SecretKey | None:
    """The name and the key of a Secret (or ConfigMap); one without the other is an error. None is allowed."""
    if value is None or isinstance(value, SecretKey):
        return value
    if not isinstance(value, Mapping) or not value.keys() <= {"name", "key"}:
        raise ValueError("must have a name and a key, and nothing else")
    name, key = value.get("name") or "", value.get("key") or ""
    if not name and not key:
        return None
    if not name or not key:
        raise ValueError(f"must have a name and a key: the {'key' if name else 'name'} is missing")
    if not isinstance(name, str) or not _is_dns_name(name):
        raise ValueError(f"must have the name of a {kind}, not {quote(name)}")
    if not isinstance(key, str) or not re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", key):
        raise ValueError(f"must have a key of letters, digits, '-', '_' and '.', not {quote(key)}")
    return SecretKey(name, key)


class Variable(NamedTuple):
    """One further variable of the container: its value, or where each pod finds it."""

    name: str
    value: str | None
    reference: Reference | None = None
    key: SecretKey | None = None

    def manifest(self) -> dict[str, Any]:
        """As in a container. A reference is optional: what is missing must not keep a pod from starting."""
        if self.reference is not None and self.key is not None:
            return {"name": self.name, "valueFrom": {self.reference: {**self.key._asdict(), "optional": True}}}
        # A kubelet reads $$ as $, and $(NAME) as another variable: what was checked is what the sniffer gets.
        return {"name": self.name, "value": (self.value or "").replace("$", "$$")}


def check_variables(value: object) -> tuple[Variable, ...]:
    """Variables as a container lists them, each an option of the sniffer that the injector does not set itself.

    Values are checked as the sniffer will: what is wrong with them would end it beside every application.
    """
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise ValueError("must be a list of variables, each with a name and a value")
    found: dict[str, Variable] = {}
    problems: list[str] = []
    for entry in value:
        try:
            variable = entry if isinstance(entry, Variable) else _variable(entry)
            if variable.name in found:
                raise ValueError(f"{variable.name} is there twice")
            found[variable.name] = variable
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("is wrong: " + "; ".join(problems))
    return tuple(found.values())


def _variable(entry: object) -> Variable:
    if not isinstance(entry, Mapping) or not entry.keys() <= {"name", "value", "valueFrom"} or "name" not in entry:
        raise ValueError(f"{quote(entry)} is not a name with a value or a valueFrom")
    name = str(entry["name"])
    known = {option.variable: option for option in SnifferConfig.options().values() if option.variable}
    if name in SET_BY_INJECTOR:
        raise ValueError(f"{name} is set by the injector itself")
    if name not in known:
        close = likely(name, known.keys() - SET_BY_INJECTOR)
        raise ValueError(f"{quote(name)} is not a variable of the sniffer{close}")
    if ("value" in entry) == ("valueFrom" in entry):
        raise ValueError(f"{name} must have either a value or a valueFrom")
    try:
        if "valueFrom" in entry:
            return Variable(name, None, *_reference(entry["valueFrom"]))
        if not isinstance(entry["value"], str | int | float):
            raise ValueError(f"must have a text, not {quote(entry['value'])}")
        if value := _scalar(entry["value"]):
            known[name].check(known[name].read(value))
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None
    return Variable(name, value)


def _reference(value: object) -> tuple[Reference, SecretKey]:
    if isinstance(value, Mapping) and len(value) == 1:
        for reference, kind in REFERENCES.items():
            if reference in value and (key := check_secret_key(value[reference], kind)) is not None:
                return reference, key
    raise ValueError(f"must have a valueFrom of {' or '.join(REFERENCES)}, with a name and a key")


def _scalar(value: object) -> str:
    """The text of what YAML takes for a switch or a number; Helm writes a large one as 6.7108864e+07."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def read_variables(value: str) -> object:
    """The list as YAML or JSON, on one line or several."""
    try:
        return yaml.safe_load(value)
    except (yaml.YAMLError, RecursionError):
        raise ValueError(f"must be a list in YAML, not {quote(value)}") from None


def _is_dns_name(value: str) -> bool:
    """A DNS subdomain (RFC 1123), as Kubernetes names most objects."""
    return len(value) <= 253 and _DNS_NAME.fullmatch(value) is not None


def check_container_name(value: object) -> str:
    """A DNS label (RFC 1123)."""
    if not isinstance(value, str) or not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", value):
        raise ValueError(f"must be a container name of lower-case letters, digits and '-', not {quote(value)}")
    return value


def check_image(value: object) -> str:
    """The reference of an image."""
    if not isinstance(value, str) or not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9._:/@+-]*", value):
        raise ValueError(f"must be the reference of an image, not {quote(value)}")
    return value


def check_interface(value: object) -> str:
    """A name that a Linux network interface can have, or `any`."""
    if not isinstance(value, str) or not re.fullmatch(r"(?!\.{1,2}$)[!-.0-~]{1,15}", value):
        raise ValueError(f"must be the name of a network interface, not {quote(value)}")
    return value


def check_label_key(value: object) -> str:
    """The key of a label, with or without a prefix."""
    prefix, slash, name = value.rpartition("/") if isinstance(value, str) else ("", "", "")
    if not re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", name) or (slash and not _is_dns_name(prefix)):
        raise ValueError(f"must be the key of a label, not {quote(value)}")
    return prefix + slash + name


def check_label_value(value: object) -> str:
    """The value of a label, not empty and not the one that opts out."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", value):
        raise ValueError(f"must be the value of a label, not {quote(value)}")
    if value == "false":
        raise ValueError("must not be 'false', which opts out")
    return value


def read_native(value: str) -> str:
    """One of the option's words, or yes (always) or no (never) as an annotation may say."""
    return {True: ALWAYS, False: NEVER}[_SWITCH.read(value)] if value.lower() not in (NEVER, JOBS, ALWAYS) else value


_SWITCH: Final[Any] = switch(False, group="", help="")
_SPOOL: Final[Any] = SnifferConfig.options()["spool_size"]


def check_spool_size(value: object) -> int | None:
    """What the sniffer takes as SPOOL_SIZE; None is no spool."""
    return None if value is None else _SPOOL.check(value)


def read_spool_size(value: str) -> object:
    """A size as the sniffer reads it, `none` or no, or yes for the sniffer's own default."""
    if value.lower() in ("none", *FALSE):
        return None
    return _SPOOL.default if value.lower() in TRUE else _SPOOL.read(value)


class InjectorOptions(Options):
    """What is injected, where, and how the webhook is served. Immutable; checked when it is made.

    Raises `ValidationError` with every problem at once. Keywords only: neither environment nor file is read here.
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
        check_url,
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
        help="inject as a native sidecar (Kubernetes 1.29 or later): never, into the pods of Jobs, always",
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
        """Sentences to log at start: what is allowed but unwise."""
        found = [
            f"resources: {name.replace('_', '.')} is left out; a HorizontalPodAutoscaler or a ResourceQuota may need it"
            for name, given in self.resources._asdict().items()
            if given is None
        ]
        if self.output_url is None and (self._value_of("max_body_size") or 0) > STDOUT_BODY_SIZE:
            found.append(
                f"sniffer_env: with a MAX_BODY_SIZE above {STDOUT_BODY_SIZE} and no output_url, container runtimes"
                " split the lines of long messages"
            )
        return tuple(found)

    def _value_of(self, keyword: str) -> Any:
        """What the sniffer reads in `sniffer_env` for an option of its own; None where nothing is said here."""
        option = SnifferConfig.options()[keyword]
        texts = [variable.value for variable in self.sniffer_env if variable.name == option.variable]
        return option.check(option.read(texts[0])) if texts and texts[0] else None

    def _rules(self) -> Iterable[Problem]:
        """The sniffer's own, which would end it in the pod."""
        if self.production and self.output_url is not None and self.output_url.startswith("http:"):
            yield Problem("output_url", "output_url must use HTTPS in production")
        metrics = self._value_of("metrics_port")
        if metrics in self.default_ports:
            yield Problem("default_ports", f"default_ports must not have the METRICS_PORT of sniffer_env, {metrics}")

    @classmethod
    def texts_of(cls, environ: Mapping[str, str]) -> dict[str, str]:
        """As for every class of options; production rules apply where either of their two variables says so."""
        texts = super().texts_of(environ)
        production = environ.get("TCP_SNIFFER_PRODUCTION", "").strip()
        if production and texts.get("production", "no").lower() in ("0", "false", "no", "off"):
            texts["production"] = production
        return texts

    @classmethod
    def load(cls, arguments: Sequence[str], environ: Mapping[str, str]) -> Self:
        """From flags, variables and the YAML file; ValidationError with every problem. `--help` raises SystemExit."""
        flags, problems = _parser().texts(arguments)
        file = flags.pop("config", environ.get("INJECTOR_CONFIG", "").strip())
        texts = cls.texts_of(environ) | flags
        keywords: dict[str, Any] = {}
        if file:
            scalars, keywords = cls._read_file(file, problems)
            keywords = {name: value for name, value in keywords.items() if name not in texts}
            texts = scalars | texts
        return cls._made(keywords, texts, problems)

    @classmethod
    def _made(cls, keywords: Mapping[str, Any], texts: Mapping[str, str], problems: Sequence[Problem]) -> Self:
        options = cls.__new__(cls)
        options._fill(keywords, texts, problems)  # noqa: SLF001 - a constructor of its own class
        return options

    @classmethod
    def _read_file(cls, file: str, problems: list[Problem]) -> tuple[dict[str, str], dict[str, Any]]:
        """Texts and structured values by keyword; what is wrong with the file itself goes to `problems`."""
        try:
            content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
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
                texts[known[key]] = _scalar(value)
        return texts, keywords

    def for_pod(self, annotations: Mapping[str, Any]) -> Self:
        """These options with a pod's own where it has annotations; an empty annotation is none.

        Raises ValidationError whose problems name the annotations.
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
            return self._made(keywords, {}, problems)
        except ValidationError as error:
            names = {keyword: name for name, keyword in ANNOTATIONS.items()}
            raise ValidationError(
                Problem(names[problem.field], problem.message.replace(problem.field, names[problem.field], 1))
                for problem in error.problems
            ) from None


def camel(keyword: str) -> str:
    """`default_ports` as the YAML file has it: `defaultPorts`."""
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
