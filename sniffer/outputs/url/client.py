"""A small HTTP/1.1 client that posts to one URL, and for which the status line of an answer decides.

    client = Client(url, fields, timeout=10.0, connections=8, answer_bytes=65536)
    answer = await client.post(body, key)        # Answer(status, retry_after), or NoAnswer

General clients give an answer whole or not at all: one header line that they cannot read turns a 2xx into a failure,
and the message is posted again. Here the answer stands as soon as its status line was read. What follows is read for
two ends only: `Retry-After`, and to know whether another request may follow on the connection. Where that is in any
doubt the connection is closed.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from yarl import URL

WRITE_BYTES: Final = 64 * 1024
"""How much of a body is given to the transport at a time."""
IDLE_SECONDS: Final = 15.0
"""A connection that was not used for so long is closed."""
REST_SECONDS: Final = 0.1
"""How long the next request waits for the rest of the last answer: about what a new connection would cost."""
DNS_SECONDS: Final = 30.0
"""How long the addresses of a name are used."""
STAGGER_SECONDS: Final = 0.25
"""An address that has not answered for so long gets company of the next one (RFC 8305 section 5)."""
SHUTDOWN_SECONDS: Final = 1.0
"""How long the other side of a TLS connection may take to say that it closes, too."""

STATUS_LINE: Final = re.compile(rb"HTTP/([0-9]+(?:\.[0-9]+)?)[ \t]+([0-9]+)(?:[ \t].*)?", re.DOTALL)
FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00\r\n]*?)[ \t]*")
CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;.*)?")

CLOSED: Final = "closed without an answer"

AddressInfo = tuple[int, int, int, str, Any]
"""What getaddrinfo gives for one address."""
OnSocket = Callable[[str, int, bool], None]
"""Told of each socket of ours: its address, its port, and True before it connects, False after it is closed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered. `retry_after` is the field's value, where the status is passing and the field was read."""

    status: int
    retry_after: str | None = None


class NoAnswer(Exception):
    """There is no connection, or it ended before a status line was read. `cause` holds nothing of the request.

    `silent`: not one byte of an answer was read.
    """

    def __init__(self, cause: str, *, silent: bool = False) -> None:
        super().__init__(cause)
        self.cause = cause
        self.silent = silent


class _Unreadable(Exception):
    """What was answered is no HTTP/1, or too long."""


def is_passing(status: int) -> bool:
    """Whether a later try may be answered otherwise."""
    return 500 <= status <= 599 or status in (408, 429)


class Client:
    """Posts to `url`, over connections that are kept while they are used.

    A request that a kept connection refuses without one byte of an answer is posted again at once, on a new connection
    and within the same `timeout`: the other side has closed the old one while the request was on its way (RFC 9110
    section 9.2.2). Bytes in place of its status line are the rest of the last answer, and no answer to it. So each
    request has to carry a key by which a repetition is known.

    There are at most `connections`; a further request waits for one, within its timeout. Of an answer `answer_bytes`
    are read; what is longer ends its connection.
    """

    def __init__(
        self,
        url: URL,
        fields: Mapping[str, str],
        *,
        timeout: float,
        connections: int,
        answer_bytes: int,
        tls: ssl.SSLContext | None = None,
        on_socket: OnSocket | None = None,
    ) -> None:
        self._url = url
        self._head = "".join(
            [
                f"POST {url.raw_path_qs} HTTP/1.1\r\nHost: {url.host_port_subcomponent}\r\nAccept: */*\r\n",
                *(f"{name}: {value}\r\n" for name, value in fields.items()),
            ]
        ).encode("ascii")
        self._timeout = timeout
        self._places = asyncio.Semaphore(connections)
        self._answer_bytes = answer_bytes
        self._tls = tls
        self._on_socket = on_socket
        self._addresses: deque[AddressInfo] = deque()
        self._resolved = 0.0
        self._resolving = asyncio.Lock()
        self._open: set[_Connection] = set()
        self._kept: dict[_Connection, asyncio.TimerHandle] = {}  # those that no request is using; the newest is last

    async def close(self) -> None:
        """Closes every connection. The rest of an answer that is on its way is waited for, but not long."""
        rests = [connection.rested for connection in self._kept if not connection.rested.done()]
        if rests:
            await asyncio.wait(rests, timeout=REST_SECONDS)
        for connection in [*self._open]:
            connection.close()
        await asyncio.sleep(0)  # the transports close their sockets in the next round of the loop

    async def post(self, body: bytes, key: str) -> Answer:
        """Posts a body, and returns as soon as the answer is known. NoAnswer where there is none within the timeout."""
        head = self._head + f"Idempotency-Key: {key}\r\nContent-Length: {len(body)}\r\n\r\n".encode("ascii")
        connection: _Connection | None = None
        try:
            async with asyncio.timeout(self._timeout), self._places:
                connection = await self._take()
                if connection is None or not await self._is_answered(connection, head, body):
                    connection = await self._connect()
                    await connection.post(head, body)
        except TimeoutError as error:
            _let_go(error)
            if connection is not None:
                connection.close()
        finally:
            if connection is not None:
                self._keep(connection)
        if connection is None or connection.answer is None:
            raise NoAnswer("timeout")
        return connection.answer

    async def _is_answered(self, connection: _Connection, head: bytes, body: bytes) -> bool:
        """Posts on a connection that was used before; False where it was closed without a word."""
        try:
            await connection.post(head, body)
        except NoAnswer as error:
            if not error.silent:
                raise
            return False
        return True

    # Connections that are kept

    def _keep(self, connection: _Connection) -> None:
        """A request is done with a connection: the rest of the answer may still come."""
        if connection.may_be_kept:
            loop = asyncio.get_running_loop()
            self._kept[connection] = loop.call_later(IDLE_SECONDS, connection.close)
        else:
            connection.close()

    async def _take(self) -> _Connection | None:
        """A connection that was used before; None where a new one is needed.

        One on which the rest of an answer is still on its way counts for one: it is waited for, or closed. So there
        are never more connections than requests at the same time.
        """
        for connection in [*reversed(self._kept)]:
            if connection.rested.done() and self._took(connection):
                return connection
        if not self._kept:
            return None
        oldest = next(iter(self._kept))
        self._kept.pop(oldest).cancel()
        usable = False
        try:
            await asyncio.wait((oldest.rested,), timeout=min(REST_SECONDS, self._timeout / 4))
            usable = oldest.is_usable()
        finally:
            if not usable:
                oldest.close()
        return oldest if usable else None

    def _took(self, connection: _Connection) -> bool:
        """Takes a connection from the kept ones. False: it cannot be used, and is closed."""
        self._kept.pop(connection).cancel()
        if connection.is_usable():
            return True
        connection.close()
        return False

    # New connections

    async def _connect(self) -> _Connection:
        """A new connection; NoAnswer where there is none."""
        try:
            return await self._connected()
        except BaseException as error:
            self._addresses.clear()  # they may have changed
            if not isinstance(error, OSError):
                raise
            cause = _cause(error)
            _let_go(error)
        raise NoAnswer(cause)  # out here, so that it does not hold the error that it is about

    async def _connected(self) -> _Connection:
        made = _Connection(await self._dial(await self._resolve()), self._answer_bytes, self._forget)
        secure: dict[str, Any] = {}
        if self._tls is not None:
            name = (self._url.raw_host or "").removesuffix(".")
            secure = {"ssl": self._tls, "server_hostname": name, "ssl_shutdown_timeout": SHUTDOWN_SECONDS}
        self._open.add(made)
        try:
            await asyncio.get_running_loop().create_connection(lambda: made, sock=made.socket, **secure)
        except BaseException:
            self._open.discard(made)
            raise
        return made

    def _forget(self, connection: _Connection) -> None:
        """A connection is gone."""
        self._open.discard(connection)
        timer = self._kept.pop(connection, None)
        if timer is not None:
            timer.cancel()

    async def _resolve(self) -> list[AddressInfo]:
        """The addresses of the URL's host; each time another one comes first."""
        loop = asyncio.get_running_loop()
        async with self._resolving:
            if not self._addresses or loop.time() > self._resolved + DNS_SECONDS:
                host = self._url.raw_host or ""
                literal = ":" in host or re.fullmatch(r"[0-9.]+", host)
                self._addresses = deque(
                    await loop.getaddrinfo(
                        host,
                        self._url.port or 0,
                        type=socket.SOCK_STREAM,
                        flags=socket.AI_NUMERICHOST if literal else socket.AI_ADDRCONFIG,
                    )
                )
                self._resolved = loop.time()
            addresses = list(self._addresses)
            self._addresses.rotate(-1)
            return addresses

    async def _dial(self, addresses: Iterable[AddressInfo]) -> socket.socket:
        """A socket that is connected to the first of the addresses that answers (RFC 8305)."""
        waiting = deque(addresses)
        dials: set[asyncio.Task[socket.socket]] = set()
        cause = "no address"
        try:
            while waiting or dials:
                if waiting:
                    dials.add(asyncio.create_task(self._socket(waiting.popleft())))
                done, dials = await asyncio.wait(
                    dials, timeout=STAGGER_SECONDS if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                while done:
                    dial = done.pop()
                    error = dial.exception()
                    if error is None:
                        dials |= done
                        return dial.result()
                    if not isinstance(error, OSError):
                        raise error
                    cause = _cause(error)
        finally:
            for dial in dials:
                dial.cancel()
                dial.add_done_callback(_hang_up)
        raise NoAnswer(cause)

    async def _socket(self, address: AddressInfo) -> socket.socket:
        """A socket that is bound, and made known, before it connects."""
        family, kind, protocol, _, target = address
        made = _OwnSocket(family, kind, protocol)
        try:
            made.setblocking(False)
            if self._on_socket is not None:
                # The route to the target says which address a connection will come from; no packet is sent for that.
                with socket.socket(family, socket.SOCK_DGRAM) as probe:
                    probe.connect(target)
                    local = probe.getsockname()
                made.bind((local[0], 0, *local[2:]))
                made.tell(self._on_socket)
            await asyncio.get_running_loop().sock_connect(made, target)
        except BaseException:
            made.close()
            raise
        return made


def _hang_up(dial: asyncio.Task[socket.socket]) -> None:
    """Nobody wants this connection any more."""
    if not dial.cancelled() and dial.exception() is None:
        dial.result().close()


class _Connection(asyncio.Protocol):
    """One connection: a request, its answer, then the next request."""

    def __init__(self, own: socket.socket, answer_bytes: int, forget: Callable[[_Connection], None]) -> None:
        self.socket = own
        self.answer: Answer | None = None
        """To the last request, as soon as it is known."""
        self.rested: asyncio.Future[None]
        """Done when nothing more of the last answer is to come."""
        self._answer_bytes = answer_bytes
        self._forget = forget
        self._told: asyncio.Future[None]  # done when there is no more to wait for
        self._room: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._reading: Generator[None, None, bool] | None = None
        self._buffer = bytearray()
        self._left = 0
        self._heard = False
        self._sent = False
        self._end = ""

    @property
    def may_be_kept(self) -> bool:
        """Its request was sent and answered, and it is open."""
        return self._sent and self.answer is not None and self._transport is not None

    def is_usable(self) -> bool:
        """Whether another request may be sent now: the last answer was read to its end, and nothing came since."""
        if self._transport is None or self._reading is not None:
            return False
        try:
            self.socket.recv(1, socket.MSG_PEEK)  # an end, too: the loop may not have seen it yet
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        """Ends the connection; what was not sent stays unsent."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        if transport.get_extra_info("sslcontext") is None:
            transport.abort()
        else:
            transport.close()  # for so long as `ssl_shutdown_timeout` allows

    async def post(self, head: bytes, body: bytes) -> None:
        """Sends a request; returns when `answer` is known. NoAnswer where the connection ends before."""
        if self._transport is None:
            raise NoAnswer(self._end or CLOSED, silent=True)
        loop = asyncio.get_running_loop()
        self.answer = None
        self.rested, self._told = loop.create_future(), loop.create_future()
        self._left = self._answer_bytes
        self._heard = self._sent = False
        self._end = ""
        self._reading = self._read()
        next(self._reading)
        await self._send(head, body)
        await self._told
        if self.answer is None:
            raise NoAnswer(self._end, silent=not self._heard)

    async def _send(self, head: bytes, body: bytes) -> None:
        """Writes a request, or as much of it as the other side reads before it answers."""
        data = memoryview(head + body if len(body) < WRITE_BYTES else body)
        if len(data) == len(body):
            self._write(head)
        for at in range(0, len(data), WRITE_BYTES):
            if self._room is not None and not self._told.done():
                await self._room
            if self._told.done():
                return
            self._write(data[at : at + WRITE_BYTES])
        self._sent = True

    def _write(self, data: bytes | memoryview) -> None:
        if self._transport is not None:
            self._transport.write(data)

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def pause_writing(self) -> None:
        self._room = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._room is not None:
            self._room.set_result(None)
            self._room = None

    def data_received(self, data: bytes) -> None:
        if self._reading is None:  # nobody asked for this, or it stands behind an answer
            self.close()
            return
        self._heard = True
        self._left -= len(data)
        self._buffer += data
        usable = False
        try:
            next(self._reading)
            if self._left > 0:
                return
        except StopIteration as end:
            usable = end.value and not self._buffer and self._left > 0
        except _Unreadable:
            self._heard = self.answer is not None  # what is no status line is no answer, but the rest of the last one
        if usable:
            self._rest()
        else:
            self._end_with("no HTTP answer")
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        if self._reading is not None and self.answer is None and self._transport is not None:
            self._read_left()
        self._transport = None
        self._end_with(_cause(error) if error is not None else CLOSED)
        self._forget(self)

    def _read_left(self) -> None:
        """Where writing failed, the answer may have come before that, and still be unread."""
        if self._transport is None or self._transport.get_extra_info("sslcontext") is not None:
            return
        try:
            data = self.socket.recv(self._answer_bytes)
        except OSError:
            return
        if data:
            self.data_received(data)

    def _end_with(self, cause: str) -> None:
        """Nothing more is to come. Where there is no answer yet, `cause` says why."""
        self._end = self._end or cause
        self._buffer.clear()
        self._rest()

    def _rest(self) -> None:
        """The answer is read, as far as it will be."""
        if self._reading is not None:
            self._reading = None  # it refers to this connection
            self._tell()
            self.rested.set_result(None)

    def _tell(self) -> None:
        """The request need wait no longer."""
        if not self._told.done():
            self._told.set_result(None)
        self.resume_writing()

    # The answer

    def _read(self) -> Generator[None, None, bool]:
        """Reads one answer; goes on at each `yield` when there is more. Returns whether it was sound to its end."""
        while True:
            line = b""
            while not line:  # empty lines before an answer, as other clients allow them
                line = yield from self._line()
            match = STATUS_LINE.fullmatch(line)
            if match is None:
                raise _Unreadable
            status = int(match[2]) if len(match[2]) == 3 else 0  # a code of another length is as invalid as 000
            if not 100 <= status <= 199 or status == 101:
                break
            yield from self._fields()
        self.answer = Answer(status)
        if not is_passing(status):
            self._tell()
        fields, sound = yield from self._fields()
        self.answer = Answer(status, next((value.decode("latin-1") for value in fields.get(b"retry-after", ())), None))
        self._tell()
        connection = b",".join(fields.get(b"connection", ())).lower().split(b",")
        sound = sound and match[1] == b"1.1" and status != 101 and b"close" not in map(bytes.strip, connection)
        return (yield from self._body(status, fields)) and sound

    def _body(self, status: int, fields: Mapping[bytes, list[bytes]]) -> Generator[None, None, bool]:
        """Reads a body (RFC 9112 section 6.3). Returns whether its end is sure."""
        codings, lengths = fields.get(b"transfer-encoding", []), fields.get(b"content-length", [])
        if status in (204, 304):
            return True
        if codings or lengths:
            if len(codings) + len(lengths) > 1:
                return False
            if not codings and re.fullmatch(rb"[0-9]{1,18}", lengths[0]):
                yield from self._skip(int(lengths[0]))
                return True
            if codings and codings[0].lower() == b"chunked":
                yield from self._chunks()
                return True
            return False
        if status != 101:
            while True:  # until it is closed
                self._buffer.clear()
                yield
        return False

    def _chunks(self) -> Generator[None, None, None]:
        while True:
            match = CHUNK.fullmatch((yield from self._line()))
            if match is None:
                raise _Unreadable
            size = int(match[1], 16)
            if not size:
                break
            yield from self._skip(size)
            if (yield from self._line()):
                raise _Unreadable
        yield from self._fields()

    def _fields(self) -> Generator[None, None, tuple[dict[bytes, list[bytes]], bool]]:
        """The field lines up to the empty one, and whether each of them was one."""
        fields: dict[bytes, list[bytes]] = {}
        sound = True
        while line := (yield from self._line()):
            match = FIELD.fullmatch(line)
            if match is not None:
                fields.setdefault(match[1].lower(), []).append(match[2])
            else:
                sound = False
        return fields, sound

    def _line(self) -> Generator[None, None, bytes]:
        """The next line. At the bound of an answer, as much of it as there is."""
        while (end := self._buffer.find(b"\n")) < 0:
            if self._left <= 0:
                if not self._buffer:
                    raise _Unreadable
                end = len(self._buffer)
                break
            yield
        line = bytes(self._buffer[:end]).removesuffix(b"\r")
        del self._buffer[: end + 1]
        return line

    def _skip(self, count: int) -> Generator[None, None, None]:
        while count > len(self._buffer):
            count -= len(self._buffer)
            self._buffer.clear()
            yield
        del self._buffer[:count]


class _OwnSocket(socket.socket):
    """A socket that tells of its closing."""

    _on_socket: OnSocket | None = None
    _local: tuple[str, int] = ("", 0)

    def tell(self, on_socket: OnSocket) -> None:
        ip, port = self.getsockname()[:2]
        # A zone is no part of the address on the wire, and an IPv4 address mapped into IPv6 travels as IPv4.
        self._local = ip.partition("%")[0].removeprefix("::ffff:") if "." in ip else ip.partition("%")[0], port
        self._on_socket = on_socket
        on_socket(*self._local, True)

    def close(self) -> None:
        super().close()
        on_socket, self._on_socket = self._on_socket, None
        if on_socket is not None:
            on_socket(*self._local, False)


def _cause(error: BaseException) -> str:
    """What is wrong with a connection, in words that hold nothing of the request."""
    if isinstance(error, ssl.SSLError):
        return f"TLS: {getattr(error, 'verify_message', '') or error.reason}"
    if isinstance(error, socket.gaierror):
        return str(error.strerror)
    number = getattr(error, "errno", None)
    return os.strerror(number) if isinstance(number, int) and number > 0 else type(error).__name__


def _let_go(error: BaseException) -> None:
    """Breaks the cycles between an error and the frames that it went through, which hold what was posted.

    asyncio's own objects refer to the errors of a TLS connection, and would keep them until a full collection.
    """
    links: BaseException | None = error
    while links is not None:
        traceback.clear_frames(links.__traceback__)
        links.__traceback__ = None
        links = links.__context__
