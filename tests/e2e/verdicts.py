"""Compares the verdict table of the tests' own dispatcher with a real API server.

A webhook on this machine gives every broken answer of the table in turn; an annotation of the pod names the row. Under
each failure policy the API server must treat the pod as the table says.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from weakref import WeakSet

import msgspec
import trustme
from aiohttp import web

from sniffer.injector import InjectorOptions, server
from tests.e2e.cluster import Cluster, Failed, Manifest, Refused, container_in, expect
from tests.e2e.stages import IN, configuration_for, pod, with_account
from tests.injector.apiserver import HARMLESS, VERDICTS, Answer, Row, Verdict

ROW = "tcp-sniffer-e2e/answer"
SLOW, STRANGER = "no answer in time", "a certificate of another authority"
POLICIES = {"Ignore": "tcp-sniffer-e2e-ignore", "Fail": "tcp-sniffer-e2e-fail"}
TIMEOUT_S = 2

Say = Callable[[str], None]


class Webhook:
    """Answers as the injector would, changed as the pod's annotation says."""

    def __init__(self) -> None:
        self.broken: dict[str, Callable[[Answer], Answer]] = {row.name: row.broken for row in VERDICTS}
        self.broken |= {name: tamper for name, (_, tamper) in HARMLESS.items()}
        self.connections: WeakSet[asyncio.Transport] = WeakSet()

    async def end(self) -> None:
        """Cuts connections that the API server keeps open: a graceful end would outlive the event loop."""
        for transport in self.connections:
            with suppress(AttributeError):  # asyncio of Python 3.11.2: of one over TLS closed twice
                transport.abort()
        await asyncio.sleep(0)  # the next turn of the loop notices it
        await asyncio.sleep(0)

    async def answer(self, request: web.Request) -> web.Response:
        if request.transport is not None:
            self.connections.add(request.transport)
        asked = (await request.json())["request"]
        review = server.answer(asked, server.decide(asked, "pod", InjectorOptions()))
        given = Answer(asked, asked["object"], 200, msgspec.json.encode(review))
        name = asked["object"]["metadata"].get("annotations", {}).get(ROW, "")
        if name == SLOW:
            await asyncio.sleep(TIMEOUT_S * 3)
        if name in self.broken:
            given = self.broken[name](given)
        return web.Response(status=given.status, body=given.body, content_type="application/json")


@contextmanager
def serving(authority: trustme.CA, host: str) -> Iterator[int]:
    """The port of that webhook, which serves in its own thread."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    listening = socket.create_server(("", 0))
    started: Future[Callable[[], object]] = Future()

    async def serve() -> None:
        app = web.Application(client_max_size=server.BODY_LIMIT)
        webhook = Webhook()
        app.router.add_post("/{path:.*}", webhook.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.SockSite(runner, listening, ssl_context=context).start()
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        started.set_result(lambda: loop.call_soon_threadsafe(stop.set))
        await stop.wait()
        await webhook.end()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        started.result(20)()
        thread.join()


def configurations(url: str, bundle: str, stranger: str) -> list[Manifest]:
    """The shipped webhook entry for pods with each policy, and for each an entry with a wrong authority."""
    made = []
    for policy, namespace in POLICIES.items():
        for trusted, operator in ((bundle, "NotIn"), (stranger, "In")):
            one: dict[str, Any] = configuration_for(url, trusted)
            one["metadata"]["name"] = f"{namespace}-{operator.lower()}"
            webhook = next(entry for entry in one["webhooks"] if entry["name"].startswith("pod."))
            webhook.update(failurePolicy=policy, timeoutSeconds=TIMEOUT_S)
            there = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": [namespace]}
            webhook["namespaceSelector"] = {"matchExpressions": [there]}
            webhook["objectSelector"]["matchExpressions"].append(
                {"key": "tcp-sniffer-e2e", "operator": operator, "values": ["stranger"]}
            )
            one["webhooks"] = [webhook]
            made.append(one)
    return made


def asked_for(name: str, namespace: str, number: int) -> Manifest:
    """A pod that asks for the answer with this name."""
    labels = IN | ({"tcp-sniffer-e2e": "stranger"} if name == STRANGER else {})
    return pod(f"answer-{number}", namespace, labels, annotations={ROW: name})


def outcome(cluster: Cluster, manifest: Manifest, *, dry_run: bool = False) -> str:
    """The result for a pod, in the words of the table."""
    try:
        stored = cluster.create(manifest, dry_run=dry_run)
    except Refused as error:
        said = str(error)
        if "failed calling webhook" in said:
            return "call failed"
        if "InternalError" in said:
            return str(Verdict.ERROR)
        return str(Verdict.REFUSED)
    return "bare" if container_in(stored) is None else "injected"


def expected(row: Row | str, policy: str) -> str:
    """The expected result for a row. Calls without an answer count as failed calls."""
    verdict = Verdict.CALL_FAILED if isinstance(row, str) else row.verdict
    if verdict is not Verdict.CALL_FAILED:
        return str(verdict)
    return "bare" if policy == "Ignore" else "call failed"


def verdicts(cluster: Cluster, host: str, say: Say) -> None:
    """Tries each row under each policy, the harmless answers, and calls that get no answer."""
    authority, other = trustme.CA(), trustme.CA()
    bundles = [base64.b64encode(each.cert_pem.bytes()).decode("ascii") for each in (authority, other)]
    with serving(authority, host) as port, ExitStack() as stack:
        made = configurations(f"https://{host}:{port}", *bundles)
        stack.callback(cluster.remove_namespaces, POLICIES.values())
        cluster.apply(one for name in POLICIES.values() for one in with_account(name, {}))
        for one in made:
            stack.callback(cluster.delete, "mutatingwebhookconfiguration", one["metadata"]["name"])
        cluster.apply(made)
        for policy, namespace in POLICIES.items():
            _wait_until_called(cluster, policy, namespace)
            _hold(cluster, policy, namespace, say)


def _wait_until_called(cluster: Cluster, policy: str, namespace: str) -> None:
    """Waits until the API server knows both configurations of a policy."""
    for name, reached in (("", "injected"), (STRANGER, expected(STRANGER, policy))):
        probe = asked_for(name, namespace, 0)
        expect(lambda: outcome(cluster, probe, dry_run=True) == reached, "the webhook is called", 60)  # noqa: B023


def _hold(cluster: Cluster, policy: str, namespace: str, say: Say) -> None:
    rows: list[Row | str] = [*VERDICTS, SLOW, STRANGER]
    wanted = {row if isinstance(row, str) else row.name: expected(row, policy) for row in rows}
    wanted |= {name: "injected" if injected else "bare" for name, (injected, _) in HARMLESS.items()}
    wrong = []
    for number, (name, verdict) in enumerate(wanted.items(), 1):
        found = outcome(cluster, asked_for(name, namespace, number))
        say(f"{'ok ' if found == verdict else 'NOT'} {policy}: {name}: {found}")
        if found != verdict:
            wrong.append(f"{name} under {policy} is {found}, not {verdict}")
    if wrong:
        raise Failed("; ".join(wrong))
