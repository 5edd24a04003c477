"""The cost of the live view, and how smooth it is: `make bench ARGS=--ui`.

A server and a client on loopback make exchanges at a steady rate. The daemon watches them in turn without a live view,
with one that nobody opens, and with its page open in Chromium. CPU time is that of all threads of the daemon.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any, Final

from tests.bench.idle import _cpu
from tests.browser import CHROMIUM, Page, chromium
from tests.daemon import Daemon, may_capture, resident

RATE: Final = 1000
"""Exchanges a second."""
TICK: Final = 0.01
ROUNDS: Final = 3
SECONDS: Final = 6.0
MODES: Final = ("no live view", "nobody looks", "one page open")
BODY: Final = b'{"items": [{"sku": "A-17", "n": 2}], "total": "23.80"}'
ANSWER: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nServer: shop\r\nDate: Tue, 24 Nov 2026 03:26:25 GMT\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)
ASKED: Final = (
    b"GET /catalog/%d HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: shop-web/2.4\r\nAccept: application/json\r\n"
    b"Authorization: Bearer eyJhbGciOiJIUzI1NiJ9\r\n\r\n"
)
FRAMES: Final = """new Promise(done => {
    const gaps = []; let before = performance.now(); const end = before + %d;
    const frame = () => {
        const now = performance.now(); gaps.push(now - before); before = now;
        if (now < end) requestAnimationFrame(frame); else done(gaps);
    };
    requestAnimationFrame(frame);
})"""


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(ANSWER * data.count(b"\r\n\r\n"))
    writer.close()


class Load:
    """Makes exchanges at RATE until `stop`."""

    def __init__(self) -> None:
        self.made = 0
        self.stop = asyncio.Event()

    async def run(self, port: int) -> None:
        """Sends one request after another, each after the response to the last."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        began = time.monotonic()
        while not self.stop.is_set():
            while self.made < (time.monotonic() - began) * RATE and not self.stop.is_set():
                writer.write(ASKED % self.made)
                await reader.readexactly(len(ANSWER))
                self.made += 1
            await asyncio.sleep(TICK)
        writer.close()
        await writer.wait_closed()


async def _measure(mode: str, seconds: float) -> dict[str, Any]:
    """One run."""
    server = await asyncio.start_server(_answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    arguments = ["--ports", str(port), "--interface", "lo", "--stdout"]
    async with server:
        with Daemon(*arguments, *([] if mode == MODES[0] else ["--ui"]), read_stdout=False) as daemon:
            drain = asyncio.create_task(asyncio.to_thread(_discard, daemon.process.stdout))
            daemon.log("started")
            load = Load()
            running = asyncio.create_task(load.run(port))
            if mode == MODES[2]:
                async with chromium() as browser:
                    page = await browser.page(daemon.log("live view")["url"])
                    await page.wait("document.querySelectorAll('.line:not([hidden])').length > 10")
                    found = await _sample(daemon, load, seconds, page)
            else:
                await asyncio.sleep(1)
                found = await _sample(daemon, load, seconds, None)
            load.stop.set()
            await running
            found["rss"] = resident(daemon.process.pid)
            if await asyncio.to_thread(daemon.stop):
                raise RuntimeError(f"the daemon did not end well: {daemon.stderr}")
            await drain
            lanes = daemon.log("stopped")["lanes"]
            found["dropped"] = sum(lane["offered"] - lane["delivered"] for lane in lanes.values())
    return found


def _discard(stream: Any) -> None:
    while stream.read(1 << 16):
        pass


async def _sample(daemon: Daemon, load: Load, seconds: float, page: Page | None) -> dict[str, Any]:
    pid = daemon.process.pid
    cpu, made, began = _cpu(pid), load.made, time.monotonic()
    gaps: list[float] = []
    if page is None:
        await asyncio.sleep(seconds)
    else:
        gaps = await page.eval(FRAMES % round(seconds * 1000))
    exchanges = load.made - made
    found = {"cpu": (_cpu(pid) - cpu) / exchanges * 1000, "rate": exchanges / (time.monotonic() - began), "gaps": gaps}
    if page is not None and "skipped" in await page.text("#facts"):
        raise RuntimeError("the page has skipped rows")
    return found


def main(*, quick: bool = False) -> int:
    """Measures, and prints the Markdown of docs/internals/PERFORMANCE.md."""
    if CHROMIUM is None or not may_capture():
        print("Not measured: this takes chromium, and the capability NET_RAW.")
        return 0
    rounds, seconds = (1, SECONDS / 2) if quick else (ROUNDS, SECONDS)
    runs: dict[str, list[dict[str, Any]]] = {mode: [] for mode in MODES}
    for _ in range(rounds):
        for mode in MODES:
            runs[mode].append(asyncio.run(_measure(mode, seconds)))
    print(f"### The live view\n\nMedian of {rounds} rounds of {seconds:.0f} s:\n")
    print("| | exchanges/s | CPU ms per 1,000 exchanges | RSS MB | dropped |\n|---|---:|---:|---:|---:|")
    for mode, found in runs.items():
        rate, cpu, rss = (statistics.median(run[key] for run in found) for key in ("rate", "cpu", "rss"))
        dropped = sum(run["dropped"] for run in found)
        print(f"| {mode} | {rate:,.0f} | {cpu * 1000:.0f} | {rss / 1e6:.0f} | {dropped} |")
    gaps = sorted(gap for run in runs[MODES[2]] for gap in run["gaps"])
    late = sum(gap > 50 for gap in gaps)
    print(
        f"\nFrames of the open page: {statistics.median(gaps):.1f} ms apart (median), 99 of 100 within "
        f"{gaps[len(gaps) * 99 // 100]:.0f} ms, the longest {gaps[-1]:.0f} ms; {late} of {len(gaps):,} took over 50 ms."
    )
    return 0
