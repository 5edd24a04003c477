"""The promises of docs/internals/SECURITY-MODEL.md about secrets, logs and code.

Secrets are planted in traffic and options and searched for in everything that the sniffer writes.
"""

from __future__ import annotations

import ast
import asyncio
import gzip
import http.client
import json
import os
import re
import signal
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sniffer import SnifferConfig, ValidationError, create_sniffer
from tests.captures import connection, get, ok, write
from tests.daemon import SECONDS, Daemon, serving
from tests.packets import pcap

ROOT = Path(__file__).parent.parent
TOKEN = "tokenZ9secretZ9"
URL_SECRET = "urlZ9secretZ9"
KEY = "keyZ9secretZ9" * 3


def secret(place: str) -> str:
    """A secret that says where it was planted."""
    return f"{place}Z9secretZ9"


SENT: list[tuple[bytes, bytes]] = [
    (
        f"GET /a?sig={secret('query')}&b=1&s%69g={secret('encoded')};SIG={secret('upper')} HTTP/1.1\r\n"
        f"Host: x\r\nAuthorization: Bearer {secret('bearer')}\r\nauthorization: Basic {secret('repeated')}\r\n"
        f"AUTHORIZATION : {secret('blank')}\r\nProxy-Authorization: {secret('proxy')}\r\n"
        f"Cookie: a={secret('cookie')}\r\nCookie: b={secret('cookie2')}\r\nX-Api-Key: {secret('key')}\r\n\r\n".encode(),
        ok(set_cookie=f"sid={secret('setcookie')}")[:-5].replace(
            b"content-length", f"Set-Cookie: second={secret('setcookie2')}\r\ncontent-length".encode()
        )
        + b"hello",
    ),
    (
        f"PUT http://user:{secret('userinfo')}@host/b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
        f"Authorization: one\r\n {secret('folded')}\r\n\r\n"
        f"2\r\nhi\r\n0\r\nAuthorization: {secret('trailer')}\r\n\r\n".encode(),
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nSet-Cookie: {secret('trailer2')}\r\n\r\n".encode(),
    ),
    (f"GET  http://user:{secret('userinfo2')}@host/c HTTP/1.1\r\n\r\n".encode(), ok()),
    (f"GET //user:{secret('userinfo3')}@host/d HTTP/1.1\r\n\r\n".encode(), ok()),
    (
        f"GET h_t:user://u:{secret('userinfo4')}@host/e HTTP/1.1\r\nCookie: {secret('cut')}\r\n: bad\r\n\r\n".encode(),
        ok(),
    ),
    (
        f"CONNECT user:{secret('authority')}@host:443 HTTP/1.1\r\n\r\n".encode(),
        b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n",
    ),
    (
        get(
            f"/u;sig={secret('matrix')};x/b??Signature={secret('value')};{secret('behind')}&sig[]={secret('bracket')}"
            f"&X-Amz-Signature={secret('amz')}&X-Amz-Credential={secret('amz2')}&X-Amz-Security-Token={secret('amz3')}"
            f"&next=https%3A%2F%2Fu%3A{secret('within')}%40h%2F%3Fsig%3D{secret('within2')}%3B{secret('within3')}"
            f"&u[token]={secret('inner')}&Api_Key={secret('api')}#access_token={secret('fragment')}",
            referer=f"https://{secret('refuser')}@h/?token={secret('referer')};{secret('referer2')}",
            origin=f"http://u:{secret('origin')}@h",
        ),
        ok(
            location=f"//{secret('locuser')}@h/cb#access_token={secret('location')}",
            content_location=f"/p;sig={secret('content')}",
            link=f"<http://h/?sig={secret('link')};{secret('link2')}>; rel=next, <?a=b&token={secret('link3')}>",
            refresh=f"0; url=http://u:{secret('refresh')}@h/?sig={secret('refresh2')}",
        ),
    ),
    *(
        (
            f"POST /{number} HTTP/1.1\r\nContent-Type: {kind}\r\nContent-Length: {len(sent)}\r\n\r\n".encode() + sent,
            ok(gzip.compress(sent), content_type=kind, content_encoding="gzip"),
        )
        for number, (kind, sent) in enumerate(
            (kind, sent.encode())
            for kind, sent in (
                (
                    "application/json",
                    json.dumps({"a": {"Pass_Word": secret("json")}, "b": [{"pin": [secret("list")]}]}),
                ),
                ("application/json", json.dumps({"q": json.dumps({"token": secret("string")})})),
                ("application/json", f"{secret('broken')} {{"),
                ("text/plain", json.dumps({"api-key": secret("plain")}) + json.dumps({"otp": secret("lines")})),
                ("text/event-stream", f'data: {{"token":"{secret("event")}"}}\n\n'),
                ("application/x-www-form-urlencoded", f"u=1&pass%77ord={secret('form')};{secret('form2')}&b=2"),
                ("multipart/form-data; boundary=b", f'--b\r\nA: a; name="pin"\r\n\r\n{secret("part")}\r\n--b--\r\n'),
                ("", f'{{"password":"{secret("cutbody")}'),
            )
        )
    ),
    (get("/slow", authorization=secret("last")), f"HTTP/1.1 200 OK\r\nSet-Cookie: {secret('cuthead')}\r\nX: ".encode()),
]
"""Requests and responses with a secret in every place that is redacted."""

PLANTED = re.compile("[A-Za-z]+[0-9]?Z9secretZ9")


@pytest.fixture
def collector() -> Iterator[tuple[int, list[tuple[dict[str, str], bytes]]]]:
    """A collector that fails every other POST; its port, and what it got."""
    got: list[tuple[dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            got.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(400 if len(got) % 2 else 204, "No\x1b[31m")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    with serving(server) as port:
        yield port, got


def ask(port: int, path: str) -> str:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    client.request("GET", path)
    text = client.getresponse().read().decode()
    client.close()
    return text


def free_port() -> int:
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def live_view(link: str, count: int) -> Iterator[str]:
    """All that the live view shows of so many exchanges: the page's stream, each of them, the HAR file."""
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    with opener.open(link, timeout=SECONDS) as page:
        base = page.geturl()
    with opener.open(f"{base}events", timeout=SECONDS) as events:
        seen = ""
        while seen.count("/slow") == 0:  # the last request's
            seen += events.read1(65536).decode()
        yield seen
    for name in ("har", *(f"exchange/{number + 1}" for number in range(count))):
        with opener.open(f"{base}{name}", timeout=SECONDS) as answer:
            yield answer.read().decode()


def files_under(path: Path) -> Iterator[bytes]:
    for file in path.rglob("*"):
        if file.is_file() and not file.is_symlink() and file.name != "key":
            yield file.read_bytes()


@pytest.mark.parametrize("joinable", [False, True])
def test_no_secret_leaves(
    tmp_path: Path, collector: tuple[int, list[tuple[dict[str, str], bytes]]], joinable: bool
) -> None:
    """Secrets in heads, trailers, queries, user info, the token, the URL: in no output, page, log, metric or file."""
    port, got = collector
    metrics = free_port()
    (tmp_path / "key").write_text(KEY)
    os.mkfifo(tmp_path / "pipe")
    out = tmp_path / "out"
    out.mkdir()
    with Daemon(
        *("--ports", "8080", "--read", str(tmp_path / "pipe"), "--stdout", "--log-level", "debug"),
        *("--output-url", f"http://127.0.0.1:{port}/in?key={URL_SECRET}", "--metrics-port", str(metrics)),
        *(("--redact-key-file", str(tmp_path / "key")) if joinable else ()),
        *("--har", str(out / "out.har"), "--spool-dir", str(out / "spool"), "--ui"),
        environ={"OUTPUT_URL_AUTH_TOKEN": TOKEN},
    ) as daemon:
        with (tmp_path / "pipe").open("wb") as pipe:
            pipe.write(pcap(connection(SENT)))
            pipe.flush()
            daemon.wait_for(lambda: len(daemon.messages) >= 2 * len(SENT) - 1)
            texts = [ask(metrics, path) for path in ("/metrics", "/healthz", "/readyz")]
            view = list(live_view(daemon.log("live view")["url"], len(SENT) - 1))
            daemon.send(signal.SIGUSR1)
            daemon.log("ledger")
            kept = list(files_under(out))
        daemon.wait_for(lambda: len(daemon.messages) == 2 * len(SENT))
        daemon.stop()  # the live view stays after the end of the file
    assert len(daemon.messages) == 2 * len(SENT)
    assert len(got) >= len(daemon.messages)
    assert {headers["Authorization"] for headers, _ in got} == {f"Bearer {TOKEN}"}
    everything = b"\n".join(
        [
            "".join(texts + view + daemon.stderr + [repr(daemon.messages)]).encode(),
            *(body for _, body in got),
            *kept,
            *files_under(out),
        ]
    ).decode("utf-8", "replace")
    assert set(PLANTED.findall(everything)) == set()
    assert everything.count("[REDACTED" if joinable else "[REDACTED]") > 20
    assert "".join(view).count("[REDACTED") > 10
    if joinable:
        assert "[REDACTED]" not in "".join(map(repr, daemon.messages))


CRASH = f"""
import sys
from sniffer import cli
from sniffer.pipeline import Sniffer
async def _pump(self):
    raise RuntimeError("Authorization: Bearer {TOKEN} {TOKEN}\\x1b[31m\\u202e\\nlevel=info")
Sniffer._pump = _pump
cli.leave(cli.run(sys.argv[1:]))
"""


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_secret_in_a_crash(tmp_path: Path, form: str) -> None:
    """An exception that quotes the token, with what could steer a terminal: exit 2, and the log has neither."""
    file = write(tmp_path / "x.pcap", connection(SENT))
    with Daemon(
        "--ports", "8080", "--read", file, "--stdout", "--log-format", form,
        program=("-c", CRASH), environ={"OUTPUT_URL_AUTH_TOKEN": TOKEN},
    ) as daemon:  # fmt: skip
        assert daemon.end() == 2
    log = "".join(daemon.stderr)
    assert "RuntimeError" in log
    assert "REDACTED" in log
    assert PLANTED.findall(log) == []
    assert_harmless(log)


def assert_harmless(log: str) -> None:
    """Nothing in it steers a terminal."""
    assert re.findall("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]", log) == []


CALLBACK = """
import sys
from sniffer import cli
def callback(message):
    raise ValueError(f"{message.path} {message.reason} {dict(message.headers)}")
cli.leave(cli.run(sys.argv[1:], on_http_message=callback))
"""


@pytest.mark.parametrize("form", ["json", "console"])
def test_traffic_cannot_write_log_lines(tmp_path: Path, form: str) -> None:
    """Whatever stands in targets, reasons and headers: no control character in the log, no line of its own."""
    hostile = "\x1b[31m\x9bX\x07\u202e".encode() + b"\xe2\x80\xa8"
    fake = b'{"level":"error","message":"forged"}'
    target = hostile.translate(None, b"\x1b\x07") + fake
    request = b"GET /%s HTTP/1.1\r\nX: %s\r\n\r\n" % (target, hostile)
    response = b"HTTP/1.1 200 %s\r\nX: %s\r\nContent-Length: 0\r\n\r\n" % (target, hostile)
    exchanges = [(request, response)] * 3
    file = write(tmp_path / "x.pcap", connection(exchanges))
    with Daemon(
        "--ports", "8080", "--read", file, "--stdout", "--log-format", form, "--log-level", "debug",
        program=("-c", CALLBACK),
    ) as daemon:  # fmt: skip
        assert daemon.end() == 2  # the callback gave up its messages
    assert len(daemon.messages) == 6
    assert "ValueError" in "".join(daemon.stderr)
    assert_harmless("".join(daemon.stderr))
    for line in daemon.stderr:
        assert not line.startswith('{"level"')
        if form == "json":
            assert line.startswith('{"timestamp"')


# Marks that can be joined


def marked(key: bytes | None, tmp_path: Path, exchanges: list[tuple[bytes, bytes]]) -> list[Any]:
    """The messages of these exchanges, redacted with this key."""
    options: dict[str, Any] = {}
    if key is not None:
        (tmp_path / "key").write_bytes(key)
        options["redact_key_file"] = tmp_path / "key"

    async def read() -> list[Any]:
        sniffer = create_sniffer(ports=[8080], read=write(tmp_path / "x.pcap", connection(exchanges)), **options)
        messages = sniffer.__aiter__()
        async with sniffer:
            return [message async for message in messages]

    return asyncio.run(read())


def test_marks_join_equal_values(tmp_path: Path) -> None:
    """With a key: the same mark for the same value, wherever it stands, the HMAC-SHA256 and the length."""
    import hashlib
    import hmac

    key = b"0123456789abcdef"
    messages = marked(
        key + b"\n",
        tmp_path,
        [
            (get("/a?sig=abc&x=1", x_api_key="abc", cookie="k=1"), ok(set_cookie="k=1")),
            (b"GET /b HTTP/1.1\r\nX-API-KEY: abc\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n", ok(set_cookie="k=2")),
        ],
    )

    def mark(value: bytes) -> str:
        return f"[REDACTED:{hmac.new(key, value, hashlib.sha256).hexdigest()[:32]}:{len(value)}]"

    first, answer, second, other = messages
    assert first.path == f"/a?sig={mark(b'abc')}&x=1"
    assert first.headers["x-api-key"] == second.headers["x-api-key"] == mark(b"abc")
    assert first.headers["cookie"] == mark(b"k=1") == answer.headers["set-cookie"][0]
    assert second.headers["cookie"] == mark(b"a=1; b=2")  # joined as the header is
    assert other.headers["set-cookie"] == (mark(b"k=2"),)


def test_marks_of_two_keys_do_not_join(tmp_path: Path) -> None:
    """Another key gives other marks; none gives the plain one."""
    exchange = [(get("/", authorization="abc"), ok())]
    seen = {marked(key, tmp_path, exchange)[0].headers["authorization"] for key in (b"k" * 16, b"l" * 16, None)}
    assert len(seen) == 3
    assert "[REDACTED]" in seen


@pytest.mark.parametrize("content", [b"", b"short\n", b"x" * 5000, None])
def test_a_key_that_is_none_is_refused(tmp_path: Path, content: bytes | None) -> None:
    """A key that is missing, short or a whole file of something else is one clear error that does not quote it."""
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(ValidationError) as raised:
        SnifferConfig(ports=[80], redact_key_file=tmp_path / "key")
    assert raised.value.field == "redact_key_file"
    assert "short" not in str(raised.value)
    assert "xxx" not in str(raised.value)


def test_the_key_is_not_shown(tmp_path: Path) -> None:
    """The configuration's repr has the file, not the key."""
    (tmp_path / "key").write_text(KEY)
    assert KEY not in repr(SnifferConfig(ports=[80], redact_key_file=tmp_path / "key"))


# The code


FORBIDDEN = {
    "eval", "exec", "compile", "os.system", "os.popen", "pickle", "marshal", "shelve", "subprocess", "yaml.load",
    "yaml.unsafe_load", "yaml.full_load", "yaml.Loader", "yaml.UnsafeLoader", "ssl._create_unverified_context",
    "ssl.CERT_NONE", "ssl.CERT_OPTIONAL", "tempfile.mktemp", "telnetlib", "shell",
}  # fmt: skip


def names_used(tree: ast.AST) -> Iterator[str]:
    """Names that are called or imported, dotted ones whole, and keywords that are given."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id
        elif isinstance(node, ast.keyword) and node.arg is not None:
            yield node.arg


def test_nothing_executes_or_deserialises() -> None:
    """No shell, no subprocess, no eval, no pickle, no unsafe YAML, no unverified TLS in the package."""
    files = [*ROOT.glob("sniffer/**/*.py"), *ROOT.glob("sniffer_core/*.py")]
    assert len(files) > 15
    for file in files:
        assert FORBIDDEN.isdisjoint(names_used(ast.parse(file.read_text("utf-8")))), file
    for file in ROOT.glob("sniffer_core/*.pyx"):
        assert not re.search(
            r"\b(eval|exec|pickle|system|popen|sprintf|strcpy|strcat|gets|alloca)\s*\(", file.read_text()
        ), file


def test_the_search_finds_what_it_looks_for() -> None:
    """Each forbidden thing is seen where it is."""
    code = "import pickle\nfrom subprocess import run\neval('1')\nyaml.load(x)\nssl.CERT_NONE\nf(shell=True)\n"
    assert {"pickle", "subprocess", "eval", "yaml.load", "ssl.CERT_NONE", "shell"} <= set(names_used(ast.parse(code)))
