"""The same bytes from two builds: `python -m tests.same REVISION [FILE or FOLDER ...]`.

The revision is checked out under build/same and its core is built there. Both builds then read every capture of the
folders, and captures that are generated (whole and with losses), under several configurations. Their JSON lines must
be the same, byte for byte; fields that only one of the two writes can be left out by name (`--without`). The exit code
is 1 where a line differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
SUFFIXES: Final = frozenset({".pcap", ".pcapng", ".cap"})
CONFIGURATIONS: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "coded": {"decode_bodies": False, "max_body_size": 1_000},
    "marked": {"redact_headers": ["host", "cookie", "set-cookie"], "redact_query": ["a", "id", "q"]},
    "short lines": {"output_stdout_max_line": 4_096},
    "few connections": {"max_concurrent_connections": 2, "connection_idle_timeout_ms": 2_000},
}
PROGRAM: Final = """
import asyncio, json, logging, os, sys
from sniffer import CaptureError, create_sniffer

logging.disable(logging.CRITICAL)
PORTS = [*range(1, 1024), 1080, 3000, 3128, 5000, *range(8000, 9000), 9200, 10080, 40000]

async def read(path, options):
    sniffer = create_sniffer(ports=PORTS, read=path, output_stdout=True, **options)
    getattr(sniffer, "only_outputs", bool)()    # as the daemon does; not every revision has it
    async with sniffer:
        await sniffer.wait()

for line in sys.stdin:
    path, options = json.loads(line)
    try:
        asyncio.run(read(path, options))
    except CaptureError as error:
        print("error:", type(error).__name__)
    sys.stdout.flush()
    os.write(1, b"\\0\\n")
"""
"""Reads the captures named on standard input; a NUL ends the lines of each."""


def check_out(revision: str) -> Path:
    """A tree of that revision with its core built."""
    commit = subprocess.run(
        ["git", "rev-parse", "--verify", f"{revision}^{{commit}}"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    tree = ROOT / "build" / "same" / commit
    if not tree.exists():
        tree.mkdir(parents=True)
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)
    build(tree)
    return tree


def build(tree: Path) -> None:
    """Builds the core of a tree in place."""
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    subprocess.run(command, cwd=tree, check=True, stdout=subprocess.DEVNULL)


def lines_of(tree: Path, work: Sequence[tuple[Path, dict[str, Any]]]) -> list[list[bytes]]:
    """What the build in that tree writes of each capture."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tree,  # where a program of `-c` looks for packages first
        input="".join(json.dumps([str(path), options]) + "\n" for path, options in work).encode(),
        env={**os.environ, "PYTHONHASHSEED": "0"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return [part.split(b"\n") for part in done.stdout.split(b"\0\n")][: len(work)]


def generate(folder: Path, talks: int) -> Iterator[Path]:
    """Captures that are made: the benchmark's shapes, and conversations with losses at any place."""
    from tests.bench.captures import CAPTURES, write  # what they need is heavy, and not for those who only look

    for shape, messages in (("small", 400), ("mixed", 400), ("short", 200), ("lossy", talks)):
        path = folder / f"{shape}.pcap"
        write(path, CAPTURES[shape](messages=messages), step_us=50)
        yield path


def without(line: bytes, fields: Sequence[str]) -> bytes:
    """The line without these fields; as it is where it is no record or there are none of them to leave out."""
    if not fields or not line.startswith(b"{"):
        return line
    record = json.loads(line)
    return json.dumps({name: value for name, value in record.items() if name not in fields}).encode()


def differences(one: Sequence[bytes], other: Sequence[bytes], fields: Sequence[str]) -> Iterator[tuple[bytes, bytes]]:
    """The lines that are not the same, side by side; nothing stands beside a line that only one of the two has."""
    plain = [[without(line, fields) for line in lines] for lines in (one, other)]
    for kind, at, end, at_other, end_other in SequenceMatcher(a=plain[0], b=plain[1], autojunk=False).get_opcodes():
        if kind != "equal":
            yield from zip_longest(one[at:end], other[at_other:end_other], fillvalue=b"")


def captures(places: Sequence[Path]) -> list[Path]:
    """The capture files that are named, and those in the folders that are named."""
    found: list[Path] = []
    for place in places:
        inside = sorted(place.rglob("*")) if place.is_dir() else [place]
        found += [path.resolve() for path in inside if path.suffix in SUFFIXES or path == place]
    return [path for path in found if path.is_file()]


def main() -> int:
    """Reads with both builds and says where they differ."""
    parser = argparse.ArgumentParser(description="Compares what two builds write of the same captures.")
    parser.add_argument("revision", help="the revision to compare this tree with")
    parser.add_argument("captures", nargs="*", type=Path, help="files and folders; tests/data where none is named")
    parser.add_argument("--without", default="", help="fields that only one of the two writes, with commas between")
    parser.add_argument("--talks", type=int, default=20_000, help="messages of the generated lossy capture")
    parser.add_argument("--show", type=int, default=3, help="differences to show of each capture")
    given = parser.parse_args()
    fields = [name for name in given.without.split(",") if name]
    tree = check_out(given.revision)
    build(ROOT)
    differing = 0
    with TemporaryDirectory() as folder:
        files = [*captures(given.captures or [ROOT / "tests" / "data"]), *generate(Path(folder), given.talks)]
        for title, options in CONFIGURATIONS.items():
            if fields and "output_stdout_max_line" in options:
                continue  # a line with more fields is shortened elsewhere
            work = [(path, options) for path in files]
            ours, theirs = lines_of(ROOT, work), lines_of(tree, work)
            for path, one, other in zip(files, theirs, ours, strict=True):
                found = list(differences(one, other, fields))
                differing += len(found)
                if found:
                    print(f"{title}: {path.name}: {len(found)} of {len(one)} lines differ")
                for left, right in found[: given.show]:
                    print(f"  - {left.decode(errors='replace')}\n  + {right.decode(errors='replace')}")
            print(f"{title}: {sum(map(len, ours)) - len(files)} lines of {len(files)} captures", flush=True)
    print(f"{differing} lines differ" if differing else "the same bytes")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
