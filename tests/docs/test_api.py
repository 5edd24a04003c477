"""docs/API.md is what the docstrings say, and they say something of everything that is public."""

from __future__ import annotations

import msgspec

from sniffer.options import Options, switch
from tests.daemon import ROOT
from tests.docs import api


def test_the_reference_is_up_to_date() -> None:
    """docs/API.md is generated: `make docs` writes it."""
    assert (ROOT / "docs" / "API.md").read_text() == api.document()


def test_every_public_name_has_a_docstring() -> None:
    """Public names, their members, attributes, keywords and fields say what they are."""
    assert api.undocumented(api.public()) == []


class _Bare:
    limit: int = 1

    def __init__(self) -> None:
        self.size = 2
        self._hidden = 3

    def act(self) -> None: ...

    @property
    def state(self) -> str:
        return ""

    @classmethod
    def make(cls) -> None: ...

    def _own(self) -> None: ...


class _Record(msgspec.Struct):
    """A record."""

    name: str


class _Options(Options):
    """Options."""

    quick = switch(False, group="", help="")


def test_what_lacks_a_docstring_is_found() -> None:
    """A class, a method, a property, a class method, attributes of both kinds, a field and an option are looked at."""
    assert set(api.undocumented({"Bare": _Bare})) == {"Bare", "Bare.limit", "Bare.size"}
    members = {f"_Bare.{name}": value for name, value in vars(_Bare).items() if name in ("act", "state", "make")}
    assert set(api.undocumented(members)) == set(members)
    assert api.undocumented({"Record": _Record}) == ["Record.name"]
    assert api.undocumented({"Options": _Options}) == ["Options.quick"]


def test_signatures_are_as_written() -> None:
    """A call is shown with its annotations and defaults, without `self`, a coroutine with `await`."""

    class Cls:
        async def run(self, name: str = "x", *, on: bool | None = None) -> dict[str, int]:
            return {}

    assert api.signature("c.run", Cls.run, bound=True) == (
        "await c.run(name: str = 'x', *, on: bool | None = None) -> dict[str, int]"
    )
