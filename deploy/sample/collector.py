"""Takes messages by POST, one JSON object or one per line, prints each, and gives the latest back by GET."""

import json
import os
import signal
import sys
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEPT = 1000
messages: deque[dict[str, object]] = deque(maxlen=KEPT)
printing = threading.Lock()


def show(received: list[dict[str, object]]) -> None:
    """Prints whole lines: connections have threads of their own, and each may print at the same time."""
    rest = memoryview(b"".join(json.dumps(message).encode("ascii") + b"\n" for message in received))
    with printing:
        while rest:
            rest = rest[os.write(1, rest) :]


class Collector(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            received = [json.loads(line) for line in body.splitlines() if line.strip()]
        except ValueError:
            self.answer(400, b"")
            return
        messages.extend(received)
        show(received)
        self.answer(204, b"")

    def do_GET(self) -> None:
        self.answer(200, json.dumps(list(messages)).encode("ascii"))

    def answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        if status != 204:
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """The messages are the log."""


def main(port: int) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ThreadingHTTPServer(("", port), Collector).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
