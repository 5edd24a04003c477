"""The two stages. Each leaves the cluster as it was."""

from __future__ import annotations

import base64
import copy
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme
import yaml

from tests.e2e.cluster import (
    Cluster,
    Failed,
    Manifest,
    Refused,
    container_in,
    differences,
    exchange,
    expect,
    messages_in,
    script,
    watches,
    wrong_with,
)

ROOT = Path(__file__).parents[2]
KUSTOMIZE = ROOT / "deploy/kustomize"
INJECTOR, NAMESPACE, SAMPLE = "tcp-sniffer-injector", "tcp-sniffer", "tcp-sniffer-sample"
PLAIN, OPTED_IN, RESTRICTED = "tcp-sniffer-e2e", "tcp-sniffer-e2e-in", "tcp-sniffer-e2e-restricted"
IN, OUT = {"tcp-sniffer/inject": "true"}, {"tcp-sniffer/inject": "false"}
ENFORCE = {"pod-security.kubernetes.io/enforce": "restricted"}

Say = Callable[[str], None]


def pod(name: str, namespace: str, labels: dict[str, str] | None = None, **spec: Any) -> Manifest:
    """A pod that every Pod Security level accepts. Nothing in it has to run."""
    annotations = spec.pop("annotations", {})
    owners = spec.pop("owners", [])
    closed = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "runAsUser": 65535,
    }
    container = {"name": "app", "image": "registry.k8s.io/pause:3.10", "securityContext": closed}
    container["securityContext"] = {**closed, "seccompProfile": {"type": "RuntimeDefault"}}
    metadata = {"name": name, "namespace": namespace, "labels": labels or {}, "annotations": annotations}
    if owners:
        metadata["ownerReferences"] = owners
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container], **spec}}


@dataclass(frozen=True)
class Case:
    """A pod and the expected result: the list that holds the container (None: not injected), and values of its env."""

    pod: Manifest
    expected: str | None
    env: dict[str, str] = field(default_factory=dict)
    dry_run: bool = False


_JOB = {"apiVersion": "batch/v1", "kind": "Job", "name": "none", "uid": "8d3bb1cb-2a75-4ac4-a4e7-0ab3a4a3e8fd"}
CASES = (
    Case(
        pod("label", PLAIN, IN),
        "containers",
        {"PORTS": "8080", "OUTPUT_STDOUT": "true", "DRAIN_TIMEOUT_MS": "25000"},
    ),
    Case(pod("no-label", PLAIN), None),
    Case(pod("out", PLAIN, OUT), None),
    Case(pod("namespace", OPTED_IN), "containers"),
    Case(pod("namespace-out", OPTED_IN, OUT), None),
    Case(pod("both", OPTED_IN, IN), "containers"),
    Case(pod("dry-run", PLAIN, IN), "containers", dry_run=True),
    Case(pod("grace", PLAIN, IN, terminationGracePeriodSeconds=12), "containers", {"DRAIN_TIMEOUT_MS": "7000"}),
    Case(pod("ports", PLAIN, IN, annotations={"tcp-sniffer/ports": "80,81"}), "containers", {"PORTS": "80,81"}),
    Case(
        pod("url", PLAIN, IN, annotations={"tcp-sniffer/output-url": "https://collector.example/"}),
        "containers",
        {"OUTPUT_URL": "https://collector.example/"},
    ),
    Case(
        pod(
            "spool",
            PLAIN,
            IN,
            annotations={"tcp-sniffer/output-url": "https://collector.example/", "tcp-sniffer/spool": "64Mi"},
        ),
        "containers",
        {"SPOOL_SIZE": str(64 << 20)},
    ),
    Case(pod("invalid", PLAIN, IN, annotations={"tcp-sniffer/ports": "none"}), None),
    Case(
        pod("native", PLAIN, IN, annotations={"tcp-sniffer/native-sidecar": "true"}),
        "initContainers",
        {"STOP_DELAY_MS": "0"},
    ),
    # a dry run, since a pod whose owner does not exist is deleted at once
    Case(pod("job", PLAIN, IN, owners=[_JOB]), "initContainers", dry_run=True),
    Case(pod("workflow", PLAIN, IN | {"workflows.argoproj.io/workflow": "none"}), "initContainers"),
    Case(
        pod("reference", PLAIN, IN, annotations={"tcp-sniffer/interface": "$(PORTS)"}),
        "containers",
        {"INTERFACE": "$$(PORTS)"},
    ),
    Case(pod("namespace-no", OPTED_IN, {"tcp-sniffer/inject": "False"}), None),
    Case(pod("windows", PLAIN, IN, nodeSelector={"kubernetes.io/os": "windows"}), None),
    Case(pod("host-network", PLAIN, IN, hostNetwork=True), None),
    Case(pod("restricted", RESTRICTED, IN), None),
)


def with_account(name: str, labels: dict[str, str]) -> list[Manifest]:
    """A namespace, with the service account that pods need, for clusters where no controller makes it."""
    account = {"name": "default", "namespace": name}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account},
    ]


def namespaces() -> list[Manifest]:
    """The namespaces that the stage makes."""
    labels = {PLAIN: {}, OPTED_IN: IN, RESTRICTED: ENFORCE}
    return [one for name, of_name in labels.items() for one in with_account(name, of_name)]


def configuration_for(url: str, bundle: str) -> Manifest:
    """The shipped webhook configuration, pointed at a server outside of the cluster."""
    made: Manifest = yaml.safe_load((KUSTOMIZE / "base/webhook.yaml").read_text())
    for webhook in made["webhooks"]:
        path = webhook["clientConfig"]["service"]["path"]
        webhook["clientConfig"] = {"url": url + path, "caBundle": bundle}
    return made


@dataclass
class Installed:
    """An injector that the API server calls, and a function that removes it."""

    stop: Callable[[], None]


@contextmanager
def outside(cluster: Cluster, host: str, *arguments: str) -> Iterator[Installed]:
    """Runs the injector as a process on this machine, which the API server reaches as `host`. Needs no nodes."""
    authority = trustme.CA()
    made = authority.issue_cert(host)
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        certificate, key = Path(folder) / "tls.crt", Path(folder) / "tls.key"
        certificate.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
        key.write_bytes(made.private_key_pem.bytes())
        command = [sys.executable, "-m", "sniffer.injector", "--port", str(port), "--stop-delay-ms", "0"]
        command += ["--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--log-level", "error", *arguments]
        environ = {
            name: value for name, value in os.environ.items() if not name.startswith(("INJECTOR_", "TCP_SNIFFER_"))
        }
        process = stack.enter_context(subprocess.Popen(command, cwd=ROOT, env=environ))

        def stop() -> None:
            process.terminate()
            process.wait(30)

        stack.callback(stop)
        bundle = base64.b64encode(authority.cert_pem.bytes()).decode("ascii")
        cluster.apply([configuration_for(f"https://{host}:{port}", bundle)])
        stack.callback(cluster.delete, "mutatingwebhookconfiguration", INJECTOR)
        yield Installed(stop)


@contextmanager
def inside(cluster: Cluster, image: str) -> Iterator[Installed]:
    """Runs the injector in the cluster, by the self-signed overlay."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        copied = shutil.copytree(KUSTOMIZE, Path(folder) / "kustomize")
        overlay = copied / "overlays/self-signed"
        script(str(overlay / "generate.sh"))
        name, _, tag = image.rpartition(":")
        with (overlay / "kustomization.yaml").open("a") as file:
            file.write(f'images:\n  - name: tcp-sniffer\n    newName: "{name}"\n    newTag: "{tag}"\n')
        config = copied / "base/configmap.yaml"
        config.write_text(config.read_text().replace("tcp-sniffer:latest", image))
        stack.callback(cluster.delete, "namespace", NAMESPACE, wait=True)
        stack.callback(cluster.delete, "mutatingwebhookconfiguration", INJECTOR)
        cluster.run("apply", "--kustomize", str(overlay))
        cluster.run("rollout", "status", f"deployment/{INJECTOR}", "--namespace", NAMESPACE, "--timeout=180s")

        def stop() -> None:
            cluster.run("scale", f"deployment/{INJECTOR}", "--namespace", NAMESPACE, "--replicas=0")
            selector = f"app.kubernetes.io/name={INJECTOR}"
            cluster.run(
                "wait", "pod", "--selector", selector, "--namespace", NAMESPACE, "--for=delete", "--timeout=120s"
            )

        yield Installed(stop)


def injection(cluster: Cluster, installed: AbstractContextManager[Installed], say: Say) -> None:
    """Checks stored pods: opt-in, opt-out, annotations, modes, dry run, and a pod made while the injector is down."""
    with ExitStack() as stack:
        stack.callback(cluster.remove_namespaces, [PLAIN, OPTED_IN, RESTRICTED])
        cluster.apply(namespaces())
        running = stack.enter_context(installed)
        probe = pod("probe", PLAIN, IN)
        expect(lambda: container_in(cluster.create(probe, dry_run=True)) is not None, "the webhook is called", 60)
        stored = {}
        for case in CASES:
            name = case.pod["metadata"]["name"]
            try:
                stored[name] = cluster.create(case.pod, dry_run=case.dry_run)
            except Refused as error:
                raise Failed(f"pod {name} was refused: {error}") from error
            if problems := differences(stored[name], case.expected, case.env):
                raise Failed(f"pod {name}: {'; '.join(problems)}")
            say(f"ok  {name}: {case.expected or 'bare'}")
        graces = [stored[name]["spec"]["terminationGracePeriodSeconds"] for name in ("label", "grace")]
        if graces != [30, 12]:
            raise Failed(f"grace periods are {graces}, not [30, 12]")
        say("ok  grace periods: 30 by default, 12 as given")
        again = copy.deepcopy(CASES[0].pod)
        again["metadata"]["name"] = "again"
        again["spec"] = stored["label"]["spec"]  # with the volumes that the API server adds
        if problems := differences(cluster.create(again, dry_run=True), "containers", {}):
            raise Failed(f"a pod with the container: {'; '.join(problems)}")
        say("ok  a pod that has the container gets no second one")
        running.stop()
        if problems := differences(cluster.create(pod("down", PLAIN, IN)), None, {}):
            raise Failed(f"while the injector is down: {'; '.join(problems)}")
        say("ok  while the injector is down, pods start without the container")


VISITS = 10


def traffic(cluster: Cluster, installed: AbstractContextManager[Installed], image: str, say: Say) -> None:
    """Checks captured messages: the sample's exchanges at the collector and in logs. A Job completes, a stop drains."""
    with ExitStack() as stack:
        stack.enter_context(installed)
        stack.callback(cluster.remove_namespaces, [SAMPLE])
        rendered = cluster.run("kustomize", str(ROOT / "deploy/sample"))
        manifests = [one for one in yaml.safe_load_all(rendered.replace("tcp-sniffer:latest", image)) if one]
        (job,) = [one for one in manifests if one["kind"] == "Job"]
        cluster.apply(one for one in manifests if one["kind"] != "Job")
        for name in ("collector", "echo"):
            cluster.run("rollout", "status", f"deployment/{name}", "--namespace", SAMPLE, "--timeout=180s")
        # a rollout does not wait for the sniffer, since it has no readiness probe
        expect(lambda: watches(cluster.logs("deployment/echo", SAMPLE, "tcp-sniffer")), "the sniffer watches")
        cluster.apply([job])
        cluster.run("wait", "job/visit", "--namespace", SAMPLE, "--for=condition=complete", "--timeout=180s")
        say("ok  a Job with the container completes")

        def collected() -> list[Manifest]:
            return messages_in(cluster.logs("deployment/collector", SAMPLE, "collector"))

        paths = [f"/visit/{number}" for number in range(VISITS)]
        expect(lambda: all(exchange(collected(), "POST", path) for path in paths), "all exchanges are at the collector")
        for path in paths:
            if problems := wrong_with(exchange(collected(), "POST", path), "hello", 200):
                raise Failed(f"at the collector, {path}: {'; '.join(problems)}")
        say("ok  method, path, status and body of each exchange at the collector")
        logged = messages_in(cluster.logs(cluster.completed_pod("visit", SAMPLE), SAMPLE, "tcp-sniffer"))
        for path in paths:
            if problems := wrong_with(exchange(logged, "POST", path), "hello", 200):
                raise Failed(f"in the log of the Job's container, {path}: {'; '.join(problems)}")
        say("ok  the same in the log of a container without OUTPUT_URL, from the Job's first request on")
        before = len(collected())
        last = copy.deepcopy(job)
        last["metadata"]["name"] = "last"
        cluster.apply([last])
        cluster.run("wait", "job/last", "--namespace", SAMPLE, "--for=condition=complete", "--timeout=180s")
        cluster.run("delete", "pod", "--selector", "app=echo", "--namespace", SAMPLE, "--wait=true")
        expect(lambda: len(collected()) >= before + 2 * VISITS, "what was captured last is delivered by the stop", 30)
        say("ok  a stop delivers what was captured last")
