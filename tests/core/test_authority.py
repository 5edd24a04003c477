"""protocols/authority: which host a request asks for, on the request and on its response."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer_core.core import RawMessage
from tests.conversations import Dialogue
from tests.laws import Table

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LONGEST = "a" * 255


def messages(request: bytes, **options: Any) -> list[RawMessage]:
    """A request and its response."""
    dialogue = Dialogue()
    dialogue.client(request)
    dialogue.server(OK)
    return Table(**options).run(dialogue.packets)


def authority(target: str, *hosts: str, method: str = "GET", **options: Any) -> str | None:
    """The `authority` of both messages of a pair, which must be the same in every form."""
    lines = "".join(f"Host:{host}\r\n" for host in hosts)
    raws = messages(f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1"), **options)
    assert [raw.direction for raw in raws] == ["request", "response"]
    (found,) = {raw.authority for raw in raws}
    for raw in raws:
        assert (b'"authority":' in raw.to_json()) == (found is not None)
        assert found is None or b',"authority":"%s"' % found.encode() in raw.to_json()
    return found


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        (" example.test", "example.test"),
        ("\texample.test:8080 ", "example.test:8080"),
        (" EXAMPLE.Test:8080", "example.test:8080"),
        (" a_b-c.~d", "a_b-c.~d"),
        (" 192.0.2.1:80", "192.0.2.1:80"),
        (" [2001:DB8::1]", "[2001:db8::1]"),
        (" [::ffff:192.0.2.1]:443", "[::ffff:192.0.2.1]:443"),
        (" example.test:", "example.test"),
        (" example.test:65535", "example.test:65535"),
        (" " + LONGEST + ":65535", LONGEST + ":65535"),
    ],
)
def test_the_host_field(host: str, shown: str) -> None:
    """Without one in the target the authority is the Host field's value, in lower case, less the colon of no port."""
    assert authority("/a?b=http://other/", host) == shown
    assert authority("*", host, method="OPTIONS") == shown


@pytest.mark.parametrize(
    "host",
    [
        *("", " ", " :", " :80", " a b", " a,b", " a\tb", " a/b", " a\\b", " a?b", " a#b", " a:b", " a:80:80", " a:+1"),
        *(" a:123456", " user@a", " user:password@a", " a%20b", " user%40a", " a;b", " a=b", " a&b", " sig=s3cret"),
        *(" [", " []", " [::1", " [::1]x", " [::1]:x", " [::1%25eth0]", " [g]", " ]", " \xe9.test", " a\x7f", " (a)"),
        " a" + LONGEST + ":65535",
    ],
)
def test_what_is_no_host(host: str) -> None:
    """A Host field that is empty, malformed or too long, or that may hold a secret, gives no authority."""
    assert authority("/", host) is None


@pytest.mark.parametrize("hosts", [(), (" a", " a"), (" a", " b"), (" a", "")])
def test_no_host_or_several(hosts: tuple[str, ...]) -> None:
    """A request must have one Host field (RFC 9112 section 3.2): of none or several nobody knows which counts."""
    assert authority("/", *hosts) is None


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("http://example.test/a", "example.test"),
        ("HTTP://Example.TEST:8080", "example.test:8080"),
        ("https://[::1]:1?q", "[::1]:1"),
        ("coap+tcp://a#f@b", "a"),
        ("http://user:password@example.test/", "example.test"),
        ("http://user@a@example.test:1/@c", "example.test:1"),
        ("http:///a", None),
        ("http://", None),
        ("http://user:password@", None),
        ("http://user%3Apass%40example.test/", None),
        ("http://a;sig=s3cret/", None),
        ("http://a\\@b/", None),
        ("http://a@b\\c/", None),
        ("http://a b/", None),
    ],
)
def test_absolute_form(target: str, shown: str | None) -> None:
    """A target in absolute form counts in place of any Host field (RFC 9112 section 3.2.2), less its user info."""
    assert authority(target, " other") == authority(target) == authority(target, " a", " b") == shown


@pytest.mark.parametrize("target", ["a/b", "//host/a", "/http://host/", "1http://host/", "http:/host/", "http:host"])
def test_targets_without_authority(target: str) -> None:
    """What is no absolute form names no authority: the Host field does."""
    assert authority(target, " example.test") == "example.test"


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("example.test:443", "example.test:443"),
        ("[2001:DB8::1]:443", "[2001:db8::1]:443"),
        ("user:password@example.test:443", "example.test:443"),
        ("a=b:443", None),
    ],
)
def test_authority_form(target: str, shown: str | None) -> None:
    """The target of CONNECT is the authority (RFC 9112 section 3.2.3)."""
    assert authority(target, " other", method="CONNECT") == shown


def test_unpaired() -> None:
    """A response whose request was not seen has no authority."""
    dialogue = Dialogue()
    dialogue.server(OK)
    (response,) = Table().run(dialogue.packets)
    assert (response.path, response.authority) == (None, None)


def test_the_field_name_in_any_case() -> None:
    """Field names are compared without case; the header keeps the value as it was sent."""
    request, response = messages(b"GET / HTTP/1.1\r\nhOST: Example.Test\r\n\r\n")
    assert (request.authority, response.authority) == ("example.test", "example.test")
    assert request.headers["host"] == "Example.Test"


def test_a_redacted_host() -> None:
    """Where the Host field is redacted its value stands in no authority; that of a target does, as in `path`."""
    for key in (None, b"0123456789abcdef"):
        options: dict[str, Any] = {"redact_headers": ("Host",), "redact_key": key}
        assert authority("/", " s3cret", **options) is None
        assert authority("http://example.test/", " s3cret", **options) == "example.test"


def test_a_head_that_is_cut() -> None:
    """A request whose head is cut has the authority of the lines that were whole."""
    dialogue = Dialogue()
    dialogue.client(b"GET / HTTP/1.1\r\nHost: example.test\r\nX: ")
    dialogue.close()
    (request,) = Table().run(dialogue.packets)
    assert (request.incomplete, request.authority) == ("closed", "example.test")


@given(st.binary(max_size=300).filter(lambda value: b"\n" not in value), st.booleans())
def test_any_bytes(value: bytes, connect: bool) -> None:
    """Whatever is sent, an authority has only the characters of one, and is the end of what was sent."""
    requests = (
        b"GET / HTTP/1.1\r\nHost: " + value + b"\r\n\r\n",
        b"GET http://" + value + b" HTTP/1.1\r\n\r\n",
        b"CONNECT " + value + b" HTTP/1.1\r\n\r\n",
    )
    for raw in messages(requests[2 if connect else 0]) + messages(requests[1]):
        if raw.authority is not None:
            assert set(raw.authority) <= set("abcdefghijklmnopqrstuvwxyz0123456789-._~:[]")
            assert 0 < len(raw.authority) <= 261
            assert raw.authority in value.decode("latin-1").lower()
