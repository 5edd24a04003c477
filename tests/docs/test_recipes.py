"""The queries of docs/RECIPES.md answer what they say, on files that the daemon has written."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.daemon import DEMO, ROOT, Daemon
from tests.docs.pages import PAGES

(PAGE,) = (page for page in PAGES if page.path == ROOT / "docs" / "RECIPES.md")
SHELL = [block.text for block in PAGE.blocks("sh")]
SQL = [block.text for block in PAGE.blocks("sql")]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A folder with the files of a run, and the records in them."""
    folder = tmp_path_factory.mktemp("kept")
    environ = {"OUTPUT_FILE": str(folder / "messages.jsonl.gz")}
    with Daemon("--ports", "8080", "--read", str(DEMO), "--stdout", environ=environ) as daemon:
        assert daemon.end() == 0
    failed = {**daemon.messages[1], "exchange": 100, "statusCode": 503, "durationMs": 99.5}
    alone = {**daemon.messages[0], "exchange": 101, "path": "/alone"}
    with gzip.open(folder / "messages-0.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(one) + "\n" for one in (failed, alone))
    return folder, [failed, alone, *daemon.messages]


def shell(number: int, folder: Path, **replaced: str) -> list[str]:
    """The lines that a command of the page prints."""
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    command = SHELL[number]
    for old, new in replaced.items():
        assert old in command
        command = command.replace(old, new)
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert not done.stderr
    return done.stdout.splitlines()


def sql(number: int, folder: Path) -> list[tuple[Any, ...]]:
    """The rows of a query of the page."""
    return duckdb.connect().execute(SQL[number].replace("messages*", f"{folder}/messages*")).fetchall()


def test_failed_requests(kept: tuple[Path, list[dict[str, Any]]]) -> None:
    """Every answer from 500 on has a line, with the host."""
    folder, messages = kept
    failed = [one for one in messages if one.get("statusCode", 0) >= 500]
    assert failed
    assert [line.split("\t")[1:3] for line in shell(0, folder)] == [
        [str(one["statusCode"]), one.get("authority", "")] for one in failed
    ]
    answers = Counter(one.get("authority") for one in messages if one["direction"] == "response")
    bad = Counter(one.get("authority") for one in failed)
    assert {row[0]: row[1:] for row in sql(1, folder)} == {host: (answers[host], bad[host]) for host in answers}


def test_slowest(kept: tuple[Path, list[dict[str, Any]]]) -> None:
    """The longest durations come first."""
    folder, messages = kept
    slow = sorted((one["durationMs"] for one in messages if "durationMs" in one), reverse=True)
    assert [float(line.split("\t")[0]) for line in shell(1, folder)] == slow[:5]
    rows = sql(0, folder)
    assert max(row[4] for row in rows) == pytest.approx(slow[0], abs=0.06)
    assert [row[3] for row in rows] == sorted((row[3] for row in rows), reverse=True)


def test_trace(kept: tuple[Path, list[dict[str, Any]]]) -> None:
    """The messages of the trace, and no others; none where nobody has sent its id."""
    folder, messages = kept
    traces = Counter(one["traceId"] for one in messages if "traceId" in one)
    for trace, count in traces.items():
        assert len(shell(2, folder, **{"0af7651916cd43dd8448eb211c80319c": trace})) == count
    assert shell(2, folder, **{"0af7651916cd43dd8448eb211c80319c": "0" * 31 + "1"}) == []


def test_curl(kept: tuple[Path, list[dict[str, Any]]]) -> None:
    """The command names the method and the URL of the first request, and a shell can read it."""
    folder, messages = kept
    words = shlex.split("\n".join(shell(3, folder)))
    first = next(one for one in messages if one["direction"] == "request" and one["exchange"] == 0)
    assert words[:3] == ["curl", "-X", first["method"]]
    assert words[-1] == f"http://{first['authority']}{first['path']}"


def test_unanswered_and_distinct(kept: tuple[Path, list[dict[str, Any]]]) -> None:
    """Requests without a response are found; each message is found once, though its file is there twice."""
    folder, messages = kept
    answered = {(one["connectionId"], one["exchange"]) for one in messages if one["direction"] == "response"}
    alone = [
        one
        for one in messages
        if one["direction"] == "request" and (one["connectionId"], one["exchange"]) not in answered
    ]
    assert sorted(row[3] for row in sql(2, folder)) == sorted(one["path"] for one in alone)
    (file,) = folder.glob("messages-2*")
    twice = folder / "messages-twice.jsonl.gz"
    shutil.copy(file, twice)
    try:
        assert len(sql(3, folder)) == len(messages)
    finally:
        twice.unlink()


def test_collector_takes_its_configuration(tmp_path: Path) -> None:
    """A real OpenTelemetry Collector finds no fault with the configuration of the page."""
    program = os.environ.get("TCP_SNIFFER_OTELCOL") or shutil.which("otelcol")
    if program is None:
        pytest.skip("no OpenTelemetry Collector: TCP_SNIFFER_OTELCOL names none, and otelcol is not on the path")
    (block,) = PAGE.blocks("yaml")
    (tmp_path / "config.yaml").write_text(block.text)
    done = subprocess.run(
        [program, "validate", "--config", "config.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
