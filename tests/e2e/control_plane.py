"""A control plane without nodes, made of `etcd` and `kube-apiserver` in a folder. It stores objects and runs none.

envtest keeps them in such a folder (`setup-envtest use -p path`); docs/testing/E2E.md says how to build the second.
"""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.e2e.cluster import Cluster, Failed

PROGRAMS = ("etcd", "kube-apiserver")
READY_S = 180
TOKEN = "for-a-test"
KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: it
contexts: [{{name: it, context: {{cluster: it, user: it}}}}]
clusters: [{{name: it, cluster: {{server: "https://127.0.0.1:{port}", certificate-authority: "{authority}"}}}}]
users: [{{name: it, user: {{token: "{token}"}}}}]
"""


AUDIT = """
apiVersion: audit.k8s.io/v1
kind: Policy
rules: [{level: Metadata, resources: [{group: "", resources: [pods]}]}]
"""


class ControlPlane(Cluster):
    """A cluster with a readable audit log of its API server."""

    def __init__(self, folder: Path) -> None:
        super().__init__(kubeconfig=folder / "kubeconfig")
        self._audit = folder / "audit.log"

    def audited(self, pod: str) -> dict[str, str]:
        """The annotations of the audit event of a pod's creation."""
        events = [json.loads(line) for line in self._audit.read_text().splitlines()]
        (found,) = [
            event["annotations"]
            for event in events
            if (event["verb"], event["objectRef"].get("name")) == ("create", pod)
            and event["responseStatus"]["code"] == 201
        ]
        return dict(found)


def missing(folder: Path) -> list[str]:
    """The programs that are missing."""
    return [name for name in PROGRAMS if not (folder / name).is_file()]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [taken.getsockname()[1] for taken in sockets]


@contextmanager
def control_plane(programs: Path) -> Iterator[ControlPlane]:
    """A control plane on loopback. It and its data are removed at the end."""
    if absent := missing(programs):
        raise Failed(f"{programs} has no {' and no '.join(absent)}")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        authority, (client, peer, secure) = trustme.CA(), _free_ports(3)
        made = authority.issue_cert("127.0.0.1", "localhost")
        authority.cert_pem.write_to_path(folder / "ca.crt")
        made.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (folder / "accounts.key").write_bytes(key.private_bytes(*pem))
        (folder / "tokens.csv").write_text(f'{TOKEN},admin,admin,"system:masters"\n')
        (folder / "kubeconfig").write_text(
            KUBECONFIG.format(port=secure, authority=folder / "ca.crt", token=TOKEN).strip()
        )
        (folder / "audit.yaml").write_text(AUDIT)
        here = "http://127.0.0.1"
        commands = {
            "etcd": [
                f"--data-dir={folder / 'etcd'}",
                f"--listen-client-urls={here}:{client}",
                f"--advertise-client-urls={here}:{client}",
                f"--listen-peer-urls={here}:{peer}",
                f"--initial-advertise-peer-urls={here}:{peer}",
                f"--initial-cluster=default={here}:{peer}",
            ],
            "kube-apiserver": [
                f"--etcd-servers={here}:{client}",
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                f"--secure-port={secure}",
                f"--tls-cert-file={folder / 'server.pem'}",
                f"--tls-private-key-file={folder / 'server.pem'}",
                f"--cert-dir={folder}",
                f"--token-auth-file={folder / 'tokens.csv'}",
                "--authorization-mode=RBAC",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={folder / 'accounts.key'}",
                f"--service-account-signing-key-file={folder / 'accounts.key'}",
                "--service-cluster-ip-range=10.0.0.0/24",
                f"--audit-policy-file={folder / 'audit.yaml'}",
                f"--audit-log-path={folder / 'audit.log'}",
            ],
        }
        processes = {}
        for program, arguments in commands.items():
            log = stack.enter_context((folder / f"{program}.log").open("w"))
            process = subprocess.Popen([str(programs / program), *arguments], stdout=log, stderr=log)
            stack.callback(_end, process)
            processes[program] = process
        cluster = ControlPlane(folder)
        _wait_until_ready(cluster, processes, folder)
        yield cluster


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_ready(cluster: Cluster, processes: dict[str, subprocess.Popen[bytes]], folder: Path) -> None:
    end = time.monotonic() + READY_S
    while cluster.run("get", "--raw", "/readyz", check=False) != "ok":
        for program, process in processes.items():
            if process.poll() is not None or time.monotonic() > end:
                raise Failed(f"{program} did not start: {(folder / f'{program}.log').read_text()[-2000:]}")
        time.sleep(0.5)
