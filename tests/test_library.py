"""The library's promises: what importing does, what the public names do."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import sniffer as package
from sniffer import (
    CaptureError,
    HttpMessage,
    Sniffer,
    SnifferConfig,
    SnifferError,
    ValidationError,
    create_sniffer,
)
from sniffer.options import declared
from tests.captures import connection, exchanges, write
from tests.instrumented import inherited

ROOT = Path(__file__).parent.parent


def python(code: str, *, cwd: Path | None = None, path: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a program in a new interpreter, with the package at hand and warnings as errors."""
    search = ":".join(dict.fromkeys([path, *(entry for entry in sys.path if entry), str(ROOT)])).strip(":")
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        cwd=cwd,
        env={**inherited(), "PYTHONPATH": search, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def file(tmp_path: Path) -> str:
    """capture.pcap with 20 exchanges."""
    return write(tmp_path / "capture.pcap", connection(exchanges(20)))


# Importing


def test_importing_loads_neither_pcapy_nor_the_core() -> None:
    """`import sniffer` needs neither pcapy nor the compiled core nor Linux, and loads none of its own modules."""
    root = Path(__file__).parents[1]
    compiled = [".".join(path.relative_to(root).with_suffix("").parts) for path in root.glob("sniffer_core/**/*.pyx")]
    assert "sniffer_core.core" in compiled
    code = f"""
        import sys
        sys.modules.update(dict.fromkeys(["pcapy", *{compiled}]))
        before = set(sys.modules)
        import sniffer
        loaded = {{name for name in set(sys.modules) - before if name.startswith(("sniffer", "asyncio", "aiohttp"))}}
        assert loaded == {{"sniffer"}}, loaded
        from sniffer import CaptureError, HttpMessage, Sniffer, SnifferConfig, ValidationError, create_sniffer
        create_sniffer(ports=[80])
    """
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_no_output_loads_aiohttp(file: str) -> None:
    """aiohttp, a third of the start and a fifth of the memory, is loaded for what serves, not for what posts."""
    code = f"""
        import asyncio, sys
        from sniffer import create_sniffer
        async def main():
            async with create_sniffer(ports=[8080], read={file!r}) as sniffer:
                assert [message async for message in sniffer]
            create_sniffer(ports=[8080], read={file!r}, output_url="http://127.0.0.1:9/")._make_lanes()
            assert "sniffer.outputs.url.collector" in sys.modules
            assert "aiohttp" not in sys.modules
            import sniffer.metrics
            assert "aiohttp" in sys.modules
        asyncio.run(main())
    """
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_importing_and_using_touches_neither_signals_nor_logging(file: str) -> None:
    """No handler of a signal, no handler of logging, no level is set by importing or running."""
    code = f"""
        import asyncio, logging, signal
        def state():
            signals = [signal.getsignal(number) for number in signal.valid_signals()]
            loggers = [(l.handlers, l.level, l.propagate) for l in (logging.root, logging.getLogger("sniffer"))]
            return signals, str(loggers)
        async def main():
            before = state()  # asyncio's own handler of SIGINT is in it
            from sniffer import create_sniffer
            async with create_sniffer(ports=[8080], read={file!r}, on_http_message=lambda _: None) as sniffer:
                assert state() == before
                await sniffer.wait()
            assert state() == before
        asyncio.run(main())
    """
    done = python(code)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_a_program_without_logging_set_up_writes_only_json_to_stdout(file: str) -> None:
    """Nothing but messages is ever written to stdout."""
    code = f"""
        import asyncio
        from sniffer import create_sniffer
        async def main():
            async with create_sniffer(ports=[8080], read={file!r}, output_stdout=True) as sniffer:
                await sniffer.wait()
            async with create_sniffer(ports=[8080], read={file!r}, redact_headers=[]) as sniffer:
                await sniffer.wait()
        asyncio.run(main())
    """
    done = python(code)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 40
    assert all(json.loads(line)["schema"] == 1 for line in lines)
    assert "messages are discarded" in done.stderr


def test_the_public_names_are_there() -> None:
    """Every public name can be imported, and no other is made up."""
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name).__module__.startswith("sniffer.")
    assert package.__version__ == metadata.version("tcp-sniffer")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # noqa: B018
    assert (ROOT / "sniffer" / "py.typed").exists()


# create_sniffer


async def test_create_sniffer_takes_a_configuration_or_keywords(file: str) -> None:
    """`create_sniffer(config)` and `create_sniffer(**keywords)` are the same."""
    config = SnifferConfig(ports=[8080], read=file)
    for sniffer in (create_sniffer(config), create_sniffer(ports=[8080], read=file), Sniffer(config)):
        async with sniffer:
            assert len([message async for message in sniffer]) == 40


def test_create_sniffer_does_not_mix_them() -> None:
    """A configuration and keywords together are a mistake of the program."""
    with pytest.raises(TypeError):
        create_sniffer(SnifferConfig(ports=[80]), ports=[81])  # type: ignore[call-overload]


def test_a_wrong_configuration_names_every_problem() -> None:
    """ValidationError is a ValueError with `.field` and `.problems`, and exit code 1."""
    with pytest.raises(ValidationError) as raised:
        create_sniffer(ports=[0], output_url="http://x/", production=True)
    assert isinstance(raised.value, ValueError | SnifferError)
    assert {problem.field for problem in raised.value.problems} == {"ports", "output_url"}
    assert "output_url must use HTTPS in production" in str(raised.value)
    assert raised.value.exit_code == 1


# Start, stop, wait


async def test_waiting_before_the_start_is_an_error(file: str) -> None:
    """`wait()` on a sniffer that was never started raises at once, rather than wait for ever."""
    sniffer = create_sniffer(ports=[8080], read=file)
    with pytest.raises(RuntimeError, match="not started"):
        await asyncio.wait_for(sniffer.wait(), 10)
    await sniffer.start()
    await sniffer.wait()
    assert (await sniffer.stop())["messages_offered"] == 40


@pytest.mark.parametrize("config", [{"ports": [8080]}, [8080], "8080"])
def test_a_configuration_of_another_type_is_named(config: Any) -> None:
    """What is neither a SnifferConfig nor keywords is a TypeError that names both and the type that was given."""
    with pytest.raises(TypeError, match=f"a SnifferConfig or keywords, not a {type(config).__name__}"):
        create_sniffer(config)


async def test_a_sniffer_is_started_once(file: str) -> None:
    """`start()` raises when it is running, and when it was stopped."""
    sniffer = create_sniffer(ports=[8080], read=file, on_http_message=lambda _: None)
    await sniffer.start()
    with pytest.raises(RuntimeError):
        await sniffer.start()
    await sniffer.stop()
    with pytest.raises(RuntimeError):
        await sniffer.start()


async def test_stop_is_safe_at_any_time(file: str) -> None:
    """Before the start, twice, at once from two tasks, and after the end: `stop()` returns the ledger."""
    unstarted = create_sniffer(ports=[8080], read=file)
    assert (await unstarted.stop())["messages_offered"] == 0
    await unstarted.wait()
    assert [message async for message in unstarted] == []
    sniffer = create_sniffer(ports=[8080], read=file, on_http_message=lambda _: None)
    await sniffer.start()
    first, second = await asyncio.gather(sniffer.stop(), sniffer.stop())
    assert first == second == await sniffer.stop()


async def test_wait_returns_when_everything_is_delivered(file: str) -> None:
    """After a file `wait()` returns, and it does not run any more."""
    got: list[HttpMessage] = []
    sniffer = create_sniffer(ports=[8080], read=file, on_http_message=got.append)
    assert not sniffer.is_running()
    await sniffer.start()
    await sniffer.wait()
    assert len(got) == 40
    assert not sniffer.is_running()
    assert (await sniffer.stop())["lanes"]["callback"]["delivered"] == 40


async def test_iterators_made_before_the_start_miss_nothing(file: str) -> None:
    """Several iterators are several lanes, each with every message."""
    sniffer = create_sniffer(ports=[8080], read=file)
    early = [aiter(sniffer), aiter(sniffer)]

    async def collect(iterator: Any) -> int:
        return len([message async for message in iterator])

    await sniffer.start()
    assert await asyncio.gather(*map(collect, [*early, aiter(sniffer)])) == [40, 40, 40]
    assert set((await sniffer.stop())["lanes"]) == {"iterator", "iterator-2", "iterator-3"}
    assert sniffer.ledger.check() == []


async def test_leaving_the_loop_ends_that_lane_alone(file: str) -> None:
    """`break` closes the iterator; others go on."""
    got: list[HttpMessage] = []
    async with create_sniffer(ports=[8080], read=file, on_http_message=got.append) as sniffer:
        async for _ in sniffer:
            break
        await sniffer.wait()
    assert len(got) == 40
    assert sniffer.undelivered == 0
    assert sniffer.ledger.check() == []


async def test_an_iterator_of_a_sniffer_that_has_ended_is_empty(file: str) -> None:
    """It ends at once, or with the error of the capture."""
    async with create_sniffer(ports=[8080], read=file, on_http_message=lambda _: None) as sniffer:
        await sniffer.wait()
        assert [message async for message in sniffer] == []
    missing = create_sniffer(ports=[8080], read=file + ".missing")
    with pytest.raises(CaptureError, match="No such file"):
        await missing.start()


async def test_an_async_callback_runs_on_the_loop_and_a_plain_one_on_a_thread(file: str) -> None:
    """Both get every message in order."""
    import threading

    seen: dict[str, list[Any]] = {"async": [], "plain": []}

    async def on_loop(message: HttpMessage) -> None:
        seen["async"].append((threading.current_thread() is threading.main_thread(), message.exchange))

    def on_thread(message: HttpMessage) -> None:
        seen["plain"].append((threading.current_thread() is threading.main_thread(), message.exchange))

    for callback in (on_loop, on_thread):
        async with create_sniffer(ports=[8080], read=file, on_http_message=callback) as sniffer:
            await sniffer.wait()
    assert seen["async"] == [(True, number) for number in range(20) for _ in range(2)]
    assert seen["plain"] == [(False, number) for number in range(20) for _ in range(2)]


async def test_a_callback_that_raises_is_counted(file: str, caplog: pytest.LogCaptureFixture) -> None:
    """Capture goes on, and the log says where it was raised, without the message."""

    def broken(message: HttpMessage) -> None:
        if message.exchange < 3:
            raise ValueError(message.path)

    async with create_sniffer(ports=[8080], read=file, on_http_message=broken) as sniffer:
        await sniffer.wait()
    lane = sniffer.ledger.snapshot()["lanes"]["callback"]
    assert (lane["dropped_error"], lane["delivered"]) == (6, 34)
    assert "/0" not in caplog.text
    assert sniffer.ledger.check() == []


async def test_a_callback_cannot_change_what_others_get(file: str) -> None:
    """A callback that tries to change its message changes no other sink's."""

    def vandal(message: HttpMessage) -> None:
        for change in (
            lambda: setattr(message, "path", "/vandal"),
            lambda: message.headers.update(vandal="yes"),  # type: ignore[attr-defined]
        ):
            try:
                change()
            except (AttributeError, TypeError):
                continue
            raise AssertionError("a message was changed")

    async with create_sniffer(ports=[8080], read=file, on_http_message=vandal) as sniffer:
        lines = [message.to_json() async for message in sniffer]
        await sniffer.wait()
    assert sniffer.ledger.snapshot()["lanes"]["callback"]["delivered"] == 40
    assert b"vandal" not in b"".join(lines)


async def test_log_lines_go_to_the_standard_logger(file: str, caplog: pytest.LogCaptureFixture) -> None:
    """Every line is of the logger `sniffer` or a child of it, with its values in `fields`."""
    caplog.set_level(logging.INFO)
    async with create_sniffer(ports=[8080], read=file, on_http_message=lambda _: None) as sniffer:
        await sniffer.wait()
    ours = [record for record in caplog.records if record.name.split(".")[0] == "sniffer"]
    assert {"started", "stopped"} <= {record.getMessage() for record in ours}
    assert all(isinstance(getattr(record, "fields", {}), dict) for record in ours)


@pytest.mark.slow
def test_type_checkers_know_the_options(tmp_path: Path) -> None:
    """mypy accepts every option of the sniffer, and finds a misspelt one and a wrong type."""
    every = ", ".join(f"{keyword}=anything" for keyword in declared(SnifferConfig))
    lines = [
        "from typing import Any",
        "from sniffer import Sniffer, SnifferConfig, create_sniffer",
        "anything: Any = None",
        f"every: Sniffer = create_sniffer({every})",
        "made: Sniffer = create_sniffer(SnifferConfig(ports=[80]))",
        "outside: Sniffer = create_sniffer(ports=[80], **anything)",
        "create_sniffer(ports=[80], output_sdtout=True)",
        "create_sniffer(ports=[80], output_stdout='yes')",
    ]
    (tmp_path / "snippet.py").write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache")]
    command += ["--follow-imports", "silent", str(tmp_path / "snippet.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    wrong = re.findall(r"^.*snippet\.py:(\d+): error", done.stdout, re.MULTILINE)
    assert sorted({*map(int, wrong)}) == [7, 8], done.stdout
