"""Judges what the core makes of generated talks: `python -m tests.generated 1000000` (messages), `make generated`.

The talks and captures are those of tests/endpoints.py. Whatever was lost: no response has another's request, no body
holds a byte that is not of it, no secret leaves in clear, nothing comes twice. Where nothing was lost: everything is
found, whole and paired. A talk that is judged otherwise is printed, cut down to the fewest and plainest choices that
still fail so; `--choices` plays such a list again and shows its packets.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Final

from sniffer.config import REDACT_HEADERS
from sniffer_core.core import RawMessage
from tests import packets as p
from tests.conversations import CLIENT, SERVER
from tests.endpoints import SECRET, TUNNELLED, Answer, Ask, Capture, Choices, Talk
from tests.laws import Table

NUMBER: Final = re.compile(r"/?m(\d+)(?:\?|\.test:|$)")
"""What a target begins with; a piece of a body may hold it further on."""
QUERY: Final = ("token",)
OPEN: Final = 1024
"""Open requests of a connection that the core keeps."""
KEPT: Final = 10
"""Talks that each batch keeps of each kind of violation."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that must not be, or that is missing."""

    kind: str
    text: str


class Judge:
    """Holds messages to what the ends of the connection know."""

    def __init__(self, talk: Talk, capture: Capture, messages: Sequence[RawMessage]) -> None:
        self._talk = talk
        self._capture = capture
        self._messages = messages
        self._asks = {ask.number: ask for ask in talk.asks}
        self._answers = {answer.name: answer for answer in talk.answers}
        self._requests: dict[int, RawMessage] = {}
        self._responses: dict[str, RawMessage] = {}
        self._first_certain = self._begun()
        self.invented = 0
        """Messages made of a piece of a body or a tunnel, behind a loss: the properties of test_flow_properties.py
        bound these."""

    def violations(self) -> Iterator[Violation]:
        """All that is wrong."""
        pairs: dict[tuple[str, int], str] = {}
        for message in self._messages:
            if self._untold(message):
                continue
            yield from self._secrets(message)
            yield from self._request(message) if message.direction == "request" else self._response(message)
            key = self._key(message)
            other = pairs.setdefault((message.connection_id, message.exchange), key)
            if other != key:
                yield Violation("wrong pair", f"{told(message)} shares exchange {message.exchange} with {other}")
        if self._capture.complete:
            yield from self._missing(requests=True, responses=True)
        elif self._capture.loss == "requests only" and not self._speaks_otherwise():
            yield from self._missing(requests=True, responses=False)

    def _speaks_otherwise(self) -> bool:
        """Whether only the server's side tells what the client's bytes are."""
        asks = self._talk.asks
        return any(ask.waits == "expect" or ask.unsent or ask.hasty for ask in asks) or self._talk.tunnel is not None

    def _untold(self, message: RawMessage) -> bool:
        """Whether it answers what nobody but the ends can know.

        The first answers in a capture that begins within a burst of requests; one to a HEAD that is not in the capture,
        where the next status line is cut into pieces; and one to such a CONNECT.
        """
        answer = self._answers.get(message.reason or "") if message.direction == "response" else None
        if answer is None or answer.ask is None:
            return False
        if answer.ask.number < self._first_certain:
            return True
        # One to CONNECT ends with the connection, for who does not know the method.
        return message.path is None and answer.ask is self._talk.tunnel and answer.ask.offer == "connect"

    def _has(self, side: int, start: int, end: int) -> bool:
        """Whether the capture has all of these bytes of a side."""
        kept = max(0, self._capture.snaplen - 54) or 1 << 20
        spans = ((s.offset, s.offset + min(len(s.data), kept)) for s in self._capture.segments if s.side == side)
        for first, last in sorted(spans):
            if first <= start < last:
                start = last
        return start >= end

    def _begins(self, side: int, offset: int) -> bool:
        """Whether a captured segment of a side begins there, behind a byte that the capture lost."""
        begins = any(s.side == side and s.data and s.offset == offset for s in self._capture.segments)
        return begins and offset > 0 and not self._capture.complete and not self._has(side, offset - 1, offset)

    def _begun(self) -> int:
        """The number of the first exchange that began when nothing was under way, in what the capture has.

        Where a capture begins in the middle of a burst of requests, nobody can tell the second from the first.
        """
        talk, kept = self._talk, self._capture.segments
        if any(segment.flags & p.SYN for segment in kept):
            return 0
        if any(answer.before_request for answer in talk.answers):
            return len(talk.asks) + 1
        begins = {ask.start: ask for ask in talk.asks}
        places = {id(segment) for segment in kept if segment.data}
        there, received = False, 0
        for segment in talk.segments:
            there = there or id(segment) in places
            if segment.side == SERVER:
                received = max(received, segment.end)
            elif there and segment.data and segment.offset in begins:
                number = begins[segment.offset].number
                if received == (talk.answers[number - 1].end if 0 < number <= len(talk.answers) else 0):
                    return number
        return len(talk.asks) + 1

    def _key(self, message: RawMessage) -> str:
        if message.direction == "request" or message.path is not None:
            return f"request {message.path}"
        request = self._counted(message)
        return f"response {message.reason} alone" if request is None else f"request {request.path}"

    def _counted(self, message: RawMessage) -> RawMessage | None:
        """The request of a response that says no path but its exchange: of many open requests only numbers are kept."""
        answer = self._answers.get(message.reason or "")
        request = self._requests.get(answer.ask.number) if answer is not None and answer.ask is not None else None
        if request is None or request.connection_id != message.connection_id:
            return None
        return request if request.exchange == message.exchange >= OPEN else None

    def _secrets(self, message: RawMessage) -> Iterator[Violation]:
        line = message.to_json()
        if SECRET.encode() in line or SECRET.encode() in message.body:
            yield Violation("secret in clear", told(message))
        text = f"{message.path} {message.reason}"
        inside = TUNNELLED in text and self._talk.tunnel is not None and not self._capture.complete
        if not inside and (TUNNELLED.encode() in line or TUNNELLED.encode() in message.body):
            yield Violation("foreign bytes", f"{told(message)} holds bytes of the tunnel")
        if b"RESET" in line or b"RESET" in message.body:
            yield Violation("payload of a RST", told(message))

    def _unknown(self, message: RawMessage) -> Iterator[Violation]:
        """A message that neither end sent."""
        text = f"{message.path} {message.reason}" if message.direction == "response" else str(message.path)
        known = ("nvent" in text and self._talk.manners.nasty) or (TUNNELLED in text and self._talk.tunnel)
        if self._capture.complete or not known:
            yield Violation("invented", told(message))
        else:
            self.invented += 1

    def _request(self, message: RawMessage) -> Iterator[Violation]:
        found = NUMBER.match(message.path or "")
        ask = self._asks.get(int(found[1])) if found else None
        if ask is None:
            yield from self._unknown(message)
            return
        if ask.number in self._requests:
            yield Violation("twice", told(message))
        self._requests[ask.number] = message
        if message.method != ask.method:
            yield Violation("invented", f"{told(message)} was {ask.method}")
        yield from self._content(message, ask.body, whole=self.sent(ask), loose=self._talk.tunnel is ask)

    def _holds(self, ask: Ask | None, message: RawMessage) -> bool:
        """Whether a response is paired with a piece of the body of its request, which lost bytes cut from its head.

        Then the piece may be a request: see test_a_body_that_lost_bytes_cut_from_its_head().
        """
        if ask is None or ask.end is None:
            return False
        line, sent = f"{message.method} {message.path} HTTP/1.".encode("iso-8859-1"), self._talk.client.stream
        places = (at for at in range(ask.head_end, ask.end) if sent.startswith(line, at))
        return any(self._begins(CLIENT, at) for at in places) and not self._has(CLIENT, ask.start, ask.head_end)

    def _response(self, message: RawMessage) -> Iterator[Violation]:
        answer = self._answers.get(message.reason or "")
        if answer is None:
            yield from self._unknown(message)
            return
        if answer.name in self._responses:
            yield Violation("twice", told(message))
        self._responses[answer.name] = message
        if message.path is not None:
            found = NUMBER.match(message.path)
            right = answer.ask is not None and found is not None and f"A{found[1]}" == answer.name
            if not right and not self._holds(answer.ask, message):
                yield Violation("wrong pair", f"{told(message)} is {answer.name}")
        yield from self._content(message, answer.body, whole=self.said(answer), loose=self._as_to_head(message, answer))

    def _as_to_head(self, message: RawMessage, answer: Answer) -> bool:
        """Whether an answer without its body may be one to HEAD: its request was lost, and the body begins a segment
        with a status line. See test_a_body_that_begins_like_a_response().
        """
        ask = answer.ask
        if ask is None or self._capture.complete or self._has(CLIENT, ask.start, ask.start + len(ask.method) + 1):
            return False
        begins = any(s.side == SERVER and s.offset == answer.head_end for s in self._capture.segments)
        return message.path is None and not message.body and begins and answer.body.startswith(b"HTTP/1.")

    def _content(self, message: RawMessage, body: bytes, *, whole: bool, loose: bool) -> Iterator[Violation]:
        if not body.startswith(message.body):
            yield Violation("foreign bytes", f"{told(message)} has {message.body[:60]!r}, sent was {body[:60]!r}")
        elif message.incomplete is None and not loose and not (whole and message.body == body):
            yield Violation("made whole", f"{told(message)} has {len(message.body)} of {len(body)} bytes")

    def sent(self, ask: Ask) -> bool:
        """Whether the client sent all of it."""
        return ask.end is not None and ask.end <= self._talk.client.sent

    def said(self, answer: Answer) -> bool:
        """Whether the server sent all of it."""
        return answer.end <= self._talk.server.sent and (not answer.until_close or self._talk.server.fin)

    def _certain(self) -> int:
        """The number of the first request of which nobody can tell that it is one, or of those that there are.

        Where a refused body was not sent, this is told by the bytes behind it: a head in a segment of its own that
        acknowledges the refusal, and an answer for each head that follows.
        """
        talk = self._talk
        for ask in talk.asks:
            if not ask.unsent or ask.number + 1 == len(talk.asks):
                continue
            after, refusal = talk.asks[ask.number + 1], ask.answer
            at = [s for s in talk.segments if s.side == CLIENT and s.data and s.offset <= after.start < s.end]
            plain = bool(at) and at[0].offset == after.start and at[0].end >= after.head_end
            plain = plain and refusal is not None and at[0].ack >= refusal.end
            plain = plain and not 0 <= ask.announced <= talk.client.sent - ask.head_end
            later = [each.answer for each in talk.asks[ask.number + 1 :]]
            if not plain or any(answer is None or not self.said(answer) for answer in later):
                return ask.number
        return len(talk.asks)

    def _missing(self, *, requests: bool, responses: bool) -> Iterator[Violation]:
        talk, certain = self._talk, self._certain()
        for ask in talk.asks[:certain] if requests else ():
            line_end = talk.client.stream.find(b"\r\n", ask.start) + 2
            if line_end < 2 or line_end > talk.client.sent:
                continue
            message = self._requests.get(ask.number)
            if message is None:
                yield Violation("missing", f"request {ask.number} ({ask.method})")
            elif self.sent(ask) and message.incomplete is not None and talk.tunnel is not ask:
                last = ask.number + 1 == len(talk.asks)
                if not (ask.unsent and last):
                    yield Violation("not whole", f"{told(message)} is {message.incomplete}")
        for number, answer in enumerate(talk.answers[: certain + (certain == len(talk.asks))] if responses else ()):
            line_end = talk.server.stream.find(b"\r\n", answer.start) + 2
            if line_end < 2 or line_end > talk.server.sent:
                continue
            message = self._responses.get(answer.name)
            if message is None:
                yield Violation("missing", f"response {answer.name}")
                continue
            if self.said(answer) and message.incomplete is not None:
                yield Violation("not whole", f"{told(message)} is {message.incomplete}")
            last = number + 1 == len(talk.answers)
            if answer.ask is None or (answer.before_request and last) or answer.ask.number not in self._requests:
                continue
            if message.path is None and self._counted(message) is None:
                yield Violation("unpaired", f"{told(message)} answers request {answer.ask.number}")


def told(message: RawMessage) -> str:
    """A message in a few words."""
    if message.direction == "request":
        return f"request {message.method} {message.path}"
    return f"response {message.status_code} {message.reason} to {message.path}"


@dataclass(slots=True)
class Case:
    """A talk, its capture, and what is wrong with what came of it."""

    talk: Talk
    capture: Capture
    messages: list[RawMessage]
    violations: list[Violation]
    invented: int


def play(choices: Choices) -> Case:
    """One talk, captured, read and judged."""
    talk = Talk(choices)
    capture = Capture(talk, choices)
    table = Table(max_body=1 << 20, redact_headers=REDACT_HEADERS, redact_query=QUERY)
    try:
        messages = table.run(capture.packets)
    except AssertionError as error:
        return Case(talk, capture, [], [Violation("law", str(error).splitlines()[0] if str(error) else "broken")], 0)
    judge = Judge(talk, capture, messages)
    violations = list(judge.violations())
    return Case(talk, capture, messages, violations, judge.invented)


def kinds(case: Case) -> set[str]:
    """Which kinds of violations a case has, apart for captures that lost something."""
    return {f"{violation.kind} ({'complete' if case.capture.complete else 'lossy'})" for violation in case.violations}


def minimised(made: Sequence[int], kind: str, seconds: float = 15) -> list[int]:
    """Fewer and smaller choices that still give a violation of the kind, as far as it gets in that time."""
    best, until = list(made), time.monotonic() + seconds

    def fails(given: list[int]) -> bool:
        return time.monotonic() < until and kind in kinds(play(Choices(given=given)))

    better = True
    while better and time.monotonic() < until:
        better = False
        size = max(1, len(best) // 2)
        while size:
            at = 0
            while at < len(best):
                if fails(best[:at] + best[at + size :]):
                    best, better = best[:at] + best[at + size :], True
                else:
                    at += size
            size //= 2
        for at, value in enumerate(best):
            for less in (0, value // 2, value - 1):
                if 0 <= less < best[at] and fails([*best[:at], less, *best[at + 1 :]]):
                    best, better = [*best[:at], less, *best[at + 1 :]], True
                    break
        while best and best[-1] == 0:
            best.pop()
    return best


def shown(case: Case) -> Iterator[str]:
    """A case for people: what was said, packet by packet, and what came out."""
    yield f"capture: {case.capture.loss}"
    for packet in case.capture.packets:
        frame = packet.data
        client = frame[34:36] != b"\0\x50"
        seq, ack = (int.from_bytes(frame[at : at + 4], "big") for at in (38, 42))
        flags = "".join(name for bit, name in ((1, "F"), (2, "S"), (4, "R"), (16, "A")) if frame[47] & bit)
        data = frame[54:]
        words = repr(data if len(data) < 300 else data[:150] + b" ... " + data[-80:])[1:] if data else ""
        seconds = (packet.stamp - case.capture.packets[0].stamp) / 1e6
        yield f"{seconds:9.3f} {'C>' if client else '<S'} {seq} {ack} {flags} {words}"
    for message in case.messages:
        how = (message.incomplete or "whole", *message.anomalies)
        yield f"  {message.exchange} {told(message)} {message.body_size} bytes, {', '.join(how)}"
    for violation in case.violations:
        yield f"  !! {violation.kind}: {violation.text}"


def batch(seed: str, messages: int) -> tuple[Counter[str], dict[str, list[list[int]]]]:
    """Talks with about so many messages; counts, and the choices of the first few that fail in each way."""
    counts: Counter[str] = Counter()
    failed: dict[str, list[list[int]]] = {}
    number = 0
    while counts["messages"] < messages:
        choices = Choices(Random(f"{seed}-{number}"))
        number += 1
        case = play(choices)
        counts["talks"] += 1
        counts["messages"] += len(case.talk.asks) + len(case.talk.answers)
        counts["packets"] += len(case.capture.packets)
        counts["records"] += len(case.messages)
        counts["paired"] += sum(
            message.direction == "response" and message.path is not None for message in case.messages
        )
        counts["invented"] += case.invented
        counts.update(f"violation: {kind}" for kind in kinds(case))
        for kind in kinds(case):
            if len(examples := failed.setdefault(kind, [])) < KEPT:
                examples.append(choices.made)
    return counts, failed


def run(messages: int, seed: str, processes: int) -> tuple[Counter[str], dict[str, list[list[int]]]]:
    """Batches on several processes."""
    size = max(1000, min(20_000, messages // processes))
    counts: Counter[str] = Counter()
    failed: dict[str, list[list[int]]] = {}
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(batch, f"{seed}-{at}", min(size, messages - at)) for at in range(0, messages, size)]
        for job in as_completed(jobs):
            found, examples = job.result()
            counts += found
            for kind, lists in examples.items():
                failed.setdefault(kind, []).extend(lists)
            if sys.stderr.isatty():
                print(f"\r{counts['messages']:,} messages", end="", file=sys.stderr)
    return counts, failed


def main() -> int:
    """Runs so many messages, or one list of choices; 1 where anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.generated", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("messages", nargs="?", type=int, default=20_000)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--kind", default="", help="show the violations whose kind holds these words")
    parser.add_argument("--examples", type=int, default=1, help="shown of each kind (1)")
    parser.add_argument("--choices", help="a list of choices, to be played again")
    parser.add_argument("--write", type=Path, help="with --choices: the capture, as a pcap file")
    given = parser.parse_args()
    if given.choices is not None:
        case = play(Choices(given=json.loads(given.choices)))
        print("\n".join(shown(case)))
        if given.write:
            given.write.write_bytes(p.pcap(case.capture.packets))
        return int(bool(case.violations))
    counts, failed = run(given.messages, given.seed, given.processes)
    for name, count in sorted(counts.items()):
        print(f"{name}: {count:,}")
    for kind, lists in sorted(failed.items()):
        if given.kind not in kind:
            continue
        for made in sorted(lists, key=len)[: given.examples]:
            least = minimised(made, kind)
            print(f"\n==== {kind}\n--choices '{json.dumps(least, separators=(',', ':'))}'")
            print("\n".join(shown(play(Choices(given=least)))))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
