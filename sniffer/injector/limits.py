"""Limits on what clients take of the server: connections, bytes of bodies, time, log lines.

Any pod of the cluster may reach the webhook. Whatever clients do, memory stays within the limit in the manifests, and
an API server's calls are answered. Those calls are small and short, so clients that hold much, or hold it for long,
are evicted.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

MOST_CONNECTIONS: Final = 128
"""Open connections. Each costs 0.3 MiB, most of it asyncio's buffer for TLS."""
BACKLOG: Final = 512
"""Connections that the kernel queues until there is room."""
HANDSHAKE_S: Final = 5.0
HEAD_S: Final = 10.0
"""Seconds from the connection to the end of the first request's head."""
BODY_S: Final = 10.0
GOODBYE_S: Final = 2.0
"""Seconds for the end of a TLS connection, and for reading the rest of a refused request before the answer."""
PATIENCE_S: Final = 0.5
"""Seconds for which a client may hold a place before it can be evicted: an honest client may take so long."""
RETRY_S: Final = 0.02
LINE_S: Final = 1.0
"""Seconds between two log lines about invalid requests; a line has the number of those that were left out."""


class Seldom:
    """Limits how often one kind of log line is written, and counts the lines that were left out."""

    def __init__(self, every_s: float = LINE_S) -> None:
        self._every_s = every_s
        self._next = 0.0
        self._unsaid = 0

    def due(self) -> dict[str, int] | None:
        """Further fields of the line, or None if it must not be written now."""
        now = time.monotonic()
        if now < self._next:
            self._unsaid += 1
            return None
        self._next = now + self._every_s
        unsaid, self._unsaid = self._unsaid, 0
        return {"unsaid": unsaid} if unsaid else {}


class Evicted(Exception):
    """A body was evicted to make room for another."""


@dataclass(eq=False)
class _Body:
    size: int
    since: float
    timeout: asyncio.Timeout
    evicted: bool = False


class Bodies:
    """Bounds the bytes of all bodies that are being read."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: list[_Body] = []
        self._waiting: set[tuple[int, int]] = set()  # sizes, and the order in which they came
        self._count = count()

    @asynccontextmanager
    async def room(self, size: int, seconds: float) -> AsyncIterator[None]:
        """Reserves `size` bytes while the context is open, for at most `seconds`, including the wait for them.

        Raises TimeoutError when the time is over, and Evicted if the room was given to another body. Of the bodies that
        have held their room for PATIENCE_S the largest is evicted, of equal ones the oldest. Of the bodies that wait
        the smallest comes first, of equal ones the oldest. So a small body waits for little longer than PATIENCE_S,
        however many large ones wait.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        place = size, next(self._count)
        self._waiting.add(place)
        try:
            async with asyncio.timeout_at(deadline):
                while min(self._waiting) != place or not self._made_room(size, loop.time()):  # noqa: ASYNC110 - by time
                    await asyncio.sleep(RETRY_S)
        finally:
            self._waiting.discard(place)
        mine = _Body(size, loop.time(), asyncio.timeout_at(deadline))
        self._held.append(mine)
        try:
            async with mine.timeout:
                yield
        except BaseException as error:
            _let_go(error)
            if mine.evicted and isinstance(error, TimeoutError):
                raise Evicted from None
            raise
        finally:
            with suppress(ValueError):  # evicted before
                self._held.remove(mine)

    def _made_room(self, size: int, now: float) -> bool:
        """Whether there is room, after evictions if need be."""
        while sum(body.size for body in self._held) + size > self._most:
            late = [body for body in self._held if now - body.since >= PATIENCE_S]
            if not late:
                return False
            self._evict(max(late, key=lambda body: (body.size, -body.since)))
        return True

    def _evict(self, body: _Body) -> None:
        if not body.timeout.expired():
            body.evicted = True
            body.timeout.reschedule(0)  # ends the read in its own task, which then releases its memory
        self._held.remove(body)


def _let_go(error: BaseException) -> None:
    """Clears the frames of an error, which may keep parts of a body until a garbage collection."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__context__


@dataclass(eq=False)
class _Connection:
    peer: Any
    """The client's address, without the port."""
    sock: socket.socket
    since: float
    """When the connection was accepted, or its last request began or ended."""
    waiting_for_head: bool = True
    """No request has come yet."""
    busy: bool = False
    """A request is being read or answered."""
    transport: asyncio.BaseTransport | None = None
    timer: asyncio.TimerHandle | None = None
    given_away: bool = False
    """The event loop closes the socket."""

    @property
    def closed(self) -> bool:
        return self.sock.fileno() < 0

    @property
    def stuck(self) -> bool:
        """Whether it holds a place by a handshake, a first head or a request that is not finished."""
        return self.busy or self.waiting_for_head

    def greeted(self, _: object) -> None:
        """Notes the end of the handshake, or that there was none."""
        if not self.given_away:
            self.sock.close()

    def close(self) -> None:
        """Closes at once, dropping unsent bytes. An SSL transport by itself would wait for its peer."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        if self.transport is not None:
            self.transport.close()


class Door:
    """Accepts connections up to a limit, and evicts those that hold a place without using it.

    If all places are taken, one connection is evicted: the oldest one of the peer that has most, first among
    connections that have been in their handshake, first head or body for a while, else among idle ones.
    """

    def __init__(
        self,
        serve: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext,
        *,
        closed: Callable[[str], object],
        most: int = MOST_CONNECTIONS,
    ) -> None:
        """`serve` makes the protocol of a connection. `closed` gets the reason of each eviction: `limit` or `late`."""
        self._serve = serve
        self._context = context
        self._closed = closed
        self._most = most
        self._listening: socket.socket | None = None
        self._connections: dict[Any, _Connection] = {}  # by client address and port
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, address: str | None, port: int) -> int:
        """Starts to listen, on all addresses if `address` is None, and returns the port. Raises OSError."""
        self._listening = _listening(address, port)
        self._listening.setblocking(False)
        self._spawn(self._accept(self._listening))
        number: int = self._listening.getsockname()[1]
        return number

    async def close(self) -> None:
        """Stops listening. Connections stay, except those that have not sent a TLS hello yet."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in self._connections.values():
            if connection.timer is not None:
                connection.timer.cancel()
        if self._listening is not None:
            self._listening.close()

    @contextmanager
    def request(self, transport: asyncio.BaseTransport | None) -> Iterator[None]:
        """Marks a connection as busy while the context is open."""
        address = transport.get_extra_info("peername") if transport is not None else None
        connection = self._connections.get(address)
        if connection is None:
            yield
            return
        self._note(connection, busy=True)
        try:
            yield
        finally:
            self._note(connection, busy=False)

    @staticmethod
    def _note(connection: _Connection, *, busy: bool) -> None:
        connection.since = time.monotonic()
        connection.busy = busy
        connection.waiting_for_head = False
        if connection.timer is not None:
            connection.timer.cancel()
            connection.timer = None

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(listening)
            except OSError:  # no descriptor is free, or the client has closed already
                await asyncio.sleep(RETRY_S)
                continue
            try:
                await self._make_room()
            except asyncio.CancelledError:
                sock.close()
                raise
            connection = _Connection(address[0], sock, time.monotonic())
            connection.timer = loop.call_later(HEAD_S, self._late, connection)
            self._connections[address] = connection
            self._spawn(self._greet(connection)).add_done_callback(connection.greeted)

    async def _greet(self, connection: _Connection) -> None:
        connection.given_away = True
        with suppress(OSError):  # no TLS, or not in time (ssl.SSLError is an OSError)
            connection.transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                self._serve,
                connection.sock,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=GOODBYE_S,
            )

    def _late(self, connection: _Connection) -> None:
        if connection.waiting_for_head and not connection.closed:
            self._closed("late")
            connection.close()

    async def _make_room(self) -> None:
        while True:
            for address in [address for address, one in self._connections.items() if one.closed]:
                self._forget(address)
            if len(self._connections) < self._most:
                return
            address = self._dispensable()
            if address is None:
                await asyncio.sleep(RETRY_S)
            else:
                self._closed("limit")
                self._forget(address).close()

    def _forget(self, address: Any) -> _Connection:
        connection = self._connections.pop(address)
        if connection.timer is not None:
            connection.timer.cancel()
        return connection

    def _dispensable(self) -> Any:
        """The key of the connection to evict; None if no connection has held its place for long enough."""
        now, of_peer = time.monotonic(), Counter(one.peer for one in self._connections.values())
        ready = [
            ((one.stuck, of_peer[one.peer], -one.since), address)
            for address, one in self._connections.items()
            if not one.stuck or now - one.since >= PATIENCE_S
        ]
        return max(ready)[1] if ready else None


def _listening(address: str | None, port: int) -> socket.socket:
    if address:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return socket.create_server((address, port), family=family, backlog=BACKLOG)
    if socket.has_dualstack_ipv6():
        with suppress(OSError):  # IPv6 is off, or the port is taken: the next line finds out
            return socket.create_server(("", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True)
    return socket.create_server(("", port), backlog=BACKLOG)


def short(value: object, most: int = 253) -> object:
    """A value of a request as a log line shows it: a text cut to the length of a name; None for anything else."""
    if not isinstance(value, str):
        return None
    return value if len(value) <= most else value[:most] + "..."
