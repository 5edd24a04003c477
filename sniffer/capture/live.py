"""An interface as a packet source: libpcap's handle, its filter, its ring and its counters."""

from __future__ import annotations

import logging
import math
import os
import select
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

from sniffer.capture import privileges
from sniffer.capture.interfaces import default_interface, interface_number, is_loopback, no_such_interface
from sniffer.capture.source import DLT_COOKED, DLT_ETHERNET, Pace, Packets, Source, Stop, last_stamp_us, load_pcapy
from sniffer.errors import CaptureError

log = logging.getLogger("sniffer.capture")

SNAPLEN: Final = 262_144  # segmentation offload gives packets far longer than the MTU
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

_SOL_PACKET: Final = 263
_PACKET_IGNORE_OUTGOING: Final = 23
_IFACE_NOT_UP: Final = -9
_PERMISSION_CODES: Final = (-8, -11)
_NO_SUCH_DEVICE: Final = -5


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
        self._pace = Pace()
        self._pause = min(PAUSE_SECONDS, buffer_size / PAUSE_RATE)
        self._emptied = False
        self.caught_up = math.inf

    def open(self, stop: Stop) -> int:
        """Opens the interface. One that is down is waited for."""
        if not sys.platform.startswith("linux"):
            raise CaptureError("live capture needs Linux; a capture file can be read anywhere (--read FILE)")
        pcapy = load_pcapy()
        if not self.name:
            self.name = default_interface()
        self._number = interface_number(self.name)
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
        pcapy = load_pcapy()
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
        except load_pcapy().PcapError as error:
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
        return is_loopback(self.name)

    def stats(self) -> tuple[int, int, int]:
        """The kernel's counters since the capture was opened."""
        return self._kernel.read(self._reader.stats())

    def close(self) -> None:
        """Closes what was opened."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


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


def _activation_error(name: str, code: int) -> str:
    if code in _PERMISSION_CODES:
        return (
            f"no permission to capture on {name}: the process needs the capability NET_RAW"
            ' (Kubernetes: securityContext.capabilities.add: ["NET_RAW"]; Docker: --cap-add NET_RAW; or run it as root)'
        )
    if code == _NO_SUCH_DEVICE:
        return no_such_interface(name)
    return f"capture on {name} cannot be opened (libpcap error {code})"


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
