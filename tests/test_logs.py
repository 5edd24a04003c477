"""sniffer.logs: one line per record, complete, safe to show, without secrets."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import re
import sys
import termios
import threading
import time
import warnings
from collections.abc import Callable, Iterator
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


def test_console_shows_tables_as_counters() -> None:
    """At a terminal a table is `name.counter`, without zeros, and what is for programs is in the JSON form alone."""
    fields = {"lanes": {"stdout": {"delivered": 3, "rejected": 0}}, "ledger": {"packets_seen": 62}}
    extra = {"fields": fields, "for_programs": ("ledger",)}
    text = console(lambda: log.info("stopped", extra=extra))
    assert text.endswith("stdout.delivered=3\n")
    assert "{" not in text
    assert "packets_seen=62" in console(lambda: log.info("ledger", extra={"fields": fields}))
    (line,) = lines(lambda: log.info("stopped", extra=extra))
    assert (line["lanes"], line["ledger"]) == (fields["lanes"], fields["ledger"])


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


# A reader that is late


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The ends of a pipe of one page."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def to_pipe(writer: int) -> tuple[logging.Handler, Callable[[str], None]]:
    """A handler on a pipe, and what logs a line through it."""
    handler = logs.PatientHandler(writer)

    def say(text: str) -> None:
        handler.handle(logging.LogRecord("sniffer.test", logging.INFO, "", 0, text, (), None))

    return handler, say


def unread(reader: int) -> int:
    """Bytes that a pipe holds."""
    return int.from_bytes(fcntl.ioctl(reader, termios.FIONREAD, bytes(4)), sys.byteorder)


def read_lines(reader: int, last: str) -> list[str]:
    """Lines up to the first that begins with `last`."""
    text = b""
    while not text.endswith(b"\n") or not text.splitlines()[-1].decode().startswith(last):
        piece = os.read(reader, 65536)
        assert piece
        text += piece
    return text.decode().splitlines()


def test_a_line_is_written_at_once(pipe: tuple[int, int]) -> None:
    """Where there is room a line is out when the call returns, by no other thread."""
    reader, writer = pipe
    _, say = to_pipe(writer)
    before = threading.active_count()
    for number in range(100):
        say(f"line {number}")
        assert os.read(reader, 100) == b"line %d\n" % number
    assert threading.active_count() == before


def test_no_line_is_lost_to_a_slow_reader(pipe: tuple[int, int]) -> None:
    """More lines than the pipe holds, one of them longer than it: kept, written in order, complete after flush()."""
    reader, writer = pipe
    handler, say = to_pipe(writer)
    sent = [f"line {number} " + "x" * (9000 if number == 50 else 100) for number in range(500)]
    for line in sent:
        say(line)
    got: list[str] = []
    thread = threading.Thread(target=lambda: got.extend(read_lines(reader, "line 499 ")))
    thread.start()
    handler.flush()
    assert handler._thread is None  # type: ignore[attr-defined]
    thread.join()
    assert got == sent


@pytest.mark.slow
def test_a_reader_that_stalls_holds_nobody_up(pipe: tuple[int, int]) -> None:
    """Nobody reads: no call waits, what is kept has a bound, flush() gives up; lost lines are said later."""
    reader, writer = pipe
    handler, say = to_pipe(writer)
    count = 2 * logs.BACKLOG // 1000
    for number in range(count):
        say(f"line {number} ".ljust(999, "x"))
        while number == 9 and unread(reader) < 4000:
            time.sleep(0.001)  # the thread has started: the pipe has no more room
    assert handler._size <= logs.BACKLOG  # type: ignore[attr-defined]
    handler.flush()
    got = read_lines(reader, "log lines were dropped")
    assert [line.split()[1] for line in got[:-1]] == [str(number) for number in range(len(got) - 1)]
    assert logs.BACKLOG // 1000 <= len(got) - 1 < count
    handler.flush()
    say("after")
    assert read_lines(reader, "after") == ["after"]


def test_what_was_dropped_is_counted(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The line that says so has the number, in the form of every other line."""
    reader, writer = pipe
    monkeypatch.setattr(logs, "_number", lambda _: writer)
    logs.configure(form="json")
    for _ in range(1000):
        log.info("x" * 1000)
    lines = [json.loads(line) for line in read_lines(reader, '{"timestamp":"') if line]
    while lines[-1]["message"] != "log lines were dropped: nobody read them in time":
        lines += [json.loads(line) for line in read_lines(reader, '{"timestamp":"')]
    assert len(lines) - 1 + lines[-1]["dropped"] == 1000
    assert lines[-1]["level"] == "warning"


def test_a_reader_that_goes_away_while_lines_wait() -> None:
    """A pipe that is closed at the other end with lines waiting: they are gone, and nothing raises or hangs."""
    reader, writer = os.pipe()
    handler, say = to_pipe(writer)
    for _ in range(1000):
        say("x" * 200)
    os.close(reader)
    handler.flush()
    assert handler._thread is None  # type: ignore[attr-defined]
    say("nobody reads this")
    os.close(writer)
