"""Sinks: where messages go, and what a sink may say of a batch.

A sink is one small class: a name and ``deliver``. It tells what became of a batch by returning (delivered) or by
raising ``Undelivered`` or one of its subclasses. It never counts and never queues: its lane does (``sniffer.lanes``).
docs/DELIVERY.md shows how to add one.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import PurePath
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from sniffer.message import HttpMessage

T = TypeVar("T")

Reason = Literal["full", "yielded", "retries", "deadline", "closed", "error", "evicted"]
"""Why a lane drops: its queue was full, it gave way to other lanes, every retry failed, the drain's deadline came, the
sink is gone, it failed; the spool was full of newer messages."""

RETRY_DELAYS: Final = (1.0, 2.0, 4.0)
"""Seconds before each further try."""
LONGEST_RETRY_AFTER: Final = 60.0
"""Seconds; a receiver that asks for more is asked again after this."""
INSTANCE_HEADER: Final = "Tcp-Sniffer-Instance"
"""Names the sniffer that posts, so that another one can leave its deliveries out."""


class Undelivered(Exception):
    """The batch was not delivered, but for `delivered` of its members, and `failed` of them ended in errors.

    `cause` is a few words for the log; it never holds anything of a message, nor a secret.
    """

    reason: Reason = "error"

    def __init__(self, cause: str = "", *, delivered: int = 0, failed: int = 0) -> None:
        super().__init__(cause)
        self.cause = cause
        self.delivered = delivered
        self.failed = failed


class Failed(Undelivered):
    """The sink failed on the rest, and may do better on the next batch."""


class Rejected(Undelivered):
    """A final answer: no further try would help."""


class TooLarge(Rejected):
    """Final for a batch of this size; its halves may be taken (HTTP 413)."""


class Retry(Undelivered):
    """A later try may succeed, no earlier than `after` seconds from now where the receiver said so."""

    reason: Reason = "retries"

    def __init__(self, cause: str = "", *, after: float | None = None) -> None:
        super().__init__(cause)
        self.after = after


class Cut(Undelivered):
    """Time is up. Raised in place of the CancelledError that ended a delivery by a sink that knows how far it came."""

    reason: Reason = "deadline"


class SinkClosed(Undelivered):
    """Nothing can be delivered any more: the lane ends."""

    reason: Reason = "closed"


class Record(Protocol):
    """A message on its way to a sink: redacted, and able to render itself. Cannot be changed."""

    def to_json(self) -> bytes:
        """The message as JSON, without a line end. Rendered once: every sink gets the same bytes."""

    @property
    def idempotency_key(self) -> str:
        """The same each time that this message is sent, and different for any other message."""

    @property
    def connection_id(self) -> str:
        """The same for every message of one TCP connection."""

    @property
    def exchange(self) -> int:
        """Number within the connection; a request and its response share it."""

    @property
    def direction(self) -> Literal["request", "response"]:
        """Which of the two it is."""

    @property
    def weight(self) -> int:
        """About how many bytes it takes while it waits, its JSON included. Renders nothing."""

    @property
    def message(self) -> HttpMessage:
        """The Python object. Made only for sinks that say `wants_messages`; one for all of them."""


class Sink(Protocol):
    """A destination of messages. Subclass it, give it a `name` and a `deliver`; the rest may stay."""

    name: str
    """One word, for logs and metrics."""

    wants_messages: bool = False
    """Whether `deliver` looks at the records' `message`. What JSON is enough for costs far less."""

    worked: float = 0.0
    """Seconds of processor time that its work has taken. Only a sink whose lane gives way need say."""

    async def open(self) -> None:
        """Called once, on the loop, before the first batch. An exception ends the start."""
        return

    async def deliver(self, batch: Sequence[Record]) -> None:
        """Delivers a batch; returning means that all of it is delivered. Raises `Undelivered` or a subclass.

        Never called again before it has returned, unless the lane was given a queue with more workers. It is cancelled
        at the deadline of the drain. Any other exception counts the batch as `dropped{error}`.
        """
        raise NotImplementedError

    def drain(self, deadline: float) -> None:  # noqa: ARG002 - for those that wait
        """The sniffer stops: whatever is waiting has until `deadline`, in `time.monotonic` seconds.

        May be called more than once, with an earlier deadline.
        """
        return

    async def close(self) -> None:
        """Called once, after the drain."""
        return


def where(error: BaseException) -> str:
    """The exception's type and place, for a log line. Its text is left out: it may quote the message."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__
    code = trace.tb_frame.f_code
    return f"{type(error).__name__} at {PurePath(code.co_filename).name}:{trace.tb_lineno} in {code.co_name}"


class Retrying(Sink):
    """Tries another sink's `Retry` again after 1 s, 2 s and 4 s, or what the receiver asked for where that is longer.

    In a drain a wait that is under way ends at once, and one that would pass the deadline is not begun.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.name = sink.name
        self.wants_messages = sink.wants_messages
        self._sink = sink
        self._clock = clock
        self._sleep = sleep
        self._deadline: float | None = None
        self._waits: set[asyncio.Future[object]] = set()

    async def open(self) -> None:
        """Opens the wrapped sink."""
        await self._sink.open()

    async def close(self) -> None:
        """Closes the wrapped sink."""
        await self._sink.close()

    def drain(self, deadline: float) -> None:
        """From now on no wait passes the deadline; those under way at the first call end at once."""
        if self._deadline is None:
            for wait in self._waits:
                wait.cancel()
        self._deadline = deadline
        self._sink.drain(deadline)

    async def deliver(self, batch: Sequence[Record]) -> None:
        """Delivers a batch, in as many tries as it may take. The members stay the same over them."""
        for delay in RETRY_DELAYS:
            try:
                await self._sink.deliver(batch)
            except Retry as answer:
                await self._wait(max(delay, min(answer.after or 0.0, LONGEST_RETRY_AFTER)), answer.cause)
            else:
                return
        await self._sink.deliver(batch)

    async def _wait(self, seconds: float, cause: str) -> None:
        if self._deadline is not None and self._clock() + seconds > self._deadline:
            raise Cut(cause)
        wait = asyncio.ensure_future(self._sleep(seconds))
        self._waits.add(wait)
        try:
            await asyncio.wait((wait,))  # unlike awaiting it, this outlives its being cancelled by `drain`
        finally:
            self._waits.discard(wait)
            wait.cancel()


class CallThread:
    """A daemon thread that makes calls in turn. The threads of a pool are joined at exit, however stuck they are."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], object], asyncio.Future[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def end(self) -> None:
        """Lets the thread end when its calls are made. Does not wait for that."""
        self._calls.put(None)

    async def call(self, function: Callable[[], T]) -> T:
        """Makes a call on the thread. Returns what it returns, and raises what it raises."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._calls.put((function, done))
        try:
            return await done
        finally:
            del done  # what it raised refers to this frame: a cycle that would hold the batch

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            function, done = call
            result: object = None
            error: BaseException | None = None
            try:
                result = function()
            except BaseException as raised:  # the thread goes on, whoever called gets it
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop has ended without this thread
                done.get_loop().call_soon_threadsafe(_resolve, done, result, error)
            # While it waits for the next call the thread holds nothing of the last one.
            del call, function, done, result, error


def _resolve(done: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
