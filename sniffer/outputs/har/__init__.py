"""A HAR file of the exchanges."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sniffer.checks import File, check_file
from sniffer.errors import Problem
from sniffer.options import Option, OptionGroup
from sniffer.outputs import OUTPUT, Context, Output

if TYPE_CHECKING:
    from sniffer.config import SnifferConfig
    from sniffer.delivery.lane import Lane


class HarOptions(OptionGroup):
    """Options of the HAR file."""

    # fmt: off
    har: File = Option(
        check_file, group=OUTPUT, variable="", metavar="FILE",
        help="write exchanges to this file as HAR 1.2, which browsers' developer tools open; it is replaced",
    )
    # fmt: on


class Har(Output):
    """A HAR file."""

    name = "har"
    options = HarOptions
    switch = "har"
    does = "keeps them"
    working = 3 << 19
    renders_json = False

    def rules(self, config: SnifferConfig) -> Iterable[Problem]:
        """The file is not one that is read."""
        if config.har is not None and Path(config.har).absolute() in map(Path.absolute, map(Path, config.read)):
            yield Problem("har", "har must not be a file that is read")

    def lane(self, config: SnifferConfig, context: Context) -> Lane:
        """A lane of exchanges with a thread that writes."""
        from sniffer import __version__
        from sniffer.exchanges import exchange_lane
        from sniffer.outputs.har.file import HarSink

        assert config.har is not None  # noqa: S101 - it is wanted
        sink = HarSink(config.har, version=__version__)
        return exchange_lane(sink, share=context.share, live=context.live, dropped=context.dropped)

    def before_exit(self, seconds: float) -> None:
        """Lets the entry that is being written end: the file stays valid."""
        file = sys.modules.get(f"{__name__}.file")
        if file is not None:
            file.WRITING.acquire(timeout=seconds)
