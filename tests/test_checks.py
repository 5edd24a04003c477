"""Checks that options of several places share. What each option takes is in tests/test_config.py."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sniffer.checks import (
    check_address,
    check_directory,
    check_file,
    check_secret,
    check_secret_file,
    check_url,
    is_address,
)
from sniffer.options import Secret


@pytest.mark.parametrize("check", [check_url, check_secret, check_file, check_secret_file, check_directory])
def test_none_is_no_value(check: Callable[[object], object]) -> None:
    """Where a value may be missing, None stays None."""
    assert check(None) is None


def test_a_secret_is_made_once() -> None:
    """A text becomes a Secret without the blanks around it; a Secret stays one."""
    assert check_secret(" abc ") == check_secret(Secret("abc")) == Secret("abc")
    with pytest.raises(ValueError, match="visible ASCII"):
        check_secret("a b")


@pytest.mark.parametrize("check", [check_secret, check_secret_file, check_url])
def test_what_may_be_secret_is_not_quoted(check: Callable[[object], object]) -> None:
    """The problem of a value that may be a secret, or hold one, does not show it."""
    with pytest.raises(ValueError, match="must") as raised:
        check("s3cr3t \0 value")
    assert "s3cr3t" not in str(raised.value)


def test_paths_become_texts() -> None:
    """A path of any kind becomes its text; what no file can be called is refused."""
    assert check_file(Path("a/b")) == "a/b" == check_directory("a/b")
    for wrong in ("", "a\0b", 7, "\udcff\ud800"):
        with pytest.raises(ValueError, match="must be the path"):
            check_file(wrong)
    assert os.fspath(Path("a")) == check_secret_file("a")


def test_addresses() -> None:
    """An IP address of either version, and nothing else, is one."""
    assert is_address("::1")
    assert is_address("127.0.0.1")
    assert not is_address("localhost")
    assert check_address(" 127.0.0.1 ") == "127.0.0.1"
    with pytest.raises(ValueError, match="must be an IP address"):
        check_address("localhost")


@pytest.mark.parametrize(("url", "canonical"), [("HTTPS://h/x", "https://h/x"), ("http://[::1]:80", "http://[::1]:80")])
def test_urls(url: str, canonical: str) -> None:
    """The scheme is written in lower case; the rest stays."""
    assert check_url(url) == canonical
