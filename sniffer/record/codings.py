"""Bodies without their content codings, within bounds.

What a decoder takes, in time and in memory, is bounded by its input, by the room for its output and by one window. What
it gives depends on the bytes alone, never on time or load. Input goes in by steps, since a decoder copies what it has
not used of a step again and again: a gzip body of empty members would cost the square of its size.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, cast

import brotli
import zstandard
from isal import isal_zlib

if TYPE_CHECKING:
    from sniffer_core.core import RawMessage

MAX_CODINGS: Final = 4
ZSTD_WINDOW: Final = 8 << 20  # RFC 9659: what a decoder must support, and may refuse more than
IsalError: Final = cast("type[Exception]", isal_zlib.error)  # declared as an instance

STEPS: Final = (4096, 64, 1)
"""Bytes to decode at a time. A decoder gives nothing of a step that holds an error: smaller ones find its place."""
BROTLI_WINDOW: Final = 22
"""Bits of the largest window that is decoded: the default of encoders. A decoder fills its window before it gives a
byte, and a body of 14 bytes can make it do so."""
BROTLI_RESERVED: Final = 16
"""Bytes of a brotli window that no distance reaches (RFC 7932 section 9.1)."""
SKIPPABLE: Final = b"\x2a\x4d\x18"
"""The end of the magic number of a zstd frame that holds no data (RFC 8878 section 3.1.2)."""

Left = Literal["", "window", "broken", "unknown"]
"""Why a coding was left: "" none was, "window" it needs too large a window, "broken" it gave nothing, "unknown" it is
not known, or one too many."""


class Decoded(NamedTuple):
    """A body without the content codings that could be removed."""

    body: bytes
    removed: str
    """The names of the codings removed, as in the header; "" for none."""
    full: bool
    """The decoded body is longer than the cap."""
    broken: bool
    """A coding was broken, or ended early."""
    left: Left
    """Why a coding was left."""


def decode(body: bytes, content_encoding: str, room: int) -> Decoded:
    """Removes content codings, from the last to the first, at most MAX_CODINGS; keeps at most `room` bytes of each."""
    codings = [name.strip().lower() for name in content_encoding.split(",")]
    removed: list[str] = []
    full = broken = False
    left: Left = ""
    while codings and not left:
        name = codings.pop().removeprefix("x-")
        if name in ("identity", ""):
            continue
        decoder = _DECODERS.get(name)
        if decoder is None or len(removed) == MAX_CODINGS:
            left = "unknown"
            break
        try:
            decoded, good = _run(decoder, body, room)
        except _WindowError:
            left = "window"
            break
        if not good and not decoded:
            left = "broken"
            break
        full = full or len(decoded) > room
        broken = broken or not good
        body = decoded[:room]
        removed.append(name)
    return Decoded(body, ", ".join(reversed(removed)), full, broken, left)


def decoder_bytes(room: int) -> int:
    """The most bytes that one `decode` takes: the decoder's tables, the filled part of a window, its output twice."""
    return (512 << 10) + min(max(256 << 10, 2 * room), ZSTD_WINDOW) + 2 * room


Steps = Iterator[int]
"""How many bytes to decode at a time; endless."""
Decoder = Callable[[bytes, Steps, int], Iterator[bytes]]
"""Yields what each step decodes to, until that is more than `room` bytes in all."""


def _run(decoder: Decoder, body: bytes, room: int) -> tuple[bytes, bool]:
    """(at most `room` + 1 decoded bytes, whether the decoder came to its end or to more than `room` bytes)."""
    if decoder is _gzip and (whole := _gzip_whole(body, room)) is not None:
        return whole, True
    steps: list[int] = []  # those before the error
    parts: list[bytes] = []
    for size in STEPS:
        taken: list[int] = []
        parts = []
        left = room + 1
        try:
            for part in decoder(body, _noted(chain(steps, repeat(size)), taken), room):
                parts.append(part)
                left -= len(part)
                if left <= 0:
                    break
            return b"".join(parts)[: room + 1], True
        except _EndsEarlyError:
            break
        except (zlib.error, brotli.error, zstandard.ZstdError, MemoryError):
            steps = taken[:-1]
    return b"".join(parts)[: room + 1], False


def _noted(steps: Steps, taken: list[int]) -> Steps:
    for step in steps:
        taken.append(step)
        yield step


class _EndsEarlyError(Exception):
    """The body ends before its coding does."""


class _WindowError(Exception):
    """The coding needs a larger window than is allowed."""


def _inflate(body: bytes, steps: Steps, room: int, window: int) -> Iterator[bytes]:
    inflater = zlib.decompressobj(window)
    at, left = 0, room + 1
    for step in steps:
        if at >= len(body):
            raise _EndsEarlyError
        rest = body[at : at + step]
        at += len(rest)
        parts = []
        while rest and left:
            parts.append(inflater.decompress(rest, left))
            left -= len(parts[-1])
            rest = inflater.unconsumed_tail
            if inflater.eof:
                rest = inflater.unused_data
                if window != 31 or not (rest or at < len(body)):
                    yield b"".join(parts)
                    return
                inflater = zlib.decompressobj(window)  # gzip may have further members, RFC 1952 section 2.2
        yield b"".join(parts)


def _gzip(body: bytes, steps: Steps, room: int) -> Iterator[bytes]:
    return _inflate(body, steps, room, 31)


def _gzip_whole(body: bytes, room: int) -> bytes | None:
    """A sound gzip body decoded by isal, in half the time of zlib; None if zlib must decode it.

    The two decoders differ on broken bodies. So isal decodes only a body of one member with a plain header that says
    itself that it is no longer than `room` (RFC 1952 section 2.3.1), and whose check sum is right.
    """
    if body[:4] != b"\x1f\x8b\x08\0" or int.from_bytes(body[-4:], "little") > room:
        return None
    inflater = isal_zlib.decompressobj(31)
    try:
        decoded: bytes = inflater.decompress(body, room + 1)
    except IsalError:
        return None
    return decoded if inflater.eof and not inflater.unused_data else None


def _deflate(body: bytes, steps: Steps, room: int) -> Iterator[bytes]:
    # RFC 9110 section 8.4.1.2: some senders leave out the zlib wrapper
    zlib_wrapper = len(body) >= 2 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    return _inflate(body, steps, room, 15 if zlib_wrapper else -15)


def _brotli(body: bytes, steps: Steps, room: int) -> Iterator[bytes]:
    bits = _brotli_window(body[0])
    if bits > BROTLI_WINDOW:
        raise _WindowError
    # Nothing refers to bytes before the first one. So a body that is no longer than the window decodes to the same with
    # a window of any size, and the decoder gets the smallest one that `room` fits into.
    if bits > 17 and (least := max(18, (room + 1 + BROTLI_RESERVED).bit_length())) < bits:
        body = bytes([body[0] & 0xF0 | (least - 17) << 1 | 1]) + body[1:]
    decompressor = brotli.Decompressor()
    at, left = 0, room + 1
    for step in steps:
        if at >= len(body):
            raise _EndsEarlyError
        part = decompressor.process(body[at : at + step], output_buffer_limit=left)
        at += step
        parts = [part]
        left -= len(part)
        while left > 0 and not decompressor.can_accept_more_data():
            parts.append(decompressor.process(b"", output_buffer_limit=left))
            left -= len(parts[-1])
        yield b"".join(parts)
        if decompressor.is_finished():
            return


def _brotli_window(first: int) -> int:
    """Bits of the window, by the first byte of the stream (RFC 7932 section 9.1); 30 for a large-window stream."""
    if not first & 1:
        return 16
    if first >> 1 & 7:
        return 17 + (first >> 1 & 7)
    rest = first >> 4 & 7
    return 17 if rest == 0 else 30 if rest == 1 else 8 + rest


def _zstd(body: bytes, steps: Steps, room: int) -> Iterator[bytes]:
    # The reader counts its output, so the steps are steps of output. It does not tell an early end from the end.
    frame = zstandard.get_frame_parameters(body)
    skippable = body[1:4] == SKIPPABLE
    if frame.window_size > ZSTD_WINDOW and not skippable:
        raise _WindowError
    due = 1 if skippable or frame.content_size == zstandard.CONTENTSIZE_UNKNOWN else frame.content_size
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
    with decompressor.stream_reader(body, read_across_frames=True) as reader:
        for step in steps:
            part = reader.read(min(step, room + 1))
            if not part:
                break
            due -= len(part)
            yield part
    if due > 0:
        raise _EndsEarlyError


_DECODERS: Final[dict[str, Decoder]] = {"gzip": _gzip, "deflate": _deflate, "br": _brotli, "zstd": _zstd}


def undo(raws: list[RawMessage], most: int) -> tuple[list[RawMessage], int, Counter[str]]:
    """Removes the content codings of the first messages, up to the one with which they weigh `most`.

    Returns these messages, their weight, and how many bodies had a coding, by the reason why it was left ("": removed).
    """
    left: Counter[str] = Counter()
    size = 0
    for count, raw in enumerate(raws, 1):
        reason = raw.decode()
        if reason is not None:
            left[reason] += 1
        size += raw.weight
        if size >= most:
            return raws[:count], size, left
    return raws, size, left
