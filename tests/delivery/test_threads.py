"""Threads: calls in turn, what they raise, and the time that work takes."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from functools import partial

import pytest

from sniffer.delivery.threads import CallThread, Working
from tests.waiting import BOUND


async def test_calls_are_made_in_turn_on_one_thread() -> None:
    """Each call returns what the function returns; all of them run on the same other thread, in order."""
    thread = CallThread("sniffer test")
    thread.start()
    order: list[int] = []

    def call(number: int) -> int:
        order.append(number)
        return threading.get_ident()

    async with asyncio.timeout(BOUND):
        found = await asyncio.gather(*(thread.call(partial(call, number)) for number in range(5)))
    assert order == list(range(5))
    assert len(set(found)) == 1
    assert found[0] != threading.get_ident()
    thread.end()


async def test_what_a_call_raises_is_raised_and_leaves_no_cycle() -> None:
    """An exception reaches the caller, the thread goes on, and nothing keeps the call's data until a collection."""

    class Body:
        pass

    thread = CallThread("sniffer test")
    thread.start()
    gc.collect()
    gc.disable()
    try:
        body = Body()
        gone = weakref.ref(body)

        def fail(body: Body = body) -> None:
            raise OSError(28, str(body))

        number = None
        async with asyncio.timeout(BOUND):
            try:
                await thread.call(fail)
            except OSError as error:  # pytest.raises would keep it
                number = error.errno
            del body, fail
            assert await thread.call(lambda: 7) == 7
        assert number == 28
        assert gone() is None
    finally:
        gc.enable()
        thread.end()


def test_work_is_added_up() -> None:
    """The processor time of each block counts, that of a block which raises too; sleeping counts nothing."""
    working = Working()
    with working.working():
        time.sleep(0.02)
    assert working.worked < 0.015

    def work() -> None:
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"), working.working():
        work()
    assert working.worked >= 0.02
