"""An MCP server on standard input and output: a model's client asks what was captured.

    lane -- batch --> AskedSink -- Kept (the newest exchanges, counts) --> tools -- answers --> standard output

`tcp-sniffer mcp` is `tcp-sniffer --mcp`. The protocol is spoken by the package `mcp` (the extra `[mcp]`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sniffer.errors import Problem, SnifferError
from sniffer.options import OptionGroup, Switch, switch
from sniffer.outputs import OUTPUT, Companion, Output

if TYPE_CHECKING:
    from sniffer.config import SnifferConfig

STANDARD_INPUT = "-"
"""The file to read that is standard input."""


class McpOptions(OptionGroup):
    """Options of the MCP server."""

    # fmt: off
    mcp: Switch = switch(
        False, group=OUTPUT, variable="",
        help="answer an MCP client's questions on standard input and output; `tcp-sniffer mcp` is the same",
    )
    # fmt: on


class Mcp(Output):
    """The MCP server."""

    name = "mcp"
    options = McpOptions
    switch = "mcp"
    does = "answers an MCP client"
    working = 1 << 20
    renders_json = False
    standard_output = True
    daemon_only = True

    def rules(self, config: SnifferConfig) -> Iterable[Problem]:
        """Standard input and output belong to the client."""
        if not config.mcp:
            return
        if config.output_stdout:
            yield Problem("mcp", "mcp must not stand beside stdout: both write to standard output")
        if getattr(config, "ui_address", None) is not None:
            yield Problem(
                "mcp", "mcp must not stand beside ui_address: each keeps as many messages as there is room for"
            )
        if STANDARD_INPUT in map(str, config.read):
            yield Problem("mcp", "mcp must not stand beside `read -`: its client writes to standard input")

    def load(self) -> None:
        """Imports the package that speaks the protocol."""
        try:
            import mcp.server  # noqa: F401
        except ImportError as error:
            raise SnifferError(f"mcp needs the package mcp ({error}): pip install 'tcp-sniffer[mcp]'") from error

    def companion(self, config: SnifferConfig) -> Companion:
        """The server."""
        from sniffer.outputs.mcp.companion import Asked

        return Asked(ports=config.ports, live=not config.read)
