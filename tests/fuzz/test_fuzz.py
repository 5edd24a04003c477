"""The fuzz targets over the seeds, the corpus and the same mutations in every run; `make fuzz` looks for more."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec
import pytest

from sniffer.record.message import from_raw
from tests.core.http1 import reading
from tests.fuzz import targets
from tests.fuzz.__main__ import CORPUS, LONGEST, SKIPPED
from tests.fuzz.seeds import DICTIONARY, seeds
from tests.instrumented import ROOT
from tests.laws import Table

SEEDS = seeds()
MUTATIONS = {"packets": 200, "framing": 500, "conversation": 200, "http2": 300, "talk": 200, "file": 30, "bodies": 2000}

each_target = pytest.mark.parametrize("target", list(targets.TARGETS))


@pytest.fixture(autouse=True)
def _logging(own_logging: None) -> None:
    """The target `file` sets up logging as the daemon does."""


def corpus(target: str) -> Iterator[bytes]:
    """What found something once, and a sample of what the fuzzer kept."""
    for path in sorted((CORPUS / target).glob("*")):
        yield path.read_bytes()


def mutated(random: Random, inputs: list[bytes]) -> bytes:
    """An input with a few changes of the kinds that libFuzzer makes."""
    data = bytearray(random.choice(inputs))
    for _ in range(random.randint(1, 4)):
        at, size = random.randrange(len(data) + 1), random.choice((1, 1, 2, 4, 30, 200))
        other = random.choice(inputs)
        start = random.randrange(len(other) + 1)
        data[at : at + random.choice((0, size))] = random.choice(
            (b"", random.randbytes(size), random.choice(DICTIONARY), other[start : start + size], data[at : at + size])
        )
    return bytes(data)


def test_every_target_can_be_fuzzed() -> None:
    """Each target has seeds, mutations and a bound of its inputs."""
    assert set(targets.TARGETS) == set(SEEDS) == set(MUTATIONS) == set(LONGEST)


@each_target
def test_corpus(target: str) -> None:
    """Every seed, and every input of the corpus, passes."""
    inputs = [*SEEDS[target], *corpus(target)]
    assert len(inputs) > 5
    for data in inputs:
        targets.TARGETS[target](data)


@each_target
def test_mutations(target: str) -> None:
    """Inputs that are nearly valid pass, whatever is wrong with them."""
    random = Random(target)
    inputs = [*SEEDS[target], *corpus(target)]
    for _ in range(MUTATIONS[target]):
        targets.TARGETS[target](mutated(random, inputs))


def passes(target: str) -> bool:
    """Whether the seeds of a target pass."""
    try:
        for data in SEEDS[target]:
            targets.TARGETS[target](data)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("target", ["packets", "conversation", "file"])
def test_a_message_lost_is_noticed(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that gives one message fewer the second time fails the target."""
    original = targets.split
    monkeypatch.setattr(targets, "split", lambda *how, **more: original(*how, **more)[1:])
    direct = targets._direct
    monkeypatch.setattr(targets, "_direct", lambda path: (direct(path) or [b""])[1:])
    assert not passes(target)


def test_a_wrong_form_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that says something else than the JSON fails the target."""
    monkeypatch.setattr(targets, "from_raw", lambda raw: msgspec.structs.replace(from_raw(raw), exchange=7))
    assert not passes("conversation")


def test_another_parser_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fast path and an h11 that do not agree fail the target."""
    monkeypatch.setattr(reading, "parse_by_h11", lambda _: [])
    assert not passes("framing")


def test_an_invented_message_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message whose start line is in neither stream fails the target."""
    original = targets._assert_sent
    monkeypatch.setattr(targets, "_assert_sent", lambda message, _: original(message, (b"nothing", b"at all")))
    assert not passes("conversation")


def test_a_broken_law_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A counter that is one off fails the target."""
    original = Table.check
    monkeypatch.setattr(
        Table, "check", lambda self, counters: original(self, {**counters, "bytes_used": counters["bytes_used"] + 1})
    )
    assert not passes("packets")


def test_without_the_tools_fuzzing_says_so(tmp_path: Path) -> None:
    """Where clang is missing, the command says what is, and is no failure."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz"],
        cwd=ROOT, env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (
        SKIPPED,
        "fuzzing skipped: clang (and its compiler-rt) is not installed\n",
    )
