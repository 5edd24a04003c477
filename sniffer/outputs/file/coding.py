"""Compression of a file that can be ended at any moment.

    begin | part | part | ... | end

An encoder makes parts that end at a byte. Behind each part it can say what would end the file there, without changing
its own state: the next part is written over that end. So the file is complete whenever nobody writes to it. Members
(gzip, RFC 1952) and frames (zstd, RFC 8878) may follow each other in one file.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, Final, Protocol

LEVEL: Final = 1
"""Of gzip: fast. Its file is a seventh of the plain one; level 6 makes it a ninth and takes four times as long."""
GZIP_HEAD: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"
GZIP_MAGIC: Final = b"\x1f\x8b"
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
ZSTD_LAST: Final = b"\x01\x00\x00"
"""An empty raw block that is the last of its frame (RFC 8878 section 3.1.1.2). The frames here have no checksum."""


class Encoder(Protocol):
    """One member of a file."""

    def add(self, data: bytes | memoryview) -> bytes | memoryview:
        """The bytes that stand for `data`, behind those of earlier calls."""

    def end(self) -> bytes:
        """The bytes that end the file here. Changes nothing."""


class Plain(Encoder):
    """No compression."""

    def add(self, data: bytes | memoryview) -> bytes | memoryview:
        """The data itself."""
        return data

    def end(self) -> bytes:
        """Nothing."""
        return b""


class Gzip(Encoder):
    """A gzip member. The deflate stream is brought to a byte by an empty stored block (Z_SYNC_FLUSH)."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, -15)
        self._head = GZIP_HEAD
        self._crc = self._size = 0

    def add(self, data: bytes | memoryview) -> bytes:
        """The member's head, if it is the first part, and the compressed data."""
        head, self._head = self._head, b""
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)
        return head + self._deflate.compress(data) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        """An empty last block, the checksum and the size."""
        return b"" if self._head else b"\x03\x00" + struct.pack("<II", self._crc, self._size & 0xFFFFFFFF)


class Zstd(Encoder):
    """A zstd frame."""

    def __init__(self) -> None:
        import zstandard

        parameters = zstandard.ZstdCompressionParameters.from_level(
            1, window_log=19, write_content_size=False, write_checksum=False
        )
        self._object: Any = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        self._flush_block = zstandard.COMPRESSOBJ_FLUSH_BLOCK
        self._begun = False

    def add(self, data: bytes | memoryview) -> bytes:
        """The frame's head, if it is the first part, and whole blocks."""
        self._begun = True
        made: bytes = self._object.compress(data) + self._object.flush(self._flush_block)
        return made

    def end(self) -> bytes:
        """An empty last block."""
        return ZSTD_LAST if self._begun else b""


ENCODERS: Final[dict[str, type[Encoder]]] = {".gz": Gzip, ".zst": Zstd}
"""The encoder by the ending of the file's name; any other is plain."""
