"""The daemon: arguments and environment -> configuration -> run -> exit code. No other module ends the process."""

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

from sniffer import __version__, budget, logs, presence, signals
from sniffer import config as config_module
from sniffer.capture import privileges
from sniffer.config import SnifferConfig
from sniffer.errors import EXIT_CONFIG, EXIT_OK, EXIT_RUNTIME, Problem, SnifferError, ValidationError
from sniffer.flags import FlagParser
from sniffer.manual import DESCRIPTION, EPILOG
from sniffer.options import FALSE

if TYPE_CHECKING:
    from sniffer.companion import Companion
    from sniffer.outputs import Output

log: Final = logging.getLogger("sniffer")


YOUNG_OBJECTS: Final = 10_000
"""New objects at which the garbage collector runs. Messages are freed without it: at Python's 700 it runs for each few
of them, and finds nothing."""
CAPTURE_NAME: Final = re.compile(r"\A[^-].*\.(pcap|pcapng|cap)\d*(\.gz|\.zst)?\Z|\A/dev/fd/\d+\Z", re.IGNORECASE)
NO_VIEW: Final = ("production", "pod_name", "namespace", "node_name")
"""Options of which each says that nobody reads the terminal: an output must be named then."""
WRITE_SECONDS: Final = 1.0
"""At an immediate exit each output has this long to finish what it is writing."""


def _is_capture(word: str) -> bool:
    """Whether a word of the command line is a capture to read: by its ending, or because there is such a file."""
    return word == "-" or CAPTURE_NAME.search(word) is not None or (not word.startswith("-") and Path(word).is_file())


class _ListInterfaces(argparse.Action):
    """`--list-interfaces`, which needs no other option."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from sniffer.doctor import list_interfaces

        print("\n".join(list_interfaces()))
        parser.exit()


def _parser() -> FlagParser:
    options = SnifferConfig.options()
    silent = [option for option in options.values() if option.variable and not option.flag]
    asks = [options[output.switch] for output in config_module.outputs() if output.does]
    usage = " | ".join(f"{option.flag}" if option.bare else f"{option.flag} {option.metavar}" for option in asks)
    width = max(len(str(option.variable)) for option in silent) + 2
    parser = FlagParser(
        SnifferConfig,
        config_module.groups(),
        words="read",
        is_word=_is_capture,
        prog="tcp-sniffer",
        usage=f"tcp-sniffer -p PORT,PORT [-i NAME | FILE ...]\n                   [{usage}] [options]",
        description=DESCRIPTION,
        epilog=EPILOG.format(variables="".join(f"  {option.variable:<{width}}{option.help}\n" for option in silent)),
    )
    parser.help_group.add_argument(
        "-V", "--version", action="version", version=f"tcp-sniffer {__version__}", help="show the version"
    )
    parser.help_group.add_argument(
        "--list-interfaces", action=_ListInterfaces, nargs=0, help="show what can be captured on"
    )
    return parser


def _doctor_parser() -> FlagParser:
    parser = FlagParser(
        SnifferConfig,
        (config_module.CAPTURE, config_module.LIMITS),
        words="read",
        is_word=_is_capture,
        prog="tcp-sniffer doctor",
        usage="tcp-sniffer doctor -p PORT,PORT [-i NAME [--seconds N] | FILE ...]",
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
    """What flags and variables give, by keyword, and the problems of the flags.

    Where an output from outside cannot be used, that is the one problem: its own options are not known.
    """
    flags, problems = _parser().texts(arguments)
    return {**SnifferConfig.texts_of(environ), **flags}, [*config_module.outside().problems] or problems


def configure(
    arguments: Sequence[str], environ: Mapping[str, str], *, at_terminal: bool = False, **keywords: Any
) -> SnifferConfig:
    """The daemon's configuration from flags, variables and `keywords`; `ValidationError` with every problem.

    `at_terminal` says that a person reads standard output: outside of production and of a pod, no output need be named
    then, and the log begins at warnings where it is not told otherwise. `--help` and `--version` print and raise
    SystemExit(0).
    """
    texts, problems = _texts(arguments, environ)
    if config_module.outside().problems:
        raise ValidationError(problems)
    try:
        config = SnifferConfig.from_texts(texts, problems, **keywords)
    except ValidationError as error:
        problems = list(error.problems)
    else:
        if config_module.wanted(config):
            return config
        if at_terminal and not any(getattr(config, keyword) for keyword in NO_VIEW):
            return SnifferConfig.from_texts({"log_level": "warning", **texts}, **keywords)
    if at_terminal and not any(texts.get(keyword, "no").strip().lower() not in FALSE for keyword in NO_VIEW):
        raise ValidationError(problems)
    switches = [output.switch for output in config_module.outputs() if output.switch]
    if not any(keywords.get(switch) or texts.get(switch, "no").strip().lower() not in FALSE for switch in switches):
        problems.append(_no_output())
    raise ValidationError(problems)


def _no_output() -> Problem:
    """What an output is asked for with."""
    options = SnifferConfig.options()
    asks = [(output.switch, output.does) for output in config_module.outputs() if output.does]
    said = ", ".join(f"{options[switch].flag} {does}" for switch, does in asks)
    return Problem(asks[0][0], f"no output is named: {said}")


def run(arguments: Sequence[str], **keywords: Any) -> int:
    """Runs the daemon and returns its exit code. `--help` and `--version` raise SystemExit(0).

    `keywords` are SnifferConfig's, for a program that is a daemon with a callback: `leave(run(sys.argv[1:],
    on_http_message=f))`.
    """
    try:
        options = SnifferConfig.options().values()
        secrets = [os.environ.get(option.variable or "", "").strip() for option in options if option.secret]
        logs.configure(secrets=secrets)
        if arguments and arguments[0] == "doctor":
            return _doctor(arguments[1:], os.environ)
        if arguments and arguments[0] == "mcp":
            arguments = ["--mcp", *arguments[1:]]
        config, failed = _configure_or_hold(arguments, keywords)
        companions = _companions(config) if failed is None else []
        placement = {"pod": config.pod_name, "namespace": config.namespace, "node": config.node_name}
        logs.configure(
            level=config.log_level,
            form=config.log_format,
            placement={name: value for name, value in placement.items() if value},
            secrets=[*secrets, *config_module.secrets(config)],
            stream=next((each.log for each in companions if each.log is not None), None),
        )
        threading.excepthook = _log_thread
        # The capture thread needs the GIL often; by default it would wait 5 ms for a busy loop each time.
        sys.setswitchinterval(0.001)
        budget.share_heap(config.memory_budget)
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
            return runner.run(_Daemon(config, companions, failed).run())
        finally:
            # Closing the runner would wait for its threads, one of which may be stuck in a write.
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


def _configure_or_hold(
    arguments: Sequence[str], keywords: Mapping[str, Any]
) -> tuple[SnifferConfig, SnifferError | None]:
    """The configuration; or one to be held with, and what is wrong. ValidationError where it is not to be held."""
    try:
        return configure(arguments, os.environ, at_terminal=os.isatty(1), **keywords), None
    except ValidationError as error:
        held = SnifferConfig.to_hold(_texts(arguments, os.environ)[0])
        if held is None:
            raise
        _report(error)
        return held, error


def _outputs(config: SnifferConfig) -> list[Output]:
    """The outputs of the daemon: what is asked for; else, since `configure` allows no output only there, what is for a
    person at a terminal.
    """
    return config_module.wanted(config) or [output for output in config_module.outputs() if output.fallback]


def _companions(config: SnifferConfig) -> list[Companion]:
    """What runs beside the sniffer: what outputs have, and a progress bar where files are read and nothing is drawn."""
    outputs = _outputs(config)
    companions = [companion for output in outputs if (companion := output.companion(config)) is not None]
    draws = any(companion.log is not None for companion in companions)
    written_to = any(output.standard_output for output in outputs) and os.isatty(1)
    if not draws and not written_to and os.isatty(2) and any(Path(file).is_file() for file in config.read):
        from sniffer.screen import progress_bar

        companions.append(progress_bar())
    return companions


def _load(config: SnifferConfig) -> None:
    """Imports what this run needs, so that a missing module is reported before anything is opened."""
    try:
        from sniffer_core import core  # noqa: F401
    except ImportError as error:
        raise SnifferError(f"the compiled core cannot be loaded ({error}); `pip install .` builds it") from error
    from sniffer import pipeline  # noqa: F401

    for output in config_module.wanted(config):
        output.load()


def leave(code: int) -> NoReturn:
    """Ends the process after the last log line, without waiting for threads that are stuck."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or never opened
            stream.flush()
    _exit(code)


def _exit(code: int) -> NoReturn:
    """Ends the process on the spot, but not in the middle of what an output must write whole."""
    for output in config_module.outputs():
        with contextlib.suppress(Exception):  # of somebody else's output: the exit code is decided
            output.before_exit(WRITE_SECONDS)
    os._exit(code)


def _report(error: ValidationError) -> None:
    """Prints one readable error; where standard error is no terminal, also logs it as one structured line."""
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


class _Daemon:
    """One run, from signals to exit code. With `failed` it captures nothing and waits to be stopped."""

    def __init__(
        self, config: SnifferConfig, companions: Sequence[Companion] = (), failed: SnifferError | None = None
    ) -> None:
        self._config = config
        self._companions = companions
        self._failed = failed
        self._stops = 0
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[object]] = []

    async def run(self) -> int:
        from sniffer.pipeline import Sniffer

        self._loop = asyncio.get_running_loop()
        config = self._config
        self._sniffer = sniffer = Sniffer(config, companions=[each for each in self._companions if each.has_lane])
        # Not the loop's handlers: a third signal must end the process even if the loop is stuck.
        signals.take(self._on_stop)
        signal.signal(signal.SIGUSR1, self._on_usr1)
        if config.read:
            presence.cancel()
        async with contextlib.AsyncExitStack() as opened:
            try:
                await self._open(opened)
            except SnifferError as error:
                if not config.holds:
                    raise
                if self._failed is not None:
                    log.error(str(error))  # `failed` stays the error that is reported while it waits
                self._failed = self._failed or error
            if self._stops:  # stopped while the companions were opened
                return EXIT_OK if self._stops == 1 else EXIT_RUNTIME
            if self._failed is None:
                await sniffer.start()
                self._tasks.append(self._loop.create_task(self._stop_without_outputs()))
            else:
                await sniffer.hold(self._failed)
            if not config.read:
                presence.say()
            # Objects made by imports live until the end: the garbage collector need not traverse them each time. A full
            # collection afterwards lets it know how few objects are left, so that the next one comes in time.
            gc.freeze()
            gc.collect()
            gc.set_threshold(YOUNG_OBJECTS)
            if self._failed is None:
                for companion in self._companions:
                    companion.say_start()
            code = EXIT_OK
            try:
                await sniffer.wait()
            except SnifferError as error:  # logged already
                code = error.exit_code
            if self._stays:
                await self._stay()
        return EXIT_RUNTIME if sniffer.undelivered or self._stops > 1 else code

    @property
    def _stays(self) -> bool:
        """Whether a companion goes on after the file was read."""
        return any(companion.stays for companion in self._companions)

    async def _stay(self) -> None:
        """Closes the companions that end with the file, and waits for a signal."""
        for companion in self._companions:
            if not companion.stays:
                await companion.close()
        await self._stopping.wait()

    async def _open(self, opened: contextlib.AsyncExitStack) -> None:
        """Opens the metrics and the companions; `opened` closes them."""
        from sniffer.pipeline import traffic_budget

        last_words, budget_of_traffic = self._sniffer.before_end, traffic_budget(self._config)
        if self._config.metrics_port is not None:
            from sniffer.metrics import Endpoint

            endpoint = Endpoint(self._sniffer, self._config.metrics_address, self._config.metrics_port)
            await endpoint.open()
            opened.push_async_callback(endpoint.close)
            last_words.append(endpoint.say_last)
        for companion in self._companions:
            opened.push_async_callback(companion.close)
            await companion.open(self._sniffer, budget_of_traffic)
            last_words.append(companion.say_last)
        if self._stays:
            last_words.clear()  # their clients stay beyond the last line of the capture
        if self._config.read:
            last_words.append(self._say_what_files_have)

    def _say_what_files_have(self) -> None:
        """Where files had no message on the ports: which ports have some."""
        now = self._sniffer.ledger.snapshot()
        if self._stops or now["messages_request"] + now["messages_response"] or not now["packets_seen"]:
            return
        from sniffer.capture.survey import survey

        if (found := survey(self._config.read)) is not None:
            seen = now["packets_parsed"] > now["segments_other_port"]
            log.warning(found.sentence(self._config.ports, seen=seen, files=len(self._config.read)))

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
        with contextlib.suppress(RuntimeError):  # the loop has ended: the exit code is known
            self._loop.call_soon_threadsafe(function)

    def _say_ledger(self) -> None:
        snapshot = self._sniffer.ledger.snapshot()
        ledger = {name: value for name, value in snapshot.items() if value and name != "lanes"}
        log.info("ledger", extra={"fields": {"lanes": snapshot["lanes"], "ledger": ledger}})
