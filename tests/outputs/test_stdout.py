"""Standard output: real pipes and files."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import json
import os
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sniffer.delivery.sink import Undelivered
from sniffer.outputs.stdout.sink import StdoutSink, _Write
from sniffer_core.core import Lines
from tests.deliveries import Sent, lane_to, message, messages, settled
from tests.waiting import BOUND, until


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A small pipe: (read, write)."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    yield read, write
    for fd in (read, write):
        with contextlib.suppress(OSError):
            os.close(fd)


class Reader(threading.Thread):
    """Reads what comes until the other end is closed. A daemon, so that a test that fails does not hang."""

    def __init__(self, fd: int) -> None:
        super().__init__(daemon=True)
        self.fd = fd
        self.data = b""
        self.start()

    def run(self) -> None:
        while part := os.read(self.fd, 1 << 16):
            self.data += part

    async def end(self) -> bytes:
        await until(lambda: not self.is_alive())
        return self.data


async def test_stdout_writes_json_lines(pipe: tuple[int, int]) -> None:
    """One line of JSON per message, in order, nothing else."""
    read, write = pipe
    async with lane_to(StdoutSink(write)) as lane:
        lane.offer(messages(3))
        lane.offer([message(3, body="a\nb")])
        assert (await settled(lane)).delivered == 4
    os.close(write)
    lines = (await Reader(read).end()).split(b"\n")
    assert lines.pop() == b""
    assert lines == [m.to_json() for m in [*messages(3), message(3, body="a\nb")]]
    assert [json.loads(line)["exchange"] for line in lines] == [0, 1, 2, 3]


async def test_stdout_continues_partial_writes(pipe: tuple[int, int]) -> None:
    """A slow reader behind a small pipe gets every byte, and the loop goes on meanwhile."""
    read, write = pipe
    batch = messages(40, body="x" * 3000)
    async with lane_to(StdoutSink(write)) as lane:
        lane.offer(batch)
        await until(lambda: fionread(read) == 4096)
        assert lane.counters.waiting == 40
        reader = Reader(read)
        assert (await settled(lane)).delivered == 40
    os.close(write)
    assert await reader.end() == b"".join(m.to_json() + b"\n" for m in batch)


async def test_stdout_waits_where_somebody_made_it_non_blocking(pipe: tuple[int, int]) -> None:
    """A descriptor that another process of the terminal made non-blocking loses nothing; ours never sets the flag."""
    read, write = pipe
    batch = messages(40, body="x" * 3000)
    async with lane_to(StdoutSink(write)) as lane:
        lane.offer([message()])
        await settled(lane)
    assert os.get_blocking(write)
    os.set_blocking(write, False)
    async with lane_to(StdoutSink(write)) as lane:
        lane.offer(batch)
        reader = Reader(read)
        assert (await settled(lane)).delivered == 40
    os.close(write)
    assert await reader.end() == b"".join(m.to_json() + b"\n" for m in [message(), *batch])


async def test_a_closed_pipe_ends_the_lane(pipe: tuple[int, int]) -> None:
    """EPIPE ends the lane; lines that were written whole before count as delivered, the rest as dropped{closed}."""
    read, write = pipe
    batch = messages(40, body="x" * 3000)
    async with lane_to(StdoutSink(write)) as lane:
        lane.offer(batch)
        lane.offer(batch)
        left = 2 * (len(batch[0].to_json()) + 1)
        while left:
            await until(lambda: fionread(read) > 0)
            left -= len(os.read(read, left))
        os.close(read)
        async with asyncio.timeout(BOUND):
            await lane.closed.wait()
        counters = await settled(lane)
    assert 2 <= counters.delivered <= 4  # what was read, and whole lines that lay in the pipe
    assert counters.dropped["closed"] == 80 - counters.delivered


async def test_a_blocked_stdout_is_left_behind_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody reads: the loop goes on, the deadline cuts, whole lines that went out count as delivered."""
    monkeypatch.setattr("sniffer.outputs.stdout.sink.WRITE_BYTES", 4096)
    read, write = os.pipe()
    batch = messages(10, body="x" * 1500)
    try:
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 8192)
        async with lane_to(StdoutSink(write)) as lane:
            lane.offer(batch)
            lane.offer(batch)
            await until(lambda: fionread(read) == 8192)
            await lane.drain(time.monotonic())
            whole = 8192 // (len(batch[0].to_json()) + 1)
            assert whole == 4
            assert lane.counters.delivered == whole
            assert lane.counters.dropped["deadline"] == 20 - whole
        reader = Reader(read)
        await until(lambda: all(thread.name != "sniffer stdout" for thread in threading.enumerate()))
        os.close(write)
        assert len(await reader.end()) == 8192 + 4096  # what was under way, and nothing after it
    finally:
        os.close(read)
        with contextlib.suppress(OSError):
            os.close(write)


def fionread(fd: int) -> int:
    """Bytes that lie in a pipe."""
    answer = fcntl.ioctl(fd, 0x541B, b"\0\0\0\0")
    return int.from_bytes(answer, "little")


async def test_a_full_disk_leaves_nothing_for_the_garbage_collector() -> None:
    """A batch that could not be written is freed at once: no cycle holds it until a full collection."""
    fd = os.open("/dev/full", os.O_WRONLY)
    sink = StdoutSink(fd)
    await sink.open()
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(Undelivered):  # unlike pytest.raises it keeps no traceback
            await sink.deliver(messages(10, connection=0xCAFE))
            pytest.fail("written")
        mark = f"{0xCAFE:032x}"
        await until(  # the thread has to come as far as to wait for the next call
            lambda: not [item for item in gc.get_objects() if isinstance(item, Sent) and item.connection_id == mark]
        )
    finally:
        gc.enable()
        await sink.close()
        os.close(fd)


async def test_a_full_disk_is_counted_and_its_torn_line_ended(tmp_path: Path) -> None:
    """A write that fails drops the batch as an error, and the next line starts on a line of its own."""
    path = tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = len(message().to_json())
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        async with lane_to(StdoutSink(fd)) as lane:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 11, hard))
            try:
                for batch in (messages(2), [message(2)]):
                    lane.offer(batch)
                    await until(lambda: not lane.counters.waiting)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            lane.offer([message(3)])
            counters = await settled(lane)
    finally:
        os.close(fd)
    lines = path.read_bytes().split(b"\n")
    assert lines == [message(0).to_json(), message(1).to_json()[:10], message(3).to_json(), b""]
    assert (counters.delivered, counters.dropped["error"]) == (2, 2)


def test_lines_behind_a_torn_one_are_counted(tmp_path: Path) -> None:
    """The end of a torn line is no message of the batch behind it."""
    with (tmp_path / "out").open("wb") as file:
        write = _Write(file.fileno(), Lines(), messages(2), after_torn_line=True)
        assert (write.lines(), write.torn()) == (0, True)
        write.run()
        assert (write.lines(), write.torn()) == (2, False)
