"""protocols/http1/heads.py: header lines that the plain grammar declines, read by h11."""

import gc
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer_core.protocols.http1.heads import parse


@pytest.mark.parametrize(
    ("block", "fields"),
    [
        (b"", []),
        (b"A: 1\r\nb:2\n", [(b"A", b"1"), (b"b", b"2")]),
        (b"A: 1\r\n \t 2\r\n\t3\r\nB: 4\r\n", [(b"A", b"1 2 3"), (b"B", b"4")]),
        (b"A: \xe4\xff\x01\r\n", [(b"A", b"\xe4\xff\x01")]),
        (b"A \t: 1\r\n", [(b"A", b"1")]),
        (b"Cookie: a\r\nCookie: b\r\nSet-Cookie: c\r\n", [(b"Cookie", b"a"), (b"Cookie", b"b"), (b"Set-Cookie", b"c")]),
        (
            b"Connection: close\r\nUpgrade: h2c\r\nExpect: 100-continue\r\n",
            [(b"Connection", b"close"), (b"Upgrade", b"h2c"), (b"Expect", b"100-continue")],
        ),
    ],
)
def test_accepted(block: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    """Fields come in order with the case of their names, folds resolved."""
    assert parse(block) == fields


@pytest.mark.parametrize(
    "block",
    [
        b"no colon\r\n",
        b": 1\r\n",
        b"A b: 1\r\n",
        b"A: \x00\r\n",
        b"A: a\rb\r\n",
        b"A: 1\r\r\n",
        b"\xe4: 1\r\n",
        b" fold of nothing\r\nA: 1\r\n",
        b"A\r\n : 1\r\n",
        b"\r\nA: 1\r\n",
        b"A: 1\r\n\r\nB: 2\r\n",
    ],
)
def test_refused(block: bytes) -> None:
    """What h11 refuses is refused, and so is what would end the block or begin with a fold."""
    assert parse(block) is None


@pytest.mark.parametrize("name", [b"Host", b"HOST", b"host "])
def test_host(name: bytes) -> None:
    """h11 wants one Host; blocks with none, several or odd ones are judged like any other."""
    assert parse(name + b": a\r\nA: \xe4\r\n" + name + b":\r\n b c\r\n") == [
        (name.strip(), b"a"),
        (b"A", b"\xe4"),
        (name.strip(), b"b c"),
    ]


@pytest.mark.parametrize("name", [b"Content-Length", b"TRANSFER-ENCODING", b"content-length "])
@pytest.mark.parametrize("value", [b"x", b"\x00", b"1, 2", b""])
def test_framing_fields(name: bytes, value: bytes) -> None:
    """Framing is not h11's: these fields keep what was sent, whatever it is, in their place."""
    block = b"A: 1\r\n" + name + b": " + value + b" \r\n\t more\r\nB: 2\r\n"
    assert parse(block) == [(b"A", b"1"), (name.strip(), (value + b" more").strip()), (b"B", b"2")]


def test_no_limit_of_its_own() -> None:
    """http1 has bounded the head: h11's limit never decides."""
    assert parse(b"A: " + b"\xe4" * 200_000 + b"\r\n") == [(b"A", b"\xe4" * 200_000)]
    many = b"A: \xe4\r\n" * 20_000
    assert parse(many) == [(b"A", b"\xe4")] * 20_000


def test_a_refused_block_leaves_nothing_behind() -> None:
    """Nothing that a refusal has made waits for the garbage collector, nor do the packets of the frames above it."""
    packets = bytes(1 << 20)

    def feed(packets: bytes) -> None:
        assert parse(b": refused\r\n") is None

    feed(packets)
    gc.collect()
    gc.disable()
    try:
        before = sys.getrefcount(packets)
        feed(packets)
        assert sys.getrefcount(packets) == before
        assert gc.collect() == 0
    finally:
        gc.enable()


@given(block=st.lists(st.one_of(st.binary(max_size=6), st.sampled_from([b"\r\n", b"\n", b": ", b"A", b" "]))))
def test_any_bytes(block: list[bytes]) -> None:
    """No block raises."""
    parse(b"".join(block) + b"\r\n")
