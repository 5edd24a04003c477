"""The capture thread.

It takes batches of packets from its source, feeds the flow table, which belongs to it alone, and puts the messages that
ended into the hand-off together with a snapshot of the table's counters. The loop is woken once for a batch, and only
when it may be asleep.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from sniffer.capture.handoff import HandOff
from sniffer.capture.source import Source, Stop
from sniffer.errors import CaptureError

if TYPE_CHECKING:
    from sniffer_core.core import FlowTable, RawMessage

log = logging.getLogger("sniffer.capture")


class Capture(threading.Thread):
    """The capture thread. A daemon thread: one that is stuck must not keep the process."""

    def __init__(
        self,
        source: Source,
        make_table: Callable[[int], FlowTable],
        handoff: HandOff,
        *,
        opened: Callable[[Exception | None], None],
        gauge_names: Mapping[str, str],
        then: Sequence[Source] = (),
    ) -> None:
        """`opened` is called once, from the thread, with None or with why the capture cannot be opened.

        `then` are read after `source`, each a capture of its own; one that cannot be read does not keep the others.
        """
        super().__init__(name="sniffer capture", daemon=True)
        self.source = source
        """The one that is read."""
        self._sources = (source, *then)
        self.stop = Stop()
        self.beat = time.monotonic()
        """When the thread last showed that it is alive."""
        self._make_table = make_table
        self._handoff = handoff
        self._opened = opened
        self._gauge_names = gauge_names
        self._sockets: deque[tuple[str, int, bool]] = deque()
        self._before: Counter[str] = Counter()
        """What the tables of the sources before this one have counted."""

    def own_socket(self, ip: str, port: int, opened: bool) -> None:
        """Leaves out (until it is closed) what this local socket sends and gets. May be called from any thread."""
        self._sockets.append((ip, port, opened))

    def run(self) -> None:
        """Opens each source, feeds a table until its end, flushes it."""
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

    def _read(self, table: FlowTable, errors: list[Exception]) -> None:
        """Reads a source to its end, or to what goes wrong."""
        try:
            self._feed_all(table)
        except CaptureError as raised:
            errors.append(raised)
        except Exception as raised:
            errors.append(_failed(raised))
        self._put(table, table.flush())
        if len(self._sources) > 1:
            self._before.update(table.counters())

    def _open(self) -> FlowTable:
        linktype = self.source.open(self.stop)
        try:
            return self._make_table(linktype)
        except ValueError as error:
            raise CaptureError(f"{self.source.name} cannot be read: {error}") from error

    def progress(self) -> tuple[int, int] | None:
        """Bytes of all sources that are read, and their sizes; None where one has none. From any thread."""
        parts = [source.progress() for source in self._sources]
        known = [part for part in parts if part is not None]
        return (sum(done for done, _ in known), sum(size for _, size in known)) if len(known) == len(parts) else None

    def _feed_all(self, table: FlowTable) -> None:
        live = self.source.live
        for batch in self.source.batches(self.stop):
            self._alive()
            while self._sockets:
                ip, port, opened = self._sockets.popleft()
                (table.exclude if opened else table.readmit)(ip, port)
            now = time.monotonic_ns() // 1000
            if batch is not None:
                packets, index = batch
                count, at = len(index) // 16, 0
                while at < count:
                    messages, at = table.feed(packets, index, at, now if live else None)
                    self._put(table, messages)
            else:
                self._put(table, table.tick(now))

    def _put(self, table: FlowTable, messages: list[RawMessage]) -> None:
        counters = table.counters()
        for name, value in self._before.items():
            counters[name] += value
        for name, value in table.gauges().items():
            counters[self._gauge_names.get(name, name)] = value
        if (kernel := self.source.stats()) is not None:  # now, so that it is never behind what was read of it
            self._handoff.put_kernel(kernel)
        self._handoff.put(messages, counters, table.events(), alive=self._alive)

    def _alive(self) -> None:
        self.beat = time.monotonic()


def _failed(error: Exception) -> CaptureError:
    """Says in the log what should not have happened, and what to tell of it."""
    log.error("capture thread failed", exc_info=error)
    return CaptureError(f"capture failed: {type(error).__name__}: {error}")


def _together(errors: Sequence[Exception]) -> CaptureError:
    """One error that says them all."""
    if len(errors) == 1 and isinstance(errors[0], CaptureError):
        return errors[0]
    return CaptureError("; ".join(map(str, errors)))
