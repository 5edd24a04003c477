"""What each signal means to the daemon and to the webhook. Imports nothing of ours: it is needed before anything else.

A signal whose default action ends the process would end it without a drain. So every one of them is either a wish to
stop, or says nothing to us and is ignored. What is left alone: what cannot be caught (KILL, STOP), job control, and the
signals of a defect (ABRT, BUS, FPE, ILL, SEGV, SYS, TRAP), whose core dump somebody may want.
"""

import signal
from collections.abc import Callable
from types import FrameType

STOPS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGQUIT", "SIGPWR", "SIGXCPU", "SIGTERM") if hasattr(signal, name)
)
"""A wish to stop: of a person, an orchestrator, a host that goes down, a limit of CPU time that is reached."""

REPEATED = getattr(signal, "SIGXCPU", None)
"""The system repeats it with every second of CPU time: a second one is no second wish."""

_NAMES = ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGSTKFLT")
IGNORED = (
    *(getattr(signal, name) for name in _NAMES if hasattr(signal, name)),
    *(range(signal.SIGRTMIN, signal.SIGRTMAX + 1) if hasattr(signal, "SIGRTMIN") else ()),
)
"""Timers and notifications, which mean nothing to us: who sends one may have meant another process."""


def take(leave: Callable[[int, FrameType | None], None]) -> None:
    """Ignores what says nothing, and lets `leave` handle every wish to stop; SIGTERM last, for whoever waits for it."""
    for number in IGNORED:
        # A profiler that was loaded before us has a handler of its own.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.SIG_IGN)
    for number in STOPS:
        signal.signal(number, leave)
