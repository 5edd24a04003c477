"""Files of records in pieces: decompressed, split into lines and entries, within bounds."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sniffer.capture.records import CUT, END, ENTRY, LAST, LINE, LONG, Item, Records, entries, holds_records, lines
from sniffer.capture.source import INDEX, Packets
from sniffer.errors import CaptureError


def cut(data: bytes, size: int) -> Iterator[bytes]:
    yield from (data[at : at + size] for at in range(0, len(data), size))


def items(data: bytes, *, size: int = 1 << 16, most: int = 1 << 20) -> list[Item]:
    """What a file of records gives, from batches, without its end."""
    found = []
    for batch in Records("name", cut(data, size), most=most, stopped=lambda: False).batches():
        assert batch is not None
        found += [(kind, batch[0][at : at + long]) for kind, _, at, long in INDEX.iter_unpack(batch[1])]
    assert found.pop() == (END, b"name")
    return found


def har(*found: Any, **rest: Any) -> bytes:
    return json.dumps(
        {"log": {"version": "1.2", "creator": {"entries": [{"no": 1}]}, **rest, "entries": found}}
    ).encode()


LINES = b'{"schema":1,"a":"' + b"x" * 60 + b'"}\n{"b":2}\n\n   \n{"c":3}\r\n'
WHOLE = [(LINE, each) for each in LINES.splitlines() if each.strip()]
WHOLE[-1] = (LINE, b'{"c":3}\r')
PACKED: dict[str, Callable[[bytes], bytes]] = {"plain": bytes, "gzip": gzip.compress, "zstd": zstandard.compress}


@pytest.mark.parametrize("size", [1, 3, 70, 1 << 16])
@pytest.mark.parametrize("packed", PACKED)
def test_lines(packed: str, size: int) -> None:
    """Lines come whole however the file comes in pieces, plain and compressed; blank ones do not."""
    assert items(PACKED[packed](LINES), size=size) == WHOLE
    if packed != "plain":
        assert items(PACKED[packed](LINES) + PACKED[packed](LINES), size=size) == WHOLE * 2
    assert items(PACKED[packed](b"\xef\xbb\xbf" + LINES), size=size) == WHOLE


def test_a_last_line_without_its_end() -> None:
    """It is told apart: it may be cut."""
    assert items(LINES + b'{"d"') == [*WHOLE, (LAST, b'{"d"')]


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_long_lines_are_not_kept(size: int) -> None:
    """A line beyond the bound is told, without its bytes; those beside it are whole."""
    data = LINES + b'{"e":"' + b"y" * 500 + b'"}\n' + LINES + b"z" * 500
    assert items(data, size=size, most=100) == [*WHOLE, (LONG, b""), *WHOLE, (LONG, b"")]


@pytest.mark.parametrize("packed", ["gzip", "zstd"])
def test_compressed_data_that_ends_early(packed: str) -> None:
    """What could be read comes first, then one error."""
    data = PACKED[packed](LINES * 500)
    reader = Records("name", cut(data[:-6], 100), most=1000, stopped=lambda: False)
    found: list[Packets | None] = []
    with pytest.raises(CaptureError, match="name cannot be read to its end: "):
        found.extend(reader.batches())
    assert found
    stopped = Records("name", cut(data[:-6], 100), most=1000, stopped=lambda: True)
    assert list(stopped.batches())


def test_compressed_data_that_is_none() -> None:
    """A compressed capture, and what only begins like compressed data, are one error."""
    with pytest.raises(CaptureError, match="name cannot be read: it is compressed"):
        items(gzip.compress(b"\xd4\xc3\xb2\xa1" + bytes(100)))
    with pytest.raises(CaptureError, match="name cannot be read to its end: "):
        items(b"\x1f\x8b and so on" * 10)


@pytest.mark.parametrize("packed", ["gzip", "zstd"])
def test_a_bomb(packed: str) -> None:
    """128 MiB without a line end in a few bytes take no more memory than a piece."""
    data = PACKED[packed](LINES + b" " * (128 << 20))
    tracemalloc.start()
    assert items(data, most=1 << 20) == [*WHOLE, (LONG, b"")]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 << 20


@pytest.mark.parametrize("head", [LINES, b" \n" + har(), b"\xef\xbb\xbf{", gzip.compress(b""), zstandard.compress(b"")])
def test_records_are_told_by_content(head: bytes) -> None:
    """JSON, also behind a mark or blanks, and what is compressed."""
    assert holds_records(head)


@pytest.mark.parametrize(
    "head", [b"", b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4", b"\x4d\x3c\xb2\xa1", b"\x0a\x0d\x0d\x0a{{{{", b"text", b"["]
)
def test_everything_else_is_left_to_libpcap(head: bytes) -> None:
    """Captures in every byte order, and what is neither."""
    assert not holds_records(head)


ODD = [{"a": {"b": [{}, []]}, "c": '"}]\\'}, {}, {"text": '\\"{' * 20}]


@pytest.mark.parametrize("size", [1, 2, 5, 1 << 16])
def test_entries(size: int) -> None:
    """The objects of log.entries, whatever is in them and beside them, however the file comes in pieces."""
    data = har(*ODD, pages=[{"entries": [{"no": 2}]}], comment="entries")
    assert [json.loads(each) for kind, each in items(data, size=size) if kind == ENTRY] == ODD
    assert items(json.dumps({"log": {"entries": ODD, "entries2": [{}]}, "x": [{}]}, indent=2).encode(), size=size)
    assert items(har(), size=size) == []


@given(
    st.lists(
        st.dictionaries(
            st.text(max_size=3), st.recursive(st.text() | st.integers(), st.lists, max_leaves=4), max_size=3
        )
    ),
    st.integers(1, 50),
    st.booleans(),
)
def test_any_entries(found: list[Any], size: int, ascii_only: bool) -> None:
    """Any JSON: the entries are those that Python's json finds."""
    data = json.dumps({"log": {"c": "]", "entries": found}}, ensure_ascii=ascii_only).encode(errors="replace")
    expected = json.loads(data)["log"]["entries"]
    assert [(kind, json.loads(each)) for kind, each in items(data, size=size)] == [(ENTRY, each) for each in expected]


@pytest.mark.parametrize("size", [1, 40, 1 << 16])
def test_long_entries_and_cut_ones(size: int) -> None:
    """An entry beyond the bound is told without its bytes; so is, once, that the file ends within the document."""
    data = har({"a": 1}, {"b": "\\" * 300}, {"c": [["x" * 300]]}, {"d": 2})
    assert items(data, size=size, most=100) == [(ENTRY, b'{"a": 1}'), (LONG, b""), (LONG, b""), (ENTRY, b'{"d": 2}')]
    assert items(data[: data.index(b'{"d"') + 3], size=size, most=100)[-1] == (CUT, b"")


@given(st.binary(max_size=200), st.integers(1, 20))
def test_no_bytes_raise(data: bytes, size: int) -> None:
    """Whatever follows the beginning of HAR or of lines, nothing is raised and pieces do not matter."""
    for head, split in ((b'{"log":{"entries":[', entries), (b"", lines)):
        assert list(split(cut(head + data, size), 50)) == list(split(cut(head + data, 1000), 50)), head


def test_a_wait_is_passed_on() -> None:
    """Where the next piece may take long, the lines so far are given out."""

    def pieces() -> Iterable[bytes]:
        yield LINES
        yield b""
        yield b'{"d":4}\n'

    batches = Records("name", iter(pieces()), most=1000, stopped=lambda: False).batches()
    first = next(batches)
    assert first is not None
    assert len(first[1]) // INDEX.size == len(WHOLE)
