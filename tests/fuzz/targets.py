"""What the fuzzers run: each target takes any bytes as one input, and asserts what must hold for every input.

packets       packets of any link type, or any bytes with any index -> FlowTable
framing       one direction's bytes, cut anywhere, with gaps -> the parser
conversation  two streams of bytes, and what the network does to their segments -> FlowTable
http2         the same with frames of HTTP/2
talk          what a client, a server and the capture between them choose to do -> FlowTable
file          a capture file -> libpcap, the table, the pipeline, JSON lines
"""

from __future__ import annotations

import asyncio
import io
import json
import struct
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from sniffer import CaptureError, create_sniffer, logs
from sniffer.config import REDACT_BODY, REDACT_HEADERS, REDACT_QUERY
from sniffer.outputs.stdout import LEAST_LINE
from sniffer.record.codings import decode
from sniffer.record.message import HttpMessage, from_raw
from sniffer_core.core import LINK_TYPES, FlowTable, Lines, RawMessage
from tests import packets as p
from tests.bodies import agree, parsed, redacted
from tests.captures import connection
from tests.core.http1.reading import Gap, Piece, Rest, agree_on, comparable, reading, recognised
from tests.endpoints import Choices
from tests.generated import play, shown
from tests.http2 import PREFACE, settings
from tests.laws import Table, assert_empty, assert_laws
from tests.records import assert_read_back, read_back

PORTS: Final = (80, 8080)
CLIENT, SERVER = ("192.0.2.1", 40000), ("198.51.100.7", 80)
SEPARATOR: Final = b"\xff\xfe\xfd"
STEPS: Final = (1, 0, 10, 1000, 20_000, 60_000, 110_000, 1_100_000, 2_100_000, 61_000_000, 310_000_000, -1, -1_000_000)
"""µs between two packets."""


class Bytes:
    """An input, read from its front; zeros behind its end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def __bool__(self) -> bool:
        return self.at < len(self.data)

    def take(self, size: int) -> bytes:
        """The next bytes, fewer at the end."""
        piece = self.data[self.at : self.at + size]
        self.at += len(piece)
        return piece

    def byte(self) -> int:
        return (self.take(1) or b"\0")[0]

    def word(self) -> int:
        return self.byte() | self.byte() << 8

    def rest(self) -> bytes:
        return self.take(len(self.data))


def options(source: Bytes) -> dict[str, Any]:
    """A table's options from three bytes: zeros are the defaults."""
    limits, cap, how = source.byte(), source.byte(), source.byte()
    return {
        "linktype": p.ETHERNET,
        "memory_limit": (1 << 26, 20_000, 100_000, 1 << 20)[limits & 3],
        "max_flows": (1000, 1, 2, 10)[limits >> 2 & 3],
        "max_head": (65536, 64, 300, 5000)[limits >> 4 & 3],
        "max_body": (1 << 20, 0, 1, 100)[limits >> 6],
        "idle_timeout_us": (300_000_000, 1_000_000)[cap & 1],
        "sample_rate": (1.0, 0.5)[cap >> 1 & 1],
        "carry": ((), ("user-agent", "host"))[cap >> 2 & 1],
        "ports": (PORTS, (80, 40000))[cap >> 3 & 1],
        "decode": (decode, None)[cap >> 4 & 1],
        "redact_headers": (REDACT_HEADERS, ())[how & 1],
        "redact_query": (REDACT_QUERY, ())[how >> 1 & 1],
        "redact_body": (REDACT_BODY, ())[how >> 1 & 1],
    }


def check(messages: Sequence[RawMessage], max_body: int) -> list[bytes]:
    """Each message says nothing that contradicts itself, in both of its forms; returns the JSON."""
    lines = []
    for raw in messages:
        line = raw.to_json()
        message = from_raw(raw)
        assert msgspec.json.encode(message) == line, "the two forms differ"
        decoded = msgspec.json.decode(line, type=HttpMessage)  # valid by the definition that the schema is made from
        assert decoded.body_size >= 0
        assert len(raw.body) <= min(max_body, raw.body_size)
        assert raw.body_truncated or raw.incomplete or len(raw.body) == raw.body_size
        assert raw.weight >= len(line)
        if raw.stream_id is None:  # in HTTP/2 either may be unknown
            assert (raw.status_code is None) == (raw.direction == "request")
            assert raw.direction == "response" or raw.method
        else:
            assert raw.status_code is None or raw.direction == "response"
            assert raw.headers_unknown or raw.method or raw.direction == "response"
        assert raw.missing_bytes is None or raw.incomplete
        assert raw.latency_us is None or raw.latency_us >= 0
        (_, fitting) = Lines(most=LEAST_LINE).take([raw], 0, 1)
        assert len(fitting) <= LEAST_LINE
        if len(line) < LEAST_LINE:
            assert fitting == line + b"\n"
        else:
            cut = msgspec.json.decode(fitting, type=HttpMessage)
            assert cut.body_truncated or cut.headers_truncated
        lines.append(line)
    return lines


def whole(options: dict[str, Any], data: bytes, index: bytes) -> tuple[list[RawMessage], list[bytes]]:
    """A table fed at once and held to its laws; its messages, and their JSON."""
    table = Table(**options)
    messages = table.feed_raw(data, index) + table.flush()
    counters = table.core.counters()
    assert sum(message.body_size for message in messages) <= counters["bytes_used"], "bytes that never were"
    lines = check(messages, options["max_body"])
    assert_read_back(messages, **options)
    return messages, lines


def split(options: dict[str, Any], data: bytes, index: bytes, size: int, clock: int | None = None) -> list[bytes]:
    """A table fed `size` packets at a time, with a clock that moves on where one is given; the JSON of its messages."""
    table = FlowTable(**options)
    messages: list[RawMessage] = []
    for end in range(16 * size, len(index) + 16 * size, 16 * size):
        at = end // 16 - size
        while at < min(end, len(index)) // 16:
            ended, at = table.feed(data, index[:end], at, clock)
            messages += ended
        if clock is not None:
            clock += 100_000
            messages += table.tick(clock)
    messages += table.flush()
    assert_laws(table.counters(), table.gauges())
    assert_empty(table.gauges())
    return [message.to_json() for message in messages]


def packets(data: bytes) -> None:
    """No packets crash the table; every law holds; batches do not matter."""
    source = Bytes(data)
    first = source.byte()
    table_options = options(source) | {"linktype": sorted(LINK_TYPES)[first % len(LINK_TYPES)]}
    if first & 0x80:
        index = source.take(16 * (source.byte() + 1))
        content = source.rest()
    else:
        index, content = _indexed(source)
    _, lines = whole(table_options, content, index)
    if first & 0x40:
        split(table_options, content, index, 2, clock=1_000_000)
    assert split(table_options, content, index, 1 + first % 3) == lines, "batches matter"


def _indexed(source: Bytes) -> tuple[bytes, bytes]:
    index, content, now = bytearray(), bytearray(), p.START
    while source:
        now += STEPS[source.byte() % len(STEPS)]
        packet = source.take(source.word())
        index += struct.pack("=IIII", now // 1_000_000, now % 1_000_000, len(content), len(packet))
        content += packet
    return bytes(index), bytes(content)


def framing(data: bytes) -> None:
    """However bytes are cut into runs: the same messages, every byte counted once, all memory given back.

    And what the fast path says of a header block is what h11 says of it.
    """
    source = Bytes(data)
    how, head, boundary = source.byte(), 20 + 8 * source.byte(), source.byte() - 1
    kind = how & 1
    at_once: list[Piece] = []
    cut: list[Piece] = []
    while source:
        action = source.byte()
        if action < 16:
            at_once.append(Gap(1 + action * action * action * 40))
            cut.append(at_once[-1])
            continue
        segment = source.take(1 + (action & 15) + 16 * source.byte())
        if segment:
            step = 1 + (action >> 4) * (action >> 4)
            at_once.append(segment)
            cut.append(segment[:step])
            cut += [Rest(segment[at : at + step]) for at in range(step, len(segment), step)]
    strange = recognised(at_once)  # TLS mid-stream, which takes a segment's first bytes in one run
    if strange:
        at_once = [piece for piece in at_once if not isinstance(piece, Gap)]
        cut = [piece for piece in cut if not isinstance(piece, Gap)]
    results = []
    for pieces in (at_once, cut):
        with reading(
            kind, head=head, body=(1 << 20, 0, 7, 100)[how >> 1 & 3], at_start=strange or not how & 8,
            heads=how >> 4 & 1, paired=not how & 32,
        ) as reader:  # fmt: skip
            reader.parser.boundary(boundary)
            reader.feed(*pieces).end(how >> 6)
            results.append((reader.events, comparable(reader)))
    assert results[0] == results[1], "the cut matters"
    _agree(b"".join(piece for piece in at_once if isinstance(piece, bytes)))


def _agree(block: bytes) -> None:
    """The first header block in these bytes, read by the fast path or not, is what h11 makes of it."""
    block = block.partition(b"\n")[2]
    end = min((at for at in (block.find(b"\n\n") + 1, block.find(b"\n\r\n") + 1) if at), default=0)
    block = block[:end]
    if not block or block.startswith((b"\r\n", b"\n")) or len(block) > 60_000:
        return
    agree_on(block)


class Network:
    """Two streams, cut into segments that are lost, repeated, late or bogus, as a script of bytes says."""

    def __init__(self, script: bytes, streams: tuple[bytes, bytes], how: int) -> None:
        self.streams = streams
        self.packets: list[p.Packet] = []
        self.sent = [0, 0]
        self.isn = (2**32 - 30, 5000) if how & 1 else (1000, 5000)
        self.honest = True
        """Every segment holds bytes of its stream, in their place."""
        self.now = p.START
        if not how & 2:
            self.send(0, b"", -1, p.SYN)
            self.send(1, b"", -1, p.SYN | p.ACK)
        source = Bytes(script)
        while source:
            self._act(source.byte(), source.byte(), source.byte())
        if not how & 4:
            for side in (0, 1):
                while self.sent[side] < len(streams[side]):
                    self.send(side, streams[side][self.sent[side] :][:1460], self.sent[side])
        if not how & 8:
            for side in (1, 0):
                self.send(side, b"", self.sent[side], p.FIN | p.ACK)

    def send(self, side: int, data: bytes, offset: int, flags: int = p.ACK, ack: int | None = None) -> None:
        """One packet; later ones continue behind it."""
        mine, other = (CLIENT, SERVER) if side == 0 else (SERVER, CLIENT)
        ack = self.sent[1 - side] if ack is None else ack
        segment = p.tcp(
            mine[1], other[1], self.isn[side] + 1 + offset, self.isn[1 - side] + 1 + ack if flags & p.ACK else 0,
            flags, data,
        )  # fmt: skip
        self.packets.append(p.Packet(self.now, p.ethernet(p.ipv4(mine[0], other[0], segment))))
        self.now += 1
        self.sent[side] = max(self.sent[side], offset + len(data))

    def _act(self, action: int, amount: int, pause: int) -> None:
        side, what = action & 1, action >> 1 & 15
        stream, at = self.streams[side], self.sent[side]
        size = amount if amount < 200 else (amount - 199) * 50
        self.now += max(0, STEPS[pause % len(STEPS)])
        if what < 6:
            self.send(side, stream[at : at + size], at)
        elif what == 6:  # lost
            self.sent[side] = min(len(stream), at + size)
        elif what == 7:  # again
            self.send(side, stream[max(0, at - size) : at], max(0, at - size))
        elif what == 8:  # ahead; what is skipped comes with the next
            self.send(side, stream[at + size : at + size + 100], at + size)
            self.sent[side] = at
        elif what == 9:  # acknowledges only a part
            self.send(side, b"", at, ack=max(0, self.sent[1 - side] - size))
        elif what == 10:  # overlaps
            self.send(side, stream[max(0, at - size) : at + size], max(0, at - size))
        elif what == 11:
            self.send(side, b"", at, (p.FIN, p.RST, p.FIN | p.ACK, p.RST | p.ACK)[amount & 3])
        elif what == 12:  # the port is used again
            self.honest = False
            self.send(side, b"", at + amount * 1000, (p.SYN, p.SYN | p.ACK)[amount & 1])
        elif what == 13:  # other bytes
            self.honest = False
            self.send(side, bytes(byte ^ 1 for byte in stream[max(0, at - size) : at + 10]), max(0, at - size))
        elif what == 14:  # a bogus sequence number, or one far ahead
            self.honest = False
            self.send(side, stream[at : at + 100], at + amount * 1_000_003)
            self.sent[side] = at
        else:  # acknowledges what was never sent
            self.honest = False
            self.send(side, b"", at, ack=self.sent[1 - side] + size)


def conversation(data: bytes) -> None:
    """Whatever the network does: no message is invented, none comes twice, and batches do not matter."""
    source = Bytes(data)
    how = source.byte()
    table_options = options(source)
    script, client, server = [*source.rest().split(SEPARATOR, 2), b"", b""][:3]
    network = Network(script, (client, server), how)
    content, index = p.to_feed(network.packets)
    messages, lines = whole(table_options, content, index)
    keys = {message.idempotency_key for message in messages}
    assert len(keys) == len(messages), "an idempotency key twice"
    assert split(table_options, content, index, 1 + how % 5) == lines, "batches matter"
    if network.honest and table_options["redact_query"] == () and len(table_options["ports"]) == 2:
        for message in messages:
            if message.stream_id is None:  # HPACK writes heads in another form
                _assert_sent(message, (client, server))


def http2(data: bytes) -> None:
    """A connection of HTTP/2 with any frames, to which the network does anything that `conversation` does.

    No message comes twice, batches do not matter, and what is written is what is read back.
    """
    source = Bytes(data)
    how = source.byte()
    table_options = options(source)
    script, client, server = [*source.rest().split(SEPARATOR, 2), b"", b""][:3]
    network = Network(script, (PREFACE + settings() + client, settings() + server), how)
    content, index = p.to_feed(network.packets)
    messages, lines = whole(table_options, content, index)
    keys = {message.idempotency_key for message in messages}
    assert len(keys) == len(messages), "an idempotency key twice"
    assert split(table_options, content, index, 1 + how % 5) == lines, "batches matter"


def _assert_sent(message: RawMessage, streams: tuple[bytes, bytes]) -> None:
    """What the message says stands in one of the streams (which, the captured ports decide)."""
    if message.direction == "response":
        blank = b"\t" if "odd-start-line" in message.anomalies else b" "
        line = b"%d" % (message.status_code or 0) + (
            blank + message.reason.encode("latin-1") if message.reason else b""
        )
        if blank == b"\t" and not any(line in stream for stream in streams):
            line = line.replace(blank, b" ", 1)
    else:
        assert message.method is not None
        assert message.path is not None
        line = message.method.encode("latin-1") + b" "
    assert any(line in stream for stream in streams), f"an invented start line: {line!r}"
    if not message.incomplete and "transfer-encoding" not in message.headers:
        assert any(message.body in stream for stream in streams), "an invented body"


def talk(data: bytes) -> None:
    """Whatever the endpoints choose, and the capture loses: what comes out is judged by what they know."""
    case = play(Choices(given=data))
    assert not case.violations, "\n".join(shown(case))


def file(data: bytes) -> None:
    """A capture file gives the same lines each time, as the table alone gives them; the ledger balances.

    What goes wrong is one CaptureError, and the log has no control character and is JSON.
    """
    log = io.StringIO()
    logs.configure(level="debug", form="json", stream=log)
    with tempfile.NamedTemporaryFile(prefix="sniffer-fuzz-") as capture:
        capture.write(data)
        capture.flush()
        lines, failed = asyncio.run(_sniff(capture.name))
        direct = _direct(capture.name)
    for line in log.getvalue().splitlines():
        assert "message" in json.loads(line)
    assert "does not balance" not in log.getvalue()
    assert "uncaught" not in log.getvalue()
    assert "exception" not in log.getvalue()
    if direct is not None:
        assert lines == direct, "the pipeline and the table differ"
    else:
        assert failed


async def _sniff(path: str) -> tuple[list[bytes], bool]:
    sniffer = create_sniffer(ports=PORTS, read=path, memory_budget=64 << 20, log_level="debug")
    lines = []
    try:
        iterator = sniffer.__aiter__()
        await sniffer.start()
        async for message in iterator:
            line = message.to_json()
            msgspec.json.decode(line, type=HttpMessage)
            lines.append(line)
    except CaptureError:
        return lines, True
    finally:
        snapshot = await sniffer.stop()
        assert sniffer.ledger.check(snapshot) == []
    return lines, False


def _direct(path: str) -> list[bytes] | None:
    """The same by the table alone; None where libpcap finds fault with the file, or its link type is not ours."""
    import pcapy

    try:
        reader = pcapy.open_offline(path)
        if reader.datalink() not in LINK_TYPES:
            return None
        table = FlowTable(
            linktype=reader.datalink(), ports=PORTS, memory_limit=32 << 20, decode=decode,
            redact_headers=REDACT_HEADERS, redact_query=REDACT_QUERY, redact_body=REDACT_BODY,
        )  # fmt: skip
        messages: list[RawMessage] = []
        data, index = reader.next_batch(100)
        while index:
            at = 0
            while at < len(index) // 16:
                ended, at = table.feed(data, index, at)
                messages += ended
            data, index = reader.next_batch(100)
    except (pcapy.PcapError, ValueError):
        return None
    messages += table.flush()
    assert_laws(table.counters(), table.gauges())
    assert_empty(table.gauges())
    return [message.to_json() for message in messages]


TYPES: Final = (
    *("application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b"),
    *("text/event-stream", "", "application/json; charset=utf-8", "multipart/form-data"),
)


def bodies(data: bytes) -> None:
    """A body of any type: what is redacted of JSON is what Python's json finds, and the rest stays."""
    how, body = data[:1], data[1:]
    number = how[0] if how else 0
    kind = TYPES[number & 7]
    head = f"POST / HTTP/1.1\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    most = (1 << 20, 10, 50, 0)[number >> 3 & 3]
    table = Table(ports=(8080,), max_body=most, redact_body=REDACT_BODY)
    messages = table.run(connection([(head + body, b"")]))
    check(messages, most)
    # Beside a mark what is malformed may read otherwise: then more is redacted, never less.
    (again,) = read_back([messages[0].to_json()], max_body=most, redact_body=REDACT_BODY)
    once, twice = messages[0].content[-1], again.content[-1]
    assert twice == "all" or once is None or (once != "all" and twice is not None and twice >= once)
    shown, encoding, truncated, _, count = messages[0].content
    if count is None and not encoding and not truncated:
        assert (shown or "").encode() == body, "something else is changed"
    if most != 1 << 20 or "json" not in kind or encoding:
        return
    try:
        said = parsed(body.decode())
    except (ValueError, RecursionError):
        return
    assert_read_back(messages, max_body=most, redact_body=REDACT_BODY)
    assert count != "all" or body.count(b"[") + body.count(b"{") > DEPTH, "valid JSON is left out"
    if shown is not None:
        assert agree(redacted(said)[0], parsed(shown)), "not what Python's json finds"


DEPTH: Final = 1024
"""Levels of JSON that are searched."""

TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "packets": packets,
    "framing": framing,
    "conversation": conversation,
    "http2": http2,
    "talk": talk,
    "file": file,
    "bodies": bodies,
}
