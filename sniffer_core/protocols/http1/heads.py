"""Parses the header lines that the plain grammar of head.pyx declines, with h11.

h11 decides which fields are accepted. The core parses start lines and framing itself, so h11 gets the header lines
behind a start line and a Host field made here. Content-Length and Transfer-Encoding are kept from it, and the message's
own Host lines are renamed. White space before a colon is removed; the core has noted it as an anomaly. The core has
left out lines that are no fields.
"""

from typing import cast

import h11

FRAMING = frozenset({b"content-length", b"transfer-encoding"})
START = b"GET / HTTP/1.1\r\nHost: h\r\n"


def parse(block: bytes) -> list[tuple[bytes, bytes]] | None:
    """Returns the (name, value) pairs of `block`, whole header lines without the blank line, in order.

    Names keep their case. Folded lines are joined by a blank (RFC 9112 section 5.2). None: h11 refuses the lines, or
    the first line continues none.
    """
    lines = [line.removesuffix(b"\r") for line in block.split(b"\n")[:-1]]
    if not lines:
        return []
    if lines[0][:1] in (b" ", b"\t") or b"" in lines:  # h11 would take a first line with a blank as part of our Host
        return None
    shown: list[bytes] = []
    hosts: dict[int, bytes] = {}  # place among the fields -> name as sent
    framing: dict[int, tuple[bytes, bytearray]] = {}  # place among the fields -> name and value
    count = 0
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            if count - 1 in framing:
                framing[count - 1][1].extend(b" " + line.strip(b" \t"))
            else:
                shown.append(line)
            continue
        name, colon, value = line.partition(b":")
        name = name.rstrip(b" \t")
        if name.lower() in FRAMING and colon:
            framing[count] = name, bytearray(value.strip(b" \t"))
        elif name.lower() == b"host":
            hosts[count] = name
            shown.append(b"X-Host" + colon + value)
        else:
            shown.append(name + colon + value)
        count += 1
    accepted = ask(shown)
    if accepted is None:
        return None
    answers = iter(accepted)
    fields: list[tuple[bytes, bytes]] = []
    for place in range(count):
        if place in framing:
            fields.append((framing[place][0], bytes(framing[place][1].strip(b" \t"))))
        else:
            name, value = next(answers)
            fields.append((hosts.get(place, name), value))
    return fields


def ask(lines: list[bytes]) -> list[tuple[bytes, bytes]] | None:
    """Returns the fields that h11 reads from these header lines, in order. None: it refuses them."""
    data = START + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(data) + 1)
    connection.receive_data(data)
    try:
        event = cast(h11.Request, connection.next_event())  # the head is whole, so the first event is the request
    except h11.RemoteProtocolError as error:
        # The traceback and the error refer to each other. That cycle would keep every frame up to the capture's, and
        # the packets in them, until a garbage collection.
        error.__traceback__ = None
        return None
    return [(bytes(name), bytes(value)) for name, value in event.headers.raw_items()[1:]]
