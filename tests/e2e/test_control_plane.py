from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import __main__ as command
from tests.e2e.cluster import Cluster, Manifest, Refused, container_in, expect
from tests.e2e.control_plane import PROGRAMS, ControlPlane, control_plane, missing
from tests.e2e.stages import IN, INJECTOR, outside, pod, with_account
from tests.injector.manifests import CUSTOM, DEPLOY, chart, kustomize
from tests.injector.pods import answered, kubectl
from tests.injector.test_manifests import with_namespace

PROGRAMS_IN = Path(os.environ.get("KUBEBUILDER_ASSETS") or "bin")
needs_programs = pytest.mark.skipif(
    bool(missing(PROGRAMS_IN)) or kubectl() is None, reason=f"kubectl or {PROGRAMS_IN}/kube-apiserver is not present"
)


@pytest.fixture(scope="module")
def api() -> Iterator[ControlPlane]:
    """A control plane of its own."""
    with control_plane(PROGRAMS_IN) as cluster:
        yield cluster


def applied(cluster: Cluster, manifests: list[Manifest]) -> None:
    """Applies what Kubernetes itself has, strictly; Failed where it is refused or warned about. No diff is left."""
    listed = [one for one in manifests if one["apiVersion"] not in CUSTOM]
    # the namespace first, as kubectl orders the files of a folder
    listed.sort(key=lambda one: one["kind"] != "Namespace")
    given = json.dumps({"apiVersion": "v1", "kind": "List", "items": listed})
    cluster.run("apply", "--validate=strict", "--warnings-as-errors", "--filename", "-", given=given)
    # what is stored is what was applied: GitOps tools see no drift
    told = [*cluster.command, "diff", "--filename", "-"]
    done = subprocess.run(told, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def pods_of(manifests: list[Manifest]) -> list[Manifest]:
    """The pods that controllers would make of Deployments and Jobs."""
    made = []
    for workload in manifests:
        if workload["kind"] in ("Deployment", "Job"):
            one = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(workload["spec"]["template"])}
            one["metadata"] |= {"namespace": workload["metadata"]["namespace"], "generateName": "of-"}
            made.append(one)
    return made


def with_accounts(manifests: list[Manifest]) -> list[Manifest]:
    """And the accounts that a controller would make."""
    spaces = {one["metadata"]["namespace"] for one in manifests if one["metadata"].get("namespace")}
    found = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": space}}
        for space in sorted(spaces)
    ]
    return [*manifests, *found]


@needs_programs
@pytest.mark.parametrize("what", ["cert-manager", "production", "self-signed", "chart", "sample"])
def test_every_manifest_is_taken(what: str, api: Cluster, tmp_path: Path) -> None:
    """A real API server takes what is shipped, without unknown fields or warnings, as it is, and the pods of it.

    The injector's own pods pass Pod Security `restricted`, which its namespace enforces.
    """
    if what == "chart":
        manifests = with_namespace(chart(production=True, priorityClassName="system-cluster-critical"))
    elif what == "sample":
        manifests = kustomize(DEPLOY / "sample")
    else:
        copied = shutil.copytree(DEPLOY / "kustomize", tmp_path / "kustomize") / "overlays" / what
        if what == "self-signed":
            subprocess.run([str(copied / "generate.sh")], check=True, capture_output=True, timeout=60)
        manifests = kustomize(copied)
    applied(api, with_accounts(manifests))
    for made in pods_of(manifests):
        stored = api.create(made, dry_run=True)
        assert stored["spec"]["containers"][0]["name"] == made["spec"]["containers"][0]["name"]


@needs_programs
def test_pod_security_refuses_net_raw(api: Cluster) -> None:
    """What the webhook's selectors spare: where `baseline` is enforced, a pod with the container would be refused."""
    labels = {"pod-security.kubernetes.io/enforce": "baseline"}
    api.apply(with_account("tcp-sniffer-e2e-baseline", labels))
    bare = pod("bare", "tcp-sniffer-e2e-baseline", IN)
    assert api.create(bare, dry_run=True)
    with pytest.raises(Refused, match="violates PodSecurity"):
        api.create(answered(bare)[2], dry_run=True)


@needs_programs
def test_what_a_user_and_an_auditor_read(api: ControlPlane) -> None:
    """Result and reason are in the API server's audit log, and where nothing was injected kubectl shows the warning."""
    api.delete("mutatingwebhookconfiguration", INJECTOR)  # another test's
    with outside(api, "127.0.0.1"):
        api.apply(with_account("tcp-sniffer-e2e-audit", {}))
        probe = pod("probe", "tcp-sniffer-e2e-audit", IN)
        expect(lambda: container_in(api.create(probe, dry_run=True)) is not None, "the webhook is called", 60)
        said = {}
        for name, ports in (("good", "80"), ("bad", "none")):
            made = pod(name, "tcp-sniffer-e2e-audit", IN, annotations={"tcp-sniffer/ports": ports})
            done = subprocess.run(
                [*api.command, "create", "-f", "-"], input=json.dumps(made), capture_output=True, text=True, check=True
            )
            said[name] = done.stderr
    assert said["good"] == ""
    assert said["bad"].startswith("Warning: tcp-sniffer not injected: tcp-sniffer/ports must be")
    for name, result, reason in (("good", "injected", "injected"), ("bad", "skipped", "invalid_annotation")):
        annotations = api.audited(name)
        assert annotations["pod.tcp-sniffer.io/result"] == result
        assert annotations["pod.tcp-sniffer.io/reason"] == reason
        mutated = json.loads(annotations["mutation.webhook.admission.k8s.io/round_0_index_1"])["mutated"]
        assert mutated is (name == "good")


@needs_programs
def test_limit_ranges(api: ControlPlane) -> None:
    """A LimitRange's defaults fill in what the container leaves out; one above its maximum costs the whole pod."""
    api.delete("mutatingwebhookconfiguration", INJECTOR)  # another test's
    there, none = "tcp-sniffer-e2e-limits", "requests.cpu=none,limits.cpu=none"

    def limit(**of_containers: dict[str, str]) -> None:
        spec = {"limits": [{"type": "Container", **of_containers}]}
        api.apply(
            [{"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l", "namespace": there}, "spec": spec}]
        )

    def resources(annotations: dict[str, str]) -> dict[str, dict[str, str]]:
        found = container_in(api.create(pod("limited", there, IN, annotations=annotations), dry_run=True))
        return found[1]["resources"] if found else {}

    with outside(api, "127.0.0.1"):
        api.apply(with_account(there, {}))
        limit(default={"cpu": "300m"})
        expect(
            lambda: resources({"tcp-sniffer/resources": none}).get("limits", {}).get("cpu") == "300m", "a default", 60
        )
        assert resources({})["limits"] == {"cpu": "500m", "memory": "512Mi"}
        limit(max={"memory": "300Mi"})

        def is_refused() -> bool:
            try:
                return not resources({})
            except Refused as error:
                return "maximum memory usage per Container is 300Mi" in str(error)

        expect(is_refused, "the pod is refused", 60)


@needs_programs
def test_further_variables(api: ControlPlane) -> None:
    """A real API server stores the further options of the sniffer as the guide shows them."""
    api.delete("mutatingwebhookconfiguration", INJECTOR)  # another test's
    there = "tcp-sniffer-e2e-variables"
    reference = {"configMapKeyRef": {"name": "sniffer-settings", "key": "exclude"}}
    given = [{"name": "SAMPLE_RATE", "value": "0.1"}, {"name": "EXCLUDE_PATHS", "valueFrom": reference}]
    with outside(api, "127.0.0.1", "--sniffer-env", json.dumps(given)):
        api.apply(with_account(there, {}))
        probe = pod("probe", there, IN)
        expect(lambda: container_in(api.create(probe, dry_run=True)) is not None, "the webhook is called", 60)
        stored = container_in(api.create(probe))
    assert stored is not None
    reference["configMapKeyRef"]["optional"] = True  # type: ignore[assignment]
    assert stored[1]["env"][-2:] == given


@needs_programs
@pytest.mark.parametrize("stage", ["injection", "verdicts"])
def test_on_a_real_api_server(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A real API server stores what the stage expects, and judges each answer as the table of the tests says."""
    assert command.main(["--control-plane", str(PROGRAMS_IN), "--stage", stage]) == 0, capsys.readouterr().out


needs_kubectl = pytest.mark.skipif(kubectl() is None, reason="kubectl is not present")


@needs_kubectl
def test_programs_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without the programs is named, with code 2."""
    (tmp_path / "etcd").touch()
    assert missing(tmp_path) == ["kube-apiserver"]
    assert command.main(["--control-plane", str(tmp_path)]) == 2
    assert "has no kube-apiserver" in capsys.readouterr().out


@needs_kubectl
def test_a_program_that_does_not_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A program that ends at once is named with the end of its log, and nothing is left running."""
    for name in PROGRAMS:
        (tmp_path / name).write_text("#!/bin/sh\necho it cannot >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    assert command.main(["--control-plane", str(tmp_path)]) == 2
    assert "etcd did not start: it cannot" in capsys.readouterr().out
