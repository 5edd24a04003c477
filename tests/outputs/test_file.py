"""Rotating files: whole at every moment, finished by a rename, and mended after a kill."""

from __future__ import annotations

import gzip
import json
import os
import resource
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zstandard

from sniffer.config import SnifferConfig
from sniffer.delivery.sink import Failed
from sniffer.errors import SnifferError, ValidationError
from sniffer.outputs.file.coding import ENCODERS, Plain
from sniffer.outputs.file.sink import FileSink
from tests.daemon import DEMO, Daemon, exchanges, needs_capture, web_server
from tests.deliveries import lane_to, message, messages
from tests.waiting import until

NAMES = ("out.jsonl", "out.jsonl.gz", "out.jsonl.zst")


def content(path: Path) -> bytes:
    """What a file holds; fails unless all of it can be read by a decoder that is not ours."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(data)
    if path.suffix == ".zst":
        with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
            return reader.read()
    return data


def rows(*paths: Path) -> list[dict[str, Any]]:
    """The records of files, in order; fails unless every line is whole."""
    whole = b"".join(map(content, paths))
    assert whole == b"" or whole.endswith(b"\n")
    return [json.loads(line) for line in whole.splitlines()]


def numbers(*paths: Path) -> list[int]:
    return [row["exchange"] for row in rows(*paths)]


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def finished(folder: Path) -> list[Path]:
    return [path for path in entries(folder) if path.name.startswith("out-")]


def a_sink(path: Path, **rest: Any) -> FileSink:
    return FileSink(path, **{"size": 1 << 20, "age": 3600.0, **rest})


@contextmanager
def room(size: int) -> Iterator[None]:
    """No file can be longer than this meanwhile: as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", NAMES)
async def test_file_is_whole_at_every_moment(name: str, tmp_path: Path) -> None:
    """After each batch the file can be read to its end; at the stop it gets its last name, and nothing else is left."""
    path = tmp_path / name
    sink = a_sink(path)
    await sink.open()
    for number in range(3):
        await sink.deliver([message(number)])
        assert numbers(path) == list(range(number + 1))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await sink.close()
    (only,) = entries(tmp_path)
    assert only.name.startswith("out-")
    assert only.name.endswith(name.removeprefix("out"))
    assert numbers(only) == [0, 1, 2]


@pytest.mark.parametrize("name", NAMES)
async def test_rotation_by_size(name: str, tmp_path: Path) -> None:
    """A file that is long enough is finished; all files together hold each message once, in order."""
    sink = a_sink(tmp_path / name, size=500)
    await sink.open()
    for number in range(20):
        await sink.deliver([message(number, body=os.urandom(100).hex())])
    await sink.close()
    files = finished(tmp_path)
    assert len(files) > 3
    assert numbers(*files) == list(range(20))


async def test_rotation_by_time(tmp_path: Path) -> None:
    """A file that is old is finished though nothing more comes; an empty one leaves nothing."""
    sink = a_sink(tmp_path / "out.jsonl", age=0.05)
    await sink.open()
    await sink.deliver([message(0)])
    await until(lambda: finished(tmp_path))
    assert numbers(*finished(tmp_path)) == [0]
    await until((tmp_path / "out.jsonl").exists)  # the new one
    assert rows(tmp_path / "out.jsonl") == []
    await sink.close()
    assert len(entries(tmp_path)) == 1


async def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    """Beyond `keep` the oldest finished files are deleted, those of the same moment too, and no other file is."""
    others = [tmp_path / name for name in ("out-x.jsonl", "out-20260101T000000.000000Z.txt", "other.jsonl")]
    for other in others:
        other.write_text("mine")
    sink = a_sink(tmp_path / "out.jsonl", size=1, keep=3, now=lambda: 1_000_000_000.0)
    await sink.open()
    for number in range(14):
        await sink.deliver([message(number)])
    await sink.close()
    assert all(other.read_text() == "mine" for other in others)
    left = [path for path in entries(tmp_path) if path not in others]
    assert sorted(number for path in left for number in numbers(path)) == [11, 12, 13]


@pytest.mark.parametrize("name", NAMES)
async def test_full_disk(name: str, tmp_path: Path) -> None:
    """What does not fit is counted as dropped; the file stays whole, and takes more when there is room again."""
    path = tmp_path / name
    async with lane_to(a_sink(path)) as lane:
        lane.offer([message(0)])
        await until(lambda: lane.counters.waiting == 0)
        with room(path.stat().st_size + 20):
            for number in (1, 2):
                lane.offer([message(number, body=os.urandom(500).hex())])
                await until(lambda: lane.counters.waiting == 0)
            assert numbers(path) == [0]
        lane.offer([message(3)])
        await until(lambda: lane.counters.waiting == 0)
        assert numbers(path) == [0, 3]
        await lane.drain()
        assert (lane.counters.delivered, lane.counters.dropped_error) == (2, 2)


async def test_part_of_a_batch_that_fits_is_delivered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk gets full within a batch, the messages before that are in the file, and said to be."""
    monkeypatch.setattr("sniffer.outputs.file.sink.PART_BYTES", 1)
    path = tmp_path / "out.jsonl"
    sink = a_sink(path)
    await sink.open()
    await sink.deliver([message(0)])
    with room(3 * path.stat().st_size + 10), pytest.raises(Failed) as failed:
        await sink.deliver([message(number) for number in range(1, 5)])
    assert failed.value.delivered == 2
    assert numbers(path) == [0, 1, 2]
    await sink.close()


@pytest.mark.parametrize("name", ["nowhere/out.jsonl", ".", "fifo", "link"])
async def test_file_that_cannot_be(name: str, tmp_path: Path) -> None:
    """What cannot be written, is no regular file, or leads elsewhere, is one clear error."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    sink = a_sink(tmp_path / name)
    with pytest.raises(SnifferError, match=r"^output_file: "):
        await sink.open()
    await sink.close()


async def test_two_do_not_share_a_file(tmp_path: Path) -> None:
    """A file that another sniffer writes is refused."""
    first, second = a_sink(tmp_path / "out.jsonl"), a_sink(tmp_path / "out.jsonl")
    await first.open()
    with pytest.raises(SnifferError, match="in use"):
        await second.open()
    await second.close()
    await first.close()


async def test_file_that_somebody_moves(tmp_path: Path) -> None:
    """If the file is gone when it is finished, a new one is begun, and later messages are in that."""
    path = tmp_path / "out.jsonl"
    sink = a_sink(path, size=1)
    await sink.open()
    await sink.deliver([message(0)])
    path.rename(tmp_path / "taken")
    await sink.deliver([message(1)])
    assert numbers(path) == [1]
    assert numbers(tmp_path / "taken") == [0]
    await sink.close()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("torn", [0, 1, 5, 20])
async def test_file_that_a_kill_has_left(name: str, torn: int, tmp_path: Path) -> None:
    """The next start finishes the file of a killed run, without the line in which it is torn."""
    path = tmp_path / name
    encoder = ENCODERS.get(path.suffix, Plain)()
    lines = [one.to_json() + b"\n" for one in messages(3)]
    encoded = b"".join(encoder.add(line) for line in lines) + encoder.end()
    path.write_bytes(encoded[: len(encoded) - torn])
    sink = a_sink(path)
    await sink.open()
    (left,) = finished(tmp_path)
    whole = numbers(left)
    assert whole == [0, 1, 2][: len(whole)]
    assert whole
    assert torn or len(whole) == 3
    await sink.deliver([message(7)])
    assert numbers(path) == [7]
    await sink.close()
    assert len(finished(tmp_path)) == len(entries(tmp_path)) == 2


async def test_file_with_nothing_whole_in_it(tmp_path: Path) -> None:
    """A file that is torn in its first line leaves no file."""
    (tmp_path / "out.jsonl").write_text('{"schema":')
    sink = a_sink(tmp_path / "out.jsonl")
    await sink.open()
    await sink.close()
    assert entries(tmp_path) == []


def test_names_that_are_refused(tmp_path: Path) -> None:
    """A directory, and a file that is read, are no files to write."""
    for name in ("out/", "..", "/", ".gz"):
        with pytest.raises(ValidationError, match="output_file must name a file"):
            SnifferConfig(ports=[80], output_file=name)
    with pytest.raises(ValidationError, match="output_file must not be a file that is read"):
        SnifferConfig(ports=[80], read="a.jsonl", output_file="./a.jsonl")


@pytest.mark.parametrize("name", NAMES)
def test_daemon_writes_what_stdout_gets(name: str, tmp_path: Path) -> None:
    """The finished file holds the lines of standard output, byte for byte."""
    environ = {"OUTPUT_FILE": str(tmp_path / name)}
    with Daemon("--ports", "8080", "--read", str(DEMO), "--stdout", environ=environ) as daemon:
        assert daemon.end() == 0
    (only,) = entries(tmp_path)
    assert rows(only) == daemon.messages
    assert len(daemon.messages) == 14


@needs_capture
@pytest.mark.live
def test_kill_loses_nothing_that_was_delivered(tmp_path: Path) -> None:
    """After kill -9 the next start finishes the file, with every message that was delivered before."""
    with web_server() as port:
        arguments = ("--ports", str(port), "--interface", "lo", "--output-file", str(tmp_path / "out.jsonl.gz"))
        with Daemon(*arguments) as daemon:
            daemon.log("started")
            exchanges(port, 50)
            daemon.wait_for(lambda: daemon.ledger()["lanes"]["file"]["delivered"] >= 100)
            daemon.send(signal.SIGKILL)
            daemon.process.wait()
        with Daemon(*arguments) as daemon:
            daemon.log("started")
            assert daemon.stop() == 0
    files = finished(tmp_path)
    assert len({(row["connectionId"], row["exchange"], row["direction"]) for row in rows(*files)}) == 100
    assert len(rows(*files)) == 100
