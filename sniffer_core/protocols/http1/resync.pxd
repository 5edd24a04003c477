# Finding a message after bytes were lost or could not be read, and start lines that come in several segments.
#
# A message is looked for at two kinds of places: at the first byte of a segment, where most programs begin one, and at
# Parser.boundary, which the other side's ACK marks as a message's end. At a boundary it is `sure`; elsewhere it is a
# *candidate*, and none as soon as a line of its head is no field.
#
# A candidate's start line may be longer than its segment (a long URL), and each segment that follows may be the one
# that the message begins with: what came before it is then the end of a body. So every such place is kept as an Opening
# until the line ends. Measured on captures with 2 to 8 KB URLs: without start lines over several segments 5 % of the
# requests are lost at 1 % packet loss, and 16 % at 5 %. Without the later openings few more are lost (up to 3 %), but
# text of a body and the start line behind it are taken for one request with a target that nobody sent.

from libc.stdint cimport uint32_t

from sniffer_core.protocols.http1.head cimport Head
from sniffer_core.protocols.http1.state cimport Parser
from sniffer_core.tcp.stream cimport Run

cdef enum Found:
    FOUND_NOTHING = 0       # the run is skipped
    FOUND_START = 1         # a start line may begin at the front of the run, and does not end in it
    FOUND_LINE = 2          # a start line begins there, and its head does not end in the run
    FOUND_HEAD = 3          # a whole head begins there
    FOUND_PROTOCOL = 4      # parser.protocol, which is not HTTP/1, is spoken

cdef Found find_message(Parser* parser, Run* run, Head* head, bint* sure) noexcept nogil
    # Skips to the next place where a message may begin. Its head is described in `head` as far as it was found.

cdef void skip_on(Parser* parser, Run* run) noexcept nogil
    # Skips the front of the run, up to the next place where a message may begin.

cdef void open_at(Parser* parser, Run* run, bint sure) noexcept nogil
    # A start line may begin at the front of the run, which the buffer is about to take.

cdef enum Scan:
    SCAN_MORE = 0           # the start line is not whole yet
    SCAN_FOUND = 1          # the buffer begins with one
    SCAN_NONE = 2           # nothing in the buffer can begin one

cdef Scan scan_line(Parser* parser, uint32_t at) noexcept nogil
    # Reads buffer[at:], the newest bytes of a start line that is not whole yet.

cdef Scan scan_odd_line(Parser* parser, uint32_t at) noexcept nogil
    # The same for a line that scan_line() refused: it may be an odd one at the front of the buffer, where one is due.

cdef bint drop_first_opening(Parser* parser) noexcept nogil
    # The buffer is full and holds no whole start line: gives up what began first. False: there is nothing else.
