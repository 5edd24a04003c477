"""What each signal means to the daemon and to the webhook. Imports no module of this package, since it comes first.

The default action of many signals would end the process without a drain. So each of them either stops the process
with a drain or is ignored. Untouched are signals that cannot be caught (KILL, STOP), job control, and the signals of
a defect (ABRT, BUS, FPE, ILL, SEGV, SYS, TRAP), whose core dump somebody may want.
"""

import signal
from collections.abc import Callable
from types import FrameType

STOPS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGQUIT", "SIGPWR", "SIGXCPU", "SIGTERM") if hasattr(signal, name)
)
"""Signals that stop: from a person, an orchestrator, a host that shuts down, a CPU time limit."""

REPEATED = getattr(signal, "SIGXCPU", None)
"""The system repeats it with every second of CPU time, so a second one is not a second request to stop."""

_NAMES = ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGSTKFLT")
IGNORED = (
    *(getattr(signal, name) for name in _NAMES if hasattr(signal, name)),
    *(range(signal.SIGRTMIN, signal.SIGRTMAX + 1) if hasattr(signal, "SIGRTMIN") else ()),
)
"""Timers and notifications that the daemon does not use. They may have been meant for another process."""


def take(leave: Callable[[int, FrameType | None], None]) -> None:
    """Ignores IGNORED and gives STOPS to `leave`. SIGTERM comes last: tests wait for its handler."""
    for number in IGNORED:
        # A profiler that was loaded before may have a handler of its own.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.SIG_IGN)
    for number in STOPS:
        signal.signal(number, leave)
