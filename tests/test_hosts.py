"""The files for hosts: the systemd unit and the compose file."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sniffer.config import SnifferConfig
from tests.boot import IMPOSSIBLE, SYSTEMD
from tests.daemon import ROOT, SECONDS

UNIT = ROOT / "deploy/systemd/tcp-sniffer.service"
ENVIRONMENT = ROOT / "deploy/systemd/tcp-sniffer.env"
COMPOSE = ROOT / "deploy/compose/compose.yaml"

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def settings() -> dict[str, list[str]]:
    """The unit's settings."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if match := re.match(r"(\w+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that is installed here."""
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace("ExecStart=/opt/tcp-sniffer/bin/tcp-sniffer", "ExecStart=/bin/true"))
    return path


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """systemd-analyze's answer."""
    command = ["systemd-analyze", "--no-pager", *arguments]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS, check=False
    )


@needs_systemd
def test_unit_is_valid(unit: Path) -> None:
    """systemd takes the unit, without a word."""
    done = analyze("verify", str(unit))
    assert (done.returncode, done.stdout) == (0, "")


@needs_systemd
def test_a_wrong_unit_is_found(unit: Path) -> None:
    """The check of the unit fails on a setting that systemd does not know."""
    unit.write_text(unit.read_text().replace("DynamicUser=", "DynamicUsers="))
    assert "DynamicUsers" in analyze("verify", str(unit)).stdout


@needs_systemd
def test_unit_is_sandboxed(unit: Path) -> None:
    """systemd's own rating of the exposure is below 2, as docs/deployment/HOSTS.md says."""
    done = analyze("security", "--offline=yes", "--threshold=20", str(unit))
    assert done.returncode == 0, done.stdout


def test_unit_fits_the_daemon() -> None:
    """One capability, for a user of its own; time to drain; no restart for wrong configuration."""
    unit = settings()
    assert unit["AmbientCapabilities"] == unit["CapabilityBoundingSet"] == ["CAP_NET_RAW"]
    assert unit["DynamicUser"] == ["yes"]
    assert int(unit["TimeoutStopSec"][0]) * 1000 > SnifferConfig.options()["drain_timeout_ms"].default
    assert unit["RestartPreventExitStatus"] == ["1"]


def test_unit_under_systemd() -> None:
    """As shipped it captures as a user of its own, keeps no capability, and stops with 0.

    Its token and its spool work in the sandbox; wrong configuration is code 1, without a restart.
    """
    if os.geteuid() != 0 or not SYSTEMD.exists() or shutil.which("unshare") is None:
        pytest.skip("needs root, and systemd's program")
    done = subprocess.run(
        [sys.executable, "-m", "tests.boot"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode == IMPOSSIBLE:
        pytest.skip(f"no namespaces for a systemd can be made here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    shipped, posted, wrong = json.loads(done.stdout).values()
    assert int(shipped["state"].pop("Uid")) not in (0, os.geteuid())
    none, net_raw = f"{0:016x}", f"{1 << 13:016x}"
    given_up = dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapAmb"), none)
    assert shipped["state"] == {**given_up, "CapBnd": net_raw, "NoNewPrivs": "1", "Seccomp": "2"}
    assert (shipped["Result"], shipped["ExecMainStatus"], shipped["ActiveState"]) == ("success", "0", "inactive")
    messages = [line for line in shipped["lines"] if "schema" in line]
    assert [(one["direction"], one["path"]) for one in messages] == [
        ("request", "/boot.target"),
        ("response", "/boot.target"),
    ]
    assert shipped["lines"][-1]["message"] == "stopped"
    assert posted == {"Result": "success", "ExecMainStatus": "0", "spool": ["spool.db", "spool.db-wal", "spool.lock"]}
    assert wrong == {"Result": "exit-code", "ExecMainStatus": "1", "NRestarts": "0"}


def test_environment_is_a_configuration() -> None:
    """The example of the environment file is one that the daemon takes, with the lines in comments too."""
    lines = [line.removeprefix("#") for line in ENVIRONMENT.read_text().splitlines()]
    environ = dict(line.split("=", 1) for line in lines if re.match(r"[A-Z_]+=", line))
    names = {option.variable for option in SnifferConfig.options().values()}
    assert set(environ) <= names
    config = SnifferConfig.from_env(environ)
    assert config.output_stdout
    assert config.spool_dir == f"/var/lib/{settings()['StateDirectory'][0]}"


def test_compose() -> None:
    """The sniffer shares the application's network, has one capability, time to drain and a right configuration."""
    services: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    sniffer = services["tcp-sniffer"]
    (shared,) = re.findall(r"service:(\w+)", sniffer["network_mode"])
    assert shared in services
    assert (sniffer["cap_drop"], sniffer["cap_add"], sniffer["read_only"]) == (["ALL"], ["NET_RAW"], True)
    assert "security_opt" not in sniffer
    options = SnifferConfig.options()
    assert set(sniffer["environment"]) <= {option.variable for option in options.values()}
    config = SnifferConfig.from_env(sniffer["environment"])
    assert f"{config.ports[0]}" in services[shared]["command"]
    assert int(sniffer["stop_grace_period"].removesuffix("s")) * 1000 > options["drain_timeout_ms"].default


def test_compose_is_valid() -> None:
    """Docker Compose takes the file, as a plugin of `docker` or as a program of its own, and refuses a wrong one."""
    found = [
        compose
        for compose in (["docker", "compose"], ["docker-compose"])
        if shutil.which(compose[0])
        and subprocess.run([*compose, "version"], capture_output=True, check=False).returncode == 0
    ]
    if not found:
        pytest.skip("Docker Compose is not installed")
    text = COMPOSE.read_text()
    for given, is_right in ((text, True), (text.replace("network_mode:", "network_mod:"), False)):
        done = subprocess.run(
            [*found[0], "--file", "-", "config", "--quiet"],
            input=given, capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        assert (done.returncode == 0) is is_right, done.stderr
