"""`make bench ARGS=--spool`: posting to a collector with `SPOOL_DIR` and without, in turn. Prints Markdown.

A capture is read as fast as possible, and every message is posted to nginx on the loopback interface, which accepts it
at once. So the difference is the cost of the disk. The spool lies beside the captures. Times begin at `started`.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.bench.live import COLLECTOR, server

SIZES: Final = {1: (16_000, 2_000), 1000: (240_000, 10_000)}
"""Messages by batch size; the second number is for --quick."""


class Run(NamedTuple):
    """Seconds from `started` to `stopped`; CPU seconds of the whole process."""

    wall: float
    cpu: float


def run(path: Path, size: int, spool: str | None) -> Run:
    """Reads a capture and posts its messages in batches of `size`."""
    url = f"http://127.0.0.1:{COLLECTOR}/"
    command = [sys.executable, "-m", "sniffer", "--read", str(path), "--ports=80", "--log-format=json"]
    command += [f"--output-url={url}", f"--output-batch-size={size}", *([f"--spool-dir={spool}"] if spool else [])]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        lines: list[dict[str, Any]] = [json.loads(line) for line in log if line.startswith("{")]
    at = {line["message"]: datetime.fromisoformat(line["timestamp"]) for line in lines}
    lane = lines[-1]["lanes"]["url"]
    if process.returncode or lane["delivered"] != lane["offered"] or not lane["offered"]:
        raise RuntimeError(f"not everything was delivered: {lines[-1]}")
    return Run((at["stopped"] - at["started"]).total_seconds(), usage.ru_utime + usage.ru_stime)


def main(folder: Path, capture: Callable[[int], Path], rounds: int, *, quick: bool) -> int:
    """Prints the table. `capture` makes a file with so many messages."""
    missing = [name for name in ("nginx", "curl") if shutil.which(name) is None]
    if missing:
        print(f"Not measured with a spool: {', '.join(missing)} not installed.")
        return 0
    print("\n### The spool\n\n| messages in a POST | spool | messages | wall s | CPU s | messages/s | with / without |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    with server(None):
        for size, numbers in SIZES.items():
            path = capture(numbers[quick])
            runs: dict[str, list[Run]] = {"no": [], "yes": []}
            for _ in range(rounds):
                for spooled, done in runs.items():
                    with tempfile.TemporaryDirectory(dir=folder) as spool:
                        done.append(run(path, size, spool if spooled == "yes" else None))
            walls = {spooled: statistics.median(each.wall for each in done) for spooled, done in runs.items()}
            for spooled, done in runs.items():
                cpu = statistics.median(each.cpu for each in done)
                ratio = walls[spooled] / walls["no"]
                print(
                    f"| {size:,} | {spooled} | {numbers[quick]:,} | {walls[spooled]:.2f} | {cpu:.2f} "
                    f"| {numbers[quick] / walls[spooled]:,.0f} | {ratio:.2f} |",
                    flush=True,
                )
    return 0
