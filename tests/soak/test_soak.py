"""The short form of `make soak`: the same code and the same assertions, without flatness over minutes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import needs_capture
from tests.soak.harness import PHASES, assert_accounted, soak_daemon, soak_library

pytestmark = [needs_capture, pytest.mark.live, pytest.mark.slow]
SECONDS = 14.0


@pytest.fixture(autouse=True)
def _cores() -> Iterator[None]:
    """Gives the test's process its cores back."""
    before = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, before)


async def test_nothing_is_unaccounted_while_outputs_fail(tmp_path: Path) -> None:
    """Slow, failing, refusing, hanging and recovering outputs under load: laws, counts, reports and exit code hold."""
    run = await soak_daemon(SECONDS, SECONDS, tmp_path)
    assert {sample.phase for sample in run.samples} == {phase for phase, _ in PHASES}
    assert_accounted(run)


def test_nothing_is_unaccounted_while_a_callback_raises_and_blocks(tmp_path: Path) -> None:
    """A callback that raises and blocks at times: each call of it, and each message, is in one counter."""
    soak_library(3.0, tmp_path)
