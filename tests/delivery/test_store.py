"""The store: what is on disk, its bound, its recovery, and what is set aside."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sniffer.delivery.store import ASIDE, FILE, LOCK, Full, Store
from sniffer.errors import SnifferError
from tests.daemon import (
    ROOT,
)
from tests.deliveries import Sent, message, messages
from tests.delivery.stores import MIB, ids, keys, sizes, small_disk, stored


@pytest.fixture(autouse=True)
def _all_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The log is looked at, whatever its level."""
    caplog.set_level(logging.INFO, "sniffer.sinks")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """A message is read back as the same bytes under the same key, also after the files were closed."""
    with stored(tmp_path / "spool") as store:
        done = store.commit(messages(3, body="x" * 9000), [])
        assert [row.id for row in done.rows if row] == [1, 2, 3]
    with stored(tmp_path / "spool") as store:
        found = store.load([1, 2, 3])
        assert [record and record.to_json() for record in found] == [m.to_json() for m in messages(3, body="x" * 9000)]
        assert [record and record.idempotency_key for record in found] == keys(messages(3))
        assert ids(store, 1) == [2, 3]
        store.commit([message(7)], [1, 3])
        assert ids(store) == [2, 4]
        assert store.load([1]) == [None]


def test_what_is_read_ahead_fits_into_memory(tmp_path: Path) -> None:
    """A scan returns as many messages as there is room for, and only rows if there is none."""
    with stored(tmp_path) as store:
        store.commit(messages(20, body="x" * 1000), [])
        weight = len(message(10, body="x" * 1000).to_json()) + 300
        found, last = store.scan(2, 100, 5 * weight)
        assert [row.id for row, record in found if record] == [3, 4, 5, 6, 7]
        assert last == 7
        assert store.scan(2, 3, 0)[1] == 5
        found, last = store.scan(2, 100, 0)
        assert [record for _, record in found] == [None] * 18
        assert last == 20
        found, last = store.scan(2, 100, 10)
        assert [(row.id, record) for row, record in found] == [(3, None)]
        assert last == 3
        assert store.scan(20, 100, 10) == ([], 20)


def test_only_the_owner_reads_it(tmp_path: Path) -> None:
    """Files have mode 0600 and a new directory 0700, whatever the umask; wider rights of existing files are removed."""
    before = os.umask(0)
    try:
        with stored(tmp_path / "a" / "spool") as store:
            store.commit(messages(1), [])
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in store.directory.iterdir()}
    finally:
        os.umask(before)
    assert modes == {FILE: 0o600, f"{FILE}-wal": 0o600, LOCK: 0o600}
    assert stat.S_IMODE((tmp_path / "a" / "spool").stat().st_mode) == 0o700
    (tmp_path / "a" / "spool" / FILE).chmod(0o644)
    with stored(tmp_path / "a" / "spool"):
        assert stat.S_IMODE((tmp_path / "a" / "spool" / FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize("size", [MIB, 5 * MIB])
@pytest.mark.parametrize("kind", ["small", "page", "large", "mixed"])
def test_the_size_is_never_passed(tmp_path: Path, size: int, kind: str) -> None:
    """All files together stay within the size after every transaction; the oldest messages are deleted and counted."""
    chance = random.Random(size)
    with stored(tmp_path, size) as store:
        written = evicted = through = volume = 0
        deleted: set[int] = set()
        while volume < 2.5 * size:
            batch: list[Sent] = []
            weight = 0
            while weight < store.batch:
                body = {
                    "small": 200,
                    "page": chance.choice([3900, 4200, 7500, 8100, 8300]),
                    "large": store.limit,
                    "mixed": int(10 ** chance.uniform(1, 4.5)),
                }[kind]
                batch.append(message(written + len(batch), body="b" * min(body, store.limit - 2000)))
                weight += len(batch[-1].to_json())
            some = [chance.randint(through + 1, store.last)] if store.last > through and chance.random() < 0.1 else []
            deleted.update(some)
            done = store.commit(batch, some)
            assert None not in done.rows
            written += len(batch)
            volume += weight
            evicted += done.evicted
            through = max(through, done.through)
            assert sizes(tmp_path) <= size
        assert evicted
        rows = [row for row, _ in store.scan(0, 1 << 30, 0)[0]]
        assert rows[0].id > through
        assert {row.id for row in rows} == set(range(through + 1, store.last + 1)) - deleted
        # Room is used: what is left is not a small part of what would fit.
        assert sum(row.size for row in rows) > size * (0.3 if kind in ("page", "large") else 0.5)


def test_what_is_too_large_is_refused(tmp_path: Path) -> None:
    """A message over a sixteenth of the size is refused; the others of its transaction are kept."""
    with stored(tmp_path, MIB) as store:
        done = store.commit([message(0), message(1, body="x" * (MIB // 16)), message(2)], [])
        assert [row and row.id for row in done.rows] == [1, None, 2]


def test_a_store_that_may_not_evict_says_that_it_is_full(tmp_path: Path) -> None:
    """A transaction that does not fit and may not evict raises Full and changes nothing."""
    with stored(tmp_path, MIB) as store:
        with pytest.raises(Full):  # noqa: PT012 - which of them it is depends on the form of the file
            for number in range(10_000):
                store.commit(messages(20, connection=number), [], evict=False)
        assert len(ids(store)) == store.last > 500


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """A store that another process has open is refused with exit code 2, and is free after it was closed."""
    with stored(tmp_path), pytest.raises(SnifferError, match="in use by another process") as refused:
        Store(tmp_path, MIB).open()
    assert refused.value.exit_code == 2
    with stored(tmp_path):
        pass


def damage_garbage(file: Path) -> None:
    file.write_bytes(b"this is no database at all\n" * 500)


def damage_truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2 // 8192 * 8192)


def damage_odd(file: Path) -> None:
    os.truncate(file, 5000)


def damage_page(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(2 * 8192)
        opened.write(b"\xff" * 8192)


def damage_version(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA user_version = 99")


def damage_schema(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.execute("DROP TABLE messages")


def damage_symlink(file: Path) -> None:
    target = file.with_name("elsewhere")
    file.rename(target)
    file.symlink_to(target)


DAMAGES = [
    damage_garbage,
    damage_truncated,
    damage_odd,
    damage_page,
    damage_version,
    damage_schema,
    damage_symlink,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_spool_is_set_aside(tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Garbage, a cut or overwritten file, another version: the file is renamed and logged, and a new store works."""
    with stored(tmp_path) as store:
        for connection in range(10):
            store.commit(messages(20, connection=connection), [])
    damage(tmp_path / FILE)
    with stored(tmp_path) as store:
        assert store.set_aside == 1
        assert "set aside" in caplog.text
        assert os.path.lexists(tmp_path / ASIDE)
        assert ids(store) == []
        store.commit(messages(2), [])
    with stored(tmp_path) as store:
        assert store.set_aside == 0
        assert len(ids(store)) == 2


def test_a_changed_body_is_not_presented_as_right(tmp_path: Path) -> None:
    """A message whose bytes have changed on disk is not read back."""
    with stored(tmp_path) as store:
        store.commit(messages(2, body="written" * 10), [])
    data = (tmp_path / FILE).read_bytes()
    at = data.rindex(b"written")
    (tmp_path / FILE).write_bytes(data[:at] + b"changed" + data[at + 7 :])
    with stored(tmp_path) as store:
        first, second = store.load([1, 2])
        assert (first is None) != (second is None)


@pytest.mark.parametrize("what", ["a file", "below a file", "read-only"])
def test_a_directory_that_cannot_be_used(tmp_path: Path, what: str) -> None:
    """A path that is no directory or not writable is one error that names it, with exit code 2."""
    directory = tmp_path / "spool"
    if what == "read-only":
        with small_disk(tmp_path, "ro") as disk, pytest.raises(SnifferError, match="Read-only file system") as refused:
            Store(disk, MIB).open()
        assert refused.value.exit_code == 2
        return
    directory.write_text("a file")
    with pytest.raises(SnifferError, match=f"spool_dir {directory}") as refused:
        Store(directory / "below" if what == "below a file" else directory, MIB).open()
    assert refused.value.exit_code == 2


WRITER = """
import sys
from pathlib import Path
from sniffer.delivery.store import Store
from tests.deliveries import messages
store = Store(Path(sys.argv[1]), 1 << 24)
store.open()
for number in range(100000):
    store.commit(messages(7, connection=number), [])
    print(store.last, flush=True)
"""


def test_what_was_committed_survives_a_kill(tmp_path: Path) -> None:
    """After kill -9 in the middle of writing every committed message is there, and nothing is damaged."""
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT
        ) as writer:
            assert writer.stdout is not None
            for _ in range(200):
                last = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().split()
            last = int(rest[-1]) if rest else last
        with stored(tmp_path, 1 << 24) as store:
            assert store.set_aside == 0
            rows = ids(store)
            assert rows == list(range(1, store.last + 1))
            assert store.last >= last
            assert store.last % 7 == 0
            assert None not in store.load(rows)
