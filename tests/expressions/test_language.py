"""sniffer.expressions.language: what an expression means, and where it is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sniffer.expressions.fields import of_json
from sniffer.expressions.language import MOST_CHARACTERS, MOST_DEPTH, Expression, ExpressionError, is_meant

TABLE = json.loads((Path(__file__).parent / "cases.json").read_text())
"""The cases: no line of them says how they are judged, so that another implementation could run them too."""


def answer(text: str, request: Any, response: Any) -> bool | str:
    """What the expression says of an exchange; of a wrong one the place of the mistake."""
    try:
        return Expression(text, of_json)(request, response)
    except ExpressionError as error:
        return str(error).partition(":")[0]


@pytest.mark.parametrize(("text", "name", "expected"), TABLE["cases"])
def test_cases(text: str, name: str, expected: bool | str) -> None:
    """Each expression of the table holds, does not hold, or is refused with the column of its mistake."""
    exchange = TABLE["exchanges"][name]
    assert answer(text, exchange["request"], exchange["response"]) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("status > 500 &&", "column 16: expected a field or a value, not the end"),
        ("statuscode == 1", "column 1: there is no field `statuscode`: it is `statusCode`"),
        ("path =~ '(?=a)'", "column 10: look-around"),
        ("path =~ '(a)\\1'", "column 13: back-references"),
        ("path =~ '(a*)*'", "column 14: a group that holds a repetition cannot be repeated"),
        ("path", "column 1: a text is no condition: compare it, or ask has()"),
        ("'a' in path", "column 8: a text cannot hold a text: a part of a text is found with contains"),
    ],
)
def test_what_errors_say(text: str, says: str) -> None:
    """An error names what is wrong, and what would be right where that is known."""
    with pytest.raises(ExpressionError) as caught:
        Expression(text, of_json)
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path == '" + "a" * 65536 + "'", f"at most {MOST_CHARACTERS} characters"),
        ("(" * 2000 + "true" + ")" * 2000, f"more than {MOST_DEPTH} parentheses"),
        ("!" * 3000 + "true", f"more than {MOST_DEPTH} parentheses"),
        ("path =~ '" + "(" * 100 + "a" + ")" * 100 + "'", "groups in groups"),
        ("path =~ '" + "a" * 600 + "'", "at most 512 characters"),
        ("path =~ '" + "(a?){60}" * 5 + "a{60}'", "matches at most 128 characters"),
    ],
)
def test_what_is_too_large_is_refused_by_name(text: str, says: str) -> None:
    """An expression that is too long or too deep, and a pattern that is too large, is refused, and says why."""
    with pytest.raises(ExpressionError) as caught:
        Expression(text, of_json)
    assert says in str(caught.value)


def test_a_long_expression_within_the_bounds_works() -> None:
    """An expression of the most characters is read and judged."""
    text = " || ".join(["status == 404"] * 240)
    assert 4000 < len(text) <= MOST_CHARACTERS
    assert Expression(text, of_json)(None, {"statusCode": 404})


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("status > 500", True),
        ("status>", True),
        ("statuss == 200", True),
        ("!has(", True),
        ("(method == 'GET'", True),
        ("headers['x'] =~ '(a", True),
        ("headers contains 'x'", True),
        ("resynced && foo", True),
        ("!resynced", True),
        ("resynced", False),
        ("true", False),
        ("", False),
        ("path in use", False),
        ("<html>", False),
        ("a<b", False),
        ("YWJj==", False),
        ("x-mine: BLUE 4711", False),
        ("get /a?b=c&d", False),
        ("bank /other 200", False),
        ("127.0.0.1:8080", False),
    ],
)
def test_what_is_meant_as_an_expression(text: str, meant: bool) -> None:
    """Words, markup and base64 are searched for; what has a field and an operator is an expression, right or wrong."""
    assert is_meant(text) is meant


def test_an_expression_knows_whether_it_looks_at_bodies() -> None:
    """Bodies are decoded before judging only where the expression looks at them."""
    assert Expression("path contains 'x' || body contains 'x'", of_json).needs_content
    assert not Expression("path contains 'body' && bodySize > 1", of_json).needs_content
