"""What the documents call by name is called so in the code: variables, flags, counters, log lines."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator

import pytest

from sniffer.cli import _parser
from sniffer.config import SnifferConfig
from sniffer.injector import InjectorOptions
from sniffer.ledger import DECLARED, LANE
from sniffer.record.schema import json_schema
from tests.daemon import ROOT
from tests.docs.pages import PAGES, Page

OURS = re.compile(
    "(CAPTURE|CONNECTION|DECODE|DRAIN|EXCLUDE|INJECTOR|LOG|MAX|MEMORY|METRICS|ON_CAPTURE|OUTPUT|REDACT|SAMPLE|SPOOL|STATS"
    "|STOP|TCP_SNIFFER|UI)_[A-Z_]+"
)
BUILD = {"TCP_SNIFFER_BUILD", "INJECTOR_CONFIG", "MAX_CODINGS"}
"""A variable of the build, one that names the injector's file, a constant."""


def page(name: str) -> Page:
    (found,) = [page for page in PAGES if page.name == name]
    return found


def test_tests_exist() -> None:
    """A test that a page names is there: what is promised with its name is tried."""
    tests = "".join(path.read_text("utf-8") for path in ROOT.glob("tests/**/*.py"))
    named = {name for page in PAGES for name in re.findall(r"`(test_[a-z0-9_]+)`", page.text)}
    assert len(named) > 30
    assert {name for name in named if f"def {name}(" not in tests} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_variables_exist(page: Page) -> None:
    """A variable that a page names is an option's."""
    variables = {
        option.variable for options in (SnifferConfig, InjectorOptions) for option in options.options().values()
    }
    named = {match[0] for _, span in page.spans() for match in OURS.finditer(span) if span[match.end() :][:1] != "…"}
    assert named - BUILD <= variables


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    return {flag for action in parser._actions for flag in action.option_strings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_exist(page: Page) -> None:
    """A flag that a page names alone is one of the sniffer's, the injector's or a command's of the tests."""
    commands = "".join(file.read_text() for file in (ROOT / "tests").rglob("__main__.py"))
    flags = flags_of(_parser()) | set(re.findall(r'"(--[a-z][a-z-]*)"', commands))
    flags |= {"--config", "--namespace", "--cap-add", "--set"}
    flags |= {str(option.flag) for option in InjectorOptions.options().values()}
    named = {match[1] for _, span in page.spans() if (match := re.match(r"(--[a-z][a-z-]*)", span))}
    assert named <= flags


@pytest.mark.parametrize("name", ["docs/TROUBLESHOOTING.md", "docs/LOGS.md", "docs/internals/RELIABILITY.md"])
def test_counters_exist(name: str) -> None:
    """A counter that a page names is in the ledger."""
    known = {*DECLARED, *(counter.name for counter in LANE)} | {f"dropped_{reason}" for reason in ("full", "error")}
    known |= set(SnifferConfig.options())
    named = {
        span for _, span in page(name).spans() if re.fullmatch(r"(?!tcp_sniffer)[a-z][a-z0-9]*(_[a-z0-9]+)+", span)
    }
    assert named <= known


def nodes() -> Iterator[ast.AST]:
    for file in (ROOT / "sniffer").rglob("*.py"):
        yield from ast.walk(ast.parse(file.read_text()))


def logged(*levels: str) -> set[str]:
    """The texts of the log lines in the code that are written where they are logged."""
    calls = [node for node in nodes() if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    ours = [call for call in calls if ast.unparse(call.func) in {f"log.{level}" for level in levels} and call.args]
    return {str(call.args[0].value) for call in ours if isinstance(call.args[0], ast.Constant)}


def texts() -> str:
    """Every text in the code: errors, warnings, log lines."""
    constants = [node.value for node in nodes() if isinstance(node, ast.Constant)]
    return "\n".join(value for value in constants if isinstance(value, str))


@pytest.mark.parametrize("name", ["docs/LOGS.md", "docs/DELIVERY.md", "docs/TROUBLESHOOTING.md"])
def test_log_lines_exist(name: str) -> None:
    """A log line or an error that a page quotes is in the code."""
    written = texts()
    quoted = [span for _, span in page(name).spans() if re.fullmatch(r"[A-Za-z][\w/]*( [\w:,;'.…-]+){2,}", span)]
    assert quoted
    for span in quoted:
        for part in re.split(r"…|\.\.\.", span):
            assert part.strip() in written, span


def test_log_lines_are_explained() -> None:
    """Each warning and error that the code logs by a fixed text stands in LOGS, DELIVERY or the deployment guide."""
    pages = [page(f"docs/{name}.md").text for name in ("LOGS", "DELIVERY", "deployment/DEPLOYMENT_GUIDE")]
    known = " ".join(" ".join(pages).split())
    found = logged("warning", "error", "exception")
    assert "capture failed" in found
    assert sorted(text for text in found if re.split("[:;]", text)[0] not in known) == []


def test_every_module_has_its_row() -> None:
    """ARCHITECTURE names each module of both packages, and what it is for."""
    rows = [line for line in page("docs/internals/ARCHITECTURE.md").text.splitlines() if line.startswith("| `sniffer")]
    spans = re.findall(r"`([\w/.]+)`", "\n".join(row.split("|")[1] for row in rows))
    named = {span.split("/")[-1].partition(".")[0] for span in spans}
    files = [
        *(ROOT / "sniffer").glob("*.py"),
        *(ROOT / "sniffer/delivery").glob("*.py"),
        *(ROOT / "sniffer_core").rglob("*.p[yx]*"),
    ]
    assert {file.stem for file in files if file.suffix in (".py", ".pyx", ".pxd")} - {"__init__"} <= named


def test_every_field_is_mapped_to_opentelemetry() -> None:
    """docs/OPENTELEMETRY.md says of each field of the record what it is there, and of no other."""
    fields = set(json_schema()["properties"])
    spans = {span.partition(".")[0] for _, span in page("docs/OPENTELEMETRY.md").spans()}
    assert fields <= spans
    named = {span for span in spans if re.fullmatch(r"[a-z]+([A-Z][a-z]+)+", span)}
    assert named <= fields
