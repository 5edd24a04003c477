"""The sniffer: capture thread -> hand-off -> pump -> lanes, and the stop that loses nothing.

    capture thread --HandOff--> pump --offer--> Lane (one for each output, callback, iterator) --> Sink

One task runs from the open capture to the last log line (`_run`): it pumps until the capture has ended, drains the
lanes, closes them. `stop()` only gives the signal and sets the deadline, and waits for that task.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict
from fnmatch import translate
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self
from uuid import uuid4

from sniffer import __version__
from sniffer.capture.file import FileSource
from sniffer.capture.handoff import HandOff
from sniffer.capture.live import LiveSource
from sniffer.capture.source import Event, Source
from sniffer.capture.thread import Capture
from sniffer.config import SnifferConfig
from sniffer.delivery.lane import Lane
from sniffer.delivery.precedence import Precedence
from sniffer.delivery.queues import ByConnection, weigh
from sniffer.delivery.retry import Retries
from sniffer.delivery.sink import Sink, where
from sniffer.delivery.threads import CallThread
from sniffer.errors import CaptureError, SnifferError, ValidationError
from sniffer.exchanges import ByExchange, ExchangeSink
from sniffer.ledger import CORE, RENAMED_GAUGES, Ledger, Snapshot
from sniffer.memory import for_traffic, promised, resident
from sniffer.message import HttpMessage, Placement, decode, decoder_bytes, from_raw
from sniffer.outputs.callback.sink import CallbackSink
from sniffer.outputs.iterator import IteratorSink
from sniffer.outputs.stdout.sink import StdoutSink
from sniffer.outputs.url import INSTANCE_HEADER

if TYPE_CHECKING:
    from sniffer_core.core import FlowTable, RawMessage

log = logging.getLogger("sniffer")

NOTHING_SEEN_SECONDS: Final = 30.0
BEAT_SECONDS: Final = 5.0
"""A capture thread that has not shown itself for so long is stuck."""
PATIENCE_SECONDS: Final = 30.0
"""An output of exchanges shows a request of a live capture alone when it has waited so long for its response."""
LAG_SECONDS: Final = 0.1
"""A capture that has not read all there was for so long is behind."""
FOLLOW_SECONDS: Final = 0.1
"""The pump waits so long at most, each time, for a lane that gives way to follow."""
LOOK_SECONDS: Final = 0.01
"""While it waits it looks this often whether it may."""
GIVING_SLICE: Final = 128
"""Messages that are made at a time for lanes that give way."""
FIRM_SHARE: Final = 4
"""A lane that stands has so many times the bytes of one that gives way."""
THREAD_END_SECONDS: Final = 1.0
"""A capture thread that has not ended so long after the deadline is left behind."""
PART: Final = 32
"""What the pump makes of messages before it offers them, plain bodies and Python objects, it makes of as many at a time
as weigh this part of the budget: the lanes may have no room for more."""
WORKING: Final = {
    "capture": 2 << 20,
    "stdout": 3 << 19,
    "url": 2 << 20,
    "har": 3 << 19,
    "ui": 1 << 20,
    "callback": 1 << 19,
}
"""Bytes that each part works with beside what waits in its queue: a batch of packets, records being rendered, posts
under way. `python -m tests.adversarial` measures them together."""
CARRY: Final = ("user-agent", "host", INSTANCE_HEADER.lower())
"""Request fields that the filters look at."""

EVENTS: Final = {
    "tls": (logging.INFO, "TLS on a captured port: its messages cannot be read; capture where the plain text is"),
    "http2": (logging.INFO, "HTTP/2 on a captured port: its messages are not read"),
    "other-protocol": (logging.INFO, "a captured port speaks something other than HTTP/1.x"),
    "undecided": (logging.INFO, "a connection was given up: neither side spoke a start line"),
    "tunnel": (logging.INFO, "a connection became a tunnel (101, or a 2xx to CONNECT): the rest of it is not read"),
    "snapped": (logging.WARNING, "packets longer than the snapshot length were cut: bytes of messages are missing"),
    "long-message": (logging.INFO, "a message has been open for 60 s; it is emitted when it ends"),
}
"""How each kind of event of the core is said, the first time; after that at debug level, once per connection."""

DROPS: Final = {
    "kernel_dropped": "the kernel drops packets: its buffer is full",
    "kernel_if_dropped": "the interface drops packets",
    "handoff_dropped": "messages are dropped: the hand-off is full",
}

NOT_LOST: Final = ("dropped_closed", "dropped_yielded")
"""What an output did not get because nobody reads it any more, or because it gave way to those that must have all."""

EVICTIONS: Final = (
    "flows_evicted_silent",
    "flows_evicted_capacity",
    "flows_evicted_memory",
    "holds_evicted",
    "bodies_evicted",
)

HELD_FOR: Final[Mapping[type[SnifferError], str]] = {
    CaptureError: "capture has failed; waiting to be stopped",
    ValidationError: "the configuration is wrong; waiting to be stopped",
    SnifferError: "the start has failed; waiting to be stopped",
}
"""What is said at every statistics interval of what keeps it from capturing."""

TUNNELS: Final = {
    counter.name: counter.meaning.removeprefix("inside ").removesuffix(", not read")
    for counter in CORE
    if counter.name.startswith("packets_tunnel_")
}
"""What each kind of tunnel is called."""

State = Literal["new", "starting", "running", "ending", "held", "stopped"]


def create_sniffer(config: SnifferConfig | None = None, **options: Any) -> Sniffer:
    """A Sniffer from a SnifferConfig, or from the keywords of one. ValidationError with every problem."""
    if config is None:
        config = SnifferConfig(**options)
    elif options:
        raise TypeError("create_sniffer takes a SnifferConfig or keywords, not both")
    return Sniffer(config)


def traffic_budget(config: SnifferConfig) -> int:
    """What traffic may fill of the budget: all of it, unless that is too small for what the process works with."""
    return for_traffic(config.memory_budget, _working(config))


def _working(config: SnifferConfig) -> int:
    """Bytes that the process works with."""
    working = WORKING["capture"]
    if config.decode_bodies and config.max_body_size:
        working += decoder_bytes(config.max_body_size)
    for name, used in (
        ("stdout", config.output_stdout),
        ("url", config.output_url),
        ("har", config.har),
        ("ui", config.ui_address),
        ("callback", config.on_http_message),
    ):
        if used:
            working += WORKING[name]
    return working


class Sniffer:
    """One capture, from start to stop; it cannot be started again. Belongs to one event loop.

    `async with` starts and stops it; `async for` gives its messages. Each iterator is a lane of its own and gets the
    messages from its making on: one made before `start()`, or right after it, gets them all.
    """

    def __init__(self, config: SnifferConfig, *, view: ExchangeSink | None = None) -> None:
        """`view` is one more output: a sink that gets its messages by exchanges (`sniffer.exchanges`)."""
        self.config = config
        """What it was made from."""
        self.ledger = Ledger()
        """Every counter, at any time."""
        self._view = view
        self._decoder = CallThread("sniffer decoder") if config.decode_bodies and config.max_body_size else None
        self._budget = traffic_budget(config)
        quarter = self._budget // 4
        self._lane_bytes = quarter - (view.keeps if view is not None else 0)
        self.observe: Callable[[Sequence[RawMessage]], None] | None = None
        """Called on the loop with messages as they are offered to the lanes, e.g. for a histogram. Must not raise."""
        self.before_end: list[Callable[[], None]] = []
        """Called on the loop before the last line of the log, e.g. to log what is left to say. Must not raise."""
        self.began = False
        """The capture has been open."""
        self._state: State = "new"
        self._live = not config.read
        sources: list[Source] = [FileSource(path) for path in config.read] or [
            LiveSource(config.interface, ports=config.ports, buffer_size=config.capture_buffer_size)
        ]
        self._handoff = HandOff(max_bytes=quarter, wait=not self._live, wake=self._wake)
        self._capture = Capture(
            sources[0],
            self._make_table,
            self._handoff,
            opened=self._opened,
            gauge_names=RENAMED_GAUGES,
            then=sources[1:],
        )
        where_it_runs = (config.pod_name, config.namespace, config.node_name)
        self._placement = Placement(*where_it_runs) if any(where_it_runs) else None
        self._leaves_out = _filters(config, live=self._live)
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
        self._watch = _Watch(self.ledger, live=self._live)
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
        """In place of `start()`, which `error` made impossible: says so, again and again, and waits for `stop()`."""
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

        Raises the CaptureError of a capture that failed; with `on_capture_error="hold"` not before `stop()`, and then
        the error of a start that failed too.
        """
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
        if self._finished.is_set():
            return _nothing(self._failure or self._error)
        sink = IteratorSink()
        self._iterators.append(sink)
        self._add(Lane(sink, max_bytes=self._lane_bytes))
        return sink.messages()

    # For the daemon

    @property
    def ready(self) -> bool:
        """The capture is open, and not about to end."""
        return self._state == "running" and not self._stop_called.is_set()

    @property
    def healthy(self) -> bool:
        """The capture thread is alive, waits for somebody else, or has ended. (Who asks on the loop knows that the loop
        is alive.)
        """
        capture = self._capture
        return not capture.is_alive() or capture.source.waiting or time.monotonic() - capture.beat < BEAT_SECONDS

    @property
    def held(self) -> bool:
        """The capture, or the start, has failed and `on_capture_error="hold"`: it waits for `stop()`."""
        return self._state == "held"

    @property
    def where(self) -> str:
        """The interface, or the file."""
        return self._capture.source.name

    def progress(self) -> tuple[int, int] | None:
        """Bytes of the files that are read, and their size; None for an interface or a pipe."""
        return self._capture.progress()

    async def outputs_closed(self) -> None:
        """Returns when every output is gone before its time: a closed pipe, a terminal that was hung up."""
        for lane in self._lanes:
            await lane.closed.wait()

    @property
    def undelivered(self) -> int:
        """Messages dropped by a lane or the hand-off since the stop (reading a file: since the start), and those of
        which no record could be made. Not those of an output that its reader has closed.
        """
        return 0 if self._lost_before is None else self._lost() - self._lost_before

    # Start

    def _enter(self) -> None:
        """It is started once."""
        if self._state != "new":
            raise RuntimeError(f"a sniffer is started once; this one is {self._state}")
        self._state = "starting"
        self._loop = asyncio.get_running_loop()

    def _make_table(self, linktype: int) -> FlowTable:
        from sniffer_core.core import FlowTable

        config = self.config
        return FlowTable(
            linktype=linktype,
            ports=config.ports,
            max_body=config.max_body_size,
            max_flows=config.max_concurrent_connections,
            idle_timeout_us=config.connection_idle_timeout_ms * 1000,
            memory_limit=self._budget // 2,
            sample_rate=config.sample_rate,
            carry=CARRY if self._leaves_out is not None else (),
            redact_headers=config.redact_headers,
            redact_query=config.redact_query,
            redact_key=config.redact_key,
            placement=(config.pod_name, config.namespace, config.node_name),
            decode=decode if config.decode_bodies else None,
        )

    def _make_lanes(self) -> list[Lane]:
        config = self.config
        count = sum(
            (
                config.output_stdout,
                config.output_url is not None,
                config.on_http_message is not None,
                self._view is not None,
                config.har is not None,
            )
        )
        share = self._lane_bytes // max(1, count)
        lanes = []
        if config.output_stdout:
            stdout = StdoutSink(shared=config.output_url is not None, max_line=config.output_stdout_max_line)
            lanes.append(Lane(stdout, max_bytes=share))
        if config.on_http_message is not None:
            lanes.append(Lane(CallbackSink(config.on_http_message), max_bytes=share))
        if self._view is not None:
            lanes.append(self._exchange_lane(self._view, share))
        if config.har is not None:
            from sniffer.outputs.har.file import HarSink  # seldom needed

            lanes.append(self._exchange_lane(HarSink(config.har, version=__version__), share))
        if config.output_url is not None:
            from sniffer.outputs.url.collector import UrlSink  # seldom needed where stdout is

            token = config.output_url_auth_token
            sink = UrlSink(
                config.output_url,
                instance=uuid4().hex,
                token=token.reveal() if token is not None else None,
                timeout=config.output_timeout_ms / 1000,
                concurrency=config.output_concurrency,
                batches=config.output_batch_size > 1,
                gzip=config.output_gzip,
                ca_file=config.output_ca_file,
                user_agent=f"tcp-sniffer/{__version__}",
                on_socket=self._capture.own_socket if self._live else None,
            )
            lanes.append(self._make_url_lane(sink, share))
        return lanes

    def _exchange_lane(self, sink: ExchangeSink, share: int) -> Lane:
        queue = ByExchange(max_bytes=share // 4, patience=PATIENCE_SECONDS if self._live else None)
        lane = Lane(sink, max_bytes=share, queue=queue, gives_way=self._live)
        counters = lane.counters
        sink.lossy = lambda: bool(
            counters.dropped_full or counters.dropped_yielded or self._handoff.drops()["handoff_dropped"]
        )
        return lane

    def _make_url_lane(self, sink: Sink, share: int) -> Lane:
        config = self.config
        workers, size = config.output_concurrency, config.output_batch_size
        wait = config.output_batch_wait_ms / 1000
        if config.spool_dir is None:
            return Lane(
                sink,
                max_bytes=share,
                queue=ByConnection(workers=workers, size=size, wait=wait),
                retries=Retries(),
            )
        from sniffer.delivery.spool import Spool  # seldom needed
        from sniffer.delivery.store import Store

        spool = Spool(
            Store(Path(config.spool_dir), config.spool_size),
            max_bytes=share,
            workers=workers,
            size=size,
            wait=wait,
            evict=self._live,
            holds=self.config.holds,
        )
        self.ledger.source(spool.disk_counters)
        return Lane(sink, max_bytes=spool.unwritten_bytes, source=spool, retries=Retries(until_final=True))

    def _add(self, lane: Lane) -> None:
        self._lanes.append(lane)
        self._precedence.add(lane)
        shares = {lane: 1 if lane.gives_way else FIRM_SHARE for lane in self._lanes if not lane.closed.is_set()}
        for each, share in shares.items():
            each.max_bytes = self._lane_bytes * share // sum(shares.values())
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
        """Whether messages back up before the lanes, or packets before the capture thread."""
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
                return
            await self._news.wait()
            self._news.clear()

    async def _pass_on(self, raws: list[RawMessage], size: int) -> None:
        """Offers messages whose weight is `size` to every lane."""
        add = self.ledger.add
        count = len(raws)
        add("pump_waiting", count)
        if self._leaves_out is not None:
            raws = self._kept(raws, self._leaves_out)
            add("pump_waiting", len(raws) - count)
            if len(raws) != count:
                size = weigh(raws)
        while raws:
            part, rest = raws, raws[:0]
            try:
                part, size = await self._part(raws, size)
                rest = raws[len(part) :]
                if not self._live:
                    for lane in self._lanes:
                        await lane.room()
            except asyncio.CancelledError:
                part, rest = raws, raws[:0]  # the deadline: the lanes count what they drop
                size = weigh(part)
                raise
            finally:
                self._offer(part, size)
            raws, size = rest, weigh(rest)
        await asyncio.sleep(0)
        if self._live:
            await self._let_follow()

    async def _let_follow(self) -> None:
        """Waits a moment for lanes that give way, as long as that costs nobody anything."""
        precedence = self._precedence
        until = time.monotonic() + FOLLOW_SECONDS
        while not precedence.yielding and time.monotonic() < until and (precedence.alone or not self._behind()):
            lane = next((lane for lane in precedence.giving if lane.crowded), None)
            if lane is None:
                return
            await lane.batch_done(LOOK_SECONDS)

    def _offer_to_those_that_give_way(self, raws: list[RawMessage], *, made: bool) -> None:
        """Offers messages, some at a time: what is made for these lanes alone is their work too."""
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

    async def _part(self, raws: list[RawMessage], size: int) -> tuple[list[RawMessage], int]:
        """The first of these messages, their bodies without content codings; and their weight.

        Bodies are decoded here and nowhere else: once for all outputs, in the order of the messages, and on a thread.
        """
        from sniffer_core.core import coded

        most = self._budget // PART
        if self._decoder is not None and coded(raws):
            part, size, left = await self._decoder.call(partial(_undo, raws, most))
            for reason, count in left.items():
                self.ledger.add(f"bodies_left_coded_{reason}" if reason else "bodies_decoded", count)
            return part, size
        if size > most and any(lane.sink.wants_messages for lane in self._precedence.firm):
            part, size, _ = _undo(raws, most)
            return part, size
        return raws, size

    def _offer(self, raws: list[RawMessage], size: int) -> None:
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
            if self.observe is not None:
                self.observe(raws)
        add("messages_offered", count)
        add("pump_waiting", -count)

    def _kept(self, raws: list[RawMessage], leaves_out: Filter) -> list[RawMessage]:
        kept = []
        for raw in raws:
            reason = leaves_out(raw)
            if reason is None:
                kept.append(raw)
            else:
                self.ledger.add(reason)
        return kept

    def _with_messages(self, raws: list[RawMessage]) -> list[RawMessage]:
        """Gives each its HttpMessage, and leaves out those that cannot have one."""
        made = []
        for raw in raws:
            try:
                raw.message = from_raw(raw, self._placement)
            except Exception as error:  # a defect of ours must not cost more than the message that shows it
                self._watch.failed_message(error)
            else:
                made.append(raw)
        return made

    # End

    def _set_deadline(self, deadline: float) -> None:
        """Everything that is under way ends by then."""
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
        """Waits for the capture thread, which has nothing to wait for any more."""
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
        """Closes every lane and says how it went. Iterators end with `error`, once all is taken."""
        for sink in self._iterators:
            sink.error = error
        if self._decoder is not None:
            self._decoder.end()
        for failure in await asyncio.gather(*(lane.close() for lane in self._lanes), return_exceptions=True):
            if failure is not None:
                log.error("an output does not close", exc_info=failure)
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
        log.info("stopped", extra={"fields": fields})


class _Watch:
    """What the log says about traffic and losses: once per kind, or once per interval, with counts."""

    def __init__(self, ledger: Ledger, *, live: bool) -> None:
        self._ledger = ledger
        self._live = live
        self._kinds: set[str] = set()
        self._last: Mapping[str, Any] = ledger.snapshot()
        self._dropping: set[str] = set()
        self._failed_said = self._no_lane_said = False

    def event(self, event: Event) -> None:
        """An event of the core: said once per kind, and for each connection at debug level."""
        kind, receiver, destination = event
        level, text = EVENTS.get(kind, (logging.INFO, kind))
        fields = {
            "kind": kind,
            "receiver": f"{receiver[0]} port {receiver[1]}",
            "destination": f"{destination[0]} port {destination[1]}",
        }
        if kind not in self._kinds:
            self._kinds.add(kind)
            log.log(level, text, extra={"fields": fields})
        else:
            log.debug(text, extra={"fields": fields})

    def drops(self, now: Mapping[str, int]) -> None:
        """Warns when drops begin: at the first one, and at the first of each interval after that."""
        for name, count in now.items():
            if count > self._last[name] and name not in self._dropping:
                self._dropping.add(name)
                log.warning(DROPS[name], extra={"fields": {"count": count}})

    def statistics(self) -> None:
        """The line of each interval, and what was evicted in it."""
        now = self._ledger.snapshot()
        fields: dict[str, Any] = {}
        if self._live:
            fields = {
                "packetsReceived": now["kernel_received"],
                "packetsDropped": now["kernel_dropped"],
                "packetsIfDropped": now["kernel_if_dropped"],
            }
        fields |= {
            "packetsSeen": now["packets_seen"],
            "messages": now["messages_request"] + now["messages_response"],
            "connections": now["flows"],
            "tls": now["flows_tls"],
            "http2": now["flows_http2"],
            "memoryBytes": now["memory_bytes"],
            "handoffDropped": now["handoff_dropped"],
        }
        log.info("Capture stats", extra={"fields": fields})
        for name, tunnel in TUNNELS.items():
            if now[name] > self._last[name]:
                count = "1 packet" if now[name] == 1 else f"{now[name]:,} packets"
                text = f"{count} inside {tunnel}, not read"
                log.warning(text, extra={"fields": {"count": now[name]}})
        evicted = {name: count for name in EVICTIONS if (count := now[name] - self._last[name])}
        if evicted:
            log.warning("evicted since the last statistics", extra={"fields": evicted})
        self._last = now
        self._dropping.clear()

    def nothing_seen(self, interface: str, ports: Sequence[int]) -> None:
        """Says that there is no message yet, and what to check."""
        now = self._ledger.snapshot()
        if now["messages_request"] + now["messages_response"]:
            return
        log.warning(
            "nothing seen for 30 s: check the interface, the ports, and whether the traffic is plain HTTP/1.x"
            " (behind a service mesh the plain text is on lo)",
            extra={
                "fields": {
                    "interface": interface,
                    "ports": list(ports),
                    "packetsSeen": now["packets_seen"],
                    "tls": now["flows_tls"],
                    "http2": now["flows_http2"],
                }
            },
        )

    def lanes(self, any_lane: bool) -> None:
        """Warns once when messages go nowhere."""
        if not any_lane and not self._no_lane_said:
            self._no_lane_said = True
            log.warning("no output, callback or iterator: messages are discarded")

    def failed_message(self, error: Exception) -> None:
        """A message could not be made into a record: said once, with the place and nothing of the message."""
        if not self._failed_said:
            self._failed_said = True
            fields = {"error": where(error)}
            log.error(
                "a message could not be made into a record; further ones are only counted", extra={"fields": fields}
            )


def _undo(raws: list[RawMessage], most: int) -> tuple[list[RawMessage], int, Counter[str]]:
    """The first of these messages, up to the one with which they weigh `most`, without content codings; their weight;
    and how many bodies had one, by why it was left.
    """
    left: Counter[str] = Counter()
    size = 0
    for count, raw in enumerate(raws, 1):
        reason = raw.decode()
        if reason is not None:
            left[reason] += 1
        size += raw.weight
        if size >= most:
            return raws[:count], size, left
    return raws, size, left


async def _nothing(error: BaseException | None) -> AsyncIterator[HttpMessage]:
    """The iterator of a sniffer that has ended."""
    nothing: tuple[HttpMessage, ...] = ()
    for message in nothing:
        yield message
    if error is not None:
        raise error


Filter = Callable[["RawMessage"], str | None]


def _filters(config: SnifferConfig, *, live: bool) -> Filter | None:
    """What says of a message under which counter it is left out, None if it is not; None where nothing can be."""
    paths, agents = _globs(config.exclude_paths), _globs(config.exclude_user_agents)
    hosts, path_of_url = _place_of(config.output_url) if config.output_url is not None and live else (set(), "")
    if paths is None and agents is None and not hosts:
        return None

    def leaves_out(raw: RawMessage) -> str | None:
        target = raw.path
        if raw.carried is None or target is None:
            return None
        path = target if target.startswith("/") else _path_of(target)
        agent, host, instance = raw.carried
        posted = instance is not None and raw.method == "POST"
        if posted and (host or "").lower() in hosts and path.partition("?")[0] == path_of_url:
            return "messages_foreign"
        if paths is not None and (paths(path) or (path is not target and paths(target))):
            return "messages_excluded_path"
        if agents is not None and agent is not None and agents(agent):
            return "messages_excluded_user_agent"
        return None

    return leaves_out


def _place_of(url: str) -> tuple[set[str], str]:
    """What the Host field of a request to a URL may say, and the path of its target."""
    from yarl import URL

    parts = URL(url)
    host = str(parts.host_subcomponent)
    return {host, f"{host}:{parts.port}"}, parts.raw_path


def _path_of(target: str) -> str:
    """The path and query of a request target, whichever its form (RFC 9112 section 3.2); an authority and `*` have none
    and stay as they are.
    """
    absolute = re.match(r"[A-Za-z][A-Za-z0-9+.\-]*://[^/?#]*", target)
    if absolute is None:
        return target
    path = target[absolute.end() :]
    return path if path.startswith("/") else f"/{path}"


def _globs(globs: Sequence[str]) -> Callable[[str], bool] | None:
    """Whether a text matches one of the globs, with its query or without."""
    if not globs:
        return None
    pattern = re.compile("|".join(map(translate, globs)))

    @lru_cache(maxsize=1024)
    def matches(text: str) -> bool:
        return pattern.match(text) is not None or pattern.match(text.partition("?")[0]) is not None

    return matches
