"""record/message: the public record, its fields and their form."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer.record.message import HttpMessage, Placement, from_raw
from tests.raws import request, response
from tests.records import record


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
        content=("/w==", "base64", True, "gzip", 2),
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
        stream_id=3,
        headers_unknown=2,
        route_id="u7",
        reset="CANCEL",
        pushed=True,
    )
    fields = record(raw, Placement("p", "n", "m"))
    assert list(fields) == [
        *("schema", "receiver", "destination", "direction", "timestamp", "headers", "connectionId", "exchange"),
        *("httpVersion", "method", "path", "statusCode", "reason", "informational", "latencyMs", "body"),
        *("bodyEncoding", "bodySize", "bodyTruncated", "bodyDecoded", "trailers", "incomplete", "missingBytes"),
        *("resynced", "anomalies", "traceId", "spanId", "placement"),
        *("endTimestamp", "durationMs", "authority", "proxied", "bodyRedacted"),
        *("streamId", "headersUnknown", "routeId", "reset", "pushed"),
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


def test_messages_can_be_in_a_set() -> None:
    """Equal messages have one hash, of connection, exchange and direction; unequal ones of one key stay two."""

    def make(status: int = 200) -> HttpMessage:
        return from_raw(response(headers={"set-cookie": ["x", "y"]}, trailers={"t": "u"}, status_code=status))

    first, again, other = make(), make(), make(404)
    assert first == again
    assert hash(first) == hash(again) == hash(other)
    assert hash(first) == hash((first.connection_id, first.exchange, first.direction))
    assert first != other
    assert len({first, again, other}) == 2


@pytest.mark.parametrize("name", ["content-type", "Content-Type", "CONTENT-TYPE"])
def test_fields_are_found_in_any_case(name: str) -> None:
    """By index, `get` and `in`, of headers and trailers; a mapping as before; JSON and copies have lower case."""
    message = from_raw(request(headers={"content-type": "text/html"}, trailers={"content-type": "x"}))
    headers = message.headers
    assert headers[name] == headers.get(name) == headers.get(name, "y") == "text/html"
    assert name in headers
    assert message.trailers is not None
    assert message.trailers[name] == "x"
    assert isinstance(headers, Mapping)
    assert dict(headers) == headers == {"content-type": "text/html"}
    assert json.loads(json.dumps(headers)) == json.loads(message.to_json())["headers"] == {"content-type": "text/html"}
    again = pickle.loads(pickle.dumps(headers))
    assert copy.deepcopy(headers)[name] == again[name] == "text/html"


def test_a_field_that_is_not_there() -> None:
    """`get` gives its default, and the error has the name as it was asked for; what is no name is none."""
    headers: Any = from_raw(request()).headers
    assert headers.get("X-None") is None
    assert headers.get("X-None", "y") == "y"
    assert "X-None" not in headers
    assert 3 not in headers
    for name in ("X-None", 3):
        with pytest.raises(KeyError) as raised:
            headers[name]
        assert raised.value.args == (name,)


def test_a_message_as_a_dict() -> None:
    """`to_dict` is what the JSON says, anew at each call, so that changes reach nobody else."""
    message = from_raw(response(headers={"set-cookie": ["x", "y"]}, trailers={"t": "u"}))
    made = message.to_dict()
    assert made == json.loads(message.to_json())
    made["headers"].clear()
    assert message.to_dict() == json.loads(message.to_json())
    assert message.headers == {"set-cookie": ("x", "y")}


@pytest.mark.parametrize("micros", [0, 1, 1_700_000_000_999_999, 253_402_300_799_999_999])
def test_time_stamps_as_datetimes(micros: int) -> None:
    """`time` and `end_time` are exact and in UTC, also of a message that was read from its JSON."""
    message = from_raw(request(timestamp=micros, end_timestamp=micros))
    for each in (message, msgspec.json.decode(message.to_json(), type=HttpMessage)):
        assert each.time == datetime.fromisoformat(each.timestamp) == each.end_time
        assert each.time.tzinfo is UTC
        assert each.time.microsecond == micros % 1_000_000
