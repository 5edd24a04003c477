"""The daemon's log: structlog over the standard `logging`, to stderr; messages never go there, logs never to stdout.

Below `cli` everything logs through `logging.getLogger("sniffer...")` with a fixed message and its values in
`extra={"fields": {...}}`. Here, and only here, those records become lines: JSON, or coloured text at a terminal.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final, TextIO

# structlog loads rich wherever that is installed, for tracebacks that nobody here asks it for: 4 MiB in every sidecar.
_hidden = "rich" not in sys.modules
if _hidden:
    sys.modules["rich"] = None  # type: ignore[assignment]

import structlog  # noqa: E402
from structlog.typing import EventDict, Processor  # noqa: E402

if _hidden:
    del sys.modules["rich"]

CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0, DEL, C1, separators of lines, bidi controls, lone surrogates."""

CREDENTIALS: Final = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{4,}")
RESERVED: Final = ("timestamp", "level", "logger", "message", "schema", "exception")


def printable(text: str) -> str:
    r"""`text` with what could steer a terminal written as `\xNN` or `\uNNNN`."""
    return CONTROLS.sub(lambda match: ascii(match[0])[1:-1], text)


def configure(
    *,
    level: str = "info",
    form: str | None = None,
    placement: Mapping[str, str] | None = None,
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Sends every record of the process to `stream` (default: stderr), replacing what was set up before.

    `form` is "json" or "console"; None is console where the stream is a terminal. `secrets` are texts that appear in
    no line, wherever they come from. Our own records are shown from `level` on, those of other packages from warning.
    """
    stream = stream if stream is not None else sys.stderr
    terminal = stream is not None and stream.isatty()
    console = form == "console" or (form is None and terminal)
    hide = _Hide(secrets)

    def line(_: Any, __: str, event: EventDict) -> EventDict:
        """The line's keys in their order, from what ProcessorFormatter gives."""
        record: logging.LogRecord = event["_record"]
        shown: EventDict = {
            "timestamp": event["timestamp"],
            "level": event["level"],
            "logger": record.name,
            "message": hide(event["event"]),
        }
        for name, value in getattr(record, "fields", {}).items():
            shown[f"{name}_" if name in RESERVED else str(hide(name))] = hide(value)
        if "exception" in event:
            shown["exception"] = hide(event["exception"])
        if placement and not console:
            shown["placement"] = dict(placement)
        return shown

    chain: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(_traceback),
        line,
    ]
    if console:
        chain.append(_escape)
        chain.append(
            structlog.dev.ConsoleRenderer(
                colors=terminal and not os.environ.get("NO_COLOR"),
                event_key="message",
                pad_event_to=0,
                sort_keys=False,
                exception_formatter=structlog.dev.plain_traceback,
            )
        )
    else:
        chain.append(structlog.processors.JSONRenderer(serializer=_json))
    handler = logging.StreamHandler(stream)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=chain))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("sniffer").setLevel(level.upper())
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a stderr that went away must not cost messages


class _Hide:
    """Takes secrets out of texts, however deep they are in a value."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = sorted((secret for secret in secrets if secret), key=len, reverse=True)

    def __call__(self, value: object) -> object:
        if isinstance(value, str):
            for secret in self._secrets:
                value = value.replace(secret, "[REDACTED]")
            return CREDENTIALS.sub(r"\1 [REDACTED]", value)
        if isinstance(value, Mapping):
            return {str(self(name)): self(entry) for name, entry in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self(entry) for entry in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        return self(str(value))


def _traceback(exc_info: Any) -> str:
    """The traceback with file, line and function of each frame, and without the values of its variables."""
    return logging.Formatter().formatException(exc_info)


def _json(value: object, **_: object) -> str:
    return json.dumps(value, separators=(",", ":")).replace("\x7f", "\\u007f")


def _escape(_: Any, __: str, event: EventDict) -> EventDict:
    return {name: _escaped(value, name) for name, value in event.items()}


def _escaped(value: object, name: str = "") -> object:
    if isinstance(value, str):
        if name == "exception":  # its line breaks are its own
            return "\n".join(map(printable, value.split("\n")))
        return printable(value)
    if isinstance(value, Mapping):
        return {str(_escaped(key)): _escaped(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_escaped(entry) for entry in value]
    return value
