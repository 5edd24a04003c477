"""`make bench ARGS=--live`: the sniffer beside a server and a load generator on the loopback interface.

nginx, with one worker, and wrk, with one thread, are pinned to one core. The sniffer has another ("own core"), or all
three share both ("shared cores"), so that its CPU time is taken from theirs. The pair's highest rate is that of wrk
without pauses. Prints Markdown; the exit code is 1 if a promise is broken.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

PORT: Final = 18_480
COLLECTOR: Final = PORT + 1
CONNECTIONS: Final = 64
PAUSE_MS: Final = 10
"""Pause between a response and the next request of a connection, where the rate is limited."""
PROBES: Final = 4
"""Short runs that find the number of connections for the wanted rate, within 5 %."""
SLOWER: Final = 0.10
"""The part of their highest rate that clients may lose to a sniffer on a core of its own."""
CONFIG: Final = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; user root;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 1000000000; client_max_body_size 64m; client_body_temp_path {folder}/body;
    server {{
        listen 127.0.0.1:{port};
        location / {{ default_type application/json; return 200 '{{"item":12345678,"left":123,"price":"9.80"}}'; }}
    }}
    server {{ listen 127.0.0.1:{collector}; location / {{ return 204; }} }}
}}
"""


@dataclass(frozen=True, slots=True)
class Load:
    """Results of wrk: responses, responses per second, 99th percentile of the latency in ms."""

    answers: int
    rate: float
    p99: float
    connections: int


@dataclass(frozen=True, slots=True)
class Seen:
    """Results of the sniffer: ledger, lane, CPU seconds while it captured, peak RSS in bytes."""

    ledger: dict[str, int]
    lane: dict[str, int]
    cpu: float
    rss: int
    balanced: bool

    @property
    def messages(self) -> int:
        return self.count("messages_request") + self.count("messages_response")

    @property
    def per_million(self) -> float:
        """CPU seconds per million messages."""
        return self.cpu / max(1, self.messages) * 1e6

    def count(self, name: str) -> int:
        return self.ledger.get(name, 0)

    @property
    def lost(self) -> int:
        """Messages that were emitted and not delivered."""
        dropped = sum(count for name, count in self.lane.items() if name.startswith("dropped_"))
        return self.count("handoff_dropped") + self.count("handoff_discarded") + dropped


def pinned(core: int | None, command: Sequence[str]) -> list[str]:
    """The command on one core, or on any."""
    return list(command) if core is None else ["taskset", "-c", str(core), *command]


def load(core: int | None, seconds: float, paused: int | None = None) -> Load:
    """One run of wrk: without pauses, or on this many connections that pause after each response."""
    connections = CONNECTIONS if paused is None else paused
    with TemporaryDirectory() as folder:
        script = Path(folder, "pause.lua")
        script.write_text("" if paused is None else f"function delay() return {PAUSE_MS} end\n")
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--latency", f"-s{script}"]
        said = subprocess.run(
            pinned(core, [*command, f"http://127.0.0.1:{PORT}/items/17?page=2"]),
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    found = re.search(r"99%\s+([\d.]+)(us|ms|s)\b.*?(\d+) requests in.*?Requests/sec:\s+([\d.]+)", said, re.DOTALL)
    if found is None or "Non-2xx" in said:
        raise RuntimeError(said)
    unit = {"us": 1e-3, "ms": 1.0, "s": 1e3}[found[2]]
    return Load(int(found[3]), float(found[4]), float(found[1]) * unit, connections)


def paused(core: int | None, rate: float) -> int:
    """The number of pausing connections that make about this rate."""
    connections = max(1, round(rate * PAUSE_MS / 1000))
    for _ in range(PROBES):
        reached = load(core, 2.0, connections).rate
        if abs(reached / rate - 1) < 0.05:
            break
        connections = max(1, round(connections * rate / reached))
    return connections


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Sniffing:
    """The daemon, from its start to its last line."""

    def __init__(self, core: int | None, *options: str) -> None:
        command = [sys.executable, "-m", "sniffer", "--interface=lo", f"--ports={PORT}", "--log-format=json", *options]
        self._process = subprocess.Popen(
            pinned(core, command), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if '"message":"started"' in line:
                break
        else:
            raise RuntimeError("the daemon did not start; capturing needs the privilege")
        self._before = _cpu(self._process.pid)

    def end(self) -> Seen:
        """Stops it."""
        time.sleep(0.2)  # the last packets are in the ring
        cpu = _cpu(self._process.pid) - self._before
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        peak = re.search(r"VmHWM:\s+(\d+)", status)
        self._process.send_signal(signal.SIGTERM)
        _, said = self._process.communicate()
        lines: list[dict[str, Any]] = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        stopped = next(line for line in lines if line["message"] == "stopped")
        balanced = not any(line["message"] == "the ledger does not balance" for line in lines)
        (lane,) = stopped["lanes"].values()
        return Seen(stopped["ledger"], lane, cpu, int(peak[1]) * 1024 if peak else 0, balanced)


@contextmanager
def server(core: int | None) -> Iterator[None]:
    """nginx, listening."""
    with TemporaryDirectory() as folder:
        config = Path(folder, "nginx.conf")
        config.write_text(CONFIG.format(folder=folder, port=PORT, collector=COLLECTOR))
        process = subprocess.Popen(pinned(core, ["nginx", "-c", str(config), "-p", folder]), stderr=subprocess.DEVNULL)
        try:
            for _ in range(100):
                probe = ["curl", "-sf", f"http://127.0.0.1:{PORT}/"]
                if subprocess.run(probe, check=False, capture_output=True).returncode == 0:
                    break
                time.sleep(0.05)
            else:
                raise RuntimeError(f"nginx does not answer: {Path(folder, 'error.log').read_text()}")
            yield
        finally:
            process.terminate()
            process.wait()


def unaccounted(done: Load, seen: Seen) -> list[str]:
    """The errors in the sniffer's account of this load."""
    wrong = []
    if not seen.balanced:
        wrong.append("the ledger does not balance")
    if seen.lane["offered"] != seen.lane["delivered"] + sum(
        count for name, count in seen.lane.items() if name.startswith("dropped_") or name in ("rejected", "spooled")
    ):
        wrong.append(f"the lane does not account for what it was offered: {seen.lane}")
    if seen.count("packets_seen") > seen.count("kernel_received") - seen.count("kernel_dropped"):
        wrong.append("more packets were read than the kernel delivered")
    if not seen.count("kernel_dropped"):
        wrong += [
            f"{name} {seen.count(name):,} where wrk counts {done.answers:,} answers"
            for name in ("messages_request", "messages_response")  # wrk does not count the last ones
            if not done.answers <= seen.count(name) <= done.answers + done.connections
        ]
    return wrong


def row(name: str, done: Load, seen: Seen, seconds: float) -> str:
    """A row of the table."""
    return (
        f"| {name} | {done.rate:,.0f} | {done.answers:,} | {seen.count('messages_response'):,} "
        f"| {seen.count('kernel_dropped'):,} | {seen.lost:,} | {seen.cpu / seconds * 100:.0f} % "
        f"| {seen.per_million:.2f} | {done.p99:.1f} | {seen.rss / 1e6:.0f} |"
    )


HEAD: Final = (
    "| load, output | requests/s | answered (wrk) | captured | kernel drops | messages lost | a core "
    "| CPU s per million | p99 ms | peak RSS MB |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def beside(core: int | None, sniffer: int | None, seconds: float, paused: int | None, *out: str) -> tuple[Load, Seen]:
    """One run of the load with the sniffer."""
    sniffing = Sniffing(sniffer, *out)
    try:
        done = load(core, seconds, paused)
    finally:
        seen = sniffing.end()
    return done, seen


def highest(core: int | None, sniffer: int | None, seconds: float, rounds: int) -> tuple[float, float, list[str]]:
    """Measures the pair's highest rate alone and beside the sniffer, in turn. Returns the errors."""
    alone, together, wrong = [], [], []
    for number in range(rounds):
        alone.append(load(core, seconds).rate)
        done, seen = beside(core, sniffer, seconds, None, "--stdout")
        together.append(done.rate)
        wrong += unaccounted(done, seen)
        print(row(f"highest {number + 1}, stdout", done, seen, seconds), flush=True)
    return statistics.median(alone), statistics.median(together), wrong


def main(quick: bool = False) -> int:
    """Runs everything. The exit code is 1 if a promise is broken."""
    missing = [name for name in ("nginx", "wrk", "taskset", "curl") if shutil.which(name) is None]
    if missing or (os.cpu_count() or 1) < 2:
        print(f"Not measured live: needs two cores, and {', '.join(missing)} to be installed.")
        return 0
    seconds, long, rounds = (2.0, 3.0, 1) if quick else (8.0, 60.0, 3)
    batches = (f"--output-url=http://127.0.0.1:{COLLECTOR}/", "--output-batch-size=1000")
    wrong: list[str] = []
    print(f"\n### Live, the sniffer on a core of its own\n\n{HEAD}")
    with server(0):
        alone, together, found = highest(0, 1, seconds, rounds)
        wrong += found
        half = paused(0, alone / 2)
        for number in range(rounds):
            done, seen = beside(0, 1, long, half, "--stdout")
            print(row(f"half {number + 1}, stdout", done, seen, long), flush=True)
            wrong += unaccounted(done, seen)
            wrong += [f"half {number + 1}: {seen.count('kernel_dropped'):,} drops"] * bool(seen.count("kernel_dropped"))
        done, seen = beside(0, 1, seconds * 2, half, *batches)
        print(row("half, POST in batches of 1,000", done, seen, seconds * 2), flush=True)
        wrong += unaccounted(done, seen)
    slower = 1 - together / alone
    print(f"\nHighest rate alone {alone:,.0f} requests/s, beside the sniffer {together:,.0f}: {slower:.1%} slower.")
    wrong += [f"clients are slowed by {slower:.1%}"] * (slower > SLOWER)
    print(f"\n### Live, three on two cores\n\n{HEAD}")
    with server(None):
        alone, together, found = highest(None, None, seconds, rounds)
        wrong += found
    slower = 1 - together / alone
    print(f"\nHighest rate alone {alone:,.0f} requests/s, beside the sniffer {together:,.0f}: {slower:.1%} slower.")
    for each in wrong:
        print(f"NOT KEPT: {each}", file=sys.stderr)
    return 1 if wrong else 0
