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
"""A lane that works for no more than this part of the time need not give way to a crowded lane."""
WORK_SECONDS: Final = 0.25
"""How much a lane has worked is measured over about this time."""
LOOK_SECONDS: Final = 0.1
"""Lanes that give way do so for at least this long."""
YIELD_SECONDS: Final = 1.0
"""They go on after this time even if giving way has not helped; each further time it takes twice as long."""
MOST_YIELD_SECONDS: Final = 30.0


class Precedence(Working):
    """Decides when some lanes give way to the others, because there is too little processor time for all.

    They give way when messages back up before the pump (`behind`), or when messages back up in one of the other lanes
    while those that give way work for more than a small part of the time. This is checked with every batch, long before
    anything is full. They go on when nothing is backed up any more. Where that does not happen they go on for a moment
    now and then: another lane may be crowded because it waits for its own reader, and then giving way does not help.

    `worked` is the processor time spent for the lanes that give way, beside what their sinks count.
    """

    def __init__(self, behind: Callable[[], bool], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._behind = behind
        self._clock = clock
        self.firm: list[Lane] = []
        """The lanes that never give way."""
        self.giving: list[Lane] = []
        """The lanes that give way."""
        self._again: asyncio.TimerHandle | None = None
        self._until = 0.0
        """When they go on at the latest."""
        self._seconds = YIELD_SECONDS
        """For how long they give way next time, if that does not help."""
        self._marks = [(clock(), 0.0)] * 2
        """Two measurements, the older first: the time, and how long the lanes that give way had worked by then."""

    def add(self, lane: Lane) -> None:
        """Adds a lane."""
        (self.giving if lane.gives_way else self.firm).append(lane)

    @property
    def yielding(self) -> bool:
        """Whether they give way now."""
        return self._again is not None

    def look(self) -> None:
        """Called before each batch is offered: makes lanes give way if that is due."""
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
        """Ends the checks: no lane has to give way any more."""
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
        """Whether there is no lane to give way to."""
        return all(lane.closed.is_set() for lane in self.firm)

    def _crowded(self) -> bool:
        return any(lane.crowded for lane in self.firm)

    def _worked(self) -> float:
        return self.worked + sum(lane.sink.worked for lane in self.giving)

    def _share(self) -> float:
        """The part of the last quarter to half of a second for which the lanes that give way have worked."""
        now, worked = self._clock(), self._worked()
        since = now - self._marks[1][0]
        if since > WORK_SECONDS:  # after a long pause the older measurement says nothing of now
            self._marks = [self._marks[1] if since < 2 * WORK_SECONDS else (now, worked), (now, worked)]
        then, before = self._marks[0]
        return (worked - before) / max(now - then, 0.001)
