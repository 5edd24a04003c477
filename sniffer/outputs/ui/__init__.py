"""The live view: a page for browsers on which exchanges are seen as they happen.

    lane -- batch --> LiveSink -- Store (the newest exchanges, the plot) --> Server -- events, answers --> the page

`page/` is what the browser runs: no framework, nothing fetched from elsewhere, nothing built.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from sniffer.checks import is_address
from sniffer.errors import Problem
from sniffer.options import MaybeText, Option, OptionGroup, Switch, quote, switch
from sniffer.outputs import OUTPUT, Companion, Output

if TYPE_CHECKING:
    from sniffer.config import SnifferConfig

LOOPBACK: Final = "127.0.0.1"


def check_ui_address(value: object) -> str | None:
    """Where to serve a page: `ADDRESS:PORT`, or a port alone, on loopback; in its one form. Port 0 is a free one."""
    if value is None:
        return None
    wanted = re.fullmatch(r"(?:(\[[0-9A-Fa-f:.]+\]|[0-9.]+|localhost):)?([0-9]{1,5})", str(value).strip())
    host = wanted[1] or LOOPBACK if wanted is not None else ""
    host = {"localhost": LOOPBACK}.get(host, host)
    if wanted is None or not is_address(host.strip("[]")) or int(wanted[2]) > 65535:
        raise ValueError(f"must be an IP address and a port ({LOOPBACK}:8090, [::1]:0), or a port, not {quote(value)}")
    return f"{host}:{int(wanted[2])}"


def split_address(address: str) -> tuple[str, int]:
    """The parts of what `check_ui_address` gives."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(address: str) -> bool:
    """Whether what `check_ui_address` gives is reached from this host alone."""
    from ipaddress import ip_address  # seldom needed

    return ip_address(split_address(address)[0]).is_loopback


class UiOptions(OptionGroup):
    """Options of the live view."""

    # fmt: off
    ui_address: MaybeText = Option(
        check_ui_address, group=OUTPUT, flag="--ui", metavar="ADDRESS:PORT", bare=f"{LOOPBACK}:0", shown="off",
        help="serve the live view, a page for browsers; the flag alone takes a free port of loopback",
    )
    ui_remote: Switch = switch(
        False, group=OUTPUT, help="allow UI_ADDRESS to be another address than loopback; the page is plain http",
    )
    # fmt: on


class Ui(Output):
    """The live view."""

    name = "ui"
    options = UiOptions
    switch = "ui_address"
    does = "shows them in a browser"
    working = 1 << 20
    renders_json = False
    daemon_only = True

    def rules(self, config: SnifferConfig) -> Iterable[Problem]:
        """The page is served on loopback unless that is lifted, and on a port of its own."""
        if config.ui_address is None:
            return
        port = split_address(config.ui_address)[1]
        if not (config.ui_remote or is_loopback(config.ui_address)):
            yield Problem("ui_address", "ui_address must be on loopback, unless ui_remote is set")
        elif port in (config.ports or ()):
            yield Problem("ui_address", "ui_address must not have one of ports")
        elif port and port == config.metrics_port:
            yield Problem("ui_address", "ui_address must not have the port of metrics_port")

    def warnings(self, config: SnifferConfig) -> Iterable[str]:
        """What is seen on the way to another host."""
        if config.ui_remote and config.ui_address is None:
            yield "ui_remote is set and ui_address is not: there is no live view"
        elif config.ui_remote:
            yield "the live view is plain http: what it shows, and its token, can be read on the way"

    def load(self) -> None:
        """Imports the server, and with it aiohttp."""
        from sniffer.outputs.ui import server  # noqa: F401

    def companion(self, config: SnifferConfig) -> Companion:
        """The page."""
        from sniffer.outputs.ui.companion import Page

        assert config.ui_address is not None  # noqa: S101 - it is wanted
        address, port = split_address(config.ui_address)
        return Page(address=address, port=port, ports=config.ports, live=not config.read)
