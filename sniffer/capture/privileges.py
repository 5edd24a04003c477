"""The process's privileges: NET_RAW is held by one thread only, and only until the capture is open.

The image's interpreter has cap_net_raw as a permitted capability, not as an effective one. With an effective one in the
file, execve would fail with EPERM wherever the container is not granted NET_RAW, and the process could not even start.
So the process makes it effective itself (`raise_net_raw`).

Capabilities belong to threads, and no thread can take them from another. So the daemon, before it has any other thread,
starts one that keeps NET_RAW, and gives up its own capabilities (`confine`). Every thread started later inherits what
is left. What needs NET_RAW is called in the thread that holds it (`call`). That thread ends once the capture is open
(`release`), and NET_RAW with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import resource
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, TypeVar

Result = TypeVar("Result")

CAP_DAC_OVERRIDE: Final = 1
CAP_DAC_READ_SEARCH: Final = 2
CAP_NET_BIND_SERVICE: Final = 10
CAP_NET_RAW: Final = 13
KEPT: Final = 1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH | 1 << CAP_NET_BIND_SERVICE
"""What root keeps: it may have to open files of other users and a low port. Another user has none of these."""
PR_SET_NO_NEW_PRIVS: Final = 38
MOST_DESCRIPTORS: Final = 65_536
"""The most open files that the process asks for."""
_VERSION_3: Final = 0x20080522
"""_LINUX_CAPABILITY_VERSION_3 of linux/capability.h: two words for each set."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def program() -> str:
    """What to type behind `sudo` to run this program again: whole paths, as sudo does not search a virtual environment.

    Also where the program is somebody's own, with the library in it.
    """
    started = Path(sys.argv[0] if sys.argv and sys.argv[0] else sys.executable)
    if started.name == "__main__.py":
        return f"{sys.executable} -m sniffer"
    whole = str(started.absolute())
    return whole if os.access(whole, os.X_OK) else f"{sys.executable} {started}"


def raise_descriptors() -> None:
    """Raises the limit of open files to the hard limit, or MOST_DESCRIPTORS. The soft limit is often 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # the system may forbid it; the soft limit then stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def raise_net_raw() -> None:
    """Makes NET_RAW effective in this thread, and in threads that it starts later, where it is permitted.

    Does nothing where NET_RAW is effective already or not permitted, and on other systems than Linux. Never raises an
    error: a capture that cannot be opened reports that itself, with the remedy.
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
    """Gives up every capability of this thread except the bits of `kept`. Returns whether that has worked."""
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
    """The thread that has NET_RAW. It runs what `call` is given, until `end`."""

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
        _limit(0)  # the kernel may show the thread for a moment after its end

    def call(self, function: Callable[[], Result]) -> Result:
        future: Future[Result] = Future()
        self._calls.put((function, future))
        return future.result()

    def end(self) -> None:
        self._calls.put(None)
        self.join()


_holder: _Holder | None = None


def confine(*, capture: bool) -> bool:
    """Gives up all privileges but KEPT. The daemon calls it, before it has another thread.

    Programs that the process executes get no new privileges. With `capture` NET_RAW stays available to `call`, without
    it to nobody. Returns False where the system did not allow it.
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
    """Calls `function` with NET_RAW: in the thread that holds it, or in this one if the process was not confined."""
    return function() if _holder is None else _holder.call(function)


def release() -> None:
    """Ends the thread that holds NET_RAW. Called once the capture is open, or has failed to open."""
    global _holder
    holder, _holder = _holder, None
    if holder is not None:
        holder.end()
