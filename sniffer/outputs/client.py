"""A small HTTP/1.1 client for outputs that posts to one URL and takes the status line as the answer.

    client = Client(url, fields, timeout=10.0, connections=8, answer_bytes=65536)
    answer = await client.post(body, key)        # Answer(status, retry_after), or NoAnswer

A general client returns an answer whole or fails: one header line that it cannot parse turns a 2xx into an error, and
the message is posted again. Here the answer is known as soon as its status line was read. The rest is read for two
purposes only: for `Retry-After`, and to decide whether the connection can carry another request. If that is uncertain,
the connection is closed.
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
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any, Final, cast

from yarl import URL

WRITE_BYTES: Final = 64 * 1024
"""Bytes of a body that are given to the transport at a time."""
IDLE_SECONDS: Final = 15.0
"""A connection that is idle for this long is closed."""
REST_SECONDS: Final = 0.1
"""The next request waits at most this long for the rest of the last answer; a new connection would cost as much."""
DNS_SECONDS: Final = 30.0
"""Resolved addresses are used for this long."""
STAGGER_SECONDS: Final = 0.25
"""If an address has not answered within this time, the next one is tried as well (RFC 8305 section 5)."""
SHUTDOWN_SECONDS: Final = 1.0
"""Time for the peer of a TLS connection to answer the close."""

STATUS_LINE: Final = re.compile(rb"HTTP/([0-9]+(?:\.[0-9]+)?)[ \t]+([0-9]+)(?:[ \t].*)?", re.DOTALL)
FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00\r\n]*?)[ \t]*")
CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;.*)?")

CLOSED: Final = "closed without an answer"

AddressInfo = tuple[int, int, int, str, Any]
"""What getaddrinfo gives for one address."""
OnSocket = Callable[[str, int, bool], None]
"""Called with the local address and port of each socket, and True before it connects or False after it is closed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer. `retry_after` is the value of `Retry-After`, if the status is transient and the field was read."""

    status: int
    retry_after: str | None = None
    content: bytes = b""
    """The body, as far as it was read; empty where the client does not keep it."""


class NoAnswer(Exception):
    """No connection could be made, or it ended before a status line was read. `cause` holds nothing of the request.

    `silent`: no byte of an answer was read.
    """

    def __init__(self, cause: str, *, silent: bool = False) -> None:
        super().__init__(cause)
        self.cause = cause
        self.silent = silent


class _Unreadable(Exception):
    """The answer is not HTTP/1, or too long."""


def is_passing(status: int) -> bool:
    """Whether the status is transient: a later try may succeed."""
    return 500 <= status <= 599 or status in (408, 429)


class Client:
    """Posts to `url` over persistent connections.

    If a kept connection closes without a byte of an answer, the request is posted again at once, on a new connection
    and within the same `timeout`: the peer had closed the old one while the request was on its way (RFC 9110 section
    9.2.2). Bytes where the status line should be are left over from the last answer, and count as no answer. Therefore
    each request must carry a key by which the receiver recognises a repetition.

    At most `connections` are open; a further request waits for one, within its timeout. At most `answer_bytes` of an
    answer are read; a longer answer ends its connection.
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
        keeps: bool = False,
    ) -> None:
        """`keeps`: an answer is waited for to its end, and its body is kept. Its status counts without that as well."""
        self._url = url
        self._keeps = keeps
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
        self._kept: dict[_Connection, asyncio.TimerHandle] = {}  # idle ones, the newest last

    async def close(self) -> None:
        """Closes every connection, after a short wait for answers that are still being received."""
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
        return replace(connection.answer, content=bytes(connection.content)) if self._keeps else connection.answer

    async def _is_answered(self, connection: _Connection, head: bytes, body: bytes) -> bool:
        """Posts on a kept connection; False if it was closed without a byte of an answer."""
        try:
            await connection.post(head, body)
        except NoAnswer as error:
            if not error.silent:
                raise
            return False
        return True

    # Connections that are kept

    def _keep(self, connection: _Connection) -> None:
        """Keeps a connection after its request, if it can be used again. The rest of the answer may still arrive."""
        if connection.may_be_kept:
            loop = asyncio.get_running_loop()
            self._kept[connection] = loop.call_later(IDLE_SECONDS, connection.close)
        else:
            connection.close()

    async def _take(self) -> _Connection | None:
        """A kept connection; None if a new one is needed.

        If all kept connections are still receiving the rest of an answer, the oldest is waited for, or closed. So there
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
        """Takes a connection out of the kept ones. If it cannot be used it is closed, and this is False."""
        self._kept.pop(connection).cancel()
        if connection.is_usable():
            return True
        connection.close()
        return False

    # New connections

    async def _connect(self) -> _Connection:
        """Opens a connection. NoAnswer if that fails."""
        try:
            return await self._connected()
        except BaseException as error:
            self._addresses.clear()  # they may have changed
            if not isinstance(error, OSError):
                raise
            cause = _cause(error)
            _let_go(error)
        raise NoAnswer(cause)  # outside of the handler, so that it holds no reference to the first error

    async def _connected(self) -> _Connection:
        made = _Connection(await self._dial(await self._resolve()), self._answer_bytes, self._forget, keeps=self._keeps)
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
        """Forgets a connection that has ended."""
        self._open.discard(connection)
        timer = self._kept.pop(connection, None)
        if timer is not None:
            timer.cancel()

    async def _resolve(self) -> list[AddressInfo]:
        """The addresses of the URL's host, rotated by one with each call."""
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
        """A socket connected to the address that answers first (RFC 8305)."""
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
        """A connected socket. It is bound, and `on_socket` called, before it connects."""
        family, kind, protocol, _, target = address
        made = _OwnSocket(family, kind, protocol)
        try:
            made.setblocking(False)
            if self._on_socket is not None:
                # Connecting a UDP socket sends nothing, but selects the local address by the route.
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
    """Closes a connection that was made too late."""
    if not dial.cancelled() and dial.exception() is None:
        dial.result().close()


class _Connection(asyncio.Protocol):
    """One connection: one request at a time, each after the answer to the last."""

    def __init__(
        self, own: socket.socket, answer_bytes: int, forget: Callable[[_Connection], None], *, keeps: bool
    ) -> None:
        self.socket = own
        self.answer: Answer | None = None
        """The answer to the last request, as soon as it is known."""
        self.rested: asyncio.Future[None]
        """Done when the last answer was read, as far as it will be."""
        self.content = bytearray()
        """The body of that answer, if it is kept."""
        self._keeps = keeps
        self._answer_bytes = answer_bytes
        self._forget = forget
        self._told: asyncio.Future[None]  # done when `post` need wait no longer
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
        """Whether another request may be sent now: the last answer was read to its end, and no byte has come since."""
        if self._transport is None or self._reading is not None:
            return False
        try:
            self.socket.recv(1, socket.MSG_PEEK)  # sees a close, too, which the loop may not have noticed yet
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        """Ends the connection. Bytes that are not sent yet are discarded."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        if transport.get_extra_info("sslcontext") is None:
            transport.abort()
        else:
            transport.close()  # bounded by `ssl_shutdown_timeout`

    async def post(self, head: bytes, body: bytes) -> None:
        """Sends a request; returns when `answer` is known. NoAnswer where the connection ends before."""
        if self._transport is None:
            raise NoAnswer(self._end or CLOSED, silent=True)
        loop = asyncio.get_running_loop()
        self.answer = None
        self.content.clear()
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
        """Writes a request; stops early if the answer comes before all of it is written."""
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
        if self._reading is None:  # bytes without a request, or behind an answer
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
            self._heard = self.answer is not None  # not a status line: left over from the last answer
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
        """Reads an answer that arrived before a write failed."""
        if self._transport is None or self._transport.get_extra_info("sslcontext") is not None:
            return
        try:
            data = self.socket.recv(self._answer_bytes)
        except OSError:
            return
        if data:
            self.data_received(data)

    def _end_with(self, cause: str) -> None:
        """Ends the reading. `cause` is why there is no answer, if there is none."""
        self._end = self._end or cause
        self._buffer.clear()
        self._rest()

    def _rest(self) -> None:
        """Marks the answer as read, as far as it will be."""
        if self._reading is not None:
            self._reading = None  # it refers to this connection
            self._tell()
            self.rested.set_result(None)

    def _tell(self) -> None:
        """Lets `post` return."""
        if not self._told.done():
            self._told.set_result(None)
        self.resume_writing()

    # The answer

    def _read(self) -> Generator[None, None, bool]:
        """Parses one answer, resumed with each arrival of data. Returns whether all of it was well-formed."""
        while True:
            line = b""
            while not line:  # empty lines before an answer are skipped, as by other clients
                line = yield from self._line()
            match = STATUS_LINE.fullmatch(line)
            if match is None:
                raise _Unreadable
            status = int(match[2]) if len(match[2]) == 3 else 0  # a code of another length is as invalid as 000
            if not 100 <= status <= 199 or status == 101:
                break
            yield from self._fields()
        self.answer = Answer(status)
        if not is_passing(status) and not self._keeps:
            self._tell()
        fields, sound = yield from self._fields()
        self.answer = Answer(status, next((value.decode("latin-1") for value in fields.get(b"retry-after", ())), None))
        if not self._keeps:
            self._tell()
        connection = b",".join(fields.get(b"connection", ())).lower().split(b",")
        sound = sound and match[1] == b"1.1" and status != 101 and b"close" not in map(bytes.strip, connection)
        return (yield from self._body(status, fields)) and sound

    def _body(self, status: int, fields: Mapping[bytes, list[bytes]]) -> Generator[None, None, bool]:
        """Reads a body (RFC 9112 section 6.3). Returns whether its end is certain."""
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
            while True:  # the body ends with the connection
                self._keep_content(len(self._buffer))
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
        """The fields up to the empty line, and whether every line was well-formed."""
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
        """The next line; at the bound of the answer's length, what there is of it."""
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
            self._keep_content(len(self._buffer))
            self._buffer.clear()
            yield
        self._keep_content(count)
        del self._buffer[:count]

    def _keep_content(self, count: int) -> None:
        if self._keeps:
            self.content += self._buffer[:count]


class _OwnSocket(socket.socket):
    """A socket that reports its closing."""

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


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds that a `Retry-After` field asks for: a number or a date (RFC 9110 section 10.2.3); None for neither."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        date = parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):  # not a date, or one out of range
        return None
    return max(0.0, date - now)


def _cause(error: BaseException) -> str:
    """The cause of a connection's failure, in words that hold nothing of the request."""
    if isinstance(error, ssl.SSLError):
        return f"TLS: {getattr(error, 'verify_message', '') or error.reason}"
    if isinstance(error, socket.gaierror):
        return str(error.strerror)
    number = getattr(error, "errno", None)
    return os.strerror(number) if isinstance(number, int) and number > 0 else type(error).__name__


def _let_go(error: BaseException) -> None:
    """Breaks the reference cycles between an error and its frames, which hold what was posted.

    asyncio's objects refer to the errors of a TLS connection, and would keep them until a full garbage collection.
    """
    links: BaseException | None = error
    while links is not None:
        traceback.clear_frames(links.__traceback__)
        links.__traceback__ = None
        links = links.__context__
