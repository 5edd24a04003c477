"""What clients may take of the server: connections, bytes of bodies, time, lines of its log.

Any pod of the cluster may reach the webhook. Whatever clients hold, memory stays within what the manifests give the
server, and the calls of an API server find room: they are small and soon over, so whoever has held much, or held it
for long, makes way.
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
from typing import Any, Final

MOST_CONNECTIONS: Final = 128
"""At a time. Each costs 0.3 MiB, most of it asyncio's buffer for TLS."""
BACKLOG: Final = 512
"""Connections that the kernel keeps until there is room."""
HANDSHAKE_S: Final = 5.0
HEAD_S: Final = 10.0
"""For the first request's head, from the connection on."""
BODY_S: Final = 10.0
GOODBYE_S: Final = 2.0
"""For the end of a TLS connection, and for reading on what a refused client still sends, so that it reads why."""
PATIENCE_S: Final = 0.5
"""Nobody who holds a place for less has to make way: that long an honest client may take on a busy machine."""
RETRY_S: Final = 0.02
LINE_S: Final = 1.0
"""Lines about requests that are none are this far apart; the next one says how many there were in between."""


class Seldom:
    """When a line of one kind may be written again, and how many were not."""

    def __init__(self, every_s: float = LINE_S) -> None:
        self._every_s = every_s
        self._next = 0.0
        self._unsaid = 0

    def due(self) -> dict[str, int] | None:
        """Further fields of the line; None: not now."""
        now = time.monotonic()
        if now < self._next:
            self._unsaid += 1
            return None
        self._next = now + self._every_s
        unsaid, self._unsaid = self._unsaid, 0
        return {"unsaid": unsaid} if unsaid else {}


class Evicted(Exception):
    """A body that had to make way for another."""


@dataclass(eq=False)
class _Body:
    size: int
    since: float
    timeout: asyncio.Timeout
    evicted: bool = False


class Bodies:
    """Room for the bodies that are being read, all of them together."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: list[_Body] = []

    @asynccontextmanager
    async def room(self, size: int, seconds: float) -> AsyncIterator[None]:
        """Holds room for `size` bytes, within `seconds`, the wait for it included.

        Raises TimeoutError when they are over, and Evicted where the room was given to another: of those that have held
        theirs for a while the largest makes way, of equals the oldest.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        async with asyncio.timeout_at(deadline):
            while sum(body.size for body in self._held) + size > self._most:
                late = [body for body in self._held if loop.time() - body.since >= PATIENCE_S]
                if late:
                    self._evict(max(late, key=lambda body: (body.size, -body.since)))
                else:
                    await asyncio.sleep(RETRY_S)
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
            with suppress(ValueError):  # given away
                self._held.remove(mine)

    def _evict(self, body: _Body) -> None:
        if not body.timeout.expired():
            body.evicted = True
            body.timeout.reschedule(0)  # ends the read in its own task, which then lets go of what it has
        self._held.remove(body)


def _let_go(error: BaseException) -> None:
    """Empties the frames that an error has ended: what was read of a body may wait for the collector in one."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__context__


@dataclass(eq=False)
class _Connection:
    peer: Any
    """Its address, without the port."""
    sock: socket.socket
    since: float
    """When it was accepted, or its last request began or ended."""
    waiting_for_head: bool = True
    """It has sent no request yet."""
    busy: bool = False
    """A request of it is being read or answered."""
    transport: asyncio.BaseTransport | None = None
    timer: asyncio.TimerHandle | None = None
    given_away: bool = False
    """Its socket is the event loop's to close."""

    @property
    def closed(self) -> bool:
        return self.sock.fileno() < 0

    @property
    def stuck(self) -> bool:
        """It has been promised an answer, or has never asked."""
        return self.busy or self.waiting_for_head

    def greeted(self, _: object) -> None:
        """Its handshake is over, or was never begun."""
        if not self.given_away:
            self.sock.close()

    def close(self) -> None:
        """At once, and whatever is still to be sent: an SSL transport by itself would wait for its peer."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        if self.transport is not None:
            self.transport.close()


class Door:
    """Accepts connections, no more than fit, and makes those leave that hold a place without using it.

    Where all places are taken, one is given up: of those that have been busy with nothing but themselves for a while
    (their handshake, their first head, a body), else of those that are idle, the oldest of the peer that holds most.
    """

    def __init__(
        self,
        serve: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext,
        *,
        closed: Callable[[str], object],
        most: int = MOST_CONNECTIONS,
    ) -> None:
        """`serve` makes the protocol of a connection; `closed` is called with why one had to go: `limit` or `late`."""
        self._serve = serve
        self._context = context
        self._closed = closed
        self._most = most
        self._listening: socket.socket | None = None
        self._connections: dict[Any, _Connection] = {}  # by address and port
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, address: str | None, port: int) -> int:
        """Listens, on every address where none is given; the port. Raises OSError."""
        self._listening = _listening(address, port)
        self._listening.setblocking(False)
        self._spawn(self._accept(self._listening))
        number: int = self._listening.getsockname()[1]
        return number

    async def close(self) -> None:
        """Listens no more. Connections stay, but for those that have not said hello yet."""
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
        """While a connection's request is read and answered."""
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
            except OSError:  # no descriptor is left, or the client has gone already
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
        with suppress(OSError):  # no TLS, or not in time: ssl.SSLError is one too
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
        """The address of the connection that has to go; None: nobody has held a place for long enough."""
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
        with suppress(OSError):  # this machine has switched IPv6 off, or the port is taken: the next line tells
            return socket.create_server(("", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True)
    return socket.create_server(("", port), backlog=BACKLOG)


def short(value: object, most: int = 253) -> object:
    """A value of a request for a line of the log: a text cut to what a name may have, nothing for what is no text."""
    if not isinstance(value, str):
        return None
    return value if len(value) <= most else value[:most] + "..."
