from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from hypothesis import given as over
from hypothesis import settings
from hypothesis import strategies as st

from sniffer.config import SnifferConfig
from sniffer.errors import ValidationError
from sniffer.injector import InjectorOptions, Reason, build_env, build_patch, build_sniffer_container
from sniffer.injector import patch as patch_module
from sniffer.injector.patch import Decision, OptedInBy, PatchError, apply
from sniffer.injector.values import SET_BY_INJECTOR
from tests.injector import pods as make
from tests.injector.expansion import environment_of, expand, mapping_for
from tests.injector.pods import IN, OUT, answered, env_of, of_job, pod, sniffer_of

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.yaml"))
GRACE = "/spec/terminationGracePeriodSeconds"


def paths(patch: list[dict[str, Any]]) -> list[str]:
    assert all(operation["op"] == "add" for operation in patch)
    return [operation["path"] for operation in patch]


def test_a_plain_pod_gets_two_operations() -> None:
    """By default: the container at the end of the containers, then the grace period; nothing else is written."""
    decision, patch, result = answered(pod())
    assert decision.reason == Reason.INJECTED
    assert paths(patch) == ["/spec/containers/-", GRACE]
    assert result["spec"]["terminationGracePeriodSeconds"] == 30
    assert [container["name"] for container in result["spec"]["containers"]] == ["app", "tcp-sniffer"]
    assert sniffer_of(result) == {
        "name": "tcp-sniffer",
        "image": "tcp-sniffer:latest",
        "imagePullPolicy": "IfNotPresent",
        "env": [
            {"name": "PORTS", "value": "8080"},
            {"name": "INTERFACE", "value": "eth0"},
            {"name": "OUTPUT_URL", "value": ""},
            {"name": "OUTPUT_STDOUT", "value": "true"},
            {"name": "OUTPUT_STDOUT_MAX_LINE", "value": "16000"},
            {"name": "MAX_BODY_SIZE", "value": "8192"},
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
            {"name": "NAMESPACE", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}},
            {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.nodeName"}}},
            {"name": "DRAIN_TIMEOUT_MS", "value": "25000"},
            {"name": "STOP_DELAY_MS", "value": "5000"},
            {"name": "ON_CAPTURE_ERROR", "value": "hold"},
        ],
        "resources": {"requests": {"memory": "256Mi", "cpu": "100m"}, "limits": {"memory": "512Mi", "cpu": "500m"}},
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "privileged": False,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


@pytest.mark.parametrize(
    ("grace", "drain_ms", "delay_ms"),
    [
        (45, 25000, 5000),
        (30, 25000, 5000),
        (20, 15000, 5000),
        (12, 7000, 3500),
        (7, 2000, 1000),
        (6, 1000, 500),
        (5, 1000, 500),
        (1, 1000, 500),
        (0, 1000, 500),
    ],
)
def test_a_grace_period_is_never_changed(grace: int, drain_ms: int, delay_ms: int) -> None:
    """A pod's own grace period g stays, 0 too: drain min(25, max(1, g - 5)) s, delay min(5 s, half the drain)."""
    _, patch, result = answered(pod(terminationGracePeriodSeconds=grace))
    assert paths(patch) == ["/spec/containers/-"]
    assert result["spec"]["terminationGracePeriodSeconds"] == grace
    env = env_of(sniffer_of(result))
    assert (env["DRAIN_TIMEOUT_MS"], env["STOP_DELAY_MS"]) == (str(drain_ms), str(delay_ms))


@pytest.mark.parametrize("spec", [{}, {"terminationGracePeriodSeconds": None}])
def test_a_missing_grace_period_is_the_option(spec: dict[str, None]) -> None:
    """Absent or null, the grace period becomes the option's, and the drain follows from that."""
    _, patch, result = answered(pod(**spec), InjectorOptions(termination_grace_period_seconds=12))
    assert paths(patch) == ["/spec/containers/-", GRACE]
    assert result["spec"]["terminationGracePeriodSeconds"] == 12
    assert env_of(sniffer_of(result))["DRAIN_TIMEOUT_MS"] == "7000"


def test_output_url() -> None:
    """With an OUTPUT_URL, from the option or the annotation, messages do not go to stdout."""
    for options, given in (
        (InjectorOptions(output_url="https://c.example/m"), None),
        (InjectorOptions(output_url="https://other.example/"), {"tcp-sniffer/output-url": "https://c.example/m"}),
        (InjectorOptions(), {"tcp-sniffer/output-url": "https://c.example/m"}),
    ):
        env = env_of(sniffer_of(answered(pod(given), options)[2]))
        assert env["OUTPUT_URL"] == "https://c.example/m"
        assert not {"OUTPUT_STDOUT", "OUTPUT_STDOUT_MAX_LINE", "MAX_BODY_SIZE"} & env.keys()


def test_ports_and_interface() -> None:
    """Annotations override PORTS and INTERFACE; an empty one is as good as none."""
    env = env_of(sniffer_of(answered(pod({"tcp-sniffer/ports": " 80, 9090 ", "tcp-sniffer/interface": "any"}))[2]))
    assert (env["PORTS"], env["INTERFACE"]) == ("80,9090", "any")
    options = InjectorOptions(default_ports=(81, 82), default_interface="lo")
    env = env_of(sniffer_of(answered(pod({"tcp-sniffer/ports": "", "tcp-sniffer/interface": " "}), options)[2]))
    assert (env["PORTS"], env["INTERFACE"]) == ("81,82", "lo")


def test_the_token_comes_from_a_secret() -> None:
    """The token is an optional reference to a Secret of the pod's namespace; no annotation names one."""
    options = InjectorOptions(output_url_auth_token_secret={"name": "tcp-sniffer-output-auth", "key": "token"})
    annotations = {"tcp-sniffer/output-url-auth-token": "hunter2", "tcp-sniffer/output-url-auth-token-secret": "x"}
    _, patch, result = answered(pod(annotations), options)
    (entry,) = [entry for entry in sniffer_of(result)["env"] if entry["name"] == "OUTPUT_URL_AUTH_TOKEN"]
    reference = {"name": "tcp-sniffer-output-auth", "key": "token", "optional": True}
    assert entry == {"name": "OUTPUT_URL_AUTH_TOKEN", "valueFrom": {"secretKeyRef": reference}}
    assert "hunter2" not in json.dumps(patch)
    assert "AUTH_TOKEN" not in json.dumps(answered(pod(annotations))[1])


def test_resources() -> None:
    """Each of the four on its own, by option and by annotation; none leaves it out, and all four the whole field."""
    options = InjectorOptions(resources={"requests": {"memory": "64Mi"}, "limits": {"cpu": None}})
    assert sniffer_of(answered(pod(), options)[2])["resources"] == {
        "requests": {"memory": "64Mi", "cpu": "100m"},
        "limits": {"memory": "512Mi"},
    }
    annotated = pod({"tcp-sniffer/resources": "limits.memory=1Gi, requests.cpu=none"})
    assert sniffer_of(answered(annotated, options)[2])["resources"] == {
        "requests": {"memory": "64Mi"},
        "limits": {"memory": "1Gi"},
    }
    every = ",".join(f"{side}.{kind}=none" for side in ("requests", "limits") for kind in ("memory", "cpu"))
    assert "resources" not in sniffer_of(answered(pod({"tcp-sniffer/resources": every}))[2])


def test_names_of_ones_own() -> None:
    """Image, container name and label may be others."""
    options = InjectorOptions(
        sniffer_image="registry.example/s@sha256:" + "0" * 64,
        sniffer_container_name="watch",
        inject_label_key="example.org/watch",
        inject_label_value="yes",
    )
    labelled = pod(labels={"example.org/watch": "yes"})
    container = sniffer_of(answered(labelled, options)[2], "watch")
    assert container["image"].startswith("registry.example/s@")
    assert answered(pod(), options)[0].reason == Reason.NOT_OPTED_IN
    assert answered(pod(labels={"example.org/watch": "false"}), options)[0].reason == Reason.OPTED_OUT


def test_production() -> None:
    """TCP_SNIFFER_PRODUCTION is passed on only where the injector runs with it."""
    assert env_of(sniffer_of(answered(pod(), InjectorOptions(production=True))[2]))["TCP_SNIFFER_PRODUCTION"] == "true"
    assert "TCP_SNIFFER_PRODUCTION" not in env_of(sniffer_of(answered(pod())[2]))


def test_run_as_root() -> None:
    """As root only the user changes; the rest stays closed. By option and annotation, which may also take it back."""
    closed = sniffer_of(answered(pod())[2])["securityContext"]
    for options, value in ((InjectorOptions(), "true"), (InjectorOptions(run_as_root=True), "")):
        context = sniffer_of(answered(pod({"tcp-sniffer/run-as-root": value}), options)[2])["securityContext"]
        assert context == {**closed, "runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": False}
    taken_back = answered(pod({"tcp-sniffer/run-as-root": "false"}), InjectorOptions(run_as_root=True))[2]
    assert sniffer_of(taken_back)["securityContext"] == closed


def test_further_variables() -> None:
    """Options of the sniffer stand behind the injector's own, and the sniffer reads them as they were checked."""
    given = {"EXCLUDE_PATHS": "/$(POD_NAME), /$$", "MAX_BODY_SIZE": "0", "METRICS_PORT": "9090"}
    options = InjectorOptions(sniffer_env=[{"name": name, "value": value} for name, value in given.items()])
    env = env_of(sniffer_of(answered(pod(), options)[2]))
    assert list(env)[-3:] == list(given)
    assert env["EXCLUDE_PATHS"] == "/$$(POD_NAME), /$$$$"  # a kubelet makes one of two, and expands none
    assert env["MAX_BODY_SIZE"] == "0"
    read = SnifferConfig.from_env({name: value.replace("$$", "$") for name, value in env.items()} | {"POD_NAME": "p"})
    assert (read.exclude_paths, read.max_body_size, read.metrics_port) == (("/$(POD_NAME)", "/$$"), 0, 9090)
    decision = answered(pod({"tcp-sniffer/ports": "80,9090"}), options)[0]
    assert decision.reason == Reason.INVALID_ANNOTATION
    assert decision.detail == "tcp-sniffer/ports does not go with sniffer_env: metrics_port must not be one of ports"


EXPANSIONS = [
    ("$(VAR)", "value"),
    ("$$(VAR)", "$(VAR)"),
    ("$$$(VAR)", "$value"),
    ("$$$$(VAR)", "$$(VAR)"),
    ("$(NONE)", "$(NONE)"),
    ("$(VAR", "$(VAR"),
    ("$()", "$()"),
    ("$($(VAR))", "$($(VAR))"),
    ("$VAR $ $$ a$", "$VAR $ $ a$"),
    ("$", "$"),
    ("$$", "$"),
    ("a$(VAR)b$(VAR)", "avaluebvalue"),
]


@pytest.mark.parametrize(("given", "expected"), EXPANSIONS)
def test_the_expansion_is_that_of_a_kubelet(given: str, expected: str) -> None:
    """The tests' own expansion does what Kubernetes' `expansion_test.go` says."""
    assert expand(given, mapping_for({"VAR": "value"})) == expected


REFERENCES = ["$(OUTPUT_URL_AUTH_TOKEN)", "$$(PORTS)", "$(", "$$(", "$$$(PORTS)$", "$($(PORTS))", "$", "$$", "a$b$$c"]


@pytest.mark.parametrize("text", REFERENCES)
def test_no_value_refers_to_a_variable(text: str) -> None:
    """Whatever an annotation or an option holds, the process gets just that: a kubelet puts nothing in its place."""
    path = f"/{text}"
    options = InjectorOptions(
        default_interface=text[:15],
        output_url_auth_token_secret={"name": "a", "key": "b"},
        sniffer_env=[{"name": "EXCLUDE_PATHS", "value": path}, {"name": "EXCLUDE_USER_AGENTS", "value": text}],
    )
    for given in ({}, {"tcp-sniffer/interface": text[:15]}, {"tcp-sniffer/interface": text[:15], "other": text}):
        container = sniffer_of(answered(pod(given), options)[2])
        read = environment_of(container, {"OUTPUT_URL_AUTH_TOKEN": "hunter2"})
        assert (read["INTERFACE"], read["EXCLUDE_PATHS"], read["EXCLUDE_USER_AGENTS"]) == (text[:15], path, text)
        assert not [name for name, value in read.items() if "hunter2" in value and name != "OUTPUT_URL_AUTH_TOKEN"]


@settings(max_examples=200, deadline=None)
@over(st.text(st.sampled_from("$()PORTSx"), max_size=12), st.booleans())
def test_every_text_comes_through_expansion(text: str, native: bool) -> None:
    """For every text of an option: what the process reads is what was checked, wherever its variable stands."""
    interface = "".join(text.split("/"))[:15] or "x"
    made = InjectorOptions(default_interface=interface, sniffer_env=[{"name": "EXCLUDE_PATHS", "value": "/" + text}])
    read = environment_of({"env": build_env(made, native=native)})
    assert (read["INTERFACE"], read["EXCLUDE_PATHS"]) == (interface, "/" + text)
    assert read["PORTS"] == "8080"


@pytest.mark.parametrize("path", ["$(POD_NAME)", "$$(POD_NAME)", "$(", "$$(X)", "?q=$(OUTPUT_URL_AUTH_TOKEN)", "#$(X)"])
def test_no_url_refers_to_a_variable(path: str) -> None:
    """A URL with what looks like a reference is refused, in the option and in the annotation, and is not quoted."""
    url = f"https://c.example/{path}"
    with pytest.raises(ValidationError, match=r"^output_url must not contain '\$\('") as raised:
        InjectorOptions(output_url=url)
    assert path not in str(raised.value).replace("'$('", "")
    decision, patch, _ = answered(pod({"tcp-sniffer/output-url": url}))
    assert (decision.reason, patch) == (Reason.INVALID_ANNOTATION, [])
    assert decision.detail.startswith("tcp-sniffer/output-url must not contain '$('")


@pytest.mark.parametrize("query", ["?$filter=a", "?a=$", "?a=$$", "?a=$$$x", "?a=%24(X)"])
def test_a_url_may_have_a_dollar(query: str) -> None:
    """A `$` that begins no reference is a URL's own, and reaches the sniffer as it is."""
    url = f"https://c.example/m{query}"
    for made, options in ((pod(), InjectorOptions(output_url=url)), (pod({"tcp-sniffer/output-url": url}), None)):
        assert environment_of(sniffer_of(answered(made, options)[2]))["OUTPUT_URL"] == url


def test_references_are_optional() -> None:
    """A Secret or ConfigMap that is missing never keeps a pod from starting."""
    where = {"name": "settings", "key": "k"}
    options = InjectorOptions(
        sniffer_env=[
            {"name": "EXCLUDE_PATHS", "valueFrom": {"configMapKeyRef": where}},
            {"name": "EXCLUDE_USER_AGENTS", "valueFrom": {"secretKeyRef": where}},
        ]
    )
    assert sniffer_of(answered(pod(), options)[2])["env"][-2:] == [
        {"name": "EXCLUDE_PATHS", "valueFrom": {"configMapKeyRef": {**where, "optional": True}}},
        {"name": "EXCLUDE_USER_AGENTS", "valueFrom": {"secretKeyRef": {**where, "optional": True}}},
    ]


def test_what_the_injector_sets() -> None:
    """The variables that cannot be given are those that some pod gets, and the one that a token would clash with."""
    every = InjectorOptions(
        production=True, output_url=URL, output_url_auth_token_secret={"name": "a", "key": "b"}, spool_size=64 << 20
    )
    names = {entry["name"] for options in (every, InjectorOptions()) for entry in build_env(options)}
    assert names - {"MAX_BODY_SIZE"} == SET_BY_INJECTOR - {"OUTPUT_URL_AUTH_TOKEN_FILE"}


URL = "https://c.example/m"
SPOOL = {"tcp-sniffer/output-url": URL, "tcp-sniffer/spool": "64Mi"}
VOLUME = {"name": "tcp-sniffer-spool", "emptyDir": {"sizeLimit": str((128 << 20) + (16 << 20))}}


@pytest.mark.parametrize(
    ("volumes", "path"),
    [
        ("absent", "/spec/volumes"),
        (None, "/spec/volumes"),
        ([], "/spec/volumes/-"),
        ([{"name": "a"}], "/spec/volumes/-"),
    ],
)
def test_spool(volumes: Any, path: str) -> None:
    """The annotation gives the container a spool on an emptyDir of its own, whose limit the spool never comes near."""
    spec = {} if volumes == "absent" else {"volumes": volumes}
    _, patch, result = answered(pod(SPOOL, **spec))
    assert paths(patch) == ["/spec/containers/-", path, GRACE]
    assert result["spec"]["volumes"] == [*(spec.get("volumes") or []), VOLUME]
    container = sniffer_of(result)
    assert container["volumeMounts"] == [{"name": "tcp-sniffer-spool", "mountPath": "/var/lib/tcp-sniffer/spool"}]
    env = env_of(container)
    assert (env["SPOOL_DIR"], env["SPOOL_SIZE"]) == ("/var/lib/tcp-sniffer/spool", str(64 << 20))
    config = SnifferConfig.from_env(
        {"PORTS": "80", "OUTPUT_URL": URL, **{k: env[k] for k in ("SPOOL_DIR", "SPOOL_SIZE")}}
    )
    assert (str(config.spool_dir), config.spool_size) == ("/var/lib/tcp-sniffer/spool", 64 << 20)
    assert answered(result)[0].reason == Reason.ALREADY_INJECTED


@pytest.mark.parametrize(
    ("option", "annotation", "size"),
    [
        (None, "true", 256 << 20),
        (None, "1Gi", 1 << 30),
        (None, "1048576", 1 << 20),
        (None, "none", None),
        (None, "", None),
        (64 << 20, "", 64 << 20),
        (64 << 20, "false", None),
        (64 << 20, "128Mi", 128 << 20),
    ],
)
def test_whether_there_is_a_spool(option: int | None, annotation: str, size: int | None) -> None:
    """The option says for all pods, the annotation for its own; yes is the sniffer's default size, no is none."""
    made = pod({"tcp-sniffer/spool": annotation})
    _, patch, result = answered(made, InjectorOptions(output_url=URL, spool_size=option))
    assert env_of(sniffer_of(result)).get("SPOOL_SIZE") == (None if size is None else str(size))
    assert ("volumes" in str(paths(patch))) is (size is not None)


def test_a_spool_of_the_pods_own() -> None:
    """A volume of that name that the pod has already is used as it is: so the pod may bring one that outlives it."""
    own = {"name": "tcp-sniffer-spool", "persistentVolumeClaim": {"claimName": "c"}}
    _, patch, result = answered(pod(SPOOL, volumes=[own]))
    assert paths(patch) == ["/spec/containers/-", GRACE]
    assert result["spec"]["volumes"] == [own]
    assert sniffer_of(result)["volumeMounts"][0]["name"] == "tcp-sniffer-spool"


def test_without_a_url_nothing_is_spooled() -> None:
    """The option waits for a pod that has an OUTPUT_URL; an annotation without one is a mistake."""
    options = InjectorOptions(spool_size=64 << 20)
    result = answered(pod(), options)[2]
    assert "volumes" not in result["spec"]
    assert "SPOOL_DIR" not in env_of(sniffer_of(result))
    decision = answered(pod({"tcp-sniffer/spool": "64Mi"}), options)[0]
    assert (decision.reason, decision.detail) == (
        Reason.INVALID_ANNOTATION,
        "tcp-sniffer/spool needs an output URL",
    )


@pytest.mark.parametrize(
    ("init", "path"),
    [
        ("absent", "/spec/initContainers"),
        (None, "/spec/initContainers"),
        ([], "/spec/initContainers/0"),
        ([{"name": "first", "image": "i"}], "/spec/initContainers/0"),
    ],
)
def test_native_sidecar(init: Any, path: str) -> None:
    """A native sidecar is the first init container, restarts always, has a startup probe and no stop delay."""
    spec = {} if init == "absent" else {"initContainers": init}
    _, patch, result = answered(pod(**spec), InjectorOptions(native_sidecar="always"))
    assert paths(patch) == [path, GRACE]
    container = result["spec"]["initContainers"][0]
    assert (container["name"], container["restartPolicy"]) == ("tcp-sniffer", "Always")
    assert env_of(container)["STOP_DELAY_MS"] == "0"
    assert container["startupProbe"] == {
        "exec": {"command": ["/bin/grep", "-q", "-F", "@tcp-sniffer/started", "/proc/net/unix"]},
        "periodSeconds": 1,
        "timeoutSeconds": 5,
        "failureThreshold": 60,
    }
    assert not {"readinessProbe", "livenessProbe", "ports"} & container.keys()
    assert len(result["spec"]["containers"]) == 1


def test_who_has_a_startup_probe() -> None:
    """Nobody waits for a regular container, nor for a native one that ends where it cannot capture."""
    assert "startupProbe" not in build_sniffer_container(InjectorOptions())
    assert "startupProbe" not in build_sniffer_container(InjectorOptions(on_capture_error="exit"), native=True)
    assert "startupProbe" in build_sniffer_container(InjectorOptions(), native=True)


@pytest.mark.parametrize(
    ("option", "annotation", "job", "expected"),
    [
        ("jobs", "", False, "regular"),
        ("jobs", "", True, "native"),
        ("jobs", "true", False, "native"),
        ("jobs", "false", True, "regular"),
        ("jobs", "always", False, "native"),
        ("jobs", "never", True, "regular"),
        ("never", "", False, "regular"),
        ("never", "", True, "skipped"),
        ("never", "true", True, "native"),
        ("never", "false", True, "regular"),
        ("never", "jobs", True, "native"),
        ("never", "jobs", False, "regular"),
        ("always", "", False, "native"),
        ("always", "", True, "native"),
        ("always", "false", False, "regular"),
    ],
)
def test_sidecar_mode(option: str, annotation: str, job: bool, expected: str) -> None:
    """The option decides by default, the annotation for its pod; never skips a Job's pod unless it is annotated."""
    made = pod({"tcp-sniffer/native-sidecar": annotation} if annotation else None)
    decision, patch, _ = answered(of_job(made) if job else made, InjectorOptions(native_sidecar=option))
    if expected == "skipped":
        assert (decision.reason, patch) == (Reason.JOB_WITHOUT_NATIVE_SIDECAR, [])
    else:
        assert paths(patch)[0] == {"regular": "/spec/containers/-", "native": "/spec/initContainers"}[expected]


OWNERS = [
    ("batch/v1", "Job"),
    ("argoproj.io/v1alpha1", "Workflow"),
    ("tekton.dev/v1", "TaskRun"),
    ("tekton.dev/v1beta1", "TaskRun"),
    ("tekton.dev/v1beta1", "PipelineRun"),
    ("batch.volcano.sh/v1alpha1", "Job"),
    ("sparkoperator.k8s.io/v1beta2", "SparkApplication"),
    ("spark.apache.org/v1", "SparkApplication"),
]
WAITED_FOR: list[dict[str, Any]] = [
    *(
        {"ownerReferences": [{"apiVersion": version, "kind": kind, "name": "w", "uid": "1"}]}
        for version, kind in OWNERS
    ),
    {"labels": {**IN, "workflows.argoproj.io/workflow": "w"}},
    {"labels": {**IN, "tekton.dev/taskRun": "w"}},
    {"labels": {**IN, "tekton.dev/pipelineRun": "w"}},
    {"labels": {**IN, "volcano.sh/job-name": "w"}},
    {"labels": {**IN, "spark-role": "driver"}},
    {
        "labels": {**IN, "spark-role": "executor"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "driver", "uid": "1"}],
    },
    {"labels": {**IN, "sparkoperator.k8s.io/app-name": "w"}},
]
NOT_WAITED_FOR: list[dict[str, Any]] = [
    {"ownerReferences": [{"apiVersion": version, "kind": kind, "name": "w", "uid": "1"}]}
    for version, kind in (
        ("apps/v1", "ReplicaSet"),
        ("apps/v1", "Job"),
        ("batch.example.org/v1", "Job"),
        ("argoproj.io/v1alpha1", "Rollout"),
        ("triggers.tekton.dev/v1", "TaskRun"),
        ("v1", "Pod"),
    )
]


@pytest.mark.parametrize("metadata", WAITED_FOR, ids=str)
def test_pods_of_controllers_that_wait_for_all_containers(metadata: dict[str, Any]) -> None:
    """Jobs, Argo, Tekton, Volcano and Spark, by owner or label, get the native sidecar, and with `never` none."""
    made = with_metadata(**metadata)
    assert sniffer_of(answered(made)[2])["restartPolicy"] == "Always"
    decision, patch, _ = answered(made, InjectorOptions(native_sidecar="never"))
    assert (decision.reason, patch) == (Reason.JOB_WITHOUT_NATIVE_SIDECAR, [])
    for blank in ("", " "):
        annotated = with_metadata(**metadata, annotations={"tcp-sniffer/native-sidecar": blank})
        assert answered(annotated, InjectorOptions(native_sidecar="never"))[0].reason == decision.reason


@pytest.mark.parametrize("metadata", NOT_WAITED_FOR, ids=str)
def test_pods_of_other_controllers(metadata: dict[str, Any]) -> None:
    """Neither a kind of another group nor another kind of the same is taken for one of them."""
    assert "restartPolicy" not in sniffer_of(answered(with_metadata(**metadata))[2])


def required(*terms: list[dict[str, Any]]) -> dict[str, Any]:
    """A required node affinity of these terms."""
    listed = [{"matchExpressions": expressions} if expressions else {} for expressions in terms]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": listed}}}


def of_os(operator: str, *values: str, key: str = "kubernetes.io/os") -> dict[str, Any]:
    return {"key": key, "operator": operator, "values": list(values)}


ZONE = {"key": "zone", "operator": "In", "values": ["a"]}
BETA = "beta.kubernetes.io/os"
BUILD = "node.kubernetes.io/windows-build"
ON_WINDOWS: list[dict[str, Any]] = [
    {"os": {"name": "windows"}},
    {"nodeSelector": {"kubernetes.io/os": "windows"}},
    {"nodeSelector": {BETA: "windows", "zone": "a"}},
    {"nodeSelector": {BUILD: "10.0.20348"}},
    {"affinity": required([of_os("In", "windows")])},
    {"affinity": required([ZONE, of_os("In", "windows", key=BETA)])},
    {"affinity": required([of_os("In", "windows")], [of_os("In", "windows"), ZONE])},
    {"affinity": required([of_os("NotIn", "linux")])},
    {"affinity": required([], [of_os("In", "windows")])},
    {"affinity": required([{"key": BUILD, "operator": "Exists"}])},
]
PREFERRED = {"weight": 1, "preference": {"matchExpressions": [of_os("In", "windows")]}}
NOT_ON_WINDOWS: list[dict[str, Any]] = [
    {"os": {"name": "linux"}},
    {"nodeSelector": {"kubernetes.io/os": "linux", "windows": "windows"}},
    {"affinity": required([of_os("In", "linux")])},
    {"affinity": required([of_os("In", "linux", "windows")])},
    {"affinity": required([of_os("In", "windows")], [ZONE])},
    {"affinity": required([of_os("NotIn", "windows")])},
    {"affinity": required([of_os("Exists")])},
    {"affinity": required([{"key": BUILD, "operator": "DoesNotExist"}])},
    {"affinity": required([of_os("In")])},
    {"affinity": required([])},
    {"affinity": required()},
    {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [PREFERRED]}}},
    {"affinity": {"nodeAffinity": None}},
    {"affinity": "odd"},
    {"tolerations": [{"key": "os", "value": "windows"}]},
]


@pytest.mark.parametrize("spec", ON_WINDOWS, ids=str)
def test_windows_pods_are_skipped(spec: dict[str, Any]) -> None:
    """A pod that can run on Windows alone, by os, node selector or required affinity, is skipped by name."""
    decision, patch, _ = answered(pod(**spec))
    assert (decision.reason, patch) == (Reason.WINDOWS, [])


@pytest.mark.parametrize("spec", NOT_ON_WINDOWS, ids=str)
def test_pods_that_may_run_on_linux_are_injected(spec: dict[str, Any]) -> None:
    """What only prefers Windows, tolerates it, or leaves Linux as a choice, gets the container."""
    assert answered(pod(**spec))[0].reason == Reason.INJECTED


@pytest.mark.parametrize("value", ["false", "False", "FALSE", "fAlSe", " false ", "False\t", False])
def test_no_in_any_case_opts_out(value: Any) -> None:
    """A pod's label `false`, however it is written, opts out, wherever the API server has matched."""
    made = pod(labels={"tcp-sniffer/inject": value})
    for opted_in_by in ("namespace", "pod"):
        decision, patch, _ = answered(made, opted_in_by=opted_in_by)
        assert (decision.reason, patch) == (Reason.OPTED_OUT, [])


def with_metadata(**metadata: Any) -> dict[str, Any]:
    made = pod()
    made["metadata"].update(metadata)
    return made


WINDOWS = {"name": "windows"}
NATIVE = {"name": "tcp-sniffer", "image": "i", "restartPolicy": "Always"}
IN_PRODUCTION = {"options": InjectorOptions(production=True)}
SKIPS: list[tuple[Reason, dict[str, Any], dict[str, Any]]] = [
    (Reason.NOT_OPTED_IN, pod(labels={}), {}),
    (Reason.NOT_OPTED_IN, pod(labels={"tcp-sniffer/inject": "yes"}), {}),
    (Reason.NOT_OPTED_IN, with_metadata(labels=None), {}),
    (Reason.NOT_OPTED_IN, {"spec": pod()["spec"]}, {}),
    (Reason.OPTED_OUT, pod(labels=OUT), {}),
    (Reason.ALREADY_INJECTED, pod(containers=[{"name": "tcp-sniffer", "image": "i"}]), {}),
    (Reason.ALREADY_INJECTED, pod(initContainers=[NATIVE]), {}),
    (Reason.SYSTEM_NAMESPACE, pod(), {"namespace": "kube-system"}),
    (Reason.MIRROR_POD, pod({"kubernetes.io/config.mirror": "x"}), {}),
    (Reason.NO_SPEC, {"metadata": {"labels": IN}}, {}),
    (Reason.NO_SPEC, {"metadata": {"labels": IN}, "spec": None}, {}),
    (Reason.NO_SPEC, {"metadata": {"labels": IN}, "spec": "x"}, {}),
    (Reason.NO_CONTAINERS, pod(containers=[]), {}),
    (Reason.NO_CONTAINERS, pod(containers=None), {}),
    (Reason.NO_CONTAINERS, {"metadata": {"labels": IN}, "spec": {"nodeName": "n"}}, {}),
    (Reason.HOST_NETWORK, pod(hostNetwork=True), {}),
    (Reason.WINDOWS, pod(os=WINDOWS), {}),
    (Reason.JOB_WITHOUT_NATIVE_SIDECAR, of_job(pod()), {"options": InjectorOptions(native_sidecar="never")}),
    (Reason.POD_RESOURCES, pod(resources={"limits": {"memory": "256Mi"}}), {}),
    (Reason.POD_RESOURCES, pod(resources={"requests": {"cpu": "50m"}}), {}),
    (Reason.INVALID_ANNOTATION, pod({"tcp-sniffer/ports": "0"}), {}),
    (Reason.INVALID_ANNOTATION, pod({"tcp-sniffer/interface": "a b"}), {}),
    (Reason.INVALID_ANNOTATION, pod({"tcp-sniffer/output-url": "collector:8080"}), {}),
    (Reason.INVALID_ANNOTATION, pod({"tcp-sniffer/output-url": "http://c/"}), IN_PRODUCTION),
    (Reason.INVALID_ANNOTATION, pod({"tcp-sniffer/resources": "limits.cpu=fast"}), {}),
    (Reason.INVALID_ANNOTATION, pod({"tcp-sniffer/resources": "requests.memory=1Gi"}), {}),
    (Reason.INVALID_ANNOTATION, pod({"tcp-sniffer/native-sidecar": "perhaps"}), {}),
    (Reason.INVALID_ANNOTATION, pod({"tcp-sniffer/run-as-root": "10001"}), {}),
    (Reason.INVALID_ANNOTATION, pod({"tcp-sniffer/spool": "64Mi"}), {}),
    (Reason.INVALID_ANNOTATION, pod({"tcp-sniffer/output-url": "https://c/", "tcp-sniffer/spool": "much"}), {}),
    (Reason.INVALID_ANNOTATION, pod({"tcp-sniffer/output-url": "https://c/", "tcp-sniffer/spool": "1000"}), {}),
    (Reason.NOT_A_POD_CREATE, pod(), {"operation": "UPDATE"}),
    (Reason.NOT_A_POD_CREATE, pod(), {"subResource": "ephemeralcontainers"}),
    (Reason.NOT_A_POD_CREATE, pod(), {"kind": {"group": "apps", "version": "v1", "kind": "Deployment"}}),
    (Reason.NOT_A_POD_CREATE, {}, {"object": None}),
    (Reason.INTERNAL_ERROR, pod(terminationGracePeriodSeconds="soon"), {}),
    (Reason.INTERNAL_ERROR, pod(initContainers={"a": 1}), {"options": InjectorOptions(native_sidecar="always")}),
]


@pytest.mark.parametrize(("reason", "made", "how"), SKIPS, ids=lambda part: part if isinstance(part, Reason) else "")
def test_skips(reason: Reason, made: dict[str, Any], how: dict[str, Any]) -> None:
    """Each reason not to inject is named, allows the pod, and patches nothing."""
    decision, patch, _ = answered(made, **how)
    assert (decision.reason, patch, decision.patch) == (reason, [], None)


def test_every_reason_is_tested() -> None:
    """The set of reasons is closed: each one is either injected or has a row above."""
    assert {reason for reason, _, _ in SKIPS} | {Reason.INJECTED} == set(Reason)


def test_an_invalid_annotation_is_named_and_nothing_quoted_from_a_url() -> None:
    """All wrong annotations are named at once; what a URL holds is not shown."""
    made = pod({"tcp-sniffer/output-url": "https://u:hunter2@c/", "tcp-sniffer/ports": "x"})
    detail = answered(made)[0].detail
    assert "tcp-sniffer/output-url must not contain user info" in detail
    assert "tcp-sniffer/ports must be" in detail
    assert "hunter2" not in detail


@pytest.mark.parametrize(
    ("labels", "opted_in_by", "reason"),
    [
        ({}, "namespace", Reason.INJECTED),
        (IN, "namespace", Reason.INJECTED),
        (OUT, "namespace", Reason.OPTED_OUT),
        ({"tcp-sniffer/inject": "maybe"}, "namespace", Reason.INJECTED),
        ({}, "pod", Reason.NOT_OPTED_IN),
        (IN, "pod", Reason.INJECTED),
        (OUT, "pod", Reason.OPTED_OUT),
    ],
)
def test_namespace_and_pod(labels: dict[str, str], opted_in_by: OptedInBy, reason: Reason) -> None:
    """Where the namespace's label has matched, a pod needs none; "false" on the pod always wins."""
    assert answered(pod(labels=labels), opted_in_by=opted_in_by)[0].reason == reason


def test_the_injected_environment_is_the_sniffers_own() -> None:
    """What is injected, the sniffer's configuration accepts, and it means the same there."""
    options = InjectorOptions(
        default_ports=(80, 8080),
        default_interface="any",
        output_url="https://c.example/m",
        production=True,
        output_url_auth_token_secret={"name": "a", "key": "b"},
    )
    for native in (False, True):
        for made in (options, InjectorOptions()):
            env = {entry["name"]: entry.get("value", "a-value") for entry in build_env(made, native=native)}
            config = SnifferConfig.from_env(env)
            assert config.ports == made.default_ports
            assert config.interface == made.default_interface
            assert config.output_url == made.output_url
            assert config.output_stdout is (made.output_url is None)
            assert config.output_stdout_max_line == (16000 if made.output_url is None else 0)
            assert config.production is made.production
            assert config.drain_timeout_ms == 25000
            assert config.stop_delay_ms == (0 if native else 5000)
            assert config.on_capture_error == "hold"
            assert (config.pod_name, config.namespace, config.node_name) == ("a-value",) * 3
            known = {option.variable for option in SnifferConfig.options().values()}
            assert env.keys() <= known


def test_the_parts_can_be_used_alone() -> None:
    """Container and environment are built without a pod too, for the option's grace period."""
    container = build_sniffer_container(InjectorOptions())
    assert container["env"] == build_env(InjectorOptions())
    assert build_patch(pod(), "shop", "pod", InjectorOptions()).patch[0]["value"] == container  # type: ignore[index]


def test_importing_the_options_loads_no_server_and_no_capture() -> None:
    """The names come lazily: neither the web server nor the sniffer's capture stack is imported for the patch."""
    code = (
        "import sys, sniffer.injector as i; i.build_patch, i.InjectorOptions;"
        "bad = {'aiohttp', 'pcapy', 'sniffer_core', 'sniffer.capture', 'sniffer.delivery',"
        " 'prometheus_client'};"
        "sys.exit(sorted(bad & sys.modules.keys()).__repr__() if bad & sys.modules.keys() else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="nonsense"):
        patch_module.__getattribute__("nonsense")
    import sniffer.injector

    with pytest.raises(AttributeError, match="nonsense"):
        _ = sniffer.injector.nonsense


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_golden(file: Path) -> None:
    """The pods of golden/ become what stands beside them, word for word."""
    given = yaml.safe_load(file.read_text())
    options = InjectorOptions(**given.get("options", {}))
    decision, _, result = answered(given["pod"], options, given.get("optedInBy", "pod"))
    assert str(decision.reason) == given["reason"]
    assert result == given["result"]
    assert list(make.wrong_with(result)) == []
    make.validate(result)


def test_golden_files_are_there() -> None:
    """The golden pairs are found."""
    assert len(GOLDEN) >= 5


BROKEN = [
    [{"op": "add", "path": "/spec/containers", "value": []}],
    [{"op": "add", "path": "/spec/containers/0/image", "value": "other"}],
    [{"op": "add", "path": "/spec/hostNetwork", "value": True}],
    [{"op": "add", "path": "/spec/volumes/-", "value": {"name": "another"}}],
    [{"op": "add", "path": "/spec/volumes/-", "value": {"name": "tcp-sniffer-spool"}}],
    [{"op": "add", "path": "/spec/volumes", "value": []}],
    [{"op": "add", "path": "/spec/initContainers/0", "value": {}}],
    [{"op": "add", "path": "/spec/containers/7", "value": {}}],
    [{"op": "add", "path": "/spec/containers/0/name/x", "value": {}}],
]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken[0]["path"])
def test_a_bad_patch_is_never_answered(broken: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A patch that does not apply, or does more than it should, is found before it is answered; the pod is allowed."""
    real = patch_module._check
    monkeypatch.setattr(patch_module, "_check", lambda pod, patch, added: real(pod, patch + broken, added))
    decision, patch, _ = answered(pod(SPOOL))
    assert (decision.reason, decision.detail, patch) == (Reason.INTERNAL_ERROR, "PatchError", [])


def test_apply_copies() -> None:
    """A patch is applied to a copy; escapes in pointers are understood (RFC 6901 §4)."""
    before = {"a/b": {"~": [1]}, "c": {}}
    assert apply(before, [{"op": "add", "path": "/a~1b/~0/0", "value": 0}]) == {"a/b": {"~": [0, 1]}, "c": {}}
    assert before == {"a/b": {"~": [1]}, "c": {}}
    with pytest.raises(PatchError):
        apply(before, [{"op": "add", "path": "/x/y", "value": 0}])


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@over(make.pods(), st.sampled_from(["never", "jobs", "always"]), st.sampled_from(["pod", "namespace"]))
def test_nothing_else_is_touched(made: dict[str, Any], mode: str, opted_in_by: OptedInBy) -> None:
    """For every pod: without the container the result is the pod it was, and applying twice changes nothing."""
    options = InjectorOptions(native_sidecar=mode)
    decision, patch, result = answered(made, options, opted_in_by)
    if decision.patch is None:
        assert decision.reason == Reason.JOB_WITHOUT_NATIVE_SIDECAR
        return
    assert apply(made, patch) == result
    container = sniffer_of(result)
    stripped = json.loads(json.dumps(result))
    for key in ("containers", "initContainers"):
        if stripped["spec"].get(key):
            stripped["spec"][key] = [entry for entry in stripped["spec"][key] if entry["name"] != "tcp-sniffer"]
    if any(operation["path"].startswith("/spec/volumes") for operation in patch):
        assert stripped["spec"]["volumes"].pop()["name"] == "tcp-sniffer-spool"
    expected = json.loads(json.dumps(made))
    if expected["spec"].get("terminationGracePeriodSeconds") is None:
        expected["spec"]["terminationGracePeriodSeconds"] = 30
    if container in (result["spec"].get("initContainers") or []):
        expected["spec"]["initContainers"] = expected["spec"].get("initContainers") or []
    if "volumeMounts" in container:
        expected["spec"]["volumes"] = expected["spec"].get("volumes") or []
    assert stripped == expected
    again, patch, _ = answered(result, options, opted_in_by)
    assert (again.reason, patch) == (Reason.ALREADY_INJECTED, [])


@settings(max_examples=10, deadline=None)
@over(make.pods(known_fields_only=True))
def test_results_are_valid(made: dict[str, Any]) -> None:
    """Every result fits the schemas of every version, where the pod did."""
    result = answered(made)[2]
    if result["spec"].get("initContainers", 0) is None:
        del result["spec"]["initContainers"]  # the API server drops a null; the schema does not know it
    assert list(make.wrong_with(result)) == []
    make.validate(result)


needs_kubectl = pytest.mark.skipif(make.kubectl() is None, reason="kubectl is not present")


def stripped(value: Any) -> Any:
    """Without what Go's encoder leaves out, which is nothing, and what it adds to every pod."""
    if isinstance(value, dict):
        kept = {key: stripped(inner) for key, inner in value.items() if key not in ("creationTimestamp", "status")}
        return {key: inner for key, inner in kept.items() if inner not in (None, "", [], {})}
    return [stripped(inner) for inner in value] if isinstance(value, list) else value


def agree(pods: list[dict[str, Any]], options: InjectorOptions, opted_in_by: OptedInBy, folder: Path) -> int:
    """How many pods were patched, by kubectl as by python-jsonpatch: kubectl patches as the API server does."""
    by_patch: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for made in pods:
        _, patch, result = answered(made, options, opted_in_by)
        if patch:
            by_patch.setdefault(json.dumps(patch), []).append((made, result))
    for text, pairs in by_patch.items():
        shown = make.kubectl_patched([made for made, _ in pairs], json.loads(text), folder)
        assert [stripped(one) for one in shown] == [stripped(result) for _, result in pairs]
    return sum(map(len, by_patch.values()))


@needs_kubectl
@pytest.mark.parametrize("mode", ["never", "always"])
def test_kubectl_agrees(mode: str, tmp_path: Path) -> None:
    """Two implementations of JSON Patch give the same pod, with and without init containers and a grace period."""
    made = [pod(), pod(initContainers=[{"name": "first", "image": "i"}]), pod(terminationGracePeriodSeconds=45)]
    assert agree(made, InjectorOptions(native_sidecar=mode), "pod", tmp_path) == 3


@needs_kubectl
@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_kubectl_agrees_on_golden_pods(file: Path, tmp_path: Path) -> None:
    """Both give the golden result too."""
    given = yaml.safe_load(file.read_text())
    options, opted_in_by = InjectorOptions(**given.get("options", {})), given.get("optedInBy", "pod")
    assert agree([given["pod"]], options, opted_in_by, tmp_path) == (given["reason"] == "injected")


@needs_kubectl
@settings(max_examples=2, deadline=None)
@over(st.lists(make.pods(known_fields_only=True), min_size=25, max_size=25))
def test_kubectl_agrees_on_generated_pods(made: list[dict[str, Any]]) -> None:
    """Both give the same pod for pods of every shape."""
    with TemporaryDirectory() as folder:
        assert agree(made, InjectorOptions(), "pod", Path(folder)) == 25


SEMANTIC_MISTAKES: list[tuple[str, Any]] = [
    ("name", "app"),
    ("env", [{"name": "PORTS", "value": "1"}, {"name": "PORTS", "value": "2"}]),
    ("restartPolicy", "Always"),
    ("resources", {"requests": {"cpu": "1"}, "limits": {"cpu": "500m"}}),
    ("resources", {"requests": {"cpu": "lots"}}),
    ("securityContext", {"capabilities": {"drop": ["ALL"], "add": ["NET_RAW", "NET_ADMIN"]}}),
    ("readinessProbe", {"tcpSocket": {"port": 1}}),
    ("ports", [{"containerPort": 1}]),
    ("volumeMounts", [{"name": "nothing", "mountPath": "/x"}]),
    ("env", [{"name": "SPOOL_DIR", "value": "/elsewhere"}]),
]


@pytest.mark.parametrize(("key", "value"), SEMANTIC_MISTAKES)
def test_the_semantic_checks_find_mistakes(key: str, value: Any) -> None:
    """What only an API server's validation, or a user, would find in a mutated pod, the checks find."""
    result = answered(pod())[2]
    assert list(make.wrong_with(result)) == []
    sniffer_of(result)[key] = value
    assert list(make.wrong_with(result))


def test_a_decision_is_immutable() -> None:
    """A decision cannot be changed after it was made."""
    with pytest.raises(AttributeError):
        Decision(None, Reason.INJECTED).reason = Reason.OPTED_OUT  # type: ignore[misc]
