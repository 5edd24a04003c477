"""The daemon reads what other programs capture: standard input, pipes, several files."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.captures import connection, get, ok, write
from tests.daemon import DEMO, ROOT, SECONDS, Daemon, exchanges, needs_capture, web_server

SNIFFER = (sys.executable, "-m", "sniffer", "--ports", "8080", "--stdout")


def run(*arguments: str, stdin: bytes | int | None = None) -> subprocess.CompletedProcess[bytes]:
    """The daemon's answer; `stdin` comes through a pipe."""
    given: dict[str, Any] = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
    return subprocess.run([*SNIFFER, *arguments], cwd=ROOT, capture_output=True, timeout=SECONDS, check=False, **given)


def paths(stdout: bytes) -> list[str]:
    """The paths of the requests."""
    messages = [json.loads(line) for line in stdout.splitlines()]
    return [message["path"] for message in messages if message["direction"] == "request"]


def test_standard_input() -> None:
    """`--read -` reads a capture from a pipe, and from a file that standard input is, as it reads the file by name."""
    by_name = run("--read", str(DEMO))
    assert len(by_name.stdout.splitlines()) == 14
    assert run("--read", "-", stdin=DEMO.read_bytes()).stdout == by_name.stdout
    with DEMO.open("rb") as file:
        assert run("--read", "-", stdin=file.fileno()).stdout == by_name.stdout


@pytest.mark.skipif(shutil.which("editcap") is None, reason="editcap is not installed")
@pytest.mark.parametrize("form", ["pcapng", "nsecpcap", "pcap"])
def test_forms_of_captures_on_standard_input(form: str) -> None:
    """pcap with micro- and nanoseconds and pcapng are read from a pipe."""
    command = ["editcap", "-F", form, str(DEMO), "-"]
    made = subprocess.run(command, capture_output=True, check=True, timeout=SECONDS)
    done = run("--read", "-", stdin=made.stdout)
    assert done.returncode == 0
    assert done.stdout == run("--read", str(DEMO)).stdout


@pytest.mark.parametrize("data", [b"", b"\xd4\xc3\xb2\xa1", b"no capture at all, but a text"])
def test_no_capture_on_standard_input(data: bytes) -> None:
    """What is no capture is one clear error, and 2."""
    done = run("--read", "-", stdin=data)
    assert done.returncode == 2
    (line,) = [json.loads(line)["message"] for line in done.stderr.splitlines()]
    assert line.startswith("- cannot be read: ")


@needs_capture
@pytest.mark.live
@pytest.mark.parametrize("program", ["tcpdump", "dumpcap"])
def test_a_live_capture_through_a_pipe(program: str) -> None:
    """`tcpdump -w - | tcp-sniffer --read -` shows messages as they happen; the end of the one ends the other with 0."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    with web_server() as port:
        options = {"tcpdump": ["-U", "-s0"], "dumpcap": ["-q", "-f"]}[program]
        capture = [program, "-i", "lo", "-w", "-", *options, f"tcp port {port}"]
        with (
            subprocess.Popen(capture, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as source,
            Daemon("--ports", str(port), "--read", "-", "--stdout", stdin=source.stdout) as daemon,
        ):
            daemon.log("started")
            while len(daemon.messages) < 2:
                exchanges(port, 1)
            source.send_signal(signal.SIGINT)
            assert daemon.end() == 0


PACKERS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "zst": zstandard.compress}


@pytest.mark.parametrize("ending", PACKERS)
def test_compressed_captures(ending: str, tmp_path: Path) -> None:
    """gzip and zstd are read as they are, by name and from standard input, beside others, whatever their names."""
    plain = run("--read", str(DEMO))
    data = PACKERS[ending](DEMO.read_bytes())
    packed = tmp_path / f"demo.pcap.{ending}"
    packed.write_bytes(data)
    unnamed = tmp_path / "unnamed"
    unnamed.write_bytes(data)
    for done in (run(str(packed)), run("-", stdin=data), run(str(unnamed))):
        assert (done.returncode, done.stdout) == (0, plain.stdout)
    assert len(run(str(packed), str(DEMO)).stdout.splitlines()) == 28


@pytest.mark.parametrize("ending", PACKERS)
def test_a_broken_archive_is_one_clear_error(ending: str, tmp_path: Path) -> None:
    """What could be unpacked is delivered; then one error says what is wrong, and the exit code is 2."""
    data = DEMO.read_bytes() + 50 * DEMO.read_bytes()[24:]
    packed = PACKERS[ending](data)
    cut = tmp_path / f"cut.pcap.{ending}"
    for size, where in ((len(packed) - 6, "read to its end: the"), (6, "read: the")):
        cut.write_bytes(packed[:size])
        done = run(str(cut))
        errors = [json.loads(line) for line in done.stderr.splitlines() if json.loads(line)["level"] == "error"]
        assert (done.returncode, len(errors)) == (2, 1)
        text = errors[0].get("error", errors[0]["message"])
        assert f"{cut} cannot be {where}" in text
        assert "data ends early" in text
        assert (len(done.stdout.splitlines()) >= 14) is (size > 6)


@pytest.mark.parametrize("count", [1, 3, 7, 100])
def test_so_many_exchanges(count: int) -> None:
    """`-c N` ends after N responses with 0, without what stands behind; what was left out is counted."""
    done = run("-c", str(count), str(DEMO))
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    answers = [message for message in messages if message["direction"] == "response"]
    assert (done.returncode, len(answers), messages[-1]) == (0, min(count, 7), answers[-1])
    assert run("--read", str(DEMO)).stdout.startswith(done.stdout)
    last = json.loads(done.stderr.splitlines()[-1])
    assert last["ledger"].get("messages_excluded_behind", 0) == last["ledger"]["handoff_taken"] - len(messages)
    assert not any(json.loads(line)["level"] == "error" for line in done.stderr.splitlines())


@needs_capture
@pytest.mark.live
def test_so_many_live_exchanges() -> None:
    """Live as well: the daemon ends by itself once it has them."""
    with web_server() as port, Daemon("-p", str(port), "-i", "lo", "-c", "2", "--stdout") as daemon:
        daemon.log("started")
        exchanges(port, 5)
        assert daemon.end() == 0
        assert [message["direction"] for message in daemon.messages].count("response") == 2


def test_several_files(tmp_path: Path) -> None:
    """Files are read in turn, standard input among them; one that is bad is one error and 2, after all the others."""
    one = write(tmp_path / "one.pcap", connection([(get("/one"), ok())]))
    two = write(tmp_path / "two.pcap", connection([(get("/two"), ok())]))
    done = run("--read", one, "-", "--read", two, stdin=DEMO.read_bytes())
    assert done.returncode == 0
    assert paths(done.stdout) == ["/one", *paths(run("--read", str(DEMO)).stdout), "/two"]
    bad = tmp_path / "bad.pcap"
    bad.write_bytes(b"no capture, either")
    done = run("--read", one, str(bad), two)
    assert done.returncode == 2
    assert paths(done.stdout) == ["/one", "/two"]
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    (error,) = [line for line in lines if line["level"] == "error"]
    assert str(bad) in error["error"]
    assert lines[-1]["undelivered"] == 0
    assert lines[0]["files"] == [one, str(bad), two]


READ_BACK = (sys.executable, "-m", "sniffer", "--stdout")
"""The daemon without ports."""


def read_back(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*READ_BACK, *arguments], cwd=ROOT, input=stdin, capture_output=True, timeout=SECONDS, check=False
    )


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_files_that_were_written_are_read_back(ending: str, tmp_path: Path) -> None:
    """What OUTPUT_FILE wrote of a capture gives the same lines again, without ports, by name and from a pipe."""
    done = run("--read", str(DEMO), "--output-file", str(tmp_path / f"out.{ending}"))
    (written,) = tmp_path.iterdir()
    hidden = written.rename(tmp_path / "of_any_name")
    again = read_back("--read", str(hidden))
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert read_back("--read", "-", stdin=hidden.read_bytes()).stdout == done.stdout
    assert read_back("--read", "-", stdin=done.stdout).stdout == done.stdout


def test_har_is_read_back(tmp_path: Path) -> None:
    """HAR gives the fields that it carries, and HAR again."""
    assert run("--read", str(DEMO), "--har", str(tmp_path / "one.har")).returncode == 0
    again = read_back("--read", str(tmp_path / "one.har"), "--har", str(tmp_path / "two.har"))
    assert again.returncode == 0
    assert (tmp_path / "two.har").read_bytes() == (tmp_path / "one.har").read_bytes()
    lines = run("--read", str(DEMO)).stdout.splitlines()
    assert {line["connectionId"] for line in map(json.loads, again.stdout.splitlines())} == {
        line["connectionId"] for line in map(json.loads, lines)
    }
    assert sorted(again.stdout.splitlines()) == sorted(lines)


def test_filters_and_redaction_of_now(tmp_path: Path) -> None:
    """What is read back is left out and redacted by the options of now; the exit code is that of a capture."""
    conversation = connection([(get("/a?k=s3cret"), ok()), (get("/probe", User_Agent="kube"), ok()), (get("/b"), ok())])
    clear = run("--read", write(tmp_path / "c.pcap", conversation)).stdout
    assert clear.count(b"s3cret") == 2
    options = ("--redact-query", "k", "--exclude-user-agents", "kube*", "--exclude-paths", "/b")
    done = read_back("--read", "-", *options, stdin=clear)
    assert done.returncode == 0
    assert [json.loads(line)["path"] for line in done.stdout.splitlines()] == ["/a?k=[REDACTED]"] * 2
    assert json.loads(done.stderr.splitlines()[-1])["ledger"]["messages_excluded_user_agent"] == 2


def test_records_that_are_cut_or_none(tmp_path: Path) -> None:
    """A cut last line and lines that are none are counted and said once; a file of nothing else is one error, and 2."""
    lines = run("--read", str(DEMO)).stdout.splitlines(keepends=True)
    done = read_back("--read", "-", stdin=b"".join([lines[0], b'{"level":"info"}\n', lines[1][:-30]]))
    assert (done.returncode, done.stdout) == (0, lines[0])
    logged = [json.loads(line) for line in done.stderr.splitlines()]
    (warning,) = [line for line in logged if line["level"] == "warning"]
    assert warning["skipped"] == {"cut short at the end of the file": 1, "no record": 1}
    assert logged[-1]["ledger"]["records_skipped_cut"] == 1
    bad = tmp_path / "bad"
    bad.write_bytes(b'{"schema":2}\n' * 3)
    good = tmp_path / "good"
    good.write_bytes(lines[0])
    done = read_back("--read", str(bad), str(good), str(DEMO), "--ports", "8080")
    assert (done.returncode, done.stdout) == (2, b"".join([lines[0], *lines]))
    (error,) = [line["error"] for line in map(json.loads, done.stderr.splitlines()) if line["level"] == "error"]
    assert (
        error
        == f"{bad} cannot be read: none of its lines or entries is a record that can be (3 of another schema than 1)"
    )


def test_captures_need_ports(tmp_path: Path) -> None:
    """A capture without ports is a configuration error where it can be told before it is opened, and else one error."""
    assert read_back("--read", str(DEMO)).returncode == 1
    missing = read_back("--read", str(tmp_path / "missing"))
    assert missing.returncode == 2
    assert b"missing cannot be read: No such file or directory" in missing.stderr
    done = read_back("--read", "-", stdin=DEMO.read_bytes())
    assert done.returncode == 2
    assert b"only records can be read without ports" in done.stderr


def test_records_from_a_pipe_come_at_once() -> None:
    """A line is shown while its writer is still there, and the stop does not wait for more."""
    line = run("--read", str(DEMO)).stdout.splitlines(keepends=True)[0]
    reader, writer = os.pipe()
    with (
        os.fdopen(reader, "rb") as source,
        os.fdopen(writer, "wb", buffering=0) as sink,
        Daemon("--read", "-", "--stdout", stdin=source) as daemon,
    ):
        sink.write(line)
        daemon.wait_for(lambda: daemon.messages)
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.end() == 0
