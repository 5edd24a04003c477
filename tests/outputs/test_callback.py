"""Callbacks, plain and async."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from sniffer.outputs.callback.sink import CallbackSink
from sniffer.record.message import HttpMessage
from tests.deliveries import lane_to, messages, settled
from tests.waiting import BOUND, until


async def test_a_plain_callback_runs_on_its_own_thread() -> None:
    """A plain callable gets each message in turn, on one daemon thread that is not the loop's."""
    got: list[tuple[HttpMessage, threading.Thread]] = []
    async with lane_to(CallbackSink(lambda m: got.append((m, threading.current_thread())))) as lane:
        lane.offer(messages(3))
        lane.offer(messages(2, connection=1))
        assert (await settled(lane)).delivered == 5
    assert [m for m, _ in got] == messages(3) + messages(2, connection=1)
    (thread,) = {thread for _, thread in got}
    assert thread is not threading.current_thread()
    assert thread.daemon


class AsyncCall:
    def __init__(self) -> None:
        self.got: list[HttpMessage] = []

    async def __call__(self, m: HttpMessage) -> None:
        await asyncio.sleep(0)
        assert threading.current_thread() is threading.main_thread()
        self.got.append(m)


def plainly(function: Callable[[HttpMessage], object]) -> Callable[[HttpMessage], object]:
    """A plain function that returns what an async one returns."""

    def call(m: HttpMessage) -> object:
        return function(m)

    return call


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: f.__call__, functools.partial, plainly])
async def test_an_async_callback_runs_on_the_loop(wrap: object) -> None:
    """Awaited on the loop: an async function, an async `__call__`, a partial, a plain function around one."""
    call = AsyncCall()
    async with lane_to(CallbackSink(wrap(call))) as lane:  # type: ignore[operator]
        lane.offer(messages(3))
        assert (await settled(lane)).delivered == 3
    assert call.got == messages(3)


def raise_for_odd(m: HttpMessage) -> None:
    if m.exchange % 2:
        raise ValueError(f"cannot use {m.body}")


async def raise_for_odd_async(m: HttpMessage) -> None:
    raise_for_odd(m)


@pytest.mark.parametrize("callback", [raise_for_odd, raise_for_odd_async])
async def test_a_callback_that_raises_is_logged_and_counted(callback: object, caplog: pytest.LogCaptureFixture) -> None:
    """Its other messages are delivered; the log tells type and place, never the text, which may quote the body."""
    async with lane_to(CallbackSink(callback)) as lane:  # type: ignore[arg-type]
        lane.offer(messages(5, body="secret"))
        lane.offer(messages(2, body="secret"))
        counters = await settled(lane)
    assert (counters.delivered, counters.dropped["error"]) == (4, 3)
    raised, first, *_ = caplog.records
    assert raised.getMessage() == "an output raised"
    assert raised.__dict__["fields"]["calls"][-1].endswith("in raise_for_odd")
    assert len([each for each in caplog.records if each.getMessage() == "an output raised"]) == 1
    assert first.getMessage() == "messages not delivered"
    fields = first.__dict__["fields"]
    assert fields["error"] == 2
    assert fields["cause"].startswith("ValueError at test_callback.py:")
    assert "raise_for_odd" in fields["cause"]
    assert "secret" not in caplog.text + str([record.__dict__ for record in caplog.records])


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()], ids=repr)
async def test_a_callback_cannot_end_the_process(error: BaseException) -> None:
    """SystemExit and its like on the callback's thread are counted as errors; capture goes on."""

    def leave(m: HttpMessage) -> None:
        if m.exchange == 0:
            raise error

    async with lane_to(CallbackSink(leave)) as lane:
        lane.offer(messages(3))
        counters = await settled(lane)
    assert (counters.delivered, counters.dropped["error"]) == (2, 1)


@pytest.mark.parametrize("wrap", [False, True])
async def test_an_async_callback_cannot_end_the_process(wrap: bool) -> None:
    """Nor can SystemExit on the loop, which would end it."""

    async def leave(m: HttpMessage) -> None:
        if m.exchange == 0:
            raise SystemExit(3)

    def wrapped(m: HttpMessage) -> Awaitable[None]:
        return leave(m)

    async with lane_to(CallbackSink(wrapped if wrap else leave)) as lane:
        lane.offer(messages(3))
        counters = await settled(lane)
    assert (counters.delivered, counters.dropped["error"]) == (2, 1)


async def test_an_async_callback_that_cancels_itself_is_an_error() -> None:
    """A CancelledError of the callback's own is counted as an error and does not end the lane."""

    async def leave(m: HttpMessage) -> None:
        if m.exchange == 0:
            raise asyncio.CancelledError

    async with lane_to(CallbackSink(leave)) as lane:
        lane.offer(messages(3))
        counters = await settled(lane)
    assert (counters.delivered, counters.dropped["error"]) == (2, 1)


async def test_a_callback_that_hangs_delays_no_other_and_is_cut() -> None:
    """A callback that never returns blocks its own lane only, and is cut at the deadline with exact counts."""
    hanging = threading.Event()
    release = threading.Event()

    began: list[HttpMessage] = []

    def hang(m: HttpMessage) -> None:
        began.append(m)
        if m.exchange == 2:
            hanging.set()
            release.wait()

    got: list[HttpMessage] = []
    try:
        async with lane_to(CallbackSink(hang)) as stuck, lane_to(CallbackSink(got.append)) as free:
            for lane in (stuck, free):
                lane.offer(messages(10))
            assert (await settled(free)).delivered == 10
            assert await asyncio.to_thread(hanging.wait, BOUND)
            await stuck.drain(time.monotonic())
            assert stuck.counters.delivered == 2
            assert stuck.counters.dropped["deadline"] == 8
    finally:
        release.set()
    await until(lambda: all(thread.name != "sniffer callback" for thread in threading.enumerate()))
    assert began == messages(3)  # what was cut is not called later


async def test_an_async_callback_that_hangs_is_cut() -> None:
    """The same on the loop."""

    async def hang(m: HttpMessage) -> None:
        if m.exchange == 2:
            hanging.set()
            await asyncio.Event().wait()

    hanging = asyncio.Event()
    async with lane_to(CallbackSink(hang)) as lane:
        lane.offer(messages(10))
        await asyncio.wait_for(hanging.wait(), BOUND)
        await lane.drain(time.monotonic())
        assert lane.counters.delivered == 2
        assert lane.counters.dropped["deadline"] == 8


def test_a_thread_outlives_its_loop() -> None:
    """A callback that comes back after the loop has ended harms nothing."""
    release = threading.Event()
    began = threading.Event()

    def hang(_: HttpMessage) -> None:
        began.set()
        release.wait()

    async def run() -> None:
        async with lane_to(CallbackSink(hang)) as lane:
            lane.offer(messages(1))
            assert await asyncio.to_thread(began.wait, BOUND)

    asyncio.run(run())
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "sniffer callback" and thread.is_alive())
    release.set()
    thread.join(BOUND)
    assert not thread.is_alive()
