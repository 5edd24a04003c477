"""The flow table: packets in, HTTP messages out."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol, TypeAlias, final, overload

COUNTERS: tuple[str, ...]
"""Names of `FlowTable.counters()`, in order."""

LINK_TYPES: frozenset[int]
"""The libpcap link types (DLT) that the core can read: 0, 1, 12, 14, 101, 108, 113, 228, 229, 276."""

Decode: TypeAlias = Callable[[bytes, str, int], tuple[bytes, str, bool, bool, str]]
"""Removes the content codings of a body.

Arguments: the body, its Content-Encoding, and the most bytes to keep. Returns the decoded body; the names of the
codings removed, or ""; whether the decoded body is longer than what was kept; whether a coding was broken or ended
early; and the reason why a coding was not removed, or "".
"""

@final
class RawMessage:
    """One HTTP/1.x message as the core read it, redacted. Made by FlowTable alone.

    Python objects are made on access only: `to_json()` renders the record straight from the core's memory, and each
    attribute is built when it is read. Both forms are redacted by the same rules.
    """

    message: Any
    """Free for the owner of this object; None until set. sniffer keeps the HttpMessage of this message here."""

    def to_json(self) -> bytes:
        """The record of docs/RECORD.md as JSON, without a line end; the same bytes each time."""
    def decode(self) -> str | None:
        """Removes the content codings of the body, if that was not tried before.

        `content` and `to_json()` do this themselves. A call before them chooses the thread that pays for it, and makes
        `weight` exact about the body's size. Returns the reason why a coding was not removed, "" if all were, and None
        if there was nothing to do. Several threads may call it at once.
        """
    @property
    def idempotency_key(self) -> str:
        """`<connectionId>-<exchange>-<direction>`."""
    @property
    def weight(self) -> int:
        """Estimated bytes of memory that this message takes, including its JSON, and `message` once that is set."""
    @property
    def direction(self) -> Literal["request", "response"]: ...
    @property
    def receiver(self) -> tuple[str, int]:
        """The server's address and port."""
    @property
    def destination(self) -> tuple[str, int]:
        """The client's address and port."""
    @property
    def timestamp(self) -> int:
        """Packet time of the message's first byte, microseconds since the epoch."""
    @property
    def end_timestamp(self) -> int:
        """Packet time of the message's last byte that was read, microseconds since the epoch."""
    @property
    def headers(self) -> dict[str, str | list[str]]:
        """A new dict of the redacted header fields.

        Names are in lower case, in order of first appearance. The values of a repeated name are joined with ", "
        (`cookie`: "; "); the value of `set-cookie` is always a list. Values are decoded as ISO-8859-1.
        """
    @property
    def connection_id(self) -> str:
        """32 hex digits; see docs/RECORD.md."""
    @property
    def exchange(self) -> int:
        """Number of the exchange within its connection."""
    @property
    def http_version(self) -> Literal["1.0", "1.1", "2"]: ...
    @property
    def method(self) -> str | None:
        """The request's method. `method`, `path` and `carried` of a response are None if its request was not seen."""
    @property
    def path(self) -> str | None:
        """The request target as sent, without user info and with the redacted parameters replaced."""
    @property
    def status_code(self) -> int | None:
        """None for a request, and where HTTP/2 does not tell it."""
    @property
    def reason(self) -> str | None:
        """The reason phrase; None for a request, and in HTTP/2."""
    @property
    def informational(self) -> tuple[int, ...]:
        """Status codes of the interim responses (1xx) that came before this response."""
    @property
    def latency_us(self) -> int | None:
        """Microseconds from the last byte of the request to the first byte of the response; None if not known."""
    @property
    def duration_us(self) -> int | None:
        """Microseconds from the first byte of the request to the last byte that was read of the response.

        None for a request, if the request was not seen, if bytes were lost after the last byte read, or if the response
        was read before the request.
        """
    @property
    def authority(self) -> str | None:
        """The host of the request, with its port if the request names one, in lower case and without user info.

        A response has that of its request. None if it is not known.
        """
    @property
    def body(self) -> bytes:
        """The first bytes of the body, without its transfer coding but with its content codings, and not redacted.

        At most `max_body` bytes, and none after the first missing byte.
        """
    @property
    def body_size(self) -> int:
        """Bytes of the body seen on the wire, without its transfer coding."""
    @property
    def body_truncated(self) -> bool:
        """True if `body` was cut by `max_body` or by the memory limit."""
    @property
    def content(
        self,
    ) -> tuple[str | None, Literal["base64"] | None, bool, str | None, int | Literal["all"] | None]:
        """(`body`, `body_encoding`, `body_truncated`, `body_decoded`, `body_redacted`) of the record.

        The body is redacted, and without the content codings that could be removed: as text if it is UTF-8, else in
        base64.
        """
    @property
    def trailers(self) -> dict[str, str | list[str]] | None: ...
    @property
    def incomplete(self) -> str | None:
        """Why the message is not whole, one of `marks.INCOMPLETE`; None for a whole message."""
    @property
    def missing_bytes(self) -> int | None:
        """Bytes of an incomplete message known to be missing; None if there are none, or their number is not known."""
    @property
    def resynced(self) -> bool:
        """True for the first message of a direction after an unknown number of bytes was lost."""
    @property
    def anomalies(self) -> tuple[str, ...]:
        """The anomalies of the message, from `marks.ANOMALIES` and in its order."""
    @property
    def trace_id(self) -> str | None:
        """Trace id of the request's `traceparent` field (W3C Trace Context); None if it has no valid one."""
    @property
    def span_id(self) -> str | None:
        """Parent id of the same field."""
    @property
    def headers_truncated(self) -> bool:
        """True if values of the head were cut before the record was read back."""
    @property
    def placed(self) -> tuple[str | None, str | None, str | None] | None:
        """(pod, namespace, node) of a record that was read back, if it has any."""
    @property
    def proxied(self) -> tuple[tuple[str, int], tuple[str, int]] | None:
        """(source, destination) as the connection's PROXY protocol header names them; None if it names none."""

    @property
    def stream_id(self) -> int | None:
        """The stream of HTTP/2 (RFC 9113 section 5.1.1); None in HTTP/1."""
    @property
    def headers_unknown(self) -> int | None:
        """Fields that are left out because their name or value is not known; None if there are none."""
    @property
    def route_id(self) -> str | None:
        """Stands for the path if it is not known; requests of a connection with the same unknown path have the same."""
    @property
    def reset(self) -> str | None:
        """The name of the error code with which RST_STREAM ended the message (RFC 9113 section 7)."""
    @property
    def pushed(self) -> bool:
        """True if the server has promised the request (RFC 9113 section 8.4)."""

    @property
    def carried(self) -> tuple[str | None, ...] | None:
        """The request's values of the header fields that `carry` names, for the request and for its response.

        They are not redacted: use them for decisions, never for output.
        """

@final
class LineBlock(Sequence[RawMessage]):
    """Messages in their order, most of them as JSON lines already. Made by FlowTable alone; cannot be changed.

    A message that needs Python is a RawMessage in it: one with content codings to remove, more than 64 fields, or a
    line so long that it is better not made in advance. Any other has only `to_json()`, `weight` and `decode()`.
    `Lines`, `coded`, `weights`, `weigh` and `latencies` take a block without an object for each line. A part of a block
    is a copy. As a buffer it gives its lines.
    """

    @overload
    def __getitem__(self, at: int) -> RawMessage: ...
    @overload
    def __getitem__(self, at: slice) -> LineBlock: ...
    def __len__(self) -> int: ...
    def __add__(self, behind: LineBlock) -> LineBlock: ...

class _Record(Protocol):
    def to_json(self) -> bytes: ...

class _Weighed(Protocol):
    @property
    def weight(self) -> int: ...

@final
class Lines:
    """Renders messages as JSON lines, many at a time, without the GIL. Only one thread may use it, as it has a buffer.

    `keep`: each message keeps its JSON for later calls of its `to_json()`. `most`: limit of a line in bytes, including
    the line end; a longer line is shortened as docs/DELIVERY.md says. 0: no limit.
    """

    def __init__(self, *, keep: bool = False, most: int = 0) -> None: ...
    def take(self, batch: Sequence[_Record], first: int, size: int) -> tuple[int, bytes | memoryview]:
        """Renders messages from number `first` on; returns how many it rendered, and their lines.

        It stops after 512 messages, or once the lines have `size` bytes, but renders at least one if there is one. A
        line is the result of `to_json()`, shortened if `most` asks for it, and a line end. Of a LineBlock that has only
        lines, which need not be shortened, it copies none, and takes more than 512.
        """

def coded(messages: Iterable[_Weighed]) -> list[RawMessage]:
    """The RawMessages whose body has content codings that decode() has not tried to remove yet."""

def weights(messages: Sequence[_Weighed]) -> list[int]:
    """The `weight` of each message."""

def weigh(messages: Sequence[_Weighed]) -> int:
    """The weight of all messages together."""

def latencies(messages: Sequence[RawMessage]) -> list[int]:
    """`latency_us` of the messages that have one. The order is that of the messages, but of a block the objects'
    latencies come first.
    """

class _Recorded(Protocol):
    """What `Recorded` reads of a record: the attributes of sniffer's HttpMessage."""

    @property
    def connection_id(self) -> str: ...
    @property
    def direction(self) -> str: ...

@final
class Recorded:
    """Makes messages of records that were written before. Only one thread may use it.

    They are redacted by the options given here, so what was not redacted before may be now. A mark stays as it is.
    """

    def __init__(
        self,
        *,
        max_body: int = 65536,
        carry: tuple[str, ...] = (),
        redact_headers: Iterable[str] = (),
        redact_query: Iterable[str] = (),
        redact_body: Iterable[str] = (),
        redact_key: bytes | None = None,
        placement: tuple[str | None, str | None, str | None] | None = None,
        decode: Decode | None = None,
    ) -> None:
        """The arguments are those of FlowTable. `placement` is for records that have none.

        ValueError: more than 4 names in `carry`.
        """
    def message(self, record: _Recorded, carried: Sequence[str | None] | None = None) -> RawMessage:
        """The message that the core would have made: with the same options it gives the same JSON.

        `record` has the attributes of an HttpMessage. `carried`: the values of the fields that `carry` names, in its
        order. ValueError: a value that no record has.
        """

def connection_hash(receiver: tuple[str, int], destination: tuple[str, int]) -> float:
    """A number from 0 to 1 that is the same for both directions between two ends: those below the sample rate are read.

    ValueError: an address that is none.
    """

@final
class FlowTable:
    """All connections of one capture. Only one thread may use it at a time. No traffic makes it raise.

    Expiry is measured in packet time. For a file (`clock_us` is None) that is the greatest stamp so far; a stamp that
    is further ahead than the idle timeout counts only if the next stamp is near it. In a live capture packet time
    follows the stamps, and between packets the monotonic clock. It is never more than 1 s ahead of the monotonic clock,
    so setting the system clock expires nothing.
    """

    def __init__(
        self,
        *,
        linktype: int,
        ports: Iterable[int],
        max_body: int = 65536,
        max_head: int = 65536,
        max_flows: int = 10_000,
        idle_timeout_us: int = 300_000_000,
        memory_limit: int = 67_108_864,
        sample_rate: float = 1.0,
        carry: tuple[str, ...] = (),
        redact_headers: Iterable[str] = (),
        redact_query: Iterable[str] = (),
        redact_body: Iterable[str] = (),
        redact_key: bytes | None = None,
        placement: tuple[str | None, str | None, str | None] | None = None,
        decode: Decode | None = None,
        lines: bool = False,
    ) -> None:
        """`max_body` and `max_head` are bytes kept of a message, `memory_limit` is bytes of all flows together.

        `carry`: at most 4 names of request header fields, in lower case. `redact_headers`, `redact_query` and
        `redact_body`: names of header fields, of URL parameters and of keys in bodies, in any case. Their values leave
        the core only as `[REDACTED]`, or, with `redact_key`, as a keyed hash and their length. `placement`: (pod,
        namespace, node). Without `decode` content codings are not removed.
        `lines`: messages come as LineBlocks, rendered where they end, in place of lists of RawMessages.
        ValueError: a link type that is not in LINK_TYPES, a port that is not in 1-65535, more than 4 names in `carry`,
        `lines` with `redact_key`.
        """
    def feed(
        self, packets: bytes, index: bytes, first: int = 0, clock_us: int | None = None
    ) -> tuple[Sequence[RawMessage], int]:
        """Feeds a batch of packets as pcapy's `next_batch` returns it, from packet number `first` on.

        `index` holds four native u32 for each packet: seconds, microseconds, offset in `packets`, captured length.
        `clock_us` is the monotonic clock of a live capture in microseconds, and None for a file.
        Returns the messages that have ended and the number of the next packet to feed. That is less than the number of
        packets if many messages have ended or the memory limit was reached: then call again from there.
        Microseconds of 2^32 - 1 mark a stamp that does not fit: the packet is counted and not read. An entry that
        points outside of `packets` is counted as malformed.
        ValueError: `first` is negative.
        """
    def tick(self, clock_us: int) -> Sequence[RawMessage]:
        """Lets time pass in an idle live capture, up to the monotonic `clock_us`; returns the messages this ended."""
    def flush(self) -> Sequence[RawMessage]:
        """Ends every flow, in order of creation, and returns their messages; open ones are `incomplete: "stopped"`.

        The table is empty afterwards.
        """
    def exclude(self, address: str, port: int) -> None:
        """Leaves out later flows with this local socket as one end, a delivery of ours. Call it before connecting."""
    def readmit(self, address: str, port: int) -> None:
        """Undoes one call of `exclude`, for flows that begin later."""
    def counters(self) -> dict[str, int]:
        """Totals since the table was made, by the names in COUNTERS; docs/internals/COUNTERS.md explains them."""
    def gauges(self) -> dict[str, int]:
        """Current figures.

        `flows`; `held_bytes`: payload held out of order; `memory_bytes` and `memory_blocks`: allocations;
        `messages_open`; `messages_long`: open for 60 s; `packets_waiting`: 1 while a packet of a file waits for the
        stamp of the next.
        """
    def events(self) -> list[tuple[str, tuple[str, int], tuple[str, int]]]:
        """(kind, receiver, destination) of each event worth a log line since the last call.

        Kinds: `tls`, `http2`, `other-protocol`, `undecided`, `tunnel`, `snapped`, `long-message`. At most 256 events
        are kept between two calls; the others are counted as dropped.
        """
