"""Exchanges as HAR entries: held to har-schema, and what stands in an entry."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft6Validator, FormatChecker
from referencing import Registry, Resource

from sniffer.exchanges import Exchange
from sniffer.har import URL_BYTES, entry_of
from sniffer.record.message import Endpoint, Fields, HttpMessage, Placement, from_raw
from tests.conversations import Dialogue
from tests.daemon import ROOT
from tests.deliveries import answer, message
from tests.laws import Table

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
                "end_timestamp": "2026-01-02T03:04:05.005000Z",
                "authority": "shop.example:8080",
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
                "end_timestamp": "2026-01-02T03:04:05.027500Z",
                "latency_ms": 15.0,
                "duration_ms": 27.5,
                "body": "{}",
                "body_size": 2,
            },
        )
    )
    assert made["startedDateTime"] == "2026-01-02T03:04:05.000000Z"
    assert made["timings"] == {
        "blocked": -1,
        "dns": -1,
        "connect": -1,
        "ssl": -1,
        "send": 5,
        "wait": 15,
        "receive": 7.5,
    }
    assert made["time"] == 27.5
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


# Timings, of real packets. A packet of a dialogue comes a millisecond after the one before it.


GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /up HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"


def captured(dialogue: Dialogue) -> list[dict[str, Any]]:
    """The entries of what the core reads, in the order of the exchanges."""
    found: dict[int, dict[str, HttpMessage]] = {}
    for raw in Table().run(dialogue.packets):
        found.setdefault(raw.exchange, {})[raw.direction] = from_raw(raw)
    return [entry(Exchange(one.get("request"), one.get("response"))) for _, one in sorted(found.items())]


def phases(made: dict[str, Any]) -> tuple[float, float, float, float]:
    """`send`, `wait`, `receive` and `time`, which is the sum of those that are known."""
    timings = made["timings"]
    assert all(timings[name] == -1 for name in ("blocked", "dns", "connect", "ssl"))
    known = [value for value in timings.values() if value != -1]
    assert all(value >= 0 for value in known)
    assert made["time"] == pytest.approx(sum(known))
    assert "-0.0" not in json.dumps(made)
    return timings["send"], timings["wait"], timings["receive"], made["time"]


def test_timings_of_messages_in_pieces() -> None:
    """`send` and `receive` are the times of the messages themselves, `wait` the time between them."""
    dialogue = Dialogue()
    for part in (POST, b"01234", b"56789"):
        dialogue.client(part)
    dialogue.wait(4500)
    for part in (OK, b"01234", b"5", b"6789"):
        dialogue.server(part)
    (made,) = captured(dialogue)
    assert phases(made) == (2, 5.5, 3, 10.5)


def test_timings_of_pipelined_requests() -> None:
    """Each pipelined request has the times of its own bytes; the response waits for those before it."""
    dialogue = Dialogue()
    dialogue.client(GET + GET[:7])
    dialogue.client(GET[7:] + GET)
    whole = OK + b"0123456789"
    dialogue.server(whole + whole[:20])
    dialogue.server(whole[20:] + whole[:-1])
    dialogue.server(whole[-1:])
    assert [phases(made) for made in captured(dialogue)] == [(0, 2, 0, 2), (1, 1, 1, 3), (0, 2, 1, 3)]


def test_timings_after_an_interim_response() -> None:
    """`wait` is the time to the final response: a 100 (Continue) comes while the request is being sent."""
    dialogue = Dialogue()
    dialogue.client(POST.replace(b"Host", b"Expect: 100-continue\r\nHost"))
    dialogue.server(b"HTTP/1.1 100 Continue\r\n\r\n")
    dialogue.client(b"0123456789")
    dialogue.server(OK)
    dialogue.server(b"0123456789")
    (made,) = captured(dialogue)
    assert made["response"]["_informational"] == [100]
    assert phases(made) == (2, 1, 1, 4)


@given(st.text("ab=&%+2f;é ", max_size=12))
def test_query(query: str) -> None:
    """The parameters are those of parse_qsl, blank ones included, whether anything is encoded or not."""
    expected = [{"name": name, "value": value} for name, value in parse_qsl(query, keep_blank_values=True)]
    assert entry_of(pair({"path": f"/?{query}"}))["request"]["queryString"] == expected


@given(st.text(st.characters(max_codepoint=255), max_size=12))
def test_url_is_quoted(path: str) -> None:
    """What a URL may not hold is percent-encoded, and nothing else is."""
    made = entry_of(pair({"path": f"/{path}", "authority": "h"}))["request"]["url"]
    assert made == quote(f"http://h/{path}", safe=URL_BYTES, encoding="latin-1")


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        ("end of the request", (-1, -1, 1, 1)),
        ("middle of the request", (2, 1, 1, 4)),
        ("end of the response", (2, 1, -1, 3)),
        ("middle of the response", (2, 1, 2, 5)),
    ],
)
def test_timings_beside_lost_bytes(lost: str, expected: tuple[float, ...]) -> None:
    """What a lost byte begins or ends is unknown, -1; a loss within a message changes none of its times."""
    dialogue = Dialogue()
    dialogue.client(POST)
    dialogue.client(b"01234", lost=lost == "middle of the request")
    dialogue.client(b"56789", lost=lost == "end of the request")
    dialogue.server(OK)
    if "response" in lost:
        dialogue.server(b"01234", lost=lost == "middle of the response")
        dialogue.server(b"56789", lost=lost == "end of the response")
    else:
        dialogue.server(b"0123456789")
    dialogue.client(GET)
    dialogue.server(OK + b"0123456789")
    made, after = captured(dialogue)
    assert made["request"].get("_incomplete", made["response"].get("_incomplete")) == "gap"
    assert phases(made) == expected
    assert phases(after) == (0, 1, 0, 1)


def test_timings_of_an_early_response() -> None:
    """A response that begins before the request ends was not waited for: `wait` does not apply, -1."""
    dialogue = Dialogue()
    dialogue.client(POST)
    dialogue.client(b"01234")
    dialogue.server(b"HTTP/1.1 413 Too Large\r\nContent-Length: 10\r\n\r\n")
    dialogue.client(b"56789")
    dialogue.server(b"0123456789")
    (made,) = captured(dialogue)
    assert made["response"]["status"] == 413
    assert phases(made) == (3, -1, 2, 5)


@pytest.mark.parametrize(("sides", "expected"), [("client", (1, -1, -1, 1)), ("server", (-1, -1, 1, 1))])
def test_timings_of_one_side(sides: str, expected: tuple[float, ...]) -> None:
    """Where one direction was captured alone, the times of the other are unknown."""
    dialogue = Dialogue()
    for part in (POST, b"0123456789"):
        dialogue.client(part, lost=sides == "server")
    for part in (OK, b"0123456789"):
        dialogue.server(part, lost=sides == "client")
    (made,) = captured(dialogue)
    assert phases(made) == expected


BEGAN = "2026-01-02T03:04:05.000000Z"


@pytest.mark.parametrize(
    ("incomplete", "latency", "duration", "expected"),
    [
        (None, 2.0, 6.0, (3, 2, 1, 6)),
        (None, None, None, (3, -1, 1, 4)),
        ("closed", None, None, (-1, -1, -1, 0)),
        ("closed", 2.0, None, (3, 2, -1, 5)),
        ("gap", None, 6.0, (-1, -1, 1, 1)),
    ],
)
def test_the_end_of_an_incomplete_message(
    incomplete: str | None, latency: float | None, duration: float | None, expected: tuple[float, ...]
) -> None:
    """The end of a message that is not whole is known only if the record has a time that needs it."""
    request = {"timestamp": BEGAN, "end_timestamp": BEGAN.replace(".000", ".003"), "incomplete": incomplete}
    times = {"timestamp": BEGAN.replace(".000", ".005"), "end_timestamp": BEGAN.replace(".000", ".006")}
    response = {**times, "incomplete": incomplete, "latency_ms": latency, "duration_ms": duration}
    assert phases(entry(pair(request, response))) == expected


def test_bytes_out_of_order() -> None:
    """A message whose last byte came before its first has no time that could be measured: -1, not a negative one."""
    early = {"timestamp": BEGAN, "end_timestamp": BEGAN.replace("05.", "04.")}
    assert phases(entry(pair(early, early))) == (-1, -1, -1, 0)


@given(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7), st.integers(0, 10**7)))
def test_known_phases_make_the_duration(micros: tuple[int, int, int]) -> None:
    """If all three phases are known they add up to `durationMs`, without an error of floating point."""
    sent, waited, received = micros
    points = [0, sent, sent + waited, sum(micros)]
    start = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    stamps = [(start + timedelta(microseconds=each)).strftime("%Y-%m-%dT%H:%M:%S.%fZ") for each in points]
    made = entry(
        pair(
            {"timestamp": stamps[0], "end_timestamp": stamps[1]},
            {
                "timestamp": stamps[2],
                "end_timestamp": stamps[3],
                "latency_ms": waited / 1000,
                "duration_ms": points[3] / 1000,
            },
        )
    )
    assert phases(made) == (sent / 1000, waited / 1000, received / 1000, points[3] / 1000)


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
    """A response without its request has the URL that it knows, and says why the request is missing."""
    made = entry(Exchange(None, answer(alone=True)))
    assert (made["request"]["method"], made["request"]["url"]) == ("", "http://192.0.2.1:8080/")
    assert made["comment"] == "the request was not captured"
    late = entry(Exchange(None, answer(3)))
    assert (late["request"]["method"], late["request"]["url"]) == ("GET", "http://shop.example/0/3")
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
    ("method", "path", "authority", "url"),
    [
        ("GET", "/", "h.example", "http://h.example/"),
        ("GET", '/a b\u00e9"<>', "h.example", "http://h.example/a%20b%E9%22%3C%3E"),
        ("GET", "/?sig=[REDACTED]", "h.example", "http://h.example/?sig=[REDACTED]"),
        ("GET", "http://other.example/x", "other.example", "http://other.example/x"),
        ("GET", "https://other.example/x", "other.example", "https://other.example/x"),
        ("CONNECT", "h.example:443", "h.example:443", "http://h.example:443/"),
        ("CONNECT", "\u00ff/", "h.example", "http://h.example/"),
        ("CONNECT", "\u00ff/", None, "http://192.0.2.1:8080/"),
        ("OPTIONS", "*", "h.example", "http://h.example/*"),
        ("GET", "/", "[::1]:80", "http://[::1]:80/"),
        ("GET", "/", None, "http://192.0.2.1:8080/"),
    ],
)
def test_url(method: str, path: str, authority: str | None, url: str) -> None:
    """The URL is absolute and of URL characters, with the authority; with the server's address if that is unknown."""
    fields = {"method": method, "path": path, "authority": authority}
    assert entry(pair(fields))["request"]["url"] == url
    assert entry(Exchange(None, pair(None, fields).response))["request"]["url"] == url


@pytest.mark.parametrize(
    ("host", "url"),
    [(b"Shop.Example:80", "http://shop.example:80/x"), (b"evil/<script>", "http://198.51.100.7:80/x"),
     (b"", "http://198.51.100.7:80/x")],
)  # fmt: skip
def test_url_of_what_was_captured(host: bytes, url: str) -> None:
    """A Host field that is no host is not made part of a URL."""
    dialogue = Dialogue()
    dialogue.client(b"GET /x HTTP/1.1\r\nHost: %b\r\n\r\n" % host)
    dialogue.server(OK + b"0123456789")
    (made,) = captured(dialogue)
    assert made["request"]["url"] == url


def test_url_of_ipv6() -> None:
    """An IPv6 address stands in brackets."""
    made = entry(pair({"receiver": Endpoint("2001:db8::1", 80), "authority": None}))
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
