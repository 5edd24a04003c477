"""tests.same: two builds laid side by side."""

from __future__ import annotations

import json
from pathlib import Path

from tests.same import ROOT, captures, differences, lines_of, without

DEMO = ROOT / "tests" / "data" / "demo.pcap"


def test_each_tree_runs_its_own_code(tmp_path: Path) -> None:
    """What a tree writes comes from the packages inside of it, whatever is installed; a failure is a line too."""
    (tmp_path / "sniffer").mkdir()
    source = "class CaptureError(Exception): ...\ndef create_sniffer(**options):\n    raise CaptureError\n"
    (tmp_path / "sniffer" / "__init__.py").write_text(source)
    assert lines_of(tmp_path, [(DEMO, {}), (DEMO, {})]) == [[b"error: CaptureError", b""]] * 2


def test_lines_are_those_of_the_capture() -> None:
    """Each capture gives its own lines, under its own options."""
    whole, cut = lines_of(ROOT, [(DEMO, {}), (DEMO, {"max_body_size": 0})])
    records = [json.loads(line) for line in whole if line]
    assert len(records) > 2
    assert len(cut) == len(whole)
    assert [json.loads(line).get("body") for line in cut if line] == [None] * len(records)


def test_every_difference_is_found() -> None:
    """A line that was changed, is missing or is too much differs; one with a field that is left out does not."""
    old = [b'{"a": 1}', b'{"a": 2}', b"text"]
    assert list(differences(old, [b'{"a": 1, "b": 3}', *old[1:]], ["b"])) == []
    assert list(differences(old, [b'{"a": 9}', *old[1:]], ["b"])) == [(old[0], b'{"a": 9}')]
    assert list(differences(old, old[:2], ["b"])) == [(b"text", b"")]
    assert list(differences(old[:2], old, ["b"])) == [(b"", b"text")]
    assert list(differences(old, old[1:], ["b"])) == [(old[0], b"")]


def test_without_leaves_what_is_no_record() -> None:
    """Only a record's fields are left out."""
    assert json.loads(without(b'{"a": 1, "b": 2}', ["b"])) == {"a": 1}
    assert without(b"text", ["b"]) == b"text"


def test_captures_are_found_in_folders(tmp_path: Path) -> None:
    """A folder gives its capture files at any depth; a file that is named is taken whatever its name."""
    (tmp_path / "in").mkdir()
    for name in ("a.pcap", "in/b.pcapng", "note.md", "odd"):
        (tmp_path / name).touch()
    found = captures([tmp_path, tmp_path / "odd"])
    assert found == [tmp_path / "a.pcap", tmp_path / "in/b.pcapng", tmp_path / "odd"]
