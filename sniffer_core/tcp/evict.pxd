# Keeps a table within its limits of connections and of memory.

from sniffer_core.tcp.table cimport Table

cdef void make_room(Table* table) noexcept nogil
    # Removes flows until one more can be entered without exceeding the limit.
cdef void relieve(Table* table) noexcept nogil
    # Frees memory in the order of docs/internals/ARCHITECTURE.md, down to an eighth below the limit, so that it is
    # called rarely.
