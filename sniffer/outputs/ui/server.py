"""The HTTP server of the live view: the page, a stream of events, single exchanges, HAR. All of it is read-only.

    GET /?token=TOKEN            sets a cookie in exchange for the token, and redirects to the page
    GET /RUN/                    the page; /RUN/app.js and the other files of PAGE
    GET /RUN/events?after=N      server-sent events: `hello`, `rows`, `stats`, `end`
    GET /RUN/exchange/N          the messages of an exchange
    GET /RUN/search?text=T&after=N   numbers of the exchanges after N that contain each word of T, or for which
                                 T holds if it is an expression (docs/FILTERS.md)
    GET /RUN/har?first=N&bits=B  exchanges as HAR: those from N on whose bits are set (base64url), or all

RUN is a random word. A browser sends a cookie to every port of a host, but only below the cookie's path; with RUN as
the path no other server of the host receives it. Each browser reads rows from the store at its own pace. It misses rows
that the store drops before it has read them, and notices that by their numbers. So a slow browser costs no more than
a fast one.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from importlib.resources import files
from ipaddress import ip_address
from pathlib import PurePath
from typing import Any, Final

import msgspec
from aiohttp import web

from sniffer import __version__
from sniffer.companion import Watched
from sniffer.errors import SnifferError
from sniffer.har import entry_of
from sniffer.ledger import losses
from sniffer.outputs.ui.store import BINS, MOST_ROWS, LiveSink, Messages
from sniffer.serving import MOST_CONNECTIONS, WRITE_SECONDS, HttpServer, bind

MOST_BROWSERS: Final = 32
"""Browsers that may listen to events at the same time."""
MOST_DOWNLOADS: Final = 2
BATCH_ROWS: Final = 500
"""Rows in one event, at the most."""
SEARCH_ROWS: Final = 100
"""Exchanges that are searched before other tasks of the loop run."""
JUDGED_ROWS: Final = 5
"""Exchanges that an expression is asked about before other tasks of the loop run."""
PACE_SECONDS: Final = 0.05
"""Least time between two events of rows to one browser."""
STATS_SECONDS: Final = 1.0
CLOSE_SECONDS: Final = 2.0
PART_BYTES: Final = 1 << 16
SEND_BUFFER: Final = 1 << 17
"""Send buffer of the kernel for each connection. A small one makes a slow browser block early."""

COOKIE: Final = "tcp_sniffer_view"
PAGE: Final = (
    "index.html",
    "style.css",
    "icon.svg",
    "app.js",
    "table.js",
    "search.js",
    "detail.js",
    "body.js",
    "plot.js",
    "text.js",
)
TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Server": "tcp-sniffer",
}
FORBIDDEN: Final = (
    "This is the live view of tcp-sniffer. It opens by the link that tcp-sniffer wrote to its log when it started,\n"
    "the one that ends in ?token=... Copy all of it into the address bar.\n"
)

_encode = msgspec.json.Encoder().encode


class Server:
    """Serves the page of one run. Belongs to the loop."""

    def __init__(
        self,
        sink: LiveSink,
        *,
        address: str,
        port: int,
        ports: Sequence[int],
        live: bool,
        write_seconds: float = WRITE_SECONDS,
    ) -> None:
        """Listens on `port` of `address`. Port 0 is a free one that is none of the captured `ports`."""
        self._sink = sink
        self._store = sink.store
        self._address = address
        self._port = port
        self._ports = ports
        self._live = live
        self._token = secrets.token_urlsafe(24)
        self._session = secrets.token_urlsafe(32)
        self._run = secrets.token_urlsafe(12)
        self._sniffer: Watched | None = None
        self._page = {name: (files(__package__) / "page" / name).read_bytes() for name in PAGE}
        self._browsers: set[asyncio.Event] = set()
        self._alone = asyncio.Event()
        self._downloads = 0
        self._ending = False
        self._stats = b""
        self._ticker: asyncio.Task[None] | None = None
        self._is_open = False
        app = web.Application(middlewares=[self._guard])
        app.on_response_prepare.append(_add_headers)
        app.router.add_get("/", self._enter, allow_head=False)
        app.router.add_get(f"/{self._run}/{{name:[a-z.]*}}", self._file, allow_head=False)
        app.router.add_get(f"/{self._run}/events", self._events, allow_head=False)
        app.router.add_get(f"/{self._run}/har", self._har, allow_head=False)
        app.router.add_get(f"/{self._run}/search", self._search, allow_head=False)
        app.router.add_get(f"/{self._run}/exchange/{{number:[0-9]{{1,15}}}}", self._exchange, allow_head=False)
        self._http = HttpServer(app, name="ui", headers=HEADERS, most=MOST_CONNECTIONS, write_seconds=write_seconds)

    @property
    def url(self) -> str:
        """The link that opens the page. Everybody who has it can see the traffic."""
        host = f"[{self._address}]" if ":" in self._address else self._address
        return f"http://{host}:{self._port}/?token={self._token}"

    @property
    def browsers(self) -> int:
        """The number of browsers that listen to events."""
        return len(self._browsers)

    async def open(self, sniffer: Watched) -> None:
        """Starts to serve. SnifferError if it cannot listen on the address."""
        self._sniffer = sniffer
        try:
            listening = bind(self._address, self._port, avoid=self._ports, send_buffer=SEND_BUFFER)
            self._port = listening.getsockname()[1]
            await self._http.open(listening)
        except OSError as error:
            raise SnifferError(
                f"ui_address: cannot listen on {self._address} port {self._port}: {error.strerror}"
            ) from error
        self._is_open = True
        self._sink.listeners.add(self._wake)

    def say_last(self) -> None:
        """Logs the counts of clients' errors for the last time. Serving goes on until `close()`."""
        self._http.said.end()

    async def close(self) -> None:
        """Sends the last rows to each browser, for a bounded time, and ends."""
        if not self._is_open:
            return
        self._http.stop_listening()
        self._ending = True
        self._alone.clear()
        self._stats = _event("stats", self._facts())
        self._wake()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS if self._browsers else 0):
                await self._alone.wait()
        self._sink.listeners.discard(self._wake)
        if self._ticker is not None:
            self._ticker.cancel()
        await self._http.close()

    # Who may

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if not _is_ours(request.headers.getall("Host", [])):
            return web.Response(status=403, text="Open this page by an IP address or as localhost.\n")
        origin = request.headers.get("Origin")
        if origin is not None and origin not in (f"{scheme}://{request.host}" for scheme in ("http", "https")):
            return web.Response(status=403, text="Another site may not read this.\n")
        if request.method != "GET":
            return web.Response(status=405, text="GET is all there is.\n", headers={"Allow": "GET"})
        if request.path != "/" and not _same(request.cookies.get(COOKIE, ""), self._session):
            return web.Response(status=403, text=FORBIDDEN)
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return web.Response(status=404, text="Nothing is here.\n")

    async def _enter(self, request: web.Request) -> web.StreamResponse:
        if not _same(request.query.get("token", ""), self._token):
            return web.Response(status=403, text=FORBIDDEN)
        place = f"/{self._run}/"
        response = web.Response(status=303, headers={"Location": place})
        response.set_cookie(COOKIE, self._session, path=place, httponly=True, samesite="Strict")
        return response

    # What is there

    async def _file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"] or "index.html"
        if name not in self._page:
            raise web.HTTPNotFound
        return web.Response(body=self._page[name], headers={"Content-Type": TYPES[PurePath(name).suffix]})

    async def _exchange(self, request: web.Request) -> web.StreamResponse:
        messages = self._store.messages(int(request.match_info["number"]))
        if messages is None:
            return web.Response(status=404, text="It is not kept any more.\n")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await self._send(response, _both(messages))
        return response

    async def _search(self, request: web.Request) -> web.StreamResponse:
        text = request.query.get("text", "")
        from sniffer.expressions.language import ExpressionError, is_meant  # not needed before somebody searches

        meant = is_meant(text)
        try:
            holds = self._store.judged(text) if meant else self._store.searched(text.lower().split())
        except ExpressionError as error:
            body = _encode({"numbers": [], "last": self._store.next - 1, "expression": True, "error": str(error)})
            return web.Response(body=body, headers={"Content-Type": "application/json"})
        number, end = max(_number(request.query.get("after")) + 1, self._store.first), self._store.next
        found = []
        if not text.strip():
            number = end
        most = JUDGED_ROWS if meant else SEARCH_ROWS
        while number < end and request.transport is not None:  # without a transport the client has gone
            number = max(number, self._store.first)
            slice_end = min(number + most, end)
            found += [each for each in range(number, slice_end) if holds(each)]
            number = slice_end
            await asyncio.sleep(0)
        body = _encode({"numbers": found, "last": end - 1, "expression": meant})
        return web.Response(body=body, headers={"Content-Type": "application/json"})

    async def _har(self, request: web.Request) -> web.StreamResponse:
        try:
            numbers = _numbers(request.query, self._store.first, self._store.next)
        except ValueError:
            return web.Response(status=400, text="`first` is a number, `bits` base64url.\n")
        if self._downloads >= MOST_DOWNLOADS:
            return web.Response(status=503, text="Others are downloading; try again in a moment.\n")
        name = time.strftime("tcp-sniffer-%Y%m%d-%H%M%S.har")
        response = web.StreamResponse(
            headers={"Content-Type": "application/json", "Content-Disposition": f'attachment; filename="{name}"'}
        )
        self._downloads += 1
        try:
            await response.prepare(request)
            await self._send(response, self._har_parts(numbers))
        finally:
            self._downloads -= 1
        return response

    def _har_parts(self, numbers: Iterator[int]) -> Iterator[bytes]:
        creator = {"name": "TCP Sniffer", "version": __version__}
        yield b'{"log":{"version":"1.2","creator":' + _encode(creator) + b',"entries":[\n'
        separator, missing = b"", 0
        for exchange in self._sink.exchanges(numbers):
            if exchange is None:
                missing += 1
                continue
            yield separator + _encode(entry_of(exchange, lossy=self._sink.lossy()))
            separator = b",\n"
        comment = f"{missing} exchanges are left out: their messages were not kept any more"
        yield b"\n]" + (b',"comment":' + _encode(comment) if missing else b"") + b"}}\n"

    # Events

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if len(self._browsers) >= MOST_BROWSERS:
            return web.Response(status=503, text="Too many browsers show this page.\n")
        news = asyncio.Event()
        self._browsers.add(news)
        try:
            after = max(_number(request.query.get("after")), _number(request.headers.get("Last-Event-ID")))
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            if self._ticker is None or self._ticker.done():
                self._stats = _event("stats", self._facts())
                self._ticker = asyncio.create_task(self._tick())
            with contextlib.suppress(OSError):  # the browser has closed the connection, or was too slow
                await self._follow(response, after + 1, news)
        finally:
            self._browsers.discard(news)
            if not self._browsers:
                self._alone.set()
        return response

    async def _follow(self, response: web.StreamResponse, number: int, news: asyncio.Event) -> None:
        """Writes events until the run ends. OSError when the browser has gone."""
        written = self._stats
        parts = [_event("hello", self._hello()), written]
        while True:
            ending = self._ending
            news.clear()
            number = max(number, self._store.first)
            rows = self._store.rows(number, BATCH_ROWS)
            number += len(rows)
            if rows:
                parts.append(b"id: %d\nevent: rows\ndata: [" % (number - 1) + b",".join(rows) + b"]\n\n")
            if written is not self._stats:
                written = self._stats
                parts.append(written)
            if ending and not rows:
                parts.append(_event("end", {"file": not self._live}))
            await response.write(b"".join(parts))
            parts = []
            if ending and not rows:
                return
            if len(rows) < BATCH_ROWS:
                await asyncio.sleep(0 if ending else PACE_SECONDS)
                await news.wait()

    def _wake(self) -> None:
        for news in self._browsers:
            news.set()

    async def _tick(self) -> None:
        """Makes the `stats` event every second while a browser listens."""
        while self._browsers:
            await asyncio.sleep(STATS_SECONDS)
            self._stats = _event("stats", self._facts())
            self._wake()

    def _hello(self) -> dict[str, Any]:
        """The content of `hello`, the first event."""
        plot = self._sink.plot
        return {
            "version": __version__,
            "live": self._live,
            "ports": list(self._ports),
            "most": MOST_ROWS,
            "bins": BINS,
            "width": plot.width,
            "plot": plot.points(),
            "next": self._store.next,
        }

    def _facts(self) -> dict[str, Any]:
        """The content of `stats`."""
        sniffer, store, plot = self._sniffer, self._store, self._sink.plot
        assert sniffer is not None  # noqa: S101 - it is open
        snapshot = sniffer.ledger.snapshot()
        changed = plot.changed()
        return {
            "where": sniffer.where,
            "state": self._state(sniffer),
            "now": int(time.time()),
            "exchanges": store.next - 1,
            "first": store.first,
            "firstWhole": store.first_whole,
            "connections": snapshot["flows"],
            "packets": snapshot["packets_seen"],
            "drops": losses(snapshot),
            "notShown": snapshot["lanes"].get(self._sink.name, {}).get("dropped_yielded", 0),
            "unread": {
                "TLS": snapshot["flows_tls"],
                "HTTP/2": snapshot["flows_http2"],
                "other protocols": snapshot["flows_other_protocol"] + snapshot["flows_undecided"],
                "tunnels": snapshot["flows_tunnel"],
            },
            "progress": sniffer.progress(),
            "width": plot.width,
            "plot": changed,
        }

    def _state(self, sniffer: Watched) -> str:
        if sniffer.held:
            return "failed"
        if self._ending:
            return "ended"
        if not self._live:
            return "reading" if sniffer.is_running() else "read"
        if sniffer.is_running():
            return "live"
        return "stopping" if sniffer.began else "starting"

    # Writing

    async def _send(self, response: web.StreamResponse, parts: Iterable[bytes]) -> None:
        """Writes parts as they are made, and lets other tasks run in between."""
        waiting = bytearray()
        with contextlib.suppress(OSError):  # the browser is gone, or was cut off
            for part in parts:
                waiting += part
                while len(waiting) >= PART_BYTES:
                    await response.write(bytes(waiting[:PART_BYTES]))
                    del waiting[:PART_BYTES]
                    await asyncio.sleep(0)
            await response.write(bytes(waiting))
            await response.write_eof()


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


def _same(given: str, secret: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "surrogateescape"), secret.encode())


def _is_ours(hosts: Sequence[str]) -> bool:
    """Whether a request was meant for us: its Host is an address or localhost, names that no one else can give us.

    The port may be another one: that of `ssh -L` or `kubectl port-forward`.
    """
    host = (
        re.fullmatch(r"(?:\[([\da-fA-F:.]+)\]|([\w.-]+))(?::\d{1,5})?", hosts[0], re.ASCII) if len(hosts) == 1 else None
    )
    if host is None:
        return False
    name = host[1] or host[2].lower()
    try:
        return name == "localhost" or bool(ip_address(name))
    except ValueError:
        return False


def _number(text: str | None) -> int:
    return int(text) if text is not None and re.fullmatch("[0-9]{1,15}", text) else 0


def _numbers(query: Any, first: int, end: int) -> Iterator[int]:
    """The numbers of exchanges that a query asks for, of those from `first` to before `end`. ValueError."""
    if "bits" not in query:
        return iter(range(first, end))
    begin = int(query.get("first", "0"))
    text = query["bits"]
    try:
        bits = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("no base64url") from error
    return (begin + at for at in range(len(bits) * 8) if bits[at // 8] >> (at % 8) & 1)


def _event(name: str, data: object) -> bytes:
    return b"event: %s\ndata: " % name.encode() + _encode(data) + b"\n\n"


def _both(messages: Messages) -> Iterator[bytes]:
    yield b'{"request":'
    yield messages.request or b"null"
    yield b',"response":'
    yield messages.response or b"null"
    yield b"}"
