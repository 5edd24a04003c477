from __future__ import annotations

from pathlib import Path

import pytest

from sniffer.config import SnifferConfig
from sniffer.errors import SnifferError, ValidationError
from sniffer.injector import InjectorOptions
from sniffer.injector.options import camel
from sniffer.injector.values import SET_BY_INJECTOR, Resources, SecretKey, Variable

CONTRACT = {
    "snifferImage",
    "snifferContainerName",
    "injectLabelKey",
    "injectLabelValue",
    "defaultPorts",
    "defaultInterface",
    "outputUrl",
    "outputUrlAuthTokenSecret",
    "resources",
    "terminationGracePeriodSeconds",
    "production",
    "nativeSidecar",
    "runAsRoot",
    "onCaptureError",
}
MORE = {"spoolSize", "snifferEnv"}
"""Beside what the contract names."""
ALL = {
    "snifferImage": ("registry.example/sniffer:1", "registry.example/sniffer:1"),
    "snifferContainerName": ("watch", "watch"),
    "injectLabelKey": ("example.org/watch", "example.org/watch"),
    "injectLabelValue": ("yes", "yes"),
    "defaultPorts": ("80, 8081", (80, 8081)),
    "defaultInterface": ("any", "any"),
    "outputUrl": ("https://c.example/m", "https://c.example/m"),
    "outputUrlAuthTokenSecret": ("name=a,key=b", SecretKey("a", "b")),
    "resources": ("limits.cpu=none,requests.memory=64Mi", Resources(requests_memory="64Mi", limits_cpu=None)),
    "terminationGracePeriodSeconds": ("45", 45),
    "production": ("yes", True),
    "nativeSidecar": ("always", "always"),
    "runAsRoot": ("on", True),
    "onCaptureError": ("exit", "exit"),
    "spoolSize": ("64Mi", 64 << 20),
    "snifferEnv": ("[{name: SAMPLE_RATE, value: 0.1}]", (Variable("SAMPLE_RATE", "0.1"),)),
}


def problems(arguments: list[str], environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ValidationError) as raised:
        InjectorOptions.load(arguments, environ or {})
    assert raised.value.exit_code == 1
    return [problem.message for problem in raised.value.problems]


def test_defaults() -> None:
    """Without anything given, the options are those of the contract."""
    options = InjectorOptions.load([], {})
    assert options == InjectorOptions()
    assert options.sniffer_image == "tcp-sniffer:latest"
    assert options.sniffer_container_name == "tcp-sniffer"
    assert (options.inject_label_key, options.inject_label_value) == ("tcp-sniffer/inject", "true")
    assert (options.default_ports, options.default_interface) == ((8080,), "eth0")
    assert (options.output_url, options.output_url_auth_token_secret) == (None, None)
    assert options.resources == ("256Mi", "100m", "512Mi", "500m")
    assert options.termination_grace_period_seconds == 30
    assert (options.production, options.run_as_root) == (False, False)
    assert (options.native_sidecar, options.on_capture_error) == ("jobs", "hold")
    assert options.port == 8443
    assert options.warnings == ()


@pytest.mark.parametrize("name", sorted(CONTRACT | MORE))
def test_each_option_in_every_way(name: str, tmp_path: Path) -> None:
    """Each option of the contract has a key in YAML, a variable and a flag of the same words, in rising precedence."""
    text, value = ALL[name]
    keyword = next(keyword for keyword in InjectorOptions.options() if camel(keyword) == name)
    other = {"production": "no", "runAsRoot": "no", "nativeSidecar": "never", "onCaptureError": "hold"}.get(name)
    file = tmp_path / "options.yaml"
    file.write_text(f"{name}: '{text}'\n")
    variable, flag = "INJECTOR_" + keyword.upper(), "--" + keyword.replace("_", "-")
    assert getattr(InjectorOptions.load(["--config", str(file)], {}), keyword) == value
    assert getattr(InjectorOptions.load([], {"INJECTOR_CONFIG": str(file)}), keyword) == value
    assert getattr(InjectorOptions.load([], {variable: text}), keyword) == value
    assert getattr(InjectorOptions.load([flag, text], {}), keyword) == value
    if other is not None:
        file.write_text(f"{name}: '{other}'\n")
        assert getattr(InjectorOptions.load(["--config", str(file)], {variable: text}), keyword) == value
        assert getattr(InjectorOptions.load([flag, text], {variable: other}), keyword) == value


def test_the_file_takes_structures(tmp_path: Path) -> None:
    """YAML's own numbers, switches, lists and mappings are taken as they are; null and an empty file are nothing."""
    file = tmp_path / "options.yaml"
    file.write_text(
        "defaultPorts: [80, 8080]\ninjectLabelValue: true\nproduction: true\noutputUrl: null\n"
        "outputUrlAuthTokenSecret: {name: tcp-sniffer-output-auth, key: token}\n"
        "resources: {requests: {memory: 64Mi}, limits: {cpu: none, memory: null}}\n"
        "spoolSize: 6.7108864e+07\n"  # so Helm writes it
        "snifferEnv:\n"
        "- {name: MEMORY_BUDGET, value: 6.7108864e+07}\n"
        "- {name: OUTPUT_GZIP, value: true}\n"
        "- {name: EXCLUDE_PATHS, valueFrom: {configMapKeyRef: {name: settings, key: exclude}}}\n"
    )
    options = InjectorOptions.load(["--config", str(file)], {})
    assert options.default_ports == (80, 8080)
    assert options.inject_label_value == "true"
    assert options.production
    assert options.output_url_auth_token_secret == ("tcp-sniffer-output-auth", "token")
    assert options.resources == Resources("64Mi", "100m", None, None)
    assert len(options.warnings) == 2
    assert options.spool_size == 64 << 20
    assert options.sniffer_env == (
        Variable("MEMORY_BUDGET", "67108864"),
        Variable("OUTPUT_GZIP", "true"),
        Variable("EXCLUDE_PATHS", None, "configMapKeyRef", SecretKey("settings", "exclude")),
    )
    file.write_text("")
    assert InjectorOptions.load(["--config", str(file)], {}) == InjectorOptions()


def test_all_problems_at_once(tmp_path: Path) -> None:
    """Every problem of file, variables and flags is in one error, each with its field."""
    file = tmp_path / "options.yaml"
    file.write_text("snifferimage: x\nnativeSidecar: perhaps\n")
    found = problems(["--config", str(file), "--port", "0", "--nonsense"], {"INJECTOR_DEFAULT_PORTS": "0"})
    assert len(found) == 5
    for word in ("snifferimage", "native_sidecar", "port must", "--nonsense", "default_ports"):
        assert any(word in message for message in found), word


@pytest.mark.parametrize("content", ["a: [", "- a", "a: !!python/object:os.system {}", "just text", "\x00"])
def test_a_file_that_is_none(content: str, tmp_path: Path) -> None:
    """A file that is no YAML mapping is a configuration error that names the file."""
    file = tmp_path / "options.yaml"
    file.write_text(content)
    assert "options.yaml" in problems(["--config", str(file)])[0]


def test_a_file_that_is_absent(tmp_path: Path) -> None:
    """Whether the file exists is the system's to say: code 2."""
    with pytest.raises(SnifferError) as raised:
        InjectorOptions.load(["--config", str(tmp_path / "none.yaml")], {})
    assert raised.value.exit_code == 2


def test_production_refuses_plain_http() -> None:
    """With production rules an http OUTPUT_URL is refused in the sniffer's own words."""
    assert problems([], {"TCP_SNIFFER_PRODUCTION": "true", "INJECTOR_OUTPUT_URL": "http://c.example/"}) == [
        "output_url must use HTTPS in production"
    ]
    with pytest.raises(ValidationError, match=r"^output_url must use HTTPS in production$"):
        SnifferConfig(ports=[80], production=True, output_url="http://c.example/")


@pytest.mark.parametrize(
    ("environ", "arguments", "production"),
    [
        ({"TCP_SNIFFER_PRODUCTION": "true"}, [], True),
        ({"INJECTOR_PRODUCTION": "true"}, [], True),
        ({"INJECTOR_PRODUCTION": "true", "TCP_SNIFFER_PRODUCTION": "false"}, [], True),
        ({"INJECTOR_PRODUCTION": "false", "TCP_SNIFFER_PRODUCTION": "true"}, [], True),
        ({"TCP_SNIFFER_PRODUCTION": "true"}, ["--production", "no"], False),
        ({"TCP_SNIFFER_PRODUCTION": ""}, ["--production"], True),
        ({}, [], False),
    ],
)
def test_production_from_either_variable(environ: dict[str, str], arguments: list[str], production: bool) -> None:
    """The injector runs with production rules where either variable says so; a flag beats both."""
    assert InjectorOptions.load(arguments, environ).production is production


def test_a_mistyped_production_is_refused() -> None:
    """A mistyped TCP_SNIFFER_PRODUCTION is an error, not off."""
    assert "production" in problems([], {"TCP_SNIFFER_PRODUCTION": "ture"})[0]


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("sniffer_image", "a b"),
        ("sniffer_container_name", "Sniffer"),
        ("sniffer_container_name", "x" * 64),
        ("inject_label_key", "a/b/c"),
        ("inject_label_key", "/a"),
        ("inject_label_value", "false"),
        ("inject_label_value", "False"),
        ("inject_label_value", "a b"),
        ("default_ports", "80,80"),
        ("default_ports", "70000"),
        ("default_interface", "an-interface-too-long"),
        ("default_interface", "a/b"),
        ("default_interface", ".."),
        ("output_url", "ftp://c.example"),
        ("output_url", "https://user:pw@c.example/"),
        ("output_url", "/m"),
        ("output_url", "https://c.example/$(POD_NAME)"),
        ("output_url_auth_token_secret", "name=a"),
        ("output_url_auth_token_secret", "key=a"),
        ("output_url_auth_token_secret", "a/b"),
        ("output_url_auth_token_secret", "name=A,key=b"),
        ("output_url_auth_token_secret", "name=a,key=b/c"),
        ("output_url_auth_token_secret", "name=a,key=b,x=y"),
        ("resources", "limits.memory=lots"),
        ("resources", "limits.disk=1Gi"),
        ("resources", "cpu=1"),
        ("resources", "limits.cpu=0"),
        ("resources", "limits.cpu=-1"),
        ("resources", "limits.cpu=0.0001"),
        ("resources", "limits.memory=512m"),
        ("resources", "requests.cpu=1"),
        ("resources", "limits.memory=255Mi"),
        ("resources", "limits.cpu=1,limits.cpu=2"),
        ("termination_grace_period_seconds", "0"),
        ("termination_grace_period_seconds", "30s"),
        ("native_sidecar", "auto"),
        ("run_as_root", "maybe"),
        ("on_capture_error", "ignore"),
        ("spool_size", "much"),
        ("spool_size", "1Ki"),
        ("sniffer_env", "SAMPLE_RATE=1"),
        ("sniffer_env", "{name: SAMPLE_RATE, value: 1}"),
        ("sniffer_env", "[{name: SAMPLE_RATE, value: 1}"),
        ("sniffer_env", "[SAMPLE_RATE]"),
        ("sniffer_env", "[{value: 1}]"),
        ("port", "70000"),
        ("address", "localhost"),
    ],
)
def test_refused_values(keyword: str, text: str) -> None:
    """What Kubernetes or the sniffer would refuse is refused at start, once, with the field's name."""
    assert [message.split()[0] for message in problems([], {"INJECTOR_" + keyword.upper(): text})] == [keyword]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("name: SAMPLE_RATE, value: 2", "SAMPLE_RATE must be a number from 0 to 1, not 2"),
        ("name: REDACT_HEADERS, value: 'a b'", "REDACT_HEADERS must be a list of header names: 'a b' is none"),
        ("name: OUTPUT_GZIP, value: ture", "OUTPUT_GZIP must be 1, true, yes or on"),
        ("name: SAMPLE_RAT, value: 1", "'SAMPLE_RAT' is not a variable of the sniffer; did you mean SAMPLE_RATE?"),
        ("name: sample_rate, value: 1", "'sample_rate' is not a variable of the sniffer"),
        ("name: PORTS, value: 80", "PORTS is set by the injector itself"),
        ("name: SAMPLE_RATE", "SAMPLE_RATE must have either a value or a valueFrom"),
        ("name: SAMPLE_RATE, value: [1]", "SAMPLE_RATE must have a text"),
        ("name: SAMPLE_RATE, value: null", "SAMPLE_RATE must have a text"),
        ("name: SAMPLE_RATE, value: 1, optional: true", "is not a name with a value or a valueFrom"),
        ("name: SAMPLE_RATE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}", "secretKeyRef or configMapKeyRef"),
        ("name: SAMPLE_RATE, valueFrom: {secretKeyRef: {name: a}}", "SAMPLE_RATE must have a name and a key"),
        ("name: SAMPLE_RATE, valueFrom: {configMapKeyRef: {name: A, key: b}}", "the name of a ConfigMap"),
        ("name: SAMPLE_RATE, valueFrom: {secretKeyRef: {name: a, key: b, optional: false}}", "and nothing else"),
        ("name: LOG_LEVEL, value: debug}, {name: LOG_LEVEL, value: info", "LOG_LEVEL is there twice"),
    ],
)
def test_refused_variables(entry: str, said: str) -> None:
    """A variable that the sniffer does not know, or would refuse in every pod, is refused at start, by its name."""
    (found,) = problems(["--sniffer-env", f"[{{{entry}}}]"])
    assert found.startswith("sniffer_env is wrong: ")
    assert said in found


def test_all_wrong_variables_are_named_at_once() -> None:
    """One error names every variable that is wrong."""
    (found,) = problems([], {"INJECTOR_SNIFFER_ENV": "[{name: PORTS, value: 1}, {name: LOG_LEVEL, value: loud}]"})
    assert "PORTS is set" in found
    assert "LOG_LEVEL must be one of" in found


def test_variables_of_every_option() -> None:
    """Each variable of the sniffer is either taken or set by the injector itself, those of a token among them."""
    variables = [option.variable for option in SnifferConfig.options().values() if option.variable]
    assert set(variables) >= SET_BY_INJECTOR
    for name in variables:
        reference = {"name": name, "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}
        if name in SET_BY_INJECTOR:
            with pytest.raises(ValidationError, match=f"{name} is set by the injector itself"):
                InjectorOptions(sniffer_env=[reference])
        else:
            assert InjectorOptions(sniffer_env=[reference]).sniffer_env[0].name == name
    assert {"OUTPUT_URL_AUTH_TOKEN", "OUTPUT_URL_AUTH_TOKEN_FILE"} <= SET_BY_INJECTOR


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (
            {"UI_ADDRESS": "192.0.2.1:0"},
            "sniffer_env is wrong: ui_address must be on loopback, unless ui_remote is set",
        ),
        ({"METRICS_PORT": "9", "UI_ADDRESS": "127.0.0.1:9"}, "sniffer_env is wrong: ui_address must not have the port"),
        ({"METRICS_PORT": "81"}, "default_ports does not go with sniffer_env: metrics_port must not be one of ports"),
        ({"UI_ADDRESS": "127.0.0.1:80"}, "default_ports does not go with sniffer_env: ui_address must not have one"),
        ({"UI_ADDRESS": "192.0.2.1:0", "UI_REMOTE": "yes"}, ""),
        ({"METRICS_PORT": "1"}, ""),
        ({"OUTPUT_CA_FILE": "/only/in/the/image.pem", "REDACT_KEY_FILE": "/as/this"}, ""),
    ],
)
def test_rules_between_variables(env: dict[str, str], said: str) -> None:
    """What the sniffer's rules between options would refuse in the pod is refused here; files are the image's."""
    listed = [{"name": name, "value": value} for name, value in env.items()]
    if said:
        with pytest.raises(ValidationError, match=f"^{said}"):
            InjectorOptions(default_ports=[80, 81], sniffer_env=listed)
    else:
        assert len(InjectorOptions(default_ports=[80, 81], sniffer_env=listed).sniffer_env) == len(env)


@pytest.mark.parametrize(("size", "url", "count"), [("8192", None, 0), ("8193", None, 1), ("8193", "https://c/", 0)])
def test_bodies_that_fill_lines_are_warned_about(size: str, url: str | None, count: int) -> None:
    """Without an output URL, bodies above the injector's own limit are allowed, and warned about: lines are cut."""
    options = InjectorOptions(output_url=url, sniffer_env=[{"name": "MAX_BODY_SIZE", "value": size}])
    assert [("MAX_BODY_SIZE" in warning) for warning in options.warnings] == [True] * count


def test_a_url_is_never_quoted() -> None:
    """A mistyped URL may hold a password, so no message shows it."""
    assert "hunter2" not in str(problems([], {"INJECTOR_OUTPUT_URL": "https://me:hunter2@c.example/"}))


@pytest.mark.parametrize("keyword", ["memory", "nonsense"])
def test_wrong_shapes_of_structures(keyword: str) -> None:
    """Keywords of the library are checked as texts are."""
    with pytest.raises(ValidationError, match=r"^resources must"):
        InjectorOptions(resources={"limits": keyword})  # type: ignore[dict-item]
    with pytest.raises(ValidationError, match=r"^resources must"):
        InjectorOptions(resources=[keyword])  # type: ignore[arg-type]
