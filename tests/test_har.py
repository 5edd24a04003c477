"""Exchanges as HAR entries: held to har-schema, and what stands in an entry."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft6Validator, FormatChecker
from referencing import Registry, Resource

from sniffer.exchanges import Exchange
from sniffer.har import entry_of
from sniffer.record.message import Endpoint, Fields, Placement
from tests.daemon import ROOT
from tests.deliveries import answer, message

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
