"""Rotating files of JSON lines."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sniffer.checks import File, check_file
from sniffer.errors import Problem
from sniffer.options import LONGEST_MS, Option, OptionGroup, Whole, whole
from sniffer.outputs import OUTPUT, Context, Output

if TYPE_CHECKING:
    from sniffer.config import SnifferConfig
    from sniffer.delivery.lane import Lane


class FileOptions(OptionGroup):
    """Options of the rotating files."""

    # fmt: off
    output_file: File = Option(
        check_file, group=OUTPUT, metavar="FILE",
        help="write JSON lines to this file, and rotate it; a name that ends in .gz or .zst is compressed",
    )
    output_file_size: Whole = whole(
        64 << 20, 64 << 10, 1 << 50, unit="bytes", group=OUTPUT, shown="64 MiB",
        help="begin a new file when this one has so many bytes, as they are on disk",
    )
    output_file_age_ms: Whole = whole(
        3_600_000, 1000, LONGEST_MS, unit="milliseconds", group=OUTPUT,
        help="begin a new file when this one is so old",
    )
    output_file_keep: Whole = whole(
        16, 0, 100_000, group=OUTPUT, help="finished files to keep, the oldest are deleted; 0 keeps all",
    )
    # fmt: on


class Files(Output):
    """Rotating files."""

    name = "file"
    options = FileOptions
    switch = "output_file"
    does = "writes them to files"
    working = 5 << 20
    takes_lines = True

    def rules(self, config: SnifferConfig) -> Iterable[Problem]:
        """The file has a name, and is not one that is read."""
        if config.output_file is None:
            return
        if config.output_file.endswith("/") or Path(config.output_file).name in ("", "..", ".gz", ".zst"):
            yield Problem("output_file", "output_file must name a file, not a directory")
        if Path(config.output_file).absolute() in map(Path.absolute, map(Path, config.read)):
            yield Problem("output_file", "output_file must not be a file that is read")

    def lane(self, config: SnifferConfig, context: Context) -> Lane:
        """A lane with a thread that writes."""
        from sniffer.delivery.lane import Lane
        from sniffer.outputs.file.sink import FileSink

        assert config.output_file is not None  # noqa: S101 - it is wanted
        sink = FileSink(
            Path(config.output_file),
            size=config.output_file_size,
            age=config.output_file_age_ms / 1000,
            keep=config.output_file_keep,
            shared=context.json_shared,
        )
        return Lane(sink, share=context.share)
