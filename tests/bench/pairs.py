"""Judges the pairs found in the `lossy` capture. The generated endpoints know the request of each response."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final, Literal

from tests.bench.captures import Link, talks

NUMBER: Final = re.compile(r"m(\d+)")

Verdict = Literal["right", "wrong", "unpaired", "missing"]


def known(messages: int) -> dict[tuple[str, str], int]:
    """The number of each response's request, by the client's address and the response's reason phrase."""
    found: dict[tuple[str, str], int] = {}
    for number, talk, _ in talks(messages):
        client = Link(number).ends[0]
        end = f"{ip_address(client[:4])} {int.from_bytes(client[8:10])}"
        found |= {(end, answer.name): answer.ask.number for answer in talk.answers if answer.ask is not None}
    return found


def judged(pairs: dict[tuple[str, str], int], lines: Iterable[bytes]) -> Counter[Verdict]:
    """Counts the pairs of the output that are right, wrong, unpaired or missing.

    A response that neither end sent, taken from a piece of a body behind a loss, belongs to no pair.
    """
    found = Counter[Verdict]({"right": 0, "wrong": 0, "unpaired": 0, "missing": 0})
    rest = dict(pairs)
    for line in lines:
        record = json.loads(line)
        if record["direction"] == "request":
            continue
        client = record["destination"]
        number = rest.pop((f"{client['ip']} {client['port']}", record.get("reason", "")), None)
        if number is None:
            continue
        asked = NUMBER.search(record.get("path", ""))
        verdict: Verdict = "unpaired" if asked is None else "right" if int(asked[1]) == number else "wrong"
        found[verdict] += 1
    found["missing"] = len(rest)
    return found
