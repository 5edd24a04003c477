"""The flow table: packets in, HTTP messages out."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol, TypeAlias, final

COUNTERS: tuple[str, ...]
"""Names of `FlowTable.counters()`, in order."""

LINK_TYPES: frozenset[int]
"""The libpcap link types (DLT) that can be read: 0, 1, 12, 14, 101, 108, 113, 228, 229, 276."""

Decode: TypeAlias = Callable[[bytes, str, int], tuple[bytes, str, bool, bool, str]]
"""Removes content codings: (body, the Content-Encoding, most bytes to keep) -> (body, names of the codings removed or
"", whether there is more than was kept, whether a coding was broken or ended early, why one was left or "")."""

@final
class RawMessage:
    """One HTTP/1.x message as the core read it, redacted. Made by FlowTable alone.

    Nothing is made of it before it is asked for: `to_json()` renders the record straight from the core's memory; the
    attributes are built from the same redacted fields at the first access.
    """

    message: Any
    """For the owner: None until set. sniffer keeps the HttpMessage of this message here."""

    def to_json(self) -> bytes:
        """The record of docs/RECORD.md as JSON, without a line end; the same bytes each time."""
    def decode(self) -> str | None:
        """Removes the content codings of the body, once: what is asked for later is made of it, and `weight` is known.

        Whoever is asked for the body first does so else. Returns why a coding was left, "" where none was, and None
        where there was nothing to do. May be called by several threads.
        """
    @property
    def idempotency_key(self) -> str:
        """`<connectionId>-<exchange>-<direction>`."""
    @property
    def weight(self) -> int:
        """About how many bytes of memory this message takes, its JSON included, and its `message` once set."""
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
        """Packet time of the first byte, microseconds since the epoch."""
    @property
    def end_timestamp(self) -> int:
        """Packet time of the last byte that was read, microseconds since the epoch."""
    @property
    def headers(self) -> dict[str, str | list[str]]:
        """A new dict: names lower-cased, in order of first appearance; a repeated name is joined with ", " (`cookie`
        with "; "); `set-cookie` is always a list. Bytes are shown as ISO-8859-1. Redacted as the table was told to."""
    @property
    def connection_id(self) -> str:
        """32 hex digits; see docs/RECORD.md."""
    @property
    def exchange(self) -> int: ...
    @property
    def http_version(self) -> Literal["1.0", "1.1"]: ...
    @property
    def method(self) -> str | None:
        """None for a response whose request was not seen; so are `path` and `carried`."""
    @property
    def path(self) -> str | None:
        """The request target as sent, without user info; parameters redacted as the table was told to."""
    @property
    def status_code(self) -> int | None:
        """None for a request."""
    @property
    def reason(self) -> str | None: ...
    @property
    def informational(self) -> tuple[int, ...]:
        """The 1xx that came before this response."""
    @property
    def latency_us(self) -> int | None:
        """Last byte of the request to first byte of the response, microseconds."""
    @property
    def duration_us(self) -> int | None:
        """First byte of the request to the last byte that was read of the response, microseconds; None for a request,
        without the request's first byte, where lost bytes follow that last byte, or if it came first."""
    @property
    def authority(self) -> str | None:
        """The host that was asked, and the port if the request names one, in lower case and without user info; None
        where it is not known. A response has that of its request."""
    @property
    def body(self) -> bytes:
        """The first bytes of the body, after de-chunking, before any decoding: at most `max_body`, and none after the
        first missing byte."""
    @property
    def body_size(self) -> int:
        """Bytes of body seen on the wire, after de-chunking."""
    @property
    def body_truncated(self) -> bool:
        """`body` was cut by `max_body` or by the memory limit."""
    @property
    def content(self) -> tuple[str | None, Literal["base64"] | None, bool, str | None]:
        """`body`, `body_encoding`, `body_truncated` and `body_decoded` of the record: decoded and as text."""
    @property
    def trailers(self) -> dict[str, str | list[str]] | None: ...
    @property
    def incomplete(self) -> Literal["gap", "closed", "evicted", "idle", "stopped", "malformed", "limit"] | None: ...
    @property
    def missing_bytes(self) -> int | None: ...
    @property
    def resynced(self) -> bool: ...
    @property
    def anomalies(self) -> tuple[str, ...]: ...
    @property
    def trace_id(self) -> str | None:
        """Of the request's valid `traceparent` (W3C Trace Context); so is `span_id`."""
    @property
    def span_id(self) -> str | None: ...
    @property
    def proxied(self) -> tuple[tuple[str, int], tuple[str, int]] | None:
        """(source, destination) that a PROXY protocol header names, where the connection began with one."""

    @property
    def carried(self) -> tuple[str | None, ...] | None:
        """The request's values of the fields named by `carry`, on the request and on its response. Not redacted: for
        decisions, never for output."""

class _Record(Protocol):
    def to_json(self) -> bytes: ...

class _Weighed(Protocol):
    @property
    def weight(self) -> int: ...

@final
class Lines:
    """Renders messages as JSON lines, many at a time, without the GIL. For one thread: it keeps its buffer.

    `keep`: each message keeps its JSON, for who asks for its `to_json()` later. `most`: bytes of a line, its end
    included; a longer one is made to fit as docs/DELIVERY.md says, 0 is any length.
    """

    def __init__(self, *, keep: bool = False, most: int = 0) -> None: ...
    def take(self, batch: Sequence[_Record], first: int, size: int) -> tuple[int, bytes]:
        """(how many messages, from `first`, their lines): at most 512, and none more once they have `size` bytes.

        At least one, where there is one. A line is what `to_json()` gives, shortened where asked, and a line end. What
        is no RawMessage is asked for its `to_json()`.
        """

def coded(messages: Iterable[_Weighed]) -> list[RawMessage]:
    """Those whose body has a content coding that nobody has tried to remove yet."""

def weights(messages: Sequence[_Weighed]) -> list[int]:
    """The `weight` of each."""

@final
class FlowTable:
    """Every flow of one capture. Belongs to one thread; not locked. Never raises on traffic.

    Time is packet time: with `clock_us` None (a file) it is the greatest stamp so far, but one stamp further ahead than
    the idle timeout is believed only if the next is near it. Otherwise it advances with the stamps, and between packets
    with the monotonic clock, and is never more than 1 s ahead of that: so a clock that jumps expires nothing.
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
        redact_key: bytes | None = None,
        placement: tuple[str | None, str | None, str | None] | None = None,
        decode: Decode | None = None,
    ) -> None:
        """`carry` names at most 4 request header fields, lower case; `redact_headers` fields and `redact_query`
        parameters of URLs whose values leave the core only as `[REDACTED]`, in any case, or, with `redact_key`, as a
        keyed hash and their length; `placement` is (pod, namespace, node); without `decode` content codings stay.
        ValueError for a link type not in LINK_TYPES."""
    def feed(
        self, packets: bytes, index: bytes, first: int = 0, clock_us: int | None = None
    ) -> tuple[list[RawMessage], int]:
        """Feeds what `next_batch` gave: `index` holds native u32 {sec, usec, offset, caplen} for each packet.

        Starts at packet `first`; returns the messages that ended and the number of the next packet to feed, which is
        smaller than the number of packets when the messages have become many, or the memory limit is passed: call again
        from there.
        A packet whose `usec` is 2^32 - 1 has a stamp that does not fit: it is counted, and not read.
        Any bytes are safe: an index that points outside of `packets` is counted as malformed.
        """
    def tick(self, clock_us: int) -> list[RawMessage]:
        """An idle live capture: lets time pass (monotonic µs) and returns what it ended."""
    def flush(self) -> list[RawMessage]:
        """Ends every flow, in order of creation; open messages are `incomplete: "stopped"`. The table is empty then."""
    def exclude(self, address: str, port: int) -> None:
        """Leaves out flows one end of which is this local socket (our own deliveries); one call before it connects."""
    def readmit(self, address: str, port: int) -> None:
        """Undoes `exclude` for flows that begin later."""
    def counters(self) -> dict[str, int]:
        """Cumulative since the table was made; names in COUNTERS, explained in docs/internals/COUNTERS.md."""
    def gauges(self) -> dict[str, int]:
        """`flows`, `held_bytes` (out of order), `memory_bytes`, `memory_blocks`, `messages_open`,
        `messages_long` (open for 60 s), `packets_waiting` (for the stamp of the next one: at most 1)."""
    def events(self) -> list[tuple[str, tuple[str, int], tuple[str, int]]]:
        """What is worth a log line since the last call: (kind, receiver, destination), kinds `tls`, `http2`,
        `other-protocol`, `undecided`, `tunnel`, `snapped`, `long-message`; at most 256 between two calls."""
