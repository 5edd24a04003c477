"""Imports point one way: import-linter's contracts for Python, a look at the cimports for the core."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "sniffer_core"

# From the bottom up: each may use what stands before it.
LAYERS = [
    "base.ascii",
    "base.memory",
    "base.marks",
    "base.counters",
    "connection",
    "message",
    "net.wire",
    "net.fragment",
    "tcp.stream",
    "protocol",
    "tcp.table",
    "tcp.ends",
    "tcp.flow",
    "tcp.evict",
    "tcp.feed",
    "protocols.proxy",
    "protocols.authority",
    "protocols.signature",
    "protocols.http1.head",
    "protocols.http1.state",
    "protocols.http1.body",
    "protocols.http1.resync",
    "protocols.http1.parser",
    "protocols.http1.pairing",
    "protocols.http1.sides",
    "protocols.http1.outgoing",
    "protocols.http1.nextbytes",
    "protocols.tunnel",
    "protocols.http1.session",
    "protocols.http2.hpack",
    "protocols.http2.frames",
    "protocols.http2.fields",
    "protocols.http2.streams",
    "protocols.http2.search",
    "protocols.http2.session",
    "protocols.ignored",
    "protocols.detect",
    "record.writer",
    "record.naming",
    "record.redact",
    "record.bodies",
    "record.shorten",
    "record.line",
    "record.plain",
    "record.raw",
    "record.lines",
    "record.recorded",
    "core",
    "testing",
]
IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import\s+|c?import\s+([\w., ]+))(.*)$", re.MULTILINE)
SOURCES = sorted(path for path in CORE.rglob("*.p[yx][xd]") if path.stem != "__init__")
FORBIDDEN = {"asyncio", "logging", "select", "socketserver", "sniffer", "structlog", "threading", "time"}
"""The core does no I/O, reads no clock, logs nothing, and knows nothing of the rest."""


def name_of(path: Path) -> str:
    """A core module's name within the package: `tcp.stream`."""
    return ".".join(path.relative_to(CORE).with_suffix("").parts)


def imports(source: str) -> set[str]:
    """Dotted names of the modules that a Cython source imports or cimports."""
    found: set[str] = set()
    for package, modules, names in IMPORT.findall(source):
        if package == "sniffer_core":
            found |= {f"sniffer_core.{name.split(' as ')[0].strip(' ()')}" for name in names.split(",")}
        else:
            found |= {name.split(" as ")[0].strip() for name in (package or modules).split(",")}
    return found


def test_import_linter_contracts_hold() -> None:
    """The contracts in pyproject.toml hold."""
    program = "from importlinter.cli import lint_imports_command as run; run(['--no-cache'])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_core_module_has_its_layer() -> None:
    """A new module of the core is given its place here."""
    assert {name_of(path) for path in SOURCES} <= set(LAYERS)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_core_modules_use_only_lower_ones(path: Path) -> None:
    """Each .pyx and .pxd uses only modules below its own, and nothing that does I/O or reads a clock."""
    found = imports(path.read_text())
    own = {name.removeprefix("sniffer_core.") for name in found if name.startswith("sniffer_core.")} - {
        "protocols.http1.heads"
    }
    assert own <= set(LAYERS[: LAYERS.index(name_of(path)) + 1]), f"{name_of(path)} reaches up"
    assert not {name.split(".")[0] for name in found} & FORBIDDEN


def test_the_product_has_no_part_of_the_tests() -> None:
    """No module of the package imports what only tests call."""
    sources = [path for path in (ROOT / "sniffer").rglob("*.py") if "sniffer_core.testing" in path.read_text()]
    assert sources == []


@pytest.mark.parametrize("path", [path for path in SOURCES if path.parent.name == "tcp"], ids=name_of)
def test_tcp_knows_no_protocol(path: Path) -> None:
    """No module of tcp/ uses one of protocols/ or record/, or has a word of HTTP in code or comments."""
    source = path.read_text()
    assert not {name for name in imports(source) if name.startswith(("sniffer_core.protocols", "sniffer_core.record"))}
    words = r"http|tls|request|response|exchange|pairing|parser|\bbod(?:y|ies)\b|chunk|method|status|upgrade|\banswer"
    assert re.findall(words, source, re.IGNORECASE) == []


def test_imports_are_found() -> None:
    """The look at the sources sees every form of import."""
    source = (
        "from sniffer_core.net.wire cimport View\nimport os, time as t\n  cimport cython\n"
        "from sniffer_core cimport heads, core as f\nfrom libc.stdint cimport (\n    uint8_t)\n"
    )
    assert imports(source) == {
        "sniffer_core.net.wire",
        "os",
        "time",
        "cython",
        "sniffer_core.heads",
        "sniffer_core.core",
        "libc.stdint",
    }


def test_the_daemon_loads_no_more_than_it_needs() -> None:
    """What draws on a terminal, writes HAR, listens or spools is imported only by runs that want it."""
    seldom = [
        *("aiohttp", "rich", "sqlite3", "sniffer_core.testing"),
        *("sniffer.delivery.spool", "sniffer.delivery.store", "sniffer.doctor", "sniffer.har", "sniffer.metrics"),
        *("sniffer.outputs.callback.sink", "sniffer.outputs.file.sink", "sniffer.outputs.har.file"),
        *("sniffer.outputs.otlp.encoding", "sniffer.outputs.otlp.sink", "sniffer.outputs.stdout.sink"),
        *("anyio", "mcp", "sniffer.outputs.mcp.companion", "sniffer.outputs.mcp.store", "sniffer.outputs.mcp.tools"),
        *("sniffer.outputs.terminal.view", "sniffer.outputs.ui.companion", "sniffer.outputs.ui.server"),
        *("sniffer.outputs.ui.store", "sniffer.outputs.client", "sniffer.outputs.url.collector", "sniffer.screen"),
    ]
    program = f"import sys, sniffer.cli, sniffer.pipeline; print(*{set(seldom)} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
