"""Runs every attack at full size through the real daemon, and says what it took: `python -m tests.adversarial`.

Each is run at a quarter of its size too: the CPU for a byte must not grow with the number of bytes.
"""

from __future__ import annotations

import argparse
import sys

from tests.adversarial.attacks import ATTACKS
from tests.adversarial.daemon import attack_daemon, attack_every_output

BUDGET = 64 << 20
GROWTH = 2.0
"""How much dearer a byte may be at four times the size; a clock tick and another process in the way are no attack."""


def main() -> int:
    """The table, and 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.adversarial")
    parser.add_argument("attacks", nargs="*", help=", ".join(ATTACKS))
    parser.add_argument("--scale", type=float, default=1.0, help="of the full sizes (1)")
    given = parser.parse_args()
    print("| attack | packets | MB | RSS at start | peak | bound | honest exchanges | evicted | CPU, s | growth |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    broken = 0
    for name in given.attacks or ATTACKS:
        part = attack_daemon([name], lambda attack: int(attack.full * given.scale / 4), budget=BUDGET)
        whole = attack_daemon([name], lambda attack: int(attack.full * given.scale), budget=BUDGET)
        growth = (whole.cpu / whole.size) / (max(part.cpu, 0.05) / part.size)
        evicted = sum(count for counter, count in whole.ledger.items() if "evicted" in counter)
        sizes = " | ".join(f"{size / (1 << 20):.0f}" for size in (whole.at_start, whole.peak, whole.bound))
        print(
            f"| {name} | {whole.packets:,} | {whole.size / 1e6:.0f} | {sizes} | {whole.honest_seen // 2:,} of "
            f"{whole.honest_sent:,} | {evicted:,} | {whole.cpu:.1f} | {growth:.2f} |",
            flush=True,
        )
        try:
            part.check()
            whole.check()
            assert growth <= GROWTH, "the CPU for a byte grows"
        except AssertionError as error:
            print(f"BROKEN: {name}: {error}")
            broken = 1
    print("\n| all at once, every output: budget, MiB | packets | MB | RSS at start | peak | bound | CPU, s |")
    print("|---|---|---|---|---|---|---|")
    for budget in (8, 64, 128):
        run = attack_every_output(lambda attack: int(attack.short * given.scale), budget=budget << 20)
        sizes = " | ".join(f"{size / (1 << 20):.0f}" for size in (run.at_start, run.peak, run.bound))
        print(f"| {budget} | {run.packets:,} | {run.size / 1e6:.0f} | {sizes} | {run.cpu:.1f} |", flush=True)
        try:
            run.check()
        except AssertionError as error:
            print(f"BROKEN: {budget} MiB: {error}")
            broken = 1
    return broken


if __name__ == "__main__":
    sys.exit(main())
