"""What only tests call: the C functions of the core with Python values. Nothing of the product imports this module."""

from typing import Any, final

from sniffer_core.core import FlowTable

# -- base/ascii

def same_but_for_case(text: bytes, lower: bytes) -> bool:
    """`ascii_same()` of two texts of one size."""

# -- net/wire and net/fragment

def parse_packet(linktype: int, data: bytes) -> tuple[str, dict[str, Any]]:
    """The verdict of `wire_parse()`, in lower case without its prefix, and what the packet views."""

@final
class PyFragments:
    """A table of fragments."""

    def add(self, linktype: int, data: bytes, now: int = 0) -> tuple[str, dict[str, Any]]:
        """As `parse_packet`, with `fragments_add()` behind it; `kept`: the fragment completes nothing yet."""
    def free(self) -> None: ...
    @property
    def state(self) -> tuple[int, int, int, int]:
        """Datagrams in progress, datagrams given up, bytes and blocks of the pool."""

# -- tcp

def leaked() -> int:
    """Blocks of memory that tables still had when they were freed, all of this process together."""

def starve(table: FlowTable, number: int) -> int:
    """From now on, allocation `number` (from 1; 0 none) gets no memory; returns what is left of the last."""

def hashed(table: FlowTable, key: bytes, secret: bytes | None = None) -> int:
    """The hash of a key of 40 bytes, with the table's secret or with this one of 16 bytes."""

# -- protocols/http1

@final
class PyParser:
    """One parser as a session drives it. Kinds, events, states, reasons and anomalies are numbers of their enums."""

    def __init__(self, kind: int, *, head: int = 65536, body: int = 65536, at_start: bool = True) -> None: ...
    def data(
        self,
        data: bytes,
        offset: int,
        stamp: int = 0,
        ack: int = -1,
        segment_start: bool = True,
        conflict: bool = False,
    ) -> tuple[int, int]:
        """(event, bytes consumed)."""
    def gap(self, size: int) -> tuple[int, int]:
        """(event, bytes that are left of the gap)."""
    def end(self, reason: int = 0) -> int: ...
    def frame(self, bodyless: bool = False, paired: bool = True) -> None: ...
    def reject(self) -> None: ...
    def discard(self) -> None: ...
    def skip(self) -> None: ...
    def tunnel(self) -> None: ...
    def kill(self) -> None: ...
    def drop_body(self) -> int: ...
    def boundary(self, offset: int) -> None: ...
    def peek(self) -> dict[str, Any] | None:
        """The open message."""
    def take(self) -> dict[str, Any]:
        """The open message; it is the caller's now."""
    @property
    def state(self) -> int: ...
    @property
    def protocol(self) -> int: ...
    @property
    def held(self) -> int:
        """Bytes of memory."""
    def counters(self) -> dict[str, int]:
        """Those that are not zero."""
    def close(self) -> None:
        """Frees everything, and proves it: AssertionError."""
