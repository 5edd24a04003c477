"""tcp/ends: FIN and RST, those that end a connection and those that its peers ignore."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer_core.core import RawMessage
from tests import packets as p
from tests.conversations import CLIENT, SERVER, START, Conversation, Dialogue, Segment, Span, conversations, cuts
from tests.core.test_flow_properties import assert_honest
from tests.laws import Table

RST_ACK = p.RST | p.ACK
FIN_ACK = p.FIN | p.ACK
INVENTED = b"HTTP/1.1 503 Invented\r\nContent-Length: 0\r\n\r\n"


def get(number: int) -> bytes:
    return b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % number


def ok(number: int, body: bytes = b"ok") -> bytes:
    return b"HTTP/1.1 200 R%d\r\nContent-Length: %d\r\n\r\n" % (number, len(body)) + body


def seen(messages: Sequence[RawMessage]) -> list[tuple[int, str, str | None, str | None, str | None]]:
    """(exchange, direction, path, reason, cut by) of each."""
    rows = [(m.exchange, m.direction, m.path, m.reason, m.incomplete) for m in messages]
    return sorted(rows, key=lambda row: row[:2])


def whole(*numbers: int) -> list[tuple[int, str, str | None, str | None, str | None]]:
    """What `seen` gives of exchanges of which nothing is missing."""
    return [
        row for n in numbers for row in ((n, "request", f"/{n}", None, None), (n, "response", f"/{n}", f"R{n}", None))
    ]


def exchange(dialogue: Dialogue, number: int) -> None:
    dialogue.client(get(number))
    dialogue.server(ok(number))


def spoof(dialogue: Dialogue, side: int, flags: int, data: bytes = b"", *, ahead: int = 0) -> None:
    """A segment that the peers ignore: nothing of it counts for what they send."""
    sent = list(dialogue.sent)
    say = dialogue.client if side == CLIENT else dialogue.server
    say(data, flags=flags, offset=sent[side] + ahead)
    dialogue.sent = sent


# ---- payload of a RST ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [p.RST, RST_ACK, RST_ACK | p.PSH, RST_ACK | p.FIN])
def test_rst_payload_is_no_response(flags: int) -> None:
    """The payload of a RST is counted and never read: the request stays unanswered."""
    dialogue = Dialogue()
    dialogue.client(get(0))
    dialogue.server(INVENTED, flags=flags)
    table = Table()
    assert seen(table.feed(dialogue.packets)) == whole(0)[:1]
    assert table.counted("bytes_abandoned_rst", "bytes_used", "flows_closed") == {
        "bytes_abandoned_rst": len(INVENTED),
        "bytes_used": len(get(0)),
        "flows_closed": 1,
    }
    table.flush()
    assert table.counted("requests_unanswered", "ends_ignored") == {"requests_unanswered": 1, "ends_ignored": 0}


@pytest.mark.parametrize(
    ("head", "rest"),
    [(b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b"0\r\n\r\n"), (b"Content-Length: 7\r\n\r\nhello", b"!!")],
    ids=["chunked", "length"],
)
def test_rst_payload_makes_nothing_whole(head: bytes, rest: bytes) -> None:
    """A body that is cut stays cut, though the payload of the RST would end it."""
    dialogue = Dialogue()
    dialogue.client(get(0))
    dialogue.server(b"HTTP/1.1 200 R0\r\n" + head)
    dialogue.server(rest, flags=RST_ACK)
    response = Table().run(dialogue.packets)[1]
    assert (response.body, response.incomplete) == (b"hello", "closed")


def test_rst_payload_of_no_connection() -> None:
    """A RST with payload begins no connection."""
    dialogue = Dialogue(handshake=False)
    dialogue.server(INVENTED, flags=p.RST)
    table = Table()
    assert table.run(dialogue.packets) == []
    assert table.counted("flows_opened", "segments_no_flow", "bytes_abandoned_rst") == {
        "flows_opened": 0,
        "segments_no_flow": 1,
        "bytes_abandoned_rst": len(INVENTED),
    }


def test_rst_after_the_end() -> None:
    """So is that of a RST on a closed connection, and of one far from where the connection stands."""
    dialogue = Dialogue()
    exchange(dialogue, 0)
    spoof(dialogue, SERVER, p.RST, INVENTED, ahead=5000)
    dialogue.close()
    spoof(dialogue, CLIENT, p.RST, INVENTED)
    table = Table()
    assert seen(table.run(dialogue.packets)) == whole(0)
    assert table.counted("bytes_abandoned_rst") == {"bytes_abandoned_rst": 2 * len(INVENTED)}


# ---- a RST that ends the connection ----------------------------------------------------------------------------------


def test_a_rst_that_counts() -> None:
    """A RST in sequence ends the connection, whatever of the other side was under way, also sent again and again."""
    dialogue = Dialogue()
    exchange(dialogue, 0)
    dialogue.client(get(1))
    dialogue.client(flags=p.RST)
    for _ in range(3):
        dialogue.server(ok(1), offset=len(ok(0)))
        dialogue.client(flags=p.RST)
    table = Table()
    assert seen(table.feed(dialogue.packets)) == [*whole(0), whole(1)[0]]
    assert table.counted("flows_closed", "flows_resumed", "ends_ignored") == {
        "flows_closed": 1,
        "flows_resumed": 0,
        "ends_ignored": 0,
    }
    assert table.gauge("flows") == 0
    table.flush()
    assert table.counted("bytes_abandoned_late", "requests_unanswered") == {
        "bytes_abandoned_late": len(ok(1)),
        "requests_unanswered": 1,
    }


def test_a_refused_syn() -> None:
    """A SYN that is answered by a RST is closed."""
    dialogue = Dialogue(handshake=False)
    dialogue.client(flags=p.SYN, offset=-1)
    dialogue.server(flags=RST_ACK, offset=-5001, ack=0)
    table = Table()
    assert table.feed(dialogue.take()) == []
    dialogue.wait(200_000)
    dialogue.client(flags=p.RST)
    table.feed(dialogue.take())
    assert (table.gauge("flows"), table.counted("flows_closed")) == (0, {"flows_closed": 1})
    table.flush()


def test_port_used_again_after_a_rst() -> None:
    """A new SYN after a RST is a new connection, at once."""
    first = Dialogue()
    exchange(first, 0)
    first.client(flags=p.RST)
    second = Dialogue(isn=(900_000, 2**31), start=first.now)
    exchange(second, 0)
    table = Table()
    messages = table.run(first.packets + second.packets)
    assert seen(messages) == sorted(whole(0) * 2)
    assert len({m.connection_id for m in messages}) == 2


@pytest.mark.parametrize("closed_by", [p.RST, FIN_ACK])
@pytest.mark.parametrize("first", [CLIENT, SERVER])
def test_port_used_again_with_its_handshake_lost(closed_by: int, first: int) -> None:
    """Within 2 s, and without SYN and SYN-ACK: another connection, as the numbers of both sides say."""
    old = Dialogue()
    exchange(old, 0)
    old.client(flags=closed_by)
    old.server(flags=closed_by, ack=old.sent[0] + 1)
    old.client(offset=old.sent[0] + 1, ack=old.sent[1] + 1)
    new = Dialogue(isn=(900_000, 2**31), handshake=False, start=old.now + 500_000)
    if first == CLIENT:
        exchange(new, 0)
    else:
        new.server(ok(0))
        new.client()
    exchange(new, 1)
    table = Table()
    messages = table.run(old.packets + new.packets)
    assert len({m.connection_id for m in messages}) == 2
    assert len(messages) == (6 if first == CLIENT else 5)
    assert {m.incomplete for m in messages} == {None}
    assert table.counted("flows_opened", "ends_ignored", "bytes_abandoned_late") == {
        "flows_opened": 2,
        "ends_ignored": 0,
        "bytes_abandoned_late": 0,
    }


@pytest.mark.parametrize("captured", [(CLIENT,), (SERVER,), (CLIENT, SERVER)], ids=["client", "server", "both"])
def test_port_used_again_with_its_end_lost_too(captured: tuple[int, ...]) -> None:
    """Where FIN and SYN are lost, numbers of both sides far from the old ones make another connection, not of one."""
    old = Dialogue()
    exchange(old, 0)
    spoof(old, CLIENT, p.ACK, get(9), ahead=1 << 30)
    new = Dialogue(isn=(900_000_000, 2**31), handshake=False, start=old.now + 500_000)
    for number in range(3):
        exchange(new, number)
    ports = {CLIENT: b"\x9c\x40", SERVER: b"\0\x50"}
    sides = {ports[side] for side in captured}
    table = Table()
    messages = table.run(x for x in old.packets + new.packets if x.data[34:36] in sides)
    assert len({m.connection_id for m in messages}) == 2
    assert len(messages) == 4 * len(captured)
    assert {m.incomplete for m in messages} == {None}
    assert table.counted("flows_opened", "flows_replaced") == {"flows_opened": 2, "flows_replaced": 1}


@pytest.mark.parametrize("data", [False, True])
def test_data_in_the_handshake_of_a_port_used_again(data: bool) -> None:
    """What SYN and SYN-ACK carry is read where they replace a live connection, too."""
    old = Dialogue()
    exchange(old, 0)
    ends = ("192.0.2.1", "198.51.100.7")
    size = len(get(0)) if data else 0
    syn = p.tcp(40000, 80, 900_000, 0, p.SYN, get(0)[:size])
    syn_ack = p.tcp(80, 40000, 2**31, 900_001 + size, p.SYN | p.ACK, ok(0))
    frames = (p.ethernet(p.ip(*ends, syn)), p.ethernet(p.ip(*ends[::-1], syn_ack)))
    packets = [p.Packet(old.now + place, frame) for place, frame in enumerate(frames)]
    new = Dialogue(isn=(900_000, 2**31), handshake=False, start=old.now + 1000)
    new.sent = [size, len(ok(0))]
    new.client()
    exchange(new, 1)
    table = Table()
    messages = table.run(old.packets + packets + new.packets)
    assert [m.reason for m in messages if m.direction == "response"] == ["R0", "R0", "R1"]
    assert [m.path for m in messages if m.direction == "request"] == (["/0", "/0", "/1"] if data else ["/0", "/1"])
    assert table.counted("bytes_abandoned_out_of_window") == {"bytes_abandoned_out_of_window": 0}


# ---- ends that the peers ignore --------------------------------------------------------------------------------------


def assert_one_connection(messages: Sequence[RawMessage], table: Table, ends: int = 1) -> None:
    assert len({m.connection_id for m in messages}) == 1
    assert table.counted("flows_opened", "ends_ignored") == {"flows_opened": 1, "ends_ignored": ends}


@pytest.mark.parametrize("side", [CLIENT, SERVER])
def test_an_ignored_end_before_the_first_byte(side: int) -> None:
    """An ignored FIN of a side that comes before anything else was sent loses nothing, and nothing is resynced."""
    dialogue = Dialogue()
    spoof(dialogue, side, FIN_ACK)
    for number in range(3):
        exchange(dialogue, number)
    dialogue.close()
    table = Table()
    messages = table.run(dialogue.packets)
    assert seen(messages) == whole(0, 1, 2)
    assert not any(message.resynced for message in messages)
    assert table.counted("ends_ignored", "messages_resynced") == {"ends_ignored": 1, "messages_resynced": 0}


@pytest.mark.parametrize("side", [CLIENT, SERVER])
@pytest.mark.parametrize("flags", [p.RST, RST_ACK, FIN_ACK, FIN_ACK | p.PSH])
@pytest.mark.parametrize("data", [b"", INVENTED], ids=["bare", "data"])
def test_an_ignored_end_between_messages(side: int, flags: int, data: bytes) -> None:
    """A connection whose peers go on is read on: the same id, the next exchange, the answer to the request before."""
    if flags & p.FIN and data:
        pytest.skip("bytes before a FIN are bytes of the stream")
    dialogue = Dialogue()
    exchange(dialogue, 0)
    spoof(dialogue, side, flags, data)
    exchange(dialogue, 1)
    dialogue.client(get(2))
    spoof(dialogue, side, flags, data)
    dialogue.server(ok(2))
    exchange(dialogue, 3)
    dialogue.close()
    table = Table()
    messages = table.run(dialogue.packets)
    assert seen(messages) == whole(0, 1, 2, 3)
    assert {m.resynced for m in messages} == {False}
    assert_one_connection(messages, table, 2)
    assert table.counted("flows_stopped", "responses_unpaired") == {"flows_stopped": 0, "responses_unpaired": 0}


@pytest.mark.parametrize("side", [CLIENT, SERVER])
@pytest.mark.parametrize("flags", [p.RST, RST_ACK])
@pytest.mark.parametrize("later", [1000, 90_000, 150_000, 1_500_000])
def test_an_ignored_rst_before_the_syn_ack(side: int, flags: int, later: int) -> None:
    """A RST between SYN and SYN-ACK that the peers ignore loses nothing."""
    dialogue = Dialogue(handshake=False)
    dialogue.client(flags=p.SYN, offset=-1)
    spoof(dialogue, side, flags)
    dialogue.wait(later)
    dialogue.server(flags=p.SYN | p.ACK, offset=-1)
    dialogue.client()
    exchange(dialogue, 0)
    exchange(dialogue, 1)
    dialogue.close()
    table = Table()
    messages = table.run(dialogue.packets)
    assert seen(messages) == whole(0, 1)
    assert len({m.connection_id for m in messages}) == 1
    assert table.counted("flows_opened", "flows_stopped") == {"flows_opened": 1, "flows_stopped": 0}


@pytest.mark.parametrize("flags", [p.RST, FIN_ACK])
@pytest.mark.parametrize("framing", [b"Content-Length: 15\r\n\r\n", b"\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
def test_an_ignored_end_within_a_body(flags: int, framing: bytes) -> None:
    """What was under way has been emitted as cut; its rest is no message, and the next one is read."""
    body = [b"5\r\nhello\r\n", b"5\r\nthere\r\n", b"0\r\n\r\n"] if b"chunked" in framing else [b"hello"] * 3
    dialogue = Dialogue()
    exchange(dialogue, 0)
    dialogue.client(get(1))
    dialogue.server(b"HTTP/1.1 200 R1\r\n" + framing + body[0])
    spoof(dialogue, SERVER, flags)
    dialogue.server(body[1])
    dialogue.client()
    dialogue.server(body[2])
    dialogue.client()
    if framing != b"\r\n":
        exchange(dialogue, 2)
        exchange(dialogue, 3)
    dialogue.close()
    table = Table()
    messages = table.run(dialogue.packets)
    until_close = framing == b"\r\n" and flags == FIN_ACK
    cut = (1, "response", "/1", "R1", None if until_close else "closed")
    rest = whole(2, 3) if framing != b"\r\n" else []
    assert seen(messages) == [*whole(0), whole(1)[0], cut, *rest]
    assert_one_connection(messages, table)


@pytest.mark.parametrize("ahead", [1, 13, 5000, 1 << 20])
@pytest.mark.parametrize("side", [CLIENT, SERVER])
@pytest.mark.parametrize("flags", [p.RST, FIN_ACK])
def test_an_end_out_of_the_window(ahead: int, side: int, flags: int) -> None:
    """A FIN or RST ahead of all that was sent ends nothing, makes no hole, and takes nothing from what comes there."""
    dialogue = Dialogue()
    exchange(dialogue, 0)
    spoof(dialogue, side, flags, ahead=ahead)
    dialogue.wait(300_000)
    for number in range(1, 200):
        exchange(dialogue, number)
    dialogue.close()
    table = Table()
    messages = table.run(dialogue.packets)
    assert seen(messages) == whole(*range(200))
    assert table.counted("gaps", "flows_closed", "bytes_abandoned_late") == {
        "gaps": 0,
        "flows_closed": 1,
        "bytes_abandoned_late": 0,
    }


def test_an_old_fin() -> None:
    """A FIN at bytes that were read already ends nothing."""
    dialogue = Dialogue()
    exchange(dialogue, 0)
    spoof(dialogue, CLIENT, FIN_ACK, ahead=-5)
    exchange(dialogue, 1)
    assert seen(Table().run(dialogue.packets)) == whole(0, 1)


def test_what_nobody_acknowledges_resumes_nothing() -> None:
    """Bytes after a RST that the other side does not acknowledge are late: the RST has ended the connection."""
    dialogue = Dialogue()
    exchange(dialogue, 0)
    dialogue.client(flags=p.RST)
    dialogue.server(INVENTED)
    dialogue.client(flags=p.RST, offset=dialogue.sent[0])
    dialogue.server(INVENTED)
    table = Table()
    assert seen(table.feed(dialogue.take())) == whole(0)
    assert table.gauge("held_bytes") == 2 * len(INVENTED)
    dialogue.wait(2_100_000)
    dialogue.client(ack=0)
    table.feed(dialogue.take())
    assert table.gauge("memory_blocks") == 0
    assert table.counted("bytes_abandoned_late", "flows_resumed") == {
        "bytes_abandoned_late": 2 * len(INVENTED),
        "flows_resumed": 0,
    }
    table.flush()


def test_an_acknowledgement_before_what_it_acknowledges() -> None:
    """Captured in the wrong order, the ACK and the bytes that it acknowledges tell the same."""
    dialogue = Dialogue()
    exchange(dialogue, 0)
    spoof(dialogue, CLIENT, p.RST)
    exchange(dialogue, 1)
    dialogue.client()
    *before, request, response, ack = dialogue.packets
    packets = [p.Packet(START + n, packet.data) for n, packet in enumerate((*before, ack, response, request))]
    table = Table()
    messages = table.run(packets)
    assert seen(messages) == whole(0, 1)
    assert_one_connection(messages, table)


def test_a_direction_is_first_seen_behind_its_ignored_end() -> None:
    """A direction whose first captured bytes lie behind its ignored RST is read once, and no message of it is lost."""
    answer = b"HTTP/1.1 200 R\r\nX: until the end\r\n\r\nhello"
    dialogue = Dialogue(handshake=False)
    dialogue.server(flags=p.SYN | p.RST | p.ACK, offset=-1)
    dialogue.server(b"x" * 256, lost=True)
    dialogue.client(get(0))
    dialogue.server(answer)
    dialogue.client(b"POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nhello")
    dialogue.server(b"x" * 386, lost=True)
    dialogue.server(flags=FIN_ACK)
    table, messages, clock = Table(), [], 1_000_000
    for packet in dialogue.packets:
        messages += table.feed([packet], clock)
        clock += 100_000
        messages += table.tick(clock)
    messages += table.flush()
    assert [m.incomplete for m in messages if m.direction == "response"] == ["gap"]
    assert table.counted("flows_resumed", "gap_bytes") == {"flows_resumed": 1, "gap_bytes": 256 + 386}


def test_bytes_lost_behind_an_ignored_rst() -> None:
    """Bytes that the capture lost behind an ignored RST are a gap like any other."""
    found = []
    for ignored in (False, True):
        dialogue = Dialogue()
        exchange(dialogue, 0)
        if ignored:
            spoof(dialogue, CLIENT, p.RST)
        dialogue.client(get(1), lost=True)
        dialogue.server(ok(1), lost=True)
        exchange(dialogue, 2)
        dialogue.client()
        dialogue.wait(300_000)
        exchange(dialogue, 3)
        dialogue.close()
        table = Table()
        messages = table.run(dialogue.packets)
        found.append((seen(messages), [m.resynced for m in messages], table.counted("gaps", "gap_bytes")))
        assert_one_connection(messages, table, int(ignored))
    assert found[0] == found[1]


@pytest.mark.parametrize("ignored", [False, True])
def test_no_wrong_pair_behind_an_ignored_rst(ignored: bool) -> None:
    """What acknowledges lost requests behind an ignored RST does not make the next pair sure: one may be pipelined."""
    dialogue = Dialogue()
    exchange(dialogue, 0)
    if ignored:
        spoof(dialogue, CLIENT, p.RST)
    dialogue.client(get(1), lost=True)
    dialogue.server(ok(1), lost=True)
    dialogue.client(get(2), lost=True)
    dialogue.client(get(3))
    dialogue.server(ok(2))
    dialogue.client()
    dialogue.wait(300_000)
    exchange(dialogue, 4)
    dialogue.close()
    pairs = {m.reason: m.path for m in Table().run(dialogue.packets) if m.direction == "response"}
    assert pairs == {"R0": "/0", "R2": None, "R4": "/4"}


def test_syn_ack_with_payload() -> None:
    """What a server says with its SYN-ACK, and a client with its SYN, is data as any other."""
    dialogue = Dialogue(handshake=False)
    size = len(get(0))
    isn = dialogue.conversation.isn
    syn = p.tcp(40000, 80, isn[0], 0, p.SYN, get(0))
    syn_ack = p.tcp(80, 40000, isn[1], isn[0] + 1 + size, p.SYN | p.ACK, ok(0))
    ends = ("192.0.2.1", "198.51.100.7")
    packets = [
        p.Packet(START, p.ethernet(p.ip(*ends, syn))),
        p.Packet(START + 1, p.ethernet(p.ip(*ends[::-1], syn_ack))),
    ]
    dialogue.sent = [size, len(ok(0))]
    dialogue.now += 1000
    exchange(dialogue, 1)
    assert seen(Table().run(packets + dialogue.packets)) == whole(0, 1)


def test_a_banner_in_the_syn_ack() -> None:
    """A response in the SYN-ACK, before any request, is read too."""
    dialogue = Dialogue(handshake=False)
    isn = dialogue.conversation.isn
    dialogue.client(flags=p.SYN, offset=-1)
    segment = p.tcp(80, 40000, isn[1], isn[0] + 1, p.SYN | p.ACK, ok(0))
    dialogue.packets.append(p.Packet(dialogue.now, p.ethernet(p.ip("198.51.100.7", "192.0.2.1", segment))))
    dialogue.sent[1] = len(ok(0))
    dialogue.client()
    exchange(dialogue, 1)
    assert [m.reason for m in Table().run(dialogue.packets) if m.direction == "response"] == ["R0", "R1"]


# ---- memory ----------------------------------------------------------------------------------------------------------


def reset_and_more(port: int, size: int) -> Dialogue:
    """A connection that a RST has ended, and bytes of its server after that."""
    dialogue = Dialogue(client=("192.0.2.1", port))
    exchange(dialogue, 0)
    dialogue.client(flags=p.RST)
    for _ in range(size // 1000):
        dialogue.server(bytes(1000))
    return dialogue


def test_what_is_held_for_a_closed_connection_is_bounded() -> None:
    """It stands in the budget up to a cap for each connection, and goes first."""
    table = Table(memory_limit=400_000)
    open_one = Dialogue(client=("192.0.2.1", 9))
    open_one.client(b"POST / HTTP/1.1\r\nContent-Length: 99999\r\n\r\n" + b"a" * 60_000)
    table.feed(open_one.packets)
    for port in range(20, 40):
        table.feed(reset_and_more(port, 50_000).packets)
        assert table.gauge("memory_bytes") <= 400_000
    assert table.counted("bodies_evicted", "flows_evicted_memory", "bytes_abandoned_late")["bodies_evicted"] == 0
    assert [len(m.body) for m in table.flush() if m.method == "POST"] == [60_000]
    table = Table()
    table.feed(reset_and_more(1, 5_000_000).packets)
    assert 1_500_000 < table.gauge("held_bytes") <= 2 << 20
    table.flush()


def test_bytes_beyond_a_fin_go_first() -> None:
    """So does what is held beyond a FIN on a connection that is open."""
    table = Table(memory_limit=200_000)
    dialogue = Dialogue()
    dialogue.client(b"POST / HTTP/1.1\r\nContent-Length: 99999\r\n\r\n" + b"a" * 60_000)
    dialogue.server(flags=FIN_ACK)
    for _ in range(300):
        dialogue.server(bytes(1000))
    table.feed(dialogue.packets)
    assert table.gauge("memory_bytes") <= 200_000
    assert table.counted("bodies_evicted") == {"bodies_evicted": 0}
    assert [len(m.body) for m in table.flush() if m.method == "POST"] == [60_000]


def test_connections_resume_at_their_cap() -> None:
    """A closed connection has its place still: that it resumes costs no other one."""
    table = Table(max_flows=3)
    dialogues = [Dialogue(client=("192.0.2.1", port), start=START + port) for port in range(3)]
    for dialogue in dialogues:
        exchange(dialogue, 0)
        spoof(dialogue, CLIENT, p.RST)
        table.feed(dialogue.take())
    assert table.gauge("flows") == 0
    for dialogue in dialogues:
        exchange(dialogue, 1)
        assert seen(table.feed(dialogue.take())) == whole(1)
    assert table.gauge("flows") == 3
    assert table.counted("flows_evicted_capacity", "flows_evicted_silent", "flows_resumed") == {
        "flows_evicted_capacity": 0,
        "flows_evicted_silent": 0,
        "flows_resumed": 3,
    }
    table.flush()


# ---- any conversation ------------------------------------------------------------------------------------------------


def with_spoofed_ends(segments: list[Segment], random: Random) -> tuple[list[Segment], set[int]]:
    """The segments, and among them ends that the peers ignore; and in front of which segments they stand."""
    places = {random.randrange(3, len(segments)) for _ in range(random.randint(1, 4))}
    result, sent = [], [0, 0]
    for place, segment in enumerate(segments):
        if place in places:
            side = random.choice((CLIENT, SERVER))
            flags = random.choice((p.RST, RST_ACK, FIN_ACK))
            data = random.choice((b"", INVENTED)) if flags & p.RST else b""
            ahead = random.choice((0, 0, 0, 1, 700, 100_000))
            result.append(Segment(side, sent[side] + ahead, data, sent[1 - side], flags))
        result.append(segment)
        sent[segment.side] = max(sent[segment.side], segment.end)
    return result, places


def is_under_way(conversation: Conversation, span: Span, sent: int) -> bool:
    """Whether a part of the message was sent, or the whole of one that only the end of the connection ends."""
    until_close = span.side == SERVER and conversation.exchanges[span.exchange].response.framing == "close"
    return span.start < sent < span.end + until_close


@given(conversations(methods=("GET", "POST")), st.integers(0, 2**32 - 1))
def test_spoofed_ends(conversation: Conversation, seed: int) -> None:
    """Whatever FIN and RST the peers ignore: nothing is invented, no pair is wrong, only what they cut is cut."""
    random = Random(seed)
    conversation = replace(conversation, handshake=True, together=False, fin=True)
    segments = conversation.segments(cuts(random, conversation))
    last = [Segment(side, len(conversation.stream(side)), b"", len(conversation.stream(1 - side))) for side in (0, 1)]
    segments[-3:-3] = last  # each side acknowledges all before it closes
    spoofed, places = with_spoofed_ends(segments, random)
    table = Table()
    messages = table.run(conversation.packets(spoofed))
    assert assert_honest(conversation, messages) == []
    assert len({m.connection_id for m in messages}) <= 1
    assert table.counted("flows_opened") == {"flows_opened": 1}
    under_way, sent = 0, [0, 0]
    for place, segment in enumerate(segments):
        if place in places:
            under_way += sum(is_under_way(conversation, span, sent[span.side]) for span in conversation.spans())
        sent[segment.side] = max(sent[segment.side], segment.end)
    assert sum(m.incomplete is None for m in messages) >= 2 * len(conversation.exchanges) - under_way
