"""The balance laws of the core's ledger, and a table that is held to them at every use."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sniffer_core.core import COUNTERS, FlowTable, RawMessage
from tests.packets import ETHERNET, Packet, to_feed


def assert_laws(counters: Mapping[str, int], gauges: Mapping[str, int]) -> None:
    """Every packet, byte and flow stands in exactly one counter."""

    def total(prefix: str, *without: str) -> int:
        return sum(value for name, value in counters.items() if name.startswith(prefix) and name not in without)

    assert all(value >= 0 for value in (*counters.values(), *gauges.values()))
    assert counters["packets_seen"] == total("packets_", "packets_seen") + gauges["packets_waiting"]
    assert counters["bytes_payload"] == total("bytes_", "bytes_payload") + gauges["held_bytes"]
    ends = ("closed", "idle", "evicted_silent", "evicted_capacity", "evicted_memory", "stopped", "replaced")
    assert (
        counters["flows_opened"] + counters["flows_resumed"]
        == sum(counters[f"flows_{end}"] for end in ends) + gauges["flows"]
    )


def assert_empty(gauges: Mapping[str, int]) -> None:
    """After flush() nothing is left, and all memory has been given back."""
    assert {name: value for name, value in gauges.items() if value} == {}


class Table:
    """A FlowTable that asserts the laws after each call, and counts for itself what it is given and what it gives."""

    def __init__(self, *, linktype: int = ETHERNET, ports: Iterable[int] = (80,), **options: Any) -> None:
        self.core = FlowTable(linktype=linktype, ports=ports, **options)
        self.packets = 0
        self.handed_out: Counter[str] = Counter()

    def feed(self, packets: Iterable[Packet], clock_us: int | None = None) -> list[RawMessage]:
        """Feeds these packets as one batch; returns the messages that ended."""
        return self.feed_raw(*to_feed(packets), clock_us=clock_us)

    def feed_raw(self, data: bytes, index: bytes, *, clock_us: int | None = None) -> list[RawMessage]:
        """Feeds a batch that is made already."""
        messages: list[RawMessage] = []
        first, count = 0, len(index) // 16
        while first < count:
            batch, following = self.core.feed(data, index, first, clock_us)
            assert first < following <= count
            self.packets += following - first
            messages += self._checked(batch)
            first = following
        return messages

    def tick(self, clock_us: int) -> list[RawMessage]:
        """Lets time pass; returns what it ended."""
        return self._checked(self.core.tick(clock_us))

    def flush(self) -> list[RawMessage]:
        """Ends every flow; the table must be empty then."""
        messages = self._checked(self.core.flush())
        assert_empty(self.core.gauges())
        return messages

    def run(self, packets: Iterable[Packet]) -> list[RawMessage]:
        """A whole capture: feed and flush."""
        return self.feed(packets) + self.flush()

    def counted(self, *names: str) -> dict[str, int]:
        """These counters; without names all that are not 0."""
        counters = self.core.counters()
        return {name: counters[name] for name in names} if names else {k: v for k, v in counters.items() if v}

    def gauge(self, name: str) -> int:
        return self.core.gauges()[name]

    def _checked(self, messages: Sequence[RawMessage]) -> list[RawMessage]:
        for message in messages:
            self.handed_out[f"messages_{message.direction}"] += 1
            self.handed_out[f"incomplete_{message.incomplete}"] += 1
            self.handed_out["messages_resynced"] += message.resynced
            self.handed_out["responses_unpaired"] += message.direction == "response" and message.method is None
            for anomaly in message.anomalies:
                self.handed_out[f"anomaly_{anomaly.replace('-', '_')}"] += 1
        self.check(self.core.counters())
        return list(messages)

    def check(self, counters: Mapping[str, int]) -> None:
        """Asserts every law of these counters: among themselves, and with what the table was given and gave."""
        assert tuple(counters) == COUNTERS
        assert counters["packets_seen"] == self.packets
        assert_laws(counters, self.core.gauges())
        mine = ("messages_request", "messages_response", "messages_resynced", "responses_unpaired")
        for name in counters:
            if name in mine or name.startswith(("incomplete_", "anomaly_")):
                assert counters[name] == self.handed_out[name], name
