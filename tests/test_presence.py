"""How the daemon says that it has started, and how a startup probe looks at it."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sniffer import presence
from tests.waiting import wait_until

CLONE_NEWNET = 0x40000000
DATA = Path(__file__).parent / "data"
pytestmark = [pytest.mark.live, pytest.mark.skipif(not Path(presence.PROBE[0]).exists(), reason="grep is elsewhere")]


def alone() -> None:
    """In a network namespace of its own, as a pod is."""
    if ctypes.CDLL(None).unshare(CLONE_NEWNET) != 0:
        raise OSError("unshare")


@contextmanager
def in_a_pod(*arguments: str, **environ: str) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], bool]]]:
    """A daemon in a network namespace of its own, and the probe as a kubelet runs it there."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TCP_SNIFFER_", "ON_", "PORTS"))}
    command = [sys.executable, "-m", "sniffer", *arguments]
    how: dict[str, Any] = {"preexec_fn": alone, "stdout": subprocess.PIPE, "stderr": 2}
    with subprocess.Popen(command, env=clean | environ, **how) as process:
        namespace = os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY)

        def enter() -> None:
            if ctypes.CDLL(None).setns(namespace, CLONE_NEWNET) != 0:
                raise OSError("setns")

        try:
            yield process, lambda: subprocess.run(presence.PROBE, preexec_fn=enter, check=False).returncode == 0
        finally:
            os.close(namespace)
            process.kill()


def test_it_says_so_when_the_capture_is_open() -> None:
    """The probe fails before the daemon is there and once it has ended, and succeeds while it captures."""
    with in_a_pod("--ports", "80", "--interface", "any", "--stdout") as (process, probe):
        seen = [probe()]
        wait_until(probe)
        assert Path(f"/proc/{process.pid}/net/packet").read_text().count("\n") > 1, "no capture is open"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert not probe()
    assert not seen[0]


def test_it_says_so_when_it_waits() -> None:
    """A capture that cannot be opened and is held has started too: nothing waits for what will not come."""
    with in_a_pod("--ports", "80", "--interface", "nothing", "--stdout", ON_CAPTURE_ERROR="hold") as (process, probe):
        wait_until(probe)
        assert process.poll() is None


@pytest.mark.parametrize(
    "wrong", [{"PORTS": "nonsense"}, {"OUTPUT_URL": "http://c/", "TCP_SNIFFER_PRODUCTION": "yes"}, {"UI_ADDRESS": "x"}]
)
def test_it_says_so_when_its_configuration_is_wrong(wrong: dict[str, str]) -> None:
    """A wrong variable that is held has started too; a stop ends it with 1."""
    environ = {"PORTS": "80", "INTERFACE": "any", "OUTPUT_STDOUT": "true", "ON_CAPTURE_ERROR": "hold"}
    with in_a_pod(**environ | wrong) as (process, probe):
        wait_until(probe)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 1


def test_a_start_that_hangs_is_given_out_for_one() -> None:
    """What takes longer than LATEST_S, as a spool on a disk that does not answer, holds up no pod."""
    code = (
        "import time; from sniffer import __main__, cli, presence; presence.LATEST_S = 0.3;"
        "cli.run = lambda _: time.sleep(60); __main__.main()"
    )
    how: dict[str, Any] = {"preexec_fn": alone, "stderr": 2}
    with subprocess.Popen([sys.executable, "-c", code], **how) as process:
        try:
            wait_until(lambda: f"@{presence.NAME}" in Path(f"/proc/{process.pid}/net/unix").read_text())
        finally:
            process.kill()


def test_who_reads_a_file_says_nothing() -> None:
    """Only a live capture is waited for."""
    with in_a_pod("--ports", "8080", "--read", str(DATA / "demo.pcap"), "--stdout") as (process, probe):
        assert process.stdout is not None
        assert process.stdout.read(1) == b"{"
        assert not probe()


def test_a_second_daemon() -> None:
    """A name that is taken keeps no daemon from its work."""
    code = (
        "import socket; s = socket.socket(socket.AF_UNIX); from sniffer import presence;"
        "s.bind(chr(0) + presence.NAME); presence.say(); presence.say(); print(presence._said)"
    )
    done = subprocess.run([sys.executable, "-c", code], preexec_fn=alone, capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"


def test_where_no_such_socket_may_be_made() -> None:
    """A system that allows no Unix sockets keeps no daemon from its work."""
    code = (
        "import errno, socket; from sniffer import presence\n"
        "def refused(*_): raise OSError(errno.EAFNOSUPPORT, 'planted')\n"
        "socket.socket = refused; presence.say(); print(presence._said)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"


def test_the_probe_is_cheap() -> None:
    """The probe costs a few milliseconds of CPU: it is run each second, within what the container is given."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(20):
        assert subprocess.run(presence.PROBE, check=False).returncode in (0, 1)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 20 < 0.02
