"""What only tests call: see testing.pyi."""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from sniffer_core cimport core
from sniffer_core.core cimport FlowTable
from sniffer_core.tcp.table cimport Key, keyed_hash

# ---- tcp -------------------------------------------------------------------------------------------------------------

def leaked():
    """See testing.pyi."""
    return core.blocks_leaked


def starve(FlowTable table, int64_t number):
    """See testing.pyi."""
    cdef int64_t before = table.table.context.pool.spare
    table.table.context.pool.spare = number
    return before


def hashed(FlowTable table, bytes key, bytes secret=None):
    """See testing.pyi."""
    cdef Key copied
    cdef uint64_t[2] chosen
    assert len(key) == sizeof(Key)
    memcpy(&copied, <char*>key, sizeof(Key))
    if secret is None:
        return keyed_hash(table.table.secret, &copied)
    assert len(secret) == sizeof(chosen)
    memcpy(chosen, <char*>secret, sizeof(chosen))
    return keyed_hash(chosen, &copied)
