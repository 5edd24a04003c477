"""sniffer.config: every option of the contract, by keyword, variable and flag."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import trustme
from hypothesis import strategies as st

from sniffer import budget
from sniffer import config as module
from sniffer import options as options_module
from sniffer.cli import configure
from sniffer.config import REDACT_BODY, REDACT_HEADERS, REDACT_QUERY, SnifferConfig
from sniffer.errors import ValidationError
from sniffer.options import Secret
from sniffer.outputs.ui import split_address

DOCS = Path(__file__).parents[1] / "docs"
TOKEN = "t0ken-value"

# Of every option a text that is valid and not the default, and what it means.
VALID: dict[str, tuple[str, object]] = {
    "ports": (" 80 , 8080 ", (80, 8080)),
    "interface": ("any", "any"),
    "read": ("capture.pcap", ("capture.pcap",)),
    "stop_after": ("3", 3),
    "capture_buffer_size": ("1048576", 1048576),
    "sample_rate": ("0.25", 0.25),
    "output_stdout": ("yes", True),
    "output_stdout_max_line": ("16000", 16000),
    "output_url": ("HTTPS://Collector.example:8443/x?y=z", "https://Collector.example:8443/x?y=z"),
    "output_url_auth_token": (TOKEN, Secret(TOKEN)),
    "output_timeout_ms": ("500", 500),
    "output_concurrency": ("2", 2),
    "output_batch_size": ("100", 100),
    "output_batch_wait_ms": ("50", 50),
    "output_gzip": ("on", True),
    "spool_dir": ("/var/spool/tcp-sniffer", "/var/spool/tcp-sniffer"),
    "spool_size": ("64Mi", 64 << 20),
    "max_body_size": ("0", 0),
    "decode_bodies": ("off", False),
    "redact_headers": ("X-Secret, Cookie", ("x-secret", "cookie")),
    "redact_query": ("key,Token", ("key", "Token")),
    "redact_body": ("Pass_Word,clé", ("Pass_Word", "clé")),
    "exclude_paths": ("/healthz,/ready*", ("/healthz", "/ready*")),
    "exclude_user_agents": ("kube-probe/*", ("kube-probe/*",)),
    "where": ("status >= 500 && path =~ '^/api'", "status >= 500 && path =~ '^/api'"),
    "keep": ("latencyMs > 1s", "latencyMs > 1s"),
    "keep_others": ("0.25", 0.25),
    "pod_name": ("app-1", "app-1"),
    "namespace": ("shop", "shop"),
    "node_name": ("node-1", "node-1"),
    "max_concurrent_connections": ("5", 5),
    "connection_idle_timeout_ms": ("1", 1),
    "memory_budget": ("16Mi", 16 << 20),
    "production": ("TRUE", True),
    "drain_timeout_ms": ("1000", 1000),
    "stop_delay_ms": ("0", 0),
    "on_capture_error": ("HOLD", "hold"),
    "stats_interval_ms": ("0", 0),
    "metrics_port": ("9100", 9100),
    "metrics_address": ("::1", "::1"),
    "log_level": ("Debug", "debug"),
    "log_format": ("json", "json"),
    "output_otlp_endpoint": ("HTTP://collector:4318", "http://collector:4318"),
    "output_otlp_signals": ("Both", "both"),
    "output_otlp_body": ("1Ki", 1024),
    "otel_exporter_otlp_headers": ("x-tenant=a%20b", Secret("x-tenant=a%20b")),
    "otel_exporter_otlp_timeout": ("500", 500),
    "otel_exporter_otlp_compression": ("NONE", "none"),
    "otel_exporter_otlp_certificate": ("ca.pem", "ca.pem"),
    "otel_service_name": ("shop", "shop"),
    "otel_resource_attributes": ("team=a,zone=b", "team=a,zone=b"),
    "output_file": ("out.jsonl.gz", "out.jsonl.gz"),
    "output_file_size": ("1Mi", 1 << 20),
    "output_file_age_ms": ("1000", 1000),
    "output_file_keep": ("0", 0),
    "har": ("out.har", "out.har"),
    "ui_address": ("8090", "127.0.0.1:8090"),
    "ui_remote": ("yes", True),
    "mcp": ("yes", True),
}
SAMPLED = [
    "output_url_auth_token_file",
    "output_ca_file",
    "redact_key_file",
    "on_http_message",
]  # each with a test of its own

INVALID: dict[str, list[str]] = {
    "where": ["status", "status = 200", "statuss == 200", "path =~ '(a+)+'", "path == '" + "a" * 65536 + "'"],
    "keep": ["latencyMs >", "(((", "é"],
    "keep_others": ["-0.1", "1.1", "half", "nan"],
    "ports": [
        "0",
        "65536",
        "-1",
        "http",
        "80,80",
        "80,,81",
        "80 81",
        "8.0",
        ",",
        "8100-8000",
        "80-80",
        "0-9",
        "1-65536",
        "1-1025",
        "80-82,81",
        "80-",
    ],
    "interface": ["eth\x000"],
    "capture_buffer_size": ["0", "-1", "1", "inf", "16M"],
    "sample_rate": ["nan", "inf", "-inf", "-0.1", "1.01", "half", "1e999", "1_0"],
    "output_stdout": ["maybe", "2"],
    "output_stdout_max_line": ["-1", "1", "4095", "16M", "none"],
    "output_url": [
        "collector",
        "/path",
        "ftp://h/",
        "https://",
        "https:///x",
        "http://:80/",
        "http://h:0/",
        "http://h:/",
        "http://h:65536/",
        "http://h:port/",
        "http://[::1",
        "http://[zz]/",
        "http://u:p@h/",
        "http://u@h/",
        "http://a b/",
        "http://h/\r\nx",
        "http://a..b/",
        "http://" + "a" * 64 + "/",
        "http://h%00/",
        "//h/",
        "javascript:alert(1)",
    ],
    "output_url_auth_token": ["two words", "tök", "a\nb"],
    "output_timeout_ms": ["0", "-1", "1.5", "nan", "99999999999"],
    "output_concurrency": ["0", "x"],
    "output_batch_size": ["0"],
    "output_batch_wait_ms": ["0"],
    "output_gzip": ["gzip"],
    "output_otlp_endpoint": ["collector:4318", "ftp://h/", "http://u:p@h/"],
    "output_otlp_signals": ["metrics", "logs,spans"],
    "output_otlp_body": ["-1", "1Gi"],
    "otel_exporter_otlp_headers": ["token", "a b=c", "=x", "x=%0d%0ay: z"],
    "otel_exporter_otlp_timeout": ["0", "10s"],
    "otel_exporter_otlp_compression": ["zstd"],
    "otel_exporter_otlp_certificate": ["/ca\x00"],
    "otel_service_name": ["a\nb"],
    "otel_resource_attributes": ["team", "=x"],
    "output_file": ["/var\x00", "folder/", ".."],
    "output_file_size": ["0", "1000", "much"],
    "output_file_age_ms": ["0", "999", "1h"],
    "output_file_keep": ["-1", "all"],
    "spool_dir": ["/var\x00"],
    "spool_size": ["0", "1000", "1048575", "much"],
    "max_body_size": ["-1", "1KB", "inf"],
    "decode_bodies": ["gzip"],
    "redact_headers": ["a b", "authorization:", "cookie,,x", ",", "none,cookie", "cookie, None", "a=b", ":path", "x-*"],
    "redact_query": [
        *("a,,b", ",", "none,sig", "sig,NONE", "a=b", "=", "?sig", "&a", "a;b", "a%20b", "x#y", "X-Amz-*"),
        "https://h/?sig=1",
    ],
    "redact_body": ["a,,b", ",", "none,pin", "a.b", "/a/b", "a[b]", "a=b", "x-*", "-_", "x" * 65],
    "exclude_paths": ["/a,", "healthz", "/a,ready*", ".*"],
    "exclude_user_agents": ["a,,b"],
    "max_concurrent_connections": ["0"],
    "connection_idle_timeout_ms": ["0"],
    "memory_budget": ["0", "-1", "half", "nan"],
    "production": ["production", "prod", "ture"],
    "drain_timeout_ms": ["0"],
    "stop_delay_ms": ["-1"],
    "on_capture_error": ["restart"],
    "stats_interval_ms": ["-1"],
    "metrics_port": ["0", "70000"],
    "ui_address": [
        *(
            "localhost",
            "localhost:",
            ":8090",
            "shop.example:80",
            "127.0.0.1:65536",
            "[::1]",
            "::1:80",
            "1.2.3:80",
            "http://[::1]:80",
        ),
        *("127.0.0.1:-1", "127.0.0.1:x", "192.0.2.1:80", "[2001:db8::1]:80", "0.0.0.0:0", "[zz]:1", "127.0.0.1:0x50"),
    ],
    "ui_remote": ["maybe"],
    "metrics_address": ["nowhere.example", "127.0.0.1:80", ""[:0] or "1.2.3"],
    "log_level": ["loud"],
    "log_format": ["xml"],
}


@pytest.fixture(autouse=True)
def _no_container(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own memory limit decides nothing here."""
    monkeypatch.setattr(budget, "memory_limit", lambda: None)


def from_variables(**variables: str) -> SnifferConfig:
    """A configuration of the daemon's kind, from variables alone."""
    return SnifferConfig.from_env({"PORTS": "8080", **variables})


def problems(**keywords: Any) -> dict[str, str]:
    """The problems of a configuration, by field."""
    with pytest.raises(ValidationError) as caught:
        SnifferConfig(**{"ports": [8080], **keywords})
    return {problem.field: problem.message for problem in caught.value.problems}


def test_every_option_is_tried() -> None:
    """The tables of this test name every option, so that a new one cannot go untested."""
    assert [*VALID, *SAMPLED] == sorted([*VALID, *SAMPLED], key=[*VALID, *SAMPLED].index)
    assert set(VALID) | set(SAMPLED) == set(SnifferConfig.options())


def test_a_spool_without_a_collector_is_warned_about() -> None:
    """SPOOL_DIR alone keeps nothing, and that is said."""
    config = SnifferConfig(ports=[8080], spool_dir="/spool")
    assert any("spool_dir" in warning for warning in config.warnings)
    config = SnifferConfig(ports=[8080], spool_dir="/spool", output_url="https://collector.example/")
    assert not any("spool_dir" in warning for warning in config.warnings)


def test_files_to_read() -> None:
    """`read` takes a path or several, as text or as path objects; a flag's text has NULs between them."""
    for given in ("a", Path("a"), ["a"], (Path("a"),)):
        assert SnifferConfig(ports=[80], read=given).read == ("a",)
    assert SnifferConfig(ports=[80], read=["a", Path("b"), "-"]).read == ("a", "b", "-")
    assert SnifferConfig.from_texts({"ports": "80", "read": "a\0b,c"}).read == ("a", "b,c")
    assert SnifferConfig(ports=[80], read=None).read == ()


def test_har_must_not_replace_what_is_read() -> None:
    """The file that HAR is written to is none of those that are read."""
    assert problems(read=["a.pcap", "b.pcap"], har="./b.pcap") == {"har": "har must not be a file that is read"}


NO_VARIABLE = ("read", "stop_after", "har", "mcp", "on_http_message")


def test_names_of_the_contract() -> None:
    """Keywords are the snake_case of the variables; only the ones that the contract names differ."""
    for keyword, option in SnifferConfig.options().items():
        variable = {"production": "TCP_SNIFFER_PRODUCTION", **dict.fromkeys(NO_VARIABLE, "")}.get(keyword)
        assert option.variable == (keyword.upper() if variable is None else variable)
    options = SnifferConfig.options()
    assert options["output_stdout"].flag == "--stdout"
    assert options["output_url"].flag == "--output-url"
    assert options["read"].flag == "--read"
    assert not options["output_url_auth_token"].flag, "a secret never goes on a command line"
    assert not options["output_url_auth_token_file"].flag


def test_defaults() -> None:
    """The defaults are those of the contract."""
    config = SnifferConfig(ports=[8080])
    assert {keyword: getattr(config, keyword) for keyword in SnifferConfig.options()} == {
        "ports": (8080,),
        "interface": None,
        "read": (),
        "stop_after": None,
        "output_otlp_endpoint": None,
        "output_otlp_signals": "auto",
        "output_otlp_body": 0,
        "otel_exporter_otlp_headers": None,
        "otel_exporter_otlp_timeout": 10_000,
        "otel_exporter_otlp_compression": "gzip",
        "otel_exporter_otlp_certificate": None,
        "otel_service_name": None,
        "otel_resource_attributes": None,
        "output_file": None,
        "output_file_size": 64 << 20,
        "output_file_age_ms": 3_600_000,
        "output_file_keep": 16,
        "har": None,
        "ui_address": None,
        "ui_remote": False,
        "mcp": False,
        "capture_buffer_size": 16 << 20,
        "sample_rate": 1.0,
        "output_stdout": False,
        "output_stdout_max_line": 0,
        "output_url": None,
        "output_url_auth_token": None,
        "output_url_auth_token_file": None,
        "output_timeout_ms": 10_000,
        "output_concurrency": 8,
        "output_batch_size": 1,
        "output_batch_wait_ms": 200,
        "output_gzip": False,
        "output_ca_file": None,
        "spool_dir": None,
        "spool_size": 256 << 20,
        "max_body_size": 65_536,
        "decode_bodies": True,
        "redact_headers": REDACT_HEADERS,
        "redact_query": REDACT_QUERY,
        "redact_body": REDACT_BODY,
        "redact_key_file": None,
        "exclude_paths": (),
        "exclude_user_agents": (),
        "where": None,
        "keep": None,
        "keep_others": 1.0,
        "pod_name": None,
        "namespace": None,
        "node_name": None,
        "max_concurrent_connections": 10_000,
        "connection_idle_timeout_ms": 300_000,
        "memory_budget": 128 << 20,
        "production": False,
        "drain_timeout_ms": 25_000,
        "stop_delay_ms": 0,
        "on_capture_error": "exit",
        "stats_interval_ms": 60_000,
        "metrics_port": None,
        "metrics_address": "127.0.0.1",
        "log_level": "info",
        "log_format": None,
        "on_http_message": None,
    }
    assert config.warnings == ()


def with_it(keyword: str) -> dict[str, str]:
    """The text of the option without which this one is not read, or is wrong."""
    other = "keep" if keyword == "keep_others" else SnifferConfig.options()[keyword].only_with
    return {other: VALID[other][0]} if other is not None else {}


@pytest.mark.parametrize("keyword", VALID)
def test_variable(keyword: str) -> None:
    """Each variable sets its option, blanks around its value ignored."""
    text, value = VALID[keyword]
    variable = SnifferConfig.options()[keyword].variable
    texts = {keyword: f" {text} "}
    if variable:
        assert SnifferConfig.texts_of({variable: f" {text} "}) == texts
    config = SnifferConfig.from_texts({"ports": "8080", **with_it(keyword), **texts})
    assert getattr(config, keyword) == value


@pytest.mark.parametrize("keyword", VALID)
@pytest.mark.parametrize("empty", ["", "  "])
def test_empty_variable_is_unset(keyword: str, empty: str) -> None:
    """An empty variable is the same as an unset one, for every option; only PORTS is required."""
    texts = {"ports": "8080", keyword: empty}
    if keyword == "ports":
        with pytest.raises(ValidationError, match="ports is required"):
            SnifferConfig.from_texts(texts)
    else:
        assert SnifferConfig.from_texts(texts) == SnifferConfig(ports=[8080])


@pytest.mark.parametrize(("keyword", "text"), [(keyword, text) for keyword in INVALID for text in INVALID[keyword]])
def test_invalid_text(keyword: str, text: str) -> None:
    """Each invalid value is one problem of its own field, and nothing else."""
    with pytest.raises(ValidationError) as caught:
        SnifferConfig.from_texts({"ports": "8080", **with_it(keyword), keyword: text})
    assert [problem.field for problem in caught.value.problems] == [keyword]
    assert caught.value.problems[0].message.startswith(f"{keyword} ")


@pytest.mark.parametrize("keyword", [keyword for keyword in INVALID if keyword.startswith("otel_")])
def test_variables_of_other_programs(keyword: str) -> None:
    """OpenTelemetry's variables, which the watched application may have, are not read where nothing is sent there."""
    for text in (*INVALID[keyword], VALID[keyword][0]):
        environ = {"PORTS": "8080", keyword.upper(): text}
        assert SnifferConfig.from_env(environ) == SnifferConfig(ports=[8080])


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("ports", 8080),
        ("ports", "8080"),
        ("ports", ["8080"]),
        ("ports", [True]),
        ("ports", []),
        ("ports", [80, 80]),
        ("interface", 1),
        ("interface", ""),
        ("read", 3),
        ("read", ""),
        ("read", b"x"),
        ("read", []),
        ("read", ["a", ""]),
        ("read", ["-", "a", "-"]),
        ("output_ca_file", "\ud83d"),
        ("sample_rate", "1"),
        ("sample_rate", True),
        ("sample_rate", float("nan")),
        ("sample_rate", float("inf")),
        ("output_stdout", 1),
        ("output_url", b"http://h/"),
        ("output_url_auth_token", ""),
        ("max_body_size", 1.0),
        ("max_body_size", None),
        ("redact_headers", "cookie"),
        ("redact_headers", [1]),
        ("redact_headers", None),
        ("redact_query", {"a": 1}),
        ("on_capture_error", None),
        ("on_http_message", "print"),
        ("metrics_address", 1),
    ],
)
def test_invalid_keyword(keyword: str, value: object) -> None:
    """The library's keywords take values of their type, and refuse others under their own name."""
    assert list(problems(**{keyword: value})) == [keyword]


PIECES = (
    "http:// HTTPS:// h [::1] [ ] : :80 :99999 @ % / ? # .. xn-- \u0663 80 , nan 1e309 - 0x Mi yes none * [! é \ud83d"
)
TEXTS = st.lists(st.sampled_from([*PIECES.split(), " ", "\0", "\n", "\x7f", "9" * 30]), max_size=6).map("".join)


@hypothesis.given(st.dictionaries(st.sampled_from(sorted(SnifferConfig.options())), TEXTS))
def test_any_text_is_a_value_or_a_problem(texts: dict[str, str]) -> None:
    """Whatever the variables hold: a configuration, or problems of their fields, and never another exception."""
    try:
        repr(SnifferConfig.from_texts({"ports": "80", **texts}))
        fields: set[str] = set()
    except ValidationError as error:
        fields = {problem.field for problem in error.problems}
    assert fields <= {"ports", *texts}


def test_all_problems_at_once() -> None:
    """Every problem is reported at once: values, what is missing, and rules between values."""
    with pytest.raises(ValidationError) as caught:
        SnifferConfig.from_env(
            {"SAMPLE_RATE": "2", "OUTPUT_URL": "http://h/", "TCP_SNIFFER_PRODUCTION": "1", "LOG_LEVEL": "x"}
        )
    assert [problem.field for problem in caught.value.problems] == ["ports", "sample_rate", "log_level", "output_url"]


@pytest.mark.parametrize("url", ["http://collector.example/", "HTTP://collector.example", "hTTp://127.0.0.1:1"])
def test_production_requires_https(url: str) -> None:
    """In production a plain http URL is refused, in these words."""
    assert problems(output_url=url, production=True) == {"output_url": "output_url must use HTTPS in production"}
    assert SnifferConfig(ports=[8080], output_url=url).output_url == "http" + url[4:]


@pytest.mark.parametrize(
    "url",
    [
        "https://collector.example",
        "HTTPS://collector.example/a?b#c",
        "https://[::1]:8443/",
        "https://10.0.0.1",
        "https://bücher.example/",
        "https://collector.observability.svc.cluster.local.:443/",
        "https://under_score/",
    ],
)
def test_urls_that_production_takes(url: str) -> None:
    """The scheme counts in any case; names, addresses and ports are as URLs have them."""
    assert SnifferConfig(ports=[8080], output_url=url, production=True).output_url == "https" + url[5:]


def test_url_is_never_quoted() -> None:
    """A URL that is refused is not repeated: it may hold a password."""
    assert "hunter2" not in str(problems(output_url="http://user:hunter2@h:99999/?token=hunter2"))
    assert "user info" in problems(output_url="http://user:hunter2@h/")["output_url"]


def test_metrics_port_is_not_captured() -> None:
    """The endpoint's own port cannot be one of the captured ones."""
    assert problems(metrics_port=8080) == {"metrics_port": "metrics_port must not be one of ports"}


def test_the_longest_line_has_room_for_any_record() -> None:
    """A limit that could not be kept is refused: below 4,096, or with a placement of more than a quarter."""
    for value in (0, 4096, 1 << 30):
        assert SnifferConfig(ports=[80], output_stdout_max_line=value).output_stdout_max_line == value
    assert "at least 4096" in problems(output_stdout_max_line=100)["output_stdout_max_line"]
    name = "x" * 1000
    assert "at least 8000" in problems(output_stdout_max_line=7999, pod_name=name)["output_stdout_max_line"]
    assert SnifferConfig(ports=[80], output_stdout_max_line=8000, pod_name=name).pod_name == name


def test_default_redaction_lists() -> None:
    """The defaults name what the contract names, and RECORD says of each name why it is there."""
    assert set(REDACT_HEADERS) >= {
        *("authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "cookie2", "set-cookie2"),
        *("x-auth-token", "x-access-token", "x-session-token", "x-csrf-token", "x-xsrf-token"),
        *("x-amz-security-token", "x-goog-api-key", "x-goog-iap-jwt-assertion", "x-vault-token", "api-key", "apikey"),
        *("x-forwarded-client-cert", "dpop"),
    }
    assert set(REDACT_QUERY) >= {
        *("AWSAccessKeyId", "Signature", "sig", "X-Goog-Signature", "X-Amz-Signature", "X-Amz-Credential"),
        *("X-Amz-Security-Token", "access_token", "api_key", "token", "code"),
    }
    assert set(REDACT_BODY) == {
        *("password", "passwd", "pwd", "passphrase", "secret", "clientsecret", "token", "accesstoken", "refreshtoken"),
        *("idtoken", "sessiontoken", "apikey", "apisecret", "accesskey", "secretkey", "privatekey", "authorization"),
        *("cookie", "credential", "credentials", "ssn", "cardnumber", "cvv", "cvc", "pin", "otp"),
    }
    record = (Path(__file__).parent.parent / "docs/RECORD.md").read_text()
    assert [name for name in (*REDACT_HEADERS, *REDACT_QUERY, *REDACT_BODY) if f"`{name}`" not in record] == []


def test_redaction_lists() -> None:
    """An empty variable leaves the default, `none` and the library's empty list turn redaction off, with a warning."""
    default = SnifferConfig(ports=[8080])
    assert from_variables(REDACT_HEADERS="", REDACT_QUERY=" ", REDACT_BODY="") == default
    for off in (
        from_variables(REDACT_HEADERS="none", REDACT_QUERY="None", REDACT_BODY="NONE"),
        SnifferConfig(ports=[8080], redact_headers=[], redact_query=(), redact_body=()),
    ):
        assert (off.redact_headers, off.redact_query, off.redact_body) == ((), (), ())
        warned = [warning.split()[0] for warning in off.warnings]
        assert warned == ["redact_headers", "redact_query", "redact_body"]


def test_token_is_shown_nowhere() -> None:
    """The token is in no repr, no warning and no problem, and a warning says when it goes over plain http."""
    config = SnifferConfig(ports=[8080], output_url="http://h/", output_url_auth_token=TOKEN)
    assert config.output_url_auth_token is not None
    assert config.output_url_auth_token.reveal() == TOKEN
    assert TOKEN not in f"{config!r}{config}{config.__dict__}{config.warnings}"
    assert config.warnings[0].startswith("output_url is plain http")
    assert not SnifferConfig(ports=[8080], output_url="https://h/", output_url_auth_token=TOKEN).warnings
    assert TOKEN not in str(problems(output_url_auth_token=f"{TOKEN} {TOKEN}"))
    assert TOKEN not in str(problems(output_url_auth_token=f"{TOKEN}\n{TOKEN}", output_url="nowhere"))


def test_token_from_a_file(tmp_path: Path) -> None:
    """A file gives the token without the white space at its end; one that cannot serve is a problem of its own."""
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    config = from_variables(OUTPUT_URL_AUTH_TOKEN_FILE=str(file))
    assert config.output_url_auth_token == Secret(TOKEN)
    field = "output_url_auth_token_file"
    assert problems(output_url_auth_token_file=tmp_path, output_url="x").keys() == {field, "output_url"}
    assert "No such file" in problems(output_url_auth_token_file=tmp_path / "none")[field]
    for content in (b"", b"a b", b"\xff"):
        file.write_bytes(content)
        assert "visible ASCII" in problems(output_url_auth_token_file=file)[field]
    assert "both given" in problems(output_url_auth_token_file=file, output_url_auth_token=TOKEN)[field]


FILES = ("output_url_auth_token_file", "redact_key_file", "output_ca_file")


@pytest.mark.parametrize("field", FILES)
def test_a_secret_in_place_of_its_file_is_not_shown(field: str) -> None:
    """A problem with a file names the option, and nothing of what was given as its path: it may be the secret."""
    for secret in ("hunter2", "hunter2\n", "hunter2/hunter2", "hunter2" * 1000, "-----BEGIN hunter2", "\ud83dhunter2"):
        if "\ud83d" in secret and field == "output_ca_file":
            continue  # no path at all; a certificate is no secret
        (said,) = problems(**{field: secret}).values()
        assert said.startswith(f"{field} ")
        assert "hunter2" not in said


@pytest.mark.parametrize("field", FILES)
def test_a_file_is_read_up_to_a_bound(field: str, tmp_path: Path) -> None:
    """Devices without an end, directories, sockets and files that are too long are refused, unread."""
    with (tmp_path / "long").open("wb") as file:
        file.truncate(1 << 40)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for path, words in (
            ("/dev/zero", "regular file"),
            ("/dev/null", "regular file"),
            (tmp_path, "directory"),
            (tmp_path / "long", "More than"),
            (tmp_path / "socket", ""),
        ):
            (said,) = problems(**{field: path}).values()
            assert said.startswith(f"{field} cannot be ")
            assert words in said
            assert str(tmp_path) not in said


def test_secrets_from_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe gives a secret, by descriptor or by name, however late its writer is; one without end is refused."""
    reader, writer = os.pipe()
    os.write(writer, TOKEN.encode())
    os.close(writer)
    config = SnifferConfig(ports=[1], output_url_auth_token_file=f"/dev/fd/{reader}")
    assert config.output_url_auth_token == Secret(TOKEN)
    os.close(reader)
    named = tmp_path / "pipe"
    os.mkfifo(named)
    writing = threading.Thread(target=lambda: named.write_bytes(b"k" * 40))
    writing.start()
    assert SnifferConfig(ports=[1], redact_key_file=named).redact_key == b"k" * 40
    writing.join()
    with subprocess.Popen(["cat", "/dev/zero"], stdout=subprocess.PIPE) as endless:
        assert endless.stdout is not None
        (said,) = problems(output_url_auth_token_file=f"/dev/fd/{endless.stdout.fileno()}").values()
        assert "More than" in said
        endless.kill()
    monkeypatch.setattr(options_module, "PIPE_SECONDS", 0.01)
    (said,) = problems(redact_key_file=named).values()
    assert "The pipe gives nothing" in said


def test_lists_take_each_name_once() -> None:
    """A name that is there twice, in another case too where case does not count, counts once."""
    config = from_variables(REDACT_HEADERS="Cookie, cookie ,COOKIE,x-a", REDACT_QUERY="sig,sig", EXCLUDE_PATHS="/a,/a")
    assert (config.redact_headers, config.redact_query, config.exclude_paths) == (("cookie", "x-a"), ("sig",), ("/a",))


def test_a_library_list_cannot_hold_none() -> None:
    """`none` in a list given to the library is refused too: it would turn nothing off."""
    for field in ("redact_headers", "redact_query", "redact_body"):
        assert "`none`" in problems(**{field: ["none"]})[field]


@pytest.mark.parametrize("glob", ["/healthz", "*", "*.js", "?x", "[/]a", "http://h/*", "shop.example:443"])
def test_globs_that_a_target_may_match(glob: str) -> None:
    """What a request target may look like is taken."""
    assert from_variables(EXCLUDE_PATHS=glob).exclude_paths == (glob,)


def test_ca_file(tmp_path: Path) -> None:
    """The certificate authorities are read when the configuration is made; a file without any is a problem."""
    good, bad = tmp_path / "ca.pem", tmp_path / "bad.pem"
    trustme.CA().cert_pem.write_to_path(str(good))
    bad.write_text("no certificate")
    assert from_variables(OUTPUT_CA_FILE=str(good)).output_ca_file == str(good)
    assert "holds no certificate" in problems(output_ca_file=bad)["output_ca_file"]
    assert "No such file" in problems(output_ca_file=tmp_path / "none")["output_ca_file"]


def test_what_is_held_with() -> None:
    """Of texts that are no configuration, those that say how to wait are used where they are right."""
    assert SnifferConfig.to_hold({"ports": "80"}) is None
    assert SnifferConfig.to_hold({"on_capture_error": "holds"}) is None
    assert SnifferConfig.to_hold({"on_capture_error": "hold", "read": "x.pcap"}) is None
    texts = {
        "on_capture_error": "HOLD",
        "metrics_port": "1",
        "metrics_address": "x",
        "pod_name": "a",
        "sample_rate": "2",
    }
    held = SnifferConfig.to_hold(texts)
    assert held is not None
    assert (held.holds, held.metrics_port, held.metrics_address) == (True, 1, "127.0.0.1")
    assert (held.pod_name, held.sample_rate, held.output_url) == ("a", 1.0, None)
    for ports in ("1", "80, 1", "1,x", "x 1"):
        held = SnifferConfig.to_hold({**texts, "ports": ports})
        assert held is not None
        assert held.metrics_port is None


def test_callback() -> None:
    """Any callable is a callback; it has neither variable nor flag."""
    assert SnifferConfig(ports=[1], on_http_message=print).on_http_message is print
    assert not SnifferConfig.options()["on_http_message"].variable
    assert not SnifferConfig.options()["on_http_message"].flag


def test_library_reads_two_variables_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the environment the constructor reads production and token, and those only where not given."""
    for keyword, (text, _) in VALID.items():
        if variable := SnifferConfig.options()[keyword].variable:
            monkeypatch.setenv(variable, text)
    monkeypatch.setenv("OUTPUT_URL_AUTH_TOKEN_FILE", "/nowhere")
    config = SnifferConfig(ports=[1])
    assert config.production
    assert config.output_url_auth_token == Secret(TOKEN)
    assert config == SnifferConfig(ports=[1], production=True, output_url_auth_token=TOKEN)
    plain = SnifferConfig(ports=[1], production=False, output_url_auth_token=None)
    assert (plain.production, plain.output_url_auth_token) == (False, None)
    monkeypatch.setenv("TCP_SNIFFER_PRODUCTION", "production")
    with pytest.raises(ValidationError, match="production must be"):
        SnifferConfig(ports=[1])


def test_library_token_file_beats_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token file that the program names is not in conflict with a variable that it did not."""
    monkeypatch.setenv("OUTPUT_URL_AUTH_TOKEN", "ambient")
    (tmp_path / "token").write_text(TOKEN)
    config = SnifferConfig(ports=[1], output_url_auth_token_file=tmp_path / "token")
    assert config.output_url_auth_token == Secret(TOKEN)


def test_from_env(monkeypatch: pytest.MonkeyPatch) -> None:
    """`from_env` reads every variable, of the process or of a mapping; keywords beat variables."""
    monkeypatch.setenv("PORTS", "80,81")
    assert SnifferConfig.from_env().ports == (80, 81)
    assert SnifferConfig.from_env(ports=[90]).ports == (90,)
    assert SnifferConfig.from_env({"PORTS": "70"}).ports == (70,)


def test_budget_follows_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    """The budget is half of the limit, and one that does not fit is lowered with a warning."""
    monkeypatch.setattr(budget, "memory_limit", lambda: 512 << 20)
    monkeypatch.setattr(budget, "resident", lambda: 64 << 20)
    assert SnifferConfig(ports=[1]).memory_budget == 256 << 20
    tight = SnifferConfig(ports=[1], memory_budget=500 << 20)
    assert tight.memory_budget < 360 << 20
    assert "lowered" in tight.warnings[0]


def test_the_budget_leaves_room_for_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the daemon will take counts, though it does not take it yet when the configuration is made."""
    monkeypatch.setattr(budget, "memory_limit", lambda: 200 << 20)
    monkeypatch.setattr(budget, "resident", lambda: 1 << 20)
    config = SnifferConfig(ports=[1], memory_budget=190 << 20)
    assert config.memory_budget == int((200 - 72) / 1.25 * (1 << 20))


@pytest.mark.parametrize(
    ("given", "means"),
    [
        ("0", "127.0.0.1:0"),
        ("localhost:08090", "127.0.0.1:8090"),
        ("127.0.0.9:1", "127.0.0.9:1"),
        ("[::1]:0", "[::1]:0"),
        (None, None),
    ],
)
def test_ui_address(given: str | None, means: str | None) -> None:
    """An address of loopback and a port, or a port alone, in one form; port 0 is a free one."""
    assert SnifferConfig(ports=[80], ui_address=given).ui_address == means
    assert means is None or split_address(means)[0] in ("127.0.0.1", "127.0.0.9", "::1")


def test_ui_address_elsewhere() -> None:
    """Another address than loopback takes ui_remote, which is warned about; alone it does nothing, and that is said."""
    says = {"ui_address": "ui_address must be on loopback, unless ui_remote is set"}
    assert problems(ui_address="192.0.2.1:80") == problems(ui_address="[::]:0") == says
    config = SnifferConfig(ports=[80], ui_address="0.0.0.0:8090", ui_remote=True)
    assert any("plain http" in warning for warning in config.warnings)
    assert any("ui_remote" in warning for warning in SnifferConfig(ports=[80], ui_remote=True).warnings)


def test_ui_port_is_its_own() -> None:
    """The port is none of those captured, whose traffic would be the page's own, and not that of the metrics."""
    assert problems(ui_address="8080") == {"ui_address": "ui_address must not have one of ports"}
    says = {"ui_address": "ui_address must not have the port of metrics_port"}
    assert problems(ui_address="9100", metrics_port=9100) == says
    assert "ports" in problems(ports=[], ui_address="9100")


def test_ui_as_a_flag() -> None:
    """The flag alone takes a free port of loopback; behind it an address may stand."""
    for flags, means in ((["--ui"], "127.0.0.1:0"), (["--ui", "[::1]:7"], "[::1]:7"), (["--ui=7"], "127.0.0.1:7")):
        assert configure(["--ports", "80", *flags], {}).ui_address == means
    assert configure(["--ui", "--ports", "80"], {}).ui_address == "127.0.0.1:0"
    assert configure(["--ports", "80"], {"UI_ADDRESS": "7"}).ui_address == "127.0.0.1:7"


def test_has_output() -> None:
    """Standard output and a URL are outputs; a callback is the library's."""
    assert not SnifferConfig(ports=[1], on_http_message=print, metrics_port=9100).has_output
    assert SnifferConfig(ports=[1], output_stdout=True).has_output
    assert SnifferConfig(ports=[1], ui_address="0").has_output
    assert SnifferConfig(ports=[1], output_url="http://h").has_output


def test_document_is_current() -> None:
    """docs/CONFIGURATION.md is what the declarations say; `make docs` writes it."""
    assert (DOCS / "CONFIGURATION.md").read_text() == module.document()


def test_document_names_every_option() -> None:
    """Every variable and flag is in the documentation, in the section of a known group."""
    text = module.document()
    for option in SnifferConfig.options().values():
        assert option.group in module.GROUPS
        assert f"`{option.variable or option.flag or option.keyword}`" in text


def test_ports_are_named_by_range_too() -> None:
    """A range is all ports from its first to its last."""
    assert SnifferConfig.from_texts({"ports": "80, 8000-8003"}).ports == (80, 8000, 8001, 8002, 8003)
    assert SnifferConfig.from_texts({"ports": "1-1024"}).ports == tuple(range(1, 1025))


@pytest.mark.parametrize(("ports", "serves"), [("8000-8100,x", False), ("8050,x", False), ("8000-8049,x", True)])
def test_a_held_process_leaves_the_applications_ports_alone(ports: str, serves: bool) -> None:
    """A process that waits because of its configuration serves no metrics on a port in a range of `PORTS`."""
    held = SnifferConfig.to_hold({"ports": ports, "metrics_port": "8050", "on_capture_error": "hold"})
    assert held is not None
    assert (held.metrics_port == 8050) is serves
