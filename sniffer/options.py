"""Options declared once: each declaration yields keyword, environment variable, flag and a row of the docs.

A class of options derives from `Options` and has one `Option` per attribute, made by `switch`, `whole`, `number`,
`text`, `names` or `choice`, or by `Option` itself with its own check. Making an instance checks every value and the
rules between values, and raises one `ValidationError` with all problems.
"""

from __future__ import annotations

import errno
import math
import os
import re
import select
import stat
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, Generic, ParamSpec, Protocol, Self, TypeVar, dataclass_transform, overload

from sniffer.errors import Problem, ValidationError

LONGEST_MS: Final = 2_147_483_647
"""Milliseconds that every timer takes: 24 days."""

Given = TypeVar("Given")
Value = TypeVar("Value")


class Secret:
    """A text that appears in no repr, log, traceback or pickle."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The text itself. Call it only where the text is sent."""
        return self._value

    def __repr__(self) -> str:
        return "[SECRET]"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> Any:
        raise TypeError("a Secret is not pickled")


class Option(Generic[Given, Value]):
    """One option. `Given` is the type that the keyword takes, `Value` the type of the attribute.

    check     returns the canonical form of a keyword's value. Raises ValueError with the rest of a sentence that begins
              with the option's name ("must be ..."). It never quotes a secret.
    read      turns the text of a variable or flag into a value for `check`; raises ValueError in the same way
    default   used unchecked; `required` says that there is none
    spared_by it is not required where this keyword is given: then a rule tells
    variable  None: the keyword in upper case behind the class's prefix; "": no variable
    flag      None: `--` and the keyword with dashes; "": no flag
    short     one more flag, of one letter: `-p`
    shown     the default in words, where its repr would say less
    bare      the text that a flag without a value stands for; None: the flag needs a value
    again     what argparse gives as the value of the short flag when its letter is doubled (`-vv`): it stands for 2
    repeats   the flag may stand several times, each with several values; its text is all values, separated by NULs
    secret    the text of its variable never appears in the log
    is_read   a rule reads the file that it names, so its value can be checked only where it will be used
    ambient_without
              the library too reads the variable, unless one of these keywords is given; None: the daemon alone does
    only_with the variable belongs to other programs too, so its text is read only where this keyword is given
    """

    def __init__(
        self,
        check: Callable[[Any], Value],
        read: Callable[[str], object] = str,
        *,
        help: str,
        group: str,
        default: Any = None,
        required: bool = False,
        spared_by: str = "",
        variable: str | None = None,
        flag: str | None = None,
        short: str = "",
        metavar: str = "TEXT",
        shown: str | None = None,
        is_switch: bool = False,
        bare: str | None = None,
        again: str = "",
        repeats: bool = False,
        secret: bool = False,
        is_read: bool = False,
        ambient_without: tuple[str, ...] | None = None,
        only_with: str | None = None,
    ) -> None:
        self.check = check
        self.read = read
        self.help = help
        self.group = group
        self.default = default
        self.required = required
        self.spared_by = spared_by
        self.variable = variable
        self.flag = flag
        self.short = short
        self.metavar = metavar
        self.shown = shown
        self.is_switch = is_switch
        self.bare = bare
        self.again = again
        self.repeats = repeats
        self.secret = secret
        self.is_read = is_read
        self.ambient_without = ambient_without
        self.only_with = only_with
        self.keyword = ""

    def __set_name__(self, owner: type[Options], name: str) -> None:
        self.keyword = name
        if self.variable is None:
            self.variable = owner.PREFIX + name.upper()
        if self.flag is None:
            self.flag = "--" + name.replace("_", "-")

    def shown_default(self) -> str:
        """The default in words; empty if there is none."""
        if self.shown is not None:
            return self.shown
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        if isinstance(self.default, tuple):
            return ", ".join(self.default)
        return "" if self.default is None else str(self.default)

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Options, owner: type) -> Value: ...
    def __get__(self, instance: Options | None, owner: type) -> Self | Value:
        if instance is None:
            return self
        value: Value = instance.__dict__[self.keyword]
        return value

    def __set__(self, instance: Options, value: Given) -> None:
        raise AttributeError(f"{type(instance).__name__} cannot be changed")


Switch = Option[bool, bool]
Whole = Option[int, int]
MaybeWhole = Option[int | None, int | None]
Number = Option[float, float]
Text = Option[str, str]
MaybeText = Option[str | None, str | None]
Names = Option[Iterable[str], tuple[str, ...]]
Wholes = Option[Iterable[int], tuple[int, ...]]

TRUE: Final = ("1", "true", "yes", "on")
FALSE: Final = ("0", "false", "no", "off")


def switch(default: bool, **rest: Any) -> Switch:
    """An option that is on or off."""

    def check(value: object) -> bool:
        if not isinstance(value, bool):
            raise ValueError("must be True or False")
        return value

    def read(text: str) -> bool:
        if text.lower() in TRUE:
            return True
        if text.lower() in FALSE:
            return False
        raise ValueError(f"must be 1, true, yes or on, or 0, false, no or off, not {quote(text)}")

    return Option(check, read, default=default, metavar="YES|NO", is_switch=True, bare="yes", **rest)


def whole(default: int | None, low: int, high: int, *, unit: str = "", **rest: Any) -> Any:
    """A whole number from `low` to `high`; with the unit "bytes" its text may end in Ki, Mi or Gi.

    With `default` None the option may also be None.
    """
    described = f"must be a whole number of {unit}" if unit else "must be a whole number"

    def check(value: object) -> int | None:
        if value is None and default is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"{described} from {low} to {high}, not {quote(value)}")
        return value

    def read(text: str) -> object:
        match = re.fullmatch(r"(-?[0-9]{1,30})(?:([KMG])iB?)?", text)
        if match is None or (match[2] and unit != "bytes"):
            return text
        return int(match[1]) << {None: 0, "K": 10, "M": 20, "G": 30}[match[2]]

    metavar = {"milliseconds": "MS", "bytes": "BYTES"}.get(unit, "N")
    return Option(check, read, default=default, **{"metavar": metavar, **rest})


def number(default: float, low: float, high: float, **rest: Any) -> Number:
    """A finite number from `low` to `high`."""

    def check(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"must be a number from {low:g} to {high:g}, not {quote(value)}")
        if not math.isfinite(value) or not low <= value <= high:
            raise ValueError(f"must be a number from {low:g} to {high:g}, not {value}")
        return float(value)

    def read(text: str) -> object:
        plain = re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", text)
        return float(text) if plain else text

    return Option(check, read, default=default, metavar="X", **rest)


def text(default: str | None, **rest: Any) -> Any:
    """One line of text. With `default` None the option may also be None."""

    def check(value: object) -> str | None:
        if value is None and default is None:
            return None
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise ValueError(f"must be a text of one line, not {quote(value)}")
        return value.strip()

    return Option(check, default=default, **rest)


def split(text: str) -> list[str]:
    """The entries of a comma-separated text, without surrounding blanks."""
    return [entry.strip() for entry in text.split(",")]


def names(
    default: Sequence[str],
    *,
    each: Callable[[str], str] = str,
    read: Callable[[str], Sequence[str]] = split,
    **rest: Any,
) -> Names:
    """A list of texts, comma-separated in a variable. `each` returns an entry's canonical form or raises ValueError."""

    def check(value: object) -> tuple[str, ...]:
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            raise ValueError(f"must be a list of texts, not {quote(value)}")
        entries: dict[str, None] = {}
        for entry in value:
            if not isinstance(entry, str) or not entry.strip() or not entry.isprintable():
                raise ValueError(f"must be a list of texts: {quote(entry)} is none")
            entries[each(entry.strip())] = None
        return tuple(entries)

    return Option(check, read, default=tuple(default), **{"metavar": "A,B", **rest})


def choice(default: str | None, choices: Sequence[str], **rest: Any) -> Any:
    """One of a few words, in any case. With `default` None the option may also be None."""

    def check(value: object) -> str | None:
        if value is None and default is None:
            return None
        if not isinstance(value, str) or value.lower() not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, not {quote(value)}")
        return value.lower()

    return Option(check, default=default, metavar="|".join(choices), **rest)


PIPE_SECONDS: Final = 5.0
"""How long a pipe may take to give its content, in seconds."""


def read_small(path: str, most: int, *, pipe: bool = True) -> bytes:
    """The content of a file, or (with `pipe`) of a pipe, of at most `most` bytes.

    Raises OSError if it is neither, holds more, or, as a pipe, takes too long. Devices are refused: some have no end.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode) and not (pipe and stat.S_ISFIFO(mode)):
            raise OSError(errno.EINVAL, "Not a regular file" + " or a pipe" * pipe)
        data = b""
        end = time.monotonic() + PIPE_SECONDS
        while len(data) <= most:
            if stat.S_ISFIFO(mode) and not select.select([fd], [], [], max(0.0, end - time.monotonic()))[0]:
                raise OSError(errno.ETIMEDOUT, f"The pipe gives nothing for {PIPE_SECONDS:g} s")
            if not (part := os.read(fd, most + 1 - len(data))):
                return data
            data += part
        raise OSError(errno.EFBIG, f"More than {most} bytes")
    finally:
        os.close(fd)


def quote(value: object) -> str:
    """A value as an error message quotes it: short, on one line, in ASCII."""
    shown = ascii(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Options:
    """Base of a class of options. Instances are immutable, and equal if all their values are."""

    PREFIX: ClassVar[str] = ""
    """Prefix of every variable's name."""

    def __init_subclass__(cls, *, frozen: bool = True) -> None:
        """`frozen` is for type checkers: no instance can be changed."""

    def __init__(self, **keywords: Any) -> None:
        self._fill(keywords, {})

    def _fill(self, keywords: Mapping[str, Any], texts: Mapping[str, str], problems: Iterable[Problem] = ()) -> None:
        """Sets every option from its keyword, else from its text, else to its default. Raises ValidationError.

        `problems` are those that the caller has found before. An empty text counts as missing.
        """
        found: list[Problem] = list(problems)
        options = self.options()
        found.extend(
            Problem(keyword, f"{keyword} is not an option{likely(keyword, options)}")
            for keyword in keywords
            if keyword not in options
        )
        bad = {problem.field for problem in found}
        given = {*keywords, *(keyword for keyword, text in texts.items() if text.strip())}
        for keyword, option in options.items():
            try:
                if keyword in keywords:
                    value = option.check(keywords[keyword])
                elif option.only_with is not None and option.only_with not in given:
                    value = option.default
                elif stripped := texts.get(keyword, "").strip():
                    value = option.check(option.read(stripped))
                elif option.required and keyword not in bad and option.spared_by not in given:
                    raise ValueError("is required")
                else:
                    value = option.default
            except ValueError as error:
                found.append(Problem(keyword, f"{keyword} {error}"))
                value = option.default
            self.__dict__[keyword] = value
        bad = {problem.field for problem in found}
        found.extend(problem for problem in self._rules() if problem.field not in bad)
        if found:
            raise ValidationError(found)

    @classmethod
    def from_texts(cls, texts: Mapping[str, str], problems: Iterable[Problem] = (), **keywords: Any) -> Self:
        """Makes an instance of texts by keyword, from variables and flags; `problems` were found while reading them."""
        options = cls.__new__(cls)
        options._fill(keywords, texts, problems)  # noqa: SLF001 - a constructor of its own class
        return options

    def _rules(self) -> Iterable[Problem]:
        """Checks the rules between values, and what a value needs that its own check cannot give. May call `fill_in`.

        Options that have a problem hold their default here.
        """
        return ()

    @classmethod
    def options(cls) -> dict[str, Option[Any, Any]]:
        """Every option by its keyword: what is declared, unless a class knows of more."""
        return declared(cls)

    @classmethod
    def texts_of(cls, environ: Mapping[str, str]) -> dict[str, str]:
        """The non-empty texts of the environment's variables, by keyword."""
        return {
            keyword: environ[option.variable]
            for keyword, option in cls.options().items()
            if option.variable and environ.get(option.variable, "").strip()
        }

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash(tuple(self.__dict__.items()))

    def __repr__(self) -> str:
        options = self.options()
        values = ", ".join(f"{k}={v!r}" for k, v in self.__dict__.items() if k in options and v != options[k].default)
        return f"{type(self).__name__}({values})"


def declared(options: type[Options]) -> dict[str, Option[Any, Any]]:
    """What a class declares, by keyword, in order: the options of its bases first, from left to right."""
    found: dict[str, Option[Any, Any]] = {}
    for base in options.__bases__:
        if issubclass(base, Options):
            found |= declared(base)
    return found | {name: value for name, value in vars(options).items() if isinstance(value, Option)}


def fill_in(options: Options, keyword: str, value: object) -> None:
    """Gives an option a value that a rule found elsewhere, as in a file. For rules alone: it is not checked."""
    options.__dict__[keyword] = value


@dataclass_transform(kw_only_default=True)
class OptionGroup(Options, frozen=False):
    """Base of classes of options from which larger ones are put together by inheritance.

    Not `frozen` for type checkers: mypy would give the inherited attributes the types of their keywords.
    """


def table(options: type[Options], group: str) -> str:
    """The options of `group` as a Markdown table."""
    rows = ["| variable | flag | keyword | default | meaning |", "|---|---|---|---|---|"]
    for option in options.options().values():
        if option.group == group:
            cells = [
                f"`{option.variable}`" if option.variable else "",
                ", ".join(f"`{flag}`" for flag in (option.short, option.flag) if flag),
                f"`{option.keyword}`",
                "required" if option.required else option.shown_default(),
                option.help[0].upper() + option.help[1:],
            ]
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


LIKE: Final = 0.8
"""How alike a word and an option must be, of 1, for the option to be what was meant: two letters changed places, one is
missing or too many. Of less that is offered half is wrong, and a wrong hint is worse than none."""
CALLED: Final = {
    "iface": "interface",
    "device": "interface",
    "dev": "interface",
    "file": "read",
    "pcap": "read",
    "input": "read",
    "json": "stdout",
    "url": "output-url",
    "output": "output-file",
    "count": "stop-after",
    "timeout": "output-timeout-ms",
    "gzip": "output-gzip",
    "buffer-size": "capture-buffer-size",
}
"""What other programs call an option, or half of its name."""


def likely(word: str, known: Iterable[str]) -> str:
    """A hint that names the word of `known` that was meant by `word`; empty if none surely was."""
    from difflib import get_close_matches  # only when something is wrong

    names = {name.lstrip("-").replace("_", "-").lower(): name for name in known}
    bare = word.lstrip("-").replace("_", "-").lower()
    begun = [name for name in names if len(bare) > 2 and name.startswith(bare)]
    meant = bare if bare in names else CALLED.get(bare, "")
    if not meant:
        meant = begun[0] if len(begun) == 1 else next(iter(get_close_matches(bare, names, n=1, cutoff=LIKE)), "")
    return f"; did you mean {names[meant]}?" if meant in names else ""


Keywords = ParamSpec("Keywords")
Config_contra = TypeVar("Config_contra", contravariant=True)
Made_co = TypeVar("Made_co", covariant=True)
Config = TypeVar("Config")
Made = TypeVar("Made")


class MadeOf(Protocol[Keywords, Config_contra, Made_co]):
    """What is called with a configuration, or with its keywords."""

    @overload
    def __call__(self, config: Config_contra) -> Made_co: ...
    @overload
    def __call__(self, *args: Keywords.args, **options: Keywords.kwargs) -> Made_co: ...


def keywords_of(
    _options: Callable[Keywords, Config],
) -> Callable[[Callable[..., Made]], MadeOf[Keywords, Config, Made]]:
    """Gives a function the keywords of a class of options, for type checkers alone: they find misspelt ones."""
    return lambda function: function
