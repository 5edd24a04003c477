"""HAR entries as records: what HAR carries comes back."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import msgspec
import pytest

from sniffer.exchanges import Exchange
from sniffer.har import entry_of
from sniffer.record.codings import decode
from sniffer.record.entries import OtherVersionError, messages_of
from sniffer.record.message import HttpMessage, from_raw
from sniffer_core.core import Recorded
from tests.captures import get, ok
from tests.endpoints import Choices
from tests.generated import play
from tests.laws import Table
from tests.records import read

FOREIGN: dict[str, Any] = {
    "startedDateTime": "2023-11-14T23:13:20.123+01:00",
    "time": 12,
    "request": {
        "method": "POST",
        "url": "https://Example.test/a%20b?x=1#here",
        "httpVersion": "http/1.1",
        "headers": [{"name": "X-A", "value": "1"}, {"name": "x-a", "value": "2"}, {"name": "Cookie", "value": "c=d"}],
        "bodySize": -1,
        "postData": {"mimeType": "text/plain", "text": "h\u00e9llo"},
    },
    "response": {
        "status": 200,
        "statusText": "OK",
        "httpVersion": "HTTP/1.1",
        "headers": [
            {"name": "Set-Cookie", "value": "a=1"},
            {"name": "Set-Cookie", "value": "b=2"},
            {"name": "Content-Encoding", "value": "gzip"},
        ],
        "content": {"size": 2, "mimeType": "", "text": "ok"},
        "bodySize": -1,
    },
    "timings": {"blocked": None, "send": 1, "wait": 2.5, "receive": 0.25},
    "serverIPAddress": "[2001:db8::1]",
    "connection": "443",
}


def test_of_another_program() -> None:
    """Times in any zone, names in any case, an IPv6 address in brackets: as records have them."""
    request, response = messages_of(json.dumps(FOREIGN).encode())
    assert (request.timestamp, request.end_timestamp) == ("2023-11-14T22:13:20.123000Z", "2023-11-14T22:13:20.124000Z")
    assert (response.timestamp, response.end_timestamp) == (
        "2023-11-14T22:13:20.126500Z",
        "2023-11-14T22:13:20.126750Z",
    )
    assert (response.latency_ms, response.duration_ms) == (2.5, 3.75)
    assert (request.receiver.ip, request.receiver.port) == ("2001:db8::1", 443)
    assert (request.destination.ip, request.destination.port) == ("0.0.0.0", 0)
    assert (request.method, request.path, request.authority) == ("POST", "/a%20b?x=1", "example.test")
    assert request.headers == {"x-a": "1, 2", "cookie": "c=d"}
    assert response.headers["set-cookie"] == ("a=1", "b=2")
    assert (request.body, request.body_size) == ("h\u00e9llo", 6)
    assert (response.body, response.body_decoded) == ("ok", "gzip")
    assert request.connection_id == response.connection_id
    assert request.connection_id != messages_of(json.dumps(FOREIGN).encode() + b" ")[0].connection_id
    for each in (request, response):
        assert json.loads(Recorded(decode=decode).message(each).to_json()) == json.loads(each.to_json())


def without(*names: str) -> bytes:
    fields = json.loads(json.dumps(FOREIGN))
    place = fields
    for name in names[:-1]:
        place = place[name]
    del place[names[-1]]
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    "entry",
    [
        b"{}",
        b"[]",
        b"\xff",
        without("request"),
        without("request", "httpVersion"),
        json.dumps(FOREIGN | {"startedDateTime": "2023-11-14T23:13:20"}).encode(),
        json.dumps(FOREIGN | {"startedDateTime": "yesterday"}).encode(),
        json.dumps(FOREIGN | {"request": FOREIGN["request"] | {"url": "http://[x/"}}).encode(),
        json.dumps(FOREIGN | {"request": FOREIGN["request"] | {"_bodyRedacted": "some"}}).encode(),
    ],
)
def test_what_is_no_entry(entry: bytes) -> None:
    """One kind of error for all of it."""
    with pytest.raises(ValueError, match=r".+"):
        messages_of(entry)


def test_other_versions_of_http() -> None:
    """HTTP/2 and 3, which records do not have, are told apart."""
    fields = FOREIGN | {"request": FOREIGN["request"] | {"httpVersion": "h3"}}
    with pytest.raises(OtherVersionError):
        messages_of(json.dumps(fields).encode())


def entries_again(entry: bytes) -> bytes:
    """The entry of what is made of an entry."""
    parts: dict[str, HttpMessage] = {}
    for each in messages_of(entry):
        raw = Recorded(max_body=1 << 20, decode=decode).message(each)
        parts[raw.direction] = from_raw(raw)
    return msgspec.json.encode(entry_of(Exchange(parts.get("request"), parts.get("response"))))


@pytest.mark.parametrize("seed", range(30))
def test_our_own(seed: int) -> None:
    """What `--har` wrote of generated conversations, losses among them, gives the same entries when it is read back."""
    raws = Table(max_body=1000, decode=decode).run(play(Choices(Random(seed))).capture.packets)
    found: dict[tuple[str, int], dict[str, HttpMessage]] = {}
    for raw in raws:
        found.setdefault((raw.connection_id, raw.exchange), {})[raw.direction] = from_raw(raw)
    for parts in found.values():
        exchange = Exchange(parts.get("request"), parts.get("response"))
        entry = msgspec.json.encode(entry_of(exchange))
        once, twice = json.loads(entry), json.loads(entries_again(entry))
        if once["timings"]["wait"] < 0:  # when the response began is not told, so its times are not known any more
            del once["timings"], once["time"], twice["timings"], twice["time"]
        assert twice == once


def test_fields_that_har_carries() -> None:
    """Of a plain exchange HAR carries everything that a record has."""
    request, response = read(get("/a?b=c", User_Agent="x"), ok(b"hello", Set_Cookie="a=b"))
    messages = from_raw(request), from_raw(response)
    again = messages_of(msgspec.json.encode(entry_of(Exchange(*messages))))
    for one, two in zip(messages, again, strict=True):
        assert json.loads(two.to_json()) == json.loads(one.to_json())
