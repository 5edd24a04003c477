"""What redaction must make of a JSON body, decided with Python's json: the reference of the core's tokeniser."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from sniffer.config import REDACT_BODY

MARK: Final = "[REDACTED]"
LISTED: Final = frozenset(REDACT_BODY)


class Pairs(list[tuple[str, Any]]):
    """An object of JSON with every pair, those of the same key too."""


def parsed(text: str) -> Any:
    """What a text of JSON says. Raises ValueError or RecursionError."""
    return json.loads(text, strict=False, object_pairs_hook=Pairs)


def is_listed(key: str) -> bool:
    """Whether the value of this key is redacted."""
    plain = "".join(c.lower() if c.isascii() else c for c in key if c > " " and c not in "_-")
    return not LISTED.isdisjoint(re.split(r"[.\[\]]", plain))


def redacted(value: Any) -> tuple[Any, int]:
    """A value as it must be shown, and how many values are redacted. Strings that hold JSON stay as they are."""
    if isinstance(value, Pairs):
        pairs = [(key, (MARK, 1) if is_listed(key) else redacted(each)) for key, each in value]
        return Pairs((key, each) for key, (each, _) in pairs), sum(count for _, (_, count) in pairs)
    if isinstance(value, list):
        found = [redacted(each) for each in value]
        return [each for each, _ in found], sum(count for _, count in found)
    return value, 0


def agree(expected: Any, found: Any) -> bool:
    """Whether two values are the same; a string with a quote in it may be a mark, as it may hold JSON."""
    if isinstance(expected, Pairs):
        return (
            isinstance(found, Pairs)
            and len(expected) == len(found)
            and all(
                left[0] == right[0] and agree(left[1], right[1]) for left, right in zip(expected, found, strict=True)
            )
        )
    if isinstance(expected, list):
        return isinstance(found, list) and len(expected) == len(found) and all(map(agree, expected, found))
    if isinstance(expected, str) and '"' in expected and found == MARK:
        return True
    return repr(expected) == repr(found)
