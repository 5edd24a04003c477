"""The builder of TCP conversations, for all tests: exchanges as data, the segments that carry them, and faults.

Conversation holds exchanges, what must be read from them, and the segments of both directions. Dialogue writes a
connection segment by segment. tests/captures.py makes small capture files of Dialogues, tests/endpoints.py makes
conversations whose two ends react to each other. tests/packets.py makes the packets for all of them.

A conversation is written in groups of `depth` exchanges: the requests of a group, then their responses. Every segment
acknowledges what the other side had written by then, as a server's answer acknowledges the request that it has read.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final, Literal, NamedTuple

from hypothesis import strategies as st

from sniffer_core.core import RawMessage
from tests import packets as p

CLIENT, SERVER = 0, 1

START: Final = p.START

Fields = tuple[tuple[str, str], ...]
Framing = Literal["none", "length", "chunked", "close"]
Record = dict[str, Any]


def joined(fields: Fields) -> dict[str, Any]:
    """Header lines as the record has them."""
    result: dict[str, Any] = {}
    for name, value in fields:
        key = name.lower()
        if key == "set-cookie":
            result.setdefault(key, []).append(value)
        elif key in result:
            result[key] += ("; " if key == "cookie" else ", ") + value
        else:
            result[key] = value
    return result


def chunked(data: bytes, sizes: Sequence[int] | int, extension: str = "", trailers: Fields = ()) -> bytes:
    """RFC 9112 section 7.1: chunks of these sizes (or all of one size), then one with the rest."""
    out = []
    if isinstance(sizes, int):
        sizes = [sizes] * (len(data) // sizes)
    for size in (*sizes, len(data)):
        piece, data = data[:size], data[size:]
        if piece:
            out.append(b"%x%s\r\n%s\r\n" % (len(piece), extension.encode(), piece))
    return b"".join(out) + b"0\r\n" + lines(trailers) + b"\r\n"


def lines(fields: Fields) -> bytes:
    return b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What requests and responses have in common."""

    fields: Fields = ()
    body: bytes = b""
    framing: Framing = "none"
    chunks: tuple[int, ...] = ()
    extension: str = ""
    trailers: Fields = ()
    version: str = "1.1"
    bad: bytes = b""
    """Lines among the header lines, and the trailers, that are no fields."""
    line: str = ""
    """How the start line is written; "": as RFC 9112 has it."""
    unended: bool = False
    """A chunked body lacks its last CRLF."""

    def all_fields(self) -> Fields:
        if self.framing == "length":
            return (*self.fields, ("Content-Length", str(len(self.body))))
        if self.framing == "chunked":
            return (*self.fields, ("Transfer-Encoding", "chunked"))
        return self.fields

    def written(self, start_line: str, bodyless: bool = False) -> bytes:
        fields = self.all_fields()
        head = start_line.encode("latin-1") + b"\r\n" + lines(fields[:1]) + self.bad + lines(fields[1:]) + b"\r\n"
        if bodyless:
            return head
        if self.framing == "chunked":
            body = chunked(self.body, self.chunks, self.extension, self.trailers).removesuffix(b"\r\n")
            return head + body + self.bad + (b"" if self.unended else b"\r\n")
        return head + self.body

    def record(self, bodyless: bool = False) -> Record:
        body = b"" if bodyless else self.body
        return {
            "http_version": self.version,
            "headers": joined(self.all_fields()),
            "body": body,
            "body_size": len(body),
            "trailers": joined(self.trailers) if self.trailers and not bodyless else None,
            "incomplete": None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Content):
    path: str = "/"
    method: str = "GET"
    fields: Fields = (("Host", "example.test"),)

    def wire(self) -> bytes:
        line = self.line or "{0.method} {0.path} HTTP/{0.version}"
        return self.written(line.format(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Response(Content):
    status: int = 200
    reason: str = "OK"
    framing: Framing = "length"
    informational: tuple[int, ...] = ()
    head: bool = False
    """Answers HEAD: its fields speak of a body that is not there."""

    def bodyless(self) -> bool:
        return self.head or self.status in (204, 304)

    def interim(self) -> list[bytes]:
        return [b"HTTP/1.1 %d Interim\r\nX-Interim: yes\r\n\r\n" % status for status in self.informational]

    def wire(self) -> bytes:
        """Without the interim responses before it."""
        line = self.line or "HTTP/{0.version} {0.status} {0.reason}"
        return self.written(line.format(self), self.bodyless())


class Exchange(NamedTuple):
    request: Request
    response: Response


@dataclass(frozen=True, slots=True)
class Segment:
    """A TCP segment; `offset` and `ack` are positions in the two streams, a SYN stands at -1 of its own."""

    side: int
    offset: int
    data: bytes = b""
    ack: int = 0
    flags: int = p.ACK
    stamp: int | None = None

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


class Span(NamedTuple):
    """Where a message stands in its stream; `start` is that of the final response, after its interim ones."""

    side: int
    exchange: int
    start: int
    end: int


Cut = Callable[[int], Iterator[int]]
"""The sizes of the segments that carry a write of so many bytes."""


def whole(size: int) -> Iterator[int]:
    """Each write is one segment."""
    yield size


def sized(most: int) -> Cut:
    """Segments of `most` bytes, as a sender with this MSS makes them."""

    def cut(size: int) -> Iterator[int]:
        yield from [most] * (size // most)
        if size % most:
            yield size % most

    return cut


def random_sizes(random: Random, most: int) -> Cut:
    """Segments of 1 to `most` bytes."""

    def cut(size: int) -> Iterator[int]:
        while size:
            piece = min(size, random.randint(1, most))
            size -= piece
            yield piece

    return cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """One connection and what is said on it."""

    exchanges: tuple[Exchange, ...]
    depth: int = 1
    together: bool = False
    """The messages of a group are one write, so that segments may hold several and begin anywhere."""
    client: tuple[str, int] = ("192.0.2.1", 40000)
    server: tuple[str, int] = ("198.51.100.7", 80)
    isn: tuple[int, int] = (1000, 5000)
    handshake: bool = True
    fin: bool = True

    def groups(self) -> Iterator[tuple[Exchange, ...]]:
        for at in range(0, len(self.exchanges), self.depth):
            yield self.exchanges[at : at + self.depth]

    def writes(self) -> Iterator[tuple[int, bytes]]:
        """What each side writes, in order of time."""
        for group in self.groups():
            requests = [exchange.request.wire() for exchange in group]
            responses = [part for _, response in group for part in (*response.interim(), response.wire())]
            for side, parts in ((CLIENT, requests), (SERVER, responses)):
                for part in [b"".join(parts)] if self.together else parts:
                    yield side, part

    def stream(self, side: int) -> bytes:
        return b"".join(data for writer, data in self.writes() if writer == side)

    def segments(self, cut: Cut = whole) -> list[Segment]:
        """The whole connection, nothing lost, in order."""
        sent = [0, 0]
        result = []
        if self.handshake:
            result += [
                Segment(CLIENT, -1, flags=p.SYN),
                Segment(SERVER, -1, flags=p.SYN | p.ACK),
                Segment(CLIENT, 0),
            ]
        for side, data in self.writes():
            at = 0
            for size in cut(len(data)):
                result.append(Segment(side, sent[side], data[at : at + size], sent[1 - side], p.ACK | p.PSH))
                sent[side] += size
                at += size
        if self.fin:
            result += [
                Segment(SERVER, sent[SERVER], ack=sent[CLIENT], flags=p.ACK | p.FIN),
                Segment(CLIENT, sent[CLIENT], ack=sent[SERVER] + 1, flags=p.ACK | p.FIN),
                Segment(SERVER, sent[SERVER] + 1, ack=sent[CLIENT] + 1),
            ]
        return result

    def packet(self, segment: Segment, stamp: int, linktype: int = p.ETHERNET) -> p.Packet:
        """The segment on the wire, from `isn`."""
        ends = (self.client, self.server) if segment.side == CLIENT else (self.server, self.client)
        mine, other = self.isn if segment.side == CLIENT else self.isn[::-1]
        tcp = p.tcp(
            ends[0][1],
            ends[1][1],
            mine + 1 + segment.offset,
            other + 1 + segment.ack if segment.flags & p.ACK else 0,
            segment.flags,
            segment.data,
        )
        return p.Packet(stamp, p.link(linktype, p.ip(ends[0][0], ends[1][0], tcp)))

    def packets(
        self, segments: Sequence[Segment], *, step: int = 1000, start: int = START, linktype: int = p.ETHERNET
    ) -> list[p.Packet]:
        """One packet each `step` µs, but a segment that has a stamp keeps it."""
        return [
            self.packet(segment, start + number * step if segment.stamp is None else segment.stamp, linktype)
            for number, segment in enumerate(segments)
        ]

    def spans(self) -> list[Span]:
        """Where each message stands."""
        sent = [0, 0]
        result = []
        for number, (request, response) in enumerate(self.exchanges):
            size = len(request.wire())
            result.append(Span(CLIENT, number, sent[CLIENT], sent[CLIENT] + size))
            sent[CLIENT] += size
            sent[SERVER] += sum(len(part) for part in response.interim())
            size = len(response.wire())
            result.append(Span(SERVER, number, sent[SERVER], sent[SERVER] + size))
            sent[SERVER] += size
        return result

    def expected(self) -> list[Record]:
        """The messages that went in: requests and responses, by exchange."""
        result = []
        for number, (request, response) in enumerate(self.exchanges):
            common = {
                "exchange": number,
                "receiver": self.server,
                "destination": self.client,
                "method": request.method,
                "path": request.path,
            }
            result.append(
                {**common, "direction": "request", "status_code": None, "reason": None, "informational": ()}
                | request.record()
            )
            last = {
                **common,
                "direction": "response",
                "status_code": response.status,
                "reason": response.reason,
                "informational": response.informational,
            } | response.record(response.bodyless())
            if response.framing == "close" and not response.bodyless() and not self.fin:
                last["incomplete"] = "stopped"
            result.append(last)
        return result


def record(message: RawMessage) -> Record:
    """What Conversation.expected() says of a message, from one that came out."""
    return {
        name: getattr(message, name)
        for name in (
            "exchange",
            "receiver",
            "destination",
            "method",
            "path",
            "direction",
            "status_code",
            "reason",
            "informational",
            "http_version",
            "headers",
            "body",
            "body_size",
            "trailers",
            "incomplete",
        )
    }


def records(messages: Sequence[RawMessage]) -> list[Record]:
    """By exchange, the request first."""
    return sorted(map(record, messages), key=lambda r: (r["exchange"], r["direction"]))


class Dialogue:
    """One connection, segment by segment. By default a segment is in order and acknowledges all before it."""

    def __init__(
        self,
        *,
        handshake: bool = True,
        client: tuple[str, int] = ("192.0.2.1", 40000),
        server: tuple[str, int] = ("198.51.100.7", 80),
        isn: tuple[int, int] = (1000, 5000),
        start: int = START,
        linktype: int = p.ETHERNET,
    ) -> None:
        self.conversation = Conversation(exchanges=(), client=client, server=server, isn=isn)
        self.now = start
        self.linktype = linktype
        self.sent = [0, 0]
        self.packets: list[p.Packet] = []
        if handshake:
            self.client(flags=p.SYN, offset=-1)
            self.server(flags=p.SYN | p.ACK, offset=-1)
            self.client()

    def _say(
        self,
        side: int,
        data: bytes = b"",
        *,
        flags: int = p.ACK,
        offset: int | None = None,
        ack: int | None = None,
        lost: bool = False,
    ) -> p.Packet:
        """Sends the next bytes, or with `offset` some again or ahead, 1 ms later. A `lost` segment is not captured."""
        place = self.sent[side] if offset is None else offset
        seen = self.sent[1 - side] if ack is None else ack
        packet = self.conversation.packet(Segment(side, place, data, seen, flags), self.now, self.linktype)
        self.now += 1000
        self.sent[side] = max(self.sent[side], place + len(data))
        if not lost:
            self.packets.append(packet)
        return packet

    def client(self, data: bytes = b"", **how: Any) -> p.Packet:
        return self._say(CLIENT, data, **how)

    def server(self, data: bytes = b"", **how: Any) -> p.Packet:
        return self._say(SERVER, data, **how)

    def close(self, first: int = SERVER) -> None:
        """FIN of the side that closes `first`, FIN of the other side, and the acknowledgement of that."""
        sent, other = self.sent[first], self.sent[1 - first]
        self._say(first, flags=p.FIN | p.ACK)
        self._say(1 - first, flags=p.FIN | p.ACK, ack=sent + 1)
        self._say(first, offset=sent + 1, ack=other + 1)
        self.sent[first] = sent

    def wait(self, microseconds: int) -> None:
        """Packet time passes."""
        self.now += microseconds

    def take(self) -> list[p.Packet]:
        """The packets since the last call."""
        packets, self.packets = self.packets, []
        return packets


# ---- faults ----------------------------------------------------------------------------------------------------------


def shuffled(segments: Sequence[Segment], random: Random, reach: float) -> list[Segment]:
    """Each segment arrives up to `reach` places late; first of all one that begins a flow: with data or a SYN."""
    order = sorted(range(len(segments)), key=lambda place: place + random.uniform(0, reach))
    result = [segments[place] for place in order]
    first = next((place for place, segment in enumerate(result) if segment.data or segment.flags & p.SYN), 0)
    return [*result[first : first + 1], *result[:first], *result[first + 1 :]]


def duplicated(segments: Sequence[Segment], random: Random, rate: float) -> list[Segment]:
    """Some segments come twice, the second time up to 5 places later."""
    result = list(segments)
    for place in range(len(segments) - 1, -1, -1):
        if random.random() < rate:
            result.insert(min(len(result), place + random.randint(1, 5)), segments[place])
    return result


def overlapping(conversation: Conversation, segments: Sequence[Segment], random: Random, count: int) -> list[Segment]:
    """With `count` retransmissions, cut elsewhere than the first time, of what had been sent by then."""
    result = list(segments)
    streams = (conversation.stream(CLIENT), conversation.stream(SERVER))
    for _ in range(count):
        place = random.choice([place for place, segment in enumerate(result) if segment.data])
        segment = result[place]
        start = max(0, segment.offset - random.randint(0, 100))
        end = random.randint(segment.offset + 1, segment.end)
        data = streams[segment.side][start:end]
        result.insert(place + random.randint(0, 1), replace(segment, offset=start, data=data))
    return result


def overlapping_itself(segments: Sequence[Segment], random: Random, count: int) -> list[Segment]:
    """With `count` copies of a part of a segment, each before or after the whole of it."""
    result = list(segments)
    for _ in range(count):
        place = random.choice([place for place, segment in enumerate(result) if segment.data])
        segment = result[place]
        start = random.randrange(len(segment.data))
        end = random.randint(start + 1, len(segment.data))
        copy = replace(segment, offset=segment.offset + start, data=segment.data[start:end])
        result.insert(place + random.randint(0, 1), copy)
    return result


def dropped(segments: Sequence[Segment], random: Random, rate: float) -> list[Segment]:
    """Without some of them, but with what says where the streams begin: the SYNs, or else each side's first segment."""
    begins = {next(n for n, s in enumerate(segments) if s.side == side) for side in (CLIENT, SERVER)}
    return [s for n, s in enumerate(segments) if n in begins or random.random() >= rate]


def arrived(segments: Sequence[Segment], side: int, start: int, end: int) -> bool:
    """Whether every byte of the range is in one of the segments."""
    at = start
    for segment in sorted((s for s in segments if s.side == side and s.data), key=lambda s: s.offset):
        if segment.offset <= at < segment.end:
            at = segment.end
    return at >= end


# ---- strategies ------------------------------------------------------------------------------------------------------

BODY_SIZES = (0, 1, 2, 7, 40, 300, 2000)

NASTY = (
    b"GET /invented HTTP/1.1\r\nHost: invented\r\n\r\n",
    b"POST /invented HTTP/1.1\r\nContent-Length: 10\r\n\r\n",
    b"HTTP/1.1 200 Invented\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 Invented\r\nContent-Length: 30\r\n\r\n",
    b"HTTP/1.1 304 Invented\r\n\r\n",
    b"HTTP/1.1 200 Invented\r\nTransfer-Encoding: chunked\r\n\r\n",
)
"""Start lines and heads for bodies to hold: whoever reports one has invented a message."""


@st.composite
def bodies(draw: st.DrawFn, nasty: bool) -> bytes:
    """Bytes; `nasty` ones hold start lines."""
    size = draw(st.sampled_from(BODY_SIZES))
    random = Random(draw(st.integers(0, 2**32)))
    if not nasty:
        return random.randbytes(size)
    parts = [random.choice([*NASTY, random.randbytes(random.randint(0, 60))]) for _ in range(random.randint(0, 8))]
    return b"".join(parts)


@st.composite
def contents(draw: st.DrawFn, framings: Sequence[Framing], nasty: bool) -> dict[str, Any]:
    """Keywords of a Content."""
    framing = draw(st.sampled_from(framings))
    result: dict[str, Any] = {"framing": framing}
    if framing != "none":
        result["body"] = draw(bodies(nasty))
    if framing == "chunked":
        result["chunks"] = tuple(draw(st.lists(st.sampled_from((1, 3, 16, 100)), max_size=4)))
        result["extension"] = draw(st.sampled_from(("", ";a=b", ' ; q="x;y"')))
        result["trailers"] = draw(st.sampled_from(((), (("X-Sum", "1"),), (("A", "1"), ("a", "2")))))
    extra = draw(st.sampled_from(((), (("X-Pad", "p" * 300),), (("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")))))
    result["fields"] = (("Host", "example.test"), *extra)
    return result


@st.composite
def exchanges(draw: st.DrawFn, number: int, last: bool, nasty: bool, methods: Sequence[str]) -> Exchange:
    """The path and the reason carry the exchange's number, so that what comes out can be told apart."""
    method = draw(st.sampled_from(methods))
    request = Request(
        method=method,
        path=f"/{number}?q=%20",
        version=draw(st.sampled_from(("1.1", "1.1", "1.0"))),
        **draw(contents(("length", "chunked") if method == "POST" else ("none", "none", "length"), nasty)),
    )
    if request.framing == "chunked" and request.version == "1.0":
        request = replace(request, version="1.1")
    status = draw(st.sampled_from((200, 200, 200, 404, 500, 204, 304)))
    framings: tuple[Framing, ...] = ("length", "chunked", "close") if last else ("length", "chunked")
    response = Response(
        status=status,
        reason=f"R{number}",
        head=method == "HEAD",
        informational=draw(st.sampled_from(((), (), (), (100,), (102, 103)))),
        **draw(contents(("none",) if status in (204, 304) else framings, nasty)),
    )
    return Exchange(request, response)


@st.composite
def conversations(
    draw: st.DrawFn,
    *,
    nasty: bool = False,
    methods: Sequence[str] = ("GET", "POST", "HEAD", "UNHEARD-OF"),
    together: bool | None = None,
) -> Conversation:
    """Up to 6 exchanges on a connection that starts anywhere in the sequence space."""
    count = draw(st.integers(1, 6))
    sequence = st.one_of(st.integers(0, 2**32 - 1), st.integers(2**32 - 3000, 2**32 - 1))
    six = draw(st.booleans())
    handshake = draw(st.booleans())
    if not handshake:  # where a stream's beginning was not seen, an unheard-of method begins no message
        methods = [method for method in methods if method != "UNHEARD-OF"]
    return Conversation(
        exchanges=tuple(draw(exchanges(number, number == count - 1, nasty, methods)) for number in range(count)),
        depth=draw(st.integers(1, 3)),
        together=draw(st.booleans()) if together is None else together,
        client=("2001:db8::1" if six else "192.0.2.1", 40000),
        server=("2001:db8::2" if six else "198.51.100.7", 80),
        isn=(draw(sequence), draw(sequence)),
        handshake=handshake,
        fin=draw(st.booleans()),
    )


BAD_LINES = (
    b"",
    b"SECRET\r\n",
    b": SECRET\r\n",
    b"A b: 1\r\n SECRET\r\n\tSECRET\r\n",
    b"A: \x00SECRET\nB: a\rSECRET\r\n",
)
REQUEST_LINES = (
    "",
    "{0.method} {0.path} http/{0.version} ",
    "{0.method}  {0.path}   HTTP/{0.version}",
    "{0.method} {0.path} HTTP/01.0{0.version[2]}\t",
)
STATUS_LINES = (
    "",
    "HTTP/{0.version}  {0.status} {0.reason}",
    "http/{0.version}\t{0.status}\t{0.reason}",
    "HTTP/2.0 {0.status} {0.reason}",
    "HTTP/2 {0.status} {0.reason}",
)


@st.composite
def odd_conversations(draw: st.DrawFn, *, unended: bool = False, nasty: bool = True) -> Conversation:
    """As servers and clients take them, with lines that are no fields, and odd start lines or without last CRLFs."""
    conversation = draw(conversations(nasty=nasty))
    made = []
    plain = unended  # what begins behind a body without its end must be beyond doubt
    for number, (request, response) in enumerate(conversation.exchanges):
        unended = unended and number + 1 < len(conversation.exchanges)
        bad = draw(st.sampled_from(BAD_LINES)), draw(st.sampled_from(BAD_LINES))
        line = (
            "" if plain else draw(st.sampled_from(REQUEST_LINES)),
            "" if plain else draw(st.sampled_from(STATUS_LINES)),
        )
        made.append(
            Exchange(
                replace(request, bad=bad[0], line=line[0], unended=unended),
                replace(response, bad=bad[1], line=line[1], unended=unended),
            )
        )
    return replace(conversation, exchanges=tuple(made), handshake=True)


def cuts(random: Random, conversation: Conversation) -> Cut:
    """Some way of cutting writes into segments.

    A capture that begins in the middle of a connection begins with a whole head here: where the first bytes are a part
    of one, nobody can say so.
    """
    if not conversation.handshake:
        return random.choice((whole, sized(1460)))
    return random.choice((whole, sized(1460), sized(100), random_sizes(random, 20), random_sizes(random, 400)))
