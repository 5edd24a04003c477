"""Standard output: one line of JSON for each message."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from sniffer.errors import Problem
from sniffer.options import OptionGroup, Switch, Whole, switch, whole
from sniffer.outputs import OUTPUT, Context, Output

if TYPE_CHECKING:
    from sniffer.config import SnifferConfig
    from sniffer.delivery.lane import Lane

LEAST_LINE: Final = 4096
"""Bytes into which a record without its body and its header fields fits, with a quarter left for the placement."""


class StdoutOptions(OptionGroup):
    """Options of standard output."""

    # fmt: off
    output_stdout: Switch = switch(
        False, group=OUTPUT, flag="--stdout", help="write each message to standard output, as one line of JSON",
    )
    output_stdout_max_line: Whole = whole(
        0, 0, 1 << 30, unit="bytes", group=OUTPUT, shown="0: any length",
        help=f"longest line on standard output, at least {LEAST_LINE}: the body is cut first, then header values",
    )
    # fmt: on


class Stdout(Output):
    """JSON lines on standard output."""

    name = "stdout"
    options = StdoutOptions
    switch = "output_stdout"
    does = "writes the messages to standard output"
    working = 3 << 19
    takes_lines = True
    standard_output = True

    def rules(self, config: SnifferConfig) -> Iterable[Problem]:
        """A line must have room for a record without its body."""
        placement = sum(len((name or "").encode()) for name in (config.pod_name, config.namespace, config.node_name))
        least = max(LEAST_LINE, 8 * placement)  # twice as long in JSON, if need be, and then a quarter of the line
        if 0 < config.output_stdout_max_line < least:
            name = "output_stdout_max_line"
            yield Problem(name, f"{name} must be 0 or at least {least} bytes")

    def lane(self, config: SnifferConfig, context: Context) -> Lane:
        """A lane with a thread that writes."""
        from sniffer.delivery.lane import Lane
        from sniffer.outputs.stdout.sink import StdoutSink

        sink = StdoutSink(shared=context.json_shared, max_line=config.output_stdout_max_line)
        return Lane(sink, share=context.share)
