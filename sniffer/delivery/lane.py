"""One lane per sink, so that none delays another.

    pump -- offer(batch) --> Lane -- put --> Source -- take --> Flight -- deliver(batch) --> Sink

A lane never waits when it is offered messages: what does not fit is dropped, newest first, and counted. Its workers
take flights from the source, give them to the sink, try them again by the rules of `sniffer.delivery.retry`, and settle
them. Each message ends in exactly one counter of its lane (`sniffer.delivery.account`).

A lane may be one that gives way: a message costs it many times what it costs the others. Where the process comes to its
limits, such a lane takes nothing for a while, so that the others lose nothing (`sniffer.delivery.precedence`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from sniffer.delivery.account import LOG_SECONDS, Account, LaneCounters
from sniffer.delivery.queues import Batches, Queue, weigh
from sniffer.delivery.retry import HALVES, PLACES, Again, GaveUp, Outage, Retries
from sniffer.delivery.sink import Reason, Record, Rejected, Retry, Sink, SinkClosed, TooLarge, Undelivered, trail, where
from sniffer.delivery.sources import CUT_SECONDS, Flight, Memory, Source
from sniffer.errors import SnifferError

log = logging.getLogger("sniffer.sinks")

CLOSE_SECONDS: Final = 2.0
"""How long a sink may take to close, in seconds. Those of this package take less; one of somebody else's may hang."""
CROWDED: Final = 4
"""A lane is crowded when this part of it, a fourth, is full."""


class Lane:
    """The way to one sink: bounds, workers, counters. Belongs to the event loop; every method is called there.

    `share`: bytes of memory that the lane may take. `max_bytes`, which follows from it, bounds the weight of what waits
    in memory, what is under way included; `max_messages` bounds its number.
    `source`: where messages wait; without one they wait in memory, in `queue`. `retries`: how batches are tried again;
    without it `Retry` is final. `gives_way`: the lane may be told to leave the processor to others.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        share: int,
        max_messages: int = 100_000,
        queue: Queue | None = None,
        source: Source | None = None,
        retries: Retries | None = None,
        counters: LaneCounters | None = None,
        gives_way: bool = False,
    ) -> None:
        self.sink = sink
        self.name = sink.name
        self.counters = LaneCounters() if counters is None else counters
        self.account = Account(sink.name, self.counters)
        self.closed = asyncio.Event()
        """Set when the sink is gone before its time: everything offered from then on is dropped."""
        self.gives_way = gives_way
        self.yielding = False
        """The lane gives way now: whatever is offered is dropped, and no flight is begun."""
        self.taking = True
        """False from the end of the drain on, or when the sink is gone: nothing more is taken in or begun."""
        self.draining = False
        self.gave_up = False
        """No flight is begun any more, since a drain has shown that the sink takes nothing."""
        self._max_messages = max_messages
        self._source: Source = Memory(Batches() if queue is None else queue) if source is None else source
        self._queue = self._source.queue
        self.allot(share)
        self._retries = Retries(further=0) if retries is None else retries
        self._outage: Outage | None = None
        self._slots: asyncio.Semaphore | None = None
        self._workers = self._places = self._queue.workers
        if self._retries.until_final:
            # What waits for its next try leaves its worker to others. So more may come back than there are workers.
            self._outage = Outage(sink.name, self.counters, self._retries.clock)
            self._slots = asyncio.Semaphore(self._workers)
            self._places = self._workers * PLACES
        self._flights: dict[Flight, asyncio.Task[None]] = {}
        self._held_back = 0  # of these, those that wait for their next try
        self._deadline: float | None = None
        self._cutting = False
        self._promised = False
        self._changed = asyncio.Event()
        self._watched = False  # somebody waits for the end of any flight; a drain waits for the last one
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._yielded_before = 0
        self._yield_said = False
        self._source.attach(self)

    def allot(self, share: int) -> None:
        """Sets how many bytes of memory the lane may take: the shares change as lanes come."""
        self.max_bytes = self._source.room(share)

    async def open(self) -> None:
        """Opens the sink and the source. Raises what they raise, but no exception that would end the loop."""
        try:
            await self.sink.open()
        except (SystemExit, GeneratorExit) as error:
            raise SnifferError(f"the output {self.name} cannot be opened: {where(error)}") from error
        await self._source.open()

    # Offers

    def offer(self, batch: Sequence[Record], size: int | None = None) -> None:
        """Takes a batch, or as much of its beginning as fits. Never waits. `size` is its `weigh`, where it is known."""
        count = len(batch)
        if not count:
            return
        self.counters.offered += count
        if not self.taking:
            self.account.drop("closed", count)
            return
        if self.yielding:
            self.counters.drop("yielded", count)
            return
        if size is None:
            size = weigh(batch)
        if not self._promised and not self._fits(count, size):
            batch, size = self._beginning(batch)
            self.account.drop("full", count - len(batch))
            count = len(batch)
            if not count:
                return
        self._promised = False
        self.account.bytes += size
        self.counters.waiting += count
        self._source.put(batch, size)
        self.start()

    def failed(self, count: int) -> None:
        """Counts messages that should have been offered, but could not be made."""
        self.counters.offered += count
        self.account.drop("error", count)

    async def room(self) -> None:
        """Waits until half of the lane is free. The next offer is then taken whole, whatever its size.

        For callers that can wait: the reading of a file does, live capture never.
        """
        while self.taking and not (
            self.account.bytes <= self.max_bytes // 2 and self.counters.waiting <= self._max_messages // 2
        ):
            await self.change()
        self._promised = True

    async def batch_done(self, seconds: float) -> None:
        """Waits until a flight has ended, but no longer than this."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.change()

    @property
    def crowded(self) -> bool:
        """Whether a fourth of the lane, or more, is full."""
        return self.account.bytes * CROWDED > self.max_bytes or self.counters.waiting * CROWDED > self._max_messages

    def _fits(self, count: int, size: int) -> bool:
        return self.account.bytes + size <= self.max_bytes and self.counters.waiting + count <= self._max_messages

    def _beginning(self, batch: Sequence[Record]) -> tuple[Sequence[Record], int]:
        """As much of a batch as fits, and its weight."""
        size = 0
        for count, record in enumerate(batch):
            more = size + record.weight
            if not self._fits(count + 1, more):
                return batch[:count], size
            size = more
        return batch, size

    # Giving way

    def give_way(self) -> None:
        """Takes nothing until `go_on`; what waits stays. Logged once in each statistics interval."""
        if self.draining or self.yielding:
            return
        self.yielding = True
        if not self._yield_said:
            self._yield_said = True
            log.warning("an output gives way to the others: it gets a part of the messages", extra=self._named())

    def go_on(self) -> None:
        """Ends giving way."""
        if self.yielding:
            self.yielding = False
            self.start()

    def report(self) -> None:
        """Called at every statistics interval: logs what is still wrong."""
        self._say_yielded()
        self._source.report()

    def _say_yielded(self) -> None:
        yielded = self.counters.dropped_yielded - self._yielded_before
        self._yielded_before += yielded
        if yielded:
            log.warning("an output has given way to the others", extra=self._named(dropped=yielded))
        else:
            self._yield_said = False

    def _named(self, **more: object) -> dict[str, object]:
        return {"fields": {"sink": self.name, **more}}

    # The end

    def hurry(self, deadline: float) -> None:
        """The sniffer stops: from now on no wait for a next try passes `deadline`, in `time.monotonic` seconds.

        At the first call the waits that are under way end at once, where the number of tries is bounded. May be called
        again, with an earlier deadline.
        """
        first = self._deadline is None
        self._deadline = deadline if self._deadline is None else min(deadline, self._deadline)
        if first and self._outage is None:
            self._end_waits()
        try:
            self.sink.drain(deadline)
        except Exception as error:  # the stop goes on
            self.account.raised(where(error), trail(error))

    async def drain(self, deadline: float | None = None) -> None:
        """Returns when every message is accounted for: at the latest at `deadline`, in `time.monotonic` seconds.

        What is not delivered by then is dropped, counted and logged with the lane's name, or stays in the spool. None
        sets no deadline: the end of a file. May be called again, also while it waits, with a deadline or an earlier
        one. What is offered after it has returned is dropped.
        """
        if deadline is not None:
            self.hurry(deadline)
        if not self.draining:
            self.draining = True
            if self._outage is not None:
                for flight in self._flights:
                    flight.tries = 0
                self._end_waits()
        self.yielding = False
        self.start()
        try:
            async with asyncio.timeout(None if deadline is None else max(0.0, deadline - time.monotonic())):
                while not self._source.drained():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            await self._cut()
        self.taking = False
        self.tell()
        self.account.flush()

    async def close(self) -> None:
        """Closes the source and the sink; call it after `drain`. A sink that does not close in time is left behind."""
        for timer in self._timers.values():
            timer.cancel()
        await self._source.close()
        closing = asyncio.create_task(self._close_sink())
        if (await asyncio.wait([closing], timeout=CLOSE_SECONDS))[1]:
            closing.cancel()
            log.warning("the output does not close in time", extra=self._named())
        elif closing.cancelled():
            raise SnifferError(f"the output {self.name} does not close: CancelledError")
        else:
            closing.result()
        self.account.flush()
        self._say_yielded()

    async def _close_sink(self) -> None:
        try:
            await self.sink.close()
        except (SystemExit, GeneratorExit) as error:  # in a task they would end the loop
            raise SnifferError(f"the output {self.name} does not close: {where(error)}") from error

    def _forget(self, reason: Reason) -> None:
        """Drops the messages that wait in the source and are not kept by it."""
        left = self._source.clear()
        self.counters.waiting -= left
        self.account.drop(reason, left)

    def _end(self, cause: str) -> None:
        """The sink is gone: the lane ends."""
        if self.taking:
            self.taking = False
            self._forget("closed")
            self.closed.set()
            log.info("sink closed", extra=self._named(cause=cause))

    async def _cut(self) -> None:
        """The deadline: drops what waits, ends what is under way, and abandons what does not end."""
        if self._cutting:  # two drains have come to their deadline
            while self.counters.waiting:
                await self.change()
            return
        self._cutting = True
        self.taking = False
        before = self.counters.dropped_deadline
        self._forget("deadline")
        if self._flights:
            for task in self._flights.values():
                task.cancel()
            await asyncio.wait(list(self._flights.values()), timeout=CUT_SECONDS)
        for flight in self._flights:
            flight.abandon()
        self._flights.clear()
        await self._source.cut()
        dropped = self.counters.dropped_deadline - before
        if dropped:
            log.warning("lane did not drain in time", extra=self._named(dropped=dropped))

    # What the source sees

    @property
    def flying(self) -> bool:
        """Whether any flight is under way."""
        return bool(self._flights)

    @property
    def is_free(self) -> bool:
        """Whether another flight may begin."""
        return (
            self.taking
            and not self.yielding
            and not self.gave_up
            and (count := len(self._flights)) < self._places
            and count - self._held_back < self._workers
        )

    def start(self) -> None:
        """Sets idle workers to what is ready."""
        if self.draining:
            self._queue.ripen(last=True)
        while len(self._flights) < self._places and self.is_free and (flight := self._source.take()) is not None:
            self._flights[flight] = asyncio.create_task(self._work(flight), name=f"lane {self.name}")
        if self._queue.ripening and "ripen" not in self._timers:
            self.later("ripen", self._queue.wait, self._ripen)

    def tell(self) -> None:
        """Something has changed: wakes those that wait in `change`, and the drain."""
        self._watched = False
        self._changed.set()

    async def change(self) -> None:
        """Waits until a flight has ended, or the source has news."""
        self._watched = True
        self._changed.clear()
        await self._changed.wait()

    def later(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        """Calls once, so many seconds later. Of the timers of one name there is only one at a time."""
        if name in self._timers or not self.taking:
            return

        def fire() -> None:
            del self._timers[name]
            call()

        self._timers[name] = asyncio.get_running_loop().call_later(seconds, fire)

    def _ripen(self) -> None:
        self._queue.ripen()
        self.start()

    # Workers

    async def _work(self, flight: Flight | None) -> None:
        """One worker: delivers flights for as long as there are any."""
        while flight is not None:
            try:
                again = await (self._try(flight) if self._slots is None else self._try_in_turn(flight, self._slots))
                settled = again is None or await self._try_further(flight, again)
            except BaseException:
                flight.abandon()
                self._flights.pop(flight, None)
                self.tell()
                raise
            if settled:
                flight.release()
            else:
                flight.abandon()
            if self.gives_way:  # its sink may work on the loop: then others have their turn after each flight
                await asyncio.sleep(0)
            task = self._flights.pop(flight, None)
            if task is None:  # it was left behind at the deadline
                self.tell()
                return
            flight = self._source.take() if self.is_free else None
            if flight is not None:
                self._flights[flight] = task
            if flight is None or self._watched:
                self.tell()
            self.start()

    async def _try_in_turn(self, flight: Flight, slots: asyncio.Semaphore) -> Again | None:
        """Tries once, when a worker's place is free."""
        async with slots:
            return await self._try(flight)

    async def _try(self, flight: Flight) -> Again | None:
        """Gives the part of a flight to the sink. None if it is settled by that.

        What is to be done next is returned, not raised: an exception would hold the batch while it waits.
        """
        batch = flight.records
        if batch is None:
            loaded = await flight.load()
            if isinstance(loaded, Again):
                return loaded
            if not loaded:
                return None
            batch = loaded
        try:
            await self.sink.deliver(batch)
        except Retry as answer:
            return Again(answer.cause, answer.after or 0.0)
        except TooLarge as answer:
            if len(batch) > 1:
                return HALVES
            flight.settle("rejected", answer.cause)
        except Undelivered as answer:
            self._settle_partly(flight, answer)
        except BaseException as error:  # a sink of somebody's own: whatever it raises, the lane goes on
            if isinstance(error, KeyboardInterrupt) or (isinstance(error, asyncio.CancelledError) and _is_cancelled()):
                raise
            self.account.raised(where(error), trail(error))
            flight.settle("error", where(error))
        else:
            flight.settle("delivered")
        if self._outage is not None:
            self._succeeded(self._outage)
        return None

    def _settle_partly(self, flight: Flight, answer: Undelivered) -> None:
        """Settles a part whose answer is final, and says how much of it was delivered all the same."""
        if answer.trail:
            self.account.raised(answer.cause, answer.trail)
        failed = answer.delivered + answer.failed
        flight.settle("delivered", last=answer.delivered)
        flight.settle("error", answer.cause, answer.delivered, failed)
        flight.settle("rejected" if isinstance(answer, Rejected) else answer.reason, answer.cause, failed)
        if isinstance(answer, SinkClosed):
            self._end(answer.cause)

    async def _try_further(self, flight: Flight, again: Again | None) -> bool:
        """Tries a flight until all of it is settled. False if tries have ended, and the source keeps the rest."""
        while True:
            if again is HALVES:
                flight.halve()
            elif again is not None:
                delay = self._delay(flight, again)
                if not isinstance(delay, str):
                    await self._wait(flight, delay)
                elif flight.give_up(delay, again.cause):
                    again = None
                else:
                    return False
            if again is None and not flight.go_on():
                return True
            again = await (self._try(flight) if self._slots is None else self._try_in_turn(flight, self._slots))

    def _delay(self, flight: Flight, again: Again) -> float | GaveUp:
        """A try of a part has failed. Seconds until the next one, or why there is none."""
        flight.hold_back()
        if self._outage is not None:
            self._outage.failed(again.cause)
            if not flight.tries:
                flight.successes = self._outage.successes
        flight.tries += 1
        delay = self._retries.delay(flight.tries, again.after, draining=self.draining, deadline=self._deadline)
        if isinstance(delay, str) and self._outage is not None and self._outage.successes == flight.successes:
            self.gave_up = True
        return delay

    async def _wait(self, flight: Flight, seconds: float) -> None:
        """Waits for the next try."""
        flight.wait = wait = asyncio.ensure_future(self._retries.sleep(seconds))
        self._held_back += 1
        self.start()  # its place may be free now
        try:
            await asyncio.wait((wait,))  # unlike awaiting it, this outlives its being cancelled
        finally:
            wait.cancel()
            flight.wait = None
            self._held_back -= 1

    def _end_waits(self) -> None:
        """Makes every flight that waits for its next try be tried now."""
        for flight in self._flights:
            if flight.wait is not None:
                flight.wait.cancel()

    def _succeeded(self, outage: Outage) -> None:
        """The sink gave a final answer. If all places were waiting, they are tried now."""
        if outage.is_said:
            self.later("again", LOG_SECONDS, outage.say_over)
        if outage.failures >= self._places:
            self._end_waits()
        outage.succeeded()


def _is_cancelled() -> bool:
    """Whether somebody cancels this task, and no sink raises a CancelledError by itself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
