"""sniffer.outputs.ui without a browser: what is kept, who may read it, and the daemon around it.

tests/live/test_ui.py has the page itself, in Chromium.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import math
import re
import signal
import socket
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientResponse, ClientSession, CookieJar
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from sniffer.errors import SnifferError
from sniffer.exchanges import Exchange, Pair
from sniffer.har import entry_of
from sniffer.ledger import Ledger
from sniffer.outputs.ui import server as module
from sniffer.outputs.ui.server import COOKIE, FORBIDDEN, HEADERS, PAGE, Server, _is_ours
from sniffer.outputs.ui.store import BINS, LONG, MOST_ROWS, SHARES, STATUSES, LiveSink, Plot, Store
from sniffer.record.message import Fields
from tests.captures import connection, exchanges, get, ok, write
from tests.daemon import DEMO, ROOT, Daemon, free_port
from tests.deliveries import Sent, answer, joined, message
from tests.packets import pcap
from tests.waiting import BOUND, until

FILES = ROOT / "sniffer" / "outputs" / "ui" / "page"


def changed(record: Sent, **changes: Any) -> Sent:
    """A record with other fields."""
    return msgspec.structs.replace(record, **changes)


def filled(store: Store, count: int, body: str | None = None) -> Store:
    """A store to which so many exchanges were added."""
    for number in range(count):
        store.add(Pair(message(number), answer(number, body=body)))
    return store


def rows(store: Store) -> list[list[Any]]:
    """All of its rows."""
    return [json.loads(row) for row in store.rows(0, 1 << 30)]


# What is kept


def test_row() -> None:
    """A row has what the list shows of an exchange, in the order of page/table.js."""
    store = Store(max_bytes=1 << 20)
    fields = Fields({"content-type": "application/json; charset=utf-8"})
    times: dict[str, Any] = {"latency_ms": 1.5, "duration_ms": 4.25, "end_timestamp": "2026-01-02T03:04:05.004256Z"}
    response = changed(answer(3, body="abc"), headers=fields, incomplete="gap", **times)
    store.add(Pair(message(3, body="ab"), response))
    microseconds = 1_767_323_045_000_006
    ends = ["192.0.2.2:40000", "192.0.2.1:8080"]
    assert rows(store) == [
        [
            1,
            microseconds,
            "GET",
            "shop.example",
            "/0/3",
            200,
            1.5,
            4.25,
            microseconds + 4250,
            2,
            3,
            *ends,
            "application/json",
            ["response cut: gap"],
        ]
    ]
    places = re.search(r"export const ([^;]+);", (FILES / "table.js").read_text())
    assert places is not None
    assert len(rows(store)[0]) == len(re.findall(r"= \d+", places[1])) - 2  # of which two are the page's own


def test_rows_of_what_is_alone() -> None:
    """A request without response and a response without request are rows, and say so."""
    store = Store(max_bytes=1 << 20)
    store.add(Pair(message(), None))
    store.add(Pair(None, answer(alone=True)))
    store.add(Pair(message(), None), lossy=True)
    assert [row[14] for row in rows(store)] == [["no response"], ["no request"], ["response dropped?"]]
    assert [(row[2], row[5], row[9], row[10]) for row in rows(store)][:2] == [
        ("GET", None, 0, None),
        ("?", 200, None, 0),
    ]


def test_long_texts_are_cut_in_rows() -> None:
    """No text of a row is long, whatever was sent; the messages have all of it."""
    store = Store(max_bytes=1 << 20)
    long = "x" * 50_000
    fields = Fields({"host": long, "content-type": long})
    request = changed(message(), path="/" + long, method=long, headers=fields, authority=long)
    store.add(Pair(request, changed(answer(), headers=fields)))
    (row,) = store.rows(1, 1)
    assert len(row) < LONG + 3 * 100 + 300
    kept = store.messages(1)
    assert kept is not None
    assert long in str(kept.request)


def test_the_newest_are_kept() -> None:
    """Beyond 10,000 exchanges the oldest are forgotten; the numbers tell how many that were."""
    store = filled(Store(max_bytes=1 << 30), MOST_ROWS + 5)
    assert (store.first, store.first_whole, store.next) == (6, 6, MOST_ROWS + 6)
    assert [row[0] for row in rows(store)] == list(range(6, MOST_ROWS + 6))
    assert store.messages(5) is None
    assert store.messages(6) is not None


def test_messages_are_forgotten_before_rows() -> None:
    """Where the bytes do not suffice, the oldest headers and bodies go first; rows only where that is not enough."""
    store = filled(Store(max_bytes=1 << 20), 1000, body="x" * 10_000)
    assert (store.first, store.next) == (1, 1001)
    assert 900 < store.first_whole < 1000
    assert store.messages(store.first_whole) is not None
    assert store.messages(store.first_whole - 1) is None
    assert store.size <= 1 << 20
    filled(store, 3000)
    assert store.first > 1
    assert store.size <= 1 << 20


@given(st.lists(st.tuples(st.integers(0, 3), st.text(max_size=3000)), max_size=60), st.integers(2_000, 100_000))
def test_size_is_what_is_kept(added: list[tuple[int, str]], most: int) -> None:
    """The size is the sum of what is there, never beyond the bound, and what is kept is an unbroken run of numbers."""
    store = Store(max_bytes=most, max_rows=5)
    for kind, text in added:
        request = None if kind == 0 else message(body=text)
        store.add(Pair(request, answer(body=text) if kind != 1 else None))
        found = [row[0] for row in rows(store)]
        assert found == list(range(store.first, store.next))
        assert len(found) <= 5
        assert store.first <= store.first_whole <= store.next
        whole = [number for number in found if store.messages(number) is not None]
        assert whole == list(range(store.first_whole, store.next))
        sizes = [len(row) + 400 for row in store.rows(0, 100)]
        kept = [store.messages(number) for number in whole]
        assert store.size == sum(sizes) + sum(each.size for each in kept if each is not None)
        assert store.size <= most


@pytest.mark.slow
def test_memory_is_what_is_counted() -> None:
    """Python's own objects are in the count: what a full store takes is no more than its bound."""
    most = 4 << 20
    tracemalloc.start()
    try:
        store = filled(Store(max_bytes=most), 12_000)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert store.first_whole > 1
    assert taken <= most


@pytest.mark.parametrize("text", ["x" * 2_000_000, "\x01" * 300_000])
def test_a_body_too_long_is_left_out(text: str) -> None:
    """A message that would take more than an eighth, in JSON, is kept without its body, and says that it was cut."""
    store = Store(max_bytes=8 << 20)
    store.add(Pair(message(), answer(body=text)))
    assert store.size < 10_000
    kept = store.messages(1)
    assert kept is not None
    response = kept.exchange().response
    assert response is not None
    assert (response.body, response.body_truncated, response.body_size) == (None, True, len(text))


def test_messages_come_back() -> None:
    """What is kept is the record itself: HAR made from it is that of the message."""
    store = Store(max_bytes=1 << 20)
    fields = Fields({"set-cookie": ("[REDACTED]", "[REDACTED]"), "x": "y"})
    pair = message(body="q"), changed(answer(body="r"), headers=fields, trailers=Fields({"t": "v"}), latency_ms=2.5)
    store.add(Pair(*pair))
    kept = store.messages(1)
    assert kept is not None
    assert kept.request == pair[0].to_json()
    assert entry_of(kept.exchange()) == entry_of(Exchange(*pair))


# The plot


def at(second: int, *, status: int = 200, latency: float | None = 1.0) -> Exchange:
    """An exchange that ended in this second."""
    stamp = f"2026-01-02T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}.000001Z"
    return Exchange(message(), changed(answer(), timestamp=stamp, status_code=status, latency_ms=latency))


def test_plot_of_a_live_capture() -> None:
    """Steps are seconds by the clock, whatever the packets say; the last 300 are kept, and each change is told once."""
    now = 1000.0
    plot = Plot(live=True, clock=lambda: now)
    for status in (200, 204, 404, 503, 101, 302):
        plot.add(at(5, status=status))
    plot.add(Exchange(message(), None))
    assert [point[: 1 + STATUSES] for point in plot.points()] == [[1000, 1, 1, 2, 1, 1, 1]]
    assert plot.changed() == plot.points()
    assert plot.changed() == []
    now = 1000.0 + BINS - 1
    plot.add(at(5))
    assert [point[0] for point in plot.points()] == [1000, 1299]
    now += 1
    plot.add(at(5))
    assert [point[0] for point in plot.points()] == [1299, 1300]
    now = 900.0  # the clock was set back
    plot.add(at(5))
    assert [point[0] for point in plot.points()] == [1299, 1300]


@given(st.lists(st.integers(0, 80_000), min_size=1, max_size=50))
def test_plot_of_a_file(seconds: list[int]) -> None:
    """However long a file lasts all of it is in the plot: steps get wider, and nothing is lost or counted twice."""
    plot = Plot(live=False)
    for second in seconds:
        plot.add(at(second))
    start = 1_767_312_000
    points = {int(point[0] or 0): point[3] for point in plot.points()}
    assert points == Counter((start + second) // plot.width * plot.width for second in seconds)
    assert (max(points) - min(points)) / plot.width < BINS
    assert plot.width == 1 or max(seconds) - min(seconds) >= BINS * plot.width // 2 - 1
    told = {int(point[0] or 0): point[3] for point in plot.changed()}
    assert told == points


@given(st.lists(st.floats(0.02, 900_000), min_size=1, max_size=200))
def test_percentiles(latencies: list[float]) -> None:
    """Percentiles are the nearest rank's latency, within six percent."""
    plot = Plot(live=True, clock=lambda: 1.0)
    for latency in latencies:
        plot.add(at(1, latency=latency))
    (point,) = plot.points()
    ordered = sorted(latencies)
    for share, found in zip(SHARES, point[1 + STATUSES :], strict=True):
        exact = ordered[math.ceil(share * len(ordered)) - 1]
        assert found == pytest.approx(exact, rel=0.06)


def test_odd_latencies_and_statuses() -> None:
    """No latency is none; the least, the longest and a status of no class are counted somewhere."""
    plot = Plot(live=True, clock=lambda: 1.0)
    plot.add(at(1, latency=None))
    assert plot.points()[0][1 + STATUSES :] == [None] * 3
    for latency, status in ((0.0, 999), (1e12, 600)):
        plot.add(at(1, latency=latency, status=status))
    assert sum(number or 0 for number in plot.points()[0][1 : 1 + STATUSES]) == 3


# The server


class Watched:
    """A sniffer as the page sees it."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.where = "lo"
        self.held = False
        self.began = True
        self.running = True

    def is_running(self) -> bool:
        return self.running

    def progress(self) -> tuple[int, int] | None:
        return None


class Served:
    """A server with its sink, and a client that may read it."""

    def __init__(self, sink: LiveSink, server: Server, session: ClientSession) -> None:
        self.sink, self.server, self.session = sink, server, session
        self.place = URL()
        """Where the page is."""

    @property
    def base(self) -> URL:
        return URL(self.server.url).origin()

    async def deliver(self, *pairs: tuple[Sent | None, Sent | None]) -> None:
        """Delivers exchanges as their lane would."""
        await self.sink.deliver(joined(*(Pair(*pair) for pair in pairs)))

    async def many(self, count: int, *, body: str | None = None) -> None:
        """Delivers so many."""
        for first in range(0, count, 250):
            numbers = range(first, min(first + 250, count))
            await self.deliver(*((message(number), answer(number, body=body)) for number in numbers))
            await asyncio.sleep(0)

    async def get(self, path: str, **rest: Any) -> tuple[ClientResponse, str]:
        """An answer of the place, whole."""
        async with self.session.get(
            self.place.joinpath(path, encoded=True) if path else self.place, **rest
        ) as response:
            return response, await response.text()

    async def events(self, count: int, **rest: Any) -> list[tuple[str, Any]]:
        """The first events of a stream."""
        async with asyncio.timeout(BOUND), self.session.get(self.place / "events", **rest) as response:
            assert response.status == 200
            return [event async for event in stream(response, count)]


async def stream(response: ClientResponse, count: int) -> AsyncIterator[tuple[str, Any]]:
    """So many events of an answer."""
    while count and (block := await response.content.readuntil(b"\n\n")):
        lines = dict(line.split(": ", 1) for line in block.decode().splitlines() if line)
        yield lines["event"], json.loads(lines["data"])
        count -= 1


@contextlib.asynccontextmanager
async def serving(*, max_bytes: int = 1 << 24, **options: Any) -> AsyncIterator[Served]:
    """A server on loopback whose client has traded the token."""
    sink = LiveSink(max_bytes=max_bytes, live=True)
    server = Server(sink, **{"address": "127.0.0.1", "port": 0, "ports": [8080], "live": True, **options})
    await server.open(Watched())
    async with ClientSession(cookie_jar=CookieJar(unsafe=True), read_bufsize=1 << 22) as session:
        served = Served(sink, server, session)
        try:
            async with session.get(server.url) as response:
                assert response.status == 200
                served.place = response.url
            yield served
        finally:
            await server.close()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """One with nothing special."""
    async with serving() as made:
        yield made


async def test_the_token_is_traded_for_a_cookie(served: Served) -> None:
    """The link leads away from the token, with a cookie that scripts, other sites and other servers do not get."""
    async with ClientSession() as fresh, fresh.get(served.server.url, allow_redirects=False) as response:
        assert response.status == 303
        place = response.headers["Location"]
        assert re.fullmatch(r"/[\w-]{16}/", place)
        (cookie,) = response.headers.getall("Set-Cookie")
        value, *attributes = cookie.split("; ")
        assert set(attributes) == {"HttpOnly", "SameSite=Strict", f"Path={place}"}
        assert value.startswith(f"{COOKIE}=")
        token = URL(served.server.url).query["token"]
        assert len(token) == 32
        assert token not in value
        assert token not in place
        assert not await response.read()


@pytest.mark.parametrize("path", ["", *PAGE, "events", "exchange/1", "har", "search?text=x", "nothing"])
async def test_no_cookie_no_page(served: Served, path: str) -> None:
    """Without the cookie, or with another, every path is forbidden and says nothing of what there is."""
    await served.many(1)
    for cookies in ({}, {COOKIE: "x"}, {COOKIE: "ü"}, {"other": "x"}):
        jar = CookieJar(unsafe=True)
        url = str(served.place) + path
        async with ClientSession(cookies=cookies, cookie_jar=jar) as fresh, fresh.get(url) as response:
            assert response.status == 403
            assert await response.text() == FORBIDDEN


@pytest.mark.parametrize("query", ["", "?token=", "?token=x", "?token=%ff%fe", "?token=ü", "?Token=x"])
async def test_no_token_no_cookie(served: Served, query: str) -> None:
    """A link without the token gets nothing."""
    async with ClientSession() as fresh, fresh.get(f"{served.base}/{query}", allow_redirects=False) as response:
        assert response.status == 403
        assert "Set-Cookie" not in response.headers


async def test_secrets_are_compared_in_constant_time(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Token and cookie are compared by compare_digest, and by nothing else."""
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return False

    monkeypatch.setattr(module.secrets, "compare_digest", compare)
    token = URL(served.server.url).query["token"].encode()
    async with served.session.get(served.server.url, allow_redirects=False) as response:
        assert response.status == 403
    assert compared == [(token, token)]
    assert (await served.get("exchange/1"))[0].status == 403
    assert len(compared) == 2


OURS = ["localhost", "localhost:1", "127.0.0.1:8090", "10.1.2.3", "[::1]:8090", "[::1]", "LOCALHOST:80"]
NOT_OURS = [
    *("", "evil.example", "evil.example:8090", "localhost.evil.example", "127.0.0.1.evil.example", "localhost:x@evil"),
    *("evil.example#127.0.0.1", "127.0.0.1, evil.example", "[::1", "[::1]evil", "0x7f.1", "localhost ", "127.0.0.1/x"),
]


def test_hosts() -> None:
    """A Host is an address or localhost, with any port; a name that others may give us is none, nor are two."""
    assert [host for host in OURS if not _is_ours([host])] == []
    assert [host for host in NOT_OURS if _is_ours([host])] == []
    assert not _is_ours([])
    assert not _is_ours(["localhost", "localhost"])


async def test_dns_rebinding_is_refused(served: Served) -> None:
    """A page of another name that resolves to this address reads nothing, cookie or not."""
    for host in ("evil.example", f"evil.example:{served.base.port}"):
        response, text = await served.get("exchange/1", headers={"Host": host})
        assert (response.status, "Open this page" in text) == (403, True)
    response, _ = await served.get("", headers={"Host": "localhost:9000"})
    assert response.status == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "file://", ""])
async def test_other_origins_are_refused(served: Served, origin: str) -> None:
    """A request from a page of another site, or of another port, is refused; from this one it is not."""
    response, text = await served.get("har", headers={"Origin": origin})
    assert (response.status, "Another site" in text) == (403, True)
    assert (await served.get("har", headers={"Origin": str(served.base)}))[0].status == 200


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
async def test_only_get(served: Served, method: str) -> None:
    """There is no request but GET: nothing changes state."""
    async with served.session.request(method, served.place / "exchange/1") as response:
        assert (response.status, response.headers["Allow"]) == (405, "GET")


async def test_headers_of_every_answer(served: Served) -> None:
    """The policy stands on all answers: pages, streams, refusals, redirects."""
    await served.many(1)
    answers = [
        (await served.get(path))[0] for path in ("", "app.js", "exchange/1", "exchange/9", "har", "x", "har?bits=!")
    ]
    answers.append((await served.get("", headers={"Host": "evil.example"}))[0])
    answers.append((await served.get("", headers={"Origin": "null"}))[0])
    async with ClientSession() as fresh:
        for url in (served.server.url, served.base):
            async with fresh.get(url, allow_redirects=False) as response:
                answers.append(response)
    async with served.session.get(served.place / "events") as response:
        answers.append(response)
    assert [response.status for response in answers] == [200, 200, 200, 404, 200, 404, 400, 403, 403, 303, 403, 200]
    for response in answers:
        assert {name: response.headers[name] for name in HEADERS} == HEADERS
    policy = HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert {"default-src 'none'", "frame-ancestors 'none'", "script-src 'self'"} <= set(
        map(str.strip, policy.split(";"))
    )


@pytest.mark.parametrize(
    "path",
    [
        *(
            "../ui/server.py",
            "..%2fserver.py",
            "%2e%2e/server.py",
            "..%5cserver.py",
            "/etc/passwd",
            "app.js/",
            "app.js%00",
        ),
        *(
            "exchange/",
            "exchange/-1",
            "exchange/1/",
            "exchange/" + "9" * 400,
            "exchange/%31x",
            "page/app.js",
            "other.js",
            "__init__.py",
        ),
    ],
)
async def test_nothing_else_is_there(served: Served, path: str) -> None:
    """Paths that lead elsewhere lead nowhere."""
    await served.many(1)
    url = URL(str(served.place) + path, encoded=True)
    async with ClientSession() as fresh:
        cookie = {"Cookie": served.session.cookie_jar.filter_cookies(served.place).output(header="", sep=";").strip()}
        async with fresh.get(url, headers=cookie) as response:
            assert response.status in (403, 404)  # 403 where the client has left the place of the cookie


async def test_the_page(served: Served) -> None:
    """Each file of the page is served, under its type."""
    for name in PAGE:
        response, text = await served.get(name)
        kind = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "html": "text/html"}
        assert response.content_type == kind[name.rpartition(".")[2]]
        assert text == (FILES / name).read_text()
    assert {path.name for path in FILES.iterdir()} == set(PAGE)


def test_the_page_makes_no_html_of_texts_and_names_no_other_place() -> None:
    """No file of the page has a way to run or to parse text, or an address of somewhere else."""
    for path in FILES.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.findall(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|DOMParser", text
        )
        assert not re.findall(r"createContextualFragment|srcdoc|javascript:|setTimeout\(\s*[\"'`]|\son\w+=", text)
        assert re.findall(r"https?://(?!\$)[\w.]+", text) == [], path
        assert path.suffix != ".css" or not re.search(r"@import|url\(", text)


# Events


async def test_events(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser is told who we are, how it stands, the rows that are kept, and then at once those that come."""
    monkeypatch.setattr(module, "STATS_SECONDS", 3600.0)
    await served.many(3)
    async with asyncio.timeout(BOUND), served.session.get(served.place / "events") as response:
        assert response.content_type == "text/event-stream"
        events = stream(response, 100)
        hello, stats, first = [await anext(events) for _ in range(3)]
        assert (hello[0], hello[1]["ports"], hello[1]["live"]) == ("hello", [8080], True)
        assert (stats[0], stats[1]["where"], stats[1]["state"]) == ("stats", "lo", "live")
        assert (first[0], [row[0] for row in first[1]]) == ("rows", [1, 2, 3])
        await served.many(2)
        name, more = await anext(events)
        while name == "stats":
            name, more = await anext(events)
        assert [row[0] for row in more] == [4, 5]


@pytest.mark.parametrize(("after", "header"), [("2", None), ("0", "2"), (None, "2"), ("2", "x" * 9)])
async def test_events_go_on_where_they_broke_off(served: Served, after: str | None, header: str | None) -> None:
    """A browser that comes again gets what came after the last row that it had."""
    await served.many(4)
    headers = {} if header is None else {"Last-Event-ID": header}
    events = await served.events(3, params={} if after is None else {"after": after}, headers=headers)
    assert [row[0] for row in events[2][1]] == [3, 4]


async def test_statistics_come_every_second(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drops, unread traffic and the plot are told again and again, without a row."""
    monkeypatch.setattr(module, "STATS_SECONDS", 0.01)
    sniffer: Any = served.server._sniffer
    async with asyncio.timeout(BOUND), served.session.get(served.place / "events") as response:
        events = stream(response, 1000)
        sniffer.ledger.source(lambda: {"kernel_dropped": 7, "flows_tls": 2, "flows_http2": 1})
        async for name, said in events:
            if name == "stats" and said["drops"]:
                assert said["drops"] == {"kernel": 7}
                assert (said["unread"]["TLS"], said["unread"]["HTTP/2"]) == (2, 1)
                break


async def test_it_is_told_how_much_the_page_gave_way(served: Served) -> None:
    """What this page did not get because it gave way to other outputs is told, and it is among the drops."""
    sniffer: Any = served.server._sniffer
    sniffer.ledger.lane("ui", lambda: {"dropped_yielded": 7})
    said = (await served.events(2))[1][1]
    assert (said["notShown"], said["drops"]) == (7, {"ui": 7})


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "live"),
        ({"running": False}, "stopping"),
        ({"running": False, "began": False}, "starting"),
        ({"running": False, "held": True}, "failed"),
    ],
)
async def test_states(served: Served, changes: dict[str, bool], state: str) -> None:
    """The page is told what the capture is doing."""
    vars(served.server._sniffer).update(changes)
    assert (await served.events(2))[1][1]["state"] == state


async def test_nobody_listens_nothing_is_done(served: Served) -> None:
    """Without a browser there is no task, no timer and no statistics."""
    before = len(asyncio.all_tasks())
    await served.many(10)
    assert len(asyncio.all_tasks()) == before
    assert served.server._ticker is None
    await served.events(1)
    assert served.server._ticker is not None


def frozen(served: Served) -> socket.socket:
    """A browser that asks for the events and never reads them."""
    cookie = served.session.cookie_jar.filter_cookies(served.place)[COOKIE].value
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", served.place.port))
    client.sendall(
        f"GET {served.place.path}events HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {COOKIE}={cookie}\r\n\r\n".encode()
    )
    return client


@pytest.mark.slow
async def test_a_frozen_browser_delays_nobody(served: Served) -> None:
    """Deliveries and other browsers go on; nothing is kept for the frozen one, which loses the oldest, by number."""
    loop = asyncio.get_running_loop()
    with contextlib.closing(frozen(served)) as client:
        client.setblocking(False)
        await served.many(1)
        data = b""
        async with asyncio.timeout(BOUND):
            while b"data: [[1," not in data:
                data += await loop.sock_recv(client, 1 << 16)
        reading = asyncio.create_task(served.events(4))
        await until(lambda: served.server.browsers == 2)
        began = time.monotonic()
        await served.many(30_000)
        assert time.monotonic() - began < BOUND
        assert (await reading)[3][0] in ("rows", "stats")
        assert served.sink.store.next == 30_002
        async with asyncio.timeout(BOUND):
            while b"[30001," not in data:
                data += await loop.sock_recv(client, 1 << 20)
        numbers = [int(number) for number in re.findall(rb"[\[,]\[(\d+),\d{16},", data)]
        assert numbers == sorted(set(numbers))
        lost = sum(after - before - 1 for before, after in pairwise(numbers))
        assert (numbers[0], numbers[-1]) == (1, 30_001)
        assert lost == 30_001 - len(numbers) > 10_000


async def test_a_frozen_browser_is_cut_off() -> None:
    """One that takes nothing for long gives its place back."""
    async with serving(write_seconds=0.05) as served:
        with contextlib.closing(frozen(served)):
            await until(lambda: served.server.browsers == 1)
            await served.many(20_000)
            await until(lambda: served.server.browsers == 0)
            await until(lambda: served.server._http.connections <= 1)  # its own, kept alive


async def test_browsers_are_bounded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than there may be is told so; when one leaves, the next may come."""
    monkeypatch.setattr(module, "MOST_BROWSERS", 2)
    monkeypatch.setattr(module, "STATS_SECONDS", 0.01)
    async with served.session.get(served.place / "events"):
        async with served.session.get(served.place / "events"):
            assert (await served.get("events"))[0].status == 503
        await until(lambda: served.server.browsers == 1)
        async with served.session.get(served.place / "events") as response:
            assert response.status == 200


async def test_connections_are_bounded() -> None:
    """A flood of connections that ask nothing shuts nobody out, and a stream that is read stays through it."""
    loop = asyncio.get_running_loop()
    async with serving() as served, served.session.get(served.place / "events") as response:
        events = stream(response, 1000)
        await anext(events)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(300):
                client = socket.socket()
                stack.callback(client.close)
                client.setblocking(False)
                await loop.sock_connect(client, ("127.0.0.1", served.place.port or 0))
            assert (await served.get(""))[0].status == 200
            assert served.server._http.connections <= 128
            await served.many(1)
            assert [name for name, _ in [await anext(events) for _ in range(2)]][-1] in ("rows", "stats")
            assert served.server.browsers == 1


# Exchanges, HAR


async def test_an_exchange_is_what_was_recorded(served: Served) -> None:
    """The answer about an exchange has both records as every sink gets them; what is not kept is not there."""
    pair = message(body='"\x1b[31m</script>'), answer(body="hello")
    await served.deliver(pair, (message(1), None))
    response, text = await served.get("exchange/1")
    assert response.content_type == "application/json"
    assert json.loads(text) == {"request": json.loads(pair[0].to_json()), "response": json.loads(pair[1].to_json())}
    assert json.loads((await served.get("exchange/2"))[1])["response"] is None
    for number in (0, 3, 999_999_999_999_999):
        assert (await served.get(f"exchange/{number}"))[0].status == 404


def bits(first: int, numbers: list[int]) -> dict[str, str]:
    """The query of a download of these."""
    found = bytearray((max(numbers) - first) // 8 + 1)
    for number in numbers:
        found[(number - first) // 8] |= 1 << (number - first) % 8
    return {"first": str(first), "bits": base64.urlsafe_b64encode(found).decode().rstrip("=")}


async def test_har(served: Served) -> None:
    """HAR of all, or of those whose bits are set; it is what --har writes."""
    pairs = [(message(number), answer(number, body=f"{number}")) for number in range(20)]
    await served.deliver(*pairs)
    response, text = await served.get("har")
    assert re.fullmatch(r'attachment; filename="tcp-sniffer-[\d-]+\.har"', response.headers["Content-Disposition"])
    log = json.loads(text)["log"]
    assert log["version"] == "1.2"
    assert log["entries"] == [json.loads(json.dumps(entry_of(Exchange(*pair)))) for pair in pairs]
    assert "comment" not in log
    _, text = await served.get("har", params=bits(3, [3, 4, 11, 20]))
    assert [entry["_exchange"] for entry in json.loads(text)["log"]["entries"]] == [2, 3, 10, 19]
    _, text = await served.get("har", params={"first": "0", "bits": ""})
    assert json.loads(text)["log"]["entries"] == []


async def test_har_says_what_is_left_out() -> None:
    """Exchanges whose messages were forgotten, or are to come, are counted in a comment."""
    async with serving(max_bytes=100_000) as served:
        await served.many(200, body="x" * 1000)
        gone = served.sink.store.first_whole - served.sink.store.first
        log = json.loads((await served.get("har"))[1])["log"]
        assert len(log["entries"]) == 200 - gone - (served.sink.store.first - 1)
        assert log["comment"].startswith(f"{gone} exchanges are left out")


async def test_search(served: Served) -> None:
    """Words are found in rows, headers, trailers and texts, in any case, each somewhere; JSON's own names are not."""
    fields = Fields({"x-shop": "Blue \u00dcber", "set-cookie": ("[REDACTED]", "a=Tea")})
    await served.deliver(
        (message(0, body='{"order": "4711"}'), answer(0, body="Kettle <b>")),
        (changed(message(1), headers=fields), changed(answer(1), trailers=Fields({"t": "last"}))),
        (message(2), changed(answer(2, body="S2V0dGxl"), body_encoding="base64")),
        (message(3, body="order kettle"), None),
    )
    for text, numbers in (
        ("KETTLE", [1, 4]),
        ("kettle order", [1, 4]),
        ('"order": <b>', [1]),
        ("\u00fcber", [2]),
        ("x-shop:", [2]),
        ("tea last", [2]),
        ("/0/2", [3]),
        ("S2V0", []),
        ("schema", []),
        ("connectionId", []),
        ("no response", [4]),
        ("", []),
    ):
        answered = json.loads((await served.get("search", params={"text": text}))[1])
        assert answered == {"numbers": numbers, "last": 4, "expression": False}, text
    answered = json.loads((await served.get("search", params={"text": "kettle", "after": "1"}))[1])
    assert answered == {"numbers": [4], "last": 4, "expression": False}


async def test_an_expression_is_judged(served: Served) -> None:
    """An expression is judged on the whole record of both messages; a wrong one is answered with its mistake."""
    fields = Fields({"x-shop": "blue"})
    await served.deliver(
        (message(0, body="kettle"), answer(0)),
        (changed(message(1), headers=fields), answer(1, body="kettle")),
        (message(2), None),
    )
    for text, numbers in (
        ("status == 200", [1, 2]),
        ("request.body contains 'kettle'", [1]),
        ("body contains 'kettle'", [1, 2]),
        ("request.headers['x-shop'] =~ '^b' && has(response)", [2]),
        ("!has(response)", [3]),
        ("status >= 500", []),
    ):
        answered = json.loads((await served.get("search", params={"text": text}))[1])
        assert answered == {"numbers": numbers, "last": 3, "expression": True}, text
    answered = json.loads((await served.get("search", params={"text": "status >= 500 &&"}))[1])
    assert answered["numbers"] == []
    assert answered["error"].startswith("column 17: ")


async def test_an_expression_finds_no_forgotten_messages() -> None:
    """An exchange whose messages are not kept any more is not found by an expression, and nothing breaks."""
    async with serving(max_bytes=1 << 20) as served:
        await served.many(2_000)
        store = served.sink.store
        assert store.first < store.first_whole
        answered = json.loads((await served.get("search", params={"text": "has(request)"}))[1])
        assert answered["numbers"] == list(range(store.first_whole, store.next))


async def test_a_search_lets_others_have_their_turn() -> None:
    """While much is searched deliveries go on; what is forgotten meanwhile is not found, and nothing breaks."""
    async with serving(max_bytes=1 << 20) as served:
        await served.many(2_000)
        searching = asyncio.create_task(served.get("search", params={"text": "get"}))
        turns = 0
        while not searching.done():
            await served.many(250)
            turns += 1
        found = json.loads((await searching)[1])
        assert turns > 10  # one for each hundred
        assert found["numbers"]
        assert found["last"] >= 2_000


@pytest.mark.parametrize("query", [{"first": "x", "bits": "AA"}, {"first": "1", "bits": "A"}, {"bits": "*"}])
async def test_a_wrong_query_is_refused(served: Served, query: dict[str, str]) -> None:
    """What is no number or no base64 is an error of the asker's."""
    assert (await served.get("har", params=query))[0].status == 400


async def test_downloads_are_bounded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """While as many download as may, another one is asked to wait; deliveries go on."""
    monkeypatch.setattr(module, "MOST_DOWNLOADS", 1)
    await served.many(10_000)
    async with served.session.get(served.place / "har") as slow:
        assert slow.status == 200
        if served.server._downloads:
            assert (await served.get("har"))[0].status == 503
        assert len(json.loads(await slow.read())["log"]["entries"]) == 10_000
    await until(lambda: not served.server._downloads)
    assert (await served.get("har", params=bits(1, [1])))[0].status == 200


# Opening and closing


async def test_a_free_port_is_none_of_those_captured() -> None:
    """A port that the system offers is not taken where it is one of ports."""
    ports = [port for port in range(1, 65536) if port % 4 > 1]  # half of those that are offered, odd or even
    for _ in range(20):
        sink = LiveSink(max_bytes=1 << 20, live=True)
        server = Server(sink, address="127.0.0.1", port=0, ports=ports, live=True)
        await server.open(Watched())
        try:
            assert URL(server.url).port not in ports
        finally:
            await server.close()


async def test_no_free_port_is_an_error() -> None:
    """Where every port is captured it is said."""
    server = Server(
        LiveSink(max_bytes=1 << 20, live=True), address="127.0.0.1", port=0, ports=range(1, 65536), live=True
    )
    with pytest.raises(SnifferError, match="port 0: every free port"):
        await server.open(Watched())
    await server.close()


async def test_a_busy_port_is_an_error(served: Served) -> None:
    """An address that cannot be listened on is one typed error that names the option."""
    sink = LiveSink(max_bytes=1 << 20, live=True)
    server = Server(sink, address="127.0.0.1", port=served.base.port or 0, ports=[], live=True)
    with pytest.raises(SnifferError, match="ui_address: cannot listen on"):
        await server.open(Watched())


async def test_ipv6() -> None:
    """On an IPv6 address the link has it in brackets, and works."""
    try:
        async with serving(address="::1") as served:
            assert served.server.url.startswith("http://[::1]:")
    except SnifferError:
        pytest.skip("no IPv6 here")


@pytest.mark.slow
async def test_at_the_end_browsers_have_everything() -> None:
    """Closing lets each browser have the last rows and says that it is the end; a frozen one is not waited for."""
    async with serving() as served:
        await served.many(5)
        async with served.session.get(served.place / "events") as response:
            events = stream(response, 1000)
            await anext(events)
            with contextlib.closing(frozen(served)):
                await until(lambda: served.server.browsers == 2)
                await served.many(20_000)
                began = time.monotonic()
                closing = asyncio.create_task(served.server.close())
                heard = [event async for event in _until_end(events)]
                await closing
                assert time.monotonic() - began < 10
        last = [row[0] for name, said in heard if name == "rows" for row in said]
        assert last[-1] == 20_005
        assert heard[-1] == ("end", {"file": False})
        assert [said["state"] for name, said in heard if name == "stats"][-1] == "ended"


async def _until_end(events: AsyncIterator[tuple[str, Any]]) -> AsyncIterator[tuple[str, Any]]:
    async for event in events:
        yield event
        if event[0] == "end":
            return


# The daemon


def url_of(daemon: Daemon) -> str:
    """The link that it has written."""
    url: str = daemon.log("live view")["url"]
    return url


async def fetch(url: str, path: str = "") -> str:
    """What a browser gets that follows the link, below the page."""
    async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as session, session.get(url) as page:
        assert page.status == 200
        async with session.get(page.url / path if path else page.url) as response:
            return await response.text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_file_is_shown_until_a_signal(number: signal.Signals) -> None:
    """After a file is read the page stays, until a signal ends it with code 0; all went through its lane."""
    with Daemon("--ports", "8080", "--read", str(DEMO), "--ui") as daemon:
        url = url_of(daemon)
        stopped = daemon.log("stopped")
        assert stopped["lanes"]["ui"]["delivered"] == stopped["lanes"]["ui"]["offered"] == 14
        har = json.loads(await fetch(url, "har"))
        assert len(har["log"]["entries"]) == 7
        assert daemon.process.poll() is None
        assert daemon.stop(number) == 0


async def test_a_broken_file_is_shown_and_ends_with_2(tmp_path: Path) -> None:
    """What could be read of a file that breaks off is shown; the exit code says that it was not all."""
    path = tmp_path / "broken.pcap"
    path.write_bytes(pcap(connection(exchanges(3)))[:-20])
    with Daemon("--ports", "8080", "--read", str(path), "--ui") as daemon:
        url = url_of(daemon)
        daemon.log("stopped")
        assert len(json.loads(await fetch(url, "har"))["log"]["entries"]) == 3
        assert daemon.stop(signal.SIGINT) == 2


@pytest.mark.parametrize(("form", "level"), [("json", "debug"), ("json", "error"), ("console", "error")])
async def test_the_token_is_written_once(form: str, level: str) -> None:
    """The link is one line of the log, however little is logged, and the token stands nowhere else."""
    arguments = ("--ports", "8080", "--read", str(DEMO), "--ui", "--log-format", form, "--log-level", level)
    with Daemon(*arguments) as daemon:
        daemon.wait_for(lambda: any("?token=" in line for line in daemon.stderr))
        (line,) = [line for line in daemon.stderr if "?token=" in line]
        found = re.search(r"http://127\.0\.0\.1:\d+/\?token=([\w-]{32})(?![\w-])", line)
        assert found is not None
        assert "live view" in line
        await fetch(found[0], "har")
        async with ClientSession() as session:
            for wrong in (found[0] + "x", found[0].replace("/?", "/x?")):
                async with session.get(wrong) as response:
                    assert response.status == 403
        assert daemon.stop() == 0
        assert "".join(daemon.stderr).count(found[1]) == 1
        assert not daemon.messages


async def test_open_streams_do_not_delay_the_end() -> None:
    """With browsers that listen, one of them frozen, the process ends at once."""
    with Daemon("--ports", "8080", "--read", str(DEMO), "--ui") as daemon:
        url = url_of(daemon)
        async with (
            ClientSession(cookie_jar=CookieJar(unsafe=True)) as session,
            session.get(url) as page,
            session.get(page.url / "events") as listening,
            session.get(page.url / "events"),
        ):
            began = time.monotonic()
            daemon.send(signal.SIGTERM)
            heard = [event async for event in _until_end(stream(listening, 100))]
            assert heard[-1] == ("end", {"file": True})
            assert await asyncio.to_thread(daemon.end) == 0
            assert time.monotonic() - began < 15


def test_several_outputs(tmp_path: Path) -> None:
    """The live view is one lane of several, and each gets everything; the sums balance."""
    path = write(tmp_path / "a.pcap", connection(exchanges(50)))
    with Daemon("--ports", "8080", "--read", path, "--ui", "--stdout", "--har", str(tmp_path / "a.har")) as daemon:
        lanes = daemon.log("stopped")["lanes"]
        assert {name: counters["delivered"] for name, counters in lanes.items()} == {
            "stdout": 100,
            "ui": 100,
            "har": 100,
        }
        assert daemon.stop() == 0
        assert len(daemon.messages) == 100
        assert not daemon.logged("the ledger does not balance")


def test_secrets_are_redacted(tmp_path: Path) -> None:
    """What the page gets is redacted as everything is, and host values too where they are named."""
    path = write(tmp_path / "a.pcap", connection([(get("/?sig=secretZ9", authorization="secretZ9"), ok())]))
    with Daemon("--ports", "8080", "--read", path, "--ui", "--redact-headers", "authorization,host") as daemon:
        url = url_of(daemon)
        daemon.log("stopped")

        async def everything() -> str:
            async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as session, session.get(url) as page:
                text = (
                    await (await session.get(page.url / "exchange/1")).text()
                    + await (await session.get(page.url / "har")).text()
                )
                async with session.get(page.url / "events") as response:
                    return text + "".join([str(event) async for event in stream(response, 3)])

        text = asyncio.run(everything())
        assert text.count("[REDACTED]") > 5
        assert "secretZ9" not in text
        assert "example.test" not in text
        daemon.stop()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--ui", "192.0.2.1:0"), "ui_address must be on loopback, unless ui_remote is set"),
        (("--ui", "0.0.0.0:0"), "ui_address must be on loopback, unless ui_remote is set"),
        (("--ui", "8080"), "ui_address must not have one of ports"),
        (("--ui", "9100", "--metrics-port", "9100"), "ui_address must not have the port of metrics_port"),
        (("--ui", "shop.example:80"), "ui_address must be an IP address and a port"),
        (("--ui-remote",), "no output is named"),
    ],
)
def test_wrong_addresses(arguments: tuple[str, ...], says: str) -> None:
    """Each is one clear configuration error."""
    with Daemon("--ports", "8080", "--read", str(DEMO), *arguments) as daemon:
        assert daemon.end() == 1
        assert says in "".join(daemon.stderr)


def test_a_busy_address_is_exit_code_2() -> None:
    """An address that somebody else listens on is found when it is opened."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon = Daemon("--ports", "8080", "--read", str(DEMO), "--ui", str(port))
        with daemon:
            assert daemon.end() == 2
            (error,) = [line for line in daemon.logs if line["level"] == "error"]
            assert error["message"].startswith("ui_address: cannot listen on 127.0.0.1 port")


def test_a_capture_that_cannot_be_opened_is_exit_code_2() -> None:
    """The page does not keep a process that has nothing to show."""
    for source in (("--interface", "nothing0"), ("--read", "/nowhere.pcap"), ("--read", str(ROOT / "README.md"))):
        with Daemon("--ports", "8080", *source, "--ui") as daemon:
            assert daemon.end() == 2


def test_remote_is_warned_about() -> None:
    """Another address than loopback is allowed on purpose, and said to be readable on the way."""
    port = free_port()
    with Daemon("--ports", "8080", "--read", str(DEMO), "--ui", f"0.0.0.0:{port}", "--ui-remote") as daemon:
        assert "?token=" in url_of(daemon)
        assert any("plain http" in line["message"] for line in daemon.logs if line["level"] == "warning")
        assert daemon.stop() == 0
