"""The real entrypoint, live on loopback: how it starts, what it delivers when it is stopped, and its exit codes."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sniffer import signals
from sniffer.config import SnifferConfig
from tests.captures import connection, write
from tests.daemon import DEMO, ROOT, SECONDS, Daemon, exchanges, free_port, needs_capture, silent_server, web_server
from tests.waiting import wait_until

LIVE = ("--interface", "lo", "--stdout")
STOPS = (signal.SIGTERM, signal.SIGINT)
TOKEN = "t0ken-n0t-t0-be-seen"


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a server on loopback."""
    with web_server() as number:
        yield number


def assert_balanced(daemon: Daemon, *, lane: str = "stdout") -> dict[str, int]:
    """The last log line shows a ledger that balances; its lane's counters."""
    last = daemon.logs[-1]
    assert last["message"] == "stopped"
    assert not daemon.logged("the ledger does not balance"), daemon.stderr
    counters: dict[str, int] = last["lanes"][lane]
    ended = sum(count for name, count in counters.items() if name.startswith("dropped"))
    assert counters["offered"] == counters["delivered"] + counters["rejected"] + ended
    assert counters["waiting"] == 0
    return counters


# A stop loses nothing


@needs_capture
@pytest.mark.live
@pytest.mark.parametrize("number", STOPS)
def test_every_message_is_out(port: int, number: signal.Signals) -> None:
    """N exchanges, and a signal at once: 2 N whole messages, exit code 0, each stage logged, the ledger balances."""
    with Daemon("--ports", str(port), *LIVE) as daemon:
        started = daemon.log("started")
        exchanges(port, 200)
        assert daemon.stop(number) == 0
        assert (started["interface"], started["loopback"], started["ports"]) == ("lo", True, [port])
        assert sorted(m["path"] for m in daemon.messages if m["direction"] == "request") == sorted(
            m["path"] for m in daemon.messages if m["direction"] == "response"
        )
        assert len({message["path"] for message in daemon.messages}) == 200
        assert len(daemon.messages) == 400
        assert not any("incomplete" in message for message in daemon.messages)
        order = [line["message"] for line in daemon.logs]
        assert order.index("stopping") < order.index("Capture stats") < order.index("stopped")
        statistics = daemon.log("Capture stats")
        assert statistics["packetsDropped"] == statistics["packetsIfDropped"] == 0
        assert statistics["packetsReceived"] > 0
        assert assert_balanced(daemon)["delivered"] == 400
        assert not any("schema" in line for line in daemon.logs)
        assert not any("level" in message for message in daemon.messages)


@needs_capture
@pytest.mark.live
def test_stop_while_idle(port: int) -> None:
    """An idle capture stops with 0 and nothing on standard output."""
    with Daemon("--ports", str(port), *LIVE) as daemon:
        daemon.log("started")
        assert daemon.stop() == 0
        assert daemon.messages == []
        assert_balanced(daemon)


@needs_capture
@pytest.mark.live
def test_stop_under_load(port: int) -> None:
    """A stop in the middle of traffic delivers what was captured, and ends with 0."""
    over = threading.Event()

    def load() -> None:
        while not over.is_set():
            exchanges(port, 20)

    clients = [threading.Thread(target=load) for _ in range(2)]
    with Daemon("--ports", str(port), *LIVE) as daemon:
        daemon.log("started")
        for client in clients:
            client.start()
        try:
            daemon.wait_for(lambda: len(daemon.messages) > 500)
            assert daemon.stop() == 0
        finally:
            over.set()
            for client in clients:
                client.join()
        assert assert_balanced(daemon)["delivered"] == len(daemon.messages)


@needs_capture
@pytest.mark.live
def test_stop_delay(port: int) -> None:
    """With STOP_DELAY_MS the capture goes on for so long after the signal."""
    with Daemon("--ports", str(port), *LIVE, environ={"STOP_DELAY_MS": "1500"}) as daemon:
        daemon.log("started")
        daemon.send(signal.SIGTERM)
        daemon.log("stopping")
        exchanges(port, 5)
        assert daemon.end() == 0
        assert len(daemon.messages) == 10


# A stop while starting


def has_handler(daemon: Daemon) -> bool:
    """Whether the process has a handler for SIGTERM."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@needs_capture
@pytest.mark.live
@pytest.mark.parametrize("delay_ms", [0, 2, 5, 10, 20, 40, 60, 80, 100, 130, 160, 200, 250, 300, 400])
@pytest.mark.parametrize("number", STOPS)
def test_stop_while_starting(delay_ms: int, number: signal.Signals) -> None:
    """From the moment that the handler is there, a signal at any moment of the start ends with 0."""
    with silent_server() as free:
        pass
    more = ("--metrics-port", str(free), "--output-url", "http://127.0.0.1:9/") if delay_ms % 20 else ()
    with Daemon("--ports", "9", *LIVE, *more) as daemon:
        wait_until(lambda: has_handler(daemon), "a handler for SIGTERM", seconds=SECONDS, pause=0)
        time.sleep(delay_ms / 1000)  # a moment of the start, not a wait for something
        assert daemon.stop(number) == 0


def test_little_comes_before_the_handlers() -> None:
    """Nothing but what the handlers need is imported before them: until then a signal has Python's own effect."""
    code = "import sys; before = {*sys.modules}; import sniffer.signals; print(*sorted({*sys.modules} - before))"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = done.stdout.split()
    assert {"sniffer", "sniffer.signals", "signal"} <= {*imported}
    assert {"typing", "re", "contextlib", "logging", "asyncio"}.isdisjoint(imported)


# Outputs that do not follow


@needs_capture
@pytest.mark.live
def test_second_signal_ends_the_drain(port: int) -> None:
    """A second signal ends a drain at once, with 2; what was not delivered is named and counted."""
    with silent_server() as collector:
        url = f"http://127.0.0.1:{collector}/"
        with Daemon("--ports", str(port), "--interface", "lo", "--output-url", url) as daemon:
            daemon.log("started")
            exchanges(port, 50)
            (only,) = daemon.ledger()["lanes"]
            daemon.offered(only, 100)
            daemon.send(signal.SIGTERM)
            daemon.log("stopping")
            begin = time.monotonic()
            assert daemon.stop() == 2
            assert time.monotonic() - begin < 15
            lane = daemon.logs[-1]["lanes"]
            counters = assert_balanced(daemon, lane=next(iter(lane)))
            assert counters["dropped_deadline"] == counters["offered"] == 100
            assert daemon.logs[-1]["undelivered"] == counters["dropped_deadline"]


@needs_capture
@pytest.mark.live
def test_collector_that_hangs_is_left_at_the_deadline(port: int) -> None:
    """The drain ends at its deadline with 2, and the lane is named with its counts."""
    with silent_server() as collector:
        url = f"http://127.0.0.1:{collector}/"
        environ = {"DRAIN_TIMEOUT_MS": "700"}
        with Daemon("--ports", str(port), "--interface", "lo", "--output-url", url, environ=environ) as daemon:
            daemon.log("started")
            exchanges(port, 20)
            begin = time.monotonic()
            assert daemon.stop() == 2
            assert 0.6 < time.monotonic() - begin < 15
            lane = next(iter(daemon.logs[-1]["lanes"]))
            assert assert_balanced(daemon, lane=lane)["dropped_deadline"] > 0


@needs_capture
@pytest.mark.live
def test_callback_that_hangs_is_left_at_the_deadline(port: int) -> None:
    """In a program of one's own, a callback that never returns is left at the deadline, its lane named, with 2."""
    hangs = "import sys, time; from sniffer.cli import leave, run; "
    program = ("-c", hangs + "leave(run(sys.argv[1:], on_http_message=lambda message: time.sleep(3600)))")
    environ = {"DRAIN_TIMEOUT_MS": "700"}
    with Daemon("--ports", str(port), "--interface", "lo", environ=environ, program=program) as daemon:
        daemon.log("started")
        exchanges(port, 20)
        begin = time.monotonic()
        assert daemon.stop() == 2
        assert 0.6 < time.monotonic() - begin < 15
        counters = assert_balanced(daemon, lane=next(iter(daemon.logs[-1]["lanes"])))
        assert counters["dropped_deadline"] == counters["offered"] == 40


@needs_capture
@pytest.mark.live
def test_collector_down(port: int) -> None:
    """With nobody at the URL the drain tries until its deadline, counts what it drops, and ends with 2."""
    with silent_server() as gone:
        pass
    arguments = ("--interface", "lo", "--output-url", f"http://127.0.0.1:{gone}/", "--drain-timeout-ms", "2000")
    with Daemon("--ports", str(port), *arguments) as daemon:
        daemon.log("started")
        exchanges(port, 20)
        begin = time.monotonic()
        assert daemon.stop() == 2
        assert time.monotonic() - begin < 15
        counters = assert_balanced(daemon, lane=next(iter(daemon.logs[-1]["lanes"])))
        assert counters["delivered"] == 0
        assert counters["offered"] == 40


@needs_capture
@pytest.mark.live
def test_stdout_that_nobody_reads(port: int) -> None:
    """A stuck standard output is left behind at the deadline: the last log line comes, and the exit code is 2."""
    environ = {"DRAIN_TIMEOUT_MS": "500"}
    with Daemon("--ports", str(port), *LIVE, environ=environ, read_stdout=False) as daemon:
        daemon.log("started")
        exchanges(port, 300)
        assert daemon.stop() == 2
        counters = assert_balanced(daemon)
        assert counters["dropped_deadline"] > 0
        assert daemon.logs[-1]["undelivered"] == counters["dropped_deadline"]


def is_seen(daemon: Daemon, port: int) -> bool:
    """Whether the daemon captures. Its log cannot say so here: an exchange is made, and its messages are looked for."""
    exchanges(port, 1)
    return bool(daemon.messages)


@needs_capture
@pytest.mark.live
def test_a_log_that_nobody_reads(port: int) -> None:
    """A stderr that is full from the start costs no message and holds up no stop."""
    reader, writer = os.pipe()
    size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, b"\n" * size)
    try:
        with Daemon("--ports", str(port), *LIVE, "--log-level", "debug", stderr=writer) as daemon:
            wait_until(partial(is_seen, daemon, port), "a message", seconds=SECONDS, pause=0)
            exchanges(port, 200)
            assert daemon.stop() == 0
            whole = [str(message.get("path")) for message in daemon.messages if "incomplete" not in message]
            assert not Counter(2 * [f"/{number}" for number in range(200)]) - Counter(whole)
        os.set_blocking(reader, False)
        assert os.read(reader, 2 * size) == b"\n" * size, "nothing of the log was written"
    finally:
        os.close(reader)
        os.close(writer)


@needs_capture
@pytest.mark.live
def test_a_log_that_is_read_late(port: int) -> None:
    """Lines that wait for their reader all come, in order, the last one too, before the process ends."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with Daemon("--ports", str(port), *LIVE, "--log-level", "debug", stderr=writer) as daemon:
        os.close(writer)
        wait_until(partial(is_seen, daemon, port), "a message", seconds=SECONDS, pause=0)
        for _ in range(20):
            daemon.send(signal.SIGUSR1)  # a line of some 1000 bytes
            exchanges(port, 1)
        daemon.send(signal.SIGTERM)
        with open(reader, "rb") as log:
            said = [json.loads(line)["message"] for line in log]
        assert daemon.end() == 0
    assert said[0] == "started"
    assert 1 <= said.count("ledger") <= 20
    assert said[-1] == "stopped"


def test_closed_pipe_is_quiet() -> None:
    """`| head` ends with 0, without an error."""
    with Daemon("--ports", "8080", "--read", str(DEMO), "--stdout", read_stdout=False) as daemon:
        assert daemon.process.stdout is not None
        daemon.process.stdout.close()
        assert daemon.end() == 0
        assert not [line for line in daemon.logs if line["level"] in ("error", "warning")]
        counters = assert_balanced(daemon)
        assert counters["dropped_closed"] == counters["offered"] > 0


@needs_capture
@pytest.mark.live
def test_closed_pipe_ends_its_own_lane_only(port: int) -> None:
    """With another output the capture goes on when standard output's reader has gone; what it misses is counted."""
    with silent_server() as collector:
        url = ("--output-url", f"http://127.0.0.1:{collector}/", "--drain-timeout-ms", "500")
        with Daemon("--ports", str(port), *LIVE, *url, read_stdout=False) as daemon:
            daemon.log("started")
            assert daemon.process.stdout is not None
            daemon.process.stdout.close()
            exchanges(port, 1)
            daemon.log("sink closed")
            exchanges(port, 4)
            assert daemon.stop() == 2  # for the collector
            counters = assert_balanced(daemon)
            assert counters["dropped_closed"] == counters["offered"] == 10
            assert daemon.logs[-1]["undelivered"] == daemon.logs[-1]["lanes"]["url"]["dropped_deadline"] == 10


@needs_capture
def test_a_closed_pipe_ends_a_live_capture() -> None:
    """`| head`: when standard output is closed and the only output, a live capture ends with 0."""
    with (
        web_server() as port,
        Daemon("--ports", str(port), "--interface", "lo", "--stdout", read_stdout=False) as daemon,
    ):
        daemon.log("started")
        assert daemon.process.stdout is not None
        daemon.process.stdout.close()
        while daemon.process.poll() is None:
            exchanges(port, 1)
        assert daemon.end() == 0
        assert daemon.log("sink closed")["sink"] == "stdout"


GREEDY = """
import os, sys
class Importing:
    def find_spec(self, name, path=None, target=None):
        if name == "sniffer.cli":
            os.open(os.devnull, os.O_RDONLY)
sys.meta_path.insert(0, Importing())
from sniffer.__main__ import main
main()
"""


@pytest.mark.parametrize("program", [("-m", "sniffer"), ("-c", GREEDY)], ids=["plain", "an import opens a file"])
def test_standard_output_closed_at_start(program: tuple[str, str]) -> None:
    """`>&-` ends with 0 too, and no other file takes its place, not one of the first imports' either."""
    done = subprocess.run(
        [
            "/bin/sh",
            "-c",
            '"$@" >&-',
            "sh",
            sys.executable,
            *program,
            "--ports",
            "8080",
            "--read",
            str(DEMO),
            "--stdout",
        ],
        cwd=DEMO.parents[2],
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lane = json.loads(done.stderr.splitlines()[-1])["lanes"]["stdout"]
    assert 0 < lane["dropped_closed"] == lane["offered"]  # not all 14 where it has stopped before the end of the file


@needs_capture
@pytest.mark.live
def test_standard_input_closed_at_start() -> None:
    """With `<&-` a pipe whose writer is gone stands in its place: no socket or file of ours is standard input."""
    command = ("--ports", str(free_port()), "--interface", "lo", "--stdout")
    with Daemon(*command, prefix=["sh", "-c", 'exec "$@" <&-', "sh"]) as daemon:
        daemon.log("started")
        assert os.readlink(f"/proc/{daemon.process.pid}/fd/0").startswith("pipe:")
        assert daemon.stop() == 0


# A capture that fails


def test_no_such_interface() -> None:
    """An interface that does not exist is exit code 2, and the available ones are listed."""
    with Daemon("--ports", "80", "--interface", "nosuch0", "--stdout") as daemon:
        assert daemon.end() == 2
        (error,) = [line["message"] for line in daemon.logs if line["level"] == "error"]
        assert "no such interface: nosuch0" in error
        assert "lo" in error.split("available: ")[1].split(", ")


# Gives up NET_RAW and NET_ADMIN in every set, as a container without them has it.
UNPRIVILEGED = """
import ctypes, runpy, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
for capability in (12, 13):
    libc.prctl(24, capability, 0, 0, 0)
header, data = struct.pack("=Ii", 0x20080522, 0), bytes(24)
assert libc.capset(header, data) == 0
sys.argv[0] = "sniffer"
runpy.run_module("sniffer", run_name="__main__", alter_sys=True)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="live capture needs Linux")
def test_no_privilege() -> None:
    """Without NET_RAW a live capture is exit code 2, and the remedy is named."""
    with Daemon("--ports", "80", *LIVE, program=("-c", UNPRIVILEGED)) as daemon:
        assert daemon.end() == 2
        (error,) = [line["message"] for line in daemon.logs if line["level"] == "error"]
        assert "NET_RAW" in error
        assert "cap" in error.lower()


def test_file_that_is_no_capture(tmp_path: Path) -> None:
    """A file that is no capture is exit code 2, in one clear line."""
    (tmp_path / "x").write_text("hello, this is no capture at all\n")
    for path in (tmp_path / "x", tmp_path / "missing"):
        with Daemon("--ports", "80", "--read", str(path), "--stdout") as daemon:
            assert daemon.end() == 2
            (error,) = [line for line in daemon.logs if line["level"] == "error"]
            assert str(path) in error["message"]
            assert "exception" not in error


@needs_capture
@pytest.mark.live
@pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace: needs root")
@pytest.mark.parametrize("hold", [False, True])
def test_interface_removed(hold: bool) -> None:
    """An interface that is removed ends the capture with 2; with `hold` only when the process is stopped."""
    name = f"sniffer-{os.getpid()}-{hold:d}"
    inside = ("ip", "netns", "exec", name)
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "add", "t0", "type", "veth", "peer", "name", "t1"], check=True)
        subprocess.run(["ip", "-n", name, "link", "set", "t0", "up"], check=True)
        options = ("--on-capture-error", "hold", "--stats-interval-ms", "100") if hold else ()
        with Daemon("--ports", "80", "--interface", "t0", "--stdout", *options, prefix=inside) as daemon:
            daemon.log("started")
            subprocess.run(["ip", "-n", name, "link", "del", "t0"], check=True)
            assert "t0" in daemon.log("capture failed")["error"]
            if hold:
                daemon.log("capture has failed; waiting to be stopped")
                assert daemon.process.poll() is None
                daemon.send(signal.SIGTERM)
            assert daemon.end() == 2
            assert_balanced(daemon)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def status_of(url: str) -> int:
    """The status of an answer."""
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_hold() -> None:
    """ON_CAPTURE_ERROR=hold: a capture that cannot be opened is said, /readyz answers 503, SIGTERM ends with 2."""
    with silent_server() as free:
        pass
    environ = {"ON_CAPTURE_ERROR": "hold", "METRICS_PORT": str(free), "STATS_INTERVAL_MS": "100"}
    with Daemon("--ports", "80", "--interface", "nosuch0", "--stdout", environ=environ) as daemon:
        daemon.wait_for(lambda: [line for line in daemon.logs if "nosuch0" in str(line) and line["level"] == "error"])
        assert status_of(f"http://127.0.0.1:{free}/readyz") == 503
        assert status_of(f"http://127.0.0.1:{free}/healthz") == 200
        assert daemon.process.poll() is None
        assert daemon.stop() == 2


PROBLEMS: dict[str, tuple[dict[str, str], tuple[str, ...], str]] = {
    "a value": ({"SAMPLE_RATE": "2"}, (), "sample_rate"),
    "no ports": ({"PORTS": ""}, (), "ports"),
    "no output": ({"OUTPUT_STDOUT": ""}, (), "output_stdout"),
    "a flag": ({}, ("--prots", "80"), "--prots"),
    "a rule": ({"TCP_SNIFFER_PRODUCTION": "1", "OUTPUT_URL": "http://h/"}, (), "output_url"),
    "a file": ({"OUTPUT_URL_AUTH_TOKEN_FILE": TOKEN}, (), "output_url_auth_token_file"),
    "what a log needs": ({"LOG_LEVEL": "loud", "LOG_FORMAT": "xml"}, (), "log_level"),
    "how long to drain": ({"DRAIN_TIMEOUT_MS": "0"}, (), "drain_timeout_ms"),
    "much at once": ({"PORTS": "0", "SAMPLE_RATE": "x", "METRICS_ADDRESS": "x"}, (), "metrics_address"),
}


@pytest.mark.parametrize("what", PROBLEMS)
def test_a_wrong_configuration_is_held(what: str) -> None:
    """ON_CAPTURE_ERROR=hold: said at once and at every interval, /readyz answers 503, SIGTERM ends with 1."""
    environ, arguments, field = PROBLEMS[what]
    metrics = free_port()
    environ = {
        "PORTS": "80",
        "OUTPUT_STDOUT": "yes",
        "OUTPUT_URL_AUTH_TOKEN": "" if "file" in what else TOKEN,
        "ON_CAPTURE_ERROR": " Hold ",
        "METRICS_PORT": str(metrics),
        "STATS_INTERVAL_MS": "50",
        "POD_NAME": "app-1",
        **environ,
    }
    with Daemon(*arguments, environ=environ) as daemon:
        assert field in [problem["field"] for problem in daemon.log("configuration error")["problems"]]
        again = "the configuration is wrong; waiting to be stopped"
        daemon.wait_for(lambda: daemon.has_logged(again, 3))
        assert daemon.logged(again)[-1]["error"] == "; ".join(
            problem["message"] for problem in daemon.logged("configuration error")[0]["problems"]
        )
        assert daemon.logged(again)[-1]["placement"] == {"pod": "app-1"}
        assert status_of(f"http://127.0.0.1:{metrics}/readyz") == 503
        assert status_of(f"http://127.0.0.1:{metrics}/healthz") == 200
        assert status_of(f"http://127.0.0.1:{metrics}/metrics") == 200
        assert daemon.stop() == 1
        assert daemon.logs[-1]["message"] == "stopped"
        assert len(daemon.logged("configuration error")) == 1
        assert not daemon.messages
        assert TOKEN not in "".join(daemon.stderr)


@pytest.mark.parametrize("wrong", ["METRICS_PORT=x", "METRICS_PORT=taken", "STATS_INTERVAL_MS=x", "PORTS=metrics"])
def test_what_holding_needs_is_wrong_too(wrong: str) -> None:
    """Without a metrics port, an interval or a port of its own it waits all the same, and takes no port of others."""
    name, _, value = wrong.partition("=")
    with silent_server() as taken:
        metrics = free_port()
        value = {"taken": str(taken), "metrics": f"{metrics},x"}.get(value, value)
        environ = {
            "PORTS": "80",
            "SAMPLE_RATE": "2",
            "METRICS_PORT": str(metrics),
            "STATS_INTERVAL_MS": "50",
            "ON_CAPTURE_ERROR": "hold",
            name: value,
        }
        with Daemon(environ=environ) as daemon:
            daemon.log("nothing is captured; waiting to be stopped")
            if name != "STATS_INTERVAL_MS":
                daemon.wait_for(lambda: daemon.has_logged("the configuration is wrong; waiting to be stopped", 2))
            daemon.ledger()
            if name == "PORTS":
                with socket.socket() as application:
                    application.bind(("127.0.0.1", metrics))
            assert daemon.stop() == 1


def test_a_start_that_fails_is_held() -> None:
    """A port of the endpoint that is taken, and a core that is not there, are waited with: SIGTERM ends with 2."""
    program = PLANT.format(plant="sys.modules['sniffer_core.core'] = None", token="")
    with silent_server() as taken:
        for arguments, more in (
            (("--metrics-port", str(taken)), {}),
            (("--ui", str(taken)), {}),
            ((), {"program": ("-c", program)}),
        ):
            command = ("--ports", "80", "--interface", "lo", "--stdout", "--on-capture-error", "hold")
            with Daemon(*command, "--stats-interval-ms", "50", *arguments, **more) as daemon:  # type: ignore[arg-type]
                assert daemon.log("cannot start")["error"]
                daemon.wait_for(lambda: daemon.has_logged("the start has failed; waiting to be stopped", 2))
                assert daemon.stop() == 2


def test_holding_is_for_live_captures_alone() -> None:
    """Reading a file, without the option, or where the option itself is wrong, a wrong configuration ends with 1."""
    for arguments, environ in (
        (("--read", str(DEMO), "--sample-rate", "2"), {"ON_CAPTURE_ERROR": "hold"}),
        (("--sample-rate", "2", "--on-capture-error", "exit"), {"ON_CAPTURE_ERROR": "hold"}),
        (("--sample-rate", "2"), {}),
        ((), {"ON_CAPTURE_ERROR": "holds"}),
    ):
        with Daemon("--ports", "80", "--stdout", *arguments, environ=environ) as daemon:
            assert daemon.end() == 1


def test_a_stop_while_it_begins_to_hold() -> None:
    """No signal is lost between the error and the waiting: a stop at any moment ends it, with 0 before and 1 after."""
    environ = {"ON_CAPTURE_ERROR": "hold"}
    for delay_ms in (0, 20, 50, 100, 150, 200, 300, 400):
        with Daemon("--prots", "80", environ=environ) as daemon:
            wait_until(lambda: has_handler(daemon), "a handler for SIGTERM", seconds=SECONDS, pause=0)
            time.sleep(delay_ms / 1000)  # a moment of the start, not a wait for something
            assert daemon.stop() in (0, 1)


@needs_capture
@pytest.mark.live
def test_metrics_of_a_run(port: int) -> None:
    """While it captures, /readyz and /healthz answer 200 and /metrics has the ledger."""
    with silent_server() as free:
        pass
    with Daemon("--ports", str(port), *LIVE, "--metrics-port", str(free)) as daemon:
        daemon.log("started")
        exchanges(port, 10)
        daemon.wait_for(lambda: len(daemon.messages) == 20)
        assert status_of(f"http://127.0.0.1:{free}/readyz") == 200
        assert status_of(f"http://127.0.0.1:{free}/healthz") == 200
        with urllib.request.urlopen(f"http://127.0.0.1:{free}/metrics", timeout=SECONDS) as answer:
            text = answer.read().decode()
        assert "tcp_sniffer_messages_request_total 10.0" in text
        assert "tcp_sniffer_exchange_latency_seconds_count 10.0" in text
        assert daemon.stop() == 0


# Configuration


@needs_capture
@pytest.mark.live
def test_nothing_is_said_of_clients_behind_the_last_line(port: int) -> None:
    """What clients of the page and of the metrics port did wrong is said before `stopped`, however late they did it."""
    metrics = free_port()
    with Daemon(*LIVE, "--ports", str(port), "--metrics-port", str(metrics), "--ui") as daemon:
        page = urlsplit(daemon.log("live view")["url"]).port
        for number in (metrics, page):
            for _ in range(3):  # the first is logged at once, the others are kept for later
                with socket.create_connection(("127.0.0.1", number), SECONDS) as client:
                    client.sendall(b"no request\r\n\r\n")
                    assert client.recv(100).startswith(b"HTTP/1.0 400")
        assert daemon.stop() == 0
        said = [(line["server"], line["malformed"]) for line in daemon.logged("a server turned clients away")]
        assert sorted(said) == [("metrics", 1), ("metrics", 2), ("ui", 1), ("ui", 2)]
        assert_balanced(daemon)


def test_configuration_errors_are_one_readable_error_and_one_line() -> None:
    """Every problem at once, readable and as one structured log line, exit code 1, nothing secret in it."""
    environ = {"SAMPLE_RATE": "nan", "OUTPUT_URL_AUTH_TOKEN": TOKEN, "OUTPUT_URL": f"http://u:{TOKEN}@h/"}
    with Daemon("--ports", "0", "--prots", "80", environ=environ) as daemon:
        assert daemon.end() == 1
        text = "".join(daemon.stderr)
        assert TOKEN not in text
        assert "the configuration has 4 problems" in text
        assert "  [--sample-rate or SAMPLE_RATE]" in text
        (line,) = daemon.logs
        assert line["message"] == "configuration error"
        fields = [problem["field"] for problem in line["problems"]]
        assert fields == ["--prots", "ports", "sample_rate", "output_url"]


@pytest.mark.parametrize(
    ("arguments", "environ", "says"),
    [
        ((), {"PORTS": "80"}, "--stdout"),
        (("--ports", "80", "--stdout", "no"), {}, "--stdout"),
        (("--stdout",), {}, "ports is required"),
        (
            ("--ports", "80", "--output-url", "http://h/", "--production"),
            {},
            "output_url must use HTTPS in production",
        ),
        (
            ("--ports", "80", "--stdout"),
            {"TCP_SNIFFER_PRODUCTION": "1", "OUTPUT_URL": "HTTP://h"},
            "output_url must use HTTPS in production",
        ),
        (("--ports", "80", "--stdout", "--metrics-port", "80"), {}, "metrics_port must not be one of ports"),
        (
            ("--ports", "80", "--stdout"),
            {"TCP_SNIFFER_PRODUCTION": "production"},
            "production must be 1, true, yes or on",
        ),
        (("--ports", "80", "--output-url", "https://"), {}, "output_url must name a host"),
        (("--ports", "80", "--output-url", "https:///path"), {}, "output_url must name a host"),
        (("--ports", "80", "--output-url", "https://h:99999/"), {}, "output_url must be an absolute http or https URL"),
        (("--ports", "80", "--output-url", "https://h:x/"), {}, "output_url must be an absolute http or https URL"),
        (("--ports", "80", "--output-url", "ftp://h/"), {}, "output_url must be an absolute http or https URL"),
        (("--ports", "80", "--stdout"), {"SAMPLE_RATE": "nan"}, "sample_rate must be a number from 0 to 1"),
        (("--ports", "80", "--stdout", "--sample-rate", "inf"), {}, "sample_rate must be a number from 0 to 1"),
        (("--ports", "80", "--stdout"), {"MEMORY_BUDGET": "0"}, "memory_budget must be"),
        (("--ports", "80,80", "--stdout"), {}, "ports must not name a port twice"),
        (("--ports", "80,65536", "--stdout"), {}, "ports must be whole numbers from 1 to 65535"),
        (
            ("--ports", "80", "--stdout", "--output-url-auth-token", TOKEN),
            {},
            "--output-url-auth-token is not an option",
        ),
        (("--ports",), {}, "ports needs a value"),
        (("--ports", "80", "--stdout", "somewhere"), {}, "output_stdout must be"),
    ],
)
def test_wrong_configuration_is_exit_code_1(arguments: tuple[str, ...], environ: dict[str, str], says: str) -> None:
    """Each rule that can be judged without the system ends with 1 and says what is wrong."""
    with Daemon(*arguments, environ=environ) as daemon:
        assert daemon.end() == 1
        text = "".join(daemon.stderr)
        assert says in text
        assert "Traceback" not in text
        assert TOKEN not in text
        assert daemon.messages == []


def test_every_variable_may_be_empty() -> None:
    """Each variable of each option, empty: the same messages as without it, and no complaint."""
    empty = {str(option.variable): "" for option in SnifferConfig.options().values() if option.variable}
    arguments = ("--ports", "8080", "--read", str(DEMO), "--stdout")
    with Daemon(*arguments, environ=empty) as one, Daemon(*arguments) as other:
        assert (one.end(), other.end()) == (0, 0)
        assert len(one.messages) == 14
        assert one.messages == other.messages
        assert [line["message"] for line in one.logs] == [line["message"] for line in other.logs]


@pytest.mark.parametrize("value", ["", "none", "x-none-of-them"])
def test_redaction_by_variable(value: str, tmp_path: Path) -> None:
    """`REDACT_HEADERS=` still redacts, `=none` does not and is warned about, a list replaces the default."""
    head = b"GET / HTTP/1.1\r\nHost: shop.example\r\nCookie: " + TOKEN.encode() + b"\r\n\r\n"
    file = write(tmp_path / "capture.pcap", connection([(head, b"HTTP/1.1 204 No Content\r\n\r\n")]))
    with Daemon("--ports", "8080", "--read", file, "--stdout", environ={"REDACT_HEADERS": value}) as daemon:
        assert daemon.end() == 0
        (cookie,) = [message["headers"]["cookie"] for message in daemon.messages if message["direction"] == "request"]
        assert cookie == (TOKEN if value else "[REDACTED]")
        assert any("redact_headers is off" in line["message"] for line in daemon.logs) == (value == "none")
        assert TOKEN not in "".join(daemon.stderr)


def test_busy_metrics_port_is_exit_code_2() -> None:
    """A port that another process has is no configuration error: 2, in one line."""
    with silent_server() as busy, Daemon("--ports", "80", *LIVE, "--metrics-port", str(busy)) as daemon:
        assert daemon.end() == 2
        (error,) = [line for line in daemon.logs if line["level"] == "error"]
        assert error["message"].startswith("metrics_port: cannot listen on")


# Crashes

# Plants an exception, then runs the daemon as `python -m sniffer` does.
PLANT = """
import runpy, sys
def boom(*_, **__):
    raise RuntimeError("planted, with the token {token}")
{plant}
sys.argv[0] = "sniffer"
runpy.run_module("sniffer", run_name="__main__", alter_sys=True)
"""

PLANTS = {
    "configuration": "import sniffer.cli; sniffer.cli.configure = boom",
    "table": "import sniffer.pipeline; sniffer.pipeline.Sniffer._make_table = boom",
    "source": "import sniffer.capture.file; sniffer.capture.file.FileSource.batches = boom",
    "thread": "import sniffer.capture.thread; sniffer.capture.thread.feed = boom",
    "thread's end": "import sniffer.capture.thread; sniffer.capture.thread.Capture._put = boom",
    "pump": "import sniffer.pipeline; sniffer.pipeline.Sniffer._pass_on = boom",
    "lane": "import sniffer.delivery.lane; sniffer.delivery.lane.Lane.offer = boom",
    "sink's opening": "import sniffer.outputs.stdout.sink; sniffer.outputs.stdout.sink.StdoutSink.open = boom",
    "sink's thread": "import sniffer.outputs.stdout.sink; sniffer.outputs.stdout.sink._Write.run = boom",
    "sink": "import sniffer.outputs.stdout.sink; sniffer.outputs.stdout.sink.StdoutSink.deliver = boom",
    "drain": "import sniffer.delivery.lane; sniffer.delivery.lane.Lane.drain = boom",
    "start": "import sniffer.pipeline; sniffer.pipeline.Sniffer.start = boom",
    "wait": "import sniffer.pipeline; sniffer.pipeline.Sniffer.wait = boom",
    "ledger": "import sniffer.ledger; sniffer.ledger.Ledger.snapshot = boom",
    "log set-up": "import sniffer.logs; sniffer.logs.configure = boom",
    "privilege": "import sniffer.capture.privileges; sniffer.capture.privileges.confine = boom",
    "endpoint": "import sniffer.metrics; sniffer.metrics.Endpoint.open = boom",
    "endpoint's end": "import sniffer.metrics; sniffer.metrics.Endpoint.close = boom",
    "url's opening": "import sniffer.outputs.url.collector; sniffer.outputs.url.collector.UrlSink.open = boom",
    "url": "import sniffer.outputs.url.collector; sniffer.outputs.url.collector.UrlSink.deliver = boom",
    "sink's end": "import sniffer.outputs.stdout.sink; sniffer.outputs.stdout.sink.StdoutSink.close = boom",
    "error report": "import sniffer.cli; sniffer.cli._report = sniffer.cli.SnifferConfig.from_texts = boom",
}
SILENT = ("sink", "sink's thread", "url")
"""What raises there costs the messages, and is said in their counts."""


@pytest.mark.parametrize("layer", PLANTS)
def test_planted_exception(layer: str) -> None:
    """Whatever raises in whichever layer: exit code 2, said in the log, without the token."""
    program = PLANT.format(plant=PLANTS[layer], token=TOKEN)
    arguments = ["--ports", "8080", "--read", str(DEMO), "--stdout"]
    if layer.startswith("url"):
        arguments += ["--output-url", "http://127.0.0.1:1/"]
    if layer.startswith("endpoint"):
        with silent_server() as free:
            arguments += ["--metrics-port", str(free)]
    environ = {"OUTPUT_URL_AUTH_TOKEN": TOKEN}
    with Daemon(*arguments, program=("-c", program), environ=environ) as daemon:
        assert daemon.end() == 2
        text = "".join(daemon.stderr)
        assert ('"dropped_error":14' if layer in SILENT else "planted") in text
        if layer == "log set-up":
            return  # nothing is there yet that could take the token out
        assert TOKEN not in text
        assert all(line.startswith("{") for line in daemon.stderr), text


@pytest.mark.parametrize(
    "missing",
    ["sniffer_core.core", "structlog", "msgspec", "aiohttp", "yarl", "sniffer.config", "sniffer_core", "pcapy"],
)
def test_failed_import(missing: str) -> None:
    """A core that cannot be imported, and any other import that fails, is exit code 2 and one clear line."""
    program = PLANT.format(plant=f"sys.modules[{missing!r}] = None", token="")
    loads = {"aiohttp": ("--metrics-port", str(free_port())), "yarl": ("--output-url", "http://127.0.0.1:9/")}
    arguments = loads.get(missing, ())
    with Daemon("--ports", "8080", "--read", str(DEMO), "--stdout", *arguments, program=("-c", program)) as daemon:
        assert daemon.end() == 2
        text = "".join(daemon.stderr)
        assert "Traceback" not in text
        assert missing.partition(".")[0] in text
        if missing == "sniffer_core.core":
            assert "the compiled core cannot be loaded" in text
            assert len(daemon.stderr) == 1


HEAPS = """
import ctypes, os, sys
import sniffer.cli

def leave(code):
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    file = ctypes.c_void_p(libc.fopen(b"/dev/stderr", b"w"))
    libc.malloc_info(0, file)
    libc.fclose(file)
    os._exit(code)

leave(sniffer.cli.run(sys.argv[1:]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="heaps of glibc")
def test_one_heap_for_all_threads() -> None:
    """All threads share one heap: what one of them takes and another gives back leaves no holes in two."""
    with Daemon("--ports", "8080", "--read", str(DEMO), "--stdout", program=("-c", HEAPS)) as daemon:
        assert daemon.end() == 0
        assert sum(line.startswith("<heap nr=") for line in daemon.stderr) == 1


# Other signals, and what is shown


END_A_PROCESS = {
    *(
        "HUP",
        "INT",
        "QUIT",
        "USR1",
        "USR2",
        "ALRM",
        "TERM",
        "STKFLT",
        "XCPU",
        "VTALRM",
        "PROF",
        "IO",
        "PWR",
        "PIPE",
        "XFSZ",
    ),
}
"""What ends a process by default (signal(7)), but for what cannot be caught and the signals of a defect."""


def test_no_signal_is_forgotten() -> None:
    """Each signal whose default is the end is a stop or ignored, by us or (PIPE, XFSZ) by Python."""
    real_time = set(range(signal.SIGRTMIN, signal.SIGRTMAX + 1))
    named = {int(getattr(signal, f"SIG{name}")) for name in END_A_PROCESS - {"PIPE", "XFSZ"}}
    assert named | real_time == {*map(int, signals.STOPS), *map(int, signals.IGNORED)}
    assert not {*signals.STOPS} & {*signals.IGNORED}


@needs_capture
@pytest.mark.live
def test_other_signals(port: int) -> None:
    """What is no wish to stop changes nothing, from the start on; SIGUSR1 logs the ledger; the capture goes on."""
    with Daemon("--ports", str(port), *LIVE) as daemon:
        wait_until(lambda: has_handler(daemon), "a handler for SIGTERM", seconds=SECONDS, pause=0)
        for number in signals.IGNORED:
            daemon.process.send_signal(number)
        daemon.log("started")
        for number in signals.IGNORED:
            if number != signal.SIGUSR1:
                daemon.process.send_signal(number)
        exchanges(port, 3)
        daemon.wait_for(lambda: len(daemon.messages) == 6)
        seen = len(daemon.logged("ledger"))
        daemon.send(signal.SIGUSR1)
        daemon.wait_for(lambda: daemon.has_logged("ledger", seen + 1))
        ledger = daemon.logged("ledger")[-1]
        assert ledger["ledger"]["messages_request"] == 3
        assert ledger["lanes"]["stdout"]["offered"] == 6
        assert daemon.stop() == 0


@needs_capture
@pytest.mark.live
@pytest.mark.parametrize("number", signals.STOPS)
def test_each_stop_drains(port: int, number: signal.Signals) -> None:
    """What was captured is delivered after each kind of stop, with 0; a second one, but for SIGXCPU, ends the drain."""
    with Daemon("--ports", str(port), *LIVE) as daemon:
        daemon.log("started")
        exchanges(port, 5)
        assert daemon.stop(number) == 0
        assert len(daemon.messages) == 10
    with (
        silent_server() as silent,
        Daemon("--ports", str(port), *LIVE, "--output-url", f"http://127.0.0.1:{silent}/") as daemon,
    ):
        daemon.log("started")
        exchanges(port, 1)
        daemon.wait_for(lambda: len(daemon.messages) == 2)
        daemon.send(number)
        daemon.log("stopping")
        daemon.send(number)
        if number == signal.SIGXCPU:
            daemon.ledger()  # it is still there
            daemon.send(signal.SIGTERM)
        assert daemon.end() == 2
        assert daemon.logged("stopped")


def test_help_and_version() -> None:
    """--help and --version go to standard output with 0, without any option, and show no secret."""
    for flag, says in (("--help", "--ports PORT,PORT"), ("-h", "Capture:"), ("--version", "tcp-sniffer ")):
        environ = {"OUTPUT_URL_AUTH_TOKEN": TOKEN, "PATH": os.environ["PATH"]}
        done = subprocess.run(
            [sys.executable, "-m", "sniffer", flag],
            cwd=DEMO.parents[2],
            env=environ,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert says in done.stdout
        assert TOKEN not in done.stdout


def test_placement_is_in_every_line() -> None:
    """Placement is in each log line and in each message."""
    environ = {"POD_NAME": "app-1", "NAMESPACE": "shop", "NODE_NAME": "n1"}
    placement = {"pod": "app-1", "namespace": "shop", "node": "n1"}
    with Daemon("--ports", "8080", "--read", str(DEMO), "--stdout", environ=environ) as daemon:
        assert daemon.end() == 0
        assert len(daemon.messages) == 14
        assert all(message["placement"] == placement for message in daemon.messages)
        assert all(line["placement"] == placement for line in daemon.logs)


def test_warnings_are_logged_at_start() -> None:
    """What is allowed but unwise is said at start."""
    with Daemon("--ports", "8080", "--read", str(DEMO), "--stdout", "--redact-headers", "none") as daemon:
        assert daemon.end() == 0
        assert [line["message"].split(":")[0] for line in daemon.logs if line["level"] == "warning"] == [
            "redact_headers is off"
        ]
