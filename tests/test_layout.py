"""Every module has a test file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePath

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("sniffer", "sniffer_core")

ELSEWHERE = {
    "sniffer/__main__": ("tests/test_cli.py", "it calls the command line and nothing else"),
    "sniffer/companion": ("tests/test_pipeline.py", "it declares what outputs do beside a running sniffer"),
    "sniffer/manual": ("tests/test_config.py", "its words are those of the page and of the help"),
    "sniffer/flags": ("tests/test_config.py", "each option is given as a flag there"),
    "sniffer/signals": ("tests/test_shutdown.py", "signals are sent to a real daemon"),
    "sniffer/injector/__main__": ("tests/injector/test_server.py", "it starts the server and nothing else"),
    "sniffer/outputs/url/client": ("tests/outputs/test_collector.py", "the collector is its only user"),
    "sniffer_core/": ("tests/core/test_flow_session.py", "FlowTable, and what it works on, is tested by what it gives"),
    "sniffer_core/base/": ("tests/core/test_flow_memory.py", "declarations and inline functions, which tables use"),
    "sniffer_core/protocols/": ("tests/core/test_flow_session.py", "bytes of each protocol are given to a table"),
    "sniffer_core/protocols/http1/": (
        "tests/core/http1/test_parser.py",
        "the parts of a parser are tested through its entry",
    ),
    "sniffer_core/tcp/": ("tests/core/test_flow_examples.py", "segments are given to a table"),
}
"""Modules that need no test file of their own: the file that tests them, and why. A name with a slash at its end means
the modules in that folder, without the folders in it: the core is tested through its entry points for the most part."""


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


def files_of_tests() -> list[str]:
    """Paths of all test files from the root."""
    return [str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")]


def output(module: str) -> str:
    """The output that the module is a part of; empty for any other module."""
    folder = PurePath(module).parent
    return folder.name if folder.parent == PurePath("sniffer/outputs") else ""


def excepted(module: str) -> str:
    """The name under which the module stands in ELSEWHERE; empty where it does not."""
    return next((name for name in (module, f"{PurePath(module).parent}/") if name in ELSEWHERE), "")


def untested(names: Iterable[str], files: Iterable[str]) -> list[str]:
    """The modules for which no folder of the tests has a file `test_MODULE.py` or `test_MODULE_*.py`.

    Where several modules have one name, each needs a file of its own: one in a folder named like its package, or one
    that is left. The modules of an output may be tested together, in `test_OUTPUT.py`.
    """
    paths = [PurePath(file) for file in files]
    stems = {path.stem for path in paths}
    alike: dict[str, list[PurePath]] = defaultdict(list)
    for name in names:
        if f"test_{output(name)}" not in stems:
            alike[PurePath(name).name].append(PurePath(name))
    missing = []
    for stem, modules_of_it in alike.items():
        left = [path.parent.name for path in paths if f"{path.stem}_".startswith(f"test_{stem}_")]
        for module in sorted(modules_of_it, key=lambda module: module.parent.name not in left):
            if not left:
                missing.append(str(module))
            else:
                left.remove(module.parent.name if module.parent.name in left else left[-1])
    return sorted(missing)


def test_every_module_has_its_test_file() -> None:
    """`tests/**/test_MODULE.py`, or an entry of ELSEWHERE."""
    assert [name for name in untested(modules(), files_of_tests()) if not excepted(name)] == []


@pytest.mark.parametrize("name", ELSEWHERE)
def test_an_exception_is_one(name: str) -> None:
    """Each exception is a folder, or a module that has no test file of its own; it names a test file and a reason."""
    file, reason = ELSEWHERE[name]
    assert (ROOT / file).is_file()
    assert reason
    assert (ROOT / name).is_dir() or name in untested(modules(), files_of_tests())


def test_a_missing_test_file_is_found() -> None:
    """The rule sees what is missing, also where two modules have one name."""
    assert untested(["sniffer/spool", "sniffer/lane"], ["tests/delivery/test_spool.py"]) == ["sniffer/lane"]
    assert untested(["sniffer/lane"], ["tests/test_lanes.py"]) == ["sniffer/lane"]
    assert untested(["sniffer_core/flow"], ["tests/core/test_flow_caps.py"]) == []
    two = ["sniffer/injector/options", "sniffer/options"]
    assert untested(two, ["tests/injector/test_options.py"]) == ["sniffer/options"]
    assert untested(two, ["tests/injector/test_options.py", "tests/test_options.py"]) == []
    assert len(untested(two, ["tests/test_options.py"])) == 1
    parts = ["sniffer/outputs/har/file", "sniffer/outputs/har/form"]
    assert untested(parts, ["tests/outputs/test_har.py"]) == []
    assert untested(parts, ["tests/outputs/test_file.py"]) == parts[1:]
