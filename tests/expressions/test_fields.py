"""sniffer.expressions.fields: the record's fields, read from messages and from their JSON alike."""

from __future__ import annotations

import json

from sniffer.expressions.fields import _OF_RAW, KINDS, OF_CONTENT, of_json, of_raw
from sniffer.record.message import Placement
from tests.captures import connection
from tests.records import read, read_back, table

REQUEST = b"POST /a?token=1 HTTP/1.1\r\nHost: X\r\nContent-Length: 4\r\n\r\n\xff\xfe\x00\x01"
PROXIED = b"PROXY TCP4 192.0.2.7 192.0.2.8 1000 80\r\n" + REQUEST
RESPONSE = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Type: application/json\r\n\r\n11\r\n" + b'{"password": "x"}' + b"\r\n0\r\nEtag: 1\r\n\r\n"
)
CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"


def test_every_kind_is_known() -> None:
    """Each field of the record has a kind, nested ones by their path."""
    assert KINDS["statusCode"] == KINDS["receiver.port"] == KINDS["latencyMs"] == KINDS["missingBytes"] == "number"
    assert KINDS["path"] == KINDS["direction"] == KINDS["placement.pod"] == KINDS["proxied.source.ip"] == "text"
    assert (KINDS["headers"], KINDS["trailers"]) == ("map", "map")
    assert (KINDS["anomalies"], KINDS["informational"]) == ("texts", "numbers")
    assert (KINDS["bodyTruncated"], KINDS["bodyRedacted"]) == ("flag", "mixed")
    assert KINDS.keys() >= OF_CONTENT


def test_a_message_and_its_json_say_the_same() -> None:
    """Each field that an expression reads from a message of the core is what the record says."""
    placement = Placement(pod="app-1", namespace="shop")
    raws = [
        *read(REQUEST, RESPONSE),
        *table(placement=("app-1", "shop", None), max_body=8, ports=(8080,)).run(
            connection([(PROXIED, RESPONSE), (REQUEST, CUT)])
        ),
    ]
    placed = json.loads(raws[0].to_json()) | {"placement": {"pod": "then"}, "headersTruncated": True}
    raws += read_back([json.dumps(placed).encode()])
    filled = set()
    for number, raw in enumerate(raws):
        read_of = of_raw(None if number < 2 else placement)
        record = json.loads(raw.to_json())
        for name in KINDS:
            expected, found = of_json(name)(record), read_of(name)(raw)
            assert (list(found) if isinstance(found, tuple) else found) == expected, name
            if expected is not None:
                filled.add(name)
    assert filled >= _OF_RAW.keys() - {"resynced", "pushed", "anomalies", "bodyDecoded"}
