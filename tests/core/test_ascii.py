"""base/ascii: the comparison that ignores case."""

import pytest

from sniffer_core.testing import same_but_for_case


@pytest.mark.parametrize("text", [b"content-length", b"CONTENT-LENGTH", b"Content-Length", b"cOnTeNt-lEnGtH"])
def test_case_makes_no_difference(text: bytes) -> None:
    """Capital and small letters of ASCII are the same."""
    assert same_but_for_case(text, b"content-length")


@pytest.mark.parametrize("byte", range(256))
def test_nothing_else_is_alike(byte: int) -> None:
    """Every other byte is only like itself: no control is like a digit or '-', none above 127 is folded."""
    assert [lower for lower in range(256) if same_but_for_case(bytes([byte]), bytes([lower]))] == list(
        bytes([byte]).lower()
    )
