"""Checks of rendered manifests beyond their schemas: errors that only an API server or a user would find.

kubectl kustomize deploy/kustomize/overlays/production | python -m tests.injector.manifests
"""

from __future__ import annotations

import base64
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sniffer.injector import InjectorOptions
from sniffer.injector.server import PATHS
from tests.injector.pods import KUBERNETES, validate

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
OURS = "tcp-sniffer-injector"
CUSTOM = ("cert-manager.io/v1",)
"""Groups whose schemas Kubernetes does not ship."""

Manifest = dict[str, Any]


def load(text: str) -> list[Manifest]:
    """The manifests of a YAML stream."""
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def kustomize(folder: Path) -> list[Manifest]:
    """The manifests that `kubectl kustomize` renders."""
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return load(done.stdout)


def chart(namespace: str = "tcp-sniffer", **values: Any) -> list[Manifest]:
    """The manifests that the Helm chart renders."""
    from helm_python import Chart

    with Chart.load(str(DEPLOY / "helm" / OURS)) as loaded:
        rendered = loaded.render(values=values, name=OURS, namespace=namespace)
    return [one for path, text in rendered.items() if path.endswith(".yaml") for one in load(text)]


def one(manifests: list[Manifest], kind: str) -> Manifest:
    """The only manifest of a kind."""
    (found,) = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def problems(manifests: list[Manifest], versions: tuple[str, ...] = KUBERNETES) -> Iterator[str]:
    """All errors of a rendered injector."""
    for manifest in manifests:
        if manifest["apiVersion"] in CUSTOM:
            continue
        try:
            validate(manifest, versions)
        except Exception as error:
            yield f"{manifest['kind']}: {error}"
    namespaces = {m["metadata"].get("namespace") for m in manifests} - {None}
    if len(namespaces) != 1:
        yield f"more than one namespace: {sorted(namespaces)}"
        return
    namespace = namespaces.pop()
    declared = [m["metadata"]["name"] for m in manifests if m["kind"] == "Namespace"]
    if declared and declared != [namespace]:
        yield f"the namespace is {declared}, the objects are in {namespace}"
    for manifest in manifests:
        yield from (f"{manifest['kind']}: API servers drop {path}" for path in _dropped(manifest))
    kinds = {manifest["kind"] for manifest in manifests}
    if found := kinds & {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}:
        yield f"RBAC: {sorted(found)}"
    yield from _workload(manifests)
    yield from _network(manifests)
    yield from _webhook(one(manifests, "MutatingWebhookConfiguration"), one(manifests, "Service"), namespace)
    yield from _certificate(manifests, f"{OURS}.{namespace}.svc", namespace)


def _dropped(node: Any, path: str = "") -> Iterator[str]:
    """The empty values of a manifest. API servers do not store them, so every diff would show them."""
    if node is None or node == []:
        yield path.removeprefix(".")
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in entries:
        yield from _dropped(value, f"{path}.{key}")


def _workload(manifests: list[Manifest]) -> Iterator[str]:
    deployment, account = one(manifests, "Deployment"), one(manifests, "ServiceAccount")
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    if deployment["spec"]["replicas"] < 2 or "topologySpreadConstraints" not in spec:
        yield "not highly available"
    if (
        account.get("automountServiceAccountToken") is not False
        or spec.get("automountServiceAccountToken") is not False
    ):
        yield "a token is mounted"
    context = container["securityContext"]
    closed = {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
    }
    if not closed.items() <= context.items() or context["capabilities"] != {"drop": ["ALL"]}:
        yield "the securityContext is open"
    if set(container["resources"]) != {"requests", "limits"}:
        yield "no resources"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        get = container[probe]["httpGet"]
        path = "/readyz" if probe == "readinessProbe" else "/healthz"
        if (get["path"], get["scheme"], get["port"] in ports) != (path, "HTTPS", True):
            yield f"{probe} asks for {get}"
    env = {entry["name"]: entry["value"] for entry in container["env"]}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    if any("subPath" in mount for mount in mounts.values()):
        yield "a mount with subPath is never renewed"
    config = one(manifests, "ConfigMap")["data"]["injector.yaml"]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(config)
        file.flush()
        options = InjectorOptions.load(
            ["--config", file.name], {k: v for k, v in env.items() if k != "INJECTOR_CONFIG"}
        )
    if options.port not in ports.values():
        yield f"the injector listens on {options.port}, the container says {ports}"
    if (
        str(Path(env["INJECTOR_CONFIG"]).parent) not in mounts
        or str(Path(str(options.tls_cert_file)).parent) not in mounts
    ):
        yield "configuration or certificate is not mounted where the injector looks"
    if options.stop_delay_ms >= 1000 * spec["terminationGracePeriodSeconds"]:
        yield "the grace period ends before the stop delay"


def _network(manifests: list[Manifest]) -> Iterator[str]:
    template = one(manifests, "Deployment")["spec"]["template"]
    labels = template["metadata"]["labels"].items()
    ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    service, policy = one(manifests, "Service")["spec"], one(manifests, "NetworkPolicy")["spec"]
    for what, selector in (
        ("Service", service["selector"]),
        ("PodDisruptionBudget", one(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"]),
        ("NetworkPolicy", policy["podSelector"]["matchLabels"]),
        ("Deployment", one(manifests, "Deployment")["spec"]["selector"]["matchLabels"]),
    ):
        if not selector or not selector.items() <= labels:
            yield f"{what} selects other pods"
    if service["ports"][0]["targetPort"] not in ports:
        yield "the Service's targetPort is no port of the container"
    if [set(rule) for rule in policy["ingress"]] != [{"ports"}] or policy["ingress"][0]["ports"][0][
        "port"
    ] not in ports:
        yield "the API server is no pod: ingress must have the webhook's port, without from"
    if "egress" in policy or set(policy["policyTypes"]) != {"Ingress", "Egress"}:
        yield "egress is open"
    if dict(labels).get("tcp-sniffer/inject") != "false":
        yield "the injector's own pods do not opt out"


EXPLICIT = {
    "name",
    "admissionReviewVersions",
    "clientConfig",
    "failurePolicy",
    "matchPolicy",
    "reinvocationPolicy",
    "sideEffects",
    "timeoutSeconds",
    "rules",
    "namespaceSelector",
    "objectSelector",
}
RULES = [
    {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "scope": "Namespaced"}
]


def _webhook(configuration: Manifest, service: Manifest, namespace: str) -> Iterator[str]:
    expected = {"/mutate/namespace": ("In", "NotIn", "false"), "/mutate": ("NotIn", "In", "true")}
    for webhook in configuration["webhooks"]:
        name = webhook["name"]
        client = webhook["clientConfig"]["service"]
        if set(webhook) != EXPLICIT:
            yield f"{name}: not every field is explicit: {sorted(EXPLICIT ^ set(webhook))}"
        if client["name"] != service["metadata"]["name"] or client["namespace"] != namespace:
            yield f"{name}: no such service: {client}"
        if client["port"] not in [port["port"] for port in service["spec"]["ports"]] or client["path"] not in PATHS:
            yield f"{name}: no such port or path: {client}"
        if webhook["rules"] != RULES or webhook["admissionReviewVersions"] != ["v1"]:
            yield f"{name}: other rules than the creation of pods"
        settings = tuple(webhook[key] for key in ("sideEffects", "reinvocationPolicy", "matchPolicy"))
        if settings != ("None", "IfNeeded", "Equivalent") or not 1 <= webhook["timeoutSeconds"] <= 10:
            yield f"{name}: {settings}"
        by_namespace = {
            e["key"]: (e["operator"], e["values"]) for e in webhook["namespaceSelector"]["matchExpressions"]
        }
        (by_pod,) = webhook["objectSelector"]["matchExpressions"]
        namespaces, pods, value = expected.pop(client["path"], ("", "", ""))
        if by_namespace["tcp-sniffer/inject"] != (namespaces, ["true"]):
            yield f"{name}: namespaces by {by_namespace['tcp-sniffer/inject']}"
        if (by_pod["key"], by_pod["operator"], by_pod["values"]) != ("tcp-sniffer/inject", pods, [value]):
            yield f"{name}: pods by {by_pod}"
        operator, excluded = by_namespace["kubernetes.io/metadata.name"]
        if operator != "NotIn" or not {"kube-system", "kube-public", "kube-node-lease", namespace} <= set(excluded):
            yield f"{name}: a namespace is not excluded: {excluded}"
        if by_namespace["pod-security.kubernetes.io/enforce"] != ("NotIn", ["baseline", "restricted"]):
            yield f"{name}: Pod Security would refuse pods"
    if expected:
        yield f"no entry calls {sorted(expected)}"


def _certificate(manifests: list[Manifest], name: str, namespace: str) -> Iterator[str]:
    configuration = one(manifests, "MutatingWebhookConfiguration")
    (volume,) = [v for v in one(manifests, "Deployment")["spec"]["template"]["spec"]["volumes"] if "secret" in v]
    for manifest in manifests:
        if manifest["kind"] == "Certificate" and not manifest["spec"].get("isCA"):
            if name not in manifest["spec"]["dnsNames"]:
                yield f"the certificate is not for {name}"
            if manifest["spec"]["secretName"] != volume["secret"]["secretName"]:
                yield "the Certificate's Secret is not the one that is mounted"
            reference = configuration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"]
            if reference != f"{namespace}/{manifest['metadata']['name']}":
                yield f"the CA is taken from {reference}"
        if manifest["kind"] == "Secret":
            if manifest["metadata"]["name"] != volume["secret"]["secretName"]:
                yield "the Secret is not the one that is mounted"
            for webhook in configuration["webhooks"]:
                bundle = base64.b64decode(webhook["clientConfig"]["caBundle"]).decode("ascii")
                certificate, key = (base64.b64decode(manifest["data"][f"tls.{part}"]) for part in ("crt", "key"))
                yield from shows(bundle, certificate, key, name)


def shows(bundle: str, certificate: bytes, key: bytes, name: str) -> Iterator[str]:
    """Why a client that trusts `bundle` would refuse that certificate for that name."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "crt").write_bytes(certificate)
        (Path(folder) / "key").write_bytes(key)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(Path(folder) / "crt", Path(folder) / "key")
    client = ssl.create_default_context(cadata=bundle)
    here, there = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(here, there, server_hostname=name), server.wrap_bio(there, here, server_side=True)]
    try:
        for end in ends * 3:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    except ssl.SSLError as error:
        yield f"the API server would refuse the certificate: {error}"


if __name__ == "__main__":
    found = list(problems(load(sys.stdin.read())))
    print("\n".join(found) or "no problems")
    sys.exit(1 if found else 0)
