"""sniffer.routes: path templates that are learnt from the traffic."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import hypothesis
import pytest
from hypothesis import strategies as st

from sniffer.routes import MOST_CHILDREN, MOST_SEGMENTS, Routes, variable


class Count:
    """A number that routes are counted with."""

    def __init__(self) -> None:
        self.number = 0

    def merge(self, other: Count) -> None:
        self.number += other.number


def routes_of(*paths: str, origin: str = "GET h", most: int = 200) -> Routes[Count]:
    """Routes that have counted these paths."""
    routes: Routes[Count] = Routes(Count, most=most)
    for path in paths:
        routes.find(origin, path).number += 1
    return routes


def counts(routes: Routes[Count]) -> dict[str, int]:
    """What was counted, by route."""
    return {name: count.number for name, count in routes}


@pytest.mark.parametrize(
    ("segment", "form"),
    [
        ("17", "{number}"),
        ("0", "{number}"),
        ("9b2d4c1e-0f3a-4d5b-8c7e-6a5b4c3d2e1f", "{uuid}"),
        ("2026-11-30", "{date}"),
        ("2026-11-30T07:00:00Z", "{date}"),
        ("9f86d081884c7d65", "{hex}"),
        ("cus_9s6XKzkNRiz8i3", "{id}"),
        ("01ARZ3NDEKTSV4RRFFQ69G5FAV", "{id}"),
        ("x" * 61, "{long}"),
        ("orders", ""),
        ("v1", ""),
        ("", ""),
        ("feedface", ""),
        ("app.3f9a2b.js", ""),
        ("internationalization", ""),
        ("{any}", ""),
    ],
)
def test_forms(segment: str, form: str) -> None:
    """Numbers, UUIDs, dates, hexadecimal and mixed identifiers are variables; words, versions and files are not."""
    assert variable(segment) == form


def test_a_place_with_many_names_is_a_variable() -> None:
    """GitHub's paths: owners and repositories are names of no form, found by their number; the rest is told apart."""
    owners = [f"owner-{chr(97 + number // 10)}{chr(97 + number % 10)}" for number in range(MOST_CHILDREN + 10)]
    paths = [f"/repos/{owner}/tool/{what}" for owner in owners for what in ("issues", "pulls")]
    routes = routes_of("/login", "/repos", *paths)
    assert counts(routes) == {
        "GET h/login": 1,
        "GET h/repos": 1,
        "GET h/repos/{any}/tool/issues": len(owners),
        "GET h/repos/{any}/tool/pulls": len(owners),
    }
    assert len(routes) == 4


def test_few_names_stay() -> None:
    """As many names as are told apart in one place stay what they are."""
    paths = [f"/{chr(97 + number % 26)}{chr(97 + number // 26)}" for number in range(MOST_CHILDREN)]
    assert counts(routes_of(*paths)) == {f"GET h{path}": 1 for path in paths}


def test_origins_are_apart() -> None:
    """Methods and hosts have routes of their own; a path without segments is the origin's."""
    routes = routes_of("/a/1")
    routes.find("POST h", "/a/2").number += 1
    routes.find("CONNECT h:443", "").number += 1
    assert counts(routes) == {"GET h/a/{number}": 1, "POST h/a/{number}": 1, "CONNECT h:443": 1}


def test_long_paths_end_somewhere() -> None:
    """What is behind the last segment that is looked at is one."""
    routes = routes_of("/a" * MOST_SEGMENTS + "/b", "/a" * MOST_SEGMENTS + "/c/d", "/a" * MOST_SEGMENTS)
    assert counts(routes) == {"GET h" + "/a" * MOST_SEGMENTS: 1, "GET h" + "/a" * MOST_SEGMENTS + "/{rest}": 2}


def test_a_name_cannot_pass_for_a_variable() -> None:
    """A path that says `{any}` itself is no template."""
    routes = routes_of("/{any}", "/{number}", "/x")
    assert counts(routes) == {"GET h/%7Bany}": 1, "GET h/%7Bnumber}": 1, "GET h/x": 1}


SEGMENTS = st.sampled_from([*"abcdefgh", "1", "22", "{rest}", "", "9f86d081884c7d65"]) | st.text(max_size=3)
PATHS = st.lists(SEGMENTS.map(lambda segment: segment.replace("/", "")), max_size=6).map(
    lambda path: "/" + "/".join(path)
)


@hypothesis.given(st.lists(st.tuples(st.sampled_from(["GET a", "GET b"]), PATHS), max_size=200), st.integers(1, 60))
def test_each_path_is_counted_once(asked: list[tuple[str, str]], most: int) -> None:
    """Whatever is merged, each path is counted in exactly one route or among the others, and the bound holds."""
    routes: Routes[Count] = Routes(Count, most=most)
    for origin, path in asked:
        routes.find(origin, path).number += 1
    found = list(routes)
    assert len({name for name, _ in found}) == len(found) == len(routes) <= most
    assert sum(count.number for _, count in found) + routes.others.number == len(asked)
    total: Counter[str] = Counter(origin for origin, _ in asked)
    if not routes.others.number:
        for name, count in found:
            total[name[:5]] -= count.number
        assert not any(total.values())


def test_hostile_paths_take_bounded_memory() -> None:
    """Ever new hosts, names and depths take no more memory than the bound of routes says."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        routes: Routes[Count] = Routes(Count, most=200)
        for number in range(20_000):
            word = "".join(chr(97 + int(digit)) for digit in f"{number:05}")
            routes.find(f"GET {word}" if number % 3 else "GET h", f"/{word}" * (number % 20)).number += 1
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(routes) <= 200
    assert taken < 2 << 20
