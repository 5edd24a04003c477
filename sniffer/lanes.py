"""One lane per sink, so that none delays another.

    pump -- offer(batch) --> Lane (bounded queue, workers, counters) -- deliver(batch) --> Sink

A lane never waits when it is offered messages: what does not fit is dropped, newest first, and counted. Each message
ends in exactly one counter of its lane, so that at any moment

    offered = delivered + rejected + dropped (by reason) + waiting

(A lane with a spool, `sniffer.spool`, has `spooled` on the right and `recovered` on the left besides.)

A lane can be one that gives way: what it costs is many times what the others do, so where the process comes to its
limits it takes nothing for a while, that the others lose nothing on its account (`Precedence`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, Literal, Protocol, cast

from sniffer.sinks import Reason, Record, Rejected, Sink, SinkClosed, TooLarge, Undelivered, where

log = logging.getLogger("sniffer.sinks")

CUT_SECONDS: Final = 0.25
"""A sink whose delivery is cancelled at the deadline gets this long to say what it has done."""
LOG_SECONDS: Final = 1.0
"""Losses of a lane are logged at most this often, with counts."""

CROWDED: Final = 4
"""A lane is crowded when this part of it, a fourth, is full."""
LITTLE: Final = 0.1
"""A lane that gives way may work for this part of the time while others are crowded: so little is no reason."""
WORK_SECONDS: Final = 0.25
"""Over about so long it is measured how much a lane has worked."""
LOOK_SECONDS: Final = 0.1
"""Lanes that give way do so for this long at least."""
YIELD_SECONDS: Final = 1.0
"""They go on after so long even where it has not helped; then after twice as long, each time."""
MOST_YIELD_SECONDS: Final = 30.0

Outcome = Reason | Literal["delivered", "rejected"]


@dataclass(slots=True)
class LaneCounters:
    """Messages by what became of them. Every one that was offered, or recovered, is in exactly one of the others."""

    offered: int = 0
    recovered: int = 0
    delivered: int = 0
    rejected: int = 0
    dropped_full: int = 0
    dropped_yielded: int = 0
    dropped_retries: int = 0
    dropped_deadline: int = 0
    dropped_closed: int = 0
    dropped_error: int = 0
    dropped_evicted: int = 0
    spooled: int = 0
    waiting: int = 0

    @property
    def dropped(self) -> dict[Reason, int]:
        """Messages dropped, by reason."""
        return {
            "full": self.dropped_full,
            "yielded": self.dropped_yielded,
            "retries": self.dropped_retries,
            "deadline": self.dropped_deadline,
            "closed": self.dropped_closed,
            "error": self.dropped_error,
            "evicted": self.dropped_evicted,
        }

    def drop(self, reason: Reason, count: int) -> None:
        """Counts messages as dropped."""
        if reason == "full":
            self.dropped_full += count
        elif reason == "yielded":
            self.dropped_yielded += count
        elif reason == "retries":
            self.dropped_retries += count
        elif reason == "deadline":
            self.dropped_deadline += count
        elif reason == "closed":
            self.dropped_closed += count
        elif reason == "evicted":
            self.dropped_evicted += count
        else:
            self.dropped_error += count


Taken = tuple[Sequence[Record], int]
"""A batch and its weight."""


class Queue(Protocol):
    """What waits in a lane, and in which batches it is taken."""

    workers: int
    """How many batches may be under way at the same time."""
    wait: float
    """Seconds from when something is `ripening` to the call of `ripen`."""

    def put(self, batch: Sequence[Record], size: int) -> None:
        """Adds messages whose weight is `size`."""

    def take(self) -> Taken | None:
        """The next batch to deliver, if there is one."""

    def done(self, batch: Sequence[Record]) -> None:
        """A batch that was taken is settled."""

    @property
    def ripening(self) -> bool:
        """There is something that only `ripen` makes ready."""

    def ripen(self, *, last: bool = False) -> None:
        """Time has passed; with `last` no more will come."""

    def clear(self) -> int:
        """Forgets what is queued; returns how many messages that was."""


class Batches:
    """A lane's queue of batches, in the order and the shape in which they were offered. One worker."""

    workers = 1
    wait = 0.0
    ripening = False

    def __init__(self) -> None:
        self._batches: deque[Taken] = deque()

    def put(self, batch: Sequence[Record], size: int) -> None:
        """Adds messages whose weight is `size`."""
        self._batches.append((batch, size))

    def take(self) -> Taken | None:
        """The next batch to deliver."""
        return self._batches.popleft() if self._batches else None

    def done(self, batch: Sequence[Record]) -> None:
        """A batch that was taken is settled."""

    def ripen(self, *, last: bool = False) -> None:
        """What waits for company waits no longer."""

    def clear(self) -> int:
        """Forgets what is queued; returns how many messages that was."""
        count = sum(len(batch) for batch, _ in self._batches)
        self._batches.clear()
        return count


class ByConnection:
    """A lane's queue for several workers: in order within a connection, concurrent across connections.

    Makes batches of up to `size` messages and about `max_bytes`; one that is smaller waits `wait` seconds for company.
    Messages of a connection stand together in a batch, and none is taken while earlier ones of it are under way.
    """

    def __init__(self, *, workers: int, size: int = 1, wait: float = 0.0, max_bytes: int = 1 << 20) -> None:
        self.workers = workers
        self.wait = wait
        self._size = size
        self._max_bytes = max_bytes
        # The weights too: a record that another lane has rendered in the meantime may weigh otherwise.
        self._connections: dict[str, deque[tuple[Record, int]]] = {}  # those with messages waiting or under way
        self._ready: deque[str] = deque()  # of these, the ones with messages waiting and none under way
        self._ripe = False

    def put(self, batch: Sequence[Record], size: int) -> None:  # noqa: ARG002 - each is weighed
        """Adds messages whose weight is `size`."""
        for record in batch:
            connection = record.connection_id
            waiting = self._connections.get(connection)
            if waiting is None:
                waiting = self._connections[connection] = deque()
                self._ready.append(connection)
            waiting.append((record, record.weight))

    @property
    def ripening(self) -> bool:
        """There are messages that wait for nothing but company."""
        return bool(self._ready) and not self._ripe

    def ripen(self, *, last: bool = False) -> None:  # noqa: ARG002 - once is enough
        """What waits for company waits no longer."""
        self._ripe = bool(self._ready)

    def take(self) -> Taken | None:
        """The next batch to deliver: a full one, or what there is once that is ripe."""
        if not self._ready or not (self._ripe or self._full()):
            return None
        batch: list[Record] = []
        size = 0
        while self._ready and len(batch) < self._size and size < self._max_bytes:
            waiting = self._connections[self._ready.popleft()]
            while waiting and len(batch) < self._size and size < self._max_bytes:
                record, weight = waiting.popleft()
                batch.append(record)
                size += weight
        self._ripe = self._ripe and bool(self._ready)
        return batch, size

    def done(self, batch: Sequence[Record]) -> None:
        """A batch that was taken is settled: its connections may go on."""
        for connection in dict.fromkeys([record.connection_id for record in batch]):
            if self._connections[connection]:
                self._ready.append(connection)
            else:
                del self._connections[connection]

    def clear(self) -> int:
        """Forgets what is queued; returns how many messages that was."""
        count = sum(map(len, self._connections.values()))
        for waiting in self._connections.values():
            waiting.clear()
        for connection in self._ready:
            del self._connections[connection]
        self._ready.clear()
        return count

    def _full(self) -> bool:
        count = 0
        for connection in self._ready:
            count += len(self._connections[connection])
            if count >= self._size:
                return True
        return False


def weigh(batch: Iterable[Record]) -> int:
    """The weight of a batch."""
    return sum([record.weight for record in batch])


@dataclass(slots=True, eq=False)
class Flight:
    """A batch under way. `open` of its messages are not accounted for yet."""

    open: int


class Lane:
    """The way to one sink: a bounded queue and its workers. Belongs to the loop; every method is called there.

    `max_bytes` bounds the weight of what waits, what is under way included; `max_messages` bounds its number.
    `gives_way`: it may be told to leave the processor to others (`Precedence`).
    """

    def __init__(
        self,
        sink: Sink,
        *,
        max_bytes: int,
        max_messages: int = 100_000,
        queue: Queue | None = None,
        counters: LaneCounters | None = None,
        gives_way: bool = False,
    ) -> None:
        self.sink = sink
        self.name = sink.name
        self.counters = LaneCounters() if counters is None else counters
        self.closed = asyncio.Event()
        """Set when the sink is gone before its time: everything offered from then on is dropped."""
        self._queue: Queue = Batches() if queue is None else queue
        self.max_bytes = max_bytes
        self.gives_way = gives_way
        self.yielding = False
        """It gives way now: whatever is offered is dropped, and no batch is begun."""
        self._yielded_before = 0
        self._yield_said = False
        self._max_messages = max_messages
        self._bytes = 0
        self._taking = True
        self._draining = False
        self._cutting = False
        self._promised = False
        self._flights: dict[asyncio.Task[None], Flight] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._roomy = asyncio.Event()
        self._ripening: asyncio.TimerHandle | None = None
        self._losses = _Losses(sink.name)

    async def open(self) -> None:
        """Opens the sink. Raises what the sink raises."""
        await self.sink.open()

    def offer(self, batch: Sequence[Record], size: int | None = None) -> None:
        """Takes a batch, or as much of its beginning as fits. Never waits. `size` is its `weigh`, where it is known."""
        count = len(batch)
        if not count:
            return
        self.counters.offered += count
        if not self._taking:
            self._drop("closed", count)
            return
        if self.yielding:
            self.counters.drop("yielded", count)
            return
        if size is None:
            size = weigh(batch)
        if not self._promised and not self._fits(count, size):
            batch, size = self._beginning(batch)
            self._drop("full", count - len(batch))
            count = len(batch)
            if not count:
                return
        self._promised = False
        self._bytes += size
        self.counters.waiting += count
        self._idle.clear()
        self._queue.put(batch, size)
        self._start()

    def failed(self, count: int) -> None:
        """Messages that should have been offered, but could not be made."""
        self.counters.offered += count
        self._drop("error", count)

    async def room(self) -> None:
        """Waits until half of the lane is free. The next offer is then taken whole, whatever its size.

        For whoever can wait: reading a file does, live capture never.
        """
        while self._taking and not (
            self._bytes <= self.max_bytes // 2 and self.counters.waiting <= self._max_messages // 2
        ):
            self._roomy.clear()
            await self._roomy.wait()
        self._promised = True

    async def batch_done(self, seconds: float) -> None:
        """Waits until a batch is settled, but no longer than this."""
        self._roomy.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._roomy.wait()

    async def drain(self, deadline: float | None = None) -> None:
        """Returns when every message is accounted for: at the latest at `deadline`, in `time.monotonic` seconds.

        What is not delivered by then is dropped, counted and logged with the lane's name. None sets no deadline: the
        end of a file. May be called again, also while it waits, with a deadline or an earlier one. What is offered
        after it has returned is dropped.
        """
        self._draining = True
        self.yielding = False
        if deadline is not None:
            self.sink.drain(deadline)
        self._start()
        try:
            async with asyncio.timeout(None if deadline is None else max(0.0, deadline - time.monotonic())):
                await self._settled()
        except TimeoutError:
            await self._cut()
        self._taking = False
        self._tell()
        self._losses.flush()

    async def close(self) -> None:
        """Closes the sink; call it after `drain`."""
        if self._ripening is not None:
            self._ripening.cancel()
        await self.sink.close()
        self._losses.flush()
        self._say_yielded()

    def report(self) -> None:
        """Called at every statistics interval: says what is still wrong."""
        self._say_yielded()

    @property
    def crowded(self) -> bool:
        """A fourth of it, or more, is full."""
        return self._bytes * CROWDED > self.max_bytes or self.counters.waiting * CROWDED > self._max_messages

    def give_way(self) -> None:
        """Takes nothing until `go_on`; what waits stays. Said once in each statistics interval."""
        if self._draining or self.yielding:
            return
        self.yielding = True
        if not self._yield_said:
            self._yield_said = True
            log.warning("an output gives way to the others: it gets a part of the messages", extra=self._named())

    def go_on(self) -> None:
        """Ends giving way."""
        if self.yielding:
            self.yielding = False
            self._start()

    def _say_yielded(self) -> None:
        yielded = self.counters.dropped_yielded - self._yielded_before
        self._yielded_before += yielded
        if yielded:
            log.warning("an output has given way to the others", extra=self._named(dropped=yielded))
        else:
            self._yield_said = False

    def _named(self, **more: object) -> dict[str, object]:
        return {"fields": {"sink": self.name, **more}}

    async def _settled(self) -> None:
        """Returns when nothing is left to wait for in a drain."""
        await self._idle.wait()

    def _fits(self, count: int, size: int) -> bool:
        return self._bytes + size <= self.max_bytes and self.counters.waiting + count <= self._max_messages

    def _beginning(self, batch: Sequence[Record]) -> tuple[Sequence[Record], int]:
        """As much of a batch as fits."""
        size = 0
        for count, record in enumerate(batch):
            more = size + record.weight
            if not self._fits(count + 1, more):
                return batch[:count], size
            size = more
        return batch, size

    @property
    def _ready(self) -> bool:
        return self._taking and not self.yielding

    def _start(self) -> None:
        """Sets idle workers to what is ready."""
        if self._draining:
            self._queue.ripen(last=True)
        while self._ready and len(self._flights) < self._queue.workers and (taken := self._queue.take()):
            flight = Flight(len(taken[0]))
            self._flights[asyncio.create_task(self._work(taken, flight), name=f"lane {self.name}")] = flight
        if self._queue.ripening and self._ripening is None:
            self._ripening = asyncio.get_running_loop().call_later(self._queue.wait, self._ripen)

    def _ripen(self) -> None:
        self._ripening = None
        self._queue.ripen()
        self._start()

    async def _work(self, taken: Taken | None, flight: Flight) -> None:
        """One worker: delivers batches for as long as there are any."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        while taken is not None:
            batch, size = taken
            flight.open = len(batch)
            try:
                await self._deliver(batch, flight)
            except BaseException:
                self._settle("deadline", flight.open, flight)
                self._flights.pop(task, None)
                raise
            finally:
                self._bytes -= size
                self._queue.done(batch)
                self._tell()
            if self.gives_way:  # its sink may work on the loop: then others have their turn after each batch
                await asyncio.sleep(0)
            taken = self._queue.take() if self._ready else None
            if taken is None:
                self._flights.pop(task, None)
            self._start()

    async def _deliver(self, batch: Sequence[Record], flight: Flight) -> None:
        count = len(batch)
        try:
            await self.sink.deliver(batch)
        except TooLarge as answer:
            if count == 1:
                self._settle("rejected", 1, flight, answer.cause)
                return
            await self._deliver(batch[: count // 2], flight)
            await self._deliver(batch[count // 2 :], flight)
        except Undelivered as answer:
            rest = count - answer.delivered - answer.failed
            self._settle("delivered", answer.delivered, flight)
            self._settle("error", answer.failed, flight, answer.cause)
            self._settle("rejected" if isinstance(answer, Rejected) else answer.reason, rest, flight, answer.cause)
            if isinstance(answer, SinkClosed):
                self._end(answer.cause)
        except Exception as error:  # a sink of somebody's own: whatever it raises, the lane goes on
            self._settle("error", count, flight, where(error))
        else:
            self._settle("delivered", count, flight)

    def _settle(self, outcome: Outcome, count: int, flight: Flight, cause: str = "") -> None:
        """Ends messages that are under way. What a flight that was left behind says later counts no more."""
        count = min(count, flight.open)
        if not count:
            return
        flight.open -= count
        self.counters.waiting -= count
        self._count(outcome, count, cause)

    def _count(self, outcome: Outcome, count: int, cause: str) -> None:
        """Puts messages that have ended into the counter of their end."""
        if outcome == "delivered":
            self.counters.delivered += count
        elif outcome == "rejected":
            self.counters.rejected += count
            self._losses.add("rejected", count, cause)
        else:
            self._drop(outcome, count, cause)

    def _drop(self, reason: Reason, count: int, cause: str = "") -> None:
        if count:
            self.counters.drop(reason, count)
            if reason != "closed":  # said once, by _end
                self._losses.add(reason, count, cause)

    def _tell(self) -> None:
        """Wakes who waits for room or for the end."""
        if self.counters.waiting == 0:
            self._idle.set()
        self._roomy.set()

    def _forget(self, reason: Reason) -> None:
        """Drops what is queued."""
        left = self._queue.clear()
        self.counters.waiting -= left
        self._drop(reason, left)

    def _end(self, cause: str) -> None:
        """The sink is gone."""
        if self._taking:
            self._taking = False
            self._forget("closed")
            self.closed.set()
            log.info("sink closed", extra={"fields": {"sink": self.name, "cause": cause}})

    async def _cut(self) -> None:
        """The deadline: drops what is queued, ends what is under way, and leaves behind what does not end."""
        if self._cutting:  # two drains have come to their deadline
            await self._idle.wait()
            return
        self._cutting = True
        self._taking = False
        before = self.counters.dropped_deadline
        self._forget("deadline")
        if self._flights:
            for task in self._flights:
                task.cancel()
            await asyncio.wait(list(self._flights), timeout=CUT_SECONDS)
        for flight in self._flights.values():
            self._settle("deadline", flight.open, flight)
        self._flights.clear()
        dropped = self.counters.dropped_deadline - before
        if dropped:
            log.warning("lane did not drain in time", extra={"fields": {"sink": self.name, "dropped": dropped}})


class Precedence:
    """Which lanes work where there is too little processor for all: some lanes give way to the others, at once.

    They give way when messages back up before the pump (`behind`), and when messages back up in a lane of the others
    while those that give way work for more than a little of the time. This is looked at with every batch, long before
    anything is full. They go on when nothing is backed up any more; and for a moment every now and then where that does
    not come, since a lane may be crowded because it waits for whoever reads it: then giving way helps nobody.
    """

    def __init__(self, behind: Callable[[], bool], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._behind = behind
        self._clock = clock
        self.firm: list[Lane] = []
        """Those that stand."""
        self.giving: list[Lane] = []
        """Those that give way."""
        self._making = 0.0
        """Seconds of processor time spent for those that give way, beside what their sinks say."""
        self._again: asyncio.TimerHandle | None = None
        self._until = 0.0
        """They go on at the latest then."""
        self._seconds = YIELD_SECONDS
        """How long they give way where it does not help."""
        self._marks = [(clock(), 0.0)] * 2
        """When those that give way had worked for how long: twice, the older first."""

    def add(self, lane: Lane) -> None:
        """One more lane."""
        (self.giving if lane.gives_way else self.firm).append(lane)

    @property
    def yielding(self) -> bool:
        """Whether they give way now."""
        return self._again is not None

    @contextmanager
    def working(self) -> Iterator[None]:
        """What is done within is done for those that give way."""
        before = time.thread_time()
        try:
            yield
        finally:
            self._making += time.thread_time() - before

    def look(self) -> None:
        """Called before each batch is offered."""
        if not self.giving or self.yielding:
            return
        share = self._share()
        if self.alone or not (self._behind() or (share > LITTLE and self._crowded())):
            return
        for lane in self.giving:
            lane.give_way()
        self._until = self._clock() + self._seconds
        self._again = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look_again)

    def close(self) -> None:
        """Nobody has to give way any more."""
        if self._again is not None:
            self._again.cancel()

    def _look_again(self) -> None:
        now = self._clock()
        if not self.alone and (self._behind() or self._crowded()):
            if now < self._until:
                self._again = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look_again)
                return
            self._seconds = min(2 * self._seconds, MOST_YIELD_SECONDS)
        else:
            self._seconds = YIELD_SECONDS
        self._again = None
        self._marks = [(now, self._worked())] * 2
        for lane in self.giving:
            lane.go_on()

    @property
    def alone(self) -> bool:
        """Whether there is nobody to give way to."""
        return all(lane.closed.is_set() for lane in self.firm)

    def _crowded(self) -> bool:
        return any(lane.crowded for lane in self.firm)

    def _worked(self) -> float:
        return self._making + sum(lane.sink.worked for lane in self.giving)

    def _share(self) -> float:
        """The part of the last moments for which the lanes that give way have worked."""
        now, worked = self._clock(), self._worked()
        since = now - self._marks[1][0]
        if since > WORK_SECONDS:  # nothing came for long: what was then says nothing of now
            self._marks = [self._marks[1] if since < 2 * WORK_SECONDS else (now, worked), (now, worked)]
        then, before = self._marks[0]
        return (worked - before) / max(now - then, 0.001)


class _Losses:
    """Says what a lane lost: at once, then at most once a second, in counts."""

    def __init__(self, sink: str) -> None:
        self._sink = sink
        self._counts: dict[str, int] = {}
        self._cause = ""
        self._timer: asyncio.TimerHandle | None = None

    def add(self, what: str, count: int, cause: str) -> None:
        self._counts[what] = self._counts.get(what, 0) + count
        self._cause = cause or self._cause
        if self._timer is None:
            self._say()
            self._timer = asyncio.get_running_loop().call_later(LOG_SECONDS, self._tick)

    def flush(self) -> None:
        """Says what has not been said yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._say()

    def _tick(self) -> None:
        self._timer = None
        self._say()

    def _say(self) -> None:
        if not self._counts:
            return
        fields: dict[str, object] = {"sink": self._sink, **self._counts}
        if self._cause:
            fields["cause"] = self._cause
        self._counts, self._cause = {}, ""
        log.warning("messages not delivered", extra={"fields": fields})
