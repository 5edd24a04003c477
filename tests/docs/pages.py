"""The documents, read by a Markdown parser: their code blocks, commands, links and headings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.daemon import ROOT

MARKDOWN = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True)
class Block:
    """A fenced block of code, and the line it begins on."""

    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command of a page; `output` is what a console block shows below it."""

    page: Page
    line: int
    text: str
    output: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


@dataclass(frozen=True)
class Page:
    path: Path

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @cached_property
    def text(self) -> str:
        return self.path.read_text()

    @cached_property
    def _tokens(self) -> list[Token]:
        return MARKDOWN.parse(self.text)

    def _inline(self) -> Iterator[tuple[int, Token]]:
        """Everything inside a line of text, with the line."""
        for token in self._tokens:
            if token.type == "inline":
                line = token.map[0] + 1 if token.map else 0
                yield from ((line, child) for child in token.children or ())

    def blocks(self, language: str | None = None) -> list[Block]:
        """The fenced blocks in this language, or all."""
        return [
            Block((token.map or [0])[0] + 1, token.info, token.content)
            for token in self._tokens
            if token.type == "fence" and language in (None, token.info)
        ]

    def links(self) -> list[str]:
        """Targets of links and images."""
        attributes = {"link_open": "href", "image": "src"}
        return [str(token.attrs[attributes[token.type]]) for _, token in self._inline() if token.type in attributes]

    def anchors(self) -> set[str]:
        """What `#...` in a link to this page may name: its headings, as GitHub names them."""
        found: set[str] = set()
        for token, inline in zip(self._tokens, self._tokens[1:], strict=False):
            if token.type == "heading_open":
                heading = "".join(child.content for child in inline.children or () if child.type != "html_inline")
                slug = name = re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")
                number = 0
                while name in found:
                    number += 1
                    name = f"{slug}-{number}"
                found.add(name)
        return found

    def spans(self) -> list[tuple[int, str]]:
        """Code inside text, with the line of its paragraph."""
        return [(line, token.content) for line, token in self._inline() if token.type == "code_inline"]

    def commands(self, programs: frozenset[str] | set[str]) -> list[Command]:
        """Commands of console blocks, and code inside text that calls one of the programs with something."""
        found = [command for block in self.blocks("console") for command in self._console(block)]
        for line, span in self.spans():
            words = [word for word in span.split() if not re.fullmatch(r"[A-Z_]+=\S*", word)]
            if len(words) > 1 and words[0].removeprefix(".venv/bin/") in programs:
                found.append(Command(self, line, span))
        return found

    def _console(self, block: Block) -> Iterator[Command]:
        start, command = 0, ""
        output: list[str] = []
        for number, line in enumerate(block.text.splitlines(), block.line + 1):
            if command and not complete(command):
                command += "\n" + line
            elif line.startswith("$ "):
                if command:
                    yield Command(self, start, command, tuple(output))
                start, command, output = number, line[2:], []
            else:
                output.append(line)
        assert command, f"{self.name}:{block.line}: no command"
        yield Command(self, start, command, tuple(output))


def complete(command: str) -> bool:
    """Whether a command's quotes are closed."""
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return not command.endswith("\\")


def simple_commands(command: str) -> list[list[str]]:
    """The words of each program that a command calls, in order, without redirections and assignments before it."""
    lexer = shlex.shlex(re.sub(r"(?<=\s)\d(?=[<>])", "", command), posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    words = iter(lexer)
    for word in words:
        if word[0] in "<>":
            next(words)
        elif word[0] in "|&;":
            found.append([])
        elif found[-1] or not re.fullmatch(r"[A-Z_]+=.*", word, re.DOTALL):
            found[-1].append(word)
    return [words for words in found if words]


PAGES = [Page(path) for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")])]
