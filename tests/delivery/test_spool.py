"""The spool: what is on disk, what is delivered from it, and what becomes of messages when either side fails."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import shutil
import sqlite3
import tempfile
import time
import tracemalloc
import urllib.request
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sniffer.delivery import spool
from sniffer.delivery.account import LaneCounters
from sniffer.delivery.lane import Lane
from sniffer.delivery.retry import PLACES, Retries
from sniffer.delivery.sink import Record, Rejected, Retry, Sink, SinkClosed, TooLarge
from sniffer.delivery.spool import Spool
from sniffer.delivery.store import FILE, Full, Store
from tests import captures
from tests.chaos.collector import collecting
from tests.daemon import (
    DEMO,
    SECONDS,
    Daemon,
    exchanges,
    free_port,
    needs_capture,
    silent_server,
    web_server,
)
from tests.deliveries import Recorder, Sent, Time, balanced, message, messages, running, settled
from tests.delivery.stores import MIB, ids, keys, mount, sizes, small_disk, stored
from tests.waiting import BOUND, until


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A busy machine may close files slowly. The log is captured at every level that tests look at."""
    monkeypatch.setattr(spool, "CLOSE_SECONDS", BOUND)
    caplog.set_level(logging.INFO, "sniffer.sinks")


class Soon(Time):
    """A clock that sleeping moves; each sleep takes a millisecond."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds)
        await asyncio.sleep(0.001)


class Spooling(Lane):
    """A lane with a spool, which tests look into."""

    def __init__(
        self,
        sink: Sink,
        store: Store,
        *,
        share: int,
        counters: LaneCounters | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
        **options: Any,
    ) -> None:
        self.spool = Spool(store, share=share, clock=clock, **options)
        super().__init__(
            sink,
            share=share,
            source=self.spool,
            retries=Retries(until_final=True, clock=clock, sleep=sleep, chance=chance),
            counters=counters,
        )


@contextlib.asynccontextmanager
async def spooling(
    sink: Sink,
    directory: Path,
    *,
    store_size: int = 16 * MIB,
    share: int = 16 * MIB,
    clock: Time | None = None,
    drain: bool = True,
    **options: Any,
) -> AsyncIterator[Spooling]:
    """An open lane with a spool; drained (at once) and closed at the end, when it must balance."""
    clock = clock or Soon()
    store = Store(directory, store_size)
    lane = Spooling(sink, store, share=share, clock=clock.clock, sleep=clock.sleep, chance=lambda: 0.0, **options)
    async with running(lane, drain=drain):
        yield lane


class Down(Sink):
    """A collector that is down until it is told otherwise; keeps what it then takes, in order."""

    name = "url"

    def __init__(self, *, up: bool = False) -> None:
        self.up = asyncio.Event()
        self.taken: list[Record] = []
        self.batches: list[list[str]] = []
        self.tries = 0
        if up:
            self.up.set()

    async def deliver(self, batch: Sequence[Record]) -> None:
        self.tries += 1
        await asyncio.sleep(0)
        if not self.up.is_set():
            raise Retry("down")
        self.taken += batch
        self.batches.append(keys(batch))


def ordered(taken: Sequence[Record]) -> bool:
    """Whether each connection's messages came in order."""
    last: dict[str, int] = defaultdict(lambda: -1)
    for record in taken:
        if record.exchange < last[record.connection_id]:
            return False
        last[record.connection_id] = record.exchange
    return True


async def test_messages_go_through_the_disk(tmp_path: Path) -> None:
    """A message is on disk before it is delivered, is delivered in order, and is then deleted from the disk."""
    on_disk = []

    class Looking(Recorder):
        async def deliver(self, batch: Sequence[Record]) -> None:
            on_disk.append(lane.counters.spooled)
            await super().deliver(batch)

    sink = Looking()
    async with spooling(sink, tmp_path) as lane:
        lane.offer(messages(50))
        lane.offer(messages(50, connection=1))
        counters = await settled(lane)
        assert (counters.delivered, counters.spooled, counters.waiting) == (100, 0, 0)
    assert min(on_disk) >= 1
    assert ordered(sink.taken)
    assert Counter(keys(sink.taken)) == Counter(keys(messages(50) + messages(50, connection=1)))
    assert {record.to_json() for record in sink.taken} >= {message(3).to_json()}
    with stored(tmp_path) as store:
        assert ids(store) == []


async def test_an_outage_of_any_length_loses_nothing(tmp_path: Path) -> None:
    """After hundreds of failed tries, with more messages than fit into memory, all are delivered."""
    sink = Down()
    sent = []
    async with spooling(sink, tmp_path, share=256 << 10, store_size=16 * MIB) as lane:
        for number in range(100):
            batch = [message(number, connection=c, body="x" * 1000) for c in range(20)]
            sent += batch
            lane.offer(batch)
            await until(lambda: lane.counters.waiting == 0)
        assert (lane.counters.spooled, lane.counters.delivered) == (2000, 0)
        await until(lambda: sink.tries > 300)
        sink.up.set()
        counters = await settled(lane)
        assert (counters.delivered, counters.dropped_full, counters.spooled) == (2000, 0, 0)
    assert ordered(sink.taken)
    assert Counter(keys(sink.taken)) == Counter(keys(sent))


async def test_the_next_run_delivers_what_this_one_left(tmp_path: Path) -> None:
    """Messages left at a stop are not dropped; the next run delivers them first, under the same keys."""
    sink = Down()
    async with spooling(sink, tmp_path) as lane:
        lane.offer(messages(30))
        counters = await settled(lane)
        assert (counters.spooled, sum(counters.dropped.values())) == (30, 0)
    assert sink.taken == []
    sink = Down(up=True)
    async with spooling(sink, tmp_path, workers=1) as lane:
        assert lane.counters.recovered == 30
        lane.offer([message(30), message(0, connection=5)])
        counters = await settled(lane)
        assert (counters.delivered, counters.offered, counters.spooled) == (32, 2, 0)
    assert ordered(sink.taken)
    assert Counter(keys(sink.taken)) == Counter(keys([*messages(31), message(0, connection=5)]))
    async with spooling(Down(up=True), tmp_path) as lane:
        assert lane.counters.recovered == 0


async def test_what_was_delivered_at_a_kill_may_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that a kill kept from being deleted comes again under its key. Deletion follows delivery soon."""
    sink = Down(up=True)
    first, killed = tmp_path / "first", tmp_path / "killed"
    with monkeypatch.context() as patched:
        patched.setattr(spool, "ACK_SECONDS", 3600.0)
        async with spooling(sink, first) as lane:
            lane.offer(messages(10))
            await until(lambda: lane.counters.delivered == 10)
            shutil.copytree(first, killed)  # what is on disk at that moment
    again = Down(up=True)
    async with spooling(again, killed) as lane:
        assert lane.counters.recovered == 10
        assert (await settled(lane)).delivered == 10
    assert keys(again.taken) == keys(sink.taken) == keys(messages(10))
    async with spooling(sink, first) as lane:
        lane.offer(messages(10, connection=1))
        await until(lambda: lane.counters.delivered == 10)
        begin = time.monotonic()
        await until(lambda: not lane.spool._acked)
        assert time.monotonic() - begin < 20


@pytest.mark.slow
async def test_a_collector_that_half_works_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If some tries fail and others do not, the log says so once."""

    class Half(Down):
        async def deliver(self, batch: Sequence[Record]) -> None:
            self.tries += 1
            await asyncio.sleep(0)
            if self.tries % 2:
                raise Retry("status 500")
            self.taken += batch

    class Still(Time):
        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(0.001)

    async with spooling(Half(), tmp_path, clock=Still()) as lane:
        for connection in range(20):
            lane.offer(messages(5, connection=connection))
        await until(lambda: lane.counters.delivered == 100)
        said = [record.message for record in caplog.records]
        assert said.count("the sink takes messages again") == 0
        assert said.count("messages wait in the spool") == 1
        await until(lambda: "the sink takes messages again" in caplog.text)


async def test_a_full_spool_drops_the_oldest(tmp_path: Path) -> None:
    """If an outage fills the spool the oldest messages are evicted; the newest are delivered later, in order."""
    sink = Down()
    async with spooling(sink, tmp_path, store_size=MIB) as lane:
        for number in range(200):
            lane.offer([message(number, connection=c, body="x" * 1000) for c in range(10)])
            await until(lambda: lane.counters.waiting == 0)
            assert balanced(lane.counters)
        spooled, evicted = lane.counters.spooled, lane.counters.dropped_evicted
        assert spooled + evicted == 2000
        assert evicted > 1000
        assert sizes(tmp_path) <= MIB
        sink.up.set()
        counters = await settled(lane)
        assert counters.delivered == spooled
    assert ordered(sink.taken)
    assert {record.exchange for record in sink.taken} >= set(range(200 - spooled // 10 + 1, 200))


async def test_what_is_evicted_while_under_way_is_counted_once(tmp_path: Path) -> None:
    """A message evicted while its delivery is under way is counted as evicted, whatever the answer then is."""
    sink = Recorder()
    sink.gate.clear()
    async with spooling(sink, tmp_path, store_size=MIB, workers=2) as lane:
        for number in range(200):
            lane.offer([message(number, connection=c, body="x" * 1000) for c in range(10)])
            await until(lambda: lane.counters.waiting == 0)
        assert len(sink.batches) == 2
        sink.gate.set()
        counters = await settled(lane)
        assert counters.spooled == 0
        assert counters.delivered == len(sink.taken) - 2
        assert counters.delivered + counters.dropped_evicted == 2000


@pytest.mark.parametrize("workers", [1, 8])
async def test_what_always_fails_blocks_its_own_connection_only(tmp_path: Path, workers: int) -> None:
    """A message that always fails holds back its own connection and no other."""
    poison = message(0, connection=3).idempotency_key

    class Poisoned(Down):
        async def deliver(self, batch: Sequence[Record]) -> None:
            if poison in keys(batch):
                self.tries += 1
                await asyncio.sleep(0)
                raise Retry("status 500")
            await super().deliver(batch)

    sink = Poisoned(up=True)
    async with spooling(sink, tmp_path, workers=workers) as lane:
        for connection in range(10):
            lane.offer(messages(30, connection=connection))
        await until(lambda: lane.counters.delivered == 270)
        assert lane.counters.spooled == 30
        counters = await settled(lane)
        assert (counters.spooled, counters.delivered) == (30, 270)
    assert message(0, connection=3).connection_id not in {record.connection_id for record in sink.taken}
    assert ordered(sink.taken)


async def test_waits_double_up_to_a_bound(tmp_path: Path) -> None:
    """The waits are 1, 2, 4, 8, 16, 30, 30 s, or `Retry-After` if that is longer, up to 60 s."""
    clock = Soon()
    sink = Recorder(*[Retry("down")] * 7, Retry("busy", after=45.0), Retry("busy", after=1e6))
    async with spooling(sink, tmp_path, clock=clock) as lane:
        lane.offer([message()])
        await until(lambda: lane.counters.delivered == 1)
    assert clock.slept == [1, 2, 4, 8, 16, 30, 30, 45, 60]


async def test_waits_are_shortened_at_random(tmp_path: Path) -> None:
    """Each wait is shortened by up to half, so that many sniffers do not come back at once."""
    clock = Soon()
    sink = Recorder(*[Retry("down")] * 3)
    lane = Spooling(sink, Store(tmp_path, MIB), share=MIB, clock=clock.clock, sleep=clock.sleep, chance=lambda: 0.999)
    await lane.open()
    lane.offer([message()])
    await until(lambda: lane.counters.delivered == 1)
    assert clock.slept == pytest.approx([0.5, 1, 2], rel=0.01)
    await lane.drain(time.monotonic())
    await lane.close()


async def test_the_first_success_wakes_the_others(tmp_path: Path) -> None:
    """After an outage the first success makes all waiting batches try at once."""
    release = asyncio.Event()

    async def sleep(seconds: float) -> None:
        if seconds > 1 or len(waiting) < 4 * 2 - 1:
            waiting.append(seconds)
            await asyncio.Event().wait()
        await release.wait()

    waiting: list[float] = []
    sink = Down()
    store = Store(tmp_path, 4 * MIB)
    lane = Spooling(sink, store, share=4 * MIB, workers=2, sleep=sleep, chance=lambda: 0.0)
    await lane.open()
    for connection in range(20):
        lane.offer(messages(1, connection=connection))
    await until(lambda: len(waiting) == 7 and lane._outage is not None and lane._outage.failures == 8)
    sink.up.set()
    release.set()
    await until(lambda: lane.counters.delivered == 20)
    await lane.drain(time.monotonic())
    await lane.close()


async def test_batches_keep_their_members(tmp_path: Path) -> None:
    """Batches have the same members in every try."""
    tried: list[list[str]] = []

    class Twice(Down):
        async def deliver(self, batch: Sequence[Record]) -> None:
            tried.append(keys(batch))
            if tried.count(tried[-1]) < 3:
                raise Retry("status 503")
            self.taken += batch

    sink = Twice()
    async with spooling(sink, tmp_path, size=10, wait=3600.0) as lane:
        for connection in range(7):
            lane.offer(messages(9, connection=connection))
        counters = await settled(lane)
        assert counters.delivered == 63
    assert max(len(batch) for batch in tried) == 10
    assert {tried.count(batch) for batch in tried} == {3}
    assert ordered(sink.taken)


async def test_a_batch_waits_for_company(tmp_path: Path) -> None:
    """A batch that is not full is sent once it has waited."""
    sink = Recorder()
    async with spooling(sink, tmp_path, size=10, wait=0.05) as lane:
        lane.offer(messages(3))
        await until(lambda: lane.counters.delivered == 3)
        assert len(sink.batches) == 1


async def test_413_halves_a_batch(tmp_path: Path) -> None:
    """A batch that is too large is halved down to single messages, in order; a failed try repeats only what is open."""

    class Small(Down):
        async def deliver(self, batch: Sequence[Record]) -> None:
            if len(batch) > 2 or "huge" in batch[0].to_json().decode():
                raise TooLarge("status 413")
            if not self.tries:
                self.tries = 1
                raise Retry("status 500")
            await super().deliver(batch)

    sink = Small(up=True)
    sent = messages(9)
    sent[4] = message(4, body="huge")
    async with spooling(sink, tmp_path, size=9) as lane:
        lane.offer(sent)
        counters = await settled(lane)
        assert (counters.delivered, counters.rejected) == (8, 1)
    assert keys(sink.taken) == keys([*sent[:4], *sent[5:]])


async def test_final_answers_end_messages(tmp_path: Path) -> None:
    """Rejected messages and those that the sink fails on are deleted from the spool, each in its counter."""
    sink = Recorder(Rejected("status 400"), None, ValueError("a defect"))
    async with spooling(sink, tmp_path, workers=1) as lane:
        lane.offer(messages(4))
        counters = await settled(lane)
        assert (counters.delivered, counters.rejected, counters.dropped_error) == (2, 1, 1)
    with stored(tmp_path) as store:
        assert ids(store) == []


async def test_a_sink_that_is_gone_ends_its_lane(tmp_path: Path) -> None:
    """After `SinkClosed` nothing more is tried; what the sink was not given stays on disk for the next run."""
    sink = Recorder(SinkClosed("gone"))
    async with spooling(sink, tmp_path, workers=1, size=4) as lane:
        lane.offer(messages(8))
        await asyncio.wait_for(lane.closed.wait(), BOUND)
        lane.offer(messages(1))
        counters = await settled(lane)
        assert (counters.dropped_closed, counters.spooled, len(sink.batches)) == (5, 4, 1)
    async with spooling(Down(up=True), tmp_path) as lane:
        assert (await settled(lane)).delivered == 4


async def test_a_sink_that_is_gone_ends_the_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk has no room and the sink is gone, what waits to be written is dropped, and the drain ends."""
    sink = Recorder(SinkClosed("gone"))
    sink.gate.clear()
    commit = Store.commit
    async with spooling(sink, tmp_path, workers=1) as lane:
        lane.offer(messages(1))
        await sink.called(1)

        def full(self: Store, records: Sequence[Record], *arguments: Any, **keywords: Any) -> Any:
            if records:
                raise Full
            return commit(self, records, *arguments, **keywords)

        with monkeypatch.context() as patched:
            patched.setattr(Store, "commit", full)
            lane.offer(messages(3, connection=1))
            await until(lambda: "disk" in lane._timers)
            sink.gate.set()
            assert (await settled(lane)).dropped_closed == 4


# The stop


async def test_a_drain_tries_at_once_and_leaves_the_rest(tmp_path: Path) -> None:
    """A drain tries waiting messages at once and three times more; then they stay in the spool."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if not lane.draining:
            await asyncio.Event().wait()

    sink = Down()
    lane = Spooling(sink, Store(tmp_path, 4 * MIB), share=4 * MIB, workers=1, sleep=sleep, chance=lambda: 0.0)
    await lane.open()
    lane.offer(messages(5))
    await until(lambda: slept == [1.0])
    counters = await settled(lane)
    assert slept == [1.0, 1.0, 2.0, 4.0]
    assert sink.tries == 5
    assert (counters.spooled, sum(counters.dropped.values())) == (5, 0)
    await lane.close()


async def test_a_drain_ends_at_its_deadline(tmp_path: Path) -> None:
    """A delivery that hangs is cut at the deadline; its messages stay in the spool."""
    sink = Recorder()
    sink.gate.clear()
    async with spooling(sink, tmp_path, drain=False) as lane:
        lane.offer(messages(5))
        await sink.called(1)
        begin = time.monotonic()
        await lane.drain(begin + 0.2)
        assert time.monotonic() - begin < 20
        assert (lane.counters.spooled, sum(lane.counters.dropped.values())) == (5, 0)
        lane.offer(messages(2, connection=1))
        assert lane.counters.dropped_closed == 2


async def test_a_drain_delivers_all_that_is_on_disk(tmp_path: Path) -> None:
    """A drain delivers all that is on disk, also what an earlier run left."""
    async with spooling(Down(), tmp_path, share=16 * MIB) as lane:
        for connection in range(300):
            lane.offer(messages(10, connection=connection))
        assert (await settled(lane)).spooled == 3000
    sink = Down(up=True)
    async with spooling(sink, tmp_path, share=64 << 10, size=10) as lane:
        assert (await settled(lane)).delivered == 3000
    assert ordered(sink.taken)


@pytest.mark.slow
async def test_reading_a_file_waits_for_the_disk(tmp_path: Path) -> None:
    """A lane that may not evict waits until the spool has room, and loses nothing."""
    sink = Down()
    clock = Soon()
    async with spooling(sink, tmp_path, store_size=MIB, share=MIB, evict=False, clock=clock) as lane:

        async def read() -> None:
            for number in range(300):
                await lane.room()
                lane.offer([message(number, connection=c, body="x" * 1000) for c in range(10)])

        reading = asyncio.create_task(read())
        await until(lambda: lane.counters.spooled > 300)
        for _ in range(200):
            await asyncio.sleep(0.001)
        assert not reading.done()
        sink.up.set()
        async with asyncio.timeout(BOUND):
            await reading
        counters = await settled(lane)
        assert counters.delivered == 3000
    assert ordered(sink.taken)


# A disk that fails


async def test_a_full_disk_costs_durability_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A disk smaller than SPOOL_SIZE fills: logged once; messages still arrive, and the spool is used again later."""
    with small_disk(tmp_path) as disk:
        sink = Down()
        clock = Soon()
        async with spooling(sink, disk, store_size=16 * MIB, clock=clock) as lane:
            for number in range(400):
                lane.offer([message(number, connection=c, body="x" * 1000) for c in range(4)])
                await asyncio.sleep(0.001)
            await until(lambda: lane.spool.disk_counters()["spool_failures"] > 0)
            assert balanced(lane.counters)
            assert caplog.text.count("the spool cannot be written") == 1
            sink.up.set()
            await until(lambda: lane.counters.delivered + lane.counters.dropped_full == 1600)
            assert lane.counters.delivered > 400
            clock.now += 10
            lane.offer(messages(2, connection=9))
            await until(lambda: lane.counters.delivered + lane.counters.dropped_full == 1602)
            assert "the spool is written again" in caplog.text
        assert ordered(sink.taken)
        assert sum(lane.counters.dropped.values()) == lane.counters.dropped_full


async def test_a_disk_that_is_full_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the disk is full at the start messages are delivered from memory, and the spool is made later."""
    with small_disk(tmp_path, "size=64k") as disk:
        (disk / "ballast").write_bytes(bytes(64 << 10))
        sink = Down(up=True)
        clock = Soon()
        async with spooling(sink, disk, clock=clock) as lane:
            assert "the spool cannot be written" in caplog.text
            lane.offer(messages(20))
            await until(lambda: lane.counters.delivered == 20)
            (disk / "ballast").unlink()
            assert mount("-o", "remount,size=8m", str(disk)) == 0
            clock.now += 10
            lane.offer(messages(20, connection=1))
            await until(lambda: lane.counters.delivered == 40)
            assert "the spool is written again" in caplog.text
            assert (disk / FILE).exists()
    assert ordered(sink.taken)


async def test_a_full_disk_keeps_what_an_earlier_run_left(tmp_path: Path) -> None:
    """A spool that a full disk keeps from opening is not touched; once there is room its messages are delivered."""
    with small_disk(tmp_path, "size=2m") as disk:
        async with spooling(Down(), disk) as lane:
            lane.offer(messages(50))
            await settled(lane)
        sink = Down(up=True)
        clock = Soon()
        free = os.statvfs(disk)
        (disk / "ballast").write_bytes(bytes(free.f_bavail * free.f_frsize))
        async with spooling(sink, disk, clock=clock) as lane:
            lane.offer(messages(20, connection=1))
            await until(lambda: lane.counters.delivered >= 20)
            (disk / "ballast").unlink()
            clock.now += 10
            lane.offer(messages(1, connection=2))
            await until(lambda: lane.counters.delivered == 71)
            assert lane.counters.recovered == 50
    assert Counter(keys(sink.taken)) == Counter(
        keys(messages(50) + messages(20, connection=1) + [message(connection=2)])
    )


@contextlib.contextmanager
def unusable(tmp_path: Path, what: str) -> Iterator[tuple[Path, Callable[[], object]]]:
    """A directory that cannot be used as a spool, and a function that repairs it."""
    with contextlib.ExitStack() as stack:
        directory = tmp_path / "spool"
        if what == "a file":
            directory.write_text("a file")
            yield directory, directory.unlink
        elif what == "in use":
            other = stack.enter_context(stored(directory))
            yield directory, other.close
        elif what == "read-only":
            disk = stack.enter_context(small_disk(tmp_path, "ro,size=8m"))
            yield disk, partial(mount, "-o", "remount,rw", str(disk))
        else:
            disk = stack.enter_context(small_disk(tmp_path, "size=64k"))
            (disk / "ballast").write_bytes(bytes(64 << 10))
            yield disk, partial(mount, "-o", "remount,size=8m", str(disk))


UNUSABLE = ("a file", "in use", "read-only", "full")


@pytest.mark.parametrize("what", UNUSABLE)
async def test_a_spool_that_cannot_be_used_is_done_without(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With `holds` an unusable spool does not end the start: it is logged at each report, and made when possible."""
    with unusable(tmp_path, what) as (directory, mend):
        sink = Down(up=True)
        clock = Soon()
        async with spooling(sink, directory, clock=clock, holds=True) as lane:
            lane.offer(messages(20))
            await until(lambda: lane.counters.delivered == 20)
            lane.report()
            assert caplog.text.count("the spool cannot be written") == 2
            assert lane.spool.disk_counters()["spool_failing"] == 1
            mend()
            clock.now += 10
            lane.offer(messages(20, connection=1))
            await until(lambda: lane.counters.delivered == 40)
            assert "the spool is written again" in caplog.text
            lane.report()
            assert caplog.text.count("the spool cannot be written") == 2
            assert lane.spool.disk_counters()["spool_failing"] == 0
            assert (directory / FILE).exists()
    assert ordered(sink.taken)


@needs_capture
@pytest.mark.live
@pytest.mark.parametrize("what", UNUSABLE)
def test_a_sidecar_goes_on_without_its_spool(tmp_path: Path, what: str) -> None:
    """ON_CAPTURE_ERROR=hold and a spool that cannot be used: the capture goes on, everything is delivered, each
    statistics interval says what is wrong, the probes do not fail, and the exit code is 0.
    """
    with unusable(tmp_path, what) as (directory, _), collecting() as collector, web_server() as port:
        environ = {
            "ON_CAPTURE_ERROR": "hold",
            "SPOOL_DIR": str(directory),
            "STATS_INTERVAL_MS": "100",
            "METRICS_PORT": str(free_port()),
            "OUTPUT_URL": f"http://127.0.0.1:{collector.port}/",
        }
        with Daemon("--ports", str(port), "--interface", "lo", environ=environ) as daemon:
            daemon.log("started")
            exchanges(port, 20)
            error = "the spool cannot be written: messages are delivered without it"
            daemon.wait_for(lambda: daemon.has_logged(error, 3))
            assert {line["level"] for line in daemon.logged(error)} == {"error"}
            base = f"http://127.0.0.1:{environ['METRICS_PORT']}"
            for path in ("readyz", "healthz"):
                with urllib.request.urlopen(f"{base}/{path}", timeout=SECONDS) as answer:
                    assert answer.status == 200
            with urllib.request.urlopen(f"{base}/metrics", timeout=SECONDS) as answer:
                assert "\ntcp_sniffer_spool_failing 1.0\n" in answer.read().decode()
            assert daemon.stop() == 0
            assert not daemon.logged("the ledger does not balance")
            lane = daemon.logs[-1]["lanes"]["url"]
            assert lane["offered"] == lane["delivered"] == len(collector.accepted) == 40


async def test_a_disk_that_fails_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that fails loses no message and breaks no order."""
    sink = Down(up=True)
    clock = Soon()
    chance = random.Random(1)
    commit = Store.commit

    def failing(self: Store, *arguments: Any, **keywords: Any) -> Any:
        if chance.random() < 0.3:
            raise chance.choice([sqlite3.OperationalError("disk I/O error"), OSError(28, "No space left")])
        return commit(self, *arguments, **keywords)

    monkeypatch.setattr(Store, "commit", failing)
    async with spooling(sink, tmp_path, clock=clock) as lane:
        for number in range(300):
            lane.offer([message(number, connection=c) for c in range(5)])
            clock.now += chance.random()
            await asyncio.sleep(0.001)
        await until(lambda: lane.counters.delivered == 1500)
        assert lane.spool.disk_counters()["spool_failures"] > 10
    assert ordered(sink.taken)


async def test_a_spool_damaged_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spool found damaged while running is set aside; its messages are counted as lost, later ones are delivered."""
    sink = Down()
    commit = Store.commit
    broken = [True]

    def failing(self: Store, records: Sequence[Record], *arguments: Any, **keywords: Any) -> Any:
        if records and records[0].connection_id == message(connection=7).connection_id and broken.pop():
            broken.append(False)
            error = sqlite3.DatabaseError("database disk image is malformed")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error
        return commit(self, records, *arguments, **keywords)

    monkeypatch.setattr(Store, "commit", failing)
    async with spooling(sink, tmp_path) as lane:
        lane.offer(messages(10))
        await until(lambda: lane.counters.spooled == 10)
        lane.offer(messages(10, connection=7))
        await until(lambda: lane.counters.spooled == 10 and lane.counters.dropped_error == 10)
        assert lane.spool.disk_counters()["spool_set_aside"] == 1
        sink.up.set()
        assert (await settled(lane)).delivered == 10
    assert {record.connection_id for record in sink.taken if record.exchange > 0} == {
        message(connection=7).connection_id
    }


async def test_a_damaged_message_is_counted(tmp_path: Path) -> None:
    """A message that cannot be read back is dropped, counted and deleted; the others are delivered."""
    async with spooling(Down(), tmp_path) as lane:
        lane.offer(messages(5))
        await settled(lane)
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as db, db:
        db.execute("UPDATE messages SET body = x'00' WHERE id = 3")
    sink = Down(up=True)
    async with spooling(sink, tmp_path) as lane:
        counters = await settled(lane)
        assert (counters.delivered, counters.dropped_error, counters.spooled) == (4, 1, 0)
    with stored(tmp_path) as store:
        assert ids(store) == []


async def test_space_is_given_back(tmp_path: Path) -> None:
    """When a backlog is delivered, the files shrink again."""
    sink = Down()
    async with spooling(sink, tmp_path, store_size=4 * MIB) as lane:
        for connection in range(200):
            lane.offer(messages(10, connection=connection, body="x" * 1000))
            await until(lambda: lane.counters.waiting == 0)
        assert sizes(tmp_path) > MIB
        sink.up.set()
        await settled(lane)
        await until(lambda: sizes(tmp_path) < MIB // 2)


@pytest.mark.slow
async def test_memory_is_bounded(tmp_path: Path) -> None:
    """However much is on disk, bodies and index in memory stay within the lane's share."""
    sink = Down()
    async with spooling(sink, tmp_path, store_size=16 * MIB, share=MIB, size=10, workers=4) as lane:
        for connection in range(1000):
            lane.offer(messages(5, connection=connection, body="x" * 2000))
            await until(lambda: lane.counters.waiting == 0)
            records = [e for flight in lane.spool._deliveries for e in flight.part if e.record is not None]
            queued = [e for waiting in lane.spool._entries._connections.values() for e, _ in waiting]
            held = sum(e.held for e in {*records, *queued})
            assert held <= MIB // 8 + 5 * 4000  # and one batch
            assert len(queued) <= max(1000, MIB // 4 // spool.ENTRY_BYTES)
        assert lane.counters.spooled + lane.counters.dropped_evicted == 5000
        sink.up.set()
        assert (await settled(lane)).spooled == 0


async def test_what_waits_for_its_next_try_is_not_in_memory(tmp_path: Path) -> None:
    """Batches that wait for their next try are on disk alone; no failed try keeps one until a garbage collection."""

    async def sleep(seconds: float) -> None:
        await asyncio.Event().wait()

    sink = Down()
    share = 8 * MIB
    lane = Spooling(sink, Store(tmp_path, 64 * MIB), share=share, size=20, sleep=sleep, chance=lambda: 0.0)
    await lane.open()
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for connection in range(100):
            lane.offer(messages(20, connection=connection, body="x" * 10_000))
            await until(lambda: lane.counters.waiting == 0)
        await until(lambda: lane._held_back == 8 * PLACES)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert lane.counters.spooled == 2000
    assert held < share // 3  # a batch has 200 kB, and 32 of them wait
    await lane.drain(time.monotonic())
    await lane.close()


# Everything at once


@pytest.mark.slow
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1 << 32))
def test_nothing_is_lost_and_nothing_overtakes(tmp_path: Path, seed: int) -> None:
    """Over random outages, answers, batches and restarts each message is delivered once, or counted, in order."""
    chance = random.Random(seed)
    directory = Path(tempfile.mkdtemp(dir=tmp_path))
    taken: list[Record] = []
    offered: list[Sent] = []
    numbers: Counter[int] = Counter()
    rejected = 0

    class Moody(Sink):
        name = "url"
        mood = 0.0

        async def deliver(self, batch: Sequence[Record]) -> None:
            nonlocal rejected
            for _ in range(chance.randint(0, 2)):
                await asyncio.sleep(0)
            if chance.random() < self.mood:
                raise Retry("status 500", after=chance.choice([None, 5.0]))
            if chance.random() < 0.05 and len(batch) > 1:
                raise TooLarge("status 413")
            if chance.random() < 0.05:
                rejected += len(batch)
                raise Rejected("status 400")
            taken.extend(batch)

    async def run(run_number: int) -> LaneCounters:
        sink = Moody()
        async with spooling(
            sink,
            directory,
            share=chance.choice([64 << 10, MIB]),
            workers=chance.randint(1, 4),
            size=chance.choice([1, 1, 5]),
            wait=0.0,
            drain=chance.random() < 0.5,
        ) as lane:
            for _ in range(chance.randint(0, 30)):
                connections = [run_number * 10 + chance.randint(0, 5) for _ in range(chance.randint(1, 8))]
                batch = []
                for connection in connections:
                    batch.append(message(numbers[connection], connection=connection))
                    numbers[connection] += 1
                await lane.room()
                lane.offer(batch)
                offered.extend(batch)
                sink.mood = chance.choice([sink.mood, 0.0, 0.5, 1.0])
                for _ in range(chance.randint(0, 5)):
                    await asyncio.sleep(0)
                    assert balanced(lane.counters)
            await until(lambda: lane.counters.waiting == 0)
            sink.mood = chance.choice([0.0, 1.0])
        return lane.counters

    left = 0
    for number in range(4):
        counters = asyncio.run(run(number))
        assert counters.recovered == left
        left = counters.spooled
        assert sum(counters.dropped.values()) == 0
    assert ordered(taken)
    assert len(set(keys(taken))) == len(taken)  # here no process was killed
    assert len(taken) + rejected + left == len(offered)


# The daemon


SECRET = "s3cret-n0t-t0-be-0n-disk"
TOKEN = "t0ken-n0t-t0-be-0n-disk"


def nobody() -> str:
    """A URL where nobody listens."""
    with silent_server() as port:
        return f"http://127.0.0.1:{port}/"


def test_no_secret_is_on_disk(tmp_path: Path) -> None:
    """Header and query values that are redacted, and the token, are in no file of the spool; the bodies are."""
    request = captures.get(
        f"/in?sig={SECRET}", Authorization=f"Bearer {SECRET}", Cookie=f"a={SECRET}", X_Api_Key=SECRET
    )
    answer = captures.ok(b"the body of it", **{"Set-Cookie": f"sid={SECRET}"})
    file = captures.write(tmp_path / "x.pcap", captures.connection([(request, answer)] * 20))
    environ = {"OUTPUT_URL_AUTH_TOKEN": TOKEN, "SPOOL_DIR": str(tmp_path / "spool"), "DRAIN_TIMEOUT_MS": "100"}
    with Daemon("--ports", "8080", "--read", file, "--output-url", nobody(), environ=environ) as daemon:
        daemon.log("messages wait in the spool")
        daemon.offered("url", 40)  # the stop would end the reading of the file, too
        assert daemon.stop() == 0
        assert daemon.logs[-1]["lanes"]["url"]["spooled"] == 40
        assert SECRET not in "".join(daemon.stderr)
        assert TOKEN not in "".join(daemon.stderr)
    on_disk = b"".join(path.read_bytes() for path in (tmp_path / "spool").iterdir())
    assert b"the body of it" in on_disk
    assert b"[REDACTED]" in on_disk
    assert SECRET.encode() not in on_disk
    assert TOKEN.encode() not in on_disk


def test_exit_codes(tmp_path: Path) -> None:
    """A spool that is in use or cannot be made ends the start with exit code 2, a wrong size with 1; one error each."""
    (tmp_path / "file").write_text("a file")
    arguments = ("--ports", "8080", "--read", str(DEMO), "--output-url", nobody())
    with stored(tmp_path / "busy"):
        for directory, words in (
            ("busy", "in use by another process"),
            ("file", "File exists"),
            ("file/x", "directory"),
        ):
            with Daemon(*arguments, "--spool-dir", str(tmp_path / directory)) as daemon:
                assert daemon.end() == 2
                (error,) = [line["message"] for line in daemon.logs if line["level"] == "error"]
                assert error.startswith("spool_dir ")
                assert words in error
    with Daemon(*arguments, "--spool-dir", str(tmp_path / "spool"), "--spool-size", "1Ki") as daemon:
        assert daemon.end() == 1
        assert "spool_size" in "".join(daemon.stderr)
        assert not (tmp_path / "spool").exists()


def test_a_damaged_spool_does_not_keep_the_daemon_from_running(tmp_path: Path) -> None:
    """Garbage in place of the spool is set aside and counted; the daemon runs and spools everything."""
    (tmp_path / FILE).write_bytes(b"garbage" * 5000)
    arguments = ("--ports", "8080", "--read", str(DEMO), "--output-url", nobody(), "--stdout")
    with Daemon(*arguments, "--spool-dir", str(tmp_path), "--drain-timeout-ms", "100") as daemon:
        assert daemon.log("the spool is damaged: it is set aside, and a new one is begun")["level"] == "error"
        daemon.log("messages wait in the spool")
        daemon.offered("url", 14)
        assert daemon.stop() == 0
        assert len(daemon.messages) == 14
        assert daemon.logs[-1]["lanes"]["url"]["spooled"] == 14
        assert daemon.logs[-1]["ledger"]["spool_set_aside"] == 1
        assert not daemon.logged("the ledger does not balance")


@pytest.mark.parametrize("name", ["recovered", "spooled", "dropped_evicted"])
async def test_the_law_notices_each_broken_increment(tmp_path: Path, name: str) -> None:
    """If any one counter of the spool does not move the law is broken: no counter is derived from another."""

    def stuck(_self: LaneCounters, _value: int) -> None:
        pass

    async with spooling(Down(), tmp_path, store_size=MIB) as lane:
        lane.offer(messages(3))
        await settled(lane)
    broken = type("Broken", (LaneCounters,), {name: property(lambda _self: 0, stuck)})()
    store = Store(tmp_path, MIB)
    lane = Spooling(Down(), store, share=16 * MIB, counters=broken)
    await lane.open()
    held = []
    for number in range(150):
        lane.offer([message(number, connection=c, body="x" * 1000) for c in range(10)])
        await until(lambda: lane.counters.waiting == 0)
        held.append(balanced(broken))
    await lane.drain(time.monotonic())
    await lane.close()
    assert not all(held)
