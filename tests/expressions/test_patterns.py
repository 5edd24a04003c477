"""sniffer.expressions.patterns: the same answers as Python's re, in linear time."""

from __future__ import annotations

import re
import time

import hypothesis
import pytest
from hypothesis import strategies as st

from sniffer.expressions.patterns import MOST_MOVES, Pattern, PatternError

ATOMS = st.sampled_from(
    ["a", "b", "A", "é", ".", "\\d", "\\W", "\\s", "\\.", "[ab]", "[^a]", "[a-c\\d]", "[\\w-]", "[^\\s]", "(?:)", "-"]
)
COUNTS = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{0,2}", "{1,}", "{0}"])


def rows(atoms: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Patterns in a row, some of them repeated."""
    return st.lists(st.tuples(atoms, COUNTS).map("".join), max_size=4).map("".join)


GROUPS = st.lists(st.lists(ATOMS, max_size=3).map("".join), min_size=1, max_size=3).map(
    lambda part: f"({'|'.join(part)})"
)
WHOLES = st.lists(
    st.tuples(st.sampled_from(["", "^"]), rows(ATOMS | GROUPS), st.sampled_from(["", "$"])).map("".join),
    min_size=1,
    max_size=3,
).map("|".join)


@hypothesis.given(
    st.sampled_from(["", "(?i)"]),
    WHOLES,
    st.lists(st.text(alphabet="abcA1 .é-\n😀", max_size=8), min_size=1, max_size=5),
)
def test_it_agrees_with_re(flags: str, pattern: str, texts: list[str]) -> None:
    """A pattern that is understood matches what Python's re matches, with ASCII classes and `$` at the very end."""
    expected = re.compile(flags + pattern.replace("$", "\\Z"), re.ASCII)
    found = Pattern(flags + pattern)
    for text in texts:
        assert found.search(text) is (expected.search(text) is not None), text


@pytest.mark.parametrize("pattern", ["(a|a)*$", "a*a*a*a*a*a*a*b", "(a|b|ab)*c", "[ab]{100}c$", "(a?){60}a{60}$"])
def test_no_text_makes_it_slow(pattern: str) -> None:
    """Patterns that take a backtracking engine for ever are searched in time that grows with the text alone."""
    search = Pattern(pattern).search
    begun = time.monotonic()
    for text in ("a" * 50_000, "ab" * 25_000, "a" * 50_000 + "b"):
        search(text)
    assert time.monotonic() - begun < 20


def test_what_it_remembers_is_bounded() -> None:
    """A text that leads through ever new states does not make the automaton grow without bound."""
    pattern = Pattern("[ab][ab]{60}c")
    number = 1
    text = []
    for _ in range(20_000):
        number = number * 1103515245 + 12345 & 0x7FFFFFFF
        text.append("ab"[number >> 16 & 1])
    assert not pattern.search("".join(text))
    assert len(pattern._states) <= MOST_MOVES + 1


@pytest.mark.parametrize("text", ["a" * 513, "(" * 17 + ")" * 17, "a{200}b{200}", "(?P<n>a)", "a{,2}", "a\\"])
def test_what_is_refused(text: str) -> None:
    """What is too large or not understood is an error, with its place."""
    with pytest.raises(PatternError) as caught:
        Pattern(text)
    assert 0 <= caught.value.at <= len(text)
