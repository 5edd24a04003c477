"""tcp/evict: each cap, with traffic made to pass it."""

from random import Random

import pytest

from tests import packets as p
from tests.conversations import START, Dialogue
from tests.laws import Table

GET = b"GET / HTTP/1.1\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n"


def upload(port: int, body: bytes, size: int = 1_000_000, start: int = START) -> Dialogue:
    """A connection with an open request."""
    dialogue = Dialogue(client=("192.0.2.1", port), start=start)
    dialogue.client(POST % size + body)
    return dialogue


def test_connections() -> None:
    """At most `max_flows`: those that never carried payload go first, then those idle longest; all is emitted."""
    table = Table(max_flows=3)
    table.feed(upload(1, b"a").packets)
    table.feed(Dialogue(client=("192.0.2.1", 2), start=START + 10_000).packets)
    table.feed(upload(3, b"c", start=START + 20_000).packets)
    assert table.feed(upload(4, b"d", start=START + 30_000).packets) == []
    assert table.counted("flows_evicted_silent", "flows_evicted_capacity") == {
        "flows_evicted_silent": 1,
        "flows_evicted_capacity": 0,
    }
    messages = table.feed(upload(5, b"e", start=START + 40_000).packets)
    assert [(m.destination[1], m.incomplete, m.body) for m in messages] == [(1, "evicted", b"a")]
    assert table.counted("flows_evicted_capacity") == {"flows_evicted_capacity": 1}
    assert table.gauge("flows") == 3
    assert [m.destination[1] for m in table.flush()] == [3, 4, 5]


def test_syn_flood() -> None:
    """A flood of SYNs costs no connection that has carried payload."""
    table = Table(max_flows=20)
    table.feed(upload(1, b"a").packets)
    flood = [Dialogue(client=("203.0.113.9", port), start=START + 10_000 + port).packets[0] for port in range(5000)]
    table.feed(flood)
    assert table.gauge("flows") <= 20
    assert [m.body for m in table.flush()] == [b"a"]


def test_head_size() -> None:
    """A head beyond `max_head` is cut by the limit, and the next message is found again."""
    dialogue = Dialogue()
    dialogue.client(b"GET /big HTTP/1.1\r\nA: 1\r\n")
    for _ in range(20):
        dialogue.client(b"B: " + b"b" * 1000 + b"\r\n")
    dialogue.client(b"\r\n")
    dialogue.server(b"HTTP/1.1 204 A\r\n\r\n")
    dialogue.client(b"GET /next HTTP/1.1\r\n\r\n")
    dialogue.server(b"HTTP/1.1 204 B\r\n\r\n")
    messages = Table(max_head=8192).run(dialogue.packets)
    requests = [(m.path, m.incomplete, m.headers.get("a")) for m in messages if m.direction == "request"]
    assert requests == [("/big", "limit", "1"), ("/next", None, None)]
    assert [m.path for m in messages if m.direction == "response"] == ["/big", "/next"]


def test_start_line_size() -> None:
    """A start line without an end is given up at the same bound, and holds no more memory than that."""
    dialogue = Dialogue()
    table = Table(max_head=8192)
    dialogue.client(b"GET /")
    for _ in range(200):
        dialogue.client(b"a" * 1000)
        table.feed(dialogue.take())
        assert table.gauge("memory_bytes") < 40_000
    assert table.flush() == []


def test_trailers_size() -> None:
    """Trailers beyond `max_head` cut the message by the limit."""
    dialogue = Dialogue()
    dialogue.client(GET)
    dialogue.server(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
    for _ in range(20):
        dialogue.server(b"B: " + b"b" * 1000 + b"\r\n")
    response = Table(max_head=8192).run(dialogue.packets)[1]
    assert response.incomplete == "limit"


def test_body_cap() -> None:
    """Of a body at most `max_body` bytes are kept; its size stays exact and it is no loss."""
    for size, cap in ((99, 100), (100, 100), (101, 100), (200_000, 100), (50, 0)):
        dialogue = Dialogue()
        dialogue.client(POST % size)
        body = Random(size).randbytes(size)
        for at in range(0, size, 1000):
            dialogue.client(body[at : at + 1000])
        (message,) = Table(max_body=cap).run(dialogue.packets)
        assert (message.body, message.body_size) == (body[:cap], size)
        assert (message.body_truncated, message.incomplete) == (size > cap, None)


def test_informational_flood() -> None:
    """Interim responses without end hold no memory."""
    dialogue = Dialogue()
    dialogue.client(GET)
    table = Table()
    for _ in range(500):
        dialogue.server(b"HTTP/1.1 102 Processing\r\n\r\n" * 20)
        table.feed(dialogue.take())
        assert table.gauge("memory_bytes") < 40_000
    table.flush()


def test_out_of_order_bytes() -> None:
    """Bytes ahead of a hole that nobody acknowledges are held up to a cap; then the hole is a gap."""
    dialogue = Dialogue()
    dialogue.client(GET)
    dialogue.server(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
    table = Table()
    end = dialogue.sent[1]
    dialogue.sent[1] += 1000
    table.feed(dialogue.take())
    held = 0
    for _ in range(3000):
        dialogue.server(b"x" * 1000, ack=18)
        table.feed(dialogue.take())
        held = max(held, table.gauge("held_bytes"))
    assert 100_000 < held < 2_500_000
    assert table.counted("gaps", "gap_bytes") == {"gaps": 1, "gap_bytes": 1000}
    (response,) = table.flush()
    assert (response.incomplete, response.body_size) == ("gap", dialogue.sent[1] - end - 1000)


def test_many_small_holes() -> None:
    """A hole after every byte is bounded as well: held segments cost memory of their own."""
    dialogue = Dialogue()
    dialogue.client(GET)
    dialogue.server(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
    table = Table(memory_limit=1 << 20)
    for _ in range(30_000):
        dialogue.sent[1] += 1
        dialogue.server(b"x", ack=18)
    table.feed(dialogue.packets)
    assert table.gauge("memory_bytes") <= 1 << 20
    table.flush()


def test_pipelined_requests() -> None:
    """Requests that nobody answers do not pile up for ever."""
    dialogue = Dialogue()
    table = Table(memory_limit=1 << 20)
    paths = 0
    for _ in range(500):
        dialogue.client(GET * 100)
        paths += len(table.feed(dialogue.take()))
        assert table.gauge("memory_bytes") <= 1 << 20
    paths += len(table.flush())
    assert paths == 50_000


def test_memory_limit() -> None:
    """Whatever traffic does, the table holds no more than its limit, each step of eviction is counted, and each message
    that had a start line is emitted.
    """
    limit = 1 << 20
    table = Table(memory_limit=limit, max_body=65536)
    random = Random(5)
    messages = []
    dialogues = [upload(1000 + number, b"", start=START + number) for number in range(300)]
    for number in range(3000):
        dialogue = random.choice(dialogues)
        dialogue.now = START + 1_000_000 + number * 100
        if random.random() < 0.2:
            dialogue.sent[0] += 100
        dialogue.client(random.randbytes(1000))
        messages += table.feed(dialogue.take())
        assert table.gauge("memory_bytes") <= limit
    messages += table.flush()
    opened = {m.destination[1] for m in messages if m.method == "POST"}
    assert opened == {d.conversation.client[1] for d in dialogues if d.sent[0] > 50}
    counters = table.counted("holds_evicted", "bodies_evicted", "flows_evicted_memory")
    assert counters["holds_evicted"] > 0
    assert counters["bodies_evicted"] > 0


def test_batches_evict_nothing() -> None:
    """What of a batch waits to be handed over evicts nobody: at once or in threes, the same messages come out."""
    packets = upload(1, b"u" * 4000, start=START - 1000).packets
    for number in range(200):
        short = Dialogue(client=("203.0.113.9", 1000 + number), start=START + number * 1000)
        short.client(GET, offset=0)
        short.server(b"HTTP/1.1 204 N\r\n\r\n")
        short.client(flags=p.RST)
        packets += short.packets
    at_once, in_threes = Table(memory_limit=20_000), Table(memory_limit=20_000)
    messages = []
    for at in range(0, len(packets), 3):
        messages += in_threes.feed(packets[at : at + 3])
    messages += in_threes.flush()
    assert [m.to_json() for m in at_once.run(packets)] == [m.to_json() for m in messages]
    assert [m.incomplete for m in messages].count("evicted") == 0
    assert at_once.core.counters() == in_threes.core.counters()


def test_order_of_eviction_holds_before_bodies() -> None:
    """Out-of-order bytes of the flow that holds most go before any kept body."""
    table = Table(memory_limit=400_000)
    body = upload(1, b"b" * 60_000)
    table.feed(body.packets)
    holder = upload(2, b"", start=START + 10_000)
    holder.sent[0] += 10
    for _ in range(500):
        holder.client(b"x" * 1000)
    messages = table.feed(holder.packets)
    assert table.counted("bodies_evicted", "flows_evicted_memory") == {"bodies_evicted": 0, "flows_evicted_memory": 0}
    assert messages == []
    kept = {m.destination[1]: m for m in table.flush()}
    assert kept[1].body == b"b" * 60_000
    assert (kept[2].incomplete, kept[2].missing_bytes is not None) == ("gap", True)


def test_order_of_eviction_bodies_before_flows() -> None:
    """The kept body of the largest open message goes before any flow: the message goes on, truncated."""
    table = Table(memory_limit=200_000)
    for number in range(4):
        table.feed(upload(1 + number, b"b" * 60_000, start=START + number * 10_000).packets)
    counters = table.counted("bodies_evicted", "flows_evicted_memory")
    assert counters["bodies_evicted"] > 0
    assert counters["flows_evicted_memory"] == 0
    messages = table.flush()
    assert [m.body_size for m in messages] == [60_000] * 4
    assert any(m.body_truncated for m in messages)


def test_many_messages_in_one_batch() -> None:
    """A batch that holds very many messages is taken in steps: feed() returns early and is called again."""
    dialogue = Dialogue()
    for _ in range(100):
        dialogue.client(GET * 500)
        dialogue.server(b"HTTP/1.1 204 No Content\r\n\r\n" * 500)
    table = Table()
    assert len(table.run(dialogue.packets)) == 100_000


def test_events_bound() -> None:
    """At most 256 events wait; what is beyond is counted."""
    table = Table()
    for port in range(1000, 1400):
        dialogue = Dialogue(client=("192.0.2.1", port))
        dialogue.client(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60))
        table.feed(dialogue.packets)
    assert len(table.core.events()) == 256
    assert table.counted("events_dropped", "flows_tls") == {"events_dropped": 144, "flows_tls": 400}
    table.flush()


def test_fragments_are_bounded() -> None:
    """Fragments that never complete are dropped, not piled up; those of a flow are read as its segment."""
    request = p.tcp(40000, 80, 1001, 0, p.ACK, GET)
    table = Table(linktype=p.RAW)
    whole = p.fragments_ipv4("192.0.2.1", "198.51.100.7", request, 16)
    assert table.feed([p.Packet(START + n, data) for n, data in enumerate(whole[::-1])]) == []
    flood = [p.fragments_ipv4("192.0.2.1", "198.51.100.7", bytes(1600), 800, identification=n)[0] for n in range(5000)]
    table.feed([p.Packet(START + 100 + n, data) for n, data in enumerate(flood)])
    assert table.gauge("memory_bytes") < (1 << 20) + 100_000
    assert table.counted("packets_fragment", "packets_parsed") == {
        "packets_fragment": len(whole) - 1 + 5000,
        "packets_parsed": 1,
    }
    assert [m.path for m in table.flush()] == ["/"]


@pytest.mark.slow
def test_more_connections_than_buckets() -> None:
    """The table grows with its connections: each of thousands is found again, and only once."""
    table = Table()
    dialogues = [upload(port, b"a", size=2) for port in range(1000, 5000)]
    for dialogue in dialogues:
        table.feed(dialogue.take())
    assert table.gauge("flows") == 4000
    for dialogue in dialogues:
        dialogue.client(b"b")
        (message,) = table.feed(dialogue.take())
        assert (message.destination[1], message.body) == (dialogue.conversation.client[1], b"ab")
    assert table.counted("flows_opened", "gaps") == {"flows_opened": 4000, "gaps": 0}
    assert table.flush() == []


def both_captured(port: int, start: int = START) -> Dialogue:
    """A connection seen mid-stream with nothing to say who is the server: 50 KB that begin no message."""
    dialogue = Dialogue(client=("192.0.2.1", port), handshake=False, start=start)
    for _ in range(25):
        dialogue.client(b"\0" * 1000)
        dialogue.server(b"\0" * 1000)
    return dialogue


def test_memory_limit_and_an_undecided_server() -> None:
    """What is held until the server is known goes first: its connection is undecided for good, others keep theirs."""
    table = Table(ports=(80, *range(1000, 1010)), memory_limit=150_000)
    kept = upload(9, b"b" * 40_000)
    table.feed(kept.packets)
    undecided = [both_captured(1000 + n, START + 10_000 * n) for n in range(4)]
    for dialogue in undecided:
        table.feed(dialogue.take())
        assert table.gauge("memory_bytes") <= 150_000
    counters = table.counted("holds_evicted", "flows_undecided", "bodies_evicted", "bytes_abandoned_undecided")
    assert counters == {
        "holds_evicted": 3,
        "flows_undecided": 3,
        "bodies_evicted": 0,
        "bytes_abandoned_undecided": 3 * 50_000,
    }
    assert [m.body for m in table.flush()] == [b"b" * 40_000]


def test_connections_and_an_undecided_server() -> None:
    """A connection evicted before its server is known: if what is held tells now, its messages are emitted."""
    table = Table(ports=(80, 1000, 1001), max_flows=1)
    telling = Dialogue(client=("192.0.2.1", 1000), handshake=False)
    telling.client(GET, ack=0)
    silent = Dialogue(client=("192.0.2.1", 1001), handshake=False, start=START + 1000)
    silent.client(b"\0" * 10, ack=0)
    assert table.feed(telling.packets) == []
    messages = table.feed(silent.packets)
    assert [(m.method, m.receiver[1], m.incomplete) for m in messages] == [("GET", 80, None)]
    last = upload(2, b"", start=START + 2000)
    assert table.feed(last.packets) == []
    assert table.counted("flows_evicted_capacity", "bytes_abandoned_evicted", "bytes_used") == {
        "flows_evicted_capacity": 2,
        "bytes_abandoned_evicted": 10,
        "bytes_used": len(GET) + len(POST % 1_000_000),
    }
    table.flush()


def test_bytes_behind_an_unanswered_syn() -> None:
    """What follows a SYN that nobody answers is held up to a cap, then given up; the live connection goes on."""
    dialogue = upload(1, b"a", size=2)
    dialogue.server()
    forged = Dialogue(client=("192.0.2.1", 1), isn=(1_500_000_000, 0), handshake=False, start=dialogue.now)
    forged.client(flags=p.SYN, offset=-1)
    table = Table()
    table.feed(dialogue.take() + forged.take())
    held = fed = 0
    while table.gauge("held_bytes") >= held:
        held = table.gauge("held_bytes")
        forged.client(b"x" * 1000)
        fed += 1000
        table.feed(forged.take())
        assert fed <= 2 << 20
    assert 1_800_000 < held == fed - 1000
    assert table.gauge("held_bytes") == 0
    assert table.counted("bytes_abandoned_evicted") == {"bytes_abandoned_evicted": fed}
    forged.client(b"x" * 1000)
    dialogue.now = forged.now
    dialogue.client(b"b")
    (message,) = table.feed(forged.take() + dialogue.take())
    assert (message.body, message.incomplete) == (b"ab", None)
    assert table.counted("bytes_abandoned_out_of_window", "flows_opened", "flows_replaced") == {
        "bytes_abandoned_out_of_window": 1000,
        "flows_opened": 1,
        "flows_replaced": 0,
    }
    assert table.flush() == []


def again(dialogue: Dialogue) -> Dialogue:
    """The same ports, used by a new connection that makes one exchange."""
    ends = dialogue.conversation
    following = Dialogue(client=ends.client, server=ends.server, isn=(900_000_000, 800_000_000), start=dialogue.now)
    following.client(GET)
    following.server(b"HTTP/1.1 204 A\r\n\r\n")
    return following


def test_port_used_again_after_tls() -> None:
    """A new SYN on the ports of a connection that is not read begins one that is; the old SYN again does not."""
    dialogue = Dialogue()
    syn = dialogue.packets[0]
    dialogue.client(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60))
    table = Table()
    table.feed([*dialogue.packets, p.Packet(dialogue.now, syn.data)])
    names = ("flows_tls", "flows_opened", "flows_replaced")
    assert table.counted(*names) == dict(zip(names, (1, 1, 0), strict=True))
    messages = table.feed(again(dialogue).packets)
    assert [(m.direction, m.exchange) for m in messages] == [("request", 0), ("response", 0)]
    assert table.counted(*names) == dict(zip(names, (1, 2, 1), strict=True))
    table.flush()


def test_port_used_again_when_sampled_out() -> None:
    """A new SYN on a connection that the sample leaves out is another one, left out as well and counted again."""
    dialogue = Dialogue()
    syn = dialogue.packets[0]
    dialogue.client(GET)
    table = Table(sample_rate=0.0)
    table.feed([*dialogue.packets, p.Packet(dialogue.now, syn.data)])
    names = ("flows_sampled_out", "segments_sampled_out", "flows_opened", "flows_replaced")
    assert table.counted(*names) == dict(zip(names, (1, 5, 1, 0), strict=True))
    assert table.feed(again(dialogue).packets) == []
    assert table.counted(*names) == dict(zip(names, (2, 10, 2, 1), strict=True))
    table.flush()


def test_direction_that_comes_late() -> None:
    """A direction known by the other side's ACKs only is not waited for beyond the grace; seen at last, it is read."""
    dialogue = Dialogue(handshake=False)
    dialogue.server(flags=p.SYN | p.ACK, offset=-1)
    for number in range(3):
        dialogue.client(GET, lost=True)
        dialogue.server(b"HTTP/1.1 200 R%d\r\nContent-Length: 0\r\n\r\n" % number)
    table = Table()
    assert table.feed(dialogue.take()) == []
    dialogue.wait(100_000)
    dialogue.server()
    messages = table.feed(dialogue.take())
    assert [(m.path, m.reason) for m in messages] == [(None, "R0"), (None, "R1"), (None, "R2")]
    dialogue.client(GET, lost=True)
    dialogue.server(b"HTTP/1.1 200 R3\r\nContent-Length: 0\r\n\r\n")
    assert [m.reason for m in table.feed(dialogue.take())] == ["R3"]
    dialogue.client(b"GET /late HTTP/1.1\r\n\r\n")
    dialogue.wait(200_000)
    dialogue.server(b"HTTP/1.1 200 Late\r\nContent-Length: 0\r\n\r\n")
    messages = table.feed(dialogue.take()) + table.flush()
    assert [(m.direction, m.path, m.reason) for m in messages] == [
        ("request", "/late", None),
        ("response", "/late", "Late"),
    ]
    assert table.counted("gaps", "gap_bytes", "responses_unpaired") == {
        "gaps": 1,
        "gap_bytes": 4 * len(GET),
        "responses_unpaired": 4,
    }
