"""HPACK: what a decoder makes of whole connections, of ones joined late, and after blocks were lost."""

from __future__ import annotations

import json
import tarfile
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer_core.testing import PyHpack

OK, ERROR, MEMORY, BOUND = 0, -1, -2, -3
STORIES = Path(__file__).parents[4] / "shared/http2/hpack-test-case.tar.xz"

Header = tuple[bytes, bytes]
Connection = list[tuple[bytes, list[Header]]]

# RFC 7541 appendix C: the size of the table, and of each block its bytes, its fields and the table's size behind it.
FIRST = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")]
SECOND = [*FIRST, (b"cache-control", b"no-cache")]
THIRD = [
    (b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/index.html"), (b":authority", b"www.example.com"),
    (b"custom-key", b"custom-value"),
]  # fmt: skip
PRIVATE = (b"cache-control", b"private")
DATE = b"Mon, 21 Oct 2013 20:13:21 GMT"
LOCATION = (b"location", b"https://www.example.com")
ANSWERS = [
    [(b":status", b"302"), PRIVATE, (b"date", DATE), LOCATION],
    [(b":status", b"307"), PRIVATE, (b"date", DATE), LOCATION],
    [
        (b":status", b"200"), PRIVATE, (b"date", DATE[:-5] + b"2 GMT"), LOCATION, (b"content-encoding", b"gzip"),
        (b"set-cookie", b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
    ],
]  # fmt: skip
EXAMPLES: list[tuple[int, list[tuple[str, list[Header], int]]]] = [
    (4096, [("400a637573746f6d2d6b65790d637573746f6d2d686561646572", [(b"custom-key", b"custom-header")], 55)]),
    (4096, [("040c2f73616d706c652f70617468", [(b":path", b"/sample/path")], 0)]),
    (4096, [("100870617373776f726406736563726574", [(b"password", b"secret")], 0)]),
    (4096, [("82", [(b":method", b"GET")], 0)]),
    (4096, [
        ("828684410f7777772e6578616d706c652e636f6d", FIRST, 57),
        ("828684be58086e6f2d6361636865", SECOND, 110),
        ("828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565", THIRD, 164),
    ]),
    (4096, [
        ("828684418cf1e3c2e5f23a6ba0ab90f4ff", FIRST, 57),
        ("828684be5886a8eb10649cbf", SECOND, 110),
        ("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf", THIRD, 164),
    ]),
    (256, [
        (
            ("4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54"
            "6e1768747470733a2f2f7777772e6578616d706c652e636f6d"), ANSWERS[0], 222,
        ),
        ("4803333037c1c0bf", ANSWERS[1], 222),
        (
            ("88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a"
            "4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31"),
            ANSWERS[2], 215,
        ),
    ]),
    (256, [
        (
            "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
            ANSWERS[0], 222,
        ),
        ("4883640effc1c0bf", ANSWERS[1], 222),
        (
            ("88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960"
            "d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007"), ANSWERS[2], 215,
        ),
    ]),
]  # fmt: skip


def pairs(fields: list[tuple[bytes | None, bytes | None, bool, int, int]]) -> list[tuple[bytes | None, bytes | None]]:
    return [(name, value) for name, value, *_ in fields]


def wrong(table: PyHpack, block: bytes, truth: list[Header]) -> int:
    """How many values are presented that are not the truth; unknown ones are marked, and are not wrong."""
    result, fields = table.decode(block)
    assert result == OK
    assert len(fields) == len(truth)
    for name, value, _, unknown_name, unknown_value in fields:
        assert (name is None) == (unknown_name > 0)
        assert (value is None) == (unknown_value > 0)
    return sum(
        (name is not None and name != right[0]) or (value is not None and value != right[1])
        for (name, value, *_), right in zip(fields, truth, strict=True)
    )


def encoded(seed: int, blocks: int = 30) -> Connection:
    """A connection as the `hpack` package encodes it, with tables of changing sizes."""
    random = Random(seed)
    encoder = hpack.Encoder()
    out = []
    for _ in range(blocks):
        if random.random() < 0.1:
            encoder.header_table_size = random.choice((0, 60, 200, 4096))
        headers = [
            (random.choice((b":path", b"x-%d" % random.randint(0, 20))), random.randbytes(random.choice((0, 3))))
            for _ in range(random.randint(1, 12))
        ]
        out.append((encoder.encode(headers, huffman=random.random() < 0.5), headers))
    return out


@cache
def stories() -> list[Connection]:
    """The connections of hpack-test-case."""
    if not STORIES.exists():
        pytest.skip("hpack-test-case is not here")
    out = []
    with tarfile.open(STORIES) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith(".json") else None
            if file is None:
                continue
            cases: list[dict[str, Any]] = json.load(file)["cases"]
            out.append([
                (
                    bytes.fromhex(case["wire"]),
                    [(k.encode(), v.encode()) for header in case["headers"] for k, v in header.items()],
                )
                for case in cases
            ])  # fmt: skip
    return out


@pytest.mark.parametrize(("size", "blocks"), EXAMPLES)
def test_the_examples_of_the_rfc(size: int, blocks: list[tuple[str, list[Header], int]]) -> None:
    """RFC 7541 appendix C: the fields of each block, and the size of the table behind it."""
    table = PyHpack(size)
    for wire, fields, used in blocks:
        result, found = table.decode(bytes.fromhex(wire))
        assert (result, pairs(found), table.state[1]) == (OK, fields, used)
        assert [never for _, _, never, *_ in found] == [wire.startswith("10")] * len(found)
    table.close()


def test_every_entry_of_the_static_table() -> None:
    """RFC 7541 appendix A."""
    result, found = PyHpack().decode(bytes(range(0x81, 0x80 + 62)))
    assert (result, pairs(found)) == (OK, list(hpack.table.HeaderTable.STATIC_TABLE))


def test_every_octet_has_its_huffman_code() -> None:
    """RFC 7541 appendix B: each octet alone, each pair of octets, and all of them at once."""
    encoder = hpack.huffman.HuffmanEncoder(
        hpack.huffman_constants.REQUEST_CODES, hpack.huffman_constants.REQUEST_CODES_LENGTH
    )
    texts = [bytes((a, b)) for a in range(256) for b in (a, 0, 48, 120, 255)] + [bytes(range(256))]
    table = PyHpack()
    for text in [*texts, *(bytes((a,)) for a in range(256))]:
        code = encoder.encode(text)
        size = hpack.hpack.encode_integer(len(code), 7)
        size[0] |= 0x80
        assert table.decode(b"\x04" + bytes(size) + code) == (OK, [(b":path", text, False, 0, 0)])


@given(st.integers(0, 1 << 32))
def test_what_an_encoder_encodes(seed: int) -> None:
    """Whatever an encoder does, the fields are what it was given; joined at any block, none is wrong."""
    connection = encoded(seed)
    table = PyHpack()
    assert [pairs(table.decode(block)[1]) for block, _ in connection] == [fields for _, fields in connection]
    table.close()
    for joined in range(0, len(connection), 3):
        late = PyHpack(late=True)
        assert sum(wrong(late, *case) for case in connection[joined:]) == 0
        late.close()


def test_all_stories() -> None:
    """Every block of hpack-test-case gives its fields."""
    for connection in stories():
        table = PyHpack()
        for block, fields in connection:
            assert table.decode(block) == (OK, [(name, value, False, 0, 0) for name, value in fields])
        table.close()


@pytest.mark.slow
def test_stories_joined_at_every_block() -> None:
    """Joined anywhere, no value is wrong, and each entry that is unknown has one number and one meaning."""
    for connection in stories():
        for joined in range(len(connection)):
            table = PyHpack(late=True)
            assert sum(wrong(table, *case) for case in connection[joined : joined + 40]) == 0


@pytest.mark.slow
def test_stories_with_a_block_lost_at_every_place() -> None:
    """Where a block is lost and the table forgotten, no later value is wrong."""
    for connection in stories():
        for lost in range(len(connection)):
            table = PyHpack(late=lost > 20)
            for block, _ in connection[max(0, lost - 20) : lost]:
                table.decode(block)
            table.forget()
            assert sum(wrong(table, *case) for case in connection[lost + 1 : lost + 41]) == 0


def test_unknown_entries_are_told_apart() -> None:
    """An unknown entry keeps its number while others are inserted; after a loss numbers are new ones."""
    table = PyHpack(late=True)
    assert table.decode(b"\xbe\xbf") == (OK, [(None, None, False, 1, 1), (None, None, False, 2, 2)])
    assert table.decode(b"\x40\x01a\x01b\xbf\xbe") == (
        OK, [(b"a", b"b", False, 0, 0), (None, None, False, 1, 1), (b"a", b"b", False, 0, 0)]
    )  # fmt: skip
    assert table.decode(b"\x7f\x00\x01c\xbe") == (OK, [(None, b"c", False, 1, 0)] * 2)
    table.forget()
    assert table.decode(b"\xbe") == (OK, [(None, None, False, 1 << 32 | 1, 1 << 32 | 1)])


def test_a_joined_table_of_another_size() -> None:
    """An entry that is larger than what is kept is unknown, and those behind it are exact."""
    table = PyHpack(late=True)
    large = b"\x40\x01a\x7f\xa1\x27" + b"x" * 5152
    assert table.decode(large) == (OK, [(b"a", b"x" * 5152, False, 0, 0)])
    result, fields = table.decode(b"\x40\x01b\x01c\xbe\xbf\xc0")
    assert result == OK
    assert pairs(fields) == [(b"b", b"c"), (b"b", b"c"), (None, None), (None, None)]
    assert fields[2][3] != fields[3][3] == 1


def test_an_update_to_nothing_makes_a_joined_table_exact() -> None:
    """After a size update to 0 there is no entry that is unknown."""
    table = PyHpack(late=True)
    assert table.decode(b"\x20\x3f\xe1\x1f\x40\x01a\x01b\xbe")[0] == OK
    assert table.decode(b"\xbf") == (ERROR, [])


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"\x80", id="index 0"),
        pytest.param(b"\xbe", id="index beyond the table"),
        pytest.param(b"\x7f\x00\x01a", id="name beyond the table"),
        pytest.param(b"\xff", id="cut integer"),
        pytest.param(b"\xff\x80\x80\x80\x80\x80\x00", id="integer of too many bytes"),
        pytest.param(b"\xff\xff\xff\xff\xff\x7f", id="integer too large"),
        pytest.param(b"\x00\x05ab", id="cut name"),
        pytest.param(b"\x00\x01a", id="no value"),
        pytest.param(b"\x82\x20", id="update behind a field"),
        pytest.param(b"\x20\x20\x20", id="three updates"),
        pytest.param(b"\x3f\xe2\x1f", id="update beyond the limit"),
        pytest.param(b"\x04\x84\xff\xff\xff\xff", id="EOS"),
        pytest.param(b"\x04\x82\x1f\xff", id="padding of more than 7 bits"),
        pytest.param(b"\x04\x81\x18", id="padding of zeros"),
    ],
)
def test_malformed(block: bytes) -> None:
    """What RFC 7541 forbids is an error, and no entry from before it is used."""
    table = PyHpack()
    assert table.decode(b"\x40\x01a\x01b" if block[0] not in (0xBE, 0x7F) else b"\x82")[0] == OK
    assert table.decode(block)[0] == ERROR
    assert table.decode(b"\xbe")[1][0][:2] == (None, None)
    table.close()


def test_a_bound_leaves_the_table_right() -> None:
    """Fields beyond the bound are not given; later blocks are right all the same, or unknown."""
    table = PyHpack()
    block = b"\x40\x01a\x01b" + b"\xbe" * 1000 + b"\x40\x01c\x01d"
    result, fields = table.decode(block, 34 * 10)
    assert (result, len(fields)) == (BOUND, 10)
    assert pairs(table.decode(b"\x40\x01e\x01f\xbe\xbf")[1]) == [(b"e", b"f"), (b"e", b"f"), (None, None)]
    table.close()


def test_a_large_table_is_kept_in_part() -> None:
    """A peer that allows more than 64 KiB gets no more memory; what is not kept is unknown."""
    table = PyHpack()
    table.limit(1 << 24)
    for i in range(3000):
        block = (b"\x3f\xe1\xff\xff\x07" if i == 0 else b"") + b"\x40\x03" + b"%03d" % (i % 1000) + b"\x14" + b"v" * 20
        assert table.decode(block)[0] == OK
    count, used, _, memory = table.state
    assert (count, used <= 65536, memory < 4 * 65536) == (65536 // 55, True, True)
    first, last = table.decode(b"\xbe\xff\xff\x0a")[1]
    assert (first[:2], last[:2]) == ((b"999", b"v" * 20), (None, None))
    table.close()


def test_without_memory() -> None:
    """Where there is no memory nothing is wrong afterwards: entries are unknown, and later ones exact."""
    connection = encoded(7)
    for number in range(1, 8):
        table = PyHpack()
        table.starve(number)
        failed = 0
        for block, truth in connection:
            result, fields = table.decode(block)
            assert result in (OK, MEMORY)
            failed += result == MEMORY
            assert all(
                name in (None, right[0]) and value in (None, right[1])
                for (name, value, *_), right in zip(fields, truth, strict=False)
            )
        assert failed <= 1
        assert number > 2 or failed
        table.close()


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes(block: bytes, late: bool) -> None:
    """Whatever a block holds, the decoder ends, agrees with the `hpack` package where both accept, leaks nothing."""
    table, other = PyHpack(late=late), hpack.Decoder()
    result, fields = table.decode(block)
    try:
        theirs = other.decode(block, raw=True)
    except hpack.HPACKError:
        theirs = None
    if result == OK and theirs is not None:
        assert pairs(fields) == [tuple(field) for field in theirs]
    table.close()
