"""The messages of OTLP (opentelemetry-proto 1.x) that are sent, in the wire format of protobuf.

They are few and never change: fields are only added. The `protobuf` package would be a dependency of every sniffer, and
the same Python objects would have to be made for it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

Value = str | bool | int | float | Sequence[str]

FIXED64: Final = struct.Struct("<Q")
DOUBLE: Final = struct.Struct("<d")

SERVER: Final = 2
CLIENT: Final = 3
"""Kinds of a span."""
ERROR: Final = 2
"""The status of a span that failed."""


def varint(number: int) -> bytes:
    """A number from 0 to 2^64 - 1."""
    if number < 128:
        return bytes((number,))
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    made.append(number)
    return bytes(made)


def block(field: int, data: bytes) -> bytes:
    """A field that holds bytes, text or a message."""
    return bytes((field << 3 | 2,)) + varint(len(data)) + data


def number(field: int, value: int) -> bytes:
    """A field that holds a whole number, or an enum. Negative ones take ten bytes."""
    return bytes((field << 3,)) + varint(value & 0xFFFFFFFFFFFFFFFF)


def fixed64(field: int, value: int) -> bytes:
    """A field of type fixed64."""
    return bytes((field << 3 | 1,)) + FIXED64.pack(value & 0xFFFFFFFFFFFFFFFF)


def words(value: str) -> bytes:
    """Text as UTF-8. Lone surrogates, which UTF-8 cannot hold, become question marks."""
    return value.encode("utf-8", "replace")


def any_value(value: Value) -> bytes:
    """`AnyValue`."""
    if isinstance(value, str):
        return block(1, words(value))
    if isinstance(value, bool):
        return number(2, value)
    if isinstance(value, int):
        return number(3, value)
    if isinstance(value, float):
        return b"\x21" + DOUBLE.pack(value)
    return block(5, b"".join([block(1, block(1, words(one))) for one in value]))


def attributes(field: int, values: Mapping[str, Value]) -> bytes:
    """Repeated `KeyValue`."""
    return b"".join(
        [block(field, block(1, key.encode()) + block(2, any_value(value))) for key, value in values.items()]
    )


def span(
    *,
    trace_id: bytes,
    span_id: bytes,
    parent_id: bytes,
    name: str,
    kind: int,
    start_us: int,
    end_us: int,
    values: Mapping[str, Value],
    failed: bool,
) -> bytes:
    """`Span`. Times in microseconds since 1970."""
    return b"".join(
        (
            block(1, trace_id),
            block(2, span_id),
            block(4, parent_id) if parent_id else b"",
            block(5, words(name)),
            number(6, kind),
            fixed64(7, start_us * 1000),
            fixed64(8, end_us * 1000),
            attributes(9, values),
            block(15, number(3, ERROR)) if failed else b"",
        )
    )


def log_record(
    *,
    time_us: int,
    observed_us: int,
    severity: int,
    severity_text: str,
    body: str,
    values: Mapping[str, Value],
    trace_id: bytes,
    span_id: bytes,
    event: str,
) -> bytes:
    """`LogRecord`. Times in microseconds since 1970."""
    return b"".join(
        (
            fixed64(1, time_us * 1000),
            number(2, severity),
            block(3, words(severity_text)),
            block(5, any_value(body)),
            attributes(6, values),
            block(9, trace_id) if trace_id else b"",
            block(10, span_id) if span_id else b"",
            fixed64(11, observed_us * 1000),
            block(12, words(event)),
        )
    )


def resource(values: Mapping[str, Value]) -> bytes:
    """`Resource`."""
    return attributes(1, values)


def scope(name: str, version: str) -> bytes:
    """`InstrumentationScope`."""
    return block(1, words(name)) + block(2, words(version))


def export(of: bytes, by: bytes, schema_url: str, items: Iterable[bytes]) -> bytes:
    """`ExportLogsServiceRequest` or `ExportTraceServiceRequest`, which have the same form."""
    schema = block(3, schema_url.encode())
    inner = block(1, by) + b"".join([block(2, item) for item in items]) + schema
    return block(1, block(1, of) + block(2, inner) + schema)


def rejected(answer: bytes) -> int:
    """How many items an `Export...ServiceResponse` says were rejected (`partial_success`). 0 where it is unreadable."""
    try:
        partial = next((data for field, data in _fields(answer) if field == 1 and isinstance(data, bytes)), b"")
        return next((data for field, data in _fields(partial) if field == 1 and isinstance(data, int)), 0)
    except (IndexError, ValueError):
        return 0


def _fields(data: bytes) -> Iterable[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
        elif key & 7 == 2:
            size, at = _varint(data, at)
            yield key >> 3, data[at : at + size]
            at += size
        elif key & 7 in (1, 5):
            at += 8 if key & 7 == 1 else 4
        else:
            raise ValueError("no protobuf")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("no protobuf")
