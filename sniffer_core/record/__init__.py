"""From a message to what leaves the core: redacted, as JSON or as a Python object."""
