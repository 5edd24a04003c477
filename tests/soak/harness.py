"""The soak: the real daemon captures a mixed load while its outputs are slow, fail and recover.

The load comes from `load.py`, and from wrk through nginx if both are installed: as much as one core can make. The
daemon has the other core. The assertions stand here, so that `make soak` and the suite's short form check the same.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from sniffer.ledger import DECLARED, Snapshot, broken_laws
from tests.daemon import ROOT, Daemon, free_port, resident
from tests.waiting import listens, until, wait_until

BUDGET = 64 << 20
PHASES = (
    # the collector's behaviour, and whether the reader of standard output is slow
    ("takes", False),
    ("is slow", False),
    ("500", False),
    ("503", True),
    ("refuses", False),
    ("hangs", True),
    ("takes", False),
)
"""The phases of one cycle; all have the same length."""
IDLE_MS = 20_000
"""The idle timeout. It is shorter than a cycle, so that the number of connections whose end was lost is steady."""
CONNECTIONS = 16
"""Connections of wrk. As many requests may be unanswered and uncounted when it ends."""
SETTLE_SECONDS = 90.0
NGINX = """\
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/errors;
events {{ worker_connections 256; }}
http {{
  access_log off; keepalive_requests 1000; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b;
  fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{ listen 127.0.0.1:{port}; location / {{ default_type text/plain; return 200 "{body}"; }} }}
}}
"""
DROPS = {
    "kernel_dropped": "the kernel drops packets: its buffer is full",
    "handoff_dropped": "messages are dropped: the hand-off is full",
}


@dataclass
class Sample:
    """A sample of the daemon's counters and memory."""

    second: float
    phase: str
    rss: int
    metrics: Mapping[str, float]

    def lane(self, name: str, lane: str) -> int:
        """A counter of a lane."""
        return int(self.metrics[f"tcp_sniffer_lane_{name}{{{lane}}}"])

    def dropped(self, lane: str) -> int:
        """The number of messages that a lane has dropped so far."""
        start, end = "tcp_sniffer_lane_dropped_", f"{{{lane}}}"
        return int(sum(value for name, value in self.metrics.items() if name.startswith(start) and name.endswith(end)))


@dataclass
class Run:
    """The results of one run of the daemon."""

    cycle: float
    rss_at_start: int
    samples: list[Sample] = field(default_factory=list)
    load: str = ""
    made: int = 0
    uncounted: int = 0
    lines: int = 0
    accepted: int = 0
    exit_code: int = -1
    logs: list[dict[str, Any]] = field(default_factory=list)

    def logged(self, message: str) -> list[dict[str, Any]]:
        """The log lines with this message."""
        return [line for line in self.logs if line["message"] == message]

    @property
    def last(self) -> dict[str, Any]:
        """The line `stopped`."""
        return self.logs[-1]

    @property
    def final(self) -> Snapshot:
        """The last ledger."""
        return snapshot_of(self.last)

    def rss_of_cycle(self, number: int) -> float:
        """The mean RSS of a cycle."""
        return mean(sample.rss for sample in self.samples if int(sample.second // self.cycle) == number)


def mean(values: Iterable[float]) -> float:
    """The mean."""
    listed = list(values)
    return sum(listed) / len(listed)


def snapshot_of(line: Mapping[str, Any]) -> Snapshot:
    """The ledger of a log line, which leaves zeros out."""
    return {**dict.fromkeys(DECLARED, 0), **line["ledger"], "lanes": line["lanes"]}


def cores() -> tuple[set[int], set[int]]:
    """The cores for the capture and those for everything else."""
    first, *others = sorted(os.sched_getaffinity(0))
    return {first}, set(others) or {first}


def prefer(pid: int, on: set[int]) -> None:
    """Pins a process to these cores at a raised priority, so that other work does not starve it."""
    os.sched_setaffinity(pid, on)
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, pid, -10)


class Collector:
    """A collector of batches that behaves as the phase says."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.accepted = 0
        self._phase = "takes"
        self._over = asyncio.Event()
        self._runner: web.AppRunner | None = None

    async def turn(self, phase: str) -> None:
        """Begins a phase. Requests that hung in the last one are released."""
        self._phase = phase
        self._over.set()
        self._over = asyncio.Event()
        if phase == "refuses":
            await self.close()
        elif self._runner is None:
            app = web.Application(client_max_size=1 << 26)
            app.router.add_post("/messages", self._answer)
            self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await self._runner.setup()
            await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def close(self) -> None:
        """Closes the port and every connection."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.Request) -> web.Response:
        count = int(request.headers["Idempotency-Key"].partition("+")[2])
        body = await request.read()
        assert body.count(b"\n") == count
        match self._phase:
            case "is slow":
                await asyncio.sleep(0.3)
            case "500":
                return web.Response(status=500)
            case "503":
                return web.Response(status=503, headers={"Retry-After": "2"})
            case "hangs":
                await self._over.wait()
                return web.Response(status=500)
        self.accepted += count
        return web.Response(status=204)


class Reader(threading.Thread):
    """Reads standard output, at times slowly, and counts its lines. None may be of the sniffer's own deliveries."""

    def __init__(self, descriptor: int, *, own_port: int) -> None:
        super().__init__(daemon=True)
        self.slow = threading.Event()
        self.quick = threading.Event()
        self.lines = 0
        self.wrong: list[bytes] = []
        self._descriptor = descriptor
        self._own = b'"port":%d},"destination"' % own_port
        self._rest = b""

    def turn(self, *, slow: bool) -> None:
        """Makes the reader slow, or fast again at once."""
        (self.slow.set if slow else self.slow.clear)()
        (self.quick.clear if slow else self.quick.set)()

    def run(self) -> None:
        while data := os.read(self._descriptor, 1 << 16):
            lines = (self._rest + data).split(b"\n")
            self._rest = lines.pop()
            self.lines += len(lines)
            if lines:
                json.loads(lines[0])  # one of each read
            if self._own in data or b"not-to-be-seen" in data:
                self.wrong.append(data)
            if self.slow.is_set():
                self.quick.wait(0.1)
        assert not self._rest


@contextmanager
def child(*command: str, on: set[int]) -> Iterator[subprocess.Popen[str]]:
    """A process on these cores, with pipes. It is killed at the end if it still runs."""
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    os.sched_setaffinity(process.pid, on)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


class Load:
    """The load: `begin` starts it, `end` stops it."""

    def __init__(self, stack: ExitStack, folder: Path, on: set[int]) -> None:
        self.ports = [free_port()]
        self.made = 0
        self.uncounted = 0
        self.text = "aiohttp"
        self._stack = stack
        self._on = on
        python = [sys.executable, "-m", "tests.soak.load", str(self.ports[0])]
        self._mixed = stack.enter_context(child(*python, on=on))
        assert self._mixed.stdout is not None
        assert self._mixed.stdout.readline() == "ready\n"
        self._wrk: subprocess.Popen[str] | None = None
        if shutil.which("nginx") and shutil.which("wrk"):
            self.text = f"aiohttp, and wrk -c{CONNECTIONS} through nginx"
            self.ports.append(free_port())
            file = folder / "nginx.conf"
            file.write_text(NGINX.format(folder=folder, port=self.ports[1], body="a line of text " * 64))
            stack.enter_context(child("nginx", "-p", str(folder), "-c", str(file), on=on))
            wait_until(lambda: listens(self.ports[1]), "nginx listens")

    def begin(self, seconds: float) -> None:
        """Starts the load; `seconds` bounds it in case nobody ends it."""
        assert self._mixed.stdin is not None
        self._mixed.stdin.write("go\n")
        self._mixed.stdin.flush()
        if len(self.ports) > 1:
            url = f"http://127.0.0.1:{self.ports[1]}/"
            command = ("wrk", "-t1", f"-c{CONNECTIONS}", f"-d{int(seconds)}s", url)
            self._wrk = self._stack.enter_context(child(*command, on=self._on))

    def end(self) -> None:
        """Stops the load, and counts its requests."""
        if self._wrk is not None:
            self._wrk.send_signal(signal.SIGINT)
            summary = self._wrk.communicate()[0]
            self.made += int(next(line.split()[0] for line in summary.splitlines() if " requests in " in line))
            self.uncounted += CONNECTIONS
        self.made += json.loads(self._mixed.communicate()[0])["made"]


async def scrape(session: aiohttp.ClientSession, url: str) -> dict[str, float]:
    """The metrics by name, with the lane in braces."""
    async with session.get(url) as answer:
        text = await answer.text()
    values = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            lane = sample.labels.get("lane")
            name = sample.name.removesuffix("_total")
            values[f"{name}{{{lane}}}" if lane else name] = sample.value
    return values


@asynccontextmanager
async def collecting(port: int) -> AsyncIterator[Collector]:
    """A collector that listens."""
    collector = Collector(port)
    await collector.turn("takes")
    try:
        yield collector
    finally:
        await collector.close()


async def soak_daemon(seconds: float, cycle: float, folder: Path) -> Run:
    """Runs the daemon under load for `seconds`, in cycles of all phases, and stops it when everything is delivered."""
    capturing, others = cores()
    os.sched_setaffinity(0, others)
    url_port, metrics_port = free_port(), free_port()
    with ExitStack() as stack:
        load = Load(stack, folder, others)
        arguments = [
            *("--ports", ",".join(map(str, [*load.ports, url_port])), "--interface", "lo", "--stdout"),
            *("--output-url", f"http://127.0.0.1:{url_port}/messages", "--output-batch-size", "100"),
            *("--output-timeout-ms", "2000", "--memory-budget", str(BUDGET), "--stats-interval-ms", "5000"),
            *("--metrics-port", str(metrics_port), "--connection-idle-timeout-ms", str(IDLE_MS)),
        ]
        daemon = stack.enter_context(Daemon(*arguments, read_stdout=False))
        prefer(daemon.process.pid, capturing)
        daemon.log("started")
        assert daemon.process.stdout is not None
        reader = Reader(daemon.process.stdout.fileno(), own_port=url_port)
        reader.start()
        run = Run(cycle, resident(daemon.process.pid), load=load.text)
        async with collecting(url_port) as collector, aiohttp.ClientSession() as session:
            metrics = f"http://127.0.0.1:{metrics_port}/metrics"
            load.begin(seconds + 2 * cycle)
            begin = time.monotonic()
            phase = -1
            while (second := time.monotonic() - begin) < seconds:
                if int(second / cycle * len(PHASES)) != phase:
                    phase = int(second / cycle * len(PHASES))
                    does, slow = PHASES[phase % len(PHASES)]
                    await collector.turn(does)
                    reader.turn(slow=slow)
                    daemon.send(signal.SIGUSR1)
                run.samples.append(Sample(second, does, resident(daemon.process.pid), await scrape(session, metrics)))
                await asyncio.sleep(min(1.0, cycle / len(PHASES) / 2))
            await collector.turn("takes")
            reader.turn(slow=False)
            await asyncio.to_thread(load.end)
            await settle(session, metrics)
            run.exit_code = await asyncio.to_thread(daemon.stop)
            await asyncio.to_thread(reader.join)
            run.accepted = collector.accepted
        assert not reader.wrong, reader.wrong[0]
        run.made, run.uncounted, run.lines, run.logs = load.made, load.uncounted, reader.lines, daemon.logs
    return run


async def settle(session: aiohttp.ClientSession, url: str) -> None:
    """Waits until nothing waits for delivery, and no connection of the load is open in the table."""
    waiting = ("tcp_sniffer_handoff_waiting", "tcp_sniffer_pump_waiting", "tcp_sniffer_lane_waiting")

    async def is_empty() -> bool:
        return not any(value for name, value in (await scrape(session, url)).items() if name.startswith(waiting))

    await until(is_empty, "the lanes are empty", seconds=SETTLE_SECONDS, pause=0.2)


SANITIZED = "TCP_SNIFFER_SANITIZED" in os.environ
"""Sanitizers take memory of their own, so the bound is not checked then."""


def assert_accounted(run: Run) -> None:
    """Checks the balances, independent counts, reported drops, the memory bound and the exit code, but not flatness."""
    final = run.final
    assert broken_laws(final) == []
    ledgers = run.logged("ledger")
    assert len(ledgers) >= min(len(run.samples), len(PHASES))
    for line in ledgers:  # under full load too
        assert not (broken := broken_laws(snapshot_of(line))), broken
    assert not run.logged("the ledger does not balance")
    emitted = final["messages_request"]
    assert emitted <= run.made + run.uncounted
    if not final["kernel_dropped"]:
        assert emitted >= run.made
    assert final["messages_failed"] == final["messages_foreign"] == 0
    assert final["flows_own"] > 0
    stdout, url = final["lanes"]["stdout"], final["lanes"]["url"]
    assert stdout["delivered"] == run.lines
    assert 0 < url["delivered"] <= run.accepted
    assert stdout["waiting"] == url["waiting"] == 0
    for name, text in DROPS.items():
        assert bool(final[name]) == bool(run.logged(text)), name
    for name, lane in final["lanes"].items():
        said: Counter[str] = Counter()
        for line in run.logged("messages not delivered"):
            if line["sink"] == name:
                said.update({reason: line.get(reason, 0) for reason in ("rejected", *REASONS)})
        assert said["rejected"] == lane["rejected"]
        assert {reason: said[reason] for reason in REASONS} == {reason: lane[f"dropped_{reason}"] for reason in REASONS}
    assert SANITIZED or max(sample.rss for sample in run.samples) <= run.rss_at_start + 1.25 * BUDGET
    assert run.last["message"] == "stopped"
    assert run.last["undelivered"] == 0
    assert run.exit_code == 0


REASONS = ("full", "retries", "deadline", "error")


def assert_flat(run: Run) -> None:
    """Checks that the RSS of the last cycle is within 5 % of that of the second."""
    second, last = run.rss_of_cycle(1), run.rss_of_cycle(int(run.samples[-1].second // run.cycle))
    assert abs(last - second) <= 0.05 * second, (second, last)


def soak_library(seconds: float, folder: Path) -> dict[str, Any]:
    """Runs the library under the same load, with a callback that raises and blocks at times. Returns its report."""
    capturing, others = cores()
    os.sched_setaffinity(0, others)
    with ExitStack() as stack:
        load = Load(stack, folder, others)
        ports = ",".join(map(str, load.ports))
        command = (sys.executable, "-m", "tests.soak.library", ports, str(BUDGET))
        program = stack.enter_context(child(*command, on=capturing))
        prefer(program.pid, capturing)
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        at_start = resident(program.pid)
        load.begin(2 * seconds)
        end = time.monotonic() + seconds
        highest = 0
        while time.monotonic() < end:
            highest = max(highest, resident(program.pid))
            time.sleep(0.1)
        load.end()
        result: dict[str, Any] = json.loads(program.communicate()[0])
        assert program.returncode == 0
    snapshot, calls = result["snapshot"], result["calls"]
    assert broken_laws(snapshot) == []
    assert snapshot["messages_request"] <= load.made + load.uncounted
    if not snapshot["kernel_dropped"]:
        assert snapshot["messages_request"] >= load.made
    callback, iterator = (snapshot["lanes"][name] for name in ("callback", "iterator"))
    assert calls["raised"] == callback["dropped_error"] > 0
    assert calls["made"] - calls["raised"] == callback["delivered"]
    assert calls["iterated"] == iterator["delivered"]
    assert callback["waiting"] == iterator["waiting"] == 0
    assert SANITIZED or highest <= at_start + 1.25 * BUDGET
    return result
