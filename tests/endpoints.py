"""HTTP/1 conversations as their endpoints have them: a client and a server that act on what they have received.

The client keeps connections alive, pipelines, asks with HEAD, waits with `Expect: 100-continue`, offers Upgrade, opens
tunnels with CONNECT; the server answers early, late, several times in one segment, refuses, accepts, or says nothing.
Each knows what it said and meant, so what an observer makes of the segments is judged by what they know, not by rules
of the observer's. Every decision comes from Choices, where 0 is the plainest: the same choices give the same talk, and
fewer or smaller ones a simpler talk. So a random source, a fuzzer's bytes and a minimiser all drive the same generator.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Literal, TypeVar

from tests import packets as p
from tests.conversations import CLIENT, SERVER, START, Segment, chunked

T = TypeVar("T")

SECRET: Final = "SECRET"
"""What every secret of a talk begins with; no body of a message holds it."""
TUNNELLED: Final = "TUNNEL"
"""What all bytes of a tunnel hold, which are no HTTP of this connection."""

Offer = Literal["h2c", "websocket", "connect"]


class Choices:
    """Decisions: random ones, or those given, with zeros behind their end."""

    def __init__(self, random: Random | None = None, given: Sequence[int] = ()) -> None:
        self._random = random
        self._given = given
        self.made: list[int] = []

    def below(self, limit: int) -> int:
        """A number from 0 to limit - 1."""
        if self._random is not None:
            number = int(self._random.random() * limit)
        else:
            at = len(self.made)
            number = self._given[at] % limit if at < len(self._given) else 0
        self.made.append(number)
        return number

    def chance(self, percent: int) -> bool:
        """Whether the less plain happens."""
        return percent > 0 and self.below(100) >= 100 - percent

    def pick(self, options: Sequence[T]) -> T:
        """One of them; the first is the plainest."""
        return options[self.below(len(options))]


@dataclass(slots=True)
class Ask:
    """A request as the client means it; offsets are in the client's stream."""

    number: int
    method: str
    target: str
    start: int
    head_end: int = 0
    end: int | None = None
    """None until the client has decided what to do about the body."""
    body: bytes = b""
    coded: bytes = b""
    """The body as framed."""
    waits: Literal["", "expect", "slow"] = ""
    """The body is written later than the head: for a 100, or because the client is slow."""
    offer: Offer | None = None
    continued: int | None = None
    """Where the 100 ends in the server's stream."""
    answer: Answer | None = None
    announced: int = -1
    """Its Content-Length, where it has one."""
    unsent: bool = False
    """Refused, and its body was never sent."""
    hasty: bool = False
    """The tunnel's first bytes follow before the answer."""


@dataclass(slots=True)
class Answer:
    """A final response as the server means it; offsets are in the server's stream."""

    name: str
    """What its reason says: A and the number of the request."""
    ask: Ask | None
    """The request it answers; None where it answers none (an idle timeout)."""
    start: int
    head_end: int = 0
    end: int = 0
    body: bytes = b""
    until_close: bool = False
    closes: bool = False
    before_request: bool = False
    """It was sent before the first byte of its request, on a connection that goes on."""


class Side:
    """One end's TCP."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.stream = bytearray()
        self.sent = 0
        self.received = 0
        self.acked = 0
        self.flight: deque[Segment] = deque()
        self.fin = False
        self.peer_fin = False

    @property
    def ack(self) -> int:
        return self.received + self.peer_fin


@dataclass(slots=True)
class Manners:
    """What a connection's ends are like: percentages and kinds, drawn once."""

    exchanges: int
    depth: int
    slides: bool
    """Asks on with each answer, in place of bursts that wait for all of theirs."""
    together: int
    held: int
    cut: int
    offers: tuple[tuple[Offer, int], ...]
    behind: bool
    """Requests follow an offer before its answer; then the server accepts none."""
    bodies: int
    expects: int
    early: int
    nasty: int
    secrets: int
    lazy: int
    interim: int
    parts: int
    """How often only the first of the segments on their way arrive."""


def manners(choices: Choices) -> Manners:
    """Some manners; the plainest are those of a client that fetches one thing."""
    crowd = choices.below(2000) == 1999
    # A crowd has more requests open than the core keeps (1,024). Its requests arrive in parts, with answers between.
    return Manners(
        exchanges=1300 + choices.below(500) if crowd else 1 + choices.below(choices.pick((8, 1, 30))),
        depth=2000 if crowd else choices.pick((1, 1, 1, 2, 3, 8)),
        slides=choices.pick((False, True) if crowd else (False, False, False, True)),
        together=choices.pick((99, 100)) if crowd else choices.pick((0, 30, 100)),
        held=choices.pick((0, 0, 15)),
        cut=choices.below(5),
        offers=(
            ("connect", 0 if crowd else choices.pick((0, 0, 15))),
            ("websocket", 0 if crowd else choices.pick((0, 0, 10))),
            ("h2c", choices.pick((0, 0, 20, 100))),
        ),
        behind=choices.pick((False, True)),
        bodies=0 if crowd else choices.pick((20, 0, 60)),
        expects=choices.pick((0, 0, 60)),
        early=0 if crowd else choices.pick((0, 0, 4, 15)),
        nasty=choices.pick((0, 0, 40)),
        secrets=choices.pick((100, 40)),
        lazy=choices.pick((4, 30)) if crowd else choices.pick((0, 30)),
        interim=choices.pick((0, 5, 30)),
        parts=choices.pick((60, 15)) if crowd else 15,
    )


OFFERS: Final[dict[Offer | None, str]] = {
    "h2c": "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n",
    "websocket": "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AQ\r\n",
}

INVENTED: Final = (
    b"GET /invented HTTP/1.1\r\nHost: invented\r\n\r\n",
    b"POST /invented HTTP/1.1\r\nContent-Length: 10\r\n\r\n",
    b"HTTP/1.1 200 Invented\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 Invented\r\nContent-Length: 30\r\n\r\n",
    b"HTTP/1.1 101 Invented\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
    b"HTTP/1.1 304 Invented\r\n\r\n",
)
"""Heads for bodies to hold: whoever reports one has invented a message."""

INSIDE: Final = {
    CLIENT: (
        b"TUNNEL" + bytes(range(0x81, 0xA0)),
        b"\x16\x03\x01\x00\xffTUNNEL" + bytes(80),
        b"\x81\x86\x01\x02\x03\x04TUNNEL",
        b"GET /TUNNEL HTTP/1.1\r\nAuthorization: Bearer SECRETinside\r\n\r\n",
    ),
    SERVER: (
        b"TUNNEL" + bytes(range(0x81, 0xA0)),
        b"\x16\x03\x03\x00\xffTUNNEL" + bytes(80),
        b"\x81\x06TUNNEL",
        b"HTTP/1.1 200 TUNNEL\r\nSet-Cookie: a=SECRETinside\r\nContent-Length: 6\r\n\r\nTUNNEL",
    ),
}
"""What goes through a tunnel."""

REACH: Final = 64 << 10
"""As far as segments that come late may move the beginning of a direction back."""
RST_PAYLOADS: Final = (
    b"",
    b"HTTP/1.1 503 RESET\r\nContent-Length: 0\r\n\r\n",
    b"0\r\n\r\n",
    b"RESET by policy",
    b"GET /RESET HTTP/1.1\r\n\r\n",
)
HEAD_REFUSED: Final = (400, 403, 408, 414, 431)
BODY_REFUSED: Final = (413, 401, 417, 302, 403, 500)
SIZES: Final = (20, 0, 1, 300, 3000, 20_000)
LONG: Final = 100_000
MSS: Final = 1460


class Talk:
    """One connection: `segments` as a capture between the two has them, `asks` and `answers` as the ends know them."""

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.manners = manners(choices)
        self.asks: list[Ask] = []
        self.answers: list[Answer] = []
        self.segments: list[Segment] = []
        self.client = Side(CLIENT)
        self.server = Side(SERVER)
        self.vantage = choices.pick((SERVER, CLIENT))
        self.tunnel: Ask | None = None
        """The request that HTTP ended with."""
        self.reset = False
        self._waiting: Ask | None = None
        self.slid = False
        """A request was sent between the answers to others."""
        self._burst = 0
        self._until = 1 << 60
        """As far as the client may write: what was announced and not sent must stay longer than what follows it."""
        self._stopped = False
        self._closing = False
        self._mute = False
        self._early = False
        for segment in (Segment(CLIENT, -1, flags=p.SYN), Segment(SERVER, -1, flags=p.SYN | p.ACK), Segment(CLIENT, 0)):
            self.segments.append(segment)
        steps = 30 + 3 * min(self.manners.exchanges, 40)
        while steps and not self._over():
            steps -= 1
            self._client()
            self._move(self.client, self.server)
            self._server()
            self._move(self.server, self.client)
        self._end()

    # ---- TCP ---------------------------------------------------------------------------------------------------------

    def _emit(self, side: Side, segment: Segment) -> None:
        side.acked = segment.ack
        side.flight.append(segment)
        if side.side == self.vantage:
            self.segments.append(segment)

    def _push(self, side: Side, *, all_of_it: bool = False) -> None:
        """Sends what was written, cut somehow; sometimes a part of it only."""
        choices = self.choices
        until = len(side.stream)
        if until == side.sent:
            return
        if not all_of_it and choices.chance(self.manners.held):
            until = side.sent + choices.below(until - side.sent)
        how = self.manners.cut
        while side.sent < until:
            rest = until - side.sent
            size = min(rest, MSS)
            if how == 1 and rest < 60_000:
                size = rest
            elif how == 2 and rest < 4000:
                size = min(rest, 400 - choices.below(400))
            elif how == 3 and rest < 1000:
                size = min(rest, 30 - choices.below(30))
            data = bytes(side.stream[side.sent : side.sent + size])
            self._emit(side, Segment(side.side, side.sent, data, side.ack, p.ACK | p.PSH))
            side.sent += size

    def _move(self, sender: Side, receiver: Side, *, all_of_it: bool = False) -> None:
        """Delivers what is on its way, or the first segments of it; acknowledges it where no data will."""
        count = len(sender.flight)
        if count and not all_of_it and self.choices.chance(self.manners.parts):
            count = self.choices.below(count + 1)
        for _ in range(count):
            segment = sender.flight.popleft()
            if sender.side != self.vantage:
                self.segments.append(segment)
            receiver.received = segment.end
            if segment.flags & p.FIN:
                receiver.peer_fin = True
        if count and receiver.ack > receiver.acked and not self.choices.chance(60):
            self._emit(receiver, Segment(receiver.side, receiver.sent + receiver.fin, ack=receiver.ack))

    def _fin(self, side: Side) -> None:
        if not side.fin:
            self._emit(side, Segment(side.side, side.sent, ack=side.ack, flags=p.ACK | p.FIN))
            side.fin = True

    def _over(self) -> bool:
        done = self._stopped or len(self.asks) >= self.manners.exchanges
        answered = all(ask.answer is not None for ask in self.asks)
        quiet = not self.client.flight and not self.server.flight
        sent = self.client.sent == len(self.client.stream) and self.server.sent == len(self.server.stream)
        if self.client.fin and self.server.fin and quiet:
            return True
        return done and answered and quiet and sent and self._waiting is None and not self.tunnel

    def _end(self) -> None:
        """How the connection ends, with everything delivered that was sent."""
        choices, client, server = self.choices, self.client, self.server
        how = choices.pick(("fin", "fin", "nothing", "server", "reset", "reset", "half"))
        if self.tunnel is None and choices.chance(70):
            self._push(client, all_of_it=True)
            self._push(server, all_of_it=True)
        self._move(client, server, all_of_it=True)
        self._move(server, client, all_of_it=True)
        if how == "reset":
            side = choices.pick((client, server))
            payload = choices.pick(RST_PAYLOADS)
            self.reset = True
            flags = choices.pick((p.RST | p.ACK, p.RST))
            self._emit(side, Segment(side.side, side.sent + side.fin, payload, side.ack, flags))
            if side.side != self.vantage:
                self.segments.append(side.flight.pop())
            return
        if how != "nothing":
            first, second = (server, client) if how == "server" else (client, server)
            self._fin(first)
            self._move(first, second, all_of_it=True)
            if how != "half":
                self._fin(second)
                self._move(second, first, all_of_it=True)
        self._move(client, server, all_of_it=True)
        self._move(server, client, all_of_it=True)

    # ---- the client --------------------------------------------------------------------------------------------------

    def _got(self, answer: Answer | None) -> bool:
        """Whether the client has received all of it."""
        return answer is not None and not answer.until_close and answer.end <= self.client.received

    def _client(self) -> None:
        client = self.client
        if self._stopped or client.fin:
            return
        if client.peer_fin:
            self._stop()
            return
        self._push(client)
        if client.sent < len(client.stream):
            return
        if self.tunnel is not None:
            self._talk_inside(self.tunnel)
        elif self._waiting is None or self._wait(self._waiting):
            while self._may_ask():
                self._ask()
                if self._waiting is not None or not self.choices.chance(self.manners.together):
                    break
            self._push(client)

    def _talk_inside(self, ask: Ask) -> None:
        """Once the client knows that HTTP has ended: what is left of the request, then other bytes."""
        if ask.answer is None or ask.answer.head_end > self.client.received:
            return
        if self._waiting is not None:
            self._write_body(self._waiting)
        elif self.choices.chance(50):
            self.client.stream += self.choices.pick(INSIDE[CLIENT])
        self._push(self.client)

    def _stop(self) -> None:
        self._stopped = True
        del self.client.stream[self.client.sent :]
        if self.choices.chance(80):
            self._fin(self.client)

    def _wait(self, ask: Ask) -> bool:
        """Decides about a body that waits; whether the client goes on to other requests at once."""
        choices = self.choices
        if self._got(ask.answer) and ask.answer is not None:
            refused = ask.waits == "expect" or 300 <= self._status(ask.answer) < 400
            refused = refused or self._status(ask.answer) in (401, 413, 417)
            refused = refused and not 0 <= ask.announced < LONG
            what = choices.pick(("skip", "skip", "send", "close")) if refused else choices.pick(("send", "close"))
            if ask.answer.closes or what == "close":
                self._waiting = None
                self._stop()
                return False
            if what == "skip":
                ask.end, ask.body, ask.unsent = ask.head_end, b"", True
                if ask.announced >= 0:
                    self._until = min(self._until, ask.head_end + ask.announced - LONG // 2)
                self._waiting = None
                return True
            self._write_body(ask)
            return choices.chance(50)
        if ask.waits == "slow":
            if not choices.chance(30):
                self._write_body(ask)
            return False
        if (ask.continued is not None and ask.continued <= self.client.received) or choices.chance(10):
            self._write_body(ask)
        return False

    def _status(self, answer: Answer) -> int:
        return int(self.server.stream[answer.start + 9 : answer.start + 12])

    def _write_body(self, ask: Ask) -> None:
        self._waiting = None
        self.client.stream += ask.coded
        ask.end = len(self.client.stream)
        self._push(self.client)

    def _may_ask(self) -> bool:
        if len(self.asks) >= self.manners.exchanges or self._waiting or len(self.client.stream) > self._until:
            return False
        open_asks = [ask for ask in self.asks[-self.manners.depth - 1 :] if not self._got(ask.answer)]
        if open_asks and not self.manners.behind and any(ask.offer for ask in open_asks):
            return False
        if any(ask.offer == "connect" for ask in open_asks):
            return False
        if any(answer.closes and answer.end <= self.client.received for answer in self.answers[-1:]):
            return False
        if open_asks and self._burst != self.client.received:
            self.slid = self.slid or self.manners.slides
            return self.manners.slides and len(open_asks) < self.manners.depth
        self._burst = self.client.received
        return len(open_asks) < self.manners.depth

    def _ask(self) -> None:
        """Writes one request, or the head of one whose body waits."""
        choices, how, number = self.choices, self.manners, len(self.asks)
        offer = self._offer()
        with_body = choices.chance(how.bodies if offer is None or offer == "h2c" else how.bodies // 4)
        method, target = self._line(offer, with_body=with_body)
        head = f"{method} {target} HTTP/1.1\r\nHost: example.test\r\n"
        if choices.chance(how.secrets):
            head += f"Authorization: Bearer {SECRET}a{number}\r\nCookie: s={SECRET}c{number}\r\n"
        head += OFFERS.get(offer, "")
        ask = Ask(number, method, target, len(self.client.stream), offer=offer)
        if with_body:
            head += self._frame(ask)
        self.client.stream += head.encode() + b"\r\n"
        ask.head_end = len(self.client.stream)
        self.asks.append(ask)
        for answer in self.answers[number:]:
            if answer.before_request:
                ask.answer, answer.ask = answer, ask
        if ask.waits:
            self._waiting = ask
            return
        self.client.stream += ask.coded
        ask.end = len(self.client.stream)
        if offer == "connect" and not with_body and ask.answer is None and choices.chance(20):
            ask.hasty = True
            self.client.stream += choices.pick(INSIDE[CLIENT][:3])

    def _offer(self) -> Offer | None:
        for offer, percent in self.manners.offers:
            if self.choices.chance(percent):
                return offer
        return None

    def _line(self, offer: Offer | None, *, with_body: bool) -> tuple[str, str]:
        """Method and target."""
        choices, number = self.choices, len(self.asks)
        if offer == "connect":
            return "CONNECT", f"m{number}.test:443"
        query = f"?token={SECRET}q{number}&a=1" if choices.chance(20) else ""
        if with_body:
            return choices.pick(("POST", "PUT")), f"/m{number}{query}"
        answered = len(self.answers) > number  # with a body, since the server could not know
        return choices.pick(("GET", "GET", "DELETE", "GET" if answered else "HEAD")), f"/m{number}{query}"

    def _frame(self, ask: Ask) -> str:
        """Gives the request a body; the fields that say so."""
        choices, how = self.choices, self.manners
        expects = choices.chance(how.expects)
        ask.body = ask.coded = self._body(ask.number, choices.pick((LONG, 20_000, 20, 3000) if expects else SIZES))
        if choices.chance(30):
            ask.coded = chunked(ask.body, choices.pick((5000, 700, 16)))
            fields = "Transfer-Encoding: chunked\r\n"
        else:
            ask.announced = len(ask.body)
            fields = f"Content-Length: {len(ask.body)}\r\n"
        if ask.body and expects:
            ask.waits = "expect"
            fields += "Expect: 100-continue\r\n"
        elif ask.body and choices.chance(how.early):
            ask.waits = "slow"
        return fields

    def _body(self, number: int, size: int) -> bytes:
        """Bytes that name their message; nasty ones hold start lines."""
        if self.choices.chance(self.manners.nasty):
            line = self.choices.pick(INVENTED)
            return (b"of m%d " % number)[: self.choices.below(9)] + line * (1 + size // 200)
        return (b"body of m%d, " % number * (size // 12 + 1))[:size]

    # ---- the server --------------------------------------------------------------------------------------------------

    def _server(self) -> None:
        server, choices = self.server, self.choices
        if server.fin:
            return
        if server.sent < len(server.stream):
            self._push(server)
            if server.sent < len(server.stream):
                return
        if self.tunnel is not None:
            if choices.chance(40):
                server.stream += choices.pick(INSIDE[SERVER])
            self._push(server)
            if choices.chance(20):
                self._fin(server)
            return
        while self._answer_next():
            pass
        self._push(server)
        if (self._closing and server.sent == len(server.stream)) or (server.peer_fin and choices.chance(50)):
            self._fin(server)

    def _answer_next(self) -> bool:
        """Answers the next request, where there is reason to; whether it may answer one more now."""
        choices, received, number = self.choices, self.server.received, len(self.answers)
        if self._mute or self._closing or self.tunnel or (self.server.peer_fin and choices.chance(50)):
            return False
        ask = self.asks[number] if number < len(self.asks) else None
        if ask is None or received <= ask.start:
            self._answer_early(ask)
            return False
        if received < ask.head_end:
            if ask.method != "HEAD" and not ask.hasty and choices.chance(self.manners.early * 3):
                closes = choices.chance(50)
                self._answer(ask, choices.pick(HEAD_REFUSED), closes=closes)
            return False
        if ask.offer is not None and not self._refuses(ask):
            return False
        if ask.offer == "connect":
            self._answer(ask, choices.pick((403, 407, 502)))
            return True
        if ask.end is None or received < ask.end:
            self._meet(ask)
            return False
        if choices.chance(self.manners.lazy):
            return False
        self._answer(ask, choices.pick((200, 200, 200, 404, 204, 304, 500)))
        return True

    def _answer_early(self, ask: Ask | None) -> None:
        """Sometimes, once, an answer before the first byte of the next request: an idle timeout, or a refusal."""
        number = len(self.answers)
        if self._early or number >= self.manners.exchanges or self.server.sent < len(self.server.stream):
            return
        before = self.asks[number - 1].end if number else 0
        if before is None or self.server.received < before:
            return
        if (ask is not None and (ask.method == "HEAD" or ask.hasty)) or not self.choices.chance(self.manners.early):
            return
        self._early = True
        if self.choices.chance(50):
            self._answer(None, 408, closes=True)
        else:
            self._answer(ask, self.choices.pick(HEAD_REFUSED), before_request=True)
        self._push(self.server, all_of_it=True)  # before it receives more: what it acknowledges says what it knew

    def _refuses(self, ask: Ask) -> bool:
        """Decides about an offer: whether it is refused, and answered as if it were none."""
        if (ask.hasty or not self.manners.behind) and self.choices.chance(30):
            self._accept(ask)
            return False
        if not ask.hasty and self.choices.chance(5):
            self._mute = True  # it hangs
            return False
        return not ask.hasty

    def _meet(self, ask: Ask) -> None:
        """A request whose body has not come: an answer to its expectation, or an early one."""
        choices = self.choices
        what = "wait"
        if ask.waits == "expect" and self.server.received <= ask.head_end:
            if ask.continued is None:
                what = choices.pick(("continue", "refuse", "wait"))
        elif choices.chance(self.manners.early):
            what = "refuse"
        if what == "continue":
            self.server.stream += b"HTTP/1.1 100 Continue\r\n\r\n"
            ask.continued = len(self.server.stream)
        elif what == "refuse":
            closes = choices.chance(10)
            self._answer(ask, choices.pick(BODY_REFUSED), closes=closes)

    def _accept(self, ask: Ask) -> None:
        """101, or a 2xx to CONNECT: HTTP ends here."""
        choices, number = self.choices, ask.number
        answer = Answer(f"A{number}", ask, len(self.server.stream))
        if ask.offer == "connect":
            head = f"HTTP/1.1 {choices.pick((200, 204, 299))} A{number}\r\n"
            head += choices.pick(("", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"))
        else:
            head = f"HTTP/1.1 101 A{number}\r\nConnection: Upgrade\r\nUpgrade: {ask.offer}\r\n"
        self.server.stream += head.encode() + b"\r\n"
        answer.head_end = answer.end = len(self.server.stream)
        ask.answer = answer
        self.answers.append(answer)
        self.tunnel = ask

    def _answer(self, ask: Ask | None, status: int, *, closes: bool = False, before_request: bool = False) -> None:
        choices, server, number = self.choices, self.server, len(self.answers)
        while choices.chance(self.manners.interim):
            server.stream += b"HTTP/1.1 %d Interim\r\nX: y\r\n\r\n" % choices.pick((103, 100, 102))
        answer = Answer(f"A{number}", ask, len(server.stream), closes=closes, before_request=before_request)
        head = f"HTTP/1.1 {status} A{number}\r\nX-Answer: m{number}\r\n"
        if choices.chance(self.manners.secrets):
            head += f"Set-Cookie: s={SECRET}s{number}\r\n"
        body = self._body(number, choices.pick(SIZES))
        coded = body
        if status == 204:
            body = coded = b""
        elif choices.chance(25):
            coded = chunked(body, choices.pick((5000, 700, 16)))
            head += "Transfer-Encoding: chunked\r\n"
        elif closes and choices.chance(50):
            answer.until_close = True
        else:
            head += f"Content-Length: {len(body)}\r\n"
        if closes:
            head += "Connection: close\r\n"
        if status in (204, 304) or (ask is not None and ask.method == "HEAD"):
            body = coded = b""
        server.stream += head.encode() + b"\r\n"
        answer.head_end = len(server.stream)
        server.stream += coded
        answer.body, answer.end = body, len(server.stream)
        self._closing = self._closing or closes
        if ask is not None:
            ask.answer = answer
        self.answers.append(answer)


# ---- what a capture has of it ----------------------------------------------------------------------------------------

ENDS: Final = (
    b"\xc0\0\2\1\xc6\x33\x64\7\x9c\x40\0\x50",
    b"\xc6\x33\x64\7\xc0\0\2\1\0\x50\x9c\x40",
)
"""192.0.2.1:40000 to 198.51.100.7:80, and back."""

Loss = Literal[
    "whole", "late arrivals", "requests only", "responses only", "lossy", "late start", "cut", "snapped", "both"
]
LOSSES: Final[tuple[Loss, ...]] = (
    "whole", "whole", "late arrivals", "requests only", "responses only",
    "lossy", "lossy", "lossy", "late start", "cut", "snapped", "both",
)  # fmt: skip


class Capture:
    """The packets of a talk that a capture has: all, or those that it did not lose, in some order."""

    def __init__(self, talk: Talk, choices: Choices, *, loss: Loss | None = None, percent: int | None = None) -> None:
        """What was lost is chosen, or given: its kind, and for a lossy one the percentage of segments."""
        # Where a client asks on between answers, a lost request looks as if there had been none: nobody can tell.
        self.loss = loss or choices.pick(LOSSES[:5] if talk.slid else LOSSES)
        self._percent = percent
        self.complete = self.loss in ("whole", "late arrivals")
        """Nothing is missing, and what is late is so within the grace."""
        self._choices = choices
        self._isn = choices.pick(((1000, 5000), (2**32 - 40, 77), (5, 2**32 - 900)))
        self._late = self.loss in ("late arrivals", "both") or (self.loss == "lossy" and choices.chance(30))
        steps = (1000, 10, 1000, 60_000, 300_000, 1_500_000)
        self._step = choices.pick(steps[:3] if self._late else steps)
        self.segments = self._kept(talk.segments)
        if self._reaches_back(REACH):
            self.complete = False
        self.packets = self._packets(self.segments)

    def _reaches_back(self, most: int) -> bool:
        """Whether a SYN comes behind bytes, or ACKs of them, further on than a flow's beginning may move."""
        seen = [0, 0]
        for segment in self.segments:
            if segment.flags & p.SYN and seen[segment.side] > most:
                return True
            seen[segment.side] = max(seen[segment.side], segment.end)
            seen[1 - segment.side] = max(seen[1 - segment.side], segment.ack)
        return False

    def _kept(self, segments: list[Segment]) -> list[Segment]:
        choices, loss = self._choices, self.loss
        if loss == "requests only":
            return [segment for segment in segments if segment.side == CLIENT]
        if loss == "responses only":
            return [segment for segment in segments if segment.side == SERVER]
        if loss in ("late start", "both"):
            segments = segments[choices.below(len(segments)) :]
        if loss in ("cut", "both"):
            segments = segments[: 1 + choices.below(len(segments))]
        if loss in ("lossy", "both"):
            percent = choices.pick((10, 2, 30)) if self._percent is None else self._percent
            segments = [segment for segment in segments if not choices.chance(percent)]
        return self._reordered(segments) if self._late else segments

    def _reordered(self, segments: list[Segment]) -> list[Segment]:
        """Some come later by a few places, some twice; first of all one that begins a flow, and last a RST."""
        choices = self._choices
        places = []
        for place, segment in enumerate(segments):
            if segment.flags & p.RST and self.complete:
                places.append((len(segments) + 9, place, segment))
                continue
            places.append((place + choices.pick((0, 0, 0, 3, 9)), place, segment))
            if choices.chance(5):
                places.append((place + 1 + choices.below(6), place, segment))
        order = [segment for _, _, segment in sorted(places, key=lambda each: each[:2])]
        first = next((place for place, segment in enumerate(order) if segment.data or segment.flags & p.SYN), 0)
        return [*order[first : first + 1], *order[:first], *order[first + 1 :]]

    def _packets(self, segments: list[Segment]) -> list[p.Packet]:
        choices, isn, now, result = self._choices, self._isn, START, []
        self.snaplen = snaplen = choices.pick((100, 68, 400)) if self.loss == "snapped" else 0
        pauses = 0 if self._late else choices.pick((0, 0, 4))
        for segment in segments:
            now += self._step
            if choices.chance(pauses):
                now += choices.pick((150_000, 1_200_000, 2_500_000))
            side = segment.side
            packet = p.Packet(now, frame(segment, isn[side], isn[1 - side]))
            result.append(packet.cut(snaplen) if snaplen else packet)
        return result


def frame(segment: Segment, isn: int, other: int, ends: Sequence[bytes] = ENDS) -> bytes:
    """The packet of a segment; `ends`: addresses and ports of each side's packets, as packets.framed() takes them."""
    ack = other + 1 + segment.ack if segment.flags & p.ACK else 0
    return p.framed(ends[segment.side], isn + 1 + segment.offset, ack, segment.flags, segment.data)
