"""An interface as a packet source: filter, activation, ring, counters."""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pcapy
import pytest

from sniffer.capture import live as live_module
from sniffer.capture.interfaces import interfaces
from sniffer.capture.live import PAUSE_RATE, PAUSE_SECONDS, LiveSource, filters
from sniffer.capture.source import Packets, Stop
from sniffer.errors import CaptureError
from tests import captures, packets


@pytest.mark.parametrize("linktype", [0, 1, 12, 108, 113, 228, 229, 276])
def test_filters_compile_for_every_link_type(linktype: int) -> None:
    """For each link type the first filter compiles."""
    pcapy.compile(linktype, 262144, filters([80, 8080], linktype)[0], 1, 0xFFFFFFFF)


def passes(linktype: int, packet: bytes, tmp_path: Path) -> bool:
    (tmp_path / "one").write_bytes(packets.pcap([packets.Packet(packets.START, packet)], linktype))
    reader = pcapy.open_offline(str(tmp_path / "one"))
    reader.setfilter(filters([80, 8080], linktype)[0])
    return bool(reader.next_batch(1)[1])


@pytest.mark.parametrize("tags", [[], [0x8100], [0x88A8, 0x8100], [0x8100, 0x8100]])
@pytest.mark.parametrize("ends", [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")])
def test_the_filter_takes_captured_ports_behind_vlan_tags(
    tmp_path: Path, tags: list[int], ends: tuple[str, str]
) -> None:
    """Both ports, both directions, both IPs, with no, one or two tags; other ports stay out."""
    for ports, taken in (((4000, 80), True), ((8080, 4000), True), ((4000, 81), False)):
        frame = packets.ethernet(packets.ip(*ends, packets.tcp(*ports, 1)), tags=tags)
        assert passes(1, frame, tmp_path) is taken


def test_the_filter_names_ports_in_sequence_as_one_range() -> None:
    """Ports in sequence are one comparison; the filter of a range compiles, and takes its ports and no others."""
    assert filters([8001, 80, 8002, 8000, 90], 12)[1] == "tcp port 80 or tcp port 90 or tcp portrange 8000-8002"
    program = pcapy.compile(1, 262144, filters(range(8000, 9024), 1)[0], 1, 0xFFFFFFFF)
    for port, taken in ((7999, False), (8000, True), (9023, True), (9024, False)):
        for ends in ((port, 4000), (4000, port)):
            frame = packets.ethernet(packets.ip("192.0.2.1", "192.0.2.2", packets.tcp(*ends, 1)))
            assert bool(program.filter(frame)) is taken


def test_the_filter_takes_what_hides_its_ports(tmp_path: Path) -> None:
    """Later fragments, IPv6 extension headers and PPPoE are left to the core; UDP stays out."""
    segment = packets.tcp(4000, 80, 1, payload=bytes(64))
    for fragment in packets.fragments_ipv4("192.0.2.1", "192.0.2.2", segment, 32):
        assert passes(1, packets.ethernet(fragment), tmp_path)
    for fragment in packets.fragments_ipv6("2001:db8::1", "2001:db8::2", segment, 32):
        assert passes(1, packets.ethernet(fragment), tmp_path)
        assert passes(113, packets.link(113, fragment), tmp_path)
    behind = packets.ipv6("2001:db8::1", "2001:db8::2", packets.extension(6) + segment, next_header=0)
    assert passes(1, packets.ethernet(behind), tmp_path)
    plain = packets.ip("192.0.2.1", "192.0.2.2", segment)
    assert passes(1, packets.ethernet(packets.pppoe(plain), protocol=packets.PPPOE), tmp_path)
    assert not passes(1, packets.ethernet(packets.ipv4("192.0.2.1", "192.0.2.2", segment, protocol=17)), tmp_path)


def test_a_missing_interface_lists_the_others() -> None:
    """No such interface: the available ones are named."""
    with pytest.raises(CaptureError, match=r"no such interface: nope0; available: .*lo.*any"):
        LiveSource("nope0", ports=[80], buffer_size=1 << 20).open(Stop())
    assert interfaces()[-1] == "any"


def test_live_capture_needs_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """A live start elsewhere than on Linux is one typed error that says so."""
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(CaptureError, match="live capture needs Linux"):
        LiveSource("lo", ports=[80], buffer_size=1 << 20).open(Stop())


@pytest.mark.parametrize(
    ("code", "words"), [(-8, "NET_RAW"), (-11, "NET_RAW"), (-5, "available:"), (-1, "libpcap error -1")]
)
def test_errors_of_activation_say_what_to_do(code: int, words: str) -> None:
    """No permission names the capability; no such device lists the others."""
    assert words in live_module._activation_error("eth0", code)


def test_kernel_counters_never_wrap() -> None:
    """libpcap counts in 32 bits; ours go on."""
    kernel = live_module._Kernel()
    assert kernel.read((2**32 - 1, 5, 0)) == (2**32 - 1, 5, 0)
    assert kernel.read((4, 5, 1)) == (2**32 + 4, 5, 1)


def test_drops_before_the_filter_are_not_ours() -> None:
    """Until the filter is there all traffic of the interface fills the ring: what was lost then is not counted."""
    kernel = live_module._Kernel()
    kernel.begin((900, 70, 3))
    assert kernel.read((905, 70, 3)) == (905, 0, 0)
    assert kernel.read((999, 72, 3)) == (999, 2, 0)


class FakeReader:
    """An activated handle whose answers are given; its file descriptor is a pipe."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers = answers
        self.reader, self.writer = os.pipe()
        os.write(self.writer, b"x")

    def getfd(self) -> int:
        return self.reader

    def next_batch(self, _: int) -> Packets:
        answer = self.answers.pop(0) if self.answers else (b"", b"")
        if isinstance(answer, Exception):
            raise answer
        packets_and_index: Packets = answer
        return packets_and_index

    def datalink(self) -> int:
        return 1

    def stats(self) -> tuple[int, int, int]:
        return 10, 4, 0

    def setnonblock(self, _: int) -> None:
        pass

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


@pytest.fixture
def live() -> Iterator[Callable[[list[Any]], LiveSource]]:
    """A live source on a handle of our own, on lo."""
    made: list[LiveSource] = []

    def make(answers: list[Any]) -> LiveSource:
        source = LiveSource("lo", ports=[80], buffer_size=1 << 20)
        source._number = socket.if_nametoindex("lo")
        source._reader = FakeReader(answers)
        made.append(source)
        return source

    yield make
    for source in made:
        source.close()


@pytest.mark.parametrize(("size", "pause"), [(16 << 20, PAUSE_SECONDS), (1 << 20, (1 << 20) / PAUSE_RATE)])
def test_a_ring_that_was_read_empty_is_left_alone_for_a_moment(
    live: Callable[[list[Any]], LiveSource], monkeypatch: pytest.MonkeyPatch, size: int, pause: float
) -> None:
    """No wake-up for every few packets; where there is more to read, or the ring is small, reading goes on sooner."""
    few = packets.to_feed(captures.connection([]))
    source = live([few, few, few])
    source._pause = LiveSource("lo", ports=[80], buffer_size=size)._pause
    stop = Stop()
    pauses: list[float] = []
    monkeypatch.setattr(stop, "wait", pauses.append)
    batches = source.batches(stop)
    assert next(batches) == few
    assert next(batches) == few
    assert pauses == [pause]
    source._pace.count = len(few[1]) // 16
    assert next(batches) == few
    assert next(batches) is None
    assert pauses == [pause, pause]


def test_what_comes_after_a_silence_was_not_left_unread(
    live: Callable[[list[Any]], LiveSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A burst larger than one read is not what the capture is behind with: the ring was empty until it came."""
    few = packets.to_feed(captures.connection([]))
    source = live([few, few])
    source._pace.count = len(few[1]) // 16
    os.read(source._reader.reader, 1)

    class Poll:
        """Real, but packets come as soon as somebody waits for them."""

        def __init__(self) -> None:
            self.real = select.poll()
            self.register = self.real.register

        def poll(self, milliseconds: int) -> list[tuple[int, int]]:
            if milliseconds:
                os.write(source._reader.writer, b"x")
            return self.real.poll(milliseconds)

    monkeypatch.setattr(live_module, "select", SimpleNamespace(poll=Poll, POLLIN=select.POLLIN))
    batches = source.batches(Stop())
    source.caught_up = long_ago = time.monotonic() - 1
    assert next(batches) == few
    assert source.caught_up > long_ago + 1
    came = source.caught_up
    source._pace.count = len(few[1]) // 16
    assert next(batches) == few
    assert source.caught_up == came


DOWN = pcapy.PcapError("The interface went down")


def test_an_interface_that_goes_down_is_warned_about_once(
    live: Callable[[list[Any]], LiveSource], caplog: pytest.LogCaptureFixture
) -> None:
    """Down is no error: said once, and once more when it is up again."""
    caplog.set_level("INFO")
    batch = packets.to_feed(captures.connection([]))
    batches = live([DOWN, DOWN, batch]).batches(Stop())
    assert [next(batches), next(batches), next(batches)] == [None, None, batch]
    assert [record.message for record in caplog.records] == [
        "interface is down; capture goes on with it",
        "interface is up again",
    ]


def test_an_interface_that_is_down_at_the_start_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread waits for it, and says that it waits; the stop ends the wait, and so does the interface."""
    stop = Stop()
    source = LiveSource("lo", ports=[80], buffer_size=1 << 20)
    answers = [-9, -9, 0]
    waited: list[bool] = []

    def wait(_: float) -> bool:
        waited.append(source.waiting)
        return len(waited) == 3

    monkeypatch.setattr(stop, "wait", wait)
    monkeypatch.setattr(source, "_activate", lambda _: answers.pop(0))
    monkeypatch.setattr(source, "_set_filter", lambda _: None)
    source._reader = FakeReader([])
    try:
        assert source.open(stop) == 1
        assert (waited, source.waiting) == ([True, True], False)
        assert source.stats() == (10, 0, 0)
        answers.append(-9)
        with pytest.raises(CaptureError, match="interface lo is down"):
            source.open(stop)
    finally:
        source.close()


def test_an_interface_that_is_removed_is_an_error(
    live: Callable[[list[Any]], LiveSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removed, or replaced by another of the same name: the capture has failed."""
    for number in (socket.if_nametoindex("lo") + 99, None):

        def look(_: str, number: int | None = number) -> int:
            if number is None:
                raise OSError
            return number

        source = live([DOWN])
        monkeypatch.setattr(socket, "if_nametoindex", look)
        with pytest.raises(CaptureError, match="interface lo was removed"):
            next(source.batches(Stop()))
        monkeypatch.undo()


def test_any_other_failure_of_the_handle_is_an_error(live: Callable[[list[Any]], LiveSource]) -> None:
    """What libpcap says is said."""
    with pytest.raises(CaptureError, match="capture on lo failed: weird"):
        next(live([pcapy.PcapError("weird")]).batches(Stop()))


def test_the_ring_is_read_on_after_the_stop(live: Callable[[list[Any]], LiveSource]) -> None:
    """Packets stamped up to the signal are read; a later stamp ends it."""
    stop = Stop()
    source = live([])
    batches = source.batches(stop)
    assert next(batches) is None
    stop.set()
    now = packets.to_feed([packets.Packet(stop.stamp_us - 5, b"x")])
    later = packets.to_feed([packets.Packet(stop.stamp_us + 5, b"x")])
    source._reader.answers[:] = [now, now, later, now]
    assert list(batches) == [now, now, later]


def test_reading_on_after_the_stop_is_bounded(live: Callable[[list[Any]], LiveSource]) -> None:
    """A ring that never gets empty is left after 200 ms; the first signal's time counts."""
    stop = Stop()
    stop.set()
    stamp = stop.stamp_us
    stop.set()
    assert stop.stamp_us == stamp
    batch = packets.to_feed([packets.Packet(stamp - 5, b"x")])
    began = time.monotonic()
    assert sum(1 for _ in live([batch] * 1_000_000).batches(stop)) < 1_000_000
    assert time.monotonic() - began > 0.1
