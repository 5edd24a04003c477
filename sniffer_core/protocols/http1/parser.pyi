"""Nothing public: the class below lets the tests drive the C functions of http1.pxd."""

from typing import Any, final

@final
class _PyParser:
    """One parser as flow drives it. Kinds, events, states, reasons and anomalies are the numbers of http1.pxd."""

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
