"""Recorded exchanges as a source: JSON lines as OUTPUT_FILE and standard output have them, and HAR.

    file or pipe --> decompressed (gzip, zstd) --> split into lines or HAR entries --> batches in the form of `Packets`

What a file holds is told by its first bytes. Nothing is held but a step of input, what it decompresses to, and one line
or entry, which is bounded. What the lines mean is the table's business (`sniffer.capture.recorded`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import zstandard

from sniffer.capture.packed import GZIP, ZSTD, PackedError, gunzip, is_packed
from sniffer.capture.source import BATCH_BYTES, BATCH_PACKETS, INDEX, Packets
from sniffer.errors import CaptureError

RECORDS: Final = -1
"""What `Source.open` returns in place of a link type where the batches have records."""

LINE: Final = 0
ENTRY: Final = 1
LAST: Final = 2
LONG: Final = 3
CUT: Final = 4
END: Final = 5
"""What an item of a batch is; it stands in the index in place of the seconds. A line; an entry of HAR; a last line
without its end; a line or entry that was too long, without its bytes; a file that ended within an entry; the end of the
file, with the file's name."""

READ: Final = 64 << 10
"""Bytes of a file that are read at a time."""
PIECE: Final = 256 << 10
"""The most bytes that gzip gives at a time."""
ZSTD_STEP: Final = 64
"""Bytes that zstd takes at a time. Each 4 of them may be a block of 128 KiB."""
ZSTD_WINDOW: Final = 8 << 20
"""The largest window of zstd that is decompressed, as in bodies."""
HEAD: Final = 64
"""Bytes without leading blanks that tell HAR from lines."""

PCAPNG: Final = b"\x0a\x0d\x0d\x0a"
_MARK: Final = b"\xef\xbb\xbf"
_is_har = re.compile(rb'\{\s*"log"\s*:\s*\{').match

Pieces = Iterator[bytes]
"""A file in pieces. An empty one says that the next may take long."""
Item = tuple[int, bytes]
"""What it is, LINE to END, and its bytes."""


def holds_records(head: bytes) -> bool:
    """Whether a file that begins like this is one of records, and no capture. 4 bytes are enough to tell."""
    if is_packed(head):
        return True
    return not head.startswith(PCAPNG) and head.removeprefix(_MARK).lstrip()[:1] == b"{"


class Records:
    """The records of one file, in batches."""

    def __init__(self, name: str, pieces: Pieces, *, most: int, stopped: Callable[[], bool]) -> None:
        """Reads the beginning of `pieces`. A line or entry of more than `most` bytes is not kept.

        CaptureError where it is compressed and holds no records.
        """
        self._name = name
        self._most = most
        self._stopped = stopped
        self._errors: list[Exception] = []
        self._pieces = self._guarded(pieces)
        head = bytearray()
        for piece in self._pieces:
            head += piece
            if len(head) >= READ or len(head.removeprefix(_MARK).lstrip()) >= HEAD:
                break
        self._head = bytes(head.removeprefix(_MARK))
        if not self._errors and not self._head.lstrip().startswith(b"{"):
            raise CaptureError(f"{name} cannot be read: it is compressed, and what it holds are no records")

    def _guarded(self, pieces: Pieces) -> Pieces:
        """The decompressed pieces up to the end or an error, which is kept: what came before it is read first."""
        try:
            yield from _decompressed(pieces)
        except (OSError, PackedError, zstandard.ZstdError) as error:
            self._errors.append(error)

    def batches(self) -> Iterator[Packets | None]:
        """Yields batches to the end of the file. CaptureError at the end where the rest is unreadable."""
        pieces = self._all()
        har = _is_har(self._head.lstrip()) is not None
        packets, index = bytearray(), bytearray()
        for item in entries(pieces, self._most) if har else lines(pieces, self._most):
            if item is not None:
                kind, data = item
                index += INDEX.pack(kind, 0, len(packets), len(data))
                packets += data
                if len(packets) < BATCH_BYTES and len(index) < BATCH_PACKETS * INDEX.size:
                    continue
            if index:
                yield bytes(packets), bytes(index)
                packets.clear()
                index.clear()
        name = self._name.encode(errors="surrogateescape")
        index += INDEX.pack(END, 0, len(packets), len(name))
        yield bytes(packets + name), bytes(index)
        if self._errors and not self._stopped():
            raise CaptureError(f"{self._name} cannot be read to its end: {self._errors[0]}")

    def _all(self) -> Pieces:
        yield self._head
        yield from self._pieces


def _decompressed(pieces: Pieces) -> Pieces:
    """The pieces as they were before compression. PackedError, or ZstdError, where that fails."""
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= len(ZSTD):
            break
    whole = _behind(head, pieces)
    if head.startswith(GZIP):
        return gunzip(whole, PIECE)
    return _unzstd(whole) if head.startswith(ZSTD) else whole


def _behind(head: bytes, pieces: Pieces) -> Pieces:
    yield head
    yield from pieces


def _unzstd(pieces: Pieces) -> Pieces:
    """The frames of zstd, one behind the other."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
    frame = None
    for piece in pieces:
        if not piece:
            yield piece
        for at in range(0, len(piece), ZSTD_STEP):
            data = piece[at : at + ZSTD_STEP]
            while data:
                if frame is None:
                    frame = decompressor.decompressobj()
                made = frame.decompress(data)
                data = b""
                if made:
                    yield made
                if frame.eof:
                    data, frame = frame.unused_data, None
    if frame is not None:
        raise PackedError("the zstd data ends early")


def lines(pieces: Iterable[bytes], most: int) -> Iterator[Item | None]:
    """The lines of a text, without blank ones; None where the next may take long."""
    begun = bytearray()
    long = False
    for piece in pieces:
        if not piece:
            yield None
            continue
        *whole, rest = piece.split(b"\n")
        for each in whole:
            line = each
            if begun:
                line = bytes(begun + each)
                begun.clear()
            if long or len(line) > most:
                yield LONG, b""
                long = False
            elif not line.isspace() and line:
                yield LINE, line
        if not long:
            begun += rest
            if len(begun) > most:
                long = True
                begun.clear()
    if long:
        yield LONG, b""
    elif begun.strip():
        yield LAST, bytes(begun)


def entries(pieces: Iterable[bytes], most: int) -> Iterator[Item | None]:
    """The entries of HAR: the objects of the array `log.entries`, found without reading the rest into memory."""
    reader = _Entries(most)
    for piece in pieces:
        if piece:
            yield from reader.feed(piece)
        else:
            yield None
    if reader.depth > 0:
        yield CUT, b""


_TOKEN: Final = re.compile(rb'["{}\[\]]')
_IN_STRING: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_ENTRIES_DEPTH: Final = 3
"""Open brackets around an entry: the document, the log, the array."""
_KEY_MOST: Final = 16


class _Entries:
    """Finds the entries in the bytes of a HAR document that come piece by piece."""

    def __init__(self, most: int) -> None:
        self.depth = 0
        """Open brackets."""
        self._most = most
        self._data = bytearray()
        self._at = 0  # up to where `_data` was looked at
        self._string = -1  # where the string began in which `_at` is
        self._word = b""  # the last string outside of entries: before a bracket in an object it is the key
        self._path: list[bytes] = []  # keys of the open brackets outside of entries
        self._entry = -1  # where the present entry began
        self._long = False

    def feed(self, piece: bytes) -> Iterator[Item]:
        """Takes a piece; yields the entries that end in it."""
        self._data += piece
        while self._at < len(self._data):
            if self._string >= 0:
                if not self._pass_string():
                    break
                continue
            token = _TOKEN.search(self._data, self._at)
            if token is None:
                self._at = len(self._data)
                break
            self._at = token.end()
            if token[0] == b'"':
                self._string = self._at
            elif token[0] in b"{[":
                self._open(token.start())
            else:
                item = self._close()
                if item is not None:
                    yield item
        self._forget()

    def _pass_string(self) -> bool:
        """Goes to the end of the present string. Returns whether it is there."""
        match = _IN_STRING.match(self._data, self._at)
        self._at = self._at if match is None else match.end()
        if self._data[self._at : self._at + 1] != b'"':
            return False
        if self._entry < 0 and not self._long:
            self._word = bytes(self._data[self._string : min(self._at, self._string + _KEY_MOST)])
        self._at += 1
        self._string = -1
        return True

    def _open(self, begin: int) -> None:
        if self.depth == _ENTRIES_DEPTH and self._path == [b"", b"log", b"entries"]:
            self._entry = begin
        if self.depth < _ENTRIES_DEPTH:
            self._path.append(self._word)
        self.depth += 1
        self._word = b""

    def _close(self) -> Item | None:
        self.depth -= 1
        if self.depth < _ENTRIES_DEPTH:
            del self._path[max(0, self.depth) :]
        if self.depth != _ENTRIES_DEPTH or not (self._entry >= 0 or self._long):
            return None
        item = (LONG, b"") if self._long else (ENTRY, bytes(self._data[self._entry : self._at]))
        self._entry, self._long = -1, False
        return item if item[0] == LONG or len(item[1]) <= self._most else (LONG, b"")

    def _forget(self) -> None:
        """Drops the bytes that are not needed any more."""
        if self._entry >= 0 and self._at - self._entry > self._most:
            self._entry, self._long = -1, True
        kept = self._at if self._entry < 0 else self._entry
        if self._string >= 0 and self._entry < 0:
            kept = max(self._string, self._at - _KEY_MOST)  # of a long string its beginning is not needed: it is no key
            self._string = max(0, self._string - kept)
        elif self._string >= 0:
            self._string -= kept
        del self._data[:kept]
        self._at -= kept
        if self._entry >= 0:
            self._entry = 0
