"""`tcp-sniffer doctor`: reports in a few lines what keeps the daemon from seeing traffic.

It examines the memory, the privilege, the interface and who listens on the ports. Then it captures for some seconds as
the daemon would, and reports what came. With files it reads these instead. Exit codes: 0 if the daemon would see
messages; 2 if it would not, and the lines that begin with `no` say why; 1 for a wrong configuration.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Literal, NamedTuple

from sniffer import budget
from sniffer.capture.file import FileSource
from sniffer.capture.interfaces import addresses, default_interface, interfaces, is_up
from sniffer.capture.live import SNAPLEN, LiveSource
from sniffer.capture.privileges import program
from sniffer.capture.source import LINK_NAMES, Event, Source, Stop
from sniffer.capture.survey import survey
from sniffer.capture.thread import feed
from sniffer.config import SnifferConfig
from sniffer.errors import EXIT_OK, EXIT_RUNTIME, CaptureError
from sniffer.logs import printable

SECONDS: Final = 5.0
"""How long it captures, unless told otherwise."""

Verdict = Literal["ok", "no", "note"]
"""`no` is a reason why nothing is seen, `note` something that may be one."""

OFFLOADS: Final = {"tso": 0x1E, "gso": 0x23, "gro": 0x2B}
"""ETHTOOL_GTSO, ETHTOOL_GGSO, ETHTOOL_GGRO of linux/ethtool.h."""
SIOCETHTOOL: Final = 0x8946
TCP_LISTEN: Final = "0A"


class Finding(NamedTuple):
    """One line of the report."""

    verdict: Verdict
    about: str
    text: str


class Listener(NamedTuple):
    """A listening socket: its local address and port."""

    ip: str
    port: int


class Seen(NamedTuple):
    """What was seen during the capture. `kernel` is what `Source.stats` returned."""

    counters: Mapping[str, int]
    linktype: int
    events: Sequence[Event]
    kernel: tuple[int, int, int] | None

    @property
    def messages(self) -> int:
        """How many requests and responses have ended."""
        return self.counters["messages_request"] + self.counters["messages_response"]

    @property
    def of_ports(self) -> int:
        """How many packets were of the captured ports: the kernel's filter lets others pass too."""
        return self.counters["packets_parsed"] - self.counters["segments_other_port"]


def run(config: SnifferConfig, *, seconds: float = SECONDS, stop: Stop | None = None) -> int:
    """Prints the report and returns the exit code. `stop` ends the capture early."""
    code = EXIT_OK
    for finding in examine(config, seconds=seconds, stop=stop or Stop()):
        if finding.verdict == "no":
            code = EXIT_RUNTIME
        print(f"{finding.verdict:<5} {finding.about:<11} {printable(finding.text)}", flush=True)
    return code


def examine(config: SnifferConfig, *, seconds: float, stop: Stop, proc: Path = Path("/proc")) -> Iterator[Finding]:
    """Yields the findings as they are made. `proc` is where procfs is mounted."""
    yield _memory(config)
    if config.read:
        for path in config.read:
            yield from _file(config, path, stop)
        return
    permitted = may_capture(proc)
    yield _privilege(permitted)
    try:
        name = config.interface or default_interface()
    except CaptureError as error:
        yield Finding("no", "interface", str(error))
        return
    there = name in interfaces()
    yield (
        _interface(name)
        if there
        else Finding("no", "interface", f"there is no {name}; there are {', '.join(interfaces())}")
    )
    listeners = list(listening(proc))
    yield from _ports(config.ports, listeners, name)
    if not (permitted and there):
        return
    if (finding := _offload(name)) is not None:
        yield finding
    try:
        seen = look(config, name, seconds, stop)
    except CaptureError as error:
        yield Finding("no", "capture", str(error))
        return
    yield from _traffic(config, name, seen, seconds)


# Before the capture


def may_capture(proc: Path = Path("/proc")) -> bool:
    """Whether NET_RAW is effective in this process, which capturing needs."""
    try:
        lines = (proc / "self" / "status").read_text().splitlines()
    except OSError:
        return False
    effective = next((line.split()[1] for line in lines if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> 13 & 1)


def _privilege(permitted: bool) -> Finding:
    if permitted:
        return Finding("ok", "privilege", "this process has NET_RAW")
    return Finding(
        "no",
        "privilege",
        f"this process lacks the capability NET_RAW: run it as root (sudo {program()} ...), with --cap-add NET_RAW"
        ' (Docker) or with securityContext.capabilities.add: ["NET_RAW"] (Kubernetes)',
    )


def _interface(name: str) -> Finding:
    if name == "any":
        return Finding("ok", "interface", "any: all of them, also those that come later")
    shown = ", ".join(addresses(name)) or "no address"
    if not is_up(name):
        return Finding("no", "interface", f"{name} is down ({shown}); capture waits for it")
    return Finding("ok", "interface", f"{name} is up, {shown}")


def listening(proc: Path = Path("/proc")) -> Iterator[Listener]:
    """The listening TCP sockets of this network namespace."""
    for file in ("tcp", "tcp6"):
        try:
            lines = (proc / "self" / "net" / file).read_text("ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == TCP_LISTEN:
                packed, _, port = fields[1].partition(":")
                yield Listener(_address(packed), int(port, 16))


def _address(packed: str) -> str:
    """Reads an address as /proc/net/tcp writes it: in hexadecimal 32-bit words of the machine's byte order."""
    words = [int(packed[at : at + 8], 16) for at in range(0, len(packed), 8)]
    return str(ip_address(struct.pack(f"={len(words)}I", *words)))


def _ports(ports: Sequence[int], listeners: Sequence[Listener], name: str) -> Iterator[Finding]:
    for port in ports:
        here = [listener.ip for listener in listeners if listener.port == port]
        if not here:
            others = sorted({listener.port for listener in listeners})
            shown = ", ".join(map(str, others[:20])) or "none"
            yield Finding("note", f"port {port}", f"nothing listens on it here (ports that are listened on: {shown})")
        elif all(ip_address(ip).is_loopback for ip in here) and name not in ("lo", "any"):
            yield Finding("no", f"port {port}", f"listens on {', '.join(here)} only: capture on lo, not on {name}")
        else:
            yield Finding("ok", f"port {port}", f"listens on {', '.join(here)}")


def _offload(name: str) -> Finding | None:
    on = [feature for feature, command in OFFLOADS.items() if ethtool(name, command)]
    if not on:
        return None
    return Finding(
        "ok", "offload", f"{', '.join(on)} on: packets longer than the MTU are read whole (snaplen {SNAPLEN}), no loss"
    )


def ethtool(name: str, command: int) -> bool:
    """Whether a feature of the interface is on (`command` is a number of linux/ethtool.h). False where unknown."""
    from fcntl import ioctl  # not everywhere

    value = ctypes.create_string_buffer(struct.pack("=II", command, 0))
    request = struct.pack("16sP16x", os.fsencode(name)[:15], ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        try:
            ioctl(asker, SIOCETHTOOL, request)
        except OSError:
            return False
    return bool(struct.unpack_from("=I", value.raw, 4)[0])


def _memory(config: SnifferConfig) -> Finding:
    limit = budget.memory_limit()
    mib = budget.MIB
    limited = "no limit" if limit is None else f"the container's limit of {limit / mib:.0f} MiB"
    text = (
        f"budget {config.memory_budget / mib:.0f} MiB for traffic, within {limited};"
        f" the process itself takes about {max(budget.resident(), budget.PROCESS) / mib:.0f} MiB"
    )
    warnings = [warning for warning in config.warnings if warning.startswith("memory_budget")]
    return Finding("note" if warnings else "ok", "memory", "; ".join([text, *warnings]))


# The capture


def look(config: SnifferConfig, name: str, seconds: float, stop: Stop) -> Seen:
    """Captures for `seconds`, or until the stop, as the daemon would. Raises CaptureError where it cannot."""
    source = LiveSource(name, ports=config.ports, buffer_size=config.capture_buffer_size)
    timer = threading.Timer(seconds, stop.set)
    timer.daemon = True
    timer.start()
    try:
        return _read(config, source, stop)
    finally:
        timer.cancel()


def _read(config: SnifferConfig, source: Source, stop: Stop) -> Seen:
    """Reads a source to its end, or until the stop. Raises CaptureError where it cannot."""
    from sniffer_core.core import FlowTable

    try:
        linktype = source.open(stop)
        table = FlowTable(
            linktype=linktype,
            ports=config.ports,
            max_flows=config.max_concurrent_connections,
            memory_limit=config.memory_budget // 2,
        )
        events: list[Event] = []
        for _ in feed(source, table, stop):
            events += table.events()
        kernel = source.stats()
        table.flush()
        events += table.events()
        return Seen(table.counters(), linktype, events, kernel)
    finally:
        source.close()


def _file(config: SnifferConfig, path: str, stop: Stop) -> Iterator[Finding]:
    """What a capture file has for these ports."""
    about = "file"
    try:
        seen = _read(config, FileSource(path), stop)
    except (CaptureError, ValueError) as error:
        yield Finding("no", about, str(error))
        return
    link = LINK_NAMES.get(seen.linktype, f"link type {seen.linktype}")
    total = f"{path} ({link}) has {_packets(seen.counters['packets_seen'])}"
    if seen.messages:
        yield Finding("ok", about, f"{total}, {seen.of_ports:,} of the ports; {seen.messages:,} messages")
    else:
        found = survey([path])
        said = "" if found is None else f"; {found.sentence(config.ports, seen=seen.of_ports > 0)}"
        yield Finding("no", about, total + said)
    yield from _protocols(seen)
    if cut := seen.counters["segments_snapped"]:
        yield Finding("note", "cut", f"{_packets(cut)} cut by the snapshot length: write the file with -s 0")


def _packets(count: int) -> str:
    return f"{count:,} packet{'' if count == 1 else 's'}"


def _traffic(config: SnifferConfig, name: str, seen: Seen, seconds: float) -> Iterator[Finding]:
    counters = seen.counters
    link = LINK_NAMES.get(seen.linktype, f"type {seen.linktype}")
    packets = seen.of_ports
    if packets <= 0:
        ports = ", ".join(map(str, config.ports))
        yield Finding(
            "no",
            "traffic",
            f"no packet of port {ports} came on {name} ({link}) in {seconds:g} s: make a request meanwhile,"
            " or name another interface (any is all of them; behind a service mesh the plain text is on lo)",
        )
    elif not seen.messages:
        yield Finding("no", "traffic", f"{_packets(packets)} on {name} ({link}) in {seconds:g} s, but no HTTP message")
    else:
        yield Finding(
            "ok", "traffic", f"{seen.messages:,} messages in {_packets(packets)} on {name} ({link}) in {seconds:g} s"
        )
    yield from _protocols(seen)
    if name == "any" and counters["bytes_duplicate"]:
        share = counters["bytes_duplicate"] / max(counters["bytes_payload"], 1)
        yield Finding(
            "note",
            "duplicates",
            f"{share:.0%} of the bytes came more than once: `any` shows a packet on each interface that it passes;"
            " messages are not doubled, but naming one interface halves the work",
        )
    if seen.kernel is not None and seen.kernel[1]:
        yield Finding("no", "drops", f"the kernel dropped {seen.kernel[1]:,} packets: raise --capture-buffer-size")


def _protocols(seen: Seen) -> Iterator[Finding]:
    verdict: Verdict = "note" if seen.messages else "no"
    kinds = Counter((kind, receiver[1]) for kind, receiver, _ in seen.events)
    says = {
        "tls": "speaks TLS, which cannot be read: capture where the plain text is, behind what ends TLS",
        "http2": "speaks HTTP/2, which is not read",
        "other-protocol": "speaks something other than HTTP",
        "undecided": "has connections on which neither side spoke a start line",
    }
    for (kind, port), count in sorted(kinds.items()):
        if kind in says:
            yield Finding(verdict, f"port {port}", f"{says[kind]} ({count:,} connections)")


def list_interfaces() -> Iterator[str]:
    """Yields a line for each interface: its name, state and addresses, and whether it is the default."""
    try:
        default = default_interface()
    except CaptureError:
        default = ""
    for name in interfaces():
        if name == "any":
            yield f"{name:<16} all of them"
            continue
        words = ["up" if is_up(name) else "down", *addresses(name)]
        yield f"{name:<16} {' '.join(words)}{'  (default)' if name == default else ''}"
