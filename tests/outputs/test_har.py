"""HAR files: held to har-schema, what stands in an entry, and that the file is valid whatever happens."""

from __future__ import annotations

import base64
import gzip
import json
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft6Validator, FormatChecker
from referencing import Registry, Resource

from sniffer.delivery.sink import Cut, Failed, Record
from sniffer.errors import SnifferError
from sniffer.exchanges import ByExchange, Exchange
from sniffer.message import Endpoint, Fields, Placement
from sniffer.outputs.har.file import TAIL, HarSink, entry_of
from tests.browser import chromium, needs_chromium
from tests.captures import connection, get, ok, write
from tests.daemon import DEMO, ROOT, Daemon, exchanges, needs_capture, web_server
from tests.deliveries import answer, lane_to, message
from tests.waiting import until

FILES: dict[str, Any] = json.loads((ROOT / "tests/data/har.schema.json").read_text())["files"]
REGISTRY: Registry[Any] = Registry().with_resources(
    [(schema["$id"], Resource.from_contents(schema)) for schema in FILES.values()]
)


def validator(name: str) -> Draft6Validator:
    """Holds documents to one of har-schema's files."""
    return Draft6Validator(FILES[f"{name}.json"], registry=REGISTRY, format_checker=FormatChecker())


def entries_of(path: Path) -> list[dict[str, Any]]:
    """The entries of a file that must be valid."""
    document = json.loads(path.read_bytes())
    validator("har").validate(document)
    entries: list[dict[str, Any]] = document["log"]["entries"]
    return entries


def pair(request: dict[str, Any] | None = None, response: dict[str, Any] | None = None, number: int = 0) -> Exchange:
    """An exchange with these changes to its parts."""
    return Exchange(
        msgspec.structs.replace(message(number), **(request or {})),
        msgspec.structs.replace(answer(number), **(response or {})),
    )


def entry(one: Exchange) -> dict[str, Any]:
    """Its entry as it is read back, which must be valid."""
    made: dict[str, Any] = json.loads(msgspec.json.encode(entry_of(one)))
    validator("entry").validate(made)
    return made


# Entries


def test_schema_finds_faults() -> None:
    """The schema is one that refuses: an entry without its timings, a status that is a text."""
    made = entry(pair())
    assert validator("entry").is_valid(made)
    assert not validator("entry").is_valid({**made, "timings": {}})
    assert not validator("entry").is_valid({**made, "response": {**made["response"], "status": "200"}})


def test_entry() -> None:
    """An exchange of a text: what was sent, what was answered, when, and how long it took."""
    made = entry(
        pair(
            {
                "headers": Fields({"host": "shop.example:8080", "cookie": "a=1; b=x=y", "content-type": "text/plain"}),
                "method": "POST",
                "path": "/cart?x=1&y=a%20b&z",
                "body": "hello",
                "body_size": 5,
                "timestamp": "2026-01-02T03:04:05.000000Z",
            },
            {
                "headers": Fields(
                    {
                        "content-type": "application/json",
                        "location": "/next",
                        "set-cookie": ("s=1; Path=/; HttpOnly", "t=2; Secure; Domain=shop.example"),
                    }
                ),
                "timestamp": "2026-01-02T03:04:05.020000Z",
                "latency_ms": 15.0,
                "body": "{}",
                "body_size": 2,
            },
        )
    )
    assert made["startedDateTime"] == "2026-01-02T03:04:05.000000Z"
    assert made["timings"] == {"blocked": -1, "dns": -1, "connect": -1, "ssl": -1, "send": 5, "wait": 15, "receive": 0}
    assert made["time"] == 20
    assert (made["serverIPAddress"], made["connection"]) == ("192.0.2.1", f"{0:032x}")
    request, response = made["request"], made["response"]
    assert request["url"] == "http://shop.example:8080/cart?x=1&y=a%20b&z"
    assert request["queryString"] == [
        {"name": "x", "value": "1"},
        {"name": "y", "value": "a b"},
        {"name": "z", "value": ""},
    ]
    assert request["postData"] == {"mimeType": "text/plain", "text": "hello"}
    assert request["cookies"] == [{"name": "a", "value": "1"}, {"name": "b", "value": "x=y"}]
    assert (request["httpVersion"], request["bodySize"]) == ("HTTP/1.1", 5)
    assert [field["value"] for field in response["headers"] if field["name"] == "set-cookie"] == [
        "s=1; Path=/; HttpOnly",
        "t=2; Secure; Domain=shop.example",
    ]
    assert response["cookies"] == [
        {"name": "s", "value": "1", "path": "/", "httpOnly": True},
        {"name": "t", "value": "2", "secure": True, "domain": "shop.example"},
    ]
    assert (response["status"], response["statusText"], response["redirectURL"]) == (200, "OK", "/next")
    assert response["content"] == {"size": 2, "mimeType": "application/json", "text": "{}"}
    assert "comment" not in made


@pytest.mark.parametrize(
    ("answered", "latency", "send", "wait"),
    [
        ("06.500000", 1000.0, 500, 1000),
        ("06.000000", 1000.0, 0, 1000),
        ("05.999999", 1000.0, 0, 1000),  # a clock that went back
        ("06.000000", None, 0, 1000),
        ("04.000000", None, 0, 0),
    ],
)
def test_timings_are_never_negative(answered: str, latency: float | None, send: float, wait: float) -> None:
    """What was sent took the time before the latency; where clocks contradict that it took none, and not -0.0."""
    made = entry(
        pair(
            {"timestamp": "2026-01-02T03:04:05.000000Z"},
            {"timestamp": f"2026-01-02T03:04:{answered}Z", "latency_ms": latency},
        )
    )
    assert (made["timings"]["send"], made["timings"]["wait"], made["time"]) == (send, wait, send + wait)
    assert "-0.0" not in json.dumps(made)


def test_base64() -> None:
    """A body that is no text is base64, and says so; its size is that of the bytes."""
    body = base64.b64encode(b"\xff\xfe\xfd\xfc").decode()
    changes = {"body": body, "body_encoding": "base64", "body_size": 4}
    made = entry(pair(changes, changes))
    assert made["response"]["content"] == {"size": 4, "mimeType": "", "text": body, "encoding": "base64"}
    assert made["request"]["postData"]["_encoding"] == "base64"
    assert made["request"]["postData"]["comment"] == "the text is base64"


@pytest.mark.parametrize("body", ["é" * 100, ""])
def test_decoded_content(body: str) -> None:
    """`size` is the decoded one, `compression` what the coding saved, `bodySize` what was on the wire."""
    wire = gzip.compress(body.encode())
    made = entry(pair(None, {"body": body, "body_decoded": "gzip", "body_size": len(wire)}))["response"]
    assert made["bodySize"] == len(wire)
    assert made["content"]["size"] == len(body.encode())
    assert made["content"]["compression"] == len(body.encode()) - len(wire)


def test_base64_of_a_decoded_body() -> None:
    """The decoded size of a body that is base64 is that of the bytes, whatever the padding."""
    for size in range(8):
        body = base64.b64encode(bytes([255]) * size).decode()
        content = entry(pair(None, {"body": body, "body_encoding": "base64", "body_decoded": "br", "body_size": 20}))[
            "response"
        ]["content"]
        assert (content["size"], content["compression"]) == (size, size - 20)


def test_cut_content() -> None:
    """Of a body that was cut the size on the wire is given, and no compression."""
    content = entry(pair(None, {"body": "abc", "body_decoded": "gzip", "body_size": 999, "body_truncated": True}))
    assert content["response"]["content"] == {"size": 999, "mimeType": "", "text": "abc", "comment": "the text is cut"}
    assert content["response"]["_bodyTruncated"] is True


def test_unanswered() -> None:
    """A request without a response has the status 0, and says why."""
    made = entry(Exchange(message(), None))
    assert made["response"]["status"] == 0
    assert made["response"]["_error"] == made["comment"] == "no response was captured"
    assert (made["response"]["bodySize"], made["time"]) == (-1, 0)


def test_after_drops_nothing_is_said_to_be_missing() -> None:
    """Once messages were dropped on the way here, the entry says that its response may have been among them."""
    made = entry_of(Exchange(message(), None), lossy=True)
    assert made["response"]["_error"] == made["comment"] == "no response was captured, or it was dropped"
    assert entry_of(Exchange(None, answer(3)), lossy=True)["comment"] == "the request was dropped"


def test_response_alone() -> None:
    """A response without its request has the server's address as URL, and says why."""
    made = entry(Exchange(None, answer(alone=True)))
    assert (made["request"]["method"], made["request"]["url"]) == ("", "http://192.0.2.1:8080/")
    assert made["comment"] == "the request was not captured"
    late = entry(Exchange(None, answer(3)))
    assert (late["request"]["method"], late["request"]["url"]) == ("GET", "http://192.0.2.1:8080/0/3")
    assert "written before" in late["comment"]


def test_incomplete_and_odd() -> None:
    """What HAR has no field for is in comments and in fields with an underscore."""
    made = entry(
        pair(
            {"incomplete": "closed", "anomalies": ("te-and-cl",), "trace_id": "a" * 32, "span_id": "b" * 16},
            {
                "incomplete": "gap",
                "missing_bytes": 7,
                "resynced": True,
                "informational": (100,),
                "trailers": Fields({"x": "1"}),
                "placement": Placement("p", "n", None),
            },
        )
    )
    assert made["comment"] == "the request is incomplete: closed; the response is incomplete: gap, 7 bytes are missing"
    assert (made["_traceId"], made["_spanId"]) == ("a" * 32, "b" * 16)
    assert made["request"]["_anomalies"] == ["te-and-cl"]
    assert {name: value for name, value in made["response"].items() if name.startswith("_")} == {
        "_incomplete": "gap",
        "_missingBytes": 7,
        "_resynced": True,
        "_informational": [100],
        "_trailers": [{"name": "x", "value": "1"}],
    }


@pytest.mark.parametrize(
    ("method", "path", "host", "url"),
    [
        ("GET", "/", "h.example", "http://h.example/"),
        ("GET", '/a b\u00e9"<>', "h.example", "http://h.example/a%20b%E9%22%3C%3E"),
        ("GET", "/?sig=[REDACTED]", "h.example", "http://h.example/?sig=[REDACTED]"),
        ("GET", "http://other.example/x", "h.example", "http://other.example/x"),
        ("GET", "https://other.example/x", "h.example", "https://other.example/x"),
        ("CONNECT", "h.example:443", "h.example:443", "http://h.example:443/"),
        ("CONNECT", "\u00ff/", "h.example", "http://h.example/"),
        ("OPTIONS", "*", "h.example", "http://h.example/*"),
        ("GET", "/", "[::1]:80", "http://[::1]:80/"),
        ("GET", "/", "evil/<script>", "http://192.0.2.1:8080/"),
        ("GET", "/", "", "http://192.0.2.1:8080/"),
    ],
)
def test_url(method: str, path: str, host: str, url: str) -> None:
    """The URL is absolute and of URL characters, with the Host field's host where that is one."""
    made = entry(pair({"method": method, "path": path, "headers": Fields({"host": host})}))
    assert made["request"]["url"] == url


def test_url_of_ipv6() -> None:
    """An IPv6 address stands in brackets."""
    made = entry(pair({"receiver": Endpoint("2001:db8::1", 80), "headers": Fields({})}))
    assert made["request"]["url"] == "http://[2001:db8::1]:80/0/0"
    assert made["serverIPAddress"] == "2001:db8::1"


TEXT = st.text(st.characters(max_codepoint=255), max_size=40)


@given(TEXT, TEXT, TEXT, TEXT, st.lists(TEXT, max_size=3), st.none() | st.text(max_size=40))
def test_entries_of_anything_are_valid(
    method: str, path: str, host: str, cookie: str, set_cookies: Sequence[str], body: str | None
) -> None:
    """Whatever the fields hold, the entry is valid HAR."""
    entry(
        pair(
            {"method": method, "path": path, "headers": Fields({"host": host, "cookie": cookie}), "body": body},
            {"headers": Fields({"set-cookie": tuple(set_cookies), "location": host}), "body": body},
        )
    )


# The file


def batch(*numbers: int) -> list[Record]:
    """Whole exchanges."""
    return [record for number in numbers for record in (message(number), answer(number))]


async def test_file_is_valid_at_every_moment(tmp_path: Path) -> None:
    """After the opening, after each batch and after the end the file is valid and holds what was delivered."""
    path = tmp_path / "out.har"
    sink = HarSink(str(path), version="1")
    await sink.open()
    assert entries_of(path) == []
    await sink.deliver(batch(0))
    assert len(entries_of(path)) == 1
    await sink.deliver([*batch(1, 2), message(9)])
    assert [one["response"]["status"] for one in entries_of(path)] == [200, 200, 200, 0]
    await sink.close()
    assert len(entries_of(path)) == 4
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_file_that_was_there_is_replaced(tmp_path: Path) -> None:
    """A longer file of that name leaves nothing behind, and keeps its mode."""
    path = tmp_path / "out.har"
    path.write_text("x" * 10_000)
    path.chmod(0o640)
    sink = HarSink(str(path), version="1")
    await sink.open()
    await sink.close()
    assert entries_of(path) == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("name", ["nowhere/out.har", ".", "fifo"])
async def test_file_that_cannot_be(name: str, tmp_path: Path) -> None:
    """What cannot be written, or is no regular file, is one clear error."""
    os.mkfifo(tmp_path / "fifo")
    sink = HarSink(str(tmp_path / name), version="1")
    with pytest.raises(SnifferError, match=r"^har: "):
        await sink.open()
    await sink.close()


async def test_full_disk(tmp_path: Path) -> None:
    """What does not fit is counted as dropped; the file stays valid, and takes more when there is room again."""
    path = tmp_path / "out.har"
    sink = HarSink(str(path), version="1")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with lane_to(sink, queue=ByExchange(max_bytes=1 << 20)) as lane:
        lane.offer(batch(0))
        await until(lambda: lane.counters.waiting == 0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, hard))
        try:
            lane.offer(batch(1))
            await until(lambda: lane.counters.waiting == 0)
            assert len(entries_of(path)) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        lane.offer(batch(2))
        await lane.drain()
        assert (lane.counters.delivered, lane.counters.dropped_error) == (4, 2)
    assert [one["_exchange"] for one in entries_of(path)] == [0, 2]


async def test_part_of_a_batch_that_fits_is_delivered(tmp_path: Path) -> None:
    """Where the disk gets full within a batch, the exchanges before that are delivered, and said to be."""
    path = tmp_path / "out.har"
    sink = HarSink(str(path), version="1")
    await sink.open()
    await sink.deliver(batch(0))
    size = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * size + 200, hard))
    try:
        with pytest.raises(Failed) as failed:
            await sink.deliver(batch(1, 2, 3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert failed.value.delivered == 2
    assert [one["_exchange"] for one in entries_of(path)] == [0, 1]
    await sink.close()


async def test_cut_tells_how_far_it_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the deadline of the drain the sink says which exchanges are in the file."""
    import asyncio
    import threading

    path = tmp_path / "out.har"
    sink = HarSink(str(path), version="1")
    await sink.open()
    held, go = threading.Event(), threading.Event()
    pwrite, calls = os.pwrite, []

    def slow(fd: int, data: Any, place: int) -> int:
        calls.append(place)
        if len(calls) == 2:
            held.set()
            go.wait(20)
        return pwrite(fd, data, place)

    monkeypatch.setattr(os, "pwrite", slow)
    delivery = asyncio.create_task(sink.deliver(batch(0, 1, 2)))
    await asyncio.to_thread(held.wait, 20)
    delivery.cancel()
    with pytest.raises(Cut) as cut:
        await delivery
    go.set()
    await sink.close()
    assert cut.value.delivered == 2
    assert len(entries_of(path)) in (1, 2)


# The daemon


def test_demo(tmp_path: Path) -> None:
    """The shipped capture as HAR: seven entries, 0; with standard output beside it the same messages."""
    path = tmp_path / "out.har"
    with Daemon("--ports", "8080", "--read", str(DEMO), "--har", str(path), "--stdout") as daemon:
        assert daemon.end() == 0
        lanes = daemon.log("stopped")["lanes"]
        assert {name: lane["delivered"] for name, lane in lanes.items()} == {"stdout": 14, "har": 14}
    entries = entries_of(path)
    assert [(one["request"]["method"], one["response"]["status"]) for one in entries] == [
        (message["method"], message["statusCode"]) for message in daemon.messages if message["direction"] == "response"
    ]
    assert json.loads(path.read_bytes())["log"]["creator"]["name"] == "TCP Sniffer"
    assert "[REDACTED]" in path.read_text()


OPENED = """(async text => {
  let view;
  try {
    const {ViewManager} = await import('./ui/legacy/legacy.js');
    const {NetworkPanel} = await import('./panels/network/network.js');
    await ViewManager.ViewManager.instance().showView('network');
    view = NetworkPanel.NetworkPanel.instance().networkLogView;
  } catch { return null; }
  await view.onLoadFromFile(new File([text], 'opened.har'));
  view.refresh();
  return Promise.all(view.flatNodesList().filter(node => node.request()).map(async node => {
    const request = node.request(), content = await request.requestContentData();
    return {
      method: request.requestMethod, url: request.url(), status: request.statusCode, mime: request.mimeType,
      ms: request.duration * 1000, sent: await request.requestFormData(),
      body: content.isTextContent ? content.text : content.base64, row: node.element().innerText,
    };
  }));
})"""
"""What the import of the network panel makes of a file, and the rows that it shows."""


async def opened(har: str) -> list[dict[str, Any]]:
    """The rows of a file in the developer tools of Chromium."""
    async with chromium() as browser:
        page = await browser.page("devtools://devtools/bundled/devtools_app.html")
        rows: list[dict[str, Any]] | None = await page.eval(f"{OPENED}({json.dumps(har)})")
        if rows is None:
            pytest.skip("the developer tools of this Chromium are laid out in another way")
        assert page.errors == []
    return rows


@needs_chromium
async def test_developer_tools_open_it(tmp_path: Path) -> None:
    """The network panel of a real browser imports every entry, with method, URL, status, times and bodies."""
    path = tmp_path / "out.har"
    with Daemon("--ports", "8080", "--read", str(DEMO), "--har", str(path), "--stdout") as daemon:
        assert daemon.end() == 0
        sent, received = ([m for m in daemon.messages if m["direction"] == way] for way in ("request", "response"))
    rows = await opened(path.read_text())
    assert len(rows) == len(sent) == len(received) == 7
    for row, request, response in zip(rows, sent, received, strict=True):
        assert (row["method"], row["status"]) == (request["method"], response["statusCode"])
        assert row["url"] == f"http://{request['headers']['host']}{request['path']}"
        assert row["ms"] == pytest.approx(response["latencyMs"], abs=0.001)
        assert row["body"] == response.get("body", "")
        assert row["sent"] == request.get("body")
    assert rows[1]["row"].split("\t")[:3] == ["catalog", "200", "json"]


@needs_chromium
async def test_developer_tools_open_what_is_not_whole() -> None:
    """Bytes that are no text, a request or a response alone, and a cut message are rows as well."""
    image = {"headers": Fields({"content-type": "image/png"}), "body": "iVBORw==", "body_encoding": "base64"}
    cut = {"body": "ab", "body_size": 2, "incomplete": "gap", "missing_bytes": 3}
    parts = (pair({}, image), Exchange(message(1), None), Exchange(None, answer(2)), pair({}, cut))
    log = {"version": "1.2", "creator": {"name": "", "version": ""}, "entries": [entry(one) for one in parts]}
    rows = await opened(json.dumps({"log": log}))
    assert [row["status"] for row in rows] == [200, 0, 200, 200]
    assert (rows[0]["mime"], rows[0]["body"]) == ("image/png", "iVBORw==")
    assert rows[3]["body"] == "ab"


def test_the_same_file_twice(tmp_path: Path) -> None:
    """Reading the same capture twice writes the same bytes twice."""
    for name in ("a", "b"):
        with Daemon("--ports", "8080", "--read", str(DEMO), "--har", str(tmp_path / name)) as daemon:
            assert daemon.end() == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@needs_capture
@pytest.mark.live
@pytest.mark.parametrize("times", [1, 2, 3])
def test_valid_after_signals(times: int, tmp_path: Path) -> None:
    """After one, two and three signals to stop, in the middle of traffic, the file is valid."""
    path = tmp_path / "out.har"
    with (
        web_server() as port,
        Daemon("--ports", str(port), "--interface", "lo", "--har", str(path), "--output-url", f"http://127.0.0.1:{port}/x",
               "--max-body-size", "0", "--drain-timeout-ms", "25000" if times > 1 else "1000") as daemon,
    ):  # fmt: skip
        daemon.log("started")
        for _ in range(5):
            exchanges(port, 20)
        daemon.send(signal.SIGTERM)
        daemon.log("stopping")
        for _ in range(times - 1):
            daemon.send(signal.SIGTERM)
        assert daemon.end() == 2  # the collector takes nothing
    assert len(entries_of(path)) <= 100


def test_valid_after_kill_but_for_the_last_entry(tmp_path: Path) -> None:
    """Killed between two batches the file is valid: then, too, only an entry under way could be torn."""
    path = tmp_path / "out.har"
    read_end, write_end = os.pipe()  # a file that never ends
    with daemon_to_kill(path, read_end) as process:
        os.write(write_end, Path(DEMO).read_bytes())
        while not path.exists() or len(entries_or_none(path) or []) < 5:
            assert process.poll() is None
        process.kill()
        process.wait()
    os.close(write_end)
    os.close(read_end)
    assert len(entries_of(path)) >= 5


def entries_or_none(path: Path) -> list[Any] | None:
    try:
        return entries_of(path)
    except ValueError:  # being written
        return None


def daemon_to_kill(path: Path, stdin: int) -> subprocess.Popen[bytes]:
    """A daemon that reads a pipe."""
    arguments = ["--ports", "8080", "--read", "-", "--har", str(path)]
    return subprocess.Popen(
        [sys.executable, "-m", "sniffer", *arguments], cwd=ROOT, stdin=stdin, stderr=subprocess.DEVNULL
    )


def test_torn_entry_is_the_last(tmp_path: Path) -> None:
    """Cut anywhere (as by a kill in the middle of a write), everything but the last entry can be read."""
    path = tmp_path / "out.har"
    file = write(tmp_path / "f.pcap", connection([(get(f"/{number}"), ok()) for number in range(20)]))
    with Daemon("--ports", "8080", "--read", file, "--har", str(path)) as daemon:
        assert daemon.end() == 0
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    assert len(lines) == 22
    for line in lines[1:-2]:
        json.loads(line.rstrip(b",\n"))
    assert data.endswith(TAIL)
    assert all(one.endswith(b",\n") for one, _ in pairwise(lines[1:-1]))
