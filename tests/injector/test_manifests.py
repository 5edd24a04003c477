from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from sniffer.injector import InjectorOptions
from sniffer.injector.patch import Reason
from tests.injector.manifests import DEPLOY, OURS, Manifest, chart, kustomize, load, one, problems
from tests.injector.pods import KUBERNETES, answered, kubectl, of_job, validate, wrong_with

needs_kubectl = pytest.mark.skipif(kubectl() is None, reason="kubectl is not present")
FOLDERS = ("base", "overlays/cert-manager", "overlays/production")


@cache
def rendered(folder: str) -> list[Manifest]:
    return kustomize(DEPLOY / "kustomize" / folder)


def base_files() -> list[Manifest]:
    """The base as it is in its files: everything but what kustomize replaces, so that no kubectl is needed."""
    names = yaml.safe_load((DEPLOY / "kustomize/base/kustomization.yaml").read_text())["resources"]
    return [one for name in names for one in load((DEPLOY / "kustomize/base" / name).read_text())]


@needs_kubectl
@pytest.mark.parametrize("folder", FOLDERS)
def test_kustomize(folder: str) -> None:
    """What kustomize renders fits the schemas of 1.29, 1.33 and 1.37 and passes every semantic check."""
    assert list(problems(rendered(folder))) == []


def test_the_base_without_kubectl() -> None:
    """The files of the base pass the same checks as they are."""
    assert list(problems(base_files())) == []


@needs_kubectl
@pytest.mark.parametrize("folder", FOLDERS)
def test_another_namespace(folder: str, tmp_path: Path) -> None:
    """The namespace is changed in one place, and everything that names it follows."""
    copied = shutil.copytree(DEPLOY / "kustomize", tmp_path / "kustomize")
    file = copied / "base/namespace.yaml"
    file.write_text(file.read_text().replace("name: tcp-sniffer\n", "name: watching\n"))
    manifests = kustomize(copied / folder)
    assert list(problems(manifests, ("1.33",))) == []
    assert {m["metadata"].get("namespace") for m in manifests} == {None, "watching"}


@needs_kubectl
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not present")
def test_self_signed(tmp_path: Path) -> None:
    """The script's certificate is accepted by who trusts its caBundle, and its CA outlives a renewal."""
    copied = shutil.copytree(DEPLOY / "kustomize", tmp_path / "kustomize")
    script = copied / "overlays/self-signed/generate.sh"
    bundles = []
    for _ in range(2):
        subprocess.run([str(script), "--days", "30"], check=True, capture_output=True, timeout=60)
        manifests = kustomize(script.parent)
        assert list(problems(manifests)) == []
        configuration = one(manifests, "MutatingWebhookConfiguration")
        bundles.append((configuration["webhooks"][0]["clientConfig"]["caBundle"], one(manifests, "Secret")["data"]))
    assert bundles[0][0] == bundles[1][0]
    assert bundles[0][1] != bundles[1][1]
    done = subprocess.run([str(script), "--dais", "1"], check=False, capture_output=True, timeout=60)
    assert done.returncode == 1


@needs_kubectl
def test_production() -> None:
    """The production overlay switches production rules on, pins its images and takes the token from a Secret."""
    manifests = rendered("overlays/production")
    deployment = one(manifests, "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "TCP_SNIFFER_PRODUCTION", "value": "true"} in container["env"]
    assert deployment["spec"]["replicas"] == 3
    config = yaml.safe_load(one(manifests, "ConfigMap")["data"]["injector.yaml"])
    assert config["outputUrl"].startswith("https://")
    assert config["outputUrlAuthTokenSecret"] == {"name": "tcp-sniffer-output-auth", "key": "token"}
    for image in (container["image"], config["snifferImage"]):
        assert not image.endswith(":latest")
        assert ":" in image


def comparable(manifests: list[Manifest]) -> dict[tuple[str, str], Any]:
    """By kind and name, without what Helm adds and with the configuration as data."""
    found = {}
    for manifest in copy.deepcopy(manifests):
        labels = manifest["metadata"].get("labels", {})
        manifest["metadata"]["labels"] = {"app.kubernetes.io/name": labels.get("app.kubernetes.io/name")}
        if manifest["kind"] == "Deployment":
            annotations = manifest["spec"]["template"]["metadata"].pop("annotations", {})
            assert set(annotations) <= {"checksum/config"}
        if manifest["kind"] == "ConfigMap":
            config = yaml.safe_load(manifest["data"]["injector.yaml"])
            manifest["data"] = {key: value for key, value in config.items() if value is not None}
        found[manifest["kind"], manifest["metadata"]["name"]] = manifest
    del found["Namespace", "tcp-sniffer"]
    return found


def with_namespace(manifests: list[Manifest]) -> list[Manifest]:
    """`helm install --create-namespace` makes the namespace; a chart does not contain it."""
    return [*manifests, one(base_files(), "Namespace")]


@needs_kubectl
@pytest.mark.parametrize(("mode", "folder"), [("existing", "base"), ("cert-manager", "overlays/cert-manager")])
def test_the_chart_equals_kustomize(mode: str, folder: str) -> None:
    """With its default values the chart renders what the kustomize base is, and with cert-manager that overlay."""
    manifests = with_namespace(chart(certificate={"mode": mode}))
    assert list(problems(manifests)) == []
    assert comparable(manifests) == comparable(rendered(folder))


def test_the_charts_values() -> None:
    """Values reach what they name; the namespace is the release's throughout."""
    manifests = chart(
        "watching",
        production=True,
        replicas=3,
        port=10250,
        priorityClassName="system-cluster-critical",
        image={"repository": "registry.example/s", "tag": "1"},
        imagePullSecrets=["cred"],
        nodeSelector={"a": "b"},
        tolerations=[{"operator": "Exists"}],
        certificate={"mode": "existing", "caBundle": "QQ=="},
        webhook={"failurePolicy": "Fail", "timeoutSeconds": 3, "excludedNamespaces": ["x"]},
        options={"outputUrl": "https://c.example/", "snifferEnv": [{"name": "MEMORY_BUDGET", "value": "67108864"}]},
    )
    for manifest in manifests:
        validate(manifest)
    assert {m["metadata"].get("namespace") for m in manifests} == {None, "watching"}
    deployment = one(manifests, "Deployment")["spec"]
    spec = deployment["template"]["spec"]
    assert (deployment["replicas"], spec["priorityClassName"]) == (3, "system-cluster-critical")
    assert (spec["imagePullSecrets"], spec["nodeSelector"]) == ([{"name": "cred"}], {"a": "b"})
    container = spec["containers"][0]
    assert container["image"] == "registry.example/s:1"
    assert container["ports"][0]["containerPort"] == 10250
    env = {entry["name"]: entry["value"] for entry in container["env"]}
    assert (env["TCP_SNIFFER_PRODUCTION"], env["INJECTOR_PORT"]) == ("true", "10250")
    for webhook in one(manifests, "MutatingWebhookConfiguration")["webhooks"]:
        assert (webhook["failurePolicy"], webhook["timeoutSeconds"]) == ("Fail", 3)
        assert webhook["clientConfig"]["caBundle"] == "QQ=="
        assert webhook["namespaceSelector"]["matchExpressions"][1]["values"][-2:] == ["watching", "x"]
    config = yaml.safe_load(one(manifests, "ConfigMap")["data"]["injector.yaml"])
    assert config["outputUrl"] == "https://c.example/"
    assert config["snifferEnv"] == [{"name": "MEMORY_BUDGET", "value": "67108864"}]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"replica": 3}, "additional properties 'replica' not allowed"),
        ({"replicas": 0}, "'/replicas'"),
        ({"certificate": {"mode": "certmanager"}}, "'/certificate/mode': value must be one of"),
        ({"certificate": {"caBundle": "-----BEGIN CERTIFICATE-----"}}, "'/certificate/caBundle'"),
        ({"webhook": {"failurePolicy": "ignore"}}, "'/webhook/failurePolicy': value must be one of"),
        ({"webhook": {"timeoutSeconds": 31}}, "'/webhook/timeoutSeconds'"),
        ({"production": "yes"}, "'/production': got string"),
        ({"port": 443}, "'/port'"),
        ({"options": {"snifferEnv": {"SAMPLE_RATE": 1}}}, "'/options/snifferEnv'"),
        ({"options": {"snifferEnv": [{"value": "1"}]}}, "'/options/snifferEnv/0'"),
        ({"options": {"snifferEnv": [{"name": "A", "value": "1", "valueFrom": {}}]}}, "'/options/snifferEnv/0'"),
    ],
    ids=str,
)
def test_the_chart_refuses_wrong_values(values: dict[str, Any], said: str) -> None:
    """A mistyped value fails the rendering, not the cluster, and the error names it."""
    with pytest.raises(Exception, match=re.escape(said)):
        chart(**values)


def test_every_value_is_documented_and_has_a_schema() -> None:
    """Each key of values.yaml has a comment, or is in a block that has one, and stands in the schema."""
    folder = DEPLOY / "helm/tcp-sniffer-injector"
    lines = (folder / "values.yaml").read_text().splitlines()
    values = yaml.safe_load("\n".join(lines))
    schema = json.loads((folder / "values.schema.json").read_text())
    assert set(values) == set(schema["properties"]) - {"global"}
    for key, value in values.items():
        at = next(number for number, line in enumerate(lines) if line.startswith(f"{key}:"))
        of_tolerations = key == "tolerations"  # nodeSelector's comment, right above
        inside = isinstance(value, dict) and value and lines[at + 1].strip().startswith("#")
        assert inside or lines[at - 1 - of_tolerations].startswith("#"), key
        inner = schema["properties"][key].get("properties")
        assert inner is None or set(value) == set(inner) or key == "options", key  # those the injector checks


def test_the_chart_is_linted() -> None:
    """Helm's own linter finds no error."""
    from helm_python import chart as helm_chart

    found = helm_chart.lint(str(DEPLOY / "helm/tcp-sniffer-injector"))
    assert not found["errors"]
    assert [message["error"] for message in found["messages"]] == ["icon is recommended"]


def test_the_sample() -> None:
    """The sample fits the schemas; its application gets a container and its Job's pod a native sidecar, both valid."""
    manifests = load((DEPLOY / "sample/sample.yaml").read_text())
    seen = {}
    for manifest in manifests:
        validate(manifest)
        if manifest["kind"] in ("Deployment", "Job"):
            pod = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(manifest["spec"]["template"])}
            pod["metadata"]["name"] = manifest["metadata"]["name"]
            decision, patch, result = answered(of_job(pod) if manifest["kind"] == "Job" else pod)
            validate(result)
            assert list(wrong_with(result)) == []
            seen[manifest["metadata"]["name"]] = (decision.reason, patch[0]["path"] if patch else "")
    assert seen == {
        "echo": (Reason.INJECTED, "/spec/containers/-"),
        "visit": (Reason.INJECTED, "/spec/initContainers"),
        "collector": (Reason.NOT_OPTED_IN, ""),
    }


@pytest.mark.parametrize("mode", ["never", "always"])
def test_injected_pods_are_valid(mode: str) -> None:
    """Mutated pods fit the schemas of every version, with all options in use."""
    options = InjectorOptions(
        native_sidecar=mode,
        production=True,
        output_url="https://c.example/",
        run_as_root=True,
        output_url_auth_token_secret={"name": "a", "key": "b"},
        resources={"limits": {"cpu": None}},
        spool_size=64 << 20,
        sniffer_env=[
            {"name": "SAMPLE_RATE", "value": "0.5"},
            {"name": "EXCLUDE_PATHS", "valueFrom": {"configMapKeyRef": {"name": "a", "key": "b"}}},
        ],
    )
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a", "labels": {"tcp-sniffer/inject": "true"}},
        "spec": {"containers": [{"name": "app", "image": "i"}], "initContainers": [{"name": "init", "image": "i"}]},
    }
    result = answered(pod, options)[2]
    validate(result, KUBERNETES)
    assert list(wrong_with(result)) == []


def change(kind: str, path: str, value: Any) -> Callable[[list[Manifest]], None]:
    def changed(manifests: list[Manifest]) -> None:
        node: Any = one(manifests, kind)
        *parents, last = path.split(".")
        for key in parents:
            node = node[int(key) if key.isdigit() else key]
        node[int(last) if last.isdigit() else last] = value

    return changed


WEBHOOK, DEPLOYMENT = "MutatingWebhookConfiguration", "Deployment"
POD, FIRST = "spec.template.spec", "webhooks.0"
MISTAKES = {
    "an unknown field": change("Service", "spec.typo", 1),
    "another namespace": change("Service", "metadata.namespace", "x"),
    "one replica": change(DEPLOYMENT, "spec.replicas", 1),
    "a token": change(DEPLOYMENT, f"{POD}.automountServiceAccountToken", True),
    "privileged": change(DEPLOYMENT, f"{POD}.containers.0.securityContext.privileged", True),
    "capabilities": change(DEPLOYMENT, f"{POD}.containers.0.securityContext.capabilities", {"add": ["NET_RAW"]}),
    "no limits": change(DEPLOYMENT, f"{POD}.containers.0.resources", {"requests": {}}),
    "a probe over http": change(DEPLOYMENT, f"{POD}.containers.0.livenessProbe.httpGet.scheme", "HTTP"),
    "a subPath": change(DEPLOYMENT, f"{POD}.containers.0.volumeMounts.1.subPath", "tls.crt"),
    "another mount": change(DEPLOYMENT, f"{POD}.containers.0.volumeMounts.1.mountPath", "/tls"),
    "another port": change(DEPLOYMENT, f"{POD}.containers.0.ports.0.containerPort", 443),
    "a short grace": change(DEPLOYMENT, f"{POD}.terminationGracePeriodSeconds", 5),
    "other labels": change(DEPLOYMENT, "spec.template.metadata.labels", {"tcp-sniffer/inject": "false"}),
    "no opt-out": change(
        DEPLOYMENT, "spec.template.metadata.labels", {"app.kubernetes.io/name": "tcp-sniffer-injector"}
    ),
    "a wrong selector": change("Service", "spec.selector", {"app": "x"}),
    "a wrong budget": change("PodDisruptionBudget", "spec.selector.matchLabels", {"app": "x"}),
    "a wrong targetPort": change("Service", "spec.ports.0.targetPort", "http"),
    "ingress from pods": change("NetworkPolicy", "spec.ingress.0.from", [{"podSelector": {}}]),
    "egress": change("NetworkPolicy", "spec.egress", [{}]),
    "an empty egress": change("NetworkPolicy", "spec.egress", []),
    "an empty list": change(DEPLOYMENT, f"{POD}.tolerations", []),
    "a null": change(DEPLOYMENT, f"{POD}.nodeSelector", None),
    "another service": change(WEBHOOK, f"{FIRST}.clientConfig.service.name", "x"),
    "another path": change(WEBHOOK, f"{FIRST}.clientConfig.service.path", "/mutate"),
    "an unserved path": change(WEBHOOK, f"{FIRST}.clientConfig.service.path", "/inject"),
    "updates": change(WEBHOOK, f"{FIRST}.rules.0.operations", ["CREATE", "UPDATE"]),
    "side effects": change(WEBHOOK, f"{FIRST}.sideEffects", "Some"),
    "a long timeout": change(WEBHOOK, f"{FIRST}.timeoutSeconds", 30),
    "an implicit field": change(WEBHOOK, "webhooks.0.extra", None),
    "the system": change(WEBHOOK, f"{FIRST}.namespaceSelector.matchExpressions.1.values", ["tcp-sniffer"]),
    "itself": change(
        WEBHOOK,
        f"{FIRST}.namespaceSelector.matchExpressions.1.values",
        ["kube-system", "kube-public", "kube-node-lease"],
    ),
    "Pod Security": change(WEBHOOK, f"{FIRST}.namespaceSelector.matchExpressions.2.values", ["restricted"]),
    "the namespaces' label": change(WEBHOOK, f"{FIRST}.namespaceSelector.matchExpressions.0.operator", "NotIn"),
    "the pods' label": change(WEBHOOK, f"{FIRST}.objectSelector.matchExpressions.0.values", ["true"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_each_check_finds_its_mistake(name: str) -> None:
    """Every semantic check finds the mistake that it is there for."""
    manifests = copy.deepcopy(base_files())
    MISTAKES[name](manifests)
    assert list(problems(manifests, ("1.33",) if name == "an unknown field" else ()))


def test_rbac_and_a_wrong_certificate_are_found() -> None:
    """A role, or a certificate for another name, is a mistake."""
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "r", "namespace": "tcp-sniffer"},
    }
    assert any("RBAC" in problem for problem in problems([*base_files(), {**role, "rules": []}], ("1.33",)))
    manifests = [*base_files(), *load((DEPLOY / "kustomize/overlays/cert-manager/certificate.yaml").read_text())]
    one(manifests, WEBHOOK)["metadata"]["annotations"] = {"cert-manager.io/inject-ca-from": "tcp-sniffer/other"}
    leaf = next(m for m in manifests if m["metadata"]["name"] == OURS and m["kind"] == "Certificate")
    leaf["spec"].update(dnsNames=["x"], secretName="y")
    assert len(list(problems(manifests, ("1.33",)))) == 3


def test_the_checks_can_be_run_on_a_cluster_of_ones_own() -> None:
    """The same checks are a command that reads rendered manifests."""
    command = [sys.executable, "-m", "tests.injector.manifests"]
    text = yaml.safe_dump_all(base_files())
    for given, code in ((text, 0), (text.replace("replicas: 2", "replicas: 1"), 1)):
        done = subprocess.run(
            command, input=given, cwd=DEPLOY.parent, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == code, done.stdout + done.stderr
