"""Lanes: bounds, back-pressure, order, what an answer of the sink means, drain, giving way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pytest

from sniffer.delivery import lane as lanes
from sniffer.delivery.account import LaneCounters
from sniffer.delivery.queues import weigh
from sniffer.delivery.sink import Cut, Failed, Record, Rejected, Retry, SinkClosed, TooLarge
from tests.deliveries import Recorder, balanced, lane_to, message, messages, settled
from tests.waiting import BOUND, until


async def test_batches_are_handed_through_in_order() -> None:
    """A lane hands batches to its sink whole and in the order in which they were offered."""
    sink = Recorder()
    batches = [messages(3), messages(2, connection=1), [message(9)]]
    async with lane_to(sink) as lane:
        for batch in batches:
            lane.offer(batch)
        counters = await settled(lane)
    assert sink.batches == batches
    assert asdict(counters) == asdict(LaneCounters(offered=6, delivered=6))
    assert sink.closed


async def test_an_empty_batch_is_nothing() -> None:
    """An empty batch is not delivered."""
    sink = Recorder()
    async with lane_to(sink) as lane:
        lane.offer([])
        await settled(lane)
    assert sink.batches == []


async def test_a_full_lane_drops_the_newest() -> None:
    """Messages that do not fit are dropped, newest first: of a batch that fits in part the beginning is kept."""
    sink = Recorder()
    sink.gate.clear()
    one = message().weight
    async with lane_to(sink, max_bytes=5 * one) as lane:
        lane.offer(messages(3))
        lane.offer(messages(4, connection=1))
        lane.offer(messages(1, connection=2))
        assert lane.counters.dropped["full"] == 3
        assert lane.counters.waiting == 5
        assert balanced(lane.counters)
        sink.gate.set()
        await settled(lane)
    assert sink.taken == messages(3) + messages(2, connection=1)


async def test_a_lane_is_bounded_by_count() -> None:
    """The number of waiting messages is bounded as well as their bytes."""
    sink = Recorder()
    sink.gate.clear()
    async with lane_to(sink, max_messages=4) as lane:
        lane.offer(messages(10))
        assert (lane.counters.waiting, lane.counters.dropped["full"]) == (4, 6)
        sink.gate.set()
        await settled(lane)


async def test_room_is_made_by_what_is_settled() -> None:
    """A delivered message no longer counts against the bounds, also if the caller gave the weight of the batch."""
    sink = Recorder()
    batch = messages(10)
    async with lane_to(sink, max_bytes=weigh(batch)) as lane:
        for times in range(1, 20):
            lane.offer(batch, weigh(batch))
            await sink.called(times)
            await asyncio.sleep(0)
        assert (await settled(lane)).delivered == 190


async def test_a_reader_that_waits_for_room_loses_nothing() -> None:
    """After `room` a batch is taken whole, however large it is, so that the reading of a file loses nothing."""

    class Slow(Recorder):
        async def deliver(self, batch: Sequence[Record]) -> None:
            await asyncio.sleep(0)
            await super().deliver(batch)

    sink = Slow()
    async with lane_to(sink, max_bytes=2 * message().weight) as lane:
        most = 0
        for connection in range(50):
            async with asyncio.timeout(BOUND):
                await lane.room()
            lane.offer(messages(7, connection=connection))
            most = max(most, lane.counters.waiting)
        counters = await settled(lane)
    assert counters.delivered == 350
    assert most <= 7 + 1  # one batch over what half of the lane holds


async def test_room_is_promised_once() -> None:
    """Only the first offer after `room` is taken whole; the next one is bounded again."""
    sink = Recorder()
    sink.gate.clear()
    async with lane_to(sink, max_messages=2) as lane:
        await lane.room()
        lane.offer(messages(5))
        lane.offer(messages(5))
        assert (lane.counters.waiting, lane.counters.dropped["full"]) == (5, 5)


@pytest.mark.parametrize("bounds", [{"max_bytes": 4 * message().weight}, {"max_messages": 4}], ids=["bytes", "count"])
async def test_room_is_half_of_the_lane(bounds: dict[str, Any]) -> None:
    """`room` waits while more than half of the lane is full, by weight or by number."""
    sink = Recorder()
    sink.gate.clear()
    async with lane_to(sink, **bounds) as lane:
        lane.offer(messages(2))
        await asyncio.wait_for(lane.room(), BOUND)
        lane.offer(messages(1))
        waiting = asyncio.create_task(lane.room())
        await asyncio.sleep(0)
        assert not waiting.done()
        sink.gate.set()
        await asyncio.wait_for(waiting, BOUND)


async def test_room_ends_with_the_lane() -> None:
    """`room` returns when the sink is gone."""
    sink = Recorder(SinkClosed("gone"))
    sink.gate.clear()
    async with lane_to(sink, max_messages=2) as lane:
        lane.offer(messages(2))
        waiting = asyncio.create_task(lane.room())
        await sink.called(1)
        assert not waiting.done()
        sink.gate.set()
        async with asyncio.timeout(BOUND):
            await waiting


async def test_a_slow_sink_delays_no_other() -> None:
    """A sink that hangs does not delay the sink of another lane."""
    slow, quick = Recorder(), Recorder()
    slow.gate.clear()
    async with lane_to(slow, max_messages=10) as blocked, lane_to(quick) as free:
        for number in range(100):
            for lane in (blocked, free):
                lane.offer([message(number)])
        assert (await settled(free)).delivered == 100
        assert blocked.counters.waiting == 10
        assert blocked.counters.dropped["full"] == 90
        assert blocked.counters.delivered == 0


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (None, {"delivered": 4}),
        (Rejected("no"), {"rejected": 4}),
        (Retry("later"), {"dropped_retries": 4}),
        (Cut("late", delivered=1, failed=1), {"delivered": 1, "dropped_error": 1, "dropped_deadline": 2}),
        (Failed("some", delivered=3), {"delivered": 3, "dropped_error": 1}),
        (SinkClosed("gone", delivered=2), {"delivered": 2, "dropped_closed": 2}),
        (ValueError("a sink of somebody's own"), {"dropped_error": 4}),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_what_a_sink_says_is_what_is_counted(answer: Exception | None, expected: dict[str, int]) -> None:
    """Each answer of a sink ends the batch's messages in its counter, and no exception of a sink ends the lane."""
    sink = Recorder(answer)
    async with lane_to(sink) as lane:
        lane.offer(messages(4))
        counters = await settled(lane)
    assert asdict(counters) == {**asdict(LaneCounters(offered=4)), **expected}


async def test_a_lane_goes_on_after_a_failure() -> None:
    """The batch after a failed one is delivered."""
    sink = Recorder(RuntimeError("once"), Rejected("twice"))
    async with lane_to(sink) as lane:
        for connection in range(3):
            lane.offer(messages(2, connection=connection))
        counters = await settled(lane)
    assert (counters.dropped["error"], counters.rejected, counters.delivered) == (2, 2, 2)
    assert sink.taken == messages(2, connection=2)


async def test_a_batch_that_is_too_large_is_halved() -> None:
    """`TooLarge` halves a batch, in order, down to single messages; one that is still too large is rejected."""

    class Narrow(Recorder):
        async def deliver(self, batch: Sequence[Record]) -> None:
            self.batches.append(list(batch))
            if len(batch) > 2 or message(4) in batch:
                raise TooLarge("too large")
            self.taken.extend(batch)

    sink = Narrow()
    async with lane_to(sink) as lane:
        lane.offer(messages(7))
        counters = await settled(lane)
    assert [len(batch) for batch in sink.batches] == [7, 3, 1, 2, 4, 2, 1, 1, 2]
    assert sink.taken == [message(number) for number in range(7) if number != 4]
    assert (counters.delivered, counters.rejected) == (6, 1)


async def test_a_sink_that_is_gone_ends_its_lane(caplog: pytest.LogCaptureFixture) -> None:
    """After `SinkClosed` everything that waits or comes later is dropped, `closed` is set, and the log says so once."""
    caplog.set_level(logging.INFO, "sniffer")
    sink = Recorder(None, SinkClosed("broken pipe"))
    async with lane_to(sink) as lane:
        for connection in range(5):
            lane.offer(messages(2, connection=connection))
        async with asyncio.timeout(BOUND):
            await lane.closed.wait()
        lane.offer(messages(3))
        counters = await settled(lane)
    assert (counters.delivered, counters.dropped["closed"]) == (2, 11)
    assert [record.getMessage() for record in caplog.records] == ["sink closed"]


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_sink_that_does_not_close_is_left_behind(
    stubborn: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A sink whose `close` never returns, even when cancelled, holds up nothing for longer than CLOSE_SECONDS."""
    let_go = asyncio.Event()

    class Stuck(Recorder):
        async def close(self) -> None:
            while not let_go.is_set():
                try:
                    await let_go.wait()
                except asyncio.CancelledError:
                    if not stubborn:
                        raise

    monkeypatch.setattr(lanes, "CLOSE_SECONDS", 0.05)
    try:
        async with asyncio.timeout(BOUND), lane_to(Stuck()) as lane:
            lane.offer(messages(2))
            counters = await settled(lane)
    finally:
        let_go.set()
    assert counters.delivered == 2
    assert [record.getMessage() for record in caplog.records] == ["the output does not close in time"]


async def test_a_sink_that_fails_to_close_says_why() -> None:
    """What `close` of a sink raises comes out of the lane's."""

    class Broken(Recorder):
        async def close(self) -> None:
            raise OSError("no")

    with pytest.raises(OSError, match="no"):
        async with lane_to(Broken()):
            pass


async def test_the_deadline_cuts(caplog: pytest.LogCaptureFixture) -> None:
    """At the deadline waiting messages are dropped, and the log names the lane with their number."""
    sink = Recorder()
    sink.gate.clear()
    async with lane_to(sink) as lane:
        lane.offer(messages(2))
        lane.offer(messages(3))
        await sink.called(1)
        await lane.drain(time.monotonic())
        assert lane.counters.dropped["deadline"] == 5
        lane.offer(messages(1))
        assert lane.counters.dropped["closed"] == 1
    said = [record for record in caplog.records if record.getMessage() == "lane did not drain in time"]
    assert [record.__dict__["fields"] for record in said] == [{"sink": "recorder", "dropped": 5}]


async def test_a_sink_that_cannot_be_cancelled_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delivery that ignores its cancellation is abandoned at the deadline; its late result is ignored."""
    monkeypatch.setattr("sniffer.delivery.lane.CUT_SECONDS", 0.01)
    free = asyncio.Event()
    cancelled = asyncio.Event()

    class Stubborn(Recorder):
        async def deliver(self, _: Sequence[Record]) -> None:
            while not free.is_set():
                try:
                    await free.wait()
                except asyncio.CancelledError:
                    cancelled.set()

    async with lane_to(Stubborn()) as lane:
        lane.offer(messages(2))
        lane.offer(messages(2))
        await asyncio.sleep(0)
        (task,) = (task for task in asyncio.all_tasks() if task.get_name() == "lane recorder")
        await lane.drain(time.monotonic())
        assert cancelled.is_set()
        free.set()
        await asyncio.wait((task,), timeout=BOUND)
        assert asdict(lane.counters) == asdict(LaneCounters(offered=4, dropped_deadline=4))


async def test_a_drain_without_a_deadline_gets_one_later() -> None:
    """The drain at the end of a file has no deadline until a stop sets one."""
    sink = Recorder()
    sink.gate.clear()
    async with lane_to(sink) as lane:
        lane.offer(messages(2))
        ending = asyncio.create_task(lane.drain())
        await sink.called(1)
        assert not ending.done()
        await lane.drain(time.monotonic())
        async with asyncio.timeout(BOUND):
            await ending
        assert lane.counters.dropped["deadline"] == 2


async def test_two_drains_may_meet_their_deadline(caplog: pytest.LogCaptureFixture) -> None:
    """Two drains that reach their deadlines cut the lane once, and log that once."""
    sink = Recorder()
    sink.gate.clear()
    async with lane_to(sink) as lane:
        for connection in range(3):
            lane.offer(messages(2, connection=connection))
        await sink.called(1)
        now = time.monotonic()
        async with asyncio.timeout(BOUND):
            await asyncio.gather(lane.drain(now), lane.drain(now), lane.drain())
        assert lane.counters.dropped["deadline"] == 6
    said = [record for record in caplog.records if record.getMessage() == "lane did not drain in time"]
    assert [record.__dict__["fields"]["dropped"] for record in said] == [6]


# Giving way


async def test_a_lane_that_gives_way_takes_nothing_and_keeps_what_waits(caplog: pytest.LogCaptureFixture) -> None:
    """A lane that gives way counts offers as yielded, delivers later what waited, and logs that once in an interval."""
    sink = Recorder()
    sink.gate.clear()
    async with lane_to(sink, gives_way=True) as lane:
        lane.offer(messages(2))
        lane.offer(messages(2, connection=1))
        await sink.called(1)
        for _ in range(3):
            lane.give_way()
            lane.offer(messages(5, connection=2))
            lane.go_on()
        lane.give_way()
        sink.gate.set()
        await until(lambda: lane.counters.delivered == 2)
        assert lane.counters.waiting == 2
        assert len(sink.batches) == 1
        lane.go_on()
        await until(lambda: lane.counters.delivered == 4)
        assert lane.counters.dropped == {**LaneCounters().dropped, "yielded": 15}
        lane.report()
        lane.give_way()
        lane.offer(messages(1))
        lane.report()
        lane.go_on()
        lane.report()
        lane.give_way()
    assert [(line.getMessage(), line.__dict__["fields"]) for line in caplog.records] == [
        ("an output gives way to the others: it gets a part of the messages", {"sink": "recorder"}),
        ("an output has given way to the others", {"sink": "recorder", "dropped": 15}),
        ("an output has given way to the others", {"sink": "recorder", "dropped": 1}),
        ("an output gives way to the others: it gets a part of the messages", {"sink": "recorder"}),
    ]


async def test_a_drain_ends_giving_way() -> None:
    """A drain ends giving way, delivers what waits, and giving way does not begin again."""
    sink = Recorder()
    async with lane_to(sink, gives_way=True) as lane:
        lane.give_way()
        lane.go_on()
        lane.offer(messages(3))
        lane.give_way()
        counters = await settled(lane)
        lane.give_way()
        assert not lane.yielding
    assert counters.delivered == 3


async def test_a_lane_that_may_give_way_lets_others_have_their_turn() -> None:
    """The event loop runs between two batches of a sink that never waits, so that the lane can be told to give way."""
    sink = Recorder()
    async with lane_to(sink, gives_way=True) as lane:
        for number in range(4):
            lane.offer(messages(1, connection=number))
        await sink.called(1)
        lane.give_way()
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(sink.batches) == 1
