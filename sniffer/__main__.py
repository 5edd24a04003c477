"""The entry of the daemon: `python -m sniffer` and the console script `tcp-sniffer`.

Signals come first: whoever stops a sidecar while it is still importing gets a clean exit, not Python's default.
"""

import os
import sys
from types import FrameType

from sniffer import signals


def _leave(_number: int, _frame: FrameType | None) -> None:
    """A stop before `sniffer.cli` takes the signals over: nothing is captured yet, so nothing is owed."""
    os._exit(0)


def _open_standard_streams() -> None:
    """Fills the places of standard streams that were closed at start, which the next file would take otherwise.

    An import may open one already: ctypes does, where libffi keeps its own.

    Standard output gets a pipe that nobody reads: writing to it fails as writing to a closed output should.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            reader, writer = os.pipe()
            os.dup2(reader if number == 0 else writer, number)
            for end in {reader, writer} - {number}:
                os.close(end)


def main() -> None:
    """Runs the daemon and ends the process with its exit code."""
    signals.take(_leave)
    try:
        _open_standard_streams()
        from sniffer import presence

        presence.expect()
        from sniffer import cli  # after the handlers: this takes a while, and may fail
    except Exception as error:
        print(f"tcp-sniffer: cannot start: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
    cli.leave(cli.run(sys.argv[1:]))


if __name__ == "__main__":
    main()
