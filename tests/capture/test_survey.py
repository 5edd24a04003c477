"""What capture files hold, whatever the port."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sniffer.capture import survey as module
from sniffer.capture.survey import Survey, survey
from tests.captures import connection, exchanges, write
from tests.daemon import DEMO, ROOT, SECONDS
from tests.packets import Packet

TLS = bytes.fromhex("160301020001000001fc0303") + bytes(600)


def busy(*ports: int, messages: int = 1) -> list[Packet]:
    """A connection to each of these ports, each with so many exchanges."""
    return [
        packet
        for number, port in enumerate(ports)
        for packet in connection(exchanges(messages), server_port=port, client_port=40_000 + number)
    ]


def found(*paths: str) -> Survey:
    """What these files have; they can be read."""
    answer = survey(paths)
    assert answer is not None
    return answer


def test_ports_are_those_of_servers(tmp_path: Path) -> None:
    """Messages are counted by the server's port, other protocols by connections, over all files."""
    one = write(tmp_path / "one.pcap", busy(9000, 9001, messages=3))
    two = write(tmp_path / "two.pcap", [*busy(9000), *connection([(TLS, TLS)], server_port=443, client_port=50_000)])
    answer = found(one, two)
    assert (dict(answer.messages), answer.whole) == ({9000: 8, 9001: 6}, True)
    assert {kind: dict(ports) for kind, ports in answer.others.items() if ports} == {"tls": {443: 1}}
    assert answer.sentence([80], seen=False, files=2) == (
        "no packet of port 80; the files have HTTP on 9000 (8 messages), 9001 (6 messages), TLS on 443 (1 connection)"
    )


def test_sentence_is_bounded(tmp_path: Path) -> None:
    """Of many ports the busiest are named, and how many more there are; of many that were asked for, a few."""
    answer = found(write(tmp_path / "f.pcap", busy(*range(9000, 9020))))
    text = answer.sentence(range(1, 1000), seen=True)
    assert text.startswith("no HTTP message of port 1, 2, 3, 4, 5, ...; the file has HTTP on 9000 (2 messages), ")
    assert text.endswith(" and 15 more")
    assert len(text) < 300


def test_reading_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the most packets nothing is read, and the sentence says so."""
    monkeypatch.setattr(module, "MOST_PACKETS", 0)
    answer = found(str(DEMO))
    assert answer == Survey({}, {kind: {} for kind in module.KINDS}, False)
    assert "the first 128 MiB or 0 packets have no TCP connection" in answer.sentence([80], seen=False)


def test_what_cannot_be_read_again(tmp_path: Path) -> None:
    """A pipe is not touched; a file that is no capture adds nothing."""
    os.mkfifo(tmp_path / "pipe")
    assert survey([str(DEMO), str(tmp_path / "pipe")]) is None
    assert survey(["-"]) is None
    (tmp_path / "bad").write_bytes(b"no capture")
    assert dict(found(str(tmp_path / "bad"), str(DEMO)).messages) == {8080: 14}


@pytest.mark.parametrize(
    ("port", "says"), [("81", ["no packet of port 81; the file has HTTP on 8080 (14 messages)"]), ("8080", [])]
)
def test_the_daemon_says_it(port: str, says: list[str]) -> None:
    """A file without a message on the ports is warned about, before the last line; the exit code stays 0."""
    command = [sys.executable, "-m", "sniffer", "--ports", port, "--read", str(DEMO), "--stdout"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=SECONDS, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["message"] for line in lines if line["level"] == "warning"] == says
    assert lines[-1]["message"] == "stopped"
