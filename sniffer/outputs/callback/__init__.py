"""A function that is called with each message (library only)."""
