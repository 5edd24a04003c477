"""Faults around the daemon, and checks of its promises."""
