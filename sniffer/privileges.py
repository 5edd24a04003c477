"""The capability to capture, made effective.

The image's interpreter carries cap_net_raw as a permitted capability only: an effective one in the file would keep the
process from starting at all (execve fails with EPERM) wherever NET_RAW is not granted to the container. So the process
raises it itself.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

CAP_NET_RAW: Final = 13
_VERSION_3: Final = 0x20080522
"""_LINUX_CAPABILITY_VERSION_3 of linux/capability.h: two words for each set."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


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
