"""The account of one lane: each of its messages in exactly one counter, and the losses in the log.

At any moment

    offered + recovered = delivered + rejected + dropped (by reason) + spooled + waiting

where `spooled` and `recovered` move only in a lane with a spool. No counter is derived from another, so that the sum is
a check.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from sniffer.delivery.sink import Reason

log = logging.getLogger("sniffer.sinks")

MOST_KINDS: Final = 32
"""Kinds of exceptions that are logged with their calls, for each lane."""
LOG_SECONDS: Final = 1.0
"""The losses of a lane are logged at most this often, with counts."""

Outcome = Reason | Literal["delivered", "rejected"]
"""How a message ends."""


@dataclass(slots=True)
class LaneCounters:
    """Messages of one lane, by what became of them."""

    offered: int = 0
    recovered: int = 0
    delivered: int = 0
    rejected: int = 0
    dropped_full: int = 0
    dropped_yielded: int = 0
    dropped_retries: int = 0
    dropped_deadline: int = 0
    dropped_closed: int = 0
    dropped_error: int = 0
    dropped_evicted: int = 0
    spooled: int = 0
    waiting: int = 0

    @property
    def dropped(self) -> dict[Reason, int]:
        """Messages dropped, by reason."""
        return {reason: getattr(self, f"dropped_{reason}") for reason in get_args(Reason)}

    def drop(self, reason: Reason, count: int) -> None:
        """Counts messages as dropped."""
        name = f"dropped_{reason}"
        setattr(self, name, getattr(self, name) + count)


class Account:
    """The counters of a lane and the bytes of what waits in it. Belongs to the event loop."""

    def __init__(self, sink: str, counters: LaneCounters) -> None:
        self.counters = counters
        self.bytes = 0
        """The weight of the messages that wait in memory, those under way included."""
        self._sink = sink
        self._losses: dict[str, int] = {}
        self._cause = ""
        self._kinds: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None

    def end(self, outcome: Outcome, count: int, cause: str = "") -> None:
        """Puts messages that have ended into the counter of their end. The caller has taken them out of theirs."""
        if outcome == "delivered":
            self.counters.delivered += count
        elif outcome == "rejected":
            self.counters.rejected += count
            if count:
                self._lost("rejected", count, cause)
        else:
            self.drop(outcome, count, cause)

    def drop(self, reason: Reason, count: int, cause: str = "") -> None:
        """Counts messages as dropped, and logs that."""
        if count:
            self.counters.drop(reason, count)
            if reason != "closed":  # the lane says once that its sink is gone
                self._lost(reason, count, cause)

    def raised(self, kind: str, trail: Sequence[str]) -> None:
        """Logs an exception of the sink, by type and place, with the calls that led there: once for each kind."""
        if kind not in self._kinds and len(self._kinds) < MOST_KINDS:
            self._kinds.add(kind)
            log.error("an output raised", extra={"fields": {"sink": self._sink, "error": kind, "calls": list(trail)}})

    def flush(self) -> None:
        """Logs the losses that have not been logged yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._say()

    def _lost(self, what: str, count: int, cause: str) -> None:
        """The first loss is logged at once; later ones are collected for a second."""
        self._losses[what] = self._losses.get(what, 0) + count
        self._cause = cause or self._cause
        if self._timer is None:
            self._say()
            self._timer = asyncio.get_running_loop().call_later(LOG_SECONDS, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._say()

    def _say(self) -> None:
        if not self._losses:
            return
        fields: dict[str, object] = {"sink": self._sink, **self._losses}
        if self._cause:
            fields["cause"] = self._cause
        self._losses, self._cause = {}, ""
        log.warning("messages not delivered", extra={"fields": fields})
