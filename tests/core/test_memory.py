"""base/memory: blocks that stand together in slabs."""

from __future__ import annotations

from random import Random

import pytest

from sniffer_core.testing import PySlabs

SIZES = (40, 97, 960, 2_000, 3_000, 5_000)
"""More than have slabs of their own."""


@pytest.mark.parametrize("seed", range(5))
def test_blocks_are_apart_and_all_is_given_back(seed: int) -> None:
    """No block overlaps another, each is aligned, the pool counts them, and no slab is left behind the last block."""
    random = Random(seed)
    slabs = PySlabs()
    blocks: dict[int, tuple[int, int]] = {}
    for turn in range(8_000):
        if blocks and random.random() < (0.3 if turn < 4_000 else 0.6):
            address = random.choice(list(blocks))
            size, filling = blocks.pop(address)
            assert slabs.give(address, size) == {filling}
        else:
            size, filling = random.choice(SIZES), random.randrange(256)
            address = slabs.take(size, filling)
            assert address % 16 == 0
            assert address not in blocks
            blocks[address] = (size, filling)
        assert slabs.taken[1] == len(blocks)
    assert slabs.taken[0] >= sum(size for size, _ in blocks.values())
    for address, (size, filling) in blocks.items():
        assert slabs.give(address, size) == {filling}
    assert (slabs.taken, slabs.slabs) == ((0, 0), 0)


def test_a_block_is_used_again() -> None:
    """Blocks that were given back are used before a slab grows, the last of them first."""
    slabs = PySlabs()
    first, second, third = (slabs.take(960, 1) for _ in range(3))
    slabs.give(first, 960)
    slabs.give(third, 960)
    assert [slabs.take(960, 2) for _ in range(2)] == [third, first]
    for address in (first, second, third):
        slabs.give(address, 960)


def test_no_memory() -> None:
    """Without memory there is no block, and nothing is counted."""
    slabs = PySlabs()
    slabs.starve()
    assert slabs.take(960, 1) == 0
    assert slabs.taken == (0, 0)
