"""The entry point of the injector: `python -m sniffer.injector`. The exit codes are those of the sniffer.

Signal handlers are set before the imports, so that a stop during the imports ends the process with 0.
"""

import os
import sys

from sniffer import signals


def _leave(*_: object) -> None:
    """Ends the process on a stop that comes before the server handles signals: nothing is served yet."""
    os._exit(0)


def run(arguments: list[str]) -> int:
    """Serves until a signal to stop, and returns the exit code."""
    import asyncio
    import logging

    from sniffer import logs
    from sniffer.errors import EXIT_OK, EXIT_RUNTIME, SnifferError
    from sniffer.injector.options import InjectorOptions
    from sniffer.injector.server import serve

    log = logging.getLogger("sniffer.injector")

    async def until_stopped() -> int:
        stop, again = asyncio.Event(), asyncio.Event()

        def on_signal(number: int) -> None:
            if not (stop.is_set() and number == signals.REPEATED):
                (again if stop.is_set() else stop).set()

        for number in signals.STOPS:
            asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
        serving = asyncio.create_task(serve(options, stop))
        cut_short = asyncio.create_task(again.wait())
        await asyncio.wait({serving, cut_short}, return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            log.error("stopped before the drain had ended")
            return EXIT_RUNTIME
        serving.result()
        return EXIT_OK

    logs.configure()
    try:
        options = InjectorOptions.load(arguments, os.environ)
        logs.configure(level=options.log_level, form=options.log_format)
        for warning in options.warnings:
            log.warning(warning)
        return asyncio.Runner().run(until_stopped())
    except SnifferError as error:
        log.error(str(error))
        return error.exit_code
    except Exception:
        log.exception("uncaught exception")
        return EXIT_RUNTIME


def main() -> None:
    """Runs the injector and ends the process with its exit code."""
    signals.take(_leave)
    try:
        code = run(sys.argv[1:])
    except Exception as error:  # an import that failed: without this the code would be 1
        sys.stderr.write(f"cannot start: {type(error).__name__}: {error}\n")
        code = 2
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # does not wait for threads of an interrupted drain


if __name__ == "__main__":
    main()
