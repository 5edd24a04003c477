"""Public captures give what is known of them.

tests/pcaps.json holds for each file its ports, the requests and responses that tshark 4.0 finds, why ours are others
where they are, and the messages: client, connection, exchange, direction, method, path, status, size of the body and
the beginning of its SHA-256, and what it was cut by.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sniffer_core.core import RawMessage
from tests import captures
from tests.laws import Table

CAPTURES = Path(__file__).parents[2] / "shared" / "pcaps"
FILES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("pcaps.json").read_text("utf-8"))

by_file = pytest.mark.parametrize("expected", FILES, ids=[expected["file"] for expected in FILES])
where_there = pytest.mark.skipif(not CAPTURES.is_dir(), reason="the public captures are not part of this repository")


def read(name: str, ports: list[int]) -> tuple[Table, list[RawMessage]]:
    """All messages of one of them."""
    return captures.read(CAPTURES / name, ports)


def row(message: RawMessage) -> list[Any]:
    """A message as pcaps.json has it."""
    return [
        f"{message.destination[0]} {message.destination[1]}",
        message.connection_id[:8],
        message.exchange,
        message.direction,
        message.method,
        message.path,
        message.status_code,
        message.body_size,
        sha256(message.body).hexdigest()[:16] if message.body else None,
        message.incomplete,
    ]


@where_there
@by_file
def test_messages(expected: dict[str, Any]) -> None:
    """Every capture gives exactly its messages."""
    _, messages = read(expected["file"], expected["ports"])
    assert sorted(map(row, messages), key=lambda r: (r[1], r[2], r[3])) == expected["messages"]


@by_file
def test_differences_are_explained(expected: dict[str, Any]) -> None:
    """Where our counts are not tshark's, the data says why."""
    directions = [message[3] for message in expected["messages"]]
    counts = [directions.count("request"), directions.count("response")]
    assert expected["tshark"] in (None, counts) or expected["note"]


@where_there
def test_every_file_is_known() -> None:
    """No capture of the folder is left out."""
    assert {path.name for path in CAPTURES.glob("*.pcap*")} == {expected["file"] for expected in FILES}


@where_there
def test_sequence_wrap() -> None:
    """The same conversation across the wrap of the sequence space gives the same messages."""
    _, plain = read("one_tcp_stream.pcap", [80])
    _, wrapped = read("one_tcp_stream_max_seq.pcap", [80])
    assert [row(m)[2:] for m in plain] == [row(m)[2:] for m in wrapped]
    assert len(plain) == 4


@where_there
def test_heads_left_to_h11() -> None:
    """Below 1 % of the heads of all captures are left to h11."""
    fast = rest = 0
    for expected in FILES:
        table, _ = read(expected["file"], expected["ports"])
        counted = table.counted("heads_fast", "heads_h11")
        fast += counted["heads_fast"]
        rest += counted["heads_h11"]
    assert fast > 1000
    assert rest < fast / 100
