"""Pods and reviews as an API server sends them, and the ways of applying a patch that the tests compare."""

from __future__ import annotations

import base64
import copy
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonpatch
import kubernetes_validate
from hypothesis import strategies as st

from sniffer.injector import InjectorOptions
from sniffer.injector.patch import Decision, JsonPatch, OptedInBy
from sniffer.injector.server import answer, decide
from sniffer.injector.values import quantity

KUBERNETES = ("1.29", "1.33", "1.37")
IN = {"tcp-sniffer/inject": "true"}
OUT = {"tcp-sniffer/inject": "false"}
JOB = [{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "1", "controller": True}]


def pod(annotations: dict[str, str] | None = None, labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    """A plain pod that opts in by its label."""
    metadata: dict[str, Any] = {"name": "shop", "labels": dict(IN if labels is None else labels)}
    if annotations is not None:
        metadata["annotations"] = annotations
    containers = [{"name": "app", "image": "shop:1", "ports": [{"containerPort": 8080}]}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": containers, **spec}}


def of_job(pod: dict[str, Any]) -> dict[str, Any]:
    """A pod as the Job controller makes it."""
    made = copy.deepcopy(pod)
    made["metadata"]["ownerReferences"] = copy.deepcopy(JOB)
    return made


def request(pod: Any, **changes: Any) -> dict[str, Any]:
    """The request of a review."""
    made: dict[str, Any] = {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
        "name": "",
        "namespace": "shop",
        "operation": "CREATE",
        "userInfo": {"username": "admin", "groups": ["system:authenticated"]},
        "object": pod,
        "oldObject": None,
        "dryRun": False,
        "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
    }
    return made | changes


def review(pod: Any, **changes: Any) -> dict[str, Any]:
    """An AdmissionReview."""
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request(pod, **changes)}


def answered(
    pod: Any, options: InjectorOptions | None = None, opted_in_by: OptedInBy = "pod", **changes: Any
) -> tuple[Decision, JsonPatch, dict[str, Any]]:
    """The decision, the patch decoded from the base64 of the answer, and the pod after python-jsonpatch applied it."""
    before = copy.deepcopy(pod)
    asked = request(pod, **changes)
    decision = decide(asked, opted_in_by, options or InjectorOptions())
    response = answer(asked, decision)["response"]
    assert response["allowed"] is True
    assert pod == before, "the pod itself was changed"
    if "patch" not in response:
        assert "patchType" not in response
        return decision, [], pod
    assert response["patchType"] == "JSONPatch"
    patch: JsonPatch = json.loads(base64.b64decode(response["patch"], validate=True))
    return decision, patch, jsonpatch.apply_patch(pod, patch)


def sniffer_of(pod: dict[str, Any], name: str = "tcp-sniffer") -> dict[str, Any]:
    """The injected container."""
    found = [c for key in ("containers", "initContainers") for c in pod["spec"].get(key) or () if c["name"] == name]
    assert len(found) == 1
    container: dict[str, Any] = found[0]
    return container


def env_of(container: dict[str, Any]) -> dict[str, str]:
    """The variables that have plain values."""
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


def validate(manifest: dict[str, Any], versions: tuple[str, ...] = KUBERNETES) -> None:
    """Raises unless the manifest fits the schemas of those versions, without unknown fields."""
    for version in versions:
        kubernetes_validate.validate(manifest, version, strict=True)


def wrong_with(pod: dict[str, Any]) -> Iterator[str]:
    """Errors of a mutated pod that no schema finds, but an API server's validation or a user would."""
    both = [(key, entry) for key in ("containers", "initContainers") for entry in pod["spec"].get(key) or []]
    volumes = [volume["name"] for volume in pod["spec"].get("volumes") or []]
    for what, names in (("containers", [entry["name"] for _, entry in both]), ("volumes", volumes)):
        if len(names) != len(set(names)):
            yield f"names of {what}: {names}"
    for key, entry in both:
        if (entry.get("restartPolicy") == "Always") and key != "initContainers":
            yield f"{entry['name']}: restartPolicy outside of initContainers"
        if entry["image"] == "i:1" or "NET_RAW" not in str(entry.get("securityContext")):
            continue
        variables = [variable["name"] for variable in entry["env"]]
        if len(variables) != len(set(variables)):
            yield f"env: {variables}"
        if key == "initContainers" and entry.get("restartPolicy") != "Always":
            yield "a native sidecar that would be waited for"
        if entry["securityContext"]["capabilities"] != {"drop": ["ALL"], "add": ["NET_RAW"]}:
            yield f"capabilities: {entry['securityContext']['capabilities']}"
        if found := {"readinessProbe", "livenessProbe", "lifecycle", "ports"} & entry.keys():
            yield f"fields that would decide for the pod: {sorted(found)}"
        if ("startupProbe" in entry) != (key == "initContainers"):
            yield f"a startup probe is {entry.get('startupProbe')} in {key}"
        yield from _wrong_mounts(entry, volumes)
        yield from _wrong_resources(entry.get("resources", {}))


def _wrong_mounts(container: dict[str, Any], volumes: list[str]) -> Iterator[str]:
    mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", [])}
    if lost := set(mounts.values()) - set(volumes):
        yield f"mounts of no volume: {sorted(lost)}"
    spools = {entry["value"] for entry in container["env"] if entry["name"] == "SPOOL_DIR"}
    if spools != mounts.keys():
        yield f"a spool in {sorted(spools)}, volumes in {sorted(mounts)}"


def _wrong_resources(resources: dict[str, dict[str, str]]) -> Iterator[str]:
    try:
        amounts = {
            side: {k: quantity(v) for k, v in resources.get(side, {}).items()} for side in ("requests", "limits")
        }
    except ValueError as error:
        yield f"resources: {error}"
        return
    for kind, amount in amounts["requests"].items():
        if amount > amounts["limits"].get(kind, amount):
            yield f"requests more {kind} than the limit"


def kubectl() -> str | None:
    """The program, if it is installed."""
    return shutil.which("kubectl")


def kubectl_patched(pods: list[dict[str, Any]], patch: JsonPatch, folder: Path) -> list[dict[str, Any]]:
    """The pods after `kubectl patch --local`, which patches with the API server's library."""
    (folder / "pod.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}))
    (folder / "patch.json").write_text(json.dumps(patch))
    done = subprocess.run(
        ["kubectl", "patch", "--local", "--type=json", "--patch-file", "patch.json", "-f", "pod.json", "-o", "json"],
        cwd=folder,
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin:/usr/local/bin", "HOME": str(folder), "KUBECONFIG": str(folder / "none")},
    )
    decoder, at, found = json.JSONDecoder(), 0, []
    while at < len(done.stdout.rstrip()):  # one document after the other
        one, at = decoder.raw_decode(done.stdout, at)
        at += 1
        found.append(one)
    return found


_name = st.from_regex(r"\A[a-z]([-a-z0-9]{0,8}[a-z0-9])?\Z").filter(lambda name: name != "tcp-sniffer")
_texts = st.dictionaries(st.from_regex(r"\A[a-z]{1,6}(/[a-z~]{1,6})?\Z"), st.text(max_size=8), max_size=3)
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("abc/~", max_size=3), inner, max_size=2),
    max_leaves=5,
)
_container = st.fixed_dictionaries(
    {"name": _name, "image": st.just("i:1")},
    optional={
        "env": st.lists(st.fixed_dictionaries({"name": _name, "value": st.text(max_size=5)}), max_size=2),
        "args": st.lists(st.text(max_size=5), max_size=2),
    },
)


def _containers(least: int) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(_container, min_size=least, max_size=3, unique_by=lambda c: str(c["name"]))


@st.composite
def pods(draw: st.DrawFn, *, known_fields_only: bool = False) -> dict[str, Any]:
    """Pods of every shape that opt in; without `known_fields_only` also with unknown fields."""
    spec: dict[str, Any] = {"containers": draw(_containers(1))}
    if (init := draw(st.none() | st.just("null") | _containers(0))) is not None:
        taken = {c["name"] for c in spec["containers"]}
        spec["initContainers"] = None if isinstance(init, str) else [c for c in init if c["name"] not in taken]
    if (grace := draw(st.sampled_from(["absent", None, 0, 1, 5, 30, 45, 3600]))) != "absent":
        spec["terminationGracePeriodSeconds"] = grace
    if draw(st.booleans()):
        spec["nodeSelector"] = draw(st.dictionaries(_name, _name, max_size=2))
    metadata: dict[str, Any] = {"name": draw(_name), "labels": {**draw(_texts), **IN}}
    if draw(st.booleans()):
        metadata["annotations"] = draw(_texts)
    if draw(st.booleans()):
        metadata["ownerReferences"] = copy.deepcopy(JOB)
    if draw(st.booleans()):
        metadata["annotations"] = {**metadata.get("annotations", {}), "tcp-sniffer/native-sidecar": "true"}
    if draw(st.booleans()):
        spool = {"tcp-sniffer/output-url": "https://c.example/", "tcp-sniffer/spool": "64Mi"}
        metadata["annotations"] = {**metadata.get("annotations", {}), **spool}
    if (volumes := draw(st.sampled_from([None, [], ["data"], ["tcp-sniffer-spool", "data"]]))) is not None:
        spec["volumes"] = [{"name": name, "emptyDir": {}} for name in volumes]
    made: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    if not known_fields_only:
        spec["futureField"] = draw(_json)
        metadata["futureField"] = draw(_json)
    return made
