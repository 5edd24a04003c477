"""Messages and counters on their way from the capture thread to the event loop."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from sniffer.capture.source import Event
from sniffer.errors import CaptureError

if TYPE_CHECKING:
    from sniffer_core.core import RawMessage

SLICE: Final = 1024
"""Messages that the hand-off takes, and gives, at a time."""

BEHIND: Final = 16
"""The loop is behind when this part of the hand-off, a sixteenth, waits for it."""


class HandOff:
    """Messages and counters on their way from the capture thread to the event loop; bounded.

    `wait` says what the thread does when it is full: wait (a file), or drop the newest and count them (live).
    `wake` is called, from either thread, when the loop may have to look.
    """

    def __init__(self, *, max_bytes: int, wait: bool, wake: Callable[[], None], max_messages: int = 100_000) -> None:
        self._max_bytes = max_bytes
        self._max_messages = max_messages
        self._wait = wait
        self._wake = wake
        self._lock = threading.Condition(threading.Lock())
        self._slices: deque[tuple[list[RawMessage], int]] = deque()
        self._events: list[Event] = []
        self._table: Mapping[str, int] = {}
        self._kernel = (0, 0, 0)
        self._accepted = self._dropped = self._taken = self._discarded = 0
        self._held = self._waiting = self._bytes = self._passing = 0
        self.ended = False
        """The thread has put its last."""
        self.error: CaptureError | None = None
        """Why it ended, if not by a stop or the end of a file; valid once `ended`."""

    # The capture thread

    def put(
        self,
        messages: list[RawMessage],
        table: Mapping[str, int],
        events: Iterable[Event] = (),
        *,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        """Hands over what a feed gave, with the table's counters and gauges after it. Calls `alive` while it waits."""
        from sniffer_core.core import weights  # a Sniffer that is only made does without the core

        with self._lock:
            self._table = table
            self._events.extend(events)
            self._held = len(messages)
            wake = bool(self._events)
        sizes = weights(messages)
        at = 0
        while at < len(messages):
            end = min(at + SLICE, len(messages))
            if self._wait and sum(sizes[at:end]) > self._max_bytes // 4:  # else all of it might wait in the pump
                end = at + max(1, _count(sizes[at:end], self._max_bytes // 4))
            with self._lock:
                while not (count := self._fitting(sizes[at:end])) and self._wait:
                    alive()
                    self._lock.wait(1.0)
                if self._wait:
                    end = at + count
                wake = wake or (count > 0 and not self._slices)
                self._accept(messages[at : at + count], sum(sizes[at : at + count]), len(messages[at:end]))
            at = end
            if wake:
                self._wake()
                wake = False
        if wake:
            self._wake()

    def _fitting(self, sizes: list[int]) -> int:
        """How many of these, from the first, there is room for."""
        room = self._max_bytes - self._bytes
        count = min(len(sizes), self._max_messages - self._waiting)
        if sum(sizes[:count]) > room:
            count = _count(sizes[:count], room)
        if not count and self._wait and not self._bytes:
            return 1  # a message larger than all of the hand-off must not stop a file
        return max(count, 0)

    def _accept(self, part: list[RawMessage], size: int, of: int) -> None:
        if part:
            self._slices.append((part, size))
        self._held -= of
        self._accepted += len(part)
        self._waiting += len(part)
        self._bytes += size
        self._dropped += of - len(part)

    def put_kernel(self, kernel: tuple[int, int, int]) -> None:
        """The kernel's counters; the loop is woken when it has begun to drop."""
        with self._lock:
            news = kernel[1:] != self._kernel[1:]
            self._kernel = kernel
        if news:
            self._wake()

    def end(self, error: CaptureError | None = None) -> None:
        """Nothing more will come."""
        with self._lock:
            self.ended, self.error = True, error
        self._wake()

    # The loop

    def take(self) -> tuple[list[RawMessage], int] | None:
        """The oldest messages, at most SLICE of them, and their weight; None when there are none.

        They count as bytes of the hand-off until the next call: then they are passed on.
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
        """What is worth a log line since the last call."""
        with self._lock:
            events, self._events = self._events, []
            return events

    def behind(self) -> bool:
        """Whether the loop takes less than comes: far from full, but more waits than comes at a time."""
        return self._bytes * BEHIND > self._max_bytes or self._waiting * BEHIND > self._max_messages

    def drop_rest(self) -> None:
        """The loop takes no more: what waits is dropped, counted, and so is whatever still comes."""
        with self._lock:
            self._slices.clear()
            self._discarded += self._waiting
            self._waiting = self._bytes = self._passing = 0
            self._wait, self._max_messages = False, 0
            self._lock.notify_all()

    def drops(self) -> dict[str, int]:
        """What is to be warned about when it grows."""
        return {
            "kernel_dropped": self._kernel[1],
            "kernel_if_dropped": self._kernel[2],
            "handoff_dropped": self._dropped,
        }

    def counters(self) -> dict[str, int]:
        """The table's, the kernel's and the hand-off's own, at one moment."""
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
    """How many of these, from the first, there is room for."""
    return sum(total <= room for total in accumulate(sizes))
