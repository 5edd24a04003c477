"""Durable delivery: what goes to a sink is kept on disk until the sink has taken it.

    pump -- offer --> waiting (memory) -- one transaction after the other --> spooled (SQLite) -- posts --> sink

`SpoolLane` is a lane with a disk in it. At any moment

    offered + recovered = delivered + rejected + dropped (by reason) + spooled + waiting

where `spooled` is safe on disk and `recovered` was found there at the start. `Store` is the disk: all of SQLite, called
on one thread. A disk that fails costs durability and nothing else: messages then go to the sink from memory, as from
any other lane, for as long as that keeps their order.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import random
import sqlite3
import stat
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast

from sniffer.delivery.lane import CUT_SECONDS, LOG_SECONDS, Flight, Lane, LaneCounters, Outcome
from sniffer.delivery.queues import Batches, ByConnection, Taken
from sniffer.delivery.retry import LONGEST_RETRY_AFTER, RETRY_DELAYS
from sniffer.delivery.sink import Record, Rejected, Retry, Sink, TooLarge, Undelivered, where
from sniffer.delivery.threads import CallThread
from sniffer.errors import SnifferError

if TYPE_CHECKING:
    from sniffer.message import HttpMessage

log = logging.getLogger("sniffer.sinks")

LEAST_SIZE: Final = 1 << 20
LONGEST_DELAY: Final = 30.0
"""Seconds between two tries of a batch, at the most, where the receiver asks for no longer wait."""
PLACES: Final = 4
"""For each delivery that may be under way, this many batches may wait for their next try."""
PAUSE_SECONDS: Final = 1.0
"""After a failure the disk is left alone for so long."""
ACK_SECONDS: Final = 0.25
"""What was delivered is deleted from the disk this much later at the latest."""
CLOSE_SECONDS: Final = 4.0
"""Closing takes no longer: with the default drain it ends within Kubernetes' grace period."""
FAILING_SECONDS: Final = 60.0
"""That a collector still fails is said this often."""

SCAN_ROWS: Final = 500
ENTRY_BYTES: Final = 500
"""What an entry takes in memory, about."""

FILE: Final = "spool.db"
ASIDE: Final = "spool.db.damaged"
LOCK: Final = "spool.lock"
APPLICATION: Final = 0x54435053  # "TCPS"
VERSION: Final = 1
PAGE: Final = 8192
LARGEST_WAL: Final = 16 << 20
DAMAGED: Final = frozenset((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB))
TABLE: Final = (
    "CREATE TABLE messages (id INTEGER PRIMARY KEY, connection TEXT NOT NULL, exchange INTEGER NOT NULL,"
    " direction TEXT NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL)"
)
SCAN: Final = "SELECT id, connection, length(body) FROM messages WHERE id > ? ORDER BY id LIMIT ?"
SCAN_WHOLE: Final = (
    "SELECT id, connection, exchange, direction, body, crc FROM messages WHERE id > ? ORDER BY id LIMIT ?"
)
LOAD: Final = "SELECT connection, exchange, direction, body, crc FROM messages WHERE id = ?"


class Damaged(Exception):
    """What is on disk cannot be read as a spool."""


class Stored(NamedTuple):
    """A message as it comes back from the disk: a `Record`."""

    connection_id: str
    exchange: int
    direction: Literal["request", "response"]
    body: bytes

    def to_json(self) -> bytes:
        """The message as JSON, as it was when it was stored."""
        return self.body

    @property
    def idempotency_key(self) -> str:
        """The same as before."""
        return f"{self.connection_id}-{self.exchange}-{self.direction}"

    @property
    def weight(self) -> int:
        """About what it takes in memory."""
        return len(self.body) + 300

    @property
    def message(self) -> HttpMessage:
        """There is none: a spool keeps the JSON alone."""
        raise NotImplementedError


class Row(NamedTuple):
    """What is known of a stored message without reading its body."""

    id: int
    connection_id: str
    size: int


class Committed(NamedTuple):
    """What one transaction did: for each message its row, None where it is too large for the spool; `evicted` older
    ones went, up to the id `through`.
    """

    rows: list[Row | None]
    evicted: int
    through: int


class Full(Exception):
    """There is no room, and nothing may be deleted for it."""


class Store:
    """The spool's files in one directory: at most `size` bytes in all. Every method is called on one thread.

    SQLite in WAL mode with synchronous=NORMAL: a transaction is written to the log without waiting for the disk, which
    is synchronised when the log is copied into the database. So a process that is killed loses nothing that was
    committed; a machine that loses power may lose the last transactions, but never gets a damaged file.
    """

    def __init__(self, directory: Path, size: int) -> None:
        self.directory = directory
        self.last = 0
        """The id given last."""
        self.bytes = 0
        """What the files take."""
        self.set_aside = 0
        self.limit = size // 16
        """Bytes of the largest message that is kept."""
        # The log is copied into the database when it is as long as this; one transaction may add twice as much.
        self._wal = min(LARGEST_WAL, size // 32)
        self.batch = self._wal // 2
        """Bytes that one transaction should write."""
        self.deletes = max(1, self._wal // PAGE)
        """Deletions that one transaction should make."""
        self._pages = (size - 3 * self._wal) // PAGE - 16
        self._file = directory / FILE
        self._lock = -1
        self._db: sqlite3.Connection | None = None

    def open(self) -> int:
        """Opens the spool, makes it where there is none, and returns how many messages are in it.

        SnifferError where that can never succeed: no such right, a directory that is none, another process that has it.
        sqlite3.Error and OSError where the disk fails: a later try may succeed. A file that is no spool is set aside.
        """
        self._take_lock()
        if self._db is None:
            try:
                self._check_file()
                self._connect()
                return self._survey()
            except (Damaged, sqlite3.DatabaseError) as error:
                if not is_damage(error):
                    raise
                self.put_aside(error)
        return 0

    def close(self) -> None:
        """Closes the files and gives the lock back."""
        self._disconnect()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def commit(self, records: Sequence[Record], done: Sequence[int], *, evict: bool = True) -> Committed:
        """Writes messages and deletes those of the ids `done`, in one transaction.

        Makes room by deleting the oldest ones; raises Full instead where `evict` is false.
        """
        db = self._connected()
        rows: list[Row | None] = []
        values = []
        number, size = self.last, 0
        for record in records:
            body = record.to_json()
            if len(body) > self.limit:
                rows.append(None)
                continue
            number += 1
            size += _room(len(body))
            rows.append(Row(number, record.connection_id, len(body)))
            values.append((number, record.connection_id, record.exchange, record.direction, zlib.crc32(body), body))
        evicted = through = 0
        db.execute("BEGIN IMMEDIATE")
        try:
            db.executemany("DELETE FROM messages WHERE id = ?", [(each,) for each in done])
            if values:
                evicted, through = self._make_room(db, size // PAGE + 2, evict=evict)
                db.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?)", values)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        self.last = number
        self._measure()
        return Committed(rows, evicted, through)

    def scan(self, after: int, count: int, room: int) -> tuple[list[tuple[Row, Stored | None]], int]:
        """The oldest `count` messages behind the id `after`, or as many as fit into `room` bytes of memory, and up to
        which id these are all that there is. With no room, and for a first one that does not fit: without the message.
        """
        db = self._connected()
        found: list[tuple[Row, Stored | None]] = []
        if not room:
            found = [(Row(*row), None) for row in db.execute(SCAN, (after, count))]
        else:
            for number, *columns in db.execute(SCAN_WHOLE, (after, count)):
                stored = _stored(columns)
                row = Row(number, columns[0], len(columns[3]))
                weight = row.size if stored is None else stored.weight
                if weight > room:
                    if not found:
                        found.append((row, None))
                    return found, found[-1][0].id
                room -= weight
                found.append((row, stored))
        return found, found[-1][0].id if len(found) == count else self.last

    def load(self, ids: Iterable[int]) -> list[Stored | None]:
        """The messages with these ids; None for each that is gone or damaged."""
        db = self._connected()
        return [self._load(db, number) for number in ids]

    def put_aside(self, cause: BaseException) -> None:
        """Renames what is there, in place of what was put aside before, and begins a new spool."""
        self._disconnect()
        for file, aside in zip(_files(self._file), _files(self.directory / ASIDE), strict=True):
            with contextlib.suppress(FileNotFoundError):
                file.replace(aside)
        self.set_aside += 1
        log.error(
            "the spool is damaged: it is set aside, and a new one is begun",
            extra={"fields": {"file": str(self.directory / ASIDE), "cause": str(cause)}},
        )
        self._connect()

    def remake(self) -> None:
        """Begins a new spool where nothing of the old one is needed: what is free in it goes back to the disk."""
        self._disconnect()
        for file in _files(self._file):
            file.unlink(missing_ok=True)
        self._connect()

    def _take_lock(self) -> None:
        if self._lock >= 0:
            return
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            lock = os.open(self.directory / LOCK, flags, 0o600)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
            raise SnifferError(f"spool_dir {self.directory} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise SnifferError(f"spool_dir {self.directory} is in use by another process") from error
        self._lock = lock
        mode = self.directory.stat().st_mode
        # A mount point with open rights is how Kubernetes gives a pod a volume of its own.
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX and not self.directory.is_mount():
            log.warning("others may write to spool_dir", extra={"fields": {"directory": str(self.directory)}})

    def _check_file(self) -> None:
        """Another user's file, or what is no file, is not opened; nobody else may read ours."""
        try:
            found = self._file.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise Damaged("it is not a file of ours")
        for file in _files(self._file):
            with contextlib.suppress(FileNotFoundError):
                file.chmod(0o600)

    def _connect(self) -> None:
        try:
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(self._file, isolation_level=None, cached_statements=16)
            self._set_up(self._db)
        except BaseException:
            self._disconnect()
            raise
        self._measure()

    def _set_up(self, db: sqlite3.Connection) -> None:
        for pragma in (
            f"page_size = {PAGE}",
            "locking_mode = EXCLUSIVE",  # no file of shared memory
            "journal_mode = WAL",
            "synchronous = NORMAL",
            "trusted_schema = OFF",
            "cell_size_check = ON",
            "temp_store = MEMORY",
            "cache_size = -1024",
            f"journal_size_limit = {self._wal}",
            f"wal_autocheckpoint = {max(1, self._wal // PAGE)}",
            f"max_page_count = {self._pages}",
        ):
            db.execute(f"PRAGMA {pragma}").fetchall()
        if not self._pragma("schema_version"):
            db.execute("BEGIN IMMEDIATE")
            db.execute(TABLE)
            db.execute(f"PRAGMA application_id = {APPLICATION}")
            db.execute(f"PRAGMA user_version = {VERSION}")
            db.execute("COMMIT")

    def _survey(self) -> int:
        """Looks at every row, so that what is damaged shows now; how many there are."""
        if self._pragma("application_id") != APPLICATION or self._pragma("user_version") != VERSION:
            raise Damaged("it is of another program or version")
        db = self._connected()
        if db.execute("SELECT sql FROM sqlite_schema").fetchall() != [(TABLE,)]:
            raise Damaged("it holds something else")
        if db.execute("PRAGMA quick_check(1)").fetchall() != [("ok",)]:
            raise Damaged("its structure is broken")
        count, self.last = db.execute("SELECT count(*), coalesce(max(id), 0) FROM messages").fetchone()
        return int(count)

    def _connected(self) -> sqlite3.Connection:
        if self._db is None:
            raise sqlite3.OperationalError("the spool is not open")
        return self._db

    def _disconnect(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()

    def _pragma(self, name: str) -> int:
        return int(self._connected().execute(f"PRAGMA {name}").fetchone()[0])

    def _free(self) -> int:
        return self._pages - self._pragma("page_count") + self._pragma("freelist_count")

    def _make_room(self, db: sqlite3.Connection, pages: int, *, evict: bool) -> tuple[int, int]:
        """Deletes the oldest messages until so many pages are free: (how many, up to which id)."""
        evicted = through = 0
        while self._free() < pages:
            if not evict:
                raise Full
            wanted = max(pages - self._free(), self._pages // 128) * PAGE
            oldest = []
            for number, size in db.execute("SELECT id, length(body) FROM messages ORDER BY id"):
                oldest.append((number,))
                wanted -= size
                if wanted < 0:
                    break
            if not oldest:
                break
            db.executemany("DELETE FROM messages WHERE id = ?", oldest)
            evicted += len(oldest)
            through = oldest[-1][0]
        return evicted, through

    def _load(self, db: sqlite3.Connection, number: int) -> Stored | None:
        row = db.execute(LOAD, (number,)).fetchone()
        return None if row is None else _stored(row)

    def _measure(self) -> None:
        self.bytes = 0
        for file in _files(self._file):
            with contextlib.suppress(FileNotFoundError):
                self.bytes += file.stat().st_size


def _stored(columns: Sequence[Any]) -> Stored | None:
    """A message from its columns; None where its bytes have changed."""
    *fields, crc = columns
    return Stored(*fields) if zlib.crc32(fields[3]) == crc else None


def _files(database: Path) -> list[Path]:
    """A database and the log beside it."""
    return [database, database.with_name(f"{database.name}-wal")]


def _room(size: int) -> int:
    """Bytes that a message of so many takes in pages, at the most."""
    if size < PAGE // 4:
        return size + size // 4 + 100
    return (size // PAGE + 2) * PAGE if size > PAGE // 2 else size * 2


def is_damage(error: BaseException) -> bool:
    """Whether an error says that the file is no good, rather than that the disk is."""
    if isinstance(error, Damaged):
        return True
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in DAMAGED


@dataclass(slots=True, eq=False)
class Entry:
    """A message on its way out of a spool lane: on disk under `id`, or, where that is 0, in memory alone."""

    id: int
    connection_id: str
    weight: int
    """Bytes of its JSON, about."""
    record: Record | None
    """None: it is read from the disk when it is needed."""
    held: int = 0
    """Bytes that `record` counts for."""
    over: bool = False


@dataclass(slots=True, eq=False)
class Post:
    """A batch under way, or waiting for its next try."""

    batch: Sequence[Entry]
    tries: int = 0
    successes: int = 0
    """Of the lane, when the first of the tries failed."""
    wait: asyncio.Future[object] | None = None


class Again(NamedTuple):
    """A batch needs a further try, no earlier than `after` seconds from now."""

    cause: str
    after: float = 0.0


HALVES: Final = Again("too large")
"""At once, in halves."""


class _Merging(Batches):
    """A queue that gives what waits in batches as large as one transaction should be."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def put(self, batch: Sequence[Record], size: int) -> None:
        """Adds messages whose weight is `size`, in parts."""
        first = part = 0
        for number, record in enumerate(batch if size > self._size else ()):
            weight = record.weight
            if number > first and part + weight > self._size:
                super().put(batch[first:number], part)
                size -= part
                first, part = number, 0
            part += weight
        super().put(batch[first:], size)

    def take(self) -> Taken | None:
        """The next batches, as one."""
        taken = super().take()
        if taken is None:
            return None
        batch, size = taken
        merged = list(batch)
        while self._batches and size + self._batches[0][1] <= self._size:
            more, weight = self._batches.popleft()
            merged += more
            size += weight
        return merged, size


class SpoolLane(Lane):
    """A lane that keeps its messages in `store` until the sink has taken them; across runs too.

    The sink is tried until its answer is final, or the message is evicted: after 1, 2, 4 ... 30 s (each wait shortened
    at random by up to half, so that many sniffers do not come back at once), or what the receiver asked for where that
    is longer. What waits for its next try blocks its own connections only. `workers`, `size` and `wait` are those of
    `ByConnection`. With `evict` false the lane waits for room in the store, and evicts nothing: for files. With `holds`
    a store that cannot be used at all is a disk that fails, and ends no start.

    In a drain what waits is tried at once, and then three times more, after 1, 2 and 4 s; what still fails stays in the
    spool.
    """

    def __init__(
        self,
        sink: Sink,
        store: Store,
        *,
        max_bytes: int,
        workers: int = 8,
        size: int = 1,
        wait: float = 0.0,
        evict: bool = True,
        holds: bool = False,
        counters: LaneCounters | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        # Three eighths wait to be written, one are copies of what is written, a quarter is under way, one an index.
        super().__init__(sink, max_bytes=max_bytes * 3 // 8, queue=_Merging(store.batch), counters=counters)
        self._store = store
        self._disk = CallThread("sniffer spool")
        self._out = ByConnection(
            workers=workers, size=size, wait=wait, max_bytes=min(1 << 20, max(1, max_bytes // 4 // workers))
        )
        self._evict = evict
        self._holds = holds
        self._clock = clock
        self._sleep = sleep
        self._chance = chance
        self._slots = asyncio.Semaphore(workers)
        self._copies = self._copies_left = max_bytes // 8
        self._entries_left = max(1000, max_bytes // 4 // ENTRY_BYTES)
        self._carried: set[Entry] = set()  # those in memory alone
        self._posts: dict[asyncio.Task[None], Post] = {}
        self._held_back = 0  # of these, those that wait for their next try
        self._acked: list[int] = []  # delivered, and still on disk
        self._gone = 0  # up to this id nothing is left
        self._indexed = 0  # up to this id everything has its entry
        self._last = 0
        self._scan: asyncio.Task[None] | None = None
        self._flush: asyncio.Task[None] | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._turn = asyncio.Event()
        self._not_before = 0.0  # the disk is left alone until then
        self._disk_failed = False
        self._disk_cause = ""
        self._known = False  # what the spool holds is in the counters
        self._writing = asyncio.Lock()
        self._failed = 0  # times, with no success in between
        self._failing_said: float | None = None
        self._successes = 0
        self._deadline: float | None = None
        self._gave_up = False
        self._disk_counters = {"spool_set_aside": 0, "spool_failures": 0, "spool_bytes": 0}

    def disk_counters(self) -> dict[str, int]:
        """The counters of the disk, for the ledger."""
        return {**self._disk_counters, "spool_failing": int(self._disk_failed)}

    def report(self) -> None:
        """Says again that the disk fails, for as long as it does."""
        if self._disk_failed:
            self._say_disk_failed()

    async def open(self) -> None:
        """Opens the sink and the spool. SnifferError where the spool cannot be used; a disk that fails is none."""
        self._disk.start()
        await super().open()
        try:
            recovered = await self._disk.call(self._store.open)
        except (SnifferError, sqlite3.Error, OSError) as error:
            if isinstance(error, SnifferError) and not self._holds:
                raise
            self._degrade(error)
        else:
            self._found(recovered)
            fields = {"directory": str(self._store.directory), "recovered": recovered, "bytes": self._store.bytes}
            log.info("spool opened", extra={"fields": {"sink": self.name, **fields}})
        self._feed()

    async def drain(self, deadline: float | None = None) -> None:
        """As any lane's; what is in the spool when the sink does not take it stays there, and is not lost."""
        if deadline is not None:
            self._deadline = deadline if self._deadline is None else min(deadline, self._deadline)
        if not self._draining:
            self._draining = True
            for post in self._posts.values():
                post.tries = 0
                if post.wait is not None:
                    post.wait.cancel()
        self._feed()
        await super().drain(deadline)

    async def close(self) -> None:
        """Notes on disk what was delivered, and closes the spool and the sink."""
        for timer in self._timers.values():
            timer.cancel()
        if self._scan is not None:
            self._scan.cancel()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                if self._flush is not None:
                    await self._flush
                await self._delete()
                await self._disk.call(self._store.close)
        except (TimeoutError, sqlite3.Error, OSError) as error:
            log.warning("the spool does not close", extra={"fields": {"sink": self.name, "cause": _cause(error)}})
        self._disk.end()
        if self.counters.spooled:
            log.info(
                "messages stay in the spool", extra={"fields": {"sink": self.name, "spooled": self.counters.spooled}}
            )
        await super().close()

    # Into the spool

    async def _deliver(self, batch: Sequence[Record], flight: Flight) -> None:
        """Writes a batch to the disk, or, where that fails, gives it to the sink from memory."""
        while flight.open:
            if await self._write(batch, flight):
                return
            if self._disk_failed and self._indexed >= self._last:
                # Everything older is in the queue already: the order is kept.
                self._carry(batch, flight)
            elif self._gave_up:
                self._settle("error" if self._disk_failed else "full", len(batch), flight, "no room in the spool")
            else:
                self._turn.clear()
                self._later("disk", PAUSE_SECONDS, self._turn.set)
                await self._turn.wait()

    async def _write(self, batch: Sequence[Record], flight: Flight) -> bool:
        done = await self._commit(batch)
        if done is None:
            return False
        caught_up = self._indexed >= self._last
        rows = [row for row in done.rows if row is not None]
        flight.open -= len(rows)
        self.counters.waiting -= len(rows)
        self.counters.spooled += len(rows)
        self._settle("full", len(batch) - len(rows), flight, "larger than a sixteenth of the spool")
        if rows:
            self._last = rows[-1].id
            if caught_up and self._entries_left >= len(rows) and self._copies_left >= 0:
                # Nothing else is on disk before them: reading them again is saved.
                self._indexed = self._last
                pairs = zip(done.rows, batch, strict=True)
                self._put([self._entry(row, record) for row, record in pairs if row is not None])
        self._feed()
        return True

    async def _commit(self, batch: Sequence[Record]) -> Committed | None:
        """One transaction: writes the batch, deletes what was delivered. None where that was not possible."""
        async with self._writing:  # what is delivered while it runs is told from what it deletes
            if self._clock() < self._not_before:
                return None
            done = await self._transact(batch, afresh=self._disk_failed and self._known and not self.counters.spooled)
            if done is None:
                return None
            if self._disk_failed:
                self._disk_failed = False
                log.info("the spool is written again", extra={"fields": {"sink": self.name}})
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
        """The spool is open, and so many messages are in it."""
        self._known = True
        self._disk_counters["spool_set_aside"] = self._store.set_aside
        self._disk_counters["spool_bytes"] = self._store.bytes
        if recovered:
            self.counters.recovered += recovered
            self.counters.spooled += recovered
            self._last = max(self._last, self._store.last)

    def _note(self, done: Committed) -> None:
        """Counts what was evicted; what was delivered in the meantime is counted already."""
        if not done.evicted:
            return
        late = sum(number <= done.through for number in self._acked)
        if late:
            self._acked = [number for number in self._acked if number > done.through]
        self._gone = done.through
        self._indexed = max(self._indexed, self._gone)
        self.counters.spooled -= done.evicted - late
        self._drop("evicted", done.evicted - late, "the spool is full")
        for post in self._posts.values():
            if post.wait is not None and all(map(self._is_over, post.batch)):
                post.wait.cancel()

    def _entry(self, row: Row, record: Record | None) -> Entry:
        """The entry of a message on disk, with a copy of it in memory where there is one."""
        held = 0 if record is None else record.weight
        self._copies_left -= held
        return Entry(row.id, row.connection_id, row.size, record, held)

    def _carry(self, batch: Sequence[Record], flight: Flight) -> None:
        """Puts messages into the queue that are in memory alone. They go on waiting there."""
        entries = [Entry(0, record.connection_id, record.weight, record, record.weight) for record in batch]
        flight.open = 0
        self._bytes += sum(entry.held for entry in entries)
        self._carried.update(entries)
        self._put(entries)
        self._feed()

    def _put(self, entries: list[Entry]) -> None:
        self._entries_left -= len(entries)
        self._out.put(cast("list[Any]", entries), 0)

    # The disk fails

    async def _failed_disk(self, error: Exception) -> None:
        if not is_damage(error):
            self._degrade(error)
            return
        try:
            await self._disk.call(partial(self._store.put_aside, error))
        except (sqlite3.Error, OSError) as failure:
            self._degrade(failure)
        lost = self.counters.spooled
        self._disk_counters["spool_set_aside"] = self._store.set_aside
        self._last = max(self._last, self._store.last)
        self._gone = self._indexed = self._last
        self._acked.clear()
        self.counters.spooled = 0
        self._drop("error", lost, "the spool was damaged")

    def _degrade(self, error: BaseException) -> None:
        """The disk is left alone for a while. Said at once, and by `report`."""
        self._disk_counters["spool_failures"] += 1
        self._not_before = self._clock() + PAUSE_SECONDS
        self._disk_cause = _cause(error)
        if not self._disk_failed:
            self._disk_failed = True
            self._say_disk_failed()

    def _say_disk_failed(self) -> None:
        log.error(
            "the spool cannot be written: messages are delivered without it",
            extra={"fields": {"sink": self.name, "cause": self._disk_cause}},
        )

    # Out of the spool

    def _feed(self) -> None:
        """Sets to work what is ready, and looks for more on disk."""
        if self._draining:
            self._out.ripen()
        while self._may_post() and (taken := self._out.take()) is not None:
            batch = cast("Sequence[Entry]", taken[0])
            live = [entry for entry in batch if not self._is_over(entry)]
            if live:
                task = asyncio.create_task(self._post(batch, live), name=f"lane {self.name}")
                self._posts[task] = Post(live)
            else:
                self._release(batch)
        if self._out.ripening:
            self._later("ripen", self._out.wait, self._ripen_out)
        if self._acked:
            self._later("delete", ACK_SECONDS, self._start_delete)
        if self._indexed < self._last and self._scan is None and self._entries_left >= SCAN_ROWS and self._taking:
            room = self._copies_left if self._copies_left > self._copies // 2 else 0
            if room or self._may_post():
                self._scan = asyncio.create_task(self._look(room))

    def _may_post(self) -> bool:
        return (
            self._taking
            and not self._gave_up
            and len(self._posts) - self._held_back < self._out.workers
            and len(self._posts) < self._out.workers * PLACES
        )

    def _ripen_out(self) -> None:
        self._out.ripen()
        self._feed()

    async def _look(self, room: int) -> None:
        """Makes entries of the next messages on disk, with copies of as many as there is room for."""
        try:
            found, last = await self._disk.call(lambda: self._store.scan(self._indexed, SCAN_ROWS, room))
        except (sqlite3.Error, OSError) as error:
            await self._failed_disk(error)
            self._scan = None
            self._later("scan", PAUSE_SECONDS, self._feed)
        else:
            self._scan = None
            self._put([self._entry(row, stored) for row, stored in found if row.id > self._gone])
            self._indexed = max(self._indexed, last)
            self._feed()
        self._tell()

    async def _post(self, taken: Sequence[Entry], live: list[Entry]) -> None:
        """Delivers a batch: tries until its end is known. One that is too large is delivered in halves."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        post = self._posts[task]
        pieces = [live]
        try:
            while pieces:
                post.batch = piece = pieces[0]
                if all(map(self._is_over, piece)):
                    pieces.pop(0)
                    continue
                async with self._slots:
                    again = await self._try(piece)
                if again is None:
                    pieces.pop(0)
                    post.tries = 0
                elif again == HALVES:
                    pieces[0:1] = [piece[: len(piece) // 2], piece[len(piece) // 2 :]]
                elif not await self._wait(post, again):
                    return  # its connections stay blocked: nothing overtakes what is left
            self._release(taken)
        finally:
            del self._posts[task]
            self._feed()
            self._tell()

    async def _try(self, piece: list[Entry]) -> Again | None:
        """Tries once. None when every member's end is known. (An exception would hold the batch while it waits.)"""
        try:
            batch = await self._records(piece)
        except (sqlite3.Error, OSError) as error:
            await self._failed_disk(error)
            return Again("the spool cannot be read")
        members = [entry for entry, _ in batch]
        if not members:
            return None
        try:
            await self.sink.deliver([record for _, record in batch])
        except Retry as answer:
            return Again(answer.cause, min(answer.after or 0.0, LONGEST_RETRY_AFTER))
        except TooLarge as answer:
            if len(members) > 1:
                return HALVES
            self._finish(members, "rejected", answer.cause)
        except Undelivered as answer:
            done, failed = answer.delivered, answer.delivered + answer.failed
            self._finish(members[:done], "delivered")
            self._finish(members[done:failed], "error", answer.cause)
            outcome: Outcome = "rejected" if isinstance(answer, Rejected) else answer.reason
            self._finish(members[failed:], outcome, answer.cause)
        except Exception as error:  # a sink of somebody's own: whatever it raises, the lane goes on
            self._finish(members, "error", where(error))
        else:
            self._finish(members, "delivered")
        self._succeeded()
        return None

    async def _records(self, piece: list[Entry]) -> list[tuple[Entry, Record]]:
        """The records of a batch, read from the disk where they are not in memory."""
        missing = [entry for entry in piece if entry.record is None and not self._is_over(entry)]
        if missing:
            ids = [entry.id for entry in missing]
            for entry, stored in zip(missing, await self._disk.call(lambda: self._store.load(ids)), strict=True):
                if stored is not None:
                    entry.record = stored
                elif not self._is_over(entry):
                    self._finish([entry], "error", "damaged in the spool")
        return [(entry, entry.record) for entry in piece if entry.record is not None]

    async def _wait(self, post: Post, again: Again) -> bool:
        """Waits for the next try. False: there is none, in a drain."""
        self._say_failing(again.cause)
        for entry in post.batch:
            if entry.id:
                self._drop_copy(entry)
        if not post.tries:
            post.successes = self._successes
        post.tries += 1
        delay = min(2.0 ** (post.tries - 1), LONGEST_DELAY)
        if self._draining:
            delay = max(delay, again.after)
            late = self._deadline is not None and self._clock() + delay > self._deadline
            if late or post.tries > len(RETRY_DELAYS):
                self._gave_up = self._gave_up or self._successes == post.successes
                self._finish([entry for entry in post.batch if not entry.id], "retries", again.cause)
                return False
        else:
            delay = max(delay * (1 - self._chance() / 2), again.after)
        post.wait = asyncio.ensure_future(self._sleep(delay))
        self._held_back += 1
        self._feed()  # the place of who waits is free
        try:
            await asyncio.wait((post.wait,))  # unlike awaiting it, this outlives its being cancelled
        finally:
            post.wait.cancel()
            post.wait = None
            self._held_back -= 1
        return True

    def _succeeded(self) -> None:
        """The sink has answered. Where nothing else got through before, the others need wait no longer."""
        self._successes += 1
        if self._failing_said is not None:
            self._later("again", LOG_SECONDS, self._say_again)
        if self._failed >= self._out.workers * PLACES:
            for post in self._posts.values():
                if post.wait is not None:
                    post.wait.cancel()
        self._failed = 0

    def _say_again(self) -> None:
        """Says so when a second has brought no failure after a success."""
        if not self._failed:
            self._failing_said = None
            log.info("the sink takes messages again", extra={"fields": self._state()})

    def _say_failing(self, cause: str) -> None:
        self._failed += 1
        now = self._clock()
        if self._failing_said is None or now - self._failing_said >= FAILING_SECONDS:
            self._failing_said = now
            log.warning("messages wait in the spool", extra={"fields": {**self._state(), "cause": cause}})

    def _state(self) -> dict[str, object]:
        return {"sink": self.name, "spooled": self.counters.spooled, "waiting": self.counters.waiting}

    # What becomes of entries

    def _is_over(self, entry: Entry) -> bool:
        return entry.over or 0 < entry.id <= self._gone

    def _finish(self, entries: Sequence[Entry], outcome: Outcome, cause: str = "") -> None:
        """Ends messages, each in one counter."""
        count = 0
        for entry in entries:
            if self._is_over(entry):
                continue
            entry.over = True
            count += 1
            if entry.id:
                self.counters.spooled -= 1
                self._acked.append(entry.id)
            else:
                self.counters.waiting -= 1
                self._bytes -= entry.held
                self._carried.discard(entry)
        if count:
            self._count(outcome, count, cause)

    def _drop_copy(self, entry: Entry) -> None:
        self._copies_left += entry.held
        entry.held, entry.record = 0, None

    def _release(self, batch: Sequence[Entry]) -> None:
        """A batch is over: its connections may go on."""
        for entry in batch:
            if entry.id:
                self._drop_copy(entry)
        self._entries_left += len(batch)
        self._out.done(cast("Sequence[Any]", batch))

    def _start_delete(self) -> None:
        if self._flush is None:
            self._flush = asyncio.create_task(self._delete())

    async def _delete(self) -> None:
        """Deletes from the disk what was delivered."""
        try:
            while self._acked and await self._commit(()) is not None:
                pass
            idle = not (self._flights or self._acked or self.counters.spooled or self._disk_failed)
            if idle and self._store.bytes > self._store.limit * 4:
                await self._disk.call(self._store.remake)
                self._disk_counters["spool_bytes"] = self._store.bytes
        except (sqlite3.Error, OSError) as error:
            self._degrade(error)
        finally:
            self._flush = None
            self._turn.set()
            if self._acked:
                self._later("delete", PAUSE_SECONDS, self._start_delete)

    def _later(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        """Calls once, so much later; the timers of one name are one."""
        if name in self._timers or not self._taking:
            return

        def fire() -> None:
            del self._timers[name]
            call()

        self._timers[name] = asyncio.get_running_loop().call_later(seconds, fire)

    # The end

    async def _settled(self) -> None:
        """Everything is written, and all that the sink takes is delivered."""
        while not self._is_quiet():
            self._turn.clear()
            await self._turn.wait()

    def _is_quiet(self) -> bool:
        if self._posts or self._flights or self._scan is not None:
            return False
        # Behind what was given up nothing in memory can follow.
        self._finish(list(self._carried), "retries", "given up before")
        return not self.counters.waiting

    def _tell(self) -> None:
        super()._tell()
        self._turn.set()

    async def _cut(self) -> None:
        """The deadline: what is on disk stays there."""
        if not self._cutting:
            self._gave_up = True
            for task in self._posts:
                task.cancel()
            if self._posts:
                await asyncio.wait(list(self._posts), timeout=CUT_SECONDS)
            self._finish(list(self._carried), "deadline")
        await super()._cut()


def _cause(error: BaseException) -> str:
    """What is wrong with the disk, in a few words."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    if isinstance(error, SnifferError):
        return str(error)
    return f"{type(error).__name__}: {error}" if isinstance(error, sqlite3.Error) else type(error).__name__
