"""What the log says of traffic and losses."""

from __future__ import annotations

import pytest

from sniffer.ledger import Ledger
from sniffer.watch import DROPS, Watch


def logged(caplog: pytest.LogCaptureFixture, message: str) -> list[str]:
    """The records with this message."""
    return [record.getMessage() for record in caplog.records if record.getMessage() == message]


def test_drops_are_said_when_they_begin_and_in_each_interval(caplog: pytest.LogCaptureFixture) -> None:
    """The first drop at once; further ones not before the next interval, and only where there are more."""
    kernel = {"kernel_dropped": 0, "kernel_if_dropped": 0, "handoff_dropped": 0}
    ledger = Ledger()
    ledger.source(lambda: kernel)
    watch = Watch(ledger, live=True)
    said = []
    for dropped in (0, 3, 5, None, 5, 9, None, 9):
        if dropped is None:
            watch.statistics()
        else:
            kernel["kernel_dropped"] = dropped
            watch.drops(kernel)
        said.append(len(logged(caplog, DROPS["kernel_dropped"])))
    assert said == [0, 1, 1, 1, 1, 2, 2, 2]
