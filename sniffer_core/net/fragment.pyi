"""Nothing public: the two names below let the tests reach the C functions of wire.pxd and fragment.pxd."""

from typing import Any, final

def _py_parse(linktype: int, data: bytes) -> tuple[str, dict[str, Any]]:
    """`wire_parse()`: the verdict in lower case without its prefix, and what the packet views."""

@final
class _PyFragments:
    def add(self, linktype: int, data: bytes, now: int = 0) -> tuple[str, dict[str, Any]]:
        """As `_py_parse`, with `fragments_add()` behind it; the verdict of a fragment that was kept is `kept`."""
    def free(self) -> None: ...
    @property
    def state(self) -> tuple[int, int, int, int]:
        """Datagrams in progress, datagrams given up, bytes and blocks of the pool."""
