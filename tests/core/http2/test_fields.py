"""protocols/http2/fields: what a field block says of a message, what is odd in it, and what must not be shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sniffer.record.message import from_raw
from sniffer_core.core import RawMessage
from tests import http2 as h
from tests.conversations import CLIENT, SERVER
from tests.core.http2.test_session import talk
from tests.records import table


def asked(*fields: h.Field, never: tuple[str, ...] = (), **options: Any) -> RawMessage:
    """The request with these fields, and whatever the options of a table are."""
    (message,) = table(**options).run(talk((CLIENT, h.headers(1, fields, end=True, never=never))).packets)
    assert message.to_json() == from_raw(message).to_json()
    return message


@pytest.mark.parametrize(
    ("fields", "anomaly"),
    [
        ((*h.REQUEST, (":path", "/other")), "pseudo-header"),
        ((*h.REQUEST, ("x", "1"), (":protocol", "x")), "pseudo-header"),
        ((*h.REQUEST, (":odd", "1")), "pseudo-header"),
        ((*h.REQUEST, (":status", "200")), "pseudo-header"),
        (h.REQUEST[:1], "pseudo-header"),
        ((*h.REQUEST, ("transfer-encoding", "chunked")), "connection-field"),
        ((*h.REQUEST, ("connection", "close")), "connection-field"),
        ((*h.REQUEST, ("keep-alive", "1")), "connection-field"),
        ((*h.REQUEST, ("proxy-connection", "1")), "connection-field"),
        ((*h.REQUEST, ("upgrade", "x")), "connection-field"),
        ((*h.REQUEST, ("te", "gzip")), "connection-field"),
        ((*h.REQUEST, ("X-Upper", "1")), "bad-field"),
        ((*h.REQUEST, ("a b", "1")), "bad-field"),
        ((*h.REQUEST, ("a", "1\r\nb: 2")), "bad-field"),
        ((*h.REQUEST, ("", "1")), "bad-field"),
        ((*h.REQUEST, ("content-length", "5")), "length-mismatch"),
    ],
)
def test_odd_blocks(fields: tuple[h.Field, ...], anomaly: str) -> None:
    """A malformed request is shown, with the name of what is odd (RFC 9113 section 8)."""
    message = asked(*fields)
    assert (message.anomalies, message.method, message.incomplete) == ((anomaly,), "GET", None)
    assert message.path in ("/", None)
    assert not {"X-Upper", "x-upper", "a b", "a", ""} & set(message.headers)


@pytest.mark.parametrize(
    "fields", [h.REQUEST, (*h.REQUEST, ("te", "trailers")), (*h.REQUEST, (":protocol", "websocket"))]
)
def test_plain_blocks(fields: tuple[h.Field, ...]) -> None:
    """What RFC 9113 and RFC 8441 allow is not marked."""
    assert asked(*fields).anomalies == ()


def test_a_head_without_pseudo_headers() -> None:
    """A block without method or status is no message, and is counted."""
    reader = table()
    assert reader.run(talk((CLIENT, h.headers(1, [("a", "b")], end=True))).packets) == []
    assert reader.run(talk((CLIENT, h.headers(1, [(":path", "/")], end=True))).packets) == []
    assert reader.counted("heads_cut") == {"heads_cut": 1}


def test_connect() -> None:
    """CONNECT has neither path nor scheme: its target is the authority, as in HTTP/1 (section 8.5)."""
    message = asked((":method", "CONNECT"), (":authority", "Example.test:443"))
    assert (message.path, message.authority, message.anomalies) == ("Example.test:443", "example.test:443", ())


def test_authority_and_trace() -> None:
    """`:authority` counts before `host`, without user info; `traceparent` gives the ids."""
    trace = ("traceparent", f"00-{'a' * 32}-{'b' * 16}-01")
    message = asked(*h.REQUEST[:2], (":authority", "u:p@A.test"), (":path", "/"), ("host", "b.test"), trace)
    assert (message.authority, message.trace_id, message.span_id) == ("a.test", "a" * 32, "b" * 16)
    assert asked(*h.REQUEST[:2], (":path", "/"), ("host", "b.test")).authority == "b.test"


def test_many_fields() -> None:
    """More fields than stand on the stack, and longer ones, are all there."""
    fields = [(f"x-{number}", "v" * 100) for number in range(400)]
    message = asked(*h.REQUEST, *fields)
    assert message.headers == dict(fields)


def test_cookies() -> None:
    """Crumbs of a cookie are joined with a semicolon (section 8.2.3)."""
    assert asked(*h.REQUEST, ("cookie", "a=1"), ("cookie", "b=2"), redact_headers=[]).headers == {"cookie": "a=1; b=2"}


SECRET = "s3cret"


@pytest.mark.parametrize("more", [0, 100])
@pytest.mark.parametrize("key", [None, b"k" * 32])
def test_never_indexed_fields_are_redacted(more: int, key: bytes | None) -> None:
    """A field that its sender declares a secret is redacted in every form, with all fields of its name."""
    fields = [(f"x-{number}", "v") for number in range(more)]
    message = asked(
        *h.request(f"/p/q?a={SECRET}&{SECRET}&b={SECRET}"), ("x-odd", SECRET), ("X-ODD".lower(), SECRET),
        ("content-type", "text/plain"), ("grpc-timeout", "1S"), *fields,
        never=(":path", "x-odd", "content-type", "grpc-timeout"), redact_headers=["authorization"], redact_key=key,
    )  # fmt: skip
    text = message.to_json().decode()
    assert SECRET not in text
    shown = json.loads(text)
    assert shown["headers"]["x-odd"].startswith("[REDACTED")
    assert (shown["headers"]["content-type"], shown["headers"]["grpc-timeout"]) == ("text/plain", "1S")
    assert shown["path"].startswith("/p/q?a=[REDACTED")
    assert shown["path"].count("[REDACTED") == 3


def test_one_of_a_name_is_never_indexed() -> None:
    """If one of two fields of a name is a secret, both are: they are one value."""
    block = h.literal(h.REQUEST) + h.literal([("x", "shown")]) + h.literal([("x", SECRET)], never=["x"])
    sent = h.frame(h.HEADERS, h.END_HEADERS | h.END_STREAM, 1, block)
    (message,) = table(redact_headers=["a"]).run(talk((CLIENT, sent)).packets)
    assert message.headers == {"x": "[REDACTED]"}
    assert message.to_json() == from_raw(message).to_json()


def test_never_indexed_trailers_are_redacted() -> None:
    """Trailers as well; and nothing is where nothing is to be redacted."""
    sent = h.headers(1, h.RESPONSE) + h.headers(1, [("x", SECRET), ("grpc-status", "0")], end=True, never=["x"])
    turns = (CLIENT, h.headers(1, h.REQUEST, end=True)), (SERVER, sent)
    (_, message) = table(redact_headers=["a"]).run(talk(*turns).packets)
    assert message.trailers == {"x": "[REDACTED]", "grpc-status": "0"}
    assert message.to_json() == from_raw(message).to_json()
    (_, message) = table(redact_headers=[]).run(talk(*turns).packets)
    assert message.trailers == {"x": SECRET, "grpc-status": "0"}


def test_redaction_by_name() -> None:
    """Fields and parameters that are redacted by name are in HTTP/2 too."""
    message = asked(
        *h.request(f"/?token={SECRET}"), ("authorization", SECRET), redact_headers=["authorization"],
        redact_query=["token"],
    )  # fmt: skip
    assert SECRET not in message.to_json().decode()
