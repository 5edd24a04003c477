"""FlowTable: the exact value of each counter that no other test names."""

from hashlib import blake2b
from ipaddress import ip_address

import pytest

from sniffer_core.core import RawMessage
from tests import packets as p
from tests.conversations import START, Dialogue
from tests.laws import Table

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
SERVER = ("198.51.100.7", 80)


def first_fragments(count: int, start: int) -> list[p.Packet]:
    """The beginnings of so many datagrams, 1 µs apart, whose ends never come."""
    segment = p.tcp(40000, 80, 1001, 0, p.ACK, bytes(100))
    return [
        p.Packet(start + n, p.fragments_ipv4("192.0.2.1", SERVER[0], segment, 16, identification=n)[0])
        for n in range(count)
    ]


def test_datagrams_given_up_beyond_the_bound() -> None:
    """At most 64 datagrams are put together at a time: each one more ends the oldest."""
    table = Table(linktype=p.RAW)
    table.feed(first_fragments(64, START))
    assert table.counted("datagrams_given_up") == {"datagrams_given_up": 0}
    table.feed(first_fragments(69, START + 1000)[64:])
    assert table.counted() == {"packets_seen": 69, "packets_fragment": 69, "datagrams_given_up": 5}
    table.flush()


@pytest.mark.parametrize(("later", "given_up"), [(30_000_000, 0), (30_000_001, 1)])
def test_datagrams_given_up_by_time(later: int, given_up: int) -> None:
    """A datagram whose fragments do not all come within 30 s of packet time is given up."""
    segment = p.tcp(40000, 80, 1001, 0, p.ACK, GET)
    first, *rest = p.fragments_ipv4("192.0.2.1", SERVER[0], segment, 24)
    table = Table(linktype=p.RAW)
    table.feed([p.Packet(START, first)])
    messages = table.feed([p.Packet(START + later, data) for data in rest]) + table.flush()
    assert table.counted("datagrams_given_up") == {"datagrams_given_up": given_up}
    assert len(messages) == 1 - given_up


def test_segments_own() -> None:
    """Every segment of an excluded socket's connection is counted, those without payload too, and no other."""
    table = Table()
    table.core.exclude("192.0.2.1", 40000)
    own, other = Dialogue(), Dialogue(client=("192.0.2.1", 40001))
    for dialogue in (own, other):
        dialogue.client(GET)
        dialogue.server(OK)
    assert len(table.run(own.packets + other.packets)) == 2
    assert table.counted("flows_own", "segments_own", "bytes_abandoned_own") == {
        "flows_own": 1,
        "segments_own": 5,
        "bytes_abandoned_own": len(GET) + len(OK),
    }


def test_segments_retransmitted() -> None:
    """Segments that bring nothing new to what was read or is held are counted; one that brings a byte is not."""
    dialogue = Dialogue()
    dialogue.client(GET)
    dialogue.client(GET, offset=0)
    dialogue.client(GET[:5], offset=0)
    dialogue.server(OK[5:], offset=5)
    dialogue.server(OK[7:], offset=7)
    dialogue.server(OK[:6], offset=0)
    table = Table()
    assert [m.status_code for m in table.run(dialogue.packets)] == [None, 200]
    assert table.counted("segments_retransmitted", "bytes_duplicate", "bytes_used", "overlap_conflicts") == {
        "segments_retransmitted": 3,
        "bytes_duplicate": len(GET) + 5 + len(OK[7:]) + 1,
        "bytes_used": len(GET) + len(OK),
        "overlap_conflicts": 0,
    }


def test_segments_out_of_order() -> None:
    """A segment that came before the bytes it follows is counted; one that fills the hole is not."""
    dialogue = Dialogue()
    for start, end in ((20, len(GET)), (10, 20), (0, 10)):
        dialogue.client(GET[start:end], offset=start)
    dialogue.server(OK)
    table = Table()
    assert [m.status_code for m in table.run(dialogue.packets)] == [None, 200]
    assert table.counted("segments_out_of_order", "segments_retransmitted", "gaps") == {
        "segments_out_of_order": 2,
        "segments_retransmitted": 0,
        "gaps": 0,
    }


def sampled_in(client: tuple[str, int], server: tuple[str, int], rate: float) -> bool:
    """The documented rule: the first 64 bits of BLAKE2b over the sorted ends, below the rate."""
    ends = sorted(ip_address(address).packed + port.to_bytes(2, "big") for address, port in (client, server))
    return int.from_bytes(blake2b(b"".join(ends)).digest()[:8], "big") < rate * 2**64


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(
    ("address", "server"),
    [
        pytest.param("192.0.2.1", SERVER, id="client is the lower end"),
        pytest.param("203.0.113.1", SERVER, id="server is the lower end"),
        pytest.param("198.51.100.7", SERVER, id="ports alone differ"),
        pytest.param("2001:db8::1", ("2001:db8::2", 80), id="IPv6"),
    ],
)
def test_sampling_rule(address: str, server: tuple[str, int], rate: float) -> None:
    """A connection is sampled in by BLAKE2b over its sorted ends, whichever side is seen first; the rest is counted."""
    for first in ("client", "server"):
        table = Table(sample_rate=rate)
        expected = {port for port in range(20_000, 20_100) if sampled_in((address, port), server, rate)}
        assert 0 < len(expected) < 100
        seen = set()
        for port in range(20_000, 20_100):
            dialogue = Dialogue(client=(address, port), server=server, handshake=False)
            for side in ("client", "server") if first == "client" else ("server", "client"):
                if side == "client":
                    dialogue.client(GET, ack=0)
                else:
                    dialogue.server(OK, ack=len(GET))
            table.feed(dialogue.packets)
        for message in table.flush():
            seen.add((message.destination[1], message.direction))
        assert seen == {(port, direction) for port in expected for direction in ("request", "response")}
        out = 100 - len(expected)
        assert table.counted("flows_sampled_out", "segments_sampled_out", "bytes_abandoned_sampled_out") == {
            "flows_sampled_out": out,
            "segments_sampled_out": 2 * out,
            "bytes_abandoned_sampled_out": out * len(GET + OK),
        }


def behind_a_lost_head(segments: list[bytes]) -> tuple[Table, list[RawMessage]]:
    """The table that read, and the messages of, three exchanges; the head of the second was lost, its body was not."""
    dialogue = Dialogue()
    dialogue.client(GET)
    dialogue.server(OK)
    dialogue.client(b"POST /1 HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % sum(map(len, segments)), lost=True)
    for segment in segments:
        dialogue.client(segment)
    dialogue.server()
    dialogue.wait(300_000)
    dialogue.server(OK)
    dialogue.client(b"GET /2 HTTP/1.1\r\n\r\n")
    dialogue.server(OK)
    table = Table()
    return table, table.run(dialogue.packets)


def test_messages_tentative_dropped() -> None:
    """What looks like a request behind a gap and turns out to be a body is dropped, and counted once each."""
    invented = b"GET /invented HTTP/1.1\r\n\r\n"
    table, messages = behind_a_lost_head([invented, invented])
    assert [m.path for m in messages if m.direction == "request"] == ["/", "/2"]
    assert table.counted("messages_tentative_dropped", "messages_request", "gaps") == {
        "messages_tentative_dropped": 2,
        "messages_request": 2,
        "gaps": 1,
    }


def test_a_request_in_a_body_that_goes_on_behind_it() -> None:
    """What looks like a request behind a gap, with more of its segment behind it, is no request; it is freed once, and
    not looked at after that (`make sanitize` sees it).
    """
    body = b"GET /invented HTTP/1.1\r\n\r\nmore"
    table, messages = behind_a_lost_head([body])
    assert [m.path for m in messages if m.direction == "request"] == ["/", "/2"]
    assert table.counted("messages_tentative_dropped", "messages_request") == {
        "messages_tentative_dropped": 1,
        "messages_request": 2,
    }
