"""The exception tree, and the exit code of each.

    SnifferError                 everything that this package raises on purpose; exit code 2
    ├── ValidationError          wrong configuration (also a ValueError); exit code 1
    └── CaptureError             the capture could not be opened, or failed; exit code 2

The exit codes are those of the daemon. The library raises; only `sniffer.cli` exits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Final

EXIT_OK: Final = 0
"""Success, including a stop after which everything was delivered."""
EXIT_CONFIG: Final = 1
"""Configuration or validation error."""
EXIT_RUNTIME: Final = 2
"""Everything else that failed."""


class SnifferError(Exception):
    """Base of every error that this package raises on purpose."""

    exit_code: ClassVar[int] = EXIT_RUNTIME
    """The daemon's exit code for this error."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One error in a configuration."""

    field: str
    """Keyword of the option, e.g. `output_url`."""
    message: str
    """A sentence that names the option and the error."""


class ValidationError(SnifferError, ValueError):
    """A configuration that cannot be used. It carries all problems, not only the first."""

    exit_code: ClassVar[int] = EXIT_CONFIG
    """A restart would fail in the same way."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        """All problems, in the order of the options."""
        if not self.problems:
            raise TypeError("a ValidationError needs at least one problem")
        super().__init__("; ".join(problem.message for problem in self.problems))

    @property
    def field(self) -> str:
        """Keyword of the first problem, e.g. `output_url`."""
        return self.problems[0].field

    def __reduce__(self) -> tuple[type[ValidationError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


class CaptureError(SnifferError):
    """The capture could not be opened (no such interface, no privilege, no capture file), or failed later."""
