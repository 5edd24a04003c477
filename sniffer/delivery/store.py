"""The store of a spool: messages in a SQLite database in a directory of its own.

It knows nothing of delivery: it appends, reads, deletes, keeps its size bound, and recovers what an earlier run left.
Every method is called on one thread.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import sqlite3
import stat
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from sniffer.delivery.sink import Record
from sniffer.errors import SnifferError

if TYPE_CHECKING:
    from sniffer.record.message import HttpMessage

log = logging.getLogger("sniffer.sinks")

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
    """The file on disk cannot be read as a spool."""


class Stored(NamedTuple):
    """A message read back from the disk: a `Record`."""

    connection_id: str
    exchange: int
    direction: Literal["request", "response"]
    body: bytes

    def to_json(self) -> bytes:
        """The message as JSON, as it was when it was stored."""
        return self.body

    @property
    def idempotency_key(self) -> str:
        """The same key as before it was stored."""
        return f"{self.connection_id}-{self.exchange}-{self.direction}"

    @property
    def weight(self) -> int:
        """About how many bytes it takes in memory."""
        return len(self.body) + 300

    @property
    def message(self) -> HttpMessage:
        """Not available: a store keeps the JSON alone."""
        raise NotImplementedError


class Row(NamedTuple):
    """What is known of a stored message without reading its body."""

    id: int
    connection_id: str
    size: int


class Committed(NamedTuple):
    """What one transaction did."""

    rows: list[Row | None]
    """The row of each message; None for one that is too large for the store."""
    evicted: int
    """So many older messages were deleted to make room."""
    through: int
    """The id of the last of these."""


class Full(Exception):
    """The store has no room, and may not delete messages to make some."""


class Store:
    """The files of one spool, in a directory of its own: at most `size` bytes in all.

    SQLite runs in WAL mode with synchronous=NORMAL: a transaction is written to the log without waiting for the disk;
    the disk is synchronised when the log is copied into the database. So a process that is killed loses nothing that
    was committed. A machine that loses power may lose the last transactions, but never gets a damaged file.
    """

    def __init__(self, directory: Path, size: int) -> None:
        self.directory = directory
        self.last = 0
        """The id given last."""
        self.bytes = 0
        """Bytes that the files take."""
        self.set_aside = 0
        """How often a damaged database was set aside."""
        self.limit = size // 16
        """Bytes of the largest message that is kept."""
        # The log is copied into the database when it has so many bytes. One transaction may add twice as many.
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
        """Opens the store, and makes it if there is none. Returns how many messages an earlier run left in it.

        Raises SnifferError if no later try can succeed: a missing right, a path that is no directory, another process
        that uses it. Raises sqlite3.Error or OSError if the disk fails, where a later try may succeed. A file that is
        no spool is set aside.
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
        """Writes messages, and deletes those with the ids `done`, in one transaction.

        Makes room by deleting the oldest messages. Raises Full instead if `evict` is false.
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
        """The oldest messages behind the id `after`, and the id up to which there are no others.

        At most `count` messages, and at most as many as fit into `room` bytes of memory. If `room` is 0, or the first
        message does not fit, only rows are returned, without messages.
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
        """The messages with these ids. None for a message that is gone or damaged."""
        db = self._connected()
        return [self._load(db, number) for number in ids]

    def put_aside(self, cause: BaseException) -> None:
        """Renames the files, over those that were set aside before, and begins an empty store."""
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
        """Begins an empty store where no message of the old one is needed: its free pages go back to the disk."""
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
        # Kubernetes gives a pod a volume of its own as a mount point that everybody may write to.
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX and not self.directory.is_mount():
            log.warning("others may write to spool_dir", extra={"fields": {"directory": str(self.directory)}})

    def _check_file(self) -> None:
        """Refuses another user's file and what is no regular file. Nobody else may read ours."""
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
        """Checks the whole database, so that damage shows now. Returns how many messages are in it."""
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
        """Deletes the oldest messages until so many pages are free. Returns how many, and the id of the last one."""
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
    """A message from its columns. None if its checksum does not match."""
    *fields, crc = columns
    return Stored(*fields) if zlib.crc32(fields[3]) == crc else None


def _files(database: Path) -> list[Path]:
    """A database, and the log beside it."""
    return [database, database.with_name(f"{database.name}-wal")]


def _room(size: int) -> int:
    """Bytes of pages that a message of so many bytes takes at the most."""
    if size < PAGE // 4:
        return size + size // 4 + 100
    return (size // PAGE + 2) * PAGE if size > PAGE // 2 else size * 2


def is_damage(error: BaseException) -> bool:
    """Whether an error is about the content of the file, and not about the disk."""
    if isinstance(error, Damaged):
        return True
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in DAMAGED
