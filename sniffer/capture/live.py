"""An interface as a packet source: libpcap's handle, its filter, its ring and its counters.

pcapy-ng has traps that shape this module. Each is named where the code deals with it:

- `activate` returns a code instead of raising an error: `LiveSource.open`.
- `next_batch` on an idle interface blocks for ever: `LiveSource.batches`.
- What a filter may say depends on the link type: `filters`.
- A batch has no length on the wire: `sniffer.capture.source.Packets`.
- Segmentation offload gives packets longer than the MTU: `SNAPLEN`.
- A handle must not be closed while another thread reads it: only the capture thread calls `close`.
"""

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
from sniffer.capture.source import (
    DLT_COOKED,
    DLT_ETHERNET,
    Pace,
    Packets,
    Source,
    Stop,
    last_stamp_us,
    load_pcapy,
    packet_count,
)
from sniffer.errors import CaptureError

log = logging.getLogger("sniffer.capture")

SNAPLEN: Final = 262_144
"""Bytes captured of each packet, libpcap's maximum. With segmentation offload a packet is far longer than the MTU."""

RING_TIMEOUT_MS: Final = 50
"""The kernel hands packets over at the latest after this time, however few they are."""
RING_QUIET_MS: Final = 60
"""A ring that gives nothing for so long is empty. It is RING_TIMEOUT_MS and some time for a late timer."""
STOP_READ_SECONDS: Final = 0.2
"""After the stop the ring is read for at most so long."""
BUSY_SECONDS: Final = 3.0
"""A capture counts as busy until so long after its last packet."""
BUSY_WAIT_MS: Final = 100
IDLE_WAIT_MS: Final = 1000
"""Without packets the table is told the time this often: BUSY_WAIT_MS while the capture is busy, else IDLE_WAIT_MS."""
PAUSE_SECONDS: Final = 0.01
"""After the ring was read empty the thread sleeps so long. Otherwise it would wake for every few packets, and each time
take a core from the server that it watches. The kernel holds packets back for longer than that (RING_TIMEOUT_MS)."""
PAUSE_RATE: Final = 1_600_000_000
"""The pause is shorter with a small ring: the ring must have room for so many bytes per second of pause."""

_SOL_PACKET: Final = 263
_PACKET_IGNORE_OUTGOING: Final = 23

# Codes of pcap_activate (pcap/pcap.h). Above 0 are warnings, below 0 errors.
_NO_SUCH_DEVICE: Final = -5
_PERMISSION_CODES: Final = (-8, -11)
_IFACE_NOT_UP: Final = -9


class LiveSource(Source):
    """An interface, read through the kernel's ring.

    It gives packets of the captured ports only, as far as a BPF filter can tell: the flow table looks again.
    """

    live = True

    def __init__(self, interface: str | None, *, ports: Sequence[int], buffer_size: int) -> None:
        """`interface` None means the default one. `buffer_size` is that of the kernel's ring, in bytes."""
        self.name = interface or ""
        self._ports = ports
        self._buffer_size = buffer_size
        self._reader: Any = None
        self._number = 0
        self._down = False
        self._kernel = _Kernel()
        self._pace = Pace()
        self._pause = min(PAUSE_SECONDS, buffer_size / PAUSE_RATE)
        self._emptied = False  # the last read has taken all that was in the ring
        self.caught_up = math.inf

    def open(self, stop: Stop) -> int:
        """Opens the interface and returns its link type. Waits for an interface that is down. Raises CaptureError."""
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
        # pcapy's activate returns its code and raises nothing. A handle that was not activated must not be asked
        # anything: it answers datalink() and stats() with garbage.
        if code < 0:
            raise CaptureError(_activation_error(self.name, code))
        if self.is_loopback():
            _ignore_outgoing(self._reader.getfd())
        linktype: int = self._reader.datalink()
        self._set_filter(linktype)
        self._kernel.begin(self._reader.stats())
        # On an idle interface a blocking next_batch never returns, whatever the timeout (TPACKET_V3).
        self._reader.setnonblock(1)
        return linktype

    def _activate(self, pcapy: Any) -> int:
        """Makes a handle and activates it. Returns libpcap's code. Only this needs NET_RAW."""
        self._reader = reader = pcapy.create(self.name)
        reader.set_snaplen(SNAPLEN)
        reader.set_promisc(0)
        reader.set_timeout(RING_TIMEOUT_MS)
        reader.set_buffer_size(self._buffer_size)
        code: int = privileges.call(reader.activate)
        return code

    def _set_filter(self, linktype: int) -> None:
        """Sets the best filter that compiles. Without any filter the capture is slower, but works."""
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
        """Yields packets until the stop. Raises CaptureError when the interface is removed.

        The thread waits in `poll`, never in `next_batch`. A wait ends with packets, with the stop, or after a bounded
        time. Both calls give up the GIL.
        """
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
                self.caught_up = time.monotonic()  # the ring was empty; what is in it now came during the wait
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
        poll.unregister(stop)
        yield from self._rest(poll, stop)

    def _rest(self, poll: select.poll, stop: Stop) -> Iterator[Packets]:
        """What the kernel has stamped before the stop and not handed over yet: up to RING_TIMEOUT_MS of packets."""
        deadline = time.monotonic() + STOP_READ_SECONDS
        while time.monotonic() < deadline and poll.poll(RING_QUIET_MS):
            batch = self._read()
            if batch is not None:
                yield batch
                if last_stamp_us(batch) > stop.stamp_us:
                    return

    def _read(self) -> Packets | None:
        """Reads a batch. None where there is nothing yet: on a live handle an empty batch is not the end."""
        most = self._pace.count
        try:
            batch: Packets = self._reader.next_batch(most)
        except load_pcapy().PcapError as error:
            if "went down" not in str(error):
                raise CaptureError(f"capture on {self.name} failed: {error}") from error
            self._say_down()
            return None
        count = packet_count(batch)
        if not count:
            return None
        if self._down:
            self._down = False
            log.info("interface is up again", extra={"fields": {"interface": self.name}})
        self._emptied = count < most
        self._pace.saw(batch)
        return batch

    def _say_down(self) -> None:
        """Logs, once, that the interface is down."""
        if not self._down:
            self._down = True
            log.warning("interface is down; capture goes on with it", extra={"fields": {"interface": self.name}})

    def _check_exists(self) -> None:
        """Raises CaptureError where the interface was removed, or replaced by another of the same name."""
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
        """Packets received, dropped by the kernel, and dropped by the interface, since `open`."""
        return self._kernel.read(self._reader.stats())

    def close(self) -> None:
        """Closes libpcap's handle. Only the thread that reads may do that."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


class _Kernel:
    """libpcap's three counters (received, dropped by the kernel, by the interface) as numbers that never wrap.

    libpcap counts in unsigned 32-bit numbers.
    """

    def __init__(self) -> None:
        self._last = (0, 0, 0)
        self._sums = (0, 0, 0)

    def begin(self, now: tuple[int, int, int]) -> None:
        """Leaves out what was dropped before the filter was set: until then all of the interface's traffic came."""
        self._last = (0, *now[1:])

    def read(self, now: tuple[int, int, int]) -> tuple[int, int, int]:
        """The sums, after libpcap's counters have reached `now`."""
        received, dropped, if_dropped = (
            total + ((new - old) & 0xFFFFFFFF) for total, new, old in zip(self._sums, now, self._last, strict=True)
        )
        self._last = now
        self._sums = (received, dropped, if_dropped)
        return self._sums


def _ignore_outgoing(ring: int) -> None:
    """Tells the kernel not to copy outgoing packets into this ring.

    Loopback shows each packet twice, as it goes out and as it comes in. libpcap takes both and throws the first away.
    Without the copy the sender pays half, and the ring has room for twice as many packets.
    """
    with suppress(OSError), socket.socket(fileno=os.dup(ring)) as packets:  # since Linux 4.20
        packets.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)


def _activation_error(name: str, code: int) -> str:
    """The text of the error for a negative code of pcap_activate, with the remedy where there is one."""
    if code in _PERMISSION_CODES:
        return (
            f"no permission to capture on {name}: the process needs the capability NET_RAW"
            ' (Kubernetes: securityContext.capabilities.add: ["NET_RAW"]; Docker: --cap-add NET_RAW; or run it as root:'
            f" sudo {privileges.program()} ...)"
        )
    if code == _NO_SUCH_DEVICE:
        return no_such_interface(name)
    return f"capture on {name} cannot be opened (libpcap error {code})"


def filters(ports: Sequence[int], linktype: int) -> list[str]:
    """BPF expressions that let through the captured ports on this link type, the most exact first.

    The link type decides what compiles: libpcap refuses `vlan` on the cooked link of `any`, for example.
    BPF cannot see the ports of a later fragment, or of a packet with IPv6 extension headers. All such packets of TCP
    are let through, and the flow table looks at their ports. `vlan` moves the offsets of everything behind it, so two
    tags (QinQ) need a nested expression.
    """
    plain = " or ".join(_port_ranges(ports))
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


def _port_ranges(ports: Sequence[int]) -> Iterator[str]:
    """BPF expressions for the ports. Those in sequence are one comparison, so a range costs what a port does."""
    ordered = sorted(ports)
    first = 0
    for at, port in enumerate(ordered):
        if at + 1 == len(ordered) or ordered[at + 1] != port + 1:
            yield f"tcp port {port}" if first == at else f"tcp portrange {ordered[first]}-{port}"
            first = at + 1
