"""A capture file, a pipe or standard input as a packet source."""

from __future__ import annotations

import os
import select
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from sniffer.capture.source import BATCH_BYTES, BATCH_PACKETS, Pace, Packets, Source, Stop, load_pcapy
from sniffer.errors import CaptureError

PCAPNG: Final = b"\x0a\x0d\x0d\x0a"
STAMP_REFUSED: Final = 0xFFFFFFFF
"""Stands in the index for the microseconds of a stamp that does not fit into it."""
STEP_SECONDS: Final = 86_400
"""Between the stamps of a batch: a step of so much may be one over the end of 32 bits. (Over 136 years and less than
this it cannot be seen.)"""


class FileSource(Source):
    """A pcap or pcapng file, a pipe, or standard input (`-`)."""

    live = False

    def __init__(self, path: str) -> None:
        self.name = path
        self._reader: Any = None
        self._relay: _Relay | None = None
        self._done = self._size = self._refused = 0
        self._wide = False  # pcapng: its stamps have 64 bits
        with suppress(OSError):
            about = Path(path).stat()
            self._size = about.st_size if stat.S_ISREG(about.st_mode) else 0

    def open(self, stop: Stop) -> int:
        """Opens the file. A pipe is waited for until it has shown its header."""
        pcapy = load_pcapy()
        path = self.name
        if path == "-" and os.isatty(0):
            raise CaptureError("- cannot be read: standard input is a terminal, not a capture")
        try:
            if path == "-" or not Path(path).is_file():
                self.waiting = True
                self._relay = _Relay(0 if path == "-" else os.open(path, os.O_RDONLY), stop)
                path = self._relay.path
                self._wide = self._relay.wide
            else:
                with Path(path).open("rb") as file:
                    self._wide = file.read(4) == PCAPNG
            self._reader = pcapy.open_offline(path)
        except OSError as error:
            raise CaptureError(f"{self.name} cannot be read: {error.strerror}") from error
        except (pcapy.PcapError, ValueError) as error:
            raise CaptureError(f"{self.name} cannot be read: {error}") from error
        if self._relay is not None:
            self._relay.start()
        linktype: int = self._reader.datalink()
        return linktype

    def batches(self, stop: Stop) -> Iterator[Packets | None]:
        """Packets until the end of the file; CaptureError after the last where the rest cannot be read."""
        yield from self._from_file(stop) if self._relay is None else self._one_by_one(stop, self._relay.idle)

    def _from_file(self, stop: Stop) -> Iterator[Packets]:
        read = 0
        pace = Pace()
        second: int | None = None
        while not stop.is_set():
            try:
                packets, index = self._reader.next_batch(pace.count)
            except load_pcapy().PcapError:
                # The batch in which an error comes up is lost with it: read it again, packet by packet.
                self._skip_to(read)
                yield from self._one_by_one(stop, lambda: False)
                return
            if not index:
                return
            if self._wide:
                seconds = memoryview(index).cast("I")[::4]
                if second is None:
                    second = self._first_second()
                if max(seconds) - min(seconds) > STEP_SECONDS or abs(seconds[0] - second) > STEP_SECONDS:
                    # A batch has 32 bits of each stamp's seconds, a single packet has all of them.
                    self._skip_to(read)
                    yield from self._one_by_one(stop, lambda: False)
                    return
                second = seconds[-1]
            read += len(index) // 16
            pace.saw(packets, index)
            self._done = os.lseek(self._reader.getfd(), 0, os.SEEK_CUR)
            yield packets, index

    def _first_second(self) -> int:
        """Of the first packet's stamp, all bits of it."""
        reader = load_pcapy().open_offline(self.name)
        seconds: int = reader.next()[0].getts()[0]
        reader.close()
        return seconds

    def _skip_to(self, number: int) -> None:
        self._reader.close()
        self._reader = load_pcapy().open_offline(self.name)
        while number:
            number -= len(self._reader.next_batch(min(number, BATCH_PACKETS))[1]) // 16

    def _one_by_one(self, stop: Stop, idle: Callable[[], bool]) -> Iterator[Packets]:
        """Packets in batches as large as may be without waiting for more (`idle`) and without losing any."""
        batch = _Batch()
        error = None
        while not stop.is_set():
            self.waiting = idle()
            try:
                header, packet = self._reader.next()
            except load_pcapy().PcapError as raised:
                error = raised
                break
            if header is None:
                break
            self.waiting = False
            self._refused += not batch.add(header.getts(), packet, wide=self._wide)
            if batch.full() or idle():
                yield batch.take()
        if batch.index:
            yield batch.take()
        if error is not None and not stop.is_set():
            raise CaptureError(f"{self.name} cannot be read to its end: {error}") from error
        if self._refused and not stop.is_set():
            raise CaptureError(
                f"{self.name} cannot be read whole: {self._refused} packets are stamped beyond 2106 or before 1970"
            )

    def stats(self) -> None:
        """Nothing: no kernel counts for a file."""
        return

    def progress(self) -> tuple[int, int] | None:
        """Bytes read so far and bytes in all; None for a pipe."""
        return (self._done, self._size) if self._size else None

    def close(self) -> None:
        """Closes what was opened."""
        self._done = self._size
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        if self._relay is not None:
            self._relay.close()
            self._relay = None


class _Batch:
    """Packets gathered in the form of `next_batch`."""

    def __init__(self) -> None:
        self.packets = bytearray()
        self.index = bytearray()

    def add(self, stamp: tuple[int, int], packet: bytes, *, wide: bool) -> bool:
        """Whether the stamp fits. pcap's has 32 bits, signed here; next_batch() gives the same bits as unsigned."""
        seconds, micros = (part & 0xFFFFFFFF for part in stamp)
        fits = not wide or seconds == stamp[0]
        if not fits:
            micros = STAMP_REFUSED
        self.index += struct.pack("=IIII", seconds, micros, len(self.packets), len(packet))
        self.packets += packet
        return fits

    def full(self) -> bool:
        return len(self.index) >= 16 * BATCH_PACKETS or len(self.packets) >= BATCH_BYTES

    def take(self) -> Packets:
        batch = bytes(self.packets), bytes(self.index)
        self.packets.clear()
        self.index.clear()
        return batch


class _Relay(threading.Thread):
    """Copies a pipe into one of our own, which libpcap reads: so that a stop ends a read that would wait for ever.

    pcapy holds the GIL while it opens a file, so all that it reads then must be in the pipe before (`_head`).
    """

    def __init__(self, source: int, stop: Stop) -> None:
        super().__init__(name="sniffer relay", daemon=True)
        self._source = source
        self._poll = select.poll()
        self._poll.register(source, select.POLLIN)
        self._poll.register(stop, select.POLLIN)
        self._stop_signal = stop
        self._reader, self._writer = os.pipe()
        self._waiting = select.poll()
        self._waiting.register(self._reader, select.POLLIN)
        self.path = f"/dev/fd/{self._reader}"
        self._ended = False
        head = bytearray()
        while not self._ended and not _has_file_header(head) and len(head) < 32 << 10:
            head += self._read()
        self.wide = head.startswith(PCAPNG)
        os.write(self._writer, head)
        if self._ended:
            os.close(self._writer)

    def _read(self) -> bytes:
        self._poll.poll()
        data = b"" if self._stop_signal.is_set() else os.read(self._source, 16 << 10)
        self._ended = not data
        return data

    def run(self) -> None:
        if self._ended:
            return
        try:
            while data := self._read():
                view = memoryview(data)
                while view:
                    view = view[os.write(self._writer, view) :]
        except OSError:  # the reader has closed its end
            pass
        finally:
            os.close(self._writer)

    def idle(self) -> bool:
        """Whether reading on might wait."""
        return not self._waiting.poll(0)

    def close(self) -> None:
        os.close(self._reader)
        if self._source != 0:
            os.close(self._source)


def _has_file_header(data: bytes | bytearray) -> bool:
    """Whether `data` holds everything that opening it reads: pcap's header, or pcapng's blocks up to an interface."""
    if len(data) < 12:
        return False
    if data[:4] != PCAPNG:
        return len(data) >= 24
    order = "<" if data[8:12] == b"\x4d\x3c\x2b\x1a" else ">"
    at = 0
    while len(data) >= at + 8:
        kind, size = struct.unpack_from(f"{order}II", data, at)
        at += int(max(size, 12))
        if kind == 1:
            return len(data) >= at
    return False
