"""Compressed captures are unpacked exactly, within bounds; what is broken or cut is said."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sniffer.capture.packed import MOST, PackedError, is_packed, unpacked

TEXT = bytes(range(256)) * 40 + b"a" * 300_000


def zstd(data: bytes) -> bytes:
    """A frame."""
    return zstandard.compress(data)


def unknown_size(data: bytes) -> bytes:
    """A frame that does not say how long its content is, as a pipe gives it."""
    compressor = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    return compressor.compress(data) + compressor.flush()


SKIPPED = b"\x5a\x2a\x4d\x18\x05\0\0\0hello"
FORMS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "gzip in members": lambda data: b"".join(gzip.compress(part) for part in (data[:100], b"", data[100:])),
    "gzip with padding": lambda data: gzip.compress(data) + bytes(1000),
    "zstd": zstd,
    "zstd of unknown size": unknown_size,
    "zstd in frames": lambda data: zstd(data[:100]) + SKIPPED + unknown_size(data[100:]),
}


def unpack(data: bytes, step: int = 1000) -> bytes:
    """What it unpacks to, read in such steps; each piece is bounded."""
    source = io.BytesIO(data)
    read = unpacked(lambda: source.read(step), source.read(4))
    made = []
    while piece := read():
        assert len(piece) <= MOST
        made.append(piece)
    return b"".join(made)


@pytest.mark.parametrize("form", FORMS)
@given(data=st.one_of(st.just(TEXT), st.binary(max_size=300)), step=st.integers(1, 5000))
def test_all_forms_are_unpacked(form: str, data: bytes, step: int) -> None:
    """Whatever the steps and the number of members or frames, the data comes back."""
    packed = FORMS[form](data)
    assert is_packed(packed[:4])
    assert unpack(packed, step) == data


@pytest.mark.parametrize("form", ["gzip", "zstd", "zstd of unknown size"])
@given(share=st.floats(0, 1, exclude_max=True))
def test_what_ends_early_is_said(form: str, share: float) -> None:
    """Cut anywhere, what is there is an error that says so."""
    packed = FORMS[form](bytes(range(256)) * 30)
    cut = packed[: 4 + int(share * (len(packed) - 4))]
    with pytest.raises(PackedError, match=r"ends early|broken"):
        unpack(cut)


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_what_is_broken_is_said(pack: Callable[[bytes], bytes]) -> None:
    """Data that is no data of its kind, and trash behind it."""
    with pytest.raises(PackedError, match="broken"):
        unpack(pack(TEXT)[:4] + b"\xff" * 100)
    with pytest.raises(PackedError, match="broken"):
        unpack(pack(TEXT) + b"trash behind the data")


def test_a_wrong_check_sum_is_said() -> None:
    """gzip data whose check sum is wrong is broken."""
    packed = bytearray(gzip.compress(TEXT))
    packed[-5] ^= 1
    with pytest.raises(PackedError, match="broken"):
        unpack(bytes(packed))


def test_what_unpacks_to_much_is_read_in_pieces() -> None:
    """A small file that unpacks to a large one takes no more memory than any other: pieces are bounded."""
    for packed in (zlib.compress(bytes(50 << 20), 9, 31), zstd(bytes(50 << 20))):
        source = io.BytesIO(packed)
        read = unpacked(lambda source=source: source.read(16 << 10), source.read(4))  # type: ignore[misc]
        total = 0
        while piece := read():
            assert len(piece) <= MOST
            total += len(piece)
        assert total == 50 << 20


def test_others_are_not_taken_for_packed() -> None:
    """A capture is none of them."""
    for head in (b"\xd4\xc3\xb2\xa1", b"\x0a\x0d\x0d\x0a", b"", b"\x1f"):
        assert not is_packed(head)
