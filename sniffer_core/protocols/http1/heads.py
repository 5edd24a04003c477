"""Header lines that the plain grammar of head.pyx declines, read by h11.

What h11 accepts is used, and what it refuses is refused: it is the parser that the field trusts. It sees header lines
alone, behind a start line and a Host of our own, since start lines and framing are the core's. So Content-Length and
Transfer-Encoding are not shown to h11, the message's own Host lines go under another name, and white space before a
colon is removed (the core has counted it as an anomaly). Lines that are no fields are left out before.
"""

from typing import cast

import h11

FRAMING = frozenset({b"content-length", b"transfer-encoding"})
START = b"GET / HTTP/1.1\r\nHost: h\r\n"


def parse(block: bytes) -> list[tuple[bytes, bytes]] | None:
    """The (name, value) pairs of `block`, which holds whole header lines without the blank line, in order.

    Names keep their case; folded lines are joined by a blank (RFC 9112 section 5.2). None: h11 refuses a line.
    """
    lines = [line.removesuffix(b"\r") for line in block.split(b"\n")[:-1]]
    if not lines:
        return []
    if lines[0][:1] in (b" ", b"\t") or b"" in lines:  # it continues no line: h11 would take it as part of our Host
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
    """The fields that h11 reads from these header lines, in order. None: it refuses one."""
    data = START + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(data) + 1)
    connection.receive_data(data)
    try:
        event = cast(h11.Request, connection.next_event())  # the head is whole: there is no other event
    except h11.RemoteProtocolError as error:
        # A frame of the traceback refers to the error: that cycle would keep every frame up to the capture's, and the
        # packets in them, until a garbage collection.
        error.__traceback__ = None
        return None
    return [(bytes(name), bytes(value)) for name, value in event.headers.raw_items()[1:]]
