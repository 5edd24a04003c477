"""A running injector: real TLS on loopback, a certificate authority of its own."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme

from sniffer.injector import InjectorOptions
from sniffer.injector.server import serve

NAME = "tcp-sniffer-injector.tcp-sniffer.svc"


class Pair:
    """The files of a certificate, renewed as a kubelet renews a mounted Secret: a link that is swapped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.count = 0
        self.renew()

    @property
    def files(self) -> dict[str, str]:
        return {"tls_cert_file": str(self.folder / "data/tls.crt"), "tls_key_file": str(self.folder / "data/tls.key")}

    @property
    def bundle(self) -> str:
        return self.ca.cert_pem.bytes().decode()

    def trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.bundle)

    def renew(self, **kind: Any) -> None:
        """Another certificate of the same CA."""
        made = self.ca.issue_cert(NAME, **kind)
        self.swap(b"".join(pem.bytes() for pem in made.cert_chain_pems), made.private_key_pem.bytes())

    def mismatch(self) -> None:
        """A certificate, and the key of another."""
        made, other = self.ca.issue_cert(NAME), self.ca.issue_cert(NAME)
        self.swap(made.cert_chain_pems[0].bytes(), other.private_key_pem.bytes())

    def swap(self, certificate: bytes, key: bytes) -> None:
        self.count += 1
        new = self.folder / f"v{self.count}"
        new.mkdir()
        (new / "tls.crt").write_bytes(certificate)
        (new / "tls.key").write_bytes(key)
        (self.folder / "next").symlink_to(new.name)
        (self.folder / "next").replace(self.folder / "data")


@dataclass
class Running:
    """An injector that serves."""

    port: int
    pair: Pair
    stop: asyncio.Event
    task: asyncio.Task[None]
    session: aiohttp.ClientSession

    def url(self, path: str) -> str:
        return f"https://127.0.0.1:{self.port}{path}"

    def get(self, path: str) -> Any:
        return self.session.get(self.url(path), server_hostname=NAME)

    def post(self, path: str, **rest: Any) -> Any:
        return self.session.post(self.url(path), server_hostname=NAME, **rest)

    async def metric(self, line: str) -> float:
        """The value of a sample."""
        async with self.get("/metrics") as response:
            for text in (await response.text()).splitlines():
                if text.startswith(line + " "):
                    return float(text.rsplit(" ", 1)[1])
        raise AssertionError(f"no metric {line}")


@asynccontextmanager
async def running(folder: Path, *, poll_s: float = 0.02, **options: Any) -> AsyncIterator[Running]:
    """An injector on a free port, and a client that trusts it."""
    pair = Pair(folder)
    stop, listening = asyncio.Event(), asyncio.get_running_loop().create_future()
    made = InjectorOptions(**{"address": "127.0.0.1", "stop_delay_ms": 0, **pair.files, **options})
    task = asyncio.create_task(serve(made, stop, port=0, on_listening=listening.set_result, certificate_poll_s=poll_s))
    waiting = asyncio.ensure_future(listening)
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED, timeout=20)
    if task.done():
        waiting.cancel()
        task.result()
    connector = aiohttp.TCPConnector(ssl=pair.trusted(), keepalive_timeout=60)
    async with aiohttp.ClientSession(connector=connector) as session:
        try:
            yield Running(listening.result(), pair, stop, task, session)
        finally:
            stop.set()
            await asyncio.wait_for(task, 20)


@pytest.fixture
async def injector(tmp_path: Path) -> AsyncIterator[Running]:
    """An injector with its defaults."""
    async with running(tmp_path) as started:
        yield started
