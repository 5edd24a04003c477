"""Which lanes give way to which, and when."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from sniffer.delivery import precedence as module
from sniffer.delivery.lane import Lane
from sniffer.delivery.precedence import Precedence
from tests.deliveries import Recorder, messages
from tests.waiting import until


class Scales:
    """A lane that never gives way, one that does, and the precedence between them, with a clock set by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.behind = False
        self.precedence = Precedence(lambda: self.behind, clock=lambda: self.now)
        self.firm_sink, self.giving_sink = Recorder(), Recorder()
        self.firm = Lane(self.firm_sink, share=1 << 24, max_messages=80)
        self.giving = Lane(self.giving_sink, share=1 << 24, gives_way=True)
        self.precedence.add(self.firm)
        self.precedence.add(self.giving)

    def yields(self) -> bool:
        """Whether the lane gives way now."""
        return self.giving.yielding

    def crowd(self) -> None:
        """Fills a fourth of the lane that never gives way; its sink takes nothing."""
        self.firm_sink.gate.clear()
        self.firm.offer(messages(21))

    def work(self, seconds: float, of: float) -> None:
        """Lets `of` seconds pass, in which the sink that gives way works for `seconds`."""
        self.now += of
        self.giving_sink.worked += seconds

    async def looks(self, times: int) -> None:
        """Makes the check whether the lanes may go on happen so many times."""
        for _ in range(times):
            handle = self.precedence._again
            assert handle is not None
            self.now += module.LOOK_SECONDS
            handle.cancel()
            self.precedence._look_again()

    async def close(self) -> None:
        """Closes everything."""
        self.precedence.close()
        for lane in (self.firm, self.giving):
            await lane.drain(time.monotonic())
            await lane.close()


@pytest.fixture
async def scales() -> AsyncIterator[Scales]:
    """Two lanes and their precedence, closed at the end."""
    made = Scales()
    yield made
    await made.close()


async def test_it_gives_way_at_once_where_messages_back_up(scales: Scales) -> None:
    """The lane gives way as soon as the pump is behind, and goes on as soon as it is not."""
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
    """The lane gives way to a crowded lane only if it works for more than a tenth of the time."""
    scales.crowd()
    scales.work(0.001, of=1.0)
    scales.precedence.look()
    assert not scales.yields()
    for _ in range(3):
        scales.work(0.15, of=0.3)
        scales.precedence.look()
    assert scales.yields()


async def test_what_is_made_for_it_is_its_work(scales: Scales) -> None:
    """Work done for the lane before it is offered messages counts as its work."""
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
    """A long pause does not hide that the lane works all the time now."""
    scales.now += 3600
    scales.precedence.look()
    scales.crowd()
    scales.work(0.02, of=0.02)
    scales.precedence.look()
    assert scales.yields()


async def test_work_of_long_ago_is_no_reason(scales: Scales) -> None:
    """Work of more than half a second ago does not count."""
    scales.work(5.0, of=10.0)
    scales.precedence.look()
    for _ in range(3):
        scales.work(0.0, of=1.0)
        scales.precedence.look()
    scales.crowd()
    scales.precedence.look()
    assert not scales.yields()


async def test_it_goes_on_where_giving_way_does_not_help(scales: Scales) -> None:
    """Where giving way does not help the lane goes on after 1 s, then after twice as long each time, at most 30 s."""
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
    """The lane does not give way if there is no other lane, or the last one has ended."""
    scales.behind = True
    scales.firm.closed.set()
    scales.precedence.look()
    assert not scales.yields()
