"""The patterns of `=~`: a part of regular expressions that is searched in linear time.

A pattern becomes a position automaton (Glushkov's: Thompson's without its empty moves), which follows all ways through
the pattern at once: nothing is tried twice, whatever the text.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

MOST_CHARACTERS: Final = 512
"""Characters of a pattern."""
MOST_POSITIONS: Final = 128
"""Characters that a pattern matches, with those that a count repeats: each step looks at no more."""
MOST_DEPTH: Final = 16
"""Groups in groups."""
MOST_MOVES: Final = 4096
"""Moves of the automaton that are remembered; then it forgets them all and begins again."""
LAST: Final = 0x10FFFF

Ranges = tuple[tuple[int, int], ...]

_DIGIT: Final[Ranges] = ((48, 57),)
_WORD: Final[Ranges] = ((48, 57), (65, 90), (95, 95), (97, 122))
_SPACE: Final[Ranges] = ((9, 13), (32, 32))
_CLASSES: Final[dict[str, Ranges]] = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_CONTROLS: Final = {"n": 10, "r": 13, "t": 9}
_COUNTS: Final[dict[str, tuple[int, int | None]]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


class PatternError(ValueError):
    """A pattern that is none. `at` is the index of the character."""

    def __init__(self, at: int, message: str) -> None:
        super().__init__(message)
        self.at = at


class _Node(NamedTuple):
    """A part of a pattern: a character of `ranges`, or parts in a row (`cat`), by choice (`alt`), or repeated."""

    kind: str
    parts: tuple[_Node, ...] = ()
    ranges: Ranges = ()
    low: int = 0
    high: int | None = None
    repeats: bool = False
    """It holds a repetition other than `?`."""


class _Choice(NamedTuple):
    """One alternative of the whole pattern."""

    node: _Node
    from_start: bool
    to_end: bool


def negated(ranges: Ranges) -> Ranges:
    """All characters that are not in `ranges`."""
    found = []
    at = 0
    for low, high in sorted(ranges):
        if low > at:
            found.append((at, low - 1))
        at = max(at, high + 1)
    if at <= LAST:
        found.append((at, LAST))
    return tuple(found)


def _folded(ranges: Ranges) -> Ranges:
    """With the other case of each ASCII letter."""
    found = list(ranges)
    for low, high in ranges:
        for first, other in ((65, 32), (97, -32)):
            begin, end = max(low, first), min(high, first + 25)
            if begin <= end:
                found.append((begin + other, end + other))
    return tuple(found)


class _Reader:
    """Reads the text of a pattern."""

    def __init__(self, text: str) -> None:
        if len(text) > MOST_CHARACTERS:
            raise PatternError(MOST_CHARACTERS, f"a pattern has at most {MOST_CHARACTERS} characters")
        self.text = text
        self.ignores_case = text.startswith("(?i)")
        self.at = 4 if self.ignores_case else 0

    def choices(self) -> list[_Choice]:
        """The whole pattern. `^` and `$` may stand at the ends of its alternatives."""
        found = []
        while True:
            from_start = self.take("^")
            node = self.row(0)
            found.append(_Choice(node, from_start, self.take("$")))
            if not self.take("|"):
                if self.at < len(self.text):
                    self.refuse_rest()
                return found

    def refuse_rest(self) -> None:
        """What ends an alternative, and is no end of it."""
        if self.text[self.at] == ")":
            raise PatternError(self.at, "`)` closes no group")
        raise PatternError(self.at - 1, "`$` can stand at the end of a pattern or of one of its alternatives only")

    def take(self, mark: str) -> bool:
        """Whether `mark` comes next; it is consumed."""
        if not self.text.startswith(mark, self.at):
            return False
        self.at += len(mark)
        return True

    def row(self, depth: int) -> _Node:
        """Parts in a row, up to the end of the alternative."""
        parts: list[_Node] = []
        while (
            self.at < len(self.text)
            and self.text[self.at] not in "|)"
            and not (depth == 0 and self.text[self.at] == "$")
        ):
            parts.append(self.repeated(depth))
        return _Node("cat", tuple(parts), repeats=any(part.repeats for part in parts))

    def repeated(self, depth: int) -> _Node:
        """A part and what says how often."""
        node = self.part(depth)
        begun = self.at
        mark = self.text[begun : begun + 1]
        if mark == "{":
            low, high = self.count()
        elif mark in _COUNTS:
            self.at += 1
            low, high = _COUNTS[mark]
        else:
            return node
        if self.at < len(self.text) and self.text[self.at] in "*+?{":
            raise PatternError(self.at, "a repetition cannot be repeated, and is neither lazy nor possessive")
        if mark != "?" and node.repeats:
            raise PatternError(begun, "a group that holds a repetition cannot be repeated")
        return _Node("repeat", (node,), low=low, high=high, repeats=mark != "?" or node.repeats)

    def count(self) -> tuple[int, int | None]:
        """`{N}`, `{N,}` or `{N,M}`."""
        match = re.compile(r"\{([0-9]{1,3})(?:(,)([0-9]{1,3})?)?\}").match(self.text, self.at)
        if match is None:
            raise PatternError(self.at, "`{` begins a count, {N}, {N,} or {N,M}; the character is \\{")
        low = int(match[1])
        high = low if match[2] is None else None if match[3] is None else int(match[3])
        if low > MOST_POSITIONS or (high is not None and (high < low or high > MOST_POSITIONS)):
            raise PatternError(self.at, f"a count goes from a lower to a higher number of at most {MOST_POSITIONS}")
        self.at = match.end()
        return low, high

    def part(self, depth: int) -> _Node:
        """A group, a class or a character."""
        begun = self.at
        char = self.text[begun]
        self.at += 1
        if char == "(":
            return self.group(begun, depth)
        if char == "[":
            return self.characters(self.bracket(begun))
        if char == ".":
            return _Node("set", ranges=negated(((10, 10),)))
        if char == "\\":
            return self.characters(self.escape(begun))
        if char in "*+?{":
            raise PatternError(begun, f"`{char}` repeats nothing")
        if char == "^":
            raise PatternError(begun, "`^` can stand at the start of a pattern or of one of its alternatives only")
        if char == "$":
            raise PatternError(begun, "`$` can stand at the end of a pattern or of one of its alternatives only")
        return self.characters(((ord(char), ord(char)),))

    def characters(self, ranges: Ranges) -> _Node:
        """One character of `ranges`."""
        return _Node("set", ranges=_folded(ranges) if self.ignores_case else ranges)

    def group(self, begun: int, depth: int) -> _Node:
        """Behind `(`."""
        if self.take("?") and not self.take(":"):
            what = "look-around, named groups and flags are not understood; `(?i)` may begin the pattern"
            raise PatternError(begun, what)
        if depth + 1 > MOST_DEPTH:
            raise PatternError(begun, f"a pattern has at most {MOST_DEPTH} groups in groups")
        parts = [self.row(depth + 1)]
        while self.take("|"):
            parts.append(self.row(depth + 1))
        if not self.take(")"):
            raise PatternError(begun, "`(` is not closed")
        return _Node("alt", tuple(parts), repeats=any(part.repeats for part in parts))

    def escape(self, begun: int) -> Ranges:
        """Behind a backslash at `begun`."""
        char = self.text[self.at : self.at + 1]
        self.at += 1
        if char.lower() in _CLASSES and char:
            ranges = _CLASSES[char.lower()]
            return ranges if char.islower() else negated(ranges)
        if char in _CONTROLS:
            return ((_CONTROLS[char], _CONTROLS[char]),)
        if char and char in "123456789":
            raise PatternError(begun, "back-references are not understood")
        if not char or (char.isascii() and char.isalnum()):
            raise PatternError(begun, f"`\\{char}` is not understood")
        return ((ord(char), ord(char)),)

    def bracket(self, begun: int) -> Ranges:
        """Behind `[`."""
        inverse = self.take("^")
        found: list[tuple[int, int]] = []
        while not self.take("]"):
            first, at = self.member(begun), self.at
            if self.text.startswith("-", at) and not self.text.startswith("-]", at):
                self.at += 1
                last = self.member(begun)
                if len(first) != 1 or len(last) != 1 or first[0][0] != first[0][1] or last[0][0] != last[0][1]:
                    raise PatternError(at, "`-` stands between two characters; the character is \\-")
                if last[0][0] < first[0][0]:
                    raise PatternError(at, "the range is the wrong way round")
                first = ((first[0][0], last[0][0]),)
            found += first
        if not found:
            raise PatternError(begun, "`[` holds no character")
        ranges = _folded(tuple(found)) if self.ignores_case else tuple(found)
        return negated(ranges) if inverse else ranges

    def member(self, begun: int) -> Ranges:
        """One entry of a class."""
        if self.at >= len(self.text):
            raise PatternError(begun, "`[` is not closed")
        at = self.at
        self.at += 1
        if self.text[at] == "\\":
            return self.escape(at)
        return ((ord(self.text[at]), ord(self.text[at])),)


class _Part(NamedTuple):
    """What an automaton knows of a part. Sets of positions are the bits of a number."""

    empty: bool
    """It matches the empty text."""
    first: int
    last: int


class _State:
    """The positions that the text may have reached."""

    __slots__ = ("ends", "found", "moves", "next")

    def __init__(self, *, following: int, found: bool, ends: bool) -> None:
        self.next = following
        self.found = found
        """The text so far holds a match."""
        self.ends = ends
        """The text holds a match if it ends here."""
        self.moves: dict[str, _State] = {}


class Pattern:
    """A pattern, ready to search with. Raises PatternError for one that is not understood."""

    def __init__(self, text: str) -> None:
        self._ranges: list[Ranges] = []
        self._follow: list[int] = []
        self._always = 0  # positions at which a match can begin anywhere
        self._found = self._ends = 0
        once = 0
        everywhere = self._nothing = False
        for node, from_start, to_end in _Reader(text).choices():
            part = self._build(node)
            if from_start:
                once |= part.first
            else:
                self._always |= part.first
            if to_end:
                self._ends |= part.last
            else:
                self._found |= part.last
            everywhere = everywhere or (part.empty and not (from_start and to_end))
            self._nothing = self._nothing or part.empty
        self._start = _State(following=once | self._always, found=everywhere, ends=self._nothing)
        self._states: dict[int, _State] = {}
        self._masks: dict[str, int] = {}
        self._moves = 0

    def _build(self, node: _Node) -> _Part:
        """Adds the positions of a part."""
        if node.kind == "set":
            if len(self._ranges) >= MOST_POSITIONS:
                raise PatternError(0, f"a pattern matches at most {MOST_POSITIONS} characters, counts included")
            self._ranges.append(node.ranges)
            self._follow.append(0)
            bit = 1 << (len(self._ranges) - 1)
            return _Part(False, bit, bit)
        if node.kind == "alt":
            parts = [self._build(part) for part in node.parts]
            first = last = 0
            for part in parts:
                first |= part.first
                last |= part.last
            return _Part(any(part.empty for part in parts), first, last)
        whole = _Part(True, 0, 0)
        if node.kind == "cat":
            for each in node.parts:
                whole = self._then(whole, self._build(each))
            return whole
        for number in range(max(node.low, 1) if node.high is None else node.high):
            part = self._build(node.parts[0])
            if node.high is None and number >= node.low - 1:
                self._connect(part.last, part.first)
            if number >= node.low:
                part = _Part(True, part.first, part.last)
            whole = self._then(whole, part)
        return whole

    def _then(self, one: _Part, other: _Part) -> _Part:
        self._connect(one.last, other.first)
        return _Part(
            one.empty and other.empty,
            one.first | (other.first if one.empty else 0),
            other.last | (one.last if other.empty else 0),
        )

    def _connect(self, last: int, first: int) -> None:
        for position in _bits(last):
            self._follow[position] |= first

    def search(self, text: str) -> bool:
        """Whether the text holds a match."""
        state = self._start
        if state.found:
            return True
        for char in text:
            following = state.moves.get(char)
            if following is None:
                following = self._move(state, char)
            if following.found:
                return True
            state = following
        return state.ends

    def _move(self, state: _State, char: str) -> _State:
        """The state behind a character; remembered."""
        if self._moves >= MOST_MOVES:
            self._states.clear()
            self._start.moves.clear()
            self._masks.clear()
            self._moves = 0
        mask = self._masks.get(char)
        if mask is None:
            mask = self._masks[char] = self._mask(ord(char))
        positions = state.next & mask
        following = self._states.get(positions)
        if following is None:
            after = self._always
            for position in _bits(positions):
                after |= self._follow[position]
            following = self._states[positions] = _State(
                following=after, found=bool(positions & self._found), ends=bool(positions & self._ends)
            )
        state.moves[char] = following
        self._moves += 1
        return following

    def _mask(self, code: int) -> int:
        """The positions that match a character."""
        mask = 0
        for position, ranges in enumerate(self._ranges):
            if any(low <= code <= high for low, high in ranges):
                mask |= 1 << position
        return mask


def _bits(mask: int) -> list[int]:
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found
