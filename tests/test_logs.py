"""sniffer.logs: one line per record, complete, safe to show, without secrets."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from sniffer import logs

pytestmark = pytest.mark.usefixtures("own_logging")

SECRET = 's3cr3t"token'
log = logging.getLogger("sniffer.test")


def lines(write: Callable[[], object], **settings: Any) -> list[dict[str, Any]]:
    """The JSON lines that `write` causes."""
    stream = io.StringIO()
    logs.configure(**{"form": "json", "stream": stream, **settings})
    write()
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def console(write: Callable[[], object], **settings: Any) -> str:
    """The text that `write` causes in the form for terminals."""
    stream = io.StringIO()
    logs.configure(form="console", stream=stream, **settings)
    write()
    return stream.getvalue()


def test_line_has_its_fields() -> None:
    """A line has timestamp, level, message, its values, and the placement."""
    placement = {"pod": "app-1", "namespace": "shop", "node": "n1"}
    (line,) = lines(lambda: log.warning("Capture %s", "x", extra={"fields": {"n": 3}}), placement=placement)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("timestamp"))
    assert line == {
        "level": "warning",
        "logger": "sniffer.test",
        "message": "Capture x",
        "n": 3,
        "placement": placement,
    }


def test_fields_cannot_take_the_place_of_others() -> None:
    """No line has both `schema` and `level`, and a value cannot pose as the message."""
    (line,) = lines(lambda: log.info("real", extra={"fields": {"schema": 1, "message": "false", "level": "x"}}))
    assert "schema" not in line
    assert (line["message"], line["level"]) == ("real", "info")
    assert (line["schema_"], line["message_"], line["level_"]) == (1, "false", "x")


def test_level() -> None:
    """Our records are shown from the level on, those of other packages from warning."""

    def write() -> None:
        for name in ("sniffer", "elsewhere"):
            for level in (logging.DEBUG, logging.INFO, logging.WARNING):
                logging.getLogger(name).log(level, "m")

    def shown(level: str) -> list[tuple[str, str]]:
        return [(line["logger"], line["level"]) for line in lines(write, level=level)]

    assert shown("info") == [("sniffer", "info"), ("sniffer", "warning"), ("elsewhere", "warning")]
    assert shown("debug")[0] == ("sniffer", "debug")
    assert shown("error") == [("elsewhere", "warning")]


def test_warnings_are_logged() -> None:
    """Python's warnings become log lines."""

    def write() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("odd", stacklevel=1)

    assert "odd" in lines(write)[0]["message"]


def test_secrets_are_in_no_line() -> None:
    """The token and anything that looks like credentials are taken out of messages, values, keys and tracebacks."""

    def write() -> None:
        log.info("message %s", SECRET, extra={"fields": {"a": [{"b": SECRET}, (SECRET,)], SECRET: 1, "c": {SECRET: 2}}})
        log.info("header", extra={"fields": {"sent": "Authorization: Bearer abcdef123", "old": "basic dXNlcjpwYXNz"}})
        try:
            raise RuntimeError(f"crash {SECRET}")
        except RuntimeError:
            log.exception("failed")

    for text in (json.dumps(lines(write, secrets=[SECRET])), console(write, secrets=[SECRET, ""])):
        assert "s3cr3t" not in text
        assert "abcdef123" not in text
        assert "dXNlcjpwYXNz" not in text
        assert "RuntimeError: crash [REDACTED]" in text


def test_a_secret_within_a_secret() -> None:
    """Of a secret that begins with another one nothing is left over."""
    (line,) = lines(lambda: log.info("old s3cr3t, new s3cr3t-2"), secrets=["s3cr3t", "s3cr3t-2"])
    assert line["message"] == "old [REDACTED], new [REDACTED]"


def test_tracebacks_show_no_values() -> None:
    """A traceback has files, lines and functions, and no local variables."""

    def write() -> None:
        local = "local value"[::-1]
        try:
            raise ValueError("odd")
        except ValueError:
            log.exception("failed", extra={"fields": {"n": len(local)}})

    (line,) = lines(write)
    assert line["exception"].startswith("Traceback")
    assert "ValueError: odd" in line["exception"]
    assert "eulav" not in line["exception"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_controls_from_the_wire_are_escaped(form: str) -> None:
    """Nothing that steers a terminal or reorders text leaves a line as it is, in either form."""
    evil = "a\x00\x07\x1b[31m\r\n\x7f\x85\x9b\u202e\u2066\u200f\u2028\ud800z"
    stream = io.StringIO()
    logs.configure(form=form, stream=stream)
    log.info(evil, extra={"fields": {"path": evil, "deep": [{evil: evil}]}})
    text = stream.getvalue()
    assert text.endswith("\n")
    assert not logs.CONTROLS.search(text.removesuffix("\n"))
    assert "[31m" in text


def test_printable() -> None:
    """Control and bidi characters are written out; everything else stays."""
    assert logs.printable("é\x1b\u202e…") == "é\\x1b\\u202e…"


def test_other_values_are_shown_as_text() -> None:
    """A value of any type makes a line."""
    (line,) = lines(lambda: log.info("m", extra={"fields": {"e": ValueError("x"), "s": {1}, "n": None, "f": 1.5}}))
    assert (line["e"], line["s"], line["n"], line["f"]) == ("x", [1], None, 1.5)


def test_console_is_one_readable_line() -> None:
    """At a terminal a record is one line with level, message and values, and no placement."""
    text = console(lambda: log.info("Capture stats", extra={"fields": {"packetsReceived": 3}}), placement={"pod": "p"})
    assert "Capture stats" in text
    assert "packetsReceived=3" in text
    assert "\x1b" not in text, "no colour where the stream is no terminal"
    assert "placement" not in text
    assert text.count("\n") == 1


def test_form_follows_the_stream() -> None:
    """Without a form a terminal gets console lines, with colours, anything else JSON."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal, pipe = Terminal(), io.StringIO()
    logs.configure(stream=terminal)
    log.info("m")
    logs.configure(stream=pipe)
    log.info("m")
    assert "\x1b[" in terminal.getvalue()
    assert json.loads(pipe.getvalue())["message"] == "m"


def test_a_stream_that_fails_costs_nothing() -> None:
    """A stderr that went away raises nowhere."""
    stream = io.StringIO()
    logs.configure(form="json", stream=stream)
    stream.close()
    log.error("nobody reads this")
