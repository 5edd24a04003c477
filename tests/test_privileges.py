from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from sniffer import privileges


def test_raising_twice_is_once() -> None:
    """Raising changes nothing where the capability is effective already, or not permitted at all."""
    code = (
        "from sniffer.privileges import raise_net_raw\n"
        "def sets():\n    return [line for line in open('/proc/self/status') if line.startswith('Cap')]\n"
        "before = sets(); raise_net_raw(); raise_net_raw()\n"
        "import sys; sys.exit(sets() != before)"
    )
    if not sys.platform.startswith("linux"):
        pytest.skip("needs /proc")
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_elsewhere_than_on_linux_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """On other systems no library is even looked for."""
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", None)
    privileges.raise_net_raw()


def test_a_refusal_is_left_to_the_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system refuses to say what is permitted, nothing is raised and nothing fails."""

    class Refusing:
        @staticmethod
        def capget(*_: object) -> int:
            return -1

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Refusing)
    privileges.raise_net_raw()
