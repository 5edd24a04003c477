"""Header blocks that the fast path of http1.pyx declines, judged by h11.

h11 sees the header lines alone, behind a start line and a Host of its own: start lines and framing are http1's. So the
framing fields never reach h11, the block's own Host lines go under another name, and white space before a colon is
trimmed (http1 has counted it). Lines that are no fields never get here. Everything else is h11's decision: what it
accepts is used, what it refuses is refused.
"""

from typing import cast

import h11

FRAMING = frozenset({b"content-length", b"transfer-encoding"})
START = b"GET / HTTP/1.1\r\nHost: h\r\n"


def parse(block: bytes) -> list[tuple[bytes, bytes]] | None:
    """The (name, value) pairs of `block`, whole header lines without the blank line, in order; None if h11 refuses.

    Names keep their case. Folds are resolved (RFC 9112 section 5.2); http1 has counted them.
    """
    lines = [line.removesuffix(b"\r") for line in block.split(b"\n")[:-1]]
    if not lines:
        return []
    if lines[0][:1] in (b" ", b"\t") or b"" in lines:  # a fold of nothing, which h11 would give to our Host
        return None
    judged: list[bytes] = []
    hosts: dict[int, bytes] = {}  # place -> name as sent
    framing: dict[int, tuple[bytes, bytearray]] = {}  # place -> name and value that h11 does not see
    count = 0
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            if count - 1 in framing:
                framing[count - 1][1].extend(b" " + line.strip(b" \t"))
            else:
                judged.append(line)
            continue
        name, colon, value = line.partition(b":")
        name = name.rstrip(b" \t")
        if name.lower() in FRAMING and colon:
            framing[count] = name, bytearray(value.strip(b" \t"))
        elif name.lower() == b"host":
            hosts[count] = name
            judged.append(b"X-Host" + colon + value)
        else:
            judged.append(name + colon + value)
        count += 1
    accepted = ask(judged)
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
    """h11's fields for these header lines, in order; None if it refuses."""
    data = START + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(data) + 1)
    connection.receive_data(data)
    try:
        event = cast(h11.Request, connection.next_event())  # the head is whole: there is no other event
    except h11.RemoteProtocolError as error:
        # One of its frames refers to it: until a garbage collection that would keep all frames up to the capture's, and
        # the packets in them.
        error.__traceback__ = None
        return None
    return [(bytes(name), bytes(value)) for name, value in event.headers.raw_items()[1:]]
