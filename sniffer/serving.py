"""The HTTP server of the live view and of the metrics port: strangers can neither shut it nor fill its log.

    listening socket -- accept --> HttpServer (places, peers) -- Connection (deadlines) --> an aiohttp application

A connection is either waiting for a request, and then has a deadline by which the whole head must be there, or it is
being answered, and then may not stand still for long. Where no place is free the one that has waited longest gives
its place to the new one: so any number of idle connections keeps nobody out. Nothing that a client has sent is logged.
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
"""No server takes more than this part of what the process may open: the rest is for deliveries, files, the capture."""
LEAST_CONNECTIONS: Final = 4
HEAD_SECONDS: Final = 10.0
"""From the opening of a connection, or the first byte of a later request, to the end of the head."""
IDLE_SECONDS: Final = 30.0
"""From an answer to the next request, with what is left of the answer in between."""
WRITE_SECONDS: Final = 30.0
"""A client that takes nothing for so long is cut off."""
ACCEPTS: Final = 16
"""Connections that are accepted before others have their turn."""
PAUSE_SECONDS: Final = 1.0
"""No connection is accepted for so long after the system had no descriptor or no memory for one."""
SAY_SECONDS: Final = 60.0
"""What clients do wrong is logged at most this often, with counts."""
BACKLOG: Final = 512
"""Connections that the kernel keeps until they are accepted."""
PORT_TRIES: Final = 64

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HttpServer:
    """Serves an application on a listening socket until it is closed. Belongs to the loop.

    `name` stands in the log. `headers` are those of answers that the application does not make: to what is no request,
    and to what it fails at. `most` bounds the connections, `write_seconds` how long one may stand still while it is
    answered. A handler that reads a body bounds the time for it itself.
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
        """How many there are."""
        return len(self._connections)

    async def open(self, listening: socket.socket, *, context: ssl.SSLContext | None = None) -> None:
        """Starts to serve on a socket that is bound, and is the server's from now on."""
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
        """Lets nobody in any more."""
        if self._listening is not None:
            if self._again is not None:
                self._again.cancel()
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None

    async def close(self) -> None:
        """Ends serving: what is being answered has a moment, and what is left then is cut."""
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
        """Whether there is a place, made where necessary: no peer has more than half, but who comes from this host.

        Programs of this host share one address: a tunnel's users, a proxy's, a browser's beside a probe.
        """
        if peer and self._peers[peer] >= max(1, self._most // 2):
            return self._displace(lambda other: other.peer == peer)
        return len(self._connections) < self._most or self._displace(lambda _: True)

    def _displace(self, may_go: Callable[[Connection], bool]) -> bool:
        """Ends the connection that has waited longest, of the peer that holds most; else one that stands still."""
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

    # What connections tell

    def waits(self, connection: Connection, *, yes: bool) -> None:
        """A connection begins, or ends, to wait for a request."""
        _note(self._waiting, connection, yes=yes)

    def stalls(self, connection: Connection, *, yes: bool) -> None:
        """A client begins, or ends, to take nothing."""
        _note(self._stalled, connection, yes=yes)

    def forget(self, connection: Connection) -> None:
        """A connection is gone, or about to be."""
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
    """aiohttp's connection, which alone would wait for a request, and for a client to read, as long as it takes."""

    __slots__ = ("_begun", "_deadline", "_gone", "_link", "_server", "_stall", "opening", "peer")

    def __init__(self, server: HttpServer, manager: web.Server, peer: str, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(manager, loop=loop, access_log=cast("logging.Logger", None), lingering_time=0)
        self.peer = peer
        """Whose it is; empty for this host's own."""
        self.opening: asyncio.Task[None] | None = None
        self._server = server
        self._link: asyncio.Transport | None = None  # aiohttp forgets its own before all is written
        self._begun = True  # a request: the first is due from the opening on
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._gone = False

    @property
    def made(self) -> bool:
        """It has been open."""
        return self._link is not None

    def wait(self, seconds: float) -> None:
        """A whole head is due in so many seconds."""
        if not self._gone:
            self._set_deadline(seconds)
            self._server.waits(self, yes=True)

    def begin(self) -> None:
        """A whole head is there."""
        self._begun = True
        self._server.waits(self, yes=False)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def rest(self) -> None:
        """It has no place any more: it waits for nothing."""
        self._gone = True
        self._server.waits(self, yes=False)
        self._server.stalls(self, yes=False)
        for timer in (self._deadline, self._stall):
            if timer is not None:
                timer.cancel()
        self._deadline = self._stall = None

    def cut(self) -> None:
        """Ends the connection now: politely, where nothing is left to be written."""
        if self._link is None:
            if self.opening is not None:
                self.opening.cancel()
        elif self._link.get_write_buffer_size() or self._link.get_extra_info("sslcontext") is not None:
            self._link.abort()  # a client that takes nothing takes no end of TLS either
        else:
            self._link.close()

    def _set_deadline(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._loop.call_later(seconds, self.cut)

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._link = cast("asyncio.Transport", transport)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Bytes have come; the first of a later request set a shorter deadline for its head."""
        if not self._begun and self._deadline is not None:
            self._begun = True
            left = self._deadline.when() - self._loop.time()
            self._set_deadline(min(left, HEAD_SECONDS))
        super().data_received(data)

    def pause_writing(self) -> None:
        """The client takes less than there is."""
        super().pause_writing()
        if not self._gone:
            self._stall = self._loop.call_later(self._server.write_seconds, self.cut)
            self._server.stalls(self, yes=True)

    def resume_writing(self) -> None:
        """The client has taken what there was."""
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        self._server.stalls(self, yes=False)

    def connection_lost(self, exc: BaseException | None) -> None:
        """It is gone."""
        self._server.forget(self)
        super().connection_lost(exc)

    # What aiohttp calls

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Writes an answer, or the rest of it. What aiohttp answers for the application quotes nothing."""
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
        """The answer to what is no request, and to one at which the application failed. It ends the connection."""
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
        """Something failed outside of the application."""
        error = kw.get("exc_info")
        self._server.said.add("failed", where(error) if isinstance(error, BaseException) else "")

    def _plain(self, status: int, headers: Mapping[str, str]) -> web.Response:
        texts = {400: "This is no request.\n", 404: "Nothing is here.\n", 500: "It failed.\n"}
        text = texts.get(status, "It cannot be done.\n")
        return web.Response(status=status, text=text, headers={**self._server.headers, **headers})


@web.middleware
async def _begin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tells the connection that a whole head is there."""
    cast("Connection", request.protocol).begin()
    return await handler(request)


class _Said:
    """Says what clients do wrong, in counts: at once, then at most every SAY_SECONDS."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._counts: Counter[str] = Counter()
        self._cause = ""
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False

    def add(self, what: str, cause: str = "") -> None:
        """Counts one more; `cause` holds nothing that a client has sent."""
        if self._ended:
            return
        self._counts[what] += 1
        self._cause = cause or self._cause
        if self._timer is None:
            self._say()
            self._timer = asyncio.get_running_loop().call_later(SAY_SECONDS, self._tick)

    def flush(self) -> None:
        """Says what has not been said yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._say()

    def end(self) -> None:
        """Says what has not been said yet, and nothing from now on."""
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
    """A socket that is bound to an IP address; of free ports (0) one that is none of `avoid`. OSError.

    `send_buffer` bounds what the kernel keeps of each connection's answers: a slow client is noticed sooner.
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
    """How many connections a server may have beside everything else that needs descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(LEAST_CONNECTIONS, min(wanted, soft // SHARE_OF_DESCRIPTORS))


def _peer(address: str) -> str:
    """Who that is: an IPv4 address, the /64 of an IPv6 one, which one host may have all of; empty for this host."""
    try:
        ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, IPv6Address):
        ip = ip.ipv4_mapped or ip
    if ip.is_loopback:
        return ""
    return str(ip) if isinstance(ip, IPv4Address) else str(IPv6Address(int(ip) >> 64 << 64))
