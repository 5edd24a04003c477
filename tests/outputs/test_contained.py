"""What an output from outside does wrong costs the others nothing, and is said with its name.

Each output here is a distribution of its own, found by its entry point; the daemon that uses it is the real one.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import DEMO, Daemon, exchanges, needs_capture, web_server
from tests.outputs.test_registry import broken_output, run

COUNT = 14
"""Messages of the capture file."""
OUTPUT = """
import asyncio, time
from sniffer.delivery.lane import Lane
from sniffer.delivery.sink import Sink
from sniffer.options import Options, switch
from sniffer.outputs import OUTPUT, Output

class ThisOptions(Options):
    this = switch(False, group=OUTPUT, help="x")

class ThisSink(Sink):
    name = "this"
    async def deliver(self, batch):
        pass
{sink}

class This(Output):
    name = "this"
    options = ThisOptions
    switch = "this"
    def lane(self, config, context):
        return Lane(ThisSink(), share=context.share)
{declaration}
"""


def output(folder: Path, *, sink: str = "", declaration: str = "") -> Path:
    """A folder with an output whose sink or declaration has these methods too, each in one line."""
    made = {"sink": sink, "declaration": declaration}
    return broken_output(folder, OUTPUT.format(**{name: f"    {line}" for name, line in made.items()}))


def logs(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """The lines of the log."""
    return [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]


def read(target: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The daemon on the capture file, with standard output beside the output from outside."""
    return run(target, "--ports", "8080", "--read", str(DEMO), "--stdout", *arguments, **environ)


BROKEN = {
    "rules": ("def rules(self, config): raise OSError('odd')", "its rules failed with OSError: odd"),
    "rules that exit": ("def rules(self, config): raise SystemExit(0)", "its rules failed with SystemExit: 0"),
    "rules that are none": ("def rules(self, config): return ['x']", "TypeError: it gave a str, not a Problem"),
    "warnings": ("def warnings(self, config): return [1]", "TypeError: it gave a int, not a str"),
    "wanted": ("def wanted(self, config): raise KeyError(1)", "its wanted failed with KeyError: 1"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_declaration_is_an_error_where_it_is_asked_for(kind: str, tmp_path: Path) -> None:
    """Asked for, it ends the start with 1 and one problem that names the output and what failed."""
    method, reason = BROKEN[kind]
    done = read(output(tmp_path, declaration=method), "--this")
    assert done.returncode == 1
    problem = done.stderr.splitlines()[1]
    assert problem.startswith("  output this cannot be used: its ")
    assert reason in problem
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_declaration_is_a_warning_elsewhere(kind: str, tmp_path: Path) -> None:
    """Not asked for, it is a warning; the others get everything, and the exit code is 0."""
    method, reason = BROKEN[kind]
    done = read(output(tmp_path, declaration=method))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == COUNT
    (said,) = (line for line in logs(done) if line["message"].startswith("output this cannot be used"))
    assert said["level"] == "warning"
    assert reason in said["message"]


@pytest.mark.parametrize(
    ("method", "reason", "code"),
    [
        ("def lane(self, config, context): raise OSError('odd')", "its lane failed with OSError: odd", 1),
        ("def lane(self, config, context): return None", "TypeError: it gave a NoneType, not a Lane", 1),
        ("def companion(self, config): raise SystemExit(0)", "its companion failed with SystemExit: 0", 1),
        ("def load(self): import no_such_module", "its load failed with ModuleNotFoundError", 2),
    ],
)
def test_what_fails_at_the_start(method: str, reason: str, code: int, tmp_path: Path) -> None:
    """An output whose lane cannot be made is an error that names it: 1, and 2 where an import fails."""
    done = read(output(tmp_path, declaration=method), "--this")
    assert done.returncode == code
    assert "output this cannot be used: " in done.stderr
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("error", ["OSError('secret')", "SystemExit(0)", "GeneratorExit", "asyncio.CancelledError"])
def test_whatever_its_delivery_raises(error: str, tmp_path: Path) -> None:
    """Its messages are counted as errors, the kind is logged once with the calls and without the text, and the others
    lose nothing.
    """
    target = output(tmp_path, sink=f"async def deliver(self, batch): raise {error}")
    done = read(target, "--this")
    assert done.returncode == 2  # messages were not delivered
    assert len(done.stdout.splitlines()) == COUNT
    lanes = logs(done)[-1]["lanes"]
    assert lanes["this"]["dropped_error"] == lanes["stdout"]["delivered"] == COUNT
    (said,) = (line for line in logs(done) if line["message"] == "an output raised")
    assert said["sink"] == "this"
    assert said["error"].startswith(error.partition("(")[0].removeprefix("asyncio."))
    assert any(call.startswith("broken_output.py:") for call in said["calls"])
    assert "secret" not in done.stderr


def test_equal_names_of_sinks(tmp_path: Path) -> None:
    """A sink with the name of another has counters of its own, with a number."""
    done = read(output(tmp_path, sink="name = 'stdout'"), "--this")
    assert done.returncode == 0, done.stderr
    lanes = logs(done)[-1]["lanes"]
    assert lanes["stdout"]["delivered"] == lanes["stdout-2"]["delivered"] == COUNT


ENDS = {
    "raises": ("async def close(self): raise OSError('odd')", "an output does not close"),
    "exits": ("async def close(self): raise SystemExit(0)", "an output does not close"),
    "cancels": ("async def close(self): raise asyncio.CancelledError", "an output does not close"),
    "hangs": ("async def close(self): await asyncio.Event().wait()", "the output does not close in time"),
}


@pytest.mark.parametrize("kind", ENDS)
def test_a_close_that_fails(kind: str, tmp_path: Path) -> None:
    """It is said with the output's name, the others are closed, and the exit code tells an error from a wait."""
    method, message = ENDS[kind]
    done = read(output(tmp_path, sink=method), "--this")
    assert done.returncode == (0 if kind == "hangs" else 2), done.stderr
    assert len(done.stdout.splitlines()) == COUNT
    (said,) = (line for line in logs(done) if line["message"] == message)
    assert said["sink"] == "this"
    (stopped,) = (line for line in logs(done) if line["message"] == "stopped")
    assert stopped["lanes"]["this"]["delivered"] == COUNT


@pytest.mark.parametrize("error", ["OSError", "SystemExit(0)"])
def test_an_opening_that_fails(error: str, tmp_path: Path) -> None:
    """A sink that cannot be opened ends the start with 2, whatever it raises."""
    done = read(output(tmp_path, sink=f"async def open(self): raise {error}"), "--this")
    assert done.returncode == 2
    assert error.partition("(")[0] in done.stderr


def test_a_drain_that_raises(tmp_path: Path) -> None:
    """What `drain` of a sink raises is logged; the stop goes on."""
    target = output(tmp_path, sink="def drain(self, deadline): raise OSError")
    with web_server() as served:
        environ = {"PYTHONPATH": str(target), "ON_CAPTURE_ERROR": "hold"}
        arguments = ["--ports", str(served), "--interface", "lo", "--this", "--stdout"]
        with Daemon(*arguments, environ=environ) as daemon:
            daemon.wait_for(lambda: daemon.logged("started") or daemon.logged("capture cannot be opened"))
            assert daemon.stop() in (0, 2)  # 2 without the privilege to capture
            assert daemon.log("an output raised")["sink"] == "this"


STUCK = {
    "never returns": "async def deliver(self, batch): await asyncio.Event().wait()",
    "swallows cancellation": (
        "async def deliver(self, batch):\n"
        "        while True:\n"
        "            try: await asyncio.sleep(3600)\n"
        "            except asyncio.CancelledError: pass"
    ),
}


@needs_capture
@pytest.mark.parametrize("kind", STUCK)
def test_a_delivery_that_does_not_end(kind: str, tmp_path: Path) -> None:
    """The stop ends at its deadline; the output's messages are counted, the others are delivered; exit code 2."""
    target = output(tmp_path, sink=STUCK[kind])
    environ = {"PYTHONPATH": str(target), "DRAIN_TIMEOUT_MS": "2000"}
    with (
        web_server() as served,
        Daemon("--ports", str(served), "--interface", "lo", "--this", "--stdout", environ=environ) as daemon,
    ):
        daemon.log("started")
        exchanges(served, 5)
        daemon.offered("this", 10)
        began = time.monotonic()
        daemon.send(signal.SIGTERM)
        assert daemon.end() == 2
        assert time.monotonic() - began < 15
        lanes = daemon.log("stopped")["lanes"]
        assert lanes["this"]["dropped_deadline"] == lanes["stdout"]["delivered"] == 10
        assert daemon.log("lane did not drain in time")["sink"] == "this"


@pytest.mark.parametrize("kind", ["time.sleep(3600)", "raise SystemExit(7)"])
def test_a_last_word_that_does_not_end(kind: str, tmp_path: Path) -> None:
    """`before_exit` has one second: what hangs or raises there changes neither the end nor its code."""
    began = time.monotonic()
    done = read(output(tmp_path, declaration=f"def before_exit(self, seconds): {kind}"), "--this")
    assert done.returncode == 0
    assert time.monotonic() - began < 30
    assert "Traceback" not in done.stderr
