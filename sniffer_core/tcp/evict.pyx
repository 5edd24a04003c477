"""Keeps a table within its limits; see evict.pxd."""

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free, qsort

from sniffer_core.base.counters cimport Counter
from sniffer_core.base.marks cimport INCOMPLETE_EVICTED_
from sniffer_core.protocol cimport CLIENT, SERVER, Session
from sniffer_core.tcp.flow cimport end_flow, relieve_half
from sniffer_core.tcp.table cimport (
    CREATED, MODE_READ, MODE_UNDECIDED, Flow, Half, Table, drop_late, ignore, leave, used)

cdef enum Relief:
    RELIEF_HELD = 0             # bytes that streams hold
    RELIEF_SESSIONS = 1         # what Protocol.relieve() gives back

cdef struct Weighed:
    int64_t weight
    Half* half


cdef void make_room(Table* table) noexcept nogil:
    while table.total >= table.max_flows and table.closed.head != NULL:
        leave(table, table.closed.head)
    while table.live >= table.max_flows:
        if table.silent.head != NULL:
            end_flow(table, table.silent.head, INCOMPLETE_EVICTED_, <int>Counter.FLOWS_EVICTED_SILENT)
        else:
            end_flow(table, table.recent.head, INCOMPLETE_EVICTED_, <int>Counter.FLOWS_EVICTED_CAPACITY)


cdef int heavier(const void* left, const void* right) noexcept nogil:
    cdef int64_t a = (<const Weighed*>left).weight
    cdef int64_t b = (<const Weighed*>right).weight
    return -1 if a > b else (1 if a < b else 0)


cdef int64_t weigh(const Half* half, Relief relief) noexcept nogil:
    """Bytes of memory that a half can give back."""
    cdef const Flow* flow = half.flow
    cdef const Session* session = flow.session
    if relief == RELIEF_HELD:
        return half.stream.held_memory if flow.mode <= MODE_UNDECIDED else 0
    if flow.mode != MODE_READ or session == NULL or session.protocol.weight == NULL:
        return 0
    return session.protocol.weight(session, SERVER if half.direction == flow.server else CLIENT)


cdef void relieve_heaviest(Table* table, int64_t goal, Relief relief) noexcept nogil:
    """Relieves the halves in order of what they can give back, largest first, until `goal` is reached."""
    cdef Weighed* weighed
    cdef Flow* flow = table.created.head
    cdef size_t count = 0
    cdef size_t i
    cdef int d
    cdef int64_t weight
    cdef Half* half
    weighed = <Weighed*>calloc(2 * table.total + 1, sizeof(Weighed))
    if weighed == NULL:
        return
    while flow != NULL:
        for d in range(2):
            weight = weigh(&flow.half[d], relief)
            if weight:
                weighed[count].weight = weight
                weighed[count].half = &flow.half[d]
                count += 1
        flow = flow.links[CREATED].next
    qsort(weighed, count, sizeof(Weighed), &heavier)
    for i in range(count):
        if used(table) <= goal:
            break
        half = weighed[i].half
        flow = half.flow
        if relief == RELIEF_SESSIONS:
            if weigh(half, relief):
                flow.session.protocol.relieve(flow.session, SERVER if half.direction == flow.server else CLIENT)
        elif half.stream.count:
            table.context.counters[<int>Counter.HOLDS_EVICTED] += 1
            if flow.mode == MODE_UNDECIDED:
                table.context.counters[<int>Counter.FLOWS_UNDECIDED] += 1
                ignore(table, flow, <int>Counter.BYTES_ABANDONED_UNDECIDED)
            else:
                relieve_half(table, flow, half, 0)
    free(weighed)


cdef void relieve(Table* table) noexcept nogil:
    cdef int64_t goal = table.memory_limit - table.memory_limit // 8
    cdef Flow* flow
    while used(table) > goal and table.closed.head != NULL:
        leave(table, table.closed.head)
    flow = table.created.head
    while used(table) > goal and table.late and flow != NULL:
        drop_late(table, &flow.half[0])
        drop_late(table, &flow.half[1])
        flow = flow.links[CREATED].next
    while used(table) > goal and table.silent.head != NULL:
        end_flow(table, table.silent.head, INCOMPLETE_EVICTED_, <int>Counter.FLOWS_EVICTED_SILENT)
    if used(table) > goal:
        relieve_heaviest(table, goal, RELIEF_HELD)
    if used(table) > goal:
        relieve_heaviest(table, goal, RELIEF_SESSIONS)
    while used(table) > goal and table.recent.head != NULL:
        end_flow(table, table.recent.head, INCOMPLETE_EVICTED_, <int>Counter.FLOWS_EVICTED_MEMORY)
