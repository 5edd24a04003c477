"""Fuzzes the core, coverage-guided: `make fuzz` (a minute for each target), `make fuzz ARGS="--seconds 3600 packets"`.

Atheris drives the targets of tests/fuzz/targets.py with libFuzzer; the core is built for it by clang, in a tree of its
own, with AddressSanitizer and UndefinedBehaviorSanitizer. It begins with the seeds and the corpus of the repository and
keeps what it finds in build/corpus. An input that fails is written to build/findings, and belongs into the corpus once
what it found is mended.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from hashlib import sha1
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz.seeds import DICTIONARY, seeds
from tests.fuzz.targets import TARGETS
from tests.instrumented import OPTIONS, ROOT, build

CORPUS = Path(__file__).with_name("corpus")
LONGEST = {
    "packets": 8192,
    "framing": 4096,
    "conversation": 4096,
    "http2": 4096,
    "talk": 2048,
    "file": 16384,
    "bodies": 4096,
}
SKIPPED = 0
FOUND = 1


def missing() -> str | None:
    """What of the tools is not there."""
    if shutil.which("clang") is None:
        return "clang (and its compiler-rt)"
    if find_spec("atheris") is None:
        return "atheris (pip install '.[fuzz]')"
    return None


def main() -> int:
    """Runs the targets that are named; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("--runs", type=int, default=-1, help="most inputs for each target")
    parser.add_argument("--minimise", action="store_true", help="write build/corpus anew, without what adds nothing")
    given = parser.parse_args()
    if lacking := missing():
        print(f"fuzzing skipped: {lacking} is not installed")
        return SKIPPED
    tree = build("fuzz", "clang")
    failed = [target for target in given.targets or TARGETS if not fuzz(tree, target, given)]
    return FOUND if failed else 0


def fuzz(tree: Path, target: str, given: argparse.Namespace) -> bool:
    """Runs one target and says what it did; whether it found nothing."""
    begin, kept, findings = (ROOT / "build" / name / target for name in ("seeds", "corpus", "findings"))
    for folder in (begin, kept, findings):
        folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds()[target]:
        (begin / sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
    words = ROOT / "build" / "fuzz.dict"
    words.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in DICTIONARY))
    corpora = [str(folder) for folder in (kept, begin, CORPUS / target) if folder.is_dir()]
    if given.minimise:
        corpora.append(str(kept.rename(kept.with_name(f"{target}.old"))))
        kept.mkdir()
        arguments = ["-merge=1", *corpora]
    else:
        arguments = [
            f"-max_total_time={given.seconds}", f"-runs={given.runs}", f"-dict={words}", "-timeout=20",
            "-rss_limit_mb=3000", "-print_final_stats=1", f"-artifact_prefix={findings}/", *corpora,
        ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz.engine", target, f"-max_len={LONGEST[target]}", *arguments],
        cwd=tree,
        env={**os.environ, **OPTIONS, "LD_PRELOAD": str(_runtime())},
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    assert process.stderr is not None
    said = []
    coverage = "0"
    for line in process.stderr:
        said.append(line)
        if found := re.search(r" cov: (\d+) ", line):
            coverage = found[1]
    code = process.wait()
    tried = next((line.split()[-1] for line in said if "number_of_executed_units" in line), "?")
    print(f"{target}: {tried} inputs, {coverage} edges, {'nothing found' if code == 0 else 'FAILED'}", flush=True)
    if code:
        print("".join(said[-80:]))
    elif given.minimise:
        shutil.rmtree(kept.with_name(f"{target}.old"))
    return code == 0


def _runtime() -> Path:
    """Atheris' libFuzzer together with AddressSanitizer, which must be loaded before Python."""
    found = find_spec("atheris")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parents[1] / "asan_with_fuzzer.so"


if __name__ == "__main__":
    sys.exit(main())
