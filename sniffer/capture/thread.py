"""The capture thread, and the loop that feeds packets to a flow table.

The thread reads its sources one after the other. Each has a flow table of its own, which belongs to this thread alone.
The messages that end go into the hand-off, together with a snapshot of the table's counters.

Everything that captures feeds its table through `feed`: the daemon, the library and the doctor.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from sniffer.capture.handoff import HandOff
from sniffer.capture.source import Packets, Source, Stop, packet_count
from sniffer.errors import CaptureError

if TYPE_CHECKING:
    from sniffer.capture.recorded import RecordTable
    from sniffer_core.core import FlowTable, RawMessage

    Table = FlowTable | RecordTable

log = logging.getLogger("sniffer.capture")


def feed(
    source: Source, table: Table, stop: Stop, *, before: Callable[[], None] = lambda: None
) -> Iterator[Sequence[RawMessage]]:
    """Feeds the packets of an open source to a flow table until the source ends.

    Yields the messages that have ended, often none, after each call of the table: then its counters, gauges and events
    are up to date. `before` is called before each batch. What is still open at the end is left to `table.flush`.
    Raises what `Source.batches` raises.
    """
    for batch in source.batches(stop):
        before()
        clock_us = time.monotonic_ns() // 1000
        if batch is None:
            yield table.tick(clock_us)
        else:
            yield from feed_batch(table, batch, clock_us if source.live else None)


def feed_batch(table: Table, batch: Packets, clock_us: int | None = None) -> Iterator[Sequence[RawMessage]]:
    """Feeds one batch, in as many calls as the table wants. Yields the messages that each call has ended.

    `clock_us` is the monotonic clock of a live capture, in microseconds. Without it time is what the stamps say.
    """
    packets, index = batch
    count, at = packet_count(batch), 0
    while at < count:
        messages, at = table.feed(packets, index, at, clock_us)
        yield messages


class Capture(threading.Thread):
    """The capture thread. It is a daemon thread, so that one that is stuck does not keep the process from exiting."""

    def __init__(
        self,
        source: Source,
        make_table: Callable[[int], Table],
        handoff: HandOff,
        *,
        opened: Callable[[Exception | None], None],
        gauge_names: Mapping[str, str],
        then: Sequence[Source] = (),
    ) -> None:
        """`make_table` makes the flow table for a link type; ValueError where it does not know that type.

        `opened` is called once, from the thread: with None as soon as one source is open, or with the reason why none
        can be opened. `gauge_names` renames gauges of the table. The sources of `then` are read after `source`, each as
        a capture of its own. A source that cannot be read does not keep the thread from the others.
        """
        super().__init__(name="sniffer capture", daemon=True)
        self.source = source
        """The source that is being read."""
        self._sources = (source, *then)
        self.stop = Stop()
        self.beat = time.monotonic()
        """When the thread last showed that it is alive, in `time.monotonic` seconds."""
        self._make_table = make_table
        self._handoff = handoff
        self._opened = opened
        self._gauge_names = gauge_names
        self._sockets: deque[tuple[str, int, bool]] = deque()
        self._before: Counter[str] = Counter()  # counters of the tables of earlier sources

    def own_socket(self, ip: str, port: int, opened: bool) -> None:
        """Says that this process has opened, or closed, a local socket. Its traffic is left out while it is open.

        May be called from any thread, before the socket connects.
        """
        self._sockets.append((ip, port, opened))

    def progress(self) -> tuple[int, int] | None:
        """Bytes read of all sources, and their sizes together. None where a size is not known. From any thread."""
        parts = [source.progress() for source in self._sources]
        known = [part for part in parts if part is not None]
        return (sum(done for done, _ in known), sum(size for _, size in known)) if len(known) == len(parts) else None

    def run(self) -> None:
        """Opens each source, feeds a flow table until its end, and flushes the table."""
        errors: list[Exception] = []
        is_open = False
        try:
            for source in self._sources:
                self.source = source
                try:
                    table = self._open()
                except Exception as raised:
                    errors.append(raised)
                    continue
                finally:
                    self._alive()
                if not is_open:
                    is_open = True
                    self._opened(None)
                self._read(table, errors)
                source.close()
                if self.stop.is_set():
                    break
            if not is_open:
                self._opened(errors[0] if len(errors) == 1 else _together(errors))
        except Exception as raised:
            errors.append(_failed(raised))
        finally:
            for source in self._sources:
                source.close()
            self._handoff.end(_together(errors) if errors and is_open else None)

    def _open(self) -> Table:
        """Opens the present source and makes the flow table for its link type."""
        linktype = self.source.open(self.stop)
        try:
            return self._make_table(linktype)
        except ValueError as error:
            raise CaptureError(f"{self.source.name} cannot be read: {error}") from error

    def _read(self, table: Table, errors: list[Exception]) -> None:
        """Reads the present source to its end, or until it fails. Adds the failure to `errors`."""
        try:
            for messages in feed(self.source, table, self.stop, before=lambda: self._before_batch(table)):
                self._put(table, messages)
        except CaptureError as raised:
            errors.append(raised)
        except Exception as raised:
            errors.append(_failed(raised))
        self._put(table, table.flush())
        if len(self._sources) > 1:
            self._before.update(table.counters())

    def _before_batch(self, table: Table) -> None:
        """Shows that the thread is alive, and tells the table of sockets that were opened or closed meanwhile."""
        self._alive()
        while self._sockets:
            ip, port, opened = self._sockets.popleft()
            (table.exclude if opened else table.readmit)(ip, port)

    def _put(self, table: Table, messages: Sequence[RawMessage]) -> None:
        """Hands over these messages, and the counters as they are after them."""
        counters = table.counters()
        for name, value in self._before.items():
            counters[name] = counters.get(name, 0) + value
        for name, value in table.gauges().items():
            counters[self._gauge_names.get(name, name)] = value
        if (kernel := self.source.stats()) is not None:  # after the feed: never fewer packets than were read
            self._handoff.put_kernel(kernel)
        self._handoff.put(messages, counters, table.events(), alive=self._alive)

    def _alive(self) -> None:
        self.beat = time.monotonic()


def _failed(error: Exception) -> CaptureError:
    """Logs an error that is a defect of ours, and returns the error to report."""
    log.error("capture thread failed", exc_info=error)
    return CaptureError(f"capture failed: {type(error).__name__}: {error}")


def _together(errors: Sequence[Exception]) -> CaptureError:
    """One error with the texts of all of them."""
    if len(errors) == 1 and isinstance(errors[0], CaptureError):
        return errors[0]
    return CaptureError("; ".join(map(str, errors)))
