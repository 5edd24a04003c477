"""`make bench`: runs the sniffer, its peers and a program that only reads on the same captures.

It prints the Markdown tables of docs/internals/PERFORMANCE.md and fails on a regression. `--live` and `--spool` print
the tables of tests/bench/live.py and spool.py. Figures are those of whole processes, with the captures in the page
cache: wall time (the median of the rounds), CPU time, peak RSS.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from tests.bench import idle, instructions, linear, live, pairs, spool, ui

ROUNDS: Final = 5
ALLOWANCE: Final = 20.0
"""Seconds for all rounds of a program on one capture. A slow program gets fewer rounds."""
SHAPES: Final = {
    "small": (1_020_000, 20_000),
    "mixed": (80_000, 4_000),
    "short": (158_000, 4_000),
    "large": (40, 4),
    "lossy": (60_000, 4_000),
    "onebyte": (4_000, 200),
    "few": (400_000, 20_000),
    "many": (400_000, 20_000),
}
"""Messages of each shape; the second number is for --quick."""
ALONE: Final = ("few", "many")
"""Shapes that are compared with each other, not with the peers."""
BUDGET: Final = 64 << 20
HOLDING: Final = ["--max-concurrent-connections=120000", "--memory-budget=1073741824"]
READING: Final = """
import sys, pcapy
reader = pcapy.open_offline(sys.argv[1])
while reader.next_batch(1024)[1]:
    pass
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a program. Times in seconds, RSS in bytes."""

    wall: float
    cpu: float
    rss: int
    stderr: str


def run(command: list[str], folder: str) -> Run:
    """Runs the program in its own folder, with standard output to /dev/null."""
    with tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONDONTWRITEBYTECODE": ""},  # as after an installation
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        stderr = errors.read()
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}: {stderr}")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, stderr)


def programs(shape: str, path: str) -> dict[str, list[str]]:
    """The command of each installed program."""
    ours = [sys.executable, "-m", "sniffer", "--read", path, "--ports", "80", "--stdout", "--log-format", "json"]
    found = {"reading": [sys.executable, "-c", READING, path], "ours": ours + (HOLDING if shape in ALONE else [])}
    if shape in ALONE:
        return found
    if shape == "mixed":
        found["ours, not decoding"] = [*ours, "--decode-bodies=no"]
    fields = [f"-ehttp.{name}" for name in ("request.method", "request.uri", "response.code")]
    peers = {
        "httpry": ["httpry", "-q", "-r", path, "-o", "/dev/null"],
        "tcpflow": ["tcpflow", "-r", path, "-o", "."],
        "tshark": ["tshark", "-n", "-r", path, "-Y", "http", "-T", "fields", *fields],
    }
    return found | {name: command for name, command in peers.items() if shutil.which(name)}


def check(result: Run, messages: int) -> None:
    """Checks that the sniffer has written every message of the capture."""
    stopped = next(json.loads(line) for line in result.stderr.splitlines() if '"message":"stopped"' in line)
    delivered = stopped["lanes"]["stdout"]["delivered"]
    if delivered != messages:
        raise RuntimeError(f"{delivered} messages in place of {messages}: {stopped}")


def compare(shape: str, path: Path, messages: int, rounds: int) -> dict[str, list[Run]]:
    """Runs the programs in turn; returns the runs of each."""
    results: dict[str, list[Run]] = {}
    for _ in range(rounds):
        for name, command in programs(shape, str(path)).items():
            runs = results.setdefault(name, [])
            if runs and sum(each.wall for each in runs) + runs[0].wall > ALLOWANCE:
                continue
            folder = tempfile.mkdtemp(dir=path.parent)
            runs.append(run(command, folder))
            # tcpflow leaves 100,000 files. Removing them in this process would make it grow, and a child's peak RSS
            # cannot be read below that of the program it was forked from.
            subprocess.run(["rm", "-rf", folder], check=True)
            if name.startswith("ours") and shape != "lossy":
                check(runs[-1], messages)
    return results


def median(runs: list[Run]) -> float:
    """The median wall time in seconds."""
    return statistics.median(each.wall for each in runs)


def table(results: dict[str, list[Run]], messages: int, size: int) -> Iterator[str]:
    """Rows of Markdown."""
    yield "| program | rounds | wall s | CPU s | ours / it | it / reading | messages/s | MB/s | peak RSS MB |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    ours, reading = median(results["ours"]), median(results["reading"])
    for name, runs in results.items():
        wall = median(runs)
        cpu = statistics.median(each.cpu for each in runs)
        rss = max(each.rss for each in runs) / 1e6
        row = f"{wall:.2f} | {cpu:.2f} | {ours / wall:.2f} | {wall / reading:.1f} | {messages / wall:,.0f}"
        yield f"| {name} | {len(runs)} | {row} | {size / 1e6 / wall:,.0f} | {rss:.0f} |"


def capture(folder: Path, shape: str, messages: int) -> Path:
    """The capture file, made if it does not exist. Another process makes it, so that the harness stays small."""
    path = folder / f"{shape}-{messages}.pcap"
    if not path.exists():
        part = path.with_suffix(".part")
        subprocess.run([sys.executable, "-m", "tests.bench.captures", shape, str(part), str(messages)], check=True)
        part.rename(path)
    return path


def machine() -> str:
    """A line about the machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    load = " ".join(f"{each:.2f}" for each in os.getloadavg())
    kernel = platform.release()
    return f"{os.cpu_count()} cores ({model}), Python {platform.python_version()}, Linux {kernel}, load average {load}"


def report_pairs(path: Path, messages: int) -> bool:
    """Prints how many pairs of the lossy capture were found. Returns whether none is wrong."""
    with tempfile.TemporaryFile("w+b") as output:
        subprocess.run(programs("lossy", str(path))["ours"], stdout=output, stderr=subprocess.DEVNULL, check=True)
        output.seek(0)
        found = pairs.judged(pairs.known(messages), output)
    counts = ", ".join(f"{count:,} {verdict}" for verdict, count in found.items())
    print(f"\nOf {found.total():,} pairs that the endpoints know: {counts}.", flush=True)
    return found["wrong"] == 0


def report_shapes(folder: Path, shapes: list[str], rounds: int, quick: bool) -> bool:
    """Prints the sniffer's figures beside those of the peers. Returns whether no pair is wrong."""
    ours = {}
    right = True
    for shape in shapes:
        messages = SHAPES[shape][quick]
        path = capture(folder, shape, messages)
        results = compare(shape, path, messages, rounds)
        ours[shape] = median(results["ours"]) / messages * 1e6
        print(f"\n### {shape}: {messages:,} messages, {path.stat().st_size / 1e6:,.0f} MB\n")
        print("\n".join(table(results, messages, path.stat().st_size)), flush=True)
        if shape == "lossy":
            right = report_pairs(path, messages)
    if set(ALONE) <= set(ours):
        few, many = (ours[shape] for shape in ALONE)
        print(f"\nAt 10 connections {few:.2f} µs per message, at 100,000 {many:.2f}, their opening included.")
    return right


def report_linear() -> None:
    """Prints the cost of a unit of hostile traffic."""
    print(f"\n### Hostile traffic\n\n| what | n | ns each | ns each at {linear.GROWTH}n | growth |")
    print("|---|---:|---:|---:|---:|")
    for name, size, small, large in linear.rows():
        print(f"| {name} | {size:,} | {small:.0f} | {large:.0f} | {large / small:.2f} |", flush=True)


def report_idle(seconds: float, folder: Path, messages: int) -> None:
    """Prints the cost when idle, with open connections, and with a full budget."""
    print("\n### Idle\n")
    try:
        found = idle.idle(seconds)
    except RuntimeError as error:
        print(f"Not measured: {error}")
    else:
        print(f"From exec to `started` {found.start:.2f} s; then {found.wakeups:.1f} wake-ups per second, ", end="")
        print(f"{found.cpu * 100:.2f} % of a core over {seconds:.0f} s, RSS {found.rss / 1e6:.0f} MB.")
    for limit in (64 << 20, 1 << 30):
        for connections in (10_000, 100_000):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                held = pool.submit(idle.held, connections, limit).result()
            print(f"\n{connections:,} connections opened, limit {limit >> 20} MiB: {held['flows']:,} held, ", end="")
            print(
                f"{held['memory_bytes'] / 1e6:.1f} MB by the core's count, RSS {held['rss'] / 1e6:+.1f} MB.", flush=True
            )
    started = run(programs("few", str(capture(folder, "few", 20)))["ours"], ".").rss
    peak = idle.whole_budget(capture(folder, "many", messages), BUDGET) - started
    print(
        f"\nA budget of {BUDGET / 1e6:.0f} MB, a capture of 100,000 connections, an output that nobody reads: ", end=""
    )
    print(f"RSS {peak / 1e6:+.0f} MB, {peak / BUDGET:.2f} of the budget (1.25 is the bound).", flush=True)


def report_instructions() -> list[str]:
    """Prints instructions per message beside the recorded ones. Returns the shapes that exceed them."""
    print("\n### Instructions per message\n")
    if not instructions.available():
        print("Not counted: valgrind is not installed.")
        return []
    found, record = instructions.measure(), instructions.recorded()
    for shape, figure in found.items():
        print(f"{shape}: {figure:,} (recorded {record[shape]:,}, {figure / record[shape] - 1:+.1%})\n")
    return instructions.exceeds(found, record)


def main() -> int:
    """Runs everything, or the named shapes."""
    parser = argparse.ArgumentParser(prog="bench", description="Measures the sniffer beside its peers.")
    parser.add_argument("--live", action="store_true", help="beside a server and a load generator, nothing else")
    parser.add_argument("--ui", action="store_true", help="what the live view costs, nothing else")
    parser.add_argument("--spool", action="store_true", help="posting with a spool and without, nothing else")
    parser.add_argument("--quick", action="store_true", help="small captures")
    parser.add_argument("--shape", action="append", choices=SHAPES, help="only this shape, nothing else; repeatable")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--dir", type=Path, default=Path("build/bench"), help="where captures are kept")
    options = parser.parse_args()
    print(f"{machine()}\n")
    if options.live:
        return live.main(quick=options.quick)
    if options.ui:
        return ui.main(quick=options.quick)
    options.dir.mkdir(parents=True, exist_ok=True)
    folder = options.dir.resolve()
    if options.spool:
        rounds = min(options.rounds, 3)
        return spool.main(folder, lambda messages: capture(folder, "small", messages), rounds, quick=options.quick)
    missing = [name for name in ("httpry", "tcpflow", "tshark") if not shutil.which(name)]
    if missing:
        print(f"Not installed: {', '.join(missing)}.\n")
    right = report_shapes(folder, options.shape or list(SHAPES), options.rounds, options.quick)
    if not right:
        print("A pair of the lossy capture is wrong.", file=sys.stderr)
    if options.shape:
        return int(not right)
    report_linear()
    report_idle(2 if options.quick else 10, folder, SHAPES["many"][options.quick])
    worse = report_instructions()
    if worse:
        print(f"More instructions per message than recorded: {', '.join(worse)}", file=sys.stderr)
    return int(bool(worse) or not right)


if __name__ == "__main__":
    sys.exit(main())
