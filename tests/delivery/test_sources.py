"""Sources: what a flight settles, and when; the same engine with memory and with a disk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sniffer.delivery.lane import Lane
from sniffer.delivery.queues import Batches, ByConnection
from sniffer.delivery.retry import Retries
from sniffer.delivery.sink import Failed, Record, Rejected, Retry, SinkClosed, TooLarge
from sniffer.delivery.sources import Flight, Memory
from sniffer.delivery.spool import Spool
from sniffer.delivery.store import Store
from tests.deliveries import Recorder, balanced, messages, settled
from tests.delivery.stores import MIB
from tests.waiting import until


def flying(count: int) -> tuple[Lane, Memory, Flight]:
    """A flight of so many messages of one connection, taken from a lane in which two more wait behind it."""
    source = Memory(ByConnection[Record](workers=1, size=count))
    lane = Lane(Recorder(), share=MIB, source=source)
    lane.yielding = True
    batch = messages(count + 2)
    lane.counters.offered = lane.counters.waiting = count + 2
    lane.account.bytes = sum(m.weight for m in batch)
    source.put(batch, lane.account.bytes)
    flight = source.take()
    assert flight is not None
    return lane, source, flight


async def test_parts_are_tried_in_order() -> None:
    """Halving twice leaves all parts of a flight, in order; going on ends behind the last one."""
    _, _, flight = flying(5)
    parts = []
    flight.halve()
    flight.halve()
    flight.tries = 3
    while True:
        parts.append(list(flight.records or ()))
        flight.settle("delivered")
        if not flight.go_on():
            break
        assert flight.tries == 0
    assert parts == [messages(1), messages(2)[1:], messages(5)[2:]]


async def test_a_flight_settles_each_message_once() -> None:
    """However much a sink says of a flight, no more is settled than is open, and the sum holds."""
    lane, _, flight = flying(4)
    flight.settle("delivered", last=2)
    flight.settle("error", "cause", 2, 3)
    flight.settle("rejected", "cause", 3, 99)
    flight.settle("delivered")
    counters = lane.counters
    assert (counters.delivered, counters.dropped_error, counters.rejected, counters.waiting) == (2, 1, 1, 2)
    assert balanced(counters)
    lane.account.flush()


async def test_an_abandoned_flight_is_settled_and_ignores_what_comes_late() -> None:
    """What is open is dropped for the deadline, once; results that come later change nothing."""
    lane, source, flight = flying(4)
    flight.settle("delivered", last=1)
    flight.abandon()
    flight.abandon()
    flight.settle("delivered")
    flight.release()
    counters = lane.counters
    assert (counters.delivered, counters.dropped_deadline, counters.waiting) == (1, 3, 2)
    assert balanced(counters)
    assert lane.account.bytes == sum(m.weight for m in messages(6)[4:])
    source.queue.ripen()
    assert source.take() is not None
    lane.account.flush()


async def test_connections_go_on_when_a_flight_is_released() -> None:
    """Later messages of a connection are taken when the flight, in however many parts, is released."""
    _, source, flight = flying(4)
    flight.halve()
    source.queue.ripen()
    assert source.take() is None
    flight.settle("delivered")
    assert flight.go_on()
    flight.settle("delivered")
    flight.release()
    source.queue.ripen()
    following = source.take()
    assert following is not None
    assert following.records == messages(6)[4:]


def in_memory(sink: Recorder, directory: Path) -> Lane:
    """A lane whose messages wait in memory."""
    return Lane(sink, share=16 * MIB, queue=Batches[Record](), retries=Retries(sleep=asyncio.sleep))


def on_disk(sink: Recorder, directory: Path) -> Lane:
    """A lane whose messages wait on disk."""
    spool = Spool(Store(directory, 16 * MIB), share=16 * MIB, workers=1, size=4)
    retries = Retries(until_final=True)
    return Lane(sink, source=spool, retries=retries, share=16 * MIB)


@pytest.mark.parametrize("make", [in_memory, on_disk])
@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([None], {"delivered": 4}),
        ([Rejected("status 400")], {"rejected": 4}),
        ([Failed("disk", delivered=1)], {"delivered": 1, "dropped_error": 3}),
        ([Failed("raised", delivered=1, failed=2)], {"delivered": 1, "dropped_error": 3}),
        ([TooLarge("413"), None, TooLarge("413"), Rejected("400"), None], {"delivered": 3, "rejected": 1}),
        ([SinkClosed("left", delivered=2)], {"delivered": 2, "dropped_closed": 2}),
        ([ValueError("a defect")], {"dropped_error": 4}),
    ],
)
async def test_an_answer_means_the_same_with_and_without_a_disk(
    make: Callable[[Recorder, Path], Lane],
    answers: list[BaseException | None],
    expected: dict[str, int],
    tmp_path: Path,
) -> None:
    """What a sink answers ends messages in the same counters, wherever they wait."""
    sink = Recorder(*answers)
    lane = make(sink, tmp_path)
    await lane.open()
    lane.offer(messages(4))
    counters = await settled(lane)
    await lane.close()
    found = {name: getattr(counters, name) for name in ("delivered", "rejected", "dropped_error", "dropped_closed")}
    assert {name: count for name, count in found.items() if count} == expected
    assert balanced(counters)
    assert (counters.waiting, counters.spooled) == (0, 0)


async def test_each_output_may_have_a_spool_of_its_own(tmp_path: Path) -> None:
    """Two lanes with stores in two directories: an outage of one sink leaves its messages, and no other's, on disk."""
    good, bad = Recorder(), Recorder(*[Retry("down")] * 99)
    lanes = [on_disk(good, tmp_path / "good"), on_disk(bad, tmp_path / "bad")]
    for lane in lanes:
        await lane.open()
        lane.offer(messages(8))
    await until(lambda: lanes[0].counters.delivered == 8 and lanes[1].counters.spooled == 8)
    for lane in lanes:
        await lane.drain(time.monotonic())
        await lane.close()
        assert balanced(lane.counters)
    again = on_disk(Recorder(), tmp_path / "bad")
    await again.open()
    assert again.counters.recovered == 8
    assert (await settled(again)).delivered == 8
    await again.close()
