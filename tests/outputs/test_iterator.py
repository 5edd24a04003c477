"""Iterators: what an `async for` gets, and how it ends."""

from __future__ import annotations

import asyncio
import time

import pytest

from sniffer.outputs.iterator import IteratorSink
from sniffer.record.message import HttpMessage
from tests.deliveries import lane_to, message, messages, settled
from tests.waiting import BOUND, until


async def test_an_iterator_gets_every_message_and_ends() -> None:
    """`async for` gets all messages in order, and ends when the sink is closed."""
    sink = IteratorSink()
    got = []

    async def consume() -> None:
        got.extend([m async for m in sink.messages()])

    consumer = asyncio.create_task(consume())
    async with lane_to(sink) as lane:
        for connection in range(3):
            lane.offer(messages(4, connection=connection))
            await asyncio.sleep(0)
        assert (await settled(lane)).delivered == 12
    await asyncio.wait_for(consumer, BOUND)
    assert got == [m for connection in range(3) for m in messages(4, connection=connection)]


async def test_an_iterator_raises_its_error_after_the_last_message() -> None:
    """What was captured comes first, then the error that ended the capture."""
    sink = IteratorSink()
    async with lane_to(sink) as lane:
        lane.offer(messages(4))
        await lane.drain(time.monotonic() + BOUND)
        sink.error = RuntimeError("interface removed")
    stream = sink.messages()
    assert [await anext(stream) for _ in range(4)] == messages(4)
    with pytest.raises(RuntimeError, match="interface removed"):
        await anext(stream)


async def test_an_iterator_pushes_back() -> None:
    """A batch counts as delivered when the loop has had all of it, so that reading a file waits for the consumer."""
    sink = IteratorSink()
    async with lane_to(sink, max_messages=4) as lane:
        lane.offer(messages(4))
        room = asyncio.create_task(lane.room())
        stream = sink.messages()
        assert [await anext(stream) for _ in range(4)] == messages(4)
        assert lane.counters.delivered == 0
        assert not room.done()
        step = asyncio.ensure_future(anext(stream))
        await asyncio.wait_for(room, BOUND)
        assert lane.counters.delivered == 4
        lane.offer([message(4)])
        assert await step == message(4)
        await stream.aclose()  # type: ignore[attr-defined]


async def test_leaving_the_loop_closes_the_iterator() -> None:
    """After `break` the rest is dropped as closed, and nothing waits for it: not the drain either."""
    sink = IteratorSink()
    async with lane_to(sink) as lane:
        lane.offer(messages(3))
        lane.offer(messages(3))
        async for m in sink.messages():
            if m.exchange == 1:
                break
        async with asyncio.timeout(BOUND):
            await lane.drain()
            await lane.closed.wait()
        assert (lane.counters.delivered, lane.counters.dropped["closed"]) == (2, 4)


async def test_an_iterator_that_was_left_takes_nothing() -> None:
    """What comes after the loop was left is dropped as closed, also where nothing was under way then."""
    sink = IteratorSink()
    async with lane_to(sink) as lane:
        lane.offer(messages(1))
        stream = sink.messages()
        await anext(stream)
        waiting = asyncio.ensure_future(anext(stream))
        await until(lambda: lane.counters.delivered == 1)
        waiting.cancel()
        await asyncio.wait((waiting,))
        lane.offer(messages(2))
        async with asyncio.timeout(BOUND):
            await lane.closed.wait()
        assert lane.counters.dropped["closed"] == 2


async def test_a_loop_may_stop_its_own_sniffer() -> None:
    """A drain from inside the loop does not wait for the loop's next step; the loop still gets the rest."""
    sink = IteratorSink()
    got: list[HttpMessage] = []
    async with lane_to(sink) as lane:
        for connection in range(3):
            lane.offer(messages(3, connection=connection))
        async for m in sink.messages():
            if not got:
                async with asyncio.timeout(BOUND):
                    await lane.drain(time.monotonic() + 2 * BOUND)
                await lane.close()
            got.append(m)
        assert len(got) == 9
        assert lane.counters.delivered == 9
