"""Requests and responses put together: order, what stays alone, bounds, and a lane that still balances."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer import har
from sniffer.delivery.queues import weigh
from sniffer.delivery.sink import Record
from sniffer.exchanges import (
    ALONE,
    GIVEN_UP,
    Alone,
    Anomaly,
    ByExchange,
    Exchange,
    ExchangeBatch,
    ExchangeSink,
    Fact,
    Incomplete,
    Missing,
    Pair,
    Resynced,
    facts,
    marks,
)
from tests.deliveries import Recorder, Sent, answer, balanced, lane_to, message, messages, settled


def queue(*records: Sent, **bounds: float | None) -> ByExchange:
    """A queue that was offered these, one by one."""
    made = ByExchange(**{"max_bytes": 1 << 20, **bounds})  # type: ignore[arg-type]
    for record in records:
        made.put([record], record.weight)
    return made


def exchanges(batch: Sequence[Record]) -> list[Exchange]:
    """The exchanges of a batch that the queue gave."""
    assert isinstance(batch, ExchangeBatch)
    assert [record for pair in batch.pairs for record in pair if record is not None] == batch
    return [pair.exchange for pair in batch.pairs]


def taken(waiting: ByExchange) -> list[tuple[int | None, int | None]]:
    """The numbers of the exchanges that are ready: (request, response)."""
    found = []
    while (batch := waiting.take()) is not None:
        found += [
            (one.request.exchange if one.request else None, one.response.exchange if one.response else None)
            for one in exchanges(batch[0])
        ]
    return found


def test_a_request_waits_for_its_response() -> None:
    """An exchange is given out when it is whole, and not before."""
    waiting = queue(message(0))
    assert taken(waiting) == []
    waiting.put([answer(0)], 1000)
    assert taken(waiting) == [(0, 0)]
    assert taken(waiting) == []


def test_a_response_may_come_first() -> None:
    """The answer to an upload that was refused early precedes its request: they are one exchange all the same."""
    assert taken(queue(answer(0), message(0))) == [(0, 0)]


def test_an_exchange_is_given_in_the_order_of_completion() -> None:
    """Connections do not wait for each other."""
    assert taken(queue(message(0), message(5, connection=1), answer(5, connection=1), answer(0))) == [(5, 5), (0, 0)]


def test_pipelined_requests() -> None:
    """Several requests of a connection wait each for its own response."""
    assert taken(queue(*messages(3), answer(0), answer(1), answer(2))) == [(0, 0), (1, 1), (2, 2)]


def test_a_response_without_request_waits_for_nothing() -> None:
    """A response whose request was not captured is alone, and leaves requests that wait alone too."""
    waiting = queue(message(0), answer(7, alone=True))
    assert taken(waiting) == [(None, 7)]
    waiting.put([answer(0)], 1000)
    assert taken(waiting) == [(0, 0)]


def test_what_can_have_no_partner_any_more_is_given_out() -> None:
    """A later response ends the wait of earlier requests, a later request that of earlier responses."""
    assert taken(queue(message(0), message(1), answer(1))) == [(0, None), (1, 1)]
    assert taken(queue(answer(0), message(1), answer(1))) == [(None, 0), (1, 1)]


def test_the_end_gives_out_everything() -> None:
    """What waits at the end is given out alone, in the order in which it came."""
    waiting = queue(message(3), message(0, connection=1), answer(4, connection=2))
    waiting.ripen(last=True)
    assert taken(waiting) == [(3, None), (0, None), (None, 4)]


def test_patience_ends_at_the_second_call() -> None:
    """`ripen` gives out what has waited since the call before, so that each message is waited for long enough."""
    waiting = queue(message(0), patience=10.0)
    assert (waiting.wait, waiting.ripening) == (5.0, True)
    waiting.ripen()
    waiting.put([message(0, connection=1)], 1000)
    assert taken(waiting) == []
    waiting.ripen()
    assert taken(waiting) == [(0, None)]
    waiting.ripen()
    assert taken(waiting) == [(0, None)]
    assert not waiting.ripening


def test_a_late_response_is_alone() -> None:
    """The response to a request that was given out already waits for nothing."""
    waiting = queue(message(0), patience=1.0)
    waiting.ripen()
    waiting.ripen()
    assert taken(waiting) == [(0, None)]
    waiting.put([answer(0)], 1000)
    assert taken(waiting) == [(None, 0)]


def test_a_file_has_patience() -> None:
    """Without `patience` nothing ripens: how fast a file is read changes nothing."""
    assert not queue(message(0), patience=None).ripening


def test_bounds() -> None:
    """More than the bound of bytes or of messages never waits: the oldest is given out alone."""
    assert taken(queue(*messages(4), max_bytes=2 * message().weight)) == [(0, None), (1, None)]
    assert taken(queue(*messages(4), max_messages=3)) == [(0, None)]
    large = queue(message(0, body="x" * 5000), max_bytes=2000)
    assert taken(large) == [(0, None)]


def test_what_is_remembered_of_given_up_requests_is_bounded() -> None:
    """However many connections have a request given up, a bounded number of them is remembered."""
    waiting = queue(max_messages=1)
    for number in range(GIVEN_UP + 100):
        waiting.put([message(0, connection=number)], 1000)
    assert len(waiting._given_up) == GIVEN_UP
    assert len(waiting._connections) == 1


def test_the_same_message_again() -> None:
    """A capture that is read twice gives each message twice, though the connection is the same."""
    assert taken(queue(message(0), message(0), answer(0))) == [(0, None), (0, 0)]


def test_batches_are_bounded_and_hold_whole_exchanges() -> None:
    """No batch ends between a request and its response."""
    waiting = queue(max_bytes=1 << 30)
    for number in range(1000):
        waiting.put([message(number)], 1000)
        waiting.put([answer(number)], 1000)
    sizes = []
    while (batch := waiting.take()) is not None:
        sizes.append(len(batch[0]))
        assert batch[1] == weigh(batch[0])
        assert all(one.messages == 2 for one in exchanges(batch[0]))
    assert sum(sizes) == 2000
    assert max(sizes) <= 514


def test_clear_counts_all_of_it() -> None:
    """What is forgotten is counted: what is ready and what still waits."""
    waiting = queue(message(0), message(0, connection=1), answer(0))
    assert waiting.clear() == 3
    assert taken(waiting) == []
    assert waiting.clear() == 0


@st.composite
def traffic(draw: st.DrawFn) -> list[Sent]:
    """Messages of a few connections as the core may give them: each direction in order, some of them missing."""
    lines: list[deque[Sent]] = []
    for connection in range(draw(st.integers(1, 3))):
        count = draw(st.integers(0, 6))
        kept = st.sampled_from([True, True, True, False])
        alone = st.sampled_from([False, False, False, True])
        lines.append(deque(message(n, connection=connection) for n in range(count) if draw(kept)))
        lines.append(deque(answer(n, connection=connection, alone=draw(alone)) for n in range(count) if draw(kept)))
    records = []
    while any(lines):
        line = draw(st.sampled_from([line for line in lines if line]))
        records.append(line.popleft())
    return records


@given(traffic(), st.integers(1, 6), st.sets(st.integers(0, 30)))
def test_nothing_is_lost_doubled_or_mispaired(records: list[Sent], bound: int, ripenings: set[int]) -> None:
    """Over any traffic, bound and time every message is given out once, and pairs are of one exchange."""
    waiting = ByExchange(max_bytes=1 << 20, max_messages=bound, patience=1.0)
    out: Counter[str] = Counter()
    for number, record in enumerate(records):
        waiting.put([record], record.weight)
        if number in ripenings:
            waiting.ripen()
    waiting.ripen(last=True)
    while (batch := waiting.take()) is not None:
        for one in exchanges(batch[0]):
            out.update(part.idempotency_key for part in one if part is not None)
            if one.request is not None and one.response is not None:
                assert one.response.method is not None
    assert out == Counter(record.idempotency_key for record in records)
    assert (waiting._bytes, waiting._order, waiting._connections) == (0, {}, {})


async def test_a_lane_of_exchanges_balances() -> None:
    """What waits for its partner counts as waiting in the lane, and is delivered at the end of the drain."""
    sink = Recorder()
    async with lane_to(sink, queue=ByExchange(max_bytes=1 << 20)) as lane:
        lane.offer([message(0), message(0, connection=1), answer(0)])
        await sink.called(1)
        assert (lane.counters.waiting, balanced(lane.counters)) == (1, True)
        await settled(lane)
    assert sink.batches == [[message(0), answer(0)], [message(0, connection=1)]]


async def test_a_lane_gives_out_what_nobody_answers() -> None:
    """In a live capture a request without a response is delivered after its time, without any further message."""
    sink = Recorder()
    async with lane_to(sink, queue=ByExchange(max_bytes=1 << 20, patience=0.02)) as lane:
        lane.offer([message(0)])
        await sink.called(1)
        assert sink.batches == [[message(0)]]


async def test_a_file_waits_for_no_partner() -> None:
    """The room that a file waits for comes though half of the lane holds requests without a response."""
    sink = Recorder()
    one = message().weight
    async with lane_to(sink, max_bytes=20 * one, queue=ByExchange(max_bytes=5 * one)) as lane:
        for connection in range(100):
            async with asyncio.timeout(5):
                await lane.room()
            lane.offer([message(0, connection=connection)])
        counters = await settled(lane)
    assert (counters.delivered, counters.dropped_full) == (100, 0)


# What is wrong with an exchange


@pytest.mark.parametrize(
    ("exchange", "lossy", "expected"),
    [
        (Exchange(message(), answer()), False, []),
        (Exchange(message(), answer()), True, []),
        (Exchange(message(), None), False, [Alone("response")]),
        (Exchange(message(), None), True, [Alone("response or dropped")]),
        (Exchange(None, answer(alone=True)), False, [Alone("request")]),
        (Exchange(None, answer(alone=True)), True, [Alone("request")]),
        (Exchange(None, answer()), False, [Alone("request of before")]),
        (Exchange(None, answer()), True, [Alone("request dropped")]),
    ],
)
def test_what_is_missing(exchange: Exchange, lossy: bool, expected: list[Fact]) -> None:
    """A message that is missing is said to be, and after drops on the way not to have been absent for certain."""
    assert list(facts(exchange, lossy=lossy)) == expected


def test_facts_of_both_messages() -> None:
    """Of each message, the request first: whether it is cut, whether it is the first after a loss, its anomalies."""
    request = msgspec.structs.replace(message(), incomplete="closed", anomalies=("bare-lf", "te-and-cl"))
    response = msgspec.structs.replace(
        answer(), incomplete="gap", missing_bytes=7, resynced=True, anomalies=("bare-lf",)
    )
    both = Exchange(request, response)
    assert list(facts(both, lossy=False)) == [
        Incomplete("request", "closed", None),
        Anomaly("bare-lf"),
        Anomaly("te-and-cl"),
        Incomplete("response", "gap", 7),
        Resynced("response"),
        Anomaly("bare-lf"),
    ]
    assert marks(both, lossy=False) == [
        "request cut: closed",
        "bare-lf",
        "te-and-cl",
        "response cut: gap of 7 B",
        "response resynced",
    ]


def test_every_output_has_words_for_what_is_missing() -> None:
    """Each kind of missing message has its words, in the marks and in HAR, and no two have the same."""
    for words in (ALONE, har.ALONE):
        assert set(words) == set(get_args(Missing))
        assert len(set(words.values())) == len(words)


def test_an_exchange_has_the_times_of_its_messages() -> None:
    """An exchange ends with the later of its messages: an upload may outlast its response."""
    early, late = "2026-01-02T03:04:05.000001Z", "2026-01-02T03:04:06.000001Z"
    request = msgspec.structs.replace(message(), end_timestamp=late)
    response = msgspec.structs.replace(answer(), end_timestamp=early)
    assert Exchange(request, response).end_us == Exchange(request, None).end_us == request.end_timestamp_us
    assert Exchange(None, response).end_us == request.end_timestamp_us - 1_000_000
    assert Exchange(None, response).message is response
    with pytest.raises(ValueError, match="without any message"):
        _ = Exchange(None, None).message


async def test_a_sink_of_exchanges_needs_its_queue() -> None:
    """With another queue the records are not paired: that is an error, and nothing is shown wrongly."""

    class Shown(ExchangeSink):
        name = "shown"
        pairs: Sequence[Pair] = ()

        async def show(self, pairs: Sequence[Pair]) -> None:
            self.pairs = pairs

    sink = Shown()
    with pytest.raises(TypeError, match="shown takes what the queue ByExchange gives"):
        await sink.deliver([message(), answer()])
    async with lane_to(sink, queue=ByExchange(max_bytes=1 << 20)) as lane:
        lane.offer([message(), answer()])
        assert (await settled(lane)).delivered == 2
    assert sink.pairs == [Pair(message(), answer())]
