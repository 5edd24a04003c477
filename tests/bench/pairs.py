"""What the pairs of the `lossy` capture are worth: each answer's request is known to the endpoints that made it."""

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
    """The number of the request that each answer of the capture has: by the client's end, and the answer's reason."""
    found: dict[tuple[str, str], int] = {}
    for number, talk, _ in talks(messages):
        client = Link(number).ends[0]
        end = f"{ip_address(client[:4])} {int.from_bytes(client[8:10])}"
        found |= {(end, answer.name): answer.ask.number for answer in talk.answers if answer.ask is not None}
    return found


def judged(pairs: dict[tuple[str, str], int], lines: Iterable[bytes]) -> Counter[Verdict]:
    """How many of the pairs are right in the output, wrong, without their request, or not there at all.

    A response that neither end sent, made of a piece of a body behind a loss, belongs to no pair.
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
