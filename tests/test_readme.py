"""README.md says what happens: its output is real, its example runs, its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon import DEMO, ROOT, SECONDS

README = (ROOT / "README.md").read_text()


def block(language: str) -> str:
    """The only code block in this language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return str(found)


def run(*arguments: str) -> str:
    """Standard output of a Python program."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_demo_output_is_real() -> None:
    """The lines shown are the first that `make demo` writes."""
    shown = block("json").splitlines()
    relative = str(DEMO.relative_to(ROOT))
    assert run("-m", "sniffer", "--ports", "8080", "--read", relative, "--stdout").splitlines()[: len(shown)] == shown
    assert f"--ports 8080 --read {relative} --stdout" in (ROOT / "Makefile").read_text()


def test_library_example_is_real() -> None:
    """The example prints what stands below it."""
    assert run("-c", block("python")) == block("text")


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link of a page is a file of the repository."""
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target
