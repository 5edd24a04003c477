"""Posting to a collector: real HTTP and HTTPS servers on loopback, time set by hand."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import email.utils
import gc
import gzip
import logging
import random
import socket
import ssl
import struct
import time
import warnings
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from sniffer.delivery.lane import Lane
from sniffer.delivery.queues import ByConnection
from sniffer.delivery.retry import Retries
from sniffer.delivery.sink import Record, Rejected, Retry
from sniffer.errors import SnifferError
from sniffer.outputs import client
from sniffer.outputs.client import retry_after
from sniffer.outputs.url.collector import ANSWER_BYTES, UrlSink
from tests.deliveries import Sent, Time, lane_to, message, messages, settled
from tests.waiting import BOUND, until

TOKEN = "s3cr3t-token"


@dataclasses.dataclass
class Request:
    """What came in."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    peer: tuple[str, int]


Answer = int | tuple[int, dict[str, str]] | Callable[[], Awaitable[web.StreamResponse]]


class Collector:
    """A server that keeps what it gets and answers as told; 200 when nothing is left to tell."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = deque(answers)
        self.requests: list[Request] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        self.requests.append(
            Request(
                request.method,
                request.path_qs,
                request.headers,
                await request.content.read(),  # as sent: aiohttp's own read() would undo the gzip
                request.transport.get_extra_info("peername")[:2],
            )
        )
        answer = self.answers.popleft() if self.answers else 200
        if callable(answer):
            return await answer()
        status, headers = answer if isinstance(answer, tuple) else (answer, {})
        return web.Response(status=status, headers=headers, text="thank you")


@contextlib.asynccontextmanager
async def serving(
    collector: Collector, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Collector]:
    """The collector, listening."""
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", collector.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01, auto_decompress=False)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, 0, ssl_context=tls)
        await site.start()
        port = runner.addresses[0][1]
        shown = f"[{host}]" if ":" in host else host
        collector.url = f"{'https' if tls else 'http'}://{shown}:{port}/in?key=hidden"
        yield collector
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def raw_server(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[str, list[int]]]:
    """A server that speaks by hand: (URL, one entry per connection)."""
    connections: list[int] = []
    talks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await talk(reader, writer)
        finally:
            # A TLS transport of Python 3.11 cannot be aborted.
            writer.transport.abort() if tls is None else writer.close()
            talks.discard(task)

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        scheme = "http" if tls is None else "https"
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/in", connections
    finally:
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)
        await server.wait_closed()


@contextlib.asynccontextmanager
async def posting(
    url: str, *, clock: Time | None = None, size: int = 1, wait: float = 3600.0, workers: int = 8, **options: Any
) -> AsyncIterator[Lane]:
    """A lane to `url`, put together as the pipeline does it."""
    clock = clock or Time()
    sink = UrlSink(url, instance="i-1", concurrency=workers, batches=size > 1, **options)
    queue = ByConnection[Record](workers=workers, size=size, wait=wait)
    # The wall clock of Retry-After and the monotonic one of the waits are one here.
    async with lane_to(sink, queue=queue, retries=Retries(clock=clock.clock, sleep=clock.sleep)) as lane:
        yield lane


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority of the test's own."""
    return trustme.CA()


def server_tls(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    """A server's side of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def ca_file(authority: trustme.CA, folder: Path) -> str:
    """The authority's certificate, in a file."""
    path = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


async def test_a_message_is_one_post() -> None:
    """POST, application/json, the record as body, the idempotency key, our name, the Bearer token."""
    async with (
        serving(Collector()) as collector,
        posting(collector.url, token=TOKEN, user_agent="tcp-sniffer/0.1") as lane,
    ):
        lane.offer([message(7, connection=3)])
        assert (await settled(lane)).delivered == 1
    (request,) = collector.requests
    assert (request.method, request.path) == ("POST", "/in?key=hidden")
    assert request.body == message(7, connection=3).to_json()
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Content-Length"] == str(len(request.body))
    assert request.headers["Idempotency-Key"] == f"{3:032x}-7-request"
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"
    assert request.headers["User-Agent"] == "tcp-sniffer/0.1"
    assert request.headers["Tcp-Sniffer-Instance"] == "i-1"
    assert "Content-Encoding" not in request.headers


async def test_two_failures_and_a_success() -> None:
    """500, 500, 200: three requests, the same each time, and one delivered; 1 s and 2 s between them."""
    clock = Time()
    async with serving(Collector(500, 500, 200)) as collector, posting(collector.url, clock=clock) as lane:
        lane.offer([message()])
        assert (await settled(lane)).delivered == 1
    assert len(collector.requests) == 3
    assert {request.body for request in collector.requests} == {message().to_json()}
    assert {request.headers["Idempotency-Key"] for request in collector.requests} == {message().idempotency_key}
    assert clock.slept == [1.0, 2.0]


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_2xx_is_delivered(status: int) -> None:
    """Every 2xx ends a message as delivered, with one request."""
    async with serving(Collector(status)) as collector, posting(collector.url) as lane:
        lane.offer([message()])
        assert (await settled(lane)).delivered == 1
    assert len(collector.requests) == 1


@pytest.mark.parametrize("status", [300, 301, 302, 304, 307, 308, 400, 401, 403, 404, 405, 409, 413, 422, 425, 499])
async def test_other_answers_are_final(status: int) -> None:
    """What is neither 2xx nor to be retried rejects the message with one request; a redirect too."""
    collector = Collector((status, {"Location": "/elsewhere"}))
    async with serving(collector), posting(collector.url) as lane:
        lane.offer([message()])
        assert (await settled(lane)).rejected == 1
    assert len(collector.requests) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 501, 502, 503, 504, 599])
async def test_some_answers_are_retried_three_times(status: int) -> None:
    """408, 429 and 5xx: four requests in all, after 1, 2 and 4 s, then the message is dropped."""
    clock = Time()
    async with serving(Collector(*[status] * 4)) as collector, posting(collector.url, clock=clock) as lane:
        lane.offer([message()])
        assert (await settled(lane)).dropped["retries"] == 1
    assert len(collector.requests) == 4
    assert clock.slept == [1.0, 2.0, 4.0]


async def test_retry_after_is_honoured_where_longer() -> None:
    """`Retry-After` in seconds or as a date, where it is longer than our own wait, up to 60 s."""
    clock = Time()
    clock.now = 1_800_000_000.0
    date = email.utils.formatdate(clock.now + 1.0 + 20.0, usegmt=True)
    answers = [(503, {"Retry-After": value}) for value in ("0", date, "86400")]
    async with (
        serving(Collector(*answers)) as collector,
        posting(collector.url, clock=clock, now=clock.clock) as lane,
    ):
        lane.offer([message()])
        assert (await settled(lane)).delivered == 1
    assert clock.slept == [1.0, 20.0, 60.0]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("5", 5.0),
        (" 5 ", 5.0),
        ("-5", None),
        ("1.5", None),
        ("\u0665", None),
        ("9" * 400, float("inf")),
        ("soon", None),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0),
        ("Thu, 01 Jan 1970 00:20:00 GMT", 200.0),
        ("Thu, 01 Jan 1970 00:20:00 -0000", 200.0),
        ("Thu, 99 Jan 1970 00:20:00 GMT", None),
        ("Mon, 01 Jan 0001 00:00:00 +2359", 0.0),
        ("Fri, 31 Dec 99999999999 23:59:59 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 -2359", 253402386139.0),
    ],
)
def test_retry_after_values(value: str | None, seconds: float | None) -> None:
    """Numbers and dates; anything else, or a time in the past, asks for nothing."""
    assert retry_after(value, 1000.0 if seconds != 0.0 else 2e9) == seconds


async def test_a_refused_connection_is_retried(unused_tcp_port: int) -> None:
    """Nobody listens: four tries, then dropped."""
    clock = Time()
    known: list[tuple[str, int, bool]] = []
    url = f"http://127.0.0.1:{unused_tcp_port}/"
    async with posting(url, clock=clock, on_socket=lambda *told: known.append(told)) as lane:
        lane.offer([message()])
        assert (await settled(lane)).dropped["retries"] == 1
    assert clock.slept == [1.0, 2.0, 4.0]
    assert [is_open for _, _, is_open in known] == [True, False] * 4


async def test_a_collector_that_comes_back_gets_the_message(unused_tcp_port: int) -> None:
    """A collector that starts to listen between two tries gets the message, once."""
    collector = Collector()
    async with contextlib.AsyncExitStack() as stack:
        clock = Time()

        async def sleep(seconds: float) -> None:
            await Time.sleep(clock, seconds)
            if len(clock.slept) == 2:
                app = web.Application()
                app.router.add_route("*", "/", collector.handle)
                runner = web.AppRunner(app, access_log=None)
                await runner.setup()
                stack.push_async_callback(runner.cleanup)
                await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()

        clock.sleep = sleep  # type: ignore[method-assign]
        async with posting(f"http://127.0.0.1:{unused_tcp_port}/", clock=clock) as lane:
            lane.offer([message()])
            assert (await settled(lane)).delivered == 1
    assert len(collector.requests) == 1


async def test_a_hanging_collector_times_out() -> None:
    """A try that gets no answer within the timeout is retried; the connection is not used again."""

    async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            pass

    clock = Time()
    async with raw_server(hang) as (url, connections), posting(url, clock=clock, timeout=0.05) as lane:
        lane.offer([message()])
        assert (await settled(lane)).dropped["retries"] == 1
    assert len(connections) == 4
    assert clock.slept == [1.0, 2.0, 4.0]


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """One request, whole; empty where the connection has ended."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        (length,) = [int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")]
        return head + await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection by RST."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r", b"SSH-2.0-OpenSSH_9.6\r\n"])
async def test_a_broken_connection_is_retried(said: bytes) -> None:
    """A connection that is reset before the status line is whole, or that speaks no HTTP, is tried again."""

    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(said)
        await writer.drain()
        reset(writer)

    async with raw_server(break_off) as (url, connections), posting(url) as lane:
        lane.offer([message(body="x" * 60_000)])
        assert (await settled(lane)).dropped["retries"] == 1
    assert len(connections) == 4


async def test_the_status_counts_whatever_becomes_of_the_body() -> None:
    """A reset in the middle of the answer's body, after its head said 200: delivered, and not sent again."""

    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc")
        await writer.drain()
        await asyncio.sleep(0)
        writer.close()

    async with raw_server(break_off) as (url, connections), posting(url) as lane:
        lane.offer([message()])
        assert (await settled(lane)).delivered == 1
    assert len(connections) == 1


# The status line decides


REMAINDERS: dict[str, bytes] = {
    "a body where none may be": b"204 No Content\r\n\r\n{}",
    "a repeated length": b"2xx OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "lengths that differ": b"2xx OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a length that is none": b"2xx OK\r\nContent-Length: 5 bytes\r\n\r\nhello",
    "a length of a body that is cut": b"2xx OK\r\nContent-Length: 50\r\n\r\nhello",
    "a length and chunks": b"2xx OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a coding that is unknown": b"2xx OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a blank in a field name": b"2xx OK\r\nX Bad: 1\r\nContent-Length: 0\r\n\r\n",
    "a line that is no field": b"2xx OK\r\nwhat is this\r\nContent-Length: 0\r\n\r\n",
    "a folded line": b"2xx OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n",
    "a control character": b"2xx OK\r\nA: b\x00c\r\nContent-Length: 0\r\n\r\n",
    "a long header line": b"2xx OK\r\nA: " + b"b" * 200_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "a header line without end": b"2xx OK\r\nA: " + b"b" * 200_000,
    "many header lines": b"2xx OK\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
    "a chunk size that is none": b"2xx OK\r\nTransfer-Encoding: chunked\r\n\r\nfive\r\nhello\r\n",
    "a chunk without its end": b"2xx OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!!0\r\n\r\n",
    "chunks that are cut": b"2xx OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
    "a huge body": b"2xx OK\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000,
    "no head but the status line": b"2xx OK\r\n",
    "a reason of bytes": b"2xx \xff\x80\xfe\r\nContent-Length: 0\r\n\r\n!",
    "a reason without end": b"2xx " + b"x" * 200_000,
    "no reason, bytes behind": b"2xx\r\nContent-Length: 0\r\n\r\nx",
    "until the end": b"2xx OK\r\n\r\nhello",
    "closing is announced": b"2xx OK\r\nConnection: Keep-Alive, Close\r\nContent-Length: 0\r\n\r\n",
    "two answers": b"2xx OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
}
"""What follows `HTTP/1.1 ` in answers after which a connection cannot be used again."""


@pytest.mark.parametrize("end", ["closes", "resets", "stays"])
@pytest.mark.parametrize(("status", "outcome"), [(b"200", "delivered"), (b"404", "rejected"), (b"503", "retries")])
@pytest.mark.parametrize("remainder", REMAINDERS)
async def test_the_status_line_decides(remainder: str, status: bytes, outcome: str, end: str) -> None:
    """What cannot be read behind a status line changes nothing; that connection is closed, and not used again."""
    said = b"HTTP/1.1 " + REMAINDERS[remainder].replace(b"2xx", status).replace(b"204", status)
    if remainder == "a body where none may be" and status == b"200":
        said = said.replace(b"200", b"204")
    # Of a 503 the head is waited for; nothing else here takes as long as a try may.
    timeout = 0.1 if end == "stays" and remainder == "no head but the status line" else BOUND
    posts = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal posts
        await read_request(reader)
        posts += 1
        with contextlib.suppress(ConnectionError):
            writer.write(said)
            await writer.drain()
        if end == "closes":
            writer.close()
        elif end == "resets":
            reset(writer)
        else:
            assert await reader.read(10) == b""  # another request would be seen here

    async with raw_server(talk) as (url, connections), posting(url, workers=1, timeout=timeout) as lane:
        lane.offer(messages(2))
        counters = await settled(lane)
    assert (counters.delivered, counters.rejected, counters.dropped["retries"]) == tuple(
        2 * (name == outcome) for name in ("delivered", "rejected", "retries")
    )
    assert posts == len(connections) == (8 if outcome == "retries" else 2)


@pytest.mark.slow
async def test_no_bytes_behind_a_status_line_change_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever follows a status line, answers in it too: each message gets its own answer, in one request."""
    monkeypatch.setattr(client, "REST_SECONDS", 0.005)  # many of these have no end
    chance = random.Random(9)
    pieces = [line + b"\r\n" for remainder in REMAINDERS.values() for line in remainder[:2000].split(b"\r\n")[1:]]
    pieces += [b"HTTP/1.1 500 No\r\n", b"HTTP/1.1 100 Go\r\n\r\n", b"Connection: keep-alive\r\n", b"\r\n", b"\n", b"\0"]
    pieces += [b"0\r\n\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 3\r\n", b"Retry-After: 9\r\n"]

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader):
            writer.write(b"HTTP/1.1 200 OK\r\n" + b"".join(chance.choices(pieces, k=chance.randrange(8))))
            if chance.random() < 0.5:
                return

    async with raw_server(talk) as (url, connections), posting(url, workers=1) as lane:
        lane.offer(messages(400))
        assert (await settled(lane)).delivered == 400
    assert 100 < len(connections) <= 400


SOUND: dict[str, bytes] = {
    "a length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\n",
    "no reason": b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
    "no body": b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
    "a broken coding": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nnotgz",
    "informational answers": b"HTTP/1.1 102 W\r\n\r\nHTTP/1.1 103 Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
    "an informational answer with a bad line": b"HTTP/1.1 103 Hints\r\nX Bad: 1\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
    "an empty line before it": b"\r\nHTTP/1.1 204 No Content\r\n\r\n",
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "blanks and odd values": b"HTTP/1.1  200  OK \r\nServer:\r\nA:\t\xff\xfe b \r\nContent-Length:  0 \r\n\r\n",
}
"""Answers after which a connection is used again."""


@pytest.mark.parametrize("answer", SOUND)
@pytest.mark.parametrize("pieces", ["whole", "in pieces"])
async def test_sound_answers_keep_the_connection(answer: str, pieces: str) -> None:
    """An answer that is read to its sure end leaves the connection to the next message, however it is cut."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader):
            for piece in [SOUND[answer]] if pieces == "whole" else [bytes([byte]) for byte in SOUND[answer]]:
                writer.write(piece)
                await asyncio.sleep(0)

    async with raw_server(talk) as (url, connections), posting(url, workers=1) as lane:
        lane.offer(messages(3))
        assert (await settled(lane)).delivered == 3
    assert len(connections) == 1


@pytest.mark.parametrize("version", [b"1.0", b"1.2", b"2", b"2.0"])
async def test_other_versions_answer_once(version: bytes) -> None:
    """The status of another version of HTTP counts too; its connection is not used again."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/" + version + b" 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert await reader.read(10) == b""

    async with raw_server(talk) as (url, connections), posting(url, workers=1) as lane:
        lane.offer(messages(2))
        assert (await settled(lane)).delivered == 2
    assert len(connections) == 2


@pytest.mark.parametrize("code", [b"101", b"000", b"099", b"600", b"601", b"999", b"20", b"2000", b"0200"])
async def test_a_status_that_is_none_is_final(code: bytes) -> None:
    """A switch of protocols that nobody asked for, and codes outside of 100 to 599, are rejected with one request."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 " + code + b" Odd\r\nContent-Length: 0\r\n\r\n")
        await reader.read(10)

    async with raw_server(talk) as (url, connections), posting(url) as lane:
        lane.offer([message()])
        assert (await settled(lane)).rejected == 1
    assert len(connections) == 1


@pytest.mark.parametrize("said", [b"HTTP/1.1 200", b"HTTP/1.1 2x0 OK\r\n", b"HTTP/1.1\r\n", b"\r\n" * 50_000])
async def test_what_has_no_status_is_tried_again(said: bytes) -> None:
    """A line that names no status, or does not end, and endless empty ones, are no answer."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(said)
        await writer.drain()

    async with raw_server(talk) as (url, connections), posting(url) as lane:
        lane.offer([message()])
        assert (await settled(lane)).dropped["retries"] == 1
    assert len(connections) == 4


@pytest.mark.parametrize(
    ("said", "waits"),
    [
        (b"X Bad: 1\r\nRetry-After: 30\r\n\r\n", 30.0),
        (b"Retry-After: 30\r\nX Bad: 1\r\nContent-Length: 0\r\n\r\n", 30.0),
        (b"Retry-After: 30\r\n\r\nuntil the end", 30.0),
        (b"Retry-After: 30\r\nRetry-After: 40\r\n\r\n", 30.0),
        (b"Retry-After: 2.5\r\n\r\n", 1.0),
        (b"Retry-After: soon, or \xff\r\n\r\n", 1.0),
        (b"Retry-After: " + b"9" * 5000 + b"\r\n\r\n", 60.0),
        (b"Retry-After: 3", 1.0),  # cut: it may go on
    ],
)
async def test_retry_after_is_read_where_it_can_be(said: bytes, waits: float) -> None:
    """`Retry-After` counts beside lines that cannot be read, the first one where it is repeated."""
    answers = iter([b"HTTP/1.1 503 Busy\r\n" + said, b"HTTP/1.1 204 No\r\n\r\n"])

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(next(answers))
        await writer.drain()

    clock = Time()
    async with raw_server(talk) as (url, _), posting(url, clock=clock) as lane:
        lane.offer([message()])
        assert (await settled(lane)).delivered == 1
    assert clock.slept == [waits]


@pytest.mark.slow
@pytest.mark.parametrize(("status", "outcome"), [(b"200", "delivered"), (b"403", "rejected"), (b"503", "retries")])
@pytest.mark.parametrize("said", [b"", b"Content-Length: 1000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhe"])
async def test_a_stalled_answer_costs_no_timeout(status: bytes, outcome: str, said: bytes) -> None:
    """The answer stands while its rest never comes; a try waits for that only where `Retry-After` may follow."""
    hurry = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 " + status + b" Odd\r\n" + said)
        await hurry.wait()

    needs_head = outcome == "retries" and not said
    timeout = 0.2 if needs_head else 100 * BOUND
    async with raw_server(talk) as (url, connections), posting(url, timeout=timeout, workers=1) as lane:
        lane.offer(messages(2))
        counters = await settled(lane)
    assert (counters.delivered, counters.rejected, counters.dropped["retries"]) == tuple(
        2 * (name == outcome) for name in ("delivered", "rejected", "retries")
    )
    assert len(connections) == (8 if outcome == "retries" else 2)


async def test_the_rest_of_an_answer_is_waited_for() -> None:
    """A body that comes a moment after its head costs no connection: the next message waits for it, not this one."""
    delivered_before_the_rest: list[bool] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        count = 0
        while await read_request(reader):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
            count += 1
            await until(lambda: lane.counters.delivered == count)  # noqa: B023
            delivered_before_the_rest.append(True)
            writer.write(b"hello")

    async with raw_server(talk) as (url, connections), posting(url, workers=1) as lane:
        lane.offer(messages(5))
        assert (await settled(lane)).delivered == 5
    assert len(connections) == 1
    assert len(delivered_before_the_rest) == 5


async def test_an_early_answer_ends_the_request() -> None:
    """A collector that answers before it has read the body, and reads no more of it: that is its answer."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        await asyncio.Event().wait()

    async with raw_server(talk) as (url, connections), posting(url, timeout=100 * BOUND) as lane:
        lane.offer([message(body="x" * 12_000_000)])
        assert (await settled(lane)).rejected == 1
    assert len(connections) == 1


async def test_an_answer_before_a_reset_is_read() -> None:
    """A reset behind an answer, while the body is still being written, does not hide the answer."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        reset(writer)

    async with raw_server(talk) as (url, connections), posting(url) as lane:
        lane.offer([message(number, connection=number, body="x" * 3_500_000) for number in range(4)])
        assert (await settled(lane)).rejected == 4
    assert len(connections) == 4


# Connections that the collector closes


@pytest.fixture(scope="module")
def secure(authority: trustme.CA) -> ssl.SSLContext:
    """A server's side of TLS, for 127.0.0.1."""
    return server_tls(authority, "127.0.0.1")


NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("kind", ["http", "https"])
@pytest.mark.parametrize(
    "ending", ["with the answer", "at the next request", "in the next request", "by reset", "its half alone"]
)
async def test_a_connection_that_is_closed_costs_nothing(
    authority: trustme.CA, secure: ssl.SSLContext, tmp_path: Path, ending: str, kind: str, size: int
) -> None:
    """A collector closes each connection after ten answers, in any way: all is delivered in the first try."""
    answered: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(10):
            if not (request := await read_request(reader)):
                return
            answered.append(request)
            if len(answered) % 10 == 0 and ending == "with the answer":
                writer.write(NO_CONTENT)
                await writer.drain()
                writer.close()
                return
            writer.write(NO_CONTENT)
            await writer.drain()
        if ending == "its half alone":
            if kind == "https":
                return  # TLS has no half
            writer.write_eof()
            await reader.read()
        elif ending == "in the next request":
            await reader.read(20)
            reset(writer) if kind == "http" else writer.close()
        elif ending == "by reset" and kind == "http":
            await read_request(reader)
            reset(writer)
        else:
            await read_request(reader)
            writer.close()

    clock = Time()
    file = ca_file(authority, tmp_path)
    tls = secure if kind == "https" else None
    async with (
        raw_server(talk, tls=tls) as (url, connections),
        posting(url, clock=clock, workers=1, size=size, wait=0.001, ca_file=file) as lane,
    ):
        for first in range(0, 300, 3):
            lane.offer(messages(300)[first : first + 3])
        assert (await settled(lane)).delivered == 300
    assert clock.slept == []
    posts = 300 // size
    assert len(answered) == posts
    assert len(set(answered)) == posts
    assert len(connections) in (posts // 10, posts // 10 + 1)


async def test_a_new_connection_that_is_closed_is_a_failure() -> None:
    """Closed without an answer: a new connection is retried after the usual waits, and a try makes one more at most."""
    answers = iter([NO_CONTENT])

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        if answer := next(answers, None):
            writer.write(answer)
            await read_request(reader)

    clock = Time()
    async with raw_server(talk) as (url, connections), posting(url, clock=clock, workers=1) as lane:
        lane.offer(messages(2))
        counters = await settled(lane)
    assert (counters.delivered, counters.dropped["retries"]) == (1, 1)
    assert clock.slept == [1.0, 2.0, 4.0]
    assert len(connections) == 5  # the first message's, and one for each try


@pytest.mark.parametrize("said", [b"H", b"HTTP/1.1 2"])
async def test_a_byte_of_an_answer_ends_the_try(said: bytes) -> None:
    """A connection that is closed in the middle of a status line is not silent: the next try comes after its wait."""
    broken = False

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal broken
        while request := await read_request(reader):
            if b"-1-request" in request and not broken:
                broken = True
                writer.write(said)
                await writer.drain()
                return
            writer.write(NO_CONTENT)

    clock = Time()
    async with raw_server(talk) as (url, _), posting(url, clock=clock, workers=1) as lane:
        lane.offer(messages(3))
        assert (await settled(lane)).delivered == 3
    assert clock.slept == [1.0]


@pytest.mark.parametrize("rest", [b"{}", b"hello\r\n", b"<p>\r\n</p>\r\n"])
async def test_what_comes_late_of_an_answer_costs_nothing(rest: bytes) -> None:
    """A body behind a 204 that comes when the next request is on its way fails no try, and waits for nothing."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        late = b""
        while await read_request(reader):
            writer.write(late + NO_CONTENT)
            late = rest

    clock = Time()
    async with raw_server(talk) as (url, _), posting(url, clock=clock, workers=1) as lane:
        lane.offer(messages(6))
        assert (await settled(lane)).delivered == 6
    assert clock.slept == []


async def test_what_nobody_asked_for_ends_a_connection() -> None:
    """A 408 that a collector sends to an idle connection is the answer to no message."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(NO_CONTENT)
        await writer.drain()
        await until(lambda: lane.counters.delivered)
        writer.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        said.set()
        assert await reader.read(10) == b""

    clock = Time()
    said = asyncio.Event()
    async with raw_server(talk) as (url, connections), posting(url, clock=clock, workers=1) as lane:
        lane.offer([message(0)])
        await asyncio.wait_for(said.wait(), BOUND)
        lane.offer([message(1)])
        assert (await settled(lane)).delivered == 2
    assert clock.slept == []
    assert len(connections) == 2


async def _hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    while await reader.read(65536):
        pass


async def _reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(10)
    reset(writer)


async def _break_off_after_200(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(10)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc")
    await writer.drain()
    reset(writer)


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(10)
    writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("talk", "scheme", "cause"),
    [
        (None, "http", "Connection refused"),
        (_hang, "http", "timeout"),
        (_hang, "https", "timeout"),
        (_refuse, "https", "TLS: "),
        (_reset, "http", ""),
        (_refuse, "http", "status 500"),
        (_break_off_after_200, "http", None),
    ],
)
async def test_a_try_leaves_nothing_for_the_garbage_collector(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] | None,
    scheme: str,
    cause: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was posted is freed when the try has ended, however it ended: no cycle holds it until a full collection."""

    class Body(bytes):
        """Bytes that the garbage collector knows of."""

    made = UrlSink._body

    async def body(sink: UrlSink, batch: Sequence[Record]) -> bytes:
        return Body(await made(sink, batch))

    monkeypatch.setattr(UrlSink, "_body", body)

    async def post(url: str) -> str | None:
        sink = UrlSink(url, instance="i-1", batches=True, timeout=0.2)
        await sink.open()
        try:
            await sink.deliver(messages(10, connection=0xCAFE, body="x" * 500_000))
        except Retry as answer:  # unlike pytest.raises this keeps no traceback
            return answer.cause
        finally:
            await sink.close()
        return None

    mark = f"{0xCAFE:032x}"
    async with raw_server(talk or _hang) as (url, _):
        gc.collect()
        gc.disable()
        try:
            said = await post(f"{scheme}{url.removeprefix('http')}" if talk else "http://127.0.0.1:1/")
            assert said == cause or (said is not None and cause is not None and said.startswith(cause))
            left = gc.get_objects()
            records = [item for item in left if isinstance(item, Sent) and item.connection_id == mark]
            bodies = [item for item in left if type(item) is Body]
            assert (len(records), len(bodies)) == (0, 0)
        finally:
            gc.enable()


ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 503 No\r\nRetry-After: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 307 Go\r\nLocation: http://[bad\r\nSet-Cookie: a=b; Domain=\xff\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n",
    b"HTTP/1.1 999 x\r\nContent-Type: \xff/\xff; charset=\x01\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 000 x\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.0 200\r\n\r\n",
)


async def test_whatever_a_collector_answers_is_an_answer() -> None:
    """Malformed and mutated answers are delivered, rejected or tried again: none is an error of ours."""
    chance = random.Random(20)
    ends: set[str] = set()

    def mutated() -> bytes:
        answer = bytearray(chance.choice(ANSWERS))
        for _ in range(chance.choice((0, 1, 2, 8))):
            at = chance.randrange(len(answer))
            answer[at : at + chance.randrange(4)] = chance.randbytes(chance.randrange(4))
            answer += b" "
        return bytes(answer)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(mutated())
        await writer.drain()

    async with raw_server(talk) as (url, _):
        sink = UrlSink(url, instance="i-1", timeout=BOUND)
        await sink.open()
        for _ in range(300):
            try:
                await sink.deliver([message()])
                ends.add("delivered")
            except (Retry, Rejected) as answer:
                ends.add(type(answer).__name__)
        await sink.close()
    assert ends == {"delivered", "Retry", "Rejected"}


async def test_an_endless_answer_is_not_read() -> None:
    """The answer's body is read up to a bound; then the connection is closed."""
    sent = 0

    async def talk_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async with raw_server(talk_on) as (url, _), posting(url) as lane:
        lane.offer([message()])
        assert (await settled(lane)).delivered == 1
    assert sent < 100 * ANSWER_BYTES  # what lies in the buffers of the sockets


async def test_connections_are_kept_alive() -> None:
    """Messages that follow each other go over one connection."""
    async with serving(Collector()) as collector, posting(collector.url, workers=1) as lane:
        lane.offer(messages(10))
        assert (await settled(lane)).delivered == 10
    assert len({request.peer for request in collector.requests}) == 1


async def test_cookies_are_not_kept() -> None:
    """A collector's cookies do not come back to it."""
    collector = Collector((200, {"Set-Cookie": "a=b; Path=/"}))
    async with serving(collector), posting(collector.url.replace("127.0.0.1", "localhost"), workers=1) as lane:
        lane.offer(messages(2))
        assert (await settled(lane)).delivered == 2
    assert "Cookie" not in collector.requests[1].headers


# Redirects, proxies, TLS, secrets


async def test_a_redirect_leads_nowhere() -> None:
    """A collector that answers 307 to another place, http or not: nothing arrives there."""
    elsewhere = Collector()
    async with (
        serving(elsewhere),
        serving(Collector((307, {"Location": elsewhere.url}))) as collector,
        posting(collector.url, token=TOKEN) as lane,
    ):
        lane.offer([message()])
        assert (await settled(lane)).rejected == 1
    assert len(collector.requests) == 1
    assert elsewhere.requests == []


async def test_proxy_variables_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY and its like change nothing; nor do credentials in a .netrc."""
    proxy = Collector()
    async with serving(proxy), serving(Collector()) as collector:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        async with posting(collector.url) as lane:
            lane.offer([message()])
            assert (await settled(lane)).delivered == 1
    assert proxy.requests == []
    assert len(collector.requests) == 1


async def test_tls_with_an_authority_of_ones_own(authority: trustme.CA, tmp_path: Path) -> None:
    """`OUTPUT_CA_FILE` is what the collector's certificate is verified with."""
    file = ca_file(authority, tmp_path)
    async with (
        serving(Collector(), tls=server_tls(authority, "127.0.0.1")) as collector,
        posting(collector.url, ca_file=file, token=TOKEN) as lane,
    ):
        lane.offer([message()])
        assert (await settled(lane)).delivered == 1
    assert collector.requests[0].body == message().to_json()


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("unknown authority", "TLS: unable to get local issuer certificate"),
        ("other name", "TLS: IP address mismatch, certificate is not valid for '127.0.0.1'."),
        ("old TLS", ""),  # the server breaks off: the words are the system's
    ],
)
async def test_tls_is_verified(
    authority: trustme.CA, tmp_path: Path, case: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A certificate that no authority of ours signed, one for another name, and TLS 1.1 get no request."""
    tls = server_tls(authority, "collector.example" if case == "other name" else "127.0.0.1")
    if case == "old TLS":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            tls.minimum_version = ssl.TLSVersion.TLSv1
            tls.maximum_version = ssl.TLSVersion.TLSv1_1
        tls.set_ciphers("ALL:@SECLEVEL=0")
    file = None if case == "unknown authority" else ca_file(authority, tmp_path)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)  # the server's own complaint about the handshake
    async with serving(Collector(), tls=tls) as collector, posting(collector.url, ca_file=file) as lane:
        lane.offer([message()])
        assert (await settled(lane)).dropped["retries"] == 1
    assert collector.requests == []
    (record,) = (r for r in caplog.records if r.getMessage() == "messages not delivered")
    assert record.__dict__["fields"]["cause"].startswith(said)


async def test_a_ca_file_that_cannot_be_used(tmp_path: Path) -> None:
    """A missing or broken CA file fails the start, and is named."""
    (tmp_path / "broken.pem").write_text("no certificate")
    for name in ("missing.pem", "broken.pem"):
        sink = UrlSink("https://127.0.0.1/", instance="i", ca_file=str(tmp_path / name))
        with pytest.raises(SnifferError, match=f"output_ca_file .*{name}"):
            await sink.open()
        await sink.close()


async def test_the_token_is_never_shown(caplog: pytest.LogCaptureFixture, unused_tcp_port: int) -> None:
    """Neither a repr nor a log line nor an error holds the token, the URL's query or a body, whatever goes wrong."""
    caplog.set_level(logging.DEBUG)
    body = "confidential"
    async with serving(Collector(500, 400)) as collector:
        for url in (collector.url, f"http://127.0.0.1:{unused_tcp_port}/?key=hidden"):
            async with posting(url, token=TOKEN, timeout=5.0) as lane:
                lane.offer(messages(3, body=body))
                await settled(lane)
                shown = repr((lane, lane.sink, vars(lane), lane.counters))
                shown += repr(list(asyncio.all_tasks()))
                assert TOKEN not in shown
    sink = UrlSink(collector.url, instance="i", token=TOKEN)
    assert TOKEN not in repr(sink)
    assert "hidden" not in sink.target
    assert sink.target.endswith("/in")
    with pytest.raises(RuntimeError) as error:
        await sink.deliver([message()])
    said = caplog.text + str([record.__dict__ for record in caplog.records]) + repr(error)
    assert caplog.records
    for secret in (TOKEN, "hidden", body):
        assert secret not in said


# Batches


async def test_batches_are_ndjson() -> None:
    """With a batch size over 1 each POST is NDJSON, however small; the key tells the first member and the count."""
    async with serving(Collector()) as collector, posting(collector.url, size=3) as lane:
        lane.offer(messages(7))
        assert (await settled(lane)).delivered == 7
    assert [request.headers["Idempotency-Key"] for request in collector.requests] == [
        f"{message(first).idempotency_key}+{count}" for first, count in ((0, 3), (3, 3), (6, 1))
    ]
    assert {request.headers["Content-Type"] for request in collector.requests} == {"application/x-ndjson"}
    lines = [m.to_json() + b"\n" for m in messages(7)]
    assert [request.body for request in collector.requests] == [
        b"".join(lines[:3]),
        b"".join(lines[3:6]),
        b"".join(lines[6:]),
    ]


async def test_the_answer_counts_for_every_member() -> None:
    """A batch is retried with the same members under the same key, and its answer is that of each member."""
    async with serving(Collector(503, 200, 400)) as collector, posting(collector.url, size=3, workers=1) as lane:
        lane.offer(messages(6))
        counters = await settled(lane)
    assert (counters.delivered, counters.rejected) == (3, 3)
    first, second, _ = collector.requests
    assert (first.body, first.headers["Idempotency-Key"]) == (second.body, second.headers["Idempotency-Key"])


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("length", [100, 40_000])
async def test_gzip(size: int, length: int) -> None:
    """Bodies are compressed when asked for, small ones on the loop and large ones beside it."""
    batch = messages(size, body="x" * length)
    async with serving(Collector()) as collector, posting(collector.url, size=size, gzip=True) as lane:
        lane.offer(batch)
        assert (await settled(lane)).delivered == size
    (request,) = collector.requests
    assert request.headers["Content-Encoding"] == "gzip"
    assert len(request.body) < size * (300 + length // 10)
    assert gzip.decompress(request.body) == b"\n".join(m.to_json() for m in batch) + (b"\n" if size > 1 else b"")


async def test_413_halves_a_batch() -> None:
    """Too large: the halves are posted in order, under keys of their own, down to single messages."""
    collector = Collector(413, 200, 413, 413, 200)
    async with serving(collector), posting(collector.url, size=4) as lane:
        lane.offer(messages(4))
        counters = await settled(lane)
    keys = [request.headers["Idempotency-Key"] for request in collector.requests]
    assert keys == [
        f"{message(first).idempotency_key}+{count}" for first, count in ((0, 4), (0, 2), (2, 2), (2, 1), (3, 1))
    ]
    assert (counters.delivered, counters.rejected) == (3, 1)


async def test_a_large_body_is_posted() -> None:
    """A body of megabytes is posted like any other."""
    big = message(body="x" * 3_000_000)
    async with serving(Collector()) as collector, posting(collector.url) as lane:
        lane.offer([big])
        assert (await settled(lane)).delivered == 1
    assert collector.requests[0].body == big.to_json()


# Order and concurrency


async def test_order_within_a_connection_and_concurrency_across() -> None:
    """While one connection's message waits for its answer, others' go on, and its own next one does not."""
    gate = asyncio.Event()
    blocked = message(0, connection=0).idempotency_key

    class Slow(Collector):
        async def handle(self, request: web.Request) -> web.StreamResponse:
            answer = await super().handle(request)
            if request.headers["Idempotency-Key"] == blocked:
                await gate.wait()
            return answer

    async with serving(Slow()) as collector, posting(collector.url, workers=2) as lane:
        lane.offer([message(number, connection=connection) for connection in range(4) for number in range(3)])
        await until(lambda: lane.counters.delivered == 9)
        assert sum(f"{0:032x}" in request.headers["Idempotency-Key"] for request in collector.requests) == 1
        gate.set()
        assert (await settled(lane)).delivered == 12
    for connection in range(4):
        keys = [request.headers["Idempotency-Key"] for request in collector.requests]
        mine = [key for key in keys if key.startswith(f"{connection:032x}")]
        assert mine == [m.idempotency_key for m in messages(3, connection=connection)]


async def test_concurrency_is_bounded() -> None:
    """No more POSTs than `OUTPUT_CONCURRENCY` are under way at once."""
    now = most = 0

    class Counting(Collector):
        async def handle(self, request: web.Request) -> web.StreamResponse:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.001)
            now -= 1
            return await super().handle(request)

    async with serving(Counting()) as collector, posting(collector.url, workers=3) as lane:
        lane.offer([message(0, connection=connection) for connection in range(20)])
        assert (await settled(lane)).delivered == 20
    assert most == 3


# The drain


async def test_a_drain_tries_a_waiting_message_at_once() -> None:
    """A collector asked for a minute; the stop does not wait for it."""
    asleep = asyncio.Event()
    clock = Time()

    async def sleep(_: float) -> None:
        asleep.set()
        await asyncio.Event().wait()

    clock.sleep = sleep  # type: ignore[method-assign, assignment]
    collector = Collector((503, {"Retry-After": "60"}))
    async with serving(collector), posting(collector.url, clock=clock) as lane:
        lane.offer([message()])
        await asyncio.wait_for(asleep.wait(), BOUND)
        async with asyncio.timeout(BOUND):
            await lane.drain(time.monotonic() + 2 * BOUND)
        assert lane.counters.delivered == 1
    assert len(collector.requests) == 2


async def test_a_drain_with_the_collector_down_ends_early(unused_tcp_port: int) -> None:
    """No wait that would pass the deadline is begun: every waiting message gets its try, and the rest is given up."""
    clock = Time()
    known: list[object] = []
    url = f"http://127.0.0.1:{unused_tcp_port}/"
    async with posting(url, clock=clock, on_socket=lambda *told: known.append(told)) as lane:
        clock.now = time.monotonic()
        lane.hurry(clock.now + 0.5)
        lane.offer(messages(5))
        counters = await settled(lane)
    assert counters.dropped["deadline"] == 5
    assert clock.slept == []
    assert len(known) == 2 * 5  # each opened and closed


async def test_a_try_ends_at_the_deadline(caplog: pytest.LogCaptureFixture) -> None:
    """A collector that hangs is given up at the deadline, and the lane is named with its count."""
    came = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        came.set()
        while await reader.read(65536):
            pass

    async with raw_server(hang) as (url, _), posting(url) as lane:
        lane.offer(messages(4))
        await asyncio.wait_for(came.wait(), BOUND)
        await lane.drain(time.monotonic())
        assert lane.counters.dropped["deadline"] == 4
    (record,) = (r for r in caplog.records if r.getMessage() == "lane did not drain in time")
    assert record.__dict__["fields"] == {"sink": "url", "dropped": 4}


# Our own sockets


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


@pytest.mark.parametrize(
    "host", ["127.0.0.1", pytest.param("::1", marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback"))]
)
async def test_sockets_are_known_before_they_connect(host: str) -> None:
    """Each local socket is told of, bound, before its connection is made, and again after it is closed."""
    known: list[tuple[str, int, bool]] = []
    early: list[bool] = []

    def on_socket(ip: str, port: int, is_open: bool) -> None:
        known.append((ip, port, is_open))
        if is_open:
            family = socket.AF_INET6 if ":" in ip else socket.AF_INET
            with socket.socket(family) as other, pytest.raises(OSError, match="in use"):
                other.bind((ip, port))
            early.append(not collector.requests)

    async with serving(Collector(), host=host) as collector:
        async with posting(collector.url, on_socket=on_socket) as lane:
            lane.offer([message()])
            assert (await settled(lane)).delivered == 1
            (peer,) = {request.peer for request in collector.requests}
            assert known == [(*peer, True)]
        assert known == [(*peer, True), (*peer, False)]
    assert early == [True]


async def test_tls_sockets_are_told_of_too(authority: trustme.CA, tmp_path: Path) -> None:
    """Over TLS, where no header could be seen on the wire, the socket is what tells."""
    known: list[tuple[str, int, bool]] = []
    async with serving(Collector(), tls=server_tls(authority, "127.0.0.1")) as collector:
        async with posting(
            collector.url,
            ca_file=ca_file(authority, tmp_path),
            on_socket=lambda *told: known.append(told),
        ) as lane:
            lane.offer([message()])
            await settled(lane)
        await until(lambda: len(known) == 2)
    (peer,) = {request.peer for request in collector.requests}
    assert known == [(*peer, True), (*peer, False)]


async def test_a_mapped_address_is_told_of_as_ipv4() -> None:
    """An IPv4 address written in IPv6 form travels as IPv4, and is told of as such."""
    known: list[tuple[str, int, bool]] = []
    async with serving(Collector()) as collector:
        url = collector.url.replace("127.0.0.1", "[::ffff:127.0.0.1]")
        async with posting(url, on_socket=lambda *told: known.append(told)) as lane:
            lane.offer([message()])
            await settled(lane)
    if not collector.requests:
        pytest.skip("no IPv6 sockets here")
    assert known[0] == (*collector.requests[0].peer, True)


async def test_a_target_without_a_route_is_retried() -> None:
    """Where there is no way to the target, no socket is told of, and the try counts as a broken connection."""
    known: list[object] = []
    clock = Time()
    # 240.0.0.0/4 is reserved (RFC 1112): the system refuses it, without a packet.
    async with posting("http://[::ffff:255.255.255.255]/", clock=clock, on_socket=lambda *t: known.append(t)) as lane:
        lane.offer([message()])
        assert (await settled(lane)).dropped["retries"] == 1
    assert known == []
    assert clock.slept == [1.0, 2.0, 4.0]
