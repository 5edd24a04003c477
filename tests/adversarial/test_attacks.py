"""Each cap under attack: memory keeps its bound, the honest connection stays whole, evictions count, work is linear."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest

from sniffer.capture.thread import feed_batch
from sniffer.message import decode
from sniffer_core.testing import hashed
from tests.adversarial.attacks import ATTACKS, Attack, packets
from tests.adversarial.daemon import Outcome, attack_daemon, attack_every_output
from tests.laws import Table
from tests.packets import ETHERNET, Packet, to_feed

LIMIT = 4 << 20
BATCH = 500
MAX_BODY = 65_536
GROWTH = 16

each_attack = pytest.mark.parametrize("name", list(ATTACKS))


def table(attack: Attack) -> Table:
    return Table(linktype=ETHERNET, max_flows=attack.max_flows, memory_limit=LIMIT, decode=decode, max_body=MAX_BODY)


def honest(sent: Sequence[Packet]) -> int:
    """How many exchanges of the honest connection are among these packets."""
    return sum(b"GET /honest/" in packet.data for packet in sent)


@each_attack
def test_bounds(name: str) -> None:
    """Memory stays below the limit after each packet's batch, evictions are counted, every honest exchange is whole."""
    attack = ATTACKS[name]
    sent = list(packets(attack.make(attack.short)))
    victim = table(attack)
    messages = []
    for at in range(0, len(sent), BATCH):
        messages += victim.feed(sent[at : at + BATCH])  # asserts every law
        assert victim.gauge("memory_bytes") <= LIMIT
    messages += victim.flush()  # asserts that all memory was given back
    for counter in attack.counted:
        assert victim.counted(counter)[counter] > 0
    found = [m for m in messages if (m.path or "").startswith("/honest/")]
    assert [m.incomplete for m in found] == [None] * (2 * honest(sent))
    for message in messages:
        message.decode()  # as the pump does, before it asks for the weight
        foreseen = message.weight
        assert len(message.to_json()) <= 7 * MAX_BODY  # a bomb is a cut body
        assert message.weight <= foreseen  # what is kept for the next lane is no more than was accounted for


def seconds(attack: Attack, size: int) -> float:
    """CPU that a table takes for this attack, JSON included: the best of three."""
    batch = to_feed(packets(attack.make(size)))
    best = float("inf")
    for _ in range(3):
        victim = table(attack)
        started = time.thread_time()
        for ended in feed_batch(victim.core, batch):
            for message in ended:
                message.to_json()
        for message in victim.core.flush():
            message.to_json()
        best = min(best, time.thread_time() - started)
    return best


@pytest.mark.slow
@each_attack
def test_work_grows_with_the_bytes(name: str) -> None:
    """Sixteen times as much of an attack takes about sixteen times the CPU, not 256 times."""
    attack = ATTACKS[name]
    small = seconds(attack, attack.short // 4)
    assert seconds(attack, attack.short // 4 * GROWTH) <= 6 * GROWTH * max(small, 0.001)


def test_flows_cannot_be_chosen_to_collide() -> None:
    """The table's hash is SipHash-1-3, as CPython has it for bytes, with a secret that is each table's own."""
    key = bytes(range(40))
    program = f"import sys; print(sys.hash_info.algorithm, hash({key!r}) % 2**64)"
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=True
    )
    algorithm, expected = done.stdout.split()
    some, other = Table().core, Table().core
    if algorithm == "siphash13":
        assert hashed(some, key, bytes(16)) == int(expected)
    assert hashed(some, key) == hashed(some, key)
    assert hashed(some, key) != hashed(other, key)
    assert len({hashed(some, number.to_bytes(40)) & 0x3FF for number in range(4000)}) > 900  # of 1024 buckets


unsanitized = pytest.mark.skipif("TCP_SNIFFER_SANITIZED" in os.environ, reason="a sanitizer takes memory of its own")


@unsanitized
def test_the_daemon_keeps_its_promise() -> None:
    """Every attack at once, through the real daemon: RSS after start + 1.25 × budget is never passed, nothing honest
    is lost, all evictions are in the ledger.
    """
    outcome: Outcome = attack_daemon(list(ATTACKS), lambda attack: attack.short, budget=16 << 20)
    outcome.check()
    for counter in ("flows_evicted_silent", "holds_evicted", "incomplete_limit"):
        assert outcome.ledger.get(counter, 0) > 0, counter


@unsanitized
@pytest.mark.slow
@pytest.mark.parametrize("budget", [8, 64, 128])
def test_the_daemon_keeps_its_promise_with_every_output(budget: int) -> None:
    """All shapes at once, packet by packet in turn, through a daemon that writes, keeps a HAR file, serves the page and
    posts: RSS after start + 1.25 × budget is never passed, from the smallest budget on that is not warned about.
    """
    outcome = attack_every_output(lambda attack: attack.short * max(1, budget // 32), budget=budget << 20)
    outcome.check()
    for counter in ("flows_evicted_silent", "bodies_decoded", "bodies_left_coded_broken"):
        assert outcome.ledger.get(counter, 0) > 0, counter
