"""Log lines about traffic and losses: once for each kind of event, or once in each interval, with counts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sniffer.capture.source import Event
from sniffer.delivery.sink import where
from sniffer.ledger import CORE, Ledger

log = logging.getLogger("sniffer")

EVENTS: Final = {
    "tls": (logging.INFO, "TLS on a captured port: its messages cannot be read; capture where the plain text is"),
    "http2": (logging.INFO, "HTTP/2 on a captured port, recognised too late to be read"),
    "other-protocol": (logging.INFO, "a captured port speaks something other than HTTP"),
    "undecided": (logging.INFO, "a connection was given up: neither side spoke a start line"),
    "tunnel": (logging.INFO, "a connection became a tunnel (101, or a 2xx to CONNECT): the rest of it is not read"),
    "snapped": (logging.WARNING, "packets longer than the snapshot length were cut: bytes of messages are missing"),
    "long-message": (logging.INFO, "a message has been open for 60 s; it is emitted when it ends"),
}
"""Level and text of the first event of each kind; later ones are logged at debug level, once for each connection."""

DROPS: Final = {
    "kernel_dropped": "the kernel drops packets: its buffer is full",
    "kernel_if_dropped": "the interface drops packets",
    "handoff_dropped": "messages are dropped: the hand-off is full",
}

EVICTIONS: Final = (
    "flows_evicted_silent",
    "flows_evicted_capacity",
    "flows_evicted_memory",
    "holds_evicted",
    "bodies_evicted",
)

TUNNELS: Final = {
    counter.name: counter.meaning.removeprefix("inside ").removesuffix(", not read")
    for counter in CORE
    if counter.name.startswith("packets_tunnel_")
}
"""The name of each kind of tunnel, by its counter."""


class Watch:
    """Logs events, drops and statistics of one run."""

    def __init__(self, ledger: Ledger, *, live: bool, left_out: Callable[[], Mapping[str, Any]] = dict) -> None:
        """`left_out` gives the exchanges that expressions have left out, for the statistics."""
        self._ledger = ledger
        self._left_out = left_out
        self._live = live
        self._kinds: set[str] = set()
        self._last: Mapping[str, Any] = ledger.snapshot()
        self._dropping: set[str] = set()
        self._failed_said = self._no_lane_said = False

    def event(self, event: Event) -> None:
        """Logs an event of the core: the first of its kind at its level, the others at debug level."""
        kind, receiver, destination = event
        level, text = EVENTS.get(kind, (logging.INFO, kind))
        fields = {
            "kind": kind,
            "receiver": f"{receiver[0]} port {receiver[1]}",
            "destination": f"{destination[0]} port {destination[1]}",
        }
        if kind not in self._kinds:
            self._kinds.add(kind)
            log.log(level, text, extra={"fields": fields})
        else:
            log.debug(text, extra={"fields": fields})

    def drops(self, now: Mapping[str, int]) -> None:
        """Warns when drops begin: at the first one, and at the first of each interval after that."""
        for name, count in now.items():
            if count > self._last[name] and name not in self._dropping:
                self._dropping.add(name)
                log.warning(DROPS[name], extra={"fields": {"count": count}})

    def statistics(self) -> None:
        """Logs the statistics of an interval, packets in tunnels, and evictions."""
        now = self._ledger.snapshot()
        fields: dict[str, Any] = {}
        if self._live:
            fields = {
                "packetsReceived": now["kernel_received"],
                "packetsDropped": now["kernel_dropped"],
                "packetsIfDropped": now["kernel_if_dropped"],
            }
        fields |= {
            "packetsSeen": now["packets_seen"],
            "messages": now["messages_request"] + now["messages_response"],
            "connections": now["flows"],
            "tls": now["flows_tls"],
            "http2": now["flows_http2"],
            "memoryBytes": now["memory_bytes"],
            "handoffDropped": now["handoff_dropped"],
        }
        if left_out := self._left_out():
            fields["leftOut"] = left_out
        log.info("Capture stats", extra={"fields": fields})
        for name, tunnel in TUNNELS.items():
            if now[name] > self._last[name]:
                count = "1 packet" if now[name] == 1 else f"{now[name]:,} packets"
                text = f"{count} inside {tunnel}, not read"
                log.warning(text, extra={"fields": {"count": now[name]}})
        evicted = {name: count for name in EVICTIONS if (count := now[name] - self._last[name])}
        if evicted:
            log.warning("evicted since the last statistics", extra={"fields": evicted})
        self._last = now
        self._dropping.clear()

    def nothing_seen(self, interface: str, ports: Sequence[int]) -> None:
        """Warns that there is no message yet, and says what to check."""
        now = self._ledger.snapshot()
        if now["messages_request"] + now["messages_response"]:
            return
        log.warning(
            "nothing seen for 30 s: check the interface, the ports, and whether the traffic is plain HTTP"
            " (behind a service mesh the plain text is on lo)",
            extra={
                "fields": {
                    "interface": interface,
                    "ports": list(ports),
                    "packetsSeen": now["packets_seen"],
                    "tls": now["flows_tls"],
                    "http2": now["flows_http2"],
                }
            },
        )

    def lanes(self, any_lane: bool) -> None:
        """Warns once when messages go nowhere."""
        if not any_lane and not self._no_lane_said:
            self._no_lane_said = True
            log.warning("no output, callback or iterator: messages are discarded")

    def failed_message(self, error: Exception) -> None:
        """Logs once that no record could be made of a message: the place of the error, and nothing of the message."""
        if not self._failed_said:
            self._failed_said = True
            fields = {"error": where(error)}
            log.error(
                "a message could not be made into a record; further ones are only counted", extra={"fields": fields}
            )
