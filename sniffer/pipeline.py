"""The sniffer: capture thread -> hand-off -> pump -> lanes, and the stop that loses nothing.

    capture thread --HandOff--> pump --offer--> Lane (one for each output and iterator) --> Sink

One task (`_run`) runs from the opened capture to the last log line: it pumps until the capture has ended, drains the
lanes and closes them. `stop()` signals the capture to end, sets the deadline, and waits for that task.

Longer than most: start, pump and stop share the state of one run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from sniffer import __version__
from sniffer.budget import CAPTURE_WORKING, FIRM_SHARE, Budget, for_traffic, promised, resident
from sniffer.capture.file import FileSource
from sniffer.capture.handoff import HandOff
from sniffer.capture.live import LiveSource
from sniffer.capture.records import RECORDS
from sniffer.capture.source import Source
from sniffer.capture.thread import Capture
from sniffer.companion import Companion
from sniffer.config import SnifferConfig, wanted
from sniffer.delivery.lane import Lane
from sniffer.delivery.precedence import Precedence
from sniffer.delivery.queues import weigh
from sniffer.delivery.threads import CallThread
from sniffer.errors import CaptureError, SnifferError, ValidationError
from sniffer.filters import CARRY, Filter, make_filter
from sniffer.ledger import RENAMED_GAUGES, Ledger, Snapshot
from sniffer.options import keywords_of
from sniffer.outputs import Context, Place
from sniffer.outputs.iterator import IteratorSink
from sniffer.record.codings import decode, decoder_bytes, undo
from sniffer.record.message import HttpMessage, Placement, from_raw
from sniffer.watch import Watch

if TYPE_CHECKING:
    from sniffer.capture.recorded import RecordTable
    from sniffer.judge import Judge, LeftOut
    from sniffer_core.core import FlowTable, RawMessage

log = logging.getLogger("sniffer")

NOTHING_SEEN_SECONDS: Final = 30.0
BEAT_SECONDS: Final = 5.0
"""A capture thread whose last sign of life is older than this is stuck."""
LAG_SECONDS: Final = 0.1
"""A capture that has not emptied the kernel's buffer for so long is behind."""
FOLLOW_SECONDS: Final = 0.1
"""After each batch the pump waits at most this long for lanes that give way to catch up."""
LOOK_SECONDS: Final = 0.01
"""While it waits it checks this often whether it may go on waiting."""
GIVING_SLICE: Final = 128
"""Messages for which Python objects are made at a time, where only lanes that give way want them."""
JUDGED: Final = 16
"""Messages that are judged by their bodies at a time: a pattern takes some milliseconds for a body of 64 KiB."""
THREAD_END_SECONDS: Final = 1.0
"""A capture thread that has not ended this long after the capture's end is abandoned."""
NOT_LOST: Final = ("dropped_closed", "dropped_yielded")
"""Drops that do not change the exit code: the output's reader has gone, or the output gave way to others."""

HELD_FOR: Final[Mapping[type[SnifferError], str]] = {
    CaptureError: "capture has failed; waiting to be stopped",
    ValidationError: "the configuration is wrong; waiting to be stopped",
    SnifferError: "the start has failed; waiting to be stopped",
}
"""What is logged at every statistics interval while nothing is captured, by the kind of error."""

State = Literal["new", "starting", "running", "ending", "held", "stopped"]


@keywords_of(SnifferConfig)
def create_sniffer(config: SnifferConfig | None = None, **options: Any) -> Sniffer:
    """A Sniffer from a SnifferConfig, or from the keywords of one.

    ValidationError with every problem; TypeError where `config` is no SnifferConfig, or stands beside keywords.
    """
    if config is None:
        config = SnifferConfig(**options)
    elif not isinstance(config, SnifferConfig):
        raise TypeError(f"create_sniffer takes a SnifferConfig or keywords, not a {type(config).__name__}")
    elif options:
        raise TypeError("create_sniffer takes a SnifferConfig or keywords, not both")
    return Sniffer(config)


def traffic_budget(config: SnifferConfig) -> Budget:
    """The memory that traffic may fill: the whole budget, less what the process needs beside it (`for_traffic`)."""
    return Budget(for_traffic(config.memory_budget, _working(config)))


def _working(config: SnifferConfig) -> int:
    """Bytes that capture, decoder and outputs need beside the messages. `python -m tests.adversarial` measures them."""
    working = CAPTURE_WORKING + sum(output.working for output in wanted(config))
    if config.decode_bodies and config.max_body_size:
        working += decoder_bytes(config.max_body_size)
    return working


class Sniffer:
    """One capture, from start to stop; it cannot be started again. Belongs to one event loop.

    `async with` starts and stops it; `async for` gives its messages. Each iterator is a lane of its own and gets the
    messages from its making on: one made before `start()`, or right after it, gets them all.
    """

    def __init__(self, config: SnifferConfig, *, companions: Sequence[Companion] = ()) -> None:
        """`companions` are those of the outputs that have one, open: each gives one more lane."""
        self.config = config
        """The configuration it was made from."""
        self.ledger = Ledger()
        """Every counter, at any time."""
        self._budget = traffic_budget(config)
        self._companions = companions
        self._decoder = CallThread("sniffer decoder") if config.decode_bodies and config.max_body_size else None
        where_it_runs = (config.pod_name, config.namespace, config.node_name)
        self._placement = Placement(*where_it_runs) if any(where_it_runs) else None
        self._live = not config.read
        self._judge = self._make_judge()
        self._lane_bytes = self._budget.lanes - (0 if self._judge is None else self._budget.judge)
        self._lane_bytes -= sum(self._budget.kept for companion in companions if companion.keeps)
        self.observe: Callable[[Sequence[RawMessage]], None] | None = None
        """Called on the loop with messages before they are offered to the lanes, e.g. for a histogram: with those too
        that `keep` leaves out. Must not raise.
        """
        self.before_end: list[Callable[[], None]] = []
        """Called on the loop before the last log line, for what must be logged before it. Must not raise."""
        self.began = False
        """The capture has been open."""
        self._state: State = "new"
        sources: list[Source] = [FileSource(path, most_record=self._budget.record) for path in config.read] or [
            LiveSource(config.interface, ports=config.ports, buffer_size=config.capture_buffer_size)
        ]
        self._handoff = HandOff(max_bytes=self._budget.handoff, wait=not self._live, wake=self._wake)
        self._capture = Capture(
            sources[0],
            self._make_table,
            self._handoff,
            opened=self._opened,
            gauge_names=RENAMED_GAUGES,
            then=sources[1:],
        )
        self._leaves_out = make_filter(
            exclude_paths=config.exclude_paths,
            exclude_user_agents=config.exclude_user_agents,
            places=_places(config) if self._live else (),
        )
        self._iterable = True
        self._stop_after = config.stop_after
        self._lanes: list[Lane] = []
        self._precedence = Precedence(self._behind)
        self._iterators: list[IteratorSink] = []
        self._news = asyncio.Event()
        self._finished = asyncio.Event()
        self._stop_called = asyncio.Event()
        self._aborted = asyncio.Event()
        self._deadline: float | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._pump_task: asyncio.Task[None] | None = None
        self._draining = False
        self._error: SnifferError | None = None
        self._failure: BaseException | None = None
        self._final: Snapshot | None = None
        self._lost_before: int | None = None if self._live else 0
        self._watch = Watch(self.ledger, live=self._live, left_out=lambda: self.left_out)
        self.ledger.source(self._handoff.counters)

    # What users call

    async def start(self) -> None:
        """Opens the outputs and the capture. CaptureError where it cannot; RuntimeError when it was started before.

        With `on_capture_error="hold"` a capture or an output that cannot be opened is logged, and waits for `stop()`; a
        spool that cannot be used is logged, and done without.
        """
        self._enter()
        for warning in self.config.warnings:
            log.warning(warning)
        self._open_result: asyncio.Future[None] = self._loop.create_future()
        try:
            for lane in self._make_lanes():
                self._add(lane)
                await lane.open()
            if self._decoder is not None:
                self._decoder.start()
            self._capture.start()
            await self._open_result
        except BaseException as error:
            self._capture.stop.set()
            if isinstance(error, CaptureError) and self._stop_called.is_set():
                self._begin(self._run_without_capture(None))
                return
            if isinstance(error, SnifferError) and self.config.holds:
                self._begin(self._run_without_capture(error))
                return
            if isinstance(error, CaptureError):
                self._error = error
            await self._end(error)
            raise
        self._say_start()
        self._state = "running"
        self.began = True
        self._begin(self._run())

    async def hold(self, error: SnifferError) -> None:
        """Replaces `start()` where `error` makes it impossible: logs the error at every interval, until `stop()`."""
        self._enter()
        self._begin(self._run_without_capture(error))

    async def stop(self) -> Snapshot:
        """Ends the capture, delivers what was captured, and returns the final ledger; at the latest after
        `drain_timeout_ms`. Safe at any time, and more than once.
        """
        if self._state == "new":
            await self._end(None)
        if not self._stop_called.is_set() and not self._finished.is_set():
            self._stop_called.set()
            self._set_deadline(time.monotonic() + self.config.drain_timeout_ms / 1000)
            if self._lost_before is None:
                self._lost_before = self._lost()
            log.info("stopping", extra={"fields": {"drainTimeoutMs": self.config.drain_timeout_ms}})
            if self._live and self._state == "running" and self.config.stop_delay_ms:
                await self._pause(min(self.config.stop_delay_ms, self.config.drain_timeout_ms) / 1000)
            self._capture.stop.set()
        await self._finished.wait()
        return self._final if self._final is not None else self.ledger.snapshot()

    async def wait(self) -> None:
        """Returns when the capture has ended (a file: all of it is read) and everything is delivered.

        RuntimeError before `start()`: there is nothing to wait for yet, and perhaps never. CaptureError if the capture
        failed; with `on_capture_error="hold"` not before `stop()`, and then the error of a start that failed too.
        """
        if self._state == "new":
            raise RuntimeError("this sniffer was not started yet")
        await self._finished.wait()
        error = self._failure or self._error
        if error is not None:
            raise error

    def abort(self) -> None:
        """Ends a drain at once: what is not delivered now is dropped, and counted."""
        self._aborted.set()
        if not self._finished.is_set():
            self._set_deadline(time.monotonic())

    def is_running(self) -> bool:
        """Whether it captures: from `start()` until the stop, the end of the file or a failure."""
        return self._state == "running"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def __aiter__(self) -> AsyncIterator[HttpMessage]:
        if not self._iterable:
            raise RuntimeError("only_outputs() was called: there are no iterators")
        if self._finished.is_set():
            return _nothing(self._failure or self._error)
        sink = IteratorSink()
        self._iterators.append(sink)
        self._add(Lane(sink, share=self._lane_bytes))
        return sink.messages()

    @property
    def left_out(self) -> dict[str, LeftOut]:
        """Exchanges that `where` and `keep` have left out so far: by option, method and status class."""
        return {} if self._judge is None else self._judge.left_out()

    # For the daemon

    def only_outputs(self) -> None:
        """Says that nobody iterates over this sniffer: where all its outputs write lines, no message becomes an object.

        To be called before the start. RuntimeError: there is an iterator.
        """
        if self._iterators:
            raise RuntimeError("there is an iterator")
        self._iterable = False

    @property
    def ready(self) -> bool:
        """The capture is open, and not about to end."""
        return self._state == "running" and not self._stop_called.is_set()

    @property
    def healthy(self) -> bool:
        """The capture thread is alive, waits for another thread or a pipe, or has ended; and the event loop answers."""
        capture = self._capture
        return not capture.is_alive() or capture.source.waiting or time.monotonic() - capture.beat < BEAT_SECONDS

    @property
    def held(self) -> bool:
        """The capture, or the start, has failed and `on_capture_error="hold"`: it waits for `stop()`."""
        return self._state == "held"

    @property
    def where(self) -> str:
        """The interface, or the file; of several files the first, and how many more there are."""
        more = len(self.config.read) - 1
        return self._capture.source.name if more < 1 else f"{self.config.read[0]} and {more} more"

    def progress(self) -> tuple[int, int] | None:
        """Bytes of the files that are read, and their size; None for an interface or a pipe."""
        return self._capture.progress()

    async def outputs_closed(self) -> None:
        """Returns when every output has lost its reader: a closed pipe, a terminal that was hung up."""
        for lane in self._lanes:
            await lane.closed.wait()

    @property
    def undelivered(self) -> int:
        """Messages lost since the stop (reading a file: since the start), by a lane, the hand-off or a failure. Drops
        of an output whose reader has gone, or that gave way, do not count.
        """
        return 0 if self._lost_before is None else self._lost() - self._lost_before

    # Start

    def _enter(self) -> None:
        """Refuses a second start."""
        if self._state != "new":
            raise RuntimeError(f"a sniffer is started once; this one is {self._state}")
        self._state = "starting"
        self._loop = asyncio.get_running_loop()

    def _make_table(self, linktype: int) -> FlowTable | RecordTable:
        """The table for what a source gives: packets, or records. ValueError where there is none for it."""
        config = self.config
        of_both = config.of_tables()
        of_both["carry"] = CARRY if self._leaves_out is not None else ()
        of_both["decode"] = decode if config.decode_bodies else None
        if linktype == RECORDS:
            from sniffer.capture.recorded import make_table

            return make_table(**of_both)
        from sniffer_core.core import FlowTable

        if not config.ports:
            raise ValueError("it is a capture, and only records can be read without ports")
        return FlowTable(
            linktype=linktype,
            ports=config.ports,
            max_flows=config.max_concurrent_connections,
            idle_timeout_us=config.connection_idle_timeout_ms * 1000,
            memory_limit=self._budget.table,
            lines=self._wants_lines(),
            **of_both,
        )

    def _wants_lines(self) -> bool:
        """Whether messages are rendered where they end: nothing on their way looks at more of them than their line."""
        config = self.config
        judges = (self._leaves_out, self._judge, self._stop_after, config.redact_key)
        looks = self._iterable or self._companions or any(judge is not None for judge in judges)
        return not looks and all(output.takes_lines for output in wanted(config))

    def _make_judge(self) -> Judge | None:
        config = self.config
        if config.where is None and config.keep is None:
            return None
        from sniffer.judge import Judge  # not needed by those who give no expression

        return Judge(
            where=config.where,
            keep=config.keep,
            keep_others=config.keep_others,
            max_bytes=self._budget.judge,
            live=self._live,
            placement=self._placement,
            count=self.ledger.add,
            observe=self._observe,
        )

    def _observe(self, raws: Sequence[RawMessage]) -> None:
        if self.observe is not None:
            self.observe(raws)

    def _make_lanes(self) -> list[Lane]:
        config = self.config
        outputs = [output for output in wanted(config) if not output.daemon_only]
        renders_json = [output for output in outputs if output.renders_json]
        context = Context(
            share=self._lane_bytes // max(1, len(outputs) + len(self._companions)),
            live=self._live,
            json_shared=len(renders_json) > 1,
            dropped=lambda: bool(self._handoff.drops()["handoff_dropped"]),
            add_counters=self.ledger.source,
            own_socket=self._capture.own_socket if self._live else None,
        )
        lanes = [output.lane(config, context) for output in outputs]
        return lanes + [companion.lane(context) for companion in self._companions]

    def _add(self, lane: Lane) -> None:
        self._lanes.append(lane)
        self._precedence.add(lane)
        shares = {lane: 1 if lane.gives_way else FIRM_SHARE for lane in self._lanes if not lane.closed.is_set()}
        for each, share in shares.items():
            each.allot(self._lane_bytes * share // sum(shares.values()))
        self.ledger.lane(lane.name, partial(asdict, lane.counters))

    def _opened(self, error: Exception | None) -> None:
        """From the capture thread: the capture is open, or cannot be."""
        self._loop.call_soon_threadsafe(self._resolve_open, error)

    def _resolve_open(self, error: Exception | None) -> None:
        if self._open_result.done():
            return
        if error is None:
            self._open_result.set_result(None)
        else:
            self._open_result.set_exception(error)

    def _wake(self) -> None:
        """From any thread: there is something in the hand-off."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._news.set)

    def _begin(self, run: Any) -> None:
        self._spawn(self._guard(run))

    def _spawn(self, run: Any) -> None:
        task = asyncio.create_task(run)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # The one task

    async def _guard(self, run: Any) -> None:
        reports = asyncio.create_task(self._report())
        try:
            await run
        except BaseException as error:
            self._failure = error
            self._capture.stop.set()
            self._handoff.drop_rest()
            log.error("the sniffer failed", exc_info=error)
        finally:
            reports.cancel()
            await self._end(self._failure or self._error)

    async def _run(self) -> None:
        self._pump_task = asyncio.create_task(self._pump())
        await asyncio.wait((self._pump_task,))
        if not self._pump_task.cancelled():
            self._pump_task.result()
        elif self._judge is not None:  # at the deadline everything is offered, and the lanes count what they drop
            self._judge.end()
            rest = self._judge.take()
            self._offer(rest, weigh(rest))
        self._state = "ending"
        self._handoff.drop_rest()  # nothing, unless the deadline came first
        await self._thread_end()
        self._error = self._handoff.error
        if self._error is not None:
            log.error("capture failed", extra={"fields": {"error": str(self._error)}})
        if self._lost_before is None:
            self._lost_before = self._lost()
        await self._drain()
        if self._error is not None and self.config.holds:
            await self._hold()

    async def _run_without_capture(self, error: SnifferError | None) -> None:
        self._error = error
        if error is not None:
            if not isinstance(error, ValidationError):  # said already, with all its problems
                what = "capture cannot be opened" if isinstance(error, CaptureError) else "cannot start"
                log.error(what, extra={"fields": {"error": str(error)}})
            await self._hold()
        await self._drain()

    async def _hold(self) -> None:
        self._state = "held"
        log.warning("nothing is captured; waiting to be stopped")
        await self._stop_called.wait()

    def _behind(self) -> bool:
        """Whether messages wait in the hand-off, or packets in the kernel, because this process is too slow."""
        return self._handoff.behind() or time.monotonic() - self._capture.source.caught_up > LAG_SECONDS

    async def _pump(self) -> None:
        handoff = self._handoff
        while True:
            ended = handoff.ended
            while (taken := handoff.take()) is not None:
                await self._pass_on(*taken)
            for event in handoff.take_events():
                self._watch.event(event)
            self._watch.drops(handoff.drops())
            if ended:
                if self._judge is not None:
                    self._judge.end()
                    await self._deliver(self._judge.take())
                return
            await self._wait_for_news()
            self._news.clear()

    async def _wait_for_news(self) -> None:
        """Waits for news of the hand-off. Meanwhile requests that have waited too long are judged alone."""
        if self._judge is None:
            await self._news.wait()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._judge.wait):
                await self._news.wait()
        self._judge.ripen()
        await self._deliver(self._judge.take())

    async def _pass_on(self, raws: Sequence[RawMessage], size: int) -> None:
        """Offers messages whose weight is `size` to every lane."""
        add = self.ledger.add
        count = len(raws)
        add("pump_waiting", count)
        if self._leaves_out is not None:
            raws = self._kept(raws, self._leaves_out)
            if len(raws) != count:
                add("pump_waiting", len(raws) - count)
                size = weigh(raws)
        if self._judge is not None:
            await self._put(self._judge, raws)
            raws = self._judge.take()
            size = weigh(raws)
        await self._deliver(raws, size)
        await asyncio.sleep(0)
        if self._live:
            await self._let_follow()

    async def _put(self, judge: Judge, raws: Sequence[RawMessage]) -> None:
        """Lets messages be judged, with their bodies decoded where that tells."""
        if not judge.needs_content:
            judge.put(raws)
            return
        while raws:
            part = raws[:JUDGED]
            try:
                part, _ = await self._part(part, weigh(part))
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                judge.put(raws)
                raise
            judge.put(part)
            raws = raws[len(part) :]

    async def _deliver(self, raws: Sequence[RawMessage], size: int | None = None) -> None:
        """Decodes bodies and offers messages whose weight is `size` to every lane, as many at a time as there is room
        for.
        """
        if self._stop_after is not None:
            count, size = len(raws), None
            raws = self._up_to_the_last(raws, self._stop_after)
            self.ledger.add("pump_waiting", len(raws) - count)
        size = weigh(raws) if size is None else size
        while raws:
            part, rest = raws, raws[:0]
            try:
                part, size = await self._part(raws, size)
                rest = raws[len(part) :]
                if not self._live:
                    for lane in self._lanes:
                        await lane.room()
            except asyncio.CancelledError:
                part, rest = raws, raws[:0]  # at the deadline everything is offered, and the lanes count what they drop
                size = weigh(part)
                raise
            finally:
                self._offer(part, size)
            raws, size = rest, weigh(rest)

    async def _let_follow(self) -> None:
        """Waits a moment for lanes that give way to catch up, as long as no other lane and no packet has to wait."""
        precedence = self._precedence
        until = time.monotonic() + FOLLOW_SECONDS
        while not precedence.yielding and time.monotonic() < until and (precedence.alone or not self._behind()):
            lane = next((lane for lane in precedence.giving if lane.crowded), None)
            if lane is None:
                return
            await lane.batch_done(LOOK_SECONDS)

    def _offer_to_those_that_give_way(self, raws: Sequence[RawMessage], *, made: bool) -> None:
        """Offers messages to the lanes that give way, a slice at a time. These lanes are charged with the time that it
        takes to make Python objects for them alone.
        """
        precedence = self._precedence
        at = 0
        while precedence.giving and at < len(raws):
            precedence.look()
            if precedence.yielding:
                for lane in precedence.giving:
                    lane.offer(raws[at:], 0)
                return
            part = raws[at : at + GIVING_SLICE]
            at += GIVING_SLICE
            with precedence.working():
                whole = part if made else self._with_messages(part)
                size = weigh(whole)
                for lane in precedence.giving:
                    lane.offer(whole, size)
                    lane.failed(len(part) - len(whole))

    async def _part(self, raws: Sequence[RawMessage], size: int) -> tuple[Sequence[RawMessage], int]:
        """Decodes the bodies of the first messages, as many as weigh `Budget.pump`; returns these and their weight.

        Bodies are decoded here and nowhere else: once for all outputs, in the order of the messages, on a thread.
        """
        from sniffer_core.core import coded

        most = self._budget.pump
        if self._decoder is not None and coded(raws):
            part, size, left = await self._decoder.call(partial(undo, raws, most))
            for reason, count in left.items():
                self.ledger.add(f"bodies_left_coded_{reason}" if reason else "bodies_decoded", count)
            return part, size
        if size > most and any(lane.sink.wants_messages for lane in self._precedence.firm):
            part, size, _ = undo(raws, most)
            return part, size
        return raws, size

    def _offer(self, raws: Sequence[RawMessage], size: int) -> None:
        """Offers messages whose weight is `size` to every lane, now."""
        add = self.ledger.add
        count = len(raws)
        firm = self._precedence.firm
        made = any(lane.sink.wants_messages for lane in firm)
        if made:
            raws = self._with_messages(raws)
            add("messages_failed", count - len(raws))
            add("pump_waiting", len(raws) - count)
            count, size = len(raws), weigh(raws)
        if raws:
            self._watch.lanes(bool(self._lanes))
            for lane in firm:
                lane.offer(raws, size)
            self._offer_to_those_that_give_way(raws, made=made)
            if self._judge is None:  # it has seen them before some were left out
                self._observe(raws)
        add("messages_offered", count)
        add("pump_waiting", -count)

    def _kept(self, raws: Sequence[RawMessage], leaves_out: Filter) -> Sequence[RawMessage]:
        kept = []
        for raw in raws:
            reason = leaves_out(raw)
            if reason is None:
                kept.append(raw)
            else:
                self.ledger.add(reason)
        return kept

    def _up_to_the_last(self, raws: Sequence[RawMessage], left: int) -> Sequence[RawMessage]:
        """The messages up to the last response that is wanted, `left` responses from here. With it the capture ends."""
        kept = raws if left else raws[:0]
        for at, raw in enumerate(kept, 1):
            left -= raw.direction == "response"
            if not left:
                kept = raws[:at]
                self._spawn(self.stop())
                break
        self._stop_after = left
        self.ledger.add("messages_excluded_behind", len(raws) - len(kept))
        return kept

    def _with_messages(self, raws: Sequence[RawMessage]) -> Sequence[RawMessage]:
        """Makes the HttpMessage of each record, and leaves out those for which that fails."""
        made = []
        for raw in raws:
            try:
                raw.message = from_raw(raw, self._placement)
            except Exception as error:  # a defect of the sniffer costs this one message
                self._watch.failed_message(error)
            else:
                made.append(raw)
        return made

    # End

    def _set_deadline(self, deadline: float) -> None:
        """Ends everything by `deadline`, in `time.monotonic` seconds; an earlier deadline stays."""
        self._deadline = deadline if self._deadline is None else min(deadline, self._deadline)
        if self._state in ("new", "stopped"):
            return
        self._loop.call_later(max(0.0, self._deadline - time.monotonic()), self._expire)
        for lane in self._lanes:
            if self._draining:
                self._spawn(lane.drain(self._deadline))
            else:
                lane.hurry(self._deadline)

    def _expire(self) -> None:
        self._capture.stop.set()
        if self._pump_task is not None:
            self._pump_task.cancel()

    async def _thread_end(self) -> None:
        """Waits for the capture thread to end, but not for long."""
        try:
            async with asyncio.timeout(THREAD_END_SECONDS):
                while not self._handoff.ended:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            log.error("capture thread does not end and is left behind")

    async def _drain(self) -> None:
        self._draining = True
        self._precedence.close()
        await asyncio.gather(*(lane.drain(self._deadline) for lane in self._lanes))

    async def _end(self, error: BaseException | None) -> None:
        """Closes every lane and logs the end. Iterators raise `error` after their last message."""
        for sink in self._iterators:
            sink.error = error
        if self._decoder is not None:
            self._decoder.end()
        failures = await asyncio.gather(*(lane.close() for lane in self._lanes), return_exceptions=True)
        for lane, failure in zip(self._lanes, failures, strict=True):
            if failure is not None:
                log.error("an output does not close", exc_info=failure, extra={"fields": {"sink": lane.name}})
                if error is None:
                    self._failure = failure
        if self._state not in ("new", "starting"):
            self._say_end()
        self._state = "stopped"
        self._finished.set()

    async def _pause(self, seconds: float) -> None:
        waits = [asyncio.create_task(event.wait()) for event in (self._aborted, self._finished)]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def _lost(self) -> int:
        snapshot = self.ledger.snapshot()
        lost: int = snapshot["handoff_dropped"] + snapshot["handoff_discarded"] + snapshot["messages_failed"]
        for counters in snapshot["lanes"].values():
            lost += sum(
                count for name, count in counters.items() if name.startswith("dropped_") and name not in NOT_LOST
            )
        return lost

    # Log

    def _say_start(self) -> None:
        config = self.config
        fields: dict[str, Any] = {
            "version": __version__,
            "ports": list(config.ports),
            "outputs": [lane.name for lane in self._lanes],
            "sampleRate": config.sample_rate,
            "memoryBudget": config.memory_budget,
            "memoryAtMost": promised(resident(), config.memory_budget, _working(config)),
        }
        if self._live:
            fields["interface"] = self._capture.source.name
            fields["loopback"] = self._capture.source.is_loopback()
        else:
            fields |= {"file": self.where} if len(self.config.read) == 1 else {"files": list(self.config.read)}
        placement = {"pod": config.pod_name, "namespace": config.namespace, "node": config.node_name}
        if self._placement is not None:
            fields["placement"] = {name: value for name, value in placement.items() if value is not None}
        log.info("started", extra={"fields": fields})

    async def _report(self) -> None:
        """Statistics at every interval, and once that nothing was seen."""
        if self._live and self._state == "running":
            self._loop.call_later(NOTHING_SEEN_SECONDS, self._say_nothing_seen)
        interval = self.config.stats_interval_ms / 1000
        while interval:
            await asyncio.sleep(interval)
            if self.held:
                said = next(said for kind, said in HELD_FOR.items() if isinstance(self._error, kind))
                log.error(said, extra={"fields": {"error": str(self._error)}})
            else:
                self._watch.statistics()
            for lane in self._lanes:
                lane.report()

    def _say_nothing_seen(self) -> None:
        if self._state == "running":
            self._watch.nothing_seen(self._capture.source.name, self.config.ports)

    def _say_end(self) -> None:
        for call in self.before_end:
            call()
        self._final = snapshot = self.ledger.snapshot()
        self._watch.statistics()
        for sentence in self.ledger.check(snapshot):
            log.error("the ledger does not balance", extra={"fields": {"law": sentence}})
        ledger = {name: value for name, value in snapshot.items() if value and name != "lanes"}
        fields = {"undelivered": self.undelivered, "lanes": snapshot["lanes"], "ledger": ledger}
        log.info("stopped", extra={"fields": fields, "for_programs": ("ledger",)})


def _places(config: SnifferConfig) -> list[Place]:
    """Where the outputs post to."""
    return [place for output in wanted(config) for place in output.posts_to(config)]


async def _nothing(error: BaseException | None) -> AsyncIterator[HttpMessage]:
    """The iterator of a sniffer that has ended."""
    nothing: tuple[HttpMessage, ...] = ()
    for message in nothing:
        yield message
    if error is not None:
        raise error
