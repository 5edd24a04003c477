"""C functions of the core with Python arguments, for tests alone. The product does not import this module."""

from typing import Any, final

from sniffer_core.core import FlowTable

# -- base/ascii

def same_but_for_case(text: bytes, lower: bytes) -> bool:
    """`ascii_same()` of two texts of the same size, which is not 0."""

# -- base/memory

@final
class PySlabs:
    """The slabs of a pool. A block is known by its address; it is filled with a byte until it is given back."""

    def take(self, size: int, filling: int) -> int:
        """`slab_take()`: the address of a block of `size` bytes, filled; 0: there is no memory."""

    def give(self, address: int, size: int) -> set[int]:
        """`slab_give()`. Returns the bytes that the block held: one, unless somebody else wrote to it."""

    def starve(self) -> None:
        """The next `take()` gets no memory."""

    @property
    def taken(self) -> tuple[int, int]:
        """Bytes and blocks that the pool counts."""

    @property
    def slabs(self) -> int:
        """Slabs with a free block, of all sizes."""

# -- net/wire and net/fragment

def address_shown(address: bytes) -> str:
    """The text of an address of 4 or 16 bytes (`address_text`)."""

def digest_shown(data: bytes) -> str:
    """The BLAKE2b-128 of at most 128 bytes, in hexadecimal digits (`digest_digits`). ValueError for more."""

def parse_packet(linktype: int, data: bytes) -> tuple[str, dict[str, Any]]:
    """The verdict of `wire_parse()`, in lower case without its prefix, and the members of the packet that it sets."""

@final
class PyFragments:
    """A table of IP fragments."""

    def add(self, linktype: int, data: bytes, now: int = 0) -> tuple[str, dict[str, Any]]:
        """As `parse_packet`; a fragment is passed to `fragments_add()`. `kept`: it does not complete a datagram yet."""
    def free(self) -> None: ...
    @property
    def state(self) -> tuple[int, int, int, int]:
        """Datagrams in progress, datagrams given up, bytes of memory, blocks of memory."""

# -- tcp

def leaked() -> int:
    """Number of memory blocks that tables had not given back when they were freed, since the process began."""

def starve(table: FlowTable, number: int) -> int:
    """Makes allocation `number` from now on fail, counted from 1; 0: none. Returns what is left of the last number."""

def hashed(table: FlowTable, key: bytes, secret: bytes | None = None) -> int:
    """`keyed_hash()` of a key of 40 bytes, with a secret of 16 bytes or the table's own."""

# -- protocols/http1

@final
class PyParser:
    """One parser, called as a session does. Kinds, events, states, reasons and anomalies are the values of their enums.

    The methods call the functions of http1/parser.pxd with the same names.
    """

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
        """Returns (event, bytes consumed)."""
    def gap(self, size: int) -> tuple[int, int]:
        """Returns (event, bytes of the gap that are not consumed)."""
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
        """The open message, or None."""
    def take(self) -> dict[str, Any]:
        """Returns the open message and takes it out of the parser."""
    @property
    def state(self) -> int: ...
    @property
    def protocol(self) -> int: ...
    @property
    def held(self) -> int:
        """Bytes of memory that the parser uses."""
    def counters(self) -> dict[str, int]:
        """The counters that are not 0."""
    def close(self) -> None:
        """Frees the parser. AssertionError: not all of its memory was given back."""

# -- protocols/http2

@final
class PyHpack:
    """One HPACK table. The methods call the functions of http2/hpack.pxd with the same names."""

    def __init__(self, size: int = 4096, late: bool = False) -> None: ...
    def decode(
        self, block: bytes, max_bytes: int = ...
    ) -> tuple[int, list[tuple[bytes | None, bytes | None, bool, int, int]]]:
        """The result, and each field: name, value, never indexed, number of the unknown name, of the unknown value."""
    def repeat(self, blocks: list[bytes], times: int) -> int:
        """Decodes all blocks in turn, for measuring. Returns how many fields there were."""
    def forget(self) -> None: ...
    def limit(self, size: int) -> None: ...
    def starve(self, number: int) -> None:
        """Allocation `number` from now on fails, counted from 1; 0: none."""
    @property
    def state(self) -> tuple[int, int, int, int]:
        """Entries kept, their size by RFC 7541, the size of the table, bytes of memory."""
    def close(self) -> None:
        """Frees the table. AssertionError: not all of its memory was given back."""
