"""The short form of `make chaos`: some of its faults, each for a moment; the same code and the same promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.faults import Outcome, attempt, matrix
from tests.daemon import ROOT, needs_capture

pytestmark = [needs_capture, pytest.mark.live, pytest.mark.slow]

FAULTS = {fault.name: fault for fault in matrix()}
SHORT = (
    "collector: refuses",
    "collector: resets in the answer; spool",
    "collector: hangs; spool",
    "collector: 429, Retry-After; spool",
    "collector: closes after ten answers",
    "collector: answers what cannot be read; spool",
    "TLS: expired; spool",
    "name server says no such name; spool",
    "kill -9, restart; spool",
    "stdout blocks, then resumes",
    "capture buffer overruns",
    "event loop blocked by a callback",
    "system clock jumps by days",
)


@pytest.mark.parametrize("name", SHORT)
def test_a_promise_is_kept(name: str, tmp_path: Path) -> None:
    """While the fault lasts and after it, the daemon does what docs/internals/RELIABILITY.md says."""
    fault = FAULTS[name]
    if fault.needs_root and os.geteuid() != 0:
        pytest.skip("needs root")
    outcome = attempt(fault, tmp_path / "fault", 1.0)
    assert outcome.broken == []
    assert outcome.offered > 0


def test_a_broken_promise_is_noticed(tmp_path: Path) -> None:
    """A fault whose run finds a promise broken, or raises, is not called held."""

    def broken(folder: Path, seconds: float) -> Outcome:
        outcome = Outcome()
        outcome.expect(False, "something holds")
        return outcome

    def raises(folder: Path, seconds: float) -> Outcome:
        raise AssertionError("nothing holds")

    fault = FAULTS["collector: refuses"]
    for number, run in enumerate((broken, raises)):
        one = type(fault)(fault.name, fault.promise, run)
        assert attempt(one, tmp_path / str(number), 1.0).broken


def test_every_row_of_the_page_is_in_the_matrix() -> None:
    """docs/internals/RELIABILITY.md shows the faults that `make chaos` tries, all of them and no others."""
    page = (ROOT / "docs" / "internals" / "RELIABILITY.md").read_text()
    table = page.split("## Faults", 1)[1].split("\n## ", 1)[0]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if line.startswith("| ")]
    assert rows[1:] == list(FAULTS)


def test_tests_that_the_matrix_names_exist() -> None:
    """Each test that stands for a fault can be collected."""
    nodes = [node for fault in FAULTS.values() for node in getattr(fault.run, "keywords", {}).get("nodes", ())]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", *nodes],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert nodes
    assert done.returncode == 0, done.stdout
