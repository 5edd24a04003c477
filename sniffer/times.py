"""Percentiles of many times in a fixed amount of memory."""

from __future__ import annotations

import math
from array import array
from typing import Final

LEAST_MS: Final = 0.001
MOST_MS: Final = 1e7
"""The times between which percentiles are exact within half a class, in milliseconds."""


class Times:
    """Counts times, for percentiles in a fixed amount of memory."""

    def __init__(self, step: float) -> None:
        """`step` is the ratio of the bounds of a class: 1.01 for percentiles that are exact within a half percent."""
        self.count = 0
        self.total = 0.0
        """Milliseconds."""
        self._step = math.log(step)
        self._classes = array("Q", bytes(8 * (round(math.log(MOST_MS / LEAST_MS) / self._step) + 1)))
        self._least, self._most = math.inf, 0.0

    def __len__(self) -> int:
        """The number of classes."""
        return len(self._classes)

    def add(self, milliseconds: float) -> None:
        """Counts a time."""
        number = round(math.log(max(milliseconds, LEAST_MS) / LEAST_MS) / self._step)
        self._classes[min(number, len(self._classes) - 1)] += 1
        self.count += 1
        self.total += milliseconds
        self._least, self._most = min(self._least, milliseconds), max(self._most, milliseconds)

    def merge(self, other: Times) -> None:
        """Adds the times that another has counted, in the same classes."""
        for number, count in enumerate(other._classes):
            self._classes[number] += count
        self.count += other.count
        self.total += other.total
        self._least, self._most = min(self._least, other._least), max(self._most, other._most)

    def percentile(self, share: float) -> float:
        """The time in milliseconds that this share of the times does not exceed; 0 if there is none."""
        rank = math.ceil(share * self.count)
        for number, count in enumerate(self._classes if rank < self.count else ()):
            rank -= count
            if count and rank <= 0:
                return min(max(LEAST_MS * math.exp(number * self._step), self._least), self._most)
        return self._most
