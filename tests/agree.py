"""Agreement with tshark over captures: `python -m tests.agree FOLDER`, or files.

Both read each file; what they found is laid side by side for each connection and direction, and every disagreement is
listed by its kind. tshark is a second opinion, not the truth: it pairs in order whatever was lost, and frames what it
can. So tests/agree.json says, for each file and kind, how many disagreements are right, and why. One that is
not explained so makes the exit code 1.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal

from sniffer.record.codings import decode
from tests.captures import read

EXPLAINED: Final = Path(__file__).with_suffix(".json")
OPTIONS: Final = (
    "tcp.desegment_tcp_streams:TRUE", "http.dechunk_body:TRUE",
    "http.decompress_body:TRUE", "http.desegment_headers:TRUE", "http.desegment_body:TRUE",
)  # fmt: skip
MOST: Final = 1 << 26
"""Bytes of a body, decoded."""
PORTS: Final = (80, 8080)
"""Read in any case; besides, the ports on which tshark finds HTTP."""

Side = Literal["request", "response"]
Kind = Literal[
    "request only ours", "request only tshark's", "response only ours", "response only tshark's",
    "pair only ours", "pair only tshark's", "another pair", "another body", "unreadable",
]  # fmt: skip
ONLY_OURS: Final[dict[Side, Kind]] = {"request": "request only ours", "response": "response only ours"}
ONLY_THEIRS: Final[dict[Side, Kind]] = {"request": "request only tshark's", "response": "response only tshark's"}


@dataclass(frozen=True, slots=True)
class Seen:
    """A message as either of the two has it."""

    connection: tuple[str, str]
    """Client and server."""
    side: Side
    line: str
    """Method and target, or status and reason."""
    body: bytes
    place: int
    """tshark's frame; ours in order."""
    asked: int | None = None
    """The place of the request that it answers."""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One thing that the two do not see alike."""

    kind: Kind
    text: str


# ---- what tshark says ------------------------------------------------------------------------------------------------


def pairs(node: object, name: str) -> Iterator[Any]:
    """Every value under this name, anywhere inside; objects are lists of pairs, since names come repeatedly."""
    for each in node if isinstance(node, list) else ():
        if isinstance(each, tuple):
            if each[0] == name:
                yield each[1]
            yield from pairs(each[1], name)
        else:
            yield from pairs(each, name)


def first(node: object, name: str) -> str:
    """The first such value, as text."""
    return next((str(value) for value in pairs(node, name)), "")


def raw(node: object, name: str) -> bytes:
    """The bytes of such a field."""
    found = next(pairs(node, f"{name}_raw"), None)
    while isinstance(found, list) and found:
        found = found[0]
    return bytes.fromhex(found) if isinstance(found, str) else b""


def by_tshark(path: Path, *, reorder: bool = False) -> list[Seen]:
    """Requests and final responses, in the order of the frames that they end in.

    Told to `reorder` segments it waits for ever behind a lost one; not told so it loses what is late.
    """
    command = ["tshark", "-n", "-r", str(path), "-Y", "http && tcp", "-T", "json", "-x"]
    for option in (*OPTIONS, f"tcp.reassemble_out_of_order:{str(reorder).upper()}"):
        command += ["-o", option]
    text = subprocess.run(command, capture_output=True, check=False).stdout.decode("latin-1")
    found: list[Seen] = []
    for packet in json.loads(text or "[]", object_pairs_hook=list, strict=False):
        layers = next(pairs(packet, "layers"))
        for key, layer in layers:
            if key == "http" and isinstance(layer, list):
                found += _seen(layers, layer)
    return found


def _seen(layers: object, layer: object) -> Iterator[Seen]:
    source, destination = (
        f"{first(layers, f'ip.{end}') or first(layers, f'ipv6.{end}')} {first(layers, f'tcp.{end}port')}"
        for end in ("src", "dst")
    )
    frame = int(first(layers, "frame.number"))
    body = raw(layer, "http.file_data")
    if method := raw(layer, "http.request.method"):
        line = f"{method.decode('latin-1')} {raw(layer, 'http.request.uri').decode('latin-1')}"
        yield Seen((source, destination), "request", line, body, frame)
        return
    code = first(layer, "http.response.code")
    if code and (code[0] != "1" or code == "101"):
        asked = first(layer, "http.request_in")
        line = f"{code} {raw(layer, 'http.response.phrase').decode('latin-1')}".strip()
        yield Seen((destination, source), "response", line, body, frame, int(asked) if asked else None)


# ---- what we say -----------------------------------------------------------------------------------------------------


def by_us(path: Path, ports: Sequence[int]) -> list[Seen]:
    """Requests and responses, in order of their first bytes."""
    _, messages = read(path, ports)
    messages.sort(key=lambda message: (message.timestamp, message.exchange))
    requests = {(m.connection_id, m.exchange): n for n, m in enumerate(messages) if m.direction == "request"}
    found = []
    for place, message in enumerate(messages):
        coding = message.headers.get("content-encoding")
        body = decode(message.body, coding, MOST)[0] if isinstance(coding, str) else message.body
        client, server = (f"{address} {port}" for address, port in (message.destination, message.receiver))
        if message.direction == "request":
            found.append(Seen((client, server), "request", f"{message.method} {message.path}", body, place))
        else:
            line = f"{message.status_code} {message.reason}".strip()
            asked = requests.get((message.connection_id, message.exchange))
            found.append(Seen((client, server), "response", line, body, place, asked))
    return found


# ---- side by side ----------------------------------------------------------------------------------------------------


def compared(ours: Sequence[Seen], theirs: Sequence[Seen]) -> Iterator[Disagreement]:
    """All that differs."""
    places: dict[tuple[tuple[str, str], Side], tuple[list[Seen], list[Seen]]] = defaultdict(lambda: ([], []))
    for which, messages in enumerate((ours, theirs)):
        for message in messages:
            places[message.connection, message.side][which].append(message)
    same: list[tuple[Seen, Seen]] = []
    for (connection, side), (here, there) in places.items():
        matched, mine, other = aligned(here, there)
        same += matched
        where = " -> ".join(connection)
        for message in mine:
            yield Disagreement(ONLY_OURS[side], f"{where}: {message.line}")
        for message in other:
            yield Disagreement(ONLY_THEIRS[side], f"{where}: {message.line} (frame {message.place})")
    frames = {mine.place: other.place for mine, other in same if mine.side == "request"}
    for both in same:
        yield from _contents(*both, frames)


def aligned(
    here: Sequence[Seen], there: Sequence[Seen], *, bodies: bool = True
) -> tuple[list[tuple[Seen, Seen]], list[Seen], list[Seen]]:
    """Which messages are the same, and which only one of the two has.

    First come those that are alike with their bodies, in order, and between them those that have the same start line.
    """
    same: list[tuple[Seen, Seen]] = []
    mine: list[Seen] = []
    other: list[Seen] = []
    i = j = 0
    keys = [[(m.line, m.body if bodies else b"") for m in messages] for messages in (here, there)]
    for at, to in [*longest(keys[0], keys[1]), (len(here), len(there))]:
        if bodies:
            more = aligned(here[i:at], there[j:to], bodies=False)
            same += more[0]
            mine += more[1]
            other += more[2]
        else:
            mine += here[i:at]
            other += there[j:to]
        same += zip(here[at : at + 1], there[to : to + 1], strict=True)
        i, j = at + 1, to + 1
    return same, mine, other


def longest(left: Sequence[object], right: Sequence[object]) -> list[tuple[int, int]]:
    """The places of a longest common subsequence."""
    lengths = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i in range(len(left) - 1, -1, -1):
        for j in range(len(right) - 1, -1, -1):
            same = left[i] == right[j]
            lengths[i][j] = 1 + lengths[i + 1][j + 1] if same else max(lengths[i + 1][j], lengths[i][j + 1])
    found, i, j = [], 0, 0
    while i < len(left) and j < len(right):
        if left[i] == right[j]:
            found.append((i, j))
            i, j = i + 1, j + 1
        elif lengths[i + 1][j] >= lengths[i][j + 1]:
            i += 1
        else:
            j += 1
    return found


def _contents(mine: Seen, other: Seen, frames: dict[int, int]) -> Iterator[Disagreement]:
    """Body and pair of a message that both have; `frames`: where the requests that both have end for tshark."""
    where = f"{' -> '.join(mine.connection)}: {mine.line} (frame {other.place})"
    if mine.body != other.body:
        yield Disagreement("another body", f"{where}: {hashed(mine.body)} here, {hashed(other.body)} there")
    if mine.asked is None and other.asked is not None:
        yield Disagreement("pair only tshark's", f"{where} answers frame {other.asked}")
    elif mine.asked is not None and other.asked is None:
        yield Disagreement("pair only ours", where)
    elif mine.asked in frames and frames[mine.asked] != other.asked:
        yield Disagreement("another pair", f"{where} answers frame {frames[mine.asked]} here, {other.asked} there")


def hashed(body: bytes) -> str:
    """How long a body is, and the beginning of its SHA-256."""
    return f"{len(body)} bytes {sha256(body).hexdigest()[:12]}"


def disagreements(path: Path, ports: Sequence[int] = ()) -> tuple[int, list[Disagreement]]:
    """How many messages tshark found in a file, and what is not alike."""
    theirs = by_tshark(path)
    found = _beside(path, ports, theirs)
    if found:
        reordered = by_tshark(path, reorder=True)
        if len(reordered) > len(theirs):
            theirs, found = reordered, _beside(path, ports, reordered)
    return len(theirs), found


def _beside(path: Path, ports: Sequence[int], theirs: Sequence[Seen]) -> list[Disagreement]:
    servers = {int(message.connection[1].split()[1]) for message in theirs}
    try:
        ours = by_us(path, sorted({*PORTS, *ports, *servers}))
    except ValueError as error:
        return [Disagreement("unreadable", str(error))] if theirs else []
    return list(compared(ours, theirs))


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one file."""

    path: Path
    messages: int
    found: list[Disagreement]
    reasons: dict[str, str]
    """Why the disagreements of a kind are right, for the kinds that are explained."""

    @property
    def unexplained(self) -> list[Disagreement]:
        return [each for each in self.found if each.kind not in self.reasons]


def agreement(path: Path, explained: Sequence[dict[str, Any]], ports: Sequence[int] = ()) -> Result:
    """Compares one file, and looks up what is known of it: an explanation holds for as many as it says."""
    messages, found = disagreements(path, ports)
    counts = Counter[str](each.kind for each in found)
    known = [each for each in explained if each["file"] == path.name]
    reasons = {each["kind"]: each["why"] for each in known if counts[each["kind"]] == each["count"]}
    return Result(path, messages, found, reasons)


def captures(places: Sequence[Path]) -> list[Path]:
    """The capture files in these folders, and these files."""
    found = []
    for place in places:
        inside = sorted(path for path in place.rglob("*.*cap*") if path.is_file()) if place.is_dir() else [place]
        found += inside
    return found


def explanations() -> list[dict[str, Any]]:
    """What is known: file, kind, count, and why it is so."""
    return json.loads(EXPLAINED.read_text("utf-8"))


def main() -> int:
    """Compares all; 1 where anything is left unexplained."""
    parser = argparse.ArgumentParser(prog="python -m tests.agree", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("places", nargs="+", type=Path, help="folders of captures, or captures")
    parser.add_argument("--ports", type=lambda text: [int(port) for port in text.split(",")], default=[])
    given = parser.parse_args()
    if not shutil.which("tshark"):
        print("tshark is not installed", file=sys.stderr)
        return 2
    known, totals = explanations(), Counter[str]()
    for path in captures(given.places):
        result = agreement(path, known, given.ports)
        totals["files"] += 1
        totals["messages that tshark finds"] += result.messages
        for each in result.found:
            why = result.reasons.get(each.kind)
            totals[f"{each.kind}, {'explained' if why else 'UNEXPLAINED'}"] += 1
            print(f"{path.name}: {each.kind}: {each.text}" + (f" [{why}]" if why else ""))
    print("\n".join(f"{count:,} {name}" for name, count in totals.items()))
    return int(any("UNEXPLAINED" in name for name in totals))


if __name__ == "__main__":
    sys.exit(main())
