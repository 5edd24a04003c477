"""What a sink is, and what it may answer when it is given a batch.

A sink is one small class: a name and `deliver`. It tells what became of a batch by returning (delivered) or by raising
`Undelivered` or one of its subclasses. It never counts, queues or tries again: its lane does that
(`sniffer.delivery.lane`). docs/DELIVERY.md shows how to add one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Final, Literal, Protocol

if TYPE_CHECKING:
    from sniffer.record.message import HttpMessage

TRAIL: Final = 20
"""Calls that are logged of an exception."""

Reason = Literal["full", "yielded", "retries", "deadline", "closed", "error", "evicted"]
"""Why a lane drops a message: the lane was full, it gave way to other lanes, every try failed, the drain came to its
deadline, the sink is gone, the sink failed, the spool was full of newer messages."""


class Undelivered(Exception):
    """The batch was not delivered, or not all of it.

    Its first `delivered` messages were delivered; the next `failed` ended in errors; the rest ends for `reason`.
    `cause` is a few words for the log. It must not hold any part of a message, nor a secret. `trail` is that of an
    exception behind it, for the log too.
    """

    reason: Reason = "error"
    trail: tuple[str, ...] = ()

    def __init__(self, cause: str = "", *, delivered: int = 0, failed: int = 0) -> None:
        super().__init__(cause)
        self.cause = cause
        self.delivered = delivered
        self.failed = failed


class Failed(Undelivered):
    """The sink failed on the rest. It may take the next batch."""


class Rejected(Undelivered):
    """The receiver refused the rest for good: no further try would help."""


class TooLarge(Rejected):
    """The receiver refused a batch of this size for good (HTTP 413). It may take the halves."""


class Retry(Undelivered):
    """A later try may succeed. `after`: the receiver asks to wait for so many seconds (RFC 9110 section 10.2.3)."""

    reason: Reason = "retries"

    def __init__(self, cause: str = "", *, after: float | None = None) -> None:
        super().__init__(cause)
        self.after = after


class Cut(Undelivered):
    """The deadline has come. A sink that knows how far it came raises this in place of the CancelledError it got."""

    reason: Reason = "deadline"


class SinkClosed(Undelivered):
    """Nothing can be delivered any more. The lane ends."""

    reason: Reason = "closed"


class Record(Protocol):
    """A message on its way to a sink. It is redacted, can render itself, and cannot be changed."""

    def to_json(self) -> bytes:
        """The message as JSON, without a line end. Rendered once: every sink gets the same bytes."""

    @property
    def idempotency_key(self) -> str:
        """A key that is the same each time this message is sent, and different for any other message."""

    @property
    def connection_id(self) -> str:
        """An identifier that all messages of one TCP connection share."""

    @property
    def exchange(self) -> int:
        """The number of the exchange within its connection. A request and its response share it."""

    @property
    def direction(self) -> Literal["request", "response"]:
        """Whether it is a request or a response."""

    @property
    def weight(self) -> int:
        """About how many bytes the message takes while it waits, its JSON included. Renders nothing."""

    @property
    def message(self) -> HttpMessage:
        """The Python object. It is made once, and only if a sink has `wants_messages`."""


class Sink(Protocol):
    """A destination of messages. A subclass needs a `name` and a `deliver`; the other methods may stay as they are."""

    name: str
    """One word, for logs and metrics."""

    wants_messages: bool = False
    """Whether `deliver` reads the `message` of records. A sink for which the JSON is enough costs far less."""

    worked: float = 0.0
    """Seconds of processor time that its work has taken. Only a sink whose lane gives way must count them."""

    async def open(self) -> None:
        """Called once, on the event loop, before the first batch. An exception ends the start."""
        return

    async def deliver(self, batch: Sequence[Record]) -> None:
        """Delivers a batch. Returning means that all of it is delivered. Raises `Undelivered` or a subclass otherwise.

        It is not called again before it has returned, unless the lane has a queue with several workers. It is cancelled
        at the deadline of the drain. Any other exception counts the batch as `dropped_error`.
        """
        raise NotImplementedError

    def drain(self, deadline: float) -> None:  # noqa: ARG002 - for sinks that wait
        """The sniffer stops: what is under way has until `deadline`, in `time.monotonic` seconds.

        May be called again, with an earlier deadline.
        """
        return

    async def close(self) -> None:
        """Called once, after the drain. Cancelled after 2 s."""
        return


def where(error: BaseException) -> str:
    """The type of an exception and the place that raised it, for the log. Its text may quote a message."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__
    code = trace.tb_frame.f_code
    return f"{type(error).__name__} at {PurePath(code.co_filename).name}:{trace.tb_lineno} in {code.co_name}"


def trail(error: BaseException) -> tuple[str, ...]:
    """The calls that led to an exception, the outermost first and the last TRAIL of them, without any value."""
    calls: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        calls.append(f"{PurePath(code.co_filename).name}:{trace.tb_lineno} in {code.co_name}")
        trace = trace.tb_next
    return tuple(calls[-TRAIL:])
