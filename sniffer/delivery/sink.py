"""What a sink is, and what it may answer when it is given a batch.

A sink is one small class: a name and ``deliver``. It tells what became of a batch by returning (delivered) or by
raising ``Undelivered`` or one of its subclasses. It never counts and never queues: its lane does that
(``sniffer.delivery.lane``). docs/DELIVERY.md shows how to add one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from sniffer.record.message import HttpMessage

Reason = Literal["full", "yielded", "retries", "deadline", "closed", "error", "evicted"]
"""Why a lane drops: its queue was full, it gave way to other lanes, every retry failed, the drain's deadline came, the
sink is gone, it failed; the spool was full of newer messages."""


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
