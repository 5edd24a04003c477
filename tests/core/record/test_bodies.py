"""record/bodies: values in bodies that must not be shown."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
import time
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer.record.codings import decode
from sniffer.record.message import from_raw
from tests.bodies import agree, parsed, redacted
from tests.records import read, record

M = "[REDACTED]"
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
PARTS = 'multipart/form-data; boundary="b-1"'
SECRET = "s3cret"


def shown(body: bytes | str, kind: str = JSON, coding: str = "", **options: Any) -> dict[str, Any]:
    """The record of a request with this body; both of its forms are the same (`read`)."""
    sent = body.encode() if isinstance(body, str) else body
    head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(sent)}\r\n"
    head += f"Content-Type: {kind}\r\n" * (kind != "") + f"Content-Encoding: {coding}\r\n" * (coding != "")
    (raw,) = read(f"{head}\r\n".encode() + sent, b"", **{"max_body": 1 << 20} | options)
    fields = record(raw)
    assert fields["bodySize"] == len(sent)
    assert SECRET not in repr(from_raw(raw))
    return fields


@pytest.mark.parametrize(
    ("sent", "expected", "count"),
    [
        ('{"a":1,"password":"s3cret"}', f'{{"a":1,"password":"{M}"}}', 1),
        ('{ "Pass_Word" : "s3cret\\"s3cret" , "b":[]}', f'{{ "Pass_Word" : "{M}" , "b":[]}}', 1),
        ('{"pass\\u0077ord":"s3cret","client-secret":"s3cret"}', None, 2),
        ('{"token":{"a":["s3cret","}"],"pin":"s3cret"},"b":2}', f'{{"token":"{M}","b":2}}', 1),
        ('{"a":{"b":[{"pin":12.5e3},{"otp":null},{"cvv":[]}]}}', None, 3),
        ('{"pin":"s3cret","pin":"s3cret"}', None, 2),
        ('{"a":1}\n{"pin":"s3cret"}\n\n[{"otp":true}]', f'{{"a":1}}\n{{"pin":"{M}"}}\n\n[{{"otp":"{M}"}}]', 2),
        ('{"jsonrpc":"2.0","params":["x",{"token":"s3cret"}]}', None, 1),
        ('{"body":"{\\"password\\":\\"s3cret\\"}"}', f'{{"body":"{M}"}}', 1),
        ('{"body":"{\\u0022password\\u0022: \\u0022s3cret\\u0022}"}', f'{{"body":"{M}"}}', 1),
        ('{"user.password":"s3cret","user[pin]":"s3cret"}', None, 2),
        ('\ufeff{"token":"s3cret"}', f'\ufeff{{"token":"{M}"}}', 1),
        (')]}\'\n{"token":"s3cret"}', f')]}}\'\n{{"token":"{M}"}}', 1),
        ('{"password":"s3cr', f'{{"password":"{M}"', 1),
        ('{"password":{"a":["s3cret', f'{{"password":"{M}"', 1),
        ('{"passwords":"x","tokens":1,"spin":2,"":3}', '{"passwords":"x","tokens":1,"spin":2,"":3}', 0),
        ('["password","x",{"a":"password"}]', '["password","x",{"a":"password"}]', 0),
        ("NaN", "NaN", 0),
    ],
)
def test_json(sent: str, expected: str | None, count: int) -> None:
    """Values by key at any depth; the rest stays byte for byte, and the count is exact."""
    fields = shown(sent)
    assert expected is None or fields["body"] == expected
    assert fields.get("bodyRedacted", 0) == count
    assert fields["body"].count(M) == count


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("a=1&password=s3cret&b=2", f"a=1&password={M}&b=2"),
        ("pass%77ord=s3cret;s3cret&b=2", f"pass%77ord={M}&b=2"),
        ("a=b;pin=s3cret;s3cret&c", f"a=b;pin={M}&c"),
        ("+Client+Secret+=s3cret", f"+Client+Secret+={M}"),
        ("user[password]=s3cret&user.pin=s3cret", f"user[password]={M}&user.pin={M}"),
        ("user%5Bpassword%5D=s3cret&to%256ben=s3cret", f"user%5Bpassword%5D={M}&to%256ben={M}"),
        ("payload=%7B%22token%22%3A%22s3cret%22%7D&x=y", f"payload={M}&x=y"),
        ("pin=&otp", f"pin={M}&otp"),
        ('{"token":"s3cret"}', f'{{"token":"{M}"}}'),
        ("design=1&passwords=2", "design=1&passwords=2"),
    ],
)
@pytest.mark.parametrize("kind", [FORM, "text/plain", ""])
def test_urlencoded_forms(sent: str, expected: str, kind: str) -> None:
    """Names in any spelling, `;` between fields, JSON in fields; also where the type is another or missing."""
    if kind and sent[0] == "+":
        kind = FORM
    assert shown(sent, kind)["body"] == expected


def part(head: str, value: str) -> str:
    return f"--b-1\r\nContent-Disposition: form-data; {head}\r\n\r\n{value}\r\n"


@pytest.mark.parametrize(
    ("head", "value", "expected"),
    [
        ('name="password"', "s3cret\r\ns3cret", M),
        ("NAME = Pass_Word", "s3cret", M),
        ("name*=UTF-8''pass%77ord", "s3cret", M),
        ('filename="x"; name="user[pin]"', "s3cret", M),
        ('name="pin"', "", M),
        ('name="pin"', "--b-1x s3cret", M),
        ('name="a"\r\nContent-Type: application/json', '{"token":"s3cret","b":1}', f'{{"token":"{M}","b":1}}'),
        ('name="a"', ' {"token":"s3cret"}', f' {{"token":"{M}"}}'),
        ('name="a"\r\nContent-Type: application/json', "s3cret", M),
        ('name="a"', '{"token":"s3cret" "b":1}', f'{{"token":"{M}" "b":1}}'),
        ('name="a"; filename="password"', "kept", "kept"),
    ],
)
@pytest.mark.parametrize("kind", [PARTS, "multipart/form-data", "text/plain"])
def test_multipart_forms(head: str, value: str, expected: str, kind: str) -> None:
    """Parts by name; JSON in parts; by the type's boundary or by that of the first line."""
    sent, end = part('name="first"', "1"), part('name="last"', "2") + "--b-1--\r\n"
    assert shown(sent + part(head, value) + end, kind)["body"] == sent + part(head, expected) + end
    assert shown(sent + part(head, value)[:-2], kind)["body"] == sent + part(head, expected)[:-2]


@pytest.mark.parametrize(
    ("sent", "kind", "expected"),
    [
        ('{"a":1 "password":"s3cret"}', "text/plain", f'{{"a":1 "password":"{M}"}}'),
        ("{\"password\": 's3cret', b:1}", "text/html", f'{{"password": "{M}", b:1}}'),
        ('{"password":{\'s3cret', "text/plain", f'{{"password":{M}'),
        ('"{\\"pin\\":\\"s3cret\\"}"', "text/plain", f'"{{\\"pin\\":\\"{M}\\"}}"'),
        ('data: {"token":"s3cret","n":1}\n\ndata: {"pin": 3}\n', "text/event-stream", None),
        ('{"token":"s3cret"}', "image/svg+xml", f'{{"token":"{M}"}}'),
        ('{"token":"s3cret"}', "application/octet-stream", f'{{"token":"{M}"}}'),
        ("<html>password=x</html>", "text/html", "<html>password=x</html>"),
    ],
)
def test_other_types(sent: str, kind: str, expected: str | None) -> None:
    """A body that looks like JSON is searched as far as it is JSON, and from there on as text."""
    fields = shown(sent, kind)
    assert expected is None or fields["body"] == expected
    assert fields.get("bodyRedacted", 0) == fields["body"].count(M)


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (b"s3cret", JSON),
        (b'{"a":"b" "c":"s3cret"}', JSON),
        (b'{"token":"s3cret"}]', "application/problem+json; charset=utf-8"),
        (b"[" * 1025 + b'"s3cret"', JSON),
        ('{"a":"s3cret"}'.encode("utf-16"), JSON),
        ('{"a":"s3cret"}'.encode("utf-16-le"), "text/plain"),
        ('{"a":"s3cret"}'.encode("utf-32-be"), ""),
        (b"{'a':'s3cret'}", "application/x-ndjson"),
        (b"[]=s3cret&b={}", FORM),
        (b"s3cret", PARTS),
    ],
)
def test_what_cannot_be_searched_is_left_out(sent: bytes, kind: str) -> None:
    """A body that does not keep to its type, is nested too deep or in UTF-16: `bodyRedacted` is `all`."""
    fields = shown(sent, kind)
    assert "body" not in fields
    assert "bodyEncoding" not in fields
    assert fields["bodyRedacted"] == "all"


def test_codings() -> None:
    """A body is searched once its coding is removed, and left out if it cannot be."""
    sent = gzip.compress(b'{"token":"s3cret"}')
    assert shown(sent, coding="gzip")["body"] == f'{{"token":"{M}"}}'
    for coding in ("gzip", "unheard-of"):
        assert shown(sent, JSON, coding, decode=decode if coding != "gzip" else None)["bodyRedacted"] == "all"
    assert shown(gzip.compress(b'{"token":"s3cret"}')[:-9], coding="gzip")["body"].startswith('{"token":"[')


def test_bytes_that_are_not_utf_8() -> None:
    """They are searched all the same, and written in base64."""
    fields = shown(b'{"a":"\xff","token":"s3cret"}')
    assert (fields["bodyEncoding"], fields["bodyRedacted"]) == ("base64", 1)


def test_the_list_can_be_replaced_or_empty() -> None:
    """A list replaces the default, in any case and script; an empty one turns redaction off."""
    sent = '{"password":1,"Mein-Schl\u00fcssel":2,"\u041a\u043b\u044e\u0447":3}'
    fields = shown(sent, redact_body=("meinschl\u00fcssel", "\u043a\u043b\u044e\u0447"))
    assert fields["body"] == f'{{"password":1,"Mein-Schl\u00fcssel":"{M}","\u041a\u043b\u044e\u0447":"{M}"}}'
    assert shown(sent, redact_body=())["body"] == sent


def test_marks_with_a_key_join_with_those_of_headers() -> None:
    """The mark of a string is that of its text, however it is escaped; of any other value that of its bytes."""
    key = b"0123456789abcdef"

    def mark(value: bytes) -> str:
        return f"[REDACTED:{hmac.new(key, value, hashlib.sha256).hexdigest()[:32]}:{len(value)}]"

    assert shown('{"token":"caf\\u00e9"}', redact_key=key)["body"] == f'{{"token":"{mark("café".encode())}"}}'
    assert shown('{"pin":12}', redact_key=key)["body"] == f'{{"pin":"{mark(b"12")}"}}'
    assert shown("a=b&pin=12", FORM, redact_key=key)["body"] == f"a=b&pin={mark(b'12')}"


# Properties

KEYS = ("a", "password", "Api-Key", "PIN", "client_secret", "pins", "pass word", "id token", 'q"', "é")
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just('x"\\password":'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner),
    max_leaves=12,
)


@given(values, st.booleans(), st.sampled_from((None, 1)), st.sampled_from((JSON, "text/plain", "")))
def test_valid_json_stays_valid(value: Any, ascii_only: bool, indent: int | None, kind: str) -> None:
    """What is found is what Python's json finds, and nothing but the named values changes."""
    sent = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    if kind != JSON and sent[0] not in "{[":
        return
    expected, count = redacted(parsed(sent))
    fields = shown(sent.encode("utf-8", "surrogatepass"), kind)
    if "bodyEncoding" not in fields:
        assert agree(expected, parsed(fields["body"]))
        assert fields.get("bodyRedacted", 0) == fields["body"].count(f'"{M}"') >= count
    if "bodyRedacted" not in fields:
        assert fields.get("bodyEncoding") or fields["body"] == sent


TEXTS = (
    json.dumps(
        {"a": [{"password": SECRET, "b": {"c": 1}}, {"token": [SECRET, {"x": SECRET}]}], "q": f'{{"pin":"{SECRET}"}}'}
    ),
    "".join(json.dumps({"n": n, "Api_Key": SECRET}) + "\n" for n in range(3)),
    f"a=1&password={SECRET};{SECRET}&user%5Bpin%5D={SECRET}&p={quote_plus(json.dumps({'otp': SECRET}))}&z=1",
    part('name="a"', "1") + part('name="password"', SECRET) + part('name="j"', json.dumps({"pin": SECRET})) + "--b-1--",
)
KINDS = (JSON, JSON, FORM, PARTS)


@given(st.integers(0, 3), st.integers(0, 400), st.booleans(), st.sampled_from(("", "text/plain", None)))
def test_no_secret_however_it_is_cut(which: int, cut: int, coded: bool, kind: str | None) -> None:
    """The cap may fall anywhere: no two letters of a secret are left, in either form."""
    sent = TEXTS[which].encode()
    claimed = KINDS[which] if kind is None else kind
    body = gzip.compress(sent) if coded else sent
    fields = shown(body, claimed, "gzip" if coded else "", max_body=max(1, cut)) if not coded or cut > 100 else {}
    assert "s3" not in fields.get("body", "")
    assert fields.get("bodyTruncated", False) is bool(fields and cut < len(sent) and (not coded or cut > 100))


@given(
    st.binary(max_size=200) | st.text('{}[]",:\\ \nu0"pin=&;%-b1', max_size=80).map(str.encode), st.sampled_from(KINDS)
)
def test_any_bytes(body: bytes, kind: str) -> None:
    """Whatever the bytes are: both forms agree, and without a listed key nothing is changed."""
    for each in (kind, "text/plain", "text/event-stream"):
        fields = shown(body, each, redact_body=("unlisted",))
        assert fields.get("bodyRedacted") in (None, "all")
        shown(body, each)


def test_the_search_takes_time_by_the_byte() -> None:
    """Of bodies of 60 KB that are made to be searched again and again."""

    def seconds(unit: str, kind: str) -> float:
        sent = unit * (60_000 // len(unit))
        head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(sent)}\r\n\r\n"
        raws = read((head + sent).encode(), b"", max_body=1 << 20)
        began = time.process_time()
        for raw in raws * 10:
            from_raw(raw)
            raw.to_json()
        return time.process_time() - began

    plain = seconds('["abcdefg"]', JSON)
    for unit, kind in (
        ('"', "text/event-stream"), ('"pin":', "text/event-stream"), ('"pin":{', "text/event-stream"),
        ('\\"', "text/event-stream"), ("[", "text/plain"), ('{"pin":1}', JSON), ('{"pin":', "text/plain"),
        (";a=", FORM), ("a=;", FORM), ("&", FORM), ("%25", FORM), ("--b-1\r\n", PARTS), ("b-1", PARTS),
        ("--b-1\r\nname=a\r\n\r\n{", PARTS), ('{"\\\\', JSON), ('["\\"pin"]', JSON),
    ):  # fmt: skip
        assert seconds(unit, kind) < 20 * plain + 0.5, (unit, kind)
