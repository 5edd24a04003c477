"""The end-to-end test on the cluster of the current kubeconfig. See docs/testing/E2E.md.

python -m tests.e2e [--stage injection|traffic|verdicts|all] [--image IMAGE] [--injector inside|outside]
                    [--host HOST] [--context NAME | --control-plane FOLDER]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from tests.e2e.cluster import Cluster, Failed, Refused
from tests.e2e.control_plane import control_plane
from tests.e2e.stages import (
    INJECTOR,
    NAMESPACE,
    OPTED_IN,
    PLAIN,
    RESTRICTED,
    SAMPLE,
    Installed,
    injection,
    inside,
    outside,
    traffic,
)
from tests.e2e.verdicts import POLICIES, verdicts


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tests.e2e", allow_abbrev=False)
    made.add_argument("--stage", choices=("injection", "traffic", "verdicts", "all"), default="all")
    made.add_argument("--image", default="tcp-sniffer:latest", help="image that the nodes can run (inside, traffic)")
    made.add_argument("--injector", choices=("inside", "outside"), help="default: outside where there are no nodes")
    made.add_argument("--host", default="127.0.0.1", help="address of this machine as the API server sees it (outside)")
    where = made.add_mutually_exclusive_group()
    where.add_argument("--context", help="context of the kubeconfig")
    where.add_argument("--control-plane", type=Path, metavar="FOLDER", help="start etcd and kube-apiserver from there")
    return made


def stages(wanted: str, has_nodes: bool, injector: str | None) -> list[tuple[str, str]]:
    """The stages to run, and where the injector runs in each. Raises Failed if that is impossible."""
    where = injector or ("inside" if has_nodes else "outside")
    if wanted == "verdicts":
        return [("verdicts", "outside")]
    if not has_nodes and (wanted == "traffic" or where == "inside"):
        raise Failed("there are no nodes: only --stage injection with --injector outside can be run")
    listed = ["injection", "traffic"] if wanted == "all" and has_nodes else ["injection" if wanted == "all" else wanted]
    return [(stage, "inside" if stage == "traffic" else where) for stage in listed]


def check_free(cluster: Cluster) -> None:
    """Raises Failed if an object of the test exists already: it would be overwritten, and removed at the end."""
    for kind, name in (
        ("namespace", NAMESPACE),
        ("namespace", PLAIN),
        ("namespace", OPTED_IN),
        ("namespace", RESTRICTED),
        ("namespace", SAMPLE),
        *(("namespace", name) for name in POLICIES.values()),
        ("mutatingwebhookconfiguration", INJECTOR),
    ):
        if cluster.exists(kind, name):
            raise Failed(f"{kind} {name} exists already: the test installs its own, and removes it")


def main(arguments: Sequence[str]) -> int:
    """Returns 0 if everything is as it must be, 1 if something is not, 2 if the test cannot run here."""
    given = parser().parse_args(arguments)
    if shutil.which("kubectl") is None:
        print("kubectl is not present")
        return 2
    with ExitStack() as stack:
        try:
            own = given.control_plane
            cluster = stack.enter_context(control_plane(own)) if own is not None else Cluster(given.context)
            listed = stages(given.stage, cluster.has_nodes(), given.injector)
            check_free(cluster)
        except Failed as error:
            print(error)
            return 2
        print(f"Kubernetes {cluster.version()}")
        try:
            for stage, where in listed:
                print(f"--- {stage}, the injector {where} the cluster")
                run(stage, where, cluster, given)
        except (Failed, Refused, subprocess.SubprocessError) as error:
            print(f"FAILED  {error}")
            return 1
    print("all as it must be")
    return 0


def run(stage: str, where: str, cluster: Cluster, given: argparse.Namespace) -> None:
    """Runs a stage. Raises Failed or Refused if something is not as it must be."""
    if stage == "verdicts":
        verdicts(cluster, given.host, print)
        return
    installed: AbstractContextManager[Installed]
    installed = inside(cluster, given.image) if where == "inside" else outside(cluster, given.host)
    if stage == "injection":
        injection(cluster, installed, print)
    else:
        traffic(cluster, installed, given.image, print)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
