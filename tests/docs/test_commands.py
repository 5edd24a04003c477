"""Every command of the documents is run, or, where that takes a cluster or other machines, held to what it calls.

What reads a file runs as it stands, in a shell, and its output is what the page shows. What captures live runs in a
network namespace of its own. Of everything else the words are checked: options against the program's own help,
targets against the Makefile, keys against the chart, paths against the repository.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from sniffer.cli import _doctor_parser, configure
from tests.daemon import DEMO, ROOT, SECONDS, Daemon, needs_capture
from tests.docs.pages import PAGES, Command, simple_commands
from tests.terminals import INTERRUPT, Terminal

BIN = ".venv/bin/"
ANYWHERE = {"curl", "grep", "head", "jq", "kill", "ln", "mkdir", "openssl", "printf", "sort", "tail", "tcpdump", "uniq"}
"""Programs that a page uses and whose options are their own affair."""


def checker(*programs: str) -> Callable[[Callable[[list[str]], None]], Callable[[list[str]], None]]:
    """Registers the check of a program's words."""

    def register(check: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
        CHECKS.update(dict.fromkeys(programs, check))
        return check

    return register


CHECKS: dict[str, Callable[[list[str]], None]] = {}


def check(words: list[str]) -> None:
    """Fails where a program would not take these words."""
    while words[0] == "sudo":
        words = words[1:]
    program = words[0].removeprefix(BIN)
    if program.startswith("deploy/"):
        script(words)
    elif program not in ANYWHERE:
        assert program in CHECKS, f"nothing here checks {program}"
        CHECKS[program]([program, *words[1:]])


@functools.cache
def run(*command: str) -> subprocess.CompletedProcess[str]:
    """A program's answer; both its outputs are in `stdout`. A make that runs these tests gives it no variable."""
    environ = {name: value for name, value in os.environ.items() if name not in ("ARGS", "MAKEFLAGS", "MAKEOVERRIDES")}
    out, err = subprocess.PIPE, subprocess.STDOUT
    return subprocess.run(
        command, cwd=ROOT, env=environ, stdout=out, stderr=err, text=True, timeout=SECONDS, check=False
    )


def options(words: list[str]) -> list[str]:
    """The options among the words, without their values."""
    return [word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)]


def known(words: list[str], *help_command: str) -> None:
    """Each option is in the help that the command prints."""
    text = run(*help_command).stdout
    for option in options(words):
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text), f"{option} is not in {help_command}"


@checker("tcp-sniffer")
def sniffer(words: list[str]) -> None:
    """The daemon's configuration takes it."""
    if words[1] == "doctor":
        assert _doctor_parser().texts(words[2:])[1] == []
    elif words[1] == "mcp":
        if len(words) > 2:  # else the subcommand is only named
            configure(["--mcp", *words[2:]], {})
    elif words[1] not in ("--help", "--version", "--list-interfaces"):
        configure(words[1:], {}, at_terminal=True)


def recipe(words: list[str]) -> list[str]:
    """The commands that make would run."""
    done = run("make", "-n", *words)
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()


@checker("make")
def make(words: list[str]) -> None:
    """The target exists, and the program that it calls takes the arguments."""
    for line in recipe(words[1:]):
        if match := re.fullmatch(r"(?:exec )?\.venv/bin/(tcp-sniffer|python -m (?:tests|pytest).*)(.*)", line):
            check(shlex.split(match[1] + match[2]))


@checker("python", "python3")
def python(words: list[str]) -> None:
    """The module or file is there, and its help names the options."""
    if words[1] == "-m":
        module, rest = words[2], words[3:]
        assert importlib.util.find_spec(module), module
        if module == "pytest":
            assert [word for word in rest if word.startswith("tests") and not (ROOT / word).exists()] == []
        elif options(rest):
            known(rest, sys.executable, "-m", module, "--help")
    else:
        assert (ROOT / words[1]).exists()
        known(words[3:], sys.executable, *words[1:3], "--help")


@checker("coverage", "pip", "twine")
def tool(words: list[str]) -> None:
    """The tool knows the command and its options."""
    own = words[: words.index("-m")] if "-m" in words else words
    done = run(sys.executable, "-m", *own[:2], "--help")
    assert done.returncode == 0, done.stdout
    known(own[2:], sys.executable, "-m", *own[:2], "--help")


@checker("kubectl", "docker", "kind", "helm")
def cluster(words: list[str]) -> None:
    """Files and chart values are there; `offline` asks the program itself for the options."""
    for flag, word in pairwise(words):
        if flag in ("-f", "-k", "--filename"):
            assert (ROOT / word).exists(), word
        if flag == "--set":
            value: object = yaml.safe_load((ROOT / "deploy/helm/tcp-sniffer-injector/values.yaml").read_text())
            for key in word.partition("=")[0].split("."):
                assert isinstance(value, dict)
                value = value[key]


@checker("go")
def go(words: list[str]) -> None:
    """The folder has a module."""
    assert words[1:3] == ["build", "-C"]
    assert (ROOT / words[3] / "go.mod").exists()


def script(words: list[str]) -> None:
    """A script of the repository: it can be executed, and knows the options."""
    assert os.access(ROOT / words[0], os.X_OK)
    text = (ROOT / words[0]).read_text()
    assert [option for option in options(words[1:]) if option not in text] == []


PROGRAMS = frozenset(CHECKS)
COMMANDS = [command for page in PAGES for command in page.commands(PROGRAMS)]


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_command_is_taken(command: Command) -> None:
    """Each program that a command calls takes the words that it is given."""
    for words in simple_commands(command.text):
        check(words)


@pytest.mark.parametrize(
    "wrong",
    [
        "tcp-sniffer --port 8080 --stdout",
        "make nothing",
        "make e2e ARGS=--stages",
        "python -m sniffer.nothing",
        "python -m tests.e2e --stages all",
        "python setup.py build_ext --nothing",
        "python -m pytest tests/nothing",
        "coverage run --nothing",
        "kubectl apply -k deploy/nothing",
        "helm install x --set nothing=1",
        "go build -C tests/nothing .",
        "deploy/kustomize/overlays/self-signed/generate.sh --nothing",
        "nothing --at all",
    ],
)
def test_a_wrong_command_is_found(wrong: str) -> None:
    """The check of each program fails on words that it would not take."""
    (words,) = simple_commands(wrong)
    with pytest.raises((AssertionError, KeyError, ValueError, ModuleNotFoundError)):
        check(words)


def test_commands_are_taken_apart() -> None:
    """Pipes, lists, redirections, assignments and comments."""
    assert simple_commands("A=1 a -b 'c | d' 2>&1 | e > f && g  # h\n") == [["a", "-b", "c | d"], ["e"], ["g"]]


# What the cluster's programs say of their options, where they are installed


def offline() -> list[tuple[str, ...]]:
    """(program, words of its command, options) of each call."""
    calls = {
        tuple(words)
        for command in COMMANDS
        for words in simple_commands(command.text)
        if words[0] in ("kubectl", "docker", "kind", "helm")
    }
    return sorted(calls)


@pytest.mark.parametrize("call", offline(), ids=" ".join)
def test_cluster_command_is_taken(call: tuple[str, ...]) -> None:
    """The program's own help names the command and its options."""
    program, *words = call
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    verbs, rest, with_value = [], iter(words), {"-n", "--namespace"}
    for word in rest:
        if word in with_value:
            next(rest)
        elif word.startswith("-"):
            break
        else:
            verbs.append(word)
    texts = [run(program, *verbs, "--help")]
    if program == "kubectl":
        texts.append(run(program, "options"))
    assert texts[0].returncode == 0, texts[0].stdout
    for option in options(words):
        assert any(re.search(rf"(?<![\w-]){option}(?![\w-])", text.stdout) for text in texts), option


# What runs


def sniffer_runs() -> list[tuple[Command, str]]:
    """Commands with the shell text to run: those that call tcp-sniffer and need nobody else's machine."""
    found = []
    for command in COMMANDS:
        text = command.text.replace("sudo ", "")
        first, *words = simple_commands(text)[0]
        if words[:1] in (["doctor"], ["mcp"]):  # tests/test_doctor.py and tests/outputs/test_mcp.py run them
            continue
        if first == "make":
            lines = recipe(words)
            ours = next((line[5:] for line in lines if line.startswith(f"exec {BIN}tcp-sniffer")), "true")
            text = text.replace(shlex.join([first, *words]), ours, 1)
        if any(words[0].removeprefix(BIN) == "tcp-sniffer" and len(words) > 1 for words in simple_commands(text)):
            found.append((command, text))
    return found


def is_live(text: str) -> bool:
    return not re.search(r"--(read|help|version|list-interfaces)|\bpcap\b| - ", text)


def is_view(text: str) -> bool:
    """Whether it names no output: then it is typed at a terminal."""
    return not re.search("--(stdout|output-url|har|help|version|list-interfaces)", text)


@pytest.fixture
def path(tmp_path: Path) -> dict[str, str]:
    """An environment in which `tcp-sniffer` is ours."""
    place = tmp_path / "bin"
    place.mkdir()
    for name, arguments in (("tcp-sniffer", "-m sniffer"), ("python", "")):
        (place / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
        (place / name).chmod(0o755)
    return {"PATH": f"{place}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}


@pytest.mark.parametrize(
    ("command", "text"), [pytest.param(c, t, id=str(c)) for c, t in sniffer_runs() if not is_live(t)]
)
def test_command_without_capture_runs(command: Command, text: str, path: dict[str, str], tmp_path: Path) -> None:
    """What reads a file, or none, ends with 0 beside a capture of that name, and writes what the page shows."""
    for words in simple_commands(text):
        if shutil.which(words[0].removeprefix(BIN), path=path["PATH"]) is None:
            pytest.skip(f"{words[0]} is not installed")
    files = re.findall(r"[\w./-]+\.pcap\w*", text)
    for file in files:
        place = tmp_path / file
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(DEMO, place)
    for file in re.findall(r"--read[ =]([\w./*-]+\.jsonl\.gz)", text):
        record = [sys.executable, "-m", "sniffer", "--ports", "8080", "--read", str(DEMO), "--stdout"]
        lines = subprocess.run(record, cwd=ROOT, capture_output=True, timeout=SECONDS, check=True).stdout
        (tmp_path / file.replace("*", "-1")).write_bytes(gzip.compress(lines))
    if re.search("tcp-sniffer .* - ", text):
        pytest.skip("reads what somebody else captures")
    if is_view(text):
        (words,) = simple_commands(text)
        with Terminal(*words[1:], cwd=tmp_path) as terminal:
            if "--ui" in words:  # it stays until it is stopped
                terminal.wait_for(lambda rows: any(row.startswith("live view: http://") for row in rows))
                terminal.type(INTERRUPT)
            assert terminal.end() == 0, terminal.rows
        return
    shell = ["bash", "-o", "pipefail", "-c", text.replace(BIN, "")]
    done = subprocess.run(shell, cwd=tmp_path, env=path, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    shown = list(command.output)
    if shown and shown[-1] == "...":
        shown.pop()
        assert done.stdout.splitlines()[: len(shown)] == shown
    elif shown:
        assert done.stdout.splitlines() == shown


@needs_capture
@pytest.mark.live
@pytest.mark.parametrize(("command", "text"), [pytest.param(c, t, id=str(c)) for c, t in sniffer_runs() if is_live(t)])
def test_command_that_captures_runs(command: Command, text: str) -> None:
    """It captures in a network namespace with an eth0, and ends with 0 when it is stopped."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("unshare and ip are not installed")
    words = simple_commands(text)[0]
    assert words[0].removeprefix(BIN) == "tcp-sniffer"
    up = "ip link set lo up; ip link add eth0 type veth peer name eth1; ip addr add 192.0.2.1/24 dev eth0"
    network = f'{up}; ip link set eth1 up; ip link set eth0 up; exec "$@"'
    prefix = ["unshare", "--net", "sh", "-c", network, "sh"]
    if is_view(text):
        with Terminal(*words[1:], prefix=prefix) as terminal:
            sign = "live view: http://" if "--ui" in words else "exchanges/s"
            terminal.wait_for(lambda rows: any(sign in row for row in rows))
            terminal.type(INTERRUPT)
            assert terminal.end() == 0, terminal.rows
        return
    with Daemon(*words[1:], prefix=prefix) as daemon:
        daemon.log("started")
        assert daemon.stop() == 0, daemon.stderr


@needs_capture
@pytest.mark.live
def test_an_installation_is_verified() -> None:
    """The last block of the overview: sniffer, server and client, in one network namespace, give two messages."""
    if shutil.which("unshare") is None or shutil.which("nsenter") is None or shutil.which("curl") is None:
        pytest.skip("unshare, nsenter and curl are not installed")
    (page,) = [page for page in PAGES if page.name == "docs/OVERVIEW.md"]
    sniffing, serving, asking = (simple_commands(command.text)[0] for command in page.commands(set())[-3:])
    with Daemon(*sniffing[2:], prefix=["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"]) as daemon:
        daemon.log("started")
        there = ["nsenter", "--target", str(daemon.process.pid), "--net"]
        with subprocess.Popen([*there, *serving], cwd=ROOT / "docs", stderr=subprocess.DEVNULL) as server:
            try:
                retry = ["--retry", "20", "--retry-connrefused", "--retry-delay", "1", "--output", os.devnull]
                subprocess.run([*there, *asking, *retry], timeout=SECONDS, check=True)
            finally:
                server.terminate()
        assert daemon.stop() == 0, daemon.stderr
    assert [message["direction"] for message in daemon.messages] == ["request", "response"]
    assert len({message["connectionId"] for message in daemon.messages}) == 1
