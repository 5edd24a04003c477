"""The hand-off between the capture thread and the event loop."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from sniffer.capture.handoff import SLICE, HandOff
from sniffer.errors import CaptureError
from sniffer_core.core import LineBlock, weigh, weights
from tests.captures import connection, get
from tests.raws import request


def hand_off(
    wait: bool = False, *, max_bytes: int = 1 << 30, max_messages: int = 100_000
) -> tuple[HandOff, list[bool]]:
    wakes: list[bool] = []
    handoff = HandOff(max_bytes=max_bytes, max_messages=max_messages, wait=wait, wake=lambda: wakes.append(True))
    return handoff, wakes


def balance(handoff: HandOff) -> None:
    now = handoff.counters()
    assert now["handoff_accepted"] == now["handoff_taken"] + now["handoff_discarded"] + now["handoff_waiting"]


def test_the_loop_is_woken_only_when_it_may_sleep() -> None:
    """One wake-up for any number of batches until the hand-off is empty again."""
    handoff, wakes = hand_off()
    for _ in range(3):
        handoff.put([request()], {})
    assert len(wakes) == 1
    while handoff.take():
        pass
    handoff.put([], {})
    assert len(wakes) == 1
    handoff.put([request()], {})
    assert len(wakes) == 2


def test_messages_come_out_in_order() -> None:
    """First in, first out, however many at a time."""
    handoff, _ = hand_off()
    sent = [request(exchange=number) for number in range(1000)]
    handoff.put(sent[:700], {})
    handoff.put(sent[700:], {})
    got: list[Any] = []
    while taken := handoff.take():
        assert len(taken[0]) <= SLICE
        assert taken[1] == 1000 * len(taken[0])
        got += taken[0]
    assert got == sent
    balance(handoff)


@pytest.mark.parametrize("limit", [{"max_bytes": 10 * 1000}, {"max_messages": 10}])
def test_a_full_hand_off_drops_the_newest_and_counts_them(limit: dict[str, int]) -> None:
    """Live capture never waits: what does not fit is dropped, newest first."""
    handoff, wakes = hand_off(False, **limit)
    handoff.put([request(exchange=number) for number in range(30)], {"messages_request": 30})
    handoff.put([request()], {"messages_request": 31})
    taken = handoff.take()
    assert taken is not None
    assert [raw.exchange for raw in taken[0]] == list(range(10))
    now = handoff.counters()
    assert (now["handoff_accepted"], now["handoff_dropped"]) == (10, 21)
    assert wakes
    balance(handoff)


def test_reading_a_file_waits_for_room() -> None:
    """A full hand-off holds the thread back until the loop has taken something, and loses nothing."""
    handoff, _ = hand_off(wait=True, max_bytes=1)
    sent = [request(exchange=number) for number in range(50)]
    alive = threading.Event()
    thread = threading.Thread(target=lambda: handoff.put(sent, {"messages_request": len(sent)}, alive=alive.set))
    thread.start()
    assert alive.wait(10)
    now = handoff.counters()
    assert now["messages_request"] == now["handoff_accepted"] + now["handoff_held"]
    got: list[Any] = []
    while len(got) < len(sent):
        got += (handoff.take() or [[]])[0]
    thread.join(10)
    assert got == sent
    assert handoff.counters()["handoff_dropped"] == 0


def test_a_file_never_fills_more_than_the_hand_off() -> None:
    """While a file waits, no more is in the hand-off than its bounds, or than one message."""
    for limit in ({"max_bytes": 5 * request().weight}, {"max_messages": 5}):
        handoff, _ = hand_off(True, **limit)
        thread = threading.Thread(target=handoff.put, args=([request()] * 100, {}))
        thread.start()
        taken = 0
        while taken < 100:
            part = (handoff.take() or [[]])[0]
            assert len(part) <= 5
            taken += len(part)
        thread.join(10)


def test_what_is_given_up_is_counted() -> None:
    """At the deadline what waits is discarded, who waits goes on, and what still comes is dropped."""
    handoff, _ = hand_off(wait=True, max_bytes=256 * request().weight)
    alive = threading.Event()
    thread = threading.Thread(target=lambda: handoff.put([request()] * 600, {}, alive=alive.set))
    thread.start()
    assert alive.wait(10)
    handoff.drop_rest()
    thread.join(10)
    assert not thread.is_alive()
    now = handoff.counters()
    assert (now["handoff_discarded"], now["handoff_dropped"], now["handoff_waiting"]) == (256, 344, 0)
    assert handoff.take() is None
    balance(handoff)


def test_events_and_drops_wake_the_loop() -> None:
    """What is to be logged at once does not wait for a message."""
    handoff, wakes = hand_off()
    handoff.put([], {}, [("tls", ("192.0.2.1", 443), ("192.0.2.2", 4000))])
    assert len(wakes) == 1
    assert len(handoff.take_events()) == 1
    handoff.put_kernel((10, 0, 0))
    assert len(wakes) == 1
    handoff.put_kernel((20, 1, 0))
    assert len(wakes) == 2
    assert handoff.drops() == {"kernel_dropped": 1, "kernel_if_dropped": 0, "handoff_dropped": 0}
    handoff.end(CaptureError("x"))
    assert len(wakes) == 3
    assert handoff.ended


def block(count: int) -> LineBlock:
    """So many messages, as lines; each weighs the same."""
    from tests.core.record.test_lines import block as block_of

    return block_of(connection([(get("/"), b"")] * count, server_port=80))


def test_a_full_hand_off_drops_lines_as_it_drops_objects() -> None:
    """Of a block the first messages are kept, as many as fit; the others are dropped and counted."""
    sent = block(30)
    room = sum(weights(sent)[:10])
    handoff, _ = hand_off(max_bytes=room + 1)
    handoff.put(sent, {})
    handoff.put(sent[:1], {})
    assert handoff.counters()["handoff_bytes"] == room
    taken = handoff.take()
    assert taken is not None
    assert taken[1] == weigh(taken[0]) == room
    assert [message.to_json() for message in taken[0]] == [message.to_json() for message in sent[:10]]
    now = handoff.counters()
    assert (now["handoff_accepted"], now["handoff_dropped"]) == (10, 21)
    balance(handoff)


@pytest.mark.parametrize("lines", [0, 4, 1000])
def test_a_file_waits_with_its_lines(lines: int) -> None:
    """While a file waits, no more lines are in the hand-off than its bounds, or than one; none is lost, in order."""
    sent = block(2000)
    limit = max(1, lines * max(weights(sent)))
    handoff, _ = hand_off(True, max_bytes=limit)
    thread = threading.Thread(target=handoff.put, args=(sent, {}))
    thread.start()
    got: list[bytes] = []
    while len(got) < len(sent):
        part, weight = handoff.take() or ([], 0)
        assert len(part) <= max(1, lines)
        assert weight <= max(limit, *weights(sent))
        got += [message.to_json() for message in part]
    thread.join(10)
    assert got == [message.to_json() for message in sent]
    assert handoff.counters()["handoff_dropped"] == 0
    balance(handoff)
