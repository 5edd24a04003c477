"""Files of JSON lines that are rotated.

    messages.jsonl                              is being written
    messages-20261130T015012.123456Z.jsonl      finished: synchronised with the disk, and never changed again

The time in the name is that of the file's beginning. A finished file gets its name by a rename, so whoever sees the
name sees all of the file. The file that is being written is complete behind each part that was written (`coding`).
After a kill it may be torn in its last part: the next start cuts it there, and finishes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import re
import stat
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sniffer.delivery.sink import Cut, Failed, Record, Sink
from sniffer.delivery.threads import CallThread
from sniffer.errors import SnifferError
from sniffer.outputs.file.coding import ENCODERS, Encoder, Plain

if TYPE_CHECKING:
    from sniffer_core.core import Lines

log = logging.getLogger("sniffer.sinks")

PART_BYTES: Final = 256 << 10
"""Bytes of JSON that are rendered, compressed and written at a time, about."""
MODE: Final = 0o600
"""Only the owner may read the files: bodies are in them."""
READ_BYTES: Final = 1 << 18
PASSING: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Errors after which a later try may succeed."""
STAMP: Final = re.compile(r"\d{8}T\d{6}\.\d{6}Z(-\d+)?")


class FileSink(Sink):
    """Writes JSON lines to a file that is rotated, from a thread of its own."""

    name = "file"

    def __init__(
        self,
        path: Path,
        *,
        size: int,
        age: float,
        keep: int = 0,
        shared: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`size` in bytes and `age` in seconds end a file; `keep` finished ones stay, 0: all. `shared`: another output
        renders the JSON too.
        """
        self._files = Files(path, size=size, age=age, keep=keep, now=now)
        self._age = age
        self._shared = shared
        self._lines: Lines | None = None
        self._thread = CallThread("sniffer file")
        self._timer: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Finishes the file that an earlier run left, and begins a new one. SnifferError where that cannot be."""
        from sniffer_core.core import Lines  # `import sniffer` does without the core

        self._lines = Lines(keep=self._shared)
        self._thread.start()
        try:
            await self._thread.call(self._files.open)
        except OSError as error:
            path = self._files.path
            raise SnifferError(f"output_file: {path} cannot be written: {os.strerror(error.errno or 0)}") from error
        self._timer = asyncio.create_task(self._finish_old())

    async def close(self) -> None:
        """Finishes the file, unless the thread is stuck in a write."""
        if self._timer is not None:
            self._timer.cancel()
            with contextlib.suppress(TimeoutError, OSError):
                await asyncio.wait_for(self._thread.call(self._files.close), 1.5)
        self._thread.end()

    async def deliver(self, batch: Sequence[Record]) -> None:
        """Writes a batch."""
        assert self._lines is not None  # noqa: S101 - it is open
        done = _Done()
        try:
            await self._thread.call(partial(self._write, self._lines, batch, done))
        except asyncio.CancelledError:
            done.cut = True
            raise Cut("blocked", delivered=done.messages) from None
        except OSError as error:
            raise Failed(os.strerror(error.errno or 0), delivered=done.messages) from None

    def _write(self, lines: Lines, batch: Sequence[Record], done: _Done) -> None:
        while done.messages < len(batch) and not done.cut:
            count, part = lines.take(batch, done.messages, PART_BYTES)
            self._files.add(part)
            done.messages += count

    async def _finish_old(self) -> None:
        """Finishes a file in time that nothing is written to any more."""
        while True:
            left = await self._thread.call(self._files.left)
            if left > 0:
                await asyncio.sleep(min(left, self._age))
                continue
            try:
                await self._thread.call(self._files.rotate)
            except (OSError, SnifferError) as error:
                fields = {"sink": self.name, "cause": getattr(error, "strerror", None) or str(error)}
                log.error("a file cannot be finished", extra={"fields": fields})
                await asyncio.sleep(self._age)


class _Done:
    """How far a delivery has come."""

    messages = 0
    """Messages that are in the file."""
    cut = False
    """No further part is written."""


class Files:
    """The file that is being written, and the finished ones beside it. Used by one thread. All may raise OSError."""

    def __init__(self, path: Path, *, size: int, age: float, keep: int, now: Callable[[], float]) -> None:
        self.path = path
        self._size = size
        self._age = age
        self._keep = keep
        self._now = now
        ending = path.suffix if path.suffix in ENCODERS else ""
        self._encoder_type: type[Encoder] = ENCODERS.get(ending, Plain)
        bare = path.name.removesuffix(ending)
        self._stem = Path(bare).stem
        self._suffix = Path(bare).suffix + ending
        self._folder = path.parent
        self._fd = -1
        self._begin()

    def _begin(self) -> None:
        self._encoder = self._encoder_type()
        self._at = 0
        """Where the next part goes: over what ends the file."""
        self._tail = b""
        """What ends the file there."""
        self._torn = False
        """A part was not written whole, and could not be taken back yet."""
        self._began = self._now()

    def open(self) -> None:
        """Opens the file. One that is there is finished first. SnifferError: it cannot be used.

        A disk that is full or fails is logged; `add` tries again.
        """
        try:
            self._open_file()
            began = os.fstat(self._fd).st_mtime
            if os.fstat(self._fd).st_size:
                self._mend()
            if os.fstat(self._fd).st_size:
                self._began = began
                self._finish()
                self._open_file()
        except OSError as error:
            if error.errno not in PASSING:
                raise
            log.error("the file cannot be written", extra={"fields": {"file": str(self.path), "cause": error.strerror}})

    def _open_file(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(self.path, flags, MODE)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise SnifferError(f"output_file: {self.path} is no regular file")
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_ino != self.path.stat().st_ino:  # its writer has finished it in the meantime
                raise BlockingIOError
        except BlockingIOError as error:
            os.close(fd)
            raise SnifferError(f"output_file: {self.path} is in use by another process") from error
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        self._begin()

    def add(self, data: bytes | memoryview) -> None:
        """Writes lines behind those that are there. Where that fails, none of them is in the file."""
        if self._fd < 0:
            self._open_file()
        if self._torn:
            self._restore()
        if self._at and (self._at >= self._size or self.left() <= 0):
            self.rotate()
        if not self._at:
            self._began = self._now()
        encoded = self._encoder.add(data)
        tail = self._encoder.end()
        try:
            self._write_at(b"".join((encoded, tail)) if tail else encoded, self._at)
        except OSError:
            self._torn = True
            self._encoder = self._encoder_type()  # it has seen what is not in the file
            with contextlib.suppress(OSError):
                self._restore()
            raise
        self._at += len(encoded)
        self._tail = tail

    def _restore(self) -> None:
        """Takes back what was written of a part. What follows is a new member of the file."""
        self._write_at(self._tail, self._at)
        self._at += len(self._tail)
        self._tail = b""
        os.ftruncate(self._fd, self._at)
        self._torn = False

    def _write_at(self, data: bytes | memoryview, place: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, place)
            view, place = view[written:], place + written

    def left(self) -> float:
        """Seconds until the file is too old."""
        return self._began + self._age - self._now() if self._at else self._age

    def rotate(self) -> None:
        """Finishes the file, and begins a new one."""
        if self._fd >= 0 and self._at:
            if self._torn:
                self._restore()
            self._finish()
        if self._fd < 0:
            self._open_file()

    def close(self) -> None:
        """Finishes the file. An empty one is removed."""
        if self._fd < 0:
            return
        try:
            if self._torn:
                self._restore()
            if self._at:
                self._finish()
            else:
                self.path.unlink()
        finally:
            self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        self._begin()

    def _finish(self) -> None:
        """Synchronises the file with the disk, gives it its last name, and deletes the oldest ones."""
        os.fsync(self._fd)
        stamp = datetime.fromtimestamp(self._began, UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        before = [_order(path.name.removeprefix(f"{self._stem}-"), self._suffix) for path in self.finished()]
        number = max((number + 1 for begun, number in before if begun == stamp), default=0)
        name = f"{self._stem}-{stamp}{f'-{number}' if number else ''}{self._suffix}"
        try:
            if self.path.stat().st_ino != os.fstat(self._fd).st_ino:
                raise FileNotFoundError
            self.path.rename(self._folder / name)
        except FileNotFoundError:
            log.warning("somebody else has moved the file that was written", extra={"fields": {"file": str(self.path)}})
        self._close()
        self._synchronise_folder()
        for old in self.finished()[: -self._keep] if self._keep else ():
            old.unlink(missing_ok=True)

    def _synchronise_folder(self) -> None:
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def finished(self) -> list[Path]:
        """The finished files, the oldest first."""
        start, end = f"{self._stem}-", self._suffix
        with os.scandir(self._folder) as entries:
            names = [
                entry.name
                for entry in entries
                if entry.name.startswith(start)
                and entry.name.endswith(end)
                and STAMP.fullmatch(entry.name[len(start) : len(entry.name) - len(end)])
            ]
        return [self._folder / name for name in sorted(names, key=lambda name: _order(name[len(start) :], end))]

    # After a kill

    def _mend(self) -> None:
        """Cuts the file that a killed process has left behind its last whole line."""
        if self._encoder_type is Plain:
            size = os.fstat(self._fd).st_size
            os.ftruncate(self._fd, _behind_last_line(self._fd, size))
            return
        mended = self.path.with_name(f".{self.path.name}.mended")
        try:
            if self._copy_whole_lines(mended):
                return
            mended.replace(self.path)
        finally:
            mended.unlink(missing_ok=True)
        log.warning("a file that was torn by a kill is cut", extra={"fields": {"file": str(self.path)}})
        self._close()
        self._open_file()

    def _copy_whole_lines(self, copy: Path) -> bool:
        """Copies the lines of the file that can be read. Returns whether that is all of the file."""
        encoder = self._encoder_type()
        kept = b""
        whole = True
        with copy.open("wb") as file:
            os.fchmod(file.fileno(), MODE)
            try:
                for data in _decoded(self._fd, self.path.suffix):
                    lines, newline, kept = (kept + data).rpartition(b"\n")
                    if newline:
                        file.write(encoder.add(lines + newline))
            except ValueError:
                whole = False
            file.write(encoder.end())
            file.flush()
            os.fsync(file.fileno())
        return whole and not kept


def _order(name: str, end: str) -> tuple[str, int]:
    """The order of finished files: by time, then by number."""
    stamp, _, number = name.removesuffix(end).partition("-")
    return stamp, int(number or 0)


def _behind_last_line(fd: int, size: int) -> int:
    """The place behind the last line end."""
    while size:
        start = max(0, size - READ_BYTES)
        at = os.pread(fd, size - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        size = start
    return 0


def _decoded(fd: int, ending: str) -> Iterator[bytes]:
    """The content of a compressed file, as far as it can be read. ValueError at a place where it is torn."""
    place = 0
    decoder: Any = None
    pending = b""
    while pending or (data := os.pread(fd, READ_BYTES, place)):
        if not pending:
            place += len(data)
            pending = data
        decoder = decoder or _decoder(ending)
        try:
            made = decoder.decompress(pending)
        except Exception as error:  # zlib.error, zstandard.ZstdError
            raise ValueError from error
        yield made
        pending = decoder.unused_data if decoder.eof else b""
        if decoder.eof:
            decoder = None
    if decoder is not None:
        raise ValueError("torn")


def _decoder(ending: str) -> Any:
    if ending == ".gz":
        return zlib.decompressobj(31)
    import zstandard

    return zstandard.ZstdDecompressor(max_window_size=1 << 23).decompressobj()
