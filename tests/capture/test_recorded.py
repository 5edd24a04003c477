"""The table of records: each line ends in one counter, and what is skipped is said."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from sniffer.capture.recorded import COUNTERS, RecordTable, make_table
from sniffer.capture.records import CUT, END, ENTRY, LAST, LINE, LONG
from sniffer.capture.source import INDEX
from sniffer.errors import CaptureError
from sniffer.filters import CARRY
from sniffer_core.core import RawMessage
from tests.captures import get, ok
from tests.records import read

REQUEST, RESPONSE = (raw.to_json() for raw in read(get("/a", User_Agent="probe/1"), ok()))


def batch(*items: tuple[int, bytes]) -> tuple[bytes, bytes]:
    data, index = b"", b""
    for kind, each in items:
        index += INDEX.pack(kind, 0, len(data), len(each))
        data += each
    return data, index


def feed(table: RecordTable, *items: tuple[int, bytes]) -> list[RawMessage]:
    packets, index = batch(*items)
    made, at = [], 0
    while at < len(items):
        found, at = table.feed(packets, index, at)
        made += found
    return made


def counted(table: RecordTable) -> dict[str, int]:
    """What is not 0, once every line is in one counter."""
    counters = table.counters()
    assert set(counters) == set(COUNTERS)
    ends = sum(counters[name] for name in COUNTERS if name.startswith("records_")) - counters["records_seen"]
    assert counters["records_seen"] == ends
    return {name: value for name, value in counters.items() if value and name != "records_seen"}


def test_messages() -> None:
    """Requests and responses are counted as a flow table counts them; a last line may lack its end."""
    table = make_table(sample_rate=1.0)
    made = feed(table, (LINE, REQUEST), (LAST, RESPONSE), (END, b"f"))
    assert [raw.to_json() for raw in made] == [REQUEST, RESPONSE]
    assert counted(table) == {"records_read": 2, "messages_request": 1, "messages_response": 1}
    assert (table.tick(0), table.flush(), table.events(), table.gauges()) == ([], [], [], {})


def change(**fields: Any) -> bytes:
    return json.dumps({**json.loads(REQUEST), **fields}).encode()


HAR: dict[str, Any] = {
    "startedDateTime": "2023-01-01T00:00:00Z",
    "request": {"method": "GET", "url": "http://x/", "httpVersion": "HTTP/1.1"},
    "response": {"status": 200, "httpVersion": "HTTP/1.1"},
}


@pytest.mark.parametrize(
    ("kind", "data", "counter"),
    [
        (LINE, b"no json", "other"),
        (LINE, b"[" * 100_000, "other"),
        (LINE, b'{"level":"info"}', "other"),
        (LINE, b"\xff\xfe", "other"),
        (LINE, REQUEST[:-20], "other"),
        (LINE, change(authority='"'), "other"),
        (LINE, change(exchange=10**400), "other"),
        (LINE, change(schema=2), "schema"),
        (LAST, change(schema=2), "schema"),
        (LAST, REQUEST[:-20], "cut"),
        (CUT, b"", "cut"),
        (LONG, b"", "long"),
        (ENTRY, b"{}", "other"),
        (ENTRY, json.dumps(HAR | {"timings": {"send": 1e300}}).encode(), "other"),
        (ENTRY, json.dumps(HAR | {"response": {"status": 200, "httpVersion": "h2"}}).encode(), "version"),
    ],
)
def test_what_is_skipped(kind: int, data: bytes, counter: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each reason has its counter; what is beside it is read, and one warning has the counts."""
    table = make_table(sample_rate=1.0)
    with caplog.at_level(logging.WARNING):
        assert len(feed(table, (LINE, REQUEST), (kind, data), (LINE, RESPONSE), (END, b"f"))) == 2
    assert counted(table) == {
        "records_read": 2,
        f"records_skipped_{counter}": 1,
        "messages_request": 1,
        "messages_response": 1,
    }
    (said,) = caplog.records
    assert said.message == "records were skipped"
    assert said.fields["file"] == "f"  # type: ignore[attr-defined]
    assert list(said.fields["skipped"].values()) == [1]  # type: ignore[attr-defined]
    with pytest.raises(CaptureError, match="f cannot be read: none of its lines or entries is a record"):
        feed(make_table(sample_rate=1.0), (kind, data), (END, b"f"))


def test_user_agents_are_remembered() -> None:
    """A response carries the User-Agent of its request, where the filters ask for it."""
    made = feed(make_table(sample_rate=1.0, carry=CARRY), (LINE, REQUEST), (LINE, RESPONSE), (LINE, RESPONSE))
    assert [raw.carried for raw in made] == [("probe/1", None, None), ("probe/1", None, None), (None, None, None)]
    assert [raw.carried for raw in feed(make_table(sample_rate=1.0), (LINE, REQUEST))] == [None]


def test_the_sample() -> None:
    """What the sample leaves out is counted, and no error where it is all."""
    table = make_table(sample_rate=0.0)
    assert feed(table, (LINE, REQUEST), (LINE, RESPONSE), (END, b"f")) == []
    assert counted(table) == {"records_sampled_out": 2}
