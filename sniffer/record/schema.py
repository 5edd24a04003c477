"""The JSON Schema (2020-12) of a record: docs/record.schema.json is `python -m sniffer.record.schema`."""

from __future__ import annotations

from typing import Any

import msgspec

from sniffer.record.message import HttpMessage
from sniffer_core.base.marks import INCOMPLETE


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of one record, made from HttpMessage."""
    (reference,), components = msgspec.json.schema_components([HttpMessage], ref_template="#/$defs/{name}")
    definitions = {name: _without_null(component) for name, component in components.items()}
    record: dict[str, Any] = definitions.pop(reference["$ref"].rpartition("/")[2])
    record["title"] = "HTTP message"
    del record["properties"]["incomplete"]["type"]
    record["properties"]["incomplete"]["enum"] = sorted(INCOMPLETE)
    record["required"] += ["bodySize", "endTimestamp"]
    del record["properties"]["bodySize"]["default"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **record, "$defs": definitions}


def _without_null(schema: Any) -> Any:
    # A field that does not apply is left out of the JSON; null is never written.
    if isinstance(schema, list):
        return [_without_null(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: _without_null(part) for key, part in schema.items() if not (key == "default" and not part)}
    if "anyOf" in schema:
        kept = [part for part in schema.pop("anyOf") if part != {"type": "null"}]
        schema |= kept[0] if len(kept) == 1 else {"anyOf": kept}
    if None in schema.get("enum", ()):
        schema["enum"] = [value for value in schema["enum"] if value is not None]
    return schema


if __name__ == "__main__":
    print(msgspec.json.format(msgspec.json.encode(json_schema()), indent=2).decode())
