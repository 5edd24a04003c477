"""The ledger: every counter declared once, the laws between them, and one snapshot of all.

A counter is incremented where its event happens and is never derived from another, so that a law can fail. The core
counts in C (names and order: sniffer_core/base/counters.pxd), the hand-off, the pump and the lanes in Python. A
snapshot holds all counters under the names below, those of the lanes by name under `lanes`. Metrics are
`tcp_sniffer_<name>_total`.

docs/internals/COUNTERS.md is `python -m sniffer.ledger`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple

from sniffer_core.base.marks import ANOMALIES, INCOMPLETE, brief, counter


class Counter(NamedTuple):
    """One number of the ledger. A gauge can fall; everything else only grows."""

    name: str
    meaning: str
    gauge: bool = False


class Law(NamedTuple):
    """The sum of `left` equals the sum of `right` (or, with `at_least`, is not smaller). Names may be globs."""

    name: str
    left: tuple[str, ...]
    right: tuple[str, ...]
    at_least: bool = False


KERNEL: Final = (
    Counter("kernel_received", "packets for this capture that the kernel received, including those that it dropped"),
    Counter("kernel_dropped", "packets dropped by the kernel because its ring (`CAPTURE_BUFFER_SIZE`) was full"),
    Counter("kernel_if_dropped", "packets dropped by the interface or its driver"),
)

CORE: Final = (
    Counter("packets_seen", "packets read from the kernel or the file"),
    Counter("packets_parsed", "packets with a TCP segment, including datagrams completed by their last fragment"),
    Counter("packets_not_ip", "ARP, LLDP, ..."),
    Counter("packets_not_tcp", "UDP, ICMP, ..."),
    Counter("packets_malformed", "packets whose lengths contradict each other"),
    Counter("packets_cut", "packets with a header cut by the snaplen"),
    Counter("packets_fragment", "fragments whose datagram is not complete yet"),
    Counter("packets_fragment_dropped", "fragments refused because of a bound or a contradiction"),
    Counter(
        "packets_stamp_refused",
        "packets stamped beyond 2106 or before 1970, not read (libpcap has 32-bit seconds)",
    ),
    Counter("packets_tunnel_vxlan", "inside VXLAN, not read"),
    Counter("packets_tunnel_geneve", "inside GENEVE, not read"),
    Counter("packets_tunnel_gre", "inside GRE, not read"),
    Counter("packets_tunnel_erspan", "inside ERSPAN, not read"),
    Counter("packets_tunnel_ipip", "inside IPv4 in IP, not read"),
    Counter("packets_tunnel_6in4", "inside IPv6 in IP (6in4), not read"),
    Counter("packets_tunnel_mpls", "inside MPLS, not read"),
    Counter("packets_tunnel_snap", "inside LLC/SNAP, not read"),
    Counter("packets_tunnel_vlan_9200", "inside VLAN tags of type 0x9200 or 0x9300, not read"),
    Counter("packets_tunnel_pbb", "inside PBB (IEEE 802.1ah), not read"),
    Counter("packets_tunnel_gtp", "inside GTP-U, not read"),
    Counter("packets_tunnel_l2tp", "inside L2TP, not read"),
    Counter("packets_tunnel_esp", "inside IPsec ESP, not read"),
    Counter("datagrams_given_up", "datagrams whose fragments were dropped: too many, too old, too large"),
    Counter(
        "stamps_ahead",
        "packets of a file whose stamp was not believed: it is beyond the idle timeout, and the next packet disagrees",
    ),
    Counter("segments_other_port", "segments of a port that is not captured"),
    Counter("segments_sampled_out", "segments of connections that the sample leaves out"),
    Counter("segments_own", "segments of the sniffer's own deliveries"),
    Counter("segments_no_flow", "segments without payload and SYN that belong to no known connection"),
    Counter("bytes_payload", "bytes of TCP payload"),
    Counter("bytes_used", "bytes read as part of a message"),
    Counter("bytes_proxy", "bytes of PROXY protocol headers"),
    Counter("bytes_duplicate", "bytes seen before"),
    Counter("bytes_abandoned_other_port", "bytes of a port that is not captured"),
    Counter("bytes_abandoned_sampled_out", "bytes of connections that the sample leaves out"),
    Counter("bytes_abandoned_own", "bytes of the sniffer's own deliveries"),
    Counter("bytes_abandoned_skipped", "bytes between a gap or malformed input and the next sure boundary"),
    Counter("bytes_abandoned_not_http", "bytes of TLS, HTTP/2 or any other protocol"),
    Counter("bytes_abandoned_tunnel", "bytes after 101 or a 2xx to CONNECT"),
    Counter("bytes_abandoned_late", "bytes after the end of the stream or of the connection"),
    Counter("bytes_abandoned_rst", "payload bytes of a RST, which carries no stream data"),
    Counter("bytes_abandoned_evicted", "bytes held when their connection was given up"),
    Counter("bytes_abandoned_out_of_window", "bytes too far from everything seen: a bogus sequence number"),
    Counter("bytes_abandoned_undecided", "bytes of connections on which neither side sent a start line"),
    Counter("segments_retransmitted", "segments that hold no new bytes"),
    Counter("segments_out_of_order", "segments held until the bytes before them come"),
    Counter("segments_snapped", "segments whose payload the snaplen cut"),
    Counter("overlap_conflicts", "overlapping segments whose bytes differ; the first bytes were kept"),
    Counter("gaps", "holes in a stream that were given up"),
    Counter("gap_bytes", "bytes missing in those holes"),
    Counter("flows_opened", "connections begun"),
    Counter("flows_resumed", "closed connections that were resumed, since their peers ignored the FIN or RST"),
    Counter("flows_closed", "connections that ended by FIN or RST"),
    Counter("flows_idle", "connections that expired (`CONNECTION_IDLE_TIMEOUT_MS`)"),
    Counter("flows_evicted_silent", "connections evicted that never carried payload (connection or memory cap)"),
    Counter("flows_evicted_capacity", "connections evicted as idle longest (`MAX_CONCURRENT_CONNECTIONS`)"),
    Counter("flows_evicted_memory", "connections evicted as idle longest (`MEMORY_BUDGET`)"),
    Counter("flows_stopped", "connections open at the stop"),
    Counter("flows_replaced", "connections whose port was used again"),
    Counter("ends_ignored", "FINs and RSTs that the peers ignored"),
    Counter("holds_evicted", "evictions of the out-of-order bytes of the direction that held most"),
    Counter("bodies_evicted", "evictions of the largest kept body"),
    Counter("flows_sampled_out", "connections that the sample leaves out"),
    Counter("flows_own", "connections of the sniffer's own deliveries"),
    Counter("flows_tls", "connections recognised as TLS"),
    Counter("flows_http2", "connections recognised as HTTP/2 too late to be read"),
    Counter("flows_http2_read", "connections whose HTTP/2 is read"),
    Counter("flows_other_protocol", "connections recognised as another protocol"),
    Counter("flows_undecided", "connections given up because neither side sent a start line"),
    Counter("flows_tunnel", "connections that became a tunnel (101, or a 2xx to CONNECT)"),
    Counter("flows_proxied", "connections that began with a PROXY protocol header"),
    Counter("flows_other_server", "connections whose server port is not captured"),
    Counter("messages_request", "requests emitted"),
    Counter("messages_response", "responses emitted"),
    *(Counter(counter("incomplete_", word), f"messages cut by {brief(cause)}") for word, cause in INCOMPLETE.items()),
    Counter("messages_resynced", "first messages after a gap of unknown size"),
    Counter("messages_tentative_dropped", "messages found after a gap and then contradicted by the other side"),
    Counter("responses_unpaired", "responses whose request is unknown"),
    Counter("responses_early", "responses that came before the head of their request was whole"),
    Counter("requests_unanswered", "requests unanswered when their connection ended or a later one was answered"),
    Counter("responses_informational", "1xx responses except 101"),
    Counter("informational_orphaned", "1xx responses whose final response never came"),
    Counter("responses_taken_bodyless", "unpaired responses followed at once by a status line (an answer to HEAD)"),
    Counter("heads_fast", "heads decided by the fast path"),
    Counter("heads_h11", "heads decided by h11"),
    Counter("heads_refused", "heads with a bad line that may frame the body; emitted as malformed"),
    Counter("heads_cut", "heads that ended within their start line; nothing is emitted"),
    Counter("start_lines_malformed", "start lines that are invalid"),
    Counter("messages_long", "messages that were open for 60 s"),
    Counter("events_dropped", "events that were not logged, because there were too many"),
    *(
        Counter(counter("anomaly_", word), f"messages marked `{word}`: {brief(oddity)}")
        for word, oddity in ANOMALIES.items()
    ),
    Counter("flows", "connections in the table", gauge=True),
    Counter("held_bytes", "out-of-order bytes held", gauge=True),
    Counter("memory_bytes", "bytes that the table holds", gauge=True),
    Counter("memory_blocks", "blocks of memory that the table holds", gauge=True),
    Counter("messages_open", "messages that have begun and not ended", gauge=True),
    Counter("messages_long_open", "messages open for 60 s", gauge=True),
    Counter("packets_waiting", "packets of a file that wait for the next one's stamp", gauge=True),
)

RECORDS: Final = (
    Counter("records_seen", "lines and HAR entries of the files that are read back"),
    Counter("records_read", "lines and entries of which messages were made"),
    Counter("records_sampled_out", "lines and entries of connections that the sample leaves out"),
    Counter("records_skipped_long", "lines and entries that are too long for `MEMORY_BUDGET`"),
    Counter("records_skipped_cut", "last lines and entries that the end of the file has cut"),
    Counter("records_skipped_schema", "records of another schema"),
    Counter("records_skipped_version", "entries of another version of HTTP than 1.0 and 1.1"),
    Counter("records_skipped_other", "lines and entries that are no record"),
)

HANDOFF: Final = (
    Counter("handoff_accepted", "messages that the capture thread put into the hand-off"),
    Counter("handoff_dropped", "messages dropped because the hand-off was full"),
    Counter("handoff_discarded", "messages in the hand-off when the drain ended"),
    Counter("handoff_taken", "messages that the pump took out of the hand-off"),
    Counter("handoff_held", "messages that wait for room in the hand-off (reading a file)", gauge=True),
    Counter("handoff_waiting", "messages in the hand-off", gauge=True),
    Counter("handoff_bytes", "estimated memory of the messages in the hand-off", gauge=True),
)

PUMP: Final = (
    Counter("messages_offered", "messages offered to every lane"),
    Counter("messages_excluded_path", "messages left out by `EXCLUDE_PATHS`"),
    Counter("messages_excluded_user_agent", "messages left out by `EXCLUDE_USER_AGENTS`"),
    Counter("messages_excluded_where", "messages left out by `WHERE`"),
    Counter("messages_excluded_keep", "messages left out by `KEEP` and `KEEP_OTHERS`"),
    Counter("messages_excluded_behind", "messages behind the last that was asked for (`--stop-after`)"),
    Counter("messages_foreign", "messages left out as deliveries of another sniffer to this one's `OUTPUT_URL`"),
    Counter("messages_failed", "messages that could not be made into a record (a defect: please report it)"),
    Counter("bodies_decoded", "bodies from which every content coding was removed"),
    Counter(
        "bodies_left_coded_window",
        "bodies left coded because they need too large a window (more than brotli: 22 bits, zstd: 8 MiB)",
    ),
    Counter("bodies_left_coded_broken", "bodies left coded because a decoder got nothing out of them"),
    Counter(
        "bodies_left_coded_unknown",
        "bodies left coded because of an unknown coding, or of more than four",
    ),
    Counter("pump_waiting", "messages that the pump holds", gauge=True),
)

SPOOL: Final = (
    Counter("spool_set_aside", "damaged spools that were set aside for a new one"),
    Counter("spool_failures", "failed writes to the spool"),
    Counter("spool_bytes", "bytes of the spool's files", gauge=True),
    Counter("spool_failing", "1 while messages are delivered without the spool because its disk fails", gauge=True),
)

LANE: Final = (
    Counter("missed", "messages offered to the other lanes before this lane was opened"),
    Counter("offered", "messages offered to this lane"),
    Counter("recovered", "messages that an earlier run left in the spool"),
    Counter("delivered", "messages that its sink took"),
    Counter("rejected", "messages that its sink rejected (a final answer of the collector)"),
    Counter("dropped_full", "messages dropped because the lane was full"),
    Counter("dropped_yielded", "messages dropped because the lane gave way to the other outputs"),
    Counter("dropped_retries", "messages dropped after the last retry"),
    Counter("dropped_deadline", "messages that the drain did not deliver in time"),
    Counter("dropped_closed", "messages dropped because the sink has ended (closed pipe, left iteration)"),
    Counter("dropped_error", "messages dropped because the sink raised"),
    Counter("dropped_evicted", "messages dropped from the spool, oldest first, because it was full (`SPOOL_SIZE`)"),
    Counter("spooled", "messages safe in the spool and not yet delivered (`SPOOL_DIR`)", gauge=True),
    Counter("waiting", "messages in the lane", gauge=True),
)

DECLARED: Final[dict[str, Counter]] = {
    counter.name: counter for counter in (*KERNEL, *CORE, *RECORDS, *HANDOFF, *PUMP, *SPOOL)
}

LAWS: Final = (
    Law("kernel", ("kernel_received",), ("kernel_dropped", "packets_seen"), at_least=True),
    Law(
        "packets",
        ("packets_seen",),
        (
            "packets_parsed",
            "packets_not_ip",
            "packets_not_tcp",
            "packets_malformed",
            "packets_cut",
            "packets_fragment",
            "packets_fragment_dropped",
            "packets_stamp_refused",
            "packets_tunnel_*",
            "packets_waiting",
        ),
    ),
    Law(
        "bytes", ("bytes_payload",), ("bytes_used", "bytes_proxy", "bytes_duplicate", "bytes_abandoned_*", "held_bytes")
    ),
    Law(
        "flows",
        ("flows_opened", "flows_resumed"),
        ("flows_closed", "flows_idle", "flows_evicted_*", "flows_stopped", "flows_replaced", "flows"),
    ),
    Law(
        "messages",
        ("messages_request", "messages_response"),
        ("handoff_accepted", "handoff_dropped", "handoff_held"),
    ),
    Law("records", ("records_seen",), ("records_read", "records_sampled_out", "records_skipped_*")),
    Law("hand-off", ("handoff_accepted",), ("handoff_taken", "handoff_discarded", "handoff_waiting")),
    Law(
        "pump",
        ("handoff_taken",),
        ("messages_offered", "messages_excluded_*", "messages_foreign", "messages_failed", "pump_waiting"),
    ),
)

LANE_LAWS: Final = (
    Law("lane", ("offered", "recovered"), ("delivered", "rejected", "dropped_*", "spooled", "waiting")),
)

RENAMED_GAUGES: Final = {"messages_long": "messages_long_open"}
"""Gauges of the core that carry the name of a counter."""

Snapshot = dict[str, Any]
Source = Callable[[], Mapping[str, int]]


class Ledger:
    """All counters of one run. Read and written on the event loop; its sources may lock for themselves."""

    def __init__(self) -> None:
        self._own = {counter.name: 0 for counter in PUMP}
        self._sources: list[Source] = []
        self._lanes: dict[str, tuple[int, Source]] = {}

    def add(self, name: str, count: int = 1) -> None:
        """Counts `count` more (less, for a gauge) under `name`, one of PUMP. KeyError for any other."""
        self._own[name] += count

    def source(self, read: Source) -> None:
        """Adds the counters that `read` returns to each snapshot."""
        self._sources.append(read)

    def lane(self, name: str, read: Source) -> str:
        """Takes the counters of a lane from `read`; returns its name in snapshots, made unique."""
        unique, number = name, 1
        while unique in self._lanes:
            number += 1
            unique = f"{name}-{number}"
        self._lanes[unique] = (self._own["messages_offered"], read)
        return unique

    def snapshot(self) -> Snapshot:
        """Every declared counter by name, 0 if nothing counts it. `lanes` holds the counters of each lane by name."""
        snapshot: Snapshot = dict.fromkeys(DECLARED, 0)
        for read in self._sources:
            snapshot.update(read())
        snapshot.update(self._own)
        lanes = {}
        for name, (missed, read) in self._lanes.items():
            lanes[name] = {**{counter.name: 0 for counter in LANE}, **read(), "missed": missed}
        snapshot["lanes"] = lanes
        return snapshot

    def check(self, snapshot: Snapshot | None = None) -> list[str]:
        """One sentence for each law that `snapshot` (default: a new one) breaks; empty when all balance."""
        return broken_laws(self.snapshot() if snapshot is None else snapshot)


def losses(snapshot: Snapshot | Mapping[str, Any]) -> dict[str, int]:
    """The number of lost packets or messages, by place: the kernel, the interface, the hand-off, each lane."""
    lost = {
        "kernel": snapshot["kernel_dropped"],
        "interface": snapshot["kernel_if_dropped"],
        "hand-off": snapshot["handoff_dropped"] + snapshot["handoff_discarded"],
    }
    for name, counters in snapshot["lanes"].items():
        lost[name] = sum(count for counter, count in counters.items() if counter.startswith("dropped_"))
    return {name: count for name, count in lost.items() if count}


def broken_laws(snapshot: Snapshot) -> list[str]:
    """One sentence for each law that `snapshot` breaks."""
    # The kernel law holds for live captures only: a file has no kernel counters.
    laws = LAWS if snapshot["kernel_received"] else LAWS[1:]
    broken = [sentence for law in laws if (sentence := _broken(law, snapshot, ""))]
    for name, counters in snapshot["lanes"].items():
        broken.extend(sentence for law in LANE_LAWS if (sentence := _broken(law, counters, f" {name}")))
        if counters["missed"] + counters["offered"] != snapshot["messages_offered"]:
            broken.append(
                f"law offers {name}: messages_offered {snapshot['messages_offered']} is not"
                f" missed {counters['missed']} + offered {counters['offered']}"
            )
    return broken


def _broken(law: Law, counters: Mapping[str, Any], of: str) -> str:
    left, right = (_terms(names, counters) for names in (law.left, law.right))
    total, parts = sum(left.values()), sum(right.values())
    if total == parts or (law.at_least and total > parts):
        return ""
    word = "is less than" if law.at_least else "is not"
    return f"law {law.name}{of}: {_sum(left)} {word} {_sum(right)}"


def _terms(names: tuple[str, ...], counters: Mapping[str, Any]) -> dict[str, int]:
    return {
        name: counters[name]
        for pattern in names
        for name in ([pattern] if pattern in counters else counters)
        if fnmatchcase(name, pattern)
    }


def _sum(terms: Mapping[str, int]) -> str:
    return " + ".join(f"{name} {value}" for name, value in terms.items() if value) or "0"


def document() -> str:
    """docs/internals/COUNTERS.md."""
    lines = [
        "# Counters",
        "",
        "Generated: `python -m sniffer.ledger > docs/internals/COUNTERS.md`; a test keeps it so.",
        "",
        "Every packet, byte and message ends in exactly one counter. No counter is derived from another, so a balance",
        "that does not hold shows a defect. The last log line of a run (`stopped`) has all counters, `SIGUSR1` logs",
        "them at any time, and `/metrics` exports them as `tcp_sniffer_<name>_total` (gauges without `_total`).",
        "",
        "## Laws",
        "",
    ]
    for law in LAWS:
        sign = "≥" if law.at_least else "="
        lines.append(f"- **{law.name}**: `{' + '.join(law.left)} {sign} {' + '.join(law.right)}`")
    lines.extend(f"- **each {law.name}**: `{' + '.join(law.left)} = {' + '.join(law.right)}`" for law in LANE_LAWS)
    lines.append("- **offers, each lane**: `messages_offered = missed + offered`")
    lines += [
        "",
        "The kernel law is an inequality: packets left in the ring when the capture ends are not read, and on the",
        "loopback interface libpcap discards one of the two copies of each packet that the kernel counts.",
    ]
    for title, counters in (
        ("Kernel (live captures)", KERNEL),
        ("Core: packets, bytes, connections, messages", CORE),
        ("Records that are read back (`--read`)", RECORDS),
        ("Hand-off between the capture thread and the event loop", HANDOFF),
        ("Pump", PUMP),
        ("Spool (`SPOOL_DIR`)", SPOOL),
        ("Each lane (one per output, callback and iterator)", LANE),
    ):
        lines += ["", f"## {title}", "", "| name | meaning |", "|---|---|"]
        lines += [f"| `{c.name}` | {'now: ' if c.gauge else ''}{c.meaning} |" for c in counters]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(document(), end="")
