"""Takes messages by POST, one JSON object or one per line, prints each, and gives the latest back by GET."""

import json
import signal
import sys
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEPT = 1000
messages: deque[dict[str, object]] = deque(maxlen=KEPT)


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
        for message in received:
            print(json.dumps(message), flush=True)
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
