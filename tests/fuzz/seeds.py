"""Where the fuzzers begin: one valid input of each kind, and some that are nearly so, made from the tests' captures."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterable, Iterator
from random import Random

from tests import http2 as h
from tests import packets as p
from tests.captures import connection, get, ok
from tests.conversations import Dialogue
from tests.core.test_flow_memory import traffic
from tests.endpoints import Capture, Choices, Talk
from tests.fuzz.targets import SEPARATOR, STEPS

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"
TOKEN = b"Authorization: Bearer x\r\nCookie: a=1\r\nCookie: b=2\r\n"
REQUESTS = (
    get("/a;sig=1/b??s%69g[]=1;2&to=http%3A%2F%2Fu%3Ap%40h%2F%3Fsig%3D1", referer="http://u:p@h/?token=1"),
    b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n" + TOKEN + b"\r\nhello",
    b"HEAD /c HTTP/1.1\r\n\r\n",
    b"PUT http://u:p@h/d HTTP/1.0\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    b"GET /e f HTTP/1.1\r\nA: 1\r\n 2\r\nB : \xe4\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n",
)
RESPONSES = (
    ok(),
    b"HTTP/1.1 100 Continue\r\n\r\n" + ok(b"x" * 300, set_cookie="a", x="b"),
    b"HTTP/1.1 204 No Content\r\nContent-Length: 10\r\n\r\n",
    CHUNKED,
    b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n\x81\x05hello",
    b"HTTP/1.0 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"hello" * 50, mtime=0),
)
ODD = (
    b"POST /u HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nT: 1\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\nContent-Length: 5, 5\n: x\n\nhello",
    b"GET  /odd http/1.1 \r\nno colon\r\n folded\r\nA: \x00\r\nTransfer-Encoding: identity\r\nB: \xe4\r\n\r\n",
    b"HTTP/2.0  200\tOK\r\nX\x01: 1\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok",
    b"POST / HTTP/1.1\r\nContent- Length: 3\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n0\r\nbad\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\nTransfer-Encoding: gzip, chunked\r\n\r\nfffffffff\r\n",
)


def packet_input(packets: Iterable[p.Packet], linktype: int = p.ETHERNET, how: bytes = b"\0\0\0") -> bytes:
    """These packets as `targets.packets` reads them."""
    out = [bytes([sorted(p.LINK_TYPES).index(linktype) | 0x40]) + how]
    last = None
    for packet in packets:
        step = 0 if last is None else packet.stamp - last
        code = min(range(len(STEPS)), key=lambda code: abs(STEPS[code] - step))
        last = packet.stamp
        out.append(struct.pack("<BH", code, len(packet.data)) + packet.data)
    return b"".join(out)


def _inside(frame: bytes) -> Iterator[bytes]:
    """The frame inside of tunnels."""
    ends = ("203.0.113.1", "203.0.113.2")
    yield p.ipv4(*ends, p.udp(5555, 4789, p.vxlan(frame)), protocol=p.UDP)
    yield p.ipv4(*ends, p.udp(5555, 6081, p.geneve(frame, p.BRIDGE)), protocol=p.UDP)
    yield p.ipv4(*ends, p.gre(frame[14:], 0x0800), protocol=47)
    yield p.ipv4(*ends, frame[14:], protocol=4)
    yield p.ipv6("2001:db8::1", "2001:db8::2", p.extension(41) + frame[14:], next_header=p.DESTINATION)


def _in_vlan(packet: p.Packet, vlan: int) -> p.Packet:
    return p.Packet(packet.stamp, packet.data[:12] + struct.pack("!HH", p.VLAN, vlan) + packet.data[12:])


def _ignored_ends() -> Iterator[p.Packet]:
    """Exchanges, and between them FIN and RST that nobody heeds."""
    dialogue = Dialogue(client=("192.0.2.1", 40000), server=("192.0.2.2", 80))
    for flags in (p.RST, p.RST | p.ACK, p.FIN | p.ACK):
        for side in (dialogue.client, dialogue.server):
            sent = list(dialogue.sent)
            side(RESPONSES[0] if flags & p.RST else b"", flags=flags)
            dialogue.sent = sent
            dialogue.client(REQUESTS[0])
            dialogue.server(RESPONSES[0])
    dialogue.close()
    yield from dialogue.packets


def _packets() -> Iterator[bytes]:
    for linktype in p.LINK_TYPES:
        yield packet_input(connection(list(zip(REQUESTS[:2], RESPONSES[:2], strict=True)), linktype=linktype), linktype)
    for request, response in zip(REQUESTS, RESPONSES, strict=True):
        yield packet_input(connection([(request, response)]))
    yield packet_input(connection([(odd, odd) for odd in ODD]))
    tagged = connection([(REQUESTS[0], RESPONSES[0])])
    yield packet_input(p.Packet(t.stamp, p.ethernet(t.data[14:], tags=(p.QINQ, p.VLAN))) for t in tagged)
    yield packet_input(p.Packet(t.stamp, p.ethernet(p.pppoe(t.data[14:]), protocol=p.PPPOE)) for t in tagged)
    yield packet_input(p.Packet(t.stamp, p.ethernet(packet)) for t in tagged for packet in _inside(t.data))
    yield packet_input(_ignored_ends())
    other = connection([(REQUESTS[1], RESPONSES[1])])  # the same numbers, other bytes
    mixed = (t for pair in zip(tagged, other, strict=True) for t in pair)
    yield packet_input(_in_vlan(t, 10 + place % 2) for place, t in enumerate(mixed))
    index = [(1 + 10**9 * (n == 3), 0, n * 60, 60) for n in range(6)]
    yield b"\x81\0\0\0\x05" + struct.pack("=24I", *sum(index, ())) + b"".join(t.data[:60] for t in tagged[:6])
    six = p.tcp(40000, 80, 1000, payload=REQUESTS[1])
    for piece in (
        [*p.fragments_ipv6("2001:db8::1", "2001:db8::2", six, 32)],
        [*p.fragments_ipv4("192.0.2.1", "192.0.2.2", six, 24)],
    ):
        yield packet_input(p.Packet(n, p.ethernet(packet)) for n, packet in enumerate(piece))
    some = traffic()
    for at in range(0, len(some), 30):
        yield packet_input(some[at : at + 30], how=bytes([at % 5, 0, 0]))
    yield b"\x81\0\0\0\x01" + struct.pack("=8I", 1, 2, 0, 60, 1, 3, 60, 60) + b"".join(t.data for t in tagged[3:5])


def _framing() -> Iterator[bytes]:
    for kind, parts in enumerate((REQUESTS, RESPONSES)):
        for number, part in enumerate((*parts, *ODD, b"".join(parts))):
            segments = [part[at : at + 250] for at in range(0, len(part), 250)]
            steps = (number % 15 + 1) << 4
            body = b"".join(bytes([steps | (len(s) - 1) & 15, (len(s) - 1) >> 4]) + s for s in segments)
            yield bytes([kind, 255, 0]) + body
            yield bytes([kind | 8, 30, 60]) + b"\x05" + body + b"\x02" + body


def _conversations() -> Iterator[bytes]:
    random = Random(1)
    for number in range(40):
        picked = [random.randrange(len(REQUESTS)) for _ in range(random.randint(1, 5))]
        client = b"".join(REQUESTS[n] for n in picked)
        server = b"".join(RESPONSES[n] for n in picked)
        actions = [
            bytes(
                [
                    random.choice((0, 0, 0, 1, 1, 2, random.randrange(32))) | random.randrange(2),
                    random.randrange(256),
                    2,
                ]
            )
            for _ in range(random.randint(0, 25))
        ]
        how = bytes([number & 15, random.choice((0, 0, 1, 2)), random.choice((0, 8)), 2])
        script = b"".join(actions).replace(SEPARATOR, b"")
        yield how + script + SEPARATOR + client + SEPARATOR + server


def _http2() -> Iterator[bytes]:
    """Calls of HTTP/2, without the preface and the first SETTINGS, which the target writes."""
    begun = (len(h.PREFACE + h.settings()), len(h.settings()))
    for number in range(40):
        random = Random(number)
        talk = h.Talk(h.calls(random, 1 + number % 5), random)
        talk.writes[:2] = [(0, h.PREFACE + h.settings()), (1, h.settings())]
        streams = [b"".join(data for side, data in talk.writes if side == each)[begun[each] :] for each in (0, 1)]
        script = bytes(random.choice((0, 1, 2, 12, 14, 3)) if n % 3 == 0 else random.randrange(250) for n in range(30))
        yield bytes([number & 15, 0, 8 * (number & 1), 2]) + SEPARATOR.join((script, *streams))


def _talks() -> Iterator[bytes]:
    yield b"\0"
    for number in range(30):
        choices = Choices(Random(number))
        Capture(Talk(choices), choices)
        yield bytes(min(choice, 255) for choice in choices.made[:1500])


def _files() -> Iterator[bytes]:
    packets = connection(list(zip(REQUESTS, RESPONSES, strict=True)), server_port=80)
    yield p.pcap(packets)
    yield p.pcap(packets, order=">", nanoseconds=True)
    yield p.pcapng(packets)
    yield p.pcap((packet.cut(80) for packet in packets), p.ETHERNET)
    yield p.pcap(traffic()[:60])
    yield p.pcapng(packets)[:-7]
    yield p.pcap(connection([(REQUESTS[3], RESPONSES[3])], linktype=p.SLL2, server_port=80), p.SLL2)


def _bodies() -> Iterator[bytes]:
    texts = (
        b'{"a":[1,{"password":"x\\"y"},{"PIN":[{"b":-1.5e3}]}],"pass\\u0077ord":null,"q":"{\\"token\\":1}"}',
        b'{"n":1,"Api_Key":"x"}\n{"n":2}\n[true,"\\u0022otp\\u0022:1"]',
        b"a=1&pass%77ord=x;y&u%5Bpin%5D=2&p=%7B%22token%22%3A1%7D;cvv=3",
        b'--b\r\nA: form-data; name="password"\r\n\r\nx\r\n--b\r\nA: json; name=j\r\n\r\n{"pin":1}\r\n--b--\r\n',
        b'data: {"token": "x", "pin":2}\n\n',
        b'{\'a\' "password":"x"}',
    )
    for number in range(32):
        yield from (bytes([number]) + text for text in texts)


def seeds() -> dict[str, list[bytes]]:
    """The seeds of each target."""
    made = {
        "packets": _packets(), "framing": _framing(), "conversation": _conversations(), "http2": _http2(),
        "talk": _talks(), "file": _files(), "bodies": _bodies(),
    }  # fmt: skip
    return {name: list(inputs) for name, inputs in made.items()}


DICTIONARY = tuple(
    b"GET |POST |HEAD |CONNECT | HTTP/1.1\r\n| HTTP/1.0\r\n|HTTP/1.1 200 OK\r\n|HTTP/1.1 100 \r\n|HTTP/1.1 101 \r\n|"
    b"HTTP/1.1 204 \r\n|HTTP/1.1 304 \r\n|Content-Length: |Transfer-Encoding: chunked\r\n|Content-Encoding: gzip\r\n|"
    b"Connection: upgrade\r\n|Upgrade: h2c\r\n|Set-Cookie: a\r\n|Cookie: b\r\n|Authorization: c\r\n|traceparent: |"
    b" http/1.1 \r\n|HTTP/2.0  200\tOK\r\n|Transfer-Encoding: identity\r\n|no colon\r\n|A: \0\r\n|Content- Length: |"
    b"\r\n\r\n|\n\n|\r\n |0\r\n\r\n|5\r\n|ffffffffffffffff\r\n|, |; |"
    b"?sig=|;sig=|%3Fsig%3D|[sig]=|%253D|Link: <//u@h?sig=1>|Location: |://u:p@|//u:p@|\x16\x03\x01|PRI * HTTP/2.0\r\n|"
    b"\xff\xfe\xfd|\x81\x00|\x88\xa8|\x88\x64|\x08\x00\x45|\x86\xdd\x60|\x0a\x0d\x0d\x0a|\xd4\xc3\xb2\xa1|"
    b'{"|"}|":"|"password":|\\"pin\\":|&pin=|%22token%22%3A|--b\r\n|name="otp"\r\n\r\n'.split(b"|")
)
