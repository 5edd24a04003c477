"""The daemon reads what other programs capture: standard input, pipes, several files."""

from __future__ import annotations

import gzip
import json
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
