"""Which outputs there are: those of this package, and those that installed packages add.

A package from outside adds an output by an entry point in the group `tcp_sniffer.outputs` that names a subclass of
`Output`. Every start and every configuration looks for such packages, since their options must be known before any is
read; so those who have none must hardly notice. The metadata of installed packages is therefore searched for the
group's name as text (0.7 ms for 90 packages). Only where it is found is `importlib.metadata` asked, which takes four
times as long, and 15 ms to be imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from sniffer.errors import Problem
from sniffer.options import Option, Options, declared
from sniffer.outputs import Output
from sniffer.outputs.callback import Callback, CallbackOptions
from sniffer.outputs.file import FileOptions, Files
from sniffer.outputs.har import Har, HarOptions
from sniffer.outputs.mcp import Mcp, McpOptions
from sniffer.outputs.otlp import Otlp, OtlpOptions
from sniffer.outputs.stdout import Stdout, StdoutOptions
from sniffer.outputs.terminal import Terminal
from sniffer.outputs.ui import Ui, UiOptions
from sniffer.outputs.url import Url, UrlOptions

GROUP: Final = "tcp_sniffer.outputs"
BUILT_IN: Final[tuple[Output, ...]] = (
    Stdout(),
    Url(),
    Otlp(),
    Files(),
    Har(),
    Ui(),
    Mcp(),
    Callback(),
    Terminal(),
)
FLAGS_OF_THE_PROGRAM: Final = ("-h", "--help", "-V", "--version", "--list-interfaces")


class BuiltInOptions(
    StdoutOptions, UrlOptions, OtlpOptions, FileOptions, HarOptions, UiOptions, McpOptions, CallbackOptions
):
    """The options of the outputs of this package."""


class FromOutside(NamedTuple):
    """What installed packages add."""

    outputs: tuple[Output, ...] = ()
    options: dict[str, Option[Any, Any]] = {}  # noqa: RUF012 - never changed
    problems: tuple[Problem, ...] = ()


def from_outside(config: type[Options]) -> FromOutside:
    """What installed packages add to a configuration. Its options and attributes keep their names."""
    return load(entry_points(), config) if any(mentions(sys.path)) else FromOutside()


def mentions(path: Iterable[str]) -> Iterator[str]:
    """The files of entry points, below the folders of `path`, in which the group's name stands.

    Packages in zip files and behind import hooks of their own are not found.
    """
    name = GROUP.encode()
    for folder in dict.fromkeys(path):
        try:
            entries = os.listdir(folder or os.curdir)  # noqa: PTH208 - much faster
        except OSError:
            continue
        for entry in entries:
            if entry.endswith((".dist-info", ".egg-info")):
                file = f"{folder or os.curdir}/{entry}/entry_points.txt"
                try:
                    with open(file, "rb") as opened:  # noqa: PTH123
                        if name in opened.read():
                            yield file
                except OSError:
                    continue


def entry_points() -> list[Any]:
    """The entry points of the group, in a fixed order."""
    from importlib import metadata

    return sorted(metadata.entry_points(group=GROUP), key=lambda point: (point.name, point.value))


def load(points: Iterable[Any], config: type[Options]) -> FromOutside:
    """The outputs that entry points name. One that cannot be used is a problem, and nothing else of it is there."""
    outputs: list[Output] = []
    options: dict[str, Option[Any, Any]] = {}
    found: list[Problem] = []
    for point in points:
        try:
            output = _made(point.load())
            _check(output, [*BUILT_IN, *outputs], config, options)
        except (Exception, SystemExit) as error:  # whatever somebody else's module does when it is imported
            reason = str(error) if isinstance(error, _Unusable) else f"{type(error).__name__}: {error}"
            package = f" of {point.dist.name}" if point.dist is not None else ""
            text = f"output {point.name} ({point.value}{package}) cannot be used: {reason}"
            found.append(Problem(point.name, text))
        else:
            outputs.append(output)
            options |= output.options.options()
    return FromOutside(tuple(outputs), options, tuple(found))


class _Unusable(Exception):
    """Why an output cannot be used."""


def _made(named: object) -> Output:
    output = named() if isinstance(named, type) else named
    if not isinstance(output, Output):
        raise _Unusable("it is no sniffer.outputs.Output")
    if not isinstance(getattr(output, "name", None), str):
        raise _Unusable("it has no name")
    return output


def _check(
    output: Output, others: Iterable[Output], config: type[Options], outside: Mapping[str, Option[Any, Any]]
) -> None:
    """Names are unique in the program: of outputs, keywords, variables and flags."""
    if output.name in {other.name for other in others}:
        raise _Unusable(f"there is an output {output.name} already")
    known = [*declared(config).values(), *outside.values()]
    taken = {place for option in known for place in (option.keyword, option.variable, option.flag) if place}
    taken |= {*dir(config), *FLAGS_OF_THE_PROGRAM}
    options = output.options.options()
    if output.switch and output.switch not in options:
        raise _Unusable(f"its switch {output.switch} is none of its options")
    for option in options.values():
        if option.flag and not option.flag.startswith("--"):
            raise _Unusable(f"the flag {option.flag} does not begin with --")
        for place in dict.fromkeys((option.keyword, option.variable, option.flag)):
            if place and place in taken:
                raise _Unusable(f"there is an option {place} already")
            taken.add(place or "")
