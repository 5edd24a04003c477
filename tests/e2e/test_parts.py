"""The parts of the end-to-end test that need no cluster, and its first stage against a stand-in for one."""

from __future__ import annotations

import asyncio
import copy
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import __main__ as command
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
from tests.e2e.stages import CASES, IN, OPTED_IN, PLAIN, configuration_for, injection, inside, namespaces, outside, pod
from tests.e2e.verdicts import POLICIES, verdicts
from tests.injector.apiserver import HARMLESS, VERDICTS, ApiServer, Verdict
from tests.injector.manifests import kustomize, one, problems
from tests.injector.pods import answered, kubectl, validate
from tests.waiting import listens, wait_until


class StandIn(Cluster):
    """Creates pods as an API server does that has the applied webhook configuration."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[tuple[str, str], Manifest] = {}
        self.tamper: Any = None
        self.runner = asyncio.Runner()

    def has_nodes(self) -> bool:
        return False

    def exists(self, kind: str, name: str) -> bool:
        return any(known.lower() == kind and named == name for known, named in self.objects)

    def apply(self, manifests: Any) -> None:
        for manifest in manifests:
            validate(manifest, ("1.33",))
            self.objects[manifest["kind"], manifest["metadata"]["name"]] = manifest

    def delete(self, kind: str, name: str, namespace: str | None = None, *, wait: bool = False) -> None:
        self.objects = {key: value for key, value in self.objects.items() if (key[0].lower(), key[1]) != (kind, name)}

    def create(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        applied = [one for (kind, _), one in self.objects.items() if kind == "MutatingWebhookConfiguration"]
        namespace = manifest["metadata"]["namespace"]
        labels = self.objects["Namespace", namespace]["metadata"]["labels"]
        server = ApiServer({"webhooks": [hook for one in applied for hook in one["webhooks"]]}, ("127.0.0.1", 0))
        outcome = self.runner.run(server.create(copy.deepcopy(manifest), labels, namespace=namespace, dry_run=dry_run))
        if outcome.pod is None:
            raise Refused(outcome.why.replace(Verdict.ERROR, "Error from server (InternalError)"))
        if self.tamper is not None:
            self.tamper(outcome.pod)
        return outcome.pod


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    """A stand-in for a cluster, in which nothing is yet."""
    made = StandIn()
    with made.runner:
        yield made


def test_the_first_stage(stand_in: StandIn) -> None:
    """Against a stand-in that judges as an API server does, every case of the first stage holds; it cleans up."""
    said: list[str] = []
    injection(stand_in, outside(stand_in, "127.0.0.1"), said.append)
    assert len(said) == len(CASES) + 3
    assert not [key for key in stand_in.objects if key[0] != "ServiceAccount"]


@pytest.mark.slow
def test_the_verdicts(stand_in: StandIn) -> None:
    """Against the stand-in, which judges by the table itself, every row comes out as the table says; it cleans up."""
    said: list[str] = []
    verdicts(stand_in, "127.0.0.1", said.append)
    assert len(said) == len(POLICIES) * (len(VERDICTS) + len(HARMLESS) + 2)
    assert not [key for key in stand_in.objects if key[0] != "ServiceAccount"]


@pytest.mark.slow
def test_a_verdict_that_is_another(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an API server judges otherwise than the table, the stage fails and names the rows."""
    real = StandIn.create

    def lenient(self: StandIn, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        try:
            return real(self, manifest, dry_run=dry_run)
        except Refused as error:
            if "denied" in str(error):
                return manifest
            raise

    monkeypatch.setattr(StandIn, "create", lenient)
    with pytest.raises(Failed, match=r"^denied under Ignore is bare, not refused$"):
        verdicts(stand_in, "127.0.0.1", lambda _: None)


def test_the_first_stage_finds_what_is_wrong(stand_in: StandIn) -> None:
    """Where a stored pod is not as expected the stage fails and names the pod, and cleans up all the same."""

    def lose_ports(stored: Manifest) -> None:
        found = container_in(stored)
        if found:
            found[1]["env"] = [entry for entry in found[1]["env"] if entry["name"] != "PORTS"]

    stand_in.tamper = lose_ports
    with pytest.raises(Failed, match="pod label: PORTS is None"):
        injection(stand_in, outside(stand_in, "127.0.0.1"), lambda _: None)
    assert not [key for key in stand_in.objects if key[0] != "ServiceAccount"]


@pytest.mark.skipif(kubectl() is None or shutil.which("openssl") is None, reason="kubectl or openssl is not present")
def test_the_injector_inside() -> None:
    """What is applied for an injector in the cluster is whole, has the image in both places, and is taken away."""
    applied: list[Manifest] = []
    told: list[tuple[str, ...]] = []

    class Recording(Cluster):
        def run(self, *arguments: str, given: str | None = None, check: bool = True) -> str:
            told.append(arguments)
            if arguments[:2] == ("apply", "--kustomize"):
                applied.extend(kustomize(Path(arguments[2])))
            return ""

    with inside(Recording(), "registry.example:5000/s:1") as installed:
        assert list(problems(applied, ("1.33",))) == []
        (container,) = one(applied, "Deployment")["spec"]["template"]["spec"]["containers"]
        assert container["image"] == "registry.example:5000/s:1"
        assert "snifferImage: registry.example:5000/s:1\n" in one(applied, "ConfigMap")["data"]["injector.yaml"]
        installed.stop()
    assert [arguments[:3] for arguments in told[-2:]] == [
        ("delete", "mutatingwebhookconfiguration", "tcp-sniffer-injector"),
        ("delete", "namespace", "tcp-sniffer"),
    ]


@pytest.mark.slow
def test_what_is_applied_is_valid() -> None:
    """Namespaces, cases and the configuration for a server outside fit the schemas."""
    for manifest in [*namespaces(), configuration_for("https://10.0.0.1:8443", "QQ=="), *(case.pod for case in CASES)]:
        validate(manifest)
    assert len({case.pod["metadata"]["name"] for case in CASES}) == len(CASES)


def test_differences() -> None:
    """Each thing that can be wrong with a stored pod is named."""
    good = answered(pod("a", PLAIN, IN))[2]
    assert differences(good, "containers", {"PORTS": "8080"}) == []
    assert differences(good, None, {}) == ["the container is in containers, not in None"]
    assert differences(good, "containers", {"PORTS": "1"}) == ["PORTS is '8080', not '1'"]
    bad = copy.deepcopy(good)
    found = container_in(bad)
    assert found is not None
    found[1]["restartPolicy"] = "Always"
    found[1]["securityContext"]["capabilities"]["add"].append("NET_ADMIN")
    del bad["spec"]["terminationGracePeriodSeconds"]
    assert len(differences(bad, "containers", {})) == 3
    bad["spec"]["initContainers"] = [{"name": "tcp-sniffer"}]
    with pytest.raises(Failed, match="has 2 containers"):
        container_in(bad)
    assert container_in(pod("b", OPTED_IN)) is None


def message(direction: str, **fields: Any) -> Manifest:
    return {
        "schema": 1,
        "direction": direction,
        "connectionId": "c",
        "exchange": 0,
        "method": "POST",
        "path": "/a",
        **fields,
    }


ECHOED = json.dumps({"method": "POST", "path": "/a", "body": "hello"})
PAIR = (message("request", body="hello"), message("response", statusCode=200, body=ECHOED))


def test_messages_are_found_among_log_lines() -> None:
    """Messages are told from log lines."""
    lines = ['{"level": "info", "message": "x"}', json.dumps(PAIR[0]), json.dumps(PAIR[1]), ""]
    assert messages_in("\n".join(lines)) == list(PAIR)


@pytest.mark.parametrize(
    "line",
    ["not json", "[1]", "{}", json.dumps(PAIR[0])[:-1], json.dumps(PAIR[0]) * 2, "Traceback (most recent call last):"],
)
def test_a_line_that_cannot_be_read_is_a_failure(line: str) -> None:
    """A line that was cut, merged with another or is something else is named: what it held would not be missed."""
    with pytest.raises(Failed, match="line 2 of a log cannot be read"):
        messages_in("\n".join([json.dumps(PAIR[1]), line]))


def test_a_sniffer_that_watches() -> None:
    """The line `started` says that the capture is open; one that waits has none."""
    started = json.dumps({"level": "info", "message": "started"})
    assert watches("\n".join([json.dumps({"level": "warning", "message": "x"}), started]))
    assert not watches(json.dumps({"level": "error", "message": "capture cannot be opened"}))


def recorded(answers: dict[str, str]) -> tuple[Cluster, list[str]]:
    """A cluster that answers by the first words of what kubectl is told, and what it was told."""
    told: list[str] = []

    class Recording(Cluster):
        def run(self, *arguments: str, given: str | None = None, check: bool = True) -> str:
            told.append(" ".join(arguments))
            return next((answer for start, answer in answers.items() if told[-1].startswith(start)), "")

    return Recording(), told


def test_namespaces_are_gone_at_the_end() -> None:
    """All are told to go first, and then each is waited for; without nodes there may be nobody to empty them."""
    cluster, told = recorded({"get nodes": "node/a\n"})
    cluster.remove_namespaces(["a", "b"])
    assert [line.split()[2] + line.rsplit("--wait")[1][:6] for line in told[1:]] == [
        "a=false",
        "b=false",
        "a=true ",
        "b=true ",
    ]
    cluster, told = recorded({})
    cluster.remove_namespaces(["a", "b"])
    assert [line.rsplit("--wait")[1] for line in told[1:]] == ["=false", "=false"]


def test_what_is_applied_races_with_no_controller() -> None:
    """Manifests are applied on the server's side, so that an account that a controller has made first is no error."""
    cluster, told = recorded({})
    cluster.apply(namespaces())
    assert "--server-side" in told[0]
    assert "--force-conflicts" in told[0]


def test_the_pod_of_a_job() -> None:
    """The log of a Job is that of the pod that has done its work, not that of a try that failed."""
    cluster, told = recorded({"get pods": "pod/visit-b\n"})
    assert cluster.completed_pod("visit", "there") == "pod/visit-b"
    assert "status.phase=Succeeded" in told[0]
    with pytest.raises(Failed, match="no pod of job visit"):
        recorded({})[0].completed_pod("visit", "there")


def test_a_script_that_fails_says_why(tmp_path: Path) -> None:
    """A program that fails or is absent is a failure in its own words, not a traceback."""
    script("/bin/sh", "-c", "true")
    for text, said in (
        ("echo no openssl >&2; exit 3", "no openssl"),
        ("echo lost; exit 1", "lost"),
        ("exit 4", "with 4"),
    ):
        with pytest.raises(Failed, match=f"/bin/sh: .*{said}"):
            script("/bin/sh", "-c", text)
    with pytest.raises(Failed, match="cannot be run: No such file"):
        script(str(tmp_path / "none"))


@pytest.mark.parametrize("error", [Failed("planted"), Refused("planted"), subprocess.TimeoutExpired("planted", 1)])
def test_a_failure_is_one_line(
    error: Exception, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever fails in a stage is told in a line, and the code is 1."""

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(command, "Cluster", lambda _: stand_in)
    monkeypatch.setattr(StandIn, "version", lambda _: "v1", raising=False)
    monkeypatch.setattr(shutil, "which", lambda _: "kubectl")
    monkeypatch.setattr(command, "run", fails)
    assert command.main([]) == 1
    (last,) = capsys.readouterr().out.splitlines()[-1:]
    assert last.startswith("FAILED  ")
    assert "planted" in last


def test_the_samples_collector_prints_whole_lines() -> None:
    """Messages of many connections at once are whole lines, each of them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = Path(__file__).parents[2] / "deploy/sample/collector.py"
    sent = [{"schema": 1, "direction": "request", "n": n, "body": "x" * (n * 37 % 9000)} for n in range(400)]

    def post(part: int) -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        for message in sent[part::8]:
            connection.request("POST", "/", json.dumps(message))
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 204
        connection.close()

    collector = [sys.executable, "-u", str(program), str(port)]
    with subprocess.Popen(collector, stdout=subprocess.PIPE, text=True) as process, ThreadPoolExecutor(9) as threads:
        assert process.stdout is not None
        reading = threads.submit(process.stdout.read)
        wait_until(lambda: listens(port), "the collector listens")
        for done in [threads.submit(post, part) for part in range(8)]:
            done.result()
        process.terminate()
        printed = messages_in(reading.result(20))
    assert sorted(printed, key=lambda one: int(one["n"])) == sent


def test_the_samples_visitor_waits(tmp_path: Path) -> None:
    """The visitor waits until somebody listens, so that its Job needs no second try."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    sample = Path(__file__).parents[2] / "deploy/sample"
    visit = [sys.executable, str(sample / "visit.py"), f"http://127.0.0.1:{port}", "1"]
    with subprocess.Popen(visit, stdout=subprocess.PIPE, text=True) as visitor:
        with pytest.raises(subprocess.TimeoutExpired):
            visitor.wait(1)
        with subprocess.Popen([sys.executable, str(sample / "echo.py"), str(port)]) as echo:
            assert visitor.wait(20) == 0
            echo.terminate()
        assert visitor.stdout is not None
        assert visitor.stdout.read().startswith("200 ")


def test_an_exchange() -> None:
    """A pair is found by method and path, connection and exchange."""
    assert exchange(PAIR, "POST", "/a") == PAIR
    assert exchange(PAIR, "GET", "/a") is None
    assert exchange([PAIR[0], message("response", exchange=1)], "POST", "/a") is None


@pytest.mark.parametrize(
    ("request_", "response"),
    [
        ({"body": "bye"}, {}),
        ({"incomplete": "gap"}, {}),
        ({}, {"statusCode": 500}),
        ({}, {"body": "{}"}),
        ({}, {"body": None}),
    ],
)
def test_a_wrong_exchange(request_: dict[str, Any], response: dict[str, Any]) -> None:
    """Each thing that can be wrong with an exchange is found."""
    assert wrong_with(PAIR, "hello", 200) == []
    assert len(wrong_with((PAIR[0] | request_, PAIR[1] | response), "hello", 200)) == 1
    assert wrong_with(None, "hello", 200) == ["the exchange is not there"]


def test_waiting_has_an_end() -> None:
    """What never comes is named."""
    tries = iter([False, True])
    expect(lambda: next(tries), "something", pause_s=0)
    with pytest.raises(Failed, match="not within 0 s: something"):
        expect(lambda: False, "something", seconds=0, pause_s=0)


@pytest.mark.parametrize(
    ("wanted", "nodes", "injector", "expected"),
    [
        ("all", True, None, [("injection", "inside"), ("traffic", "inside")]),
        ("all", True, "outside", [("injection", "outside"), ("traffic", "inside")]),
        ("all", False, None, [("injection", "outside")]),
        ("injection", False, None, [("injection", "outside")]),
        ("traffic", True, None, [("traffic", "inside")]),
        ("traffic", False, None, None),
        ("injection", False, "inside", None),
        ("verdicts", False, None, [("verdicts", "outside")]),
        ("verdicts", True, None, [("verdicts", "outside")]),
    ],
)
def test_stages(wanted: str, nodes: bool, injector: str | None, expected: list[tuple[str, str]] | None) -> None:
    """Without nodes only injection runs, with the injector outside; with nodes both, inside."""
    if expected is None:
        with pytest.raises(Failed):
            command.stages(wanted, nodes, injector)
    else:
        assert command.stages(wanted, nodes, injector) == expected


def test_it_touches_nothing_that_is_there(stand_in: StandIn) -> None:
    """Where an injector is installed already, the test refuses to run."""
    command.check_free(stand_in)
    stand_in.objects["Namespace", "tcp-sniffer"] = {}
    with pytest.raises(Failed, match="exists already"):
        command.check_free(stand_in)


def test_without_a_cluster_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without kubectl, or without a cluster, the code is 2 and the reason is printed."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert command.main([]) == 2
    monkeypatch.undo()

    def fails(*_: object, **__: object) -> str:
        raise Failed("kubectl get nodes: connection refused")

    monkeypatch.setattr(shutil, "which", lambda _: "kubectl")
    monkeypatch.setattr(Cluster, "run", fails)
    assert command.main([]) == 2
    assert "connection refused" in capsys.readouterr().out
