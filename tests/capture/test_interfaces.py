"""The interfaces of this system."""

from __future__ import annotations

import socket
import sys

import pytest

from sniffer.capture import interfaces
from sniffer.capture.interfaces import default_interface
from sniffer.errors import CaptureError


class Devices:
    """Interfaces as the system would tell of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **flags: tuple[int, bool, bool]) -> None:
        names = list(flags)
        monkeypatch.setattr(socket, "if_nameindex", lambda: list(enumerate(names, 1)))
        monkeypatch.setattr(interfaces, "_interface_flags", lambda name: flags[name][0])
        monkeypatch.setattr(interfaces, "_has_ipv4", lambda name: flags[name][1])
        sixes = [("20010db8000000000000000000000001", name) for name in names if flags[name][2]]
        monkeypatch.setattr(interfaces, "_ipv6_addresses", lambda: sixes)


def test_the_default_interface_is_the_first_that_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up, with an address of either IP, not loopback: the first such one."""
    Devices(
        monkeypatch,
        lo=(0x9, True, True),
        down0=(0x0, True, True),
        bare0=(0x1, False, False),
        six0=(0x1, False, True),
        four0=(0x1, True, False),
    )
    assert default_interface() == "six0"


def test_no_default_interface_lists_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none serves, one has to be named."""
    Devices(monkeypatch, lo=(0x9, True, True))
    with pytest.raises(CaptureError, match="name one; available: lo, any"):
        default_interface()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux")
def test_the_system_tells_of_its_interfaces() -> None:
    """The loopback interface is up, is loopback and has an address, by the system's own words."""
    assert interfaces._interface_flags("lo") & 0x8
    assert not interfaces._interface_flags("nope0")
    assert interfaces._has_ipv4("lo") or "lo" in [name for _, name in interfaces._ipv6_addresses()]
