"""The types of the injector's option values, in the terms of Kubernetes: quantities, names, Secrets, variables.

Each `check_` function returns the canonical value, or raises ValueError with the rest of a sentence, as
`sniffer.options` requires. Each `read_` function turns a text into a value for its check.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple

import yaml

from sniffer.checks import check_url
from sniffer.config import SnifferConfig
from sniffer.errors import ValidationError
from sniffer.options import likely, quote, split

SET_BY_INJECTOR: Final = frozenset(
    {
        "PORTS",
        "INTERFACE",
        "OUTPUT_URL",
        "OUTPUT_STDOUT",
        "OUTPUT_STDOUT_MAX_LINE",
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
"""Variables of the container that the injector sets from other options, annotations and the pod."""

Reference = Literal["secretKeyRef", "configMapKeyRef"]
REFERENCES: Final[Mapping[Reference, str]] = {"secretKeyRef": "Secret", "configMapKeyRef": "ConfigMap"}

STDOUT_MAX_LINE: Final = 16_000
"""OUTPUT_STDOUT_MAX_LINE with OUTPUT_STDOUT: container runtimes split lines at 16 KiB."""
STDOUT_BODY_SIZE: Final = 8192
"""MAX_BODY_SIZE with OUTPUT_STDOUT: so few lines exceed that length, unless many characters must be escaped."""

_QUANTITY: Final = re.compile(
    r"([+-]?[0-9]{1,18}(?:\.[0-9]{0,18})?|[+-]?\.[0-9]{1,18})([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,2})?"
)
_DNS_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_SUFFIXES: Final = {"": 0, "n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY: Final = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


def quantity(value: str) -> Decimal:
    """The number of a Kubernetes quantity (`512Mi`, `100m`, `1e3`). Raises ValueError if it is invalid."""
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
    """Requests and limits of the container as Kubernetes quantities; None leaves one out."""

    requests_memory: str | None = "256Mi"
    requests_cpu: str | None = "100m"
    limits_memory: str | None = "512Mi"
    limits_cpu: str | None = "500m"

    def changed(self, value: object) -> Resources:
        """A copy with the resources that `value` names: `{"requests": {"memory": ..}}`, or Resources.

        Raises ValueError with the rest of a sentence if a name, a quantity or a request's relation to its limit is
        wrong.
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
        """The container's `resources`: `{"requests": {...}, "limits": {...}}`, without those that are None."""
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
    """Name and key of a value in each pod's namespace. The injector itself never reads the value."""

    name: str
    key: str


def check_secret_key(value: object, kind: str = "Secret") -> SecretKey | None:
    """Name and key of a Secret (or ConfigMap). One without the other is an error; None is allowed."""
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


def plain_variable(name: str, value: str) -> dict[str, Any]:
    """An entry of a container's `env` whose process gets exactly this value.

    A kubelet replaces `$(NAME)` by the value of the variable NAME, so a pod's annotation could send a secret of the
    container anywhere. It reads `$$` as `$` at any place, so every `$` is doubled.
    """
    return {"name": name, "value": value.replace("$", "$$")}


class Variable(NamedTuple):
    """A further variable of the container: its value, or a reference to it."""

    name: str
    value: str | None
    reference: Reference | None = None
    key: SecretKey | None = None

    def manifest(self) -> dict[str, Any]:
        """The entry of `env`. A reference is optional: a missing object must not keep a pod from starting."""
        if self.reference is not None and self.key is not None:
            return {"name": self.name, "valueFrom": {self.reference: {**self.key._asdict(), "optional": True}}}
        return plain_variable(self.name, self.value or "")


def check_variables(value: object) -> tuple[Variable, ...]:
    """Checks a list in the form of a container's `env`: options of the sniffer that the injector does not set itself.

    Values are checked as the sniffer checks them, since a wrong value would end the sniffer in every pod.
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
    problems = problems or contradictions(found.values(), ports=())
    if problems:
        raise ValueError("is wrong: " + "; ".join(problems))
    return tuple(found.values())


def contradictions(variables: Iterable[Variable], ports: Collection[int]) -> list[str]:
    """The problems that the sniffer's rules between options find in these variables with these ports. Ignores files."""
    options = SnifferConfig.options()
    texts = {option.variable: name for name, option in options.items() if not option.is_read}
    given = {texts[one.name]: one.value for one in variables if one.value and one.name in texts}
    try:
        SnifferConfig.from_texts(given, ports=ports or _others(given.values()))
    except ValidationError as error:
        return [problem.message for problem in error.problems]
    return []


def _others(texts: Iterable[str]) -> list[int]:
    """A port that occurs in none of the texts."""
    joined = " ".join(texts)
    return [next(port for port in range(1, 65_536) if str(port) not in joined)]


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
        if value := scalar(entry["value"]):
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


def scalar(value: object) -> str:
    """The text of a YAML boolean or number. Helm writes a large number as 6.7108864e+07."""
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
    """Whether it is a DNS subdomain (RFC 1123), the form of most names in Kubernetes."""
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


def check_output_url(value: object) -> str | None:
    """A URL that the sniffer accepts as OUTPUT_URL. A reference to a variable is refused."""
    url = check_url(value)
    if url is not None and "$(" in url:
        raise ValueError("must not contain '$(', which would refer to a variable of the container")
    return url


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
    if opts_out(value):
        raise ValueError("must not be 'false', which opts out")
    return value


def opts_out(value: object) -> bool:
    """Whether a pod's label opts out: `false` in any case, with blanks around it, or a YAML boolean."""
    return str(value).strip().lower() == "false"
