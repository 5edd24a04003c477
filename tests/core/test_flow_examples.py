"""FlowTable by example: one test for each rule about connections, pairing and what follows a loss."""

import gzip
from collections.abc import Sequence
from typing import Any

import pytest

from sniffer_core.core import FlowTable, RawMessage
from tests import packets as p
from tests.conversations import START, Dialogue
from tests.laws import Table

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
INVENTED = b"HTTP/1.1 200 Invented\r\nContent-Length: 0\r\n\r\n"


def get(path: str, **fields: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"GET /{path} HTTP/1.1\r\n{lines}\r\n".encode()


def answer(reason: str, body: bytes = b"") -> bytes:
    return f"HTTP/1.1 200 {reason}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def seen(messages: Sequence[RawMessage]) -> list[tuple[Any, ...]]:
    """(exchange, start line, cut by) of each: the path of a request, (path, reason) of a response."""
    return [
        (m.exchange, m.path if m.direction == "request" else (m.path, m.reason), m.incomplete)
        for m in sorted(messages, key=lambda m: (m.exchange, m.direction))
    ]


def one(messages: Sequence[RawMessage], direction: str = "response") -> RawMessage:
    """The only message of this direction."""
    (message,) = (m for m in messages if m.direction == direction)
    return message


def run(dialogue: Dialogue, **options: Any) -> list[RawMessage]:
    return Table(**options).run(dialogue.packets)


# ---- the table itself ------------------------------------------------------------------------------------------------


def test_unknown_link_type() -> None:
    """A link type that cannot be read is a ValueError."""
    with pytest.raises(ValueError, match="147"):
        FlowTable(linktype=147, ports=[80])


def test_the_whole_record() -> None:
    """Every attribute of a request and its response."""
    dialogue = Dialogue()
    dialogue.client(b"POST /a?b HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 3\r\n\r\nabc")
    dialogue.wait(4000)
    dialogue.server(b"HTTP/1.0 201 Made it\r\nSet-Cookie: a\r\nContent-Length: 2\r\n\r\n\xff\x00")
    request, response = run(dialogue)
    assert (request.direction, response.direction) == ("request", "response")
    for message in (request, response):
        assert message.receiver == ("198.51.100.7", 80)
        assert message.destination == ("192.0.2.1", 40000)
        assert message.exchange == 0
        assert len(message.connection_id) == 32
        assert message.connection_id == request.connection_id
        assert (message.method, message.path) == ("POST", "/a?b")
        assert (message.incomplete, message.missing_bytes, message.resynced) == (None, None, False)
        assert (message.anomalies, message.informational, message.trailers) == ((), (), None)
        assert (message.trace_id, message.span_id, message.body_truncated) == (None, None, False)
        assert not message.carried
    assert request.headers == {"host": "h", "x-a": "1, 2", "content-length": "3"}
    assert response.headers == {"set-cookie": ["a"], "content-length": "2"}
    assert (request.http_version, response.http_version) == ("1.1", "1.0")
    assert (request.status_code, request.reason, request.latency_us) == (None, None, None)
    assert (response.status_code, response.reason, response.latency_us) == (201, "Made it", 5000)
    assert (request.body, request.body_size, response.body, response.body_size) == (b"abc", 3, b"\xff\x00", 2)
    assert (request.timestamp, response.timestamp) == (START + 3000, START + 8000)


def test_carried_fields() -> None:
    """The request's values of the fields named by `carry` stand on the request and on its response."""
    dialogue = Dialogue()
    dialogue.client(get("a", User_Agent="probe", Other="x"))
    dialogue.server(OK)
    assert [m.carried for m in run(dialogue, carry=("user-agent", "absent"))] == [("probe", None)] * 2


TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        (TRACEPARENT, True),
        (TRACEPARENT.upper(), False),
        ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", False),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01", False),
        ("ff" + TRACEPARENT[2:], False),
        (TRACEPARENT + "-more", False),
        ("01" + TRACEPARENT[2:] + "-more", True),
        (TRACEPARENT[:-1], False),
    ],
)
def test_traceparent(value: str, valid: bool) -> None:
    """A valid W3C traceparent of the request is read for it and for its response, another is not."""
    dialogue = Dialogue()
    dialogue.client(get("a", traceparent=value))
    dialogue.server(OK)
    ids = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7") if valid else (None, None)
    assert [(m.trace_id, m.span_id) for m in run(dialogue)] == [ids, ids]


def test_connection_ids() -> None:
    """The same traffic has the same ids each time; another connection, or another start, has others."""

    def ids(port: int, start: int) -> set[str]:
        dialogue = Dialogue(client=("192.0.2.1", port), start=start)
        dialogue.client(GET)
        dialogue.server(OK)
        return {m.connection_id for m in run(dialogue)}

    assert ids(40000, START) == ids(40000, START)
    assert len(ids(40000, START) | ids(40001, START) | ids(40000, START + 1)) == 3


# ---- roles -----------------------------------------------------------------------------------------------------------


def test_syn_decides_the_server() -> None:
    """A flow whose server port is not captured is ignored and counted, though the client's port is a captured one."""
    dialogue = Dialogue(client=("192.0.2.1", 80), server=("198.51.100.7", 9999))
    dialogue.client(GET)
    dialogue.server(OK)
    table = Table()
    assert table.run(dialogue.packets) == []
    assert table.counted("flows_other_server") == {"flows_other_server": 1}


def test_syn_ack_decides_the_server() -> None:
    """So does the SYN-ACK when the SYN was not seen."""
    dialogue = Dialogue(client=("192.0.2.1", 80), server=("198.51.100.7", 81))
    dialogue.client(GET)
    dialogue.server(OK)
    messages = run(dialogue, ports=(80, 81))
    without_syn = Table(ports=(80, 81)).run(dialogue.packets[1:])
    assert {m.receiver for m in messages + without_syn} == {("198.51.100.7", 81)}
    assert len(messages) == len(without_syn) == 2


def test_captured_port_decides_the_server() -> None:
    """Without a SYN the end with the captured port is the server."""
    dialogue = Dialogue(handshake=False)
    dialogue.server(OK)
    assert one(run(dialogue)).receiver == ("198.51.100.7", 80)


@pytest.mark.parametrize("first", ["request", "response"])
def test_start_line_decides_the_server(first: str) -> None:
    """Without a SYN and with both ports captured, who speaks a start line decides."""
    dialogue = Dialogue(handshake=False, client=("192.0.2.1", 8080))
    if first == "request":
        dialogue.client(GET)
    dialogue.server(OK)
    messages = run(dialogue, ports=(80, 8080))
    assert {m.receiver for m in messages} == {("198.51.100.7", 80)}
    assert len(messages) == (2 if first == "request" else 1)


def test_undecided() -> None:
    """If neither side speaks a start line the flow is given up after 64 KiB."""
    dialogue = Dialogue(handshake=False, client=("192.0.2.1", 8080))
    for _ in range(70):
        dialogue.client(b"\0" * 1000)
    dialogue.client(GET)
    table = Table(ports=(80, 8080))
    assert table.run(dialogue.packets) == []
    assert table.counted("flows_undecided") == {"flows_undecided": 1}
    assert [kind for kind, *_ in table.core.events()] == ["undecided"]


def test_other_ports() -> None:
    """Segments between ports that are not captured are counted and nothing else."""
    dialogue = Dialogue(server=("198.51.100.7", 81))
    dialogue.client(GET)
    table = Table()
    assert table.run(dialogue.packets) == []
    counters = table.counted("segments_other_port", "bytes_abandoned_other_port", "flows_opened")
    assert list(counters.values()) == [4, len(GET), 0]


def test_one_sided() -> None:
    """One side alone is read; a response without its request says no method."""
    dialogue = Dialogue()
    dialogue.client(GET, lost=True)
    dialogue.server(OK)
    dialogue.client(GET, lost=True)
    dialogue.server(OK)
    server_side = [packet for packet in dialogue.packets if packet.data[34:36] == b"\0\x50"]
    messages = Table().run(server_side)
    assert seen(messages) == [(0, (None, "OK"), None), (1, (None, "OK"), None)]


# ---- exclusion and sampling ------------------------------------------------------------------------------------------


def test_own_deliveries() -> None:
    """A flow that begins while its local socket is excluded is left out; one after readmit() is not."""
    table = Table()
    table.core.exclude("192.0.2.1", 40000)
    dialogue = Dialogue()
    dialogue.client(GET)
    dialogue.server(OK)
    dialogue.close()
    assert table.feed(dialogue.packets) == []
    assert table.counted("flows_own", "bytes_abandoned_own") == {
        "flows_own": 1,
        "bytes_abandoned_own": len(GET) + len(OK),
    }
    table.core.readmit("192.0.2.1", 40000)
    again = Dialogue(isn=(77, 88), start=dialogue.now + 10_000_000)
    again.client(GET)
    again.server(OK)
    assert len(table.run(again.packets)) == 2


def test_own_deliveries_ipv6() -> None:
    """The same over IPv6, whichever way the address is written."""
    table = Table()
    table.core.exclude("2001:0db8::0001", 40000)
    dialogue = Dialogue(client=("2001:db8::1", 40000), server=("2001:db8::2", 80))
    dialogue.client(GET)
    assert table.run(dialogue.packets) == []


def sampled(rate: float) -> set[int]:
    """The client ports of the connections that are sampled in; each has both its messages."""
    ports = set()
    table = Table(sample_rate=rate)
    for port in range(10_000, 10_400):
        dialogue = Dialogue(client=("192.0.2.1", port))
        dialogue.client(GET)
        dialogue.server(OK)
        messages = table.feed(dialogue.packets)
        assert len(messages) in (0, 2)
        if messages:
            ports.add(port)
    table.flush()
    return ports


def test_sampling() -> None:
    """A fraction of the connections, both directions of each, always the same ones, more with a higher rate."""
    assert sampled(0.0) == set()
    assert len(sampled(1.0)) == 400
    few, half = sampled(0.2), sampled(0.5)
    assert 140 < len(half) < 260
    assert few < half
    assert sampled(0.5) == half


def test_sampled_out_is_counted() -> None:
    """What sampling leaves out is counted: the flow's segments and bytes."""
    dialogue = Dialogue()
    dialogue.client(GET)
    table = Table(sample_rate=0.0)
    assert table.run(dialogue.packets) == []
    assert table.counted("segments_sampled_out", "bytes_abandoned_sampled_out") == {
        "segments_sampled_out": 4,
        "bytes_abandoned_sampled_out": len(GET),
    }


# ---- connections -----------------------------------------------------------------------------------------------------


def test_syn_with_data() -> None:
    """Data in a SYN (TCP Fast Open) is the first data."""
    dialogue = Dialogue(handshake=False)
    conversation = dialogue.conversation
    dialogue.client(GET, flags=p.SYN, offset=0)
    syn = dialogue.packets.pop()
    data = bytearray(syn.data)
    data[38:42] = conversation.isn[0].to_bytes(4, "big")  # a SYN's data comes after the number that it takes itself
    dialogue.packets.append(p.Packet(syn.stamp, bytes(data)))
    dialogue.server(flags=p.SYN | p.ACK, offset=-1)
    dialogue.server(OK)
    assert seen(run(dialogue)) == [(0, "/", None), (0, ("/", "OK"), None)]


def test_fin_before_data() -> None:
    """FIN marks a position: the data before it may still come, within the grace."""
    dialogue = Dialogue()
    dialogue.client(GET)
    dialogue.server(b"HTTP/1.1 200 OK\r\n\r\n")
    dialogue.server(b"until close")
    late = dialogue.packets.pop()
    dialogue.server(flags=p.FIN | p.ACK)
    dialogue.packets.append(p.Packet(dialogue.now + 90_000, late.data))
    response = one(run(dialogue))
    assert (response.body, response.incomplete) == (b"until close", None)


def test_fin_after_a_hole() -> None:
    """FIN starts the grace for the holes before it, even if no ACK passes them: then the message is cut by the gap."""
    dialogue = Dialogue()
    dialogue.client(GET)
    dialogue.server(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
    dialogue.server(b"01234", lost=True)
    dialogue.server(b"56789")
    dialogue.server(flags=p.FIN | p.ACK)
    table = Table()
    assert [m.direction for m in table.feed(dialogue.take())] == ["request"]
    dialogue.wait(200_000)
    dialogue.client(ack=100)
    (response,) = table.feed(dialogue.take())
    assert (response.incomplete, response.missing_bytes, response.body, response.body_size) == ("gap", 5, b"", 5)
    table.flush()


def test_half_close() -> None:
    """The client may close its side before the answer comes."""
    dialogue = Dialogue()
    dialogue.client(GET)
    dialogue.client(flags=p.FIN | p.ACK)
    dialogue.wait(5_000_000)
    dialogue.server(OK)
    dialogue.server(flags=p.FIN | p.ACK)
    table = Table()
    assert seen(table.feed(dialogue.packets)) == [(0, "/", None), (0, ("/", "OK"), None)]
    assert table.flush() == []


def test_until_close() -> None:
    """A body without a length is whole at FIN, and `closed` at RST."""
    for flags, cut_by in ((p.FIN | p.ACK, None), (p.RST, "closed"), (p.RST | p.ACK, "closed")):
        dialogue = Dialogue()
        dialogue.client(GET)
        dialogue.server(b"HTTP/1.1 200 OK\r\n\r\nbody")
        dialogue.server(flags=flags)
        response = one(run(dialogue))
        assert (response.body, response.incomplete) == (b"body", cut_by)


def test_closed_in_a_body() -> None:
    """A body that a FIN or an RST cuts short is `closed`, and what is missing is known."""
    for flags in (p.FIN | p.ACK, p.RST):
        dialogue = Dialogue()
        dialogue.client(GET)
        dialogue.server(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nbody")
        dialogue.server(flags=flags)
        response = one(run(dialogue))
        assert (response.body, response.incomplete, response.missing_bytes) == (b"body", "closed", 6)


def test_rst_out_of_place() -> None:
    """An RST counts only at the next expected byte or at bytes already seen; a forged one ahead ends nothing."""
    dialogue = Dialogue()
    dialogue.client(GET)
    dialogue.server(flags=p.RST, offset=500)
    dialogue.sent[1] = 0
    dialogue.server(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
    dialogue.server(b"body")
    table = Table()
    assert [m.incomplete for m in table.feed(dialogue.packets)] == [None, None]
    assert table.gauge("flows") == 1
    table.flush()


def test_tombstone() -> None:
    """A closed flow stays for 2 s, so that late packets neither open another nor say anything."""
    dialogue = Dialogue()
    dialogue.client(GET)
    dialogue.server(OK)
    dialogue.close()
    table = Table()
    table.feed(dialogue.take())
    dialogue.wait(1_900_000)
    dialogue.server(OK, offset=0)
    assert table.feed(dialogue.take()) == []
    assert table.counted("flows_opened", "flows_closed") == {"flows_opened": 1, "flows_closed": 1}
    dialogue.wait(5_000_000)
    dialogue.client(offset=1)
    assert table.feed(dialogue.take()) == []
    assert table.counted("flows_opened", "segments_no_flow") == {"flows_opened": 1, "segments_no_flow": 1}
    table.flush()


def test_packets_that_make_no_flow() -> None:
    """Packets without payload or SYN make no flow."""
    dialogue = Dialogue(handshake=False)
    dialogue.client()
    dialogue.server(flags=p.FIN | p.ACK)
    dialogue.server(flags=p.RST)
    table = Table()
    assert table.run(dialogue.packets) == []
    assert table.counted() == {"packets_seen": 3, "packets_parsed": 3, "segments_no_flow": 3}


def two_connections(between: list[p.Packet]) -> tuple[Dialogue, Dialogue]:
    """A conversation on a port, and another after it with new sequence numbers."""
    first = Dialogue()
    first.client(get("first"))
    first.server(answer("First"))
    between += first.packets
    second = Dialogue(isn=(900_000, 2**31), start=first.now + 1000)
    second.client(get("second"))
    second.server(answer("Second"))
    return first, second


def test_port_used_again_after_close() -> None:
    """A new SYN on a closed flow starts the new connection at once, with an id and exchanges of its own."""
    packets: list[p.Packet] = []
    first, second = two_connections(packets)
    first.close()
    table = Table()
    messages = table.run(first.packets + second.packets)
    assert [m.path for m in messages] == ["/first", "/first", "/second", "/second"]
    assert len({m.connection_id for m in messages}) == 2
    assert {m.exchange for m in messages} == {0}
    assert table.counted("flows_opened", "flows_closed", "flows_stopped", "gaps") == {
        "flows_opened": 2,
        "flows_closed": 1,
        "flows_stopped": 1,
        "gaps": 0,
    }


def test_port_used_again_on_a_live_flow() -> None:
    """A new SYN on a live flow is believed when it is answered: then the old connection is replaced."""
    packets: list[p.Packet] = []
    first, second = two_connections(packets)
    table = Table()
    messages = table.run(first.packets + second.packets)
    assert [(m.path, m.incomplete) for m in messages] == [("/first", None)] * 2 + [("/second", None)] * 2
    assert len({m.connection_id for m in messages}) == 2
    assert table.counted("flows_replaced") == {"flows_replaced": 1}


def test_forged_syn() -> None:
    """A SYN with another number that nobody answers changes nothing on a live flow."""
    dialogue = Dialogue()
    dialogue.client(get("first"))
    dialogue.client(flags=p.SYN, offset=5_000_000)
    dialogue.sent[0] = len(get("first"))
    dialogue.server(answer("First"))
    dialogue.client(get("second"))
    dialogue.server(answer("Second"))
    table = Table()
    assert seen(table.run(dialogue.packets)) == [
        (0, "/first", None),
        (0, ("/first", "First"), None),
        (1, "/second", None),
        (1, ("/second", "Second"), None),
    ]
    assert table.counted("flows_opened", "flows_replaced") == {"flows_opened": 1, "flows_replaced": 0}


def test_retransmitted_syn() -> None:
    """The same SYN again is the same connection."""
    dialogue = Dialogue()
    syn = dialogue.packets[0]
    dialogue.client(GET)
    dialogue.packets.append(syn)
    dialogue.server(OK)
    table = Table()
    assert len(table.run(dialogue.packets)) == 2
    assert table.counted("flows_opened") == {"flows_opened": 1}


def test_mid_stream_base() -> None:
    """The base of a direction first seen mid-stream is provisional: earlier segments move it back, a late SYN fits."""
    dialogue = Dialogue()
    dialogue.client(b"GET / HTTP/1.1\r\n")
    dialogue.client(b"Host: h\r\n\r\n")
    dialogue.server(OK[:20])
    dialogue.server(OK[20:])
    syn, syn_ack, _, head, rest, first, last = dialogue.packets
    packets = [p.Packet(START + n * 1000, x.data) for n, x in enumerate((last, rest, first, head, syn_ack, syn))]
    table = Table()
    assert seen(table.run(packets)) == [(0, "/", None), (0, ("/", "OK"), None)]
    assert table.counted("flows_opened", "gaps") == {"flows_opened": 1, "gaps": 0}


def test_order_of_flush() -> None:
    """flush() ends the flows in order of creation."""
    table = Table()
    ports = [50_000 - 7 * n for n in range(50)]
    for port in ports:
        dialogue = Dialogue(client=("192.0.2.1", port))
        dialogue.client(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
        assert table.feed(dialogue.packets) == []
    messages = table.flush()
    assert [m.destination[1] for m in messages] == ports
    assert {m.incomplete for m in messages} == {"stopped"}


# ---- time ------------------------------------------------------------------------------------------------------------


def hole(dialogue: Dialogue) -> None:
    """A body of ten bytes with its middle lost."""
    dialogue.client(GET)
    dialogue.server(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n012")
    dialogue.server(b"345", lost=True)
    dialogue.server(b"6789")


@pytest.mark.parametrize(("later", "ended"), [(90_000, False), (110_000, True)])
def test_hole_that_the_peer_acknowledged(later: int, ended: bool) -> None:
    """A hole becomes a gap 100 ms of packet time after the peer's ACK passed it, and not before."""
    dialogue = Dialogue()
    hole(dialogue)
    dialogue.client()
    acknowledged = dialogue.now - 1000
    table = Table()
    assert len(table.feed(dialogue.take())) == 1
    dialogue.now = acknowledged + later
    dialogue.client()
    messages = table.feed(dialogue.take())
    if ended:
        assert [(m.incomplete, m.missing_bytes, m.body, m.body_size) for m in messages] == [("gap", 3, b"012", 7)]
    else:
        assert messages == []
        dialogue.server(b"345", offset=dialogue.sent[1] - 7)
        assert [(m.incomplete, m.body) for m in table.feed(dialogue.take())] == [(None, b"0123456789")]
    table.flush()


@pytest.mark.parametrize("later", [500_000, 30_000_000])
def test_hole_that_nobody_acknowledged(later: int) -> None:
    """A hole stays a hole while the peer, who is seen, does not acknowledge it: the bytes will be sent again."""
    dialogue = Dialogue()
    hole(dialogue)
    dialogue.client(ack=dialogue.sent[1] - 7)
    dialogue.wait(later)
    dialogue.client(ack=dialogue.sent[1] - 7)
    dialogue.server(b"345", offset=dialogue.sent[1] - 7)
    assert one(run(dialogue)).body == b"0123456789"


@pytest.mark.parametrize(("later", "ended"), [(900_000, False), (1_100_000, True)])
def test_hole_with_an_unseen_peer(later: int, ended: bool) -> None:
    """A hole becomes a gap after 1 s if the peer's direction is unseen."""
    dialogue = Dialogue()
    hole(dialogue)
    packets = [packet for packet in dialogue.packets if packet.data[34:36] == b"\0\x50"]
    table = Table()
    assert table.feed(packets) == []
    dialogue.now = packets[-1].stamp + later
    dialogue.packets.clear()
    dialogue.server(b"9", offset=dialogue.sent[1] - 1)
    assert len(table.feed(dialogue.take())) == ended
    table.flush()


def test_idle_timeout() -> None:
    """A flow without a packet of either direction for the timeout ends, by packet time; what it held is `idle`."""
    dialogue = Dialogue()
    dialogue.client(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc")
    table = Table(idle_timeout_us=10_000_000)
    table.feed(dialogue.take())
    other = Dialogue(client=("192.0.2.9", 1), start=dialogue.now + 9_900_000)
    other.client(GET)
    assert len(table.feed(other.take())) == 1
    other.wait(200_000)
    other.client(GET)
    messages = table.feed(other.take())
    assert [(m.method, m.incomplete, m.body) for m in messages if m.method == "POST"] == [("POST", "idle", b"abc")]
    assert table.counted("flows_idle") == {"flows_idle": 1}
    table.flush()


def test_clock_that_jumps() -> None:
    """Live, core time advances by no more than monotonic time + 1 s: a clock that jumps expires nothing."""
    dialogue = Dialogue()
    dialogue.client(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc")
    table = Table(idle_timeout_us=10_000_000)
    table.feed(dialogue.take(), clock_us=1_000_000)
    dialogue.wait(3_600_000_000)
    dialogue.client(b"def")
    assert table.feed(dialogue.take(), clock_us=1_100_000) == []
    dialogue.wait(-7_200_000_000)
    dialogue.client(b"ghi")
    assert [m.incomplete for m in table.feed(dialogue.take(), clock_us=1_200_000)] == [None]
    table.flush()


def test_tick() -> None:
    """An idle live capture lets time pass by tick(): flows expire without a packet."""
    dialogue = Dialogue()
    dialogue.client(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc")
    table = Table(idle_timeout_us=10_000_000)
    table.feed(dialogue.packets, clock_us=1_000_000)
    assert table.tick(5_000_000) == []
    messages = [m for clock in range(6_000_000, 14_000_000, 100_000) for m in table.tick(clock)]
    assert [m.incomplete for m in messages] == ["idle"]
    table.flush()


def test_long_message() -> None:
    """A message open for 60 s is shown in a gauge, counted and told once."""
    dialogue = Dialogue()
    dialogue.client(GET)
    dialogue.server(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    table = Table()
    for _ in range(8):
        dialogue.server(b"5\r\nevent\r\n")
        dialogue.client()
        dialogue.wait(10_000_000)
        table.feed(dialogue.take())
    assert (table.gauge("messages_open"), table.gauge("messages_long")) == (1, 1)
    assert table.counted("messages_long") == {"messages_long": 1}
    assert [kind for kind, *_ in table.core.events()] == ["long-message"]
    (response,) = table.flush()
    assert (response.incomplete, response.body) == ("stopped", b"event" * 8)


# ---- pairing ---------------------------------------------------------------------------------------------------------


def test_pipelining() -> None:
    """Several requests, then their responses, in order; all in one segment each way."""
    dialogue = Dialogue()
    dialogue.client(get("a") + get("b") + get("c"))
    dialogue.server(answer("A", b"1") + NO_CONTENT + answer("C", b"333"))
    assert seen(run(dialogue)) == [
        (0, "/a", None),
        (0, ("/a", "A"), None),
        (1, "/b", None),
        (1, ("/b", "No Content"), None),
        (2, "/c", None),
        (2, ("/c", "C"), None),
    ]


def test_head_by_its_request() -> None:
    """A HEAD among pipelined requests frames its own response and no other."""
    dialogue = Dialogue()
    dialogue.client(get("a") + b"HEAD /b HTTP/1.1\r\n\r\n" + get("c"))
    dialogue.server(answer("A", b"1") + b"HTTP/1.1 200 B\r\nContent-Length: 999\r\n\r\n" + answer("C", b"3"))
    messages = run(dialogue)
    assert [m.reason for m in messages if m.direction == "response"] == ["A", "B", "C"]
    assert {m.incomplete for m in messages} == {None}


def test_answer_before_the_request_ended() -> None:
    """An early answer to an upload belongs to it, comes first, and has no latency."""
    dialogue = Dialogue()
    dialogue.client(b"POST /up HTTP/1.1\r\nContent-Length: 10\r\n\r\n01234")
    dialogue.server(b"HTTP/1.1 413 Too big\r\nContent-Length: 0\r\n\r\n")
    dialogue.client(b"56789")
    response, request = run(dialogue)
    assert (response.status_code, response.method, response.exchange, response.latency_us) == (413, "POST", 0, None)
    assert (request.body, request.exchange, request.incomplete) == (b"0123456789", 0, None)


def test_response_waits_for_its_request() -> None:
    """A response that is captured before its request is held until the requests have been read as far as its ACK."""
    dialogue = Dialogue()
    dialogue.client(get("late"))
    late = dialogue.packets.pop()
    dialogue.server(answer("A"))
    table = Table()
    assert table.feed(dialogue.take()) == []
    assert seen(table.feed([p.Packet(dialogue.now, late.data)])) == [(0, "/late", None), (0, ("/late", "A"), None)]
    table.flush()


def test_pairing_after_a_lost_request() -> None:
    """After a gap a response takes the request that it acknowledges; the one whose request is lost takes none."""
    dialogue = Dialogue()
    for name, lost in (("a", False), ("b", True), ("c", False)):
        dialogue.client(get(name), lost=lost)
        dialogue.server(answer(name.upper()))
        dialogue.wait(300_000)
    messages = run(dialogue)
    pairs = [(m.path, m.reason) for m in messages if m.direction == "response"]
    assert pairs == [("/a", "A"), (None, "B"), ("/c", "C")]
    assert [m.resynced for m in messages if m.path == "/c" and m.direction == "request"] == [True]
    assert {m.incomplete for m in messages} == {None}
    exchanges = {m.reason: m.exchange for m in messages if m.direction == "response"}
    assert len(set(exchanges.values())) == 3


def test_pairing_after_a_lost_response() -> None:
    """The request whose response is lost stays without one."""
    dialogue = Dialogue()
    for name, lost in (("a", False), ("b", True), ("c", False)):
        dialogue.client(get(name))
        dialogue.server(answer(name.upper()), lost=lost)
        dialogue.wait(300_000)
    table = Table()
    messages = table.run(dialogue.packets)
    assert [(m.path, m.reason, m.resynced) for m in messages if m.direction == "response"] == [
        ("/a", "A", False),
        ("/c", "C", True),
    ]
    assert {m.path: m.exchange for m in messages if m.direction == "request"} == {"/a": 0, "/b": 1, "/c": 2}
    assert table.counted("requests_unanswered") == {"requests_unanswered": 1}


def test_several_requests_fit() -> None:
    """After a gap among pipelined exchanges a response that could be another's stays unpaired."""
    dialogue = Dialogue()
    for name in "abc":
        dialogue.client(get(name), ack=0)
    dialogue.server(answer("A"), lost=True)
    dialogue.server(answer("B"))
    dialogue.server(answer("C"))
    dialogue.wait(1_000_000)
    dialogue.client()
    dialogue.client(get("d"))
    dialogue.server(answer("D"))
    messages = run(dialogue)
    pairs = {m.reason: m.path for m in messages if m.direction == "response"}
    assert pairs == {"B": None, "C": None, "D": "/d"}
    requests = {m.exchange for m in messages if m.direction == "request"}
    unpaired = {m.exchange for m in messages if m.direction == "response" and m.path is None}
    assert (len(requests), len(unpaired), requests & unpaired) == (4, 2, set())


def test_refused_heads_keep_their_place() -> None:
    """A request with a bad framing line is malformed, keeps its exchange, and its answer is paired with it."""
    dialogue = Dialogue()
    dialogue.client(get("a") + b"GET /b HTTP/1.1\r\nContent-Length\0: x\r\n\r\n")
    dialogue.server(answer("A") + answer("B"))
    dialogue.client(get("c"))
    dialogue.server(answer("C"))
    assert seen(run(dialogue)) == [
        (0, "/a", None),
        (0, ("/a", "A"), None),
        (1, "/b", "malformed"),
        (1, ("/b", "B"), None),
        (2, "/c", None),
        (2, ("/c", "C"), None),
    ]


def test_a_bad_header_line() -> None:
    """A line that is no field is left out, with what it holds; all else of the message is as if it were not there."""
    body = gzip.compress(b"hello", mtime=0)
    head = b"HTTP/1.1 200 OK\r\nSet-Cookie: a\r\n<b>Warning</b> secret\r\n secret\r\nContent-Encoding: gzip\r\nA: b"
    dialogue = Dialogue()
    dialogue.client(b"POST /a HTTP/1.1\r\nHost: h\r\nsecret\r\nContent-Length: 2\r\n\r\nhi")
    dialogue.server(head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    dialogue.client(get("next"))
    dialogue.server(OK)
    table = Table()
    request, response, *rest = table.run(dialogue.packets)
    assert (request.headers, request.body) == ({"host": "h", "content-length": "2"}, b"hi")
    assert response.headers is not None
    assert list(response.headers) == ["set-cookie", "content-encoding", "a", "content-length"]
    assert (response.body, response.latency_us) == (body, 1000)
    for message in (request, response):
        assert (message.incomplete, message.anomalies[-1]) == (None, "bad-header-line")
    assert [m.anomalies for m in rest] == [(), ()]
    assert table.counted("anomaly_bad_header_line", "heads_refused") == {
        "anomaly_bad_header_line": 2,
        "heads_refused": 0,
    }


@pytest.mark.parametrize(
    ("lines", "body", "latency"),
    [
        (b"Content-Length\0: 3\r\n", b"", 1000),
        (b"Content-Length: 3, 4\r\n", b"", 1000),
        (b"Content-Length: 3, 4\r\n", b"abc", None),
        (b"Transfer-Encoding: gzip\r\n", b"", 1000),
        (b"Transfer-Encoding: chunked\r\n", b"x\r\n", None),
    ],
)
def test_latency_of_a_malformed_request(lines: bytes, body: bytes, latency: int | None) -> None:
    """The answer to a malformed request has a latency where no byte behind it was acknowledged that may be its own."""
    dialogue = Dialogue()
    dialogue.client(b"POST /a HTTP/1.1\r\n" + lines + b"\r\n" + body)
    dialogue.server(OK)
    request, response = run(dialogue)
    assert (request.incomplete, response.path, response.latency_us) == ("malformed", "/a", latency)


@pytest.mark.parametrize("line", [b"GET /b HTTP/1.1 ", b"GET  /b HTTP/1.1", b"GET /b http/1.1", b"GET /b HTTP/1.01"])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_odd_request_lines(line: bytes, before: int) -> None:
    """A request line that servers take, though it is odd, is read wherever it stands among others, and is marked."""
    dialogue = Dialogue()
    requests = [get("a")] * before + [line + b"\r\n\r\n", get("c")]
    for request in requests:
        dialogue.client(request)
        dialogue.server(OK)
    messages = run(dialogue)
    asked = [(m.path, m.anomalies) for m in messages if m.direction == "request"]
    assert asked == [("/a", ())] * before + [("/b", ("odd-start-line",)), ("/c", ())]
    assert [m.path for m in messages if m.direction == "response"] == ["/a"] * before + ["/b", "/c"]


@pytest.mark.parametrize("line", [b"HTTP/1.1  200", b"HTTP/2.0 200 OK", b"http/1.1 200 OK", b"HTTP/1.1\t200\tOK"])
def test_odd_status_lines(line: bytes) -> None:
    """The same for status lines."""
    dialogue = Dialogue()
    for path, start in (("a", line), ("b", b"HTTP/1.1 200 OK")):
        dialogue.client(get(path))
        dialogue.server(start + b"\r\nContent-Length: 2\r\n\r\nok")
    answers = [m for m in run(dialogue) if m.direction == "response"]
    assert [(m.path, m.status_code, m.http_version, m.body) for m in answers] == [
        (path, 200, "1.1", b"ok") for path in ("/a", "/b")
    ]
    assert [m.anomalies for m in answers] == [("odd-start-line",), ()]


@pytest.mark.parametrize("odd", [b"GET /odd HTTP/1.1 \r\n\r\n", b"GET /odd HTTP/1.1\r\nno colon\r\n\r\n"])
def test_nothing_odd_in_doubt(odd: bytes) -> None:
    """Behind lost bytes an odd message is none: neither where it is found nor in step with one that is in doubt."""
    for before in (b"", get("doubt")):
        dialogue = Dialogue()
        dialogue.client(get("first"))
        dialogue.server(OK)
        dialogue.client(b"POST /lost HTTP/1.1\r\nContent-Length: 1000\r\n\r\n", lost=True)
        if before:
            dialogue.client(before, ack=dialogue.sent[1] - 1)
        dialogue.client(odd, ack=dialogue.sent[1] - 1)
        dialogue.wait(200_000)
        dialogue.client(b"x" * 100)
        dialogue.server(OK)
        paths = [m.path for m in run(dialogue) if m.direction == "request"]
        assert "/odd" not in paths
        assert paths[0] == "/first"


def test_transfer_encoding_identity() -> None:
    """The coding identity is none: on a connection that is kept, Content-Length says where the answer ends."""
    dialogue = Dialogue()
    for path in ("a", "b"):
        dialogue.client(get(path, Transfer_Encoding="identity"))
        dialogue.server(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok")
    messages = run(dialogue)
    assert [(m.path, m.incomplete, m.anomalies) for m in messages] == [
        (path, None, ("te-identity",)) for path in ("/a", "/a", "/b", "/b")
    ]


UPLOAD = b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"
CHUNKS = b"HTTP/1.1 200 Chunks\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"
UNENDED = ("last-crlf-missing",)


@pytest.mark.parametrize("trailers", [b"", b"T: 1\r\n", b"bad\r\nT: 1\r\n"])
def test_a_request_without_its_last_crlf(trailers: bytes) -> None:
    """It is whole, and marked, where what begins the next segment has an answer of its own."""
    dialogue = Dialogue()
    for data in (UPLOAD + trailers, UPLOAD + trailers, get("b" * 30), get("c")):
        dialogue.client(data[:20])
        dialogue.client(data[20:])
        dialogue.server(OK)
    dialogue.close()
    messages = run(dialogue)
    requests = [m for m in messages if m.direction == "request"]
    assert [(m.path, m.incomplete, m.body) for m in requests] == [
        ("/a", None, b"abc"), ("/a", None, b"abc"), ("/" + "b" * 30, None, b""), ("/c", None, b""),
    ]  # fmt: skip
    for message in requests[:2]:
        assert message.anomalies[-1:] == UNENDED
        assert message.trailers == ({"t": "1"} if trailers else None)
    assert [(m.exchange, m.path) for m in messages if m.direction == "response"] == [
        (0, "/a"), (1, "/a"), (2, "/" + "b" * 30), (3, "/c"),
    ]  # fmt: skip


@pytest.mark.parametrize("answers", [[b"", b""], [OK, b""], [b"", OK], [b"", OK + OK]])
def test_a_request_that_its_end_does_not_follow(answers: list[bytes]) -> None:
    """Without an answer of its own what follows is no request, nor are its fields trailers: the first is malformed."""
    dialogue = Dialogue()
    for data, said in zip((UPLOAD, get("b", Cookie="secret")), answers, strict=True):
        dialogue.client(data)
        if said:
            dialogue.server(said)
    dialogue.close()
    messages = run(dialogue)
    first = next(m for m in messages if m.direction == "request")
    assert (first.path, first.incomplete, first.trailers, first.anomalies) == ("/a", "malformed", None, ())
    assert all(m.path in ("/a", None) for m in messages if m.direction == "response")
    if not answers[1]:
        assert [m.path for m in messages if m.direction == "request"] == ["/a"]


def test_trailers_on_a_segment_of_their_own() -> None:
    """What begins no message is trailers, wherever its segments begin."""
    for rest in (
        (b"T: 1\r\n\r\n",),
        (b"T: 1\r\n", b"\r\n"),
        (b"T", b": 1", b"\r\n\r\n"),
        (b"T: 1\r\n", b"GET / x\r\n\r\n"),
    ):
        dialogue = Dialogue()
        dialogue.client(UPLOAD)
        for piece in rest:
            dialogue.client(piece)
        dialogue.server(CHUNKS)
        for piece in rest:
            dialogue.server(piece)
        for message in run(dialogue):
            assert (message.incomplete, message.trailers, "last-crlf-missing" in message.anomalies) == (
                None, {"t": "1"}, False,
            )  # fmt: skip


@pytest.mark.parametrize("trailers", [b"", b"T: 1\r\n"])
def test_a_response_without_its_last_crlf(trailers: bytes) -> None:
    """It is whole, and marked, where a start line begins the next segment and a request is outstanding."""
    dialogue = Dialogue()
    for path, answer_ in (("a", CHUNKS + trailers), ("b", CHUNKS + trailers), ("c", OK)):
        dialogue.client(get(path))
        dialogue.server(answer_)
    answers = [m for m in run(dialogue) if m.direction == "response"]
    assert [(m.path, m.incomplete, m.body, m.anomalies) for m in answers] == [
        ("/a", None, b"abc", UNENDED),
        ("/b", None, b"abc", UNENDED),
        ("/c", None, b"ok", ()),
    ]
    assert answers[0].trailers == ({"t": "1"} if trailers else None)


def test_a_response_that_its_end_does_not_follow() -> None:
    """A start line that nobody asked for proves no end: the response before it is malformed."""
    dialogue = Dialogue()
    dialogue.client(get("a"))
    dialogue.server(CHUNKS)
    dialogue.server(INVENTED)
    dialogue.client(get("b"))
    dialogue.server(OK)
    answers = [m for m in run(dialogue) if m.direction == "response"]
    assert [(m.path, m.reason, m.incomplete, m.trailers) for m in answers] == [
        ("/a", "Chunks", "malformed", None),
        ("/b", "OK", None, None),
    ]
    dialogue = Dialogue()
    dialogue.client(get("a"))
    dialogue.client(get("b"))
    dialogue.server(CHUNKS + OK)  # in one segment: whether that is the second answer nobody can tell
    dialogue.client(get("c"))
    dialogue.server(OK)
    answers = [m for m in run(dialogue) if m.direction == "response"]
    assert [(m.path, m.incomplete, m.trailers) for m in answers] == [("/a", "malformed", None), ("/c", None, None)]


def test_cut_head() -> None:
    """A cut head is emitted with the header lines that were whole, once its start line is."""
    dialogue = Dialogue()
    dialogue.client(b"GET /cut HTTP/1.1\r\nA: 1\r\nB: 2")
    (message,) = run(dialogue)
    assert (message.path, message.headers, message.incomplete) == ("/cut", {"a": "1"}, "stopped")
    dialogue = Dialogue()
    dialogue.client(b"GET /cut HTT")
    table = Table()
    assert table.run(dialogue.packets) == []
    assert table.counted("heads_cut") == {"heads_cut": 1}


def test_head_cut_by_a_gap() -> None:
    """A head with bytes lost in it keeps its exchange: its answer is paired with it."""
    dialogue = Dialogue()
    dialogue.client(b"GET /cut HTTP/1.1\r\nA: 1\r\n")
    dialogue.client(b"B: 2\r\n", lost=True)
    dialogue.client(b"C: 3\r\n\r\n")
    dialogue.server(answer("A"))
    dialogue.wait(500_000)
    dialogue.client(get("next"))
    dialogue.server(answer("B"))
    messages = run(dialogue)
    assert seen(messages) == [
        (0, "/cut", "gap"),
        (0, ("/cut", "A"), None),
        (1, "/next", None),
        (1, ("/next", "B"), None),
    ]
    assert [m.headers for m in messages if m.incomplete] == [{"a": "1"}]


# ---- informational ---------------------------------------------------------------------------------------------------


def test_informational() -> None:
    """1xx belong to the exchange of the final response, and take no request."""
    dialogue = Dialogue()
    dialogue.client(b"POST / HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    dialogue.server(b"HTTP/1.1 100 Continue\r\n\r\n")
    dialogue.client(b"ab")
    dialogue.server(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK)
    dialogue.client(get("next"))
    dialogue.server(OK)
    table = Table()
    messages = table.run(dialogue.packets)
    assert seen(messages) == [(0, "/", None), (0, ("/", "OK"), None), (1, "/next", None), (1, ("/next", "OK"), None)]
    assert [m.informational for m in messages] == [(), (100, 103), (), ()]
    assert messages[1].headers == {"content-length": "2"}
    assert table.counted("responses_informational") == {"responses_informational": 2}


def test_informational_bound() -> None:
    """At most 16 are kept."""
    dialogue = Dialogue()
    dialogue.client(GET)
    dialogue.server(b"HTTP/1.1 102 Processing\r\n\r\n" * 40 + OK)
    table = Table()
    assert one(table.run(dialogue.packets)).informational == (102,) * 16
    assert table.counted("responses_informational") == {"responses_informational": 40}


def test_informational_without_an_answer() -> None:
    """Those whose final answer never came are counted."""
    dialogue = Dialogue()
    dialogue.client(GET)
    dialogue.server(b"HTTP/1.1 100 Continue\r\n\r\n")
    table = Table()
    assert len(table.run(dialogue.packets)) == 1
    assert table.counted("informational_orphaned") == {"informational_orphaned": 1}


def test_informational_without_a_request() -> None:
    """A 100 with no request seen changes no pairing."""
    dialogue = Dialogue(handshake=False)
    dialogue.server(b"HTTP/1.1 100 Continue\r\n\r\n")
    dialogue.server(answer("Before"))
    dialogue.client(get("a"))
    dialogue.server(answer("A"))
    pairs = [(m.path, m.reason) for m in run(dialogue) if m.direction == "response"]
    assert pairs == [(None, "Before"), ("/a", "A")]


# ---- tunnels ---------------------------------------------------------------------------------------------------------


def test_connect() -> None:
    """2xx to CONNECT ends HTTP both ways at that byte, its length fields ignored; the rest is counted."""
    dialogue = Dialogue()
    dialogue.client(b"CONNECT db:1 HTTP/1.1\r\nHost: db:1\r\n\r\n")
    dialogue.server(b"HTTP/1.1 200 Go\r\nContent-Length: 5\r\n\r\n" + b"GET /in HTTP/1.1\r\n\r\n")
    dialogue.client(b"GET /out HTTP/1.1\r\n\r\n")
    table = Table()
    messages = table.run(dialogue.packets)
    assert seen(messages) == [(0, "db:1", None), (0, ("db:1", "Go"), None)]
    assert messages[1].body_size == 0
    assert table.counted("flows_tunnel", "bytes_abandoned_tunnel") == {
        "flows_tunnel": 1,
        "bytes_abandoned_tunnel": len(b"GET /in HTTP/1.1\r\n\r\n" + b"GET /out HTTP/1.1\r\n\r\n"),
    }
    assert [kind for kind, *_ in table.core.events()] == ["tunnel"]


def test_connect_refused() -> None:
    """Another answer to CONNECT goes on as HTTP, with its body."""
    dialogue = Dialogue()
    dialogue.client(b"CONNECT db:1 HTTP/1.1\r\n\r\n")
    dialogue.server(b"HTTP/1.1 407 No\r\nContent-Length: 2\r\n\r\nno")
    dialogue.client(GET)
    dialogue.server(OK)
    assert [m.body for m in run(dialogue)] == [b"", b"no", b"", b"ok"]


UPGRADE = b"GET /ws HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n"


def test_upgrade() -> None:
    """101 is a final response, after which nothing is HTTP."""
    dialogue = Dialogue()
    dialogue.client(UPGRADE)
    dialogue.server(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x05hello")
    dialogue.client(b"\x81\x85GET / HTTP/1.1\r\n\r\n")
    table = Table()
    messages = table.run(dialogue.packets)
    assert seen(messages) == [(0, "/ws", None), (0, ("/ws", "Switching"), None)]
    assert messages[1].status_code == 101
    assert table.counted("flows_tunnel", "flows_other_protocol") == {"flows_tunnel": 1, "flows_other_protocol": 0}


def test_bytes_after_an_upgrade_are_held() -> None:
    """What follows an Upgrade before its answer is neither message nor garbage until the answer is known."""
    for reply, paths in (
        (b"HTTP/1.1 101 Switching\r\n\r\n", ["/ws", "/ws"]),
        (answer("Refused"), ["/ws", "/ws", "/next", "/next"]),
    ):
        dialogue = Dialogue()
        dialogue.client(UPGRADE)
        dialogue.client(get("next"))
        table = Table()
        assert [m.path for m in table.feed(dialogue.take())] in ([], ["/ws"])
        dialogue.server(reply)
        if b"101" not in reply:
            dialogue.server(answer("Next"))
        table.feed(dialogue.take())
        table.flush()
        dialogue = Dialogue()
        dialogue.client(UPGRADE)
        dialogue.client(get("next"))
        dialogue.server(reply)
        if b"101" not in reply:
            dialogue.server(answer("Next"))
        assert sorted(str(m.path) for m in run(dialogue)) == sorted(paths)


@pytest.mark.parametrize(("later", "held"), [(900_000, True), (1_100_000, False)])
def test_upgrade_with_an_unseen_answer(later: int, held: bool) -> None:
    """What follows an Upgrade waits for an answer that nobody sees for 1 s, and is read as HTTP then."""
    dialogue = Dialogue(handshake=False)
    dialogue.client(UPGRADE)
    dialogue.client(get("next"))
    dialogue.wait(100_000)
    dialogue.client()
    begun = dialogue.now - 1000  # the grace of the first bytes is over
    table = Table()
    assert [m.path for m in table.feed(dialogue.take())] == ["/ws"]
    dialogue.now = begun + later
    dialogue.client()
    assert [m.path for m in table.feed(dialogue.take())] == ([] if held else ["/next"])
    assert [m.path for m in table.flush()] == (["/next"] if held else [])


def test_upgrade_mid_stream() -> None:
    """An answer that comes in time decides, though nothing of its direction was seen before it."""
    dialogue = Dialogue(handshake=False)
    dialogue.client(UPGRADE)
    dialogue.client(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    dialogue.wait(500_000)
    dialogue.server(b"HTTP/1.1 101 Switching\r\n\r\n\0\0")
    table = Table()
    assert [m.status_code for m in table.run(dialogue.packets)] == [None, 101]
    counters = table.counted("start_lines_malformed", "bytes_abandoned_tunnel")
    assert counters == {"start_lines_malformed": 0, "bytes_abandoned_tunnel": 26}


def test_upgrade_that_is_never_answered() -> None:
    """Bytes behind an Upgrade are held up to the cap; what was sent by then is no HTTP but a tunnel."""
    dialogue = Dialogue()
    dialogue.client(UPGRADE)
    for _ in range(3 * 1024):
        dialogue.client(b"x" * 1024)
    dialogue.server()
    table = Table()
    assert [m.path for m in table.run(dialogue.packets)] == ["/ws"]
    assert table.counted("flows_tunnel", "bytes_abandoned_tunnel") == {
        "flows_tunnel": 1,
        "bytes_abandoned_tunnel": 3 << 20,
    }
    assert [kind for kind, _, _ in table.core.events()] == ["tunnel"]


def test_h2c() -> None:
    """101 to `Upgrade: h2c` is a tunnel; 200 to it is no upgrade."""
    h2c = b"GET /h2 HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n"
    dialogue = Dialogue()
    dialogue.client(h2c)
    dialogue.server(OK)
    dialogue.client(GET)
    dialogue.server(OK)
    assert [m.body for m in run(dialogue)] == [b"", b"ok", b"", b"ok"]
    dialogue = Dialogue()
    dialogue.client(h2c)
    dialogue.server(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n\0\0\0\4\0\0\0\0\0")
    dialogue.client(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert [m.status_code for m in run(dialogue)] == [None, 101]


# ---- other protocols -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "kind", "counter"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60), "tls", "flows_tls"),
        (b"\0\0\0\x08\x04\xd2\x16\x2f" * 9000, "other-protocol", "flows_other_protocol"),
    ],
)
def test_other_protocols(first: bytes, kind: str, counter: str) -> None:
    """TLS and anything else are recognised, counted, told once, and cost nothing from then on."""
    dialogue = Dialogue()
    for at in range(0, len(first), 1000):
        dialogue.client(first[at : at + 1000])
    dialogue.server(b"\x15\x03\x03")
    dialogue.client(GET)
    table = Table()
    assert table.run(dialogue.packets) == []
    assert table.counted(counter) == {counter: 1}
    assert table.counted("bytes_used") == {"bytes_used": 0}
    assert table.core.events() == [(kind, ("198.51.100.7", 80), ("192.0.2.1", 40000))]
    assert table.core.events() == []


# ---- after a loss ----------------------------------------------------------------------------------------------------


def test_gap_in_a_body() -> None:
    """A gap inside of a body of known length cuts that message and nothing else."""
    dialogue = Dialogue()
    hole(dialogue)
    dialogue.wait(300_000)
    dialogue.client(get("next"))
    dialogue.server(answer("Next"))
    messages = run(dialogue)
    assert seen(messages) == [
        (0, "/", None),
        (0, ("/", "OK"), "gap"),
        (1, "/next", None),
        (1, ("/next", "Next"), None),
    ]
    assert [m.resynced for m in messages] == [False] * 4


def test_gap_of_unknown_extent() -> None:
    """After a gap in a chunked body reading goes on at the next sure boundary, and the message there says so."""
    dialogue = Dialogue()
    dialogue.client(GET)
    dialogue.server(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    dialogue.server(b"5\r\nworld\r\n", lost=True)
    dialogue.server(b"1\r\n!\r\n0\r\n\r\n")
    dialogue.wait(300_000)
    dialogue.client(get("next"))
    dialogue.server(answer("Next"))
    messages = run(dialogue)
    assert seen(messages) == [
        (0, "/", None),
        (0, ("/", "OK"), "gap"),
        (1, "/next", None),
        (1, ("/next", "Next"), None),
    ]
    assert [(m.body, m.resynced) for m in messages if m.direction == "response"] == [(b"hello", False), (b"", True)]


def test_boundary_by_acknowledgement() -> None:
    """The offset that the other side's ACK marks as a message's end is a sure boundary, within a segment too."""
    dialogue = Dialogue()
    dialogue.client(get("a"))
    dialogue.server(answer("A", b"x" * 100)[:60])
    dialogue.server(b"y" * 30, lost=True)
    rest = answer("A", b"x" * 100)[90:]
    second = answer("B", b"second")
    dialogue.server(rest)
    dialogue.wait(300_000)
    dialogue.client(get("b"))
    dialogue.server(second)
    assert seen(run(dialogue)) == [(0, "/a", None), (0, ("/a", "A"), "gap"), (1, "/b", None), (1, ("/b", "B"), None)]


def test_start_line_in_a_body_after_a_gap() -> None:
    """A body that holds a response, at a segment's start, right after a gap: no message is invented."""
    inner = b"HTTP/1.1 200 Invented\r\nContent-Length: 0\r\n\r\n"
    dialogue = Dialogue()
    dialogue.client(get("a"))
    dialogue.server(b"HTTP/1.1 200 A\r\nContent-Length: %d\r\n" % (100 + len(inner)))
    dialogue.server(b"\r\n" + b"x" * 100, lost=True)
    dialogue.server(inner)
    dialogue.wait(300_000)
    dialogue.client(get("b"))
    dialogue.server(answer("B"))
    messages = run(dialogue)
    assert "Invented" not in {m.reason for m in messages}
    assert ("/b", "B") in {(m.path, m.reason) for m in messages}


@pytest.mark.parametrize("early", [True, False], ids=["gap seen before the answer", "gap seen with it"])
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(get("invented") + b"x" * 45, id="more behind it"),
        pytest.param(get("invented") + b"x\r\n" * 45, id="lines behind it"),
        pytest.param(get("invented") * 2 + b"HTTP/1.1 304 Invented\r\n\r\n", id="two, and lines behind them"),
        pytest.param(b"POST /invented HTTP/1.1\r\nContent-Length: 10\r\n\r\n", id="ends beyond what was answered"),
        pytest.param(get("invented"), id="ends with it"),
    ],
)
def test_request_in_a_body_after_a_gap(body: bytes, early: bool) -> None:
    """A body that holds a request, at a segment's start, its own head lost: no message is invented, and pairs stay."""
    dialogue = Dialogue()
    dialogue.client(get("0"))
    dialogue.server(answer("R0"))
    dialogue.client(b"POST /1 HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body), lost=True)
    dialogue.client(body)
    if early:
        dialogue.server()
    dialogue.wait(300_000)
    dialogue.server(answer("R1"))
    for name in "23":
        dialogue.client(get(name))
        dialogue.server(answer("R" + name))
        dialogue.wait(300_000)
    messages = run(dialogue)
    assert {m.path for m in messages if m.direction == "request"} == {"/0", "/2", "/3"}
    assert [(m.path, m.reason) for m in messages if m.direction == "response"] == [
        ("/0", "R0"),
        (None, "R1"),
        ("/2", "R2"),
        ("/3", "R3"),
    ]


def test_head_without_its_request() -> None:
    """An unpaired response whose body would begin with a status line, on its own segment, answers a HEAD."""
    dialogue = Dialogue(handshake=False)
    for name in "ab":
        dialogue.client(b"HEAD /%s HTTP/1.1\r\n\r\n" % name.encode(), lost=True)
        dialogue.server(b"HTTP/1.1 200 %s\r\nContent-Length: 1000\r\n\r\n" % name.encode())
    dialogue.client(GET, lost=True)
    dialogue.server(OK)
    table = Table()
    messages = table.run(dialogue.packets)
    assert [(m.reason, m.body_size, m.incomplete) for m in messages] == [
        ("a", 0, None),
        ("b", 0, None),
        ("OK", 2, None),
    ]
    assert table.counted("responses_taken_bodyless") == {"responses_taken_bodyless": 2}


def test_head_among_known_requests() -> None:
    """A body that begins as a status line is a body where no open request is a HEAD, though it is not known which."""
    body = b"HTTP/1.1 200 Invented\r\nContent-Length: 0\r\n\r\n"
    dialogue = Dialogue()
    for name in "abc":
        dialogue.client(get(name), ack=0)
    dialogue.server(answer("A"), lost=True)
    dialogue.server(answer("B", body)[: -len(body)])
    dialogue.server(body)
    dialogue.server(answer("C"))
    dialogue.wait(300_000)
    dialogue.client()
    messages = [m for m in run(dialogue) if m.direction == "response"]
    assert [(m.reason, m.body, m.incomplete) for m in messages] == [("B", body, None), ("C", b"", None)]


@pytest.mark.parametrize(
    ("tail", "told"),
    [
        pytest.param([b"more of the body"], True, id="no start line behind it"),
        pytest.param([INVENTED, b"more of the body"], True, id="nor behind the next"),
        pytest.param([], False, id="the end of the body"),
    ],
)
def test_response_in_a_body_with_its_request_lost(tail: list[bytes], told: bool) -> None:
    """A start line in a body, on a segment of its own, both heads lost: what follows tells, and only that can."""
    body = INVENTED + b"".join(tail)
    dialogue = Dialogue()
    dialogue.client(get("0"))
    dialogue.server(answer("R0"))
    dialogue.client(get("1"), lost=True)
    dialogue.server(b"HTTP/1.1 200 R1\r\nContent-Length: %d\r\n\r\n" % len(body), lost=True)
    for piece in (INVENTED, *tail):
        dialogue.server(piece)
    dialogue.wait(300_000)
    dialogue.client(get("2"))
    dialogue.server(answer("R2"))
    table = Table()
    messages = table.run(dialogue.packets)
    reasons = [m.reason for m in messages if m.direction == "response"]
    assert reasons == (["R0", "R2"] if told else ["R0", "Invented", "R2"])
    dropped = table.counted("messages_tentative_dropped")["messages_tentative_dropped"]
    assert dropped == (len(tail) if told else 0)


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 101 Invented\r\n\r\n", b"HTTP/1.1 100 Invented\r\n\r\n"], ids=["upgrade", "interim"]
)
def test_what_is_never_believed_in_a_body(head: bytes) -> None:
    """A 101 away from a sure place ends no HTTP, and a 100 belongs to no exchange."""
    dialogue = Dialogue()
    dialogue.client(get("0"))
    dialogue.server(answer("R0"))
    dialogue.client(get("1"), lost=True)
    dialogue.server(b"HTTP/1.1 200 R1\r\nContent-Length: %d\r\n\r\n" % len(head), lost=True)
    dialogue.server(head)
    dialogue.wait(300_000)
    dialogue.client(get("2"))
    dialogue.server(answer("R2"))
    table = Table()
    messages = [m for m in table.run(dialogue.packets) if m.direction == "response"]
    assert [(m.reason, m.informational) for m in messages] == [("R0", ()), ("R2", ())]
    assert table.counted("flows_tunnel", "responses_informational") == {"flows_tunnel": 0, "responses_informational": 0}


@pytest.mark.parametrize(("count", "waiting"), [(15, 15), (20, 0)])
def test_responses_in_doubt_are_bounded(count: int, waiting: int) -> None:
    """Responses wait for what tells whether they are any, but for no more than 16 in a row."""
    dialogue = Dialogue()
    dialogue.client(b"".join(get(str(n)) for n in range(count)), lost=True)
    dialogue.server(answer("Lost"), lost=True)
    for number in range(count):
        dialogue.server(answer(f"R{number}"))
    for _ in range(3):
        dialogue.client()
        dialogue.server()
        dialogue.wait(300_000)
    table = Table()
    assert len(table.feed(dialogue.packets)) == count - waiting
    assert len(table.flush()) == waiting


def test_mid_stream_start() -> None:
    """A capture that begins in the middle of a message begins reading at the next one."""
    dialogue = Dialogue(handshake=False)
    dialogue.server(b"the end of some body")
    dialogue.client(get("a"))
    dialogue.server(answer("A"))
    assert seen(run(dialogue)) == [(0, "/a", None), (0, ("/a", "A"), None)]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)], ids=["in order", "the answer first"])
def test_mid_stream_loss(order: tuple[int, ...]) -> None:
    """Without a SYN too, a request that acknowledges less than where the responses begin says that some were lost."""
    dialogue = Dialogue(handshake=False)
    dialogue.client(get("a"))
    dialogue.server(answer("A"), lost=True)
    dialogue.client(get("b"))
    dialogue.server(answer("B"))
    packets = [p.Packet(START + n * 1000, dialogue.packets[place].data) for n, place in enumerate(order)]
    assert seen(Table().run(packets)) == [(0, "/a", None), (1, "/b", None), (1, ("/b", "B"), None)]


def test_loss_on_both_sides() -> None:
    """Both directions find their way again, and pairs stay right."""
    dialogue = Dialogue()
    for number in range(12):
        dialogue.client(get(str(number)), lost=number in (3, 7))
        dialogue.server(answer(f"R{number}", b"body"), lost=number in (5, 7, 8))
        dialogue.wait(150_000)
    messages = run(dialogue)
    requests = {m.path for m in messages if m.direction == "request"}
    responses = {(m.reason, m.path) for m in messages if m.direction == "response"}
    assert requests == {f"/{n}" for n in range(12) if n not in (3, 7)}
    assert responses == {(f"R{n}", f"/{n}" if n != 3 else None) for n in range(12) if n not in (5, 7, 8)}
    assert {m.incomplete for m in messages} == {None}


# ---- framing and bodies ----------------------------------------------------------------------------------------------


def test_leading_blank_lines() -> None:
    """Blank lines before a message are passed over."""
    dialogue = Dialogue()
    dialogue.client(b"\r\n\r\n" + get("a") + b"\r\n\n" + get("b"))
    dialogue.server(OK + b"\r\n" + OK)
    assert [m.path for m in run(dialogue)] == ["/a", "/b", "/a", "/b"] or len(run(dialogue)) == 4


def test_versions() -> None:
    """HTTP/1.n with n > 1 is reported as 1.1, another major version is no HTTP/1 message."""
    for sent, reported in ((b"1.0", "1.0"), (b"1.1", "1.1"), (b"1.7", "1.1")):
        dialogue = Dialogue()
        dialogue.client(b"GET / HTTP/" + sent + b"\r\n\r\n")
        assert [m.http_version for m in run(dialogue)] == [reported]
    dialogue = Dialogue()
    dialogue.client(b"GET / HTTP/2.0\r\n\r\n")
    assert run(dialogue) == []


def test_odd_targets() -> None:
    """Any bytes without controls make a target, shown as ISO-8859-1; spaces inside are counted."""
    dialogue = Dialogue()
    dialogue.client(b"GET /a b\xff HTTP/1.1\r\n\r\n")
    (message,) = run(dialogue)
    assert (message.path, message.anomalies) == ("/a b\xff", ("space-in-target",))


@pytest.mark.parametrize(
    ("lines", "body", "expected"),
    [
        (b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", b"1\r\na\r\n0\r\n\r\n", (b"a", None, ("te-and-cl",))),
        (b"Content-Length: 5, 5\r\n", b"12345", (b"12345", None, ("cl-repeated",))),
        (b"Content-Length: 5\r\nContent-Length: 5\r\n", b"12345", (b"12345", None, ("cl-repeated",))),
        (b"Content-Length: 005\r\n", b"12345", (b"12345", None, ("cl-zero-padded",))),
        (b"Content-Length: 5\r\nContent-Length: 6\r\n", b"", (b"", "malformed", ("cl-conflicting",))),
        (b"Content-Length: -5\r\n", b"", (b"", "malformed", ("cl-invalid",))),
        (b"Content-Length: +5\r\n", b"", (b"", "malformed", ("cl-invalid",))),
        (b"Content-Length: 9223372036854775809\r\n", b"", (b"", "malformed", ("cl-invalid",))),
        (b"Transfer-Encoding: gzip\r\n", b"", (b"", "malformed", ("te-not-chunked",))),
        (b"Content-Length : 2\r\n", b"ab", (b"ab", None, ("space-before-colon",))),
        (b"Transfer-Encoding: chunked\r\n", b"12345678901234567\r\n", (b"", "malformed", ())),
        (b"Transfer-Encoding: chunked\r\n", b"xyz\r\n", (b"", "malformed", ())),
        (b"Transfer-Encoding: chunked\r\n", b"2;a=b\r\nab\r\n0;c\r\nT: 1\r\n\r\n", (b"ab", None, ())),
    ],
    ids=lambda value: value.decode("latin-1").strip() if isinstance(value, bytes) else None,
)
def test_request_framing(lines: bytes, body: bytes, expected: tuple[bytes, str | None, tuple[str, ...]]) -> None:
    """RFC 9112 section 6, as an observer: what frames the body, what is malformed, and what is odd by name.

    The next request, on its own segment, is read in any case.
    """
    dialogue = Dialogue()
    dialogue.client(b"POST /odd HTTP/1.1\r\n" + lines + b"\r\n" + body)
    dialogue.server(OK)
    dialogue.client(get("next"))
    dialogue.server(OK)
    messages = run(dialogue)
    odd = next(m for m in messages if m.path == "/odd" and m.direction == "request")
    assert (odd.body, odd.incomplete, odd.anomalies) == expected
    after = {(m.direction, m.exchange) for m in messages if m.path == "/next"}
    assert after == {("request", 1), ("response", 1)}


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified", b"200 To HEAD"])
def test_bodyless(status: bytes) -> None:
    """204, 304 and answers to HEAD are bodyless whatever they say."""
    for field in (b"Content-Length: 50\r\n", b"Transfer-Encoding: chunked\r\n"):
        dialogue = Dialogue()
        dialogue.client((b"HEAD" if b"HEAD" in status else b"GET") + b" / HTTP/1.1\r\n\r\n")
        dialogue.server(b"HTTP/1.1 " + status + b"\r\n" + field + b"\r\n")
        dialogue.client(get("next"))
        dialogue.server(OK)
        responses = [m for m in run(dialogue) if m.direction == "response"]
        assert [(m.body_size, m.incomplete) for m in responses] == [(0, None), (2, None)]


def test_trailers() -> None:
    """Trailers have the form of headers."""
    dialogue = Dialogue()
    dialogue.client(GET)
    dialogue.server(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nSum: 1\r\nsum: 2\r\n\r\n")
    assert one(run(dialogue)).trailers == {"sum": "1, 2"}


def test_thousand_segments() -> None:
    """One message in a thousand segments is one message."""
    wire = answer("Long", b"x" * 5000)
    dialogue = Dialogue()
    dialogue.client(GET)
    for at in range(0, len(wire), 5):
        dialogue.server(wire[at : at + 5])
    response = one(run(dialogue))
    assert (response.body, response.incomplete) == (b"x" * 5000, None)


def test_server_sent_events() -> None:
    """A stream that never ends is emitted, as far as it came, when its connection does."""
    dialogue = Dialogue()
    dialogue.client(GET)
    dialogue.server(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(5):
        dialogue.server(b"8\r\ndata: x\n\r\n")
        dialogue.wait(20_000_000)
    dialogue.server(flags=p.RST)
    response = one(run(dialogue))
    assert (response.body, response.incomplete) == (b"data: x\n" * 5, "closed")
