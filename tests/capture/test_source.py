"""The form of packets, and what every source needs."""

from __future__ import annotations

import sys

import pytest

from sniffer.capture.file import FileSource
from sniffer.capture.source import Stop, last_stamp_us
from sniffer.errors import CaptureError
from tests import captures, packets


def test_stamps_of_a_batch() -> None:
    """The last stamp of a batch is that of its last packet, in microseconds."""
    conversation = captures.connection([])
    assert last_stamp_us(packets.to_feed(conversation)) == conversation[-1].stamp


def test_without_pcapy_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pcapy-ng that cannot be loaded is a CaptureError, not an ImportError."""
    monkeypatch.setitem(sys.modules, "pcapy", None)
    with pytest.raises(CaptureError, match="pcapy-ng cannot be loaded"):
        FileSource("x").open(Stop())
