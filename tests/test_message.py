"""The record: form, redaction and bodies the whole way through the core, schema."""

from __future__ import annotations

import base64
import copy
import gzip
import json
import pickle
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import brotli
import jsonschema
import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sniffer import message as message_module
from sniffer.config import REDACT_HEADERS, REDACT_QUERY
from sniffer.message import HttpMessage, Placement, _brotli_window, _gzip_whole, decode, from_raw, json_schema
from sniffer_core.core import RawMessage
from tests.captures import connection
from tests.laws import Table
from tests.raws import CODECS, request, response

ROOT = Path(__file__).parent.parent
SCHEMA = json_schema()


def raw_deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(data) + deflater.flush()


def record(raw: RawMessage, placement: Placement | None = None) -> dict[str, Any]:
    """The JSON of a message, checked against the schema."""
    line = from_raw(raw, placement).to_json()
    assert b"\n" not in line
    fields: dict[str, Any] = json.loads(line)
    jsonschema.validate(fields, SCHEMA)
    return fields


def read(request: bytes, response: bytes, **options: Any) -> list[RawMessage]:
    """The messages of one exchange, as the core gives them; both forms of each must be the same."""
    given: dict[str, Any] = {
        "ports": (8080,),
        "max_body": 1000,
        "redact_headers": REDACT_HEADERS,
        "redact_query": REDACT_QUERY,
        "decode": decode,
    }
    raws = Table(**given | options).run(connection([(request, response)]))
    for raw in raws:
        assert raw.to_json() == from_raw(raw).to_json()
    return raws


def answer(body: bytes, coding: str | None = None, *, declared: int | None = None, **options: Any) -> dict[str, Any]:
    """The record of a response with this body; it is cut by the end of the connection where more is declared."""
    coded = "" if coding is None else f"Content-Encoding: {coding}\r\n"
    size = len(body) if declared is None else declared
    head = f"HTTP/1.1 200 OK\r\n{coded}Content-Length: {size}\r\n\r\n".encode()
    raws = read(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", head + body, **options)
    return record(raws[1])


# Form


def test_a_plain_request_has_the_fields_that_apply_and_no_others() -> None:
    """A field that does not apply is left out, and the order is that of the contract."""
    assert list(record(request()).items()) == [
        ("schema", 1),
        ("receiver", {"ip": "192.0.2.1", "port": 8080}),
        ("destination", {"ip": "192.0.2.2", "port": 40000}),
        ("direction", "request"),
        ("timestamp", "2023-11-14T22:13:20.000042Z"),
        ("headers", {"host": "example.test"}),
        ("connectionId", "0123456789abcdef0123456789abcdef"),
        ("exchange", 0),
        ("httpVersion", "1.1"),
        ("method", "GET"),
        ("path", "/"),
        ("bodySize", 0),
        ("endTimestamp", "2023-11-14T22:13:20.000043Z"),
    ]


def test_a_response_with_everything_has_the_order_of_the_contract() -> None:
    """Every field of the contract's table appears under its name, in its order."""
    raw = response(
        content=("/w==", "base64", True, "gzip"),
        body_size=30,
        headers={"content-encoding": "gzip", "set-cookie": ["a=b"]},
        informational=(100, 103),
        latency_us=1500,
        end_timestamp=1_700_000_000_999_999,
        duration_us=2500,
        authority="example.test:8080",
        proxied=(("192.0.2.9", 1), ("192.0.2.8", 2)),
        trailers={"x-sum": "1"},
        incomplete="gap",
        missing_bytes=7,
        resynced=True,
        anomalies=("te-and-cl",),
        trace_id="a" * 32,
        span_id="b" * 16,
    )
    fields = record(raw, Placement("p", "n", "m"))
    assert list(fields) == [
        *("schema", "receiver", "destination", "direction", "timestamp", "headers", "connectionId", "exchange"),
        *("httpVersion", "method", "path", "statusCode", "reason", "informational", "latencyMs", "body"),
        *("bodyEncoding", "bodySize", "bodyTruncated", "bodyDecoded", "trailers", "incomplete", "missingBytes"),
        *("resynced", "anomalies", "traceId", "spanId", "placement"),
        *("endTimestamp", "durationMs", "authority", "proxied"),
    ]
    assert (fields["endTimestamp"], fields["durationMs"]) == ("2023-11-14T22:13:20.999999Z", 2.5)
    assert fields["authority"] == "example.test:8080"
    assert fields["placement"] == {"pod": "p", "namespace": "n", "node": "m"}
    assert fields["informational"] == [100, 103]


def test_an_unpaired_response_has_neither_method_nor_path() -> None:
    """`method` and `path` of a response are those of its request, where that was seen."""
    fields = record(response(method=None, path=None))
    assert "method" not in fields
    assert "path" not in fields
    assert (fields["statusCode"], fields["reason"]) == (200, "OK")


def test_attributes_are_the_same_words_in_snake_case() -> None:
    """The Python attributes are the JSON's names in snake_case; what does not apply is None or False."""
    message = from_raw(response(latency_us=2))
    assert (message.status_code, message.latency_ms, message.http_version) == (200, 0.002, "1.1")
    assert (message.receiver.ip, message.receiver.port) == ("192.0.2.1", 8080)
    assert (message.body, message.trailers, message.incomplete, message.placement) == (None, None, None, None)
    assert (message.resynced, message.body_truncated) == (False, False)


@pytest.mark.parametrize(
    ("micros", "shown"),
    [(0, b"0.0"), (1, b"0.001"), (1000, b"1.0"), (1234, b"1.234"), (86_400_000_001, b"86400000.001")],
)
def test_latency_is_milliseconds_with_at_most_three_decimals(micros: int, shown: bytes) -> None:
    """`latencyMs` and `durationMs` are the shortest decimal number with one to three digits after the point."""
    line = from_raw(response(latency_us=micros, duration_us=micros, authority="x")).to_json()
    assert b'"latencyMs":' + shown + b"," in line
    assert b'"durationMs":' + shown + b"," in line


@given(st.integers(0, 2**32 - 1), st.integers(0, 999_999))
def test_timestamps_have_six_digits_and_a_z(second: int, micro: int) -> None:
    """`timestamp` is ISO 8601 in UTC with microseconds, for any packet time."""
    from datetime import UTC, datetime, timedelta

    micros = second * 1_000_000 + micro
    message = from_raw(request(timestamp=micros, end_timestamp=micros + 1))
    expected = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=second, microseconds=micro)
    assert message.timestamp == f"{expected:%Y-%m-%dT%H:%M:%S.%f}Z"
    assert (message.timestamp_us, message.end_timestamp_us) == (micros, micros + 1)
    other = msgspec.structs.replace(message, timestamp=message.end_timestamp, end_timestamp=message.timestamp)
    assert (other.timestamp_us, other.end_timestamp_us) == (micros + 1, micros)


def test_header_bytes_are_shown_as_latin_1_in_utf_8() -> None:
    """The JSON is UTF-8, whatever bytes a header has."""
    line = from_raw(request(headers={"x": 'caf\xe9\x00"\\'})).to_json()
    assert json.loads(line.decode("utf-8"))["headers"]["x"] == 'caf\xe9\x00"\\'


def test_the_idempotency_key_names_connection_exchange_and_direction() -> None:
    """A receiver can drop what a retry sent twice by this key."""
    assert from_raw(response(exchange=3)).idempotency_key == "0123456789abcdef" * 2 + "-3-response"


def test_placement_has_what_is_set() -> None:
    """`placement` holds the variables that are set, and is absent when none is."""
    assert from_raw(request(), Placement(pod="p")).placement == Placement(pod="p")
    assert record(request(), Placement(pod="p"))["placement"] == {"pod": "p"}
    assert "placement" not in record(request())


# Immutability


def test_a_message_cannot_be_changed() -> None:
    """A callback cannot change what another sink gets: neither attributes nor headers nor their lists."""
    raw = response(headers={"a": "b", "set-cookie": ["x", "y"]}, trailers={"t": "u"})
    message = from_raw(raw)
    before = message.to_json()
    headers: Any = message.headers
    trailers: Any = message.trailers
    for change in (
        lambda: setattr(message, "path", "/other"),
        lambda: setattr(message.receiver, "port", 1),
        lambda: headers.__setitem__("a", "c"),
        lambda: headers.__delitem__("a"),
        lambda: headers.update(a="c"),
        lambda: headers.__ior__({"a": "c"}),
        lambda: headers.pop("a"),
        headers.popitem,
        headers.clear,
        lambda: headers.setdefault("b", "c"),
        lambda: headers["set-cookie"].append("z"),
        trailers.clear,
    ):
        with pytest.raises((AttributeError, TypeError)):
            change()
    assert message.headers == {"a": "b", "set-cookie": ("x", "y")}
    again = from_raw(response(headers={"a": "b", "set-cookie": ["x", "y"]}, trailers={"t": "u"}))
    assert again.to_json() == before


def test_messages_can_be_copied_and_pickled() -> None:
    """A program may keep messages, or send them to another process."""
    message = from_raw(response(headers={"a": "b"}))
    assert copy.deepcopy(message) == message
    assert pickle.loads(pickle.dumps(message)) == message
    assert dict(message.headers) == {"a": "b"}


def test_json_is_rendered_once() -> None:
    """Several lanes share the same bytes."""
    message = from_raw(request())
    assert message.to_json() is message.to_json()


# Redaction


M = "[REDACTED]"


def test_named_headers_leave_as_redacted_in_headers_and_trailers() -> None:
    """Values of redacted fields are nowhere in any form of a message, and keep their form."""
    fields = (
        "Authorization: Bearer s3cret\r\nCookie: a=s3cret\r\ncookie: b=s3cret\r\nSet-Cookie: a=s3cret\r\n"
        "X-Other: kept\r\nSET-COOKIE: b=s3cret\r\nX-API-Key: s3cret\r\nx-api-key: s3cret\r\n"
        "Proxy-Authorization: s3cret\r\n"
    )
    expected = {
        "authorization": "[REDACTED]",
        "cookie": "[REDACTED]",
        "set-cookie": ("[REDACTED]", "[REDACTED]"),
        "x-other": "kept",
        "x-api-key": "[REDACTED]",
        "proxy-authorization": "[REDACTED]",
    }
    parts = f"{fields}Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n{fields}\r\n"
    raws = read(f"POST / HTTP/1.1\r\n{parts}".encode(), f"HTTP/1.1 200 OK\r\n{parts}".encode())
    assert len(raws) == 2
    for raw in raws:
        message = from_raw(raw)
        assert b"s3cret" not in raw.to_json()
        assert "s3cret" not in repr(message)
        assert dict(message.headers) == expected | {"transfer-encoding": "chunked"}
        assert message.trailers == expected
        assert list(message.trailers or ()) == list(expected)


def test_redaction_names_count_in_any_case_and_replace_the_default() -> None:
    """`REDACT_HEADERS` matches in any case; a list replaces the default; an empty list turns it off."""
    sent = b"GET / HTTP/1.1\r\nx-MINE: 1\r\ncookie: 2\r\n\r\n"
    for names, shown in ((["X-Mine"], "[REDACTED]"), ([], "1")):
        (raw,) = read(sent, b"", redact_headers=names)
        assert record(raw)["headers"] == {"x-mine": shown, "cookie": "2"}


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("/a?sig=s3cret", "/a?sig=[REDACTED]"),
        ("/a?b=1&sig=s3cret&c=2", "/a?b=1&sig=[REDACTED]&c=2"),
        ("/a?sig=s3cret;Signature=s3cret", "/a?sig=[REDACTED]"),
        ("/a?sig=s3cret;s3cret&x=1", "/a?sig=[REDACTED]&x=1"),
        ("/a?a=b;sig=s3cret;s3cret&x=1", "/a?a=b;sig=[REDACTED]&x=1"),
        (
            "/a?X-Goog-Signature=s3cret&AWSAccessKeyId=s3cret",
            "/a?X-Goog-Signature=[REDACTED]&AWSAccessKeyId=[REDACTED]",
        ),
        ("/a?%73ig=s3cret", "/a?%73ig=[REDACTED]"),
        ("/a?SIG=s3cret", "/a?SIG=[REDACTED]"),
        ("/a?sig=s3cret=s3cret", "/a?sig=[REDACTED]"),
        ("/a?+sig=s3cret", "/a?+sig=[REDACTED]"),
        ("/a?%20sig%09+=s3cret&%C2%A0sig=s3cret", "/a?%20sig%09+=[REDACTED]&%C2%A0sig=[REDACTED]"),
        ("/a?sIg=s3cret&sig=s3cret&s%69G=s3cret", "/a?sIg=[REDACTED]&sig=[REDACTED]&s%69G=[REDACTED]"),
        ("/a?sig=&x=1", "/a?sig=[REDACTED]&x=1"),
        ("/a?sig[]=s3cret&sig%5B0%5D=s3cret", "/a?sig[]=[REDACTED]&sig%5B0%5D=[REDACTED]"),
        ("/a?sig%00x=s3cret&%2573ig=s3cret", "/a?sig%00x=[REDACTED]&%2573ig=[REDACTED]"),
        ("/a?sig%3Ds3cret&sigma%3D1", "/a?sig%3D[REDACTED]&sigma%3D1"),
        ("/a?user[sig]=s3cret&user[x]=1", "/a?user[sig]=[REDACTED]&user[x]=1"),
        ("/a??sig=s3cret", "/a??sig=[REDACTED]"),
        ("/a?&&sig=s3cret&", "/a?&&sig=[REDACTED]&"),
        ("/a?sig=s3cret%26s3cret&x=1", "/a?sig=[REDACTED]&x=1"),
        ("/a?x=1%26sig=s3cret&x=2", "/a?x=1%26sig=[REDACTED]&x=2"),
        ("/a;sig=s3cret", "/a;sig=[REDACTED]"),
        ("/a;b=1;sig=s3cret;s3cret/c;d=2?x=1", "/a;b=1;sig=[REDACTED]/c;d=2?x=1"),
        ("/a;sig=s3cret?sig=s3cret", "/a;sig=[REDACTED]?sig=[REDACTED]"),
        ("/a?x#sig=s3cret&y=1", "/a?x#sig=[REDACTED]&y=1"),
        ("/a#/access_token=s3cret", "/a#/access_token=[REDACTED]"),
        ("/a?next=http://h/?sig=s3cret&y=1", "/a?next=http://h/?sig=[REDACTED]&y=1"),
        (
            "/a?next=https%3A%2F%2Fh%2F%3Fsig%3Ds3cret%3Bs3cret%26x%3D1&y=2",
            "/a?next=https%3A%2F%2Fh%2F%3Fsig%3D[REDACTED]%26x%3D1&y=2",
        ),
        ("/a?a=%253Fs%252569g%253ds3cret%252526s3cret%2526b&c", "/a?a=%253Fs%252569g%253d[REDACTED]%2526b&c"),
        ("/a?next=https%3A%2F%2Fu%3As3cret%40h%2F&y=u@h", "/a?next=https%3A%2F%2Fh%2F&y=u@h"),
        ("/a?state=token%3Ds3cret", "/a?state=token%3D[REDACTED]"),
        (
            "/b?X-Amz-Algorithm=A&X-Amz-Credential=s3cret%2F2&X-Amz-Security-Token=s3cret&X-Amz-Signature=s3cret",
            f"/b?X-Amz-Algorithm=A&X-Amz-Credential={M}&X-Amz-Security-Token={M}&X-Amz-Signature={M}",
        ),
        ("/a?x=%&y=%2&sig=s3cret%", "/a?x=%&y=%2&sig=[REDACTED]"),
        ("/a?x=100%25&y=%2525", "/a?x=100%25&y=%2525"),
        ("/a?design=1&sigma=2", "/a?design=1&sigma=2"),
        ("/sig=1", "/sig=1"),
        ("/a?sig", "/a?sig"),
        ("/a?b=1?sig=s3cret", "/a?b=1?sig=[REDACTED]"),
        ("http://user:s3cret@host/a?sig=s3cret", "http://host/a?sig=[REDACTED]"),
        ("http://s3cret@host", "http://host"),
        ("http://u:s3cret@s3cret@host/@b", "http://host/@b"),
        ("user:s3cret@host:443", "host:443"),
        ("u@h:443", "h:443"),
        ("http:\\\\u:s3cret@h\\", "http:\\\\h\\"),
        ("https:/x@y", "https:/x@y"),
        ("https:/u:s3cret@y", "https:/y"),
        ("//u@x:s3cret@host/", "//host/"),
        ("//user@host/", "//user@host/"),
        ("//@scope/x", "//@scope/x"),
        ("/a@b", "/a@b"),
        ("/a//b:c@d", "/a//b:c@d"),
        ("/proxy/http://u:s3cret@h/x", "/proxy/http://h/x"),
        ("/users/@me", "/users/@me"),
        ("http://host/?to=a@b", "http://host/?to=a@b"),
        ("*", "*"),
    ],
)
def test_user_info_and_named_parameters_are_not_in_the_path(sent: str, shown: str) -> None:
    """`path` is the target as sent, less user info and with the values of redacted parameters replaced."""
    raws = read(f"GET {sent} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert [record(raw)["path"] for raw in raws] == [shown, shown]


@pytest.mark.parametrize(
    ("name", "sent", "shown"),
    [
        ("Referer", "https://u:s3cret@h/a?sig=s3cret;s3cret&b=1", "https://h/a?sig=[REDACTED]&b=1"),
        ("LOCATION", "//s3cret@h/cb#access_token=s3cret&x=1", "//h/cb#access_token=[REDACTED]&x=1"),
        ("Location", "/@me/a@b?c=d@e", "/@me/a@b?c=d@e"),
        ("Location", "mailto:a@b", "mailto:a@b"),
        ("Content-Location", "/a;sig=s3cret/b?api_key=s3cret", "/a;sig=[REDACTED]/b?api_key=[REDACTED]"),
        ("Origin", "http://u:s3cret@h", "http://h"),
        (
            "Link",
            '<http://s3cret@h/?sig=s3cret;s3cret>; rel="a@b", </b?a=b&token=s3cret>; title="c@d"',
            '<http://h/?sig=[REDACTED]>; rel="a@b", </b?a=b&token=[REDACTED]>; title="c@d"',
        ),
        ("Refresh", "5; url='http://u:s3cret@h/?sig=s3cret'", "5; url='http://h/?sig=[REDACTED]"),
        ("X-Original-URI", "/a?sig=s3cret;s3cret&b=1", "/a?sig=[REDACTED]&b=1"),
        ("X-Original-URL", "http://u:s3cret@h/?token=s3cret", "http://h/?token=[REDACTED]"),
        ("X-Rewrite-Url", "/a;sig=s3cret/b", "/a;sig=[REDACTED]/b"),
        ("X-Forwarded-Uri", "/?a=b&api_key=s3cret", "/?a=b&api_key=[REDACTED]"),
        ("X-Envoy-Original-Path", "/?X-Amz-Signature=s3cret", "/?X-Amz-Signature=[REDACTED]"),
        ("Destination", "http://u:s3cret@h/dav/a", "http://h/dav/a"),
        ("HX-Current-URL", "http://h/#access_token=s3cret", "http://h/#access_token=[REDACTED]"),
        ("X-Other", "http://u:p@h/?sig=1", "http://u:p@h/?sig=1"),
    ],
)
def test_urls_in_headers_are_redacted_as_the_path_is(name: str, sent: str, shown: str) -> None:
    """User info and listed parameters are in no header field that holds a URL, of a head or trailers, repeated too."""
    fields = f"{name}: {sent}\r\n{name.lower()}: {sent}\r\nTransfer-Encoding: chunked\r\n"
    head = f"{fields}\r\n1\r\nx\r\n0\r\n{name}: {sent}\r\n\r\n"
    raws = read(f"POST / HTTP/1.1\r\n{head}".encode(), f"HTTP/1.1 200 OK\r\n{head}".encode())
    assert [raw.headers[name.lower()] for raw in raws] == [f"{shown}, {shown}"] * 2
    assert [raw.trailers for raw in raws] == [{name.lower(): shown}] * 2


def test_a_header_that_is_listed_is_redacted_whole() -> None:
    """A field that holds a URL and is in `REDACT_HEADERS` too leaves as a mark alone."""
    (raw,) = read(b"GET / HTTP/1.1\r\nReferer: http://h/?a=b\r\n\r\n", b"", redact_headers=["Referer"])
    assert raw.headers == {"referer": "[REDACTED]"}


def test_parameters_are_listed_in_any_script() -> None:
    """A name beyond ASCII is found as UTF-8 and as ISO-8859-1, encoded or not; one of several words, or in brackets."""
    names = ("clé", "мой ключ", "filter[id]")
    for sent in ("cl%C3%A9", "CL%C3%89", "cl%E9", "clé", "%D0%BC%D0%BE%D0%B9+%D0%BA%D0%BB%D1%8E%D1%87", "Filter%5Bid]"):
        (raw,) = read(f"GET /?{sent}=s3cret HTTP/1.1\r\n\r\n".encode(), b"", redact_query=names)
        assert raw.path == f"/?{sent}=[REDACTED]".encode().decode("latin-1")


def test_query_redaction_can_be_turned_off() -> None:
    """An empty `REDACT_QUERY` leaves queries as sent; user info is removed all the same."""
    sent = b"GET http://u:p@h/?sig=1 HTTP/1.1\r\nHost: h\r\nReferer: http://u:p@h/?sig=1\r\n\r\n"
    (raw,) = read(sent, b"", redact_query=())
    assert record(raw)["path"] == record(raw)["headers"]["referer"] == "http://h/?sig=1"


def test_redaction_takes_time_by_the_byte() -> None:
    """Of URLs of 60 KB that are made to be searched again and again: each costs as much as one that is plain."""

    def seconds(unit: str) -> float:
        url = "/?" + unit * (60_000 // len(unit))
        raws = read(f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), b"")
        began = time.process_time()
        for raw in raws * 20:
            assert raw.path is not None
        return time.process_time() - began

    plain = seconds("abcdefgh=&")
    for unit in ("sig[", "http://", ":%2F%2F", "%25", "%252525252525", "a=", "&", ";sig", "[sig]", "/sig!", "//a:b"):
        assert seconds(unit) < 20 * plain + 0.5, unit


# Bodies


def test_text_is_shown_as_text_and_anything_else_in_base64() -> None:
    """`body` is text where it is valid UTF-8, else base64 and says so."""
    assert answer("zażółć \u0000".encode())["body"] == "zażółć \u0000"
    fields = answer(b"\xff\x00\xfe")
    assert (base64.b64decode(fields["body"]), fields["bodyEncoding"]) == (b"\xff\x00\xfe", "base64")


def test_a_message_without_body_has_none() -> None:
    """`body` is absent where there is none, and where the cap is 0; `bodySize` is always there."""
    assert "body" not in answer(b"")
    fields = answer(b"0123456789", max_body=0)
    assert "body" not in fields
    assert fields["bodySize"] == 10


def test_a_cut_text_loses_its_last_incomplete_sequence() -> None:
    """A UTF-8 sequence that the cap cuts is left out; one that is incomplete in a whole body makes it base64."""
    body = "aé".encode()
    assert answer(body, max_body=2)["body"] == "a"
    assert answer(body[:-1], declared=9)["body"] == "a"
    assert answer(body[:-1])["bodyEncoding"] == "base64"
    assert answer(b"\xff" + body, max_body=3)["bodyEncoding"] == "base64"


@pytest.mark.parametrize("coding", CODECS)
@pytest.mark.parametrize("body", [b"text " * 100, bytes(range(256)), b""])
def test_content_codings_are_removed(coding: str, body: bytes) -> None:
    """gzip, deflate, br and zstd bodies are decoded, and `bodyDecoded` names what was removed."""
    coded = CODECS[coding](body)
    fields = answer(coded, coding.upper())
    shown = base64.b64decode(fields["body"]) if "bodyEncoding" in fields else fields["body"].encode()
    assert shown == body
    assert fields["bodyDecoded"] == coding.removeprefix("x-")
    assert fields["bodySize"] == len(coded)
    assert "bodyTruncated" not in fields


def test_deflate_without_its_wrapper_is_decoded_too() -> None:
    """RFC 9110 section 8.4.1.2: raw deflate data is accepted."""
    assert answer(raw_deflate(b"raw" * 20), "deflate")["body"] == "raw" * 20


def test_several_members_of_gzip_are_one_body() -> None:
    """RFC 1952 section 2.2: a gzip body may have several members."""
    body = gzip.compress(b"one ") + gzip.compress(b"two")
    assert answer(body, "gzip")["body"] == "one two"


def test_several_frames_of_zstd_are_one_body() -> None:
    """RFC 8878 section 3: zstd data is one or more frames."""
    body = zstandard.compress(b"one ") + zstandard.compress(b"two")
    assert answer(body, "zstd")["body"] == "one two"


def test_codings_are_removed_from_right_to_left_at_most_four() -> None:
    """Several codings are removed from the last to the first; a fifth one stays."""
    body = b"deep"
    for coding in ("br", "gzip", "zstd", "deflate"):
        body = CODECS[coding](body)
    assert answer(body, "br, gzip, zstd,deflate")["body"] == "deep"
    fields = answer(gzip.compress(gzip.compress(body)), "br,gzip,zstd,deflate,gzip,gzip")
    assert fields["bodyDecoded"] == "zstd, deflate, gzip, gzip"
    assert decode(base64.b64decode(fields["body"]), "br,gzip", 1000).body == b"deep"


@pytest.mark.parametrize("coding", ["identity", "aws-chunked", "", ",", "gzip, unknown"])
def test_unknown_codings_leave_the_body(coding: str) -> None:
    """What cannot be removed is left as sent, and nothing is said to be decoded."""
    fields = answer(b"as sent", coding)
    assert fields["body"] == "as sent"
    assert "bodyDecoded" not in fields


def test_decoding_can_be_turned_off() -> None:
    """With `DECODE_BODIES` off a body stays as sent."""
    fields = answer(gzip.compress(b"x"), "gzip", decode=None)
    assert fields["bodyEncoding"] == "base64"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_bomb_is_a_truncated_body(coding: str) -> None:
    """A body that decodes to far more than the cap costs no more than the cap, and is marked as cut."""
    bomb = CODECS[coding](bytes(50_000_000))
    tracemalloc.start()
    try:
        fields = answer(bomb, coding, max_body=65536)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert fields["body"] == "\0" * 65536
    assert fields["bodyTruncated"] is True
    assert peak < 12_000_000


def test_nested_bombs_are_cut_at_each_step() -> None:
    """A bomb within a bomb is cut at the cap after each coding."""
    bomb = gzip.compress(gzip.compress(bytes(10_000_000)))
    assert answer(bomb, "gzip, gzip")["bodyTruncated"] is True


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_decoded_body_of_exactly_the_cap_is_not_cut(coding: str) -> None:
    """`bodyTruncated` is said only where there was more."""
    assert "bodyTruncated" not in answer(CODECS[coding](b"x" * 1000), coding)
    assert "bodyTruncated" in answer(CODECS[coding](b"x" * 1001), coding)


def noise(size: int) -> bytes:
    """Text that does not compress well."""
    return base64.b64encode(b"".join(zlib.crc32(bytes([n % 256, n >> 8])).to_bytes(4, "big") for n in range(size)))[
        :size
    ]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_coding_that_ends_early_gives_what_it_gave(coding: str) -> None:
    """What is left of a coded body is decoded as far as it goes."""
    body = noise(900)
    coded = CODECS[coding](body)
    fields = answer(coded[: len(coded) * 3 // 4], coding, declared=len(coded))
    if coding == "zstd":  # one block: nothing of it can be decoded
        assert fields["bodyEncoding"] == "base64"
        assert "bodyDecoded" not in fields
    else:
        assert fields["body"]
        assert body.startswith(fields["body"].encode())
        assert fields["bodyDecoded"] == coding


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_broken_coding_gives_what_it_gave(coding: str) -> None:
    """The bytes before an error in a coding are kept, even where only the check sum is wrong."""
    body = noise(900)
    coded = bytearray(CODECS[coding](body))
    coded[-1] ^= 0xFF
    fields = answer(bytes(coded), coding)
    assert fields["body"].encode() == body
    assert fields["bodyDecoded"] == coding


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_coding_that_fails_at_once_leaves_the_raw_bytes(coding: str) -> None:
    """A body that is not coded as it says is shown as sent, without `bodyDecoded`."""
    fields = answer(b"plain text, not coded", coding)
    assert fields["body"] == "plain text, not coded"
    assert "bodyDecoded" not in fields


def test_a_zstd_window_beyond_8_mib_is_refused() -> None:
    """RFC 9659: a window of more than 8 MiB is not decoded."""
    parameters = zstandard.ZstdCompressionParameters(window_log=24, write_content_size=False)
    coded = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = coded.compress(noise(100)) + coded.flush()
    assert "bodyDecoded" not in answer(body, "zstd")


@given(st.sampled_from(["gzip", "deflate", "br", "zstd", "gzip, br"]), st.binary(max_size=400), st.integers(0, 50))
def test_no_body_raises(coding: str, body: bytes, room: int) -> None:
    """An observer never raises on traffic: any bytes under any coding make a record within the cap."""
    fields = answer(body, coding, max_body=room)
    assert len(fields.get("body", "")) <= max(len(body), room) * 4 // 3 + 4


@given(st.binary(min_size=1, max_size=300), st.data())
def test_damaged_bodies_cost_little(body: bytes, data: st.DataObject) -> None:
    """A flipped byte anywhere in a coded body never raises."""
    coding = data.draw(st.sampled_from(["gzip", "deflate", "br", "zstd"]))
    coded = bytearray(CODECS[coding](body))
    coded[data.draw(st.integers(0, len(coded) - 1))] ^= 0x55
    answer(bytes(coded), coding)


@given(st.binary(max_size=300), st.lists(st.tuples(st.integers(0, 400), st.integers(1, 255)), max_size=3), st.data())
def test_the_fast_gzip_decoder_says_what_zlib_says(
    body: bytes, damage: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Whole, damaged anywhere, cut, followed by something, with room for all of it or not."""
    coded = bytearray(gzip.compress(body * data.draw(st.integers(1, 9)), data.draw(st.integers(0, 9)), mtime=0))
    for at, change in damage:
        coded[at % len(coded)] ^= change
    coded = coded[: data.draw(st.sampled_from((len(coded), len(coded) - 1, len(coded) // 2)))]
    coded += data.draw(st.sampled_from((b"", b"", b"x", gzip.compress(b"y"))))
    room = data.draw(st.sampled_from((len(body), len(body) + 1, 10_000)))
    both = [decode(bytes(coded), "gzip", room)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sniffer.message._gzip_whole", lambda *_: None)
        both.append(decode(bytes(coded), "gzip", room))
    assert both[0] == both[1]


def test_sound_gzip_takes_the_fast_decoder() -> None:
    """What gzip.compress gives is decoded without zlib, up to the cap; what is longer, or broken, is not."""
    coded = gzip.compress(b"x" * 100)
    assert _gzip_whole(coded, 100) == b"x" * 100
    assert _gzip_whole(coded, 99) is None
    assert _gzip_whole(coded[:-9] + bytes([coded[-9] ^ 1]) + coded[-8:], 100) is None
    assert _gzip_whole(coded + b"x", 100) is None


ANY_CODING = st.sampled_from(["gzip", "deflate", "br", "zstd"])
BROTLI_BOMB = bytes.fromhex("00 24 00 e2 b1 40 72 ef ff 07")
"""Fills the window with one copy of 16 MiB, behind the four bytes that say how large the window is."""


def brotli_bomb(window: int) -> bytes:
    """14 bytes that make a decoder fill a window of so many bits, 18 to 24, before it gives a byte."""
    return bytes([0xC0 | (window - 17) << 1 | 1]) + bytes.fromhex("ff ff 7f") + BROTLI_BOMB


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Some bytes, part of which repeat what came before."""
    parts = draw(st.lists(st.binary(max_size=300), min_size=1, max_size=4))
    return b"".join(part * draw(st.integers(1, 40)) for part in parts)


@given(ANY_CODING, bodies(), st.integers(0, 20_000))
def test_any_cap_gives_the_beginning_of_the_whole(coding: str, body: bytes, room: int) -> None:
    """Decoding up to a cap is decoding the whole and cutting it there; `full` says that there was more."""
    assert decode(CODECS[coding](body), coding, room) == (body[:room], coding, len(body) > room, False, "")


def step_sizes() -> st.SearchStrategy[tuple[int, ...]]:
    """Other steps, which come down to single bytes too."""
    return st.tuples(st.integers(2, 5000), st.just(1)) | st.just((1,))


@given(ANY_CODING, bodies(), st.integers(0, 20_000), step_sizes(), st.data())
def test_the_steps_change_nothing(
    coding: str, body: bytes, room: int, steps: tuple[int, ...], data: st.DataObject
) -> None:
    """A coded body, cut or damaged anywhere, decodes to the same in steps of any size: its bytes alone decide."""
    coded = bytearray(CODECS[coding](body))
    damage = data.draw(st.sampled_from(("none", "cut", "flip", "trail")))
    if damage == "cut":
        del coded[data.draw(st.integers(0, len(coded) - 1)) :]
    elif damage == "flip":
        coded[data.draw(st.integers(0, len(coded) - 1))] ^= data.draw(st.integers(1, 255))
    elif damage == "trail":
        coded += data.draw(st.sampled_from((b"\0", b"xyz", bytes(5000), CODECS[coding](b"more"))))
    if not coded:
        return
    usual = decode(bytes(coded), coding, room)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(message_module, "STEPS", steps)
        assert decode(bytes(coded), coding, room) == usual
    if damage == "cut" and usual.removed:
        assert body[:room].startswith(usual.body)


class Counting:
    """In place of a module of decoders: counts what goes into them."""

    def __init__(self, module: Any, maker: str, method: str) -> None:
        self._module, self._maker, self._method = module, maker, method
        self.calls = self.fed = 0

    def __getattr__(self, name: str) -> Any:
        if name != self._maker:
            return getattr(self._module, name)
        return lambda *given: _Counted(getattr(self._module, name)(*given), self, self._method)


class _Counted:
    def __init__(self, decoder: Any, count: Counting, method: str) -> None:
        self._decoder, self._count, self._method = decoder, count, method

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._decoder, name)
        if name != self._method:
            return found

        def call(data: bytes, *given: Any, **keywords: Any) -> Any:
            self._count.calls += 1
            self._count.fed += len(data)
            return found(data, *given, **keywords)

        return call


def work(patch: pytest.MonkeyPatch, coding: str, body: bytes, room: int) -> int:
    """Calls of a decoder, and a hundredth of the bytes that go into it, to decode a body."""
    made = (
        ("zlib", "decompressobj", "decompress")
        if coding in ("gzip", "deflate")
        else ("brotli", "Decompressor", "process")
    )
    count = Counting({"zlib": zlib, "brotli": brotli}[made[0]], *made[1:])
    patch.setattr(message_module, made[0], count)
    decode(body, coding, room)
    return count.calls + count.fed // 100


def test_work_is_linear_in_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty members, empty blocks, tiny ones, an error at the end: sixteen times the body is sixteen times the work."""
    empty, tiny = gzip.compress(b"", mtime=0), gzip.compress(b"x", mtime=0)
    shapes: list[tuple[str, bytes, bytes, bytes]] = [
        ("gzip", b"", empty, b""),
        ("gzip", b"", tiny, b""),
        ("gzip", b"", empty, b"broken"),
        ("deflate", b"", b"\0\0\0\xff\xff", b"\x01\0\0\xff\xff"),
        ("br", b"\x0c", b"\x06", b"\x03"),
    ]
    for coding, first, each, last in shapes:
        small, large = (work(monkeypatch, coding, first + each * count + last, 1 << 20) for count in (2_000, 32_000))
        assert large <= 18 * small, (coding, each, small, large)


def test_many_frames_of_zstd_take_time_in_proportion() -> None:
    """Empty frames, skippable ones and windows that change from frame to frame are read in one pass."""
    small = bytes.fromhex("28b52ffd 00 00 010000")
    shapes = [small, bytes.fromhex("502a4d18 00000000"), bytes.fromhex("28b52ffd 00 68 010000") + small * 130]
    for each in shapes:
        body = each * ((1 << 20) // len(each))
        began = time.process_time()
        assert decode(body + zstandard.compress(b"end"), "zstd", 1000).body == b"end"
        assert time.process_time() - began < 0.5


@pytest.mark.parametrize("window", range(18, 25))
def test_brotli_fills_no_more_of_a_window_than_the_cap_wants(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows up to 22 bits are decoded, and the decoder is given the smallest one that the cap fits into."""
    seen: list[bytes] = []
    make = brotli.Decompressor

    class Spy:
        def __init__(self) -> None:
            self._decoder = make()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._decoder, name)

        def process(self, data: bytes, **limit: int) -> bytes:
            seen.append(bytes(data))
            return self._decoder.process(data, **limit)

    monkeypatch.setattr(brotli, "Decompressor", Spy)
    for room in (1, 65_536, (1 << 18) - 17, 1 << 18, 1 << 20):
        seen.clear()
        decoded = decode(brotli_bomb(window), "br", room)
        if window > 22:
            assert decoded == (brotli_bomb(window), "", False, False, "window")
            assert seen == []
        else:
            assert (len(decoded.body), decoded[1:]) == (room, ("br", True, False, ""))
            assert _brotli_window(seen[0][0]) <= max(18, (2 * room).bit_length())


@pytest.mark.parametrize("window", range(10, 25))
def test_brotli_windows_of_all_sizes_give_the_same(window: int) -> None:
    """What is decoded with a smaller window than the stream asks for is what the stream says, up to any cap."""
    body = (noise(65_536) + bytes(40_000)) * 6 + b"end"
    coded = brotli.compress(body, quality=5, lgwin=window)
    assert _brotli_window(coded[0]) == window
    for room in (1, 1000, 65_536, (1 << 18) - 17, (1 << 18) - 16, 1 << 18, 500_000, 1 << 20):
        expected = (
            (coded, "", False, False, "window") if window > 22 else (body[:room], "br", len(body) > room, False, "")
        )
        assert decode(coded, "br", room) == expected


def test_large_window_brotli_is_left_coded() -> None:
    """The large-window form of brotli, which no browser reads, is left coded for its window."""
    assert decode(bytes([0x11, 30]) + bytes(20), "br", 1000)[1:] == ("", False, False, "window")


def test_what_is_left_coded_says_why() -> None:
    """Nothing was left, the window, no output, no such coding, one too many."""
    frame = zstandard.ZstdCompressionParameters(window_log=24, write_content_size=False)
    large = zstandard.ZstdCompressor(compression_params=frame).compressobj()
    assert decode(gzip.compress(b"x"), "gzip", 10).left == ""
    assert decode(large.compress(noise(100)) + large.flush(), "zstd", 10).left == "window"
    assert decode(b"plain text", "gzip", 10).left == "broken"
    assert decode(gzip.compress(b"x"), "aws-chunked, gzip", 10) == (b"x", "gzip", False, False, "unknown")
    body = b"deep"
    for _ in range(5):
        body = gzip.compress(body)
    assert decode(body, "gzip, gzip, gzip, gzip, gzip", 1000).left == "unknown"
    assert decode(b"x", "identity", 10).left == ""


def test_a_skippable_frame_of_zstd_is_skipped() -> None:
    """RFC 8878 section 3.1.2: a frame that holds no data says nothing of the length of what follows."""
    skipped = bytes.fromhex("5f2a4d18") + (100).to_bytes(4, "little") + bytes(100)
    assert decode(skipped + zstandard.compress(b"seen"), "zstd", 1000) == (b"seen", "zstd", False, False, "")


def test_a_body_is_decoded_once() -> None:
    """`RawMessage.decode` says what became of the codings, once; the record is made of what it gave, and weighed so."""
    calls = []

    def counted(body: bytes, coding: str, room: int) -> Any:
        calls.append(coding)
        return decode(body, coding, room)

    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 14\r\n\r\n"
    sent = [(b"GET / HTTP/1.1\r\n\r\n", head + brotli_bomb(22))]
    _, raw = Table(ports=(8080,), max_body=65_536, decode=counted).run(connection(sent))
    assert raw.weight < 4096
    assert [raw.decode(), raw.decode()] == ["", None]
    weight = raw.weight
    assert weight > 3 * 65_536
    assert len(raw.to_json()) > 65_536
    assert raw.weight <= weight
    assert from_raw(raw).to_json() == raw.to_json()
    assert calls == ["br"]
    assert raw.body == brotli_bomb(22)


def test_the_weight_counts_wide_text() -> None:
    """One emoji makes each character of a string take four bytes: `weight` says so once the text is made."""
    body = "x" * 60_000 + "\N{GRINNING FACE}"
    raw = read(
        b"GET / HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body.encode()), body.encode()),
        max_body=65_536,
    )[1]
    raw.message = from_raw(raw)
    assert raw.weight > 4 * 60_000 + len(raw.to_json()) + 60_000


def test_a_broken_body_of_the_cap_is_decoded_in_bounded_time() -> None:
    """A hostile body costs a bounded time, not the square of its size."""
    room = 65536
    for coding in ("gzip", "br", "zstd"):
        coded = bytearray(CODECS[coding](noise(room) + bytes(room)))[:room]
        coded[-20] ^= 0xFF
        began = time.process_time()
        decode(bytes(coded), coding, room)
        assert time.process_time() - began < 0.5


# Schema


def test_the_schema_in_docs_is_up_to_date() -> None:
    """docs/record.schema.json is what the definition yields: `python -m sniffer.message > docs/record.schema.json`."""
    assert json.loads((ROOT / "docs" / "record.schema.json").read_text()) == SCHEMA


def test_the_schema_is_valid_and_strict() -> None:
    """The schema is a valid one of 2020-12, requires what is always there, and knows no null."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert sorted(SCHEMA["required"]) == sorted(
        [
            *("schema", "receiver", "destination", "direction", "timestamp", "headers"),
            *("connectionId", "exchange", "httpVersion", "bodySize", "endTimestamp"),
        ]
    )
    assert '"null"' not in json.dumps(SCHEMA)
    assert set(SCHEMA["properties"]) == {HttpMessage.__struct_encode_fields__[at] for at in range(33)}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(record(request()) | {"exchange": -1}, SCHEMA)


def test_the_docs_describe_every_field() -> None:
    """docs/RECORD.md has a row for each field, and says that bodies are not redacted."""
    text = (ROOT / "docs" / "RECORD.md").read_text()
    for name in SCHEMA["properties"]:
        assert f"| `{name}` |" in text
    assert "Bodies are not redacted" in text
