"""How a startup probe learns that the daemon has started: it captures, or holds with the error that prevents it.

The daemon binds a name among the abstract Unix sockets of its network namespace, which a pod has to itself. This needs
no writable file system, no port and no privilege, and works in pods whose containers share their processes. The name
disappears with the process, however that ends. /proc/net/unix lists it, so the probe is a `grep` of a millisecond or
two; a Python interpreter would take fifty or more of a container's CPU.

Nothing is ever sent to the socket. If another program has taken the name, the probe succeeds too early, which costs
only the first messages of a pod.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
from typing import Final

NAME: Final = "tcp-sniffer/started"
PROBE: Final = ("/bin/grep", "-q", "-F", f"@{NAME}", "/proc/net/unix")
"""A command that succeeds once the daemon in the same network namespace has started."""
LATEST_S: Final = 20.0
"""After this time (seconds) the daemon signals a start even if it has not started, so that no pod waits for ever."""

_said: socket.socket | None = None


def expect() -> None:
    """Signals the start after LATEST_S at the latest. A SIGALRM does it, which comes even while the start blocks."""
    signal.signal(signal.SIGALRM, lambda *_: say())
    signal.setitimer(signal.ITIMER_REAL, LATEST_S)


def cancel() -> None:
    """Undoes `expect()`. A process that reads a file has no probe."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def say() -> None:
    """Signals the start until the process ends. Never raises, also if another daemon has taken the name."""
    global _said  # noqa: PLW0603 - one for the process
    cancel()
    if _said is not None or not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError):  # the name is taken, or this process may have no such socket
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.bind(f"\0{NAME}")
        except OSError:
            made.close()
            raise
        _said = made
