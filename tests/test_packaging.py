"""The distributions: what they hold, that the sdist builds the wheel, that the wheel runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CORE = ROOT / "sniffer_core"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `python -m build` has put an sdist, and a wheel made from it."""
    place = tmp_path_factory.mktemp("dist")
    environ = {**os.environ, "CFLAGS": "-O0"}
    environ.pop("TCP_SNIFFER_BUILD", None)
    # Without isolation: the build's requirements are those of development, and nothing is fetched.
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(place), str(ROOT)],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return place


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    """The wheel."""
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    """The wheel's metadata."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_bytes(archive.read(name))


def sources(*suffixes: str) -> set[str]:
    """Sources of both packages, and the page of the live view, as paths from the root."""
    files = [path for package in ("sniffer", "sniffer_core") for path in (ROOT / package).rglob("*")]
    return {
        str(path.relative_to(ROOT))
        for path in files
        if path.suffix in suffixes or path.name == "py.typed" or path.parent.name == "page"
    }


def test_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    """Sources, stubs, markers, compiled modules and LICENSE; no tests, no docs, no generated C."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = {name for name in names if ".dist-info/" in name}
    assert any(name.endswith("/licenses/LICENSE") for name in info)
    compiled = {name for name in names if name.endswith(".so")}
    assert {name.partition(".")[0] for name in compiled} == {
        str(path.relative_to(ROOT).with_suffix("")) for path in CORE.rglob("*.pyx")
    }
    assert names - info - compiled == sources(".py", ".pyi", ".pyx", ".pxd")


def test_sdist_holds_what_it_takes_to_build_and_test(dist: Path) -> None:
    """Sources, tests, docs and tools, and nothing that was built."""
    (found,) = dist.glob("*.tar.gz")
    with tarfile.open(found) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode == 0:
        expected = {line for line in tracked.stdout.splitlines() if (ROOT / line).exists()}
        assert expected - names == set()
    assert {"setup.py", "Makefile", "tests/conftest.py", "tests/data/demo.pcap"} <= names
    assert not {name for name in names if name.endswith((".so", ".pyc"))}
    assert not {name for name in names if name.startswith("sniffer_core/") and name.endswith(".c")}


def test_metadata(metadata: Message) -> None:
    """Name, version, licence and requirements are those of the project."""
    assert (metadata["Name"], metadata["Version"]) == ("tcp-sniffer", PROJECT["project"]["version"])
    assert metadata["License-Expression"] == "MIT"
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert sorted(required) == sorted(PROJECT["project"]["dependencies"])
    assert all(re.search(r">=\d", line) for line in required), "a lower bound for each"


def test_metadata_leads_to_the_project(metadata: Message) -> None:
    """Addresses for the source, the documents, the changes and complaints; classifiers for what is supported."""
    urls = dict(entry.split(", ", 1) for entry in metadata.get_all("Project-URL", []))
    assert {"Homepage", "Source", "Documentation", "Changelog", "Issues"} == set(urls)
    assert all(url.startswith("https://") for url in urls.values())
    classifiers = metadata.get_all("Classifier", [])
    assert "Operating System :: POSIX :: Linux" in classifiers
    assert "Programming Language :: Python :: 3.11" in classifiers
    assert "Typing :: Typed" in classifiers
    assert not [line for line in classifiers if line.startswith("License ::")], "License-Expression says it"


def test_the_index_would_take_them(dist: Path) -> None:
    """`twine check --strict`: metadata and README can be shown."""
    files = [str(file) for file in dist.iterdir()]
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_licence_is_said_alike() -> None:
    """LICENSE, README and metadata agree."""
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    assert "License: MIT" in (ROOT / "README.md").read_text()
    assert PROJECT["project"]["license"] == "MIT"


def test_the_wheel_runs(wheel: Path, tmp_path: Path) -> None:
    """Installed elsewhere, the wheel reads the demo capture."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*pip, str(wheel)], check=True)
    demo = ROOT / "tests" / "data" / "demo.pcap"
    done = subprocess.run(
        [sys.executable, "-m", "sniffer", "--ports", "8080", "--read", str(demo), "--stdout"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 14
    assert (tmp_path / "bin" / "tcp-sniffer").exists()
    assert f'"version":"{PROJECT["project"]["version"]}"'.encode() in done.stderr
