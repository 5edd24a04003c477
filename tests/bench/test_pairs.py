"""The capture that the benchmark loses segments of, and what it counts of its pairs."""

from __future__ import annotations

import json

import pytest

from tests.bench.captures import CAPTURES, talks
from tests.bench.pairs import judged, known
from tests.conversations import CLIENT

END = {"ip": "10.0.0.1", "port": 1025}
ANSWER = {"direction": "response", "destination": END, "path": "/m0", "reason": "A0"}


def verdicts(*changes: dict[str, object]) -> list[int]:
    """What is counted of a connection with two pairs, for its first answer with each change."""
    lines = [json.dumps(ANSWER | change).encode() for change in changes]
    found = judged({("10.0.0.1 1025", "A0"): 0, ("10.0.0.1 1025", "A1"): 1}, lines)
    return [found[verdict] for verdict in ("right", "wrong", "unpaired", "missing")]


def test_each_pair_is_counted_once() -> None:
    """A pair is right, wrong, unpaired or missing; what no end sent, and requests, count for none."""
    assert verdicts() == [0, 0, 0, 2]
    assert verdicts({}) == [1, 0, 0, 1]
    assert verdicts({"path": "/m1?token=[REDACTED]"}) == [0, 1, 0, 1]
    assert verdicts({"path": ""}, {"path": "/m1", "reason": "A1"}) == [1, 0, 1, 0]
    assert verdicts({"reason": "Invented"}, {"direction": "request"}, {"destination": END | {"port": 1}}) == [
        0,
        0,
        0,
        2,
    ]


@pytest.mark.slow
def test_any_segment_is_lost() -> None:
    """The lossy capture is the same each time, has each kind of offer, and loses heads as it loses bodies."""
    made = list(talks(8_000))
    assert list(CAPTURES["lossy"](messages=500)) == list(CAPTURES["lossy"](messages=500))
    assert len(known(500)) > 200
    assert {ask.offer for _, talk, _ in made for ask in talk.asks} == {None, "h2c", "websocket", "connect"}
    expecting = [ask for _, talk, _ in made for ask in talk.asks if ask.waits == "expect"]
    assert any(ask.continued is not None for ask in expecting)
    assert any(ask.unsent for ask in expecting)
    heads = bodies = 0
    for _, talk, kept in made:
        begins = ({ask.start for ask in talk.asks}, {answer.start for answer in talk.answers})
        for segment in (segment for segment in talk.segments if segment.data and segment not in kept):
            first = segment.offset in begins[segment.side != CLIENT]
            heads, bodies = heads + first, bodies + (not first)
    assert heads > 20
    assert bodies > 20
