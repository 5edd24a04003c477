"""HTTP/2 of real programs, captured live on loopback: every exchange that was made is there, whole and paired."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sniffer import HttpMessage, create_sniffer
from tests.daemon import free_port, needs_capture
from tests.waiting import listens, until

pytestmark = [pytest.mark.live, needs_capture]

CONFIG = """
user root; daemon off; pid {folder}/pid; error_log {folder}/error;
events {{ }}
http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
        fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
        gzip on; gzip_types text/plain; gzip_min_length 1; default_type text/plain;
        server {{ listen 127.0.0.1:{port} http2; root {folder}; }} }}
"""


@contextlib.asynccontextmanager
async def running(port: int, *command: str) -> AsyncIterator[None]:
    """A server program, from when it listens until it is stopped."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await until(lambda: listens(port))
        yield
    finally:
        process.terminate()
        await process.wait()


async def client(*command: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out


async def captured(port: int, count: int, server: tuple[str, ...], *clients: tuple[str, ...]) -> list[HttpMessage]:
    """What a sniffer has of these clients, once it has as many messages as there must be."""
    messages: list[HttpMessage] = []
    sniffer = create_sniffer(ports=[port], interface="lo", on_http_message=messages.append)
    async with running(port, *server), sniffer:
        for command in clients:
            await client(*command)
        await until(lambda: len([m for m in messages if m.http_version == "2"]) >= count)
    return [message for message in messages if message.http_version == "2"]


def check(messages: list[HttpMessage]) -> None:
    """All are whole and paired."""
    assert {m.incomplete for m in messages} == {None}
    assert all(m.method is not None and m.path is not None and m.headers_unknown is None for m in messages)
    sides = Counter((m.connection_id, m.stream_id, m.exchange) for m in messages)
    assert set(sides.values()) == {2}
    for message in messages:
        if message.direction == "response":
            assert message.latency_ms is not None


@pytest.mark.skipif(None in map(shutil.which, ("nghttpd", "nghttp", "h2load", "curl")), reason="no nghttp2 or no curl")
async def test_nghttpd(tmp_path: Path) -> None:
    """h2load with many streams a connection, nghttp with padding and trailers, curl by prior knowledge."""
    (tmp_path / "page").write_text("a page")
    port = free_port()
    url = f"http://127.0.0.1:{port}/page"
    messages = await captured(
        port,
        2 * 403,
        ("nghttpd", "--no-tls", "-a", "127.0.0.1", "-d", str(tmp_path), str(port)),
        ("h2load", "-n", "400", "-c", "4", "-m", "50", url),
        ("nghttp", "-n", "--padding=100", "--trailer=x-sum: 1", f"--data={tmp_path / 'page'}", url),
        *[("curl", "-sS", "--http2-prior-knowledge", each) for each in (url, f"{url}?second")],
    )
    assert len(messages) == 2 * 403
    check(messages)
    bodies = Counter(m.body for m in messages if m.direction == "response" and m.status_code == 200)
    assert bodies["a page"] >= 402
    (upload,) = [m for m in messages if m.direction == "request" and m.method == "POST"]
    assert upload.body == "a page"
    assert upload.trailers == {"x-sum": "1"}


@pytest.mark.skipif(None in map(shutil.which, ("nginx", "curl")), reason="no nginx or no curl")
async def test_nginx(tmp_path: Path) -> None:
    """Compressed bodies, HEAD, a status that is no success; bodies are shown without their coding."""
    (tmp_path / "page").write_text("a page that is compressed " * 20)
    port = free_port()
    (tmp_path / "conf").write_text(CONFIG.format(folder=tmp_path, port=port))
    url = f"http://127.0.0.1:{port}"
    messages = await captured(
        port,
        6,
        ("nginx", "-c", str(tmp_path / "conf"), "-e", str(tmp_path / "error")),
        *[("curl", "-sS", "--http2-prior-knowledge", "--compressed", f"{url}/{name}") for name in ("page", "none")],
        ("curl", "-sSI", "--http2-prior-knowledge", f"{url}/page"),
    )
    check(messages)
    responses = [m for m in messages if m.direction == "response"]
    assert sorted((m.method, m.status_code, m.body_decoded) for m in responses if m.status_code != 404) == [
        ("GET", 200, "gzip"), ("HEAD", 200, None),
    ]  # fmt: skip
    assert [m.body for m in responses if m.status_code == 200 and m.body] == ["a page that is compressed " * 20]
