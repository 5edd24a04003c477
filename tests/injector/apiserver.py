"""An API server's mutating dispatcher, as far as a webhook meets it: selectors, the call over TLS, what each answer
comes to, defaulting, validation, reinvocation.

`VERDICTS` is the table of what turns an answer into a failure, one row per sentence of the Kubernetes sources; each row
carries an answer that breaks just that rule. The dispatcher judges by the table and by nothing else.

Sources, as of Kubernetes 1.33, in k8s.io/apiserver unless said otherwise: [C] k8s.io/client-go/rest/request.go,
[D] pkg/admission/plugin/webhook/mutating/dispatcher.go, [R] pkg/admission/plugin/webhook/request/admissionreview.go,
[T] k8s.io/api/admission/v1/types.go. `python -m tests.e2e --stage verdicts` holds the table against a real API server.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import copy
import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import jsonpatch

from tests.injector.pods import request, validate

Pod = dict[str, Any]


class Verdict(StrEnum):
    CALL_FAILED = "call failed"  # subject to the failure policy
    REFUSED = "refused"  # whatever the policy
    ERROR = "error 500"  # whatever the policy


@dataclass(frozen=True)
class Answer:
    """A request and its answer."""

    asked: Mapping[str, Any]
    pod: Pod
    status: int
    body: bytes

    @property
    def review(self) -> Any:
        return json.loads(self.body)

    @property
    def response(self) -> Any:
        return self.review["response"]

    @property
    def operations(self) -> Any:
        """The decoded patch. No patch, or an empty one, has no operations."""
        patch = self.response.get("patch")
        return json.loads(base64.b64decode(patch, validate=True)) if patch else []

    def patched(self) -> Pod:
        result: Pod = jsonpatch.apply_patch(self.pod, self.operations)
        return result


@dataclass(frozen=True)
class Row:
    """A rule. `verdict` follows if `holds` raises or is false. `broken` turns a good answer into a bad one."""

    name: str
    cited: str
    verdict: Verdict
    holds: Callable[[Answer], object]
    broken: Callable[[Answer], Answer]


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Answer], Answer]:
    """A broken answer by a change of its review."""

    def broken(answer: Answer) -> Answer:
        review = copy.deepcopy(answer.review)
        change(review)
        return replace(answer, body=json.dumps(review).encode())

    return broken


def respond(**fields: Any) -> Callable[[Answer], Answer]:
    """A broken answer by fields of its response; None removes one."""

    def change(review: dict[str, Any]) -> None:
        for name, value in fields.items():
            if value is None:
                review["response"].pop(name, None)
            else:
                review["response"][name] = value

    return edit(change)


def encoded(operations: Any) -> str:
    return base64.b64encode(json.dumps(operations).encode()).decode()


def patching(*operations: dict[str, Any]) -> Callable[[Answer], Answer]:
    return respond(patch=encoded(list(operations)), patchType="JSONPatch")


def is_json(answer: Answer) -> bool:
    return isinstance(answer.review, dict)


def is_pod(answer: Answer) -> bool:
    """Whether it decodes as a Pod: types fit; unknown fields are ignored."""
    validate(strip_unknown(answer.patched()), ("1.33",))
    return True


def strip_unknown(pod: Pod) -> Pod:
    return {key: value for key, value in pod.items() if key in ("apiVersion", "kind", "metadata", "spec")}


def is_valid(answer: Answer) -> bool:
    """Validation after all webhooks, for the injector's change: container names are unique, env names are set."""
    spec = answer.patched()["spec"]
    containers = [*spec["containers"], *(spec.get("initContainers") or [])]
    names = [container["name"] for container in containers]
    return len(names) == len(set(names)) and all(
        entry.get("name") for container in containers for entry in container.get("env") or []
    )


EXTRA = {"name": "x", "image": "i"}
VERDICTS = (
    Row(
        "status",
        "[C] transformResponse: a status outside of 200 to 206 is an error, which [D] makes ErrCallingWebhook",
        Verdict.CALL_FAILED,
        lambda a: 200 <= a.status <= 206,
        lambda a: replace(a, status=500),
    ),
    Row(
        "json",
        "[D] r.Do(ctx).Into(response) failing is ErrCallingWebhook: 'failed to call webhook'",
        Verdict.CALL_FAILED,
        is_json,
        lambda a: replace(a, body=b"<html>"),
    ),
    Row(
        "response",
        "[R] 'webhook response was absent'",
        Verdict.CALL_FAILED,
        lambda a: isinstance(a.review.get("response"), dict),
        edit(lambda r: r.pop("response")),
    ),
    Row(
        "uid",
        "[R] 'expected response.uid=%q, got %q'",
        Verdict.CALL_FAILED,
        lambda a: a.response.get("uid") == a.asked["uid"],
        respond(uid="another"),
    ),
    Row(
        "kind",
        "[R] VerifyAdmissionResponse: 'expected webhook response of %v, got %v'",
        Verdict.CALL_FAILED,
        lambda a: a.review.get("kind") == "AdmissionReview",
        edit(lambda r: r.update(kind="AdmissionResponse")),
    ),
    Row(
        "version",
        "[R] the same for the group and version: 'admission.k8s.io/v1'",
        Verdict.CALL_FAILED,
        lambda a: a.review.get("apiVersion") == "admission.k8s.io/v1",
        edit(lambda r: r.update(apiVersion="admission.k8s.io/v1beta1")),
    ),
    Row(
        "patch without type",
        "[R] 'webhook returned response.patch but not response.patchType'",
        Verdict.CALL_FAILED,
        lambda a: not a.response.get("patch") or a.response.get("patchType") is not None,
        respond(patchType=None),
    ),
    Row(
        "empty type",
        "[R] 'webhook returned invalid response.patchType of \"\"'",
        Verdict.CALL_FAILED,
        lambda a: a.response.get("patchType") != "",
        respond(patchType=""),
    ),
    Row(
        "type without patch",
        "[R] 'webhook returned response.patchType but not response.patch'",
        Verdict.CALL_FAILED,
        lambda a: a.response.get("patchType") is None or a.response.get("patch"),
        respond(patch=None),
    ),
    Row(
        "type",
        "[R] 'webhook returned invalid response.patchType of %q', other than JSONPatch",
        Verdict.CALL_FAILED,
        lambda a: a.response.get("patchType") in (None, "JSONPatch"),
        respond(patchType="MergePatch"),
    ),
    Row(
        "denied",
        "[D] allowed: false is ErrWebhookRejection with our own status, whatever the failure policy",
        Verdict.REFUSED,
        lambda a: a.response.get("allowed") is True,
        respond(allowed=False, status={"code": 403, "message": "for a test"}),
    ),
    Row(
        "base64",
        "[T] patch is []byte, base64 in JSON: the review of one that is not does not decode, as above",
        Verdict.CALL_FAILED,
        lambda a: [base64.b64decode(a.response.get("patch") or "", validate=True)],
        respond(patch="[not base64]"),
    ),
    Row(
        "no patch",
        "[D] jsonpatch.DecodePatch failing is NewInternalError, not subject to the failure policy",
        Verdict.ERROR,
        lambda a: isinstance(a.operations, list) and all(isinstance(operation, dict) for operation in a.operations),
        respond(patch=encoded({"spec": {}})),
    ),
    Row(
        "does not apply",
        "[D] patchObj.Apply failing is NewInternalError",
        Verdict.ERROR,
        lambda a: a.patched(),
        patching({"op": "add", "path": "/spec/nowhere/-", "value": EXTRA}),
    ),
    Row(
        "no pod",
        "[D] a patched object that does not decode is NewInternalError",
        Verdict.ERROR,
        is_pod,
        patching({"op": "add", "path": "/spec/terminationGracePeriodSeconds", "value": "soon"}),
    ),
    Row(
        "invalid pod",
        "validation runs after mutation: a decodable, invalid Pod is refused",
        Verdict.REFUSED,
        is_valid,
        patching({"op": "add", "path": "/spec/containers/-", "value": {"name": "app", "image": "i"}}),
    ),
)

HARMLESS: dict[str, tuple[bool, Callable[[Answer], Answer]]] = {
    # [D] 'if len(result.Patch) == 0 { return false, nil }'
    "an empty patch": (False, respond(patch="", patchType=None)),
    # [D] 'if len(patchObj) == 0 { return false, nil }'
    "no operations": (False, patching()),
    # [T] status 'IS NOT consulted in any way, if "Allowed" is "true"'
    "a status beside allowed": (True, respond(status={"code": 500, "message": "for a test"})),
    # [T] warnings of more than 256 characters may be cut
    "a long warning": (True, respond(warnings=["x" * 5000])),
}
"""Answers that look wrong but are no failures, and whether the pod then has the container."""


def judge(answer: Answer) -> Row | None:
    """The first rule that the answer breaks."""
    for row in VERDICTS:
        try:
            if not row.holds(answer):
                return row
        except (ValueError, KeyError, TypeError, binascii.Error, jsonpatch.JsonPatchException):
            return row
        except jsonpatch.JsonPointerException:
            return row
        except Exception as error:  # the schemas' own ValidationError
            if type(error).__module__.startswith(("kubernetes_validate", "jsonschema")):
                return row
            raise
    return None


@dataclass
class Outcome:
    """The result of creating a pod."""

    pod: Pod | None
    """The pod as stored; None if it was refused."""
    why: str = ""
    message: str = ""
    """The webhook's own status if the webhook refused the pod."""
    calls: list[str] = field(default_factory=list)
    """The paths that were called, in order."""
    failed_open: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    audit: dict[str, str] = field(default_factory=dict)


class ApiServer:
    """Creates pods as an API server with this webhook configuration does."""

    def __init__(
        self,
        configuration: Mapping[str, Any],
        address: tuple[str, int],
        ca: str = "",
        *,
        timeout_s: float | None = None,
    ) -> None:
        """`address` and `ca` belong to the service, for entries without a URL and a caBundle."""
        self.webhooks: list[dict[str, Any]] = copy.deepcopy(list(configuration["webhooks"]))
        self.address = address
        self.ca = ca
        self.timeout_s = timeout_s
        self.tamper: Callable[[Answer], Answer] = lambda answer: answer

    def policy(self, policy: str) -> None:
        """Sets the failure policy of all entries."""
        for webhook in self.webhooks:
            webhook["failurePolicy"] = policy

    async def create(
        self,
        pod: Pod,
        labels: Mapping[str, str] | None = None,
        *,
        namespace: str = "shop",
        dry_run: bool = False,
        another_webhook: Callable[[Pod], None] | None = None,
    ) -> Outcome:
        """The outcome of creating `pod` in a namespace with these labels.

        `another_webhook` changes the pod after ours: then ours, which asks for it, is called once more [D].
        """
        outcome = Outcome(None)
        current = self._defaulted(copy.deepcopy(pod))
        of_namespace = {"kubernetes.io/metadata.name": namespace, **(labels or {})}
        matched = [webhook for webhook in self.webhooks if self._matches(webhook, current, of_namespace)]
        rounds = [matched]
        if another_webhook is not None:
            rounds.append([webhook for webhook in matched if webhook["reinvocationPolicy"] == "IfNeeded"])
        for number, webhooks in enumerate(rounds):
            if number and another_webhook is not None:
                another_webhook(current)
                current = self._defaulted(current)
            for webhook in webhooks:
                # [D] in the second round only those are called that were called already, ask for it and still match
                if number and not self._matches(webhook, current, of_namespace):
                    continue
                if dry_run and webhook["sideEffects"] not in ("None", "NoneOnDryRun"):
                    outcome.why = "a dry run and a webhook with side effects"  # [D] NewBadRequest
                    return outcome
                after = await self._call(webhook, current, namespace, dry_run, outcome)
                if after is None:
                    return outcome
                current = self._defaulted(after)
        outcome.pod = current
        return outcome

    @staticmethod
    def _defaulted(pod: Pod) -> Pod:
        """SetDefaults_PodSpec, for the field that concerns us."""
        if isinstance(pod.get("spec"), dict) and pod["spec"].get("terminationGracePeriodSeconds") is None:
            pod["spec"]["terminationGracePeriodSeconds"] = 30
        return pod

    @staticmethod
    def _matches(webhook: Mapping[str, Any], pod: Pod, of_namespace: Mapping[str, str]) -> bool:
        return _selected(webhook["namespaceSelector"], of_namespace) and _selected(
            webhook["objectSelector"], pod["metadata"].get("labels") or {}
        )

    async def _call(
        self, webhook: Mapping[str, Any], pod: Pod, namespace: str, dry_run: bool, outcome: Outcome
    ) -> Pod | None:
        client = webhook["clientConfig"]
        service = client.get("service")
        path = service["path"] if service else urlsplit(client["url"]).path
        asked = request(pod, namespace=namespace, dryRun=dry_run, name=pod["metadata"].get("name", ""))
        review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": asked}
        outcome.calls.append(path)
        seconds = self.timeout_s or webhook["timeoutSeconds"]
        url = f"https://{self.address[0]}:{self.address[1]}{path}" if service else client["url"]
        url += f"?timeout={int(seconds) or 1}s"
        bundle = base64.b64decode(client["caBundle"]).decode("ascii") if "caBundle" in client else self.ca
        try:
            async with (
                asyncio.timeout(seconds),
                aiohttp.ClientSession() as session,
                session.post(
                    url,
                    data=json.dumps(review),
                    headers={"Content-Type": "application/json"},
                    ssl=ssl.create_default_context(cadata=bundle),
                    server_hostname=f"{service['name']}.{service['namespace']}.svc" if service else None,
                ) as response,
            ):
                answer = Answer(asked, pod, response.status, await response.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            return self._failed(webhook, pod, f"calling: {type(error).__name__}", outcome)
        answer = self.tamper(answer)
        broken = judge(answer)
        if broken is not None and broken.verdict is Verdict.CALL_FAILED:
            return self._failed(webhook, pod, broken.name, outcome)
        if broken is not None:
            outcome.why = f"{broken.verdict}: {broken.name}"
            outcome.message = (answer.response.get("status") or {}).get("message", "")
            return None
        outcome.warnings.extend(answer.response.get("warnings", []))
        for key, value in answer.response.get("auditAnnotations", {}).items():
            outcome.audit[f"{webhook['name']}/{key}"] = value
        return answer.patched()

    @staticmethod
    def _failed(webhook: Mapping[str, Any], pod: Pod, why: str, outcome: Outcome) -> Pod | None:
        """[D] Ignore: admitted as it is, with an audit annotation; Fail: refused."""
        if webhook["failurePolicy"] == "Ignore":
            outcome.failed_open.append(why)
            return pod
        outcome.why = f"failed calling webhook: {why}"
        return None


def _selected(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches. An absent label is NotIn everything."""
    for expression in selector.get("matchExpressions", []):
        inside = labels.get(expression["key"]) in expression["values"]
        if inside != (expression["operator"] == "In"):
            return False
    return True
