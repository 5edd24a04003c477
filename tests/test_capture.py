"""Sources of packets, the hand-off, the capture thread."""

from __future__ import annotations

import os
import select
import socket
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pcapy
import pytest

from sniffer import capture
from sniffer.capture import (
    STAMP_REFUSED,
    Capture,
    FileSource,
    HandOff,
    LiveSource,
    Packets,
    Source,
    Stop,
    default_interface,
    filters,
    interfaces,
    last_stamp_us,
)
from sniffer.errors import CaptureError
from sniffer_core.core import LINK_TYPES, FlowTable
from tests import captures, packets
from tests.raws import request


def count(batches: Iterator[Packets | None]) -> int:
    return sum(len(batch[1]) // 16 for batch in batches if batch is not None)


def read(path: str, stop: Stop | None = None) -> tuple[int, str]:
    """Packets of a file, and the error at its end."""
    source = FileSource(path)
    stop = stop or Stop()
    total = 0
    try:
        source.open(stop)
        for batch in source.batches(stop):
            assert batch is not None
            total += len(batch[1]) // 16
    except CaptureError as error:
        return total, str(error)
    finally:
        source.close()
    return total, ""


@pytest.fixture
def feed(tmp_path: Path) -> Iterator[Callable[[bytes, bool], str]]:
    """Writes data into a named pipe from a thread; returns its path. The pipe stays open where asked to."""
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    release = threading.Event()
    threads: list[threading.Thread] = []

    def write(data: bytes, stay_open: bool) -> None:
        try:
            with open(path, "wb") as pipe:
                pipe.write(data)
                pipe.flush()
                if stay_open:
                    release.wait(10)
        except BrokenPipeError:
            pass

    def start(data: bytes, stay_open: bool = False) -> str:
        threads.append(threading.Thread(target=write, args=(data, stay_open), daemon=True))
        threads[-1].start()
        return path

    yield start
    release.set()
    for thread in threads:
        thread.join(10)


# Files


@pytest.mark.parametrize("make", [packets.pcap, packets.pcapng])
def test_files_are_read_whole(tmp_path: Path, make: Callable[..., bytes]) -> None:
    """pcap and pcapng files give every packet."""
    conversation = captures.connection(captures.exchanges(3000))
    (tmp_path / "file").write_bytes(make(conversation))
    assert read(str(tmp_path / "file")) == (len(conversation), "")


@pytest.mark.parametrize("make", [packets.pcap, packets.pcapng])
def test_a_cut_file_gives_what_it_has_and_one_error(tmp_path: Path, make: Callable[..., bytes]) -> None:
    """Every whole packet of a file that is cut in the middle is read, then comes the error."""
    conversation = captures.connection(captures.exchanges(3000))
    (tmp_path / "file").write_bytes(make(conversation)[:-7])
    total, error = read(str(tmp_path / "file"))
    assert total == len(conversation) - 1
    assert "cannot be read to its end" in error


@pytest.mark.parametrize("make", [packets.pcap, packets.pcapng])
def test_pipes_are_read_like_files(feed: Callable[..., str], make: Callable[..., bytes]) -> None:
    """A pipe gives every packet, cut or not."""
    conversation = captures.connection(captures.exchanges(300))
    assert read(feed(make(conversation))) == (len(conversation), "")


def test_a_cut_pipe_gives_what_it_has(feed: Callable[..., str]) -> None:
    """Nothing of a batch is lost when a pipe ends in the middle of a packet."""
    conversation = captures.connection(captures.exchanges(300))
    total, error = read(feed(packets.pcap(conversation)[:-7]))
    assert total == len(conversation) - 1
    assert "cannot be read to its end" in error


def test_stamps_beyond_2038_are_read_from_a_pipe_as_from_a_file(tmp_path: Path, feed: Callable[..., str]) -> None:
    """Stamps are unsigned, whether packets are read one by one or in batches."""
    data = packets.pcap(packets.Packet((2**31 + n) * 1_000_000 + n, b"x" * 60) for n in range(3))
    path = tmp_path / "capture.pcap"
    path.write_bytes(data)
    batches = []
    for name in (str(path), feed(data)):
        source = FileSource(name)
        source.open(Stop())
        found = [batch for batch in source.batches(Stop()) if batch is not None]
        source.close()
        batches.append((b"".join(data for data, _ in found), [last_stamp_us(batch) for batch in found][-1]))
    assert batches[0] == batches[1] == (b"x" * 180, (2**31 + 2) * 1_000_000 + 2)


def indexed(path: str) -> tuple[list[tuple[int, int]], str]:
    """(seconds, microseconds) of each packet as the core gets them, and the error at the end."""
    source = FileSource(path)
    found: list[tuple[int, int]] = []
    try:
        source.open(Stop())
        for batch in source.batches(Stop()):
            assert batch is not None
            found += [entry[:2] for entry in struct.iter_unpack("=IIII", batch[1])]
    except CaptureError as error:
        return found, str(error)
    finally:
        source.close()
    return found, ""


FAR = {
    "all": range(3000),
    "the first": range(1),
    "one in the middle": range(1500, 1501),
    "the last": range(2999, 3000),
    "from the middle on": range(1500, 3000),
    "up to the middle": range(1500),
}


@pytest.mark.parametrize("places", FAR.values(), ids=FAR)
@pytest.mark.parametrize("seconds", [2**32, 2**32 + 1_800_000_000, 2**43])
@pytest.mark.parametrize("piped", [False, True], ids=["file", "pipe"])
def test_stamps_beyond_2106(places: range, seconds: int, piped: bool, tmp_path: Path, feed: Callable[..., str]) -> None:
    """Each packet of a pcapng file whose seconds take more than 32 bits is marked, and the end of the file says so."""
    stamps = [(seconds if n in places else 1_700_000_000) * 1_000_000 + n for n in range(3000)]
    data = packets.pcapng([packets.Packet(stamp, b"x" * 60) for stamp in stamps])
    path = tmp_path / "capture.pcapng"
    path.write_bytes(data)
    found, error = indexed(feed(data) if piped else str(path))
    assert [n for n, (_, micros) in enumerate(found) if micros == STAMP_REFUSED] == list(places)
    assert [stamp for n, stamp in enumerate(found) if n not in places] == [
        (1_700_000_000, n) for n in range(3000) if n not in places
    ]
    assert error.endswith(f"cannot be read whole: {len(places)} packets are stamped beyond 2106 or before 1970")


@pytest.mark.parametrize("make", [packets.pcap, packets.pcapng])
def test_stamps_up_to_2106(tmp_path: Path, make: Callable[..., bytes]) -> None:
    """The last stamp that fits is read, however far the others are from it."""
    stamps = [(2**32 - 1 if n % 2 else 0) * 1_000_000 + n for n in range(30)]
    (tmp_path / "capture").write_bytes(make([packets.Packet(stamp, b"x" * 60) for stamp in stamps]))
    assert indexed(str(tmp_path / "capture")) == ([divmod(stamp, 1_000_000) for stamp in stamps], "")


def test_packets_of_a_pipe_come_as_they_arrive(feed: Callable[..., str]) -> None:
    """`tcpdump -w - | ...`: packets are not held back until a batch is full, and a stop ends a read that waits."""
    conversation = captures.connection(captures.exchanges(2))
    source, stop = FileSource(feed(packets.pcap(conversation), True)), Stop()
    source.open(stop)
    total = 0
    for batch in source.batches(stop):
        assert batch is not None
        total += len(batch[1]) // 16
        if total == len(conversation):
            threading.Timer(0.05, stop.set).start()
    source.close()
    assert total == len(conversation)


def test_a_stop_ends_the_wait_for_the_header_of_a_pipe(feed: Callable[..., str]) -> None:
    """A pipe in which nothing comes does not keep the process."""
    source, stop = FileSource(feed(b"", True)), Stop()
    threading.Timer(0.05, stop.set).start()
    with pytest.raises(CaptureError):
        source.open(stop)
    source.close()


@pytest.mark.parametrize("order", ["<", ">"], ids=["little-endian", "big-endian"])
def test_a_slow_header_is_waited_for(order: str) -> None:
    """The header of a pcapng stream may come in pieces; only a whole one is given to libpcap, which holds the GIL."""
    data = packets.pcapng(captures.connection(captures.exchanges(2)), order=order)
    reader, writer = os.pipe()
    source = FileSource(f"/dev/fd/{reader}")

    def write() -> None:
        for at in range(0, 80, 8):
            os.write(writer, data[at : at + 8])
            time.sleep(0.002)
        os.write(writer, data[80:])
        os.close(writer)

    thread = threading.Thread(target=write)
    thread.start()
    stop = Stop()
    source.open(stop)
    assert count(source.batches(stop)) == len(captures.connection(captures.exchanges(2)))
    source.close()
    thread.join()
    os.close(reader)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "truncated dump file"),
        (b"no capture at all, but long enough to be one", "unknown file format"),
        (None, "No such file"),
    ],
)
def test_what_is_no_capture_is_one_clear_error(tmp_path: Path, content: bytes | None, words: str) -> None:
    """A missing file, an empty one and something else give one error that names the file."""
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    total, error = read(str(path))
    assert total == 0
    assert str(path) in error
    assert words in error


def test_batches_are_bounded_in_bytes(tmp_path: Path) -> None:
    """Large packets are read fewer at a time, so that a batch stays about as large."""
    big = [packets.Packet(packets.START, bytes(60_000))] * 500
    source, stop = FileSource(captures.write(tmp_path / "file", big)), Stop()
    source.open(stop)
    sizes = [len(batch[0]) for batch in source.batches(stop) if batch is not None]
    source.close()
    assert sum(sizes) == 500 * 60_000
    assert max(sizes) <= 16 * 60_000
    assert max(sizes[1:]) <= capture.BATCH_BYTES


def test_stamps_of_a_batch() -> None:
    """The last stamp of a batch is that of its last packet, in microseconds."""
    conversation = captures.connection([])
    assert last_stamp_us(packets.to_feed(conversation)) == conversation[-1].stamp


# Filters


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


# Interfaces


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


def test_without_pcapy_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pcapy-ng that cannot be loaded is a CaptureError, not an ImportError."""
    monkeypatch.setitem(sys.modules, "pcapy", None)
    with pytest.raises(CaptureError, match="pcapy-ng cannot be loaded"):
        FileSource("x").open(Stop())


class Devices:
    """Interfaces as the system would tell of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **flags: tuple[int, bool, bool]) -> None:
        names = list(flags)
        monkeypatch.setattr(socket, "if_nameindex", lambda: list(enumerate(names, 1)))
        monkeypatch.setattr(capture, "_interface_flags", lambda name: flags[name][0])
        monkeypatch.setattr(capture, "_has_ipv4", lambda name: flags[name][1])
        sixes = [("20010db8000000000000000000000001", name) for name in names if flags[name][2]]
        monkeypatch.setattr(capture, "_ipv6_addresses", lambda: sixes)


def test_the_default_interface_is_the_first_that_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up, with an address of either IP, not loopback: the first such one."""
    Devices(
        monkeypatch,
        lo=(0x9, True, True),
        down0=(0x0, True, True),
        bare0=(0x1, False, False),
        six0=(0x1, False, True),
        four0=(0x1, True, False),
    )
    assert default_interface() == "six0"


def test_no_default_interface_lists_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none serves, one has to be named."""
    Devices(monkeypatch, lo=(0x9, True, True))
    with pytest.raises(CaptureError, match="name one; available: lo, any"):
        default_interface()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux")
def test_the_system_tells_of_its_interfaces() -> None:
    """The loopback interface is up, is loopback and has an address, by the system's own words."""
    assert capture._interface_flags("lo") & 0x8
    assert not capture._interface_flags("nope0")
    assert capture._has_ipv4("lo") or "lo" in [name for _, name in capture._ipv6_addresses()]


@pytest.mark.parametrize(
    ("code", "words"), [(-8, "NET_RAW"), (-11, "NET_RAW"), (-5, "available:"), (-1, "libpcap error -1")]
)
def test_errors_of_activation_say_what_to_do(code: int, words: str) -> None:
    """No permission names the capability; no such device lists the others."""
    assert words in capture._activation_error("eth0", code)


def test_kernel_counters_never_wrap() -> None:
    """libpcap counts in 32 bits; ours go on."""
    kernel = capture._Kernel()
    assert kernel.read((2**32 - 1, 5, 0)) == (2**32 - 1, 5, 0)
    assert kernel.read((4, 5, 1)) == (2**32 + 4, 5, 1)


def test_drops_before_the_filter_are_not_ours() -> None:
    """Until the filter is there all traffic of the interface fills the ring: what was lost then is not counted."""
    kernel = capture._Kernel()
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


@pytest.mark.parametrize(
    ("size", "pause"), [(16 << 20, capture.PAUSE_SECONDS), (1 << 20, (1 << 20) / capture.PAUSE_RATE)]
)
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

    monkeypatch.setattr(capture, "select", SimpleNamespace(poll=Poll, POLLIN=select.POLLIN))
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


# The hand-off


def hand_off(
    wait: bool = False, *, max_bytes: int = 1 << 30, max_messages: int = 100_000
) -> tuple[HandOff, list[bool]]:
    wakes: list[bool] = []
    handoff = HandOff(max_bytes=max_bytes, max_messages=max_messages, wait=wait, wake=lambda: wakes.append(True))
    return handoff, wakes


def balance(handoff: HandOff) -> None:
    now = handoff.counters()
    assert now["handoff_accepted"] == now["handoff_taken"] + now["handoff_discarded"] + now["handoff_waiting"]


def test_the_loop_is_woken_only_when_it_may_sleep() -> None:
    """One wake-up for any number of batches until the hand-off is empty again."""
    handoff, wakes = hand_off()
    for _ in range(3):
        handoff.put([request()], {})
    assert len(wakes) == 1
    while handoff.take():
        pass
    handoff.put([], {})
    assert len(wakes) == 1
    handoff.put([request()], {})
    assert len(wakes) == 2


def test_messages_come_out_in_order() -> None:
    """First in, first out, however many at a time."""
    handoff, _ = hand_off()
    sent = [request(exchange=number) for number in range(1000)]
    handoff.put(sent[:700], {})
    handoff.put(sent[700:], {})
    got = []
    while taken := handoff.take():
        assert len(taken[0]) <= capture.SLICE
        assert taken[1] == 1000 * len(taken[0])
        got += taken[0]
    assert got == sent
    balance(handoff)


@pytest.mark.parametrize("limit", [{"max_bytes": 10 * 1000}, {"max_messages": 10}])
def test_a_full_hand_off_drops_the_newest_and_counts_them(limit: dict[str, int]) -> None:
    """Live capture never waits: what does not fit is dropped, newest first."""
    handoff, wakes = hand_off(False, **limit)
    handoff.put([request(exchange=number) for number in range(30)], {"messages_request": 30})
    handoff.put([request()], {"messages_request": 31})
    taken = handoff.take()
    assert taken is not None
    assert [raw.exchange for raw in taken[0]] == list(range(10))
    now = handoff.counters()
    assert (now["handoff_accepted"], now["handoff_dropped"]) == (10, 21)
    assert wakes
    balance(handoff)


def test_reading_a_file_waits_for_room() -> None:
    """A full hand-off holds the thread back until the loop has taken something, and loses nothing."""
    handoff, _ = hand_off(wait=True, max_bytes=1)
    sent = [request(exchange=number) for number in range(50)]
    alive = threading.Event()
    thread = threading.Thread(target=lambda: handoff.put(sent, {"messages_request": len(sent)}, alive=alive.set))
    thread.start()
    assert alive.wait(10)
    now = handoff.counters()
    assert now["messages_request"] == now["handoff_accepted"] + now["handoff_held"]
    got: list[Any] = []
    while len(got) < len(sent):
        got += (handoff.take() or [[]])[0]
    thread.join(10)
    assert got == sent
    assert handoff.counters()["handoff_dropped"] == 0


def test_a_file_never_fills_more_than_the_hand_off() -> None:
    """While a file waits, no more is in the hand-off than its bounds, or than one message."""
    for limit in ({"max_bytes": 5 * request().weight}, {"max_messages": 5}):
        handoff, _ = hand_off(True, **limit)
        thread = threading.Thread(target=handoff.put, args=([request()] * 100, {}))
        thread.start()
        taken = 0
        while taken < 100:
            part = (handoff.take() or [[]])[0]
            assert len(part) <= 5
            taken += len(part)
        thread.join(10)


def test_what_is_given_up_is_counted() -> None:
    """At the deadline what waits is discarded, who waits goes on, and what still comes is dropped."""
    handoff, _ = hand_off(wait=True, max_bytes=256 * request().weight)
    alive = threading.Event()
    thread = threading.Thread(target=lambda: handoff.put([request()] * 600, {}, alive=alive.set))
    thread.start()
    assert alive.wait(10)
    handoff.drop_rest()
    thread.join(10)
    assert not thread.is_alive()
    now = handoff.counters()
    assert (now["handoff_discarded"], now["handoff_dropped"], now["handoff_waiting"]) == (256, 344, 0)
    assert handoff.take() is None
    balance(handoff)


def test_events_and_drops_wake_the_loop() -> None:
    """What is to be logged at once does not wait for a message."""
    handoff, wakes = hand_off()
    handoff.put([], {}, [("tls", ("192.0.2.1", 443), ("192.0.2.2", 4000))])
    assert len(wakes) == 1
    assert len(handoff.take_events()) == 1
    handoff.put_kernel((10, 0, 0))
    assert len(wakes) == 1
    handoff.put_kernel((20, 1, 0))
    assert len(wakes) == 2
    assert handoff.drops() == {"kernel_dropped": 1, "kernel_if_dropped": 0, "handoff_dropped": 0}
    handoff.end(CaptureError("x"))
    assert len(wakes) == 3
    assert handoff.ended


# The thread


class GivenSource(Source):
    """A source of given batches; what is an exception is raised."""

    name = "given"

    def __init__(self, batches: list[Any], *, live: bool = False, linktype: int = 1) -> None:
        self.given = batches
        self.live = live
        self.linktype = linktype
        self.closed = False

    def open(self, stop: Stop) -> int:
        return self.linktype

    def batches(self, stop: Stop) -> Iterator[Packets | None]:
        for batch in self.given:
            if isinstance(batch, Exception):
                raise batch
            yield batch

    def stats(self) -> tuple[int, int, int] | None:
        return (100, 2, 1) if self.live else None

    def close(self) -> None:
        self.closed = True


def run(source: Source, **options: Any) -> tuple[HandOff, list[Exception | None], Capture]:
    handoff, _ = hand_off()
    opened: list[Exception | None] = []
    thread = Capture(
        source,
        options.pop("make_table", lambda linktype: FlowTable(linktype=linktype, ports=[8080])),
        handoff,
        opened=opened.append,
        gauge_names={"messages_long": "messages_long_open"},
    )
    for ip, port in options.pop("own", ()):
        thread.own_socket(ip, port, True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert handoff.ended
    return handoff, opened, thread


CONVERSATION = packets.to_feed(captures.connection(captures.exchanges(5)))


@pytest.mark.parametrize("is_live", [False, True])
def test_the_thread_feeds_flushes_and_ends(is_live: bool) -> None:
    """Messages, counters, gauges and the kernel's numbers arrive; the source is closed."""
    source = GivenSource([CONVERSATION, None], live=is_live)
    handoff, opened, _ = run(source)
    assert opened == [None]
    assert source.closed
    assert handoff.error is None
    taken = handoff.take()
    assert taken is not None
    assert len(taken[0]) == 10
    assert taken[1] == sum(raw.weight for raw in taken[0])
    now = handoff.counters()
    assert now["messages_request"] == now["messages_response"] == 5
    assert now["kernel_received"] == (100 if is_live else 0)
    assert now["messages_long_open"] == now["memory_blocks"] == 0


def test_a_failure_comes_after_what_was_captured() -> None:
    """A capture that fails still flushes and hands over everything."""
    failure = CaptureError("gone")
    handoff, _, _ = run(GivenSource([CONVERSATION, failure], live=True))
    assert handoff.error is failure
    assert handoff.counters()["handoff_accepted"] == 10
    assert handoff.counters()["kernel_dropped"] == 2


def test_any_other_exception_is_a_capture_error_too(caplog: pytest.LogCaptureFixture) -> None:
    """A defect in a source ends the capture with an error that says what it was, and is logged."""
    handoff, _, _ = run(GivenSource([CONVERSATION, ZeroDivisionError("planted")]))
    assert str(handoff.error) == "capture failed: ZeroDivisionError: planted"
    assert handoff.counters()["handoff_accepted"] == 10
    assert "capture thread failed" in caplog.text


def test_a_table_that_fails_is_a_capture_error(caplog: pytest.LogCaptureFixture) -> None:
    """So is one in the core, even in its flush."""

    class Broken:
        def feed(self, *_: object) -> None:
            raise MemoryError

        flush = feed

    handoff, _, _ = run(GivenSource([CONVERSATION]), make_table=lambda _: Broken())
    assert "MemoryError" in str(handoff.error)
    assert "capture thread failed" in caplog.text


def test_an_unknown_link_type_cannot_be_opened() -> None:
    """The error names the file."""
    assert 105 not in LINK_TYPES
    _, opened, _ = run(GivenSource([], linktype=105))
    (error,) = opened
    assert isinstance(error, CaptureError)
    assert str(error).startswith("given cannot be read: ")


def test_own_sockets_are_left_out_before_their_first_packet() -> None:
    """What a delivery of ours sends and gets is no message."""
    handoff, _, _ = run(GivenSource([CONVERSATION], live=True), own=[(captures.CLIENT, 40000)])
    now = handoff.counters()
    assert now["handoff_accepted"] == 0
    assert now["bytes_abandoned_own"] == now["bytes_payload"] > 0


def test_the_thread_shows_that_it_is_alive() -> None:
    """The beat moves with each batch."""
    _, _, thread = run(GivenSource([CONVERSATION]))
    assert time.monotonic() - thread.beat < 10
    assert thread.daemon


def test_a_pipe_is_not_a_file(tmp_path: Path) -> None:
    """What decides is what the path leads to."""
    os.mkfifo(tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
