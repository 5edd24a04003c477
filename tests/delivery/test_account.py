"""The account of a lane: the law that every message ends in one counter, and the losses in the log."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict

import pytest

from sniffer.delivery.account import LaneCounters
from sniffer.delivery.lane import Lane
from sniffer.delivery.sink import Failed, Rejected, Retry, SinkClosed
from tests.deliveries import Recorder, balanced, lane_to, messages, settled
from tests.waiting import BOUND


async def test_losses_are_logged_once_a_second(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first loss is logged at once, later ones at most once a second with counts, the last ones at the drain."""
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
    """A loss without a cause keeps the cause of the loss before it, and a cause is logged only once."""
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
        lane.account.flush()
        lane.offer(messages(1))
        lane.account.flush()
        sink.gate.set()
        await settled(lane)
    assert [record.__dict__["fields"] for record in caplog.records] == [
        {"sink": "recorder", "rejected": 1, "cause": "status 400"},
        {"sink": "recorder", "rejected": 1, "full": 2, "cause": "status 401"},
        {"sink": "recorder", "full": 1},
    ]


async def everything_happens(counters: LaneCounters) -> bool:
    """Moves every counter of a lane. Returns whether the law held all the time."""
    sink = Recorder(None, Rejected(), Retry(), Failed(delivered=1), None, SinkClosed())
    lane = Lane(sink, share=1 << 24, max_messages=14, counters=counters)
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
        lane = Lane(sink, share=1 << 24, counters=counters)
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


OF_THE_SPOOL = ("recovered", "dropped_evicted", "spooled")  # tests/delivery/test_spool.py


@pytest.mark.parametrize("name", [name for name in asdict(LaneCounters()) if name not in OF_THE_SPOOL])
async def test_the_law_notices_each_broken_increment(name: str) -> None:
    """If any one counter does not move the law is broken: no counter is derived from another."""

    def stuck(_self: LaneCounters, _value: int) -> None:
        pass

    broken = type("Broken", (LaneCounters,), {name: property(lambda _self: 0, stuck)})
    assert not await everything_happens(broken())
