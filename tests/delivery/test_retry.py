"""Trying again: how often, after how long, and how a drain ends it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict

import pytest

from sniffer.delivery.retry import GaveUp, Retries
from sniffer.delivery.sink import Rejected, Retry, Sink, SinkClosed, Undelivered
from tests.deliveries import Recorder, Sent, Time, lane_to, messages, settled
from tests.waiting import BOUND, until


async def deliver(sink: Sink, retries: Retries, batch: Sequence[Sent]) -> str:
    """How a batch ends in a lane with these rules."""
    async with lane_to(sink, retries=retries) as lane:
        lane.offer(batch)
        counts = asdict(await settled(lane))
    assert counts.pop("offered") == len(batch)
    (outcome,) = (name for name, count in counts.items() if count == len(batch))
    return outcome.removeprefix("dropped_")


@pytest.mark.parametrize(
    ("answers", "outcome", "slept"),
    [
        ([None], "delivered", []),
        ([Retry(), None], "delivered", [1.0]),
        ([Retry(), Retry(), Retry(), None], "delivered", [1.0, 2.0, 4.0]),
        ([Retry(), Retry(), Retry(), Retry(), None], "retries", [1.0, 2.0, 4.0]),
        ([Rejected(), None], "rejected", []),
        ([Retry(), Rejected(), None], "rejected", [1.0]),
        ([Retry(), SinkClosed(), None], "closed", [1.0]),
        ([Retry(after=0.5), Retry(after=30.0), Retry(after=3600.0), None], "delivered", [1.0, 30.0, 60.0]),
    ],
)
async def test_retries(answers: list[Undelivered | None], outcome: str, slept: list[float]) -> None:
    """Three further tries after 1, 2 and 4 s, or later where the receiver asks for it, at most 60 s; same members."""
    time_ = Time()
    sink = Recorder(*answers)
    batch = messages(3)
    assert await deliver(sink, Retries(clock=time_.clock, sleep=time_.sleep), batch) == outcome
    assert time_.slept == slept
    assert sink.batches == [batch] * (len(slept) + 1)


async def test_a_drain_ends_a_wait() -> None:
    """A message that waits for its next try is tried at once when the sniffer stops."""
    asleep = asyncio.Event()

    async def sleep(_: float) -> None:
        asleep.set()
        await asyncio.Event().wait()

    time_ = Time()
    sink = Recorder(Retry(after=60.0), None)
    async with lane_to(sink, retries=Retries(clock=time_.clock, sleep=sleep)) as lane:
        lane.offer(messages(1))
        await asyncio.wait_for(asleep.wait(), BOUND)
        async with asyncio.timeout(BOUND):
            await lane.drain(time.monotonic() + 2 * BOUND)
        assert lane.counters.delivered == 1
    assert len(sink.batches) == 2


async def test_only_the_first_drain_ends_waits() -> None:
    """A second, nearer deadline does not end the wait again: it does not use up another try."""
    asleep = asyncio.Semaphore(0)

    async def sleep(_: float) -> None:
        asleep.release()
        await asyncio.Event().wait()

    sink = Recorder(Retry(), Retry(), Retry())
    async with lane_to(sink, retries=Retries(sleep=sleep)) as lane:
        lane.offer(messages(1))
        await asyncio.wait_for(asleep.acquire(), BOUND)
        lane.hurry(time.monotonic() + 3 * BOUND)
        await asyncio.wait_for(asleep.acquire(), BOUND)
        lane.hurry(time.monotonic() + 2 * BOUND)
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(sink.batches) == 2


async def test_no_wait_passes_the_deadline() -> None:
    """In a drain, a wait that would pass the deadline is not begun: the message is dropped for the deadline."""
    time_ = Time()
    sink = Recorder(Retry(), Retry(), Retry(), Retry())
    async with lane_to(sink, retries=Retries(clock=time_.clock, sleep=time_.sleep)) as lane:
        lane.hurry(time_.now + 3.5)
        lane.offer(messages(1))
        await until(lambda: not lane.counters.waiting)
        assert lane.counters.dropped_deadline == 1
    assert time_.slept == [1.0, 2.0]


async def test_a_wait_ends_with_its_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait that is cut at the deadline leaves no task behind."""
    sink = Recorder(Retry())
    async with lane_to(sink, retries=Retries()) as lane:
        lane.offer(messages(1))
        await sink.called(1)
        monkeypatch.setattr(lane, "_end_waits", lambda: None)
        await lane.drain(time.monotonic())
        assert lane.counters.dropped["deadline"] == 1
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize(
    ("until_final", "tries", "after", "draining", "deadline", "expected"),
    [
        (False, 3, 0.0, False, None, 4.0),
        (False, 4, 0.0, False, None, "retries"),
        (False, 1, 9.0, True, 1000.0 + 8.9, "deadline"),
        (False, 1, 1e6, False, None, 60.0),
        (True, 4, 0.0, False, None, 8.0 * 0.75),
        (True, 99, 0.0, False, None, 30.0 * 0.75),
        (True, 99, 29.0, False, 1000.0, 29.0),
        (True, 3, 0.0, True, None, 4.0),
        (True, 4, 0.0, True, None, "retries"),
        (True, 1, 0.0, True, 1000.5, "deadline"),
        (True, 1, 9.0, True, 1009.0, 9.0),
    ],
)
def test_the_rules(
    until_final: bool, tries: int, after: float, draining: bool, deadline: float | None, expected: float | GaveUp
) -> None:
    """Tries are bounded, or go on until the answer is final. A drain bounds both, and no wait passes its deadline."""
    retries = Retries(until_final=until_final, clock=Time().clock, chance=lambda: 0.5)
    assert retries.delay(tries, after, draining=draining, deadline=deadline) == expected
