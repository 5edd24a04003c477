"""The fault matrix. Each fault is tried on the real daemon, live on loopback, under load; its promise is checked."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sniffer.ledger import DECLARED, broken_laws
from tests.chaos.collector import Certificates, Collector, Identity, collecting, identity
from tests.daemon import SECONDS, Daemon, exchanges, web_server

RATE = 60
"""Exchanges per second of each load."""


@dataclass
class Outcome:
    """The result of one fault."""

    offered: int = 0
    delivered: int = 0
    counted: dict[str, int] = field(default_factory=dict)
    """Messages that were not delivered, by counter."""
    load: float = 0.0
    """Messages per second."""
    broken: list[str] = field(default_factory=list)
    """The broken promises."""

    def expect(self, kept: object, promise: str) -> None:
        """Notes a broken promise."""
        if not kept:
            self.broken.append(promise)


@dataclass(frozen=True)
class Fault:
    """One row of the matrix."""

    name: str
    promise: str
    run: Callable[[Path, float], Outcome]
    """Takes a folder, and the seconds that the fault lasts."""
    needs_root: bool = False


# Parts


class Load:
    """Makes exchanges at a steady rate, ten on a connection, until it is ended."""

    def __init__(self, port: int) -> None:
        self.made = 0
        self._port = port
        self._over = threading.Event()
        self._begin = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(max(0.0, self._begin + self.made / RATE - time.monotonic())):
            exchanges(self._port, 10)
            self.made += 10

    def end(self) -> float:
        """Ends the load, and returns its messages per second."""
        self._over.set()
        self._thread.join()
        return 2 * self.made / (time.monotonic() - self._begin)


def snapshot(line: dict[str, Any]) -> dict[str, Any]:
    """The ledger of a log line, which leaves zeros out."""
    return {**dict.fromkeys(DECLARED, 0), **line["ledger"], "lanes": line["lanes"]}


def ledger(daemon: Daemon) -> dict[str, Any]:
    """The daemon's ledger now."""
    return snapshot(daemon.ledger())


def not_delivered(lane: dict[str, int]) -> dict[str, int]:
    """The messages that a lane has not delivered, by counter."""
    return {
        name: count
        for name, count in lane.items()
        if count and (name in ("rejected", "spooled", "waiting") or name.startswith("dropped_"))
    }


def in_order(accepted: Sequence[Identity]) -> bool:
    """Whether the messages of each connection came in order, repeated ones left out."""
    seen: set[Identity] = set()
    last: dict[str, tuple[int, bool]] = defaultdict(lambda: (-1, True))
    for connection, exchange, direction in accepted:
        if (connection, exchange, direction) in seen:
            continue
        seen.add((connection, exchange, direction))
        place = (exchange, direction == "response")
        if place < last[connection]:
            return False
        last[connection] = place
    return True


def audit(outcome: Outcome, daemon: Daemon, made: int) -> dict[str, int]:
    """Checks the promises of every fault: the balances, an unaffected standard output. Returns the collector's lane."""
    last = daemon.logs[-1]
    outcome.expect(last["message"] == "stopped", "the last log line shows the ledger")
    final = snapshot(last)
    outcome.broken += broken_laws(final)
    stdout, url = final["lanes"]["stdout"], final["lanes"]["url"]
    outcome.expect(len(daemon.messages) == stdout["delivered"] == stdout["offered"] == 2 * made, "stdout gets all")
    outcome.expect(url["offered"] == 2 * made, "everything is offered")
    outcome.expect(url["waiting"] == 0, "nothing waits at the end")
    outcome.offered = url["offered"] + url["recovered"]
    outcome.delivered = url["delivered"]
    outcome.counted = not_delivered(url)
    return url


# The collector fails


def collector_fails(
    folder: Path,
    seconds: float,
    *,
    mode: str,
    spool: bool,
    tls: bool = False,
    url: str = "{scheme}://127.0.0.1:{port}/",
    prefix: Sequence[str] = (),
    before: float = 0.5,
    turn: Callable[[Collector, bool], None] | None = None,
    cause: str = "",
) -> Outcome:
    """The collector accepts messages, fails for `seconds`, and accepts them again; then SIGTERM.

    With `before` 0 it fails from the start. `cause` matches the log's cause of the first failure.
    """

    def begin() -> None:
        collector.turn(mode)
        if turn is not None:
            turn(collector, True)

    def end() -> None:
        collector.turn("takes")
        if turn is not None:
            turn(collector, False)

    outcome = Outcome()
    certificates = Certificates() if tls else None
    with ExitStack() as stack:
        collector = stack.enter_context(collecting(certificates))
        port = stack.enter_context(web_server())
        scheme = "https" if tls else "http"
        options = [
            *("--ports", str(port), "--interface", "lo", "--stdout", "--output-timeout-ms", "1000"),
            *("--output-url", url.format(scheme=scheme, port=collector.port)),
        ]
        if certificates is not None:
            authority = folder / "authority.pem"
            certificates.trusted.cert_pem.write_to_path(str(authority))
            options += ["--output-ca-file", str(authority)]
        if spool:
            options += ["--spool-dir", str(folder / "spool"), "--output-batch-size", "16"]
        if not before:
            begin()
        daemon = stack.enter_context(Daemon(*options, prefix=prefix))
        daemon.log("started")
        load = Load(port)
        try:
            time.sleep(before)  # the phases of the load, not waits for something
            if before:
                begin()
            time.sleep(seconds)
            end()
            time.sleep(0.5)
        finally:
            outcome.load = load.end()
        code = daemon.stop()
        lane = audit(outcome, daemon, load.made)
        every = {identity(message) for message in daemon.messages}
        missing = every - set(collector.accepted)
        counted = sum(outcome.counted.values())
        outcome.expect(in_order(collector.accepted), "in order within a connection")
        outcome.expect(len(missing) <= counted, "what did not arrive is counted")
        if mode in HARMLESS:
            outcome.expect(lane["delivered"] == lane["offered"], "everything is delivered")
            outcome.expect(len(set(collector.accepted)) == len(collector.accepted), "nothing is posted twice")
        if spool:
            causes = [line["cause"] for line in daemon.logged("messages wait in the spool")]
            said = any(re.search(cause, each) for each in causes)
            outcome.expect(said or mode in ("answers slowly", *HARMLESS), f"said: {causes}")
            outcome.expect(not missing, "with a spool everything arrives")
            outcome.expect(lane["delivered"] == lane["offered"], "with a spool everything is delivered")
        # Messages given up before the stop are counted, but do not make the exit code 2.
        undelivered = daemon.logs[-1]["undelivered"]
        outcome.expect(code == (2 if undelivered else 0), f"exit code {code}")
    return outcome


ENDED = "reset|closed without an answer|Broken pipe"
"""Causes that may be logged first: open connections end when the fault begins."""
COLLECTOR = {
    "refuses": f"refused|{ENDED}",
    "accepts nothing": f"timeout|{ENDED}",
    "resets in the request's body": ENDED,
    "resets in the answer": ENDED,
    "hangs": f"timeout|{ENDED}",
    "answers slowly": "",
    "half-closes": ENDED,
    "speaks no HTTP": f"no HTTP|{ENDED}",
    "500": f"status 500|{ENDED}",
    "503, Retry-After": f"status 503|{ENDED}",
    "429, Retry-After": f"status 429|{ENDED}",
}
HARMLESS = ("closes after ten answers", "answers what cannot be read")
"""Behaviours of a collector that must lose no message."""
TLS = {
    "expired": "certificate has expired",
    "another host's name": "mismatch",
    "unknown authority": "unable to get local issuer certificate",
    "handshake cut": ENDED,
    "handshake hangs": "timeout",
}
NAMES = {
    "says no such name": "Name or service not known",
    "fails": "failure in name resolution",
    "is silent": "failure in name resolution|timeout",
}
"""Faults of the collector, and the causes in the log."""


# Names


@contextmanager
def network(name: str) -> Iterator[None]:
    """A network namespace with a loopback interface and a resolver of its own, for this thread and its children."""
    libc = ctypes.CDLL(None, use_errno=True)
    etc = Path("/etc/netns") / name
    subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
    try:
        etc.mkdir(parents=True)
        (etc / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{name}") as inside:
            assert libc.setns(inside.fileno(), 0x40000000) == 0
            try:
                yield
            finally:
                assert libc.setns(before.fileno(), 0x40000000) == 0
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        shutil.rmtree(etc, ignore_errors=True)


class Resolver(threading.Thread):
    """A name server that knows one address for every name, until it fails."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.failing = ""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))
        self._socket.settimeout(0.05)
        self._over = False

    def run(self) -> None:
        while not self._over:
            try:
                query, client = self._socket.recvfrom(512)
            except TimeoutError:
                continue
            end = query.index(b"\0", 12) + 5
            question = query[12:end]
            is_address = question[-4:-2] == b"\0\1"
            flags = {"says no such name": 0x8183, "fails": 0x8182}.get(self.failing, 0x8180)
            found = is_address and not self.failing
            answer = query[:2] + struct.pack(">HHHHH", flags, 1, found, 0, 0) + question
            if found:
                answer += struct.pack(">HHHIH4s", 0xC00C, 1, 1, 1, 4, socket.inet_aton("127.0.0.1"))
            if self.failing != "is silent":
                self._socket.sendto(answer, client)

    def close(self) -> None:
        self._over = True
        self.join()
        self._socket.close()


def name_disappears(folder: Path, seconds: float, *, how: str, spool: bool, cause: str, before: float = 0.0) -> Outcome:
    """The collector's name cannot be resolved for a while, by the system's own resolver."""
    result: list[Outcome] = []

    def run() -> None:
        name = f"chaos-{os.getpid()}-{threading.get_ident() % 100000}"
        with network(name):
            resolver = Resolver()
            resolver.start()

            def turn(_: Collector, fails: bool) -> None:
                resolver.failing = how if fails else ""

            try:
                outcome = collector_fails(
                    folder,
                    seconds,
                    mode="takes",
                    spool=spool,
                    url="http://collector.test:{port}/",
                    prefix=("ip", "netns", "exec", name),
                    before=before,
                    turn=turn,
                    cause=cause,
                )
                result.append(outcome)
            finally:
                resolver.close()

    thread = threading.Thread(target=run)  # the namespaces that it enters are its own
    thread.start()
    thread.join()
    return result[0]


# The process is killed


def killed(folder: Path, seconds: float) -> Outcome:
    """kill -9 under load in an outage, and a restart: messages counted as spooled are delivered."""
    outcome = Outcome()
    with ExitStack() as stack:
        collector = stack.enter_context(collecting())
        port = stack.enter_context(web_server())
        collector.turn("refuses")
        options = [
            *("--ports", str(port), "--interface", "lo", "--stdout", "--output-batch-size", "16"),
            *("--output-url", f"http://127.0.0.1:{collector.port}/", "--spool-dir", str(folder / "spool")),
        ]
        first = stack.enter_context(Daemon(*options))
        first.log("started")
        load = Load(port)
        time.sleep(seconds)
        spooled = ledger(first)["lanes"]["url"]["spooled"]
        first.send(signal.SIGKILL)
        outcome.expect(first.end() == -signal.SIGKILL, "it was killed")
        outcome.load = load.end()
        captured = {identity(message) for message in first.messages}
        collector.turn("takes")
        second = stack.enter_context(Daemon(*options))
        second.log("started")
        exchanges(port, 20)
        outcome.expect(second.stop() == 0, "exit code 0")
        lane = audit(outcome, second, 20)
        missing = captured - set(collector.accepted)
        outcome.expect(lane["recovered"] >= spooled > 0, "what was spooled is recovered")
        outcome.expect(lane["delivered"] == lane["recovered"] + lane["offered"], "and delivered")
        outcome.expect(in_order(collector.accepted), "in order within a connection")
        # Messages captured in the last moment before the kill.
        outcome.expect(len(missing) <= 2 * RATE, "what was not yet on disk is the last moment's")
        outcome.counted["in memory at the kill"] = len(missing)
        outcome.offered += len(missing)
    return outcome


# Standard output, the capture, callbacks


def stdout_blocks(folder: Path, seconds: float) -> Outcome:
    """Nobody reads standard output for a while, then somebody does."""
    outcome = Outcome()
    with ExitStack() as stack:
        collector = stack.enter_context(collecting())
        port = stack.enter_context(web_server())
        url = f"http://127.0.0.1:{collector.port}/"
        daemon = stack.enter_context(
            Daemon("--ports", str(port), "--interface", "lo", "--stdout", "--output-url", url, read_stdout=False)
        )
        assert daemon.process.stdout is not None
        fcntl.fcntl(daemon.process.stdout, fcntl.F_SETPIPE_SZ, 4096)
        daemon.log("started")
        load = Load(port)
        time.sleep(seconds)
        lanes = ledger(daemon)["lanes"]
        outcome.expect(lanes["stdout"]["waiting"] > 0, "standard output is blocked")
        outcome.expect(lanes["url"]["delivered"] > 0, "the collector gets what there is meanwhile")
        outcome.load = load.end()
        lines: list[bytes] = []
        reader = threading.Thread(target=lambda: lines.extend(daemon.process.stdout or ()))
        reader.start()
        outcome.expect(daemon.stop() == 0, "exit code 0")
        reader.join()
        final = snapshot(daemon.logs[-1])
        outcome.broken += broken_laws(final)
        stdout, other = final["lanes"]["stdout"], final["lanes"]["url"]
        outcome.expect(stdout["offered"] == stdout["delivered"] == len(lines) == 2 * load.made, "stdout gets all later")
        outcome.expect(other["delivered"] == other["offered"] == 2 * load.made, "the collector gets all")
        outcome.offered, outcome.delivered = stdout["offered"], stdout["delivered"]
    return outcome


def buffer_overruns(folder: Path, seconds: float) -> Outcome:
    """The process is stopped while more packets come than a tiny buffer holds."""
    outcome = Outcome()
    with ExitStack() as stack:
        port = stack.enter_context(web_server())
        arguments = ("--ports", str(port), "--interface", "lo", "--stdout", "--capture-buffer-size", "64Ki")
        daemon = stack.enter_context(Daemon(*arguments))
        daemon.log("started")
        begin = time.monotonic()
        made = 0
        while not daemon.messages:  # so small a buffer may overrun at any time
            exchanges(port, 10)
            made += 10
        daemon.send(signal.SIGSTOP)
        exchanges(port, 1000)
        daemon.send(signal.SIGCONT)
        daemon.log("the kernel drops packets: its buffer is full")
        seen = {message["connectionId"] for message in list(daemon.messages)}
        end = time.monotonic() + SECONDS
        after: list[dict[str, Any]] = []
        while len(after) < 40 and time.monotonic() < end:
            exchanges(port, 10)
            made += 10
            after = [m for m in list(daemon.messages) if m["connectionId"] not in seen and "incomplete" not in m]
        outcome.expect(len(after) >= 40, "capture goes on, and gives whole messages")
        outcome.load = 2 * (made + 1000) / (time.monotonic() - begin)
        outcome.expect(daemon.stop() == 0, "exit code 0")
        final = snapshot(daemon.logs[-1])
        outcome.broken += broken_laws(final)
        stdout = final["lanes"]["stdout"]
        outcome.expect(stdout["delivered"] == stdout["offered"] == len(daemon.messages), "all that was read is out")
        outcome.expect(final["kernel_dropped"] > 0, "the drops are reported")
        pairs = defaultdict(set)
        for message in daemon.messages:
            if "path" in message:
                pairs[message["connectionId"], message["exchange"]].add(message["path"])
        outcome.expect(all(len(paths) == 1 for paths in pairs.values()), "no response is paired with another request")
        outcome.offered, outcome.delivered = 2 * (made + 1000), stdout["delivered"]
        outcome.counted = {"kernel_dropped (packets)": final["kernel_dropped"]}
    return outcome


BLOCKING = """
import sys, time
from sniffer.cli import leave, run
calls = [0]
async def callback(message):
    calls[0] += 1
    if calls[0] == 20:
        time.sleep(float(sys.argv.pop()))  # on the loop itself
leave(run(sys.argv[1:-1], on_http_message=callback))
"""


def loop_blocked(folder: Path, seconds: float) -> Outcome:
    """A user's async callback computes on the event loop for seconds."""
    outcome = Outcome()
    with ExitStack() as stack:
        port = stack.enter_context(web_server())
        arguments = ("--ports", str(port), "--interface", "lo", "--stdout", str(seconds))
        daemon = stack.enter_context(Daemon(*arguments, program=("-c", BLOCKING)))
        daemon.log("started")
        load = Load(port)
        time.sleep(seconds + 1)
        outcome.load = load.end()
        outcome.expect(daemon.stop() == 0, "exit code 0")
        final = snapshot(daemon.logs[-1])
        outcome.broken += broken_laws(final)
        outcome.expect(not daemon.logs[-1]["undelivered"], "nothing is undelivered")
        for lane in final["lanes"].values():
            outcome.expect(lane["delivered"] == lane["offered"] == 2 * load.made, "every output gets all")
            outcome.offered, outcome.delivered = lane["offered"], lane["delivered"]
    return outcome


# The clock


def preloads(folder: Path) -> str:
    """The LD_PRELOAD for CHAOS_CLOCK: clock.c, compiled for this run, before libpcap."""
    library = folder / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source], check=True)
    show = "import pcapy; print(*{line.split()[-1] for line in open('/proc/self/maps') if 'libpcap' in line})"
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    return " ".join([os.environ.get("LD_PRELOAD", ""), str(library), *done.stdout.split()]).strip()


JUMPS = (86_400, -2 * 86_400, 3600)
"""Seconds by which the clock jumps."""


def clock_jumps(folder: Path, seconds: float) -> Outcome:
    """The clock jumps forth and back by days, with requests half sent and connections open."""
    outcome = Outcome()
    clock = folder / "clock"
    clock.write_bytes(bytes(8))
    with ExitStack() as stack:
        collector = stack.enter_context(collecting())
        port = stack.enter_context(web_server())
        daemon = stack.enter_context(
            Daemon(
                *("--ports", str(port), "--interface", "lo", "--stdout", "--connection-idle-timeout-ms", "60000"),
                *("--output-url", f"http://127.0.0.1:{collector.port}/", "--spool-dir", str(folder / "spool")),
                environ={"LD_PRELOAD": preloads(folder), "CHAOS_CLOCK": str(clock)},
            )
        )
        daemon.log("started")
        load = Load(port)
        asked = 0
        try:
            for jump in JUMPS:
                time.sleep(seconds / 2 / len(JUMPS))
                with socket.create_connection(("127.0.0.1", port)) as half:
                    half.sendall(b"GET /half HTTP/1.1\r\nHost: x\r\n")
                    before = len(daemon.messages)
                    daemon.wait_for(lambda: len(daemon.messages) > before)  # noqa: B023 - called before it changes
                    (off,) = struct.unpack("=q", clock.read_bytes())
                    with clock.open("r+b") as file:
                        file.write(struct.pack("=q", off + jump * 1_000_000))
                    time.sleep(seconds / 2 / len(JUMPS))
                    half.sendall(b"Connection: close\r\n\r\n")
                    while half.recv(4096):
                        pass
                    asked += 1
        finally:
            outcome.load = load.end()
        outcome.expect(daemon.stop() == 0, "exit code 0")
        lane = audit(outcome, daemon, load.made + asked)
        days = {message["timestamp"][:10] for message in daemon.messages}
        outcome.expect(len(days) >= 3, f"packets are stamped by the clock that jumps: {sorted(days)}")
        outcome.expect(not any("incomplete" in message for message in daemon.messages), "every message is whole")
        outcome.expect(daemon.logs[-1]["ledger"].get("flows_idle", 0) == 0, "no connection expires")
        outcome.expect(lane["delivered"] == lane["offered"], "everything is delivered")
        outcome.expect(in_order(collector.accepted), "in order within a connection")
    return outcome


# Faults with a test of their own


def by_test(folder: Path, seconds: float, *, nodes: Sequence[str]) -> Outcome:
    """Runs tests of the suite."""
    outcome = Outcome()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={folder / 'tests'}", *nodes],
        capture_output=True,
        text=True,
        check=False,
    )
    outcome.expect(done.returncode == 0, done.stdout[-2000:])
    return outcome


def matrix() -> list[Fault]:
    """Every fault."""
    rows: list[Fault] = []
    without, with_spool = "all counted; stdout gets all; in order", "nothing lost; stdout gets all; in order"

    def add(name: str, run: Callable[..., Outcome], *, root: bool = False, **options: Any) -> None:
        rows.append(Fault(name, without, partial(run, spool=False, **options), root))
        rows.append(Fault(f"{name}; spool", with_spool, partial(run, spool=True, **options), root))

    for mode, cause in COLLECTOR.items():
        add(f"collector: {mode}", collector_fails, mode=mode, cause=cause)
    for mode in HARMLESS:
        add(f"collector: {mode}", collector_fails, mode=mode)
    for mode, cause in TLS.items():
        # From the start, so that the first logged cause is the fault itself.
        add(f"TLS: {mode}", collector_fails, mode=mode, tls=True, cause=cause, before=0)
    for how, cause in NAMES.items():
        add(f"name server {how}", name_disappears, root=True, how=how, cause=cause)
    # An address that was looked up is used for 30 s.
    late = {"how": "is silent", "cause": f"{NAMES['is silent']}|{ENDED}", "before": 31.0}
    add("name server is silent after a while", name_disappears, root=True, **late)
    rows += [
        Fault("kill -9, restart; spool", "what was spooled is delivered; the rest is the last moment's", killed),
        Fault("stdout blocks, then resumes", "all delivered; the collector never notices", stdout_blocks),
        Fault("capture buffer overruns", "drops reported; capture goes on; no wrong pair", buffer_overruns),
        Fault("event loop blocked by a callback", "nothing lost", loop_blocked),
        Fault("system clock jumps by days", "no connection expires, nothing is lost", clock_jumps),
    ]
    for name, promise, root, nodes in (
        (
            "callback never returns",
            "left at the deadline, counted, exit code 2",
            False,
            ["tests/test_shutdown.py::test_callback_that_hangs_is_left_at_the_deadline"],
        ),
        (
            "stdout never read again",
            "left at the deadline, counted, exit code 2",
            False,
            ["tests/test_shutdown.py::test_stdout_that_nobody_reads"],
        ),
        (
            "log not read, or late",
            "nothing lost; the stop waits a second at most; a late reader gets all up to 256 KiB, the rest counted",
            False,
            [
                "tests/test_shutdown.py::test_a_log_that_nobody_reads",
                "tests/test_shutdown.py::test_a_log_that_is_read_late",
                "tests/test_logs.py::test_what_was_dropped_is_counted",
            ],
        ),
        (
            "interface goes down and up",
            "capture goes on; nothing of before or after lost",
            True,
            ["tests/live/test_live.py::test_an_interface_that_goes_down_and_is_removed"],
        ),
        (
            "interface vanishes",
            "what was captured is delivered, exit code 2; with hold it waits",
            True,
            ["tests/test_shutdown.py::test_interface_removed"],
        ),
        (
            "disk full, at the start or later; spool",
            "said; messages come from memory; the spool comes back",
            True,
            [
                "tests/delivery/test_spool.py::test_a_full_disk_costs_durability_alone",
                "tests/delivery/test_spool.py::test_a_disk_that_is_full_at_the_start",
                "tests/delivery/test_spool.py::test_a_full_disk_keeps_what_an_earlier_run_left",
            ],
        ),
        (
            "disk read-only, no directory, in use; spool",
            "one error, exit code 2; with hold the capture goes on without it, and says so",
            True,
            [
                "tests/delivery/test_store.py::test_a_directory_that_cannot_be_used",
                "tests/delivery/test_spool.py::test_exit_codes",
                "tests/delivery/test_spool.py::test_a_spool_that_cannot_be_used_is_done_without",
                "tests/delivery/test_spool.py::test_a_sidecar_goes_on_without_its_spool",
            ],
        ),
        (
            "disk fails now and then; spool",
            "nothing lost, in order",
            False,
            ["tests/delivery/test_spool.py::test_a_disk_that_fails_now_and_then"],
        ),
        (
            "spool damaged, at the start or later",
            "set aside, said, counted; a new one is begun",
            False,
            [
                "tests/delivery/test_store.py::test_what_is_no_spool_is_set_aside",
                "tests/delivery/test_store.py::test_a_changed_body_is_not_presented_as_right",
                "tests/delivery/test_spool.py::test_a_spool_damaged_while_it_runs",
            ],
        ),
        (
            "spool full",
            "the oldest dropped, counted; size never passed",
            False,
            [
                "tests/delivery/test_spool.py::test_a_full_spool_drops_the_oldest",
                "tests/delivery/test_store.py::test_the_size_is_never_passed",
            ],
        ),
        (
            "kill -9 while the spool is written",
            "everything committed is there, whole",
            False,
            ["tests/delivery/test_store.py::test_what_was_committed_survives_a_kill"],
        ),
    ):
        rows.append(Fault(name, promise, partial(by_test, nodes=nodes), root))
    return rows


def attempt(fault: Fault, folder: Path, seconds: float) -> Outcome:
    """Tries one fault. An exception counts as a broken promise."""
    folder.mkdir(parents=True)
    try:
        return fault.run(folder, seconds)
    except BaseException as error:  # the row shows it
        outcome = Outcome()
        outcome.broken.append(f"{type(error).__name__}: {error}")
        return outcome
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
