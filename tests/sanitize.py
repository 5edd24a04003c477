"""Runs the tests on a core built with AddressSanitizer and UndefinedBehaviorSanitizer: `make sanitize`, or
`make sanitize ARGS="tests/core -k chunk"`.

The build has a tree of its own, build/sanitize, and leaves the ordinary one alone. A read or write outside of a block,
a use after it was freed, a signed overflow, a misaligned or null access: the process ends at once and says where.
Leaks are the tests' own business: every table must give back every block (tests/laws.py).
"""

from __future__ import annotations

import os
import sys

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
    arguments = sys.argv[1:] or ["tests"]
    os.execve(sys.executable, [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments], environ)


if __name__ == "__main__":
    main()
