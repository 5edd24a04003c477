"""The hand-off: messages and counters on their way from the capture thread to the event loop.

It is bounded, by the weight of the messages in bytes and by their number. The threads cross once for a batch of
messages, and the loop is woken only when it may be asleep: waking it costs several microseconds.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from sniffer.capture.source import Event
from sniffer.errors import CaptureError

if TYPE_CHECKING:
    from sniffer_core.core import RawMessage

SLICE: Final = 1024
"""The most messages that the hand-off takes, and gives, at a time."""

BEHIND: Final = 16
"""The loop is behind when more than one part in so many of the hand-off is full."""


class HandOff:
    """A bounded queue of messages, and the latest counters, between the two threads.

    Every message that is put ends in one counter: dropped (there was no room for it), taken (the loop has it) or
    discarded (the loop gave up what waited).
    """

    def __init__(self, *, max_bytes: int, wait: bool, wake: Callable[[], None], max_messages: int = 100_000) -> None:
        """`wait` says what `put` does when it is full: wait (a file), or drop the newest messages (a live capture).

        `wake` is called, from either thread, when the loop may have something to do.
        """
        self._max_bytes = max_bytes
        self._max_messages = max_messages
        self._wait = wait
        self._wake = wake
        self._lock = threading.Condition(threading.Lock())
        self._slices: deque[tuple[Sequence[RawMessage], int]] = deque()
        self._events: list[Event] = []
        self._table: Mapping[str, int] = {}
        self._kernel = (0, 0, 0)
        self._accepted = self._dropped = self._taken = self._discarded = 0
        self._held = 0  # messages of the present `put` that are neither queued nor dropped yet
        self._waiting = 0  # messages queued
        self._bytes = 0  # their weight, and that of the slice taken last
        self._passing = 0  # weight of the slice taken last
        self.ended = False
        """The capture thread puts nothing any more."""
        self.error: CaptureError | None = None
        """Why the capture failed; None where it ended by a stop or with its file. Valid once `ended`."""

    # For the capture thread

    def put(
        self,
        messages: Sequence[RawMessage],
        table: Mapping[str, int],
        events: Iterable[Event] = (),
        *,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        """Hands over the messages of a feed, with the flow table's counters and gauges as they are after it.

        Calls `alive` every second while it waits for room.
        """
        with self._lock:
            self._table = table
            self._events.extend(events)
            self._held = len(messages)
            wake = bool(self._events)
        at = 0
        while at < len(messages):
            count, first = self._put(messages[at : at + SLICE], alive)
            at += count
            if wake or first:
                self._wake()
                wake = False
        if wake:
            self._wake()

    def _put(self, part: Sequence[RawMessage], alive: Callable[[], None]) -> tuple[int, bool]:
        """Queues or drops the first messages of a slice. Returns how many, and whether the first queued one is one that
        nothing waited before.
        """
        from sniffer_core.core import weigh, weights  # not needed by a Sniffer that is never started

        size = weigh(part)
        if self._wait and size > self._max_bytes // 4:  # so that the loop holds only a part
            part = part[: max(1, _count(weights(part), self._max_bytes // 4))]
            size = weigh(part)
        with self._lock:
            while not (count := self._fitting(part, size)) and self._wait:
                alive()
                self._lock.wait(1.0)
            fits = part
            if count < len(part):
                fits = part[:count]
                size = weigh(fits)
            done = count if self._wait else len(part)
            first = count > 0 and not self._slices
            self._accept(fits, size, done)
        return done, first

    def _fitting(self, part: Sequence[RawMessage], size: int) -> int:
        """How many messages of a part that weighs `size`, from the first on, there is room for."""
        from sniffer_core.core import weights

        room = self._max_bytes - self._bytes
        count = max(0, min(len(part), self._max_messages - self._waiting))
        if count and (size > room or count < len(part)):
            count = _count(weights(part)[:count], room)
        if not count and self._wait and not self._bytes:
            return 1  # a message larger than the whole hand-off must not block a file for ever
        return count

    def _accept(self, part: Sequence[RawMessage], size: int, of: int) -> None:
        """Queues `part`, which weighs `size`. It was `of` messages that were offered: the others are dropped."""
        if part:
            self._slices.append((part, size))
        self._held -= of
        self._accepted += len(part)
        self._waiting += len(part)
        self._bytes += size
        self._dropped += of - len(part)

    def put_kernel(self, kernel: tuple[int, int, int]) -> None:
        """Hands over the kernel's counters (`Source.stats`). Wakes the loop when drops were added."""
        with self._lock:
            news = kernel[1:] != self._kernel[1:]
            self._kernel = kernel
        if news:
            self._wake()

    def end(self, error: CaptureError | None = None) -> None:
        """Says that nothing more will come, and why if the capture has failed."""
        with self._lock:
            self.ended, self.error = True, error
        self._wake()

    # For the event loop

    def take(self) -> tuple[Sequence[RawMessage], int] | None:
        """Takes the oldest messages, at most SLICE of them. Returns them and their weight; None when there are none.

        Their weight occupies the hand-off until the next call, since until then the loop holds them.
        """
        with self._lock:
            self._bytes -= self._passing
            self._passing = 0
            self._lock.notify_all()
            if not self._slices:
                return None
            part, self._passing = self._slices.popleft()
            self._taken += len(part)
            self._waiting -= len(part)
            return part, self._passing

    def take_events(self) -> list[Event]:
        """The flow table's events since the last call."""
        with self._lock:
            events, self._events = self._events, []
            return events

    def behind(self) -> bool:
        """Whether the loop takes less than comes. True long before the hand-off is full."""
        return self._bytes * BEHIND > self._max_bytes or self._waiting * BEHIND > self._max_messages

    def drop_rest(self) -> None:
        """Discards the messages that wait, and makes `put` drop all that still comes. Both are counted."""
        with self._lock:
            self._slices.clear()
            self._discarded += self._waiting
            self._waiting = self._bytes = self._passing = 0
            self._wait, self._max_messages = False, 0
            self._lock.notify_all()

    def drops(self) -> dict[str, int]:
        """The counters of lost packets and messages, each of which calls for a warning when it grows."""
        return {
            "kernel_dropped": self._kernel[1],
            "kernel_if_dropped": self._kernel[2],
            "handoff_dropped": self._dropped,
        }

    def counters(self) -> dict[str, int]:
        """The counters of the flow table, the kernel and the hand-off itself, as they are at one moment."""
        with self._lock:
            return {
                **self._table,
                "kernel_received": self._kernel[0],
                "kernel_dropped": self._kernel[1],
                "kernel_if_dropped": self._kernel[2],
                "handoff_accepted": self._accepted,
                "handoff_dropped": self._dropped,
                "handoff_taken": self._taken,
                "handoff_discarded": self._discarded,
                "handoff_held": self._held,
                "handoff_waiting": self._waiting,
                "handoff_bytes": self._bytes,
            }


def _count(sizes: Iterable[int], room: int) -> int:
    """How many of these weights, from the first on, fit into `room` together."""
    return sum(total <= room for total in accumulate(sizes))
