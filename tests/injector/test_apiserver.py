from __future__ import annotations

import asyncio
import copy
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from aiohttp import web

from sniffer.injector import InjectorOptions, server
from tests.injector.apiserver import HARMLESS, VERDICTS, Answer, ApiServer, Row, Verdict, judge
from tests.injector.conftest import Pair, Running, running
from tests.injector.manifests import DEPLOY
from tests.injector.pods import IN, OUT, answered, of_job, pod, request, sniffer_of

CONFIGURATION = yaml.safe_load((DEPLOY / "kustomize/base/webhook.yaml").read_text())
OPTED_IN = {"tcp-sniffer/inject": "true"}


def api(injector: Running, ca: str | None = None, **rest: Any) -> ApiServer:
    return ApiServer(CONFIGURATION, ("127.0.0.1", injector.port), ca or injector.pair.bundle, **rest)


@pytest.mark.parametrize(
    ("labels", "of_namespace", "namespace", "path"),
    [
        ({}, {}, "shop", None),
        (IN, {}, "shop", "/mutate"),
        (OUT, {}, "shop", None),
        ({}, OPTED_IN, "shop", "/mutate/namespace"),
        (IN, OPTED_IN, "shop", "/mutate/namespace"),
        (OUT, OPTED_IN, "shop", None),
        (IN, OUT, "shop", "/mutate"),
        (IN, {}, "kube-system", None),
        (IN, OPTED_IN, "kube-public", None),
        (IN, OPTED_IN, "kube-node-lease", None),
        (IN, OPTED_IN, "tcp-sniffer", None),
        (IN, {"pod-security.kubernetes.io/enforce": "restricted"}, "shop", None),
        ({}, {**OPTED_IN, "pod-security.kubernetes.io/enforce": "baseline"}, "shop", None),
        (IN, {"pod-security.kubernetes.io/enforce": "privileged"}, "shop", "/mutate"),
    ],
)
async def test_who_is_asked(
    labels: dict[str, str], of_namespace: dict[str, str], namespace: str, path: str | None, injector: Running
) -> None:
    """The shipped configuration calls exactly one entry for each pod that opts in, and none for any other."""
    outcome = await api(injector).create(pod(labels=labels), of_namespace, namespace=namespace)
    assert outcome.calls == ([path] if path else [])
    assert outcome.pod is not None
    assert len(outcome.pod["spec"]["containers"]) == (2 if path else 1)
    assert not outcome.failed_open


async def test_a_pod_as_an_api_server_stores_it(injector: Running) -> None:
    """A defaulted pod keeps its grace period and gets the container, the audit annotations say why, nothing warns."""
    outcome = await api(injector).create(pod(), dry_run=True)
    assert outcome.pod is not None
    assert outcome.pod["spec"]["terminationGracePeriodSeconds"] == 30
    assert sniffer_of(outcome.pod)["image"] == "tcp-sniffer:latest"
    assert outcome.audit == {"pod.tcp-sniffer.io/result": "injected", "pod.tcp-sniffer.io/reason": "injected"}
    assert outcome.warnings == []


async def test_an_eligible_pod_that_cannot_take_it(injector: Running) -> None:
    """A pod that is skipped is admitted as it was, and whoever creates it is told why in a line."""
    outcome = await api(injector).create(pod({"tcp-sniffer/ports": "x"}))
    assert outcome.pod is not None
    assert len(outcome.pod["spec"]["containers"]) == 1
    assert outcome.audit["pod.tcp-sniffer.io/reason"] == "invalid_annotation"
    (warning,) = outcome.warnings
    assert warning.startswith("tcp-sniffer not injected: tcp-sniffer/ports must be")
    assert len(warning) <= 120


async def test_reinvocation(injector: Running) -> None:
    """When another webhook changes the pod, ours is called again, and changes nothing more."""

    def other(pod: dict[str, Any]) -> None:
        pod["spec"]["containers"].append({"name": "mesh", "image": "mesh:1"})

    for made in (pod(), of_job(pod())):
        outcome = await api(injector).create(made, another_webhook=other)
        assert outcome.calls == ["/mutate", "/mutate"]
        assert outcome.pod is not None
        sniffer_of(outcome.pod)
        assert outcome.audit["pod.tcp-sniffer.io/reason"] == "already_injected"


async def test_reinvocation_calls_nobody_for_the_first_time(injector: Running) -> None:
    """A label that another webhook sets comes too late to opt in; one that it takes away ends our second call."""

    def opt_in(pod: dict[str, Any]) -> None:
        pod["metadata"]["labels"] = IN

    def opt_out(pod: dict[str, Any]) -> None:
        pod["metadata"]["labels"] = OUT

    late = await api(injector).create(pod(labels={}), another_webhook=opt_in)
    assert late.calls == []
    assert (await api(injector).create(pod(), another_webhook=opt_out)).calls == ["/mutate"]


def good() -> Answer:
    """Our own answer to a plain pod."""
    asked = request(pod())
    review = server.answer(asked, server.decide(asked, "pod", InjectorOptions()))
    return Answer(asked, asked["object"], 200, msgspec.json.encode(review))


def test_our_answer_breaks_no_rule() -> None:
    """The answer to a plain pod passes every rule of the dispatcher."""
    assert judge(good()) is None


@pytest.mark.parametrize("row", VERDICTS, ids=lambda row: row.name)
async def test_each_rule_turns_an_answer_into_a_failure(row: Row, injector: Running) -> None:
    """Each sentence of the dispatcher has an answer that it fails, first of all rules, with its verdict."""
    assert judge(row.broken(good())) is row
    dispatcher = api(injector)
    dispatcher.tamper = row.broken
    for policy in ("Ignore", "Fail"):
        dispatcher.policy(policy)
        outcome = await dispatcher.create(pod())
        if row.verdict is Verdict.CALL_FAILED and policy == "Ignore":
            assert outcome.failed_open == [row.name]
            assert outcome.pod == {**pod(), "spec": {**pod()["spec"], "terminationGracePeriodSeconds": 30}}
        elif row.verdict is Verdict.CALL_FAILED:
            assert (outcome.pod, outcome.why) == (None, f"failed calling webhook: {row.name}")
        else:
            assert (outcome.pod, outcome.why) == (None, f"{row.verdict}: {row.name}")


@pytest.mark.parametrize("name", HARMLESS)
async def test_what_is_no_failure(name: str, injector: Running) -> None:
    """An empty patch counts as none, and a status or a long warning beside `allowed: true` changes nothing."""
    injected, tamper = HARMLESS[name]
    dispatcher = api(injector)
    dispatcher.policy("Fail")
    dispatcher.tamper = tamper
    outcome = await dispatcher.create(pod())
    assert outcome.pod is not None
    assert len(outcome.pod["spec"]["containers"]) == (2 if injected else 1)


async def test_a_refusal_has_our_own_words(injector: Running) -> None:
    """Where an answer denies the pod, its own status is what the user reads."""
    dispatcher = api(injector)
    dispatcher.tamper = next(row.broken for row in VERDICTS if row.name == "denied")
    assert (await dispatcher.create(pod())).message == "for a test"


async def test_dry_run_and_side_effects(injector: Running) -> None:
    """A dry run is refused where a webhook has side effects; ours says that it has none."""
    dispatcher = api(injector)
    assert (await dispatcher.create(pod(), dry_run=True)).pod is not None
    for webhook in dispatcher.webhooks:
        webhook["sideEffects"] = "Unknown"
    assert (await dispatcher.create(pod(), dry_run=True)).pod is None


async def failures(dispatcher: ApiServer) -> tuple[bool, list[str]]:
    """Whether a pod is admitted under Fail, and how a call failed under Ignore."""
    dispatcher.policy("Fail")
    refused = (await dispatcher.create(pod())).pod is None
    dispatcher.policy("Ignore")
    outcome = await dispatcher.create(pod())
    assert outcome.pod is not None
    return refused, outcome.failed_open


async def test_down_or_untrusted(injector: Running, tmp_path: Path) -> None:
    """No server, another CA, another name: the pod is admitted bare under Ignore, and refused under Fail."""
    (tmp_path / "other").mkdir()
    stranger = api(injector, Pair(tmp_path / "other").bundle)
    assert await failures(stranger) == (True, ["calling: ClientConnectorCertificateError"])
    misnamed = api(injector)
    for webhook in misnamed.webhooks:
        webhook["clientConfig"]["service"]["namespace"] = "elsewhere"
    assert await failures(misnamed) == (True, ["calling: ClientConnectorCertificateError"])
    injector.stop.set()
    await injector.task
    assert await failures(api(injector)) == (True, ["calling: ClientConnectorError"])


async def test_timeout(injector: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that comes too late is none."""
    release = asyncio.Event()
    real = web.Request.read

    async def late(request: Any) -> bytes:
        await release.wait()
        body: bytes = await real(request)
        return body

    monkeypatch.setattr(web.Request, "read", late)
    try:
        assert await failures(api(injector, timeout_s=0.2)) == (True, ["calling: TimeoutError"])
    finally:
        release.set()


async def test_an_internal_error_fails_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong inside, the pod is admitted as it was, under Fail too; it is counted, logged and audited."""

    def wrong(*_: object) -> None:
        raise RuntimeError("planted")

    async with running(tmp_path) as injector:
        for where in ("build_patch", "warning_for"):
            with monkeypatch.context() as patched:
                calls = iter([wrong])
                real = getattr(server, where)
                patched.setattr(server, where, lambda *given, real=real, calls=calls: next(calls, real)(*given))
                dispatcher = api(injector)
                dispatcher.policy("Fail")
                outcome = await dispatcher.create(pod())
            assert outcome.pod is not None
            assert len(outcome.pod["spec"]["containers"]) == 1
            assert outcome.audit["pod.tcp-sniffer.io/reason"] == "internal_error"
            assert outcome.audit["pod.tcp-sniffer.io/detail"] == "RuntimeError"
        assert await injector.metric('tcp_sniffer_injector_reviews_total{reason="internal_error",result="failed"}') == 2
    errors = [record for record in caplog.records if record.getMessage() == "internal error"]
    assert [(record.levelname, record.exc_info is not None) for record in errors] == [("ERROR", True)] * 2


def test_a_second_opinion_on_the_whole_walk() -> None:
    """A pod that went through twice is the pod that went through once."""
    once = answered(pod())[2]
    assert answered(copy.deepcopy(once))[2] == once
