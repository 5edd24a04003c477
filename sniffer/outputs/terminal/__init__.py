"""The view for a person at a terminal: a line for each exchange, a last line that is kept up to date, a summary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sniffer.outputs import Companion, Output

if TYPE_CHECKING:
    from sniffer.config import SnifferConfig


class Terminal(Output):
    """Exchanges at a terminal, where nothing else is asked for."""

    name = "terminal"
    renders_json = False
    standard_output = True
    fallback = True
    daemon_only = True

    def companion(self, config: SnifferConfig) -> Companion:  # noqa: ARG002 - it has no options
        """The screen."""
        from sniffer.outputs.terminal.view import Shown

        return Shown()
