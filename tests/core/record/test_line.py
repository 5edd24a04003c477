"""record/line: the core's JSON is byte for byte the encoding of the HttpMessage of a message; neither has a secret."""

from __future__ import annotations

import gzip
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from random import Random
from typing import Any
from urllib.parse import quote

import brotli
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer.config import REDACT_HEADERS, REDACT_QUERY
from sniffer.record.codings import decode
from sniffer.record.message import HttpMessage, Placement, from_raw
from sniffer_core.core import Lines, RawMessage, weights
from tests.captures import connection
from tests.conversations import (
    Conversation,
    Exchange,
    Fields,
    Request,
    Response,
    conversations,
    cuts,
    dropped,
    random_sizes,
    sized,
)
from tests.raws import CODECS
from tests.records import read, table
from tests.test_pcaps import CAPTURES, FILES, by_file, where_there

SECRET = "s3cr\xebt"
"""Planted wherever a value is to be redacted; its characters stand in nothing else."""
TRACE = "s3cr"
"""What is left of it however it is encoded."""

seeds = st.integers(0, 2**32)
encode = msgspec.json.Encoder().encode


def lines(raws: Sequence[RawMessage], size: int, *, keep: bool = False) -> list[bytes]:
    """The lines of messages, rendered many at a time, `size` bytes in a part."""
    writer = Lines(keep=keep)
    found: list[bytes] = []
    while len(found) < len(raws):
        count, taken = writer.take(raws, len(found), size)
        part = bytes(taken)
        assert part.endswith(b"\n")
        assert part.count(b"\n") == count
        found += part.removesuffix(b"\n").split(b"\n")
    return found


def assert_same(raws: Iterable[RawMessage], placement: Placement | None = None) -> list[HttpMessage]:
    """Every form of each message has the same bytes, whichever is made first; returns the messages."""
    messages = []
    raws = list(raws)
    together = lines(raws, 3000)
    assert weights(raws) == [raw.weight for raw in raws]
    for number, raw in enumerate(raws):
        if number % 2:
            from_raw(raw, placement)
        line = raw.to_json()
        message = from_raw(raw, placement)
        assert line == encode(message)
        assert raw.to_json() is line
        assert raw.idempotency_key == message.idempotency_key
        assert raw.weight >= len(line)
        messages.append(message)
    assert together == [raw.to_json() for raw in raws] == lines(raws, 1) == lines(raws, 1 << 20, keep=True)
    return messages


def assert_silent(raws: Sequence[RawMessage]) -> None:
    """No form of a message has the secret."""
    messages = assert_same(raws)
    for raw, message in zip(raws, messages, strict=True):
        for text in (raw.to_json().decode(), repr(message), repr((raw.path, raw.headers, raw.trailers))):
            assert TRACE not in text


# Any conversation


@given(conversations(nasty=True), seeds, st.sampled_from((0, 1, 40, 1 << 20)))
def test_whole_conversations(conversation: Conversation, seed: int, max_body: int) -> None:
    """Whatever is said, and wherever bodies are cut."""
    packets = conversation.packets(conversation.segments(cuts(Random(seed), conversation)))
    assert_same(table(max_body=max_body).run(packets))


@given(conversations(methods=("GET", "POST")), seeds)
def test_lossy_conversations(conversation: Conversation, seed: int) -> None:
    """Messages with gaps, without their end, without their request."""
    random = Random(seed)
    segments = dropped(conversation.segments(random_sizes(random, 200)), random, 0.15)
    assert_same(table().run(conversation.packets(segments)))


@where_there
@by_file
def test_public_captures(expected: dict[str, Any]) -> None:
    """Every message of the public captures."""
    pcapy = pytest.importorskip("pcapy")
    assert expected in FILES
    for max_body in (1 << 20, 100):
        capture = pcapy.open_offline(str(CAPTURES / expected["file"]))
        reader = table(linktype=capture.datalink(), ports=expected["ports"], max_body=max_body)
        while (batch := capture.next_batch(4096))[1]:
            assert_same(reader.feed_raw(*batch))
        assert_same(reader.flush())


# Any text


latin = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=30)
visible = st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f"), max_size=30)
tokens = st.text("abcXYZ-_.~!#$%&'*+^`|0189", min_size=1, max_size=12)


@given(visible, latin, st.lists(st.tuples(tokens, latin), max_size=6), st.lists(st.tuples(tokens, latin), max_size=3))
def test_any_text(target: str, reason: str, fields: list[tuple[str, str]], trailers: list[tuple[str, str]]) -> None:
    """Control characters, quotes, backslashes and bytes beyond ASCII in targets, reasons, headers and trailers."""
    framing = ("content-length", "transfer-encoding", "content-encoding", "connection", "upgrade", "te", "trailer")
    kept: Fields = tuple((name, value) for name, value in fields if name.lower() not in framing)
    last: Fields = tuple((name, value) for name, value in trailers if name.lower() not in framing)
    exchange = Exchange(
        Request(path="/" + target, fields=(("Host", "x"), *kept)),
        Response(reason=reason, fields=kept, framing="chunked", body=b"x", trailers=last),
    )
    conversation = Conversation(exchanges=(exchange,))
    assert_same(table().run(conversation.packets(conversation.segments())))


@pytest.mark.slow
@given(st.lists(st.text(), min_size=3, max_size=3))
def test_any_placement(names: list[str]) -> None:
    """Pod, namespace and node are written as they are."""
    (pod, namespace, node) = names
    reader = table(ports=(8080,), placement=(pod, namespace, node))
    placement = Placement(pod, namespace, node) if any(names) else None
    (message,) = assert_same(reader.run(connection([(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"")])), placement)
    assert message.placement == placement


@given(st.integers(0, 2**32 - 2), st.integers(0, 999_999), st.integers(0, 10**10))
def test_any_time(second: int, micro: int, latency: int) -> None:
    """Any packet time, and any latency."""
    conversation = Conversation(exchanges=(Exchange(Request(), Response()),), fin=False)
    start = second * 1_000_000 + micro
    segments = conversation.segments()
    stamps = [min(start + (latency if segment.side and segment.data else 0), 2**32 * 10**6 - 1) for segment in segments]
    timed = [replace(segment, stamp=stamp) for segment, stamp in zip(segments, stamps, strict=True)]
    assert_same(table(idle_timeout_us=2**60).run(conversation.packets(timed)))


# Any body


CODINGS: Mapping[str, Callable[[bytes], bytes]] = {
    **CODECS,
    "gzip, br": lambda data: brotli.compress(gzip.compress(data)),
    "identity": bytes,
    "unheard-of": bytes,
    "": bytes,
}
texts = st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode), st.just(b"text " * 400))


def answers(body: bytes, coding: str | None, *, declared: int, **options: Any) -> list[RawMessage]:
    """The messages of an exchange with this body, of which the length is declared."""
    coded = b"" if coding is None else b"Content-Encoding: " + coding.encode() + b"\r\n"
    head = b"HTTP/1.1 200 OK\r\n" + coded + b"Content-Length: %d\r\n\r\n" % declared
    packets = connection([(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", head + body)])
    return table(ports=(8080,), **options).run(packets)


@given(texts, st.integers(0, 400), st.booleans())
def test_any_body(body: bytes, max_body: int, cut: bool) -> None:
    """Text, bytes, UTF-8 that is wrong or cut anywhere, and a body that does not end."""
    assert_same(answers(body, None, declared=len(body) + cut, max_body=max_body))


@given(texts, st.sampled_from(sorted(CODINGS)), st.integers(0, 400), st.data())
def test_any_coded_body(body: bytes, coding: str, max_body: int, data: st.DataObject) -> None:
    """Coded bodies: whole, cut by the cap, without their end, damaged; decoded and not."""
    coded = bytearray(CODINGS[coding](body))
    if coded and data.draw(st.booleans()):
        coded[data.draw(st.integers(0, len(coded) - 1))] ^= data.draw(st.integers(1, 255))
    hook = data.draw(st.sampled_from((decode, None)))
    extra = data.draw(st.integers(0, 1))
    assert_same(answers(bytes(coded), coding, declared=len(coded) + extra, max_body=max_body, decode=hook))


# Weight


@pytest.mark.parametrize(
    ("request_", "response"),
    [
        (Request(), Response()),
        (Request(path="/" + "x" * 4000), Response()),
        (Request(fields=(("x", "x" * 4000),)), Response(fields=(("x" * 4000, "x"),))),
        (Request(fields=tuple((f"x-{number}", "") for number in range(1000))), Response()),
        (Request(), Response(fields=(("set-cookie", "x" * 1000),) * 4)),
        (Request(), Response(body=b"x" * 4000)),
        (Request(), Response(body=b"\xff" * 4000)),
        (Request(), Response(body="é".encode() * 2000)),
        (
            Request(),
            Response(
                fields=(("content-encoding", "gzip"),), body=gzip.compress(Random(1).randbytes(500).hex().encode())
            ),
        ),
        (Request(), Response(framing="chunked", trailers=(("checksum", "x" * 4000),))),
    ],
)
def test_the_weight_covers_every_form(request_: Request, response: Response) -> None:
    """Whichever part is large: JSON, and the HttpMessage once there is one, are counted before they are made."""
    conversation = Conversation(exchanges=(Exchange(request_, response),))
    for raw in table(max_body=65536).run(conversation.packets(conversation.segments(sized(1460)))):
        assert raw.weight >= len(raw.to_json()) + 500
        alone = raw.weight
        raw.message = message = from_raw(raw)
        texts = [message.path, message.body, *message.headers, *message.headers.values()]
        assert raw.weight >= alone + 1000 + sum(len(text) for text in texts if text is not None)


# Secrets


MARK = re.compile(rb"\[REDACTED:[0-9a-f]{32}:[0-9]+\]")


def cased(name: str, random: Random) -> str:
    """The name in some mixture of cases."""
    return "".join(random.choice((character.upper(), character.lower())) for character in name)


def encoded(name: str, random: Random) -> str:
    """The name with some characters percent-encoded."""
    return "".join(
        f"%{ord(character):02{random.choice('xX')}}" if random.random() < 0.3 else character for character in name
    )


SPELLINGS = (
    *("{}", "{}", "{}", "+{}", "{}+", "%20{}%09", "%C2%A0{}", "{}[]", "{}[0]", "{}%5B%5D", "a[{}]", "a%5b{}%5d[b]"),
    *("?{}", ";{}", "a;{}", "a=b;{}", "%26{}", "a=b%3B{}", "a={}", "a?{}", "#{}", "#!/{}"),
)
"""Of names of parameters, all of which are listed ones to some server."""
VALUES = ("{}", "{}", "", "{}={}", "{}?{}", "{};{}", ";{}", "{};a=b;{}", "{}/{}", "{}#{}", "{}%26{}", "{}%3B{}", "{}==")


def parameter(random: Random) -> str:
    """A redacted parameter, in some spelling of its name, with the secret in its value."""
    name = encoded(cased(random.choice(REDACT_QUERY), random), random)
    value = random.choice(VALUES).format(SECRET, SECRET)
    return f"{random.choice(SPELLINGS).format(name)}={value}"


def secret_url(random: Random, starts: Sequence[str], depth: int = 2) -> str:
    """A URL with the secret as user info, in parameters of its path and its query, and in URLs within it."""
    segment = f";{cased(random.choice(REDACT_QUERY), random)}={SECRET}"
    path = random.choice(("", "/", "/a/b", "/users/@me", f"/a{segment}", f"/a;b=c{segment};{SECRET}/d{segment}"))
    parts = []
    for _ in range(random.randint(0, 4)):
        part = random.choice(("a=b", "c", "", "sigma=1", "d=%", "e=f@g"))
        if random.random() < 0.5:
            part = parameter(random)
        elif depth and random.random() < 0.5:
            inner = secret_url(random, (*URL_STARTS, f"//u:{SECRET}@h"), depth - 1)
            safe = random.choice(("", "", "/", "/:?", "~"))
            part = f"to={inner if random.random() < 0.3 else quote(inner, safe, 'latin-1')}"
        parts.append(part)
    mark = random.choice(("?", "?", "??", "?&", "?;;", "#", "?a#", "#/"))
    return random.choice(starts) + path + mark + random.choice("&;").join(parts)


URL_STARTS = ("", f"http://{SECRET}@host", f"HTTPS://u:{SECRET}@{SECRET}@host", f"ws:\\\\u:{SECRET};@h")
TARGET_STARTS = (
    *("/", "/a/b", f"{SECRET}:p@host:80", f"//u:{SECRET}@h", f"https:/u:{SECRET}@h", f"http://{SECRET};&@h"),
    *URL_STARTS[1:],
)
FIELD_STARTS = (*URL_STARTS, f"//{SECRET}@h", f"http://{SECRET};&@h")


@st.composite
def secret_fields(draw: st.DrawFn) -> Fields:
    """Fields with the secret, named as the redacted ones in any case, or in URLs, repeated, between others."""
    random = Random(draw(seeds))
    fields = [
        (cased(random.choice(REDACT_HEADERS), random), random.choice((SECRET, f"a={SECRET}; {SECRET}")))
        for _ in range(4)
    ]
    for name in ("referer", "location", "content-location", "origin", "link", "refresh"):
        if random.random() < 0.5:
            url = secret_url(random, FIELD_STARTS)
            form = {"link": '<{}>; rel="next", </>; rel=prev', "refresh": "0; url={}"}.get(name, "{}")
            fields += [(cased(name, random), form.format(url))] * random.choice((1, 1, 2))
    fields += [("X-Other", "kept"), ("Accept", "*/*"), (cased("accept", random), "text/html")]
    random.shuffle(fields)
    return tuple(fields)


@st.composite
def secret_targets(draw: st.DrawFn) -> str:
    """Targets with the secret."""
    return secret_url(Random(draw(seeds)), TARGET_STARTS)


@given(secret_fields(), secret_fields(), secret_fields(), secret_targets(), seeds)
def test_no_secret_leaves(up: Fields, down: Fields, trailers: Fields, target: str, seed: int) -> None:
    """No secret in any redacted place is in either form, nor in the attributes, however the bytes come."""
    exchange = Exchange(
        Request(
            path=target, fields=(("Host", "x"), *up), method="POST", framing="chunked", body=b"x", trailers=trailers
        ),
        Response(fields=down, framing="chunked", body=b"x", trailers=trailers),
    )
    conversation = Conversation(exchanges=(exchange, exchange))
    segments = conversation.segments(cuts(Random(seed), conversation))
    raws = table().run(conversation.packets(segments))
    assert len(raws) == 4
    assert_silent(raws)
    joinable = table(redact_key=b"0123456789abcdef").run(conversation.packets(segments))
    for raw, other in zip(raws, joinable, strict=True):
        line = other.to_json()
        assert line == encode(from_raw(other))
        assert raw.to_json() == MARK.sub(b"[REDACTED]", line)
    assert all(raw.headers["x-other"] == "kept" for raw in raws)


@given(secret_fields(), secret_fields(), secret_targets(), seeds)
def test_no_secret_leaves_in_pieces(up: Fields, down: Fields, target: str, seed: int) -> None:
    """Nor when bytes are lost, and heads come in parts."""
    random = Random(seed)
    exchange = Exchange(Request(path=target, fields=(("Host", "x"), *up)), Response(fields=down, body=b"x"))
    conversation = Conversation(exchanges=(exchange,) * 3)
    segments = dropped(conversation.segments(random_sizes(random, 300)), random, 0.1)
    assert_silent(table().run(conversation.packets(segments)))


# Many at a time


def requests(count: int, body: bytes = b"") -> list[RawMessage]:
    """As many requests, on one connection."""
    request = b"POST /each HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    exchanges = [(request, b"HTTP/1.1 204 No Content\r\n\r\n")] * count
    raws = table(max_body=1 << 20).run(connection(exchanges, server_port=80))
    assert len(raws) == 2 * count
    return [raw for raw in raws if raw.direction == "request"]


def test_lines_come_in_parts() -> None:
    """A part ends where it has the bytes asked for, or 512 lines; each has one line at least, and none is left out."""
    raws = requests(1500)
    line = len(raws[0].to_json()) + 1
    writer = Lines()
    assert writer.take(raws, 0, 1)[0] == 1
    assert writer.take(raws, 0, 5 * line)[0] in (4, 5)
    assert writer.take(raws, 7, 1 << 30)[0] == 512
    assert writer.take(raws, 1499, 1 << 30)[0] == 1
    assert writer.take(raws, 1500, 1 << 30) == (0, b"")


def test_a_part_of_long_lines_is_bounded() -> None:
    """What a body of control characters becomes, six times its size, counts as it is written."""
    raws = requests(20, b"\x01" * 10_000)
    count, part = Lines().take(raws, 0, 100_000)
    assert count == 2
    assert len(part) < 130_000


def test_lines_keep_the_json_where_asked() -> None:
    """For another output the JSON is made once; else a message does not hold it."""
    alone, shared = requests(2), requests(2)
    before = alone[0].weight
    lines(alone, 1 << 20)
    lines(shared, 1 << 20, keep=True)
    assert alone[0].weight == before
    assert shared[0].weight != before
    assert alone[0].to_json() == shared[0].to_json()


def test_lines_of_other_records() -> None:
    """What is no message of the core gives its own JSON, between those that are."""

    class Other:
        def to_json(self) -> bytes:
            return b"{}"

    raw = requests(1)[0]
    assert Lines().take([Other(), raw, Other()], 0, 1 << 20) == (3, b"{}\n%s\n{}\n" % raw.to_json())


def test_lines_from_threads_at_a_time() -> None:
    """Rendering lets go of the GIL; writers of several threads do not disturb each other."""
    raws = requests(400, b"caf\xc3\xa9 " * 50)
    expected = [raw.to_json() for raw in requests(400, b"caf\xc3\xa9 " * 50)]
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(lines, raws, 20_000) for _ in range(8)]
        for raw in raws:
            assert from_raw(raw, None).path == "/each"
        assert all(future.result() == expected for future in found)


@pytest.mark.parametrize(
    ("tail", "shown"),
    [
        (b"\xe2\x82", "ab"),
        (b"\xf0\x9f\x98", "ab"),
        (b"\xed\x9f", "ab"),
        (b"\xed\xa0", None),
        (b"\xf4\x90", None),
        (b"\xc0", None),
    ],
)
def test_a_sequence_that_the_end_cuts(tail: bytes, shown: str | None) -> None:
    """The beginning of a character at the end of a cut body is left out; that of a surrogate is no character's."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"
    body = read(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", head + tail)[1].content[0]  # which compares both forms
    assert body == (shown or b64encode(b"ab" + tail).decode())
