"""record/redact: values of headers, parameters and user info that must not be shown."""

from __future__ import annotations

import time

import pytest

from sniffer.record.message import from_raw
from tests.records import read, record

M = "[REDACTED]"


def test_named_headers_leave_as_redacted_in_headers_and_trailers() -> None:
    """Values of redacted fields are nowhere in any form of a message, and keep their form."""
    fields = (
        "Authorization: Bearer s3cret\r\nCookie: a=s3cret\r\ncookie: b=s3cret\r\nSet-Cookie: a=s3cret\r\n"
        "X-Other: kept\r\nSET-COOKIE: b=s3cret\r\nX-API-Key: s3cret\r\nx-api-key: s3cret\r\n"
        "Proxy-Authorization: s3cret\r\n"
    )
    expected = {
        "authorization": "[REDACTED]",
        "cookie": "[REDACTED]",
        "set-cookie": ("[REDACTED]", "[REDACTED]"),
        "x-other": "kept",
        "x-api-key": "[REDACTED]",
        "proxy-authorization": "[REDACTED]",
    }
    parts = f"{fields}Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n{fields}\r\n"
    raws = read(f"POST / HTTP/1.1\r\n{parts}".encode(), f"HTTP/1.1 200 OK\r\n{parts}".encode())
    assert len(raws) == 2
    for raw in raws:
        message = from_raw(raw)
        assert b"s3cret" not in raw.to_json()
        assert "s3cret" not in repr(message)
        assert dict(message.headers) == expected | {"transfer-encoding": "chunked"}
        assert message.trailers == expected
        assert list(message.trailers or ()) == list(expected)


def test_redaction_names_count_in_any_case_and_replace_the_default() -> None:
    """`REDACT_HEADERS` matches in any case; a list replaces the default; an empty list turns it off."""
    sent = b"GET / HTTP/1.1\r\nx-MINE: 1\r\ncookie: 2\r\n\r\n"
    for names, shown in ((["X-Mine"], "[REDACTED]"), ([], "1")):
        (raw,) = read(sent, b"", redact_headers=names)
        assert record(raw)["headers"] == {"x-mine": shown, "cookie": "2"}


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("/a?sig=s3cret", "/a?sig=[REDACTED]"),
        ("/a?b=1&sig=s3cret&c=2", "/a?b=1&sig=[REDACTED]&c=2"),
        ("/a?sig=s3cret;Signature=s3cret", "/a?sig=[REDACTED]"),
        ("/a?sig=s3cret;s3cret&x=1", "/a?sig=[REDACTED]&x=1"),
        ("/a?a=b;sig=s3cret;s3cret&x=1", "/a?a=b;sig=[REDACTED]&x=1"),
        (
            "/a?X-Goog-Signature=s3cret&AWSAccessKeyId=s3cret",
            "/a?X-Goog-Signature=[REDACTED]&AWSAccessKeyId=[REDACTED]",
        ),
        ("/a?%73ig=s3cret", "/a?%73ig=[REDACTED]"),
        ("/a?SIG=s3cret", "/a?SIG=[REDACTED]"),
        ("/a?sig=s3cret=s3cret", "/a?sig=[REDACTED]"),
        ("/a?+sig=s3cret", "/a?+sig=[REDACTED]"),
        ("/a?%20sig%09+=s3cret&%C2%A0sig=s3cret", "/a?%20sig%09+=[REDACTED]&%C2%A0sig=[REDACTED]"),
        ("/a?sIg=s3cret&sig=s3cret&s%69G=s3cret", "/a?sIg=[REDACTED]&sig=[REDACTED]&s%69G=[REDACTED]"),
        ("/a?sig=&x=1", "/a?sig=[REDACTED]&x=1"),
        ("/a?sig[]=s3cret&sig%5B0%5D=s3cret", "/a?sig[]=[REDACTED]&sig%5B0%5D=[REDACTED]"),
        ("/a?sig%00x=s3cret&%2573ig=s3cret", "/a?sig%00x=[REDACTED]&%2573ig=[REDACTED]"),
        ("/a?sig%3Ds3cret&sigma%3D1", "/a?sig%3D[REDACTED]&sigma%3D1"),
        ("/a?user[sig]=s3cret&user[x]=1", "/a?user[sig]=[REDACTED]&user[x]=1"),
        ("/a??sig=s3cret", "/a??sig=[REDACTED]"),
        ("/a?&&sig=s3cret&", "/a?&&sig=[REDACTED]&"),
        ("/a?sig=s3cret%26s3cret&x=1", "/a?sig=[REDACTED]&x=1"),
        ("/a?x=1%26sig=s3cret&x=2", "/a?x=1%26sig=[REDACTED]&x=2"),
        ("/a;sig=s3cret", "/a;sig=[REDACTED]"),
        ("/a;b=1;sig=s3cret;s3cret/c;d=2?x=1", "/a;b=1;sig=[REDACTED]/c;d=2?x=1"),
        ("/a;sig=s3cret?sig=s3cret", "/a;sig=[REDACTED]?sig=[REDACTED]"),
        ("/a?x#sig=s3cret&y=1", "/a?x#sig=[REDACTED]&y=1"),
        ("/a#/access_token=s3cret", "/a#/access_token=[REDACTED]"),
        ("/a?next=http://h/?sig=s3cret&y=1", "/a?next=http://h/?sig=[REDACTED]&y=1"),
        (
            "/a?next=https%3A%2F%2Fh%2F%3Fsig%3Ds3cret%3Bs3cret%26x%3D1&y=2",
            "/a?next=https%3A%2F%2Fh%2F%3Fsig%3D[REDACTED]%26x%3D1&y=2",
        ),
        ("/a?a=%253Fs%252569g%253ds3cret%252526s3cret%2526b&c", "/a?a=%253Fs%252569g%253d[REDACTED]%2526b&c"),
        ("/a?next=https%3A%2F%2Fu%3As3cret%40h%2F&y=u@h", "/a?next=https%3A%2F%2Fh%2F&y=u@h"),
        ("/a?state=token%3Ds3cret", "/a?state=token%3D[REDACTED]"),
        (
            "/b?X-Amz-Algorithm=A&X-Amz-Credential=s3cret%2F2&X-Amz-Security-Token=s3cret&X-Amz-Signature=s3cret",
            f"/b?X-Amz-Algorithm=A&X-Amz-Credential={M}&X-Amz-Security-Token={M}&X-Amz-Signature={M}",
        ),
        ("/a?x=%&y=%2&sig=s3cret%", "/a?x=%&y=%2&sig=[REDACTED]"),
        ("/a?x=100%25&y=%2525", "/a?x=100%25&y=%2525"),
        ("/a?design=1&sigma=2", "/a?design=1&sigma=2"),
        ("/sig=1", "/sig=1"),
        ("/a?sig", "/a?sig"),
        ("/a?b=1?sig=s3cret", "/a?b=1?sig=[REDACTED]"),
        ("http://user:s3cret@host/a?sig=s3cret", "http://host/a?sig=[REDACTED]"),
        ("http://s3cret@host", "http://host"),
        ("http://u:s3cret@s3cret@host/@b", "http://host/@b"),
        ("user:s3cret@host:443", "host:443"),
        ("u@h:443", "h:443"),
        ("http:\\\\u:s3cret@h\\", "http:\\\\h\\"),
        ("https:/x@y", "https:/x@y"),
        ("https:/u:s3cret@y", "https:/y"),
        ("//u@x:s3cret@host/", "//host/"),
        ("//user@host/", "//user@host/"),
        ("//@scope/x", "//@scope/x"),
        ("/a@b", "/a@b"),
        ("/a//b:c@d", "/a//b:c@d"),
        ("/proxy/http://u:s3cret@h/x", "/proxy/http://h/x"),
        ("/users/@me", "/users/@me"),
        ("http://host/?to=a@b", "http://host/?to=a@b"),
        ("*", "*"),
    ],
)
def test_user_info_and_named_parameters_are_not_in_the_path(sent: str, shown: str) -> None:
    """`path` is the target as sent, less user info and with the values of redacted parameters replaced."""
    raws = read(f"GET {sent} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert [record(raw)["path"] for raw in raws] == [shown, shown]


@pytest.mark.parametrize(
    ("name", "sent", "shown"),
    [
        ("Referer", "https://u:s3cret@h/a?sig=s3cret;s3cret&b=1", "https://h/a?sig=[REDACTED]&b=1"),
        ("LOCATION", "//s3cret@h/cb#access_token=s3cret&x=1", "//h/cb#access_token=[REDACTED]&x=1"),
        ("Location", "/@me/a@b?c=d@e", "/@me/a@b?c=d@e"),
        ("Location", "mailto:a@b", "mailto:a@b"),
        ("Content-Location", "/a;sig=s3cret/b?api_key=s3cret", "/a;sig=[REDACTED]/b?api_key=[REDACTED]"),
        ("Origin", "http://u:s3cret@h", "http://h"),
        (
            "Link",
            '<http://s3cret@h/?sig=s3cret;s3cret>; rel="a@b", </b?a=b&token=s3cret>; title="c@d"',
            '<http://h/?sig=[REDACTED]>; rel="a@b", </b?a=b&token=[REDACTED]>; title="c@d"',
        ),
        ("Refresh", "5; url='http://u:s3cret@h/?sig=s3cret'", "5; url='http://h/?sig=[REDACTED]"),
        ("X-Original-URI", "/a?sig=s3cret;s3cret&b=1", "/a?sig=[REDACTED]&b=1"),
        ("X-Original-URL", "http://u:s3cret@h/?token=s3cret", "http://h/?token=[REDACTED]"),
        ("X-Rewrite-Url", "/a;sig=s3cret/b", "/a;sig=[REDACTED]/b"),
        ("X-Forwarded-Uri", "/?a=b&api_key=s3cret", "/?a=b&api_key=[REDACTED]"),
        ("X-Envoy-Original-Path", "/?X-Amz-Signature=s3cret", "/?X-Amz-Signature=[REDACTED]"),
        ("Destination", "http://u:s3cret@h/dav/a", "http://h/dav/a"),
        ("HX-Current-URL", "http://h/#access_token=s3cret", "http://h/#access_token=[REDACTED]"),
        ("X-Other", "http://u:p@h/?sig=1", "http://u:p@h/?sig=1"),
    ],
)
def test_urls_in_headers_are_redacted_as_the_path_is(name: str, sent: str, shown: str) -> None:
    """User info and listed parameters are in no header field that holds a URL, of a head or trailers, repeated too."""
    fields = f"{name}: {sent}\r\n{name.lower()}: {sent}\r\nTransfer-Encoding: chunked\r\n"
    head = f"{fields}\r\n1\r\nx\r\n0\r\n{name}: {sent}\r\n\r\n"
    raws = read(f"POST / HTTP/1.1\r\n{head}".encode(), f"HTTP/1.1 200 OK\r\n{head}".encode())
    assert [raw.headers[name.lower()] for raw in raws] == [f"{shown}, {shown}"] * 2
    assert [raw.trailers for raw in raws] == [{name.lower(): shown}] * 2


def test_a_header_that_is_listed_is_redacted_whole() -> None:
    """A field that holds a URL and is in `REDACT_HEADERS` too leaves as a mark alone."""
    (raw,) = read(b"GET / HTTP/1.1\r\nReferer: http://h/?a=b\r\n\r\n", b"", redact_headers=["Referer"])
    assert raw.headers == {"referer": "[REDACTED]"}


def test_parameters_are_listed_in_any_script() -> None:
    """A name beyond ASCII is found as UTF-8 and as ISO-8859-1, encoded or not; one of several words, or in brackets."""
    names = ("clé", "мой ключ", "filter[id]")
    for sent in ("cl%C3%A9", "CL%C3%89", "cl%E9", "clé", "%D0%BC%D0%BE%D0%B9+%D0%BA%D0%BB%D1%8E%D1%87", "Filter%5Bid]"):
        (raw,) = read(f"GET /?{sent}=s3cret HTTP/1.1\r\n\r\n".encode(), b"", redact_query=names)
        assert raw.path == f"/?{sent}=[REDACTED]".encode().decode("latin-1")


def test_query_redaction_can_be_turned_off() -> None:
    """An empty `REDACT_QUERY` leaves queries as sent; user info is removed all the same."""
    sent = b"GET http://u:p@h/?sig=1 HTTP/1.1\r\nHost: h\r\nReferer: http://u:p@h/?sig=1\r\n\r\n"
    (raw,) = read(sent, b"", redact_query=())
    assert record(raw)["path"] == record(raw)["headers"]["referer"] == "http://h/?sig=1"


def test_redaction_takes_time_by_the_byte() -> None:
    """Of URLs of 60 KB that are made to be searched again and again: each costs as much as one that is plain."""

    def seconds(unit: str) -> float:
        url = "/?" + unit * (60_000 // len(unit))
        raws = read(f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), b"")
        began = time.process_time()
        for raw in raws * 20:
            assert raw.path is not None
        return time.process_time() - began

    plain = seconds("abcdefgh=&")
    for unit in ("sig[", "http://", ":%2F%2F", "%25", "%252525252525", "a=", "&", ";sig", "[sig]", "/sig!", "//a:b"):
        assert seconds(unit) < 20 * plain + 0.5, unit
