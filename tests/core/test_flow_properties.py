"""What holds for any conversation, however its segments are cut, reordered, repeated or lost."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from sniffer_core.core import RawMessage
from tests import packets as p
from tests.conversations import (
    CLIENT,
    SERVER,
    START,
    Conversation,
    Cut,
    Record,
    Segment,
    arrived,
    conversations,
    cuts,
    dropped,
    duplicated,
    odd_conversations,
    overlapping,
    overlapping_itself,
    record,
    records,
    shuffled,
    sized,
    whole,
)
from tests.laws import Table

seeds = st.integers(0, 2**32 - 1)
GRACE = 100_000


def assert_exact(conversation: Conversation, messages: Sequence[RawMessage]) -> None:
    """Exactly the messages that went in, once each, on one connection, with nothing odd about them."""
    assert records(messages) == conversation.expected()
    assert len({message.connection_id for message in messages}) == 1
    assert {(message.resynced, message.missing_bytes, message.anomalies) for message in messages} == {(False, None, ())}


def step_within_grace(segments: Sequence[Segment]) -> int:
    """A distance between packets at which the whole capture lies within the grace."""
    return max(1, GRACE * 8 // 10 // len(segments))


@given(conversations(), seeds)
def test_any_cut(conversation: Conversation, seed: int) -> None:
    """However the messages are cut into segments, what comes out is what went in."""
    segments = conversation.segments(cuts(Random(seed), conversation))
    assert_exact(conversation, Table().run(conversation.packets(segments)))


@given(conversations())
def test_single_bytes(conversation: Conversation) -> None:
    """Segments of one byte each give the same messages."""
    short = replace(conversation, exchanges=conversation.exchanges[:2], handshake=True)
    short = replace(short, fin=short.fin or len(short.exchanges) < len(conversation.exchanges))
    assert_exact(short, Table().run(short.packets(short.segments(sized(1)), step=10)))


@given(conversations(nasty=True), seeds)
def test_bodies_that_hold_start_lines(conversation: Conversation, seed: int) -> None:
    """Start lines inside of bodies are bodies."""
    segments = conversation.segments(cuts(Random(seed), conversation))
    assert_exact(conversation, Table().run(conversation.packets(segments)))


@given(conversations(), seeds, st.sampled_from((2, 10, 1000)))
def test_shuffled(conversation: Conversation, seed: int, reach: int) -> None:
    """Segments in any order within the grace, the handshake and FIN too, give the same messages."""
    random = Random(seed)
    segments = conversation.segments(cuts(random, conversation))
    step = step_within_grace(segments)
    assert_exact(conversation, Table().run(conversation.packets(shuffled(segments, random, reach), step=step)))


@given(conversations(), seeds)
def test_stamps_running_backwards(conversation: Conversation, seed: int) -> None:
    """Packets that come in another order than their stamps say give the same messages."""
    random = Random(seed)
    segments = conversation.segments(cuts(random, conversation))
    step = step_within_grace(segments)
    stamped = [replace(segment, stamp=START + place * step) for place, segment in enumerate(segments)]
    assert_exact(conversation, Table().run(conversation.packets(shuffled(stamped, random, 1000))))


@given(conversations(), seeds)
def test_every_packet_twice(conversation: Conversation, seed: int) -> None:
    """Every packet seen twice changes nothing but a counter."""
    segments = conversation.segments(cuts(Random(seed), conversation))
    table = Table()
    assert_exact(conversation, table.run(conversation.packets([s for s in segments for _ in range(2)])))
    counters = table.counted("bytes_used", "bytes_duplicate", "bytes_payload")
    assert counters["bytes_duplicate"] * 2 == counters["bytes_payload"]


@given(conversations(), seeds)
def test_duplicates_and_overlaps(conversation: Conversation, seed: int) -> None:
    """Retransmissions, cut as before or elsewhere, change nothing."""
    random = Random(seed)
    segments = conversation.segments(cuts(random, conversation))
    segments = duplicated(overlapping(conversation, segments, random, 8), random, 0.2)
    assert_exact(conversation, Table().run(conversation.packets(segments)))


@given(conversations(), seeds)
def test_all_at_once(conversation: Conversation, seed: int) -> None:
    """Cut, overlapped, repeated and shuffled within the grace: the same messages."""
    random = Random(seed)
    segments = conversation.segments(cuts(random, conversation))
    segments = shuffled(duplicated(overlapping_itself(segments, random, 8), random, 0.2), random, 20)
    assert_exact(conversation, Table().run(conversation.packets(segments, step=step_within_grace(segments))))


@given(conversations(), seeds)
def test_first_in_first_out(conversation: Conversation, seed: int) -> None:
    """Nothing lost and the beginning seen: the order pairs, though retransmissions that come first carry later ACKs."""
    random = Random(seed)
    conversation = replace(conversation, handshake=True)
    segments = conversation.segments(cuts(random, conversation))
    segments = shuffled(duplicated(overlapping(conversation, segments, random, 8), random, 0.2), random, 20)
    assert_exact(conversation, Table().run(conversation.packets(segments, step=step_within_grace(segments))))


def assert_odd(conversation: Conversation, messages: Sequence[RawMessage]) -> None:
    """The messages that went in, and what is odd about each is named."""
    assert records(messages) == conversation.expected()
    assert_secret(messages)
    for message in messages:
        request, response = conversation.exchanges[message.exchange]
        part = request if message.direction == "request" else response
        assert ("bad-header-line" in message.anomalies) == bool(part.bad)
        assert ("odd-start-line" in message.anomalies) == bool(part.line)
        bodyless = message.direction == "response" and response.bodyless()
        assert ("last-crlf-missing" in message.anomalies) == (
            part.unended and part.framing == "chunked" and not bodyless
        )


def assert_secret(messages: Sequence[RawMessage]) -> None:
    """Nothing of a line that is no field is shown."""
    assert not any("SECRET" in str((message.headers, message.trailers, message.reason)) for message in messages)


@given(odd_conversations(), seeds)
def test_odd_messages(conversation: Conversation, seed: int) -> None:
    """Messages with odd start lines and bad header lines are read as well as others, however they are cut."""
    random = Random(seed)
    segments = conversation.segments(cuts(random, conversation))
    segments = shuffled(duplicated(overlapping_itself(segments, random, 8), random, 0.2), random, 20)
    assert_odd(conversation, Table().run(conversation.packets(segments, step=step_within_grace(segments))))


@given(odd_conversations(unended=True), seeds)
def test_last_crlf_missing(conversation: Conversation, seed: int) -> None:
    """Chunked bodies without their last CRLF are whole where the next message has segments of its own."""
    conversation = replace(conversation, depth=1, together=False)
    random = Random(seed)
    segments = duplicated(conversation.segments(), random, 0.2)
    assert_odd(conversation, Table().run(conversation.packets(segments, step=step_within_grace(segments))))


@given(odd_conversations(unended=True, nasty=False), seeds, st.sampled_from((0.0, 0.05, 0.2)))
def test_odd_messages_and_loss(conversation: Conversation, seed: int, loss: float) -> None:
    """Where segments are lost nothing of it is paired wrongly, is taken for whole, or shows a line that is no field."""
    random = Random(seed)
    segments = dropped(conversation.segments(cuts(random, conversation)), random, loss)
    messages = Table().run(conversation.packets(segments, step=10_000))
    assert_secret(messages)
    sent = {(part.path, part.body) for part, _ in conversation.exchanges}
    for message in messages:
        if message.direction == "request":
            assert message.incomplete or (message.path, message.body) in sent
        elif message.path is not None and message.reason is not None:
            assert message.path == f"/{message.reason[1:]}?q=%20"


@given(conversations(), seeds)
def test_one_sided_requests(conversation: Conversation, seed: int) -> None:
    """The client's side alone gives the requests."""
    segments = [s for s in conversation.segments(cuts(Random(seed), conversation)) if s.side == CLIENT]
    messages = Table().run(conversation.packets(segments))
    assert records(messages) == [r for r in conversation.expected() if r["direction"] == "request"]


@given(conversations(methods=("GET", "POST")), seeds)
def test_one_sided_responses(conversation: Conversation, seed: int) -> None:
    """The server's side alone gives the responses, which know no request."""
    segments = [s for s in conversation.segments(cuts(Random(seed), conversation)) if s.side == SERVER]
    messages = Table().run(conversation.packets(segments))
    unpaired: Record = {"method": None, "path": None}
    assert records(messages) == [r | unpaired for r in conversation.expected() if r["direction"] == "response"]


def fed_in_batches(packets: Sequence[p.Packet], random: Random) -> list[RawMessage]:
    table = Table()
    messages = []
    at = 0
    while at < len(packets):
        size = random.randint(1, 12)
        messages += table.feed(packets[at : at + size])
        at += size
    return messages + table.flush()


def everything(message: RawMessage) -> tuple[object, ...]:
    """All that can be seen of a message."""
    names = ("connection_id", "timestamp", "latency_us", "body_truncated", "missing_bytes", "resynced", "anomalies")
    return tuple(sorted(record(message).items())) + tuple(getattr(message, name) for name in names)


@given(conversations(nasty=True), seeds, st.sampled_from((0.0, 0.1)))
def test_any_split_into_batches(conversation: Conversation, seed: int, loss: float) -> None:
    """However a feed is split into batches, the same messages come in the same order."""
    random = Random(seed)
    segments = dropped(shuffled(conversation.segments(cuts(random, conversation)), random, 3), random, loss)
    packets = conversation.packets(segments, step=10_000)
    at_once = Table().run(packets)
    assert [everything(m) for m in fed_in_batches(packets, random)] == [everything(m) for m in at_once]


@given(st.lists(conversations(methods=("GET", "POST")), min_size=2, max_size=4), seeds)
def test_connections_side_by_side(several: list[Conversation], seed: int) -> None:
    """Connections do not touch each other."""
    random = Random(seed)
    apart = [replace(c, client=(c.client[0], 40000 + number)) for number, c in enumerate(several)]
    queues = [c.packets(c.segments(cuts(random, c))) for c in apart]
    packets: list[p.Packet] = []
    while queues := [queue for queue in queues if queue]:
        packets.append(p.Packet(1_700_000_000_000_000 + len(packets) * 1000, random.choice(queues).pop(0).data))
    messages = Table().run(packets)
    for conversation in apart:
        assert_exact(conversation, [m for m in messages if m.destination == conversation.client])


# ---- loss ------------------------------------------------------------------------------------------------------------


def truth_of(conversation: Conversation, message: RawMessage) -> Record | None:
    """The message that went in under this start line."""
    for expected in conversation.expected():
        if expected["direction"] == message.direction:
            if message.direction == "request" and expected["path"] == message.path:
                return expected
            if message.direction == "response" and expected["reason"] == message.reason:
                return expected
    return None


def assert_honest(conversation: Conversation, messages: Sequence[RawMessage]) -> list[RawMessage]:
    """Every message is exact or marked incomplete, none comes twice, no pair is wrong; returns the invented ones."""
    seen = set()
    exchanges: dict[int, int] = {}
    invented = []
    for message in messages:
        got, truth = record(message), truth_of(conversation, message)
        if truth is None:
            invented.append(message)
            continue
        number = truth["exchange"]
        assert (message.direction, number) not in seen, "twice"
        seen.add((message.direction, number))
        # the pair: one exchange for both, and for nobody else
        assert exchanges.setdefault(message.exchange, number) == number, "a wrong pair"
        assert message.method in (None, truth["method"])
        assert message.path in (None, truth["path"])
        assert set(message.informational) <= set(truth["informational"])
        fields = ("direction", "status_code", "reason", "http_version", "receiver", "destination")
        assert {name: got[name] for name in fields} == {name: truth[name] for name in fields}
        if message.incomplete is None:
            exact = ("headers", "body", "body_size", "trailers")
            assert {name: got[name] for name in exact} == {name: truth[name] for name in exact}
        else:
            assert got["headers"].items() <= truth["headers"].items() or not message.body_size
            if conversation.exchanges[number].request.method != "HEAD" or message.direction == "request":
                assert truth["body"].startswith(message.body)
                assert message.body_size <= truth["body_size"]
    return invented


def assert_undecidable(conversation: Conversation, segments: Sequence[Segment], message: RawMessage, step: int) -> None:
    """Nobody could have told this piece of a body from a message.

    It begins with a segment, behind lost bytes of its own direction, and ends with a segment or at lost bytes; and the
    other direction, which would have told by counting, has lost bytes too, or the messages were pipelined.
    """
    segment = segments[(message.timestamp - START) // step]
    stream = conversation.stream(segment.side)
    assert segment.side == (CLIENT if message.direction == "request" else SERVER)
    word = b"HTTP" if segment.side == SERVER else str(message.method).encode()
    assert segment.data[: len(word)] == word[: len(segment.data)]
    assert not arrived(segments, segment.side, 0, segment.offset), "nothing was lost before it"
    other = 1 - segment.side
    assert conversation.depth > 1 or not arrived(segments, other, 0, len(conversation.stream(other)))
    if "transfer-encoding" not in message.headers and message.incomplete is None:
        end = stream.index(b"\r\n\r\n", segment.offset) + 4 + message.body_size
        ends = {piece.end for piece in segments if piece.side == segment.side}
        assert end in ends or not arrived(segments, segment.side, end, end + 1)


def lossy(
    conversation: Conversation, random: Random, cut: Cut, step: int, sides: Sequence[int] = (CLIENT, SERVER)
) -> tuple[list[Segment], list[p.Packet]]:
    """Segments of which some are lost and others repeated, and late as far as the grace allows; and their packets."""
    segments = conversation.segments(cut)
    kept = dropped(segments, random, random.choice((0.02, 0.1, 0.3)))
    segments = [segment for segment in segments if segment.side not in sides or segment in kept]
    segments = shuffled(duplicated(segments, random, 0.05), random, 0 if step * 3 > GRACE else random.choice((0, 2)))
    return segments, conversation.packets(segments, step=step)


steps = st.sampled_from((1000, 60_000))


@given(conversations(methods=("GET", "POST")), seeds, steps)
def test_loss(conversation: Conversation, seed: int, step: int) -> None:
    """With segments lost, every message is exact or marked, none is invented, and no pair is wrong."""
    random = Random(seed)
    _, packets = lossy(conversation, random, cuts(random, conversation), step)
    assert assert_honest(conversation, Table().run(packets)) == []


@given(conversations(nasty=True, methods=("GET", "POST")), seeds, steps)
def test_loss_around_start_lines_in_bodies(conversation: Conversation, seed: int, step: int) -> None:
    """Start lines in bodies never become messages, whatever one side loses, where each request waits for its answer."""
    random = Random(seed)
    conversation = replace(conversation, depth=1)
    _, packets = lossy(conversation, random, cuts(random, conversation), step, random.choice(((CLIENT,), (SERVER,))))
    assert assert_honest(conversation, Table().run(packets)) == []


@given(conversations(nasty=True), seeds, steps)
def test_loss_around_start_lines_everywhere(conversation: Conversation, seed: int, step: int) -> None:
    """Whatever is lost on both sides of pipelined messages, one is invented only where nobody could tell."""
    random = Random(seed)
    segments, packets = lossy(conversation, random, cuts(random, conversation), step)
    for message in assert_honest(conversation, Table().run(packets)):
        assert_undecidable(conversation, segments, message, step)


@given(conversations(methods=("GET", "POST", "PURGE"), together=False), seeds, steps)
def test_recovery(conversation: Conversation, seed: int, step: int) -> None:
    """Each message on its own segments, no start line in a body: all whole messages whose bytes arrived are there."""
    random = Random(seed)
    segments, packets = lossy(conversation, random, random.choice((whole, sized(100), sized(1460))), step)
    messages = Table().run(packets)
    assert assert_honest(conversation, messages) == []
    there = set()
    for message in messages:
        truth = truth_of(conversation, message)
        if truth is not None and message.incomplete is None:
            there.add((message.direction, truth["exchange"]))
    for direction, number in recoverable(conversation, segments):
        assert (direction, number) in there, f"{direction} {number} is lost"


def recoverable(conversation: Conversation, segments: Sequence[Segment]) -> Iterator[tuple[str, int]]:
    """The messages that arrived whole, but for those that could as well be a piece of a lost message's body.

    That is a request after a loss if no response to it or to a later one was seen; and a response after its interim
    responses were lost, since a response's head is as likely to be what was lost.
    """
    spans = conversation.spans()
    seen = [n for side, n, start, end in spans if side == SERVER and arrived(segments, SERVER, start, end)]
    for side, number, start, end in spans:
        if not arrived(segments, side, start, end):
            continue
        response = conversation.exchanges[number].response
        if side == CLIENT:
            if arrived(segments, CLIENT, 0, end) or (seen and seen[-1] >= number):
                yield "request", number
        elif response.framing != "close" or response.bodyless():  # else its end is a FIN, which may be lost
            interim = sum(len(part) for part in response.interim())
            if arrived(segments, SERVER, start - interim, start):
                yield "response", number


# ---- anything --------------------------------------------------------------------------------------------------------


@given(
    st.sampled_from(p.LINK_TYPES),
    st.binary(max_size=300),
    st.lists(st.tuples(*[st.integers(0, 2**32 - 1) | st.integers(0, 300)] * 4), max_size=12),
    st.binary(max_size=15),
)
def test_any_index(linktype: int, data: bytes, index: list[tuple[int, ...]], rest: bytes) -> None:
    """Any bytes with any index are safe."""
    packed = b"".join(struct.pack("=IIII", *entry) for entry in index)
    table = Table(linktype=linktype)
    table.feed_raw(data, packed)
    table.core.feed(data, rest)
    table.flush()


@given(conversations(nasty=True), seeds)
def test_any_damage(conversation: Conversation, seed: int) -> None:
    """Packets with bytes changed anywhere, lengths and flags too, are safe and every law holds."""
    random = Random(seed)
    packets = []
    for packet in conversation.packets(shuffled(conversation.segments(cuts(random, conversation)), random, 4)):
        data = bytearray(packet.data)
        for _ in range(random.choice((0, 0, 1, 3))):
            data[random.randrange(len(data))] = random.randrange(256)
        packets.append(p.Packet(packet.stamp + random.choice((0, 0, 10**6, -(10**6))), bytes(data)))
    Table(ports=(80,), memory_limit=random.choice((20_000, 1 << 26)), max_flows=random.choice((1, 100))).run(packets)


@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 60), st.binary(max_size=30), st.integers(0, 31)), max_size=40))
def test_any_segments(script: list[tuple[bool, int, bytes, int]]) -> None:
    """Any segments with any flags are safe and every law holds."""
    conversation = Conversation(exchanges=(), isn=(2**32 - 20, 2**31))
    segments = [
        Segment(int(side), offset, data, offset // 2, flags & ~p.SYN if len(data) % 2 else flags)
        for side, offset, data, flags in script
    ]
    Table().run(conversation.packets(segments, step=30_000))
