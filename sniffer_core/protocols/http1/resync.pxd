# Finds a message after bytes were lost or could not be read, and start lines that span several segments.
#
# A message is looked for at two kinds of places: the first byte of a segment, where most programs begin one, and
# Parser.boundary, which the other side's ACK marks as a message's end. At a boundary the message is `sure`. Elsewhere
# it is a *candidate*, which is given up as soon as a line of its head is no field.
#
# A candidate's start line may be longer than its segment (a long URL). Then the message may also begin with one of the
# next segments, and what came before is the end of a body. So every such place is kept as an Opening until the line
# ends. Measured on captures with 2 to 8 KB URLs: without start lines over several segments, 5 % of the requests are
# lost at 1 % packet loss, and 16 % at 5 %. Without the later openings few more are lost (up to 3 %), but the text of a
# body and the start line behind it are read as one request with a target that was never sent.

from libc.stdint cimport uint32_t

from sniffer_core.protocols.http1.head cimport Head
from sniffer_core.protocols.http1.state cimport Parser
from sniffer_core.tcp.stream cimport Run

cdef enum Found:
    FOUND_NOTHING = 0       # the run is skipped
    FOUND_START = 1         # a start line may begin at the front of the run, and is incomplete
    FOUND_LINE = 2          # a whole start line begins the run, and the head is incomplete
    FOUND_HEAD = 3          # a whole head begins the run
    FOUND_PROTOCOL = 4      # the direction speaks parser.protocol, which is not HTTP/1

cdef Found find_message(Parser* parser, Run* run, Head* head, bint* sure) noexcept nogil
    # Skips to the next place where a message may begin. `head` describes as much of its head as was found. `sure`: the
    # place is a boundary.

cdef void skip_on(Parser* parser, Run* run) noexcept nogil
    # Skips the front of the run, up to the next place where a message may begin.

cdef void open_at(Parser* parser, Run* run, bint sure) noexcept nogil
    # Adds an opening for a start line that may begin at the front of the run, just before the run is buffered.

cdef enum Scan:
    SCAN_MORE = 0           # the start line is incomplete
    SCAN_FOUND = 1          # the buffer now begins with a whole start line
    SCAN_NONE = 2           # no start line can begin in the buffer

cdef Scan scan_line(Parser* parser, uint32_t at) noexcept nogil
    # Reads buffer[at:], the newest bytes of an incomplete start line.

cdef Scan scan_odd_line(Parser* parser, uint32_t at) noexcept nogil
    # The same for a line that scan_line() rejected but that is due at the front of the buffer: it may be an odd one.

cdef bint drop_first_opening(Parser* parser) noexcept nogil
    # Gives up the first opening when the buffer is full without a whole start line. False: there is no other opening.
