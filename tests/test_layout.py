"""Every module has a test file and a bounded size."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePath

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("sniffer", "sniffer_core")

MODULE_LINES = 700
"""Of a module, without blank lines and comments; one that has more says at its head why (`Longer than most: ...`)."""
FUNCTION_LINES = 60
CYTHON_FUNCTION = re.compile(r"^( *)(?:cdef|cpdef|def)\b[^=]*\(")

ELSEWHERE = {
    "sniffer/__main__": ("tests/test_cli.py", "it calls the command line and nothing else"),
    "sniffer/companion": ("tests/test_pipeline.py", "it declares what outputs do beside a running sniffer"),
    "sniffer/manual": ("tests/test_config.py", "its words are those of the page and of the help"),
    "sniffer/flags": ("tests/test_config.py", "each option is given as a flag there"),
    "sniffer/signals": ("tests/test_shutdown.py", "signals are sent to a real daemon"),
    "sniffer/injector/__main__": ("tests/injector/test_server.py", "it starts the server and nothing else"),
    "sniffer/outputs/client": ("tests/outputs/test_collector.py", "the collector is its first user"),
    "sniffer_core/": ("tests/core/test_flow_session.py", "FlowTable, and what it works on, is tested by what it gives"),
    "sniffer_core/base/": ("tests/core/test_flow_memory.py", "declarations and inline functions, which tables use"),
    "sniffer_core/protocols/": ("tests/core/test_flow_session.py", "bytes of each protocol are given to a table"),
    "sniffer_core/protocols/http1/": (
        "tests/core/http1/test_parser.py",
        "the parts of a parser are tested through its entry",
    ),
    "sniffer_core/record/plain": ("tests/core/record/test_lines.py", "lines are written through it"),
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


def source_lines(text: str) -> int:
    """Lines that are neither blank nor comments."""
    return sum(1 for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))


def functions(path: Path) -> dict[str, int]:
    """Each function of a module, by its first line, and how many lines it has."""
    text = path.read_text()
    lines = text.splitlines()
    if path.suffix == ".py":
        found = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
        return {f"{node.lineno}: {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1 for node in found}
    sizes = {}
    for first, line in enumerate(lines):
        begins = CYTHON_FUNCTION.match(line)
        if begins is None:
            continue
        last = head = next(at for at in range(first, len(lines)) if lines[at].partition("#")[0].rstrip().endswith(":"))
        for at in range(head + 1, len(lines)):
            if lines[at].strip() and len(lines[at]) - len(lines[at].lstrip()) <= len(begins[1]):
                break
            last = at if lines[at].strip() else last
        sizes[f"{first + 1}: {line.strip()}"] = last - first + 1
    return sizes


def sources() -> list[Path]:
    """Every module of both packages that has code of its own."""
    return sorted(
        path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.suffix in (".py", ".pyx")
    )


def test_no_module_is_long_without_a_reason() -> None:
    """A module of more than 700 lines says at its head why it is longer than most."""
    long = [path for path in sources() if source_lines(path.read_text()) > MODULE_LINES]
    assert [path for path in long if "Longer than most:" not in path.read_text()[:3000]] == []


def test_no_function_is_long() -> None:
    """No function has more than 60 lines."""
    long = {str(path): {name for name, size in functions(path).items() if size > FUNCTION_LINES} for path in sources()}
    assert {path: names for path, names in long.items() if names} == {}


def test_sizes_are_found(tmp_path: Path) -> None:
    """The size of a function reaches from its first line to its last, whatever stands between and behind."""
    module = tmp_path / "module.pyx"
    module.write_text(
        "cdef void one(int a,    # a: b\n"
        "              int b) noexcept nogil:\n    pass\n\n    # why\n    a = 1\n\n\n"
        "cdef class Two:\n    def three(self):\n        return 3\n\n    cdef int four\n"
    )
    assert functions(module) == {"1: cdef void one(int a,    # a: b": 6, "10: def three(self):": 2}
    script = tmp_path / "module.py"
    script.write_text("def one():\n    def two():\n        pass\n    return two\n")
    assert functions(script) == {"1: one": 4, "2: two": 2}
    assert source_lines("a = 1\n\n# why\nb = 2  # c\n") == 2
