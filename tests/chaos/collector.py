"""A collector that misbehaves on request: real sockets on loopback, HTTP and TLS made by hand."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trustme

Identity = tuple[str, int, str]
"""The identity of a record: connection, exchange, direction."""

ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
STATUSES = {
    "500": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
    "503, Retry-After": b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
    "429, Retry-After": b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n",
    "answers what cannot be read": b"HTTP/1.1 200 OK\r\nX Bad: 1\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n{}",
    "speaks no HTTP": b"\x00\xff SSH-2.0 what is this\r\n\r\n" * 3,
}


class Certificates:
    """The certificates that a TLS collector may present."""

    def __init__(self) -> None:
        ours, other = trustme.CA(), trustme.CA()
        self.trusted = ours
        past = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
        self.contexts = {
            "takes": _context(ours.issue_cert("127.0.0.1")),
            "expired": _context(ours.issue_cert("127.0.0.1", not_after=past)),
            "another host's name": _context(ours.issue_cert("elsewhere.example")),
            "unknown authority": _context(other.issue_cert("127.0.0.1")),
        }


def _context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


class Collector:
    """Listens on a port of its own. `turn` changes its behaviour and ends every connection."""

    def __init__(self, certificates: Certificates | None = None, *, address: str = "127.0.0.1") -> None:
        self.accepted: list[Identity] = []
        """Every record that was answered with 2xx, in order, including repeated ones."""
        self.tries = 0
        self._certificates = certificates
        self._mode = "takes"
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._over = False
        self._address = address
        self._listener: socket.socket | None = self._listen(0)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def turn(self, mode: str) -> None:
        """Behaves so from now on."""
        with self._lock:
            self._mode = mode
            if mode == "refuses" and self._listener is not None:
                self._listener.close()
                self._listener = None
            elif mode != "refuses" and self._listener is None:
                self._listener = self._listen(self.port)
            opened = list(self._open)
        for each in opened:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends listening, and every connection."""
        self._over = True
        self.turn("refuses")
        self._thread.join()

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server((self._address, port), backlog=64)
        listener.setblocking(False)
        return listener

    def _serve(self) -> None:
        while not self._over:
            with self._lock:
                listener, mode = self._listener, self._mode
            if listener is None or mode == "accepts nothing":
                time.sleep(0.01)
                continue
            try:
                if not select.select([listener], [], [], 0.05)[0]:
                    continue
                connection, _ = listener.accept()
            except (OSError, ValueError):
                continue  # closed in the meantime
            threading.Thread(target=self._talk, args=(connection, mode), daemon=True).start()

    def _talk(self, connection: socket.socket, mode: str) -> None:
        connection.setblocking(True)
        connection.settimeout(30)
        with self._lock:
            self._open.add(connection)
        stream = connection
        try:
            if self._certificates is not None:
                if mode == "handshake cut":
                    connection.recv(100)
                    reset(connection)
                    return
                if mode == "handshake hangs":
                    while connection.recv(4096):
                        pass
                    return
                contexts = self._certificates.contexts
                stream = contexts.get(mode, contexts["takes"]).wrap_socket(connection, server_side=True)
                with self._lock:
                    self._open.add(stream)
            answers = 0
            while self._answer(stream, connection):
                answers += 1
                if answers % 10 == 0 and self._mode == "closes after ten answers":
                    break
        except (OSError, ValueError):
            pass  # the other side has closed
        finally:
            with self._lock:
                self._open -= {connection, stream}
            stream.close()
            connection.close()

    def _answer(self, stream: socket.socket, connection: socket.socket) -> bool:
        """One request. False: the connection is over."""
        head, rest = _until(stream, b"\r\n\r\n")
        if not head:
            return False
        with self._lock:
            self.tries += 1
            mode = self._mode
        if mode == "resets in the request's body":
            reset(connection)
            return False
        length = int(next(line[15:] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")))
        while len(rest) < length:
            if not (more := stream.recv(65536)):
                return False
            rest += more
        return self._end(mode, stream, connection, rest)

    def _end(self, mode: str, stream: socket.socket, connection: socket.socket, body: bytes) -> bool:
        if mode == "answers what cannot be read":
            self._accept(body)
        if mode in STATUSES:
            stream.sendall(STATUSES[mode])
            return mode != "speaks no HTTP"
        if mode == "resets in the answer":
            stream.sendall(ANSWER[:12])
            reset(connection)
            return False
        if mode == "half-closes":
            stream.shutdown(socket.SHUT_WR)
            mode = "hangs"
        if mode in ("hangs", "accepts nothing"):  # a connection that was accepted before the fault began
            while stream.recv(4096):
                pass
            return False
        if mode == "answers slowly":
            time.sleep(0.2)
        self._accept(body)  # before the status line, which the sniffer may rely on at once
        for part in [bytes([byte]) for byte in ANSWER] if mode == "answers slowly" else [ANSWER]:
            stream.sendall(part)
            time.sleep(0.01 * (mode == "answers slowly"))
        return True

    def _accept(self, body: bytes) -> None:
        with self._lock:
            self.accepted += map(identity, map(json.loads, body.splitlines()))


def identity(record: dict[str, Any]) -> Identity:
    """The identity of a record."""
    return record["connectionId"], record["exchange"], record["direction"]


def reset(connection: socket.socket) -> None:
    """Ends a connection by RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _until(stream: socket.socket, end: bytes) -> tuple[bytes, bytes]:
    data = b""
    while end not in data:
        if not (more := stream.recv(65536)):
            return b"", b""
        data += more
    head, _, rest = data.partition(end)
    return head, rest


@contextmanager
def collecting(certificates: Certificates | None = None, *, address: str = "127.0.0.1") -> Iterator[Collector]:
    """A collector that listens and accepts everything."""
    collector = Collector(certificates, address=address)
    try:
        yield collector
    finally:
        collector.close()
