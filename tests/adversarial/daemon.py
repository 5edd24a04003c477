"""The real daemon under attack: how far its memory goes, what it takes, and what becomes of the honest connection."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tests.adversarial.attacks import ATTACKS, Attack, mixed, packets
from tests.packets import Packet, pcap
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
APART = 400_000_000
"""µs between two attacks: the connections of the first are idle by then."""


class Outcome(NamedTuple):
    """What came of one run."""

    packets: int
    size: int
    """Bytes of the capture."""
    budget: int
    at_start: int
    peak: int
    """RSS when it waited for the first packet, and the most after that."""
    cpu: float
    honest_sent: int
    honest_seen: int
    """Exchanges, and the messages of them that came out whole."""
    ledger: dict[str, Any]
    code: int

    @property
    def bound(self) -> int:
        """The promise: RSS after start + 1.25 × budget."""
        return self.at_start + self.budget * 5 // 4

    def check(self) -> None:
        """The promises of every attack."""
        assert self.code == 0
        assert self.peak <= self.bound, f"{self.peak >> 20} MiB where {self.bound >> 20} MiB are promised"
        assert self.honest_seen == 2 * self.honest_sent


def _status(pid: int, name: str) -> int:
    """A value of /proc/PID/status in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) << 10


def _cpu(pid: int) -> float:
    """Seconds of CPU that the process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _all_packets(names: Sequence[str], size: Callable[[Attack], int]) -> Iterator[Packet]:
    for number, name in enumerate(names):
        attack = ATTACKS[name]
        for packet in packets(attack.make(size(attack))):
            yield Packet(packet.stamp + number * APART, packet.data)


class _Sampler(threading.Thread):
    """The highest RSS so far, as the kernel keeps it, and the CPU taken, of a process that may end at any time."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self.peak = 0
        self.cpu = 0.0

    def run(self) -> None:
        try:
            while True:
                self.peak = max(self.peak, _status(self._pid, "VmHWM"))
                self.cpu = _cpu(self._pid)
                time.sleep(0.02)
        except (OSError, IndexError):  # it has ended
            pass


def attack_daemon(names: Sequence[str], size: Callable[[Attack], int], *, budget: int) -> Outcome:
    """Runs these attacks one after the other through one daemon that writes to standard output."""
    return _run(_all_packets(names, size), budget, max(ATTACKS[name].max_flows for name in names))


def attack_every_output(size: Callable[[Attack], int], *, budget: int) -> Outcome:
    """Runs all attacks at once through one daemon with every output: a file, HAR, the page, a collector."""
    with tempfile.TemporaryDirectory() as folder, _collector() as url:
        outputs = [
            *("--har", str(Path(folder, "har")), "--ui"),
            *("--output-url", url, "--output-batch-size", "100", "--output-batch-wait-ms", "20"),
        ]
        return _run(packets(mixed(size)), budget, 10_000_000, outputs)


class _Taker(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        left = int(self.headers["Content-Length"])
        while left:
            left -= len(self.rfile.read(min(left, 1 << 16)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _collector() -> Iterator[str]:
    """A collector that takes everything."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Taker) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def _run(feed: Iterator[Packet], budget: int, flows: int, outputs: Sequence[str] = ()) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        pipe, log, output = (Path(folder, name) for name in ("pipe", "log", "output"))
        os.mkfifo(pipe)
        arguments = [
            *("--ports", "80", "--read", str(pipe), "--stdout", "--stats-interval-ms", "0", "--log-format", "json"),
            *("--memory-budget", str(budget), "--max-concurrent-connections", str(flows), *outputs),
        ]
        with log.open("wb") as errors, output.open("wb") as lines:
            process = subprocess.Popen(
                [sys.executable, "-m", "sniffer", *arguments], cwd=ROOT, stdout=lines, stderr=errors
            )
            try:
                return _watch(process, pipe, log, output, feed, budget)
            finally:
                process.kill()
                process.wait()


def _watch(
    process: subprocess.Popen[bytes], pipe: Path, log: Path, output: Path, feed: Iterator[Packet], budget: int
) -> Outcome:
    sent = size = honest = 0
    with _writer(process, pipe, log) as writer:
        writer.write(pcap([]))
        writer.flush()

        def has_started() -> bool:
            assert process.poll() is None, log.read_text()
            return bool(_lines(log, "started"))

        wait_until(has_started, "the daemon has started", seconds=60)
        at_start, cpu_at_start = _status(process.pid, "VmRSS"), _cpu(process.pid)
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # VmHWM counts from here
        sampler = _Sampler(process.pid)
        sampler.start()
        for packet in feed:
            seconds, micros = divmod(packet.stamp, 1_000_000)
            writer.write(struct.pack("<IIII", seconds, micros, len(packet.data), len(packet.data)) + packet.data)
            sent += 1
            size += len(packet.data)
            honest += b"GET /honest/" in packet.data
    while process.poll() is None and not _lines(log, "stopped"):  # the page stays until a signal
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code = process.wait(60)
    sampler.join()
    ledger: dict[str, Any] = _lines(log, "stopped")[-1]["ledger"]
    assert ledger["packets_seen"] == sent
    return Outcome(
        sent, size, budget, at_start, sampler.peak, sampler.cpu - cpu_at_start, honest, _whole(output), ledger, code
    )


def _writer(process: subprocess.Popen[bytes], pipe: Path, log: Path) -> BinaryIO:
    """The pipe, once the daemon reads it; one that has ended instead would be waited for without an end."""
    while True:
        try:
            descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        else:
            os.set_blocking(descriptor, True)
            return os.fdopen(descriptor, "wb")


def _whole(output: Path) -> int:
    """How many messages of the honest connection came out whole."""
    with output.open("rb") as lines:
        return sum(b'"path":"/honest/' in line and b'"incomplete"' not in line for line in lines)


def _lines(log: Path, message: str) -> list[dict[str, Any]]:
    whole = log.read_bytes().rpartition(b"\n")[0].splitlines()
    return [line for text in whole if text.startswith(b"{") and (line := json.loads(text))["message"] == message]
