"""The daemon's log: structlog over the standard `logging`, to stderr. Messages go to stdout, logs never do.

All modules log through `logging.getLogger("sniffer...")`, with a fixed message and its values in
`extra={"fields": {...}}`. Only this module makes lines of these records: JSON, or coloured text at a terminal.
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import sys
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final, TextIO

# structlog imports rich if it is installed, for tracebacks that are not used here: 4 MiB in every sidecar.
_hidden = "rich" not in sys.modules
if _hidden:
    sys.modules["rich"] = None  # type: ignore[assignment]

import structlog  # noqa: E402
from structlog.typing import EventDict, Processor  # noqa: E402

if _hidden:
    del sys.modules["rich"]

CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0, DEL, C1, line separators, bidirectional controls, lone surrogates."""

CREDENTIALS: Final = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{4,}")
RESERVED: Final = ("timestamp", "level", "logger", "message", "schema", "exception")

BACKLOG: Final = 256 << 10
"""Bytes of lines that are kept for a slow reader."""
FLUSH_SECONDS: Final = 1.0
"""Longest wait for a slow reader at the end, in seconds."""


def printable(text: str) -> str:
    r"""`text` with characters that could control a terminal written as `\xNN` or `\uNNNN`."""
    return CONTROLS.sub(lambda match: ascii(match[0])[1:-1], text)


def configure(
    *,
    level: str = "info",
    form: str | None = None,
    placement: Mapping[str, str] | None = None,
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Sends every record of the process to `stream` (default: stderr). Replaces all handlers set up before.

    `form` is "json" or "console"; None means console if the stream is a terminal, else JSON. `secrets` are texts that
    no line may show. Records of this package are shown from `level` on, those of other packages from warning on.
    """
    number = _number(sys.stderr) if stream is None else None
    stream = stream if stream is not None else sys.stderr
    terminal = stream is not None and stream.isatty()
    console = form == "console" or (form is None and terminal)
    chain: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(_traceback),
        _ordered(_Hide(secrets), None if console else placement, console=console),
        *_rendering(console=console, colors=terminal and not os.environ.get("NO_COLOR")),
    ]
    handler = logging.StreamHandler(stream) if number is None else PatientHandler(number)
    handler.setFormatter((_ConsoleFormatter if console else structlog.stdlib.ProcessorFormatter)(processors=chain))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("sniffer").setLevel(level.upper())
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a stderr that was closed must not cost messages


def _ordered(hide: _Hide, placement: Mapping[str, str] | None, *, console: bool) -> Processor:
    """Puts the keys of a line in order, from the event that ProcessorFormatter passes, and hides secrets in it."""

    def line(_: Any, __: str, event: EventDict) -> EventDict:
        record: logging.LogRecord = event["_record"]
        shown: EventDict = {
            "timestamp": event["timestamp"],
            "level": event["level"],
            "logger": record.name,
            "message": hide(event["event"]),
        }
        fields = getattr(record, "fields", {})
        for name, value in (_readable(record, fields) if console else fields).items():
            shown[f"{name}_" if name in RESERVED else str(hide(name))] = hide(value)
        if "exception" in event:
            shown["exception"] = hide(event["exception"])
        if placement:
            shown["placement"] = dict(placement)
        return shown

    return line


def _readable(record: logging.LogRecord, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a line for people: tables become `name.counter`, without zeros. A record's `for_programs` are the
    names of the fields that are too long for people.
    """
    left_out = getattr(record, "for_programs", ())
    shown: dict[str, Any] = {}
    for name, value in fields.items():
        if not isinstance(value, Mapping):
            shown[name] = value
        elif name not in left_out:
            for counter, count in value.items():
                inner = count if isinstance(count, Mapping) else {"": count}
                shown |= {f"{counter}.{key}" if key else counter: each for key, each in inner.items() if each}
    return shown


def _rendering(*, console: bool, colors: bool) -> list[Processor]:
    """From the keys of a line to its text."""
    if not console:
        return [structlog.processors.JSONRenderer(serializer=_json)]
    renderer = structlog.dev.ConsoleRenderer(
        colors=colors,
        event_key="message",
        pad_event_to=0,
        sort_keys=False,
        exception_formatter=structlog.dev.plain_traceback,
    )
    return [_escape, renderer]


class _ConsoleFormatter(structlog.stdlib.ProcessorFormatter):
    """Shows a record that has a `line` (a link to click on) as that line alone."""

    def format(self, record: logging.LogRecord) -> str:
        """The text of a record."""
        line: str | None = getattr(record, "line", None)
        return super().format(record) if line is None else printable(line)


def _number(stream: TextIO | None) -> int | None:
    """The file descriptor of a stream, if it has one."""
    try:
        return stream.fileno() if stream is not None else None
    except (OSError, ValueError):
        return None


class PatientHandler(logging.Handler):
    """Writes lines to a file descriptor without ever blocking the caller.

    A line is written at once if the descriptor has room. Otherwise it is kept, up to BACKLOG bytes in all, and a
    thread writes it, in order. Lines beyond that are dropped, and their number is logged as soon as there is room.
    O_NONBLOCK is not used: it would apply to every process that shares the open file, such as a shell.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number
        self._poll = select.poll()
        self._poll.register(number, select.POLLOUT)
        self._news = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._thread: threading.Thread | None = None  # only while lines wait

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the record's line, keeps it for the thread, or counts it as dropped."""
        try:
            line = self._line(record)
        except Exception:
            self.handleError(record)
            return
        with self._news:
            if self._thread is None:
                line = self._write_at_once(line)
                if not line:
                    return
            elif self._size + len(line) > BACKLOG:
                self._dropped += 1
                return
            self._waiting.append(line)
            self._size += len(line)
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_rest, name="sniffer log", daemon=True)
                self._thread.start()

    def flush(self) -> None:
        """Waits until all lines are written, for FLUSH_SECONDS at most."""
        with self._news:
            self._news.wait_for(lambda: self._thread is None, FLUSH_SECONDS)

    def _line(self, record: logging.LogRecord) -> bytes:
        return (self.format(record) + "\n").encode("utf-8", "backslashreplace")

    def _write_at_once(self, line: bytes) -> bytes:
        """Writes as much as there is room for; returns the rest."""
        try:
            while line and self._poll.poll(0):
                # A pipe that poll() calls writable takes PIPE_BUF bytes without blocking.
                line = line[os.write(self._number, line[: select.PIPE_BUF]) :]
        except OSError:  # a stderr that went away must not cost messages
            return b""
        return line

    def _write_rest(self) -> None:
        """Runs on the thread: writes the kept lines, then one line with the number of dropped lines."""
        while True:
            with self._news:
                if not self._waiting and self._dropped:
                    self._waiting.append(self._line(self._losses()))
                    self._size += len(self._waiting[0])
                    self._dropped = 0
                if not self._waiting:
                    self._thread = None
                    self._news.notify_all()
                    return
                line = self._waiting[0]
            rest = line
            try:
                while rest:
                    rest = rest[os.write(self._number, rest) :]
            except OSError:
                pass
            with self._news:
                self._waiting.popleft()
                self._size -= len(line)

    def _losses(self) -> logging.LogRecord:
        logger = logging.getLogger("sniffer.logs")
        fields = {"fields": {"dropped": self._dropped}}
        text = "log lines were dropped: nobody read them in time"
        return logger.makeRecord(logger.name, logging.WARNING, __file__, 0, text, (), None, extra=fields)


class _Hide:
    """Removes secrets from texts, at any depth of a value."""

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
    """The traceback with file, line and function of each frame, without values of variables."""
    return logging.Formatter().formatException(exc_info)


def _json(value: object, **_: object) -> str:
    return json.dumps(value, separators=(",", ":")).replace("\x7f", "\\u007f")


def _escape(_: Any, __: str, event: EventDict) -> EventDict:
    return {name: _escaped(value, name) for name, value in event.items()}


def _escaped(value: object, name: str = "") -> object:
    if isinstance(value, str):
        if name == "exception":  # its line breaks are meant
            return "\n".join(map(printable, value.split("\n")))
        return printable(value)
    if isinstance(value, Mapping):
        return {str(_escaped(key)): _escaped(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_escaped(entry) for entry in value]
    return value
