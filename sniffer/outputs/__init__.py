"""Outputs: where messages go. This module is all that the rest of the program knows of one.

Each output is a folder or a file in this package and imports no other output. Its `__init__` holds the declaration, a
subclass of `Output`: its options, whether the configuration asks for it, and how its lane is made. What delivers is
imported only when the lane is made, so an output that is off costs nothing. `sniffer.outputs.registry` lists the
outputs; packages from outside add theirs by the entry point group `tcp_sniffer.outputs` (docs/DELIVERY.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from sniffer.companion import Companion
from sniffer.options import Options

if TYPE_CHECKING:
    from sniffer.config import SnifferConfig
    from sniffer.delivery.lane import Lane
    from sniffer.errors import Problem

OUTPUT: Final = "Output"
"""The group of options in which those of outputs stand."""


class Context(NamedTuple):
    """What a run tells an output that makes its lane."""

    share: int
    """Bytes of messages that may wait in the lane. The pipeline sets the lane's `max_bytes` anew as lanes come."""
    live: bool
    """An interface is captured: nobody can wait. False where a file is read."""
    json_shared: bool
    """Another output renders the messages as JSON too, so it is worth keeping."""
    dropped: Callable[[], bool]
    """Whether messages were dropped before they reached the lanes."""
    add_counters: Callable[[Callable[[], Mapping[str, int]]], None]
    """Adds a source of counters to the ledger; each must be one that `sniffer.ledger` declares."""
    own_socket: Callable[[str, int, bool], None] | None
    """Tells the capture of a socket of the output's own: its local address and port, and whether it opens (True, after
    bind and before connect) or is closed. What it sends and gets is not captured. None where nothing live is captured.
    """


class Place(NamedTuple):
    """Where an output posts to by HTTP: what other sniffers post there is left out of the capture."""

    hosts: frozenset[str]
    """What the Host field of such a request may be, in lower case."""
    path: str
    """The path of its target, without the query."""


class Output:
    """One output. A subclass names it and says when it is wanted; most of the rest may stay as it is."""

    name: ClassVar[str]
    """One word, for logs, metrics and errors; no other output has it."""
    options: ClassVar[type[Options]] = Options
    """Its options: a class that declares nothing else. Keywords, variables and flags are unique in the program."""
    switch: ClassVar[str] = ""
    """The keyword of the option that asks for it; empty if none does."""
    does: ClassVar[str] = ""
    """What follows from the switch, after its flag: "posts them". For the error that no output is named."""
    working: ClassVar[int] = 1 << 20
    """Bytes that it works with beside what waits in its lane: records being rendered, posts under way."""
    renders_json: ClassVar[bool] = True
    """It asks records for their JSON."""
    takes_lines: ClassVar[bool] = False
    """Its sink does no more with a batch than give it to `sniffer_core.core.Lines`."""
    counts: ClassVar[bool] = True
    """A message leaves the process by it, without a program of the user's around the library."""
    standard_output: ClassVar[bool] = False
    """It writes to standard output: nothing else may draw on a terminal there."""
    fallback: ClassVar[bool] = False
    """The daemon uses it where a person reads standard output and no other output is wanted."""
    daemon_only: ClassVar[bool] = False
    """Its lane comes from its companion; the library does without it."""

    def wanted(self, config: SnifferConfig) -> bool:
        """Whether the configuration asks for it: by default, whether its switch is on or has a value."""
        return bool(self.switch) and getattr(config, self.switch) not in (None, False)

    def rules(self, config: SnifferConfig) -> Iterable[Problem]:  # noqa: ARG002 - a default
        """The problems of its options with each other and with the rest. May call `sniffer.options.fill_in`.

        Options that have a problem hold their default here.
        """
        return ()

    def warnings(self, config: SnifferConfig) -> Iterable[str]:  # noqa: ARG002 - a default
        """Sentences to log at start: what is allowed but unwise."""
        return ()

    def load(self) -> None:
        """Imports what the lane needs, where that may be missing: so it is said before anything is opened."""

    def lane(self, config: SnifferConfig, context: Context) -> Lane:
        """Its lane. Called on the loop when the sniffer starts, once for each run; not for a `daemon_only` output."""
        raise NotImplementedError

    def companion(self, config: SnifferConfig) -> Companion | None:  # noqa: ARG002 - a default
        """What it has beside its lane in the daemon. Called before the log is set up."""
        return None

    def posts_to(self, config: SnifferConfig) -> Sequence[Place]:  # noqa: ARG002 - a default
        """Where it posts to by HTTP. Called where it is wanted."""
        return ()

    def before_exit(self, seconds: float) -> None:
        """Called when the process ends on the spot: finishes, in this time, what must not be cut in the middle."""
