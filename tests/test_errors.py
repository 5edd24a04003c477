"""sniffer.errors: the exception tree and its exit codes."""

from __future__ import annotations

import pickle

import pytest

from sniffer.errors import (
    EXIT_CONFIG,
    EXIT_OK,
    EXIT_RUNTIME,
    CaptureError,
    Problem,
    SnifferError,
    ValidationError,
)


def test_exit_codes() -> None:
    """The codes are those of the contract, and each error carries its own."""
    assert (EXIT_OK, EXIT_CONFIG, EXIT_RUNTIME) == (0, 1, 2)
    assert (SnifferError.exit_code, CaptureError.exit_code, ValidationError.exit_code) == (2, 2, 1)


def test_validation_error_names_every_problem() -> None:
    """The field is that of the first problem; the text holds them all."""
    error = ValidationError([Problem("ports", "ports is required"), Problem("read", "read is odd")])
    assert isinstance(error, ValueError)
    assert isinstance(error, SnifferError)
    assert error.field == "ports"
    assert [problem.field for problem in error.problems] == ["ports", "read"]
    assert str(error) == "ports is required; read is odd"


def test_validation_error_needs_a_problem() -> None:
    """An error without a problem is a mistake of the caller."""
    with pytest.raises(TypeError):
        ValidationError([])


def test_validation_error_is_pickled_whole() -> None:
    """It crosses processes with its problems."""
    error = pickle.loads(pickle.dumps(ValidationError([Problem("ports", "ports is required")])))
    assert error.problems == (Problem("ports", "ports is required"),)
