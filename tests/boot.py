"""The systemd unit under a systemd of its own.

    python -m tests.boot

As root, in namespaces of its own (processes, mounts, network, cgroups): systemd runs as process 1 on a copy-on-write
view of this machine's root file system, with journald, the unit and its environment file as they are shipped, and no
other service. What the unit runs is this repository, by this interpreter, in /opt/tcp-sniffer. Requests are made on
the loopback interface there. Prints what came of it as JSON. Nothing is left on the machine but an exit code; 77 says
that such namespaces cannot be made here.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.waiting import wait_until

ROOT: Final = Path(__file__).parents[1]
SYSTEMD: Final = Path("/lib/systemd/systemd")
UNIT: Final = "tcp-sniffer.service"
HOME: Final = "opt/tcp-sniffer"
PORT, COLLECTOR = 8080, 9000
BOUND_S: Final = 60
IMPOSSIBLE: Final = 77

NAMESPACES: Final = ("--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup")
UNITS: Final = (
    "systemd-journald.service",
    "systemd-journald.socket",
    "systemd-journald-dev-log.socket",
    "basic.target",
    "sysinit.target",
    "sockets.target",
    "slices.target",
    "paths.target",
    "timers.target",
    "network-online.target",
    "shutdown.target",
    "umount.target",
    "final.target",
)
"""All that systemd knows there: what the unit and journald ask for."""
PYTHON: Final = """\
#!/bin/sh
# the interpreter of the tests: in another place than it was built for
export LD_LIBRARY_PATH=/opt/tcp-sniffer/python/lib PYTHONPATH=/opt/tcp-sniffer/repository:/opt/tcp-sniffer/site
exec /opt/tcp-sniffer/python/bin/python{version} "$@"
"""
PROGRAM: Final = '#!/bin/sh\nexec /opt/tcp-sniffer/bin/python -m sniffer "$@"\n'
POSTING: Final = """\
[Service]
LoadCredential=token:/etc/tcp-sniffer/token
Environment=OUTPUT_URL_AUTH_TOKEN_FILE=%d/token
Environment=OUTPUT_STDOUT=no OUTPUT_URL=http://127.0.0.1:{collector}/ SPOOL_DIR=/var/lib/tcp-sniffer
"""
WRONG: Final = "[Service]\nEnvironment=SAMPLE_RATE=2\n"
MS_BIND, MS_REC, MS_PRIVATE, MS_SHARED = 4096, 16384, 1 << 18, 1 << 20
MNT_DETACH: Final = 2
PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}


def _mount(kind: str, target: Path, *, source: Path | str = "none", flags: int = 0, options: str = "") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(os.fsencode(source), os.fsencode(target), kind.encode(), flags, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), f"mount {kind} {target}")


def _bind(source: Path, target: Path) -> None:
    target.touch() if not source.is_dir() else target.mkdir(parents=True, exist_ok=True)
    _mount("none", target, source=source, flags=MS_BIND | MS_REC)


def _lay_out(folder: Path) -> Path:
    """The root file system: this machine's, under what is written here and goes with the namespace."""
    _mount("none", Path("/"), flags=MS_REC | MS_PRIVATE)
    _mount("tmpfs", folder)
    for name in ("upper", "work", "root"):
        (folder / name).mkdir()
    root = folder / "root"
    _mount("overlay", root, options=f"lowerdir=/,upperdir={folder}/upper,workdir={folder}/work")
    for kind, name in (
        *(("proc", "proc"), ("sysfs", "sys"), ("tmpfs", "sys/fs/cgroup"), ("cgroup2", "sys/fs/cgroup")),
        *(("tmpfs", "dev"), ("tmpfs", "run"), ("tmpfs", "var/log")),
    ):
        (root / name).mkdir(parents=True, exist_ok=True)
        _mount(kind, root / name)
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        _bind(Path("/dev") / name, root / "dev" / name)
    for kind, name, options in (("tmpfs", "shm", ""), ("devpts", "pts", "newinstance,ptmxmode=0666")):
        (root / "dev" / name).mkdir()
        _mount(kind, root / "dev" / name, options=options)
    (root / "dev/ptmx").symlink_to("pts/ptmx")
    return root


def _install(root: Path) -> None:
    """The units and the sniffer, as docs/deployment/HOSTS.md says."""
    _bind(ROOT, root / HOME / "repository")
    _bind(Path(sysconfig.get_paths()["purelib"]), root / HOME / "site")
    _bind(Path(sys.base_prefix), root / HOME / "python")
    (root / HOME / "bin").mkdir()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for name, text in (("python", PYTHON.format(version=version)), ("tcp-sniffer", PROGRAM)):
        (root / HOME / "bin" / name).write_text(text)
        (root / HOME / "bin" / name).chmod(0o755)
    etc = root / "etc/tcp-sniffer"
    etc.mkdir(exist_ok=True)
    shutil.copy(ROOT / "deploy/systemd/tcp-sniffer.env", etc)
    (etc / "token").write_text("the-token\n")
    (etc / "token").chmod(0o600)
    units = root / "units"
    units.mkdir()
    for name in UNITS:
        shutil.copy(SYSTEMD.parent / "system" / name, units)
    shutil.copy(ROOT / "deploy/systemd" / UNIT, units)
    (units / "boot.target").write_text("[Unit]\nRequires=basic.target systemd-journald.service\n")
    (root / "etc/machine-id").write_text("0" * 31 + "1\n")


def process_one(folder: Path) -> None:
    """Becomes systemd."""
    root = _lay_out(folder)
    _install(root)
    (root / "old").mkdir()
    os.chdir(root)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(PIVOT_ROOT[os.uname().machine], b".", b"old") != 0 or libc.umount2(b"/old", MNT_DETACH) != 0:
        raise OSError(ctypes.get_errno(), "pivot_root")
    _mount("none", Path("/"), flags=MS_REC | MS_SHARED)  # as systemd expects it: credentials come by propagation
    environ = {"container": "test", "SYSTEMD_UNIT_PATH": "/units", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    os.execve(SYSTEMD, ["systemd", "--unit=boot.target", "--log-target=journal", "--show-status=no"], environ)


class Machine:
    """A systemd that runs."""

    def __init__(self, process: int) -> None:
        self._enter = ["nsenter", "--all", f"--target={process}", "--root", "--wd"]

    def command(self, *words: str) -> list[str]:
        """A command there, as one here."""
        return [*self._enter, *words]

    def run(self, *words: str) -> str:
        """What a command prints."""
        done = subprocess.run(self.command(*words), capture_output=True, text=True, check=False, timeout=BOUND_S)
        return done.stdout.strip()

    def show(self, name: str) -> str:
        """A property of the unit."""
        return self.run("systemctl", "show", "--value", "--property", name, UNIT)

    def lines(self) -> list[dict[str, Any]]:
        """What the sniffer wrote to the journal."""
        text = self.run("journalctl", "--no-pager", "--output=cat", "--unit", UNIT)
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def logged(self, message: str, times: int = 1) -> bool:
        """Whether that line was logged so often."""
        return sum(line.get("message") == message for line in self.lines()) >= times

    def add(self, settings: str) -> None:
        """A drop-in, in place of the one before."""
        folder = f"/units/{UNIT}.d"
        write = 'mkdir -p "$0" && printf %s "$1" > "$0/test.conf" && systemctl daemon-reload'
        subprocess.run(self.command("sh", "-c", write, folder, settings), check=True, timeout=BOUND_S)

    def state(self) -> dict[str, str]:
        """User and capabilities of the daemon, of all its threads: where they differ, none."""
        number = self.show("MainPID")
        tasks = self.run("sh", "-c", f"cat /proc/{number}/task/*/status")
        found: dict[str, set[str]] = {}
        for name, value in re.findall(r"^(Uid|Cap\w+|NoNewPrivs|Seccomp):\s+(\S+)", tasks, re.MULTILINE):
            found.setdefault(name, set()).add(value)
        return {name: "".join(values) if len(values) == 1 else "" for name, values in found.items()}


@contextlib.contextmanager
def own_cgroup() -> Iterator[Path]:
    """A cgroup (v2) for the namespace to be the root of; empty and gone afterwards."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    places = [Path(words[1]) for words in mounts if words[2] == "cgroup2"]
    if not places:
        sys.exit(IMPOSSIBLE)
    made = places[0] / f"tcp-sniffer-boot-{os.getpid()}"
    made.mkdir()
    try:
        yield made
    finally:
        for folder, _, _ in os.walk(made, topdown=False):
            wait_until(lambda folder=folder: _removed(Path(folder)), f"{folder} is empty", seconds=BOUND_S)  # type: ignore[misc]


def _removed(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()


@contextlib.contextmanager
def booted() -> Iterator[Machine]:
    """Boots; everything of it ends with this context."""
    with own_cgroup() as cgroup, tempfile.TemporaryDirectory() as folder:
        command = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(cgroup / "cgroup.procs")]
        command += ["unshare", *NAMESPACES, "--fork", "--kill-child"]
        command += [sys.executable, "-m", "tests.boot", folder]
        with subprocess.Popen(command, cwd=ROOT) as process:
            try:
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
                first = wait_until(
                    lambda: process.poll() is not None or children.read_text().split(), "a process 1", seconds=BOUND_S
                )
                if first is True:
                    sys.exit(IMPOSSIBLE)
                machine = Machine(int(first[0]))

                def is_up() -> bool:
                    if process.poll() is not None:
                        sys.exit(IMPOSSIBLE)
                    return machine.run("systemctl", "is-active", "boot.target") == "active"

                wait_until(is_up, "systemd is up", seconds=BOUND_S)
                yield machine
            finally:
                process.kill()


@contextlib.contextmanager
def running(machine: Machine, *words: str) -> Iterator[None]:
    """A program there."""
    with subprocess.Popen(machine.command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def main() -> dict[str, Any]:
    """What came of three runs: as shipped, posting with a token and a spool, with wrong configuration."""
    python = f"/{HOME}/bin/python"
    server = (python, "-m", "http.server", str(PORT), "--bind", "127.0.0.1", "--directory", "/units")
    collector = (python, f"/{HOME}/repository/deploy/sample/collector.py", str(COLLECTOR))
    with booted() as machine, running(machine, *server), running(machine, *collector):

        def got(port: int, path: str = "") -> str:
            return machine.run("curl", "--silent", f"http://127.0.0.1:{port}/{path}")

        wait_until(lambda: got(PORT, "boot.target") and got(COLLECTOR), "the servers answer", seconds=BOUND_S)
        machine.run("systemctl", "start", UNIT)
        wait_until(lambda: machine.logged("started"), "it has started", seconds=BOUND_S)
        shipped: dict[str, Any] = {"state": machine.state()}
        got(PORT, "boot.target")
        wait_until(lambda: sum("schema" in line for line in machine.lines()) >= 2, "two messages", seconds=BOUND_S)
        machine.run("systemctl", "stop", UNIT)
        shipped |= {name: machine.show(name) for name in ("Result", "ExecMainStatus", "ActiveState")}
        shipped["lines"] = machine.lines()

        machine.add(POSTING.format(collector=COLLECTOR))
        machine.run("systemctl", "start", UNIT)
        wait_until(lambda: machine.logged("started", 2), "it has started again", seconds=BOUND_S)
        got(PORT, "boot.target?posted")
        wait_until(
            lambda: got(COLLECTOR).count("boot.target?posted") == 2, "the collector has two messages", seconds=BOUND_S
        )
        spool = machine.run("ls", "/var/lib/tcp-sniffer/")
        machine.run("systemctl", "stop", UNIT)
        posted = {name: machine.show(name) for name in ("Result", "ExecMainStatus")} | {"spool": spool.split()}

        machine.add(WRONG)
        machine.run("systemctl", "start", UNIT)
        wait_until(lambda: machine.show("ActiveState") == "failed", "it has failed", seconds=BOUND_S)
        wrong = {name: machine.show(name) for name in ("Result", "ExecMainStatus", "NRestarts")}
        return {"shipped": shipped, "posted": posted, "wrong": wrong}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        process_one(Path(sys.argv[1]))
    print(json.dumps(main()))
