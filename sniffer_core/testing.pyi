"""What only tests call."""

from sniffer_core.core import FlowTable

def leaked() -> int:
    """Blocks of memory that tables still had when they were freed, all of this process together."""

def starve(table: FlowTable, number: int) -> int:
    """From now on, allocation `number` (from 1; 0 none) gets no memory; returns what is left of the last."""

def hashed(table: FlowTable, key: bytes, secret: bytes | None = None) -> int:
    """The hash of a key of 40 bytes, with the table's secret or with this one of 16 bytes."""
