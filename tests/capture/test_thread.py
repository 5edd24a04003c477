"""The capture thread."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from sniffer.capture.handoff import HandOff
from sniffer.capture.source import Packets, Source, Stop
from sniffer.capture.thread import Capture, feed, feed_batch
from sniffer.errors import CaptureError
from sniffer_core.core import LINK_TYPES, FlowTable
from tests import captures, packets


class GivenSource(Source):
    """A source of given batches; what is an exception is raised."""

    name = "given"

    def __init__(self, batches: list[Any], *, live: bool = False, linktype: int = 1) -> None:
        self.given = batches
        self.live = live
        self.linktype = linktype
        self.closed = False

    def open(self, stop: Stop) -> int:
        return self.linktype

    def batches(self, stop: Stop) -> Iterator[Packets | None]:
        for batch in self.given:
            if isinstance(batch, Exception):
                raise batch
            yield batch

    def stats(self) -> tuple[int, int, int] | None:
        return (100, 2, 1) if self.live else None

    def close(self) -> None:
        self.closed = True


def hand_off() -> HandOff:
    return HandOff(max_bytes=1 << 30, wait=False, wake=lambda: None)


def run(source: Source, **options: Any) -> tuple[HandOff, list[Exception | None], Capture]:
    handoff = hand_off()
    opened: list[Exception | None] = []
    thread = Capture(
        source,
        options.pop("make_table", lambda linktype: FlowTable(linktype=linktype, ports=[8080])),
        handoff,
        opened=opened.append,
        gauge_names={"messages_long": "messages_long_open"},
    )
    for ip, port in options.pop("own", ()):
        thread.own_socket(ip, port, True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert handoff.ended
    return handoff, opened, thread


CONVERSATION = packets.to_feed(captures.connection(captures.exchanges(5)))


class SlowTable:
    """A table that takes `step` packets at a call, and notes what it is asked."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.calls: list[tuple[Any, ...]] = []

    def feed(self, data: bytes, index: bytes, first: int, clock_us: int | None) -> tuple[list[Any], int]:
        self.calls.append(("feed", first, clock_us))
        return [first], min(first + self.step, len(index) // 16)

    def tick(self, clock_us: int) -> list[Any]:
        self.calls.append(("tick", clock_us))
        return []


def test_a_batch_is_fed_in_as_many_calls_as_the_table_wants() -> None:
    """Each call begins where the one before has stopped, and each gives its messages; no packets, no call."""
    table: Any = SlowTable(6)
    count = len(CONVERSATION[1]) // 16
    given: list[Any] = list(feed_batch(table, CONVERSATION, 7))
    assert given == [[first] for first in range(0, count, 6)]
    assert table.calls == [("feed", first, 7) for first in range(0, count, 6)]
    assert list(feed_batch(table, (b"", b""))) == []


@pytest.mark.parametrize("is_live", [False, True])
def test_time_is_the_clock_of_a_live_source_and_the_stamps_of_a_file(is_live: bool) -> None:
    """A live batch is fed with the monotonic clock, a file's without; where time passed without packets it is told."""
    table: Any = SlowTable(1000)
    before = time.monotonic_ns() // 1000
    batches: list[str] = []
    source = GivenSource([CONVERSATION, None, CONVERSATION], live=is_live)
    for _ in feed(source, table, Stop(), before=lambda: batches.append("next")):
        pass
    after = time.monotonic_ns() // 1000
    assert [call[0] for call in table.calls] == ["feed", "tick", "feed"]
    assert len(batches) == 3
    clocks = [call[-1] for call in table.calls]
    assert before <= clocks[1] <= after
    assert all(before <= clock <= after if is_live else clock is None for clock in clocks[::2])


@pytest.mark.parametrize("is_live", [False, True])
def test_the_thread_feeds_flushes_and_ends(is_live: bool) -> None:
    """Messages, counters, gauges and the kernel's numbers arrive; the source is closed."""
    source = GivenSource([CONVERSATION, None], live=is_live)
    handoff, opened, _ = run(source)
    assert opened == [None]
    assert source.closed
    assert handoff.error is None
    taken = handoff.take()
    assert taken is not None
    assert len(taken[0]) == 10
    assert taken[1] == sum(raw.weight for raw in taken[0])
    now = handoff.counters()
    assert now["messages_request"] == now["messages_response"] == 5
    assert now["kernel_received"] == (100 if is_live else 0)
    assert now["messages_long_open"] == now["memory_blocks"] == 0


def test_a_failure_comes_after_what_was_captured() -> None:
    """A capture that fails still flushes and hands over everything."""
    failure = CaptureError("gone")
    handoff, _, _ = run(GivenSource([CONVERSATION, failure], live=True))
    assert handoff.error is failure
    assert handoff.counters()["handoff_accepted"] == 10
    assert handoff.counters()["kernel_dropped"] == 2


def test_any_other_exception_is_a_capture_error_too(caplog: pytest.LogCaptureFixture) -> None:
    """A defect in a source ends the capture with an error that says what it was, and is logged."""
    handoff, _, _ = run(GivenSource([CONVERSATION, ZeroDivisionError("planted")]))
    assert str(handoff.error) == "capture failed: ZeroDivisionError: planted"
    assert handoff.counters()["handoff_accepted"] == 10
    assert "capture thread failed" in caplog.text


def test_a_table_that_fails_is_a_capture_error(caplog: pytest.LogCaptureFixture) -> None:
    """So is one in the core, even in its flush."""

    class Broken:
        def feed(self, *_: object) -> None:
            raise MemoryError

        flush = feed

    handoff, _, _ = run(GivenSource([CONVERSATION]), make_table=lambda _: Broken())
    assert "MemoryError" in str(handoff.error)
    assert "capture thread failed" in caplog.text


def test_an_unknown_link_type_cannot_be_opened() -> None:
    """The error names the file."""
    assert 105 not in LINK_TYPES
    _, opened, _ = run(GivenSource([], linktype=105))
    (error,) = opened
    assert isinstance(error, CaptureError)
    assert str(error).startswith("given cannot be read: ")


def test_own_sockets_are_left_out_before_their_first_packet() -> None:
    """What a delivery of ours sends and gets is no message."""
    handoff, _, _ = run(GivenSource([CONVERSATION], live=True), own=[(captures.CLIENT, 40000)])
    now = handoff.counters()
    assert now["handoff_accepted"] == 0
    assert now["bytes_abandoned_own"] == now["bytes_payload"] > 0


def test_the_thread_shows_that_it_is_alive() -> None:
    """The beat moves with each batch."""
    _, _, thread = run(GivenSource([CONVERSATION]))
    assert time.monotonic() - thread.beat < 10
    assert thread.daemon
