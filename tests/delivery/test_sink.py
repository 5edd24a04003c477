"""What a sink must have, and how its errors are described."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest

from sniffer.delivery.retry import Retries
from sniffer.delivery.sink import Record, Sink, where
from tests.deliveries import Recorder, lane_to, messages, settled


def refuse() -> None:
    """Raises an error whose text may quote a message."""
    raise ValueError("cannot use it")


def test_where_names_the_innermost_place() -> None:
    """An exception is described by its type and the place that raised it."""
    with pytest.raises(ValueError, match="cannot use") as raised:
        refuse()
    assert where(raised.value).startswith("ValueError at test_sink.py:")
    assert where(raised.value).endswith("in refuse")
    assert where(ValueError("x")) == "ValueError"


async def test_a_sink_needs_only_a_name_and_deliver() -> None:
    """A sink works with a name and `deliver` alone."""

    class Smallest(Sink):
        name = "smallest"

        async def deliver(self, batch: Sequence[Record]) -> None:
            pass

    async with lane_to(Smallest(), retries=Retries()) as lane:
        lane.offer(messages(2))
        assert (await settled(lane)).delivered == 2


async def test_nothing_is_logged_where_nothing_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    """A lane that delivers everything logs nothing."""
    caplog.set_level(logging.DEBUG, "sniffer")
    async with lane_to(Recorder()) as lane:
        lane.offer(messages(2))
        await settled(lane)
    assert not [record for record in caplog.records if record.name.startswith("sniffer")]
