"""The deployment guide names what there is."""

from __future__ import annotations

import re

import pytest

from sniffer.injector import InjectorOptions, Reason
from sniffer.injector.options import ANNOTATIONS, camel
from tests.daemon import ROOT
from tests.e2e.__main__ import parser

GUIDE = (ROOT / "docs/deployment/DEPLOYMENT_GUIDE.md").read_text()


@pytest.mark.parametrize("keyword", InjectorOptions.options())
def test_every_option_is_in_the_guide(keyword: str) -> None:
    """The guide's table has each option's key, variable, flag, and its default where that is one word."""
    option = InjectorOptions.options()[keyword]
    (row,) = [line for line in GUIDE.splitlines() if re.match(rf"\| `{camel(keyword)}\b", line)]
    assert f"`{option.variable}`" in row
    assert f"`{option.flag}`" in row
    if isinstance(option.default, str | int) and not isinstance(option.default, bool):
        assert row.rsplit("|", 2)[1].strip().strip("`") == str(option.default)


def test_every_annotation_and_reason_is_in_the_guide() -> None:
    """The guide explains each annotation and each reason."""
    for name in (*ANNOTATIONS, *Reason):
        assert f"`{name}`" in GUIDE


def test_every_option_of_the_e2e_test_is_documented() -> None:
    """The E2E guide names each option of the command."""
    text = (ROOT / "docs/testing/E2E.md").read_text()
    assert all(action.option_strings[-1] in text for action in parser()._actions if action.dest != "help")
