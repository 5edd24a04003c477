"""The network interfaces of this system: which there are, which one is the default, and what the system says of one.

Everything is asked of the kernel. libpcap's list of devices is not used: it also names pseudo devices, such
as `nflog` and `usbmon0`.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import Final

from sniffer.errors import CaptureError

ANY: Final = "any"
"""libpcap's name for all interfaces at once."""

_SIOCGIFFLAGS: Final = 0x8913
_SIOCGIFADDR: Final = 0x8915
_IFF_UP: Final = 0x1
_IFF_LOOPBACK: Final = 0x8


def interfaces() -> list[str]:
    """The names of what can be captured on; `any` is the last."""
    return [*(name for _, name in socket.if_nameindex()), ANY]


def default_interface() -> str:
    """The first interface that is up, has an address and is not loopback. Raises CaptureError where there is none."""
    addressed = {name for _, name in _ipv6_addresses()}
    for _, name in socket.if_nameindex():
        flags = _interface_flags(name)
        if flags & _IFF_UP and not flags & _IFF_LOOPBACK and (name in addressed or _has_ipv4(name)):
            return name
    raise CaptureError(
        f"no interface is up, has an address and is not loopback: name one; available: {', '.join(interfaces())}"
    )


def interface_number(name: str) -> int:
    """The kernel's index of an interface, 0 for `any`. Raises CaptureError where there is no such interface."""
    if name == ANY:
        return 0
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise CaptureError(no_such_interface(name)) from None


def no_such_interface(name: str) -> str:
    """The text of the error for a name that no interface has. It lists the names that there are."""
    return f"no such interface: {name}; available: {', '.join(interfaces())}"


def is_up(name: str) -> bool:
    """Whether the interface exists and is up."""
    return bool(_interface_flags(name) & _IFF_UP)


def is_loopback(name: str) -> bool:
    """Whether it is the loopback interface. False for `any`."""
    return bool(_interface_flags(name) & _IFF_LOOPBACK)


def addresses(name: str) -> list[str]:
    """The interface's first IPv4 address, then all of its IPv6 addresses."""
    answer = _ask(_SIOCGIFADDR, name)
    found = [socket.inet_ntop(socket.AF_INET, answer[20:24])] if answer else []
    return found + [
        socket.inet_ntop(socket.AF_INET6, bytes.fromhex(packed)) for packed, of in _ipv6_addresses() if of == name
    ]


def _ipv6_addresses() -> list[tuple[str, str]]:
    """(address in hexadecimal, name of its interface) for each IPv6 address of the system."""
    try:
        lines = Path("/proc/self/net/if_inet6").read_text("ascii").splitlines()
    except OSError:  # this system has no IPv6
        return []
    return [(line.split()[0], line.split()[-1]) for line in lines]


def _interface_flags(name: str) -> int:
    """The interface's flags (netdevice(7)); 0 where it does not exist."""
    answer = _ask(_SIOCGIFFLAGS, name)
    flags: int = struct.unpack_from("16xH", answer)[0] if answer else 0
    return flags


def _has_ipv4(name: str) -> bool:
    return bool(_ask(_SIOCGIFADDR, name))


def _ask(request: int, name: str) -> bytes:
    """The kernel's answer (`struct ifreq`) to an ioctl about this interface; empty where it refuses one."""
    from fcntl import ioctl  # does not exist on every system

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        try:
            return ioctl(asker, request, struct.pack("256s", os.fsencode(name)[:15]))
        except OSError:
            return b""
