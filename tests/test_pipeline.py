"""The sniffer: pump, filters, statistics, stop, drain, failures."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sniffer import pipeline
from sniffer.capture.live import LiveSource
from sniffer.companion import Companion
from sniffer.config import SnifferConfig
from sniffer.delivery.lane import Lane
from sniffer.delivery.queues import weigh
from sniffer.errors import CaptureError, Problem, SnifferError, ValidationError
from sniffer.exchanges import ExchangeSink, Pair, exchange_lane
from sniffer.outputs import Context
from sniffer.pipeline import Sniffer, create_sniffer
from sniffer.record.codings import decode
from sniffer.record.message import HttpMessage
from tests import captures
from tests.captures import connection, exchanges, get, ok, write
from tests.packets import MPLS, SLL, UDP, Packet, ethernet, ipv4, udp, vxlan
from tests.scripted import ScriptedSource, scripted
from tests.waiting import BOUND, until

__all__ = ["scripted"]


def logged(caplog: pytest.LogCaptureFixture, text: str) -> list[dict[str, Any]]:
    """The fields of every log line with this message."""
    return [getattr(record, "fields", {}) for record in caplog.records if record.getMessage() == text]


def assert_balanced(sniffer: Sniffer) -> None:
    assert sniffer.ledger.check() == []


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sniffer")


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A capture of 50 exchanges."""
    return write(tmp_path / "file.pcap", connection(exchanges(50)))


async def collect(sniffer: Sniffer, into: list[HttpMessage]) -> None:
    """Iterates to the end, keeping what came before an error."""
    async for message in sniffer:
        into.append(message)  # noqa: PERF401


class Blocked:
    """A callback that takes nothing until it is released."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.entered = threading.Event()
        self.got: list[HttpMessage] = []

    def __call__(self, message: HttpMessage) -> None:
        self.entered.set()
        self.release.wait(BOUND)
        self.got.append(message)


@pytest.fixture
def blocked() -> Iterator[Blocked]:
    """A blocked callback, released at the end."""
    callback = Blocked()
    yield callback
    callback.release.set()


# Through


async def test_every_message_reaches_every_lane(file: str) -> None:
    """Callback and iterator get the same messages in the same order, and the ledger balances."""
    called: list[HttpMessage] = []
    sniffer = create_sniffer(ports=[8080], read=file, on_http_message=called.append)
    async with sniffer:
        iterated = [message async for message in sniffer]
        await sniffer.wait()
    assert len(iterated) == 100
    assert called == iterated
    assert [message.path for message in iterated[::2]] == [f"/{number}" for number in range(50)]
    assert_balanced(sniffer)


async def test_secrets_are_in_no_lane_and_no_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Values planted in every redacted place are nowhere: heads, repeated headers, trailers, query, user info."""
    caplog.set_level(logging.DEBUG, "sniffer")
    request = (
        b"GET http://me:s3cret@example.test/?sig=s3cret HTTP/1.1\r\nHost: x\r\nAuthorization: s3cret\r\n"
        b"Cookie: a=s3cret\r\nCookie: b=s3cret\r\nX-Api-Key: s3cret\r\nProxy-Authorization: s3cret\r\n\r\n"
    )
    response = (
        b"HTTP/1.1 200 OK\r\nSet-Cookie: s3cret\r\nSet-Cookie: s3cret\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\nAuthorization: s3cret\r\nSet-Cookie: s3cret\r\n\r\n"
    )
    path = write(tmp_path / "file", connection([(request, response)]))
    messages: list[HttpMessage] = []
    sniffer = create_sniffer(ports=[8080], read=path, on_http_message=messages.append)
    async with sniffer:
        await sniffer.wait()
    assert len(messages) == 2
    for message in messages:
        assert b"s3cret" not in message.to_json()
        assert "s3cret" not in repr(message)
    assert "s3cret" not in "".join(str(record.__dict__) for record in caplog.records)


def coded_answer(coding: str, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Encoding: %s\r\nContent-Length: %d\r\n\r\n%s" % (
        coding.encode(),
        len(body),
        body,
    )


BROTLI_BOMB = bytes.fromhex("cb ff ff 7f 00 24 00 e2 b1 40 72 ef ff 07")
"""Decodes to 16 MiB, through a window of 22 bits."""


async def test_bodies_are_decoded_once_on_a_thread_and_in_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """However many outputs there are, a coded body is decoded once, not on the loop; the order of a file stays."""
    threads: list[str] = []

    def counted(body: bytes, coding: str, room: int) -> Any:
        threads.append(threading.current_thread().name)
        return decode(body, coding, room)

    monkeypatch.setattr(pipeline, "decode", counted)
    answers = [coded_answer("gzip", gzip.compress(b"%d" % number)) if number % 3 else ok() for number in range(60)]
    path = write(tmp_path / "file", connection([(get(f"/{n}"), answer) for n, answer in enumerate(answers)]))
    called: list[HttpMessage] = []
    sniffer = create_sniffer(
        ports=[8080], read=path, on_http_message=called.append, output_stdout=True, har=str(tmp_path / "har")
    )
    async with sniffer:
        iterated = [message async for message in sniffer]
        await sniffer.wait()
    assert threads == ["sniffer decoder"] * 40
    assert [message.path for message in called[::2]] == [f"/{number}" for number in range(60)]
    assert [message.body for message in called[1::2] if message.body_decoded] == [str(n) for n in range(60) if n % 3]
    assert iterated == called
    assert capfd.readouterr().out.splitlines() == [message.to_json().decode() for message in called]
    assert sniffer.ledger.snapshot()["bodies_decoded"] == 40
    assert_balanced(sniffer)


async def test_what_is_left_coded_is_counted(tmp_path: Path) -> None:
    """Each body that stays as it was sent is in one counter, by why."""
    larger = b"\xcf" + BROTLI_BOMB[1:]
    answers = [
        *[coded_answer("br", larger)] * 3,
        *[coded_answer("gzip", b"no gzip")] * 2,
        coded_answer("aws-chunked", b"x"),
        coded_answer("br", BROTLI_BOMB),
        ok(b"plain"),
    ]
    path = write(tmp_path / "file", connection([(get(), answer) for answer in answers]))
    sniffer = create_sniffer(ports=[8080], read=path, on_http_message=lambda _: None)
    async with sniffer:
        await sniffer.wait()
    snapshot = sniffer.ledger.snapshot()
    assert {name: count for name, count in snapshot.items() if name.startswith("bodies_") and count} == {
        "bodies_left_coded_window": 3,
        "bodies_left_coded_broken": 2,
        "bodies_left_coded_unknown": 1,
        "bodies_decoded": 1,
    }


@pytest.mark.parametrize("output", ["stdout", "callback"])
async def test_bombs_are_offered_by_parts_of_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], output: str
) -> None:
    """200 bodies of 14 bytes that decode to 64 KiB each are not all decoded before a lane was asked for room; each
    part is offered with its own weight.
    """
    offered: list[tuple[int, int | None]] = []
    offer = Lane.offer

    def spy(self: Lane, batch: Any, size: int | None = None) -> None:
        offered.append((weigh(batch), size))
        offer(self, batch, size)

    monkeypatch.setattr(Lane, "offer", spy)
    sent = [(get(), coded_answer("br", BROTLI_BOMB))] * 200 + exchanges(100)
    path = write(tmp_path / "file", connection(sent))
    got: list[str] = []
    sniffer = create_sniffer(
        ports=[8080],
        read=path,
        memory_budget=8 << 20,
        output_stdout=output == "stdout",
        on_http_message=(lambda message: got.append(message.to_json().decode())) if output == "callback" else None,
    )
    async with sniffer:
        await sniffer.wait()
    got += capfd.readouterr().out.splitlines()
    assert [len(json.loads(line).get("body", "")) for line in got[:400]] == [0, 65_536] * 200
    assert len(got) == 600
    assert all(weight == given for weight, given in offered)
    assert max(weight for weight, _ in offered) <= (8 << 20) // 32 + 6 * 65_536
    assert_balanced(sniffer)


async def test_a_drain_does_not_wait_for_a_decoder(scripted: ScriptedSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop goes on while a body is decoded; at the deadline the messages behind it are dropped, and counted."""
    entered, release = threading.Event(), threading.Event()

    def slow(body: bytes, coding: str, room: int) -> Any:
        entered.set()
        if threading.current_thread().name == "sniffer decoder":
            release.wait(BOUND)
        return decode(body, coding, room)

    monkeypatch.setattr(pipeline, "decode", slow)
    sniffer = create_sniffer(ports=[8080], interface="x", on_http_message=lambda _: None, drain_timeout_ms=200)
    await sniffer.start()
    scripted.say(connection([(get(), coded_answer("gzip", gzip.compress(b"x")))] * 3))
    await until(entered.is_set)
    await sniffer.stop()
    release.set()
    snapshot = sniffer.ledger.snapshot()
    assert snapshot["lanes"]["callback"]["offered"] + snapshot["handoff_discarded"] == 6
    assert_balanced(sniffer)


async def test_reading_a_file_twice_gives_the_same_bytes(file: str) -> None:
    """The record depends on the packets alone."""

    async def lines() -> list[bytes]:
        async with create_sniffer(ports=[8080], read=file) as sniffer:
            return [message.to_json() async for message in sniffer]

    assert await lines() == await lines()


async def test_a_file_waits_for_its_slowest_lane(tmp_path: Path) -> None:
    """Reading a file loses nothing, however small the memory and however slow the loop that reads."""
    path = write(tmp_path / "file", connection([(get(f"/{n}"), ok(bytes(30_000))) for n in range(60)]))
    sniffer = create_sniffer(ports=[8080], read=path, memory_budget=400_000)
    count = 0
    async with sniffer:
        async for _ in sniffer:
            count += 1
            if count % 10 == 0:
                await asyncio.sleep(0.002)
    assert count == 120
    assert sniffer.undelivered == 0
    assert_balanced(sniffer)


async def test_a_cut_file_is_delivered_and_then_an_error(tmp_path: Path) -> None:
    """What could be read is delivered; then `wait()` and the iterator raise, and it no longer runs."""
    path = write(tmp_path / "file", connection(exchanges(5)))
    os.truncate(path, 1000)
    got: list[HttpMessage] = []
    sniffer = create_sniffer(ports=[8080], read=path)
    await sniffer.start()
    with pytest.raises(CaptureError, match="cannot be read to its end"):
        await collect(sniffer, got)
    assert got
    with pytest.raises(CaptureError):
        await sniffer.wait()
    assert not sniffer.is_running()
    assert_balanced(sniffer)


# Options


async def test_options_arrive_where_they_act(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The core gets each option in its unit; the budget is shared by core, hand-off and lanes as documented."""
    from sniffer_core.core import FlowTable

    made: list[dict[str, Any]] = []

    def spy(**options: Any) -> FlowTable:
        made.append(options)
        return FlowTable(**options)

    monkeypatch.setattr("sniffer_core.core.FlowTable", spy)
    options: dict[str, Any] = {
        "max_body_size": 5,
        "max_concurrent_connections": 77,
        "connection_idle_timeout_ms": 1234,
        "memory_budget": 16 << 20,
        "sample_rate": 0.5,
        "redact_headers": ["x-a"],
        "redact_query": ["b"],
        "redact_body": ["c"],
        "pod_name": "p",
        "decode_bodies": False,
    }
    sniffer = create_sniffer(ports=[8080], read=file, **options)
    aiter(sniffer)
    assert sniffer._handoff._max_bytes == 4 << 20
    assert [lane.max_bytes for lane in sniffer._lanes] == [4 << 20]
    left = aiter(sniffer)
    assert [lane.max_bytes for lane in sniffer._lanes] == [2 << 20, 2 << 20]
    sniffer._lanes[1].closed.set()
    aiter(sniffer)
    assert [sniffer._lanes[index].max_bytes for index in (0, 2)] == [2 << 20, 2 << 20]  # who has left has no share
    del left
    await sniffer.start()
    await sniffer.stop()
    (given,) = made
    assert given.pop("linktype") == 1
    assert given == {
        "ports": (8080,),
        "max_body": 5,
        "max_flows": 77,
        "idle_timeout_us": 1_234_000,
        "memory_limit": 8 << 20,
        "sample_rate": 0.5,
        "carry": (),
        "redact_headers": ("x-a",),
        "redact_query": ("b",),
        "redact_body": ("c",),
        "redact_key": None,
        "placement": ("p", None, None),
        "decode": None,
    }


async def test_a_message_is_made_once_for_all_who_want_it(file: str) -> None:
    """Callback and iterators get the same objects."""
    called: list[HttpMessage] = []
    sniffer = create_sniffer(ports=[8080], read=file, on_http_message=called.append)

    async def collect(messages: AsyncIterator[HttpMessage]) -> list[HttpMessage]:
        return [message async for message in messages]

    iterators = [aiter(sniffer), aiter(sniffer)]
    async with sniffer:
        first, second = await asyncio.gather(*map(collect, iterators))
    assert len(called) == len(first) == len(second) == 100
    assert all(one is two is three for one, two, three in zip(called, first, second, strict=True))


async def test_no_message_is_made_where_nobody_wants_one(
    file: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """JSON comes straight from the core."""
    monkeypatch.setattr(pipeline, "from_raw", None)
    sniffer = create_sniffer(ports=[8080], read=file, output_stdout=True)
    async with sniffer:
        await sniffer.wait()
    assert capfd.readouterr().out.count("\n") == 100
    assert_balanced(sniffer)


async def test_what_is_unwise_is_said_at_the_start(file: str, caplog: pytest.LogCaptureFixture) -> None:
    """The configuration's warnings are logged, for the library as for the daemon."""
    async with create_sniffer(ports=[8080], read=file, redact_headers=[], on_http_message=lambda _: None) as sniffer:
        assert [line.getMessage() for line in caplog.records if line.levelname == "WARNING"] == [
            *sniffer.config.warnings
        ]
        assert any("redact_headers" in warning for warning in sniffer.config.warnings)


async def test_a_record_that_cannot_be_made_costs_only_itself(
    file: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A defect in one record is counted and said once, without the message; the others are delivered."""
    make = pipeline.from_raw

    def broken(raw: Any, placement: Any) -> HttpMessage:
        if raw.exchange in (3, 7):
            raise ValueError("text of the message")
        return make(raw, placement)

    monkeypatch.setattr(pipeline, "from_raw", broken)
    sniffer = create_sniffer(ports=[8080], read=file)
    async with sniffer:
        assert len([message async for message in sniffer]) == 96
    assert sniffer.ledger.snapshot()["messages_failed"] == sniffer.undelivered == 4
    assert len(logged(caplog, "a message could not be made into a record; further ones are only counted")) == 1
    assert "text of the message" not in caplog.text
    assert_balanced(sniffer)


# Own deliveries


async def test_own_deliveries_are_told_to_the_capture(scripted: ScriptedSource) -> None:
    """The URL sink's sockets reach the table before their packets do."""
    told: list[tuple[str, int, bool]] = []

    async def collect(request: web.Request) -> web.Response:
        await request.read()
        return web.Response()

    app = web.Application()
    app.router.add_post("/", collect)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    sniffer = create_sniffer(ports=[8080], interface="x", output_url=f"http://127.0.0.1:{port}/")
    sniffer._capture.own_socket = lambda *what: told.append(what)  # type: ignore[method-assign]
    scripted.say(connection(exchanges(3)))
    async with sniffer:
        await until(lambda: sniffer.ledger.snapshot()["lanes"]["url"]["delivered"] == 6)
    await runner.cleanup()
    assert {ip for ip, _, _ in told} == {"127.0.0.1"}
    assert [port for _, port, opened in told if opened]
    assert sorted(port for _, port, opened in told if opened) == sorted(port for _, port, opened in told if not opened)
    assert_balanced(sniffer)


# Stop


async def test_stop_delivers_what_was_captured(scripted: ScriptedSource) -> None:
    """`stop()` returns only when the callback has had every message, the cut ones included."""
    got: list[HttpMessage] = []

    def slow(message: HttpMessage) -> None:
        time.sleep(0.001)
        got.append(message)

    sniffer = create_sniffer(ports=[8080], interface="x", on_http_message=slow)
    await sniffer.start()
    packets = connection(exchanges(40))
    scripted.say(packets[:-4])  # without the last response and the end
    final = await sniffer.stop()
    assert len(got) == 79
    assert final["lanes"]["callback"]["delivered"] == 79
    assert final["flows_stopped"] == 1
    assert scripted.closed
    assert sniffer.undelivered == 0
    assert_balanced(sniffer)


async def test_stop_says_what_it_does(scripted: ScriptedSource, caplog: pytest.LogCaptureFixture) -> None:
    """`started`, `stopping`, `Capture stats` with the kernel's numbers, `stopped` with the ledger, in this order."""
    sniffer = create_sniffer(ports=[8080], interface="x", on_http_message=lambda _: None, pod_name="p")
    scripted.say(connection(exchanges(1)))
    scripted.kernel = (3, 0, 0)
    async with sniffer:
        await until(lambda: sniffer.ledger.snapshot()["messages_offered"] == 2)
    assert [record.getMessage() for record in caplog.records] == ["started", "stopping", "Capture stats", "stopped"]
    (started,) = logged(caplog, "started")
    assert started["ports"] == [8080]
    assert started["outputs"] == ["callback"]
    assert started["interface"] == "scripted0"
    assert started["sampleRate"] == 1
    assert started["placement"] == {"pod": "p"}
    assert {"version", "loopback", "memoryBudget"} <= started.keys()
    (stats,) = logged(caplog, "Capture stats")
    assert (stats["packetsReceived"], stats["packetsDropped"], stats["packetsIfDropped"]) == (11, 0, 0)
    (stopped,) = logged(caplog, "stopped")
    assert stopped["undelivered"] == 0
    assert stopped["lanes"]["callback"]["delivered"] == 2
    assert stopped["ledger"]["messages_offered"] == 2


async def test_the_drain_ends_at_its_deadline(scripted: ScriptedSource, blocked: Blocked) -> None:
    """A callback that hangs is left at `DRAIN_TIMEOUT_MS`; what it did not take is counted and is undelivered."""
    sniffer = create_sniffer(ports=[8080], interface="x", on_http_message=blocked, drain_timeout_ms=100)
    await sniffer.start()
    scripted.say(connection(exchanges(10)))
    await asyncio.to_thread(blocked.entered.wait, BOUND)
    began = time.monotonic()
    final = await sniffer.stop()
    assert 0.05 < time.monotonic() - began < 10
    assert final["lanes"]["callback"]["dropped_deadline"] == 20
    assert sniffer.undelivered == 20
    assert_balanced(sniffer)


async def test_abort_ends_the_drain_at_once(scripted: ScriptedSource, blocked: Blocked) -> None:
    """A second signal does not wait for the deadline."""
    sniffer = create_sniffer(ports=[8080], interface="x", on_http_message=blocked)
    await sniffer.start()
    scripted.say(connection(exchanges(10)))
    await asyncio.to_thread(blocked.entered.wait, BOUND)
    stopping = asyncio.create_task(sniffer.stop())
    await asyncio.sleep(0.3)
    assert not stopping.done()
    sniffer.abort()
    async with asyncio.timeout(BOUND):
        await stopping
    assert sniffer.undelivered == 20
    assert_balanced(sniffer)


async def test_a_file_with_a_stuck_lane_stops_at_the_deadline(tmp_path: Path, blocked: Blocked) -> None:
    """Reading that waits for a lane, and the thread that waits for the hand-off, are both released by the deadline."""
    path = write(tmp_path / "file", connection(exchanges(3000)))
    sniffer = create_sniffer(
        ports=[8080], read=path, on_http_message=blocked, memory_budget=200_000, drain_timeout_ms=200
    )
    await sniffer.start()
    await asyncio.to_thread(blocked.entered.wait, BOUND)
    await until(lambda: sniffer.ledger.snapshot()["handoff_held"])
    await sniffer.stop()
    snapshot = sniffer.ledger.snapshot()
    assert snapshot["handoff_discarded"] > 0
    assert snapshot["lanes"]["callback"]["dropped_deadline"] + snapshot["lanes"]["callback"]["dropped_full"] > 0
    assert sniffer.undelivered > 0
    assert_balanced(sniffer)


async def test_drops_before_the_stop_are_not_undelivered(
    scripted: ScriptedSource, caplog: pytest.LogCaptureFixture
) -> None:
    """Live capture never waits for a lane; what it dropped then is counted, not held against the stop."""
    release = asyncio.Event()

    async def slow(_: HttpMessage) -> None:
        await release.wait()

    sniffer = create_sniffer(ports=[8080], interface="x", on_http_message=slow, memory_budget=40_000)
    await sniffer.start()
    for number in range(5):
        scripted.say(connection([(get(), ok(bytes(2000)))] * 5, client_port=40000 + number))
    await until(lambda: sniffer.ledger.snapshot()["lanes"]["callback"]["dropped_full"])
    await until(lambda: not sniffer.ledger.snapshot()["handoff_waiting"])
    await until(lambda: sniffer.ledger.snapshot()["packets_seen"] == 5 * 16)
    release.set()
    await sniffer.stop()
    assert sniffer.undelivered == 0
    assert_balanced(sniffer)


async def test_the_stop_can_be_delayed(scripted: ScriptedSource) -> None:
    """With `STOP_DELAY_MS` the capture goes on for so long after the signal; an abort cuts it short."""
    sniffer = create_sniffer(ports=[8080], interface="x", on_http_message=lambda _: None, stop_delay_ms=20_000)
    await sniffer.start()
    stopping = asyncio.create_task(sniffer.stop())
    await asyncio.sleep(0)
    assert not sniffer.ready
    scripted.say(connection(exchanges(4)))
    await until(lambda: sniffer.ledger.snapshot()["lanes"]["callback"]["delivered"] == 8)
    assert not stopping.done()
    sniffer.abort()
    async with asyncio.timeout(BOUND):
        await stopping
    assert_balanced(sniffer)


async def test_a_stop_during_the_start_is_a_clean_one(
    scripted: ScriptedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop while the capture opens ends both, without an error, whether it had opened by then or not."""
    entered, release = threading.Event(), threading.Event()
    for error in (None, CaptureError("interface scripted0 is down")):

        def slow(_: Any, error: Exception | None = error) -> int:
            entered.set()
            release.wait(BOUND)
            if error is not None:
                raise error
            return 1

        entered.clear()
        release.clear()
        monkeypatch.setattr(scripted, "open", slow)
        sniffer = create_sniffer(ports=[8080], interface="x", on_http_message=lambda _: None)
        starting = asyncio.create_task(sniffer.start())
        await asyncio.to_thread(entered.wait, BOUND)
        stopping = asyncio.create_task(sniffer.stop())
        await asyncio.sleep(0)
        release.set()
        async with asyncio.timeout(BOUND):
            await starting
            await stopping
            await sniffer.wait()
        assert not sniffer.is_running()


# Failures


async def test_a_capture_that_fails_is_drained_first(scripted: ScriptedSource) -> None:
    """Interface removed: everything captured is delivered, then `wait()` and the iterator raise the error."""
    sniffer = create_sniffer(ports=[8080], interface="x")
    await sniffer.start()
    scripted.say(connection(exchanges(5)))
    scripted.say(CaptureError("interface scripted0 was removed"))
    got: list[HttpMessage] = []
    with pytest.raises(CaptureError, match="was removed"):
        await collect(sniffer, got)
    assert len(got) == 10
    with pytest.raises(CaptureError, match="was removed"):
        await sniffer.wait()
    assert not sniffer.is_running()
    assert (await sniffer.stop())["messages_offered"] == 10
    assert_balanced(sniffer)


async def test_hold_waits_for_the_stop(scripted: ScriptedSource, caplog: pytest.LogCaptureFixture) -> None:
    """`hold`: the failure is said at once and at every statistics interval; only the stop ends the wait."""
    sniffer = create_sniffer(
        ports=[8080], interface="x", on_http_message=lambda _: None, on_capture_error="hold", stats_interval_ms=20
    )
    await sniffer.start()
    scripted.say(CaptureError("interface scripted0 was removed"))
    waiting = asyncio.create_task(sniffer.wait())
    await until(lambda: len(logged(caplog, "capture has failed; waiting to be stopped")) >= 2)
    assert len(logged(caplog, "capture failed")) == 1
    assert not waiting.done()
    assert not sniffer.ready
    assert not sniffer.is_running()
    assert sniffer.healthy
    assert sniffer.held
    await sniffer.stop()
    with pytest.raises(CaptureError, match="was removed"):
        await waiting


async def test_hold_covers_a_capture_that_cannot_be_opened(scripted: ScriptedSource) -> None:
    """A start that fails does not raise with `hold`: the daemon stays, not ready, until it is stopped."""
    scripted.open_error = CaptureError("no permission")
    sniffer = create_sniffer(ports=[8080], interface="x", on_http_message=lambda _: None, on_capture_error="hold")
    await sniffer.start()
    await until(lambda: sniffer.held)
    assert not sniffer.ready
    await sniffer.stop()
    with pytest.raises(CaptureError, match="no permission"):
        await sniffer.wait()


async def test_hold_covers_an_output_that_cannot_be_opened(
    scripted: ScriptedSource, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What keeps an output from being opened is waited with too, and is what `wait()` raises."""
    options: dict[str, Any] = {"ports": [8080], "interface": "x", "har": tmp_path / "nosuch" / "x.har"}
    with pytest.raises(SnifferError, match="nosuch"):
        await create_sniffer(**options).start()
    sniffer = create_sniffer(**options, on_capture_error="hold", stats_interval_ms=20)
    await sniffer.start()
    await until(lambda: logged(caplog, "the start has failed; waiting to be stopped"))
    assert sniffer.held
    assert not sniffer.ready
    await sniffer.stop()
    with pytest.raises(SnifferError, match="nosuch"):
        await sniffer.wait()


async def test_hold_in_place_of_a_start(caplog: pytest.LogCaptureFixture) -> None:
    """A sniffer that never captures waits with the error that it is given, once, as with a capture that failed."""
    sniffer = create_sniffer(ports=[8080], stats_interval_ms=20)
    await sniffer.hold(ValidationError([Problem("ports", "ports is required")]))
    with pytest.raises(RuntimeError, match="started once"):
        await sniffer.start()
    await until(lambda: len(logged(caplog, "the configuration is wrong; waiting to be stopped")) >= 2)
    assert sniffer.held
    assert not sniffer.ready
    assert sniffer.healthy
    await sniffer.stop()
    with pytest.raises(ValidationError, match="ports is required"):
        await sniffer.wait()


async def test_a_start_that_fails_raises(scripted: ScriptedSource) -> None:
    """Without `hold` the error is the start's; an iterator made before it gets it too, and so does `wait()`."""
    scripted.open_error = CaptureError("no permission")
    sniffer = create_sniffer(ports=[8080], interface="x", on_http_message=lambda _: None)
    iterator = aiter(sniffer)
    with pytest.raises(CaptureError, match="no permission"):
        await sniffer.start()
    with pytest.raises(CaptureError, match="no permission"):
        await anext(iterator)
    with pytest.raises(CaptureError, match="no permission"):
        await sniffer.wait()
    assert not sniffer.is_running()
    await sniffer.stop()


async def test_a_defect_in_the_pump_ends_the_run_with_it(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception nobody expected stops the capture, and is what `wait()` raises."""

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(Sniffer, "_with_messages", broken)
    sniffer = create_sniffer(ports=[8080], read=file, on_http_message=lambda _: None)
    await sniffer.start()
    with pytest.raises(ZeroDivisionError):
        await sniffer.wait()
    assert not sniffer.is_running()
    await sniffer.stop()


# Log lines about traffic


HELLO = b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03" + bytes(200)


async def test_what_cannot_be_read_is_said_once_and_counted(
    scripted: ScriptedSource, caplog: pytest.LogCaptureFixture
) -> None:
    """TLS on a captured port: info once per process, debug once per connection, the count in the ledger."""
    caplog.set_level(logging.DEBUG, "sniffer")
    sniffer = create_sniffer(ports=[8080], interface="x", on_http_message=lambda _: None)
    async with sniffer:
        for port in (40001, 40002, 40003):
            scripted.say(connection([(HELLO, b"")], client_port=port))
        await until(lambda: sniffer.ledger.snapshot()["flows_tls"] == 3)
    lines = [record for record in caplog.records if record.getMessage().startswith("TLS on a captured port")]
    assert sorted(record.levelname for record in lines) == ["DEBUG", "DEBUG", "INFO"]
    assert {record.fields["destination"] for record in lines} == {  # type: ignore[attr-defined]
        f"{captures.CLIENT} port {port}" for port in (40001, 40002, 40003)
    }
    assert_balanced(sniffer)


async def test_what_is_inside_of_a_tunnel_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file with tunnels says how many packets are inside of each kind, once, and reads the rest."""
    inside = [p.data for p in connection(exchanges(200))]
    packets = connection(exchanges(1))
    over_udp = [ipv4("203.0.113.1", "203.0.113.2", udp(5555, 4789, vxlan(frame)), protocol=UDP) for frame in inside * 3]
    frames = [*map(ethernet, over_udp), ethernet(b"\0\x01\x01\x40" + inside[0][14:], protocol=MPLS)]
    packets += [Packet(packets[-1].stamp + 1 + place, frame) for place, frame in enumerate(frames)]
    sniffer = create_sniffer(ports=[8080], read=write(tmp_path / "t.pcap", packets), on_http_message=lambda _: None)
    async with sniffer:
        await sniffer.wait()
    lines = [record.getMessage() for record in caplog.records if "not read" in record.getMessage()]
    assert lines == ["1,218 packets inside VXLAN, not read", "1 packet inside MPLS, not read"]
    assert sniffer.ledger.snapshot()["messages_offered"] == 2
    assert_balanced(sniffer)


async def test_statistics_come_at_every_interval(scripted: ScriptedSource, caplog: pytest.LogCaptureFixture) -> None:
    """`STATS_INTERVAL_MS`: the same line again and again, and warnings when drops begin."""
    sniffer = create_sniffer(ports=[8080], interface="x", on_http_message=lambda _: None, stats_interval_ms=20)
    scripted.kernel = (0, 5, 2)
    async with sniffer:
        await until(lambda: len(logged(caplog, "Capture stats")) >= 3)
        await until(lambda: logged(caplog, "the kernel drops packets: its buffer is full"))
    assert logged(caplog, "the interface drops packets") == [{"count": 2}]
    assert logged(caplog, "Capture stats")[-1]["packetsDropped"] == 5


async def test_evictions_are_said_once_per_interval(scripted: ScriptedSource, caplog: pytest.LogCaptureFixture) -> None:
    """Evictions: one warning with counts, however many there were."""
    sniffer = create_sniffer(ports=[8080], interface="x", on_http_message=lambda _: None, max_concurrent_connections=5)
    async with sniffer:
        for port in range(50):
            scripted.say(connection(exchanges(1), client_port=40000 + port)[:-3])
        await until(lambda: sniffer.ledger.snapshot()["flows_opened"] == 50)
    (evicted,) = logged(caplog, "evicted since the last statistics")
    assert evicted["flows_evicted_capacity"] == 45
    assert_balanced(sniffer)


async def test_nothing_seen_is_said_once(
    scripted: ScriptedSource, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a message for 30 s one line says what to check; with one, none does."""
    monkeypatch.setattr(pipeline, "NOTHING_SEEN_SECONDS", 0.05)
    async with create_sniffer(ports=[8080], interface="x", on_http_message=lambda _: None):
        await until(lambda: "nothing seen for 30 s" in caplog.text)
    caplog.clear()
    sniffer = create_sniffer(ports=[8080], interface="x", on_http_message=lambda _: None)
    scripted.say(connection(exchanges(1)))
    monkeypatch.setattr(pipeline, "NOTHING_SEEN_SECONDS", 0.2)
    async with sniffer:
        await until(lambda: sniffer.ledger.snapshot()["messages_offered"])
        await asyncio.sleep(0.25)
    assert "nothing seen" not in caplog.text


async def test_messages_that_go_nowhere_are_warned_about_once(file: str, caplog: pytest.LogCaptureFixture) -> None:
    """Started with no output and not iterated over, it warns once."""
    async with create_sniffer(ports=[8080], read=file) as sniffer:
        await sniffer.wait()
    assert len(logged(caplog, "no output, callback or iterator: messages are discarded")) == 1


async def test_a_ledger_that_does_not_balance_is_said(
    file: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A law that fails at the end is an error in the log, with its terms."""
    monkeypatch.setattr(pipeline.Ledger, "check", lambda *_: ["law planted: 1 is not 2"])
    async with create_sniffer(ports=[8080], read=file, on_http_message=lambda _: None) as sniffer:
        await sniffer.wait()
    assert logged(caplog, "the ledger does not balance") == [{"law": "law planted: 1 is not 2"}]


# The daemon's view


async def test_readiness_and_health(scripted: ScriptedSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ready while the capture is open and not stopping; healthy while the capture thread beats."""
    sniffer = create_sniffer(ports=[8080], interface="x", on_http_message=lambda _: None)
    assert (sniffer.ready, sniffer.healthy, sniffer.is_running()) == (False, True, False)
    await sniffer.start()
    assert (sniffer.ready, sniffer.healthy, sniffer.is_running()) == (True, True, True)
    monkeypatch.setattr(pipeline, "BEAT_SECONDS", -1.0)
    assert not sniffer.healthy
    await sniffer.stop()
    await until(lambda: not sniffer._capture.is_alive())  # it has handed over its last; it need not have ended yet
    assert (sniffer.ready, sniffer.healthy, sniffer.is_running()) == (False, True, False)


async def test_waiting_for_somebody_else_is_healthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe into which nobody writes, before its header or after, is no sign of a stuck thread."""
    monkeypatch.setattr(pipeline, "BEAT_SECONDS", -1.0)
    with open(write(tmp_path / "file", connection(exchanges(2))), "rb") as file:  # noqa: ASYNC230
        content = file.read()
    read_end, write_end = os.pipe()
    seen: list[HttpMessage] = []
    sniffer = create_sniffer(ports=[8080], read=f"/dev/fd/{read_end}", on_http_message=seen.append)
    start = asyncio.create_task(sniffer.start())
    await until(lambda: sniffer._capture.is_alive() and sniffer.healthy)
    assert not start.done()
    os.write(write_end, content)
    await start
    await until(lambda: len(seen) == 4)
    await until(lambda: sniffer.healthy)
    await sniffer.stop()
    os.close(write_end)
    os.close(read_end)


async def test_an_observer_sees_what_is_offered(file: str) -> None:
    """`observe` gets the records that the lanes get."""
    seen: list[Any] = []
    sniffer = create_sniffer(ports=[8080], read=file, on_http_message=lambda _: None)
    sniffer.observe = seen.extend
    async with sniffer:
        await sniffer.wait()
    assert len(seen) == 100


@pytest.mark.parametrize(
    ("break_it", "law"),
    [
        (lambda s: setattr(s._handoff, "_accepted", s._handoff._accepted + 1), "messages"),
        (lambda s: setattr(s._handoff, "_taken", s._handoff._taken - 1), "hand-off"),
        (lambda s: s.ledger.add("messages_offered", -1), "pump"),
        (lambda s: s.ledger.add("messages_excluded_path"), "pump"),
        (lambda s: setattr(s._lanes[0].counters, "delivered", 0), "lane"),
    ],
)
async def test_each_increment_is_needed(file: str, break_it: Any, law: str) -> None:
    """After a real run, one count more or less anywhere makes a law fail."""
    sniffer = create_sniffer(ports=[8080], read=file, on_http_message=lambda _: None)
    async with sniffer:
        await sniffer.wait()
    assert_balanced(sniffer)
    break_it(sniffer)
    assert any(f"law {law}" in sentence for sentence in sniffer.ledger.check())


def test_the_source_follows_from_the_configuration() -> None:
    """`read` is a file; anything else is an interface."""
    assert isinstance(Sniffer(SnifferConfig(ports=[80], interface="x"))._capture.source, LiveSource)
    assert Sniffer(SnifferConfig(ports=[80], read="x"))._capture.source.live is False


def test_the_record_of_a_run_is_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """On stdout each message is one line of JSON, and nothing else is written there."""
    path = write(tmp_path / "file", connection(exchanges(3)))

    async def run() -> None:
        async with create_sniffer(ports=[8080], read=path, output_stdout=True) as sniffer:
            await sniffer.wait()

    asyncio.run(run())
    lines = capfd.readouterr().out.splitlines()
    assert [json.loads(line)["schema"] for line in lines] == [1] * 6


# Several files


def size_of(path: str) -> int:
    return Path(path).stat().st_size


def spoil(path: str, *, keep: int) -> None:
    """Cuts a file."""
    Path(path).write_bytes(Path(path).read_bytes()[:keep])


async def test_several_files(tmp_path: Path) -> None:
    """Files are read in turn, each a capture of its own link type; the ledger sums over them and balances."""
    first = write(tmp_path / "a", connection(exchanges(3)))
    second = write(tmp_path / "b", connection(exchanges(2), client_port=40001, linktype=SLL), SLL)
    sniffer = create_sniffer(ports=[8080], read=[first, second])
    async with sniffer:
        found = [message async for message in sniffer]
        await sniffer.wait()
    ledger = await sniffer.stop()
    assert [(message.direction, message.path, message.destination.port) for message in found] == [
        (direction, f"/{number}", port)
        for port, count in ((40000, 3), (40001, 2))
        for number in range(count)
        for direction in ("request", "response")
    ]
    assert ledger["messages_request"] == ledger["messages_response"] == 5
    assert ledger["packets_seen"] == sum(len(connection(exchanges(count))) for count in (3, 2))
    assert sniffer.ledger.check() == []
    assert ledger["flows_opened"] == 2
    assert sniffer.where == f"{first} and 1 more"
    progress = sniffer.progress()
    assert progress is not None
    assert progress[0] == progress[1] == size_of(first) + size_of(second)


async def test_the_same_file_twice(tmp_path: Path) -> None:
    """Each file is a capture of its own: read twice, it gives each message twice, with the same ids."""
    path = write(tmp_path / "a", connection(exchanges(3)))
    async with create_sniffer(ports=[8080], read=[path, path]) as sniffer:
        found = [message.to_json() async for message in sniffer]
    assert found[:6] == found[6:]
    assert len(found) == 12


@pytest.mark.parametrize("bad", [0, 1, 2])
async def test_a_bad_file_among_good_ones(bad: int, tmp_path: Path) -> None:
    """One that cannot be read does not keep the others: they are delivered, then its error is raised, once."""
    files = [write(tmp_path / str(n), connection(exchanges(1), client_port=40000 + n)) for n in range(3)]
    spoil(files[bad], keep=10)
    found: list[HttpMessage] = []
    async with create_sniffer(ports=[8080], read=files) as sniffer:
        with pytest.raises(CaptureError, match=f"^{files[bad]} cannot be read: truncated dump file; [^;]+$"):
            await collect(sniffer, found)
    assert [message.destination.port for message in found] == [
        40000 + n for n in range(3) if n != bad for _ in range(2)
    ]
    assert sniffer.ledger.check() == []


async def test_a_file_that_is_cut_among_good_ones(tmp_path: Path) -> None:
    """One that ends within a packet gives what it holds, and the next is read."""
    cut = write(tmp_path / "a", connection(exchanges(2)))
    spoil(cut, keep=-10)
    good = write(tmp_path / "b", connection(exchanges(1), client_port=40001))
    sniffer = create_sniffer(ports=[8080], read=[cut, good], on_http_message=lambda _: None)
    await sniffer.start()
    with pytest.raises(CaptureError, match="cannot be read to its end"):
        await sniffer.wait()
    assert (await sniffer.stop())["lanes"]["callback"]["delivered"] == 6


async def test_no_file_can_be_read(tmp_path: Path) -> None:
    """When none of several can be read, the start fails with all their errors."""
    with pytest.raises(CaptureError, match=r"one.*; .*two"):
        await create_sniffer(ports=[8080], read=[tmp_path / "one", tmp_path / "two"]).start()


# Outputs of exchanges


class SlowView(ExchangeSink):
    """Works for a while on each exchange, on the loop, as the live view does."""

    name = "view"

    async def show(self, pairs: Sequence[Pair]) -> None:
        with self.working():
            for _ in pairs:
                until = time.monotonic() + 0.002
                while time.monotonic() < until:
                    pass


class Slow(Companion):
    """The companion of such an output."""

    def lane(self, context: Context) -> Lane:
        return exchange_lane(SlowView(), share=context.share, live=context.live, dropped=context.dropped)


@pytest.mark.slow
async def test_the_view_gives_way_first(scripted: ScriptedSource, caplog: pytest.LogCaptureFixture) -> None:
    """A view that cannot follow costs no other output a message: it gets a part, counted, and one line says so."""
    got: list[HttpMessage] = []
    config = SnifferConfig(ports=[8080], interface="x", on_http_message=got.append, memory_budget=8 << 20)
    sniffer = Sniffer(config, companions=[Slow()])
    rounds, each = 150, 20
    feeds = [connection([(get(), ok(bytes(100)))] * each, client_port=20000 + number) for number in range(rounds)]

    def traffic() -> None:
        for packets in feeds:
            scripted.say(packets)
            time.sleep(0.01)  # 2,000 exchanges a second, of which the view can do 500

    async with sniffer:
        await asyncio.to_thread(traffic)
        await until(lambda: sniffer.ledger.snapshot()["messages_offered"] == 2 * rounds * each)
        await until(lambda: not sniffer.ledger.snapshot()["lanes"]["callback"]["waiting"])
    snapshot = sniffer.ledger.snapshot()
    view = snapshot["lanes"]["view"]
    assert snapshot["handoff_dropped"] == 0
    assert snapshot["lanes"]["callback"]["delivered"] == len(got) == 2 * rounds * each
    assert view["dropped_yielded"] > 0
    assert view["delivered"] > 0
    assert logged(caplog, "an output gives way to the others: it gets a part of the messages") == [{"sink": "view"}]
    assert logged(caplog, "an output has given way to the others") == [
        {"sink": "view", "dropped": view["dropped_yielded"]}
    ]
    assert sniffer.undelivered == 0
    assert_balanced(sniffer)


@pytest.mark.slow
async def test_alone_the_view_gets_everything(scripted: ScriptedSource) -> None:
    """With no other output a burst waits before a view that follows slowly, and it gets all of it."""
    sniffer = Sniffer(SnifferConfig(ports=[8080], interface="x"), companions=[Slow()])
    async with sniffer:
        for number in range(40):
            scripted.say(connection([(get(), ok(bytes(100)))] * 20, client_port=20000 + number))
        await until(lambda: sniffer.ledger.snapshot()["lanes"]["view"]["delivered"] == 1_600)
    assert not sum(sniffer.ledger.snapshot()["lanes"]["view"][f"dropped_{why}"] for why in ("full", "yielded"))
    assert_balanced(sniffer)


async def test_nothing_is_made_for_an_output_that_gives_way(
    scripted: ScriptedSource, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """While the only output that wants Python objects gives way, none is made; the others get everything."""
    monkeypatch.setattr(pipeline, "from_raw", None)
    sniffer = Sniffer(SnifferConfig(ports=[8080], interface="x", output_stdout=True), companions=[Slow()])
    async with sniffer:
        sniffer._precedence._behind = lambda: True
        scripted.say(connection(exchanges(5)))
        await until(lambda: sniffer.ledger.snapshot()["lanes"]["stdout"]["delivered"] == 10)
        assert sniffer.ledger.snapshot()["lanes"]["view"]["dropped_yielded"] == 10
    assert capfd.readouterr().out.count("\n") == 10
    assert_balanced(sniffer)


async def test_a_record_that_cannot_be_made_for_the_view_costs_the_others_nothing(
    scripted: ScriptedSource, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What only the view needs and cannot have is an error of its lane; the others get the message."""

    def broken(*_: object) -> HttpMessage:
        raise ValueError("a defect")

    monkeypatch.setattr(pipeline, "from_raw", broken)
    sniffer = Sniffer(SnifferConfig(ports=[8080], interface="x", output_stdout=True), companions=[Slow()])
    async with sniffer:
        scripted.say(connection(exchanges(5)))
        await until(lambda: sniffer.ledger.snapshot()["lanes"]["stdout"]["delivered"] == 10)
    snapshot = sniffer.ledger.snapshot()
    assert (snapshot["lanes"]["view"]["dropped_error"], snapshot["messages_failed"]) == (10, 0)
    assert capfd.readouterr().out.count("\n") == 10
    assert_balanced(sniffer)


def test_who_gives_way(tmp_path: Path) -> None:
    """Live, what shows exchanges gives way; of a file nothing does. Those that stand have most of the lanes' bytes."""
    outputs: dict[str, Any] = {"output_stdout": True, "har": str(tmp_path / "out.har")}
    cases: list[tuple[dict[str, Any], set[str]]] = [({"interface": "x"}, {"view", "har"}), ({"read": "x.pcap"}, set())]
    for source, giving in cases:
        sniffer = Sniffer(SnifferConfig(ports=[8080], **source, **outputs), companions=[Slow()])
        for lane in sniffer._make_lanes():
            sniffer._add(lane)
        assert {lane.name for lane in sniffer._lanes if lane.gives_way} == giving
        assert sum(lane.max_bytes for lane in sniffer._lanes) <= sniffer._lane_bytes
        shares = {lane.name: lane.max_bytes for lane in sniffer._lanes}
        assert shares["stdout"] >= shares["view"] * (4 if giving else 1)


async def test_outputs_of_exchanges_know_of_drops(tmp_path: Path) -> None:
    """An output of exchanges is told when messages were dropped before it: then a partner may be missing."""
    (lane,) = Sniffer(SnifferConfig(ports=[8080], har=tmp_path / "out.har"))._make_lanes()
    assert isinstance(lane.sink, ExchangeSink)
    assert not lane.sink.lossy()
    lane.counters.drop("full", 1)
    assert lane.sink.lossy()
