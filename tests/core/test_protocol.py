"""A protocol is added through the interface alone: tests/core/toy/toy.pyx, compiled here, reads captures."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

from sniffer_core.protocols.detect import register, unregister
from tests.captures import connection, get, ok, read, write
from tests.packets import Packet

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = Path(__file__).with_name("toy") / "toy.pyx"
BUILD: Final = """
import sys
from Cython.Build import cythonize
from setuptools import Extension, setup

root, source, folder = sys.argv.pop(1), sys.argv.pop(1), sys.argv.pop(1)
setup(
    script_args=["--quiet", "build_ext", "--build-lib", folder, "--build-temp", folder],
    ext_modules=cythonize(
        [Extension("toy", [source])], include_path=[root], build_dir=folder, quiet=True,
        compiler_directives={"language_level": 3},
    ),
)
"""
CLIENT: Final = 0
SERVER: Final = 1
WHOLE: Final = 0
PORT: Final = 8080


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The toy's module, built outside of the tree."""
    folder = tmp_path_factory.mktemp("toy")
    subprocess.run([sys.executable, "-c", BUILD, str(ROOT), str(SOURCE), str(folder)], cwd=ROOT, check=True)
    spec = importlib.util.spec_from_file_location("toy", next(folder.glob("toy.*.so")))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def registered(toy: ModuleType) -> Iterator[ModuleType]:
    """The toy, while tables know it."""
    protocol = toy.protocol()
    register(protocol)
    yield toy
    unregister(protocol)
    toy.told()


def capture(folder: Path, packets: list[Packet]) -> Path:
    """A capture file with these packets."""
    return Path(write(folder / "capture.pcap", packets))


def test_toy_knows_the_interface_alone() -> None:
    """The toy cimports protocol.pxd and nothing else of the core."""
    lines = [line for line in SOURCE.read_text().splitlines() if "import" in line and "sniffer_core" in line]
    assert [line.split()[1] for line in lines] == ["sniffer_core.protocol"]


@pytest.mark.slow
def test_toy_reads_a_capture(registered: ModuleType, tmp_path: Path) -> None:
    """Data of both sides in order, and both ends, reach the protocol that recognises the first bytes."""
    path = capture(tmp_path, connection([(b"TOY\nask", b"yes\n"), (b"ed\n", b"no\n")], server_port=PORT))
    table, messages = read(path, [PORT])
    assert messages == []
    assert registered.told() == [
        ("line", CLIENT, 3),
        ("line", SERVER, 3),
        ("line", CLIENT, 2),
        ("line", SERVER, 2),
        ("end", CLIENT, WHOLE),
        ("end", SERVER, WHOLE),
    ]
    assert table.counted("bytes_used", "flows_closed") == {"bytes_used": 17, "flows_closed": 1}


def test_toy_is_told_of_gaps(registered: ModuleType, tmp_path: Path) -> None:
    """A segment that the capture lost, and the peer acknowledged, is a gap of its size on its side."""
    packets = connection([(b"TOY\n", b"lost\n"), (b"next\n", b"kept\n")], server_port=PORT)
    del packets[4]
    read(capture(tmp_path, packets), [PORT])
    assert [entry for entry in registered.told() if entry[1] == SERVER] == [
        ("gap", SERVER, 5),
        ("line", SERVER, 4),
        ("end", SERVER, WHOLE),
    ]


def test_toy_waits_for_its_first_bytes(registered: ModuleType, tmp_path: Path) -> None:
    """Where the first segment is too short to tell, the next ones are waited for."""
    packets = connection([(b"T", b""), (b"OY\nask\n", b"yes\n")], server_port=PORT)
    read(capture(tmp_path, packets), [PORT])
    assert registered.told()[:3] == [("line", CLIENT, 2), ("line", CLIENT, 3), ("line", SERVER, 3)]


def test_others_are_read_as_before(registered: ModuleType, tmp_path: Path) -> None:
    """What the toy does not recognise is HTTP/1, also where it begins as the toy does."""
    exchanges = [(get("/a").replace(b"GET", b"TOYS"), ok(b"1"))]
    _, messages = read(capture(tmp_path, connection(exchanges, server_port=PORT)), [PORT])
    assert [message.direction for message in messages] == ["request", "response"]
    assert registered.told() == []


def test_registration_ends(toy: ModuleType, tmp_path: Path) -> None:
    """A protocol that was taken out again reads nothing, and cannot be taken out twice."""
    protocol = toy.protocol()
    register(protocol)
    unregister(protocol)
    with pytest.raises(ValueError, match="not registered"):
        unregister(protocol)
    read(capture(tmp_path, connection([(b"TOY\n", b"yes\n")], server_port=PORT)), [PORT])
    assert toy.told() == []
