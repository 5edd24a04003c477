"""How a startup probe learns that the daemon has started: it captures, or waits with the error for which it cannot.

The daemon takes a name among the abstract Unix sockets of its network namespace, which a pod has to itself. That needs
no file system that can be written, no port and no right, and works where the pod's containers share their processes.
The name is gone with the process, however that ends. /proc/net/unix lists it, so the probe is a `grep` of a millisecond
or two, where an interpreter would take fifty and more of a container's CPU.

Nothing is ever sent to the socket. A name that somebody else has taken makes the probe succeed too early, which costs
the first messages of a pod, and nothing more.
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
"""After so long the daemon says that it has started, even if it has not: no pod waits for the sniffer for ever."""

_said: socket.socket | None = None


def expect() -> None:
    """Has it said in LATEST_S, unless it is said before: by a signal, which comes even while the start waits."""
    signal.signal(signal.SIGALRM, lambda *_: say())
    signal.setitimer(signal.ITIMER_REAL, LATEST_S)


def cancel() -> None:
    """Undoes `expect`: no probe asks for a process that reads a file."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def say() -> None:
    """Says that the daemon has started, until the process ends. Never raises: a second daemon finds the name taken."""
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
