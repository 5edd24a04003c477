"""The texts that name a connection."""

from __future__ import annotations

import json
from hashlib import blake2b
from ipaddress import ip_address
from random import Random
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

import pytest

from sniffer_core.testing import address_shown, digest_shown
from tests.conversations import START, Dialogue
from tests.laws import Table


def test_the_digest_is_that_of_hashlib() -> None:
    """Any bytes, from none to a whole block, have the BLAKE2b-128 that hashlib gives."""
    random = Random(7)
    for size in range(129):
        for data in (bytes(size), b"\xff" * size, *(random.randbytes(size) for _ in range(20))):
            assert digest_shown(data) == blake2b(data, digest_size=16).hexdigest(), data
    with pytest.raises(ValueError, match="block"):
        digest_shown(bytes(129))


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0",
        "255.255.255.255",
        "10.0.0.1",
        "::",
        "::1",
        "2001:db8::1",
        "2001:db8:0:1:1:1:1:1",
        "1:0:0:2::3",
        "::ffff:1.2.3.4",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    ],
)
def test_an_address_is_written_as_the_socket_module_writes_it(text: str) -> None:
    """Shortest and longest texts, and each rule of RFC 5952 for zeros."""
    family = AF_INET6 if ":" in text else AF_INET
    packed = inet_pton(family, text)
    assert address_shown(packed) == inet_ntop(family, packed) == text


def test_every_byte_of_an_address_is_written_in_decimal() -> None:
    """Each of the 256 values, in each of the four places, is written as the socket module writes it."""
    for value in range(256):
        for place in range(4):
            packed = bytes(value if i == place else 255 - value for i in range(4))
            assert address_shown(packed) == inet_ntop(AF_INET, packed)


def test_any_address_reads_back_as_itself() -> None:
    """Random addresses, of which many bytes are zero, are the same after they were written and read."""
    random = Random(8)
    for size in (4, 16):
        for _ in range(2_000):
            packed = bytes(random.choice((0, 0, 1, random.randrange(256))) for _ in range(size))
            assert ip_address(address_shown(packed)).packed == packed


@pytest.mark.parametrize(
    ("client", "server"),
    [
        (("192.0.2.1", 40000), ("198.51.100.7", 80)),
        (("203.0.113.9", 65535), ("10.0.0.1", 80)),
        (("2001:db8::2", 1), ("2001:db8::1", 80)),
    ],
)
def test_the_id_is_the_digest_of_the_ends_and_the_first_stamp(client: tuple[str, int], server: tuple[str, int]) -> None:
    """A version, both ends in order of their bytes, and the time: computed here by hashlib from the same facts."""
    dialogue = Dialogue(client=client, server=server)
    dialogue.client(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    (message,) = Table().run(dialogue.packets)
    ends = sorted((inet_pton(AF_INET6 if ":" in ip else AF_INET, ip), port) for ip, port in (client, server))
    named = b"\x01" + b"".join(packed + port.to_bytes(2, "big") for packed, port in ends) + START.to_bytes(8, "big")
    assert message.connection_id == blake2b(named, digest_size=16).hexdigest()
    fields = json.loads(message.to_json())
    assert (fields["receiver"]["ip"], fields["receiver"]["port"]) == server
    assert (fields["destination"]["ip"], fields["destination"]["port"]) == client
