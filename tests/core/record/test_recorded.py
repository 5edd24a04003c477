"""Messages made of records: the same as those that the records were made of, redacted anew, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from sniffer.config import REDACT_BODY, REDACT_HEADERS, REDACT_QUERY
from sniffer.record.codings import decode
from sniffer.record.message import HttpMessage, from_raw
from sniffer_core.core import Lines, RawMessage, Recorded, connection_hash
from tests import http2 as h
from tests.captures import connection
from tests.endpoints import Choices
from tests.generated import play
from tests.laws import Table
from tests.raws import CODECS
from tests.records import assert_read_back, read, read_back

BODY = b'{"user":"ann","password":"s3cret","n":[1,2]}'
REQUEST = (
    b"POST /a?token=s3cret&b=%%41 HTTP/1.1\r\nHost: Example.test:81\r\nCookie: a=b\r\nCookie: c=d\r\n"
    b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nAuthorization: Bearer s3cret\r\n"
    b'X-N: caf\xe9 "\\\r\nX-N: two\r\nReferer: http://u:p@h/?sig=s3cret\r\nReferer: http://h/?sig=s3cret&x=y\r\n'
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
)
RESPONSE = (
    b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 G\xfct\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
    b"Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n5\r\nhello\r\n0\r\nX-T: end\r\n\r\n"
)
REDACTED: dict[str, Any] = {
    "redact_headers": REDACT_HEADERS,
    "redact_query": REDACT_QUERY,
    "redact_body": REDACT_BODY,
}


def one(**changes: Any) -> dict[str, Any]:
    """The record of REQUEST, changed."""
    fields: dict[str, Any] = json.loads(read(REQUEST, RESPONSE)[0].to_json())
    for name, value in changes.items():
        fields[name] = value
        if value is None:
            del fields[name]
    return fields


def message(fields: dict[str, Any], **options: Any) -> RawMessage:
    (raw,) = read_back([msgspec.json.encode(fields)], **options)
    return raw


@pytest.mark.parametrize("key", [None, b"k" * 32])
@pytest.mark.parametrize("names", [REDACTED, {"redact_headers": (), "redact_query": (), "redact_body": ()}])
def test_everything_comes_back(key: bytes | None, names: dict[str, Any]) -> None:
    """Repeated fields, marks with a key and without, traces, trailers, interim answers: the same bytes again."""
    table = Table(ports=(8080,), redact_key=key, placement=("p", None, 'n"ode'), **names)
    raws = table.run(connection([(REQUEST, RESPONSE)]))
    assert_read_back(raws, redact_key=key, **names)
    fields = [json.loads(raw.to_json()) for raw in raws]
    assert fields[0]["placement"] == {"pod": "p", "node": 'n"ode'}
    assert fields[1]["informational"] == [103]
    assert fields[1]["trailers"] == {"x-t": "end"}


@pytest.mark.parametrize("coding", sorted(CODECS))
@pytest.mark.parametrize("decodes", [True, False])
def test_coded_bodies(coding: str, decodes: bool) -> None:
    """A body that was decoded is not decoded again; one that was left is, if that is asked for now."""
    body = CODECS[coding](BODY)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: %s\r\nContent-Length: %d\r\n\r\n"
    answer = head % (coding.encode(), len(body)) + body
    names = REDACTED | {"redact_body": REDACT_BODY if decodes else ()}
    raw = read(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", answer, decode=decode if decodes else None, **names)[1]
    again = message(json.loads(raw.to_json()), decode=decode, **REDACTED)
    assert json.loads(again.to_json())["body"] == BODY.decode().replace("s3cret", "[REDACTED]")
    assert again.content[3] == coding.removeprefix("x-")


@pytest.mark.parametrize("seed", range(20))
def test_talks(seed: int) -> None:
    """Generated conversations with losses, cuts and odd heads come back as they were."""
    from random import Random

    options: dict[str, Any] = {"redact_headers": REDACT_HEADERS, "max_body": 100}
    raws = Table(**options).run(play(Choices(Random(seed))).capture.packets)
    assert_read_back(raws, **options)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("lost", [None, 6])
def test_http_2(seed: int, lost: int | None) -> None:
    """Messages of HTTP/2 come back as they were, also those behind a loss."""
    from random import Random

    options: dict[str, Any] = {"redact_headers": REDACT_HEADERS, "redact_query": REDACT_QUERY, "max_body": 100}
    talk = h.Talk(h.calls(Random(seed), 8), Random(seed))
    segments = [each for number, each in enumerate(talk.segments(200)) if number != lost]
    raws = Table(**options).run(talk.packets(segments))
    assert raws
    assert_read_back(raws, **options)


def test_a_body_of_which_no_character_is_left() -> None:
    """A body that was cut within its first character is an empty text, and comes back as one."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
    raws = read(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", head + b"\xe2\x82")
    assert json.loads(raws[1].to_json())["body"] == ""
    assert_read_back(raws)


def test_what_only_http_2_has() -> None:
    """Resets by name and by number, unknown fields, routes and pushes come back; without a stream it is no record."""
    fields = one(httpVersion="2", streamId=7, path=None, routeId="u1.7-9", headersUnknown=2, authority=None)
    fields |= {"pushed": True}
    for reset in (None, "CANCEL", "0x2a"):
        wanted = fields | ({} if reset is None else {"reset": reset, "incomplete": "reset"})
        assert json.loads(message(wanted).to_json()) == wanted
    for wrong in ({"streamId": 1 << 31}, {"streamId": None}, {"reset": "NO"}, {"routeId": 'u"'}):
        with pytest.raises(ValueError, match="not a record"):
            message({name: value for name, value in (fields | wrong).items() if value is not None})


def test_redacted_by_the_options_of_now() -> None:
    """What was written in the clear is redacted when it is read back; marks of then are not counted twice."""
    clear = {"redact_headers": (), "redact_query": (), "redact_body": ("n",)}
    raw = read(REQUEST, RESPONSE, **clear)[0]
    assert raw.to_json().count(b"s3cret") == 5
    (again,) = read_back([raw.to_json()], **REDACTED)
    fields = json.loads(again.to_json())
    assert b"s3cret" not in again.to_json()
    assert "s3cret" not in repr(from_raw(again))
    assert fields["bodyRedacted"] == 2
    assert fields["path"] == "/a?token=[REDACTED]&b=%41"
    assert fields["headers"]["referer"] == "http://h/?sig=[REDACTED]&x=y"


def test_the_cap_of_now() -> None:
    """A body is cut to MAX_BODY_SIZE; marks, which may be longer than what they hide, do not count."""
    fields = one()
    assert json.loads(message(fields, max_body=len(BODY), **REDACTED).to_json()) == fields
    cut = json.loads(
        message(
            one(body="x" * 50, bodyRedacted=None, headers={"content-type": "image/png"}), max_body=10, **REDACTED
        ).to_json()
    )
    assert (cut["body"], cut["bodyTruncated"], cut["bodySize"]) == ("x" * 10, True, len(BODY))
    none = json.loads(message(fields, max_body=0, **REDACTED).to_json())
    assert "body" not in none
    assert none["bodyTruncated"] is True


def test_shortened_lines() -> None:
    """A line that was cut to fit comes back with its mark, and may be cut again."""
    (_, taken) = Lines(most=700).take(read(REQUEST.replace(b"X-N: two", b"X-N: " + b"y" * 3000), RESPONSE)[:1], 0, 1)
    line = bytes(taken)
    (raw,) = read_back([line], **REDACTED)
    assert raw.headers_truncated
    assert raw.to_json() + b"\n" == line
    assert from_raw(raw).to_json() + b"\n" == line
    (_, shorter) = Lines(most=600).take([raw], 0, 1)
    assert bytes(shorter).count(b'"headersTruncated":true') == 1
    json.loads(bytes(shorter))


def test_placement_is_that_of_the_record() -> None:
    """A record keeps its own placement, in both forms; one without gets that of now."""
    recorded = Recorded(placement=("now", None, None))
    placed = msgspec.convert(one(placement={"pod": "then"}), HttpMessage)
    raw = recorded.message(placed)
    assert json.loads(raw.to_json())["placement"] == json.loads(from_raw(raw).to_json())["placement"] == {"pod": "then"}
    assert json.loads(recorded.message(msgspec.convert(one(), HttpMessage)).to_json())["placement"] == {"pod": "now"}


@pytest.mark.parametrize(
    "changes",
    [
        {"receiver": {"ip": 'x"', "port": 1}},
        {"receiver": {"ip": "1.2.3", "port": 1}},
        {"connectionId": "0" * 31 + "\n"},
        {"headers": {'a"b': "c"}},
        {"headers": {"A": "upper case"}},
        {"headers": {"": "empty"}},
        {"headers": {"a": "\u0100"}},
        {"headers": {"a": ["b"]}},
        {"headers": {"set-cookie": "a"}},
        {"authority": 'x"'},
        {"authority": "u@x"},
        {"authority": "x\n"},
        {"traceId": "x"},
        {"traceId": "4bf92f3577b34da6a3ce929d0e0e4736\n"},
        {"spanId": None},
        {"method": None},
        {"path": None},
        {"path": "\u0100"},
        {"exchange": 1 << 32},
        {"bodySize": None},
        {"bodySize": 1 << 70},
        {"timestamp": "2200-01-01T00:00:00.000000Z"},
        {"timestamp": "2023-02-30T00:00:00.000000Z"},
        {"endTimestamp": None},
        {"incomplete": "later"},
        {"incomplete": "gap", "missingBytes": 1 << 70},
        {"body": "===", "bodyEncoding": "base64"},
        {"bodyRedacted": 1 << 50},
        {"proxied": {"source": {"ip": "x", "port": 1}, "destination": {"ip": "::1", "port": 1}}},
        {"placement": {"pod": "x" * 5000}},
        {"direction": "response"},
        {"direction": "response", "statusCode": 1000},
        {"direction": "response", "statusCode": 200, "latencyMs": 1e300},
        {"direction": "response", "statusCode": 200, "durationMs": -1},
        {"direction": "response", "statusCode": 200, "informational": [100] * 17},
        {"direction": "response", "statusCode": 200, "informational": [-1]},
    ],
)
def test_what_is_no_record(changes: dict[str, Any]) -> None:
    """Values that no record has are refused: the renderer writes names, ids and addresses without a look."""
    with pytest.raises(ValueError, match=r".+"):
        message(one(**changes))


def test_what_a_later_version_may_add() -> None:
    """Unknown anomalies are left out, as readers must; known ones stay."""
    fields = one(anomalies=["te-and-cl", "of-tomorrow"])
    assert message(fields).anomalies == ("te-and-cl",)


def test_ends_in_the_sample() -> None:
    """The sample is that of the capture: the same connections are in it, in either direction."""
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    packets = [connection([(request, b"")], client_port=port) for port in range(40000, 40040)]
    for each in packets:
        kept = Table(ports=(8080,), sample_rate=0.5).run(each)
        (raw,) = Table(ports=(8080,)).run(each)
        assert (connection_hash(raw.receiver, raw.destination) < 0.5) == bool(kept)
        assert connection_hash(raw.receiver, raw.destination) == connection_hash(raw.destination, raw.receiver)


def test_too_many_fields_to_carry() -> None:
    """At most 4 fields are carried; their values are those that are given."""
    with pytest.raises(ValueError, match="at most 4"):
        Recorded(carry=tuple("abcde"))
    record = msgspec.convert(one(), HttpMessage)
    assert Recorded(carry=("user-agent", "host")).message(record, ("curl", None)).carried == ("curl", None)
    assert Recorded(carry=("user-agent", "host")).message(record).carried == (None, None)
