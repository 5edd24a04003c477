"""What capture files hold, whatever the port: asked only where a run over them has found no message.

It reads the files again with every port captured, so it needs no knowledge of its own about links, TCP or HTTP. How
much it reads is bounded, and what it reads leaves the process as port numbers and counts alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from sniffer.capture.file import FileSource
from sniffer.capture.source import Packets, Stop
from sniffer.capture.thread import feed
from sniffer.errors import CaptureError

MOST_PACKETS: Final = 200_000
MOST_BYTES: Final = 128 << 20
"""What is read at most, of all files together: about a second."""
MOST_MEMORY: Final = 16 << 20
MOST_NAMED: Final = 5
"""Ports that the sentence names, of each kind."""
EVERY_PORT: Final = range(1, 65_536)

KINDS: Final = {
    "tls": "TLS",
    "http2": "HTTP/2",
    "other-protocol": "another protocol",
    "undecided": "connections without a start line",
}
"""What a port carries other than HTTP, by the kind of the core's event."""


class Survey(NamedTuple):
    """What was found. Ports are those of the servers."""

    messages: Mapping[int, int]
    """HTTP messages, by port."""
    others: Mapping[str, Mapping[int, int]]
    """Connections of each of `KINDS`, by port."""
    whole: bool
    """All of the files was read."""

    def sentence(self, ports: Sequence[int], *, seen: bool, files: int = 1) -> str:
        """That these ports have no message, and what the files have instead. `seen`: they have packets at least."""
        named = ", ".join(map(str, ports[:MOST_NAMED])) + (", ..." if len(ports) > MOST_NAMED else "")
        missing = f"no HTTP message of port {named}" if seen else f"no packet of port {named}"
        what = [f"HTTP on {_ports(self.messages, 'message')}"] if self.messages else []
        what += [f"{KINDS[kind]} on {_ports(found, 'connection')}" for kind, found in self.others.items() if found]
        where = f"the {'file has' if files == 1 else 'files have'}"
        if not self.whole:
            where = f"the first {MOST_BYTES >> 20} MiB or {MOST_PACKETS:,} packets have"
        return f"{missing}; {where} {', '.join(what) if what else 'no TCP connection with content'}"


def _ports(counts: Mapping[int, int], unit: str) -> str:
    """The ports with the highest counts."""
    ranked = Counter(counts).most_common(MOST_NAMED)
    texts = [f"{port} ({count:,} {unit}{'' if count == 1 else 's'})" for port, count in ranked]
    more = len(counts) - len(ranked)
    return ", ".join(texts) + (f" and {more:,} more" if more else "")


class _Part(FileSource):
    """A file of which no more than `left` is read."""

    def __init__(self, path: str, left: _Left) -> None:
        super().__init__(path)
        self._left = left

    def batches(self, stop: Stop) -> Iterator[Packets | None]:
        """The file's batches, as long as there is something left to read."""
        for batch in super().batches(stop):
            if batch is not None:
                if self._left.packets <= 0 or self._left.bytes <= 0:
                    self._left.whole = False
                    return
                self._left.packets -= len(batch[1]) // 16
                self._left.bytes -= len(batch[0])
            yield batch


class _Left:
    """How much may still be read."""

    def __init__(self) -> None:
        self.packets = MOST_PACKETS
        self.bytes = MOST_BYTES
        self.whole = True


def survey(paths: Sequence[str]) -> Survey | None:
    """What these files hold. None if one of them is no regular file: a pipe cannot be read twice."""
    from sniffer_core.core import FlowTable

    if not all(Path(path).is_file() for path in paths):
        return None
    messages: Counter[int] = Counter()
    others: dict[str, Counter[int]] = {kind: Counter() for kind in KINDS}
    left = _Left()
    for path in paths:
        source = _Part(path, left)
        stop = Stop()
        try:
            table = FlowTable(
                linktype=source.open(stop), ports=EVERY_PORT, max_body=0, max_flows=10_000, memory_limit=MOST_MEMORY
            )
            for found in feed(source, table, stop):
                messages.update(message.receiver[1] for message in found)
                _count(table.events(), others)
            messages.update(message.receiver[1] for message in table.flush())
            _count(table.events(), others)
        except (CaptureError, ValueError):  # said by the run before
            continue
        finally:
            source.close()
    return Survey(messages, others, left.whole)


def _count(events: Sequence[tuple[str, tuple[str, int], tuple[str, int]]], others: Mapping[str, Counter[int]]) -> None:
    for kind, receiver, _ in events:
        if kind in others:
            others[kind][receiver[1]] += 1
