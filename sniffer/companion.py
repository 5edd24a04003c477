"""What runs beside the sniffer in the daemon: a page that is served, a screen that is drawn on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing import TextIO

    from sniffer.budget import Budget
    from sniffer.delivery.lane import Lane
    from sniffer.ledger import Ledger
    from sniffer.outputs import Context


class Watched(Protocol):
    """What is shown of a sniffer, beside its messages."""

    began: bool
    """The capture has been open."""

    @property
    def ledger(self) -> Ledger:
        """Every counter."""

    @property
    def where(self) -> str:
        """The interface, or the file."""

    @property
    def held(self) -> bool:
        """The capture has failed, and the process waits to be stopped."""

    def is_running(self) -> bool:
        """Whether it captures."""

    def progress(self) -> tuple[int, int] | None:
        """Bytes of the files that are read, and their size; None for an interface or a pipe."""


class Companion:
    """What an output has beside its lane while the daemon runs.

    The daemon makes it before the log is set up, opens it before the capture, and closes it after the drain.
    """

    log: TextIO | None = None
    """Where the log must go while this is open; None: where it goes anyway."""
    stays: bool = False
    """The daemon goes on after a file was read, until it is stopped."""
    has_lane: bool = True
    """It makes the lane of its output: `lane`."""
    keeps: bool = False
    """It keeps messages after they were delivered, as many bytes as `Budget.kept`; the lanes have that much less."""

    def lane(self, context: Context) -> Lane:
        """The lane of its output. Called after `open`, on the loop."""
        raise NotImplementedError

    async def open(self, sniffer: Watched, budget: Budget) -> None:
        """Begins. `budget` is the memory that traffic may fill. SnifferError where it cannot begin."""

    def say_start(self) -> None:
        """Called when the capture is open: logs what a person needs to use it."""

    def say_last(self) -> None:
        """Called before the last line of the log; what it has to say it says now."""

    async def close(self) -> None:
        """Ends. May be called without `open`, and more than once."""
