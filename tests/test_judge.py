"""sniffer.judge: WHERE, KEEP and KEEP_OTHERS in a whole sniffer."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sniffer import judge
from sniffer.config import SnifferConfig
from sniffer.errors import ValidationError
from sniffer.pipeline import Sniffer, create_sniffer
from tests.captures import connection, get, ok, write
from tests.scripted import ScriptedSource, scripted
from tests.waiting import until

if TYPE_CHECKING:
    from sniffer_core.core import RawMessage

__all__ = ["scripted"]


def answer(status: int, body: bytes = b"hello", **fields: str) -> bytes:
    """A response."""
    return ok(body, **fields).replace(b"200 OK", b"%d X" % status)


def traffic(connections: int = 40) -> list[Any]:
    """Five exchanges on each connection, one of them an error."""
    packets: list[Any] = []
    for number in range(connections):
        pairs = [(get(f"/items/{number}/{each}"), answer(500 if each == 3 else 200)) for each in range(5)]
        packets += connection(pairs, client_port=20_000 + number)
    return packets


async def read(file: str, **options: Any) -> tuple[Sniffer, list[Any], list[int | None]]:
    """Reads a file: the sniffer, its messages, and the latencies that its histogram would see."""
    sniffer = create_sniffer(ports=[8080], read=file, **options)
    latencies: list[int | None] = []

    def observe(raws: Sequence[RawMessage]) -> None:
        latencies.extend(raw.latency_us for raw in raws)

    sniffer.observe = observe
    async with sniffer:
        messages = [message async for message in sniffer]
    assert sniffer.ledger.check() == []
    assert sniffer.ledger.snapshot()["pump_waiting"] == 0
    return sniffer, messages, latencies


async def test_where_leaves_out_whole_exchanges(tmp_path: Path) -> None:
    """`WHERE` judges a request by its response too: both come, or neither, and that is counted."""
    file = write(tmp_path / "file", traffic())
    sniffer, messages, _ = await read(file, where="status >= 500 && latencyMs >= 0")
    assert [(message.direction, message.exchange) for message in messages] == [("request", 3), ("response", 3)] * 40
    assert sniffer.ledger.snapshot()["messages_excluded_where"] == 320
    assert sniffer.left_out == {"where": {"GET": {"2xx": 160}}}


async def test_keep_keeps_counts_exact(tmp_path: Path) -> None:
    """What `KEEP` leaves out and what is kept are together what was seen, by method and status class."""
    file = write(tmp_path / "file", traffic())
    _, everything, _ = await read(file)
    sniffer, kept, _ = await read(file, keep="status >= 500", keep_others=0.25)
    seen, counted = (
        Counter((message.method, f"{message.status_code // 100}xx") for message in messages if message.status_code)
        for messages in (everything, kept)
    )
    for method, counts in sniffer.left_out["keep"].items():
        for status, count in counts.items():
            counted[method, status] += count
    assert counted == seen == {("GET", "2xx"): 160, ("GET", "5xx"): 40}
    assert 10 < 160 - sniffer.left_out["keep"]["GET"]["2xx"] < 80
    assert "5xx" not in sniffer.left_out["keep"]["GET"]


async def test_the_share_is_the_same_each_time(tmp_path: Path) -> None:
    """`KEEP_OTHERS` decides by connection and exchange: the same ones in each run, more of them with a higher share."""
    file = write(tmp_path / "file", traffic())
    found = [
        {message.idempotency_key for message in (await read(file, keep="status >= 500", keep_others=others))[1]}
        for others in (0.0, 0.2, 0.2, 0.6)
    ]
    assert found[0] < found[1] == found[2] < found[3]
    assert len(found[0]) == 80


async def test_histograms_see_what_keep_leaves_out(tmp_path: Path) -> None:
    """A histogram is fed before sampling, so it is equal with and without it; not with what `WHERE` leaves out."""
    file = write(tmp_path / "file", traffic())
    _, _, without = await read(file)
    _, _, sampled = await read(file, keep="status == 404", keep_others=0)
    _, _, filtered = await read(file, where="status == 404")
    assert Counter(sampled) == Counter(without)
    assert filtered == []


async def test_both_expressions_together(tmp_path: Path) -> None:
    """`KEEP` judges only what `WHERE` lets pass."""
    file = write(tmp_path / "file", traffic())
    sniffer, messages, _ = await read(file, where="exchange >= 3", keep="status == 500", keep_others=0)
    assert {message.exchange for message in messages} == {3}
    assert sniffer.left_out == {"where": {"GET": {"2xx": 120}}, "keep": {"GET": {"2xx": 40}}}


async def test_bodies_are_judged_decoded_and_redacted(tmp_path: Path) -> None:
    """An expression sees a body as the record shows it: without its coding, and without the secrets in it."""
    body = gzip.compress(b'{"state": "open", "password": "abc"}')
    packed = ok(body, content_encoding="gzip", content_type="application/json")
    file = write(tmp_path / "file", connection([(get(), packed), (get(), ok())]))
    _, found, _ = await read(file, where="body contains 'open' && bodyDecoded == 'gzip'")
    assert [message.exchange for message in found] == [0, 0]
    _, found, _ = await read(file, where="body contains 'abc'")
    assert found == []


async def test_methods_without_end_are_one_count(tmp_path: Path) -> None:
    """Methods that traffic invents, and messages that are alone, are counted under fixed names."""
    odd = [(get().replace(b"GET", b"M%d" % number), ok()) for number in range(30)]
    file = write(tmp_path / "file", connection([*odd, (get(), b"")]))
    sniffer, _, _ = await read(file, where="false")
    assert sniffer.left_out == {"where": {"other": {"2xx": 30}, "GET": {"none": 1}}}


async def test_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request waits within a share of the budget; beyond it the oldest is judged by what is known."""
    packets = [
        packet
        for number in range(300)
        for packet in connection([(get(f"/{number}"), b"")], client_port=20_000 + number)
    ]
    weights: list[int] = []
    put = judge.ByExchange.put

    def watched(self: judge.ByExchange, batch: Any, size: int) -> None:
        put(self, batch, size)
        weights.append(self._bytes)

    monkeypatch.setattr(judge.ByExchange, "put", watched)
    sniffer, messages, _ = await read(write(tmp_path / "file", packets), where="status == null", memory_budget=1 << 20)
    assert len(messages) == 300
    assert 0 < max(weights) <= sniffer._budget.judge


async def test_a_request_without_answer_is_judged_alone(
    scripted: ScriptedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Live, a request that waits too long for its response is judged without it, with no further traffic needed."""
    monkeypatch.setattr(judge, "PATIENCE_SECONDS", 0.2)
    scripted.say(connection([(get("/slow"), b"")]))
    got: list[Any] = []
    sniffer = create_sniffer(ports=[8080], interface="x", where="status == null", on_http_message=got.append)
    async with sniffer:
        await until(lambda: got)
        assert sniffer.is_running()
    assert got[0].path == "/slow"


async def test_a_stop_judges_what_waits(scripted: ScriptedSource) -> None:
    """At the stop a waiting request is judged and delivered; nothing is lost, and the ledger balances."""
    scripted.say(connection([(get("/last"), b"")]))
    got: list[Any] = []
    sniffer = create_sniffer(ports=[8080], interface="x", where="method == 'GET'", on_http_message=got.append)
    async with sniffer:
        await until(lambda: sniffer.ledger.snapshot()["pump_waiting"])
        assert got == []
    assert [message.path for message in got] == ["/last"]
    assert sniffer.ledger.check() == []
    assert sniffer.undelivered == 0


async def test_at_the_deadline_nothing_vanishes(scripted: ScriptedSource) -> None:
    """A drain that has no time still offers what waits to be judged: each message ends in a counter."""
    scripted.say(connection([(get("/last"), b"")]))
    sniffer = create_sniffer(ports=[8080], interface="x", where="method == 'GET'", on_http_message=lambda _: None)
    await sniffer.start()
    await until(lambda: sniffer.ledger.snapshot()["pump_waiting"])
    assert sniffer._pump_task is not None
    sniffer._pump_task.cancel()
    sniffer._capture.stop.set()
    await sniffer.wait()
    assert sniffer.ledger.snapshot()["pump_waiting"] == 0
    assert sniffer.ledger.snapshot()["messages_offered"] == 1
    assert sniffer.ledger.check() == []


def test_rules_between_the_options() -> None:
    """`KEEP_OTHERS` needs `KEEP`; `KEEP` that leaves nothing out is warned about."""
    with pytest.raises(ValidationError, match="keep_others needs keep"):
        SnifferConfig(ports=[80], keep_others=0.5)
    assert any("keep leaves nothing out" in text for text in SnifferConfig(ports=[80], keep="status == 1").warnings)
    assert not any("keep" in text for text in SnifferConfig(ports=[80], keep="status == 1", keep_others=0.5).warnings)


def daemon(*flags: str) -> subprocess.CompletedProcess[str]:
    """A run of the daemon on the capture of the repository."""
    demo = Path(__file__).parent / "data" / "demo.pcap"
    command = [sys.executable, "-m", "sniffer", "--ports", "8080", "--read", str(demo), "--stdout", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_daemon_filters_and_says_what_it_left_out() -> None:
    """`--where` works on every output of the daemon, and the statistics count what was left out."""
    everything = [json.loads(line) for line in daemon().stdout.splitlines()]
    wanted = sorted(
        json.dumps(record)
        for record in everything
        if any(
            other["connectionId"] == record["connectionId"]
            and other["exchange"] == record["exchange"]
            and other.get("statusCode", 0) >= 400
            for other in everything
        )
    )
    run = daemon("--where", "status >= 400", "--log-format", "json")
    assert run.returncode == 0
    assert sorted(json.dumps(json.loads(line)) for line in run.stdout.splitlines()) == wanted
    assert 0 < len(wanted) < len(everything)
    stats = next(json.loads(line) for line in run.stderr.splitlines() if "Capture stats" in line)
    assert sum(count for counts in stats["leftOut"]["where"].values() for count in counts.values()) > 0


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--where", "status >> 1"), "where is no expression: column 9: "),
        (("--keep", "path =~ '(a+)+'", "--keep-others", "0"), "keep is no expression: column 14: "),
        (("--keep-others", "0.1"), "keep_others needs keep"),
    ],
)
def test_a_wrong_expression_is_a_configuration_error(flags: tuple[str, ...], says: str) -> None:
    """A wrong expression ends the start with 1, and names the option and the column."""
    run = daemon(*flags)
    assert run.returncode == 1
    assert says in run.stderr


def test_without_expressions_nothing_is_imported() -> None:
    """Who gives no expression pays nothing: neither the language nor the judge is loaded."""
    code = (
        "import sys; from sniffer import create_sniffer; create_sniffer(ports=[80], read='x');"
        "print([name for name in sys.modules if 'expressions' in name or 'judge' in name])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == "[]\n"


async def test_the_loop_goes_on_while_bodies_are_judged(scripted: ScriptedSource) -> None:
    """Patterns on large bodies are judged some messages at a time: other tasks have their turn in between."""
    body = b"ab" * 20_000
    packets = [
        packet for number in range(60) for packet in connection([(get(), ok(body))], client_port=20_000 + number)
    ]
    scripted.say(packets)
    sniffer = create_sniffer(ports=[8080], interface="x", where="body =~ '[ab].{60}c'", on_http_message=lambda _: None)
    turns = 0
    async with sniffer, asyncio.timeout(60):
        while sniffer.ledger.snapshot()["messages_excluded_where"] < 120:
            turns += sniffer.ledger.snapshot()["messages_excluded_where"] > 0
            await asyncio.sleep(0)
    assert turns > 2
    assert sniffer.ledger.check() == []
