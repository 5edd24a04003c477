"""A terminal that is drawn on: the progress bar; the rest is seen in tests/outputs/test_terminal.py."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

from rich.console import Console, Group

from sniffer.screen import Bar, Facts
from tests.captures import connection, get, ok, write
from tests.daemon import DEMO
from tests.terminals import Terminal

READ_DEMO = ("--ports", "8080", "--read", str(DEMO))
LINE = re.compile(r"^\d\d:\d\d:\d\d")


def text_of(renderable: Any, width: int = 100) -> str:
    """What stands on a terminal of this width."""
    console = Console(file=io.StringIO(), width=width)
    console.print(Group(renderable))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def facts(**counts: Any) -> Facts:
    """What a run says of itself."""
    from sniffer.ledger import Ledger

    progress = counts.pop("progress", None)
    return Facts("eth0", {**Ledger().snapshot(), **counts}, progress)


def test_bar() -> None:
    """The bar shows the share that is read and both sizes; it is nothing where they are not known."""
    bar = Bar()
    text = text_of(bar.last_line(facts(progress=(25_000_000, 100_000_000))))
    assert "25%" in text
    assert "25.0/100.0 MB" in text
    assert text_of(Bar().last_line(facts())).strip() == ""


def test_progress_bar(tmp_path: Path) -> None:
    """A file that takes a while has a progress bar on standard error, when that alone is a terminal."""
    bodies = [(get(f"/{number}"), ok(b"x" * 60_000)) for number in range(400)]
    path = write(tmp_path / "large.pcap", connection(bodies))
    with Terminal(
        "--ports", "8080", "--read", path, "--stdout", "--memory-budget", "2Mi", pipes=("stdout",)
    ) as terminal:
        row = terminal.wait_for(lambda rows: next((row for row in rows if row.startswith("reading")), None))
        assert re.search(r"reading ━*[╸╺]?━* +\d+% +\d+\.\d/\d+\.\d MB", row)
        assert len(terminal.pipe("stdout").read().splitlines()) == 800
        assert terminal.end() == 0
        assert not any(row.startswith("reading") for row in terminal.rows)
        assert any("stopped" in row for row in terminal.rows)
