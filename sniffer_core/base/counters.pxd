# Every counter of the core. Python's names for them are these in lower case (counters.pyx). None is computed from
# others, so that the balances asserted in tests/laws.py are real checks.

from libc.stdint cimport uint64_t

from sniffer_core.base.marks cimport ANOMALY_COUNT, INCOMPLETE_COUNT

cpdef enum Counter:
    # packets_seen is the sum of all other packets_*
    PACKETS_SEEN = 0
    PACKETS_PARSED              # reached TCP (a datagram completed by its last fragment included)
    PACKETS_NOT_IP              # ARP, LLDP, ...
    PACKETS_NOT_TCP             # UDP, ICMP, ...
    PACKETS_MALFORMED           # lengths that contradict each other
    PACKETS_CUT                 # the snaplen cut a header
    PACKETS_FRAGMENT            # a fragment that completed nothing yet
    PACKETS_FRAGMENT_DROPPED    # a fragment that the bounds or contradictions refused
    PACKETS_STAMP_REFUSED       # their stamp does not fit into the index
    # Packets inside of a tunnel, which is named and not read. The order is that of wire.Tunnel
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
    STAMPS_AHEAD                # packets whose stamp was not used: the next packet's is far behind it, or ahead again

    # Parsed segments that belong to no stream that is read
    SEGMENTS_OTHER_PORT
    SEGMENTS_SAMPLED_OUT
    SEGMENTS_OWN                # of the sniffer's own deliveries
    SEGMENTS_NO_FLOW            # without payload or SYN, and of no known flow

    # bytes_payload = bytes_used + bytes_proxy + bytes_duplicate + every bytes_abandoned_* + held_bytes (a gauge)
    BYTES_PAYLOAD
    BYTES_USED                  # read as part of a message
    BYTES_PROXY                 # of PROXY protocol headers
    BYTES_DUPLICATE             # seen before
    BYTES_ABANDONED_OTHER_PORT
    BYTES_ABANDONED_SAMPLED_OUT
    BYTES_ABANDONED_OWN
    BYTES_ABANDONED_SKIPPED     # between lost or malformed bytes and the next message that is found
    BYTES_ABANDONED_NOT_HTTP    # TLS, HTTP/2, anything else
    BYTES_ABANDONED_TUNNEL      # after 101 or a 2xx to CONNECT
    BYTES_ABANDONED_LATE        # after the end of the stream or of the connection
    BYTES_ABANDONED_RST         # carried by a RST, which carries no stream data
    BYTES_ABANDONED_EVICTED     # held for bytes before them when their flow was given up
    BYTES_ABANDONED_OUT_OF_WINDOW  # too far from everything seen: a bogus sequence number
    BYTES_ABANDONED_UNDECIDED   # neither side spoke a start line

    # Streams
    SEGMENTS_RETRANSMITTED      # without a byte that is new
    SEGMENTS_OUT_OF_ORDER       # held for the bytes before them
    SEGMENTS_SNAPPED            # the snaplen cut their payload
    OVERLAP_CONFLICTS           # overlapping bytes that differ; the first were kept
    GAPS
    GAP_BYTES

    # flows_opened + flows_resumed = flows_closed + idle + evicted_* + stopped + replaced + flows (a gauge)
    FLOWS_OPENED
    FLOWS_RESUMED               # read on after they were closed, since their peers ignored the FIN or RST
    FLOWS_CLOSED
    FLOWS_IDLE
    FLOWS_EVICTED_SILENT        # for the connection or the memory limit: flows without payload go first
    FLOWS_EVICTED_CAPACITY      # for the connection limit: the flow that was idle longest
    FLOWS_EVICTED_MEMORY        # for the memory limit: the flow that was idle longest
    FLOWS_STOPPED               # open at flush()
    FLOWS_REPLACED              # the port was used again
    ENDS_IGNORED                # FIN or RST that the peers ignored
    HOLDS_EVICTED               # for the memory limit: out-of-order bytes of the direction that holds most
    BODIES_EVICTED              # for the memory limit: the kept body of the open message that has most
    FLOWS_SAMPLED_OUT
    FLOWS_OWN
    FLOWS_TLS
    FLOWS_HTTP2                 # recognised by the HTTP/1 session, so that they are not read
    FLOWS_HTTP2_READ
    FLOWS_OTHER_PROTOCOL
    FLOWS_UNDECIDED
    FLOWS_TUNNEL
    FLOWS_PROXIED               # began with a PROXY protocol header
    FLOWS_OTHER_SERVER          # a flow whose server port is not captured

    # Messages
    MESSAGES_REQUEST            # emitted requests
    MESSAGES_RESPONSE           # emitted responses
    INCOMPLETE_FIRST            # one for each of marks.Incomplete but WHOLE
    MESSAGES_RESYNCED = INCOMPLETE_FIRST + INCOMPLETE_COUNT
    MESSAGES_TENTATIVE_DROPPED  # read after a gap and then contradicted by the other side
    RESPONSES_UNPAIRED
    RESPONSES_EARLY             # came before the head of the request that they answer was whole
    REQUESTS_UNANSWERED         # their connection ended first, or a later request was answered first
    RESPONSES_INFORMATIONAL     # 1xx but 101
    INFORMATIONAL_ORPHANED      # 1xx whose final response never came
    RESPONSES_TAKEN_BODYLESS    # unpaired, and a status line followed the head: probably answers to HEAD
    HEADS_FAST                  # of the plain grammar, read by the core
    HEADS_H11                   # read by h11
    HEADS_REFUSED               # emitted as malformed: a line that is no field may frame the body
    HEADS_CUT                   # ended before their start line did, so that there was nothing to emit
    START_LINES_MALFORMED
    MESSAGES_LONG               # open for 60 s
    EVENTS_DROPPED              # not logged: more than the limit between two calls of FlowTable.events()

    ANOMALY_FIRST               # one for each of marks.Anomaly
    COUNTERS_END = ANOMALY_FIRST + ANOMALY_COUNT
