"""The real daemon at a real terminal: a pseudo terminal of ours, and what stands on its screen."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

import pyte

from tests.daemon import ROOT, SECONDS
from tests.instrumented import inherited

INTERRUPT = b"\x03"


class Terminal:
    """`python -m sniffer` whose standard streams are a terminal of this size; those named in `pipes` are pipes.

    In a session of its own, so that Ctrl-C is a signal.
    """

    def __init__(
        self,
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        rows: int = 40,
        columns: int = 100,
        pipes: tuple[str, ...] = (),
        reads: bool = True,
        prefix: Sequence[str] = (),
        cwd: Path = ROOT,
    ) -> None:
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self._master, slave = pty.openpty()
        self._resize(rows, columns)
        streams: dict[str, Any] = {name: subprocess.PIPE if name in pipes else slave for name in ("stdout", "stderr")}
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *prefix, sys.executable, "-m", "sniffer", *arguments],
            cwd=cwd,
            env={
                **inherited("PATH", "HOME"),
                "LANG": "C.UTF-8",
                "TERM": "xterm-256color",
                "TZ": "UTC",
                "PYTHONPATH": str(ROOT),
                **(environ or {}),
            },
            stdin=slave,
            **streams,
        )
        os.close(slave)
        self.raw = b""
        self._news = threading.Condition()
        self._gone = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        if reads:
            self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: the other side has closed its end
            while not self._gone and (data := os.read(self._master, 65536)):
                with self._news:
                    self.raw += data
                    self._stream.feed(data)
                    self._news.notify_all()

    @property
    def rows(self) -> list[str]:
        """What stands on the screen, without the empty rows."""
        with self._news:
            return [row.rstrip() for row in self.screen.display if row.strip()]

    def wait_for(self, what: Callable[[list[str]], Any]) -> Any:
        """What `what`, called with the screen's rows, returns once it is true; fails when the time is up."""
        with self._news:
            assert self._news.wait_for(lambda: what(self.rows), SECONDS), "\n".join(self.rows)
            return what(self.rows)

    def type(self, keys: bytes) -> None:
        """Presses keys."""
        os.write(self._master, keys)

    def resize(self, rows: int, columns: int) -> None:
        """Another size, as when the window is dragged."""
        with self._news:
            self.screen.resize(rows, columns)
        self._resize(rows, columns)

    def _resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def hang_up(self) -> None:
        """The terminal is gone; not before something more is written to it."""
        self._gone = True
        self._reader.join(SECONDS)
        os.close(self._master)
        self._master = -1

    def pipe(self, name: str) -> IO[bytes]:
        """Our end of the pipe in place of a stream."""
        stream: IO[bytes] = getattr(self.process, name)
        return stream

    def end(self) -> int:
        """Waits for the end; the exit code."""
        code = self.process.wait(SECONDS)
        if self._reader.is_alive():
            self._reader.join(SECONDS)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self._reader.ident is not None:
            self._reader.join(SECONDS)
        if self._master >= 0:
            os.close(self._master)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
