"""record/writer: numbers, times and strings as JSON, seen in the lines that it writes."""

from __future__ import annotations

import json

import pytest

from tests.captures import connection
from tests.conversations import START, Dialogue
from tests.laws import Table

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.mark.parametrize("number", [0, 1, 9, 10, 11, 99, 100, 101, 999, 1000, 9999, 10_000, 65_535, 100_000])
def test_numbers(number: int) -> None:
    """A number has its digits and no others."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {number}\r\n\r\n".encode()
    dialogue = Dialogue()
    dialogue.client(GET)
    dialogue.server(head)
    for at in range(0, number, 60_000):
        dialogue.server(b"x" * min(60_000, number - at))
    (_, response) = Table(max_body=0).run(dialogue.packets)
    assert f',"bodySize":{number},"'.encode() in response.to_json()


@pytest.mark.parametrize(
    ("micros", "shown"),
    [
        (0, "0.0"),
        (1, "0.001"),
        (10, "0.01"),
        (100, "0.1"),
        (101, "0.101"),
        (110, "0.11"),
        (999, "0.999"),
        (1000, "1.0"),
        (12_340, "12.34"),
        (299_999_999, "299999.999"),
    ],
)
def test_milliseconds(micros: int, shown: str) -> None:
    """Milliseconds have one digit behind the point at least, three at most, and no zero at the end but the first."""
    dialogue = Dialogue()
    dialogue.client(GET)
    dialogue.now += micros - 1000
    dialogue.server(b"HTTP/1.1 204 No Content\r\n\r\n")
    (_, response) = Table().run(dialogue.packets)
    assert f',"latencyMs":{shown},'.encode() in response.to_json()
    assert f',"durationMs":{shown},'.encode() in response.to_json()


@pytest.mark.parametrize(
    ("stamp", "shown"),
    [
        (3000, "1970-01-01T00:00:00.003000Z"),
        (951_782_400_000_001, "2000-02-29T00:00:00.000001Z"),
        (951_868_799_999_999, "2000-02-29T23:59:59.999999Z"),
        (4_107_542_399_123_456, "2100-02-28T23:59:59.123456Z"),
        (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
        (4_294_967_294_100_020, "2106-02-07T06:28:14.100020Z"),
    ],
)
def test_stamps(stamp: int, shown: str) -> None:
    """A time stamp is ISO 8601 in UTC with microseconds, leap years included."""
    message = Table(ports=(8080,)).run(connection([(GET, b"")], start=stamp - 3000))[0]
    assert message.timestamp == stamp
    assert f'"timestamp":"{shown}"'.encode() in message.to_json()


@pytest.mark.parametrize("before", [0, 7, 8, 15, 16, 17])
def test_strings(before: int) -> None:
    """Every byte that a header may have stands in JSON as ISO-8859-1, wherever it is among plain ones."""
    values = [chr(code) for code in range(1, 256) if chr(code) not in "\r\n"]
    lines = [f"x-{number}: {'a' * before}{value}{'b' * 20}\r\n" for number, value in enumerate(values)]
    for at in range(0, len(lines), 60):
        head = f"GET / HTTP/1.1\r\n{''.join(lines[at : at + 60])}\r\n".encode("latin-1")
        message = Table(ports=(8080,)).run(connection([(head, b"")], start=START))[0]
        headers = json.loads(message.to_json())["headers"]
        assert headers == message.headers
        for number, value in enumerate(values[at : at + 60], at):
            if f"x-{number}" in headers:
                assert headers[f"x-{number}"] in {f"{'a' * before}{value}{'b' * 20}", f"{'b' * 20}"}


@pytest.mark.parametrize("size", range(1, 26))
def test_names_are_lowered(size: int) -> None:
    """Names of every length are written in lower case, and no other byte of them changes."""
    name = ("AZ@[`{az09-Zz^_" * 2)[:size].replace("@", "!").replace("[", "#").replace("{", "|")
    head = f"GET / HTTP/1.1\r\n{name}: V\r\n\r\n".encode()
    message = Table(ports=(8080,)).run(connection([(head, b"")]))[0]
    assert json.loads(message.to_json())["headers"] == {name.lower(): "V"} == message.headers
