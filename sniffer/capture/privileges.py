"""What the process may do: NET_RAW, for as long as it takes to open the capture, and in one thread only.

The image's interpreter carries cap_net_raw as a permitted capability only: an effective one in the file would keep the
process from starting at all (execve fails with EPERM) wherever NET_RAW is not granted to the container. So the process
raises it itself.

Capabilities belong to threads, and a thread that runs cannot be told to give its own up. So the daemon does it the
other way round: before it has any thread, it starts one that keeps NET_RAW (`confine`), gives up its own, and thereby
those of every thread to come. What needs the capability is called there (`call`); the thread ends once the capture is
open (`release`), and with it the last of the capability.
"""

from __future__ import annotations

import contextlib
import ctypes
import queue
import resource
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, TypeVar

Result = TypeVar("Result")

CAP_DAC_OVERRIDE: Final = 1
CAP_DAC_READ_SEARCH: Final = 2
CAP_NET_BIND_SERVICE: Final = 10
CAP_NET_RAW: Final = 13
KEPT: Final = 1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH | 1 << CAP_NET_BIND_SERVICE
"""What root keeps, to open the files and the port that its configuration names; another user has none of them."""
PR_SET_NO_NEW_PRIVS: Final = 38
MOST_DESCRIPTORS: Final = 65_536
_VERSION_3: Final = 0x20080522
"""_LINUX_CAPABILITY_VERSION_3 of linux/capability.h: two words for each set."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def raise_descriptors() -> None:
    """Lets the process open as many files as it may: it starts with the soft limit, often 1,024 of far more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # forbidden here: then the soft limit it is
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def raise_net_raw() -> None:
    """Makes NET_RAW effective in this thread, and in those started from it later, where it is permitted.

    Does nothing where it is effective already, is not permitted, or elsewhere than on Linux. Never raises: a capture
    that then cannot be opened says so itself, with the remedy.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    header, words = _Header(_VERSION_3, 0), (_Sets * 2)()
    if libc.capget(ctypes.byref(header), words) != 0:
        return
    bit = 1 << CAP_NET_RAW
    if words[0].permitted & bit and not words[0].effective & bit:
        words[0].effective |= bit
        libc.capset(ctypes.byref(header), words)


def _limit(kept: int) -> bool:
    """Gives up every capability of this thread but those of `kept`; whether that is so now."""
    libc = ctypes.CDLL(None)
    header, words = _Header(_VERSION_3, 0), (_Sets * 2)()
    if libc.capget(ctypes.byref(header), words) != 0:
        return False
    for word, bits in zip(words, (kept, 0), strict=True):
        word.effective &= bits
        word.permitted &= bits
        word.inheritable = 0
    return bool(libc.capset(ctypes.byref(header), words) == 0)


class _Holder(threading.Thread):
    """The one thread that has NET_RAW."""

    def __init__(self) -> None:
        super().__init__(name="sniffer privileges", daemon=True)
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self.ready = threading.Event()

    def run(self) -> None:
        raise_net_raw()
        _limit(1 << CAP_NET_RAW)
        self.ready.set()
        while (item := self._calls.get()) is not None:
            function, future = item
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)
        _limit(0)  # a thread that has ended may be there a moment longer

    def call(self, function: Callable[[], Result]) -> Result:
        future: Future[Result] = Future()
        self._calls.put((function, future))
        return future.result()

    def end(self) -> None:
        self._calls.put(None)
        self.join()


_holder: _Holder | None = None


def confine(*, capture: bool) -> bool:
    """For the daemon, before it has another thread: nothing it executes gets new privileges, and NET_RAW is left to
    `call` alone, or to nobody where there is no live `capture`. False where the system did not allow it.
    """
    global _holder  # noqa: PLW0603 - one for the process, as its capabilities are
    if not sys.platform.startswith("linux"):
        return True
    ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if capture:
        _holder = _Holder()
        _holder.start()
        _holder.ready.wait()
    return _limit(KEPT)


def call(function: Callable[[], Result]) -> Result:
    """Calls it where NET_RAW is: in the thread that holds it, or, in a process that was not confined, right here."""
    return function() if _holder is None else _holder.call(function)


def release() -> None:
    """The capture is open, or cannot be: nothing needs NET_RAW any more."""
    global _holder
    holder, _holder = _holder, None
    if holder is not None:
        holder.end()
