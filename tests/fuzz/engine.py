"""One target under libFuzzer, in a process that tests/fuzz/__main__.py prepares."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["sniffer", "sniffer_core.protocols.http1.heads"]):
    from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    target = sys.argv.pop(1)
    atheris.Setup(sys.argv, TARGETS[target])
    atheris.Fuzz()
