"""Pictures of the program, for the documents: `make screenshots` writes docs/*.svg and docs/*.webp.

They are what a pseudo terminal and a headless Chromium show while the real program runs.
"""

from __future__ import annotations

import asyncio
import io
import json
import random
import re
import sys
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.style import Style
from rich.text import Text

from tests.browser import CHROMIUM, Page, chromium
from tests.captures import connection, write
from tests.daemon import ROOT, Daemon
from tests.packets import Packet
from tests.terminals import Terminal

COLUMNS = 110
DEMO = ("--ports", "8080", "--read", "tests/data/demo.pcap")
COLORS = {"brown": "yellow", "default": None}
FORMAT = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
"""Without the fonts that rich would have fetched from elsewhere."""


def lines(terminal: Terminal) -> Iterator[Text]:
    """The rows of the screen, in their colours."""
    screen = terminal.screen
    for number in range(len(terminal.rows)):
        row = screen.buffer[number]
        line = Text()
        for (color, bold), cells in groupby(
            (row[at] for at in range(screen.columns)), lambda cell: (cell.fg, cell.bold)
        ):
            text = "".join(cell.data for cell in cells)
            line.append(text, Style(color=COLORS.get(color, color), bold=bold))
        line.rstrip()
        yield line


def picture(*arguments: str, rows: int = 40) -> str:
    """The screen after the program has run, as SVG."""
    with Terminal(*arguments, columns=COLUMNS, rows=rows) as terminal:
        assert terminal.end() == 0
        console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
        console.print(Text(f"$ tcp-sniffer {' '.join(arguments)}", "dim"))
        for line in lines(terminal):
            console.print(line, no_wrap=True, crop=True)
    return console.export_svg(title="tcp-sniffer", code_format=FORMAT, unique_id="tcp-sniffer")


# The live view

SECONDS_OF_TRAFFIC = 280
CALLS = (
    (30, "GET", "/cart", 200, 2.1),
    (24, "GET", "/catalog?page={}", 200, 4.0),
    (10, "GET", "/catalog/{}/reviews", 304, 1.2),
    (9, "POST", "/orders", 201, 14.0),
    (6, "GET", "/orders/{}", 200, 6.0),
    (5, "PUT", "/cart/items/{}", 204, 3.5),
    (4, "GET", "/account", 401, 0.9),
    (3, "GET", "/missing/{}", 404, 0.8),
    (2, "DELETE", "/cart/items/{}", 204, 2.8),
    (1, "POST", "/payments", 503, 220.0),
)
"""How often, method, path, status, milliseconds."""


def shop() -> Iterator[Packet]:
    """Some minutes of a shop's traffic: calls of different kinds, more and less of them, some slow."""
    dice = random.Random(8)
    start, port = 1_795_600_000_000_000, 20000
    weights = [call[0] for call in CALLS]
    for second in range(SECONDS_OF_TRAFFIC):
        wave = 4 + 3 * (1 + dice.random()) * (1.4 if 90 < second < 160 else 0.6)
        for _ in range(round(wave)):
            _, method, path, status, mean = dice.choices(CALLS, weights)[0]
            milliseconds = mean * dice.lognormvariate(0, 0.6) * (2.5 if 120 < second < 150 else 1)
            path = path.format(dice.randrange(100, 999))
            port = 20000 + (port - 19999) % 40000
            yield from _call(
                dice, start + second * 1_000_000 + dice.randrange(900_000), port, method, path, status, milliseconds
            )


def _call(
    dice: random.Random, start: int, port: int, method: str, path: str, status: int, milliseconds: float
) -> Iterator[Packet]:
    sent = json.dumps({"sku": f"A-{dice.randrange(99)}", "n": 2, "gift": False}) if method in ("POST", "PUT") else ""
    answer = {
        200: {"items": [{"sku": "A-17", "title": "Kettle, 1.7 l", "n": 2, "price": "23.80"}], "total": "47.60"},
        201: {"order": dice.randrange(4000, 5000), "state": "accepted", "items": 2, "express": True},
        401: {"error": "sign in first"},
        404: {"error": "no such thing"},
        503: {"error": "the bank does not answer", "retry": 30},
    }.get(status)
    got = json.dumps(answer) if answer else ""
    host = "bank.example" if path == "/payments" else "shop.example"
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: shop-web/2.4\r\nAccept: application/json\r\n"
        "Authorization: Bearer eyJhbGciOi\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
    )
    head += f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n" if sent else ""
    reasons = {200: "OK", 201: "Created", 204: "No Content", 304: "Not Modified", 401: "Unauthorized", 404: "Not Found"}
    back = f"HTTP/1.1 {status} {reasons.get(status, 'Service Unavailable')}\r\nServer: shop\r\n"
    back += "Content-Type: application/json\r\n" if got else ""
    back += f"Content-Length: {len(got)}\r\n" if status not in (204, 304) else ""
    packets = connection([(f"{head}\r\n{sent}".encode(), f"{back}\r\n{got}".encode())], client_port=port, start=start)
    for number, packet in enumerate(packets):  # from the response on, later by the latency
        yield packet if number < 4 else Packet(packet.stamp + round(milliseconds * 1000), packet.data)


async def live_view() -> Iterator[Path]:
    """Takes the pictures of the page: in light and dark, with an exchange, at the width of a phone."""
    made = []
    with tempfile.TemporaryDirectory() as folder:
        capture = Path(folder) / "shop.pcap"
        write(capture, sorted(shop(), key=lambda packet: packet.stamp))
        with Daemon("--ports", "8080", "--read", str(capture), "--ui") as daemon:
            url = daemon.log("live view")["url"]
            daemon.log("stopped")
            async with chromium() as browser:
                page = await browser.page()
                await page.size(1280, 800)
                await page.go(url)
                await page.wait("document.querySelectorAll('.line:not([hidden])').length > 10")
                await page.wait("document.querySelector('#state').textContent === 'file read'")
                made.append(await _take(page, "live-view.webp"))
                await page.media(prefers_color_scheme="dark")
                await page.eval(
                    "[...document.querySelectorAll('.line:not([hidden])')]"
                    ".find(line => /^POST$/.test(line.querySelector('.method').textContent)).click()"
                )
                await page.wait("!!document.querySelector('article pre')")
                made.append(await _take(page, "live-view-exchange.webp"))
                await page.press("Escape")
                await page.size(390, 760, scale=1.5, mobile=True)
                await page.media(prefers_color_scheme="light")
                made.append(await _take(page, "live-view-phone.webp"))
            daemon.stop()
    return iter(made)


async def _take(page: Page, name: str) -> Path:
    for _ in range(3):
        await page.eval("new Promise(requestAnimationFrame)")
    path = ROOT / "docs" / name
    path.write_bytes(await page.screenshot("webp", quality=75))
    return path


def main() -> int:
    """Writes the pictures."""
    path = ROOT / "docs" / "view.svg"
    path.write_text(picture(*DEMO))
    print(path.relative_to(ROOT))
    if CHROMIUM is None:
        print(
            "no chromium here (apt install chromium): the pictures of the live view stay as they are", file=sys.stderr
        )
        return 1
    for path in asyncio.run(live_view()):
        print(path.relative_to(ROOT), f"{path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
