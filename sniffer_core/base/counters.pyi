"""The names of the core's counters, in the order of counters.pxd."""

NAMES: tuple[str, ...]
