"""One line for each exchange, and how times and sizes are written.

Every text from the wire passes `printable`, so no captured text can steer the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from rich.segment import Segment
from rich.style import Style

from sniffer.exchanges import Exchange, marks
from sniffer.logs import printable

if TYPE_CHECKING:
    from sniffer.record.message import Endpoint, HttpMessage

WIDE: Final = 140
"""Characters of a terminal from which on a line has room for host and content type, where they fit."""
LEAST_PATH: Final = 20
"""Characters of method and path; for fewer, other columns are left out."""
MOST_ENDS: Final = 50
"""Characters of client and server."""

DIM: Final = Style(dim=True)
PLAIN: Final = Style()
BOLD: Final = Style(bold=True)
MARK: Final = Style(color="yellow")
STATUS: Final = {
    1: Style(color="magenta"),
    2: Style(color="green"),
    3: Style(color="cyan"),
    4: Style(color="yellow"),
    5: Style(color="red", bold=True),
}
NO_STATUS: Final = "---"


class Columns(NamedTuple):
    """What a line shows beside method, path and status."""

    duration: bool = True
    milliseconds: bool = True
    """Of the time of day."""
    server: bool = True
    """The server's address, not only its port."""
    sizes: bool = True
    ends: bool = True
    latency: bool = True
    time: bool = True

    def fixed(self, ends: int) -> int:
        """The width of everything but method and path, if client and server take `ends` characters."""
        width = 1 + len(NO_STATUS)
        if self.time:
            width += 9 + 4 * self.milliseconds
        if self.ends:
            width += 1 + ends
        width += 10 * (self.latency + self.duration)
        if self.sizes:
            width += 12
        return width


LAYOUTS: Final = (
    Columns(),
    Columns(server=False),
    Columns(server=False, milliseconds=False),
    Columns(server=False, milliseconds=False, duration=False),
    Columns(server=False, milliseconds=False, duration=False, sizes=False),
    Columns(server=False, milliseconds=False, duration=False, sizes=False, ends=False),
    Columns(server=False, milliseconds=False, duration=False, sizes=False, ends=False, latency=False),
    Columns(server=False, milliseconds=False, duration=False, sizes=False, ends=False, latency=False, time=False),
)
"""For terminals of all widths, the widest first."""


class Lines:
    """Makes the line of an exchange, which is never longer than the terminal is wide.

    The columns of client and server grow with the longest address so far.
    """

    def __init__(self, *, ascii_only: bool = False) -> None:
        self._arrow, self._up, self._down, self._more = ("->", "^", "v", "...") if ascii_only else ("→", "↑", "↓", "…")
        self._ends = {True: 0, False: 0}

    def line(self, exchange: Exchange, width: int, *, lossy: bool = False) -> list[Segment]:
        """The line, without a line end. `lossy`: messages were dropped on the way here."""
        response = exchange.response
        message = exchange.message
        ends = {
            full: f"{address(message.destination)} {self._arrow} "
            + (address(message.receiver) if full else f":{message.receiver.port}")
            for full in (True, False)
        }
        for full, text in ends.items():
            self._ends[full] = max(self._ends[full], min(len(text), MOST_ENDS))
        for columns in LAYOUTS:
            rest = width - columns.fixed(self._ends[columns.server])
            if rest >= LEAST_PATH:
                break
        line: list[Segment] = []
        if columns.time:
            second, microsecond = divmod(message.timestamp_us, 1_000_000)
            milliseconds = f".{microsecond // 1000:03}" if columns.milliseconds else ""
            line.append(Segment(f"{_clock(second)}{milliseconds} ", DIM))
        if columns.ends:
            size = self._ends[columns.server]
            line.append(Segment(f"{self._crop(ends[columns.server], size):<{size}} ", PLAIN))
        found = marks(exchange, lossy=lossy)
        about = _about(exchange) if width >= WIDE else ()
        line += self._target(message, f"! {', '.join(found)}" if found else "", max(rest, 1), about)
        status = response.status_code if response is not None else None
        style = MARK if status is None else STATUS.get(status // 100, PLAIN)
        line.append(Segment(f" {NO_STATUS if status is None else status:>3}", style))
        if columns.latency:
            line.append(Segment(_time(response.latency_ms if response is not None else None), PLAIN))
        if columns.duration:
            line.append(Segment(_time(response.duration_ms if response is not None else None), DIM))
        if columns.sizes:
            up, down = (NO_STATUS if part is None else amount(part.body_size) for part in exchange)
            line.append(Segment(f" {self._up}{up:>4} {self._down}{down:>4}", DIM))
        return line

    def _target(self, message: HttpMessage, marks: str, width: int, about: Sequence[str]) -> list[Segment]:
        method = printable(message.method or "?")
        path = printable((message.path or message.route_id or "?")[: width + 1])
        shown = (
            self._crop(marks, max(width - 1 - min(len(method) + 1 + len(path), LEAST_PATH // 2), 1)) if marks else ""
        )
        rest = width - (len(shown) + 1 if shown else 0)
        target = self._crop(f"{method} {path}", max(rest, 1))
        method, blank, path = target.partition(" ")
        line = [Segment(method, BOLD), Segment(blank + path, PLAIN)]
        room = rest - len(target)
        for texts in (about, about[:1]):  # the host and the type, else the host
            extra = "  ".join(texts)
            if extra and len(extra) + 2 <= room:
                line += [Segment(" " * (room - len(extra)), PLAIN), Segment(extra, DIM)]
                room = 0
        line.append(Segment(" " * room, PLAIN))
        if shown:
            line.append(Segment(" " + shown, MARK))
        return line

    def _crop(self, text: str, width: int) -> str:
        if len(text) <= width:
            return text
        return text[: width - len(self._more)] + self._more if width > len(self._more) else text[:width]


def _about(exchange: Exchange) -> list[str]:
    """The host that was asked, and the content type of the answer, where they are known."""
    kind = exchange.response.headers.get("content-type") if exchange.response is not None else None
    texts = (exchange.message.authority, kind.partition(";")[0] if isinstance(kind, str) else None)
    return [printable(text[:MOST_ENDS]) for text in texts if text]


def address(end: Endpoint) -> str:
    """An address with its port."""
    return f"[{end.ip}]:{end.port}" if ":" in end.ip else f"{end.ip}:{end.port}"


@lru_cache(maxsize=64)
def _clock(second: int) -> str:
    """The local time of day, of a second since 1970, UTC."""
    return datetime.fromtimestamp(second, UTC).astimezone().strftime("%H:%M:%S")


def _time(milliseconds: float | None) -> str:
    return f" {'' if milliseconds is None else duration(milliseconds):>9}"


def duration(milliseconds: float) -> str:
    """A time in at most nine characters."""
    if milliseconds < 9999.95:
        return f"{milliseconds:.1f} ms"
    seconds = milliseconds / 1000
    return f"{seconds:.1f} s" if seconds < 99_999.95 else f"{min(seconds, 9_999_999):.0f} s"


def amount(size: int) -> str:
    """A number of bytes in at most four characters."""
    value, unit = float(size), ""
    for bigger in ("k", "M", "G", "T", "P"):
        if value < 999.5:
            break
        value, unit = value / 1000, bigger
    return f"{value:.1f}{unit}" if unit and value < 9.95 else f"{min(value, 999):.0f}{unit}"
