"""Runs the tests on a core built with AddressSanitizer and UndefinedBehaviorSanitizer: `make sanitize`, or
`make sanitize ARGS="tests/core -k chunk"`.

The build has a tree of its own, build/sanitize, and leaves the ordinary one alone. A read or write outside of a block,
a use after it was freed, a signed overflow, a misaligned or null access: the process ends at once and says where.
After the last test LeakSanitizer looks for memory that nothing refers to any more; what the core had asked for fails
the run. (Python itself leaves some, and that is let pass.)
"""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import tempfile
from typing import Any

import pytest

from tests.instrumented import OPTIONS, build, runtime

COMPILER = "gcc"


def main() -> None:
    """Builds, and becomes pytest."""
    libraries = [runtime(COMPILER, name) for name in ("libasan.so", "libubsan.so")]
    if None in libraries:
        print(f"sanitizing skipped: {COMPILER} has no AddressSanitizer here")
        return
    tree = build("sanitize", COMPILER)
    os.chdir(tree)
    environ = {**os.environ, **OPTIONS, "LD_PRELOAD": " ".join(filter(None, libraries)), "TCP_SNIFFER_SANITIZED": "1"}
    environ["ASAN_OPTIONS"] = environ["ASAN_OPTIONS"].replace("detect_leaks=0", "leak_check_at_exit=0")
    arguments = sys.argv[1:] or ["tests", "--ignore=tests/docs"]  # those look at documents, not at the core
    plugins = ["-p", "no:cacheprovider", "-p", "tests.sanitize"]
    os.execve(sys.executable, [sys.executable, "-m", "pytest", *plugins, *arguments], environ)


FOREIGN = {"capinfos", "cc", "curl", "dumpcap", "editcap", "gcc", "nginx", "openssl", "tcpdump", "tshark", "wrk"}
"""Programs of others that tests start: under the sanitizers some hang."""


def pytest_configure() -> None:
    """Starts those without the sanitizers; every Python keeps them."""
    begin = subprocess.Popen.__init__

    def init(self: Any, args: Any, *more: Any, **options: Any) -> None:
        first = args if isinstance(args, str | os.PathLike) else args[0]
        if os.path.basename(first) in FOREIGN:
            environ = options.get("env") or os.environ
            options["env"] = {name: environ[name] for name in environ if name not in ("LD_PRELOAD", *OPTIONS)}
        begin(self, args, *more, **options)

    subprocess.Popen.__init__ = init  # type: ignore[method-assign]


def leaks() -> list[str]:
    """What of the core's memory nothing refers to any more: where each was asked for."""
    gc.collect()
    with tempfile.TemporaryFile() as report:
        stderr = os.dup(2)
        os.dup2(report.fileno(), 2)
        try:
            ctypes.CDLL(None).__lsan_do_recoverable_leak_check()
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        report.seek(0)
        found = report.read().decode("utf-8", "replace").split("\n\n")
    return [leak.strip() for leak in found if "leak of" in leak and "sniffer_core" in leak]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A leak fails the run."""
    if found := leaks():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print("\n\n".join(["", "LeakSanitizer:", *found]))


if __name__ == "__main__":
    main()
