"""flow.pyx: each cap, with traffic made to pass it."""

from random import Random

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
