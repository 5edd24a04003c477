"""Packets in: the sources (an interface, a file), the capture thread, and the hand-off to the event loop.

The thread takes batches of packets from its source, feeds the flow table, which belongs to it alone, and puts the
messages that ended into the hand-off together with a snapshot of the table's counters. The loop is woken once for a
batch, and only when it may be asleep.

The only module that imports pcapy, and only when a capture opens.
"""

from __future__ import annotations

import logging
import math
import os
import select
import socket
import stat
import struct
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from sniffer import privileges
from sniffer.errors import CaptureError

if TYPE_CHECKING:
    from sniffer_core.core import FlowTable, RawMessage

log = logging.getLogger("sniffer.capture")

SNAPLEN: Final = 262_144  # segmentation offload gives packets far longer than the MTU
BATCH_PACKETS: Final = 1024
BATCH_BYTES: Final = 512 << 10
"""Packets are read at most so many at a time, and about so many bytes: a batch is no part of the memory budget."""
RING_TIMEOUT_MS: Final = 50
RING_QUIET_MS: Final = 60
"""A ring that gives nothing for so long holds nothing: its timeout, and the timer's lateness."""
STOP_READ_SECONDS: Final = 0.2
BUSY_WAIT_MS: Final = 100
IDLE_WAIT_MS: Final = 1000
PAUSE_SECONDS: Final = 0.01
"""After the ring was read empty the thread sleeps so long: it would else wake for every few packets, and each time take
a core from the server it watches. The kernel holds packets back for five times as long (RING_TIMEOUT_MS)."""
PAUSE_RATE: Final = 1_600_000_000
"""Bytes per second that the ring must have room for meanwhile: with a small ring the sleep is shorter."""
BUSY_SECONDS: Final = 3.0
"""After the last packet the table is given the time every BUSY_WAIT_MS for so long; then every IDLE_WAIT_MS."""
SLICE: Final = 1024
"""Messages that the hand-off takes, and gives, at a time."""

BEHIND: Final = 16
"""The loop is behind when this part of the hand-off, a sixteenth, waits for it."""
PCAPNG: Final = b"\x0a\x0d\x0d\x0a"
STAMP_REFUSED: Final = 0xFFFFFFFF
"""Stands in the index for the microseconds of a stamp that does not fit into it."""
STEP_SECONDS: Final = 86_400
"""Between the stamps of a batch: a step of so much may be one over the end of 32 bits. (Over 136 years and less than
this it cannot be seen.)"""

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


def _pcapy() -> Any:
    try:
        return import_module("pcapy")
    except ImportError as error:
        raise CaptureError(f"pcapy-ng cannot be loaded: {error}") from error


# Live


class LiveSource(Source):
    """An interface, through the kernel's ring."""

    live = True

    def __init__(self, interface: str | None, *, ports: Sequence[int], buffer_size: int) -> None:
        self.name = interface or ""
        self._ports = ports
        self._buffer_size = buffer_size
        self._reader: Any = None
        self._number = 0
        self._down = False
        self._kernel = _Kernel()
        self._pace = _Pace()
        self._pause = min(PAUSE_SECONDS, buffer_size / PAUSE_RATE)
        self._emptied = False
        self.caught_up = math.inf

    def open(self, stop: Stop) -> int:
        """Opens the interface. One that is down is waited for."""
        if not sys.platform.startswith("linux"):
            raise CaptureError("live capture needs Linux; a capture file can be read anywhere (--read FILE)")
        pcapy = _pcapy()
        if not self.name:
            self.name = default_interface()
        self._number = _interface_number(self.name)
        try:
            while (code := self._activate(pcapy)) == _IFACE_NOT_UP:
                self._say_down()
                self.waiting = True
                if stop.wait(1.0):
                    raise CaptureError(f"interface {self.name} is down")
                self._check_exists()
        finally:
            privileges.release()
        self.waiting = False
        if code < 0:
            raise CaptureError(_activation_error(self.name, code))
        if self.is_loopback():
            _ignore_outgoing(self._reader.getfd())
        linktype: int = self._reader.datalink()
        self._set_filter(linktype)
        self._kernel.begin(self._reader.stats())
        self._reader.setnonblock(1)  # next_batch would wait for ever on an idle interface
        return linktype

    def _activate(self, pcapy: Any) -> int:
        self._reader = reader = pcapy.create(self.name)
        reader.set_snaplen(SNAPLEN)
        reader.set_promisc(0)
        reader.set_timeout(RING_TIMEOUT_MS)
        reader.set_buffer_size(self._buffer_size)
        code: int = privileges.call(reader.activate)
        return code

    def _set_filter(self, linktype: int) -> None:
        pcapy = _pcapy()
        for number, expression in enumerate(filters(self._ports, linktype)):
            try:
                self._reader.setfilter(expression)
            except pcapy.PcapError as error:
                log.warning(
                    "capture filter does not compile, a simpler one is tried",
                    extra={
                        "fields": {"interface": self.name, "linktype": linktype, "tried": number, "error": str(error)}
                    },
                )
            else:
                return
        log.warning("capturing without a filter: every packet is read", extra={"fields": {"interface": self.name}})

    def batches(self, stop: Stop) -> Iterator[Packets | None]:
        """Packets until the stop; CaptureError when the interface is removed."""
        poll = select.poll()
        ring = self._reader.getfd()
        poll.register(ring, select.POLLIN)
        poll.register(stop, select.POLLIN)
        last = time.monotonic()
        while not stop.is_set():
            ready = poll.poll(0)
            if not ready:
                busy = self._down or time.monotonic() - last < BUSY_SECONDS
                ready = poll.poll(BUSY_WAIT_MS if busy else IDLE_WAIT_MS)
                self.caught_up = time.monotonic()  # what is there now has come while we waited for it
            batch = self._read() if any(fd == ring for fd, _ in ready) else None
            if batch is not None:
                last = time.monotonic()
            elif self._down:
                self._check_exists()
            if batch is None or self._emptied:
                self.caught_up = time.monotonic()
            yield batch
            if batch is not None and self._emptied:
                stop.wait(self._pause)
        # What the kernel has stamped up to the signal is still in the ring: the last of it for up to its timeout.
        poll.unregister(stop)
        deadline = time.monotonic() + STOP_READ_SECONDS
        while time.monotonic() < deadline and poll.poll(RING_QUIET_MS):
            batch = self._read()
            if batch is not None:
                yield batch
                if last_stamp_us(batch) > stop.stamp_us:
                    return

    def _read(self) -> Packets | None:
        try:
            most = self._pace.count
            packets, index = self._reader.next_batch(most)
        except _pcapy().PcapError as error:
            if "went down" not in str(error):
                raise CaptureError(f"capture on {self.name} failed: {error}") from error
            self._say_down()
            return None
        if not index:
            return None
        if self._down:
            self._down = False
            log.info("interface is up again", extra={"fields": {"interface": self.name}})
        self._emptied = len(index) // 16 < most
        self._pace.saw(packets, index)
        return packets, index

    def _say_down(self) -> None:
        if not self._down:
            self._down = True
            log.warning("interface is down; capture goes on with it", extra={"fields": {"interface": self.name}})

    def _check_exists(self) -> None:
        try:
            same = self._number in (0, socket.if_nametoindex(self.name))
        except OSError:
            same = False
        if not same:
            raise CaptureError(f"interface {self.name} was removed")

    def is_loopback(self) -> bool:
        """Whether it is the loopback interface."""
        return bool(_interface_flags(self.name) & _IFF_LOOPBACK)

    def stats(self) -> tuple[int, int, int]:
        """The kernel's counters since the capture was opened."""
        return self._kernel.read(self._reader.stats())

    def close(self) -> None:
        """Closes what was opened."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


class _Pace:
    """How many packets to read at a time, by the size of the last ones."""

    def __init__(self) -> None:
        self.count = 16

    def saw(self, packets: bytes, index: bytes) -> None:
        """Reckons with the packets of a batch."""
        self.count = max(4, min(BATCH_PACKETS, len(index) // 16 * BATCH_BYTES // max(1, len(packets))))


class _Kernel:
    """libpcap's three counters, which are unsigned and of 32 bits, as numbers that never wrap."""

    def __init__(self) -> None:
        self._last = (0, 0, 0)
        self._sums = (0, 0, 0)

    def begin(self, now: tuple[int, int, int]) -> None:
        """Leaves out what was dropped before the filter was there: the interface's whole traffic went into the ring."""
        self._last = (0, *now[1:])

    def read(self, now: tuple[int, int, int]) -> tuple[int, int, int]:
        received, dropped, if_dropped = (
            total + ((new - old) & 0xFFFFFFFF) for total, new, old in zip(self._sums, now, self._last, strict=True)
        )
        self._last = now
        self._sums = (received, dropped, if_dropped)
        return self._sums


def _ignore_outgoing(ring: int) -> None:
    """Loopback shows each packet as it goes out and as it comes in; libpcap takes both and throws the first away.

    Here the kernel does not even copy it: half of the cost for who sends, and twice the room in the ring.
    """
    with suppress(OSError), socket.socket(fileno=os.dup(ring)) as packets:  # Linux 4.20
        packets.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)


_SOL_PACKET: Final = 263
_PACKET_IGNORE_OUTGOING: Final = 23
_IFACE_NOT_UP: Final = -9
_PERMISSION_CODES: Final = (-8, -11)
_NO_SUCH_DEVICE: Final = -5


def _activation_error(name: str, code: int) -> str:
    if code in _PERMISSION_CODES:
        return (
            f"no permission to capture on {name}: the process needs the capability NET_RAW"
            ' (Kubernetes: securityContext.capabilities.add: ["NET_RAW"]; Docker: --cap-add NET_RAW; or run it as root)'
        )
    if code == _NO_SUCH_DEVICE:
        return _no_such_interface(name)
    return f"capture on {name} cannot be opened (libpcap error {code})"


def _no_such_interface(name: str) -> str:
    return f"no such interface: {name}; available: {', '.join(interfaces())}"


def interfaces() -> list[str]:
    """The names that can be captured on, `any` last."""
    return [*(name for _, name in socket.if_nameindex()), "any"]


def _interface_number(name: str) -> int:
    if name == "any":
        return 0
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise CaptureError(_no_such_interface(name)) from None


_SIOCGIFFLAGS: Final = 0x8913
_SIOCGIFADDR: Final = 0x8915
_IFF_UP: Final = 0x1
_IFF_LOOPBACK: Final = 0x8


def default_interface() -> str:
    """The first interface that is up, has an address and is not loopback. CaptureError where there is none.

    Pseudo devices of libpcap are no interfaces of the system, so none is looked at.
    """
    addressed = {name for _, name in _ipv6_addresses()}
    for _, name in socket.if_nameindex():
        flags = _interface_flags(name)
        if flags & _IFF_UP and not flags & _IFF_LOOPBACK and (name in addressed or _has_ipv4(name)):
            return name
    raise CaptureError(
        f"no interface is up, has an address and is not loopback: name one; available: {', '.join(interfaces())}"
    )


def is_up(name: str) -> bool:
    """Whether the interface is there and up."""
    return bool(_interface_flags(name) & _IFF_UP)


def addresses(name: str) -> list[str]:
    """The interface's first IPv4 address and its IPv6 addresses."""
    answer = _ask(_SIOCGIFADDR, name)
    found = [socket.inet_ntop(socket.AF_INET, answer[20:24])] if answer else []
    return found + [
        socket.inet_ntop(socket.AF_INET6, bytes.fromhex(packed)) for packed, of in _ipv6_addresses() if of == name
    ]


def _ipv6_addresses() -> list[tuple[str, str]]:
    """(address in hexadecimal, interface) of each."""
    try:
        lines = Path("/proc/self/net/if_inet6").read_text("ascii").splitlines()
    except OSError:  # no IPv6 here
        return []
    return [(line.split()[0], line.split()[-1]) for line in lines]


def _interface_flags(name: str) -> int:
    answer = _ask(_SIOCGIFFLAGS, name)
    flags: int = struct.unpack_from("16xH", answer)[0] if answer else 0
    return flags


def _has_ipv4(name: str) -> bool:
    return bool(_ask(_SIOCGIFADDR, name))


def _ask(request: int, name: str) -> bytes:
    from fcntl import ioctl  # not everywhere

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        try:
            return ioctl(asker, request, struct.pack("256s", os.fsencode(name)[:15]))
        except OSError:
            return b""


def filters(ports: Sequence[int], linktype: int) -> list[str]:
    """BPF expressions for this link type, the best first.

    A fragment, or a packet behind IPv6 extension headers, does not show its ports to BPF: all of TCP's are taken, and
    the core looks at the ports. `vlan` moves what follows it behind the tag, hence the nesting for QinQ.
    """
    plain = " or ".join(f"tcp port {port}" for port in ports)
    best = (
        f"({plain}) or (ip[6:2] & 0x1fff != 0 and ip proto 6) or (ip6 proto 44)"
        " or (ip6[6] = 0 or ip6[6] = 43 or ip6[6] = 60) or ether proto 0x8864"
    )
    if linktype == DLT_ETHERNET:
        return [
            f"{best} or (vlan and ({best} or (vlan and ({best}))))",
            f"{plain} or (vlan and ({plain} or (vlan and ({plain}))))",
            "ip or ip6 or vlan or ether proto 0x8864",
        ]
    if linktype not in DLT_COOKED:
        best = best.removesuffix(" or ether proto 0x8864")
    return [best, plain]


def last_stamp_us(batch: Packets) -> int:
    """Stamp of the last packet, microseconds since the epoch."""
    second, micro = struct.unpack_from("=II", batch[1], len(batch[1]) - 16)
    return int(second) * 1_000_000 + int(micro)


# Files


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
        pcapy = _pcapy()
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
        pace = _Pace()
        second: int | None = None
        while not stop.is_set():
            try:
                packets, index = self._reader.next_batch(pace.count)
            except _pcapy().PcapError:
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
        reader = _pcapy().open_offline(self.name)
        seconds: int = reader.next()[0].getts()[0]
        reader.close()
        return seconds

    def _skip_to(self, number: int) -> None:
        self._reader.close()
        self._reader = _pcapy().open_offline(self.name)
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
            except _pcapy().PcapError as raised:
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


# Hand-off


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


# The thread


class Capture(threading.Thread):
    """The capture thread. A daemon thread: one that is stuck must not keep the process."""

    def __init__(
        self,
        source: Source,
        make_table: Callable[[int], FlowTable],
        handoff: HandOff,
        *,
        opened: Callable[[Exception | None], None],
        gauge_names: Mapping[str, str],
        then: Sequence[Source] = (),
    ) -> None:
        """`opened` is called once, from the thread, with None or with why the capture cannot be opened.

        `then` are read after `source`, each a capture of its own; one that cannot be read does not keep the others.
        """
        super().__init__(name="sniffer capture", daemon=True)
        self.source = source
        """The one that is read."""
        self._sources = (source, *then)
        self.stop = Stop()
        self.beat = time.monotonic()
        """When the thread last showed that it is alive."""
        self._make_table = make_table
        self._handoff = handoff
        self._opened = opened
        self._gauge_names = gauge_names
        self._sockets: deque[tuple[str, int, bool]] = deque()
        self._before: Counter[str] = Counter()
        """What the tables of the sources before this one have counted."""

    def own_socket(self, ip: str, port: int, opened: bool) -> None:
        """Leaves out (until it is closed) what this local socket sends and gets. May be called from any thread."""
        self._sockets.append((ip, port, opened))

    def run(self) -> None:
        """Opens each source, feeds a table until its end, flushes it."""
        errors: list[Exception] = []
        is_open = False
        try:
            for source in self._sources:
                self.source = source
                try:
                    table = self._open()
                except Exception as raised:
                    errors.append(raised)
                    continue
                finally:
                    self._alive()
                if not is_open:
                    is_open = True
                    self._opened(None)
                self._read(table, errors)
                source.close()
                if self.stop.is_set():
                    break
            if not is_open:
                self._opened(errors[0] if len(errors) == 1 else _together(errors))
        except Exception as raised:
            errors.append(_failed(raised))
        finally:
            for source in self._sources:
                source.close()
            self._handoff.end(_together(errors) if errors and is_open else None)

    def _read(self, table: FlowTable, errors: list[Exception]) -> None:
        """Reads a source to its end, or to what goes wrong."""
        try:
            self._feed_all(table)
        except CaptureError as raised:
            errors.append(raised)
        except Exception as raised:
            errors.append(_failed(raised))
        self._put(table, table.flush())
        if len(self._sources) > 1:
            self._before.update(table.counters())

    def _open(self) -> FlowTable:
        linktype = self.source.open(self.stop)
        try:
            return self._make_table(linktype)
        except ValueError as error:
            raise CaptureError(f"{self.source.name} cannot be read: {error}") from error

    def progress(self) -> tuple[int, int] | None:
        """Bytes of all sources that are read, and their sizes; None where one has none. From any thread."""
        parts = [source.progress() for source in self._sources]
        known = [part for part in parts if part is not None]
        return (sum(done for done, _ in known), sum(size for _, size in known)) if len(known) == len(parts) else None

    def _feed_all(self, table: FlowTable) -> None:
        live = self.source.live
        for batch in self.source.batches(self.stop):
            self._alive()
            while self._sockets:
                ip, port, opened = self._sockets.popleft()
                (table.exclude if opened else table.readmit)(ip, port)
            now = time.monotonic_ns() // 1000
            if batch is not None:
                packets, index = batch
                count, at = len(index) // 16, 0
                while at < count:
                    messages, at = table.feed(packets, index, at, now if live else None)
                    self._put(table, messages)
            else:
                self._put(table, table.tick(now))

    def _put(self, table: FlowTable, messages: list[RawMessage]) -> None:
        counters = table.counters()
        for name, value in self._before.items():
            counters[name] += value
        for name, value in table.gauges().items():
            counters[self._gauge_names.get(name, name)] = value
        if (kernel := self.source.stats()) is not None:  # now, so that it is never behind what was read of it
            self._handoff.put_kernel(kernel)
        self._handoff.put(messages, counters, table.events(), alive=self._alive)

    def _alive(self) -> None:
        self.beat = time.monotonic()


def _failed(error: Exception) -> CaptureError:
    """Says in the log what should not have happened, and what to tell of it."""
    log.error("capture thread failed", exc_info=error)
    return CaptureError(f"capture failed: {type(error).__name__}: {error}")


def _together(errors: Sequence[Exception]) -> CaptureError:
    """One error that says them all."""
    if len(errors) == 1 and isinstance(errors[0], CaptureError):
        return errors[0]
    return CaptureError("; ".join(map(str, errors)))
