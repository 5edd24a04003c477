"""sniffer.serving: servers that strangers can neither shut nor fill the log of. The page's and the metrics port's."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import socket
import ssl
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import trustme
from aiohttp import ClientSession, web
from yarl import URL

from sniffer import serving as module
from sniffer.ledger import Ledger
from sniffer.metrics import Endpoint
from sniffer.outputs.ui.server import Server
from sniffer.outputs.ui.store import LiveSink
from sniffer.serving import HttpServer, bind
from tests.daemon import SECONDS, Daemon, exchanges, free_port, needs_capture, serving, web_server
from tests.waiting import BOUND, until

CROWD = 1_100
SECRET = "tokenZ9secretZ9"


class Watched:
    """A sniffer as both servers see it."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.ready = self.healthy = self.began = True
        self.held = False
        self.where = "lo"
        self.observe: Any = None
        self.left_out: dict[str, dict[str, dict[str, int]]] = {}

    def is_running(self) -> bool:
        return True

    def progress(self) -> tuple[int, int] | None:
        return None


@pytest.fixture(autouse=True)
def _enough_descriptors() -> Iterator[None]:
    """The crowds of these tests need more than the usual soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Asked:
    """A server with a few handlers, where it listens, and what it has answered."""

    def __init__(self, **options: Any) -> None:
        app = web.Application()
        app.router.add_get("/ok", self._ok)
        app.router.add_get("/large", self._large)
        app.router.add_get("/held", self._held)
        app.router.add_get("/broken", self._broken)
        self.http = HttpServer(app, name="test", headers={"X-Policy": "strict"}, **options)
        self.release = asyncio.Event()
        self.holding = 0
        self.port = 0

    async def _ok(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _large(self, _: web.Request) -> web.Response:
        return web.Response(body=bytes(16 << 20))

    async def _held(self, _: web.Request) -> web.Response:
        self.holding += 1
        await self.release.wait()
        return web.Response(text="held\n")

    async def _broken(self, request: web.Request) -> web.Response:
        raise ValueError(f"broken by {request.query_string}")

    async def get(self, path: str = "/ok") -> int:
        """The status of an answer, on a connection of its own."""
        status, _ = await ask(self.port, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return status


@contextlib.asynccontextmanager
async def asked(**options: Any) -> AsyncIterator[Asked]:
    """One that listens on loopback."""
    made = Asked(**options)
    listening = bind("127.0.0.1", 0)
    made.port = listening.getsockname()[1]
    await made.http.open(listening)
    try:
        yield made
    finally:
        made.release.set()
        await made.http.close()


async def ask(port: int, data: bytes) -> tuple[int, bytes]:
    """Sends bytes; status and whole text of what comes until the end of the connection, 0 where nothing does."""
    async with asyncio.timeout(BOUND):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = await reader.read()
        writer.close()
    return (int(answer[9:12]) if answer else 0), answer


async def connected(
    stack: contextlib.AsyncExitStack, port: int, count: int, source: str = "127.0.0.1"
) -> list[socket.socket]:
    """So many connections that say nothing."""
    loop = asyncio.get_running_loop()
    made = []
    for _ in range(count):
        client = socket.socket()
        stack.callback(client.close)
        client.setblocking(False)
        client.bind((source, 0))
        await loop.sock_connect(client, ("127.0.0.1", port))
        made.append(client)
    return made


async def ended(client: socket.socket) -> bool:
    """Waits until the other end has ended a connection."""
    async with asyncio.timeout(BOUND):
        with contextlib.suppress(ConnectionError):
            while await asyncio.get_running_loop().sock_recv(client, 1 << 16):
                pass
    return True


def stands(client: socket.socket) -> bool:
    """Whether a connection has not been ended, and nothing has come."""
    try:
        client.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    return False


# Idle clients


async def test_a_crowd_of_idle_connections_keeps_nobody_out(caplog: pytest.LogCaptureFixture) -> None:
    """However many say nothing, whoever asks is answered at once; their number is bounded, and so are the log lines."""
    async with asked() as server, contextlib.AsyncExitStack() as stack:
        for _ in range(5):
            await connected(stack, server.port, CROWD // 5)
            assert [await server.get() for _ in range(5)] == [200] * 5
        await until(lambda: server.http.connections <= module.MOST_CONNECTIONS)
    assert len(caplog.records) <= 2


async def test_metrics_and_page_answer_within_a_crowd() -> None:
    """Both servers of the daemon are served by the same piece: probes, metrics and the page answer in a crowd."""
    endpoint = Endpoint(Watched(), "127.0.0.1", metrics_port := free_port())
    page = Server(LiveSink(max_bytes=1 << 20, live=True), address="127.0.0.1", port=0, ports=[8080], live=True)
    await endpoint.open()
    await page.open(Watched())
    url = URL(page.url)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(endpoint.close)
        stack.push_async_callback(page.close)
        await connected(stack, metrics_port, CROWD)
        await connected(stack, url.port or 0, CROWD)
        for path in ("/healthz", "/readyz", "/metrics"):
            request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            assert (await ask(metrics_port, request.encode()))[0] == 200
        request = f"GET {url.path_qs} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        assert (await ask(url.port or 0, request.encode()))[0] == 303


async def test_the_longest_wait_ends_first() -> None:
    """Where no place is free the connection that has waited longest gives its own to the new one; others stand."""
    async with asked(most=4) as server, contextlib.AsyncExitStack() as stack:
        first = await connected(stack, server.port, 4)
        await until(lambda: server.http.connections == 4)
        (new,) = await connected(stack, server.port, 1)
        assert await ended(first[0])
        assert [stands(client) for client in (*first[1:], new)] == [True] * 4
        assert server.http.connections == 4


async def test_what_is_answered_keeps_its_place() -> None:
    """A connection that is being answered is never ended for a new one; when all are, the new one is refused."""
    async with asked(most=4) as server, contextlib.AsyncExitStack() as stack:
        held = [asyncio.create_task(server.get("/held")) for _ in range(3)]
        await until(lambda: server.holding == 3)
        await connected(stack, server.port, 50)
        assert await server.get() == 200
        fourth = asyncio.create_task(server.get("/held"))
        await until(lambda: server.holding == 4)
        (refused,) = await connected(stack, server.port, 1)
        assert await ended(refused)
        server.release.set()
        assert await asyncio.gather(*held, fourth) == [200] * 4


async def test_one_peer_does_not_push_out_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that floods loses its own connections: it has at most half of the places, and others keep theirs."""
    monkeypatch.setattr(module, "_peer", lambda address: address)  # 127.0.0.0/8 in place of several hosts
    async with asked(most=8) as server, contextlib.AsyncExitStack() as stack:
        quiet = await connected(stack, server.port, 2, "127.0.0.3")
        await until(lambda: server.http.connections == 2)
        flood = await connected(stack, server.port, 60, "127.0.0.2")
        await until(lambda: sum(map(stands, flood)) == 4)
        assert all(map(stands, flood[-4:]))
        assert all(map(stands, quiet))
        await connected(stack, server.port, 4, "127.0.0.4")
        await until(lambda: server.http.connections == 8)
        assert all(map(stands, quiet))


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("127.0.0.1", ""),
        ("127.8.9.1", ""),
        ("::1", ""),
        ("::ffff:127.0.0.1", ""),
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
    ],
)
def test_peers(address: str, peer: str) -> None:
    """A peer is an address, of IPv6 the /64 that one host may have; this host's own programs are no peer."""
    assert module._peer(address) == peer


# Slow clients


async def test_a_head_that_trickles_in_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head has a deadline that no further byte moves: neither silence nor a byte now and then keeps a connection."""
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.3)
    loop = asyncio.get_running_loop()
    async with asked() as server, contextlib.AsyncExitStack() as stack:
        silent, slow = await connected(stack, server.port, 2)
        began = time.monotonic()
        over = asyncio.create_task(ended(slow))
        with contextlib.suppress(ConnectionError):
            for byte in b"GET /ok HTTP/1.1\r\nX: " + b"x" * 100_000:
                if over.done():
                    break
                await loop.sock_sendall(slow, bytes([byte]))
                await asyncio.sleep(0.01)
        assert await over
        assert time.monotonic() - began < BOUND / 2
        assert await ended(silent)
        await until(lambda: not server.http.connections)


async def test_a_second_head_has_the_same_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an answer a connection may rest for a while; the first byte of the next head starts its deadline."""
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.2)
    loop = asyncio.get_running_loop()
    async with asked() as server, contextlib.AsyncExitStack() as stack:
        resting, trickling = await connected(stack, server.port, 2)
        for client in (resting, trickling):
            await loop.sock_sendall(client, b"GET /ok HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200 OK" in await loop.sock_recv(client, 1 << 16)
        await loop.sock_sendall(trickling, b"G")
        assert await ended(trickling)
        assert stands(resting)
        await loop.sock_sendall(resting, b"GET /ok HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in await loop.sock_recv(resting, 1 << 16)


async def test_an_idle_connection_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that was answered and asks nothing more is ended."""
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.1)
    loop = asyncio.get_running_loop()
    async with asked() as server, contextlib.AsyncExitStack() as stack:
        (client,) = await connected(stack, server.port, 1)
        await loop.sock_sendall(client, b"GET /ok HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await ended(client)
        await until(lambda: not server.http.connections)


@pytest.mark.parametrize(
    "data", [b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /ok HTTP/1.1\r\nHost: x\r\n\r\n" * 90_000]
)
async def test_a_client_that_never_reads_is_cut(data: bytes) -> None:
    """Neither a large answer nor many small ones that nobody takes keep a connection."""
    loop = asyncio.get_running_loop()
    async with asked(write_seconds=0.2) as server:
        with contextlib.closing(socket.socket()) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", server.port))
            sending = asyncio.create_task(loop.sock_sendall(client, data))
            await until(lambda: server.http.connections == 1)
            await until(lambda: not server.http.connections)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


async def test_those_that_stand_still_give_way() -> None:
    """Where every connection is being answered, one whose client takes nothing gives its place to a new one."""
    loop = asyncio.get_running_loop()
    async with asked(most=4) as server, contextlib.AsyncExitStack() as stack:
        for client in await connected(stack, server.port, 4):
            await loop.sock_sendall(client, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: len(server.http._stalled) == 4)
        assert await server.get() == 200


async def test_half_a_connection_is_none() -> None:
    """A client that ends its side without a request is let go at once, and so is one that resets."""
    async with asked() as server, contextlib.AsyncExitStack() as stack:
        first, second = await connected(stack, server.port, 2)
        await until(lambda: server.http.connections == 2)
        first.shutdown(socket.SHUT_WR)
        second.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        second.close()
        await until(lambda: not server.http.connections)


async def test_a_body_that_never_comes_keeps_nothing() -> None:
    """A body that the application does not want is not waited for."""
    async with asked() as server:
        status, _ = await ask(server.port, b"POST /ok HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx")
        assert status == 405
        await until(lambda: not server.http.connections)


async def test_closing_waits_for_nobody() -> None:
    """The end of the server ends idle connections, those in an answer, and those that take nothing."""
    loop = asyncio.get_running_loop()
    async with asked() as server, contextlib.AsyncExitStack() as stack:
        clients = await connected(stack, server.port, 3)
        await loop.sock_sendall(clients[0], b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await loop.sock_sendall(clients[1], b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: server.holding and server.http._stalled)
        async with asyncio.timeout(BOUND / 2):
            await server.http.close()
        await until(lambda: not server.http.connections)
        for client in clients:
            assert await ended(client)


async def test_handshakes_have_a_deadline_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over TLS a connection without a handshake is one that waits: it gives way, and ends in time."""
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.5)
    authority = trustme.CA()
    context, trusting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(trusting)
    made = Asked(most=4)
    listening = bind("127.0.0.1", 0)
    made.port = listening.getsockname()[1]
    await made.http.open(listening, context=context)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(made.http.close)
        crowd = await connected(stack, made.port, 50)
        url = f"https://127.0.0.1:{made.port}/ok"
        async with ClientSession() as session, session.get(url, ssl=trusting) as response:
            assert response.status == 200
        for client in crowd:
            assert await ended(client)
        await until(lambda: made.http.connections <= 1)


# Descriptors


@pytest.mark.slow
async def test_without_a_descriptor_one_line_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Where the system has no descriptor, connections wait and are accepted later; the log gets one line."""
    async with asked() as server, contextlib.AsyncExitStack() as stack:
        loop = asyncio.get_running_loop()
        clients = [stack.enter_context(contextlib.closing(socket.socket())) for _ in range(20)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken = [os.dup(0)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 1, hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(0))
            for client in clients:
                client.setblocking(False)
                await loop.sock_connect(client, ("127.0.0.1", server.port))
            await until(lambda: server.http._again is not None)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for number in taken:
                os.close(number)
        await until(lambda: server.http.connections == 20)
        assert await server.get() == 200
    (line,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert getattr(line, "fields", {})["notAccepted"] == 1


def test_places_are_few_where_descriptors_are() -> None:
    """A server takes an eighth of the descriptors at most, so that deliveries and files have theirs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        for limit, places in ((min(hard, 65_536), 128), (256, 32), (64, 8), (20, 4)):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            assert module._places(128) == places
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@needs_capture
def test_a_crowd_costs_no_delivery() -> None:
    """With few descriptors and a crowd at both ports, everything is delivered, probes answer, the log stays short."""
    got: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    collector = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    collector.daemon_threads = True
    metrics = free_port()
    with (
        serving(collector) as place,
        web_server() as port,
        Daemon(
            *("--ports", str(port), "--interface", "lo", "--ui", "--metrics-port", str(metrics)),
            *("--output-url", f"http://127.0.0.1:{place}/"),
        ) as daemon,
        contextlib.ExitStack() as stack,
    ):
        page = URL(daemon.log("live view")["url"])
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (160, 160))  # both had their places by then
        for target in (metrics, page.port or 0):
            for _ in range(CROWD):
                stack.enter_context(contextlib.closing(socket.create_connection(("127.0.0.1", target), SECONDS)))
        exchanges(port, 50)
        for path in ("healthz", "readyz", "metrics"):
            with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/{path}", timeout=SECONDS) as answer:
                assert answer.status == 200
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with browser.open(str(page), timeout=SECONDS) as answer:
            assert answer.status == 200
        assert daemon.stop() == 0
        lane = daemon.log("stopped")["lanes"]["url"]
        assert lane["delivered"] == lane["offered"] == len(got) > 99
        assert len(daemon.logs) < 20


# The log, and what is answered to what is no request

MALFORMED = {
    "target": f"GET /?token={SECRET}\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    "version": f"GET /?token={SECRET} HTTP/9.9x\r\n\r\n",
    "method": f"G\x01T /?token={SECRET} HTTP/1.1\r\n\r\n",
    "secret as the method": f"{SECRET}\x7f / HTTP/1.1\r\n\r\n",
    "header": f"GET / HTTP/1.1\r\nReferer http://x/?token={SECRET}\r\n\r\n",
    "name": f"GET / HTTP/1.1\r\nHost: x\r\nCoo kie: {SECRET}\r\n\r\n",
    "value": f"GET / HTTP/1.1\r\nHost: x\r\nCookie: {SECRET}\x00\r\n\r\n",
    "length": f"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: {SECRET}\r\n\r\n",
    "coding": f"POST /?token={SECRET} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{SECRET}\r\n",
    "absolute": f"GET http://[{SECRET}]:x/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "port": f"GET http://a:99999999/?token={SECRET} HTTP/1.1\r\nHost: a\r\n\r\n",
    "long line": f"GET /?token={SECRET}{'x' * 20_000} HTTP/1.1\r\nHost: x\r\n\r\n",
    "long header": f"GET / HTTP/1.1\r\nHost: x\r\nReferer: /?token={SECRET}{'x' * 20_000}\r\n\r\n",
    "many headers": "GET / HTTP/1.1\r\nHost: x\r\n" + f"X: {SECRET}\r\n" * 5_000 + "\r\n",
    "expectation": f"GET /?token={SECRET} HTTP/1.1\r\nHost: x\r\nExpect: {SECRET}\r\nConnection: close\r\n\r\n",
    "cookies": f'GET / HTTP/1.0\r\nHost: x\r\nCookie: {SECRET}"=;;=,{SECRET}; a\x80={SECRET}\r\n\r\n',
    "unknown path": f"GET /{SECRET} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "unknown method": f"PURGE /?token={SECRET} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "another host": f"GET /?token={SECRET} HTTP/1.1\r\nHost: {SECRET}\r\nConnection: close\r\n\r\n",
    "two lengths": f"POST /?token={SECRET} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "upgrade": f"GET /?token={SECRET} HTTP/1.1\r\nHost: x\r\nUpgrade: {SECRET}\r\nConnection: upgrade, close\r\n\r\n",
    "HTTP/2": f"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{SECRET}",
    "TLS": f"\x16\x03\x01\x02\x00\x01\x00{SECRET}\r\n\r\n",
    "cut": f"GET /?token={SECRET} HTTP/1.1\r\nReferer: x",
}


@contextlib.asynccontextmanager
async def both() -> AsyncIterator[list[int]]:
    """The page's server, the metrics', and one whose application fails; their ports."""
    endpoint = Endpoint(Watched(), "127.0.0.1", metrics_port := free_port())
    page = Server(LiveSink(max_bytes=1 << 20, live=True), address="127.0.0.1", port=0, ports=[8080], live=True)
    await endpoint.open()
    await page.open(Watched())
    async with asked() as server:
        try:
            yield [URL(page.url).port or 0, metrics_port, server.port]
        finally:
            await page.close()
            await endpoint.close()


@pytest.mark.parametrize("shape", MALFORMED)
async def test_nothing_of_a_request_is_logged_or_answered(shape: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is wrong with a request, no log line at any level and no answer holds a part of it."""
    caplog.set_level(logging.DEBUG)
    data = MALFORMED[shape].encode("latin-1")
    async with both() as ports:
        for port in ports:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            writer.write_eof()
            with contextlib.suppress(ConnectionError):
                answer = await asyncio.wait_for(reader.read(), BOUND)
                assert SECRET.encode() not in answer
            writer.close()
    text = "".join(f"{record.getMessage()} {vars(record)} {record.exc_text}" for record in caplog.records)
    assert SECRET not in text
    assert all(record.exc_info is None for record in caplog.records)


async def test_malformed_requests_are_counted_in_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    """A flood of what is no request is a line, and a second one at the end with their number."""
    async with asked() as server:
        for _ in range(40):
            status, answer = await ask(server.port, MALFORMED["target"].encode())
            assert status == 400
            assert b"X-Policy: strict" in answer
    fields = [getattr(record, "fields", {}) for record in caplog.records]
    assert [(each["server"], each["malformed"]) for each in fields] == [("test", 1), ("test", 39)]


async def test_a_failure_is_logged_by_its_place(caplog: pytest.LogCaptureFixture) -> None:
    """What the application raises is an answer 500 and one line with its type and place, without its text."""
    async with asked() as server:
        for _ in range(5):
            assert await server.get(f"/broken?{SECRET}") == 500
    lines = [getattr(record, "fields", {}) for record in caplog.records]
    assert [each["failed"] for each in lines] == [1, 4]
    assert lines[0]["cause"].startswith("ValueError at test_serving.py:")
    assert SECRET not in str(lines)


async def test_the_log_goes_on_while_it_lasts(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes on for long is said again after a while, in counts."""
    monkeypatch.setattr(module, "SAY_SECONDS", 0.05)
    async with asked() as server:

        async def floods() -> None:
            while len(caplog.records) < 3:
                await ask(server.port, MALFORMED["method"].encode())

        await asyncio.wait_for(floods(), BOUND)
