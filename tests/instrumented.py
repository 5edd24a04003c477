"""The core built with sanitizers, in a tree of its own: the one that everything else runs on stays as it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

OPTIONS = {
    "PYTHONMALLOC": "malloc",  # so that a read past the end of a `bytes` is seen too
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
}


def inherited(*names: str) -> dict[str, str]:
    """These variables of this process, for a child with an environment of its own; and those of `make sanitize`."""
    return {name: os.environ[name] for name in (*names, "LD_PRELOAD", *OPTIONS) if name in os.environ}


def build(kind: str, compiler: str) -> Path:
    """Makes, or brings up to date, `build/KIND`: links to all files of the repository, and the core of that build."""
    tree = ROOT / "build" / kind
    core = ROOT / "sniffer_core"
    inside = [path for path in core.rglob("*") if path.is_file() and path.suffix not in (".so", ".c")]
    for folder in {path.parent for path in inside}:
        (tree / folder.relative_to(ROOT)).mkdir(parents=True, exist_ok=True)
    outside = (path for path in ROOT.iterdir() if path.name not in ("build", "sniffer_core", ".git"))
    wanted = {tree / path.relative_to(ROOT): path for path in (*inside, *outside)}
    for link in (*tree.iterdir(), *(tree / "sniffer_core").rglob("*")):
        if link.is_symlink() and wanted.get(link) != link.readlink():
            link.unlink()
    for link, path in wanted.items():
        if not link.exists():  # a cache that a run has made there stays
            link.symlink_to(path)
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
        cwd=tree,
        env={**os.environ, "TCP_SNIFFER_BUILD": kind, "CC": compiler},
        check=True,
    )
    return tree


def runtime(compiler: str, name: str) -> str | None:
    """The compiler's runtime library of that name; None without the compiler or the library."""
    if shutil.which(compiler) is None:
        return None
    done = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = done.stdout.strip()
    return path if Path(path).is_absolute() else None
