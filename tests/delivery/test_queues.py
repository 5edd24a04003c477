"""Queues: order within a connection, concurrency across connections, the shape of batches."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Sequence

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from sniffer.delivery.queues import Batches, ByConnection
from sniffer.delivery.sink import Record, Rejected, Sink
from tests.deliveries import Recorder, Sent, lane_to, message, messages, settled
from tests.waiting import until


async def test_connections_are_served_side_by_side() -> None:
    """Connections are delivered side by side: a slow connection delays no other."""
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
    """While a message of a connection is under way its next message waits, however many workers are idle."""
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
    """When a batch ends, its connections go to all idle workers at once."""
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
    queue = ByConnection[Record](workers=1, size=100, max_bytes=3 * big[0].weight)
    queue.put([message(0, connection=connection, body="x" * 100_000) for connection in range(5)], 0)
    queue.ripen()
    taken = queue.take()
    rest = queue.take()
    assert taken is not None
    assert rest is not None
    assert (len(taken[0]), len(rest[0])) == (3, 2)


async def test_a_deadline_with_several_workers() -> None:
    """Every message is accounted for when several deliveries are cut at once."""
    sink = Recorder()
    sink.gate.clear()
    async with lane_to(sink, queue=ByConnection(workers=3)) as lane:
        lane.offer([message(number, connection=connection) for number in range(4) for connection in range(5)])
        await sink.called(3)
        await lane.drain(time.monotonic())
        assert lane.counters.dropped["deadline"] == 20


class Jittery(Sink):
    """Takes each batch after a random number of turns of the event loop, and refuses some."""

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
    """A message whose weight changes while it waits gives back exactly the bytes that it took."""

    class Growing(Sent, frozen=True, omit_defaults=True, rename="camel", dict=True):
        @property
        def weight(self) -> int:
            self.__dict__["weight"] = weight = self.__dict__.get("weight", 500) + 500
            return weight

    batch = [Growing(*msgspec.structs.astuple(m)) for m in messages(4)]
    async with lane_to(Recorder(), queue=ByConnection(workers=1, size=2)) as lane:
        lane.offer(batch, 4000)
        await until(lambda: not lane.counters.waiting)
        assert lane.account.bytes == 0
    assert batch[0].weight > 1000


def test_a_small_batch_waits_each_time() -> None:
    """After a small batch has waited and left, the next message waits for others again."""
    queue = ByConnection[Record](workers=1, size=3)
    queue.put(messages(1), 0)
    assert queue.take() is None
    assert queue.ripening
    queue.ripen()
    assert queue.take() is not None
    queue.put(messages(1, connection=1), 0)
    assert queue.take() is None


def test_what_a_full_batch_leaves_waits_for_company() -> None:
    """Messages that are left over from a full batch wait for others."""
    queue = ByConnection[Record](workers=1, size=2)
    queue.put([message(0, connection=connection) for connection in range(3)], 0)
    assert queue.take() is not None
    assert queue.take() is None


def test_queues_forget() -> None:
    """`clear` returns how many messages it forgot."""
    for queue in (Batches[Record](), ByConnection[Record](workers=2, size=2)):
        queue.put(messages(5), 0)
        queue.put(messages(3, connection=1), 0)
        taken = queue.take()
        assert taken is not None
        assert queue.clear() + len(taken[0]) == 8
        queue.done(taken[0])
        assert queue.take() is None
        queue.put(messages(2), 0)
        assert queue.take() is not None
