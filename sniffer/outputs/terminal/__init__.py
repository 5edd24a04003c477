"""The view for a person at a terminal: a line for each exchange, a last line that is kept up to date, a summary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sniffer.options import OptionGroup, Whole, whole
from sniffer.outputs import OUTPUT, Companion, Output

if TYPE_CHECKING:
    from sniffer.config import SnifferConfig


class TerminalOptions(OptionGroup):
    """Options of the view at a terminal."""

    # fmt: off
    verbose: Whole = whole(
        0, 0, 2, group=OUTPUT, variable="", short="-v", bare="1", again="v", metavar="0|1|2",
        help="at a terminal show heads below each exchange; twice (`-vv`) bodies too",
    )
    # fmt: on


class Terminal(Output):
    """Exchanges at a terminal, where nothing else is asked for."""

    name = "terminal"
    options = TerminalOptions
    renders_json = False
    standard_output = True
    fallback = True
    daemon_only = True

    def companion(self, config: SnifferConfig) -> Companion:
        """The screen."""
        from sniffer.outputs.terminal.view import Shown

        return Shown(config.verbose)
