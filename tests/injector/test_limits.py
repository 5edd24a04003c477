"""What clients can do to the server, and what they cannot."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import logging
import re
import socket
import ssl
import subprocess
import sys
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sniffer.injector import limits, server
from sniffer.injector.limits import Bodies, Door, Evicted, Seldom, short
from sniffer.injector.server import BODY_LIMIT
from tests.injector.conftest import NAME, Pair, Running
from tests.injector.manifests import DEPLOY, load, one
from tests.injector.pods import IN, pod, review
from tests.injector.test_apiserver import api
from tests.waiting import until

CALL_S = 5
"""How long an API server waits: timeoutSeconds of the shipped configuration."""
SPARE_MIB = 16
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def head(length: int, more: str = "") -> bytes:
    lines = ["POST /mutate HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {length}"]
    return ("\r\n".join(lines) + f"\r\n{more}\r\n").encode()


class Target:
    """The injector as a process of its own, whose memory can be seen."""

    def __init__(self, pair: Pair) -> None:
        self.context = pair.trusted()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "sniffer.injector", "--address", "127.0.0.1", "--port", str(self.port)]
        command += ["--tls-cert-file", pair.files["tls_cert_file"], "--tls-key-file", pair.files["tls_key_file"]]
        command += ["--stop-delay-ms", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE)
        self.open: list[Any] = []

    def memory(self, what: str = "VmHWM") -> float:
        """Its memory in MiB: the peak, or now (VmRSS)."""
        found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found
        return int(found[1]) / 1024

    async def connect(self) -> Streams:
        made = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.context, server_hostname=NAME)
        self.open.append(made)
        return made

    async def call(self) -> float:
        """Seconds that an API server's call takes, on a connection of its own; its answer has to be a patch."""
        began = time.monotonic()
        async with asyncio.timeout(CALL_S):
            reader, writer = await self.connect()
            body = json.dumps(review(pod())).encode()
            writer.write(head(len(body)) + body)
            await writer.drain()
            assert (await reader.readline()).split()[1] == b"200"
            assert b'"patch"' in await reader.readuntil(b"}}")
        return time.monotonic() - began

    async def answers(self) -> bool:
        """Whether an API server's call is answered yet."""
        with contextlib.suppress(OSError):
            await self.call()
            return True
        return False


@asynccontextmanager
async def target(folder: Path) -> AsyncIterator[Target]:
    """An injector that answers."""
    made = Target(Pair(folder))
    try:
        await until(made.answers, "the injector answers", seconds=30, pause=0.05)
        yield made
    finally:
        made.process.terminate()
        with made.process:
            log = made.process.stderr.read() if made.process.stderr else b""
        assert all(len(line) < 4096 and json.loads(line) for line in log.splitlines())
        assert b"Traceback" not in log, log


async def raw(it: Target) -> None:
    """A connection that sends nothing."""
    it.open.append(await asyncio.open_connection("127.0.0.1", it.port))


async def idle(it: Target) -> None:
    """A connection that sends nothing after the TLS handshake."""
    await it.connect()


async def slow_head(it: Target) -> None:
    _, writer = await it.connect()
    writer.write(b"POST /mut")


async def large_head(it: Target) -> None:
    _, writer = await it.connect()
    writer.write(b"POST /mutate HTTP/1.1\r\n" + b"".join(b"x-%d: " % n + b"y" * 8000 + b"\r\n" for n in range(31)))
    await writer.drain()


async def unfinished(it: Target) -> None:
    """A body of 6 MB that never ends."""
    _, writer = await it.connect()
    writer.write(head(BODY_LIMIT) + b"x" * 6_000_000)
    await writer.drain()


async def unfinished_small(it: Target) -> None:
    _, writer = await it.connect()
    writer.write(head(100_000) + b"x" * 90_000)
    await writer.drain()


async def unfinished_chunks(it: Target) -> None:
    _, writer = await it.connect()
    writer.write(head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
    for _ in range(60):
        writer.write(b"186a0\r\n" + b"x" * 100_000 + b"\r\n")
        await writer.drain()


async def answered_and_kept(it: Target) -> None:
    reader, writer = await it.connect()
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readline()


async def answered(it: Target, body: bytes, more: str = "") -> None:
    reader, writer = await it.connect()
    writer.write(head(len(body), more) + body)
    await writer.drain()
    await reader.readline()


def bomb(count: int) -> bytes:
    """A review of many values that take much more memory than text."""
    made = review({"spec": {"a": []}})
    return json.dumps(made).encode().replace(b"[]", b"[" + b",".join([b"{}"] * count) + b"]")


SMALL_BOMB, LARGE_BOMB = bomb(90_000), bomb(1_500_000)
GZIPPED = gzip.compress(b" " * (64 << 20), 1)
NAMED = json.dumps(review(pod(), uid="u" * 5_000_000)).encode()

ATTACKS: dict[str, tuple[int, Callable[[Target], Awaitable[None]]]] = {
    "nothing": (300, raw),
    "idle": (300, idle),
    "slow heads": (300, slow_head),
    "large heads": (300, large_head),
    "unfinished bodies": (50, unfinished),
    "unfinished small bodies": (300, unfinished_small),
    "unfinished chunks": (50, unfinished_chunks),
    "kept alive": (300, answered_and_kept),
    "bombs that are judged": (30, lambda it: answered(it, SMALL_BOMB)),
    "bombs": (20, lambda it: answered(it, LARGE_BOMB)),
    "gzip": (30, lambda it: answered(it, GZIPPED, "Content-Encoding: gzip\r\n")),
    "a uid of 5 MB": (20, lambda it: answered(it, NAMED)),
}


async def attempt(attack: Callable[[Target], Awaitable[None]], it: Target) -> None:
    """Ignores what the server does to the attacker."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        await attack(it)


def limit_mib() -> float:
    """The memory limit of the shipped Deployment."""
    deployment = one(load((DEPLOY / "kustomize/base/deployment.yaml").read_text()), "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return float(container["resources"]["limits"]["memory"].removesuffix("Mi"))


@pytest.mark.parametrize(
    "kinds", [*([kind] for kind in ATTACKS), list(ATTACKS)], ids=lambda k: k[0] if len(k) == 1 else "all"
)
async def test_whatever_clients_hold(kinds: list[str], tmp_path: Path) -> None:
    """Connections, heads and bodies that are held, alone and together: memory stays below the limit of the manifests,
    and an API server's calls are answered within its timeout.
    """
    async with target(tmp_path) as it:
        listed = [ATTACKS[kind][1] for kind in kinds for _ in range(ATTACKS[kind][0] // len(kinds) + 1)]
        attackers = [asyncio.create_task(attempt(attack, it)) for attack in listed]
        _, late = await asyncio.wait(attackers, timeout=2)
        taken = [await it.call() for _ in range(3)]
        for attacker in late:
            attacker.cancel()
        await asyncio.gather(*attackers, return_exceptions=True)
        assert max(taken) < CALL_S
        assert it.memory() < limit_mib() - SPARE_MIB
        for _, writer in it.open:
            with contextlib.suppress(OSError, RuntimeError, AttributeError):
                writer.transport.abort()


async def stream(injector: Running) -> Streams:
    return await asyncio.open_connection("127.0.0.1", injector.port, ssl=injector.pair.trusted(), server_hostname=NAME)


async def ended(streams: Streams) -> bytes:
    """The bytes that come until the server ends the connection."""
    with contextlib.suppress(OSError):
        return await asyncio.wait_for(streams[0].read(), 20)
    return b""


async def test_a_head_that_does_not_come(monkeypatch: pytest.MonkeyPatch, injector: Running) -> None:
    """A connection whose first head is not there in time is closed, and counted; one that was served stays."""
    monkeypatch.setattr(limits, "HEAD_S", 0.2)
    served = await stream(injector)
    served[1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    await served[0].readuntil(b"ok\n")
    slow = await stream(injector)
    slow[1].write(b"POST /mut")
    assert await ended(slow) == b""
    assert await injector.metric('tcp_sniffer_injector_connections_closed_total{reason="late"}') == 1
    served[1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"200" in await served[0].readline()
    for _, writer in (served, slow):
        writer.close()


async def test_a_body_that_does_not_come(monkeypatch: pytest.MonkeyPatch, injector: Running) -> None:
    """A body has its own time limit, whatever timeout the client names."""
    monkeypatch.setattr(server, "BODY_S", 0.2)
    slow = await stream(injector)
    slow[1].write(head(9).replace(b"/mutate", b"/mutate?timeout=30s") + b"{")
    assert (await asyncio.wait_for(slow[0].readline(), 5)).split()[1] == b"408"
    slow[1].close()


async def test_a_client_that_goes_away(injector: Running, caplog: pytest.LogCaptureFixture) -> None:
    """A connection that ends in the middle of its body is no error of ours: no line, no traceback."""
    gone = await stream(injector)
    gone[1].write(head(1000) + b"{")
    await gone[1].drain()
    gone[1].close()

    async def was_noticed() -> bool:
        return await injector.metric('tcp_sniffer_injector_bad_requests_total{status="400"}') == 1

    await until(was_noticed)
    assert not [record for record in caplog.records if record.name.startswith("sniffer")]


async def test_a_large_body_is_not_kept(injector: Running) -> None:
    """After a large body the connection is closed, with which its memory goes; after a small one it stays."""
    made = pod({"note": "x" * 100_000})
    async with injector.post("/mutate", json=review(made)) as response:
        assert (response.status, response.headers["Connection"]) == (200, "close")
        assert "patch" in (await response.json())["response"]
    async with injector.post("/mutate", json=review(pod())) as response:
        assert response.headers.get("Connection") != "close"


HOSTILE = {
    "a long uid": {"uid": "u" * 5_000_000},
    "a long namespace": {"namespace": "n" * 1_000_000},
    "a long name": {"name": "n" * 1_000_000},
    "a namespace that is none": {"namespace": {"a": ["b"] * 10_000}},
    "control characters": {"name": "a\nb\x1b[31m\u202e", "namespace": "\r\n\x00"},
    "a long annotation": {"object": pod({"tcp-sniffer/ports": "x" * 200_000, "tcp-sniffer/resources": "y" * 200_000})},
    "a long pod name": {
        "object": {**pod(), "metadata": {"name": ["x"] * 1000, "generateName": "g" * 9999, "labels": IN}}
    },
    "a long label": {"object": pod(labels={"tcp-sniffer/inject": "z" * 1_000_000})},
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_lines_are_bounded(kind: str, injector: Running, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a request holds, its line of the log is one short line, and its audit annotations are short."""
    caplog.set_level(logging.INFO, "sniffer.injector")
    sent = json.dumps(review(pod()) | {"request": review(pod())["request"] | HOSTILE[kind]}).encode()
    async with injector.post("/mutate", data=io.BytesIO(sent), headers={"Content-Type": "application/json"}) as got:
        text = await got.text()
    assert len(text) < 8192
    (record,) = [record for record in caplog.records if record.name.startswith("sniffer.injector")]
    fields = json.dumps(record.fields)  # type: ignore[attr-defined]
    assert len(fields) < 3000
    assert "\n" not in fields


async def test_lines_about_no_requests_are_seldom(injector: Running, caplog: pytest.LogCaptureFixture) -> None:
    """Many invalid requests are one log line; all of them are counted."""
    for _ in range(20):
        async with injector.post("/mutate", data=b"{", headers={"Content-Type": "application/json"}) as response:
            assert response.status == 400
    assert 1 <= len([record for record in caplog.records if record.getMessage() == "bad request"]) <= 3
    assert await injector.metric('tcp_sniffer_injector_bad_requests_total{status="400"}') == 20


@pytest.mark.parametrize(("count", "status"), [(90_000, 200), (110_000, 400)])
async def test_values(count: int, status: int, injector: Running) -> None:
    """A review with more values than any object of Kubernetes has is refused before it is read."""
    body = io.BytesIO(bomb(count))
    async with injector.post("/mutate", data=body, headers={"Content-Type": "application/json"}) as response:
        assert response.status == status


def test_seldom() -> None:
    """Two lines of a kind are a minimum time apart, and the later has the number of those left out."""
    line = Seldom(0.05)
    assert [line.due() for _ in range(4)] == [{}, None, None, None]
    time.sleep(0.06)
    assert line.due() == {"unsaid": 3}
    assert Seldom(0).due() == {}


@pytest.mark.parametrize(("value", "shown"), [("abc", "abc"), ("abcd", "abc..."), (None, None), ({}, None), (3, None)])
def test_short(value: object, shown: str | None) -> None:
    """A text is cut, and what is no text is left out."""
    assert short(value, 3) == shown


async def held(bodies: Bodies, size: int, ready: list[int], seconds: float = 20) -> str:
    """What becomes of a body that is never whole."""
    try:
        async with bodies.room(size, seconds):
            ready.append(size)
            await asyncio.Event().wait()
    except Evicted:
        return "evicted"
    except TimeoutError:
        return "late"
    raise AssertionError


async def test_the_largest_body_makes_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no room, the largest body that has been held for a while ends, of equals the oldest; room for
    what fits is there at once.
    """
    monkeypatch.setattr(limits, "PATIENCE_S", 0.05)
    bodies, ready = Bodies(100), []  # type: ignore[var-annotated]
    tasks = [asyncio.create_task(held(bodies, size, ready)) for size in (20, 40, 30)]
    await asyncio.sleep(0)
    assert ready == [20, 40, 30]
    async with bodies.room(10, 0.01):
        assert not any(task.done() for task in tasks)
    async with bodies.room(50, 5):
        pass
    assert await tasks[1] == "evicted"
    assert not tasks[0].done()
    equal = [asyncio.create_task(held(bodies, 25, ready)) for _ in range(2)]
    await asyncio.sleep(0.1)
    async with bodies.room(20, 5):
        pass
    assert await tasks[2] == "evicted"
    async with bodies.room(50, 5):
        pass
    assert await equal[0] == "evicted"
    for task in (tasks[0], equal[1]):
        task.cancel()


async def test_the_smallest_body_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the bodies that wait the smallest has the next room, of equal ones the oldest, however many larger wait."""
    monkeypatch.setattr(limits, "PATIENCE_S", 0.1)
    bodies = Bodies(100)
    ready: list[int] = []
    tasks = [asyncio.create_task(held(bodies, size, ready)) for size in (100, *[100] * 40, 60, 50, 50)]
    await until(lambda: len(ready) >= 5, "five bodies have room")
    assert ready[:5] == [100, 50, 50, 60, 100]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with bodies.room(100, 0.01):  # whoever gave up waiting is in nobody's way
        pass


async def test_nobody_makes_way_at_once() -> None:
    """A body that has only begun is not ended for another, which waits, and is late where its time ends before."""
    bodies, ready = Bodies(100), []  # type: ignore[var-annotated]
    first = asyncio.create_task(held(bodies, 100, ready))
    await asyncio.sleep(0)
    assert await held(bodies, 50, ready, seconds=0.1) == "late"
    assert ready == [100]
    assert not first.done()
    first.cancel()


async def test_a_body_whose_time_ends_as_it_has_to_make_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both come at once, the one is late, and the other has its room."""
    monkeypatch.setattr(limits, "PATIENCE_S", 0)
    bodies = Bodies(100)
    first = asyncio.create_task(held(bodies, 100, [], seconds=0.01))
    await asyncio.sleep(0)
    time.sleep(0.02)  # noqa: ASYNC251 - nothing may run until its time is over
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # now it is about to be told
    assert bodies._held[0].timeout.expired()
    async with bodies.room(50, 5):
        pass
    assert await first == "late"


class Large:
    """What was read of a body."""


@pytest.mark.parametrize("why", ["late", "evicted", "broken"])
async def test_what_was_read_of_a_body_is_let_go_of(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that does not become whole is gone with its error, which may be in a cycle and wait for the collector."""
    monkeypatch.setattr(limits, "PATIENCE_S", 0)
    bodies, kept = Bodies(100), []

    async def read() -> None:
        large = Large()
        kept.append(weakref.ref(large))
        if why == "broken":
            raise ConnectionResetError
        await asyncio.Event().wait()

    async def reading() -> BaseException:
        try:
            async with bodies.room(100, 0.1 if why == "late" else 20):
                await read()
        except (TimeoutError, Evicted, ConnectionError) as error:
            assert kept[0]() is None
            return error
        raise AssertionError

    task = asyncio.create_task(reading())
    await asyncio.sleep(0)
    if why == "evicted":
        async with bodies.room(100, 5):
            pass
    expected = {"late": TimeoutError, "evicted": Evicted, "broken": ConnectionResetError}[why]
    assert isinstance(await task, expected)


async def test_a_body_that_was_read_leaves_room() -> None:
    """Room is given back however its holder ended."""
    bodies = Bodies(100)
    for _ in range(3):
        async with bodies.room(100, 0.01):
            pass
        with pytest.raises(RuntimeError, match="planted"):
            async with bodies.room(100, 0.01):
                raise RuntimeError("planted")
        assert await held(bodies, 100, [], seconds=0.01) == "late"


class Nothing(asyncio.Protocol):
    """A server that says nothing."""


@asynccontextmanager
async def door(folder: Path, most: int) -> AsyncIterator[tuple[Door, int, Pair, list[str]]]:
    pair, closed = Pair(folder), []  # type: ignore[var-annotated]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.files["tls_cert_file"], pair.files["tls_key_file"])
    made = Door(Nothing, context, closed=closed.append, most=most)
    port = made.open("127.0.0.1", 0)
    try:
        yield made, port, pair, closed
    finally:
        await made.close()


async def from_peer(address: str, port: int) -> Streams:
    return await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))


async def test_the_peer_that_holds_most_makes_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all places are taken, the oldest connection of the peer that has most is closed, and no other's."""
    monkeypatch.setattr(limits, "PATIENCE_S", 0.05)
    async with door(tmp_path, 4) as (_, port, _, closed):
        other = await from_peer("127.0.0.2", port)
        many = [await from_peer("127.0.0.3", port) for _ in range(3)]
        await asyncio.sleep(0.2)  # all of them have held their places for PATIENCE_S
        more = [await from_peer("127.0.0.4", port), await from_peer("127.0.0.3", port)]
        assert await ended(many[0]) == b""
        assert await ended(many[1]) == b""
        assert closed == ["limit", "limit"]
        assert not other[0].at_eof()
        for _, writer in (other, *many, *more):
            writer.close()


async def test_a_busy_connection_is_given_time(tmp_path: Path) -> None:
    """A connection that has just come is not closed for another, which waits in the kernel."""
    async with door(tmp_path, 1) as (_, port, _, closed):
        first = await from_peer("127.0.0.2", port)
        second = await from_peer("127.0.0.2", port)
        await asyncio.sleep(0.1)
        assert closed == []
        assert not first[0].at_eof()
        assert await ended(first) == b""  # after PATIENCE_S
        assert closed == ["limit"]
        for _, writer in (first, second):
            writer.close()


async def test_listening_everywhere(tmp_path: Path) -> None:
    """Without an address the port is open on every one; a port that is taken is an OSError."""
    async with door(tmp_path, 4) as (opened, port, _, _):
        with pytest.raises(OSError, match="in use"):
            Door(Nothing, opened._context, closed=lambda _: None).open("127.0.0.1", port)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    everywhere = Door(Nothing, context, closed=lambda _: None)
    port = everywhere.open(None, 0)
    for address in ("127.0.0.1", "::1") if socket.has_dualstack_ipv6() else ("127.0.0.1",):
        _, writer = await asyncio.open_connection(address, port)
        writer.close()
    with pytest.raises(OSError, match="in use"):
        Door(Nothing, context, closed=lambda _: None).open(None, port)
    await everywhere.close()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The reasons of the decisions in the log so far."""
    caplog.set_level(logging.INFO, "sniffer.injector")
    return lambda: [record.fields["reason"] for record in caplog.records if record.getMessage() == "admission"]  # type: ignore[attr-defined]


def another_webhook(pod: dict[str, Any]) -> None:
    pod["spec"]["containers"].append({"name": "mesh", "image": "mesh:1"})


async def decisions(injector: Running, reason: str, result: str = "skipped") -> float:
    return await injector.metric(f'tcp_sniffer_injector_reviews_total{{reason="{reason}",result="{result}"}}')


async def test_one_decision_a_pod(injector: Running, lines: Callable[[], list[str]]) -> None:
    """A pod that is asked about again, since another webhook has changed it, is one line and one count."""
    for made, reason, result in (
        (pod(), "injected", "injected"),
        (pod(hostNetwork=True), "host_network", "skipped"),
        (pod({"tcp-sniffer/ports": "0"}), "invalid_annotation", "skipped"),
    ):
        made["metadata"]["name"] = reason
        outcome = await api(injector).create(made, another_webhook=another_webhook)
        assert outcome.calls == ["/mutate", "/mutate"]
        assert await decisions(injector, reason, result) == 1
    assert lines() == ["injected", "host_network", "invalid_annotation"]
    assert await decisions(injector, "already_injected") == 0
    assert await injector.metric("tcp_sniffer_injector_review_seconds_count") == 6


async def test_pods_that_are_alike_are_decisions_of_their_own(
    injector: Running, lines: Callable[[], list[str]]
) -> None:
    """Pods that a controller makes of one template are told apart from second calls for one of them."""
    made = pod()
    made["metadata"]["generateName"] = "shop-7d9f-"
    del made["metadata"]["name"]
    for _ in range(3):
        await api(injector).create(made, another_webhook=another_webhook)
    assert lines() == ["injected"] * 3
    for _ in range(2):
        await api(injector).create(pod(hostNetwork=True))
    assert lines()[3:] == ["host_network"] * 2


async def test_another_decision_is_told(injector: Running, lines: Callable[[], list[str]]) -> None:
    """A pod of the same name that is decided otherwise, or was sent at another time, is another decision."""
    for made in (pod({"tcp-sniffer/ports": "0"}), pod(), pod(hostNetwork=True)):
        await api(injector).create(made)
    assert lines() == ["invalid_annotation", "injected", "host_network"]
    for second in (1, 2):
        made = pod({"a": str(second)}, hostNetwork=True)
        made["metadata"]["managedFields"] = [{"manager": "kubectl", "time": f"2026-01-01T00:00:0{second}Z"}]
        await api(injector).create(made)
    assert lines()[3:] == ["host_network"] * 2


async def test_a_container_that_was_there_is_a_decision(injector: Running, lines: Callable[[], list[str]]) -> None:
    """A pod that comes with the container is told and counted, once for each pod."""
    for name in ("a", "b"):
        made = pod(containers=[{"name": "tcp-sniffer", "image": "i"}])
        made["metadata"]["name"] = name
        await api(injector).create(made, another_webhook=another_webhook)
    assert lines() == ["already_injected"] * 2
    assert await decisions(injector, "already_injected") == 2


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pods are remembered for a short time, and few of them."""
    decided = server.Decided()

    def body(name: str, note: str) -> bytes:
        made = pod({"note": note})
        made["metadata"]["name"] = name
        return json.dumps(review(made)).encode()

    reason = server.Reason.HOST_NETWORK
    assert [decided.again(body("a", note), reason) for note in "xyx"] == [False, True, False]
    for number in range(server.MOST_REMEMBERED):
        decided.again(body(f"b{number}", ""), reason)
    assert len(decided._known) == server.MOST_REMEMBERED
    assert not decided.again(body("a", "z"), reason)
    monkeypatch.setattr(server, "REPEAT_S", -1)
    assert not decided.again(body("a", "y"), reason)
    assert len(decided._known) == 1
    assert not decided.again(b'{"request": {"object": null}}', reason)
