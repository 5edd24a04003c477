from __future__ import annotations

import pytest

from sniffer.injector.values import Resources, quantity


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"limits": {"memory": "256Mi", "cpu": "100m"}}, ""),
        ({"requests": {"memory": "1Mi"}}, ""),
        ({"requests": {"memory": "1048575"}}, "must be at least 1Mi of memory"),
        ({"requests": {"cpu": "0"}}, "must be more than 0: requests.cpu is '0'"),
        ({"limits": {"memory": "262143Ki"}}, "must not request more memory than the limit"),
        ({"limits": {"cpu": "99m"}}, "must not request more cpu than the limit"),
    ],
)
def test_bounds_of_resources(changes: dict[str, dict[str, str]], said: str) -> None:
    """A request may be as much as its limit, memory as little as 1Mi; a byte or a millicore further is refused."""
    if not said:
        assert Resources().changed(changes) != Resources()
    else:
        with pytest.raises(ValueError, match=f"^{said}"):
            Resources().changed(changes)


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
