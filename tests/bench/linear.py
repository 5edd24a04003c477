"""Traffic made to be costly, at one size and at four times that size. The cost of a unit must not grow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

from sniffer.capture.thread import feed_batch
from sniffer_core.core import FlowTable
from tests.bench.captures import Link, request, response, split
from tests.packets import ETHERNET, START, Packet, to_feed

OK: Final = b"HTTP/1.1 200 OK\r\n"


def _answered(segments: Callable[[Link], Iterator[bytes]]) -> Iterator[bytes]:
    """A connection with one request, and these packets as its response."""
    link = Link(0)
    yield from link.open()
    yield link.up(request(0))
    yield from segments(link)


def _lengthy(size: int) -> bytes:
    return OK + b"Content-Length: %d\r\n\r\n" % size + bytes(size)


def one_byte_head(size: int) -> Iterator[bytes]:
    """A head of `size` bytes, each in a segment of its own."""
    head = OK + b"X-Long: " + b"x" * size + b"\r\nContent-Length: 0\r\n\r\n"
    return _answered(lambda link: (link.down(segment) for segment in split(head, 1)))


def one_byte_chunks(size: int) -> Iterator[bytes]:
    """A body of so many chunks of one byte."""
    body = OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * size + b"0\r\n\r\n"
    return _answered(lambda link: (link.down(segment) for segment in split(body)))


def holes(size: int) -> Iterator[bytes]:
    """So many holes open at a time; they are filled from the last to the first."""

    def segments(link: Link) -> Iterator[bytes]:
        parts = list(enumerate(split(_lengthy(100 * 2 * size), 100)))
        for number, part in parts[1::2] + parts[0::2][::-1]:
            yield link.down_at(link.received + 100 * number, part)

    return _answered(segments)


def overlaps(size: int) -> Iterator[bytes]:
    """So many segments of 1,448 bytes, each 100 bytes after the one before, all behind a hole."""

    def segments(link: Link) -> Iterator[bytes]:
        body = _lengthy(100 * size + 1448)
        for number in range(1, size):
            yield link.down_at(link.received + 100 * number, body[100 * number : 100 * number + 1448])
        yield link.down_at(link.received, body[:1448])

    return _answered(segments)


def fields(size: int) -> Iterator[bytes]:
    """Heads of so many different fields."""
    head = OK + b"".join(b"X-Field-%d: value\r\n" % number for number in range(size)) + b"Content-Length: 0\r\n\r\n"
    return _answered(lambda link: (link.down(segment) for segment in split(head)))


def repeated(size: int) -> Iterator[bytes]:
    """Heads of one field so many times."""
    head = OK + b"X-Field: value\r\n" * size + b"Content-Length: 0\r\n\r\n"
    return _answered(lambda link: (link.down(segment) for segment in split(head)))


def pipelined(size: int) -> Iterator[bytes]:
    """So many requests before the first answer."""
    link = Link(0)
    yield from link.open()
    for number in range(size):
        yield link.up(request(number))
    for number in range(size):
        yield link.down(response(number))


SHAPES: Final = {
    "head in one-byte segments, per byte": (one_byte_head, 10_000),
    "one-byte chunks, per chunk": (one_byte_chunks, 20_000),
    "holes, per hole": (holes, 1_000),
    "overlapping segments behind a hole, per segment": (overlaps, 2_000),
    "fields of a head, per field": (fields, 500),
    "the same field again, per field": (repeated, 750),
    "pipelined requests, per message": (pipelined, 200),
}
GROWTH: Final = 4


def cost(shape: Callable[[int], Iterator[bytes]], size: int, repeats: int = 5) -> tuple[float, int]:
    """CPU seconds for the packets, JSON included (the best of several runs), and the number of messages.

    Small inputs are measured on many tables at once, so that the clock's resolution does not matter.
    """
    feed = to_feed(Packet(START + 10 * number, packet) for number, packet in enumerate(shape(size)))
    tables = max(1, 20_000 // (len(feed[1]) // 16 + size))
    best = float("inf")
    for _ in range(repeats):
        started = time.process_time()
        for _ in range(tables):
            messages = run(feed)
        best = min(best, (time.process_time() - started) / tables)
    return best, messages


def run(feed: tuple[bytes, bytes]) -> int:
    """Feeds the packets to a new table; returns the number of messages."""
    table = FlowTable(linktype=ETHERNET, ports=[80])
    count = 0
    for messages in feed_batch(table, feed):
        for message in messages:
            message.to_json()
        count += len(messages)
    return count + len(table.flush())


def rows() -> Iterator[tuple[str, int, float, float]]:
    """Rows of (name, number of units, ns for a unit, ns for a unit at four times the number)."""
    for name, (shape, size) in SHAPES.items():
        small, large = cost(shape, size)[0] / size, cost(shape, size * GROWTH)[0] / size / GROWTH
        yield name, size, small * 1e9, large * 1e9
