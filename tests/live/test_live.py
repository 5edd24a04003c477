"""Live captures of real servers and clients: on loopback, and across a veth pair between network namespaces."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from sniffer import CaptureError, HttpMessage, Sniffer, create_sniffer
from sniffer.capture import live
from sniffer.capture.live import LiveSource
from sniffer.capture.source import Stop
from tests.daemon import ROOT, free_port, needs_capture
from tests.waiting import BOUND, listens, until

pytestmark = [pytest.mark.live, needs_capture]


async def echo(request: web.Request) -> web.StreamResponse:
    """Answers with what it was sent; `/stream` in chunks, `/empty` without a body."""
    body = await request.read()
    if request.path == "/stream":
        response = web.StreamResponse()
        await response.prepare(request)
        for at in range(0, len(body), 700):
            await response.write(body[at : at + 700])
        await response.write_eof()
        return response
    if request.path == "/empty":
        return web.Response(status=204)
    return web.Response(body=b"%s %s:" % (request.method.encode(), request.path.encode()) + body)


@contextlib.asynccontextmanager
async def server(host: str, port: int, app: web.Application | None = None) -> AsyncIterator[None]:
    app = app or web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{tail:.*}", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    try:
        yield
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def collector(port: int) -> AsyncIterator[list[bytes]]:
    """The server, which is the collector as well: what is posted to `/collect`."""
    received: list[bytes] = []

    async def collect(request: web.Request) -> web.Response:
        received.append(await request.read())
        return web.Response()

    app = web.Application()
    app.router.add_post("/collect", collect)
    async with server("127.0.0.1", port, app):
        yield received


def paired(messages: list[HttpMessage]) -> list[tuple[HttpMessage, HttpMessage]]:
    """Requests with their responses; asserts that each is whole and has its other half."""
    halves: dict[tuple[str, int], dict[str, HttpMessage]] = {}
    for message in messages:
        assert message.incomplete is None
        halves.setdefault((message.connection_id, message.exchange), {})[message.direction] = message
    assert all(len(pair) == 2 for pair in halves.values())
    return [(pair["request"], pair["response"]) for pair in halves.values()]


def assert_clean(sniffer: Sniffer) -> None:
    """The kernel dropped nothing, nothing is missing, everything is accounted for."""
    snapshot = sniffer.ledger.snapshot()
    assert snapshot["kernel_dropped"] == 0
    assert 0 < snapshot["packets_seen"] <= snapshot["kernel_received"]
    assert snapshot["gaps"] == 0
    assert sniffer.undelivered == 0
    assert sniffer.ledger.check() == []


async def fetch_all(base: str, count: int) -> None:
    """Requests of every kind, ten at a time on kept-alive connections."""
    connector = aiohttp.TCPConnector(limit=10)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def one(number: int) -> None:
            path, method = ("/stream", "POST") if number % 3 == 0 else (f"/item/{number}", "PUT")
            async with session.request(method, base + path, data=b"x" * (number * 37 % 5000)) as response:
                assert len(await response.read()) >= number * 37 % 5000

        await asyncio.gather(*map(one, range(count)))
        async with session.head(base + "/head") as response:
            assert response.status == 200
        async with session.get(base + "/empty") as response:
            assert response.status == 204


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("interface", ["lo", "any"])
async def test_a_real_server_and_client_on_loopback(host: str, interface: str) -> None:
    """aiohttp to aiohttp: every exchange arrives whole and paired, the kernel drops nothing."""
    port = free_port(host)
    messages: list[HttpMessage] = []
    sniffer = create_sniffer(ports=[port], interface=interface, on_http_message=messages.append)
    async with server(host, port), sniffer:
        await fetch_all(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}", 100)
    pairs = paired(messages)
    assert len(pairs) == 102
    for request, response in pairs:
        assert (request.receiver.ip, request.receiver.port) == (host, port)
        assert (response.method, response.path) == (request.method, request.path)
        if request.path is not None and request.path.startswith("/item/"):
            assert response.body == f"PUT {request.path}:" + (request.body or "")
        elif request.path == "/stream":
            assert (response.body or "") == (request.body or "")
        assert response.latency_ms is not None
        assert response.latency_ms > 0
    assert_clean(sniffer)


@pytest.mark.parametrize(("interface", "ignored"), [("lo", 1), ("any", 0)])
def test_outgoing_copies_of_loopback_stay_out_of_the_ring(interface: str, ignored: int) -> None:
    """The kernel is told to leave them out on loopback; on `any` it would leave out what other interfaces send."""
    source = LiveSource(interface, ports=[free_port()], buffer_size=1 << 20)
    source.open(Stop())
    try:
        with socket.socket(fileno=os.dup(source._reader.getfd())) as ring:
            assert ring.getsockopt(live._SOL_PACKET, live._PACKET_IGNORE_OUTGOING) == ignored
    finally:
        source.close()


async def test_pipelined_and_dribbled_bytes() -> None:
    """Requests sent all at once, and one sent byte by byte, are found whole and paired in order."""
    port = free_port()
    messages: list[HttpMessage] = []
    sniffer = create_sniffer(ports=[port], interface="lo", on_http_message=messages.append)
    async with server("127.0.0.1", port), sniffer:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = "GET /{} HTTP/1.1\r\nHost: x\r\n\r\n"
        writer.write("".join(head.format(number) for number in range(20)).encode())
        for number in range(20):
            await reader.readuntil(f"GET /{number}:".encode())
        writer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        await reader.read()
        writer.close()
        await writer.wait_closed()
    pairs = paired(messages)
    assert [request.path for request, _ in pairs] == [*(f"/{number}" for number in range(20)), "/slow"]
    assert [response.body for _, response in pairs][-1] == "POST /slow:abc"
    assert len({request.connection_id for request, _ in pairs}) == 1
    assert_clean(sniffer)


async def test_the_tail_is_not_lost() -> None:
    """A stop at once after the last byte still gets that byte from the kernel's ring."""
    port = free_port()
    for _ in range(3):
        messages: list[HttpMessage] = []
        sniffer = create_sniffer(ports=[port], interface="lo", on_http_message=messages.append)
        async with server("127.0.0.1", port), sniffer:
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/last") as response:
                await response.read()
            await sniffer.stop()
        assert [(message.direction, message.incomplete) for message in messages] == [
            ("request", None),
            ("response", None),
        ]


async def test_the_laws_hold_at_every_moment() -> None:
    """Whenever messages arrive everything is accounted for: the kernel's count is never behind what was read of it."""
    port = free_port()
    sniffer = create_sniffer(ports=[port], interface="lo")
    messages = aiter(sniffer)
    async with server("127.0.0.1", port), sniffer, aiohttp.ClientSession() as session, asyncio.timeout(BOUND):
        for _ in range(10):
            async with session.get(f"http://127.0.0.1:{port}/") as response:
                await response.read()
            for _ in range(2):
                await anext(messages)
                assert sniffer.ledger.check() == []


async def test_own_deliveries_are_not_captured() -> None:
    """A collector on a captured port does not feed back: what we post there is no message."""
    port = free_port()
    sniffer = create_sniffer(ports=[port], interface="lo", output_url=f"http://127.0.0.1:{port}/collect")
    async with collector(port) as received, sniffer:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as response:
            await response.read()
        await until(lambda: len(received) >= 2)
    assert sorted(json.loads(body)["direction"] for body in received) == ["request", "response"]
    snapshot = sniffer.ledger.snapshot()
    assert snapshot["messages_foreign"] == 0
    assert snapshot["flows_own"] > 0
    assert sniffer.ledger.check() == []


async def test_a_second_sniffer_leaves_our_deliveries_out() -> None:
    """Two sniffers with the same collector never feed each other."""
    port = free_port()
    pair = [
        create_sniffer(ports=[port], interface="lo", output_url=f"http://127.0.0.1:{port}/collect") for _ in range(2)
    ]
    async with collector(port) as received, pair[0], pair[1]:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as response:
            await response.read()
        await until(lambda: len(received) >= 4)
        await until(lambda: all(sniffer.ledger.snapshot()["messages_foreign"] >= 4 for sniffer in pair))
    assert len(received) == 4


@pytest.mark.skipif(shutil.which("nginx") is None or shutil.which("curl") is None, reason="needs nginx and curl")
async def test_nginx_and_curl(tmp_path: Path) -> None:
    """A file, a compressed file, a HEAD, a range, a 404 and 100-continue between nginx and curl."""
    port = free_port()
    (tmp_path / "text.txt").write_text("some text\n" * 3000)
    (tmp_path / "nginx.conf").write_text(
        f"""
        daemon off; master_process off; pid {tmp_path}/pid; error_log stderr crit;
        events {{ worker_connections 64; }}
        http {{
            access_log off; gzip on; gzip_types text/plain; gzip_min_length 1; default_type text/plain;
            client_body_temp_path {tmp_path}/a; proxy_temp_path {tmp_path}/b; fastcgi_temp_path {tmp_path}/c;
            uwsgi_temp_path {tmp_path}/d; scgi_temp_path {tmp_path}/e;
            server {{
                listen 127.0.0.1:{port}; root {tmp_path};
                location /put {{ client_max_body_size 1m; return 200 "taken"; }}
            }}
        }}
        """
    )
    messages: list[HttpMessage] = []
    sniffer = create_sniffer(ports=[port], interface="lo", on_http_message=messages.append)
    nginx = await asyncio.create_subprocess_exec(
        "nginx", "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path), "-e", "stderr"
    )
    base = f"http://127.0.0.1:{port}"

    async def curl(*arguments: str) -> None:
        process = await asyncio.create_subprocess_exec("curl", "-sS", "--noproxy", "*", "-o", "/dev/null", *arguments)
        assert await process.wait() == 0

    try:
        await until(lambda: listens(port), "nginx listens", pause=0.02)
        async with sniffer:
            await curl(f"{base}/text.txt")
            await curl("--compressed", f"{base}/text.txt")
            await curl("-I", f"{base}/text.txt")
            await curl("-r", "5-14", f"{base}/text.txt")
            await curl(f"{base}/missing")
            await curl("-H", "Expect: 100-continue", "--data-binary", "@" + str(tmp_path / "text.txt"), f"{base}/put")
            await curl("--http1.0", f"{base}/text.txt")
    finally:
        nginx.terminate()
        await nginx.wait()
    pairs = paired(messages)
    found = Counter((request.method, response.status_code) for request, response in pairs)
    assert found == {("GET", 200): 3, ("HEAD", 200): 1, ("GET", 206): 1, ("GET", 404): 1, ("POST", 200): 1}
    text = (tmp_path / "text.txt").read_text()
    decoded = [response for _, response in pairs if response.body_decoded == "gzip"]
    assert [response.body for response in decoded] == [text]
    assert next(request.body for request, _ in pairs if request.method == "POST") == text
    assert next(response.body for _, response in pairs if response.status_code == 206) == text[5:15]
    assert_clean(sniffer)


# Network namespaces


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a veth pair between them: (server, client), s0 and c0, IPv4 and IPv6."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and ip")
    names = (f"sniffer-s{os.getpid()}", f"sniffer-c{os.getpid()}")
    made = []
    try:
        for name in names:
            try:
                ip("netns", "add", name)
            except subprocess.CalledProcessError:
                pytest.skip("network namespaces cannot be made here")
            made.append(name)
        ip("-n", names[0], "link", "add", "s0", "type", "veth", "peer", "name", "c0", "netns", names[1])
        for name, device, number in ((names[0], "s0", 1), (names[1], "c0", 2)):
            ip("-n", name, "addr", "add", f"198.51.100.{number}/24", "dev", device)
            ip("-n", name, "addr", "add", f"2001:db8::{number}/64", "dev", device, "nodad")
            ip("-n", name, "link", "set", device, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


PROGRAM = """
import asyncio, json, sys
from sniffer import CaptureError, create_sniffer

async def main():
    messages = []
    options = json.loads(sys.argv[1])
    sniffer = create_sniffer(on_http_message=messages.append, **options)
    await sniffer.start()
    print("started", sniffer.where, flush=True)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    waiting = asyncio.ensure_future(sniffer.wait())
    await asyncio.wait([waiting, asyncio.ensure_future(reader.read())], return_when=asyncio.FIRST_COMPLETED)
    ledger = await sniffer.stop()
    try:
        await waiting
        error = None
    except CaptureError as raised:
        error = str(raised)
    records = [json.loads(message.to_json()) for message in messages]
    print(json.dumps({"records": records, "ledger": ledger, "laws": sniffer.ledger.check(), "error": error}))

asyncio.run(main())
"""

SERVER = """
import asyncio, sys
from aiohttp import web
sys.path.insert(0, sys.argv[1])
from tests.live.test_live import server

async def main():
    async with server("::", 8080), server("0.0.0.0", 8081):
        print("listening", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"""

CLIENT = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from tests.live.test_live import fetch_all

async def main():
    for base in sys.argv[2:]:
        await fetch_all(base, 60)

asyncio.run(main())
"""


async def inside(namespace: str, code: str, *arguments: str) -> asyncio.subprocess.Process:
    """A Python program in a network namespace."""
    environ = {**os.environ, "PYTHONPATH": ":".join([*(entry for entry in sys.path if entry), str(ROOT)])}
    return await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", namespace, sys.executable, "-c", code, *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environ,
        limit=1 << 26,
    )


async def first_line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(BOUND):
        return (await process.stdout.readline()).decode().strip()


async def finish(process: asyncio.subprocess.Process) -> str:
    """Closes its standard input, and returns what it writes after that."""
    assert process.stdin is not None
    process.stdin.close()
    async with asyncio.timeout(BOUND):
        output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


async def test_across_a_veth_pair(namespaces: tuple[str, str]) -> None:
    """Between two network namespaces, IPv4 and IPv6, on the default interface: all whole and paired, no drops."""
    serving = await inside(namespaces[0], SERVER, str(ROOT))
    assert await first_line(serving) == "listening"
    capturing = await inside(namespaces[0], PROGRAM, json.dumps({"ports": [8080, 8081]}))
    assert await first_line(capturing) == "started s0"
    (link,) = json.loads(ip("-n", namespaces[0], "-json", "-details", "link", "show", "s0"))
    assert link["promiscuity"] == 0, "what is not for this host is not asked for"
    client = await inside(namespaces[1], CLIENT, str(ROOT), "http://[2001:db8::1]:8080", "http://198.51.100.1:8081")
    await finish(client)
    result = json.loads(await finish(capturing))
    await finish(serving)
    records = result["records"]
    assert Counter(record["receiver"]["ip"] for record in records) == {"2001:db8::1": 124, "198.51.100.1": 124}
    assert not any("incomplete" in record for record in records)
    halves = Counter((record["connectionId"], record["exchange"]) for record in records)
    assert set(halves.values()) == {2}
    assert result["laws"] == []
    assert result["ledger"]["kernel_dropped"] == 0
    assert result["ledger"]["gaps"] == 0
    assert result["error"] is None


async def test_an_interface_that_goes_down_and_is_removed(namespaces: tuple[str, str]) -> None:
    """Down and up again: capture goes on. Removed: what was captured is delivered, then the error."""
    serving = await inside(namespaces[0], SERVER, str(ROOT))
    assert await first_line(serving) == "listening"
    capturing = await inside(namespaces[0], PROGRAM, json.dumps({"ports": [8081], "interface": "s0"}))
    assert await first_line(capturing) == "started s0"
    await finish(await inside(namespaces[1], CLIENT, str(ROOT), "http://198.51.100.1:8081"))
    ip("-n", namespaces[0], "link", "set", "s0", "down")
    await asyncio.sleep(0.3)
    assert capturing.returncode is None
    ip("-n", namespaces[0], "link", "set", "s0", "up")
    await finish(await inside(namespaces[1], CLIENT, str(ROOT), "http://198.51.100.1:8081"))
    ip("-n", namespaces[0], "link", "del", "s0")
    assert capturing.stdout is not None
    async with asyncio.timeout(BOUND):
        result = json.loads(await capturing.stdout.readline())
    await finish(capturing)
    await finish(serving)
    assert len(result["records"]) == 248
    assert result["error"] == "interface s0 was removed"
    assert result["laws"] == []


# Privileges


async def test_without_the_capability_the_remedy_is_named() -> None:
    """An unprivileged user gets one error that names NET_RAW; a missing interface is still named as such."""
    if os.geteuid() != 0:
        pytest.skip("dropping privileges needs root")
    code = """
        import asyncio, os, sys
        from sniffer import CaptureError, create_sniffer
        async def main():
            sniffer = create_sniffer(ports=[80], interface=sys.argv[1], on_http_message=print)
            try:
                await sniffer.start()
            except CaptureError as error:
                print(error, error.exit_code)
        import sniffer.pipeline, sniffer_core.core, pcapy  # while they can be read
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        asyncio.run(main())
    """
    import textwrap

    environ = {**os.environ, "PYTHONPATH": ":".join([*(entry for entry in sys.path if entry), str(ROOT)])}
    for interface, words in (("lo", "NET_RAW"), ("nope0", "no such interface: nope0; available: ")):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", textwrap.dedent(code), interface), stdout=subprocess.PIPE, env=environ
        )
        output, _ = await process.communicate()
        assert words in output.decode()
        assert output.decode().rstrip().endswith("2")


async def test_a_missing_interface_is_refused_at_the_start() -> None:
    """`start()` raises, and names what there is."""
    with pytest.raises(CaptureError, match=r"available: .*any"):
        await create_sniffer(ports=[80], interface="nope0", on_http_message=print).start()


async def test_nothing_of_signals_is_touched_while_capturing() -> None:
    """The library leaves signals alone, in a live capture too."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    async with create_sniffer(ports=[free_port()], interface="lo", on_http_message=print):
        assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before
