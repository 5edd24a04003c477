"""What the core finds and what tshark finds: the comparison itself, and both on captures.

With tshark installed the captures that the tests make are compared, and public ones where they lie beside the project.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from tests import captures, test_pcaps
from tests.agree import Disagreement, Seen, agreement, aligned, compared, disagreements, explanations, longest, main
from tests.conversations import Conversation, Exchange, Request, Response, sized
from tests.packets import pcap

with_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
DATA = Path(__file__).with_name("data")

ENDS = ("192.0.2.1 40000", "198.51.100.7 80")
OURS = [
    Seen(ENDS, "request", "GET /1", b"", 0),
    Seen(ENDS, "response", "200 OK", b"one", 1, 0),
    Seen(ENDS, "request", "GET /2", b"", 2),
    Seen(ENDS, "response", "200 OK", b"two", 3, 2),
]
THEIRS = [replace(seen, place=seen.place + 10, asked=None if seen.asked is None else seen.asked + 10) for seen in OURS]


def kinds(ours: list[Seen], theirs: list[Seen]) -> list[str]:
    """The kinds of what is not alike."""
    return [each.kind for each in compared(ours, theirs)]


def test_each_kind_is_found() -> None:
    """A message, a pair or a body that only one has, or has otherwise, is a disagreement of its kind."""
    assert kinds(OURS, THEIRS) == []
    assert kinds(OURS[1:], THEIRS) == ["request only tshark's"]
    assert kinds(OURS, THEIRS[1:]) == ["request only ours"]
    assert kinds(OURS[:3], THEIRS) == ["response only tshark's"]
    assert kinds(OURS, THEIRS[:3]) == ["response only ours"]
    assert kinds([*OURS[:3], replace(OURS[3], body=b"three")], THEIRS) == ["another body"]
    assert kinds([*OURS[:3], replace(OURS[3], asked=None)], THEIRS) == ["pair only tshark's"]
    assert kinds(OURS, [*THEIRS[:3], replace(THEIRS[3], asked=None)]) == ["pair only ours"]
    assert kinds(OURS, [*THEIRS[:3], replace(THEIRS[3], asked=10)]) == ["another pair"]
    assert kinds(OURS, [*THEIRS[:3], replace(THEIRS[3], line="404 OK")]) == [
        "response only ours", "response only tshark's",
    ]  # fmt: skip


def test_one_that_is_missing_moves_no_other() -> None:
    """Messages with the same start line are told apart by their bodies, so that one more or less moves no other."""
    same, mine, other = aligned(OURS[1::2], THEIRS[3:])
    assert (same, mine, other) == ([(OURS[3], THEIRS[3])], [OURS[1]], [])
    assert longest("abcde", "xbcye") == [(1, 1), (2, 2), (4, 4)]


@pytest.fixture
def disagreeing(monkeypatch: pytest.MonkeyPatch) -> Disagreement:
    """tshark, and with it two disagreements for every file."""
    found = Disagreement("another body", "somewhere")
    monkeypatch.setattr("tests.agree.disagreements", lambda path, ports=(): (1, [found, found]))
    return found


def test_an_explanation_holds_for_its_number(disagreeing: Disagreement) -> None:
    """An explanation holds for one file, one kind, and as many as it says: one more is a new one."""
    known = {"file": "a.pcap", "kind": "another body", "count": 2, "why": "it is so"}
    assert agreement(Path("b/a.pcap"), [known]).unexplained == []
    for other in ({"file": "b.pcap"}, {"kind": "another pair"}, {"count": 1}):
        assert agreement(Path("b/a.pcap"), [known | other]).unexplained == [disagreeing] * 2


def test_the_command_fails_where_something_is_unexplained(
    disagreeing: Disagreement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command lists what it finds, file by file, and is 1 where one is not explained; without tshark it says so."""
    (tmp_path / "one.pcap").touch()
    monkeypatch.setattr("sys.argv", ["agree", str(tmp_path)])
    monkeypatch.setattr("shutil.which", lambda name: name)
    assert main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"one.pcap: {disagreeing.kind}: {disagreeing.text}"] * 2
    assert lines[-1] == "2 another body, UNEXPLAINED"
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert main() == 2


def small(folder: Path) -> list[Path]:
    """Captures of the project's own; none is pipelined, since tshark pairs every answer with the last request then."""
    made = {
        "plain": captures.connection(captures.exchanges(5)),
        "bodies": captures.connection(
            [(b"POST /1 HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", captures.ok(bytes(range(256)) * 40))]
        ),
    }
    exchanges = tuple(
        Exchange(
            Request(path=f"/{number}", method="POST", body=b"x" * number, framing="length"),
            Response(body=Random(number).randbytes(3000), framing="chunked", chunks=(100, 16, 900)),
        )
        for number in range(4)
    )
    conversation = Conversation(exchanges=exchanges)
    made["chunked"] = conversation.packets(conversation.segments(sized(1460)))
    for name, packets in made.items():
        (folder / f"{name}.pcap").write_bytes(pcap(packets))
    return [DATA / "demo.pcap", *sorted(folder.glob("*.pcap"))]


@with_tshark
def test_own_captures(tmp_path: Path) -> None:
    """Where nothing was lost tshark finds the same messages, pairs and bodies."""
    for path in small(tmp_path):
        messages, found = disagreements(path)
        assert messages > 0
        assert found == [], path.name


@with_tshark
@test_pcaps.where_there
@test_pcaps.by_file
def test_public_captures(expected: dict[str, list[int]]) -> None:
    """In the public captures every disagreement is explained, and every explanation is needed."""
    path = test_pcaps.CAPTURES / str(expected["file"])
    result = agreement(path, explanations(), expected["ports"])
    assert result.unexplained == []
    assert set(result.reasons) == {each["kind"] for each in explanations() if each["file"] == path.name}
