"""The names of the core's counters, in the order of counters.pxd."""

from sniffer_core.base.marks import ANOMALIES, INCOMPLETE, counter


def _names():
    for each in Counter:
        if each.name == "INCOMPLETE_FIRST":
            yield from [counter("incomplete_", word) for word in INCOMPLETE]
        elif each.name == "ANOMALY_FIRST":
            yield from [counter("anomaly_", word) for word in ANOMALIES]
        elif each.name != "COUNTERS_END":
            yield each.name.lower()


NAMES: tuple = tuple(_names())
