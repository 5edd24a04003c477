"""Turns a message into what leaves the core: redacted, as JSON or as a Python object."""
