"""Mixed load as a process: an aiohttp server and clients of it, until standard input ends.

Writes a line when the server listens, and at the end a line with the number of requests.
"""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import socket
import struct
import sys
import threading
from collections.abc import Iterator

from aiohttp import web

CLIENTS = 4
LARGE = bytes(range(256)) * 200
TIMEOUT = 30.0


async def answer(request: web.Request) -> web.StreamResponse:
    """Answers as the path says: plain, compressed, chunked, missing, or echoed."""
    try:
        body = await request.read()
    except (ConnectionError, web.HTTPException):
        return web.Response(status=400)
    match request.path:
        case "/json":
            response = web.json_response({"items": [{"sku": number, "n": number % 7} for number in range(60)]})
            response.enable_compression(web.ContentCoding.gzip)
            return response
        case "/stream":
            stream = web.StreamResponse()
            await stream.prepare(request)
            for _ in range(8):
                await stream.write(b"part of a stream\n" * 20)
            await stream.write_eof()
            return stream
        case "/missing":
            return web.Response(status=404, text="no such thing\n")
    return web.Response(body=body or b"ok\n")


class Client(threading.Thread):
    """Makes in turn keep-alive requests, bodies of all kinds, pipelined bursts, and connections that are reset."""

    def __init__(self, port: int, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.over = over
        self.made = 0

    def run(self) -> None:
        for number in itertools.count():
            if self.over.is_set():
                return
            self.kept_alive()
            if number % 4 == 0:
                self.pipelined(16)
            if number % 16 == 0:
                self.cut_off()

    def kept_alive(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        for method, path, body in (
            ("GET", "/json", None),
            ("POST", "/echo", b'{"order": 17}'),
            ("GET", "/stream", None),
            ("PUT", "/large", LARGE),
            ("POST", "/chunked", self.parts()),
            ("HEAD", "/json", None),
            ("GET", "/missing", None),
        ):
            headers = {"Authorization": "Bearer not-to-be-seen", "Accept-Encoding": "gzip"}
            connection.request(method, path, body, headers, encode_chunked=path == "/chunked")
            self.made += 1
            connection.getresponse().read()
        connection.close()

    def parts(self) -> Iterator[bytes]:
        for number in range(5):
            yield b"part %d of what is sent in chunks\n" % number * 10

    def pipelined(self, count: int) -> None:
        with socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT) as connection:
            one = b"GET /pipelined HTTP/1.1\r\nHost: shop.example\r\n\r\n"
            last = b"GET /pipelined HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n"
            connection.sendall(one * (count - 1) + last)
            self.made += count
            while connection.recv(65536):
                pass

    def cut_off(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT) as connection:
            connection.sendall(b"POST /cut HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 90000\r\n\r\n" + LARGE)
            self.made += 1
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closes with RST


async def main(port: int) -> None:
    """Serves and requests until standard input ends."""
    app = web.Application(client_max_size=1 << 20)
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print("ready", flush=True)
    over = threading.Event()
    clients = [Client(port, over) for _ in range(CLIENTS)]
    await asyncio.to_thread(sys.stdin.readline)  # go
    for client in clients:
        client.start()
    await asyncio.to_thread(sys.stdin.read)
    over.set()
    for client in clients:
        await asyncio.to_thread(client.join)
    await runner.cleanup()
    print(json.dumps({"made": sum(client.made for client in clients)}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
