"""sniffer.cli in this process: what is configured, reported and returned. test_shutdown.py runs the real entry."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from sniffer import __main__ as entry
from sniffer import cli, pipeline, presence, signals
from sniffer.capture import privileges
from sniffer.config import SnifferConfig
from sniffer.errors import ValidationError
from sniffer.outputs.har import file
from tests.daemon import DEMO

READ = ("--ports", "8080", "--read", str(DEMO), "--stdout")


def configure(*arguments: str, **environ: str) -> SnifferConfig:
    """The daemon's configuration."""
    return cli.configure(arguments, environ)


def problems(*arguments: str, **environ: str) -> dict[str, str]:
    """The problems of a configuration, by field."""
    with pytest.raises(ValidationError) as caught:
        configure(*arguments, **environ)
    return {problem.field: problem.message for problem in caught.value.problems}


# Configuration


def test_flags_beat_variables() -> None:
    """A flag beats its variable, a variable beats the default."""
    config = configure("--ports", "80", "--stdout", PORTS="81", MAX_BODY_SIZE="7")
    assert (config.ports, config.max_body_size, config.sample_rate) == ((80,), 7, 1.0)


def test_empty_flag_is_unset() -> None:
    """An empty flag leaves what the variable says."""
    assert configure("--ports", "", "--stdout", PORTS="81").ports == (81,)


@pytest.mark.parametrize(
    ("arguments", "value"), [(("--stdout",), True), (("--stdout=yes",), True), (("--stdout", "OFF"), False)]
)
def test_switches(arguments: tuple[str, ...], value: bool) -> None:
    """A switch's flag stands alone or with a word."""
    assert configure(*arguments, "--ports", "80", OUTPUT_URL="https://h/").output_stdout is value


@pytest.mark.parametrize("output", ["OUTPUT_STDOUT", "METRICS_PORT"])
def test_no_output(output: str) -> None:
    """Without an output the daemon's configuration is wrong, and names --stdout; metrics are no output."""
    value = {"OUTPUT_STDOUT": "no", "METRICS_PORT": "9100"}[output]
    assert "--stdout" in problems("--ports", "80", **{output: value})["output_stdout"]


def test_no_output_is_said_beside_other_problems() -> None:
    """It is one of the problems; an output that is wrong itself is not reported as missing."""
    assert problems().keys() == {"ports", "output_stdout"}
    assert problems("--output-url", "nowhere").keys() == {"ports", "output_url"}
    assert problems("--stdout=maybe").keys() == {"ports", "output_stdout"}


def test_unknown_flags() -> None:
    """Unknown flags and words are problems like others, with the flag that may have been meant; none is abbreviated."""
    found = problems("--prots", "80", "--port=80", "word", "--stdout")
    assert found["--prots"] == "--prots is not an option; did you mean --ports?"
    assert found["--port"].startswith("--port is not an option")
    assert found["word"] == "word is not an option"
    assert "ports" in found


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("--port", "--ports"),
        ("--interfac", "--interface"),
        ("--iface", "--interface"),
        ("--max_body_size", "--max-body-size"),
        ("--pcap", "--read"),
        ("--json", "--stdout"),
        ("--count", "--stop-after"),
        ("--url", "--output-url"),
        *((flag, "") for flag in ("--filter", "--write", "--host", "--quiet", "--body", "--har-file")),
    ],
)
def test_suggestions(flag: str, meant: str) -> None:
    """A flag that is mistyped, or that other programs have, is told what it is called here; others get no hint."""
    hint = f"; did you mean {meant}?" if meant else ""
    assert problems(flag, "--ports", "80", "--stdout")[flag] == f"{flag} is not an option{hint}"


def test_files_to_read() -> None:
    """--read may stand several times, with several files each; alone it lacks its value."""
    config = configure("--read", "a", "b", "--stdout", "--ports", "80", "--read=c,d", "--read", "-")
    assert config.read == ("a", "b", "c,d", "-")
    assert problems("--stdout", "--ports", "80", "--read")["read"] == "read needs a value behind its flag"


def test_short_flags() -> None:
    """The flags that users of tcpdump and tshark type, with a blank before the value or without."""
    config = configure("-p", "80,81", "-i", "eth0", "-c", "5", "--stdout")
    assert (config.ports, config.interface, config.stop_after) == ((80, 81), "eth0", 5)
    config = configure("-p80", "-r", "a.pcap", "-r", "b", "--stdout")
    assert (config.ports, config.read) == ((80,), ("a.pcap", "b"))
    assert problems("-p", "80", "-c", "0", "--stdout").keys() == {"stop_after"}
    assert problems("-p", "--stdout").keys() == {"ports"}


def test_files_without_their_flag(tmp_path: Path) -> None:
    """A word that looks like a capture, or is a file, is read, also behind a flag that may stand alone."""
    plain = tmp_path / "plain"
    plain.touch()
    for words in (["x.pcap"], ["a.pcapng.gz", "b.CAP"], ["x.pcap0", "-"], [str(plain)], ["/dev/fd/63", "c.pcap.zst"]):
        for arguments in (["-p", "80", "--stdout", *words], [*words, "--stdout", "-p", "80"], ["-p80", *words, "--ui"]):
            assert configure(*arguments).read == tuple(words)
    assert configure("--read", "a", "b", "--stdout", "c.pcap", "-p", "80").read == ("a", "b", "c.pcap")
    assert configure("--stdout", "off", "--ui", "c.pcap", "-p", "80").output_stdout is False
    assert problems("-p", "80", "--stdout", "nowhere").keys() == {"output_stdout"}
    assert problems("-p", "80", "nowhere", str(tmp_path), "--stdout").keys() == {"nowhere", str(tmp_path)}


@pytest.mark.parametrize(
    "options", [("--stdout",), ("--har", "x.har"), ("--output-url", "https://h/"), ("--log-level", "info")]
)
def test_at_a_terminal(options: tuple[str, ...]) -> None:
    """At a terminal no output need be named; then, and only then, the log begins at warnings unless it is told."""
    config = cli.configure(["--ports", "80", *options], {}, at_terminal=True)
    assert config.log_level == "info"
    view = cli.configure(["--ports", "80"], {}, at_terminal=True)
    assert (view.has_output, view.log_level) == (False, "warning")
    with pytest.raises(ValidationError, match="--stdout"):
        cli.configure(["--ports", "80"], {"NAMESPACE": "n"}, at_terminal=True)
    for environ, fields in (({}, ["ports"]), ({"TCP_SNIFFER_PRODUCTION": "on"}, ["ports", "output_stdout"])):
        with pytest.raises(ValidationError) as raised:  # what is missing is the port, not an output
            cli.configure([], environ, at_terminal=True)
        assert [problem.field for problem in raised.value.problems] == fields


def test_flag_without_its_value() -> None:
    """A flag that lacks its value is a problem of its option."""
    assert problems("--stdout", "--ports")["ports"] == "ports needs a value behind its flag"


def test_one_problem_for_each_option() -> None:
    """An option that has a problem is said once: neither to be missing as well, nor to break a rule."""
    with pytest.raises(ValidationError) as raised:
        configure("--ports", "--stdout", "--output-url", OUTPUT_URL="http://h/", TCP_SNIFFER_PRODUCTION="on")
    assert [problem.field for problem in raised.value.problems] == ["ports", "output_url"]


@pytest.mark.parametrize("flag", ["--help", "-h", "--version", "-V"])
def test_help_and_version(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Both go to standard output, whatever else is given, and end with 0."""
    with pytest.raises(SystemExit) as ended:
        configure("--nonsense", flag)
    assert ended.value.code == 0
    assert "tcp-sniffer" in capsys.readouterr().out


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    """Each flag and each variable is in the help, in its group."""
    with pytest.raises(SystemExit):
        configure("--help", OUTPUT_URL_AUTH_TOKEN="n0t-to-be-seen")
    text = capsys.readouterr().out
    for option in SnifferConfig.options().values():
        assert (option.flag or "") in text
        assert (option.variable or "") in text
    for group in ("Capture:", "Output:", "Record:", "Limits:", "Daemon:", "exit codes:"):
        assert group in text
    assert "n0t-to-be-seen" not in text


# Runs


class Outputs:
    """What has been written to the standard streams."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self._out = self._err = ""

    def _read(self) -> None:
        out, err = self._capture.readouterr()
        self._out += out
        self._err += err

    @property
    def out(self) -> str:
        """Standard output so far."""
        self._read()
        return self._out

    @property
    def err(self) -> str:
        """Standard error so far."""
        self._read()
        return self._err

    @property
    def logged(self) -> list[str]:
        """The messages of the log."""
        return [json.loads(line)["message"] for line in self.err.splitlines() if line.startswith("{")]


@pytest.fixture
def outputs(own_logging: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Outputs]:
    """Lets the daemon run here, and gives back signals, hooks and the switch interval; gives what it writes.

    The timer of a start goes first: its signal would end the process of the tests.
    """
    numbers = (*signals.STOPS, *signals.IGNORED)
    handlers = {number: signal.getsignal(number) for number in numbers}
    interval, hook = sys.getswitchinterval(), threading.excepthook
    monkeypatch.setattr(os, "environ", {"PATH": os.environ["PATH"]})
    yield Outputs(capfd)
    presence.cancel()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    sys.setswitchinterval(interval)
    threading.excepthook = hook


def test_run(outputs: Outputs) -> None:
    """A file is read to its end: messages on standard output, the log on standard error, 0."""
    assert cli.run(READ) == 0
    assert len(outputs.out.splitlines()) == 14
    assert outputs.logged == ["started", "Capture stats", "stopped"]
    assert sys.getswitchinterval() == pytest.approx(0.001)


def test_run_with_wrong_configuration(outputs: Outputs) -> None:
    """1, a readable error that names flag and variable, and a structured line."""
    assert cli.run(["--ports", "0", "--stdout"]) == 1
    text = outputs.err
    assert "the configuration has a problem:" in text
    assert "[--ports or PORTS]" in text
    assert outputs.logged == ["configuration error"]


def test_run_without_capture(outputs: Outputs) -> None:
    """2, and the error as the only line."""
    assert cli.run(["--ports", "80", "--read", "/nowhere", "--stdout"]) == 2
    (line,) = outputs.logged
    assert "/nowhere" in line


def test_run_that_fails(outputs: Outputs, monkeypatch: pytest.MonkeyPatch) -> None:
    """2 for an exception that nobody caught, with its traceback in the log."""

    def boom(_: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(pipeline.Sniffer, "__init__", boom)
    assert cli.run(READ) == 2
    assert outputs.logged[-1] == "uncaught exception"


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("sniffer_core.core", "the compiled core cannot be loaded"),
        ("sniffer.pipeline", "cannot start: an import failed"),
    ],
)
def test_run_without_a_module(module: str, says: str, outputs: Outputs, monkeypatch: pytest.MonkeyPatch) -> None:
    """2 and one clear line when an import fails."""
    package, _, name = module.rpartition(".")
    import_module(module)  # whichever test is the first
    monkeypatch.delattr(sys.modules[package], name)
    monkeypatch.setitem(sys.modules, module, None)
    assert cli.run(READ) == 2
    (line,) = outputs.logged
    assert line.startswith(says)


def test_run_with_metrics(outputs: Outputs) -> None:
    """With METRICS_PORT the endpoint is there while it runs."""
    from tests.daemon import free_port

    assert cli.run([*READ, "--metrics-port", str(free_port())]) == 0


@pytest.mark.parametrize("times", [1, 2])
def test_signals(times: int, outputs: Outputs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first signal stops with 0, a second one ends the drain with 2; SIGUSR1 logs the ledger."""
    start = pipeline.Sniffer.start

    async def start_and_signal(sniffer: pipeline.Sniffer) -> None:
        await start(sniffer)
        os.kill(os.getpid(), signal.SIGUSR1)
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(pipeline.Sniffer, "start", start_and_signal)
    read_end, write_end = os.pipe()  # a file that never ends
    try:
        with DEMO.open("rb") as demo:
            os.write(write_end, demo.read())
        assert cli.run(["--ports", "8080", "--read", f"/dev/fd/{read_end}", "--stdout"]) == (0 if times == 1 else 2)
    finally:
        os.close(read_end)
        os.close(write_end)
    assert {"ledger", "stopping", "stopped"} <= set(outputs.logged)


@pytest.mark.parametrize("times", [1, 2])
def test_signals_while_the_endpoint_opens(times: int, outputs: Outputs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop before the capture is begun ends with 0, without one: also where something else is opened first."""
    from sniffer import metrics
    from tests.daemon import free_port

    opens = metrics.Endpoint.open

    async def open_and_signal(endpoint: metrics.Endpoint) -> None:
        await opens(endpoint)
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.01)

    monkeypatch.setattr(metrics.Endpoint, "open", open_and_signal)
    assert cli.run([*READ, "--metrics-port", str(free_port())]) == (0 if times == 1 else 2)
    assert outputs.out == ""
    assert outputs.logged == []


def test_capabilities_that_stay_are_told(outputs: Outputs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system lets no capability go (a filter without capset), that is said, and capturing goes on."""
    monkeypatch.setattr(privileges, "confine", lambda **_: False)
    assert cli.run(READ) == 0
    assert outputs.logged[0] == "capabilities cannot be given up: the process keeps those that it has"
    assert outputs.logged[-1] == "stopped"


def test_signals_after_the_end_change_nothing(outputs: Outputs) -> None:
    """A signal that comes when all is done, and the loop is closed, raises nothing: the exit code is known."""
    assert cli.run(READ) == 0
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
        os.kill(os.getpid(), number)
    assert outputs.logged == ["started", "Capture stats", "stopped"]


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The exit codes with which the process would have ended; the lock that it takes with it is one of its own."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(file, "WRITING", threading.Lock())
    return codes


def test_third_signal_leaves(left: list[int]) -> None:
    """A third signal ends the process on the spot."""

    async def third() -> None:
        daemon = cli._Daemon(SnifferConfig(ports=[80]))
        daemon._loop, daemon._sniffer = asyncio.get_running_loop(), pipeline.Sniffer(SnifferConfig(ports=[80]))
        daemon._stops = 2
        daemon._on_stop(signal.SIGTERM, None)

    asyncio.run(third())
    assert left == [2]


def test_exception_in_a_thread_is_logged(outputs: Outputs) -> None:
    """A thread that dies says so in the log."""
    assert cli.run(READ) == 0

    def boom() -> None:
        raise RuntimeError("planted")

    thread = threading.Thread(target=boom)
    thread.start()
    thread.join()
    assert outputs.logged[-1] == "uncaught exception in a thread"


# The ends of the process


def test_leave(left: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends with its code even where standard output is closed or was never there."""
    monkeypatch.setattr(sys, "stdout", None)
    leave: Callable[[int], object] = cli.leave
    leave(2)
    assert left == [2]


def test_closed_standard_streams_are_filled() -> None:
    """A closed standard stream gets a pipe without another end: no file takes its place, and writing fails."""
    kept = os.dup(1)
    try:
        os.close(1)
        entry._open_standard_streams()
        with pytest.raises(BrokenPipeError):
            os.write(1, b"x")
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def test_main(outputs: Outputs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry takes the signals first, begins to wait for the start, and leaves with the code of the run."""
    left: list[int] = []
    monkeypatch.setattr(cli, "leave", left.append)
    monkeypatch.setattr(cli, "run", len)
    monkeypatch.setattr(sys, "argv", ["tcp-sniffer", "a", "b"])
    entry.main()
    waits, _ = signal.getitimer(signal.ITIMER_REAL)
    presence.cancel()  # nothing has started here, and nobody asks
    assert 0 < waits <= presence.LATEST_S
    assert left == [2]
    assert {signal.getsignal(number) for number in signals.STOPS} == {entry._leave}
    ignored = set(signals.IGNORED) - {signal.SIGALRM}  # the clock of `presence`
    assert {signal.getsignal(number) for number in ignored} == {signal.SIG_IGN}
    monkeypatch.setattr(os, "_exit", left.append)
    entry._leave(signal.SIGTERM, None)
    assert left == [2, 0]


def test_main_without_its_imports(outputs: Outputs, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import that fails before anything is set up is 2 and one line."""
    import sniffer

    monkeypatch.delattr(sniffer, "cli")
    monkeypatch.setitem(sys.modules, "sniffer.cli", None)
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == 2
    assert outputs.err.startswith("tcp-sniffer: cannot start: ")
