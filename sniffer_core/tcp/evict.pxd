# Keeps a table within its limits: the number of connections, and the bytes of memory.

from sniffer_core.tcp.table cimport Table

cdef void make_room(Table* table) noexcept nogil
    # One more flow is about to come: keeps the number of flows below its limit.
cdef void relieve(Table* table) noexcept nogil
    # The memory limit is passed: gives back in the documented order, to an eighth below it, so that it is done rarely.
