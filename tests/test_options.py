"""sniffer.options: one declaration, three ways in, every problem at once."""

from __future__ import annotations

import copy
import pickle
from typing import ClassVar

import pytest

from sniffer.errors import ValidationError
from sniffer.options import MaybeText, Names, Options, Secret, Switch, Whole, names, switch, table, text, whole


class Oven(Options):
    """A class of options like the sniffer's or the injector's."""

    PREFIX: ClassVar[str] = "OVEN_"

    heat: Whole = whole(200, 50, 300, group="Cooking", help="degrees | Celsius")
    fan: Switch = switch(False, group="Cooking", flag="--with-fan", help="fan on")
    dishes: Names = names((), group="Cooking", help="what is in it")
    label: MaybeText = text(None, group="Looks", variable="OVEN_NAME", flag="", help="name on the door")


def filled(**texts: str) -> Oven:
    """An oven from texts, as variables and flags give them."""
    oven = Oven.__new__(Oven)
    oven._fill({}, texts)
    return oven


def test_declaration_yields_all_names() -> None:
    """Keyword, variable and flag follow from the attribute's name unless said otherwise."""
    options = Oven.options()
    assert list(options) == ["heat", "fan", "dishes", "label"]
    assert (options["heat"].variable, options["heat"].flag) == ("OVEN_HEAT", "--heat")
    assert (options["fan"].variable, options["fan"].flag) == ("OVEN_FAN", "--with-fan")
    assert (options["label"].variable, options["label"].flag) == ("OVEN_NAME", "")


def test_table() -> None:
    """A group's table has a row for each of its options, with cells that cannot break it."""
    assert table(Oven, "Cooking").splitlines()[2:] == [
        r"| `OVEN_HEAT` | `--heat` | `heat` | 200 | Degrees \| Celsius |",
        "| `OVEN_FAN` | `--with-fan` | `fan` | off | Fan on |",
        "| `OVEN_DISHES` | `--dishes` | `dishes` |  | What is in it |",
    ]


def test_every_problem_is_reported_once() -> None:
    """All wrong values and unknown keywords are named together, each under its own field."""
    with pytest.raises(ValidationError) as caught:
        Oven(heat=20, fan="yes", dishes="pie", lable="x")  # type: ignore[arg-type, call-arg]
    assert [problem.field for problem in caught.value.problems] == ["lable", "heat", "fan", "dishes"]
    assert caught.value.problems[0].message == "lable is not an option; did you mean label?"
    assert caught.value.problems[1].message == "heat must be a whole number from 50 to 300, not 20"


@pytest.mark.parametrize("word", ["1", "true", "YES", "On", " on "])
def test_switch_on(word: str) -> None:
    """Four words in any case switch on."""
    assert filled(fan=word).fan is True


@pytest.mark.parametrize("word", ["0", "false", "NO", "Off"])
def test_switch_off(word: str) -> None:
    """Four words in any case switch off."""
    assert filled(fan=word).fan is False


@pytest.mark.parametrize("word", ["production", "2", "y", "enabled", "None"])
def test_switch_refuses_anything_else(word: str) -> None:
    """A mistyped switch is an error, never a default."""
    with pytest.raises(ValidationError, match="fan must be 1, true, yes or on"):
        filled(fan=word)


@pytest.mark.parametrize("word", ["20", "301", "1e2", "2_00", "٢٠٠", "0xff", "200.0", "+200", "nan", "100Ki", "9" * 99])
def test_whole_refuses(word: str) -> None:
    """Only plain decimal digits within the range are a whole number."""
    with pytest.raises(ValidationError, match="heat must be a whole number from 50 to 300"):
        filled(heat=word)


def test_long_values_are_cut_in_messages() -> None:
    """A message stays on one short line, whatever was given."""
    with pytest.raises(ValidationError) as caught:
        filled(heat="x\n" * 500)
    assert len(str(caught.value)) < 130
    assert "\n" not in str(caught.value)


def test_names_are_stripped_and_unique() -> None:
    """Blanks around commas are ignored, and a name given twice counts once."""
    assert filled(dishes=" pie , bread,pie ").dishes == ("pie", "bread")


@pytest.mark.parametrize("word", ["pie,,bread", ",", "pie,"])
def test_empty_entries_are_refused(word: str) -> None:
    """A comma too many is a mistake that would otherwise hide."""
    with pytest.raises(ValidationError, match="dishes must be a list of texts"):
        filled(dishes=word)


@pytest.mark.parametrize("empty", ["", " ", "\t"])
def test_empty_text_is_unset(empty: str) -> None:
    """An empty variable is the same as an unset one, for every option."""
    assert filled(heat=empty, fan=empty, dishes=empty, label=empty) == Oven()
    assert Oven.texts_of({"OVEN_HEAT": empty, "OVEN_NAME": "x", "HEAT": "1"}) == {"label": "x"}


def test_instances_cannot_be_changed() -> None:
    """An instance is a value: no attribute can be set or deleted; equal ones are equal and hash alike."""
    oven = Oven(heat=100)
    with pytest.raises(AttributeError):
        oven.heat = 120  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del oven.heat
    with pytest.raises(AttributeError):
        Oven.heat.__set__(oven, 120)
    assert oven == Oven(heat=100) != Oven(heat=120)
    assert hash(oven) == hash(Oven(heat=100))
    assert copy.copy(oven) == oven
    assert repr(oven) == "Oven(heat=100)"


def test_secret_shows_nothing() -> None:
    """A secret is in no repr, no str, no format and no pickle; `reveal` gives it."""
    secret = Secret("s3cr3t")
    assert "s3cr3t" not in f"{secret!r} {secret} {secret!s} {[secret]}"
    assert secret.reveal() == "s3cr3t"
    assert secret == Secret("s3cr3t") != Secret("other")
    assert hash(secret) == hash(Secret("s3cr3t"))
    with pytest.raises(TypeError):
        pickle.dumps(secret)
