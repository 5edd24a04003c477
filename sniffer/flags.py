"""Flags of a class of options (`sniffer.options`), in groups, with a help text that names default and variable."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final

from sniffer.errors import Problem
from sniffer.options import Option, Options, likely

NO_VALUE: Final = "\0"
"""The text of a flag that was given without its value."""


class FlagParser(argparse.ArgumentParser):
    """Reads flags as texts by keyword. An invalid flag becomes a Problem; the parser does not exit."""

    def __init__(
        self,
        options: type[Options],
        groups: Sequence[str],
        *,
        words: str = "",
        is_word: Callable[[str], bool] = lambda _: False,
        **rest: Any,
    ) -> None:
        """`words` is the keyword, of an option that repeats, whose values may stand without its flag. `is_word` knows
        them: such a word is no value of a flag that may stand alone.
        """
        super().__init__(
            **{
                "formatter_class": _Formatter,
                "allow_abbrev": False,
                "add_help": False,
                "argument_default": argparse.SUPPRESS,
                **rest,
            }
        )
        self._flags: list[str] = []
        self._bare: dict[str, str] = {}
        self._words, self._is_word = words, is_word
        for name in groups:
            group = self.add_argument_group(name)
            for option in options.options().values():
                if option.group == name and option.flag:
                    self._flags.append(option.flag)
                    flags = [flag for flag in (option.short, option.flag) if flag]
                    self._bare |= {flag: option.bare for flag in flags if option.bare is not None}
                    described: dict[str, Any] = {"dest": option.keyword, "help": _describe(option).replace("%", "%%")}
                    if option.repeats:
                        group.add_argument(
                            *flags, action="append", nargs="*", metavar=(option.metavar, "..."), **described
                        )
                    else:
                        const = NO_VALUE if option.bare is None else option.bare
                        group.add_argument(*flags, metavar=option.metavar, nargs="?", const=const, **described)
        self.help_group = self.add_argument_group("Help")
        self.help_group.add_argument("-h", "--help", action="help", help="show this help")

    def texts(self, arguments: Sequence[str]) -> tuple[dict[str, str], list[Problem]]:
        """The non-empty texts of the flags by keyword, and the problems.

        `--help` prints and raises SystemExit(0).
        """
        found, unknown = self.parse_known_args(self._with_bare_values(arguments))
        given = {
            keyword: text if isinstance(text, str) else "\0".join(chain.from_iterable(text)) or NO_VALUE
            for keyword, text in vars(found).items()
        }
        texts = {keyword: text for keyword, text in given.items() if text.strip()}
        problems = [
            Problem(keyword, f"{keyword} needs a value behind its flag")
            for keyword, text in texts.items()
            if text == NO_VALUE
        ]
        flag = ""
        words = []
        for word in unknown:
            if self._is_word(word):
                words.append(word)
            elif word.startswith("-") or not flag or "=" in flag:  # otherwise it is the value of an unknown flag
                name = word.split("=")[0]
                problems.append(Problem(name, f"{name} is not an option{likely(name, self._flags)}"))
            flag = word if word.startswith("-") else ""
        texts = {keyword: text for keyword, text in texts.items() if text != NO_VALUE}
        if words:
            texts[self._words] = "\0".join([*filter(None, [texts.get(self._words)]), *words])
        return texts, problems

    def _with_bare_values(self, arguments: Sequence[str]) -> list[str]:
        """The arguments; a flag that may stand alone, and has one of the words behind it, with the value of its own."""
        following = [*arguments[1:], ""]
        return [
            f"{word}={self._bare[word]}" if word in self._bare and self._is_word(then) else word
            for word, then in zip(arguments, following, strict=False)
        ]


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """The flags, and their value once."""
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        default = self._get_default_metavar_for_optional(action)
        return f"{', '.join(action.option_strings)} {self._format_args(action, default)}"

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.nargs == "?" and action.const == NO_VALUE:
            return str(action.metavar)
        if action.nargs == "*" and isinstance(action.metavar, tuple):
            return " ".join(action.metavar)
        return super()._format_args(action, default_metavar)


def _describe(option: Option[Any, Any]) -> str:
    words = option.help
    if option.required:
        words += " (required)"
    elif default := option.shown_default():
        words += f" (default: {default})"
    return f"{words} [{option.variable}]" if option.variable else words
