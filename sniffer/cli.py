"""The daemon: arguments and environment -> configuration -> run -> exit code. The only module that ends the process."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from sniffer import __version__, logs, memory, presence, signals
from sniffer import config as config_module
from sniffer.capture import privileges
from sniffer.config import SnifferConfig, split_address
from sniffer.errors import EXIT_CONFIG, EXIT_OK, EXIT_RUNTIME, Problem, SnifferError, ValidationError
from sniffer.flags import FlagParser
from sniffer.options import FALSE

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sniffer.outputs.terminal.view import Facts, Screen
    from sniffer.outputs.ui.server import Server
    from sniffer.outputs.ui.store import LiveSink
    from sniffer.pipeline import Sniffer

log: Final = logging.getLogger("sniffer")

DESCRIPTION: Final = """\
Captures HTTP/1.x between other programs, passively, and writes each request and response as one JSON object.
"""
EPILOG: Final = """\
examples:
  tcp-sniffer --ports 8080                             at a terminal: one readable line for each exchange
  tcp-sniffer doctor --ports 8080                      what stops one from seeing traffic
  tcp-sniffer --ports 8080 --interface eth0 --stdout
  tcp-sniffer --ports 8080 --ui                        a page for a browser; its address is in the log
  tcp-sniffer --ports 80,8080 --read capture.pcap --stdout | jq .path
  tcp-sniffer --ports 8080 --output-url https://collector.example/messages

Each option can be given by the variable in brackets too; a flag beats its variable. Variables only:
{variables}
exit codes: 0 success or a clean stop, 1 wrong configuration, 2 everything else
"""


class _ListInterfaces(argparse.Action):
    """`--list-interfaces`, which needs no other option."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from sniffer.doctor import list_interfaces

        print("\n".join(list_interfaces()))
        parser.exit()


def _parser() -> FlagParser:
    silent = [option for option in SnifferConfig.options().values() if option.variable and not option.flag]
    width = max(len(str(option.variable)) for option in silent) + 2
    parser = FlagParser(
        SnifferConfig,
        config_module.GROUPS,
        prog="tcp-sniffer",
        usage="tcp-sniffer --ports PORT,PORT [--interface NAME | --read FILE ...]\n"
        "                   [--stdout | --output-url URL | --har FILE | --ui] [options]",
        description=DESCRIPTION,
        epilog=EPILOG.format(variables="".join(f"  {option.variable:<{width}}{option.help}\n" for option in silent)),
    )
    parser.help_group.add_argument(
        "--version", action="version", version=f"tcp-sniffer {__version__}", help="show the version"
    )
    parser.help_group.add_argument(
        "--list-interfaces", action=_ListInterfaces, nargs=0, help="show what can be captured on"
    )
    return parser


def _doctor_parser() -> FlagParser:
    parser = FlagParser(
        SnifferConfig,
        (config_module.CAPTURE, config_module.LIMITS),
        prog="tcp-sniffer doctor",
        usage="tcp-sniffer doctor --ports PORT,PORT [--interface NAME] [--seconds N]",
        description="Says what stops one from seeing traffic. Exit code 0: nothing does; 2: what begins with `no`.\n",
    )
    parser.help_group.add_argument("--seconds", metavar="N", help="how long to capture (default: 5)")
    return parser


def _doctor(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """`tcp-sniffer doctor`."""
    from sniffer import doctor
    from sniffer.capture.source import Stop

    flags, problems = _doctor_parser().texts(arguments)
    seconds = flags.pop("seconds", str(doctor.SECONDS))
    if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]+)?", seconds) or not float(seconds):
        problems.append(Problem("seconds", "seconds must be a number above 0"))
    config = SnifferConfig.from_texts({**SnifferConfig.texts_of(environ), **flags}, problems)
    _load(config)
    privileges.raise_net_raw()
    stop = Stop()
    signals.take(lambda *_: stop.set())
    return doctor.run(config, seconds=float(seconds), stop=stop)


def _texts(arguments: Sequence[str], environ: Mapping[str, str]) -> tuple[dict[str, str], list[Problem]]:
    """What flags and variables give, by keyword, and the problems of the flags."""
    flags, problems = _parser().texts(arguments)
    return {**SnifferConfig.texts_of(environ), **flags}, problems


def configure(
    arguments: Sequence[str], environ: Mapping[str, str], *, at_terminal: bool = False, **keywords: Any
) -> SnifferConfig:
    """The daemon's configuration from flags, variables and `keywords`; `ValidationError` with every problem.

    `at_terminal` says that a person reads standard output: outside of production and of a pod, no output need be named
    then, and the log begins at warnings where it is not told otherwise. `--help` and `--version` print and raise
    SystemExit(0).
    """
    texts, problems = _texts(arguments, environ)
    try:
        config = SnifferConfig.from_texts(texts, problems, **keywords)
    except ValidationError as error:
        problems = list(error.problems)
    else:
        if config.has_output or config.on_http_message is not None:
            return config
        if at_terminal and not (config.production or config.pod_name or config.namespace or config.node_name):
            return SnifferConfig.from_texts({"log_level": "warning", **texts}, **keywords)
    if "output_url" not in texts and texts.get("output_stdout", "no").strip().lower() in FALSE:
        problems.append(_NO_OUTPUT)
    raise ValidationError(problems)


_NO_OUTPUT: Final = Problem(
    "output_stdout",
    "no output is named: --stdout writes the messages to standard output, --output-url posts them, --har keeps them,"
    " --ui shows them in a browser",
)
WRITE_SECONDS: Final = 1.0
"""A write to a file that takes longer is not waited for at the end."""
BAR_AFTER_SECONDS: Final = 1.0
"""A file that is read in less gets no progress bar."""


def run(arguments: Sequence[str], **keywords: Any) -> int:
    """Runs the daemon and returns its exit code. `--help` and `--version` raise SystemExit(0).

    `keywords` are SnifferConfig's, for a program that is a daemon with a callback: `leave(run(sys.argv[1:],
    on_http_message=f))`.
    """
    try:
        secrets = [os.environ.get("OUTPUT_URL_AUTH_TOKEN", "").strip()]
        logs.configure(secrets=secrets)
        if arguments and arguments[0] == "doctor":
            return _doctor(arguments[1:], os.environ)
        failed: SnifferError | None = None
        try:
            config = configure(arguments, os.environ, at_terminal=os.isatty(1), **keywords)
        except ValidationError as error:
            held = SnifferConfig.to_hold(_texts(arguments, os.environ)[0])
            if held is None:
                raise
            config, failed = held, error
            _report(error)
        screen = _screen(config) if failed is None else None
        placement = {"pod": config.pod_name, "namespace": config.namespace, "node": config.node_name}
        logs.configure(
            level=config.log_level,
            form=config.log_format,
            placement={name: value for name, value in placement.items() if value},
            secrets=[*secrets, config.output_url_auth_token.reveal()] if config.output_url_auth_token else secrets,
            stream=screen.log if screen is not None else None,
        )
        threading.excepthook = _log_thread
        # The capture thread hands over often; by default each hand-off would wait 5 ms behind a busy loop.
        sys.setswitchinterval(0.001)
        memory.share_heap(config.memory_budget)
        privileges.raise_descriptors()
        try:
            _load(config)
        except SnifferError as error:
            if not config.holds:
                raise
            failed = failed or error
        if not privileges.confine(capture=not config.read and failed is None):
            log.warning("capabilities cannot be given up: the process keeps those that it has")
        runner = asyncio.Runner()
        try:
            return runner.run(_Daemon(config, screen, failed).run())
        finally:
            # Only the loop: closing the runner would wait for threads, and one may be stuck in a write.
            runner.get_loop().close()
    except ValidationError as error:
        _report(error)
        return EXIT_CONFIG
    except SnifferError as error:
        log.error(str(error))
        return error.exit_code
    except ImportError as error:
        log.error("cannot start: an import failed", extra={"fields": {"error": str(error)}})
        return EXIT_RUNTIME
    except Exception:
        log.exception("uncaught exception")
        return EXIT_RUNTIME


def _has_view(config: SnifferConfig) -> bool:
    """Whether exchanges are shown at the terminal; `configure` allows no output only there."""
    return not config.has_output and config.on_http_message is None


def _screen(config: SnifferConfig) -> Screen | None:
    """The terminal to draw on: standard output for the view, standard error for the progress of reading a file."""
    if _has_view(config):
        number = 1
    elif (
        any(Path(file).is_file() for file in config.read)
        and os.isatty(2)
        and not (config.output_stdout and os.isatty(1))
    ):
        number = 2
    else:
        return None
    from sniffer.outputs.terminal.view import Screen

    encoding = (sys.stdout if number == 1 else sys.stderr).encoding
    return Screen(number, log=sys.stderr, encoding=encoding)


def _load(config: SnifferConfig) -> None:
    """Imports what the daemon runs on, so that what is missing is said before anything is opened."""
    try:
        from sniffer_core import core  # noqa: F401
    except ImportError as error:
        raise SnifferError(f"the compiled core cannot be loaded ({error}); `pip install .` builds it") from error
    from sniffer import pipeline  # noqa: F401

    if config.output_url is not None:
        from sniffer.outputs.url import collector  # noqa: F401
    if config.ui_address is not None:
        from sniffer.outputs.ui import server  # noqa: F401


def leave(code: int) -> NoReturn:
    """Ends the process after its last log line, without waiting for threads that are stuck."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or never open
            stream.flush()
    _exit(code)


def _exit(code: int) -> NoReturn:
    """Ends the process on the spot, but not in the middle of an entry of a HAR file."""
    har = sys.modules.get("sniffer.outputs.har.file")
    if har is not None:
        har.WRITING.acquire(timeout=WRITE_SECONDS)
    os._exit(code)


def _report(error: ValidationError) -> None:
    """One readable error, and, where no person reads it, the same as one structured log line."""
    options = SnifferConfig.options()
    count = len(error.problems)
    lines = [f"tcp-sniffer: the configuration has {'a problem' if count == 1 else f'{count} problems'}:"]
    for problem in error.problems:
        option = options.get(problem.field)
        places = " or ".join(place for place in (option.flag, option.variable) if place) if option else ""
        lines.append(f"  {problem.message}" + (f"  [{places}]" if places else ""))
    lines.append("`tcp-sniffer --help` lists the options.")
    print("\n".join(lines), file=sys.stderr)
    if sys.stderr.isatty():
        return
    problems = [{"field": problem.field, "message": problem.message} for problem in error.problems]
    log.error("configuration error", extra={"fields": {"problems": problems}})


def _log_thread(failure: threading.ExceptHookArgs) -> None:
    log.error("uncaught exception in a thread", exc_info=failure.exc_value)


class _Display:
    """What is drawn of a run: the view and its summary, or a progress bar."""

    def __init__(self, screen: Screen, *, view: bool) -> None:
        from sniffer.outputs.terminal.view import Bar, TerminalSink, View

        self._screen = screen
        self._view = View() if view else None
        self._bar = Bar()
        self.sink = TerminalSink(screen, self._view) if self._view is not None else None

    async def open(self, sniffer: Sniffer) -> None:
        """Begins to draw."""
        self._sniffer = sniffer
        await self._screen.open(self._last_line, after=0.0 if self._view is not None else BAR_AFTER_SECONDS)

    async def close(self) -> None:
        """Ends drawing, with the summary of a run that had begun."""
        view = self._view if self._sniffer.began else None
        await self._screen.close(view.end(self._facts()) if view is not None else None)

    def _last_line(self) -> RenderableType:
        if not self._sniffer.began:  # what is sent before the capture is open is not seen: nothing may say so yet
            return ""
        return (self._view or self._bar).last_line(self._facts())

    def _facts(self) -> Facts:
        from sniffer.outputs.terminal.view import Facts

        return Facts(self._sniffer.where, self._sniffer.ledger.snapshot(), self._sniffer.progress())


def _live_view(config: SnifferConfig) -> tuple[LiveSink, Server] | tuple[None, None]:
    """The live view: what gets the messages, and what shows them."""
    if config.ui_address is None:
        return None, None
    from sniffer.outputs.ui.server import Server
    from sniffer.outputs.ui.store import LiveSink
    from sniffer.pipeline import traffic_budget

    address, port = split_address(config.ui_address)
    sink = LiveSink(max_bytes=traffic_budget(config) // 8, live=not config.read)
    return sink, Server(sink, address=address, port=port, ports=config.ports, live=not config.read)


def _say_where(url: str) -> None:
    """The one line that holds the page's token. It is written however little is logged."""
    log = logging.getLogger("sniffer.ui")
    log.setLevel(logging.INFO)
    log.info("live view", extra={"fields": {"url": url}, "line": f"live view: {url}"})


class _Daemon:
    """One run: signals in, exit code out. With `failed` it captures nothing, and waits to be stopped."""

    def __init__(self, config: SnifferConfig, screen: Screen | None = None, failed: SnifferError | None = None) -> None:
        self._config = config
        self._screen = screen
        self._failed = failed
        self._stops = 0
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[object]] = []

    async def run(self) -> int:
        from sniffer.pipeline import Sniffer

        self._loop = asyncio.get_running_loop()
        config = self._config
        display = _Display(self._screen, view=_has_view(config)) if self._screen is not None else None
        sink, page = _live_view(config)
        view = sink if sink is not None else display.sink if display is not None else None
        self._sniffer = sniffer = Sniffer(config, view=view)
        # Plain handlers, not the loop's: a third signal must end a loop that is stuck.
        signals.take(self._on_stop)
        signal.signal(signal.SIGUSR1, self._on_usr1)
        if config.read:
            presence.cancel()
        async with contextlib.AsyncExitStack() as opened:
            try:
                await self._open(opened, display, page)
            except SnifferError as error:
                if not config.holds:
                    raise
                if self._failed is not None:
                    log.error(str(error))  # the other one is what it waits for
                self._failed = self._failed or error
            if self._stops:  # while something opened
                return EXIT_OK if self._stops == 1 else EXIT_RUNTIME
            if self._failed is None:
                await sniffer.start()
                self._tasks.append(self._loop.create_task(self._stop_without_outputs()))
            else:
                await sniffer.hold(self._failed)
            if not config.read:
                presence.say()
            # What the imports made stays: the collector need not look through it again and again. The collection tells
            # it how little is left, so that it comes in time.
            gc.freeze()
            gc.collect()
            if page is not None and self._failed is None:
                _say_where(page.url)
            code = EXIT_OK
            try:
                await sniffer.wait()
            except SnifferError as error:  # said in the log already, before its last line
                code = error.exit_code
            if page is not None and config.read:
                await self._stay(display)
        return EXIT_RUNTIME if sniffer.undelivered or self._stops > 1 else code

    async def _stay(self, display: _Display | None) -> None:
        """The file is read; the page stays until a signal."""
        if display is not None:
            await display.close()
        await self._stopping.wait()

    async def _open(self, opened: contextlib.AsyncExitStack, display: _Display | None, page: Server | None) -> None:
        """Opens what is beside the sniffer; `opened` closes it."""
        if self._config.metrics_port is not None:
            from sniffer.metrics import Endpoint

            endpoint = Endpoint(self._sniffer, self._config.metrics_address, self._config.metrics_port)
            await endpoint.open()
            opened.push_async_callback(endpoint.close)
            self._sniffer.before_end.append(endpoint.say_last)
        if page is not None:
            await page.open(self._sniffer)
            opened.push_async_callback(page.close)
            self._sniffer.before_end.append(page.say_last)
        if page is not None and self._config.read:
            self._sniffer.before_end.clear()  # the page stays, and so does what is said of its clients
        if display is not None:
            opened.push_async_callback(display.close)
            await display.open(self._sniffer)

    async def _stop_without_outputs(self) -> None:
        await self._sniffer.outputs_closed()
        await self._sniffer.stop()

    def _on_stop(self, number: int, _frame: FrameType | None) -> None:
        if self._stops and number == signals.REPEATED:
            return
        self._stops += 1
        if self._stops > 2:
            _exit(EXIT_RUNTIME)
        self._call(self._stop if self._stops == 1 else self._sniffer.abort)

    def _stop(self) -> None:
        self._stopping.set()
        self._tasks.append(self._loop.create_task(self._sniffer.stop()))

    def _on_usr1(self, _number: int, _frame: FrameType | None) -> None:
        self._call(self._say_ledger)

    def _call(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended: all is done, and the exit code is known
            self._loop.call_soon_threadsafe(function)

    def _say_ledger(self) -> None:
        snapshot = self._sniffer.ledger.snapshot()
        ledger = {name: value for name, value in snapshot.items() if value and name != "lanes"}
        log.info("ledger", extra={"fields": {"lanes": snapshot["lanes"], "ledger": ledger}})
