"""record/codings: bodies without their content codings, within bounds."""

from __future__ import annotations

import base64
import gzip
import time
import tracemalloc
import zlib
from typing import Any

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sniffer.record import codings
from sniffer.record.codings import _brotli_window, _gzip_whole, decode
from tests.raws import CODECS, brotli_bomb
from tests.records import answer


def raw_deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(data) + deflater.flush()


@pytest.mark.parametrize("coding", CODECS)
@pytest.mark.parametrize("body", [b"text " * 100, bytes(range(256)), b""])
def test_content_codings_are_removed(coding: str, body: bytes) -> None:
    """gzip, deflate, br and zstd bodies are decoded, and `bodyDecoded` names what was removed."""
    coded = CODECS[coding](body)
    fields = answer(coded, coding.upper())
    shown = base64.b64decode(fields["body"]) if "bodyEncoding" in fields else fields["body"].encode()
    assert shown == body
    assert fields["bodyDecoded"] == coding.removeprefix("x-")
    assert fields["bodySize"] == len(coded)
    assert "bodyTruncated" not in fields


def test_deflate_without_its_wrapper_is_decoded_too() -> None:
    """RFC 9110 section 8.4.1.2: raw deflate data is accepted."""
    assert answer(raw_deflate(b"raw" * 20), "deflate")["body"] == "raw" * 20


def test_several_members_of_gzip_are_one_body() -> None:
    """RFC 1952 section 2.2: a gzip body may have several members."""
    body = gzip.compress(b"one ") + gzip.compress(b"two")
    assert answer(body, "gzip")["body"] == "one two"


def test_several_frames_of_zstd_are_one_body() -> None:
    """RFC 8878 section 3: zstd data is one or more frames."""
    body = zstandard.compress(b"one ") + zstandard.compress(b"two")
    assert answer(body, "zstd")["body"] == "one two"


def test_codings_are_removed_from_right_to_left_at_most_four() -> None:
    """Several codings are removed from the last to the first; a fifth one stays."""
    body = b"deep"
    for coding in ("br", "gzip", "zstd", "deflate"):
        body = CODECS[coding](body)
    assert answer(body, "br, gzip, zstd,deflate")["body"] == "deep"
    fields = answer(gzip.compress(gzip.compress(body)), "br,gzip,zstd,deflate,gzip,gzip")
    assert fields["bodyDecoded"] == "zstd, deflate, gzip, gzip"
    assert decode(base64.b64decode(fields["body"]), "br,gzip", 1000).body == b"deep"


@pytest.mark.parametrize("coding", ["identity", "aws-chunked", "", ",", "gzip, unknown"])
def test_unknown_codings_leave_the_body(coding: str) -> None:
    """What cannot be removed is left as sent, and nothing is said to be decoded."""
    fields = answer(b"as sent", coding)
    assert fields["body"] == "as sent"
    assert "bodyDecoded" not in fields


def test_decoding_can_be_turned_off() -> None:
    """With `DECODE_BODIES` off a body stays as sent."""
    fields = answer(gzip.compress(b"x"), "gzip", decode=None)
    assert fields["bodyEncoding"] == "base64"


@pytest.mark.slow
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_bomb_is_a_truncated_body(coding: str) -> None:
    """A body that decodes to far more than the cap costs no more than the cap, and is marked as cut."""
    bomb = CODECS[coding](bytes(50_000_000))
    tracemalloc.start()
    try:
        fields = answer(bomb, coding, max_body=65536)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert fields["body"] == "\0" * 65536
    assert fields["bodyTruncated"] is True
    assert peak < 12_000_000


def test_nested_bombs_are_cut_at_each_step() -> None:
    """A bomb within a bomb is cut at the cap after each coding."""
    bomb = gzip.compress(gzip.compress(bytes(10_000_000)))
    assert answer(bomb, "gzip, gzip")["bodyTruncated"] is True


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_decoded_body_of_exactly_the_cap_is_not_cut(coding: str) -> None:
    """`bodyTruncated` is said only where there was more."""
    assert "bodyTruncated" not in answer(CODECS[coding](b"x" * 1000), coding)
    assert "bodyTruncated" in answer(CODECS[coding](b"x" * 1001), coding)


def noise(size: int) -> bytes:
    """Text that does not compress well."""
    return base64.b64encode(b"".join(zlib.crc32(bytes([n % 256, n >> 8])).to_bytes(4, "big") for n in range(size)))[
        :size
    ]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_coding_that_ends_early_gives_what_it_gave(coding: str) -> None:
    """What is left of a coded body is decoded as far as it goes."""
    body = noise(900)
    coded = CODECS[coding](body)
    fields = answer(coded[: len(coded) * 3 // 4], coding, declared=len(coded))
    if coding == "zstd":  # one block: nothing of it can be decoded
        assert fields["bodyEncoding"] == "base64"
        assert "bodyDecoded" not in fields
    else:
        assert fields["body"]
        assert body.startswith(fields["body"].encode())
        assert fields["bodyDecoded"] == coding


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_broken_coding_gives_what_it_gave(coding: str) -> None:
    """The bytes before an error in a coding are kept, even where only the check sum is wrong."""
    body = noise(900)
    coded = bytearray(CODECS[coding](body))
    coded[-1] ^= 0xFF
    fields = answer(bytes(coded), coding)
    assert fields["body"].encode() == body
    assert fields["bodyDecoded"] == coding


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_coding_that_fails_at_once_leaves_the_raw_bytes(coding: str) -> None:
    """A body that is not coded as it says is shown as sent, without `bodyDecoded`."""
    fields = answer(b"plain text, not coded", coding)
    assert fields["body"] == "plain text, not coded"
    assert "bodyDecoded" not in fields


def test_a_zstd_window_beyond_8_mib_is_refused() -> None:
    """RFC 9659: a window of more than 8 MiB is not decoded."""
    parameters = zstandard.ZstdCompressionParameters(window_log=24, write_content_size=False)
    coded = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = coded.compress(noise(100)) + coded.flush()
    assert "bodyDecoded" not in answer(body, "zstd")


@given(st.sampled_from(["gzip", "deflate", "br", "zstd", "gzip, br"]), st.binary(max_size=400), st.integers(0, 50))
def test_no_body_raises(coding: str, body: bytes, room: int) -> None:
    """An observer never raises on traffic: any bytes under any coding make a record within the cap."""
    fields = answer(body, coding, max_body=room)
    assert len(fields.get("body", "")) <= max(len(body), room) * 4 // 3 + 4


@given(st.binary(min_size=1, max_size=300), st.data())
def test_damaged_bodies_cost_little(body: bytes, data: st.DataObject) -> None:
    """A flipped byte anywhere in a coded body never raises."""
    coding = data.draw(st.sampled_from(["gzip", "deflate", "br", "zstd"]))
    coded = bytearray(CODECS[coding](body))
    coded[data.draw(st.integers(0, len(coded) - 1))] ^= 0x55
    answer(bytes(coded), coding)


@given(st.binary(max_size=300), st.lists(st.tuples(st.integers(0, 400), st.integers(1, 255)), max_size=3), st.data())
def test_the_fast_gzip_decoder_says_what_zlib_says(
    body: bytes, damage: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Whole, damaged anywhere, cut, followed by something, with room for all of it or not."""
    coded = bytearray(gzip.compress(body * data.draw(st.integers(1, 9)), data.draw(st.integers(0, 9)), mtime=0))
    for at, change in damage:
        coded[at % len(coded)] ^= change
    coded = coded[: data.draw(st.sampled_from((len(coded), len(coded) - 1, len(coded) // 2)))]
    coded += data.draw(st.sampled_from((b"", b"", b"x", gzip.compress(b"y"))))
    room = data.draw(st.sampled_from((len(body), len(body) + 1, 10_000)))
    both = [decode(bytes(coded), "gzip", room)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sniffer.record.codings._gzip_whole", lambda *_: None)
        both.append(decode(bytes(coded), "gzip", room))
    assert both[0] == both[1]


def test_sound_gzip_takes_the_fast_decoder() -> None:
    """What gzip.compress gives is decoded without zlib, up to the cap; what is longer, or broken, is not."""
    coded = gzip.compress(b"x" * 100)
    assert _gzip_whole(coded, 100) == b"x" * 100
    assert _gzip_whole(coded, 99) is None
    assert _gzip_whole(coded[:-9] + bytes([coded[-9] ^ 1]) + coded[-8:], 100) is None
    assert _gzip_whole(coded + b"x", 100) is None


ANY_CODING = st.sampled_from(["gzip", "deflate", "br", "zstd"])


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Some bytes, part of which repeat what came before."""
    parts = draw(st.lists(st.binary(max_size=300), min_size=1, max_size=4))
    return b"".join(part * draw(st.integers(1, 40)) for part in parts)


@given(ANY_CODING, bodies(), st.integers(0, 20_000))
def test_any_cap_gives_the_beginning_of_the_whole(coding: str, body: bytes, room: int) -> None:
    """Decoding up to a cap is decoding the whole and cutting it there; `full` says that there was more."""
    assert decode(CODECS[coding](body), coding, room) == (body[:room], coding, len(body) > room, False, "")


def step_sizes() -> st.SearchStrategy[tuple[int, ...]]:
    """Other steps, which come down to single bytes too."""
    return st.tuples(st.integers(2, 5000), st.just(1)) | st.just((1,))


@given(ANY_CODING, bodies(), st.integers(0, 20_000), step_sizes(), st.data())
def test_the_steps_change_nothing(
    coding: str, body: bytes, room: int, steps: tuple[int, ...], data: st.DataObject
) -> None:
    """A coded body, cut or damaged anywhere, decodes to the same in steps of any size: its bytes alone decide."""
    coded = bytearray(CODECS[coding](body))
    damage = data.draw(st.sampled_from(("none", "cut", "flip", "trail")))
    if damage == "cut":
        del coded[data.draw(st.integers(0, len(coded) - 1)) :]
    elif damage == "flip":
        coded[data.draw(st.integers(0, len(coded) - 1))] ^= data.draw(st.integers(1, 255))
    elif damage == "trail":
        coded += data.draw(st.sampled_from((b"\0", b"xyz", bytes(5000), CODECS[coding](b"more"))))
    if not coded:
        return
    usual = decode(bytes(coded), coding, room)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codings, "STEPS", steps)
        assert decode(bytes(coded), coding, room) == usual
    if damage == "cut" and usual.removed:
        assert body[:room].startswith(usual.body)


class Counting:
    """In place of a module of decoders: counts what goes into them."""

    def __init__(self, module: Any, maker: str, method: str) -> None:
        self._module, self._maker, self._method = module, maker, method
        self.calls = self.fed = 0

    def __getattr__(self, name: str) -> Any:
        if name != self._maker:
            return getattr(self._module, name)
        return lambda *given: _Counted(getattr(self._module, name)(*given), self, self._method)


class _Counted:
    def __init__(self, decoder: Any, count: Counting, method: str) -> None:
        self._decoder, self._count, self._method = decoder, count, method

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._decoder, name)
        if name != self._method:
            return found

        def call(data: bytes, *given: Any, **keywords: Any) -> Any:
            self._count.calls += 1
            self._count.fed += len(data)
            return found(data, *given, **keywords)

        return call


def work(patch: pytest.MonkeyPatch, coding: str, body: bytes, room: int) -> int:
    """Calls of a decoder, and a hundredth of the bytes that go into it, to decode a body."""
    made = (
        ("zlib", "decompressobj", "decompress")
        if coding in ("gzip", "deflate")
        else ("brotli", "Decompressor", "process")
    )
    count = Counting({"zlib": zlib, "brotli": brotli}[made[0]], *made[1:])
    patch.setattr(codings, made[0], count)
    decode(body, coding, room)
    return count.calls + count.fed // 100


@pytest.mark.slow
def test_work_is_linear_in_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty members, empty blocks, tiny ones, an error at the end: sixteen times the body is sixteen times the work."""
    empty, tiny = gzip.compress(b"", mtime=0), gzip.compress(b"x", mtime=0)
    shapes: list[tuple[str, bytes, bytes, bytes]] = [
        ("gzip", b"", empty, b""),
        ("gzip", b"", tiny, b""),
        ("gzip", b"", empty, b"broken"),
        ("deflate", b"", b"\0\0\0\xff\xff", b"\x01\0\0\xff\xff"),
        ("br", b"\x0c", b"\x06", b"\x03"),
    ]
    for coding, first, each, last in shapes:
        small, large = (work(monkeypatch, coding, first + each * count + last, 1 << 20) for count in (2_000, 32_000))
        assert large <= 18 * small, (coding, each, small, large)


def test_many_frames_of_zstd_take_time_in_proportion() -> None:
    """Empty frames, skippable ones and windows that change from frame to frame are read in one pass."""
    small = bytes.fromhex("28b52ffd 00 00 010000")
    shapes = [small, bytes.fromhex("502a4d18 00000000"), bytes.fromhex("28b52ffd 00 68 010000") + small * 130]
    for each in shapes:
        body = each * ((1 << 20) // len(each))
        began = time.process_time()
        assert decode(body + zstandard.compress(b"end"), "zstd", 1000).body == b"end"
        assert time.process_time() - began < 0.5


@pytest.mark.parametrize("window", range(18, 25))
def test_brotli_fills_no_more_of_a_window_than_the_cap_wants(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows up to 22 bits are decoded, and the decoder is given the smallest one that the cap fits into."""
    seen: list[bytes] = []
    make = brotli.Decompressor

    class Spy:
        def __init__(self) -> None:
            self._decoder = make()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._decoder, name)

        def process(self, data: bytes, **limit: int) -> bytes:
            seen.append(bytes(data))
            return self._decoder.process(data, **limit)

    monkeypatch.setattr(brotli, "Decompressor", Spy)
    for room in (1, 65_536, (1 << 18) - 17, 1 << 18, 1 << 20):
        seen.clear()
        decoded = decode(brotli_bomb(window), "br", room)
        if window > 22:
            assert decoded == (brotli_bomb(window), "", False, False, "window")
            assert seen == []
        else:
            assert (len(decoded.body), decoded[1:]) == (room, ("br", True, False, ""))
            assert _brotli_window(seen[0][0]) <= max(18, (2 * room).bit_length())


@pytest.mark.parametrize("window", range(10, 25))
def test_brotli_windows_of_all_sizes_give_the_same(window: int) -> None:
    """What is decoded with a smaller window than the stream asks for is what the stream says, up to any cap."""
    body = (noise(65_536) + bytes(40_000)) * 6 + b"end"
    coded = brotli.compress(body, quality=5, lgwin=window)
    assert _brotli_window(coded[0]) == window
    for room in (1, 1000, 65_536, (1 << 18) - 17, (1 << 18) - 16, 1 << 18, 500_000, 1 << 20):
        expected = (
            (coded, "", False, False, "window") if window > 22 else (body[:room], "br", len(body) > room, False, "")
        )
        assert decode(coded, "br", room) == expected


def test_large_window_brotli_is_left_coded() -> None:
    """The large-window form of brotli, which no browser reads, is left coded for its window."""
    assert decode(bytes([0x11, 30]) + bytes(20), "br", 1000)[1:] == ("", False, False, "window")


def test_what_is_left_coded_says_why() -> None:
    """Nothing was left, the window, no output, no such coding, one too many."""
    frame = zstandard.ZstdCompressionParameters(window_log=24, write_content_size=False)
    large = zstandard.ZstdCompressor(compression_params=frame).compressobj()
    assert decode(gzip.compress(b"x"), "gzip", 10).left == ""
    assert decode(large.compress(noise(100)) + large.flush(), "zstd", 10).left == "window"
    assert decode(b"plain text", "gzip", 10).left == "broken"
    assert decode(gzip.compress(b"x"), "aws-chunked, gzip", 10) == (b"x", "gzip", False, False, "unknown")
    body = b"deep"
    for _ in range(5):
        body = gzip.compress(body)
    assert decode(body, "gzip, gzip, gzip, gzip, gzip", 1000).left == "unknown"
    assert decode(b"x", "identity", 10).left == ""


def test_a_skippable_frame_of_zstd_is_skipped() -> None:
    """RFC 8878 section 3.1.2: a frame that holds no data says nothing of the length of what follows."""
    skipped = bytes.fromhex("5f2a4d18") + (100).to_bytes(4, "little") + bytes(100)
    assert decode(skipped + zstandard.compress(b"seen"), "zstd", 1000) == (b"seen", "zstd", False, False, "")


def test_a_broken_body_of_the_cap_is_decoded_in_bounded_time() -> None:
    """A hostile body costs a bounded time, not the square of its size."""
    room = 65536
    for coding in ("gzip", "br", "zstd"):
        coded = bytearray(CODECS[coding](noise(room) + bytes(room)))[:room]
        coded[-20] ^= 0xFF
        began = time.process_time()
        decode(bytes(coded), coding, room)
        assert time.process_time() - began < 0.5
