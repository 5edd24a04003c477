"""The live view in a real Chromium: the real process captures real traffic on loopback, and the page shows it."""

from __future__ import annotations

import asyncio
import base64
import gzip
import http.client
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sniffer.record.message import Fields
from tests.browser import Browser, Page, chromium, needs_chromium
from tests.captures import connection, get, ok, write
from tests.daemon import DEMO, SECONDS, Daemon, needs_capture, serving
from tests.deliveries import Sent, answer, message
from tests.outputs.test_ui import changed
from tests.outputs.test_ui import serving as serving_page
from tests.waiting import until

pytestmark = [needs_chromium, pytest.mark.slow, pytest.mark.live]

LINES = "[...document.querySelectorAll('.line')].filter(line => !line.hidden)"
SCRIPT = "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'>"
ESCAPES = "\x1b[31mred\x1b]0;title\x07\x9b1m\u202egnp.exe"
"""What steers a terminal: colours, a title, C1; and what turns text around."""


def png(width: int, height: int) -> bytes:
    """A small grey picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + bytes([90]) * width for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


JSON = b'{"z": 12345678901234567890, "a": [1.50, {}, []], "a": null, "t": "\\u003cb>"}'
SVG = (
    b"<svg xmlns='http://www.w3.org/2000/svg' onload='window.ran = 3'><script>window.ran = 4</script>"
    b"<image href='http://127.0.0.1:1/x'/></svg>"
)
BODIES: dict[str, tuple[int, str, bytes]] = {
    "/json": (200, "application/json", JSON),
    "/text": (200, "text/plain", "one\ntwo \u00fc".encode()),
    "/png": (200, "image/png", png(31, 17)),
    "/bytes": (200, "application/octet-stream", bytes(range(256))),
    "/gone": (404, "text/plain", b"no"),
    "/moved": (302, "text/plain", b""),
    "/broken": (500, "text/plain", b"oh"),
    "/svg": (200, "image/svg+xml", SVG),
    "/script": (200, "text/html", SCRIPT.encode()),
    "/escapes": (200, "text/plain", ESCAPES.encode()),
    "/broken-utf8": (200, "text/plain", b"\xff\xfe<b>\xc3\x28\xf0\x9f\x92"),
    "/huge": (200, "text/plain", b"<i>" + b"x" * 3_000_000),
    "/lying": (200, "image/png", SCRIPT.encode() + b"\xff"),
}


class Shop(BaseHTTPRequestHandler):
    """Answers by BODIES; echoes what is posted; can be slow."""

    protocol_version = "HTTP/1.1"
    timeout = SECONDS
    wbufsize = -1
    slow = threading.Event()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, kind, body = BODIES.get(path, (200, "text/plain", sent or b"hello"))
        if path == "/slow":
            Shop.slow.wait(0.15)  # never set: a latency to filter by
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if path == "/gzip":
            body = gzip.compress(b'{"was": "gzip"}')
            self.send_header("Content-Encoding", "gzip")
        if path == "/script":
            self.send_header("X-Evil", SCRIPT)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


class Scene:
    """A server that is watched, the daemon, and Chromium."""

    def __init__(self, port: int, daemon: Daemon, browser: Browser) -> None:
        self.port, self.daemon, self.browser = port, daemon, browser
        self.url: str = daemon.log("live view")["url"]

    def ask(self, *requests: str, host: str = "shop.example", body: bytes | None = None, **fields: str) -> None:
        """Makes requests on one connection: `GET /path`."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        for request in requests:
            method, path = request.split(" ", 1)
            headers = {"Host": host, **{name.replace("_", "-"): value for name, value in fields.items()}}
            client.request(method, path, body=body, headers=headers)
            client.getresponse().read()
        client.close()

    def send(self, data: bytes) -> None:
        """Sends bytes on a connection of their own, and waits for its end."""
        with socket.create_connection(("127.0.0.1", self.port), SECONDS) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass

    async def page(self, rows: int | None = None, **options: Any) -> Page:
        """The page, opened by its link; with `rows`, once it shows so many."""
        page = await self.browser.page(self.url, **options)
        if rows is not None:
            await shows(page, rows)
        return page


@contextmanager
def shop() -> Iterator[int]:
    """The server; gives its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    server.daemon_threads = True
    with serving(server) as port:
        yield port


@asynccontextmanager
async def opened(*arguments: str, flags: tuple[str, ...] = ()) -> AsyncIterator[Scene]:
    """A scene; the daemon has to end well."""
    with shop() as port, Daemon("--ports", str(port), "--interface", "lo", "--ui", *arguments) as daemon:
        async with chromium(*flags) as browser:
            yield Scene(port, daemon, browser)
        if daemon.process.poll() is None:
            assert daemon.stop() == 0
            assert not daemon.logged("the ledger does not balance")
            assert not [line for line in daemon.logs if line["level"] in ("error", "critical")], daemon.stderr


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    """One with nothing special."""
    async with opened() as made:
        yield made


async def shows(page: Page, count: int) -> None:
    """Waits until the list has so many rows."""
    await page.wait(f"document.querySelector('#table').getAttribute('aria-rowcount') === '{count + 1}'")


async def paths(page: Page) -> list[str]:
    """The paths in the list, from top to bottom."""
    found: list[str] = await page.eval(
        f"{LINES}.sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top)"
        ".map(line => line.querySelector('.rest').textContent)"
    )
    return found


async def fill(page: Page, name: str, value: str) -> None:
    """Types into a field of the filters, in place of what is there."""
    await page.eval(f"(field => {{ field.focus(); field.select?.() }})(document.forms[0].elements['{name}'])")
    if value:
        await page.type(value)
    else:
        await page.eval(f"(field => {{ field.value = ''; field.dispatchEvent(new Event('input', {{bubbles: true}})) }})"
                        f"(document.forms[0].elements['{name}'])")  # fmt: skip


async def open_row(page: Page, path: str) -> None:
    """Clicks on the row of a path, and waits until its exchange is shown."""
    await page.eval(f"{LINES}.find(line => line.querySelector('.rest').textContent === {json.dumps(path)}).click()")
    await page.wait(f"document.querySelector('#detail h2')?.textContent.includes({json.dumps(path)})")


@needs_capture
async def test_exchanges_appear(scene: Scene) -> None:
    """What was captured before the page was opened is there, and what is captured then appears."""
    scene.ask("GET /one", "POST /two?x=1")
    page = await scene.page(2)
    scene.ask("GET /gone", "DELETE /four")
    await shows(page, 4)
    assert await paths(page) == ["/one", "/two?x=1", "/gone", "/four"]
    first = (await page.texts(".line"))[2].split("\n")
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3}", first[0])
    assert first[1:5] == ["GET", "404", "shop.example/gone", "plain"]
    assert re.fullmatch(r"[\d.]+ (µs|ms)", first[5])
    assert first[-1].endswith(f"→ 127.0.0.1:{scene.port}")
    await page.wait("document.querySelector('#facts').innerText.includes('exchanges')")
    assert await page.text("#state") == "live"
    assert page.errors == []


@needs_capture
async def test_filters(scene: Scene) -> None:
    """Each filter leaves what it says, together they leave what passes all; Esc clears them."""
    scene.ask("GET /one", "POST /two", "GET /gone", "GET /moved", "PUT /broken", "GET /slow")
    scene.ask("GET /other", host="bank.example", user_agent="x")
    page = await scene.page(7)
    everything = await paths(page)

    async def left(name: str, value: str, expected: list[str]) -> None:
        await fill(page, name, value)
        await shows(page, len(expected))
        assert await paths(page) == expected
        assert await page.text("#shown") == f"{len(expected)} of 7"
        await fill(page, name, "")
        await shows(page, 7)

    await left("path", "o", ["/one", "/two", "/gone", "/moved", "/broken", "/slow", "/other"])
    await left("path", "/GO", ["/gone"])
    await left("host", "bank", ["/other"])
    await left("latency", "140", ["/slow"])
    await left("text", "post", ["/two"])
    await left("text", "bank /other 200", ["/other"])
    await left("text", f"127.0.0.1:{scene.port}", everything)
    await left("text", "nothing like it", [])
    for value, expected in (
        ("2", ["/one", "/two", "/slow", "/other"]),
        ("3", ["/moved"]),
        ("4", ["/gone"]),
        ("5", ["/broken"]),
    ):
        await page.click(f".chip.s{value}")
        await shows(page, len(expected))
        assert await paths(page) == expected
        await page.click(f".chip.s{value}")
        await shows(page, 7)
    await page.eval(
        "(field => { field.value = 'PUT'; field.dispatchEvent(new Event('input', {bubbles: true})) })"
        "(document.forms[0].elements.method)"
    )
    await shows(page, 1)
    assert await paths(page) == ["/broken"]
    await fill(page, "path", "/one")
    await shows(page, 0)
    assert "No exchange passes" in await page.text("#empty")
    await page.eval("document.forms[0].reset()")
    await shows(page, 7)
    await fill(page, "text", "x-mine: BLUE 4711")  # not in a row: in a header, and in a body
    await shows(page, 0)
    scene.ask("POST /echo", "POST /plain", body=b"order 4711", x_mine="blue")
    await shows(page, 2)
    scene.ask("POST /echo", body=b"order 1", x_mine="blue")
    scene.ask("POST /later", body=b"order 4711", x_mine="Blue")
    await shows(page, 3)
    assert await paths(page) == ["/echo", "/plain", "/later"]
    await page.eval("document.forms[0].reset()")
    await shows(page, 11)
    await page.eval(
        "(field => { field.value = 'PUT'; field.dispatchEvent(new Event('input', {bubbles: true})) })"
        "(document.forms[0].elements.method)"
    )
    await fill(page, "path", "/one")
    await shows(page, 0)
    scene.ask("PUT /one")
    await shows(page, 1)
    await page.eval("document.activeElement.blur()")
    await page.press("Escape")
    await shows(page, 12)
    assert page.errors == []


@needs_capture
async def test_an_expression_filters(scene: Scene) -> None:
    """The text field takes expressions, shows what is wrong with one, and judges what comes later too."""
    scene.ask("GET /one", "POST /two", "GET /gone", "PUT /broken")
    page = await scene.page(4)
    await fill(page, "text", "status >= 400 && method in ['GET', 'PUT']")
    await shows(page, 2)
    assert await paths(page) == ["/gone", "/broken"]
    scene.ask("GET /one", "GET /gone")
    await shows(page, 3)
    await fill(page, "text", "path =~ '(a+)+'")
    await shows(page, 6)
    await page.wait("!document.getElementById('mistake').hidden")
    assert (await page.text("#mistake")).startswith("column 14: ")
    await fill(page, "text", "request.headers contains 'host' && path contains 'two'")
    await shows(page, 1)
    assert await page.eval("document.getElementById('mistake').hidden")
    await fill(page, "text", "two")
    await shows(page, 1)
    await page.eval("document.forms[0].reset()")
    await shows(page, 6)
    assert page.errors == []


@needs_capture
async def test_sort(scene: Scene) -> None:
    """A click on a column sorts by it, another one the other way round; what comes later is put in its place."""
    scene.ask("GET /b", "GET /gone", "GET /a", "GET /broken")
    page = await scene.page(4)
    await page.click(".head .status button")
    await page.wait("document.querySelector('.head .status').getAttribute('aria-sort') === 'ascending'")
    await page.eval("new Promise(requestAnimationFrame)")
    assert await paths(page) == ["/b", "/a", "/gone", "/broken"]
    await page.click(".head .path button")
    await page.click(".head .path button")
    await page.wait("document.querySelector('.head .path').getAttribute('aria-sort') === 'descending'")
    await page.eval("new Promise(requestAnimationFrame)")
    assert await paths(page) == ["/gone", "/broken", "/b", "/a"]
    scene.ask("GET /c")
    await shows(page, 5)
    assert await paths(page) == ["/gone", "/c", "/broken", "/b", "/a"]


def timed(number: int, *, sent: int, waited: int | None, received: int) -> tuple[Sent, Sent]:
    """An exchange whose phases took so many milliseconds; None: the response began before the request ended."""
    start, at = "2026-01-02T03:04:05", [0, sent, sent + (waited or 0), sent + (waited or 0) + received]
    stamps = [f"{start}.{each:03}{number:03}Z" for each in at]
    request = changed(message(number), timestamp=stamps[0], end_timestamp=stamps[1], authority="shop.example:80")
    response = changed(
        answer(number),
        timestamp=stamps[2],
        end_timestamp=stamps[3],
        latency_ms=None if waited is None else float(waited),
        duration_ms=float(at[3]),
        authority="shop.example:80",
    )
    return request, response


async def test_times_and_host() -> None:
    """List and detail show the host that was asked, the duration and the end; the list can be sorted by both."""
    async with serving_page() as served, chromium() as browser:
        await served.deliver(
            timed(0, sent=20, waited=5, received=75),
            timed(1, sent=0, waited=40, received=0),
            timed(2, sent=50, waited=None, received=10),
            (message(3), None),
        )
        page = await browser.page(served.server.url)
        await page.size(1500, 800)
        await shows(page, 4)
        cells = f"{LINES}.map(line => [...line.querySelectorAll('.duration, .end')].map(cell => cell.textContent))"
        shown = await page.eval(cells)
        assert [duration for duration, _ in shown] == ["100 ms", "40.0 ms", "60.0 ms", ""]
        assert [end[-6:] for _, end in shown] == ["05.100", "05.040", "05.060", "05.000"]
        assert await page.eval(f"{LINES}.map(line => line.querySelector('.host').textContent)") == [
            *["shop.example:80"] * 3,
            "shop.example",
        ]
        for column in ("duration", "end"):
            await page.click(f".head .{column} button")
            await page.wait(f"document.querySelector('.head .{column}').getAttribute('aria-sort') === 'ascending'")
            await page.eval("new Promise(requestAnimationFrame)")
            assert await paths(page) == ["/0/3", "/0/1", "/0/2", "/0/0"]

        lines = "[...document.querySelectorAll('#detail .facts div')].map(fact => fact.innerText.split('\\n'))"
        facts = f"Object.fromEntries({lines})"
        await open_row(page, "/0/0")
        found = await page.eval(facts)
        assert (found["Host"], found["Latency"], found["Duration"]) == ("shop.example:80", "5.00 ms", "100 ms")
        assert re.fullmatch(r"2026-01-0\d \d\d:\d\d:05\.100000", found["Ended"])
        sentence = (
            "The request took 20.0 ms, the first byte of the response 5.00 ms more, the rest of the response 75.0 ms."
        )
        assert await page.text("#detail .note") == sentence
        assert await page.eval("[...document.querySelectorAll('#detail .timing i')].map(e => e.style.width)") == [
            "20%",
            "5%",
            "75%",
        ]
        await open_row(page, "/0/2")
        found = await page.eval(facts)
        assert (found.get("Latency"), found["Duration"]) == (None, "60.0 ms")
        for path in ("/0/2", "/0/1"):  # no latency; nothing but waiting
            await open_row(page, path)
            assert await page.eval("document.querySelector('#detail .timing')") is None
        assert page.errors == []


@needs_capture
async def test_the_newest_is_followed(scene: Scene) -> None:
    """The list stays at its end, through filters too, until one scrolls away; a button leads back."""
    scene.ask(*(f"GET /{number}" for number in range(60)))
    page = await scene.page(60)
    seen = """(box => [...document.querySelectorAll('.line:not([hidden])')].filter(line => {
        const place = line.getBoundingClientRect();
        return place.top >= box.top - 1 && place.bottom <= box.bottom + 1;
    }).map(line => line.querySelector('.rest').textContent))
    (document.querySelector('.scroller').getBoundingClientRect())"""
    await page.wait(f"{seen}.includes('/59')")
    await fill(page, "text", "nothing like it")
    await shows(page, 0)
    await page.eval("document.forms[0].reset()")
    await page.wait(f"{seen}.includes('/59')")
    assert await page.eval("document.querySelector('#follow').hidden")
    x, y = 400, 500
    await page.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-600)
    await page.wait("!document.querySelector('#follow').hidden")
    before = await page.eval(seen)
    scene.ask("GET /new")
    await shows(page, 61)
    assert await page.eval(seen) == before
    await page.click("#follow")
    await page.wait(f"{seen}.includes('/new')")
    await page.wait("document.querySelector('#follow').hidden")


@needs_capture
async def test_pause(scene: Scene) -> None:
    """While it is paused the list stays as it is, and says how many wait; then they are there."""
    scene.ask("GET /before")
    page = await scene.page(1)
    await page.click("#pause")
    await page.wait("document.querySelector('#state').textContent === 'paused'")
    scene.ask("GET /during", "GET /during2")
    await page.wait("document.querySelector('#state').textContent === 'paused, 2 wait'")
    assert await paths(page) == ["/before"]
    await page.press("p")
    await shows(page, 3)
    assert await paths(page) == ["/before", "/during", "/during2"]


@needs_capture
async def test_the_selected_one_is_what_was_sent(scene: Scene) -> None:
    """Request and response stand side by side, with heads, sizes and bodies as they were sent, redacted."""
    form = {"content_type": "application/x-www-form-urlencoded", "x_mine": "m", "authorization": "Bearer secret"}
    scene.ask("POST /echo?sig=secret", body=b"a=1&b=%3Cx%3E&a=2", **form)
    scene.ask("GET /json", "GET /png", "GET /bytes", "GET /gzip", "GET /svg", "GET /huge")
    page = await scene.page(7)
    await open_row(page, "/echo?sig=[REDACTED]")
    request, response = await page.texts("article")
    assert "POST /echo?sig=[REDACTED] HTTP/1.1" in request
    assert "authorization\n[REDACTED]" in request
    assert "x-mine\nm" in request
    assert "17 bytes on the wire" in request
    assert re.search(r"a\n1\nb\n<x>\na\n2", request)
    assert "HTTP/1.1 200 OK" in response
    assert "a=1&b=%3Cx%3E&a=2" in response
    assert "secret" not in await page.eval("document.documentElement.innerHTML")
    left, right = await page.eval("[...document.querySelectorAll('article')].map(e => e.getBoundingClientRect().left)")
    assert left < right

    await open_row(page, "/json")
    assert await page.text("article:nth-child(2) pre") == (
        '{\n  "z": 12345678901234567890,\n  "a": [\n    1.50,\n    {},\n    []\n  ],\n'
        '  "a": null,\n  "t": "\\u003cb>"\n}'
    )
    await open_row(page, "/png")
    await page.wait("document.querySelector('article img')?.naturalWidth === 31")
    assert await page.text("article .content .note") == "31 × 17, image/png"
    await open_row(page, "/bytes")
    lines = (await page.text("article:nth-child(2) pre")).splitlines()
    assert len(lines) == 16
    assert lines[4].split() == ["000040", *(f"{byte:02x}" for byte in range(64, 80)), "@ABCDEFGHIJKLMNO"]
    await open_row(page, "/gzip")
    assert '"was": "gzip"' in await page.text("article:nth-child(2) pre")
    assert "decoded from gzip" in await page.text("article:nth-child(2)")
    await open_row(page, "/svg")
    assert (await page.text("article:nth-child(2) pre")).startswith("<svg")
    await open_row(page, "/huge")
    assert "3,000,003 bytes on the wire, cut: the beginning is kept" in await page.text("article:nth-child(2)")
    assert await page.eval("window.ran") is None
    assert page.errors == []


@needs_capture
async def test_hostile_values_do_nothing(scene: Scene) -> None:
    """Script tags, handlers, escapes, bidi, broken UTF-8, huge bodies, in every place: text, and nothing but text."""
    host = f"127.0.0.1:{scene.port}".encode()
    scene.ask("GET /script", "GET /escapes", "GET /broken-utf8", "GET /huge", "GET /lying", "GET /svg")
    evil = b"/<script>window.ran=5</script>'\"><img/src=x/onerror=window.ran=6>"
    scene.send(b"GET " + evil + b" HTTP/1.1\r\nHost: " + host + b"\r\nX: <b>\x9b1m\xff\r\nConnection: close\r\n\r\n")
    scene.send(b"GET /__proto__ HTTP/1.1\r\n__proto__: a\r\nconstructor: b\r\nHost: <svg/onload=window.ran=7>\r\n"
               b"Connection: close\r\n\r\n")  # fmt: skip
    scene.send(b"<X>SCRIPT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    page = await scene.page()
    await page.wait("document.querySelector('#table').getAttribute('aria-rowcount') >= 9")
    shown = await paths(page)
    assert evil.decode() in shown
    scripts = await page.eval("document.scripts.length")
    for path in shown:
        await open_row(page, path)
        for way in range(await page.eval("document.querySelectorAll('.ways button').length")):
            await page.eval(f"document.querySelectorAll('.ways button')[{way}].click()")
            await page.eval("new Promise(requestAnimationFrame)")
        if path == "/escapes":
            await page.eval("document.querySelector('article:nth-child(2) .ways button').click()")
            assert await page.text("article:nth-child(2) pre") == (
                "\\x1b[31mred\\x1b]0;title\\x07\\x9b1m\\u202egnp.exe"
            )
        if path == "/script":
            assert SCRIPT in await page.text("article:nth-child(2)")
    assert await page.eval("window.ran") is None
    assert await page.eval("document.scripts.length") == scripts == 1
    assert await page.eval("document.querySelectorAll('main img, main svg, main b b, main i i, iframe').length") == 0
    assert await page.eval("({}).polluted") is None
    base = scene.url.partition("?")[0]
    assert {url for url in page.requests if not url.startswith((base, "blob:", "about:"))} == set()
    assert page.errors == []


SHELLS = [shell for shell in ("dash", "bash", "zsh", "ksh", "busybox") if shutil.which(shell)]
EVIL = "'; touch evil; $(touch evil) `touch evil` \"!!\\ \\' \x1b[201~\r -o x %s %d \\101 \xfc\xff\xc3\xa9 \x9b1m"
"""What leaves quotes of any kind, expands, steers a terminal, or is a format; every character a byte of ISO-8859-1."""


async def command(page: Page, request: dict[str, Any]) -> str:
    """What `Copy as curl` gives for a request."""
    made: str = await page.eval(f"import('./detail.js').then(module => module.curl({json.dumps(request)}))")
    assert re.fullmatch(r"[\x20-\x7e]+", made), made
    assert "$'" not in made.replace("'$'", "")
    return made


def in_shell(shell: str, text: str, folder: Path) -> bytes:
    """What a command writes to standard output in a shell; nothing may come of it but that."""
    line = [shell, "sh"] if shell == "busybox" else [shell]
    with tempfile.NamedTemporaryFile("w") as script:  # an argument could not be that long
        script.write(text)
        script.flush()
        done = subprocess.run([*line, script.name], capture_output=True, cwd=folder, timeout=SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, b""), (text, done)
    assert list(folder.iterdir()) == []
    return done.stdout


@pytest.mark.parametrize("shell", SHELLS)
async def test_a_copied_command_is_a_command(shell: str, tmp_path: Path) -> None:
    """What `Copy as curl` gives is words of any POSIX shell; no captured text leaves its quotes, whatever it holds."""
    body = f"{EVIL}\nx\n\t\u20ac\u202e"
    request: dict[str, Any] = {
        "method": "PO'ST",
        "path": "/a?b='$(id)'&c=[1-9]{x}",
        "receiver": {"ip": "::1", "port": 8080},
        "headers": {"x-evil": EVIL, "set-cookie": ["a", "b'"], "content-length": "3", "x-none": "", "@f": "x"},
        "body": body,
    }
    async with serving_page() as served, chromium() as browser:
        page = await browser.page(served.server.url)
        made = await command(page, request)
        arguments = in_shell(shell, f"curl() {{ printf '%s\\0' \"$@\"; }}\n{made}", tmp_path).split(b"\0")[:-1]
        assert arguments == [
            *(b"--globoff", b"--path-as-is", b"--request", b"PO'ST", b"--url", b"http://[::1]:8080/a?b='$(id)'&c=[1-9]{x}"),
            *(b"--header", b"x-evil: " + EVIL.encode("latin-1"), b"--header", b"set-cookie: a"),
            *(b"--header", b"set-cookie: b'", b"--header", b"x-none;", b"--data-raw", body.encode()),
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "authority", "host", "expected"),
    [
        ("/x", "shop.example", "shop.example", "--url 'http://shop.example/x'"),
        ("/x", "shop.example", "Shop.Example", "--url 'http://shop.example/x' --header 'host: Shop.Example'"),
        ("/x", None, "[REDACTED]", "--url 'http://192.0.2.1:8080/x' --header 'host: [REDACTED]'"),
        ("/x", None, None, "--url 'http://192.0.2.1:8080/x'"),
        ("http://a.example/x", "a.example", "a.example", "--url 'http://a.example/x'"),
        ("http://a.example/x", "a.example", "b.example", "--url 'http://a.example/x' --header 'host: b.example'"),
        ("*", "[::1]:80", "[::1]:80", "--request-target '*' --url 'http://[::1]:80/'"),
    ],
)
async def test_a_copied_command_asks_the_same_host(
    path: str, authority: str | None, host: str | None, expected: str
) -> None:
    """The URL has the authority if the target names no host; a Host field that curl would not make of it is sent."""
    fields = Fields({"host": host} if host else {})
    request = changed(message(), path=path, authority=authority, headers=fields)
    async with serving_page() as served, chromium() as browser:
        page = await browser.page(served.server.url)
        assert await command(page, json.loads(request.to_json())) == f"curl --globoff --path-as-is {expected}"


async def test_a_copied_command_says_what_it_lacks() -> None:
    """A body that was cut, or not kept, is said beside the button; a whole one and none need no word."""
    async with serving_page() as served, chromium() as browser:
        page = await browser.page(served.server.url)
        for request, words in (
            ({"body": "a", "bodySize": 70_000, "bodyTruncated": True}, ", with the body cut: 70,000 bytes were sent"),
            ({"bodySize": 5}, ", without the body: 5 bytes were sent"),
            ({"body": "a", "bodySize": 1}, ""),
            ({"bodySize": 0}, ""),
        ):
            module = f"import('./detail.js').then(module => module.lacks({json.dumps(request)}))"
            assert await page.eval(module) == words


class Raw:
    """A server that keeps the bytes of each request."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        self.got.append(head + await reader.readexactly(int(length[1]) if length else 0))
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()


FIELDS = b"Host: shop\r\nUser-Agent: u\r\nAccept: a\r\nContent-Type: t/x\r\n"


def post(body: bytes, *, target: bytes = b"/x", fields: bytes = b"", method: bytes = b"POST") -> bytes:
    """A request of one body."""
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    return method + b" " + target + b" HTTP/1.1\r\n" + FIELDS + fields + length + b"\r\n" + body


REQUESTS = {
    "case": post(b"", fields=b"X-Note: caf\xc3\xa9'; touch PWNED #\r\n"),
    "evil": post(EVIL.encode("latin-1"), fields=b"X-Evil: " + EVIL.replace("\r", "").encode("latin-1") + b"\r\n"),
    "utf-8": post("\u20ac\u202e \U0001f600 'x'".encode()),
    "every byte": post(bytes(range(256)) * 3),
    "nul": post(b"a\0b\0"),
    "line ends": post(b"\n\r\n{\n  'a': 1\n}\n\n"),
    "a file, for curl": post(b"@/etc/passwd", fields=b"X-At: @/etc/passwd\r\n"),
    "options": post(b"-o evil", fields=b"X-Minus: --output evil\r\n"),
    "formats": post(b"%s%n%d%%\\n\\0101", fields=b"X-Format: %s\xff%d%%\\n\r\n"),
    "globs": post(b"", target=b"/[1-3]{a,b}/../x//?q=%41&r=*"),
    "a target that is no URL": post(b"x", target=b"/a b#c\\d\xff'$(touch evil)`\""),
    "an asterisk": post(b"", target=b"*", method=b"OPTIONS"),
    "quotes only": post(b"'" * 300, fields=b"X-Q: ''\"\"''\r\n"),
    "history": post(b"!!\x01!x", fields=b"X-H: !!\xe9!$\r\n"),
    "HEAD": post(b"", method=b"HEAD"),
    "GET with a body": post(b"q=1", method=b"GET"),
    "long": post(b"'\x80x" * 20_000),
    "long text": post(b"'" * 60_000),
    "empty": post(b"", fields=b"X-Empty:\r\n"),
}


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("shell", SHELLS)
async def test_a_copied_command_sends_the_same(shell: str, tmp_path: Path) -> None:
    """In each shell the copied command makes curl send what was captured: target, fields and body, byte by byte."""
    folder = tmp_path / "empty"
    folder.mkdir()
    capture = write(tmp_path / "a.pcap", connection([(request, ok()) for request in REQUESTS.values()]))
    raw = Raw()
    server = await asyncio.start_server(raw.serve, "127.0.0.1", 0, limit=1 << 20)
    port = server.sockets[0].getsockname()[1]
    async with server, chromium() as browser:
        with Daemon("--ports", "8080", "--read", capture, "--ui", "--max-body-size", "200000") as daemon:
            page = await browser.page(daemon.log("live view")["url"])
            await shows(page, len(REQUESTS))
            for number, (name, request) in enumerate(REQUESTS.items()):
                record = json.loads(await page.eval(f"fetch('exchange/{number + 1}').then(r => r.text())"))["request"]
                made = await command(page, record)
                options = f"curl --silent --show-error --noproxy '*' --connect-to ::127.0.0.1:{port} "
                await asyncio.to_thread(in_shell, shell, options.join(made.rsplit("curl ", 1)), folder)
                got = raw.got.pop()
                start, _, fields = request.partition(b"\r\n\r\n")[0].partition(b"\r\n")
                sent_start, _, sent_fields = got.partition(b"\r\n\r\n")[0].partition(b"\r\n")
                assert sent_start == start, name
                assert sorted(sent_fields.lower().split(b"\r\n")) == sorted(fields.lower().split(b"\r\n")), name
                assert got.partition(b"\r\n\r\n")[2] == request.partition(b"\r\n\r\n")[2], name
                assert raw.got == []
            assert daemon.stop() == 0


MIB = 1 << 20
HUGE_PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 30_000, 30_000, 8, 0, 0, 0, 0)
IMAGES = {
    "image/png": HUGE_PNG,
    "image/gif": b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + bytes(20),
    "image/bmp": b"BM" + bytes(16) + struct.pack("<ii", 30_000, -30_000) + bytes(40),
    "image/jpeg": b"\xff\xd8\xff\xe0" + struct.pack(">H", 16) + bytes(14)
    + b"\xff\xc2" + struct.pack(">HBHH", 17, 8, 60_000, 60_000) + bytes(40),
    "image/webp": b"RIFF\0\0\0\0WEBPVP8X" + struct.pack("<II", 10, 0) + b"\x00\xff\x00" * 2 + bytes(20),
    "image/avif": bytes(4) + b"ftypavif" + bytes(20) + b"ispe" + struct.pack(">III", 0, 60_000, 60_000),
    "image/x-icon": b"\0\0\1\0\1\0" + bytes(16) + HUGE_PNG,
}  # fmt: skip
"""Each says that it has hundreds of millions of pixels, in a few bytes."""
TEXTS = {
    "arrays in arrays": ("application/json", "[" * 5_000 + "]" * 5_000),
    "many more": ("application/json", "[" * 400_000 + "]" * 400_000),
    "objects in objects": ("application/json", '{"a":' * 5_000 + "1" + "}" * 5_000),
    "both, with blanks": ("", '[ {"a" :\n' * 5_000 + "1" + "}]" * 5_000),
    "never closed": ("application/json", "[" * 500_000),
    "deep behind a flat part": ("application/json", "[" + "1," * 50_000 + "[" * 3_000 + "]" * 3_001),
    "a wide array": ("application/json", "[" + "1," * 400_000 + "1]"),
    "wide, and as deep as may be": ("application/json", "[" * 63 + "[],{}," * 100_000 + "1" + "]" * 63),
    "a wide object": ("application/json", "{" + '"a":1,' * 150_000 + '"a":1}'),
    "strings": ("application/json", "[" + '"",' * 200_000 + '""]'),
    "one string": ("application/json", '"' + "x" * MIB + '"'),
    "a string of escapes": ("application/json", '["' + "\\\\" * 400_000 + '"]'),
    "a long number": ("application/json", "[" + "1" * (MIB - 10) + "]"),
    "blanks": ("application/json", "[" + " " * (MIB - 10) + "]"),
    "one line": ("text/plain", "x" * (2 * MIB)),
    "words": ("text/plain", "x " * MIB),
    "lines": ("text/plain", "\n" * (2 * MIB)),
    "returns": ("text/plain", "\r\n" * MIB),
    "controls": ("text/plain", "\x01" * MIB),
    "bidi": ("text/plain", "\u202e\u05d0" * (MIB // 2)),
    "marks": ("text/plain", "a" + "\u0301" * MIB),
    "tabs": ("text/plain", "\t" * MIB),
    "XML": ("application/xml", "<a>" * 300_000),
    "HTML": ("text/html", "<table><tr><td>" * 60_000),
    "a form": ("application/x-www-form-urlencoded", "a&" * 500_000),
    "a form of escapes": ("application/x-www-form-urlencoded", "%41=%42&" * 120_000),
    "a form of one field": ("application/x-www-form-urlencoded", "a=" + "x" * MIB),
}


def hostile_exchanges() -> Iterator[tuple[str, Sent, Sent]]:
    """Exchanges that say much in few bytes: (name, request, response)."""
    for name, (kind, text) in TEXTS.items():
        fields = Fields({"content-type": kind} if kind else {})
        yield name, message(), changed(answer(body=text), headers=fields)
    for kind, data in IMAGES.items():
        body = base64.b64encode(data + bytes(200)).decode()
        fields = Fields({"content-type": kind})
        yield kind, message(), changed(answer(body=body), headers=fields, body_encoding="base64")
    zeros = base64.b64encode(bytes(2 * MIB)).decode()
    yield "bytes", message(), changed(answer(body=zeros), body_encoding="base64")
    long = "x" * MIB
    yield "a long target", changed(message(), path=f"/?{long}", method=long), answer()
    yield "a long field", changed(message(), headers=Fields({"a": long, long: "b"})), answer()
    many = Fields({f"x-{number}": "y" for number in range(30_000)})
    yield "many fields", changed(message(), headers=many), changed(answer(), headers=many, trailers=many)
    cookies = Fields({"set-cookie": ("a=b",) * 50_000, "cookie": "a=b; " * 100_000})
    yield "many cookies", changed(message(), headers=cookies), changed(answer(), headers=cookies, reason=long)


async def show_exchange(page: Page, number: int) -> None:
    """Has the page show an exchange, wherever its row is, and waits until that is laid out."""
    row = [number, 0, "GET", "", "/", 200, None, None, None, "a", "b", "", []]
    await page.eval(
        "import('./detail.js').then(async (module) => { document.body.classList.add('split');"
        " window.view ??= new module.Detail(document.querySelector('#detail'), { closed: () => {} });"
        f" await window.view.show({json.dumps(row)}); return document.querySelector('#detail').offsetHeight; }})"
    )


async def test_what_is_built_of_a_body_is_bounded() -> None:
    """However deep, wide, long or many what was captured is, the page builds of it no more than a bounded number."""
    async with serving_page(max_bytes=1 << 28) as served, chromium() as browser:
        names = []
        for name, request, response in hostile_exchanges():
            await served.deliver((request, response))
            names.append(name)
        page = await browser.page(served.server.url)
        await shows(page, len(names))
        for number, name in enumerate(names):
            await show_exchange(page, number + 1)
            ways = await page.eval("[...document.querySelectorAll('.ways button')].map(button => button.textContent)")
            assert not (name in IMAGES and "Image" in ways), name
            for way in range(len(ways)):
                await page.eval(f"document.querySelectorAll('.ways button')[{way}].click()")
                nodes, letters = await page.eval(
                    "(d => [d.querySelectorAll('*').length, d.textContent.length])(document.querySelector('#detail'))"
                )
                assert nodes < 45_000, (name, ways[way], nodes)
                assert letters < 2_000_000, (name, ways[way], letters)
        assert page.errors == []


async def test_what_is_not_shown_is_said() -> None:
    """JSON that is too deep is shown as text; of what is too much the beginning is shown, and the page says so."""
    deep = "[" * 65 + "]" * 65
    async with serving_page(max_bytes=1 << 26) as served, chromium() as browser:
        kind = Fields({"content-type": "application/json"})
        for body in (deep, deep[1:-1], "[" + "1," * 50_000 + "1]"):
            await served.deliver((message(), changed(answer(body=body), headers=kind)))
        many = Fields({f"x-{number}": "y" for number in range(501)})
        await served.deliver((changed(message(), headers=many), changed(answer(body="x\n" * 20_000))))
        page = await browser.page(served.server.url)
        await shows(page, 4)
        found: list[tuple[list[str], str]] = []
        for _ in range(4):
            await show_exchange(page, len(found) + 1)
            ways = await page.eval("[...document.querySelectorAll('.ways button')].map(button => button.textContent)")
            found.append((ways, await page.text("#detail")))
        assert found[0][0] == ["Text", "Hex"]
        assert "nested deeper than 64" in found[0][1]
        assert found[1][0] == ["JSON", "Text", "Hex"]
        assert "nested" not in found[1][1]
        assert "The beginning is shown." in found[2][1]
        assert "The first 500 are shown." in found[3][1]
        assert "The first 19,999 of 40,000 characters are shown." in found[3][1]


@needs_capture
async def test_no_token_no_page(scene: Scene) -> None:
    """Without the link there is a sentence and nothing else; the link leaves no token in address, history, referrer."""
    scene.ask("GET /private")
    base, _, token = scene.url.partition("?token=")
    page = await scene.page(1)
    address = await page.eval("location.href")
    assert token not in address
    history = await page.call("Page.getNavigationHistory")
    assert token not in json.dumps([entry["url"] for entry in history["entries"]])
    assert await page.eval("document.referrer") == ""
    assert await page.eval("document.cookie") == ""
    await page.go(address)  # as reload and a second tab do
    await shows(page, 1)
    second = await scene.browser.page(address, context=page.context)
    await shows(second, 1)
    for url in (base, base + "?token=x", address, address + "app.js", address + "exchange/1"):
        stranger = await scene.browser.page(url)
        assert stranger.statuses[url] == 403
        text = await stranger.eval("document.documentElement.textContent")
        assert "opens by the link" in text
        assert "private" not in text


@needs_capture
async def test_other_sites_learn_nothing() -> None:
    """A page of another server of this host, and a name that was bent to this address, read and frame nothing."""
    got: list[str] = []

    class Evil(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            got.append(self.headers.get("Cookie", ""))
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>evil</title>")

        def log_message(self, *_: object) -> None:
            pass

    async with opened(flags=("--host-resolver-rules=MAP evil.example 127.0.0.1",)) as scene:
        scene.ask("GET /private")
        page = await scene.page(1)
        address = await page.eval("location.href")
        port = address.split(":")[2].partition("/")[0]
        with serving(ThreadingHTTPServer(("127.0.0.1", 0), Evil)) as evil:
            hostile = await scene.browser.page(f"http://127.0.0.1:{evil}/", context=page.context)
            tries = {
                "fetch": f"fetch('{address}exchange/1', {{credentials: 'include'}}).then(r => r.text())",
                "opaque": f"fetch('{address}exchange/1', {{mode: 'no-cors'}}).then(r => r.text())",
                "script": f"""new Promise(done => {{
                    const script = document.createElement('script');
                    script.onload = () => done('loaded'); script.onerror = () => done('');
                    script.src = '{address}app.js'; document.head.append(script);
                }})""",
                "events": f"""new Promise(done => {{
                    const events = new EventSource('{address}events', {{withCredentials: true}});
                    events.addEventListener('hello', () => done('heard')); events.onerror = () => done('');
                }})""",
                "frame": f"""new Promise(done => {{
                    const frame = document.createElement('iframe');
                    frame.onload = () => {{
                        try {{ done(frame.contentDocument.body.innerText); }} catch {{ done(''); }}
                    }};
                    frame.src = '{address}'; document.body.append(frame);
                }})""",
            }
            for name, code in tries.items():
                assert not await hostile.eval(f"{code}.catch(() => '')"), name
            assert not any("tcp_sniffer" in cookie for cookie in got)  # its cookie goes to no other port
            rebound = await scene.browser.page(f"http://evil.example:{port}/", context=page.context)
            assert "private" not in await rebound.eval("document.documentElement.textContent")
            assert rebound.statuses[f"http://evil.example:{port}/"] == 403


@needs_capture
async def test_ten_browsers(scene: Scene) -> None:
    """Ten at once see the same."""
    scene.ask("GET /first")
    pages = await asyncio.gather(*(scene.page(1) for _ in range(10)))
    scene.ask(*(f"GET /{number}" for number in range(20)))
    await asyncio.gather(*(shows(page, 21) for page in pages))
    for page in pages:
        assert (await paths(page))[-1] == "/19"
        assert page.errors == []


async def burst(port: int, first: int, count: int) -> None:
    """Makes exchanges at once, pipelined; their paths are numbers, and long, so that few fill what lies on the way."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in range(first, first + count, 100):
        asked = (b"GET /%d/%b HTTP/1.1\r\nHost: x\r\n\r\n" % (each, b"x" * 400) for each in range(number, number + 100))
        writer.write(b"".join(asked))
        await reader.readexactly(100 * len(OK))
    writer.close()
    await writer.wait_closed()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nok"


async def pipelining(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that answers every head that it reads."""
    while data := await reader.read(1 << 16):
        writer.write(OK * data.count(b"\r\n\r\n"))
    writer.close()


COUNTED = """
    window.received = 0;
    window.EventSource = class extends EventSource {
        constructor(...all) {
            super(...all);
            this.addEventListener("rows", event => { window.received += JSON.parse(event.data).length; });
        }
    };
"""
"""Counts the rows that a page receives."""


@needs_capture
async def test_a_frozen_browser() -> None:
    """A browser that is stopped loses the oldest rows, and says how many; neither capture nor others wait for it.

    How many rows the kernel takes for a browser that reads none depends on the machine (tcp_rmem) and on how fast it
    has read before. So there are more and more rows, until some are lost.
    """
    server = await asyncio.start_server(pipelining, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    count, step, most = 100, 2_000, 500_000

    def has(number: int) -> str:
        return f"{LINES}.some(line => line.querySelector('.rest').textContent.startsWith('/{number}/'))"

    async with server, chromium() as browser, chromium() as another:
        with Daemon("--ports", str(port), "--interface", "lo", "--ui") as daemon:
            url = daemon.log("live view")["url"]
            frozen, other = await browser.page(), await another.page(url)
            await frozen.call("Page.addScriptToEvaluateOnNewDocument", source=COUNTED)
            await frozen.go(url)
            await burst(port, 0, count)
            await shows(frozen, count)
            bursts = 7
            while (lost := count - await frozen.eval("window.received")) == 0:
                assert count < most, "what is on the way to a browser that is stopped has no bound"
                browser.freeze()
                for _ in range(bursts):
                    await burst(port, count, step)
                    count += step
                    await other.wait(has(count - 1))  # so the other one keeps up
                assert "skipped" not in await other.text("#facts")
                browser.thaw()
                await frozen.wait(has(count - 1))
                bursts *= 2
            await frozen.wait(
                f"document.querySelector('#facts').innerText.replace(/\\s+/g, ' ').includes('rows skipped {lost:,}')"
            )
            await shows(frozen, 10_000)
            # Who reads nothing for long is cut off, and comes again: on a slow machine Chromium has that to say.
            assert [error for error in frozen.errors if "ERR_INCOMPLETE_CHUNKED_ENCODING" not in error] == []
            assert daemon.stop() == 0
            lane = daemon.log("stopped")["lanes"]["ui"]
            assert lane["delivered"] == lane["offered"] == 2 * count


@needs_capture
async def test_what_is_lost_and_unread_is_shown(scene: Scene) -> None:
    """TLS on a captured port is counted on the page."""
    page = await scene.page(0)
    await page.wait("/Waiting for traffic|No HTTP.* yet/.test(document.querySelector('#empty').innerText)")
    with closing(socket.create_connection(("127.0.0.1", scene.port))) as client:
        client.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500))
        client.shutdown(socket.SHUT_WR)
        client.recv(1000)
    await page.wait("document.querySelector('#facts').innerText.includes('unread: TLS')")


async def test_the_page_says_that_it_gives_way() -> None:
    """While messages are left out because the page gives way it says so, with their number; then only the number."""
    yielded = 0
    async with serving_page() as served, chromium() as browser:
        sniffer: Any = served.server._sniffer
        sniffer.ledger.lane("ui", lambda: {"dropped_yielded": yielded})
        page = await browser.page(served.server.url)
        await page.wait("document.querySelector('#state').textContent === 'live'")
        assert await page.eval("document.querySelector('#notice').hidden")
        yielded = 1_234
        await page.wait("document.querySelector('#facts').innerText.replace(/\\s+/g, ' ').includes('not shown 1,234')")
        assert "so this page gives way" in await page.text("#notice")
        await page.wait("document.querySelector('#notice').hidden")
        assert page.errors == []


@needs_capture
async def test_har_of_what_is_filtered(scene: Scene, tmp_path: Path) -> None:
    """The download has the exchanges that the list shows, and no other."""
    scene.ask(*(f"GET /{name}" for name in ("one", "gone", "two", "broken", "gone", "three")))
    page = await scene.page(6)
    await scene.browser.call(
        "Browser.setDownloadBehavior", behavior="allow", browserContextId=page.context, downloadPath=str(tmp_path)
    )

    async def download() -> list[int]:
        await page.click("#har")
        # Chromium takes the name with an empty file first, and puts the whole one in its place.
        found = await until(
            lambda: [path for path in tmp_path.glob("*.har") if path.stat().st_size],
            "a HAR file",
            seconds=SECONDS,
            pause=0.02,
        )
        log = json.loads(found[0].read_text())["log"]
        found[0].unlink()
        return [entry["response"]["status"] for entry in log["entries"]]

    assert await download() == [200, 404, 200, 500, 404, 200]
    await page.click(".chip.s4")
    await page.click(".chip.s5")
    await shows(page, 3)
    assert await download() == [404, 500, 404]


@needs_capture
async def test_keys(scene: Scene) -> None:
    """Everything can be done without a mouse."""
    scene.ask(*(f"GET /{number}" for number in range(60)))
    page = await scene.page(60)

    async def selected(path: str) -> None:
        await page.wait(
            f"document.querySelector('.line[aria-selected=true]:not([hidden]) .rest')?.textContent === '{path}'"
            " && document.querySelector('#table').getAttribute('aria-activedescendant')"
            " === document.querySelector('.line[aria-selected=true]:not([hidden])').id"
        )

    assert await page.eval("document.activeElement.id") == "table"
    for key, path in (("ArrowUp", "/59"), ("ArrowUp", "/58"), ("Home", "/0"), ("ArrowDown", "/1"), ("End", "/59")):
        await page.press(key)
        await selected(path)
    await page.press("PageUp")
    await page.wait("!document.querySelector('.line[aria-selected=true] .rest')?.textContent.includes('59')")
    assert await page.eval("document.querySelector('#detail').hidden")
    await page.press("Home")
    await page.press("Enter")
    await page.wait("document.querySelector('#detail .start')?.textContent.includes('/0')")
    await page.press("ArrowDown")
    await page.wait("document.querySelector('#detail .start')?.textContent.includes('/1 ')")
    await page.press("Escape")
    assert await page.eval("document.querySelector('#detail').hidden")
    await page.press("/")
    assert await page.eval("document.activeElement.name") == "text"
    await page.type("/5")
    await shows(page, 11)
    await page.press("Enter")
    assert await page.eval("document.activeElement.id") == "table"
    await page.press("Enter")  # what was selected is hidden: the first that is shown opens in its place
    await page.wait("document.querySelector('#detail .start')?.textContent.includes('/5 ')")
    await page.press("Escape")
    await page.press("Escape")
    await shows(page, 60)
    await page.press("?")
    assert await page.eval("document.querySelector('#keys').open")
    await page.press("Escape")
    await page.wait("!document.querySelector('#keys').open")
    await page.press("p")
    assert await page.eval("document.querySelector('#pause').getAttribute('aria-pressed')") == "true"


async def test_what_a_screen_reader_is_told(tmp_path: Path) -> None:
    """The list is a grid with rows and headed columns, controls have names, and counts are said politely."""
    path = write(tmp_path / "a.pcap", connection([(get(f"/{number}"), ok()) for number in range(3)]))
    with Daemon("--ports", "8080", "--read", path, "--ui") as daemon:
        async with chromium() as browser:
            page = await browser.page(daemon.log("live view")["url"])
            await shows(page, 3)
            nodes = (await page.call("Accessibility.getFullAXTree"))["nodes"]
            found = [
                (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]
            ]
            roles = [role for role, _ in found]
            assert roles.count("grid") == 1
            assert roles.count("row") == 4
            assert roles.count("columnheader") == 10
            assert roles.count("gridcell") == 30
            named = {"button", "textbox", "searchbox", "combobox", "checkbox", "link", "grid", "img", "image", "search"}
            assert [(role, name) for role, name in found if role in named - {"search"} and not name.strip()] == []
            assert {"Text in rows, headers and bodies", "Method", "Path", "Host", "Latency", "Pause"} <= {
                name for _, name in found
            }
            await page.wait("document.querySelector('[aria-live=polite]').textContent === '3 exchanges'")
        assert daemon.stop() == 0


async def test_narrow_dark_and_still() -> None:
    """At phone width nothing sticks out and an exchange covers the page; colours and motion are as one prefers."""
    with Daemon("--ports", "8080", "--read", str(DEMO), "--ui") as daemon:
        async with chromium() as browser:
            page = await browser.page(daemon.log("live view")["url"])
            await shows(page, 7)
            light = await page.eval("getComputedStyle(document.body).backgroundColor")
            await page.media(prefers_color_scheme="dark", prefers_reduced_motion="reduce")
            assert await page.eval("getComputedStyle(document.body).backgroundColor") != light
            assert await page.eval("document.getAnimations().length") == 0
            for width in (320, 390, 700, 1000):
                await page.size(width, 700, mobile=width < 500)
                await page.eval("new Promise(requestAnimationFrame)")
                assert await page.eval("document.documentElement.scrollWidth") == width
                assert await page.eval("document.querySelector('.scroller').clientHeight") > 200
            await page.size(390, 700, mobile=True)
            await open_row(page, "/orders")
            place = await page.eval("JSON.stringify(document.querySelector('#detail').getBoundingClientRect())")
            assert (json.loads(place)["top"], json.loads(place)["height"]) == (0, 700)
            assert await page.eval("document.querySelector('#detail').scrollWidth") == 390
            await page.click("#detail .close")
            await page.wait("document.querySelector('#detail').hidden")
            assert page.errors == []
        assert daemon.stop() == 0


async def test_a_file(tmp_path: Path) -> None:
    """A file is shown whole, with what is missing; one without HTTP says so."""
    cut = ok(b"x" * 100)[:-50]
    path = write(tmp_path / "a.pcap", connection([(get("/whole"), ok()), (get("/cut"), cut)]))
    with Daemon("--ports", "8080", "--read", path, "--ui") as daemon:
        async with chromium() as browser:
            page = await browser.page(daemon.log("live view")["url"])
            await shows(page, 2)
            assert await page.text("#state") == "file read"
            assert "! response cut: closed" in (await page.texts(".line"))[1]
            await open_row(page, "/cut")
            assert "Incomplete (closed)" in await page.text("article:nth-child(2)")
            assert "50 bytes are missing" in await page.text("article:nth-child(2)")
        assert daemon.stop(signal.SIGINT) == 0
    with Daemon("--ports", "9", "--read", str(DEMO), "--ui") as daemon:
        async with chromium() as browser:
            page = await browser.page(daemon.log("live view")["url"])
            await page.wait("document.querySelector('#empty').innerText.includes('No HTTP exchange is in this file')")
        assert daemon.stop(signal.SIGINT) == 0


@needs_capture
async def test_the_end(scene: Scene) -> None:
    """When the daemon ends the page says so and stays; when it is killed the page says that nobody answers."""
    scene.ask("GET /one", "GET /two")
    page = await scene.page(2)
    await open_row(page, "/one")
    assert scene.daemon.stop() == 0
    await page.wait("document.querySelector('#state').textContent === 'ended'")
    assert await paths(page) == ["/one", "/two"]
    await page.press("ArrowDown")
    await page.wait("document.querySelector('#detail').innerText.includes('not kept any more')")
    await page.press("ArrowUp")
    await page.wait("document.querySelector('#detail .start')?.textContent.includes('/one')")


@needs_capture
async def test_the_daemon_is_killed_and_comes_again() -> None:
    """A page whose daemon is gone says so and tries again; another daemon at its place does not know it."""
    with shop() as port:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            place = probe.getsockname()[1]
        arguments = ("--ports", str(port), "--interface", "lo", "--ui", str(place))
        async with chromium() as browser:
            with Daemon(*arguments) as daemon:
                page = await browser.page(daemon.log("live view")["url"])
                await page.wait("document.querySelector('#state').textContent === 'live'")
                os.kill(daemon.process.pid, signal.SIGKILL)
                await page.wait("document.querySelector('#state').textContent === 'no answer'")
            with Daemon(*arguments) as daemon:
                daemon.log("live view")
                await page.wait("document.querySelector('#state').textContent === 'ended'")
                assert daemon.stop() == 0
