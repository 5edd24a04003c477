"""A cluster used through kubectl, and checks of what it stored."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.waiting import wait_until

Manifest = dict[str, Any]
GONE_S = 180


class Failed(Exception):
    """Something is not as it must be. The message says what."""


class Refused(Exception):
    """The API server refused to create an object."""


class Cluster:
    """The operations on a cluster that the stages use."""

    def __init__(self, context: str | None = None, *, kubeconfig: Path | None = None) -> None:
        self.command = ["kubectl", *(["--context", context] if context else [])]
        self.command += [f"--kubeconfig={kubeconfig}"] if kubeconfig else []

    def run(self, *arguments: str, given: str | None = None, check: bool = True) -> str:
        """The output of kubectl. Raises Failed with its error text."""
        done = subprocess.run([*self.command, *arguments], input=given, capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            raise Failed(f"kubectl {' '.join(arguments[:3])}: {done.stderr.strip()}")
        return done.stdout if done.returncode == 0 else ""

    def version(self) -> str:
        """The version of the API server."""
        return str(json.loads(self.run("get", "--raw", "/version"))["gitVersion"])

    def has_nodes(self) -> bool:
        return bool(self.run("get", "nodes", "--output", "name").strip())

    def exists(self, kind: str, name: str) -> bool:
        return bool(self.run("get", kind, name, "--ignore-not-found", "--output", "name").strip())

    def apply(self, manifests: Iterable[Manifest]) -> None:
        """Applies on the server's side, so that an object that a controller makes at the same time is no error."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        who = ["--server-side", "--field-manager=tcp-sniffer-e2e", "--force-conflicts"]
        self.run("apply", *who, "--filename", "-", given=json.dumps(listed))

    def create(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        """Creates the object. Returns it as the API server stores it, or would store it."""
        arguments = ["create", "--filename", "-", "--output", "json", *(["--dry-run=server"] if dry_run else [])]
        try:
            stored: Manifest = json.loads(self.run(*arguments, given=json.dumps(manifest)))
        except Failed as error:
            raise Refused(str(error)) from error
        return stored

    def delete(self, kind: str, name: str, namespace: str | None = None, *, wait: bool = False) -> None:
        where = ["--namespace", namespace] if namespace else []
        waiting = ["--wait=true", f"--timeout={GONE_S}s"] if wait else ["--wait=false"]
        self.run("delete", kind, name, *where, "--ignore-not-found", *waiting)

    def remove_namespaces(self, names: Iterable[str]) -> None:
        """Deletes the namespaces and waits for it. Without nodes there may be no controller to empty them."""
        listed = list(names)
        for wait in (False, True) if self.has_nodes() else (False,):
            for name in listed:
                self.delete("namespace", name, wait=wait)

    def completed_pod(self, job: str, namespace: str) -> str:
        """The pod in which a Job succeeded. Failed tries may have left others."""
        selector = f"batch.kubernetes.io/job-name={job}"
        where = ["--namespace", namespace, "--selector", selector, "--field-selector", "status.phase=Succeeded"]
        found = self.run("get", "pods", *where, "--output", "name").split()
        if not found:
            raise Failed(f"no pod of job {job} has completed")
        return found[0]

    def logs(self, what: str, namespace: str, container: str) -> str:
        return self.run("logs", what, "--namespace", namespace, "--container", container, "--tail=-1")


def script(*command: str) -> None:
    """Runs a program other than kubectl. Raises Failed with its error text."""
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip() or f"it ended with {error.returncode}"
        raise Failed(f"{command[0]}: {said}") from error
    except OSError as error:
        raise Failed(f"{command[0]} cannot be run: {error.strerror or error}") from error


def expect(reached: Callable[[], bool], what: str, seconds: float = 120, pause_s: float = 1) -> None:
    """Waits for a condition in the cluster. Raises Failed, which names it, when the time is up."""
    try:
        wait_until(reached, what, seconds=seconds, pause=pause_s)
    except TimeoutError as error:
        raise Failed(str(error)) from error


def container_in(pod: Manifest, name: str = "tcp-sniffer") -> tuple[str, Manifest] | None:
    """The list that holds the injected container, and the container. Raises Failed if there is more than one."""
    found = [
        (key, entry)
        for key in ("containers", "initContainers")
        for entry in pod["spec"].get(key) or []
        if entry["name"] == name
    ]
    if len(found) > 1:
        raise Failed(f"pod {pod['metadata'].get('name')} has {len(found)} containers named {name}")
    return found[0] if found else None


def differences(pod: Manifest, expected: str | None, env: dict[str, str]) -> list[str]:
    """The differences of a stored pod from the expected list of the container (or None) and values of its env."""
    found = container_in(pod)
    where = found[0] if found else None
    if where != expected:
        return [f"the container is in {where}, not in {expected}"]
    if found is None:
        return []
    container = found[1]
    problems = []
    values = {entry["name"]: entry.get("value", "") for entry in container["env"]}
    problems += [
        f"{name} is {values.get(name)!r}, not {value!r}" for name, value in env.items() if values.get(name) != value
    ]
    if container["securityContext"]["capabilities"] != {"add": ["NET_RAW"], "drop": ["ALL"]}:
        problems.append(f"capabilities are {container['securityContext']['capabilities']}")
    if container.get("restartPolicy") != ("Always" if expected == "initContainers" else None):
        problems.append(f"restartPolicy is {container.get('restartPolicy')}")
    if pod["spec"].get("terminationGracePeriodSeconds") is None:
        problems.append("there is no grace period")
    return problems


def records_in(log: str) -> Iterator[Manifest]:
    """The messages, and the sniffer's log lines, in a container's log.

    Raises Failed if a line is neither: a line that was cut or merged would otherwise hide a lost message.
    """
    for number, line in enumerate(log.splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or not {"schema", "level"} & record.keys():
            raise Failed(f"line {number} of a log cannot be read: {line[:120]!r}")
        yield record


def messages_in(log: str) -> list[Manifest]:
    """The messages among the lines of a log. No line of the sniffer has both `schema` and `level`."""
    return [record for record in records_in(log) if "schema" in record and "direction" in record]


def watches(log: str) -> bool:
    """Whether the sniffer that writes this log has begun to capture."""
    return any((record.get("level"), record.get("message")) == ("info", "started") for record in records_in(log))


def exchange(messages: Iterable[Manifest], method: str, path: str) -> tuple[Manifest, Manifest] | None:
    """The request with this method and path and its response, if both have come."""
    listed = list(messages)
    for request in listed:
        if (request["direction"], request.get("method"), request.get("path")) != ("request", method, path):
            continue
        for response in listed:
            same = all(response[key] == request[key] for key in ("connectionId", "exchange"))
            if same and response["direction"] == "response":
                return request, response
    return None


def wrong_with(pair: tuple[Manifest, Manifest] | None, body: str, status: int) -> list[str]:
    """The differences of an echoed exchange from what was sent, apart from method and path, by which it was found."""
    if pair is None:
        return ["the exchange is not there"]
    request, response = pair
    problems = []
    if request.get("body") != body:
        problems.append(f"the request's body is {request.get('body')!r}")
    if response.get("statusCode") != status:
        problems.append(f"the status is {response.get('statusCode')}")
    echoed = {"method": request["method"], "path": request["path"], "body": body}
    if response.get("body") is None or json.loads(response["body"]) != echoed:
        problems.append(f"the response's body is {response.get('body')!r}")
    cut = [message for message in pair if message.get("incomplete")]
    return problems + [f"the {message['direction']} is incomplete: {message['incomplete']}" for message in cut]
