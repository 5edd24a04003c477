from __future__ import annotations

import pytest

from sniffer.injector.values import quantity


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1),
        ("100m", 0.1),
        ("1Ki", 1024),
        ("1.5Gi", 1.5 * 2**30),
        ("1e3", 1000),
        ("1E3", 1000),
        ("2k", 2000),
        (".5", 0.5),
        ("1E", 10**18),
        ("7n", 7e-9),
        ("1Ei", 2**60),
    ],
)
def test_quantities(text: str, number: float) -> None:
    """Quantities mean what Kubernetes reads in them."""
    assert float(quantity(text)) == number


@pytest.mark.parametrize("text", ["", "m", "1 Gi", "1gi", "1K", "--1", "1e", "0x10", "1Gib", "٣"])
def test_no_quantities(text: str) -> None:
    """What Kubernetes reads no quantity in is refused."""
    with pytest.raises(ValueError, match="is no quantity"):
        quantity(text)
