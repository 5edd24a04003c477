"""The record's contract, on the way to every sink at once: one capture, standard output, a callback and a collector."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
from aiohttp import web

from sniffer import HttpMessage, create_sniffer
from tests.captures import connection, get, ok, write

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((ROOT / "docs" / "record.schema.json").read_text())
REQUIRED = (
    *("schema", "receiver", "destination", "direction", "timestamp", "headers", "connectionId"),
    *("exchange", "httpVersion", "bodySize"),
)
SECRET = "s3cret-of-the-fixture"

EXCHANGES = [
    (get("/plain"), ok(b'{"a": 1}', **{"Content-Type": "application/json"})),
    (
        get(f"/login?sig={SECRET}", Authorization=f"Bearer {SECRET}", Cookie=f"a={SECRET}"),
        ok(b"in", **{"Set-Cookie": f"sid={SECRET}"}),
    ),
    (get("/binary"), ok(b"\xff\xfe\x00")),
    (get("/gone"), b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
]


@contextmanager
def stdout_in(path: Path) -> Iterator[None]:
    """File descriptor 1 is this file: what the process writes to standard output is there afterwards."""
    kept = os.dup(1)
    target = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(target, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(target)


async def through_every_sink(tmp_path: Path) -> tuple[list[bytes], list[HttpMessage], list[tuple[str, bytes]]]:
    """Lines of standard output, what the callback got, and (Idempotency-Key, body) of each POST."""
    posts: list[tuple[str, bytes]] = []
    called: list[HttpMessage] = []

    async def collect(request: web.Request) -> web.Response:
        assert request.content_type == "application/json"
        posts.append((request.headers["Idempotency-Key"], await request.read()))
        return web.Response()

    app = web.Application()
    app.router.add_post("/messages", collect)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        with stdout_in(tmp_path / "stdout"):
            sniffer = create_sniffer(
                ports=[8080],
                read=write(tmp_path / "capture.pcap", connection(EXCHANGES)),
                output_stdout=True,
                output_url=f"http://127.0.0.1:{port}/messages",
                on_http_message=called.append,
            )
            await sniffer.start()
            await sniffer.wait()
            await sniffer.stop()
    finally:
        await runner.cleanup()
    return (tmp_path / "stdout").read_bytes().splitlines(), called, posts


async def test_every_sink_gets_the_same_redacted_records(tmp_path: Path) -> None:
    """Required fields, schema and redaction hold on stdout, callback and POST, and all three say the same."""
    async with asyncio.timeout(30):
        lines, called, posts = await through_every_sink(tmp_path)
    records: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert len(records) == 2 * len(EXCHANGES)
    for record in records:
        jsonschema.validate(record, SCHEMA)
        assert all(field in record for field in REQUIRED)
    assert [message.to_json() for message in called] == lines
    assert [body for _, body in posts] == lines  # in order: it is one connection
    assert [key for key, _ in posts] == [
        f"{record['connectionId']}-{record['exchange']}-{record['direction']}" for record in records
    ]
    everything = b"".join([*lines, *(body for _, body in posts), *(repr(message).encode() for message in called)])
    assert SECRET.encode() not in everything
    login, answer = records[2], records[3]
    assert (login["path"], login["headers"]["authorization"]) == ("/login?sig=[REDACTED]", "[REDACTED]")
    assert (login["headers"]["cookie"], answer["headers"]["set-cookie"]) == ("[REDACTED]", ["[REDACTED]"])
    assert [(r["method"], r["path"], r["statusCode"]) for r in records if r["direction"] == "response"] == [
        ("GET", "/plain", 200),
        ("GET", "/login?sig=[REDACTED]", 200),
        ("GET", "/binary", 200),
        ("GET", "/gone", 404),
    ]
    assert (records[5]["body"], records[5]["bodyEncoding"]) == ("//4A", "base64")
