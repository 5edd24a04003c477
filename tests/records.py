"""Records made the whole way through the core, checked against the schema."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import jsonschema
import msgspec

from sniffer.config import REDACT_BODY, REDACT_HEADERS, REDACT_QUERY
from sniffer.record.codings import decode
from sniffer.record.message import HttpMessage, Placement, from_raw
from sniffer.record.schema import json_schema
from sniffer_core.core import RawMessage, Recorded
from tests.captures import connection
from tests.laws import Table

SCHEMA = json_schema()


def record(raw: RawMessage, placement: Placement | None = None) -> dict[str, Any]:
    """The JSON of a message, checked against the schema."""
    line = from_raw(raw, placement).to_json()
    assert b"\n" not in line
    fields: dict[str, Any] = json.loads(line)
    jsonschema.validate(fields, SCHEMA)
    return fields


OF_RECORDS = ("max_body", "redact_headers", "redact_query", "redact_body", "redact_key", "placement", "decode")


def read_back(lines: Iterable[bytes], **options: Any) -> list[RawMessage]:
    """Messages made of JSON lines. `options` are a table's, of which records need only some."""
    recorded = Recorded(**{name: value for name, value in options.items() if name in OF_RECORDS})
    return [recorded.message(msgspec.json.decode(line, type=HttpMessage)) for line in lines]


def assert_read_back(raws: Iterable[RawMessage], **options: Any) -> None:
    """What is made of the JSON of messages with the same options gives the same JSON, in both of its forms."""
    lines = [raw.to_json() for raw in raws]
    for line, again in zip(lines, read_back(lines, **options), strict=True):
        assert again.to_json() == line, (again.to_json(), line)
    for line, again in zip(lines, read_back(lines, **options), strict=True):
        assert from_raw(again).to_json() == line


def read(request: bytes, response: bytes, **options: Any) -> list[RawMessage]:
    """The messages of one exchange, as the core gives them; both forms of each must be the same, also read back."""
    given: dict[str, Any] = {
        "ports": (8080,),
        "max_body": 1000,
        "redact_headers": REDACT_HEADERS,
        "redact_query": REDACT_QUERY,
        "redact_body": REDACT_BODY,
        "decode": decode,
    }
    raws = Table(**given | options).run(connection([(request, response)]))
    assert_read_back(raws, **given | options)
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


def table(**changes: Any) -> Table:
    """A table that redacts what is redacted by default, and decodes."""
    options: dict[str, Any] = {
        "redact_headers": REDACT_HEADERS,
        "redact_query": REDACT_QUERY,
        "redact_body": REDACT_BODY,
        "decode": decode,
        "max_body": 1500,
    }
    return Table(**options | changes)
