"""What a packet source is: its protocol, the form of its packets, the link types, and the signal to stop.

Whatever yields batches in the form of `Packets` can be a source. The flow table reads no other form.
"""

from __future__ import annotations

import math
import os
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any, Final, Protocol

from sniffer.errors import CaptureError

BATCH_PACKETS: Final = 1024
"""The most packets of a batch."""
BATCH_BYTES: Final = 512 << 10
"""About the most bytes of a batch. Batches are not part of the memory budget, so they must stay small."""

DLT_ETHERNET: Final = 1
DLT_COOKED: Final = (113, 276)
"""LINKTYPE_LINUX_SLL and LINKTYPE_LINUX_SLL2: what the pseudo interface `any` gives."""
LINK_NAMES: Final = {DLT_ETHERNET: "Ethernet", DLT_COOKED[0]: "Linux cooked", DLT_COOKED[1]: "Linux cooked v2"}
"""Names of the link types that a live capture usually has, for reports."""

Packets = tuple[bytes, bytes]
"""A batch, as pcapy's `next_batch` returns it: the packets' bytes one after the other, and an index (`INDEX`).

The index has no length on the wire. Whether a packet was cut is told by the length in its IP header."""
INDEX: Final = struct.Struct("=IIII")
"""One packet's entry of the index: seconds, microseconds, offset, captured length; native unsigned 32-bit numbers."""
STAMP_REFUSED: Final = 0xFFFFFFFF
"""Stands in the index for the microseconds of a packet whose seconds do not fit into 32 bits. The flow table counts
such a packet and does not read it."""

Event = tuple[str, tuple[str, int], tuple[str, int]]
"""What the flow table reports once for a connection: the kind, the receiver and the destination, each (IP, port)."""


class Stop:
    """The signal to stop, the time at which it was given, and a file descriptor that becomes readable with it."""

    def __init__(self) -> None:
        self.stamp_us = 0
        """Wall-clock time of the signal, in microseconds since the epoch; 0 until it is given."""
        self._flag = threading.Event()
        self._reader, self._writer = os.pipe()

    def set(self) -> None:
        """Gives the signal. Later calls change nothing, so the time is that of the first."""
        if not self._flag.is_set():
            self.stamp_us = time.time_ns() // 1000
            self._flag.set()
            os.write(self._writer, b"\0")

    def is_set(self) -> bool:
        """Whether the signal was given."""
        return self._flag.is_set()

    def wait(self, seconds: float) -> bool:
        """Waits for the signal for at most `seconds`. Returns whether it was given."""
        return self._flag.wait(seconds)

    def fileno(self) -> int:
        """A file descriptor for `poll`. It is readable once the signal was given."""
        return self._reader

    def __del__(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


class Source(Protocol):
    """Where packets come from. Only the capture thread calls it, except where a method says otherwise."""

    live: bool
    """Whether packets come at their own pace. What is not live is read as fast as its messages are delivered."""
    name: str
    """The interface, or the path of the file."""
    waiting: bool = False
    """Whether it waits for somebody else: for an interface that is down to come up, or for the writer of a pipe."""
    caught_up: float = math.inf
    """When it had last given all that there was to read, in `time.monotonic` seconds. Infinite for a file: it cannot
    fall behind, since it is read at our own pace."""

    def open(self, stop: Stop) -> int:
        """Opens it and returns the link type (a DLT number). Raises CaptureError."""

    def batches(self, stop: Stop) -> Iterator[Packets | None]:
        """Yields packets as they come, and None where time passed without any. Ends after the stop, or with the file.

        Raises CaptureError, after the last packet that could be read, where more packets should have come.
        """

    def is_loopback(self) -> bool:
        """Whether it is the loopback interface."""
        return False

    def stats(self) -> tuple[int, int, int] | None:
        """Packets received, dropped by the kernel, and dropped by the interface, since `open`. None for a file."""

    def progress(self) -> tuple[int, int] | None:
        """Bytes read so far and bytes in all, or None where the size is not known. May be called from any thread."""
        return None

    def close(self) -> None:
        """Gives back whatever `open` took. Call it in the thread that reads: libpcap's handles are not thread-safe."""


def load_pcapy() -> Any:
    """Returns the pcapy module. Raises CaptureError where pcapy-ng cannot be loaded."""
    try:
        import pcapy
    except ImportError as error:
        raise CaptureError(f"pcapy-ng cannot be loaded: {error}") from error
    return pcapy


class Pace:
    """How many packets to ask for at a time, so that a batch stays near BATCH_BYTES. It goes by the last batch."""

    def __init__(self) -> None:
        self.count = 16

    def saw(self, batch: Packets) -> None:
        """Adjusts `count` to the size of this batch's packets."""
        self.count = max(4, min(BATCH_PACKETS, packet_count(batch) * BATCH_BYTES // max(1, len(batch[0]))))


def packet_count(batch: Packets) -> int:
    """How many packets a batch has."""
    return len(batch[1]) // INDEX.size


def last_stamp_us(batch: Packets) -> int:
    """The stamp of a batch's last packet, in microseconds since the epoch."""
    second, micro, _, _ = INDEX.unpack_from(batch[1], len(batch[1]) - INDEX.size)
    return int(second) * 1_000_000 + int(micro)
