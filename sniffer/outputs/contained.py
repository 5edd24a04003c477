"""An output from outside, contained: what its declaration raises ends as an error that names it, and nothing else.

A declaration that fails is a problem of the configuration where its output is asked for, else a warning. What its sink
does while messages are delivered, the lane contains (`sniffer.delivery.lane`).
"""

from __future__ import annotations

import _thread
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from sniffer.errors import Problem, SnifferError, ValidationError
from sniffer.outputs import Context, Output, Place

if TYPE_CHECKING:
    from sniffer.companion import Companion
    from sniffer.config import SnifferConfig
    from sniffer.delivery.lane import Lane

T = TypeVar("T")


class Fault(Exception):
    """A part of a declaration has failed; the text says which, and how."""


class Contained(Output):
    """Stands for an output from outside, everywhere."""

    def __init__(self, inner: Output) -> None:
        """`inner` has a name and options that were checked."""
        self._inner = inner
        for name in ("name", "options", "switch", "does", "working", "renders_json", "counts", "standard_output"):
            setattr(self, name, getattr(inner, name))
        self.fallback = inner.fallback  # type: ignore[misc]
        self.daemon_only = inner.daemon_only  # type: ignore[misc]

    def wanted(self, config: SnifferConfig) -> bool:
        """False where it cannot tell."""
        try:
            return bool(_ask("wanted", lambda: self._inner.wanted(config)))
        except Fault:
            return False

    def rules(self, config: SnifferConfig) -> Iterable[Problem]:
        """Its problems; one of them is that the declaration fails, where the output is asked for."""
        problems, fault = self._examine(config)
        if fault and self._asked_for(config):
            return [*problems, Problem(self.switch or self.name, fault)]
        return problems

    def warnings(self, config: SnifferConfig) -> Iterable[str]:
        """Its warnings; one of them is that the declaration fails, where the output is not asked for."""
        fault = self._examine(config)[1]
        if fault:
            return [] if self._asked_for(config) else [fault]
        return list(self._inner.warnings(config))

    def load(self) -> None:
        """Raises a SnifferError whatever it raises."""
        try:
            _ask("load", self._inner.load)
        except Fault as fault:
            raise SnifferError(self._unusable(fault)) from fault

    def lane(self, config: SnifferConfig, context: Context) -> Lane:
        """Its lane. A SnifferError of its own passes; whatever else it raises is a ValidationError."""
        from sniffer.delivery.lane import Lane

        try:
            return _ask("lane", lambda: _of_type(self._inner.lane(config, context), Lane))
        except Fault as fault:
            raise ValidationError([Problem(self.switch or self.name, self._unusable(fault))]) from fault

    def companion(self, config: SnifferConfig) -> Companion | None:
        """What it has beside its lane; ValidationError where that fails."""
        try:
            return _ask("companion", lambda: self._inner.companion(config))
        except Fault as fault:
            raise ValidationError([Problem(self.switch or self.name, self._unusable(fault))]) from fault

    def posts_to(self, config: SnifferConfig) -> Sequence[Place]:
        """Where it posts to. It was asked before, for the rules."""
        return _ask("posts_to", lambda: _all_of_type(self._inner.posts_to(config), Place))

    def before_exit(self, seconds: float) -> None:
        """Lets it finish for so long, on a thread that is left behind then."""
        done = _thread.allocate_lock()
        done.acquire()

        def finish() -> None:
            with suppress(BaseException):
                self._inner.before_exit(seconds)
            done.release()

        # Not a threading.Thread: a signal's handler may run this while the main thread holds a lock of that module.
        _thread.start_new_thread(finish, ())
        done.acquire(timeout=seconds)

    def _examine(self, config: SnifferConfig) -> tuple[list[Problem], str]:
        """The problems that its rules find, and what fails of its declaration; "" if nothing does."""
        problems: list[Problem] = []
        try:
            problems += _ask("rules", lambda: _all_of_type(self._inner.rules(config), Problem))
            _ask("warnings", lambda: _all_of_type(self._inner.warnings(config), str))
            if _ask("wanted", lambda: self._inner.wanted(config)):
                _ask("posts_to", lambda: _all_of_type(self._inner.posts_to(config), Place))
        except Fault as fault:
            return problems, self._unusable(fault)
        return problems, ""

    def _asked_for(self, config: SnifferConfig) -> bool:
        """Whether its switch is on; of an output without one, whether it is wanted or any option is given."""
        if self.switch:
            return Output.wanted(self, config)
        given = (getattr(config, key) != option.default for key, option in self.options.options().items())
        return self.wanted(config) or any(given)

    def _unusable(self, fault: Fault) -> str:
        return f"output {self.name} cannot be used: {fault}"


def _ask(what: str, call: Callable[[], T]) -> T:
    """What a part of a declaration returns. Raises Fault for whatever it raises, except errors that are the user's."""
    try:
        return call()
    except (SnifferError, KeyboardInterrupt):
        raise
    except BaseException as error:
        text = " ".join(str(error).split())
        raise Fault(f"its {what} failed with {type(error).__name__}{': ' * bool(text)}{text[:200]}") from error


def _of_type(value: object, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"it gave a {type(value).__name__}, not a {kind.__name__}")
    return value


def _all_of_type(values: Iterable[object], kind: type[T]) -> list[T]:
    return [_of_type(value, kind) for value in values]
