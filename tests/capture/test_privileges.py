from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sniffer.capture import privileges
from tests.captures import connection, exchanges
from tests.daemon import Daemon, needs_capture, web_server
from tests.daemon import exchanges as browse
from tests.packets import pcap

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="capabilities are Linux's")


def test_raising_twice_is_once() -> None:
    """Raising changes nothing where the capability is effective already, or not permitted at all."""
    code = (
        "from sniffer.capture.privileges import raise_net_raw\n"
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


def sets(status: str) -> dict[str, int]:
    """The capability sets and NoNewPrivs of one thread."""
    lines = dict(line.split(":\t") for line in status.splitlines() if line.startswith(("Cap", "NoNewPrivs", "Name")))
    return {name: int(value, 16) for name, value in lines.items() if name != "Name"}


def threads(pid: int) -> list[dict[str, int]]:
    """The sets of every thread of a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ends while this looks
            found.append(sets((task / "status").read_text()))
    return found


def assert_confined(pid: int) -> None:
    """No thread has NET_RAW or anything else that was not kept, and none can get it."""
    found = threads(pid)
    assert len(found) > 2
    for thread in found:
        for name in ("CapEff", "CapPrm"):
            assert thread[name] & ~privileges.KEPT == 0
        assert thread["CapInh"] == thread["CapAmb"] == 0
        assert thread["NoNewPrivs"] == 1


@linux
@needs_capture
@pytest.mark.live
def test_no_thread_has_a_capability_once_the_capture_is_open() -> None:
    """After the handle is open every thread has given up NET_RAW for good, and the capture goes on."""
    with (
        web_server() as port,
        Daemon("--ports", str(port), "--interface", "lo", "--stdout", "--output-url", "http://127.0.0.1:9/") as daemon,
    ):
        daemon.log("started")
        assert_confined(daemon.process.pid)
        browse(port, 3)
        daemon.wait_for(lambda: len(daemon.messages) >= 6)
        assert_confined(daemon.process.pid)
        daemon.send(signal.SIGKILL)


@linux
def test_reading_a_file_takes_no_capability(tmp_path: Path) -> None:
    """Where nothing is captured live, NET_RAW is given up before anything is opened."""
    os.mkfifo(tmp_path / "pipe")
    with Daemon("--ports", "8080", "--read", str(tmp_path / "pipe"), "--stdout") as daemon:
        with (tmp_path / "pipe").open("wb") as pipe:
            pipe.write(pcap(connection(exchanges(2))))
            pipe.flush()
            daemon.wait_for(lambda: len(daemon.messages) == 4)
            assert_confined(daemon.process.pid)
        assert daemon.end() == 0


PROGRAM = """
import threading
from sniffer.capture import privileges
def own():
    status = open("/proc/thread-self/status").read()
    return int(status.partition("CapEff:")[2].split()[0], 16)
before = own()
assert privileges.confine(capture=True)
NET_RAW = 1 << privileges.CAP_NET_RAW
assert own() == before & privileges.KEPT
born = []
thread = threading.Thread(target=lambda: born.append((own(), privileges.call(own))))
thread.start(); thread.join()
assert born == [(before & privileges.KEPT, before & NET_RAW)], born
try:
    privileges.call(lambda: 1 / 0)
except ZeroDivisionError:
    pass
else:
    raise AssertionError
privileges.release(); privileges.release()
assert privileges.call(own) == before & privileges.KEPT
assert threading.active_count() == 1
"""


@linux
def test_one_thread_holds_net_raw() -> None:
    """Between start and open one thread has NET_RAW and nothing else; the others, old and new, have none of it."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_library_changes_nothing() -> None:
    """Without `confine`, which the daemon alone calls, what needs the capability runs in the caller's thread."""
    assert privileges.call(threading.get_ident) == threading.get_ident()
    privileges.release()


@pytest.mark.parametrize(
    ("started", "words"),
    [
        ("{here}/bin/tcp-sniffer", "{here}/bin/tcp-sniffer"),
        ("bin/tcp-sniffer", "{here}/bin/tcp-sniffer"),
        ("/somewhere/sniffer/__main__.py", "{python} -m sniffer"),
        ("own.py", "{python} own.py"),
    ],
)
def test_what_to_type_behind_sudo(started: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sudo finds it: the whole path of the script, or of the interpreter that runs it."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/tcp-sniffer").touch(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [started.format(here=tmp_path)])
    assert privileges.program() == words.format(here=tmp_path, python=sys.executable)
