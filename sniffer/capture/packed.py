"""Capture files that are compressed: gzip (RFC 1952) and zstd (RFC 8878), unpacked piece by piece as they are read.

What a piece unpacks to is bounded, however much it was packed. Members and frames may follow each other, as parallel
compressors write them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, Final, cast

GZIP: Final = b"\x1f\x8b"
ZSTD: Final = b"\x28\xb5\x2f\xfd"
MOST: Final = 16 << 10
"""Bytes that one call of `read` returns at most."""
WINDOW: Final = 128 << 20
"""The largest window of a zstd frame, in bytes: what `zstd` takes without `--long`. It takes as much memory."""
GZIP_WINDOW: Final = 31
"""zlib's number for the largest window of gzip data with its head and its check sum."""


class PackedError(Exception):
    """The data is broken, or ends early; the text says so."""


def is_packed(head: bytes) -> bool:
    """Whether data that begins so is compressed in a way that is known here. Four bytes are enough."""
    return head.startswith((GZIP, ZSTD))


def unpacked(read: Callable[[], bytes], head: bytes) -> Callable[[], bytes]:
    """A function like `read`, which returns the next bytes and none at the end, but of the unpacked data.

    `head` is what was read before. The function raises PackedError where the data is broken or ends early.
    """
    if head.startswith(ZSTD):
        return _Zstd(read, head)
    made = gunzip(_pieces(read, head), MOST)
    return lambda: next(made, b"")


def gunzip(pieces: Iterable[bytes], most: int) -> Iterator[bytes]:
    """The members of gzip data, one behind the other, in pieces of at most `most` bytes; an empty piece stays one.

    Zeros behind a member are padding, as tapes have it, and are ignored as gzip does. PackedError where the data is
    broken or ends early.
    """
    member: Any = None
    try:
        for piece in pieces:
            if not piece:
                yield piece
            data = piece
            while data:
                if member is None:
                    data = data.lstrip(b"\0")
                    member = zlib.decompressobj(GZIP_WINDOW) if data else None
                    continue
                made = member.decompress(data, most)
                data = member.unconsumed_tail
                while made:
                    yield made
                    made = b"" if member.eof or data else member.decompress(b"", most)
                if member.eof:
                    data, member = member.unused_data, None
    except zlib.error as error:
        raise PackedError(f"the gzip data is broken ({error})") from error
    if member is not None:
        raise PackedError("the gzip data ends early")


def _pieces(read: Callable[[], bytes], head: bytes) -> Iterator[bytes]:
    """`head`, and what `read` returns until that is nothing."""
    while head:
        yield head
        head = read()


class _Zstd:
    """Frames of zstd data."""

    def __init__(self, read: Callable[[], bytes], head: bytes) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        self._input = _Input(read, head)
        decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW)
        self._reader: Any = decompressor.stream_reader(
            cast("IO[bytes]", self._input), read_size=4096, read_across_frames=True
        )

    def __call__(self) -> bytes:
        """The next bytes."""
        try:
            data: bytes = self._reader.read1(MOST)
        except self._error as error:
            raise PackedError(f"the zstd data is broken ({error})") from error
        if not data and not self._input.walk.at_end:
            raise PackedError("the zstd data ends early")
        return data


class _Input:
    """What is read, as a file for zstandard."""

    def __init__(self, read: Callable[[], bytes], head: bytes) -> None:
        self._read = read
        self._rest = head
        self.walk = _Walk()

    def read(self, size: int) -> bytes:
        """At most `size` bytes, none at the end."""
        self._rest = self._rest or self._read()
        part, self._rest = self._rest[:size], self._rest[size:]
        self.walk.over(part)
        return part


class _Walk:
    """Follows the frames of zstd data by their heads alone (RFC 8878 section 3.1): zstandard's reader does not tell
    data that ends early from data that ends.
    """

    def __init__(self) -> None:
        self._head = b""  # of a frame or block, as far as it has come
        self._skip = 0  # bytes to the next head
        self._in_frame = self._checksum = False

    @property
    def at_end(self) -> bool:
        """Whether a frame has just ended, or none has begun."""
        return not (self._head or self._skip or self._in_frame)

    def over(self, data: bytes) -> None:
        """Goes over the next bytes."""
        at = 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            self._head += data[at : at + 1]
            at += 1
            if self._in_frame and len(self._head) == 3:
                self._block(int.from_bytes(self._head, "little"))
            elif not self._in_frame and len(self._head) == 5 and self._head.startswith(ZSTD):
                self._frame(self._head[4])
            elif len(self._head) == 8:  # no frame of data: one to skip (section 3.1.2), with its size
                self._skip = int.from_bytes(self._head[4:], "little")
                self._head = b""

    def _frame(self, descriptor: int) -> None:
        single, size = descriptor >> 5 & 1, descriptor >> 6
        self._checksum = bool(descriptor >> 2 & 1)
        self._skip = (1 - single) + (0, 1, 2, 4)[descriptor & 3] + (single, 2, 4, 8)[size]
        self._in_frame, self._head = True, b""

    def _block(self, head: int) -> None:
        last, kind, size = head & 1, head >> 1 & 3, head >> 3
        self._skip = 1 if kind == 1 else size  # a block of one byte, repeated
        self._head = b""
        if last:
            self._in_frame = False
            self._skip += 4 * self._checksum
