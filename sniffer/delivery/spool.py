"""The spool: a source whose messages are on disk until the sink has taken them, across runs too.

    put --> unwritten (memory) -- one transaction after the other --> Store (SQLite) -- entries --> flights

What is on disk counts as `spooled`; what an earlier run left there is `recovered`. In memory are the messages that wait
to be written, an index of the next messages on disk (`Entry`), and copies of some of these. A disk that fails costs
durability and nothing else: messages then go to the sink from memory for as long as that keeps their order.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from sniffer.delivery.queues import ByConnection, Merging
from sniffer.delivery.retry import Again
from sniffer.delivery.sink import Reason, Record
from sniffer.delivery.sources import CUT_SECONDS, Flight, FlightOf, Source
from sniffer.delivery.store import Committed, Full, Row, Store, Stored, is_damage
from sniffer.delivery.threads import CallThread
from sniffer.errors import SnifferError

if TYPE_CHECKING:
    from sniffer.delivery.account import Outcome
    from sniffer.delivery.lane import Lane

log = logging.getLogger("sniffer.sinks")

PAUSE_SECONDS: Final = 1.0
"""After a failure the disk is left alone for so long."""
ACK_SECONDS: Final = 0.25
"""A message that is settled is deleted from the disk this much later at the latest."""
CLOSE_SECONDS: Final = 4.0
"""Closing takes no longer. With the default drain it ends within the grace period of Kubernetes."""

SCAN_ROWS: Final = 500
"""So many messages on disk are looked up at a time."""
ENTRY_BYTES: Final = 500
"""What an entry takes in memory, about."""


@dataclass(slots=True, eq=False)
class Entry:
    """A message on its way out: on disk under `id`, or, if that is 0, in memory alone."""

    id: int
    connection_id: str
    weight: int
    """Bytes of its JSON, about."""
    record: Record | None
    """None: it is read from the disk when it is needed."""
    held: int = 0
    """Bytes that `record` counts for."""
    over: bool = False
    """The message is settled."""


@dataclass(slots=True, eq=False)
class Delivery(FlightOf[Entry]):
    """A flight of messages that are on disk, or carried in memory while the disk fails."""

    _spool: Spool
    _taken: Sequence[Entry]
    """What was taken from the queue together; of these, those settled before the flight began are in no part."""

    async def load(self) -> Sequence[Record] | Again:
        """Reads what is not in memory from the disk, and leaves out what is settled."""
        return await self._spool.load(self)

    def settle(self, outcome: Outcome, cause: str = "", first: int = 0, last: int | None = None) -> None:
        """Ends messages, those that are not over."""
        self._spool.finish(self.part[first:last], outcome, cause)

    def give_up(self, reason: Reason, cause: str) -> bool:  # noqa: ARG002 - the tries are over either way
        """What is on disk stays there. Its connections stay blocked: nothing overtakes it."""
        self._spool.finish([entry for entry in self.part if not entry.id], "retries", cause)
        return False

    def hold_back(self) -> None:
        """Until the next try the messages are on disk alone."""
        self._spool.drop_copies(self.part)

    def release(self) -> None:
        """Gives back the copies and the connections."""
        self._spool.land(self, self._taken)

    def abandon(self) -> None:
        """What is on disk stays there."""
        self._spool.land(self, None)


class Spool(Source):
    """A source that keeps its messages in `store` until they are settled.

    `share` is the lane's share of memory in bytes: three eighths are for what waits to be written, one is for copies of
    what is on disk, a quarter for what is under way, a quarter for the index. `workers`, `size` and
    `wait` are those of `ByConnection`. `evict`: a full store makes room by dropping its oldest messages; otherwise the
    lane waits for room, which is right for files. `holds`: a store that cannot be used at all does not end the start,
    but counts as a disk that fails.
    """

    def __init__(
        self,
        store: Store,
        *,
        share: int,
        workers: int = 8,
        size: int = 1,
        wait: float = 0.0,
        evict: bool = True,
        holds: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._evict = evict
        self._holds = holds
        self._clock = clock
        self._disk = CallThread("sniffer spool")
        self._started = False
        self._unwritten: Merging[Record] = Merging(store.batch)
        self._writer: asyncio.Task[None] | None = None
        self._open = 0  # messages of the batch that is being written, while they are not accounted for
        flight_bytes = min(1 << 20, max(1, share // 4 // workers))
        self._entries: ByConnection[Entry] = ByConnection(workers=workers, size=size, wait=wait, max_bytes=flight_bytes)
        self.queue = self._entries
        self._deliveries: set[Delivery] = set()
        self._copies = self._copies_left = share // 8
        self._entries_left = max(1000, share // 4 // ENTRY_BYTES)
        self._carried: set[Entry] = set()  # those in memory alone
        self._acked: list[int] = []  # ids that are settled, and still on disk
        self._gone = 0  # up to this id nothing is left
        self._indexed = 0  # up to this id everything has its entry
        self._last = 0  # the id given last
        self._scan: asyncio.Task[None] | None = None
        self._deleting: asyncio.Task[None] | None = None
        self._committing = asyncio.Lock()
        self._not_before = 0.0  # the disk is left alone until then
        self._disk_failed = False
        self._disk_cause = ""
        self._known = False  # what the store holds is in the counters
        self._disk_counters = {"spool_set_aside": 0, "spool_failures": 0, "spool_bytes": 0}

    def disk_counters(self) -> dict[str, int]:
        """The counters of the disk, for the ledger."""
        return {**self._disk_counters, "spool_failing": int(self._disk_failed)}

    # As a source

    def attach(self, lane: Lane) -> None:
        """Works for this lane."""
        self._lane = lane
        self._account = lane.account
        self._counters = lane.counters

    async def open(self) -> None:
        """Opens the store. SnifferError where it cannot be used; a disk that fails does not end the start."""
        self._disk.start()
        self._started = True
        try:
            recovered = await self._disk.call(self._store.open)
        except (SnifferError, sqlite3.Error, OSError) as error:
            if isinstance(error, SnifferError) and not self._holds:
                raise
            self._degrade(error)
        else:
            self._found(recovered)
            fields = {"directory": str(self._store.directory), "recovered": recovered, "bytes": self._store.bytes}
            log.info("spool opened", extra={"fields": {"sink": self._lane.name, **fields}})
        self._lane.start()

    def room(self, share: int) -> int:
        """Three eighths, for what waits to be written."""
        return share * 3 // 8

    def put(self, batch: Sequence[Record], size: int) -> None:
        """Takes messages in: they are written in one of the next transactions."""
        self._unwritten.put(batch, size)
        if self._writer is None and (taken := self._unwritten.take()) is not None:
            self._writer = asyncio.create_task(self._write_all(taken), name=f"spool {self._lane.name}")

    def take(self) -> Flight | None:
        """The next flight. What was evicted since it was queued is left out."""
        while (taken := self._entries.take()) is not None:
            batch, _ = taken
            live = [entry for entry in batch if not self._is_over(entry)]
            if live:
                delivery = Delivery(None, live, self, batch)
                self._deliveries.add(delivery)
                return delivery
            self._release(batch)
        self._look()
        return None

    def clear(self) -> int:
        """Forgets what waits to be written."""
        return self._unwritten.clear()

    def drained(self) -> bool:
        """Whether everything is written, and all that the sink takes is delivered."""
        if self._lane.flying or self._writer is not None or self._scan is not None:
            return False
        # What is still carried in memory waits behind messages of its connection that were given up.
        self.finish(list(self._carried), "retries", "given up before")
        return not self._counters.waiting

    async def cut(self) -> None:
        """What is on disk stays there; what is not is dropped."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait((self._writer,), timeout=CUT_SECONDS)
        self._end_unwritten("deadline", self._open)
        self.finish(list(self._carried), "deadline")

    async def close(self) -> None:
        """Deletes from the disk what is settled, and closes the store."""
        if self._scan is not None:
            self._scan.cancel()
        if not self._started:
            return
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                if self._deleting is not None:
                    await self._deleting
                await self._delete()
                await self._disk.call(self._store.close)
        except (TimeoutError, sqlite3.Error, OSError) as error:
            fields: dict[str, object] = {"sink": self._lane.name, "cause": _cause(error)}
            log.warning("the spool does not close", extra={"fields": fields})
        self._disk.end()
        if self._counters.spooled:
            fields = {"sink": self._lane.name, "spooled": self._counters.spooled}
            log.info("messages stay in the spool", extra={"fields": fields})

    def report(self) -> None:
        """Logs again that the disk fails, for as long as it does."""
        if self._disk_failed:
            self._say_disk_failed()

    # Into the store

    async def _write_all(self, taken: tuple[Sequence[Record], int] | None) -> None:
        """Writes batches for as long as there are any."""
        try:
            while taken is not None:
                batch, size = taken
                self._open = len(batch)
                try:
                    await self._keep(batch)
                except BaseException:
                    self._end_unwritten("deadline", self._open)
                    raise
                finally:
                    self._account.bytes -= size
                    self._lane.tell()
                taken = self._unwritten.take() if self._lane.taking else None
        finally:
            self._writer = None

    async def _keep(self, batch: Sequence[Record]) -> None:
        """Writes a batch to the disk, or, where that fails, carries it to the sink in memory."""
        while self._open:
            if await self._write(batch):
                return
            if self._disk_failed and self._indexed >= self._last:
                self._carry(batch)  # everything older is queued already, so the order is kept
            elif self._lane.closed.is_set():
                self._end_unwritten("closed", len(batch))
            elif self._lane.gave_up:
                reason: Reason = "error" if self._disk_failed else "full"
                self._end_unwritten(reason, len(batch), "no room in the spool")
            else:
                self._lane.later("disk", PAUSE_SECONDS, self._lane.tell)
                await self._lane.change()

    async def _write(self, batch: Sequence[Record]) -> bool:
        done = await self._commit(batch)
        if done is None:
            return False
        caught_up = self._indexed >= self._last
        rows = [row for row in done.rows if row is not None]
        self._open -= len(rows)
        self._counters.waiting -= len(rows)
        self._counters.spooled += len(rows)
        self._end_unwritten("full", len(batch) - len(rows), "larger than a sixteenth of the spool")
        if rows:
            self._last = rows[-1].id
            if caught_up and self._entries_left >= len(rows) and self._copies_left >= 0:
                # Nothing else is on disk before them: they need not be read again.
                self._indexed = self._last
                pairs = zip(done.rows, batch, strict=True)
                self._enqueue([self._entry(row, record) for row, record in pairs if row is not None])
        self._lane.start()
        self._look()
        return True

    def _end_unwritten(self, outcome: Outcome, count: int, cause: str = "") -> None:
        """Ends messages of the batch that is being written."""
        count = min(count, self._open)
        if count:
            self._open -= count
            self._counters.waiting -= count
            self._account.end(outcome, count, cause)

    async def _commit(self, batch: Sequence[Record]) -> Committed | None:
        """One transaction: writes the batch, deletes what is settled. None where that was not possible."""
        async with self._committing:  # what is settled while it runs must be told from what it deletes
            if self._clock() < self._not_before:
                return None
            afresh = self._disk_failed and self._known and not self._counters.spooled
            done = await self._transact(batch, afresh=afresh)
            if done is None:
                return None
            if self._disk_failed:
                self._disk_failed = False
                log.info("the spool is written again", extra={"fields": {"sink": self._lane.name}})
            self._disk_counters["spool_bytes"] = self._store.bytes
            self._note(done)
            return done

    async def _transact(self, batch: Sequence[Record], *, afresh: bool) -> Committed | None:
        acked, self._acked = self._acked[: self._store.deletes], self._acked[self._store.deletes :]

        def commit() -> tuple[int, Committed]:
            if afresh:
                self._store.remake()
            return self._store.open(), self._store.commit(batch, acked, evict=self._evict)

        try:
            recovered, done = await self._disk.call(commit)
        except (Full, SnifferError, sqlite3.Error, OSError) as error:
            self._acked += acked
            if not isinstance(error, Full):
                await self._failed_disk(error)
            elif acked:
                await self._transact((), afresh=False)
            return None
        self._found(recovered)
        return done

    def _found(self, recovered: int) -> None:
        """The store is open, and so many messages of an earlier run are in it."""
        self._known = True
        self._disk_counters["spool_set_aside"] = self._store.set_aside
        self._disk_counters["spool_bytes"] = self._store.bytes
        if recovered:
            self._counters.recovered += recovered
            self._counters.spooled += recovered
            self._last = max(self._last, self._store.last)

    def _note(self, done: Committed) -> None:
        """Counts what was evicted. What was settled in the meantime is counted already."""
        if not done.evicted:
            return
        late = sum(number <= done.through for number in self._acked)
        if late:
            self._acked = [number for number in self._acked if number > done.through]
        self._gone = done.through
        self._indexed = max(self._indexed, self._gone)
        self._counters.spooled -= done.evicted - late
        self._account.drop("evicted", done.evicted - late, "the spool is full")
        for delivery in self._deliveries:
            if delivery.wait is not None and all(map(self._is_over, delivery.part)):
                delivery.wait.cancel()

    def _entry(self, row: Row, record: Record | None) -> Entry:
        """The entry of a message on disk, with a copy of it in memory where there is one."""
        held = 0 if record is None else record.weight
        self._copies_left -= held
        return Entry(row.id, row.connection_id, row.size, record, held)

    def _carry(self, batch: Sequence[Record]) -> None:
        """Queues messages that are in memory alone. They go on counting as waiting."""
        entries = [Entry(0, record.connection_id, record.weight, record, record.weight) for record in batch]
        self._open = 0
        self._account.bytes += sum(entry.held for entry in entries)
        self._carried.update(entries)
        self._enqueue(entries)
        self._lane.start()
        self._look()

    def _enqueue(self, entries: list[Entry]) -> None:
        self._entries_left -= len(entries)
        self._entries.put(entries, 0)

    # The disk fails

    async def _failed_disk(self, error: Exception) -> None:
        if not is_damage(error):
            self._degrade(error)
            return
        try:
            await self._disk.call(partial(self._store.put_aside, error))
        except (sqlite3.Error, OSError) as failure:
            self._degrade(failure)
        lost = self._counters.spooled
        self._disk_counters["spool_set_aside"] = self._store.set_aside
        self._last = max(self._last, self._store.last)
        self._gone = self._indexed = self._last
        self._acked.clear()
        self._counters.spooled = 0
        self._account.drop("error", lost, "the spool was damaged")

    def _degrade(self, error: BaseException) -> None:
        """The disk is left alone for a while. Logged at once, and by `report`."""
        self._disk_counters["spool_failures"] += 1
        self._not_before = self._clock() + PAUSE_SECONDS
        self._disk_cause = _cause(error)
        if not self._disk_failed:
            self._disk_failed = True
            self._say_disk_failed()

    def _say_disk_failed(self) -> None:
        log.error(
            "the spool cannot be written: messages are delivered without it",
            extra={"fields": {"sink": self._lane.name, "cause": self._disk_cause}},
        )

    # Out of the store

    def _look(self) -> None:
        """Looks for more on disk where the index has room, and it is of use."""
        if self._indexed < self._last and self._scan is None and self._entries_left >= SCAN_ROWS and self._lane.taking:
            room = self._copies_left if self._copies_left > self._copies // 2 else 0
            if room or self._lane.is_free:
                self._scan = asyncio.create_task(self._index(room))

    async def _index(self, room: int) -> None:
        """Makes entries of the next messages on disk, with copies of as many as `room` bytes hold."""
        try:
            found, last = await self._disk.call(lambda: self._store.scan(self._indexed, SCAN_ROWS, room))
        except (sqlite3.Error, OSError) as error:
            await self._failed_disk(error)
            self._scan = None
            self._lane.later("scan", PAUSE_SECONDS, self._look)
        else:
            self._scan = None
            self._enqueue([self._entry(row, stored) for row, stored in found if row.id > self._gone])
            self._indexed = max(self._indexed, last)
            self._lane.start()
            self._look()
        self._lane.tell()

    async def load(self, delivery: Delivery) -> Sequence[Record] | Again:
        """The records of a flight's part. They are read from the disk where they are not in memory."""
        missing = [entry for entry in delivery.part if entry.record is None and not self._is_over(entry)]
        if missing:
            try:
                found = await self._disk.call(partial(self._store.load, [entry.id for entry in missing]))
            except (sqlite3.Error, OSError) as error:
                await self._failed_disk(error)
                return Again("the spool cannot be read")
            self._fill(missing, found)
        delivery.part = [entry for entry in delivery.part if entry.record is not None]
        return [entry.record for entry in delivery.part if entry.record is not None]

    def _fill(self, entries: Sequence[Entry], found: Sequence[Stored | None]) -> None:
        for entry, stored in zip(entries, found, strict=True):
            if stored is not None:
                entry.record = stored
            elif not self._is_over(entry):
                self.finish([entry], "error", "damaged in the spool")

    # What becomes of entries

    def _is_over(self, entry: Entry) -> bool:
        return entry.over or 0 < entry.id <= self._gone

    def finish(self, entries: Sequence[Entry], outcome: Outcome, cause: str = "") -> None:
        """Ends messages, each in one counter, and has them deleted from the disk. Those that are over are left out."""
        count = 0
        for entry in entries:
            if self._is_over(entry):
                continue
            entry.over = True
            count += 1
            if entry.id:
                self._counters.spooled -= 1
                self._acked.append(entry.id)
            else:
                self._counters.waiting -= 1
                self._account.bytes -= entry.held
                self._carried.discard(entry)
        if count:
            self._account.end(outcome, count, cause)
            if self._acked:
                self._lane.later("delete", ACK_SECONDS, self._start_deleting)

    def drop_copies(self, entries: Sequence[Entry]) -> None:
        """Gives back the copies in memory of messages that are on disk."""
        for entry in entries:
            if entry.id:
                self._copies_left += entry.held
                entry.held, entry.record = 0, None

    def land(self, delivery: Delivery, taken: Sequence[Entry] | None) -> None:
        """A flight has ended. Where all of it is settled, `taken` is what it was made of."""
        self._deliveries.discard(delivery)
        if taken is not None:
            self._release(taken)
        self._look()

    def _release(self, batch: Sequence[Entry]) -> None:
        """A batch is over: its connections may go on."""
        self.drop_copies(batch)
        self._entries_left += len(batch)
        self._entries.done(batch)

    def _start_deleting(self) -> None:
        if self._deleting is None:
            self._deleting = asyncio.create_task(self._delete())

    async def _delete(self) -> None:
        """Deletes from the disk what is settled."""
        try:
            while self._acked and await self._commit(()) is not None:
                pass
            idle = not (self._writer is not None or self._acked or self._counters.spooled or self._disk_failed)
            if idle and self._store.bytes > self._store.limit * 4:
                await self._disk.call(self._store.remake)
                self._disk_counters["spool_bytes"] = self._store.bytes
        except (sqlite3.Error, OSError) as error:
            self._degrade(error)
        finally:
            self._deleting = None
            self._lane.tell()
            if self._acked:
                self._lane.later("delete", PAUSE_SECONDS, self._start_deleting)


def _cause(error: BaseException) -> str:
    """What is wrong with the disk, in a few words."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    if isinstance(error, SnifferError):
        return str(error)
    return f"{type(error).__name__}: {error}" if isinstance(error, sqlite3.Error) else type(error).__name__
