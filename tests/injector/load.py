"""The injector under load while its certificate changes: no call may fail.

    python -m tests.injector.load [SECONDS]

Four keep-alive clients call without pauses. Each opens a new connection now and then, so that every certificate is
seen. Half-way a bad pair replaces the certificate. Reports calls per second, p50 and p99, and memory from 10 s on (in
a shorter run from a sixth of it) to the end. The exit code is 1 if a call failed, if p99 or the growth of memory
exceeds its limit, or if a certificate was not loaded or the bad pair not refused.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.daemon import free_port, resident
from tests.injector.conftest import NAME, Pair
from tests.injector.pods import pod, review

CLIENTS = 4
CHANGES = 5
CALLS_PER_CONNECTION = 200
CALL_TIMEOUT_S = 5.0
P99_MS = 100
GROWTH = 0.05
# the server as it is, but for how often it looks at its certificate: a run is shorter than a rotation
SERVER = """
import sniffer.injector.server as server
server.serve.__kwdefaults__["certificate_poll_s"] = 0.1
from sniffer.injector.__main__ import main
main()
"""


@dataclass
class Report:
    """The results of a run."""

    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)
    certificates: set[bytes] = field(default_factory=set)
    metrics: str = ""

    def percentile(self, share: float) -> float:
        return sorted(self.latencies_ms)[int(len(self.latencies_ms) * share)]

    @property
    def growth(self) -> float:
        """Largest memory from the warm-up to the end, divided by that at the end of the warm-up."""
        return max(self.rss) / self.rss[0] - 1

    def problems(self, *, p99_ms: float = P99_MS) -> list[str]:
        """The errors of the run. `p99_ms` is meant for a machine without other work."""
        found = list(self.failures)
        if self.percentile(0.99) >= p99_ms:
            found.append(f"p99 is {self.percentile(0.99):.1f} ms, not under {p99_ms:g}")
        if self.growth >= GROWTH:
            found.append(f"memory grew by {self.growth:.1%}, not less than {GROWTH:.0%}")
        for result, count in (("replaced", CHANGES), ("refused", 1)):
            line = f'tcp_sniffer_injector_certificate_reloads_total{{result="{result}"}} {count}.0'
            if line not in self.metrics:
                found.append(f"not {count} certificates were {result}")
        if len(self.certificates) != CHANGES + 1:
            found.append(f"{len(self.certificates)} certificates were met, not {CHANGES + 1}")
        return found

    def __str__(self) -> str:
        return (
            f"{len(self.latencies_ms)} calls in {self.seconds:.0f} s by {CLIENTS} clients: "
            f"{len(self.latencies_ms) / self.seconds:.0f}/s, p50 {self.percentile(0.5):.1f} ms, "
            f"p99 {self.percentile(0.99):.1f} ms, {len(self.failures)} failed; "
            f"{len(self.certificates)} certificates met; "
            f"RSS {self.rss[0] / 2**20:.1f} MiB, {self.growth:+.1%} to its greatest"
        )


async def client(url: str, pair: Pair, until: float, report: Report) -> None:
    """Calls the webhook until that time, and notes every failure."""
    body = json.dumps(review(pod({"note": "x" * 2000}))).encode()
    while time.monotonic() < until:
        connector = aiohttp.TCPConnector(ssl=pair.trusted(), limit=1)
        timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            for _ in range(CALLS_PER_CONNECTION):
                started = time.perf_counter()
                try:
                    async with session.post(
                        url, data=body, headers={"Content-Type": "application/json"}, server_hostname=NAME
                    ) as response:
                        answer: dict[str, Any] = json.loads(await response.read())
                    if "patch" not in answer["response"]:
                        report.failures.append(f"no patch: {answer}")
                except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
                    report.failures.append(f"{type(error).__name__}: {error}")
                report.latencies_ms.append((time.perf_counter() - started) * 1000)
                if time.monotonic() >= until:
                    return


async def change(pair: Pair, seconds: float) -> None:
    """Changes the certificate five times over the run, with a bad pair in the middle."""
    for number in range(CHANGES + 1):
        await asyncio.sleep(seconds / (CHANGES + 2))
        if number == CHANGES // 2:
            pair.mismatch()
        else:
            pair.renew()


async def look(port: int, pair: Pair, report: Report) -> None:
    """Notes the certificate of new connections, several times a second."""
    while True:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=pair.trusted(), server_hostname=NAME)
        report.certificates.add(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(0.1)


async def watch(pid: int, from_s: float, report: Report) -> None:
    """Samples the memory, four times a second."""
    await asyncio.sleep(from_s)
    while True:
        report.rss.append(resident(pid))
        await asyncio.sleep(0.25)


async def run(seconds: float) -> Report:
    """A run against an injector of its own, which is stopped at the end."""
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        pair, port = Pair(Path(folder)), free_port()
        command = [sys.executable, "-c", SERVER, "--address", "127.0.0.1", "--port", str(port)]
        command += ["--tls-cert-file", pair.files["tls_cert_file"], "--tls-key-file", pair.files["tls_key_file"]]
        command += ["--stop-delay-ms", "0", "--log-level", "error"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220 - it is waited for at the end
            try:
                await _ready(port, process)
                started = time.monotonic()
                url = f"https://127.0.0.1:{port}/mutate?timeout=5s"
                beside = [
                    asyncio.create_task(watch(process.pid, min(10, seconds / 6), report)),
                    asyncio.create_task(look(port, pair, report)),
                ]
                async with asyncio.TaskGroup() as group:
                    group.create_task(change(pair, seconds))
                    for _ in range(CLIENTS):
                        group.create_task(client(url, pair, started + seconds, report))
                report.seconds = time.monotonic() - started
                for task in beside:
                    task.cancel()
                for result in await asyncio.gather(*beside, return_exceptions=True):
                    if not isinstance(result, asyncio.CancelledError):
                        report.failures.append(f"beside the clients: {result!r}")
                connector = aiohttp.TCPConnector(ssl=pair.trusted())
                async with (
                    aiohttp.ClientSession(connector=connector) as session,
                    session.get(f"https://127.0.0.1:{port}/metrics", server_hostname=NAME) as response,
                ):
                    report.metrics = await response.text()
            finally:
                process.terminate()
            if process.wait(20) != 0:
                report.failures.append(f"the injector ended with {process.returncode}")
    return report


async def _ready(port: int, process: subprocess.Popen[str]) -> None:
    """Waits until the port is open."""
    async with asyncio.timeout(30):
        while True:
            if process.poll() is not None:
                raise RuntimeError("the injector did not start")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return


if __name__ == "__main__":
    result = asyncio.run(run(float(sys.argv[1]) if len(sys.argv) > 1 else 60))
    print(result)
    for problem in result.problems()[:20]:
        print(problem)
    sys.exit(1 if result.problems() else 0)
