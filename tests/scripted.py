"""A live source that is told by the test what comes, in place of an interface."""

from __future__ import annotations

import queue
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from sniffer import pipeline
from sniffer.capture.source import Packets, Source, Stop
from tests.packets import Packet, to_feed


class ScriptedSource(Source):
    """Gives what `say` was told; an exception is raised."""

    live = True
    name = "scripted0"

    def __init__(self) -> None:
        self.kernel = (0, 0, 0)
        self.open_error: Exception | None = None
        self.closed = False
        self._script: queue.SimpleQueue[Packets | Exception] = queue.SimpleQueue()
        self._seen = 0

    def say(self, what: Iterable[Packet] | Exception) -> None:
        """The next batch of packets, or the failure."""
        self._script.put(what if isinstance(what, Exception) else to_feed(what))

    def is_loopback(self) -> bool:
        return False

    def open(self, stop: Stop) -> int:
        if self.open_error is not None:
            raise self.open_error
        return 1

    def batches(self, stop: Stop) -> Iterator[Packets | None]:
        while not (stop.is_set() and self._script.empty()):
            try:
                what = self._script.get(timeout=0.02)
            except queue.Empty:
                yield None
                continue
            if isinstance(what, Exception):
                raise what
            self._seen += len(what[1]) // 16
            yield what

    def stats(self) -> tuple[int, int, int]:
        received, dropped, if_dropped = self.kernel
        return self._seen + received + dropped, dropped, if_dropped

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> ScriptedSource:
    """Every live Sniffer of the test captures from this source."""
    source = ScriptedSource()

    def make(*_: Any, **__: Any) -> ScriptedSource:
        return source

    monkeypatch.setattr(pipeline, "LiveSource", make)
    return source
