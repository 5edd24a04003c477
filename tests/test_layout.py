"""Every module has a test file."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("sniffer", "sniffer_core")

ELSEWHERE = {
    "sniffer/__main__": ("tests/test_cli.py", "it calls the command line and nothing else"),
    "sniffer/client": (
        "tests/test_collector.py",
        "the collector is its only user, and its tests watch the connections",
    ),
    "sniffer/flags": ("tests/test_config.py", "each option is given as a flag there"),
    "sniffer/signals": ("tests/test_shutdown.py", "signals are sent to a real daemon"),
    "sniffer/delivery/threads": ("tests/delivery/test_lane.py", "a lane is what calls in a thread"),
    "sniffer/injector/__main__": ("tests/injector/test_server.py", "it starts the server and nothing else"),
    "sniffer/ui/server": ("tests/test_ui.py", "the parts of the live view are tested together, over HTTP"),
    "sniffer/ui/store": ("tests/test_ui.py", "the parts of the live view are tested together, over HTTP"),
    "sniffer_core/base/counters": ("tests/test_ledger.py", "it declares names, which the ledger has to know"),
    "sniffer_core/base/memory": ("tests/core/test_flow_memory.py", "allocations are seen by what tables hold"),
    "sniffer_core/core": (
        "tests/core/test_flow_session.py",
        "FlowTable is tested by what it does, in test_flow_*",
    ),
    "sniffer_core/message": ("tests/core/test_flow_session.py", "it declares a structure, which tables fill"),
    "sniffer_core/protocols/http1/pairing": ("tests/core/test_exchange.py", "exchanges are what it pairs"),
    "sniffer_core/protocols/http1/parser": ("tests/core/test_http1.py", "named for the protocol that it parses"),
    "sniffer_core/record/message": ("tests/test_render.py", "it renders messages as JSON"),
    "sniffer_core/record/redact": ("tests/test_security.py", "secrets are looked for in every output"),
    "sniffer_core/testing": ("tests/core/test_http1.py", "only tests call it"),
}
"""Modules that have no test file of their own: the file that tests them, and why."""


def modules() -> list[str]:
    """Paths of all modules from the root, without their suffix; a .pyx and its .pxd are one."""
    return sorted(
        {
            str(path.relative_to(ROOT).with_suffix(""))
            for package in PACKAGES
            for path in (ROOT / package).rglob("*")
            if path.suffix in (".py", ".pyx", ".pxd") and path.stem != "__init__"
        }
    )


def untested(names: list[str], files: list[str]) -> list[str]:
    """The modules for which there is no test file `test_MODULE.py` or `test_MODULE_*.py` in any folder.

    Where modules of the same name need more test files than there are, a module whose package gives the test file's
    folder its name has it before the others.
    """
    by_name: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_name[name.rpartition("/")[2]].append(name)
    missing = []
    for stem, alike in by_name.items():
        places = [file.split("/")[-2] for file in files if f"{Path(file).stem}_".startswith(f"test_{stem}_")]
        own = [name for name in alike if name.split("/")[-2] in places]
        left = [name for name in alike if name not in own]
        free = len([place for place in places if place not in {name.split("/")[-2] for name in own}])
        missing += left[free:]
    return sorted(missing)


def test_every_module_has_its_test_file() -> None:
    """`tests/**/test_MODULE.py`, or an entry of ELSEWHERE."""
    files = [str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")]
    assert untested([name for name in modules() if name not in ELSEWHERE], files) == []


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_is_tested_elsewhere_is(name: str) -> None:
    """Each exception is a module that there is, with a test file that there is, and with a reason."""
    file, reason = ELSEWHERE[name]
    assert name in modules()
    assert (ROOT / file).is_file()
    assert reason


def test_a_missing_test_file_is_found() -> None:
    """The rule sees what is missing, also where two modules have one name."""
    assert untested(["sniffer/spool", "sniffer/lane"], ["tests/delivery/test_spool.py"]) == ["sniffer/lane"]
    assert untested(["sniffer/lane"], ["tests/test_lanes.py"]) == ["sniffer/lane"]
    assert untested(["sniffer_core/flow"], ["tests/core/test_flow_caps.py"]) == []
    two = ["sniffer/injector/options", "sniffer/options"]
    assert untested(two, ["tests/injector/test_options.py"]) == ["sniffer/options"]
    assert untested(two, ["tests/test_options.py"]) == ["sniffer/options"]
    assert untested(two, ["tests/injector/test_options.py", "tests/test_options.py"]) == []
