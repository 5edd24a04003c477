"""Pictures of the program at a terminal, for the documents: `make screenshots` writes docs/*.svg.

They are what a pseudo terminal shows while the real program runs.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from itertools import groupby

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.style import Style
from rich.text import Text

from tests.daemon import ROOT
from tests.terminals import Terminal

COLUMNS = 110
DEMO = ("--ports", "8080", "--read", "tests/data/demo.pcap")
COLORS = {"brown": "yellow", "default": None}
FORMAT = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
"""Without the fonts that rich would have fetched from elsewhere."""


def lines(terminal: Terminal) -> Iterator[Text]:
    """The rows of the screen, in their colours."""
    screen = terminal.screen
    for number in range(len(terminal.rows)):
        row = screen.buffer[number]
        line = Text()
        for (color, bold), cells in groupby(
            (row[at] for at in range(screen.columns)), lambda cell: (cell.fg, cell.bold)
        ):
            text = "".join(cell.data for cell in cells)
            line.append(text, Style(color=COLORS.get(color, color), bold=bold))
        line.rstrip()
        yield line


def picture(*arguments: str, rows: int = 40) -> str:
    """The screen after the program has run, as SVG."""
    with Terminal(*arguments, columns=COLUMNS, rows=rows) as terminal:
        assert terminal.end() == 0
        console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
        console.print(Text(f"$ tcp-sniffer {' '.join(arguments)}", "dim"))
        for line in lines(terminal):
            console.print(line, no_wrap=True, crop=True)
    return console.export_svg(title="tcp-sniffer", code_format=FORMAT, unique_id="tcp-sniffer")


def main() -> None:
    """Writes the pictures."""
    path = ROOT / "docs" / "view.svg"
    path.write_text(picture(*DEMO))
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
