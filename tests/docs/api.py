"""docs/API.md, made from the docstrings: `python -m tests.docs.api > docs/API.md`.

Public is what `sniffer.__all__` names, its members that begin with no underscore, and the types of what these hand out.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, get_args, get_type_hints

import msgspec

import sniffer
from sniffer import errors
from sniffer.errors import Problem
from sniffer.ledger import Ledger
from sniffer.options import Option, Options, Secret
from sniffer.record.message import Endpoint, Fields, Placement

HANDED_OUT = (Problem, Secret, Endpoint, Fields, Placement, Ledger)

HEAD = """\
# API reference

Generated from the docstrings: `python -m tests.docs.api > docs/API.md`; a test keeps it so. [LIBRARY](LIBRARY.md) shows
how the pieces are used, [COMPATIBILITY](COMPATIBILITY.md) says what may change and when.

```python
from sniffer import CaptureError, HttpMessage, Sniffer, SnifferConfig, SnifferError, ValidationError, create_sniffer
```
"""


class _Shown:
    """An annotation for a signature: shown as it stands in the source."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def signature(name: str, function: Any, *, bound: bool = False) -> str:
    """A call as its definition says it."""

    def shown(annotation: object) -> object:
        return _Shown(annotation) if isinstance(annotation, str) else annotation

    found = inspect.signature(function)
    parameters = [p.replace(annotation=shown(p.annotation)) for p in found.parameters.values()]
    found = found.replace(
        parameters=parameters[1:] if bound else parameters, return_annotation=shown(found.return_annotation)
    )
    return ("await " if inspect.iscoroutinefunction(function) else "") + name + str(found)


def named(type_: Any) -> str:
    """A type in the words of a program."""
    text = type_.__name__ if isinstance(type_, type) and not get_args(type_) else str(type_)
    text = re.sub(r"\b(?:typing|collections\.abc|sniffer(?:\.\w+)+|os)\.", "", text)
    return re.sub(r"^Optional\[(.*)\]$", r"\1 | None", text)


def attributes(cls: type) -> dict[str, str]:
    """Public attributes of the class, and those that `__init__` sets, with the string behind each, empty if none."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    makers = [line for line in tree.body if isinstance(line, ast.FunctionDef) and line.name == "__init__"]
    found = {name: text for name, text in _assigned(tree.body, ast.Name).items() if not _shown_elsewhere(cls, name)}
    for maker in makers:
        found |= _assigned(maker.body, ast.Attribute)
    return {name: text for name, text in found.items() if not name.startswith("_")}


def _assigned(body: list[ast.stmt], kind: type[ast.Name | ast.Attribute]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line, following in zip(body, [*body[1:], None], strict=True):
        for target in line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]:
            if isinstance(target, kind):
                found[target.id if isinstance(target, ast.Name) else target.attr] = _string(following)
    return found


def _shown_elsewhere(cls: type, name: str) -> bool:
    """Whether it is a field of a record, an option, or a function under a further name."""
    value = vars(cls).get(name)
    return name in getattr(cls, "__struct_fields__", ()) or isinstance(value, Option) or inspect.isfunction(value)


def constants() -> dict[str, tuple[int, str]]:
    """The exit codes of `sniffer.errors`, with the string behind each."""
    body = ast.parse(inspect.getsource(errors)).body
    return {
        line.target.id: (getattr(errors, line.target.id), _string(following))
        for line, following in pairwise(body)
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    }


def _string(statement: ast.stmt | None) -> str:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return inspect.cleandoc(str(statement.value.value))
    return ""


def members(cls: type) -> dict[str, Any]:
    """Public functions and properties of a class, those it inherits from classes of ours included."""
    found: dict[str, Any] = {}
    for base in cls.__mro__:
        if base.__module__.startswith("sniffer"):
            for name, value in vars(base).items():
                is_one = isinstance(value, property | classmethod) or (
                    inspect.isfunction(value) and value.__name__ == name
                )
                if is_one and not name.startswith("_"):
                    found.setdefault(name, value)
    return found


def doc(thing: Any) -> str:
    """Its own docstring, not one that it inherits."""
    return inspect.cleandoc(thing.__doc__ or "")


def fields(cls: type[msgspec.Struct]) -> Iterator[tuple[str, str, str]]:
    """Name, type and meaning of each field of a record."""
    hints = get_type_hints(cls, include_extras=True)
    for field in msgspec.structs.fields(cls):
        hint = hints[field.name]
        meta = [extra for extra in get_args(hint)[1:] if isinstance(extra, msgspec.Meta)]
        plain = get_type_hints(cls)[field.name]
        yield field.name, named(plain), next((m.description for m in meta if m.description), "")


def of_class(name: str, cls: type) -> Iterator[str]:
    """The reference of one class."""
    yield f"## {name}\n\n{doc(cls)}\n"
    if issubclass(cls, Exception):
        yield f"Derived from {', '.join(f'`{base.__name__}`' for base in cls.__bases__)}.\n"
    if issubclass(cls, Options):
        yield "Its keywords; [CONFIGURATION](CONFIGURATION.md) has their defaults and meanings:\n"
        yield "| keyword | takes | holds |\n|---|---|---|"
        hints = get_type_hints(cls, localns={"HttpMessage": sniffer.HttpMessage})
        for keyword in cls.options():
            given, value = get_args(hints[keyword]) or (Any, Any)
            yield row(f"`{keyword}`", f"`{named(given)}`", f"`{named(value)}`")
        yield ""
    elif issubclass(cls, msgspec.Struct):
        described = list(fields(cls))
        yield "| attribute | type | meaning |\n|---|---|---|"
        yield from (row(f"`{field}`", f"`{kind}`", meaning) for field, kind, meaning in described)
        yield ""
    for attribute, text in attributes(cls).items():
        yield f"### {name}.{attribute}\n\n{text}\n"
    for member, value in members(cls).items():
        yield f"### {name}.{member}\n"
        if not isinstance(value, property):
            function = value.__func__ if isinstance(value, classmethod) else value
            owner = name if isinstance(value, classmethod) else re.findall("[A-Z][a-z]+", name)[-1].lower()
            yield f"`{signature(f'{owner}.{member}', function, bound=True)}`\n"
        yield f"{doc(value)}\n"


def row(*cells: str) -> str:
    """A row of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def public() -> dict[str, Any]:
    """Every public thing by its name."""
    return {name: getattr(sniffer, name) for name in sorted(sniffer.__all__, key=str.lower)} | {
        cls.__name__: cls for cls in HANDED_OUT
    }


def undocumented(things: dict[str, Any]) -> list[str]:
    """The public names that have no docstring."""
    missing = []
    for name, thing in things.items():
        said = {name: doc(thing)}
        if inspect.isclass(thing):
            said |= {f"{name}.{member}": doc(value) for member, value in members(thing).items()}
            said |= {f"{name}.{attribute}": text for attribute, text in attributes(thing).items()}
            if issubclass(thing, msgspec.Struct):
                said |= {f"{name}.{field}": meaning for field, _, meaning in fields(thing)}
            if issubclass(thing, Options):
                said |= {f"{name}.{keyword}": option.help for keyword, option in thing.options().items()}
        missing += [place for place, text in said.items() if not text]
    return missing


def document() -> str:
    """docs/API.md."""
    parts = [HEAD]
    for name, thing in public().items():
        if inspect.isclass(thing):
            parts += of_class(name, thing)
        else:
            parts.append(f"## {name}\n\n`{signature(name, thing)}`\n\n{doc(thing)}\n")
    parts.append("## Exit codes\n\nOf `sniffer.errors`; an exception of ours has its own as `exit_code`.\n")
    parts.append("| name | code | meaning |\n|---|---|---|")
    parts += [row(f"`{name}`", str(code), meaning) for name, (code, meaning) in constants().items()]
    return "\n".join(parts).rstrip("\n") + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())
