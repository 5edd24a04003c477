"""HAR files: valid whatever happens, and opened by developer tools."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sniffer.delivery.sink import Cut, Failed
from sniffer.errors import SnifferError
from sniffer.exchanges import ByExchange, Exchange, ExchangeBatch, Pair
from sniffer.outputs.har.file import TAIL, HarSink
from sniffer.record.message import Fields
from tests.browser import chromium, needs_chromium
from tests.captures import connection, get, ok, write
from tests.daemon import DEMO, ROOT, Daemon, exchanges, needs_capture, web_server
from tests.deliveries import answer, joined, lane_to, message
from tests.test_har import entries_of, entry, pair
from tests.waiting import until

# The file


def batch(*numbers: int) -> ExchangeBatch:
    """Whole exchanges."""
    return joined(*(Pair(message(number), answer(number)) for number in numbers))


async def test_file_is_valid_at_every_moment(tmp_path: Path) -> None:
    """After the opening, after each batch and after the end the file is valid and holds what was delivered."""
    path = tmp_path / "out.har"
    sink = HarSink(str(path), version="1")
    await sink.open()
    assert entries_of(path) == []
    await sink.deliver(batch(0))
    assert len(entries_of(path)) == 1
    await sink.deliver(joined(*batch(1, 2).pairs, Pair(message(9), None)))
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


@pytest.mark.slow
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


async def test_entries_of_a_batch_are_written_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is one write as long as it is short, and several where its entries exceed WRITE_BYTES."""
    path = tmp_path / "out.har"
    sink = HarSink(str(path), version="1")
    await sink.open()
    pwrite, calls = os.pwrite, []

    def counted(fd: int, data: Any, place: int) -> int:
        calls.append(len(data))
        return pwrite(fd, data, place)

    monkeypatch.setattr(os, "pwrite", counted)
    await sink.deliver(batch(0, 1, 2))
    assert len(calls) == 1
    monkeypatch.setattr("sniffer.outputs.har.file.WRITE_BYTES", calls[0] // 2)
    await sink.deliver(batch(3, 4, 5))
    await sink.close()
    assert len(calls) == 3
    assert [one["_exchange"] for one in entries_of(path)] == [0, 1, 2, 3, 4, 5]


async def test_cut_tells_how_far_it_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the deadline of the drain the sink says which exchanges are in the file."""
    import asyncio
    import threading

    path = tmp_path / "out.har"
    monkeypatch.setattr("sniffer.outputs.har.file.WRITE_BYTES", 1)  # a write for each entry
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
        assert row["ms"] == pytest.approx(response["durationMs"], abs=0.001)
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
