"""Talks as their endpoints have them (tests/endpoints.py), judged by what the endpoints know."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer_core.core import RawMessage
from tests import generated
from tests.endpoints import Capture, Choices, Talk
from tests.generated import Judge, Violation, kinds, minimised, play, shown
from tests.laws import Table


@given(st.integers(0, 2**64 - 1))
def test_talks(seed: int) -> None:
    """Offers, expectations, early answers, tunnels, resets and any loss: no wrong pair, foreign byte or secret."""
    choices = Choices(Random(seed))
    case = play(choices)
    for kind in kinds(case):
        least = minimised(choices.made, kind)
        raise AssertionError("\n".join([f"{kind}: {least}", *shown(play(Choices(given=least)))]))


def plain(*given_choices: int) -> tuple[Talk, Capture, list[RawMessage]]:
    """A talk of plain choices but these, and what came of it."""
    choices = Choices(given=given_choices)
    talk = Talk(choices)
    capture = Capture(talk, choices)
    return (
        talk,
        capture,
        Table(max_body=1 << 20, redact_headers=("authorization", "cookie", "set-cookie")).run(capture.packets),
    )


def found(talk: Talk, capture: Capture, messages: list[RawMessage]) -> set[str]:
    """What the judge finds."""
    return {violation.kind for violation in Judge(talk, capture, messages).violations()}


FOUR = (0, 0, 3)
"""Choices that give four exchanges."""


def test_the_plainest_talk() -> None:
    """Zeros give one exchange in a few packets, which is found whole and paired."""
    talk, capture, messages = plain()
    assert (len(talk.asks), len(talk.answers), len(messages)) == (1, 1, 2)
    assert len(capture.packets) < 15
    assert found(talk, capture, messages) == set()


def test_what_is_wrong_is_found() -> None:
    """A lost or doubled message, a wrong pair, a foreign byte, an invented message: each is seen."""
    talk, capture, messages = plain(*FOUR)
    assert len(messages) == 8
    assert found(talk, capture, messages) == set()
    assert "missing" in found(talk, capture, messages[1:])
    assert "twice" in found(talk, capture, [*messages, messages[0]])
    answers = talk.answers[:]
    talk.answers[0] = replace(answers[0], body=b"other")
    assert "foreign bytes" in found(talk, capture, messages)
    talk.answers[0] = replace(answers[0], body=answers[0].body + b"more")
    assert "made whole" in found(talk, capture, messages)
    talk.answers[:2] = replace(answers[1], name="A0"), replace(answers[0], name="A1")
    talk.answers[0].ask = None
    assert "wrong pair" in found(talk, capture, messages)
    talk.answers[:] = answers[:3]
    assert "invented" in found(talk, capture, messages)


def test_an_answer_without_its_request_is_found() -> None:
    """A response that is unpaired though nothing was lost is seen."""
    talk, capture, _ = plain()
    alone = Table(redact_headers=("set-cookie",)).run(
        [packet for packet in capture.packets if packet.data[34:36] == b"\0P"]
    )
    assert "unpaired" in found(talk, capture, [*plain()[2][:1], *alone])


def test_a_secret_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that redacts nothing is seen to give secrets away."""
    monkeypatch.setattr(generated, "REDACT_HEADERS", ())
    assert kinds(play(Choices())) == {"secret in clear (complete)"}


def test_choices_are_cut_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails is told with the fewest choices that still do; and the same choices give the same talk."""
    monkeypatch.setattr(Judge, "violations", lambda judge: [Violation("long", "")] if len(judge._talk.asks) > 3 else [])
    made = next(
        choices.made
        for choices in map(Choices, map(Random, range(1000)))
        if kinds(play(choices)) == {"long (complete)"} and len(choices.made) < 500
    )
    least = minimised(made, "long (complete)")
    assert sum(map(bool, least)) <= 2
    assert sum(least) <= 4
    again = [list(shown(play(Choices(given=least)))) for _ in range(2)]
    assert again[0] == again[1]
