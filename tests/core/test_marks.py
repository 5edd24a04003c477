"""base/marks: each reason for `incomplete` and each anomaly is declared once, and everything else is made from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sniffer.ledger import CORE
from sniffer.record.schema import json_schema
from sniffer_core.base import marks
from sniffer_core.core import COUNTERS

ROOT = Path(__file__).parents[2]


def test_the_enums_are_up_to_date() -> None:
    """marks.pxd, which the core is compiled with, is what marks.py yields."""
    assert (ROOT / "sniffer_core/base/marks.pxd").read_text() == "\n".join(marks.declarations()) + "\n"


def test_one_entry_is_enough() -> None:
    """A word that is added to a table has an enumerator, the next number, and is counted among the others."""
    before = list(marks.declarations())
    after = list(marks.declarations(marks.INCOMPLETE | {"other": "x"}, marks.ANOMALIES | {"new-one": "x"}))
    assert [line.strip() for line in after if line not in before] == [
        "INCOMPLETE_OTHER_ = 9",
        "BIT_NEW_ONE = 1 << 23",
        "INCOMPLETE_COUNT = 9",
        "ANOMALY_COUNT = 24",
    ]


def test_there_is_a_bit_for_each_anomaly() -> None:
    """A message has 32 bits for anomalies: one more is an error."""
    most = {f"a{number}": "x" for number in range(marks.MOST)}
    assert list(marks.declarations(anomalies=most))
    with pytest.raises(ValueError, match="32"):
        list(marks.declarations(anomalies=most | {"more": "x"}))


def test_counters() -> None:
    """Each word has its counter, in the order of the tables, and the counter has its meaning."""
    for prefix, words in (("incomplete_", marks.INCOMPLETE), ("anomaly_", marks.ANOMALIES)):
        expected = [marks.counter(prefix, word) for word in words]
        assert [name for name in COUNTERS if name.startswith(prefix)] == expected
        declared = [counter for counter in CORE if counter.name.startswith(prefix)]
        assert [counter.name for counter in declared] == expected
        for counter, meaning in zip(declared, words.values(), strict=True):
            assert counter.meaning.endswith(marks.brief(meaning))


def test_the_schema() -> None:
    """The record's schema has the reasons for `incomplete`."""
    assert sorted(json_schema()["properties"]["incomplete"]["enum"]) == sorted(marks.INCOMPLETE)


def test_the_tables_of_the_documents() -> None:
    """docs/RECORD.md has both tables as they are declared: `python -m sniffer_core.base.marks tables` writes them."""
    text = (ROOT / "docs/RECORD.md").read_text()
    for table in marks.tables():
        assert "\n".join(table) in text


def test_every_mark_is_used() -> None:
    """Each enumerator is used in the core, and each bit at the place that finds the anomaly."""
    used = "".join(
        path.read_text()
        for path in (ROOT / "sniffer_core").rglob("*.p[yx][xd]")
        if path.stem not in {"marks", "testing"}
    )
    for prefix, words, end in (("INCOMPLETE_", marks.INCOMPLETE, "_"), ("BIT_", marks.ANOMALIES, "")):
        for word in words:
            assert re.search(rf"\b{marks.constant(prefix, word)}{end}\b", used), word
