"""Which outputs there are: the declarations of this package, and outputs that other packages add.

The output from outside is the one of docs/DELIVERY.md, installed by pip as a distribution of its own.
"""

from __future__ import annotations

import json
import re
import signal
import socketserver
import subprocess
import sys
import textwrap
import threading
import urllib.request
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from sniffer import config as config_module
from sniffer.config import SnifferConfig
from sniffer.errors import ValidationError
from sniffer.options import Option, Options, Switch, declared, switch
from sniffer.outputs import Output, registry
from sniffer.outputs.stdout.sink import StdoutSink
from sniffer.outputs.ui import Ui
from sniffer.pipeline import Sniffer, create_sniffer
from tests.daemon import DEMO, ROOT, Daemon, exchanges, free_port, needs_capture, web_server
from tests.instrumented import inherited

PAGE = (ROOT / "docs" / "DELIVERY.md").read_text()


def block(language: str, holding: str) -> str:
    """The block of the page in this language that holds this text."""
    (found,) = (each for each in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if holding in each)
    return str(found)


SAMPLE = block("python", "class Tcp(Output)")
BACKEND = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which pip has installed the page's output, as a distribution of its own."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    (source / "tcp_output.py").write_text(SAMPLE)
    project = '[project]\nname = "tcp-output"\nversion = "1.0"\n' + block("toml", registry.GROUP)
    (source / "pyproject.toml").write_text(f'{BACKEND}{project}[tool.setuptools]\npy-modules = ["tcp_output"]\n')
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--root-user-action=ignore", "--target", str(target), str(source)], check=True)
    return target


def broken_output(folder: Path, code: str) -> Path:
    """A folder with a module `broken_output` and the metadata that pip writes for it."""
    (folder / "broken_output.py").write_text(code)
    metadata = folder / "broken_output-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-output\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{registry.GROUP}]\nbroken = broken_output:This\n")
    return folder


class Receiver(socketserver.ThreadingTCPServer):
    """A TCP server that keeps the lines that it gets."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int = 0) -> None:
        self.lines: list[bytes] = []
        lines = self.lines

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                lines.extend(self.rfile)

        super().__init__(("127.0.0.1", port), Handler)
        self.address = f"127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """One that listens."""
    with Receiver() as server:
        yield server


def run(target: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The daemon, with what is installed in a folder, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "sniffer", *arguments],
        cwd=ROOT,
        env={**inherited("PATH", "HOME", "LANG"), "PYTHONPATH": str(target), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# The sample


def test_the_sample_is_short() -> None:
    """An output takes some thirty lines of code, imports aside."""
    lines = [line for line in SAMPLE.splitlines() if line.strip() and not re.match(r"(from|import) ", line)]
    assert len(lines) <= 30


@pytest.mark.slow
@pytest.mark.parametrize("given", ["flag", "variable"])
def test_an_output_from_outside_delivers(installed: Path, receiver: Receiver, given: str) -> None:
    """Its option is a flag and a variable; it gets what standard output gets; the ledger has its lane, and balances."""
    arguments = ["--ports", "8080", "--read", str(DEMO), "--stdout"]
    if given == "flag":
        done = run(installed, *arguments, "--tcp-address", receiver.address)
    else:
        done = run(installed, *arguments, TCP_ADDRESS=receiver.address)
    assert done.returncode == 0, done.stderr
    assert b"".join(receiver.lines).decode() == done.stdout
    logs = [json.loads(line) for line in done.stderr.splitlines()]
    (stopped,) = (log for log in logs if log["message"] == "stopped")
    count = len(done.stdout.splitlines())
    assert count > 10
    assert stopped["lanes"]["tcp"]["offered"] == stopped["lanes"]["tcp"]["delivered"] == count
    assert "the ledger does not balance" not in done.stderr
    (started,) = (log for log in logs if log["message"] == "started")
    assert started["outputs"] == ["stdout", "tcp"]


def test_its_option_is_a_keyword_of_the_library(installed: Path, receiver: Receiver) -> None:
    """A program gives it to `create_sniffer`; no other output need be named."""
    code = f"""
        import asyncio
        from sniffer import create_sniffer
        async def main():
            async with create_sniffer(ports=[8080], read={str(DEMO)!r}, tcp_address={receiver.address!r}) as sniffer:
                assert sniffer.config.has_output
                await sniffer.wait()
            assert sniffer.ledger.check() == []
            print(sniffer.ledger.snapshot()["lanes"]["tcp"]["delivered"])
        asyncio.run(main())
    """
    environ = {**inherited("PATH", "HOME", "LANG"), "PYTHONPATH": str(installed)}
    program = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(program, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(receiver.lines) > 10


@needs_capture
def test_it_is_drained_at_the_stop_and_shown_in_the_metrics(installed: Path) -> None:
    """What its server did not take before the stop is tried until the deadline; /metrics has its lane."""
    port, metrics = free_port(), free_port()
    arguments = ["--interface", "lo", "--metrics-port", str(metrics), "--tcp-address", f"127.0.0.1:{port}"]
    environ = {"PYTHONPATH": str(installed), "DRAIN_TIMEOUT_MS": "20000"}
    with web_server() as served, Daemon("--ports", str(served), *arguments, environ=environ) as daemon:
        daemon.log("started")
        exchanges(served, 5)
        daemon.offered("tcp", 10)
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        assert 'tcp_sniffer_lane_offered_total{lane="tcp"} 10.0' in text
        assert 'tcp_sniffer_lane_delivered_total{lane="tcp"} 0.0' in text
        daemon.send(signal.SIGTERM)
        daemon.log("stopping")
        with Receiver(port) as receiver:
            assert daemon.end() == 0
            lane = daemon.log("stopped")["lanes"]["tcp"]
            assert lane["offered"] == lane["delivered"] == len(receiver.lines) == 10
    assert not daemon.has_logged("the ledger does not balance", 1)


def test_it_is_in_the_help_and_in_suggestions(installed: Path) -> None:
    """Its flag stands in the help, with its variable, and is suggested for one that is nearly it."""
    shown = run(installed, "--help").stdout
    assert re.search(r"--tcp-address HOST:PORT\s+send JSON lines to this TCP server\s+\[TCP_ADDRESS\]", shown)
    assert "| --tcp-address HOST:PORT] [options]" in shown
    done = run(installed, "--ports", "80", "--tcp-adress", "h:1", "--stdout")
    assert done.returncode == 1
    assert "--tcp-adress is not an option; did you mean --tcp-address?" in done.stderr
    assert "--tcp-address sends them to a TCP server" in run(installed, "--ports", "80").stderr


def test_the_injector_takes_its_variable(installed: Path) -> None:
    """The variable may be set in injected containers, since the sniffer there reads it."""
    code = (
        "from sniffer.injector.options import InjectorOptions as Options;"
        "print(Options(sniffer_env=[{'name': 'TCP_ADDRESS', 'value': 'h:1'}]).sniffer_env[0].value)"
    )
    for folder, expected in ((installed, 0), (Path("/"), 1)):
        environ = {**inherited("PATH", "HOME", "LANG"), "PYTHONPATH": str(folder)}
        program = [sys.executable, "-c", code]
        done = subprocess.run(program, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == expected, done.stderr
        assert (done.stdout == "h:1\n") == (expected == 0)


def test_without_outputs_from_outside_none_are_asked_for() -> None:
    """Only where the group's name stands in some metadata is `importlib.metadata` asked."""
    code = "import sys; from sniffer.config import SnifferConfig; SnifferConfig(ports=[1]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "sniffer.outputs.registry" in done.stdout.split()
    assert "importlib.metadata" not in done.stdout.split()


# What cannot be used

DECLARED = """
from sniffer.options import Options, switch
from sniffer.outputs import OUTPUT, Output

class ThisOptions(Options):
    {option} = switch(False, group=OUTPUT, help="x"{rest})

class This(Output):
    name = "{name}"
    options = ThisOptions
"""


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("class This: pass", "it is no sniffer.outputs.Output"),
        ("from sniffer.outputs import Output\nclass This(Output): pass", "it has no name"),
        ("", "AttributeError: module 'broken_output' has no attribute 'This'"),
        (DECLARED.format(option="b", name="stdout", rest=""), "there is an output stdout already"),
        (DECLARED.format(option="har", name="b", rest=""), "there is an option har already"),
        (DECLARED.format(option="warnings", name="b", rest=""), "there is an option warnings already"),
        (DECLARED.format(option="b", name="b", rest=', variable="PORTS"'), "there is an option PORTS already"),
        (DECLARED.format(option="version", name="b", rest=""), "there is an option --version already"),
    ],
)
def test_a_broken_output_is_one_error(tmp_path: Path, code: str, reason: str) -> None:
    """What cannot be imported, is no output or takes a name of another ends the start with 1 and one problem."""
    target = broken_output(tmp_path, code)
    done = run(target, "--ports", "80", "--of-the-broken-one", "x", "--stdout")
    assert done.returncode == 1
    said, _, rest = done.stderr.partition("\n")
    assert said == "tcp-sniffer: the configuration has a problem:"
    problem = f"  output broken (broken_output:This of broken-output) cannot be used: {reason}"
    assert rest.startswith(problem + "\n")


def test_a_broken_output_leaves_the_help(tmp_path: Path) -> None:
    """`--help` and `--version` are answered all the same."""
    target = broken_output(tmp_path, "import nothing_of_this_name")
    assert run(target, "--help").returncode == run(target, "--version").returncode == 0


def test_a_broken_output_is_waited_with(tmp_path: Path) -> None:
    """With `ON_CAPTURE_ERROR=hold` the daemon says what is wrong and waits, as with any wrong configuration."""
    target = broken_output(tmp_path, "import nothing_of_this_name")
    environ = {"PYTHONPATH": str(target), "ON_CAPTURE_ERROR": "hold"}
    with Daemon("--ports", "80", "--stdout", environ=environ) as daemon:
        daemon.log("nothing is captured; waiting to be stopped")
        assert "output broken" in daemon.log("configuration error")["problems"][0]["message"]
        assert daemon.stop() == 1


@pytest.mark.parametrize(
    ("switch_of_it", "changes", "problem"),
    [
        ("own", {"flag": "--own"}, "there is an option --own already"),
        ("own", {"variable": "OWN"}, "there is an option OWN already"),
        ("own", {"flag": "other"}, "the flag other does not begin with --"),
        ("missing", {}, "its switch missing is none of its options"),
    ],
)
def test_a_declaration_that_contradicts_itself(switch_of_it: str, changes: dict[str, str], problem: str) -> None:
    """Options of one output that collide, a flag that is none, or an unknown switch are one problem that is named."""

    class Own(Options):
        own: Switch = switch(False, group="Output", help="x")
        other: Switch = switch(False, group="Output", help="x", **changes)

    class Odd(Output):
        name = "odd"
        options = Own
        switch = switch_of_it

    class Point:
        name, value, dist = "odd", "odd:Odd", None

        def load(self) -> type[Output]:
            return Odd

    found = registry.load([Point()], SnifferConfig)
    assert found.outputs == ()
    assert [each.message for each in found.problems] == [f"output odd (odd:Odd) cannot be used: {problem}"]


def test_an_output_that_fails_before_the_exit(tmp_path: Path) -> None:
    """What `before_exit` of an output raises, wanted or not, changes nothing of the exit code."""
    code = SAMPLE + "\n\nclass This(Tcp):\n    def before_exit(self, seconds):\n        raise OSError\n"
    done = run(broken_output(tmp_path, code), "--read", str(DEMO), "--ports", "8080", "--stdout")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


def test_two_outputs_cannot_share_an_option() -> None:
    """The second of two outputs from outside that declare the same option is a problem; the first is used."""
    here = "tests.outputs.test_registry"
    points = [EntryPoint(name, f"{here}:{name}", registry.GROUP) for name in ("First", "Second")]
    found = registry.load(points, SnifferConfig)
    assert [output.name for output in found.outputs] == ["first"]
    assert [problem.field for problem in found.problems] == ["Second"]
    assert "there is an option shared_by_both already" in found.problems[0].message


class _Options(Options):
    shared_by_both: Switch = switch(False, group="Output", help="x")


class First(Output):
    name = "first"
    options = _Options


class Second(Output):
    name = "second"
    options = _Options


def test_the_library_refuses_a_broken_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration that is made while an installed output cannot be used raises, and names it."""
    broken = EntryPoint("broken", "no_module:This", registry.GROUP)
    monkeypatch.setattr(config_module, "outside", lambda: registry.load([broken], SnifferConfig))
    with pytest.raises(ValidationError, match="output broken"):
        SnifferConfig(ports=[1])
    with pytest.raises(ValidationError, match="output broken"):
        SnifferConfig.from_env({"PORTS": "1"})


# The declarations of this package


def test_names_are_unique() -> None:
    """No two outputs share a name; no two options a keyword, a variable or a flag."""
    names = [output.name for output in registry.BUILT_IN]
    assert len(set(names)) == len(names)
    every: list[Option[object, object]] = [*declared(SnifferConfig).values()]
    for place in ("keyword", "variable", "flag"):
        places = [getattr(option, place) for option in every if getattr(option, place)]
        assert len(set(places)) == len(places)


def test_each_output_declares_its_switch() -> None:
    """The option that asks for an output is one of its own."""
    for output in registry.BUILT_IN:
        assert not output.switch or output.switch in output.options.options()
        assert output.switch or output.fallback


def test_folders_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    """A file, a folder that is not there and a distribution without entry points are no error."""
    (tmp_path / "file").write_text("")
    (tmp_path / "a.dist-info").mkdir()
    other = tmp_path / "b.dist-info"
    other.mkdir()
    (other / "entry_points.txt").write_text("[console_scripts]\nx = y:z\n")
    path = [str(tmp_path), str(tmp_path / "file"), str(tmp_path / "none")]
    assert list(registry.mentions(path)) == []
    (other / "entry_points.txt").write_text(f"[{registry.GROUP}]\nx = y:z\n")
    assert list(registry.mentions(path)) == [str(other / "entry_points.txt")]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"output_stdout": True}, False),
        ({"output_stdout": True, "har": "x.har"}, False),
        ({"output_stdout": True, "output_url": "http://h/"}, True),
    ],
)
def test_json_is_kept_only_where_two_outputs_render_it(options: dict[str, Any], kept: bool) -> None:
    """Standard output keeps the JSON of a message where another output asks for it, and nowhere else."""
    first, *_ = create_sniffer(ports=[8080], interface="x", **options)._make_lanes()
    assert isinstance(first.sink, StdoutSink)
    assert first.sink._shared is kept


def test_the_library_serves_no_page() -> None:
    """An output of the daemon alone has no lane in the library, and costs it no memory of the lanes."""
    assert create_sniffer(ports=[8080], interface="x", ui_address="0")._make_lanes() == []


def test_a_companion_that_keeps_messages_takes_its_part_of_the_lanes_memory() -> None:
    """What it keeps is half of the memory of the lanes."""
    config = SnifferConfig(ports=[80], ui_address="0", interface="x", memory_budget=64 << 20)
    page = Ui().companion(config)
    assert page.keeps
    assert Sniffer(config)._lane_bytes == 16 << 20
    assert Sniffer(config, companions=[page])._lane_bytes == 8 << 20
