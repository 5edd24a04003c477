"""The waiting helpers: what they return, and that they end."""

from __future__ import annotations

import socket

import pytest

from tests.waiting import listens, until, wait_until


async def test_a_condition_is_looked_at_until_it_is_true() -> None:
    """Both waits return the first true value; a coroutine function is awaited."""

    async def found() -> str:
        return next(asynchronous)

    asynchronous = iter(["", "", "there"])
    assert await until(found) == "there"
    plain = iter([0, 0, 7])
    assert await until(lambda: next(plain)) == 7
    blocking = iter([[], [1]])
    assert wait_until(lambda: next(blocking), pause=0) == [1]


async def test_a_wait_ends() -> None:
    """A condition that never holds is a TimeoutError that names it."""
    with pytest.raises(TimeoutError, match=r"not within 0\.01 s: the impossible"):
        await until(lambda: False, "the impossible", seconds=0.01)
    with pytest.raises(TimeoutError, match=r"not within 0\.01 s: the impossible"):
        wait_until(lambda: False, "the impossible", seconds=0.01, pause=0)


async def test_an_error_of_the_condition_is_its_own() -> None:
    """A TimeoutError that the condition raises is not taken for the end of the wait."""

    def broken() -> bool:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        await until(broken)


def test_a_port_listens_or_not() -> None:
    """`listens` tells a port with a server from one without."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert listens(port)
    assert not listens(port)
