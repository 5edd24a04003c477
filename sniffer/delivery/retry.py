"""The rules of trying again: after which answers, how often, after how long, and when it ends.

A sink says by the exception it raises what became of a batch (`sniffer.delivery.sink`). `Retry` alone asks for a
further try. `TooLarge` asks for the halves, at once. Every other answer is final.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, Literal, NamedTuple

from sniffer.delivery.account import LaneCounters

log = logging.getLogger("sniffer.sinks")

FURTHER_TRIES: Final = 3
"""Tries after the first one, where their number is bounded."""
LONGEST_DELAY: Final = 30.0
"""Seconds between two tries at the most, where the receiver asks for no longer wait."""
LONGEST_RETRY_AFTER: Final = 60.0
"""Seconds; a receiver that asks for more is asked again after this."""
PLACES: Final = 4
"""For each delivery that may be under way, so many batches may wait for their next try, where tries are not bounded."""
FAILING_SECONDS: Final = 60.0
"""While a sink goes on failing, the log says so this often."""

GaveUp = Literal["retries", "deadline"]
"""Why there is no further try: there were enough of them, or the next one would come after the deadline."""


class Again(NamedTuple):
    """A batch needs a further try, no earlier than `after` seconds from now."""

    cause: str
    after: float = 0.0


HALVES: Final = Again("too large")
"""The batch is to be delivered again at once, in halves."""


class Retries:
    """When a batch that the sink has answered with `Retry` is tried again.

    The waits are 1, 2, 4, 8, 16 and then 30 s, or what the receiver asked for (Retry-After, RFC 9110 section 10.2.3)
    where that is longer, up to 60 s. A batch is tried `further` times more, three by default, and is then lost. With
    `until_final` it is tried until the answer is final; each wait is then shortened at random by up to half, so that
    many sniffers do not come back at once. A drain bounds these tries by `further` as well, and shortens no wait. No
    wait passes the deadline of a drain.
    """

    def __init__(
        self,
        *,
        further: int = FURTHER_TRIES,
        until_final: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.until_final = until_final
        self._further = further
        self.clock = clock
        self.sleep = sleep
        self._chance = chance

    def delay(self, tries: int, after: float, *, draining: bool, deadline: float | None) -> float | GaveUp:
        """Seconds until the next try, after `tries` that have failed, or why there is none.

        `after`: what the receiver asked for, in seconds. `deadline`: of the drain, in seconds of `clock`.
        """
        seconds = min(2.0 ** (tries - 1), LONGEST_DELAY)
        after = min(after, LONGEST_RETRY_AFTER)
        if self.until_final and not draining:
            return max(seconds * (1 - self._chance() / 2), after)
        if tries > self._further:
            return "retries"
        seconds = max(seconds, after)
        if deadline is not None and self.clock() + seconds > deadline:
            return "deadline"
        return seconds


class Outage:
    """How a sink fares whose batches are tried until the answer is final, and what the log says of it."""

    def __init__(self, sink: str, counters: LaneCounters, clock: Callable[[], float]) -> None:
        self.failures = 0
        """Tries that failed since the last success."""
        self.successes = 0
        """Tries that got a final answer."""
        self._sink = sink
        self._counters = counters
        self._clock = clock
        self._said: float | None = None

    @property
    def is_said(self) -> bool:
        """Whether the log's last word is that the sink fails."""
        return self._said is not None

    def failed(self, cause: str) -> None:
        """A try has failed."""
        self.failures += 1
        now = self._clock()
        if self._said is None or now - self._said >= FAILING_SECONDS:
            self._said = now
            log.warning("messages wait in the spool", extra={"fields": {**self._state(), "cause": cause}})

    def succeeded(self) -> None:
        """A try got a final answer."""
        self.successes += 1
        self.failures = 0

    def say_over(self) -> None:
        """Called a second after a success: logs that the sink is well, unless a try has failed since."""
        if not self.failures:
            self._said = None
            log.info("the sink takes messages again", extra={"fields": self._state()})

    def _state(self) -> dict[str, object]:
        return {"sink": self._sink, "spooled": self._counters.spooled, "waiting": self._counters.waiting}
