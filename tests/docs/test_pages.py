"""The documents hang together: links, headings, paths, and that each can be found from the README."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.daemon import ROOT
from tests.docs import links
from tests.docs.pages import PAGES, Page

BY_PATH = {page.path: page for page in PAGES}


def inside(page: Page) -> list[tuple[Path, str]]:
    """Links of a page to files of the repository, each with its anchor."""
    found = []
    for link in page.links():
        parts = urlsplit(link)
        if not parts.scheme:
            found.append(((page.path.parent / parts.path).resolve() if parts.path else page.path, parts.fragment))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Page) -> None:
    """Each link inside the repository names a file that is there, and a heading of it."""
    for target, anchor in inside(page):
        assert target.exists(), target
        assert target.is_relative_to(ROOT), target
        assert not anchor or anchor in BY_PATH[target].anchors(), f"{target.name}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_that_are_named_exist(page: Page) -> None:
    """A path of the repository that a page names in code is there."""
    places = "deploy|docs|sniffer|sniffer_core|tests"
    for _, span in page.spans():
        for path in re.findall(rf"(?<![\w./~-])((?:{places})/[\w./-]*\w)(?![\w*{{<])", span):
            assert (ROOT / path).exists() or list(ROOT.glob(path + ".*")), path


def test_every_page_is_found_from_the_readme() -> None:
    """Following links from README.md leads to every page, and to every other file in docs/."""
    seen: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        path = ahead.pop()
        if path not in seen:
            seen.add(path)
            ahead += [target for target, _ in inside(BY_PATH[path])] if path in BY_PATH else []
    files = {path for path in (ROOT / "docs").rglob("*") if path.is_file()}
    assert {page.path for page in PAGES} | files <= seen


@pytest.mark.parametrize(
    ("page", "others"),
    [
        ("README.md", ["docs/API.md", "docs/COMPATIBILITY.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]),
        ("CHANGELOG.md", ["docs/COMPATIBILITY.md"]),
        ("CONTRIBUTING.md", ["docs/COMPATIBILITY.md"]),
    ],
)
def test_links_that_must_be_there(page: str, others: list[str]) -> None:
    """README, CHANGELOG and CONTRIBUTING link what a reader looks for in them."""
    targets = {target for target, _ in inside(BY_PATH[ROOT / page])}
    assert {ROOT / other for other in others} <= targets


def test_every_make_target_is_explained() -> None:
    """CONTRIBUTING names each target of the Makefile."""
    targets = re.findall(r"^([a-z0-9]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert [target for target in targets if f"`make {target}" not in text] == []


def test_changelog_has_a_section_for_the_version() -> None:
    """Keep a Changelog: [Unreleased] first; sections are versions with dates, newest first, with known headings."""
    text = (ROOT / "CHANGELOG.md").read_text()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    sections = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert sections[0] == "[Unreleased]"
    dated = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - \d{4}-\d\d-\d\d", section) for section in sections[1:]]
    assert all(dated)
    numbers = [tuple(map(int, match.groups())) for match in dated if match]
    assert numbers == sorted(numbers, reverse=True)
    assert not numbers or numbers[0] <= tuple(map(int, version.split(".")))
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= kinds


def test_outside_links_are_found() -> None:
    """`make links` asks what the pages and the metadata name, and no made-up host."""
    urls = links.outside()
    assert "https://semver.org/spec/v2.0.0.html" in urls
    assert not [url for url in urls if "example" in urlsplit(url).netloc]
