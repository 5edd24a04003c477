from __future__ import annotations

import asyncio
import base64
import datetime as dt
import gzip
import io
import json
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sniffer import signals
from sniffer.errors import SnifferError
from sniffer.injector import InjectorOptions, Reason
from sniffer.injector.patch import Decision
from sniffer.injector.server import BODY_LIMIT, Certificate, _deadline, read_review, serve, warning_for
from tests.injector.conftest import NAME, Pair, Running, running
from tests.injector.pods import pod, request, review
from tests.waiting import until

JSON = {"Content-Type": "application/json"}
OLD = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


async def test_an_answer_to_the_letter(injector: Running) -> None:
    """200, JSON, the same apiVersion and kind, the uid, and the patch in padded standard base64; nothing else."""
    async with injector.post("/mutate?timeout=5s", json=review(pod())) as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("application/json")
        body = await response.json()
    assert body["apiVersion"] == "admission.k8s.io/v1"
    assert body["kind"] == "AdmissionReview"
    answer = body["response"]
    assert set(answer) == {"uid", "allowed", "patchType", "patch", "auditAnnotations"}
    assert (answer["uid"], answer["allowed"], answer["patchType"]) == (request(None)["uid"], True, "JSONPatch")
    assert [one["op"] for one in json.loads(base64.b64decode(answer["patch"], validate=True))] == ["add", "add"]


async def test_an_answer_without_a_patch(injector: Running) -> None:
    """Where there is nothing to do, patch and patchType are both absent."""
    async with injector.post("/mutate", json=review(pod(labels={}))) as response:
        answer = (await response.json())["response"]
    assert set(answer) == {"uid", "allowed", "auditAnnotations"}
    assert answer["auditAnnotations"] == {"result": "skipped", "reason": "not_opted_in"}


@pytest.mark.parametrize(("path", "injected"), [("/", False), ("/mutate", False), ("/mutate/namespace", True)])
async def test_paths(path: str, injected: bool, injector: Running) -> None:
    """The path says what the API server has matched: only the namespace's path injects into an unlabelled pod."""
    async with injector.post(path, json=review(pod(labels={}))) as response:
        assert ("patch" in (await response.json())["response"]) is injected


@pytest.mark.parametrize("what", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b"null", b'"x"', b"{}", b'{"a":1}x'])
async def test_no_json(what: bytes, injector: Running) -> None:
    """What is no JSON object, or no review, is 400; the server goes on."""
    async with injector.post("/mutate", data=what, headers=JSON) as response:
        assert response.status == 400
    async with injector.post("/mutate", json=review(pod())) as response:
        assert response.status == 200
    assert await injector.metric('tcp_sniffer_injector_bad_requests_total{status="400"}') == 1


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "nonsense"])
async def test_a_body_that_does_not_decode(encoding: str, injector: Running) -> None:
    """A body that is not in the content coding that it claims is 400, like any other that cannot be read."""
    headers = JSON | {"Content-Encoding": encoding}
    async with injector.post("/mutate", data=b"neither", headers=headers) as response:
        assert response.status == 400


async def test_a_bomb_stops_at_the_limit(injector: Running) -> None:
    """The limit is on what a compressed body unpacks to."""
    packed = gzip.compress(b" " * 8 * BODY_LIMIT)
    async with injector.post("/mutate", data=packed, headers=JSON | {"Content-Encoding": "gzip"}) as response:
        assert response.status == 413
    good = gzip.compress(json.dumps(review(pod())).encode())
    async with injector.post("/mutate", data=good, headers=JSON | {"Content-Encoding": "gzip"}) as response:
        assert "patch" in (await response.json())["response"]


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
    ],
    ids=["a long field", "a wrong length"],
)
async def test_no_http_is_one_line(sent: bytes, injector: Running, caplog: pytest.LogCaptureFixture) -> None:
    """What is no HTTP is answered with 400, and is one warning without a traceback."""
    context = injector.pair.trusted()
    reader, writer = await asyncio.open_connection("127.0.0.1", injector.port, ssl=context, server_hostname=NAME)
    writer.write(sent)
    assert (await asyncio.wait_for(reader.readline(), 20)).split()[1] == b"400"
    writer.close()
    await writer.wait_closed()
    (record,) = [record for record in caplog.records if record.name.startswith("sniffer.injector")]
    assert (record.levelname, record.getMessage(), record.exc_info) == ("WARNING", "bad request", None)
    assert "\n" not in record.fields["error"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "change",
    [
        {"apiVersion": "admission.k8s.io/v1beta1"},
        {"kind": "Pod"},
        {"apiVersion": None},
        {"request": None},
        {"request": []},
        {"request": {}},
        {"request": {"uid": ""}},
        {"request": {"uid": 5}},
    ],
)
async def test_no_review(change: dict[str, Any], injector: Running) -> None:
    """Another kind or version, no request or no uid: 400, since no valid answer could be given."""
    async with injector.post("/mutate", json=review(pod()) | change) as response:
        assert response.status == 400


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"])
async def test_content_type(kind: str, injector: Running) -> None:
    """Only application/json, in any case and with any parameter."""
    body = json.dumps(review(pod())).encode()
    async with injector.post("/mutate", data=body, headers={"Content-Type": kind}) as response:
        assert response.status == 415
    async with injector.post("/mutate", data=body, headers={"Content-Type": "Application/JSON; charset=utf-8"}) as good:
        assert good.status == 200


async def test_size(injector: Running) -> None:
    """A review of 6 MiB is served, a larger one is 413."""
    made = review(pod({"note": ""}))
    made["request"]["object"]["metadata"]["annotations"]["note"] = "x" * (BODY_LIMIT - len(json.dumps(made)))
    body = json.dumps(made).encode()
    assert len(body) == BODY_LIMIT
    async with injector.post("/mutate", data=io.BytesIO(body), headers=JSON) as response:
        assert response.status == 200
        assert "patch" in (await response.json())["response"]
    async with injector.post("/mutate", data=io.BytesIO(body + b" "), headers=JSON) as response:
        assert response.status == 413
    assert await injector.metric('tcp_sniffer_injector_bad_requests_total{status="413"}') == 1


async def test_other_methods_and_paths(injector: Running) -> None:
    """Unknown paths are 404; a GET of the webhook is 405 and says what is allowed."""
    async with injector.get("/nothing") as response:
        assert response.status == 404
    async with injector.get("/mutate") as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")


@pytest.mark.slow
async def test_a_request_that_does_not_arrive(injector: Running) -> None:
    """A body that does not arrive within the API server's own deadline is 408."""
    context = injector.pair.trusted()
    reader, writer = await asyncio.open_connection("127.0.0.1", injector.port, ssl=context, server_hostname=NAME)
    writer.write(
        b"POST /mutate?timeout=1s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    )
    assert (await asyncio.wait_for(reader.readline(), 20)).split()[1] == b"408"
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    ("query", "seconds"), [("?timeout=5s", 5), ("?timeout=0s", 1), ("?timeout=99s", 30), ("?timeout=x", 30), ("", 30)]
)
def test_deadlines(query: str, seconds: float) -> None:
    """The API server's own deadline counts, within 1 and 30 s."""
    from aiohttp.test_utils import make_mocked_request

    assert _deadline(make_mocked_request("POST", "/mutate" + query)) == seconds


async def test_health_and_metrics(injector: Running) -> None:
    """Healthy and ready; every result and reason is a sample from the start."""
    for path in ("/healthz", "/readyz"):
        async with injector.get(path) as response:
            assert response.status == 200
    async with injector.post("/mutate", json=review(pod())):
        pass
    assert await injector.metric('tcp_sniffer_injector_reviews_total{reason="injected",result="injected"}') == 1
    assert await injector.metric('tcp_sniffer_injector_reviews_total{reason="internal_error",result="failed"}') == 0
    for reason in set(Reason) - {Reason.INJECTED, Reason.INTERNAL_ERROR}:
        assert await injector.metric(f'tcp_sniffer_injector_reviews_total{{reason="{reason}",result="skipped"}}') == 0
    assert await injector.metric("tcp_sniffer_injector_review_seconds_count") == 1
    assert await injector.metric("tcp_sniffer_injector_certificate_not_after_seconds") > 1.7e9


async def test_a_line_for_each_decision(injector: Running, caplog: pytest.LogCaptureFixture) -> None:
    """Each decision is one structured line, a warning where what was asked for does not happen."""
    caplog.set_level(logging.INFO, "sniffer.injector")
    made = pod()
    del made["metadata"]["name"]
    made["metadata"]["generateName"] = "shop-"
    for given in (made, pod(hostNetwork=True)):
        async with injector.post("/mutate", json=review(given, dryRun=True)):
            pass
    lines = [record for record in caplog.records if record.getMessage() == "admission"]
    fields: list[dict[str, Any]] = [record.fields for record in lines]  # type: ignore[attr-defined]
    assert [record.levelname for record in lines] == ["INFO", "WARNING"]
    assert fields[0].pop("durationMs") >= 0
    assert fields[0] == {
        "uid": request(None)["uid"],
        "namespace": "shop",
        "pod": "shop-",
        "optedInBy": "pod",
        "dryRun": True,
        "result": "injected",
        "reason": "injected",
    }
    assert (fields[1]["pod"], fields[1]["reason"]) == ("shop", "host_network")


@pytest.mark.parametrize("reason", list(Reason))
def test_warnings(reason: Reason) -> None:
    """Who opts in and gets nothing is told in at most 120 ASCII characters; nobody else is told anything."""
    warning = warning_for(request(pod()), Decision(None, reason, "détail " * 40))
    quiet = reason in (
        Reason.INJECTED,
        Reason.NOT_OPTED_IN,
        Reason.OPTED_OUT,
        Reason.ALREADY_INJECTED,
        Reason.NOT_A_POD_CREATE,
    )
    assert bool(warning) is not quiet
    assert len(warning) <= 120
    assert warning.isascii()


def test_a_short_grace_period_is_warned_about() -> None:
    """A grace period of at most 5 s leaves little to deliver in, and is left as it is."""
    for grace, warned in ((0, True), (5, True), (6, False), (30, False), (None, False)):
        made = request(pod(terminationGracePeriodSeconds=grace))
        assert ("grace period" in warning_for(made, Decision([], Reason.INJECTED))) is warned


def test_numbers_and_names_of_a_review() -> None:
    """A review is read as JSON is: the last of two equal names, no NaN."""
    assert read_review(json.dumps(review(None)).encode())["uid"]
    with pytest.raises(Exception, match="not JSON"):
        read_review(b'{"a": NaN}')


async def shown(injector: Running) -> bytes:
    """The certificate that a new connection is shown."""
    _, writer = await asyncio.open_connection(
        "127.0.0.1", injector.port, ssl=injector.pair.trusted(), server_hostname=NAME
    )
    tls = writer.get_extra_info("ssl_object")
    certificate: bytes = tls.getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    return certificate


def locked(pair: Pair) -> None:
    """A pair whose key has a password."""
    made = pair.ca.issue_cert(NAME)
    key = serialization.load_pem_private_key(made.private_key_pem.bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    encryption = serialization.BestAvailableEncryption(b"x")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    pair.swap(made.cert_chain_pems[0].bytes(), pem)


BAD: dict[str, Callable[[Pair], None]] = {
    "a key with a password": locked,
    "mismatch": lambda pair: pair.mismatch(),
    "expired": lambda pair: pair.renew(not_after=OLD),
    "no PEM": lambda pair: pair.swap(b"nothing", b"nothing"),
    "half a PEM": lambda pair: pair.swap((pair.folder / "data/tls.crt").read_bytes()[:200], b""),
}


@pytest.mark.parametrize("kind", BAD)
async def test_a_bad_pair_never_replaces_a_good_one(kind: str, tmp_path: Path) -> None:
    """A pair that cannot serve is refused, counted and logged once; the next good one is taken over."""
    async with running(tmp_path) as injector:
        first = await shown(injector)
        BAD[kind](injector.pair)
        refused = 'tcp_sniffer_injector_certificate_reloads_total{result="refused"}'
        replaced = 'tcp_sniffer_injector_certificate_reloads_total{result="replaced"}'

        async def was_refused() -> bool:
            return await injector.metric(refused) == 1

        async def was_replaced() -> bool:
            return await injector.metric(replaced) == 1

        await until(was_refused)
        assert await shown(injector) == first
        async with injector.get("/readyz") as response:
            assert response.status == 200
        injector.pair.renew()
        await until(was_replaced)
        assert await shown(injector) != first
        assert await injector.metric(refused) == 1


async def test_a_certificate_that_has_expired_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the certificate in use expires, the server says that it is not ready, and stays healthy."""
    async with running(tmp_path) as injector:
        monkeypatch.setattr(Certificate, "usable", False)
        async with injector.get("/readyz") as response:
            assert response.status == 503
        async with injector.get("/healthz") as response:
            assert response.status == 200


async def test_old_tls_is_refused(injector: Running) -> None:
    """TLS 1.1 and older are not spoken, after a change of the certificate either."""
    injector.pair.renew()

    async def replaced() -> bool:
        return await injector.metric('tcp_sniffer_injector_certificate_reloads_total{result="replaced"}') == 1

    await until(replaced)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", injector.port, ssl=context)


async def test_no_certificate_at_start(tmp_path: Path) -> None:
    """Without a usable pair the server does not start: code 2."""
    with pytest.raises(SnifferError, match="no usable certificate") as raised:
        await serve(
            InjectorOptions(tls_cert_file=str(tmp_path / "a"), tls_key_file=str(tmp_path / "b")), asyncio.Event()
        )
    assert raised.value.exit_code == 2


async def test_a_port_in_use(tmp_path: Path) -> None:
    """A port that is taken is code 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        files: dict[str, Any] = dict(Pair(tmp_path).files)
        options = InjectorOptions(address="127.0.0.1", port=taken.getsockname()[1], **files)
        with pytest.raises(SnifferError, match="cannot listen on port"):
            await serve(options, asyncio.Event())


@pytest.mark.slow
async def test_drain(tmp_path: Path) -> None:
    """While it drains the server is not ready, answers on old and new connections, and closes each."""
    async with running(tmp_path, stop_delay_ms=1500) as injector:
        async with injector.post("/mutate", json=review(pod())) as response:
            assert "close" not in response.headers.get("Connection", "")
        injector.stop.set()

        async def draining() -> bool:
            async with injector.get("/readyz") as response:
                return bool(response.status == 503)

        await until(draining)
        async with injector.post("/mutate", json=review(pod())) as response:
            assert (response.status, response.headers["Connection"]) == (200, "close")
            assert "patch" in (await response.json())["response"]
        async with injector.get("/healthz") as response:
            assert response.status == 200
        await asyncio.wait_for(injector.task, 20)
        with pytest.raises(aiohttp.ClientConnectorError):
            await injector.get("/healthz")


def start(pair: Pair, *arguments: str) -> subprocess.Popen[str]:
    """The injector as a process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "sniffer.injector", "--address", "127.0.0.1", "--port", str(port)]
    command += ["--tls-cert-file", pair.files["tls_cert_file"], "--tls-key-file", pair.files["tls_key_file"]]
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("INJECTOR_", "TCP_SNIFFER_"))}
    return subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True, env=environ)


def lines_until(process: subprocess.Popen[str], message: str) -> list[dict[str, Any]]:
    """The log up to a message."""
    found: list[dict[str, Any]] = []
    assert process.stderr is not None
    for line in process.stderr:
        found.append(json.loads(line))
        if found[-1]["message"] == message:
            return found
    raise AssertionError(f"no {message!r} in {found}")


@pytest.mark.parametrize("number", signals.STOPS)
def test_a_stop_is_code_0(number: int, tmp_path: Path) -> None:
    """SIGTERM, SIGINT and the other stops end the process with 0 after the drain, every line of its log is JSON."""
    process = start(Pair(tmp_path), "--stop-delay-ms", "10", "--resources", "limits.cpu=none")
    with process:
        before = lines_until(process, "listening")
        assert any("limits.cpu is left out" in line["message"] and line["level"] == "warning" for line in before)
        process.send_signal(number)
        lines_until(process, "stopped")
        assert process.wait(20) == 0


def test_a_second_signal_is_code_2(tmp_path: Path) -> None:
    """A second signal ends the drain at once; what is no stop changes nothing."""
    process = start(Pair(tmp_path), "--stop-delay-ms", "60000")
    with process:
        lines_until(process, "listening")
        for ignored in signals.IGNORED:
            process.send_signal(ignored)
        process.send_signal(signal.SIGTERM)
        lines_until(process, "stopping")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--output-url", "http://c.example/", "--production"], 1, "must use HTTPS in production"),
        (["--nonsense"], 1, "is not an option"),
        (["--config", "/nowhere/at/all.yaml"], 2, "cannot be read"),
        (["--tls-key-file", "/nowhere/at/all.key"], 2, "no usable certificate"),
        (["--tls-key-file", "-----BEGIN hunter2"], 2, "no usable certificate"),
        (["--tls-key-file", "/dev/zero"], 2, "Not a regular file"),
        (["--tls-cert-file", "/dev/zero"], 2, "Not a regular file"),
        (["--config", "/dev/zero"], 2, "Not a regular file"),
    ],
)
def test_exit_codes(arguments: list[str], code: int, word: str, tmp_path: Path) -> None:
    """1 for the configuration, 2 for everything else, with the reason in the log."""
    with start(Pair(tmp_path), *arguments) as process:
        _, error = process.communicate(timeout=60)
        assert process.returncode == code
        assert word in error
        assert "hunter2" not in error  # what was given as a path may be the key itself


def shadowed(folder: Path, code: str) -> subprocess.Popen[str]:
    """The injector as a process whose import of a library runs `code`."""
    (folder / "prometheus_client.py").write_text(code)
    command = [sys.executable, "-m", "sniffer.injector"]
    environ = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ)


@pytest.mark.parametrize("error", ["ImportError", "RuntimeError"])
def test_a_failed_import_is_code_2(error: str, tmp_path: Path) -> None:
    """What cannot even be imported is code 2, where Python's own would be 1."""
    with shadowed(tmp_path, f"raise {error}('planted')") as process:
        _, shown = process.communicate(timeout=60)
        assert process.returncode == 2
        assert "planted" in shown


def test_a_stop_while_it_starts_is_code_0(tmp_path: Path) -> None:
    """A stop that comes while the process is still importing is a clean one."""
    with shadowed(
        tmp_path, "import sys, time; sys.stderr.write('importing\\n'); sys.stderr.flush(); time.sleep(60)"
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "importing\n"
        process.terminate()
        assert process.wait(20) == 0


def test_help_is_code_0() -> None:
    """--help names every option and ends with 0."""
    done = subprocess.run(
        [sys.executable, "-m", "sniffer.injector", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert all(str(option.flag) in done.stdout for option in InjectorOptions.options().values())
