"""Instructions that the daemon executes for each message, counted by callgrind, so that a busy machine does not matter.

The difference between a shorter and a longer capture leaves out the start. `python -m tests.bench.instructions
--record` records new figures: use it with a change that is meant to change them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.bench.captures import CAPTURES, write

RECORD: Final = Path(__file__).with_suffix(".json")
TOLERANCE: Final = 0.05
SIZES: Final = {"small": (2_000, 12_000), "mixed": (1_000, 4_000), "short": (1_000, 5_000)}
"""For each shape, the messages of the shorter and of the longer capture."""


def available() -> bool:
    """Whether there is valgrind."""
    return shutil.which("valgrind") is not None


def _command(path: Path) -> list[str]:
    return [sys.executable, "-m", "sniffer", "--read", str(path), "--ports", "80", "--stdout", "--decode-bodies=no"]


def _count(path: Path) -> int:
    """Instructions of a daemon that reads this file without decoding bodies, since decoders are other projects'."""
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *_command(path)],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found is not None, done.stderr
    return int(found[1])


def measure() -> dict[str, int]:
    """Instructions per message, for each shape."""
    with TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        running = {}
        write(Path(folder, "first.pcap"), CAPTURES["small"](messages=400), step_us=50)
        subprocess.run(
            _command(Path(folder, "first.pcap")), capture_output=True, check=True
        )  # compiles the imported modules
        for shape, sizes in SIZES.items():
            for size in sizes:
                path = Path(folder, f"{shape}-{size}.pcap")
                write(path, CAPTURES[shape](messages=size), step_us=50)
                running[shape, size] = pool.submit(_count, path)
        return {
            shape: (running[shape, most].result() - running[shape, least].result()) // (most - least)
            for shape, (least, most) in SIZES.items()
        }


def recorded() -> dict[str, int]:
    """The recorded figures."""
    figures: dict[str, int] = json.loads(RECORD.read_text())
    return figures


def exceeds(figures: dict[str, int], record: dict[str, int]) -> list[str]:
    """The shapes that exceed the recorded instructions by more than the tolerance."""
    return [shape for shape, figure in figures.items() if figure > record[shape] * (1 + TOLERANCE)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Counts the instructions that each message takes.")
    parser.add_argument("--record", action="store_true", help="write them anew")
    record = parser.parse_args().record
    found = measure()
    print(found)
    if record:
        RECORD.write_text(json.dumps(found, indent=2) + "\n")
