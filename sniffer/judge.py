"""Which exchanges the outputs get: `WHERE` and `KEEP`, judged on request and response together.

    pump -- put --> ByExchange (joins) -- WHERE -- observe -- KEEP, KEEP_OTHERS --> take -- pump --> lanes

A message waits here for its partner, within a share of the one memory budget. Imported only where one of the two
options is given.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from sniffer.exchanges import PATIENCE_SECONDS, ByExchange
from sniffer.expressions.fields import of_raw
from sniffer.expressions.language import Expression

if TYPE_CHECKING:
    from sniffer.record.message import Placement
    from sniffer_core.core import RawMessage

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"})
"""Methods that are counted by name. Traffic can invent others without end, so those are counted as `other`."""

LeftOut = Mapping[str, Mapping[str, int]]
"""Exchanges by method (`none` where the request is not known) and status class (`2xx`; `none` without a response)."""


class Judge:
    """Takes messages as they end; gives those of the exchanges that are kept, each exchange as it becomes whole."""

    def __init__(
        self,
        *,
        where: str | None,
        keep: str | None,
        keep_others: float,
        max_bytes: int,
        live: bool,
        placement: Placement | None,
        count: Callable[[str, int], None],
        observe: Callable[[Sequence[RawMessage]], None],
    ) -> None:
        """`where` and `keep` are expressions; `count` adds to a counter of the ledger; `observe` is called with what
        `where` lets pass, before `keep` leaves out some of it. Neither may raise.
        """
        read_of = of_raw(placement)
        self._where = None if where is None else Expression(where, read_of)
        self._keep = None if keep is None else Expression(keep, read_of)
        self._others = round(keep_others * 2**64)
        self._count = count
        self._observe = observe
        patience = PATIENCE_SECONDS if live else None
        self._queue = ByExchange(max_bytes=max_bytes, patience=patience, has_request=_has_request)
        self._next = time.monotonic()
        self._kept: list[RawMessage] = []
        self._left_out: dict[str, dict[str, Counter[str]]] = {}
        self.needs_content = any(each is not None and each.needs_content for each in (self._where, self._keep))
        """An expression looks at bodies: they must be decoded before `put`."""

    @property
    def wait(self) -> float | None:
        """Seconds until `ripen` should be called, messages or not; None if nothing waits for a limited time."""
        return self._queue.wait if self._queue.ripening else None

    def put(self, raws: Sequence[RawMessage]) -> None:
        """Adds messages, and judges the exchanges that are whole with them."""
        self._queue.put(raws, 0)
        self._judge()

    def ripen(self) -> None:
        """Judges requests alone that have waited too long; does so at most once in `wait` seconds."""
        now = time.monotonic()
        if self._queue.ripening and now >= self._next:
            self._next = now + self._queue.wait
            self._queue.ripen()
            self._judge()

    def end(self) -> None:
        """Judges all that waits: nothing more will come."""
        self._queue.ripen(last=True)
        self._judge()

    def take(self) -> list[RawMessage]:
        """The messages that are kept, since the last call."""
        kept, self._kept = self._kept, []
        return kept

    def left_out(self) -> dict[str, LeftOut]:
        """Exchanges that were left out so far, by the option that did: `where`, `keep`."""
        return {
            option: {method: dict(counts) for method, counts in by_method.items()}
            for option, by_method in self._left_out.items()
        }

    def _judge(self) -> None:
        while (taken := self._queue.take()) is not None:
            for pair in taken[0].pairs:  # type: ignore[attr-defined]
                self._judge_one(pair.request, pair.response, pair.messages)

    def _judge_one(self, request: Any, response: Any, messages: int) -> None:
        parts = [part for part in (request, response) if part is not None]
        if self._where is not None and not self._where(request, response):
            self._leave_out("where", request, response, messages)
            return
        self._observe(parts)
        if self._keep is not None and not self._keep(request, response) and _share(parts[0]) >= self._others:
            self._leave_out("keep", request, response, messages)
            return
        self._kept += parts

    def _leave_out(self, option: str, request: Any, response: Any, messages: int) -> None:
        method = (response if request is None else request).method
        named = "none" if method is None else method if method in METHODS else "other"
        status = "none" if response is None else f"{response.status_code // 100}xx"
        self._left_out.setdefault(option, {}).setdefault(named, Counter())[status] += 1
        self._count(f"messages_excluded_{option}", messages)
        self._count("pump_waiting", -messages)


def _has_request(raw: Any) -> bool:
    return raw.method is not None


def _share(raw: RawMessage) -> int:
    """A number below 2**64, evenly spread over exchanges: the same for both messages, in each run and each sniffer."""
    name = f"{raw.connection_id}-{raw.exchange}".encode()
    return int.from_bytes(blake2b(name, digest_size=8).digest())
