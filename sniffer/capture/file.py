"""A file, compressed or not, a pipe or standard input as a source: a capture, or records, told by the first bytes.

Recorded exchanges are read by `sniffer.capture.records`, captures (pcap and pcapng) by libpcap. For these this module
deals with what pcapy-ng leaves open:

- The batch in which an error occurs is lost with it: `FileSource._from_file` reads it again, packet by packet.
- A batch has 32 bits of each stamp's seconds, a pcapng file has 64: `FileSource._may_be_wider`.
- An empty batch is the end of the file. (On a live handle it means that there is nothing yet.)
- pcapy holds the GIL while it opens a file, and a read of a pipe cannot be interrupted: `_Relay`. It unpacks too.
- `stats` raises an error for a file: `FileSource.stats` does not ask.
"""

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

from sniffer.capture import records
from sniffer.capture.packed import PackedError, is_packed, unpacked
from sniffer.capture.records import PCAPNG, RECORDS, Records
from sniffer.capture.source import (
    BATCH_BYTES,
    BATCH_PACKETS,
    INDEX,
    STAMP_REFUSED,
    Pace,
    Packets,
    Source,
    Stop,
    load_pcapy,
    packet_count,
)
from sniffer.errors import CaptureError

MOST_RECORD: Final = 16 << 20
"""Bytes of a line or an entry that are read, where nothing else is said."""
TELLING: Final = 4
"""Bytes that tell a capture from records."""
STEP_SECONDS: Final = 86_400
"""A step of so much between the stamps of a batch may be a step across the end of 32 bits. A step of 2^32 s (136 years)
give or take less than this is not noticed."""
PIPE_READ: Final = 16 << 10
"""Bytes read from a pipe at a time."""
MOST_HEAD: Final = 32 << 10
"""The most bytes of a pipe that are searched for a file header. Must fit into a pipe's buffer of 64 KiB."""


class FileSource(Source):
    """A file of packets (pcap, pcapng) or records (JSON lines, HAR), a pipe, or standard input (`-`)."""

    live = False

    def __init__(self, path: str, *, most_record: int = MOST_RECORD) -> None:
        """A line or entry of records that has more than `most_record` bytes is not read."""
        self.name = path
        self._most_record = most_record
        self._records: Records | None = None
        self._input: int | None = None  # the file descriptor that records are read from
        self._reader: Any = None
        self._relay: _Relay | None = None
        self._done = self._size = self._refused = 0
        self._wide = False  # its stamps have 64 bits: it is a pcapng file
        with suppress(OSError):
            about = Path(path).stat()
            self._size = about.st_size if stat.S_ISREG(about.st_mode) else 0

    def open(self, stop: Stop) -> int:
        """Opens the file and returns its link type, or RECORDS. Waits until a pipe has shown its beginning.

        Raises CaptureError.
        """
        path = self.name
        if path == "-" and os.isatty(0):
            raise CaptureError("- cannot be read: standard input is a terminal, not a capture")
        try:
            if self._open_records(path, stop):
                return RECORDS
        except OSError as error:
            raise CaptureError(f"{self.name} cannot be read: {error.strerror}") from error
        except PackedError as error:
            raise CaptureError(f"{self.name} cannot be read: {error}") from error
        return self._open_capture(path)

    def _open_records(self, path: str, stop: Stop) -> bool:
        """Opens the file if it holds records. If a pipe does not, it is open as a relay for libpcap afterwards."""
        regular = path != "-" and Path(path).is_file()
        fd = 0 if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.waiting = not regular
            head, shown = _beginning(fd, stop)
            if records.holds_records(shown):
                pieces = self._pieces(fd, stop, head, pipe=not regular)
                self._records = Records(self.name, pieces, most=self._most_record, stopped=stop.is_set)
                self._input, fd = fd, 0
                return True
            if not regular or is_packed(head):
                source, fd = fd, 0
                self.waiting = True
                self._relay = _Relay(source, stop, head)
            return False
        finally:
            if fd:
                os.close(fd)

    def _pieces(self, fd: int, stop: Stop, head: bytes, *, pipe: bool) -> Iterator[bytes]:
        """`head` and the bytes of a file or pipe behind it; an empty piece before a wait for the writer."""
        yield head
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.register(stop, select.POLLIN)
        while not stop.is_set():
            if pipe and not poll.poll(0):
                yield b""
                self.waiting = True
                poll.poll()
            self.waiting = False
            data = b"" if stop.is_set() else os.read(fd, records.READ)
            if not data:
                return
            self._done += len(data)
            yield data

    def _open_capture(self, path: str) -> int:
        """Opens a capture, and returns its link type."""
        pcapy = load_pcapy()
        try:
            if self._relay is not None:
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
        """Yields packets, or records, to the end of the file. CaptureError at the end where the rest is unreadable."""
        if self._records is not None:
            yield from self._records.batches()
            return
        yield from self._from_file(stop) if self._relay is None else self._one_by_one(stop, self._relay.idle)

    def _from_file(self, stop: Stop) -> Iterator[Packets]:
        """Reads a file in batches, and from where that loses something on, packet by packet."""
        read = 0
        pace = Pace()
        second: int | None = None
        while not stop.is_set():
            try:
                batch: Packets | None = self._reader.next_batch(pace.count)
            except load_pcapy().PcapError:
                batch = None  # it is lost with the error
            if batch is not None:
                if not packet_count(batch):
                    return
                if self._wide:
                    seconds = memoryview(batch[1]).cast("I")[::4]
                    if second is None:
                        second = self._first_second()
                    if _may_be_wider(seconds, second):
                        batch = None
                    else:
                        second = seconds[-1]
            if batch is None:
                self._skip_to(read)
                yield from self._one_by_one(stop, lambda: False)
                return
            read += packet_count(batch)
            pace.saw(batch)
            self._done = os.lseek(self._reader.getfd(), 0, os.SEEK_CUR)
            yield batch

    def _first_second(self) -> int:
        """The seconds of the first packet's stamp, with all of their bits."""
        reader = load_pcapy().open_offline(self.name)
        seconds: int = reader.next()[0].getts()[0]
        reader.close()
        return seconds

    def _skip_to(self, number: int) -> None:
        """Opens the file again and skips so many packets, which were read already."""
        self._reader.close()
        self._reader = load_pcapy().open_offline(self.name)
        while number:
            number -= packet_count(self._reader.next_batch(min(number, BATCH_PACKETS)))

    def _one_by_one(self, stop: Stop, idle: Callable[[], bool]) -> Iterator[Packets]:
        """Reads packet by packet, which loses none where an error comes, and keeps all bits of the stamps.

        A batch is yielded when it is full, or before a read that might wait (`idle`).
        """
        batch = _Batch()
        error: Exception | None = None
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
        if self._relay is not None and self._relay.error is not None:  # libpcap's error only follows from it
            error = self._relay.error
        if error is not None and not stop.is_set():
            raise CaptureError(f"{self.name} cannot be read to its end: {error}") from error
        if self._refused and not stop.is_set():
            raise CaptureError(
                f"{self.name} cannot be read whole: {self._refused} packets are stamped beyond 2106 or before 1970"
            )

    def stats(self) -> None:
        """None: there is no kernel that would count. pcapy raises an error when it is asked for a file."""
        return

    def progress(self) -> tuple[int, int] | None:
        """Bytes read so far and bytes in all; None for a pipe. May be called from any thread."""
        relay = self._relay
        return (relay.taken if relay is not None else self._done, self._size) if self._size else None

    def close(self) -> None:
        """Closes the file, or our end of the pipe."""
        self._done = self._size
        self._records = None
        if self._input:
            os.close(self._input)
        self._input = None
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        if self._relay is not None:
            self._relay.close()
            self._relay = None


def _beginning(fd: int, stop: Stop) -> tuple[bytes, bytes]:
    """The first bytes of a file or pipe, enough to tell what it is, and the same unpacked; fewer at its end."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.register(stop, select.POLLIN)
    head = bytearray()

    def read() -> bytes:
        poll.poll()
        data = b"" if stop.is_set() else os.read(fd, PIPE_READ)
        head.extend(data)
        return data

    while len(head) < TELLING and read():
        pass
    shown = bytes(head)
    if is_packed(shown):
        try:
            shown = unpacked(read, shown)()
        except PackedError:  # which the relay finds again, and says
            shown = b""
    return bytes(head), shown


def holds_records(path: str) -> bool:
    """Whether a file may hold records. Of a regular one it is known; of a pipe, and where there is none, not yet."""
    if path == "-" or not Path(path).is_file():
        return True
    try:
        with Path(path).open("rb") as file:
            return records.holds_records(file.read(PIPE_READ))
    except OSError:
        return True


def _may_be_wider(seconds: memoryview[int], before: int) -> bool:
    """Whether some of these stamps may have lost bits, given the stamp before them. A batch has 32 bits of each."""
    return max(seconds) - min(seconds) > STEP_SECONDS or abs(seconds[0] - before) > STEP_SECONDS


class _Batch:
    """Collects packets in the form of `Packets`."""

    def __init__(self) -> None:
        self.packets = bytearray()
        self.index = bytearray()

    def add(self, stamp: tuple[int, int], packet: bytes, *, wide: bool) -> bool:
        """Adds a packet. Returns whether the index could take its stamp.

        pcap stamps have 32 bits, which pcapy gives as a signed number here and as an unsigned one in `next_batch`.
        """
        seconds, micros = (part & 0xFFFFFFFF for part in stamp)
        fits = not wide or seconds == stamp[0]
        if not fits:
            micros = STAMP_REFUSED
        self.index += INDEX.pack(seconds, micros, len(self.packets), len(packet))
        self.packets += packet
        return fits

    def full(self) -> bool:
        return len(self.index) >= INDEX.size * BATCH_PACKETS or len(self.packets) >= BATCH_BYTES

    def take(self) -> Packets:
        """What was collected; the next batch begins empty."""
        batch = bytes(self.packets), bytes(self.index)
        self.packets.clear()
        self.index.clear()
        return batch


class _Relay(threading.Thread):
    """Copies a pipe into one of our own, which libpcap reads. After a stop it closes ours, which ends libpcap's read.

    What is compressed it unpacks, of a file too. Where that fails it ends as the pipe would, with an `error`.

    pcapy holds the GIL while it opens a file. So everything that libpcap reads at that moment must be in our pipe
    already: the constructor waits for the file header.
    """

    def __init__(self, source: int, stop: Stop, head: bytes = b"") -> None:
        """`source` is the file descriptor of the pipe, of which `head` was read already. It is closed with the relay,
        unless it is standard input.
        """
        super().__init__(name="sniffer relay", daemon=True)
        self._source = source
        self.error: PackedError | None = None
        self.taken = len(head)
        """Bytes read so far."""
        self._poll = select.poll()
        self._poll.register(source, select.POLLIN)
        self._poll.register(stop, select.POLLIN)
        self._stop_signal = stop
        self._reader, self._writer = os.pipe()
        self._waiting = select.poll()
        self._waiting.register(self._reader, select.POLLIN)
        self.path = f"/dev/fd/{self._reader}"
        """Where libpcap finds our pipe."""
        self._ended = False
        self._read: Callable[[], bytes] = self._read_source
        try:
            begun = self._read_head(head)
        except BaseException:
            os.close(self._writer)
            self.close()
            raise
        self.wide = begun.startswith(PCAPNG)
        """Whether stamps have 64 bits."""
        os.write(self._writer, begun)
        if self._ended:
            os.close(self._writer)

    def _read_head(self, start: bytes) -> bytearray:
        """Reads up to the end of the file header, which begins with `start`, and chooses how the rest is read."""
        while len(start) < 4 and (data := self._read_source()):
            start += data
        if is_packed(start):
            self._read = unpacked(self._read_source, start)
            start = b""
        head = bytearray(start)
        while not _has_file_header(head) and len(head) < MOST_HEAD:
            data = self._read()
            if not data:
                self._ended = True
                break
            head += data
        return head

    def _read_source(self) -> bytes:
        """Waits for bytes of the pipe. Returns none at its end and after the stop."""
        self._poll.poll()
        data = b"" if self._stop_signal.is_set() else os.read(self._source, PIPE_READ)
        self.taken += len(data)
        return data

    def run(self) -> None:
        """Copies until the pipe ends, the stop, or libpcap's end is closed."""
        if self._ended:
            return
        try:
            while data := self._read():
                view = memoryview(data)
                while view:
                    view = view[os.write(self._writer, view) :]
        except OSError:  # the reader has closed its end
            pass
        except PackedError as error:
            if not self._stop_signal.is_set():
                self.error = error
        finally:
            os.close(self._writer)

    def idle(self) -> bool:
        """Whether a read of our pipe might wait."""
        return not self._waiting.poll(0)

    def close(self) -> None:
        os.close(self._reader)
        if self._source != 0:
            os.close(self._source)


def _has_file_header(data: bytes | bytearray) -> bool:
    """Whether `data` holds everything that opening the file reads.

    That is the header of a pcap file, or the blocks of a pcapng file up to its first interface description (block
    type 1). A block of pcapng begins with its type and its length, in the byte order of the section header.
    """
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
