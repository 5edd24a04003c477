"""The names of the core's counters, in the order of counters.pxd."""

NAMES: tuple = tuple(counter.name.lower() for counter in Counter if counter.name != "COUNTERS_END")
