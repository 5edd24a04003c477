"""The form of packets, and what every source needs."""

from __future__ import annotations

import math
import select
import sys
import time
from collections.abc import Iterator

import pytest

from sniffer.capture.file import FileSource
from sniffer.capture.source import BATCH_BYTES, BATCH_PACKETS, Pace, Packets, Source, Stop, last_stamp_us, packet_count
from sniffer.errors import CaptureError
from tests import captures, packets
from tests.daemon import DEMO


def test_stamps_of_a_batch() -> None:
    """The last stamp of a batch is that of its last packet, in microseconds."""
    conversation = captures.connection([])
    assert last_stamp_us(packets.to_feed(conversation)) == conversation[-1].stamp


def test_without_pcapy_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pcapy-ng that cannot be loaded is a CaptureError, not an ImportError."""
    monkeypatch.setitem(sys.modules, "pcapy", None)
    with pytest.raises(CaptureError, match="pcapy-ng cannot be loaded"):
        FileSource(str(DEMO)).open(Stop())


def test_packets_of_a_batch_are_counted() -> None:
    """A batch has as many packets as its index has entries."""
    conversation = captures.connection(captures.exchanges(3))
    assert packet_count(packets.to_feed(conversation)) == len(conversation)
    assert packet_count((b"", b"")) == 0


@pytest.mark.parametrize(
    ("size", "count"), [(60, BATCH_PACKETS), (2048, BATCH_BYTES // 2048), (60_000, BATCH_BYTES // 60_000), (262_144, 4)]
)
def test_the_pace_keeps_batches_near_their_size(size: int, count: int) -> None:
    """The next read asks for as many packets of this size as fill a batch, at least 4 and at most BATCH_PACKETS."""
    pace = Pace()
    pace.saw(packets.to_feed([packets.Packet(packets.START, bytes(size))] * 10))
    assert pace.count == count


def test_the_stop_is_seen_by_whoever_polls() -> None:
    """The file descriptor becomes readable with the signal, a wait ends, and the first signal's time stays."""
    stop = Stop()
    poll = select.poll()
    poll.register(stop, select.POLLIN)
    assert (stop.is_set(), stop.stamp_us, stop.wait(0), poll.poll(0)) == (False, 0, False, [])
    before = time.time_ns() // 1000
    stop.set()
    stamp = stop.stamp_us
    stop.set()
    assert before <= stop.stamp_us == stamp
    assert (stop.is_set(), stop.wait(10), poll.poll(0)) == (True, True, [(stop.fileno(), select.POLLIN)])


def test_what_a_source_is_by_default() -> None:
    """A source that says nothing else is not loopback, never behind, waits for nobody and knows no size."""

    class Plain(Source):
        live = True
        name = "plain"

        def open(self, stop: Stop) -> int:
            return 1

        def batches(self, stop: Stop) -> Iterator[Packets | None]:
            yield None

        def stats(self) -> None:
            return

        def close(self) -> None:
            pass

    source = Plain()
    assert (source.is_loopback(), source.caught_up, source.waiting, source.progress()) == (False, math.inf, False, None)
