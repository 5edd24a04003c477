"""What a packet source is, and the form in which packets come from it."""

from __future__ import annotations

import math
import os
import struct
import threading
import time
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Final, Protocol

from sniffer.errors import CaptureError

BATCH_PACKETS: Final = 1024
BATCH_BYTES: Final = 512 << 10
"""Packets are read at most so many at a time, and about so many bytes: a batch is no part of the memory budget."""

DLT_ETHERNET: Final = 1
DLT_COOKED: Final = (113, 276)

Packets = tuple[bytes, bytes]
"""What pcapy's `next_batch` gives: the packets' bytes, and native u32 {sec, usec, offset, caplen} for each."""
Event = tuple[str, tuple[str, int], tuple[str, int]]


class Stop:
    """The signal to stop, its time, and a file descriptor that becomes readable with it."""

    def __init__(self) -> None:
        self.stamp_us = 0
        """Real time of the signal, microseconds since the epoch, once it is set."""
        self._flag = threading.Event()
        self._reader, self._writer = os.pipe()

    def set(self) -> None:
        """Gives the signal; the first one counts."""
        if not self._flag.is_set():
            self.stamp_us = time.time_ns() // 1000
            self._flag.set()
            os.write(self._writer, b"\0")

    def is_set(self) -> bool:
        """Whether the signal was given."""
        return self._flag.is_set()

    def wait(self, seconds: float) -> bool:
        """Waits for the signal; whether it came."""
        return self._flag.wait(seconds)

    def fileno(self) -> int:
        """Readable from the signal on."""
        return self._reader

    def __del__(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


class Source(Protocol):
    """Where packets come from. Used by the capture thread alone."""

    live: bool
    name: str
    """The interface, or the file."""
    waiting: bool = False
    """It waits for somebody else: for an interface that is down to come up, for a pipe's writer."""

    caught_up: float = math.inf
    """When it had last given all there was to read, in `time.monotonic` seconds; a file is read at our own pace."""

    def open(self, stop: Stop) -> int:
        """Opens it and returns the link type. Raises CaptureError."""

    def batches(self, stop: Stop) -> Iterator[Packets | None]:
        """Packets as they come, None where time passed without any; ends after the stop, or with the file.

        Raises CaptureError at the end where more should have come.
        """

    def is_loopback(self) -> bool:
        """Whether it is the loopback interface."""
        return False

    def stats(self) -> tuple[int, int, int] | None:
        """Packets received, dropped by the kernel, dropped by the interface; None for a file."""

    def progress(self) -> tuple[int, int] | None:
        """Bytes read so far and bytes in all, where that is known. May be called from any thread."""
        return None

    def close(self) -> None:
        """Gives everything back."""


def load_pcapy() -> Any:
    """The pcapy module. CaptureError where pcapy-ng cannot be loaded."""
    try:
        return import_module("pcapy")
    except ImportError as error:
        raise CaptureError(f"pcapy-ng cannot be loaded: {error}") from error


class Pace:
    """How many packets to read at a time, by the size of the last ones."""

    def __init__(self) -> None:
        self.count = 16

    def saw(self, packets: bytes, index: bytes) -> None:
        """Reckons with the packets of a batch."""
        self.count = max(4, min(BATCH_PACKETS, len(index) // 16 * BATCH_BYTES // max(1, len(packets))))


def last_stamp_us(batch: Packets) -> int:
    """Stamp of the last packet, microseconds since the epoch."""
    second, micro = struct.unpack_from("=II", batch[1], len(batch[1]) - 16)
    return int(second) * 1_000_000 + int(micro)
