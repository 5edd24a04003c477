"""record/raw: a message as Python sees it, its body and its weight."""

from __future__ import annotations

import base64
from typing import Any

from sniffer.record.codings import decode
from sniffer.record.message import from_raw
from tests.captures import connection
from tests.laws import Table
from tests.raws import brotli_bomb
from tests.records import answer, read


def test_text_is_shown_as_text_and_anything_else_in_base64() -> None:
    """`body` is text where it is valid UTF-8, else base64 and says so."""
    assert answer("zażółć \u0000".encode())["body"] == "zażółć \u0000"
    fields = answer(b"\xff\x00\xfe")
    assert (base64.b64decode(fields["body"]), fields["bodyEncoding"]) == (b"\xff\x00\xfe", "base64")


def test_a_message_without_body_has_none() -> None:
    """`body` is absent where there is none, and where the cap is 0; `bodySize` is always there."""
    assert "body" not in answer(b"")
    fields = answer(b"0123456789", max_body=0)
    assert "body" not in fields
    assert fields["bodySize"] == 10


def test_a_cut_text_loses_its_last_incomplete_sequence() -> None:
    """A UTF-8 sequence that the cap cuts is left out; one that is incomplete in a whole body makes it base64."""
    body = "aé".encode()
    assert answer(body, max_body=2)["body"] == "a"
    assert answer(body[:-1], declared=9)["body"] == "a"
    assert answer(body[:-1])["bodyEncoding"] == "base64"
    assert answer(b"\xff" + body, max_body=3)["bodyEncoding"] == "base64"


def test_a_body_is_decoded_once() -> None:
    """`RawMessage.decode` says what became of the codings, once; the record is made of what it gave, and weighed so."""
    calls = []

    def counted(body: bytes, coding: str, room: int) -> Any:
        calls.append(coding)
        return decode(body, coding, room)

    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 14\r\n\r\n"
    sent = [(b"GET / HTTP/1.1\r\n\r\n", head + brotli_bomb(22))]
    _, raw = Table(ports=(8080,), max_body=65_536, decode=counted).run(connection(sent))
    assert raw.weight < 4096
    assert [raw.decode(), raw.decode()] == ["", None]
    weight = raw.weight
    assert weight > 3 * 65_536
    assert len(raw.to_json()) > 65_536
    assert raw.weight <= weight
    assert from_raw(raw).to_json() == raw.to_json()
    assert calls == ["br"]
    assert raw.body == brotli_bomb(22)


def test_the_weight_counts_wide_text() -> None:
    """One emoji makes each character of a string take four bytes: `weight` says so once the text is made."""
    body = "x" * 60_000 + "\N{GRINNING FACE}"
    raw = read(
        b"GET / HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body.encode()), body.encode()),
        max_body=65_536,
    )[1]
    raw.message = from_raw(raw)
    assert raw.weight > 4 * 60_000 + len(raw.to_json()) + 60_000
