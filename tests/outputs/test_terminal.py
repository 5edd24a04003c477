"""The terminal view: its lines and summary here, the daemon at a pseudo terminal below."""

from __future__ import annotations

import contextlib
import html
import http.client
import json
import math
import re
import signal
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer.exchanges import Exchange
from sniffer.logs import CONTROLS
from sniffer.outputs.terminal.details import details, pretty_json
from sniffer.outputs.terminal.lines import LAYOUTS, Lines, amount, duration
from sniffer.outputs.terminal.summary import MOST_ENDPOINTS, SLOWEST, Summary, endpoint_of
from sniffer.outputs.terminal.view import View
from sniffer.record.message import Endpoint, Fields
from tests.captures import connection, get, ok, write
from tests.daemon import DEMO, ROOT, SECONDS, exchanges, free_port, needs_capture, web_server
from tests.deliveries import answer, message
from tests.screenshots import COLUMNS
from tests.terminals import INTERRUPT, Terminal
from tests.test_screen import facts, text_of
from tests.waiting import wait_until

READ_DEMO = ("--ports", "8080", "--read", str(DEMO))
LINE = re.compile(r"^\d\d:\d\d:\d\d")


def exchange(number: int = 0, *, latency: float | None = 1.5, **changes: Any) -> Exchange:
    """A whole exchange; `changes` are the response's."""
    return Exchange(message(number), msgspec.structs.replace(answer(number), latency_ms=latency, **changes))


def shown(one: Exchange, width: int = 120, *, ascii_only: bool = False) -> str:
    """The line of an exchange, as text."""
    return "".join(segment.text for segment in Lines(ascii_only=ascii_only).line(one, width))


# Lines


def test_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line has time, both ends, method, path, status, latency, duration and sizes."""
    text = shown(exchange(body_size=1234, duration_ms=23.4))
    assert re.fullmatch(
        r"\d\d:\d\d:05\.000 192\.0\.2\.2:40000 → 192\.0\.2\.1:8080 GET /0/0 +200    1\.5 ms   23\.4 ms ↑   0 ↓1\.2k",
        text,
    )
    assert len(text) == 120


def test_times_that_are_not_known_are_blank() -> None:
    """A latency or a duration that was not measured is not shown as 0."""
    assert re.search(r" 200 {21}↑", shown(exchange(latency=None)))
    assert re.search(r" 200 {14}9\.0 ms ↑", shown(exchange(latency=None, duration_ms=9.0)))


def test_the_duration_is_shown_where_it_fits() -> None:
    """The latency stays on terminals that have no room for the duration."""
    assert ["7.0 ms" in shown(exchange(duration_ms=7.0), width) for width in (120, 100, 90, 80, 60)] == [
        *[True] * 3,
        *[False] * 2,
    ]
    assert "1.5 ms" in shown(exchange(duration_ms=7.0), 60)


def test_line_in_ascii() -> None:
    """A terminal without Unicode gets the same in ASCII."""
    assert shown(exchange(body_size=7), ascii_only=True).isascii()


def test_line_with_ipv6() -> None:
    """IPv6 addresses stand in brackets."""
    one = Exchange(msgspec.structs.replace(message(), receiver=Endpoint("2001:db8::1", 80)), None)
    assert "→ [2001:db8::1]:80" in shown(one)


@pytest.mark.parametrize(
    ("one", "says"),
    [
        (Exchange(message(), None), "! no response ---"),
        (Exchange(None, answer(alone=True)), "! no request 200"),
        (Exchange(None, answer()), "! late response 200"),
        (exchange(incomplete="gap", missing_bytes=1448), "! response cut: gap of 1448 B 200"),
        (exchange(resynced=True), "! response resynced 200"),
        (exchange(anomalies=("te-and-cl", "bare-lf")), "! te-and-cl, bare-lf 200"),
    ],
)
def test_marks(one: Exchange, says: str) -> None:
    """What is incomplete, unpaired or odd is said on the line."""
    assert says in shown(one)


def test_after_drops_nothing_is_said_to_be_missing() -> None:
    """Once messages were dropped on the way here, what is alone may have had a partner: no mark says it had none."""
    for one, says in ((Exchange(message(), None), "response dropped?"), (Exchange(None, answer()), "request dropped?")):
        assert f"! {says} " in "".join(segment.text for segment in Lines().line(one, 120, lossy=True))


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80, 100])
def test_narrow_lines(width: int) -> None:
    """On a narrow terminal columns are left out, the path is cut, and the line fills the width exactly."""
    long = Exchange(
        msgspec.structs.replace(message(), path="/" + "a" * 500),
        msgspec.structs.replace(answer(), incomplete="gap", latency_ms=123456.0),
    )
    text = shown(long, width)
    assert len(text) == width
    assert "GET" in text
    assert "200" in text
    assert "…" in text


def test_layouts_shrink() -> None:
    """Each layout takes less than the one before it."""
    widths = [columns.fixed(34 if columns.server else 24) for columns in LAYOUTS]
    assert widths == sorted(set(widths), reverse=True)


@given(
    st.text(max_size=80),
    st.text(max_size=300),
    st.integers(20, 200),
    st.integers(100, 999),
    st.floats(0, 1e12),
    st.integers(0, 1 << 60),
)
def test_no_line_can_steer_a_terminal(
    method: str, path: str, width: int, status: int, latency: float, size: int
) -> None:
    """Whatever was captured, a line is one line, has no control or bidi character, and is no longer than the width."""
    response = msgspec.structs.replace(answer(), status_code=status, latency_ms=latency, body_size=size)
    text = shown(Exchange(msgspec.structs.replace(message(), method=method, path=path), response), width)
    assert not CONTROLS.search(text)
    assert len(text) <= width


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0"), (999, "999"), (1000, "1.0k"), (9949, "9.9k"), (9999, "10k"), (999_499, "999k"), (999_500, "1.0M")],
)
def test_amount(size: int, text: str) -> None:
    """Sizes are shown in at most four characters."""
    assert amount(size) == text
    assert len(amount(1 << 59)) <= 4


def test_duration() -> None:
    """Latencies are shown in milliseconds, the longest in seconds, in at most nine characters."""
    assert [duration(value) for value in (0.04, 9999.94, 9999.99, 1e8)] == ["0.0 ms", "9999.9 ms", "10.0 s", "100000 s"]
    assert len(duration(1e12)) <= 9


# Heads and bodies


def detailed(one: Exchange, width: int = 80, *, bodies: bool = True) -> list[str]:
    """The lines below an exchange, as text."""
    return ["".join(segment.text for segment in line) for line in details(one, width, bodies=bodies)]


def with_body(body: str, kind: str, **changes: Any) -> Exchange:
    """An exchange whose response has this body, of this content type."""
    return exchange(headers=Fields({"content-type": kind}), body=body, body_size=len(body), **changes)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('{"a":1,"a":[1.50,{}],"b":"x,{\\"y"}', ["{", '  "a": 1,', '  "a": [', "    1.50,", "    {}", "  ],"]),
        ('{"a":[1,{"b":"cut in the mid', ["{", '  "a": [', "    1,", "    {", '      "b": "cut in the mid']),
        ('{"a":1}\n{"a":2}', ["{", '  "a": 1', "}", "{", '  "a": 2', "}"]),
        ("]]}} no json: [", ["]", "]", "}", "}", "no", "json: ["]),
        ("", []),
    ],
)
def test_pretty_json(text: str, lines: list[str]) -> None:
    """JSON is indented by its marks: doubled keys and numbers stay, and what is cut is shown as far as it goes."""
    assert list(pretty_json(text))[: len(lines)] == lines


@given(st.text(alphabet='{}[]",:\\ a1\n', max_size=200))
def test_pretty_json_shows_what_was_sent(text: str) -> None:
    """Whatever the text is, nothing but blanks is added or lost."""
    assert re.sub(r"\s", "", "".join(pretty_json(text))) == re.sub(r"\s", "", text)


def test_heads_and_bodies() -> None:
    """Both start lines and all fields are shown, then the bodies by their type; with heads alone no body is."""
    one = with_body('{"token":"[REDACTED]"}', "application/json")
    lines = detailed(one)
    at = lines.index("  < content-type: application/json")
    assert lines[at + 1 : at + 5] == ["  < ", "  < {", '  <   "token": "[REDACTED]"', "  < }"]
    assert any(line.startswith("  > GET /0/0 HTTP/1.1") for line in lines)
    assert not any("REDACTED" in line for line in detailed(one, bodies=False))
    form = detailed(with_body("a=1%2B1&b=x+y", "application/x-www-form-urlencoded"))
    assert form[-3:-1] == ["  < a = 1+1", "  < b = x y"]
    assert detailed(with_body("AAEC", "image/png", body_encoding="base64"))[-2] == "  < image/png, 4 bytes"


def test_bodies_are_cut_with_a_mark() -> None:
    """A long body, a long line and a body that the capture has cut say so; each line fits."""
    lines = detailed(with_body("line\n" * 100, "text/plain", body_truncated=True), 40)
    assert lines[-3:-1] == ["  < … 60 more lines", "  < … cut by the capture: 500 bytes were "[:39] + "…"]
    (long,) = [line for line in detailed(with_body("x" * 500, "text/plain"), 60) if "xx" in line]
    assert (len(long), long[-1]) == (60, "…")
    assert "  < … 7,232 more characters" in detailed(with_body("x" * 40_000, "text/plain"))
    assert detailed(exchange(body=None, body_size=9, body_redacted="all"))[-2].startswith("  < 9 bytes, left out")


def test_bodies_cannot_steer_a_terminal() -> None:
    """Controls in fields and bodies are escaped, in forms behind their decoding too."""
    hostile = "\x1b]0;x\x07\x9b2J\u202e"
    for body, kind in ((hostile, "text/plain"), ("a=%1b%5d0", "application/x-www-form-urlencoded"), (hostile, hostile)):
        assert not any(CONTROLS.search(line) for line in detailed(with_body(body, kind)))


def test_verbose_at_a_terminal() -> None:
    """`-vv` shows heads and bodies below each line of a file, redacted; the lines and the summary stay."""
    with Terminal(*READ_DEMO, "-vv", columns=120, rows=400) as terminal:
        assert terminal.end() == 0
        rows = terminal.rows
    assert len([row for row in rows if LINE.match(row)]) == 7
    assert "  > host: shop.example" in rows
    assert '  <   "total": "23.80"' in rows
    assert rows[-1].split() == ["drops", "none"]


def test_host_and_type_where_there_is_room() -> None:
    """On a wide terminal a line has the host and the content type too; a long path keeps its place."""
    one = with_body("{}", "application/json; charset=utf-8")
    assert "shop.example  application/json 200" in shown(one, 160)
    assert len(shown(one, 160)) == 160
    assert "shop.example" not in shown(one, 120)
    long = Exchange(msgspec.structs.replace(message(), path="/" + "a" * 70), one.response)
    assert "a" * 70 in shown(long, 160)
    assert "json" not in shown(long, 160)


# The picture of the documents


def test_picture_is_what_the_view_shows() -> None:
    """docs/view.svg shows what the program shows today, and fetches nothing from elsewhere."""
    text = (ROOT / "docs/view.svg").read_text()
    shown = html.unescape(re.sub("<[^>]*>", "", text)).replace("\xa0", "").replace(" ", "")
    with Terminal(*READ_DEMO, columns=COLUMNS) as terminal:
        assert terminal.end() == 0
        for row in terminal.rows:
            assert row.replace(" ", "") in shown
    assert "url(http" not in text


# The summary


def summary_of(*shown_exchanges: Exchange) -> Summary:
    """A summary of these."""
    summary = Summary()
    for one in shown_exchanges:
        summary.add(one)
    return summary


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=300))
def test_percentiles(latencies: list[float]) -> None:
    """A percentile is within one percent of the exact one (nearest rank), and within the least and the greatest."""
    summary = summary_of(*(exchange(latency=latency) for latency in latencies))
    ordered = sorted(latencies)
    for share in (0.5, 0.9, 0.99, 1.0):
        exact = ordered[math.ceil(share * len(ordered)) - 1]
        assert summary.percentile(share) == pytest.approx(exact, rel=0.01)
        assert ordered[0] <= summary.percentile(share) <= ordered[-1]


def test_summary() -> None:
    """Exchanges by class, those that are incomplete or alone, percentiles, the slowest, and what was dropped."""
    summary = summary_of(
        *(exchange(number, latency=float(number)) for number in range(1, 101)),
        exchange(status_code=503, latency=5000.0, path="/slow", incomplete="closed"),
        Exchange(message(), None),
        Exchange(None, answer(alone=True)),
    )
    text = text_of(summary.table({"kernel": 12}))
    assert "103, 1 of them incomplete" in text
    assert "2xx 101  5xx 1  no request 1  no response 1" in text
    assert re.search(r"p50 5[01]\.\d ms .* max 5000\.0 ms", text)
    assert "slowest    5000.0 ms  GET /slow 503" in text
    assert text.count(" ms  GET ") == SLOWEST
    assert re.search(r"drops +kernel 12", text)
    assert "none" in text_of(Summary().table({}))


def test_summary_of_durations() -> None:
    """Durations have their own percentiles, and the summary says of how many exchanges they are."""
    times = [*range(1, 11), None]
    summary = summary_of(*(exchange(n, latency=None, duration_ms=time) for n, time in enumerate(times)))
    text = text_of(summary.table({}))
    assert "duration   p50 5.0 ms  p90 9.0 ms  p99 10.0 ms  max 10.0 ms  measured 10 of 11" in text
    assert "latency" not in text
    assert "slowest" not in text
    assert "endpoints" not in text


def called(path: str, latency: float | None, duration: float | None = None, **changes: Any) -> Exchange:
    """An exchange with this target."""
    one = exchange(latency=latency, duration_ms=duration, path=path, **changes)
    return Exchange(msgspec.structs.replace(message(), path=path), one.response)


def section(summary: Summary, name: str) -> list[str]:
    """The lines of a section of the summary, without its name."""
    lines = [line.rstrip() for line in text_of(summary.table({}), 160).splitlines()]
    first = next((at for at, line in enumerate(lines) if line.startswith(name)), len(lines))
    rest = (at for at in range(first + 1, len(lines)) if not lines[at].startswith(" "))
    return [line[11:] for line in lines[first : next(rest, len(lines))]]


def test_endpoints_by_latency() -> None:
    """The slowest endpoints by 90th percentile, each with how many of its exchanges were measured; queries are one."""
    summary = summary_of(
        *(called(f"/often?page={number}", float(number)) for number in range(1, 11)),
        called("/often", None),
        called("/seldom", 500.0),
        Exchange(msgspec.structs.replace(message(), path="/seldom"), None),
        called("/never", None),
        Exchange(None, answer(alone=True)),
        *(called(f"/other/{name}", 1.0) for name in "abcdefgh"[:SLOWEST]),
    )
    lines = section(summary, "endpoints")
    assert lines[0] == "p90  500.0 ms  measured  1 of  2  GET shop.example/seldom"
    found = re.fullmatch(r"p90 +(\d+\.\d) ms  measured 10 of 11  GET shop\.example/often", lines[1])
    assert found is not None
    assert float(found[1]) == pytest.approx(9.0, rel=0.06)
    assert len(lines) == SLOWEST
    assert "/never" not in "".join(lines)


def test_endpoints_by_total_time() -> None:
    """The endpoints that took most time in all, with their share of what was measured."""
    summary = summary_of(
        *(called("/often", 1.0, 30.0) for _ in range(20)),
        called("/slow", 1.0, 300.0),
        called("/slow", 1.0, None),
        *(called(f"/other/{name}", 1.0, 20.0) for name in "abcde"),
    )
    lines = section(summary, "most time")
    assert lines[:2] == [" 600.0 ms  60 %  GET shop.example/often", " 300.0 ms  30 %  GET shop.example/slow"]
    assert len(lines) == SLOWEST


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"path": "/a/b?c=1?d", "authority": "h:1"}, "GET h:1/a/b"),
        ({"path": "http://h/a?b", "authority": "h"}, "GET h/a"),
        ({"path": "http://h", "authority": "h"}, "GET h/"),
        ({"path": "/to?url=http://h/a", "authority": "h"}, "GET h/to"),
        ({"path": "/http://x/y", "authority": "h"}, "GET h/http://x/y"),
        ({"path": "*", "authority": "h", "method": "OPTIONS"}, "OPTIONS h/*"),
        ({"path": "h:443", "authority": "h:443", "method": "CONNECT"}, "CONNECT h:443"),
        ({"path": "/", "authority": None}, "GET 192.0.2.1:8080/"),
        ({"path": "/", "authority": None, "receiver": Endpoint("2001:db8::1", 80)}, "GET [2001:db8::1]:80/"),
    ],
)
def test_endpoint(fields: dict[str, Any], name: str) -> None:
    """An endpoint is the method, the authority or else the server's address, and the path without its query."""
    assert "".join(endpoint_of(msgspec.structs.replace(message(), **fields))) == name


def test_paths_that_differ_in_an_identifier_are_one_endpoint() -> None:
    """Times of `/orders/1` and `/orders/2` are those of one endpoint; so are those of names that are too many."""
    summary = summary_of(
        *(called(f"/orders/{number}/items", float(number), 10.0) for number in range(1, 101)),
        *(called(f"/users/u{chr(97 + number // 8)}{chr(97 + number % 8)}x", 1.0, 1.0) for number in range(50)),
    )
    assert section(summary, "most time") == [
        "1000.0 ms  95 %  GET shop.example/orders/{number}/items",
        "  50.0 ms   5 %  GET shop.example/users/{any}",
    ]
    found = re.fullmatch(r"p90 +(\d+\.\d) ms  measured 100 of 100  GET .*items", section(summary, "endpoints")[0])
    assert found is not None
    assert float(found[1]) == pytest.approx(90.0, rel=0.06)


def test_endpoints_are_bounded() -> None:
    """However many there are, a fixed number is told apart; the rest is counted together, and said to be."""
    long = "x" * 1000
    count = MOST_ENDPOINTS + 50
    tracemalloc.start()
    try:
        summary = Summary()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(count):
            for latency in range(1, 41):
                one = called(f"/a/{long}", 1.3**latency, 2.0)
                request = msgspec.structs.replace(one.message, method=long, authority=f"host-{number}")
                summary.add(Exchange(request, one.response))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(summary.endpoints) == MOST_ENDPOINTS
    assert summary.others.exchanges == summary.others.latencies.count == 50 * 40
    assert taken < 1 << 20
    assert re.search(r"measured 2,000 of 2,000  all other endpoints$", section(summary, "endpoints")[-1])
    assert section(summary, "most time")[-1] == "4000.0 ms  20 %  all other endpoints"


def test_summary_cannot_steer_a_terminal() -> None:
    """The slowest exchanges and endpoints are shown with their controls escaped, and are kept cut."""
    text = text_of(summary_of(called("/\x9b2J\x1b]0;x\x07" + "a" * 20 + "/" + "a" * 5000, 1.0, 1.0)).table({}), 1000)
    assert text.count(r"/\x9b2J\x1b]0;x\x07aaa") == 3
    assert not CONTROLS.search(text.replace("\n", ""))
    assert text.count("a") < 3 * 300


def test_summary_is_bounded() -> None:
    """However many latencies there were, a bounded number of classes is kept."""
    summary = summary_of(*(exchange(latency=1.1**number) for number in range(-100, 300)))
    assert len(summary.latencies) < 3000
    assert len(summary._slowest) == SLOWEST


# The last line


def test_last_line() -> None:
    """It shows rate, connections and drops; the rate is that of the last moments."""
    now = iter([0.0, 1.0, 2.0])
    view = View(clock=lambda: next(now))
    assert "0.0 exchanges/s" in text_of(view.last_line(facts()))
    for _ in range(30):
        view.summary.add(exchange())
    lanes = {"terminal": {"dropped_full": 2, "delivered": 5}}
    text = text_of(view.last_line(facts(flows=7, kernel_dropped=3, lanes=lanes, flows_tls=1)))
    assert "eth0  30.0 exchanges/s  7 connections  5 drops  1 unread (TLS, HTTP/2)  30 in all" in text
    assert text_of(view.last_line(facts()), 30).count("\n") == 1


# The daemon at a terminal


def test_a_file_at_a_terminal() -> None:
    """Without an output named, a file is shown as one line for each exchange, and a summary; 0."""
    with Terminal(*READ_DEMO, columns=120) as terminal:
        assert terminal.end() == 0
        rows = terminal.rows
    lines = [row for row in rows if LINE.match(row)]
    assert len(lines) == 7
    assert lines[0].startswith("03:26:25.289 127.0.0.1:37394 → 127.0.0.1:8080 GET /cart ")
    assert lines[5].split()[5:8] == ["/missing?sig=[REDACTED]", "404", "1.0"]
    assert rows[7].split() == ["exchanges", "7"]
    assert rows[8].split() == ["status", "2xx", "6", "4xx", "1"]
    assert rows[-1].split() == ["drops", "none"]
    assert not any("{" in row or "reading" in row for row in rows)


def test_stdout_at_a_terminal_is_json() -> None:
    """`--stdout` writes JSON lines, at a terminal too."""
    with Terminal(*READ_DEMO, "--stdout", columns=2000, pipes=("stderr",)) as terminal:
        assert terminal.end() == 0
        assert [json.loads(row)["schema"] for row in terminal.rows] == [1] * 14


@pytest.mark.parametrize("environ", [{"TCP_SNIFFER_PRODUCTION": "1"}, {"POD_NAME": "p"}, {"NODE_NAME": "n"}])
def test_no_view_in_production_or_in_a_pod(environ: dict[str, str]) -> None:
    """There, no output named is a configuration error that names --stdout, at a terminal as elsewhere."""
    with Terminal(*READ_DEMO, environ=environ) as terminal:
        assert terminal.end() == 1
        assert any("--stdout" in row for row in terminal.rows)


def test_no_color() -> None:
    """With NO_COLOR no colour is set, on the lines, the summary and the log."""
    with Terminal(*READ_DEMO, "--redact-headers", "none", environ={"NO_COLOR": "1"}) as terminal:
        assert terminal.end() == 0
        assert any("redact_headers is off" in row for row in terminal.rows)
        assert not re.search(rb"\x1b\[[0-9;]*[34]\d[0-9;]*m", terminal.raw)


def test_dumb_terminal() -> None:
    """A terminal that takes no controls gets none."""
    with Terminal(*READ_DEMO, environ={"TERM": "dumb"}) as terminal:
        assert terminal.end() == 0
        assert b"\x1b" not in terminal.raw
        assert len([row for row in terminal.rows if LINE.match(row)]) == 7


def test_narrow_terminal() -> None:
    """On 40 columns each exchange still is one row."""
    with Terminal(*READ_DEMO, columns=40) as terminal:
        assert terminal.end() == 0
        rows = terminal.rows
    assert rows[0].split()[1:3] == ["GET", "/cart"]
    assert rows[7].split() == ["exchanges", "7"]


def test_hostile_text_at_a_terminal(tmp_path: Path) -> None:
    """What was captured cannot steer the terminal: C1 controls in the target are shown, not sent."""
    path = write(tmp_path / "f.pcap", connection([(get("/\x9b31mred\x9d0;title\x9c"), ok())]))
    with Terminal("--ports", "8080", "--read", path) as terminal:
        assert terminal.end() == 0
        assert any(r"/\x9b31mred\x9d0;title\x9c" in row for row in terminal.rows)
        assert not re.search("[\x80-\x9f]", terminal.raw.decode())


@needs_capture
@pytest.mark.live
def test_live_view() -> None:
    """Live: each exchange as it happens, a last line, a resized window; Ctrl-C drains, sums up, and ends with 0."""
    with web_server() as port, Terminal("--ports", str(port), "--interface", "lo") as terminal:
        terminal.wait_for(lambda rows: rows and rows[-1].startswith("lo  0.0 exchanges/s"))
        exchanges(port, 5)
        terminal.wait_for(lambda rows: rows[-1].endswith("5 in all  Ctrl-C ends"))
        assert [row.split()[5] for row in terminal.rows[:-1]] == ["/0", "/1", "/2", "/3", "/4"]
        terminal.resize(40, 50)
        exchanges(port, 2)
        rows = terminal.wait_for(lambda rows: rows if len([row for row in rows if row.endswith("ms")]) == 2 else None)
        assert [row.split()[2] for row in rows if row.endswith("ms")] == ["/0", "/1"]
        terminal.type(INTERRUPT)
        assert terminal.end() == 0
        rows = terminal.rows
    assert rows[-1].split() == ["drops", "none"]
    assert ["exchanges", "7"] in [row.split() for row in rows]
    assert b"\x1b[?25h" in terminal.raw[terminal.raw.rindex(b"\x1b[?25l") :]


@needs_capture
@pytest.mark.live
def test_log_stands_above_the_last_line() -> None:
    """The log does not garble the view: its lines are rows of their own, and the last line stays the last."""
    arguments = ("--interface", "lo", "--redact-query", "none", "--log-level", "info", "--stats-interval-ms", "100")
    with web_server() as port, Terminal("--ports", str(port), *arguments, columns=250) as terminal:
        exchanges(port, 3)
        rows = terminal.wait_for(
            lambda rows: rows if len([row for row in rows if "Capture stats" in row]) > 3 else None
        )
        assert sum("redact_query is off" in row for row in rows) == 1
        for row in rows[:-1]:
            assert re.match(r"\d{4}-\d\d-\d\dT\S+ \[\w+ *\] \w", row) or LINE.match(row), row
        assert rows[-1].startswith("lo  ")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 0


@needs_capture
@pytest.mark.live
def test_a_terminal_that_hangs_up() -> None:
    """When the window is closed the daemon ends by itself, with 0: its only output is gone."""
    with web_server() as port, Terminal("--ports", str(port), "--interface", "lo") as terminal:
        terminal.wait_for(lambda rows: rows)
        terminal.hang_up()
        while terminal.process.poll() is None:
            exchanges(port, 1)
        assert terminal.end() == 0


def is_ready(port: int) -> bool:
    """Whether the daemon's /readyz answers 200."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(client):
        client.request("GET", "/readyz")
        return client.getresponse().status == 200
    return False


@needs_capture
@pytest.mark.live
def test_a_terminal_that_is_held() -> None:
    """A terminal that takes nothing holds neither the capture nor, past its deadline, the stop; what it lost is 2."""
    arguments = ("--interface", "lo", "--drain-timeout-ms", "500", "--memory-budget", "8Mi", "--metrics-port")
    metrics = free_port()
    with web_server() as port, Terminal("--ports", str(port), *arguments, str(metrics), reads=False) as terminal:
        wait_until(lambda: is_ready(metrics), "the daemon is ready")
        for _ in range(100):
            exchanges(port, 30, per_connection=30)
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 2
