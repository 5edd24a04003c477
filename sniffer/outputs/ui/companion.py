"""The live view in the daemon: what gets the messages, and the server that shows them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sniffer.companion import Companion, Watched
from sniffer.exchanges import exchange_lane

if TYPE_CHECKING:
    from sniffer.budget import Budget
    from sniffer.delivery.lane import Lane
    from sniffer.outputs import Context
    from sniffer.outputs.ui.server import Server
    from sniffer.outputs.ui.store import LiveSink


class Page(Companion):
    """The page of one run."""

    keeps = True

    def __init__(self, *, address: str, port: int, ports: Sequence[int], live: bool) -> None:
        """Is served at `port` of `address`, 0 being a free one that is none of the captured `ports`."""
        self.stays = not live
        self._address = address
        self._port = port
        self._ports = ports
        self._live = live
        self._sink: LiveSink | None = None
        self._server: Server | None = None

    async def open(self, sniffer: Watched, budget: Budget) -> None:
        """Starts to serve. SnifferError when the address cannot be listened on."""
        from sniffer.outputs.ui.server import Server
        from sniffer.outputs.ui.store import LiveSink

        self._sink = LiveSink(max_bytes=budget.kept, live=self._live)
        self._server = Server(self._sink, address=self._address, port=self._port, ports=self._ports, live=self._live)
        await self._server.open(sniffer)

    def lane(self, context: Context) -> Lane:
        """The lane of what is shown."""
        if self._sink is None:
            raise RuntimeError("lane before open")
        return exchange_lane(self._sink, share=context.share, live=context.live, dropped=context.dropped)

    def say_start(self) -> None:
        """The one line that holds the page's token. It is written however little is logged."""
        if self._server is not None:
            log = logging.getLogger("sniffer.ui")
            log.setLevel(logging.INFO)
            url = self._server.url
            log.info("live view", extra={"fields": {"url": url}, "line": f"live view: {url}"})

    def say_last(self) -> None:
        """Logs what there is to say of browsers, for the last time."""
        if self._server is not None:
            self._server.say_last()

    async def close(self) -> None:
        """Lets each browser have the last rows, for a moment, and ends."""
        if self._server is not None:
            await self._server.close()
