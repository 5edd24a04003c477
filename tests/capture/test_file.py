"""Files, pipes and standard input as packet sources."""

from __future__ import annotations

import os
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sniffer.capture.file import FileSource
from sniffer.capture.source import BATCH_BYTES, STAMP_REFUSED, Packets, Stop, last_stamp_us
from sniffer.errors import CaptureError
from tests import captures, packets


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
    assert max(sizes[1:]) <= BATCH_BYTES


def test_a_pipe_is_not_a_file(tmp_path: Path) -> None:
    """What decides is what the path leads to."""
    os.mkfifo(tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
