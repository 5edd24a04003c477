"""One lane per sink, so that none delays another.

    pump -- offer(batch) --> Lane (bounded queue, workers, counters) -- deliver(batch) --> Sink

A lane never waits when it is offered messages: what does not fit is dropped, newest first, and counted. Each message
ends in exactly one counter of its lane, so that at any moment

    offered = delivered + rejected + dropped (by reason) + waiting

(A lane with a spool, `sniffer.delivery.spool`, has `spooled` on the right and `recovered` on the left besides.)

A lane can be one that gives way: what it costs is many times what the others do, so where the process comes to its
limits it takes nothing for a while, that the others lose nothing on its account (`sniffer.delivery.precedence`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal, cast

from sniffer.delivery.queues import Batches, Queue, Taken, weigh
from sniffer.delivery.sink import Reason, Record, Rejected, Sink, SinkClosed, TooLarge, Undelivered, where

log = logging.getLogger("sniffer.sinks")

CUT_SECONDS: Final = 0.25
"""A sink whose delivery is cancelled at the deadline gets this long to say what it has done."""
LOG_SECONDS: Final = 1.0
"""Losses of a lane are logged at most this often, with counts."""

CROWDED: Final = 4
"""A lane is crowded when this part of it, a fourth, is full."""

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
