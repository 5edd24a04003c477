"""The HTTP server of the live view and of the metrics port. Clients can neither block it nor fill its log.

    listening socket -- accept --> HttpServer (places, peers) -- Connection (deadlines) --> an aiohttp application

A connection that waits for a request has a deadline by which the whole head must have come. A connection that is
being answered is cut when its client reads nothing for a while. If all places are taken, a new connection replaces
the one that has waited longest, so idle connections keep nobody out. Nothing that a client has sent is logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final, cast

from aiohttp import web

from sniffer.delivery.sink import where

log = logging.getLogger("sniffer.serving")

MOST_CONNECTIONS: Final = 128
SHARE_OF_DESCRIPTORS: Final = 8
"""A server takes at most 1/8 of the process's descriptors; the rest is for deliveries, files and the capture."""
LEAST_CONNECTIONS: Final = 4
HEAD_SECONDS: Final = 10.0
"""From the opening of a connection, or from the first byte of a later request, to the end of the head."""
IDLE_SECONDS: Final = 30.0
"""From a response, including the writing of its rest, to the next request."""
WRITE_SECONDS: Final = 30.0
"""A client that reads nothing for so long is cut off."""
ACCEPTS: Final = 16
"""Connections accepted in one turn of the event loop."""
PAUSE_SECONDS: Final = 1.0
"""Pause in accepting after the system had no descriptor or memory for a connection."""
SAY_SECONDS: Final = 60.0
"""Errors of clients are logged at most this often, with counts."""
BACKLOG: Final = 512
"""Connections that the kernel queues until they are accepted."""
PORT_TRIES: Final = 64

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HttpServer:
    """Serves an application on a listening socket until it is closed. Belongs to the loop.

    `name` appears in the log. `headers` are added to responses that the application does not make: to invalid requests,
    and to requests at which it fails. `most` bounds the connections, `write_seconds` the time that a client may read
    nothing. A handler that reads a body must bound the time for it itself.
    """

    def __init__(
        self,
        app: web.Application,
        *,
        name: str,
        headers: Mapping[str, str] | None = None,
        most: int = MOST_CONNECTIONS,
        write_seconds: float = WRITE_SECONDS,
        close_seconds: float = 0.1,
    ) -> None:
        self.headers = dict(headers or {})
        self.write_seconds = write_seconds
        self.said = _Said(name)
        self._wanted = self._most = most
        app.middlewares.insert(0, _begin)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=close_seconds)
        self._listening: socket.socket | None = None
        self._ssl: ssl.SSLContext | None = None
        self._again: asyncio.TimerHandle | None = None
        self._connections: set[Connection] = set()
        self._peers: Counter[str] = Counter()
        self._waiting: dict[Connection, None] = {}  # for a request; the one that has waited longest first
        self._stalled: dict[Connection, None] = {}  # while they are answered; the one that has stalled longest first

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    async def open(self, listening: socket.socket, *, context: ssl.SSLContext | None = None) -> None:
        """Starts to serve on a bound socket, which belongs to the server from now on."""
        try:
            await self._runner.setup()
            listening.listen(BACKLOG)
        except BaseException:
            listening.close()
            raise
        listening.setblocking(False)
        self._listening, self._ssl = listening, context
        self._most = _places(self._wanted)
        self._listen()

    def stop_listening(self) -> None:
        """Accepts no further connections."""
        if self._listening is not None:
            if self._again is not None:
                self._again.cancel()
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None

    async def close(self) -> None:
        """Ends serving. Open responses get `close_seconds`; what is left then is cut."""
        self.stop_listening()
        await self._runner.cleanup()
        for connection in tuple(self._connections):
            connection.cut()
        self.said.flush()

    def _listen(self) -> None:
        self._again = None
        if self._listening is not None:
            asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPTS):
            if self._listening is None:
                return
            try:
                client, address = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return
            except OSError as error:  # no descriptor is free, or no memory
                self.said.add("notAccepted", error.strerror or "")
                loop.remove_reader(self._listening)
                self._again = loop.call_later(PAUSE_SECONDS, self._listen)
                return
            client.setblocking(False)
            peer = _peer(str(address[0]))
            if self._has_place(peer):
                self._admit(client, peer)
            else:
                client.close()
                self.said.add("refused")

    def _has_place(self, peer: str) -> bool:
        """Whether there is a place for a connection of `peer`. Makes one where necessary.

        No peer gets more than half of the places, except this host, whose programs (tunnels, proxies, probes) share one
        address.
        """
        if peer and self._peers[peer] >= max(1, self._most // 2):
            return self._displace(lambda other: other.peer == peer)
        return len(self._connections) < self._most or self._displace(lambda _: True)

    def _displace(self, may_go: Callable[[Connection], bool]) -> bool:
        """Ends the longest waiting connection of the peer that has most, or else a stalled one.

        False: there is none.
        """
        for among in (self._waiting, self._stalled):
            leaving = max(filter(may_go, among), key=lambda other: self._peers[other.peer], default=None)
            if leaving is not None:
                self.said.add("displaced")
                self.forget(leaving)
                leaving.cut()
                return True
        return False

    def _admit(self, client: socket.socket, peer: str) -> None:
        loop = asyncio.get_running_loop()
        assert self._runner.server is not None  # noqa: S101 - it is set up
        connection = Connection(self, self._runner.server, peer, loop)
        self._connections.add(connection)
        self._peers[peer] += 1
        connection.wait(HEAD_SECONDS)
        connection.opening = loop.create_task(self._open(connection, client))
        connection.opening.add_done_callback(partial(self._opened, connection, client))

    async def _open(self, connection: Connection, client: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the client is gone, or speaks no TLS (ssl.SSLError is one)
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, client, ssl=self._ssl)

    def _opened(self, connection: Connection, client: socket.socket, task: asyncio.Task[None]) -> None:
        if task.cancelled() or not connection.made:
            self.forget(connection)
            client.close()

    # Called by connections

    def waits(self, connection: Connection, *, yes: bool) -> None:
        """Notes that a connection waits for a request, or no longer does."""
        _note(self._waiting, connection, yes=yes)

    def stalls(self, connection: Connection, *, yes: bool) -> None:
        """Notes that a client has stopped reading, or reads again."""
        _note(self._stalled, connection, yes=yes)

    def forget(self, connection: Connection) -> None:
        """Gives up the place of a connection that has ended or is about to."""
        if connection not in self._connections:
            return
        self._connections.remove(connection)
        self._peers[connection.peer] -= 1
        if not self._peers[connection.peer]:
            del self._peers[connection.peer]
        connection.rest()


def _note(among: dict[Connection, None], connection: Connection, *, yes: bool) -> None:
    among.pop(connection, None)
    if yes:
        among[connection] = None


class Connection(web.RequestHandler):
    """aiohttp's connection with deadlines.

    aiohttp alone waits without bound for a request, and for a client to read.
    """

    __slots__ = ("_begun", "_deadline", "_gone", "_link", "_server", "_stall", "opening", "peer")

    def __init__(self, server: HttpServer, manager: web.Server, peer: str, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(manager, loop=loop, access_log=cast("logging.Logger", None), lingering_time=0)
        self.peer = peer
        """The client's address; empty for this host."""
        self.opening: asyncio.Task[None] | None = None
        self._server = server
        self._link: asyncio.Transport | None = None  # aiohttp forgets its own before all is written
        self._begun = True  # a request: the first is due from the opening on
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._gone = False

    @property
    def made(self) -> bool:
        """Whether it has been opened."""
        return self._link is not None

    def wait(self, seconds: float) -> None:
        """Starts to wait for a whole head, for so many seconds."""
        if not self._gone:
            self._set_deadline(seconds)
            self._server.waits(self, yes=True)

    def begin(self) -> None:
        """Notes that a whole head has come."""
        self._begun = True
        self._server.waits(self, yes=False)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def rest(self) -> None:
        """Cancels all deadlines: the connection has lost its place."""
        self._gone = True
        self._server.waits(self, yes=False)
        self._server.stalls(self, yes=False)
        for timer in (self._deadline, self._stall):
            if timer is not None:
                timer.cancel()
        self._deadline = self._stall = None

    def cut(self) -> None:
        """Ends the connection now: by a normal close if nothing is left to be written, else by an abort."""
        if self._link is None:
            if self.opening is not None:
                self.opening.cancel()
        elif self._link.get_write_buffer_size() or self._link.get_extra_info("sslcontext") is not None:
            self._link.abort()  # a client that reads nothing does not read the end of TLS either
        else:
            self._link.close()

    def _set_deadline(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._loop.call_later(seconds, self.cut)

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remembers the transport."""
        self._link = cast("asyncio.Transport", transport)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Passes bytes on. The first byte of a later request sets the shorter deadline for its head."""
        if not self._begun and self._deadline is not None:
            self._begun = True
            left = self._deadline.when() - self._loop.time()
            self._set_deadline(min(left, HEAD_SECONDS))
        super().data_received(data)

    def pause_writing(self) -> None:
        """Starts the deadline of a client that has stopped reading."""
        super().pause_writing()
        if not self._gone:
            self._stall = self._loop.call_later(self._server.write_seconds, self.cut)
            self._server.stalls(self, yes=True)

    def resume_writing(self) -> None:
        """Ends that deadline: the client has read."""
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        self._server.stalls(self, yes=False)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Gives up the place."""
        self._server.forget(self)
        super().connection_lost(exc)

    # Called by aiohttp

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Writes a response, or the rest of it.

        Responses that aiohttp makes by itself are replaced: they quote the request.
        """
        if isinstance(resp, web.HTTPException):
            allow = {"Allow": resp.headers["Allow"]} if "Allow" in resp.headers else {}
            resp = self._plain(resp.status, allow)
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._begun = False
            self.wait(IDLE_SECONDS)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes the request
    ) -> web.StreamResponse:
        """The response to an invalid request, or to one at which the application failed. It ends the connection."""
        if status < 500:
            self._server.said.add("malformed")
        elif not isinstance(exc, ConnectionError):
            self._server.said.add("failed", where(exc) if exc is not None else "")
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already")
        answer = self._plain(status, {})
        answer.force_close()
        return answer

    def log_exception(self, *args: Any, **kw: Any) -> None:  # noqa: ARG002 - what is logged quotes nothing
        """Counts a failure outside of the application."""
        error = kw.get("exc_info")
        self._server.said.add("failed", where(error) if isinstance(error, BaseException) else "")

    def _plain(self, status: int, headers: Mapping[str, str]) -> web.Response:
        texts = {400: "This is no request.\n", 404: "Nothing is here.\n", 500: "It failed.\n"}
        text = texts.get(status, "It cannot be done.\n")
        return web.Response(status=status, text=text, headers={**self._server.headers, **headers})


@web.middleware
async def _begin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tells the connection that a whole head has come."""
    cast("Connection", request.protocol).begin()
    return await handler(request)


class _Said:
    """Logs counts of clients' errors: at once, then at most every SAY_SECONDS."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._counts: Counter[str] = Counter()
        self._cause = ""
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False

    def add(self, what: str, cause: str = "") -> None:
        """Counts an error. `cause` must hold nothing that a client has sent."""
        if self._ended:
            return
        self._counts[what] += 1
        self._cause = cause or self._cause
        if self._timer is None:
            self._say()
            self._timer = asyncio.get_running_loop().call_later(SAY_SECONDS, self._tick)

    def flush(self) -> None:
        """Logs the counts since the last line."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._say()

    def end(self) -> None:
        """Logs the counts since the last line, and ignores all later errors."""
        self.flush()
        self._ended = True

    def _tick(self) -> None:
        self._timer = None
        if self._counts:
            self._say()
            self._timer = asyncio.get_running_loop().call_later(SAY_SECONDS, self._tick)

    def _say(self) -> None:
        if not self._counts:
            return
        fields: dict[str, object] = {"server": self._name, **self._counts}
        if self._cause:
            fields["cause"] = self._cause
        level = logging.ERROR if self._counts["failed"] else logging.WARNING
        self._counts.clear()
        self._cause = ""
        log.log(level, "a server turned clients away", extra={"fields": fields})


def bind(address: str, port: int, *, avoid: Iterable[int] = (), send_buffer: int | None = None) -> socket.socket:
    """A socket bound to an IP address and port. Port 0 is a free port that is none of `avoid`. Raises OSError.

    `send_buffer` (bytes) bounds the kernel's buffer for each connection, so that a slow client is noticed sooner.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    avoided = frozenset(avoid)
    with contextlib.ExitStack() as refused:
        for _ in range(PORT_TRIES):
            listening = socket.socket(family, socket.SOCK_STREAM)
            try:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if send_buffer is not None:
                    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
                if family == socket.AF_INET6:
                    listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listening.bind((address, port))
            except BaseException:
                listening.close()
                raise
            if listening.getsockname()[1] not in avoided:
                return listening
            refused.callback(listening.close)  # held until another one is found
        raise OSError(0, "every free port that was offered is one of ports")


def _places(wanted: int) -> int:
    """The number of connections that a server may have, given the process's limit of descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(LEAST_CONNECTIONS, min(wanted, soft // SHARE_OF_DESCRIPTORS))


def _peer(address: str) -> str:
    """The peer behind an address: the IPv4 address, or the /64 network of an IPv6 address; empty for this host."""
    try:
        ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, IPv6Address):
        ip = ip.ipv4_mapped or ip
    if ip.is_loopback:
        return ""
    return str(ip) if isinstance(ip, IPv4Address) else str(IPv6Address(int(ip) >> 64 << 64))
