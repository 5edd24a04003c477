"""What the tests of sinks and lanes share: messages, a clock that is set by hand, a lane that must balance."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict

import msgspec

from sniffer.delivery.account import LaneCounters
from sniffer.delivery.lane import Lane
from sniffer.delivery.queues import Queue
from sniffer.delivery.retry import Retries
from sniffer.delivery.sink import Record, Sink
from sniffer.exchanges import ExchangeBatch, Pair
from sniffer.record.message import Endpoint, Fields, HttpMessage
from tests.waiting import BOUND


class Sent(HttpMessage, frozen=True, omit_defaults=True, rename="camel", dict=True):
    """A record to deliver: an HttpMessage that lanes can weigh, in place of the core's, which has one."""

    @property
    def weight(self) -> int:
        return 1000 + len(self.body or "")

    @property
    def message(self) -> HttpMessage:
        return self


def message(number: int = 0, *, connection: int = 0, body: str | None = None) -> Sent:
    """The request number `number` of a connection."""
    return Sent(
        schema=1,
        receiver=Endpoint("192.0.2.1", 8080),
        destination=Endpoint("192.0.2.2", 40000 + connection),
        direction="request",
        timestamp="2026-01-02T03:04:05.000006Z",
        end_timestamp="2026-01-02T03:04:05.000006Z",
        headers=Fields({"host": "shop.example", "accept": "*/*"}),
        connection_id=f"{connection:032x}",
        exchange=number,
        http_version="1.1",
        method="GET",
        path=f"/{connection}/{number}",
        body=body,
        body_size=len(body or ""),
        authority="shop.example",
    )


def messages(count: int, *, connection: int = 0, body: str | None = None) -> list[Sent]:
    """The first `count` requests of a connection."""
    return [message(number, connection=connection, body=body) for number in range(count)]


def answer(number: int = 0, *, connection: int = 0, alone: bool = False, body: str | None = None) -> Sent:
    """The response to the request number `number`; `alone` says that its request was not captured."""
    fields = {"headers": Fields({}), "direction": "response", "status_code": 200, "reason": "OK"}
    if alone:
        fields |= {"method": None, "path": None, "authority": None}
    return msgspec.structs.replace(message(number, connection=connection, body=body), **fields)


def joined(*pairs: Pair) -> ExchangeBatch:
    """A batch of these exchanges, as the queue of an output of exchanges gives it."""
    return ExchangeBatch(pairs)


def balanced(counters: LaneCounters) -> bool:
    """The law of a lane: every message that was offered, or recovered, is in exactly one of the other counters."""
    counts = asdict(counters)
    return bool(counts.pop("offered") + counts.pop("recovered") == sum(counts.values()))


class Time:
    """A clock and its sleep: sleeping takes no time, moves the clock and is noted."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Recorder(Sink):
    """Keeps what it is given; raises what stands in `answers` first; waits for `gate` where it is shut."""

    name = "recorder"

    def __init__(self, *answers: BaseException | None) -> None:
        self.answers = list(answers)
        self.batches: list[list[Record]] = []
        self.taken: list[Record] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.news = asyncio.Event()
        self.closed = False

    async def deliver(self, batch: Sequence[Record]) -> None:
        self.batches.append(list(batch))
        self.news.set()
        await self.gate.wait()
        if self.answers and (answer := self.answers.pop(0)) is not None:
            raise answer
        self.taken.extend(batch)

    async def close(self) -> None:
        self.closed = True

    async def called(self, times: int) -> None:
        """Waits until `deliver` was called so often."""
        async with asyncio.timeout(BOUND):
            while len(self.batches) < times:
                self.news.clear()
                await self.news.wait()


@contextlib.asynccontextmanager
async def lane_to(
    sink: Sink,
    *,
    max_bytes: int = 1 << 24,
    max_messages: int = 100_000,
    queue: Queue | None = None,
    retries: Retries | None = None,
    counters: LaneCounters | None = None,
    gives_way: bool = False,
) -> AsyncIterator[Lane]:
    """An open lane; drained (at once, where the test has not done so) and closed at the end, when it must balance."""
    lane = Lane(
        sink,
        share=max_bytes,
        max_messages=max_messages,
        queue=queue,
        retries=retries,
        counters=counters,
        gives_way=gives_way,
    )
    async with running(lane):
        yield lane


@contextlib.asynccontextmanager
async def running(lane: Lane, *, drain: bool = False) -> AsyncIterator[None]:
    """Opens the lane, and closes it at the end, when it must balance. `drain`: what waits is delivered first."""
    try:
        await lane.open()
        yield
        assert balanced(lane.counters), lane.counters
        if drain:
            await lane.drain(time.monotonic() + BOUND)
    finally:
        await lane.drain(time.monotonic())
        await lane.close()
    assert balanced(lane.counters), lane.counters
    assert lane.counters.waiting == 0


async def settled(lane: Lane) -> LaneCounters:
    """The lane's counters when nothing waits any more."""
    async with asyncio.timeout(BOUND):
        await lane.drain()
    return lane.counters
