"""What every test may rely on."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import HealthCheck, settings

# The same examples in every run, so that what fails fails again; HYPOTHESIS_PROFILE=search looks for new ones.
settings.register_profile(
    "same",
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile(
    "search", parent=settings.get_profile("same"), max_examples=2000, derandomize=False, print_blob=True
)
settings.register_profile("quick", parent=settings.get_profile("same"), max_examples=5)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


# The fast lane (`make check`) is told by what tests do, not by a list: whatever is marked slow or live is left out, and
# so is, when it comes to that, whatever starts a program.


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="leave out what is slow, live, or starts a program")
    parser.addoption("--part", default="1/1", help="run a part of the files: 1/2 about one half, 2/2 the other")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("quick"):
        settings.load_profile("quick")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out the files of other parts, before they cost the time of an import."""
    part, parts = map(int, config.getoption("part").split("/"))
    other = collection_path.name.startswith("test_") and crc32(collection_path.name.encode()) % parts != part - 1
    return True if other else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("quick"):
        slow = [item for item in items if item.get_closest_marker("slow") or item.get_closest_marker("live")]
        config.hook.pytest_deselected(items=slow)
        left = set(slow)
        items[:] = [item for item in items if item not in left]


@pytest.fixture(autouse=True)
def _no_program(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the fast lane a test that starts a program is skipped."""

    def start(*_: object, **__: object) -> None:
        pytest.skip("starts a program: not in the fast lane")

    if request.config.getoption("quick"):
        monkeypatch.setattr(subprocess.Popen, "__init__", start)


@pytest.fixture(autouse=True)
def _no_ambient_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of whoever runs the tests configure nothing in them."""
    from sniffer.config import SnifferConfig

    for option in SnifferConfig.options().values():
        if option.variable and option.variable in os.environ:
            monkeypatch.delenv(option.variable)


@pytest.fixture(autouse=True)
def _own_privileges(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that runs inside of the tests takes no capability from them."""
    from sniffer.capture import privileges

    monkeypatch.setattr(privileges, "confine", lambda **_: True)


@pytest.fixture(autouse=True)
def _no_leak() -> Iterator[None]:
    """Allocations balance after every test: each table that is gone had given all of its memory back."""
    from sniffer_core.testing import leaked

    before = leaked()
    yield
    assert leaked() == before, "a table was freed with memory of its own left"


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Gives logging back as it was: for tests that set it up as the daemon does."""
    root, ours = logging.getLogger(), logging.getLogger("sniffer")
    before = (root.handlers[:], root.level, ours.level, logging.raiseExceptions)
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])
    logging.raiseExceptions = before[3]
    logging.captureWarnings(False)
