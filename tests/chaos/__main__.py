"""`make chaos`: tries every fault and prints the table of docs/internals/RELIABILITY.md."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.chaos.faults import Fault, Outcome, attempt, matrix
from tests.daemon import may_capture


def row(fault: Fault, outcome: Outcome) -> str:
    """A fault as a row of the table."""
    counted = ", ".join(f"{name} {count:,}" for name, count in outcome.counted.items()) or "0"
    verdict = "**broken**" if outcome.broken else "held"
    figures = ["", "", "", ""]
    if outcome.offered:
        figures = [f"{outcome.load:,.0f}", f"{outcome.offered:,}", f"{outcome.delivered:,}", counted]
    return "| " + " | ".join([fault.name, fault.promise, *figures, verdict]) + " |"


def main() -> int:
    """Tries every fault. Returns 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=9.0, help="how long each fault lasts")
    parser.add_argument("--at-once", type=int, default=3, help="faults tried at the same time")
    parser.add_argument("--only", default="", help="those with this in their name")
    arguments = parser.parse_args()
    if not may_capture():
        print("capturing needs the capability NET_RAW: run as root", file=sys.stderr)
        return 2
    begin = time.monotonic()
    faults = [fault for fault in matrix() if arguments.only in fault.name]
    faults = [fault for fault in faults if not fault.needs_root or os.geteuid() == 0]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.at_once) as pool:
        runs = [
            pool.submit(attempt, fault, Path(folder, str(number)), arguments.seconds)
            for number, fault in enumerate(faults)
        ]
        print("| fault | promise | load, msg/s | offered | delivered | not delivered, counted | verdict |")
        print("|---|---|---|---|---|---|---|", flush=True)
        broken = []
        for fault, run in zip(faults, runs, strict=True):
            outcome = run.result()
            print(row(fault, outcome), flush=True)
            broken += [f"{fault.name}: {promise}" for promise in outcome.broken]
    print(f"\n{len(faults)} faults of {arguments.seconds:g} s, {time.monotonic() - begin:.0f} s in all", end="")
    print(f"; {len(broken)} promises broken" if broken else "; every promise held")
    for sentence in broken:
        print(sentence, file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
