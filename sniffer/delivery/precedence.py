"""Which lanes give way to the others where there is too little processor for all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sniffer.delivery.threads import Working

if TYPE_CHECKING:
    from sniffer.delivery.lane import Lane

LITTLE: Final = 0.1
"""A lane that gives way may work for this part of the time while others are crowded: so little is no reason."""
WORK_SECONDS: Final = 0.25
"""Over about so long it is measured how much a lane has worked."""
LOOK_SECONDS: Final = 0.1
"""Lanes that give way do so for this long at least."""
YIELD_SECONDS: Final = 1.0
"""They go on after so long even where it has not helped; then after twice as long, each time."""
MOST_YIELD_SECONDS: Final = 30.0


class Precedence(Working):
    """Which lanes work where there is too little processor for all: some lanes give way to the others, at once.

    They give way when messages back up before the pump (`behind`), and when messages back up in a lane of the others
    while those that give way work for more than a little of the time. This is looked at with every batch, long before
    anything is full. They go on when nothing is backed up any more; and for a moment every now and then where that does
    not come, since a lane may be crowded because it waits for whoever reads it: then giving way helps nobody.
    """

    def __init__(self, behind: Callable[[], bool], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._behind = behind
        self._clock = clock
        self.firm: list[Lane] = []
        """Those that stand."""
        self.giving: list[Lane] = []
        """Those that give way."""
        self._again: asyncio.TimerHandle | None = None
        self._until = 0.0
        """They go on at the latest then."""
        self._seconds = YIELD_SECONDS
        """How long they give way where it does not help."""
        self._marks = [(clock(), 0.0)] * 2
        """When those that give way had worked for how long: twice, the older first."""

    def add(self, lane: Lane) -> None:
        """One more lane."""
        (self.giving if lane.gives_way else self.firm).append(lane)

    @property
    def yielding(self) -> bool:
        """Whether they give way now."""
        return self._again is not None

    def look(self) -> None:
        """Called before each batch is offered."""
        if not self.giving or self.yielding:
            return
        share = self._share()
        if self.alone or not (self._behind() or (share > LITTLE and self._crowded())):
            return
        for lane in self.giving:
            lane.give_way()
        self._until = self._clock() + self._seconds
        self._again = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look_again)

    def close(self) -> None:
        """Nobody has to give way any more."""
        if self._again is not None:
            self._again.cancel()

    def _look_again(self) -> None:
        now = self._clock()
        if not self.alone and (self._behind() or self._crowded()):
            if now < self._until:
                self._again = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look_again)
                return
            self._seconds = min(2 * self._seconds, MOST_YIELD_SECONDS)
        else:
            self._seconds = YIELD_SECONDS
        self._again = None
        self._marks = [(now, self._worked())] * 2
        for lane in self.giving:
            lane.go_on()

    @property
    def alone(self) -> bool:
        """Whether there is nobody to give way to."""
        return all(lane.closed.is_set() for lane in self.firm)

    def _crowded(self) -> bool:
        return any(lane.crowded for lane in self.firm)

    def _worked(self) -> float:
        return self.worked + sum(lane.sink.worked for lane in self.giving)

    def _share(self) -> float:
        """The part of the last moments for which the lanes that give way have worked."""
        now, worked = self._clock(), self._worked()
        since = now - self._marks[1][0]
        if since > WORK_SECONDS:  # nothing came for long: what was then says nothing of now
            self._marks = [self._marks[1] if since < 2 * WORK_SECONDS else (now, worked), (now, worked)]
        then, before = self._marks[0]
        return (worked - before) / max(now - then, 0.001)
