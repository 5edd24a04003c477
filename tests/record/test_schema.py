"""record/schema: the JSON Schema of a record, and what the documents say of its fields."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from sniffer.record.message import HttpMessage
from tests.raws import request
from tests.records import SCHEMA, record

ROOT = Path(__file__).parents[2]


def test_the_schema_in_docs_is_up_to_date() -> None:
    """docs/record.schema.json is what `python -m sniffer.record.schema` writes."""
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
    assert set(SCHEMA["properties"]) == {HttpMessage.__struct_encode_fields__[at] for at in range(39)}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(record(request()) | {"exchange": -1}, SCHEMA)


def test_the_docs_describe_every_field() -> None:
    """docs/RECORD.md has a row for each field, and says which bodies are not redacted."""
    text = (ROOT / "docs" / "RECORD.md").read_text()
    for name in SCHEMA["properties"]:
        assert f"| `{name}` |" in text
    assert "are not searched" in text
