"""The fields that an expression can name: those of the record, found in its one definition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sniffer.record.message import SCHEMA, HttpMessage, Placement, stamp

if TYPE_CHECKING:
    from sniffer_core.core import RawMessage

ALIASES: Final = {"status": "statusCode"}
"""Short names of fields."""

Read = Callable[[Any], Any]
"""Returns the value of a field of a message; None where it has none."""


def _kind(kind: msgspec.inspect.Type) -> str:
    match kind:
        case msgspec.inspect.Metadata(type=inner):
            return _kind(inner)
        case msgspec.inspect.UnionType(types=types):
            kinds = {_kind(each) for each in types if not isinstance(each, msgspec.inspect.NoneType)}
            return kinds.pop() if len(kinds) == 1 else "mixed" if kinds == {"number", "text"} else "map"
        case msgspec.inspect.BoolType():
            return "flag"
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            return "number"
        case msgspec.inspect.LiteralType(values=values):
            return "text" if isinstance(values[0], str) else "number"
        case msgspec.inspect.VarTupleType(item_type=item):
            return "texts" if _kind(item) == "text" else "numbers"
        case msgspec.inspect.DictType():
            return "map"
        case _:
            return "text"


def _fields(struct: Any, prefix: str) -> dict[str, str]:
    found = {}
    for field in struct.fields:
        whole = field.type.type if isinstance(field.type, msgspec.inspect.Metadata) else field.type
        inner = [whole, *getattr(whole, "types", ())]
        nested = next((each for each in inner if isinstance(each, msgspec.inspect.StructType)), None)
        if nested is None:
            found[prefix + field.encode_name] = _kind(field.type)
        else:
            found |= _fields(nested, f"{prefix}{field.encode_name}.")
    return found


def _all() -> dict[str, str]:
    return _fields(msgspec.inspect.type_info(HttpMessage), "")


KINDS: Final[Mapping[str, str]] = _all()
"""The kind of each field, by its name in the JSON, with a dot where objects are nested: `number`, `text`, `flag`,
`texts`, `numbers`, `map` (of texts), `mixed` (number or text).
"""


def of_json(name: str) -> Read:
    """Reads a field of a record as `json.loads` gives it."""
    steps = name.split(".")
    is_flag = KINDS[name] == "flag"

    def read(record: Any) -> Any:
        for step in steps:
            record = None if record is None else record.get(step)
        return record or None if is_flag else record

    return read


def _end(attribute: str, at: int, which: int | None = None) -> Read:
    def read(raw: RawMessage) -> Any:
        end = getattr(raw, attribute)
        return None if end is None else end[at] if which is None else end[which][at]

    return read


def _milliseconds(attribute: str) -> Read:
    def read(raw: RawMessage) -> float | None:
        micros = getattr(raw, attribute)
        return None if micros is None else micros / 1000

    return read


_OF_RAW: Final[dict[str, Read]] = {
    "schema": lambda _: SCHEMA,
    "receiver.ip": _end("receiver", 0),
    "receiver.port": _end("receiver", 1),
    "destination.ip": _end("destination", 0),
    "destination.port": _end("destination", 1),
    "proxied.source.ip": _end("proxied", 0, 0),
    "proxied.source.port": _end("proxied", 1, 0),
    "proxied.destination.ip": _end("proxied", 0, 1),
    "proxied.destination.port": _end("proxied", 1, 1),
    "timestamp": lambda raw: stamp(raw.timestamp),
    "endTimestamp": lambda raw: stamp(raw.end_timestamp),
    "latencyMs": _milliseconds("latency_us"),
    "durationMs": _milliseconds("duration_us"),
    "informational": lambda raw: raw.informational or None,
    "anomalies": lambda raw: raw.anomalies or None,
    "trailers": lambda raw: raw.trailers or None,
    "resynced": lambda raw: raw.resynced or None,
    "pushed": lambda raw: raw.pushed or None,
    "headersTruncated": lambda raw: raw.headers_truncated or None,  # of what was read back alone
    "body": lambda raw: raw.content[0],
    "bodyEncoding": lambda raw: raw.content[1],
    "bodyTruncated": lambda raw: raw.content[2] or None,
    "bodyDecoded": lambda raw: raw.content[3],
    "bodyRedacted": lambda raw: raw.content[4],
}
OF_CONTENT: Final = frozenset({"body", "bodyEncoding", "bodyTruncated", "bodyDecoded", "bodyRedacted"})
"""Fields that are known when the body was decoded."""


def of_raw(placement: Placement | None) -> Callable[[str], Read]:
    """Reads a field of a message of the core, of a sniffer that runs at `placement`. What was read back has its own."""

    def read_of(name: str) -> Read:
        if name.startswith("placement."):
            part = name.removeprefix("placement.")
            value, number = getattr(placement, part, None), _PLACEMENT.index(part)
            return lambda raw: value if raw.placed is None else raw.placed[number]
        attribute = next(field.name for field in _STRUCT if field.encode_name == name.partition(".")[0])
        return _OF_RAW.get(name) or (lambda raw: getattr(raw, attribute))

    return read_of


_PLACEMENT: Final = Placement.__struct_fields__
_STRUCT: Final = msgspec.structs.fields(HttpMessage)
