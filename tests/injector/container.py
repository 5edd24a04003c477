"""Runs the injected container beside the sample's application, without a container engine.

    python -m tests.injector.container INTERPRETER [--no-net-raw | --spool]

It runs as root, in a network namespace of its own. The sample's collector and echo server run there, and beside them
`INTERPRETER -m sniffer` with the injected environment. Its root file system is read-only and holds this machine's
Python and the repository. Its process has the state that containerd gives: uid 10001, no_new_privs, and a bounding
set with NET_RAW alone (or empty). The sample's visitor makes its requests; then the sniffer is stopped. Prints the
result as JSON. With a spool, on a volume like an emptyDir, the collector starts only after the visitor has ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sniffer.injector.patch import SPOOL_DIR, UID
from tests.injector.expansion import environment_of
from tests.injector.pods import answered, of_job, pod, sniffer_of
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]  # resolved: links lead nowhere in another root
SITE = sysconfig.get_paths()["purelib"]
SAMPLE = ROOT / "deploy/sample"
COLLECTOR, APPLICATION, METRICS = 9000, 8080, 9102
VISITS = 10
BOUND_S = 60

CAP_NET_RAW, PR_SET_KEEPCAPS, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 13, 8, 24, 38
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def _call(name: str, *arguments: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)


def as_a_runtime_does(uid: int = UID, *, net_raw: bool = True) -> None:
    """Sets what containerd sets before exec: bounding set, no_new_privs, user, permitted and effective set."""
    libc = ctypes.CDLL(None)
    for capability in range(64):
        if capability != CAP_NET_RAW or not net_raw:
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    _call("prctl", PR_SET_KEEPCAPS, 1, 0, 0, 0)  # so that the permitted set survives the change of user
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    bit = (1 << CAP_NET_RAW) if net_raw else 0
    _call("capset", ctypes.byref(_Header(0x20080522, 0)), (ctypes.c_uint32 * 6)(bit, bit, 0, 0, 0, 0))
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _mount(source: Path | str, target: Path, flags: int, kind: bytes = b"none") -> None:
    _call("mount", os.fsencode(source), os.fsencode(target), kind, flags, None)


def enter(interpreter: Path) -> Path:
    """Enters new namespaces, and makes the sniffer's root file system with this file as /interpreter."""
    _call("unshare", CLONE_NEWNS | CLONE_NEWNET)
    _mount("none", Path("/"), MS_REC | MS_PRIVATE)
    root = interpreter.parent / "root"
    root.mkdir(exist_ok=True)
    _mount("none", root, 0, b"tmpfs")
    root.chmod(0o755)
    (root / "interpreter").touch()
    of_python = (sys.base_prefix, str(ROOT), SITE)  # the last may be inside of the one before
    for name in ("/bin", "/lib", "/lib64", "/usr", "/etc", "/proc", "/dev", *of_python):
        source, target = Path(name), root / name.lstrip("/")
        if source.is_symlink():
            target.symlink_to(source.readlink())
        elif source.exists() and not target.exists():
            target.mkdir(parents=True)
            _mount(source, target, MS_BIND | MS_REC)
            if name not in ("/proc", "/dev"):
                _mount("none", target, MS_REMOUNT | MS_BIND | MS_RDONLY)
    _mount(interpreter, root / "interpreter", MS_BIND)
    volume = root / SPOOL_DIR.lstrip("/")
    volume.mkdir(parents=True)
    _mount("none", volume, 0, b"tmpfs")
    volume.chmod(0o777)  # as a kubelet makes an emptyDir
    _mount("none", root, MS_REMOUNT | MS_BIND | MS_RDONLY)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        flags = struct.unpack("16sh", fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16sh", b"lo", 0)))[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | IFF_UP))
    return root


def injected_environment(annotations: dict[str, str]) -> dict[str, str]:
    """The environment of the container for the sample's application with these annotations, with local addresses."""
    manifests = yaml.safe_load_all((SAMPLE / "sample.yaml").read_text())
    (echo,) = [m for m in manifests if m["kind"] == "Deployment" and m["metadata"]["name"] == "echo"]
    pod = {"apiVersion": "v1", "kind": "Pod", **echo["spec"]["template"]}
    pod["metadata"]["annotations"] |= annotations
    env = sniffer_of(answered(pod)[2])["env"]
    found = environment_of({"env": env})
    found["OUTPUT_URL"] = re.sub(r"//[^:/]+", "//127.0.0.1", found["OUTPUT_URL"])
    return found | {"INTERFACE": "lo", "METRICS_PORT": str(METRICS)}


def startup_probe() -> list[str]:
    """The command of the native sidecar that a Job's pod gets."""
    command: list[str] = sniffer_of(answered(of_job(pod()))[2])["startupProbe"]["exec"]["command"]
    return command


def get(url: str) -> tuple[int, bytes]:
    """Status and body of the response to a GET; status 0 if there is no response."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, b""
    except OSError:
        return 0, b""


@contextlib.contextmanager
def running(*command: str, **how: Any) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, text=True, cwd="/", **how) as process:
        try:
            yield process
        finally:
            process.kill()


WRITING = """
import errno
try:
    open("/written", "w")
    print("written")
except OSError as error:
    print(errno.errorcode[error.errno])
"""


def main(interpreter: Path, *, net_raw: bool = True, spool: bool = False) -> dict[str, Any]:
    """The messages at the collector, the sniffer's exit code, and its state."""
    root = enter(interpreter)
    environment = {"PYTHONHOME": sys.base_prefix, "PYTHONPATH": os.pathsep.join([SITE, str(ROOT)])}

    def start() -> None:
        os.chroot(root)
        os.chdir("/")
        as_a_runtime_does(net_raw=net_raw)

    writing = subprocess.run(
        ["/interpreter", "-c", WRITING], env=environment, preexec_fn=start, capture_output=True, text=True, check=True
    )

    def probe() -> int:
        return subprocess.run(startup_probe(), env={}, preexec_fn=start, check=False).returncode

    probed = [probe()]
    here = f"http://127.0.0.1:{APPLICATION}"
    collector = f"http://127.0.0.1:{COLLECTOR}/"
    collect = (sys.executable, str(SAMPLE / "collector.py"), str(COLLECTOR))
    with contextlib.ExitStack() as stack:
        if not spool:
            stack.enter_context(running(*collect, stdout=subprocess.DEVNULL))
        stack.enter_context(running(sys.executable, str(SAMPLE / "echo.py"), str(APPLICATION)))
        sniffer = stack.enter_context(
            running(
                *("/interpreter", "-m", "sniffer"),
                env=environment | injected_environment({"tcp-sniffer/spool": "64Mi"} if spool else {}),
                preexec_fn=start,
                stderr=subprocess.PIPE,
            )
        )
        try:
            ready = f"http://127.0.0.1:{METRICS}/readyz"
            for url, status in ((collector, 0 if spool else 200), (here, 200), (ready, 200 if net_raw else 503)):
                wait_until(lambda u=url, s=status: get(u)[0] == s, f"{url} is {status}", seconds=BOUND_S)  # type: ignore[misc]
            state = Path(f"/proc/{sniffer.pid}/status").read_text()
            probed.append(probe())
            # the probe of the application's port above may be a message too
            subprocess.run(
                [sys.executable, SAMPLE / "visit.py", here, str(VISITS)], check=True, stdout=subprocess.DEVNULL
            )
            if spool:
                stack.enter_context(running(*collect, stdout=subprocess.DEVNULL))
                wait_until(lambda: get(collector)[0] == 200, "the collector is there", seconds=BOUND_S)
            if net_raw:
                wait_until(
                    lambda: len(visits(get(collector)[1])) >= 2 * VISITS,
                    "the messages are at the collector",
                    seconds=BOUND_S,
                )
        finally:
            sniffer.send_signal(signal.SIGTERM)
            log = sniffer.communicate(timeout=BOUND_S)[1]
            sys.stderr.write(log)
        probed.append(probe())
        return {
            "probed": probed,
            "messages": visits(get(collector)[1]),
            "ready": status,
            "writing": writing.stdout.strip(),
            "code": sniffer.returncode,
            "state": dict(re.findall(r"^(Uid|CapEff|CapPrm|CapBnd|NoNewPrivs):\s*(\S+)", state, re.MULTILINE)),
            "log": [json.loads(line)["message"] for line in log.splitlines()],
        }


def visits(collected: bytes) -> list[dict[str, Any]]:
    """The visitor's messages among all messages."""
    return [one for one in json.loads(collected) if one["path"].startswith("/visit/")]


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), net_raw="--no-net-raw" not in sys.argv, spool="--spool" in sys.argv)))
