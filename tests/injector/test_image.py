"""Without a container engine the image cannot be built, so its Dockerfile is parsed and its parts are tried."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sniffer.injector.patch import UID
from tests.e2e.cluster import exchange, wrong_with
from tests.injector.container import VISITS, as_a_runtime_does
from tests.injector.manifests import DEPLOY, ROOT, chart, one


def instructions() -> list[tuple[str, str]]:
    """Instructions and their arguments, continuation lines joined, comments dropped."""
    text = "\n".join(
        line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")
    )
    joined = re.sub(r"\\\n\s*", "", text)
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]


def final() -> list[tuple[str, str]]:
    """The last stage."""
    found = instructions()
    return found[max(at for at, (name, _) in enumerate(found) if name == "FROM") :]


def argument(name: str) -> str:
    """The only argument of an instruction in the last stage."""
    (found,) = [value for instruction, value in final() if instruction == name]
    return found


def test_bases_are_pinned_by_tag() -> None:
    """Both stages start from a full version tag of the same Python; the last one is slim."""
    bases = [value.split()[0] for name, value in instructions() if name == "FROM"]
    assert len(bases) == 2
    versions = {re.fullmatch(r"python:(\d+\.\d+\.\d+)-(slim-)?[a-z]+", base) for base in bases}
    assert None not in versions
    assert len({version[1] for version in versions if version}) == 1
    assert "slim" in bases[-1]


def test_the_user_is_numeric_and_the_injected_one() -> None:
    """USER is the uid that the injected container runs as: a name could not be verified to be none of root's."""
    assert argument("USER") == f"{UID}:{UID}"


def test_no_shell_in_the_chain() -> None:
    """The entry point is in exec form and is the interpreter that has the capability, by its absolute path."""
    assert argument("ENTRYPOINT") == '["/usr/local/bin/python3-netraw", "-m", "sniffer"]'
    assert not [name for name, _ in instructions() if name in ("CMD", "SHELL", "ADD")]
    assert not re.search(r"\b(tini|dumb-init|gosu|su-exec)\b", str(instructions()))


def test_the_capability_is_set_and_checked_in_the_final_stage() -> None:
    """One layer copies the interpreter, sets the capability, checks it, and takes the tool out again."""
    (layer,) = [value for name, value in final() if name == "RUN" and "setcap" in value]
    steps = [step.strip() for step in layer.split("&&")]
    order = [
        next(at for at, step in enumerate(steps) if word in step) for word in ("cp -L", "setcap", "getcap", "purge")
    ]
    assert order == sorted(order)
    assert "setcap cap_net_raw+p /usr/local/bin/python3-netraw" in steps
    assert "getcap /usr/local/bin/python3-netraw | grep -q 'cap_net_raw=p'" in steps
    assert "COPY" not in [name for name, _ in final()]


def test_the_build_tries_both_programs() -> None:
    """The last steps run both programs as the image's user, so that an image that cannot start is never made."""
    at = [name for name, _ in final()].index("USER")
    assert [value for name, value in final()[at:] if name == "RUN"] == [
        '["/usr/local/bin/python3-netraw", "-m", "sniffer", "--version"]',
        '["/usr/local/bin/python3", "-m", "sniffer.injector", "--help"]',
    ]


def test_labels() -> None:
    """The OCI labels name what the image is."""
    labels = argument("LABEL")
    for name in ("title", "description", "licenses", "version", "revision", "base.name"):
        assert f"org.opencontainers.image.{name}=" in labels


def test_the_context_holds_what_the_wheel_needs() -> None:
    """The ignore file lets in what the build reads, and each of these exists."""
    allowed = re.findall(r"^!(.+)$", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert {"pyproject.toml", "setup.py", "sniffer", "sniffer_core", "README.md", "LICENSE"} == set(allowed)
    assert all((ROOT / name).exists() for name in allowed)


def test_the_injectors_container_uses_what_the_image_has() -> None:
    """The Deployment runs the plain interpreter, which needs no capability, as the image's user."""
    spec = one(chart(), "Deployment")["spec"]["template"]["spec"]
    assert spec["containers"][0]["command"] == ["/usr/local/bin/python3", "-m", "sniffer.injector"]
    assert spec["securityContext"]["runAsUser"] == UID


OPEN_A_CAPTURE = """
import sys
from sniffer.capture.privileges import raise_net_raw
if "raise" in sys.argv:
    raise_net_raw()
import socket
try:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as capture:
        capture.bind(("lo", 0))
        print("open")
except PermissionError:
    print("refused")
"""


@pytest.fixture(scope="module")
def interpreters() -> Iterator[Path]:
    """A folder with a plain copy of the interpreter and one with the capability, as the Dockerfile makes it."""
    if os.geteuid() != 0 or not sys.platform.startswith("linux"):
        pytest.skip("needs root on Linux, to set a file capability and to become another user")
    if shutil.which("setcap") is None:
        pytest.skip("setcap is not present")
    folder = Path("/var/tmp") / f"netraw-{os.getpid()}"
    folder.mkdir(mode=0o755)
    source = Path(sys.executable).resolve()
    for name in ("plain", "netraw"):
        shutil.copyfile(source, folder / name)
        (folder / name).chmod(0o755)
    done = subprocess.run(["setcap", "cap_net_raw+p", folder / "netraw"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        shutil.rmtree(folder)
        pytest.skip(f"this file system takes no capabilities: {done.stderr.strip()}")
    probe = subprocess.run(
        [folder / "plain", "-S", "-c", ""], user=UID, env={}, capture_output=True, text=True, check=False
    )
    if "shared librar" in probe.stderr:
        shutil.rmtree(folder)
        pytest.skip(f"this interpreter is not for every user: {probe.stderr.strip()}")
    package = folder / "site/sniffer/capture"
    package.mkdir(parents=True)
    for of in (package.parent, package):
        (of / "__init__.py").touch()
    shutil.copy(ROOT / "sniffer/capture/privileges.py", package)
    standard = Path(os.__file__).parent
    shutil.copytree(
        standard,
        folder / "lib",
        ignore=shutil.ignore_patterns("test", "site-packages", "idlelib", "__pycache__", "config-*"),
    )
    for part in folder.rglob("*"):
        part.chmod(part.stat().st_mode | 0o555 if part.is_dir() else part.stat().st_mode | 0o444)
    yield folder
    shutil.rmtree(folder)


def capture(folder: Path, interpreter: str, *arguments: str, net_raw: bool = True) -> str:
    """Opens a capture on lo as uid 10001 under no_new_privs with at most NET_RAW; returns the result."""
    paths = [str(folder / "site"), str(folder / "lib"), str(folder / "lib/lib-dynload")]
    code = f"import sys; sys.path[:] = {paths!r}\n" + OPEN_A_CAPTURE
    done = subprocess.run(
        [str(folder / interpreter), "-S", "-c", code, *arguments],
        preexec_fn=lambda: as_a_runtime_does(net_raw=net_raw),
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(paths[1:]), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_interpreter_with_the_capability_can_capture(interpreters: Path) -> None:
    """As uid 10001 under no_new_privs with NET_RAW in the bounding set: it opens a capture once it raised itself."""
    assert capture(interpreters, "netraw", "raise") == "open"


def test_without_raising_it_cannot(interpreters: Path) -> None:
    """Permitted is not effective: that is what raising is for."""
    assert capture(interpreters, "netraw") == "refused"


def test_the_plain_interpreter_cannot(interpreters: Path) -> None:
    """A file without the capability gets nothing, which is why the image has one with it."""
    assert capture(interpreters, "plain", "raise") == "refused"


def test_it_starts_where_net_raw_is_not_granted(interpreters: Path) -> None:
    """Without NET_RAW in the bounding set it still starts, and can say what is missing."""
    assert capture(interpreters, "netraw", "raise", net_raw=False) == "refused"


def beside_the_sample(folder: Path, *arguments: str) -> dict[str, Any]:
    """The results of the injected container beside the sample's application."""
    command = [sys.executable, "-m", "tests.injector.container", str(folder / "netraw"), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    if "unshare" in done.stderr:
        pytest.skip("no namespaces can be made here")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


STARTED = [1, 0, 1]
"""What the startup probe ends with before the sniffer is there, while it captures or waits, and after its end."""


def test_the_injected_container_captures(interpreters: Path) -> None:
    """As the runtime starts it, with what the injector gives it, the sample's exchanges arrive at its collector, whole.

    Uid 10001, no_new_privs, nothing but NET_RAW, a read-only root file system; a stop drains and ends with 0.
    """
    found = beside_the_sample(interpreters)
    # the sniffer gave it up once its capture was open
    sets = {"CapPrm": f"{0:016x}", "CapEff": f"{0:016x}", "CapBnd": f"{1 << 13:016x}"}
    assert found["state"] == {"Uid": str(UID), "NoNewPrivs": "1", **sets}
    assert found["writing"] == "EROFS"
    for number in range(VISITS):
        assert wrong_with(exchange(found["messages"], "POST", f"/visit/{number}"), "hello", 200) == []
    assert len(found["messages"]) == 2 * VISITS
    placement = {"pod": "the-pod_name", "namespace": "the-namespace", "node": "the-node_name"}
    assert all(message["placement"] == placement for message in found["messages"])
    assert found["code"] == 0
    assert found["log"][-1] == "stopped"
    assert found["probed"] == STARTED


def test_the_injected_container_where_it_may_not_capture(interpreters: Path) -> None:
    """Where NET_RAW is not granted it says so and stays, not ready, beside the application; a stop is code 2 then."""
    found = beside_the_sample(interpreters, "--no-net-raw")
    assert (found["ready"], found["messages"], found["code"]) == (503, [], 2)
    assert "capture cannot be opened" in found["log"]
    assert found["probed"] == STARTED


def test_the_injected_spool(interpreters: Path) -> None:
    """On its volume the spool keeps what is captured while the collector is away, and delivers it when it is back."""
    found = beside_the_sample(interpreters, "--spool")
    for number in range(VISITS):
        assert wrong_with(exchange(found["messages"], "POST", f"/visit/{number}"), "hello", 200) == []
    assert "spool opened" in found["log"]
    assert not [line for line in found["log"] if "cannot be written" in line or "others may write" in line]
    assert (found["writing"], found["code"]) == ("EROFS", 0)
