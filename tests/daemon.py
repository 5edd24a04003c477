"""The real daemon as a subprocess, and what it is pointed at."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, Self

import pytest

from tests.instrumented import inherited
from tests.waiting import wait_until

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "tests" / "data" / "demo.pcap"
SECONDS = 30.0
"""Nothing here takes so long; what does is a failure."""


def may_capture() -> bool:
    """Whether this process has NET_RAW: read here, since `sniffer.doctor`, which reads it too, is among the tested."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return False
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> 13 & 1)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


needs_capture = pytest.mark.skipif(not may_capture(), reason="capturing needs the capability NET_RAW (run as root)")


class Daemon:
    """`python -m sniffer` with its logs and messages read as they come."""

    def __init__(
        self,
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "sniffer"),
        prefix: Sequence[str] = (),
        read_stdout: bool = True,
        stdin: IO[bytes] | None = None,
        stderr: int | None = None,
    ) -> None:
        """`stderr` is a descriptor for the log, which is not read then."""
        self.process = subprocess.Popen(
            [*prefix, sys.executable, *program, *arguments],
            cwd=ROOT,
            env={**inherited("PATH", "HOME", "LANG"), **(environ or {})},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if stderr is None else stderr,
        )
        self.logs: list[dict[str, Any]] = []
        self.stderr: list[str] = []
        self.messages: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._readers = []
        if stderr is None:
            self._readers.append(threading.Thread(target=self._read_logs, daemon=True))
        if read_stdout:
            self._readers.append(threading.Thread(target=self._read_messages, daemon=True))
        for reader in self._readers:
            reader.start()

    def _read_logs(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.stderr.append(line.decode())
                if line.startswith(b"{"):
                    self.logs.append(json.loads(line))
                self._news.notify_all()

    def _read_messages(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.messages.append(json.loads(line))
                self._news.notify_all()

    def wait_for(self, what: Callable[[], Any]) -> Any:
        """What `what` returns once it is true; fails when the time is up."""
        with self._news:
            assert self._news.wait_for(what, SECONDS), f"{self.stderr}"
            return what()

    def log(self, message: str) -> dict[str, Any]:
        """The first log line with this message; waits for it."""
        found: dict[str, Any] = self.wait_for(lambda: self.logged(message))[0]
        return found

    def logged(self, message: str) -> list[dict[str, Any]]:
        """The log lines so far with this message."""
        return [line for line in self.logs if line["message"] == message]

    def has_logged(self, message: str, times: int) -> bool:
        """Whether there are that many log lines with this message."""
        return len(self.logged(message)) >= times

    def ledger(self) -> dict[str, Any]:
        """The daemon's ledger now, as a log line; it must have started."""
        seen = len(self.logged("ledger"))
        self.send(signal.SIGUSR1)
        self.wait_for(lambda: self.has_logged("ledger", seen + 1))
        return self.logged("ledger")[-1]

    def offered(self, lane: str, count: int) -> None:
        """Waits until that many messages were offered to a lane."""
        wait_until(
            lambda: self.ledger()["lanes"][lane]["offered"] >= count, f"{count} are offered", seconds=SECONDS, pause=0
        )

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self.process.send_signal(number)

    def end(self) -> int:
        """Waits for the end; the exit code."""
        code = self.process.wait(SECONDS)
        for reader in self._readers:
            reader.join(SECONDS)
        return code

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signals, and waits for the end; the exit code."""
        self.send(number)
        return self.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = SECONDS
    wbufsize = -1  # an answer is one segment: no waiting for the acknowledgement of its head

    def do_GET(self) -> None:
        body = f"you asked for {self.path}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True


class _Silent(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while self.request.recv(65536):
            pass


@contextmanager
def serving(server: socketserver.TCPServer) -> Iterator[int]:
    """Runs a server; gives its port."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def web_server() -> Iterator[int]:
    """An HTTP/1.1 server on loopback; gives its port."""
    with serving(_Server(("127.0.0.1", 0), _Handler)) as port:
        yield port


@contextmanager
def silent_server() -> Iterator[int]:
    """A server that reads and never answers; gives its port."""
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Silent)
    server.daemon_threads = True
    with serving(server) as port:
        yield port


def exchanges(port: int, count: int, *, per_connection: int = 10) -> None:
    """Makes `count` exchanges, some of them on each connection."""
    for first in range(0, count, per_connection):
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        for number in range(first, min(count, first + per_connection)):
            client.request("GET", f"/{number}")
            assert client.getresponse().read() == f"you asked for /{number}\n".encode()
        client.close()
