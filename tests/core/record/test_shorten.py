"""Lines made to fit: `OUTPUT_STDOUT_MAX_LINE` on the records of any message, whatever of it is long."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer import SnifferConfig, create_sniffer
from sniffer.outputs.stdout import LEAST_LINE
from sniffer.record.message import Endpoint, HttpMessage, Placement, Proxied
from sniffer.record.schema import json_schema
from sniffer_core.core import COUNTERS, Lines, RawMessage
from tests.captures import connection, get, ok, write
from tests.conversations import Conversation, Exchange, Fields, Request, Response, sized
from tests.daemon import Daemon
from tests.records import table

VALUE_LEAST = 64
START_LEAST = 256
VALIDATOR = jsonschema.Draft202012Validator(json_schema())
ORDER = list(json_schema()["properties"])
CUT = ("body", "bodyEncoding", "bodyTruncated", "headers", "trailers", "headersTruncated", "method", "path", "reason")
"""What may differ; everything else stays as it is."""


def lines(raws: Sequence[RawMessage], most: int, *, keep: bool = False) -> list[bytes]:
    """The lines of messages, each with its end."""
    writer = Lines(keep=keep, most=most)
    found: list[bytes] = []
    while len(found) < len(raws):
        found += writer.take(raws, len(found), 100_000)[1].splitlines(keepends=True)
    return found


def texts(fields: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Names and values of fields, an array's one by one."""
    found = []
    for name, value in (fields or {}).items():
        found += [(name, each) for each in (value if isinstance(value, list) else [value])]
    return found


def width(text: str) -> int:
    """Bytes of a text within JSON."""
    return len(json.dumps(text, ensure_ascii=False).encode()) - 2


def assert_fits(raw: RawMessage, most: int) -> dict[str, Any]:
    """Holds a message's line to every promise of docs/DELIVERY.md; returns the record in it."""
    whole = raw.to_json()
    (line,) = lines([raw], most)
    assert lines([raw], most) == lines([raw], most, keep=True) == [line]
    assert raw.to_json() == whole
    if len(whole) + 1 <= most:
        assert line == whole + b"\n"
        made: dict[str, Any] = json.loads(line)
        return made
    assert len(line) <= most
    before, after = json.loads(whole), json.loads(line.decode())
    VALIDATOR.validate(after)
    assert list(after) == [name for name in ORDER if name in after]
    for name in {*before, *after} - {*CUT}:
        assert before[name] == after[name]
    assert_body_first(before, after, most - len(line))
    assert_headers_then(before, after)
    return after


def assert_body_first(before: dict[str, Any], after: dict[str, Any], spare: int) -> None:
    """The body is cut, no further than it takes, before anything else is."""
    if not before.get("body"):
        assert after.get("bodyTruncated") == before.get("bodyTruncated")
        return
    assert after["bodyTruncated"]
    if "body" not in after:
        assert "bodyEncoding" not in after
        return
    assert "headersTruncated" not in after
    assert after["body"]
    assert before["body"].startswith(after["body"])
    assert before["body"] != after["body"]
    if after.get("bodyEncoding"):
        assert len(after["body"]) % 4 == 0
        assert base64.b64decode(before["body"]).startswith(base64.b64decode(after["body"], validate=True))
    assert spare < 6


def assert_headers_then(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Header values are cut to one length, then what the start line holds, then fields go, the last first."""
    heads = ("headers", "trailers", "method", "path", "reason")
    if "headersTruncated" not in after:
        assert {name: before.get(name) for name in heads} == {name: after.get(name) for name in heads}
        return
    assert "body" not in after or not after["body"]
    were = dict.fromkeys(texts(before["headers"]) + texts(before.get("trailers")))
    left = texts(after["headers"]) + texts(after.get("trailers"))
    fields_went = any(len(before.get(name, ())) > len(after.get(name, ())) for name in ("headers", "trailers"))
    start_cut = any(before.get(name) != after.get(name) for name in ("method", "path", "reason"))
    if not fields_went:
        longest = max((width(value) for _, value in left), default=0)
        for (name, was), (other, is_) in zip(
            texts(before["headers"]) + texts(before.get("trailers")), left, strict=True
        ):
            assert name == other
            assert was.startswith(is_)
            if was != is_:
                assert width(is_) >= VALUE_LEAST - 5
                assert width(is_) > longest - 6
    else:
        assert start_cut or all(width(before.get(name, "")) <= START_LEAST for name in ("method", "path", "reason"))
        for name, value in left:
            assert any(name == other and was.startswith(value) for other, was in were)
    for name in ("method", "path", "reason"):
        if before.get(name) != after.get(name):
            assert before[name].startswith(after[name])
            assert width(after[name]) > START_LEAST - 6
            assert all(width(value) <= VALUE_LEAST for _, value in left)


# Any message


def drawn(pieces: Sequence[str], most: int) -> st.SearchStrategy[str]:
    """Long texts of few pieces."""
    return st.builds(
        lambda piece, count, tail: piece * (count // len(piece)) + tail,
        st.sampled_from(pieces),
        st.integers(0, most),
        st.sampled_from(("", "x", '"', "\\", "\xe9")),
    )


VALUES = ("a", '"', "\\", "\xe9", "\x01", 'ab\\"', "\t\x7f", "a\xff\\\\")
fields = st.lists(
    st.tuples(st.sampled_from(("x", "Cookie", "Set-Cookie", "Y", "Referer", "x" * 300)), drawn(VALUES, 9000)),
    max_size=6,
).map(tuple)
bodies = st.one_of(
    drawn(("a", '"', "\\", "\x01", "\u20ac", "\U0001f600", 'é\\"\n'), 30_000).map(str.encode),
    st.integers(0, 20_000).map(lambda size: b"\xff\x00\x80" * (size // 3) + b"\xff" * (size % 3)),
)


def messages(
    path: str = "/a",
    up: Fields = (),
    down: Fields = (),
    body: bytes = b"",
    *,
    reason: str = "OK",
    trailers: Fields = (),
    **options: Any,
) -> list[RawMessage]:
    """The messages of an exchange with the same body in both directions."""
    both = Exchange(
        Request(method="POST", path=path, fields=up, framing="length", body=body),
        Response(reason=reason, fields=down, framing="chunked", body=body, trailers=trailers),
    )
    conversation = Conversation(exchanges=(both,))
    return table(**{"max_body": 1 << 24} | options).run(conversation.packets(conversation.segments(sized(1460))))


@given(
    drawn(("a", "\xe9", "a=b&"), 9000),
    fields,
    fields,
    bodies,
    drawn(("ok", '"'), 3000),
    fields,
    st.sampled_from((LEAST_LINE, LEAST_LINE + 1, 6000, 16_000, 1 << 30)),
    st.sampled_from((None, b"0123456789abcdef")),
)
def test_any_line_fits(
    path: str, up: Fields, down: Fields, body: bytes, reason: str, trailers: Fields, most: int, key: bytes | None
) -> None:
    """Whatever is long: each line fits, is a valid record, and loses no more than it must, in the documented order."""
    options = {"redact_key": key, "placement": ("p" * 100, 'n"', None)}
    for raw in messages("/" + path, up, down, body, reason=reason, trailers=trailers, **options):
        assert_fits(raw, most)


@pytest.mark.parametrize("most", [LEAST_LINE, 5000, 16_000])
def test_many_fields_fit(most: int) -> None:
    """Thousands of small fields, and one whose name is long, leave room for the rest: the last ones go."""
    many = tuple((f"x-{number}", "v") for number in range(3000))
    for raw in messages("/a", many, (("y" * 20_000, "v"), *many), b"x", trailers=many[:500]):
        after = assert_fits(raw, most)
        kept = [name for name in after["headers"] if name.startswith("x-")]
        assert kept == [name for name, _ in many][: len(kept)]
        assert len(kept) > 100


@pytest.mark.parametrize("size", range(3500, 3700, 7))
def test_the_limit_is_used(size: int) -> None:
    """Around the limit: what fits is as it was, what does not is shorter by as little as can be."""
    for raw in messages(body=b"a" * size):
        assert_fits(raw, LEAST_LINE)


def test_a_line_of_escapes() -> None:
    """A body of control characters takes six times its size: the reason for the limit."""
    (raw, _) = messages(body=b"\x01" * 8192)
    assert len(raw.to_json()) > 48_000
    after = assert_fits(raw, 16_000)
    assert after["bodySize"] == 8192
    assert 2500 < len(after["body"]) < 8192 / 3


def test_the_least_limit_has_room_for_the_largest_record() -> None:
    """With every field there is, each at its longest, a record still fits into the least line that is allowed."""
    anomalies = tuple(name.removeprefix("anomaly_") for name in COUNTERS if name.startswith("anomaly_"))
    far = Endpoint("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255", 65535)
    largest = HttpMessage(
        1, far, far, "response", "2023-11-14T22:13:20.000042Z", {f"x-{number}": "v" * 100 for number in range(1000)},
        "f" * 32, 2**32 - 1, "1.1", "M" * 9000, "/" * 9000, 999, "R" * 9000, (199,) * 16, 123456789012.345,
        body="a" * 9000, body_encoding="base64", body_size=2**63 - 1, body_truncated=True,
        body_decoded=", ".join(["deflate"] * 4), trailers={"x": "v" * 9000}, incomplete="malformed",
        missing_bytes=2**63 - 1, resynced=True, anomalies=anomalies, trace_id="f" * 32, span_id="f" * 16,
        placement=Placement('"' * 500, "n" * 6, "m" * 6), end_timestamp="2023-11-14T22:13:20.000042Z",
        duration_ms=123456789012.345, authority="h" * 255 + ":65535", proxied=Proxied(far, far),
        body_redacted=2**31, stream_id=2**31 - 1, headers_unknown=2000,
        route_id="u" + "-".join(["4294967295.4294967295"] * 4), reset="INADEQUATE_SECURITY", pushed=True,
    )  # fmt: skip
    SnifferConfig(ports=[1], output_stdout_max_line=LEAST_LINE, pod_name='"' * 500, namespace="n" * 6)
    assert all(value is not None for value in msgspec.structs.astuple(largest))
    (_, line) = Lines(most=LEAST_LINE).take([largest], 0, 1)
    assert len(line) <= LEAST_LINE
    VALIDATOR.validate(json.loads(line))
    assert json.loads(line)["headersTruncated"]
    headers = len(json.dumps(json.loads(line)["headers"], separators=(",", ":")))
    assert len(line) - headers < LEAST_LINE - 300  # room for fields to come


def test_other_records_are_left_alone() -> None:
    """What is no record of the core stays as it is, however long or odd."""
    for text in (
        b"",
        b"{",
        b"{}",
        b"x" * 9000,
        b'{"a":' + b"[" * 9000,
        b'{"bodySize":1,"body":"' + b"x" * 9000 + b'"}',
    ):

        class Other:
            json = text

            def to_json(self) -> bytes:
                return self.json

        assert Lines(most=LEAST_LINE).take([Other()], 0, 1) == (1, text + b"\n")


@pytest.mark.parametrize("piece", ['"', "\\", "\x01", "a", '\\"'])
def test_shortening_takes_time_by_the_byte(piece: str) -> None:
    """A line of twice the length takes about twice the time, whatever it is made of."""

    def seconds(size: int) -> float:
        text = piece * (size // len(piece))
        raws = messages("/a", (("x", text[:30_000]),) * 2, (("y", "v"),) * 3000, text.encode())
        began = time.process_time()
        lines(raws, LEAST_LINE)
        return time.process_time() - began

    assert seconds(2_000_000) < 20 * seconds(200_000) + 0.2


# On standard output alone


def test_standard_output_alone(tmp_path: Path) -> None:
    """Lines of the daemon are bounded; the HAR file beside them has everything."""
    body = b'"' * 20_000
    file = write(tmp_path / "x.pcap", connection([(get("/a"), ok(body)), (get("/b", x="y" * 20_000), ok(b""))]))
    with Daemon(
        *("--ports", "8080", "--read", file, "--stdout", "--output-stdout-max-line", "16000"),
        *("--har", str(tmp_path / "out.har")),
    ) as daemon:
        assert daemon.end() == 0
    first, answer, second, _ = daemon.messages
    assert "bodyTruncated" not in first
    assert (answer["bodyTruncated"], answer["bodySize"]) == (True, 20_000)
    assert 7000 < len(answer["body"]) < 8000
    assert second["headersTruncated"]
    assert 15_000 < len(second["headers"]["x"]) < 16_000
    entries = json.loads((tmp_path / "out.har").read_text())["log"]["entries"]
    assert entries[0]["response"]["content"]["text"] == body.decode()
    assert {"name": "x", "value": "y" * 20_000} in entries[1]["request"]["headers"]


async def test_the_library_gets_whole_messages(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A message is whole for an iterator while its line is cut."""
    file = write(tmp_path / "x.pcap", connection([(get(), ok(b"a" * 9000))]))
    sniffer = create_sniffer(ports=[8080], read=file, output_stdout=True, output_stdout_max_line=LEAST_LINE)
    async with sniffer:
        messages = [message async for message in sniffer]
    assert len(messages[1].body or "") == 9000
    assert not messages[1].body_truncated
    assert [len(line) + 1 <= LEAST_LINE for line in capfd.readouterr().out.splitlines()] == [True, True]
