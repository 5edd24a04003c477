"""base/ascii: the comparison that ignores case."""

import pytest

from sniffer_core.testing import same_but_for_case


@pytest.mark.parametrize("text", [b"content-length", b"CONTENT-LENGTH", b"Content-Length", b"cOnTeNt-lEnGtH"])
def test_case_makes_no_difference(text: bytes) -> None:
    """Capital and small letters of ASCII are the same."""
    assert same_but_for_case(text, b"content-length")


@pytest.mark.parametrize("size", [1, 7, 8, 9, 17])
@pytest.mark.parametrize("byte", range(256))
def test_nothing_else_is_alike(byte: int, size: int) -> None:
    """Every other byte is only like itself: no control is like a digit or '-', none above 127 is folded."""
    for place in {0, size // 2, size - 1}:
        before, after = b"a" * place, b"z" * (size - place - 1)
        text = before.upper() + bytes([byte]) + after
        alike = [lower for lower in range(256) if same_but_for_case(text, before + bytes([lower]) + after)]
        assert bytes(alike) == bytes([byte]).lower()
