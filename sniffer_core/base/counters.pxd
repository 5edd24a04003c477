# Every counter of the core, once. The Python names are these in lower case (counters.pyx); no counter is derived from
# another, so that the balance laws (tests/laws.py, docs) can fail.

from libc.stdint cimport uint64_t

from sniffer_core.base.marks cimport ANOMALY_COUNT, INCOMPLETE_COUNT

cpdef enum Counter:
    # packets_seen = parsed + every other packets_*
    PACKETS_SEEN = 0
    PACKETS_PARSED              # reached TCP (a datagram completed by its last fragment included)
    PACKETS_NOT_IP              # ARP, LLDP, ...
    PACKETS_NOT_TCP             # UDP, ICMP, ...
    PACKETS_MALFORMED           # lengths that contradict each other
    PACKETS_CUT                 # the snaplen cut a header
    PACKETS_FRAGMENT            # a fragment that completed nothing yet
    PACKETS_FRAGMENT_DROPPED    # a fragment that the bounds or contradictions refused
    PACKETS_STAMP_REFUSED       # their stamp does not fit into the index
    # inside of a tunnel, in the order of wire.Tunnel: named, not read
    PACKETS_TUNNEL_VXLAN
    PACKETS_TUNNEL_GENEVE
    PACKETS_TUNNEL_GRE
    PACKETS_TUNNEL_ERSPAN
    PACKETS_TUNNEL_IPIP
    PACKETS_TUNNEL_6IN4
    PACKETS_TUNNEL_MPLS
    PACKETS_TUNNEL_SNAP
    PACKETS_TUNNEL_VLAN_9200
    PACKETS_TUNNEL_PBB
    PACKETS_TUNNEL_GTP
    PACKETS_TUNNEL_L2TP
    PACKETS_TUNNEL_ESP

    DATAGRAMS_GIVEN_UP          # whose fragments were dropped: too many, too old, too large
    STAMPS_AHEAD                # of packets whose stamp was not believed: the next one's is far behind, or ahead again

    # what became of parsed segments that no HTTP stream took
    SEGMENTS_OTHER_PORT
    SEGMENTS_SAMPLED_OUT
    SEGMENTS_OWN                # our own deliveries
    SEGMENTS_NO_FLOW            # no payload and no SYN, and no flow to belong to

    # bytes_payload = used + duplicate + every bytes_abandoned_* + held (a gauge)
    BYTES_PAYLOAD
    BYTES_USED                  # read as part of a message
    BYTES_PROXY                 # of PROXY protocol headers
    BYTES_DUPLICATE             # seen before
    BYTES_ABANDONED_OTHER_PORT
    BYTES_ABANDONED_SAMPLED_OUT
    BYTES_ABANDONED_OWN
    BYTES_ABANDONED_SKIPPED     # between a gap or malformed input and the next sure boundary
    BYTES_ABANDONED_NOT_HTTP    # TLS, HTTP/2, anything else
    BYTES_ABANDONED_TUNNEL      # after 101 or a 2xx to CONNECT
    BYTES_ABANDONED_LATE        # after the end of the stream or of the connection
    BYTES_ABANDONED_RST         # carried by a RST, which carries no stream data
    BYTES_ABANDONED_EVICTED     # held when its flow was given up
    BYTES_ABANDONED_OUT_OF_WINDOW  # too far from everything seen: a bogus sequence number
    BYTES_ABANDONED_UNDECIDED   # neither side spoke a start line

    # streams
    SEGMENTS_RETRANSMITTED      # nothing new in them
    SEGMENTS_OUT_OF_ORDER       # held for the bytes before them
    SEGMENTS_SNAPPED            # payload cut by the snaplen
    OVERLAP_CONFLICTS           # overlapping bytes that differ; the first were kept
    GAPS
    GAP_BYTES

    # flows_opened + resumed = closed + idle + evicted_* + stopped + replaced + live (a gauge)
    FLOWS_OPENED
    FLOWS_RESUMED               # closed, and read on: their peers have ignored what closed them
    FLOWS_CLOSED
    FLOWS_IDLE
    FLOWS_EVICTED_SILENT        # never carried payload; connection or memory cap
    FLOWS_EVICTED_CAPACITY      # idle longest, connection cap
    FLOWS_EVICTED_MEMORY        # idle longest, memory cap
    FLOWS_STOPPED               # alive at flush
    FLOWS_REPLACED              # the port was used again
    ENDS_IGNORED                # FIN or RST that the peers have ignored
    HOLDS_EVICTED               # out-of-order bytes of the flow holding most, memory cap
    BODIES_EVICTED              # kept body of the largest open message, memory cap
    FLOWS_SAMPLED_OUT
    FLOWS_OWN
    FLOWS_TLS
    FLOWS_HTTP2
    FLOWS_OTHER_PROTOCOL
    FLOWS_UNDECIDED
    FLOWS_TUNNEL
    FLOWS_PROXIED               # began with a PROXY protocol header
    FLOWS_OTHER_SERVER          # a flow whose server port is not captured

    # messages
    MESSAGES_REQUEST            # emitted
    MESSAGES_RESPONSE
    INCOMPLETE_FIRST            # one for each of marks.Incomplete but WHOLE
    MESSAGES_RESYNCED = INCOMPLETE_FIRST + INCOMPLETE_COUNT
    MESSAGES_TENTATIVE_DROPPED  # read after a gap and then contradicted by the other side
    RESPONSES_UNPAIRED
    RESPONSES_EARLY             # came before the head of the request that they answer was whole
    REQUESTS_UNANSWERED         # their connection ended, or a later one was answered, first
    RESPONSES_INFORMATIONAL     # 1xx but 101
    INFORMATIONAL_ORPHANED      # 1xx whose final response never came
    RESPONSES_TAKEN_BODYLESS    # unpaired, but a status line followed at once (an answer to HEAD)
    HEADS_FAST                  # decided by the fast path
    HEADS_H11                   # decided by h11
    HEADS_REFUSED               # emitted as malformed: a line that is no field may frame the body
    HEADS_CUT                   # ended before their start line did: nothing to emit
    START_LINES_MALFORMED
    MESSAGES_LONG               # open for 60 s
    EVENTS_DROPPED              # more to log than the bound

    ANOMALY_FIRST               # one for each of marks.Anomaly
    COUNTERS_END = ANOMALY_FIRST + ANOMALY_COUNT
