"""Trying again: how often, after how long, and how a drain ends it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from sniffer.delivery.retry import Retrying
from sniffer.delivery.sink import Cut, Record, Rejected, Retry, Sink, SinkClosed, Undelivered
from tests.deliveries import Recorder, Time, lane_to, messages
from tests.waiting import BOUND


async def deliver(sink: Sink, batch: Sequence[Record]) -> str:
    """What a sink says of a batch."""
    try:
        await sink.deliver(batch)
    except Undelivered as answer:
        return answer.reason if not isinstance(answer, Rejected) else "rejected"
    return "delivered"


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
    assert await deliver(Retrying(sink, clock=time_.clock, sleep=time_.sleep), batch) == outcome
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
    retrying = Retrying(sink, clock=time_.clock, sleep=sleep)
    async with lane_to(retrying) as lane:
        lane.offer(messages(1))
        await asyncio.wait_for(asleep.wait(), BOUND)
        async with asyncio.timeout(BOUND):
            await lane.drain(time.monotonic() + 2 * BOUND)
        assert lane.counters.delivered == 1
    assert len(sink.batches) == 2


async def test_only_the_first_drain_ends_waits() -> None:
    """A drain that is said twice, with a nearer deadline, does not use up a second try."""
    asleep = asyncio.Semaphore(0)

    async def sleep(_: float) -> None:
        asleep.release()
        await asyncio.Event().wait()

    sink = Recorder(Retry(), Retry(), Retry())
    retrying = Retrying(sink, sleep=sleep)
    task = asyncio.create_task(retrying.deliver(messages(1)))
    await asyncio.wait_for(asleep.acquire(), BOUND)
    retrying.drain(time.monotonic() + 3 * BOUND)
    await asyncio.wait_for(asleep.acquire(), BOUND)
    retrying.drain(time.monotonic() + 2 * BOUND)
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(sink.batches) == 2
    task.cancel()
    await asyncio.wait((task,))


async def test_no_wait_passes_the_deadline() -> None:
    """In a drain, a wait that would pass the deadline is not begun: the message is dropped for the deadline."""
    time_ = Time()
    sink = Recorder(Retry(), Retry(), Retry(), Retry())
    retrying = Retrying(sink, clock=time_.clock, sleep=time_.sleep)
    retrying.drain(time_.now + 3.5)
    with pytest.raises(Cut):
        await retrying.deliver(messages(1))
    assert time_.slept == [1.0, 2.0]


async def test_a_wait_ends_with_its_lane() -> None:
    """A wait that is cut leaves no sleep behind."""
    sink = Recorder(Retry())
    async with lane_to(Retrying(sink)) as lane:
        lane.offer(messages(1))
        await sink.called(1)
        lane.sink.drain = lambda _: None  # type: ignore[method-assign, assignment]
        await lane.drain(time.monotonic())
        assert lane.counters.dropped["deadline"] == 1
    assert len(asyncio.all_tasks()) == 1
