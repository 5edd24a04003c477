"""Samples of the documents that are no commands: Python runs, JSON and YAML are what the code takes and gives."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

from sniffer.injector import InjectorOptions
from tests.daemon import DEMO, ROOT
from tests.docs.pages import PAGES, Block, Page
from tests.test_library import python

SCHEMA = json.loads((ROOT / "docs" / "record.schema.json").read_text())
ELSEWHERE = {"docs/DELIVERY.md": "tests/docs/test_delivery.py runs its sink against a server"}
LANGUAGES = {"console", "python", "text", "json", "toml", "yaml", "sh", "sql", ""}


def samples(language: str) -> list[object]:
    return [
        pytest.param(page, block, id=f"{page.name}:{block.line}")
        for page in PAGES
        for block in page.blocks(language)
        if page.name not in ELSEWHERE
    ]


@pytest.mark.parametrize(("page", "block"), samples("python"))
def test_python_runs(page: Page, block: Block, tmp_path: Path) -> None:
    """A program runs as it stands beside a capture.pcap, and prints what stands below it."""
    shutil.copy(DEMO, tmp_path / "capture.pcap")
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    done = python(block.text, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    blocks = page.blocks()
    following = blocks[blocks.index(block) + 1 :][:1]
    if following and following[0].language == "text":
        assert done.stdout == following[0].text
    elif "print(" in block.text:
        assert done.stdout


@pytest.mark.parametrize(("page", "block"), samples("json"))
def test_json_is_a_record(page: Page, block: Block) -> None:
    """A sample in JSON is a record, by the schema."""
    jsonschema.validate(json.loads(block.text), SCHEMA)


@pytest.mark.parametrize(("page", "block"), samples("yaml"))
def test_yaml_is_taken(page: Page, block: Block, tmp_path: Path) -> None:
    """A sample in YAML can be read, and one for the injector is one that the injector takes."""
    found = yaml.safe_load(block.text)
    assert found
    if "injector.yaml" in found:
        file = tmp_path / "injector.yaml"
        file.write_text(found["injector.yaml"])
        assert InjectorOptions.load([f"--config={file}"], {}) != InjectorOptions()


@pytest.mark.parametrize(("page", "block"), samples("toml"))
def test_toml_can_be_read(page: Page, block: Block) -> None:
    """A sample in TOML can be read."""
    assert tomllib.loads(block.text)


def test_every_block_has_a_known_language() -> None:
    """So that each is looked at by one of these tests."""
    assert {block.language for page in PAGES for block in page.blocks()} <= LANGUAGES


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("deploy/Dockerfile", r"ARG VERSION=(.*)"),
        ("deploy/helm/tcp-sniffer-injector/Chart.yaml", r"(?:version|appVersion): (.*)"),
        ("deploy/kustomize/overlays/production/kustomization.yaml", r"newTag: (.*)"),
        ("deploy/kustomize/overlays/production/config.yaml", r"tcp-sniffer:(.*)"),
        *((page.name, r"tcp-sniffer:(\d[\w.]*\w)") for page in PAGES if "tcp-sniffer:0" in page.text),
    ],
)
def test_every_version_is_the_project_s(file: str, pattern: str) -> None:
    """Image, chart, overlays and samples name the version in pyproject.toml."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert set(re.findall(pattern, (ROOT / file).read_text())) == {version}
