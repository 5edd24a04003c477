"""What runs the tools of development: the Makefile's lint, the pre-commit hooks and the hosted CI say the same."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOW: dict[Any, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
HOOKS: dict[str, Any] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
ARCHITECTURES = {"ubuntu-24.04": "x86-64", "ubuntu-24.04-arm": "arm64"}
"""Hosted runners, and what they run on."""


def recipe(target: str) -> list[str]:
    """The commands of a target of the Makefile, as the shell gets them."""
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert found, target
    commands = found[1].replace("$(BIN)", ".venv/bin").replace("$$", "$")
    return [line.lstrip("\t@") for line in commands.splitlines()]


def words(command: str) -> list[str]:
    """The words that run it without a shell; a command that sets a variable takes one."""
    return ["sh", "-c", command] if "=" in command.split(maxsplit=1)[0] else shlex.split(command)


def test_hooks_run_what_lint_runs() -> None:
    """Each command of `make lint` is a hook, in the same order and with the same words, and nothing else is."""
    (repository,) = HOOKS["repos"]
    assert repository["repo"] == "local", "another repository would have versions of its own"
    assert [shlex.split(hook["entry"]) for hook in repository["hooks"]] == [words(line) for line in recipe("lint")]
    for hook in repository["hooks"]:
        assert hook["language"] == "system", "the versions are those of the dev extra"
        assert hook["pass_filenames"] is False, "each tool finds its files by its own configuration"


def test_tools_of_lint_are_requirements_of_development() -> None:
    """Whoever installs the dev extra has every tool that `make lint` calls."""
    development = {re.split(r"[<>=]", line)[0] for line in PROJECT["optional-dependencies"]["dev"]}
    called = {re.findall(r"\.venv/bin/([\w-]+)", line)[-1] for line in recipe("lint")}
    assert {{"lint-imports": "import-linter"}.get(tool, tool) for tool in called} <= development


def test_ci_runs_every_supported_python_on_both_architectures() -> None:
    """The matrix has the versions of pyproject's classifiers, and a runner for each architecture."""
    (job,) = WORKFLOW["jobs"].values()
    matrix = job["strategy"]["matrix"]
    supported = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert matrix["python"] == supported
    assert set(matrix["runner"]) == set(ARCHITECTURES)
    assert PROJECT["requires-python"] == f">={supported[0]}"
    assert job["runs-on"] == "${{ matrix.runner }}"
    assert "${{ matrix.python }}" in str(job["steps"])


def test_ci_calls_targets_of_the_makefile_only() -> None:
    """Its commands are `make lint` and `make test`, which anybody can repeat."""
    (job,) = WORKFLOW["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["make lint", "make test"]
    for command in commands:
        asked = subprocess.run(
            ["make", "--dry-run", *command.split()[1:]], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert asked.returncode == 0, asked.stderr
    assert set(commands) <= set(re.findall(r"^make \w+", (ROOT / ".ci/run").read_text(), re.MULTILINE))


def test_ci_may_only_read() -> None:
    """The token reads the repository and nothing more, no step keeps it, and no action can change under its name."""
    assert WORKFLOW["permissions"] == {"contents": "read"}
    (job,) = WORKFLOW["jobs"].values()
    assert "permissions" not in job
    actions = [step for step in job["steps"] if "uses" in step]
    assert actions
    for step in actions:
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", step["uses"])
        if step["uses"].startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
    assert "secrets." not in (ROOT / ".github/workflows/ci.yml").read_text()


def test_ci_runs_for_what_goes_in() -> None:
    """Pull requests and pushes to main start it; pull_request_target, which has rights, does not."""
    triggers = WORKFLOW[True]  # YAML 1.1 reads the key `on` as true
    assert set(triggers) == {"push", "pull_request"}
    assert triggers["push"] == {"branches": ["main"]}
