"""The expression language: one line of text becomes one function of an exchange. docs/FILTERS.md is its manual.

A hand-written parser: its errors say at the column what would be right, and it is small enough to be written a second
time, line by line, in another language. A generated one would bring a dependency that takes longer to import than the
whole language takes.

Grammar, each line binding closer than the one before:

    any      = all ("||" all)*
    all      = not ("&&" not)*
    not      = "!" not | compared
    compared = term (("==" | "!=" | "<" | "<=" | ">" | ">=" | "=~" | "in" | "contains") term)?
    term     = number | duration | text | list | "true" | "false" | "null" | "has" "(" field ")" | field | "(" any ")"
    field    = ("request" | "response")? name ("." name | "[" text "]")*
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from sniffer.expressions.fields import ALIASES, KINDS, OF_CONTENT, Read, of_json
from sniffer.expressions.patterns import Pattern, PatternError

MOST_CHARACTERS: Final = 4096
"""Characters of an expression."""
MOST_DEPTH: Final = 32
"""Parentheses in parentheses, `!` included."""

Messages = tuple[Any, Any]
"""A request and its response, in the form that the reader of fields takes; one of them may be None."""
Value = Callable[[Messages], Any]


class ExpressionError(ValueError):
    """An expression that is none. `column` is the place of the mistake, in characters from 1 on."""

    def __init__(self, column: int, message: str) -> None:
        super().__init__(f"column {column}: {message}")
        self.column = column


class _Token(NamedTuple):
    kind: str
    text: str
    column: int


class _Term(NamedTuple):
    """A part of an expression: the kind of its value, the function that gives it, and where it stands.

    Kinds are those of fields, and `null`, `message` (a whole request or response), `list` (written out).
    """

    kind: str
    value: Value
    column: int
    constant: Any = None
    """The value of what is written out; the text between the quotes, of a text."""


_TOKEN: Final = re.compile(
    r"""(?P<number>[0-9]+(?:\.[0-9]+)?)(?P<unit>us|ms|s|m|h)?(?![A-Za-z0-9_.])
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<mark>==|!=|<=|>=|=~|&&|\|\||[-<>!()\[\],.])""",
    re.VERBOSE | re.DOTALL,
)
_UNITS: Final = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0, "h": 3_600_000.0}
_SPACE: Final = " \t\r\n"
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "'": "'", "\\": "\\"}
_WORDS: Final = {"true": True, "false": False, "null": None}
_COMPARING: Final = ("==", "!=", "<", "<=", ">", ">=", "=~", "in", "contains")
_KINDS: Final = {
    "number": "a number",
    "text": "a text",
    "flag": "a condition",
    "texts": "a list of texts",
    "numbers": "a list of numbers",
    "map": "a map of texts",
    "mixed": "a number or a text",
    "null": "null",
    "message": "a message",
    "list": "a list",
}


def _tokens(text: str) -> list[_Token]:
    found = []
    at = 0
    while True:
        while at < len(text) and text[at] in _SPACE:
            at += 1
        if at == len(text):
            found.append(_Token("end", "", at + 1))
            return found
        match = _TOKEN.match(text, at)
        if match is None:
            what = "the text is not closed" if text[at] in "\"'" else f"`{_shown(text[at])}` is not understood"
            raise ExpressionError(at + 1, what)
        kind = match.lastgroup or ""
        found.append(_Token("number" if kind == "unit" else kind, match[0], at + 1))
        at = match.end()


def _shown(char: str) -> str:
    return char if char.isprintable() and char.isascii() else f"U+{ord(char):04X}"


class Expression:
    """An expression, ready to be asked. Raises ExpressionError for a text that is none.

    `read_of` gives the function that reads a field: `fields.of_json`, or what `fields.of_raw` returns.
    """

    def __init__(self, text: str, read_of: Callable[[str], Read]) -> None:
        parser = _Parser(text, read_of)
        self._value = parser.whole()
        self.needs_content = parser.needs_content
        """It looks at bodies."""

    def __call__(self, request: Any, response: Any) -> bool:
        """Whether it holds for an exchange; one of the messages may be None."""
        return self._value((request, response)) is True


_MEANT: Final = re.compile(r"[!(\s]*(?:has\s*\(|(\w+)[\w.]*(?:\[[^\]]*\])?\s*(?:==|!=|<|>|=~))|.*\s(?:&&|\|\|)\s")
_FIRST: Final = frozenset({name.partition(".")[0] for name in KINDS} | ALIASES.keys() | {"request", "response"})


def is_meant(text: str) -> bool:
    """Whether somebody who types `text` into a field that takes words as well means an expression, right or wrong.

    A word alone never is one, and a text without blanks (`a==`) only if it begins with a field.
    """
    try:
        Expression(text, of_json)
    except ExpressionError:
        found = _MEANT.match(text)
        return found is not None and (found[1] in _FIRST or bool(re.search(r"\s|^!*has\(", text.strip())))
    return not text.strip().isidentifier()


class _Parser:
    def __init__(self, text: str, read_of: Callable[[str], Read]) -> None:
        if len(text) > MOST_CHARACTERS:
            raise ExpressionError(MOST_CHARACTERS + 1, f"an expression has at most {MOST_CHARACTERS} characters")
        self.tokens = _tokens(text)
        self.read_of = read_of
        self.at = 0
        self.depth = 0
        self.needs_content = False

    # Tokens

    @property
    def token(self) -> _Token:
        return self.tokens[self.at]

    def take(self, *texts: str) -> _Token | None:
        """The next token if it is one of these marks or words; it is consumed."""
        token = self.token
        if token.kind not in ("mark", "name") or token.text not in texts:
            return None
        self.at += 1
        return token

    def need(self, text: str) -> None:
        if self.take(text) is None:
            raise self.unexpected(f"`{text}`")

    def unexpected(self, wanted: str) -> ExpressionError:
        token = self.token
        found = "the end" if token.kind == "end" else f"`{token.text}`" if len(token.text) <= 20 else "this"
        return ExpressionError(token.column, f"expected {wanted}, not {found}")

    # Grammar

    def whole(self) -> Value:
        found = self.either()
        if self.token.kind != "end":
            raise self.unexpected("an operator or the end")
        return _condition(found).value

    def either(self) -> _Term:
        first = self.both()
        terms = [first]
        while self.take("||"):
            terms.append(self.both())
        if len(terms) == 1:
            return first
        values = [_condition(term).value for term in terms]
        return _Term("flag", lambda messages: any(value(messages) is True for value in values), first.column)

    def both(self) -> _Term:
        first = self.negated()
        terms = [first]
        while self.take("&&"):
            terms.append(self.negated())
        if len(terms) == 1:
            return first
        values = [_condition(term).value for term in terms]
        return _Term("flag", lambda messages: all(value(messages) is True for value in values), first.column)

    def negated(self) -> _Term:
        mark = self.take("!")
        if mark is None:
            return self.compared()
        self.deeper(mark)
        value = _condition(self.negated()).value
        self.depth -= 1
        return _Term("flag", lambda messages: value(messages) is not True, mark.column)

    def deeper(self, token: _Token) -> None:
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise ExpressionError(token.column, f"more than {MOST_DEPTH} parentheses or `!` in each other")

    def compared(self) -> _Term:
        left = self.term()
        operator = self.take(*_COMPARING)
        if operator is None:
            return left
        right = self.term()
        if self.token.kind in ("mark", "name") and self.token.text in _COMPARING:
            raise ExpressionError(self.token.column, "one comparison follows another: join them with && or ||")
        return _Term("flag", _comparison(left, operator, right), left.column)

    def term(self) -> _Term:
        token = self.token
        if token.kind == "number" or token.text == "-":
            return self.number()
        self.at += token.kind != "end"
        if token.kind == "text":
            return _text(token)
        if token.text == "(" and token.kind == "mark":
            self.deeper(token)
            inside = self.either()
            self.need(")")
            self.depth -= 1
            return inside._replace(column=token.column)
        if token.text == "[" and token.kind == "mark":
            return self.listed(token)
        if token.kind == "name":
            if token.text == "has" and self.token.text == "(":
                return self.has(token)
            if token.text in _WORDS:
                return _constant("null" if token.text == "null" else "flag", _WORDS[token.text], token)
            if token.text not in _COMPARING:
                return self.field(token)
        self.at -= token.kind != "end"
        raise self.unexpected("a field or a value")

    def number(self) -> _Term:
        sign = self.take("-")
        token = self.token
        if token.kind != "number":
            raise self.unexpected("a number")
        self.at += 1
        digits = token.text.rstrip("umsh")
        value = float(digits) * _UNITS.get(token.text[len(digits) :], 1.0)
        return _constant("number", -value if sign else value, sign or token)

    def listed(self, begun: _Token) -> _Term:
        items: list[_Term] = []
        while not self.take("]"):
            if items:
                self.need(",")
            token = self.token
            item = self.term()
            if item.kind not in ("number", "text") or item.constant is None:
                raise ExpressionError(token.column, "a list holds numbers or texts")
            if items and items[0].kind != item.kind:
                raise ExpressionError(token.column, f"{_KINDS[item.kind]} in a list of {items[0].kind}s")
            items.append(item)
        if not items:
            raise ExpressionError(begun.column, "the list is empty")
        values = frozenset(item.value((None, None)) for item in items)
        return _Term("list", lambda _: values, begun.column, items[0].kind)

    def has(self, token: _Token) -> _Term:
        self.need("(")
        name = self.token
        if name.kind != "name":
            raise self.unexpected("a field")
        self.at += 1
        value = self.field(name).value
        self.need(")")
        return _Term("flag", lambda messages: value(messages) is not None, token.column)

    def field(self, token: _Token) -> _Term:
        side = None
        name = token.text
        if name in ("request", "response"):
            side = ("request", "response").index(name)
            if not self.take("."):
                return _Term("message", lambda messages: messages[side], token.column)
            name = self.name()
        name = ALIASES.get(name, name)
        while name not in KINDS and any(field.startswith(f"{name}.") for field in KINDS):
            self.need(".")
            name = f"{name}.{self.name()}"
        if name not in KINDS:
            near = next((field for field in KINDS if field.lower() == name.lower().replace("_", "")), None)
            hint = f": it is `{near}`" if near else ""
            raise ExpressionError(token.column, f"there is no field `{name if len(name) <= 40 else name[:40]}`{hint}")
        self.needs_content = self.needs_content or name in OF_CONTENT
        read = self.read_of(name)
        kind = KINDS[name]
        if kind == "map" and (self.token.text in (".", "[") and self.token.kind == "mark"):
            kind, read = "text", _entry(read, self.key())
        return _Term(kind, _of_side(read, side), token.column)

    def name(self) -> str:
        token = self.token
        if token.kind != "name":
            raise self.unexpected("a name")
        self.at += 1
        return token.text

    def key(self) -> str:
        """The key of a map: `.name` or `["name"]`."""
        if self.take("."):
            return self.name().lower()
        self.need("[")
        token = self.token
        if token.kind != "text":
            raise self.unexpected("a name in quotes")
        self.at += 1
        self.need("]")
        key: str = _text(token).value((None, None))
        return key.lower()


def _condition(term: _Term) -> _Term:
    if term.kind != "flag":
        raise ExpressionError(term.column, f"{_KINDS[term.kind]} is no condition: compare it, or ask has()")
    return term


def _constant(kind: str, value: Any, token: _Token) -> _Term:
    return _Term(kind, lambda _: value, token.column, value)


def _text(token: _Token) -> _Term:
    inside = token.text[1:-1]
    parts = []
    at = 0
    while at < len(inside):
        char = inside[at]
        if char == "\\":
            at += 1
            if inside[at] not in _ESCAPES:  # found where the value is asked for: of a pattern it never is
                return _Term("text", _bad_escape(token.column + at), token.column, inside)
            char = _ESCAPES[inside[at]]
        parts.append(char)
        at += 1
    value = "".join(parts)
    return _Term("text", lambda _: value, token.column, inside)


def _bad_escape(column: int) -> Value:
    def value(_: Messages) -> Any:
        raise ExpressionError(column, "of escapes in a text there are \\\\ \\\" \\' \\n \\r \\t")

    return value


def _entry(read: Read, key: str) -> Read:
    def entry(message: Any) -> Any:
        fields = read(message)
        value = None if fields is None else fields.get(key)
        return value if value is None or isinstance(value, str) else "\n".join(value)

    return entry


def _of_side(read: Read, side: int | None) -> Value:
    """A field of one message; without a side of the response, where it has one, else of the request."""

    def of_one(messages: Messages) -> Any:
        message = messages[side]  # type: ignore[index]
        return None if message is None else read(message)

    def of_either(messages: Messages) -> Any:
        request, response = messages
        value = None if response is None else read(response)
        return read(request) if value is None and request is not None else value

    return of_either if side is None else of_one


def _comparison(left: _Term, operator: _Token, right: _Term) -> Value:
    if operator.text == "=~":
        return _matches(left, right)
    for term in (left, right):
        if term.kind == "text" and term.constant is not None:
            term.value((None, None))  # raises where an escape is wrong
    if operator.text == "in":
        return _within(right, left, "in")
    if operator.text == "contains":
        return _within(left, right, "contains")
    if operator.text in ("==", "!="):
        return _equals(left, operator, right)
    kinds = {left.kind, right.kind} - {"mixed"}
    if len(kinds) != 1 or not kinds <= {"number", "text"}:
        raise ExpressionError(operator.column, f"{_KINDS[left.kind]} and {_KINDS[right.kind]} have no order")
    return _ordered(left.value, operator.text, right.value, float if kinds == {"number"} else str)


def _ordered(left: Value, operator: str, right: Value, kind: type) -> Value:
    def compare(messages: Messages) -> bool:
        one, other = left(messages), right(messages)
        if not all(isinstance(each, int | float if kind is float else str) for each in (one, other)):
            return False
        if operator in ("<", ">"):
            return bool(one < other if operator == "<" else one > other)
        return bool(one <= other if operator == "<=" else one >= other)

    return compare


def _equals(left: _Term, operator: _Token, right: _Term) -> Value:
    kinds = {left.kind, right.kind}
    comparable = (
        "null" in kinds
        or (len(kinds) == 1 and kinds <= {"number", "text", "flag", "mixed"})
        or ("mixed" in kinds and kinds <= {"mixed", "number", "text"})
    )
    if not comparable:
        raise ExpressionError(operator.column, f"{_KINDS[left.kind]} and {_KINDS[right.kind]} are never equal")
    one, other = left.value, right.value
    if kinds == {"flag"}:  # a condition that is not known does not hold
        of_left, of_right = left.value, right.value
        one, other = (lambda messages: of_left(messages) is True), (lambda messages: of_right(messages) is True)
    if operator.text == "==":
        return lambda messages: bool(one(messages) == other(messages))
    return lambda messages: bool(one(messages) != other(messages))


def _within(whole: _Term, part: _Term, operator: str) -> Value:
    """Whether `whole` holds `part`: a text a part of it, a list an entry, a map a name."""
    entry = {"texts": "text", "numbers": "number", "map": "text", "text": "text"}.get(whole.kind)
    entry = whole.constant if whole.kind == "list" else entry
    fits = part.kind == entry or (part.kind == "mixed" and whole.kind == "list")
    if not fits or (operator == "in" and whole.kind == "text"):
        hint = ": a part of a text is found with contains" if operator == "in" and whole.kind == "text" else ""
        raise ExpressionError(whole.column, f"{_KINDS[whole.kind]} cannot hold {_KINDS[part.kind]}{hint}")
    of_whole, of_part = whole.value, part.value
    is_map = whole.kind == "map"

    def within(messages: Messages) -> bool:
        value, sought = of_whole(messages), of_part(messages)
        if is_map and sought is not None:
            sought = sought.lower()
        return value is not None and sought is not None and sought in value

    return within


def _matches(left: _Term, right: _Term) -> Value:
    if left.kind not in ("text", "mixed"):
        raise ExpressionError(left.column, f"{_KINDS[left.kind]} cannot match a pattern")
    if right.kind != "text" or right.constant is None:
        raise ExpressionError(right.column, "a pattern stands in quotes")
    try:
        search = Pattern(right.constant).search
    except PatternError as error:
        raise ExpressionError(right.column + 1 + error.at, str(error)) from None
    value = left.value
    if left.constant is not None:
        value((None, None))

    def matches(messages: Messages) -> bool:
        text = value(messages)
        return isinstance(text, str) and search(text)

    return matches
