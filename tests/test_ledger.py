"""The ledger: declared once, balanced, documented."""

from __future__ import annotations

import re
from collections import Counter as Count
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from sniffer import ledger
from sniffer.delivery.account import LaneCounters
from sniffer.ledger import CORE, DECLARED, LANE, LANE_LAWS, LAWS, RENAMED_GAUGES, Ledger, broken_laws
from sniffer_core.core import COUNTERS, FlowTable

ROOT = Path(__file__).parent.parent


def balanced() -> dict[str, Any]:
    """A snapshot in which every counter that a law names is greater than 0, and every law holds."""
    snapshot: dict[str, Any] = dict.fromkeys(DECLARED, 1)
    for law in LAWS:
        right = sum(snapshot[name] for name in snapshot if any(fnmatchcase(name, glob) for glob in law.right))
        snapshot[law.left[0]] = right - sum(snapshot[name] for name in law.left[1:])
    lane = dict.fromkeys((counter.name for counter in LANE), 1)
    lane["offered"] = sum(lane.values()) - 4  # without missed, offered and recovered on the right, once on the left
    lane["missed"] = 100
    # Laws share counters: settle them from the lanes upwards.
    snapshot["messages_offered"] = lane["offered"] + lane["missed"]
    snapshot["handoff_taken"] = snapshot["messages_offered"] + 8
    snapshot["handoff_accepted"] = snapshot["handoff_taken"] + 2
    snapshot["messages_request"] = snapshot["handoff_accepted"] + 1
    snapshot["kernel_received"] = snapshot["packets_seen"] + 1
    return {**snapshot, "lanes": {"one": lane}}


def test_a_balanced_snapshot_breaks_no_law() -> None:
    """The laws hold where every thing is in exactly one counter."""
    assert broken_laws(balanced()) == []


NAMED = sorted(
    {name for law in LAWS for name in DECLARED if any(fnmatchcase(name, g) for g in (*law.left, *law.right))}
)


@pytest.mark.parametrize("name", NAMED)
def test_each_counter_of_a_law_is_missed(name: str) -> None:
    """One increment lost, or one too many, of any counter that a law names breaks a law."""
    for change in (1, -1):
        snapshot = balanced()
        snapshot[name] += change
        tolerated = name.startswith("kernel_") and change == (1 if name == "kernel_received" else -1)
        assert bool(broken_laws(snapshot)) is not tolerated, change


@pytest.mark.parametrize("name", [counter.name for counter in LANE])
def test_each_counter_of_a_lane_is_missed(name: str) -> None:
    """The same for the counters of a lane."""
    snapshot = balanced()
    snapshot["lanes"]["one"][name] += 1
    (sentence, *_) = broken_laws(snapshot)
    assert "one" in sentence


def test_a_broken_law_names_its_terms() -> None:
    """The sentence about a broken law shows the terms with their values."""
    snapshot = balanced()
    snapshot["handoff_waiting"] = 41
    (sentence,) = broken_laws(snapshot)
    assert sentence.startswith("law hand-off: handoff_accepted ")
    assert "handoff_waiting 41" in sentence


def test_the_kernels_law_is_for_live_captures() -> None:
    """A file has no kernel counters, and so no law about them."""
    snapshot = balanced()
    snapshot |= {"kernel_received": 0, "kernel_dropped": 0}
    assert broken_laws(snapshot) == []


def test_names_of_the_core_are_those_that_it_counts() -> None:
    """Every counter and gauge of the core is declared, and nothing else is declared for it."""
    declared = {counter.name: counter.gauge for counter in CORE}
    table = FlowTable(linktype=1, ports=[80])
    gauges = {RENAMED_GAUGES.get(name, name) for name in table.gauges()}
    assert {name for name, gauge in declared.items() if not gauge} == set(COUNTERS)
    assert {name for name, gauge in declared.items() if gauge} == gauges


def test_names_of_a_lane_are_those_that_it_counts() -> None:
    """Every counter of a lane is declared."""
    assert {counter.name for counter in LANE} - {"missed"} == set(LaneCounters.__slots__)


def test_no_counter_is_declared_twice() -> None:
    """One name, one meaning."""
    names = Count(c.name for c in (*ledger.KERNEL, *CORE, *ledger.HANDOFF, *ledger.PUMP))
    assert [name for name, count in names.items() if count > 1] == []


def test_laws_name_declared_counters_only() -> None:
    """A law without a counter would hold for ever."""
    for law in LAWS:
        for glob in (*law.left, *law.right):
            assert any(fnmatchcase(name, glob) for name in DECLARED), (law.name, glob)
    for law in LANE_LAWS:
        for glob in (*law.left, *law.right):
            assert any(fnmatchcase(counter.name, glob) for counter in LANE), glob


def test_a_new_ledger_is_all_zeros_and_balanced() -> None:
    """A snapshot has every declared counter, from the start."""
    book = Ledger()
    assert book.snapshot() == {**dict.fromkeys(DECLARED, 0), "lanes": {}}
    assert book.check() == []


def test_only_declared_counters_are_counted() -> None:
    """A name that is not declared is an error of the program."""
    with pytest.raises(KeyError):
        Ledger().add("messages_invented")


def test_lanes_of_the_same_name_are_told_apart() -> None:
    """Two iterators are two lanes, and what was offered before a lane was there is its `missed`."""
    book = Ledger()
    counters = {"offered": 0}
    assert book.lane("iterator", lambda: counters) == "iterator"
    book.add("messages_offered", 5)
    counters["offered"] = 5
    assert book.lane("iterator", dict) == "iterator-2"
    lanes = book.snapshot()["lanes"]
    assert (lanes["iterator"]["missed"], lanes["iterator-2"]["missed"]) == (0, 5)
    assert book.check()[0].startswith("law pump: ")


def test_the_page_of_counters_is_up_to_date() -> None:
    """docs/internals/COUNTERS.md is generated: `python -m sniffer.ledger > docs/internals/COUNTERS.md`."""
    assert (ROOT / "docs" / "internals" / "COUNTERS.md").read_text() == ledger.document()


def test_meanings_say_something() -> None:
    """Each counter is explained, in a form that a table can hold."""
    for counter in (*DECLARED.values(), *LANE):
        assert re.fullmatch(r"[a-z][a-z0-9_]*", counter.name)
        assert len(counter.meaning) > 4
        assert "|" not in counter.meaning
