"""The laws of the core's ledger notice when an increment goes missing, or comes once too often."""

import pytest

from sniffer_core.core import COUNTERS
from tests.core.test_flow_memory import traffic
from tests.laws import Table

TOLD_APART = "says which kind of bytes, packets or flows it was, of those that a law counts already"
ALONE = "nothing else in the ledger happens exactly as often"

OUTSIDE = {
    "datagrams_given_up": ALONE,
    "stamps_ahead": ALONE,
    "segments_other_port": TOLD_APART,
    "segments_sampled_out": TOLD_APART,
    "segments_own": TOLD_APART,
    "segments_no_flow": TOLD_APART,
    "segments_retransmitted": TOLD_APART,
    "segments_out_of_order": TOLD_APART,
    "segments_snapped": TOLD_APART,
    "overlap_conflicts": ALONE,
    "gaps": ALONE,
    "gap_bytes": ALONE,
    "ends_ignored": ALONE,
    "holds_evicted": ALONE,
    "bodies_evicted": ALONE,
    "flows_sampled_out": TOLD_APART,
    "flows_own": TOLD_APART,
    "flows_tls": TOLD_APART,
    "flows_http2": TOLD_APART,
    "flows_http2_read": TOLD_APART,
    "flows_other_protocol": TOLD_APART,
    "flows_undecided": TOLD_APART,
    "flows_tunnel": TOLD_APART,
    "flows_other_server": TOLD_APART,
    "messages_tentative_dropped": ALONE,
    "responses_early": ALONE,
    "flows_proxied": TOLD_APART,
    "requests_unanswered": ALONE,
    "responses_informational": ALONE,
    "informational_orphaned": ALONE,
    "responses_taken_bodyless": ALONE,
    "heads_fast": ALONE,
    "heads_h11": ALONE,
    "heads_refused": ALONE,
    "heads_cut": ALONE,
    "start_lines_malformed": ALONE,
    "messages_long": ALONE,
    "events_dropped": ALONE,
}
"""Counters that no law covers, and why."""


@pytest.mark.parametrize("by", [1, -1])
def test_every_increment(by: int) -> None:
    """One increment too many or too few in any counter that a law covers breaks that law; the others are known."""
    table = Table()
    table.run(traffic())
    counters = table.core.counters()
    table.check(counters)
    for name in COUNTERS:
        changed = counters | {name: counters[name] + by}
        if name in OUTSIDE:
            if changed[name] >= 0:
                table.check(changed)  # else it is covered after all, and has no place in the list
        else:
            with pytest.raises(AssertionError):
                table.check(changed)
    assert set(OUTSIDE) <= set(COUNTERS)
