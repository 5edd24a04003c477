"""Path templates: `/orders/17` and `/orders/18` are one route, `/orders/{number}`. Learnt from the traffic, bounded.

A segment that looks like a number, an identifier or a date is a variable at once. Any other stands for itself, until
more than `MOST_CHILDREN` stand in one place: then that place is a variable, `{any}`, and what was told apart there is
merged. So names that no form betrays (users, repositories) are found by how many there are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final, Generic, Protocol, Self, TypeVar

MOST_CHILDREN: Final = 30
"""Segments that are told apart in one place of a path."""
MOST_SEGMENTS: Final = 12
"""Segments of a path that are looked at; the others together are `{rest}`."""
LONG_SEGMENT: Final = 60
"""Characters of a segment. A longer one is a variable."""
ANY: Final = "{any}"

_FORMS: Final = re.compile(
    r"(?P<number>[0-9]+)"
    r"|(?P<uuid>[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12})"
    r"|(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[Tt_ ][0-9:.%A-Za-z+-]*)?)"
    r"|(?P<hex>(?=.*[0-9])[0-9a-fA-F]{8,})"
    r"|(?P<id>(?=(?:.*[0-9]){3})(?=.*[A-Za-z])[A-Za-z0-9_~-]{16,})"
)


class Merged(Protocol):
    """What is counted for a route."""

    def merge(self, other: Self) -> None:
        """Adds what was counted for another route, which becomes one with this."""


Counted = TypeVar("Counted", bound=Merged)


def variable(segment: str) -> str:
    """The name of a variable that a segment of a path is by its form, in braces; empty if it stands for itself."""
    if len(segment) > LONG_SEGMENT:
        return "{long}"
    match = _FORMS.fullmatch(segment)
    return "" if match is None else f"{{{match.lastgroup}}}"


class _Place(Generic[Counted]):
    """A place in the paths of one origin: what is counted for the path that ends here, and what follows."""

    __slots__ = ("children", "counted", "literals")

    def __init__(self) -> None:
        self.children: dict[str, _Place[Counted]] = {}
        self.literals = 0
        """Children that stand for themselves. With `ANY` among the children there are none."""
        self.counted: Counted | None = None

    def absorb(self, other: _Place[Counted]) -> int:
        """Merges another place into this one. Returns how many routes became one with another."""
        merged = 0
        if self.counted is None:
            self.counted = other.counted
        elif other.counted is not None:
            self.counted.merge(other.counted)
            merged = 1
        for segment, child in other.children.items():
            name = segment if segment.startswith("{") or ANY not in self.children else ANY
            own = self.children.get(name)
            if own is None:
                self.children[name] = child
                self.literals += not name.startswith("{")
            else:
                merged += own.absorb(child)
        if self.literals > MOST_CHILDREN or (self.literals and ANY in self.children):
            merged += self.collapse()
        return merged

    def collapse(self) -> int:
        """Makes one variable of all children that stand for themselves. Returns how many routes were merged."""
        one: _Place[Counted] = self.children.get(ANY) or _Place()
        merged = 0
        for segment in [segment for segment in self.children if not segment.startswith("{")]:
            merged += one.absorb(self.children.pop(segment))
        self.literals = 0
        self.children[ANY] = one
        return merged


class Routes(Generic[Counted]):
    """What is counted, by origin (a method and a host) and path template. At most `most` are told apart."""

    def __init__(self, make: Callable[[], Counted], *, most: int) -> None:
        self._make = make
        self._most = most
        self._origins: dict[str, _Place[Counted]] = {}
        self._count = 0
        self.others = make()
        """All routes beyond `most` together."""

    def __len__(self) -> int:
        """Routes that are told apart."""
        return self._count

    def find(self, origin: str, path: str) -> Counted:
        """What is counted for the route of a path, which begins with `/` and has no query; `others` without room."""
        place = self._origins.get(origin)
        if place is None:
            if self._count >= self._most:
                return self.others
            place = self._origins[origin] = _Place()
        segments = path.split("/", MOST_SEGMENTS + 1)[1:]
        if len(segments) > MOST_SEGMENTS:
            segments[-1] = "{rest}"
        for segment in segments:
            following = self._step(place, segment)
            if following is None:
                return self.others
            place = following
        if place.counted is None:
            if self._count >= self._most:
                return self.others
            self._count += 1
            place.counted = self._make()
        return place.counted

    def _step(self, place: _Place[Counted], segment: str) -> _Place[Counted] | None:
        """The place behind a segment; None without room for it."""
        name = segment if segment == "{rest}" else variable(segment)
        if not name:
            name = ANY if ANY in place.children else segment.replace("{", "%7B")
        found = place.children.get(name)
        if found is not None:
            return found
        if not name.startswith("{"):
            if place.literals >= MOST_CHILDREN:
                self._count -= place.collapse()
                return place.children[ANY]
            if self._count >= self._most:
                return None
            place.literals += 1
        elif self._count >= self._most:
            return None
        found = place.children[name] = _Place()
        return found

    def __iter__(self) -> Iterator[tuple[str, Counted]]:
        """Each route, its origin before its template, and what is counted for it."""
        for origin, place in self._origins.items():
            yield from _walk(place, origin)


def _walk(place: _Place[Counted], name: str) -> Iterator[tuple[str, Counted]]:
    if place.counted is not None:
        yield name, place.counted
    for segment, child in place.children.items():
        yield from _walk(child, f"{name}/{segment}")
