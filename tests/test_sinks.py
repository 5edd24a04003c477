"""The local sinks: standard output, callbacks, iterators."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import gc
import json
import os
import resource
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from sniffer.delivery.sink import Undelivered
from sniffer.message import HttpMessage
from sniffer.sinks import (
    CallbackSink,
    IteratorSink,
    StdoutSink,
    _Write,
)
from sniffer_core.core import Lines
from tests.deliveries import BOUND, Sent, lane_to, message, messages, settled, until

# Standard output


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
    monkeypatch.setattr("sniffer.sinks.WRITE_BYTES", 4096)
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


# Callbacks


async def test_a_plain_callback_runs_on_its_own_thread() -> None:
    """A plain callable gets each message in turn, on one daemon thread that is not the loop's."""
    got: list[tuple[HttpMessage, threading.Thread]] = []
    async with lane_to(CallbackSink(lambda m: got.append((m, threading.current_thread())))) as lane:
        lane.offer(messages(3))
        lane.offer(messages(2, connection=1))
        assert (await settled(lane)).delivered == 5
    assert [m for m, _ in got] == messages(3) + messages(2, connection=1)
    (thread,) = {thread for _, thread in got}
    assert thread is not threading.current_thread()
    assert thread.daemon


class AsyncCall:
    def __init__(self) -> None:
        self.got: list[HttpMessage] = []

    async def __call__(self, m: HttpMessage) -> None:
        await asyncio.sleep(0)
        assert threading.current_thread() is threading.main_thread()
        self.got.append(m)


def plainly(function: Callable[[HttpMessage], object]) -> Callable[[HttpMessage], object]:
    """A plain function that returns what an async one returns."""

    def call(m: HttpMessage) -> object:
        return function(m)

    return call


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: f.__call__, functools.partial, plainly])
async def test_an_async_callback_runs_on_the_loop(wrap: object) -> None:
    """Awaited on the loop: an async function, an async `__call__`, a partial, a plain function around one."""
    call = AsyncCall()
    async with lane_to(CallbackSink(wrap(call))) as lane:  # type: ignore[operator]
        lane.offer(messages(3))
        assert (await settled(lane)).delivered == 3
    assert call.got == messages(3)


def raise_for_odd(m: HttpMessage) -> None:
    if m.exchange % 2:
        raise ValueError(f"cannot use {m.body}")


async def raise_for_odd_async(m: HttpMessage) -> None:
    raise_for_odd(m)


@pytest.mark.parametrize("callback", [raise_for_odd, raise_for_odd_async])
async def test_a_callback_that_raises_is_logged_and_counted(callback: object, caplog: pytest.LogCaptureFixture) -> None:
    """Its other messages are delivered; the log tells type and place, never the text, which may quote the body."""
    async with lane_to(CallbackSink(callback)) as lane:  # type: ignore[arg-type]
        lane.offer(messages(5, body="secret"))
        lane.offer(messages(2, body="secret"))
        counters = await settled(lane)
    assert (counters.delivered, counters.dropped["error"]) == (4, 3)
    (first, *_) = caplog.records
    assert first.getMessage() == "messages not delivered"
    fields = first.__dict__["fields"]
    assert fields["error"] == 2
    assert fields["cause"].startswith("ValueError at test_sinks.py:")
    assert "raise_for_odd" in fields["cause"]
    assert "secret" not in caplog.text + str([record.__dict__ for record in caplog.records])


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()], ids=repr)
async def test_a_callback_cannot_end_the_process(error: BaseException) -> None:
    """SystemExit and its like on the callback's thread are counted as errors; capture goes on."""

    def leave(m: HttpMessage) -> None:
        if m.exchange == 0:
            raise error

    async with lane_to(CallbackSink(leave)) as lane:
        lane.offer(messages(3))
        counters = await settled(lane)
    assert (counters.delivered, counters.dropped["error"]) == (2, 1)


@pytest.mark.parametrize("wrap", [False, True])
async def test_an_async_callback_cannot_end_the_process(wrap: bool) -> None:
    """Nor can SystemExit on the loop, which would end it."""

    async def leave(m: HttpMessage) -> None:
        if m.exchange == 0:
            raise SystemExit(3)

    def wrapped(m: HttpMessage) -> Awaitable[None]:
        return leave(m)

    async with lane_to(CallbackSink(wrapped if wrap else leave)) as lane:
        lane.offer(messages(3))
        counters = await settled(lane)
    assert (counters.delivered, counters.dropped["error"]) == (2, 1)


async def test_an_async_callback_that_cancels_itself_is_an_error() -> None:
    """A CancelledError of the callback's own is counted as an error and does not end the lane."""

    async def leave(m: HttpMessage) -> None:
        if m.exchange == 0:
            raise asyncio.CancelledError

    async with lane_to(CallbackSink(leave)) as lane:
        lane.offer(messages(3))
        counters = await settled(lane)
    assert (counters.delivered, counters.dropped["error"]) == (2, 1)


async def test_a_callback_that_hangs_delays_no_other_and_is_cut() -> None:
    """A callback that never returns blocks its own lane only, and is cut at the deadline with exact counts."""
    hanging = threading.Event()
    release = threading.Event()

    began: list[HttpMessage] = []

    def hang(m: HttpMessage) -> None:
        began.append(m)
        if m.exchange == 2:
            hanging.set()
            release.wait()

    got: list[HttpMessage] = []
    try:
        async with lane_to(CallbackSink(hang)) as stuck, lane_to(CallbackSink(got.append)) as free:
            for lane in (stuck, free):
                lane.offer(messages(10))
            assert (await settled(free)).delivered == 10
            assert await asyncio.to_thread(hanging.wait, BOUND)
            await stuck.drain(time.monotonic())
            assert stuck.counters.delivered == 2
            assert stuck.counters.dropped["deadline"] == 8
    finally:
        release.set()
    await until(lambda: all(thread.name != "sniffer callback" for thread in threading.enumerate()))
    assert began == messages(3)  # what was cut is not called later


async def test_an_async_callback_that_hangs_is_cut() -> None:
    """The same on the loop."""

    async def hang(m: HttpMessage) -> None:
        if m.exchange == 2:
            hanging.set()
            await asyncio.Event().wait()

    hanging = asyncio.Event()
    async with lane_to(CallbackSink(hang)) as lane:
        lane.offer(messages(10))
        await asyncio.wait_for(hanging.wait(), BOUND)
        await lane.drain(time.monotonic())
        assert lane.counters.delivered == 2
        assert lane.counters.dropped["deadline"] == 8


def test_a_thread_outlives_its_loop() -> None:
    """A callback that comes back after the loop has ended harms nothing."""
    release = threading.Event()
    began = threading.Event()

    def hang(_: HttpMessage) -> None:
        began.set()
        release.wait()

    async def run() -> None:
        async with lane_to(CallbackSink(hang)) as lane:
            lane.offer(messages(1))
            assert await asyncio.to_thread(began.wait, BOUND)

    asyncio.run(run())
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "sniffer callback" and thread.is_alive())
    release.set()
    thread.join(BOUND)
    assert not thread.is_alive()


# Iterators


async def test_an_iterator_gets_every_message_and_ends() -> None:
    """`async for` gets all messages in order, and ends when the sink is closed."""
    sink = IteratorSink()
    got = []

    async def consume() -> None:
        got.extend([m async for m in sink.messages()])

    consumer = asyncio.create_task(consume())
    async with lane_to(sink) as lane:
        for connection in range(3):
            lane.offer(messages(4, connection=connection))
            await asyncio.sleep(0)
        assert (await settled(lane)).delivered == 12
    await asyncio.wait_for(consumer, BOUND)
    assert got == [m for connection in range(3) for m in messages(4, connection=connection)]


async def test_an_iterator_raises_its_error_after_the_last_message() -> None:
    """What was captured comes first, then the error that ended the capture."""
    sink = IteratorSink()
    async with lane_to(sink) as lane:
        lane.offer(messages(4))
        await lane.drain(time.monotonic() + BOUND)
        sink.error = RuntimeError("interface removed")
    stream = sink.messages()
    assert [await anext(stream) for _ in range(4)] == messages(4)
    with pytest.raises(RuntimeError, match="interface removed"):
        await anext(stream)


async def test_an_iterator_pushes_back() -> None:
    """A batch counts as delivered when the loop has had all of it, so that reading a file waits for the consumer."""
    sink = IteratorSink()
    async with lane_to(sink, max_messages=4) as lane:
        lane.offer(messages(4))
        room = asyncio.create_task(lane.room())
        stream = sink.messages()
        assert [await anext(stream) for _ in range(4)] == messages(4)
        assert lane.counters.delivered == 0
        assert not room.done()
        step = asyncio.ensure_future(anext(stream))
        await asyncio.wait_for(room, BOUND)
        assert lane.counters.delivered == 4
        lane.offer([message(4)])
        assert await step == message(4)
        await stream.aclose()  # type: ignore[attr-defined]


async def test_leaving_the_loop_closes_the_iterator() -> None:
    """After `break` the rest is dropped as closed, and nothing waits for it: not the drain either."""
    sink = IteratorSink()
    async with lane_to(sink) as lane:
        lane.offer(messages(3))
        lane.offer(messages(3))
        async for m in sink.messages():
            if m.exchange == 1:
                break
        async with asyncio.timeout(BOUND):
            await lane.drain()
            await lane.closed.wait()
        assert (lane.counters.delivered, lane.counters.dropped["closed"]) == (2, 4)


async def test_an_iterator_that_was_left_takes_nothing() -> None:
    """What comes after the loop was left is dropped as closed, also where nothing was under way then."""
    sink = IteratorSink()
    async with lane_to(sink) as lane:
        lane.offer(messages(1))
        stream = sink.messages()
        await anext(stream)
        waiting = asyncio.ensure_future(anext(stream))
        await until(lambda: lane.counters.delivered == 1)
        waiting.cancel()
        await asyncio.wait((waiting,))
        lane.offer(messages(2))
        async with asyncio.timeout(BOUND):
            await lane.closed.wait()
        assert lane.counters.dropped["closed"] == 2


async def test_a_loop_may_stop_its_own_sniffer() -> None:
    """A drain from inside the loop does not wait for the loop's next step; the loop still gets the rest."""
    sink = IteratorSink()
    got: list[HttpMessage] = []
    async with lane_to(sink) as lane:
        for connection in range(3):
            lane.offer(messages(3, connection=connection))
        async for m in sink.messages():
            if not got:
                async with asyncio.timeout(BOUND):
                    await lane.drain(time.monotonic() + 2 * BOUND)
                await lane.close()
            got.append(m)
        assert len(got) == 9
        assert lane.counters.delivered == 9
