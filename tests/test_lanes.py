"""Lanes: bounds, back-pressure, order, drain, and the law that every message ends in one counter."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sniffer import lanes as module
from sniffer.lanes import Batches, ByConnection, Lane, LaneCounters, Precedence, weigh
from sniffer.sinks import Cut, Failed, Record, Rejected, Retry, Sink, SinkClosed, TooLarge
from tests.deliveries import BOUND, Recorder, Sent, balanced, lane_to, message, messages, settled, until


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
    """What does not fit is dropped and counted, newest first: the beginning of a batch that fits in part is kept."""
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
    """What has been delivered no longer counts against the bounds, also where the weight was given by the caller."""
    sink = Recorder()
    batch = messages(10)
    async with lane_to(sink, max_bytes=weigh(batch)) as lane:
        for times in range(1, 20):
            lane.offer(batch, weigh(batch))
            await sink.called(times)
            await asyncio.sleep(0)
        assert (await settled(lane)).delivered == 190


async def test_a_reader_that_waits_for_room_loses_nothing() -> None:
    """After `room`, a batch is taken whole, however large, so that a file loses nothing to its slowest sink."""

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
    """The offer after the one that `room` was for is bounded again."""
    sink = Recorder()
    sink.gate.clear()
    async with lane_to(sink, max_messages=2) as lane:
        await lane.room()
        lane.offer(messages(5))
        lane.offer(messages(5))
        assert (lane.counters.waiting, lane.counters.dropped["full"]) == (5, 5)


@pytest.mark.parametrize("bounds", [{"max_bytes": 4 * message().weight}, {"max_messages": 4}], ids=["bytes", "count"])
async def test_room_is_half_of_the_lane(bounds: dict[str, Any]) -> None:
    """While more than half is taken, by weight or by number, whoever can wait waits."""
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
    """Whoever waits for room is let go when the sink is gone."""
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
    """A sink that does not come back keeps no other lane's sink from its messages."""
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
    """The batch after one that failed is delivered."""
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
    """After `SinkClosed` all that waits or comes later is dropped, `closed` is set, and that is said once."""
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


async def test_the_deadline_cuts(caplog: pytest.LogCaptureFixture) -> None:
    """At the deadline what waits is dropped, and the lane is named with its count."""
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
    """A delivery that ignores its cancellation is left behind at the deadline; what it says later counts no more."""
    monkeypatch.setattr("sniffer.lanes.CUT_SECONDS", 0.01)
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
    """The drain at the end of a file waits for ever, until a stop sets a deadline."""
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
    """A drain whose deadline was set twice cuts once, and says so once."""
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


async def test_losses_are_logged_once_a_second(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses are said at once, then at most once a second, with counts; the last ones at the drain."""
    loop = asyncio.get_running_loop()
    timers: list[tuple[float, object]] = []
    real = loop.call_later

    def call_later(delay: float, callback: object, *_: object) -> asyncio.TimerHandle:
        timers.append((delay, callback))
        return real(3600, lambda: None)

    sink = Recorder(*(Rejected(f"status {status}") for status in range(400, 410)))
    async with lane_to(sink) as lane:
        monkeypatch.setattr(loop, "call_later", call_later)
        for connection in range(9):
            lane.offer(messages(2, connection=connection))
        await sink.called(9)
        await asyncio.sleep(0)
        assert [record.__dict__["fields"] for record in caplog.records] == [
            {"sink": "recorder", "rejected": 2, "cause": "status 400"}
        ]
        ((delay, tick),) = timers
        assert delay == 1.0
        tick()  # type: ignore[operator]
        monkeypatch.undo()
        lane.offer(messages(1))
        await settled(lane)
    assert [record.__dict__["fields"] for record in caplog.records] == [
        {"sink": "recorder", "rejected": 2, "cause": "status 400"},
        {"sink": "recorder", "rejected": 16, "cause": "status 408"},
        {"sink": "recorder", "rejected": 1, "cause": "status 409"},
    ]


async def test_a_loss_is_said_with_the_last_cause_that_is_known(caplog: pytest.LogCaptureFixture) -> None:
    """A loss without a cause does not hide the one before it, and a cause is said once only."""
    sink = Recorder(Rejected("status 400"), Rejected("status 401"))
    async with lane_to(sink, max_messages=1) as lane:
        lane.offer(messages(1))
        await sink.called(1)
        await asyncio.sleep(0)
        sink.gate.clear()
        lane.offer(messages(1))
        await sink.called(2)
        sink.gate.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        sink.gate.clear()
        lane.offer(messages(3))
        lane._losses.flush()
        lane.offer(messages(1))
        lane._losses.flush()
        sink.gate.set()
        await settled(lane)
    assert [record.__dict__["fields"] for record in caplog.records] == [
        {"sink": "recorder", "rejected": 1, "cause": "status 400"},
        {"sink": "recorder", "rejected": 1, "full": 2, "cause": "status 401"},
        {"sink": "recorder", "full": 1},
    ]


async def everything_happens(counters: LaneCounters) -> bool:
    """Moves every counter of a lane, and says whether the law held all the time."""
    sink = Recorder(None, Rejected(), Retry(), Failed(delivered=1), None, SinkClosed())
    lane = Lane(sink, max_bytes=1 << 24, max_messages=14, counters=counters)
    await lane.open()
    held = []
    for count in (2, 2, 2, 2, 8):
        lane.offer(messages(count))
        held.append(balanced(counters))
    await sink.called(4)
    lane.give_way()
    lane.offer(messages(3))
    held.append(balanced(counters))
    lane.go_on()
    await settled(lane)
    held.append(balanced(counters))
    late = Recorder()
    late.gate.clear()
    for sink in (Recorder(SinkClosed()), late):
        lane = Lane(sink, max_bytes=1 << 24, counters=counters)
        lane.offer(messages(2))
        await sink.called(1)
        held.append(balanced(counters))
        await lane.drain(time.monotonic() + (0 if sink is late else BOUND))
        lane.offer(messages(1))
        held.append(balanced(counters))
    return all(held)


async def test_the_law_holds_whatever_happens() -> None:
    """With every counter in use, offered = delivered + rejected + dropped + waiting."""
    counters = LaneCounters()
    assert await everything_happens(counters)
    moved = {name: count for name, count in asdict(counters).items() if name not in OF_THE_SPOOL}
    assert moved.pop("waiting") == 0
    assert all(moved.values()), moved


OF_THE_SPOOL = ("recovered", "dropped_evicted", "spooled")  # tests/test_spool.py


@pytest.mark.parametrize("name", [name for name in asdict(LaneCounters()) if name not in OF_THE_SPOOL])
async def test_the_law_notices_each_broken_increment(name: str) -> None:
    """A counter that does not move breaks the law: none is derived from another."""

    def stuck(_self: LaneCounters, _value: int) -> None:
        pass

    broken = type("Broken", (LaneCounters,), {name: property(lambda _self: 0, stuck)})
    assert not await everything_happens(broken())


# Giving way


async def test_a_lane_that_gives_way_takes_nothing_and_keeps_what_waits(caplog: pytest.LogCaptureFixture) -> None:
    """What is offered then is counted as yielded; what waited is delivered later; an interval has one line for it."""
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
    """At the end what waits is delivered, whatever else there is to do, and giving way begins no more."""
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
    """Between two batches of a sink that never waits the loop goes round, so that it can be told to give way."""
    sink = Recorder()
    async with lane_to(sink, gives_way=True) as lane:
        for number in range(4):
            lane.offer(messages(1, connection=number))
        await sink.called(1)
        lane.give_way()
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(sink.batches) == 1


class Scales:
    """A lane that stands, one that gives way, and what tells whose turn it is, with a clock of its own."""

    def __init__(self) -> None:
        self.now = 100.0
        self.behind = False
        self.precedence = Precedence(lambda: self.behind, clock=lambda: self.now)
        self.firm_sink, self.giving_sink = Recorder(), Recorder()
        self.firm = Lane(self.firm_sink, max_bytes=1 << 24, max_messages=80)
        self.giving = Lane(self.giving_sink, max_bytes=1 << 24, gives_way=True)
        self.precedence.add(self.firm)
        self.precedence.add(self.giving)

    def yields(self) -> bool:
        """Whether the lane that may does give way."""
        return self.giving.yielding

    def crowd(self) -> None:
        """Fills a fourth of the lane that stands, whose sink takes nothing."""
        self.firm_sink.gate.clear()
        self.firm.offer(messages(21))

    def work(self, seconds: float, of: float) -> None:
        """Time passes, of which the sink that gives way works a part."""
        self.now += of
        self.giving_sink.worked += seconds

    async def looks(self, times: int) -> None:
        """Waits until it has been looked at so often whether they can go on."""
        for _ in range(times):
            handle = self.precedence._again
            assert handle is not None
            self.now += module.LOOK_SECONDS
            handle.cancel()
            self.precedence._look_again()

    async def close(self) -> None:
        """Ends all of it."""
        self.precedence.close()
        for lane in (self.firm, self.giving):
            await lane.drain(time.monotonic())
            await lane.close()


@pytest.fixture
async def scales() -> AsyncIterator[Scales]:
    """One that is closed at the end."""
    made = Scales()
    yield made
    await made.close()


async def test_it_gives_way_at_once_where_messages_back_up(scales: Scales) -> None:
    """As soon as the pump is behind the lane yields, and it goes on as soon as that is over."""
    scales.precedence.look()
    assert not scales.yields()
    scales.behind = True
    scales.precedence.look()
    assert (scales.yields(), scales.firm.yielding) == (True, False)
    await scales.looks(3)
    assert scales.yields()
    scales.behind = False
    await scales.looks(1)
    assert not scales.yields()


async def test_it_gives_way_to_a_crowded_lane_if_it_works_much(scales: Scales) -> None:
    """A crowded lane is a reason where the other works for more than a little of the time, and else none."""
    scales.crowd()
    scales.work(0.001, of=1.0)
    scales.precedence.look()
    assert not scales.yields()
    for _ in range(3):
        scales.work(0.15, of=0.3)
        scales.precedence.look()
    assert scales.yields()


async def test_what_is_made_for_it_is_its_work(scales: Scales) -> None:
    """What is done for the lane before it is offered anything counts as its work."""
    scales.crowd()
    scales.precedence.look()
    with scales.precedence.working():
        until = time.thread_time() + 0.05
        while time.thread_time() < until:
            pass
    scales.now += 0.1
    scales.precedence.look()
    assert scales.yields()


async def test_work_after_a_long_rest_counts_at_once(scales: Scales) -> None:
    """A rest before it does not hide that the lane works all the time now."""
    scales.now += 3600
    scales.precedence.look()
    scales.crowd()
    scales.work(0.02, of=0.02)
    scales.precedence.look()
    assert scales.yields()


async def test_work_of_long_ago_is_no_reason(scales: Scales) -> None:
    """Only the last moments count."""
    scales.work(5.0, of=10.0)
    scales.precedence.look()
    for _ in range(3):
        scales.work(0.0, of=1.0)
        scales.precedence.look()
    scales.crowd()
    scales.precedence.look()
    assert not scales.yields()


async def test_it_goes_on_where_giving_way_does_not_help(scales: Scales) -> None:
    """A lane that its reader keeps full does not silence another for ever: each time it yields for twice as long."""
    scales.crowd()
    taken = []
    for _ in range(7):
        scales.work(0.2, of=0.2)
        scales.precedence.look()
        times = 0
        while scales.yields():
            await scales.looks(1)
            times += 1
        taken.append(round(times * module.LOOK_SECONDS))
    assert taken == [1, 2, 4, 8, 16, 30, 30]
    scales.firm_sink.gate.set()
    await until(lambda: not scales.firm.crowded)
    scales.behind = True
    scales.precedence.look()
    scales.behind = False
    await scales.looks(1)
    assert scales.precedence._seconds == module.YIELD_SECONDS


async def test_alone_it_gives_way_to_nobody(scales: Scales) -> None:
    """Where no lane stands, or the last one has ended, there is nobody to give way to."""
    scales.behind = True
    scales.firm.closed.set()
    scales.precedence.look()
    assert not scales.yields()


# ByConnection


async def test_connections_are_served_side_by_side() -> None:
    """With one message under way per connection, others go on: a slow connection delays no other."""
    sink = Recorder()
    sink.gate.clear()
    async with lane_to(sink, queue=ByConnection(workers=3)) as lane:
        lane.offer([message(number, connection=connection) for number in range(2) for connection in range(4)])
        await sink.called(3)
        assert sink.batches == [[message(0, connection=connection)] for connection in range(3)]
        sink.gate.set()
        await settled(lane)
    for connection in range(4):
        assert [m for m in sink.taken if m.connection_id == f"{connection:032x}"] == messages(2, connection=connection)


async def test_no_message_overtakes_one_of_its_connection() -> None:
    """While a message of a connection is under way, the next one of it waits, however many workers are idle."""
    sink = Recorder()
    sink.gate.clear()
    async with lane_to(sink, queue=ByConnection(workers=8)) as lane:
        lane.offer(messages(5))
        await sink.called(1)
        for _ in range(5):
            await asyncio.sleep(0)
        assert sink.batches == [[message(0)]]
        sink.gate.set()
        await settled(lane)
    assert sink.taken == messages(5)


async def test_connections_take_turns() -> None:
    """A connection with many messages goes to the end of the line after each batch."""
    sink = Recorder()
    async with lane_to(sink, queue=ByConnection(workers=1)) as lane:
        lane.offer([*messages(3), *messages(2, connection=1)])
        await settled(lane)
    assert [(m.connection_id[-1], m.exchange) for m in sink.taken] == [
        ("0", 0),
        ("1", 0),
        ("0", 1),
        ("1", 1),
        ("0", 2),
    ]


async def test_connections_that_come_free_together_go_on_together() -> None:
    """When one batch ends, the connections in it are shared out among the idle workers at once."""
    sink = Recorder()
    sink.gate.clear()
    async with lane_to(sink, queue=ByConnection(workers=2, size=2, wait=3600)) as lane:
        lane.offer([message(0), message(0, connection=1)])
        await sink.called(1)
        lane.offer([message(number, connection=connection) for connection in (0, 1) for number in (1, 2)])
        first = sink.gate
        sink.gate = asyncio.Event()
        first.set()
        await sink.called(3)
        assert sink.batches[1:] == [messages(3)[1:], messages(3, connection=1)[1:]]
        sink.gate.set()
        await settled(lane)


async def test_a_full_batch_leaves_at_once_and_a_small_one_in_time() -> None:
    """A batch leaves when it is full, or when it has waited `wait` seconds, or in a drain."""
    sink = Recorder()
    async with lane_to(sink, queue=ByConnection(workers=2, size=4, wait=0.02)) as lane:
        lane.offer(messages(4))
        await sink.called(1)
        started = asyncio.get_running_loop().time()
        lane.offer(messages(2, connection=1))
        await asyncio.sleep(0)
        assert len(sink.batches) == 1
        await sink.called(2)
        assert asyncio.get_running_loop().time() - started > 0.01
    sink = Recorder()
    async with lane_to(sink, queue=ByConnection(workers=2, size=4, wait=3600)) as lane:
        lane.offer(messages(2))
        assert (await settled(lane)).delivered == 2


async def test_a_batch_is_bounded_by_bytes() -> None:
    """A batch ends where its bytes pass the bound, so that large messages are not posted by the hundred."""
    sink = Recorder()
    big = messages(10, body="x" * 100_000)
    async with lane_to(sink, queue=ByConnection(workers=1, size=100, max_bytes=3 * big[0].weight)) as lane:
        lane.offer(big)
        await settled(lane)
    assert [len(batch) for batch in sink.batches] == [3, 3, 3, 1]
    queue = ByConnection(workers=1, size=100, max_bytes=3 * big[0].weight)
    queue.put([message(0, connection=connection, body="x" * 100_000) for connection in range(5)], 0)
    queue.ripen()
    taken = queue.take()
    rest = queue.take()
    assert taken is not None
    assert rest is not None
    assert (len(taken[0]), len(rest[0])) == (3, 2)


async def test_a_deadline_with_several_workers() -> None:
    """Everything is accounted for when several deliveries are cut at once."""
    sink = Recorder()
    sink.gate.clear()
    async with lane_to(sink, queue=ByConnection(workers=3)) as lane:
        lane.offer([message(number, connection=connection) for number in range(4) for connection in range(5)])
        await sink.called(3)
        await lane.drain(time.monotonic())
        assert lane.counters.dropped["deadline"] == 20


class Jittery(Sink):
    """Takes each batch after a random number of turns of the loop; sometimes refuses it."""

    name = "jittery"

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.seen: list[Record] = []
        self.under_way: set[str] = set()

    async def deliver(self, batch: Sequence[Record]) -> None:
        connections = {m.connection_id for m in batch}
        assert not connections & self.under_way
        self.under_way |= connections
        self.seen.extend(batch)
        for _ in range(self.chance.randrange(4)):
            await asyncio.sleep(0)
        self.under_way -= connections
        if self.chance.random() < 0.2:
            raise Rejected("chance")


@settings(max_examples=60, deadline=None)
@given(
    connections=st.lists(st.integers(0, 5), max_size=60),
    workers=st.integers(1, 4),
    size=st.integers(1, 5),
    cuts=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_order_is_kept_within_every_connection(
    connections: list[int], workers: int, size: int, cuts: int, seed: int
) -> None:
    """Whatever the interleaving, each connection's messages are delivered once each, in order, one batch at a time."""

    async def run() -> None:
        sink = Jittery(random.Random(seed))
        number: dict[int, int] = defaultdict(int)
        made = []
        for connection in connections:
            made.append(message(number[connection], connection=connection))
            number[connection] += 1
        async with lane_to(sink, queue=ByConnection(workers=workers, size=size, wait=0.0)) as lane:
            for at in range(0, len(made), cuts):
                lane.offer(made[at : at + cuts])
                await asyncio.sleep(0)
            counters = await settled(lane)
        assert counters.delivered + counters.rejected == len(made)
        for connection in set(connections):
            mine = [m.exchange for m in sink.seen if m.connection_id == f"{connection:032x}"]
            assert mine == list(range(number[connection]))
        assert len(sink.seen) == len(made)

    asyncio.run(run())


async def test_a_weight_may_change_while_a_message_waits() -> None:
    """A message that another lane has rendered in the meantime gives back just what it has taken of this lane."""

    class Growing(Sent, frozen=True, omit_defaults=True, rename="camel", dict=True):
        @property
        def weight(self) -> int:
            self.__dict__["weight"] = weight = self.__dict__.get("weight", 500) + 500
            return weight

    batch = [Growing(*msgspec.structs.astuple(m)) for m in messages(4)]
    async with lane_to(Recorder(), queue=ByConnection(workers=1, size=2)) as lane:
        lane.offer(batch, 4000)
        await until(lambda: not lane.counters.waiting)
        assert lane._bytes == 0
    assert batch[0].weight > 1000


def test_a_small_batch_waits_each_time() -> None:
    """What has ripened leaves; what comes after it waits for company again."""
    queue = ByConnection(workers=1, size=3)
    queue.put(messages(1), 0)
    assert queue.take() is None
    assert queue.ripening
    queue.ripen()
    assert queue.take() is not None
    queue.put(messages(1, connection=1), 0)
    assert queue.take() is None


def test_what_a_full_batch_leaves_waits_for_company() -> None:
    """A batch that leaves because it is full does not take the rest along."""
    queue = ByConnection(workers=1, size=2)
    queue.put([message(0, connection=connection) for connection in range(3)], 0)
    assert queue.take() is not None
    assert queue.take() is None


def test_queues_forget() -> None:
    """`clear` says how many messages it forgot."""
    for queue in (Batches(), ByConnection(workers=2, size=2)):
        queue.put(messages(5), 0)
        queue.put(messages(3, connection=1), 0)
        taken = queue.take()
        assert taken is not None
        assert queue.clear() + len(taken[0]) == 8
        queue.done(taken[0])
        assert queue.take() is None
        queue.put(messages(2), 0)
        assert queue.take() is not None
