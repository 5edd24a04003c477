"""The tools that an MCP client calls, and their answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta

from sniffer.expressions.fields import of_json
from sniffer.expressions.language import Expression
from sniffer.ledger import losses
from sniffer.outputs.mcp.store import Row

if TYPE_CHECKING:
    from sniffer.companion import Watched
    from sniffer.outputs.mcp.store import Kept

MOST_LISTED: Final = 200
SEARCH_SECONDS: Final = 0.25
"""A search ends after this time, and says how far it came: the capture's event loop has other work."""
MOST_BODY: Final = 100_000
"""Most characters of a body in an answer."""


class ListExchanges(msgspec.Struct, forbid_unknown_fields=True):
    """Captured HTTP exchanges (a request with its response), the newest first, one line each.

    The answer says what was watched and how many exchanges there are, so an empty list is no riddle.
    """

    where: Annotated[
        str,
        Meta(
            description="an expression over the fields of the records: status >= 500, path contains '/cart', "
            "latencyMs > 200ms && method == 'POST', authority == 'api.example', has(incomplete)",
            max_length=4096,
        ),
    ] = ""
    limit: Annotated[int, Meta(description="most exchanges to list", ge=1, le=MOST_LISTED)] = 50
    before: Annotated[int | None, Meta(description="list exchanges with a lower id than this: the next page")] = None


class GetExchange(msgspec.Struct, forbid_unknown_fields=True):
    """The records of one exchange: request and response with headers, body and times. Secrets are redacted."""

    id: Annotated[int, Meta(description="the id in the list", ge=1)]
    max_body: Annotated[int, Meta(description="most characters of each body", ge=0, le=MOST_BODY)] = 10_000


class Stats(msgspec.Struct, forbid_unknown_fields=True):
    """Counts of all exchanges by method and by class of status, and percentiles of their durations."""


class Health(msgspec.Struct, forbid_unknown_fields=True):
    """Whether traffic is captured, from where, and what was lost on the way."""


class ToolError(Exception):
    """A tool was called in a way that it cannot answer; the text says why."""


class Tools:
    """The tools of one run."""

    def __init__(self, kept: Kept, watched: Watched, *, ports: Mapping[str, Any], live: bool) -> None:
        """`ports`: what is watched, for the answers."""
        self._kept = kept
        self._watched = watched
        self._ports = ports
        self._live = live
        self._calls: dict[str, tuple[type[msgspec.Struct], Callable[[Any], dict[str, Any]]]] = {
            "list_exchanges": (ListExchanges, self._list),
            "get_exchange": (GetExchange, self._get),
            "stats": (Stats, self._stats),
            "health": (Health, self._health),
        }

    def described(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Each tool by name: what it does, and the JSON schema of its arguments."""
        found = {}
        for name, (arguments, _) in self._calls.items():
            schema = msgspec.json.schema(arguments)
            (kind,) = schema["$defs"].values()
            described = {key: value for key, value in kind.items() if key not in ("title", "description")}
            found[name] = (" ".join((arguments.__doc__ or "").split()), described)
        return found

    def call(self, name: str, arguments: Mapping[str, Any] | None) -> dict[str, Any]:
        """The answer of a tool. ToolError when there is no such tool, or its arguments are wrong."""
        if name not in self._calls:
            raise ToolError(f"there is no tool {name[:100]!r}; there are {', '.join(self._calls)}")
        kind, answer = self._calls[name]
        try:
            given = msgspec.convert(dict(arguments or {}), kind)
        except msgspec.ValidationError as error:
            raise ToolError(str(error)) from error
        return answer(given)

    def _list(self, given: ListExchanges) -> dict[str, Any]:
        matches = None
        if given.where.strip():
            try:
                matches = Expression(given.where, of_json)
            except ValueError as error:
                raise ToolError(f"where: {error}") from error
        found: list[Row] = []
        until = time.monotonic() + SEARCH_SECONDS
        looked_at, next_before = 0, None
        for row, records in self._kept.newest(given.before):
            if len(found) == given.limit or (looked_at and time.monotonic() > until):
                next_before = row.id + 1
                break
            looked_at += 1
            if matches is None or matches(*(None if each is None else msgspec.json.decode(each) for each in records)):
                found.append(row)
        answer: dict[str, Any] = {"exchanges": msgspec.to_builtins(found), "watched": self._where()}
        answer |= {"lookedAt": looked_at, "captured": self._kept.count}
        if next_before is not None:
            answer["nextBefore"] = next_before
        if forgotten := self._kept.first - 1:
            answer["forgotten"] = forgotten
        if not found:
            answer["note"] = self._why_none(looked_at, next_before)
        return answer

    def _why_none(self, looked_at: int, next_before: int | None) -> str:
        """Why a list is empty: nothing was watched, nothing came, or nothing matched."""
        packets = self._watched.ledger.snapshot()["packets_seen"]
        if next_before is not None:
            return f"none of the newest {looked_at} matched; ask with before={next_before} for older ones"
        if looked_at:
            return "exchanges were captured, and none of them matched"
        if self._kept.count:
            return "no exchange below that id is kept"
        if self._watched.held:
            return "nothing is watched: the capture has failed"
        if not self._watched.began:
            return "nothing has been watched yet: the capture is not open"
        if not packets:
            return "the capture is open, and not one packet of the watched ports has come"
        return f"{packets} packets came, and no HTTP exchange among them has ended"

    def _get(self, given: GetExchange) -> dict[str, Any]:
        records = self._kept.records(given.id)
        if records is None:
            raise ToolError(
                f"exchange {given.id} is not kept: there are {self._kept.first} to {self._kept.count}"
                if self._kept.count >= self._kept.first
                else "no exchange has been captured"
            )
        answer: dict[str, Any] = {"id": given.id}
        for side, record in zip(("request", "response"), records, strict=True):
            if record is None:
                continue
            answer[side] = fields = msgspec.json.decode(record)
            body = fields.get("body")
            if body is not None and len(body) > given.max_body:
                size = given.max_body - given.max_body % 4 if fields.get("bodyEncoding") else given.max_body
                fields |= {"body": body[:size], "bodyTruncated": True}
        return answer

    def _stats(self, _: Stats) -> dict[str, Any]:
        kept = self._kept
        answer: dict[str, Any] = {"exchanges": kept.count, "methods": dict(kept.methods.most_common())}
        return answer | {"statuses": dict(sorted(kept.statuses.items())), "durationMs": kept.durations()}

    def _health(self, _: Health) -> dict[str, Any]:
        snapshot = self._watched.ledger.snapshot()
        progress = self._watched.progress()
        answer: dict[str, Any] = {"watched": self._where(), "packets": snapshot["packets_seen"]}
        answer |= {"exchanges": self._kept.count, "lost": losses(snapshot)}
        if progress is not None:
            answer["read"] = {"bytes": progress[0], "of": progress[1]}
        return answer

    def _where(self) -> dict[str, Any]:
        watched = self._watched
        state = (
            "failed" if watched.held else "running" if watched.is_running() else "ended" if watched.began else "opening"
        )
        return {"interface" if self._live else "file": watched.where, **self._ports, "state": state}
