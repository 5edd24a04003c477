"""`make soak`: runs the soak for minutes and prints the table of docs/internals/RELIABILITY.md."""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from sniffer.ledger import Snapshot
from tests.soak.harness import Run, assert_accounted, assert_flat, soak_daemon, soak_library

CYCLE = 60.0


def table(run: Run) -> str:
    """One row for each cycle."""
    lines = [
        "| minute | RSS, MiB | highest | core | msg/s | kernel lost | hand-off lost | stdout | lost | URL | lost |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    begins = [run.samples[0], *(b for a, b in pairwise(run.samples) if a.second // CYCLE != b.second // CYCLE)]
    for number, first in enumerate(begins):
        samples = [sample for sample in run.samples if sample.second // CYCLE == number]
        last = samples[-1]

        messages = ("tcp_sniffer_messages_request", "tcp_sniffer_messages_response")
        count = sum(last.metrics[name] - first.metrics[name] for name in messages)
        lost = [
            int(last.metrics[name] - first.metrics[name])
            for name in ("tcp_sniffer_kernel_dropped", "tcp_sniffer_handoff_dropped")
        ]
        lanes = [
            value
            for lane in ("stdout", "url")
            for value in (
                last.lane("delivered", lane) - first.lane("delivered", lane),
                last.dropped(lane) - first.dropped(lane),
            )
        ]
        cells = [
            str(number + 1),
            f"{run.rss_of_cycle(number) / 2**20:.1f}",
            f"{max(sample.rss for sample in samples) / 2**20:.1f}",
            f"{max(sample.metrics['tcp_sniffer_memory_bytes'] for sample in samples) / 2**20:.1f}",
            f"{count / (last.second - first.second):,.0f}",
            *(f"{value:,}" for value in (*lost, *lanes)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def losses(snapshot: Snapshot) -> str:
    """The counters of each lane."""
    return "\n".join(
        f"{name}: " + ", ".join(f"{counter} {count:,}" for counter, count in counters.items() if count)
        for name, counters in snapshot["lanes"].items()
    )


def main() -> None:
    """Runs daemon and library. Raises AssertionError if a promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument(
        "--seconds", type=float, default=5 * CYCLE, help="length of the daemon's run; the library's: a fifth"
    )
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        print(f"soaking the daemon for {seconds:.0f} s ...", flush=True)
        begin = time.monotonic()
        run = asyncio.run(soak_daemon(seconds, CYCLE, Path(folder)))
        final = run.final
        print(table(run), losses(final), sep="\n\n")
        print(
            f"\nload: {run.load}; requests made {run.made:,} (+ at most {run.uncounted}), captured"
            f" {final['messages_request']:,}; packets seen {final['packets_seen']:,}, dropped by the kernel"
            f" {final['kernel_dropped']:,}; RSS at start {run.rss_at_start / 2**20:.1f} MiB; exit code"
            f" {run.exit_code} after {time.monotonic() - begin:.0f} s"
        )
        assert_accounted(run)
        if seconds >= 3 * CYCLE:
            assert_flat(run)
        print(f"soaking the library for {seconds / 5:.0f} s ...", flush=True)
        result = soak_library(seconds / 5, Path(folder))
        print(losses(result["snapshot"]))
        print("every law balances, nothing is unaccounted")


if __name__ == "__main__":
    main()
