"""outputs/mcp: the daemon asked by the official client of the Model Context Protocol."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from mcp import Client, StdioServerParameters
from mcp.types import TextContent

from sniffer.config import SnifferConfig
from sniffer.errors import ValidationError
from sniffer.exchanges import Pair
from sniffer.outputs.mcp.store import OVERHEAD, Kept
from tests.captures import connection, get, ok, write
from tests.daemon import DEMO, ROOT, SECONDS, exchanges, needs_capture, web_server
from tests.deliveries import answer, message
from tests.waiting import until

READ_DEMO = ("--ports", "8080", "--read", str(DEMO))


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "sniffer", "mcp", *options]


@asynccontextmanager
async def asked(*options: str) -> AsyncIterator[Client]:
    """A client and the daemon that it started."""
    started = command(*options)
    async with Client(StdioServerParameters(command=started[0], args=started[1:], cwd=ROOT)) as client:
        yield client


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """The answer of a tool, which is the same as text and as JSON."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    (text,) = result.content
    assert isinstance(text, TextContent)
    said = json.loads(text.text)
    assert said == result.structured_content
    return dict(said)


async def error(client: Client, tool: str, **arguments: Any) -> str:
    """Why a tool does not answer."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    (text,) = result.content
    assert isinstance(text, TextContent)
    return text.text


async def whole(client: Client, exchanges: int = 7) -> None:
    """Returns when the file has been read, and so many exchanges can be asked for."""

    async def ended() -> bool:
        health = await call(client, "health")
        return health["watched"]["state"] == "ended" and health["exchanges"] == exchanges

    await until(ended, "the file is read", seconds=SECONDS, pause=0.05)


def lines(*options: str) -> list[dict[str, Any]]:
    """The records that standard output gets."""
    done = subprocess.run(
        [sys.executable, "-m", "sniffer", *options, "--stdout"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=SECONDS,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_what_is_asked_is_what_was_captured() -> None:
    """The list has every exchange, the newest first, in pages; each record is the one that standard output gets."""
    records = lines(*READ_DEMO)
    async with asked(*READ_DEMO) as client:
        await whole(client)
        first = await call(client, "list_exchanges", limit=4)
        second = await call(client, "list_exchanges", before=first["nextBefore"])
        rows = [*first["exchanges"], *second["exchanges"]]
        assert [row["id"] for row in rows] == [7, 6, 5, 4, 3, 2, 1]
        assert "nextBefore" not in second
        found = []
        for row in rows:
            exchange = await call(client, "get_exchange", id=row["id"], max_body=100_000)
            assert exchange["response"]["statusCode"] == row["status"]
            found += [exchange["request"], exchange["response"]]
        key = ("connectionId", "exchange", "direction")
        assert sorted(found, key=lambda each: [each[name] for name in key]) == sorted(
            records, key=lambda each: [each[name] for name in key]
        )
        stats = await call(client, "stats")
        assert stats["exchanges"] == 7
        assert stats["methods"] == {"GET": 4, "POST": 2, "HEAD": 1}
        assert sum(stats["statuses"].values()) == 7
        assert set(stats["durationMs"]) == {"p50", "p90", "p99"}


async def test_where() -> None:
    """An expression chooses among request and response; an error points at its column."""
    async with asked(*READ_DEMO) as client:
        await whole(client)
        found = await call(client, "list_exchanges", where='status >= 400 && path contains "missing"')
        assert [row["path"].partition("?")[0] for row in found["exchanges"]] == ["/missing"]
        assert "column 10" in await error(client, "list_exchanges", where="status >=")
        none = await call(client, "list_exchanges", where="status == 599")
        assert none["exchanges"] == []
        assert none["note"] == "exchanges were captured, and none of them matched"


async def test_wrong_calls_are_answered() -> None:
    """Unknown tools, ids and arguments give an error that says what there is."""
    async with asked(*READ_DEMO) as client:
        await whole(client)
        assert "there are 1 to 7" in await error(client, "get_exchange", id=8)
        assert "`id`" in await error(client, "get_exchange")
        assert "limit" in await error(client, "list_exchanges", limit=10_000)
        assert "whom" in await error(client, "list_exchanges", whom="x")
        assert "list_exchanges, get_exchange" in await error(client, "delete_exchange")
        cut = (await call(client, "get_exchange", id=1, max_body=10))["response"]
        assert (len(cut["body"]), cut["bodyTruncated"]) == (10, True)


async def test_secrets_stay_inside(tmp_path: Path) -> None:
    """What is redacted for every output is redacted here."""
    request = b"GET /?sig=s3cret HTTP/1.1\r\nHost: x\r\nAuthorization: s3cret\r\nCookie: s3cret\r\n\r\n"
    body = b'{"password":"s3cret"}'
    response = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    file = write(tmp_path / "it.pcap", connection([(request, response)]))
    async with asked("--ports", "8080", "--read", str(file)) as client:
        await whole(client, 1)
        said = [
            await call(client, "list_exchanges"),
            await call(client, "get_exchange", id=1),
            await call(client, "stats"),
        ]
        assert "[REDACTED]" in repr(said)
        assert "s3cret" not in repr(said)


async def test_an_empty_answer_says_why(tmp_path: Path) -> None:
    """No traffic of the ports and traffic without an exchange are told apart."""
    file = write(tmp_path / "it.pcap", connection([(get("/"), ok(b""))]))
    async with asked("--ports", "81", "--read", str(file)) as client:
        await whole(client, 0)
        assert "no HTTP exchange among them" in (await call(client, "list_exchanges"))["note"]


@needs_capture
async def test_a_live_capture_answers_as_it_goes() -> None:
    """Before any packet the answer says so; an exchange is there as soon as it has ended."""
    with web_server() as port:
        async with asked("--ports", str(port), "--interface", "lo") as client:

            async def running() -> bool:
                return bool((await call(client, "health"))["watched"]["state"] == "running")

            await until(running, "the capture is open", seconds=SECONDS, pause=0.05)
            assert "not one packet" in (await call(client, "list_exchanges"))["note"]
            await asyncio.to_thread(exchanges, port, 1)

            async def listed() -> list[dict[str, Any]]:
                return list((await call(client, "list_exchanges"))["exchanges"])

            await until(listed, "the exchange is listed", seconds=SECONDS, pause=0.05)
            assert [row["path"] for row in await listed()] == ["/0"]


@pytest.mark.parametrize("ends", ["input", "signal"])
def test_the_end(ends: str) -> None:
    """The daemon ends with 0 when its client closes standard input, and at SIGTERM though the client keeps it open."""
    with subprocess.Popen(
        command(*READ_DEMO), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as daemon:
        assert daemon.stdin is not None
        assert daemon.stdout is not None
        assert daemon.stderr is not None
        ask = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        daemon.stdin.write(json.dumps(ask).encode() + b"\n")
        daemon.stdin.flush()
        assert json.loads(daemon.stdout.readline())["id"] == 1
        if ends == "input":
            daemon.stdin.close()
        else:
            daemon.terminate()
        assert daemon.wait(SECONDS) == 0
        log = daemon.stderr.read()
        assert b"Traceback" not in log, log
        assert daemon.stdout.read() == b""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"output_stdout": True}, "standard output"),
        ({"ui_address": "0"}, "as many messages"),
        ({"read": "-"}, "standard input"),
    ],
)
def test_what_it_cannot_stand_beside(options: dict[str, Any], said: str) -> None:
    """Its standard input and output are its client's alone, and so is what may be kept."""
    with pytest.raises(ValidationError, match=said) as caught:
        SnifferConfig(ports=[80], mcp=True, **options)
    assert caught.value.field == "mcp"


def test_without_the_package_it_says_which_extra() -> None:
    """Where the package is missing, the error names the extra, and nothing is opened."""
    code = "import sys; sys.modules['mcp'] = None; from sniffer import cli; cli.leave(cli.run(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "mcp", *READ_DEMO],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 2
    assert "tcp-sniffer[mcp]" in done.stderr


def pair(number: int, size: int) -> Pair:
    """An exchange with bodies of so many bytes."""
    response = msgspec.structs.replace(answer(number, body="x" * size), duration_ms=float(number + 1))
    return Pair(message(number, body="x" * size), response)


def test_what_is_kept_is_bounded() -> None:
    """The oldest exchanges are forgotten, a body that is too large is left out, and the counts are of all."""
    kept = Kept(max_bytes=100_000, most=50)
    for number in range(100):
        kept.add(pair(number, 10))
    assert (kept.first, kept.count, kept.methods.total()) == (51, 100, 100)
    assert kept.records(50) is None
    assert kept.durations()["p50"] == pytest.approx(50, rel=0.06)
    kept.add(pair(100, 50_000))
    records = kept.records(101)
    assert records is not None
    assert records[0] is not None
    assert json.loads(records[0])["bodyTruncated"]
    for number in range(100):
        kept.add(pair(number, 10_000))
    assert kept.first > 190
    assert sum(len(each or b"") + OVERHEAD for _, pair in kept.newest() for each in pair) < 110_000
