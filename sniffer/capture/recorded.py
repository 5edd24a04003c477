"""The table of recorded exchanges: what a flow table is for packets, this is for records.

It has the methods of `FlowTable`, so the capture thread feeds it in the same way. Each line and each entry of HAR ends
in one counter: read, left out by the sample, or skipped by a reason.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, OrderedDict
from typing import Any, Final

import msgspec

from sniffer.capture.records import CUT, END, ENTRY, LAST, LONG
from sniffer.capture.source import INDEX, Event
from sniffer.errors import CaptureError
from sniffer.record.entries import OtherVersionError, messages_of
from sniffer.record.message import SCHEMA, HttpMessage
from sniffer_core.core import RawMessage, Recorded, connection_hash

log = logging.getLogger("sniffer.capture")

COUNTERS: Final = (
    "records_seen",
    "records_read",
    "records_sampled_out",
    "records_skipped_long",
    "records_skipped_cut",
    "records_skipped_schema",
    "records_skipped_version",
    "records_skipped_other",
    "messages_request",
    "messages_response",
)
WHY: Final = {
    "records_skipped_long": "too long for MEMORY_BUDGET",
    "records_skipped_cut": "cut short at the end of the file",
    "records_skipped_schema": f"of another schema than {SCHEMA}",
    "records_skipped_version": "of another version of HTTP than 1.0 and 1.1",
    "records_skipped_other": "no record",
}
"""Why a line or entry was skipped, by its counter."""
AGENTS: Final = 10_000
"""Requests whose User-Agent is remembered until their response comes."""
AGENT_MOST: Final = 256
"""Characters of a User-Agent that are remembered."""


class _Head(msgspec.Struct):
    schema: int


class RecordTable:
    """Makes messages of records. Belongs to the capture thread."""

    def __init__(self, recorded: Recorded, *, sample_rate: float, carries: bool) -> None:
        """`carries` says whether the filters need the User-Agent: `recorded` then takes `filters.CARRY`."""
        self._recorded = recorded
        self._sample_rate = sample_rate
        self._agents: OrderedDict[tuple[str, int], str | None] | None = OrderedDict() if carries else None
        self._counters: Counter[str] = Counter(dict.fromkeys(COUNTERS, 0))
        self._line = msgspec.json.Decoder(HttpMessage).decode
        self._head = msgspec.json.Decoder(_Head).decode

    def feed(
        self, packets: bytes, index: bytes, first: int = 0, clock_us: int | None = None
    ) -> tuple[list[RawMessage], int]:
        """Feeds a batch of `Records.batches`. CaptureError at the end of a file in which nothing was a record."""
        del clock_us
        made: list[RawMessage] = []
        number = first
        for kind, _, at, size in INDEX.iter_unpack(index[first * INDEX.size :]):
            if kind == END and number > first:
                return made, number  # what came before is handed over, whatever the end says
            number += 1
            data = packets[at : at + size]
            if kind == END:
                self._end(os.fsdecode(data))
            else:
                self._counters["records_seen"] += 1
                self._counters[self._add(kind, data, made)] += 1
        return made, number

    def _add(self, kind: int, data: bytes, made: list[RawMessage]) -> str:
        """Adds the messages of a line or an entry. Returns the counter that it ends in."""
        if kind == LONG:
            return "records_skipped_long"
        if kind == CUT:
            return "records_skipped_cut"
        try:
            records = messages_of(data) if kind == ENTRY else [self._line(data)]
            ends = [
                ((each.receiver.ip, each.receiver.port), (each.destination.ip, each.destination.port))
                for each in records
            ]
            if self._sample_rate < 1 and connection_hash(*ends[0]) >= self._sample_rate:
                return "records_sampled_out"
            found = [self._recorded.message(record, self._carried(record)) for record in records]
        except OtherVersionError:
            return "records_skipped_version"
        except (ValueError, OverflowError, msgspec.MsgspecError, RecursionError):
            return self._why(kind, data)
        for raw in found:
            self._counters[f"messages_{raw.direction}"] += 1
        made += found
        return "records_read"

    def _why(self, kind: int, data: bytes) -> str:
        """The counter of what is no record."""
        try:
            if kind != ENTRY and self._head(data).schema != SCHEMA:
                return "records_skipped_schema"
        except (ValueError, msgspec.MsgspecError, RecursionError):
            if kind == LAST:
                return "records_skipped_cut"
        return "records_skipped_other"

    def _carried(self, record: HttpMessage) -> tuple[str | None, ...] | None:
        """The request's fields that filters look at (`filters.CARRY`), of which a file has use for the first alone."""
        if self._agents is None:
            return None
        key = (record.connection_id, record.exchange)
        if record.direction == "response":
            return self._agents.pop(key, None), None, None
        agent = record.headers.get("user-agent")
        shown = agent[:AGENT_MOST] if isinstance(agent, str) else None
        self._agents[key] = shown
        if len(self._agents) > AGENTS:
            self._agents.popitem(last=False)
        return agent if isinstance(agent, str) else None, None, None

    def _end(self, name: str) -> None:
        """Says what of a file was skipped."""
        counters = self._counters
        skipped = {why: counters[reason] for reason, why in WHY.items() if counters[reason]}
        if counters["records_seen"] and sum(skipped.values()) == counters["records_seen"]:
            said = "; ".join(f"{count} {why}" for why, count in skipped.items())
            raise CaptureError(f"{name} cannot be read: none of its lines or entries is a record that can be ({said})")
        if skipped:
            log.warning("records were skipped", extra={"fields": {"file": name, "skipped": skipped}})

    def counters(self) -> dict[str, int]:
        """Totals, by the names in COUNTERS."""
        return dict(self._counters)

    def gauges(self) -> dict[str, int]:
        """None: it holds nothing."""
        return {}

    def events(self) -> list[Event]:
        """None: what connections carried is not told by records."""
        return []

    def tick(self, clock_us: int) -> list[RawMessage]:
        """Nothing: time does not matter here."""
        del clock_us
        return []

    def flush(self) -> list[RawMessage]:
        """Nothing: every message is whole when it is read."""
        return []

    def exclude(self, address: str, port: int) -> None:
        """Nothing: the deliveries of this process are in no file."""

    def readmit(self, address: str, port: int) -> None:
        """Nothing, as `exclude`."""


def make_table(*, sample_rate: float, **options: Any) -> RecordTable:
    """A table for `options`, the arguments of `Recorded`."""
    return RecordTable(Recorded(**options), sample_rate=sample_rate, carries=bool(options.get("carry")))
