"""Hypothesis for the core's tests: bounded, and with `CI` in the environment the same examples in every run."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "core", max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.register_profile("ci", parent=settings.get_profile("core"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "core")
