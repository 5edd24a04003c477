"""tests/audit.py: what `make audit` makes of what the advisory database says."""

from __future__ import annotations

from typing import Any

import pytest

from tests.audit import judge

GOOD: dict[str, Any] = {"name": "a", "version": "1", "vulns": []}
BAD: dict[str, Any] = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1", "3"]}]}
UNKNOWN: dict[str, Any] = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("dependencies", "code", "said"),
    [
        ([GOOD, GOOD], 0, ["2 dependencies, nothing is known against any of them"]),
        ([GOOD, BAD], 1, ["b 2: PYSEC-1, mended in 2.1, 3"]),
        ([GOOD, BAD, UNKNOWN], 1, ["b 2: PYSEC-1, mended in 2.1, 3", "not audited: c: not found"]),
        ([GOOD, UNKNOWN], 2, ["not audited: c: not found"]),
        (
            [UNKNOWN, UNKNOWN],
            2,
            ["not audited: the advisory database knows none of 2 dependencies: it cannot be reached here"],
        ),
    ],
)
def test_only_an_answer_for_each_passes(dependencies: list[dict[str, Any]], code: int, said: list[str]) -> None:
    """0 is for an answer about every dependency, 1 for an advisory, 2 for whatever was not answered, and says which."""
    assert judge({"dependencies": dependencies}, "") == (code, said)


def test_no_report_is_no_answer() -> None:
    """Where the tool made no report, that is said with its own words, and 2."""
    code, (said,) = judge(None, "ConnectionError: no route\n")
    assert code == 2
    assert said.startswith("not audited: ")
    assert "no route" in said
