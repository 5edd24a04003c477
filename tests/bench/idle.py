"""The cost of an idle daemon, of open connections, and of a full budget."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sniffer.capture.live import BUSY_SECONDS
from sniffer.capture.thread import feed_batch
from sniffer_core.core import FlowTable
from tests.bench.captures import spread
from tests.packets import ETHERNET, START, Packet, to_feed

QUIET: Final = 4
"""Seconds without CPU time after which a process counts as waiting."""


@dataclass(frozen=True, slots=True)
class Idle:
    """An idle live daemon: seconds from exec to `started`, then per second, and bytes."""

    start: float
    wakeups: float
    cpu: float
    rss: int


def _rss(pid: int | str = "self") -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _switches(pid: int) -> int:
    """Voluntary context switches of all threads: the number of wake-ups."""
    statuses = [task.joinpath("status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    lines = [line for status in statuses for line in status.splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle(seconds: float) -> Idle:
    """Measures a daemon that watches an unused port of loopback. Needs the privilege to capture."""
    command = [sys.executable, "-m", "sniffer", "--interface", "lo", "--ports", "9", "--stdout"]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if b'"started"' in line:
                break
        else:
            raise RuntimeError(f"the daemon did not start: {lines}")
        start = time.perf_counter() - began
        time.sleep(BUSY_SECONDS + 1.5)  # the seconds after a start or after packets are not idle yet
        switches, cpu, began = _switches(process.pid), _cpu(process.pid), time.perf_counter()
        time.sleep(seconds)
        took = time.perf_counter() - began
        return Idle(
            start, (_switches(process.pid) - switches) / took, (_cpu(process.pid) - cpu) / took, _rss(process.pid)
        )
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()


def whole_budget(path: Path, budget: int) -> int:
    """The peak RSS of a daemon that reads this capture while nobody reads its output, so that its budget is full."""
    command = [sys.executable, "-m", "sniffer", "--read", str(path), "--ports=80", "--stdout"]
    command += ["--max-concurrent-connections=120000", f"--memory-budget={budget}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        used, quiet = 0.0, 0
        while quiet < QUIET:  # until it waits
            time.sleep(1)
            now = _cpu(process.pid)
            quiet = quiet + 1 if now == used and now > 0 else 0
            used = now
        status = Path(f"/proc/{process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    finally:
        process.kill()
        process.communicate()


def held(connections: int, memory_limit: int) -> dict[str, int]:
    """Fills a table with open connections of one exchange each. Returns the RSS it took, and its gauges."""
    table = FlowTable(linktype=ETHERNET, ports=[80], max_flows=connections, memory_limit=memory_limit)
    packets = spread(connections, messages=2 * connections)
    batch = [Packet(START, next(packets))]  # the generator of packets allocates its memory here
    before = _rss()
    for number, packet in enumerate(packets, 1):
        batch.append(Packet(START + 50 * number, packet))
        if len(batch) == 256:
            _feed(table, batch)
    _feed(table, batch)
    return {"rss": _rss() - before, **table.gauges()}


def _feed(table: FlowTable, batch: list[Packet]) -> None:
    for _ in feed_batch(table, to_feed(batch)):
        pass
    batch.clear()
