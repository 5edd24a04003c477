"""Decides whether a pod gets the container, and makes the JSON Patch (RFC 6902). Pure functions of the raw object.

The patch consists of `add` operations on the object as the API server sent it. The object is never re-serialised, so
fields that this code does not know cannot be lost. A patch that does not apply would refuse the pod whatever the
failure policy says. So each patch is applied to a copy and checked before it is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, Literal

from sniffer import presence
from sniffer.errors import ValidationError
from sniffer.injector.options import ALWAYS, JOBS, NATIVE_ANNOTATION, NEVER, InjectorOptions
from sniffer.injector.values import STDOUT_BODY_SIZE, STDOUT_MAX_LINE, opts_out, plain_variable, quantity

OptedInBy = Literal["namespace", "pod"]
"""Which label the API server has matched: that of the namespace, or that of the pod."""

Operation = dict[str, Any]
JsonPatch = list[Operation]

CONTAINERS: Final = ("containers", "initContainers")
SYSTEM_NAMESPACES: Final = frozenset({"kube-system", "kube-public", "kube-node-lease"})
UID: Final = 10001
"""The user of the image."""
SPOOL_VOLUME: Final = "tcp-sniffer-spool"
SPOOL_DIR: Final = "/var/lib/tcp-sniffer/spool"
SPOOL_ROOM: Final = 16 << 20
"""Bytes. The emptyDir's limit is a spool, one set aside, and this: a kubelet evicts a pod whose emptyDir exceeds it."""
DOWNWARD: Final = {"POD_NAME": "metadata.name", "NAMESPACE": "metadata.namespace", "NODE_NAME": "spec.nodeName"}

OS_LABELS: Final = ("kubernetes.io/os", "beta.kubernetes.io/os")
WINDOWS_BUILD_LABEL: Final = "node.kubernetes.io/windows-build"
"""A label that only Windows nodes have."""

WAITING_OWNERS: Final[Mapping[str, frozenset[str]]] = {
    "batch": frozenset({"Job"}),
    "batch.volcano.sh": frozenset({"Job"}),
    "argoproj.io": frozenset({"Workflow"}),
    "tekton.dev": frozenset({"TaskRun", "PipelineRun", "Run", "CustomRun"}),
    "sparkoperator.k8s.io": frozenset({"SparkApplication", "ScheduledSparkApplication"}),
    "spark.apache.org": frozenset({"SparkApplication", "SparkCluster"}),
}
"""Controllers that wait until all containers of a pod have ended, by API group and kind."""
WAITING_LABELS: Final = frozenset(
    {
        "batch.kubernetes.io/job-name",
        "volcano.sh/job-name",
        "workflows.argoproj.io/workflow",
        "tekton.dev/taskRun",
        "tekton.dev/pipelineRun",
        "sparkoperator.k8s.io/app-name",
        "spark-role",  # Spark's own: an executor is owned by the pod of its driver
    }
)
"""Labels that these controllers put on their pods, for pods that another object owns."""


class Reason(StrEnum):
    """Every outcome, as it appears in the log, the metrics and the audit annotations."""

    INJECTED = "injected"
    NOT_OPTED_IN = "not_opted_in"
    OPTED_OUT = "opted_out"
    ALREADY_INJECTED = "already_injected"
    SYSTEM_NAMESPACE = "system_namespace"
    MIRROR_POD = "mirror_pod"
    NO_SPEC = "no_spec"
    NO_CONTAINERS = "no_containers"
    HOST_NETWORK = "host_network"
    WINDOWS = "windows"
    INVALID_ANNOTATION = "invalid_annotation"
    JOB_WITHOUT_NATIVE_SIDECAR = "job_without_native_sidecar"
    POD_RESOURCES = "pod_resources"
    NOT_A_POD_CREATE = "not_a_pod_create"
    INTERNAL_ERROR = "internal_error"


@dataclass(frozen=True, slots=True)
class Decision:
    """The patch or None, the reason, and a sentence if the reason alone does not say enough."""

    patch: JsonPatch | None
    reason: Reason
    detail: str = ""


class PatchError(Exception):
    """A patch that must not be sent: it does not apply, or its result is not the pod plus the container."""


def build_patch(
    pod: Mapping[str, Any], namespace_name: str, opted_in_by: OptedInBy, options: InjectorOptions
) -> Decision:
    """The decision for a pod that is being created in `namespace_name`.

    Does not change `pod`. Raises PatchError if the pod has a structure that no patch fits.
    """
    if skipped := _skip(pod, namespace_name, opted_in_by, options):
        return skipped
    metadata, spec = _mapping(pod.get("metadata")), pod["spec"]
    annotations = _mapping(metadata.get("annotations"))
    try:
        options = options.for_pod(annotations)
    except ValidationError as error:
        return Decision(None, Reason.INVALID_ANNOTATION, str(error))
    waited_for = _is_waited_for(metadata)
    # An annotation that says never is respected: the pod's owner may end the container in another way.
    if waited_for and options.native_sidecar == NEVER and not str(annotations.get(NATIVE_ANNOTATION) or "").strip():
        return Decision(None, Reason.JOB_WITHOUT_NATIVE_SIDECAR)
    native = options.native_sidecar == ALWAYS or (options.native_sidecar == JOBS and waited_for)

    grace = spec.get("terminationGracePeriodSeconds")
    resulting = options.termination_grace_period_seconds if grace is None else int(grace)
    container = build_sniffer_container(options, grace_seconds=resulting, native=native)
    if detail := _exceeds_pod(spec, container):
        return Decision(None, Reason.POD_RESOURCES, detail)

    if not native:
        patch = [_add("/spec/containers/-", container)]
    elif spec.get("initContainers") is None:
        patch = [_add("/spec/initContainers", [container])]
    else:  # first: it then sees the traffic of the pod's own init containers, and stops last
        patch = [_add("/spec/initContainers/0", container)]
    added = [container]
    if _spools(options) and SPOOL_VOLUME not in _names(spec, "volumes"):  # else the pod has its own volume
        added.append(build_spool_volume(options))
        present = spec.get("volumes") is not None
        patch.append(_add("/spec/volumes/-", added[1]) if present else _add("/spec/volumes", [added[1]]))
    if grace is None:
        patch.append(_add("/spec/terminationGracePeriodSeconds", resulting))
    _check(pod, patch, added)
    return Decision(patch, Reason.INJECTED)


def _skip(
    pod: Mapping[str, Any], namespace_name: str, opted_in_by: OptedInBy, options: InjectorOptions
) -> Decision | None:
    """The decision not to inject, for a pod that did not opt in or cannot take the container; else None."""
    metadata = _mapping(pod.get("metadata"))
    if namespace_name in SYSTEM_NAMESPACES:
        return Decision(None, Reason.SYSTEM_NAMESPACE, namespace_name)
    label = _mapping(metadata.get("labels")).get(options.inject_label_key)
    if opts_out(label):
        return Decision(None, Reason.OPTED_OUT)
    if opted_in_by == "pod" and label != options.inject_label_value:
        return Decision(None, Reason.NOT_OPTED_IN)
    if "kubernetes.io/config.mirror" in _mapping(metadata.get("annotations")):
        return Decision(None, Reason.MIRROR_POD)
    spec = pod.get("spec")
    if not isinstance(spec, Mapping) or not spec:
        return Decision(None, Reason.NO_SPEC)
    if not isinstance(spec.get("containers"), list) or not spec["containers"]:
        return Decision(None, Reason.NO_CONTAINERS)
    if spec.get("hostNetwork"):
        return Decision(None, Reason.HOST_NETWORK)
    if _runs_on_windows(spec):
        return Decision(None, Reason.WINDOWS)
    if options.sniffer_container_name in _names(spec):
        return Decision(None, Reason.ALREADY_INJECTED)
    return None


def _runs_on_windows(spec: Mapping[str, Any]) -> bool:
    """Whether the pod is for Windows: it says so, or selects nodes that are all Windows."""
    if _says_windows(_mapping(spec.get("os")).get("name")):
        return True
    selector = _mapping(spec.get("nodeSelector"))
    if WINDOWS_BUILD_LABEL in selector or any(_says_windows(selector.get(key)) for key in OS_LABELS):
        return True
    affinity = _mapping(_mapping(spec.get("affinity")).get("nodeAffinity"))
    required = _mapping(affinity.get("requiredDuringSchedulingIgnoredDuringExecution"))
    # One of the terms must match, with all its expressions. An empty term matches no node.
    terms = [term for term in _mappings(required.get("nodeSelectorTerms")) if any(term.values())]
    return bool(terms) and all(any(map(_matches_windows_only, _mappings(t.get("matchExpressions")))) for t in terms)


def _matches_windows_only(expression: Mapping[str, Any]) -> bool:
    key, operator = expression.get("key"), expression.get("operator")
    values = expression.get("values")
    values = values if isinstance(values, list) else []
    if key == WINDOWS_BUILD_LABEL:
        return operator not in ("NotIn", "DoesNotExist")
    if key not in OS_LABELS:
        return False
    return (operator == "In" and bool(values) and all(map(_says_windows, values))) or (
        operator == "NotIn" and "linux" in values
    )


def _says_windows(value: object) -> bool:
    return isinstance(value, str) and value.lower() == "windows"


def build_sniffer_container(
    options: InjectorOptions, *, grace_seconds: int | None = None, native: bool = False
) -> dict[str, Any]:
    """The container for a pod with this grace period in seconds (None: the option's)."""
    container: dict[str, Any] = {
        "name": options.sniffer_container_name,
        "image": options.sniffer_image,
        "imagePullPolicy": "IfNotPresent",
        "env": build_env(options, grace_seconds=grace_seconds, native=native),
    }
    if native:
        container["restartPolicy"] = "Always"
    if native and options.on_capture_error == "hold":
        # The other containers wait until the sniffer captures. Without `hold` they would wait for ever for one that
        # ended.
        container["startupProbe"] = build_startup_probe()
    if resources := options.resources.manifest():
        container["resources"] = resources
    user = 0 if options.run_as_root else UID
    container["securityContext"] = {  # everything is explicit, since the rest would be inherited from the pod
        "runAsNonRoot": not options.run_as_root,
        "runAsUser": user,
        "runAsGroup": user,
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if _spools(options):
        container["volumeMounts"] = [{"name": SPOOL_VOLUME, "mountPath": SPOOL_DIR}]
    return container


def build_startup_probe() -> dict[str, Any]:
    """The startup probe of a native sidecar, run each second. It restarts only a container that hangs."""
    return {
        "exec": {"command": list(presence.PROBE)},
        "periodSeconds": 1,
        "timeoutSeconds": 5,
        "failureThreshold": 3 * int(presence.LATEST_S),
    }


def build_spool_volume(options: InjectorOptions) -> dict[str, Any]:
    """The volume of the spool. It survives restarts of the container, and is deleted with the pod."""
    limit = 2 * (options.spool_size or 0) + SPOOL_ROOM
    return {"name": SPOOL_VOLUME, "emptyDir": {"sizeLimit": str(limit)}}


def _spools(options: InjectorOptions) -> bool:
    """Whether the container gets a spool: only posted messages are spooled."""
    return options.spool_size is not None and options.output_url is not None


def build_env(
    options: InjectorOptions, *, grace_seconds: int | None = None, native: bool = False
) -> list[dict[str, Any]]:
    """The container's environment. The drain ends 5 s before the pod's grace period, if that is long enough.

    A regular container gets SIGTERM together with the application, so it goes on capturing for a while. A native
    sidecar gets it after the application has ended.
    """
    grace = options.termination_grace_period_seconds if grace_seconds is None else grace_seconds
    drain_ms = min(25, max(1, grace - 5)) * 1000
    delay_ms = 0 if native else min(5000, drain_ms // 2)
    env = [
        plain_variable("PORTS", ",".join(map(str, options.default_ports))),
        plain_variable("INTERFACE", options.default_interface),
        plain_variable("OUTPUT_URL", options.output_url or ""),
    ]
    if options.output_url is None:
        env.append(plain_variable("OUTPUT_STDOUT", "true"))
        env.append(plain_variable("OUTPUT_STDOUT_MAX_LINE", str(STDOUT_MAX_LINE)))
        if all(variable.name != "MAX_BODY_SIZE" for variable in options.sniffer_env):
            env.append(plain_variable("MAX_BODY_SIZE", str(STDOUT_BODY_SIZE)))
    if secret := options.output_url_auth_token_secret:
        # optional: a missing Secret must not keep the pod from starting
        reference = {"name": secret.name, "key": secret.key, "optional": True}
        env.append({"name": "OUTPUT_URL_AUTH_TOKEN", "valueFrom": {"secretKeyRef": reference}})
    for name, path in DOWNWARD.items():
        env.append({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}})
    if options.production:
        env.append(plain_variable("TCP_SNIFFER_PRODUCTION", "true"))
    env.append(plain_variable("DRAIN_TIMEOUT_MS", str(drain_ms)))
    env.append(plain_variable("STOP_DELAY_MS", str(delay_ms)))
    env.append(plain_variable("ON_CAPTURE_ERROR", options.on_capture_error))
    if _spools(options):
        env.append(plain_variable("SPOOL_DIR", SPOOL_DIR))
        env.append(plain_variable("SPOOL_SIZE", str(options.spool_size)))
    env.extend(variable.manifest() for variable in options.sniffer_env)
    return env


def apply(document: Any, patch: JsonPatch) -> Any:
    """`document` after the `add` operations of `patch` (RFC 6902 §4.1). The original stays unchanged.

    Only objects on the paths are copied. Raises PatchError if an operation does not apply.
    """
    for operation in patch:
        document = _applied(document, operation["path"].split("/")[1:], operation["value"])
    return document


def _applied(node: Any, path: list[str], value: Any) -> Any:
    key = path[0].replace("~1", "/").replace("~0", "~")
    if isinstance(node, dict):
        if len(path) > 1 and key not in node:
            raise PatchError(f"there is no {key} to add to")
        return {**node, key: value if len(path) == 1 else _applied(node[key], path[1:], value)}
    if not isinstance(node, list):
        raise PatchError(f"nothing can be added at {key}")
    index = len(node) if key == "-" else int(key)
    if len(path) > 1 or not 0 <= index <= len(node):
        raise PatchError(f"there is no place {key}")
    return [*node[:index], value, *node[index:]]


def _check(pod: Mapping[str, Any], patch: JsonPatch, added: list[dict[str, Any]]) -> None:
    """Raises PatchError unless the patched pod is the pod plus `added`, and plus a grace period if it had none.

    `added` is the container and, with a spool, its volume.
    """
    before, after = pod["spec"], apply(dict(pod), patch)["spec"]
    names = _names(after), _names(after, "volumes")
    if any(of_kind.count(one["name"]) != 1 for of_kind, one in zip(names, added, strict=False)):
        raise PatchError("the result has what is added not once")
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    if before.get("terminationGracePeriodSeconds") is None:
        changed.remove("terminationGracePeriodSeconds")
    for key in changed:
        value = after[key]
        if not isinstance(value, list):
            raise PatchError(f"the result differs in {key}")
        if [one for one in value if not any(one is ours for ours in added)] != (before.get(key) or []):
            raise PatchError(f"the result differs in {key}")


def _exceeds_pod(spec: Mapping[str, Any], container: Mapping[str, Any]) -> str:
    """Why the API server would refuse the container, given the pod's own resources (Kubernetes 1.34); else ""."""
    own = _mapping(spec.get("resources"))
    if not own:
        return ""
    native = [entry for entry in spec.get("initContainers") or () if entry.get("restartPolicy") == "Always"]
    others = [_mapping(entry.get("resources")) for entry in [*spec["containers"], *native]]
    ours = _mapping(container.get("resources"))
    for kind in ("cpu", "memory"):
        limit = _amount(own, "limits", kind)
        request = _amount(own, "requests", kind)
        if request is None:
            request = limit
        wanted = _amount(ours, "limits", kind)
        if limit is not None and wanted is not None and wanted > limit:
            return f"the container's {kind} limit is above the pod's"
        requests = [_amount(each, "requests", kind) or _amount(each, "limits", kind) or 0 for each in [*others, ours]]
        if request is not None and sum(requests) > request:
            return f"the containers' {kind} requests would be above the pod's"
    return ""


def _amount(resources: Mapping[str, Any], side: str, kind: str) -> Decimal | None:
    value = _mapping(resources.get(side)).get(kind)
    return None if value is None else quantity(str(value))


def _is_waited_for(metadata: Mapping[str, Any]) -> bool:
    """Whether a controller waits until all containers of the pod end: with a regular sidecar it would wait for ever."""
    if WAITING_LABELS & _mapping(metadata.get("labels")).keys():
        return True
    return any(
        owner.get("kind") in WAITING_OWNERS.get(str(owner.get("apiVersion")).partition("/")[0], ())
        for owner in _mappings(metadata.get("ownerReferences"))
    )


def _names(spec: Mapping[str, Any], *keys: str) -> list[Any]:
    """The names in these lists, by default those of all containers, init containers included."""
    return [_mapping(entry).get("name") for key in keys or CONTAINERS for entry in spec.get(key) or ()]


def _add(path: str, value: Any) -> Operation:
    return {"op": "add", "path": path, "value": value}


def _mapping(value: Any) -> Mapping[str, Any]:
    """`value` if it is an object, else an empty one: absent, null and invalid values are treated alike."""
    return value if isinstance(value, Mapping) else {}


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    """The objects of `value` if it is a list, else none."""
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []
