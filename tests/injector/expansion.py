"""How a kubelet expands the values of a container's variables: third_party/forked/golang/expansion, in Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def mapping_for(*contexts: Mapping[str, str]) -> Callable[[str], str]:
    """`MappingFuncFor`: the value of a variable in the first context that has it, else the reference as it stands."""

    def mapped(name: str) -> str:
        for context in contexts:
            if name in context:
                return context[name]
        return f"$({name})"

    return mapped


def expand(given: str, mapped: Callable[[str], str]) -> str:
    """`Expand`: references replaced, `$$` read as `$`, everything else as it stands."""
    made, checkpoint, cursor = [], 0, 0
    while cursor < len(given):
        if given[cursor] == "$" and cursor + 1 < len(given):
            made.append(given[checkpoint:cursor])
            read, is_variable, advance = _read(given[cursor + 1 :])
            made.append(mapped(read) if is_variable else read)
            cursor += advance
            checkpoint = cursor + 1
        cursor += 1
    return "".join(made) + given[checkpoint:]


def _read(given: str) -> tuple[str, bool, int]:
    """`tryReadVariableName`: what stands behind a `$`, whether it is a name, and how long it is."""
    if given[0] == "$":
        return "$", False, 1
    if given[0] != "(":
        return "$" + given[0], False, 1
    end = given.find(")", 1)
    return ("$(", False, 1) if end < 0 else (given[1:end], True, end + 1)


def environment_of(container: Mapping[str, Any], found: Mapping[str, str] | None = None) -> dict[str, str]:
    """`makeEnvironmentVariables`: each variable as its process gets it, references to those before it expanded.

    `found` has what `valueFrom` gives; that is never expanded itself.
    """
    made: dict[str, str] = {}
    for entry in container["env"]:
        if "valueFrom" in entry:
            made[entry["name"]] = (found or {}).get(entry["name"], f"the-{entry['name'].lower()}")
        else:
            made[entry["name"]] = expand(entry["value"], mapping_for(made))
    return made
