"""Header blocks that the fast path of http1.pyx declines, judged by h11.

h11 sees the header lines alone, behind a start line and a Host of its own: start lines and framing are http1's. So the
framing fields never reach h11, the block's own Host lines go under another name, and white space before a colon is
trimmed (http1 has counted it). Everything else is h11's decision: what it accepts is used, what it refuses is refused.
"""

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
    if lines[0][:1] in (b" ", b"\t"):  # continues nothing; behind our own Host, h11 would take it for a part of that
        return None
    judged: list[bytes] = []
    own: dict[int, bytes] = {}  # position -> name under which a judged field came (Host)
    framing: dict[int, tuple[bytes, bytearray]] = {}  # position -> a field that h11 must not see
    count = 0
    for line in lines:
        if not line:
            return None
        if line[:1] in (b" ", b"\t"):
            if count - 1 in framing:
                framing[count - 1][1].extend(b" " + line.strip(b" \t"))
            else:
                judged.append(line)
            continue
        name, colon, value = line.partition(b":")
        name = name.rstrip(b" \t")
        lower = name.lower()
        if colon and lower in FRAMING:
            framing[count] = name, bytearray(value.strip(b" \t"))
        elif colon and lower == b"host":
            own[count] = name
            judged.append(b"X-Host:" + value)
        else:
            judged.append(name + colon + value)
        count += 1
    data = START + b"".join(line + b"\r\n" for line in judged) + b"\r\n"
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(data) + 1)
    connection.receive_data(data)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.Request):
        return None
    accepted = iter(event.headers.raw_items()[1:])
    fields: list[tuple[bytes, bytes]] = []
    for position in range(count):
        if position in framing:
            framed, text = framing[position]
            fields.append((framed, bytes(text.strip(b" \t"))))
        else:
            judged_name, judged_value = next(accepted)
            fields.append((own.get(position, bytes(judged_name)), bytes(judged_value)))
    return fields
