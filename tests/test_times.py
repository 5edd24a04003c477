"""times: percentiles of many times in a fixed amount of memory."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer.times import Times

MILLISECONDS = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=200)


@given(times=MILLISECONDS, share=st.sampled_from([0.5, 0.9, 0.99, 1.0]), step=st.sampled_from([1.01, 1.1]))
def test_percentiles(times: list[float], share: float, step: float) -> None:
    """A percentile is the true one within half a class, and never outside of what was counted."""
    counted = Times(step)
    for time in times:
        counted.add(time)
    true = sorted(times)[math.ceil(share * len(times)) - 1]
    found = counted.percentile(share)
    assert found == pytest.approx(true, rel=step**0.5 - 1 + 1e-9)
    assert min(times) <= found <= max(times)


@given(one=MILLISECONDS, other=MILLISECONDS)
def test_merged(one: list[float], other: list[float]) -> None:
    """Times that were counted apart are, together, those that were counted at once."""
    apart, whole, at_once = Times(1.1), Times(1.1), Times(1.1)
    for time in one:
        whole.add(time)
    for time in other:
        apart.add(time)
    for time in (*one, *other):
        at_once.add(time)
    whole.merge(apart)
    assert whole.count == at_once.count
    assert whole.total == pytest.approx(at_once.total)
    assert [whole.percentile(share) for share in (0.5, 0.9, 1.0)] == [
        at_once.percentile(share) for share in (0.5, 0.9, 1.0)
    ]


def test_none_and_extremes() -> None:
    """Without a time percentiles are 0; times beyond the classes count in the first and the last."""
    counted = Times(1.1)
    assert counted.percentile(0.5) == 0
    counted.add(0.0)
    counted.add(1e12)
    assert (counted.count, counted.percentile(1.0)) == (2, 1e12)
    assert 0.0 <= counted.percentile(0.5) <= 0.001
