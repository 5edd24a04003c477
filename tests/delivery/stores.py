"""What the tests of the store and of the spool share."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sniffer.delivery.sink import Record
from sniffer.delivery.store import Store

MIB = 1 << 20


@contextlib.contextmanager
def stored(directory: Path, size: int = 4 * MIB) -> Iterator[Store]:
    """An open store."""
    store = Store(directory, size)
    store.open()
    try:
        yield store
    finally:
        store.close()


def ids(store: Store, after: int = 0) -> list[int]:
    """The ids of the messages on disk."""
    return [row.id for row, _ in store.scan(after, 1 << 30, 0)[0]]


def sizes(directory: Path) -> int:
    """Bytes of all files of a spool."""
    total = 0
    for file in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def keys(records: Sequence[Record]) -> list[str]:
    """The keys by which a collector tells messages apart."""
    return [record.idempotency_key for record in records]


def mount(*arguments: str) -> int:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode


@contextlib.contextmanager
def small_disk(tmp_path: Path, options: str = "size=700k") -> Iterator[Path]:
    """A file system of its own, mounted for the test."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)
